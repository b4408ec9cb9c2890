#include "agent/routing/routing.h"

#include <errno.h>

#include "common/insist.h"

/* Within this share of the best score the local node is preferred: forwarding is not free. */
enum { LOCAL_SLACK_PERCENT = 2 };

enum require_op { REQUIRE_PRESENT, REQUIRE_EQUAL, REQUIRE_UNEQUAL, REQUIRE_AT_LEAST };

struct require {
    struct str name;
    struct str value;
    enum require_op op;
};

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_' || c == '/';
}

static int require_parse(struct str s, struct require *ret, struct err *e)
{
    size_t i = 0;

    if (s.n == 0 || s.n > ROUTE_REQUIRE_TEXT_MAX) {
        return err_say(e, -EINVAL, "a requirement has 1 to %d characters", ROUTE_REQUIRE_TEXT_MAX);
    }
    while (i < s.n && name_char(s.p[i])) {
        i++;
    }
    if (i == 0) {
        return err_say(e, -EINVAL, "requirement '%.*s' does not begin with a name", STR_ARG(s));
    }
    struct require r = { .name = str_slice(s, 0, i), .op = REQUIRE_PRESENT };
    struct str rest = str_slice(s, i, s.n - i);
    if (rest.n != 0) {
        size_t op_len = 2;
        if (str_starts(rest, "!=")) {
            r.op = REQUIRE_UNEQUAL;
        } else if (str_starts(rest, ">=")) {
            r.op = REQUIRE_AT_LEAST;
        } else if (rest.p[0] == '=') {
            r.op = REQUIRE_EQUAL;
            op_len = 1;
        } else {
            return err_say(e, -EINVAL, "requirement '%.*s': expected =, != or >= after the name",
                           STR_ARG(s));
        }
        r.value = str_slice(rest, op_len, rest.n - op_len);
        if (r.value.n == 0) {
            return err_say(e, -EINVAL, "requirement '%.*s' has no value", STR_ARG(s));
        }
        uint64_t number;
        if (r.op == REQUIRE_AT_LEAST && str_u64(r.value, &number) != 0) {
            return err_say(e, -EINVAL, "requirement '%.*s': >= needs a whole number", STR_ARG(s));
        }
    }
    *ret = r;
    return 0;
}

int route_require_check(struct str require, struct err *e)
{
    struct require r;

    return require_parse(require, &r, e);
}

bool route_require_holds(struct str require, const struct route_fact *facts, size_t facts_len)
{
    struct require r;
    const struct route_fact *fact = NULL;
    uint64_t want;
    uint64_t have;

    if (require_parse(require, &r, NULL) != 0) {
        return false;
    }
    for (size_t i = 0; i < facts_len && fact == NULL; i++) {
        if (str_eq(facts[i].name, r.name)) {
            fact = &facts[i];
        }
    }
    switch (r.op) {
    case REQUIRE_PRESENT:
        return fact != NULL && !str_eqs(fact->value, "false");
    case REQUIRE_EQUAL:
        return fact != NULL && str_eq(fact->value, r.value);
    case REQUIRE_UNEQUAL:
        return fact == NULL || !str_eq(fact->value, r.value);
    case REQUIRE_AT_LEAST:
        return fact != NULL && str_u64(r.value, &want) == 0 && str_u64(fact->value, &have) == 0 &&
               have >= want;
    }
    return false;
}

static uint64_t add_sat(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static struct route_verdict judge(const struct route_request *req, const struct route_candidate *c)
{
    struct route_verdict v = { .kind = ROUTE_FIT };

    if (c->draining) {
        v.kind = ROUTE_DRAINING;
        return v;
    }
    for (size_t i = 0; i < req->require_len; i++) {
        if (!route_require_holds(req->require[i], c->facts, c->facts_len)) {
            v.kind = ROUTE_REQUIREMENT;
            v.require_index = i;
            return v;
        }
    }
    if (req->memory_bytes > c->memory_bytes) {
        v.kind = ROUTE_TOO_MUCH_MEMORY;
        return v;
    }
    if (req->cpu_milli > c->cpu_milli) {
        v.kind = ROUTE_TOO_MANY_CPUS;
        return v;
    }
    if (c->slots_free == 0 || req->memory_bytes > c->memory_free_bytes) {
        v.kind = ROUTE_BUSY;
    }
    v.score_us = add_sat(add_sat(c->wait_us, c->image_warm ? 0 : c->cold_us), c->run_us);
    return v;
}

/* Is candidate a, with score sa, to be taken before b? A total order: score, local, name. */
static bool before(const struct route_candidate *a, uint64_t sa, const struct route_candidate *b,
                   uint64_t sb)
{
    if (sa != sb) {
        return sa < sb;
    }
    if (a->local != b->local) {
        return a->local;
    }
    return str_cmp(a->node, b->node) < 0;
}

void route_decide(const struct route_request *req, const struct route_candidate *candidates,
                  size_t candidates_len, struct route_verdict *verdicts, struct route_decision *ret)
{
    struct route_decision d = { .chosen = -1, .basis = ROUTE_BASIS_NONE };
    ptrdiff_t local = -1;
    size_t passed = 0;

    for (size_t i = 0; i < candidates_len; i++) {
        verdicts[i] = judge(req, &candidates[i]);
        if (verdicts[i].kind != ROUTE_FIT && verdicts[i].kind != ROUTE_BUSY) {
            continue;
        }
        passed++;
        d.possible = true;
        if (verdicts[i].kind == ROUTE_BUSY) {
            continue;
        }
        if (candidates[i].local) {
            local = (ptrdiff_t)i;
        }
        if (d.chosen < 0 || before(&candidates[i], verdicts[i].score_us, &candidates[d.chosen],
                                   verdicts[d.chosen].score_us)) {
            d.chosen = (ptrdiff_t)i;
        }
    }
    if (d.chosen >= 0) {
        uint64_t best = verdicts[d.chosen].score_us;
        d.basis = ROUTE_BASIS_WAIT;
        if (local >= 0 &&
            verdicts[local].score_us <= add_sat(best, best / 100 * LOCAL_SLACK_PERCENT)) {
            d.chosen = local;
            d.basis = ROUTE_BASIS_LOCAL;
        }
        if (passed == 1 && candidates_len > 1 && req->require_len > 0) {
            d.basis = ROUTE_BASIS_REQUIRE;
        }
    }
    *ret = d;
}

const char *route_verdict_name(enum route_verdict_kind kind)
{
    static const char *const names[] = {
        [ROUTE_FIT] = "fit",
        [ROUTE_BUSY] = "busy",
        [ROUTE_DRAINING] = "draining",
        [ROUTE_REQUIREMENT] = "requirement",
        [ROUTE_TOO_MUCH_MEMORY] = "too_much_memory",
        [ROUTE_TOO_MANY_CPUS] = "too_many_cpus",
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
    };

    REQUIRE((size_t)basis < ARRAY_LEN(names));
    return names[basis];
}

static void seconds(struct json_w *w, const char *key, uint64_t us)
{
    json_kv_real(w, key, (double)us / 1e6, 6);
}

void route_to_json(struct json_w *w, const struct route_request *req,
                   const struct route_candidate *candidates, size_t candidates_len,
                   const struct route_verdict *verdicts, const struct route_decision *decision)
{
    json_w_obj(w);
    json_kv_cstr(w, "basis", route_basis_name(decision->basis));
    json_w_key(w, "node");
    if (decision->chosen >= 0) {
        json_w_str(w, candidates[decision->chosen].node);
    } else {
        json_w_null(w);
    }
    json_kv_bool(w, "possible", decision->possible);
    json_w_key(w, "candidates");
    json_w_arr(w);
    for (size_t i = 0; i < candidates_len; i++) {
        const struct route_candidate *c = &candidates[i];
        json_w_obj(w);
        json_kv_str(w, "node", c->node);
        json_kv_cstr(w, "verdict", route_verdict_name(verdicts[i].kind));
        if (verdicts[i].kind == ROUTE_REQUIREMENT) {
            json_kv_str(w, "requirement", req->require[verdicts[i].require_index]);
        }
        json_kv_bool(w, "local", c->local);
        json_kv_bool(w, "image_warm", c->image_warm);
        seconds(w, "wait_seconds", c->wait_us);
        seconds(w, "cold_seconds", c->image_warm ? 0 : c->cold_us);
        json_w_key(w, "run_seconds");
        if (c->run_us != 0) {
            json_w_real(w, (double)c->run_us / 1e6, 6);
        } else {
            json_w_null(w);
        }
        seconds(w, "age_seconds", c->age_us);
        json_kv_u64(w, "slots_free", c->slots_free);
        json_kv_u64(w, "memory_free_bytes", c->memory_free_bytes);
        json_w_end(w);
    }
    json_w_end(w);
    json_w_end(w);
}
