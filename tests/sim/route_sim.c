#include "tests/sim/route_sim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/routing/learn.h"
#include "agent/routing/real.h"
#include "common/insist.h"
#include "common/mem.h"
#include "tests/sim/route_sim_internal.h"

enum {
    SLOTS_MAX = 8,
    QUEUE_MAX = 4096,
    FORWARD_US = 1000, /* a probe and an offer to another node */
    COLD_US = 300000,
    DIRTY_MAX = 256,
};

struct run {
    uint64_t arrived_us, queued_us, started_us, expected_us, estimate_us;
    double base;     /* ln seconds without features */
    uint32_t number; /* of its job, from 0 */
    uint16_t job;
    bool measured, moved, cold;
};

struct node {
    char name[8];
    unsigned class_at;
    struct route_learn *learn; /* RSIM_LEARNED */
    struct run *slot[SLOTS_MAX];
    uint64_t ends_us[SLOTS_MAX];
    struct run *queue[QUEUE_MAX];
    size_t queue_len;
    bool warm[RSIM_JOBS_MAX];
    /* What the others know: taken every gossip period, seen one period later. */
    uint64_t told_wait_us, told_at_us;
    unsigned told_free, told_queued;
    double told_health;
    uint16_t dirty[DIRTY_MAX]; /* jobs whose row changed since the last round */
    size_t dirty_len;
    /* Own dispatches by target since the target told. */
    uint64_t sent_us[RSIM_NODES_MAX];
    unsigned sent[RSIM_NODES_MAX];
};

struct sim {
    const struct rsim_config *c;
    struct rng arrivals, choice;
    struct node node[RSIM_NODES_MAX];
    uint64_t now_us, next_arrival_us, next_gossip_us;
    unsigned next_gossip;
    uint64_t arrived, ended, late_count;
    uint32_t number[RSIM_JOBS_MAX];
    double rate_us; /* mean gap of arrivals */
    struct run *runs;
    double *slowdown;
    double base_mean[RSIM_JOBS_MAX]; /* of ln seconds */
    int oracle_by;                   /* enum wait_by */
    size_t slowdown_len;
    double regret, regret_last;
    uint64_t regret_n, regret_last_n;
    double busy_us;
    uint64_t best;
    struct rsim_result *r;
};

static bool joined(const struct sim *s, const struct node *n)
{
    return s->c->join_us == 0 || n->class_at != RSIM_CLASSES - 1 || s->now_us >= s->c->join_us;
}

/* The run's time there: with its own luck, or as it is to be expected. */
static uint64_t truth_us(const struct sim *s, const struct run *r, const struct node *n, bool luck)
{
    bool later = s->c->drift_us != 0 && s->now_us >= s->c->drift_us;
    double y = (luck ? r->base : s->base_mean[r->job]) +
               rsim_affinity(&s->c->job[r->job], n->class_at, later);

    if (s->c->slow_us != 0 && s->now_us >= s->c->slow_us && n == &s->node[0]) {
        y += route_ln(s->c->slow_factor);
    }
    uint64_t us = (uint64_t)(route_exp(y) * 1e6);
    return us > 0 ? us : 1;
}

static uint64_t true_us(const struct sim *s, const struct run *r, const struct node *n)
{
    return truth_us(s, r, n, true);
}

/* How the wait of a new run is known. */
enum wait_by {
    WAIT_EXPECTED, /* as the product does: by what was learned */
    WAIT_TRUTH,    /* by the true expectations */
    WAIT_EXACT,    /* by what will be */
};

static uint64_t wait_us(const struct sim *s, const struct node *n, enum wait_by by)
{
    uint64_t running[SLOTS_MAX];
    uint64_t queued[QUEUE_MAX];
    size_t k = 0;

    for (unsigned i = 0; i < s->c->slots; i++) {
        const struct run *r = n->slot[i];
        if (r != NULL) {
            uint64_t expected = by == WAIT_TRUTH ? truth_us(s, r, n, false) : r->expected_us;
            running[k++] = by == WAIT_EXACT ? n->ends_us[i] - s->now_us
                                            : route_rest(expected, s->now_us - r->started_us);
        }
    }
    for (size_t i = 0; i < n->queue_len; i++) {
        queued[i] = by == WAIT_EXPECTED ? n->queue[i]->expected_us
                                        : truth_us(s, n->queue[i], n, by == WAIT_EXACT);
    }
    return route_wait(s->c->slots, running, k, queued, n->queue_len);
}

static unsigned free_slots(const struct sim *s, const struct node *n)
{
    unsigned k = 0;

    for (unsigned i = 0; i < s->c->slots; i++) {
        k += n->slot[i] == NULL;
    }
    return k;
}

static size_t job_name(unsigned job, char dst[12])
{
    return (size_t)snprintf(dst, 12, "job%u", job);
}

/* ---- a run's life at a node ---- */

static void start(struct sim *s, struct node *n)
{
    unsigned at = 0;

    while (at < s->c->slots && n->slot[at] != NULL) {
        at++;
    }
    if (at == s->c->slots || n->queue_len == 0) {
        return;
    }
    struct run *r = n->queue[0];
    n->queue_len--;
    memmove(&n->queue[0], &n->queue[1], n->queue_len * sizeof n->queue[0]);
    r->started_us = s->now_us;
    n->slot[at] = r;
    r->cold = s->c->cold && !n->warm[r->job];
    n->warm[r->job] = true;
    n->ends_us[at] = s->now_us + true_us(s, r, n) + (r->cold ? COLD_US : 0);
}

static void enqueue(struct sim *s, struct node *n, struct run *r)
{
    INSIST(n->queue_len < QUEUE_MAX);
    r->queued_us = s->now_us;
    n->queue[n->queue_len++] = r;
    start(s, n);
}

static void note_dirty(struct node *n, uint16_t job)
{
    for (size_t i = 0; i < n->dirty_len; i++) {
        if (n->dirty[i] == job) {
            return;
        }
    }
    INSIST(n->dirty_len < DIRTY_MAX);
    n->dirty[n->dirty_len++] = job;
}

static uint64_t least_us(const struct sim *s, const struct run *r, unsigned *ret_class)
{
    uint64_t least = UINT64_MAX;

    for (unsigned i = 0; i < s->c->nodes; i++) {
        uint64_t t = joined(s, &s->node[i]) ? true_us(s, r, &s->node[i]) : UINT64_MAX;
        if (t < least) {
            least = t;
            *ret_class = s->node[i].class_at;
        }
    }
    return least;
}

static void end(struct sim *s, struct node *n, unsigned at)
{
    struct run *r = n->slot[at];
    uint64_t took = n->ends_us[at] - r->started_us - (r->cold ? COLD_US : 0);
    unsigned best_class = 0;

    n->slot[at] = NULL;
    s->ended++;
    if (r->measured) {
        uint64_t least = least_us(s, r, &best_class);
        s->slowdown[s->slowdown_len++] = (double)(s->now_us - r->arrived_us) / (double)least;
        s->r->cpu_s += (double)took / 1e6;
        s->r->response_mean_s += (double)(s->now_us - r->arrived_us) / 1e6;
        s->best += n->class_at == best_class;
    }
    s->busy_us += (double)took;
    if (n->learn != NULL) {
        struct route_observation o = { .outcome = ROUTE_OUTCOME_OK,
                                       .elapsed_us = took,
                                       .cpu_us = took };
        const struct route_row *row;
        char name[12];
        size_t len = job_name(r->job, name);
        INSIST(route_learn_observe(n->learn, (struct str){ name, len }, 1, &o, &row) == 0);
        note_dirty(n, r->job);
    }
    start(s, n);
}

/* ---- placement ---- */

static void candidate_of(const struct sim *s, const struct node *entry, const struct run *r,
                         unsigned i, bool fresh, struct route_candidate *c)
{
    const struct node *n = &s->node[i];
    bool here = n == entry;
    bool exact = s->c->policy == RSIM_ORACLE || s->c->policy == RSIM_PROPHET;

    *c = (struct route_candidate){
        .node = str_of(n->name),
        .local = here,
        .draining = !joined(s, n),
        .image_warm = !s->c->cold || n->warm[r->job],
        .memory_bytes = 1,
        .memory_free_bytes = 1,
        .slots = s->c->slots,
        .cold_us = COLD_US,
        .class_id = str_of(rsim_class_id(n->class_at)),
        .features = *rsim_class_features(n->class_at),
        .probed = fresh || here,
    };
    if (fresh || here || exact) {
        c->slots_free = free_slots(s, n);
        c->queued = (unsigned)n->queue_len;
        c->wait_us = wait_us(s, n, exact ? s->oracle_by : WAIT_EXPECTED);
    } else {
        unsigned sent = entry->sent[i];
        c->slots_free = n->told_free > sent ? n->told_free - sent : 0;
        c->queued = n->told_queued + (sent > n->told_free ? sent - n->told_free : 0);
        uint64_t past = s->now_us - n->told_at_us;
        uint64_t wait = n->told_wait_us > past ? n->told_wait_us - past : 0;
        /* What we sent there since it told, spread over its slots. */
        c->wait_us = sent > n->told_free ? wait + entry->sent_us[i] / s->c->slots : wait;
        c->age_us = past;
    }
}

/* Asks the best ones for their present state; again for others, while one that was not asked looks
 * better than all that were. */
static void probe(const struct sim *s, const struct route_request *req, struct route_candidate *c,
                  struct route_verdict *v)
{
    struct route_decision d;
    size_t best[16];

    for (int round = 0; round < ROUTE_PROBE_ROUNDS; round++) {
        route_decide(req, c, s->c->nodes, v, &d);
        if (d.chosen >= 0 && c[d.chosen].probed) {
            return;
        }
        size_t n =
            route_shortlist(req, c, s->c->nodes, v, s->c->probes != 0 ? s->c->probes : 4, best);
        for (size_t k = 0; k < n; k++) {
            const struct node *p = &s->node[best[k]];
            c[best[k]].slots_free = free_slots(s, p);
            c[best[k]].queued = (unsigned)p->queue_len;
            c[best[k]].wait_us = wait_us(s, p, WAIT_EXPECTED);
            c[best[k]].probed = true;
        }
    }
}

static unsigned choose(struct sim *s, struct node *entry, struct run *r)
{
    static const enum route_policy policies[] = {
        [RSIM_LEARNED] = ROUTE_LEARNED,           [RSIM_ORACLE] = ROUTE_LEARNED,
        [RSIM_JSQ] = ROUTE_LEAST_LOADED,          [RSIM_LEAST_LOADED] = ROUTE_LEAST_LOADED,
        [RSIM_POWER_OF_TWO] = ROUTE_POWER_OF_TWO, [RSIM_RANDOM] = ROUTE_RANDOM,
    };
    struct route_candidate c[RSIM_NODES_MAX];
    struct route_verdict v[RSIM_NODES_MAX];
    struct route_decision d;
    struct route_request req = { .policy = policies[s->c->policy],
                                 .rng = &s->choice,
                                 .may_queue = true };
    bool fresh = s->c->policy == RSIM_JSQ || s->c->policy == RSIM_POWER_OF_TWO;
    char name[12];

    for (unsigned i = 0; i < s->c->nodes; i++) {
        candidate_of(s, entry, r, i, fresh, &c[i]);
        if (s->c->policy == RSIM_ORACLE || s->c->policy == RSIM_PROPHET) {
            c[i].run_us = c[i].learned.mean_us =
                truth_us(s, r, &s->node[i], s->oracle_by == WAIT_EXACT);
        }
    }
    if (s->c->policy == RSIM_LEARNED) {
        size_t len = job_name(r->job, name);
        route_learn_predict(entry->learn, (struct str){ name, len }, 1, 0, &s->choice, c,
                            s->c->nodes);
        probe(s, &req, c, v);
    }
    route_decide(&req, c, s->c->nodes, v, &d);
    INSIST(d.chosen >= 0);
    r->expected_us = c[d.chosen].learned.mean_us;
    r->estimate_us = c[d.chosen].wait_us;
    return (unsigned)d.chosen;
}

/* The oracle's choice in this very state, and what both cost: wait and time. */
static double regret_of(struct sim *s, const struct node *entry, const struct run *r,
                        unsigned chosen)
{
    struct route_candidate c[RSIM_NODES_MAX];
    struct route_verdict v[RSIM_NODES_MAX];
    struct route_decision d;
    struct route_request req = { .may_queue = true };

    for (unsigned i = 0; i < s->c->nodes; i++) {
        candidate_of(s, entry, r, i, true, &c[i]);
        c[i].wait_us = wait_us(s, &s->node[i], WAIT_TRUTH);
        c[i].run_us = c[i].learned.mean_us = truth_us(s, r, &s->node[i], false);
    }
    route_decide(&req, c, s->c->nodes, v, &d);
    double ours = (double)(c[chosen].wait_us + c[chosen].run_us);
    double best = (double)(c[d.chosen].wait_us + c[d.chosen].run_us);
    return ours / best - 1;
}

static void note_regret(struct sim *s, const struct node *entry, const struct run *r,
                        unsigned chosen)
{
    if (s->c->policy != RSIM_LEARNED || !r->measured) {
        return;
    }
    double regret = regret_of(s, entry, r, chosen);
    s->regret += regret;
    s->regret_n++;
    if (s->arrived > s->c->runs - (s->c->runs - s->c->runs_warm) / 4) {
        s->regret_last += regret;
        s->regret_last_n++;
    }
    if (s->c->job[r->job].from_us > 0 && r->number < RSIM_REGRET_MAX) {
        s->r->regret_by_run[r->number] += regret;
        s->r->regret_runs[r->number]++;
    }
}

static void dispatch(struct sim *s, struct node *entry, struct run *r)
{
    unsigned to = choose(s, entry, r);
    struct node *n = &s->node[to];

    if (!r->moved) {
        note_regret(s, entry, r, to);
    }
    if (n != entry) {
        entry->sent[to]++;
        entry->sent_us[to] += r->expected_us;
    }
    enqueue(s, n, r);
}

/* ---- events ---- */

static uint16_t draw_job(struct sim *s)
{
    double sum = 0;

    for (size_t i = 0; i < s->c->jobs; i++) {
        sum += s->c->job[i].from_us <= s->now_us ? s->c->job[i].popularity : 0;
    }
    double at = rng_unit(&s->arrivals) * sum;
    uint16_t last = 0;
    for (uint16_t i = 0; i < s->c->jobs; i++) {
        if (s->c->job[i].from_us > s->now_us) {
            continue;
        }
        last = i;
        at -= s->c->job[i].popularity;
        if (at < 0) {
            break;
        }
    }
    return last;
}

static void arrive(struct sim *s)
{
    struct run *r = &s->runs[s->arrived];
    uint16_t job = draw_job(s);

    *r = (struct run){ .arrived_us = s->now_us,
                       .job = job,
                       .base = rsim_draw_base(&s->c->job[job], &s->arrivals),
                       .number = s->number[job]++,
                       .measured = s->arrived >= s->c->runs_warm };
    unsigned entry;
    do {
        entry = (unsigned)rng_below(&s->arrivals, s->c->nodes);
    } while (!joined(s, &s->node[entry]));
    s->arrived++;
    double gap = -s->rate_us * route_ln(1 - rng_unit(&s->arrivals));
    s->next_arrival_us = s->now_us + 1 + (uint64_t)gap;
    dispatch(s, &s->node[entry], r);
}

/* A run that has waited more than twice what was estimated may go elsewhere, once. */
static void move_late(struct sim *s, struct node *n)
{
    for (size_t i = n->queue_len; i-- > 0;) {
        struct run *r = n->queue[i];
        if (r->moved || s->now_us - r->queued_us <= 2 * r->estimate_us + 100000) {
            continue;
        }
        n->queue_len--;
        memmove(&n->queue[i], &n->queue[i + 1], (n->queue_len - i) * sizeof n->queue[0]);
        r->moved = true;
        s->r->moved++;
        dispatch(s, n, r);
        return; /* one per round */
    }
}

static void tell_rows(struct sim *s, struct node *n)
{
    struct buf value = BUF_INIT(ROUTE_VALUE_MAX);
    struct route_row key_row;
    char key[ROUTE_KEY_MAX];

    for (size_t i = 0; i < n->dirty_len; i++) {
        char name[12];
        (void)job_name(n->dirty[i], name);
        const struct route_row *row = route_learn_own(n->learn, str_of(name), 1);
        INSIST(row != NULL);
        key_row = *row;
        size_t key_len = route_row_key(&key_row, key);
        buf_reset(&value);
        route_row_encode(&key_row, &value);
        for (unsigned k = 0; k < s->c->nodes; k++) {
            if (&s->node[k] != n) {
                INSIST(route_learn_put(s->node[k].learn, (struct str){ key, key_len },
                                       buf_str(&value), NULL) == 0);
            }
        }
    }
    n->dirty_len = 0;
    buf_release(&value);
}

/* One node's turn: what it told a period ago is what the others see from now on. */
static void gossip(struct sim *s)
{
    struct node *n = &s->node[s->next_gossip];

    n->told_wait_us = wait_us(s, n, WAIT_EXPECTED);
    n->told_at_us = s->now_us;
    n->told_free = free_slots(s, n);
    n->told_queued = (unsigned)n->queue_len;
    for (unsigned k = 0; k < s->c->nodes; k++) {
        s->node[k].sent[s->next_gossip] = 0;
        s->node[k].sent_us[s->next_gossip] = 0;
    }
    if (n->learn != NULL) {
        tell_rows(s, n);
        for (unsigned k = 0; k < s->c->nodes; k++) {
            route_learn_health_put(s->node[k].learn, str_of(n->name), n->told_health);
        }
        n->told_health = route_learn_health_self(n->learn);
        move_late(s, n);
    }
    s->next_gossip = (s->next_gossip + 1) % s->c->nodes;
    uint64_t period = s->c->gossip_us != 0 ? s->c->gossip_us : 500000;
    s->next_gossip_us = s->now_us + period / s->c->nodes;
}

/* The next end of a run; UINT64_MAX when nothing runs. */
static uint64_t next_end(struct sim *s, unsigned *ret_node, unsigned *ret_slot)
{
    uint64_t first = UINT64_MAX;

    for (unsigned i = 0; i < s->c->nodes; i++) {
        for (unsigned k = 0; k < s->c->slots; k++) {
            if (s->node[i].slot[k] != NULL && s->node[i].ends_us[k] < first) {
                first = s->node[i].ends_us[k];
                *ret_node = i;
                *ret_slot = k;
            }
        }
    }
    return first;
}

static void step(struct sim *s)
{
    unsigned n = 0;
    unsigned slot = 0;
    uint64_t at = next_end(s, &n, &slot);
    uint64_t arrival = s->arrived < s->c->runs ? s->next_arrival_us : UINT64_MAX;

    if (at <= arrival && at <= s->next_gossip_us) {
        s->now_us = at;
        end(s, &s->node[n], slot);
    } else if (arrival <= s->next_gossip_us) {
        s->now_us = arrival;
        arrive(s);
    } else {
        s->now_us = s->next_gossip_us;
        gossip(s);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static void sum_up(struct sim *s)
{
    struct rsim_result *r = s->r;
    size_t n = s->slowdown_len;

    qsort(s->slowdown, n, sizeof s->slowdown[0], by_value);
    for (size_t i = 0; i < n; i++) {
        r->slowdown_mean += s->slowdown[i] / (double)n;
    }
    r->measured = n;
    r->slowdown_p50 = s->slowdown[n / 2];
    r->slowdown_p99 = s->slowdown[n * 99 / 100];
    r->response_mean_s /= (double)n;
    r->end_s = (double)s->now_us / 1e6;
    r->utilisation = s->busy_us / ((double)s->now_us * s->c->nodes * s->c->slots);
    r->regret = s->regret_n > 0 ? s->regret / (double)s->regret_n : 0;
    r->regret_last = s->regret_last_n > 0 ? s->regret_last / (double)s->regret_last_n : 0;
    r->share_best = (double)s->best / (double)n;
    for (size_t i = 0; i < RSIM_REGRET_MAX; i++) {
        r->regret_by_run[i] /= r->regret_runs[i] > 0 ? (double)r->regret_runs[i] : 1;
    }
}

static void node_make(struct sim *s, unsigned i)
{
    struct node *n = &s->node[i];

    (void)snprintf(n->name, sizeof n->name, "n%02u", i % 100);
    n->class_at = i % s->c->classes;
    if (s->c->join_us != 0 && n->class_at == s->c->classes - 1) {
        n->class_at = RSIM_CLASSES - 1;
    }
    n->told_free = s->c->slots;
    if (s->c->policy == RSIM_LEARNED) {
        struct route_learn_config cfg = { .node = n->name,
                                          .class_id = rsim_class_id(n->class_at),
                                          .features = *rsim_class_features(n->class_at),
                                          .k0 = s->c->seed,
                                          .k1 = i };
        INSIST(route_learn_new(&cfg, &n->learn) == 0);
    }
}

void rsim_run(const struct rsim_config *c, struct rsim_result *ret)
{
    struct sim *s = mem_zalloc(sizeof *s);

    REQUIRE(c->nodes <= RSIM_NODES_MAX && c->slots <= SLOTS_MAX && c->runs > c->runs_warm + 4);
    INSIST(s != NULL);
    memset(ret, 0, sizeof *ret);
    s->c = c;
    s->r = ret;
    s->now_us = 1000000;
    rng_init(&s->arrivals, c->seed);
    rng_init(&s->choice, c->seed + 1);
    s->rate_us = 1e6 * rsim_mean_seconds(c) / (c->load * c->nodes * c->slots);
    s->next_arrival_us = s->now_us;
    s->next_gossip_us = s->now_us;
    s->runs = mem_calloc(c->runs, sizeof s->runs[0]);
    s->slowdown = mem_calloc(c->runs, sizeof s->slowdown[0]);
    INSIST(s->runs != NULL && s->slowdown != NULL);
    s->oracle_by = c->policy == RSIM_PROPHET ? WAIT_EXACT : WAIT_TRUTH;
    for (size_t i = 0; i < c->jobs; i++) {
        s->base_mean[i] = rsim_mean_base(&c->job[i]);
    }
    for (unsigned i = 0; i < c->nodes; i++) {
        node_make(s, i);
    }
    while (s->ended < c->runs) {
        step(s);
    }
    sum_up(s);
    for (unsigned i = 0; i < c->nodes; i++) {
        INSIST(s->node[i].queue_len == 0 && free_slots(s, &s->node[i]) == c->slots);
        route_learn_free(s->node[i].learn);
    }
    mem_free(s->runs);
    mem_free(s->slowdown);
    mem_free(s);
}
