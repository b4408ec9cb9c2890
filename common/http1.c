/*
 * A connection's messages: where the head ends, what the body's framing is, chunks.
 *
 *   HEAD --end of head--> BODY_LENGTH | BODY_CHUNKED | BODY_CLOSE | DONE
 *   BODY_LENGTH --last byte--> DONE          BODY_CLOSE --http1_finish()--> DONE
 *   BODY_CHUNKED: CHUNK_SIZE -> CHUNK_DATA -> CHUNK_END -> CHUNK_SIZE … TRAILER -> DONE
 *   DONE --http1_reset()--> HEAD             anything --error--> FAILED, for good
 *
 * Whatever the pieces that bytes arrive in, the same bytes give the same result: lines are judged
 * when they are complete, limits by position.
 */
#include "common/http1.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "common/http1_internal.h"
#include "common/insist.h"
#include "common/mem.h"

enum {
    HEAD_FIRST = 512, /* bytes of head buffer to begin with */
    HEAD_KEEP = 4096, /* more is given back at reset: idle connections stay small */
    HEADERS_FIRST = 16,
    CHUNK_DIGITS_MAX = 16,
    CHUNK_WASTE_MAX = 16 * 1024, /* overhead beyond what honest chunks have */
};

/* The whole line of a request: method, target, version. */
enum { REQUEST_LINE_MAX = HTTP1_TARGET_MAX + 64 };

int http1_new(enum http1_side side, struct http1 **ret)
{
    struct http1 *h = mem_zalloc(sizeof *h);
    if (h == NULL) {
        return -ENOMEM;
    }
    h->side = side;
    *ret = h;
    return 0;
}

struct http1 *http1_free(struct http1 *h)
{
    if (h != NULL) {
        mem_free(h->buf);
        mem_free(h->headers);
        mem_free(h);
    }
    return NULL;
}

void http1_reset(struct http1 *h)
{
    struct http1 old = *h;
    *h = (struct http1){ .side = old.side };
    if (old.buf_cap <= HEAD_KEEP) {
        h->buf = old.buf;
        h->buf_cap = old.buf_cap;
    } else {
        mem_free(old.buf);
    }
    if (old.headers_cap <= HEADERS_FIRST) {
        h->headers = old.headers;
        h->headers_cap = old.headers_cap;
    } else {
        mem_free(old.headers);
    }
}

void http1_expect_no_body(struct http1 *h)
{
    h->no_body = true;
}

int http1_status(const struct http1 *h)
{
    return h->status;
}

bool http1_in_head(const struct http1 *h)
{
    return h->state == HTTP1_S_HEAD && (h->len != 0 || h->blank_line);
}

const struct http1_head *http1_head(const struct http1 *h)
{
    return &h->head;
}

int http1_fail(struct http1 *h, int code, int status, struct err *e, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX];
    va_list ap;

    va_start(ap, fmt);
    if (vsnprintf(text, sizeof text, fmt, ap) < 0) {
        text[0] = '\0';
    }
    va_end(ap);
    h->state = HTTP1_S_FAILED;
    h->status = status;
    h->failure = code;
    return err_say(e, code, "%s", text);
}

/* --- the head --- */

static int head_grow(struct http1 *h, size_t need)
{
    size_t cap = h->buf_cap != 0 ? h->buf_cap : HEAD_FIRST;
    while (cap < need) {
        cap *= 2;
    }
    if (cap == h->buf_cap) {
        return 0;
    }
    char *buf = mem_realloc(h->buf, cap);
    if (buf == NULL) {
        return -ENOMEM;
    }
    h->buf = buf;
    h->buf_cap = cap;
    return 0;
}

/* A header line was complete: is there a place for its slices? */
static int headers_grow(struct http1 *h)
{
    if (h->lines < h->headers_cap) {
        return 0;
    }
    size_t cap = h->headers_cap != 0 ? h->headers_cap * 2 : HEADERS_FIRST;
    if (cap > HTTP1_HEADERS_MAX) {
        cap = HTTP1_HEADERS_MAX;
    }
    struct http1_header *headers = mem_realloc(h->headers, cap * sizeof *headers);
    if (headers == NULL) {
        return -ENOMEM;
    }
    h->headers = headers;
    h->headers_cap = cap;
    return 0;
}

static bool head_first_line(const struct http1 *h)
{
    return h->line_start == 0;
}

/* One line without its CR LF. *ret_over: it was the empty one that ends the head. */
static int head_line(struct http1 *h, struct str line, bool *ret_over, struct err *e)
{
    *ret_over = false;
    if (head_first_line(h)) {
        if (h->side == HTTP1_REQUEST && line.n > REQUEST_LINE_MAX) {
            return http1_fail(h, -E2BIG, 414, e, "the request line is longer than %d bytes",
                              REQUEST_LINE_MAX);
        }
        return http1_check_first_line(h, line, e);
    }
    if (line.n == 0) {
        *ret_over = true;
        return 0;
    }
    if (h->lines == HTTP1_HEADERS_MAX) {
        return http1_fail(h, -E2BIG, 431, e, "more than %d header fields", HTTP1_HEADERS_MAX);
    }
    if (headers_grow(h) != 0) {
        return http1_fail(h, -ENOMEM, 503, e, "out of memory");
    }
    h->lines++;
    return http1_check_header_line(h, line, e);
}

static int head_too_long(struct http1 *h, struct err *e)
{
    if (head_first_line(h) && h->side == HTTP1_REQUEST) {
        return http1_fail(h, -E2BIG, 414, e, "the request line is longer than %d bytes",
                          REQUEST_LINE_MAX);
    }
    return http1_fail(h, -E2BIG, 431, e, "the head is longer than %d bytes", HTTP1_HEAD_MAX);
}

/* How long the head may be as far as one can tell now. */
static size_t head_limit(const struct http1 *h)
{
    return head_first_line(h) && h->side == HTTP1_REQUEST ? REQUEST_LINE_MAX + 2 : HTTP1_HEAD_MAX;
}

/* RFC 9112, 2.2: one empty line before a request is ignored. Returns how many bytes it took. */
static int head_skip_blank(struct http1 *h, const char *p, size_t n, size_t *ret_used,
                           struct err *e)
{
    *ret_used = 0;
    if (h->len != 0 || h->side != HTTP1_REQUEST || h->blank_done) {
        return 0;
    }
    if (h->blank_line) {
        if (p[0] != '\n') {
            return http1_fail(h, -EBADMSG, 400, e, "CR without LF before the request");
        }
        h->blank_line = false;
        h->blank_done = true;
        *ret_used = 1;
    } else if (p[0] == '\r') {
        h->blank_line = true;
        *ret_used = 1;
        if (n > 1) {
            size_t more;
            int r = head_skip_blank(h, p + 1, n - 1, &more, e);
            *ret_used += more;
            return r;
        }
    }
    return 0;
}

/* Judges the lines that are complete from `scan` on. 1: the head is over at h->scan. */
static int head_scan(struct http1 *h, struct err *e)
{
    for (;;) {
        const char *lf = memchr(h->buf + h->scan, '\n', h->len - h->scan);
        if (lf == NULL) {
            h->scan = h->len;
            if (h->len >= head_limit(h)) {
                return head_too_long(h, e);
            }
            return 0;
        }
        size_t end = (size_t)(lf - h->buf);
        if (end >= HTTP1_HEAD_MAX) {
            return head_too_long(h, e);
        }
        if (end == h->line_start || h->buf[end - 1] != '\r') {
            return http1_fail(h, -EBADMSG, 400, e, "LF without CR in the head");
        }
        struct str line = { h->buf + h->line_start, end - 1 - h->line_start };
        bool over;
        int r = head_line(h, line, &over, e);
        if (r != 0) {
            return r;
        }
        h->scan = end + 1;
        h->line_start = h->scan;
        if (over) {
            return 1;
        }
    }
}

static int feed_head(struct http1 *h, const char *p, size_t n, size_t *ret_used, struct err *e)
{
    size_t skipped = 0;
    int r = head_skip_blank(h, p, n, &skipped, e);
    if (r != 0) {
        return r;
    }
    p += skipped;
    n -= skipped;
    if (n == 0) {
        *ret_used = skipped;
        return HTTP1_MORE;
    }
    /* One byte more than the limit shows that it was crossed. */
    size_t had = h->len;
    size_t take = n < HTTP1_HEAD_MAX + 1 - had ? n : HTTP1_HEAD_MAX + 1 - had;
    if (head_grow(h, had + take) != 0) {
        return http1_fail(h, -ENOMEM, 503, e, "out of memory");
    }
    memcpy(h->buf + had, p, take);
    h->len = had + take;
    r = head_scan(h, e);
    if (r < 0) {
        return r;
    }
    if (r == 0) {
        *ret_used = skipped + take;
        return HTTP1_MORE;
    }
    h->len = h->scan; /* what is behind the head stays the caller's */
    r = http1_parse_head(h, e);
    if (r != 0) {
        return r;
    }
    *ret_used = skipped + (h->len - had);
    return HTTP1_HEAD;
}

/* --- chunks --- */

/* What a chunk's line and end cost beyond 16 bytes and twice its data adds up: a body of one-byte
 * chunks with long extensions is an attack, not a message. */
static int chunk_waste(struct http1 *h, struct err *e)
{
    uint64_t fair = h->left > UINT64_MAX / 4 ? UINT64_MAX / 2 : 16 + 2 * h->left;
    h->waste += h->overhead;
    h->waste -= h->waste < fair ? h->waste : fair;
    if (h->waste > CHUNK_WASTE_MAX) {
        return http1_fail(h, -E2BIG, 400, e, "chunk extensions outweigh the body");
    }
    return 0;
}

static bool chunk_text(unsigned char c)
{
    return c == '\t' || (c >= 0x20 && c != 0x7f);
}

/* "1a;name=value" CR LF, byte by byte. */
static int chunk_size_byte(struct http1 *h, char c, struct err *e)
{
    if (++h->overhead > HTTP1_CHUNK_OVERHEAD_MAX) {
        return http1_fail(h, -E2BIG, 400, e, "a chunk's size line is longer than %d bytes",
                          HTTP1_CHUNK_OVERHEAD_MAX);
    }
    if (h->saw_cr) {
        if (c != '\n') {
            return http1_fail(h, -EBADMSG, 400, e, "CR without LF in a chunk's size line");
        }
        h->saw_cr = false;
        h->state = h->left == 0 ? HTTP1_S_TRAILER : HTTP1_S_CHUNK_DATA;
        int r = h->left != 0 ? chunk_waste(h, e) : 0;
        h->digits = 0;
        h->in_extension = false;
        h->overhead = 0;
        return r;
    }
    if (c == '\r' && h->digits > 0) {
        h->saw_cr = true;
        return 0;
    }
    if (h->in_extension) {
        return chunk_text((unsigned char)c)
                   ? 0
                   : http1_fail(h, -EBADMSG, 400, e, "a control character in a chunk extension");
    }
    if (c == ';' && h->digits > 0) {
        h->in_extension = true;
        return 0;
    }
    uint64_t digit;
    if (str_hex_u64((struct str){ &c, 1 }, &digit) != 0) {
        return http1_fail(h, -EBADMSG, 400, e, "malformed chunk size");
    }
    if (++h->digits > CHUNK_DIGITS_MAX) {
        return http1_fail(h, -EBADMSG, 400, e, "a chunk size of more than %d digits",
                          CHUNK_DIGITS_MAX);
    }
    h->left = h->left << 4 | digit;
    return 0;
}

/* CR LF after the data. */
static int chunk_end_byte(struct http1 *h, char c, struct err *e)
{
    if (c != (h->saw_cr ? '\n' : '\r')) {
        return http1_fail(h, -EBADMSG, 400, e, "chunk data is not followed by CR LF");
    }
    if (h->saw_cr) {
        h->state = HTTP1_S_CHUNK_SIZE;
    }
    h->saw_cr = !h->saw_cr;
    return 0;
}

/* Trailer fields are read and dropped. */
static int trailer_byte(struct http1 *h, char c, struct err *e)
{
    if (++h->overhead > HTTP1_CHUNK_OVERHEAD_MAX) {
        return http1_fail(h, -E2BIG, 431, e, "trailers are longer than %d bytes",
                          HTTP1_CHUNK_OVERHEAD_MAX);
    }
    if (h->saw_cr) {
        if (c != '\n') {
            return http1_fail(h, -EBADMSG, 400, e, "CR without LF in a trailer");
        }
        h->saw_cr = false;
        if (!h->in_line) {
            h->state = HTTP1_S_DONE;
        }
        h->in_line = false;
        return 0;
    }
    if (c == '\r') {
        h->saw_cr = true;
    } else if (!chunk_text((unsigned char)c) || (!h->in_line && (c == ' ' || c == '\t'))) {
        return http1_fail(h, -EBADMSG, 400, e, "malformed trailer");
    } else {
        h->in_line = true;
    }
    return 0;
}

static int feed_chunked(struct http1 *h, const char *p, size_t n, size_t *ret_used,
                        struct str *ret_body, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        int r = 0;
        if (h->state == HTTP1_S_CHUNK_DATA) {
            size_t take = n - i < h->left ? n - i : (size_t)h->left;
            *ret_body = (struct str){ p + i, take };
            *ret_used = i + take;
            h->left -= take;
            if (h->left == 0) {
                h->state = HTTP1_S_CHUNK_END;
            }
            return HTTP1_BODY;
        }
        if (h->state == HTTP1_S_CHUNK_SIZE) {
            r = chunk_size_byte(h, p[i], e);
        } else if (h->state == HTTP1_S_CHUNK_END) {
            r = chunk_end_byte(h, p[i], e);
        } else {
            r = trailer_byte(h, p[i], e);
        }
        if (r != 0) {
            return r;
        }
        if (h->state == HTTP1_S_DONE) {
            *ret_used = i + 1;
            return HTTP1_END;
        }
    }
    *ret_used = n;
    return HTTP1_MORE;
}

/* --- feeding --- */

int http1_feed(struct http1 *h, const char *p, size_t n, size_t *ret_used, struct str *ret_body,
               struct err *e)
{
    *ret_used = 0;
    *ret_body = (struct str){ NULL, 0 };
    if (h->state == HTTP1_S_FAILED) {
        return err_say(e, h->failure, "the connection failed before");
    }
    if (h->state == HTTP1_S_DONE) {
        return HTTP1_END;
    }
    if (n == 0) {
        return HTTP1_MORE;
    }
    if (h->state == HTTP1_S_HEAD) {
        return feed_head(h, p, n, ret_used, e);
    }
    if (h->state == HTTP1_S_BODY_CLOSE) {
        *ret_body = (struct str){ p, n };
        *ret_used = n;
        return HTTP1_BODY;
    }
    if (h->state == HTTP1_S_BODY_LENGTH) {
        size_t take = n < h->left ? n : (size_t)h->left;
        *ret_body = (struct str){ p, take };
        *ret_used = take;
        h->left -= take;
        if (h->left == 0) {
            h->state = HTTP1_S_DONE;
        }
        return HTTP1_BODY;
    }
    return feed_chunked(h, p, n, ret_used, ret_body, e);
}

int http1_finish(struct http1 *h, struct err *e)
{
    if (h->state == HTTP1_S_BODY_CLOSE) {
        h->state = HTTP1_S_DONE;
    }
    if (h->state == HTTP1_S_DONE || (h->state == HTTP1_S_HEAD && !http1_in_head(h))) {
        return 0;
    }
    return http1_fail(h, -EPIPE, 400, e, "the connection was closed in the middle of a message");
}
