/*
 * http_server_internal - what the files of the HTTP server share: uv_http_server.c (listening,
 * deadlines, end), uv_http_conn.c (a connection's pump), uv_http_req.c (requests and bodies) and
 * uv_http_res.c (responses).
 *
 * One rule makes "no callback inside a call" hold: everything that can call a handler happens in
 * http_conn_pump(), and the pump runs from libuv callbacks only. A call of the handler sets flags
 * and, when it did not come from the pump itself, posts the connection to the server's idle handle
 * (http_conn_kick).
 */
#ifndef COMMON_LOOP_HTTP_SERVER_INTERNAL_H
#define COMMON_LOOP_HTTP_SERVER_INTERNAL_H

#include "common/list.h"
#include "common/loop/http_server.h"
#include "common/loop/tls.h"

enum {
    HTTP_READ_BUF = 64 * 1024,
    HTTP_FILE_BUF = 256 * 1024,
    HTTP_QUEUE_MAX = 256 * 1024,      /* http_res_write() answers false above */
    HTTP_RES_HEADERS_MAX = 16 * 1024, /* of the handler, in bytes */
    HTTP_POOL_MAX = 64,               /* parsers and requests kept for the next connection */
    HTTP_POOL_KEEP = 4096,            /* header bytes that a pooled request keeps */
    HTTP_LINGER_MS = 2000,
    HTTP_LINGER_BYTES = 8 * 1024 * 1024,
    HTTP_HALF_CLOSED_MS = 5000,
    HTTP_REFUSED_MAX = 64,      /* connections over the limit that get a written 503 at a time */
    HTTP_TLS_SLICE = 64 * 1024, /* plain bytes that are enciphered at a time */
    HTTP_TLS_STAGE = 16 * 1024, /* a record: what is smaller goes into one */
};

/* Every connection waits in exactly one of these; all waits of one kind last equally long, so each
 * queue is sorted by itself and one timer serves them all. */
enum http_wait {
    HTTP_WAIT_NONE, /* the handler thinks, or data moves */
    HTTP_WAIT_HEAD,
    HTTP_WAIT_IDLE,
    HTTP_WAIT_BODY,
    HTTP_WAIT_WRITE,
    HTTP_WAIT_HALF,   /* the peer closed its side; the answer is still owed */
    HTTP_WAIT_LINGER, /* the answer is out; what the peer still sends is dropped */
    HTTP_WAITS
};

enum http_body_mode {
    HTTP_BODY_UNASKED, /* the handler has not asked yet */
    HTTP_BODY_WANTED,
    HTTP_BODY_REFUSED, /* on_end said -EFBIG */
    HTTP_BODY_DONE,
};

struct http_conn {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    struct http_server *server;
    struct list wait_link;
    struct list kick_link; /* in server->kicked */
    uint64_t deadline_ms;
    struct http_req *req;    /* NULL between requests */
    struct http1 *parser;    /* NULL while idle */
    struct tls_session *tls; /* NULL: plain */
    char *pending;           /* bytes that were read and wait; NULL when none */
    uint32_t pending_at;     /* what is used up of it */
    uint32_t pending_len;
    uint32_t linger_bytes; /* dropped so far */
    uint64_t out_total;    /* bytes given to libuv */
    uint64_t out_seen;     /* of those, what the kernel had taken when WAIT_WRITE began */
    uint8_t wait;          /* enum http_wait */
    bool in_pump;
    bool closing;  /* uv_close() was called */
    bool reading;  /* uv_read_start() is on */
    bool peer_eof; /* the peer closed its side */
    bool greeted;  /* a byte was seen */
    bool linger;   /* answered for the last time */
    bool refused;  /* over connections_max */
};

struct http_req {
    struct http_conn *conn;
    const struct http1_head *head;
    struct list pool_link;
    void *arg;
    void (*on_done)(void *arg, bool aborted);
    char id[17];
    char peer[64];
    char user[HTTP_USER_CAP];
    /* body */
    enum http_body_mode body;
    struct http_body_sink sink;
    uint64_t body_max;
    uint64_t body_seen; /* bytes of the body, dropped ones too */
    uint64_t body_discarded;
    bool asked; /* http_req_read() was called */
    bool paused;
    bool refusal_due; /* on_end(-EFBIG) has to be called */
    bool end_due;     /* the body was over before the handler asked for it */
    struct buf whole; /* http_req_read_all() */
    void (*on_whole)(void *arg, struct http_req *req, int status, struct str body);
    void *whole_arg;
    /* response */
    struct buf headers;
    void (*on_drain)(void *arg, struct http_req *req);
    void *drain_arg;
    struct http_file *file; /* being sent */
    int status;
    bool started;
    bool ended;     /* the handler gave all of it */
    bool streaming; /* between begin and end */
    bool chunked;
    bool bodyless;   /* HEAD, 204, 304: nothing after the head */
    bool want_drain; /* a write answered false */
    bool drain_due;
    bool keep;     /* the connection may serve another request */
    bool lead_out; /* 100 Continue was sent */
};

struct http_server {
    uv_loop_t *loop;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    uv_timer_t timer; /* the earliest deadline */
    uv_timer_t grace;
    uv_idle_t idle; /* runs while a connection is kicked */
    bool is_pipe;
    bool closing;
    bool accept_stalled; /* a connection waits for memory */
    bool spare_used;
    unsigned handles; /* open: listener, timers, idle */
    unsigned files;   /* reads in the thread pool */
    unsigned refused; /* connections that linger after a 503 */
    struct http_server_options opt;
    char name[64];
    struct http_server_handler handler;
    struct http_server_stats stats;
    struct list waits[HTTP_WAITS];
    struct list kicked;
    struct list req_pool;
    unsigned req_pool_len;
    unsigned parser_pool_len;
    struct http1 *parser_pool[HTTP_POOL_MAX];
    struct http_conn *spare; /* so that a connection can be refused without memory */
    uint64_t id_seed;
    uint64_t id_next;
    uint64_t date_at_ms;
    char date[32];  /* "Sun, 06 Nov 1994 08:49:37 GMT" */
    struct buf out; /* a response head is put together here */
    void (*on_closed)(void *arg);
    void *closed_arg;
    char *plain;              /* with TLS: a read, deciphered */
    struct buf cipher;        /* ... what is to be sent, enciphered */
    char rbuf[HTTP_READ_BUF]; /* one read at a time: bytes are used or copied in the callback */
};

/* -- uv_http_server.c -- */
void http_conn_wait(struct http_conn *c, enum http_wait w);
void http_server_conn_closed(struct http_conn *c);
void http_server_maybe_gone(struct http_server *s);
const char *http_server_date(struct http_server *s);

/* -- uv_http_conn.c -- */
void http_conn_start(struct http_conn *c);
void http_conn_pump(struct http_conn *c);
/* Makes the pump run soon, unless it runs now. */
void http_conn_kick(struct http_conn *c);
/* Puts plain bytes, enciphered, behind out. False: the connection was broken. */
bool http_conn_encipher(struct http_conn *c, const uv_buf_t *iov, unsigned n, struct buf *out);
/* Closes at once; a request that is open ends with on_done(aborted). */
void http_conn_break(struct http_conn *c);
/* No more requests: sends what is queued, then FIN, and drops what comes for a while. */
void http_conn_linger(struct http_conn *c);
void http_conn_timeout(struct http_conn *c);
/* Writes at once what the socket takes and queues a copy of the rest. */
void http_conn_write(struct http_conn *c, const uv_buf_t *iov, unsigned n);
size_t http_conn_queued(const struct http_conn *c);

/* -- uv_http_req.c -- */
/* NULL when there is no memory. */
struct http_req *http_req_new(struct http_conn *c);
/* on_done, then the request is gone. */
void http_req_finish(struct http_req *req, bool aborted);
struct http_req *http_req_discard(struct http_req *req); /* frees a pooled one; NULL */
/* Writes "127.0.0.1:40312" (or "unix") into dst[64]. */
void http_conn_peer(struct http_conn *c, char dst[64]);
/* One step of the body: feeds p[n], returns what it used; *ret_stop when it cannot go on. */
size_t http_req_feed(struct http_req *req, const char *p, size_t n, bool *ret_stop);

/* -- uv_http_res.c -- */
/* All of the response has left? */
bool http_res_done(const struct http_req *req);
/* The queue has become empty. */
void http_res_drained(struct http_req *req);
/* The request goes away: a file that is being sent is left to the thread pool's callback. */
void http_res_detach(struct http_req *req);
/* A problem document, for errors that no handler sees. */
void http_res_problem(struct http_conn *c, int status, const char *detail);

#endif
