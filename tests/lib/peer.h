/*
 * peer - the client's side of an HTTP test that shares one thread with the server's loop: every
 * call turns the loop while it waits, so that each interleaving is the test's own.
 */
#ifndef TESTS_LIB_PEER_H
#define TESTS_LIB_PEER_H

#include <netinet/in.h>
#include <stddef.h>
#include <uv.h>

#include "common/buf.h"

struct peer {
    uv_loop_t loop;
    struct sockaddr_in addr; /* of the server */
};

/* A loop, and a listening address: the socket is bound, not yet listening. */
void peer_init(struct peer *p, int *ret_fd);
/* Runs the loop to its end: every handle must close by itself. */
void peer_release(struct peer *p);
/* Turns the loop for that long; 0: once. */
void peer_turn(struct peer *p, unsigned ms);

int peer_dial(struct peer *p);
void peer_say_n(struct peer *p, int fd, const char *bytes, size_t n);
void peer_say(struct peer *p, int fd, const char *text);
/* Reads until `end` (may be NULL) is in what came (1), `least` bytes are there (1), the server
 * closed (0) or broke (-1) the connection. Fails the test after five seconds. */
int peer_hear_some(struct peer *p, int fd, struct buf *got, const char *end, size_t least);
/* The same as text, valid until the next call. */
char *peer_hear(struct peer *p, int fd, const char *end);
/* One request on a connection of its own: the whole answer. */
char *peer_ask(struct peer *p, const char *request);

#define HAS(text, part) assert_non_null(strstr((text), (part)))
#define HAS_NOT(text, part) assert_null(strstr((text), (part)))

#endif
