/*
 * The rule set, as nf_tables messages. In nft's own words, for slot 3 of a node with the tag
 * 12345678 (names in capitals are constants of this file):
 *
 *     table inet agent_12345678 {
 *         set closed4 { type ipv4_addr; flags interval; … }    set closed6 { … }
 *         map zone    { type ifname : verdict; "ag345678-3" : jump z3 }
 *         map egress  { "ag345678-3" : goto e3 }   map inbound { "ag345678-3" : goto i3 }
 *         chain prerouting { type filter hook prerouting priority raw;
 *             iifname vmap @zone
 *             iifname "ag345678-*" drop }
 *         chain input { type filter hook input priority filter;
 *             iifname "ag345678-*" jump local }
 *         chain output { type filter hook output priority filter;
 *             oifname "ag345678-*" meta l4proto { tcp, udp } ct state new drop }
 *         chain forward { type filter hook forward priority filter;
 *             iifname "ag345678-*" jump out
 *             oifname vmap @inbound
 *             oifname "ag345678-*" drop
 *             [drop, where forwarding is on for our slots alone] }
 *         chain postrouting { type nat hook postrouting priority srcnat;
 *             ip saddr POOL4 oifname != "ag345678-*" masquerade, and of ip6 }
 *         chain local { icmpv6 type { 135, 136 } accept; OPEN iifname vmap @egress; goto denied }
 *         chain out { oifname "ag345678-*" goto denied; OPEN iifname vmap @egress;
 *             ip daddr @closed4 goto denied; ip6 daddr @closed6 goto denied
 *             iifname vmap @egress; drop }
 *         chain denied { reject with icmpx admin-prohibited }
 *         chain z3 { ip saddr != SLOT4 drop; ip6 saddr != { SLOT6, fe80::/10 } drop
 *             ct original zone set ZONE; accept }
 *         chain e3 { the run's own list … accept; goto denied }
 *         chain i3 { ct original zone ZONE ct direction reply accept; drop }
 *     }
 *
 * What a job sends is judged packet by packet, never by "established": a connection of the slot's
 * last run opens nothing for the next one. The zone does the same for what comes back.
 */
#include <endian.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tuple_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>

#include "agent/sandbox/sandbox_netlink.h"
#include "common/insist.h"

enum {
    REG = NFT_REG_1,
    IFNAME = 16,
    TYPE_IFNAME = 41, /* these three are only for nft's own listing */
    TYPE_IP4 = 7,
    TYPE_IP6 = 8,
    ICMP6 = 58,
    ICMP6_SOLICIT = 135,
    ICMP6_ADVERT = 136,
    PRIORITY_RAW = -300,
    PRIORITY_SRCNAT = 100,
};

enum { SET_CLOSED4 = 1, SET_CLOSED6, SET_ZONE, SET_EGRESS, SET_INBOUND };

static const struct {
    const char *name;
    uint32_t flags, key_type, key_len;
} sets[] = {
    [SET_CLOSED4] = { "closed4", NFT_SET_INTERVAL, TYPE_IP4, 4 },
    [SET_CLOSED6] = { "closed6", NFT_SET_INTERVAL, TYPE_IP6, 16 },
    [SET_ZONE] = { "zone", NFT_SET_MAP, TYPE_IFNAME, IFNAME },
    [SET_EGRESS] = { "egress", NFT_SET_MAP, TYPE_IFNAME, IFNAME },
    [SET_INBOUND] = { "inbound", NFT_SET_MAP, TYPE_IFNAME, IFNAME },
};

static const char *const marks[] = {
    [NFT_MARK_FORWARD4] = "forwards4",
    [NFT_MARK_FORWARD6] = "forwards6",
};

/* ---- messages ---- */

static void begin(struct nl *n, uint16_t type, uint16_t flags)
{
    const struct nfgenmsg g = { .nfgen_family = NFPROTO_INET, .version = NFNETLINK_V0 };
    sandbox_nl_begin(n, (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type), flags, &g, sizeof(g));
}

static void batch(struct nl *n, uint16_t type)
{
    const struct nfgenmsg g = { .nfgen_family = NFPROTO_UNSPEC,
                                .version = NFNETLINK_V0,
                                .res_id = htobe16(NFNL_SUBSYS_NFTABLES) };
    sandbox_nl_begin(n, type, 0, &g, sizeof(g));
    sandbox_nl_end(n);
}

/* The last message of every batch: a no-op that is answered when the whole has been committed. */
static void batch_end(struct nl *n, const struct nat_plan *p)
{
    begin(n, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK);
    sandbox_nl_text(n, NFTA_TABLE_NAME, p->table);
    sandbox_nl_end(n);
    batch(n, NFNL_MSG_BATCH_END);
}

static void chain(struct nl *n, const struct nat_plan *p, uint16_t type, const char *name)
{
    begin(n, type, type == NFT_MSG_NEWCHAIN ? NLM_F_CREATE : 0);
    sandbox_nl_text(n, NFTA_CHAIN_TABLE, p->table);
    sandbox_nl_text(n, NFTA_CHAIN_NAME, name);
    sandbox_nl_end(n);
}

static void base_chain(struct nl *n, const struct nat_plan *p, const char *name, const char *type,
                       uint32_t hook, int32_t priority)
{
    begin(n, NFT_MSG_NEWCHAIN, NLM_F_CREATE);
    sandbox_nl_text(n, NFTA_CHAIN_TABLE, p->table);
    sandbox_nl_text(n, NFTA_CHAIN_NAME, name);
    sandbox_nl_nest(n, NFTA_CHAIN_HOOK);
    sandbox_nl_be32(n, NFTA_HOOK_HOOKNUM, hook);
    sandbox_nl_be32(n, NFTA_HOOK_PRIORITY, (uint32_t)priority);
    sandbox_nl_unnest(n);
    sandbox_nl_be32(n, NFTA_CHAIN_POLICY, NF_ACCEPT);
    sandbox_nl_text(n, NFTA_CHAIN_TYPE, type);
    sandbox_nl_end(n);
}

/* Every rule of the chain. */
static void flush_chain(struct nl *n, const struct nat_plan *p, const char *name)
{
    begin(n, NFT_MSG_DELRULE, 0);
    sandbox_nl_text(n, NFTA_RULE_TABLE, p->table);
    sandbox_nl_text(n, NFTA_RULE_CHAIN, name);
    sandbox_nl_end(n);
}

/* For nft's listing alone: the key's bytes are in the host's order, which it takes as text. */
static const uint8_t key_is_text[] = { 0, 4, 1, 0, 0, 0 };

static void make_set(struct nl *n, const struct nat_plan *p, unsigned set)
{
    begin(n, NFT_MSG_NEWSET, NLM_F_CREATE);
    sandbox_nl_text(n, NFTA_SET_TABLE, p->table);
    sandbox_nl_text(n, NFTA_SET_NAME, sets[set].name);
    sandbox_nl_be32(n, NFTA_SET_FLAGS, sets[set].flags);
    sandbox_nl_be32(n, NFTA_SET_KEY_TYPE, sets[set].key_type);
    sandbox_nl_be32(n, NFTA_SET_KEY_LEN, sets[set].key_len);
    if (sets[set].flags == NFT_SET_MAP) {
        sandbox_nl_be32(n, NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
    }
    sandbox_nl_be32(n, NFTA_SET_ID, set);
    if (sets[set].key_type == TYPE_IFNAME) {
        sandbox_nl_put(n, NFTA_SET_USERDATA, key_is_text, sizeof(key_is_text));
    }
    sandbox_nl_end(n);
}

static void elements(struct nl *n, const struct nat_plan *p, unsigned set, uint16_t type)
{
    begin(n, type, type == NFT_MSG_NEWSETELEM ? NLM_F_CREATE : 0);
    sandbox_nl_text(n, NFTA_SET_ELEM_LIST_TABLE, p->table);
    sandbox_nl_text(n, NFTA_SET_ELEM_LIST_SET, sets[set].name);
}

static void value(struct nl *n, uint16_t attr, const void *v, size_t len)
{
    sandbox_nl_nest(n, attr);
    sandbox_nl_put(n, NFTA_DATA_VALUE, v, len);
    sandbox_nl_unnest(n);
}

static void verdict(struct nl *n, uint16_t attr, int code, const char *to)
{
    sandbox_nl_nest(n, attr);
    sandbox_nl_nest(n, NFTA_DATA_VERDICT);
    sandbox_nl_be32(n, NFTA_VERDICT_CODE, (uint32_t)code);
    if (to != NULL) {
        sandbox_nl_text(n, NFTA_VERDICT_CHAIN, to);
    }
    sandbox_nl_unnest(n);
    sandbox_nl_unnest(n);
}

/* ---- rules: expressions between rule() and done() ---- */

static void rule_at(struct nl *n, const struct nat_plan *p, const char *in, uint16_t where)
{
    begin(n, NFT_MSG_NEWRULE, (uint16_t)(NLM_F_CREATE | where));
    sandbox_nl_text(n, NFTA_RULE_TABLE, p->table);
    sandbox_nl_text(n, NFTA_RULE_CHAIN, in);
    sandbox_nl_nest(n, NFTA_RULE_EXPRESSIONS);
}

static void rule(struct nl *n, const struct nat_plan *p, const char *in)
{
    rule_at(n, p, in, NLM_F_APPEND);
}

static void done(struct nl *n)
{
    sandbox_nl_unnest(n);
    sandbox_nl_end(n);
}

static void expr(struct nl *n, const char *name)
{
    sandbox_nl_nest(n, NFTA_LIST_ELEM);
    sandbox_nl_text(n, NFTA_EXPR_NAME, name);
    sandbox_nl_nest(n, NFTA_EXPR_DATA);
}

static void expr_end(struct nl *n)
{
    sandbox_nl_unnest(n);
    sandbox_nl_unnest(n);
}

static void x_cmp(struct nl *n, uint32_t op, const void *v, size_t len)
{
    expr(n, "cmp");
    sandbox_nl_be32(n, NFTA_CMP_SREG, REG);
    sandbox_nl_be32(n, NFTA_CMP_OP, op);
    value(n, NFTA_CMP_DATA, v, len);
    expr_end(n);
}

static void x_meta(struct nl *n, uint32_t key)
{
    expr(n, "meta");
    sandbox_nl_be32(n, NFTA_META_KEY, key);
    sandbox_nl_be32(n, NFTA_META_DREG, REG);
    expr_end(n);
}

static void x_payload(struct nl *n, uint32_t base, uint32_t offset, uint32_t len)
{
    expr(n, "payload");
    sandbox_nl_be32(n, NFTA_PAYLOAD_DREG, REG);
    sandbox_nl_be32(n, NFTA_PAYLOAD_BASE, base);
    sandbox_nl_be32(n, NFTA_PAYLOAD_OFFSET, offset);
    sandbox_nl_be32(n, NFTA_PAYLOAD_LEN, len);
    expr_end(n);
}

static void x_mask(struct nl *n, const void *mask, size_t len)
{
    static const uint8_t zero[16];
    expr(n, "bitwise");
    sandbox_nl_be32(n, NFTA_BITWISE_SREG, REG);
    sandbox_nl_be32(n, NFTA_BITWISE_DREG, REG);
    sandbox_nl_be32(n, NFTA_BITWISE_LEN, (uint32_t)len);
    value(n, NFTA_BITWISE_MASK, mask, len);
    value(n, NFTA_BITWISE_XOR, zero, len);
    expr_end(n);
}

static void x_ct(struct nl *n, uint32_t key, int direction)
{
    expr(n, "ct");
    sandbox_nl_be32(n, NFTA_CT_KEY, key);
    if (direction >= 0) {
        sandbox_nl_u8(n, NFTA_CT_DIRECTION, (uint8_t)direction);
    }
    sandbox_nl_be32(n, NFTA_CT_DREG, REG);
    expr_end(n);
}

/* Is the register's value in the set; of a map: what it says of it is the verdict. */
static void x_lookup(struct nl *n, unsigned set)
{
    expr(n, "lookup");
    sandbox_nl_text(n, NFTA_LOOKUP_SET, sets[set].name);
    sandbox_nl_be32(n, NFTA_LOOKUP_SREG, REG);
    if (sets[set].flags == NFT_SET_MAP) {
        sandbox_nl_be32(n, NFTA_LOOKUP_DREG, NFT_REG_VERDICT);
    }
    sandbox_nl_be32(n, NFTA_LOOKUP_SET_ID, set);
    expr_end(n);
}

static void x_verdict(struct nl *n, int code, const char *to)
{
    expr(n, "immediate");
    sandbox_nl_be32(n, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
    verdict(n, NFTA_IMMEDIATE_DATA, code, to);
    expr_end(n);
}

static void x_byte(struct nl *n, uint32_t meta_key, uint8_t is)
{
    x_meta(n, meta_key);
    x_cmp(n, NFT_CMP_EQ, &is, 1);
}

/* Is (or is not) one of our interfaces. */
static void x_link(struct nl *n, const struct nat_plan *p, uint32_t meta_key, uint32_t op)
{
    x_meta(n, meta_key);
    x_cmp(n, op, p->prefix, strlen(p->prefix));
}

static void x_map(struct nl *n, uint32_t meta_key, unsigned set)
{
    x_meta(n, meta_key);
    x_lookup(n, set);
}

/* The source (or destination) lies (does not lie) in the network; the family is checked before. */
static void x_addr(struct nl *n, bool source, uint32_t op, const uint8_t *addr, size_t len,
                   unsigned prefix)
{
    uint8_t mask[16] = { 0 };
    for (unsigned i = 0; i < prefix; i++) {
        mask[i / 8] = (uint8_t)(mask[i / 8] | 0x80 >> i % 8);
    }
    uint32_t offset = len == 4 ? (source ? 12 : 16) : (source ? 8 : 24);
    x_payload(n, NFT_PAYLOAD_NETWORK_HEADER, offset, (uint32_t)len);
    if (prefix < len * 8) {
        x_mask(n, mask, len);
    }
    x_cmp(n, op, addr, len);
}

/* ---- destinations ---- */

static void x_net(struct nl *n, const struct egress_net *d, uint8_t proto)
{
    if (d->kind == EGRESS_IP4 || d->kind == EGRESS_IP6) {
        bool four = d->kind == EGRESS_IP4;
        x_byte(n, NFT_META_NFPROTO, four ? NFPROTO_IPV4 : NFPROTO_IPV6);
        if (d->prefix != 0) {
            x_addr(n, false, NFT_CMP_EQ, d->addr, four ? 4 : 16, d->prefix);
        }
    }
    if (proto != EGRESS_ANY) {
        x_byte(n, NFT_META_L4PROTO, proto);
    }
    if (d->port_first != 0) {
        const uint16_t first = htobe16(d->port_first);
        const uint16_t last = htobe16(d->port_last);
        x_payload(n, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
        if (first == last) {
            x_cmp(n, NFT_CMP_EQ, &first, 2);
        } else {
            x_cmp(n, NFT_CMP_GTE, &first, 2);
            x_cmp(n, NFT_CMP_LTE, &last, 2);
        }
    }
}

/* One rule, or two (TCP, UDP), that say the verdict of what goes to d: accept, or (a map) what it
 * says of the interface. */
static void net_rules(struct nl *n, const struct nat_plan *p, const char *in,
                      const struct egress_net *d, unsigned map, uint16_t where)
{
    uint8_t protos[2] = { d->proto, EGRESS_UDP };
    size_t count = 1;
    if (d->port_first != 0 && d->proto == EGRESS_ANY) {
        protos[0] = EGRESS_TCP;
        count = 2;
    }
    for (size_t i = 0; i < count; i++) {
        rule_at(n, p, in, where);
        x_net(n, d, protos[i]);
        if (map != 0) {
            x_map(n, NFT_META_IIFNAME, map);
        } else {
            x_verdict(n, NF_ACCEPT, NULL);
        }
        done(n);
    }
}

size_t sandbox_nft_closed(struct egress_net *dst, size_t cap)
{
    static const char *const texts[] = {
        "0.0.0.0/8",           /* this network */
        "127.0.0.0/8",         /* loopback */
        "169.254.0.0/16",      /* link-local, and most clouds' metadata */
        "192.0.0.192/32",      /* metadata: Oracle */
        "100.100.100.200/32",  /* metadata: Alibaba */
        "168.63.129.16/32",    /* the host's agent: Azure */
        "224.0.0.0/4",         /* multicast */
        "240.0.0.0/4",         /* reserved, broadcast */
        "::/32",               /* unspecified, loopback, IPv4 in IPv6 */
        "64:ff9b::7f00:0/104", /* through NAT64: loopback, link-local */
        "64:ff9b::a9fe:0/112",
        "fe80::/10",         /* link-local */
        "fec0::/10",         /* site-local */
        "ff00::/8",          /* multicast */
        "fd00:ec2::254/128", /* metadata: EC2 */
        "fd20:ce::254/128",  /* metadata: GCE */
        "fd00:42::42/128",   /* metadata: Scaleway */
    };
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(texts) && n < cap; i++) {
        struct err e = { 0 };
        struct egress_net net;
        int rc = egress_net_parse(str_of(texts[i]), &net, &e);
        INSIST(rc == 0);
        dst[n++] = net;
    }
    return n;
}

/* Networks are nested or apart, never half in each other: what lies in another one is left out, and
 * the rest sorted by value. */
static size_t nets_of(const struct nft_common *c, const struct egress_net *pool, uint8_t kind,
                      struct egress_net dst[NFT_CLOSED_MAX + 1])
{
    size_t n = 0;
    for (size_t i = 0; i <= c->closed_len; i++) {
        const struct egress_net *one = i < c->closed_len ? &c->closed[i] : pool;
        bool covered = one->kind != kind || one->prefix == 0;
        for (size_t k = 0; k < n && !covered; k++) {
            covered = egress_net_holds(&dst[k], kind, one->addr) && dst[k].prefix <= one->prefix;
        }
        if (covered) {
            continue;
        }
        size_t kept = 0;
        for (size_t k = 0; k < n; k++) {
            if (!egress_net_holds(one, kind, dst[k].addr)) {
                dst[kept++] = dst[k];
            }
        }
        n = kept;
        size_t at = n;
        while (at > 0 && memcmp(dst[at - 1].addr, one->addr, 16) > 0) {
            dst[at] = dst[at - 1];
            at--;
        }
        dst[at] = *one;
        n++;
    }
    return n;
}

static void element(struct nl *n, const void *key, size_t len, bool end)
{
    sandbox_nl_nest(n, NFTA_LIST_ELEM);
    if (end) {
        sandbox_nl_be32(n, NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
    }
    value(n, NFTA_SET_ELEM_KEY, key, len);
    sandbox_nl_unnest(n);
}

/* An interval is its first address, and the one behind its last as an end; none where the addresses
 * are over. */
static void closed_set(struct nl *n, const struct nat_plan *p, const struct nft_common *c,
                       const struct egress_net *pool, unsigned set)
{
    struct egress_net nets[NFT_CLOSED_MAX + 1];
    uint8_t kind = set == SET_CLOSED4 ? EGRESS_IP4 : EGRESS_IP6;
    size_t len = set == SET_CLOSED4 ? 4 : 16;
    size_t count = nets_of(c, pool, kind, nets);
    elements(n, p, set, NFT_MSG_DELSETELEM); /* all of them */
    sandbox_nl_end(n);
    if (count == 0) {
        return;
    }
    elements(n, p, set, NFT_MSG_NEWSETELEM);
    sandbox_nl_nest(n, NFTA_SET_ELEM_LIST_ELEMENTS);
    for (size_t i = 0; i < count; i++) {
        uint8_t behind[16];
        memcpy(behind, nets[i].addr, 16);
        unsigned bit = nets[i].prefix - 1;
        size_t at = bit / 8;
        unsigned carry = 0x80u >> bit % 8;
        for (;;) {
            unsigned sum = behind[at] + carry;
            behind[at] = (uint8_t)sum;
            carry = sum >> 8;
            if (carry == 0 || at == 0) {
                break;
            }
            at--;
        }
        element(n, nets[i].addr, len, false);
        if (carry == 0) {
            element(n, behind, len, true);
        }
    }
    sandbox_nl_unnest(n);
    sandbox_nl_end(n);
}

/* ---- the table ---- */

static void table_chains(struct nl *n, const struct nat_plan *p)
{
    static const char *const all[] = { "denied", "local",   "out",    "prerouting",
                                       "input",  "forward", "output", "postrouting" };
    chain(n, p, NFT_MSG_NEWCHAIN, "denied");
    chain(n, p, NFT_MSG_NEWCHAIN, "local");
    chain(n, p, NFT_MSG_NEWCHAIN, "out");
    base_chain(n, p, "prerouting", "filter", NF_INET_PRE_ROUTING, PRIORITY_RAW);
    base_chain(n, p, "input", "filter", NF_INET_LOCAL_IN, 0);
    base_chain(n, p, "forward", "filter", NF_INET_FORWARD, 0);
    base_chain(n, p, "output", "filter", NF_INET_LOCAL_OUT, 0);
    base_chain(n, p, "postrouting", "nat", NF_INET_POST_ROUTING, PRIORITY_SRCNAT);
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        flush_chain(n, p, all[i]);
    }
}

static void table_local(struct nl *n, const struct nat_plan *p, const struct nft_common *c)
{
    /* Neighbour discovery: without it no IPv6 at all. */
    static const uint8_t types[] = { ICMP6_SOLICIT, ICMP6_ADVERT };
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        rule(n, p, "local");
        x_byte(n, NFT_META_L4PROTO, ICMP6);
        x_payload(n, NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1);
        x_cmp(n, NFT_CMP_EQ, &types[i], 1);
        x_verdict(n, NF_ACCEPT, NULL);
        done(n);
    }
    for (size_t i = 0; i < c->ports_len; i++) {
        const struct egress_net port = { .kind = EGRESS_ALL,
                                         .port_first = c->ports[i],
                                         .port_last = c->ports[i] };
        for (unsigned k = 0; k < 2; k++) {
            rule(n, p, "local");
            x_net(n, &port, k == 0 ? EGRESS_TCP : EGRESS_UDP);
            x_verdict(n, NFT_GOTO, "denied");
            done(n);
        }
    }
    for (size_t i = 0; i < c->open_len; i++) {
        net_rules(n, p, "local", &c->open[i], SET_EGRESS, NLM_F_APPEND);
    }
    rule(n, p, "local");
    x_verdict(n, NFT_GOTO, "denied");
    done(n);
}

static void table_out(struct nl *n, const struct nat_plan *p, const struct nft_common *c)
{
    rule(n, p, "out");
    x_link(n, p, NFT_META_OIFNAME, NFT_CMP_EQ);
    x_verdict(n, NFT_GOTO, "denied");
    done(n);
    for (size_t i = 0; i < c->open_len; i++) {
        net_rules(n, p, "out", &c->open[i], SET_EGRESS, NLM_F_APPEND);
    }
    for (unsigned k = 0; k < 2; k++) {
        rule(n, p, "out");
        x_byte(n, NFT_META_NFPROTO, k == 0 ? NFPROTO_IPV4 : NFPROTO_IPV6);
        x_payload(n, NFT_PAYLOAD_NETWORK_HEADER, k == 0 ? 16 : 24, k == 0 ? 4 : 16);
        x_lookup(n, k == 0 ? SET_CLOSED4 : SET_CLOSED6);
        x_verdict(n, NFT_GOTO, "denied");
        done(n);
    }
    rule(n, p, "out");
    x_map(n, NFT_META_IIFNAME, SET_EGRESS);
    done(n);
    rule(n, p, "out");
    x_verdict(n, NF_DROP, NULL);
    done(n);
}

static void link_rule(struct nl *n, const struct nat_plan *p, const char *in, uint32_t meta_key,
                      int code, const char *to)
{
    rule(n, p, in);
    x_link(n, p, meta_key, NFT_CMP_EQ);
    x_verdict(n, code, to);
    done(n);
}

static void map_rule(struct nl *n, const struct nat_plan *p, const char *in, uint32_t meta_key,
                     unsigned set)
{
    rule(n, p, in);
    x_map(n, meta_key, set);
    done(n);
}

static void table_hooks(struct nl *n, const struct nat_plan *p, const struct nft_common *c)
{
    static const uint8_t protos[] = { EGRESS_TCP, EGRESS_UDP };
    const uint32_t state_new = NF_CT_STATE_BIT(IP_CT_NEW);
    const uint32_t zero = 0;
    map_rule(n, p, "prerouting", NFT_META_IIFNAME, SET_ZONE);
    link_rule(n, p, "prerouting", NFT_META_IIFNAME, NF_DROP, NULL);
    link_rule(n, p, "input", NFT_META_IIFNAME, NFT_JUMP, "local");
    for (size_t i = 0; i < ARRAY_LEN(protos); i++) {
        rule(n, p, "output");
        x_link(n, p, NFT_META_OIFNAME, NFT_CMP_EQ);
        x_byte(n, NFT_META_L4PROTO, protos[i]);
        x_ct(n, NFT_CT_STATE, -1);
        x_mask(n, &state_new, sizeof(state_new));
        x_cmp(n, NFT_CMP_NEQ, &zero, sizeof(zero));
        x_verdict(n, NF_DROP, NULL);
        done(n);
    }
    link_rule(n, p, "forward", NFT_META_IIFNAME, NFT_JUMP, "out");
    map_rule(n, p, "forward", NFT_META_OIFNAME, SET_INBOUND);
    link_rule(n, p, "forward", NFT_META_OIFNAME, NF_DROP, NULL);
    for (unsigned k = 0; k < 2; k++) {
        if (!(k == 0 ? c->forward4_ours : c->forward6_ours)) {
            continue;
        }
        chain(n, p, NFT_MSG_NEWCHAIN, marks[k]);
        for (unsigned i = 0; i < 2; i++) { /* other agents' on this machine */
            rule(n, p, "forward");
            x_meta(n, i == 0 ? NFT_META_IIFNAME : NFT_META_OIFNAME);
            x_cmp(n, NFT_CMP_EQ, p->prefix, 2);
            x_verdict(n, NF_ACCEPT, NULL);
            done(n);
        }
        rule(n, p, "forward");
        x_byte(n, NFT_META_NFPROTO, k == 0 ? NFPROTO_IPV4 : NFPROTO_IPV6);
        x_verdict(n, NF_DROP, NULL);
        done(n);
    }
    for (unsigned k = 0; k < (p->has6 ? 2u : 1u); k++) {
        rule(n, p, "postrouting");
        x_byte(n, NFT_META_NFPROTO, k == 0 ? NFPROTO_IPV4 : NFPROTO_IPV6);
        x_addr(n, true, NFT_CMP_EQ, k == 0 ? p->pool4 : p->pool6, k == 0 ? 4 : 16,
               k == 0 ? p->pool4_bits : p->pool6_bits);
        x_link(n, p, NFT_META_OIFNAME, NFT_CMP_NEQ);
        expr(n, "masq");
        expr_end(n);
        done(n);
    }
}

void sandbox_nft_table(struct nl *n, const struct nat_plan *p, const struct nft_common *c)
{
    struct egress_net pool4 = { .kind = EGRESS_IP4, .prefix = (uint8_t)p->pool4_bits };
    struct egress_net pool6 = { .kind = p->has6 ? EGRESS_IP6 : 0,
                                .prefix = (uint8_t)p->pool6_bits };
    memcpy(pool4.addr, p->pool4, 4);
    memcpy(pool6.addr, p->pool6, 16);
    batch(n, NFNL_MSG_BATCH_BEGIN);
    begin(n, NFT_MSG_NEWTABLE, NLM_F_CREATE);
    sandbox_nl_text(n, NFTA_TABLE_NAME, p->table);
    sandbox_nl_end(n);
    for (unsigned set = SET_CLOSED4; set <= SET_INBOUND; set++) {
        make_set(n, p, set);
    }
    table_chains(n, p);
    closed_set(n, p, c, &pool4, SET_CLOSED4);
    closed_set(n, p, c, &pool6, SET_CLOSED6);
    rule(n, p, "denied");
    expr(n, "reject");
    sandbox_nl_be32(n, NFTA_REJECT_TYPE, NFT_REJECT_ICMPX_UNREACH);
    sandbox_nl_u8(n, NFTA_REJECT_ICMP_CODE, NFT_REJECT_ICMPX_ADMIN_PROHIBITED);
    expr_end(n);
    done(n);
    table_local(n, p, c);
    table_out(n, p, c);
    table_hooks(n, p, c);
    batch_end(n, p);
}

/* ---- a slot ---- */

struct slot_names {
    char link[IFNAME]; /* zeroes behind it: a key of the maps */
    char zone[16], egress[16], inbound[16];
};

static void names_of(const struct nat_plan *p, uint32_t slot, struct slot_names *ret)
{
    struct nat_addrs a;
    memset(ret, 0, sizeof(*ret));
    sandbox_nat_addrs(p, slot, &a);
    memcpy(ret->link, a.link, strlen(a.link));
    snprintf(ret->zone, sizeof(ret->zone), "z%u", slot);
    snprintf(ret->egress, sizeof(ret->egress), "e%u", slot);
    snprintf(ret->inbound, sizeof(ret->inbound), "i%u", slot);
}

static void slot_element(struct nl *n, const struct nat_plan *p, unsigned set, uint16_t type,
                         const struct slot_names *s, int code, const char *to)
{
    elements(n, p, set, type);
    sandbox_nl_nest(n, NFTA_SET_ELEM_LIST_ELEMENTS);
    sandbox_nl_nest(n, NFTA_LIST_ELEM);
    value(n, NFTA_SET_ELEM_KEY, s->link, IFNAME);
    if (to != NULL) {
        verdict(n, NFTA_SET_ELEM_DATA, code, to);
    }
    sandbox_nl_unnest(n);
    sandbox_nl_unnest(n);
    sandbox_nl_end(n);
}

static void slot_zone(struct nl *n, const struct nat_plan *p, const struct slot_names *s,
                      const struct nat_addrs *a, uint16_t zone)
{
    static const uint8_t link_local[16] = { 0xfe, 0x80 };
    rule(n, p, s->zone);
    x_byte(n, NFT_META_NFPROTO, NFPROTO_IPV4);
    x_addr(n, true, NFT_CMP_NEQ, a->slot4, 4, 32);
    x_verdict(n, NF_DROP, NULL);
    done(n);
    rule(n, p, s->zone);
    x_byte(n, NFT_META_NFPROTO, NFPROTO_IPV6);
    x_addr(n, true, NFT_CMP_NEQ, a->slot6, 16, 128);
    x_addr(n, true, NFT_CMP_NEQ, link_local, 16, 10);
    x_verdict(n, NF_DROP, NULL);
    done(n);
    rule(n, p, s->zone);
    expr(n, "immediate");
    sandbox_nl_be32(n, NFTA_IMMEDIATE_DREG, REG);
    value(n, NFTA_IMMEDIATE_DATA, &zone, sizeof(zone));
    expr_end(n);
    expr(n, "ct");
    sandbox_nl_be32(n, NFTA_CT_KEY, NFT_CT_ZONE);
    sandbox_nl_u8(n, NFTA_CT_DIRECTION, IP_CT_DIR_ORIGINAL);
    sandbox_nl_be32(n, NFTA_CT_SREG, REG);
    expr_end(n);
    x_verdict(n, NF_ACCEPT, NULL);
    done(n);
}

static void slot_inbound(struct nl *n, const struct nat_plan *p, const struct slot_names *s,
                         uint16_t zone)
{
    static const uint8_t reply = IP_CT_DIR_REPLY;
    rule(n, p, s->inbound);
    x_ct(n, NFT_CT_DIRECTION, -1);
    x_cmp(n, NFT_CMP_EQ, &reply, sizeof(reply));
    x_ct(n, NFT_CT_ZONE, IP_CT_DIR_ORIGINAL);
    x_cmp(n, NFT_CMP_EQ, &zone, sizeof(zone));
    x_verdict(n, NF_ACCEPT, NULL);
    done(n);
    rule(n, p, s->inbound);
    x_verdict(n, NF_DROP, NULL);
    done(n);
}

static void slot_egress(struct nl *n, const struct nat_plan *p, const struct slot_names *s,
                        const struct sandbox_egress *e)
{
    for (size_t i = 0; i < e->nets_len; i++) {
        net_rules(n, p, s->egress, &e->nets[i], 0, NLM_F_APPEND);
    }
    rule(n, p, s->egress);
    if (e->limited) {
        x_verdict(n, NFT_GOTO, "denied");
    } else {
        x_verdict(n, NF_ACCEPT, NULL);
    }
    done(n);
}

void sandbox_nft_slot(struct nl *n, const struct nat_plan *p, uint32_t slot, bool make,
                      uint16_t zone, const struct sandbox_egress *e)
{
    struct slot_names s;
    struct nat_addrs a;
    names_of(p, slot, &s);
    sandbox_nat_addrs(p, slot, &a);
    const char *const chains[] = { s.zone, s.egress, s.inbound };
    batch(n, NFNL_MSG_BATCH_BEGIN);
    for (size_t i = 0; i < ARRAY_LEN(chains); i++) {
        if (make) {
            chain(n, p, NFT_MSG_NEWCHAIN, chains[i]);
        }
        flush_chain(n, p, chains[i]);
    }
    slot_zone(n, p, &s, &a, zone);
    slot_egress(n, p, &s, e);
    slot_inbound(n, p, &s, zone);
    if (make) {
        slot_element(n, p, SET_ZONE, NFT_MSG_NEWSETELEM, &s, NFT_JUMP, s.zone);
        slot_element(n, p, SET_EGRESS, NFT_MSG_NEWSETELEM, &s, NFT_GOTO, s.egress);
        slot_element(n, p, SET_INBOUND, NFT_MSG_NEWSETELEM, &s, NFT_GOTO, s.inbound);
    }
    batch_end(n, p);
}

void sandbox_nft_egress(struct nl *n, const struct nat_plan *p, uint32_t slot,
                        const struct egress_net *nets, size_t nets_len)
{
    struct slot_names s;
    names_of(p, slot, &s);
    batch(n, NFNL_MSG_BATCH_BEGIN);
    for (size_t i = 0; i < nets_len; i++) {
        net_rules(n, p, s.egress, &nets[i], 0, 0); /* in front: before what refuses the rest */
    }
    batch_end(n, p);
}

void sandbox_nft_find(struct nl *n, const struct nat_plan *p, enum nft_mark mark)
{
    begin(n, NFT_MSG_GETCHAIN, NLM_F_ACK);
    sandbox_nl_text(n, NFTA_CHAIN_TABLE, p->table);
    sandbox_nl_text(n, NFTA_CHAIN_NAME, marks[mark]);
    sandbox_nl_end(n);
}

void sandbox_nft_slot_drop(struct nl *n, const struct nat_plan *p, uint32_t slot)
{
    struct slot_names s;
    names_of(p, slot, &s);
    const char *const chains[] = { s.zone, s.egress, s.inbound };
    batch(n, NFNL_MSG_BATCH_BEGIN);
    slot_element(n, p, SET_ZONE, NFT_MSG_DELSETELEM, &s, 0, NULL);
    slot_element(n, p, SET_EGRESS, NFT_MSG_DELSETELEM, &s, 0, NULL);
    slot_element(n, p, SET_INBOUND, NFT_MSG_DELSETELEM, &s, 0, NULL);
    for (size_t i = 0; i < ARRAY_LEN(chains); i++) {
        flush_chain(n, p, chains[i]);
        chain(n, p, NFT_MSG_DELCHAIN, chains[i]);
    }
    batch_end(n, p);
}

void sandbox_nft_drop(struct nl *n, const struct nat_plan *p)
{
    batch(n, NFNL_MSG_BATCH_BEGIN);
    begin(n, NFT_MSG_NEWTABLE, NLM_F_CREATE); /* so that what follows finds it */
    sandbox_nl_text(n, NFTA_TABLE_NAME, p->table);
    sandbox_nl_end(n);
    begin(n, NFT_MSG_DELTABLE, NLM_F_ACK);
    sandbox_nl_text(n, NFTA_TABLE_NAME, p->table);
    sandbox_nl_end(n);
    batch(n, NFNL_MSG_BATCH_END);
}
