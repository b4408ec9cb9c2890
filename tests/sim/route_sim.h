/*
 * route_sim - a cluster on a virtual clock in which every placement, every profile and every limit
 * goes through the product's own code (agent/routing). What the simulation adds is the truth: how
 * long a run really takes on a class, how arrivals come, how old a node's view of the others is.
 *
 * The same configuration gives the same result on every machine.
 */
#ifndef TESTS_SIM_ROUTE_SIM_H
#define TESTS_SIM_ROUTE_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/routing/routing.h"

enum { RSIM_NODES_MAX = 32, RSIM_CLASSES = 5, RSIM_JOBS_MAX = 128, RSIM_REGRET_MAX = 64 };

enum rsim_policy {
    RSIM_LEARNED,
    RSIM_ORACLE,       /* knows the true expectation of every job everywhere, and every queue */
    RSIM_PROPHET,      /* knows what every single run will take: beyond what can be known */
    RSIM_JSQ,          /* fresh join-shortest-queue */
    RSIM_LEAST_LOADED, /* by the gossiped view */
    RSIM_POWER_OF_TWO, /* fresh, of two drawn */
    RSIM_RANDOM,
    RSIM_POLICIES
};
const char *rsim_policy_name(enum rsim_policy policy);

/* The truth of one job type. */
struct rsim_job {
    double popularity; /* share of the arrivals, any scale */
    double seconds;    /* on a machine without any feature, 16 MiB, 3 GHz */
    double weight[7];  /* of [1, aes, sha, avx512, avx2, log2 LLC, ln GHz] in ln(seconds) */
    double residual[RSIM_CLASSES];
    double sigma;     /* of one run */
    uint64_t from_us; /* arrivals begin */
    double later[7];  /* weights after drift_us */
    /* Instead of seconds and sigma: quantiles of the time, ln(seconds) at the shares of
     * rsim_quantile_at(); used when quantiles is true. */
    bool quantiles;
    double quantile[7];
};

struct rsim_config {
    uint64_t seed;
    enum rsim_policy policy;
    unsigned nodes, slots;
    unsigned classes; /* 1: identical nodes; 2 to 4: node i is of class i % classes */
    size_t jobs;
    struct rsim_job job[RSIM_JOBS_MAX];
    double load;        /* share of all slots that would be busy if runs were placed anywhere */
    uint64_t runs;      /* arrivals in all */
    uint64_t runs_warm; /* of them before measuring begins */
    uint64_t gossip_us; /* 0: 500 ms */
    uint64_t drift_us;  /* 0: never; from then on weights are `later` */
    uint64_t slow_us;   /* 0: never; from then on node 0 takes slow_factor times as long */
    double slow_factor;
    uint64_t join_us; /* 0: never; until then the nodes of the last class take no runs, and the
                         class is a fifth, unseen one */
    unsigned probes;  /* 0: 4 */
    bool cold;        /* an image's first run on a node costs 300 ms */
};

struct rsim_result {
    uint64_t measured;
    double slowdown_mean, slowdown_p50, slowdown_p99; /* response / least possible service time */
    double cpu_s;                                     /* service seconds of measured runs */
    double response_mean_s;
    double end_s; /* virtual seconds */
    double utilisation;
    uint64_t moved;
    /* Cost of the choice (wait + time, by the true expectations) against the oracle's choice in the
     * same state, less 1: mean of all runs but the warm ones, and by the job's own run number for
     * jobs that came late. */
    double regret;
    double regret_last; /* of the last quarter of the measured runs */
    double regret_by_run[RSIM_REGRET_MAX];
    uint64_t regret_runs[RSIM_REGRET_MAX];
    double share_best; /* measured runs that ran on the class that is best for their job */
};

/* The synthetic world of specs: 16 nodes x 4 slots, 4 classes, 30 job types with affinities. */
void rsim_config_default(struct rsim_config *c, uint64_t seed, enum rsim_policy policy);
/* Runs it. Aborts on a broken invariant (a run lost, a slot over-used). */
void rsim_run(const struct rsim_config *c, struct rsim_result *ret);
double rsim_quantile_at(size_t i); /* 0, .01, .25, .5, .75, .99, 1 */

/* Right-sizing: runs drawn from each job's distribution of peaks, limits by the product's rule, a
 * kill is tried again at once with the grown limit. */
struct rsim_memory_job {
    char name[20];
    double popularity;
    size_t points;
    double at[8];  /* 0 to 1, ascending */
    double mib[8]; /* quantiles there */
};
struct rsim_memory_result {
    uint64_t runs, kills;
    double slack; /* mean of 1 - need / limit */
    double limit_bytes, need_bytes;
};
void rsim_memory(const struct rsim_memory_job *jobs, size_t jobs_len, uint64_t runs, uint64_t seed,
                 struct rsim_memory_result *ret);

#endif
