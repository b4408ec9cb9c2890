#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/jobs/jobs.h"
#include "agent/jobs/uv_store.h"
#include "common/insist.h"
#include "common/sys/sys.h"

/* One store in a directory of its own, and what its callbacks said. */
struct fixture {
    char dir[64];
    uv_loop_t uv;
    struct loop loop;
    struct job_store *s;
    struct ulid_gen gen;
    unsigned answers;
    int status;
    bool replayed, created, changed, more, has_run, has_spec;
    struct run run;
    struct job *job;
    size_t n;
    struct run *runs;
    struct job_store_gone gone[1000];
    char names[16][RUN_JOB_CAP];
    struct job_store_stats stats;
    struct job_store_job_stats jobs[8];
};

static const int64_t T0 = 1700000000000000;

static void open_store(struct fixture *f, struct job_store_config cfg)
{
    struct err e = { 0 };

    cfg.dir = f->dir;
    assert_int_equal(uv_loop_init(&f->uv), 0);
    assert_int_equal(loop_init(&f->loop, &f->uv), 0);
    int r = job_store_open(&f->loop, &cfg, &f->s, &e);
    if (r != 0) {
        fail_msg("open: %s", err_text(&e));
    }
}

static void closed(void *arg)
{
    *(bool *)arg = true;
}

static void close_store(struct fixture *f)
{
    bool is_closed = false;

    job_store_close(f->s, closed, &is_closed);
    uv_run(&f->uv, UV_RUN_DEFAULT);
    assert_true(is_closed);
    loop_close(&f->loop);
    uv_run(&f->uv, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->uv), 0);
    f->s = NULL;
}

static struct fixture *make_with(struct job_store_config cfg)
{
    struct fixture *f = test_calloc(1, sizeof *f);

    (void)snprintf(f->dir, sizeof f->dir, "/tmp/agent-store-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->gen.node = 7;
    f->runs = test_calloc(JOB_STORE_LIST_MAX, sizeof f->runs[0]);
    open_store(f, cfg);
    return f;
}

static struct fixture *make(void)
{
    return make_with((struct job_store_config){ 0 });
}

static void unmake(struct fixture *f)
{
    if (f->s != NULL) {
        close_store(f);
    }
    job_free(f->job);
    assert_int_equal(sys_remove_tree(AT_FDCWD, f->dir, NULL), 0);
    test_free(f->runs);
    test_free(f);
}

static void await(struct fixture *f, unsigned answers)
{
    while (f->answers < answers) {
        assert_int_not_equal(uv_run(&f->uv, UV_RUN_ONCE), 0);
    }
    f->answers = 0;
}

/* --- callbacks --- */

static void on_done(void *arg, int status)
{
    struct fixture *f = arg;

    f->status = status;
    f->answers++;
}

static void on_accept(void *arg, int status, bool replayed, const struct run *known)
{
    struct fixture *f = arg;

    f->replayed = replayed;
    f->has_run = known != NULL;
    if (known != NULL) {
        f->run = *known;
    }
    on_done(arg, status);
}

static void on_run(void *arg, int status, const struct run *run, const struct job *spec)
{
    struct fixture *f = arg;

    f->has_run = run != NULL;
    f->has_spec = spec != NULL;
    f->job = job_free(f->job);
    if (run != NULL) {
        f->run = *run;
    }
    if (spec != NULL) {
        f->job = job_dup(spec);
    }
    on_done(arg, status);
}

static void on_runs(void *arg, int status, const struct run *runs, size_t n, bool more)
{
    struct fixture *f = arg;

    f->n = n;
    f->more = more;
    memcpy(f->runs, runs, n * sizeof runs[0]);
    on_done(arg, status);
}

static void on_piece(void *arg, int status, const struct run *runs, size_t n, bool more)
{
    struct fixture *f = arg;

    (void)more;
    assert_int_equal(status, 0);
    memcpy(f->runs + f->n, runs, n * sizeof runs[0]);
    f->n += n;
}

static void on_job(void *arg, int status, const struct job *job, bool created, bool changed)
{
    struct fixture *f = arg;

    f->job = job_free(f->job);
    f->job = job != NULL ? job_dup(job) : NULL;
    f->created = created;
    f->changed = changed;
    on_done(arg, status);
}

static void on_jobs(void *arg, int status, const struct job *const *jobs, size_t n, bool more)
{
    struct fixture *f = arg;

    f->n = n;
    f->more = more;
    for (size_t i = 0; i < n && i < ARRAY_LEN(f->names); i++) {
        memcpy(f->names[i], jobs[i]->name, sizeof f->names[i]);
    }
    on_done(arg, status);
}

static void on_gone(void *arg, int status, const struct job_store_gone *gone, size_t n, bool more)
{
    struct fixture *f = arg;

    f->n = n;
    f->more = more;
    memcpy(f->gone, gone, n * sizeof gone[0]);
    on_done(arg, status);
}

static void on_stats(void *arg, int status, const struct job_store_stats *stats,
                     const struct job_store_job_stats *jobs, size_t n)
{
    struct fixture *f = arg;

    assert_non_null(stats);
    f->stats = *stats;
    f->n = n;
    memcpy(f->jobs, jobs, n * sizeof jobs[0]);
    on_done(arg, status);
}

/* --- helpers --- */

static struct job *job_of(const char *name, const char *text)
{
    struct settings *set = test_calloc(1, sizeof *set);
    struct job_problems *problems = test_calloc(1, sizeof *problems);
    struct job *j = NULL;
    struct err e = { 0 };

    set->sandbox.memory = 64 << 20;
    set->sandbox.disk_bytes = 1 << 30;
    set->sandbox.pids = 64;
    set->sandbox.timeout_ms = 60000;
    int r = job_parse(str_of(text), name[0] != '\0' ? JOB_REGISTERED : JOB_ONE_OFF, str_of(name),
                      NULL, set, &j, problems, &e);
    if (r != 0) {
        fail_msg("%s", err_text(&e));
    }
    test_free(problems);
    test_free(set);
    return j;
}

static struct run new_run(struct fixture *f, const char *job, int64_t now_us)
{
    struct run r;

    run_init(&r, ulid_next(&f->gen, (uint64_t)now_us / 1000, 0x123456789abcdef), now_us);
    run_set_text(r.job, sizeof r.job, str_of(job));
    run_set_text(r.image, sizeof r.image, STR("team/x:1"));
    r.revision = job[0] != '\0';
    r.payload_bytes = 100;
    return r;
}

static int accept_run(struct fixture *f, const struct run *r, const char *key)
{
    assert_int_equal(job_store_accept_run(f->s, r, NULL, str_of(key), on_accept, f), 0);
    await(f, 1);
    return f->status;
}

static int put(struct fixture *f, const struct run *r, const struct run *former)
{
    assert_int_equal(job_store_put_run(f->s, r, former, on_done, f), 0);
    await(f, 1);
    return f->status;
}

static int get(struct fixture *f, struct ulid id)
{
    assert_int_equal(job_store_get_run(f->s, id, on_run, f), 0);
    await(f, 1);
    return f->status;
}

static void finish(struct run *r, enum run_state end, int64_t now_us)
{
    run_move(r, RUN_PLACED, now_us);
    run_move(r, RUN_PREPARING, now_us);
    run_move(r, RUN_RUNNING, now_us);
    run_move(r, end, now_us);
    r->reason = RUN_REASON_EXIT;
    r->exit_code = end == RUN_SUCCEEDED ? 0 : 1;
}

/* --- runs --- */

static void runs_come_back_as_they_went(void **state)
{
    struct fixture *f = make();
    struct run r = new_run(f, "", T0);
    struct job *spec = job_of("", "{\"image\":\"a:1\",\"command\":[\"x\"],\"payload\":\"secret\"}");

    (void)state;
    memset(r.request_hash, 0xab, sizeof r.request_hash);
    run_set_text(r.detail, sizeof r.detail, STR("caf\xc3\xa9 \"quoted\"\n"));
    r.usage = (struct run_usage){ .measured = 1, .cpu_user_us = 123456, .samples = 9 };
    assert_int_equal(job_store_accept_run(f->s, &r, spec, STR(""), on_accept, f), 0);
    assert_int_equal(f->answers, 0); /* never inside the call */
    await(f, 1);
    assert_int_equal(f->status, 0);
    assert_false(f->replayed);
    assert_int_equal(get(f, r.id), 0);
    assert_true(f->has_spec);
    assert_string_equal(f->job->command.v[0], "x");
    assert_false(f->job->has_payload);
    assert_memory_equal(f->run.request_hash, r.request_hash, sizeof r.request_hash);
    assert_string_equal(f->run.detail, r.detail);
    assert_int_equal(f->run.usage.cpu_user_us, 123456);
    /* Again under the same id: refused, and the first stays. */
    assert_int_equal(accept_run(f, &r, ""), -EALREADY);
    r.id.b[15] ^= 1;
    assert_int_equal(get(f, r.id), -ENOENT);
    assert_false(f->has_run);
    job_free(spec);
    unmake(f);
}

static void keys_give_one_run(void **state)
{
    struct fixture *f = make();
    struct run a = new_run(f, "j", T0);
    struct run b = new_run(f, "j", T0 + 1000);

    (void)state;
    assert_int_equal(accept_run(f, &a, "key-1"), 0);
    assert_int_equal(accept_run(f, &b, "key-1"), 0);
    assert_true(f->replayed);
    assert_true(ulid_eq(f->run.id, a.id));
    assert_int_equal(get(f, b.id), -ENOENT);
    b.request_hash[0] = 1;
    assert_int_equal(accept_run(f, &b, "key-1"), -EEXIST);
    assert_true(f->has_run && ulid_eq(f->run.id, a.id));
    assert_int_equal(accept_run(f, &b, "key-2"), 0);
    assert_false(f->replayed);
    /* After a day it is a new key. */
    struct run c = new_run(f, "j", T0 + (int64_t)25 * 3600 * 1000000);
    assert_int_equal(accept_run(f, &c, "key-1"), 0);
    assert_false(f->replayed);
    /* Two at once are in one transaction, and still one run. */
    struct run d = new_run(f, "j", T0 + 5000);
    struct run e = new_run(f, "j", T0 + 6000);
    (void)job_store_accept_run(f->s, &d, NULL, STR("both"), on_accept, f);
    (void)job_store_accept_run(f->s, &e, NULL, STR("both"), on_accept, f);
    await(f, 2);
    assert_true(f->replayed && ulid_eq(f->run.id, d.id));
    unmake(f);
}

static void puts_never_go_back(void **state)
{
    struct fixture *f = make();
    struct run r = new_run(f, "j", T0);
    struct run old = r;

    (void)state;
    assert_int_equal(put(f, &r, NULL), -ENOENT);
    assert_int_equal(accept_run(f, &r, ""), 0);
    finish(&r, RUN_FAILED, T0 + 10);
    struct run former = r;
    run_move(&r, RUN_QUEUED, T0 + 20);
    r.attempt = 2;
    assert_int_equal(put(f, &r, &former), 0);
    assert_int_equal(put(f, &old, NULL), -ESTALE);
    finish(&r, RUN_SUCCEEDED, T0 + 30);
    struct run running = r;
    running.state = RUN_RUNNING;
    assert_int_equal(put(f, &r, NULL), 0);
    assert_int_equal(put(f, &running, NULL), -ESTALE);
    assert_int_equal(get(f, r.id), 0);
    assert_int_equal(f->run.state, RUN_SUCCEEDED);
    (void)job_store_attempts(f->s, r.id, on_runs, f);
    await(f, 1);
    assert_int_equal(f->n, 1);
    assert_int_equal(f->runs[0].attempt, 1);
    assert_int_equal(f->runs[0].state, RUN_FAILED);
    assert_int_equal(f->runs[0].exit_code, 1);
    unmake(f);
}

static void lazy_puts_arrive(void **state)
{
    struct fixture *f = make();
    struct run r = new_run(f, "j", T0);

    (void)state;
    assert_int_equal(accept_run(f, &r, ""), 0);
    run_move(&r, RUN_PLACED, T0 + 1);
    assert_int_equal(job_store_put_run(f->s, &r, NULL, NULL, NULL), 0);
    uint64_t until = sys_mono_ms() + 5000;
    do {
        assert_int_equal(get(f, r.id), 0);
        assert_true(sys_mono_ms() < until);
    } while (f->run.state != RUN_PLACED);
    /* In order with a durable one that follows at once. */
    run_move(&r, RUN_PREPARING, T0 + 2);
    assert_int_equal(job_store_put_run(f->s, &r, NULL, NULL, NULL), 0);
    run_move(&r, RUN_RUNNING, T0 + 3);
    assert_int_equal(put(f, &r, NULL), 0);
    assert_int_equal(get(f, r.id), 0);
    assert_int_equal(f->run.state, RUN_RUNNING);
    /* One that fails is counted. */
    r.id.b[0] ^= 1;
    assert_int_equal(job_store_put_run(f->s, &r, NULL, NULL, NULL), 0);
    struct job_store_counters n = { 0 };
    while (n.lazy_failed == 0) {
        (void)uv_run(&f->uv, UV_RUN_ONCE);
        job_store_counters(f->s, &n);
    }
    unmake(f);
}

static void list(struct fixture *f, const char *job, uint32_t states, struct ulid after,
                 size_t limit)
{
    struct job_store_filter filter = { str_of(job), states, after, limit };

    assert_int_equal(job_store_list_runs(f->s, &filter, on_runs, f), 0);
    await(f, 1);
    assert_int_equal(f->status, 0);
}

static void lists_are_newest_first_and_paged(void **state)
{
    struct fixture *f = make();
    struct ulid none = { { 0 } };
    struct run r[20];

    (void)state;
    for (size_t i = 0; i < 20; i++) {
        r[i] = new_run(f, i % 2 == 0 ? "even" : "odd", T0 + (int64_t)i * 1000);
        assert_int_equal(accept_run(f, &r[i], ""), 0);
        if (i % 5 == 0) {
            finish(&r[i], i % 10 == 0 ? RUN_SUCCEEDED : RUN_FAILED, T0 + 100);
            assert_int_equal(put(f, &r[i], NULL), 0);
        }
    }
    list(f, "", 0, none, 7);
    assert_int_equal(f->n, 7);
    assert_true(f->more);
    for (size_t i = 0; i < 7; i++) {
        assert_true(ulid_eq(f->runs[i].id, r[19 - i].id));
    }
    list(f, "", 0, f->runs[6].id, 13);
    assert_int_equal(f->n, 13);
    assert_false(f->more);
    assert_true(ulid_eq(f->runs[12].id, r[0].id));
    list(f, "even", 0, none, 100);
    assert_int_equal(f->n, 10);
    list(f, "", BIT(RUN_SUCCEEDED) | BIT(RUN_FAILED), none, 100);
    assert_int_equal(f->n, 4);
    assert_true(ulid_eq(f->runs[0].id, r[15].id) && ulid_eq(f->runs[3].id, r[0].id));
    list(f, "even", BIT(RUN_SUCCEEDED), none, 1);
    assert_int_equal(f->n, 1);
    assert_true(f->more && ulid_eq(f->runs[0].id, r[10].id));
    list(f, "nobody's", 0, none, 100);
    assert_int_equal(f->n, 0);
    unmake(f);
}

static void unfinished_runs_are_loaded_in_pieces(void **state)
{
    struct fixture *f = make();

    (void)state;
    for (size_t i = 0; i < 600; i++) {
        struct run r = new_run(f, "j", T0 + (int64_t)i * 1000);
        (void)job_store_accept_run(f->s, &r, NULL, STR(""), on_accept, f);
        if (i % 3 == 0) {
            finish(&r, RUN_SUCCEEDED, T0);
            (void)job_store_put_run(f->s, &r, NULL, NULL, NULL);
        }
    }
    await(f, 600);
    close_store(f);
    open_store(f, (struct job_store_config){ 0 });
    f->n = 0;
    assert_int_equal(job_store_load_unfinished(f->s, on_piece, on_done, f), 0);
    await(f, 1);
    assert_int_equal(f->n, 400);
    for (size_t i = 1; i < f->n; i++) {
        assert_true(ulid_cmp(f->runs[i - 1].id, f->runs[i].id) < 0);
    }
    unmake(f);
}

/* --- jobs --- */

static int put_job(struct fixture *f, const char *name, const char *text, uint32_t if_match)
{
    struct job *j = job_of(name, text);

    assert_int_equal(job_store_put_job(f->s, j, if_match, T0, on_job, f), 0);
    job_free(j);
    await(f, 1);
    return f->status;
}

static void revisions_grow_only_on_change(void **state)
{
    struct fixture *f = make();

    (void)state;
    assert_int_equal(put_job(f, "enc", "{\"image\":\"a:1\"}", 1), -EAGAIN);
    assert_int_equal(put_job(f, "enc", "{\"image\":\"a:1\"}", 0), 0);
    assert_true(f->created && f->changed);
    assert_int_equal(f->job->revision, 1);
    assert_int_equal(put_job(f, "enc", "{ \"image\" : \"a:1\", \"priority\": 0 }", 1), 0);
    assert_false(f->created || f->changed);
    assert_int_equal(f->job->revision, 1);
    assert_int_equal(put_job(f, "enc", "{\"image\":\"a:2\"}", 1), 0);
    assert_true(!f->created && f->changed);
    assert_int_equal(f->job->revision, 2);
    assert_int_equal(put_job(f, "enc", "{\"image\":\"a:3\"}", 1), -EAGAIN);
    (void)job_store_get_job(f->s, STR("enc"), 1, on_job, f);
    await(f, 1);
    assert_string_equal(f->job->image, "a:1");
    (void)job_store_get_job(f->s, STR("enc"), 0, on_job, f);
    await(f, 1);
    assert_string_equal(f->job->image, "a:2");
    assert_int_equal(f->job->created_us, T0);
    (void)job_store_delete_job(f->s, STR("enc"), 1, on_done, f);
    await(f, 1);
    assert_int_equal(f->status, -EAGAIN);
    (void)job_store_delete_job(f->s, STR("enc"), 2, on_done, f);
    await(f, 1);
    assert_int_equal(f->status, 0);
    (void)job_store_delete_job(f->s, STR("enc"), 0, on_done, f);
    await(f, 1);
    assert_int_equal(f->status, -ENOENT);
    (void)job_store_get_job(f->s, STR("enc"), 0, on_job, f);
    await(f, 1);
    assert_int_equal(f->status, -ENOENT);
    assert_int_equal(put_job(f, "enc", "{\"image\":\"a:2\"}", 0), 0);
    assert_true(f->created);
    assert_int_equal(f->job->revision, 3);
    unmake(f);
}

static void jobs_are_listed_by_name(void **state)
{
    static const char *const names[] = { "b", "a", "d", "c" };
    struct fixture *f = make();

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(put_job(f, names[i], "{\"image\":\"a:1\"}", 0), 0);
    }
    (void)job_store_list_jobs(f->s, STR(""), 3, on_jobs, f);
    await(f, 1);
    assert_int_equal(f->n, 3);
    assert_true(f->more);
    assert_string_equal(f->names[0], "a");
    (void)job_store_list_jobs(f->s, str_of(f->names[2]), 3, on_jobs, f);
    await(f, 1);
    assert_int_equal(f->n, 1);
    assert_false(f->more);
    assert_string_equal(f->names[0], "d");
    unmake(f);
}

static void keep(struct fixture *f, uint64_t age_ms, uint64_t failed_ms, uint64_t bytes)
{
    const struct job_retention k = { .age_ms = age_ms, .failed_ms = failed_ms, .bytes = bytes };

    job_store_set_retention(f->s, &k);
}

static void runs_know_their_document(void **state)
{
    struct fixture *f = make();
    struct run r;

    (void)state;
    assert_int_equal(put_job(f, "enc", "{\"image\":\"a:1\",\"command\":[\"one\"]}", 0), 0);
    job_make_run(f->job, ulid_next(&f->gen, 1700000000000, 5), T0, &r);
    assert_int_equal(accept_run(f, &r, ""), 0);
    assert_int_equal(put_job(f, "enc", "{\"image\":\"a:2\",\"command\":[\"two\"]}", 0), 0);
    (void)job_store_delete_job(f->s, STR("enc"), 0, on_done, f);
    await(f, 1);
    /* Kept as long as the run is. */
    keep(f, 1000, 0, 0);
    (void)job_store_retain(f->s, T0, on_gone, f);
    await(f, 1);
    assert_int_equal(get(f, r.id), 0);
    assert_true(f->has_spec);
    assert_string_equal(f->job->command.v[0], "one");
    (void)job_store_get_job(f->s, STR("enc"), 2, on_job, f);
    await(f, 1);
    assert_int_equal(f->status, -ENOENT);
    unmake(f);
}

/* --- housekeeping --- */

static void retention_is_by_age_and_bytes(void **state)
{
    struct fixture *f = make();
    struct run r[10];

    (void)state;
    for (size_t i = 0; i < 10; i++) {
        r[i] = new_run(f, "j", T0 + (int64_t)i * 1000000);
        assert_int_equal(accept_run(f, &r[i], ""), 0);
        if (i < 8) {
            finish(&r[i], RUN_SUCCEEDED, T0 + (int64_t)i * 1000000);
            assert_int_equal(put(f, &r[i], NULL), 0);
        }
    }
    (void)job_store_stats(f->s, 8, on_stats, f);
    await(f, 1);
    assert_int_equal(f->stats.runs, 10);
    assert_int_equal(f->stats.by_state[RUN_SUCCEEDED], 8);
    assert_int_equal(f->stats.by_state[RUN_QUEUED], 2);
    assert_int_equal(f->stats.kept_bytes, 800);
    assert_true(f->stats.file_bytes > 4096);
    assert_int_equal(f->n, 1);
    assert_string_equal(f->jobs[0].job, "j");
    assert_int_equal(f->jobs[0].by_state[RUN_SUCCEEDED], 8);
    assert_int_equal(f->jobs[0].last_us, r[9].created_us);
    /* Those that ended more than 5 seconds before second 8: 0, 1, 2, 3. */
    keep(f, 4999, 0, 0);
    (void)job_store_retain(f->s, T0 + 8000000, on_gone, f);
    await(f, 1);
    assert_int_equal(f->n, 4);
    assert_true(ulid_eq(f->gone[0].id, r[0].id));
    assert_int_equal(f->gone[0].attempts, 1);
    /* 400 bytes are left; 250 may be: two more go. */
    keep(f, 0, 0, 250);
    (void)job_store_retain(f->s, T0 + 8000000, on_gone, f);
    await(f, 1);
    assert_int_equal(f->n, 2);
    (void)job_store_stats(f->s, 8, on_stats, f);
    await(f, 1);
    assert_int_equal(f->stats.runs, 4);
    assert_int_equal(f->stats.kept_bytes, 200);
    assert_int_equal(get(f, r[9].id), 0);
    unmake(f);
}

static void what_failed_stays_longer(void **state)
{
    static const enum run_state ends[] = { RUN_SUCCEEDED, RUN_FAILED, RUN_CANCELLED, RUN_TIMED_OUT,
                                           RUN_LOST };
    struct fixture *f = make();
    struct run r[ARRAY_LEN(ends)];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        r[i] = new_run(f, "j", T0);
        assert_int_equal(accept_run(f, &r[i], ""), 0);
        finish(&r[i], ends[i], T0);
        assert_int_equal(put(f, &r[i], NULL), 0);
    }
    /* Ten seconds later, five are enough: for those that did not fail. */
    keep(f, 5000, 60000, 0);
    (void)job_store_retain(f->s, T0 + 10000000, on_gone, f);
    await(f, 1);
    assert_int_equal(f->n, 2);
    assert_int_equal(get(f, r[0].id), -ENOENT);
    assert_int_equal(get(f, r[2].id), -ENOENT);
    assert_int_equal(get(f, r[1].id), 0);
    assert_int_equal(get(f, r[4].id), 0);
    /* Too much is too much; then their own time. */
    keep(f, 5000, 60000, 250);
    (void)job_store_retain(f->s, T0 + 10000000, on_gone, f);
    await(f, 1);
    assert_int_equal(f->n, 1);
    keep(f, 5000, 60000, 0);
    (void)job_store_retain(f->s, T0 + 61000000, on_gone, f);
    await(f, 1);
    assert_int_equal(f->n, 2);
    unmake(f);
}

static void a_full_disk_refuses_and_recovers(void **state)
{
    struct fixture *f = make_with((struct job_store_config){ .max_pages = 200 });
    size_t accepted = 0;
    struct run r;

    (void)state;
    do {
        r = new_run(f, "j", T0 + (int64_t)accepted * 1000);
        accepted++;
        assert_true(accepted < 5000);
    } while (accept_run(f, &r, "") == 0);
    assert_int_equal(f->status, -ENOSPC);
    /* What is there can be read; ends still go in, in the place of what they replace. */
    struct ulid none = { { 0 } };
    list(f, "", 0, none, 1000);
    assert_int_equal(f->n, accepted - 1 < 1000 ? accepted - 1 : 1000);
    size_t some = f->n / 2;
    for (size_t i = 0; i < some; i++) {
        struct run end = f->runs[i];
        end.ended_us = T0;
        end.state = RUN_SUCCEEDED;
        if (put(f, &end, NULL) != 0) {
            assert_int_equal(f->status, -ENOSPC);
        }
    }
    keep(f, 1, 0, 0);
    (void)job_store_retain(f->s, T0 + 1000000, on_gone, f);
    await(f, 1);
    assert_int_equal(f->status, 0);
    assert_true(f->n > 0);
    /* There is room again. */
    r = new_run(f, "j", T0 + 9000000);
    assert_int_equal(accept_run(f, &r, ""), 0);
    unmake(f);
}

static void the_floor_refuses_new_work_only(void **state)
{
    struct fixture *f = make();
    struct run r = new_run(f, "j", T0);

    (void)state;
    assert_int_equal(accept_run(f, &r, ""), 0);
    close_store(f);
    open_store(f, (struct job_store_config){ .min_free_bytes = UINT64_MAX });
    assert_true(job_store_is_full(f->s));
    struct run more = new_run(f, "j", T0 + 1000);
    assert_int_equal(accept_run(f, &more, ""), -ENOSPC);
    finish(&r, RUN_SUCCEEDED, T0 + 5);
    assert_int_equal(put(f, &r, NULL), 0);
    unmake(f);
}

static void requests_beyond_the_cap_are_refused(void **state)
{
    struct fixture *f = make_with((struct job_store_config){ .max_pending = 2 });
    struct run r = new_run(f, "j", T0);

    (void)state;
    for (int i = 0; i < 3; i++) {
        (void)job_store_get_run(f->s, r.id, on_run, f);
    }
    await(f, 3);
    assert_int_equal(get(f, r.id), -ENOENT);
    unmake(f);
}

static unsigned full_answers;

static void count_full(void *arg, int status, const struct run *run, const struct job *spec)
{
    (void)arg;
    (void)run;
    (void)spec;
    full_answers += status == -ENOBUFS;
}

static void the_cap_says_enobufs(void **state)
{
    struct fixture *f = make_with((struct job_store_config){ .max_pending = 2 });
    struct run r = new_run(f, "j", T0);

    (void)state;
    full_answers = 0;
    for (int i = 0; i < 5; i++) {
        (void)job_store_get_run(f->s, r.id, count_full, f);
    }
    while (full_answers < 3) {
        assert_int_not_equal(uv_run(&f->uv, UV_RUN_ONCE), 0);
    }
    unmake(f);
    assert_int_equal(full_answers, 3);
}

static void closing_writes_what_waits(void **state)
{
    struct fixture *f = make();
    struct run r = new_run(f, "j", T0);

    (void)state;
    (void)job_store_accept_run(f->s, &r, NULL, STR(""), on_accept, f);
    run_move(&r, RUN_PLACED, T0);
    (void)job_store_put_run(f->s, &r, NULL, NULL, NULL);
    close_store(f);
    assert_int_equal(f->answers, 1);
    assert_int_equal(f->status, 0);
    f->answers = 0;
    open_store(f, (struct job_store_config){ 0 });
    assert_int_equal(get(f, r.id), 0);
    assert_int_equal(f->run.state, RUN_PLACED);
    unmake(f);
}

/* --- versions and crashes --- */

static void in_db(struct fixture *f, const char *sql)
{
    char path[128];
    sqlite3 *c = NULL;
    char *why = NULL;

    (void)snprintf(path, sizeof path, "%s/agent.db", f->dir);
    assert_int_equal(sqlite3_open(path, &c), SQLITE_OK);
    if (sqlite3_exec(c, sql, NULL, NULL, &why) != SQLITE_OK) {
        fail_msg("%s", why);
    }
    assert_int_equal(sqlite3_close(c), SQLITE_OK);
}

static void version_1_is_migrated(void **state)
{
    struct fixture *f = make();
    struct run r = new_run(f, "j", T0);

    (void)state;
    assert_int_equal(accept_run(f, &r, "k"), 0);
    close_store(f);
    in_db(f, "DROP TABLE run_attempt; DROP TABLE copy; DROP TABLE run_merged; DROP TABLE claim;"
             " PRAGMA user_version = 1;");
    open_store(f, (struct job_store_config){ 0 });
    assert_int_equal(get(f, r.id), 0);
    struct run former = r;
    finish(&former, RUN_FAILED, T0);
    r.attempt = 2;
    assert_int_equal(put(f, &r, &former), 0);
    (void)job_store_attempts(f->s, r.id, on_runs, f);
    await(f, 1);
    assert_int_equal(f->n, 1);
    unmake(f);
}

static int try_open(struct fixture *f, struct err *e)
{
    struct job_store_config cfg = { .dir = f->dir };
    struct job_store *s = NULL;
    uv_loop_t uv;
    struct loop loop;

    assert_int_equal(uv_loop_init(&uv), 0);
    assert_int_equal(loop_init(&loop, &uv), 0);
    int r = job_store_open(&loop, &cfg, &s, e);
    loop_close(&loop);
    uv_run(&uv, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&uv), 0);
    return r;
}

static void newer_foreign_and_broken_files_are_refused(void **state)
{
    struct fixture *f = make();
    struct err e = { 0 };
    char path[128];

    (void)state;
    close_store(f);
    in_db(f, "PRAGMA user_version = 99;");
    assert_int_equal(try_open(f, &e), -EPROTONOSUPPORT);
    assert_non_null(strstr(err_text(&e), "newer"));
    in_db(f, "PRAGMA user_version = 3; PRAGMA application_id = 12345;");
    assert_int_equal(try_open(f, &e), -EBADMSG);
    (void)snprintf(path, sizeof path, "%s/agent.db", f->dir);
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_true(fd >= 0);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(write(fd, "not a database! ", 16), 16);
    }
    (void)close(fd);
    assert_int_equal(try_open(f, &e), -EBADMSG);
    assert_non_null(strstr(err_text(&e), "agent.db"));
    unmake(f);
}

/* The child writes and says through the pipe what was acknowledged, until it is killed. */
static struct {
    int fd;
    uint32_t acknowledged;
} crash;

static void crash_acknowledged(void *arg, int status, bool replayed, const struct run *known)
{
    (void)arg;
    (void)replayed;
    (void)known;
    if (status == 0) {
        crash.acknowledged++;
        if (write(crash.fd, &crash.acknowledged, sizeof crash.acknowledged) < 0) {
            _exit(1);
        }
    }
}

static void crash_child(struct fixture *f)
{
    /* Callbacks come in order, so the number of the last one tells them all. */
    for (uint32_t i = 0;; i++) {
        struct run r = new_run(f, "j", T0 + (int64_t)i * 1000);
        (void)job_store_accept_run(f->s, &r, NULL, STR(""), crash_acknowledged, NULL);
        (void)uv_run(&f->uv, i % 16 == 15 ? UV_RUN_ONCE : UV_RUN_NOWAIT);
    }
}

static void after_kill_9_all_that_was_acknowledged_is_there(void **state)
{
    struct fixture *f = make();
    uint32_t last = 0;
    uint32_t v;
    int fds[2];

    (void)state;
    close_store(f);
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)close(fds[0]);
        crash.fd = fds[1];
        open_store(f, (struct job_store_config){ 0 });
        crash_child(f);
    }
    (void)close(fds[1]);
    while (last < 500 && read(fds[0], &v, sizeof v) == (ssize_t)sizeof v) {
        last = v;
    }
    assert_int_equal(kill(pid, SIGKILL), 0);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    while (read(fds[0], &v, sizeof v) == (ssize_t)sizeof v) {
        last = v;
    }
    (void)close(fds[0]);
    assert_true(last >= 500);
    open_store(f, (struct job_store_config){ 0 });
    /* The same generator makes the same ids. */
    for (uint32_t i = 0; i < last; i++) {
        struct run r = new_run(f, "j", T0 + (int64_t)i * 1000);
        assert_int_equal(get(f, r.id), 0);
    }
    (void)job_store_stats(f->s, 8, on_stats, f);
    await(f, 1);
    assert_true(f->stats.runs >= last);
    assert_int_equal(f->stats.by_state[RUN_QUEUED], f->stats.runs);
    unmake(f);
}

static void ten_thousand_accepts(void **state)
{
    enum { N = 10000, BATCH = 64 };
    struct fixture *f = make();
    struct job_store_counters n;

    (void)state;
    uint64_t start = sys_mono_us();
    for (unsigned i = 0; i < N; i += BATCH) {
        unsigned batch = N - i < BATCH ? N - i : BATCH;
        for (unsigned k = 0; k < batch; k++) {
            struct run r = new_run(f, "j", T0 + (int64_t)(i + k) * 1000);
            (void)job_store_accept_run(f->s, &r, NULL, STR(""), on_accept, f);
        }
        await(f, batch);
        assert_int_equal(f->status, 0);
    }
    uint64_t took = sys_mono_us() - start;
    job_store_counters(f->s, &n);
    print_message("%d accepts, %d at a time: %llu per second; %llu commits of %llu us (longest "
                  "%llu us)\n",
                  N, BATCH, (unsigned long long)(N * UINT64_C(1000000) / took),
                  (unsigned long long)n.commits, (unsigned long long)(n.commit_us / n.commits),
                  (unsigned long long)n.commit_max_us);
    assert_int_equal(n.requests, N);
    assert_true(n.commits < N / 4); /* groups, not one by one */
    unmake(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_come_back_as_they_went),
        cmocka_unit_test(keys_give_one_run),
        cmocka_unit_test(puts_never_go_back),
        cmocka_unit_test(lazy_puts_arrive),
        cmocka_unit_test(lists_are_newest_first_and_paged),
        cmocka_unit_test(unfinished_runs_are_loaded_in_pieces),
        cmocka_unit_test(revisions_grow_only_on_change),
        cmocka_unit_test(jobs_are_listed_by_name),
        cmocka_unit_test(runs_know_their_document),
        cmocka_unit_test(retention_is_by_age_and_bytes),
        cmocka_unit_test(what_failed_stays_longer),
        cmocka_unit_test(a_full_disk_refuses_and_recovers),
        cmocka_unit_test(the_floor_refuses_new_work_only),
        cmocka_unit_test(requests_beyond_the_cap_are_refused),
        cmocka_unit_test(the_cap_says_enobufs),
        cmocka_unit_test(closing_writes_what_waits),
        cmocka_unit_test(version_1_is_migrated),
        cmocka_unit_test(newer_foreign_and_broken_files_are_refused),
        cmocka_unit_test(after_kill_9_all_that_was_acknowledged_is_there),
        cmocka_unit_test(ten_thousand_accepts),
    };
    return cmocka_run_group_tests_name("job_store", tests, NULL, NULL);
}
