/* Web hooks: the first line is a rule ("verify" of a document), the second the secret, then
 * headers, an empty line, the body. A rule that is accepted reads again from its normal form; what
 * came is judged twice the same; what we sign ourselves is genuine, and is not with another body.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "agent/triggers/hook.h"
#include "common/buf.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEADERS_MAX = 32 };
#define NOW_S INT64_C(1614265330)

static size_t headers_of(struct str *in, char sep, struct trigger_hook_header dst[HEADERS_MAX])
{
    struct str line;
    size_t n = 0;

    while (n < HEADERS_MAX && str_split(in, sep, &line) && str_trim(line).n != 0) {
        ptrdiff_t colon = str_find(line, ':');
        if (colon > 0) {
            dst[n++] = (struct trigger_hook_header){
                str_slice(line, 0, (size_t)colon),
                str_trim(str_slice(line, (size_t)colon + 1, line.n)),
            };
        }
    }
    return n;
}

static bool rule_of(struct str text, struct trigger_hook_rule *ret)
{
    AUTO_JSON struct json_doc *doc = NULL;
    AUTO_JSON struct json_doc *doc_again = NULL;
    AUTO_BUF struct buf normal = BUF_INIT(1 << 16);
    AUTO_BUF struct buf twice = BUF_INIT(1 << 16);
    struct trigger_hook_rule other = { 0 };
    struct err e = { 0 };
    struct json_w w;

    memset(ret, 0, sizeof *ret);
    if (json_parse(text.p, text.n, NULL, &doc, &e) != 0 ||
        trigger_hook_rule_parse(json_root(doc), ret, &e) != 0) {
        INSIST(err_text(&e)[0] != '\0');
        return false;
    }
    json_w_init(&w, &normal, false);
    trigger_hook_rule_to_json(&w, ret);
    INSIST(json_parse(normal.data, normal.len, NULL, &doc_again, &e) == 0);
    INSIST(trigger_hook_rule_parse(json_root(doc_again), &other, &e) == 0);
    json_w_init(&w, &twice, false);
    trigger_hook_rule_to_json(&w, &other);
    INSIST(str_eq(buf_str(&normal), buf_str(&twice)));
    return true;
}

/* Does the signature say something of the body? */
static bool signs_body(const struct trigger_hook_rule *r)
{
    bool body = r->parts_len == 0;

    for (size_t i = 0; i < r->parts_len; i++) {
        body = body || r->parts[i].kind == TRIGGER_PART_BODY;
    }
    return r->kind != TRIGGER_HOOK_NONE && r->kind != TRIGGER_HOOK_GITLAB &&
           r->kind != TRIGGER_HOOK_BEARER && (r->kind != TRIGGER_HOOK_HMAC || body);
}

static void own(const struct trigger_hook_rule *r, struct str secret, struct str body)
{
    AUTO_BUF struct buf lines = BUF_INIT(1 << 16);
    AUTO_BUF struct buf longer = BUF_INIT(1 << 20);
    struct trigger_hook_header headers[HEADERS_MAX];
    struct trigger_hook_delivery d;
    struct err e = { 0 };
    struct str rest;

    if (r->kind != TRIGGER_HOOK_STANDARD && r->kind != TRIGGER_HOOK_GITHUB &&
        r->kind != TRIGGER_HOOK_STRIPE && r->kind != TRIGGER_HOOK_SLACK) {
        return;
    }
    if (trigger_hook_sign(r, secret, STR("msg_1"), NOW_S, body, &lines, &e) != 0) {
        return;
    }
    rest = buf_str(&lines);
    struct trigger_hook_request req = { .headers = headers, .body = body, .now_s = NOW_S };
    req.headers_len = headers_of(&rest, '\n', headers);
    INSIST(trigger_hook_verify(r, secret, &req, &d, &e) == 0);
    INSIST(buf_addstr(&longer, body) == 0 && buf_addc(&longer, '!') == 0);
    req.body = buf_str(&longer);
    INSIST(!signs_body(r) || trigger_hook_verify(r, secret, &req, &d, &e) == -EACCES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct trigger_hook_header headers[HEADERS_MAX];
    struct trigger_hook_rule r;
    struct trigger_hook_delivery d = { 0 };
    struct str in = { (const char *)data, size };
    struct str rule = { 0 };
    struct str secret = { 0 };
    struct err e = { 0 };

    (void)str_split(&in, '\n', &rule);
    (void)str_split(&in, '\n', &secret);
    if (!rule_of(rule, &r)) {
        return 0;
    }
    size_t n = headers_of(&in, '\n', headers);
    const struct trigger_hook_request req = {
        .headers = headers, .headers_len = n, .body = in, .now_s = NOW_S
    };
    int rc = trigger_hook_verify(&r, secret, &req, &d, &e);
    INSIST(rc == 0 || rc == -EACCES || rc == -ESTALE || rc == -EINVAL);
    INSIST(rc == 0 || err_text(&e)[0] != '\0');
    INSIST(trigger_hook_verify(&r, secret, &req, &d, &e) == rc);
    own(&r, secret, in);
    return 0;
}
