/*
 * tls - TLS 1.3 as a filter: bytes of the connection in, plain bytes out, and the other way.
 *
 * Nothing here owns a socket, waits or calls back: whoever has the connection feeds what it read
 * and writes what came out. So client and server on the loop and the blocking command-line client
 * share it. No other version of TLS is spoken; ALPN is "http/1.1".
 *
 * A struct tls_context is what one side shows and trusts. It is counted, and tls_context_reload()
 * gives it new certificates without a restart: connections that are open keep theirs, the peer of
 * an open one is judged again by the new rules. PEM comes in as bytes (files belong to sys_*).
 * Everything is for one thread; OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG) comes first.
 */
#ifndef COMMON_LOOP_TLS_H
#define COMMON_LOOP_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

struct tls_context;
struct tls_session;

enum {
    TLS_RECORD_MAX = 16 * 1024 + 256, /* a record on the wire */
    TLS_HELLO = 0x16,                 /* its first byte, when the first record is a hello */
    TLS_NAME_CAP = 256,
};

/* All PEM, empty: none. */
struct tls_config {
    bool server;
    struct str cert; /* own certificate, then its intermediates */
    struct str key;  /* its private key */
    struct str ca;   /* a client: what the server's must chain to; nothing: nobody is trusted. A
                        server: client certificates are asked for, not required, and must chain to
                        these; nothing: they are not asked for */
    struct str crl;  /* revocation lists; when there is one, each certificate's issuer needs one */
};

/* 0, -ENOMEM, or -EINVAL with a sentence that names what is wrong (a server without certificate, a
 * key of another certificate, no PEM, ...). */
int tls_context_new(const struct tls_config *config, struct tls_context **ret, struct err *e);
/* All or nothing: on failure the context stays as it was. Old session tickets are worth nothing
 * afterwards. config->server must be what it was. */
int tls_context_reload(struct tls_context *c, const struct tls_config *config, struct err *e);
struct tls_context *tls_context_ref(struct tls_context *c);   /* NULL is fine */
struct tls_context *tls_context_unref(struct tls_context *c); /* NULL is fine; returns NULL */
/* When the own certificate ends, in seconds since 1970; 0: there is none. */
int64_t tls_context_not_after(const struct tls_context *c);

struct tls_stats {
    uint64_t handshakes_total; /* completed */
    uint64_t resumed_total;    /* of those, without certificates */
    uint64_t failed_total;
};
const struct tls_stats *tls_context_stats(const struct tls_context *c);

/* A connection's two ends. What is to be sent at once is added to `out`. name: the SAN that the
 * server's certificate must carry (a name, or the text of an address). port tells kept session
 * tickets apart. */
int tls_session_client(struct tls_context *c, const char *name, uint16_t port,
                       struct tls_session **ret, struct buf *out, struct err *e);
int tls_session_server(struct tls_context *c, struct tls_session **ret, struct err *e);
struct tls_session *tls_session_free(struct tls_session *s); /* NULL is fine; returns NULL */

/* Takes all n bytes that came from the connection. Plain bytes go to plain[cap]; cap >= n +
 * TLS_RECORD_MAX. What has to be sent is added to out, after a failure too (an alert).
 * 0; -EACCES: a certificate was refused, by this side or the other; -EPROTO: not TLS, no version
 * in common, a bad record; -ENOMEM. *ret_n is right in every case: what came before is good. */
int tls_session_feed(struct tls_session *s, const void *p, size_t n, char *plain, size_t cap,
                     size_t *ret_n, struct buf *out, struct err *e);
/* The handshake is complete: only then may be written. */
bool tls_session_ready(const struct tls_session *s);
/* The other side said that it sends no more. A connection that ends without that was cut. */
bool tls_session_closed(const struct tls_session *s);
/* Encrypts n bytes into out. 0, -ENOMEM, -ENOBUFS, -EPROTO. */
int tls_session_write(struct tls_session *s, const void *p, size_t n, struct buf *out,
                      struct err *e);
/* Says that no more is sent. */
void tls_session_end(struct tls_session *s, struct buf *out);

/* The first DNS name in the other side's certificate, when it was verified and is, by the context's
 * present rules and clock, still good; else "". Valid until the next call or tls_session_free(). */
const char *tls_session_peer(struct tls_session *s);

#endif
