#include "agent/sandbox/sandbox_netlink.h"

#include <linux/netlink.h>
#include <string.h>

#include "common/insist.h"

static void pad(struct nl *n)
{
    static const char zero[4];
    if (n->out->len % 4 != 0) {
        buf_add(n->out, zero, 4 - n->out->len % 4);
    }
}

void sandbox_nl_init(struct nl *n, struct buf *out, uint32_t seq)
{
    *n = (struct nl){ .out = out, .seq = seq };
}

/* A length that is known only now. */
static void patch(struct nl *n, size_t at, const void *p, size_t len)
{
    if (buf_error(n->out) == 0) {
        memcpy(n->out->data + at, p, len);
    }
}

void sandbox_nl_begin(struct nl *n, uint16_t type, uint16_t flags, const void *family, size_t len)
{
    INSIST(n->depth == 0 && n->out->len % 4 == 0);
    n->msg = n->out->len;
    const struct nlmsghdr h = { .nlmsg_type = type,
                                .nlmsg_flags = (uint16_t)(flags | NLM_F_REQUEST),
                                .nlmsg_seq = ++n->seq };
    buf_add(n->out, &h, sizeof(h));
    buf_add(n->out, family, len);
    pad(n);
}

void sandbox_nl_end(struct nl *n)
{
    INSIST(n->depth == 0);
    uint32_t len = (uint32_t)(n->out->len - n->msg);
    patch(n, n->msg + offsetof(struct nlmsghdr, nlmsg_len), &len, sizeof(len));
}

void sandbox_nl_put(struct nl *n, uint16_t attr, const void *p, size_t len)
{
    const struct nlattr a = { .nla_len = (uint16_t)(sizeof(struct nlattr) + len),
                              .nla_type = attr };
    REQUIRE(len <= UINT16_MAX - sizeof(struct nlattr));
    buf_add(n->out, &a, sizeof(a));
    buf_add(n->out, p, len);
    pad(n);
}

void sandbox_nl_text(struct nl *n, uint16_t attr, const char *text)
{
    sandbox_nl_put(n, attr, text, strlen(text) + 1);
}

void sandbox_nl_u8(struct nl *n, uint16_t attr, uint8_t v)
{
    sandbox_nl_put(n, attr, &v, sizeof(v));
}

void sandbox_nl_u32(struct nl *n, uint16_t attr, uint32_t v)
{
    sandbox_nl_put(n, attr, &v, sizeof(v));
}

void sandbox_nl_be32(struct nl *n, uint16_t attr, uint32_t v)
{
    const uint8_t be[4] = { (uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v };
    sandbox_nl_put(n, attr, be, sizeof(be));
}

void sandbox_nl_nest(struct nl *n, uint16_t attr)
{
    REQUIRE(n->depth < NL_NEST_MAX);
    n->nest[n->depth++] = n->out->len;
    sandbox_nl_put(n, (uint16_t)(attr | NLA_F_NESTED), NULL, 0);
}

void sandbox_nl_unnest(struct nl *n)
{
    REQUIRE(n->depth > 0);
    size_t at = n->nest[--n->depth];
    size_t len = n->out->len - at;
    uint16_t short_len = (uint16_t)len;
    INSIST(buf_error(n->out) != 0 || len <= UINT16_MAX);
    patch(n, at + offsetof(struct nlattr, nla_len), &short_len, sizeof(short_len));
}
