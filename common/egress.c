#include "common/egress.h"

#include <errno.h>
#include <string.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Decimal without leading zeroes, at most max. */
static int number(struct str s, uint64_t max, uint64_t *ret)
{
    return s.n == 0 || (s.n > 1 && s.p[0] == '0') ? -EINVAL : str_u64_in(s, 0, max, ret);
}

int egress_ip4_parse(struct str text, uint8_t dst[4])
{
    uint8_t addr[4];
    struct str piece;
    size_t n = 0;
    uint64_t v;

    if (text.n < 7 || text.n > 15 || text.p[text.n - 1] == '.') {
        return -EINVAL;
    }
    while (str_split(&text, '.', &piece)) {
        if (n == 4 || number(piece, 255, &v) != 0) {
            return -EINVAL;
        }
        addr[n++] = (uint8_t)v;
    }
    if (n != 4) {
        return -EINVAL;
    }
    memcpy(dst, addr, sizeof addr);
    return 0;
}

static int hex_group(struct str s, uint8_t *dst)
{
    uint64_t v;

    if (s.n < 1 || s.n > 4 || str_hex_u64(s, &v) != 0) {
        return -EINVAL;
    }
    dst[0] = (uint8_t)(v >> 8);
    dst[1] = (uint8_t)v;
    return 0;
}

/* Groups between single colons; the last may be an IPv4 address. *ret_n: bytes written. */
static int hex_groups(struct str s, uint8_t dst[16], size_t *ret_n)
{
    size_t n = 0;

    while (s.n != 0) {
        ptrdiff_t colon = str_find(s, ':');
        struct str g = str_slice(s, 0, colon < 0 ? s.n : (size_t)colon);
        if (colon < 0 && str_find(g, '.') >= 0) {
            if (n > 12 || egress_ip4_parse(g, dst + n) != 0) {
                return -EINVAL;
            }
            n += 4;
            break;
        }
        if (n == 16 || hex_group(g, dst + n) != 0 || (colon >= 0 && (size_t)colon + 1 == s.n)) {
            return -EINVAL;
        }
        n += 2;
        s = colon < 0 ? (struct str){ NULL, 0 } : str_slice(s, (size_t)colon + 1, s.n);
    }
    *ret_n = n;
    return 0;
}

int egress_ip6_parse(struct str text, uint8_t dst[16])
{
    uint8_t head[16] = { 0 };
    uint8_t tail[16] = { 0 };
    size_t head_n = 0;
    size_t tail_n = 0;
    size_t gap = SIZE_MAX;

    if (text.n < 2 || text.n > 45) {
        return -EINVAL;
    }
    for (size_t i = 0; i + 1 < text.n && gap == SIZE_MAX; i++) {
        gap = text.p[i] == ':' && text.p[i + 1] == ':' ? i : SIZE_MAX;
    }
    struct str left = gap == SIZE_MAX ? text : str_slice(text, 0, gap);
    if (hex_groups(left, head, &head_n) != 0) {
        return -EINVAL;
    }
    if (gap == SIZE_MAX) {
        if (head_n != 16) {
            return -EINVAL;
        }
    } else if (str_find(left, '.') >= 0 ||
               hex_groups(str_slice(text, gap + 2, text.n), tail, &tail_n) != 0 ||
               head_n + tail_n > 14) {
        return -EINVAL;
    }
    memcpy(head + 16 - tail_n, tail, tail_n);
    memcpy(dst, head, sizeof head);
    return 0;
}

/* Bits of addr behind the prefix are 0? */
static bool prefix_fits(const uint8_t *addr, size_t bytes, unsigned prefix)
{
    for (size_t i = 0; i < bytes; i++) {
        unsigned covered = prefix > i * 8 ? prefix - (unsigned)i * 8 : 0;
        unsigned mask = covered >= 8 ? 0 : 0xffu >> covered;
        if ((addr[i] & mask) != 0) {
            return false;
        }
    }
    return true;
}

static const uint8_t mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

int egress_net_parse(struct str text, struct egress_net *ret, struct err *e)
{
    struct egress_net r = { .kind = EGRESS_IP4 };
    ptrdiff_t slash = str_find(text, '/');
    struct str addr = str_slice(text, 0, slash < 0 ? text.n : (size_t)slash);
    uint64_t prefix = 0;

    if (egress_ip4_parse(addr, r.addr) != 0) {
        r.kind = EGRESS_IP6;
        if (egress_ip6_parse(addr, r.addr) != 0) {
            return err_say(e, -EINVAL, "the host is not an IPv4 or IPv6 address");
        }
    }
    uint64_t bits = r.kind == EGRESS_IP4 ? 32 : 128;
    if (slash < 0) {
        prefix = bits;
    } else if (number(str_slice(text, (size_t)slash + 1, text.n), bits, &prefix) != 0) {
        return err_say(e, -EINVAL, "the prefix behind '/' is not 0 to %u", (unsigned)bits);
    }
    if (r.kind == EGRESS_IP6 && prefix >= 96 && memcmp(r.addr, mapped, sizeof mapped) == 0) {
        return err_say(e, -EINVAL, "is IPv4 in IPv6: write it as IPv4");
    }
    r.prefix = (uint8_t)prefix;
    if (!prefix_fits(r.addr, bits / 8, r.prefix)) {
        return err_say(e, -EINVAL, "the address has bits behind its prefix of %u", r.prefix);
    }
    *ret = r;
    return 0;
}

bool egress_net_ok(const struct egress_net *n)
{
    static const uint8_t none[16];
    size_t bytes = n->kind == EGRESS_IP4 ? 4 : 16;

    if (n->kind == EGRESS_ALL
            ? n->prefix != 0 || memcmp(n->addr, none, sizeof none) != 0
            : (n->kind != EGRESS_IP4 && n->kind != EGRESS_IP6) || n->prefix > bytes * 8 ||
                  !prefix_fits(n->addr, bytes, n->prefix) ||
                  memcmp(n->addr + bytes, none, 16 - bytes) != 0) {
        return false;
    }
    return (n->proto == EGRESS_ANY || n->proto == EGRESS_TCP || n->proto == EGRESS_UDP) &&
           (n->port_first == 0) == (n->port_last == 0) && n->port_first <= n->port_last;
}

bool egress_net_holds(const struct egress_net *n, uint8_t kind, const uint8_t *addr)
{
    uint8_t masked[16];
    size_t bytes = kind == EGRESS_IP4 ? 4 : 16;

    if (n->kind == EGRESS_ALL) {
        return true;
    }
    if (n->kind != kind) {
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        unsigned covered = n->prefix > i * 8 ? n->prefix - (unsigned)i * 8 : 0;
        masked[i] = (uint8_t)(addr[i] & ~(covered >= 8 ? 0 : 0xffu >> covered));
    }
    return memcmp(masked, n->addr, bytes) == 0;
}

int egress_name_parse(struct str text, char dst[EGRESS_NAME_CAP], struct err *e)
{
    size_t label = 0;
    bool digits = true; /* the last label holds nothing else */

    if (text.n > 1 && text.p[text.n - 1] == '.') {
        text.n--;
    }
    if (text.n == 0 || text.n >= EGRESS_NAME_CAP) {
        return err_say(e, -EINVAL, "the host is not 1 to %d characters", EGRESS_NAME_CAP - 1);
    }
    for (size_t i = 0; i < text.n; i++) {
        char c = lower(text.p[i]);
        bool edge = label == 0 || i + 1 == text.n || text.p[i + 1] == '.';
        if (c == '.'
                ? label == 0
                : !((c >= 'a' && c <= 'z') || is_digit(c) || c == '_' || (c == '-' && !edge)) ||
                      label == 63) {
            return err_say(e, -EINVAL,
                           "the host is no address and no DNS name (letters, digits, '-', '_' and "
                           "dots; \"*.\" only in front)");
        }
        digits = c == '.' || (digits && is_digit(c));
        label = c == '.' ? 0 : label + 1;
        dst[i] = c;
    }
    dst[text.n] = '\0';
    return digits ? err_say(e, -EINVAL,
                            "the host ends with a number, but is no IPv4 address (four numbers "
                            "from 0 to 255)")
                  : 0;
}

bool egress_name_matches(const struct egress_rule *r, struct str name)
{
    if (r->net.kind != EGRESS_NAME) {
        return false;
    }
    if (r->name[0] != '*') {
        return str_eqs(name, r->name);
    }
    size_t n = strlen(r->name + 1); /* with its dot */
    return name.n > n && memcmp(name.p + name.n - n, r->name + 1, n) == 0;
}

static int parse_ports(struct str s, struct egress_net *r, struct err *e)
{
    ptrdiff_t dash = str_find(s, '-');
    struct str first = str_slice(s, 0, dash < 0 ? s.n : (size_t)dash);
    struct str last = dash < 0 ? first : str_slice(s, (size_t)dash + 1, s.n);
    uint64_t a;
    uint64_t b;

    if (str_eqs(s, "*")) {
        return 0;
    }
    if (number(first, 65535, &a) != 0 || number(last, 65535, &b) != 0 || a == 0 || a > b) {
        return err_say(e, -EINVAL,
                       "the ports behind ':' are not one of 1 to 65535, a range such as 8000-8099, "
                       "or '*'");
    }
    r->port_first = (uint16_t)a;
    r->port_last = (uint16_t)b;
    return 0;
}

/* The host as it stands, without brackets. */
static int parse_host(struct str s, bool bracketed, struct egress_rule *r, struct err *e)
{
    struct egress_net net;
    bool slash = str_find(s, '/') >= 0;

    if (!bracketed && str_eqs(s, "*")) {
        r->net.kind = EGRESS_ALL;
        return 0;
    }
    if (bracketed || slash || str_find(s, ':') >= 0 || egress_ip4_parse(s, net.addr) == 0) {
        int rc = egress_net_parse(s, &net, e);
        if (rc == 0 && bracketed && net.kind != EGRESS_IP6) {
            rc = err_say(e, -EINVAL, "only IPv6 stands in brackets");
        }
        if (rc == 0) {
            net.proto = r->net.proto;
            net.port_first = r->net.port_first;
            net.port_last = r->net.port_last;
            r->net = net;
        }
        return rc;
    }
    bool wild = s.n > 2 && s.p[0] == '*' && s.p[1] == '.';
    r->net.kind = EGRESS_NAME;
    int rc = egress_name_parse(wild ? str_slice(s, 2, s.n) : s, r->name, e);
    size_t n = rc == 0 ? strlen(r->name) : 0;
    if (wild && n + 2 >= EGRESS_NAME_CAP) {
        return err_say(e, -EINVAL, "the host is not 1 to %d characters", EGRESS_NAME_CAP - 1);
    }
    if (rc == 0 && wild) {
        memmove(r->name + 2, r->name, n + 1);
        memcpy(r->name, "*.", 2);
    }
    return rc;
}

int egress_parse(struct str text, struct egress_rule *ret, struct err *e)
{
    struct egress_rule r = { 0 };
    struct str ports = { NULL, 0 };
    bool has_ports = false;
    bool bracketed = text.n != 0 && text.p[0] == '[';
    int rc = 0;

    if (text.n == 0 || text.n > EGRESS_TEXT_MAX) {
        return err_say(e, -EINVAL, "a rule is 1 to %d characters: host[:ports][/tcp|/udp]",
                       EGRESS_TEXT_MAX);
    }
    if (str_ends(text, "/tcp") || str_ends(text, "/udp")) {
        r.net.proto = str_ends(text, "/tcp") ? EGRESS_TCP : EGRESS_UDP;
        text.n -= 4;
    }
    struct str host = text;
    ptrdiff_t colon = str_rfind(text, ':');
    if (bracketed) {
        ptrdiff_t end = str_find(text, ']');
        if (end < 0) {
            return err_say(e, -EINVAL, "'[' has no ']'");
        }
        host = str_slice(text, 1, (size_t)end - 1);
        ports = str_slice(text, (size_t)end + 1, text.n);
        has_ports = ports.n != 0;
        if (has_ports && ports.p[0] != ':') {
            return err_say(e, -EINVAL, "behind ']' comes nothing, or ':' and ports");
        }
        ports = str_slice(ports, 1, ports.n);
    } else if (colon >= 0 && str_find(text, ':') == colon) {
        host = str_slice(text, 0, (size_t)colon);
        ports = str_slice(text, (size_t)colon + 1, text.n);
        has_ports = true;
    }
    if (has_ports) {
        rc = parse_ports(ports, &r.net, e);
    }
    if (rc == 0) {
        rc = parse_host(host, bracketed, &r, e);
    }
    if (rc == 0) {
        *ret = r;
    }
    return rc;
}
