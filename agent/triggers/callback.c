#include "agent/triggers/callback.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/triggers/hook.h"
#include "agent/triggers/triggers_internal.h"
#include "common/insist.h"

/* ---- URLs ---- */

static int bad_url(struct err *e, const char *why)
{
    return err_say(e, -EINVAL, "url %s", why);
}

/* host, host:port, [v6], [v6]:port */
static int url_place(struct str place, struct trigger_url *u, struct err *e)
{
    ptrdiff_t colon = str_find(place, ':');
    struct str host = place;
    struct str port = { 0 };
    uint64_t number = u->tls ? 443 : 80;
    uint8_t addr[16];

    if (place.n != 0 && place.p[0] == '[') {
        ptrdiff_t end = str_find(place, ']');
        host = end < 0 ? STR("") : str_slice(place, 1, (size_t)end - 1);
        port = end < 0 ? STR("") : str_slice(place, (size_t)end + 1, place.n);
        if (egress_ip6_parse(host, addr) != 0 || (port.n != 0 && port.p[0] != ':')) {
            return bad_url(e, "has no IPv6 address between its brackets");
        }
        port = port.n != 0 ? str_slice(port, 1, port.n) : (struct str){ 0 };
        colon = port.p != NULL ? 0 : -1;
    } else if (colon >= 0) {
        host = str_slice(place, 0, (size_t)colon);
        port = str_slice(place, (size_t)colon + 1, place.n);
    }
    if (colon >= 0 && str_u64_in(port, 1, 65535, &number) != 0) {
        return bad_url(e, "has a port that is not 1 to 65535");
    }
    u->port = (uint16_t)number;
    if ((place.n != 0 && place.p[0] == '[') || egress_ip4_parse(host, addr) == 0) {
        return str_copy(u->host, sizeof u->host, host) == 0 ? 0 : bad_url(e, "is too long");
    }
    if (egress_name_parse(host, u->host, NULL) != 0) {
        return bad_url(e, "has no host name or address behind its scheme");
    }
    return 0;
}

int trigger_callback_url(struct str text, struct trigger_url *ret, struct err *e)
{
    struct trigger_url u = { 0 };
    struct str rest;
    size_t at = 0;

    if (text.n > TRIGGER_URL_MAX) {
        return err_say(e, -EINVAL, "url is longer than %d bytes", TRIGGER_URL_MAX);
    }
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] <= 0x20 || text.p[i] >= 0x7f || text.p[i] == '"' || text.p[i] == '\\') {
            return bad_url(e, "may hold printable ASCII only, no blanks (write others as %XX)");
        }
    }
    u.tls = str_starts(text, "https://");
    if (!u.tls && !str_starts(text, "http://")) {
        return bad_url(e, "has to begin with https:// or http://");
    }
    rest = str_slice(text, u.tls ? 8 : 7, text.n);
    while (at < rest.n && rest.p[at] != '/' && rest.p[at] != '?' && rest.p[at] != '#') {
        at++;
    }
    struct str place = str_slice(rest, 0, at);
    u.target = str_slice(rest, at, rest.n);
    if (str_find(place, '@') >= 0) {
        return bad_url(e, "may not hold a user or password");
    }
    if (str_find(u.target, '#') >= 0) {
        return bad_url(e, "may not hold a fragment (#…)");
    }
    int rc = url_place(place, &u, e);
    if (rc == 0) {
        *ret = u;
    }
    return rc;
}

/* ---- the document ---- */

static int read_on(const struct json *v, unsigned *ret, struct err *e)
{
    static const char *const names[] = { "succeeded", "failed", "ended" };
    static const unsigned bits[] = { TRIGGER_CALLBACK_SUCCEEDED, TRIGGER_CALLBACK_FAILED,
                                     TRIGGER_CALLBACK_ENDED };
    size_t which = 0;
    unsigned on = 0;
    int rc = 0;

    if (v->type != JSON_ARRAY) {
        rc = trigger_get_choice(v, "on", names, ARRAY_LEN(names), &which, e);
        *ret = rc == 0 ? bits[which] : *ret;
        return rc;
    }
    for (const struct json *m = v->child; rc == 0 && m != NULL; m = m->next) {
        rc = trigger_get_choice(m, "on", names, ARRAY_LEN(names), &which, e);
        on |= rc == 0 ? bits[which] : 0;
    }
    if (rc == 0 && on == 0) {
        return err_say(e, -EINVAL, "on is empty: say succeeded, failed or ended");
    }
    *ret = rc == 0 ? on : *ret;
    return rc;
}

static int read_one(const struct json *v, struct trigger_callback *c, const char **ret_member,
                    struct err *e)
{
    struct trigger_url url;
    struct str s;
    int rc = 0;

    *ret_member = "";
    if (v->type != JSON_OBJECT) {
        return err_say(e, -EINVAL, "must be an object, not %s", json_type_name(v->type));
    }
    c->on = TRIGGER_CALLBACK_ENDED;
    for (const struct json *m = v->child; rc == 0 && m != NULL; m = m->next) {
        if (str_eqs(m->key, "url")) {
            *ret_member = "url";
            rc = trigger_get_text(m, "url", 1, TRIGGER_URL_MAX, &s, e);
            rc = rc == 0 ? trigger_callback_url(s, &url, e) : rc;
            rc = rc == 0 ? str_copy(c->url, sizeof c->url, s) : rc;
        } else if (str_eqs(m->key, "secret")) {
            *ret_member = "secret";
            if (!json_str(m, &s) || !trigger_name_ok(s)) {
                return err_say(e, -EINVAL,
                               "must be the name of a secret: letters, digits, '.', "
                               "'_', '-', at most %d",
                               TRIGGER_NAME_MAX);
            }
            rc = str_copy(c->secret, sizeof c->secret, s);
        } else if (str_eqs(m->key, "on")) {
            *ret_member = "on";
            rc = read_on(m, &c->on, e);
        } else {
            return err_say(e, -EINVAL, "'%.*s' is not a member here",
                           STR_ARG(str_slice(m->key, 0, 40)));
        }
    }
    if (rc == 0 && c->url[0] == '\0') {
        *ret_member = "url";
        return err_say(e, -EINVAL, "is missing");
    }
    return rc;
}

int trigger_callbacks_parse(const struct json *v, struct trigger_callbacks *ret, char field[64],
                            struct err *e)
{
    const char *member = "";

    memset(ret, 0, sizeof *ret);
    (void)snprintf(field, 64, "callbacks");
    if (v->type != JSON_ARRAY || v->count > TRIGGER_CALLBACKS_MAX) {
        return err_say(e, -EINVAL, "must be an array of at most %d", TRIGGER_CALLBACKS_MAX);
    }
    for (const struct json *m = v->child; m != NULL; m = m->next) {
        int rc = read_one(m, &ret->items[ret->n], &member, e);
        if (rc != 0) {
            (void)snprintf(field, 64, "callbacks[%zu]%s%s", ret->n, member[0] != '\0' ? "." : "",
                           member);
            return rc;
        }
        ret->n++;
    }
    return 0;
}

/* ---- deliveries ---- */

enum trigger_callback_verdict trigger_callback_judge(int status)
{
    if (status >= 200 && status < 300) {
        return TRIGGER_CALLBACK_DELIVERED;
    }
    return status == 410 ? TRIGGER_CALLBACK_GONE : TRIGGER_CALLBACK_AGAIN;
}

bool trigger_callback_next(unsigned tries, uint64_t random, uint64_t retry_after_s,
                           uint64_t *ret_ms)
{
    static const uint32_t waits_s[] = { 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400 };
    uint64_t least =
        retry_after_s < TRIGGER_CALLBACK_WAIT_MAX_S ? retry_after_s : TRIGGER_CALLBACK_WAIT_MAX_S;

    _Static_assert(ARRAY_LEN(waits_s) == TRIGGER_CALLBACK_TRIES - 1, "a wait between two tries");
    REQUIRE(tries != 0);
    if (tries >= TRIGGER_CALLBACK_TRIES) {
        return false;
    }
    uint64_t ms = (uint64_t)waits_s[tries - 1] * 1000;
    ms = ms - ms / 10 + random % (ms / 5 + 1);
    *ret_ms = ms > least * 1000 ? ms : least * 1000;
    return true;
}

int trigger_callback_sign(struct str secret, struct str id, int64_t now_s, struct str body,
                          struct buf *out, struct err *e)
{
    static const char name[] = "webhook-signature: ";
    const struct trigger_hook_rule rule = { .kind = TRIGGER_HOOK_STANDARD };
    struct str line;
    size_t made = 0;

    while (str_split(&secret, '\n', &line)) {
        AUTO_BUF struct buf headers = BUF_INIT(1024);
        struct str header;
        struct str rest;
        line = str_trim(line);
        if (line.n == 0) {
            continue;
        }
        if (made == TRIGGER_HOOK_SECRETS_MAX || str_starts(line, "whsk_")) {
            return err_say(e, -EINVAL,
                           "the secret is more than %d keys, or a key of Ed25519: "
                           "call-backs are signed with HMAC (whsec_…)",
                           TRIGGER_HOOK_SECRETS_MAX);
        }
        int rc = trigger_hook_sign(&rule, line, id, now_s, body, &headers, e);
        if (rc != 0) {
            return rc;
        }
        rest = buf_str(&headers);
        while (str_split(&rest, '\n', &header)) {
            header = str_trim(header);
            if (str_starts(header, name)) {
                (void)buf_adds(out, made++ != 0 ? " " : "");
                (void)buf_addstr(out, str_slice(header, sizeof name - 1, header.n));
            }
        }
        if (buf_error(&headers) != 0) {
            return err_set(e, buf_error(&headers), "sign");
        }
    }
    if (made == 0) {
        return err_say(e, -EINVAL, "the secret is empty");
    }
    return buf_error(out);
}

/* ---- addresses ---- */

struct net {
    uint8_t addr[16];
    uint8_t prefix;
};

static bool in_any(const struct net *nets, size_t n, enum egress_kind kind, const uint8_t *addr)
{
    for (size_t i = 0; i < n; i++) {
        struct egress_net net = { .kind = (uint8_t)kind, .prefix = nets[i].prefix };
        memcpy(net.addr, nets[i].addr, sizeof net.addr);
        if (egress_net_holds(&net, (uint8_t)kind, addr)) {
            return true;
        }
    }
    return false;
}

static bool public4(const uint8_t *addr)
{
    static const struct net closed[] = {
        { { 0 }, 8 },
        { { 10 }, 8 },
        { { 100, 64 }, 10 },
        { { 127 }, 8 },
        { { 168, 63, 129, 16 }, 32 }, /* Azure's metadata, outside of the private networks */
        { { 169, 254 }, 16 },         /* link-local: where other clouds have theirs */
        { { 172, 16 }, 12 },
        { { 192, 0, 0 }, 24 },
        { { 192, 0, 2 }, 24 },
        { { 192, 88, 99 }, 24 },
        { { 192, 168 }, 16 },
        { { 198, 18 }, 15 },
        { { 198, 51, 100 }, 24 },
        { { 203, 0, 113 }, 24 },
        { { 224 }, 4 },
        { { 240 }, 4 },
    };

    return !in_any(closed, ARRAY_LEN(closed), EGRESS_IP4, addr);
}

bool trigger_callback_public(enum egress_kind kind, const uint8_t *addr)
{
    static const struct net global = { { 0x20 }, 3 }; /* 2000::/3: all there is */
    static const struct net closed[] = {
        { { 0x20, 0x01, 0x00 }, 23 }, /* protocols' own, Teredo among them */
        { { 0x20, 0x01, 0x0d, 0xb8 }, 32 },
        { { 0x3f, 0xff }, 20 },
    };
    static const struct net nat64 = { { 0x00, 0x64, 0xff, 0x9b }, 96 };
    static const struct net mapped = { { [10] = 0xff, [11] = 0xff }, 96 };

    if (kind == EGRESS_IP4) {
        return public4(addr);
    }
    if (in_any(&mapped, 1, EGRESS_IP6, addr) || in_any(&nat64, 1, EGRESS_IP6, addr)) {
        return public4(addr + 12);
    }
    if (addr[0] == 0x20 && addr[1] == 0x02) { /* 6to4 */
        return public4(addr + 2);
    }
    return in_any(&global, 1, EGRESS_IP6, addr) &&
           !in_any(closed, ARRAY_LEN(closed), EGRESS_IP6, addr);
}
