#include "common/str.h"

#include <errno.h>
#include <stdio.h>

#include "common/insist.h"

struct str str_of(const char *s)
{
    return (struct str){ s, s != NULL ? strlen(s) : 0 };
}

struct str str_slice(struct str s, size_t from, size_t n)
{
    if (from > s.n) {
        from = s.n;
    }
    if (n > s.n - from) {
        n = s.n - from;
    }
    return (struct str){ s.p != NULL ? s.p + from : NULL, n };
}

bool str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

bool str_eqs(struct str a, const char *b)
{
    return str_eq(a, str_of(b));
}

static char ascii_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

bool str_ieqs(struct str a, const char *b)
{
    size_t i = 0;
    while (i < a.n && b[i] != '\0' && ascii_lower(a.p[i]) == ascii_lower(b[i])) {
        i++;
    }
    return i == a.n && b[i] == '\0';
}

int str_cmp(struct str a, struct str b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n != 0 ? memcmp(a.p, b.p, n) : 0;
    if (c != 0) {
        return c;
    }
    return a.n == b.n ? 0 : a.n < b.n ? -1 : 1;
}

bool str_starts(struct str s, const char *prefix)
{
    size_t n = strlen(prefix);
    return n <= s.n && (n == 0 || memcmp(s.p, prefix, n) == 0);
}

bool str_ends(struct str s, const char *suffix)
{
    size_t n = strlen(suffix);
    return n <= s.n && (n == 0 || memcmp(s.p + (s.n - n), suffix, n) == 0);
}

static bool ascii_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct str str_trim(struct str s)
{
    while (s.n != 0 && ascii_blank(s.p[0])) {
        s.p++;
        s.n--;
    }
    while (s.n != 0 && ascii_blank(s.p[s.n - 1])) {
        s.n--;
    }
    return s;
}

ptrdiff_t str_find(struct str s, char c)
{
    const char *at = s.n != 0 ? memchr(s.p, c, s.n) : NULL;
    return at != NULL ? at - s.p : -1;
}

ptrdiff_t str_rfind(struct str s, char c)
{
    const char *at = s.n != 0 ? memrchr(s.p, c, s.n) : NULL;
    return at != NULL ? at - s.p : -1;
}

bool str_split(struct str *rest, char sep, struct str *ret_piece)
{
    if (rest->n == 0) {
        return false;
    }
    ptrdiff_t at = str_find(*rest, sep);
    size_t n = at < 0 ? rest->n : (size_t)at;
    *ret_piece = str_slice(*rest, 0, n);
    *rest = str_slice(*rest, n + 1, SIZE_MAX);
    return true;
}

int str_copy(char *dst, size_t cap, struct str s)
{
    REQUIRE(cap > 0);
    dst[0] = '\0';
    if (str_find(s, '\0') >= 0) {
        return -EINVAL;
    }
    if (s.n >= cap) {
        return -ENAMETOOLONG;
    }
    if (s.n != 0) {
        memcpy(dst, s.p, s.n);
    }
    dst[s.n] = '\0';
    return 0;
}

/* --- numbers --- */

int str_u64(struct str s, uint64_t *ret)
{
    uint64_t v = 0;
    bool over = false;

    if (s.n == 0) {
        return -EINVAL;
    }
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9') {
            return -EINVAL;
        }
        uint64_t digit = (uint64_t)(s.p[i] - '0');
        over = over || v > (UINT64_MAX - digit) / 10;
        v = v * 10 + digit;
    }
    if (over) {
        return -ERANGE;
    }
    *ret = v;
    return 0;
}

int str_u64_in(struct str s, uint64_t min, uint64_t max, uint64_t *ret)
{
    uint64_t v;
    int r = str_u64(s, &v);
    if (r != 0) {
        return r;
    }
    if (v < min || v > max) {
        return -ERANGE;
    }
    *ret = v;
    return 0;
}

int str_i64(struct str s, int64_t *ret)
{
    bool minus = s.n != 0 && s.p[0] == '-';
    uint64_t v;
    if (minus) {
        s.p++;
        s.n--;
    }
    int r = str_u64(s, &v);
    if (r != 0) {
        return r;
    }
    if (v > (uint64_t)INT64_MAX + (minus ? 1 : 0)) {
        return -ERANGE;
    }
    *ret = minus ? (int64_t)(0 - v) : (int64_t)v;
    return 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = ascii_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int str_hex_u64(struct str s, uint64_t *ret)
{
    uint64_t v = 0;
    bool over = false;

    if (s.n == 0) {
        return -EINVAL;
    }
    for (size_t i = 0; i < s.n; i++) {
        int digit = hex_digit(s.p[i]);
        if (digit < 0) {
            return -EINVAL;
        }
        over = over || v >> 60 != 0;
        v = v << 4 | (uint64_t)digit;
    }
    if (over) {
        return -ERANGE;
    }
    *ret = v;
    return 0;
}

enum { FRACTION_DIGITS = 6, FRACTION_ONE = 1000000 };

/* Takes "12" or "12.5" off the front; the fraction is in millionths. */
static int take_decimal(struct str *s, uint64_t *ret_whole, uint64_t *ret_millionths)
{
    size_t n = 0;
    while (n < s->n && s->p[n] >= '0' && s->p[n] <= '9') {
        n++;
    }
    int r = str_u64(str_slice(*s, 0, n), ret_whole);
    if (r != 0) {
        return r;
    }
    *s = str_slice(*s, n, SIZE_MAX);
    *ret_millionths = 0;
    if (s->n == 0 || s->p[0] != '.') {
        return 0;
    }
    uint64_t scale = FRACTION_ONE / 10;
    size_t i = 1;
    for (; i < s->n && s->p[i] >= '0' && s->p[i] <= '9'; i++) {
        *ret_millionths += (uint64_t)(s->p[i] - '0') * scale;
        scale /= 10;
    }
    if (i == 1 || i > FRACTION_DIGITS + 1) {
        return -EINVAL;
    }
    *s = str_slice(*s, i, SIZE_MAX);
    return 0;
}

/* (whole + millionths / 10^6) * unit, cut to an integer. unit is at most 2^43. */
static int scale_decimal(uint64_t whole, uint64_t millionths, uint64_t unit, uint64_t *ret)
{
    if (whole > UINT64_MAX / unit) {
        return -ERANGE;
    }
    uint64_t v = whole * unit;
    uint64_t part = millionths * unit / FRACTION_ONE;
    if (part > UINT64_MAX - v) {
        return -ERANGE;
    }
    *ret = v + part;
    return 0;
}

int str_size(struct str s, uint64_t *ret_bytes)
{
    static const struct {
        const char *suffix;
        uint64_t unit;
    } units[] = {
        { "", 1 },
        { "b", 1 },
        { "k", UINT64_C(1) << 10 },
        { "m", UINT64_C(1) << 20 },
        { "g", UINT64_C(1) << 30 },
        { "t", UINT64_C(1) << 40 },
        { "kib", UINT64_C(1) << 10 },
        { "mib", UINT64_C(1) << 20 },
        { "gib", UINT64_C(1) << 30 },
        { "tib", UINT64_C(1) << 40 },
        { "ki", UINT64_C(1) << 10 },
        { "mi", UINT64_C(1) << 20 },
        { "gi", UINT64_C(1) << 30 },
        { "ti", UINT64_C(1) << 40 },
        { "kb", 1000 },
        { "mb", 1000000 },
        { "gb", 1000000000 },
        { "tb", 1000000000000 },
    };
    uint64_t whole;
    uint64_t millionths;
    int r = take_decimal(&s, &whole, &millionths);
    if (r != 0) {
        return r;
    }
    if (s.n != 0 && s.p[0] == ' ') {
        s = str_slice(s, 1, SIZE_MAX);
        if (s.n == 0) {
            return -EINVAL;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (str_ieqs(s, units[i].suffix)) {
            /* Part of a byte means nothing. */
            return units[i].unit == 1 && millionths != 0
                       ? -EINVAL
                       : scale_decimal(whole, millionths, units[i].unit, ret_bytes);
        }
    }
    return -EINVAL;
}

int str_duration_ms(struct str s, uint64_t *ret_ms)
{
    static const struct {
        const char *suffix;
        uint64_t ms;
    } units[] = { { "d", 86400000 }, { "h", 3600000 }, { "m", 60000 }, { "s", 1000 }, { "ms", 1 } };
    uint64_t total = 0;
    size_t next = 0; /* units must get smaller: "1h30m", each at most once */
    bool bare = true;

    do {
        uint64_t whole;
        uint64_t millionths;
        uint64_t part;
        int r = take_decimal(&s, &whole, &millionths);
        if (r != 0) {
            return r;
        }
        uint64_t unit = 0;
        if (s.n == 0 && bare) {
            unit = 1000;
        }
        size_t n = 0;
        while (n < s.n && s.p[n] >= 'a' && s.p[n] <= 'z') {
            n++;
        }
        for (; next < ARRAY_LEN(units) && unit == 0; next++) {
            if (str_eqs(str_slice(s, 0, n), units[next].suffix)) {
                unit = units[next].ms;
            }
        }
        if (unit == 0) {
            return -EINVAL;
        }
        r = scale_decimal(whole, millionths, unit, &part);
        if (r != 0 || part > UINT64_MAX - total) {
            return -ERANGE;
        }
        total += part;
        s = str_slice(s, n, SIZE_MAX);
        bare = false;
    } while (s.n != 0);
    *ret_ms = total;
    return 0;
}

int str_bool(struct str s, bool *ret)
{
    static const char *const words[2][4] = { { "no", "false", "off", "0" },
                                             { "yes", "true", "on", "1" } };
    for (size_t v = 0; v < 2; v++) {
        for (size_t i = 0; i < ARRAY_LEN(words[v]); i++) {
            if (str_ieqs(s, words[v][i])) {
                *ret = v == 1;
                return 0;
            }
        }
    }
    return -EINVAL;
}

void str_hex(char *dst, const void *p, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *at = p;
    for (size_t i = 0; i < n; i++) {
        *dst++ = digits[at[i] >> 4];
        *dst++ = digits[at[i] & 15];
    }
    *dst = '\0';
}

int str_unhex(struct str s, void *dst, size_t n)
{
    uint8_t *out = dst;
    if (s.n / 2 != n || s.n % 2 != 0) {
        return -EINVAL;
    }
    for (size_t i = 0; i < s.n; i++) {
        if (hex_digit(s.p[i]) < 0) {
            return -EINVAL;
        }
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)(hex_digit(s.p[2 * i]) * 16 + hex_digit(s.p[2 * i + 1]));
    }
    return 0;
}

/* --- for people --- */

char *str_fmt_size(char *dst, size_t cap, uint64_t bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    size_t u = 0;
    uint64_t v = bytes;
    uint64_t below = 0; /* what was cut off, in 1024ths of the unit */
    while (v >= 1024) {
        below = v % 1024;
        v /= 1024;
        u++;
    }
    uint64_t tenths = (below * 10 + 512) / 1024;
    if (tenths == 10) {
        v++;
        tenths = 0;
    }
    if (tenths == 0) {
        (void)snprintf(dst, cap, "%llu %s", (unsigned long long)v, units[u]);
    } else {
        (void)snprintf(dst, cap, "%llu.%llu %s", (unsigned long long)v, (unsigned long long)tenths,
                       units[u]);
    }
    return dst;
}

char *str_fmt_duration(char *dst, size_t cap, uint64_t us)
{
    unsigned long long ms = us / 1000;
    unsigned long long s = us / 1000000;

    if (us < 1000) {
        (void)snprintf(dst, cap, "%llu us", (unsigned long long)us);
    } else if (us < 1000000) {
        (void)snprintf(dst, cap, "%llu.%llu ms", ms, (unsigned long long)us % 1000 / 100);
    } else if (s < 60) {
        (void)snprintf(dst, cap, "%llu.%llu s", s, ms % 1000 / 100);
    } else if (s < 3600) {
        (void)snprintf(dst, cap, "%llum %llus", s / 60, s % 60);
    } else if (s < 86400) {
        (void)snprintf(dst, cap, "%lluh %llum", s / 3600, s / 60 % 60);
    } else {
        (void)snprintf(dst, cap, "%llud %lluh", s / 86400, s / 3600 % 24);
    }
    return dst;
}

/* --- text --- */

/* Length of the well-formed sequence at p (n > 0 bytes are there), or 0: Unicode's table 3-7. */
static size_t utf8_sequence(const unsigned char *p, size_t n)
{
    unsigned char c = p[0];
    if (c < 0x80) {
        return 1;
    }
    size_t len = c >= 0xc2 && c <= 0xdf   ? 2
                 : c >= 0xe0 && c <= 0xef ? 3
                 : c >= 0xf0 && c <= 0xf4 ? 4
                                          : 0;
    if (len == 0 || n < len) {
        return 0;
    }
    unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80; /* no overlong forms */
    unsigned char high = c == 0xed   ? 0x9f
                         : c == 0xf4 ? 0x8f
                                     : 0xbf; /* no surrogates, <= U+10FFFF */
    if (p[1] < low || p[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return len;
}

/* Are all eight bytes in 0x01..0x7f? */
static bool ascii_word(const unsigned char *p)
{
    uint64_t w;
    memcpy(&w, p, sizeof w);
    return ((w | (w - 0x0101010101010101U)) & 0x8080808080808080U) == 0;
}

size_t str_utf8_span(struct str s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    size_t i = 0;
    while (i < s.n) {
        if (s.n - i >= 8 && ascii_word(p + i)) {
            i += 8;
            continue;
        }
        size_t len = p[i] != 0 ? utf8_sequence(p + i, s.n - i) : 0;
        if (len == 0) {
            break;
        }
        i += len;
    }
    return i;
}

bool str_is_utf8(struct str s)
{
    return str_utf8_span(s) == s.n;
}

unsigned str_distance(struct str a, struct str b)
{
    enum { MAX = 64 };
    unsigned row[MAX + 1];

    if (a.n > MAX || b.n > MAX) {
        return 99;
    }
    for (unsigned j = 0; j <= b.n; j++) {
        row[j] = j;
    }
    for (unsigned i = 1; i <= a.n; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= b.n; j++) {
            unsigned best = diagonal + (a.p[i - 1] != b.p[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) {
                best = row[j] + 1;
            }
            if (row[j - 1] + 1 < best) {
                best = row[j - 1] + 1;
            }
            row[j] = best;
        }
    }
    return row[b.n];
}
