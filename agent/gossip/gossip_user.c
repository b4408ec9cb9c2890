/*
 * Messages between the applications of our own nodes.
 *
 *   0x41, boot u64, number u32, length u8, sender's name, channel u8, payload     (big-endian)
 *
 * The first byte is one that Serf does not know. Boot and number make each of them count once: a
 * repeated or recorded one is dropped.
 */
#include <errno.h>

#include "agent/gossip/gossip_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/msgpack.h"

enum {
    USER_MAGIC = 0x41,
    SERF_LEAVE = 0, /* of Serf's message types */
    SERF_DELEGATE_MIN = 2,
};

static void user_write(struct gossip *g, const struct gossip_event *ev, struct buf *b)
{
    const struct gossip_str *self = g->m[GOSSIP_SELF].name;

    (void)buf_add_u8(b, USER_MAGIC);
    (void)buf_add_be32(b, (uint32_t)(g->boot >> 32));
    (void)buf_add_be32(b, (uint32_t)g->boot);
    (void)buf_add_be32(b, ++g->user_seq);
    (void)buf_add_u8(b, (uint8_t)self->n);
    (void)buf_add(b, self->p, self->n);
    (void)buf_add_u8(b, ev->channel);
    (void)buf_addstr(b, ev->bytes);
}

int gossip_user_send(struct gossip *g, const struct gossip_event *ev)
{
    uint32_t slot = gossip_slot(g, ev->name);

    if (ev->bytes.n > GOSSIP_USER_MAX) {
        return -EMSGSIZE;
    }
    if (slot == GOSSIP_NONE || slot == GOSSIP_SELF || g->left ||
        (g->m[slot].state != GOSSIP_ALIVE && g->m[slot].state != GOSSIP_SUSPECT) ||
        !gossip_is_ours(&g->m[slot])) {
        return -ENOENT;
    }
    const struct gossip_addr to = gossip_member_addr(&g->m[slot]);
    AUTO_BUF struct buf b = BUF_INIT(GOSSIP_USER_MAX + 512);
    AUTO_BUF struct buf head = BUF_INIT(GOSSIP_USER_MAX + 1024);
    user_write(g, ev, &b);
    bool small = b.len + 1 + g->overhead <= GOSSIP_PACKET_MAX;
    if (small && !ev->reliable) {
        (void)buf_add_u8(&head, GOSSIP_USER);
    } else {
        gossip_user_header_write(&head, (uint32_t)b.len);
    }
    (void)buf_addstr(&head, buf_str(&b));
    if (buf_error(&b) != 0 || buf_error(&head) != 0) {
        return -ENOMEM;
    }
    if (!small || ev->reliable) {
        if (!gossip_open(g, GOSSIP_X_USER, &to, buf_str(&head), g->now + g->p.stream_timeout_ms,
                         0)) {
            return g->failed ? -ENOMEM : -EAGAIN;
        }
    } else {
        struct gossip_effect *fx = gossip_fx_bytes(g, GOSSIP_FX_PACKET, buf_str(&head));
        if (fx == NULL) {
            return -ENOMEM;
        }
        fx->to = to;
        gossip_bump(g, GOSSIP_C_PACKETS_OUT);
        g->counters[GOSSIP_C_BYTES_OUT] += fx->bytes.n + g->overhead;
    }
    gossip_bump(g, GOSSIP_C_USER_OUT);
    return 0;
}

/* Not seen before? Numbers may overtake each other within a window. */
static bool fresh(struct gossip_peer *p, uint64_t boot, uint32_t number)
{
    if (boot != p->boot) {
        if (boot < p->boot) {
            return false;
        }
        *p = (struct gossip_peer){ .boot = boot, .told = p->told, .window = 1, .high = number };
        return true;
    }
    if (number > p->high) {
        uint32_t by = number - p->high;
        p->window = by < GOSSIP_REPLAY_WINDOW ? p->window << by | 1 : 1;
        p->high = number;
        return true;
    }
    uint32_t back = p->high - number;
    if (back >= GOSSIP_REPLAY_WINDOW || (p->window >> back & 1) != 0) {
        return false;
    }
    p->window |= 1ULL << back;
    return true;
}

static struct gossip_peer *peer_of(struct gossip *g, uint32_t slot)
{
    struct gossip_meta meta;

    if (g->peers[slot] == NULL) {
        g->peers[slot] = mem_zalloc(sizeof(*g->peers[slot]));
    }
    if (g->peers[slot] == NULL) {
        g->failed = true;
        return NULL;
    }
    /* Its metadata names the present boot: nothing of an earlier one counts; and a clock that was
     * set back does not silence it. */
    struct gossip_peer *p = g->peers[slot];
    if (gossip_meta_read(gossip_str_of(g->m[slot].meta), &meta) && meta.boot != 0 &&
        meta.boot != p->told) {
        p->told = meta.boot;
        if (p->boot != meta.boot) {
            p->boot = meta.boot;
            p->high = 0;
            p->window = 1; /* number 0 is never used */
        }
    }
    return p;
}

void gossip_on_user(struct gossip *g, struct str bytes)
{
    struct cur c;

    cur_init(&c, bytes.p, bytes.n);
    if (cur_u8(&c) != USER_MAGIC || !cur_ok(&c)) {
        gossip_bump(g, GOSSIP_C_DROP_UNKNOWN); /* another application's */
        return;
    }
    uint64_t boot = cur_be64(&c);
    uint32_t number = cur_be32(&c);
    struct str name = cur_bytes(&c, cur_u8(&c));
    uint8_t channel = cur_u8(&c);
    if (!cur_ok(&c) || name.n == 0) {
        gossip_bump(g, GOSSIP_C_DROP_MALFORMED);
        return;
    }
    uint32_t slot = gossip_slot(g, name);
    if (slot == GOSSIP_NONE || slot == GOSSIP_SELF || !gossip_is_ours(&g->m[slot]) ||
        (g->m[slot].state != GOSSIP_ALIVE && g->m[slot].state != GOSSIP_SUSPECT)) {
        gossip_bump(g, GOSSIP_C_DROP_UNKNOWN);
        return;
    }
    struct gossip_peer *p = peer_of(g, slot);
    if (p == NULL || !fresh(p, boot, number)) {
        gossip_bump(g, GOSSIP_C_DROP_STALE);
        return;
    }
    struct gossip_effect *fx = gossip_fx_bytes(g, GOSSIP_FX_MESSAGE, cur_bytes(&c, cur_left(&c)));
    if (fx != NULL) {
        fx->channel = channel;
        gossip_view_of(g, slot, &fx->member);
        gossip_bump(g, GOSSIP_C_USER_IN);
    }
}

static bool want_foreign(const struct gossip *g, uint32_t slot, uint32_t arg)
{
    (void)arg;
    return g->m[slot].state == GOSSIP_ALIVE && !gossip_is_ours(&g->m[slot]);
}

/* To Serf a member that goes without its "leave intent" has failed. Its agents pass it on among
 * themselves. Its Lamport time must be later than that of our last leave; an incarnation is. */
void gossip_serf_leave(struct gossip *g)
{
    const struct gossip_member *self = &g->m[GOSSIP_SELF];
    uint32_t to[4];

    if (self->vsn[5] < SERF_DELEGATE_MIN) {
        return;
    }
    unsigned n = gossip_pick(g, ARRAY_LEN(to), want_foreign, 0, to);
    AUTO_BUF struct buf b = BUF_INIT(1024);
    (void)buf_add_u8(&b, GOSSIP_USER);
    (void)buf_add_u8(&b, SERF_LEAVE);
    msgpack_put_map(&b, 3);
    msgpack_put_cstr(&b, "LTime");
    msgpack_put_uint(&b, self->incarnation + 1ULL);
    msgpack_put_cstr(&b, "Node");
    msgpack_put_bytes(&b, gossip_str_of(self->name));
    msgpack_put_cstr(&b, "Prune");
    msgpack_put_bool(&b, false);
    for (unsigned i = 0; i < n && buf_error(&b) == 0; i++) {
        struct gossip_effect *fx = gossip_fx_bytes(g, GOSSIP_FX_PACKET, buf_str(&b));
        if (fx != NULL) {
            fx->to = gossip_member_addr(&g->m[to[i]]);
        }
    }
}
