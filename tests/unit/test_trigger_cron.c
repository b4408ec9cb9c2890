#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "agent/triggers/cron.h"
#include "common/ids.h"
#include "common/insist.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

#define BERLIN "CET-1CEST,M3.5.0,M10.5.0/3"

static struct trigger_zone *zone(const char *rule)
{
    struct trigger_zone *z = NULL;
    struct err e = { 0 };

    if (trigger_zone_rule(STR("test"), str_of(rule), &z, &e) != 0) {
        fail_msg("%s: %s", rule, err_text(&e));
    }
    return z;
}

static int64_t at(const char *text)
{
    int64_t us = 0;

    assert_int_equal(time_parse(str_of(text), &us), 0);
    return us / 1000000;
}

static struct trigger_cron cron(const char *text)
{
    struct trigger_cron c = { 0 };
    struct str z;
    struct err e = { 0 };

    if (trigger_cron_parse(str_of(text), 0, &c, &z, &e) != 0) {
        fail_msg("%s: %s", text, err_text(&e));
    }
    return c;
}

/* The instants after `from`, one after the other, are those of the list. */
static void fires(const char *expression, const struct trigger_zone *z, const char *from,
                  const char *const *list)
{
    struct trigger_cron c = cron(expression);
    int64_t t = at(from);

    for (; *list != NULL; list++) {
        char text[TIME_TEXT_CAP];
        int64_t next = 0;
        assert_true(trigger_cron_next(&c, z, 0, t, &next));
        if (next != at(*list)) {
            fail_msg("%s: %s, expected %s", expression, time_format(next * 1000000, text), *list);
        }
        t = next;
    }
}
#define LIST(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void plain_expressions(void **state)
{
    const struct trigger_zone *utc = trigger_zone_utc();

    (void)state;
    fires("*/15 * * * *", utc, "2026-01-01T00:00:00Z",
          LIST("2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"));
    fires("30 2 * * *", utc, "2026-12-31T02:30:00Z", LIST("2027-01-01T02:30:00Z"));
    fires("0 0 29 2 *", utc, "2026-01-01T00:00:00Z",
          LIST("2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"));
    fires("0 0 29 2 *", utc, "2096-03-01T00:00:00Z", LIST("2104-02-29T00:00:00Z"));
    /* Both day fields restricted: either. Here the 13th, and Fridays. */
    fires("0 12 13 * fri", utc, "2026-11-01T00:00:00Z",
          LIST("2026-11-06T12:00:00Z", "2026-11-13T12:00:00Z", "2026-11-20T12:00:00Z",
               "2026-11-27T12:00:00Z", "2026-12-04T12:00:00Z", "2026-12-11T12:00:00Z",
               "2026-12-13T12:00:00Z"));
    /* One that begins with a star: both. */
    fires("0 0 */2 * mon", utc, "2026-11-01T00:00:00Z",
          LIST("2026-11-09T00:00:00Z", "2026-11-23T00:00:00Z"));
    fires("0 0 * * 7", utc, "2026-11-26T00:00:00Z", LIST("2026-11-29T00:00:00Z"));
    fires("0 0 * JAN,mar sun-tue", utc, "2026-02-01T00:00:00Z",
          LIST("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z",
               "2026-03-08T00:00:00Z"));
    fires("*/20 59 23 31 12 *", utc, "2026-11-26T00:00:00Z",
          LIST("2026-12-31T23:59:00Z", "2026-12-31T23:59:20Z", "2026-12-31T23:59:40Z",
               "2027-12-31T23:59:00Z"));
    fires("10-30/10,45 8 * * *", utc, "2026-11-26T00:00:00Z",
          LIST("2026-11-26T08:10:00Z", "2026-11-26T08:20:00Z", "2026-11-26T08:30:00Z",
               "2026-11-26T08:45:00Z", "2026-11-27T08:10:00Z"));
    fires("@hourly", utc, "2026-11-26T00:00:00Z", LIST("2026-11-26T01:00:00Z"));
    fires("@yearly", utc, "2026-11-26T00:00:00Z", LIST("2027-01-01T00:00:00Z"));
    fires("@weekly", utc, "2026-11-26T00:00:00Z", LIST("2026-11-29T00:00:00Z"));
}

static void every_and_at(void **state)
{
    struct trigger_cron c = cron("@every 90s");
    int64_t t = 0;

    (void)state;
    assert_true(trigger_cron_next(&c, trigger_zone_utc(), 1000, 1000, &t));
    assert_int_equal(t, 1090);
    assert_true(trigger_cron_next(&c, trigger_zone_utc(), 1000, 1089, &t));
    assert_int_equal(t, 1090);
    assert_true(trigger_cron_next(&c, trigger_zone_utc(), 1000, 5, &t));
    assert_int_equal(t, 1000);
    c = cron("@at 2026-11-26T12:00:00+01:00");
    assert_true(trigger_cron_next(&c, trigger_zone_utc(), 0, at("2026-11-26T10:59:59Z"), &t));
    assert_int_equal(t, at("2026-11-26T11:00:00Z"));
    assert_false(trigger_cron_next(&c, trigger_zone_utc(), 0, t, &t));
}

/* cron(8) of Debian, "Special considerations". Berlin 2026: 29 March and 25 October. */
static void daylight_saving(void **state)
{
    struct trigger_zone *z = zone(BERLIN);

    (void)state;
    /* A skipped time comes once, at the change; two skipped ones are one. */
    fires("30 2 * * *", z, "2026-03-28T00:00:00Z",
          LIST("2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"));
    fires("0,30 2 * * *", z, "2026-03-28T12:00:00Z",
          LIST("2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z", "2026-03-30T00:30:00Z"));
    fires("0 3 * * *", z, "2026-03-28T12:00:00Z",
          LIST("2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"));
    /* A time that is shown twice comes the first time only. */
    fires("30 2 * * *", z, "2026-10-24T12:00:00Z",
          LIST("2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"));
    fires("0,30 2 * * *", z, "2026-10-24T12:00:00Z",
          LIST("2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:00:00Z"));
    /* Also for who asks in the middle of the second showing. */
    fires("45 2 * * *", z, "2026-10-25T01:10:00Z", LIST("2026-10-26T01:45:00Z"));
    /* Intervals follow the clock as it is shown. */
    fires("*/30 * * * *", z, "2026-03-29T00:00:00Z",
          LIST("2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"));
    fires("15 * * * *", z, "2026-10-24T23:00:00Z",
          LIST("2026-10-24T23:15:00Z", "2026-10-25T00:15:00Z", "2026-10-25T01:15:00Z",
               "2026-10-25T02:15:00Z"));
    fires("*/30 2 * * *", z, "2026-10-24T12:00:00Z",
          LIST("2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z",
               "2026-10-25T01:30:00Z", "2026-10-26T01:00:00Z"));
    fires("*/30 2 * * *", z, "2026-03-28T12:00:00Z",
          LIST("2026-03-30T00:00:00Z", "2026-03-30T00:30:00Z"));
    trigger_zone_free(z);
}

static void southern_and_odd_zones(void **state)
{
    /* Lord Howe: half an hour, in the south. */
    struct trigger_zone *z = zone("<+1030>-10:30<+11>-11,M10.1.0,M4.1.0");

    (void)state;
    fires("15 2 * * *", z, "2026-10-02T20:00:00Z",
          LIST("2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"));
    fires("45 1 * * *", z, "2026-04-04T00:00:00Z",
          LIST("2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"));
    trigger_zone_free(z);
    z = zone("<-03>3");
    fires("0 0 * * *", z, "2026-01-01T00:00:00Z", LIST("2026-01-01T03:00:00Z"));
    trigger_zone_free(z);
}

static void hashed_fields(void **state)
{
    struct str unused;
    struct err e = { 0 };

    (void)state;
    for (uint64_t h = 0; h < 500; h++) {
        struct trigger_cron c;
        uint64_t hash = h * UINT64_C(0x9e3779b97f4a7c15);
        assert_int_equal(trigger_cron_parse(STR("H H(1-5) H * *"), hash, &c, &unused, &e), 0);
        assert_int_equal(__builtin_popcountll(c.minutes), 1);
        assert_int_equal(__builtin_popcount(c.hours), 1);
        assert_true((c.hours & 0x3e) == c.hours);
        assert_true(c.days < BIT(29) && c.days > 1);
        assert_int_equal(trigger_cron_parse(STR("H/15 * * * *"), hash, &c, &unused, &e), 0);
        assert_int_equal(__builtin_popcountll(c.minutes), 4);
    }
}

static void bad_expressions(void **state)
{
    static const struct {
        const char *text;
        const char *says;
    } rows[] = {
        { "", "1 to 255" },
        { "* * * *", "4 fields" },
        { "* * * * * * *", "7 or more fields" },
        { "60 * * * *", "minute '60'" },
        { "* 24 * * *", "hour '24'" },
        { "* * 0 * *", "day of month '0'" },
        { "* * * 13 *", "jan to dec" },
        { "* * * * 8", "sun to sat" },
        { "5/15 * * * *", "needs a range" },
        { "*/0 * * * *", "a step is 1 to 99" },
        { "10-5 * * * *", "runs backwards" },
        { "1, * * * *", "last comma" },
        { "x * * * *", "not a value" },
        { "1-x * * * *", "not a value" },
        { "H(1-5 * * * *", "write H" },
        { "30 2 31 2 *", "month 2 has 29 days" },
        { "0 0 31 4,6,9,11 *", "never comes" },
        { "@never", "the words are" },
        { "@every 0s", "1s to 366d" },
        { "@every 1500ms", "whole seconds" },
        { "@at tomorrow", "2026-11-26" },
        { "CRON_TZ=../etc * * * * *", "time zone" },
        { "TZ=UTC", "nothing behind" },
        { "* * L * *", "not a value" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct trigger_cron c;
        struct str z;
        struct err e = { 0 };
        int rc = trigger_cron_parse(str_of(rows[i].text), 0, &c, &z, &e);
        if (rc != -EINVAL || strstr(err_text(&e), rows[i].says) == NULL) {
            fail_msg("'%s': %d, %s", rows[i].text, rc, err_text(&e));
        }
    }
}

static void zone_in_front(void **state)
{
    struct trigger_cron c;
    struct str z;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(trigger_cron_parse(STR(" CRON_TZ=Europe/Berlin  0 5 * * *"), 0, &c, &z, &e),
                     0);
    assert_true(str_eqs(z, "Europe/Berlin"));
    assert_int_equal(c.hours, BIT(5));
}

static void calendar_round_trips(void **state)
{
    struct rng r;

    (void)state;
    rng_init(&r, test_seed("calendar"));
    for (int i = 0; i < 20000; i++) {
        int64_t t =
            (int64_t)rng_below(&r, UINT64_C(8000) * 366 * 86400) - INT64_C(2000) * 365 * 86400;
        struct trigger_civil c = trigger_civil_of(t);
        assert_true(c.month >= 1 && c.month <= 12 && c.day >= 1 &&
                    c.day <= trigger_month_days(c.year, c.month));
        assert_int_equal(trigger_civil_seconds(&c), t);
    }
    assert_int_equal(trigger_civil_weekday(at("2026-11-26T00:00:00Z")), 4);
    assert_int_equal(trigger_civil_weekday(-1), 3);
}

/* By brute force: does the clock show a time that the fields name, at this instant? */
static bool shows(const struct trigger_cron *c, const struct trigger_zone *z, int64_t t)
{
    int64_t wall = t + trigger_zone_offset(z, t).seconds;
    struct trigger_civil f = trigger_civil_of(wall);
    bool day = (c->days & BIT(f.day)) != 0;
    bool weekday = (c->weekdays & BIT(trigger_civil_weekday(wall))) != 0;

    return f.second == 0 && (c->minutes >> f.minute & 1) != 0 && (c->hours & BIT(f.hour)) != 0 &&
           (c->months & BIT(f.month)) != 0 &&
           (c->day_star || c->weekday_star ? day && weekday : day || weekday);
}

static void random_field(struct rng *r, char *dst, size_t cap, unsigned max, unsigned min)
{
    unsigned a = min + (unsigned)rng_below(r, max - min + 1);
    unsigned b = a + (unsigned)rng_below(r, max - a + 1);

    switch (rng_below(r, 5)) {
    case 0:
        (void)snprintf(dst, cap, "*");
        break;
    case 1:
        (void)snprintf(dst, cap, "*/%u", 1 + (unsigned)rng_below(r, max));
        break;
    case 2:
        (void)snprintf(dst, cap, "%u", a);
        break;
    case 3:
        (void)snprintf(dst, cap, "%u-%u", a, b);
        break;
    default:
        (void)snprintf(dst, cap, "%u,%u", a, b);
        break;
    }
}

/* Intervals in a zone with changes, against every minute of a random stretch. */
static void intervals_agree_with_the_clock(void **state)
{
    struct trigger_zone *z = zone(BERLIN);
    struct rng r;
    int compared = 0;

    (void)state;
    rng_init(&r, test_seed("intervals"));
    for (int round = 0; round < 300; round++) {
        char f[5][16];
        char text[96];
        struct trigger_cron c;
        struct str unused;
        struct err e = { 0 };
        random_field(&r, f[0], sizeof f[0], 59, 0);
        random_field(&r, f[1], sizeof f[1], 23, 0);
        random_field(&r, f[2], sizeof f[2], 28, 1);
        random_field(&r, f[3], sizeof f[3], 12, 1);
        random_field(&r, f[4], sizeof f[4], 6, 0);
        (void)snprintf(text, sizeof text, "%s %s %s %s %s", f[0], f[1], f[2], f[3], f[4]);
        if (trigger_cron_parse(str_of(text), 0, &c, &unused, &e) != 0 || !c.wild) {
            continue;
        }
        int64_t from = at(rng_below(&r, 2) ? "2026-03-28T00:00:00Z" : "2026-10-24T00:00:00Z");
        int64_t to = from + 3 * 86400;
        int64_t expected = from;
        for (int64_t t = from + 60; t <= to; t += 60) {
            if (!shows(&c, z, t)) {
                continue;
            }
            int64_t next = 0;
            assert_true(trigger_cron_next(&c, z, 0, expected, &next));
            if (next != t) {
                fail_msg("%s: %lld, expected %lld", text, (long long)next, (long long)t);
            }
            expected = next;
            compared++;
        }
    }
    assert_true(compared > 1000);
    trigger_zone_free(z);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_expressions),
        cmocka_unit_test(every_and_at),
        cmocka_unit_test(daylight_saving),
        cmocka_unit_test(southern_and_odd_zones),
        cmocka_unit_test(hashed_fields),
        cmocka_unit_test(bad_expressions),
        cmocka_unit_test(zone_in_front),
        cmocka_unit_test(calendar_round_trips),
        cmocka_unit_test(intervals_agree_with_the_clock),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
