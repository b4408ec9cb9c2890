/*
 * table_world - many shared tables on a virtual clock, network and disk. Everything that happens
 * follows from the seed. The clock does not begin at 0.
 *
 * The network loses, repeats, delays and cuts (groups that do not hear each other); connections
 * (reliable messages) are only cut. A disk makes durable what waits after a while, in order; a
 * crash loses the rest. Membership is told by an oracle: down after down_ms, reaped after reap_ms.
 */
#ifndef TESTS_LIB_TABLE_WORLD_H
#define TESTS_LIB_TABLE_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/table/table.h"
#include "common/heap.h"
#include "common/map.h"
#include "common/rng.h"

struct world_config {
    size_t nodes;
    uint64_t seed;
    unsigned loss_permille, repeat_permille;
    uint64_t delay_min_ms, delay_max_ms;
    bool persist;
    uint64_t down_ms, reap_ms; /* 0: 3,000 and 60,000 */
    struct table_config table; /* what is not 0 counts: tombstone_ms, bytes_per_s, … */
};

struct world_disk {
    struct map rows, streams; /* struct world_record by its key */
    uint64_t durable_seq;
};

struct world_node {
    struct table *table; /* NULL: down */
    char name[24];
    unsigned group;
    uint64_t epoch;
    uint64_t began_ms;
    int64_t wall_offset_ms;
    uint64_t life; /* told apart from what was sent to an earlier one */
    struct heap_node timer;
    struct world_disk disk;
    struct world_record *waiting, *waiting_last; /* not durable yet */
    uint64_t commit_ms;                          /* when it will be; 0: nothing waits */
    uint64_t waiting_seq;
    uint64_t second_ms, second_small, second_bulk; /* bytes sent in the present window of 5 s */
    uint64_t peak_small;                           /* the most in one window, bytes per second */
    uint64_t last_root;
    uint64_t in_step_at_ms;
    size_t changes;
};

struct world {
    struct world_config cfg;
    struct rng rng;
    uint64_t now_ms;
    struct world_node *nodes;
    struct heap timers;
    struct heap events;
    uint64_t sent, lost, steps;
    /* Called for each CHANGED effect; may be NULL. */
    void (*on_change)(void *arg, size_t node, const struct table_effect *fx);
    void *arg;
};

struct world *world_new(const struct world_config *cfg);
void world_free(struct world *w);
void world_run(struct world *w, uint64_t ms);
/* Runs until done() or for at most ms; returns the time that it took, UINT64_MAX when it was not
 * reached. */
uint64_t world_run_until(struct world *w, uint64_t ms, bool (*done)(struct world *w, void *arg),
                         void *arg);
int world_put(struct world *w, size_t node, unsigned type, const char *key, const char *value);
int world_put_bytes(struct world *w, size_t node, unsigned type, struct str key, struct str value);
int world_delete(struct world *w, size_t node, unsigned type, const char *key);
/* A kill -9. */
void world_crash(struct world *w, size_t node, bool lose_disk);
void world_start(struct world *w, size_t node);
/* Nodes of different groups do not hear each other; the oracle tells them so in time. */
void world_group(struct world *w, size_t node, unsigned group);
void world_heal(struct world *w);
/* Feeds a message as it is. */
void world_feed(struct world *w, size_t node, const char *from, struct str bytes);
uint64_t world_root(const struct world *w, size_t node);
/* All that are up know the same rows. */
bool world_converged(struct world *w, void *arg);
/* The rows that a node knows, as one number: equal when all of (type, owner, key, value) are. */
uint64_t world_rows_hash(const struct world *w, size_t node);
/* A copy of the durable records of a node, and the other way. */
struct world_disk *world_disk_copy(const struct world *w, size_t node);
void world_disk_restore(struct world *w, size_t node, struct world_disk *d); /* frees d */
void world_disk_free(struct world_disk *d);

#endif
