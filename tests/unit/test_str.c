#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>

#include "common/insist.h"
#include "common/str.h"

static void slices(void **state)
{
    (void)state;
    assert_true(str_eq(str_of(NULL), STR("")));
    assert_true(str_eqs(str_slice(STR("abcdef"), 2, 3), "cde"));
    assert_true(str_eqs(str_slice(STR("abc"), 2, SIZE_MAX), "c"));
    assert_int_equal(str_slice(STR("abc"), 9, 1).n, 0);
    assert_int_equal(str_slice((struct str){ NULL, 0 }, 1, 1).n, 0);
    assert_true(str_ieqs(STR("Content-LENGTH"), "content-length"));
    assert_false(str_ieqs(STR("Content-Lengt"), "content-length"));
    assert_false(str_ieqs(STR("content-length2"), "content-length"));
    assert_false(str_ieqs(STR("["), "{")); /* letters only */
    assert_true(str_cmp(STR("ab"), STR("abc")) < 0);
    assert_true(str_cmp(STR("b"), STR("abc")) > 0);
    assert_int_equal(str_cmp(STR("abc"), STR("abc")), 0);
    assert_true(str_starts(STR("abc"), "") && str_starts(STR("abc"), "ab") &&
                !str_starts(STR("a"), "ab"));
    assert_true(str_ends(STR("abc"), "") && str_ends(STR("abc"), "bc") &&
                !str_ends(STR("c"), "bc"));
    assert_true(str_eqs(str_trim(STR(" \t a b\r\n ")), "a b"));
    assert_int_equal(str_trim(STR(" \t ")).n, 0);
    assert_int_equal(str_find(STR("a.b.c"), '.'), 1);
    assert_int_equal(str_rfind(STR("a.b.c"), '.'), 3);
    assert_int_equal(str_find(STR(""), '.'), -1);
    assert_int_equal(str_rfind(STR("abc"), '.'), -1);
}

static void split_pieces(void **state)
{
    struct str rest = STR("a,,b");
    struct str piece;
    (void)state;
    assert_true(str_split(&rest, ',', &piece) && str_eqs(piece, "a"));
    assert_true(str_split(&rest, ',', &piece) && str_eqs(piece, ""));
    assert_true(str_split(&rest, ',', &piece) && str_eqs(piece, "b"));
    assert_false(str_split(&rest, ',', &piece));
    rest = STR("");
    assert_false(str_split(&rest, ',', &piece));
}

static void copies(void **state)
{
    char dst[4];
    (void)state;
    assert_int_equal(str_copy(dst, sizeof dst, STR("abc")), 0);
    assert_string_equal(dst, "abc");
    assert_int_equal(str_copy(dst, sizeof dst, STR("abcd")), -ENAMETOOLONG);
    assert_string_equal(dst, "");
    assert_int_equal(str_copy(dst, sizeof dst, (struct str){ "a\0b", 3 }), -EINVAL);
    assert_int_equal(str_copy(dst, sizeof dst, (struct str){ NULL, 0 }), 0);
}

static void integers(void **state)
{
    uint64_t u = 7;
    int64_t i = 7;
    (void)state;
    static const char *const bad[] = { "", "+1", "-1", " 1", "1 ", "0x1", "1a", "١" };
    for (size_t n = 0; n < ARRAY_LEN(bad); n++) {
        assert_int_equal(str_u64(str_of(bad[n]), &u), -EINVAL);
    }
    assert_int_equal(str_u64(STR("18446744073709551616"), &u), -ERANGE);
    assert_int_equal(str_u64(STR("99999999999999999999999999x"), &u), -EINVAL);
    assert_int_equal(u, 7); /* untouched */
    assert_int_equal(str_u64(STR("18446744073709551615"), &u), 0);
    assert_true(u == UINT64_MAX);
    assert_int_equal(str_u64(STR("007"), &u), 0);
    assert_int_equal(u, 7);
    assert_int_equal(str_u64_in(STR("5"), 6, 9, &u), -ERANGE);
    assert_int_equal(str_u64_in(STR("9"), 6, 9, &u), 0);
    assert_int_equal(str_i64(STR("-9223372036854775808"), &i), 0);
    assert_true(i == INT64_MIN);
    assert_int_equal(str_i64(STR("9223372036854775807"), &i), 0);
    assert_true(i == INT64_MAX);
    assert_int_equal(str_i64(STR("9223372036854775808"), &i), -ERANGE);
    assert_int_equal(str_i64(STR("-9223372036854775809"), &i), -ERANGE);
    assert_int_equal(str_i64(STR("-"), &i), -EINVAL);
    assert_int_equal(str_i64(STR("--1"), &i), -EINVAL);
    assert_int_equal(str_hex_u64(STR("fFfFfFfFfFfFfFfF"), &u), 0);
    assert_true(u == UINT64_MAX);
    assert_int_equal(str_hex_u64(STR("10000000000000000"), &u), -ERANGE);
    assert_int_equal(str_hex_u64(STR("0x1"), &u), -EINVAL);
    assert_int_equal(str_hex_u64(STR(""), &u), -EINVAL);
}

static void sizes(void **state)
{
    static const struct {
        const char *text;
        uint64_t want;
    } good[] = {
        { "0", 0 },
        { "65536", 65536 },
        { "12B", 12 },
        { "64k", 65536 },
        { "64K", 65536 },
        { "64KiB", 65536 },
        { "64kb", 64000 },
        { "64KB", 64000 },
        { "10M", 10485760 },
        { "10MB", 10000000 },
        { "1.5GiB", 1610612736 },
        { "1.5 GiB", 1610612736 },
        { "2Ti", UINT64_C(2) << 40 },
        { "16777215T", UINT64_C(16777215) << 40 },
        { "0.5k", 512 },
        { "1.000001M", 1048577 },
    };
    static const char *const bad[] = { "",     "k",          "-1",  "1.",   ".5k",
                                       "1.5",  "1.5B",       "1e3", "1kk",  "1 ",
                                       "1  k", "1.1234567M", "one", "1,5M", "1P" };
    uint64_t v;
    (void)state;
    for (size_t n = 0; n < ARRAY_LEN(good); n++) {
        assert_int_equal(str_size(str_of(good[n].text), &v), 0);
        assert_true(v == good[n].want);
    }
    for (size_t n = 0; n < ARRAY_LEN(bad); n++) {
        assert_int_equal(str_size(str_of(bad[n]), &v), -EINVAL);
    }
    assert_int_equal(str_size(STR("16777216T"), &v), -ERANGE);
    assert_int_equal(str_size(STR("18446744073709551616"), &v), -ERANGE);
}

static void durations(void **state)
{
    static const struct {
        const char *text;
        uint64_t want;
    } good[] = {
        { "250ms", 250 },
        { "10s", 10000 },
        { "5m", 300000 },
        { "1h30m", 5400000 },
        { "7d", 604800000 },
        { "10", 10000 },
        { "1.5", 1500 },
        { "0.0015", 1 },
        { "1.5h", 5400000 },
        { "0", 0 },
        { "1d2h3m4s5ms", 93784005 },
    };
    static const char *const bad[] = { "",    "s",   "10 s", "1m1m", "1m1h", "1h30",
                                       "1s2", "-1s", "1S",   "1w",   "5 m",  "1us" };
    uint64_t v;
    (void)state;
    for (size_t n = 0; n < ARRAY_LEN(good); n++) {
        assert_int_equal(str_duration_ms(str_of(good[n].text), &v), 0);
        assert_true(v == good[n].want);
    }
    for (size_t n = 0; n < ARRAY_LEN(bad); n++) {
        assert_int_equal(str_duration_ms(str_of(bad[n]), &v), -EINVAL);
    }
    assert_int_equal(str_duration_ms(STR("18446744073709551615d"), &v), -ERANGE);
    assert_int_equal(str_duration_ms(STR("213503982334d14h"), &v), 0);
    assert_int_equal(str_duration_ms(STR("213503982334d15h"), &v), -ERANGE);
}

static void booleans(void **state)
{
    static const char *const yes[] = { "yes", "true", "on", "1", "YES", "True" };
    static const char *const no[] = { "no", "false", "off", "0", "No" };
    bool b = false;
    (void)state;
    for (size_t n = 0; n < ARRAY_LEN(yes); n++) {
        assert_true(str_bool(str_of(yes[n]), &b) == 0 && b);
    }
    for (size_t n = 0; n < ARRAY_LEN(no); n++) {
        assert_true(str_bool(str_of(no[n]), &b) == 0 && !b);
    }
    assert_int_equal(str_bool(STR("y"), &b), -EINVAL);
    assert_int_equal(str_bool(STR(""), &b), -EINVAL);
}

static void hex(void **state)
{
    uint8_t bytes[4] = { 0, 0x7f, 0x80, 0xff };
    uint8_t back[4];
    char text[9];
    (void)state;
    str_hex(text, bytes, 4);
    assert_string_equal(text, "007f80ff");
    assert_int_equal(str_unhex(STR("007F80fF"), back, 4), 0);
    assert_memory_equal(bytes, back, 4);
    assert_int_equal(str_unhex(STR("007F80f"), back, 4), -EINVAL);
    assert_int_equal(str_unhex(STR("007F80f"), back, 3), -EINVAL);
    assert_int_equal(str_unhex(STR("007F80fg"), back, 4), -EINVAL);
    assert_int_equal(str_unhex(STR(""), back, 0), 0);
}

static void for_people(void **state)
{
    static const struct {
        uint64_t v;
        const char *size;
        const char *duration;
    } t[] = {
        { 0, "0 B", "0 us" },
        { 512, "512 B", "512 us" },
        { 1536, "1.5 KiB", "1.5 ms" },
        { 1048575, "1024 KiB", "1.0 s" },
        { 90000000, "85.8 MiB", "1m 30s" },
        { UINT64_C(7200000000), "6.7 GiB", "2h 0m" },
        { UINT64_C(93600000000), "87.2 GiB", "1d 2h" },
        { UINT64_MAX, "16 EiB", "213503982d 8h" },
    };
    char text[40];
    (void)state;
    for (size_t n = 0; n < ARRAY_LEN(t); n++) {
        assert_string_equal(str_fmt_size(text, sizeof text, t[n].v), t[n].size);
        assert_string_equal(str_fmt_duration(text, sizeof text, t[n].v), t[n].duration);
    }
    assert_string_equal(str_fmt_size(text, 4, 1536), "1.5");
}

static void utf8(void **state)
{
    static const char *const good[] = { "",
                                        "plain",
                                        "grüße",
                                        "日本語",
                                        "\xf0\x9f\x9a\x80",
                                        "\xed\x9f\xbf",
                                        "\xee\x80\x80",
                                        "\xf4\x8f\xbf\xbf",
                                        "12345678ü",
                                        "1234567ü8" };
    static const char *const bad[] = {
        "\x80",         "\xc0\x80",         "\xc1\xbf",         "\xe0\x9f\xbf",
        "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
        "\xc3",         "\xe2\x82",         "abcdefgh\xff",     "\xc3(",
        "1234567\xc3"
    };
    (void)state;
    for (size_t n = 0; n < ARRAY_LEN(good); n++) {
        assert_true(str_is_utf8(str_of(good[n])));
    }
    for (size_t n = 0; n < ARRAY_LEN(bad); n++) {
        assert_false(str_is_utf8(str_of(bad[n])));
    }
    /* NUL at each place of a word. */
    for (size_t at = 0; at < 20; at++) {
        char text[20];
        memset(text, 'x', sizeof text);
        text[at] = '\0';
        assert_int_equal(str_utf8_span((struct str){ text, sizeof text }), at);
        text[at] = (char)0x80;
        assert_int_equal(str_utf8_span((struct str){ text, sizeof text }), at);
    }
}

static void distances(void **state)
{
    char long_text[70];
    (void)state;
    memset(long_text, 'x', sizeof long_text);
    assert_int_equal(str_distance(STR("kitten"), STR("sitting")), 3);
    assert_int_equal(str_distance(STR(""), STR("abc")), 3);
    assert_int_equal(str_distance(STR("abc"), STR("")), 3);
    assert_int_equal(str_distance(STR("same"), STR("same")), 0);
    assert_int_equal(str_distance((struct str){ long_text, 64 }, (struct str){ long_text, 64 }), 0);
    assert_int_equal(str_distance((struct str){ long_text, 65 }, STR("x")), 99);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices),   cmocka_unit_test(split_pieces), cmocka_unit_test(copies),
        cmocka_unit_test(integers), cmocka_unit_test(sizes),        cmocka_unit_test(durations),
        cmocka_unit_test(booleans), cmocka_unit_test(hex),          cmocka_unit_test(for_people),
        cmocka_unit_test(utf8),     cmocka_unit_test(distances),
    };
    return cmocka_run_group_tests_name("str", tests, NULL, NULL);
}
