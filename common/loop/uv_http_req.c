/* Requests: what a handler asks about them, and their bodies. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "common/loop/http_server_internal.h"
#include "common/mem.h"

/* -- life -- */

struct http_req *http_req_new(struct http_conn *c)
{
    struct http_server *s = c->server;
    struct http_req *req;
    struct buf headers = BUF_INIT(HTTP_RES_HEADERS_MAX);
    if (!list_empty(&s->req_pool)) {
        req = LIST_ITEM(s->req_pool.next, struct http_req, pool_link);
        list_remove(&req->pool_link);
        s->req_pool_len--;
        headers = req->headers;
    } else {
        req = mem_alloc(sizeof(*req));
        if (req == NULL) {
            return NULL;
        }
    }
    memset(req, 0, sizeof(*req));
    list_init(&req->pool_link);
    req->headers = headers;
    buf_reset(&req->headers);
    req->conn = c;
    req->head = http1_head(c->parser);
    req->keep = req->head->keep_alive;
    req->bodyless = str_eqs(req->head->method, "HEAD");
    if (!req->head->chunked && (!req->head->has_length || req->head->length == 0)) {
        req->body = HTTP_BODY_DONE;
    }
    return req;
}

struct http_req *http_req_discard(struct http_req *req)
{
    buf_release(&req->headers);
    return mem_free(req);
}

void http_req_finish(struct http_req *req, bool aborted)
{
    struct http_conn *c = req->conn;
    struct http_server *s = c->server;
    c->req = NULL;
    http_res_detach(req);
    buf_release(&req->whole);
    if (req->on_done != NULL) {
        req->on_done(req->arg, aborted);
    }
    if (s->req_pool_len < HTTP_POOL_MAX && req->headers.cap <= HTTP_POOL_KEEP) {
        list_push_back(&s->req_pool, &req->pool_link);
        s->req_pool_len++;
    } else {
        (void)http_req_discard(req);
    }
}

void http_req_set_user(struct http_req *req, const char *user)
{
    (void)snprintf(req->user, sizeof(req->user), "%s", user);
}

const char *http_req_user(const struct http_req *req)
{
    return req->user;
}

void http_req_set_arg(struct http_req *req, void *arg, void (*on_done)(void *arg, bool aborted))
{
    req->arg = arg;
    req->on_done = on_done;
}

void *http_req_arg(const struct http_req *req)
{
    return req->arg;
}

/* -- who asks -- */

const struct http1_head *http_req_head(const struct http_req *req)
{
    return req->head;
}

static int peer_name(const struct http_conn *c, struct sockaddr_storage *ret)
{
    int n = sizeof(*ret);
    memset(ret, 0, sizeof(*ret));
    return uv_tcp_getpeername(&c->uv.tcp, (struct sockaddr *)ret, &n);
}

/* The address of a v4 client on a v6 socket is written (and judged) as v4. */
static bool peer_v4(const struct sockaddr_storage *sa, struct in_addr *ret)
{
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)sa;
    if (sa->ss_family == AF_INET) {
        *ret = ((const struct sockaddr_in *)sa)->sin_addr;
        return true;
    }
    if (sa->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
        memcpy(ret, &six->sin6_addr.s6_addr[12], sizeof(*ret));
        return true;
    }
    return false;
}

void http_conn_peer(struct http_conn *c, char dst[64])
{
    struct sockaddr_storage sa;
    struct in_addr four;
    char host[INET6_ADDRSTRLEN] = "";
    if (c->server->is_pipe || peer_name(c, &sa) != 0) {
        (void)snprintf(dst, 64, "%s", c->server->is_pipe ? "unix" : "unknown");
        return;
    }
    unsigned port = ntohs(((const struct sockaddr_in *)&sa)->sin_port);
    if (peer_v4(&sa, &four)) {
        (void)uv_inet_ntop(AF_INET, &four, host, sizeof(host));
        (void)snprintf(dst, 64, "%s:%u", host, port);
    } else {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&sa;
        (void)uv_inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof(host));
        (void)snprintf(dst, 64, "[%s]:%u", host, port);
    }
}

const char *http_req_peer(const struct http_req *creq)
{
    /* The text is made when somebody asks: most requests are never logged. */
    struct http_req *req = creq->conn->req == creq ? creq->conn->req : NULL;
    if (creq->peer[0] == '\0' && req != NULL) {
        http_conn_peer(req->conn, req->peer);
    }
    return creq->peer;
}

bool http_req_is_tls(const struct http_req *req)
{
    return req->conn->tls != NULL;
}

const char *http_req_tls_name(const struct http_req *req)
{
    return req->conn->tls != NULL ? tls_session_peer(req->conn->tls) : "";
}

bool http_req_is_loopback(const struct http_req *req)
{
    struct sockaddr_storage sa;
    struct in_addr four;
    if (req->conn->server->is_pipe) {
        return true;
    }
    if (peer_name(req->conn, &sa) != 0) {
        return false;
    }
    if (peer_v4(&sa, &four)) {
        return (ntohl(four.s_addr) >> 24) == 127;
    }
    return sa.ss_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)&sa)->sin6_addr);
}

const char *http_req_id(const struct http_req *creq)
{
    struct http_req *req = creq->conn->req == creq ? creq->conn->req : NULL;
    if (creq->id[0] == '\0' && req != NULL) {
        /* An odd factor permutes the 64-bit numbers: no id comes twice, and none tells how many
         * there were. */
        struct http_server *s = req->conn->server;
        uint64_t id = (s->id_seed + s->id_next++) * UINT64_C(0x9e3779b97f4a7c15);
        (void)snprintf(req->id, sizeof(req->id), "%016llx", (unsigned long long)id);
    }
    return creq->id;
}

/* -- bodies -- */

void http_req_read(struct http_req *req, uint64_t max, const struct http_body_sink *sink)
{
    struct http_conn *c = req->conn;
    REQUIRE(!req->asked && !req->ended);
    req->asked = true;
    req->sink = *sink;
    req->body_max = max;
    if (req->body == HTTP_BODY_DONE) {
        req->end_due = true;
    } else if (req->head->has_length && req->head->length > max) {
        req->refusal_due = true;
    } else {
        req->body = HTTP_BODY_WANTED;
        if (req->head->expect_continue && req->head->minor >= 1 && !req->started) {
            char lead[] = "HTTP/1.1 100 Continue\r\n\r\n";
            uv_buf_t iov = { .base = lead, .len = sizeof(lead) - 1 };
            req->lead_out = true;
            http_conn_write(c, &iov, 1);
        }
    }
    http_conn_kick(c);
}

void http_req_pause(struct http_req *req)
{
    req->paused = true;
}

void http_req_resume(struct http_req *req)
{
    req->paused = false;
    http_conn_kick(req->conn);
}

static void body_refuse(struct http_req *req)
{
    req->body = HTTP_BODY_REFUSED;
    req->refusal_due = false;
    req->sink.on_end(req->sink.arg, req, -EFBIG);
}

/* A malformed body: nothing after it can be understood. */
static void body_bad(struct http_req *req, const struct err *e)
{
    struct http_conn *c = req->conn;
    int status = http1_status(c->parser);
    c->server->stats.bad_requests_total++;
    http_res_problem(c, status, e->text);
}

static void body_bytes(struct http_req *req, struct str data)
{
    req->body_seen += data.n;
    if (req->head->has_length && req->body_seen == req->head->length) {
        req->body = HTTP_BODY_DONE;
        req->end_due = true;
    }
    if (req->ended) {
        req->body_discarded += data.n;
    } else if (req->body_seen > req->body_max) {
        req->end_due = false;
        body_refuse(req);
    } else if (data.n > 0) {
        req->sink.on_data(req->sink.arg, req, data);
    }
}

size_t http_req_feed(struct http_req *req, const char *p, size_t n, bool *ret_stop)
{
    struct http_conn *c = req->conn;
    size_t used = 0;
    if (!req->ended && req->refusal_due) {
        body_refuse(req);
        return 0;
    }
    if (!req->ended && req->end_due && !req->paused) {
        req->end_due = false;
        req->sink.on_end(req->sink.arg, req, 0);
        return 0;
    }
    bool wanted = req->ended || (req->body == HTTP_BODY_WANTED && !req->paused);
    if (req->body == HTTP_BODY_DONE || !wanted || n == 0) {
        *ret_stop = true;
        return 0;
    }
    struct str data = { NULL, 0 };
    struct err e;
    int rc = http1_feed(c->parser, p, n, &used, &data, &e);
    if (rc < 0) {
        body_bad(req, &e);
        *ret_stop = true;
    } else if (rc == HTTP1_BODY) {
        body_bytes(req, data);
    } else if (rc == HTTP1_END) {
        req->body = HTTP_BODY_DONE;
        req->end_due = true;
    } else {
        *ret_stop = used == 0;
    }
    return used;
}

static void whole_end(void *arg, struct http_req *req, int status)
{
    (void)arg;
    struct str body = status == 0 ? buf_str(&req->whole) : (struct str){ NULL, 0 };
    req->on_whole(req->whole_arg, req, status, body);
}

static void whole_data(void *arg, struct http_req *req, struct str data)
{
    if (buf_addstr(&req->whole, data) != 0) {
        /* The rest is not wanted any more: as if it were too long, with its own reason. */
        req->body = req->body == HTTP_BODY_DONE ? HTTP_BODY_DONE : HTTP_BODY_REFUSED;
        req->end_due = false;
        whole_end(arg, req, -ENOMEM);
    }
}

void http_req_read_all(struct http_req *req, size_t max,
                       void (*on_body)(void *arg, struct http_req *req, int status,
                                       struct str body),
                       void *arg)
{
    const struct http_body_sink sink = { .on_data = whole_data, .on_end = whole_end };
    buf_init(&req->whole, max);
    req->on_whole = on_body;
    req->whole_arg = arg;
    http_req_read(req, max, &sink);
}
