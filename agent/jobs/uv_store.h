/*
 * uv_store - the durable store of a node: runs, job documents, idempotency keys, in one SQLite
 * file.
 *
 * Two threads: a writer that turns all requests that wait into one transaction (group commit; WAL,
 * synchronous=FULL), and a reader with a read-only connection. The loop never waits for the disk.
 * All calls are for the loop's thread; callbacks come later, from the loop, never inside the call,
 * in the order of the requests of each thread. What a callback is given is valid during the
 * callback. A status of 0 for a durable write means: it survives kill -9 and a power cut.
 *
 * Reads see every write that was answered before they were asked for.
 *
 * Failures of every request: -ENOSPC (disk full, or less than min_free_bytes: only what takes new
 * work is refused by that floor), -EIO, -ENOMEM, -ECANCELED (the store is closing), -ENOBUFS
 * (max_pending). A failed request changes nothing; those that follow are tried afresh.
 */
#ifndef AGENT_JOBS_UV_STORE_H
#define AGENT_JOBS_UV_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/jobs/jobs.h"
#include "agent/jobs/replica.h"
#include "agent/jobs/run.h"
#include "common/err.h"
#include "common/ids.h"
#include "common/loop/loop.h"

enum {
    JOB_STORE_LIST_MAX = 1000,
    JOB_STORE_KEY_MAX = 255,  /* bytes of an idempotency key */
    JOB_STORE_KEY_HOURS = 24, /* how long it is remembered */
    JOB_STORE_VERSION = 3,    /* of the schema */
};

struct job_retention {
    uint64_t age_ms;    /* ended runs older than this go; 0: kept */
    uint64_t failed_ms; /* the same for failed, timed_out and lost ones; less than age_ms: age_ms */
    uint64_t bytes;     /* payload + output + log of ended runs, together, the oldest first whatever
                           became of them; 0: no bound */
};

struct job_store_config {
    const char *dir;         /* exists, ours; holds agent.db */
    uint64_t min_free_bytes; /* store.min_free_bytes */
    size_t max_pending;      /* requests that wait; 0: 65,536 */
    struct job_retention retention;
    uint64_t max_pages; /* tests: PRAGMA max_page_count; 0: none */
};

struct job_store;

/* Opens, checks and migrates at once (the loop does not run yet). -EPROTONOSUPPORT: made by a newer
 * version (nothing was changed); -EBADMSG: not our file, or damaged; -Exxx. */
int job_store_open(struct loop *loop, const struct job_store_config *cfg, struct job_store **ret,
                   struct err *e);
/* Writes what waits (durably), answers it, closes, then calls on_closed from the loop and is gone.
 * Reads that wait are answered with -ECANCELED. */
void job_store_close(struct job_store *s, void (*on_closed)(void *arg), void *arg);
void job_store_set_retention(struct job_store *s, const struct job_retention *keep);

typedef void job_store_done_fn(void *arg, int status);

/* -- runs -- */

/* known is NULL unless status is -EEXIST, or 0 with replayed. */
typedef void job_store_accept_fn(void *arg, int status, bool replayed, const struct run *known);
/* A new run, its one-off or overriding document (spec: normalised, NULL for a plain run of a
 * registered job) and its idempotency key (empty: none), in one transaction. A key that is known:
 * with the same run->request_hash 0, replayed and the run of then; with another one -EEXIST; in
 * both cases nothing is written. -EALREADY: the id is taken. */
int job_store_accept_run(struct job_store *s, const struct run *run, const struct job *spec,
                         struct str key, job_store_accept_fn *fn, void *arg);
/* Writes a run that was accepted. With fn: durable before fn is called. fn NULL: written with the
 * next transaction, at the latest after 50 ms; in the order of the calls in any case; a failure is
 * counted only. former: the record of the attempt that ended as this one was queued again (kept for
 * job_store_attempts), or NULL. -ENOENT: no such run. -ESTALE: the store has a newer (epoch,
 * attempt). */
int job_store_put_run(struct job_store *s, const struct run *run, const struct run *former,
                      job_store_done_fn *fn, void *arg);

/* run and spec are NULL with an error. spec: the document in force (the run's own, or the job's at
 * that revision); NULL when the job was deleted with its revisions. */
typedef void job_store_run_fn(void *arg, int status, const struct run *run, const struct job *spec);
int job_store_get_run(struct job_store *s, struct ulid id, job_store_run_fn *fn, void *arg);

struct job_store_filter {
    struct str job;    /* empty: any */
    uint32_t states;   /* BIT(RUN_…) or 0: any */
    struct ulid after; /* only ids below this one; zero: from the newest */
    size_t limit;      /* 1 to JOB_STORE_LIST_MAX */
};
/* more: there are older ones that match. */
typedef void job_store_runs_fn(void *arg, int status, const struct run *runs, size_t n, bool more);
int job_store_list_runs(struct job_store *s, const struct job_store_filter *f,
                        job_store_runs_fn *fn, void *arg);
/* The records of a run's earlier attempts, the first first. */
int job_store_attempts(struct job_store *s, struct ulid id, job_store_runs_fn *fn, void *arg);
/* Runs that ended after this moment (in µs since 1970) and whose document speaks of call-backs, in
 * the order of their ends, at most JOB_STORE_LIST_MAX; more: ask again from the last one's end. */
int job_store_callers_after(struct job_store *s, int64_t after_us, job_store_runs_fn *fn,
                            void *arg);
/* Every run that has not ended, the oldest first, in pieces: each() per piece, then done(). */
int job_store_load_unfinished(struct job_store *s, job_store_runs_fn *each, job_store_done_fn *done,
                              void *arg);

/* -- copies of other nodes' runs (agent/jobs/replica.h has the rules) -- */

/* All of v in one request; v stays the caller's and valid until fn. */
int job_store_replicate(struct job_store *s, struct job_replica *v, size_t n, job_store_done_fn *fn,
                        void *arg);
/* run, spec and payload are valid during the callback. -ENOENT: no copy of it. */
typedef void job_store_copy_fn(void *arg, int status, const struct run *run, const struct job *spec,
                               struct str payload);
int job_store_get_copy(struct job_store *s, struct ulid id, job_store_copy_fn *fn, void *arg);
/* Copies of unfinished runs of one owner (0: of any), from the first id after `after`. */
int job_store_copies(struct job_store *s, uint32_t owner, struct ulid after, size_t limit,
                     job_store_runs_fn *fn, void *arg);
/* The copy becomes a run of this node's, with this record. -ENOENT; -ESTALE: the copy is not of an
 * earlier epoch any more. */
int job_store_adopt(struct job_store *s, const struct run *run, job_store_done_fn *fn, void *arg);
/* A run that was written and is not accepted after all. */
int job_store_forget(struct job_store *s, struct ulid id, job_store_done_fn *fn, void *arg);

/* -- claims of keys for the whole cluster -- */

enum job_claim_how {
    JOB_CLAIM_ASK,  /* for `run`, if nobody has it (or `instead_of` has) */
    JOB_CLAIM_SET,  /* for `run`, whoever had it */
    JOB_CLAIM_LOOK, /* changes nothing */
    JOB_CLAIM_DROP, /* `run` gives it back */
};
struct job_claim {
    enum job_claim_how how;
    struct ulid run;
    struct ulid instead_of; /* zero: nobody */
    uint8_t hash[32];       /* of the request */
    int64_t at_us;
    /* What came of it. */
    bool granted;
    bool is_known; /* it was claimed before: by whom */
    struct ulid known;
    uint8_t known_hash[32];
    int64_t known_us;
};
typedef void job_store_claim_fn(void *arg, int status, const struct job_claim *claim);
int job_store_claim(struct job_store *s, struct str key, const struct job_claim *claim,
                    job_store_claim_fn *fn, void *arg);

/* -- jobs -- */

/* job is NULL with an error. created: there was none; changed: it differs from the revision before.
 */
typedef void job_store_job_fn(void *arg, int status, const struct job *job, bool created,
                              bool changed);
/* if_match: 0, or the revision that must be current, else -EAGAIN. An equal
 * document keeps its revision. Revisions of one name only ever grow, across deletion too. */
int job_store_put_job(struct job_store *s, const struct job *job, uint32_t if_match, int64_t now_us,
                      job_store_job_fn *fn, void *arg);
/* The same for a document that another node has applied: it keeps its revision and times, and is
 * the newest here, whatever was. */
int job_store_take_job(struct job_store *s, const struct job *job, job_store_job_fn *fn, void *arg);
/* revision 0: the newest. -ENOENT. A deleted job's revisions stay readable by number as long as a
 * run refers to them. */
int job_store_get_job(struct job_store *s, struct str name, uint32_t revision, job_store_job_fn *fn,
                      void *arg);
/* By name, from the first after `after`. */
typedef void job_store_jobs_fn(void *arg, int status, const struct job *const *jobs, size_t n,
                               bool more);
int job_store_list_jobs(struct job_store *s, struct str after, size_t limit, job_store_jobs_fn *fn,
                        void *arg);
/* Its runs go on. -ENOENT; -EAGAIN: not this revision (if_match 0: any). */
int job_store_delete_job(struct job_store *s, struct str name, uint32_t if_match,
                         job_store_done_fn *fn, void *arg);

/* -- housekeeping -- */

/* Forgets ended runs beyond retention, at most 1,000 per call, the oldest first, and old keys. The
 * runs' directories and payloads are the caller's to remove: attempts tells how many each had.
 * more: call again. */
struct job_store_gone {
    struct ulid id;
    uint32_t attempts;
};
typedef void job_store_gone_fn(void *arg, int status, const struct job_store_gone *gone, size_t n,
                               bool more);
int job_store_retain(struct job_store *s, int64_t now_us, job_store_gone_fn *fn, void *arg);

struct job_store_stats {
    uint64_t file_bytes; /* database and log */
    uint64_t runs;
    uint64_t jobs;
    uint64_t by_state[RUN_STATE_COUNT];
    uint64_t kept_bytes; /* payload + output + log of ended runs */
};
struct job_store_job_stats {
    char job[RUN_JOB_CAP]; /* "": one-offs */
    uint64_t by_state[RUN_STATE_COUNT];
    int64_t last_us; /* created_us of the newest run */
};
/* jobs: the jobs_max (at most 1,000) with the newest runs. Counts are kept up with every write:
 * cheap, but for counting the registered jobs. */
typedef void job_store_stats_fn(void *arg, int status, const struct job_store_stats *stats,
                                const struct job_store_job_stats *jobs, size_t jobs_n);
int job_store_stats(struct job_store *s, size_t jobs_max, job_store_stats_fn *fn, void *arg);

struct job_store_counters {
    uint64_t commits;
    uint64_t requests;    /* written by those commits */
    uint64_t lazy_failed; /* lazy writes that were dropped */
    uint64_t commit_us;   /* spent in COMMIT, in all */
    uint64_t commit_max_us;
    size_t pending;
};
void job_store_counters(const struct job_store *s, struct job_store_counters *ret);

/* Is there less free space than min_free_bytes? Looked at by the writer every second, and here
 * while there is. */
bool job_store_is_full(struct job_store *s);

#endif
