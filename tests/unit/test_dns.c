#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/dns.h"

#define BYTES(lit) (lit), sizeof(lit) - 1

/* id 0x1234, recursion desired, "Ex.org" A */
#define QUERY \
    "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02" \
    "Ex\x03org\x00\x00\x01\x00\x01"

static struct dns_question asked(void)
{
    struct dns_question q;
    assert_int_equal(dns_query_parse(BYTES(QUERY), &q), 0);
    return q;
}

static void queries(void **state)
{
    (void)state;
    struct dns_question q = asked();
    char changed[sizeof(QUERY)];
    assert_int_equal(q.id, 0x1234);
    assert_int_equal(q.type, DNS_A);
    assert_string_equal(q.name, "ex.org");
    assert_int_equal(q.end, sizeof(QUERY) - 1);
    for (size_t n = 0; n < sizeof(QUERY) - 1; n++) {
        assert_int_equal(dns_query_parse(QUERY, n, &q), -EBADMSG);
    }
    /* An answer; another operation; two questions; an answer record; another class. */
    static const struct {
        size_t at;
        char value;
    } bad[] = { { 2, (char)0x81 }, { 2, 0x29 }, { 5, 2 }, { 7, 1 }, { 23, 3 } };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memcpy(changed, QUERY, sizeof changed);
        changed[bad[i].at] = bad[i].value;
        assert_int_equal(dns_query_parse(changed, sizeof(QUERY) - 1, &q), -EBADMSG);
    }
}

static void names_end(void **state)
{
    (void)state;
    struct dns_question q;
    char m[400] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00";
    /* A pointer into the header, one to itself, and one forward. */
    memcpy(m + 12, "\xc0\x00\x00\x01\x00\x01", 6);
    assert_int_equal(dns_query_parse(m, 18, &q), -EBADMSG);
    memcpy(m + 12, "\xc0\x0c\x00\x01\x00\x01", 6);
    assert_int_equal(dns_query_parse(m, 18, &q), -EBADMSG);
    memcpy(m + 12, "\xc0\x20\x00\x01\x00\x01", 6);
    assert_int_equal(dns_query_parse(m, 60, &q), -EBADMSG);
    /* 255 characters are too many, 253 are not. */
    size_t at = 12;
    for (int i = 0; i < 3; i++) {
        m[at] = 63;
        memset(m + at + 1, 'a', 63);
        at += 64;
    }
    m[at] = 61;
    memset(m + at + 1, 'b', 61);
    memcpy(m + at + 62, "\0\0\x01\0\x01", 5);
    assert_int_equal(dns_query_parse(m, at + 67, &q), 0);
    assert_int_equal(strlen(q.name), 253);
    m[at] = 62;
    memset(m + at + 1, 'b', 62);
    memcpy(m + at + 63, "\0\0\x01\0\x01", 5);
    assert_int_equal(dns_query_parse(m, at + 68, &q), -EBADMSG);
    /* What no host name has can match no rule. */
    memcpy(m + 12,
           "\x03"
           "a.b\x00\x00\x01\x00\x01",
           9);
    assert_int_equal(dns_query_parse(m, 21, &q), 0);
    assert_string_equal(q.name, "a?b");
}

#define HEAD(answers) "\x12\x34\x81\x80\x00\x01\x00" answers "\x00\x00\x00\x00"
#define QUESTION \
    "\x02" \
    "ex\x03ORG\x00\x00\x01\x00\x01"
#define RR(type, len) "\x00" type "\x00\x01\x00\x00\x00\x05\x00" len

static size_t answers(const char *p, size_t n, struct dns_addr *dst)
{
    struct dns_question q = asked();
    size_t count = 99;
    return dns_answer_parse(p, n, &q, dst, &count) == 0 ? count : 99;
}

static void addresses(void **state)
{
    (void)state;
    struct dns_addr a[DNS_ADDRS_MAX];
    assert_int_equal(answers(BYTES(HEAD("\x00") QUESTION), a), 0);
    assert_int_equal(answers(BYTES(HEAD("\x02") QUESTION "\xc0\x0c" RR(
                                 "\x01", "\x04") "\x0a\x00\x00\x01"
                                                 "\xc0\x0c" RR("\x01", "\x04") "\x0a\x00\x00\x02"),
                             a),
                     2);
    assert_false(a[0].six);
    assert_memory_equal(a[1].addr, "\x0a\x00\x00\x02", 4);
    /* An alias, then the address of what it stands for; the address of somebody else does not
     * count. */
    assert_int_equal(
        answers(
            BYTES(HEAD("\x03") QUESTION "\xc0\x0c" RR(
                "\x05", "\x04") "\x01"
                                "a\xc0\x0f"
                                "\x01"
                                "a\xc0\x0f" RR(
                                    "\x01", "\x04") "\x0a\x00\x00\x03"
                                                    "\x01"
                                                    "b\x00" RR("\x01", "\x04") "\x0a\x00\x00\x04"),
            a),
        1);
    assert_memory_equal(a[0].addr, "\x0a\x00\x00\x03", 4);
    assert_int_equal(answers(BYTES(HEAD("\x01") QUESTION "\xc0\x0c" RR(
                                 "\x1c", "\x10") "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"),
                             a),
                     1);
    assert_true(a[0].six);
}

static void what_is_no_answer(void **state)
{
    (void)state;
    struct dns_addr a[DNS_ADDRS_MAX];
    static const char good[] =
        HEAD("\x01") QUESTION "\xc0\x0c" RR("\x01", "\x04") "\x0a\x00\x00\x01";
    assert_int_equal(answers(BYTES(good), a), 1);
    for (size_t n = 0; n < sizeof(good) - 1; n++) {
        assert_int_equal(answers(good, n, a), 99);
    }
    assert_int_equal(answers(BYTES(QUERY), a), 99);
    assert_int_equal(answers(BYTES(HEAD("\x00") "\x02"
                                                "ey\x03org\x00\x00\x01\x00\x01"),
                             a),
                     99);
    assert_int_equal(answers(BYTES(HEAD("\x00") "\x02"
                                                "ex\x03org\x00\x00\x1c\x00\x01"),
                             a),
                     99);
    assert_int_equal(
        answers(BYTES(HEAD("\x01") QUESTION "\xc0\x0c" RR("\x01", "\x03") "\x0a\0\0"), a), 99);
}

static void errors(void **state)
{
    (void)state;
    struct dns_question q = asked();
    struct dns_addr a[DNS_ADDRS_MAX];
    uint8_t m[DNS_MESSAGE_MAX];
    size_t n = dns_error(QUERY, &q, DNS_SERVFAIL, m);
    assert_int_equal(n, sizeof(QUERY) - 1);
    assert_int_equal(m[2], 0x81);
    assert_int_equal(m[3], 0x82);
    assert_int_equal(answers((const char *)m, n, a), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queries),   cmocka_unit_test(names_end),
        cmocka_unit_test(addresses), cmocka_unit_test(what_is_no_answer),
        cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
