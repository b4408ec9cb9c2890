/*
 * job_core_internal - the inside of jobs_core.h: entries, their phases, the queues of jobs.
 *
 *   job_core.c        events, and what follows from them
 *   job_core_queue.c  whose turn it is; delays and deadlines
 *   job_core_entry.c  memory: entries, packed records, queues
 *   job_core_owner.c  runs that change their owner
 *   job_pq.c          priority queue without allocation
 */
#ifndef AGENT_JOBS_JOB_CORE_INTERNAL_H
#define AGENT_JOBS_JOB_CORE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/jobs/job_retry.h"
#include "agent/jobs/jobs_core.h"
#include "common/list.h"
#include "common/map.h"
#include "common/rng.h"

/* --- priority queue: a pairing heap whose nodes live in the elements; no operation can fail --- */

struct job_pq_node {
    struct job_pq_node *child;
    struct job_pq_node *next; /* sibling */
    struct job_pq_node *prev; /* sibling, or parent of the first child; NULL: root or in no queue */
    uint64_t key;
    uint64_t tie; /* unique among the elements: the order is total */
    bool in;
};
struct job_pq {
    struct job_pq_node *root; /* the smallest (key, tie); NULL: empty */
};
void job_pq_add(struct job_pq *q, struct job_pq_node *n);    /* key and tie are set */
void job_pq_remove(struct job_pq *q, struct job_pq_node *n); /* nothing happens when it is not in */

/* --- entries --- */

enum { JOB_ASKERS_MAX = 4 }; /* who wait for the same answer about a run */

/* What the core waits for. Finer than the run's state, which people see. */
enum job_phase {
    JOB_PH_STORING,   /* accepted, not durable yet: STORED */
    JOB_PH_LIMBO,     /* of the store, before RECOVERED */
    JOB_PH_WAITING,   /* its turn, and room */
    JOB_PH_DELAYED,   /* the time of its retry */
    JOB_PH_PLACING,   /* PLACED, NO_ROOM, REFUSED */
    JOB_PH_PREPARING, /* PREPARED, PREPARE_FAILED, NO_ROOM */
    JOB_PH_LAUNCHING, /* STARTED, ENDED, NO_ROOM */
    JOB_PH_RUNNING,   /* ENDED */
    JOB_PH_ENDING,    /* the end is not durable yet: STORED */
    JOB_PH_END_AGAIN, /* that failed: time, then STORE again */
};

struct job_queue {
    struct list link;         /* in job_core.queues, by first appearance */
    struct list rest;         /* in job_core.resting */
    struct job_pq wait;       /* entries, by priority and age */
    struct job_pq_node ready; /* in job_core.ready, by pass */
    uint64_t pass;            /* virtual time: the fewer starts per share, the smaller */
    size_t entries;
    size_t waiting; /* WAITING and DELAYED */
    size_t active;  /* PLACING to RUNNING */
    uint32_t concurrency;
    uint32_t revision; /* that concurrency is from */
    bool resting;      /* its first run found no room; until the next wake */
    struct job_budget budget;
    char name[RUN_JOB_CAP];
};

struct job_entry {
    struct ulid id;
    struct job_queue *queue;
    struct job_pq_node wait;
    struct job_pq_node timer;
    struct list link;           /* in job_core.limbo or .active */
    uint64_t queue_deadline_ms; /* UINT64_MAX: none */
    uint64_t not_before_ms;
    uint64_t end_seq;    /* ENDING, STORING: the STORE that counts */
    uint64_t answer_seq; /* 0, or the STORE that the tokens wait for */
    uint64_t tokens[JOB_ASKERS_MAX];
    uint32_t attempt;
    uint16_t passed;
    uint8_t phase; /* enum job_phase */
    uint8_t priority;
    uint8_t askers;     /* in tokens */
    bool cancel_stored; /* the wish to cancel is durable */
    bool stop_sent;     /* by a drain, or for overtime */
    bool overtime;
    bool elsewhere; /* PREPARING to RUNNING: on another node */
    bool manual;    /* STORING: a RETRY, not a new run */
    uint32_t packed_cap;
    uint8_t *packed;
};

struct job_core {
    struct job_core_config cfg;
    struct rng rng;
    uint64_t now_ms;
    int64_t now_us;
    uint64_t next_seq; /* of STORE */
    uint64_t next_tie;
    struct map entries; /* by id */
    struct map names;   /* queues by name */
    struct list queues;
    struct list limbo;
    struct list active; /* PREPARING to RUNNING */
    struct list resting;
    struct job_pq ready;
    struct job_pq timers;
    uint64_t vtime;
    uint64_t wake_ms; /* UINT64_MAX: nobody rests */
    unsigned misses;
    size_t n_storing, n_waiting, n_placing, n_active, n_running, n_elsewhere;
    bool recovered;
    bool draining;
    bool drain_forward;
    bool drained;
    bool drain_stopped;
    bool more; /* work was left because the effects were full */
    uint64_t drain_deadline_ms;
    struct job_effects *fx; /* of the step that is on */
    size_t runs_n;
    struct run runs[JOB_EFFECTS_MAX]; /* what the effects point to */
};

/* --- memory (job_core_entry.c) --- */

/* A fresh record for this step's effects. */
struct run *job_core_scratch(struct job_core *c);
/* The same, filled with the entry's record. */
struct run *job_core_unpack(struct job_core *c, const struct job_entry *e);
void job_core_read(const struct job_entry *e, struct run *ret);
/* Keeps r as the entry's record. Without memory the detail is cut to what fits. */
void job_core_pack(struct job_entry *e, const struct run *r);
/* An entry in its queue's count, in no list. -ENOMEM, -ENOBUFS (max_live), -EEXIST. */
int job_core_enter(struct job_core *c, const struct run *r, struct job_entry **ret);
void job_core_forget(struct job_core *c, struct job_entry *e); /* frees */
struct job_entry *job_core_find(const struct job_core *c, const struct ulid *id);
struct job_queue *job_core_queue(const struct job_core *c, struct str name);
void job_core_release(struct job_core *c);

struct job_effect *job_core_fx(struct job_core *c, enum job_effect_type type,
                               const struct job_entry *e, const struct run *r);
/* Room for one more event's effects? */
bool job_core_has_room(const struct job_core *c);

/* --- events (job_core.c), for job_core_owner.c --- */

void job_core_leave_active(struct job_core *c, struct job_entry *e);
void job_core_answer(struct job_core *c, struct job_entry *e, int status, const struct run *r);
void job_core_attempt_over(struct job_core *c, struct job_entry *e, struct run *r,
                           const struct job_result *res);
void job_core_held(struct job_core *c, const struct job_event *ev);
uint64_t job_core_store(struct job_core *c, const struct job_entry *e, const struct run *r,
                        bool durable);

/* --- runs that change their owner (job_core_owner.c) --- */

/* TAKE, FENCED, HOLDERS. */
void job_core_owner(struct job_core *c, const struct job_event *ev);

/* --- turns and times (job_core_queue.c) --- */

/* Into the queue (or into limbo, before RECOVERED); delayed when r->retry_at_us lies ahead. */
void job_core_wait(struct job_core *c, struct job_entry *e, const struct run *r);
/* Out of WAITING or DELAYED. */
void job_core_unwait(struct job_core *c, struct job_entry *e);
void job_core_set_timer(struct job_core *c, struct job_entry *e, uint64_t at_ms);
/* Makes the queue take part again when it may. */
void job_core_ready(struct job_core *c, struct job_queue *q);
/* e found no room: its queue rests. */
void job_core_missed(struct job_core *c, struct job_entry *e);
void job_core_wake(struct job_core *c); /* nobody rests any more */
void job_core_dispatch(struct job_core *c);

/* May this end be tried again, and does that use up a retry (job_core_again.c)? Says in the record
 * when it is the budget that forbids it. */
enum job_again { JOB_AGAIN_NO, JOB_AGAIN_RETRY, JOB_AGAIN_FREE };
enum job_again job_core_again(struct job_core *c, const struct job_entry *e, struct run *r,
                              const struct job_result *res);

#endif
