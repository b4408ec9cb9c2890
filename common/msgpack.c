#include "common/msgpack.h"

#include "common/insist.h"

enum {
    NIL = 0xC0,
    FALSE_ = 0xC2,
    TRUE_ = 0xC3,
    BIN8 = 0xC4,
    BIN16 = 0xC5,
    BIN32 = 0xC6,
    EXT8 = 0xC7,
    EXT16 = 0xC8,
    EXT32 = 0xC9,
    FLOAT32 = 0xCA,
    FLOAT64 = 0xCB,
    UINT8 = 0xCC,
    UINT16 = 0xCD,
    UINT32 = 0xCE,
    UINT64 = 0xCF,
    INT8 = 0xD0,
    INT16 = 0xD1,
    INT32 = 0xD2,
    INT64 = 0xD3,
    FIXEXT1 = 0xD4,
    FIXEXT16 = 0xD8,
    STR8 = 0xD9,
    RAW16 = 0xDA,
    RAW32 = 0xDB,
    ARRAY16 = 0xDC,
    ARRAY32 = 0xDD,
    MAP16 = 0xDE,
    MAP32 = 0xDF,
};

static uint64_t fail(struct cur *c)
{
    c->failed = true;
    c->p = c->end;
    return 0;
}

/* A count of things that take at least `each` bytes. */
static uint32_t counted(struct cur *c, uint32_t n, size_t each)
{
    return !cur_ok(c) || n > cur_left(c) / each ? (uint32_t)fail(c) : n;
}

uint32_t msgpack_map(struct cur *c)
{
    uint8_t t = cur_u8(c);
    if ((t & 0xF0) == 0x80) {
        return counted(c, t & 0x0F, 2);
    }
    if (t == MAP16) {
        return counted(c, cur_be16(c), 2);
    }
    return t == MAP32 ? counted(c, cur_be32(c), 2) : (uint32_t)fail(c);
}

uint32_t msgpack_array(struct cur *c)
{
    uint8_t t = cur_u8(c);
    if ((t & 0xF0) == 0x90) {
        return counted(c, t & 0x0F, 1);
    }
    if (t == ARRAY16) {
        return counted(c, cur_be16(c), 1);
    }
    return t == ARRAY32 ? counted(c, cur_be32(c), 1) : (uint32_t)fail(c);
}

/* The value, or UINT64_MAX for what is not an integer that is not negative. */
static uint64_t uint_of(struct cur *c)
{
    uint8_t t = cur_u8(c);
    uint64_t v;

    if (t < 0x80) {
        return t;
    }
    switch (t) {
    case NIL:
        return 0;
    case UINT8:
        return cur_u8(c);
    case UINT16:
        return cur_be16(c);
    case UINT32:
        return cur_be32(c);
    case UINT64:
        return cur_be64(c);
    case INT8:
        v = cur_u8(c);
        return v <= INT8_MAX ? v : UINT64_MAX;
    case INT16:
        v = cur_be16(c);
        return v <= INT16_MAX ? v : UINT64_MAX;
    case INT32:
        v = cur_be32(c);
        return v <= INT32_MAX ? v : UINT64_MAX;
    case INT64:
        v = cur_be64(c);
        return v <= INT64_MAX ? v : UINT64_MAX;
    default:
        return UINT64_MAX;
    }
}

uint64_t msgpack_uint(struct cur *c, uint64_t max)
{
    REQUIRE(max < UINT64_MAX);
    uint64_t v = uint_of(c);
    return v <= max ? v : fail(c);
}

bool msgpack_bool(struct cur *c)
{
    uint8_t t = cur_u8(c);
    if (t != TRUE_ && t != FALSE_ && t != NIL) {
        (void)fail(c);
    }
    return t == TRUE_ && cur_ok(c);
}

/* Length of text or bytes whose first byte is t. False: it is something else. */
static bool bytes_len(struct cur *c, uint8_t t, uint32_t *ret)
{
    if ((t & 0xE0) == 0xA0) {
        *ret = t & 0x1F;
        return true;
    }
    switch (t) {
    case NIL:
        *ret = 0;
        return true;
    case STR8:
    case BIN8:
        *ret = cur_u8(c);
        return true;
    case RAW16:
    case BIN16:
        *ret = cur_be16(c);
        return true;
    case RAW32:
    case BIN32:
        *ret = cur_be32(c);
        return true;
    default:
        return false;
    }
}

struct str msgpack_bytes(struct cur *c)
{
    uint32_t n;
    if (!bytes_len(c, cur_u8(c), &n)) {
        (void)fail(c);
        return (struct str){ NULL, 0 };
    }
    return cur_bytes(c, n);
}

struct str msgpack_bytes_or_array(struct cur *c, uint8_t *scratch, size_t cap)
{
    uint8_t t = cur_left(c) > 0 ? *c->p : 0;
    if ((t & 0xF0) != 0x90 && t != ARRAY16 && t != ARRAY32) {
        return msgpack_bytes(c);
    }
    uint32_t n = msgpack_array(c);
    if (n > cap) {
        (void)fail(c);
        n = 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        scratch[i] = (uint8_t)msgpack_uint(c, UINT8_MAX);
    }
    return (struct str){ (const char *)scratch, cur_ok(c) ? n : 0 };
}

/* Bytes of a value that has no parts, without its first one; or -1. */
static int plain_len(uint8_t t)
{
    if (t < 0x80 || t >= 0xE0) {
        return 0;
    }
    switch (t) {
    case NIL:
    case FALSE_:
    case TRUE_:
        return 0;
    case UINT8:
    case INT8:
        return 1;
    case UINT16:
    case INT16:
        return 2;
    case UINT32:
    case INT32:
    case FLOAT32:
        return 4;
    case UINT64:
    case INT64:
    case FLOAT64:
        return 8;
    default:
        /* one byte of type, then 1, 2, 4, 8 or 16 */
        return t >= FIXEXT1 && t <= FIXEXT16 ? 1 + (1 << (t - FIXEXT1)) : -1;
    }
}

/* Values in what begins with t (its first byte is still to be read); 0 when it is none. */
static uint64_t parts(struct cur *c, uint8_t t)
{
    if ((t & 0xF0) == 0x80 || t == MAP16 || t == MAP32) {
        return 2ULL * msgpack_map(c);
    }
    return msgpack_array(c);
}

static bool has_parts(uint8_t t)
{
    return (t & 0xE0) == 0x80 || (t >= ARRAY16 && t <= MAP32);
}

static void skip_leaf(struct cur *c)
{
    uint8_t t = cur_u8(c);
    uint32_t n = 0;
    int plain = plain_len(t);

    if (plain >= 0) {
        cur_skip(c, (size_t)plain);
    } else if (bytes_len(c, t, &n)) {
        cur_skip(c, n);
    } else if (t == EXT8) {
        cur_skip(c, 1U + cur_u8(c));
    } else if (t == EXT16) {
        cur_skip(c, 1U + cur_be16(c));
    } else if (t == EXT32) {
        cur_skip(c, (size_t)1 + cur_be32(c));
    } else {
        (void)fail(c);
    }
}

void msgpack_skip(struct cur *c)
{
    uint64_t left[MSGPACK_DEPTH_MAX + 1];
    size_t depth = 0;

    left[0] = 1;
    for (;;) {
        while (left[depth] == 0) {
            if (depth-- == 0) {
                return;
            }
        }
        if (!cur_ok(c) || cur_left(c) == 0) {
            (void)fail(c);
            return;
        }
        left[depth]--;
        if (!has_parts(*c->p)) {
            skip_leaf(c);
        } else if (depth == MSGPACK_DEPTH_MAX) {
            (void)fail(c);
        } else {
            left[++depth] = parts(c, *c->p);
        }
    }
}

void msgpack_put_map(struct buf *b, uint32_t pairs)
{
    REQUIRE(pairs <= 15);
    (void)buf_add_u8(b, (uint8_t)(0x80 | pairs));
}

void msgpack_put_uint(struct buf *b, uint64_t v)
{
    if (v < 0x80) {
        (void)buf_add_u8(b, (uint8_t)v);
    } else if (v <= UINT8_MAX) {
        (void)buf_add_u8(b, UINT8);
        (void)buf_add_u8(b, (uint8_t)v);
    } else if (v <= UINT16_MAX) {
        (void)buf_add_u8(b, UINT16);
        (void)buf_add_be16(b, (uint16_t)v);
    } else if (v <= UINT32_MAX) {
        (void)buf_add_u8(b, UINT32);
        (void)buf_add_be32(b, (uint32_t)v);
    } else {
        (void)buf_add_u8(b, UINT64);
        (void)buf_add_be32(b, (uint32_t)(v >> 32));
        (void)buf_add_be32(b, (uint32_t)v);
    }
}

void msgpack_put_bool(struct buf *b, bool v)
{
    (void)buf_add_u8(b, v ? TRUE_ : FALSE_);
}

void msgpack_put_nil(struct buf *b)
{
    (void)buf_add_u8(b, NIL);
}

void msgpack_put_bytes(struct buf *b, struct str s)
{
    if (s.n <= 31) {
        (void)buf_add_u8(b, (uint8_t)(0xA0 | s.n));
    } else if (s.n <= UINT16_MAX) {
        (void)buf_add_u8(b, RAW16);
        (void)buf_add_be16(b, (uint16_t)s.n);
    } else {
        REQUIRE(s.n <= UINT32_MAX);
        (void)buf_add_u8(b, RAW32);
        (void)buf_add_be32(b, (uint32_t)s.n);
    }
    (void)buf_add(b, s.p, s.n);
}

void msgpack_put_cstr(struct buf *b, const char *s)
{
    msgpack_put_bytes(b, str_of(s));
}
