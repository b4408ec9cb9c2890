/* Broadcasts that wait: one per member, the newest word about it. The least sent go first. */
#include "agent/gossip/gossip_internal.h"
#include "common/insist.h"
#include "common/mem.h"

enum { MISFITS_MAX = 16, ROOM_MIN = 40 };

/* ceil(ln n) + 6: the chance that a node misses a broadcast is about e^-6, whatever n is. */
unsigned gossip_limit(uint32_t n)
{
    static const uint32_t powers[] = { 1, 2, 7, 20, 54, 148, 403, 1096, 2980, 8103, 22026 };
    unsigned limit = 6;
    for (size_t i = 0; i < ARRAY_LEN(powers) && powers[i] < n; i++) {
        limit++;
    }
    return limit;
}

/* --- buckets, by how often it was sent --- */

static void bucket_add(struct gossip *g, uint32_t i, bool front)
{
    struct gossip_cast *c = &g->casts[i];
    uint32_t *head = &g->bucket_head[c->sent];
    uint32_t *tail = &g->bucket_tail[c->sent];

    c->next = front ? *head : 0;
    c->prev = front ? 0 : *tail;
    if (c->next != 0) {
        g->casts[c->next - 1].prev = i + 1;
    } else {
        *tail = i + 1;
    }
    if (c->prev != 0) {
        g->casts[c->prev - 1].next = i + 1;
    } else {
        *head = i + 1;
    }
}

static void bucket_remove(struct gossip *g, uint32_t i)
{
    struct gossip_cast *c = &g->casts[i];

    if (c->next != 0) {
        g->casts[c->next - 1].prev = c->prev;
    } else {
        g->bucket_tail[c->sent] = c->prev;
    }
    if (c->prev != 0) {
        g->casts[c->prev - 1].next = c->next;
    } else {
        g->bucket_head[c->sent] = c->next;
    }
}

static void cast_release(struct gossip *g, uint32_t i)
{
    struct gossip_cast *c = &g->casts[i];

    g->m[c->slot].cast = 0;
    (void)gossip_limbo(g, c->from);
    *c = (struct gossip_cast){ .next = g->casts_free, .slot = GOSSIP_NONE };
    g->casts_free = i + 1;
    g->casts_used--;
}

static uint32_t cast_take(struct gossip *g)
{
    if (g->casts_free != 0) {
        uint32_t i = g->casts_free - 1;
        g->casts_free = g->casts[i].next;
        return i;
    }
    if (g->casts_len == g->casts_cap) {
        uint32_t cap = g->casts_cap == 0 ? 8 : g->casts_cap * 2;
        struct gossip_cast *c = mem_realloc(g->casts, cap * sizeof(*c));
        if (c == NULL) {
            return GOSSIP_NONE;
        }
        g->casts = c;
        g->casts_cap = cap;
    }
    return g->casts_len++;
}

/* --- messages --- */

void gossip_alive_msg(const struct gossip *g, uint32_t slot, uint32_t inc, struct gossip_msg *ret)
{
    const struct gossip_member *m = &g->m[slot];

    *ret = (struct gossip_msg){ .node = gossip_str_of(m->name),
                                .meta = gossip_str_of(m->meta),
                                .incarnation = inc,
                                .port = m->port,
                                .state = m->state,
                                .vsn_len = sizeof(m->vsn) };
    ret->addr.n = m->ip_len;
    memcpy(ret->addr.b, m->ip, sizeof(m->ip));
    memcpy(ret->vsn, m->vsn, sizeof(m->vsn));
}

static void cast_msg(const struct gossip *g, const struct gossip_cast *c, struct gossip_msg *ret)
{
    if (c->kind == GOSSIP_MSG_ALIVE) {
        gossip_alive_msg(g, c->slot, c->incarnation, ret);
    } else {
        *ret = (struct gossip_msg){ .node = gossip_str_of(g->m[c->slot].name),
                                    .from = gossip_str_of(c->from),
                                    .incarnation = c->incarnation };
    }
}

void gossip_queue_drop(struct gossip *g, uint32_t slot)
{
    uint32_t i = g->m[slot].cast;
    if (i != 0) {
        bucket_remove(g, i - 1);
        cast_release(g, i - 1);
    }
}

void gossip_queue_expire(struct gossip *g, uint64_t before_ms)
{
    for (uint32_t i = 0; i < g->casts_len; i++) {
        const struct gossip_cast *c = &g->casts[i];
        if (c->slot != GOSSIP_NONE && c->kind != GOSSIP_MSG_SUSPECT && c->since_ms < before_ms &&
            c->slot != GOSSIP_SELF) {
            gossip_queue_drop(g, c->slot);
        }
    }
}

void gossip_queue_put(struct gossip *g, uint32_t slot, enum gossip_type kind, uint32_t inc,
                      struct gossip_str *from)
{
    struct gossip_msg m;

    gossip_queue_drop(g, slot);
    uint32_t i = cast_take(g);
    if (i == GOSSIP_NONE) {
        g->failed = true;
        return;
    }
    if (g->casts_used == 0) {
        /* The first one need not wait for a whole round. */
        uint64_t next = g->gossiped_ms + g->p.gossip_interval_ms;
        g->gossip_at =
            (next > g->now ? next : g->now) + gossip_jitter(g, g->p.gossip_interval_ms / 4);
    }
    struct gossip_cast *c = &g->casts[i];
    *c = (struct gossip_cast){
        .from = from, .slot = slot, .incarnation = inc, .kind = (uint8_t)kind, .since_ms = g->now
    };
    if (from != NULL) {
        from->refs++;
    }
    g->m[slot].cast = i + 1;
    g->casts_used++;
    cast_msg(g, c, &m);
    buf_reset(&g->scratch);
    gossip_msg_write(&g->scratch, kind, &m);
    c->size = (uint16_t)g->scratch.len;
    bucket_add(g, i, true);
}

/* Sends cast i once more, unless it does not fit. */
static bool take(struct gossip *g, uint32_t i, size_t *room)
{
    const struct gossip_cast *c = &g->casts[i];
    struct gossip_msg m;

    if (c->size + 2U > *room) {
        return false;
    }
    cast_msg(g, c, &m);
    gossip_part(g, (enum gossip_type)c->kind, &m);
    *room -= c->size + 2U;
    return true;
}

void gossip_queue_fill(struct gossip *g, size_t room)
{
    uint32_t taken[GOSSIP_PARTS_MAX];
    unsigned taken_len = 0;
    unsigned limit = gossip_limit(gossip_known(g));

    for (unsigned t = 0; t <= GOSSIP_LIMIT_MAX && room >= ROOM_MIN; t++) {
        unsigned misfits = 0;
        for (uint32_t i = g->bucket_head[t]; i != 0 && g->parts < GOSSIP_PARTS_MAX;) {
            uint32_t at = i - 1;
            i = g->casts[at].next;
            if (take(g, at, &room)) {
                bucket_remove(g, at);
                taken[taken_len++] = at;
            } else if (++misfits == MISFITS_MAX) {
                break;
            }
        }
    }
    for (unsigned i = 0; i < taken_len; i++) {
        if (++g->casts[taken[i]].sent >= limit) {
            cast_release(g, taken[i]);
        } else {
            bucket_add(g, taken[i], false);
        }
    }
}

/* Suspects too, and those that died just now: so they can say no. */
static bool want_gossip(const struct gossip *g, uint32_t slot, uint32_t arg)
{
    const struct gossip_member *m = &g->m[slot];
    (void)arg;
    return m->state == GOSSIP_ALIVE || m->state == GOSSIP_SUSPECT ||
           (m->state == GOSSIP_DEAD && g->now - m->changed_ms < g->p.dead_ms);
}

void gossip_spread(struct gossip *g, unsigned nodes)
{
    uint32_t to[16];
    unsigned n = gossip_pick(g, nodes < ARRAY_LEN(to) ? nodes : ARRAY_LEN(to), want_gossip, 0, to);

    for (unsigned i = 0; i < n && g->casts_used > 0; i++) {
        struct gossip_addr addr = gossip_member_addr(&g->m[to[i]]);
        gossip_packet_begin(g);
        gossip_packet_send(g, &addr, true);
    }
}

size_t gossip_queued(const struct gossip *g)
{
    return g->casts_used;
}
