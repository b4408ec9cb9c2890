/*
 * The rules: what a word about a member changes.
 *
 *            alive, higher incarnation
 *      +--------------------------------------------+
 *      v                                            |
 *    alive --suspect, same or higher--> suspect --dead or time--> dead --time--> (reaped)
 *      |                                   |                       ^
 *      +---------------dead, same or higher+-----------------------+
 *      +---------------dead by its own word------> left --time--> (reaped)
 *
 * At one incarnation dead beats suspect beats alive. A word against ourselves is refuted.
 */
#include <errno.h>

#include "agent/gossip/gossip_internal.h"
#include "common/insist.h"
#include "common/mem.h"

enum {
    TOKENS_MAX = 8,
    BUMP_MS = 5000,
};

void gossip_health_add(struct gossip *g, int delta)
{
    int h = (int)g->health + delta;
    int max = (int)g->p.awareness_max - 1;
    g->health = (uint32_t)(h < 0 ? 0 : h > max ? max : h);
}

/* log2 by squaring, 16 bits behind the point: the same everywhere. */
uint32_t gossip_log2_fixed(uint32_t n)
{
    REQUIRE(n >= 1);
    uint32_t whole = 31 - (uint32_t)__builtin_clz(n);
    uint64_t x = ((uint64_t)n << 31) >> whole; /* 1 <= x < 2, 31 bits behind the point */
    uint32_t log = whole << 16;

    for (uint32_t bit = 1U << 15; bit != 0; bit >>= 1) {
        x = (x * x) >> 31;
        if (x >= (2ULL << 31)) {
            x >>= 1;
            log |= bit;
        }
    }
    return log;
}

uint32_t gossip_log10_milli(uint32_t n)
{
    /* log10(2) * 2^16 = 19728.30; half a unit more, for what the squaring lost */
    return (uint32_t)(((uint64_t)gossip_log2_fixed(n) * 1000 * 19728 + (1ULL << 31)) >> 32);
}

/* --- suspicions --- */

static struct gossip_suspicion *suspicion_of(struct gossip *g, uint32_t slot)
{
    uint32_t i = g->m[slot].suspicion;
    return i != 0 ? g->sus[i - 1] : NULL;
}

void gossip_suspicion_end(struct gossip *g, uint32_t slot)
{
    struct gossip_suspicion *s = suspicion_of(g, slot);

    if (s == NULL) {
        return;
    }
    heap_remove(&g->suspicions, &s->node);
    struct gossip_suspicion *last = g->sus[--g->sus_len];
    g->sus[s->index] = last;
    last->index = s->index;
    g->m[last->slot].suspicion = last->index + 1;
    g->m[slot].suspicion = 0;
    for (unsigned i = 0; i < s->accusers_len; i++) {
        (void)gossip_limbo(g, s->accusers[i]);
    }
    mem_free(s);
}

/* Accusers that make a fast verdict: three, or all that there can be. */
static uint32_t accusers_needed(const struct gossip *g, const struct gossip_suspicion *s)
{
    uint32_t others = gossip_live(g) > 1 ? gossip_live(g) - 1 : 1;
    uint32_t least = s->refused ? 1 : 2;
    uint32_t need = others < 3 ? others : 3;
    return need > least ? need : least;
}

/* From when on it is dead. Lifeguard's: from the most down to the least as others confirm; ours:
 * sooner, when we know ourselves that nobody listens there any more. */
static uint64_t verdict_ms(const struct gossip *g, const struct gossip_suspicion *s)
{
    uint32_t c = s->accusers_len - 1U;
    uint64_t wait = s->min_ms;

    c = c < s->k ? c : s->k;
    if (s->k > 0) {
        uint64_t part =
            (s->max_ms - s->min_ms) * gossip_log2_fixed(c + 1) / gossip_log2_fixed(s->k + 1U);
        wait = s->max_ms - part;
    }
    if (s->hard && g->health <= 1 && s->accusers_len >= accusers_needed(g, s) &&
        wait > g->p.suspicion_fast_ms) {
        wait = g->p.suspicion_fast_ms;
    }
    return s->start_ms + wait;
}

static bool accused_by(const struct gossip_suspicion *s, const struct gossip_str *who)
{
    for (unsigned i = 0; i < s->accusers_len; i++) {
        if (s->accusers[i] == who) {
            return true;
        }
    }
    return false;
}

static void accuser_add(struct gossip_suspicion *s, struct gossip_str *who)
{
    who->refs++;
    s->accusers[s->accusers_len++] = who;
}

static void suspicion_start(struct gossip *g, uint32_t slot, struct gossip_str *from)
{
    uint32_t n = gossip_known(g);
    uint32_t k = g->p.suspicion_mult > 2 ? g->p.suspicion_mult - 2 : 0;
    uint32_t log = gossip_log10_milli(n > 0 ? n : 1);
    struct gossip_suspicion *s = mem_zalloc(sizeof(*s));

    if (s != NULL && g->sus_len == g->sus_cap) {
        uint32_t cap = g->sus_cap == 0 ? 8 : g->sus_cap * 2;
        struct gossip_suspicion **sus =
            mem_realloc(g->sus, cap * sizeof(struct gossip_suspicion *));
        if (sus == NULL) {
            s = mem_free(s);
        } else {
            g->sus = sus;
            g->sus_cap = cap;
        }
    }
    if (s == NULL) {
        g->failed = true; /* the next accuser tries again: the member stays suspect till then */
        return;
    }
    s->slot = slot;
    s->start_ms = g->now;
    s->k = (uint8_t)(n < k + 2 ? 0 : k);
    s->min_ms =
        (uint64_t)g->p.suspicion_mult * (log > 1000 ? log : 1000) * g->p.probe_interval_ms / 1000;
    s->max_ms = s->min_ms * g->p.suspicion_max_mult;
    accuser_add(s, from);
    heap_node_init(&s->node);
    if (heap_push(&g->suspicions, &s->node, verdict_ms(g, s)) != 0) {
        gossip_str_put(g->pool, from);
        mem_free(s);
        g->failed = true;
        return;
    }
    s->index = g->sus_len;
    g->sus[g->sus_len++] = s;
    g->m[slot].suspicion = g->sus_len;
}

static void suspicion_again(struct gossip *g, struct gossip_suspicion *s)
{
    heap_update(&g->suspicions, &s->node, verdict_ms(g, s));
}

bool gossip_suspect_for_long(const struct gossip *g, struct str name)
{
    uint32_t slot = gossip_slot(g, name);
    return slot != GOSSIP_NONE && slot != GOSSIP_SELF && g->m[slot].state == GOSSIP_SUSPECT &&
           g->now - g->m[slot].changed_ms >= g->p.suspicion_fast_ms && g->now >= g->hold_ms;
}

void gossip_suspicions_due(struct gossip *g)
{
    struct heap_node *n;

    while ((n = heap_min(&g->suspicions)) != NULL && n->key <= g->now) {
        struct gossip_suspicion *s = CONTAINER_OF(n, struct gossip_suspicion, node);
        if (g->now < g->hold_ms || gossip_isolated(g)) {
            /* We were away ourselves: what was said meanwhile has to be heard first. */
            uint64_t again = g->hold_ms > g->now ? g->hold_ms : g->now + g->p.probe_interval_ms;
            heap_update(&g->suspicions, n, again + gossip_jitter(g, 100));
            continue;
        }
        const struct gossip_msg m = { .node = gossip_str_of(g->m[s->slot].name),
                                      .from = gossip_str_of(g->m[GOSSIP_SELF].name),
                                      .incarnation = g->m[s->slot].incarnation };
        gossip_bump(g, GOSSIP_C_DIED);
        gossip_on_dead(g, &m);
    }
}

/* --- ourselves --- */

static void self_alive(struct gossip *g, uint32_t incarnation)
{
    gossip_member_state(g, GOSSIP_SELF, GOSSIP_ALIVE, incarnation);
    gossip_queue_put(g, GOSSIP_SELF, GOSSIP_MSG_ALIVE, incarnation, NULL);
    g->urgent = true;
}

void gossip_self_changed(struct gossip *g)
{
    if (!g->leaving) {
        self_alive(g, g->m[GOSSIP_SELF].incarnation + 1);
    }
}

/* Could an incarnation have grown that much? Else somebody wants to silence a node for good. */
static bool jumps(const struct gossip *g, uint32_t slot, uint32_t incarnation)
{
    uint32_t known = slot != GOSSIP_NONE ? g->m[slot].incarnation : 0;
    return incarnation > known && incarnation - known > GOSSIP_JUMP_MAX;
}

static void drop_jump(struct gossip *g, uint32_t slot)
{
    gossip_bump(g, GOSSIP_C_DROP_INCARNATION);
    gossip_note(g, GOSSIP_NOTE_INCARNATION, slot, NULL);
}

static void refute(struct gossip *g, uint32_t accused)
{
    uint32_t own = g->m[GOSSIP_SELF].incarnation;

    if (jumps(g, GOSSIP_SELF, accused)) {
        drop_jump(g, GOSSIP_SELF);
        return;
    }
    gossip_bump(g, GOSSIP_C_REFUTED);
    gossip_health_add(g, 1);
    self_alive(g, (accused > own ? accused : own) + 1);
}

static bool same_place(const struct gossip_member *m, const struct gossip_msg *a)
{
    return m->port == a->port && m->ip_len == a->addr.n && memcmp(m->ip, a->addr.b, a->addr.n) == 0;
}

static void conflict(struct gossip *g, uint32_t slot, const struct gossip_msg *a)
{
    struct gossip_addr other = { .len = a->addr.n, .port = a->port };
    memcpy(other.ip, a->addr.b, sizeof(other.ip));
    gossip_bump(g, GOSSIP_C_CONFLICTS);
    gossip_note(g, GOSSIP_NOTE_CONFLICT, slot, &other);
}

static void alive_self(struct gossip *g, const struct gossip_msg *a)
{
    struct gossip_member *m = &g->m[GOSSIP_SELF];

    if (g->leaving) {
        return;
    }
    if (!same_place(m, a)) {
        conflict(g, GOSSIP_SELF, a);
        /* Perhaps our own record from before this node moved: be newer than that, once in a
         * while. Two nodes of one name would raise each other for ever. */
        if (a->incarnation >= m->incarnation && !jumps(g, GOSSIP_SELF, a->incarnation) &&
            (g->bumped_ms == 0 || g->now - g->bumped_ms >= BUMP_MS)) {
            g->bumped_ms = g->now;
            self_alive(g, a->incarnation + 1);
        }
        return;
    }
    if (a->incarnation < m->incarnation ||
        (a->incarnation == m->incarnation && str_eq(a->meta, gossip_str_of(m->meta)) &&
         a->vsn_len == sizeof(m->vsn) && memcmp(a->vsn, m->vsn, sizeof(m->vsn)) == 0)) {
        return;
    }
    refute(g, a->incarnation);
}

/* --- alive --- */

static bool alive_possible(struct gossip *g, const struct gossip_msg *a)
{
    bool good = a->node.n >= 1 && a->node.n <= GOSSIP_NAME_MAX && a->addr.n != 0 && a->port != 0 &&
                a->meta.n <= GOSSIP_META_MAX && str_is_utf8(a->node);

    for (size_t i = 0; good && i < a->node.n; i++) {
        good = (uint8_t)a->node.p[i] > ' ' && a->node.p[i] != 0x7F;
    }
    if (good && a->vsn_len >= 3) {
        good = a->vsn[0] != 0 && a->vsn[1] != 0 && a->vsn[0] <= a->vsn[1];
    }
    if (!good) {
        gossip_bump(g, GOSSIP_C_DROP_MALFORMED);
    }
    return good;
}

/* May what is known of the member be replaced by a record with another address? */
static bool may_move(struct gossip *g, uint32_t slot, const struct gossip_msg *a)
{
    struct gossip_member *m = &g->m[slot];

    if (m->state == GOSSIP_LEFT || m->state == GOSSIP_DEAD) {
        return true;
    }
    conflict(g, slot, a);
    return false;
}

/* From its own host a node may say what it likes about itself. */
static bool by_itself(const struct gossip_msg *a, const struct gossip_addr *via)
{
    struct gossip_addr at = { .len = a->addr.n, .port = via != NULL ? via->port : 0 };
    memcpy(at.ip, a->addr.b, sizeof(at.ip));
    return via != NULL && gossip_addr_same(&at, via);
}

static void alive_take(struct gossip *g, uint32_t slot, const struct gossip_msg *a, bool moved)
{
    struct gossip_member *m = &g->m[slot];
    enum gossip_state was = (enum gossip_state)m->state;
    bool other_meta = !str_eq(gossip_str_of(m->meta), a->meta);
    struct gossip_str *meta = NULL;

    if (other_meta) {
        meta = a->meta.n != 0 ? gossip_str_get(g->pool, a->meta) : NULL;
        if (meta == NULL && a->meta.n != 0) {
            g->failed = true;
            return;
        }
        gossip_member_meta(g, slot, meta);
    }
    gossip_suspicion_end(g, slot);
    memcpy(m->ip, a->addr.b, sizeof(m->ip));
    m->ip_len = a->addr.n;
    m->port = a->port;
    memset(m->vsn, 0, sizeof(m->vsn));
    memcpy(m->vsn, a->vsn, a->vsn_len);
    if (moved) {
        m->rtt = 0;
    }
    gossip_member_state(g, slot, GOSSIP_ALIVE, a->incarnation);
    if (!g->hushed) {
        gossip_queue_put(g, slot, GOSSIP_MSG_ALIVE, a->incarnation, NULL);
    } else {
        gossip_queue_drop(g, slot); /* an older word */
    }
    if (was == GOSSIP_DEAD || was == GOSSIP_LEFT) {
        g->joined_since++;
        gossip_lost_drop(g, gossip_str_of(m->name));
        gossip_changed(g, slot, GOSSIP_JOINED, was);
        return;
    }
    if (other_meta) {
        gossip_changed(g, slot, GOSSIP_UPDATED, was);
    }
    if (was == GOSSIP_SUSPECT) {
        gossip_changed(g, slot, GOSSIP_CLEARED, was);
    }
}

void gossip_on_alive(struct gossip *g, const struct gossip_msg *m, const struct gossip_addr *via)
{
    struct gossip_msg a = *m;
    bool moved = false;

    if (a.port == 0) {
        a.port = g->m[GOSSIP_SELF].port;
    }
    if (!alive_possible(g, &a)) {
        return;
    }
    uint32_t slot = gossip_slot(g, a.node);
    if (slot == GOSSIP_SELF) {
        alive_self(g, &a);
        return;
    }
    if (slot != GOSSIP_NONE && !same_place(&g->m[slot], &a)) {
        if (!may_move(g, slot, &a)) {
            return;
        }
        moved = true;
    } else if (a.incarnation == 0 ||
               (slot != GOSSIP_NONE && a.incarnation <= g->m[slot].incarnation)) {
        return;
    }
    if (jumps(g, slot, a.incarnation) && !by_itself(&a, via)) {
        drop_jump(g, slot);
        return;
    }
    if (slot == GOSSIP_NONE && (slot = gossip_member_add(g, a.node)) == GOSSIP_NONE) {
        return;
    }
    alive_take(g, slot, &a, moved);
}

/* --- suspect, dead --- */

/* A word against a member that we know, not older than what we know. GOSSIP_NONE: ignore it. */
static uint32_t accused(struct gossip *g, const struct gossip_msg *m)
{
    uint32_t slot = m->node.n != 0 ? gossip_slot(g, m->node) : GOSSIP_NONE;

    if (slot == GOSSIP_NONE || m->from.n == 0 || m->from.n > GOSSIP_NAME_MAX) {
        gossip_bump(g, GOSSIP_C_DROP_UNKNOWN);
        return GOSSIP_NONE;
    }
    if (m->incarnation < g->m[slot].incarnation) {
        return GOSSIP_NONE;
    }
    if (jumps(g, slot, m->incarnation)) {
        drop_jump(g, slot);
        return GOSSIP_NONE;
    }
    return slot;
}

/* Accusers count by name: only names of members do, or one could make them up. */
static struct gossip_str *accuser(struct gossip *g, const struct gossip_msg *m)
{
    uint32_t from = gossip_slot(g, m->from);
    return from != GOSSIP_NONE ? g->m[from].name : NULL;
}

/* Who said it, to be passed on unchanged; let go after the step. NULL: no memory. */
static struct gossip_str *sayer(struct gossip *g, const struct gossip_msg *m)
{
    struct gossip_str *s = gossip_str_get(g->pool, m->from);
    g->failed = g->failed || s == NULL;
    return gossip_limbo(g, s) ? s : NULL;
}

static void confirm(struct gossip *g, uint32_t slot, const struct gossip_msg *m)
{
    struct gossip_suspicion *s = suspicion_of(g, slot);
    struct gossip_str *from = accuser(g, m);

    if (from == NULL || s->accusers_len == GOSSIP_ACCUSERS || accused_by(s, from)) {
        return;
    }
    accuser_add(s, from);
    suspicion_again(g, s);
    gossip_queue_put(g, slot, GOSSIP_MSG_SUSPECT, m->incarnation, from);
}

void gossip_on_suspect(struct gossip *g, const struct gossip_msg *m)
{
    uint32_t slot = accused(g, m);

    if (slot == GOSSIP_NONE) {
        return;
    }
    if (slot == GOSSIP_SELF) {
        if (!g->leaving) {
            gossip_note(g, GOSSIP_NOTE_REFUTED,
                        accuser(g, m) ? gossip_slot(g, m->from) : GOSSIP_NONE, NULL);
            refute(g, m->incarnation);
        }
        return;
    }
    if (g->m[slot].suspicion != 0) {
        confirm(g, slot, m);
        return;
    }
    bool again = g->m[slot].state == GOSSIP_SUSPECT; /* there was no memory for its timer */
    if (g->m[slot].state != GOSSIP_ALIVE && !again) {
        return;
    }
    struct gossip_str *from = sayer(g, m);
    if (from == NULL) {
        return;
    }
    gossip_queue_put(g, slot, GOSSIP_MSG_SUSPECT, m->incarnation, from);
    gossip_member_state(g, slot, GOSSIP_SUSPECT, m->incarnation);
    suspicion_start(g, slot, from);
    if (!again) {
        gossip_changed(g, slot, GOSSIP_SUSPECTED, GOSSIP_ALIVE);
    }
    if (from != g->m[GOSSIP_SELF].name) {
        gossip_confirm(g, slot);
    }
}

static bool token_take(struct gossip *g)
{
    uint64_t more = (g->now - g->tokens_ms) / g->p.probe_interval_ms;

    if (more > 0) {
        g->tokens_ms += more * g->p.probe_interval_ms;
        g->tokens = more >= TOKENS_MAX - g->tokens ? TOKENS_MAX : g->tokens + (uint32_t)more;
    }
    if (g->tokens == 0) {
        return false;
    }
    g->tokens--;
    return true;
}

void gossip_accuse(struct gossip *g, uint32_t slot, enum gossip_tcp evidence)
{
    const struct gossip_msg m = { .node = gossip_str_of(g->m[slot].name),
                                  .from = gossip_str_of(g->m[GOSSIP_SELF].name),
                                  .incarnation = g->m[slot].incarnation };

    if (!token_take(g)) {
        return;
    }
    gossip_bump(g, GOSSIP_C_SUSPICIONS);
    gossip_on_suspect(g, &m);
    struct gossip_suspicion *s = suspicion_of(g, slot);
    if (s != NULL && (evidence == GOSSIP_TCP_REFUSED || evidence == GOSSIP_TCP_UNREACHABLE)) {
        s->hard = true;
        s->refused = s->refused || evidence == GOSSIP_TCP_REFUSED;
        suspicion_again(g, s);
    }
}

void gossip_on_dead(struct gossip *g, const struct gossip_msg *m)
{
    uint32_t slot = accused(g, m);

    if (slot == GOSSIP_NONE) {
        return;
    }
    enum gossip_state was = (enum gossip_state)g->m[slot].state;
    if (was == GOSSIP_DEAD || was == GOSSIP_LEFT) {
        return;
    }
    if (slot == GOSSIP_SELF && !g->leaving) {
        refute(g, m->incarnation);
        return;
    }
    bool went = str_eq(m->node, m->from);
    struct gossip_str *from = sayer(g, m);
    if (from == NULL) {
        return;
    }
    gossip_suspicion_end(g, slot);
    gossip_queue_put(g, slot, GOSSIP_MSG_DEAD, m->incarnation, from);
    gossip_member_state(g, slot, went ? GOSSIP_LEFT : GOSSIP_DEAD, m->incarnation);
    if (went) {
        gossip_lost_drop(g, gossip_str_of(g->m[slot].name));
    } else {
        gossip_lost_add(g, slot);
    }
    gossip_changed(g, slot, went ? GOSSIP_WENT : GOSSIP_DIED, was);
}
