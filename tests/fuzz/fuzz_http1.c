/*
 * One connection, three ways: the bytes in one piece, one by one, and cut where the first byte
 * says. All three must tell the same story. The first byte also chooses the side and whether a body
 * is expected.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/http1.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void say_head(struct buf *out, const struct http1_head *head)
{
    buf_addf(out, "H %.*s|%.*s|%.*s|%.*s|%d|%d|%d%d%d%d%d|%llu\n", STR_ARG(head->method),
             STR_ARG(head->target), STR_ARG(head->path), STR_ARG(head->query), head->status,
             head->minor, head->keep_alive, head->chunked, head->has_length, head->expect_continue,
             head->upgrade, (unsigned long long)head->length);
    for (size_t i = 0; i < head->headers_len; i++) {
        buf_addf(out, "%.*s=%.*s\n", STR_ARG(head->headers[i].name),
                 STR_ARG(head->headers[i].value));
    }
    /* What the head says about itself. */
    INSIST(!(head->chunked && head->has_length));
    INSIST(head->minor == 0 || head->minor == 1);
    INSIST(head->headers_len <= HTTP1_HEADERS_MAX);
    char text[64];
    size_t n;
    (void)http1_unescape(head->path, text, sizeof text, &n);
    (void)http1_query(head->query, "a", 0, text, sizeof text);
    (void)http1_has_token(head, "connection", "close");
}

/* Returns false after a failure. */
static bool feed_piece(struct http1 *h, const char *p, size_t n, struct buf *out)
{
    struct err e;
    struct str body;
    size_t used;
    for (;;) {
        int r = http1_feed(h, p, n, &used, &body, &e);
        INSIST(used <= n);
        if (r < 0) {
            INSIST(http1_status(h) >= 400 && err_text(&e)[0] != '\0');
            buf_addf(out, "F %d %d\n", r, http1_status(h));
            return false;
        }
        p += used;
        n -= used;
        if (r == HTTP1_MORE) {
            INSIST(n == 0);
            return true;
        }
        if (r == HTTP1_HEAD) {
            say_head(out, http1_head(h));
        } else if (r == HTTP1_BODY) {
            INSIST(body.n != 0);
            for (size_t i = 0; i < body.n; i++) {
                buf_addf(out, "b%02x\n", (unsigned char)body.p[i]);
            }
        } else {
            buf_adds(out, "E\n");
            http1_reset(h);
        }
    }
}

static void tell(const char *p, size_t n, unsigned mode, size_t step, struct buf *out)
{
    struct http1 *h = NULL;
    struct err e;
    bool alive = true;
    if (http1_new((mode & 1) != 0 ? HTTP1_RESPONSE : HTTP1_REQUEST, &h) != 0) {
        abort();
    }
    if ((mode & 2) != 0) {
        http1_expect_no_body(h);
    }
    while (alive && n != 0) {
        size_t piece = step < n ? step : n;
        char *copy = malloc(piece); /* of exactly that size, for ASan */
        if (copy == NULL) {
            abort();
        }
        memcpy(copy, p, piece);
        alive = feed_piece(h, copy, piece, out);
        free(copy);
        p += piece;
        n -= piece;
    }
    if (alive) {
        buf_addf(out, "I %d", http1_in_head(h));
        buf_addf(out, "X %d\n", http1_finish(h, &e));
    }
    http1_free(h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf out[3] = { BUF_INIT(1 << 24), BUF_INIT(1 << 24), BUF_INIT(1 << 24) };
    if (size > 1) {
        const char *p = (const char *)data + 1;
        tell(p, size - 1, data[0], SIZE_MAX, &out[0]);
        tell(p, size - 1, data[0], 1, &out[1]);
        tell(p, size - 1, data[0], 2U + (data[0] >> 2), &out[2]);
        INSIST(strcmp(buf_cstr(&out[0]), buf_cstr(&out[1])) == 0);
        INSIST(strcmp(buf_cstr(&out[0]), buf_cstr(&out[2])) == 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(out); i++) {
        buf_release(&out[i]);
    }
    return 0;
}
