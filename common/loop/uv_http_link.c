/*
 * A client's connection: made, written to, given on, ended.
 *
 *   RESOLVE ──addresses──> CONNECT ──> [HANDSHAKE] ──> OPEN ──answer whole──> idle or next call
 *      (a literal address begins here ^)  │ refused: the next address          │ EOF, deadline
 *                                         v                                    v
 *                                       closing ──last close callback──> gone
 */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

#include "common/loop/http_client_internal.h"
#include "common/loop/tls.h"
#include "common/mem.h"

struct link_out {
    uv_write_t req;
    struct http_link *link;
    char data[];
};

static void link_connect(struct http_link *l, const struct sockaddr *to);
static void link_closed_for_next(uv_handle_t *h);

char *http_link_name(const struct http_place *p, char *dst, size_t cap)
{
    bool six = strchr(p->host, ':') != NULL;
    (void)snprintf(dst, cap, "%s%s%s:%u", six ? "[" : "", p->host, six ? "]" : "", p->port);
    return dst;
}

size_t http_link_queued(const struct http_link *l)
{
    return uv_stream_get_write_queue_size((const uv_stream_t *)&l->tcp);
}

void http_link_kick(struct http_link *l)
{
    if (!l->in_pump && !l->closing) {
        loop_defer_post(l->client->loop, &l->kick);
    }
}

static void link_kicked(struct loop_defer *d)
{
    http_link_pump(CONTAINER_OF(d, struct http_link, kick));
}

/* -- the end -- */

static void link_maybe_gone(struct http_link *l)
{
    struct http_client *c = l->client;
    if (!l->closing || l->tcp_open || l->resolving) {
        return;
    }
    list_remove(&l->all_link);
    mem_free(l->pending);
    (void)http1_free(l->parser);
    (void)tls_session_free(l->tls);
    uv_freeaddrinfo(l->found);
    http_place_drop(l->place);
    mem_free(l);
    loop_drop(&c->owner);
}

/* One that never had a socket. */
static void link_gone(struct loop_defer *d)
{
    link_maybe_gone(CONTAINER_OF(d, struct http_link, kick));
}

static void link_say_bye(struct http_link *l)
{
    struct buf *b = &l->client->cipher;
    if (l->tls != NULL && l->state == HTTP_LINK_OPEN && l->write_rc == 0) {
        tls_session_end(l->tls, b);
        if (b->len > 0 && buf_error(b) == 0 && http_link_queued(l) == 0) {
            uv_buf_t iov = { .base = b->data, .len = b->len };
            (void)uv_try_write((uv_stream_t *)&l->tcp, &iov, 1);
        }
        buf_reset(b);
    }
}

static void link_closed(uv_handle_t *h)
{
    struct http_link *l = h->data;
    l->tcp_open = false;
    l->reading = false;
    link_maybe_gone(l);
}

void http_link_break(struct http_link *l)
{
    struct http_client *c = l->client;
    if (l->closing) {
        return;
    }
    INSIST(l->call == NULL);
    link_say_bye(l);
    l->closing = true;
    l->place->links--;
    c->stats.connections--;
    if (!list_empty(&l->idle_link)) {
        list_remove(&l->idle_link);
        list_remove(&l->old_link);
        c->stats.idle--;
    }
    loop_defer_cancel(&l->kick);
    http_client_due_clear(c, &l->due);
    if (l->resolving) {
        (void)uv_cancel((uv_req_t *)&l->resolve);
    }
    if (l->tcp_open && !uv_is_closing((uv_handle_t *)&l->tcp)) {
        uv_close((uv_handle_t *)&l->tcp, link_closed);
    }
    if (!l->tcp_open && !l->resolving) {
        loop_defer_init(&l->kick, link_gone);
        loop_defer_post(c->loop, &l->kick);
    }
}

void http_link_lost(struct http_link *l, int rc, const char *fmt, ...)
{
    char why[HTTP_CALL_WHY_CAP];
    struct http_place *p = l->place;
    struct http_call *call = l->call;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    l->call = NULL;
    http_link_break(l);
    if (call == NULL) {
        http_place_dispatch(p);
        return;
    }
    call->link = NULL;
    if (l->state == HTTP_LINK_OPEN && l->used && !call->answered && http_call_rewind(call)) {
        list_push_front(&p->waiting, &call->wait_link);
        l->client->stats.waiting++;
        http_place_dispatch(p);
        return;
    }
    http_place_dispatch(p);
    http_call_fail(call, rc, "%s", why);
}

void http_link_free_for_next(struct http_link *l, bool keep)
{
    struct http_client *c = l->client;
    struct http_place *p = l->place;
    if (!keep || c->closing || l->closing || l->broken_rc != 0 || l->write_rc != 0) {
        http_link_break(l);
        http_place_dispatch(p);
        return;
    }
    l->used = true;
    l->interims = 0;
    http1_reset(l->parser);
    list_push_front(&p->idle, &l->idle_link);
    list_push_back(&c->old, &l->old_link);
    c->stats.idle++;
    http_place_dispatch(p);
    if (c->stats.idle > c->opt.idle_max) {
        http_link_break(LIST_ITEM(c->old.next, struct http_link, old_link));
    }
}

/* -- writing -- */

static void link_write_raw(struct http_link *l, const uv_buf_t *iov, unsigned n);

static void write_done(uv_write_t *w, int status)
{
    struct link_out *o = CONTAINER_OF(w, struct link_out, req);
    struct http_link *l = o->link;
    mem_free(o);
    if (status != 0 && l->write_rc == 0) {
        l->write_rc = status;
    }
    if (!l->closing) {
        http_link_pump(l);
    }
}

static void link_write_raw(struct http_link *l, const uv_buf_t *iov, unsigned n)
{
    size_t total = 0;
    size_t sent = 0;
    for (unsigned i = 0; i < n; i++) {
        total += iov[i].len;
    }
    if (l->closing || l->write_rc != 0 || total == 0) {
        return;
    }
    if (http_link_queued(l) == 0) {
        int rc = uv_try_write((uv_stream_t *)&l->tcp, iov, n);
        if (rc < 0 && rc != UV_EAGAIN) {
            l->write_rc = rc;
            http_link_kick(l);
            return;
        }
        sent = rc > 0 ? (size_t)rc : 0;
    }
    l->out_total += total;
    l->client->stats.bytes_out += total;
    if (sent == total) {
        return;
    }
    struct link_out *o = mem_alloc(sizeof(*o) + total - sent);
    if (o == NULL) {
        l->write_rc = UV_ENOMEM;
        http_link_kick(l);
        return;
    }
    size_t at = 0;
    o->link = l;
    for (unsigned i = 0; i < n; i++) {
        size_t skip = sent < iov[i].len ? sent : iov[i].len;
        sent -= skip;
        memcpy(o->data + at, iov[i].base + skip, iov[i].len - skip);
        at += iov[i].len - skip;
    }
    uv_buf_t rest = { .base = o->data, .len = at };
    int rc = uv_write(&o->req, (uv_stream_t *)&l->tcp, &rest, 1, write_done);
    if (rc != 0) {
        mem_free(o);
        l->write_rc = rc;
        http_link_kick(l);
    }
}

/* What TLS wants to say. */
static void link_flush_cipher(struct http_link *l)
{
    struct buf *b = &l->client->cipher;
    if (b->len > 0 && buf_error(b) == 0) {
        uv_buf_t iov = { .base = b->data, .len = b->len };
        link_write_raw(l, &iov, 1);
    }
    buf_reset(b);
}

void http_link_write(struct http_link *l, const uv_buf_t *iov, unsigned n)
{
    if (l->tls == NULL) {
        link_write_raw(l, iov, n);
        return;
    }
    struct err e = { .code = 0 };
    int rc = 0;
    for (unsigned i = 0; i < n && rc == 0; i++) {
        rc = tls_session_write(l->tls, iov[i].base, iov[i].len, &l->client->cipher, &e);
    }
    if (rc != 0 && l->write_rc == 0) {
        l->write_rc = rc;
        http_link_kick(l);
    }
    link_flush_cipher(l);
}

/* -- reading -- */

static void link_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct http_link *l = h->data;
    (void)suggested;
    buf->base = l->client->rbuf;
    buf->len = sizeof(l->client->rbuf);
}

static void link_open(struct http_link *l)
{
    l->state = HTTP_LINK_OPEN;
    if (l->call != NULL) {
        http_call_begin(l->call);
    } else {
        http_link_free_for_next(l, true);
    }
}

/* Deciphers a read. False: nothing is left to be done with it. */
static bool link_decipher(struct http_link *l, const char *p, size_t n, size_t *ret_plain)
{
    struct http_client *c = l->client;
    char name[300];
    struct err e = { .code = 0 };
    int rc = tls_session_feed(l->tls, p, n, c->plain, sizeof(c->plain), ret_plain, &c->cipher, &e);
    link_flush_cipher(l);
    if (rc != 0 && *ret_plain == 0) {
        http_link_lost(l, rc, "TLS with %s: %s", http_link_name(l->place, name, sizeof(name)),
                       err_text(&e));
        return false;
    }
    if (rc != 0 || tls_session_closed(l->tls)) {
        l->broken_rc = rc != 0 ? rc : UV_EOF;
    }
    if (l->state == HTTP_LINK_HANDSHAKE && tls_session_ready(l->tls)) {
        link_open(l);
    }
    return *ret_plain > 0 && !l->closing;
}

static void link_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct http_link *l = stream->data;
    size_t plain = 0;
    if (n < 0) {
        /* TLS says when it ends; without that the rest was cut off. */
        l->broken_rc = n == UV_EOF && l->tls != NULL ? UV_ECONNRESET : (int)n;
        http_link_reading(l);
        http_link_pump(l);
        return;
    }
    l->client->stats.bytes_in += (uint64_t)n;
    if (n > 0 && l->tls == NULL) {
        http_link_run(l, buf->base, (size_t)n);
    } else if (n > 0 && link_decipher(l, buf->base, (size_t)n, &plain)) {
        http_link_run(l, l->client->plain, plain);
    } else if (n > 0 && !l->closing) {
        http_link_pump(l);
    }
}

void http_link_reading(struct http_link *l)
{
    bool paused = l->call != NULL && l->call->paused && l->state == HTTP_LINK_OPEN;
    bool want = !l->closing && l->state >= HTTP_LINK_HANDSHAKE && l->broken_rc == 0 &&
                l->pending == NULL && !paused;
    if (want && !l->reading) {
        int rc = uv_read_start((uv_stream_t *)&l->tcp, link_alloc, link_read);
        l->reading = rc == 0;
        if (rc != 0) {
            l->broken_rc = rc;
            http_link_kick(l);
        }
    } else if (!want && l->reading && !l->closing) {
        l->reading = false;
        (void)uv_read_stop((uv_stream_t *)&l->tcp);
    }
}

/* -- making one -- */

/* The address did not work: the next one, on a new socket. */
static void link_closed_for_next(uv_handle_t *h)
{
    struct http_link *l = h->data;
    l->tcp_open = false;
    if (l->closing) {
        link_maybe_gone(l);
        return;
    }
    const struct addrinfo *to = l->next;
    l->next = to->ai_next;
    link_connect(l, to->ai_addr);
}

static void link_refused(struct http_link *l, int status)
{
    char name[300];
    if (l->next != NULL) {
        uv_close((uv_handle_t *)&l->tcp, link_closed_for_next);
        return;
    }
    http_link_lost(l, status, "connect to %s: %s", http_link_name(l->place, name, sizeof(name)),
                   uv_strerror(status));
}

static void link_connected(uv_connect_t *req, int status)
{
    struct http_link *l = req->data;
    char name[300];
    struct err e = { .code = 0 };
    if (l->closing) {
        return;
    }
    if (status != 0) {
        link_refused(l, status);
        return;
    }
    (void)uv_tcp_nodelay(&l->tcp, 1);
    (void)uv_tcp_keepalive(&l->tcp, 1, 60);
    l->client->stats.connections_total++;
    l->state = HTTP_LINK_HANDSHAKE;
    if (l->place->tls == NULL) {
        link_open(l);
        http_link_pump(l);
        return;
    }
    int rc = tls_session_client(l->place->tls, l->place->tls_name, l->place->port, &l->tls,
                                &l->client->cipher, &e);
    if (rc != 0) {
        http_link_lost(l, rc, "TLS with %s: %s", http_link_name(l->place, name, sizeof(name)),
                       err_text(&e));
        return;
    }
    link_flush_cipher(l);
    http_link_reading(l);
}

static void link_connect(struct http_link *l, const struct sockaddr *to)
{
    struct sockaddr_storage sa;
    const struct http_client_options *opt = &l->client->opt;
    while (opt->may_connect != NULL && !opt->may_connect(opt->arg, to)) {
        if (l->next == NULL) {
            l->state = HTTP_LINK_CONNECT;
            l->broken_rc = -EPERM; /* the pump tells */
            http_link_kick(l);
            return;
        }
        to = l->next->ai_addr;
        l->next = l->next->ai_next;
    }
    bool six = to->sa_family == AF_INET6;
    memset(&sa, 0, sizeof(sa));
    memcpy(&sa, to, six ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
    if (six) {
        ((struct sockaddr_in6 *)&sa)->sin6_port = htons(l->place->port);
    } else {
        ((struct sockaddr_in *)&sa)->sin_port = htons(l->place->port);
    }
    l->state = HTTP_LINK_CONNECT;
    int rc = uv_tcp_init(l->client->loop->uv, &l->tcp);
    INSIST(rc == 0); /* no socket is made here */
    l->tcp_open = true;
    l->tcp.data = l;
    l->connect.data = l;
    rc = uv_tcp_connect(&l->connect, &l->tcp, (const struct sockaddr *)&sa, link_connected);
    if (rc != 0 && l->next != NULL) {
        uv_close((uv_handle_t *)&l->tcp, link_closed_for_next);
    } else if (rc != 0) {
        l->broken_rc = rc; /* the pump tells */
        http_link_kick(l);
    }
}

static void link_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *found)
{
    struct http_link *l = req->data;
    l->resolving = false;
    l->found = found;
    if (l->closing) {
        link_maybe_gone(l);
        return;
    }
    if (status != 0 || found == NULL) {
        http_link_lost(l, -EHOSTUNREACH, "look up '%s': %s", l->place->host,
                       status != 0 ? uv_strerror(status) : "no address");
        return;
    }
    l->next = found->ai_next;
    link_connect(l, found->ai_addr);
}

static void link_find(struct http_link *l)
{
    struct sockaddr_in *four = (struct sockaddr_in *)&l->literal;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&l->literal;
    const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
    const char *host = l->place->host;
    if (uv_ip4_addr(host, 0, four) == 0 || uv_ip6_addr(host, 0, six) == 0) {
        link_connect(l, (const struct sockaddr *)&l->literal);
        return;
    }
    l->resolve.data = l;
    l->state = HTTP_LINK_RESOLVE;
    int rc = uv_getaddrinfo(l->client->loop->uv, &l->resolve, link_resolved, host, NULL, &hints);
    l->resolving = rc == 0;
    if (rc != 0) {
        l->broken_rc = rc;
        http_link_kick(l);
    }
}

int http_link_new(struct http_place *p, struct http_call *call)
{
    struct http_client *c = p->client;
    struct http_link *l = mem_zalloc(sizeof(*l));
    if (l == NULL || http1_new(HTTP1_RESPONSE, &l->parser) != 0) {
        mem_free(l);
        return -ENOMEM;
    }
    l->client = c;
    l->place = p;
    l->call = call;
    call->link = l;
    list_init(&l->all_link);
    list_init(&l->idle_link);
    list_init(&l->old_link);
    loop_defer_init(&l->kick, link_kicked);
    heap_node_init(&l->due.node);
    l->due.fn = http_link_timeout;
    list_push_back(&c->links, &l->all_link);
    loop_hold(&c->owner);
    p->links++;
    p->refs++;
    c->stats.connections++;
    if (!http_client_due(c, &l->due, c->opt.connect_timeout_ms)) {
        l->broken_rc = UV_ENOMEM; /* the pump tells */
        http_link_kick(l);
        return 0;
    }
    link_find(l);
    return 0;
}

void http_link_take(struct http_link *l, struct http_call *call)
{
    list_remove(&l->idle_link);
    list_remove(&l->old_link);
    l->client->stats.idle--;
    l->client->stats.reused_total++;
    l->call = call;
    call->link = l;
    http_call_begin(call);
    http_link_kick(l); /* for its deadline */
}
