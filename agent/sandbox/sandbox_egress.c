/*
 * A run's destinations as bytes, in a spec and behind an EGRESS message: 32 bits of flags (1:
 * limited), 32 bits of how many, then 24 bytes each: kind, prefix, protocol, a zero, two ports, the
 * address.
 */
#include <errno.h>
#include <string.h>

#include "agent/sandbox/sandbox_internal.h"
#include "common/insist.h"
#include "common/mem.h"

int sandbox_egress_check(const struct sandbox_egress *g, struct err *e)
{
    if (g->nets_len > SANDBOX_EGRESS_MAX) {
        return err_say(e, -EINVAL, "the sandbox has %zu destinations, at most %d are allowed",
                       g->nets_len, SANDBOX_EGRESS_MAX);
    }
    if (!g->limited && g->nets_len != 0) {
        return err_say(e, -EINVAL, "the sandbox has destinations, but is not limited to them");
    }
    for (size_t i = 0; i < g->nets_len; i++) {
        if (!egress_net_ok(&g->nets[i])) {
            return err_say(e, -EINVAL, "destination %zu of the sandbox is out of range", i + 1);
        }
    }
    return 0;
}

void sandbox_egress_encode(const struct sandbox_egress *g, struct buf *out)
{
    buf_add_le32(out, g->limited ? 1 : 0);
    buf_add_le32(out, (uint32_t)g->nets_len);
    for (size_t i = 0; i < g->nets_len; i++) {
        const struct egress_net *n = &g->nets[i];
        buf_add_u8(out, n->kind);
        buf_add_u8(out, n->prefix);
        buf_add_u8(out, n->proto);
        buf_add_u8(out, 0);
        buf_add_le16(out, n->port_first);
        buf_add_le16(out, n->port_last);
        buf_add(out, n->addr, sizeof(n->addr));
    }
}

int sandbox_egress_decode(struct cur *c, struct sandbox_egress *ret)
{
    uint32_t flags = cur_le32(c);
    uint32_t n = cur_le32(c);
    if (!cur_ok(c) || flags > 1 || n > SANDBOX_EGRESS_MAX || cur_left(c) < n * 24u) {
        c->failed = true;
        return 0;
    }
    struct egress_net *nets = n != 0 ? mem_calloc(n, sizeof(*nets)) : NULL;
    if (nets == NULL && n != 0) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < n; i++) {
        nets[i].kind = cur_u8(c);
        nets[i].prefix = cur_u8(c);
        nets[i].proto = cur_u8(c);
        c->failed = cur_u8(c) != 0 || c->failed;
        nets[i].port_first = cur_le16(c);
        nets[i].port_last = cur_le16(c);
        cur_copy(c, nets[i].addr, sizeof(nets[i].addr));
    }
    *ret = (struct sandbox_egress){ .limited = flags == 1, .nets = nets, .nets_len = n };
    return 0;
}

void sandbox_msg_nets_put(struct sandbox_msg *m, const struct egress_net *nets, size_t n)
{
    struct buf AUTO_BUF b = BUF_INIT(SANDBOX_RECORD_SIZE);
    const struct sandbox_egress g = { .limited = true, .nets = nets, .nets_len = n };
    REQUIRE(n <= SANDBOX_MSG_NETS);
    sandbox_egress_encode(&g, &b);
    memset(m->record, 0, sizeof(m->record));
    if (buf_error(&b) == 0) { /* else the launcher refuses it */
        memcpy(m->record, b.data, b.len);
    }
}

int sandbox_msg_nets_get(const struct sandbox_msg *m, struct egress_net nets[SANDBOX_MSG_NETS],
                         size_t *ret_n)
{
    static const uint8_t zero[SANDBOX_RECORD_SIZE];
    struct sandbox_egress g = { .limited = false };
    struct cur c;
    cur_init(&c, m->record, sizeof(m->record));
    int rc = sandbox_egress_decode(&c, &g);
    if (rc == 0 && (!cur_ok(&c) || !g.limited || g.nets_len < 1 || g.nets_len > SANDBOX_MSG_NETS ||
                    sandbox_egress_check(&g, NULL) < 0 || memcmp(c.p, zero, cur_left(&c)) != 0)) {
        rc = -EBADMSG;
    }
    for (size_t i = 0; i < g.nets_len && rc == 0; i++) {
        uint8_t whole = g.nets[i].kind == EGRESS_IP4 ? 32 : 128;
        rc = g.nets[i].kind == EGRESS_ALL || g.nets[i].prefix != whole ? -EBADMSG : 0;
        nets[i] = g.nets[i];
    }
    *ret_n = rc == 0 ? g.nets_len : 0;
    union {
        const void *in;
        void *out;
    } taken = { .in = g.nets };
    mem_free(taken.out);
    return rc;
}
