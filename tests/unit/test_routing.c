#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "agent/routing/routing.h"
#include "common/insist.h"
#include "common/rng.h"

static const struct route_fact aes_facts[] = {
    { .name = { "cpu-cpuid.AESNI", 15 }, .value = { "true", 4 } },
    { .name = { "zone", 4 }, .value = { "rack-7", 6 } },
    { .name = { "cpus", 4 }, .value = { "8", 1 } },
    { .name = { "spot", 4 }, .value = { "false", 5 } },
};

static bool holds(const char *require)
{
    return route_require_holds(str_of(require), aes_facts, ARRAY_LEN(aes_facts));
}

static void requirements_hold_as_written(void **state)
{
    (void)state;
    assert_true(holds("cpu-cpuid.AESNI"));
    assert_false(holds("cpu-cpuid.SHA"));
    assert_false(holds("spot"));
    assert_true(holds("zone=rack-7"));
    assert_false(holds("zone=rack-8"));
    assert_true(holds("zone!=rack-8"));
    assert_true(holds("nowhere!=x"));
    assert_true(holds("cpus>=8"));
    assert_false(holds("cpus>=9"));
    assert_false(holds("zone>=1"));
}

static void malformed_requirements_are_named(void **state)
{
    static const char *const bad[] = { "", "=x", "zone=", "zone<3", "cpus>=many", "a b", "zone==" };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        bool well_formed = route_require_check(str_of(bad[i]), &e) == 0;
        /* "zone==" is the value "=": allowed. */
        assert_int_equal(well_formed, i == ARRAY_LEN(bad) - 1);
        if (!well_formed) {
            assert_true(err_text(&e)[0] != '\0');
            assert_false(holds(bad[i]));
        }
    }
}

static struct route_candidate node(const char *name, bool local, uint64_t wait_us)
{
    return (struct route_candidate){
        .node = str_of(name),
        .local = local,
        .image_warm = true,
        .memory_bytes = 1000,
        .memory_free_bytes = 1000,
        .cpu_milli = 2000,
        .slots = 4,
        .slots_free = 4,
        .wait_us = wait_us,
    };
}

static void least_wait_wins_and_local_within_slack(void **state)
{
    struct route_candidate c[] = { node("a", false, 1000), node("b", true, 1015),
                                   node("c", false, 990) };
    struct route_request req = { .memory_bytes = 10 };
    struct route_verdict v[3];
    struct route_decision d;

    (void)state;
    route_decide(&req, c, 3, v, &d);
    assert_int_equal(d.chosen, 2);
    assert_int_equal(d.basis, ROUTE_BASIS_WAIT);
    c[1].wait_us = 1000; /* 990 * 1.02 = 1009 */
    route_decide(&req, c, 3, v, &d);
    assert_int_equal(d.chosen, 1);
    assert_int_equal(d.basis, ROUTE_BASIS_LOCAL);
}

static void cold_images_and_learned_time_count(void **state)
{
    struct route_candidate c[] = { node("a", false, 100), node("b", false, 200) };
    struct route_request req = { 0 };
    struct route_verdict v[2];
    struct route_decision d;

    (void)state;
    c[0].image_warm = false;
    c[0].cold_us = 500;
    route_decide(&req, c, 2, v, &d);
    assert_int_equal(d.chosen, 1);
    c[1].run_us = 5000;
    c[0].run_us = 500;
    route_decide(&req, c, 2, v, &d);
    assert_int_equal(d.chosen, 0);
}

static void filters_say_why(void **state)
{
    struct route_candidate c[] = { node("a", true, 0), node("b", false, 0), node("c", false, 0),
                                   node("d", false, 0), node("e", false, 0) };
    struct str require[] = { STR("cpu-cpuid.AESNI") };
    struct route_request req = {
        .memory_bytes = 500, .cpu_milli = 1500, .require = require, .require_len = 1
    };
    struct route_verdict v[5];
    struct route_decision d;

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        c[i].facts = aes_facts;
        c[i].facts_len = ARRAY_LEN(aes_facts);
    }
    c[0].facts_len = 0;
    c[1].draining = true;
    c[2].memory_bytes = 499;
    c[3].cpu_milli = 1000;
    route_decide(&req, c, 5, v, &d);
    assert_int_equal(v[0].kind, ROUTE_REQUIREMENT);
    assert_int_equal(v[1].kind, ROUTE_DRAINING);
    assert_int_equal(v[2].kind, ROUTE_TOO_MUCH_MEMORY);
    assert_int_equal(v[3].kind, ROUTE_TOO_MANY_CPUS);
    assert_int_equal(v[4].kind, ROUTE_FIT);
    assert_int_equal(d.chosen, 4);
    assert_int_equal(d.basis, ROUTE_BASIS_REQUIRE);
    c[4].slots_free = 0;
    route_decide(&req, c, 5, v, &d);
    assert_int_equal(d.chosen, -1);
    assert_true(d.possible);
    c[4].draining = true;
    route_decide(&req, c, 5, v, &d);
    assert_false(d.possible);
}

/* The order in which candidates are given decides nothing. */
static void decision_ignores_order(void **state)
{
    uint64_t seed = 0x5eed;
    struct rng r;

    (void)state;
    rng_init(&r, seed);
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 2000; round++) {
        struct route_candidate c[6];
        struct route_candidate p[6];
        struct route_verdict v[6];
        struct route_decision d1;
        struct route_decision d2;
        static const char *const names[] = { "a", "b", "c", "d", "e", "f" };
        struct route_request req = { .memory_bytes = rng_below(&r, 1200) };
        for (size_t i = 0; i < 6; i++) {
            c[i] = node(names[i], i == 2, rng_below(&r, 4) * 50);
            c[i].slots_free = (unsigned)rng_below(&r, 3);
            p[i] = c[i];
        }
        for (size_t i = 5; i > 0; i--) {
            size_t j = rng_below(&r, i + 1);
            struct route_candidate t = p[i];
            p[i] = p[j];
            p[j] = t;
        }
        route_decide(&req, c, 6, v, &d1);
        route_decide(&req, p, 6, v, &d2);
        assert_int_equal(d1.possible, d2.possible);
        assert_int_equal(d1.chosen < 0, d2.chosen < 0);
        if (d1.chosen >= 0) {
            assert_true(str_eq(c[d1.chosen].node, p[d2.chosen].node));
        }
    }
}

static void json_names_the_choice(void **state)
{
    struct route_candidate c[] = { node("a", true, 0) };
    struct route_request req = { 0 };
    struct route_verdict v[1];
    struct route_decision d;
    AUTO_BUF struct buf out = BUF_INIT(4096);
    struct json_w w;

    (void)state;
    route_decide(&req, c, 1, v, &d);
    json_w_init(&w, &out, false);
    route_to_json(&w, &req, c, 1, v, &d);
    assert_non_null(strstr(buf_cstr(&out), "\"basis\":\"local\""));
    assert_non_null(strstr(buf_cstr(&out), "\"verdict\":\"fit\""));
}

static void one_of_a_list_holds(void **state)
{
    static const char *const bad[] = { "zone in",        "zone in ()", "zone in (a,)",
                                       "zone in (a,,b)", "zone in ",   "zone within a" };
    struct err e;

    (void)state;
    assert_true(holds("zone in (rack-6, rack-7)"));
    assert_true(holds("zone in rack-7"));
    assert_true(holds("zone in(rack-7,rack-9)"));
    assert_false(holds("zone in (rack-6, rack-77)"));
    assert_false(holds("nowhere in (a)"));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(route_require_check(str_of(bad[i]), &e), -EINVAL);
    }
}

/* A user's wish stands above what was learned, however slow the node is. */
static void a_preference_wins_over_the_learned_time(void **state)
{
    static const struct route_fact old[] = { { { "gen", 3 }, { "old", 3 } } };
    struct str prefer = STR("gen=old");
    struct route_candidate c[] = { node("fast", false, 0), node("slow", false, 0) };
    struct route_request req = { .prefer = &prefer, .prefer_len = 1 };
    struct route_verdict v[2];
    struct route_decision d;

    (void)state;
    c[0].run_us = 1000;
    c[1].run_us = 50000;
    c[1].facts = old;
    c[1].facts_len = 1;
    route_decide(&req, c, 2, v, &d);
    assert_int_equal(d.chosen, 1);
    assert_int_equal(d.basis, ROUTE_BASIS_PREFER);
    /* It is a wish: without room there the other one takes it. */
    c[1].slots_free = 0;
    route_decide(&req, c, 2, v, &d);
    assert_int_equal(d.chosen, 0);
    /* A pin is none. */
    struct route_request pinned = { .require = &prefer, .require_len = 1 };
    route_decide(&pinned, c, 2, v, &d);
    assert_int_equal(d.chosen, -1);
    assert_true(d.possible);
}

static void the_learned_time_decides(void **state)
{
    struct route_candidate c[] = { node("a", true, 0), node("b", false, 1000),
                                   node("c", false, 30000) };
    struct route_request req = { .memory_bytes = 1 };
    struct route_verdict v[3];
    struct route_decision d;

    (void)state;
    c[0].run_us = c[0].learned.mean_us = 90000;
    c[1].run_us = c[1].learned.mean_us = 40000;
    c[2].run_us = c[2].learned.mean_us = 20000;
    route_decide(&req, c, 3, v, &d);
    /* 41 ms * 2^0.3 = 50.5 ms against 50 ms: the fast one, though it has a queue. */
    assert_int_equal(d.chosen, 2);
    assert_int_equal(d.basis, ROUTE_BASIS_LEARNED);
    assert_int_equal(v[2].score_us, 50000);
    assert_true(v[1].score_us > 50400 && v[1].score_us < 50600);
    /* A draw that differs from what is expected is an exploration. */
    c[1].run_us = 10000;
    route_decide(&req, c, 3, v, &d);
    assert_int_equal(d.chosen, 1);
    assert_int_equal(d.basis, ROUTE_BASIS_EXPLORE);
}

static void a_much_better_busy_node_is_waited_for(void **state)
{
    struct route_candidate c[] = { node("busy", false, 10000), node("slow", true, 0) };
    struct route_request req = { .memory_bytes = 1 };
    struct route_verdict v[2];
    struct route_decision d;

    (void)state;
    c[0].run_us = 10000;
    c[0].slots_free = 0;
    c[1].run_us = 100000;
    route_decide(&req, c, 2, v, &d);
    assert_int_equal(d.chosen, -1);
    assert_int_equal(d.hold, 0);
    assert_int_equal(d.basis, ROUTE_BASIS_HOLD);
    /* Not for longer than it gains, */
    req.waited_us = 300000;
    route_decide(&req, c, 2, v, &d);
    assert_int_equal(d.chosen, 1);
    /* nor for a small gain, nor where a run may queue. */
    req.waited_us = 0;
    c[1].run_us = 15000;
    route_decide(&req, c, 2, v, &d);
    assert_int_equal(d.chosen, 1);
    c[1].run_us = 100000;
    req.may_queue = true;
    route_decide(&req, c, 2, v, &d);
    assert_int_equal(d.chosen, 0);
}

static void hard_filters_say_why(void **state)
{
    struct route_candidate c[] = { node("arm", false, 0), node("old", false, 0),
                                   node("no", false, 0), node("yes", false, 500) };
    struct route_request req = { .arch = STR("amd64"), .isa = 3 };
    struct route_verdict v[4];
    struct route_decision d;

    (void)state;
    c[0].arch = STR("arm64");
    c[1].arch = c[2].arch = c[3].arch = STR("amd64");
    c[1].isa = 2;
    c[2].isa = c[3].isa = 3;
    c[2].refused = true;
    route_decide(&req, c, 4, v, &d);
    assert_int_equal(v[0].kind, ROUTE_OTHER_ARCH);
    assert_int_equal(v[1].kind, ROUTE_ISA);
    assert_int_equal(v[2].kind, ROUTE_REFUSED);
    assert_int_equal(d.chosen, 3);
    route_decide(&req, c, 3, v, &d);
    assert_int_equal(d.chosen, -1);
    assert_true(d.possible); /* the one that refused has room again some day */
    route_decide(&req, c, 2, v, &d);
    assert_false(d.possible);
}

static void a_polluter_stays_away_from_the_sensitive(void **state)
{
    struct route_candidate c[] = { node("a", false, 0), node("b", false, 0) };
    struct route_request req = { .cache_sensitive = true };
    struct route_verdict v[2];
    struct route_decision d;

    (void)state;
    c[0].run_us = c[1].run_us = 10000;
    c[0].polluters = 1;
    route_decide(&req, c, 2, v, &d);
    assert_int_equal(d.chosen, 1);
    req = (struct route_request){ .pollutes = true };
    c[0].polluters = 0;
    c[1].sensitive = 3;
    route_decide(&req, c, 2, v, &d);
    assert_int_equal(d.chosen, 0);
}

static void policies_do_what_they_are_called(void **state)
{
    struct route_candidate c[] = { node("a", true, 0), node("b", false, 0), node("c", false, 0) };
    struct rng rng;
    struct route_request req = { .policy = ROUTE_LEAST_LOADED, .rng = &rng };
    struct route_verdict v[3];
    struct route_decision d;
    unsigned taken[3] = { 0 };
    enum route_policy p;

    (void)state;
    rng_init(&rng, 1);
    c[0].slots_free = 2;
    c[1].slots_free = 3;
    c[2].slots_free = 1;
    c[0].run_us = 1; /* what is learned does not count here */
    route_decide(&req, c, 3, v, &d);
    assert_int_equal(d.chosen, 1);
    assert_int_equal(d.basis, ROUTE_BASIS_LEAST_LOADED);
    req.policy = ROUTE_RANDOM;
    for (int i = 0; i < 300; i++) {
        route_decide(&req, c, 3, v, &d);
        taken[d.chosen]++;
    }
    assert_true(taken[0] > 60 && taken[1] > 60 && taken[2] > 60);
    req.policy = ROUTE_POWER_OF_TWO;
    memset(taken, 0, sizeof taken);
    for (int i = 0; i < 300; i++) {
        route_decide(&req, c, 3, v, &d);
        taken[d.chosen]++;
    }
    /* The least loaded of three wins two pairs of three, the most loaded none. */
    assert_true(taken[1] > 150 && taken[0] > 60 && taken[2] == 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(route_policy_parse(str_of(route_policy_name((enum route_policy)i)), &p),
                         0);
        assert_int_equal((int)p, i);
    }
    assert_int_equal(route_policy_parse(STR("best"), &p), -EINVAL);
}

static void shortlist_holds_the_best_that_nobody_asked(void **state)
{
    struct route_candidate c[6];
    struct route_request req = { .may_queue = true };
    struct route_verdict v[6];
    struct route_decision d;
    size_t list[3];
    static const char *const names[] = { "a", "b", "c", "d", "e", "f" };

    (void)state;
    for (size_t i = 0; i < 6; i++) {
        c[i] = node(names[i], i == 0, 1000 * (6 - i));
    }
    c[4].probed = true;
    c[3].draining = true;
    route_decide(&req, c, 6, v, &d);
    assert_int_equal(d.chosen, 5);
    assert_int_equal(route_shortlist(&req, c, 6, v, 3, list), 3);
    assert_int_equal(list[0], 5);
    assert_int_equal(list[1], 2);
    assert_int_equal(list[2], 1);
    assert_int_equal(route_shortlist(&req, c, 6, v, 1, list), 1);
    req.probed_only = true;
    route_decide(&req, c, 6, v, &d);
    assert_int_equal(d.chosen, 4);
}

static void wait_is_until_the_first_slot(void **state)
{
    static const uint64_t running[] = { 500, 200, 900 };
    static const uint64_t queued[] = { 100, 100 };

    (void)state;
    assert_int_equal(route_wait(4, running, 3, NULL, 0), 0);
    assert_int_equal(route_wait(3, running, 3, NULL, 0), 200);
    assert_int_equal(route_wait(3, running, 3, queued, 2), 400);
    assert_true(route_wait(0, NULL, 0, NULL, 0) == UINT64_MAX);
    assert_int_equal(route_rest(1000, 200), 800);
    assert_true(route_rest(1000, 990) >= 100);
    assert_true(route_rest(1000, 8000) >= 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requirements_hold_as_written),
        cmocka_unit_test(malformed_requirements_are_named),
        cmocka_unit_test(least_wait_wins_and_local_within_slack),
        cmocka_unit_test(cold_images_and_learned_time_count),
        cmocka_unit_test(filters_say_why),
        cmocka_unit_test(decision_ignores_order),
        cmocka_unit_test(json_names_the_choice),
        cmocka_unit_test(one_of_a_list_holds),
        cmocka_unit_test(a_preference_wins_over_the_learned_time),
        cmocka_unit_test(the_learned_time_decides),
        cmocka_unit_test(a_much_better_busy_node_is_waited_for),
        cmocka_unit_test(hard_filters_say_why),
        cmocka_unit_test(a_polluter_stays_away_from_the_sensitive),
        cmocka_unit_test(policies_do_what_they_are_called),
        cmocka_unit_test(shortlist_holds_the_best_that_nobody_asked),
        cmocka_unit_test(wait_is_until_the_first_slot),
    };

    return cmocka_run_group_tests_name("routing", tests, NULL, NULL);
}
