/*
 * str - slices of text, and the parsers of numbers, sizes and durations that configuration, HTTP
 * and kernel files share. Pure; no locale.
 */
#ifndef COMMON_STR_H
#define COMMON_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str {
    const char *p; /* not NUL-terminated in general; may be NULL when n is 0 */
    size_t n;
};

/* A slice of a string literal. */
#define STR(lit) ((struct str){ "" lit, sizeof(lit) - 1 })
/* For printf("%.*s", STR_ARG(s)). */
#define STR_ARG(s) (int)(s).n, ((s).n != 0 ? (s).p : "")

struct str str_of(const char *s);                          /* NULL gives an empty slice */
struct str str_slice(struct str s, size_t from, size_t n); /* clamped */
bool str_eq(struct str a, struct str b);
bool str_eqs(struct str a, const char *b);
bool str_ieqs(struct str a, const char *b); /* ASCII case folded */
int str_cmp(struct str a, struct str b);    /* as memcmp, shorter first */
bool str_starts(struct str s, const char *prefix);
bool str_ends(struct str s, const char *suffix);
struct str str_trim(struct str s); /* spaces and tabs, CR, LF at both ends */
/* Index of c, or -1. */
ptrdiff_t str_find(struct str s, char c);
ptrdiff_t str_rfind(struct str s, char c);
/* Takes the piece before the next `sep` off *rest. False when *rest was used up. "a,,b" gives three
 * pieces, "" none; a `sep` at the end adds no empty piece. */
bool str_split(struct str *rest, char sep, struct str *ret_piece);

/* Copies into dst[cap] with a NUL. -ENAMETOOLONG when it does not fit, -EINVAL when s holds a NUL;
 * dst is then "". */
int str_copy(char *dst, size_t cap, struct str s);

/* Decimal without sign, leading '+' or spaces; 0 or -EINVAL (not a number) or -ERANGE. */
int str_u64(struct str s, uint64_t *ret);
int str_u64_in(struct str s, uint64_t min, uint64_t max, uint64_t *ret);
int str_i64(struct str s, int64_t *ret);
int str_hex_u64(struct str s, uint64_t *ret);
/* "65536", "64k", "64KiB", "1.5GiB", "10M", "10MB": k, M, G, T and KiB… are 1024,
 * kB, MB, GB… 1000. */
int str_size(struct str s, uint64_t *ret_bytes);
/* "250ms", "10s", "5m", "1h30m", "7d", a bare number is seconds (decimals allowed). */
int str_duration_ms(struct str s, uint64_t *ret_ms);
/* yes/no, true/false, on/off, 1/0. */
int str_bool(struct str s, bool *ret);

/* Lower-case hex of n bytes; dst holds 2 * n + 1. */
void str_hex(char *dst, const void *p, size_t n);
/* 2 * n hex digits (either case) to n bytes; -EINVAL. */
int str_unhex(struct str s, void *dst, size_t n);

/* "1.5 GiB", "512 B"; "2.4 ms", "1m 30s". Cut to cap. Return dst. */
char *str_fmt_size(char *dst, size_t cap, uint64_t bytes);
char *str_fmt_duration(char *dst, size_t cap, uint64_t us);

/* Valid UTF-8 without NUL? */
bool str_is_utf8(struct str s);
/* Length of the longest front part of which that is true. */
size_t str_utf8_span(struct str s);
/* Levenshtein distance, for "did you mean"; strings over 64 bytes give 99. */
unsigned str_distance(struct str a, struct str b);

#endif
