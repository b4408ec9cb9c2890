/*
 * learn - everything that a node knows about what jobs cost, from the rows of the shared table.
 *
 * Pure; owned by node.c. Rows go in as the table brings them (any order, again and again); an
 * attempt that ended here is added to this node's own row, which goes out as bytes; predictions
 * come out. The model of a job revision is made again when it is asked for after a change.
 *
 * Node health: one number h per node, in ln(seconds), shared by all jobs: how much slower than its
 * class a node is. Each node learns its own (h <- 0.98 h + 0.02 clip(y - x.m, +-1), once a job has
 * 8 runs) and says so in the table; below 0.05 it counts as none.
 */
#ifndef AGENT_ROUTING_LEARN_H
#define AGENT_ROUTING_LEARN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/routing/model.h"
#include "agent/routing/profile.h"
#include "agent/routing/routing.h"
#include "common/json.h"
#include "common/map.h"

struct route_learn;

struct route_learn_config {
    const char *node;     /* this node's name, without '/'; copied */
    const char *class_id; /* its class; copied */
    struct route_features features;
    size_t rows_max; /* 0: 65,536 */
    uint64_t k0, k1; /* hash key, from the caller's entropy */
};

int route_learn_new(const struct route_learn_config *cfg, struct route_learn **ret); /* -ENOMEM */
struct route_learn *route_learn_free(struct route_learn *l); /* NULL is fine; returns NULL */

/* A row as the table has it. A row of this node is taken only when it knows more runs than ours (a
 * node that starts again gets its own knowledge back). 0; -EINVAL (refused, e says why); -ENOBUFS
 * (rows_max); -ENOMEM. */
int route_learn_put(struct route_learn *l, struct str key, struct str value, struct err *e);
/* The table dropped it. */
void route_learn_remove(struct route_learn *l, struct str key);
size_t route_learn_rows(const struct route_learn *l);

/* An attempt ended on this node. *ret is this node's row of it, to be published; it is valid until
 * the next call. -ENOBUFS, -ENOMEM: not counted. */
int route_learn_observe(struct route_learn *l, struct str job, uint32_t revision,
                        const struct route_observation *o, const struct route_row **ret);

/* This node's own row of a job, or NULL. Valid until the next call that changes l. */
const struct route_row *route_learn_own(const struct route_learn *l, struct str job,
                                        uint32_t revision);

/* Health of a node as it said itself; NaN and absurd values count as 0. At most 4,096 nodes. */
void route_learn_health_put(struct route_learn *l, struct str node, double health);
/* 0 within the dead zone. */
double route_learn_health(const struct route_learn *l, struct str node);
/* This node's own, to be published. */
double route_learn_health_self(const struct route_learn *l);

/* Fills run_us and learned of every candidate that has a class_id. rng: draws (Thompson); NULL: the
 * mean. absent: enum route_feature_bit of instructions that the job's image has nowhere: that a
 * node has them is taken to be worth nothing (as route_prior_without() says). */
void route_learn_predict(struct route_learn *l, struct str job, uint32_t revision, unsigned absent,
                         struct rng *rng, struct route_candidate *candidates,
                         size_t candidates_len);

/* ---- what is known of one job revision ---- */

/* Sums over all rows of one revision, aged to its newest tick. */
struct route_totals {
    uint64_t runs, oom; /* ever */
    double n;           /* runs whose time is learned, decayed */
    double weight;      /* measured runs, decayed */
    double cpu_s, read_bytes, write_bytes, io_ops;
    double cache_weight, cache_mean, cache_max, bandwidth;
    /* Centred sums of "time over cache held", each row about its own mean. */
    double line_n, line_xx, line_xy;
    double margin; /* of the rows, weighted; the first one when none has any */
    struct route_dense memory, cores;
};
/* False when nothing is known of the revision nor of an older one (then *ret is of the newest older
 * one, with its weights capped at 5). */
bool route_learn_totals(struct route_learn *l, struct str job, uint32_t revision,
                        struct route_totals *ret);
/* The newest revision with rows; false when the job has none. */
bool route_learn_revision(const struct route_learn *l, struct str job, uint32_t *ret);
/* NULL when no model can be made (no memory). Valid until the next call with l. */
const struct route_posterior *route_learn_model(struct route_learn *l, struct str job,
                                                uint32_t revision);

/* Job names with rows, ascending: the first one after `after`; false at the end. */
bool route_learn_next(const struct route_learn *l, struct str after, struct str *ret);
/* One object: what is known of the job's newest revision, per class and in all, and the limits that
 * a run would get (GET /v1/profiles/{job}). False, and nothing written, when nothing is known. */
struct route_size_ask; /* size.h */
bool route_learn_to_json(struct route_learn *l, struct str job, const struct route_size_ask *ask,
                         struct json_w *w);

#endif
