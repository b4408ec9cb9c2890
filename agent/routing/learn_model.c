#include <math.h>
#include <string.h>

#include "agent/routing/learn_internal.h"
#include "common/insist.h"
#include "common/mem.h"

/* A class that three or more origins know: one whose mean is this far (in ln) from their median is
 * taken as that far. Health has been taken off before, so honest nodes of a class agree. */
static const double origin_slack = 1.0;
enum { ORIGINS_MIN = 3, ORIGINS_MAX = 256 };

uint64_t route_profile_tick(const struct route_profile *p)
{
    uint64_t tick = 0;

    for (size_t i = 0; i < p->len; i++) {
        tick += p->rows[i]->row.runs; /* each at most 2^48 */
    }
    return tick;
}

static uint64_t ticks_since(const struct route_row *r, uint64_t tick)
{
    return tick > r->tick ? tick - r->tick : 0;
}

/* The middle one of the origins' means (the lower of two). */
static double median_mean(struct route_entry *const *rows, size_t n)
{
    double v[ORIGINS_MAX];
    size_t k = 0;

    for (size_t i = 0; i < n && k < ORIGINS_MAX; i++) {
        if (rows[i]->row.n <= 0) {
            continue;
        }
        double mean = rows[i]->row.sum / rows[i]->row.n;
        size_t at = k++;
        for (; at > 0 && v[at - 1] > mean; at--) {
            v[at] = v[at - 1];
        }
        v[at] = mean;
    }
    return k >= ORIGINS_MIN ? v[(k - 1) / 2] : NAN;
}

/* The rows of one class as one sum. */
static struct route_class_sum class_sum(struct route_entry *const *rows, size_t n, uint64_t tick)
{
    struct route_class_sum s = { .features = rows[0]->row.features };
    double median = median_mean(rows, n);

    memcpy(s.class_id, rows[0]->row.class_id, sizeof s.class_id);
    for (size_t i = 0; i < n; i++) {
        const struct route_row *r = &rows[i]->row;
        if (r->n <= 0) {
            continue;
        }
        double f = route_decay(ticks_since(r, tick));
        double mean = r->sum / r->n;
        double within = r->square - r->sum * mean;
        if (mean > median + origin_slack) { /* never with a median that is not a number */
            mean = median + origin_slack;
        } else if (mean < median - origin_slack) {
            mean = median - origin_slack;
        }
        s.n += f * r->n;
        s.sum += f * r->n * mean;
        s.square += f * (r->n * mean * mean + (within > 0 ? within : 0));
    }
    return s;
}

static void sums_add(struct route_class_sum *sums, size_t *len, const struct route_class_sum *s)
{
    size_t at = 0;

    while (at < *len && strcmp(sums[at].class_id, s->class_id) < 0) {
        at++;
    }
    if (at < *len && strcmp(sums[at].class_id, s->class_id) == 0) {
        sums[at].n += s->n;
        sums[at].sum += s->sum;
        sums[at].square += s->square;
        return;
    }
    if (*len == ROUTE_SUMS_MAX) {
        return;
    }
    memmove(&sums[at + 1], &sums[at], (*len - at) * sizeof *sums);
    sums[at] = *s;
    ++*len;
}

void route_profile_sums(const struct route_profile *p, double runs_max,
                        struct route_class_sum *sums, size_t *len)
{
    uint64_t tick = route_profile_tick(p);

    for (size_t i = 0; i < p->len;) {
        size_t n = 1;
        while (i + n < p->len &&
               strcmp(p->rows[i]->row.class_id, p->rows[i + n]->row.class_id) == 0) {
            n++;
        }
        struct route_class_sum s = class_sum(&p->rows[i], n, tick);
        if (runs_max > 0 && s.n > runs_max) {
            double f = runs_max / s.n;
            s.n *= f;
            s.sum *= f;
            s.square *= f;
        }
        if (s.n > 0) {
            sums_add(sums, len, &s);
        }
        i += n;
    }
}

/* What the newest revision of a job says about jobs in general. */
static void said_refresh(struct route_profile *p)
{
    struct route_class_sum sums[ROUTE_SUMS_MAX];
    struct route_posterior own;
    struct route_prior cold;
    size_t len = 0;

    if (p->said_fresh) {
        return;
    }
    route_prior_cold(&cold);
    route_profile_sums(p, 0, sums, &len);
    p->said = (struct route_prior_sum){ .jobs = 0 };
    p->said_any = false;
    if (route_posterior_make(&cold, sums, len, &own) == 0 && own.n >= ROUTE_PRIOR_RUNS) {
        route_prior_add(&p->said, &own);
        p->said_any = true;
    }
    p->said_fresh = true;
}

void route_prior_refresh(struct route_learn *l)
{
    struct route_prior_sum all = { .jobs = 0 };

    if (l->changes < ROUTE_PRIOR_EVERY) {
        return;
    }
    l->changes = 0;
    for (size_t i = 0; i < l->jobs_len; i++) {
        struct route_profile *p = l->jobs[i]->profiles[l->jobs[i]->len - 1];
        said_refresh(p);
        if (!p->said_any) {
            continue;
        }
        all.jobs += p->said.jobs;
        all.residual_n += p->said.residual_n;
        all.residual_square += p->said.residual_square;
        for (size_t k = 0; k < ROUTE_BASE_DIM; k++) {
            all.mean[k] += p->said.mean[k];
            all.square[k] += p->said.square[k];
        }
    }
    route_prior_warm(&all, &l->prior);
    l->prior_made++;
}

static bool profile_model(struct route_learn *l, struct str job, uint32_t revision, unsigned absent,
                          struct route_profile *p, struct route_posterior *ret)
{
    struct route_class_sum sums[ROUTE_SUMS_MAX];
    struct route_prior prior = l->prior;
    size_t len = 0;
    const struct route_profile *parent = route_learn_parent(l, job, revision);

    route_prior_without(&prior, absent);
    if (p != NULL) {
        route_profile_sums(p, 0, sums, &len);
    }
    if (parent != NULL) {
        route_profile_sums(parent, ROUTE_INHERITED_RUNS, sums, &len);
    }
    return route_posterior_make(&prior, sums, len, ret) == 0;
}

static const struct route_posterior *model_without(struct route_learn *l, struct str job,
                                                   uint32_t revision, unsigned absent)
{
    struct route_profile *p = route_learn_find(l, job, revision);

    route_prior_refresh(l);
    if (p == NULL) {
        /* A revision that has not run yet: made for this one question. */
        return profile_model(l, job, revision, absent, NULL, &l->stranger) ? &l->stranger : NULL;
    }
    if (!p->fresh || p->model_prior != l->prior_made || p->absent != absent) {
        struct route_posterior made;
        if (!profile_model(l, job, revision, absent, p, &made)) {
            return NULL;
        }
        p->model = made;
        p->fresh = true;
        p->model_prior = l->prior_made;
        p->absent = (uint8_t)absent;
    }
    return &p->model;
}

const struct route_posterior *route_learn_model(struct route_learn *l, struct str job,
                                                uint32_t revision)
{
    const struct route_profile *p = route_learn_find(l, job, revision);

    return model_without(l, job, revision, p != NULL ? p->absent : 0);
}

/* Classes of one call: few, so each is worked out once. */
enum { MEMO_MAX = 32 };
struct memo {
    struct str class_id;
    double mean, draw, spread, runs;
};

static struct memo class_predict(const struct route_posterior *p, const struct route_weights *mean,
                                 const struct route_weights *draw, const struct route_candidate *c)
{
    char id[ROUTE_CLASS_CAP];

    (void)str_copy(id, sizeof id, c->class_id);
    return (struct memo){ .class_id = c->class_id,
                          .mean = route_posterior_at(p, mean, id, &c->features),
                          .draw = route_posterior_at(p, draw, id, &c->features),
                          .spread = route_posterior_spread(p, id, &c->features),
                          .runs = route_posterior_runs(p, id) };
}

/* Whole microseconds from ln(seconds), at least 1. */
static uint64_t to_us(double y)
{
    double us = route_exp(y) * 1e6;

    return us >= 1e15 ? 1000000000000000U : us < 1 ? 1 : (uint64_t)llround(us);
}

void route_learn_predict(struct route_learn *l, struct str job, uint32_t revision, unsigned absent,
                         struct rng *rng, struct route_candidate *candidates, size_t candidates_len)
{
    const struct route_posterior *p = model_without(l, job, revision, absent);
    struct route_weights mean;
    struct route_weights draw;
    struct memo memo[MEMO_MAX];
    size_t memo_len = 0;

    if (p == NULL) {
        return;
    }
    route_posterior_weights(p, NULL, &mean);
    draw = mean;
    if (rng != NULL) {
        route_posterior_weights(p, rng, &draw);
    }
    for (size_t i = 0; i < candidates_len; i++) {
        struct route_candidate *c = &candidates[i];
        size_t k = 0;
        if (c->class_id.n == 0) {
            continue;
        }
        while (k < memo_len && !str_eq(memo[k].class_id, c->class_id)) {
            k++;
        }
        if (k == memo_len) {
            k = memo_len < MEMO_MAX ? memo_len++ : MEMO_MAX - 1;
            memo[k] = class_predict(p, &mean, &draw, c);
        }
        double h = route_learn_health(l, c->node);
        c->run_us = to_us(memo[k].draw + h);
        c->learned = (struct route_learned){ .mean_us = to_us(memo[k].mean + h),
                                             .spread = memo[k].spread,
                                             .noise = sqrt(p->noise_var),
                                             .runs = p->n,
                                             .class_runs = memo[k].runs,
                                             .health = h };
    }
}
