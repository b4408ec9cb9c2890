/*
 * msgpack - reading and writing MessagePack in the dialect of memberlist.
 *
 * Reading takes every format that a peer may use: integers signed or not, text as raw, str8 or bin,
 * maps and arrays of any width. It works on a struct cur: what is wrong sets cur->failed, a read of
 * the wrong type too; nothing is copied. Nesting is bounded: skipping goes MSGPACK_DEPTH_MAX deep.
 *
 * Writing uses the old formats only (fixmap, raw, unsigned integers): what the oldest peers read.
 */
#ifndef COMMON_MSGPACK_H
#define COMMON_MSGPACK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/cur.h"
#include "common/str.h"

enum { MSGPACK_DEPTH_MAX = 16 };

/* --- reading --- */

/* Pairs of a map. A count that the rest cannot hold fails. */
uint32_t msgpack_map(struct cur *c);
uint32_t msgpack_array(struct cur *c);
/* 0 to max, whatever the format; nil is 0. Negative ones, floats and larger ones fail. */
uint64_t msgpack_uint(struct cur *c, uint64_t max);
bool msgpack_bool(struct cur *c); /* nil is false */
/* Text or bytes, as a slice; nil is empty. */
struct str msgpack_bytes(struct cur *c);
/* The same, or an array of at most cap small integers, which is put into scratch[cap]. */
struct str msgpack_bytes_or_array(struct cur *c, uint8_t *scratch, size_t cap);
/* One value with all that is in it. */
void msgpack_skip(struct cur *c);

/* --- writing; errors are the buf's --- */

void msgpack_put_map(struct buf *b, uint32_t pairs); /* <= 15 */
void msgpack_put_uint(struct buf *b, uint64_t v);
void msgpack_put_bool(struct buf *b, bool v);
void msgpack_put_nil(struct buf *b);
void msgpack_put_bytes(struct buf *b, struct str s); /* "" is an empty one, not nil */
void msgpack_put_cstr(struct buf *b, const char *s);

#endif
