#include "common/ids.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const uint64_t ulid_tail_mask = (UINT64_C(1) << 48) - 1;
static const char ulid_digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

static void put_be(uint8_t *dst, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        dst[i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
    }
}

static uint64_t get_be(const uint8_t *src, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++) {
        v = v << 8 | src[i];
    }
    return v;
}

struct ulid ulid_next(struct ulid_gen *g, uint64_t now_ms, uint64_t entropy)
{
    if (now_ms > g->last_ms) {
        g->last_ms = now_ms & ulid_tail_mask;
        /* The top bit stays free, so that a millisecond holds at least 2^47 ids. */
        g->last_tail = entropy & (ulid_tail_mask >> 1);
    } else if (g->last_tail == ulid_tail_mask) {
        g->last_ms++;
        g->last_tail = entropy & (ulid_tail_mask >> 1);
    } else {
        g->last_tail++;
    }
    struct ulid id = { { 0 } };
    put_be(id.b, g->last_ms, 6);
    put_be(id.b + 6, g->node, 4);
    put_be(id.b + 10, g->last_tail, 6);
    return id;
}

void ulid_format(struct ulid id, char dst[ULID_TEXT_CAP])
{
    uint64_t hi = get_be(id.b, 8);
    uint64_t lo = get_be(id.b + 8, 8);
    for (unsigned i = ULID_TEXT_LEN; i-- > 0;) {
        dst[i] = ulid_digits[lo & 31];
        lo = lo >> 5 | hi << 59;
        hi >>= 5;
    }
    dst[ULID_TEXT_LEN] = '\0';
}

static int ulid_digit(char c)
{
    if (c >= 'a' && c <= 'z') {
        c = (char)(c - 'a' + 'A');
    }
    const char *at = c != '\0' ? strchr(ulid_digits, c) : NULL;
    return at != NULL ? (int)(at - ulid_digits) : -1;
}

int ulid_parse(struct str s, struct ulid *ret)
{
    if (s.n != ULID_TEXT_LEN || s.p[0] > '7') { /* 130 bits of digits hold 128 of id */
        return -EINVAL;
    }
    uint64_t hi = 0;
    uint64_t lo = 0;
    for (size_t i = 0; i < s.n; i++) {
        int d = ulid_digit(s.p[i]);
        if (d < 0) {
            return -EINVAL;
        }
        hi = hi << 5 | lo >> 59;
        lo = lo << 5 | (uint64_t)d;
    }
    put_be(ret->b, hi, 8);
    put_be(ret->b + 8, lo, 8);
    return 0;
}

bool ulid_eq(struct ulid a, struct ulid b)
{
    return ulid_cmp(a, b) == 0;
}

int ulid_cmp(struct ulid a, struct ulid b)
{
    return memcmp(a.b, b.b, sizeof a.b);
}

uint64_t ulid_ms(struct ulid id)
{
    return get_be(id.b, 6);
}

uint32_t ulid_node(struct ulid id)
{
    return (uint32_t)get_be(id.b + 6, 4);
}

bool ulid_is_zero(struct ulid id)
{
    return ulid_eq(id, (struct ulid){ .b = { 0 } });
}

/* --- wall time, in the proleptic Gregorian calendar --- */

static const int64_t us_per_s = 1000000;
static const int64_t s_per_day = 86400;
static const int64_t time_max_us = 253402300799999999; /* 9999-12-31T23:59:59.999999Z */

/* Days since 1970-01-01. Years begin in March here, so that the leap day is the last one. */
static int64_t days_of(int64_t y, unsigned m, unsigned d)
{
    y -= m <= 2;
    int64_t era = y / 400; /* y is not negative */
    int64_t yoe = y - era * 400;
    int64_t doy = (153 * ((int64_t)m + (m > 2 ? -3 : 9)) + 2) / 5 + (int64_t)d - 1;
    int64_t doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + doe - 719468;
}

static void date_of(int64_t days, int64_t *ret_y, unsigned *ret_m, unsigned *ret_d)
{
    days += 719468;
    int64_t era = days / 146097;
    int64_t doe = days - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153;
    *ret_d = (unsigned)(doy - (153 * mp + 2) / 5 + 1);
    *ret_m = (unsigned)(mp < 10 ? mp + 3 : mp - 9);
    *ret_y = yoe + era * 400 + (*ret_m <= 2);
}

static void put_digits(char *dst, uint64_t v, unsigned digits)
{
    while (digits-- > 0) {
        dst[digits] = (char)('0' + v % 10);
        v /= 10;
    }
}

char *time_format(int64_t unix_us, char dst[TIME_TEXT_CAP])
{
    int64_t us = unix_us < 0 ? 0 : unix_us > time_max_us ? time_max_us : unix_us;
    int64_t s = us / us_per_s;
    int64_t y;
    unsigned m;
    unsigned d;
    date_of(s / s_per_day, &y, &m, &d);
    int64_t of_day = s % s_per_day;

    memcpy(dst, "0000-00-00T00:00:00.000000Z", 28);
    put_digits(dst, (uint64_t)y, 4);
    put_digits(dst + 5, m, 2);
    put_digits(dst + 8, d, 2);
    put_digits(dst + 11, (uint64_t)(of_day / 3600), 2);
    put_digits(dst + 14, (uint64_t)(of_day / 60 % 60), 2);
    put_digits(dst + 17, (uint64_t)(of_day % 60), 2);
    put_digits(dst + 20, (uint64_t)(us % us_per_s), 6);
    return dst;
}

/* Exactly n digits off the front. */
static bool take_digits(struct str *s, size_t n, unsigned *ret)
{
    uint64_t v;
    if (s->n < n || str_u64(str_slice(*s, 0, n), &v) != 0) {
        return false;
    }
    *s = str_slice(*s, n, SIZE_MAX);
    *ret = (unsigned)v;
    return true;
}

static bool take_char(struct str *s, const char *any_of)
{
    if (s->n == 0 || s->p[0] == '\0' || strchr(any_of, s->p[0]) == NULL) {
        return false;
    }
    *s = str_slice(*s, 1, SIZE_MAX);
    return true;
}

static bool take_fraction(struct str *s, int64_t *ret_us)
{
    *ret_us = 0;
    if (!take_char(s, ".")) {
        return true;
    }
    size_t digits = 0;
    int64_t scale = us_per_s / 10;
    while (s->n != 0 && s->p[0] >= '0' && s->p[0] <= '9') {
        *ret_us += (s->p[0] - '0') * scale; /* digits past the sixth count 0 */
        scale /= 10;
        digits++;
        *s = str_slice(*s, 1, SIZE_MAX);
    }
    return digits > 0 && digits <= 18;
}

static bool take_offset(struct str *s, int64_t *ret_s)
{
    *ret_s = 0;
    if (take_char(s, "Zz")) {
        return true;
    }
    bool minus = s->n != 0 && s->p[0] == '-';
    unsigned h;
    unsigned m;
    if (!take_char(s, "+-") || !take_digits(s, 2, &h) || !take_char(s, ":") ||
        !take_digits(s, 2, &m) || h > 23 || m > 59) {
        return false;
    }
    *ret_s = (int64_t)h * 3600 + (int64_t)m * 60;
    if (minus) {
        *ret_s = -*ret_s;
    }
    return true;
}

static unsigned month_days(unsigned y, unsigned m)
{
    static const uint8_t days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    return days[m - 1] + (m == 2 && leap ? 1U : 0U);
}

int time_parse(struct str s, int64_t *ret_unix_us)
{
    unsigned y, mo, d, h, mi, sec;
    int64_t fraction_us, offset_s;

    if (!take_digits(&s, 4, &y) || !take_char(&s, "-") || !take_digits(&s, 2, &mo) ||
        !take_char(&s, "-") || !take_digits(&s, 2, &d) || !take_char(&s, "Tt ") ||
        !take_digits(&s, 2, &h) || !take_char(&s, ":") || !take_digits(&s, 2, &mi) ||
        !take_char(&s, ":") || !take_digits(&s, 2, &sec) || !take_fraction(&s, &fraction_us) ||
        !take_offset(&s, &offset_s) || s.n != 0) {
        return -EINVAL;
    }
    /* Second 60 is a leap second: it counts as the next second, as POSIX time has it. */
    if (y < 1970 || mo < 1 || mo > 12 || d < 1 || d > month_days(y, mo) || h > 23 || mi > 59 ||
        sec > 60) {
        return -EINVAL;
    }
    int64_t unix_s = days_of(y, mo, d) * s_per_day + (int64_t)(h * 3600 + mi * 60 + sec) - offset_s;
    int64_t us = unix_s * us_per_s + fraction_us;
    if (us < 0 || us > time_max_us) {
        return -EINVAL;
    }
    *ret_unix_us = us;
    return 0;
}
