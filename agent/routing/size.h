/*
 * size - how much memory and which share of the processors a run gets.
 *
 * Pure rules over what was measured (learn.h). The limit is p99 (1 + margin) (1 + 1/n) of the job's
 * decayed histogram of needs; the margin tunes itself by what was killed (profile.c). A limit that
 * the user fixed always wins; what was learned is shown beside it.
 */
#ifndef AGENT_ROUTING_SIZE_H
#define AGENT_ROUTING_SIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/routing/learn.h"

enum {
    ROUTE_MEMORY_FLOOR = 16 * 1024 * 1024,
    ROUTE_MEMORY_FIRST = 512 * 1024 * 1024,
    ROUTE_CPU_WEIGHT_MIN = 10,
    ROUTE_CPU_WEIGHT_MAX = 1000,
};

enum route_size_basis {
    ROUTE_SIZE_FIRST,   /* nothing is known */
    ROUTE_SIZE_PRIOR,   /* what other jobs of this cluster need */
    ROUTE_SIZE_LEARNED, /* what this job needed */
    ROUTE_SIZE_FIXED,   /* the user's own limit */
    ROUTE_SIZE_GROWN,   /* the attempt before was killed for memory */
};

struct route_size_ask {
    uint64_t fixed_bytes;    /* the job document's own limit; 0: none */
    uint64_t first_bytes;    /* for a job of which nothing is known; 0: 512 MiB */
    uint64_t node_max_bytes; /* the largest that a run can have; 0: no bound */
    uint64_t killed_bytes; /* the limit under which the attempt before was killed; 0: it was not */
};

struct route_size {
    enum route_size_basis basis;
    uint64_t limit_bytes;
    uint64_t reserve_bytes; /* what admission counts: less than a fixed limit that is never used */
    uint64_t learned_bytes; /* the limit by what was learned alone; 0: nothing is */
    uint64_t p50_bytes, p95_bytes, p99_bytes;
    double margin;
    double runs;         /* that the quantiles are of, decayed */
    uint32_t cpu_weight; /* 100 is one processor; 0: nothing is known */
    uint32_t cores_p95_milli;
};

/* known NULL: nothing. prior_bytes: route_learn_memory_prior(), 0: none. */
void route_size_decide(const struct route_totals *known, uint64_t prior_bytes,
                       const struct route_size_ask *ask, struct route_size *ret);
/* The limit after a kill: twice the last one, then the most that the node gives; 0 when it had that
 * already: the run has failed. */
uint64_t route_size_grow(uint64_t killed_bytes, uint64_t node_max_bytes);
/* What a run needed, between the kernel's peak (which counts page cache that it did not need) and
 * the largest sample of what cannot be reclaimed. With few samples the peak is believed; a peak at
 * the limit is only page cache that filled it when enough samples say so. */
uint64_t route_memory_need(uint64_t peak_bytes, uint64_t fixed_peak_bytes, uint32_t samples,
                           uint64_t limit_bytes);
const char *route_size_basis_name(enum route_size_basis basis);

/* A limit for a job of which nothing is known, from the others: covers 95 of 100 of them. 0 with
 * fewer than 8 jobs. */
uint64_t route_learn_memory_prior(const struct route_learn *l);

/* How a job uses the cache: its class, from 8 runs with cache readings on. elasticity: by how much
 * ln(time) falls per doubling of the cache held, e = -d ln t / d log2 MiB, the slope over its runs,
 * drawn to 0 by a prior of N(0, 0.3^2). */
enum route_cache {
    ROUTE_CACHE_DEFAULT,
    ROUTE_CACHE_SENSITIVE, /* e > 0.10, and at least twice its standard error */
    /* e < 0.03 or not even its standard error, and more than 1 GB per processor second to and from
     * memory: a quarter of a core's fair share of a socket, as servers are built. */
    ROUTE_CACHE_POLLUTER
};
struct route_cache_use {
    enum route_cache class;
    double elasticity, error;
    double per_cpu_s; /* bytes to and from memory per processor second */
    double runs;      /* with cache readings, decayed */
};
void route_cache_decide(const struct route_totals *t, struct route_cache_use *ret);
const char *route_cache_name(enum route_cache class); /* "default", "sensitive", "polluter" */

void route_size_to_json(struct json_w *w, const struct route_size *s); /* one object */

#endif
