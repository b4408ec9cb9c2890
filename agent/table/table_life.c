#include <errno.h>

#include "agent/table/table_internal.h"
#include "common/mem.h"

/*
 * Restarts, old disks, wrong clocks, absence, and what expires.
 *
 * A disk that went back (a restored backup): the others know more of our own stream than we do. It
 * becomes a stream like any other, to be fetched, and what this life wrote moves to a new one.
 *
 * Away for longer than tombstones live: what the disk holds may have been deleted meanwhile. Such
 * rows are doubtful: readable, but not told. When a member that was not away has given us all it
 * knows, those that it does not know go; when everybody was away as long, they count again.
 */

enum { ALL_STALE_MS = 60 * 1000, SWEEP_STREAMS = 256 };

/* --- moving rows from an own stream to a new one --- */

static void move_row(struct table *t, struct table_row *r, struct table_stream *to, bool restamp,
                     unsigned later)
{
    struct table_stream *from = r->stream;
    uint64_t size = (uint64_t)r->key_len + r->value_len;

    list_remove(&r->link);
    from->rows_len--;
    from->bytes -= size;
    from->content -= table_row_hash(r);
    r->clock = restamp ? table_clock_next(t) : r->clock + later;
    table_clock_seen(t, r->clock);
    r->stream = to;
    r->version = ++to->version;
    list_push_back(&to->rows, &r->link);
    to->rows_len++;
    to->bytes += size;
    to->content += table_row_hash(r);
    if (table_fx_room(t, 4)) {
        table_fx_row(t, r, false);
    }
}

static void disown(struct table *t, struct table_stream *s)
{
    s->own = false;
    LIST_EACH (i, &s->rows) {
        const struct table_row *r = LIST_ITEM(i, struct table_row, link);
        t->types[r->type].own_bytes -= (uint64_t)r->key_len + r->value_len;
    }
}

static void restream(struct table *t, unsigned kind, bool restamp)
{
    struct table_stream *old = t->own[kind];

    t->own[kind] = NULL;
    struct table_stream *s = table_own_stream(t, kind);
    if (s == NULL || !table_durable_room(t)) {
        t->own[kind] = old; /* no memory: it will be noticed again */
        return;
    }
    struct table_row *r;
    while ((r = table_stream_after(old, old->boot_version)) != NULL) {
        /* A little later than what others may hold of it under the old number. */
        move_row(t, r, s, restamp && table_clock_ms(r->clock) > (uint64_t)t->wall_ms, 1);
    }
    old->version = old->boot_version;
    old->tell = old->version;
    disown(t, old);
    table_stream_rehash(t, old);
    if (table_fx_room(t, 4)) {
        table_fx_stream(t, old, false);
        table_fx_stream(t, s, false);
    }
    table_await_disk(t, s);
}

void table_restream(struct table *t, unsigned kind)
{
    restream(t, kind, false);
}

void table_epoch_jump(struct table *t, uint64_t seen)
{
    struct table_stream *old[TABLE_KIND_CLUSTER];

    for (unsigned kind = 0; kind < TABLE_KIND_CLUSTER; kind++) {
        old[kind] = t->own[kind];
    }
    uint64_t before = t->epoch;
    t->epoch = seen + 1;
    if (table_own_nodes(t) != 0) {
        t->epoch = before;
        for (unsigned kind = 0; kind < TABLE_KIND_CLUSTER; kind++) {
            if (t->own[kind] != old[kind] && t->own[kind] != NULL) {
                table_stream_drop(t, t->own[kind]);
            }
            t->own[kind] = old[kind];
        }
        return;
    }
    t->counters.streams_begun++;
    for (unsigned kind = 0; kind < TABLE_KIND_CLUSTER; kind++) {
        while (!list_empty(&old[kind]->rows)) {
            move_row(t, LIST_ITEM(old[kind]->rows.next, struct table_row, link), t->own[kind],
                     false, 0);
        }
        table_stream_drop(t, old[kind]);
        table_tell_up_to(t, t->own[kind], t->own[kind]->version);
    }
}

/* The clock was set back, and a member's clock says that it is right now: what this life dated into
 * the future is dated anew, or nobody would take it before then. */
void table_check_clock(struct table *t)
{
    if (!t->clock_agrees || table_clock_ms(t->clock) <= (uint64_t)t->wall_ms + t->cfg.skew_max_ms) {
        return;
    }
    t->clock = 0;
    (void)table_clock_next(t);
    for (unsigned kind = TABLE_KIND_CLUSTER; kind < TABLE_KINDS; kind++) {
        struct table_stream *s = t->own[kind];
        bool ahead = false;
        if (s == NULL) {
            continue;
        }
        LIST_EACH (i, &s->rows) {
            const struct table_row *r = LIST_ITEM(i, struct table_row, link);
            ahead = ahead || (r->version > s->boot_version &&
                              table_clock_ms(r->clock) > (uint64_t)t->wall_ms + t->cfg.skew_max_ms);
        }
        if (ahead) {
            restream(t, kind, true);
        }
    }
}

/* --- what expires --- */

bool table_expired(const struct table *t, uint64_t clock)
{
    return table_clock_ms(clock) + t->cfg.tombstone_ms <= (uint64_t)t->wall_ms;
}

static void sweep_tombstones(struct table *t, struct table_rows *a)
{
    for (size_t i = a->n; i > 0 && a->deleted != 0; i--) {
        struct table_row *r = a->v[i - 1];
        struct table_stream *s = r->stream;
        if ((r->flags & TABLE_ROW_DELETED) == 0 || !table_expired(t, r->clock) ||
            r->version > s->tell || !table_fx_room(t, 4)) {
            continue;
        }
        table_fx_row(t, r, true);
        table_row_remove(t, r);
        table_stream_rehash(t, s);
        t->counters.expired++;
    }
}

static void sweep_streams(struct table *t)
{
    struct table_stream *gone[SWEEP_STREAMS];
    struct table_stream *s;
    size_t n = 0;

    for (size_t i = 0; n < SWEEP_STREAMS && (s = map_next(&t->streams, &i)) != NULL;) {
        if (!s->own && (s->kind & TABLE_KIND_CLUSTER) != 0 && list_empty(&s->rows) &&
            s->changed_ms + TABLE_EMPTY_MS < t->now_ms) {
            gone[n++] = s;
        }
    }
    for (size_t i = 0; i < n && table_fx_room(t, 4); i++) {
        table_fx_stream(t, gone[i], true);
        table_stream_drop(t, gone[i]);
    }
}

void table_sweep(struct table *t)
{
    if (t->now_ms < t->next_sweep_ms) {
        return;
    }
    t->next_sweep_ms = t->now_ms + TABLE_SWEEP_MS;
    for (size_t i = 0; i < TABLE_TYPES; i++) {
        if (t->types[i].deleted != 0) {
            sweep_tombstones(t, &t->types[i]);
        }
    }
    sweep_streams(t);
}

/* --- what the disk holds --- */

static int load_stream(struct table *t, const struct table_record *rec)
{
    bool fine = rec->kind < TABLE_KINDS && (rec->kind & TABLE_KIND_CLUSTER) != 0 &&
                rec->writer.n >= 1 && rec->writer.n <= TABLE_NAME_MAX &&
                table_stream_find(t, rec->stream) == NULL;

    if (!fine) {
        return -EBADMSG;
    }
    struct table_stream *s = table_stream_new(t, rec->stream, rec->kind, rec->writer);
    if (s == NULL) {
        return -ENOMEM;
    }
    s->version = s->tell = s->boot_version = rec->version;
    s->doubtful = t->stale;
    if (rec->own && !t->stale && t->own[rec->kind] == NULL && str_eq(rec->writer, t->cfg.name)) {
        s->own = true;
        t->own[rec->kind] = s;
    }
    return 0;
}

static bool number_taken(const struct table_stream *s, uint64_t version)
{
    const struct table_row *r = table_stream_after(s, version - 1);

    return r != NULL && r->version == version;
}

static int load_row(struct table *t, const struct table_record *rec)
{
    struct table_stream *s = table_stream_find(t, rec->stream);
    unsigned flags = rec->deleted ? TABLE_ROW_DELETED : 0U;

    flags |= rec->owner.n != 0 ? TABLE_ROW_OWNED : 0U;
    if (s == NULL || rec->type == 0 || rec->type >= TABLE_TYPES || rec->key.n > TABLE_KEY_MAX ||
        rec->value.n > table_limits(rec->type)->value_max || rec->version == 0 ||
        number_taken(s, rec->version) ||
        (rec->owner.n != 0 && !str_eq(rec->owner, table_stream_name(s))) ||
        table_row_find(t, rec->type, rec->owner, rec->key) != NULL) {
        return -EBADMSG;
    }
    struct table_row *r = table_row_new(t, rec->type, flags, rec->key, rec->value);
    if (r == NULL || table_row_reserve(t, rec->type) != 0) {
        mem_free(r);
        return -ENOMEM;
    }
    r->version = rec->version;
    r->clock = rec->clock;
    table_row_place(t, s, r, NULL);
    if (s->own && r->version > s->version) {
        s->version = s->tell = s->boot_version = r->version;
    }
    table_clock_seen(t, rec->clock);
    table_stream_rehash(t, s);
    return 0;
}

int table_load(struct table *t, int64_t wall_ms, const struct table_record *record)
{
    t->wall_ms = wall_ms;
    switch (record->op) {
    case TABLE_STREAM_PUT:
        return load_stream(t, record);
    case TABLE_ROW_PUT:
        return load_row(t, record);
    case TABLE_STREAM_DROP:
    case TABLE_ROW_DROP:
    default:
        return -EBADMSG;
    }
}

/* --- absence --- */

/* Doubtful streams leave the map, so that they are fetched as if never known. */
static void set_doubtful_aside(struct table *t)
{
    struct table_stream *s;
    size_t i = 0;

    while ((s = map_next(&t->streams, &i)) != NULL) {
        if (s->doubtful) {
            (void)map_remove(&t->streams, (struct str){ (const char *)&s->id, sizeof s->id });
            list_remove(&s->bucket);
            list_remove(&s->recent);
            list_push_back(&t->doubtful, &s->bucket);
            i = 0; /* removing moves entries */
        }
    }
}

void table_begin_life(struct table *t)
{
    if (!t->begun) {
        t->begun = true;
        set_doubtful_aside(t);
    }
}

static void doubt_was_right(struct table *t, struct table_stream *s)
{
    while (!list_empty(&s->rows)) {
        struct table_row *r = LIST_ITEM(s->rows.next, struct table_row, link);
        if (table_fx_room(t, 4)) {
            table_fx_row(t, r, true);
            table_fx_changed(t, NULL, r);
        }
        table_row_remove(t, r);
    }
}

/* The rows count again: in the stream of this id that was begun meanwhile, or in this one. */
static void doubt_was_wrong(struct table *t, struct table_stream *s)
{
    struct table_stream *now = table_stream_find(t, s->id);

    if (now == NULL &&
        map_add(&t->streams, (struct str){ (const char *)&s->id, sizeof s->id }, s) == 0) {
        s->doubtful = false;
        list_remove(&s->bucket);
        list_push_back(&t->planes[s->kind & TABLE_KIND_VOLATILE].buckets[s->id >> 58], &s->bucket);
        table_stream_changed(t, s);
        table_stream_rehash(t, s);
        table_hot(t, s, 0);
        return;
    }
    doubt_was_right(t, s); /* a member gave this stream: its word counts */
}

/* confirmed: a member that was not away knows no more than we do. Otherwise everybody was away. */
void table_unstale(struct table *t, bool confirmed)
{
    if (!t->stale) {
        return;
    }
    t->stale = false;
    while (!list_empty(&t->doubtful)) {
        struct table_stream *s = LIST_ITEM(t->doubtful.next, struct table_stream, bucket);
        if (confirmed || list_empty(&s->rows)) {
            doubt_was_right(t, s);
        } else {
            doubt_was_wrong(t, s);
        }
        if (s->doubtful) {
            if (table_stream_find(t, s->id) == NULL && table_fx_room(t, 4)) {
                table_fx_stream(t, s, true);
            }
            table_stream_drop(t, s);
        }
    }
    table_differs(t);
}

/* A member said whether it was away, too. */
void table_heard(struct table *t, bool is_stale)
{
    if (!t->stale) {
        return;
    }
    if (!is_stale) {
        t->stale_ms = UINT64_MAX; /* somebody knows: comparing decides */
    } else if (t->stale_ms == 0) {
        t->stale_ms = t->now_ms;
    } else if (t->stale_ms != UINT64_MAX && t->now_ms - t->stale_ms >= ALL_STALE_MS) {
        table_unstale(t, false);
    }
}
