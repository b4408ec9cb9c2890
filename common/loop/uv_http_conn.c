/*
 * A connection's pump: bytes in, events to the handler, deadlines.
 *
 * With TLS bytes are deciphered on their way in, all that a read brought; from there on nothing
 * differs.
 *
 *   idle ──bytes──> head ──complete──> request ──answered, body over──> idle
 *                     │ error             │ answered, body unread: drop up to discard_max
 *                     v                   v too much of it, error, Connection: close
 *                   problem ─────────> linger (FIN sent, input dropped) ──EOF, 2 s──> closed
 */
#include <errno.h>
#include <string.h>

#include "common/loop/http_server_internal.h"
#include "common/mem.h"

struct conn_out {
    uv_write_t req;
    struct http_conn *conn;
    char data[];
};

size_t http_conn_queued(const struct http_conn *c)
{
    return uv_stream_get_write_queue_size(&c->uv.stream);
}

/* -- writing -- */

static void write_done(uv_write_t *w, int status)
{
    struct conn_out *o = CONTAINER_OF(w, struct conn_out, req);
    struct http_conn *c = o->conn;
    mem_free(o);
    if (status != 0) {
        http_conn_break(c);
        return;
    }
    if (!c->closing) {
        http_conn_pump(c);
    }
}

static void conn_write_raw(struct http_conn *c, const uv_buf_t *iov, unsigned n)
{
    size_t total = 0;
    for (unsigned i = 0; i < n; i++) {
        total += iov[i].len;
    }
    if (c->closing || total == 0) {
        return;
    }
    size_t sent = 0;
    if (http_conn_queued(c) == 0) {
        int rc = uv_try_write(&c->uv.stream, iov, n);
        if (rc < 0 && rc != UV_EAGAIN) {
            http_conn_break(c);
            return;
        }
        sent = rc > 0 ? (size_t)rc : 0;
    }
    c->out_total += total;
    c->server->stats.bytes_out += total;
    if (c->wait == HTTP_WAIT_HALF) {
        http_conn_wait(c, HTTP_WAIT_HALF);
    }
    if (sent == total) {
        return;
    }
    struct conn_out *o = mem_alloc(sizeof(*o) + total - sent);
    if (o == NULL) {
        http_conn_break(c);
        return;
    }
    o->conn = c;
    size_t at = 0;
    for (unsigned i = 0; i < n; i++) {
        size_t skip = sent < iov[i].len ? sent : iov[i].len;
        sent -= skip;
        memcpy(o->data + at, iov[i].base + skip, iov[i].len - skip);
        at += iov[i].len - skip;
    }
    uv_buf_t rest = { .base = o->data, .len = at };
    if (uv_write(&o->req, &c->uv.stream, &rest, 1, write_done) != 0) {
        mem_free(o);
        http_conn_break(c);
        return;
    }
    http_conn_kick(c); /* so that the deadline of the write is set */
}

/* Sends what TLS has made. */
static void conn_flush_cipher(struct http_conn *c)
{
    struct buf *b = &c->server->cipher;
    if (b->len > 0 && buf_error(b) == 0) {
        uv_buf_t iov = { .base = b->data, .len = b->len };
        conn_write_raw(c, &iov, 1);
    }
    buf_reset(b);
}

bool http_conn_encipher(struct http_conn *c, const uv_buf_t *iov, unsigned n, struct buf *out)
{
    char stage[HTTP_TLS_STAGE];
    size_t total = 0;
    int rc = 0;
    for (unsigned i = 0; i < n; i++) {
        total += iov[i].len;
    }
    if (n > 1 && total <= sizeof(stage)) {
        size_t at = 0;
        for (unsigned i = 0; i < n; i++) {
            memcpy(stage + at, iov[i].base, iov[i].len);
            at += iov[i].len;
        }
        rc = tls_session_write(c->tls, stage, total, out, NULL);
    } else {
        for (unsigned i = 0; i < n && rc == 0; i++) {
            rc = tls_session_write(c->tls, iov[i].base, iov[i].len, out, NULL);
        }
    }
    if (rc != 0) {
        http_conn_break(c);
    }
    return rc == 0;
}

static void conn_write_tls(struct http_conn *c, const uv_buf_t *iov, unsigned n)
{
    size_t total = 0;
    for (unsigned i = 0; i < n; i++) {
        total += iov[i].len;
    }
    if (total <= HTTP_TLS_STAGE) {
        if (http_conn_encipher(c, iov, n, &c->server->cipher)) {
            conn_flush_cipher(c);
        }
        buf_reset(&c->server->cipher);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        for (size_t at = 0; at < iov[i].len && !c->closing; at += HTTP_TLS_SLICE) {
            size_t left = iov[i].len - at;
            uv_buf_t slice = { .base = iov[i].base + at,
                               .len = left < HTTP_TLS_SLICE ? left : HTTP_TLS_SLICE };
            if (http_conn_encipher(c, &slice, 1, &c->server->cipher)) {
                conn_flush_cipher(c);
            }
            buf_reset(&c->server->cipher);
        }
    }
}

void http_conn_write(struct http_conn *c, const uv_buf_t *iov, unsigned n)
{
    if (c->tls == NULL) {
        conn_write_raw(c, iov, n);
    } else if (!c->closing && tls_session_ready(c->tls)) {
        conn_write_tls(c, iov, n);
    }
}

/* -- the end of a connection -- */

static void parser_put(struct http_conn *c)
{
    struct http_server *s = c->server;
    if (c->parser == NULL) {
        return;
    }
    if (s->parser_pool_len < HTTP_POOL_MAX) {
        http1_reset(c->parser);
        s->parser_pool[s->parser_pool_len++] = c->parser;
    } else {
        (void)http1_free(c->parser);
    }
    c->parser = NULL;
}

static void conn_closed(uv_handle_t *h)
{
    struct http_conn *c = h->data;
    if (c->req != NULL) {
        http_req_finish(c->req, true);
    }
    parser_put(c);
    c->pending = mem_free(c->pending);
    c->tls = tls_session_free(c->tls);
    http_server_conn_closed(c);
}

void http_conn_break(struct http_conn *c)
{
    if (c->closing) {
        return;
    }
    c->closing = true;
    http_conn_wait(c, HTTP_WAIT_NONE);
    uv_close(&c->uv.handle, conn_closed);
}

/* -- reading -- */

static void conn_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct http_conn *c = h->data;
    (void)suggested;
    buf->base = c->server->rbuf;
    buf->len = sizeof(c->server->rbuf);
}

static void conn_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

static void conn_reading(struct http_conn *c)
{
    bool want = !c->closing && !c->peer_eof && c->pending == NULL;
    if (want && !c->reading) {
        c->reading = uv_read_start(&c->uv.stream, conn_alloc, conn_read) == 0;
        if (!c->reading) {
            http_conn_break(c);
        }
    } else if (!want && c->reading) {
        c->reading = false;
        (void)uv_read_stop(&c->uv.stream);
    }
}

static void shutdown_done(uv_shutdown_t *req, int status)
{
    struct http_conn *c = req->handle->data;
    mem_free(req);
    if (status != 0 || c->peer_eof) {
        http_conn_break(c);
    }
}

void http_conn_linger(struct http_conn *c)
{
    if (c->closing || c->linger) {
        return;
    }
    if (c->tls != NULL) {
        tls_session_end(c->tls, &c->server->cipher);
        conn_flush_cipher(c);
    }
    if (c->closing) {
        return;
    }
    c->linger = true;
    c->pending = mem_free(c->pending);
    uv_shutdown_t *req = mem_alloc(sizeof(*req));
    if (req == NULL || uv_shutdown(req, &c->uv.stream, shutdown_done) != 0) {
        mem_free(req);
        http_conn_break(c);
        return;
    }
    http_conn_wait(c, HTTP_WAIT_LINGER);
    conn_reading(c);
    if (c->req != NULL) {
        http_req_finish(c->req, !http_res_done(c->req));
    }
    parser_put(c);
}

/* -- the pump -- */

static bool conn_head(struct http_conn *c, const char *p, size_t n, size_t *ret_used)
{
    struct http_server *s = c->server;
    if (n == 0) {
        return false;
    }
    if (c->parser == NULL && s->parser_pool_len > 0) {
        c->parser = s->parser_pool[--s->parser_pool_len];
    } else if (c->parser == NULL && http1_new(HTTP1_REQUEST, &c->parser) != 0) {
        http_conn_break(c);
        return false;
    }
    struct str body;
    struct err e;
    int rc = http1_feed(c->parser, p, n, ret_used, &body, &e);
    if (rc < 0) {
        s->stats.bad_requests_total++;
        http_res_problem(c, rc == -ENOMEM ? 503 : http1_status(c->parser), e.text);
        return false;
    }
    if (rc != HTTP1_HEAD) {
        return *ret_used > 0;
    }
    s->stats.requests_total++;
    http_conn_wait(c, HTTP_WAIT_NONE);
    c->req = http_req_new(c);
    if (c->req == NULL) {
        http_res_problem(c, 503, "out of memory");
        return false;
    }
    s->handler.on_request(s->handler.arg, c->req);
    return true;
}

/* The response has left. Drops what is unread of the body, then makes room for the next request. */
static bool conn_after(struct http_conn *c, const char *p, size_t n, size_t *ret_used)
{
    struct http_server *s = c->server;
    struct http_req *req = c->req;
    if (!req->keep || s->closing) {
        http_conn_linger(c);
        return false;
    }
    if (req->body != HTTP_BODY_DONE) {
        /* Whether a client that was not told to continue sends its body nevertheless is open. */
        bool unsure = req->head->expect_continue && !req->lead_out && req->body_seen == 0;
        uint64_t left = req->head->has_length ? req->head->length - req->body_seen : 0;
        if (unsure || left > s->opt.discard_max || req->body_discarded > s->opt.discard_max) {
            http_conn_linger(c);
            return false;
        }
        bool stop = false;
        *ret_used = http_req_feed(req, p, n, &stop);
        return !stop;
    }
    http_req_finish(req, false);
    if (!c->closing) {
        http1_reset(c->parser);
    }
    return true;
}

/* One step. False: nothing more can be done with what is there. */
static bool conn_step(struct http_conn *c, const char *p, size_t n, size_t *ret_used)
{
    struct http_req *req = c->req;
    if (req == NULL) {
        return conn_head(c, p, n, ret_used);
    }
    if (http_res_done(req)) {
        return conn_after(c, p, n, ret_used);
    }
    if (req->drain_due) {
        req->drain_due = false;
        if (req->on_drain != NULL) {
            req->on_drain(req->drain_arg, req);
        }
        return true;
    }
    if (req->ended) {
        return false;
    }
    bool stop = false;
    *ret_used = http_req_feed(req, p, n, &stop);
    return !stop;
}

/* Which deadline holds now. A wait that goes on is not begun again, except by progress. */
static void conn_wait_update(struct http_conn *c, bool progress)
{
    struct http_req *req = c->req;
    enum http_wait w = HTTP_WAIT_NONE;
    if (http_conn_queued(c) > 0) {
        w = HTTP_WAIT_WRITE;
    } else if (req == NULL) {
        bool begun = (c->parser != NULL && http1_in_head(c->parser)) ||
                     (c->tls != NULL && !tls_session_ready(c->tls));
        w = begun ? HTTP_WAIT_HEAD : HTTP_WAIT_IDLE;
    } else if (c->peer_eof) {
        w = HTTP_WAIT_HALF;
    } else if (req->body != HTTP_BODY_DONE &&
               (http_res_done(req) || (req->body == HTTP_BODY_WANTED && !req->paused))) {
        w = HTTP_WAIT_BODY;
    }
    if (w != c->wait || (w == HTTP_WAIT_BODY && progress)) {
        if (w == HTTP_WAIT_WRITE) {
            c->out_seen = c->out_total - http_conn_queued(c);
        }
        http_conn_wait(c, w);
    }
}

static void conn_keep_rest(struct http_conn *c, const char *p, size_t n)
{
    if (c->pending != NULL) {
        c->pending_at = (uint32_t)(p - c->pending);
        if (n == 0) {
            c->pending = mem_free(c->pending);
        }
    } else if (n > 0) {
        c->pending = mem_dup(p, n);
        c->pending_at = 0;
        c->pending_len = (uint32_t)n;
        if (c->pending == NULL) {
            http_conn_break(c);
        }
    }
}

static void conn_run(struct http_conn *c, const char *p, size_t n)
{
    size_t used = 0;
    bool more = true;
    c->in_pump = true;
    if (c->req != NULL && http_conn_queued(c) == 0) {
        http_res_drained(c->req);
    }
    while (more && !c->closing && !c->linger) {
        size_t step = 0;
        more = conn_step(c, p + used, n - used, &step);
        used += step;
    }
    c->in_pump = false;
    if (!c->closing && !c->linger) {
        conn_keep_rest(c, p + used, n - used);
    }
    if (!c->closing && !c->linger && c->peer_eof && c->pending == NULL &&
        (c->req == NULL || (c->req->body == HTTP_BODY_WANTED && !c->req->ended))) {
        http_conn_break(c); /* what is missing can never come */
    }
    if (!c->closing && !c->linger) {
        if (c->req == NULL && c->parser != NULL && !http1_in_head(c->parser)) {
            parser_put(c);
        }
        conn_wait_update(c, used > 0);
    }
    conn_reading(c);
}

void http_conn_pump(struct http_conn *c)
{
    if (c->closing || c->linger) {
        return;
    }
    if (c->pending != NULL) {
        conn_run(c, c->pending + c->pending_at, c->pending_len - c->pending_at);
    } else {
        conn_run(c, c->server->rbuf, 0);
    }
}

static void conn_eof(struct http_conn *c, ssize_t status)
{
    if (status != UV_EOF || c->linger || c->closing) {
        http_conn_break(c);
        return;
    }
    c->peer_eof = true;
    conn_reading(c);
    http_conn_pump(c);
}

/* -- TLS -- */

/* The first byte of the connection. False: it is over. */
static bool conn_greet(struct http_conn *c, char first)
{
    struct http_server *s = c->server;
    bool hello = (unsigned char)first == TLS_HELLO;
    c->greeted = true;
    if (hello && (s->opt.tls == NULL || tls_session_server(s->opt.tls, &c->tls, NULL) != 0)) {
        /* A client that tries HTTPS first would wait for an answer to its hello. */
        http_conn_break(c);
    } else if (hello) {
        http_conn_wait(c, HTTP_WAIT_HEAD);
    } else if (s->opt.tls != NULL) {
        s->stats.bad_requests_total++;
        http_res_problem(c, 400, "plain HTTP came to a port that speaks TLS: use https://");
    }
    return !c->closing && !c->linger;
}

static void conn_tls_failed(struct http_conn *c, int rc, const struct err *e)
{
    struct http_server *s = c->server;
    char peer[64];
    if (s->handler.on_tls_failed != NULL) {
        http_conn_peer(c, peer);
        s->handler.on_tls_failed(s->handler.arg, peer, rc, err_text(e));
    }
    if (c->req != NULL) {
        http_conn_break(c);
    } else {
        http_conn_linger(c); /* so that the alert gets there */
    }
}

static void conn_read_tls(struct http_conn *c, const char *p, size_t n)
{
    struct http_server *s = c->server;
    struct err e = { .code = 0 };
    size_t plain = 0;
    int rc = tls_session_feed(c->tls, p, n, s->plain, HTTP_READ_BUF + TLS_RECORD_MAX, &plain,
                              &s->cipher, &e);
    conn_flush_cipher(c);
    if (c->closing) {
        return;
    }
    if (tls_session_closed(c->tls)) {
        c->peer_eof = true;
    }
    if (plain > 0 || c->peer_eof) {
        conn_run(c, s->plain, plain);
    } else if (tls_session_ready(c->tls) && c->req == NULL && c->parser == NULL) {
        http_conn_wait(c, HTTP_WAIT_IDLE);
    }
    if (rc != 0 && !c->closing && !c->linger) {
        conn_tls_failed(c, rc, &e);
    }
}

static void conn_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct http_conn *c = stream->data;
    if (n < 0) {
        conn_eof(c, n);
        return;
    }
    c->server->stats.bytes_in += (uint64_t)n;
    if (c->linger) {
        c->linger_bytes += (uint32_t)n;
        if (c->linger_bytes > HTTP_LINGER_BYTES) {
            http_conn_break(c);
        }
        return;
    }
    if (n == 0 || (!c->greeted && !conn_greet(c, buf->base[0]))) {
        return;
    }
    if (c->tls != NULL) {
        conn_read_tls(c, buf->base, (size_t)n);
    } else {
        conn_run(c, buf->base, (size_t)n);
    }
}

void http_conn_start(struct http_conn *c)
{
    if (!c->server->is_pipe) {
        (void)uv_tcp_nodelay(&c->uv.tcp, 1);
        (void)uv_tcp_keepalive(&c->uv.tcp, 1, 60);
    }
    conn_reading(c);
}

void http_conn_timeout(struct http_conn *c)
{
    uint64_t out = c->out_total - http_conn_queued(c);
    enum http_wait w = (enum http_wait)c->wait;
    http_conn_wait(c, HTTP_WAIT_NONE);
    if (w == HTTP_WAIT_WRITE && out != c->out_seen) {
        c->out_seen = out;
        http_conn_wait(c, HTTP_WAIT_WRITE);
    } else if (w == HTTP_WAIT_HEAD && (c->tls == NULL || tls_session_ready(c->tls))) {
        http_res_problem(c, 408, "the request's head did not come in time");
    } else if (w == HTTP_WAIT_BODY && !c->req->started) {
        http_res_problem(c, 408, "the request's body did not come in time");
    } else {
        http_conn_break(c);
    }
}
