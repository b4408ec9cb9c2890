#include <errno.h>

#include "agent/table/table_internal.h"
#include "common/mem.h"

enum { CLOCK_COUNT_BITS = 16 };

/* --- the clock --- */

uint64_t table_clock_next(struct table *t)
{
    uint64_t wall = (uint64_t)t->wall_ms << CLOCK_COUNT_BITS;

    t->clock = wall > t->clock ? wall : t->clock + 1;
    return t->clock;
}

void table_clock_seen(struct table *t, uint64_t clock)
{
    if (clock > t->clock) {
        t->clock = clock;
    }
}

/* --- own streams --- */

int table_own_nodes(struct table *t)
{
    for (unsigned kind = 0; kind < TABLE_KIND_CLUSTER; kind++) {
        uint64_t id = table_stream_id(t->cfg.name, t->epoch, kind);
        t->own[kind] = table_stream_new(t, id, kind, t->cfg.name);
        if (t->own[kind] == NULL) {
            return -ENOMEM;
        }
        t->own[kind]->own = true;
        t->own[kind]->epoch = t->epoch;
    }
    return 0;
}

/* The stream that a write goes to. Those of cluster-owned rows begin with the first one. */
struct table_stream *table_own_stream(struct table *t, unsigned kind)
{
    if (t->own[kind] == NULL && table_fx_room(t, 4)) {
        uint64_t parts[3] = { t->cfg.epoch, ++t->streams_made, kind };
        uint64_t id = map_hash(t->cfg.entropy, t->cfg.node_id, parts, sizeof parts);
        t->own[kind] = table_stream_new(t, id, kind, t->cfg.name);
        if (t->own[kind] != NULL) {
            t->own[kind]->own = true;
            t->counters.streams_begun++;
            table_fx_stream(t, t->own[kind], false); /* on disk before its rows */
        }
    }
    return t->own[kind];
}

/* Without a disk, or in a stream that no disk holds, a write may be told at once. */
static bool waits_for_disk(const struct table *t, const struct table_stream *s)
{
    return t->cfg.persist && (s->kind & TABLE_KIND_CLUSTER) != 0;
}

bool table_durable_room(struct table *t)
{
    if (t->durable_len < t->durable_cap) {
        return true;
    }
    size_t cap = t->durable_cap != 0 ? t->durable_cap * 2 : 16;
    struct table_durable *v = mem_realloc(t->durable, cap * sizeof *v);
    if (v == NULL) {
        return false;
    }
    t->durable = v;
    t->durable_cap = cap;
    return true;
}

void table_tell_up_to(struct table *t, struct table_stream *s, uint64_t version)
{
    uint64_t known = s->tell;

    if (version > known) {
        s->tell = version;
        table_stream_changed(t, s);
        table_stream_rehash(t, s);
        table_differs(t);
        table_hot(t, s, known);
    }
}

void table_on_persisted(struct table *t, uint64_t seq)
{
    size_t done = 0;

    while (done < t->durable_len && t->durable[done].seq <= seq) {
        const struct table_durable *d = &t->durable[done++];
        struct table_stream *s = table_stream_find(t, d->stream);
        if (s != NULL && s->own) {
            table_tell_up_to(t, s, d->version);
        }
    }
    t->durable_len -= done;
    if (done == 0) {
        return;
    }
    memmove(t->durable, t->durable + done, t->durable_len * sizeof *t->durable);
}

void table_await_disk(struct table *t, struct table_stream *s)
{
    if (waits_for_disk(t, s)) {
        t->durable[t->durable_len++] =
            (struct table_durable){ .seq = t->persist_seq, .stream = s->id, .version = s->version };
        table_stream_rehash(t, s);
    } else {
        table_tell_up_to(t, s, s->version);
    }
}

/* Rooms were made: cannot fail. */
static void publish(struct table *t, struct table_stream *s, struct table_row *r,
                    struct table_row *old)
{
    struct table_stream *left = old != NULL ? old->stream : NULL;

    r->version = ++s->version;
    r->clock = table_clock_next(t);
    if (old != NULL && r->clock <= old->clock) {
        t->clock = r->clock = old->clock + 1;
    }
    table_row_place(t, s, r, old);
    table_stream_changed(t, s);
    table_fx_row(t, r, false);
    table_fx_stream(t, s, false);
    table_fx_changed(t, r, old);
    table_await_disk(t, s);
    if (left != NULL && left != s) {
        table_stream_rehash(t, left);
    }
}

/* --- writes --- */

static struct table_row *own_row(const struct table *t, const struct table_type_info *i,
                                 unsigned type, struct str key)
{
    struct str owner = i->ownership != TABLE_OF_CLUSTER ? t->cfg.name : (struct str){ "", 0 };

    return table_row_find(t, type, owner, key);
}

static int check_budget(const struct table *t, const struct table_type_info *i, unsigned type,
                        struct str key, struct str value, const struct table_row *old,
                        struct err *e)
{
    const struct table_rows *a = &t->types[type];
    uint64_t had = old != NULL ? old->key_len + old->value_len : 0U;
    uint64_t used = i->ownership == TABLE_OF_CLUSTER ? a->bytes : a->own_bytes;
    uint64_t would = used - (used < had ? used : had) + key.n + value.n;

    if (key.n > TABLE_KEY_MAX) {
        return err_say(e, -EINVAL, "a key of type '%s' has at most %d bytes, this one %zu", i->name,
                       TABLE_KEY_MAX, key.n);
    }
    if (value.n > i->value_max) {
        return err_say(e, -E2BIG, "%s '%.*s': %zu bytes, at most %u are allowed", i->name,
                       STR_ARG(key), value.n, i->value_max);
    }
    if (would > i->rows_bytes && key.n + value.n > had) {
        return err_say(e, -EDQUOT,
                       "%s '%.*s': all of this type would take %llu bytes, its budget is %u",
                       i->name, STR_ARG(key), (unsigned long long)would, i->rows_bytes);
    }
    if (t->bytes + key.n + value.n + sizeof(struct table_row) > t->cfg.memory_max) {
        return err_say(e, -ENOMEM, "%s '%.*s': the shared table has reached its %llu bytes",
                       i->name, STR_ARG(key), (unsigned long long)t->cfg.memory_max);
    }
    return 0;
}

static int write_row(struct table *t, const struct table_type_info *i, unsigned type,
                     struct str key, struct str value, unsigned flags, struct err *e)
{
    struct table_row *old = own_row(t, i, type, key);
    struct table_stream *s = table_own_stream(t, table_kind_of(i));

    flags |= i->ownership != TABLE_OF_CLUSTER ? TABLE_ROW_OWNED : 0U;
    if (old != NULL && old->flags == flags && !old->stream->doubtful &&
        str_eq(table_row_value(old), value)) {
        return 0;
    }
    int rc = check_budget(t, i, type, key, value, old, e);
    if (rc != 0 && (flags & TABLE_ROW_DELETED) == 0) {
        return rc;
    }
    struct table_row *r = s != NULL ? table_row_new(t, type, flags, key, value) : NULL;
    if (r == NULL || table_row_reserve(t, type) != 0 || !table_fx_room(t, 8) ||
        !table_durable_room(t)) {
        mem_free(r);
        return err_set(e, -ENOMEM, "write %s '%.*s'", i->name, STR_ARG(key));
    }
    publish(t, s, r, old);
    return 0;
}

/* --- values that wait for their interval --- */

static struct str staged_name(const struct table_staged *g)
{
    return (struct str){ g->name, 1 + (size_t)g->key_len };
}

static struct table_staged *staged_find(const struct table *t, unsigned type, struct str key)
{
    char name[1 + TABLE_KEY_MAX];

    if (key.n > TABLE_KEY_MAX) {
        return NULL;
    }
    name[0] = (char)type;
    memcpy(name + 1, key.n != 0 ? key.p : "", key.n);
    return map_get(&t->staged, (struct str){ name, 1 + key.n });
}

static void staged_remove(struct table *t, struct table_staged *g)
{
    heap_remove(&t->staged_heap, &g->node);
    (void)map_remove(&t->staged, staged_name(g));
    mem_free(g->value);
    mem_free(g);
}

/* From now on the row waits for its interval. Without memory it just does not wait. */
static void staged_begin(struct table *t, const struct table_type_info *i, unsigned type,
                         struct str key)
{
    struct table_staged *g = mem_zalloc(sizeof *g + 1 + key.n);

    if (g == NULL) {
        return;
    }
    heap_node_init(&g->node);
    g->type = (uint8_t)type;
    g->key_len = (uint8_t)key.n;
    g->name[0] = (char)type;
    memcpy(g->name + 1, key.n != 0 ? key.p : "", key.n);
    if (map_add(&t->staged, staged_name(g), g) != 0) {
        mem_free(g);
        return;
    }
    /* Spread: nodes that were started together do not go on speaking together. */
    uint64_t wait = table_interval_ms(t, i);
    wait += rng_below(&t->rng, wait / 8 + 1);
    if (heap_push(&t->staged_heap, &g->node, t->now_ms + wait) != 0) {
        staged_remove(t, g);
    }
}

static int staged_set(struct table_staged *g, struct str value)
{
    char *copy = mem_dup(value.n != 0 ? value.p : "", value.n != 0 ? value.n : 1);

    if (copy == NULL) {
        return -ENOMEM;
    }
    mem_free(g->value);
    g->value = copy;
    g->value_len = value.n;
    g->waits = true;
    return 0;
}

/* Publishes what waits; a row that nothing was written to meanwhile waits no more. */
static void staged_due(struct table *t, struct table_staged *g)
{
    const struct table_type_info *i = table_type_info(g->type);
    struct str key = { g->name + 1, g->key_len };

    if (g->waits) {
        g->waits = false;
        (void)write_row(t, i, g->type, key, (struct str){ g->value, g->value_len }, 0, NULL);
        uint64_t wait = table_interval_ms(t, i);
        wait += rng_below(&t->rng, wait / 8 + 1);
        heap_update(&t->staged_heap, &g->node, t->now_ms + wait);
        return;
    }
    staged_remove(t, g);
}

void table_staged_tick(struct table *t)
{
    struct heap_node *n;

    while ((n = heap_min(&t->staged_heap)) != NULL && n->key <= t->now_ms) {
        staged_due(t, CONTAINER_OF(n, struct table_staged, node));
    }
}

void table_staged_free(struct table *t)
{
    struct table_staged *g;

    heap_release(&t->staged_heap); /* looks at its nodes */
    for (size_t i = 0; (g = map_next(&t->staged, &i)) != NULL;) {
        mem_free(g->value);
        mem_free(g);
    }
    map_release(&t->staged);
}

int table_flush(struct table *t, uint64_t now_ms, int64_t wall_ms, struct table_effects *fx)
{
    struct table_staged *g;

    table_begin(t, now_ms, wall_ms);
    for (size_t i = 0; (g = map_next(&t->staged, &i)) != NULL;) {
        if (g->waits) {
            g->waits = false;
            (void)write_row(t, table_type_info(g->type), g->type,
                            (struct str){ g->name + 1, g->key_len },
                            (struct str){ g->value, g->value_len }, 0, NULL);
        }
    }
    table_end(t, fx);
    return 0;
}

/* --- the calls --- */

static int put_owned(struct table *t, unsigned type, struct str key, struct str value,
                     struct err *e)
{
    const struct table_type_info *i = table_type_info(type);

    if (i == NULL || i->ownership == TABLE_OF_CLUSTER) {
        return err_say(e, -EINVAL, "type %u holds no rows of single nodes", type);
    }
    struct table_staged *g = i->interval_ms != 0 ? staged_find(t, type, key) : NULL;
    if (g != NULL) {
        int rc = check_budget(t, i, type, key, value, own_row(t, i, type, key), e);
        rc = rc != 0 ? rc : staged_set(g, value);
        return rc == -ENOMEM ? err_set(e, rc, "write %s '%.*s'", i->name, STR_ARG(key)) : rc;
    }
    uint64_t before = t->own[table_kind_of(i)] != NULL ? t->own[table_kind_of(i)]->version : 0;
    int rc = write_row(t, i, type, key, value, 0, e);
    if (rc == 0 && i->interval_ms != 0 && t->own[table_kind_of(i)]->version != before) {
        staged_begin(t, i, type, key);
    }
    return rc;
}

int table_put_node(struct table *t, uint64_t now_ms, int64_t wall_ms, unsigned type, struct str key,
                   struct str value, struct table_effects *fx, struct err *e)
{
    table_begin(t, now_ms, wall_ms);
    table_check_clock(t);
    int rc = put_owned(t, type, key, value, e);
    table_end(t, fx);
    return rc;
}

int table_put(struct table *t, uint64_t now_ms, int64_t wall_ms, unsigned type, struct str key,
              struct str value, struct table_effects *fx, struct err *e)
{
    const struct table_type_info *i = table_type_info(type);
    int rc;

    table_begin(t, now_ms, wall_ms);
    table_check_clock(t);
    if (i == NULL || i->ownership != TABLE_OF_CLUSTER) {
        rc = err_say(e, -EINVAL, "type %u holds no rows of the cluster", type);
    } else {
        rc = write_row(t, i, type, key, value, 0, e);
    }
    table_end(t, fx);
    return rc;
}

int table_delete(struct table *t, uint64_t now_ms, int64_t wall_ms, unsigned type, struct str key,
                 struct table_effects *fx, struct err *e)
{
    const struct table_type_info *i = table_type_info(type);
    int rc = 0;

    table_begin(t, now_ms, wall_ms);
    table_check_clock(t);
    const struct table_row *old = i != NULL ? own_row(t, i, type, key) : NULL;
    struct table_staged *g = i != NULL ? staged_find(t, type, key) : NULL;
    if (g != NULL) {
        g->waits = false;
    }
    if (old == NULL || (old->flags & TABLE_ROW_DELETED) != 0) {
        rc = err_say(e, -ENOENT, "there is no such row");
    } else {
        rc = write_row(t, i, type, key, (struct str){ "", 0 }, TABLE_ROW_DELETED, e);
    }
    table_end(t, fx);
    return rc;
}
