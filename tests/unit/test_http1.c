#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/buf.h"
#include "common/http1.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

/*
 * A transcript says what came out of a connection: each head with all of its fields, each body as
 * one text whatever its pieces were, each end, each failure with its code and status.
 */
struct feeder {
    enum http1_side side;
    bool no_body;
    struct rng *cuts; /* where to cut the input; NULL: see step */
    size_t step;      /* bytes per call; 0: all */
};

static void say_head(struct buf *out, const struct http1_head *head)
{
    buf_addf(out, "HEAD %.*s %.*s path=%.*s query=%.*s status=%d 1.%d%s%s%s%s%s",
             STR_ARG(head->method), STR_ARG(head->target), STR_ARG(head->path),
             STR_ARG(head->query), head->status, head->minor, head->keep_alive ? " keep" : "",
             head->chunked ? " chunked" : "", head->expect_continue ? " expect" : "",
             head->upgrade ? " upgrade" : "", head->has_length ? " length" : "");
    if (head->has_length) {
        buf_addf(out, "=%llu", (unsigned long long)head->length);
    }
    for (size_t i = 0; i < head->headers_len; i++) {
        buf_addf(out, " {%.*s}={%.*s}", STR_ARG(head->headers[i].name),
                 STR_ARG(head->headers[i].value));
    }
    buf_addc(out, '\n');
}

static size_t next_cut(const struct feeder *f, size_t left)
{
    size_t n = f->cuts != NULL ? 1 + (size_t)rng_below(f->cuts, 40) : f->step != 0 ? f->step : left;
    return n < left ? n : left;
}

/* Runs the bytes through one connection, with http1_reset() after each message, until they are used
 * up. */
static void transcript(const struct feeder *f, const char *p, size_t n, bool then_close,
                       struct buf *out)
{
    struct http1 *h = NULL;
    AUTO_BUF struct buf body = BUF_INIT(1 << 20);
    struct err e = { 0 };
    bool over = false;

    assert_int_equal(http1_new(f->side, &h), 0);
    if (f->no_body) {
        http1_expect_no_body(h);
    }
    while (!over) {
        /* A copy of exactly that size: reading past it is seen by ASan. */
        size_t piece = next_cut(f, n);
        char *copy = mem_dup(p, piece);
        size_t done = 0;
        over = n == 0;
        for (;;) {
            size_t used = 0;
            struct str slice;
            int r = http1_feed(h, copy + done, piece - done, &used, &slice, &e);
            assert_true(used <= piece - done);
            if (r < 0) {
                buf_addf(out, "FAIL %s %d\n", err_name(r), http1_status(h));
                assert_true(err_text(&e)[0] != '\0');
                assert_int_equal(http1_feed(h, "x", 1, &used, &slice, NULL), r); /* for good */
                mem_free(copy);
                http1_free(h);
                return;
            }
            done += used;
            if (r == HTTP1_MORE) {
                assert_int_equal(done, piece);
                break;
            }
            if (r == HTTP1_HEAD) {
                say_head(out, http1_head(h));
            } else if (r == HTTP1_BODY) {
                assert_true(slice.n != 0);
                assert_true(slice.p >= copy && slice.p + slice.n <= copy + piece);
                buf_addstr(&body, slice);
            } else {
                buf_addf(out, "END {%s}\n", buf_cstr(&body));
                buf_reset(&body);
                http1_reset(h);
            }
        }
        mem_free(copy);
        p += piece;
        n -= piece;
    }
    if (then_close) {
        int r = http1_finish(h, &e);
        size_t used;
        struct str slice;
        if (r < 0) {
            buf_addf(out, "FAIL %s %d\n", err_name(r), http1_status(h));
        } else if (http1_feed(h, "", 0, &used, &slice, &e) == HTTP1_END) {
            buf_addf(out, "END {%s}\n", buf_cstr(&body));
        }
    }
    if (body.len != 0 && !then_close) {
        buf_addf(out, "PART {%s}\n", buf_cstr(&body));
    }
    buf_addf(out, "%s\n", http1_in_head(h) ? "in head" : "idle");
    http1_free(h);
}

/* The same however it is cut. */
static void expect_n(enum http1_side side, bool no_body, const char *in, size_t n, bool then_close,
                     const char *want)
{
    static const size_t steps[] = { 0, 1, 2, 3, 7, 64 };
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        AUTO_BUF struct buf out = BUF_INIT(1 << 22);
        struct feeder f = { .side = side, .no_body = no_body, .step = steps[i] };
        transcript(&f, in, n, then_close, &out);
        if (strcmp(buf_cstr(&out), want) != 0) {
            fail_msg("step %zu of\n%.300s\ngot:\n%s\nwant:\n%s", steps[i], in, buf_cstr(&out),
                     want);
        }
    }
}

static void request(const char *in, const char *want)
{
    expect_n(HTTP1_REQUEST, false, in, strlen(in), false, want);
}

static void response(const char *in, const char *want)
{
    expect_n(HTTP1_RESPONSE, false, in, strlen(in), true, want);
}

#define GET "GET /x HTTP/1.1\r\nHost: a\r\n"
#define POST "POST /x HTTP/1.1\r\nHost: a\r\n"
#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"

static void requests(void **state)
{
    (void)state;
    request(GET "\r\n", "HEAD GET /x path=/x query= status=0 1.1 keep {Host}={a}\nEND {}\nidle\n");
    request("POST /a%20b?c=d&e HTTP/1.1\r\nhost:a\r\nCONTENT-LENGTH:  5 \r\nX:\r\n\r\nhello",
            "HEAD POST /a%20b?c=d&e path=/a%20b query=c=d&e status=0 1.1 keep length=5 {host}={a} "
            "{CONTENT-LENGTH}={5} {X}={}\nEND {hello}\nidle\n");
    request(
        POST "Content-Length: 0\r\n\r\n",
        "HEAD POST /x path=/x query= status=0 1.1 keep length=0 {Host}={a} {Content-Length}={0}\nEND {}\n"
        "idle\n");
    request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "HEAD OPTIONS * path=* query= status=0 1.1 keep {Host}={a}\nEND {}\nidle\n");
    request(
        "GET http://a:80/p?q HTTP/1.1\r\nHost: A:80\r\n\r\n",
        "HEAD GET http://a:80/p?q path=/p query=q status=0 1.1 keep {Host}={A:80}\nEND {}\nidle\n");
    request("GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n",
            "HEAD GET http://a?q path=/ query=q status=0 1.1 keep {Host}={a}\nEND {}\nidle\n");
    request("GET / HTTP/1.0\r\n\r\n", "HEAD GET / path=/ query= status=0 1.0\nEND {}\nidle\n");
    request("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            "HEAD GET / path=/ query= status=0 1.0 keep {Connection}={Keep-Alive}\nEND {}\nidle\n");
    request(
        GET "Connection: foo, CLOSE\r\n\r\n",
        "HEAD GET /x path=/x query= status=0 1.1 {Host}={a} {Connection}={foo, CLOSE}\nEND {}\nidle\n");
    request(
        POST "Expect: 100-Continue\r\nContent-Length: 2\r\n\r\nab",
        "HEAD POST /x path=/x query= status=0 1.1 keep expect length=2 {Host}={a} {Expect}={100-Continue} "
        "{Content-Length}={2}\nEND {ab}\nidle\n");
    request(
        GET "Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HEAD GET /x path=/x query= status=0 1.1 keep upgrade {Host}={a} {Connection}={upgrade} "
        "{Upgrade}={h2c}\nEND {}\nidle\n");
    request(
        GET "X: gr\xc3\xbc\xc3\x9f\t!\r\n\r\n",
        "HEAD GET /x path=/x query= status=0 1.1 keep {Host}={a} {X}={gr\xc3\xbc\xc3\x9f\t!}\nEND {}\nidle\n");
    request(
        "\r\n" GET "\r\n",
        "HEAD GET /x path=/x query= status=0 1.1 keep {Host}={a}\nEND {}\nidle\n"); /* RFC 9112, 2.2
                                                                                     */
    request(
        "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD PATCH /v2/a/blobs/uploads/1 path=/v2/a/blobs/uploads/1 query= status=0 1.1 keep {Host}={a}\n"
        "END {}\nidle\n");
}

static void pipelines_and_pieces(void **state)
{
    (void)state;
    request(
        GET "\r\n" POST "Content-Length: 3\r\n\r\nabc" GET "\r\n",
        "HEAD GET /x path=/x query= status=0 1.1 keep {Host}={a}\nEND {}\n"
        "HEAD POST /x path=/x query= status=0 1.1 keep length=3 {Host}={a} {Content-Length}={3}\nEND {abc}\n"
        "HEAD GET /x path=/x query= status=0 1.1 keep {Host}={a}\nEND {}\nidle\n");
    request("GET /x HT", "in head\n");
    request("\r", "in head\n");
    request("\r\n", "idle\n");
    request("", "idle\n");
    request(
        POST "Content-Length: 3\r\n\r\nab",
        "HEAD POST /x path=/x query= status=0 1.1 keep length=3 {Host}={a} {Content-Length}={3}\n"
        "PART {ab}\nidle\n");
    expect_n(HTTP1_REQUEST, false, "GET", 3, true, "FAIL EPIPE 400\nidle\n");
    expect_n(HTTP1_REQUEST, false, "", 0, true, "idle\n");
}

static void chunks(void **state)
{
#define HEAD_CHUNKED \
    "HEAD POST /x path=/x query= status=0 1.1 keep chunked {Host}={a} {Transfer-Encoding}={chunked}\n"
    (void)state;
    request(CHUNKED "3\r\nabc\r\n0A;x=\"y z\"\r\n0123456789\r\n0\r\n\r\n",
            HEAD_CHUNKED "END {abc0123456789}\nidle\n");
    request(CHUNKED "0000000000000001\r\na\r\n0\r\nTrailer: dropped\r\nX: y\r\n\r\n" GET "\r\n",
            HEAD_CHUNKED
            "END {a}\nHEAD GET /x path=/x query= status=0 1.1 keep {Host}={a}\nEND {}\nidle\n");
    request(
        POST "transfer-encoding: CHUNKED\r\n\r\n0\r\n\r\n",
        "HEAD POST /x path=/x query= status=0 1.1 keep chunked {Host}={a} {transfer-encoding}={CHUNKED}\n"
        "END {}\nidle\n");
    request(CHUNKED "3\r\nab", HEAD_CHUNKED "PART {ab}\nidle\n");

    static const char *const bad[] = {
        "\r\n",        "g\r\n",      "-1\r\n",     "+1\r\n",
        "0x1\r\n",     " 1\r\n",     "1 \r\n",     "1 ;x\r\n",
        "1\n",         "1\r\r\n",    ";x\r\n",     "00000000000000001\r\n", /* 17 digits */
        "1;a\x01\r\n", "1;a\nb\r\n", "1;\x7f\r\n", "ffffffffffffffff0\r\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char in[400];
        (void)snprintf(in, sizeof in, "%s%s", CHUNKED, bad[i]);
        request(in, HEAD_CHUNKED "FAIL EBADMSG 400\n");
    }
    /* Data that is longer or shorter than its size. */
    static const char *const unterminated[] = { "ax", "a\n", "a\rx", "ab\r\n", "a0\r\n\r\n" };
    for (size_t i = 0; i < ARRAY_LEN(unterminated); i++) {
        char in[400];
        (void)snprintf(in, sizeof in, "%s1\r\n%s", CHUNKED, unterminated[i]);
        request(in, HEAD_CHUNKED "FAIL EBADMSG 400\n");
    }
    static const char *const trailers[] = { " folded: x\r\n\r\n", "\tx\r\n\r\n",
                                            "a: b\nc: d\r\n\r\n", "a: \x01\r\n\r\n",
                                            "a\rb\r\n\r\n",       "\n" };
    for (size_t i = 0; i < ARRAY_LEN(trailers); i++) {
        char in[400];
        (void)snprintf(in, sizeof in, "%s0\r\n%s", CHUNKED, trailers[i]);
        request(in, HEAD_CHUNKED "FAIL EBADMSG 400\n");
    }
}

static void chunk_overhead_is_bounded(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        AUTO_BUF struct buf in = BUF_INIT(1 << 20);
        buf_adds(&in, CHUNKED);
        buf_adds(&in, kind < 2 ? "1;" : "0\r\nx: ");
        for (int i = 0; i < HTTP1_CHUNK_OVERHEAD_MAX - (kind % 2 == 0 ? 10 : 0); i++) {
            buf_addc(&in, 'e');
        }
        buf_adds(&in, kind < 2 ? "\r\na\r\n0\r\n\r\n" : "\r\n\r\n");
        static const char *const want[] = { HEAD_CHUNKED "END {a}\nidle\n",
                                            HEAD_CHUNKED "FAIL E2BIG 400\n",
                                            HEAD_CHUNKED "END {}\nidle\n",
                                            HEAD_CHUNKED "FAIL E2BIG 431\n" };
        request(buf_cstr(&in), want[kind]);
    }
    /* Many small chunks with long extensions are refused, many without pass. */
    for (int extended = 0; extended < 2; extended++) {
        AUTO_BUF struct buf in = BUF_INIT(1 << 20);
        AUTO_BUF struct buf out = BUF_INIT(1 << 20);
        struct feeder f = { .side = HTTP1_REQUEST };
        buf_adds(&in, CHUNKED);
        for (int i = 0; i < 1000; i++) {
            buf_addf(&in, "1%s\r\na\r\n",
                     extended ? ";0123456789012345678901234567890123456789" : ";x");
        }
        buf_adds(&in, "0\r\n\r\n");
        transcript(&f, in.data, in.len, false, &out);
        assert_int_equal(strstr(buf_cstr(&out), "FAIL E2BIG 400") != NULL, extended);
    }
}

/* --- everything that http-parser's Debian build lets through, and what it does not --- */

static void refused(const char *in, size_t n, const char *want)
{
    char line[64];
    (void)snprintf(line, sizeof line, "FAIL %s\n", want);
    expect_n(HTTP1_REQUEST, false, in, n, false, line);
}

static const struct {
    const char *in;
    const char *want;
} malformed[] = {
    /* Names, colons, folding, line ends. */
    { POST "Content-Length : 4\r\n\r\nabcd", "EPROTO 400" },
    { POST "Content-Length\t: 4\r\n\r\nabcd", "EPROTO 400" },
    { GET "X Y: 1\r\n\r\n", "EBADMSG 400" },
    { GET ": 1\r\n\r\n", "EBADMSG 400" },
    { GET "X\r\n\r\n", "EBADMSG 400" },
    { GET "X@: 1\r\n\r\n", "EBADMSG 400" },
    { GET "X\xc3\xbc: 1\r\n\r\n", "EBADMSG 400" },
    { GET "X: 1\r\n folded\r\n\r\n", "EBADMSG 400" },
    { GET "X: 1\r\n\tfolded\r\n\r\n", "EBADMSG 400" },
    { "GET /x HTTP/1.1\r\n Host: a\r\n\r\n", "EBADMSG 400" },
    { "GET /x HTTP/1.1\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET /x HTTP/1.1\r\nHost: a\n\r\n", "EBADMSG 400" },
    { GET "\n", "EBADMSG 400" },
    { GET "X: a\rb\r\n\r\n", "EBADMSG 400" },
    { GET "X: a\r\r\n\r\n", "EBADMSG 400" },
    { "\n" GET "\r\n", "EBADMSG 400" },
    { "\r\n\r\n" GET "\r\n", "EBADMSG 400" },
    { "\rx", "EBADMSG 400" },
    { GET "X: \x01\r\n\r\n", "EBADMSG 400" },
    { GET "X: \x7f\r\n\r\n", "EBADMSG 400" },
    /* The request line. */
    { "GET /\xc3\xbc HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET  /a HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET /a  HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { " GET /a HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET\t/a HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET /a\r\n\r\n", "EBADMSG 400" },
    { "GET\r\n\r\n", "EBADMSG 400" },
    { "G(T /a HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET a HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET * HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "EPROTO 400" },
    { "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", "EPROTO 400" },
    { "GET http://u@a/x HTTP/1.1\r\nHost: a\r\n\r\n", "EPROTO 400" },
    { "FETCH /a HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 501" },
    { "get /a HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 501" },
    { "GETT /a HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 501" },
    { "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "EBADMSG 501" },
    /* Versions. */
    { "GET /x HTTP/9.9\r\nHost: a\r\n\r\n", "EBADMSG 505" },
    { "GET /x HTTP/2.0\r\nHost: a\r\n\r\n", "EBADMSG 505" },
    { "GET /x HTTP/1.2\r\nHost: a\r\n\r\n", "EBADMSG 505" },
    { "GET /x HTTP/0.9\r\nHost: a\r\n\r\n", "EBADMSG 505" },
    { "GET /x http/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET /x HTTP/1.1 \r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET /x HTTP/01.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET /x HTTP/1.1x\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "GET /x ICE/1.1\r\nHost: a\r\n\r\n", "EBADMSG 400" },
    { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "EBADMSG 505" },
    /* Host. */
    { "GET /x HTTP/1.1\r\n\r\n", "EPROTO 400" },
    { GET "Host: a\r\n\r\n", "EPROTO 400" },
    { GET "HOST: b\r\n\r\n", "EPROTO 400" },
    { "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", "EBADMSG 400" },
    { "GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n", "EBADMSG 400" },
    { "GET /x HTTP/1.1\r\nHost: a, b\r\n\r\n", "EBADMSG 400" },
    { "GET /x HTTP/1.1\r\nHost: u@a\r\n\r\n", "EBADMSG 400" },
    /* Framing. */
    { POST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", "EPROTO 400" },
    { POST "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", "EPROTO 400" },
    { POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "EPROTO 400" },
    { POST "Transfer-Encoding: chunked, chunked\r\n\r\n", "EPROTO 400" },
    { POST "Transfer-Encoding: chunked,\r\n\r\n", "EPROTO 400" },
    { POST "Transfer-Encoding: chunked, identity\r\n\r\n", "EPROTO 400" },
    { POST "Transfer-Encoding: xchunked\r\n\r\n", "EPROTO 400" },
    { POST "Transfer-Encoding: gzip\r\n\r\n", "EPROTO 400" },
    { POST "Transfer-Encoding: identity\r\n\r\n", "EPROTO 400" },
    { POST "Transfer-Encoding:\r\n\r\n", "EPROTO 400" },
    { POST "Transfer-Encoding: \"chunked\"\r\n\r\n", "EPROTO 400" },
    { POST "Transfer-Encoding: chunked;q=1\r\n\r\n", "EPROTO 400" },
    { POST "Transfer-Encoding: gzip, chunked\r\n\r\n", "EPROTO 501" },
    { POST "Transfer-Encoding: \x0b"
           "chunked\r\n\r\n",
      "EBADMSG 400" },
    { "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "EPROTO 400" },
    { POST "Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", "EPROTO 400" },
    { POST "Content-Length: 4\r\ncontent-length: 5\r\n\r\nabcd", "EPROTO 400" },
    { POST "Content-Length: 4, 4\r\n\r\nabcd", "EPROTO 400" },
    { POST "Content-Length: +4\r\n\r\nabcd", "EPROTO 400" },
    { POST "Content-Length: -4\r\n\r\nabcd", "EPROTO 400" },
    { POST "Content-Length: 0x4\r\n\r\nabcd", "EPROTO 400" },
    { POST "Content-Length: 4.0\r\n\r\nabcd", "EPROTO 400" },
    { POST "Content-Length: 4 4\r\n\r\nabcd", "EPROTO 400" },
    { POST "Content-Length: 4a\r\n\r\nabcd", "EPROTO 400" },
    { POST "Content-Length:\r\n\r\nabcd", "EPROTO 400" },
    { POST "Content-Length: 18446744073709551616\r\n\r\n", "EPROTO 400" },
    { POST "Content-Length: 99999999999999999999\r\n\r\n", "EPROTO 400" },
};

static void malformed_heads(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(malformed); i++) {
        refused(malformed[i].in, strlen(malformed[i].in), malformed[i].want);
    }
    /* NUL in each part. */
    static const char in_line[] = "GET /\0x HTTP/1.1\r\nHost: a\r\n\r\n";
    static const char in_name[] = GET "X\0: 1\r\n\r\n";
    static const char in_value[] = GET "X: \0\r\n\r\n";
    refused(in_line, sizeof in_line - 1, "EBADMSG 400");
    refused(in_name, sizeof in_name - 1, "EBADMSG 400");
    refused(in_value, sizeof in_value - 1, "EBADMSG 400");
}

static void fill(struct buf *b, char c, size_t n)
{
    while (n-- > 0) {
        buf_addc(b, c);
    }
}

static void limits(void **state)
{
    AUTO_BUF struct buf in = BUF_INIT(1 << 20);
    (void)state;
    /* A target at the limit, and past it; one that never ends. */
    for (size_t more = 0; more < 2; more++) {
        buf_reset(&in);
        buf_adds(&in, "GET /");
        fill(&in, 'a', HTTP1_TARGET_MAX - 1 + more);
        buf_adds(&in, " HTTP/1.1\r\nHost: a\r\n\r\n");
        AUTO_BUF struct buf out = BUF_INIT(1 << 20);
        struct feeder f = { .side = HTTP1_REQUEST };
        transcript(&f, in.data, in.len, false, &out);
        assert_int_equal(strcmp(buf_cstr(&out), "FAIL E2BIG 414\n") == 0, more);
    }
    buf_reset(&in);
    fill(&in, 'a', HTTP1_HEAD_MAX * 2);
    refused(in.data, in.len, "E2BIG 414");
    /* Heads at the limit, and past it: cut in every way, with the end and without. */
    for (size_t more = 0; more < 2; more++) {
        for (size_t ended = 0; ended < 2; ended++) {
            buf_reset(&in);
            buf_adds(&in, GET "X: ");
            fill(&in, 'v', HTTP1_HEAD_MAX - in.len - 4 + more);
            buf_adds(&in, ended ? "\r\n\r\n" : "vvvvvvvv");
            AUTO_BUF struct buf whole = BUF_INIT(1 << 20);
            AUTO_BUF struct buf single = BUF_INIT(1 << 20);
            struct feeder f = { .side = HTTP1_REQUEST };
            transcript(&f, in.data, in.len, false, &whole);
            f.step = 1;
            transcript(&f, in.data, in.len, false, &single);
            assert_string_equal(buf_cstr(&whole), buf_cstr(&single));
            assert_int_equal(strcmp(buf_cstr(&whole), "FAIL E2BIG 431\n") == 0, more || !ended);
        }
    }
    /* Fields. */
    for (size_t more = 0; more < 2; more++) {
        buf_reset(&in);
        buf_adds(&in, GET);
        for (size_t i = 1; i < HTTP1_HEADERS_MAX + more; i++) {
            buf_addf(&in, "X-%zu: %zu\r\n", i, i);
        }
        buf_adds(&in, "\r\n");
        AUTO_BUF struct buf out = BUF_INIT(1 << 20);
        struct feeder f = { .side = HTTP1_REQUEST };
        transcript(&f, in.data, in.len, false, &out);
        assert_int_equal(strcmp(buf_cstr(&out), "FAIL E2BIG 431\n") == 0, more);
        assert_int_equal(strstr(buf_cstr(&out), "{X-99}={99}\nEND") != NULL, !more);
    }
}

static void responses(void **state)
{
    (void)state;
    response(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HEAD   path= query= status=200 1.1 keep length=2 {Content-Length}={2}\nEND {ok}\nidle\n");
    response("HTTP/1.1 204\r\n\r\n", "HEAD   path= query= status=204 1.1 keep\nEND {}\nidle\n");
    response(
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        "HEAD   path= query= status=304 1.1 keep length=5 {Content-Length}={5}\nEND {}\nidle\n");
    response(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
        "\r\n",
        "HEAD   path= query= status=100 1.1 keep\nEND {}\n"
        "HEAD   path= query= status=201 1.1 keep chunked {Transfer-Encoding}={chunked}\nEND {a}\nidle\n");
    response("HTTP/1.0 200 OK\r\n\r\nuntil the end",
             "HEAD   path= query= status=200 1.0\nEND {until the end}\nidle\n");
    response(
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        "HEAD   path= query= status=200 1.1 keep length=5 {Content-Length}={5}\nFAIL EPIPE 400\nidle\n");
    expect_n(
        HTTP1_RESPONSE, true, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 38, true,
        "HEAD   path= query= status=200 1.1 keep length=5 {Content-Length}={5}\nEND {}\nidle\n");
    static const char *const bad[] = {
        "HTTP/1.1 20 OK\r\n\r\n",        "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",       "HTTP/1.1 600 OK\r\n\r\n",  "HTTP/1.1 200 O\x01K\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",           "HTTP/1.1\r\n\r\n",         "200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\n x\r\n\r\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        response(bad[i], "FAIL EBADMSG 400\n");
    }
    response("HTTP/2.0 200 OK\r\n\r\n", "FAIL EBADMSG 505\n");
    response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
             "FAIL EPROTO 400\n");
    response("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "FAIL EPROTO 400\n");
}

/* Random messages, mutated, cut at random places: always what the whole gives. */
static void any_cut_gives_the_same(void **state)
{
    static const char *const seeds[] = {
        GET "\r\n" CHUNKED "5;x\r\nhello\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n" POST
            "Content-Length: 4\r\n\r\nabcd",
        "POST /a?b=c HTTP/1.1\r\nHost: h\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody",
        "\r\nGET http://h/ HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\n",
    };
    struct rng r;
    unsigned failed = 0;
    unsigned passed = 0;
    (void)state;
    rng_init(&r, test_seed("any_cut_gives_the_same"));
    for (int i = 0; i < 6000; i++) {
        char text[512];
        const char *seed = seeds[rng_below(&r, ARRAY_LEN(seeds))];
        size_t n = strlen(seed);
        memcpy(text, seed, n + 1);
        for (uint64_t m = rng_below(&r, 3); m > 0; m--) {
            static const char odd[] = "\r\n\t \0:;,0a\x80\x7f";
            text[rng_below(&r, n)] = odd[rng_below(&r, sizeof odd - 1)];
        }
        AUTO_BUF struct buf whole = BUF_INIT(1 << 16);
        AUTO_BUF struct buf cut = BUF_INIT(1 << 16);
        AUTO_BUF struct buf bytes = BUF_INIT(1 << 16);
        struct feeder f = { .side = HTTP1_REQUEST };
        transcript(&f, text, n, true, &whole);
        f.cuts = &r;
        transcript(&f, text, n, true, &cut);
        f = (struct feeder){ .side = HTTP1_REQUEST, .step = 1 };
        transcript(&f, text, n, true, &bytes);
        assert_string_equal(buf_cstr(&whole), buf_cstr(&cut));
        assert_string_equal(buf_cstr(&whole), buf_cstr(&bytes));
        *(strstr(buf_cstr(&whole), "FAIL") != NULL ? &failed : &passed) += 1;
    }
    assert_true(failed > 500 && passed > 500); /* both kinds were there */
}

static void no_memory_anywhere(void **state)
{
    AUTO_BUF struct buf in = BUF_INIT(1 << 20);
    long n = 0;
    int r;
    (void)state;
    buf_adds(&in, GET);
    for (int i = 0; i < 90; i++) {
        buf_addf(&in, "Header-%d: some value that fills the buffer\r\n", i);
    }
    buf_adds(&in, "\r\n");
    do {
        struct http1 *h = NULL;
        size_t used;
        struct str body;
        struct err e;
        mem_fail_after(n++, 0);
        r = http1_new(HTTP1_REQUEST, &h);
        if (r == 0) {
            r = http1_feed(h, in.data, 300, &used, &body, &e);
            if (r >= 0) {
                r = http1_feed(h, in.data + 300, in.len - 300, &used, &body, &e);
            }
        }
        mem_fail_after(-1, 0);
        assert_true(r == -ENOMEM || r == HTTP1_HEAD);
        if (r == -ENOMEM && h != NULL) {
            assert_int_equal(http1_status(h), 503);
        }
        http1_free(h);
    } while (r != HTTP1_HEAD);
    assert_true(n > 5);
}

static void looking_things_up(void **state)
{
    static const struct http1_header headers[] = {
        { { "Accept", 6 }, { "a, b", 4 } },
        { { "X", 1 }, { "1", 1 } },
        { { "accept", 6 }, { "C ,d", 4 } },
    };
    struct http1_head head = { .headers = headers, .headers_len = 3 };
    struct str v;
    size_t i = 0;
    (void)state;
    assert_true(str_eqs(http1_header(&head, "ACCEPT"), "a, b"));
    assert_null(http1_header(&head, "accep").p);
    assert_true(http1_header_next(&head, "accept", &i, &v) && str_eqs(v, "a, b"));
    assert_true(http1_header_next(&head, "accept", &i, &v) && str_eqs(v, "C ,d"));
    assert_false(http1_header_next(&head, "accept", &i, &v));
    assert_true(http1_has_token(&head, "accept", "c") && http1_has_token(&head, "accept", "B"));
    assert_false(http1_has_token(&head, "accept", "a, b"));
    assert_string_equal(http1_reason(431), "Request Header Fields Too Large");
    assert_string_equal(http1_reason(999), "Unknown");
}

static void escapes(void **state)
{
    char out[16];
    size_t n = 0;
    (void)state;
    assert_int_equal(http1_unescape(STR("a%2Fb%20+%c3%bc"), out, sizeof out, &n), 0);
    assert_string_equal(out, "a/b +ü");
    assert_int_equal(n, 7);
    static const char *const bad[] = { "%", "%2", "%zz", "a%", "%00", "%0a", "%7f", "%+1", "\x01" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(http1_unescape(str_of(bad[i]), out, sizeof out, &n), -EINVAL);
        assert_string_equal(out, "");
    }
    assert_int_equal(http1_unescape(STR("0123456789abcdef"), out, sizeof out, &n), -ENAMETOOLONG);
    assert_int_equal(http1_unescape(STR("0123456789abcde"), out, sizeof out, &n), 0);

    struct str q = STR("a=1&b=x+y%26&a=2&flag&%63=ok&bad=%zz&=empty");
    assert_int_equal(http1_query(q, "a", 0, out, sizeof out), 0);
    assert_string_equal(out, "1");
    assert_int_equal(http1_query(q, "a", 1, out, sizeof out), 0);
    assert_string_equal(out, "2");
    assert_int_equal(http1_query(q, "a", 2, out, sizeof out), -ENOENT);
    assert_int_equal(http1_query(q, "b", 0, out, sizeof out), 0);
    assert_string_equal(out, "x y&");
    assert_int_equal(http1_query(q, "flag", 0, out, sizeof out), 0);
    assert_string_equal(out, "");
    assert_int_equal(http1_query(q, "c", 0, out, sizeof out), 0);
    assert_int_equal(http1_query(q, "bad", 0, out, sizeof out), -EINVAL);
    assert_int_equal(http1_query(q, "b", 0, out, 3), -ENAMETOOLONG);
    assert_int_equal(http1_query(STR(""), "a", 0, out, sizeof out), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests),
        cmocka_unit_test(pipelines_and_pieces),
        cmocka_unit_test(chunks),
        cmocka_unit_test(chunk_overhead_is_bounded),
        cmocka_unit_test(malformed_heads),
        cmocka_unit_test(limits),
        cmocka_unit_test(responses),
        cmocka_unit_test(any_cut_gives_the_same),
        cmocka_unit_test(no_memory_anywhere),
        cmocka_unit_test(looking_things_up),
        cmocka_unit_test(escapes),
    };
    return cmocka_run_group_tests_name("http1", tests, NULL, NULL);
}
