/* Right-sizing against a trace: every limit and every margin is the product's own. */
#include <string.h>

#include "agent/routing/learn.h"
#include "agent/routing/real.h"
#include "agent/routing/size.h"
#include "common/insist.h"
#include "tests/sim/route_sim.h"

static const double mib = 1024.0 * 1024.0;

/* Inverse of the distribution, piece-wise log-linear. */
static uint64_t draw_bytes(const struct rsim_memory_job *j, struct rng *r)
{
    double u = rng_unit(r);
    size_t i = 1;

    while (i + 1 < j->points && u > j->at[i]) {
        i++;
    }
    double part = (u - j->at[i - 1]) / (j->at[i] - j->at[i - 1]);
    double low = route_ln(j->mib[i - 1]);
    double high = route_ln(j->mib[i]);
    return (uint64_t)(route_exp(low + part * (high - low)) * mib);
}

static void one_run(struct route_learn *l, struct str name, uint64_t need,
                    struct rsim_memory_result *ret)
{
    struct route_size_ask ask = { .node_max_bytes = 64ULL << 30 };
    struct route_totals t;
    struct route_size s;
    const struct route_row *row;

    for (;;) {
        bool known = route_learn_totals(l, name, 1, &t);
        route_size_decide(known ? &t : NULL, known ? 0 : route_learn_memory_prior(l), &ask, &s);
        struct route_observation o = { .outcome = ROUTE_OUTCOME_OK,
                                       .elapsed_us = 100000,
                                       .cpu_us = 100000,
                                       .memory_need_bytes = need,
                                       .memory_limit_bytes = s.limit_bytes };
        if (need > s.limit_bytes) {
            o.outcome = ROUTE_OUTCOME_OOM;
        }
        INSIST(route_learn_observe(l, name, 1, &o, &row) == 0);
        if (o.outcome == ROUTE_OUTCOME_OK) {
            ret->limit_bytes += (double)s.limit_bytes;
            ret->need_bytes += (double)need;
            ret->slack += 1 - (double)need / (double)s.limit_bytes;
            return;
        }
        ret->kills++;
        ask.killed_bytes = s.limit_bytes;
        INSIST(s.limit_bytes < ask.node_max_bytes);
    }
}

void rsim_memory(const struct rsim_memory_job *jobs, size_t jobs_len, uint64_t runs, uint64_t seed,
                 struct rsim_memory_result *ret)
{
    struct route_learn_config cfg = { .node = "n", .class_id = "c", .k0 = seed };
    struct route_learn *l = NULL;
    struct rng r;
    double all = 0;

    memset(ret, 0, sizeof *ret);
    rng_init(&r, seed);
    INSIST(route_learn_new(&cfg, &l) == 0);
    for (size_t i = 0; i < jobs_len; i++) {
        all += jobs[i].popularity;
    }
    for (uint64_t k = 0; k < runs; k++) {
        double at = rng_unit(&r) * all;
        size_t i = 0;
        while (i + 1 < jobs_len && at >= jobs[i].popularity) {
            at -= jobs[i++].popularity;
        }
        one_run(l, str_of(jobs[i].name), draw_bytes(&jobs[i], &r), ret);
        ret->runs++;
    }
    ret->slack /= (double)runs;
    route_learn_free(l);
}
