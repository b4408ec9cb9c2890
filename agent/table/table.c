#include "agent/table/table.h"

#include <errno.h>

#include "agent/table/table_internal.h"
#include "common/mem.h"

enum { DAY_MS = 24 * 60 * 60 * 1000 };

/* --- effects --- */

static bool vector_room(void **v, size_t *cap, size_t len, size_t n, size_t size)
{
    if (len + n <= *cap) {
        return true;
    }
    size_t more = *cap != 0 ? *cap : 32;
    while (more < len + n) {
        more *= 2;
    }
    void *p = mem_realloc(*v, more * size);
    if (p == NULL) {
        return false;
    }
    *v = p;
    *cap = more;
    return true;
}

bool table_fx_room(struct table *t, size_t n)
{
    void *fx = t->fx;
    void *garbage = t->garbage;
    bool ok = vector_room(&fx, &t->fx_cap, t->fx_len, n, sizeof *t->fx);

    t->fx = fx;
    ok = ok && vector_room(&garbage, &t->garbage_cap, t->garbage_len, n, sizeof *t->garbage);
    t->garbage = garbage;
    return ok;
}

/* Without room it is leaked into the next step's hands: freed at once only when nobody can see it.
 */
void table_garbage(struct table *t, void *p)
{
    if (p == NULL) {
        return;
    }
    if (t->garbage_len == t->garbage_cap && !table_fx_room(t, 1)) {
        /* No memory for remembering it: no effect of this step may refer to it any more. */
        t->fx_len = 0;
        mem_free(p);
        return;
    }
    t->garbage[t->garbage_len++] = p;
}

void table_fx_changed(struct table *t, const struct table_row *r, const struct table_row *old)
{
    struct table_effect fx = { .type = TABLE_FX_CHANGED };

    if (r != NULL && (r->flags & TABLE_ROW_DELETED) == 0) {
        fx.has_row = true;
        table_row_view(r, &fx.row);
    }
    if (old != NULL && (old->flags & TABLE_ROW_DELETED) == 0) {
        fx.has_old = true;
        table_row_view(old, &fx.old);
    }
    if ((fx.has_row || fx.has_old) && t->fx_len < t->fx_cap) {
        t->fx[t->fx_len++] = fx;
    }
}

static void persist(struct table *t, const struct table_record *record)
{
    if (t->cfg.persist && t->fx_len < t->fx_cap) {
        t->persist_seq++;
        t->fx[t->fx_len++] = (struct table_effect){ .type = TABLE_FX_PERSIST, .record = *record };
    }
}

void table_fx_row(struct table *t, const struct table_row *r, bool drop)
{
    const struct table_record record = {
        .op = drop ? TABLE_ROW_DROP : TABLE_ROW_PUT,
        .stream = r->stream->id,
        .version = r->version,
        .type = r->type,
        .owner = table_row_owner(r),
        .key = table_row_key(r),
        .value = table_row_value(r),
        .clock = r->clock,
        .deleted = (r->flags & TABLE_ROW_DELETED) != 0,
    };

    if ((r->stream->kind & TABLE_KIND_CLUSTER) != 0) {
        persist(t, &record);
    }
}

void table_fx_stream(struct table *t, const struct table_stream *s, bool drop)
{
    const struct table_record record = {
        .op = drop ? TABLE_STREAM_DROP : TABLE_STREAM_PUT,
        .stream = s->id,
        .version = s->version,
        .kind = s->kind,
        .own = s->own,
        .writer = table_stream_name(s),
    };

    if ((s->kind & TABLE_KIND_CLUSTER) != 0) {
        persist(t, &record);
    }
}

void table_begin(struct table *t, uint64_t now_ms, int64_t wall_ms)
{
    t->now_ms = now_ms > t->now_ms ? now_ms : t->now_ms;
    t->wall_ms = wall_ms > 0 ? wall_ms : 0;
    t->fx_len = 0;
    for (size_t i = 0; i < t->garbage_len; i++) {
        mem_free(t->garbage[i]);
    }
    t->garbage_len = 0;
    table_begin_life(t);
    table_bucket_refill(&t->small, t->now_ms);
    table_bucket_refill(&t->bulk, t->now_ms);
}

void table_end(struct table *t, struct table_effects *fx)
{
    *fx = (struct table_effects){ .v = t->fx, .n = t->fx_len, .persist_seq = t->persist_seq };
}

/* --- making --- */

static uint64_t or_default(uint64_t v, uint64_t otherwise)
{
    return v != 0 ? v : otherwise;
}

static void set_defaults(struct table *t)
{
    struct table_config *c = &t->cfg;

    c->tombstone_ms = or_default(c->tombstone_ms, 7ULL * DAY_MS);
    c->skew_max_ms = or_default(c->skew_max_ms, 60 * 1000);
    c->bytes_per_s = or_default(c->bytes_per_s, 20 * 1000);
    c->bulk_bytes_per_s = or_default(c->bulk_bytes_per_s, 4 * 1024 * 1024);
    c->memory_max = or_default(c->memory_max, 256ULL * 1024 * 1024);
    /* In any five seconds no more than was asked for, with the burst and the debt that comparing
     * may make. */
    t->small = (struct table_bucket){ .per_s = c->bytes_per_s / 10 * 9,
                                      .most = (int64_t)c->bytes_per_s / 4,
                                      .left = (int64_t)c->bytes_per_s / 4 };
    t->bulk = (struct table_bucket){ .per_s = c->bulk_bytes_per_s,
                                     .most = (int64_t)c->bulk_bytes_per_s,
                                     .left = (int64_t)c->bulk_bytes_per_s };
}

int table_new(const struct table_config *cfg, struct table **ret, struct err *e)
{
    if (cfg->name.n == 0 || cfg->name.n > TABLE_NAME_MAX) {
        return err_say(e, -EINVAL, "the shared table: a node's name has 1 to %d bytes",
                       TABLE_NAME_MAX);
    }
    struct table *t = mem_zalloc(sizeof *t);
    if (t == NULL) {
        return err_set(e, -ENOMEM, "make the shared table");
    }
    t->cfg = *cfg;
    memcpy(t->name, cfg->name.p, cfg->name.n);
    t->cfg.name = (struct str){ t->name, cfg->name.n };
    t->epoch = cfg->epoch;
    t->sync_ms = TABLE_SYNC_MS;
    set_defaults(t);
    t->stale = t->cfg.absent_ms > t->cfg.tombstone_ms;
    rng_init(&t->rng, cfg->seed);
    map_init(&t->streams, TABLE_STREAMS_MAX, cfg->hash_k0, cfg->hash_k1);
    map_init(&t->peers, TABLE_PEERS_MAX, cfg->hash_k0, cfg->hash_k1);
    map_init(&t->staged, 65536, cfg->hash_k0, cfg->hash_k1);
    heap_init(&t->staged_heap, 65536);
    list_init(&t->doubtful);
    for (size_t p = 0; p < TABLE_PLANES; p++) {
        list_init(&t->planes[p].hot);
        list_init(&t->planes[p].recent);
        for (size_t b = 0; b < TABLE_BUCKETS; b++) {
            list_init(&t->planes[p].buckets[b]);
        }
    }
    if (table_own_nodes(t) != 0) {
        table_free(t);
        return err_set(e, -ENOMEM, "make the shared table");
    }
    *ret = t;
    return 0;
}

static void free_streams(struct table *t)
{
    struct table_stream *s;

    for (size_t i = 0; (s = map_next(&t->streams, &i)) != NULL;) {
        mem_free(s);
    }
    LIST_EACH_SAFE (i, &t->doubtful) {
        mem_free(LIST_ITEM(i, struct table_stream, bucket));
    }
    map_release(&t->streams);
}

struct table *table_free(struct table *t)
{
    struct table_peer *p;

    if (t == NULL) {
        return NULL;
    }
    for (size_t type = 0; type < TABLE_TYPES; type++) {
        for (size_t i = 0; i < t->types[type].n; i++) {
            mem_free(t->types[type].v[i]);
        }
        mem_free(t->types[type].v);
    }
    free_streams(t);
    for (size_t i = 0; (p = map_next(&t->peers, &i)) != NULL;) {
        mem_free(p);
    }
    map_release(&t->peers);
    table_staged_free(t);
    for (size_t i = 0; i < t->garbage_len; i++) {
        mem_free(t->garbage[i]);
    }
    mem_free(t->garbage);
    mem_free(t->fx);
    mem_free(t->index);
    mem_free(t->up);
    mem_free(t->durable);
    return mem_free(t);
}

/* --- steps --- */

static void on_message(struct table *t, struct str name, struct str bytes)
{
    struct table_peer *from = table_peer_find(t, name);
    struct cur c;
    struct cur body;
    enum table_part part;
    uint64_t progress = t->progress;
    bool had_delta = false;

    t->counters.received_messages++;
    t->counters.received_bytes += bytes.n;
    if (from == NULL || from->up_at == SIZE_MAX) {
        t->counters.refused_stranger++;
        return;
    }
    if (!table_message_check(bytes)) {
        t->counters.refused_malformed++;
        return;
    }
    cur_init(&c, bytes.p, bytes.n);
    (void)cur_u8(&c);
    while (table_next_part(&c, &part, &body)) {
        switch (part) {
        case TABLE_PART_SYNC:
            table_on_sync(t, from, &body);
            break;
        case TABLE_PART_BUCKETS:
            /* Going on at once after a piece that brought nothing would never end. */
            if (!had_delta || t->progress != progress) {
                table_on_buckets(t, from, &body, bytes.n <= TABLE_DIRECT_MAX);
            }
            break;
        case TABLE_PART_DIGEST:
            table_on_digest(t, from, &body);
            break;
        case TABLE_PART_WANT:
            table_on_want(t, from, &body);
            break;
        case TABLE_PART_DELTA:
            table_on_delta(t, from, &body, bytes.n <= TABLE_DIRECT_MAX);
            had_delta = true;
            break;
        default:
            break;
        }
    }
}

static void on_member(struct table *t, const struct table_event *ev)
{
    struct table_peer *p = table_peer_find(t, ev->peer);

    memset(t->refused, 0, sizeof t->refused);
    if (str_eq(ev->peer, t->cfg.name)) {
        return;
    }
    if (ev->member == TABLE_MEMBER_UP) {
        (void)table_peer_up(t, ev->peer, ev->speaks);
    } else if (p != NULL && ev->member == TABLE_MEMBER_DOWN) {
        table_peer_down(t, p);
    } else if (p != NULL) {
        table_peer_reap(t, p);
    }
}

void table_step(struct table *t, const struct table_event *ev, struct table_effects *fx)
{
    table_begin(t, ev->now_ms, ev->wall_ms);
    table_check_clock(t);
    switch (ev->type) {
    case TABLE_EV_MEMBER:
        on_member(t, ev);
        break;
    case TABLE_EV_MESSAGE:
        on_message(t, ev->peer, ev->bytes);
        break;
    case TABLE_EV_PERSISTED:
        table_on_persisted(t, ev->persist_seq);
        break;
    case TABLE_EV_TICK:
    default:
        break;
    }
    table_staged_tick(t);
    table_push_tick(t);
    table_sync_tick(t);
    table_sweep(t);
    table_end(t, fx);
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t table_deadline_ms(const struct table *t)
{
    uint64_t at = t->next_sweep_ms;
    const struct heap_node *staged = heap_min(&t->staged_heap);

    if (staged != NULL) {
        at = sooner(at, staged->key);
    }
    if (t->up_len != 0) {
        at = sooner(at, t->next_sync_ms);
        if (!list_empty(&t->planes[0].hot) || !list_empty(&t->planes[1].hot)) {
            at = sooner(at, t->next_push_ms);
        }
    }
    return at;
}

/* --- looking in --- */

bool table_get(const struct table *t, unsigned type, struct str owner, struct str key,
               struct table_row_view *ret)
{
    const struct table_row *r = type < TABLE_TYPES ? table_row_find(t, type, owner, key) : NULL;

    if (r == NULL || (r->flags & TABLE_ROW_DELETED) != 0) {
        return false;
    }
    if (ret != NULL) {
        table_row_view(r, ret);
    }
    return true;
}

bool table_next(const struct table *t, struct table_walk *w, struct table_row_view *ret)
{
    if (w->type >= TABLE_TYPES) {
        return false;
    }
    const struct table_rows *a = &t->types[w->type];
    while (w->at < a->n) {
        const struct table_row *r = a->v[w->at++];
        if ((r->flags & TABLE_ROW_DELETED) == 0 &&
            (w->owner.p == NULL || str_eq(table_row_owner(r), w->owner))) {
            table_row_view(r, ret);
            return true;
        }
    }
    return false;
}

size_t table_count(const struct table *t, unsigned type)
{
    return type < TABLE_TYPES ? t->types[type].n - t->types[type].deleted : 0;
}

void table_counters(const struct table *t, struct table_counters *ret)
{
    *ret = t->counters;
}

void table_sizes(const struct table *t, struct table_sizes *ret)
{
    *ret = (struct table_sizes){ .streams = t->streams.len,
                                 .peers = t->up_len,
                                 .root = t->planes[0].root ^ t->planes[1].root,
                                 .settled = !t->stale,
                                 .in_step_ms = t->in_step_ms };
    for (size_t i = 0; i < TABLE_TYPES; i++) {
        ret->rows += t->types[i].n - t->types[i].deleted;
        ret->tombstones += t->types[i].deleted;
        ret->bytes += t->types[i].cap * sizeof(void *);
    }
    ret->bytes += t->bytes + t->index_cap * sizeof(void *) +
                  t->streams.len * (sizeof(struct table_stream) + 32) +
                  t->streams.cap * sizeof(struct map_entry);
}
