/*
 * calls - what tests of the HTTP client share: a loop with a client and our own server, or a
 * listening socket on which the test itself plays the server; and a record of what became of a
 * call.
 */
#ifndef TESTS_LIB_CALLS_H
#define TESTS_LIB_CALLS_H

#include <stdbool.h>

#include "common/loop/http_client.h"
#include "common/loop/http_server.h"
#include "tests/lib/peer.h"

enum { CALLS_BLOCK = 64 * 1024 };

struct calls {
    struct peer peer;
    struct loop loop;
    struct http_server *server; /* NULL: the test plays it on `listener` */
    struct http_client *client;
    int listener;
    unsigned requests;
    unsigned stream_left; /* blocks that GET /stream still sends */
    bool server_closed, client_closed;
    bool in_call; /* a callback that comes now comes from inside a call */
    uint64_t server_bytes;
    unsigned tls_failed; /* handshakes that the server saw fail */
    int tls_failed_rc;
    struct tls_context *server_tls;
    struct tls_context *tls; /* for the shots; NULL: plain */
    const char *tls_name;
};

/* One call and what became of it. */
struct shot {
    struct calls *w;
    struct http_call *call;
    unsigned heads, drains, dones;
    uint64_t bytes;
    uint32_t sum; /* of the bytes, so that order and content count */
    int rc, status;
    bool cancel_in_head, cancel_in_data, pause_in_data;
    unsigned to_write; /* blocks, in on_drain */
    struct buf body;
    char why[320];
    char header[256]; /* X-Thing of the answer */
};

/* serve: with our own server. It answers GET /hello, /agent, /stream, /none, /hold and takes
 * /echo and /count. */
void calls_start(struct calls *w, const struct http_client_options *opt, bool serve);
/* With our own server speaking TLS; the shots use `client`. Both references are taken over. */
void calls_start_tls(struct calls *w, struct tls_context *server, struct tls_context *client);
void calls_stop(struct calls *w);

/* A call that fills s; NULL: no memory. */
struct http_call *shot_aim_at(struct shot *s, struct calls *w, const char *host, const char *method,
                              const char *target);
/* At 127.0.0.1; never NULL. */
struct http_call *shot_aim(struct shot *s, struct calls *w, const char *method, const char *target);
void shot_fire(struct shot *s);
/* Until on_done came. */
void shot_land(struct shot *s);
void shot_free(struct shot *s);
/* The callbacks, for calls that are made otherwise. */
struct http_call_events shot_events(struct shot *s);
/* Turns the loop until *what >= least. */
void calls_wait(struct calls *w, const unsigned *what, unsigned least);
void calls_set_true(void *arg);

#endif
