#include "agent/routing/model.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "common/insist.h"

static const double noise_first = 0.09; /* sigma = 0.3 */
static const double noise_runs = 5;     /* how many runs that guess is worth */
static const double thompson = 0.75;
static const double absent_sd = 0.05;

void route_prior_cold(struct route_prior *ret)
{
    static const double mean[] = { 0, -0.2, -0.15, -0.1, -0.15, -0.1, -0.8 };
    static const double sd[] = { 1.5, 0.7, 0.5, 0.4, 0.4, 0.3, 0.4 };

    for (size_t i = 0; i < ROUTE_BASE_DIM; i++) {
        ret->mean[i] = mean[i];
        ret->var[i] = sd[i] * sd[i];
    }
    ret->residual_var = 0.1 * 0.1;
}

void route_prior_without(struct route_prior *p, unsigned absent)
{
    static const unsigned bits[ROUTE_BASE_DIM] = {
        0, ROUTE_HAS_AES, ROUTE_HAS_SHA, ROUTE_HAS_AVX512, ROUTE_HAS_AVX2, 0, 0
    };

    for (size_t i = 0; i < ROUTE_BASE_DIM; i++) {
        if ((absent & bits[i]) != 0) {
            p->mean[i] = 0;
            p->var[i] = absent_sd * absent_sd;
        }
    }
}

static double between(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

void route_features_vector(const struct route_features *f, double x[ROUTE_BASE_DIM])
{
    x[0] = 1;
    x[1] = (f->bits & ROUTE_HAS_AES) != 0;
    x[2] = (f->bits & ROUTE_HAS_SHA) != 0;
    x[3] = (f->bits & ROUTE_HAS_AVX512) != 0;
    x[4] = (f->bits & ROUTE_HAS_AVX2) != 0;
    /* What is not known is taken as average. */
    x[5] = f->llc_mib > 0 ? between(route_ln((double)f->llc_mib / 16) / route_ln(2), -6, 6) : 0;
    x[6] = f->ghz > 0 ? between(route_ln((double)f->ghz / 3), -1.5, 1.5) : 0;
}

static size_t class_find(const struct route_posterior *p, const char *class_id)
{
    size_t i = 0;

    while (i < p->classes && strcmp(p->class_id[i], class_id) != 0) {
        i++;
    }
    return i;
}

/* The classes that get a residual: all of them, or those with the most runs. */
static void classes_pick(const struct route_class_sum *sums, size_t sums_len,
                         struct route_posterior *p)
{
    for (size_t i = 0; i < sums_len; i++) {
        size_t at = p->classes;
        if (sums[i].n <= 0) {
            continue;
        }
        if (at == ROUTE_MODEL_CLASSES) {
            at = 0;
            for (size_t k = 1; k < p->classes; k++) {
                at = p->class_n[k] < p->class_n[at] ? k : at;
            }
            if (p->class_n[at] >= sums[i].n) {
                continue;
            }
        } else {
            p->classes++;
        }
        memcpy(p->class_id[at], sums[i].class_id, ROUTE_CLASS_CAP);
        p->class_n[at] = sums[i].n;
    }
}

static double noise_of(const struct route_class_sum *sums, size_t sums_len)
{
    double rss = 0;
    double free = 0;

    for (size_t i = 0; i < sums_len; i++) {
        if (sums[i].n > 1) {
            double within = sums[i].square - sums[i].sum * sums[i].sum / sums[i].n;
            rss += within > 0 ? within : 0;
            free += sums[i].n - 1;
        }
    }
    return between((noise_runs * noise_first + rss) / (noise_runs + free), 1e-4, 25);
}

int route_posterior_make(const struct route_prior *prior, const struct route_class_sum *sums,
                         size_t sums_len, struct route_posterior *ret)
{
    struct route_posterior p = { .residual_var = prior->residual_var };

    classes_pick(sums, sums_len, &p);
    p.dim = ROUTE_BASE_DIM + p.classes;
    p.noise_var = noise_of(sums, sums_len);
    for (size_t i = 0; i < p.dim; i++) {
        double precision = 1 / (i < ROUTE_BASE_DIM ? prior->var[i] : prior->residual_var);
        p.l[ROUTE_PACKED(i) + i] = precision;
        p.m[i] = i < ROUTE_BASE_DIM ? precision * prior->mean[i] : 0;
    }
    for (size_t k = 0; k < sums_len; k++) {
        double x[ROUTE_BASE_DIM];
        double n = sums[k].n / p.noise_var;
        double s = sums[k].sum / p.noise_var;
        if (n <= 0) {
            continue;
        }
        p.n += sums[k].n;
        route_features_vector(&sums[k].features, x);
        for (size_t i = 0; i < ROUTE_BASE_DIM; i++) {
            for (size_t j = 0; j <= i; j++) {
                p.l[ROUTE_PACKED(i) + j] += n * x[i] * x[j];
            }
            p.m[i] += s * x[i];
        }
        size_t c = class_find(&p, sums[k].class_id);
        if (c < p.classes) {
            size_t row = ROUTE_BASE_DIM + c;
            for (size_t j = 0; j < ROUTE_BASE_DIM; j++) {
                p.l[ROUTE_PACKED(row) + j] += n * x[j];
            }
            p.l[ROUTE_PACKED(row) + row] += n;
            p.m[row] += s;
        }
    }
    if (route_cholesky(p.l, p.dim) != 0) {
        return -EDOM;
    }
    route_solve_lower(p.l, p.dim, p.m);
    route_solve_upper(p.l, p.dim, p.m);
    *ret = p;
    return 0;
}

void route_posterior_weights(const struct route_posterior *p, struct rng *draw,
                             struct route_weights *ret)
{
    struct route_weights w = { .unseen = 0 };

    if (draw != NULL) {
        for (size_t i = 0; i < p->dim; i++) {
            w.w[i] = route_normal(draw);
        }
        route_solve_upper(p->l, p->dim, w.w);
        w.unseen = thompson * sqrt(p->residual_var) * route_normal(draw);
    }
    for (size_t i = 0; i < p->dim; i++) {
        w.w[i] = p->m[i] + thompson * w.w[i];
    }
    *ret = w;
}

double route_posterior_at(const struct route_posterior *p, const struct route_weights *w,
                          const char *class_id, const struct route_features *f)
{
    double x[ROUTE_BASE_DIM];
    size_t c = class_find(p, class_id);
    double y = c < p->classes ? w->w[ROUTE_BASE_DIM + c] : w->unseen;

    route_features_vector(f, x);
    for (size_t i = 0; i < ROUTE_BASE_DIM; i++) {
        y += w->w[i] * x[i];
    }
    return y;
}

double route_posterior_spread(const struct route_posterior *p, const char *class_id,
                              const struct route_features *f)
{
    double v[ROUTE_DIM_MAX] = { 0 };
    size_t c = class_find(p, class_id);
    double sum = c < p->classes ? 0 : p->residual_var;

    route_features_vector(f, v);
    if (c < p->classes) {
        v[ROUTE_BASE_DIM + c] = 1;
    }
    route_solve_lower(p->l, p->dim, v);
    for (size_t i = 0; i < p->dim; i++) {
        sum += v[i] * v[i];
    }
    return sqrt(sum);
}

double route_posterior_runs(const struct route_posterior *p, const char *class_id)
{
    size_t c = class_find(p, class_id);

    return c < p->classes ? p->class_n[c] : 0;
}

/* Variance of one weight: the squared length of L^-1 e_i. */
static double variance_of(const struct route_posterior *p, size_t i)
{
    double v[ROUTE_DIM_MAX] = { 0 };
    double sum = 0;

    v[i] = 1;
    route_solve_lower(p->l, p->dim, v);
    for (size_t k = 0; k < p->dim; k++) {
        sum += v[k] * v[k];
    }
    return sum;
}

void route_prior_add(struct route_prior_sum *s, const struct route_posterior *p)
{
    struct route_prior cold;

    route_prior_cold(&cold);
    s->jobs += 1;
    for (size_t i = 0; i < ROUTE_BASE_DIM; i++) {
        double d = p->m[i] - cold.mean[i];
        s->mean[i] += p->m[i];
        s->square[i] += d * d + variance_of(p, i);
    }
    for (size_t i = ROUTE_BASE_DIM; i < p->dim; i++) {
        s->residual_n += 1;
        s->residual_square += p->m[i] * p->m[i] + variance_of(p, i);
    }
}

void route_prior_warm(const struct route_prior_sum *s, struct route_prior *ret)
{
    static const double as_jobs = 2;
    static const double floor_feature = 0.10 * 0.10;
    static const double floor_residual = 0.08 * 0.08;
    struct route_prior cold;

    route_prior_cold(&cold);
    double n = as_jobs + s->jobs;
    for (size_t i = 0; i < ROUTE_BASE_DIM; i++) {
        double mean = (as_jobs * cold.mean[i] + s->mean[i]) / n;
        double d = mean - cold.mean[i];
        /* E (m - mean)^2 = E (m - cold)^2 - (mean - cold)^2, over all n. */
        double var = (as_jobs * cold.var[i] + s->square[i]) / n - d * d;
        ret->mean[i] = mean;
        ret->var[i] = var > floor_feature ? var : floor_feature;
    }
    double residual = (8 * cold.residual_var + s->residual_square) / (8 + s->residual_n);
    ret->residual_var = residual > floor_residual ? residual : floor_residual;
}
