#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>

#include "common/json.h"
#include "common/log.h"

static char last[64 * 1024];
static size_t last_len;
static unsigned lines;

static void sink(void *arg, enum log_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    assert_true(len < sizeof last);
    memcpy(last, line, len);
    last[len] = '\0';
    last_len = len;
    lines++;
}

static int64_t clock_us(void)
{
    return 1795422983123456;
}

static void text_lines(void **state)
{
    (void)state;
    log_init(LOG_INFO, LOG_TEXT, "agent", sink, NULL, clock_us);
    log_warn("run '%s' lost", "x");
    assert_string_equal(last, "2026-11-23T08:36:23.123456Z warn agent: run 'x' lost\n");
    log_init(LOG_INFO, LOG_TEXT, "agent", sink, NULL, NULL);
    log_error("a\nb\x1b[31m\x7f\tc \xff grün \xc2\x9b \\ \"");
    assert_string_equal(last, "error agent: a\\nb\\x1b[31m\\x7f\\tc \\xff grün \\u009b \\ \"\n");
}

static void levels(void **state)
{
    enum log_level level;
    (void)state;
    log_init(LOG_WARN, LOG_TEXT, "agent", sink, NULL, NULL);
    lines = 0;
    log_info("no");
    log_debug("no");
    log_warn("yes");
    log_error("yes");
    assert_int_equal(lines, 2);
    log_set_level(LOG_DEBUG);
    log_debug("yes");
    assert_int_equal(lines, 3);
    assert_true(log_enabled(LOG_DEBUG));
    assert_int_equal(log_level_parse(STR("warn"), &level), 0);
    assert_int_equal(level, LOG_WARN);
    assert_int_equal(log_level_parse(STR("loud"), &level), -EINVAL);
}

static void json_lines_are_json_whatever_is_in_them(void **state)
{
    char hostile[600];
    (void)state;
    log_init(LOG_INFO, LOG_JSON, "agent", sink, NULL, clock_us);
    for (int i = 1; i < 256; i++) {
        hostile[i - 1] = (char)i;
    }
    hostile[255] = '\0';
    log_error("%s", hostile);
    struct json_doc *doc = NULL;
    struct err e;
    assert_int_equal(json_parse(last, last_len, NULL, &doc, &e), 0);
    struct str s;
    assert_true(json_str(json_get(json_root(doc), "level"), &s) && str_eqs(s, "error"));
    assert_true(json_str(json_get(json_root(doc), "time"), &s) &&
                str_eqs(s, "2026-11-23T08:36:23.123456Z"));
    assert_true(json_str(json_get(json_root(doc), "message"), &s) && s.n > 255);
    assert_true(json_str(json_get(json_root(doc), "process"), &s) && str_eqs(s, "agent"));
    json_free(doc);
    /* One line: no newline but the last. */
    assert_ptr_equal(strchr(last, '\n'), last + last_len - 1);
}

static void long_messages_are_cut(void **state)
{
    char text[5000];
    (void)state;
    log_init(LOG_INFO, LOG_JSON, "agent", sink, NULL, clock_us);
    memset(text, 1, sizeof text - 1); /* the worst case: six characters each */
    text[sizeof text - 1] = '\0';
    log_error("%s", text);
    assert_int_equal(last[last_len - 1], '\n');
    assert_int_equal(last[last_len - 2], '}');
    assert_in_range(last_len, 1999 * 6, 1999 * 6 + 200);
    /* Cut in the middle of a character: still valid. */
    for (size_t i = 0; i + 2 < sizeof text; i += 2) {
        memcpy(text + i, "ü", 2);
    }
    log_error("%s", text);
    struct json_doc *doc = NULL;
    assert_int_equal(json_parse(last, last_len, NULL, &doc, NULL), 0);
    json_free(doc);
}

static void limits(void **state)
{
    struct log_limit l = { .period_ms = 1000, .burst = 2 };
    unsigned dropped;
    (void)state;
    assert_true(log_limit_ok(&l, 5000, &dropped));
    assert_true(log_limit_ok(&l, 5100, &dropped));
    assert_false(log_limit_ok(&l, 5200, &dropped));
    assert_false(log_limit_ok(&l, 5999, &dropped));
    assert_int_equal(dropped, 0);
    assert_true(log_limit_ok(&l, 6000, &dropped));
    assert_int_equal(dropped, 2);
    assert_true(log_limit_ok(&l, 6001, &dropped));
    assert_int_equal(dropped, 0);
    assert_false(log_limit_ok(&l, 6002, &dropped));
}

static unsigned whole_lines;
static pthread_mutex_t whole_lock = PTHREAD_MUTEX_INITIALIZER;

static void count_whole(void *arg, enum log_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    pthread_mutex_lock(&whole_lock);
    whole_lines += len > 20 && line[len - 1] == '\n' && memchr(line, '\n', len) == line + len - 1 &&
                   strncmp(line, "2026-11-23T08:36:23.123456Z info agent: thread ", 47) == 0;
    pthread_mutex_unlock(&whole_lock);
}

static void *write_lines(void *arg)
{
    for (int i = 0; i < 1000; i++) {
        log_info("thread %s line %d", (const char *)arg, i);
    }
    return NULL;
}

static void threads(void **state)
{
    static char names[4][2] = { "a", "b", "c", "d" };
    pthread_t t[4];
    (void)state;
    log_init(LOG_INFO, LOG_TEXT, "agent", count_whole, NULL, clock_us);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&t[i], NULL, write_lines, names[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
    }
    assert_int_equal(whole_lines, 4000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_lines),
        cmocka_unit_test(levels),
        cmocka_unit_test(json_lines_are_json_whatever_is_in_them),
        cmocka_unit_test(long_messages_are_cut),
        cmocka_unit_test(limits),
        cmocka_unit_test(threads),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
