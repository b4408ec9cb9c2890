/*
 * sandbox_netlink - netlink messages as bytes: rtnetlink's and nf_tables' own attributes, and the
 * rule set that keeps jobs on a node's network where they belong (README.md draws it). Pure: the
 * socket is sys_netlink.c's.
 *
 * Messages are appended to a buf; its sticky error says at the end whether they all fit. Integers
 * in headers and rtnetlink are the host's order, in nf_tables big-endian.
 */
#ifndef AGENT_SANDBOX_SANDBOX_NETLINK_H
#define AGENT_SANDBOX_SANDBOX_NETLINK_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/sandbox/sandbox.h"
#include "common/buf.h"
#include "common/egress.h"

/* ---- any message ------------------------------------------------------------------------------
 */

enum { NL_NEST_MAX = 8, NL_BATCH_MAX = 1 << 20 /* bytes of what is sent at once */ };

struct nl {
    struct buf *out;
    uint32_t seq; /* of the last message */
    size_t msg;   /* where it begins */
    size_t nest[NL_NEST_MAX];
    size_t depth;
};

/* The first message gets seq + 1. */
void sandbox_nl_init(struct nl *n, struct buf *out, uint32_t seq);
/* A message's head and its family header (ifinfomsg, nfgenmsg, …) of len bytes. */
void sandbox_nl_begin(struct nl *n, uint16_t type, uint16_t flags, const void *family, size_t len);
void sandbox_nl_end(struct nl *n); /* of the message */
void sandbox_nl_put(struct nl *n, uint16_t attr, const void *p, size_t len);
void sandbox_nl_text(struct nl *n, uint16_t attr, const char *text); /* with its NUL */
void sandbox_nl_u8(struct nl *n, uint16_t attr, uint8_t v);
void sandbox_nl_u32(struct nl *n, uint16_t attr, uint32_t v); /* the host's order */
void sandbox_nl_be32(struct nl *n, uint16_t attr, uint32_t v);
void sandbox_nl_nest(struct nl *n, uint16_t attr); /* opens; NLA_F_NESTED is added */
void sandbox_nl_unnest(struct nl *n);

/* ---- one slot's addresses ---------------------------------------------------------------------
 */

/* Names and addresses follow from the node's tag and the slot's number alone, so that a later
 * launcher finds them again. */
struct nat_plan {
    char table[16];  /* "agent_<tag>" */
    char prefix[10]; /* of our interfaces: "ag<6 of tag>-" */
    uint8_t pool4[4];
    unsigned pool4_bits;
    uint8_t base4[4]; /* of this node's own part of the pool: agents on one machine keep apart */
    uint8_t pool6[16];
    unsigned pool6_bits;
    uint8_t base6[16];
    bool has6;
};
struct nat_addrs {
    char link[16];    /* "ag123abc-17": the host's end */
    uint8_t host4[4]; /* of a /31 */
    uint8_t slot4[4];
    uint8_t host6[16]; /* of a /126 */
    uint8_t slot6[16];
};

/* tag: of data_dir, as the control groups have it. pool6_text "auto": a unique local /48 (RFC 4193)
 * of the tag and the machine's id. -EINVAL: not a network, or too small for slots. */
int sandbox_nat_plan(uint32_t tag, struct str machine_id, const char *pool4_text,
                     const char *pool6_text, uint32_t slots, struct nat_plan *ret, struct err *e);
void sandbox_nat_addrs(const struct nat_plan *p, uint32_t slot, struct nat_addrs *ret);

/* ---- the rule set -----------------------------------------------------------------------------
 */

enum { NFT_CLOSED_MAX = 128, NFT_OPEN_MAX = 64 };

/* What holds for every slot. */
struct nft_common {
    /* Closed to every job: our own list (sandbox_nft_closed()) and sandbox.nat_closed. */
    struct egress_net closed[NFT_CLOSED_MAX];
    size_t closed_len;
    /* Open although they are closed or this machine's own: sandbox.nat_open. */
    struct egress_net open[NFT_OPEN_MAX];
    size_t open_len;
    /* TCP and UDP ports of this machine that stay closed whatever nat_open says: the agent's. */
    uint16_t ports[4];
    size_t ports_len;
    /* We made this machine a router, of IPv4 and of IPv6: it routes nothing but our slots. An
     * empty chain tells a later launcher (sandbox_nft_find()). */
    bool forward4_ours, forward6_ours;
};

/* Link-local, loopback, multicast, reserved and the clouds' metadata addresses. How many. */
size_t sandbox_nft_closed(struct egress_net *dst, size_t cap);

/* Appends the whole table but the slots' chains as one batch: made, or emptied and filled again in
 * one step that no packet falls into. */
void sandbox_nft_table(struct nl *n, const struct nat_plan *p, const struct nft_common *c);
/* Appends the rules of one run in a slot as one batch; make: the slot's chains are not there yet.
 * zone (1 to 65535): the run's own, so that nothing of an earlier run's connections is its. */
void sandbox_nft_slot(struct nl *n, const struct nat_plan *p, uint32_t slot, bool make,
                      uint16_t zone, const struct sandbox_egress *e);
/* Appends, as one batch, destinations that the slot's run may reach too. */
void sandbox_nft_egress(struct nl *n, const struct nat_plan *p, uint32_t slot,
                        const struct egress_net *nets, size_t nets_len);
/* Appends the question whether a chain is there: answered with 0 or -ENOENT. */
enum nft_mark { NFT_MARK_FORWARD4, NFT_MARK_FORWARD6 };
void sandbox_nft_find(struct nl *n, const struct nat_plan *p, enum nft_mark mark);
/* Appends, as one batch, the end of one slot's chains. */
void sandbox_nft_slot_drop(struct nl *n, const struct nat_plan *p, uint32_t slot);
/* Appends, as one batch, the end of the table. */
void sandbox_nft_drop(struct nl *n, const struct nat_plan *p);

#endif
