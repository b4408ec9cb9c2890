/*
 * http_server - an HTTP/1.1 server on a libuv loop: connections, parsing, limits, back-pressure.
 *
 * It knows no routes: each complete request head goes to one handler. api/ serves /v1 with it,
 * image/ serves /v2. One request at a time per connection (pipelined ones wait unread); keep-alive;
 * Expect: 100-continue is answered when the handler asks for the body. Nothing is called back from
 * inside the call that registers it. All calls are for the loop's thread.
 *
 * A struct http_req lives from on_request until its response has been sent and its body consumed,
 * or the connection broke; then on_done fires once, after which the pointer is gone. A handler that
 * has to wait keeps the req and answers later; when the client goes away meanwhile, on_done comes
 * with aborted = true and no further call on the req is allowed.
 */
#ifndef COMMON_LOOP_HTTP_SERVER_H
#define COMMON_LOOP_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/http1.h"

struct http_server;
struct http_req;
struct tls_context; /* common/loop/tls.h */

struct http_server_options {
    unsigned connections_max;   /* default 12,000; over it: 503 and close */
    unsigned header_timeout_ms; /* first byte to complete head, default 10,000 */
    unsigned idle_timeout_ms;   /* between requests, default 75,000 */
    unsigned body_timeout_ms;   /* without a byte while the handler wants some, default 30,000 */
    unsigned write_timeout_ms;  /* without progress of a response, default 30,000 */
    uint64_t discard_max;       /* unread body bytes drained for keep-alive, default 256 KiB */
    const char *server_name;    /* Server: header, may be NULL */
    /* NULL: plain HTTP, and a TLS hello is closed without a word. Else TLS, and plain HTTP is
     * answered with a 400 that says so. Referenced; may be reloaded at any time. */
    struct tls_context *tls;
};

struct http_server_handler {
    /* A request head is complete. */
    void (*on_request)(void *arg, struct http_req *req);
    void *arg;
    /* A response to it begins: for accounting; the req is only to be looked at. May be NULL. */
    void (*on_answer)(void *arg, const struct http_req *req, int status);
    /* A TLS handshake failed: -EACCES, a certificate was refused, by either side; else it was no
     * TLS 1.3. peer as http_req_peer(). For logs; may be NULL. */
    void (*on_tls_failed)(void *arg, const char *peer, int rc, const char *why);
};

struct http_server_stats {
    uint64_t connections_total, connections_refused, requests_total, bad_requests_total;
    uint64_t bytes_in, bytes_out;
    unsigned connections;
    uint64_t responses_by_class[6]; /* [2] = 2xx … */
};

/* Takes over the listening socket `fd` (non-blocking TCP or unix), in case of failure too. 0,
 * -ENOMEM, or libuv's error. The first byte of a connection tells TLS from plain HTTP. */
int http_server_start(uv_loop_t *loop, int fd, const struct http_server_options *opt,
                      const struct http_server_handler *handler, struct http_server **ret,
                      struct err *e);
/* Stops accepting; open connections finish their request (Connection: close) for at most grace_ms,
 * then are closed; on_closed fires last and the server is gone. */
void http_server_close(struct http_server *s, unsigned grace_ms, void (*on_closed)(void *arg),
                       void *arg);
const struct http_server_stats *http_server_stats(const struct http_server *s);

/* -- the request -- */
const struct http1_head *http_req_head(const struct http_req *req);
/* "127.0.0.1:40312". */
const char *http_req_peer(const struct http_req *req);
/* Is the peer on loopback? */
bool http_req_is_loopback(const struct http_req *req);
bool http_req_is_tls(const struct http_req *req);
/* The first DNS name in the peer's certificate, verified against the context's authorities and
 * still good by its present revocation lists and the clock; "" when there is none. Valid until the
 * next call for the same connection. */
const char *http_req_tls_name(const struct http_req *req);
/* A short id for logs and problem documents, unique in the process's life (hex). */
const char *http_req_id(const struct http_req *req);
/* Who asks, once that is known: kept with the request, cut at HTTP_USER_CAP - 1 bytes. "" before.
 */
enum { HTTP_USER_CAP = 65 };
void http_req_set_user(struct http_req *req, const char *user);
const char *http_req_user(const struct http_req *req);
void http_req_set_arg(struct http_req *req, void *arg, void (*on_done)(void *arg, bool aborted));
void *http_req_arg(const struct http_req *req);

/* Reads the body piece by piece. `max` bytes: a longer body (declared or not) ends with -EFBIG (413
 * is the handler's to answer). on_data gets slices valid during the call; it may http_req_pause()
 * and later http_req_resume(). on_end: 0, -EFBIG, -ECANCELED never (see on_done). Call once. */
struct http_body_sink {
    void (*on_data)(void *arg, struct http_req *req, struct str data);
    void (*on_end)(void *arg, struct http_req *req, int status);
    void *arg;
};
void http_req_read(struct http_req *req, uint64_t max, const struct http_body_sink *sink);
void http_req_pause(struct http_req *req);
void http_req_resume(struct http_req *req);
/* The whole body in memory, up to max bytes (small documents). on_body: status as on_end; the slice
 * is valid during the call. */
void http_req_read_all(struct http_req *req, size_t max,
                       void (*on_body)(void *arg, struct http_req *req, int status,
                                       struct str body),
                       void *arg);

/* The response: headers first, then exactly one of the senders. HEAD requests send no body. */
/* Adds a header; name and value are copied. CR, LF or NUL in a value is a REQUIRE. */
void http_res_header(struct http_req *req, const char *name, const char *value);
void http_res_headerf(struct http_req *req, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Whole body; copied. type may be NULL (no Content-Type). n == 0 is fine. */
void http_res_send(struct http_req *req, int status, const char *type, const void *body, size_t n);
/* HEAD-like answer that declares `length` without sending it. */
void http_res_send_length(struct http_req *req, int status, const char *type, uint64_t length);
/* `length` bytes of fd from offset, with Content-Length; reads in the thread pool, bounded memory.
 * The fd is taken over in every case. A file that turns out shorter breaks the connection. */
void http_res_send_file(struct http_req *req, int status, const char *type, int fd, uint64_t offset,
                        uint64_t length);
/* A stream of unknown length (chunked; close-delimited for HTTP/1.0). on_drain (may be NULL) fires
 * once after each write that answered false, when everything written so far has left. */
void http_res_begin(struct http_req *req, int status, const char *type,
                    void (*on_drain)(void *arg, struct http_req *req), void *arg);
/* Copies. False: more than 256 KiB wait in the queue; write no more until on_drain. */
bool http_res_write(struct http_req *req, const void *p, size_t n);
void http_res_end(struct http_req *req);
/* Breaks the connection in the middle of a stream: the client sees that it is not whole. */
void http_res_abort(struct http_req *req);
bool http_res_started(const struct http_req *req);

#endif
