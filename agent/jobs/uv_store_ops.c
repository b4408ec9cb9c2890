#include <errno.h>

#include "agent/jobs/jobs_internal.h"
#include "agent/jobs/uv_store_internal.h"
#include "common/insist.h"
#include "common/mem.h"

/* Every operation: X_work() on the thread, X_done() on the loop, and the call that makes the
 * request. */

static int send_write(struct job_store *s, struct store_request *q)
{
    job_store_send(s, &s->lanes[STORE_WRITER], q, false);
    return 0;
}

static int send_read(struct job_store *s, struct store_request *q)
{
    job_store_send(s, &s->lanes[STORE_READER], q, false);
    return 0;
}

static void set_name(struct store_request *q, struct str name)
{
    REQUIRE(name.n < sizeof q->name);
    if (name.n != 0) {
        memcpy(q->name, name.p, name.n);
    }
    q->name_n = (uint32_t)name.n;
}

static struct str name_of(const struct store_request *q)
{
    return (struct str){ q->name, q->name_n };
}

/* Room for n runs; q is freed when there is no memory. */
static int with_runs(struct store_request *q, size_t n)
{
    q->runs = mem_calloc(n, sizeof q->runs[0]);
    q->limit = n;
    return q->runs != NULL ? 0 : -ENOMEM;
}

static int no_memory(struct store_request *q)
{
    if (q != NULL) {
        mem_free(q->runs);
        mem_free(q);
    }
    return -ENOMEM;
}

/* --- accept --- */

static int accept_work(struct job_db *db, struct store_request *q)
{
    return job_db_accept(db, &q->runs[0], buf_str(&q->text), name_of(q), &q->replayed, &q->runs[1]);
}

static void accept_done(struct job_store *s, struct store_request *q)
{
    bool known = q->status == -EEXIST || (q->status == 0 && q->replayed);

    (void)s;
    q->fn.accept(q->arg, q->status, known && q->status == 0, known ? &q->runs[1] : NULL);
}

int job_store_accept_run(struct job_store *s, const struct run *run, const struct job *spec,
                         struct str key, job_store_accept_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(accept_work, accept_done, arg);

    if (q == NULL || with_runs(q, 2) != 0) {
        return no_memory(q);
    }
    set_name(q, key);
    q->runs[0] = *run;
    q->fn.accept = fn;
    q->takes_work = true;
    if (spec != NULL) {
        job_to_text(spec, &q->text);
    }
    return send_write(s, q);
}

/* --- put --- */

static int put_work(struct job_db *db, struct store_request *q)
{
    return job_db_put(db, &q->runs[0], q->has_former ? &q->runs[1] : NULL);
}

static void simple_done(struct job_store *s, struct store_request *q)
{
    if (q->fn.done != NULL) {
        q->fn.done(q->arg, q->status);
    } else if (q->status != 0) {
        s->counters.lazy_failed++;
    }
}

int job_store_put_run(struct job_store *s, const struct run *run, const struct run *former,
                      job_store_done_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(put_work, simple_done, arg);

    if (q == NULL || with_runs(q, former != NULL ? 2 : 1) != 0) {
        return no_memory(q);
    }
    q->runs[0] = *run;
    q->has_former = former != NULL;
    if (former != NULL) {
        q->runs[1] = *former;
    }
    q->fn.done = fn;
    job_store_send(s, &s->lanes[STORE_WRITER], q, fn == NULL);
    return 0;
}

/* --- get, list --- */

static int get_work(struct job_db *db, struct store_request *q)
{
    return job_db_get(db, &q->id, &q->runs[0], &q->job);
}

static void get_done(struct job_store *s, struct store_request *q)
{
    (void)s;
    q->fn.run(q->arg, q->status, q->status == 0 ? &q->runs[0] : NULL,
              q->status == 0 ? q->job : NULL);
}

int job_store_get_run(struct job_store *s, struct ulid id, job_store_run_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(get_work, get_done, arg);

    if (q == NULL || with_runs(q, 1) != 0) {
        return no_memory(q);
    }
    q->id = id;
    q->fn.run = fn;
    return send_read(s, q);
}

static void runs_done(struct job_store *s, struct store_request *q)
{
    (void)s;
    q->fn.runs(q->arg, q->status, q->runs, q->status == 0 ? q->n : 0, q->status == 0 && q->more);
}

static int list_work(struct job_db *db, struct store_request *q)
{
    struct job_store_filter f = { name_of(q), q->states, q->id, q->limit };

    return job_db_list(db, &f, q->runs, &q->n, &q->more);
}

int job_store_list_runs(struct job_store *s, const struct job_store_filter *f,
                        job_store_runs_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(list_work, runs_done, arg);

    REQUIRE(f->limit >= 1 && f->limit <= JOB_STORE_LIST_MAX && f->job.n <= JOB_NAME_MAX);
    if (q == NULL || with_runs(q, f->limit) != 0) {
        return no_memory(q);
    }
    set_name(q, f->job);
    q->states = f->states;
    q->id = f->after;
    q->fn.runs = fn;
    return send_read(s, q);
}

static int attempts_work(struct job_db *db, struct store_request *q)
{
    return job_db_attempts(db, &q->id, q->limit, q->runs, &q->n);
}

int job_store_attempts(struct job_store *s, struct ulid id, job_store_runs_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(attempts_work, runs_done, arg);

    if (q == NULL || with_runs(q, STORE_ATTEMPTS_MAX) != 0) {
        return no_memory(q);
    }
    q->id = id;
    q->fn.runs = fn;
    return send_read(s, q);
}

static int callers_work(struct job_db *db, struct store_request *q)
{
    return job_db_callers_after(db, q->now_us, q->limit, q->runs, &q->n, &q->more);
}

int job_store_callers_after(struct job_store *s, int64_t after_us, job_store_runs_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(callers_work, runs_done, arg);

    if (q == NULL || with_runs(q, JOB_STORE_LIST_MAX) != 0) {
        return no_memory(q);
    }
    q->limit = JOB_STORE_LIST_MAX;
    q->now_us = after_us;
    q->fn.runs = fn;
    return send_read(s, q);
}

/* --- unfinished runs, piece by piece --- */

static int live_work(struct job_db *db, struct store_request *q)
{
    return job_db_live(db, &q->id, q->limit, q->runs, &q->n, &q->more);
}

static int load_from(struct job_store *s, struct ulid after, job_store_runs_fn *each,
                     job_store_done_fn *done, void *arg);

static void live_done(struct job_store *s, struct store_request *q)
{
    int r = q->status;

    if (r == 0 && q->n != 0) {
        q->each(q->arg, 0, q->runs, q->n, q->more);
    }
    if (r == 0 && q->more) {
        r = load_from(s, q->runs[q->n - 1].id, q->each, q->fn.done, q->arg);
        if (r == 0) {
            return;
        }
    }
    q->fn.done(q->arg, r);
}

static int load_from(struct job_store *s, struct ulid after, job_store_runs_fn *each,
                     job_store_done_fn *done, void *arg)
{
    struct store_request *q = job_store_request_new(live_work, live_done, arg);

    if (q == NULL || with_runs(q, STORE_PIECE) != 0) {
        return no_memory(q);
    }
    q->id = after;
    q->each = each;
    q->fn.done = done;
    return send_read(s, q);
}

int job_store_load_unfinished(struct job_store *s, job_store_runs_fn *each, job_store_done_fn *done,
                              void *arg)
{
    return load_from(s, (struct ulid){ { 0 } }, each, done, arg);
}

/* --- jobs --- */

static int put_job_work(struct job_db *db, struct store_request *q)
{
    return job_db_put_job(db, q->name, buf_str(&q->text), q->revision, q->now_us, &q->created,
                          &q->changed, &q->job);
}

static void job_done(struct job_store *s, struct store_request *q)
{
    bool ok = q->status == 0;

    (void)s;
    q->fn.job(q->arg, q->status, ok ? q->job : NULL, ok && q->created, ok && q->changed);
}

int job_store_put_job(struct job_store *s, const struct job *job, uint32_t if_match, int64_t now_us,
                      job_store_job_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(put_job_work, job_done, arg);

    if (q == NULL) {
        return -ENOMEM;
    }
    REQUIRE(job->name[0] != '\0');
    set_name(q, str_of(job->name));
    job_to_text(job, &q->text);
    q->revision = if_match;
    q->now_us = now_us;
    q->fn.job = fn;
    q->takes_work = true;
    return send_write(s, q);
}

static int take_job_work(struct job_db *db, struct store_request *q)
{
    return job_db_take_job(db, name_of(q), &q->version, buf_str(&q->text), &q->created, &q->changed,
                           &q->job);
}

int job_store_take_job(struct job_store *s, const struct job *job, job_store_job_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(take_job_work, job_done, arg);

    if (q == NULL) {
        return -ENOMEM;
    }
    REQUIRE(job->name[0] != '\0' && job->revision != 0);
    set_name(q, str_of(job->name));
    job_to_text(job, &q->text);
    q->version = (struct job_db_version){ job->revision, job->created_us, job->updated_us };
    q->fn.job = fn;
    return send_write(s, q);
}

static int get_job_work(struct job_db *db, struct store_request *q)
{
    return job_db_get_job(db, name_of(q), q->revision, &q->job);
}

int job_store_get_job(struct job_store *s, struct str name, uint32_t revision, job_store_job_fn *fn,
                      void *arg)
{
    struct store_request *q = job_store_request_new(get_job_work, job_done, arg);

    if (q == NULL) {
        return -ENOMEM;
    }
    /* A longer name is nobody's. */
    set_name(q, name.n <= JOB_NAME_MAX ? name : STR(""));
    q->revision = revision;
    q->fn.job = fn;
    return send_read(s, q);
}

static int list_jobs_work(struct job_db *db, struct store_request *q)
{
    return job_db_list_jobs(db, name_of(q), q->limit, q->jobs, &q->jobs_n, &q->more);
}

static void jobs_done(struct job_store *s, struct store_request *q)
{
    bool ok = q->status == 0;

    (void)s;
    q->fn.jobs(q->arg, q->status, (const struct job *const *)q->jobs, ok ? q->jobs_n : 0,
               ok && q->more);
}

int job_store_list_jobs(struct job_store *s, struct str after, size_t limit, job_store_jobs_fn *fn,
                        void *arg)
{
    struct store_request *q = job_store_request_new(list_jobs_work, jobs_done, arg);

    REQUIRE(limit >= 1 && limit <= JOB_STORE_LIST_MAX);
    if (q == NULL || (q->jobs = mem_calloc(limit, sizeof q->jobs[0])) == NULL) {
        return no_memory(q);
    }
    set_name(q, str_slice(after, 0, JOB_STORE_KEY_MAX));
    q->limit = limit;
    q->fn.jobs = fn;
    return send_read(s, q);
}

static int delete_job_work(struct job_db *db, struct store_request *q)
{
    return job_db_delete_job(db, name_of(q), q->revision);
}

int job_store_delete_job(struct job_store *s, struct str name, uint32_t if_match,
                         job_store_done_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(delete_job_work, simple_done, arg);

    if (q == NULL) {
        return -ENOMEM;
    }
    set_name(q, name.n <= JOB_NAME_MAX ? name : STR(""));
    q->revision = if_match;
    q->fn.done = fn;
    return send_write(s, q);
}

/* --- housekeeping --- */

static int retain_work(struct job_db *db, struct store_request *q)
{
    return job_db_retain(db, q->now_us, &q->keep, q->gone, q->limit, &q->n, &q->more);
}

static void retain_done(struct job_store *s, struct store_request *q)
{
    bool ok = q->status == 0;

    (void)s;
    q->fn.gone(q->arg, q->status, q->gone, ok ? q->n : 0, ok && q->more);
}

int job_store_retain(struct job_store *s, int64_t now_us, job_store_gone_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(retain_work, retain_done, arg);

    if (q == NULL || (q->gone = mem_calloc(STORE_RETAIN_MAX, sizeof q->gone[0])) == NULL) {
        return no_memory(q);
    }
    q->limit = STORE_RETAIN_MAX;
    q->now_us = now_us;
    q->keep = s->cfg.retention;
    q->fn.gone = fn;
    return send_write(s, q);
}

static int stats_work(struct job_db *db, struct store_request *q)
{
    return job_db_stats(db, q->limit, &q->stats, q->job_stats, &q->n);
}

static void stats_done(struct job_store *s, struct store_request *q)
{
    bool ok = q->status == 0;

    (void)s;
    q->fn.stats(q->arg, q->status, ok ? &q->stats : NULL, q->job_stats, ok ? q->n : 0);
}

int job_store_stats(struct job_store *s, size_t jobs_max, job_store_stats_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(stats_work, stats_done, arg);
    size_t limit = jobs_max < STORE_STATS_JOBS_MAX ? jobs_max : STORE_STATS_JOBS_MAX;

    if (q == NULL || (q->job_stats = mem_calloc(limit + 1, sizeof q->job_stats[0])) == NULL) {
        return no_memory(q);
    }
    q->limit = limit;
    q->fn.stats = fn;
    return send_read(s, q);
}
