#include <errno.h>

#include "agent/table/table_internal.h"
#include "common/mem.h"

/*
 * Taking rows in. The message was checked as a whole; what is decided here is what is news.
 *
 * A section (base, to] counts when the stream is known without a gap up to base. Rows up to what is
 * known are passed over, so that a repeated or late message changes nothing. Of two rows with one
 * key the later one of a stream stands, and between streams the one with the greater clock, then
 * with the greater stream id: a total order, so that the order of arrival decides nothing.
 */

/* --- ids that are not wanted for a while --- */

bool table_is_refused(const struct table *t, uint64_t id)
{
    size_t at = (size_t)(id % TABLE_REFUSED_LEN);

    return t->refused[at].id == id && t->now_ms < t->refused[at].until_ms;
}

void table_refuse(struct table *t, uint64_t id)
{
    size_t at = (size_t)(id % TABLE_REFUSED_LEN);

    t->refused[at].id = id;
    t->refused[at].until_ms = t->now_ms + TABLE_REFUSED_MS;
}

/* --- one row --- */

enum took { TOOK_NEWS, TOOK_KNOWN, TOOK_REFUSED };

/* Does a row of stream s with this clock stand against old, which is of another stream? */
static bool stands(const struct table_stream *s, uint64_t clock, const struct table_row *old)
{
    if (old->stream->doubtful) {
        return clock >= old->clock;
    }
    if ((s->kind & TABLE_KIND_CLUSTER) == 0) {
        return true; /* the owner's newer life */
    }
    return clock != old->clock ? clock > old->clock : s->id > old->stream->id;
}

static bool over_budget(const struct table *t, const struct table_stream *s,
                        const struct table_wire_row *r)
{
    const struct table_type_info *i = table_limits(r->type);
    uint64_t more = r->key.n + r->value.n;

    if (t->bytes + more + sizeof(struct table_row) > t->cfg.memory_max) {
        return true;
    }
    if (i->ownership != TABLE_OF_CLUSTER) {
        return s->bytes + more > 2 * table_stream_budget(s->kind);
    }
    /* Two writers may have filled the same last bytes. */
    return t->types[r->type].bytes + more > 2ULL * i->rows_bytes;
}

/* A number that was used twice (a restored disk): one row stands, the same on every node. False:
 * not this one. */
static bool number_is_free(struct table *t, struct table_stream *s, const struct table_wire_row *r,
                           const struct table_row *old)
{
    struct table_row *other = table_stream_after(s, r->version - 1);

    if (other == NULL || other == old || other->version != r->version) {
        return true;
    }
    if (other->clock != r->clock ? other->clock > r->clock
                                 : str_cmp(table_row_key(other), r->key) > 0) {
        return false;
    }
    table_fx_row(t, other, true);
    table_fx_changed(t, NULL, other);
    table_row_remove(t, other);
    return true;
}

/* Is this what is here, or older? Of one number that was used twice for one key (a restored disk)
 * the later write stands, the same on every node. */
static bool is_known(const struct table_row *old, const struct table_wire_row *r)
{
    if (old->version != r->version) {
        return old->version > r->version;
    }
    if (old->clock != r->clock) {
        return old->clock > r->clock;
    }
    return str_cmp(table_row_value(old), r->value) >= 0;
}

static enum took take_row(struct table *t, struct table_stream *s, const struct table_wire_row *r)
{
    bool of_cluster = (s->kind & TABLE_KIND_CLUSTER) != 0;
    struct str owner =
        (r->flags & TABLE_ROW_OWNED) != 0 ? table_stream_name(s) : (struct str){ "", 0 };
    struct table_row *old = table_row_find(t, r->type, owner, r->key);

    if (of_cluster && table_clock_ms(r->clock) > (uint64_t)t->wall_ms + t->cfg.skew_max_ms) {
        t->counters.refused_skew++;
        return TOOK_REFUSED;
    }
    if (old != NULL && old->stream == s && is_known(old, r)) {
        return TOOK_KNOWN;
    }
    if (old == NULL && (r->flags & TABLE_ROW_DELETED) != 0 && table_expired(t, r->clock)) {
        return TOOK_KNOWN;
    }
    if (of_cluster) {
        table_clock_seen(t, r->clock);
    }
    if (old != NULL && old->stream != s && !stands(s, r->clock, old)) {
        return TOOK_KNOWN;
    }
    if (over_budget(t, s, r)) {
        t->counters.refused_budget++;
        return TOOK_REFUSED;
    }
    struct table_row *row = table_row_new(t, r->type, r->flags, r->key, r->value);
    if (row == NULL || table_row_reserve(t, r->type) != 0 || !table_fx_room(t, 8)) {
        mem_free(row);
        t->counters.refused_budget++;
        return TOOK_REFUSED;
    }
    if (!number_is_free(t, s, r, old)) {
        mem_free(row);
        return TOOK_KNOWN;
    }
    row->version = r->version;
    row->clock = r->clock;
    table_row_place(t, s, row, old);
    table_fx_row(t, row, false);
    table_fx_changed(t, row, old);
    return TOOK_NEWS;
}

/* --- which stream --- */

/* The member tells of a former life of a node: it hears that there is a newer one, even when that
 * has not written anything yet. */
static void tell_of_life(struct table *t, struct table_peer *to, const struct table_stream *s)
{
    AUTO_BUF struct buf body = BUF_INIT(TABLE_DIRECT_MAX);
    struct buf message;

    (void)buf_add_u8(&body, 0);
    table_put_varint(&body, 1);
    table_put_section(&body, s, true, 0, 0, 0);
    table_message_begin(&message);
    table_part_add(&message, TABLE_PART_DELTA, &body);
    table_send(t, (struct str){ to->name, to->name_len }, &message, false);
}

/* A node-owned stream of a member. NULL: not wanted (now). *ret_old is its former life's. */
static struct table_stream *new_node_stream(struct table *t, struct table_peer *from,
                                            const struct table_section *sec,
                                            struct table_stream **ret_old)
{
    struct table_peer *p = table_peer_find(t, sec->name);
    unsigned of = sec->kind & TABLE_KIND_VOLATILE;

    if (str_eq(sec->name, t->cfg.name)) {
        if (sec->epoch >= t->epoch) {
            table_epoch_jump(t, sec->epoch);
        }
        table_refuse(t, sec->id);
        tell_of_life(t, from, t->own[of]);
        return NULL;
    }
    if (p == NULL) {
        t->counters.refused_stranger++;
        table_refuse(t, sec->id);
        return NULL;
    }
    struct table_stream *old = p->streams[of];
    if (old != NULL && old->epoch >= sec->epoch) {
        table_refuse(t, sec->id);
        tell_of_life(t, from, old);
        return NULL;
    }
    struct table_stream *s = table_stream_new(t, sec->id, sec->kind, sec->name);
    struct table_stream *other = p->streams[of ^ TABLE_KIND_VOLATILE];
    if (s != NULL && other != NULL && other->epoch < sec->epoch) {
        p->streams[of ^ TABLE_KIND_VOLATILE] = NULL;
        table_stream_drop(t, other); /* of that former life, too */
    }
    if (s != NULL) {
        s->epoch = sec->epoch;
        p->streams[of] = s;
        *ret_old = old;
    }
    return s;
}

static struct table_stream *stream_of(struct table *t, struct table_peer *from,
                                      const struct table_section *sec,
                                      struct table_stream **ret_old)
{
    struct table_stream *s = table_stream_find(t, sec->id);

    if (s != NULL || !sec->named || sec->base != 0) {
        return s != NULL && s->kind == sec->kind ? s : NULL;
    }
    if ((sec->kind & TABLE_KIND_CLUSTER) == 0) {
        return new_node_stream(t, from, sec, ret_old);
    }
    /* Without rows there is nothing to know of it. */
    if (sec->rows != 0 && table_fx_room(t, 4)) {
        s = table_stream_new(t, sec->id, sec->kind, sec->name);
    }
    if (s != NULL) {
        table_fx_stream(t, s, false); /* on disk before its rows */
    }
    return s;
}

/* --- a section --- */

struct take {
    uint64_t to; /* known without a gap after the rows so far */
    uint64_t newest_ms;
    size_t news;
    bool stopped;
};

static void take_rows(struct table *t, struct table_stream *s, const struct table_section *sec,
                      struct cur *c, struct take *k)
{
    struct table_wire_row r;
    uint64_t before = sec->base;

    for (uint64_t i = 0; i < sec->rows; i++) {
        table_read_row(c, sec, before, &r);
        INSIST(!c->failed);
        before = r.version;
        if (k->stopped) {
            continue;
        }
        if (s == NULL || (r.version <= s->version && !s->repair)) {
            t->counters.rows_known++;
            continue;
        }
        enum took took = take_row(t, s, &r);
        if (took == TOOK_REFUSED) {
            k->stopped = true;
            k->to = r.version - 1;
            continue;
        }
        if (took == TOOK_NEWS) {
            k->news++;
            if (table_clock_ms(r.clock) > k->newest_ms) {
                k->newest_ms = table_clock_ms(r.clock);
            }
        }
        t->counters.rows_received += took == TOOK_NEWS;
        t->counters.rows_known += took == TOOK_KNOWN;
    }
}

static void skip_rows(struct table *t, const struct table_section *sec, struct cur *c)
{
    struct take k = { .stopped = true };

    take_rows(t, NULL, sec, c, &k);
}

static void settle(struct table *t, struct table_stream *s, const struct table_section *sec,
                   const struct take *k, bool direct)
{
    uint64_t known = s->version;
    uint64_t to = k->stopped ? k->to : sec->to;

    if (sec->base == 0) {
        s->repair = s->repair && k->stopped;
    }
    if (to > s->version) {
        s->version = to;
        table_stream_changed(t, s);
        if (table_fx_room(t, 4)) {
            table_fx_stream(t, s, false);
        }
    }
    s->tell = s->version;
    t->progress += s->version > known || k->news != 0;
    table_stream_rehash(t, s);
    if (!k->stopped) {
        s->asked_ms = 0;
    }
    if (s->version > known) {
        table_differs(t); /* whoever has not heard it differs from us */
    }
    if (k->news != 0 && direct && k->newest_ms + TABLE_FRESH_MS > (uint64_t)t->wall_ms) {
        table_hot(t, s, known);
    }
}

/* Who is told of rows after a gap, or of a stream without its name, asks for the rest. */
static void ask_for(struct table *t, struct table_peer *from, const struct table_section *sec,
                    const struct table_stream *s)
{
    const struct table_entry e = { .id = sec->id, .version = s != NULL ? s->version : 0 };

    if (s == NULL && (table_is_refused(t, sec->id) || (sec->named && sec->base == 0))) {
        return;
    }
    t->counters.refused_gap++;
    table_ask(t, from, &e, 1);
}

static void take_section(struct table *t, struct table_peer *from, const struct table_section *sec,
                         struct cur *c, bool direct)
{
    struct table_stream *former = NULL;
    struct table_stream *s = stream_of(t, from, sec, &former);
    struct take k = { .to = sec->base };

    if (s != NULL && s->own) {
        if (sec->to > s->version && (s->kind & TABLE_KIND_CLUSTER) != 0) {
            table_restream(t, s->kind);
        }
        skip_rows(t, sec, c);
        return;
    }
    if (s == NULL || sec->base > s->version) {
        ask_for(t, from, sec, s);
        skip_rows(t, sec, c);
        return;
    }
    take_rows(t, s, sec, c, &k);
    settle(t, s, sec, &k, direct);
    if (former != NULL) {
        table_stream_drop(t, former); /* what the newer life did not write again */
    }
}

void table_on_delta(struct table *t, struct table_peer *from, struct cur *c, bool direct)
{
    struct table_section sec;

    (void)cur_u8(c);
    uint64_t n = table_cur_varint(c);
    for (uint64_t i = 0; i < n && !c->failed; i++) {
        table_read_section(c, &sec);
        take_section(t, from, &sec, c, direct);
    }
}
