/* Prometheus text, the registry's bounds, live runs, memory faults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "agent/telemetry/telemetry.h"
#include "common/mem.h"

static struct telemetry_metrics *metrics_make(uint32_t jobs, uint32_t cells)
{
    struct telemetry_metrics *m = NULL;

    assert_int_equal(telemetry_metrics_new(jobs, cells, "1.2", "abc", 1, 2, &m, NULL), 0);
    return m;
}

static unsigned occurrences(const char *text, const char *what)
{
    unsigned n = 0;

    for (const char *p = text; (p = strstr(p, what)) != NULL; p++) {
        n++;
    }
    return n;
}

static void escaping(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(4096);
    const struct telemetry_label l[] = { { "a", STR("q\"b\\n\nend") },
                                         { "b", STR("\xff\xc3\xa9\xc3") },
                                         { "c", STR("") } };

    telemetry_prom_family(&b, "x_total", TELEMETRY_COUNTER, "one\\two\nthree");
    telemetry_prom_u64(&b, "x_total", l, 3, UINT64_MAX);
    telemetry_prom_real(&b, "y", NULL, 0, 0.0 / 0.0 * 1.0);
    telemetry_prom_real(&b, "y", NULL, 0, -1e300 * 1e300);
    telemetry_prom_seconds(&b, "s", NULL, 0, 0);
    telemetry_prom_seconds(&b, "s", NULL, 0, 1500000);
    telemetry_prom_seconds(&b, "s", NULL, 0, 10000000);
    telemetry_prom_seconds(&b, "s", NULL, 0, 1);
    assert_string_equal(buf_cstr(&b), "# HELP x_total one\\\\two\\nthree\n"
                                      "# TYPE x_total counter\n"
                                      "x_total{a=\"q\\\"b\\\\n\\nend\",b=\"?\xc3\xa9?\",c=\"\"} "
                                      "18446744073709551615\n"
                                      "y NaN\ny -Inf\ns 0\ns 1.5\ns 10\ns 0.000001\n");
    buf_release(&b);
}

static void families_once(void **state)
{
    (void)state;
    struct telemetry_metrics *m = metrics_make(0, 0);
    struct buf b = BUF_INIT(1 << 20);

    for (unsigned i = 0; i < 3; i++) {
        telemetry_count(m, TELEMETRY_RUNS_TOTAL, TELEMETRY_LABELS("a", "succeeded", "exit"), 1);
        telemetry_count(m, TELEMETRY_RUNS_TOTAL, TELEMETRY_LABELS("b", "failed", "oom"), 2);
    }
    telemetry_gauge(m, TELEMETRY_QUEUE_OLDEST, TELEMETRY_NO_LABELS, 2500000);
    assert_int_equal(
        telemetry_value(m, TELEMETRY_RUNS_TOTAL, TELEMETRY_LABELS("b", "failed", "oom")), 6);
    assert_int_equal(telemetry_value(m, TELEMETRY_RUNS_TOTAL, TELEMETRY_LABELS("b", "failed", "x")),
                     0);
    telemetry_metrics_write(m, &b);
    assert_int_equal(buf_error(&b), 0);
    const char *t = buf_cstr(&b);
    assert_int_equal(occurrences(t, "# TYPE agent_runs_total counter\n"), 1);
    assert_non_null(strstr(t, "agent_runs_total{job=\"a\",state=\"succeeded\",reason=\"exit\"} 3\n"
                              "agent_runs_total{job=\"b\",state=\"failed\",reason=\"oom\"} 6\n"));
    assert_non_null(strstr(t, "\nagent_queue_oldest_seconds 2.5\n"));
    assert_non_null(strstr(t, "agent_build_info{version=\"1.2\",revision=\"abc\"} 1\n"));
    assert_non_null(strstr(t, "agent_metrics_dropped_total 0\n"));
    assert_null(strstr(t, "agent_queue_depth"));
    buf_release(&b);
    assert_null(telemetry_metrics_free(m));
}

static void histograms(void **state)
{
    (void)state;
    struct telemetry_metrics *m = metrics_make(0, 0);
    struct buf b = BUF_INIT(1 << 20);
    const uint64_t us[] = { 1, 500, 501, 1000000, UINT64_MAX / 2 };

    for (size_t i = 0; i < 5; i++) {
        telemetry_observe_us(m, TELEMETRY_RUN_DURATION, TELEMETRY_LABELS("a"), us[i]);
    }
    telemetry_metrics_write(m, &b);
    const char *t = buf_cstr(&b);
    assert_non_null(strstr(t, "# TYPE agent_run_duration_seconds histogram\n"));
    assert_non_null(strstr(t, "_seconds_bucket{job=\"a\",le=\"0.0005\"} 2\n"));
    assert_non_null(strstr(t, "_seconds_bucket{job=\"a\",le=\"0.001\"} 3\n"));
    assert_non_null(strstr(t, "_seconds_bucket{job=\"a\",le=\"0.5\"} 3\n"));
    assert_non_null(strstr(t, "_seconds_bucket{job=\"a\",le=\"1\"} 4\n"));
    assert_non_null(strstr(t, "_seconds_bucket{job=\"a\",le=\"43200\"} 4\n"));
    assert_non_null(strstr(t, "_seconds_bucket{job=\"a\",le=\"+Inf\"} 5\n"));
    assert_non_null(strstr(t, "agent_run_duration_seconds_count{job=\"a\"} 5\n"));
    assert_int_equal(occurrences(t, "agent_run_duration_seconds_bucket"), TELEMETRY_BUCKETS + 1);
    assert_int_equal(telemetry_value(m, TELEMETRY_RUN_DURATION, TELEMETRY_LABELS("a")), 5);
    buf_release(&b);
    (void)telemetry_metrics_free(m);
}

static void job_labels_bounded(void **state)
{
    (void)state;
    struct telemetry_metrics *m = metrics_make(10, 0);
    struct buf b = BUF_INIT(1 << 20);
    char name[32];

    for (unsigned i = 0; i < 1000; i++) {
        (void)snprintf(name, sizeof(name), "job-%u", i);
        telemetry_count(m, TELEMETRY_RUNS_TOTAL, TELEMETRY_LABELS(name, "succeeded", "exit"), 1);
    }
    assert_int_equal(
        telemetry_value(m, TELEMETRY_RUNS_TOTAL, TELEMETRY_LABELS("other", "succeeded", "exit")),
        990);
    telemetry_forget_job(m, "job-3");
    telemetry_forget_job(m, "job-3");
    telemetry_forget_job(m, "job-500");
    telemetry_count(m, TELEMETRY_RUNS_TOTAL, TELEMETRY_LABELS("new", "succeeded", "exit"), 7);
    telemetry_metrics_write(m, &b);
    assert_int_equal(occurrences(buf_cstr(&b), "agent_runs_total{"), 11);
    assert_null(strstr(buf_cstr(&b), "job-3\""));
    assert_non_null(strstr(buf_cstr(&b), "{job=\"new\",state=\"succeeded\",reason=\"exit\"} 7\n"));
    buf_release(&b);
    (void)telemetry_metrics_free(m);
}

static void cells_bounded(void **state)
{
    (void)state;
    struct telemetry_metrics *m = metrics_make(0, 5);
    struct buf b = BUF_INIT(1 << 20);
    char name[400];

    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    for (unsigned i = 0; i < 9; i++) {
        name[0] = (char)('a' + i);
        telemetry_count(m, TELEMETRY_DROPPED_TOTAL, TELEMETRY_LABELS(name), 1);
    }
    telemetry_metrics_write(m, &b);
    assert_int_equal(occurrences(buf_cstr(&b), "agent_dropped_total{"), 5);
    assert_non_null(strstr(buf_cstr(&b), "agent_metrics_dropped_total 4\n"));
    buf_release(&b);
    (void)telemetry_metrics_free(m);
}

static void gauges_clear(void **state)
{
    (void)state;
    struct telemetry_metrics *m = metrics_make(0, 0);

    telemetry_gauge(m, TELEMETRY_MEMBERS, TELEMETRY_LABELS("alive"), 3);
    telemetry_gauge(m, TELEMETRY_MEMBERS, TELEMETRY_LABELS("dead"), 1);
    telemetry_gauge_clear(m, TELEMETRY_MEMBERS);
    telemetry_gauge(m, TELEMETRY_MEMBERS, TELEMETRY_LABELS("alive"), 2);
    assert_int_equal(telemetry_value(m, TELEMETRY_MEMBERS, TELEMETRY_LABELS("alive")), 2);
    assert_int_equal(telemetry_value(m, TELEMETRY_MEMBERS, TELEMETRY_LABELS("dead")), 0);
    (void)telemetry_metrics_free(m);
}

static void live_runs(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(1 << 16);
    struct telemetry_live l[4] = {
        { .job = STR("a") }, { .job = STR("a") }, { .job = STR("b") }, { .job = STR("c") }
    };

    for (unsigned i = 0; i < 4; i++) {
        l[i].now.cpu_total_us = 1500000;
        l[i].now.mem_bytes = 100 * (i + 1);
        l[i].start_wall_us = 1000000 * (int64_t)(10 - i);
    }
    assert_int_equal(telemetry_prom_live(&b, l, 4, 2), 0);
    const char *t = buf_cstr(&b);
    assert_non_null(strstr(t, "container_cpu_usage_seconds_total{job=\"a\"} 3\n"));
    assert_non_null(strstr(t, "container_memory_usage_bytes{job=\"a\"} 300\n"));
    assert_non_null(strstr(t, "container_memory_usage_bytes{job=\"other\"} 400\n"));
    assert_non_null(strstr(t, "container_start_time_seconds{job=\"a\"} 9\n"));
    assert_int_equal(occurrences(t, "# TYPE container_memory_usage_bytes gauge"), 1);
    assert_null(strstr(t, "job=\"c\""));
    buf_reset(&b);
    assert_int_equal(telemetry_prom_live(&b, NULL, 0, 2), 0);
    assert_int_equal(b.len, 0);
    buf_release(&b);
}

static void use_everything(void)
{
    struct telemetry_metrics *m = NULL;

    if (telemetry_metrics_new(0, 0, "1", "r", 1, 2, &m, NULL) != 0) {
        assert_null(m);
        return;
    }
    telemetry_count(m, TELEMETRY_RUNS_TOTAL, TELEMETRY_LABELS("a", "failed", "oom"), 1);
    telemetry_observe_us(m, TELEMETRY_RUN_DURATION, TELEMETRY_LABELS("a"), 5);
    telemetry_gauge(m, TELEMETRY_RDT_RMIDS_FREE, TELEMETRY_NO_LABELS, 5);
    telemetry_forget_job(m, "a");
    (void)telemetry_metrics_free(m);
}

static void every_allocation_fails_once(void **state)
{
    (void)state;
    long n = 0;

    mem_fail_after(1000000, 0);
    use_everything();
    long all = mem_fail_count();
    assert_true(all > 4);
    for (; n < all; n++) {
        mem_fail_after(n, 0);
        use_everything();
        mem_fail_after(n, 1);
        use_everything();
    }
    mem_fail_after(-1, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escaping),      cmocka_unit_test(families_once),
        cmocka_unit_test(histograms),    cmocka_unit_test(job_labels_bounded),
        cmocka_unit_test(cells_bounded), cmocka_unit_test(gauges_clear),
        cmocka_unit_test(live_runs),     cmocka_unit_test(every_allocation_fails_once),
    };

    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
