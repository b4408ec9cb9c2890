#include <math.h>
#include <string.h>

#include "agent/routing/learn_internal.h"
#include "agent/routing/size.h"
#include "common/mem.h"

enum { INHERITED_WEIGHT = ROUTE_INHERITED_RUNS };

static void totals_add(struct route_totals *t, const struct route_row *r, uint64_t tick)
{
    uint64_t since = tick > r->tick ? tick - r->tick : 0;
    double f = route_decay(since);
    double fh = route_decay_hist(since);

    t->runs += r->runs;
    t->oom += r->oom;
    t->n += f * r->n;
    t->weight += f * (double)r->weight;
    t->cpu_s += f * (double)r->cpu_s;
    t->read_bytes += f * (double)r->read_bytes;
    t->write_bytes += f * (double)r->write_bytes;
    t->io_ops += f * (double)r->io_ops;
    t->cache_weight += f * (double)r->cache_weight;
    t->cache_mean += f * (double)r->cache_mean;
    t->cache_max += f * (double)r->cache_max;
    t->bandwidth += f * (double)r->bandwidth;
    if (r->cache_n > 0) {
        double xx = r->cache_xx - r->cache_x * r->cache_x / r->cache_n;
        t->line_n += f * r->cache_n;
        t->line_xx += f * (xx > 0 ? xx : 0);
        t->line_xy += f * (r->cache_xy - r->cache_x * r->cache_y / r->cache_n);
    }
    route_dense_add(&t->memory, &r->memory, fh);
    route_dense_add(&t->cores, &r->cores, fh);
}

static void dense_cap(struct route_dense *d, double most)
{
    if (d->total <= most) {
        return;
    }
    double f = most / d->total;
    for (size_t i = 0; i < ROUTE_MEMORY_BUCKETS; i++) {
        d->w[i] *= f;
    }
    d->total *= f;
}

static void profile_totals(const struct route_profile *p, struct route_totals *t)
{
    uint64_t tick = route_profile_tick(p);
    double margin = 0;
    double margin_w = 0;

    memset(t, 0, sizeof *t);
    for (size_t i = 0; i < p->len; i++) {
        const struct route_row *r = &p->rows[i]->row;
        double w = 1e-9 + route_decay(tick > r->tick ? tick - r->tick : 0) * (double)r->weight;
        totals_add(t, r, tick);
        if (r->margin > 0) {
            margin += w * (double)r->margin;
            margin_w += w;
        }
    }
    t->margin = margin_w > 0 ? margin / margin_w : ROUTE_MARGIN_FIRST;
}

bool route_learn_totals(struct route_learn *l, struct str job, uint32_t revision,
                        struct route_totals *ret)
{
    const struct route_profile *p = route_learn_find(l, job, revision);
    const struct route_profile *parent = route_learn_parent(l, job, revision);
    struct route_totals *old = NULL;

    if (p != NULL) {
        profile_totals(p, ret);
        if (ret->memory.total >= INHERITED_WEIGHT || parent == NULL) {
            return true;
        }
    }
    if (parent == NULL) {
        return false;
    }
    if (p == NULL) {
        profile_totals(parent, ret);
        ret->runs = ret->oom = 0;
        dense_cap(&ret->memory, INHERITED_WEIGHT);
        dense_cap(&ret->cores, INHERITED_WEIGHT);
        return true;
    }
    /* The first runs of a new revision: what the old one needed counts for a few. */
    old = mem_zalloc(sizeof *old);
    if (old != NULL) {
        profile_totals(parent, old);
        dense_cap(&old->memory, INHERITED_WEIGHT);
        dense_cap(&old->cores, INHERITED_WEIGHT);
        for (size_t i = 0; i < ROUTE_MEMORY_BUCKETS; i++) {
            ret->memory.w[i] += old->memory.w[i];
            ret->cores.w[i] += old->cores.w[i];
        }
        ret->memory.total += old->memory.total;
        ret->cores.total += old->cores.total;
        ret->margin = old->margin > ret->margin ? old->margin : ret->margin;
        mem_free(old);
    }
    return true;
}

static double per(double sum, double weight)
{
    return weight > 0 ? sum / weight : 0;
}

static void features_to_json(struct json_w *w, const struct route_features *f)
{
    static const struct {
        const char *name;
        uint8_t bit;
    } bits[] = { { "aes", ROUTE_HAS_AES },
                 { "sha", ROUTE_HAS_SHA },
                 { "avx512", ROUTE_HAS_AVX512 },
                 { "avx2", ROUTE_HAS_AVX2 } };

    json_w_key(w, "features");
    json_w_obj(w);
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        json_kv_bool(w, bits[i].name, (f->bits & bits[i].bit) != 0);
    }
    json_kv_real(w, "llc_mib", (double)f->llc_mib, 2);
    json_kv_real(w, "ghz", (double)f->ghz, 2);
    json_w_end(w);
}

static void class_to_json(struct json_w *w, const struct route_posterior *m,
                          const struct route_class_sum *s, const struct route_profile *p)
{
    struct route_weights mean;

    json_w_obj(w);
    json_kv_cstr(w, "class", s->class_id);
    features_to_json(w, &s->features);
    json_kv_real(w, "runs", s->n, 1);
    /* What was seen, and what is expected from it and from what other classes showed. */
    json_kv_real(w, "seen_seconds", route_exp(per(s->sum, s->n)), 6);
    if (m != NULL) {
        route_posterior_weights(m, NULL, &mean);
        json_kv_real(w, "seconds",
                     route_exp(route_posterior_at(m, &mean, s->class_id, &s->features)), 6);
        json_kv_real(w, "spread", route_exp(route_posterior_spread(m, s->class_id, &s->features)),
                     3);
    }
    double cpu = 0;
    double weight = 0;
    uint64_t tick = route_profile_tick(p);
    json_w_key(w, "nodes");
    json_w_arr(w);
    for (size_t i = 0; i < p->len; i++) {
        const struct route_row *r = &p->rows[i]->row;
        if (strcmp(r->class_id, s->class_id) != 0) {
            continue;
        }
        double f = route_decay(tick > r->tick ? tick - r->tick : 0);
        cpu += f * (double)r->cpu_s;
        weight += f * (double)r->weight;
        json_w_obj(w);
        json_kv_cstr(w, "node", r->origin);
        json_kv_u64(w, "runs", r->runs);
        json_kv_real(w, "seen_seconds", r->n > 0 ? route_exp(r->sum / r->n) : 0, 6);
        json_w_end(w);
    }
    json_w_end(w);
    json_kv_real(w, "cpu_seconds", per(cpu, weight), 6);
    json_w_end(w);
}

static void usage_to_json(struct json_w *w, const struct route_totals *t,
                          const struct route_size *size)
{
    struct route_cache_use use;

    json_w_key(w, "cpu");
    json_w_obj(w);
    json_kv_real(w, "seconds", per(t->cpu_s, t->weight), 6);
    json_kv_real(w, "cores_p95", (double)size->cores_p95_milli / 1000, 3);
    json_w_end(w);
    json_w_key(w, "memory");
    json_w_obj(w);
    json_kv_u64(w, "p50_bytes", size->p50_bytes);
    json_kv_u64(w, "p95_bytes", size->p95_bytes);
    json_kv_u64(w, "p99_bytes", size->p99_bytes);
    json_kv_u64(w, "oom_kills", t->oom);
    json_w_end(w);
    json_w_key(w, "io");
    json_w_obj(w);
    json_kv_real(w, "read_bytes", per(t->read_bytes, t->weight), 0);
    json_kv_real(w, "write_bytes", per(t->write_bytes, t->weight), 0);
    json_kv_real(w, "operations", per(t->io_ops, t->weight), 1);
    json_w_end(w);
    json_w_key(w, "cache");
    if (t->cache_weight <= 0) {
        json_w_null(w);
        return;
    }
    json_w_obj(w);
    json_kv_real(w, "mean_bytes", per(t->cache_mean, t->cache_weight), 0);
    json_kv_real(w, "max_bytes", per(t->cache_max, t->cache_weight), 0);
    json_kv_real(w, "bandwidth_bytes", per(t->bandwidth, t->cache_weight), 0);
    route_cache_decide(t, &use);
    json_kv_real(w, "bandwidth_per_cpu_second", use.per_cpu_s, 0);
    json_kv_real(w, "runs", use.runs, 1);
    json_kv_real(w, "elasticity", use.elasticity, 3);
    json_kv_real(w, "elasticity_error", use.error, 3);
    json_kv_cstr(w, "class", route_cache_name(use.class));
    json_w_end(w);
}

bool route_learn_to_json(struct route_learn *l, struct str job, const struct route_size_ask *ask,
                         struct json_w *w)
{
    struct route_class_sum sums[ROUTE_SUMS_MAX];
    struct route_size size;
    uint32_t revision;
    size_t len = 0;

    if (!route_learn_revision(l, job, &revision)) {
        return false;
    }
    const struct route_profile *p = route_learn_find(l, job, revision);
    const struct route_posterior *m = route_learn_model(l, job, revision);
    struct route_totals *t = mem_zalloc(sizeof *t);
    if (t == NULL || p == NULL || !route_learn_totals(l, job, revision, t)) {
        mem_free(t);
        return false;
    }
    route_size_decide(t, route_learn_memory_prior(l), ask, &size);
    json_w_obj(w);
    json_kv_str(w, "job", job);
    json_kv_u64(w, "revision", revision);
    json_kv_u64(w, "runs", t->runs);
    json_kv_real(w, "noise", m != NULL ? route_exp(sqrt(m->noise_var)) : 0, 3);
    route_profile_sums(p, 0, sums, &len);
    json_w_key(w, "classes");
    json_w_arr(w);
    for (size_t i = 0; i < len; i++) {
        class_to_json(w, m, &sums[i], p);
    }
    json_w_end(w);
    usage_to_json(w, t, &size);
    json_w_key(w, "limits");
    route_size_to_json(w, &size);
    json_kv_u64(w, "asked_memory_bytes", ask->fixed_bytes);
    json_w_end(w);
    mem_free(t);
    return true;
}
