/*
 * hook - is this web hook from who it says? Verifiers of the common senders and a generic one.
 *
 *   github    X-Hub-Signature-256: sha256=<hex>, HMAC over the body; id X-GitHub-Delivery
 *   gitlab    X-Gitlab-Token equals the secret; id X-Gitlab-Event-UUID
 *   stripe    Stripe-Signature: t=<s>,v1=<hex>[,v1=…], HMAC over "t.body"
 *   slack     X-Slack-Signature: v0=<hex>, HMAC over "v0:<X-Slack-Request-Timestamp>:body"
 *   standard  Standard Webhooks 1.0: webhook-id, webhook-timestamp, webhook-signature: v1,<base64>
 *             (v1a: Ed25519); secrets whsec_<base64>, whpk_<base64>
 *   hmac      a header, an algorithm, hex or base64, a prefix, the parts that are signed: all given
 *   bearer    Authorization: Bearer <secret>
 *
 * Signatures are made over the bytes as received, before anything is parsed, and compared in
 * constant time; every secret is tried (a secret's text may have several lines: the new one and
 * the one that is being rotated out). The answer says nothing of which part was wrong. Pure.
 */
#ifndef AGENT_TRIGGERS_HOOK_H
#define AGENT_TRIGGERS_HOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/digest.h"
#include "common/err.h"
#include "common/json.h"
#include "common/str.h"

enum {
    TRIGGER_HOOK_HEADER_MAX = 64, /* bytes of a header's name */
    TRIGGER_HOOK_PREFIX_MAX = 32,
    TRIGGER_HOOK_PARTS_MAX = 8,
    TRIGGER_HOOK_PART_MAX = 80,     /* bytes of one signed part's text */
    TRIGGER_HOOK_SECRETS_MAX = 8,   /* lines of a secret */
    TRIGGER_HOOK_ID_MAX = 200,      /* bytes of a delivery's id */
    TRIGGER_HOOK_TOLERANCE_S = 300, /* a signed time may differ from ours by this, default */
    TRIGGER_HOOK_TOLERANCE_MAX_S = 86400,
};

enum trigger_hook_kind {
    TRIGGER_HOOK_NONE, /* no verification: must be asked for by name */
    TRIGGER_HOOK_GITHUB,
    TRIGGER_HOOK_GITLAB,
    TRIGGER_HOOK_STRIPE,
    TRIGGER_HOOK_SLACK,
    TRIGGER_HOOK_STANDARD,
    TRIGGER_HOOK_HMAC,
    TRIGGER_HOOK_BEARER,
};

/* A piece of what an `hmac` hook signs: the body, a header's value, or a text as it is. */
struct trigger_hook_part {
    enum { TRIGGER_PART_TEXT, TRIGGER_PART_BODY, TRIGGER_PART_HEADER } kind;
    char text[TRIGGER_HOOK_PART_MAX + 1];
};

/* How a hook is verified. A value. */
struct trigger_hook_rule {
    enum trigger_hook_kind kind;
    uint32_t tolerance_s;
    /* The rest belongs to TRIGGER_HOOK_HMAC; the headers for id and time to any kind ("": none). */
    char header[TRIGGER_HOOK_HEADER_MAX + 1];
    char prefix[TRIGGER_HOOK_PREFIX_MAX + 1];
    char id_header[TRIGGER_HOOK_HEADER_MAX + 1];
    char time_header[TRIGGER_HOOK_HEADER_MAX + 1];
    enum hmac_algo algo;
    bool base64;
    size_t parts_len; /* 0: the body */
    struct trigger_hook_part parts[TRIGGER_HOOK_PARTS_MAX];
};

/* "github" and so on, or an object {"kind": "hmac", "header": …, "algorithm": "sha256", "encoding":
 * "hex", "prefix": "sha256=", "signed": ["header:X-Time", ".", "body"], "id_header": …,
 * "time_header": …, "tolerance": "5m"}. -EINVAL: e names the member. */
int trigger_hook_rule_parse(const struct json *v, struct trigger_hook_rule *ret, struct err *e);
/* Writes what trigger_hook_rule_parse() reads: the normal form. */
void trigger_hook_rule_to_json(struct json_w *w, const struct trigger_hook_rule *r);
const char *trigger_hook_kind_name(enum trigger_hook_kind kind);

struct trigger_hook_header {
    struct str name;
    struct str value;
};

/* A request as it came. */
struct trigger_hook_request {
    const struct trigger_hook_header *headers;
    size_t headers_len;
    struct str body;
    int64_t now_s; /* wall clock */
};

/* What a verified request says of itself; slices of the request. */
struct trigger_hook_delivery {
    struct str id; /* empty: none was sent */
    bool timed;    /* a signed time was sent and is within the tolerance */
};

/* Is it genuine? 0; -EACCES (signature missing or wrong); -ESTALE (genuine, but its time is outside
 * the tolerance: a replay, or a clock that is wrong); -ENOMEM; -EINVAL (the secret's text cannot be
 * a secret of this kind). e is for our own log, never for the sender. */
int trigger_hook_verify(const struct trigger_hook_rule *r, struct str secret,
                        const struct trigger_hook_request *req, struct trigger_hook_delivery *ret,
                        struct err *e);

/* The header lines ("Name: value\r\n" each) that a sender of this kind would add to body: for `hook
 * test` and for the signatures of call-backs. id and now_s are the delivery's. -EINVAL: a kind or
 * secret that cannot sign. */
int trigger_hook_sign(const struct trigger_hook_rule *r, struct str secret, struct str id,
                      int64_t now_s, struct str body, struct buf *out, struct err *e);

#endif
