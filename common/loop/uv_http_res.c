/* Responses: heads, whole bodies, streams, files. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/json.h"
#include "common/loop/http_server_internal.h"
#include "common/mem.h"

/* A file on its way out: while one buffer is written, the other is filled in the thread pool. It
 * outlives the request while a read is under way. */
struct http_file {
    struct http_req *req; /* NULL: the request is gone */
    struct http_server *server;
    int fd;
    bool reading;
    unsigned writing; /* buffers that libuv holds */
    unsigned fill;    /* the buffer to be filled next */
    uint64_t offset;
    uint64_t left; /* to be read */
    struct str head;
    uv_fs_t fs;
    struct http_file_buf {
        uv_write_t write;
        struct http_file *file;
        char *data;
        struct buf cipher; /* with TLS: what is sent of it */
        size_t len;        /* 0: free */
    } bufs[2];
};

/* -- heads -- */

void http_res_header(struct http_req *req, const char *name, const char *value)
{
    REQUIRE(!req->started);
    for (const char *p = value; *p != '\0'; p++) {
        REQUIRE(*p != '\r' && *p != '\n');
    }
    (void)buf_adds(&req->headers, name);
    (void)buf_add(&req->headers, ": ", 2);
    (void)buf_adds(&req->headers, value);
    (void)buf_add(&req->headers, "\r\n", 2);
}

void http_res_headerf(struct http_req *req, const char *name, const char *fmt, ...)
{
    char value[2048];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(value, sizeof(value), fmt, ap);
    va_end(ap);
    REQUIRE(n >= 0 && (size_t)n < sizeof(value));
    http_res_header(req, name, value);
}

static void add_u64(struct buf *b, uint64_t v)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v > 0);
    (void)buf_add(b, digits + at, sizeof(digits) - at);
}

static void add_line(struct buf *b, const char *name, const char *value)
{
    (void)buf_adds(b, name);
    (void)buf_adds(b, value);
    (void)buf_add(b, "\r\n", 2);
}

static void head_start(struct http_server *s, int status, const char *type)
{
    struct buf *b = &s->out;
    buf_reset(b);
    (void)buf_add(b, "HTTP/1.1 ", 9);
    add_u64(b, (uint64_t)status);
    (void)buf_addc(b, ' ');
    add_line(b, http1_reason(status), "");
    add_line(b, "Date: ", http_server_date(s));
    if (s->name[0] != '\0') {
        add_line(b, "Server: ", s->name);
    }
    if (type != NULL) {
        add_line(b, "Content-Type: ", type);
    }
    s->stats.responses_by_class[status / 100]++;
}

static bool status_bodyless(int status)
{
    return status == 204 || status == 304;
}

/* Puts the head together in server->out. length: UINT64_MAX for a stream. False: the connection was
 * broken, there was no memory for it. */
static bool res_head(struct http_req *req, int status, const char *type, uint64_t length)
{
    struct http_conn *c = req->conn;
    struct http_server *s = c->server;
    struct buf *b = &s->out;
    REQUIRE(!req->started && status >= 200 && status <= 599);
    req->started = true;
    req->status = status;
    req->keep = req->keep && !s->closing;
    if (s->handler.on_answer != NULL) {
        s->handler.on_answer(s->handler.arg, req, status);
    }
    head_start(s, status, type);
    if (length == UINT64_MAX) {
        req->chunked = req->head->minor >= 1;
        req->keep = req->keep && req->chunked;
        if (req->chunked) {
            add_line(b, "Transfer-Encoding: ", "chunked");
        }
    } else if (!status_bodyless(status)) {
        (void)buf_adds(b, "Content-Length: ");
        add_u64(b, length);
        (void)buf_add(b, "\r\n", 2);
    }
    if (!req->keep) {
        add_line(b, "Connection: ", "close");
    } else if (req->head->minor == 0) {
        add_line(b, "Connection: ", "keep-alive");
    }
    (void)buf_addstr(b, buf_str(&req->headers));
    (void)buf_add(b, "\r\n", 2);
    req->bodyless = req->bodyless || status_bodyless(status);
    if (buf_error(&req->headers) != 0 || buf_error(b) != 0) {
        http_conn_break(c);
        return false;
    }
    return true;
}

bool http_res_started(const struct http_req *req)
{
    return req->started;
}

bool http_res_done(const struct http_req *req)
{
    return req->ended && req->file == NULL && http_conn_queued(req->conn) == 0;
}

/* -- whole bodies -- */

/* For bytes that libuv only reads: its buffers know no const. */
static uv_buf_t iov_of(const void *p, size_t n)
{
    union {
        const void *in;
        char *out;
    } u = { .in = p };
    return (uv_buf_t){ .base = u.out, .len = n };
}

static void res_send(struct http_req *req, int status, const char *type, const void *body, size_t n,
                     uint64_t length)
{
    struct http_conn *c = req->conn;
    if (c->closing || !res_head(req, status, type, length)) {
        return;
    }
    req->ended = true;
    uv_buf_t iov[2] = { iov_of(c->server->out.data, c->server->out.len), iov_of(body, n) };
    http_conn_write(c, iov, n > 0 && !req->bodyless ? 2 : 1);
    http_conn_kick(c);
}

void http_res_send(struct http_req *req, int status, const char *type, const void *body, size_t n)
{
    res_send(req, status, type, body, n, n);
}

void http_res_send_length(struct http_req *req, int status, const char *type, uint64_t length)
{
    req->bodyless = true;
    res_send(req, status, type, NULL, 0, length);
}

void http_res_problem(struct http_conn *c, int status, const char *detail)
{
    static const struct {
        int status;
        const char *code;
    } codes[] = {
        { 408, "request_timeout" },  { 413, "body_too_large" },  { 414, "uri_too_long" },
        { 431, "header_too_large" }, { 501, "not_implemented" }, { 503, "overloaded" },
        { 505, "http_version" },
    };
    struct http_server *s = c->server;
    struct buf body = BUF_INIT(4096);
    struct json_w w;
    const char *code = "bad_request";
    if (c->closing || (c->req != NULL && c->req->started && !http_res_done(c->req))) {
        http_conn_break(c); /* in the middle of an answer there is nothing more to say */
        return;
    }
    if (c->req != NULL && c->req->started) {
        http_conn_linger(c);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        code = codes[i].status == status ? codes[i].code : code;
    }
    json_w_init(&w, &body, false);
    json_w_obj(&w);
    json_kv_cstr(&w, "type", "about:blank");
    json_kv_cstr(&w, "title", http1_reason(status));
    json_kv_int(&w, "status", status);
    json_kv_cstr(&w, "detail", detail);
    json_kv_cstr(&w, "code", code);
    json_w_end(&w);
    head_start(s, status, "application/problem+json");
    (void)buf_addf(&s->out, "Content-Length: %zu\r\nConnection: close\r\n%s\r\n", body.len,
                   status == 503 ? "Retry-After: 1\r\n" : "");
    if (buf_error(&body) == 0 && buf_error(&s->out) == 0) {
        uv_buf_t iov[2] = { iov_of(s->out.data, s->out.len), iov_of(body.data, body.len) };
        http_conn_write(c, iov, 2);
    }
    buf_release(&body);
    http_conn_linger(c);
}

/* -- streams -- */

void http_res_begin(struct http_req *req, int status, const char *type,
                    void (*on_drain)(void *arg, struct http_req *req), void *arg)
{
    struct http_conn *c = req->conn;
    if (c->closing || !res_head(req, status, type, UINT64_MAX)) {
        return;
    }
    req->streaming = true;
    req->on_drain = on_drain;
    req->drain_arg = arg;
    uv_buf_t iov = iov_of(c->server->out.data, c->server->out.len);
    http_conn_write(c, &iov, 1);
}

bool http_res_write(struct http_req *req, const void *p, size_t n)
{
    struct http_conn *c = req->conn;
    char size[24];
    if (c->closing) {
        return false;
    }
    REQUIRE(req->streaming && !req->ended);
    if (n > 0 && !req->bodyless) {
        int len = snprintf(size, sizeof(size), "%zx\r\n", n);
        uv_buf_t iov[3] = { iov_of(size, (size_t)len), iov_of(p, n), iov_of("\r\n", 2) };
        http_conn_write(c, req->chunked ? iov : iov + 1, req->chunked ? 3 : 1);
    }
    if (http_conn_queued(c) > HTTP_QUEUE_MAX) {
        req->want_drain = true;
        return false;
    }
    return !c->closing;
}

void http_res_drained(struct http_req *req)
{
    if (req->want_drain) {
        req->want_drain = false;
        req->drain_due = true;
    }
}

void http_res_end(struct http_req *req)
{
    struct http_conn *c = req->conn;
    if (c->closing) {
        return;
    }
    REQUIRE(req->streaming && !req->ended);
    if (req->chunked && !req->bodyless) {
        uv_buf_t iov = iov_of("0\r\n\r\n", 5);
        http_conn_write(c, &iov, 1);
    }
    req->ended = true;
    req->want_drain = false;
    req->drain_due = false;
    http_conn_kick(c);
}

void http_res_abort(struct http_req *req)
{
    http_conn_break(req->conn);
}

/* -- files -- */

static void fd_drop(uv_loop_t *loop, int fd)
{
    uv_fs_t req;
    (void)uv_fs_close(loop, &req, fd, NULL);
    uv_fs_req_cleanup(&req);
}

static void file_free(struct http_file *f)
{
    fd_drop(f->server->loop, f->fd);
    for (int i = 0; i < 2; i++) {
        mem_free(f->bufs[i].data);
        buf_release(&f->bufs[i].cipher);
    }
    mem_free(f);
}

void http_res_detach(struct http_req *req)
{
    struct http_file *f = req->file;
    if (f == NULL) {
        return;
    }
    /* The connection is closed: libuv has given back what it wrote. */
    INSIST(f->writing == 0);
    req->file = NULL;
    f->req = NULL;
    if (!f->reading) {
        file_free(f);
    }
}

static void file_read(struct http_file *f);

static void file_written(uv_write_t *w, int status)
{
    struct http_file_buf *b = CONTAINER_OF(w, struct http_file_buf, write);
    struct http_file *f = b->file;
    struct http_req *req = f->req;
    struct http_conn *c = req->conn;
    f->writing--;
    b->len = 0;
    if (status != 0) {
        http_conn_break(c);
        return;
    }
    if (c->closing) {
        return;
    }
    if (f->left == 0 && f->writing == 0 && !f->reading) {
        req->file = NULL;
        file_free(f);
    } else {
        file_read(f);
    }
    http_conn_pump(c);
}

static void file_write(struct http_file *f, struct http_file_buf *b)
{
    struct http_conn *c = f->req->conn;
    uv_buf_t iov[2] = { iov_of(f->head.p, f->head.n), iov_of(b->data, b->len) };
    uv_buf_t *from = f->head.p != NULL ? iov : iov + 1;
    unsigned n = f->head.p != NULL ? 2 : 1;
    size_t total = f->head.n + b->len;
    b->file = f;
    if (c->tls != NULL) {
        buf_reset(&b->cipher);
        if (!http_conn_encipher(c, from, n, &b->cipher)) {
            return;
        }
        iov[0] = iov_of(b->cipher.data, b->cipher.len);
        from = iov;
        n = 1;
        total = b->cipher.len;
    }
    if (uv_write(&b->write, &c->uv.stream, from, n, file_written) != 0) {
        http_conn_break(c);
        return;
    }
    f->head = (struct str){ NULL, 0 };
    f->writing++;
    c->out_total += total;
    c->server->stats.bytes_out += total;
    http_conn_kick(c);
}

static void file_came(uv_fs_t *fs)
{
    struct http_file *f = fs->data;
    struct http_file_buf *b = &f->bufs[f->fill];
    ssize_t n = fs->result;
    uv_fs_req_cleanup(fs);
    f->reading = false;
    f->server->files--;
    if (f->req == NULL) {
        struct http_server *s = f->server;
        file_free(f);
        http_server_maybe_gone(s);
        return;
    }
    struct http_conn *c = f->req->conn;
    if (c->closing) {
        return;
    }
    if (n <= 0) {
        /* An I/O error, or shorter than was promised: the client must see a broken answer. */
        http_conn_break(c);
        return;
    }
    b->len = (size_t)n;
    f->offset += (uint64_t)n;
    f->left -= (uint64_t)n;
    f->fill ^= 1U;
    file_write(f, b);
    if (!c->closing) {
        file_read(f);
    }
}

/* Fills the next buffer if it is free. */
static void file_read(struct http_file *f)
{
    struct http_file_buf *b = &f->bufs[f->fill];
    size_t want = f->left < HTTP_FILE_BUF ? (size_t)f->left : HTTP_FILE_BUF;
    if (f->reading || f->left == 0 || b->len > 0) {
        return;
    }
    if (b->data == NULL) {
        b->data = mem_alloc(want); /* a buffer's first use is its largest */
    }
    uv_buf_t iov = { .base = b->data, .len = want };
    f->fs.data = f;
    if (b->data == NULL ||
        uv_fs_read(f->server->loop, &f->fs, f->fd, &iov, 1, (int64_t)f->offset, file_came) != 0) {
        http_conn_break(f->req->conn);
        return;
    }
    f->reading = true;
    f->server->files++;
}

void http_res_send_file(struct http_req *req, int status, const char *type, int fd, uint64_t offset,
                        uint64_t length)
{
    struct http_conn *c = req->conn;
    struct http_server *s = c->server;
    if (c->closing || length == 0 || req->bodyless || status_bodyless(status)) {
        fd_drop(s->loop, fd);
        res_send(req, status, type, NULL, 0, length);
        return;
    }
    struct http_file *f = NULL;
    if (!res_head(req, status, type, length) || (f = mem_zalloc(sizeof(*f) + s->out.len)) == NULL) {
        fd_drop(s->loop, fd);
        http_conn_break(c);
        return;
    }
    /* The head waits for the first bytes, to leave in one packet with them. */
    char *head = (char *)(f + 1);
    memcpy(head, s->out.data, s->out.len);
    f->head = (struct str){ head, s->out.len };
    f->req = req;
    f->server = s;
    f->fd = fd;
    buf_init(&f->bufs[0].cipher, (size_t)2 * HTTP_FILE_BUF);
    buf_init(&f->bufs[1].cipher, (size_t)2 * HTTP_FILE_BUF);
    f->offset = offset;
    f->left = length;
    req->file = f;
    req->ended = true;
    file_read(f);
}
