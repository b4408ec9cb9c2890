/* Certificates: what is made can be read, is what was asked for, and nothing else is made. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <time.h>

#include "tests/lib/certs.h"

static void test_authority(void **state)
{
    (void)state;
    struct certs_pair ca;
    struct sys_cert_info info;
    struct err e = { .code = 0 };
    certs_ca(&ca, "cluster");
    assert_int_equal(sys_cert_read(buf_str(&ca.cert), 0, &info, &e), 0);
    assert_true(info.is_ca);
    assert_string_equal(info.name, "cluster");
    assert_string_equal(info.issuer, "cluster");
    assert_int_equal(strlen(info.serial), 40);
    int64_t now = (int64_t)time(NULL);
    assert_true(info.not_before_s < now - 3500 && info.not_after_s > now + 29 * 86400);
    assert_true(sys_cert_matches(buf_str(&ca.cert), buf_str(&ca.key)));
    assert_int_equal(sys_cert_read(buf_str(&ca.cert), 1, &info, &e), -ENOENT);
    assert_int_equal(sys_cert_read(buf_str(&ca.key), 0, &info, &e), -EINVAL);
    assert_int_equal(sys_cert_read(STR(""), 0, &info, &e), -EINVAL);
    certs_release(&ca);
}

static void test_issued(void **state)
{
    (void)state;
    struct certs_pair ca, a, b;
    struct sys_cert_info info, other;
    struct err e = { .code = 0 };
    const char *const sans[] = { "10.1.2.3", "fe80::7", "node-a.example" };
    const struct sys_cert_request r = {
        .name = "node-a", .sans = sans, .sans_len = 3, .days = 100000
    };
    certs_ca(&ca, "cluster");
    a = (struct certs_pair){ BUF_INIT(SYS_CERT_PEM_MAX), BUF_INIT(SYS_CERT_PEM_MAX) };
    assert_int_equal(sys_cert_issue(buf_str(&ca.cert), buf_str(&ca.key), &r, &a.cert, &a.key, &e),
                     0);
    assert_int_equal(sys_cert_read(buf_str(&a.cert), 0, &info, &e), 0);
    assert_false(info.is_ca);
    assert_string_equal(info.name, "node-a");
    assert_string_equal(info.issuer, "cluster");
    assert_string_equal(info.sans, "node-a, 10.1.2.3, fe80:0:0:0:0:0:0:7, node-a.example");
    assert_true(sys_cert_matches(buf_str(&a.cert), buf_str(&a.key)));
    assert_false(sys_cert_matches(buf_str(&a.cert), buf_str(&ca.key)));
    /* It never outlives its authority. */
    assert_int_equal(sys_cert_read(buf_str(&ca.cert), 0, &other, &e), 0);
    assert_int_equal(info.not_after_s, other.not_after_s);
    certs_issue(&b, &ca, "node-a", NULL, 1);
    assert_int_equal(sys_cert_read(buf_str(&b.cert), 0, &other, &e), 0);
    assert_string_not_equal(info.serial, other.serial);
    certs_release(&ca);
    certs_release(&a);
    certs_release(&b);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const names[] = {
        "",
        "-a",
        ".a",
        "a b",
        "a,DNS:evil",
        "a\n",
        "caf\xc3\xa9",
        "*",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    };
    struct certs_pair ca, other, out;
    struct err e = { .code = 0 };
    certs_ca(&ca, "cluster");
    certs_ca(&other, "another");
    out = (struct certs_pair){ BUF_INIT(SYS_CERT_PEM_MAX), BUF_INIT(SYS_CERT_PEM_MAX) };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct sys_cert_request r = { .name = names[i], .days = 1 };
        assert_int_equal(
            sys_cert_issue(buf_str(&ca.cert), buf_str(&ca.key), &r, &out.cert, &out.key, &e),
            -EINVAL);
        r = (struct sys_cert_request){ .name = "a", .sans = &names[i], .sans_len = 1, .days = 1 };
        assert_int_equal(
            sys_cert_issue(buf_str(&ca.cert), buf_str(&ca.key), &r, &out.cert, &out.key, &e),
            -EINVAL);
        assert_int_equal(sys_cert_ca(names[i], 1, &out.cert, &out.key, &e), -EINVAL);
    }
    const struct sys_cert_request r = { .name = "a", .days = 1 };
    assert_int_equal(
        sys_cert_issue(buf_str(&ca.cert), buf_str(&other.key), &r, &out.cert, &out.key, &e),
        -EINVAL);
    assert_non_null(strstr(e.text, "not its certificate's"));
    assert_int_equal(sys_cert_issue(STR("x"), buf_str(&ca.key), &r, &out.cert, &out.key, &e),
                     -EINVAL);
    assert_int_equal(sys_cert_issue(buf_str(&ca.cert), STR("x"), &r, &out.cert, &out.key, &e),
                     -EINVAL);
    assert_int_equal(out.cert.len + out.key.len, 0);
    certs_release(&ca);
    certs_release(&other);
    certs_release(&out);
}

static void test_lists(void **state)
{
    (void)state;
    struct certs_pair ca, a;
    struct sys_cert_info info;
    struct sys_cert_revoked bad = { .serial = "no hex", .at_s = 1 };
    struct buf crl = BUF_INIT(SYS_CERT_PEM_MAX);
    struct err e = { .code = 0 };
    certs_ca(&ca, "cluster");
    certs_issue(&a, &ca, "a", NULL, 1);
    assert_int_equal(sys_cert_read(buf_str(&a.cert), 0, &info, &e), 0);
    struct sys_cert_revoked one = { .at_s = 1700000000 };
    memcpy(one.serial, info.serial, sizeof(one.serial));
    assert_int_equal(sys_cert_crl(buf_str(&ca.cert), buf_str(&ca.key), &one, 1, &crl, &e), 0);
    assert_non_null(strstr(buf_cstr(&crl), "BEGIN X509 CRL"));
    size_t before = crl.len;
    assert_int_equal(sys_cert_crl(buf_str(&ca.cert), buf_str(&ca.key), &bad, 1, &crl, &e), -EINVAL);
    assert_int_equal(crl.len, before);
    certs_release(&ca);
    certs_release(&a);
    buf_release(&crl);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_authority),
        cmocka_unit_test(test_issued),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
