/* Text for people: safe for a terminal, ages, sizes, wrapping. */
#include "agent/cli/cli_internal.h"

/* One code point at p of n bytes: its length, or 0 when it is not UTF-8. */
static size_t decode(const unsigned char *p, size_t n, uint32_t *ret)
{
    if (p[0] < 0x80) {
        *ret = p[0];
        return 1;
    }
    size_t len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || len > n) {
        return 0;
    }
    uint32_t c = p[0] & (0x7fU >> len);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
        c = (c << 6) | (p[i] & 0x3fU);
    }
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
        return 0;
    }
    *ret = c;
    return len;
}

/* Would this code point do something else than take its place? */
static bool is_unsafe(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x061c || (c >= 0x200b && c <= 0x200f) ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff ||
           (c >= 0xe0000 && c <= 0xe007f);
}

void cli_text_safe(struct buf *out, struct str s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    size_t i = 0;
    while (i < s.n) {
        uint32_t c = 0;
        size_t len = decode(p + i, s.n - i, &c);
        if (len == 0) {
            (void)buf_addf(out, "\\x%02x", p[i]);
            i++;
            continue;
        }
        if (!is_unsafe(c)) {
            (void)buf_add(out, p + i, len);
        } else if (c == '\n') {
            (void)buf_adds(out, "\\n");
        } else if (c == '\t') {
            (void)buf_adds(out, "\\t");
        } else if (c < 0x100) {
            (void)buf_addf(out, "\\x%02x", c);
        } else {
            (void)buf_addf(out, "\\u%04x", c);
        }
        i += len;
    }
}

size_t cli_text_width(struct str s)
{
    size_t width = 0;
    for (size_t i = 0; i < s.n; i++) {
        width += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    }
    return width;
}

void cli_text_age(struct buf *out, int64_t now_us, int64_t then_us)
{
    static const struct {
        int64_t seconds; /* of one */
        int64_t until;   /* the next bigger unit begins here */
        char unit;
    } steps[] = {
        { 1, 120, 's' },
        { 60, INT64_C(120) * 60, 'm' },
        { 3600, INT64_C(48) * 3600, 'h' },
        { 86400, INT64_C(60) * 86400, 'd' },
        { INT64_C(7) * 86400, INT64_C(730) * 86400, 'w' },
        { INT64_C(365) * 86400, INT64_MAX, 'y' },
    };
    if (then_us == 0) {
        (void)buf_addc(out, '-');
        return;
    }
    /* A node's clock may be ahead of ours. */
    int64_t s = now_us > then_us ? (now_us - then_us) / 1000000 : 0;
    size_t i = 0;
    while (s >= steps[i].until) {
        i++;
    }
    (void)buf_addf(out, "%lld%c", (long long)(s / steps[i].seconds), steps[i].unit);
}

void cli_text_seconds(struct buf *out, double seconds)
{
    if (!(seconds >= 0)) {
        (void)buf_addc(out, '-');
    } else if (seconds < 0.001) {
        (void)buf_addf(out, "%.0f us", seconds * 1e6);
    } else if (seconds < 1) {
        (void)buf_addf(out, seconds < 0.01 ? "%.1f ms" : "%.0f ms", seconds * 1e3);
    } else if (seconds < 60) {
        (void)buf_addf(out, seconds < 10 ? "%.2f s" : "%.1f s", seconds);
    } else if (seconds < 1e15) {
        uint64_t s = (uint64_t)seconds;
        if (s < 3600) {
            (void)buf_addf(out, "%llum %llus", (unsigned long long)(s / 60),
                           (unsigned long long)(s % 60));
        } else if (s < 172800) {
            (void)buf_addf(out, "%lluh %llum", (unsigned long long)(s / 3600),
                           (unsigned long long)(s / 60 % 60));
        } else {
            (void)buf_addf(out, "%llud %lluh", (unsigned long long)(s / 86400),
                           (unsigned long long)(s / 3600 % 24));
        }
    } else {
        (void)buf_adds(out, "for ever");
    }
}

void cli_text_bytes(struct buf *out, double bytes)
{
    static const char units[] = "KMGTPE";
    if (!(bytes >= 0)) {
        (void)buf_addc(out, '-');
        return;
    }
    if (bytes < 1024) {
        (void)buf_addf(out, "%.0f B", bytes);
        return;
    }
    size_t i = 0;
    bytes /= 1024;
    while (bytes >= 1023.95 && units[i + 1] != '\0') {
        bytes /= 1024;
        i++;
    }
    (void)buf_addf(out, bytes == (double)(uint64_t)bytes ? "%.0f %ciB" : "%.1f %ciB", bytes,
                   units[i]);
}

void cli_text_wrap(struct buf *out, const char *text, unsigned indent, unsigned width)
{
    struct str rest = str_of(text);
    struct str line;
    while (str_split(&rest, '\n', &line)) {
        struct str word;
        size_t column = 0;
        while (str_split(&line, ' ', &word)) {
            size_t w = cli_text_width(word);
            if (column > indent && column + 1 + w > width) {
                (void)buf_addc(out, '\n');
                column = 0;
            }
            if (column == 0) {
                (void)buf_addf(out, "%*s", (int)indent, "");
                column = indent;
            } else {
                (void)buf_addc(out, ' ');
                column++;
            }
            (void)buf_addstr(out, word);
            column += w;
        }
        (void)buf_addc(out, '\n');
    }
}
