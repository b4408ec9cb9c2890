/* Names, addresses, metadata, and the numbers of the profiles. */
#include <errno.h>
#include <stdio.h>

#include "agent/gossip/gossip.h"
#include "common/buf.h"
#include "common/cur.h"
#include "common/insist.h"

/* --- names --- */

static const char *const state_names[] = {
    [GOSSIP_ALIVE] = "alive",
    [GOSSIP_SUSPECT] = "suspect",
    [GOSSIP_DEAD] = "dead",
    [GOSSIP_LEFT] = "left",
};
_Static_assert(GOSSIP_ALIVE == 0 && GOSSIP_SUSPECT == 1 && GOSSIP_DEAD == 2 && GOSSIP_LEFT == 3,
               "wire");

static const char *const change_names[] = {
    [GOSSIP_JOINED] = "joined",   [GOSSIP_UPDATED] = "updated", [GOSSIP_SUSPECTED] = "suspected",
    [GOSSIP_CLEARED] = "cleared", [GOSSIP_DIED] = "died",       [GOSSIP_WENT] = "left",
    [GOSSIP_REAPED] = "reaped",
};

static const struct {
    const char *name;
    const char *help;
} counters[GOSSIP_COUNTERS] = {
    [GOSSIP_C_PACKETS_IN] = { "packets_received_total", "Datagrams taken." },
    [GOSSIP_C_PACKETS_OUT] = { "packets_sent_total", "Datagrams sent." },
    [GOSSIP_C_BYTES_IN] = { "received_bytes_total", "Bytes of datagrams taken." },
    [GOSSIP_C_BYTES_OUT] = { "sent_bytes_total", "Bytes of datagrams sent." },
    [GOSSIP_C_STREAMS_IN] = { "streams_accepted_total", "Stream messages taken." },
    [GOSSIP_C_STREAMS_OUT] = { "streams_opened_total", "Streams opened." },
    [GOSSIP_C_PROBES] = { "probes_total", "Members probed." },
    [GOSSIP_C_PROBES_FAILED] = { "probes_failed_total", "Probes that no answer came to." },
    [GOSSIP_C_INDIRECT] = { "indirect_probes_total", "Probes that others were asked for." },
    [GOSSIP_C_SUSPICIONS] = { "suspicions_total", "Suspicions that this node raised." },
    [GOSSIP_C_REFUTED] = { "refutations_total", "Words against this node that it refuted." },
    [GOSSIP_C_DIED] = { "deaths_declared_total", "Members that this node declared dead." },
    [GOSSIP_C_PULLS] = { "pulls_total", "Exchanges of views begun." },
    [GOSSIP_C_PULLS_FAILED] = { "pulls_failed_total", "Exchanges of views that failed." },
    [GOSSIP_C_VIEW_DIFFERS] = { "view_differences_total", "Acks that told of another view." },
    [GOSSIP_C_RECONNECTS] = { "reconnects_total", "Tries to reach lost members." },
    [GOSSIP_C_STALLS] = { "stalls_total", "Times this node lagged and passed no verdict." },
    [GOSSIP_C_CONFLICTS] = { "name_conflicts_total", "Words of a member at another address." },
    [GOSSIP_C_USER_IN] = { "messages_received_total", "Messages for this node's application." },
    [GOSSIP_C_USER_OUT] = { "messages_sent_total", "Messages to others' applications." },
    [GOSSIP_C_DROP_MALFORMED] = { "dropped_malformed_total", "Messages that did not read." },
    [GOSSIP_C_DROP_UNKNOWN] = { "dropped_unknown_total", "Messages of unknown type or member." },
    [GOSSIP_C_DROP_STALE] = { "dropped_stale_total", "Repeated or old application messages." },
    [GOSSIP_C_DROP_INCARNATION] = { "dropped_incarnation_total", "Impossible incarnations." },
    [GOSSIP_C_DROP_FULL] = { "dropped_full_total", "Things for which there was no place." },
    [GOSSIP_C_DROP_VERSION] = { "dropped_version_total", "Views refused for their versions." },
    [GOSSIP_C_DROP_MEMORY] = { "dropped_memory_total", "Steps that lacked memory." },
};

static const char *name_of(const char *const *names, size_t n, unsigned i)
{
    return i < n && names[i] != NULL ? names[i] : "?";
}

const char *gossip_state_name(enum gossip_state s)
{
    return name_of(state_names, ARRAY_LEN(state_names), s);
}

const char *gossip_change_name(enum gossip_change c)
{
    return name_of(change_names, ARRAY_LEN(change_names), c);
}

const char *gossip_counter_name(enum gossip_counter c)
{
    return (unsigned)c < GOSSIP_COUNTERS ? counters[c].name : "?";
}

const char *gossip_counter_help(enum gossip_counter c)
{
    return (unsigned)c < GOSSIP_COUNTERS ? counters[c].help : "?";
}

/* --- addresses --- */

static const uint8_t mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF };

/* The four bytes of IPv4, however it is written; NULL: it is IPv6. */
static const uint8_t *ipv4_of(const struct gossip_addr *a)
{
    if (a->len == 4) {
        return a->ip;
    }
    return a->len == 16 && memcmp(a->ip, mapped, sizeof(mapped)) == 0 ? a->ip + 12 : NULL;
}

bool gossip_addr_same(const struct gossip_addr *a, const struct gossip_addr *b)
{
    const uint8_t *a4 = ipv4_of(a);
    const uint8_t *b4 = ipv4_of(b);

    if (a->port != b->port || (a4 == NULL) != (b4 == NULL)) {
        return false;
    }
    return a4 != NULL ? memcmp(a4, b4, 4) == 0
                      : a->len == b->len && memcmp(a->ip, b->ip, a->len) == 0;
}

const char *gossip_addr_format(const struct gossip_addr *a, char dst[GOSSIP_ADDR_TEXT_CAP])
{
    const uint8_t *v4 = ipv4_of(a);

    if (v4 != NULL) {
        (void)snprintf(dst, GOSSIP_ADDR_TEXT_CAP, "%u.%u.%u.%u:%u", v4[0], v4[1], v4[2], v4[3],
                       a->port);
        return dst;
    }
    if (a->len != 16) {
        (void)snprintf(dst, GOSSIP_ADDR_TEXT_CAP, "-");
        return dst;
    }
    size_t n = 1;
    dst[0] = '[';
    /* The longest run of zero groups is left out (RFC 5952). */
    unsigned best = 8, best_len = 1;
    for (unsigned i = 0; i < 8; i++) {
        unsigned len = 0;
        while (i + len < 8 && a->ip[2 * (i + len)] == 0 && a->ip[2 * (i + len) + 1] == 0) {
            len++;
        }
        if (len > best_len) {
            best = i;
            best_len = len;
        }
    }
    for (unsigned i = 0; i < 8; i++) {
        if (i == best) {
            n += (size_t)snprintf(dst + n, GOSSIP_ADDR_TEXT_CAP - n, "::");
            i += best_len - 1;
        } else {
            unsigned group = (unsigned)a->ip[2 * i] << 8 | a->ip[2 * i + 1];
            n += (size_t)snprintf(dst + n, GOSSIP_ADDR_TEXT_CAP - n, "%s%x",
                                  i > 0 && i != best + best_len ? ":" : "", group);
        }
    }
    (void)snprintf(dst + n, GOSSIP_ADDR_TEXT_CAP - n, "]:%u", a->port);
    return dst;
}

static int parse_v4(struct str s, uint8_t dst[4])
{
    struct str piece;
    uint64_t v;
    unsigned n = 0;

    while (str_split(&s, '.', &piece)) {
        if (n == 4 || piece.n > 3 || str_u64_in(piece, 0, 255, &v) != 0) {
            return -EINVAL;
        }
        dst[n++] = (uint8_t)v;
    }
    return n == 4 ? 0 : -EINVAL;
}

/* Groups of hex digits with colons between them. -1: malformed. */
static int parse_groups(struct str s, uint16_t *dst, int max)
{
    struct str piece;
    uint64_t v;
    int n = 0;

    if (s.n != 0 && s.p[s.n - 1] == ':') {
        return -1;
    }
    while (str_split(&s, ':', &piece)) {
        if (n == max || piece.n == 0 || piece.n > 4 || str_hex_u64(piece, &v) != 0) {
            return -1;
        }
        dst[n++] = (uint16_t)v;
    }
    return n;
}

static int parse_v6(struct str s, uint8_t dst[16])
{
    uint16_t front[8] = { 0 };
    uint16_t back[8] = { 0 };
    ptrdiff_t gap = -1;
    int nb = 0;

    for (size_t i = 0; i + 1 < s.n && gap < 0; i++) {
        gap = s.p[i] == ':' && s.p[i + 1] == ':' ? (ptrdiff_t)i : -1;
    }
    int nf = parse_groups(gap < 0 ? s : str_slice(s, 0, (size_t)gap), front, 8);
    if (gap >= 0) {
        nb = parse_groups(str_slice(s, (size_t)gap + 2, SIZE_MAX), back, 8);
    }
    if (nf < 0 || nb < 0 || (gap < 0 ? nf != 8 : nf + nb > 7)) {
        return -EINVAL;
    }
    for (int i = 0; i < nb; i++) {
        front[8 - nb + i] = back[i];
    }
    for (unsigned i = 0; i < 8; i++) {
        dst[2 * i] = (uint8_t)(front[i] >> 8);
        dst[2 * i + 1] = (uint8_t)front[i];
    }
    return 0;
}

int gossip_addr_parse(struct str s, struct gossip_addr *ret)
{
    struct gossip_addr a = { .len = 4 };
    ptrdiff_t colon = str_rfind(s, ':');
    uint64_t port;

    if (colon < 0 ||
        str_u64_in(str_slice(s, (size_t)colon + 1, SIZE_MAX), 0, UINT16_MAX, &port) != 0) {
        return -EINVAL;
    }
    struct str host = str_slice(s, 0, (size_t)colon);
    if (host.n >= 2 && host.p[0] == '[' && host.p[host.n - 1] == ']') {
        a.len = 16;
        host = str_slice(host, 1, host.n - 2);
    }
    int rc = a.len == 16 ? parse_v6(host, a.ip) : parse_v4(host, a.ip);
    if (rc == 0) {
        a.port = (uint16_t)port;
        *ret = a;
    }
    return rc;
}

/* --- metadata --- */

enum { META_MAGIC = 0xC5A9 };
enum meta_tag {
    META_FEATURES = 1,
    META_HTTP_PORT = 2,
    META_HTTP_IP = 3,
    META_CLASS = 4,
    META_CAPS = 5,
    META_BOOT = 6,
};

static void put_number(struct buf *b, enum meta_tag tag, uint64_t v, unsigned bytes)
{
    if (v == 0) {
        return;
    }
    (void)buf_add_u8(b, (uint8_t)tag);
    (void)buf_add_u8(b, (uint8_t)bytes);
    for (unsigned i = bytes; i > 0; i--) {
        (void)buf_add_u8(b, (uint8_t)(v >> (8 * (i - 1))));
    }
}

void gossip_meta_write(const struct gossip_meta *m, uint8_t dst[GOSSIP_META_OWN_MAX],
                       size_t *ret_len)
{
    struct buf b = { .data = (char *)dst,
                     .cap = GOSSIP_META_OWN_MAX,
                     .max = GOSSIP_META_OWN_MAX - 1 };

    REQUIRE(m->http_ip_len == 0 || m->http_ip_len == 4 || m->http_ip_len == 16);
    (void)buf_add_be16(&b, META_MAGIC);
    put_number(&b, META_FEATURES, m->features, 2);
    put_number(&b, META_HTTP_PORT, m->http_port, 2);
    if (m->http_ip_len != 0) {
        (void)buf_add_u8(&b, META_HTTP_IP);
        (void)buf_add_u8(&b, m->http_ip_len);
        (void)buf_add(&b, m->http_ip, m->http_ip_len);
    }
    put_number(&b, META_CLASS, m->class_hash, 8);
    put_number(&b, META_CAPS, m->caps_hash, 8);
    put_number(&b, META_BOOT, m->boot, 8);
    INSIST(buf_error(&b) == 0 && b.data == (char *)dst);
    *ret_len = b.len;
}

static uint64_t number_of(struct str s)
{
    uint64_t v = 0;
    for (size_t i = 0; i < s.n && i < 8; i++) {
        v = v << 8 | (uint8_t)s.p[i];
    }
    return v;
}

static void take_field(struct gossip_meta *m, uint8_t tag, struct str value)
{
    switch (tag) {
    case META_FEATURES:
        m->features = (uint16_t)number_of(value);
        break;
    case META_HTTP_PORT:
        m->http_port = (uint16_t)number_of(value);
        break;
    case META_HTTP_IP:
        if (value.n == 4 || value.n == 16) {
            memcpy(m->http_ip, value.p, value.n);
            m->http_ip_len = (uint8_t)value.n;
        }
        break;
    case META_CLASS:
        m->class_hash = number_of(value);
        break;
    case META_CAPS:
        m->caps_hash = number_of(value);
        break;
    case META_BOOT:
        m->boot = number_of(value);
        break;
    default:
        break; /* a newer node's */
    }
}

bool gossip_meta_read(struct str meta, struct gossip_meta *ret)
{
    struct cur c;

    *ret = (struct gossip_meta){ .features = 0 };
    cur_init(&c, meta.p, meta.n);
    if (cur_be16(&c) != META_MAGIC || !cur_ok(&c)) {
        return false;
    }
    while (cur_left(&c) > 0) {
        uint8_t tag = cur_u8(&c);
        struct str value = cur_bytes(&c, cur_u8(&c));
        if (!cur_ok(&c)) {
            break; /* what came before it counts */
        }
        take_field(ret, tag, value);
    }
    return true;
}

/* --- profiles --- */

static const struct gossip_params profiles[] = {
    [GOSSIP_LAN] = { .probe_interval_ms = 1000,
                     .probe_timeout_ms = 500,
                     .probe_floor_ms = 250,
                     .indirect = 3,
                     .gossip_interval_ms = 200,
                     .gossip_nodes = 3,
                     .dead_ms = 30000,
                     .pull_interval_ms = 30000,
                     .suspicion_mult = 4,
                     .suspicion_max_mult = 6,
                     .suspicion_fast_ms = 2000,
                     .awareness_max = 8,
                     .stream_timeout_ms = 10000,
                     .reconnect_ms = 10000,
                     .remember_ms = 72 * 3600 * 1000 },
    [GOSSIP_WAN] = { .probe_interval_ms = 5000,
                     .probe_timeout_ms = 3000,
                     .probe_floor_ms = 1000,
                     .indirect = 3,
                     .gossip_interval_ms = 500,
                     .gossip_nodes = 4,
                     .dead_ms = 60000,
                     .pull_interval_ms = 60000,
                     .suspicion_mult = 6,
                     .suspicion_max_mult = 6,
                     .suspicion_fast_ms = 10000,
                     .awareness_max = 8,
                     .stream_timeout_ms = 30000,
                     .reconnect_ms = 20000,
                     .remember_ms = 72 * 3600 * 1000 },
    [GOSSIP_LOCAL] = { .probe_interval_ms = 1000,
                       .probe_timeout_ms = 200,
                       .probe_floor_ms = 100,
                       .indirect = 1,
                       .gossip_interval_ms = 100,
                       .gossip_nodes = 3,
                       .dead_ms = 15000,
                       .pull_interval_ms = 15000,
                       .suspicion_mult = 3,
                       .suspicion_max_mult = 6,
                       .suspicion_fast_ms = 1500,
                       .awareness_max = 8,
                       .stream_timeout_ms = 1000,
                       .reconnect_ms = 5000,
                       .remember_ms = 72 * 3600 * 1000 },
};

void gossip_params_for(enum gossip_profile profile, struct gossip_params *ret)
{
    REQUIRE((unsigned)profile < ARRAY_LEN(profiles));
    *ret = profiles[profile];
}
