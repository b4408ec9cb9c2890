/*
 * node_core_internal - the inside of the core: what node.c and node_peers.c share.
 */
#ifndef AGENT_NODE_CORE_INTERNAL_H
#define AGENT_NODE_CORE_INTERNAL_H

#include "agent/node/node_internal.h"
#include "common/map.h"

struct node_core_peer {
    struct node_peer p; /* facts and images point to what this owns */
    uint64_t seen_ms;   /* when p's load was true */
    /* Its own word of just now, beside p: the table's only comes again when it is another. */
    uint64_t probed_ms; /* when it was said; 0: never */
    unsigned probe_slots_free;
    uint64_t probe_memory_free, probe_wait_us;
    uint64_t blocked_ms; /* not offered anything before this time */
    struct route_fact *facts;
    char *facts_text; /* what the facts' strings point into */
    uint64_t *images; /* sorted */
    char name[RUN_NODE_CAP];
    struct node_class class_of; /* of the facts */
};

struct node_core {
    struct job_core *jobs;
    char name[RUN_NODE_CAP];
    struct node_room room;
    struct map held; /* struct reservation by run id */
    unsigned slots_used;
    uint64_t memory_used;
    unsigned cache_used[RUN_CACHE_COUNT]; /* of slots_used, by their class of cache */
    uint64_t run_us;                      /* how long runs take: a moving mean; 0: none has ended */
    uint64_t now_ms;
    uint64_t settle_ms;  /* as configured */
    uint64_t settled_ms; /* when that is over; 0: not begun */
    uint64_t wanted_ms;  /* until then a run of the queue may want the next room here */
    int64_t now_us;      /* wall clock */
    struct route_fact facts[NODE_FACTS_MAX];
    size_t facts_len;
    struct node_core_peer **peers; /* by name */
    size_t peers_len, peers_cap;
    struct route_learn *learn; /* not ours; may be NULL */
    enum route_policy policy;
    struct rng rng; /* draws and ties of placement */
    struct node_class class_self;
    /* Of the last decision; room for this node and all peers. */
    struct route_candidate *candidates;
    struct route_verdict *verdicts;
};

/* This node as a candidate. */
struct route_candidate node_core_self(const struct node_core *c);
/* Fills candidates[1 …] with the peers; how many there are in all, this node (set by the caller)
 * counted. */
size_t node_core_candidates(struct node_core *c, uint64_t image);
/* Fills in classes and learned times of candidates[0 … len - 1], and how *req is decided. run NULL:
 * no job in particular. */
void node_core_learned(struct node_core *c, const struct run *run, struct route_request *req,
                       size_t len);
int node_core_peers_init(struct node_core *c); /* -ENOMEM */
struct node_core_peer *node_core_peer_find(const struct node_core *c, struct str name);
/* NODE_EV_PEER. True: there is more room now than before. */
bool node_core_peer_set(struct node_core *c, const struct node_peer *p);
void node_core_peer_probed(struct node_core *c, const struct node_peer *p); /* NODE_EV_PROBED */
/* Room that was promised to a run there, or that it gave back. */
void node_core_peer_take(struct node_core_peer *p, uint64_t memory_bytes);
void node_core_peer_give(struct node_core_peer *p, uint64_t memory_bytes);
void node_core_peers_release(struct node_core *c);

#endif
