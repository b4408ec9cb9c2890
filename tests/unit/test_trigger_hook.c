#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "agent/triggers/hook.h"
#include "common/base64.h"
#include "common/buf.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

static struct trigger_hook_rule rule(const char *text)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct trigger_hook_rule r = { .kind = TRIGGER_HOOK_NONE };
    struct err e = { 0 };

    assert_int_equal(json_parse(text, strlen(text), NULL, &doc, &e), 0);
    if (trigger_hook_rule_parse(json_root(doc), &r, &e) != 0) {
        fail_msg("%s: %s", text, err_text(&e));
    }
    return r;
}

static int check(const char *kind, const char *secret, int64_t now,
                 const struct trigger_hook_header *headers, size_t n, const char *body,
                 struct trigger_hook_delivery *ret)
{
    struct trigger_hook_rule r = rule(kind);
    struct trigger_hook_delivery d = { 0 };
    struct err e = { 0 };
    struct trigger_hook_request req = {
        .headers = headers, .headers_len = n, .body = str_of(body), .now_s = now
    };
    int rc = trigger_hook_verify(&r, str_of(secret), &req, &d, &e);

    if (ret != NULL) {
        *ret = d;
    }
    return rc;
}

/* The example of GitHub's documentation, "Validating webhook deliveries". */
static void github(void **state)
{
    struct trigger_hook_header h[] = {
        { STR("X-GitHub-Delivery"), STR("72d3162e-cc78-11e3-81ab-4c9367dc0958") },
        { STR("x-hub-signature-256"),
          STR("sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17") },
    };
    struct trigger_hook_delivery d;

    (void)state;
    assert_int_equal(
        check("\"github\"", "It's a Secret to Everybody", 0, h, 2, "Hello, World!", &d), 0);
    assert_true(str_eqs(d.id, "72d3162e-cc78-11e3-81ab-4c9367dc0958"));
    assert_false(d.timed);
    assert_int_equal(
        check("\"github\"", "It's a Secret to Everybody", 0, h, 2, "Hello, World?", NULL), -EACCES);
    assert_int_equal(check("\"github\"", "another", 0, h, 2, "Hello, World!", NULL), -EACCES);
    /* While a secret is being changed both hold. */
    assert_int_equal(check("\"github\"", "new one\n It's a Secret to Everybody \n", 0, h, 2,
                           "Hello, World!", NULL),
                     0);
    assert_int_equal(
        check("\"github\"", "It's a Secret to Everybody", 0, h, 1, "Hello, World!", NULL), -EACCES);
    assert_int_equal(check("\"github\"", " \n", 0, h, 2, "Hello, World!", NULL), -EINVAL);
}

/* The example of Slack's documentation, "Verifying requests from Slack". */
static void slack(void **state)
{
    static const char body[] =
        "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id="
        "G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-"
        "collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%"
        "2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121."
        "803a0bc887a14d10d2c447fce8b6703c";
    struct trigger_hook_header h[] = {
        { STR("X-Slack-Request-Timestamp"), STR("1531420618") },
        { STR("X-Slack-Signature"),
          STR("v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503") },
    };
    static const char secret[] = "8f742231b10e8888abcd99yyyzzz85a5";

    (void)state;
    assert_int_equal(check("\"slack\"", secret, 1531420618 + 299, h, 2, body, NULL), 0);
    assert_int_equal(check("\"slack\"", secret, 1531420618 + 301, h, 2, body, NULL), -ESTALE);
    assert_int_equal(check("\"slack\"", secret, 1531420618 - 301, h, 2, body, NULL), -ESTALE);
    h[0].value = STR("1531420619");
    assert_int_equal(check("\"slack\"", secret, 1531420618, h, 2, body, NULL), -EACCES);
}

/* The example of the Standard Webhooks libraries. */
static void standard(void **state)
{
    struct trigger_hook_header h[] = {
        { STR("webhook-id"), STR("msg_p5jXN8AQM9LWM0D4loKWxJek") },
        { STR("webhook-timestamp"), STR("1614265330") },
        { STR("webhook-signature"), STR("v1,bm9ldHUjKzFob2VudXRob2VodWUzMjRvdWVvdW9ldQo= "
                                        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=") },
    };
    static const char secret[] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    struct trigger_hook_delivery d;

    (void)state;
    assert_int_equal(check("\"standard\"", secret, 1614265330, h, 3, "{\"test\": 2432232314}", &d),
                     0);
    assert_true(str_eqs(d.id, "msg_p5jXN8AQM9LWM0D4loKWxJek"));
    assert_true(d.timed);
    assert_int_equal(
        check("\"standard\"", secret, 1614265330, h, 3, "{\"test\": 2432232315}", NULL), -EACCES);
    assert_int_equal(
        check("\"standard\"", secret, 1700000000, h, 3, "{\"test\": 2432232314}", NULL), -ESTALE);
    /* A key that is no base64 is our mistake, not the sender's. */
    assert_int_equal(
        check("\"standard\"", "whsec_*", 1614265330, h, 3, "{\"test\": 2432232314}", NULL),
        -EINVAL);
}

/* RFC 8032, 7.1, the first test: the empty message. */
static void ed25519(void **state)
{
    uint8_t key[32];
    uint8_t signature[64];

    (void)state;
    assert_int_equal(
        str_unhex(STR("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"), key, 32),
        0);
    assert_int_equal(
        str_unhex(STR("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
                      "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
                  signature, 64),
        0);
    assert_true(digest_ed25519_ok(key, signature, STR("")));
    assert_false(digest_ed25519_ok(key, signature, STR("x")));
    signature[0] ^= 1;
    assert_false(digest_ed25519_ok(key, signature, STR("")));
}

static const char *const generic =
    "{\"kind\":\"hmac\",\"header\":\"X-Sign\",\"algorithm\":\"sha512\",\"encoding\":\"base64\","
    "\"prefix\":\"s=\",\"signed\":[\"header:X-Time\",\".\",\"body\"],\"time_header\":\"X-Time\","
    "\"id_header\":\"X-Id\",\"tolerance\":\"1m\"}";

static void what_is_signed_is_accepted(void **state)
{
    static const char *const kinds[] = { "\"github\"",   "\"gitlab\"", "\"stripe\"", "\"slack\"",
                                         "\"standard\"", "\"bearer\"", NULL };
    struct rng r;

    (void)state;
    rng_init(&r, test_seed("hook"));
    for (size_t i = 0; i < 2000; i++) {
        const char *kind = kinds[i % ARRAY_LEN(kinds)];
        struct trigger_hook_rule how = rule(kind != NULL ? kind : generic);
        AUTO_BUF struct buf lines = BUF_INIT(4096);
        char body[64];
        size_t n = (size_t)rng_below(&r, sizeof body);
        for (size_t k = 0; k < n; k++) {
            body[k] = (char)rng_u64(&r);
        }
        struct err e = { 0 };
        assert_int_equal(trigger_hook_sign(&how, STR("s3cret"), STR("id-1"), 1700000000,
                                           (struct str){ body, n }, &lines, &e),
                         0);
        struct trigger_hook_header h[4];
        size_t h_len = 0;
        struct str rest = buf_str(&lines);
        struct str line;
        while (str_split(&rest, '\n', &line)) {
            line = str_trim(line);
            size_t colon = (size_t)str_find(line, ':');
            h[h_len++] = (struct trigger_hook_header){ str_slice(line, 0, colon),
                                                       str_slice(line, colon + 2, line.n) };
        }
        struct trigger_hook_request req = {
            .headers = h, .headers_len = h_len, .body = { body, n }, .now_s = 1700000030
        };
        struct trigger_hook_delivery d;
        assert_int_equal(trigger_hook_verify(&how, STR("s3cret"), &req, &d, &e), 0);
        /* One bit of the body is enough to refuse it, where the body is signed. */
        if (n != 0 && how.kind != TRIGGER_HOOK_GITLAB && how.kind != TRIGGER_HOOK_BEARER) {
            body[rng_below(&r, n)] ^= (char)(1 << rng_below(&r, 7));
            assert_int_equal(trigger_hook_verify(&how, STR("s3cret"), &req, &d, &e), -EACCES);
        } else {
            assert_int_equal(trigger_hook_verify(&how, STR("s3cret2"), &req, &d, &e), -EACCES);
        }
    }
}

static void rules_read_back(void **state)
{
    AUTO_BUF struct buf out = BUF_INIT(4096);
    AUTO_BUF struct buf again = BUF_INIT(4096);
    struct json_w w;
    struct trigger_hook_rule r = rule(generic);

    (void)state;
    json_w_init(&w, &out, false);
    trigger_hook_rule_to_json(&w, &r);
    r = rule(buf_cstr(&out));
    json_w_init(&w, &again, false);
    trigger_hook_rule_to_json(&w, &r);
    assert_string_equal(buf_cstr(&out), buf_cstr(&again));
    assert_int_equal(r.tolerance_s, 60);
    assert_int_equal(r.parts_len, 3);
}

static void bad_rules_are_named(void **state)
{
    static const struct {
        const char *text;
        const char *says;
    } rows[] = {
        { "\"gitea\"", "one of none, github" },
        { "{\"header\":\"X\"}", "kind is missing" },
        { "{\"kind\":\"hmac\"}", "header is missing" },
        { "{\"kind\":\"hmac\",\"header\":\"a b\"}", "not the name of a header" },
        { "{\"kind\":\"hmac\",\"header\":\"X\",\"signed\":[\"x\"]}", "part \"body\"" },
        { "{\"kind\":\"hmac\",\"header\":\"X\",\"time_header\":\"T\"}", "among the parts" },
        { "{\"kind\":\"github\",\"prefix\":\"x\"}", "\"hmac\" only" },
        { "{\"kind\":\"slack\",\"tolerance\":\"2d\"}", "tolerance must be" },
        { "{\"kind\":\"hmac\",\"header\":\"X\",\"algorithm\":\"md5\"}", "sha1, sha256, sha512" },
        { "{\"kind\":\"hmac\",\"header\":\"X\",\"more\":1}", "not a member" },
        { "3", "must be one of" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        AUTO_JSON struct json_doc *doc = NULL;
        struct trigger_hook_rule r;
        struct err e = { 0 };
        assert_int_equal(json_parse(rows[i].text, strlen(rows[i].text), NULL, &doc, &e), 0);
        if (trigger_hook_rule_parse(json_root(doc), &r, &e) != -EINVAL ||
            strstr(err_text(&e), rows[i].says) == NULL) {
            fail_msg("%s: %s", rows[i].text, err_text(&e));
        }
    }
}

static void base64_both_ways(void **state)
{
    struct rng r;

    (void)state;
    rng_init(&r, test_seed("base64"));
    for (size_t n = 0; n < 200; n++) {
        AUTO_BUF struct buf out = BUF_INIT(1024);
        uint8_t bytes[200];
        uint8_t back[204];
        size_t len = 0;
        for (size_t i = 0; i < n; i++) {
            bytes[i] = (uint8_t)rng_u64(&r);
        }
        assert_int_equal(base64_encode(&out, bytes, n), 0);
        assert_int_equal(out.len, (n + 2) / 3 * 4);
        assert_int_equal(base64_read(buf_str(&out), back, sizeof back, &len), 0);
        assert_int_equal(len, n);
        assert_memory_equal(back, bytes, n);
    }
    uint8_t dst[8];
    size_t len;
    assert_int_equal(base64_read(STR("AAB="), dst, sizeof dst, &len), -EINVAL); /* stray bits */
    assert_int_equal(base64_read(STR("A"), dst, sizeof dst, &len), -EINVAL);
    assert_int_equal(base64_read(STR("AA A"), dst, sizeof dst, &len), -EINVAL);
    assert_int_equal(base64_read(STR("-_8"), dst, sizeof dst, &len), 0);
    assert_int_equal(base64_read(STR("AAAAAAAAAAAA"), dst, sizeof dst, &len), -ENOBUFS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(github),
        cmocka_unit_test(slack),
        cmocka_unit_test(standard),
        cmocka_unit_test(ed25519),
        cmocka_unit_test(what_is_signed_is_accepted),
        cmocka_unit_test(rules_read_back),
        cmocka_unit_test(bad_rules_are_named),
        cmocka_unit_test(base64_both_ways),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
