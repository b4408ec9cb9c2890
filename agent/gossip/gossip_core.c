/* The core's beginning and end, its steps and effects, and how packets are put together. */
#include <errno.h>

#include "agent/gossip/gossip_internal.h"
#include "common/insist.h"
#include "common/mem.h"

enum {
    GOSSIP_MAGIC = 0x676f7373,
    FX_FIRST = 16,
    ARENA_MAX = 256 * 1024 * 1024,
    NOTE_PERIOD_MS = 10000,
    REAP_MS = 5000,
    LEAVE_MS = 3000,
    FORGET_MS = 2000, /* a stream of which nothing was heard so long after its time is over */
    LEAVE_TICKS = 4,  /* gossip goes out so much faster while leaving */
};

/* --- effects --- */

struct gossip_effect *gossip_fx(struct gossip *g, enum gossip_effect_type type)
{
    if (g->fx_len == g->fx_cap) {
        size_t cap = g->fx_cap == 0 ? FX_FIRST : g->fx_cap * 2;
        struct gossip_effect *fx = mem_realloc(g->fx, cap * sizeof(*fx));
        if (fx == NULL) {
            g->failed = true;
            return NULL;
        }
        g->fx = fx;
        size_t *at = mem_realloc(g->fx_at, cap * sizeof(*at));
        if (at == NULL) {
            g->failed = true;
            return NULL;
        }
        g->fx_at = at;
        g->fx_cap = cap;
    }
    struct gossip_effect *fx = &g->fx[g->fx_len];
    g->fx_at[g->fx_len++] = SIZE_MAX;
    *fx = (struct gossip_effect){ .type = type };
    return fx;
}

struct gossip_effect *gossip_fx_bytes(struct gossip *g, enum gossip_effect_type type,
                                      struct str bytes)
{
    size_t at = g->arena.len;

    if (buf_add(&g->arena, bytes.p, bytes.n) != 0) {
        g->arena.error = 0;
        g->failed = true;
        return NULL;
    }
    struct gossip_effect *fx = gossip_fx(g, type);
    if (fx != NULL) {
        fx->bytes.n = bytes.n;
        g->fx_at[g->fx_len - 1] = at;
    }
    return fx;
}

void gossip_note(struct gossip *g, enum gossip_note note, uint32_t slot,
                 const struct gossip_addr *addr)
{
    _Static_assert(GOSSIP_NOTE_PROTOCOL < ARRAY_LEN(((struct gossip *)NULL)->note_ms), "notes");
    if (g->note_ms[note] != 0 && g->now - g->note_ms[note] < NOTE_PERIOD_MS) {
        return;
    }
    g->note_ms[note] = g->now;
    struct gossip_effect *fx = gossip_fx(g, GOSSIP_FX_NOTE);
    if (fx != NULL) {
        fx->note = note;
        if (slot != GOSSIP_NONE) {
            gossip_view_of(g, slot, &fx->member);
        }
        if (addr != NULL) {
            fx->to = *addr;
        }
    }
}

void gossip_changed(struct gossip *g, uint32_t slot, enum gossip_change change,
                    enum gossip_state was)
{
    g->remember_dirty = true;
    if (slot == GOSSIP_SELF) {
        return;
    }
    struct gossip_effect *fx = gossip_fx(g, GOSSIP_FX_MEMBER);
    if (fx != NULL) {
        fx->change = change;
        fx->was = was;
        gossip_view_of(g, slot, &fx->member);
    }
}

static void forget_views_of(struct gossip *g, const struct gossip_str *s)
{
    size_t kept = 0;

    for (size_t i = 0; i < g->fx_len; i++) {
        if (g->fx[i].member.name.p != s->p && g->fx[i].member.meta.p != s->p) {
            g->fx[kept] = g->fx[i];
            g->fx_at[kept++] = g->fx_at[i];
        }
    }
    g->fx_len = kept;
}

bool gossip_limbo(struct gossip *g, struct gossip_str *s)
{
    if (s == NULL) {
        return true;
    }
    if (g->limbo_len == g->limbo_cap) {
        size_t cap = g->limbo_cap == 0 ? FX_FIRST : g->limbo_cap * 2;
        struct gossip_str **limbo = mem_realloc(g->limbo, cap * sizeof(*limbo));
        if (limbo == NULL) {
            g->failed = true;
            forget_views_of(g, s);
            gossip_str_put(g->pool, s);
            return false;
        }
        g->limbo = limbo;
        g->limbo_cap = cap;
    }
    g->limbo[g->limbo_len++] = s;
    return true;
}

static void limbo_empty(struct gossip *g)
{
    for (size_t i = 0; i < g->limbo_len; i++) {
        gossip_str_put(g->pool, g->limbo[i]);
    }
    g->limbo_len = 0;
}

/* --- packets --- */

void gossip_packet_begin(struct gossip *g)
{
    buf_reset(&g->body);
    g->parts = 0;
}

void gossip_part(struct gossip *g, enum gossip_type type, const struct gossip_msg *m)
{
    size_t at = g->body.len;

    if (g->parts < GOSSIP_PARTS_MAX) {
        gossip_msg_write(&g->body, type, m);
        g->part_len[g->parts++] = (uint16_t)(g->body.len - at);
    }
}

static struct gossip_effect *packet_effect(struct gossip *g)
{
    if (g->parts == 1) {
        return gossip_fx_bytes(g, GOSSIP_FX_PACKET, buf_str(&g->body));
    }
    buf_reset(&g->scratch);
    (void)buf_add_u8(&g->scratch, GOSSIP_COMPOUND);
    (void)buf_add_u8(&g->scratch, (uint8_t)g->parts);
    for (unsigned i = 0; i < g->parts; i++) {
        (void)buf_add_be16(&g->scratch, g->part_len[i]);
    }
    (void)buf_addstr(&g->scratch, buf_str(&g->body));
    if (buf_error(&g->scratch) != 0) {
        g->failed = true;
        return NULL;
    }
    return gossip_fx_bytes(g, GOSSIP_FX_PACKET, buf_str(&g->scratch));
}

void gossip_packet_send(struct gossip *g, const struct gossip_addr *to, bool piggyback)
{
    /* The compound's head, and two bytes of length for each part. */
    size_t used = g->body.len + 2U + 2U * g->parts + g->overhead;

    if (piggyback && g->casts_used > 0 && used < GOSSIP_PACKET_MAX) {
        gossip_queue_fill(g, GOSSIP_PACKET_MAX - used);
    }
    if (g->parts == 0) {
        return;
    }
    if (buf_error(&g->body) != 0) {
        g->failed = true;
        return;
    }
    struct gossip_effect *fx = packet_effect(g);
    if (fx != NULL) {
        fx->to = *to;
        gossip_bump(g, GOSSIP_C_PACKETS_OUT);
        g->counters[GOSSIP_C_BYTES_OUT] += fx->bytes.n + g->overhead;
    }
}

bool gossip_open(struct gossip *g, enum gossip_exchange_kind kind, const struct gossip_addr *to,
                 struct str bytes, uint64_t deadline_ms, uint32_t seq)
{
    struct gossip_exchange *x = NULL;

    for (unsigned i = 0; i < GOSSIP_EXCHANGES && x == NULL; i++) {
        bool over = g->exchanges[i].kind == GOSSIP_X_FREE || g->now > g->exchanges[i].end_ms;
        x = over ? &g->exchanges[i] : NULL;
    }
    if (x == NULL) {
        gossip_bump(g, GOSSIP_C_DROP_FULL);
        return false;
    }
    struct gossip_effect *fx = gossip_fx_bytes(g, GOSSIP_FX_OPEN, bytes);
    if (fx == NULL) {
        return false;
    }
    *x = (struct gossip_exchange){ .kind = kind,
                                   .id = g->next_stream++,
                                   .seq = seq,
                                   .hash = g->view_hash,
                                   .end_ms = deadline_ms + FORGET_MS };
    fx->stream = x->id;
    fx->to = *to;
    fx->deadline_ms = deadline_ms;
    fx->reply = kind != GOSSIP_X_USER;
    gossip_bump(g, GOSSIP_C_STREAMS_OUT);
    if (kind == GOSSIP_X_USER) {
        x->kind = GOSSIP_X_FREE; /* nothing comes back that matters */
    }
    return true;
}

/* --- what comes in --- */

static void on_message(struct gossip *g, struct str s, const struct gossip_addr *from)
{
    uint8_t type = (uint8_t)s.p[0];
    struct gossip_msg m;
    struct cur c;

    if (type == GOSSIP_USER) {
        gossip_on_user(g, str_slice(s, 1, SIZE_MAX));
        return;
    }
    if (type > GOSSIP_MSG_DEAD && type != GOSSIP_NACK) {
        gossip_bump(g, GOSSIP_C_DROP_UNKNOWN);
        return;
    }
    cur_init(&c, s.p + 1, s.n - 1);
    if (!gossip_msg_read(&c, (enum gossip_type)type, &m)) {
        gossip_bump(g, GOSSIP_C_DROP_MALFORMED);
        return;
    }
    switch (type) {
    case GOSSIP_PING:
        gossip_on_ping(g, &m, from);
        break;
    case GOSSIP_INDIRECT:
        gossip_on_indirect(g, &m, from);
        break;
    case GOSSIP_ACK:
        gossip_on_ack(g, &m);
        break;
    case GOSSIP_MSG_SUSPECT:
        gossip_on_suspect(g, &m);
        break;
    case GOSSIP_MSG_ALIVE:
        gossip_on_alive(g, &m, from);
        break;
    case GOSSIP_MSG_DEAD:
        gossip_on_dead(g, &m);
        break;
    default:
        gossip_on_nack(g, &m);
        break;
    }
}

static void on_packet(struct gossip *g, struct str s, const struct gossip_addr *from)
{
    struct gossip_parts parts;
    struct str part;
    struct cur c;

    gossip_bump(g, GOSSIP_C_PACKETS_IN);
    g->counters[GOSSIP_C_BYTES_IN] += s.n + g->overhead;
    if (s.n == 0) {
        gossip_bump(g, GOSSIP_C_DROP_MALFORMED);
        return;
    }
    if ((uint8_t)s.p[0] != GOSSIP_COMPOUND) {
        on_message(g, s, from);
        return;
    }
    cur_init(&c, s.p + 1, s.n - 1);
    bool good = gossip_parts_init(&parts, &c);
    while (good && gossip_parts_next(&parts, &part)) {
        if (part.n != 0) {
            on_message(g, part, from);
        }
    }
    if (!good || parts.left != 0) {
        gossip_bump(g, GOSSIP_C_DROP_MALFORMED);
    }
}

static void stream_close(struct gossip *g, uint32_t stream)
{
    struct gossip_effect *fx = gossip_fx(g, GOSSIP_FX_CLOSE);
    if (fx != NULL) {
        fx->stream = stream;
    }
}

/* A ping on a stream: those whom UDP does not reach ask so. */
static void on_stream_ping(struct gossip *g, uint32_t stream, struct cur *c)
{
    struct gossip_msg m;

    if (!gossip_msg_read(c, GOSSIP_PING, &m)) {
        gossip_bump(g, GOSSIP_C_DROP_MALFORMED);
    } else if (m.node.n == 0 || str_eq(m.node, gossip_str_of(g->m[GOSSIP_SELF].name))) {
        const struct gossip_msg ack = { .seq = m.seq };
        buf_reset(&g->scratch);
        gossip_msg_write(&g->scratch, GOSSIP_ACK, &ack);
        struct gossip_effect *fx = gossip_fx_bytes(g, GOSSIP_FX_ANSWER, buf_str(&g->scratch));
        if (fx != NULL) {
            fx->stream = stream;
            return;
        }
    }
    stream_close(g, stream);
}

static void on_stream(struct gossip *g, const struct gossip_event *ev)
{
    uint8_t type = ev->bytes.n != 0 ? (uint8_t)ev->bytes.p[0] : UINT8_MAX;
    struct cur c;
    uint32_t len;

    gossip_bump(g, GOSSIP_C_STREAMS_IN);
    cur_init(&c, ev->bytes.p + (ev->bytes.n != 0), ev->bytes.n - (ev->bytes.n != 0));
    if (type == GOSSIP_PULL) {
        gossip_on_pull(g, ev->stream, str_slice(ev->bytes, 1, SIZE_MAX), GOSSIP_X_FREE);
        return;
    }
    if (type == GOSSIP_PING) {
        on_stream_ping(g, ev->stream, &c);
        return;
    }
    if (type == GOSSIP_USER && gossip_user_header_read(&c, &len) && cur_left(&c) >= len) {
        gossip_on_user(g, cur_bytes(&c, len));
    } else {
        gossip_bump(g, type == GOSSIP_USER ? GOSSIP_C_DROP_MALFORMED : GOSSIP_C_DROP_UNKNOWN);
    }
    stream_close(g, ev->stream);
}

static struct gossip_exchange exchange_take(struct gossip *g, uint32_t id)
{
    struct gossip_exchange found = { .kind = GOSSIP_X_FREE };

    for (unsigned i = 0; i < GOSSIP_EXCHANGES; i++) {
        if (g->exchanges[i].kind != GOSSIP_X_FREE && g->exchanges[i].id == id) {
            found = g->exchanges[i];
            g->exchanges[i].kind = GOSSIP_X_FREE;
        }
    }
    return found;
}

static void on_reply(struct gossip *g, const struct gossip_event *ev)
{
    const struct gossip_exchange x = exchange_take(g, ev->stream);
    uint8_t type = ev->bytes.n != 0 ? (uint8_t)ev->bytes.p[0] : UINT8_MAX;
    struct gossip_msg m;
    struct cur c;

    if (x.kind == GOSSIP_X_FREE) {
        return;
    }
    cur_init(&c, ev->bytes.p + (ev->bytes.n != 0), ev->bytes.n - (ev->bytes.n != 0));
    if (x.kind == GOSSIP_X_PING) {
        bool good = type == GOSSIP_ACK && gossip_msg_read(&c, GOSSIP_ACK, &m) && m.seq == x.seq;
        gossip_on_tcp_ping(g, x.seq, good ? GOSSIP_TCP_ACKED : GOSSIP_TCP_SILENT);
        return;
    }
    if (type == GOSSIP_ERROR) {
        gossip_note(g, GOSSIP_NOTE_PROTOCOL, GOSSIP_NONE, &ev->from);
    }
    if (type == GOSSIP_PULL) {
        gossip_on_pull(g, 0, str_slice(ev->bytes, 1, SIZE_MAX), x.kind);
    }
    gossip_exchange_done(g, &x, type == GOSSIP_PULL);
}

static void on_failed(struct gossip *g, const struct gossip_event *ev)
{
    const struct gossip_exchange x = exchange_take(g, ev->stream);

    if (x.kind == GOSSIP_X_PING) {
        gossip_on_tcp_ping(g, x.seq,
                           ev->failure == GOSSIP_FAIL_REFUSED       ? GOSSIP_TCP_REFUSED
                           : ev->failure == GOSSIP_FAIL_UNREACHABLE ? GOSSIP_TCP_UNREACHABLE
                                                                    : GOSSIP_TCP_SILENT);
    } else if (x.kind != GOSSIP_X_FREE) {
        gossip_exchange_done(g, &x, false);
    }
}

/* --- leaving, metadata --- */

static void on_meta(struct gossip *g, struct str meta)
{
    struct gossip_str *s = meta.n != 0 ? gossip_str_get(g->pool, meta) : NULL;

    if (meta.n > GOSSIP_META_OWN_MAX || (meta.n != 0 && s == NULL)) {
        g->failed = g->failed || meta.n <= GOSSIP_META_OWN_MAX;
        gossip_str_put(g->pool, s);
        return;
    }
    if (s == g->m[GOSSIP_SELF].meta) {
        gossip_str_put(g->pool, s);
        return;
    }
    gossip_member_meta(g, GOSSIP_SELF, s);
    gossip_self_changed(g);
}

static void on_leave(struct gossip *g)
{
    if (g->leaving) {
        return;
    }
    struct gossip_member *self = &g->m[GOSSIP_SELF];
    const struct gossip_msg m = { .node = gossip_str_of(self->name),
                                  .from = gossip_str_of(self->name),
                                  .incarnation = self->incarnation };
    g->leaving = true;
    gossip_serf_leave(g);
    g->left_at = g->now + LEAVE_MS;
    gossip_on_dead(g, &m);
    g->urgent = true;
    g->settling = false;
    struct gossip_effect *fx = gossip_fx_bytes(g, GOSSIP_FX_REMEMBER, STR(""));
    (void)fx;
}

static void leave_due(struct gossip *g)
{
    bool told = g->m[GOSSIP_SELF].cast == 0 || gossip_live(g) == 0;
    if (g->leaving && !g->left && (told || g->now >= g->left_at)) {
        g->left = gossip_fx(g, GOSSIP_FX_LEFT) != NULL;
    }
}

/* --- time --- */

static uint64_t soonest(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t gossip_deadline_ms(const struct gossip *g)
{
    const struct heap_node *s = heap_min(&g->suspicions);
    uint64_t at = soonest(gossip_probes_deadline(g), gossip_pulls_deadline(g));

    if (g->casts_used > 0) {
        at = soonest(at, g->gossip_at);
    }
    if (s != NULL) {
        at = soonest(at, s->key);
    }
    if (g->counts[GOSSIP_DEAD] + g->counts[GOSSIP_LEFT] > 0) {
        at = soonest(at, g->reap_at);
    }
    if (g->leaving && !g->left) {
        at = soonest(at, g->left_at);
    }
    return at;
}

static void on_tick(struct gossip *g, uint64_t wanted)
{
    if (wanted != GOSSIP_NEVER && g->now > wanted + g->p.probe_timeout_ms / 2) {
        gossip_stalled(g, g->now - wanted);
    }
    gossip_probes_due(g);
    gossip_suspicions_due(g);
    gossip_pulls_due(g);
    if (g->now >= g->reap_at) {
        g->reap_at = g->now + REAP_MS;
        gossip_reap(g);
    }
    if (g->casts_used > 0 && g->now >= g->gossip_at) {
        g->gossiped_ms = g->now;
        g->gossip_at = g->now + g->p.gossip_interval_ms / (g->leaving ? LEAVE_TICKS : 1);
        gossip_spread(g, g->p.gossip_nodes);
    }
}

static int on_event(struct gossip *g, const struct gossip_event *ev, uint64_t wanted)
{
    switch (ev->type) {
    case GOSSIP_EV_TICK:
        on_tick(g, wanted);
        break;
    case GOSSIP_EV_PACKET:
        on_packet(g, ev->bytes, &ev->from);
        break;
    case GOSSIP_EV_STREAM:
        on_stream(g, ev);
        break;
    case GOSSIP_EV_REPLY:
        on_reply(g, ev);
        break;
    case GOSSIP_EV_FAILED:
        on_failed(g, ev);
        break;
    case GOSSIP_EV_JOIN:
        gossip_pull_start(g, GOSSIP_X_JOIN, &ev->from);
        break;
    case GOSSIP_EV_META:
        on_meta(g, ev->bytes);
        break;
    case GOSSIP_EV_SEND:
        return gossip_user_send(g, ev);
    case GOSSIP_EV_LEAVE:
        on_leave(g);
        break;
    case GOSSIP_EV_REMEMBER:
        gossip_lost_read(g, ev->bytes);
        break;
    }
    return 0;
}

/* Words about ourselves do not wait for the next round; a flood of them does. */
static void flush(struct gossip *g)
{
    g->urgent = false;
    if (g->now - g->flushed_ms >= g->p.gossip_interval_ms / 4 || g->flushed_ms == 0) {
        g->flushed_ms = g->now;
        gossip_spread(g, g->p.gossip_nodes);
    }
}

int gossip_step(struct gossip *g, const struct gossip_event *ev, struct gossip_effects *fx)
{
    REQUIRE(g->magic == GOSSIP_MAGIC && ev->now_ms >= g->now);
    uint64_t wanted = ev->type == GOSSIP_EV_TICK ? gossip_deadline_ms(g) : GOSSIP_NEVER;

    limbo_empty(g);
    buf_reset(&g->arena);
    g->fx_len = 0;
    g->failed = false;
    g->acks_len = 0;
    g->now = ev->now_ms;
    g->now_s = ev->now_s;
    if (ev->type == GOSSIP_EV_PACKET || ev->type == GOSSIP_EV_STREAM ||
        ev->type == GOSSIP_EV_REPLY) {
        g->heard_ms = g->now;
        g->fails = 0;
    }
    int rc = on_event(g, ev, wanted);
    gossip_acks_send(g);
    if (g->urgent) {
        flush(g);
    }
    leave_due(g);
    for (size_t i = 0; i < g->fx_len; i++) {
        if (g->fx_at[i] != SIZE_MAX) {
            g->fx[i].bytes.p = buf_cstr(&g->arena) + g->fx_at[i];
        }
    }
    if (g->arena.cap > 1024 * 1024 && g->arena.len < 64 * 1024 && g->fx_len == 0) {
        buf_release(&g->arena);
    }
    *fx = (struct gossip_effects){ .v = g->fx, .len = g->fx_len };
    if (g->failed) {
        gossip_bump(g, GOSSIP_C_DROP_MEMORY);
        rc = rc != 0 ? rc : -ENOMEM;
    }
    return rc;
}

/* --- beginning and end --- */

static int self_init(struct gossip *g, const struct gossip_config *c)
{
    struct gossip_str *meta = c->meta.n != 0 ? gossip_str_get(g->pool, c->meta) : NULL;

    if ((c->meta.n != 0 && meta == NULL) || gossip_member_add(g, str_of(c->name)) != GOSSIP_SELF) {
        gossip_str_put(g->pool, meta);
        return -ENOMEM;
    }
    struct gossip_member *m = &g->m[GOSSIP_SELF];
    memcpy(m->ip, c->addr.ip, sizeof(m->ip));
    m->ip_len = c->addr.len;
    m->port = c->addr.port;
    memcpy(m->vsn, c->vsn, sizeof(m->vsn));
    gossip_member_meta(g, GOSSIP_SELF, meta);
    gossip_member_state(g, GOSSIP_SELF, GOSSIP_ALIVE, 1);
    return 0;
}

int gossip_new(const struct gossip_config *c, struct gossip **ret, struct err *e)
{
    size_t name_len = strlen(c->name);

    if (name_len == 0 || name_len > GOSSIP_NAME_MAX || c->meta.n > GOSSIP_META_OWN_MAX ||
        (c->addr.len != 4 && c->addr.len != 16)) {
        return err_say(e, -EINVAL, "gossip: name, metadata or address of '%.64s' is not possible",
                       c->name);
    }
    struct gossip *g = mem_zalloc(sizeof(*g));
    if (g == NULL) {
        return err_set(e, -ENOMEM, "start gossip");
    }
    g->magic = GOSSIP_MAGIC;
    g->p = c->params;
    g->pool = c->pool;
    g->now = c->now_ms;
    g->now_s = c->now_s;
    g->overhead = c->overhead;
    g->boot = c->boot;
    g->m_max = c->members_max != 0 ? c->members_max : GOSSIP_MEMBERS_MAX;
    rng_init(&g->rng, c->seed);
    heap_init(&g->suspicions, g->m_max);
    buf_init(&g->body, 64 * 1024);
    buf_init(&g->scratch, GOSSIP_STREAM_MAX);
    buf_init(&g->arena, ARENA_MAX);
    if (self_init(g, c) != 0) {
        gossip_free(g);
        return err_set(e, -ENOMEM, "start gossip");
    }
    g->tokens = 8;
    g->tokens_ms = g->now;
    g->probe_at = g->now + gossip_jitter(g, g->p.probe_interval_ms);
    g->gossip_at = g->now + gossip_jitter(g, g->p.gossip_interval_ms);
    g->reap_at = g->now + REAP_MS;
    gossip_pulls_init(g);
    *ret = g;
    return 0;
}

struct gossip *gossip_free(struct gossip *g)
{
    if (g == NULL) {
        return NULL;
    }
    limbo_empty(g);
    for (uint32_t i = 0; i < g->casts_len; i++) {
        gossip_str_put(g->pool, g->casts[i].from);
    }
    while (g->sus_len > 0) {
        gossip_suspicion_end(g, g->sus[0]->slot);
    }
    gossip_probes_release(g);
    gossip_lost_release(g);
    limbo_empty(g);
    gossip_members_release(g);
    heap_release(&g->suspicions);
    mem_free(g->casts);
    mem_free(g->sus);
    mem_free(g->fx);
    mem_free(g->fx_at);
    mem_free(g->limbo);
    buf_release(&g->body);
    buf_release(&g->scratch);
    buf_release(&g->arena);
    g->magic = 0;
    return mem_free(g);
}

uint64_t gossip_jitter(struct gossip *g, uint64_t span)
{
    return rng_below(&g->rng, span + 1);
}

uint32_t gossip_count(const struct gossip *g, enum gossip_state s)
{
    return g->counts[s];
}

uint32_t gossip_health(const struct gossip *g)
{
    return g->health;
}

uint64_t gossip_view_hash(const struct gossip *g)
{
    return g->view_hash;
}

void gossip_set_overhead(struct gossip *g, uint32_t bytes)
{
    g->overhead = bytes;
}

uint64_t gossip_counter(const struct gossip *g, enum gossip_counter c)
{
    return g->counters[c];
}
