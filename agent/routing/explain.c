#include <errno.h>

#include "agent/routing/real.h"
#include "agent/routing/routing.h"
#include "common/insist.h"

const char *route_verdict_name(enum route_verdict_kind kind)
{
    static const char *const names[] = {
        [ROUTE_FIT] = "fit",
        [ROUTE_BUSY] = "busy",
        [ROUTE_DRAINING] = "draining",
        [ROUTE_REQUIREMENT] = "requirement",
        [ROUTE_TOO_MUCH_MEMORY] = "too_much_memory",
        [ROUTE_TOO_MANY_CPUS] = "too_many_cpus",
        [ROUTE_OTHER_ARCH] = "other_architecture",
        [ROUTE_ISA] = "instructions_missing",
        [ROUTE_REFUSED] = "refused",
    };

    REQUIRE((size_t)kind < ARRAY_LEN(names));
    return names[kind];
}

const char *route_basis_name(enum route_basis basis)
{
    static const char *const names[] = {
        [ROUTE_BASIS_NONE] = "none",
        [ROUTE_BASIS_LOCAL] = "local",
        [ROUTE_BASIS_WAIT] = "wait",
        [ROUTE_BASIS_REQUIRE] = "require",
        [ROUTE_BASIS_PREFER] = "prefer",
        [ROUTE_BASIS_LEARNED] = "learned",
        [ROUTE_BASIS_EXPLORE] = "explore",
        [ROUTE_BASIS_LEAST_LOADED] = "least_loaded",
        [ROUTE_BASIS_POWER_OF_TWO] = "power_of_two",
        [ROUTE_BASIS_RANDOM] = "random",
        [ROUTE_BASIS_HOLD] = "hold",
    };

    REQUIRE((size_t)basis < ARRAY_LEN(names));
    return names[basis];
}

static void seconds(struct json_w *w, const char *key, uint64_t us)
{
    json_kv_real(w, key, (double)us / 1e6, 6);
}

static const char *const policies[] = {
    [ROUTE_LEARNED] = "learned",
    [ROUTE_LEAST_LOADED] = "least-loaded",
    [ROUTE_POWER_OF_TWO] = "power-of-two",
    [ROUTE_RANDOM] = "random",
};

int route_policy_parse(struct str s, enum route_policy *ret)
{
    for (size_t i = 0; i < ARRAY_LEN(policies); i++) {
        if (str_eqs(s, policies[i])) {
            *ret = (enum route_policy)i;
            return 0;
        }
    }
    return -EINVAL;
}

const char *route_policy_name(enum route_policy policy)
{
    REQUIRE((size_t)policy < ARRAY_LEN(policies));
    return policies[policy];
}

static void learned_to_json(struct json_w *w, const struct route_candidate *c)
{
    const struct route_learned *l = &c->learned;

    json_w_key(w, "learned");
    if (l->mean_us == 0) {
        json_w_null(w);
        return;
    }
    json_w_obj(w);
    seconds(w, "seconds", l->mean_us);
    /* As a factor: the mean lies between seconds / spread and seconds * spread, two times in three.
     */
    json_kv_real(w, "spread", route_exp(l->spread), 3);
    json_kv_real(w, "runs", l->runs, 1);
    json_kv_real(w, "class_runs", l->class_runs, 1);
    json_kv_real(w, "health", route_exp(l->health), 3);
    json_w_end(w);
}

static void level(struct json_w *w, const char *key, uint8_t isa)
{
    char text[] = "x86-64-v?";

    text[sizeof(text) - 2] = (char)('0' + isa % 10);
    json_kv_cstr(w, key, text);
}

static void candidate_to_json(struct json_w *w, const struct route_request *req,
                              const struct route_candidate *c, const struct route_verdict *v)
{
    bool scored = v->kind == ROUTE_FIT || v->kind == ROUTE_BUSY;

    json_w_obj(w);
    json_kv_str(w, "node", c->node);
    json_kv_cstr(w, "verdict", route_verdict_name(v->kind));
    if (v->kind == ROUTE_REQUIREMENT) {
        json_kv_str(w, "requirement", req->require[v->require_index]);
    }
    if (v->kind == ROUTE_OTHER_ARCH) {
        json_kv_str(w, "needs", req->arch);
        json_kv_str(w, "has", c->arch);
    } else if (v->kind == ROUTE_ISA) {
        level(w, "needs", req->isa);
        level(w, "has", c->isa);
    }
    json_kv_bool(w, "local", c->local);
    if (c->class_id.n != 0) {
        json_kv_str(w, "class", c->class_id);
    }
    if (scored) {
        seconds(w, "score", v->score_us);
        if (req->prefer_len != 0) {
            json_kv_u64(w, "preferences_held", v->preferred);
        }
    }
    json_kv_bool(w, "image_warm", c->image_warm);
    seconds(w, "wait_seconds", c->wait_us);
    seconds(w, "cold_seconds", c->image_warm ? 0 : c->cold_us);
    json_w_key(w, "run_seconds");
    if (c->run_us != 0) {
        json_w_real(w, (double)c->run_us / 1e6, 6);
    } else {
        json_w_null(w);
    }
    learned_to_json(w, c);
    json_kv_bool(w, "probed", c->probed);
    seconds(w, "age_seconds", c->age_us);
    json_kv_u64(w, "queued", c->queued);
    json_kv_u64(w, "slots_free", c->slots_free);
    json_kv_u64(w, "memory_free_bytes", c->memory_free_bytes);
    json_kv_u64(w, "polluters", c->polluters);
    json_kv_u64(w, "cache_sensitive", c->sensitive);
    json_w_end(w);
}

/* Instructions that the image has nowhere: a node that has them is taken to be no faster for it. */
static void absent_to_json(struct json_w *w, unsigned absent)
{
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = { { ROUTE_HAS_AES, "aes" },
                  { ROUTE_HAS_SHA, "sha" },
                  { ROUTE_HAS_AVX2, "avx2" },
                  { ROUTE_HAS_AVX512, "avx512" } };

    json_w_key(w, "image_without");
    json_w_arr(w);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if ((absent & names[i].bit) != 0) {
            json_w_cstr(w, names[i].name);
        }
    }
    json_w_end(w);
}

void route_to_json(struct json_w *w, const struct route_request *req,
                   const struct route_candidate *candidates, size_t candidates_len,
                   const struct route_verdict *verdicts, const struct route_decision *decision)
{
    json_w_obj(w);
    json_kv_cstr(w, "policy", route_policy_name(req->policy));
    json_kv_cstr(w, "basis", route_basis_name(decision->basis));
    json_w_key(w, "node");
    if (decision->chosen >= 0) {
        json_w_str(w, candidates[decision->chosen].node);
    } else {
        json_w_null(w);
    }
    if (decision->hold >= 0 && decision->basis == ROUTE_BASIS_HOLD) {
        json_kv_str(w, "waits_for", candidates[decision->hold].node);
    }
    json_kv_bool(w, "possible", decision->possible);
    if (req->cache_sensitive || req->pollutes) {
        json_kv_cstr(w, "cache_class", req->cache_sensitive ? "sensitive" : "polluter");
    }
    if (req->isa != 0) {
        level(w, "image_needs", req->isa);
    }
    if (req->absent != 0) {
        absent_to_json(w, req->absent);
    }
    json_w_key(w, "candidates");
    json_w_arr(w);
    for (size_t i = 0; i < candidates_len; i++) {
        candidate_to_json(w, req, &candidates[i], &verdicts[i]);
    }
    json_w_end(w);
    json_w_end(w);
}
