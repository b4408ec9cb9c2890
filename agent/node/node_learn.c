/* Between what nodes and runs say of themselves and what routing learns from (pure). */
#include <string.h>

#include "agent/node/node_core_internal.h"
#include "agent/routing/size.h"

static const struct {
    const char *fact;
    uint8_t bit;
} feature_facts[] = {
    { "cpu-cpuid.AESNI", ROUTE_HAS_AES },      { "cpu-cpuid.AES", ROUTE_HAS_AES },
    { "cpu-cpuid.SHA", ROUTE_HAS_SHA },        { "cpu-cpuid.SHA2", ROUTE_HAS_SHA },
    { "cpu-cpuid.AVX512F", ROUTE_HAS_AVX512 }, { "cpu-cpuid.SVE2", ROUTE_HAS_AVX512 },
    { "cpu-cpuid.AVX2", ROUTE_HAS_AVX2 },      { "cpu-cpuid.SVE", ROUTE_HAS_AVX2 },
};

static uint64_t number_of(struct str value, uint64_t max)
{
    uint64_t v;

    return str_u64(value, &v) == 0 && v <= max ? v : 0;
}

void node_class_of(const struct route_fact *facts, size_t n, struct node_class *ret)
{
    struct node_class c = { .isa = 0 };

    for (size_t i = 0; i < n; i++) {
        const struct route_fact *f = &facts[i];
        if (str_eqs(f->name, "node.class") && f->value.n < ROUTE_CLASS_CAP) {
            c.class_id = f->value;
        } else if (str_eqs(f->name, "kubernetes.io/arch")) {
            c.arch = f->value;
        } else if (str_eqs(f->name, NODE_FACT_LEVEL)) {
            c.isa = (uint8_t)number_of(f->value, 4);
        } else if (str_eqs(f->name, NODE_FACT_LLC)) {
            c.features.llc_mib = (float)number_of(f->value, 1 << 20);
        } else if (str_eqs(f->name, NODE_FACT_MHZ)) {
            c.features.ghz = (float)number_of(f->value, 100000) / 1000;
        } else {
            for (size_t k = 0; k < sizeof feature_facts / sizeof feature_facts[0]; k++) {
                if (str_eqs(f->name, feature_facts[k].fact) && !str_eqs(f->value, "false")) {
                    c.features.bits |= feature_facts[k].bit;
                }
            }
        }
    }
    *ret = c;
}

struct str node_profile_name(const struct run *run)
{
    struct str name = str_of(run->job[0] != '\0' ? run->job : run->image);

    return str_slice(name, 0, ROUTE_JOB_CAP - 1);
}

void node_observation_of(const struct job_result *r, const struct telemetry_totals *t,
                         const struct run_limits *limits, struct route_observation *ret)
{
    struct route_observation o = { .outcome = ROUTE_OUTCOME_CUT,
                                   .elapsed_us = t->elapsed_us,
                                   .cpu_us = r->usage.cpu_total_us,
                                   .memory_limit_bytes = limits->memory_bytes,
                                   .read_bytes = r->usage.io_read_bytes,
                                   .write_bytes = r->usage.io_write_bytes,
                                   .io_ops = r->usage.io_read_ops + r->usage.io_write_ops };

    if (r->reason == RUN_REASON_EXIT) {
        o.outcome = r->exit_code == 0 ? ROUTE_OUTCOME_OK : ROUTE_OUTCOME_FAILED;
    } else if (r->reason == RUN_REASON_OOM) {
        o.outcome = ROUTE_OUTCOME_OOM;
    } else if (r->reason == RUN_REASON_SIGNAL) {
        o.outcome = ROUTE_OUTCOME_FAILED;
    }
    /* Both or neither: the mean and the bandwidth are divided by the same count of runs. */
    o.has_cache = (t->has & TELEMETRY_HAS_LLC) != 0 && (t->has & TELEMETRY_HAS_MBM) != 0;
    if (o.has_cache) {
        o.cache_mean_bytes = t->llc_mean_bytes;
        o.cache_max_bytes = t->llc_max_bytes;
        o.bandwidth_bytes = t->mbm_bytes;
    }
    /* Held back for more than a twentieth of its time: that was the quota, not the machine. */
    o.throttled = t->throttled_us > t->elapsed_us / 20;
    if (t->mem_peak_source != TELEMETRY_PEAK_NONE) {
        o.memory_need_bytes = route_memory_need(t->mem_peak_bytes, t->mem_fixed_peak_bytes,
                                                t->samples, limits->memory_bytes);
    } else {
        o.memory_need_bytes = r->usage.memory_peak_bytes;
    }
    *ret = o;
}

void node_core_set_learn(struct node_core *c, struct route_learn *learn)
{
    c->learn = learn;
}

void node_core_set_policy(struct node_core *c, enum route_policy policy)
{
    c->policy = policy;
}

static void class_into(const struct node_class *from, struct route_candidate *to)
{
    to->class_id = from->class_id;
    to->features = from->features;
    to->isa = from->isa;
    to->arch = from->arch;
}

/* What is known of the nodes' classes, and with a job what it would cost there. */
void node_core_learned(struct node_core *c, const struct run *run, struct route_request *req,
                       size_t len)
{
    req->policy = c->policy;
    req->rng = &c->rng;
    class_into(&c->class_self, &c->candidates[0]);
    for (size_t i = 1; i < len; i++) {
        class_into(&c->peers[i - 1]->class_of, &c->candidates[i]);
    }
    if (run != NULL && c->learn != NULL && c->policy == ROUTE_LEARNED) {
        route_learn_predict(c->learn, node_profile_name(run), run->revision, req->absent, &c->rng,
                            c->candidates, len);
    }
}
