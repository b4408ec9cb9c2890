/* Operations on copies of other nodes' runs and on claims. */
#include <errno.h>

#include "agent/jobs/jobs_internal.h"
#include "agent/jobs/uv_store_internal.h"
#include "common/insist.h"
#include "common/mem.h"

static void done(struct job_store *s, struct store_request *q)
{
    (void)s;
    q->fn.done(q->arg, q->status);
}

/* --- records on their way in --- */

static int replicate_work(struct job_db *db, struct store_request *q)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < q->limit; i++) {
        r = job_db_replicate(db, &q->copies[i]);
    }
    return r;
}

int job_store_replicate(struct job_store *s, struct job_replica *v, size_t n, job_store_done_fn *fn,
                        void *arg)
{
    struct store_request *q = job_store_request_new(replicate_work, done, arg);

    if (q == NULL) {
        return -ENOMEM;
    }
    q->copies = v;
    q->limit = n;
    q->fn.done = fn;
    q->takes_work = true;
    job_store_send(s, &s->lanes[STORE_WRITER], q, false);
    return 0;
}

/* --- reading --- */

static int copy_work(struct job_db *db, struct store_request *q)
{
    buf_reset(&q->text);
    return job_db_copy(db, &q->id, &q->runs[0], &q->job, &q->text);
}

static void copy_done(struct job_store *s, struct store_request *q)
{
    bool ok = q->status == 0;

    (void)s;
    q->fn.copy(q->arg, q->status, ok ? &q->runs[0] : NULL, ok ? q->job : NULL, buf_str(&q->text));
}

int job_store_get_copy(struct job_store *s, struct ulid id, job_store_copy_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(copy_work, copy_done, arg);

    if (q == NULL || (q->runs = mem_calloc(1, sizeof q->runs[0])) == NULL) {
        mem_free(q);
        return -ENOMEM;
    }
    q->id = id;
    q->fn.copy = fn;
    job_store_send(s, &s->lanes[STORE_READER], q, false);
    return 0;
}

static int copies_work(struct job_db *db, struct store_request *q)
{
    return job_db_copies(db, q->owner, &q->id, q->limit, q->runs, &q->n, &q->more);
}

static void copies_done(struct job_store *s, struct store_request *q)
{
    (void)s;
    q->fn.runs(q->arg, q->status, q->runs, q->status == 0 ? q->n : 0, q->status == 0 && q->more);
}

int job_store_copies(struct job_store *s, uint32_t owner, struct ulid after, size_t limit,
                     job_store_runs_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(copies_work, copies_done, arg);

    REQUIRE(limit >= 1 && limit <= JOB_STORE_LIST_MAX);
    if (q == NULL || (q->runs = mem_calloc(limit, sizeof q->runs[0])) == NULL) {
        mem_free(q);
        return -ENOMEM;
    }
    q->owner = owner;
    q->id = after;
    q->limit = limit;
    q->fn.runs = fn;
    job_store_send(s, &s->lanes[STORE_READER], q, false);
    return 0;
}

/* --- taking over, giving up --- */

static int adopt_work(struct job_db *db, struct store_request *q)
{
    return job_db_adopt(db, &q->runs[0]);
}

int job_store_adopt(struct job_store *s, const struct run *run, job_store_done_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(adopt_work, done, arg);

    if (q == NULL || (q->runs = mem_calloc(1, sizeof q->runs[0])) == NULL) {
        mem_free(q);
        return -ENOMEM;
    }
    q->runs[0] = *run;
    q->fn.done = fn;
    job_store_send(s, &s->lanes[STORE_WRITER], q, false);
    return 0;
}

static int forget_work(struct job_db *db, struct store_request *q)
{
    int r = job_db_delete_run(db, &q->id);

    return r == -ENOENT ? 0 : r;
}

int job_store_forget(struct job_store *s, struct ulid id, job_store_done_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(forget_work, done, arg);

    if (q == NULL) {
        return -ENOMEM;
    }
    q->id = id;
    q->fn.done = fn;
    job_store_send(s, &s->lanes[STORE_WRITER], q, false);
    return 0;
}

/* --- claims --- */

static int claim_work(struct job_db *db, struct store_request *q)
{
    return job_db_claim(db, (struct str){ q->name, q->name_n }, &q->claim);
}

static void claim_done(struct job_store *s, struct store_request *q)
{
    (void)s;
    q->fn.claim(q->arg, q->status, q->status == 0 ? &q->claim : NULL);
}

int job_store_claim(struct job_store *s, struct str key, const struct job_claim *claim,
                    job_store_claim_fn *fn, void *arg)
{
    struct store_request *q = job_store_request_new(claim_work, claim_done, arg);

    REQUIRE(key.n > 0 && key.n <= JOB_STORE_KEY_MAX);
    if (q == NULL) {
        return -ENOMEM;
    }
    memcpy(q->name, key.p, key.n);
    q->name_n = (uint32_t)key.n;
    q->claim = *claim;
    q->fn.claim = fn;
    job_store_send(s, &s->lanes[STORE_WRITER], q, false);
    return 0;
}
