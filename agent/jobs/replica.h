/*
 * replica - the rules of replicated runs: who has copies, who takes over, and which of two records
 * stands. Pure; what nodes do about it is agent/node's (uv_node_copy.c).
 *
 *   holders   the first live members in rendezvous order of the run's id (Thaler and Ravishankar,
 *             1998), its owner not among them. They are written into the record: whoever has a copy
 *             knows the others.
 *   heir      when the owner is dead: the first live one of these. It takes over with epoch + 1.
 *   merge     of two records of a run, in this order: the higher epoch stands; an end beats no end;
 *             the earlier end beats the later; then the later attempt, the later state and, so that
 *             no order of arrival decides anything, the bytes of the rest. A total order: merging
 *             is commutative, associative and idempotent.
 *
 * In one epoch an owner's record never goes from an end to no end: a retry that somebody asks for
 * begins a new epoch.
 */
#ifndef AGENT_JOBS_REPLICA_H
#define AGENT_JOBS_REPLICA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/jobs/run.h"
#include "common/str.h"

/* Of the n live members (each id once), those that shall have copies of a run of this owner: at
 * most `want` (to RUN_HOLDERS_MAX) into ret. Returns how many. */
size_t job_replica_holders(struct ulid id, uint32_t owner, const uint32_t *live, size_t n,
                           uint32_t *ret, size_t want);
/* The same for the arbiters of a key (an idempotency key): the first `want` of all. */
size_t job_replica_arbiters(struct str key, const uint32_t *live, size_t n, uint32_t *ret,
                            size_t want);
/* Who takes the run over when its owner is gone: its first live holder, or 0. */
uint32_t job_replica_heir(const struct run *r, const uint32_t *live, size_t n);
/* Are there copies enough to accept a run? alive: members that could hold one, the owner not
 * counted; replicas_min: copies in all, the owner's counted. */
bool job_replica_enough(size_t alive, uint64_t replicas_min);

/* Over 0: a stands; under 0: b does; 0: they are the same. A total order. Both are of one run. */
int job_replica_cmp(const struct run *a, const struct run *b);

enum job_replica_verdict {
    JOB_REPLICA_TAKE, /* the newcomer replaces what is here */
    JOB_REPLICA_SAME, /* it says nothing new */
    JOB_REPLICA_STALE /* what is here stands: the sender is told */
};
/* A record comes from its owner, and `have` is here. An owner that repeats itself is taken at its
 * word, unless it had ended. */
enum job_replica_verdict job_replica_judge(const struct run *have, const struct run *come);
/* Did the record that does not stand come to an end of its own? That is kept and counted. */
bool job_replica_doubled(const struct run *stands, const struct run *other);

/* *r as its heir goes on with it: owner `heir` with the next epoch, copies at `holders`. */
void job_replica_take_over(struct run *r, uint32_t heir, const uint32_t *holders, size_t n);
/* Adds a holder, or puts it in the place of one that is not alive. False: it is one already. */
bool job_replica_add_holder(struct run *r, uint32_t holder, const uint32_t *live, size_t n);

/* ---- a record on its way in ---- */

enum job_replica_said {
    JOB_REPLICA_KEPT,    /* it is durable here, or was known */
    JOB_REPLICA_WANTED,  /* nothing is known of this run: document and payload are needed, too */
    JOB_REPLICA_REFUSED, /* what is here stands: see `stands` */
    JOB_REPLICA_DEMOTED, /* kept, and this node's own record of the run gave way to it */
};

/* One record on its way in. */
struct job_replica {
    struct run run;
    struct str record;  /* the same as text: run_to_record() */
    bool full;          /* spec and payload are valid */
    bool skip;          /* said KEPT, and nothing is done */
    bool gone;          /* never accepted after all: whatever is here is forgotten */
    struct str spec;    /* the document in force, normalised */
    struct str payload; /* small ones; large ones lie in a file */
    /* What came of it. */
    enum job_replica_said said;
    bool doubled;    /* two owners had each brought it to an end: the other record is kept aside */
    uint32_t former; /* KEPT: who spoke for it before, when that was another: it is to hear of it */
    struct run stands;
};

#endif
