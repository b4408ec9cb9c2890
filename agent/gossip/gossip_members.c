/* The list of members: slots, an index by name, the order of probes, counts and the view's hash. */
#include "agent/gossip/gossip_internal.h"
#include "common/insist.h"
#include "common/mem.h"

enum { FIRST_SLOTS = 16 };

/* --- the index: open addressing, linear probing, removal by shifting back --- */

static uint32_t index_find(const struct gossip *g, const struct gossip_str *name)
{
    uint32_t mask = g->index_cap - 1;
    for (uint32_t i = name->hash & mask; g->index[i] != 0; i = (i + 1) & mask) {
        if (g->m[g->index[i] - 1].name == name) {
            return i;
        }
    }
    return GOSSIP_NONE;
}

static void index_put(uint32_t *index, uint32_t cap, uint32_t hash, uint32_t slot)
{
    uint32_t i = hash & (cap - 1);
    while (index[i] != 0) {
        i = (i + 1) & (cap - 1);
    }
    index[i] = slot + 1;
}

static void index_remove(struct gossip *g, const struct gossip_str *name)
{
    uint32_t mask = g->index_cap - 1;
    uint32_t hole = index_find(g, name);

    INSIST(hole != GOSSIP_NONE);
    for (uint32_t i = (hole + 1) & mask; g->index[i] != 0; i = (i + 1) & mask) {
        uint32_t home = g->m[g->index[i] - 1].name->hash & mask;
        /* Can the entry at i move to the hole without passing its home? */
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            g->index[hole] = g->index[i];
            hole = i;
        }
    }
    g->index[hole] = 0;
}

uint32_t gossip_slot(const struct gossip *g, struct str name)
{
    const struct gossip_str *s = gossip_str_find(g->pool, name);
    uint32_t i = s != NULL && g->index_cap != 0 ? index_find(g, s) : GOSSIP_NONE;
    return i == GOSSIP_NONE ? GOSSIP_NONE : g->index[i] - 1;
}

/* --- room --- */

static bool grow(struct gossip *g)
{
    uint32_t cap = g->m_cap == 0 ? FIRST_SLOTS : g->m_cap * 2;
    AUTO_MEM uint32_t *index = mem_calloc((size_t)cap * 2, sizeof(*index));
    struct gossip_member *m;
    uint32_t *order;
    struct gossip_peer **peers;

    if (index == NULL || (m = mem_realloc(g->m, cap * sizeof(*m))) == NULL) {
        return false;
    }
    g->m = m;
    if ((order = mem_realloc(g->order, cap * sizeof(*order))) == NULL) {
        return false;
    }
    g->order = order;
    if ((peers = mem_realloc(g->peers, cap * sizeof(struct gossip_peer *))) == NULL) {
        return false;
    }
    g->peers = peers;
    memset(g->peers + g->m_cap, 0, (cap - g->m_cap) * sizeof(struct gossip_peer *));
    g->m_cap = cap;
    for (uint32_t i = 0; i < g->m_len; i++) {
        if (g->m[i].name != NULL) {
            index_put(index, cap * 2, g->m[i].name->hash, i);
        }
    }
    mem_free(g->index);
    g->index = TAKE(index);
    g->index_cap = cap * 2;
    return true;
}

static uint32_t slot_take(struct gossip *g)
{
    if (g->free_slot != 0) {
        uint32_t slot = g->free_slot - 1;
        g->free_slot = g->m[slot].cast;
        return slot;
    }
    if (g->m_len == g->m_cap && !grow(g)) {
        return GOSSIP_NONE;
    }
    return g->m_len++;
}

uint32_t gossip_member_add(struct gossip *g, struct str name)
{
    if (gossip_known(g) >= g->m_max) {
        gossip_bump(g, GOSSIP_C_DROP_FULL);
        gossip_note(g, GOSSIP_NOTE_FULL, GOSSIP_NONE, NULL);
        return GOSSIP_NONE;
    }
    struct gossip_str *s = gossip_str_get(g->pool, name);
    uint32_t slot = s != NULL ? slot_take(g) : GOSSIP_NONE;
    if (slot == GOSSIP_NONE) {
        gossip_str_put(g->pool, s);
        g->failed = true;
        return GOSSIP_NONE;
    }
    g->m[slot] = (struct gossip_member){ .name = s, .state = GOSSIP_DEAD, .changed_ms = g->now };
    g->counts[GOSSIP_DEAD]++;
    index_put(g->index, g->index_cap, s->hash, slot);
    if (slot != GOSSIP_SELF) {
        /* At a random place of the round. */
        uint32_t at = (uint32_t)rng_below(&g->rng, g->order_len + 1);
        g->order[g->order_len] = g->order[at];
        g->order[at] = slot;
        g->order_len++;
    }
    return slot;
}

static void slot_release(struct gossip *g, uint32_t slot)
{
    struct gossip_member *m = &g->m[slot];

    gossip_queue_drop(g, slot);
    gossip_suspicion_end(g, slot);
    g->peers[slot] = mem_free(g->peers[slot]);
    g->counts[m->state]--;
    index_remove(g, m->name);
    (void)gossip_limbo(g, m->name);
    (void)gossip_limbo(g, m->meta);
    *m = (struct gossip_member){ .cast = g->free_slot };
    g->free_slot = slot + 1;
}

/* Members that were dead or gone for long are no longer listed. */
void gossip_reap(struct gossip *g)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < g->order_len; i++) {
        uint32_t slot = g->order[i];
        const struct gossip_member *m = &g->m[slot];
        bool ended = m->state == GOSSIP_DEAD || m->state == GOSSIP_LEFT;
        if (ended && g->now - m->changed_ms >= g->p.dead_ms) {
            gossip_changed(g, slot, GOSSIP_REAPED, (enum gossip_state)m->state);
            slot_release(g, slot);
            if (i < g->order_at) {
                g->order_at--;
            }
        } else {
            g->order[kept++] = slot;
        }
    }
    g->order_len = kept;
    if (g->order_at > kept) {
        g->order_at = kept;
    }
}

void gossip_members_release(struct gossip *g)
{
    for (uint32_t i = 0; i < g->m_len; i++) {
        gossip_str_put(g->pool, g->m[i].name);
        gossip_str_put(g->pool, g->m[i].meta);
        mem_free(g->peers[i]);
    }
    mem_free(g->m);
    mem_free(g->peers);
    mem_free(g->index);
    mem_free(g->order);
}

/* --- state, counts, hash --- */

static bool live(const struct gossip_member *m)
{
    return m->state == GOSSIP_ALIVE || m->state == GOSSIP_SUSPECT;
}

/* What a live member adds to the view's hash. */
static uint64_t hash_of(const struct gossip_member *m)
{
    uint64_t x = m->name->id ^ (m->incarnation * 0x9E3779B97F4A7C15U);
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
    return x ^ (x >> 31);
}

bool gossip_is_ours(const struct gossip_member *m)
{
    struct gossip_meta meta;
    return gossip_meta_read(gossip_str_of(m->meta), &meta);
}

void gossip_member_state(struct gossip *g, uint32_t slot, enum gossip_state state, uint32_t inc)
{
    struct gossip_member *m = &g->m[slot];
    bool ours = gossip_is_ours(m);

    if (live(m)) {
        g->view_hash ^= hash_of(m);
        g->foreign -= ours ? 0 : 1;
    }
    g->counts[m->state]--;
    if (m->state != state) {
        m->changed_ms = g->now;
    }
    m->state = (uint8_t)state;
    m->incarnation = inc;
    g->counts[m->state]++;
    if (live(m)) {
        g->view_hash ^= hash_of(m);
        g->foreign += ours ? 0 : 1;
    }
    g->changed_ms = g->now;
}

void gossip_member_meta(struct gossip *g, uint32_t slot, struct gossip_str *meta)
{
    struct gossip_member *m = &g->m[slot];

    if (live(m)) {
        g->foreign -= gossip_is_ours(m) ? 0 : 1;
    }
    (void)gossip_limbo(g, m->meta);
    m->meta = meta;
    if (live(m)) {
        g->foreign += gossip_is_ours(m) ? 0 : 1;
    }
}

uint32_t gossip_live(const struct gossip *g)
{
    return g->counts[GOSSIP_ALIVE] + g->counts[GOSSIP_SUSPECT];
}

uint32_t gossip_known(const struct gossip *g)
{
    return gossip_live(g) + g->counts[GOSSIP_DEAD] + g->counts[GOSSIP_LEFT];
}

/* --- looking --- */

struct gossip_addr gossip_member_addr(const struct gossip_member *m)
{
    struct gossip_addr a = { .len = m->ip_len, .port = m->port };
    memcpy(a.ip, m->ip, sizeof(a.ip));
    return a;
}

void gossip_view_of(const struct gossip *g, uint32_t slot, struct gossip_view *ret)
{
    const struct gossip_member *m = &g->m[slot];

    *ret = (struct gossip_view){ .name = gossip_str_of(m->name),
                                 .addr = gossip_member_addr(m),
                                 .state = (enum gossip_state)m->state,
                                 .incarnation = m->incarnation,
                                 .rtt_us = m->rtt * 100U,
                                 .meta = gossip_str_of(m->meta),
                                 .ours = gossip_is_ours(m),
                                 .self = slot == GOSSIP_SELF,
                                 .changed_ms = m->changed_ms };
    memcpy(ret->vsn, m->vsn, sizeof(ret->vsn));
}

bool gossip_next(const struct gossip *g, uint32_t *cursor, struct gossip_view *ret)
{
    while (*cursor < g->m_len) {
        uint32_t slot = (*cursor)++;
        if (g->m[slot].name != NULL) {
            gossip_view_of(g, slot, ret);
            return true;
        }
    }
    return false;
}

bool gossip_find(const struct gossip *g, struct str name, struct gossip_view *ret)
{
    uint32_t slot = gossip_slot(g, name);
    if (slot != GOSSIP_NONE) {
        gossip_view_of(g, slot, ret);
    }
    return slot != GOSSIP_NONE;
}

/* --- choosing --- */

void gossip_shuffle(struct gossip *g)
{
    for (uint32_t i = g->order_len; i > 1; i--) {
        uint32_t j = (uint32_t)rng_below(&g->rng, i);
        uint32_t t = g->order[i - 1];
        g->order[i - 1] = g->order[j];
        g->order[j] = t;
    }
}

static bool among(const uint32_t *slots, unsigned n, uint32_t slot)
{
    for (unsigned i = 0; i < n; i++) {
        if (slots[i] == slot) {
            return true;
        }
    }
    return false;
}

unsigned gossip_pick(struct gossip *g, unsigned n,
                     bool (*want)(const struct gossip *g, uint32_t slot, uint32_t arg),
                     uint32_t arg, uint32_t *ret_slots)
{
    unsigned got = 0;

    /* At random first; when few fit, all in turn from a random place. */
    for (unsigned i = 0; g->order_len > 0 && got < n && i < 4 * n + 8; i++) {
        uint32_t slot = g->order[rng_below(&g->rng, g->order_len)];
        if (want(g, slot, arg) && !among(ret_slots, got, slot)) {
            ret_slots[got++] = slot;
        }
    }
    uint32_t from = got < n && g->order_len > 0 ? (uint32_t)rng_below(&g->rng, g->order_len) : 0;
    for (uint32_t i = 0; got < n && i < g->order_len; i++) {
        uint32_t slot = g->order[(from + i) % g->order_len];
        if (want(g, slot, arg) && !among(ret_slots, got, slot)) {
            ret_slots[got++] = slot;
        }
    }
    return got;
}

bool gossip_want_alive(const struct gossip *g, uint32_t slot, uint32_t but)
{
    return slot != but && g->m[slot].state == GOSSIP_ALIVE;
}
