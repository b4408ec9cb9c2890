/*
 * model - how long a job takes on a node class: a Bayesian linear regression in ln(seconds).
 *
 * Pure. ln r = w . x with x = [1, aes, sha, avx512, avx2, log2(LLC MiB / 16), ln(GHz / 3),
 * one-hot class]: what the features do not explain, a class's own residual does. The posterior is
 * N(m, A^-1) with A = L Lt, from one Cholesky factorisation of at most 24 x 24. A draw for Thompson
 * sampling is m + 0.25 L^-t z (Agrawal and Goyal 2013, with a smaller step, since a wrong choice is
 * paid by somebody's run).
 */
#ifndef AGENT_ROUTING_MODEL_H
#define AGENT_ROUTING_MODEL_H

#include <stddef.h>

#include "agent/routing/profile.h"
#include "agent/routing/real.h"

enum {
    ROUTE_BASE_DIM = 7,
    ROUTE_MODEL_CLASSES = 17,
    ROUTE_DIM_MAX = ROUTE_BASE_DIM + ROUTE_MODEL_CLASSES,
};

/* Before any run of the job. */
struct route_prior {
    double mean[ROUTE_BASE_DIM];
    double var[ROUTE_BASE_DIM];
    double residual_var; /* of a class */
};

/* What was seen of the job on one class. */
struct route_class_sum {
    char class_id[ROUTE_CLASS_CAP];
    struct route_features features;
    double n, sum, square; /* as in struct route_row */
};

struct route_posterior {
    size_t dim;
    size_t classes;
    char class_id[ROUTE_MODEL_CLASSES][ROUTE_CLASS_CAP];
    double class_n[ROUTE_MODEL_CLASSES];
    double n;            /* of all classes */
    double noise_var;    /* sigma^2 of one run */
    double residual_var; /* of a class that was not seen */
    double m[ROUTE_DIM_MAX];
    double l[ROUTE_PACKED(ROUTE_DIM_MAX)];
};

/* The prior of a cluster that knows nothing. */
void route_prior_cold(struct route_prior *ret);
/* For a job whose code has none of these instructions (enum route_feature_bit): what they are worth
 * to it is 0, give or take 0.05; measurements can still say otherwise. */
void route_prior_without(struct route_prior *p, unsigned absent);
void route_features_vector(const struct route_features *f, double x[ROUTE_BASE_DIM]);

/* sums: ascending by class; of more than 17 classes those with the most runs get a residual of
 * their own. -EDOM when the numbers do not make a distribution (not with rows that decode). */
int route_posterior_make(const struct route_prior *prior, const struct route_class_sum *sums,
                         size_t sums_len, struct route_posterior *ret);

/* A weight vector: the mean (draw NULL), or one Thompson draw. */
struct route_weights {
    double w[ROUTE_DIM_MAX];
    double unseen; /* residual of any class without runs */
};
void route_posterior_weights(const struct route_posterior *p, struct rng *draw,
                             struct route_weights *ret);
/* ln(seconds) on a class by these weights. */
double route_posterior_at(const struct route_posterior *p, const struct route_weights *w,
                          const char *class_id, const struct route_features *f);
/* Standard deviation of the expected ln(seconds) there (not of a single run). */
double route_posterior_spread(const struct route_posterior *p, const char *class_id,
                              const struct route_features *f);
/* Runs that count there; 0 when none. */
double route_posterior_runs(const struct route_posterior *p, const char *class_id);

/* Empirical Bayes: a prior from the jobs that are known. One step of EM over posteriors made with
 * the cold prior, which itself counts as two jobs; floors 0.10 and 0.08 (residual). */
struct route_prior_sum {
    double jobs;
    double mean[ROUTE_BASE_DIM];   /* sum of means */
    double square[ROUTE_BASE_DIM]; /* sum of (mean - cold mean)^2 + variance */
    double residual_n, residual_square;
};
void route_prior_add(struct route_prior_sum *s, const struct route_posterior *p);
void route_prior_warm(const struct route_prior_sum *s, struct route_prior *ret);

#endif
