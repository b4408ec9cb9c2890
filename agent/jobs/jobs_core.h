/*
 * jobs_core - the queue of one node: which accepted run goes next, and what happens to it until it
 * has ended.
 *
 * Pure: an event in, effects out. The caller (node/) carries out the effects in their order and
 * feeds back what came of them. Equal seeds and events give equal effects.
 *
 * A run's way, with the effects that are asked for and the events that answer them:
 *
 *   SUBMIT      STORE(accept)     STORED        ANSWER(0), CHANGED, then in its turn:
 *               PLACE             PLACED        STORE(lazy), CHANGED, PREPARE
 *                                 NO_ROOM       waits; others may go first
 *                                 REFUSED       as an end
 *               PREPARE           PREPARED      LAUNCH
 *                                 PREPARE_FAILED  as an end
 *               LAUNCH            STARTED       STORE(lazy), CHANGED
 *                                 NO_ROOM       back into the queue, same attempt
 *                                 ENDED         (could not be started: reason sandbox)
 *   running     -                 ENDED         STORE(durable)
 *                                 STORED        CHANGED, ENDED, DROP
 *                                 ENDED, to be tried again:
 *                                               STORE(lazy, with former), CHANGED (queued)
 *
 * Promises. A run that was answered with 0 is never lost: it stays until its end is durable. Every
 * attempt ends once; a run is ENDED once (per retry that somebody asks for). Nobody is told of an
 * acceptance or of an end before it is durable. No more than `concurrency` runs of a job are
 * between PLACE and their end. Answers for an attempt that is over, or for an unknown run, change
 * nothing (STARTED of a run that should not be alive is answered with STOP).
 *
 * Order. Jobs take turns: each has a share of 1 + priority (of its first waiting run) of all
 * starts; one-offs are one job together. Inside a job: the higher priority first, then the older
 * run. A run without room does not hold up other jobs, until it was passed over JOB_PASSED_MAX
 * times: what becomes free is then kept for it. CAPACITY is what makes the queue try again.
 *
 * Elsewhere. A run may be PLACED on another node: that node prepares and launches it, so there is
 * no PREPARE and no LAUNCH here; its STARTED and ENDED come as they do for a run of this node's. It
 * is not stopped by a drain, which does not wait for it either.
 *
 * Start. All unfinished runs of the store come as RECOVER; then what the launcher knows, as STARTED
 * and ENDED, and what other nodes have, as HELD; then RECOVERED. Until then nothing is placed;
 * afterwards a run that was placed or preparing and that nobody knows is queued again (same
 * attempt), a running one is lost (and tried again when its policy allows).
 */
#ifndef AGENT_JOBS_JOBS_CORE_H
#define AGENT_JOBS_JOBS_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/jobs/run.h"
#include "common/err.h"
#include "common/ids.h"
#include "common/str.h"

enum {
    JOB_PLACING_MAX = 16,      /* PLACE without an answer, at a time */
    JOB_MISSES_MAX = 8,        /* NO_ROOM answers in a row after which the queue rests */
    JOB_PASSED_MAX = 64,       /* a run passed over so often lets no other go first */
    JOB_EFFECTS_MAX = 64,      /* of one step */
    JOB_NO_ROOM_MS = 1000,     /* the queue's rest when no CAPACITY comes */
    JOB_STORE_RETRY_MS = 1000, /* an end that could not be stored is tried again after this */
    JOB_OVERTIME_MS = 10000,   /* past timeout and grace: STOP again, every so often */
};

struct job_core_config {
    size_t max_queued; /* runs waiting; more: -ENOBUFS ("queue_full") */
    size_t max_live;   /* runs in memory in all; RECOVER may pass max_queued but not this. 0: twice
                          max_queued and 65,536 */
    uint64_t seed;     /* of the jitter */
    uint64_t k0, k1;   /* of the hash tables, from the caller's entropy */
};

enum job_event_type {
    JOB_EV_SUBMIT,         /* run (accepted by the API, state queued), token */
    JOB_EV_STORED,         /* id, seq, status: the STORE with this seq is done */
    JOB_EV_PLACED,         /* id, attempt, node, elsewhere */
    JOB_EV_HELD,           /* id, attempt: before RECOVERED, node has it (or is asked for it) */
    JOB_EV_NO_ROOM,        /* id, attempt */
    JOB_EV_REFUSED,        /* id, attempt, result (reason, detail): no node will ever take it */
    JOB_EV_PREPARED,       /* id, attempt; start kind is told by STARTED */
    JOB_EV_PREPARE_FAILED, /* id, attempt, result (reason, detail) */
    JOB_EV_STARTED,        /* id, attempt, start, started_us */
    JOB_EV_ENDED,          /* id, attempt, result */
    JOB_EV_CANCEL, /* id, token: ANSWER 0, -ENOENT (not in memory), -EALREADY (has ended), -EBUSY
                      (others ask) */
    JOB_EV_RETRY,  /* run (as stored, ended), token: ANSWER 0, -EBUSY (not ended or not yet stored),
                      -EALREADY (succeeded), -ERANGE (no attempts left), -ENOBUFS, … */
    JOB_EV_RECOVER,   /* run: an unfinished one of the store */
    JOB_EV_RECOVERED, /* the launcher has told all */
    JOB_EV_DRAIN,     /* drain_ms: no new runs; running ones are stopped after this (UINT64_MAX:
                         never). forward: those that wait are still placed, elsewhere. DRAINED when
                         none is left */
    JOB_EV_RESUME,    /* the end of a drain */
    JOB_EV_CAPACITY,  /* something became free: try again */
    JOB_EV_JOB,       /* job, concurrency: the newest revision's limit */
    JOB_EV_TAKE,      /* run: of a dead owner, ours from here on, durably (agent/jobs/replica.h).
                         elsewhere: node may have it, as HELD; else its attempt is lost */
    JOB_EV_FENCED,    /* id: somebody else speaks for it: whatever is here of it is stopped and
                         forgotten (STOP, ANSWER -ESTALE, DROP) */
    JOB_EV_HOLDERS,   /* id, run: only its holders count */
    JOB_EV_TICK,      /* only time has passed */
};

/* What an attempt came to. */
struct job_result {
    enum run_reason reason; /* not NONE. CANCELLED: it ended because of STOP */
    int exit_code;          /* -1: none */
    int signal;             /* 0: none */
    bool output_truncated;
    bool log_truncated;
    bool innocent; /* NODE_LOST, and not by what it did: tried again without using up a retry */
    /* OOM: tried again at once with this limit, which uses up no retry; 0: an end like any other */
    uint64_t grow_bytes;
    uint64_t retry_after_ms; /* the job asked for this long until its next attempt; 0: it did not */
    uint64_t output_bytes;
    uint64_t log_bytes;
    int64_t started_us; /* 0: not known, or never */
    int64_t ended_us;   /* 0: now */
    struct run_usage usage;
    const char *detail; /* "" or NULL: none */
};

struct job_event {
    enum job_event_type type;
    uint64_t now_ms; /* monotonic; never goes back */
    int64_t now_us;  /* wall clock, for the record only */
    struct ulid id;
    uint32_t attempt;
    uint64_t token; /* comes back in ANSWER */
    uint64_t seq;
    int status; /* 0 or -Exxx */
    uint64_t drain_ms;
    bool forward;
    bool elsewhere; /* PLACED: node is another one */
    enum run_start start;
    int64_t started_us;
    uint32_t concurrency;
    const char *job;
    const char *node;
    const struct run *run;           /* SUBMIT, RETRY, RECOVER, TAKE, HOLDERS */
    const struct job_result *result; /* REFUSED, PREPARE_FAILED, ENDED */
};

enum job_effect_type {
    JOB_FX_STORE,  /* write run. seq != 0: durable, answer with STORED; accept: it is a new one (its
                      document, payload and idempotency key go with it). seq 0: may be lazy */
    JOB_FX_ANSWER, /* token, status: to who sent SUBMIT, CANCEL or RETRY; run when status is 0 */
    JOB_FX_PLACE,  /* find a node for run: PLACED, NO_ROOM or REFUSED */
    JOB_FX_PREPARE, /* have the image ready on run->node: PREPARED, PREPARE_FAILED or NO_ROOM */
    JOB_FX_LAUNCH,  /* start it: STARTED then ENDED; or ENDED; or NO_ROOM */
    JOB_FX_STOP, /* run->id, run->attempt: stop signal, grace, kill. The end comes as ENDED. Before
                    STARTED: give up placing or preparing if that is easy; its answer still comes */
    JOB_FX_CHANGED, /* run has another state: to watchers */
    JOB_FX_ENDED,   /* run has ended, durably: to waiters, profiles, metrics */
    JOB_FX_DROP,    /* id is no longer in memory */
    JOB_FX_DRAINED, /* nothing is placed, prepared or running any more */
};

struct job_effect {
    enum job_effect_type type;
    bool accept;
    uint64_t seq;
    uint64_t token;
    int status;
    struct ulid id;
    uint32_t attempt;
    const struct run *run; /* NULL in DROP, DRAINED, ANSWER with an error, STOP of an unknown run */
    const struct run *former; /* STORE: the attempt that ended as run was queued again, or NULL */
};

struct job_effects {
    size_t n;
    struct job_effect v[JOB_EFFECTS_MAX];
};

struct job_core;

/* -ENOMEM. */
int job_core_new(const struct job_core_config *cfg, struct job_core **ret);
struct job_core *job_core_free(struct job_core *c); /* NULL is fine; returns NULL */

/* Carries one event in. *fx and the runs in it stay valid until the next step of the same core. A
 * core has one step at a time: an effect that can be answered at once is answered by the next step,
 * after the effects of this one were carried out. */
void job_step(struct job_core *c, const struct job_event *ev, struct job_effects *fx);
/* When to send TICK: a time of now_ms's clock, at or before the present when there is more to do
 * right now; UINT64_MAX: no need. */
uint64_t job_deadline_ms(const struct job_core *c);

struct job_counts {
    size_t live;       /* in memory, in any state */
    size_t queued;     /* durable and waiting (retry delays included) */
    size_t active;     /* placed, preparing or running */
    size_t running;    /* started */
    size_t elsewhere;  /* active, on another node */
    size_t placing;    /* PLACE not answered yet */
    size_t storing;    /* accepted by us, not durable yet */
    int64_t oldest_us; /* queued_us of the oldest among the jobs' first runs; 0: none waits */
};
void job_core_counts(const struct job_core *c, struct job_counts *ret);

struct job_job_counts {
    const char *job; /* "": one-offs */
    size_t queued;
    size_t active;
    uint32_t concurrency;
};
/* Walks the jobs that have runs in memory, in order of first appearance: *pos starts at NULL. False
 * at the end. No step meanwhile. */
bool job_core_each(const struct job_core *c, const void **pos, struct job_job_counts *ret);

/* A copy of a run that is in memory. False: it is not (it may be in the store). */
bool job_core_run(const struct job_core *c, struct ulid id, struct run *ret);
bool job_core_draining(const struct job_core *c);
/* Did some run find no room, and waits for it? */
bool job_core_wants_room(const struct job_core *c);

#endif
