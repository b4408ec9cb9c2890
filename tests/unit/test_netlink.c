/* The messages to the kernel: their bytes, their shape, and what the rules are made of. */
#include <errno.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "agent/sandbox/sandbox_netlink.h"

static struct nat_plan plan_of(const char *pool6)
{
    struct nat_plan p;
    struct err e = { 0 };
    int rc = sandbox_nat_plan(0x12345678, STR("machine"), "10.203.0.0/16", pool6, 64, &p, &e);
    assert_string_equal(e.text, "");
    assert_int_equal(rc, 0);
    return p;
}

static void names_and_addresses(void **state)
{
    (void)state;
    struct nat_plan p = plan_of("fd00:1:2::/48");
    struct nat_addrs a;
    assert_string_equal(p.table, "agent_12345678");
    assert_string_equal(p.prefix, "ag345678-");
    sandbox_nat_addrs(&p, 3, &a);
    assert_string_equal(a.link, "ag345678-3");
    /* Part 0x12345678 % 512 of the pool's 512 parts of 128 addresses. */
    assert_memory_equal(a.host4, ((uint8_t[]){ 10, 203, 0x3c, 6 }), 4);
    assert_memory_equal(a.slot4, ((uint8_t[]){ 10, 203, 0x3c, 7 }), 4);
    static const uint8_t net6[] = { 0xfd, 0, 0, 1, 0, 2, 0, 0, 0x12, 0x34, 0x56, 0x78, 0, 0, 0 };
    assert_memory_equal(a.host6, net6, 15);
    assert_int_equal(a.host6[15], 13);
    assert_memory_equal(a.slot6, net6, 15);
    assert_int_equal(a.slot6[15], 14);
    struct err e = { 0 };
    assert_int_equal(sandbox_nat_plan(0x12345679, STR(""), "10.203.0.0/16", "none", 4096, &p, &e),
                     0);
    sandbox_nat_addrs(&p, 4095, &a);
    assert_string_equal(a.link, "ag345679-4095");
    assert_true(strlen(a.link) < 16);
    assert_memory_equal(a.slot4, ((uint8_t[]){ 10, 203, 0x3f, 255 }), 4);
}

static void pools(void **state)
{
    (void)state;
    struct nat_plan p;
    struct nat_plan q;
    struct err e = { 0 };
    struct str id = STR("x");
    assert_int_equal(sandbox_nat_plan(1, id, "10.0.0.0/25", "auto", 64, &p, &e), 0);
    assert_int_equal(p.pool6[0], 0xfd);
    assert_int_equal(p.pool6_bits, 48);
    assert_int_equal(sandbox_nat_plan(2, id, "10.0.0.0/25", "auto", 64, &q, &e), 0);
    assert_memory_not_equal(p.pool6, q.pool6, 6);
    assert_int_equal(sandbox_nat_plan(1, id, "10.0.0.0/25", "none", 64, &p, &e), 0);
    assert_false(p.has6);
    assert_int_equal(sandbox_nat_plan(1, id, "10.0.0.0/26", "auto", 64, &p, &e), -EINVAL);
    assert_non_null(strstr(e.text, "64 slots"));
    assert_int_equal(sandbox_nat_plan(1, id, "fd00::/48", "auto", 64, &p, &e), -EINVAL);
    assert_int_equal(sandbox_nat_plan(1, id, "10.0.0.0/7", "auto", 64, &p, &e), -EINVAL);
    assert_int_equal(sandbox_nat_plan(1, id, "10.0.0.0/16", "10.0.0.0/8", 64, &p, &e), -EINVAL);
    assert_int_equal(sandbox_nat_plan(1, id, "10.0.0.0/16", "fd00::/113", 64, &p, &e), -EINVAL);
    assert_int_equal(sandbox_nat_plan(1, id, "none", "auto", 64, &p, &e), -EINVAL);
}

static void bytes_of_a_message(void **state)
{
    (void)state;
    static const uint8_t family[4] = { 1, 0, 0, 0 };
    static const uint8_t wanted[] = {
        48, 0, 0, 0,    6,   0,   5,   0, 8, 0, 0, 0,
        0,  0, 0, 0,                                  /* length, type, flags, seq, port */
        1,  0, 0, 0,                                  /* family */
        8,  0, 1, 0,    'a', 'b', 'c', 0,             /* text */
        12, 0, 2, 0x80, 5,   0,   3,   0, 7, 0, 0, 0, /* a nest; 8 bits, padded */
        8,  0, 4, 0,    0,   0,   1,   2,             /* big-endian */
    };
    struct buf AUTO_BUF b = BUF_INIT(4096);
    struct nl n;
    sandbox_nl_init(&n, &b, 7);
    sandbox_nl_begin(&n, 6, NLM_F_ACK, family, sizeof family);
    sandbox_nl_text(&n, 1, "abc");
    sandbox_nl_nest(&n, 2);
    sandbox_nl_u8(&n, 3, 7);
    sandbox_nl_unnest(&n);
    sandbox_nl_be32(&n, 4, 0x102);
    sandbox_nl_end(&n);
    assert_int_equal(buf_error(&b), 0);
    assert_int_equal(b.len, sizeof wanted);
    assert_memory_equal(b.data, wanted, sizeof wanted);
}

/* ---- shape ---- */

static unsigned attrs_ok(const char *p, size_t n, unsigned depth)
{
    unsigned seen = 0;
    assert_true(depth < 10);
    while (n != 0) {
        struct nlattr a;
        assert_true(n >= sizeof a);
        memcpy(&a, p, sizeof a);
        assert_in_range(a.nla_len, sizeof a, n);
        size_t step = ((size_t)a.nla_len + 3) & ~(size_t)3;
        assert_true(step <= n);
        if ((a.nla_type & NLA_F_NESTED) != 0) {
            seen += attrs_ok(p + sizeof a, step - sizeof a, depth + 1);
        }
        seen++;
        p += step;
        n -= step;
    }
    return seen;
}

struct shape {
    unsigned messages, attrs, rules, acks, elements;
};

/* Walks a batch as the kernel does. */
static struct shape batch_ok(const struct buf *b, uint32_t seq)
{
    struct shape s = { 0 };
    size_t at = 0;
    assert_int_equal(buf_error(b), 0);
    while (at < b->len) {
        struct nlmsghdr h;
        assert_true(b->len - at >= sizeof h);
        memcpy(&h, b->data + at, sizeof h);
        assert_in_range(h.nlmsg_len, sizeof h + 4, b->len - at);
        assert_int_equal(h.nlmsg_len % 4, 0);
        assert_int_equal(h.nlmsg_seq, ++seq);
        assert_true((h.nlmsg_flags & NLM_F_REQUEST) != 0);
        bool first = at == 0;
        bool last = at + h.nlmsg_len == b->len;
        assert_int_equal(h.nlmsg_type == NFNL_MSG_BATCH_BEGIN, first);
        assert_int_equal(h.nlmsg_type == NFNL_MSG_BATCH_END, last);
        s.rules += h.nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE);
        s.elements += h.nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM);
        s.acks += (h.nlmsg_flags & NLM_F_ACK) != 0;
        s.attrs += attrs_ok(b->data + at + sizeof h + 4, h.nlmsg_len - sizeof h - 4, 0);
        s.messages++;
        at += h.nlmsg_len;
    }
    return s;
}

static struct shape slot_batch(bool make, const struct sandbox_egress *g)
{
    struct buf AUTO_BUF b = BUF_INIT(NL_BATCH_MAX);
    struct nat_plan p = plan_of("auto");
    struct nl n;
    sandbox_nl_init(&n, &b, 41);
    sandbox_nft_slot(&n, &p, 3, make, 77, g);
    return batch_ok(&b, 41);
}

static void a_slots_batch(void **state)
{
    (void)state;
    struct sandbox_egress g = { .limited = false };
    struct shape s = slot_batch(true, &g);
    assert_int_equal(s.acks, 1);
    assert_int_equal(s.elements, 3);
    assert_int_equal(s.rules, 3 + 1 + 2);
    s = slot_batch(false, &g);
    assert_int_equal(s.elements, 0);
    assert_int_equal(s.rules, 3 + 1 + 2);

    /* A port without a protocol is two rules. */
    const struct egress_net nets[] = {
        { .kind = EGRESS_ALL, .port_first = 443, .port_last = 443 },
        { .kind = EGRESS_IP4,
          .prefix = 8,
          .addr = { 10 },
          .proto = EGRESS_TCP,
          .port_first = 1,
          .port_last = 9 },
        { .kind = EGRESS_IP6, .prefix = 33, .addr = { 0x20, 1, 0xd, 0xb8 } },
        { .kind = EGRESS_IP4, .prefix = 0 },
    };
    g = (struct sandbox_egress){ .limited = true, .nets = nets, .nets_len = 4 };
    s = slot_batch(false, &g);
    assert_int_equal(s.rules, 3 + 5 + 1 + 2);
}

static void the_largest_list_fits(void **state)
{
    (void)state;
    static struct egress_net nets[SANDBOX_EGRESS_MAX];
    for (size_t i = 0; i < SANDBOX_EGRESS_MAX; i++) {
        nets[i] = (struct egress_net){
            .kind = EGRESS_IP6, .prefix = 127, .port_first = 1, .port_last = 2
        };
    }
    struct sandbox_egress g = { .limited = true, .nets = nets, .nets_len = SANDBOX_EGRESS_MAX };
    struct shape s = slot_batch(true, &g);
    assert_int_equal(s.rules, 3 + 2 * SANDBOX_EGRESS_MAX + 1 + 2);
}

static void the_table(void **state)
{
    (void)state;
    struct buf AUTO_BUF b = BUF_INIT(NL_BATCH_MAX);
    static struct nft_common c;
    struct nat_plan p = plan_of("auto");
    struct nl n;
    c.closed_len = sandbox_nft_closed(c.closed, NFT_CLOSED_MAX);
    assert_in_range(c.closed_len, 15, 30);
    for (size_t i = 0; i < c.closed_len; i++) {
        assert_true(egress_net_ok(&c.closed[i]));
    }
    sandbox_nl_init(&n, &b, 0);
    sandbox_nft_table(&n, &p, &c);
    struct shape plain = batch_ok(&b, 0);
    buf_reset(&b);
    c.forward4_ours = true;
    c.ports[c.ports_len++] = 7575;
    c.open[c.open_len++] = (struct egress_net){ .kind = EGRESS_IP4,
                                                .prefix = 32,
                                                .addr = { 192, 0, 2, 1 },
                                                .proto = EGRESS_TCP,
                                                .port_first = 5,
                                                .port_last = 5 };
    sandbox_nl_init(&n, &b, 0);
    sandbox_nft_table(&n, &p, &c);
    struct shape more = batch_ok(&b, 0);
    assert_int_equal(more.rules, plain.rules + 3 + 2 + 2);
    assert_int_equal(more.elements, 2);
    buf_reset(&b);
    sandbox_nl_init(&n, &b, 0);
    sandbox_nft_drop(&n, &p);
    (void)batch_ok(&b, 0);
    buf_reset(&b);
    sandbox_nl_init(&n, &b, 0);
    sandbox_nft_slot_drop(&n, &p, 4095);
    (void)batch_ok(&b, 0);
}

/* ---- the closed sets ---- */

struct interval {
    uint8_t key[16];
    bool end;
};

static void take_elements(const char *p, size_t n, bool in_one, struct interval *dst, size_t *count)
{
    while (n >= sizeof(struct nlattr)) {
        struct nlattr a;
        memcpy(&a, p, sizeof a);
        size_t step = ((size_t)a.nla_len + 3) & ~(size_t)3;
        unsigned type = a.nla_type & 0x3fffu;
        if (in_one && type == NFTA_SET_ELEM_FLAGS) {
            dst[*count].end = true;
        } else if (in_one && type == NFTA_SET_ELEM_KEY) {
            memcpy(dst[*count].key, p + 8, (size_t)a.nla_len - 8);
            (*count)++;
        } else if (type == NFTA_LIST_ELEM) {
            take_elements(p + 4, step - 4, true, dst, count);
        }
        p += step;
        n -= step;
    }
}

/* The elements of the first (IPv4) or second set of a table. */
static size_t elements_of(const struct nft_common *c, unsigned which, struct interval *dst)
{
    struct buf AUTO_BUF b = BUF_INIT(NL_BATCH_MAX);
    struct nat_plan p = plan_of("none");
    struct nl n;
    size_t count = 0;
    sandbox_nl_init(&n, &b, 0);
    sandbox_nft_table(&n, &p, c);
    for (size_t at = 0; at < b.len;) {
        struct nlmsghdr h;
        memcpy(&h, b.data + at, sizeof h);
        if (h.nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM) && which-- == 0) {
            /* table, set, then the list */
            const char *q = b.data + at + sizeof h + 4;
            for (unsigned k = 0; k < 2; k++) {
                struct nlattr a;
                memcpy(&a, q, sizeof a);
                q += ((size_t)a.nla_len + 3) & ~(size_t)3;
            }
            take_elements(q + 4, (size_t)(b.data + at + h.nlmsg_len - q) - 4, false, dst, &count);
            break;
        }
        at += h.nlmsg_len;
    }
    return count;
}

static void nested_networks_are_one(void **state)
{
    (void)state;
    static struct nft_common c;
    struct interval found[16];
    memset(found, 0, sizeof found);
    const char *const closed[] = { "10.203.7.0/24", "192.0.2.128/25", "192.0.2.0/24", "192.0.2.9",
                                   "240.0.0.0/4",   "9.0.0.0/8",      "9.0.0.0/8" };
    c.closed_len = 0;
    for (size_t i = 0; i < sizeof closed / sizeof closed[0]; i++) {
        struct err e = { 0 };
        assert_int_equal(egress_net_parse(str_of(closed[i]), &c.closed[c.closed_len++], &e), 0);
    }
    /* With the pool, 10.203.0.0/16. */
    static const struct interval wanted[] = {
        { { 9 }, false },      { { 10 }, true },         { { 10, 203 }, false },
        { { 10, 204 }, true }, { { 192, 0, 2 }, false }, { { 192, 0, 3 }, true },
        { { 240 }, false }, /* up to the last address: no end */
    };
    assert_int_equal(elements_of(&c, 0, found), sizeof wanted / sizeof wanted[0]);
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        assert_memory_equal(found[i].key, wanted[i].key, 4);
        assert_int_equal(found[i].end, wanted[i].end);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_addresses),     cmocka_unit_test(pools),
        cmocka_unit_test(bytes_of_a_message),      cmocka_unit_test(a_slots_batch),
        cmocka_unit_test(the_largest_list_fits),   cmocka_unit_test(the_table),
        cmocka_unit_test(nested_networks_are_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
