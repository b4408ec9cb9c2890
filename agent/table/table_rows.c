#include <errno.h>

#include "agent/table/table_internal.h"
#include "common/mem.h"

/*
 * The index is open addressing over pointers: a slot costs eight bytes, so that 200,000 rows with
 * their index stay far below 64 MiB. Keys live in the rows.
 */

enum { INDEX_FIRST = 64, ARRAY_FIRST = 16 };

static uint32_t key_hash(const struct table *t, unsigned type, struct str owner, struct str key)
{
    char text[TABLE_NAME_MAX + 1 + TABLE_KEY_MAX + 1];
    size_t n = 0;

    memcpy(text, owner.n != 0 ? owner.p : "", owner.n);
    n += owner.n;
    text[n++] = '\0';
    memcpy(text + n, key.n != 0 ? key.p : "", key.n);
    n += key.n;
    return (uint32_t)map_hash(t->cfg.hash_k0 ^ type, t->cfg.hash_k1, text, n);
}

/* The slot of the row, or the free one where it would go. */
static size_t index_slot(const struct table *t, uint32_t hash, unsigned type, struct str owner,
                         struct str key)
{
    size_t mask = t->index_cap - 1;
    size_t i = hash & mask;

    for (; t->index[i] != NULL; i = (i + 1) & mask) {
        const struct table_row *r = t->index[i];
        if (r->hash == hash && r->type == type && str_eq(table_row_key(r), key) &&
            str_eq(table_row_owner(r), owner)) {
            break;
        }
    }
    return i;
}

struct table_row *table_row_find(const struct table *t, unsigned type, struct str owner,
                                 struct str key)
{
    if (t->index_len == 0 || owner.n > TABLE_NAME_MAX || key.n > TABLE_KEY_MAX) {
        return NULL;
    }
    return t->index[index_slot(t, key_hash(t, type, owner, key), type, owner, key)];
}

struct table_row *table_row_new(struct table *t, unsigned type, unsigned flags, struct str key,
                                struct str value)
{
    (void)t;
    struct table_row *r = mem_alloc(sizeof *r + key.n + value.n);

    if (r == NULL) {
        return NULL;
    }
    *r = (struct table_row){ .value_len = (uint32_t)value.n,
                             .key_len = (uint8_t)key.n,
                             .type = (uint8_t)type,
                             .flags = (uint8_t)flags };
    list_init(&r->link);
    memcpy(r->bytes, key.n != 0 ? key.p : "", key.n);
    memcpy(r->bytes + key.n, value.n != 0 ? value.p : "", value.n);
    return r;
}

static int index_grow(struct table *t)
{
    size_t cap = t->index_cap != 0 ? t->index_cap * 2 : INDEX_FIRST;
    struct table_row **slots = mem_calloc(cap, sizeof *slots);

    if (slots == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < t->index_cap; i++) {
        struct table_row *r = t->index[i];
        if (r != NULL) {
            size_t at = r->hash & (cap - 1);
            while (slots[at] != NULL) {
                at = (at + 1) & (cap - 1);
            }
            slots[at] = r;
        }
    }
    mem_free(t->index);
    t->index = slots;
    t->index_cap = cap;
    return 0;
}

int table_row_reserve(struct table *t, unsigned type)
{
    struct table_rows *a = &t->types[type];

    if (t->index_len >= t->index_cap / 4 * 3) {
        int rc = index_grow(t);
        if (rc != 0) {
            return rc;
        }
    }
    if (a->n == a->cap) {
        size_t cap = a->cap != 0 ? a->cap * 2 : ARRAY_FIRST;
        struct table_row **v = mem_realloc(a->v, cap * sizeof *v);
        if (v == NULL) {
            return -ENOMEM;
        }
        a->v = v;
        a->cap = cap;
    }
    return 0;
}

void table_row_index(struct table *t, struct table_row *r)
{
    struct table_rows *a = &t->types[r->type];

    INSIST(a->n < a->cap && t->index_len < t->index_cap);
    r->hash = key_hash(t, r->type, table_row_owner(r), table_row_key(r));
    size_t at = index_slot(t, r->hash, r->type, table_row_owner(r), table_row_key(r));
    INSIST(t->index[at] == NULL);
    t->index[at] = r;
    t->index_len++;
    r->at = (uint32_t)a->n;
    a->v[a->n++] = r;
    a->deleted += (r->flags & TABLE_ROW_DELETED) != 0;
    a->bytes += r->key_len + r->value_len;
    a->own_bytes += r->stream->own ? r->key_len + r->value_len : 0U;
    t->bytes += table_row_cost(r);
}

void table_row_unindex(struct table *t, struct table_row *r)
{
    struct table_rows *a = &t->types[r->type];
    size_t mask = t->index_cap - 1;
    size_t gap = r->hash & mask;

    while (t->index[gap] != r) {
        INSIST(t->index[gap] != NULL);
        gap = (gap + 1) & mask;
    }
    /* Every later row of the cluster that may live at the gap moves there. */
    for (size_t i = (gap + 1) & mask; t->index[i] != NULL; i = (i + 1) & mask) {
        size_t home = t->index[i]->hash & mask;
        if (((i - home) & mask) >= ((i - gap) & mask)) {
            t->index[gap] = t->index[i];
            gap = i;
        }
    }
    t->index[gap] = NULL;
    t->index_len--;
    struct table_row *last = a->v[--a->n];
    a->v[r->at] = last;
    last->at = r->at;
    a->deleted -= (r->flags & TABLE_ROW_DELETED) != 0;
    a->bytes -= r->key_len + r->value_len;
    a->own_bytes -= r->stream->own ? r->key_len + r->value_len : 0U;
    t->bytes -= table_row_cost(r);
}

uint64_t table_row_hash(const struct table_row *r)
{
    return map_hash(r->type | (uint64_t)r->key_len << 8 | (uint64_t)r->flags << 16, r->clock,
                    r->bytes, (size_t)r->key_len + r->value_len);
}

uint64_t table_row_cost(const struct table_row *r)
{
    return sizeof *r + r->key_len + r->value_len + TABLE_ROW_OVERHEAD;
}

void table_row_view(const struct table_row *r, struct table_row_view *ret)
{
    *ret = (struct table_row_view){ .type = r->type,
                                    .owner = table_row_owner(r),
                                    .key = table_row_key(r),
                                    .value = table_row_value(r),
                                    .writer = table_stream_name(r->stream),
                                    .written_ms = (int64_t)table_clock_ms(r->clock),
                                    .clock = r->clock,
                                    .version = r->version };
}
