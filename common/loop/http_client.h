/*
 * http_client - an HTTP/1.1 client on a libuv loop: kept-alive connections, one call at a time on
 * each, streamed bodies in both directions, back-pressure, deadlines. Plain or TLS.
 *
 * A struct http_client is a pool: it keeps idle connections by (host, port, TLS) and opens at most
 * per_host_max to one place; further calls wait their turn in order. A call lives from
 * http_call_new() until on_done, which fires exactly once, from the loop, never inside a call of
 * this header; after it the pointer is gone. http_call_cancel() instead ends it at once and
 * nothing more is called. All calls are for the loop's thread.
 *
 * A call on a kept-alive connection that the server closed before a byte of the answer came is
 * sent once more on a new connection when its body can be repeated (none, bytes, or a file) and so
 * can the request: GET, HEAD, OPTIONS, TRACE, PUT, DELETE, or any with an Idempotency-Key. Another
 * POST may have been heard all the same: its owner is told -ECONNRESET and decides.
 *
 * Redirects are not followed; bodies are handed on as they are (no decompression). What an answer
 * may contain is bounded: its head by HTTP1_HEAD_MAX, its body by `body_max`. Bytes from the
 * server are parsed as strictly as those from clients (common/http1.h).
 */
#ifndef COMMON_LOOP_HTTP_CLIENT_H
#define COMMON_LOOP_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/http1.h"
#include "common/loop/loop.h"

struct http_client;
struct http_call;
struct tls_context; /* common/loop/tls.h: what a TLS client trusts and shows */

/* UINT_MAX as a timeout: none. */
struct http_client_options {
    unsigned per_host_max; /* connections to one place, default 16 */
    unsigned idle_max;     /* idle connections kept in all, default 256 */
    unsigned waiting_max;  /* calls that wait for a connection, default 4,096; more: -EAGAIN */
    unsigned connect_timeout_ms;  /* name lookup, connect and TLS handshake, default 5,000 */
    unsigned idle_timeout_ms;     /* an idle connection is closed after this, default 30,000 */
    unsigned response_timeout_ms; /* last byte sent to the answer's head; default 30,000 */
    unsigned body_timeout_ms;     /* without progress of a body, default 30,000 */
    const char *user_agent;       /* copied; may be NULL */
    /* Asked before each connection, with the address that it goes to; false: not to this one
     * (-EPERM, when there is no other). NULL: any. */
    bool (*may_connect)(void *arg, const struct sockaddr *to);
    void *arg; /* of may_connect */
};

/* 0 or -ENOMEM. opt may be NULL; zero members mean the defaults. */
int http_client_start(struct loop *loop, const struct http_client_options *opt,
                      struct http_client **ret, struct err *e);
/* Calls that are left end with -ECANCELED; then on_closed fires and the client is gone. */
void http_client_close(struct http_client *c, void (*on_closed)(void *arg), void *arg);

struct http_target {
    const char *host; /* a literal address or a name; copied */
    uint16_t port;
    struct tls_context *tls; /* NULL: plain. Referenced until the call's connection is closed */
    const char *tls_name;    /* the certificate must carry this SAN; NULL: host. Copied */
};

struct http_call_events {
    /* The answer's final head (1xx ones are swallowed); valid during the call. May be NULL. */
    void (*on_head)(void *arg, struct http_call *call, const struct http1_head *head);
    /* A piece of the answer's body, valid during the call; may http_call_pause(). May be NULL: then
     * the body is read and thrown away. */
    void (*on_data)(void *arg, struct http_call *call, struct str data);
    /* With http_call_body_stream(): everything written so far has left. May be NULL. */
    void (*on_drain)(void *arg, struct http_call *call);
    /* 0: the answer is whole. Else -Exxx (-ECONNREFUSED, -ETIMEDOUT, -EPROTO: not HTTP or broken
     * off, -EFBIG: over body_max, -EACCES: TLS refused, …) and `why`, a sentence that names host
     * and stage. status: the answer's, 0 when none came. */
    void (*on_done)(void *arg, struct http_call *call, int rc, int status, const char *why);
    void *arg;
};

/* A call that is not sent yet: add headers and a body, then http_call_send(). method and target
 * ("/v2/") are copied. Host, User-Agent, Content-Length or Transfer-Encoding are set here.
 * body_max: of the answer, in bytes. NULL: no memory. */
struct http_call *http_call_new(struct http_client *c, const struct http_target *to,
                                const char *method, const char *target, uint64_t body_max,
                                const struct http_call_events *ev);
/* Copied. CR, LF or NUL in a value is a REQUIRE. */
void http_call_header(struct http_call *call, const char *name, const char *value);
void http_call_headerf(struct http_call *call, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* At most one of these; without any there is no body. */
void http_call_body(struct http_call *call, const void *p, size_t n); /* copied */
/* n bytes of fd from offset; fd is taken over in every case; read in the thread pool. */
void http_call_body_file(struct http_call *call, int fd, uint64_t offset, uint64_t n);
/* The caller writes after http_call_send(); length: Content-Length, or UINT64_MAX: chunked. */
void http_call_body_stream(struct http_call *call, uint64_t length);
/* Deadline for the whole call from now on, in ms; 0: none (the default). */
void http_call_deadline(struct http_call *call, uint64_t ms);
/* Sends, or queues for a connection. Failures, too, come through on_done. */
void http_call_send(struct http_call *call);

/* Copies. False: more than 256 KiB wait; write no more until on_drain. */
bool http_call_write(struct http_call *call, const void *p, size_t n);
void http_call_write_end(struct http_call *call);
void http_call_pause(struct http_call *call);
void http_call_resume(struct http_call *call);
/* Ends it; no event comes any more and the pointer is gone. NULL is fine; returns NULL. */
struct http_call *http_call_cancel(struct http_call *call);

struct http_client_stats {
    uint64_t calls_total, failed_total, connections_total, reused_total, bytes_in, bytes_out;
    unsigned connections, idle, waiting;
};
const struct http_client_stats *http_client_stats(const struct http_client *c);

#endif
