/*
 * callback - who is told of a run's end: the member "callbacks" of a job's document, checked; when
 * a delivery is tried again; what its signature is; which addresses may be told.
 *
 * Deliveries are Standard Webhooks 1.0 (github.com/standard-webhooks/standard-webhooks, spec/
 * standard-webhooks.md): headers webhook-id, webhook-timestamp, webhook-signature; the schedule of
 * its section "Retry schedule"; 2xx is success, 410 turns the receiver off, anything else, a
 * redirect too, is tried again. Pure.
 */
#ifndef AGENT_TRIGGERS_CALLBACK_H
#define AGENT_TRIGGERS_CALLBACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/triggers/triggers.h"
#include "common/buf.h"
#include "common/egress.h"
#include "common/err.h"
#include "common/json.h"

enum {
    TRIGGER_CALLBACKS_MAX = 8, /* of one run */
    TRIGGER_URL_MAX = 2048,
    TRIGGER_CALLBACK_TRIES = 10,
    TRIGGER_CALLBACK_WAIT_MAX_S = 86400, /* a Retry-After counts up to this */
};

/* Which ends; a set. */
enum {
    TRIGGER_CALLBACK_SUCCEEDED = 1,
    TRIGGER_CALLBACK_FAILED = 2, /* every other end */
    TRIGGER_CALLBACK_ENDED = 3,
};

struct trigger_callback {
    char url[TRIGGER_URL_MAX + 1];     /* trigger_callback_url() takes it */
    char secret[TRIGGER_NAME_MAX + 1]; /* its name; "": unsigned */
    unsigned on;
};

struct trigger_callbacks {
    size_t n;
    struct trigger_callback items[TRIGGER_CALLBACKS_MAX];
};

/* An URL taken apart; slices of its text. */
struct trigger_url {
    bool tls;
    char host[EGRESS_NAME_CAP]; /* a name, or an address without brackets */
    uint16_t port;
    struct str target; /* path and query; "": "/" */
};

/* http or https, a host, maybe a port, path and query; no user, no fragment; printable ASCII.
 * -EINVAL with a sentence. */
int trigger_callback_url(struct str text, struct trigger_url *ret, struct err *e);

/* [{"url": …, "secret": …, "on": "ended" or ["succeeded", "failed"]}]. -EINVAL: field says which
 * ("callbacks[1].url"), e why. */
int trigger_callbacks_parse(const struct json *v, struct trigger_callbacks *ret, char field[64],
                            struct err *e);

/* What an answer's status means; 0: none came. */
enum trigger_callback_verdict {
    TRIGGER_CALLBACK_DELIVERED,
    TRIGGER_CALLBACK_GONE, /* 410: never again */
    TRIGGER_CALLBACK_AGAIN,
};
enum trigger_callback_verdict trigger_callback_judge(int status);

/* How long after the tries-th failure (1, 2, …) the next try comes: 5 s, 5 min, 30 min, 2, 5, 10,
 * 14, 20, 24 h, each up to a tenth shorter or longer as `random` (any 64 bits) says, and never
 * before retry_after_s (0: the answer named none). False: those were all. */
bool trigger_callback_next(unsigned tries, uint64_t random, uint64_t retry_after_s,
                           uint64_t *ret_ms);

/* The value of webhook-signature: "v1,<base64>" for every line of the secret (the new one and the
 * one that is being rotated out), a blank between them. Appended. -EINVAL: nothing to sign with;
 * -ENOMEM. */
int trigger_callback_sign(struct str secret, struct str id, int64_t now_s, struct str body,
                          struct buf *out, struct err *e);

/* Is it an address of the internet at large: not this machine, not a private or link-local network,
 * not one for documentation, measuring or multicast (IANA's special-purpose registries, RFC 6890),
 * nor one of these inside an IPv6 address (mapped, NAT64, 6to4)? kind: EGRESS_IP4, EGRESS_IP6. */
bool trigger_callback_public(enum egress_kind kind, const uint8_t *addr);

#endif
