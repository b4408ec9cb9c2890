/* The list of issued certificates: reads back what it wrote, refuses the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "agent/cli/cli_ca.h"
#include "common/mem.h"

static const char text[] =
    "# Certificates that were issued here; 'agent ca' keeps this file.\n"
    "0A1B2C3D4E5F node-a until=2027-01-31T00:00:00.000000Z by=FF01\n"
    "0A1B2C3D4E60 node-b until=2027-02-28T00:00:00.000000Z by=FF01 revoked=2026-12-01T10:00:00.000000Z\n"
    "0A1B2C3D4E61 node-a until=2028-01-31T00:00:00.000000Z by=FF02\n";

static void test_round_trip(void **state)
{
    (void)state;
    struct cli_ca_list list;
    struct err e = { .code = 0 };
    struct buf out = BUF_INIT(10000);
    assert_int_equal(cli_ca_parse(STR(""), &list, &e), 0);
    assert_int_equal(list.len, 0);
    assert_int_equal(cli_ca_parse(str_of(text), &list, &e), 0);
    assert_int_equal(list.len, 3);
    assert_string_equal(list.items[1].name, "node-b");
    assert_int_equal(list.items[1].revoked_s, 1796119200);
    cli_ca_write(&list, &out);
    assert_string_equal(buf_cstr(&out), text);
    cli_ca_release(&list);
    buf_release(&out);
}

static void test_revoke_and_drop(void **state)
{
    (void)state;
    struct cli_ca_list list;
    struct err e = { .code = 0 };
    assert_int_equal(cli_ca_parse(str_of(text), &list, &e), 0);
    assert_int_equal(cli_ca_revoke(&list, STR("node-b"), 5), 0); /* is it already */
    assert_int_equal(cli_ca_revoke(&list, STR("node"), 5), 0);
    assert_int_equal(cli_ca_revoke(&list, STR("0A1B2C3"), 5), 0); /* too short to be meant */
    assert_int_equal(cli_ca_revoke(&list, STR(""), 5), 0);
    assert_int_equal(cli_ca_revoke(&list, STR("0A1B2C3D4E61"), 5), 1);
    assert_int_equal(list.items[2].revoked_s, 5);
    assert_int_equal(cli_ca_revoke(&list, STR("node-a"), 6), 1);
    assert_int_equal(list.items[0].revoked_s, 6);
    assert_int_equal(list.items[2].revoked_s, 5);
    cli_ca_drop(&list, "FF01");
    assert_int_equal(list.len, 1);
    assert_string_equal(list.items[0].by, "FF02");
    cli_ca_release(&list);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "zz node-a until=2027-01-31T00:00:00.000000Z by=FF",
        "0A1B",
        "0A1B  until=2027-01-31T00:00:00.000000Z by=FF",
        "0A1B node-a",
        "0A1B node-a until=2027-01-31T00:00:00Z",
        "0A1B node-a by=FF",
        "0A1B node-a until=yesterday by=FF",
        "0A1B node-a until=2027-01-31T00:00:00.000000Z by=xyz",
        "0A1B node-a until=2027-01-31T00:00:00.000000Z by=FF color=red",
        "0A1B0A1B0A1B0A1B0A1B0A1B0A1B0A1B0A1B0A1B0A1B node-a until=2027-01-31T00:00:00.000000Z by=FF",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct cli_ca_list list;
        struct err e = { .code = 0 };
        struct buf two = BUF_INIT(1000);
        (void)buf_addf(&two, "\n%s\n", bad[i]);
        if (cli_ca_parse(buf_str(&two), &list, &e) != -EINVAL) {
            fail_msg("taken: %s", bad[i]);
        }
        assert_ptr_equal(strstr(e.text, "issued:2: "), e.text);
        assert_null(list.items);
        buf_release(&two);
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    struct cli_ca_list list;
    struct err e = { .code = 0 };
    int rc = -ENOMEM;
    for (long after = 0; rc == -ENOMEM; after++) {
        mem_fail_after(after, 0);
        rc = cli_ca_parse(str_of(text), &list, &e);
        mem_fail_after(-1, 0);
        assert_true(rc == 0 || (rc == -ENOMEM && list.items == NULL));
    }
    cli_ca_release(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_revoke_and_drop),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
