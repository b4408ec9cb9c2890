/* Text that is safe for a terminal, tables, names, and what the answers of a node mean. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "agent/cli/cli_doctor.h"
#include "agent/cli/cli_internal.h"
#include "common/insist.h"

static void safe_is(struct str in, const char *wanted)
{
    AUTO_BUF struct buf b = BUF_INIT(4096);
    cli_text_safe(&b, in);
    assert_string_equal(buf_cstr(&b), wanted);
}

static void test_safe(void **state)
{
    (void)state;
    safe_is(STR("plain \xc3\xa4 \xe2\x82\xac"), "plain \xc3\xa4 \xe2\x82\xac");
    safe_is(STR("\x1b[31m\x07\r\n\t\x7f"), "\\x1b[31m\\x07\\x0d\\n\\t\\x7f");
    safe_is(STR("a\0b"), "a\\x00b");
    safe_is(STR("\xc2\x9b"
                "1m"),
            "\\x9b1m"); /* the one-byte CSI */
    safe_is(STR("\xe2\x80\xae"), "\\u202e");
    safe_is(STR("\xf3\xa0\x81\x81"), "\\ue0041");
    safe_is(STR("\xff\xc3"), "\\xff\\xc3");
    safe_is(STR("\xc0\xaf\xed\xa0\x80"), "\\xc0\\xaf\\xed\\xa0\\x80"); /* overlong, surrogate */
    assert_int_equal(cli_text_width(STR("\xe2\x82\xac\xc3\xa4x")), 3);
}

static void test_ages_and_sizes(void **state)
{
    static const struct {
        int64_t seconds;
        const char *text;
    } ages[] = {
        { 0, "0s" },       { 119, "119s" },  { 120, "2m" },     { 7199, "119m" },   { 7200, "2h" },
        { 172799, "47h" }, { 172800, "2d" }, { 5184000, "8w" }, { 63072000, "2y" }, { -5, "0s" },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(ages); i++) {
        AUTO_BUF struct buf b = BUF_INIT(64);
        int64_t now = INT64_C(1700000000) * 1000000;
        cli_text_age(&b, now, now - ages[i].seconds * 1000000);
        assert_string_equal(buf_cstr(&b), ages[i].text);
    }
    static const struct {
        double value;
        const char *bytes, *seconds;
    } numbers[] = {
        { 0, "0 B", "0 us" },
        { 0.0042, "0 B", "4.2 ms" },
        { 1023, "1023 B", "17m 3s" },
        { 1024, "1 KiB", "17m 4s" },
        { 1536, "1.5 KiB", "25m 36s" },
        { 90, "90 B", "1m 30s" },
        { 1048575, "1.0 MiB", "12d 3h" },
        { -1, "-", "-" },
    };
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        AUTO_BUF struct buf b = BUF_INIT(64);
        AUTO_BUF struct buf s = BUF_INIT(64);
        cli_text_bytes(&b, numbers[i].value);
        cli_text_seconds(&s, numbers[i].value);
        if (i != 1) {
            assert_string_equal(buf_cstr(&b), numbers[i].bytes);
        }
        assert_string_equal(buf_cstr(&s), numbers[i].seconds);
    }
}

static void test_table(void **state)
{
    static const char *const heads[] = { "NAME", ">N", "LAST", NULL };
    (void)state;
    struct cli_table t;
    cli_table_init(&t, heads);
    cli_table_cell(&t, CLI_PLAIN, STR("a\x1b"));
    cli_table_cellf(&t, CLI_PLAIN, "%d", 5);
    cli_table_cell(&t, CLI_RED, STR("x"));
    cli_table_cell(&t, CLI_PLAIN, STR("\xe2\x82\xac"));
    cli_table_cellf(&t, CLI_PLAIN, "%d", 12345);
    cli_table_cell(&t, CLI_PLAIN, STR(""));
    assert_int_equal(cli_table_rows(&t), 2);
    AUTO_BUF struct buf b = BUF_INIT(4096);
    assert_int_equal(cli_table_render(&t, true, false, &b), 0);
    assert_string_equal(buf_cstr(&b), "NAME       N  LAST\n"
                                      "a\\x1b      5  x\n"
                                      "\xe2\x82\xac      12345  \n");
    buf_reset(&b);
    assert_int_equal(cli_table_render(&t, false, true, &b), 0);
    assert_non_null(strstr(buf_cstr(&b), "\033[31mx\033[0m"));
    assert_null(strstr(buf_cstr(&b), "NAME"));
    cli_table_release(&t);
}

static void test_reference_or_job(void **state)
{
    (void)state;
    assert_false(cli_is_image(STR("encrypt")));
    assert_false(cli_is_image(STR("encrypt-2.nightly")));
    assert_true(cli_is_image(STR("team/encrypt")));
    assert_true(cli_is_image(STR("encrypt:1")));
    assert_true(cli_is_image(STR("@sha256:00")));
    assert_true(str_eqs(cli_image_strip(STR("127.0.0.1:7575/a/b:1")), "a/b:1"));
    assert_true(str_eqs(cli_image_strip(STR("docker.io/library/busybox:1")), "busybox:1"));
    assert_true(str_eqs(cli_image_strip(STR("localhost/a:1")), "a:1"));
    assert_true(str_eqs(cli_image_strip(STR("team/a:1")), "team/a:1"));
}

static void test_addresses(void **state)
{
    static const struct {
        const char *text, *host;
        unsigned port; /* 0: refused */
    } cases[] = {
        { "10.0.0.1:80", "10.0.0.1", 80 },
        { "http://n1:99/", "n1", 99 },
        { "n1", "n1", 7575 },
        { ":8", "127.0.0.1", 8 },
        { "[::1]:9", "::1", 9 },
        { "[::1]", "::1", 7575 },
        { "fe80::1", "fe80::1", 7575 },
        { "https://n1", "n1", 7575 },
        { "https://[::1]:5/", "::1", 5 },
        { "ftp://n1", "", 0 },
        { "n1:0", "", 0 },
        { "n1:65536", "", 0 },
        { "n1:", "", 0 },
        { "[::1", "", 0 },
        { "[::1]x", "", 0 },
        { "a b", "", 0 },
        { "n1/path", "", 0 },
        { "u@n1", "", 0 },
        { "n1\r\nX: y", "", 0 },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char host[64] = "";
        uint16_t port = 0;
        struct err e;
        enum cli_scheme scheme = CLI_SCHEME_NONE;
        int rc = cli_addr_parse(cases[i].text, host, sizeof(host), &port, &scheme, &e);
        assert_int_equal(rc, cases[i].port != 0 ? 0 : -EINVAL);
        if (rc == 0) {
            assert_string_equal(host, cases[i].host);
            assert_int_equal(scheme, strncmp(cases[i].text, "https", 5) == 0  ? CLI_SCHEME_HTTPS
                                     : strncmp(cases[i].text, "http", 4) == 0 ? CLI_SCHEME_HTTP
                                                                              : CLI_SCHEME_NONE);
            assert_int_equal(port, cases[i].port);
        }
    }
    char text[64];
    cli_addr_format("::1", 7, text, sizeof(text));
    assert_string_equal(text, "[::1]:7");
}

static void test_runs_by_a_part(void **state)
{
    struct str id = STR("01JD0000000000000000007QK2");
    (void)state;
    assert_true(cli_run_matches(id, STR("7qk2")));
    assert_true(cli_run_matches(id, STR("01JD00")));
    assert_true(cli_run_matches(id, id));
    assert_false(cli_run_matches(id, STR("QK2")));  /* too short */
    assert_false(cli_run_matches(id, STR("0000"))); /* in the middle */
    assert_false(cli_run_matches(id, STR("01JD0000000000000000007QK2X")));
}

static void test_url_escapes(void **state)
{
    (void)state;
    AUTO_BUF struct buf b = BUF_INIT(256);
    cli_escape_url(&b, STR("a/b ?&\xc3\xa4~"), false);
    assert_string_equal(buf_cstr(&b), "a%2Fb%20%3F%26%C3%A4~");
    buf_reset(&b);
    cli_escape_url(&b, STR("a/b"), true);
    assert_string_equal(buf_cstr(&b), "a/b");
}

static void exit_is(const char *text, int code, const char *why)
{
    AUTO_JSON struct json_doc *doc = NULL;
    AUTO_BUF struct buf b = BUF_INIT(4096);
    struct err e;
    assert_int_equal(json_parse(text, strlen(text), NULL, &doc, &e), 0);
    assert_true(cli_run_ended(json_root(doc)));
    assert_int_equal(cli_run_exit(json_root(doc), &b), code);
    if (why[0] == '\0') {
        assert_string_equal(buf_cstr(&b), "");
    } else {
        assert_non_null(strstr(buf_cstr(&b), why));
    }
}

static void test_exit_codes(void **state)
{
    (void)state;
    exit_is("{\"state\":\"succeeded\",\"reason\":\"exit\",\"exit_code\":0}", 0, "");
    exit_is("{\"state\":\"failed\",\"reason\":\"exit\",\"exit_code\":75}", 75, "");
    exit_is("{\"state\":\"failed\",\"reason\":\"exit\",\"exit_code\":127}", 127, "not found");
    exit_is("{\"state\":\"timed_out\",\"reason\":\"timeout\",\"signal\":9}", 124, "timed out");
    exit_is("{\"state\":\"failed\",\"reason\":\"signal\",\"signal\":6}", 134, "SIGABRT");
    exit_is("{\"state\":\"failed\",\"reason\":\"signal\",\"signal\":40}", 168, "signal 40");
    exit_is("{\"state\":\"failed\",\"reason\":\"oom\",\"signal\":9,\"exit_code\":137}", 137,
            "memory");
    exit_is("{\"state\":\"cancelled\",\"reason\":\"cancelled\"}", 130, "cancelled");
    exit_is("{\"state\":\"failed\",\"reason\":\"image\",\"detail\":\"gone\\u001b\"}", 125,
            "failed (image): gone\\x1b");
    exit_is("{\"state\":\"lost\",\"reason\":\"node_lost\"}", 125, "lost (node_lost)");
    exit_is("{\"state\":\"failed\",\"reason\":\"exit\",\"exit_code\":4711}", 125, "failed");
}

static void test_problems(void **state)
{
    struct err e;
    char code[64];
    (void)state;
    assert_int_equal(
        cli_problem(422,
                    STR("{\"detail\":\"bad\",\"code\":\"invalid_document\",\"errors\":["
                        "{\"field\":\"cpus\",\"detail\":\"too many\"},"
                        "{\"field\":\"x\\u001b\",\"detail\":\"unknown\"}]}"),
                    code, &e),
        -EREMOTEIO);
    assert_string_equal(e.text, "bad; cpus: too many; x\\x1b: unknown (422)");
    assert_string_equal(code, "invalid_document");
    (void)cli_problem(400, STR("{\"errors\":[{\"code\":\"DIGEST_INVALID\",\"message\":\"no\"}]}"),
                      code, &e);
    assert_string_equal(e.text, "no (400)");
    (void)cli_problem(502, STR("<html>"), code, &e);
    assert_non_null(strstr(e.text, "502"));
    assert_string_equal(code, "");
}

static void test_documents(void **state)
{
    struct err e;
    struct str doc;
    struct str rest = STR(" {\"a\":\"}\\\"{\"}\n---\n[{},{}]{}");
    (void)state;
    assert_int_equal(cli_documents_next(&rest, &doc, &e), 1);
    assert_true(str_eqs(doc, "{\"a\":\"}\\\"{\"}"));
    assert_int_equal(cli_documents_next(&rest, &doc, &e), 1);
    assert_true(str_eqs(doc, "[{},{}]"));
    assert_int_equal(cli_documents_next(&rest, &doc, &e), 1);
    assert_true(str_eqs(doc, "{}"));
    assert_int_equal(cli_documents_next(&rest, &doc, &e), 0);
    rest = STR("5");
    assert_int_equal(cli_documents_next(&rest, &doc, &e), -EINVAL);
    /* A broken one is handed on whole: the parser says where. */
    rest = STR("{\"a\": [}");
    assert_int_equal(cli_documents_next(&rest, &doc, &e), 1);
    assert_int_equal(doc.n, 8);
    assert_int_equal(cli_documents_next(&rest, &doc, &e), 0);
}

static void test_doctor_judges(void **state)
{
    char owner[64];
    (void)state;
    assert_true(cli_doctor_kernel_ok(STR("6.1.0-25-amd64")));
    assert_true(cli_doctor_kernel_ok(STR("6.18.44")));
    assert_true(cli_doctor_kernel_ok(STR("10.0-rc1")));
    assert_false(cli_doctor_kernel_ok(STR("6.0.19")));
    assert_false(cli_doctor_kernel_ok(STR("5.15.0")));
    assert_false(cli_doctor_kernel_ok(STR("six.one")));
    assert_false(cli_doctor_kernel_ok(STR("")));
    assert_true(cli_doctor_subid_meets(STR("a:100000:65536\nbob:1879000000:65536\n"), 1879048192,
                                       65536, owner));
    assert_string_equal(owner, "bob");
    assert_false(
        cli_doctor_subid_meets(STR("a:100000:65536\nnonsense\n:::\n"), 1879048192, 65536, owner));
    struct cli_doctor d;
    memset(&d, 0, sizeof(d));
    cli_doctor_note(&d, CLI_CHECK_CLOCK, CLI_WARN, "%s", "odd");
    assert_int_equal(cli_doctor_exit(&d), CLI_EXIT_OK);
    cli_doctor_note(&d, CLI_CHECK_OVERLAY, CLI_BAD, "%0300d", 0); /* cut, not overrun */
    assert_int_equal(strlen(d.rows[CLI_CHECK_OVERLAY].found), 255);
    assert_int_equal(cli_doctor_exit(&d), CLI_EXIT_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_safe),          cmocka_unit_test(test_ages_and_sizes),
        cmocka_unit_test(test_table),         cmocka_unit_test(test_reference_or_job),
        cmocka_unit_test(test_addresses),     cmocka_unit_test(test_runs_by_a_part),
        cmocka_unit_test(test_url_escapes),   cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_problems),      cmocka_unit_test(test_documents),
        cmocka_unit_test(test_doctor_judges),
    };
    return cmocka_run_group_tests_name("cli_text", tests, NULL, NULL);
}
