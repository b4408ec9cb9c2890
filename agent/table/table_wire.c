#include "agent/table/table_internal.h"

/*
 * A message: version u8, then parts: part u8, length varint, body. Little endian; varints are
 * LEB128.
 *
 *   sync     flags u8, Unix time in milliseconds u64, root u64 of each plane
 *   buckets  plane u8, 64 hashes u32 (the low halves)
 *   digest   plane u8, flags u8, covered buckets u64 (a bit each), count, entries: id u64, version,
 *            content u32. A stream of a covered bucket that is not there is not known at all;
 *            one with version 0 is not wanted.
 *   want     flags u8, count, entries: id u64, version
 *   delta    flags u8, count, sections:
 *            head u8 (kind, 4: named), id u64, [name length u8, name, (node-owned:) epoch u64],
 *            base, to, count, rows ascending: type u8, flags u8, version above the one before,
 *            clock u64, key length u8, key, value length, value
 *            All rows of the stream that stand between base (exclusive) and to are there.
 */

enum { SECTION_NAMED = 4, ROW_FLAGS = TABLE_ROW_DELETED | TABLE_ROW_OWNED };
static const uint64_t VERSION_MAX = (uint64_t)1 << 56;

_Static_assert(TABLE_PART_DELTA == 5 && TABLE_WIRE_VERSION == 1, "wire");
_Static_assert(TABLE_ROW_DELETED == 1 && TABLE_ROW_OWNED == 2, "wire");
_Static_assert(TABLE_KIND_VOLATILE == 1 && TABLE_KIND_CLUSTER == 2, "wire");
_Static_assert(TABLE_CAPABILITY == 1 && TABLE_JOB == 8 && TABLE_PROFILE == 12, "wire");

void table_put_varint(struct buf *b, uint64_t v)
{
    while (v >= 0x80) {
        (void)buf_add_u8(b, (uint8_t)(v | 0x80));
        v >>= 7;
    }
    (void)buf_add_u8(b, (uint8_t)v);
}

uint64_t table_cur_varint(struct cur *c)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 63; shift += 7) {
        uint8_t byte = cur_u8(c);
        v |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            return v;
        }
    }
    c->failed = true;
    return 0;
}

void table_message_begin(struct buf *b)
{
    buf_init(b, TABLE_MESSAGE_MAX);
    (void)buf_add_u8(b, TABLE_WIRE_VERSION);
}

void table_part_add(struct buf *b, enum table_part part, const struct buf *body)
{
    (void)buf_add_u8(b, (uint8_t)part);
    table_put_varint(b, body->len);
    (void)buf_add(b, body->data, body->len);
}

void table_put_row(struct buf *b, const struct table_row *r, uint64_t before)
{
    (void)buf_add_u8(b, r->type);
    (void)buf_add_u8(b, r->flags);
    table_put_varint(b, r->version - before);
    (void)buf_add_le64(b, r->clock);
    (void)buf_add_u8(b, r->key_len);
    (void)buf_add(b, r->bytes, r->key_len);
    table_put_varint(b, r->value_len);
    (void)buf_add(b, r->bytes + r->key_len, r->value_len);
}

size_t table_row_wire_max(const struct table_row *r)
{
    return 2 + 9 + 8 + 1 + (size_t)r->key_len + 5 + r->value_len;
}

void table_put_section(struct buf *b, const struct table_stream *s, bool named, uint64_t base,
                       uint64_t to, size_t rows)
{
    (void)buf_add_u8(b, (uint8_t)(s->kind | (named ? SECTION_NAMED : 0)));
    (void)buf_add_le64(b, s->id);
    if (named) {
        (void)buf_add_u8(b, s->name_len);
        (void)buf_add(b, s->name, s->name_len);
        if ((s->kind & TABLE_KIND_CLUSTER) == 0) {
            (void)buf_add_le64(b, s->epoch);
        }
    }
    table_put_varint(b, base);
    table_put_varint(b, to);
    table_put_varint(b, rows);
}

size_t table_section_wire_max(const struct table_stream *s)
{
    return 9 + 1 + (size_t)s->name_len + 8 + 9 + 9 + 4;
}

/* A name as the members' are: printable, no blank. */
static bool name_is_fine(struct str name)
{
    bool fine = name.n >= 1 && name.n <= TABLE_NAME_MAX;

    for (size_t i = 0; fine && i < name.n; i++) {
        fine = name.p[i] > ' ' && name.p[i] < 0x7f;
    }
    return fine;
}

void table_read_section(struct cur *c, struct table_section *ret)
{
    uint8_t head = cur_u8(c);

    *ret = (struct table_section){ .kind = head & (TABLE_KINDS - 1U),
                                   .named = (head & SECTION_NAMED) != 0,
                                   .id = cur_le64(c) };
    c->failed = c->failed || head > (SECTION_NAMED | (TABLE_KINDS - 1));
    if (ret->named) {
        ret->name = cur_bytes(c, cur_u8(c));
        c->failed = c->failed || !name_is_fine(ret->name);
        if ((ret->kind & TABLE_KIND_CLUSTER) == 0 && !c->failed) {
            ret->epoch = cur_le64(c);
            c->failed = c->failed || table_stream_id(ret->name, ret->epoch, ret->kind) != ret->id;
        }
    }
    ret->base = table_cur_varint(c);
    ret->to = table_cur_varint(c);
    ret->rows = table_cur_varint(c);
    c->failed = c->failed || ret->base > ret->to || ret->to > VERSION_MAX;
}

/* Does the type belong into a stream of this kind? */
static bool type_fits(unsigned type, unsigned flags, unsigned kind)
{
    const struct table_type_info *i = table_type_info(type);
    bool of_cluster = (kind & TABLE_KIND_CLUSTER) != 0;

    if (type == 0 || type >= TABLE_TYPES || (flags & ~(unsigned)ROW_FLAGS) != 0) {
        return false;
    }
    if (i == NULL) {
        return of_cluster || (flags & TABLE_ROW_OWNED) != 0;
    }
    return table_kind_of(i) == kind &&
           ((flags & TABLE_ROW_OWNED) != 0) == (i->ownership != TABLE_OF_CLUSTER);
}

void table_read_row(struct cur *c, const struct table_section *s, uint64_t before,
                    struct table_wire_row *ret)
{
    *ret = (struct table_wire_row){ .type = cur_u8(c) };
    ret->flags = cur_u8(c);
    uint64_t step = table_cur_varint(c);
    ret->version = before + step;
    ret->clock = cur_le64(c);
    ret->key = cur_bytes(c, cur_u8(c));
    uint64_t n = table_cur_varint(c);
    if (c->failed || n > cur_left(c)) {
        c->failed = true;
        return;
    }
    ret->value = cur_bytes(c, (size_t)n);
    c->failed = step == 0 || step > VERSION_MAX || ret->version > s->to ||
                !type_fits(ret->type, ret->flags, s->kind) ||
                n > table_limits(ret->type)->value_max ||
                ((ret->flags & TABLE_ROW_DELETED) != 0 && n != 0);
}

void table_read_entry(struct cur *c, enum table_part part, struct table_entry *ret)
{
    *ret = (struct table_entry){ .id = cur_le64(c) };
    ret->version = table_cur_varint(c);
    if (part == TABLE_PART_DIGEST) {
        ret->content = cur_le32(c);
    }
    c->failed = c->failed || ret->version > VERSION_MAX;
}

static void check_entries(struct cur *c, enum table_part part)
{
    struct table_entry entry;
    uint64_t n = table_cur_varint(c);

    for (uint64_t i = 0; i < n && !c->failed; i++) {
        table_read_entry(c, part, &entry);
    }
}

static void check_delta(struct cur *c)
{
    struct table_section s;
    struct table_wire_row r;

    (void)cur_u8(c);
    uint64_t n = table_cur_varint(c);
    for (uint64_t i = 0; i < n && !c->failed; i++) {
        table_read_section(c, &s);
        uint64_t before = s.base;
        for (uint64_t k = 0; k < s.rows && !c->failed; k++) {
            table_read_row(c, &s, before, &r);
            before = r.version;
        }
    }
}

static bool part_check(enum table_part part, struct cur *c)
{
    switch (part) {
    case TABLE_PART_SYNC:
        cur_skip(c, 1 + 8 + TABLE_PLANES * 8);
        break;
    case TABLE_PART_BUCKETS:
        c->failed = cur_u8(c) >= TABLE_PLANES;
        cur_skip(c, TABLE_BUCKETS * 4);
        break;
    case TABLE_PART_DIGEST:
        c->failed = cur_u8(c) >= TABLE_PLANES;
        cur_skip(c, 1 + 8);
        check_entries(c, part);
        break;
    case TABLE_PART_WANT:
        cur_skip(c, 1);
        check_entries(c, part);
        break;
    case TABLE_PART_DELTA:
        check_delta(c);
        break;
    default:
        return true; /* a newer version's: passed over */
    }
    return cur_done(c);
}

bool table_next_part(struct cur *c, enum table_part *ret_part, struct cur *ret_body)
{
    if (c->failed || cur_left(c) == 0) {
        return false;
    }
    *ret_part = (enum table_part)cur_u8(c);
    uint64_t n = table_cur_varint(c);
    if (c->failed || n > cur_left(c)) {
        c->failed = true;
        return false;
    }
    struct str body = cur_bytes(c, (size_t)n);
    cur_init(ret_body, body.p, body.n);
    return true;
}

bool table_message_check(struct str bytes)
{
    struct cur c;
    struct cur body;
    enum table_part part;

    if (bytes.n > TABLE_MESSAGE_MAX) {
        return false;
    }
    cur_init(&c, bytes.p, bytes.n);
    if (cur_u8(&c) != TABLE_WIRE_VERSION) {
        return false;
    }
    while (table_next_part(&c, &part, &body)) {
        if (!part_check(part, &body)) {
            return false;
        }
    }
    return !c.failed;
}
