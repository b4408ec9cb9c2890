/* The truth of a simulated cluster: classes, job types, times. */
#include <math.h>
#include <string.h>

#include "agent/routing/real.h"
#include "tests/sim/route_sim_internal.h"

static const struct route_features class_features[RSIM_CLASSES] = {
    { .bits = ROUTE_HAS_AVX2, .llc_mib = 16, .ghz = 2.6F },
    { .bits = ROUTE_HAS_AES | ROUTE_HAS_AVX512 | ROUTE_HAS_AVX2, .llc_mib = 32, .ghz = 2.4F },
    { .bits = ROUTE_HAS_AES | ROUTE_HAS_SHA | ROUTE_HAS_AVX2, .llc_mib = 64, .ghz = 3.4F },
    { .bits = ROUTE_HAS_AES, .llc_mib = 8, .ghz = 3.0F },
    /* The one that joins late. */
    { .bits = ROUTE_HAS_AES | ROUTE_HAS_SHA | ROUTE_HAS_AVX512 | ROUTE_HAS_AVX2,
      .llc_mib = 96,
      .ghz = 3.2F },
};
static const char *const class_ids[RSIM_CLASSES] = { "00000000000000a0", "00000000000000b1",
                                                     "00000000000000c2", "00000000000000d3",
                                                     "00000000000000e4" };

const struct route_features *rsim_class_features(unsigned class_at)
{
    return &class_features[class_at];
}

const char *rsim_class_id(unsigned class_at)
{
    return class_ids[class_at];
}

double rsim_quantile_at(size_t i)
{
    static const double at[] = { 0, 0.01, 0.25, 0.5, 0.75, 0.99, 1 };

    return at[i];
}

const char *rsim_policy_name(enum rsim_policy policy)
{
    static const char *const names[] = {
        [RSIM_LEARNED] = "learned",
        [RSIM_ORACLE] = "oracle",
        [RSIM_PROPHET] = "prophet",
        [RSIM_JSQ] = "JSQ (fresh)",
        [RSIM_LEAST_LOADED] = "least-loaded",
        [RSIM_POWER_OF_TWO] = "power-of-two",
        [RSIM_RANDOM] = "random",
    };

    return names[policy];
}

static double uniform(struct rng *r, double low, double high)
{
    return low + (high - low) * rng_unit(r);
}

/* Kinds of jobs: what each gains by which feature, in ln(seconds); measured factors from real
 * machines: AES 12.7x, SHA 4.0x, AVX-512 1.7x, AVX2 3.2x. */
static void job_draw(struct rng *r, size_t i, struct rsim_job *j)
{
    enum { AES = 1, SHA = 2, AVX512 = 3, AVX2 = 4, LLC = 5, GHZ = 6 };
    static const unsigned char kind_of[10] = { AES, AES, SHA, SHA, AVX512, AVX2, LLC, 0, 0, 0 };

    *j = (struct rsim_job){ .popularity = 1 / (1 + 0.15 * (double)i) };
    j->seconds = route_exp(uniform(r, route_ln(0.1), route_ln(3)));
    j->sigma = uniform(r, 0.1, 0.3);
    j->weight[GHZ] = uniform(r, -1, -0.6);
    j->weight[LLC] = uniform(r, -0.05, 0);
    switch (kind_of[i % 10]) {
    case AES:
        j->weight[AES] = -route_ln(uniform(r, 3, 12.7));
        break;
    case SHA:
        j->weight[SHA] = -route_ln(uniform(r, 2, 4));
        break;
    case AVX512:
        j->weight[AVX512] = -route_ln(uniform(r, 1.4, 2.4));
        break;
    case AVX2:
        j->weight[AVX2] = -route_ln(uniform(r, 1.7, 3.2));
        break;
    case LLC:
        j->weight[LLC] = uniform(r, -0.35, -0.15);
        break;
    default:
        break;
    }
    for (size_t c = 0; c < RSIM_CLASSES; c++) {
        j->residual[c] = 0.06 * route_normal(r);
    }
    memcpy(j->later, j->weight, sizeof j->later);
}

void rsim_config_default(struct rsim_config *c, uint64_t seed, enum rsim_policy policy)
{
    struct rng r;

    memset(c, 0, sizeof *c);
    c->seed = seed;
    c->policy = policy;
    c->nodes = 16;
    c->slots = 4;
    c->classes = 4;
    c->jobs = 30;
    c->load = 0.7;
    c->runs = 30000;
    c->runs_warm = 10000;
    c->cold = true;
    rng_init(&r, seed ^ 0x6a6f6273); /* the same jobs for every policy */
    for (size_t i = 0; i < c->jobs; i++) {
        job_draw(&r, i, &c->job[i]);
        /* A job's popularity has nothing to do with its kind. */
        size_t k = rng_below(&r, i + 1);
        double p = c->job[i].popularity;
        c->job[i].popularity = c->job[k].popularity;
        c->job[k].popularity = p;
    }
}

/* ln of the factor between the machine without features and a class. */
double rsim_affinity(const struct rsim_job *j, unsigned class_at, bool later)
{
    double x[ROUTE_BASE_DIM];
    double y = j->residual[class_at];

    route_features_vector(&class_features[class_at], x);
    for (size_t i = 0; i < ROUTE_BASE_DIM; i++) {
        y += (later ? j->later[i] : j->weight[i]) * x[i];
    }
    return y;
}

/* One run's own luck: ln(seconds) on the machine without features. */
double rsim_draw_base(const struct rsim_job *j, struct rng *r)
{
    if (!j->quantiles) {
        return route_ln(j->seconds) + j->sigma * route_normal(r);
    }
    double u = rng_unit(r);
    size_t i = 1;
    while (i < 6 && u > rsim_quantile_at(i)) {
        i++;
    }
    double part = (u - rsim_quantile_at(i - 1)) / (rsim_quantile_at(i) - rsim_quantile_at(i - 1));
    return j->quantile[i - 1] + part * (j->quantile[i] - j->quantile[i - 1]);
}

/* The expectation of the same: with quantiles, by the trapezoid rule. */
double rsim_mean_base(const struct rsim_job *j)
{
    double sum = 0;

    if (!j->quantiles) {
        return route_ln(j->seconds);
    }
    for (size_t i = 1; i < 7; i++) {
        sum += (rsim_quantile_at(i) - rsim_quantile_at(i - 1)) *
               (j->quantile[i] + j->quantile[i - 1]) / 2;
    }
    return sum;
}

/* Seconds expected of a run that is placed anywhere. */
double rsim_mean_seconds(const struct rsim_config *c)
{
    struct rng r;
    double sum = 0;
    double popularity = 0;
    enum { DRAWS = 400 };

    rng_init(&r, c->seed ^ 0x6d65616e);
    for (size_t i = 0; i < c->jobs; i++) {
        const struct rsim_job *j = &c->job[i];
        double mean = 0;
        for (int k = 0; k < DRAWS; k++) {
            mean += route_exp(rsim_draw_base(j, &r)) / DRAWS;
        }
        double classes = 0;
        for (unsigned n = 0; n < c->nodes; n++) {
            classes += route_exp(rsim_affinity(j, n % c->classes, false)) / c->nodes;
        }
        sum += j->popularity * mean * classes;
        popularity += j->popularity;
    }
    return sum / popularity;
}
