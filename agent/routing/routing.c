#include "agent/routing/routing.h"

#include <math.h>

#include "agent/routing/real.h"
#include "common/insist.h"

/* Within this share of the best score the local node is preferred: forwarding is not free. */
enum { LOCAL_SLACK_PERCENT = 2, WAIT_SLOTS_MAX = 256 };

/* How much a node that is slow for this job is shunned beyond the time itself: (r / r_min)^0.3. It
 * keeps the fast nodes' room for the jobs that gain most by them. */
static const double reserve_power = 0.3;
/* What a polluter beside a cache-sensitive run costs, as a factor of the score. */
static const double neighbour_cost = 0.15;
/* Runs of a job that share the cost of one cold start. */
static const double cold_shared_by = 16;
/* Scores are compared as whole microseconds; this is far more than any wait. */
static const double score_max = 9e18;

static uint64_t add_sat(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* Can the node ever take it (ROUTE_FIT, ROUTE_BUSY), and if not, why? */
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
    if (req->arch.n != 0 && c->arch.n != 0 && !str_eq(req->arch, c->arch)) {
        v.kind = ROUTE_OTHER_ARCH;
    } else if (req->isa != 0 && c->isa != 0 && req->isa > c->isa) {
        v.kind = ROUTE_ISA;
    } else if (req->memory_bytes > c->memory_bytes || req->memory_limit_bytes > c->memory_bytes) {
        v.kind = ROUTE_TOO_MUCH_MEMORY;
    } else if (req->cpu_milli > c->cpu_milli) {
        v.kind = ROUTE_TOO_MANY_CPUS;
    } else if (c->refused) {
        v.kind = ROUTE_REFUSED;
    } else if (c->slots_free == 0 || req->memory_bytes > c->memory_free_bytes) {
        v.kind = ROUTE_BUSY;
    }
    for (size_t i = 0; i < req->prefer_len; i++) {
        v.preferred += route_require_holds(req->prefer[i], c->facts, c->facts_len);
    }
    return v;
}

static bool scored(const struct route_verdict *v)
{
    return v->kind == ROUTE_FIT || v->kind == ROUTE_BUSY;
}

/* What a cold start weighs: less, the more often the job has run, since the image stays warm for
 * the runs to come and a job seen n times will likely be seen n times more. */
static uint64_t cold_cost(const struct route_candidate *c)
{
    double runs = c->learned.runs > 0 ? c->learned.runs : 0;

    return c->image_warm ? 0 : (uint64_t)((double)c->cold_us / (1 + runs / cold_shared_by));
}

static uint64_t learned_score(const struct route_request *req, const struct route_candidate *c,
                              uint64_t run_us, uint64_t run_min_us)
{
    uint64_t sum = add_sat(add_sat(c->wait_us, cold_cost(c)), run_us);
    unsigned neighbours =
        (req->cache_sensitive ? c->polluters : 0) + (req->pollutes ? c->sensitive : 0);

    if (run_us == run_min_us && neighbours == 0) {
        return sum; /* exact, and nothing to compute while nothing is learned */
    }
    double ratio = run_min_us != 0 ? (double)run_us / (double)run_min_us : 1;
    double score = (double)sum * route_exp(reserve_power * route_ln(ratio));
    score *= 1 + neighbour_cost * (neighbours < 2 ? neighbours : 2);
    return score < score_max ? (uint64_t)llround(score) : (uint64_t)score_max;
}

/* Millionths of its slots in use or waited for. */
static uint64_t load_score(const struct route_candidate *c)
{
    uint64_t used = (c->slots > c->slots_free ? c->slots - c->slots_free : 0) + (uint64_t)c->queued;

    return used * 1000000 / (c->slots != 0 ? c->slots : 1);
}

/* A node of which nothing is known is taken to be as fast as the fastest. */
static void score_all(const struct route_request *req, const struct route_candidate *c, size_t n,
                      struct route_verdict *v)
{
    uint64_t run_min = UINT64_MAX;
    uint64_t mean_min = UINT64_MAX;

    for (size_t i = 0; i < n; i++) {
        if (scored(&v[i]) && c[i].run_us != 0) {
            run_min = c[i].run_us < run_min ? c[i].run_us : run_min;
            if (c[i].learned.mean_us != 0 && c[i].learned.mean_us < mean_min) {
                mean_min = c[i].learned.mean_us;
            }
        }
    }
    run_min = run_min != UINT64_MAX ? run_min : 0;
    mean_min = mean_min != UINT64_MAX ? mean_min : 0;
    for (size_t i = 0; i < n; i++) {
        if (!scored(&v[i])) {
            continue;
        }
        v[i].tie = req->rng != NULL ? rng_u64(req->rng) : 0;
        if (req->policy != ROUTE_LEARNED) {
            v[i].score_us = v[i].mean_score_us = load_score(&c[i]);
            continue;
        }
        uint64_t run = c[i].run_us != 0 ? c[i].run_us : run_min;
        uint64_t mean = c[i].learned.mean_us != 0 ? c[i].learned.mean_us : mean_min;
        v[i].score_us = learned_score(req, &c[i], run, run_min);
        v[i].mean_score_us = learned_score(req, &c[i], mean, mean_min);
    }
}

static bool eligible(const struct route_request *req, const struct route_candidate *c,
                     const struct route_verdict *v)
{
    return (v->kind == ROUTE_FIT || (v->kind == ROUTE_BUSY && req->may_queue)) &&
           (!req->probed_only || c->probed || c->local);
}

/* Is a to be taken before b? A total order: preferences, score, local, draw, name. */
static bool before(const struct route_candidate *c, const struct route_verdict *v, size_t a,
                   size_t b, bool by_mean)
{
    uint64_t sa = by_mean ? v[a].mean_score_us : v[a].score_us;
    uint64_t sb = by_mean ? v[b].mean_score_us : v[b].score_us;

    if (v[a].preferred != v[b].preferred) {
        return v[a].preferred > v[b].preferred;
    }
    if (sa != sb) {
        return sa < sb;
    }
    if (c[a].local != c[b].local) {
        return c[a].local;
    }
    if (v[a].tie != v[b].tie) {
        return v[a].tie < v[b].tie;
    }
    return str_cmp(c[a].node, c[b].node) < 0;
}

static ptrdiff_t best_of(const struct route_request *req, const struct route_candidate *c, size_t n,
                         const struct route_verdict *v, bool by_mean)
{
    ptrdiff_t best = -1;

    for (size_t i = 0; i < n; i++) {
        if (eligible(req, &c[i], &v[i]) && (best < 0 || before(c, v, i, (size_t)best, by_mean))) {
            best = (ptrdiff_t)i;
        }
    }
    return best;
}

/* Is there a busy node so much better than the best with room that waiting for it pays? By a
 * quarter at least, and as long as the wait so far is less than the gain. */
static ptrdiff_t worth_waiting(const struct route_request *req, const struct route_candidate *c,
                               size_t n, const struct route_verdict *v, size_t chosen)
{
    ptrdiff_t best = -1;

    if (req->may_queue || c[chosen].run_us == 0) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        /* A busy node that does not say for how long is not waited for. */
        if (v[i].kind == ROUTE_BUSY && c[i].run_us != 0 && c[i].wait_us != 0 &&
            v[i].preferred >= v[chosen].preferred &&
            (best < 0 || before(c, v, i, (size_t)best, false))) {
            best = (ptrdiff_t)i;
        }
    }
    if (best < 0 || v[best].score_us > v[chosen].score_us - v[chosen].score_us / 4 ||
        v[best].score_us > v[chosen].score_us) {
        return -1;
    }
    return req->waited_us < v[chosen].score_us - v[best].score_us ? best : -1;
}

/* The learned choice, and on what ground. */
static void choose_learned(const struct route_request *req, const struct route_candidate *c,
                           size_t n, const struct route_verdict *v, struct route_decision *d)
{
    d->chosen = best_of(req, c, n, v, false);
    if (d->chosen < 0) {
        return;
    }
    d->hold = worth_waiting(req, c, n, v, (size_t)d->chosen);
    if (d->hold >= 0) {
        d->chosen = -1;
        d->basis = ROUTE_BASIS_HOLD;
        return;
    }
    const struct route_verdict *best = &v[d->chosen];
    d->basis = ROUTE_BASIS_WAIT;
    if (c[d->chosen].run_us != 0) {
        d->basis =
            best_of(req, c, n, v, true) == d->chosen ? ROUTE_BASIS_LEARNED : ROUTE_BASIS_EXPLORE;
    }
    for (size_t i = 0; i < n; i++) {
        if (!eligible(req, &c[i], &v[i])) {
            continue;
        }
        if (v[i].preferred < best->preferred) {
            d->basis = ROUTE_BASIS_PREFER;
        } else if (c[i].local && v[i].preferred == best->preferred &&
                   v[i].score_us <=
                       add_sat(best->score_us, best->score_us / 100 * LOCAL_SLACK_PERCENT)) {
            d->chosen = (ptrdiff_t)i;
            d->basis = ROUTE_BASIS_LOCAL;
            return;
        }
    }
}

/* The k-th of those that may be chosen and hold the most preferences. */
static ptrdiff_t nth(const struct route_request *req, const struct route_candidate *c, size_t n,
                     const struct route_verdict *v, unsigned preferred, uint64_t k)
{
    for (size_t i = 0; i < n; i++) {
        if (eligible(req, &c[i], &v[i]) && v[i].preferred == preferred && k-- == 0) {
            return (ptrdiff_t)i;
        }
    }
    return -1;
}

static void choose_drawn(const struct route_request *req, const struct route_candidate *c, size_t n,
                         const struct route_verdict *v, struct route_decision *d)
{
    struct rng fixed;
    struct rng *rng = req->rng;
    unsigned preferred = 0;
    uint64_t count = 0;

    for (size_t i = 0; i < n; i++) {
        if (!eligible(req, &c[i], &v[i])) {
            continue;
        }
        if (count == 0 || v[i].preferred > preferred) {
            preferred = v[i].preferred;
            count = 0;
        }
        count += v[i].preferred == preferred;
    }
    if (count == 0) {
        return;
    }
    if (rng == NULL) {
        rng_init(&fixed, 0);
        rng = &fixed;
    }
    uint64_t first = rng_below(rng, count);
    d->chosen = nth(req, c, n, v, preferred, first);
    d->basis = ROUTE_BASIS_RANDOM;
    if (req->policy == ROUTE_POWER_OF_TWO) {
        d->basis = ROUTE_BASIS_POWER_OF_TWO;
        if (count > 1) {
            uint64_t second = rng_below(rng, count - 1);
            ptrdiff_t other = nth(req, c, n, v, preferred, second < first ? second : second + 1);
            d->chosen = before(c, v, (size_t)other, (size_t)d->chosen, false) ? other : d->chosen;
        }
    }
}

void route_decide(const struct route_request *req, const struct route_candidate *candidates,
                  size_t candidates_len, struct route_verdict *verdicts, struct route_decision *ret)
{
    struct route_decision d = { .chosen = -1, .hold = -1, .basis = ROUTE_BASIS_NONE };
    size_t passed = 0;
    bool required = false;

    for (size_t i = 0; i < candidates_len; i++) {
        verdicts[i] = judge(req, &candidates[i]);
        passed += scored(&verdicts[i]);
        required = required || verdicts[i].kind == ROUTE_REQUIREMENT;
        /* One that refused has room again some day. */
        d.possible = d.possible || scored(&verdicts[i]) || verdicts[i].kind == ROUTE_REFUSED;
    }
    score_all(req, candidates, candidates_len, verdicts);
    switch (req->policy) {
    case ROUTE_LEARNED:
        choose_learned(req, candidates, candidates_len, verdicts, &d);
        break;
    case ROUTE_LEAST_LOADED:
        d.chosen = best_of(req, candidates, candidates_len, verdicts, false);
        d.basis = ROUTE_BASIS_LEAST_LOADED;
        break;
    case ROUTE_POWER_OF_TWO:
    case ROUTE_RANDOM:
        choose_drawn(req, candidates, candidates_len, verdicts, &d);
        break;
    }
    if (d.chosen < 0 && d.hold < 0) {
        d.basis = ROUTE_BASIS_NONE;
    } else if (d.chosen < 0) {
        d.basis = ROUTE_BASIS_HOLD;
    } else if (passed == 1 && required) {
        d.basis = ROUTE_BASIS_REQUIRE;
    }
    *ret = d;
}

size_t route_shortlist(const struct route_request *req, const struct route_candidate *candidates,
                       size_t candidates_len, const struct route_verdict *verdicts, size_t max,
                       size_t *ret)
{
    size_t len = 0;

    for (size_t i = 0; i < candidates_len; i++) {
        if (candidates[i].local || candidates[i].probed ||
            !eligible(req, &candidates[i], &verdicts[i])) {
            continue;
        }
        size_t at = len;
        while (at > 0 && before(candidates, verdicts, i, ret[at - 1], false)) {
            at--;
        }
        if (at >= max) {
            continue;
        }
        len += len < max;
        for (size_t k = len - 1; k > at; k--) {
            ret[k] = ret[k - 1];
        }
        ret[at] = i;
    }
    return len;
}

uint64_t route_wait(unsigned slots, const uint64_t *running_us, size_t running_len,
                    const uint64_t *queued_us, size_t queued_len)
{
    uint64_t busy[WAIT_SLOTS_MAX] = { 0 };
    size_t n = slots < WAIT_SLOTS_MAX ? slots : WAIT_SLOTS_MAX;

    if (n == 0) {
        return UINT64_MAX;
    }
    for (size_t i = 0; i <= running_len + queued_len; i++) {
        size_t first = 0;
        for (size_t k = 1; k < n; k++) {
            first = busy[k] < busy[first] ? k : first;
        }
        if (i == running_len + queued_len) {
            return busy[first];
        }
        busy[first] =
            add_sat(busy[first], i < running_len ? running_us[i] : queued_us[i - running_len]);
    }
    return 0; /* not reached: the loop's last turn returns */
}

uint64_t route_rest(uint64_t expected_us, uint64_t elapsed_us)
{
    uint64_t least = expected_us / 8;

    /* One that is late is expected to go on for a while: the later, the longer. */
    if (elapsed_us >= expected_us) {
        return least > elapsed_us / 4 ? least : elapsed_us / 4;
    }
    return expected_us - elapsed_us > least ? expected_us - elapsed_us : least;
}
