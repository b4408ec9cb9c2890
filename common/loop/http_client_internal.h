/*
 * http_client_internal - what the files of the HTTP client share: uv_http_client.c (the pool,
 * deadlines, start and end), uv_http_link.c (making, writing and ending a connection),
 * uv_http_answer.c (a connection's pump: answers in, events out) and uv_http_call.c (a call as its
 * owner sees it).
 *
 * As in the server, one rule makes "no callback inside a call" hold: everything that can call the
 * owner of a call happens in http_link_pump() or in the call's own deferred end, and both run from
 * libuv callbacks only. Calls of the owner set flags and post.
 */
#ifndef COMMON_LOOP_HTTP_CLIENT_INTERNAL_H
#define COMMON_LOOP_HTTP_CLIENT_INTERNAL_H

#include <uv.h>

#include "common/buf.h"
#include "common/heap.h"
#include "common/list.h"
#include "common/loop/http_client.h"
#include "common/map.h"

enum {
    HTTP_LINK_READ_BUF = 64 * 1024,
    HTTP_LINK_INTERIM_MAX = 16,              /* 1xx heads before the answer */
    HTTP_CALL_QUEUE_MAX = 256 * 1024,        /* http_call_write() answers false above */
    HTTP_CALL_UNSENT_MAX = 64 * 1024 * 1024, /* ... and the call fails above */
    HTTP_CALL_FILE_BUF = 256 * 1024,
    HTTP_CALL_HEAD_MAX = 64 * 1024,
    HTTP_CALL_WHY_CAP = 320,
    HTTP_PLACE_KEY_CAP = 640,
};

/* Something with a deadline; all of them are in client->due. */
struct http_due {
    struct heap_node node;
    void (*fn)(struct http_due *due);
};

/* One (host, port, TLS): its connections and the calls that wait for one. */
struct http_place {
    struct http_client *client;
    struct list idle;    /* links; the one used last is the first */
    struct list waiting; /* calls, in order */
    unsigned links;      /* that may carry calls: not closing */
    unsigned refs;       /* links and sent calls, until they are gone */
    uint16_t port;
    struct tls_context *tls;
    const char *host;
    const char *tls_name;
    size_t key_len;
    char key[]; /* "host NUL tls_name NUL port tls" */
};

enum http_link_state {
    HTTP_LINK_RESOLVE,
    HTTP_LINK_CONNECT,
    HTTP_LINK_HANDSHAKE,
    HTTP_LINK_OPEN, /* a call uses it, or it is idle */
};

/* Which deadline an open connection has. */
enum http_link_wait {
    HTTP_LINK_WAIT_NONE, /* the call's owner has to move: a paused answer, a body to be written */
    HTTP_LINK_WAIT_IDLE,
    HTTP_LINK_WAIT_OUT,    /* bytes of the request have to leave */
    HTTP_LINK_WAIT_ANSWER, /* they have left */
    HTTP_LINK_WAIT_IN,     /* the answer's body has to come */
};

/* A connection. */
struct http_link {
    struct http_client *client;
    struct http_place *place;
    struct http_call *call;
    struct list all_link;  /* in client->links */
    struct list idle_link; /* in place->idle */
    struct list old_link;  /* in client->old: idle ones, the oldest first */
    struct loop_defer kick;
    struct http_due due;
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_getaddrinfo_t resolve;
    struct addrinfo *found; /* of resolve */
    const struct addrinfo *next;
    struct sockaddr_storage literal; /* when the host is an address */
    struct http1 *parser;
    struct tls_session *tls;
    char *pending; /* bytes that were read and wait; NULL when none */
    size_t pending_at, pending_len;
    uint64_t out_total; /* bytes given to libuv */
    uint64_t out_seen;  /* of those, what had left when WAIT_OUT began */
    unsigned interims;
    int broken_rc; /* the connection failed; what is pending is still to be used */
    int write_rc;  /* writing failed: an answer may still be there to be read */
    enum http_link_state state;
    enum http_link_wait wait;
    bool tcp_open;  /* the handle is initialised */
    bool resolving; /* the thread pool has `resolve` */
    bool reading;
    bool in_pump;
    bool closing;
    bool used;    /* a call went over it before this one */
    bool interim; /* the head that is being read is a 1xx one */
};

enum http_call_body { HTTP_CALL_NONE, HTTP_CALL_BYTES, HTTP_CALL_FILE, HTTP_CALL_STREAM };

struct http_call {
    struct http_client *client;
    struct http_place *place; /* from http_call_send() on */
    struct http_link *link;   /* while it has a connection */
    struct list all_link;     /* in client->calls */
    struct list wait_link;    /* in place->waiting */
    struct loop_defer end;    /* on_done is due */
    struct http_due due;      /* http_call_deadline() */
    struct http_call_events ev;
    char *host;
    char *tls_name;
    uint16_t port;
    struct tls_context *tls;
    struct buf head; /* request line and headers, without the length's */
    struct buf
        out; /* HTTP_CALL_BYTES: the body; HTTP_CALL_STREAM: framed, before there is a link */
    uint64_t body_max;
    uint64_t body_seen;
    uint64_t stream_left;        /* Content-Length that the owner still owes; UINT64_MAX: chunked */
    struct http_call_file *file; /* a read in the thread pool, or its buffer */
    int fd;                      /* -1: none */
    uint64_t file_offset, file_len;
    uint64_t file_sent;
    enum http_call_body body;
    int rc;
    int status;
    bool is_head;    /* HEAD: the answer has no body */
    bool repeatable; /* the method, or a key, says that twice is as good as once */
    bool sent;       /* http_call_send() was called */
    bool started;    /* its head went out on `link` */
    bool body_ended; /* all of the body is with libuv */
    bool answered;   /* a byte of the answer came */
    bool fresh;      /* only a new connection will do: a kept one was gone */
    bool paused;
    bool keep; /* the answer lets the connection live */
    bool want_drain;
    bool drain_due;
    bool ending; /* on_done is being called */
    char why[HTTP_CALL_WHY_CAP];
};

struct http_client {
    struct loop *loop;
    struct loop_owner owner;
    struct loop_timer timer; /* the earliest of due */
    struct heap due;
    struct http_client_options opt;
    struct http_client_stats stats;
    struct map places;
    struct list calls;
    struct list links;
    struct list old;
    bool closing;
    bool timer_closed;
    void (*on_closed)(void *arg);
    void *closed_arg;
    char *user_agent;
    struct buf cipher; /* what TLS makes of a write */
    char rbuf[HTTP_LINK_READ_BUF];
    char plain[HTTP_LINK_READ_BUF + 20 * 1024]; /* a read, deciphered */
};

/* -- uv_http_client.c -- */
/* False: no memory; then it has no deadline. */
bool http_client_due(struct http_client *c, struct http_due *due, uint64_t ms);
void http_client_due_clear(struct http_client *c, struct http_due *due);
/* The place of the call, made if need be, with a reference. NULL: no memory. */
struct http_place *http_client_place(struct http_client *c, const struct http_call *call);
/* Gives waiting calls to connections as far as there are some. */
void http_place_dispatch(struct http_place *p);
/* One reference less; frees it with the last. */
void http_place_drop(struct http_place *p);

/* -- uv_http_link.c -- */
/* A new connection for the call. -ENOMEM. */
int http_link_new(struct http_place *p, struct http_call *call);
/* An open connection begins with the call. */
void http_link_take(struct http_link *l, struct http_call *call);
void http_link_write(struct http_link *l, const uv_buf_t *iov, unsigned n);
size_t http_link_queued(const struct http_link *l);
/* Closes. A call that is still on it must have been taken off. */
void http_link_break(struct http_link *l);
/* The call is off it: for the next one, for the idle list, or closed. */
void http_link_free_for_next(struct http_link *l, bool keep);
void http_link_kick(struct http_link *l);
/* The connection can not go on: from the pump, tells the call. */
void http_link_lost(struct http_link *l, int rc, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void http_link_reading(struct http_link *l);
/* "host:port", for sentences. Returns dst. */
char *http_link_name(const struct http_place *p, char *dst, size_t cap);

/* -- uv_http_answer.c -- */
void http_link_pump(struct http_link *l);
void http_link_run(struct http_link *l, const char *p, size_t n);
void http_link_timeout(struct http_due *due);

/* -- uv_http_call.c -- */
/* The connection is ready: head and body go out. */
void http_call_begin(struct http_call *call);
/* What was queued has left. */
void http_call_flow(struct http_call *call);
/* Takes it off its connection or queue; on_done comes from the loop. Only the first reason
 * counts. */
void http_call_fail(struct http_call *call, int rc, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* From the pump: on_done at once. The call is gone. */
void http_call_done(struct http_call *call);
/* May it be sent once more on another connection? Then it is made ready for that. */
bool http_call_rewind(struct http_call *call);

#endif
