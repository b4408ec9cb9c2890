/* Names and addresses of the slots' interfaces: all follow from the tag and the slot's number. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/sandbox/sandbox_internal.h"
#include "agent/sandbox/sandbox_netlink.h"

enum { PER_SLOT4 = 2, PER_SLOT6 = 4, POOL6_BITS_MAX = 112 };

static int pool_parse(const char *text, uint8_t kind, const char *key, struct egress_net *ret,
                      struct err *e)
{
    struct err why = { 0 };
    int rc = egress_net_parse(str_of(text), ret, &why);
    if (rc < 0) {
        return err_say(e, rc, "%s = %s: %s", key, text, why.text);
    }
    if (ret->kind != kind) {
        return err_say(e, -EINVAL, "%s = %s is not IPv%d", key, text, kind == EGRESS_IP4 ? 4 : 6);
    }
    return 0;
}

/* RFC 4193: fd and 40 bits that no other site has; here the same after every start. */
static void pool6_auto(uint32_t tag, struct str machine_id, struct nat_plan *p)
{
    char text[64];
    int n = snprintf(text, sizeof(text), "%08" PRIx32 "%.*s", tag,
                     (int)(machine_id.n < 48 ? machine_id.n : 48), machine_id.p);
    uint64_t sum = sandbox_checksum(text, (size_t)n);
    memset(p->pool6, 0, sizeof(p->pool6));
    p->pool6[0] = 0xfd;
    for (size_t i = 0; i < 5; i++) {
        p->pool6[1 + i] = (uint8_t)(sum >> (8 * i));
    }
    p->pool6_bits = 48;
}

/* base + n, in the last four bytes; pools are aligned and large enough. */
static void add(uint8_t *dst, const uint8_t *base, size_t len, uint32_t n)
{
    memcpy(dst, base, len);
    for (size_t i = 0; i < 4; i++) {
        dst[len - 1 - i] = (uint8_t)(dst[len - 1 - i] | (n >> (8 * i)));
    }
}

/* The pool in parts that hold all slots: the tag says which one is ours. */
static void bases(uint32_t tag, uint32_t slots, struct nat_plan *p)
{
    unsigned bits = 1;
    while (((uint64_t)1 << bits) < (uint64_t)slots * PER_SLOT4) {
        bits++;
    }
    uint64_t parts = (uint64_t)1 << (32 - p->pool4_bits - bits);
    add(p->base4, p->pool4, 4, (uint32_t)((tag % parts) << bits));
    memcpy(p->base6, p->pool6, 16);
    if (p->has6 && p->pool6_bits <= 64) {
        add(p->base6, p->pool6, 12, tag);
    }
}

int sandbox_nat_plan(uint32_t tag, struct str machine_id, const char *pool4_text,
                     const char *pool6_text, uint32_t slots, struct nat_plan *ret, struct err *e)
{
    struct nat_plan p = { .has6 = true };
    struct egress_net pool;
    int rc = pool_parse(pool4_text, EGRESS_IP4, "sandbox.nat_pool4", &pool, e);
    if (rc < 0) {
        return rc;
    }
    if (pool.prefix < 8 || ((uint64_t)1 << (32 - pool.prefix)) < (uint64_t)slots * PER_SLOT4) {
        return err_say(e, -EINVAL,
                       "sandbox.nat_pool4 = %s: %u slots need a prefix of 8 or more with %u "
                       "addresses",
                       pool4_text, slots, slots * PER_SLOT4);
    }
    memcpy(p.pool4, pool.addr, sizeof(p.pool4));
    p.pool4_bits = pool.prefix;
    if (strcmp(pool6_text, "auto") == 0) {
        pool6_auto(tag, machine_id, &p);
    } else if (strcmp(pool6_text, "none") == 0) {
        p.has6 = false;
    } else {
        rc = pool_parse(pool6_text, EGRESS_IP6, "sandbox.nat_pool6", &pool, e);
        if (rc == 0 && (pool.prefix < 16 || pool.prefix > POOL6_BITS_MAX)) {
            rc = err_say(e, -EINVAL, "sandbox.nat_pool6 = %s: the prefix is not 16 to %d",
                         pool6_text, POOL6_BITS_MAX);
        }
        if (rc < 0) {
            return rc;
        }
        memcpy(p.pool6, pool.addr, sizeof(p.pool6));
        p.pool6_bits = pool.prefix;
    }
    bases(tag, slots, &p);
    snprintf(p.table, sizeof(p.table), "agent_%08" PRIx32, tag);
    snprintf(p.prefix, sizeof(p.prefix), "ag%06" PRIx32 "-", tag & 0xffffff);
    *ret = p;
    return 0;
}

void sandbox_nat_addrs(const struct nat_plan *p, uint32_t slot, struct nat_addrs *ret)
{
    *ret = (struct nat_addrs){ .link = "" };
    snprintf(ret->link, sizeof(ret->link), "%s%u", p->prefix, slot % SANDBOX_SLOTS_MAX);
    add(ret->host4, p->base4, 4, slot * PER_SLOT4);
    add(ret->slot4, p->base4, 4, slot * PER_SLOT4 + 1);
    if (p->has6) {
        add(ret->host6, p->base6, 16, slot * PER_SLOT6 + 1);
        add(ret->slot6, p->base6, 16, slot * PER_SLOT6 + 2);
    }
}
