#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "agent/triggers/plan.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/rendezvous.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

#define S INT64_C(1000000)
#define T0 (INT64_C(1795651200) * S) /* 2026-11-26T00:00:00Z */

static struct trigger_set *set_of(const char *text)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct trigger_set *set = NULL;
    struct trigger_problems problems;
    struct err e = { 0 };

    if (json_parse(text, strlen(text), NULL, &doc, &e) != 0) {
        fail_msg("%s", err_text(&e));
    }
    if (trigger_set_parse(json_root(doc), STR("report"), &set, &problems) != 0) {
        fail_msg("%s: %s", problems.items[0].field, problems.items[0].detail);
    }
    return set;
}

static struct trigger_plan *plan_new(uint32_t node)
{
    struct trigger_plan_config cfg = { .node = node, .max = 1000, .members_max = 100 };
    struct trigger_plan *p = NULL;

    assert_int_equal(trigger_plan_new(&cfg, &p), 0);
    return p;
}

static struct trigger_plan_effects fx;

static int job(struct trigger_plan *p, const char *schedules, int64_t anchor)
{
    char text[512];
    const struct trigger_zone *zones[8];

    (void)snprintf(text, sizeof text, "{\"schedules\":[%s]}", schedules);
    struct trigger_set *set = set_of(text);
    for (size_t i = 0; i < ARRAY_LEN(zones); i++) {
        zones[i] = trigger_zone_utc();
    }
    struct trigger_plan_event ev = { .type = TRIGGER_PLAN_JOB,
                                     .now_us = anchor,
                                     .job = STR("report"),
                                     .schedules = set->schedules,
                                     .schedules_len = set->schedules_len,
                                     .zones = zones,
                                     .anchor_us = anchor };
    int rc = trigger_plan_step(p, &ev, &fx);
    trigger_set_free(set);
    return rc;
}

static void tick(struct trigger_plan *p, int64_t now)
{
    struct trigger_plan_event ev = { .type = TRIGGER_PLAN_TICK, .now_us = now };

    assert_int_equal(trigger_plan_step(p, &ev, &fx), 0);
}

static void tell(struct trigger_plan *p, enum trigger_plan_event_type type, int64_t now,
                 int64_t planned, int status)
{
    struct trigger_plan_event ev = { .type = type,
                                     .now_us = now,
                                     .job = STR("report"),
                                     .schedule = STR("0"),
                                     .planned_us = planned,
                                     .status = status };

    assert_int_equal(trigger_plan_step(p, &ev, &fx), 0);
}

static void members(struct trigger_plan *p, const uint32_t *ids, size_t n)
{
    struct trigger_plan_event ev = { .type = TRIGGER_PLAN_MEMBERS,
                                     .members = ids,
                                     .members_len = n };

    assert_int_equal(trigger_plan_step(p, &ev, &fx), 0);
}

static void it_fires_in_time_and_once(void **state)
{
    struct trigger_plan *p = plan_new(1);

    (void)state;
    assert_int_equal(trigger_plan_deadline_us(p), INT64_MAX);
    assert_int_equal(job(p, "{\"cron\":\"* * * * *\"}", T0), 0);
    assert_int_equal(trigger_plan_deadline_us(p), T0 + 60 * S);
    tick(p, T0 + 59 * S);
    assert_int_equal(fx.n, 0);
    tick(p, T0 + 60 * S);
    assert_int_equal(fx.n, 1);
    assert_int_equal(fx.v[0].type, TRIGGER_PLAN_FX_FIRE);
    assert_int_equal(fx.v[0].planned_us, T0 + 60 * S);
    tick(p, T0 + 61 * S);
    assert_int_equal(fx.n, 0);
    /* A queue that is full: again, and then it is told to all. */
    tell(p, TRIGGER_PLAN_FIRED, T0 + 61 * S, T0 + 60 * S, -ENOBUFS);
    assert_int_equal(fx.n, 0);
    tick(p, T0 + 62 * S);
    assert_int_equal(fx.n, 1);
    tell(p, TRIGGER_PLAN_FIRED, T0 + 62 * S, T0 + 60 * S, 0);
    assert_int_equal(fx.n, 1);
    assert_int_equal(fx.v[0].type, TRIGGER_PLAN_FX_RECORD);
    assert_int_equal(fx.v[0].count, 1);
    assert_int_equal(trigger_plan_next_us(p, STR("report"), STR("0")), T0 + 120 * S);
    /* The clock goes back: nothing is fired again. */
    tick(p, T0 - 3600 * S);
    assert_int_equal(fx.n, 0);
    trigger_plan_free(p);
}

static void only_its_owner_fires(void **state)
{
    static const uint32_t ids[] = { 11, 22, 33 };
    struct trigger_plan *p[3];
    int fired = -1;
    size_t left = 0;
    uint32_t living[2];

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        p[i] = plan_new(ids[i]);
        members(p[i], ids, 3);
        assert_int_equal(job(p[i], "{\"cron\":\"* * * * *\"}", T0), 0);
        tick(p[i], T0 + 60 * S);
        if (fx.n != 0) {
            assert_int_equal(fired, -1);
            fired = (int)i;
        }
    }
    assert_true(fired >= 0);
    /* It dies before it told anyone: exactly one of the others makes up for it. */
    for (size_t i = 0; i < 3; i++) {
        if ((int)i != fired) {
            living[left++] = ids[i];
        }
    }
    int again = 0;
    for (size_t i = 0; i < 3; i++) {
        if ((int)i == fired) {
            continue;
        }
        members(p[i], living, 2);
        tick(p[i], T0 + 66 * S);
        if (fx.n == 1 && fx.v[0].type == TRIGGER_PLAN_FX_FIRE) {
            assert_int_equal(fx.v[0].planned_us, T0 + 60 * S);
            again++;
        } else {
            /* The other hears of it and plans the next. */
            tell(p[i], TRIGGER_PLAN_LAST, T0 + 67 * S, T0 + 60 * S, 0);
            assert_int_equal(trigger_plan_next_us(p[i], STR("report"), STR("0")), T0 + 120 * S);
        }
    }
    assert_int_equal(again, 1);
    for (size_t i = 0; i < 3; i++) {
        trigger_plan_free(p[i]);
    }
}

/* An outage of ten minutes and a half, from 00:00:30. */
static void missed(const char *extra, size_t fires, uint64_t given_up)
{
    struct trigger_plan *p = plan_new(1);
    char text[160];
    uint64_t n = 0;
    size_t f = 0;

    (void)snprintf(text, sizeof text, "{\"cron\":\"* * * * *\"%s}", extra);
    assert_int_equal(job(p, text, T0 + 30 * S), 0);
    int64_t now = T0 + 630 * S + 31 * S; /* the last one was planned at 660 s: one second late */
    for (int i = 0; i < 100; i++) {
        tick(p, now);
        if (fx.n == 0) {
            break;
        }
        struct trigger_plan_effects seen = fx;
        for (size_t k = 0; k < seen.n; k++) {
            if (seen.v[k].type == TRIGGER_PLAN_FX_MISSED) {
                assert_int_equal(seen.v[k].reason, TRIGGER_PLAN_LATE);
                n += seen.v[k].missed;
            } else if (seen.v[k].type == TRIGGER_PLAN_FX_FIRE) {
                f++;
                tell(p, TRIGGER_PLAN_FIRED, now, seen.v[k].planned_us, 0);
            }
        }
    }
    assert_int_equal(f, fires);
    assert_int_equal(n, given_up);
    assert_int_equal(trigger_plan_next_us(p, STR("report"), STR("0")), T0 + 720 * S);
    trigger_plan_free(p);
}

static void what_was_missed_is_caught_up_as_asked(void **state)
{
    (void)state;
    missed("", 1, 10); /* the last one is still in time */
    missed(",\"catch_up\":\"one\"", 1, 10);
    missed(",\"catch_up\":\"all\"", 11, 0);
    missed(",\"start_deadline\":\"3m\"", 1, 10);
}

static void a_long_outage_is_no_storm(void **state)
{
    struct trigger_plan *p = plan_new(1);

    (void)state;
    assert_int_equal(job(p, "{\"cron\":\"*/5 * * * * *\",\"catch_up\":\"all\"}", T0), 0);
    int64_t now = T0 + INT64_C(366) * 86400 * S + 2 * S;
    tick(p, now);
    assert_int_equal(fx.n, 3);
    assert_int_equal(fx.v[0].type, TRIGGER_PLAN_FX_MISSED);
    assert_int_equal(fx.v[0].missed, TRIGGER_PLAN_MISSED_COUNT_MAX - 1);
    assert_int_equal(fx.v[2].type, TRIGGER_PLAN_FX_FIRE);
    assert_int_equal(fx.v[2].planned_us, now - 2 * S);
    trigger_plan_free(p);
    /* Nothing to catch up, and the last one long ago. */
    p = plan_new(1);
    assert_int_equal(job(p, "{\"cron\":\"0 0 1 1 *\"}", T0), 0);
    tick(p, now);
    assert_int_equal(fx.n, 2);
    assert_int_equal(fx.v[0].missed, 1);
    assert_int_equal(fx.v[1].type, TRIGGER_PLAN_FX_RECORD);
    trigger_plan_free(p);
}

static void overlap_forbid_and_replace(void **state)
{
    struct trigger_plan *p = plan_new(1);

    (void)state;
    assert_int_equal(job(p, "{\"cron\":\"* * * * *\",\"overlap\":\"forbid\"}", T0), 0);
    tick(p, T0 + 60 * S);
    tell(p, TRIGGER_PLAN_FIRED, T0 + 60 * S, T0 + 60 * S, 0);
    tick(p, T0 + 120 * S);
    assert_int_equal(fx.n, 2);
    assert_int_equal(fx.v[0].reason, TRIGGER_PLAN_OVERLAP);
    tell(p, TRIGGER_PLAN_ENDED, T0 + 121 * S, 0, 0);
    tick(p, T0 + 180 * S);
    assert_int_equal(fx.v[0].type, TRIGGER_PLAN_FX_FIRE);
    assert_false(fx.v[0].replace);
    tell(p, TRIGGER_PLAN_FIRED, T0 + 180 * S, T0 + 180 * S, 0);
    /* A new revision: what runs is not forgotten. */
    assert_int_equal(job(p, "{\"cron\":\"* * * * *\",\"overlap\":\"replace\"}", T0 + 200 * S), 0);
    tick(p, T0 + 240 * S);
    assert_int_equal(fx.n, 1);
    assert_true(fx.v[0].replace);
    trigger_plan_free(p);
}

static void bounds_of_a_schedule(void **state)
{
    struct trigger_plan *p = plan_new(1);

    (void)state;
    assert_int_equal(job(p,
                         "{\"run_every\":\"10m\",\"start_at\":\"2026-11-26T01:00:00Z\","
                         "\"run_times\":2}",
                         T0),
                     0);
    tick(p, T0 + 3600 * S);
    assert_int_equal(fx.v[0].planned_us, T0 + 3600 * S);
    tell(p, TRIGGER_PLAN_FIRED, T0 + 3600 * S, T0 + 3600 * S, 0);
    tick(p, T0 + 4200 * S);
    tell(p, TRIGGER_PLAN_FIRED, T0 + 4200 * S, T0 + 4200 * S, 0);
    assert_int_equal(trigger_plan_deadline_us(p), INT64_MAX);
    assert_int_equal(job(p, "{\"cron\":\"@daily\",\"end_at\":\"2026-11-26T12:00:00Z\"}", T0), 0);
    assert_int_equal(trigger_plan_deadline_us(p), INT64_MAX);
    assert_int_equal(job(p, "{\"cron\":\"@daily\",\"paused\":true}", T0), 0);
    assert_int_equal(trigger_plan_deadline_us(p), INT64_MAX);
    assert_int_equal(job(p, "{\"start_at\":\"2026-11-26T12:00:00Z\"}", T0), 0);
    assert_int_equal(trigger_plan_deadline_us(p), T0 + 43200 * S);
    struct trigger_plan_event drop = { .type = TRIGGER_PLAN_DROP, .job = STR("report") };
    assert_int_equal(trigger_plan_step(p, &drop, &fx), 0);
    assert_int_equal(trigger_plan_len(p), 0);
    trigger_plan_free(p);
}

static void jitter_spreads_and_stays(void **state)
{
    struct trigger_plan *p = plan_new(1);
    struct trigger_plan *q = plan_new(2);

    (void)state;
    assert_int_equal(job(p, "{\"cron\":\"@daily\",\"jitter\":\"10m\"}", T0), 0);
    assert_int_equal(job(q, "{\"cron\":\"@daily\",\"jitter\":\"10m\"}", T0), 0);
    int64_t due = trigger_plan_deadline_us(p);
    assert_int_equal(due, trigger_plan_deadline_us(q));
    assert_true(due >= T0 + 86400 * S && due <= T0 + 87000 * S);
    tick(p, due);
    assert_int_equal(fx.n, 1);
    assert_int_equal(fx.v[0].type, TRIGGER_PLAN_FX_FIRE);
    assert_int_equal(fx.v[0].planned_us, T0 + 86400 * S);
    trigger_plan_free(p);
    trigger_plan_free(q);
}

static void no_memory_changes_nothing(void **state)
{
    struct trigger_plan *p = plan_new(1);

    (void)state;
    assert_int_equal(job(p, "{\"cron\":\"@hourly\"}", T0), 0);
    struct trigger_set *set =
        set_of("{\"schedules\":[{\"cron\":\"@daily\"},{\"cron\":\"@weekly\"}]}");
    const struct trigger_zone *zones[] = { trigger_zone_utc(), trigger_zone_utc() };
    struct trigger_plan_event ev = { .type = TRIGGER_PLAN_JOB,
                                     .job = STR("report"),
                                     .schedules = set->schedules,
                                     .schedules_len = 2,
                                     .zones = zones,
                                     .anchor_us = T0 };
    for (long fault = 0;; fault++) {
        mem_fail_after(fault, 1);
        int rc = trigger_plan_step(p, &ev, &fx);
        mem_fail_after(-1, 0);
        if (rc == 0) {
            break;
        }
        assert_int_equal(rc, -ENOMEM);
        assert_int_equal(trigger_plan_len(p), 1);
        assert_int_equal(trigger_plan_deadline_us(p), T0 + 3600 * S);
    }
    assert_int_equal(trigger_plan_len(p), 2);
    trigger_set_free(set);
    trigger_plan_free(p);
}

static void rendezvous_is_fair_and_moves_little(void **state)
{
    uint32_t ids[10];
    unsigned count[10] = { 0 };
    unsigned moved = 0;

    (void)state;
    for (uint32_t i = 0; i < 10; i++) {
        ids[i] = i * 7919;
    }
    for (uint64_t k = 0; k < 10000; k++) {
        uint32_t three[3];
        uint32_t two[2];
        uint64_t key = rendezvous_key((struct str){ (const char *)&k, sizeof k });
        assert_int_equal(rendezvous_pick(key, ids, 10, three, 3), 3);
        assert_true(rendezvous_weight(key, three[0]) >= rendezvous_weight(key, three[1]));
        count[three[0] / 7919]++;
        /* The last one goes: only its keys move, to their second. */
        assert_int_equal(rendezvous_pick(key, ids, 9, two, 2), 2);
        if (two[0] != three[0]) {
            assert_int_equal(three[0], ids[9]);
            assert_int_equal(two[0], three[1]);
            moved++;
        }
    }
    assert_int_equal(moved, count[9]);
    for (size_t i = 0; i < 10; i++) {
        assert_true(count[i] > 800 && count[i] < 1200);
    }
}

/* ---- documents ---- */

static void bad_documents_are_named(void **state)
{
    static const struct {
        const char *text, *field, *says;
    } rows[] = {
        { "[]", "triggers", "must be an object" },
        { "{\"cron\":[]}", "triggers.cron", "not a member" },
        { "{\"schedules\":{}}", "triggers.schedules", "must be an array" },
        { "{\"schedules\":[{}]}", "triggers.schedules[0].cron", "when is it to run" },
        { "{\"schedules\":[{\"cron\":\"30 2 31 2 *\"}]}", "triggers.schedules[0].cron", "29 days" },
        { "{\"schedules\":[{\"cron\":\"@daily\",\"overlap\":\"maybe\"}]}",
          "triggers.schedules[0].overlap", "allow, forbid, replace" },
        { "{\"schedules\":[{\"cron\":\"TZ=UTC @daily\",\"time_zone\":\"UTC\"}]}",
          "triggers.schedules[0].cron", "only one of them" },
        { "{\"schedules\":[{\"cron\":\"@daily\",\"name\":\"a\"},{\"cron\":\"@daily\",\"name\":"
          "\"a\"}]}",
          "triggers.schedules[1].name", "twice" },
        { "{\"hooks\":[{\"name\":\"h\"}]}", "triggers.hooks[0].verify", "is missing" },
        { "{\"hooks\":[{\"verify\":\"github\"}]}", "triggers.hooks[0].secret", "is missing" },
        { "{\"hooks\":[{\"verify\":\"none\",\"secret\":\"x\"}]}", "triggers.hooks[0].secret",
          "no use" },
        { "{\"hooks\":[{\"verify\":\"none\",\"when\":\"payload =\"}]}", "triggers.hooks[0].when",
          "column" },
        { "{\"hooks\":[{\"verify\":\"none\",\"headers\":[\"Authorization\"]}]}",
          "triggers.hooks[0].headers", "secret" },
        { "{\"sensors\":[{\"mqtt\":\"a/#/b\",\"when\":\"value > 1\"}]}", "triggers.sensors[0].mqtt",
          "last level" },
        { "{\"sensors\":[{\"mqtt\":\"a\"}]}", "triggers.sensors[0].when", "is missing" },
        { "{\"sensors\":[{\"when\":\"value > 1\"}]}", "triggers.sensors[0]", "one of mqtt" },
        { "{\"events\":[{}]}", "triggers.events[0].type", "is missing" },
        { "{\"after\":[{\"job\":\"report\"}]}", "triggers.after[0].job", "never stop" },
        { "{\"after\":[{\"jobs\":[\"a\",\"b\"],\"payload\":\"output\"}]}",
          "triggers.after[0].payload", "several outputs" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        AUTO_JSON struct json_doc *doc = NULL;
        struct trigger_set *set = NULL;
        struct trigger_problems problems = { 0 };
        struct err e = { 0 };
        assert_int_equal(json_parse(rows[i].text, strlen(rows[i].text), NULL, &doc, &e), 0);
        int rc = trigger_set_parse(json_root(doc), STR("report"), &set, &problems);
        if (rc != -EINVAL || strcmp(problems.items[0].field, rows[i].field) != 0 ||
            strstr(problems.items[0].detail, rows[i].says) == NULL) {
            fail_msg("%s: %d, %s: %s", rows[i].text, rc, problems.items[0].field,
                     problems.items[0].detail);
        }
    }
}

static void a_whole_document(void **state)
{
    static const char text[] =
        "{\"schedules\":[{\"cron\":\"30 2 * * *\",\"time_zone\":\"Europe/Berlin\",\"overlap\":"
        "\"forbid\",\"catch_up\":\"one\",\"jitter\":\"5m\"}],"
        "\"hooks\":[{\"name\":\"github\",\"verify\":\"github\",\"secret\":\"gh-hook\",\"when\":"
        "\"payload.ref == 'refs/heads/main'\",\"headers\":[\"X-GitHub-Event\"]}],"
        "\"sensors\":[{\"name\":\"hot\",\"mqtt\":\"plant/+/temperature\",\"when\":\"value > 80\","
        "\"for\":\"30s\",\"rearm\":\"value < 75\"},{\"name\":\"pressure\",\"node\":\"memory."
        "pressure_some_avg10\",\"when\":\"value > 20\"}],"
        "\"events\":[{\"type\":\"com.example.*\"}],"
        "\"after\":[{\"job\":\"extract\",\"on\":\"succeeded\",\"payload\":\"output\"}]}";

    (void)state;
    for (long fault = 0;; fault++) {
        AUTO_JSON struct json_doc *doc = NULL;
        struct trigger_set *set = NULL;
        struct trigger_problems problems;
        struct err e = { 0 };
        assert_int_equal(json_parse(text, sizeof text - 1, NULL, &doc, &e), 0);
        mem_fail_after(fault, 1);
        int rc = trigger_set_parse(json_root(doc), STR("report"), &set, &problems);
        mem_fail_after(-1, 0);
        if (rc != 0) {
            assert_int_equal(rc, -ENOMEM);
            continue;
        }
        assert_int_equal(set->schedules_len, 1);
        assert_int_equal(set->schedules[0].jitter_ms, 300000);
        assert_string_equal(set->hooks[0].secret, "gh-hook");
        assert_int_equal(set->sensors_len, 2);
        assert_true(set->sensors[0].rule.has_rearm);
        assert_true(set->after[0].payload);
        trigger_set_free(set);
        break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_fires_in_time_and_once),
        cmocka_unit_test(only_its_owner_fires),
        cmocka_unit_test(what_was_missed_is_caught_up_as_asked),
        cmocka_unit_test(a_long_outage_is_no_storm),
        cmocka_unit_test(overlap_forbid_and_replace),
        cmocka_unit_test(bounds_of_a_schedule),
        cmocka_unit_test(jitter_spreads_and_stays),
        cmocka_unit_test(no_memory_changes_nothing),
        cmocka_unit_test(rendezvous_is_fair_and_moves_little),
        cmocka_unit_test(bad_documents_are_named),
        cmocka_unit_test(a_whole_document),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
