#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/egress.h"

static struct egress_rule good(const char *text)
{
    struct egress_rule r;
    struct err e = { .code = 0 };
    memset(&r, 0xee, sizeof r);
    if (egress_parse(str_of(text), &r, &e) != 0) {
        fail_msg("'%s': %s", text, e.text);
    }
    if (r.net.kind != EGRESS_NAME) {
        assert_true(egress_net_ok(&r.net));
    } else {
        assert_false(egress_net_ok(&r.net));
    }
    return r;
}

#define HOST(lit) (lit), sizeof(lit) - 1

static const struct {
    const char *text;
    uint8_t kind, prefix, proto;
    uint16_t first, last;
    const char *host; /* bytes of the address, or the name */
    size_t host_len;
} rules[] = {
    { "*", EGRESS_ALL, 0, 0, 0, 0, HOST("") },
    { "*:443", EGRESS_ALL, 0, 0, 443, 443, HOST("") },
    { "*:53/udp", EGRESS_ALL, 0, EGRESS_UDP, 53, 53, HOST("") },
    { "*/tcp", EGRESS_ALL, 0, EGRESS_TCP, 0, 0, HOST("") },
    { "10.0.0.0/8:5432", EGRESS_IP4, 8, 0, 5432, 5432, HOST("\x0a\0\0") },
    { "10.1.2.3", EGRESS_IP4, 32, 0, 0, 0, HOST("\x0a\x01\x02\x03") },
    { "10.1.2.3:*", EGRESS_IP4, 32, 0, 0, 0, HOST("\x0a\x01\x02\x03") },
    { "0.0.0.0/0:80", EGRESS_IP4, 0, 0, 80, 80, HOST("") },
    { "10.1.2.3:8000-8099/tcp", EGRESS_IP4, 32, EGRESS_TCP, 8000, 8099, HOST("\x0a\x01\x02\x03") },
    { "255.255.255.255:1-65535", EGRESS_IP4, 32, 0, 1, 65535, HOST("\xff\xff\xff\xff") },
    { "[2001:db8::/32]:443", EGRESS_IP6, 32, 0, 443, 443, HOST("\x20\x01\x0d\xb8") },
    { "2001:db8::/32", EGRESS_IP6, 32, 0, 0, 0, HOST("\x20\x01\x0d\xb8") },
    { "2001:db8::/32/udp", EGRESS_IP6, 32, EGRESS_UDP, 0, 0, HOST("\x20\x01\x0d\xb8") },
    { "[::]", EGRESS_IP6, 128, 0, 0, 0, HOST("") },
    { "::/0", EGRESS_IP6, 0, 0, 0, 0, HOST("") },
    { "[FD00::1]:1", EGRESS_IP6, 128, 0, 1, 1, HOST("\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01") },
    { "[64:ff9b::192.0.2.1]:1", EGRESS_IP6, 128, 0, 1, 1,
      HOST("\0\x64\xff\x9b\0\0\0\0\0\0\0\0\xc0\0\x02\x01") },
    { "1:2:3:4:5:6:7:8", EGRESS_IP6, 128, 0, 0, 0,
      HOST("\0\x01\0\x02\0\x03\0\x04\0\x05\0\x06\0\x07\0\x08") },
    { "example.org:443", EGRESS_NAME, 0, 0, 443, 443, HOST("example.org") },
    { "EXAMPLE.org.:443", EGRESS_NAME, 0, 0, 443, 443, HOST("example.org") },
    { "*.Example.org:443/tcp", EGRESS_NAME, 0, EGRESS_TCP, 443, 443, HOST("*.example.org") },
    { "db", EGRESS_NAME, 0, 0, 0, 0, HOST("db") },
    { "_x-y.4a:1", EGRESS_NAME, 0, 0, 1, 1, HOST("_x-y.4a") },
};

static void rules_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        struct egress_rule r = good(rules[i].text);
        char addr[17] = { 0 };
        assert_int_equal(r.net.kind, rules[i].kind);
        assert_int_equal(r.net.prefix, rules[i].prefix);
        assert_int_equal(r.net.proto, rules[i].proto);
        assert_int_equal(r.net.port_first, rules[i].first);
        assert_int_equal(r.net.port_last, rules[i].last);
        if (r.net.kind == EGRESS_NAME) {
            assert_string_equal(r.name, rules[i].host);
            continue;
        }
        memcpy(addr, rules[i].host, rules[i].host_len);
        assert_memory_equal(r.net.addr, addr, 16);
    }
}

static const struct {
    const char *text;
    const char *says;
} bad[] = {
    { "", "host[:ports]" },
    { " example.org", "DNS name" },
    { "example.org:0", "1 to 65535" },
    { "example.org:65536", "1 to 65535" },
    { "example.org:", "1 to 65535" },
    { "example.org:80-", "1 to 65535" },
    { "example.org:90-80", "1 to 65535" },
    { "example.org:+80", "1 to 65535" },
    { "example.org:080", "1 to 65535" },
    { "example.org:80,81", "1 to 65535" },
    { "example.org:80/sctp", "1 to 65535" },
    { "http://example.org", "1 to 65535" },
    { "example..org", "DNS name" },
    { ".example.org", "DNS name" },
    { "-x.org", "DNS name" },
    { "x-.org", "DNS name" },
    { "a b", "DNS name" },
    { "*.*.org", "DNS name" },
    { "a.*.org", "DNS name" },
    { "**", "DNS name" },
    { "*.", "DNS name" },
    { "x.999", "ends with a number" },
    { "10.0.0", "ends with a number" },
    { "256.0.0.1", "ends with a number" },
    { "01.0.0.1", "ends with a number" },
    { "10.0.0.1/8", "behind its prefix of 8" },
    { "10.0.0.0/33", "0 to 32" },
    { "10.0.0.0/", "0 to 32" },
    { "10.0.0.0/08", "0 to 32" },
    { "example.org/8", "not an IPv4 or IPv6 address" },
    { "2001:db8::1/32", "behind its prefix of 32" },
    { "[2001:db8::1", "no ']'" },
    { "[2001:db8::1]443", "':' and ports" },
    { "[2001:db8::1]:", "1 to 65535" },
    { "[10.0.0.1]:80", "only IPv6" },
    { "[example.org]:80", "not an IPv4 or IPv6 address" },
    { "[]", "not an IPv4 or IPv6 address" },
    { ":::", "not an IPv4 or IPv6 address" },
    { "1::2::3", "not an IPv4 or IPv6 address" },
    { "1:2:3:4:5:6:7", "not an IPv4 or IPv6 address" },
    { "1:2:3:4:5:6:7:8:9", "not an IPv4 or IPv6 address" },
    { "1:2:3:4:5:6:7::8", "not an IPv4 or IPv6 address" },
    { "12345::", "not an IPv4 or IPv6 address" },
    { "::1%eth0", "not an IPv4 or IPv6 address" },
    { "::ffff:10.0.0.1", "write it as IPv4" },
    { "::/129", "0 to 128" },
};

static void what_is_no_rule(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct egress_rule r;
        struct egress_rule before;
        struct err e = { .code = 0 };
        memset(&r, 0x5a, sizeof r);
        before = r;
        if (egress_parse(str_of(bad[i].text), &r, &e) != -EINVAL ||
            strstr(e.text, bad[i].says) == NULL) {
            fail_msg("'%s': %s", bad[i].text, e.text);
        }
        assert_memory_equal(&r, &before, sizeof r);
    }
    char longer[400];
    struct egress_rule r;
    memset(longer, 'a', sizeof longer);
    assert_int_equal(egress_parse((struct str){ longer, 254 }, &r, NULL), -EINVAL);
    assert_int_equal(egress_parse((struct str){ longer, sizeof longer }, &r, NULL), -EINVAL);
    assert_int_equal(egress_parse((struct str){ "a\0b", 3 }, &r, NULL), -EINVAL);
}

static void names_match(void **state)
{
    (void)state;
    struct egress_rule one = good("example.org");
    struct egress_rule below = good("*.example.org:443");
    struct egress_rule net = good("10.0.0.0/8");
    assert_true(egress_name_matches(&one, STR("example.org")));
    assert_false(egress_name_matches(&one, STR("a.example.org")));
    assert_false(egress_name_matches(&one, STR("example.or")));
    assert_true(egress_name_matches(&below, STR("a.example.org")));
    assert_true(egress_name_matches(&below, STR("a.b.example.org")));
    assert_false(egress_name_matches(&below, STR("example.org")));
    assert_false(egress_name_matches(&below, STR("xexample.org")));
    assert_false(egress_name_matches(&below, STR(".example.org")));
    assert_false(egress_name_matches(&net, STR("10.0.0.0")));
}

static void networks_hold(void **state)
{
    (void)state;
    static const uint8_t a4[] = { 10, 200, 0, 1 };
    static const uint8_t b4[] = { 11, 200, 0, 1 };
    static const uint8_t a6[16] = { 0x20, 0x01, 0x0d, 0xb8, 0xff };
    struct egress_rule r = good("10.0.0.0/8");
    assert_true(egress_net_holds(&r.net, EGRESS_IP4, a4));
    assert_false(egress_net_holds(&r.net, EGRESS_IP4, b4));
    assert_false(egress_net_holds(&r.net, EGRESS_IP6, a6));
    r = good("2001:db8:8000::/33");
    assert_false(egress_net_holds(&r.net, EGRESS_IP6, (const uint8_t[16]){ 0x20, 1, 0xd, 0xb8 }));
    assert_true(
        egress_net_holds(&r.net, EGRESS_IP6, (const uint8_t[16]){ 0x20, 1, 0xd, 0xb8, 0xff, 1 }));
    r = good("*:80");
    assert_true(egress_net_holds(&r.net, EGRESS_IP6, a6));
}

static void destinations_from_outside(void **state)
{
    (void)state;
    struct egress_net n = good("10.0.0.0/8:80").net;
    struct egress_net m = n;
    assert_true(egress_net_ok(&m));
    m.addr[1] = 1;
    assert_false(egress_net_ok(&m));
    m = n;
    m.addr[9] = 1;
    assert_false(egress_net_ok(&m));
    m = n;
    m.prefix = 33;
    assert_false(egress_net_ok(&m));
    m = n;
    m.proto = 1;
    assert_false(egress_net_ok(&m));
    m = n;
    m.port_first = 0;
    assert_false(egress_net_ok(&m));
    m = n;
    m.port_first = 81;
    assert_false(egress_net_ok(&m));
    m = n;
    m.kind = 0;
    assert_false(egress_net_ok(&m));
    m.kind = 5;
    assert_false(egress_net_ok(&m));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_are_read),
        cmocka_unit_test(what_is_no_rule),
        cmocka_unit_test(names_match),
        cmocka_unit_test(networks_hold),
        cmocka_unit_test(destinations_from_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
