/*
 * submit - requests per second and latency of a running agent over HTTP.
 *
 *   bench-submit HOST:PORT METHOD PATH [--n N] [--inflight N] [--wait SECONDS] [--json LABEL]
 *                [--ca FILE]
 *
 * Keeps `inflight` kept-alive connections busy, one request at a time on each, until N answers have
 * come. With --wait a POST asks for the run's end (Prefer: wait), and an answer other than 200 with
 * state "succeeded" is counted as a failure. With --ca it speaks TLS. Prints the median, the 99th
 * percentile and the rate; exits 1 when one request failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "common/buf.h"
#include "common/http1.h"
#include "common/insist.h"
#include "common/loop/tls.h"
#include "common/mem.h"
#include "common/settings.h"
#include "common/sys/sys.h"

enum {
    INFLIGHT_MAX = 1024,
    READ_SIZE = 16 * 1024,
    PLAIN_SIZE = READ_SIZE + TLS_RECORD_MAX,
    REQUEST_MAX = 1024
};

struct bench;

struct conn {
    struct bench *b;
    uv_tcp_t tcp;
    uv_connect_t connect;
    struct http1 *parser;
    struct buf body;
    struct tls_session *tls;
    struct buf cipher;
    bool started;
    char in[READ_SIZE];
    char plain[PLAIN_SIZE];
    uint64_t began_us;
};

struct bench {
    uv_loop_t loop;
    struct conn *conns;
    unsigned inflight, wait_s;
    uint32_t n, sent, done, failed;
    uint32_t *us;
    char request[REQUEST_MAX];
    size_t request_len;
    bool wants_success;
    struct tls_context *tls; /* NULL: plain */
    const char *host;
    uint16_t port;
};

static void send_one(struct conn *c);

static void give_up(const char *what, const char *why)
{
    (void)fprintf(stderr, "bench-submit: %s: %s\n", what, why);
    exit(1);
}

static void answered(struct conn *c)
{
    struct bench *b = c->b;
    int status = http1_head(c->parser)->status;
    bool good = b->wants_success
                    ? status == 200 && strstr(buf_cstr(&c->body), "\"state\":\"succeeded\"") != NULL
                    : status >= 200 && status < 300;

    if (!good && b->failed++ == 0) {
        (void)fprintf(stderr, "bench-submit: status %d: %.300s\n", status, buf_cstr(&c->body));
    }
    b->us[b->done++] = (uint32_t)(sys_mono_us() - c->began_us);
    http1_reset(c->parser);
    buf_reset(&c->body);
    if (b->sent < b->n) {
        send_one(c);
    } else if (b->done == b->n) {
        uv_stop(&b->loop);
    }
}

static void feed(struct conn *c, const char *p, size_t left)
{
    struct err e = { .code = 0 };

    /* An event may be due without another byte: go on until there is none. */
    for (int ev = HTTP1_BODY; ev != HTTP1_MORE || left > 0;) {
        size_t used = 0;
        struct str body = { 0 };
        ev = http1_feed(c->parser, p, left, &used, &body, &e);
        if (ev < 0) {
            give_up("answer", err_text(&e));
        }
        p += used;
        left -= used;
        if (ev == HTTP1_BODY) {
            (void)buf_addstr(&c->body, body);
        } else if (ev == HTTP1_END) {
            answered(c);
        }
    }
}

static void send_bytes(struct conn *c, char *p, size_t n);

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *in)
{
    struct conn *c = stream->data;
    struct err e = { .code = 0 };
    size_t n = 0;

    if (nread < 0) {
        give_up("connection", uv_strerror((int)nread));
    }
    if (c->tls == NULL) {
        feed(c, in->base, (size_t)nread);
        return;
    }
    if (tls_session_feed(c->tls, in->base, (size_t)nread, c->plain, sizeof(c->plain), &n,
                         &c->cipher, &e) != 0) {
        give_up("TLS", err_text(&e));
    }
    send_bytes(c, c->cipher.data, c->cipher.len);
    buf_reset(&c->cipher);
    if (!c->started && tls_session_ready(c->tls)) {
        c->started = true;
        if (c->b->sent < c->b->n) {
            send_one(c);
        }
    }
    if (n > 0) {
        feed(c, c->plain, n);
    }
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *ret)
{
    struct conn *c = h->data;

    (void)suggested;
    *ret = uv_buf_init(c->in, sizeof(c->in));
}

/* Small requests on an empty socket: what does not fit at once is a mistake of this bench. */
static void send_bytes(struct conn *c, char *p, size_t n)
{
    uv_buf_t out = uv_buf_init(p, (unsigned)n);

    if (n > 0 && uv_try_write((uv_stream_t *)&c->tcp, &out, 1) != (int)n) {
        give_up("send", "the socket is full");
    }
}

static void send_one(struct conn *c)
{
    c->b->sent++;
    c->began_us = sys_mono_us();
    if (c->tls == NULL) {
        send_bytes(c, c->b->request, c->b->request_len);
        return;
    }
    if (tls_session_write(c->tls, c->b->request, c->b->request_len, &c->cipher, NULL) != 0) {
        give_up("TLS", "cannot write");
    }
    send_bytes(c, c->cipher.data, c->cipher.len);
    buf_reset(&c->cipher);
}

static void on_connect(uv_connect_t *req, int status)
{
    struct conn *c = req->data;

    if (status < 0) {
        give_up("connect", uv_strerror(status));
    }
    (void)uv_tcp_nodelay(&c->tcp, 1);
    INSIST(uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) == 0);
    if (c->b->tls != NULL) {
        struct err e = { .code = 0 };
        if (tls_session_client(c->b->tls, c->b->host, c->b->port, &c->tls, &c->cipher, &e) != 0) {
            give_up("TLS", err_text(&e));
        }
        send_bytes(c, c->cipher.data, c->cipher.len);
        buf_reset(&c->cipher);
    } else if (c->b->sent < c->b->n) {
        send_one(c);
    }
}

static void conn_start(struct bench *b, struct conn *c, const struct sockaddr *addr)
{
    c->b = b;
    c->tcp.data = c;
    c->connect.data = c;
    buf_init(&c->body, 1 << 20);
    buf_init(&c->cipher, 1 << 20);
    INSIST(http1_new(HTTP1_RESPONSE, &c->parser) == 0);
    INSIST(uv_tcp_init(&b->loop, &c->tcp) == 0);
    INSIST(uv_tcp_connect(&c->connect, &c->tcp, addr, on_connect) == 0);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static void trust(struct bench *b, const char *file)
{
    AUTO_BUF struct buf pem = BUF_INIT(1 << 20);
    struct err e = { .code = 0 };
    int rc = sys_read_file(AT_FDCWD, file, 1 << 20, &pem, &e);
    const struct tls_config config = { .ca = buf_str(&pem) };

    if (rc != 0 || tls_context_new(&config, &b->tls, &e) != 0) {
        give_up(file, err_text(&e));
    }
}

static void options(struct bench *b, int argc, char **argv, const char **label)
{
    for (int i = 4; i + 1 < argc; i += 2) {
        uint64_t v = 0;
        (void)str_u64(str_of(argv[i + 1]), &v);
        if (strcmp(argv[i], "--n") == 0) {
            b->n = (uint32_t)v;
        } else if (strcmp(argv[i], "--inflight") == 0) {
            b->inflight = (unsigned)v;
        } else if (strcmp(argv[i], "--wait") == 0) {
            b->wait_s = (unsigned)v;
        } else if (strcmp(argv[i], "--json") == 0) {
            *label = argv[i + 1];
        } else if (strcmp(argv[i], "--ca") == 0) {
            trust(b, argv[i + 1]);
        } else {
            give_up("unknown option", argv[i]);
        }
    }
    if (b->n == 0 || b->inflight == 0 || b->inflight > INFLIGHT_MAX) {
        give_up("options", "--n and --inflight are at least 1, --inflight at most 1024");
    }
    b->inflight = b->inflight < b->n ? b->inflight : b->n;
}

int main(int argc, char **argv)
{
    struct bench b = { .n = 1000, .inflight = 1 };
    struct sockaddr_in addr;
    char host[64];
    char prefer[40] = "";
    uint16_t port;
    const char *label = NULL;

    if (argc < 4 || settings_addr_split(argv[1], host, sizeof(host), &port) != 0 ||
        uv_ip4_addr(host, port, &addr) != 0) {
        give_up("usage", "bench-submit HOST:PORT METHOD PATH [--n N] [--inflight N] [--wait S]");
    }
    options(&b, argc, argv, &label);
    b.host = host;
    b.port = port;
    if (b.wait_s != 0) {
        (void)snprintf(prefer, sizeof(prefer), "Prefer: wait=%u\r\n", b.wait_s);
        b.wants_success = true;
    }
    int len = snprintf(b.request, sizeof(b.request), "%s %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n",
                       argv[2], argv[3], argv[1], prefer,
                       strcmp(argv[2], "POST") == 0 ? "Content-Length: 0\r\n" : "");
    INSIST(len > 0 && (size_t)len < sizeof(b.request));
    b.request_len = (size_t)len;
    b.us = mem_calloc(b.n, sizeof(*b.us));
    b.conns = mem_calloc(b.inflight, sizeof(*b.conns));
    INSIST(b.us != NULL && b.conns != NULL && uv_loop_init(&b.loop) == 0);
    uint64_t t = sys_mono_us();
    for (unsigned i = 0; i < b.inflight; i++) {
        conn_start(&b, &b.conns[i], (const struct sockaddr *)&addr);
    }
    (void)uv_run(&b.loop, UV_RUN_DEFAULT);
    double wall = (double)(sys_mono_us() - t) / 1e6;
    qsort(b.us, b.done, sizeof(b.us[0]), by_value);
    if (label != NULL) {
        printf("{\"label\":\"%s\",\"inflight\":%u,\"n\":%u,\"failed\":%u,\"p50_us\":%u,"
               "\"p99_us\":%u,\"rate\":%.0f}\n",
               label, b.inflight, b.done, b.failed, b.us[b.done / 2],
               b.us[(size_t)b.done * 99 / 100], b.done / wall);
    } else {
        printf("%u requests, %u at a time: p50 %u us, p99 %u us, %.0f/s, %u failed\n", b.done,
               b.inflight, b.us[b.done / 2], b.us[(size_t)b.done * 99 / 100], b.done / wall,
               b.failed);
    }
    return b.failed != 0;
}
