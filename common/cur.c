#include "common/cur.h"

#include <string.h>

void cur_init(struct cur *c, const void *p, size_t n)
{
    static const uint8_t nothing[1];

    c->p = n != 0 ? p : nothing;
    c->end = c->p + n;
    c->failed = false;
}

size_t cur_left(const struct cur *c)
{
    return (size_t)(c->end - c->p);
}

bool cur_ok(const struct cur *c)
{
    return !c->failed;
}

bool cur_done(const struct cur *c)
{
    return !c->failed && c->p == c->end;
}

/* The next n bytes, or NULL; after a failure nothing more is read. */
static const uint8_t *cur_take(struct cur *c, size_t n)
{
    if (c->failed || n > cur_left(c)) {
        c->failed = true;
        return NULL;
    }
    const uint8_t *p = c->p;
    c->p += n;
    return p;
}

static uint64_t cur_le(struct cur *c, unsigned bytes)
{
    const uint8_t *p = cur_take(c, bytes);
    uint64_t v = 0;
    for (unsigned i = 0; p != NULL && i < bytes; i++) {
        v |= (uint64_t)p[i] << (8 * i);
    }
    return v;
}

static uint64_t cur_be(struct cur *c, unsigned bytes)
{
    const uint8_t *p = cur_take(c, bytes);
    uint64_t v = 0;
    for (unsigned i = 0; p != NULL && i < bytes; i++) {
        v = v << 8 | p[i];
    }
    return v;
}

uint8_t cur_u8(struct cur *c)
{
    return (uint8_t)cur_le(c, 1);
}

uint16_t cur_le16(struct cur *c)
{
    return (uint16_t)cur_le(c, 2);
}

uint32_t cur_le32(struct cur *c)
{
    return (uint32_t)cur_le(c, 4);
}

uint64_t cur_le64(struct cur *c)
{
    return cur_le(c, 8);
}

uint16_t cur_be16(struct cur *c)
{
    return (uint16_t)cur_be(c, 2);
}

uint32_t cur_be32(struct cur *c)
{
    return (uint32_t)cur_be(c, 4);
}

uint64_t cur_be64(struct cur *c)
{
    return cur_be(c, 8);
}

struct str cur_bytes(struct cur *c, size_t n)
{
    const uint8_t *p = cur_take(c, n);
    return p != NULL ? (struct str){ (const char *)p, n } : (struct str){ "", 0 };
}

void cur_copy(struct cur *c, void *dst, size_t n)
{
    const uint8_t *p = cur_take(c, n);
    if (n == 0) {
        return;
    }
    if (p != NULL) {
        memcpy(dst, p, n);
    } else {
        memset(dst, 0, n);
    }
}

void cur_skip(struct cur *c, size_t n)
{
    (void)cur_take(c, n);
}
