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

#include "agent/table/sys_table_db.h"
#include "agent/table/uv_table.h"
#include "common/insist.h"
#include "common/json.h"
#include "common/sys/sys.h"

/* Up to three shells on one loop, that send to each other. */
struct fixture {
    char dir[3][64];
    uv_loop_t uv;
    struct loop loop;
    struct table_shell *s[3];
    struct side {
        struct fixture *f;
        size_t i;
    } sides[3];
    unsigned done, closed, changes;
    int status;
    struct list parcels;
    struct loop_defer post;
};

static const char *const names[3] = { "n0", "n1", "n2" };

struct parcel {
    struct list link;
    size_t from, to, n;
    char bytes[];
};

static void send_to(void *arg, struct str peer, struct str bytes, bool reliable)
{
    struct side *from = arg;

    assert_true(reliable || bytes.n <= TABLE_DIRECT_MAX);
    for (size_t i = 0; i < 3; i++) {
        if (str_eqs(peer, names[i])) {
            struct parcel *p = test_malloc(sizeof *p + bytes.n);
            *p = (struct parcel){ .from = from->i, .to = i, .n = bytes.n };
            memcpy(p->bytes, bytes.p, bytes.n);
            list_push_back(&from->f->parcels, &p->link);
            loop_defer_post(&from->f->loop, &from->f->post);
        }
    }
}

static void deliver(struct loop_defer *d)
{
    struct fixture *f = CONTAINER_OF(d, struct fixture, post);

    while (!list_empty(&f->parcels)) {
        struct parcel *p = LIST_ITEM(f->parcels.next, struct parcel, link);
        list_remove(&p->link);
        if (f->s[p->to] != NULL) {
            table_on_message(f->s[p->to], str_of(names[p->from]), (struct str){ p->bytes, p->n });
        }
        test_free(p);
    }
}

static void start(struct fixture *f, size_t i)
{
    struct err e = { .code = 0 };
    f->sides[i] = (struct side){ f, i };
    struct table_options opt = { .loop = &f->loop,
                                 .dir = f->dir[i],
                                 .name = str_of(names[i]),
                                 .send = send_to,
                                 .send_arg = &f->sides[i] };

    if (table_start(&opt, &f->s[i], &e) != 0) {
        fail_msg("%s", err_text(&e));
    }
}

static void introduce(struct fixture *f, size_t a, size_t b)
{
    table_on_member(f->s[a], str_of(names[b]), TABLE_MEMBER_UP, true);
    table_on_member(f->s[b], str_of(names[a]), TABLE_MEMBER_UP, true);
}

static struct fixture *make(void)
{
    struct fixture *f = test_calloc(1, sizeof *f);

    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(f->dir[i], sizeof f->dir[i], "/tmp/agent-table-XXXXXX");
        assert_non_null(mkdtemp(f->dir[i]));
    }
    assert_int_equal(uv_loop_init(&f->uv), 0);
    assert_int_equal(loop_init(&f->loop, &f->uv), 0);
    list_init(&f->parcels);
    loop_defer_init(&f->post, deliver);
    return f;
}

static void on_closed(void *arg)
{
    struct fixture *f = arg;

    f->closed++;
}

static void stop(struct fixture *f, size_t i)
{
    unsigned before = f->closed;
    struct table_shell *s = f->s[i];

    f->s[i] = NULL;
    table_close(s, on_closed, f);
    while (f->closed == before) {
        (void)uv_run(&f->uv, UV_RUN_ONCE);
    }
}

static void clean(struct fixture *f)
{
    for (size_t i = 0; i < 3; i++) {
        if (f->s[i] != NULL) {
            stop(f, i);
        }
        assert_int_equal(sys_remove_tree(AT_FDCWD, f->dir[i], NULL), 0);
    }
    deliver(&f->post);
    loop_close(&f->loop);
    (void)uv_run(&f->uv, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->uv), 0);
    test_free(f);
}

static void on_done(void *arg, int status)
{
    struct fixture *f = arg;

    f->done++;
    f->status = status;
}

static void write_job(struct fixture *f, size_t i, const char *key, const char *value)
{
    unsigned before = f->done;

    assert_int_equal(table_write(f->s[i], TABLE_JOB, str_of(key), str_of(value), on_done, f, NULL),
                     0);
    assert_int_equal(f->done, before); /* never inside the call */
    while (f->done == before) {
        (void)uv_run(&f->uv, UV_RUN_ONCE);
    }
    assert_int_equal(f->status, 0);
}

static bool has(const struct fixture *f, size_t i, const char *key, const char *value)
{
    struct table_row_view r;

    return table_get(table_core(f->s[i]), TABLE_JOB, STR(""), str_of(key), &r) &&
           str_eqs(r.value, value);
}

static bool wait_for(struct fixture *f, size_t i, const char *key, const char *value)
{
    uint64_t until = sys_mono_ms() + 20000;

    while (!has(f, i, key, value) && sys_mono_ms() < until) {
        (void)uv_run(&f->uv, UV_RUN_ONCE);
    }
    return has(f, i, key, value);
}

static void test_kept(void **state)
{
    (void)state;
    struct fixture *f = make();

    start(f, 0);
    write_job(f, 0, "a", "1");
    write_job(f, 0, "b", "2");
    write_job(f, 0, "a", "3");
    assert_int_equal(table_remove(f->s[0], TABLE_JOB, STR("b"), NULL, NULL, NULL), 0);
    assert_int_equal(table_write_node(f->s[0], TABLE_PROFILE, STR("p"), STR("7"), NULL), 0);
    assert_int_equal(table_write_node(f->s[0], TABLE_PROFILE, STR("p"), STR("8"), NULL), 0);
    assert_int_equal(table_write_node(f->s[0], TABLE_LOAD, STR(""), STR("x"), NULL), 0);
    stop(f, 0); /* what waits for its interval is written, too */
    start(f, 0);
    struct table_row_view r;
    assert_true(has(f, 0, "a", "3"));
    assert_false(table_get(table_core(f->s[0]), TABLE_JOB, STR(""), STR("b"), NULL));
    assert_true(table_get(table_core(f->s[0]), TABLE_PROFILE, STR("n0"), STR("p"), &r));
    assert_true(str_eqs(r.value, "8"));
    assert_false(table_get(table_core(f->s[0]), TABLE_LOAD, STR("n0"), STR(""), NULL));
    /* It goes on where it was. */
    write_job(f, 0, "a", "4");
    stop(f, 0);
    start(f, 0);
    assert_true(has(f, 0, "a", "4"));
    clean(f);
}

static void test_three(void **state)
{
    (void)state;
    struct fixture *f = make();

    for (size_t i = 0; i < 3; i++) {
        start(f, i);
    }
    introduce(f, 0, 1);
    introduce(f, 1, 2);
    introduce(f, 0, 2);
    write_job(f, 0, "a", "1");
    assert_true(wait_for(f, 1, "a", "1"));
    assert_true(wait_for(f, 2, "a", "1"));
    stop(f, 2);
    write_job(f, 1, "a", "2");
    start(f, 2);
    assert_true(has(f, 2, "a", "1")); /* from its disk, before anybody is heard */
    introduce(f, 0, 2);
    introduce(f, 1, 2);
    assert_true(wait_for(f, 2, "a", "2"));
    clean(f);
}

static void count_change(void *arg, const struct table_row_view *row,
                         const struct table_row_view *old)
{
    struct fixture *f = arg;

    assert_true(row != NULL || old != NULL);
    f->changes++;
}

struct echo {
    struct fixture *f;
    unsigned seen;
};

/* What a watch writes is carried out after the watches of this step. */
static void write_inside(void *arg, const struct table_row_view *row,
                         const struct table_row_view *old)
{
    struct echo *x = arg;
    struct table_shell *s = x->f->s[0];
    struct err e = { .code = 0 };

    (void)old;
    x->seen++;
    if (row == NULL || !str_eqs(row->key, "first")) {
        return;
    }
    assert_int_equal(table_write(s, TABLE_JOB, STR("second"), STR("2"), on_done, x->f, &e), 0);
    assert_int_equal(table_write_node(s, TABLE_IMAGE, STR("i"), STR("3"), &e), 0);
    assert_int_equal(table_remove(s, TABLE_JOB, STR("nothing"), on_done, x->f, &e), 0);
    assert_false(has(x->f, 0, "second", "2"));
    assert_true(has(x->f, 0, "first", "1"));
}

static void test_write_inside_a_watch(void **state)
{
    (void)state;
    struct fixture *f = make();
    struct echo x = { .f = f };

    start(f, 0);
    assert_int_equal(table_watch(f->s[0], TABLE_JOB, write_inside, &x), 0);
    assert_int_equal(table_write(f->s[0], TABLE_JOB, STR("first"), STR("1"), NULL, NULL, NULL), 0);
    assert_true(has(f, 0, "second", "2"));
    assert_true(table_get(table_core(f->s[0]), TABLE_IMAGE, STR("n0"), STR("i"), NULL));
    assert_int_equal(x.seen, 2);
    while (f->done < 2) {
        (void)uv_run(&f->uv, UV_RUN_ONCE);
    }
    clean(f);
}

static void test_watch(void **state)
{
    (void)state;
    struct fixture *f = make();

    start(f, 0);
    assert_int_equal(table_watch(f->s[0], TABLE_JOB, count_change, f), 0);
    write_job(f, 0, "a", "1");
    write_job(f, 0, "a", "1");
    assert_int_equal(f->changes, 1);
    assert_int_equal(table_remove(f->s[0], TABLE_JOB, STR("a"), NULL, NULL, NULL), 0);
    assert_int_equal(f->changes, 2);
    assert_int_equal(table_write_node(f->s[0], TABLE_LOAD, STR(""), STR("x"), NULL), 0);
    assert_int_equal(f->changes, 2);
    table_unwatch(f->s[0], count_change, f);
    write_job(f, 0, "c", "1");
    assert_int_equal(f->changes, 2);
    /* Whoever went away is not called. */
    unsigned done = f->done;
    assert_int_equal(table_write(f->s[0], TABLE_JOB, STR("d"), STR("1"), on_done, f, NULL), 0);
    table_forget(f->s[0], f);
    stop(f, 0);
    assert_int_equal(f->done, done);
    clean(f);
}

/* A child writes and says what was answered; kill -9 at any moment loses none of that. */
static void child_writes(const char *dir, int out)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (f == NULL) {
        _exit(1);
    }
    memcpy(f->dir[0], dir, strlen(dir) + 1);
    if (uv_loop_init(&f->uv) != 0 || loop_init(&f->loop, &f->uv) != 0) {
        _exit(1);
    }
    struct table_options opt = { .loop = &f->loop, .dir = f->dir[0], .name = STR("n0") };
    if (table_start(&opt, &f->s[0], NULL) != 0) {
        _exit(1);
    }
    for (uint32_t i = 1;; i++) {
        char value[16];
        unsigned before = f->done;
        (void)snprintf(value, sizeof value, "%u", i);
        if (table_write(f->s[0], TABLE_JOB, STR("count"), str_of(value), on_done, f, NULL) != 0) {
            _exit(1);
        }
        while (f->done == before) {
            (void)uv_run(&f->uv, UV_RUN_ONCE);
        }
        if (f->status != 0 || write(out, &i, sizeof i) != (ssize_t)sizeof i) {
            _exit(1);
        }
    }
}

static void test_kill(void **state)
{
    (void)state;
    struct fixture *f = make();
    uint32_t told = 0;

    for (unsigned round = 0; round < 5; round++) {
        int fds[2];
        assert_int_equal(pipe(fds), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            (void)close(fds[0]);
            child_writes(f->dir[0], fds[1]);
        }
        (void)close(fds[1]);
        uint32_t last = 0;
        for (unsigned n = 0; n < 3 + round * 7; n++) {
            assert_int_equal(read(fds[0], &last, sizeof last), sizeof last);
        }
        assert_int_equal(kill(pid, SIGKILL), 0);
        while (read(fds[0], &told, sizeof told) == (ssize_t)sizeof told) {
            last = told;
        }
        (void)close(fds[0]);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        start(f, 0);
        struct table_row_view r;
        uint64_t kept = 0;
        assert_true(table_get(table_core(f->s[0]), TABLE_JOB, STR(""), STR("count"), &r));
        assert_int_equal(str_u64(r.value, &kept), 0);
        assert_true(kept == last || kept == last + 1U);
        stop(f, 0);
    }
    clean(f);
}

static void test_full_disk(void **state)
{
    (void)state;
    struct table_db *db = NULL;
    struct err e = { .code = 0 };
    char dir[] = "/tmp/agent-table-XXXXXX";
    struct table_record good = { .op = TABLE_STREAM_PUT, .stream = 7, .version = 1, .kind = 2 };
    struct table_record bad = { .op = TABLE_ROW_PUT, .stream = 7, .version = 1, .type = 8 };
    const struct table_record *records[] = { &good, &bad };
    char *big = calloc(1, 2 * 1024 * 1024);

    assert_non_null(mkdtemp(dir));
    assert_non_null(big);
    assert_int_equal(table_db_open(dir, &db, &e), 0);
    good.writer = STR("n0");
    bad.value = (struct str){ big, 2 * 1024 * 1024 }; /* over what the database takes */
    assert_true(table_db_apply(db, records, 2, NULL) < 0);
    assert_true(strlen(table_db_error(db)) > 0);
    bad.value = STR("small");
    assert_int_equal(table_db_apply(db, records, 2, NULL), 0);
    table_db_close(db);
    free(big);
    assert_int_equal(sys_remove_tree(AT_FDCWD, dir, NULL), 0);
}

static int sql(const char *dir, const char *text)
{
    char path[128];
    sqlite3 *c = NULL;

    (void)snprintf(path, sizeof path, "%s/table.db", dir);
    int rc = sqlite3_open(path, &c);
    rc = rc != SQLITE_OK ? rc : sqlite3_exec(c, text, NULL, NULL, NULL);
    (void)sqlite3_close(c);
    return rc;
}

/* While the disk takes nothing a write is answered with an error; it is tried again, in its place.
 */
static void test_disk_that_fails(void **state)
{
    (void)state;
    struct fixture *f = make();
    char path[128];
    sqlite3 *other = NULL;

    start(f, 0);
    write_job(f, 0, "a", "1");
    (void)snprintf(path, sizeof path, "%s/table.db", f->dir[0]);
    assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN EXCLUSIVE", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(table_write(f->s[0], TABLE_JOB, STR("b"), STR("1"), on_done, f, NULL), 0);
    unsigned before = f->done;
    while (f->done == before) {
        (void)uv_run(&f->uv, UV_RUN_ONCE);
    }
    assert_true(f->status < 0);
    assert_true(has(f, 0, "b", "1")); /* readable, and not forgotten */
    assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(other), SQLITE_OK);
    write_job(f, 0, "c", "1"); /* behind it: so both are durable */
    stop(f, 0);
    start(f, 0);
    assert_true(has(f, 0, "b", "1") && has(f, 0, "c", "1"));
    clean(f);
}

static bool settled(struct fixture *f, size_t i)
{
    struct table_sizes sizes;

    table_sizes(table_core(f->s[i]), &sizes);
    return sizes.settled;
}

static int64_t life(const char *dir, bool *ret_alone)
{
    struct table_db *db = NULL;
    struct table_db_life l = { .alive_ms = 0 };

    assert_int_equal(table_db_open(dir, &db, NULL), 0);
    assert_int_equal(table_db_life(db, &l), 0);
    table_db_close(db);
    *ret_alone = l.alone;
    return l.alive_ms;
}

/* How long a node was away is known after any number of starts in which it heard nobody. */
static void test_absence(void **state)
{
    (void)state;
    struct fixture *f = make();
    bool alone = false;

    /* Alone from the beginning: nobody could have deleted anything. */
    start(f, 0);
    write_job(f, 0, "a", "1");
    stop(f, 0);
    assert_true(life(f->dir[0], &alone) > 0 && alone);
    assert_int_equal(sql(f->dir[0], "UPDATE life SET value = 1000 WHERE name = 'alive_ms'"),
                     SQLITE_OK);
    start(f, 0);
    assert_true(settled(f, 0));
    /* With another member, then away for long. */
    start(f, 1);
    introduce(f, 0, 1);
    stop(f, 0);
    stop(f, 1);
    assert_true(life(f->dir[0], &alone) > 1000 && !alone);
    assert_int_equal(sql(f->dir[0], "UPDATE life SET value = 1000 WHERE name = 'alive_ms'"),
                     SQLITE_OK);
    for (unsigned times = 0; times < 2; times++) {
        start(f, 0);
        assert_false(settled(f, 0));
        assert_true(has(f, 0, "a", "1"));
        stop(f, 0);
        assert_int_equal(life(f->dir[0], &alone), 1000);
        assert_false(alone);
    }
    clean(f);
}

static void test_strange_files(void **state)
{
    (void)state;
    struct fixture *f = make();
    struct table_db *db = NULL;
    struct err e = { .code = 0 };

    assert_int_equal(sql(f->dir[0], "CREATE TABLE theirs(x)"), SQLITE_OK);
    assert_int_equal(table_db_open(f->dir[0], &db, &e), -EBADMSG);
    assert_non_null(strstr(err_text(&e), "another program"));
    start(f, 1);
    write_job(f, 1, "a", "1");
    write_job(f, 1, "b", "1");
    stop(f, 1);
    /* A row of no stream is left out; the rest counts. */
    assert_int_equal(sql(f->dir[1], "UPDATE row SET stream = 5 WHERE key = x'61'"), SQLITE_OK);
    start(f, 1);
    assert_false(has(f, 1, "a", "1"));
    assert_true(has(f, 1, "b", "1"));
    stop(f, 1);
    assert_int_equal(sql(f->dir[1], "PRAGMA user_version = 99"), SQLITE_OK);
    assert_int_equal(table_db_open(f->dir[1], &db, &e), -EPROTONOSUPPORT);
    assert_non_null(strstr(err_text(&e), "newer agent"));
    clean(f);
}

/* --- what is shown --- */

static void test_json(void **state)
{
    (void)state;
    struct fixture *f = make();
    AUTO_BUF struct buf out = BUF_INIT(1 << 20);
    char next[700] = "";
    size_t rows = 0;

    start(f, 0);
    write_job(f, 0, "a", "{\"image\": \"x\"}");
    write_job(f, 0, "b", "plain text");
    write_job(f, 0, "c", "\xff\xfe");
    assert_int_equal(table_write(f->s[0], TABLE_SECRET, STR("s"), STR("hidden"), NULL, NULL, NULL),
                     0);
    assert_int_equal(table_write_node(f->s[0], TABLE_LOAD, STR(""), STR("{}"), NULL), 0);
    for (unsigned page = 0; page < 10; page++) {
        AUTO_JSON struct json_doc *doc = NULL;
        struct str cursor;
        buf_reset(&out);
        assert_int_equal(table_json(f->s[0], 0, str_of(next), 2, &out), 0);
        assert_null(strstr(buf_cstr(&out), "hidden"));
        assert_int_equal(json_parse(out.data, out.len, NULL, &doc, NULL), 0);
        const struct json *list = json_get(json_root(doc), "rows");
        rows += list->count;
        if (!json_str(json_get(json_root(doc), "next"), &cursor)) {
            break;
        }
        assert_int_equal(list->count, 2);
        assert_int_equal(str_copy(next, sizeof next, cursor), 0);
    }
    assert_int_equal(rows, 5);
    buf_reset(&out);
    assert_int_equal(table_json(f->s[0], TABLE_JOB, STR(""), 1000, &out), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"value\":{\"image\":\"x\"}"));
    assert_non_null(strstr(buf_cstr(&out), "\"value\":\"plain text\""));
    assert_non_null(strstr(buf_cstr(&out), "\"value\":{\"base64\":\"//4=\"}"));
    assert_int_equal(table_json(f->s[0], 0, STR("nonsense"), 2, &out), -EINVAL);
    buf_reset(&out);
    table_metrics(f->s[0], &out);
    assert_non_null(strstr(buf_cstr(&out), "agent_table_rows{type=\"job\"} 3\n"));
    assert_non_null(strstr(buf_cstr(&out), "agent_table_refused_total{reason=\"skew\"} 0\n"));
    clean(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept),      cmocka_unit_test(test_three),
        cmocka_unit_test(test_watch),     cmocka_unit_test(test_kill),
        cmocka_unit_test(test_full_disk), cmocka_unit_test(test_strange_files),
        cmocka_unit_test(test_json),      cmocka_unit_test(test_disk_that_fails),
        cmocka_unit_test(test_absence),   cmocka_unit_test(test_write_inside_a_watch),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
