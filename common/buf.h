/*
 * buf - bytes that grow up to a cap.
 *
 * Failure is sticky: after the first append that did not fit (-ENOBUFS: cap reached) or found no
 * memory (-ENOMEM), every later append is ignored and buf_error() says why; so a long piece of text
 * is built without a check per line. The data is always followed by a NUL that len does not count.
 */
#ifndef COMMON_BUF_H
#define COMMON_BUF_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "common/str.h"

struct buf {
    char *data; /* NULL until the first append */
    size_t len;
    size_t cap; /* allocated, counting the NUL */
    size_t max; /* len never exceeds this */
    int error;  /* 0, -ENOBUFS or -ENOMEM */
};

#define BUF_INIT(max_) ((struct buf){ .max = (max_) })

void buf_init(struct buf *b, size_t max);
void buf_release(struct buf *b); /* frees; the buf can be used again with the same max */
void buf_reset(struct buf *b);   /* empties, keeps the memory, clears the error */
int buf_error(const struct buf *b);

int buf_add(struct buf *b, const void *p, size_t n);
int buf_addc(struct buf *b, char c);
int buf_adds(struct buf *b, const char *s);
int buf_addstr(struct buf *b, struct str s);
int buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int buf_vaddf(struct buf *b, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
/* Little- and big-endian integers, for wire and disk formats. */
int buf_add_u8(struct buf *b, uint8_t v);
int buf_add_le16(struct buf *b, uint16_t v);
int buf_add_le32(struct buf *b, uint32_t v);
int buf_add_le64(struct buf *b, uint64_t v);
int buf_add_be16(struct buf *b, uint16_t v);
int buf_add_be32(struct buf *b, uint32_t v);

/* Room for n bytes behind len: returns where to write, or NULL (and the sticky error). buf_grow()
 * then counts what was written there. */
void *buf_reserve(struct buf *b, size_t n);
void buf_grow(struct buf *b, size_t n);
/* Drops n bytes from the front (n <= len). */
void buf_consume(struct buf *b, size_t n);

/* The content as a NUL-terminated string; "" when empty. Valid until the next append. */
const char *buf_cstr(const struct buf *b);
struct str buf_str(const struct buf *b);
/* Hands the memory (NUL-terminated) over; the caller frees it. NULL when empty or failed. */
char *buf_take(struct buf *b);

#define AUTO_BUF __attribute__((cleanup(buf_release)))

#endif
