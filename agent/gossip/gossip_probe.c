/*
 * Probes: is it there? One member per interval, in a shuffled round; directly, then by others and
 * by TCP. And the answers to those of others.
 *
 * A confirmer is one of a few nodes, the same few by everyone's reckoning, that look at once when
 * another suspects a member: so that there are several independent voices soon. They ping several
 * times, for the network may lose some.
 */
#include "agent/gossip/gossip_internal.h"
#include "common/insist.h"

enum {
    CONFIRM_PING_MS = 150,
    CONFIRM_PINGS = 4,
    TCP_EARLY_MS = 20, /* the stream gives up so much before the probe, so that its end is known */
    HELPERS_MAX = 8,
    ISOLATED_FAILS = 3, /* probes in a row to others, and not a sign of life from anybody */
    ISOLATED_MS = 60000,
    HASH_MAGIC = 0x47,
    HASH_BYTES = 9,
};

/* --- our view's hash, in acks --- */

void gossip_hash_put(const struct gossip *g, uint8_t dst[9])
{
    dst[0] = HASH_MAGIC;
    for (unsigned i = 0; i < 8; i++) {
        dst[1 + i] = (uint8_t)(g->view_hash >> (56 - 8 * i));
    }
}

static void hash_look(struct gossip *g, uint32_t slot, struct str payload)
{
    uint8_t own[HASH_BYTES];

    if (payload.n != HASH_BYTES || (uint8_t)payload.p[0] != HASH_MAGIC ||
        !gossip_is_ours(&g->m[slot])) {
        return;
    }
    gossip_hash_put(g, own);
    if (memcmp(own, payload.p, HASH_BYTES) == 0) {
        gossip_view_matches(g);
    } else {
        gossip_view_differs(g, slot);
    }
}

/* --- answering --- */

static void ack_later(struct gossip *g, const struct gossip_addr *to, uint32_t seq, bool hash)
{
    if (g->acks_len < GOSSIP_ACKS) {
        g->acks[g->acks_len++] = (struct gossip_ack_out){ .to = *to, .seq = seq, .hash = hash };
    } else {
        gossip_bump(g, GOSSIP_C_DROP_FULL);
    }
}

/* At the end of a packet: a suspicion that came with the ping is refuted in the ack itself. */
void gossip_acks_send(struct gossip *g)
{
    for (unsigned i = 0; i < g->acks_len; i++) {
        uint8_t hash[HASH_BYTES];
        struct gossip_msg m = { .seq = g->acks[i].seq };
        if (g->acks[i].hash) {
            gossip_hash_put(g, hash);
            m.payload = (struct str){ (const char *)hash, sizeof(hash) };
        }
        gossip_packet_begin(g);
        gossip_part(g, GOSSIP_ACK, &m);
        gossip_packet_send(g, &g->acks[i].to, true);
    }
    g->acks_len = 0;
}

/* Where an answer goes: to where the sender says it is, else to where the packet came from. */
static struct gossip_addr reply_to(const struct gossip_msg *m, const struct gossip_addr *from)
{
    struct gossip_addr a = *from;
    if (m->src.n != 0 && m->src_port != 0) {
        a = (struct gossip_addr){ .len = m->src.n, .port = m->src_port };
        memcpy(a.ip, m->src.b, sizeof(a.ip));
    }
    return a;
}

void gossip_on_ping(struct gossip *g, const struct gossip_msg *m, const struct gossip_addr *from)
{
    struct gossip_addr to = reply_to(m, from);

    if (m->node.n != 0 && !str_eq(m->node, gossip_str_of(g->m[GOSSIP_SELF].name))) {
        gossip_bump(g, GOSSIP_C_DROP_UNKNOWN);
        return;
    }
    uint32_t slot = m->src_node.n != 0 ? gossip_slot(g, m->src_node) : GOSSIP_NONE;
    ack_later(g, &to, m->seq, slot != GOSSIP_NONE && gossip_is_ours(&g->m[slot]));
}

/* --- probing on behalf of others --- */

void gossip_on_indirect(struct gossip *g, const struct gossip_msg *m,
                        const struct gossip_addr *from)
{
    struct gossip_relay *r = NULL;
    struct gossip_addr target = { .len = m->target.n, .port = m->port };

    for (unsigned i = 0; i < GOSSIP_RELAYS && r == NULL; i++) {
        r = g->relays[i].active ? NULL : &g->relays[i];
    }
    if (r == NULL || target.len == 0) {
        gossip_bump(g, r == NULL ? GOSSIP_C_DROP_FULL : GOSSIP_C_DROP_MALFORMED);
        return;
    }
    memcpy(target.ip, m->target.b, sizeof(target.ip));
    if (target.port == 0) {
        target.port = g->m[GOSSIP_SELF].port;
    }
    /* The nack leaves early enough to arrive before the one who asked stops waiting. */
    *r = (struct gossip_relay){ .active = true,
                                .nack = m->nack,
                                .mine = ++g->seq,
                                .theirs = m->seq,
                                .to = reply_to(m, from),
                                .nack_ms = g->now + g->p.probe_timeout_ms * 8 / 10,
                                .end_ms = g->now + g->p.probe_timeout_ms };
    g->relays_active++;
    const struct gossip_msg ping = { .seq = r->mine,
                                     .node = m->node,
                                     .src_node = gossip_str_of(g->m[GOSSIP_SELF].name) };
    gossip_packet_begin(g);
    gossip_part(g, GOSSIP_PING, &ping);
    gossip_packet_send(g, &target, true);
}

static void relay_end(struct gossip *g, struct gossip_relay *r)
{
    r->active = false;
    g->relays_active--;
}

static void relays_due(struct gossip *g)
{
    for (unsigned i = 0; g->relays_active > 0 && i < GOSSIP_RELAYS; i++) {
        struct gossip_relay *r = &g->relays[i];
        if (r->active && r->nack && g->now >= r->nack_ms) {
            const struct gossip_msg m = { .seq = r->theirs };
            r->nack = false;
            gossip_packet_begin(g);
            gossip_part(g, GOSSIP_NACK, &m);
            gossip_packet_send(g, &r->to, true);
        }
        if (r->active && g->now >= r->end_ms) {
            relay_end(g, r);
        }
    }
}

/* --- our own probes --- */

static bool target_gone(const struct gossip *g, const struct gossip_probe *p)
{
    const struct gossip_member *m = &g->m[p->slot];
    return m->name != p->name || m->state == GOSSIP_DEAD || m->state == GOSSIP_LEFT;
}

static void probe_end(struct gossip *g, struct gossip_probe *p)
{
    (void)gossip_limbo(g, p->name);
    *p = (struct gossip_probe){ .active = false };
}

static void ping(struct gossip *g, struct gossip_probe *p)
{
    const struct gossip_member *m = &g->m[p->slot];
    const struct gossip_addr to = gossip_member_addr(m);
    const struct gossip_msg ping = { .seq = p->seq,
                                     .node = gossip_str_of(m->name),
                                     .src_node = gossip_str_of(g->m[GOSSIP_SELF].name) };

    p->pings++;
    gossip_packet_begin(g);
    gossip_part(g, GOSSIP_PING, &ping);
    if (m->state == GOSSIP_SUSPECT) {
        /* It may answer the accusation with the same packet. */
        const struct gossip_msg accusation = { .node = ping.node,
                                               .from = ping.src_node,
                                               .incarnation = m->incarnation };
        gossip_part(g, GOSSIP_MSG_SUSPECT, &accusation);
    }
    gossip_packet_send(g, &to, m->state != GOSSIP_SUSPECT);
}

static void tcp_ping(struct gossip *g, struct gossip_probe *p)
{
    const struct gossip_member *m = &g->m[p->slot];
    const struct gossip_addr to = gossip_member_addr(m);
    const struct gossip_msg ping = { .seq = p->seq,
                                     .node = gossip_str_of(m->name),
                                     .src_node = gossip_str_of(g->m[GOSSIP_SELF].name) };
    uint64_t end = p->end_ms > g->now + 2ULL * TCP_EARLY_MS ? p->end_ms - TCP_EARLY_MS : p->end_ms;

    if (m->vsn[1] < 3) {
        return;
    }
    buf_reset(&g->scratch);
    gossip_msg_write(&g->scratch, GOSSIP_PING, &ping);
    if (gossip_open(g, GOSSIP_X_PING, &to, buf_str(&g->scratch), end, p->seq)) {
        p->tcp = GOSSIP_TCP_PENDING;
    }
}

static void ask_others(struct gossip *g, struct gossip_probe *p)
{
    uint32_t helpers[HELPERS_MAX];
    unsigned want = g->p.indirect < HELPERS_MAX ? g->p.indirect : HELPERS_MAX;
    unsigned n = gossip_pick(g, want, gossip_want_alive, p->slot, helpers);
    const struct gossip_member *m = &g->m[p->slot];
    struct gossip_msg ask = { .seq = p->seq,
                              .node = gossip_str_of(m->name),
                              .port = m->port,
                              .src_node = gossip_str_of(g->m[GOSSIP_SELF].name) };

    ask.target.n = m->ip_len;
    memcpy(ask.target.b, m->ip, sizeof(m->ip));
    p->indirect = true;
    for (unsigned i = 0; i < n; i++) {
        const struct gossip_addr to = gossip_member_addr(&g->m[helpers[i]]);
        ask.nack = g->m[helpers[i]].vsn[1] >= 4;
        p->nacks_expected = (uint8_t)(p->nacks_expected + (ask.nack ? 1 : 0));
        gossip_bump(g, GOSSIP_C_INDIRECT);
        gossip_packet_begin(g);
        gossip_part(g, GOSSIP_INDIRECT, &ask);
        gossip_packet_send(g, &to, true);
    }
}

/* How long a direct ack may take: as long as it did, and some; less than the profile allows. */
static uint64_t direct_ms(const struct gossip *g, const struct gossip_member *m)
{
    uint64_t wait = g->p.probe_floor_ms + 4ULL * m->rtt / 10;
    return m->rtt == 0 || wait > g->p.probe_timeout_ms ? g->p.probe_timeout_ms : wait;
}

static void probe_start(struct gossip *g, struct gossip_probe *p, uint32_t slot, bool confirm)
{
    struct gossip_member *m = &g->m[slot];

    *p = (struct gossip_probe){ .active = true,
                                .confirm = confirm,
                                .slot = slot,
                                .name = m->name,
                                .seq = ++g->seq,
                                .sent_ms = g->now,
                                .end_ms =
                                    g->now + (uint64_t)g->p.probe_interval_ms * (g->health + 1) };
    m->name->refs++;
    p->next_ms = g->now + (confirm ? CONFIRM_PING_MS : direct_ms(g, m));
    gossip_bump(g, GOSSIP_C_PROBES);
    ping(g, p);
    if (confirm) {
        tcp_ping(g, p);
    }
}

static void probe_next_stage(struct gossip *g, struct gossip_probe *p)
{
    if (p->confirm) {
        ping(g, p);
    }
    if (!p->indirect) {
        ask_others(g, p);
        if (!p->confirm) {
            tcp_ping(g, p);
        }
    }
    p->next_ms = p->confirm && p->pings < CONFIRM_PINGS ? g->now + CONFIRM_PING_MS : GOSSIP_NEVER;
}

static void probe_failed(struct gossip *g, struct gossip_probe *p)
{
    uint32_t slot = p->slot;
    enum gossip_tcp evidence = p->tcp;
    int missing = p->nacks_expected - (p->nacks < p->nacks_expected ? p->nacks : p->nacks_expected);
    bool confirm = p->confirm;
    bool asked = p->nacks_expected > 0;

    probe_end(g, p);
    if (evidence == GOSSIP_TCP_ACKED) {
        /* It lives; only UDP does not get there. */
        gossip_note(g, GOSSIP_NOTE_UDP_DEAF, slot, NULL);
        gossip_health_add(g, confirm ? 0 : -1);
        return;
    }
    gossip_bump(g, GOSSIP_C_PROBES_FAILED);
    if (!confirm) {
        g->fails++;
        gossip_health_add(g, asked ? missing : 1);
    }
    if (g->now >= g->hold_ms && !gossip_isolated(g)) {
        gossip_accuse(g, slot, evidence);
    }
}

static struct gossip_probe *probe_by_seq(struct gossip *g, uint32_t seq)
{
    for (unsigned i = 0; i < GOSSIP_PROBES; i++) {
        if (g->probes[i].active && g->probes[i].seq == seq) {
            return &g->probes[i];
        }
    }
    return NULL;
}

static void rtt_take(struct gossip *g, const struct gossip_probe *p)
{
    struct gossip_member *m = &g->m[p->slot];
    uint64_t rtt = (g->now - p->sent_ms) * 10 + 1;

    rtt = rtt < UINT16_MAX ? rtt : UINT16_MAX;
    m->rtt = (uint16_t)(m->rtt == 0 ? rtt : (m->rtt * 7ULL + rtt + 7) / 8);
}

static void relay_ack(struct gossip *g, uint32_t seq)
{
    for (unsigned i = 0; g->relays_active > 0 && i < GOSSIP_RELAYS; i++) {
        struct gossip_relay *r = &g->relays[i];
        if (r->active && r->mine == seq) {
            ack_later(g, &r->to, r->theirs, false);
            relay_end(g, r);
            return;
        }
    }
}

void gossip_on_ack(struct gossip *g, const struct gossip_msg *m)
{
    struct gossip_probe *p = probe_by_seq(g, m->seq);

    if (p == NULL) {
        relay_ack(g, m->seq); /* or it is late */
        return;
    }
    if (!target_gone(g, p)) {
        if (!p->indirect && p->pings == 1) {
            rtt_take(g, p);
        }
        hash_look(g, p->slot, m->payload);
    }
    gossip_health_add(g, p->confirm ? 0 : -1);
    probe_end(g, p);
}

void gossip_on_nack(struct gossip *g, const struct gossip_msg *m)
{
    struct gossip_probe *p = probe_by_seq(g, m->seq);
    if (p != NULL && p->nacks < UINT8_MAX) {
        p->nacks++;
    }
}

void gossip_on_tcp_ping(struct gossip *g, uint32_t seq, enum gossip_tcp outcome)
{
    struct gossip_probe *p = probe_by_seq(g, seq);
    if (p == NULL) {
        return;
    }
    p->tcp = outcome;
    /* Nobody listens there: others are given the time to say that it is only we who see it so. */
    if (outcome == GOSSIP_TCP_REFUSED && p->end_ms > g->now + g->p.probe_timeout_ms) {
        p->end_ms = g->now + g->p.probe_timeout_ms;
    }
}

/* --- the round --- */

/* The next one of the round; a new round is shuffled. GOSSIP_NONE: there is nobody. */
static uint32_t next_target(struct gossip *g)
{
    for (uint32_t tried = 0; tried <= g->order_len; tried++) {
        if (g->order_at >= g->order_len) {
            g->order_at = 0;
            gossip_shuffle(g);
        }
        if (g->order_len == 0) {
            break;
        }
        uint32_t slot = g->order[g->order_at++];
        if (g->m[slot].state == GOSSIP_ALIVE || g->m[slot].state == GOSSIP_SUSPECT) {
            return slot;
        }
    }
    return GOSSIP_NONE;
}

static void round_due(struct gossip *g)
{
    if (g->now < g->probe_at) {
        return;
    }
    /* Ticks that were missed are not made up for. */
    uint64_t behind = (g->now - g->probe_at) / g->p.probe_interval_ms;
    g->probe_at += (behind + 1) * g->p.probe_interval_ms;
    if (g->probes[0].active || g->leaving) {
        return;
    }
    uint32_t slot = next_target(g);
    if (slot != GOSSIP_NONE) {
        probe_start(g, &g->probes[0], slot, false);
    }
}

void gossip_probes_due(struct gossip *g)
{
    for (unsigned i = 0; i < GOSSIP_PROBES; i++) {
        struct gossip_probe *p = &g->probes[i];
        if (p->active && target_gone(g, p)) {
            probe_end(g, p);
        } else if (p->active && g->now >= p->end_ms) {
            probe_failed(g, p);
        } else if (p->active && g->now >= p->next_ms) {
            probe_next_stage(g, p);
        }
    }
    relays_due(g);
    round_due(g);
}

uint64_t gossip_probes_deadline(const struct gossip *g)
{
    uint64_t at =
        g->order_len > 0 && gossip_live(g) > 1 && !g->leaving ? g->probe_at : GOSSIP_NEVER;

    for (unsigned i = 0; i < GOSSIP_PROBES; i++) {
        const struct gossip_probe *p = &g->probes[i];
        if (p->active) {
            at = at < p->end_ms ? at : p->end_ms;
            at = at < p->next_ms ? at : p->next_ms;
        }
    }
    for (unsigned i = 0; g->relays_active > 0 && i < GOSSIP_RELAYS; i++) {
        const struct gossip_relay *r = &g->relays[i];
        if (r->active) {
            uint64_t next = r->nack && r->nack_ms < r->end_ms ? r->nack_ms : r->end_ms;
            at = at < next ? at : next;
        }
    }
    return at;
}

/* --- confirmers --- */

/* Everyone reckons alike who looks: about GOSSIP_CONFIRMERS of all live members. */
static bool is_confirmer(const struct gossip *g, uint32_t slot)
{
    uint64_t x = g->m[GOSSIP_SELF].name->id ^ (g->m[slot].name->id * 0x9E3779B97F4A7C15U) ^
                 g->m[slot].incarnation;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
    return (x ^ (x >> 31)) % gossip_live(g) < GOSSIP_CONFIRMERS;
}

void gossip_confirm(struct gossip *g, uint32_t slot)
{
    if (g->leaving || gossip_live(g) == 0 || !is_confirmer(g, slot)) {
        return;
    }
    for (unsigned i = 0; i < GOSSIP_PROBES; i++) {
        if (g->probes[i].active && g->probes[i].slot == slot) {
            return;
        }
    }
    for (unsigned i = 1; i < GOSSIP_PROBES; i++) {
        if (!g->probes[i].active) {
            probe_start(g, &g->probes[i], slot, true);
            return;
        }
    }
}

/* This node did not run for `lag` ms: what it missed was its own fault. */
void gossip_stalled(struct gossip *g, uint64_t lag)
{
    uint64_t more = lag < 2ULL * g->p.probe_interval_ms ? lag : 2ULL * g->p.probe_interval_ms;

    gossip_bump(g, GOSSIP_C_STALLS);
    g->hold_ms = g->now + g->p.probe_timeout_ms + more;
    for (unsigned i = 0; i < GOSSIP_PROBES; i++) {
        struct gossip_probe *p = &g->probes[i];
        if (p->active) {
            p->end_ms += lag;
            p->next_ms += p->next_ms != GOSSIP_NEVER ? lag : 0;
        }
    }
}

bool gossip_isolated(const struct gossip *g)
{
    return gossip_live(g) > ISOLATED_FAILS && g->fails >= ISOLATED_FAILS &&
           g->now - g->heard_ms >= (uint64_t)ISOLATED_FAILS * g->p.probe_interval_ms &&
           g->now - g->heard_ms < ISOLATED_MS;
}

void gossip_probes_release(struct gossip *g)
{
    for (unsigned i = 0; i < GOSSIP_PROBES; i++) {
        if (g->probes[i].active) {
            probe_end(g, &g->probes[i]);
        }
    }
}
