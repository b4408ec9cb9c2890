/* learn_internal - the rows of a learner by job and revision; for learn*.c and unit tests. */
#ifndef AGENT_ROUTING_LEARN_INTERNAL_H
#define AGENT_ROUTING_LEARN_INTERNAL_H

#include "agent/routing/learn.h"

enum {
    ROUTE_HEALTH_MAX = 4096,
    ROUTE_PRIOR_RUNS = 20,  /* a job with so many runs has a say in the prior */
    ROUTE_PRIOR_EVERY = 64, /* changes of rows until the prior is made again */
    ROUTE_INHERITED_RUNS = 5,
    ROUTE_SUMS_MAX = 256, /* classes of one job that are looked at */
};

struct route_entry {
    char key[ROUTE_KEY_MAX];
    size_t key_len;
    struct route_profile *profile;
    struct route_row row;
};

/* One revision of a job. */
struct route_profile {
    struct route_known *job;
    uint32_t revision;
    struct route_entry **rows; /* ascending by class, then origin */
    size_t len, cap;
    bool fresh; /* model is of the rows as they are, by the prior of model_prior without absent */
    uint8_t absent; /* enum route_feature_bit */
    uint64_t model_prior;
    struct route_posterior model;
    bool said_fresh; /* said is of the rows as they are */
    bool said_any;
    struct route_prior_sum said; /* what it adds to the prior */
};

struct route_known {
    char name[ROUTE_JOB_CAP];
    struct route_profile **profiles; /* ascending by revision */
    size_t len, cap;
};

struct route_health {
    char node[ROUTE_NODE_CAP];
    double h;
};

struct route_learn {
    char node[ROUTE_NODE_CAP];
    char class_id[ROUTE_CLASS_CAP];
    struct route_features features;
    size_t rows_max;
    struct map rows;           /* struct route_entry by key */
    struct map by_name;        /* struct route_known by name */
    struct route_known **jobs; /* ascending by name */
    size_t jobs_len, jobs_cap;
    struct map health; /* struct route_health by node; this node's is health_self */
    double health_self;
    struct route_prior prior;
    uint64_t prior_made;             /* counts up */
    unsigned changes;                /* of rows since the prior was made */
    struct route_posterior stranger; /* of a revision without rows */
};

struct route_profile *route_learn_find(const struct route_learn *l, struct str job,
                                       uint32_t revision);
/* The profile to inherit from: the newest older revision with learned times; may be NULL. */
struct route_profile *route_learn_parent(const struct route_learn *l, struct str job,
                                         uint32_t revision);
/* The job's clock: attempts of the revision over all origins. */
uint64_t route_profile_tick(const struct route_profile *p);
/* Adds the class sums of p to sums (ascending, cap ROUTE_SUMS_MAX), each class's weight at most
 * runs_max (0: no bound). */
void route_profile_sums(const struct route_profile *p, double runs_max,
                        struct route_class_sum *sums, size_t *len);
void route_prior_refresh(struct route_learn *l);

#endif
