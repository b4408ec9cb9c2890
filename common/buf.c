#include "common/buf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/insist.h"
#include "common/mem.h"

enum { BUF_FIRST = 64 };

void buf_init(struct buf *b, size_t max)
{
    *b = BUF_INIT(max);
}

void buf_release(struct buf *b)
{
    mem_free(b->data);
    *b = BUF_INIT(b->max);
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->error = 0;
    if (b->data != NULL) {
        b->data[0] = '\0';
    }
}

int buf_error(const struct buf *b)
{
    return b->error;
}

/* Makes room for n more bytes and the NUL. */
static int buf_room(struct buf *b, size_t n)
{
    if (b->error != 0) {
        return b->error;
    }
    if (b->len > b->max || n > b->max - b->len || n >= SIZE_MAX - b->len) {
        return b->error = -ENOBUFS;
    }
    size_t need = b->len + n + 1;
    if (need <= b->cap) {
        return 0;
    }
    size_t cap = b->cap != 0 ? b->cap : BUF_FIRST;
    while (cap < need) {
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    }
    if (b->max != SIZE_MAX && cap > b->max + 1) {
        cap = b->max + 1;
    }
    char *data = mem_realloc(b->data, cap);
    if (data == NULL) {
        return b->error = -ENOMEM;
    }
    b->data = data;
    b->cap = cap;
    return 0;
}

int buf_add(struct buf *b, const void *p, size_t n)
{
    int r = buf_room(b, n);
    if (r != 0) {
        return r;
    }
    if (n != 0) {
        memcpy(b->data + b->len, p, n);
    }
    b->len += n;
    b->data[b->len] = '\0';
    return 0;
}

int buf_addc(struct buf *b, char c)
{
    return buf_add(b, &c, 1);
}

int buf_adds(struct buf *b, const char *s)
{
    return buf_add(b, s, strlen(s));
}

int buf_addstr(struct buf *b, struct str s)
{
    return buf_add(b, s.p, s.n);
}

int buf_addf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int r = buf_vaddf(b, fmt, ap);
    va_end(ap);
    return r;
}

int buf_vaddf(struct buf *b, const char *fmt, va_list ap)
{
    if (b->error != 0) {
        return b->error;
    }
    size_t room = b->cap - b->len; /* cap 0: len is 0, too */
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(room != 0 ? b->data + b->len : NULL, room, fmt, ap);
    if (n < 0) {
        b->error = -ENOMEM;
    } else if ((size_t)n < room && (size_t)n <= b->max - b->len) {
        b->len += (size_t)n;
    } else if (buf_room(b, (size_t)n) == 0) {
        (void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    if (b->data != NULL) {
        b->data[b->len] = '\0';
    }
    return b->error;
}

int buf_add_u8(struct buf *b, uint8_t v)
{
    return buf_add(b, &v, 1);
}

static int buf_add_le(struct buf *b, uint64_t v, unsigned bytes)
{
    uint8_t out[8];
    for (unsigned i = 0; i < bytes; i++) {
        out[i] = (uint8_t)(v >> (8 * i));
    }
    return buf_add(b, out, bytes);
}

int buf_add_le16(struct buf *b, uint16_t v)
{
    return buf_add_le(b, v, 2);
}

int buf_add_le32(struct buf *b, uint32_t v)
{
    return buf_add_le(b, v, 4);
}

int buf_add_le64(struct buf *b, uint64_t v)
{
    return buf_add_le(b, v, 8);
}

int buf_add_be16(struct buf *b, uint16_t v)
{
    uint8_t out[2] = { (uint8_t)(v >> 8), (uint8_t)v };
    return buf_add(b, out, sizeof out);
}

int buf_add_be32(struct buf *b, uint32_t v)
{
    uint8_t out[4] = { (uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v };
    return buf_add(b, out, sizeof out);
}

void *buf_reserve(struct buf *b, size_t n)
{
    return buf_room(b, n) == 0 ? b->data + b->len : NULL;
}

void buf_grow(struct buf *b, size_t n)
{
    REQUIRE(b->cap != 0 && n < b->cap - b->len);
    b->len += n;
    b->data[b->len] = '\0';
}

void buf_consume(struct buf *b, size_t n)
{
    REQUIRE(n <= b->len);
    if (n == 0) {
        return;
    }
    b->len -= n;
    memmove(b->data, b->data + n, b->len + 1);
}

const char *buf_cstr(const struct buf *b)
{
    return b->data != NULL ? b->data : "";
}

struct str buf_str(const struct buf *b)
{
    return (struct str){ b->data, b->len };
}

char *buf_take(struct buf *b)
{
    char *data = NULL;
    if (b->error == 0 && b->len != 0) {
        data = TAKE(b->data);
    }
    buf_release(b);
    return data;
}
