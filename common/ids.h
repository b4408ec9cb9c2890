/*
 * ids - run ids (ULID), digests' text forms, and wall-clock text.
 *
 * ULID: 48 bits of Unix milliseconds, 80 random bits, 26 characters of Crockford base 32; ids made
 * by one node in one millisecond still ascend. The first 32 of the random bits are the entry node's
 * id (DESIGN.md section 10), so that any node knows whom to ask for a run.
 */
#ifndef COMMON_IDS_H
#define COMMON_IDS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/str.h"

enum { ULID_TEXT_LEN = 26, ULID_TEXT_CAP = 27, TIME_TEXT_CAP = 32 };

struct ulid {
    uint8_t b[16];
};

/* State of one generator. */
struct ulid_gen {
    uint32_t node; /* the entry node's id */
    uint64_t last_ms;
    uint64_t last_tail; /* 48 bits */
};

/* entropy: any 64 bits from the kernel. Within one millisecond (or when the clock went back) the
 * tail of the last id is counted up instead. */
struct ulid ulid_next(struct ulid_gen *g, uint64_t now_ms, uint64_t entropy);
void ulid_format(struct ulid id, char dst[ULID_TEXT_CAP]);
int ulid_parse(struct str s, struct ulid *ret); /* 26 characters, either case; -EINVAL */
bool ulid_eq(struct ulid a, struct ulid b);
int ulid_cmp(struct ulid a, struct ulid b);
uint64_t ulid_ms(struct ulid id);
uint32_t ulid_node(struct ulid id);
bool ulid_is_zero(struct ulid id);

/* "2026-11-23T08:36:23.123456Z" from microseconds since 1970; years 1970 to 9999. Returns dst. */
char *time_format(int64_t unix_us, char dst[TIME_TEXT_CAP]);
/* RFC 3339 with Z or an offset; -EINVAL. */
int time_parse(struct str s, int64_t *ret_unix_us);

#endif
