/*
 * tls_internal - what uv_tls_context.c and uv_tls_session.c share.
 */
#ifndef COMMON_LOOP_TLS_INTERNAL_H
#define COMMON_LOOP_TLS_INTERNAL_H

#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "common/list.h"
#include "common/loop/tls.h"

enum {
    TLS_TICKETS_MAX = 1024, /* of servers that a client will see again */
    TLS_KEY_CAP = TLS_NAME_CAP + 8,
};

struct tls_context {
    unsigned refs;
    bool server;
    uint64_t generation; /* counts reloads */
    SSL_CTX *ssl;
    BIO_METHOD *bio;
    int64_t not_after;
    struct tls_stats stats;
    struct list tickets; /* struct tls_ticket, the one used last is the first */
    unsigned tickets_len;
};

struct tls_session {
    SSL *ssl;
    struct tls_context *context;
    struct str in;   /* during a call: what is not read yet */
    struct buf *out; /* during a call */
    uint64_t judged; /* generation of the context by which the peer was found good */
    bool ready, closed, failed;
    bool rejected;         /* the peer is good no more */
    char key[TLS_KEY_CAP]; /* client: "name:port" */
    char peer[TLS_NAME_CAP];
};

/* -- uv_tls_session.c -- */
BIO_METHOD *tls_bio_method(void);

/* -- uv_tls_context.c -- */
/* Begins with a ticket of an earlier connection, if there is one. */
void tls_context_resume(struct tls_context *c, struct tls_session *s);
/* Does the certificate chain to what the context trusts, unrevoked and in time? */
bool tls_context_trusts(struct tls_context *c, X509 *cert, STACK_OF(X509) * chain);

#endif
