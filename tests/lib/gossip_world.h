/*
 * gossip_world - clusters of gossip cores on the simulated network, with what must always hold
 * checked after every step, and questions about progress.
 */
#ifndef TESTS_LIB_GOSSIP_WORLD_H
#define TESTS_LIB_GOSSIP_WORLD_H

#include "agent/gossip/gossip.h"
#include "tests/lib/sim_world.h"

struct cluster;

struct cluster_options {
    uint64_t seed;
    uint32_t nodes;      /* names n0 … */
    uint32_t spare;      /* hosts more, for cluster_move() and cluster_twin() */
    uint32_t meta_bytes; /* of each node's metadata behind our own; 0: our own only */
    bool foreign;        /* metadata is not ours: no hashes in acks */
};

struct cluster *cluster_new(const struct cluster_options *opt);
void cluster_free(struct cluster *c);
struct sim *cluster_sim(struct cluster *c);
uint32_t cluster_len(const struct cluster *c);

/* Starts node i (again: with nothing known, but what it remembered if `remember`). */
void cluster_start(struct cluster *c, uint32_t i, bool remember);
void cluster_crash(struct cluster *c, uint32_t i);
void cluster_join(struct cluster *c, uint32_t i, uint32_t seed);
void cluster_leave(struct cluster *c, uint32_t i);
void cluster_set_meta(struct cluster *c, uint32_t i, uint64_t boot);
/* Node i comes back on another host, that is: at another address. */
void cluster_move(struct cluster *c, uint32_t i);
/* A second node of i's name on another host joins `seed`. */
void cluster_twin(struct cluster *c, uint32_t i, uint32_t seed);
/* To j's application; -Exxx of the core. */
int cluster_send(struct cluster *c, uint32_t i, uint32_t j, size_t bytes, bool reliable);
const struct gossip *cluster_core(const struct cluster *c, uint32_t i); /* NULL: it is down */
uint32_t cluster_host(const struct cluster *c, uint32_t i);

/* Starts all and joins them to node 0, within `within_ms`; runs until all know all. */
void cluster_form(struct cluster *c, uint64_t within_ms);

/* Every node that is up lists exactly the nodes that are up as alive. */
bool cluster_whole(const struct cluster *c);
/* All that are up but i itself see i in that state. */
bool cluster_all_see(const struct cluster *c, uint32_t i, enum gossip_state state);
/* Somebody does. */
bool cluster_any_sees(const struct cluster *c, uint32_t i, enum gossip_state state);
/* All that are up hold i's metadata with that boot. */
bool cluster_all_know_boot(const struct cluster *c, uint32_t i, uint64_t boot);
/* Runs until done() holds; the time that took. Fails the run when it takes longer than max_ms. */
uint64_t cluster_until(struct cluster *c, const char *what,
                       bool (*done)(struct cluster *c, void *arg), void *arg, uint64_t max_ms);

/* What was told to applications since the last reset. */
struct cluster_events {
    uint64_t joined, died, suspected, went, messages;
    uint64_t false_died; /* died, though its process was running (perhaps hanging or cut off) */
    uint64_t well_died;  /* died, though neither it nor the one who says so was marked unwell */
    uint64_t conflicts;
};
struct cluster_events *cluster_events(struct cluster *c);
/* Hangs or is cut off: not counted in well_died. */
void cluster_unwell(struct cluster *c, uint32_t i, bool unwell);

/* Ends the program when a check fails, naming seed and place. */
void cluster_check(bool good, const struct cluster *c, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
