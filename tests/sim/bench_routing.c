/* make bench-routing: the table of figures, each against its goal. Everything is on a virtual
 * clock; only the last line, the time of one decision, is measured by the real one. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/routing/learn.h"
#include "common/insist.h"
#include "tests/sim/bench_plot.h"
#include "tests/sim/bench_trace.h"
#include "tests/sim/route_sim.h"

enum { SEEDS_MAX = 8 };

struct options {
    unsigned seeds;
    uint64_t runs;
    const char *data, *svg;
};

/* One figure over seeds. */
struct spread {
    double v[SEEDS_MAX];
    unsigned n;
};

static void spread_add(struct spread *s, double v)
{
    if (s->n < SEEDS_MAX) {
        s->v[s->n++] = v;
    }
}

static double spread_mean(const struct spread *s)
{
    double sum = 0;

    for (unsigned i = 0; i < s->n; i++) {
        sum += s->v[i];
    }
    return s->n > 0 ? sum / s->n : 0;
}

static double spread_least(const struct spread *s)
{
    double least = s->v[0];

    for (unsigned i = 1; i < s->n; i++) {
        least = fmin(least, s->v[i]);
    }
    return least;
}

static double spread_most(const struct spread *s)
{
    double most = s->v[0];

    for (unsigned i = 1; i < s->n; i++) {
        most = fmax(most, s->v[i]);
    }
    return most;
}

static unsigned missed;

/* unit "%": the values are shares. at_most: the goal is an upper bound. */
static void goal(const char *what, const struct spread *s, double bound, bool at_most,
                 const char *unit)
{
    double scale = strcmp(unit, "%") == 0 ? 100 : 1;
    double mean = spread_mean(s);
    bool met = at_most ? mean <= bound : mean >= bound;

    missed += !met;
    (void)printf("  %-58s %s %6.2f%-2s  %7.2f%-2s  (%.2f to %.2f)  %s\n", what,
                 at_most ? "<=" : ">=", bound * scale, unit, mean * scale, unit,
                 spread_least(s) * scale, spread_most(s) * scale, met ? "met" : "MISSED");
    (void)fflush(stdout);
}

static void configure(const struct options *o, uint64_t seed, enum rsim_policy policy,
                      struct rsim_config *c)
{
    rsim_config_default(c, seed, policy);
    c->runs = o->runs;
    c->runs_warm = o->runs / 3;
}

/* ---- the policies side by side ---- */

static void policies(const struct options *o, struct plot *plot)
{
    static struct rsim_config c;
    struct spread mean[RSIM_POLICIES] = { 0 };
    struct spread p99[RSIM_POLICIES] = { 0 };
    struct spread cpu[RSIM_POLICIES] = { 0 };
    struct spread oracle = { .n = 0 };
    struct spread ll[2] = { 0 };
    struct spread jsq[2] = { 0 };

    (void)printf("\n16 nodes x 4 slots, 4 classes, 30 job types, 70 %% load, %u seeds x %llu runs\n"
                 "  %-14s %21s %25s %14s\n",
                 o->seeds, (unsigned long long)o->runs, "policy", "mean slowdown", "p99 slowdown",
                 "CPU seconds");
    for (unsigned seed = 1; seed <= o->seeds; seed++) {
        struct rsim_result r[RSIM_POLICIES];
        for (int p = 0; p < RSIM_POLICIES; p++) {
            configure(o, seed, (enum rsim_policy)p, &c);
            rsim_run(&c, &r[p]);
            spread_add(&mean[p], r[p].slowdown_mean);
            spread_add(&p99[p], r[p].slowdown_p99);
            spread_add(&cpu[p], r[p].cpu_s);
        }
        spread_add(&oracle, r[RSIM_LEARNED].slowdown_mean / r[RSIM_ORACLE].slowdown_mean - 1);
        spread_add(&ll[0], r[RSIM_LEAST_LOADED].slowdown_mean / r[RSIM_LEARNED].slowdown_mean);
        spread_add(&ll[1], r[RSIM_LEAST_LOADED].slowdown_p99 / r[RSIM_LEARNED].slowdown_p99);
        spread_add(&jsq[0], r[RSIM_JSQ].slowdown_mean / r[RSIM_LEARNED].slowdown_mean);
        spread_add(&jsq[1], r[RSIM_JSQ].slowdown_p99 / r[RSIM_LEARNED].slowdown_p99);
    }
    for (int p = 0; p < RSIM_POLICIES; p++) {
        (void)printf("  %-14s %7.2f (%.2f to %.2f) %9.2f (%.2f to %.2f) %12.0f\n",
                     rsim_policy_name((enum rsim_policy)p), spread_mean(&mean[p]),
                     spread_least(&mean[p]), spread_most(&mean[p]), spread_mean(&p99[p]),
                     spread_least(&p99[p]), spread_most(&p99[p]), spread_mean(&cpu[p]));
        plot_bar(plot, rsim_policy_name((enum rsim_policy)p), spread_mean(&mean[p]),
                 spread_mean(&p99[p]));
    }
    (void)printf("\n  %-58s %9s  %9s  %s\n", "figure", "goal", "measured", "(least to most)");
    goal("mean slowdown above the clairvoyant oracle's", &oracle, 0.03, true, "%");
    goal("least-loaded / learned: mean slowdown", &ll[0], 1.6, false, "x");
    goal("least-loaded / learned: p99 slowdown", &ll[1], 4, false, "x");
    goal("fresh JSQ / learned: mean slowdown", &jsq[0], 1.3, false, "x");
    goal("fresh JSQ / learned: p99 slowdown", &jsq[1], 3, false, "x");
    (void)printf("    (the prophet, who knows what every run will take, reaches %.2fx here)\n",
                 spread_mean(&p99[RSIM_JSQ]) / spread_mean(&p99[RSIM_PROPHET]));
}

/* The largest load at which p99 slowdown stays at 10 or less. */
static double carried(const struct options *o, uint64_t seed, enum rsim_policy policy)
{
    static struct rsim_config c;
    struct rsim_result r;
    double low = 0.1;
    double high = 2.5;

    while (high - low > 0.04) {
        configure(o, seed, policy, &c);
        c.runs = o->runs / 2;
        c.runs_warm = c.runs / 3;
        c.load = (low + high) / 2;
        rsim_run(&c, &r);
        if (r.slowdown_p99 <= 10) {
            low = c.load;
        } else {
            high = c.load;
        }
    }
    return low;
}

static void load_carried(const struct options *o)
{
    struct spread ratio = { .n = 0 };
    struct spread learned = { .n = 0 };

    for (unsigned seed = 1; seed <= o->seeds && seed <= 3; seed++) {
        double ours = carried(o, seed, RSIM_LEARNED);
        spread_add(&learned, ours);
        spread_add(&ratio, ours / carried(o, seed, RSIM_LEAST_LOADED));
    }
    goal("load carried at p99 slowdown <= 10, against least-loaded", &ratio, 1.6, false, "x");
    (void)printf("    (learned carries %.2f of what random placement could use up)\n",
                 spread_mean(&learned));
}

static void identical(const struct options *o)
{
    static struct rsim_config c;
    struct spread s = { .n = 0 };

    for (unsigned seed = 1; seed <= o->seeds; seed++) {
        struct rsim_result r[2];
        for (int p = 0; p < 2; p++) {
            configure(o, seed, p == 0 ? RSIM_LEARNED : RSIM_JSQ, &c);
            c.classes = 1;
            rsim_run(&c, &r[p]);
        }
        spread_add(&s, r[0].slowdown_mean / r[1].slowdown_mean - 1);
    }
    goal("identical nodes: mean slowdown above fresh JSQ's", &s, 0.05, true, "%");
}

/* ---- learning ---- */

static double regret_between(const struct rsim_result *r, size_t from, size_t to)
{
    double sum = 0;
    double n = 0;

    for (size_t i = from; i <= to; i++) {
        sum += r->regret_by_run[i] * (double)r->regret_runs[i];
        n += (double)r->regret_runs[i];
    }
    return n > 0 ? sum / n : 0;
}

/* Every third job type is unknown to a cluster that knows the others. */
static void new_jobs(const struct options *o, struct plot *plot)
{
    static struct rsim_config c;
    struct spread early = { .n = 0 };
    struct spread late = { .n = 0 };
    struct rsim_result all = { .measured = 0 };

    for (unsigned seed = 1; seed <= o->seeds; seed++) {
        struct rsim_result r;
        configure(o, seed, RSIM_LEARNED, &c);
        c.load = 0.5;
        double second = 1e6;
        for (size_t i = 0; i < c.jobs; i += 3) {
            c.job[i].from_us = (uint64_t)((20 + 3 * (double)i) * second);
        }
        c.runs_warm = 100;
        rsim_run(&c, &r);
        spread_add(&early, regret_between(&r, 10, 19));
        spread_add(&late, regret_between(&r, 20, 39));
        for (size_t i = 0; i < RSIM_REGRET_MAX; i++) {
            all.regret_by_run[i] += r.regret_by_run[i] * (double)r.regret_runs[i];
            all.regret_runs[i] += r.regret_runs[i];
        }
    }
    goal("new job in a warm cluster: regret in its runs 11-20", &early, 0.08, true, "%");
    goal("new job in a warm cluster: regret in its runs 21-40", &late, 0.05, true, "%");
    (void)printf("    regret by run number, percent:");
    for (size_t i = 0; i < RSIM_REGRET_MAX; i++) {
        double v =
            100 * all.regret_by_run[i] / (double)(all.regret_runs[i] > 0 ? all.regret_runs[i] : 1);
        plot_point(plot, i + 1, v);
        if (i < 10 ? i % 2 == 0 : i % 10 == 9) {
            (void)printf(" %zu: %.1f", i + 1, v);
        }
    }
    (void)printf("\n");
}

static void slowed(const struct options *o)
{
    static struct rsim_config c;
    struct spread s = { .n = 0 };

    for (unsigned seed = 1; seed <= o->seeds; seed++) {
        struct rsim_result r;
        struct rsim_result calm;
        configure(o, seed, RSIM_LEARNED, &c);
        c.load = 0.5;
        rsim_run(&c, &calm);
        c.slow_us = (uint64_t)(calm.end_s * 0.4e6);
        c.slow_factor = 2;
        rsim_run(&c, &r);
        spread_add(&s, r.regret_last - calm.regret_last);
    }
    goal("one node slowed 2x: lasting regret (above without)", &s, 0.02, true, "%");
}

/* A third of the jobs turn round: what AES was to them, SHA is from then on. */
static void drift(const struct options *o)
{
    static struct rsim_config c;
    struct spread s = { .n = 0 };

    for (unsigned seed = 1; seed <= o->seeds; seed++) {
        struct rsim_result r;
        struct rsim_result calm;
        configure(o, seed, RSIM_LEARNED, &c);
        rsim_run(&c, &calm);
        c.drift_us = (uint64_t)(calm.end_s * 0.4e6);
        for (size_t i = 0; i < c.jobs; i += 3) {
            c.job[i].later[1] = c.job[i].weight[2];
            c.job[i].later[2] = c.job[i].weight[1];
        }
        rsim_run(&c, &r);
        spread_add(&s, r.regret_last);
    }
    (void)printf("    a third of the jobs change their nature: regret at the end %.1f %%\n",
                 100 * spread_mean(&s));
}

static void new_class(const struct options *o)
{
    static struct rsim_config c;
    struct spread before = { .n = 0 };
    struct spread after = { .n = 0 };

    for (unsigned seed = 1; seed <= o->seeds; seed++) {
        struct rsim_result r;
        struct rsim_result calm;
        configure(o, seed, RSIM_LEARNED, &c);
        c.load = 0.5;
        c.join_us = UINT64_MAX; /* never */
        rsim_run(&c, &calm);
        c.join_us = (uint64_t)(calm.end_s * 0.5e6);
        rsim_run(&c, &r);
        spread_add(&before, calm.slowdown_mean);
        spread_add(&after, r.regret_last);
    }
    (void)printf("    four nodes of an unseen class join: regret at the end %.1f %%\n",
                 100 * spread_mean(&after));
}

/* ---- the Azure sample ---- */

static void azure(const struct options *o)
{
    static struct rsim_config c;
    static struct rsim_memory_job memory[RSIM_JOBS_MAX];
    struct spread slack = { .n = 0 };
    struct spread kills = { .n = 0 };
    struct spread mean[3] = { 0 };
    static const enum rsim_policy shown[] = { RSIM_LEARNED, RSIM_LEAST_LOADED, RSIM_POWER_OF_TWO };
    bool real = false;

    for (unsigned seed = 1; seed <= o->seeds; seed++) {
        struct rsim_memory_result m;
        for (size_t p = 0; p < ARRAY_LEN(shown); p++) {
            struct rsim_result r;
            configure(o, seed, shown[p], &c);
            size_t n = bench_trace(o->data, seed, &c, memory, &real);
            if (p == 0) {
                rsim_memory(memory, n, 3 * o->runs, seed, &m);
                spread_add(&slack, 1 - m.need_bytes / m.limit_bytes);
                spread_add(&kills, 1000 * (double)m.kills / (double)m.runs);
            }
            rsim_run(&c, &r);
            spread_add(&mean[p], r.response_mean_s);
        }
    }
    (void)printf("  Azure Functions 2019: %s\n",
                 real ? "the 100-function sample" : "synthetic, from its published quantiles");
    goal("memory slack: share of the limits that was not needed", &slack, 0.40, true, "%");
    goal("OOM kills per 1,000 runs", &kills, 1, true, "");
    (void)printf(
        "    mean response at 70 %% load: learned %.3f s, least-loaded %.3f s, power-of-two"
        " %.3f s\n",
        spread_mean(&mean[0]), spread_mean(&mean[1]), spread_mean(&mean[2]));
}

/* ---- the time of a decision ---- */

static double now_us(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void decision_time(void)
{
    enum { NODES = 100, ROUNDS = 2000, CLASSES = 8 };
    static char name[NODES][8];
    static char class_id[CLASSES][ROUTE_CLASS_CAP];
    struct route_candidate c[NODES];
    struct route_verdict v[NODES];
    struct route_decision d;
    struct route_learn *l[CLASSES];
    struct rng rng;
    struct spread s = { .n = 0 };
    struct route_request req = { .rng = &rng, .may_queue = true };
    const struct route_row *row;

    rng_init(&rng, 1);
    for (size_t i = 0; i < CLASSES; i++) {
        (void)snprintf(class_id[i], sizeof class_id[i], "class%zu", i);
        struct route_learn_config cfg = { .node = class_id[i],
                                          .class_id = class_id[i],
                                          .features = { .bits = (uint8_t)i, .llc_mib = 16 } };
        INSIST(route_learn_new(&cfg, &l[i]) == 0);
    }
    for (size_t i = 0; i < NODES; i++) {
        (void)snprintf(name[i], sizeof name[i], "n%zu", i);
        c[i] = (struct route_candidate){ .node = str_of(name[i]),
                                         .class_id = str_of(class_id[i % CLASSES]),
                                         .features = { .bits = i % CLASSES, .llc_mib = 16 },
                                         .image_warm = true,
                                         .slots = 4,
                                         .slots_free = 4 };
    }
    for (int repeat = 0; repeat < 5; repeat++) {
        double t0 = now_us();
        for (int i = 0; i < ROUNDS; i++) {
            struct route_observation o = { .elapsed_us = 1000 + rng_below(&rng, 1000) };
            INSIST(route_learn_observe(l[0], STR("job"), 1, &o, &row) == 0);
            route_learn_predict(l[0], STR("job"), 1, 0, &rng, c, NODES);
            route_decide(&req, c, NODES, v, &d);
        }
        spread_add(&s, (now_us() - t0) / ROUNDS);
    }
    struct spread least = { .v = { spread_least(&s) }, .n = 1 };
    goal("one decision with its update, 100 nodes (real time)", &least, 50, true, "us");
    for (size_t i = 0; i < CLASSES; i++) {
        route_learn_free(l[i]);
    }
}

int main(int argc, char **argv)
{
    struct options o = { .seeds = 5, .runs = 30000 };
    static struct plot plot;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) {
            o.seeds = 2;
            o.runs = 9000;
        } else if (strcmp(argv[i], "--data") == 0 && i + 1 < argc) {
            o.data = argv[++i];
        } else if (strcmp(argv[i], "--svg") == 0 && i + 1 < argc) {
            o.svg = argv[++i];
        } else {
            (void)fprintf(stderr, "usage: routing [--quick] [--data DIR] [--svg FILE]\n");
            return 2;
        }
    }
    policies(&o, &plot);
    load_carried(&o);
    identical(&o);
    new_jobs(&o, &plot);
    slowed(&o);
    azure(&o);
    decision_time();
    drift(&o);
    new_class(&o);
    (void)printf("\n%u of the goals missed\n", missed);
    if (o.svg != NULL && plot_write(&plot, o.svg) == 0) {
        (void)printf("plot: %s\n", o.svg);
    }
    return 0;
}
