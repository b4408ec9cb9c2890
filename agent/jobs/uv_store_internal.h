/*
 * uv_store_internal - the store's threads and requests.
 *
 *   uv_store.c     threads, group commit, opening and closing
 *   uv_store_ops.c one pair of functions per operation: on the thread, on the loop
 */
#ifndef AGENT_JOBS_UV_STORE_INTERNAL_H
#define AGENT_JOBS_UV_STORE_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "agent/jobs/sys_db_internal.h"
#include "agent/jobs/uv_store.h"
#include "common/buf.h"
#include "common/list.h"
#include "common/loop/loop.h"

enum {
    STORE_LAZY_MS = 50,     /* a lazy write waits no longer */
    STORE_BATCH_MAX = 1024, /* requests of one transaction */
    STORE_SPACE_MS = 1000,  /* between looks at the free space */
    STORE_PIECE = 256,      /* runs per call of load_unfinished's each() */
    STORE_RETAIN_MAX = 1000,
    STORE_ATTEMPTS_MAX = 1000,
    STORE_STATS_JOBS_MAX = 1000,
};

struct store_request;
/* On the thread: fills in q's results; 0 or -Exxx. May be called twice for one request. */
typedef int store_work_fn(struct job_db *db, struct store_request *q);
/* On the loop: calls the caller's callback. q is freed afterwards. */
typedef void store_done_fn(struct job_store *s, struct store_request *q);

struct store_request {
    struct list link;
    store_work_fn *work;
    store_done_fn *done;
    bool takes_work; /* refused while the disk is too full */
    int status;
    void *arg;
    union {
        job_store_done_fn *done;
        job_store_accept_fn *accept;
        job_store_run_fn *run;
        job_store_runs_fn *runs;
        job_store_job_fn *job;
        job_store_jobs_fn *jobs;
        job_store_gone_fn *gone;
        job_store_stats_fn *stats;
        job_store_copy_fn *copy;
        job_store_claim_fn *claim;
    } fn;
    job_store_runs_fn *each;
    /* what is asked for */
    struct ulid id;
    struct buf text;                  /* a document */
    struct job_db_version version;    /* of a document that is taken */
    char name[JOB_STORE_KEY_MAX + 1]; /* a job, an idempotency key */
    uint32_t name_n;
    uint32_t revision;
    uint32_t states;
    int64_t now_us;
    struct job_retention keep;
    uint64_t bytes;
    size_t limit;
    bool has_former;
    uint32_t owner;
    struct job_claim claim;
    struct job_replica *copies; /* the caller's */
    /* what came of it, too */
    struct run *runs; /* accept: the run, the known one; put: the run, its former attempt */
    struct job *job;
    struct job **jobs;
    size_t jobs_n;
    size_t n;
    bool more;
    bool created;
    bool changed;
    bool replayed;
    struct job_store_gone *gone;
    struct job_store_job_stats *job_stats;
    struct job_store_stats stats;
};

struct store_lane {
    struct job_store *store;
    struct job_db *db;
    bool writes;
    bool joined; /* there is no thread (any more) */
    uv_thread_t thread;
    uv_async_t async;
    uint64_t space_ms; /* the next look */
    uv_mutex_t mutex;  /* guards what follows */
    uv_cond_t cond;
    struct list in;
    struct list out;
    uint64_t lazy_ms; /* when the oldest lazy request must go; 0: none */
    bool urgent;
    bool closing;
    bool ended;
    struct job_store_counters counters;
};

enum { STORE_READER, STORE_WRITER };

struct job_store {
    struct loop_owner owner;
    struct job_store_config cfg;
    int dirfd;
    struct store_lane lanes[2];
    _Atomic bool is_full;
    /* the loop's */
    bool closing;
    size_t pending;
    size_t max_pending;
    struct list failed; /* requests that no thread took */
    struct loop_defer fail_defer;
    struct job_store_counters counters;
    struct job_store_counters lane_counters[2];
    void (*on_closed)(void *arg);
    void *closed_arg;
};

/* NULL: no memory. */
struct store_request *job_store_request_new(store_work_fn *work, store_done_fn *done, void *arg);
/* The request is the store's from here on. */
void job_store_send(struct job_store *s, struct store_lane *l, struct store_request *q, bool lazy);

#endif
