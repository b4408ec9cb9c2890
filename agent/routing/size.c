#include "agent/routing/size.h"

#include <math.h>

#include "agent/routing/learn_internal.h"
#include "agent/routing/real.h"
#include "common/insist.h"
#include "common/mem.h"

enum {
    SAMPLES_ENOUGH = 8,
    PRIOR_JOBS_MIN = 8,
    RESERVE_RUNS_MIN = 20, /* runs before less than a fixed limit is reserved */
};

/* Of the cache: size.h. */
static const double cache_runs_min = 8;
static const double line_noise = 0.3;
static const double sensitive_min = 0.10;
static const double polluter_max = 0.03;
static const double polluter_bytes = 1e9;

static uint64_t at_most(uint64_t v, uint64_t max)
{
    return max != 0 && v > max ? max : v;
}

static uint64_t grown_by(uint64_t bytes, double factor)
{
    double v = (double)bytes * factor;

    return v >= 9e18 ? (uint64_t)9e18 : (uint64_t)v;
}

uint64_t route_size_grow(uint64_t killed_bytes, uint64_t node_max_bytes)
{
    if (node_max_bytes != 0 && killed_bytes >= node_max_bytes) {
        return 0;
    }
    uint64_t twice = killed_bytes > UINT64_MAX / 2 ? UINT64_MAX : killed_bytes * 2;
    return at_most(twice, node_max_bytes);
}

static void memory_learned(const struct route_totals *known, struct route_size *s)
{
    const struct route_dense *d = &known->memory;

    if (d->total <= 0) {
        return;
    }
    s->runs = d->total;
    s->p50_bytes = route_memory_bucket_top(route_dense_quantile(d, 0.50));
    s->p95_bytes = route_memory_bucket_top(route_dense_quantile(d, 0.95));
    s->p99_bytes = route_memory_bucket_top(route_dense_quantile(d, 0.99));
    s->learned_bytes =
        grown_by(s->p99_bytes, (1 + known->margin) * (1 + 1 / (d->total > 1 ? d->total : 1)));
    if (s->learned_bytes < ROUTE_MEMORY_FLOOR) {
        s->learned_bytes = ROUTE_MEMORY_FLOOR;
    }
}

static void cpu_learned(const struct route_totals *known, struct route_size *s)
{
    if (known->cores.total <= 0) {
        return;
    }
    uint64_t milli = route_cores_bucket_top(route_dense_quantile(&known->cores, 0.95));
    uint64_t weight = milli / 10; /* 100 per processor */
    s->cores_p95_milli = (uint32_t)at_most(milli, UINT32_MAX);
    s->cpu_weight = (uint32_t)at_most(weight, ROUTE_CPU_WEIGHT_MAX);
    if (s->cpu_weight < ROUTE_CPU_WEIGHT_MIN) {
        s->cpu_weight = ROUTE_CPU_WEIGHT_MIN;
    }
}

void route_size_decide(const struct route_totals *known, uint64_t prior_bytes,
                       const struct route_size_ask *ask, struct route_size *ret)
{
    struct route_size s = { .basis = ROUTE_SIZE_FIRST };

    if (known != NULL) {
        s.margin = known->margin;
        memory_learned(known, &s);
        cpu_learned(known, &s);
    }
    if (ask->killed_bytes != 0) {
        s.basis = ROUTE_SIZE_GROWN;
        s.limit_bytes = route_size_grow(ask->killed_bytes, ask->node_max_bytes);
        if (s.limit_bytes < s.learned_bytes) {
            s.limit_bytes = s.learned_bytes;
        }
    } else if (ask->fixed_bytes != 0) {
        s.basis = ROUTE_SIZE_FIXED;
        s.limit_bytes = ask->fixed_bytes;
    } else if (s.learned_bytes != 0) {
        s.basis = ROUTE_SIZE_LEARNED;
        s.limit_bytes = s.learned_bytes;
    } else if (prior_bytes != 0) {
        s.basis = ROUTE_SIZE_PRIOR;
        s.limit_bytes = prior_bytes;
    } else {
        s.limit_bytes = ask->first_bytes != 0 ? ask->first_bytes : ROUTE_MEMORY_FIRST;
    }
    if (s.basis != ROUTE_SIZE_FIXED) {
        s.limit_bytes = at_most(s.limit_bytes, ask->node_max_bytes);
    }
    s.reserve_bytes = s.limit_bytes;
    if (s.basis == ROUTE_SIZE_FIXED && s.runs >= RESERVE_RUNS_MIN &&
        s.learned_bytes < s.limit_bytes) {
        s.reserve_bytes = s.learned_bytes;
    }
    *ret = s;
}

uint64_t route_memory_need(uint64_t peak_bytes, uint64_t fixed_peak_bytes, uint32_t samples,
                           uint64_t limit_bytes)
{
    bool filled = limit_bytes != 0 && peak_bytes >= limit_bytes - limit_bytes / 16;

    if (fixed_peak_bytes >= peak_bytes || samples < SAMPLES_ENOUGH || fixed_peak_bytes == 0) {
        return fixed_peak_bytes > peak_bytes ? fixed_peak_bytes : peak_bytes;
    }
    if (filled) {
        return fixed_peak_bytes + fixed_peak_bytes / 4;
    }
    /* Page cache is worth something too, but not all of it is needed. */
    return fixed_peak_bytes + (peak_bytes - fixed_peak_bytes) / 2;
}

const char *route_size_basis_name(enum route_size_basis basis)
{
    static const char *const names[] = {
        [ROUTE_SIZE_FIRST] = "first",     [ROUTE_SIZE_PRIOR] = "prior",
        [ROUTE_SIZE_LEARNED] = "learned", [ROUTE_SIZE_FIXED] = "fixed",
        [ROUTE_SIZE_GROWN] = "grown",
    };

    REQUIRE((size_t)basis < ARRAY_LEN(names));
    return names[basis];
}

uint64_t route_learn_memory_prior(const struct route_learn *l)
{
    struct route_dense all = { .total = 0 };

    for (size_t i = 0; i < l->jobs_len; i++) {
        const struct route_profile *p = l->jobs[i]->profiles[l->jobs[i]->len - 1];
        struct route_dense *d = mem_zalloc(sizeof *d);
        if (d == NULL) {
            return 0;
        }
        for (size_t k = 0; k < p->len; k++) {
            route_dense_add(d, &p->rows[k]->row.memory, 1);
        }
        if (d->total > 0) {
            all.w[route_dense_quantile(d, 0.99)] += 1;
            all.total += 1;
        }
        mem_free(d);
    }
    if (all.total < PRIOR_JOBS_MIN) {
        return 0;
    }
    uint64_t top = route_memory_bucket_top(route_dense_quantile(&all, 0.95));
    return top + top / 4;
}

const char *route_cache_name(enum route_cache class)
{
    static const char *const names[] = { "default", "sensitive", "polluter" };

    REQUIRE((size_t) class < ARRAY_LEN(names));
    return names[class];
}

void route_cache_decide(const struct route_totals *t, struct route_cache_use *ret)
{
    struct route_cache_use u = { .class = ROUTE_CACHE_DEFAULT, .runs = t->cache_weight };
    double precision = t->line_xx + 1; /* 0.3^2 of a run's time over 0.3^2 of the prior */

    u.elasticity = -t->line_xy / precision;
    u.error = line_noise / sqrt(precision);
    if (t->cache_weight > 0 && t->weight > 0 && t->cpu_s > 0) {
        u.per_cpu_s = (t->bandwidth / t->cache_weight) / (t->cpu_s / t->weight);
    }
    if (t->cache_weight >= cache_runs_min) {
        if (u.elasticity > sensitive_min && u.elasticity > 2 * u.error) {
            u.class = ROUTE_CACHE_SENSITIVE;
        } else if ((u.elasticity < polluter_max || u.elasticity < u.error) &&
                   u.per_cpu_s > polluter_bytes) {
            u.class = ROUTE_CACHE_POLLUTER;
        }
    }
    *ret = u;
}

void route_size_to_json(struct json_w *w, const struct route_size *s)
{
    json_w_obj(w);
    json_kv_cstr(w, "basis", route_size_basis_name(s->basis));
    json_kv_u64(w, "memory_bytes", s->limit_bytes);
    json_kv_u64(w, "memory_reserved_bytes", s->reserve_bytes);
    json_kv_u64(w, "memory_learned_bytes", s->learned_bytes);
    json_kv_real(w, "memory_margin", s->margin, 3);
    json_kv_real(w, "runs", s->runs, 1);
    json_kv_u64(w, "cpu_weight", s->cpu_weight);
    json_w_end(w);
}
