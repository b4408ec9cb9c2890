/*
 * A call as its owner sees it: put together, sent, written to, ended.
 *
 *   new ──send──> waiting ──a connection──> begun ──answer whole, or failed──> on_done, gone
 *                    ^                         │ the kept connection was closed, nothing came
 *                    └──────── rewind ─────────┘
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/loop/http_client_internal.h"
#include "common/loop/tls.h"
#include "common/mem.h"

/* The file of a body, read in the thread pool: outlives the call while a read is under way. */
struct http_call_file {
    struct http_client *client;
    struct http_call *call; /* NULL: gone */
    uv_fs_t fs;
    int fd;
    bool reading;
    char data[HTTP_CALL_FILE_BUF];
};

/* -- life -- */

static void call_ended(struct loop_defer *d);
static void call_overdue(struct http_due *due);

static void fd_drop(struct http_client *c, int fd)
{
    uv_fs_t req;
    if (fd >= 0) {
        (void)uv_fs_close(c->loop->uv, &req, fd, NULL);
        uv_fs_req_cleanup(&req);
    }
}

static void file_free(struct http_call_file *f)
{
    struct http_client *c = f->client;
    fd_drop(c, f->fd);
    mem_free(f);
    loop_drop(&c->owner);
}

static struct http_call *call_free(struct http_call *call)
{
    struct http_client *c = call->client;
    list_remove(&call->all_link);
    if (!list_empty(&call->wait_link)) {
        list_remove(&call->wait_link);
        c->stats.waiting--;
    }
    loop_defer_cancel(&call->end);
    http_client_due_clear(c, &call->due);
    if (call->file != NULL) {
        call->file->call = NULL;
        if (!call->file->reading) {
            file_free(call->file);
        }
    } else {
        fd_drop(c, call->fd);
    }
    if (call->place != NULL) {
        http_place_drop(call->place);
    }
    (void)tls_context_unref(call->tls);
    buf_release(&call->head);
    buf_release(&call->out);
    mem_free(call->host);
    mem_free(call->tls_name);
    mem_free(call);
    loop_drop(&c->owner);
    return NULL;
}

static bool method_repeats(const char *method)
{
    static const char *const safe[] = { "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE" };
    for (size_t i = 0; i < ARRAY_LEN(safe); i++) {
        if (strcmp(method, safe[i]) == 0) {
            return true;
        }
    }
    return false;
}

static void head_begin(struct http_call *call, const char *method, const char *target)
{
    bool six = strchr(call->host, ':') != NULL;
    const char *agent = call->client->user_agent;
    (void)buf_addf(&call->head, "%s %s HTTP/1.1\r\nHost: %s%s%s:%u\r\n", method, target,
                   six ? "[" : "", call->host, six ? "]" : "", call->port);
    if (agent[0] != '\0') {
        (void)buf_addf(&call->head, "User-Agent: %s\r\n", agent);
    }
}

struct http_call *http_call_new(struct http_client *c, const struct http_target *to,
                                const char *method, const char *target, uint64_t body_max,
                                const struct http_call_events *ev)
{
    struct http_call *call = mem_zalloc(sizeof(*call));
    if (call == NULL) {
        return NULL;
    }
    for (const char *p = target; *p != '\0'; p++) {
        REQUIRE((unsigned char)*p > ' ' && *p != '\x7f');
    }
    call->host = mem_strdup(to->host);
    call->tls_name = mem_strdup(to->tls == NULL ? "" : to->tls_name ? to->tls_name : to->host);
    if (call->host == NULL || call->tls_name == NULL) {
        mem_free(call->host);
        mem_free(call->tls_name);
        mem_free(call);
        return NULL;
    }
    REQUIRE(strlen(call->host) < 256 && strlen(call->tls_name) < 256);
    call->client = c;
    call->port = to->port;
    call->tls = tls_context_ref(to->tls);
    call->ev = *ev;
    call->body_max = body_max;
    call->fd = -1;
    call->is_head = strcmp(method, "HEAD") == 0;
    call->repeatable = method_repeats(method);
    list_init(&call->wait_link);
    loop_defer_init(&call->end, call_ended);
    heap_node_init(&call->due.node);
    call->due.fn = call_overdue;
    buf_init(&call->head, HTTP_CALL_HEAD_MAX);
    buf_init(&call->out, HTTP_CALL_UNSENT_MAX);
    head_begin(call, method, target);
    list_push_back(&c->calls, &call->all_link);
    loop_hold(&c->owner);
    return call;
}

void http_call_header(struct http_call *call, const char *name, const char *value)
{
    REQUIRE(!call->sent);
    for (const char *p = value; *p != '\0'; p++) {
        REQUIRE(*p != '\r' && *p != '\n');
    }
    call->repeatable = call->repeatable || str_ieqs(str_of(name), "Idempotency-Key");
    (void)buf_adds(&call->head, name);
    (void)buf_add(&call->head, ": ", 2);
    (void)buf_adds(&call->head, value);
    (void)buf_add(&call->head, "\r\n", 2);
}

void http_call_headerf(struct http_call *call, const char *name, const char *fmt, ...)
{
    char value[4096];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(value, sizeof(value), fmt, ap);
    va_end(ap);
    REQUIRE(n >= 0 && (size_t)n < sizeof(value));
    http_call_header(call, name, value);
}

static void body_is(struct http_call *call, enum http_call_body body)
{
    REQUIRE(!call->sent && call->body == HTTP_CALL_NONE);
    call->body = body;
}

void http_call_body(struct http_call *call, const void *p, size_t n)
{
    body_is(call, HTTP_CALL_BYTES);
    (void)buf_add(&call->out, p, n);
}

void http_call_body_file(struct http_call *call, int fd, uint64_t offset, uint64_t n)
{
    body_is(call, HTTP_CALL_FILE);
    call->fd = fd;
    call->file_offset = offset;
    call->file_len = n;
}

void http_call_body_stream(struct http_call *call, uint64_t length)
{
    body_is(call, HTTP_CALL_STREAM);
    call->stream_left = length;
    call->repeatable = false;
}

void http_call_deadline(struct http_call *call, uint64_t ms)
{
    if (ms == 0) {
        http_client_due_clear(call->client, &call->due);
    } else if (!http_client_due(call->client, &call->due, ms)) {
        http_call_fail(call, -ENOMEM, "out of memory for a deadline");
    }
}

/* -- the end -- */

void http_call_done(struct http_call *call)
{
    struct http_call_events ev = call->ev;
    call->client->stats.calls_total++;
    call->client->stats.failed_total += call->rc != 0 ? 1 : 0;
    call->ending = true;
    http_client_due_clear(call->client, &call->due);
    if (ev.on_done != NULL) {
        ev.on_done(ev.arg, call, call->rc, call->status, call->why);
    }
    (void)call_free(call);
}

static void call_ended(struct loop_defer *d)
{
    http_call_done(CONTAINER_OF(d, struct http_call, end));
}

/* Its connection is of no use to it any more, but perhaps to another. */
static void call_leave(struct http_call *call)
{
    struct http_link *l = call->link;
    struct http_place *p = call->place;
    call->link = NULL;
    if (!list_empty(&call->wait_link)) {
        list_remove(&call->wait_link);
        call->client->stats.waiting--;
    }
    if (l == NULL) {
        return;
    }
    l->call = NULL;
    if (l->state == HTTP_LINK_OPEN || call->client->closing) {
        http_link_break(l);
        http_place_dispatch(p);
    } else if (!list_empty(&p->waiting)) {
        struct http_call *next = LIST_ITEM(p->waiting.next, struct http_call, wait_link);
        list_remove(&next->wait_link);
        call->client->stats.waiting--;
        l->call = next;
        next->link = l;
    }
}

void http_call_fail(struct http_call *call, int rc, const char *fmt, ...)
{
    va_list ap;
    if (loop_defer_pending(&call->end)) {
        return;
    }
    call->rc = rc;
    va_start(ap, fmt);
    (void)vsnprintf(call->why, sizeof(call->why), fmt, ap);
    va_end(ap);
    loop_defer_post(call->client->loop, &call->end);
    http_client_due_clear(call->client, &call->due);
    call_leave(call);
}

static void call_overdue(struct http_due *due)
{
    struct http_call *call = CONTAINER_OF(due, struct http_call, due);
    const char *stage = call->link == NULL                    ? "before there was a connection"
                        : call->link->state != HTTP_LINK_OPEN ? "before it was connected"
                        : call->status == 0                   ? "before its answer"
                                                              : "in the middle of its answer";
    http_call_fail(call, -ETIMEDOUT, "%s:%u: the call's time was over %s", call->host, call->port,
                   stage);
}

struct http_call *http_call_cancel(struct http_call *call)
{
    if (call != NULL) {
        REQUIRE(!call->ending);
        call_leave(call);
        (void)call_free(call);
    }
    return NULL;
}

/* -- sending -- */

void http_call_send(struct http_call *call)
{
    struct http_client *c = call->client;
    REQUIRE(!call->sent);
    call->sent = true;
    if (loop_defer_pending(&call->end)) {
        return; /* failed already */
    }
    if (buf_error(&call->head) != 0 || buf_error(&call->out) != 0) {
        int rc = buf_error(&call->head) != 0 ? buf_error(&call->head) : buf_error(&call->out);
        http_call_fail(call, rc, "%s:%u: the request is too large", call->host, call->port);
        return;
    }
    if (c->closing) {
        http_call_fail(call, -ECANCELED, "the client is being closed");
        return;
    }
    call->place = http_client_place(c, call);
    if (call->place == NULL) {
        http_call_fail(call, -ENOMEM, "%s:%u: out of memory", call->host, call->port);
        return;
    }
    if (c->stats.waiting >= c->opt.waiting_max) {
        http_call_fail(call, -EAGAIN, "%s:%u: %u calls wait for a connection already", call->host,
                       call->port, c->stats.waiting);
        return;
    }
    list_push_back(&call->place->waiting, &call->wait_link);
    c->stats.waiting++;
    http_place_dispatch(call->place);
}

bool http_call_rewind(struct http_call *call)
{
    if (!call->repeatable || call->fresh || (call->file != NULL && call->file->reading) ||
        call->client->closing) {
        return false;
    }
    call->fresh = true;
    call->started = false;
    call->body_ended = false;
    call->file_sent = 0;
    call->want_drain = false;
    call->drain_due = false;
    return true;
}

static uv_buf_t iov_of(const void *p, size_t n)
{
    union {
        const void *in;
        char *out;
    } u = { .in = p };
    return (uv_buf_t){ .base = u.out, .len = n };
}

static void file_next(struct http_call *call);

void http_call_begin(struct http_call *call)
{
    struct http_link *l = call->link;
    char length[64] = "\r\n";
    uint64_t n = call->body == HTTP_CALL_BYTES    ? call->out.len
                 : call->body == HTTP_CALL_FILE   ? call->file_len
                 : call->body == HTTP_CALL_STREAM ? call->stream_left
                                                  : 0;
    bool chunked = call->body == HTTP_CALL_STREAM && call->stream_left == UINT64_MAX;
    if (chunked) {
        (void)snprintf(length, sizeof(length), "Transfer-Encoding: chunked\r\n\r\n");
    } else if (call->body != HTTP_CALL_NONE) {
        /* What was written before there was a connection is in `out` already. */
        n += call->body == HTTP_CALL_STREAM ? call->out.len : 0;
        (void)snprintf(length, sizeof(length), "Content-Length: %llu\r\n\r\n",
                       (unsigned long long)n);
    }
    call->started = true;
    if (call->is_head) {
        http1_expect_no_body(l->parser);
    }
    uv_buf_t iov[3] = { iov_of(call->head.data, call->head.len), iov_of(length, strlen(length)),
                        iov_of(call->out.data, call->out.len) };
    http_link_write(l, iov, call->out.len > 0 ? 3 : 2);
    if (call->body == HTTP_CALL_STREAM) {
        buf_release(&call->out);
    } else if (call->body == HTTP_CALL_FILE && call->file_len > 0) {
        file_next(call);
        return;
    } else {
        call->body_ended = true;
    }
}

void http_call_flow(struct http_call *call)
{
    if (!call->started || http_link_queued(call->link) > 0) {
        return;
    }
    if (call->body == HTTP_CALL_FILE && !call->body_ended) {
        file_next(call);
    }
    if (call->want_drain) {
        call->want_drain = false;
        call->drain_due = true;
    }
}

/* -- a file as the body -- */

static void file_came(uv_fs_t *fs)
{
    struct http_call_file *f = fs->data;
    struct http_call *call = f->call;
    ssize_t n = fs->result;
    uv_fs_req_cleanup(fs);
    f->reading = false;
    if (call == NULL) {
        file_free(f);
        return;
    }
    if (n <= 0) {
        http_call_fail(call, n < 0 ? (int)n : -EIO, "%s:%u: the file that was to be sent %s",
                       call->host, call->port, n < 0 ? uv_strerror((int)n) : "is shorter");
        return;
    }
    if (call->link == NULL || !call->started) {
        return; /* it failed, or begins anew */
    }
    struct http_link *l = call->link;
    uv_buf_t iov = { .base = f->data, .len = (size_t)n };
    call->file_sent += (uint64_t)n;
    call->body_ended = call->file_sent == call->file_len;
    http_link_write(l, &iov, 1);
    http_link_pump(l); /* which reads on when little waits */
}

static void file_next(struct http_call *call)
{
    struct http_client *c = call->client;
    uint64_t left = call->file_len - call->file_sent;
    if (left == 0 || (call->file != NULL && call->file->reading) || call->link->write_rc != 0) {
        return;
    }
    if (call->file == NULL) {
        struct http_call_file *f = mem_alloc(sizeof(*f));
        if (f == NULL) {
            http_call_fail(call, -ENOMEM, "%s:%u: out of memory", call->host, call->port);
            return;
        }
        f->client = c;
        f->call = call;
        f->fd = call->fd;
        f->fs.data = f;
        call->fd = -1;
        call->file = f;
        loop_hold(&c->owner);
    }
    struct http_call_file *f = call->file;
    uv_buf_t iov = { .base = f->data,
                     .len = left < sizeof(f->data) ? (size_t)left : sizeof(f->data) };
    f->reading = true;
    int rc = uv_fs_read(c->loop->uv, &f->fs, f->fd, &iov, 1,
                        (int64_t)(call->file_offset + call->file_sent), file_came);
    if (rc != 0) {
        f->reading = false;
        http_call_fail(call, rc, "%s:%u: read the file that was to be sent: %s", call->host,
                       call->port, uv_strerror(rc));
    }
}

/* -- a body that is written piece by piece -- */

static bool write_is_over(const struct http_call *call)
{
    return loop_defer_pending(&call->end) || call->body_ended;
}

bool http_call_write(struct http_call *call, const void *p, size_t n)
{
    char size[24];
    REQUIRE(call->sent && call->body == HTTP_CALL_STREAM);
    if (write_is_over(call)) {
        return false;
    }
    bool chunked = call->stream_left == UINT64_MAX;
    REQUIRE(chunked || n <= call->stream_left);
    call->stream_left -= chunked ? 0 : n;
    int len = snprintf(size, sizeof(size), "%zx\r\n", n);
    uv_buf_t iov[3] = { iov_of(size, (size_t)len), iov_of(p, n), iov_of("\r\n", 2) };
    if (n > 0 && call->started) {
        http_link_write(call->link, chunked ? iov : iov + 1, chunked ? 3 : 1);
    } else if (n > 0) {
        (void)buf_add(&call->out, size, chunked ? (size_t)len : 0);
        (void)buf_add(&call->out, p, n);
        (void)buf_add(&call->out, "\r\n", chunked ? 2 : 0);
    }
    if (buf_error(&call->out) != 0) {
        http_call_fail(call, buf_error(&call->out), "%s:%u: too much waits to be sent", call->host,
                       call->port);
        return false;
    }
    size_t queued = call->started ? http_link_queued(call->link) : call->out.len;
    if (call->started) {
        http_link_kick(call->link); /* for its deadline */
    }
    if (queued > HTTP_CALL_QUEUE_MAX) {
        call->want_drain = true;
        return false;
    }
    return true;
}

void http_call_write_end(struct http_call *call)
{
    REQUIRE(call->sent && call->body == HTTP_CALL_STREAM);
    if (write_is_over(call)) {
        return;
    }
    call->want_drain = false;
    call->drain_due = false;
    if (call->stream_left != 0 && call->stream_left != UINT64_MAX) {
        http_call_fail(call, -EPIPE, "%s:%u: the request's body is shorter than was said",
                       call->host, call->port);
        return;
    }
    uv_buf_t last = iov_of("0\r\n\r\n", 5);
    bool chunked = call->stream_left == UINT64_MAX;
    if (call->started && chunked) {
        http_link_write(call->link, &last, 1);
    } else if (chunked) {
        (void)buf_add(&call->out, last.base, last.len);
    }
    call->body_ended = true;
    if (call->started) {
        http_link_kick(call->link);
    }
}

void http_call_pause(struct http_call *call)
{
    call->paused = true;
    if (call->link != NULL) {
        http_link_kick(call->link);
    }
}

void http_call_resume(struct http_call *call)
{
    call->paused = false;
    if (call->link != NULL) {
        http_link_kick(call->link);
    }
}
