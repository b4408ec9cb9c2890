/* Call-backs out: documents, URLs, the schedule, signatures, addresses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/triggers/callback.h"
#include "agent/triggers/cloudevent.h"
#include "agent/triggers/hook.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

static int parse(const char *text, struct trigger_callbacks *ret, char field[64], struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;

    assert_int_equal(json_parse(text, strlen(text), NULL, &doc, e), 0);
    return trigger_callbacks_parse(json_root(doc), ret, field, e);
}

static void documents(void **state)
{
    struct trigger_callbacks list;
    struct err e = { 0 };
    char field[64];

    (void)state;
    assert_int_equal(parse("[{\"url\":\"https://example.org/a?b=c\",\"secret\":\"cb\"},"
                           "{\"url\":\"http://[2001:db8::1]:81\",\"on\":\"failed\"},"
                           "{\"url\":\"http://h\",\"on\":[\"failed\",\"succeeded\"]}]",
                           &list, field, &e),
                     0);
    assert_int_equal(list.n, 3);
    assert_string_equal(list.items[0].url, "https://example.org/a?b=c");
    assert_string_equal(list.items[0].secret, "cb");
    assert_int_equal(list.items[0].on, TRIGGER_CALLBACK_ENDED);
    assert_int_equal(list.items[1].on, TRIGGER_CALLBACK_FAILED);
    assert_int_equal(list.items[2].on, TRIGGER_CALLBACK_ENDED);
    assert_int_equal(parse("[]", &list, field, &e), 0);
    assert_int_equal(list.n, 0);
}

static void bad_documents_are_named(void **state)
{
    static const struct {
        const char *text, *field, *says;
    } rows[] = {
        { "{}", "callbacks", "array of at most 8" },
        { "[1]", "callbacks[0]", "must be an object" },
        { "[{}]", "callbacks[0].url", "is missing" },
        { "[{\"url\":\"http://a\"},{\"url\":7}]", "callbacks[1].url", "must be a string" },
        { "[{\"url\":\"ftp://a\"}]", "callbacks[0].url", "http://" },
        { "[{\"url\":\"http://\"}]", "callbacks[0].url", "host name" },
        { "[{\"url\":\"http://u:p@h/\"}]", "callbacks[0].url", "user or password" },
        { "[{\"url\":\"http://h/#x\"}]", "callbacks[0].url", "fragment" },
        { "[{\"url\":\"http://h:0/\"}]", "callbacks[0].url", "1 to 65535" },
        { "[{\"url\":\"http://h:65536/\"}]", "callbacks[0].url", "1 to 65535" },
        { "[{\"url\":\"http://h:/\"}]", "callbacks[0].url", "1 to 65535" },
        { "[{\"url\":\"http://[::1/\"}]", "callbacks[0].url", "brackets" },
        { "[{\"url\":\"http://[::1]x/\"}]", "callbacks[0].url", "brackets" },
        { "[{\"url\":\"http://h/\xc3\xa4\"}]", "callbacks[0].url", "ASCII" },
        { "[{\"url\":\"http://h/a b\"}]", "callbacks[0].url", "blanks" },
        { "[{\"url\":\"http://h\",\"secret\":\"\"}]", "callbacks[0].secret", "name of a secret" },
        { "[{\"url\":\"http://h\",\"on\":\"started\"}]", "callbacks[0].on", "succeeded" },
        { "[{\"url\":\"http://h\",\"on\":[]}]", "callbacks[0].on", "empty" },
        { "[{\"url\":\"http://h\",\"retries\":3}]", "callbacks[0]", "not a member" },
        { "[1,1,1,1,1,1,1,1,1]", "callbacks", "at most 8" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct trigger_callbacks list;
        struct err e = { 0 };
        char field[64];
        int rc = parse(rows[i].text, &list, field, &e);
        if (rc != -EINVAL || strncmp(field, rows[i].field, strlen(rows[i].field)) != 0 ||
            strstr(err_text(&e), rows[i].says) == NULL) {
            fail_msg("%s: %d, %s: %s", rows[i].text, rc, field, err_text(&e));
        }
    }
}

static void urls(void **state)
{
    static const struct {
        const char *text;
        bool tls;
        const char *host;
        unsigned port;
        const char *target;
    } rows[] = {
        { "http://Example.ORG", false, "example.org", 80, "" },
        { "https://example.org/", true, "example.org", 443, "/" },
        { "https://a.b:8443/x/y?z=%20", true, "a.b", 8443, "/x/y?z=%20" },
        { "http://h?q", false, "h", 80, "?q" },
        { "http://10.1.2.3:81/a@b", false, "10.1.2.3", 81, "/a@b" },
        { "http://[::ffff:127.0.0.1]:80/", false, "::ffff:127.0.0.1", 80, "/" },
        { "https://[2001:db8::5]/", true, "2001:db8::5", 443, "/" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct trigger_url u;
        struct err e = { 0 };
        if (trigger_callback_url(str_of(rows[i].text), &u, &e) != 0) {
            fail_msg("%s: %s", rows[i].text, err_text(&e));
        }
        assert_int_equal(u.tls, rows[i].tls);
        assert_string_equal(u.host, rows[i].host);
        assert_int_equal(u.port, rows[i].port);
        assert_true(str_eqs(u.target, rows[i].target));
    }
    char longest[TRIGGER_URL_MAX + 2];
    struct trigger_url u;
    memset(longest, 'a', sizeof longest);
    memcpy(longest, "http://h/", 9);
    assert_int_equal(trigger_callback_url((struct str){ longest, TRIGGER_URL_MAX }, &u, NULL), 0);
    assert_int_equal(trigger_callback_url((struct str){ longest, TRIGGER_URL_MAX + 1 }, &u, NULL),
                     -EINVAL);
}

/* Standard Webhooks' section "Retry schedule". */
static void the_schedule(void **state)
{
    static const uint64_t waits_s[] = { 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400 };
    struct rng r;
    uint64_t ms = 0;

    (void)state;
    rng_init(&r, test_seed("trigger_callback"));
    for (unsigned tries = 1; tries < TRIGGER_CALLBACK_TRIES; tries++) {
        uint64_t planned = waits_s[tries - 1] * 1000;
        uint64_t least = UINT64_MAX;
        uint64_t most = 0;
        for (int i = 0; i < 2000; i++) {
            assert_true(trigger_callback_next(tries, rng_u64(&r), 0, &ms));
            assert_true(ms >= planned * 9 / 10 && ms <= planned * 11 / 10);
            least = ms < least ? ms : least;
            most = ms > most ? ms : most;
        }
        /* It is spread over all of that, not bunched. */
        assert_true(least < planned * 92 / 100 && most > planned * 108 / 100);
    }
    ms = 17;
    assert_false(trigger_callback_next(TRIGGER_CALLBACK_TRIES, 0, 0, &ms));
    assert_int_equal(ms, 17);
    /* Retry-After only ever makes it later, and by a day at most. */
    assert_true(trigger_callback_next(1, 0, 600, &ms));
    assert_int_equal(ms, 600000);
    assert_true(trigger_callback_next(4, 0, 1, &ms));
    assert_true(ms >= 6480000);
    assert_true(trigger_callback_next(1, 0, UINT64_MAX, &ms));
    assert_int_equal(ms, 86400000);
}

static void verdicts(void **state)
{
    (void)state;
    assert_int_equal(trigger_callback_judge(200), TRIGGER_CALLBACK_DELIVERED);
    assert_int_equal(trigger_callback_judge(204), TRIGGER_CALLBACK_DELIVERED);
    assert_int_equal(trigger_callback_judge(299), TRIGGER_CALLBACK_DELIVERED);
    assert_int_equal(trigger_callback_judge(410), TRIGGER_CALLBACK_GONE);
    for (const int *s = (const int[]){ 0, 199, 300, 302, 404, 408, 429, 500, 503, -1 }; *s >= 0;
         s++) {
        assert_int_equal(trigger_callback_judge(*s), TRIGGER_CALLBACK_AGAIN);
    }
}

/* The vector of the specification's reference libraries. */
#define VECTOR_SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define VECTOR_ID "msg_p5jXN8AQM9LWM0D4loKWxJek"
#define VECTOR_BODY "{\"test\": 2432232314}"
#define VECTOR_SIGNATURE "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

static void signatures(void **state)
{
    AUTO_BUF struct buf out = BUF_INIT(4096);
    AUTO_BUF struct buf two = BUF_INIT(4096);
    struct err e = { 0 };

    (void)state;
    assert_int_equal(trigger_callback_sign(STR(VECTOR_SECRET), STR(VECTOR_ID), 1614265330,
                                           STR(VECTOR_BODY), &out, &e),
                     0);
    assert_string_equal(buf_cstr(&out), VECTOR_SIGNATURE);
    /* Two keys, two signatures; each key's holder finds theirs. */
    assert_int_equal(trigger_callback_sign(STR("new one\n" VECTOR_SECRET "\n"), STR(VECTOR_ID),
                                           1614265330, STR(VECTOR_BODY), &two, &e),
                     0);
    assert_non_null(strstr(buf_cstr(&two), " " VECTOR_SIGNATURE));
    assert_int_equal(strncmp(buf_cstr(&two), "v1,", 3), 0);
    const char *const secrets[] = { "new one", VECTOR_SECRET };
    for (size_t i = 0; i < ARRAY_LEN(secrets); i++) {
        const struct trigger_hook_rule rule = { .kind = TRIGGER_HOOK_STANDARD,
                                                .tolerance_s = TRIGGER_HOOK_TOLERANCE_S };
        const struct trigger_hook_header h[] = { { STR("webhook-id"), STR(VECTOR_ID) },
                                                 { STR("webhook-timestamp"), STR("1614265330") },
                                                 { STR("webhook-signature"), buf_str(&two) } };
        const struct trigger_hook_request req = {
            .headers = h, .headers_len = 3, .body = STR(VECTOR_BODY), .now_s = 1614265330
        };
        struct trigger_hook_delivery d;
        assert_int_equal(trigger_hook_verify(&rule, str_of(secrets[i]), &req, &d, &e), 0);
    }
}

static void secrets_that_cannot_sign(void **state)
{
    static const char *const bad[] = { "", "\n\n", "whpk_abcd", "whsk_abcd", "whsec_***" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        AUTO_BUF struct buf out = BUF_INIT(4096);
        struct err e = { 0 };
        assert_int_equal(trigger_callback_sign(str_of(bad[i]), STR("x"), 1, STR("{}"), &out, &e),
                         -EINVAL);
        assert_true(err_text(&e)[0] != '\0');
    }
}

static void addresses(void **state)
{
    static const struct {
        const char *text;
        bool open;
    } rows[] = {
        { "1.1.1.1", true },
        { "9.255.255.255", true },
        { "11.0.0.0", true },
        { "100.63.255.255", true },
        { "172.15.0.1", true },
        { "172.32.0.1", true },
        { "192.167.1.1", true },
        { "223.255.255.254", true },
        { "2a00:1450::5", true },
        { "2606:4700::1111", true },
        { "::ffff:1.1.1.1", true },
        { "64:ff9b::1.1.1.1", true },
        { "0.0.0.0", false },
        { "0.1.2.3", false },
        { "10.0.0.1", false },
        { "100.64.0.1", false },
        { "127.0.0.1", false },
        { "127.255.255.255", false },
        { "169.254.169.254", false },
        { "168.63.129.16", false },
        { "172.16.0.1", false },
        { "172.31.255.255", false },
        { "192.168.0.1", false },
        { "192.0.2.1", false },
        { "198.18.0.1", false },
        { "198.19.255.255", false },
        { "203.0.113.9", false },
        { "224.0.0.1", false },
        { "255.255.255.255", false },
        { "::", false },
        { "::1", false },
        { "::ffff:127.0.0.1", false },
        { "::ffff:10.0.0.1", false },
        { "::ffff:169.254.169.254", false },
        { "64:ff9b::10.0.0.1", false },
        { "64:ff9b:1::1", false },
        { "2002:7f00:1::", false },
        { "2002:a00:1::1", false },
        { "2001::1", false },
        { "2001:db8::1", false },
        { "fc00::1", false },
        { "fd00:ec2::254", false },
        { "fe80::1", false },
        { "fec0::1", false },
        { "ff02::1", false },
        { "4000::1", false },
        { "::127.0.0.1", false },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint8_t addr[16];
        bool four = egress_ip4_parse(str_of(rows[i].text), addr) == 0;
        assert_true(four || egress_ip6_parse(str_of(rows[i].text), addr) == 0);
        if (trigger_callback_public(four ? EGRESS_IP4 : EGRESS_IP6, addr) != rows[i].open) {
            fail_msg("%s is %s", rows[i].text, rows[i].open ? "closed" : "open");
        }
    }
}

/* What we send reads as what we take. */
static void an_event_of_ours(void **state)
{
    const struct trigger_event_head head = { .id = "01.1.0",
                                             .source = "/v1/nodes/a",
                                             .type = "agent.run.failed",
                                             .subject = "01",
                                             .time_us = 1764201600000000 };
    AUTO_BUF struct buf out = BUF_INIT(4096);
    AUTO_JSON struct json_doc *doc = NULL;
    struct trigger_cloudevent ev = { 0 };
    struct err e = { 0 };
    struct json_w w;

    (void)state;
    json_w_init(&w, &out, false);
    trigger_event_open(&w, &head);
    json_w_int(&w, 7);
    json_w_end(&w);
    assert_int_equal(json_parse(out.data, out.len, NULL, &doc, &e), 0);
    assert_int_equal(trigger_event_from_json(json_root(doc), &ev, &e), 0);
    assert_string_equal(trigger_event_get(&ev, "type"), "agent.run.failed");
    assert_string_equal(trigger_event_get(&ev, "source"), "/v1/nodes/a");
    assert_string_equal(trigger_event_get(&ev, "job"), "");
    assert_string_equal(buf_cstr(&ev.data), "7");
    trigger_event_release(&ev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents),
        cmocka_unit_test(bad_documents_are_named),
        cmocka_unit_test(urls),
        cmocka_unit_test(the_schedule),
        cmocka_unit_test(verdicts),
        cmocka_unit_test(signatures),
        cmocka_unit_test(secrets_that_cannot_sign),
        cmocka_unit_test(addresses),
        cmocka_unit_test(an_event_of_ours),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
