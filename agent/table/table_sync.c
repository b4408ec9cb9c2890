#include <errno.h>
#include <stdlib.h>

#include "agent/table/table_internal.h"
#include "common/mem.h"

/*
 *   we                                 the member
 *   sync: roots          ---------->   equal: nothing. Else
 *                        <----------   buckets: 64 hashes
 *   digest: streams of   ---------->
 *   buckets that differ  <----------   delta: what we lack; want: what it lacks
 *   delta                ---------->
 *
 * Each answer follows from the message alone. A delta that was cut ends with the sender's buckets,
 * so that a member far behind goes on at once. With one member at a time per plane: who is far
 * behind does not fetch everything twice.
 */

enum {
    ENTRY_MAX = 8 + 9 + 4,
    BUSY_MS = 1000,
    FEW_BUCKETS = 4,
    FAR_BYTES = 32 * 1024, /* who lacks so much is far behind: it gets large pieces */
    WANTS_MAX = 4096,
    DIRECT_ROOM = TABLE_DIRECT_MAX - 64,
};

void table_differs(struct table *t)
{
    t->differ_ms = t->now_ms;
    t->in_step_ms = 0;
    t->sync_ms = TABLE_SYNC_MS;
    if (t->next_sync_ms > t->now_ms + TABLE_SYNC_MS) {
        t->next_sync_ms = t->now_ms + rng_below(&t->rng, TABLE_SYNC_MS) + 1;
    }
}

/* Comparing may go into debt, that pushing then waits for: when there is more news than may be
 * told, comparing is the better way. What changes all the time comes after the rest. */
static bool may_compare(const struct table *t, unsigned plane)
{
    return t->small.left > (plane == 0 ? -t->small.most : -t->small.most / 2);
}

static struct str peer_name(const struct table_peer *p)
{
    return (struct str){ p->name, p->name_len };
}

static void put_buckets(struct table *t, struct buf *message, unsigned plane)
{
    AUTO_BUF struct buf body = BUF_INIT(1024);

    (void)buf_add_u8(&body, (uint8_t)plane);
    for (size_t i = 0; i < TABLE_BUCKETS; i++) {
        (void)buf_add_le32(&body, (uint32_t)t->planes[plane].hashes[i]);
    }
    table_part_add(message, TABLE_PART_BUCKETS, &body);
}

static void put_entry(struct buf *b, const struct table_stream *s)
{
    (void)buf_add_le64(b, s->id);
    table_put_varint(b, s->tell);
    (void)buf_add_le32(b, (uint32_t)s->content);
}

/* The streams that changed last: who missed that asks at once. */
static void put_recent(struct table *t, struct buf *message)
{
    AUTO_BUF struct buf entries = BUF_INIT(256);
    AUTO_BUF struct buf body = BUF_INIT(512);
    size_t n = 0;

    LIST_EACH (i, &t->planes[0].recent) {
        const struct table_stream *s = LIST_ITEM(i, struct table_stream, recent);
        if (n == TABLE_RECENT || s->changed_ms + TABLE_FRESH_MS < t->now_ms) {
            break;
        }
        if (table_stream_listed(s)) {
            put_entry(&entries, s);
            n++;
        }
    }
    if (n != 0) {
        (void)buf_add_u8(&body, 0);
        (void)buf_add_u8(&body, 0);
        (void)buf_add_le64(&body, 0);
        table_put_varint(&body, n);
        (void)buf_add(&body, entries.data, entries.len);
        table_part_add(message, TABLE_PART_DIGEST, &body);
    }
}

/* --- sync --- */

void table_sync_tick(struct table *t)
{
    if (t->up_len == 0 || t->now_ms < t->next_sync_ms) {
        return;
    }
    if (t->now_ms - t->differ_ms > TABLE_ACTIVE_MS) {
        t->sync_ms = t->sync_ms * 2 < TABLE_SYNC_IDLE_MS ? t->sync_ms * 2 : TABLE_SYNC_IDLE_MS;
    }
    t->next_sync_ms = t->now_ms + t->sync_ms * 3 / 4 + rng_below(&t->rng, t->sync_ms / 2);
    if (!may_compare(t, 0)) {
        return;
    }
    struct table_peer *p = table_partner(t);
    AUTO_BUF struct buf body = BUF_INIT(64);
    struct buf message;
    (void)buf_add_u8(&body, t->stale ? TABLE_FLAG_STALE : 0);
    (void)buf_add_le64(&body, (uint64_t)t->wall_ms);
    for (size_t i = 0; i < TABLE_PLANES; i++) {
        (void)buf_add_le64(&body, t->planes[i].root);
    }
    table_message_begin(&message);
    table_part_add(&message, TABLE_PART_SYNC, &body);
    put_recent(t, &message);
    table_send(t, peer_name(p), &message, false);
}

void table_on_sync(struct table *t, struct table_peer *from, struct cur *c)
{
    struct buf message;
    bool is_stale = (cur_u8(c) & TABLE_FLAG_STALE) != 0;
    uint64_t wall = cur_le64(c);
    uint64_t ours = (uint64_t)t->wall_ms;
    bool differs = false;

    t->clock_agrees = (wall > ours ? wall - ours : ours - wall) <= t->cfg.skew_max_ms;
    table_heard(t, is_stale);
    t->counters.compares++;
    table_message_begin(&message);
    for (unsigned p = 0; p < TABLE_PLANES; p++) {
        if (cur_le64(c) == t->planes[p].root) {
            if (p == 0 && !is_stale) {
                table_unstale(t, true);
            }
            continue;
        }
        differs = true;
        if (may_compare(t, p)) {
            put_buckets(t, &message, p);
        }
    }
    if (differs) {
        table_differs(t);
    } else {
        t->counters.compares_equal++;
        t->in_step_ms = t->in_step_ms != 0 ? t->in_step_ms : t->now_ms;
    }
    if (message.len > 1) {
        table_send(t, peer_name(from), &message, false);
    } else {
        buf_release(&message);
    }
}

/* --- digests --- */

static int by_id(const void *a, const void *b)
{
    const struct table_entry *x = a;
    const struct table_entry *y = b;

    return (x->id > y->id) - (x->id < y->id);
}

/* Streams that are not wanted (of nodes that are no members, of former lives) are named with
 * version 0: or they would be given again each time. */
static size_t put_refused(const struct table *t, struct buf *b, uint64_t covered)
{
    size_t n = 0;

    for (size_t i = 0; i < TABLE_REFUSED_LEN; i++) {
        uint64_t id = t->refused[i].id;
        if (t->now_ms < t->refused[i].until_ms && (covered >> (id >> 58) & 1) != 0 &&
            table_stream_find(t, id) == NULL) {
            (void)buf_add_le64(b, id);
            table_put_varint(b, 0);
            (void)buf_add_le32(b, 0);
            n++;
        }
    }
    return n;
}

/* The streams of as many of the buckets as fit, and a bit for each of those. */
static uint64_t put_digest(struct table *t, struct buf *b, unsigned plane, uint64_t buckets,
                           size_t room, size_t *ret_n)
{
    uint64_t covered = 0;
    unsigned first = (unsigned)rng_below(&t->rng, TABLE_BUCKETS);

    *ret_n = 0;
    for (unsigned i = 0; i < TABLE_BUCKETS; i++) {
        unsigned k = (first + i) % TABLE_BUCKETS;
        size_t before = b->len;
        size_t n = 0;
        if ((buckets >> k & 1) == 0) {
            continue;
        }
        LIST_EACH (at, &t->planes[plane].buckets[k]) {
            const struct table_stream *s = LIST_ITEM(at, struct table_stream, bucket);
            if (table_stream_listed(s)) {
                put_entry(b, s);
                n++;
            }
        }
        if (b->len > room && covered != 0) {
            b->len = before;
            break;
        }
        *ret_n += n;
        covered |= (uint64_t)1 << k;
    }
    *ret_n += put_refused(t, b, covered);
    return covered;
}

static void send_digest(struct table *t, struct table_peer *to, unsigned plane, uint64_t buckets,
                        bool bulk)
{
    AUTO_BUF struct buf entries = BUF_INIT(TABLE_MESSAGE_MAX / 2);
    AUTO_BUF struct buf body = BUF_INIT(TABLE_MESSAGE_MAX);
    struct buf message;
    size_t n = 0;
    uint64_t covered = put_digest(t, &entries, plane, buckets,
                                  bulk && t->bulk.left > 0 ? TABLE_DIGEST_BYTES : DIRECT_ROOM, &n);

    (void)buf_add_u8(&body, (uint8_t)plane);
    (void)buf_add_u8(&body, bulk ? TABLE_FLAG_BULK : 0);
    (void)buf_add_le64(&body, covered);
    table_put_varint(&body, n);
    (void)buf_add(&body, entries.data, entries.len);
    table_message_begin(&message);
    table_part_add(&message, TABLE_PART_DIGEST, &body);
    table_send(t, peer_name(to), &message, false);
}

void table_on_buckets(struct table *t, struct table_peer *from, struct cur *c, bool direct)
{
    unsigned plane = cur_u8(c);
    struct table_plane *p = &t->planes[plane];
    uint64_t differ = 0;
    unsigned n = 0;

    for (unsigned i = 0; i < TABLE_BUCKETS; i++) {
        if (cur_le32(c) != (uint32_t)p->hashes[i]) {
            differ |= (uint64_t)1 << i;
            n++;
        }
    }
    bool with_another = t->now_ms < p->busy_ms && !str_eq(p->busy_with, peer_name(from));
    if (differ == 0) {
        p->busy_ms = 0;
        return;
    }
    table_differs(t);
    /* What is small may come from several at once. */
    bool much = n > FEW_BUCKETS || !direct;
    if ((with_another && much) || !may_compare(t, plane)) {
        return;
    }
    memcpy(p->busy_name, from->name, from->name_len);
    p->busy_with = (struct str){ p->busy_name, from->name_len };
    p->busy_ms = t->now_ms + BUSY_MS;
    /* After a large piece the next one: this node is far behind. */
    send_digest(t, from, plane, differ, plane == 0 || !direct);
}

/* --- what is wanted, in both directions --- */

struct wants {
    struct table_entry *v; /* version: known up to there */
    size_t n, cap;
};

static void want_add(struct wants *w, uint64_t id, uint64_t version)
{
    if (w->n == w->cap && w->cap < WANTS_MAX) {
        size_t cap = w->cap != 0 ? w->cap * 2 : 64;
        struct table_entry *v = mem_realloc(w->v, cap * sizeof *v);
        if (v == NULL) {
            return;
        }
        w->v = v;
        w->cap = cap;
    }
    if (w->n < w->cap) {
        w->v[w->n++] = (struct table_entry){ .id = id, .version = version };
    }
}

void table_ask(struct table *t, struct table_peer *peer, const struct table_entry *entries,
               size_t n)
{
    AUTO_BUF struct buf list = BUF_INIT(TABLE_MESSAGE_MAX / 2);
    AUTO_BUF struct buf body = BUF_INIT(TABLE_MESSAGE_MAX);
    struct buf message;
    size_t asked = 0;

    for (size_t i = 0; i < n; i++) {
        struct table_stream *s = table_stream_find(t, entries[i].id);
        if (s != NULL && s->asked_ms != 0 && t->now_ms < s->asked_ms + TABLE_ASK_MS) {
            continue;
        }
        if (s != NULL) {
            s->asked_ms = t->now_ms;
        }
        (void)buf_add_le64(&list, entries[i].id);
        table_put_varint(&list, entries[i].version);
        asked++;
    }
    if (asked == 0) {
        return;
    }
    (void)buf_add_u8(&body, 0);
    table_put_varint(&body, asked);
    (void)buf_add(&body, list.data, list.len);
    table_message_begin(&message);
    table_part_add(&message, TABLE_PART_WANT, &body);
    table_send(t, peer_name(peer), &message, false);
}

/* Equal versions with different rows. While news is on its way that is nothing strange; when it
 * stays, the stream is fetched anew. */
static void odd(struct table *t, struct table_stream *s, struct wants *w)
{
    if (s->own && (s->kind & TABLE_KIND_CLUSTER) == 0) {
        return; /* the others have it from us: they fetch it */
    }
    if (s->odd == 0) {
        s->odd_ms = t->now_ms;
    }
    s->odd = s->odd < UINT8_MAX ? (uint8_t)(s->odd + 1) : UINT8_MAX;
    if (s->odd >= TABLE_ODD_TIMES && t->now_ms - s->odd_ms >= TABLE_ODD_MS) {
        s->odd = 0;
        s->repair = true;
        t->counters.repairs++;
        if (s->own) {
            /* Numbers were used twice: the disk came back from before the others' knowledge. */
            table_restream(t, s->kind);
        }
        want_add(w, s->id, 0);
    }
}

static void compare_entry(struct table *t, const struct table_entry *e, struct wants *give,
                          struct wants *take)
{
    struct table_stream *s = table_stream_find(t, e->id);

    if (e->version == 0) {
        return; /* not wanted there */
    }
    if (s == NULL) {
        if (!table_is_refused(t, e->id)) {
            want_add(take, e->id, 0);
        }
        return;
    }
    if (s->own && e->version > s->version) {
        if ((s->kind & TABLE_KIND_CLUSTER) != 0) {
            table_restream(t, s->kind);
            want_add(take, e->id, s->version);
        }
        return;
    }
    if (e->version < s->tell) {
        want_add(give, s->id, e->version);
    } else if (e->version > s->tell && !s->own) {
        want_add(take, s->id, s->version);
    } else if (e->content != (uint32_t)s->content) {
        odd(t, s, take);
    } else {
        s->odd = 0;
    }
}

/* --- deltas --- */

static uint64_t behind(const struct table *t, const struct table_entry *e)
{
    const struct table_stream *s = table_stream_find(t, e->id);

    return s != NULL && s->tell > e->version ? s->tell - e->version : 0;
}

/* Bytes that the member lacks, at least up to FAR_BYTES. */
static uint64_t lacks(const struct table *t, const struct wants *w)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < w->n && bytes < FAR_BYTES; i++) {
        struct table_stream *s = table_stream_find(t, w->v[i].id);
        struct list *at = s != NULL ? s->rows.prev : NULL;
        while (s != NULL && at != &s->rows && bytes < FAR_BYTES) {
            const struct table_row *r = LIST_ITEM(at, struct table_row, link);
            if (r->version <= w->v[i].version) {
                break;
            }
            bytes += table_row_wire_max(r);
            at = at->prev;
        }
    }
    return bytes;
}

struct order {
    uint64_t behind;
    struct table_entry entry;
};

static int most_behind(const void *a, const void *b)
{
    const struct order *x = a;
    const struct order *y = b;

    if (x->behind != y->behind) {
        return x->behind > y->behind ? -1 : 1;
    }
    return by_id(&x->entry, &y->entry);
}

/* The rows above `from`, oldest first, as many as fit. Returns whether all did. */
static bool put_rows(struct buf *b, struct table_stream *s, uint64_t from, size_t room, bool any)
{
    struct table_row *first = table_stream_after(s, from);
    struct list *at = first != NULL ? &first->link : &s->rows;
    size_t left = room - table_section_wire_max(s);
    size_t n = 0;
    uint64_t to = from;
    bool whole = true;

    for (struct list *i = at; i != &s->rows; i = i->next) {
        const struct table_row *r = CONTAINER_OF(i, struct table_row, link);
        size_t cost = table_row_wire_max(r);
        if (r->version > s->tell) {
            break;
        }
        if (cost > left && (n != 0 || !any)) {
            whole = false;
            break;
        }
        left -= cost < left ? cost : left;
        to = r->version;
        n++;
    }
    if (!whole && n == 0) {
        return false;
    }
    table_put_section(b, s, true, from, whole ? s->tell : to, n);
    uint64_t before = from;
    for (struct list *i = at; n > 0; i = i->next, n--) {
        const struct table_row *r = CONTAINER_OF(i, struct table_row, link);
        table_put_row(b, r, before);
        before = r->version;
    }
    return whole;
}

/* How large the answer may become: a datagram, or much over a connection. */
static size_t answer_room(const struct table *t, bool bulk)
{
    if (bulk && t->bulk.left > 0) {
        return TABLE_REPLY_BYTES;
    }
    return DIRECT_ROOM;
}

static size_t put_sections(struct table *t, struct buf *b, struct order *o, size_t n, size_t room,
                           bool *ret_whole)
{
    size_t sections = 0;

    *ret_whole = true;
    for (size_t i = 0; i < n; i++) {
        struct table_stream *s = table_stream_find(t, o[i].entry.id);
        if (s == NULL || s->tell <= o[i].entry.version) {
            continue;
        }
        size_t used = b->len;
        if (used + table_section_wire_max(s) >= room) {
            *ret_whole = false;
            break;
        }
        /* A first row is sent however long it is: over a connection. */
        bool any = sections == 0 && t->bulk.left > 0;
        bool whole = put_rows(b, s, o[i].entry.version, room - used, any);
        sections += b->len != used;
        if (!whole) {
            *ret_whole = false;
            if (b->len + table_section_wire_max(s) >= room || b->len > DIRECT_ROOM) {
                break;
            }
        }
    }
    return sections;
}

static void give(struct table *t, struct table_peer *to, struct wants *w, bool bulk, unsigned plane)
{
    AUTO_BUF struct buf sections = BUF_INIT(TABLE_MESSAGE_MAX - 1024);
    AUTO_BUF struct buf body = BUF_INIT(TABLE_MESSAGE_MAX);
    AUTO_MEM struct order *o = mem_calloc(w->n + 1, sizeof *o);
    struct buf message;
    bool whole = true;

    if (o == NULL || w->n == 0 || (!may_compare(t, 0) && t->bulk.left <= 0)) {
        return;
    }
    for (size_t i = 0; i < w->n; i++) {
        o[i] = (struct order){ .behind = behind(t, &w->v[i]), .entry = w->v[i] };
    }
    qsort(o, w->n, sizeof *o, most_behind);
    bulk = bulk || lacks(t, w) >= FAR_BYTES;
    size_t n = put_sections(t, &sections, o, w->n, answer_room(t, bulk), &whole);
    if (n == 0) {
        return;
    }
    (void)buf_add_u8(&body, 0);
    table_put_varint(&body, n);
    (void)buf_add(&body, sections.data, sections.len);
    table_message_begin(&message);
    table_part_add(&message, TABLE_PART_DELTA, &body);
    if (!whole && (bulk || message.len > TABLE_DIRECT_MAX)) {
        put_buckets(t, &message, plane);
    }
    table_send(t, peer_name(to), &message, false);
}

static size_t read_entries(struct cur *c, enum table_part part, struct table_entry **ret)
{
    uint64_t n = table_cur_varint(c);
    size_t max = cur_left(c) / 9;
    size_t len = n < max ? (size_t)n : max;
    struct table_entry *v = mem_calloc(len + 1, sizeof *v);

    for (size_t i = 0; v != NULL && i < len; i++) {
        table_read_entry(c, part, &v[i]);
    }
    *ret = v;
    return v != NULL ? len : 0;
}

/* Streams of covered buckets that the member did not name: it does not know them. */
static void add_unnamed(struct table *t, unsigned plane, uint64_t covered,
                        const struct table_entry *entries, size_t n, struct wants *give_it)
{
    for (unsigned k = 0; k < TABLE_BUCKETS; k++) {
        if ((covered >> k & 1) == 0) {
            continue;
        }
        LIST_EACH (at, &t->planes[plane].buckets[k]) {
            const struct table_stream *s = LIST_ITEM(at, struct table_stream, bucket);
            const struct table_entry key = { .id = s->id };
            if (table_stream_listed(s) &&
                bsearch(&key, entries, n, sizeof *entries, by_id) == NULL) {
                want_add(give_it, s->id, 0);
            }
        }
    }
}

void table_on_digest(struct table *t, struct table_peer *from, struct cur *c)
{
    unsigned plane = cur_u8(c);
    bool bulk = (cur_u8(c) & TABLE_FLAG_BULK) != 0;
    uint64_t covered = cur_le64(c);
    struct wants giving = { .v = NULL };
    struct wants taking = { .v = NULL };
    AUTO_MEM struct table_entry *entries = NULL;
    size_t n = read_entries(c, TABLE_PART_DIGEST, &entries);

    if (entries == NULL) {
        return;
    }
    qsort(entries, n, sizeof *entries, by_id);
    for (size_t i = 0; i < n; i++) {
        compare_entry(t, &entries[i], &giving, &taking);
    }
    if (covered != 0) {
        add_unnamed(t, plane, covered, entries, n, &giving);
    }
    if (giving.n + taking.n != 0) {
        table_differs(t);
    }
    give(t, from, &giving, bulk, plane);
    table_ask(t, from, taking.v, taking.n);
    mem_free(giving.v);
    mem_free(taking.v);
}

void table_on_want(struct table *t, struct table_peer *from, struct cur *c)
{
    bool bulk = (cur_u8(c) & TABLE_FLAG_BULK) != 0;
    struct wants w = { .v = NULL };
    AUTO_MEM struct table_entry *entries = NULL;
    size_t n = read_entries(c, TABLE_PART_WANT, &entries);
    unsigned plane = TABLE_PLANES - 1;

    for (size_t i = 0; i < n; i++) {
        struct table_stream *s = table_stream_find(t, entries[i].id);
        if (s != NULL) {
            plane &= s->kind & TABLE_KIND_VOLATILE;
            want_add(&w, entries[i].id, entries[i].version);
        }
    }
    give(t, from, &w, bulk || plane == 0, plane);
    mem_free(w.v);
}
