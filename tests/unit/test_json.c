#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <time.h>

#include "common/insist.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

static struct json_doc *parse_ok(const char *text)
{
    struct json_doc *doc = NULL;
    struct err e = { 0 };
    int r = json_parse(text, strlen(text), NULL, &doc, &e);
    if (r != 0) {
        fail_msg("%s: %s", text, err_text(&e));
    }
    return doc;
}

static void check_bad(const char *text, size_t n, int want, const char *message)
{
    struct json_doc *doc = NULL;
    struct err e = { 0 };
    assert_int_equal(json_parse(text, n, NULL, &doc, &e), want);
    assert_null(doc);
    if (strstr(err_text(&e), message) == NULL) {
        fail_msg("%s: got '%s', want '%s'", text, err_text(&e), message);
    }
}

static void bad(const char *text, const char *message)
{
    check_bad(text, strlen(text), -EINVAL, message);
}

static void trees(void **state)
{
    AUTO_JSON struct json_doc *doc = parse_ok(
        " {\"a\": [1, -2.5, true, false, null, \"x\\n\\u00fc\\ud83d\\ude80\"], \"b\": {}, \"c\": []}\r\n\t ");
    const struct json *root = json_root(doc);
    const struct json *a = json_get(root, "a");
    int64_t i;
    double d;
    bool b;
    struct str s;
    (void)state;
    assert_int_equal(root->count, 3);
    assert_int_equal(a->count, 6);
    assert_true(str_eqs(a->key, "a"));
    assert_true(json_int(json_at(a, 0), &i) && i == 1);
    assert_true(json_real(json_at(a, 0), &d) && d == 1.0);
    assert_true(json_real(json_at(a, 1), &d) && d == -2.5);
    assert_false(json_int(json_at(a, 1), &i));
    assert_true(json_bool(json_at(a, 2), &b) && b);
    assert_true(json_bool(json_at(a, 3), &b) && !b);
    assert_int_equal(json_at(a, 4)->type, JSON_NULL);
    assert_true(json_str(json_at(a, 5), &s) && str_eqs(s, "x\nü🚀"));
    assert_int_equal(s.p[s.n], '\0');
    assert_null(json_at(a, 6));
    assert_null(json_at(root, 0));
    assert_null(json_get(a, "a"));
    assert_null(json_get(NULL, "a"));
    assert_null(json_get(root, "z"));
    assert_false(json_str(NULL, &s));
    assert_int_equal(json_get(root, "b")->count, 0);
    assert_null(json_get(root, "c")->child);
    size_t n = 0;
    JSON_EACH (m, root) {
        n++;
    }
    assert_int_equal(n, 3);
    assert_string_equal(json_type_name(JSON_ARRAY), "an array");
    assert_null(json_free(NULL));
}

static void scalars_stand_alone(void **state)
{
    static const struct {
        const char *text;
        enum json_type type;
    } t[] = { { "1", JSON_INT },       { " true ", JSON_BOOL },  { "null", JSON_NULL },
              { "\"\"", JSON_STRING }, { "-0.0e-3", JSON_REAL }, { "1E5", JSON_REAL },
              { "[]", JSON_ARRAY } };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        AUTO_JSON struct json_doc *doc = parse_ok(t[i].text);
        assert_int_equal(json_root(doc)->type, t[i].type);
    }
}

static void malformed_text_names_its_place(void **state)
{
    (void)state;
    bad("", "line 1, column 1: the text ends too early");
    bad("   ", "ends too early");
    bad("[1, 2", "line 1, column 6: the text ends too early");
    bad("{\"a\":", "ends too early");
    bad("\"abc", "ends too early");
    bad("tru", "lexical error");
    bad("[1,,2]", "line 1, column 4: parse error");
    bad("[1 2]", "line 1, column 4: parse error");
    bad("{\n  \"a\": 1,\n  \"b\" 2\n}", "line 3, column 7: parse error");
    bad("{\"a\":1,}", "line 1, column 8: parse error");
    bad("[1,]", "line 1, column 4: parse error");
    bad("{a:1}", "line 1, column 2: lexical error");
    bad("{'a':1}", "lexical error");
    bad("nul", "lexical error");
    bad("nulx", "lexical error");
    bad("True", "lexical error");
    bad("NaN", "lexical error");
    bad("Infinity", "lexical error");
    bad("-", "");
    bad("+1", "lexical error");
    bad("01", "column 2: parse error");
    bad("[01]", "parse error");
    bad("1.", "");
    bad(".5", "lexical error");
    bad("0x10", "");
    bad("1e", "");
    bad("[1]]", "column 4: parse error");
    bad("{} {}", "column 4: parse error");
    bad("1 2", "column 2: parse error");
    bad("\"a\" x", "error");
    bad("]", "parse error");
    bad("\xef\xbb\xbf{}", "lexical error"); /* byte-order mark */
}

/* Each trap of specs/dependencies.md, "yajl". */
static void yajl_traps(void **state)
{
    (void)state;
    bad("[1 // x\n]", "lexical error");
    bad("[1] // x", "trailing garbage");
    bad("/* x */ [1]", "error");
    bad("{\"a\":1,\"b\":2,\"a\":3}", "line 1, column 14: key \"a\" appears twice");
    bad("{\"a\":1,\"\\u0061\":3}", "key \"a\" appears twice"); /* after unescaping */
    bad("[\"a\\u0000b\"]", "line 1, column 4: \\u0000 in a string");
    bad("{\"\\u0000\":1}", "\\u0000 in a string");
    check_bad("[\"a\0b\"]", 7, -EINVAL, "line 1, column 4: a NUL byte");
    bad("\"\xc0\x80\"", "line 1, column 2: malformed UTF-8");
    bad("\"\xed\xa0\x80\"", "malformed UTF-8");
    bad("\"\xff\"", "malformed UTF-8");
    bad("\"\\ud800\"", "half of a surrogate pair");
    bad("\"\\ud800x\"", "half of a surrogate pair");
    bad("\"\\ud800\\n\"", "half of a surrogate pair");
    bad("\"\\ud800\\u0041\"", "half of a surrogate pair");
    bad("\"\\udc00\"", "half of a surrogate pair");
    bad("\"\\udc00\\ud800\"", "half of a surrogate pair");
    bad("\"\\u12g4\"", "lexical error");
    bad("\"\\x\"", "lexical error");
    bad("\"a\nb\"", "lexical error"); /* control characters must be escaped */
    bad("\"a\tb\"", "lexical error");
    bad("9223372036854775808", "does not fit 64 bits");
    bad("-9223372036854775809", "does not fit 64 bits");
    bad("[1e309]", "too large");
    bad("[-1e309]", "too large");
    /* Escaped backslashes do not hide an escape, nor make one. */
    AUTO_JSON struct json_doc *doc = parse_ok("\"\\\\u0000 \\\\ud800\"");
    struct str s;
    assert_true(json_str(json_root(doc), &s) && str_eqs(s, "\\u0000 \\ud800"));
    AUTO_JSON struct json_doc *least =
        parse_ok("[-9223372036854775808, 9223372036854775807, 5e-324]");
    int64_t i;
    assert_true(json_int(json_at(json_root(least), 0), &i) && i == INT64_MIN);
    assert_true(json_int(json_at(json_root(least), 1), &i) && i == INT64_MAX);
    /* A number of absurd length. */
    char digits[1000];
    memset(digits, '1', sizeof digits - 1);
    digits[1] = '.';
    digits[sizeof digits - 1] = '\0';
    bad(digits, "characters");
}

static void many_keys_are_checked_too(void **state)
{
    AUTO_BUF struct buf b = BUF_INIT(1 << 20);
    (void)state;
    for (int twice = 0; twice < 2; twice++) {
        buf_reset(&b);
        buf_addc(&b, '{');
        for (int i = 0; i < 5000; i++) {
            buf_addf(&b, "\"key-%d\":%d,", i, i);
        }
        buf_addf(&b, "\"%s\":0}", twice ? "key-4321" : "key-x");
        if (twice) {
            bad(buf_cstr(&b), "key \"key-4321\" appears twice");
        } else {
            AUTO_JSON struct json_doc *doc = parse_ok(buf_cstr(&b));
            assert_int_equal(json_root(doc)->count, 5001);
        }
    }
}

static void limits_hold(void **state)
{
    struct json_limits limits = { .depth_max = 3, .nodes_max = 5 };
    struct json_doc *doc = NULL;
    struct err e;
    (void)state;
    assert_int_equal(json_parse("[[[1]]]", 7, &limits, &doc, &e), 0);
    doc = json_free(doc);
    assert_int_equal(json_parse("[[[[1]]]]", 9, &limits, &doc, &e), -E2BIG);
    assert_string_equal(err_text(&e), "line 1, column 4: nested deeper than 3");
    assert_int_equal(json_parse("[1,2,3,4]", 9, &limits, &doc, &e), 0);
    doc = json_free(doc);
    assert_int_equal(json_parse("[1,2,3,4,5]", 11, &limits, &doc, &e), -E2BIG);
    assert_non_null(strstr(err_text(&e), "too many values"));

    /* A megabyte of brackets neither recurses nor grows. */
    size_t n = 1 << 20;
    AUTO_MEM char *deep = mem_alloc(n);
    memset(deep, '[', n);
    assert_int_equal(json_parse(deep, n, NULL, &doc, &e), -E2BIG);
    limits = (struct json_limits){ .depth_max = 256, .nodes_max = SIZE_MAX };
    assert_int_equal(json_parse(deep, n, &limits, &doc, &e), -E2BIG);
    /* Objects, as well. */
    for (size_t i = 0; i + 5 <= n; i += 5) {
        memcpy(deep + i, "{\"a\":", 5);
    }
    assert_true(json_parse(deep, n, NULL, &doc, &e) < 0);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* yajl's quadratic case (a string over many calls) does not arise: 8 MB with escapes. */
static void long_strings_take_linear_time(void **state)
{
    size_t n = 8 << 20;
    AUTO_MEM char *text = mem_alloc(n);
    struct json_doc *doc = NULL;
    struct str s;
    (void)state;
    memset(text, 'x', n);
    for (size_t i = 0; i + 100 < n; i += 100) {
        memcpy(text + i, "\\n", 2);
    }
    text[0] = '"';
    text[1] = 'x';
    text[n - 1] = '"';
    double begin = seconds();
    assert_int_equal(json_parse(text, n, NULL, &doc, NULL), 0);
    assert_true(seconds() - begin < 5.0);
    assert_true(json_str(json_root(doc), &s) && s.n > n / 2);
    json_free(doc);
}

static void no_memory_anywhere(void **state)
{
    static const char text[] =
        "{\"a\":[1,2.5,\"x\\ny\",{\"b\":null,\"c\":[[[[[true]]]]]}],\"d\":\"long enough a "
        "string to need a place\",\"e\":{\"1\":1,\"2\":1,\"3\":1,\"4\":1,\"5\":1,\"6\":1,"
        "\"7\":1,\"8\":1,\"9\":1,\"10\":1,\"11\":1,\"12\":1,\"13\":1,\"14\":1,"
        "\"15\":1,\"16\":1,\"17\":1,\"18\":1}}";
    static const char broken[] = "{\"a\":[1,2,\"x\\ny\",}";
    long n;
    int r;
    (void)state;
    for (int forever = 0; forever < 2; forever++) {
        n = 0;
        do {
            struct json_doc *doc = NULL;
            struct err e = { 0 };
            mem_fail_after(n++, forever);
            r = json_parse(text, sizeof text - 1, NULL, &doc, &e);
            mem_fail_after(-1, 0);
            assert_true(r == 0 || (r == -ENOMEM && doc == NULL));
            json_free(doc);
        } while (r != 0);
        assert_true(n > 8);
        /* The way of an error allocates, too. */
        n = 0;
        do {
            struct json_doc *doc = NULL;
            struct err e = { 0 };
            mem_fail_after(n++, forever);
            r = json_parse(broken, sizeof broken - 1, NULL, &doc, &e);
            mem_fail_after(-1, 0);
            assert_true(r == -EINVAL || r == -ENOMEM);
            assert_null(doc);
        } while (r != -EINVAL);
        assert_true(n > 4);
    }
}

/* --- writing --- */

static void writes(void **state)
{
    AUTO_BUF struct buf b = BUF_INIT(10000);
    struct json_w w;
    (void)state;
    json_w_init(&w, &b, false);
    json_w_obj(&w);
    json_kv_cstr(&w, "s", "a\"b\\c\n\t\x01\x7f\xff ü \xc3");
    json_kv_int(&w, "i", INT64_MIN);
    json_kv_u64(&w, "u", UINT64_MAX);
    json_kv_bool(&w, "t", true);
    json_kv_real(&w, "r", 1.5, 3);
    json_kv_real(&w, "nan", 0.0 / 0.0, 3);
    json_kv_real(&w, "big", 1e300, 3);
    json_kv_time(&w, "when", 1795422983123456);
    json_kv_time(&w, "never", 0);
    json_w_key(&w, "list");
    json_w_arr(&w);
    json_w_null(&w);
    json_w_raw(&w, STR("{\"raw\":1}"));
    json_w_arr(&w);
    json_w_end(&w);
    json_w_end(&w);
    json_w_end(&w);
    assert_string_equal(
        buf_cstr(&b), "{\"s\":\"a\\\"b\\\\c\\n\\t\\u0001\\u007f\xef\xbf\xbd ü \xef\xbf\xbd\",\"i\":"
                      "-9223372036854775808,\"u\":18446744073709551615,\"t\":true,\"r\":1.500,"
                      "\"nan\":null,\"big\":1e+300,\"when\":\"2026-11-23T08:36:23.123456Z\","
                      "\"never\":null,\"list\":[null,{\"raw\":1},[]]}");
}

static void writes_prettily(void **state)
{
    AUTO_BUF struct buf b = BUF_INIT(10000);
    AUTO_JSON struct json_doc *doc = parse_ok("{\"x\":[1,{}],\"y\":[]}");
    struct json_w w;
    (void)state;
    json_w_init(&w, &b, true);
    json_w_obj(&w);
    json_kv_int(&w, "a", 1);
    json_w_key(&w, "b");
    json_w_value(&w, json_root(doc));
    json_w_key(&w, "c");
    json_w_obj(&w);
    json_w_end(&w);
    json_w_end(&w);
    assert_string_equal(buf_cstr(&b),
                        "{\n  \"a\": 1,\n  \"b\": {\n    \"x\": [\n      1,\n      {}\n"
                        "    ],\n    \"y\": []\n  },\n  \"c\": {}\n}");
}

/* How deep a foreign tree is never fails the writer. */
static void deep_trees_are_written(void **state)
{
    struct json_limits limits = { .depth_max = 256 };
    char text[513];
    struct json_doc *doc = NULL;
    AUTO_BUF struct buf b = BUF_INIT(10000);
    struct json_w w;
    (void)state;
    memset(text, '[', 256);
    memset(text + 256, ']', 256);
    text[512] = '\0';
    assert_int_equal(json_parse(text, 512, &limits, &doc, NULL), 0);
    json_w_init(&w, &b, false);
    json_w_value(&w, json_root(doc));
    assert_string_equal(buf_cstr(&b), text);
    json_free(doc);
}

static void random_tree(struct json_w *w, struct rng *r, unsigned depth)
{
    uint64_t kind = rng_below(r, depth > 5 ? 5 : 7);
    char text[24];
    size_t n = (size_t)rng_below(r, sizeof text);
    for (size_t i = 0; i < n; i++) {
        text[i] = (char)(1 + rng_below(r, 127));
    }
    if (kind == 0) {
        json_w_null(w);
    } else if (kind == 1) {
        json_w_bool(w, n % 2 == 0);
    } else if (kind == 2) {
        json_w_int(w, (int64_t)rng_u64(r));
    } else if (kind == 3) {
        json_w_real(w, (rng_unit(r) - 0.5) * (double)(rng_u64(r) >> rng_below(r, 60)), -1);
    } else if (kind == 4) {
        json_w_str(w, (struct str){ text, n });
    } else if (kind == 5) {
        json_w_arr(w);
        for (size_t i = 0; i < n % 6; i++) {
            random_tree(w, r, depth + 1);
        }
        json_w_end(w);
    } else {
        json_w_obj(w);
        for (size_t i = 0; i < n; i++) {
            char key[32];
            (void)snprintf(key, sizeof key, "%zu\"%c", i, text[i]);
            json_w_key(w, key);
            random_tree(w, r, depth + 1);
        }
        json_w_end(w);
    }
}

/* Written, read, written again: the same bytes, compact and pretty. */
static void round_trips(void **state)
{
    struct rng r;
    (void)state;
    rng_init(&r, test_seed("round_trips"));
    for (int i = 0; i < 300; i++) {
        AUTO_BUF struct buf first = BUF_INIT(1 << 22);
        AUTO_BUF struct buf second = BUF_INIT(1 << 22);
        AUTO_JSON struct json_doc *doc = NULL;
        struct json_limits limits = { .nodes_max = 1 << 20 };
        struct err e = { 0 };
        struct json_w w;
        json_w_init(&w, &first, i % 2 == 0);
        random_tree(&w, &r, 0);
        assert_int_equal(buf_error(&first), 0);
        int rc = json_parse(first.data, first.len, &limits, &doc, &e);
        if (rc != 0) {
            fail_msg("%s in %s", err_text(&e), buf_cstr(&first));
        }
        json_w_init(&w, &second, i % 2 == 0);
        json_w_value(&w, json_root(doc));
        assert_string_equal(buf_cstr(&first), buf_cstr(&second));
    }
}

static void full_buffers_stick(void **state)
{
    AUTO_BUF struct buf b = BUF_INIT(10);
    struct json_w w;
    (void)state;
    json_w_init(&w, &b, false);
    json_w_arr(&w);
    for (int i = 0; i < 100; i++) {
        json_w_int(&w, i);
    }
    json_w_end(&w);
    assert_int_equal(buf_error(&b), -ENOBUFS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trees),
        cmocka_unit_test(scalars_stand_alone),
        cmocka_unit_test(malformed_text_names_its_place),
        cmocka_unit_test(yajl_traps),
        cmocka_unit_test(many_keys_are_checked_too),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(long_strings_take_linear_time),
        cmocka_unit_test(no_memory_anywhere),
        cmocka_unit_test(writes),
        cmocka_unit_test(writes_prettily),
        cmocka_unit_test(deep_trees_are_written),
        cmocka_unit_test(round_trips),
        cmocka_unit_test(full_buffers_stick),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
