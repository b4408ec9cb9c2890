#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/buf.h"
#include "common/insist.h"
#include "common/mem.h"

static void appends(void **state)
{
    AUTO_BUF struct buf b = BUF_INIT(1000);
    (void)state;
    assert_string_equal(buf_cstr(&b), "");
    assert_int_equal(buf_adds(&b, "a"), 0);
    assert_int_equal(buf_addc(&b, 'b'), 0);
    assert_int_equal(buf_addstr(&b, STR("cd")), 0);
    assert_int_equal(buf_addf(&b, "%d-%s", 12, "x"), 0);
    assert_int_equal(buf_add(&b, NULL, 0), 0);
    assert_string_equal(buf_cstr(&b), "abcd12-x");
    assert_true(str_eqs(buf_str(&b), "abcd12-x"));
    buf_consume(&b, 4);
    assert_string_equal(buf_cstr(&b), "12-x");
    buf_consume(&b, 4);
    assert_int_equal(b.len, 0);
    char *p = buf_reserve(&b, 3);
    memcpy(p, "xyz", 3);
    buf_grow(&b, 2);
    assert_string_equal(buf_cstr(&b), "xy");
    buf_reset(&b);
    assert_string_equal(buf_cstr(&b), "");
}

static void integers(void **state)
{
    static const uint8_t want[] = { 1, 2, 1, 4, 3, 2, 1, 8, 7, 6, 5, 4, 3, 2, 1, 1, 2, 1, 2, 3, 4 };
    AUTO_BUF struct buf b = BUF_INIT(100);
    (void)state;
    buf_add_u8(&b, 1);
    buf_add_le16(&b, 0x0102);
    buf_add_le32(&b, 0x01020304);
    buf_add_le64(&b, 0x0102030405060708);
    buf_add_be16(&b, 0x0102);
    buf_add_be32(&b, 0x01020304);
    assert_int_equal(b.len, sizeof want);
    assert_memory_equal(b.data, want, sizeof want);
}

static void cap_is_exact_and_failure_sticks(void **state)
{
    (void)state;
    for (size_t max = 0; max < 200; max++) {
        AUTO_BUF struct buf b = BUF_INIT(max);
        for (size_t i = 0; i < max; i++) {
            assert_int_equal(buf_addc(&b, 'x'), 0);
        }
        assert_int_equal(b.len, max);
        assert_int_equal(buf_adds(&b, "y"), -ENOBUFS);
        assert_int_equal(b.len, max);
        assert_int_equal(buf_add(&b, NULL, 0), -ENOBUFS);
        assert_int_equal(buf_addf(&b, "%s", ""), -ENOBUFS);
        assert_null(buf_reserve(&b, 0));
        assert_int_equal(buf_error(&b), -ENOBUFS);
        assert_null(buf_take(&b)); /* a failed one gives nothing away */
        assert_int_equal(buf_error(&b), 0);
    }
}

static void formatted_text_obeys_the_cap(void **state)
{
    (void)state;
    for (size_t max = 0; max < 150; max++) {
        AUTO_BUF struct buf b = BUF_INIT(max);
        int r = buf_addf(&b, "%0100d", 7);
        assert_int_equal(r, max >= 100 ? 0 : -ENOBUFS);
        assert_int_equal(strlen(buf_cstr(&b)), max >= 100 ? 100 : 0);
        /* In what was allocated already, too. */
        AUTO_BUF struct buf c = BUF_INIT(max);
        (void)buf_adds(&c, "ab");
        size_t before = c.len;
        r = buf_addf(&c, "%s", "cd");
        assert_int_equal(r, max >= 4 ? 0 : -ENOBUFS);
        assert_int_equal(c.len, max >= 4 ? 4 : before);
        assert_int_equal(strlen(buf_cstr(&c)), c.len);
    }
}

static void huge_sizes_are_refused(void **state)
{
    AUTO_BUF struct buf b = BUF_INIT(SIZE_MAX);
    (void)state;
    assert_int_equal(buf_adds(&b, "abc"), 0);
    assert_null(buf_reserve(&b, SIZE_MAX - 3));
    assert_int_equal(buf_error(&b), -ENOBUFS);
    buf_reset(&b);
    assert_null(buf_reserve(&b, SIZE_MAX / 2)); /* no such memory */
    assert_int_equal(buf_error(&b), -ENOMEM);
}

static void take_hands_over(void **state)
{
    struct buf b;
    (void)state;
    buf_init(&b, 10);
    assert_null(buf_take(&b));
    buf_adds(&b, "hello");
    char *s = buf_take(&b);
    assert_string_equal(s, "hello");
    assert_null(b.data);
    mem_free(s);
    assert_int_equal(buf_adds(&b, "again"), 0);
    buf_release(&b);
}

static void no_memory_anywhere(void **state)
{
    long n = 0;
    int r;
    (void)state;
    do {
        AUTO_BUF struct buf b = BUF_INIT(100000);
        mem_fail_after(n++, 1);
        for (int i = 0; i < 200; i++) {
            buf_adds(&b, "some text ");
            buf_addf(&b, "%d", i);
        }
        r = buf_error(&b);
        mem_fail_after(-1, 0);
        assert_true(r == 0 || r == -ENOMEM);
        assert_int_equal(strlen(buf_cstr(&b)), b.len);
    } while (r != 0);
    assert_true(n > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appends),
        cmocka_unit_test(integers),
        cmocka_unit_test(cap_is_exact_and_failure_sticks),
        cmocka_unit_test(formatted_text_obeys_the_cap),
        cmocka_unit_test(huge_sizes_are_refused),
        cmocka_unit_test(take_hands_over),
        cmocka_unit_test(no_memory_anywhere),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
