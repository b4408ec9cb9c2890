#include <errno.h>

#include "agent/table/table_internal.h"
#include "common/mem.h"

/*
 * What a node has just written or learned is told to a few members at once, and again until enough
 * have been told: ln n + 6 for what matters, fewer for what changes all the time. Who misses it
 * all finds out by comparing.
 */

enum {
    LEAST_VOLATILE = 3, /* members told of a volatile row, at least in small clusters */
    VOLATILE_WIRE = 72, /* bytes of a volatile row on the way, about */
    SECTION_MIN = 32,
    PACKET_HEAD = 28, /* of IP and UDP */
};

/* --- what may be sent --- */

void table_bucket_refill(struct table_bucket *b, uint64_t now_ms)
{
    uint64_t passed = now_ms > b->at_ms ? now_ms - b->at_ms : 0;

    b->at_ms = now_ms;
    if (passed > 100 * 1000) {
        passed = 100 * 1000;
    }
    b->rest += passed * b->per_s;
    b->left += (int64_t)(b->rest / 1000);
    b->rest %= 1000;
    if (b->left > b->most) {
        b->left = b->most;
    }
}

void table_send(struct table *t, struct str peer, struct buf *bytes, bool bulk)
{
    bool reliable = bytes->len > TABLE_DIRECT_MAX;

    if (buf_error(bytes) != 0 || !table_fx_room(t, 2)) {
        buf_release(bytes);
        return; /* no memory: it comes again */
    }
    size_t n = bytes->len;
    char *p = buf_take(bytes);
    table_garbage(t, p);
    t->fx[t->fx_len++] = (struct table_effect){
        .type = TABLE_FX_SEND, .peer = peer, .bytes = { p, n }, .reliable = reliable
    };
    bulk = bulk || reliable;
    (bulk ? &t->bulk : &t->small)->left -= (int64_t)(n + PACKET_HEAD);
    t->counters.sent_messages++;
    t->counters.sent_bytes += n;
    t->counters.sent_reliable += reliable;
    t->counters.sent_bulk_bytes += bulk ? n : 0;
}

/* --- members --- */

struct table_peer *table_peer_find(const struct table *t, struct str name)
{
    return map_get(&t->peers, name);
}

static struct table_peer *peer_add(struct table *t, struct str name)
{
    if (name.n == 0 || name.n > TABLE_NAME_MAX) {
        return NULL;
    }
    struct table_peer *p = mem_zalloc(sizeof *p + name.n);
    if (p == NULL) {
        return NULL;
    }
    p->up_at = SIZE_MAX;
    p->name_len = (uint8_t)name.n;
    memcpy(p->name, name.p, name.n);
    if (map_add(&t->peers, (struct str){ p->name, p->name_len }, p) != 0) {
        return mem_free(p);
    }
    return p;
}

int table_peer_up(struct table *t, struct str name, bool speaks)
{
    struct table_peer *p = table_peer_find(t, name);

    if (p == NULL) {
        p = peer_add(t, name);
    }
    if (p == NULL) {
        return -ENOMEM;
    }
    if (!speaks) {
        table_peer_down(t, p);
        return 0;
    }
    if (p->up_at != SIZE_MAX) {
        return 0;
    }
    if (t->up_len == t->up_cap) {
        size_t cap = t->up_cap != 0 ? t->up_cap * 2 : 16;
        struct table_peer **up = mem_realloc(t->up, cap * sizeof *up);
        if (up == NULL) {
            return -ENOMEM;
        }
        t->up = up;
        t->up_cap = cap;
    }
    /* Somewhere in the present round, so that nobody waits for a whole one. */
    size_t at = (size_t)rng_below(&t->rng, t->up_len + 1);
    if (at < t->up_len) {
        t->up[t->up_len] = t->up[at];
        t->up[t->up_len]->up_at = t->up_len;
    }
    t->up[at] = p;
    p->up_at = at;
    t->up_len++;
    table_differs(t);
    return 0;
}

void table_peer_down(struct table *t, struct table_peer *p)
{
    if (p->up_at == SIZE_MAX) {
        return;
    }
    struct table_peer *last = t->up[--t->up_len];
    t->up[p->up_at] = last;
    last->up_at = p->up_at;
    p->up_at = SIZE_MAX;
    for (size_t i = 0; i < TABLE_PLANES; i++) {
        if (str_eq(t->planes[i].busy_with, (struct str){ p->name, p->name_len })) {
            t->planes[i].busy_ms = 0;
        }
    }
}

void table_peer_reap(struct table *t, struct table_peer *p)
{
    table_peer_down(t, p);
    for (size_t i = 0; i < ARRAY_LEN(p->streams); i++) {
        if (p->streams[i] != NULL) {
            table_stream_drop(t, p->streams[i]);
        }
    }
    (void)map_remove(&t->peers, (struct str){ p->name, p->name_len });
    table_garbage(t, p); /* effects may name it */
}

/* Everybody once per round, each round in another order. */
struct table_peer *table_partner(struct table *t)
{
    if (t->up_len == 0) {
        return NULL;
    }
    if (t->up_next >= t->up_len) {
        t->up_next = 0;
        for (size_t i = t->up_len - 1; i > 0; i--) {
            size_t k = (size_t)rng_below(&t->rng, i + 1);
            struct table_peer *p = t->up[i];
            t->up[i] = t->up[k];
            t->up[k] = p;
            t->up[i]->up_at = i;
            t->up[k]->up_at = k;
        }
    }
    return t->up[t->up_next++];
}

/* --- news --- */

static unsigned told_enough(const struct table *t, unsigned kind)
{
    size_t n = t->up_len + 1;
    unsigned log2 = 0;

    if ((kind & TABLE_KIND_VOLATILE) != 0) {
        return LEAST_VOLATILE;
    }
    while (n >> log2 > 1) {
        log2++;
    }
    return 6 + (log2 * 7 + 9) / 10; /* ln n is 0.7 of log2 n */
}

/* How often a row may be published, so that all of the cluster's volatile rows together cost each
 * member no more than half of what it may send. */
uint64_t table_interval_ms(const struct table *t, const struct table_type_info *i)
{
    uint64_t all = (uint64_t)(t->up_len + 1) * LEAST_VOLATILE * VOLATILE_WIRE * 1000;
    uint64_t wait = all / (t->cfg.bytes_per_s / 2 + 1);

    return wait > i->interval_ms ? wait : i->interval_ms;
}

void table_hot(struct table *t, struct table_stream *s, uint64_t base)
{
    if (t->up_len == 0) {
        return;
    }
    if (list_empty(&s->hot)) {
        s->hot_base = base;
        list_push_back(&t->planes[s->kind & TABLE_KIND_VOLATILE].hot, &s->hot);
        if (t->next_push_ms > t->last_push_ms + TABLE_PUSH_MS || t->next_push_ms == 0) {
            t->next_push_ms = t->last_push_ms + TABLE_PUSH_MS;
        }
    } else if (base < s->hot_base) {
        s->hot_base = base;
    }
    s->hot_left = told_enough(t, s->kind);
}

void table_cold(struct table_stream *s)
{
    list_remove(&s->hot);
    s->hot_left = 0;
}

/* The newest rows of a stream that fit, and the base that they reach down to. False: not even the
 * newest does. */
static bool put_news(struct buf *b, const struct table_stream *s, size_t room)
{
    size_t left = room - table_section_wire_max(s);
    size_t n = 0;
    uint64_t base = 0;
    struct list *from = NULL;

    for (struct list *at = s->rows.prev; at != &s->rows; at = at->prev) {
        const struct table_row *r = CONTAINER_OF(at, struct table_row, link);
        size_t cost = table_row_wire_max(r);
        if (r->version > s->tell) {
            continue;
        }
        if (r->version <= s->hot_base || cost > left) {
            base = r->version;
            break;
        }
        left -= cost;
        from = at;
        n++;
    }
    if (n == 0) {
        return false;
    }
    /* With the name when who hears it may never have heard of the writer. Of what changes all the
     * time seldom: who needs it asks. */
    bool named = base == 0 && ((s->kind & TABLE_KIND_VOLATILE) == 0 || s->tell % 8 < 2);
    table_put_section(b, s, named, base, s->tell, n);
    uint64_t before = base;
    for (struct list *at = from; n > 0; at = at->next, n--) {
        const struct table_row *r = CONTAINER_OF(at, struct table_row, link);
        table_put_row(b, r, before);
        before = r->version;
    }
    return true;
}

/* Too large for a datagram: who lacks it asks for it. */
static void put_hint(struct buf *b, const struct table_stream *s)
{
    (void)buf_add_le64(b, s->id);
    table_put_varint(b, s->tell);
    (void)buf_add_le32(b, (uint32_t)s->content);
}

struct news {
    struct buf sections, hints;
    size_t sections_n, hints_n;
    unsigned plane;
    size_t room;
};

/* False: no room for another one. */
static bool gather_one(struct news *w, struct table_stream *s)
{
    if (w->room < table_section_wire_max(s) + SECTION_MIN) {
        return false;
    }
    size_t before = w->sections.len + w->hints.len;
    if (put_news(&w->sections, s, w->room)) {
        w->sections_n++;
    } else if (s->tell > s->hot_base && !list_empty(&s->rows)) {
        put_hint(&w->hints, s);
        w->hints_n++;
    } else {
        s->hot_left = 0; /* what was news is gone */
    }
    w->room -= w->sections.len + w->hints.len - before;
    return true;
}

static void gather(struct table *t, struct news *w)
{
    struct list *hot = &t->planes[w->plane].hot;
    struct list later;

    /* Those that were told go to the end, so that the others get their turn. */
    list_init(&later);
    while (!list_empty(hot)) {
        struct table_stream *s = LIST_ITEM(hot->next, struct table_stream, hot);
        if (!gather_one(w, s)) {
            break;
        }
        s->hot_left = s->hot_left > TABLE_FANOUT ? s->hot_left - TABLE_FANOUT : 0;
        list_remove(&s->hot);
        if (s->hot_left != 0) {
            list_push_back(&later, &s->hot);
        }
    }
    while (!list_empty(&later)) {
        struct list *i = later.next;
        list_remove(i);
        list_push_back(hot, i);
    }
}

static void tell(struct table *t, struct news *w)
{
    AUTO_BUF struct buf body = BUF_INIT(TABLE_MESSAGE_MAX);
    struct buf message;
    size_t fanout = t->up_len < TABLE_FANOUT ? t->up_len : TABLE_FANOUT;

    for (size_t i = 0; i < fanout; i++) {
        struct table_peer *p = table_partner(t);
        table_message_begin(&message);
        if (w->sections_n != 0) {
            buf_reset(&body);
            (void)buf_add_u8(&body, 0);
            table_put_varint(&body, w->sections_n);
            (void)buf_add(&body, w->sections.data, w->sections.len);
            table_part_add(&message, TABLE_PART_DELTA, &body);
        }
        if (w->hints_n != 0) {
            buf_reset(&body);
            (void)buf_add_u8(&body, (uint8_t)w->plane);
            (void)buf_add_u8(&body, 0);
            (void)buf_add_le64(&body, 0);
            table_put_varint(&body, w->hints_n);
            (void)buf_add(&body, w->hints.data, w->hints.len);
            table_part_add(&message, TABLE_PART_DIGEST, &body);
        }
        table_send(t, (struct str){ p->name, p->name_len }, &message, false);
    }
}

static void push_plane(struct table *t, unsigned plane)
{
    struct news w = { .sections = BUF_INIT(TABLE_DIRECT_MAX),
                      .hints = BUF_INIT(TABLE_DIRECT_MAX),
                      .plane = plane,
                      .room = TABLE_DIRECT_MAX - 64 };

    gather(t, &w);
    if (w.sections_n + w.hints_n != 0) {
        tell(t, &w);
    }
    buf_release(&w.sections);
    buf_release(&w.hints);
}

void table_push_tick(struct table *t)
{
    for (unsigned p = 0; t->up_len == 0 && p < TABLE_PLANES; p++) {
        while (!list_empty(&t->planes[p].hot)) {
            table_cold(LIST_ITEM(t->planes[p].hot.next, struct table_stream, hot));
        }
    }
    if (t->now_ms < t->next_push_ms ||
        (list_empty(&t->planes[0].hot) && list_empty(&t->planes[1].hot))) {
        return;
    }
    if (t->small.left > 0) {
        push_plane(t, 0);
    }
    /* What changes all the time leaves the rest its half. */
    if (t->small.left > t->small.most / 2) {
        push_plane(t, 1);
    }
    t->last_push_ms = t->now_ms;
    t->next_push_ms = t->now_ms + TABLE_PUSH_MS;
}
