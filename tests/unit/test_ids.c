#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/ids.h"
#include "common/insist.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

static void ulid_text(void **state)
{
    struct ulid id;
    char text[ULID_TEXT_CAP];
    (void)state;
    /* The specification's example time; the largest id. */
    assert_int_equal(ulid_parse(STR("01ARYZ6S41TSV4RRFFQ69G5FAV"), &id), 0);
    assert_true(ulid_ms(id) == 1469918176385);
    ulid_format(id, text);
    assert_string_equal(text, "01ARYZ6S41TSV4RRFFQ69G5FAV");
    assert_int_equal(ulid_parse(STR("01aryz6s41tsv4rrffq69g5fav"), &id), 0);
    ulid_format(id, text);
    assert_string_equal(text, "01ARYZ6S41TSV4RRFFQ69G5FAV");
    assert_int_equal(ulid_parse(STR("7ZZZZZZZZZZZZZZZZZZZZZZZZZ"), &id), 0);
    for (size_t i = 0; i < sizeof id.b; i++) {
        assert_int_equal(id.b[i], 0xff);
    }
    static const char *const bad[] = { "",
                                       "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
                                       "01ARYZ6S41TSV4RRFFQ69G5FA",
                                       "01ARYZ6S41TSV4RRFFQ69G5FAVX",
                                       "01ARYZ6S41TSV4RRFFQ69G5FAU",
                                       "01ARYZ6S41TSV4RRFFQ69G5FAI",
                                       "01ARYZ6S41TSV4RRFFQ69G5FA-" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(ulid_parse(str_of(bad[i]), &id), -EINVAL);
    }
    assert_int_equal(ulid_parse((struct str){ "01ARYZ6S41TSV4RRFFQ69G5FA\0", 26 }, &id), -EINVAL);
}

static void ulids_ascend_whatever_the_clock_does(void **state)
{
    struct ulid_gen g = { .node = 0xdeadbeef };
    struct ulid last = { .b = { 0 } };
    char last_text[ULID_TEXT_CAP] = "";
    struct rng r;
    uint64_t now = 1700000000000;
    (void)state;
    rng_init(&r, test_seed("ulids_ascend"));
    assert_true(ulid_is_zero(last));
    for (int i = 0; i < 20000; i++) {
        char text[ULID_TEXT_CAP];
        struct ulid back;
        now = now + rng_below(&r, 3) - rng_below(&r, 3);
        struct ulid id = ulid_next(&g, now, rng_u64(&r));
        assert_true(ulid_cmp(id, last) > 0);
        assert_false(ulid_is_zero(id));
        ulid_format(id, text);
        assert_true(strcmp(text, last_text) > 0);
        assert_int_equal(ulid_parse(str_of(text), &back), 0);
        assert_true(ulid_eq(id, back));
        assert_int_equal(ulid_node(id), 0xdeadbeef);
        last = id;
        memcpy(last_text, text, sizeof text);
    }
}

static void a_full_millisecond_moves_on(void **state)
{
    struct ulid_gen g = { .node = 1, .last_ms = 1000, .last_tail = (UINT64_C(1) << 48) - 2 };
    (void)state;
    struct ulid a = ulid_next(&g, 1000, 5);
    struct ulid b = ulid_next(&g, 1000, 5);
    assert_true(ulid_ms(a) == 1000);
    assert_true(ulid_ms(b) == 1001);
    assert_true(ulid_cmp(b, a) > 0);
}

static void times(void **state)
{
    static const struct {
        const char *text;
        int64_t us;
    } t[] = {
        { "1970-01-01T00:00:00.000000Z", 0 },
        { "2026-11-23T08:36:23.123456Z", 1795422983123456 },
        { "2000-02-29T23:59:59.999999Z", 951868799999999 },
        { "9999-12-31T23:59:59.999999Z", 253402300799999999 },
    };
    char text[TIME_TEXT_CAP];
    int64_t us;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        assert_string_equal(time_format(t[i].us, text), t[i].text);
        assert_int_equal(time_parse(str_of(t[i].text), &us), 0);
        assert_true(us == t[i].us);
    }
    assert_string_equal(time_format(-5, text), "1970-01-01T00:00:00.000000Z");
    assert_string_equal(time_format(INT64_MAX, text), "9999-12-31T23:59:59.999999Z");
    assert_int_equal(time_parse(STR("2026-11-23T10:06:23.1+01:30"), &us), 0);
    assert_true(us == 1795422983100000);
    assert_int_equal(time_parse(STR("2026-11-23t08:36:23z"), &us), 0);
    assert_int_equal(time_parse(STR("2016-12-31T23:59:60Z"), &us), 0);
    assert_string_equal(time_format(us, text), "2017-01-01T00:00:00.000000Z");
    assert_int_equal(time_parse(STR("2026-11-23T08:36:23.123456789Z"), &us), 0);
    assert_true(us == 1795422983123456);
    static const char *const bad[] = {
        "",
        "2026-11-23",
        "2026-11-23T08:36:23",
        "2026-13-23T08:36:23Z",
        "2026-00-23T08:36:23Z",
        "2026-02-29T08:36:23Z",
        "2100-02-29T00:00:00Z",
        "2026-11-31T08:36:23Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T08:60:23Z",
        "2026-11-23T08:36:61Z",
        "2026-11-23T08:36:23.Z",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+00:01",
        "2026-11-23T08:36:23+24:00",
        "2026-11-23T08:36:23Zx",
        "9999-12-31T23:59:59-00:01",
        "+026-11-23T08:36:23Z",
        "2026-11-23T08:36:23+0100",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(time_parse(str_of(bad[i]), &us), -EINVAL);
    }
}

static void times_round_trip(void **state)
{
    struct rng r;
    (void)state;
    rng_init(&r, test_seed("times_round_trip"));
    for (int i = 0; i < 50000; i++) {
        char text[TIME_TEXT_CAP];
        int64_t back;
        int64_t us = (int64_t)rng_below(&r, 253402300800000000);
        assert_int_equal(time_parse(str_of(time_format(us, text)), &back), 0);
        assert_true(us == back);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ulid_text),
        cmocka_unit_test(ulids_ascend_whatever_the_clock_does),
        cmocka_unit_test(a_full_millisecond_moves_on),
        cmocka_unit_test(times),
        cmocka_unit_test(times_round_trip),
    };
    return cmocka_run_group_tests_name("ids", tests, NULL, NULL);
}
