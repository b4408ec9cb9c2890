/* Placement in a small simulated cluster, on a virtual clock: ratios may be asserted, since the
 * same seed gives the same trace everywhere. `make bench-routing` is the long form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/route_sim.h"

static struct rsim_config config;

static struct rsim_result simulate(uint64_t seed, enum rsim_policy policy, unsigned classes,
                                   double load)
{
    struct rsim_result r;

    rsim_config_default(&config, seed, policy);
    config.classes = classes;
    config.load = load;
    config.runs = 4000;
    config.runs_warm = 2000;
    rsim_run(&config, &r);
    return r;
}

static void learned_comes_close_to_the_oracle_and_beats_the_rest(void **state)
{
    struct rsim_result learned = simulate(1, RSIM_LEARNED, 4, 0.7);
    struct rsim_result oracle = simulate(1, RSIM_ORACLE, 4, 0.7);
    struct rsim_result jsq = simulate(1, RSIM_JSQ, 4, 0.7);
    struct rsim_result least = simulate(1, RSIM_LEAST_LOADED, 4, 0.7);
    struct rsim_result two = simulate(1, RSIM_POWER_OF_TWO, 4, 0.7);
    struct rsim_result any = simulate(1, RSIM_RANDOM, 4, 0.7);

    (void)state;
    assert_true(learned.slowdown_mean < oracle.slowdown_mean * 1.15);
    assert_true(learned.slowdown_mean * 1.15 < jsq.slowdown_mean);
    assert_true(learned.slowdown_mean * 1.6 < least.slowdown_mean);
    assert_true(learned.slowdown_p99 * 4 < least.slowdown_p99);
    assert_true(learned.slowdown_mean < two.slowdown_mean);
    assert_true(learned.slowdown_mean < any.slowdown_mean);
    /* A quarter less processor time for the same work. */
    assert_true(learned.cpu_s < least.cpu_s * 0.75);
}

static void identical_nodes_lose_little(void **state)
{
    struct rsim_result learned = simulate(2, RSIM_LEARNED, 1, 0.7);
    struct rsim_result jsq = simulate(2, RSIM_JSQ, 1, 0.7);

    (void)state;
    assert_true(learned.slowdown_mean < jsq.slowdown_mean * 1.08);
}

static void a_slow_node_is_noticed(void **state)
{
    struct rsim_result blind;
    struct rsim_result r;

    (void)state;
    rsim_config_default(&config, 3, RSIM_LEARNED);
    config.runs = 5000;
    config.runs_warm = 2500;
    config.load = 0.5;
    config.slow_us = 10000000;
    config.slow_factor = 4;
    rsim_run(&config, &r);
    config.policy = RSIM_JSQ;
    rsim_run(&config, &blind);
    assert_true(r.slowdown_mean * 1.2 < blind.slowdown_mean);
}

static void the_same_seed_is_the_same_trace(void **state)
{
    struct rsim_result a = simulate(4, RSIM_LEARNED, 4, 0.7);
    struct rsim_result b = simulate(4, RSIM_LEARNED, 4, 0.7);

    (void)state;
    assert_memory_equal(&a, &b, sizeof a);
}

/* Limits fit what was drawn: few kills, little slack. */
static void limits_fit(void **state)
{
    static const double at[] = { 0, 0.01, 0.25, 0.5, 0.75, 0.99, 1 };
    struct rsim_memory_job jobs[8];
    struct rsim_memory_result r;

    (void)state;
    memset(jobs, 0, sizeof jobs);
    for (size_t i = 0; i < 8; i++) {
        jobs[i].popularity = 1;
        jobs[i].points = 7;
        jobs[i].name[0] = (char)('a' + i);
        for (size_t k = 0; k < 7; k++) {
            jobs[i].at[k] = at[k];
            jobs[i].mib[k] = 30.0 * (double)(i + 1) * (0.85 + 0.3 * at[k]);
        }
    }
    rsim_memory(jobs, 8, 8000, 1, &r);
    assert_true(r.kills <= 8);
    assert_true(r.slack < 0.4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(learned_comes_close_to_the_oracle_and_beats_the_rest),
        cmocka_unit_test(identical_nodes_lose_little),
        cmocka_unit_test(a_slow_node_is_noticed),
        cmocka_unit_test(the_same_seed_is_the_same_trace),
        cmocka_unit_test(limits_fit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
