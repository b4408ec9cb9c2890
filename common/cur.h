/*
 * cur - a reading position in bytes that came from outside.
 *
 * Reading past the end gives zeroes and sets `failed`; check once at the end. Nothing is copied:
 * slices point into the caller's bytes and live as long as those.
 */
#ifndef COMMON_CUR_H
#define COMMON_CUR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/str.h"

struct cur {
    const uint8_t *p;
    const uint8_t *end;
    bool failed;
};

void cur_init(struct cur *c, const void *p, size_t n);
size_t cur_left(const struct cur *c);
bool cur_ok(const struct cur *c);   /* nothing failed so far */
bool cur_done(const struct cur *c); /* nothing failed and nothing left */
uint8_t cur_u8(struct cur *c);
uint16_t cur_le16(struct cur *c);
uint32_t cur_le32(struct cur *c);
uint64_t cur_le64(struct cur *c);
uint16_t cur_be16(struct cur *c);
uint32_t cur_be32(struct cur *c);
uint64_t cur_be64(struct cur *c);
/* n bytes as a slice; an empty slice and `failed` when there are fewer. */
struct str cur_bytes(struct cur *c, size_t n);
void cur_copy(struct cur *c, void *dst, size_t n); /* zero-fills on failure */
void cur_skip(struct cur *c, size_t n);

#endif
