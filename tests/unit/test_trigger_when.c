#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/triggers/sensor.h"
#include "agent/triggers/triggers.h"
#include "agent/triggers/when.h"
#include "common/insist.h"
#include "common/mem.h"

static const char *const names[] = { "payload", "value", "topic", NULL };

static const char *const document =
    "{\"ref\":\"refs/heads/main\",\"n\":12,\"half\":0.5,\"yes\":true,\"none\":null,"
    "\"commits\":[{\"id\":\"a1\"},{\"id\":\"b2\"}],\"labels\":[\"fast\",\"big\"],"
    "\"a b\":{\"c/d\":{\"~\":7}},\"empty\":\"\"}";

static bool holds(const char *text, bool *missing)
{
    AUTO_JSON struct json_doc *doc = NULL;
    AUTO_JSON struct json_doc *value = NULL;
    struct trigger_when *w = NULL;
    struct err e = { 0 };

    assert_int_equal(json_parse(document, strlen(document), NULL, &doc, &e), 0);
    assert_int_equal(json_parse("81.5", 4, NULL, &value, &e), 0);
    const struct json *values[] = { json_root(doc), json_root(value), NULL };
    if (trigger_when_new(str_of(text), names, &w, &e) != 0) {
        fail_msg("%s: %s", text, err_text(&e));
    }
    bool r = trigger_when_holds(w, values, missing);
    trigger_when_free(w);
    return r;
}

static void conditions_hold(void **state)
{
    static const char *const yes[] = {
        "payload.ref == 'refs/heads/main'",
        "value > 80",
        "value >= 81.5 and value <= 81.5",
        "value > 100 or payload.yes",
        "not (value < 80)",
        "!payload.none",
        "payload.n == 12.0",
        "payload.n != '12'",
        "payload.commits[1].id == \"b2\"",
        "payload['a b']['c/d']['~'] == 7",
        "/n == 12 and size(/commits) == 2",
        "/commits/0/id == 'a1'",
        "payload.labels contains 'big'",
        "payload.ref contains 'heads'",
        "payload contains 'half'",
        "payload.ref starts_with 'refs/' and payload.ref ends_with 'main'",
        "payload.n in [1, 12, 'x']",
        "exists(payload.none) and !exists(payload.nothing)",
        "size(payload.commits) == 2 && size(payload.ref) > 3",
        "payload.none == null",
        "'b' > 'a'",
        "-1.5e1 < -14",
        "payload.yes == true and payload.half",
        "'it\\'s' == \"it's\"",
    };
    static const char *const no[] = {
        "payload.empty",         "payload.none",
        "payload.n > '1'",       "payload.n == true",
        "topic == 'x'",          "topic != 'x'",
        "payload.missing > 1",   "payload.commits[2].id",
        "payload.ref.more == 1", "payload.n in ['12']",
        "payload.ref[0] == 'r'", "size(payload.n) == 1",
        "value < 80 and value",  "payload.labels == payload.labels",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (!holds(yes[i], NULL)) {
            fail_msg("does not hold: %s", yes[i]);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(no); i++) {
        if (holds(no[i], NULL)) {
            fail_msg("holds: %s", no[i]);
        }
    }
}

static void what_is_missing_is_told(void **state)
{
    bool missing = false;

    (void)state;
    (void)holds("topic == 'x'", &missing);
    assert_true(missing);
    (void)holds("value > 1", &missing);
    assert_false(missing);
    (void)holds("exists(topic)", &missing);
    assert_false(missing);
}

static void bad_conditions_are_named(void **state)
{
    static const struct {
        const char *text;
        const char *says;
    } rows[] = {
        { "", "1 to 1024" },
        { "valu > 1", "'valu' is not known here" },
        { "value = 1", "write ==" },
        { "value >", "missing at the end" },
        { "value > 'x", "closing quote" },
        { "(value > 1", ") is missing" },
        { "value > 1 value", "`and`, `or`" },
        { "value > 1.2.3", "not a number" },
        { "value in 3", "needs a list" },
        { "value in [1, 2", "] is missing" },
        { "payload.", "behind the dot" },
        { "payload[x]", "inside [ ]" },
        { "((((((((((((((((((value))))))))))))))))))", "too deep" },
        { "exists(exists(exists(exists(exists(exists(exists(exists(exists(exists(exists(exists("
          "exists(exists(exists(exists(exists(exists(value))))))))))))))))))",
          "too deep" },
        { "value > 1e999", "not a number" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct trigger_when *w = NULL;
        struct err e = { 0 };
        int rc = trigger_when_new(str_of(rows[i].text), names, &w, &e);
        if (rc != -EINVAL || strstr(err_text(&e), rows[i].says) == NULL) {
            fail_msg("'%s': %d, %s", rows[i].text, rc, err_text(&e));
        }
    }
}

static void long_conditions_end(void **state)
{
    struct trigger_when *w = NULL;
    struct err e = { 0 };
    char text[TRIGGER_WHEN_TEXT_MAX + 1];
    size_t n = 0;

    (void)state;
    while (n + 2 < sizeof text) {
        memcpy(text + n, "1|", 2);
        n += 2;
    }
    text[n - 1] = '1';
    assert_int_equal(trigger_when_new((struct str){ text, n }, names, &w, &e), -EINVAL);
    for (long fault = 0;; fault++) {
        mem_fail_after(fault, 1);
        int rc = trigger_when_new(STR("payload.n in [1, 12] and value > 80"), names, &w, &e);
        mem_fail_after(-1, 0);
        if (rc == 0) {
            trigger_when_free(w);
            break;
        }
        assert_int_equal(rc, -ENOMEM);
    }
}

/* ---- sensors ---- */

static void a_sensor_goes_off_once_per_crossing(void **state)
{
    struct trigger_sensor s = { 0 };
    struct trigger_sensor_rule r = { .has_rearm = true };

    (void)state;
    assert_true(trigger_sensor_reading(&s, &r, 1000, true, false, false));
    assert_false(trigger_sensor_reading(&s, &r, 2000, true, false, false));
    assert_false(trigger_sensor_reading(&s, &r, 3000, false, false, false)); /* between both */
    assert_false(trigger_sensor_reading(&s, &r, 4000, true, false, false));
    assert_false(trigger_sensor_reading(&s, &r, 5000, false, true, false));
    assert_int_equal(s.state, TRIGGER_SENSOR_IDLE);
    assert_true(trigger_sensor_reading(&s, &r, 6000, true, false, false));
}

static void it_has_to_hold_for_a_time(void **state)
{
    struct trigger_sensor s = { 0 };
    struct trigger_sensor_rule r = { .for_ms = 30000 };

    (void)state;
    assert_false(trigger_sensor_reading(&s, &r, 1000, true, false, false));
    assert_int_equal(trigger_sensor_deadline_ms(&s, &r), 31000);
    assert_false(trigger_sensor_reading(&s, &r, 20000, false, false, false));
    assert_int_equal(trigger_sensor_deadline_ms(&s, &r), UINT64_MAX);
    assert_false(trigger_sensor_reading(&s, &r, 21000, true, false, false));
    assert_false(trigger_sensor_tick(&s, &r, 50999));
    assert_true(trigger_sensor_tick(&s, &r, 51000));
    assert_false(trigger_sensor_tick(&s, &r, 90000));
}

static void debounce_limit_and_missing(void **state)
{
    struct trigger_sensor s = { 0 };
    struct trigger_sensor_rule r = { .debounce_ms = 100, .every_ms = 10000 };

    (void)state;
    assert_true(trigger_sensor_reading(&s, &r, 1000, true, false, false));
    assert_false(trigger_sensor_reading(&s, &r, 1050, false, false, false));
    assert_int_equal(s.debounced, 1);
    assert_int_equal(s.state, TRIGGER_SENSOR_SPENT);
    assert_false(trigger_sensor_reading(&s, &r, 2000, false, false, true)); /* nothing known */
    assert_int_equal(s.state, TRIGGER_SENSOR_SPENT);
    assert_false(trigger_sensor_reading(&s, &r, 2000, false, false, false));
    assert_false(trigger_sensor_reading(&s, &r, 3000, true, false, false));
    assert_int_equal(s.limited, 1);
    assert_false(trigger_sensor_reading(&s, &r, 12000, false, false, false));
    assert_true(trigger_sensor_reading(&s, &r, 13000, true, false, false));
    /* A clock that went back is no time passed. */
    assert_false(trigger_sensor_reading(&s, &r, 500, false, false, false));
}

static void topics_match(void **state)
{
    static const struct {
        const char *filter, *topic;
        bool match;
    } rows[] = {
        { "plant/+/temperature", "plant/7/temperature", true },
        { "plant/+/temperature", "plant/7/8/temperature", false },
        { "plant/#", "plant", true },
        { "plant/#", "plant/a/b", true },
        { "#", "a/b", true },
        { "#", "$SYS/x", false },
        { "$SYS/#", "$SYS/x", true },
        { "+", "a/", false },
        { "+/+", "a/", true },
        { "+/+", "/a", true },
        { "/+", "/a", true },
        { "a", "a/b", false },
        { "a/b", "a", false },
        { "a/+", "a", false },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (trigger_topic_matches(str_of(rows[i].filter), str_of(rows[i].topic)) != rows[i].match) {
            fail_msg("%s %s", rows[i].filter, rows[i].topic);
        }
    }
    struct err e = { 0 };
    assert_int_equal(trigger_topic_check(STR("a/#/b"), &e), -EINVAL);
    assert_int_equal(trigger_topic_check(STR("a+/b"), &e), -EINVAL);
    assert_int_equal(trigger_topic_check(STR("a/+/#"), &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conditions_hold),
        cmocka_unit_test(what_is_missing_is_told),
        cmocka_unit_test(bad_conditions_are_named),
        cmocka_unit_test(long_conditions_end),
        cmocka_unit_test(a_sensor_goes_off_once_per_crossing),
        cmocka_unit_test(it_has_to_hold_for_a_time),
        cmocka_unit_test(debounce_limit_and_missing),
        cmocka_unit_test(topics_match),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
