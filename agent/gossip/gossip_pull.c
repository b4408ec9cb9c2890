/*
 * Views exchanged whole, on a stream: to join; after a join until nothing new comes; when another's
 * view turns out to differ; now and then; and with members that were lost, so that what a cut drove
 * apart comes together again.
 */
#include <errno.h>

#include "agent/gossip/gossip_internal.h"
#include "common/insist.h"
#include "common/mem.h"

enum {
    SETTLE_FIRST_MS = 200,
    SETTLE_MAX_MS = 4000,
    SETTLE_STABLE = 2, /* exchanges in a row that changed nothing */
    DIFFERS_LEAST = 2, /* acks in a row that tell of another view */
    MATCHES = 3,       /* equal ones in a row: what made the view is no news any more */
    DIFFERS_MAX = 5,   /* acks in a row after which a view that still moves does not excuse it */
    PULL_REST_MS = 1000,
    ALONE_MS = 1000, /* between two tries while there is nobody else */
    REMEMBER_MS = 5000,
    REMEMBER_LIVE_MAX = 256,
    REMEMBER_LINE_MAX = GOSSIP_NAME_MAX + GOSSIP_ADDR_TEXT_CAP + 64,
};

/* --- our view, as bytes --- */

static void view_write(struct gossip *g, bool join, struct buf *b)
{
    const struct gossip_msg head = { .nodes = gossip_known(g), .join = join };

    gossip_msg_write(b, GOSSIP_PULL, &head);
    for (uint32_t i = 0; i < g->m_len; i++) {
        if (g->m[i].name != NULL) {
            struct gossip_msg m;
            gossip_alive_msg(g, i, g->m[i].incarnation, &m);
            gossip_record_write(b, &m);
        }
    }
}

void gossip_pull_start(struct gossip *g, enum gossip_exchange_kind kind,
                       const struct gossip_addr *to)
{
    const struct gossip_addr self = gossip_member_addr(&g->m[GOSSIP_SELF]);
    bool join = kind == GOSSIP_X_JOIN || kind == GOSSIP_X_RECONNECT;

    if (gossip_addr_same(&self, to) || g->leaving) {
        return;
    }
    AUTO_BUF struct buf b = BUF_INIT(GOSSIP_STREAM_MAX);
    view_write(g, join, &b);
    if (buf_error(&b) != 0) {
        g->failed = true;
        return;
    }
    if (gossip_open(g, kind, to, buf_str(&b), g->now + g->p.stream_timeout_ms, 0)) {
        gossip_bump(g, GOSSIP_C_PULLS);
    }
}

/* --- another's view --- */

struct versions {
    uint8_t min, max, dmin, dmax; /* the greatest least, the least greatest */
};

static void narrow(struct versions *v, const uint8_t vsn[6])
{
    v->min = vsn[0] > v->min ? vsn[0] : v->min;
    v->max = vsn[1] < v->max ? vsn[1] : v->max;
    v->dmin = vsn[3] > v->dmin ? vsn[3] : v->dmin;
    v->dmax = vsn[4] < v->dmax ? vsn[4] : v->dmax;
}

static bool fits(const struct versions *v, const uint8_t vsn[6])
{
    return vsn[2] >= v->min && vsn[2] <= v->max && vsn[5] >= v->dmin && vsn[5] <= v->dmax;
}

/* Can all of both views speak with each other? */
static bool versions_fit(const struct gossip *g, struct cur records, uint32_t n)
{
    struct versions v = { .max = UINT8_MAX, .dmax = UINT8_MAX };
    struct cur again = records;
    struct gossip_msg m;
    bool good = true;

    for (uint32_t i = 0; i < n && gossip_record_read(&records, &m); i++) {
        if (m.state == GOSSIP_ALIVE) {
            narrow(&v, m.vsn);
        }
    }
    for (uint32_t i = 0; i < g->m_len; i++) {
        if (g->m[i].name != NULL && g->m[i].state == GOSSIP_ALIVE) {
            narrow(&v, g->m[i].vsn);
        }
    }
    for (uint32_t i = 0; i < n && good && gossip_record_read(&again, &m); i++) {
        good = fits(&v, m.vsn);
    }
    for (uint32_t i = 0; i < g->m_len && good; i++) {
        good = g->m[i].name == NULL || fits(&v, g->m[i].vsn);
    }
    return good;
}

/* A "dead" of another is hearsay: we suspect, and the member can still say no. If it had the time
 * to say so to us, and did not, the verdict is as good here as there. */
static void merge_record(struct gossip *g, const struct gossip_msg *r)
{
    struct gossip_msg m = *r;

    switch (r->state) {
    case GOSSIP_ALIVE:
        gossip_on_alive(g, &m, NULL);
        break;
    case GOSSIP_SUSPECT:
    case GOSSIP_DEAD:
        m.from = gossip_str_of(g->m[GOSSIP_SELF].name);
        if (r->state == GOSSIP_DEAD && gossip_suspect_for_long(g, m.node)) {
            gossip_on_dead(g, &m);
        } else {
            gossip_on_suspect(g, &m);
        }
        break;
    case GOSSIP_LEFT:
        m.from = m.node;
        gossip_on_dead(g, &m);
        break;
    default:
        gossip_bump(g, GOSSIP_C_DROP_MALFORMED);
        break;
    }
}

/* Is it a whole view, no larger than any that there could be? */
static bool view_good(struct gossip *g, struct cur records, const struct gossip_msg *head)
{
    struct gossip_msg m;

    if (head->nodes > 2ULL * g->m_max + 64) {
        gossip_bump(g, GOSSIP_C_DROP_FULL);
        gossip_note(g, GOSSIP_NOTE_FULL, GOSSIP_NONE, NULL);
        return false;
    }
    for (uint32_t i = 0; i < head->nodes; i++) {
        if (!gossip_record_read(&records, &m)) {
            gossip_bump(g, GOSSIP_C_DROP_MALFORMED);
            return false;
        }
    }
    return true;
}

static void merge(struct gossip *g, struct cur records, uint32_t n)
{
    struct gossip_msg m;

    if (!versions_fit(g, records, n)) {
        gossip_bump(g, GOSSIP_C_DROP_VERSION);
        gossip_note(g, GOSSIP_NOTE_MERGE_REFUSED, GOSSIP_NONE, NULL);
        return;
    }
    for (uint32_t i = 0; i < n && gossip_record_read(&records, &m); i++) {
        merge_record(g, &m);
    }
}

static bool answer_with_view(struct gossip *g, uint32_t stream, bool join)
{
    AUTO_BUF struct buf b = BUF_INIT(GOSSIP_STREAM_MAX);

    view_write(g, join, &b);
    struct gossip_effect *fx =
        buf_error(&b) == 0 ? gossip_fx_bytes(g, GOSSIP_FX_ANSWER, buf_str(&b)) : NULL;
    if (fx != NULL) {
        fx->stream = stream;
    }
    return fx != NULL;
}

/* Is what an answer tells known to all but us? So it is when we are new, or catch up: the one who
 * answered was told before, and tells. Other programs may count on our telling, too. */
static bool known_to_others(const struct gossip *g, enum gossip_exchange_kind kind)
{
    return g->foreign == 0 &&
           ((kind == GOSSIP_X_JOIN && gossip_live(g) == 1) || kind == GOSSIP_X_SETTLE);
}

void gossip_on_pull(struct gossip *g, uint32_t stream, struct str body,
                    enum gossip_exchange_kind kind)
{
    bool answer = kind == GOSSIP_X_FREE;
    struct gossip_msg head;
    struct cur c;

    cur_init(&c, body.p, body.n);
    bool good = gossip_msg_read(&c, GOSSIP_PULL, &head);
    if (!good) {
        gossip_bump(g, GOSSIP_C_DROP_MALFORMED);
    }
    good = good && view_good(g, c, &head);
    /* Our view goes out before theirs changes it. */
    if (answer && (!good || !answer_with_view(g, stream, head.join))) {
        struct gossip_effect *fx = gossip_fx(g, GOSSIP_FX_CLOSE);
        if (fx != NULL) {
            fx->stream = stream;
        }
    }
    if (good) {
        g->hushed = known_to_others(g, kind);
        merge(g, c, head.nodes);
        g->hushed = false;
    }
}

/* --- when --- */

/* Larger clusters exchange views less often. */
static uint64_t pull_interval(const struct gossip *g)
{
    uint32_t n = gossip_known(g);
    uint32_t times = 1;

    if (n > 32) {
        times = ((gossip_log2_fixed(n) + 0xFFFF) >> 16) - 5 + 1;
    }
    return (uint64_t)g->p.pull_interval_ms * times;
}

void gossip_pulls_init(struct gossip *g)
{
    g->pull_at = g->now + gossip_jitter(g, g->p.pull_interval_ms) + g->p.pull_interval_ms;
    g->reconnect_at = g->now + gossip_jitter(g, ALONE_MS);
    g->remember_at = g->now + REMEMBER_MS;
    g->next_stream = 1;
}

void gossip_settle(struct gossip *g, uint64_t within_ms)
{
    if (!g->settling) {
        g->settling = true;
        g->settle_stable = 0;
        g->settle_delay = 2ULL * SETTLE_FIRST_MS;
        g->settle_at = g->now + gossip_jitter(g, within_ms);
    }
}

/* The view of that member, one of ours, is not as ours. */
void gossip_view_differs(struct gossip *g, uint32_t slot)
{
    const struct gossip_addr to = gossip_member_addr(&g->m[slot]);
    bool quiet = g->now - g->changed_ms >= g->p.probe_interval_ms;

    gossip_bump(g, GOSSIP_C_VIEW_DIFFERS);
    g->matches = 0;
    g->differs++;
    /* Gossip may be about to tell us: not after the first one. */
    if (((quiet && g->differs >= DIFFERS_LEAST) || g->differs >= DIFFERS_MAX) &&
        (g->pulled_ms == 0 || g->now - g->pulled_ms >= PULL_REST_MS)) {
        g->pulled_ms = g->now;
        g->differs = 0;
        gossip_pull_start(g, GOSSIP_X_PULL, &to);
    }
}

/* Random others know what we know: no need to tell it on. So a thousand nodes that joined at once
 * are not busy with that for a minute. */
void gossip_view_matches(struct gossip *g)
{
    g->match_ms = g->now;
    g->differs = 0;
    if (g->matches++ == 0) {
        g->matched_ms = g->now;
    }
    if (g->matches >= MATCHES && g->foreign == 0 && g->casts_used > 0) {
        gossip_queue_expire(g, g->matched_ms);
    }
}

void gossip_exchange_done(struct gossip *g, const struct gossip_exchange *x, bool good)
{
    if (!good) {
        gossip_bump(g, GOSSIP_C_PULLS_FAILED);
        return;
    }
    if (x->kind == GOSSIP_X_JOIN || x->kind == GOSSIP_X_RECONNECT) {
        gossip_settle(g, SETTLE_FIRST_MS);
    }
    if (x->kind == GOSSIP_X_SETTLE) {
        g->settle_stable = x->hash == g->view_hash ? g->settle_stable + 1 : 0;
    }
}

static bool pull_from_any(struct gossip *g, enum gossip_exchange_kind kind)
{
    uint32_t slot;

    if (gossip_pick(g, 1, gossip_want_alive, GOSSIP_NONE, &slot) == 0) {
        return false;
    }
    const struct gossip_addr to = gossip_member_addr(&g->m[slot]);
    gossip_pull_start(g, kind, &to);
    return true;
}

static void settle_due(struct gossip *g)
{
    /* Many new ones at once: who was told by one of them knows as little as that one. */
    if (!g->settling && g->joined_since >= 4 && g->joined_since >= gossip_live(g) / 4) {
        gossip_settle(g, g->p.probe_interval_ms);
        g->joined_since = 0;
        return;
    }
    if (!g->settling || g->now < g->settle_at) {
        return;
    }
    if (g->settle_stable >= SETTLE_STABLE || !pull_from_any(g, GOSSIP_X_SETTLE)) {
        g->settling = false;
        g->joined_since = 0;
        return;
    }
    g->settle_at = g->now + g->settle_delay + gossip_jitter(g, g->settle_delay / 4);
    g->settle_delay = g->settle_delay * 2 < SETTLE_MAX_MS ? g->settle_delay * 2 : SETTLE_MAX_MS;
}

static void periodic_due(struct gossip *g)
{
    if (g->now < g->pull_at) {
        return;
    }
    uint64_t interval = pull_interval(g);
    g->pull_at = g->now + interval - interval / 8 + gossip_jitter(g, interval / 4);
    /* Among our own the hashes have said that there is nothing to tell. */
    if (g->foreign > 0 || g->match_ms == 0 || g->now - g->match_ms >= interval / 2) {
        (void)pull_from_any(g, GOSSIP_X_PULL);
    }
}

/* --- the lost --- */

static void lost_remove(struct gossip *g, uint32_t i)
{
    (void)gossip_limbo(g, g->lost[i].name);
    g->lost[i] = g->lost[--g->lost_len];
}

void gossip_lost_drop(struct gossip *g, struct str name)
{
    for (uint32_t i = 0; i < g->lost_len; i++) {
        if (str_eq(gossip_str_of(g->lost[i].name), name)) {
            lost_remove(g, i);
            return;
        }
    }
}

static void lost_put(struct gossip *g, struct str name, const struct gossip_addr *addr,
                     int64_t since_s)
{
    gossip_lost_drop(g, name);
    if (g->lost_len == GOSSIP_REMEMBER_MAX) {
        uint32_t oldest = 0;
        for (uint32_t i = 1; i < g->lost_len; i++) {
            oldest = g->lost[i].since_s < g->lost[oldest].since_s ? i : oldest;
        }
        lost_remove(g, oldest);
    }
    if (g->lost_len == g->lost_cap) {
        uint32_t cap = g->lost_cap == 0 ? 8 : g->lost_cap * 2;
        struct gossip_lost *lost = mem_realloc(g->lost, cap * sizeof(*lost));
        if (lost == NULL) {
            g->failed = true;
            return;
        }
        g->lost = lost;
        g->lost_cap = cap;
    }
    struct gossip_str *s = gossip_str_get(g->pool, name);
    if (s == NULL) {
        g->failed = true;
        return;
    }
    g->lost[g->lost_len++] = (struct gossip_lost){ .name = s, .addr = *addr, .since_s = since_s };
}

void gossip_lost_add(struct gossip *g, uint32_t slot)
{
    const struct gossip_addr addr = gossip_member_addr(&g->m[slot]);
    if (g->lost_len == 0) {
        g->reconnect_at = g->now + g->p.reconnect_ms / 2 + gossip_jitter(g, g->p.reconnect_ms);
    }
    lost_put(g, gossip_str_of(g->m[slot].name), &addr, g->now_s);
}

void gossip_lost_release(struct gossip *g)
{
    while (g->lost_len > 0) {
        lost_remove(g, g->lost_len - 1);
    }
    g->lost = mem_free(g->lost);
}

static void reconnect_due(struct gossip *g)
{
    if (g->lost_len == 0 || g->now < g->reconnect_at || g->leaving) {
        return;
    }
    uint64_t wait = ALONE_MS;
    if (gossip_live(g) > 1) {
        uint32_t log = gossip_log10_milli(gossip_live(g));
        wait = (uint64_t)g->p.reconnect_ms * (log > 1000 ? log : 1000) / 1000;
    }
    g->reconnect_at = g->now + wait / 2 + gossip_jitter(g, wait);
    uint32_t i = (uint32_t)rng_below(&g->rng, g->lost_len);
    if (g->now_s - g->lost[i].since_s > (int64_t)(g->p.remember_ms / 1000)) {
        lost_remove(g, i);
        g->remember_dirty = true;
        return;
    }
    gossip_bump(g, GOSSIP_C_RECONNECTS);
    gossip_pull_start(g, GOSSIP_X_RECONNECT, &g->lost[i].addr);
}

/* --- what outlives a restart: a line for each, name address seconds --- */

static void remember_line(struct buf *b, struct str name, const struct gossip_addr *addr,
                          int64_t since_s)
{
    char text[GOSSIP_ADDR_TEXT_CAP];
    (void)buf_addf(b, "%.*s %s %lld\n", STR_ARG(name), gossip_addr_format(addr, text),
                   (long long)since_s);
}

static void remember_due(struct gossip *g)
{
    if (!g->remember_dirty || g->now < g->remember_at || g->leaving) {
        return;
    }
    AUTO_BUF struct buf b =
        BUF_INIT((size_t)REMEMBER_LINE_MAX * (GOSSIP_REMEMBER_MAX + REMEMBER_LIVE_MAX));
    uint32_t live = 0;
    g->remember_dirty = false;
    g->remember_at = g->now + REMEMBER_MS;
    for (uint32_t i = 0; i < g->lost_len; i++) {
        remember_line(&b, gossip_str_of(g->lost[i].name), &g->lost[i].addr, g->lost[i].since_s);
    }
    /* Live ones too: whoever starts again may find the others gone from where it was told. */
    for (uint32_t i = 1; i < g->m_len && live < REMEMBER_LIVE_MAX; i++) {
        const struct gossip_member *m = &g->m[i];
        if (m->name != NULL && (m->state == GOSSIP_ALIVE || m->state == GOSSIP_SUSPECT)) {
            const struct gossip_addr addr = gossip_member_addr(m);
            remember_line(&b, gossip_str_of(m->name), &addr, g->now_s);
            live++;
        }
    }
    if (buf_error(&b) == 0) {
        (void)gossip_fx_bytes(g, GOSSIP_FX_REMEMBER, buf_str(&b));
    } else {
        g->failed = true;
    }
}

static bool remember_read(struct str line, struct str *name, struct gossip_addr *addr,
                          int64_t *since_s)
{
    struct str piece;

    return str_split(&line, ' ', name) && name->n >= 1 && name->n <= GOSSIP_NAME_MAX &&
           str_split(&line, ' ', &piece) && gossip_addr_parse(piece, addr) == 0 &&
           str_split(&line, ' ', &piece) && str_i64(piece, since_s) == 0;
}

void gossip_lost_read(struct gossip *g, struct str text)
{
    struct str line;
    struct str name;
    struct gossip_addr addr;
    int64_t since_s;

    while (str_split(&text, '\n', &line)) {
        if (remember_read(line, &name, &addr, &since_s) && gossip_slot(g, name) == GOSSIP_NONE) {
            /* A clock that was set back does not make it immortal. */
            lost_put(g, name, &addr, since_s < g->now_s ? since_s : g->now_s);
        }
    }
    g->reconnect_at = g->now + gossip_jitter(g, ALONE_MS);
}

/* --- all of them --- */

void gossip_pulls_due(struct gossip *g)
{
    settle_due(g);
    periodic_due(g);
    reconnect_due(g);
    remember_due(g);
}

uint64_t gossip_pulls_deadline(const struct gossip *g)
{
    uint64_t at = GOSSIP_NEVER;

    if (g->leaving) {
        return at;
    }
    if (gossip_live(g) > 1) {
        at = g->pull_at;
    }
    if (g->settling && g->settle_at < at) {
        at = g->settle_at;
    }
    if (g->lost_len > 0 && g->reconnect_at < at) {
        at = g->reconnect_at;
    }
    if (g->remember_dirty && g->remember_at < at) {
        at = g->remember_at;
    }
    return at;
}
