#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agent/jobs/job_retry.h"
#include "agent/jobs/jobs.h"
#include "agent/jobs/jobs_internal.h"
#include "common/base64.h"
#include "common/egress.h"
#include "common/mem.h"

static struct settings set;
static struct job_problems problems;
static struct err e;

static int settings_of_a_node(void **state)
{
    (void)state;
    set.sandbox.memory = 256 << 20;
    set.sandbox.memory_max = UINT64_C(4) << 30;
    set.sandbox.disk_bytes = 1 << 30;
    set.sandbox.pids = 256;
    set.sandbox.timeout_ms = 3600000;
    set.sandbox.timeout_max_ms = 86400000;
    set.sandbox.grace_ms = 10000;
    return 0;
}

static int parse(enum job_mode mode, const char *text, struct job **ret)
{
    return job_parse(str_of(text), mode, str_of(mode == JOB_REGISTERED ? "enc" : ""), NULL, &set,
                     ret, &problems, &e);
}

static struct job *good(enum job_mode mode, const char *text)
{
    struct job *j = NULL;

    if (parse(mode, text, &j) != 0) {
        fail_msg("%s: %s", err_text(&e), text);
    }
    return j;
}

/* Exactly one problem, with this field and these words. */
static void bad(enum job_mode mode, const char *text, const char *field, const char *words)
{
    struct job *j = NULL;

    if (parse(mode, text, &j) != -EINVAL) {
        fail_msg("accepted, or another error (%s): %s", err_text(&e), text);
    }
    assert_null(j);
    if (problems.n != 1 || strcmp(problems.items[0].field, field) != 0 ||
        strstr(problems.items[0].detail, words) == NULL) {
        fail_msg("%s: %zu problems, the first: '%s' %s", text, problems.n, problems.items[0].field,
                 problems.items[0].detail);
    }
}

static void defaults_are_the_nodes(void **state)
{
    struct job *j = good(JOB_REGISTERED, "{\"image\":\"team/encrypt:1\"}");

    (void)state;
    assert_string_equal(j->name, "enc");
    assert_string_equal(j->image, "team/encrypt:1");
    assert_false(j->has_command || j->has_entrypoint);
    assert_int_equal(j->limits.memory_bytes, 256 << 20);
    assert_int_equal(j->limits.timeout_ms, 3600000);
    assert_int_equal(j->limits.network, RUN_NETWORK_NONE);
    assert_int_equal(j->policy.retries_max, 0);
    assert_int_equal(j->policy.retries_asked_max, 3);
    assert_int_equal(j->policy.retry_delay_ms, 5000);
    assert_int_equal(j->policy.concurrency, 0);
    job_free(j);
}

static void every_field_is_read(void **state)
{
    struct job *j = good(
        JOB_REGISTERED,
        "{\"name\":\"enc\",\"image\":\"h:5000/a@sha256:00\",\"entrypoint\":[\"/bin/sh\",\"-c\"],"
        "\"command\":[\"true\",\"\"],\"env\":{\"B\":\"2\",\"A\":\"1=1\"},\"workdir\":\"/w\","
        "\"user\":\"1000:1000\",\"stop_signal\":\"INT\",\"network\":\"none\",\"timeout\":\"1h30m\","
        "\"grace\":2.5,\"queue_timeout\":\"1m\",\"memory\":\"512MiB\",\"cpus\":1.5,\"pids\":64,"
        "\"disk\":104857600,\"output_overflow\":\"truncate\",\"retries\":{\"max\":4,"
        "\"delay\":\"1s\",\"backoff\":1.5,\"jitter\":0.25,\"max_delay\":60},\"concurrency\":3,"
        "\"priority\":70,\"require\":[\"cpu-cpuid.AESNI\",\"zone=a\"],"
        "\"labels\":{\"z\":\"1\",\"a\":\"\"}}");

    (void)state;
    assert_int_equal(j->entrypoint.n, 2);
    assert_string_equal(j->command.v[1], "");
    assert_string_equal(j->env.v[0], "A=1=1");
    assert_string_equal(j->env.v[1], "B=2");
    assert_string_equal(j->workdir, "/w");
    assert_string_equal(j->user, "1000:1000");
    assert_int_equal(j->stop_signal, SIGINT);
    assert_int_equal(j->limits.timeout_ms, 5400000);
    assert_int_equal(j->limits.grace_ms, 2500);
    assert_int_equal(j->policy.queue_timeout_ms, 60000);
    assert_int_equal(j->limits.memory_bytes, 512 << 20);
    assert_int_equal(j->limits.cpus_milli, 1500);
    assert_int_equal(j->limits.pids, 64);
    assert_int_equal(j->limits.disk_bytes, 104857600);
    assert_int_equal(j->limits.output_truncate, 1);
    assert_int_equal(j->policy.retries_max, 4);
    assert_int_equal(j->policy.retries_asked_max, 4);
    assert_int_equal(j->policy.retry_backoff_milli, 1500);
    assert_int_equal(j->policy.retry_jitter_milli, 250);
    assert_int_equal(j->policy.retry_max_delay_ms, 60000);
    assert_int_equal(j->policy.concurrency, 3);
    assert_int_equal(j->policy.priority, 70);
    assert_int_equal(j->require.n, 2);
    assert_string_equal(j->labels, "{\"a\":\"\",\"z\":\"1\"}");
    job_free(j);
    /* null is as if it were not there. */
    j = good(JOB_REGISTERED, "{\"image\":\"a:1\",\"command\":null,\"retries\":{\"max\":null}}");
    assert_false(j->has_command || j->retries_given);
    job_free(j);
}

static void every_wrong_type_is_named(void **state)
{
    static const char *const strings[] = { "name", "image",   "workdir",
                                           "user", "network", "output_overflow" };
    static const char *const numbers[] = { "timeout", "grace", "queue_timeout", "memory",  "cpus",
                                           "pids",    "disk",  "concurrency",   "priority" };
    static const char *const others[] = { "entrypoint", "command", "env",        "require",
                                          "labels",     "retries", "stop_signal" };
    static const char *const retries[] = { "max", "delay", "backoff", "jitter", "max_delay" };
    char text[128];
    char field[64];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(strings); i++) {
        (void)snprintf(text, sizeof text, "{%s\"%s\":7}",
                       strcmp(strings[i], "image") != 0 ? "\"image\":\"a:1\"," : "", strings[i]);
        bad(JOB_REGISTERED, text, strings[i], "not an integer");
    }
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        (void)snprintf(text, sizeof text, "{\"image\":\"a:1\",\"%s\":[1]}", numbers[i]);
        bad(JOB_REGISTERED, text, numbers[i], "not an array");
    }
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        (void)snprintf(text, sizeof text, "{\"image\":\"a:1\",\"%s\":true}", others[i]);
        bad(JOB_REGISTERED, text, others[i], "not true or false");
    }
    for (size_t i = 0; i < ARRAY_LEN(retries); i++) {
        (void)snprintf(text, sizeof text, "{\"image\":\"a:1\",\"retries\":{\"%s\":{}}}",
                       retries[i]);
        (void)snprintf(field, sizeof field, "retries.%s", retries[i]);
        bad(JOB_REGISTERED, text, field, "not an object");
    }
    bad(JOB_ONE_OFF, "{\"image\":\"a:1\",\"payload\":1}", "payload", "not an integer");
    bad(JOB_ONE_OFF, "{\"image\":\"a:1\",\"payload_base64\":1}", "payload_base64", "not an int");
    bad(JOB_REGISTERED, "[]", "", "is an object, not an array");
}

static const struct {
    const char *member;
    const char *field;
    const char *words;
} out_of_range[] = {
    { "\"name\":\"dec\"", "name", "is 'dec'" },
    { "\"image\":\"\"", "image", "1 to 255" },
    { "\"image\":\"a b\"", "image", "not an image" },
    { "\"image\":\"-a\"", "image", "not an image" },
    { "\"command\":[1]", "command[0]", "must be a string" },
    { "\"entrypoint\":[\"a\",null]", "entrypoint[1]", "must be a string" },
    { "\"env\":{\"\":\"x\"}", "env.", "1 to 256" },
    { "\"env\":{\"A=B\":\"x\"}", "env.A=B", "no '='" },
    { "\"env\":{\"A\":1}", "env.A", "must be a string" },
    { "\"env\":{\"AGENT_NODE\":\"x\"}", "env.AGENT_NODE", "set by the agent" },
    { "\"env\":{\"TASK_ID\":\"x\"}", "env.TASK_ID", "set by the agent" },
    { "\"workdir\":\"tmp\"", "workdir", "absolute" },
    { "\"workdir\":\"/a\\nb\"", "workdir", "control" },
    { "\"user\":\"\"", "user", "1 to 255" },
    { "\"stop_signal\":\"SIGFOO\"", "stop_signal", "not a signal" },
    { "\"stop_signal\":65", "stop_signal", "not a signal" },
    { "\"network\":\"bridge\"", "network", "'bridge'" },
    { "\"network\":\"host\"", "network", "sandbox.allow_host_network" },
    { "\"network\":\"nat\"", "network", "sandbox.allow_nat" },
    { "\"network\":7", "network", "must be" },
    { "\"secrets\":\"a\"", "secrets", "must be a list" },
    { "\"secrets\":[1]", "secrets[0]", "must be a string" },
    { "\"secrets\":[\"a\",\".b\"]", "secrets[1]", "begin with" },
    { "\"secrets\":{\"a\":\"x/y\"}", "secrets[0]", "letters" },
    { "\"secrets\":{\"a\":\"x\",\"b\":\"x\"}", "secrets[1]", "twice" },
    { "\"secrets\":[\"a\",\"a\"]", "secrets[1]", "twice" },
    { "\"retries\":{\"exit_codes\":[1]}", "retries.exit_codes", "must be an object" },
    { "\"retries\":{\"exit_codes\":{\"0\":\"fail\"}}", "retries.exit_codes", "'0' is not" },
    { "\"retries\":{\"exit_codes\":{\"9-2\":\"fail\"}}", "retries.exit_codes", "'9-2' is not" },
    { "\"retries\":{\"exit_codes\":{\"9\":\"stop\"}}", "retries.exit_codes.9", "must be" },
    { "\"retries\":{\"budget\":-1}", "retries.budget", "0 to 100" },
    { "\"egress\":[]", "egress", "is only for" },
    { "\"egress\":\"*:443\"", "egress", "must be a list" },
    { "\"egress\":[\"*:443\",7]", "egress[1]", "must be a string" },
    { "\"egress\":[\"*:443\",\"10.0.0.0/8:x\"]", "egress[1]", "1 to 65535" },
    { "\"egress\":[\"10.0.0.1/8\"]", "egress[0]", "behind its prefix" },
    { "\"egress\":[\"http://example.org\"]", "egress[0]", "1 to 65535" },
    { "\"timeout\":\"soon\"", "timeout", "not a duration" },
    { "\"timeout\":0", "timeout", "must be" },
    { "\"timeout\":-1", "timeout", "must be" },
    { "\"timeout\":\"25h\"", "timeout", "must be" },
    { "\"grace\":\"2h\"", "grace", "must be" },
    { "\"queue_timeout\":\"31d\"", "queue_timeout", "must be" },
    { "\"memory\":\"lots\"", "memory", "not a size" },
    { "\"memory\":1000", "memory", "1 MiB to 4 GiB" },
    { "\"memory\":-5", "memory", "must be" },
    { "\"memory\":\"5GiB\"", "memory", "must be" },
    { "\"cpus\":-1", "cpus", "must be" },
    { "\"cpus\":0.001", "cpus", "at least 0.01" },
    { "\"cpus\":1025", "cpus", "must be" },
    { "\"pids\":1", "pids", "must be 2 to" },
    { "\"pids\":1.5", "pids", "an integer" },
    { "\"disk\":\"2GiB\"", "disk", "must be" },
    { "\"output_overflow\":\"drop\"", "output_overflow", "'drop'" },
    { "\"retries\":{\"max\":101}", "retries.max", "0 to 100" },
    { "\"retries\":{\"max\":-1}", "retries.max", "0 to 100" },
    { "\"retries\":{\"delay\":\"25h\"}", "retries.delay", "must be" },
    { "\"retries\":{\"backoff\":0.5}", "retries.backoff", "1 to 10" },
    { "\"retries\":{\"jitter\":1.1}", "retries.jitter", "0 to 1" },
    { "\"retries\":{\"max_delay\":\"8d\"}", "retries.max_delay", "must be" },
    { "\"concurrency\":100001", "concurrency", "100000" },
    { "\"priority\":101", "priority", "0 to 100" },
    { "\"require\":[\"\"]", "require[0]", "capability" },
    { "\"require\":[\"a b\"]", "require[0]", "capability" },
    { "\"require\":[\"=x\"]", "require[0]", "capability" },
    { "\"labels\":{\"a b\":\"x\"}", "labels.a b", "letters" },
    { "\"labels\":{\"a\":1}", "labels.a", "must be a string" },
    { "\"payload\":\"x\"", "payload", "belongs to a submit" },
    { "\"entrypoint\":[],\"command\":[]", "command", "nothing would run" },
};

static void every_range_is_checked(void **state)
{
    char text[256];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(out_of_range); i++) {
        bool image = strncmp(out_of_range[i].member, "\"image\"", 7) == 0;
        (void)snprintf(text, sizeof text, "{%s%s}", image ? "" : "\"image\":\"a:1\",",
                       out_of_range[i].member);
        bad(JOB_REGISTERED, text, out_of_range[i].field, out_of_range[i].words);
    }
    bad(JOB_REGISTERED, "{}", "image", "is missing");
    struct job *j = NULL;
    assert_int_equal(job_parse(STR("{\"image\":\"a:1\"}"), JOB_REGISTERED, STR("a/b"), NULL, &set,
                               &j, &problems, &e),
                     -EINVAL);
    assert_string_equal(problems.items[0].field, "name");
}

static void unknown_fields_get_a_suggestion(void **state)
{
    (void)state;
    bad(JOB_REGISTERED, "{\"image\":\"a:1\",\"comand\":[]}", "comand", "mean \"command\"?");
    bad(JOB_REGISTERED, "{\"image\":\"a:1\",\"xyzzy\":1}", "xyzzy", "is not known");
    bad(JOB_REGISTERED, "{\"image\":\"a:1\",\"retries\":{\"maxx\":1}}", "retries.maxx",
        "mean \"max\"?");
    bad(JOB_ONE_OFF, "{\"image\":\"a:1\",\"payloda\":\"x\"}", "payloda", "mean \"payload\"?");
    bad(JOB_ONE_OFF, "{\"image\":\"a:1\",\"name\":\"x\"}", "name", "one-off has no name");
    bad(JOB_ONE_OFF, "{\"image\":\"a:1\",\"concurrency\":1}", "concurrency", "one-off");
}

static void problems_come_together(void **state)
{
    struct job *j = NULL;
    AUTO_BUF struct buf b = BUF_INIT(65536);

    (void)state;
    assert_int_equal(parse(JOB_REGISTERED, "{\"memory\":1,\"cpus\":\"two\",\"bogus\":0}", &j),
                     -EINVAL);
    assert_int_equal(problems.n, 4); /* and there is no image */
    assert_string_equal(problems.items[0].field, "memory");
    assert_string_equal(problems.items[1].field, "cpus");
    assert_string_equal(problems.items[2].field, "bogus");
    assert_string_equal(problems.items[3].field, "image");
    assert_non_null(strstr(err_text(&e), "memory: must be"));
    (void)buf_adds(&b, "{\"image\":\"a:1\"");
    for (int i = 0; i < 50; i++) {
        (void)buf_addf(&b, ",\"bogus%d\":1", i);
    }
    (void)buf_adds(&b, "}");
    assert_int_equal(parse(JOB_REGISTERED, buf_cstr(&b), &j), -EINVAL);
    assert_int_equal(problems.n, JOB_PROBLEMS_MAX);
    assert_int_equal(problems.more, 50 - JOB_PROBLEMS_MAX);
}

static void caps_hold(void **state)
{
    struct job *j = NULL;
    char text[128];
    size_t n = 300 * 1024;
    char *big = test_malloc(n + 64);
    size_t at = 0;

    (void)state;
    memset(big, ' ', n);
    big[n] = '\0';
    assert_int_equal(parse(JOB_REGISTERED, big, &j), -E2BIG);
    at = (size_t)snprintf(big, n, "{\"image\":\"a:1\",\"command\":[\"x\"");
    for (int i = 0; i < JOB_ARGS_MAX; i++) {
        at += (size_t)snprintf(big + at, n - at, ",\"x\"");
    }
    (void)snprintf(big + at, n - at, "]}");
    bad(JOB_REGISTERED, big, "command", "1025 elements; 1024");
    at = (size_t)snprintf(big, n, "{\"image\":\"a:1\",\"labels\":{\"x\":\"\"");
    for (int i = 0; i < JOB_LABELS_MAX; i++) {
        at += (size_t)snprintf(big + at, n - at, ",\"l%d\":\"\"", i);
    }
    (void)snprintf(big + at, n - at, "}}");
    bad(JOB_REGISTERED, big, "labels", "17 labels; 16");
    at = (size_t)snprintf(big, n, "{\"image\":\"a:1\",\"labels\":{\"x\":\"\"");
    for (int i = 0; i < 9; i++) {
        at += (size_t)snprintf(big + at, n - at, ",\"l%d\":\"%060d\"", i, i);
    }
    (void)snprintf(big + at, n - at, "}}");
    bad(JOB_REGISTERED, big, "labels", "together");
    test_free(big);
    assert_int_equal(parse(JOB_REGISTERED, "{\"image\":\"a:1\",}", &j), -EBADMSG);
    assert_non_null(strstr(err_text(&e), "line 1"));
    assert_int_equal(problems.n, 0);
    (void)snprintf(text, sizeof text, "{\"image\":\"a:1\",\"image\":\"a:2\"}");
    assert_int_equal(parse(JOB_REGISTERED, text, &j), -EBADMSG);
}

static void retries_by_exit_code(void **state)
{
    (void)state;
    struct job *j = good(JOB_ONE_OFF, "{\"image\":\"a\",\"retries\":{\"max\":2,\"budget\":0.5,"
                                      "\"exit_codes\":{\"*\":\"fail\",\"70-79\":\"retry\","
                                      "\"77\":\"fail\"}}}");
    const struct run_policy *p = &j->policy;
    assert_int_equal(p->retry_budget_milli, 500);
    assert_int_equal(job_exit_means(p, 1), RUN_EXIT_FAILS);
    assert_int_equal(job_exit_means(p, 75), RUN_EXIT_RETRIES);
    assert_int_equal(job_exit_means(p, 77), RUN_EXIT_FAILS);
    AUTO_BUF struct buf a = BUF_INIT(65536);
    job_to_text(j, &a);
    assert_non_null(
        strstr(a.data, "\"exit_codes\":{\"*\":\"fail\",\"70-79\":\"retry\",\"77\":\"fail\"}"));
    char text[RUN_EXIT_RULES_TEXT];
    struct run_policy again = { 0 };
    job_exit_rules_format(p, text);
    assert_string_equal(text, "*=fail,70-79=retry,77=fail");
    assert_int_equal(job_exit_rules_read(str_of(text), &again), 0);
    assert_memory_equal(again.exit_rules, p->exit_rules, sizeof again.exit_rules);
    assert_int_equal(job_exit_rules_read(STR("1=fail,x=retry"), &again), -EINVAL);
    struct run_policy none = { 0 };
    assert_int_equal(job_exit_means(&none, 1), 0);
    job_free(j);
}

/* Sun, 06 Nov 1994 08:49:37 GMT is RFC 9110's own example. */
static void what_a_job_asks_for(void **state)
{
    const int64_t then = INT64_C(784111777) * 1000000;
    (void)state;
    assert_int_equal(job_retry_after_ms(STR("120\n"), 0), 120000);
    assert_int_equal(job_retry_after_ms(STR(" 0 "), 0), 0);
    assert_int_equal(job_retry_after_ms(STR("99999999"), 0), JOB_RETRY_AFTER_MAX_MS);
    assert_int_equal(job_retry_after_ms(STR("Sun, 06 Nov 1994 08:49:37 GMT"), then - 90000000),
                     90000);
    assert_int_equal(job_retry_after_ms(STR("Sun, 06 Nov 1994 08:49:37 GMT"), then), 0);
    assert_int_equal(job_retry_after_ms(STR("Sun, 06 Nov 1994 08:49:37 GMT"), 0),
                     JOB_RETRY_AFTER_MAX_MS);
    static const char *const bad[] = { "",
                                       "-1",
                                       "1.5",
                                       "soon",
                                       "Sun, 06 Nox 1994 08:49:37 GMT",
                                       "Sun, 96 Nov 1994 08:49:37 GMT",
                                       "Sun, 06 Nov 1994 08:49:37 UTC" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(job_retry_after_ms(str_of(bad[i]), 0), 0);
    }
}

/* A job whose every attempt fails, and asks for three retries each time. */
static void a_budget_holds(void **state)
{
    struct job_budget b = { 0 };
    uint64_t now = 5000000;
    unsigned given = 0;
    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        job_budget_first(&b, now);
        for (unsigned k = 0; k < 3; k++) {
            given += job_budget_take(&b, 200, now) ? 1 : 0;
        }
        now += 50;
    }
    assert_true(given >= 200 && given <= 200 + 2 * JOB_BUDGET_FLOOR);
    /* Long after, the floor is there again; and without a budget everything. */
    now += 10 * JOB_BUDGET_WINDOW_MS;
    given = 0;
    for (unsigned i = 0; i < 100; i++) {
        given += job_budget_take(&b, 200, now) ? 1 : 0;
    }
    assert_int_equal(given, JOB_BUDGET_FLOOR);
    for (unsigned i = 0; i < 100; i++) {
        assert_true(job_budget_take(&b, 0, now));
    }
}

static void secrets(void **state)
{
    (void)state;
    struct job *j = good(JOB_REGISTERED, "{\"name\":\"enc\",\"image\":\"a\","
                                         "\"secrets\":[\"tls\",\"db\"]}");
    struct str name;
    assert_int_equal(j->secrets.n, 2);
    assert_true(str_eqs(job_secret_file(j->secrets.v[0], &name), "db"));
    assert_true(str_eqs(name, "db"));
    AUTO_BUF struct buf a = BUF_INIT(65536);
    job_to_text(j, &a);
    assert_non_null(strstr(a.data, "\"secrets\":[\"db\",\"tls\"]"));
    job_free(j);
    j = good(JOB_REGISTERED, "{\"name\":\"enc\",\"image\":\"a\","
                             "\"secrets\":{\"tls\":\"key.pem\",\"db\":\"db\"}}");
    assert_true(str_eqs(job_secret_file(j->secrets.v[1], &name), "key.pem"));
    assert_true(str_eqs(name, "tls"));
    struct job *d = job_dup(j);
    AUTO_BUF struct buf b = BUF_INIT(65536);
    job_to_text(d, &b);
    assert_non_null(strstr(b.data, "\"secrets\":{\"db\":\"db\",\"tls\":\"key.pem\"}"));
    job_free(d);
    job_free(j);
}

static void destinations(void **state)
{
    (void)state;
    set.sandbox.allow_nat = true;
    struct job *j = good(JOB_ONE_OFF, "{\"image\":\"a\",\"network\":\"nat\","
                                      "\"egress\":[\"10.0.0.0/8:5432\",\"Example.org:443\"]}");
    assert_int_equal(j->limits.network, RUN_NETWORK_NAT);
    assert_true(j->has_egress);
    assert_int_equal(j->egress.n, 2);
    assert_string_equal(j->egress.v[1], "Example.org:443");
    struct job *d = job_dup(j);
    AUTO_BUF struct buf a = BUF_INIT(65536);
    AUTO_BUF struct buf b = BUF_INIT(65536);
    job_to_text(j, &a);
    job_to_text(d, &b);
    assert_string_equal(a.data, b.data);
    job_free(d);
    job_free(j);
    /* Nothing at all is not the same as everything. */
    j = good(JOB_ONE_OFF, "{\"image\":\"a\",\"network\":\"nat\",\"egress\":[]}");
    assert_true(j->has_egress);
    buf_reset(&a);
    job_to_text(j, &a);
    assert_non_null(strstr(a.data, "\"egress\":[]"));
    job_free(j);
    j = good(JOB_ONE_OFF, "{\"image\":\"a\",\"network\":\"nat\"}");
    assert_false(j->has_egress);
    job_free(j);
    AUTO_BUF struct buf many = BUF_INIT(65536);
    buf_adds(&many, "{\"image\":\"a\",\"network\":\"nat\",\"egress\":[\"*:1\"");
    for (int i = 0; i < EGRESS_RULES_MAX; i++) {
        buf_adds(&many, ",\"*:1\"");
    }
    buf_adds(&many, "]}");
    assert_int_equal(parse(JOB_ONE_OFF, many.data, &j), -EINVAL);
    assert_string_equal(problems.items[0].field, "egress");
    set.sandbox.allow_nat = false;
}

static void payloads_are_of_one_offs(void **state)
{
    struct job *j = good(JOB_ONE_OFF, "{\"image\":\"a:1\",\"payload\":\"h\\u00e9\"}");

    (void)state;
    assert_true(j->has_payload);
    assert_int_equal(j->payload_len, 3);
    assert_memory_equal(j->payload, "h\xc3\xa9", 4);
    job_free(j);
    j = good(JOB_ONE_OFF, "{\"image\":\"a:1\",\"payload_base64\":\"AAH/\"}");
    assert_int_equal(j->payload_len, 3);
    assert_memory_equal(j->payload, "\x00\x01\xff", 3);
    job_free(j);
    j = good(JOB_ONE_OFF, "{\"image\":\"a:1\",\"payload\":\"\"}");
    assert_true(j->has_payload && j->payload_len == 0);
    job_free(j);
    bad(JOB_ONE_OFF, "{\"image\":\"a:1\",\"payload\":\"\",\"payload_base64\":\"\"}",
        "payload_base64", "already");
    bad(JOB_ONE_OFF, "{\"image\":\"a:1\",\"payload_base64\":\"\",\"payload\":\"\"}", "payload",
        "already");
    static const char *const broken[] = { "A",    "AA",   "AAA",  "A===",     "AAB=", "AB==",
                                          "AA=A", "AAA*", "=AAA", "AA==AAAA", "AA A" };
    for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
        char *p = NULL;
        size_t n;
        assert_int_equal(base64_decode(str_of(broken[i]), &p, &n), -EINVAL);
        assert_null(p);
    }
}

static void overrides_go_on_top(void **state)
{
    struct job *base = good(JOB_REGISTERED, "{\"image\":\"a:1\",\"command\":[\"x\"],\"memory\":"
                                            "\"1GiB\",\"env\":{\"A\":\"1\",\"B\":\"2\"},"
                                            "\"concurrency\":2,\"retries\":{\"max\":5}}");
    struct job *j = NULL;

    (void)state;
    int r = job_parse(STR("{\"command\":[\"y\",\"z\"],\"env\":{\"B\":\"3\",\"C\":\"4\"},"
                          "\"retries\":{\"delay\":1}}"),
                      JOB_OVERRIDE, STR(""), base, &set, &j, &problems, &e);
    assert_int_equal(r, 0);
    assert_string_equal(j->name, "enc");
    assert_string_equal(j->image, "a:1");
    assert_int_equal(j->command.n, 2);
    assert_int_equal(j->limits.memory_bytes, 1 << 30);
    assert_int_equal(j->env.n, 3);
    assert_string_equal(j->env.v[1], "B=3");
    assert_int_equal(j->policy.retries_max, 5);
    assert_int_equal(j->policy.retry_delay_ms, 1000);
    assert_int_equal(j->policy.concurrency, 2);
    job_free(j);
    assert_string_equal(base->env.v[1], "B=2");
    j = NULL;
    r = job_parse(STR("{\"image\":\"b:1\"}"), JOB_OVERRIDE, STR(""), base, &set, &j, &problems, &e);
    assert_int_equal(r, -EINVAL);
    assert_string_equal(problems.items[0].field, "image");
    job_free(base);
}

static void normal_form_is_a_fixed_point(void **state)
{
    static const char *const texts[] = {
        "{\"image\":\"a:1\"}",
        "{\"image\":\"a:1\",\"command\":[],\"timeout\":0.25,\"cpus\":0.333,\"grace\":0}",
        "{\"image\":\"a:1\",\"entrypoint\":[\"\\u00e9\\n\\\"\"],\"retries\":{\"max\":0}}",
        "{\"image\":\"a:1\",\"env\":{\"Z\":\"\",\"A\":\"x\"},\"labels\":{\"q/r\":\"\\\\\"},"
        "\"stop_signal\":\"RTMIN+3\",\"queue_timeout\":\"90s\",\"require\":[\"a>=3\"]}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        AUTO_BUF struct buf one = BUF_INIT(65536);
        AUTO_BUF struct buf two = BUF_INIT(65536);
        AUTO_BUF struct buf three = BUF_INIT(65536);
        struct job *a = good(JOB_REGISTERED, texts[i]);
        job_to_text(a, &one);
        struct job *b = good(JOB_REGISTERED, buf_cstr(&one));
        job_to_text(b, &two);
        assert_string_equal(buf_cstr(&one), buf_cstr(&two));
        assert_int_equal(a->policy.retries_asked_max, b->policy.retries_asked_max);
        assert_memory_equal(&a->limits, &b->limits, offsetof(struct run_limits, network));
        struct job *c = NULL;
        assert_int_equal(job_parse_stored(buf_str(&one), &c, &e), 0);
        job_to_text(c, &three);
        assert_string_equal(buf_cstr(&one), buf_cstr(&three));
        job_free(a);
        job_free(b);
        job_free(c);
    }
}

static void stored_documents_outlive_the_bounds(void **state)
{
    struct job *j = NULL;
    const char *text = "{\"name\":\"big\",\"image\":\"a:1\",\"memory\":1099511627776,"
                       "\"network\":\"host\",\"timeout\":100000000}";

    (void)state;
    assert_int_equal(job_parse_stored(str_of(text), &j, &e), 0);
    assert_string_equal(j->name, "big");
    assert_int_equal(j->limits.network, RUN_NETWORK_HOST);
    assert_int_equal(j->limits.memory_bytes, UINT64_C(1) << 40);
    job_free(j);
}

static void runs_are_made_of_jobs(void **state)
{
    struct job *j = good(JOB_REGISTERED, "{\"image\":\"a:1\",\"command\":[\"x\",\"y z\"],"
                                         "\"labels\":{\"k\":\"v\"},\"priority\":9}");
    struct run r;
    char arg[RUN_COMMAND_CAP];

    (void)state;
    j->revision = 7;
    job_make_run(j, (struct ulid){ { 1 } }, 55, &r);
    assert_string_equal(r.job, "enc");
    assert_int_equal(r.revision, 7);
    assert_string_equal(r.command, "[\"x\",\"y z\"]");
    assert_string_equal(r.labels, "{\"k\":\"v\"}");
    assert_int_equal(r.policy.priority, 9);
    assert_int_equal(r.created_us, 55);
    /* Too long for the record: whole arguments, and a mark. */
    memset(arg, 'a', sizeof arg);
    for (size_t n = 440; n < 512; n++) {
        assert_int_equal(job_list_add(&j->command, (struct str){ arg, n }), 0);
        job_make_run(j, (struct ulid){ { 1 } }, 55, &r);
        struct json_doc *doc = NULL;
        assert_int_equal(json_parse(r.command, strlen(r.command), NULL, &doc, &e), 0);
        const struct json *root = json_root(doc);
        struct str last;
        assert_true(json_str(json_at(root, root->count - 1), &last));
        assert_true(root->count == 3 || str_eqs(last, "\xe2\x80\xa6"));
        json_free(doc);
        mem_free(j->command.v[--j->command.n]);
    }
    mem_free(j->command.v[--j->command.n]);
    mem_free(j->command.v[--j->command.n]);
    job_make_run(j, (struct ulid){ { 1 } }, 55, &r);
    assert_string_equal(r.command, "");
    job_free(j);
}

static void names_are_checked(void **state)
{
    char longest[66];

    (void)state;
    assert_true(job_name_ok(STR("a")) && job_name_ok(STR("A-1.b_c")) && job_name_ok(STR("9")));
    assert_false(job_name_ok(STR("")) || job_name_ok(STR("-a")) || job_name_ok(STR(".")));
    assert_false(job_name_ok(STR("a/b")) || job_name_ok(STR("a:b")) || job_name_ok(STR("a@b")));
    assert_false(job_name_ok(STR("a\0b")) || job_name_ok(STR("\xc3\xa9")));
    memset(longest, 'x', sizeof longest);
    assert_true(job_name_ok((struct str){ longest, 63 }));
    assert_false(job_name_ok((struct str){ longest, 64 }));
}

/* The Nth request for memory fails, N = 0, 1, 2 … until it passes; leaks are ASan's to find. */
static void no_memory_unwinds(void **state)
{
    const char *text = "{\"image\":\"a:1\",\"entrypoint\":[\"a\",\"b\"],\"command\":[\"c\"],"
                       "\"env\":{\"A\":\"1\",\"B\":\"2\"},\"workdir\":\"/\",\"user\":\"u\","
                       "\"require\":[\"x\"],\"labels\":{\"a\":\"b\"},\"payload_base64\":\"AAAA\"}";
    struct job *j = NULL;
    struct job *d = NULL;
    long n = 0;
    int r;

    (void)state;
    do {
        mem_fail_after(n++, 1);
        r = parse(JOB_ONE_OFF, text, &j);
        mem_fail_after(-1, 0);
        assert_true(r == 0 || (r == -ENOMEM && j == NULL));
    } while (r != 0 && n < 1000);
    assert_int_equal(r, 0);
    assert_true(n > 10);
    n = 0;
    do {
        mem_fail_after(n++, 1);
        d = job_dup(j);
        mem_fail_after(-1, 0);
    } while (d == NULL && n < 1000);
    assert_non_null(d);
    job_free(d);
    job_free(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_the_nodes),
        cmocka_unit_test(every_field_is_read),
        cmocka_unit_test(every_wrong_type_is_named),
        cmocka_unit_test(every_range_is_checked),
        cmocka_unit_test(unknown_fields_get_a_suggestion),
        cmocka_unit_test(problems_come_together),
        cmocka_unit_test(caps_hold),
        cmocka_unit_test(destinations),
        cmocka_unit_test(secrets),
        cmocka_unit_test(retries_by_exit_code),
        cmocka_unit_test(what_a_job_asks_for),
        cmocka_unit_test(a_budget_holds),
        cmocka_unit_test(payloads_are_of_one_offs),
        cmocka_unit_test(overrides_go_on_top),
        cmocka_unit_test(normal_form_is_a_fixed_point),
        cmocka_unit_test(stored_documents_outlive_the_bounds),
        cmocka_unit_test(runs_are_made_of_jobs),
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(no_memory_unwinds),
    };
    return cmocka_run_group_tests_name("job", tests, settings_of_a_node, NULL);
}
