#include <errno.h>

#include "agent/table/table_internal.h"
#include "common/mem.h"

/* Keys of the hashes that nodes compare: the same everywhere. They tell differences apart; they do
 * not keep anybody out (the gossip's key does). */
static const uint64_t WIRE_K0 = 0x7461626c65207631U;
static const uint64_t WIRE_K1 = 0x73637574746c6562U;

uint64_t table_stream_id(struct str name, uint64_t epoch, unsigned kind)
{
    return map_hash(WIRE_K0 ^ epoch, WIRE_K1 ^ kind, name.p, name.n);
}

static struct str id_key(const uint64_t *id)
{
    return (struct str){ (const char *)id, sizeof *id };
}

struct table_stream *table_stream_find(const struct table *t, uint64_t id)
{
    return map_get(&t->streams, id_key(&id));
}

struct table_stream *table_stream_new(struct table *t, uint64_t id, unsigned kind, struct str name)
{
    struct table_stream *s = mem_zalloc(sizeof *s + name.n);

    if (s == NULL) {
        return NULL;
    }
    s->id = id;
    s->kind = (uint8_t)kind;
    s->name_len = (uint8_t)name.n;
    s->changed_ms = t->now_ms;
    memcpy(s->name, name.p, name.n);
    list_init(&s->rows);
    list_init(&s->hot);
    list_init(&s->bucket);
    list_init(&s->recent);
    if (map_add(&t->streams, id_key(&s->id), s) != 0) {
        return mem_free(s);
    }
    list_push_back(&t->planes[kind & TABLE_KIND_VOLATILE].buckets[id >> 58], &s->bucket);
    return s;
}

void table_stream_changed(struct table *t, struct table_stream *s)
{
    s->changed_ms = t->now_ms;
    list_remove(&s->recent);
    list_push_front(&t->planes[s->kind & TABLE_KIND_VOLATILE].recent, &s->recent);
}

void table_stream_rehash(struct table *t, struct table_stream *s)
{
    struct table_plane *p = &t->planes[s->kind & TABLE_KIND_VOLATILE];
    uint64_t all[3] = { s->id, s->tell, s->content };
    uint64_t now = 0;

    /* Without rows there is nothing that anybody could lack. */
    if (!list_empty(&s->rows) && s->tell != 0 && !s->doubtful) {
        now = map_hash(WIRE_K0, WIRE_K1, all, sizeof all) | 1;
    }
    if (now != s->hashed) {
        p->root ^= s->hashed ^ now;
        p->hashes[s->id >> 58] ^= s->hashed ^ now;
        s->hashed = now;
    }
}

void table_stream_drop(struct table *t, struct table_stream *s)
{
    while (!list_empty(&s->rows)) {
        struct table_row *r = LIST_ITEM(s->rows.next, struct table_row, link);
        if (table_fx_room(t, 2)) {
            table_fx_changed(t, NULL, r);
        }
        table_row_remove(t, r);
    }
    table_stream_rehash(t, s);
    table_cold(s);
    list_remove(&s->bucket);
    list_remove(&s->recent);
    if (!s->doubtful) {
        (void)map_remove(&t->streams, id_key(&s->id));
    }
    for (unsigned kind = 0; kind < TABLE_KINDS; kind++) {
        if (t->own[kind] == s) {
            t->own[kind] = NULL;
        }
    }
    table_garbage(t, s); /* rows in effects still name it */
}

struct table_row *table_stream_after(const struct table_stream *s, uint64_t version)
{
    struct list *at = s->rows.prev;

    while (at != &s->rows && LIST_ITEM(at, struct table_row, link)->version > version) {
        at = at->prev;
    }
    return at->next != &s->rows ? LIST_ITEM(at->next, struct table_row, link) : NULL;
}

static void unlink_row(struct table *t, struct table_row *r)
{
    struct table_stream *s = r->stream;

    table_row_unindex(t, r);
    list_remove(&r->link);
    s->rows_len--;
    s->bytes -= r->key_len + r->value_len;
    s->content -= table_row_hash(r);
}

void table_row_remove(struct table *t, struct table_row *r)
{
    unlink_row(t, r);
    table_garbage(t, r);
}

void table_row_place(struct table *t, struct table_stream *s, struct table_row *r,
                     struct table_row *old)
{
    struct table_stream *left = old != NULL && old->stream != s ? old->stream : NULL;

    if (old != NULL) {
        table_row_remove(t, old);
    }
    r->stream = s;
    struct list *at = &s->rows;
    while (at->prev != &s->rows &&
           LIST_ITEM(at->prev, struct table_row, link)->version > r->version) {
        at = at->prev;
    }
    list_insert_before(at, &r->link);
    s->rows_len++;
    s->bytes += r->key_len + r->value_len;
    s->content += table_row_hash(r);
    table_row_index(t, r);
    if (left != NULL) {
        table_stream_rehash(t, left);
    }
}
