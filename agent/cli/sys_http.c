/*
 * One HTTP/1.1 connection to a node, for a client that waits: non-blocking socket, poll(2).
 *
 * While a body is sent the socket is watched for an early answer (413, 422, …), which ends the
 * sending: a node that has refused a payload need not swallow it.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#include "agent/cli/sys_cli.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    CONNECT_MS = 5000,
    STALL_MS = 60 * 1000,   /* without a byte taken by the node */
    ANSWER_MS = 300 * 1000, /* for the head of an answer */
    IN_CAP = 64 * 1024,
    OUT_CAP = 128 * 1024,
    TLS_SLICE = 64 * 1024, /* plain bytes that are enciphered at a time */
};

struct cli_http {
    const struct cli_ctx *ctx;
    int fd; /* -1: not connected */
    struct http1 *parser;
    bool ended;  /* the answer is complete */
    bool headed; /* its head has come */
    bool reused; /* an answer has come over this connection before */
    bool cut;    /* the request was not sent to its end */
    size_t at, len;
    struct tls_session *tls; /* NULL: plain, or not connected */
    struct buf cipher;       /* what TLS wants to send */
    char raw[IN_CAP];        /* with TLS: what came */
    char in[IN_CAP + TLS_RECORD_MAX];
    char out[OUT_CAP];
};

int cli_http_new(const struct cli_ctx *ctx, struct cli_http **ret, struct err *e)
{
    struct cli_http *h = mem_zalloc(sizeof(*h));
    if (h == NULL) {
        return err_set(e, -ENOMEM, "open a connection");
    }
    h->ctx = ctx;
    h->fd = -1;
    h->ended = true;
    buf_init(&h->cipher, (size_t)8 * TLS_SLICE);
    if (http1_new(HTTP1_RESPONSE, &h->parser) != 0) {
        mem_free(h);
        return err_set(e, -ENOMEM, "open a connection");
    }
    *ret = h;
    return 0;
}

struct cli_http *cli_http_free(struct cli_http *h)
{
    if (h != NULL) {
        fd_close(h->fd);
        http1_free(h->parser);
        (void)tls_session_free(h->tls);
        buf_release(&h->cipher);
        mem_free(h);
    }
    return NULL;
}

static void hang_up(struct cli_http *h)
{
    h->fd = fd_close(h->fd);
    h->tls = tls_session_free(h->tls);
    h->at = h->len = 0;
    h->reused = false;
    h->ended = true;
}

/* 1 ready, 0 not in time, -Exxx. */
static int wait_for(int fd, short events, int timeout_ms)
{
    struct pollfd p = { .fd = fd, .events = events };
    for (;;) {
        int n = poll(&p, 1, timeout_ms);
        if (n >= 0) {
            return n;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
}

static int connect_one(const struct addrinfo *a, int *ret_fd)
{
    AUTO_FD int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    if (connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
        if (errno != EINPROGRESS) {
            return -errno;
        }
        int rc = wait_for(fd, POLLOUT, CONNECT_MS);
        if (rc <= 0) {
            return rc == 0 ? -ETIMEDOUT : rc;
        }
        int status = 0;
        socklen_t n = sizeof(status);
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &status, &n) != 0) {
            return -errno;
        }
        if (status != 0) {
            return -status;
        }
    }
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    *ret_fd = fd_take(&fd);
    return 0;
}

static int nobody(const struct cli_ctx *ctx, int code, const char *why, struct err *e)
{
    return err_say(e, code,
                   "no node answers at %s: %s (start one with 'agent serve', or name another with "
                   "--node or AGENT_ADDR)",
                   ctx->addr, why);
}

static int lost(const struct cli_http *h, int code, struct err *e)
{
    return err_set(e, code, "the connection to the node at %s broke", h->ctx->addr);
}

static int fill(struct cli_http *h);

/* Has the node something to say already, or hung up? TLS says things, too, that are no answer. */
static bool answer_is_there(struct cli_http *h)
{
    if (h->at < h->len) {
        return true;
    }
    return wait_for(h->fd, POLLIN, 0) > 0 && (h->tls == NULL || fill(h) != 0);
}

/* 0 all sent; 1 the node has answered meanwhile, sending was given up; -Exxx. */
static int send_raw(struct cli_http *h, const char *p, size_t n, bool watch, struct err *e)
{
    while (n > 0) {
        ssize_t sent = send(h->fd, p, n, MSG_NOSIGNAL);
        if (sent >= 0) {
            p += sent;
            n -= (size_t)sent;
            continue;
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN) {
            /* The reason may lie in the receive buffer. */
            return answer_is_there(h) ? 1 : lost(h, -errno, e);
        }
        int rc = wait_for(h->fd, (short)(POLLOUT | (watch ? POLLIN : 0)), STALL_MS);
        if (rc < 0) {
            return lost(h, rc, e);
        }
        if (rc == 0) {
            return err_say(e, -ETIMEDOUT, "the node at %s takes nothing for %d s", h->ctx->addr,
                           STALL_MS / 1000);
        }
        if (watch && answer_is_there(h)) {
            return 1;
        }
    }
    return 0;
}

/* The same for plain bytes, whatever the connection speaks. */
static int send_all(struct cli_http *h, const char *p, size_t n, bool watch, struct err *e)
{
    if (h->tls == NULL) {
        return send_raw(h, p, n, watch, e);
    }
    int rc = 0;
    for (size_t at = 0; at < n && rc == 0; at += TLS_SLICE) {
        rc = tls_session_write(h->tls, p + at, n - at < TLS_SLICE ? n - at : TLS_SLICE, &h->cipher,
                               e);
        rc = rc == 0 ? send_raw(h, h->cipher.data, h->cipher.len, watch, e) : rc;
        buf_reset(&h->cipher);
    }
    return rc;
}

/* -- TLS -- */

/* One recv(): 1 plain bytes are in h->in, 0 not yet, -Exxx with e set; -EPIPE at the end. */
static int fill_tls(struct cli_http *h, struct err *e)
{
    ssize_t n;
    if (tls_session_closed(h->tls)) {
        return err_set(e, -EPIPE, "closed");
    }
    do {
        n = recv(h->fd, h->raw, sizeof(h->raw), 0);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return errno == EAGAIN ? 0 : err_set(e, -errno, "receive");
    }
    if (n == 0) {
        /* Without TLS saying so this may be the middle of anything. */
        return err_say(e, -ECONNRESET, "the connection was cut");
    }
    int rc =
        tls_session_feed(h->tls, h->raw, (size_t)n, h->in, sizeof(h->in), &h->len, &h->cipher, e);
    h->at = 0;
    if (h->cipher.len > 0) {
        (void)send_raw(h, h->cipher.data, h->cipher.len, false, NULL);
        buf_reset(&h->cipher);
    }
    return h->len > 0 ? 1 : rc != 0 ? rc : tls_session_closed(h->tls) ? -EPIPE : 0;
}

static int handshake(struct cli_http *h, struct err *e)
{
    struct err why = { .code = 0 };
    int rc = tls_session_client(h->ctx->tls, h->ctx->host, h->ctx->port, &h->tls, &h->cipher, &why);
    rc = rc == 0 ? send_raw(h, h->cipher.data, h->cipher.len, false, &why) : rc;
    buf_reset(&h->cipher);
    while (rc == 0 && !tls_session_ready(h->tls)) {
        rc = wait_for(h->fd, POLLIN, CONNECT_MS);
        if (rc == 0) {
            rc = err_say(&why, -ETIMEDOUT, "it does not answer");
        } else if (rc > 0) {
            rc = fill_tls(h, &why);
        }
        rc = rc > 0 ? 0 : rc;
    }
    if (rc == 0) {
        return 0;
    }
    bool plain = rc == -ECONNRESET || rc == -EPROTO;
    rc = err_say(e, rc, "TLS with the node at %s: %s%s", h->ctx->addr, err_text(&why),
                 plain ? " (does it speak TLS?)" : "");
    hang_up(h);
    return rc;
}

static int dial(struct cli_http *h, struct err *e)
{
    char port[8];
    (void)snprintf(port, sizeof(port), "%u", (unsigned)h->ctx->port);
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(h->ctx->host, port, &hints, &list);
    if (rc != 0) {
        return nobody(h->ctx, -EHOSTUNREACH, gai_strerror(rc), e);
    }
    rc = -EHOSTUNREACH;
    for (const struct addrinfo *a = list; a != NULL && rc != 0; a = a->ai_next) {
        rc = connect_one(a, &h->fd);
    }
    freeaddrinfo(list);
    if (rc != 0) {
        return nobody(h->ctx, rc, strerrordesc_np(-rc), e);
    }
    h->at = h->len = 0;
    h->reused = false;
    return h->ctx->tls != NULL ? handshake(h, e) : 0;
}

static int send_source(struct cli_http *h, const struct cli_request *req, struct err *e)
{
    /* A chunk: up to 8 digits and CRLF before, CRLF behind. */
    enum { BEFORE = 10, ROOM = OUT_CAP - BEFORE - 2 };
    uint64_t left = req->length;
    for (;;) {
        size_t want = ROOM;
        if (req->has_length && left < want) {
            want = (size_t)left;
        }
        ssize_t got = want == 0 ? 0 : req->source(req->source_arg, h->out + BEFORE, want, e);
        if (got < 0) {
            return (int)got;
        }
        if (req->has_length && got == 0) {
            return left == 0 ? 0 : err_say(e, -EIO, "the payload became shorter meanwhile");
        }
        size_t n = (size_t)got;
        char *start = h->out + BEFORE;
        if (!req->has_length) {
            char size[BEFORE + 1];
            int digits = snprintf(size, sizeof(size), "%zx\r\n", n);
            INSIST(digits > 0 && digits <= BEFORE);
            start -= digits;
            memcpy(start, size, (size_t)digits);
            memcpy(h->out + BEFORE + n, "\r\n", 2);
            n += (size_t)digits + 2;
        } else {
            left -= n;
        }
        int rc = answer_is_there(h) ? 1 : send_all(h, start, n, true, e);
        if (rc != 0) {
            return rc;
        }
        if (got == 0) {
            return 0;
        }
    }
}

static int send_request(struct cli_http *h, const struct cli_request *req, struct err *e)
{
    AUTO_BUF struct buf head = BUF_INIT(64 * 1024);
    (void)buf_addf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: agent\r\n", req->method,
                   req->target, h->ctx->addr);
    if (h->ctx->token[0] != '\0') {
        (void)buf_addf(&head, "Authorization: Bearer %s\r\n", h->ctx->token);
    }
    if (req->type != NULL) {
        (void)buf_addf(&head, "Content-Type: %s\r\n", req->type);
    }
    (void)buf_adds(&head, req->headers != NULL ? req->headers : "");
    bool bodied = strcmp(req->method, "GET") != 0 && strcmp(req->method, "HEAD") != 0;
    if (req->source != NULL && !req->has_length) {
        (void)buf_adds(&head, "Transfer-Encoding: chunked\r\n");
    } else if (bodied) {
        uint64_t length = req->source != NULL ? req->length : req->body.n;
        (void)buf_addf(&head, "Content-Length: %llu\r\n", (unsigned long long)length);
    }
    (void)buf_adds(&head, "\r\n");
    if (buf_error(&head) != 0) {
        return err_say(e, buf_error(&head), "the request is too long");
    }
    /* A small body travels with the head, in one segment. */
    bool joined = req->source == NULL && head.len + req->body.n < head.max;
    if (joined) {
        (void)buf_addstr(&head, req->body);
    }
    int rc = buf_error(&head) != 0 ? -ENOMEM : send_all(h, head.data, head.len, false, e);
    if (rc == 0 && req->source != NULL) {
        rc = send_source(h, req, e);
    } else if (rc == 0 && !joined) {
        rc = send_all(h, req->body.p, req->body.n, true, e);
    }
    return rc;
}

/* One recv() when nothing is left over: 1 bytes are there, 0 not yet, -Exxx; -EPIPE at the end. */
static int fill(struct cli_http *h)
{
    if (h->at < h->len) {
        return 1;
    }
    if (h->tls != NULL) {
        return fill_tls(h, NULL);
    }
    ssize_t n;
    do {
        n = recv(h->fd, h->in, IN_CAP, 0);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return errno == EAGAIN ? 0 : -errno;
    }
    h->at = 0;
    h->len = (size_t)n;
    return n > 0 ? 1 : -EPIPE;
}

/* The answer is over: keep the connection, or not. */
static void finish(struct cli_http *h)
{
    const struct http1_head *head = http1_head(h->parser);
    h->ended = true;
    if (!head->keep_alive || h->cut || h->at < h->len) {
        hang_up(h);
    }
}

/* Ready for the answer to a request that was sent. */
static void expect_answer(struct cli_http *h, const struct cli_request *req)
{
    http1_reset(h->parser);
    if (strcmp(req->method, "HEAD") == 0) {
        http1_expect_no_body(h->parser);
    }
    h->ended = false;
    h->headed = false;
}

/* Feeds what is in the buffer: 1 the answer is over, 0 used up, -Exxx. The end of an empty body is
 * known without another byte. Returns behind the head too
 * when sink is NULL. */
static int feed(struct cli_http *h, cli_sink_fn *sink, void *arg, struct err *e)
{
    for (;;) {
        size_t used = 0;
        struct str body;
        int rc = http1_feed(h->parser, h->in + h->at, h->len - h->at, &used, &body, e);
        h->at += used;
        if (rc == HTTP1_MORE) {
            return 0;
        }
        if (rc < 0) {
            (void)err_prefix(e, "the answer of the node at %s", h->ctx->addr);
            hang_up(h);
            return rc;
        }
        if (rc == HTTP1_HEAD && http1_head(h->parser)->status >= 200) {
            h->headed = true;
            if (sink == NULL) {
                return 0;
            }
        } else if (rc == HTTP1_END && !h->headed) {
            http1_reset(h->parser); /* an interim answer */
        } else if (rc == HTTP1_END) {
            finish(h);
            return 1;
        } else if (rc == HTTP1_BODY) {
            INSIST(sink != NULL);
            rc = sink(arg, body, e);
            if (rc != 0) {
                hang_up(h);
                return rc;
            }
        }
    }
}

/* Waits for the end of the head. */
static int read_head(struct cli_http *h, const struct cli_request *req, struct err *e)
{
    int timeout = req->timeout_ms == 0 ? ANSWER_MS : req->timeout_ms;
    while (!h->headed) {
        int rc = fill(h);
        if (rc == 0) {
            rc = wait_for(h->fd, POLLIN, timeout);
            if (rc == 0) {
                return err_say(e, -ETIMEDOUT, "the node at %s does not answer", h->ctx->addr);
            }
            if (rc > 0) {
                continue;
            }
        }
        if (rc < 0) {
            return lost(h, rc, e);
        }
        rc = feed(h, NULL, NULL, e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* Connects where needed and sends. *ret_reused: over a connection that had been used before. */
static int begin(struct cli_http *h, const struct cli_request *req, bool *ret_reused, struct err *e)
{
    if (!h->ended) {
        hang_up(h); /* the last answer was not read to its end */
    }
    /* A kept connection that the node has closed reads as ready. */
    if (h->fd >= 0 && answer_is_there(h)) {
        hang_up(h);
    }
    int rc = h->fd >= 0 ? 0 : dial(h, e);
    if (rc != 0) {
        return rc;
    }
    *ret_reused = h->reused;
    rc = send_request(h, req, e);
    h->cut = rc == 1;
    if (rc < 0) {
        hang_up(h);
        return rc;
    }
    h->reused = true;
    expect_answer(h, req);
    return 0;
}

int cli_http_begin(struct cli_http *h, const struct cli_request *req, struct err *e)
{
    bool reused = false;
    return begin(h, req, &reused, e);
}

int cli_http_request(struct cli_http *h, const struct cli_request *req, struct err *e)
{
    for (;;) {
        bool reused = false;
        int rc = begin(h, req, &reused, e);
        if (rc == 0) {
            rc = read_head(h, req, e);
            if (rc == 0) {
                return 0;
            }
            hang_up(h);
        }
        /* Closed between two requests: nothing of this one was looked at. */
        bool again = reused && req->source == NULL && (rc == -EPIPE || rc == -ECONNRESET);
        if (!again) {
            return rc;
        }
    }
}

bool cli_http_headed(const struct cli_http *h)
{
    return h->headed;
}

const struct http1_head *cli_http_head(const struct cli_http *h)
{
    return http1_head(h->parser);
}

int cli_http_status(const struct cli_http *h)
{
    return http1_head(h->parser)->status;
}

int cli_http_fd(const struct cli_http *h)
{
    return h->fd;
}

int cli_http_pump(struct cli_http *h, cli_sink_fn *sink, void *arg, struct err *e)
{
    if (h->ended) {
        return 1;
    }
    /* Also without a byte: the end of an empty body is known from the head. */
    int rc = feed(h, sink, arg, e);
    if (rc != 0) {
        return rc;
    }
    rc = fill(h);
    if (rc == 1) {
        return feed(h, sink, arg, e);
    }
    if (rc == -EPIPE && h->headed && http1_finish(h->parser, NULL) == 0) {
        hang_up(h);
        return 1;
    }
    if (rc < 0) {
        (void)lost(h, rc, e);
        hang_up(h);
    }
    return rc;
}

int cli_http_drain(struct cli_http *h, cli_sink_fn *sink, void *arg, struct err *e)
{
    for (;;) {
        int rc = cli_http_pump(h, sink, arg, e);
        if (rc != 0) {
            return rc < 0 ? rc : 0;
        }
        rc = wait_for(h->fd, POLLIN, -1);
        if (rc < 0) {
            return lost(h, rc, e);
        }
    }
}

static int add_to_buf(void *arg, struct str data, struct err *e)
{
    struct buf *b = arg;
    int rc = buf_addstr(b, data);
    return rc == 0 ? 0 : err_say(e, rc, "the node's answer is too long");
}

int cli_http_body(struct cli_http *h, struct buf *out, struct err *e)
{
    return cli_http_drain(h, add_to_buf, out, e);
}

int cli_call(struct cli_ctx *ctx, struct cli_http *h, const char *method, const char *target,
             struct str body, struct json_doc **ret_doc, int *ret_status, struct err *e)
{
    AUTO_HTTP struct cli_http *own = NULL;
    if (h == NULL) {
        int rc = cli_http_new(ctx, &own, e);
        if (rc != 0) {
            return rc;
        }
        h = own;
    }
    const struct cli_request req = {
        .method = method,
        .target = target,
        .type = body.n > 0 ? "application/json" : NULL,
        .headers = "Accept: application/json\r\n",
        .body = body,
    };
    AUTO_BUF struct buf answer = BUF_INIT(CLI_ANSWER_MAX);
    int rc = cli_http_request(h, &req, e);
    if (rc == 0) {
        rc = cli_http_body(h, &answer, e);
    }
    if (rc != 0) {
        return rc;
    }
    int status = cli_http_status(h);
    if (ret_status != NULL) {
        *ret_status = status;
    }
    if (status < 200 || status > 299) {
        return cli_problem(status, buf_str(&answer), NULL, e);
    }
    if (ret_doc == NULL) {
        return 0;
    }
    const struct json_limits limits = { .depth_max = 64, .nodes_max = 8 * 1024 * 1024 };
    rc = json_parse(buf_cstr(&answer), answer.len, &limits, ret_doc, e);
    return rc == 0 ? 0 : err_prefix(e, "the answer of the node at %s", ctx->addr);
}
