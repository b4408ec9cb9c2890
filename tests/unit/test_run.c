#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/jobs/run.h"
#include "common/buf.h"
#include "common/mem.h"
#include "common/rng.h"

/* The state machine once more, by hand. Columns: queued, placed, preparing, running, succeeded,
 * failed, timed_out, cancelled, lost. */
static const char *const legal[RUN_STATE_COUNT] = {
    [RUN_QUEUED] = ".x...xxx.",    [RUN_PLACED] = "x.x..x.xx",    [RUN_PREPARING] = "x..x.x.xx",
    [RUN_RUNNING] = "x...xxxxx",   [RUN_SUCCEEDED] = ".........", [RUN_FAILED] = "x........",
    [RUN_TIMED_OUT] = "x........", [RUN_CANCELLED] = "x........", [RUN_LOST] = "x........",
};

static void moves_are_those_of_the_drawing(void **state)
{
    (void)state;
    for (unsigned from = 0; from < RUN_STATE_COUNT; from++) {
        for (unsigned to = 0; to < RUN_STATE_COUNT; to++) {
            assert_int_equal(run_may_move((enum run_state)from, (enum run_state)to),
                             legal[from][to] == 'x');
        }
        struct run r = { .state = (uint8_t)from };
        assert_int_equal(run_is_ended(&r), from >= RUN_SUCCEEDED);
    }
}

static void a_new_attempt_starts_clean(void **state)
{
    struct run r;

    (void)state;
    run_init(&r, (struct ulid){ { 1 } }, 1000);
    assert_int_equal(r.state, RUN_QUEUED);
    assert_int_equal(r.attempt, 1);
    assert_int_equal(r.exit_code, -1);
    run_move(&r, RUN_PLACED, 2000);
    run_move(&r, RUN_PREPARING, 3000);
    run_move(&r, RUN_RUNNING, 4000);
    r.usage.measured = 1;
    r.output_bytes = 5;
    run_set_text(r.node, sizeof r.node, STR("n"));
    run_move(&r, RUN_FAILED, 9000);
    r.reason = RUN_REASON_EXIT;
    r.exit_code = 3;
    uint64_t us;
    assert_true(run_queue_us(&r, &us) && us == 1000);
    assert_true(run_start_us(&r, &us) && us == 2000);
    assert_true(run_time_us(&r, &us) && us == 5000);
    run_move(&r, RUN_QUEUED, 10000);
    assert_int_equal(r.queued_us, 10000);
    assert_int_equal(r.created_us, 1000);
    assert_int_equal(r.reason, RUN_REASON_NONE);
    assert_int_equal(r.exit_code, -1);
    assert_int_equal(r.output_bytes, 0);
    assert_int_equal(r.usage.measured, 0);
    assert_string_equal(r.node, "");
    assert_false(run_start_us(&r, &us) || run_time_us(&r, &us) || run_queue_us(&r, &us));
    /* A clock that was set back gives zero, not centuries. */
    run_move(&r, RUN_PLACED, 5);
    assert_true(run_queue_us(&r, &us) && us == 0);
}

static void reasons_mean_states(void **state)
{
    (void)state;
    assert_int_equal(run_state_of(RUN_REASON_EXIT, 0), RUN_SUCCEEDED);
    assert_int_equal(run_state_of(RUN_REASON_EXIT, 75), RUN_FAILED);
    assert_int_equal(run_state_of(RUN_REASON_OOM, 0), RUN_FAILED);
    assert_int_equal(run_state_of(RUN_REASON_TIMEOUT, -1), RUN_TIMED_OUT);
    assert_int_equal(run_state_of(RUN_REASON_DEADLINE, -1), RUN_TIMED_OUT);
    assert_int_equal(run_state_of(RUN_REASON_NODE_LOST, -1), RUN_LOST);
    assert_int_equal(run_state_of(RUN_REASON_CANCELLED, 0), RUN_CANCELLED);
}

static void states_are_parsed(void **state)
{
    uint32_t set = 77;
    struct err e = { 0 };

    (void)state;
    for (unsigned i = 0; i < RUN_STATE_COUNT; i++) {
        enum run_state s;
        assert_int_equal(run_state_parse(str_of(run_state_name((enum run_state)i)), &s), 0);
        assert_int_equal(s, i);
    }
    assert_int_equal(run_states_parse(STR("failed,timed_out"), &set, &e), 0);
    assert_int_equal(set, BIT(RUN_FAILED) | BIT(RUN_TIMED_OUT));
    assert_int_equal(run_states_parse(STR(""), &set, &e), 0);
    assert_int_equal(set, 0);
    set = 77;
    assert_int_equal(run_states_parse(STR("failed,error"), &set, &e), -EINVAL);
    assert_int_equal(set, 77);
    assert_non_null(strstr(err_text(&e), "'error'"));
    assert_int_equal(run_states_parse(STR("failed,,lost"), &set, &e), -EINVAL);
}

static void texts_are_cut_at_characters(void **state)
{
    char t[6];

    (void)state;
    run_set_text(t, sizeof t, STR("abcd\xc3\xa9"));
    assert_string_equal(t, "abcd");
    run_set_text(t, sizeof t, STR("abc\xc3\xa9"));
    assert_string_equal(t, "abc\xc3\xa9");
    run_set_text(t, sizeof t,
                 STR("a\xff"
                     "b"));
    assert_string_equal(t, "a?b");
    run_set_text(t, sizeof t, STR("a\0b"));
    assert_string_equal(t, "a?b");
    run_set_text(t, sizeof t, STR(""));
    assert_string_equal(t, "");
}

/* --- JSON --- */

static uint64_t some(struct rng *g, uint64_t most)
{
    return rng_below(g, 8) == 0 ? 0 : rng_below(g, most) >> rng_below(g, 40);
}

static int64_t a_time(struct rng *g)
{
    return rng_below(g, 4) == 0 ? 0 : (int64_t)(1 + rng_below(g, 4000000000000000));
}

static void a_text(struct rng *g, char *dst, size_t cap)
{
    static const char *const pieces[] = {
        "a",  "Z9", " ", "\"",       "\\",           "\n",
        "\t", "/",  "<", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"
    };
    AUTO_BUF struct buf b = BUF_INIT(cap - 1);

    for (uint64_t i = rng_below(g, 30); i > 0 && buf_error(&b) == 0; i--) {
        (void)buf_adds(&b, pieces[rng_below(g, ARRAY_LEN(pieces))]);
    }
    run_set_text(dst, cap, buf_str(&b));
}

static void some_texts(struct rng *g, struct run *r)
{
    a_text(g, r->job, sizeof r->job);
    a_text(g, r->image, sizeof r->image);
    a_text(g, r->node, sizeof r->node);
    a_text(g, r->entry_node, sizeof r->entry_node);
    a_text(g, r->detail, sizeof r->detail);
    if (rng_below(g, 2) == 0) {
        run_set_text(r->command, sizeof r->command, STR("[\"openssl\",\"-\\n\"]"));
        run_set_text(r->labels, sizeof r->labels, STR("{\"a\":\"b\",\"c\":\"\"}"));
    }
}

static void some_holders(struct rng *g, struct run *r)
{
    r->owner = (uint32_t)some(g, 1000);
    r->holders_len = (uint8_t)some(g, RUN_HOLDERS_MAX);
    for (size_t i = 0; i < r->holders_len; i++) {
        r->holders[i] = (uint32_t)rng_u64(g);
    }
}

static struct run_limits some_limits(struct rng *g)
{
    return (struct run_limits){ some(g, INT64_MAX),       some(g, INT64_MAX),
                                some(g, 1000000),         some(g, 10000),
                                some(g, 100000),          some(g, INT64_MAX),
                                some(g, 1 << 30),         some(g, 1 << 20),
                                (uint8_t)rng_below(g, 2), (uint8_t)rng_below(g, RUN_CACHE_COUNT),
                                (uint8_t)rng_below(g, 2), (uint8_t)rng_below(g, 2) };
}

static void some_usage(struct rng *g, struct run_usage *u)
{
    uint64_t us = UINT64_C(1) << 50;
    *u = (struct run_usage){ .measured = 1,
                             .peak_source = (uint8_t)rng_below(g, RUN_PEAK_COUNT),
                             .samples = (uint32_t)some(g, UINT32_MAX),
                             .cpu_user_us = some(g, us),
                             .cpu_system_us = some(g, us),
                             .cpu_total_us = some(g, us),
                             .cpu_throttled_us = some(g, us),
                             .memory_peak_bytes = some(g, INT64_MAX),
                             .memory_mean_bytes = some(g, INT64_MAX),
                             .io_read_bytes = some(g, INT64_MAX),
                             .io_write_bytes = some(g, INT64_MAX),
                             .io_read_ops = some(g, INT64_MAX),
                             .io_write_ops = some(g, INT64_MAX),
                             .oom_kills = some(g, INT64_MAX),
                             .network_rx_bytes = some(g, INT64_MAX),
                             .network_tx_bytes = some(g, INT64_MAX),
                             .network_rx_packets = some(g, 1000),
                             .network_tx_packets = some(g, INT64_MAX),
                             .knows = (uint8_t)rng_below(g, 4),
                             .cache_class = (uint8_t)rng_below(g, RUN_CACHE_COUNT),
                             .cache_mean_kib = (uint32_t)some(g, UINT32_MAX),
                             .cache_max_kib = (uint32_t)some(g, UINT32_MAX),
                             .bandwidth_bytes = some(g, INT64_MAX) };
}

static void a_run(struct rng *g, struct run *r)
{
    memset(r, 0, sizeof *r);
    for (size_t i = 0; i < sizeof r->id.b; i++) {
        r->id.b[i] = (uint8_t)rng_u64(g);
    }
    r->id.b[0] &= 0x7f;
    r->revision = (uint32_t)some(g, UINT32_MAX);
    r->epoch = 1 + (uint32_t)some(g, 1000);
    some_holders(g, r);
    r->attempt = 1 + (uint32_t)rng_below(g, RUN_ATTEMPT_MAX);
    r->retries = (uint32_t)some(g, 100);
    r->state = (uint8_t)rng_below(g, RUN_STATE_COUNT);
    r->reason = (uint8_t)rng_below(g, RUN_REASON_COUNT);
    r->trigger = (uint8_t)rng_below(g, RUN_TRIGGER_COUNT);
    r->start = (uint8_t)rng_below(g, RUN_START_COUNT);
    r->output_truncated = (uint8_t)rng_below(g, 2);
    r->log_truncated = (uint8_t)rng_below(g, 2);
    r->cancel_asked = (uint8_t)rng_below(g, 2);
    r->exit_code = (int16_t)((int)rng_below(g, 257) - 1);
    r->signal = (int16_t)rng_below(g, 65);
    r->created_us = a_time(g);
    r->queued_us = a_time(g);
    r->placed_us = a_time(g);
    r->preparing_us = a_time(g);
    r->started_us = a_time(g);
    r->ended_us = a_time(g);
    r->scheduled_us = a_time(g);
    r->retry_at_us = a_time(g);
    r->payload_bytes = some(g, INT64_MAX);
    r->output_bytes = some(g, INT64_MAX);
    r->log_bytes = some(g, INT64_MAX);
    if (rng_below(g, 2) == 0) {
        (void)digest_of(DIGEST_SHA256, r->id.b, sizeof r->id.b, &r->image_digest);
    }
    for (size_t i = 0; i < sizeof r->request_hash; i++) {
        r->request_hash[i] = (uint8_t)rng_u64(g);
    }
    r->limits = some_limits(g);
    r->policy = (struct run_policy){ .retries_max = (uint32_t)some(g, 100),
                                     .retries_asked_max = (uint32_t)some(g, 100),
                                     .retry_backoff_milli = (uint32_t)some(g, 10000),
                                     .retry_jitter_milli = (uint32_t)rng_below(g, 1001),
                                     .retry_delay_ms = some(g, 1 << 30),
                                     .retry_max_delay_ms = some(g, 1 << 30),
                                     .queue_timeout_ms = some(g, 1 << 30),
                                     .concurrency = (uint32_t)some(g, 100000),
                                     .priority = (uint32_t)rng_below(g, 101),
                                     .retry_budget_milli = (uint32_t)rng_below(g, 1001) };
    if (rng_below(g, 2) == 0) {
        some_usage(g, &r->usage);
    }
    some_texts(g, r);
}

static int read_back(const struct buf *text, struct run *ret, struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    int r = json_parse(text->data, text->len, NULL, &doc, e);

    return r != 0 ? r : run_from_json(json_root(doc), ret, e);
}

static void records_round_trip(void **state)
{
    const char *given = getenv("RUN_SEED");
    uint64_t seed = 42;
    struct rng g;

    (void)state;
    (void)str_u64(str_of(given), &seed);
    print_message("seed %llu (RUN_SEED)\n", (unsigned long long)seed);
    rng_init(&g, seed);
    for (int i = 0; i < 2000; i++) {
        AUTO_BUF struct buf text = BUF_INIT(65536);
        AUTO_BUF struct buf again = BUF_INIT(65536);
        struct json_w w;
        struct run a;
        struct run b;
        struct err e = { 0 };
        a_run(&g, &a);
        json_w_init(&w, &text, false);
        run_to_record(&w, &a);
        assert_int_equal(buf_error(&text), 0);
        if (read_back(&text, &b, &e) != 0) {
            fail_msg("%s: %s", err_text(&e), buf_cstr(&text));
        }
        json_w_init(&w, &again, false);
        run_to_record(&w, &b);
        assert_string_equal(buf_cstr(&again), buf_cstr(&text));
        assert_memory_equal(&a.limits.memory_bytes, &b.limits.memory_bytes, 64);
        assert_int_equal(a.usage.cpu_total_us, b.usage.cpu_total_us);
        assert_int_equal(a.limits.cache, b.limits.cache);
        if ((a.usage.knows & RUN_KNOWS_CACHE) != 0) {
            assert_int_equal(a.usage.cache_max_kib, b.usage.cache_max_kib);
            assert_int_equal(a.usage.cache_class, b.usage.cache_class);
        }
        assert_int_equal(a.created_us, b.created_us);
        assert_int_equal(a.owner, b.owner);
        assert_int_equal(a.holders_len, b.holders_len);
        assert_memory_equal(a.holders, b.holders, sizeof a.holders);
        assert_memory_equal(a.request_hash, b.request_hash, sizeof a.request_hash);
        assert_string_equal(a.detail, b.detail);
        assert_int_equal(a.policy.retry_max_delay_ms, b.policy.retry_max_delay_ms);
    }
}

static void what_users_see_hides_the_hash(void **state)
{
    AUTO_BUF struct buf text = BUF_INIT(65536);
    struct json_w w;
    struct run r;

    (void)state;
    run_init(&r, (struct ulid){ { 1 } }, 1000000);
    json_w_init(&w, &text, false);
    run_to_json(&w, &r);
    const char *t = buf_cstr(&text);
    assert_null(strstr(t, "request_hash"));
    assert_null(strstr(t, "policy"));
    assert_non_null(strstr(t, "\"job\":null"));
    assert_non_null(strstr(t, "\"reason\":null"));
    assert_non_null(strstr(t, "\"exit_code\":null"));
    assert_non_null(strstr(t, "\"resources\":null"));
    assert_non_null(strstr(t, "\"command\":[]"));
    assert_non_null(strstr(t, "\"labels\":{}"));
    assert_non_null(strstr(t, "\"state\":\"queued\""));
    assert_non_null(strstr(t, "\"created_at\":\"1970-01-01T00:00:01.000000Z\""));
}

static void bad_records_are_refused(void **state)
{
    static const struct {
        const char *text;
        const char *names;
    } bad[] = {
        { "[]", "object" },
        { "{}", "id" },
        { "{\"id\":\"x\"}", "id" },
        { "{\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"epoch\":1,\"attempt\":1}", "state" },
        { "{\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"state\":\"dead\"}", "state" },
        { "{\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"state\":\"queued\",\"attempt\":1}", "epoch" },
        { "{\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"state\":\"queued\",\"epoch\":1}", "attempt" },
        { "{\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"state\":\"queued\",\"epoch\":1,\"attempt\":1,"
          "\"exit_code\":256}",
          "exit_code" },
        { "{\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"state\":\"queued\",\"epoch\":1,\"attempt\":1,"
          "\"ended_at\":\"yesterday\"}",
          "ended_at" },
        { "{\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"state\":\"queued\",\"epoch\":1,\"attempt\":1,"
          "\"labels\":[1]}",
          "labels" },
        { "{\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"state\":\"queued\",\"epoch\":1,\"attempt\":1,"
          "\"limits\":{\"memory_bytes\":-1}}",
          "memory_bytes" },
        { "{\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"state\":\"queued\",\"epoch\":1,\"attempt\":1,"
          "\"resources\":{\"cpu_seconds\":\"1\"}}",
          "cpu_seconds" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        AUTO_BUF struct buf text = BUF_INIT(65536);
        struct run r = { .attempt = 77 };
        struct err e = { 0 };
        (void)buf_adds(&text, bad[i].text);
        assert_int_equal(read_back(&text, &r, &e), -EINVAL);
        assert_non_null(strstr(err_text(&e), bad[i].names));
        assert_int_equal(r.attempt, 77);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves_are_those_of_the_drawing),
        cmocka_unit_test(a_new_attempt_starts_clean),
        cmocka_unit_test(reasons_mean_states),
        cmocka_unit_test(states_are_parsed),
        cmocka_unit_test(texts_are_cut_at_characters),
        cmocka_unit_test(records_round_trip),
        cmocka_unit_test(what_users_see_hides_the_hash),
        cmocka_unit_test(bad_records_are_refused),
    };
    return cmocka_run_group_tests_name("run", tests, NULL, NULL);
}
