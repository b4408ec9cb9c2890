#include "common/settings.h"

#include <errno.h>

#include "common/egress.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"

_Static_assert(LOG_ERROR == 0 && LOG_WARN == 1 && LOG_INFO == 2 && LOG_DEBUG == 3, "log.level");
_Static_assert(LOG_TEXT == 0 && LOG_JSON == 1, "log.format");
_Static_assert(SETTINGS_NETWORK_HOST == 1 && SETTINGS_NETWORK_NAT == 2 &&
                   SETTINGS_PROFILE_LOCAL == 2 && SETTINGS_POLICY_RANDOM == 3,
               "choices");

void settings_defaults(struct settings *s)
{
    conf_defaults(&settings_table, s);
}

int settings_addr_split(const char *addr, char *host, size_t host_cap, uint16_t *ret_port)
{
    struct str s = str_of(addr);
    ptrdiff_t colon = str_rfind(s, ':');
    uint64_t port;
    if (colon < 0 ||
        str_u64_in(str_slice(s, (size_t)colon + 1, SIZE_MAX), 0, UINT16_MAX, &port) != 0) {
        return -EINVAL;
    }
    struct str name = str_slice(s, 0, (size_t)colon);
    if (name.n >= 2 && name.p[0] == '[' && name.p[name.n - 1] == ']') {
        name = str_slice(name, 1, name.n - 2);
    }
    int r = str_copy(host, host_cap, name);
    if (r == 0) {
        *ret_port = (uint16_t)port;
    }
    return r;
}

static bool all_in(struct str s, const char *set)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '\0' || strchr(set, s.p[i]) == NULL) {
            return false;
        }
    }
    return true;
}

bool settings_addr_is_loopback(const char *addr)
{
    char host[SETTINGS_TEXT_MAX];
    uint16_t port;
    if (settings_addr_split(addr, host, sizeof host, &port) != 0) {
        return false;
    }
    struct str s = str_of(host);
    /* "127.evil.example" is a name, not an address. */
    return str_ieqs(s, "localhost") || str_eqs(s, "::1") ||
           (str_starts(s, "127.") && all_in(s, "0123456789."));
}

/* --- what holds between keys --- */

static int check_node(const struct settings_node *n, struct err *e)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
    if (!all_in(str_of(n->name), letters) || n->name[0] == '-' || n->name[0] == '.') {
        return err_say(
            e, -EINVAL,
            "node.name '%s' may hold letters, digits, '-', '.' and '_' only and begins with "
            "a letter, a digit or '_'",
            n->name);
    }
    struct str rest = str_of(n->labels);
    struct str piece;
    while (str_split(&rest, ',', &piece)) {
        if (str_find(piece, '=') <= 0) {
            return err_say(e, -EINVAL, "node.labels: '%.*s' is not key=value", STR_ARG(piece));
        }
    }
    return 0;
}

static int check_gossip(const struct settings_gossip *g, struct err *e)
{
    struct str rest = str_of(g->vsn);
    struct str piece;
    uint64_t v;
    size_t numbers = 0;
    while (str_split(&rest, ',', &piece)) {
        if (str_u64_in(piece, 0, 255, &v) != 0) {
            return err_say(e, -EINVAL, "gossip.vsn: '%.*s' is not a number up to 255",
                           STR_ARG(piece));
        }
        numbers++;
    }
    if (numbers != 6) {
        return err_say(e, -EINVAL, "gossip.vsn takes six numbers, as in 1,5,2,0,0,0");
    }
    rest = str_of(g->join);
    while (str_split(&rest, ',', &piece)) {
        ptrdiff_t colon = str_rfind(piece, ':');
        if (colon == 0 || (colon > 0 && str_u64_in(str_slice(piece, (size_t)colon + 1, SIZE_MAX), 1,
                                                   UINT16_MAX, &v) != 0)) {
            return err_say(e, -EINVAL, "gossip.join: '%.*s' is not host or host:port",
                           STR_ARG(piece));
        }
    }
    return 0;
}

static bool given(const char *text)
{
    return text[0] != '\0';
}

/* DESIGN.md section 9: nobody opens a machine to the network by accident. */
static int check_exposure(const struct settings *s, struct err *e)
{
    const struct settings_http *h = &s->http;

    if (given(h->tls_cert) != given(h->tls_key)) {
        return err_say(e, -EINVAL, "http.tls_cert and http.tls_key go together: %s is not set",
                       given(h->tls_cert) ? "http.tls_key" : "http.tls_cert");
    }
    if (given(h->tls_client_ca) && !given(h->tls_cert)) {
        return err_say(e, -EINVAL, "http.tls_client_ca needs http.tls_cert and http.tls_key");
    }
    if (given(h->tls_crl) && !given(h->tls_client_ca)) {
        return err_say(e, -EINVAL, "http.tls_crl needs http.tls_client_ca");
    }
    if (s->sandbox.allow_host_network && !given(s->auth.tokens_file)) {
        return err_say(e, -EINVAL, "sandbox.allow_host_network = yes needs auth.tokens_file");
    }
    if (s->sandbox.network == SETTINGS_NETWORK_HOST && !s->sandbox.allow_host_network) {
        return err_say(e, -EINVAL, "sandbox.network = host needs sandbox.allow_host_network = yes");
    }
    if (s->auth.insecure) {
        return 0;
    }
    if (!settings_addr_is_loopback(h->listen) &&
        (!given(h->tls_cert) || !given(s->auth.tokens_file))) {
        return err_say(e, -EINVAL,
                       "http.listen = %s is not loopback: set http.tls_cert, http.tls_key and "
                       "auth.tokens_file, or auth.insecure = yes",
                       h->listen);
    }
    if (!settings_addr_is_loopback(s->gossip.listen) && !given(s->gossip.key_file)) {
        return err_say(
            e, -EINVAL,
            "gossip.listen = %s is not loopback: set gossip.key_file, or auth.insecure = yes",
            s->gossip.listen);
    }
    if (!settings_addr_is_loopback(s->gossip.listen) && !given(h->tls_client_ca)) {
        return err_say(e, -EINVAL,
                       "gossip.listen = %s is not loopback: set http.tls_client_ca, by which nodes "
                       "know each other, or auth.insecure = yes",
                       s->gossip.listen);
    }
    return 0;
}

static int check_limits(const struct settings *s, struct err *e)
{
    const struct settings_sandbox *b = &s->sandbox;

    if (s->store.replicas_min > s->store.replicas) {
        return err_say(e, -EINVAL, "store.replicas_min is larger than store.replicas");
    }
    if (b->timeout_ms > b->timeout_max_ms) {
        return err_say(e, -EINVAL, "sandbox.timeout is larger than sandbox.timeout_max");
    }
    if (b->memory_max != 0 && b->memory > b->memory_max) {
        return err_say(e, -EINVAL, "sandbox.memory is larger than sandbox.memory_max");
    }
    /* Ids are 32 bits, the last one means "nobody". */
    if (s->node.slots > (UINT32_MAX - b->uid_base) / 65536) {
        return err_say(e, -EINVAL,
                       "sandbox.uid_base leaves no room for node.slots times 65536 ids");
    }
    struct str url = str_of(s->mqtt.url);
    if (url.n != 0 && !str_starts(url, "mqtt://") && !str_starts(url, "mqtts://")) {
        return err_say(e, -EINVAL, "mqtt.url begins with mqtt:// or mqtts://");
    }
    return 0;
}

static int check_pool(const char *key, const char *text, uint8_t kind, unsigned min, unsigned max,
                      struct err *e)
{
    struct egress_net net;
    int r = egress_net_parse(str_of(text), &net, e);

    if (r != 0) {
        (void)err_prefix(e, "sandbox.%s = %s", key, text);
        return r;
    }
    if (net.kind != kind || net.prefix < min || net.prefix > max) {
        return err_say(e, -EINVAL,
                       "sandbox.%s = %s is not an IPv%d network with a prefix of %u to %u", key,
                       text, kind == EGRESS_IP4 ? 4 : 6, min, max);
    }
    return 0;
}

static int check_network(const struct settings_sandbox *b, struct err *e)
{
    struct str rest = str_of(b->nat_closed);
    struct str piece;
    struct egress_rule rule;
    int r = check_pool("nat_pool4", b->nat_pool4, EGRESS_IP4, 8, 31, e);

    if (r == 0 && strcmp(b->nat_pool6, "auto") != 0 && strcmp(b->nat_pool6, "none") != 0) {
        r = check_pool("nat_pool6", b->nat_pool6, EGRESS_IP6, 16, 112, e);
    }
    if (r == 0 && b->network == SETTINGS_NETWORK_NAT && !b->allow_nat) {
        r = err_say(e, -EINVAL, "sandbox.network = nat needs sandbox.allow_nat = yes");
    }
    while (r == 0 && str_split(&rest, ',', &piece)) {
        r = egress_net_parse(piece, &rule.net, e);
        if (r != 0) {
            (void)err_prefix(e, "sandbox.nat_closed: '%.*s'", STR_ARG(piece));
        }
    }
    rest = str_of(b->nat_resolvers);
    while (r == 0 && str_split(&rest, ',', &piece)) {
        uint8_t addr[16];
        if (egress_ip4_parse(piece, addr) != 0 && egress_ip6_parse(piece, addr) != 0) {
            r = err_say(e, -EINVAL, "sandbox.nat_resolvers: '%.*s' is not an address",
                        STR_ARG(piece));
        }
    }
    rest = str_of(b->nat_open);
    while (r == 0 && str_split(&rest, ',', &piece)) {
        r = egress_parse(piece, &rule, e);
        if (r == 0 && rule.net.kind == EGRESS_NAME) {
            r = err_say(e, -EINVAL, "takes addresses, no names");
        }
        if (r != 0) {
            (void)err_prefix(e, "sandbox.nat_open: '%.*s'", STR_ARG(piece));
        }
    }
    return r;
}

int settings_check(const struct settings *s, struct err *e)
{
    int r = check_node(&s->node, e);
    if (r == 0) {
        r = check_gossip(&s->gossip, e);
    }
    if (r == 0) {
        r = check_exposure(s, e);
    }
    if (r == 0) {
        r = check_network(&s->sandbox, e);
    }
    return r == 0 ? check_limits(s, e) : r;
}

int settings_parse(const char *name, struct str text, const char *const *overrides,
                   size_t overrides_len, struct settings *ret, struct err *e)
{
    AUTO_MEM struct settings *s = mem_alloc(sizeof *s);
    AUTO_MEM struct conf_seen *seen = mem_zalloc(sizeof *seen);
    if (s == NULL || seen == NULL) {
        return err_set(e, -ENOMEM, "read %s", name);
    }
    settings_defaults(s);
    int r = conf_parse(&settings_table, name, text, s, seen, e);
    for (size_t i = 0; r == 0 && i < overrides_len; i++) {
        r = conf_override(&settings_table, overrides[i], s, seen, e);
    }
    if (r == 0) {
        r = settings_check(s, e);
    }
    if (r == 0) {
        *ret = *s;
    }
    return r;
}

/* --- reload --- */

void settings_diff(const struct settings *a, const struct settings *b, settings_changed_fn *changed,
                   void *arg)
{
    for (size_t i = 0; i < settings_table.keys_len; i++) {
        const struct conf_key *k = &settings_table.keys[i];
        if (!conf_equal(k, a, b)) {
            changed(arg, k);
        }
    }
}

int settings_reload(struct settings *s, const struct settings *next, size_t *ret_taken,
                    struct buf *kept, struct err *e)
{
    AUTO_MEM struct settings *mixed = mem_dup(s, sizeof *s);
    size_t taken = 0;
    if (mixed == NULL) {
        return err_set(e, -ENOMEM, "reload");
    }
    for (size_t i = 0; i < settings_table.keys_len; i++) {
        const struct conf_key *k = &settings_table.keys[i];
        if (conf_equal(k, s, next)) {
            continue;
        }
        if (k->reloadable) {
            memcpy((char *)mixed + k->offset, (const char *)next + k->offset, k->size);
            taken++;
        } else if (kept != NULL) {
            buf_addf(kept, "%s%s.%s", kept->len != 0 ? ", " : "", k->section, k->key);
        }
    }
    /* Both were right, but old listen addresses with new credentials may not be. */
    int r = settings_check(mixed, e);
    if (r == 0) {
        *s = *mixed;
        *ret_taken = taken;
    }
    return r;
}

void settings_example(struct buf *out)
{
    conf_example(&settings_table, out);
}
