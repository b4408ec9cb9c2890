#include "agent/triggers/hook.h"

#include <errno.h>
#include <stdio.h>

#include "agent/triggers/triggers_internal.h"
#include "common/base64.h"
#include "common/insist.h"

static const char *const kind_names[] = {
    [TRIGGER_HOOK_NONE] = "none",     [TRIGGER_HOOK_GITHUB] = "github",
    [TRIGGER_HOOK_GITLAB] = "gitlab", [TRIGGER_HOOK_STRIPE] = "stripe",
    [TRIGGER_HOOK_SLACK] = "slack",   [TRIGGER_HOOK_STANDARD] = "standard",
    [TRIGGER_HOOK_HMAC] = "hmac",     [TRIGGER_HOOK_BEARER] = "bearer",
};

enum { SECRET_BYTES_MAX = 512, PIECES_MAX = TRIGGER_HOOK_PARTS_MAX };

const char *trigger_hook_kind_name(enum trigger_hook_kind kind)
{
    REQUIRE((size_t)kind < ARRAY_LEN(kind_names));
    return kind_names[kind];
}

/* What one sender signs, and where it puts it. */
struct scheme {
    enum hmac_algo algo;
    bool base64;
    struct str prefix;
    struct str pieces[PIECES_MAX];
    size_t pieces_len;
};

static struct str header(const struct trigger_hook_request *req, const char *name)
{
    for (size_t i = 0; i < req->headers_len; i++) {
        if (str_ieqs(req->headers[i].name, name)) {
            return req->headers[i].value;
        }
    }
    return (struct str){ 0 };
}

static int refuse(struct err *e, const char *why)
{
    return err_say(e, -EACCES, "%s", why);
}

/* The next line of a secret's text, without what surrounds it. */
static bool next_secret(struct str *rest, struct str *ret)
{
    while (str_split(rest, '\n', ret)) {
        *ret = str_trim(*ret);
        if (ret->n != 0) {
            return true;
        }
    }
    return false;
}

/* A Standard Webhooks secret's bytes: base64 behind its prefix, or the text itself. */
static int secret_bytes(const struct trigger_hook_rule *r, struct str secret, const char *prefix,
                        uint8_t dst[SECRET_BYTES_MAX], struct str *ret)
{
    size_t n = 0;

    if (r->kind != TRIGGER_HOOK_STANDARD || !str_starts(secret, prefix)) {
        *ret = secret;
        return 0;
    }
    int rc = base64_read(str_slice(secret, strlen(prefix), secret.n), dst, SECRET_BYTES_MAX, &n);
    *ret = (struct str){ (const char *)dst, n };
    return rc;
}

/* ---- comparing ---- */

/* Is `text` the encoded signature of the scheme's pieces, under one of the secrets? Looks at all of
 * them whatever it finds. */
static int mac_matches(const struct trigger_hook_rule *r, const struct scheme *s, struct str secret,
                       struct str text, bool *ret)
{
    uint8_t sent[HMAC_BYTES_MAX] = { 0 };
    uint8_t own[HMAC_BYTES_MAX];
    uint8_t key[SECRET_BYTES_MAX];
    size_t n = 0;
    size_t len = hmac_len(s->algo);
    struct str line;
    unsigned tried = 0;

    if (s->base64 ? base64_read(text, sent, sizeof sent, &n) != 0 || n != len
                  : text.n != 2 * len || str_unhex(text, sent, len) != 0) {
        return 0;
    }
    while (next_secret(&secret, &line) && tried++ < TRIGGER_HOOK_SECRETS_MAX) {
        struct str bytes;
        if (str_starts(line, "whpk_") && r->kind == TRIGGER_HOOK_STANDARD) {
            continue;
        }
        int rc = secret_bytes(r, line, "whsec_", key, &bytes);
        rc = rc == 0 ? hmac_of(s->algo, bytes, s->pieces, s->pieces_len, own) : rc;
        mem_wipe(key, sizeof key);
        if (rc != 0) {
            return rc;
        }
        *ret = mem_equal_ct(own, sent, len) || *ret;
    }
    return 0;
}

/* Equal to one of the secrets? Hashes of both are compared, so that the time tells no length. */
static int text_matches(struct str secret, struct str text, bool *ret)
{
    uint8_t key[32] = "agent: equal?";
    uint8_t a[HMAC_BYTES_MAX];
    uint8_t b[HMAC_BYTES_MAX];
    struct str line;
    struct str k = { (const char *)key, sizeof key };

    int rc = hmac_of(HMAC_SHA256, k, &text, 1, a);
    while (rc == 0 && next_secret(&secret, &line)) {
        rc = hmac_of(HMAC_SHA256, k, &line, 1, b);
        *ret = rc == 0 && (mem_equal_ct(a, b, HMAC_SHA256_BYTES) || *ret);
    }
    return rc;
}

/* ---- times ---- */

/* A signed time in seconds within the tolerance? -EACCES when it is no time at all. */
static int check_time(const struct trigger_hook_rule *r, const struct trigger_hook_request *req,
                      struct str text, struct err *e)
{
    uint64_t t;

    if (text.n > 12 || str_u64(text, &t) != 0) {
        return refuse(e, "no signed time");
    }
    int64_t off = req->now_s - (int64_t)t;
    if (off < -(int64_t)r->tolerance_s || off > (int64_t)r->tolerance_s) {
        return err_say(e, -ESTALE, "signed %lld seconds away from now", (long long)off);
    }
    return 0;
}

/* ---- the senders ---- */

static int check_mac(const struct trigger_hook_rule *r, const struct scheme *s, struct str secret,
                     struct str value, struct err *e)
{
    bool ok = false;

    if (value.n < s->prefix.n || !str_eq(str_slice(value, 0, s->prefix.n), s->prefix)) {
        return refuse(e, "no signature of the expected form");
    }
    int rc = mac_matches(r, s, secret, str_slice(value, s->prefix.n, value.n), &ok);
    if (rc != 0) {
        return err_set(e, rc, "secret");
    }
    return ok ? 0 : refuse(e, "the signature does not match");
}

static int verify_github(const struct trigger_hook_rule *r, struct str secret,
                         const struct trigger_hook_request *req, struct err *e)
{
    struct scheme s = {
        .algo = HMAC_SHA256, .prefix = STR("sha256="), .pieces = { req->body }, .pieces_len = 1
    };

    return check_mac(r, &s, secret, header(req, "X-Hub-Signature-256"), e);
}

static int verify_slack(const struct trigger_hook_rule *r, struct str secret,
                        const struct trigger_hook_request *req, struct err *e)
{
    struct str t = header(req, "X-Slack-Request-Timestamp");
    struct scheme s = { .algo = HMAC_SHA256,
                        .prefix = STR("v0="),
                        .pieces = { STR("v0:"), t, STR(":"), req->body },
                        .pieces_len = 4 };
    int rc = check_mac(r, &s, secret, header(req, "X-Slack-Signature"), e);

    return rc != 0 ? rc : check_time(r, req, t, e);
}

/* t=1700000000,v1=<hex>,v1=<hex> */
static int verify_stripe(const struct trigger_hook_rule *r, struct str secret,
                         const struct trigger_hook_request *req, struct err *e)
{
    struct str rest = header(req, "Stripe-Signature");
    struct str all = rest;
    struct str one;
    struct str t = { 0 };
    unsigned tried = 0;
    int rc = refuse(e, "no signature of the expected form");

    while (str_split(&rest, ',', &one)) {
        one = str_trim(one);
        if (str_starts(one, "t=") && t.n == 0) {
            t = str_slice(one, 2, one.n);
        }
    }
    struct scheme s = { .algo = HMAC_SHA256,
                        .prefix = STR("v1="),
                        .pieces = { t, STR("."), req->body },
                        .pieces_len = 3 };
    while (rc == -EACCES && str_split(&all, ',', &one)) {
        one = str_trim(one);
        if (str_starts(one, "v1=") && tried++ < TRIGGER_HOOK_SECRETS_MAX) {
            rc = check_mac(r, &s, secret, one, e);
        }
    }
    return rc != 0 ? rc : check_time(r, req, t, e);
}

/* v1a,<base64>: Ed25519 over the same text, with a public key whpk_<base64>. */
static bool ed25519_matches(const struct trigger_hook_rule *r, struct str secret, struct str text,
                            struct str content)
{
    uint8_t signature[64];
    uint8_t key[SECRET_BYTES_MAX];
    struct str line;
    struct str bytes;
    size_t n = 0;
    bool ok = false;

    if (base64_read(text, signature, sizeof signature, &n) != 0 || n != sizeof signature) {
        return false;
    }
    while (next_secret(&secret, &line)) {
        if (str_starts(line, "whpk_") && secret_bytes(r, line, "whpk_", key, &bytes) == 0 &&
            bytes.n == 32) {
            ok = digest_ed25519_ok(key, signature, content) || ok;
        }
    }
    return ok;
}

static int verify_standard(const struct trigger_hook_rule *r, struct str secret,
                           const struct trigger_hook_request *req, struct err *e)
{
    struct str id = header(req, "webhook-id");
    struct str t = header(req, "webhook-timestamp");
    struct str rest = header(req, "webhook-signature");
    struct str one;
    struct scheme s = { .algo = HMAC_SHA256,
                        .base64 = true,
                        .prefix = STR("v1,"),
                        .pieces = { id, STR("."), t, STR("."), req->body },
                        .pieces_len = 5 };
    unsigned tried = 0;
    int rc = refuse(e, "no signature of the expected form");

    if (id.n == 0 || t.n == 0) {
        return rc;
    }
    while (rc == -EACCES && tried++ < TRIGGER_HOOK_SECRETS_MAX && str_split(&rest, ' ', &one)) {
        if (str_starts(one, "v1,")) {
            rc = check_mac(r, &s, secret, one, e);
        } else if (str_starts(one, "v1a,")) {
            struct buf AUTO_BUF content = BUF_INIT(id.n + t.n + req->body.n + 2);
            for (size_t i = 0; i < s.pieces_len; i++) {
                buf_addstr(&content, s.pieces[i]);
            }
            if (buf_error(&content) != 0) {
                return err_set(e, -ENOMEM, "signature");
            }
            rc = ed25519_matches(r, secret, str_slice(one, 4, one.n), buf_str(&content))
                     ? 0
                     : refuse(e, "the signature does not match");
        }
    }
    return rc != 0 ? rc : check_time(r, req, t, e);
}

static void hmac_scheme(const struct trigger_hook_rule *r, const struct trigger_hook_request *req,
                        struct scheme *s)
{
    *s = (struct scheme){ .algo = r->algo, .base64 = r->base64, .prefix = str_of(r->prefix) };
    for (size_t i = 0; i < r->parts_len; i++) {
        const struct trigger_hook_part *p = &r->parts[i];
        s->pieces[s->pieces_len++] = p->kind == TRIGGER_PART_BODY     ? req->body
                                     : p->kind == TRIGGER_PART_HEADER ? header(req, p->text)
                                                                      : str_of(p->text);
    }
    if (s->pieces_len == 0) {
        s->pieces[s->pieces_len++] = req->body;
    }
}

static int verify_hmac(const struct trigger_hook_rule *r, struct str secret,
                       const struct trigger_hook_request *req, struct err *e)
{
    struct scheme s;

    hmac_scheme(r, req, &s);
    int rc = check_mac(r, &s, secret, header(req, r->header), e);
    if (rc == 0 && r->time_header[0] != '\0') {
        rc = check_time(r, req, header(req, r->time_header), e);
    }
    return rc;
}

static int verify_text(struct str secret, struct str text, struct err *e)
{
    bool ok = false;
    int rc = text_matches(secret, text, &ok);

    if (rc != 0) {
        return err_set(e, rc, "secret");
    }
    return ok ? 0 : refuse(e, "the token does not match");
}

static struct str bearer_of(const struct trigger_hook_request *req)
{
    struct str value = header(req, "Authorization");

    return value.n > 7 && str_ieqs(str_slice(value, 0, 7), "Bearer ")
               ? str_trim(str_slice(value, 7, value.n))
               : (struct str){ 0 };
}

static int verify(const struct trigger_hook_rule *r, struct str secret,
                  const struct trigger_hook_request *req, struct err *e)
{
    switch (r->kind) {
    case TRIGGER_HOOK_NONE:
        return 0;
    case TRIGGER_HOOK_GITHUB:
        return verify_github(r, secret, req, e);
    case TRIGGER_HOOK_GITLAB:
        return verify_text(secret, header(req, "X-Gitlab-Token"), e);
    case TRIGGER_HOOK_STRIPE:
        return verify_stripe(r, secret, req, e);
    case TRIGGER_HOOK_SLACK:
        return verify_slack(r, secret, req, e);
    case TRIGGER_HOOK_STANDARD:
        return verify_standard(r, secret, req, e);
    case TRIGGER_HOOK_HMAC:
        return verify_hmac(r, secret, req, e);
    case TRIGGER_HOOK_BEARER:
        return verify_text(secret, bearer_of(req), e);
    }
    INSIST(false); /* the kinds above are all there are */
    return -EACCES;
}

static const char *id_header(const struct trigger_hook_rule *r)
{
    static const char *const of_kind[] = {
        [TRIGGER_HOOK_GITHUB] = "X-GitHub-Delivery",
        [TRIGGER_HOOK_GITLAB] = "X-Gitlab-Event-UUID",
        [TRIGGER_HOOK_STANDARD] = "webhook-id",
        [TRIGGER_HOOK_BEARER] = NULL,
    };

    return r->id_header[0] != '\0' ? r->id_header : of_kind[r->kind];
}

int trigger_hook_verify(const struct trigger_hook_rule *r, struct str secret,
                        const struct trigger_hook_request *req, struct trigger_hook_delivery *ret,
                        struct err *e)
{
    struct str rest = secret;
    struct str line;
    const char *id_name = id_header(r);

    if (r->kind != TRIGGER_HOOK_NONE && !next_secret(&rest, &line)) {
        return err_say(e, -EINVAL, "the secret is empty");
    }
    int rc = verify(r, secret, req, e);
    if (rc != 0) {
        return rc;
    }
    struct str id = id_name != NULL ? header(req, id_name) : (struct str){ 0 };
    *ret = (struct trigger_hook_delivery){
        .id = id.n <= TRIGGER_HOOK_ID_MAX ? id : (struct str){ 0 },
        .timed = r->kind == TRIGGER_HOOK_STRIPE || r->kind == TRIGGER_HOOK_SLACK ||
                 r->kind == TRIGGER_HOOK_STANDARD || r->time_header[0] != '\0',
    };
    return 0;
}

/* ---- signing ---- */

static int sign_mac(const struct trigger_hook_rule *r, const struct scheme *s, struct str secret,
                    struct buf *out, struct err *e)
{
    uint8_t mac[HMAC_BYTES_MAX];
    uint8_t key[SECRET_BYTES_MAX];
    char hex[2 * HMAC_BYTES_MAX + 1];
    struct str bytes;
    struct str line;

    if (!next_secret(&secret, &line) || str_starts(line, "whpk_")) {
        return err_say(e, -EINVAL, "nothing to sign with: the secret is empty or a public key");
    }
    int rc = secret_bytes(r, line, "whsec_", key, &bytes);
    rc = rc == 0 ? hmac_of(s->algo, bytes, s->pieces, s->pieces_len, mac) : rc;
    mem_wipe(key, sizeof key);
    if (rc != 0) {
        return err_set(e, rc, "secret");
    }
    buf_addstr(out, s->prefix);
    if (s->base64) {
        (void)base64_encode(out, mac, hmac_len(s->algo));
    } else {
        str_hex(hex, mac, hmac_len(s->algo));
        buf_adds(out, hex);
    }
    buf_adds(out, "\r\n");
    return 0;
}

static int sign_timed(const struct trigger_hook_rule *r, struct str secret, struct str id,
                      struct str t, struct str body, struct buf *out, struct err *e)
{
    struct scheme s = { .algo = HMAC_SHA256 };

    if (r->kind == TRIGGER_HOOK_SLACK) {
        s = (struct scheme){ .algo = HMAC_SHA256,
                             .prefix = STR("v0="),
                             .pieces = { STR("v0:"), t, STR(":"), body },
                             .pieces_len = 4 };
        buf_addf(out, "X-Slack-Request-Timestamp: %.*s\r\nX-Slack-Signature: ", STR_ARG(t));
    } else if (r->kind == TRIGGER_HOOK_STRIPE) {
        s = (struct scheme){ .algo = HMAC_SHA256,
                             .prefix = STR("v1="),
                             .pieces = { t, STR("."), body },
                             .pieces_len = 3 };
        buf_addf(out, "Stripe-Signature: t=%.*s,", STR_ARG(t));
    } else {
        s = (struct scheme){ .algo = HMAC_SHA256,
                             .base64 = true,
                             .prefix = STR("v1,"),
                             .pieces = { id, STR("."), t, STR("."), body },
                             .pieces_len = 5 };
        buf_addf(out,
                 "webhook-id: %.*s\r\nwebhook-timestamp: %.*s\r\nwebhook-signature: ", STR_ARG(id),
                 STR_ARG(t));
    }
    return sign_mac(r, &s, secret, out, e);
}

static int sign_generic(const struct trigger_hook_rule *r, struct str secret, struct str id,
                        struct str t, struct str body, struct buf *out, struct err *e)
{
    struct trigger_hook_header headers[2] = { { str_of(r->id_header), id },
                                              { str_of(r->time_header), t } };
    struct trigger_hook_request req = { .headers = headers, .headers_len = 2, .body = body };
    struct scheme s;

    hmac_scheme(r, &req, &s);
    for (size_t i = 0; i < ARRAY_LEN(headers); i++) {
        if (headers[i].name.n != 0) {
            buf_addf(out, "%.*s: %.*s\r\n", STR_ARG(headers[i].name), STR_ARG(headers[i].value));
        }
    }
    buf_addf(out, "%s: ", r->header);
    return sign_mac(r, &s, secret, out, e);
}

int trigger_hook_sign(const struct trigger_hook_rule *r, struct str secret, struct str id,
                      int64_t now_s, struct str body, struct buf *out, struct err *e)
{
    char text[24];
    struct str rest = secret;
    struct str line = { 0 };

    (void)snprintf(text, sizeof text, "%lld", (long long)now_s);
    (void)next_secret(&rest, &line);
    switch (r->kind) {
    case TRIGGER_HOOK_NONE:
        return 0;
    case TRIGGER_HOOK_GITHUB: {
        struct scheme s = {
            .algo = HMAC_SHA256, .prefix = STR("sha256="), .pieces = { body }, .pieces_len = 1
        };
        buf_addf(out, "X-GitHub-Delivery: %.*s\r\nX-Hub-Signature-256: ", STR_ARG(id));
        return sign_mac(r, &s, secret, out, e);
    }
    case TRIGGER_HOOK_GITLAB:
        buf_addf(out, "X-Gitlab-Event-UUID: %.*s\r\nX-Gitlab-Token: %.*s\r\n", STR_ARG(id),
                 STR_ARG(line));
        return 0;
    case TRIGGER_HOOK_BEARER:
        buf_addf(out, "Authorization: Bearer %.*s\r\n", STR_ARG(line));
        return 0;
    case TRIGGER_HOOK_STRIPE:
    case TRIGGER_HOOK_SLACK:
    case TRIGGER_HOOK_STANDARD:
        return sign_timed(r, secret, id, str_of(text), body, out, e);
    case TRIGGER_HOOK_HMAC:
        return sign_generic(r, secret, id, str_of(text), body, out, e);
    }
    INSIST(false); /* the kinds above are all there are */
    return -EINVAL;
}
