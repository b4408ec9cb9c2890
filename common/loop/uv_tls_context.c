/* What one side of TLS shows and trusts, and the session tickets that a client keeps. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/pem.h>

#include "common/loop/tls_internal.h"
#include "common/mem.h"

struct tls_ticket {
    struct list link;
    SSL_SESSION *session;
    char key[TLS_KEY_CAP];
};

static const unsigned char alpn[] = { 8, 'h', 't', 't', 'p', '/', '1', '.', '1' };

/* -- tickets -- */

static void ticket_free(struct tls_context *c, struct tls_ticket *t)
{
    list_remove(&t->link);
    c->tickets_len--;
    SSL_SESSION_free(t->session);
    mem_free(t);
}

static void tickets_clear(struct tls_context *c)
{
    while (!list_empty(&c->tickets)) {
        ticket_free(c, LIST_ITEM(c->tickets.next, struct tls_ticket, link));
    }
}

static struct tls_ticket *ticket_of(struct tls_context *c, const char *key)
{
    LIST_EACH (it, &c->tickets) {
        struct tls_ticket *t = LIST_ITEM(it, struct tls_ticket, link);
        if (strcmp(t->key, key) == 0) {
            return t;
        }
    }
    return NULL;
}

/* OpenSSL has a new ticket. Returns 1: the session is ours. */
static int ticket_came(SSL *ssl, SSL_SESSION *session)
{
    struct tls_session *s = SSL_get_app_data(ssl);
    struct tls_context *c = s->context;
    if (s->judged != c->generation || !SSL_SESSION_is_resumable(session)) {
        return 0;
    }
    struct tls_ticket *t = ticket_of(c, s->key);
    if (t == NULL) {
        t = mem_zalloc(sizeof(*t));
        if (t == NULL) {
            return 0;
        }
        (void)snprintf(t->key, sizeof(t->key), "%s", s->key);
        c->tickets_len++;
    } else {
        SSL_SESSION_free(t->session);
        list_remove(&t->link);
    }
    t->session = session;
    list_push_front(&c->tickets, &t->link);
    if (c->tickets_len > TLS_TICKETS_MAX) {
        ticket_free(c, LIST_ITEM(c->tickets.prev, struct tls_ticket, link));
    }
    return 1;
}

void tls_context_resume(struct tls_context *c, struct tls_session *s)
{
    struct tls_ticket *t = ticket_of(c, s->key);
    if (t != NULL) {
        /* Used once: two connections with the same ticket could be told to be one client's. */
        (void)SSL_set_session(s->ssl, t->session);
        ticket_free(c, t);
    }
}

/* -- PEM -- */

static BIO *pem_bio(struct str s)
{
    return BIO_new_mem_buf(s.p, (int)s.n);
}

/* The end of the PEM text, and not something unreadable in it. */
static bool pem_ended(void)
{
    unsigned long code = ERR_peek_last_error();
    bool ended = ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
    ERR_clear_error();
    return ended;
}

static int refuse_pass(char *buf, int size, int rwflag, void *u)
{
    (void)buf;
    (void)size;
    (void)rwflag;
    (void)u;
    return -1; /* never ask a terminal */
}

static int load_own(SSL_CTX *ssl, const struct tls_config *config, int64_t *ret_not_after,
                    struct err *e)
{
    BIO *in = pem_bio(config->cert);
    BIO *key_in = pem_bio(config->key);
    X509 *cert = in != NULL ? PEM_read_bio_X509(in, NULL, refuse_pass, NULL) : NULL;
    EVP_PKEY *key =
        key_in != NULL ? PEM_read_bio_PrivateKey(key_in, NULL, refuse_pass, NULL) : NULL;
    struct tm tm;
    int rc = 0;
    if (cert == NULL) {
        rc = err_say(e, -EINVAL, "the certificate is not a PEM certificate");
    } else if (key == NULL) {
        rc = err_say(e, -EINVAL, "the key is not a PEM private key without a pass phrase");
    } else if (SSL_CTX_use_certificate(ssl, cert) != 1) {
        rc = err_say(e, -EINVAL, "the certificate can not be used: %s",
                     ERR_reason_error_string(ERR_peek_last_error()));
    } else if (SSL_CTX_use_PrivateKey(ssl, key) != 1 || SSL_CTX_check_private_key(ssl) != 1) {
        rc = err_say(e, -EINVAL, "the key is not the certificate's");
    } else if (ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) != 1) {
        rc = err_say(e, -EINVAL, "the certificate has no readable end");
    } else {
        *ret_not_after = (int64_t)timegm(&tm);
    }
    X509_free(cert);
    EVP_PKEY_free(key);
    ERR_clear_error();
    while (rc == 0 && (cert = PEM_read_bio_X509(in, NULL, refuse_pass, NULL)) != NULL) {
        if (SSL_CTX_add0_chain_cert(ssl, cert) != 1) {
            X509_free(cert);
            rc = err_say(e, -EINVAL, "an intermediate certificate can not be used");
        }
    }
    if (rc == 0 && !pem_ended()) {
        rc = err_say(e, -EINVAL, "the certificate's file holds something that is not PEM");
    }
    (void)BIO_free(in);
    (void)BIO_free(key_in);
    return rc;
}

static int load_ca(SSL_CTX *ssl, const struct tls_config *config, struct err *e)
{
    X509_STORE *store = SSL_CTX_get_cert_store(ssl);
    BIO *in = pem_bio(config->ca);
    X509 *cert;
    size_t n = 0;
    while (in != NULL && (cert = PEM_read_bio_X509(in, NULL, refuse_pass, NULL)) != NULL) {
        n += X509_STORE_add_cert(store, cert) == 1 ? 1 : 0;
        if (config->server) {
            (void)SSL_CTX_add_client_CA(ssl, cert);
        }
        X509_free(cert);
    }
    (void)BIO_free(in);
    return pem_ended() && n > 0 ? 0 : err_say(e, -EINVAL, "the CA is not PEM certificates");
}

static int load_crl(SSL_CTX *ssl, const struct tls_config *config, struct err *e)
{
    X509_STORE *store = SSL_CTX_get_cert_store(ssl);
    BIO *in = pem_bio(config->crl);
    X509_CRL *crl;
    size_t n = 0;
    while (in != NULL && (crl = PEM_read_bio_X509_CRL(in, NULL, refuse_pass, NULL)) != NULL) {
        n += X509_STORE_add_crl(store, crl) == 1 ? 1 : 0;
        X509_CRL_free(crl);
    }
    (void)BIO_free(in);
    if (!pem_ended() || n == 0) {
        return err_say(e, -EINVAL, "the revocation list is not a PEM CRL");
    }
    (void)X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
    return 0;
}

/* -- contexts -- */

static int alpn_pick(SSL *ssl, const unsigned char **out, unsigned char *out_n,
                     const unsigned char *in, unsigned in_n, void *arg)
{
    unsigned char *picked = NULL;
    (void)ssl;
    (void)arg;
    if (SSL_select_next_proto(&picked, out_n, alpn, sizeof(alpn), in, in_n) !=
        OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    *out = picked;
    return SSL_TLSEXT_ERR_OK;
}

static void set_server(SSL_CTX *ssl, const struct tls_config *config)
{
    static const unsigned char id[] = "agent";
    (void)SSL_CTX_set_session_id_context(ssl, id, sizeof(id) - 1);
    (void)SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF); /* tickets hold it all */
    (void)SSL_CTX_set_num_tickets(ssl, 1);
    (void)SSL_CTX_set_timeout(ssl, 3600);
    SSL_CTX_set_alpn_select_cb(ssl, alpn_pick, NULL);
    SSL_CTX_set_verify(ssl, config->ca.n > 0 ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    (void)SSL_CTX_set_purpose(ssl, X509_PURPOSE_SSL_CLIENT);
}

static void set_client(SSL_CTX *ssl)
{
    (void)SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ssl, ticket_came);
    (void)SSL_CTX_set_alpn_protos(ssl, alpn, sizeof(alpn));
    SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER, NULL);
}

static int make(const struct tls_config *config, SSL_CTX **ret, int64_t *ret_not_after,
                struct err *e)
{
    int rc = 0;
    SSL_CTX *ssl = SSL_CTX_new(config->server ? TLS_server_method() : TLS_client_method());
    if (ssl == NULL || SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION) != 1) {
        SSL_CTX_free(ssl);
        ERR_clear_error();
        return err_set(e, -ENOMEM, "make a TLS context");
    }
    (void)SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS);
    (void)SSL_CTX_set_max_cert_list(ssl, 32 * 1024);
    if (config->server) {
        set_server(ssl, config);
    } else {
        set_client(ssl);
    }
    if (config->cert.n > 0 || config->key.n > 0) {
        rc = load_own(ssl, config, ret_not_after, e);
    } else if (config->server) {
        rc = err_say(e, -EINVAL, "a server needs a certificate and its key");
    }
    if (rc == 0 && config->ca.n > 0) {
        rc = load_ca(ssl, config, e);
    }
    if (rc == 0 && config->crl.n > 0) {
        rc = load_crl(ssl, config, e);
    }
    ERR_clear_error();
    if (rc != 0) {
        SSL_CTX_free(ssl);
        return rc;
    }
    *ret = ssl;
    return 0;
}

int tls_context_new(const struct tls_config *config, struct tls_context **ret, struct err *e)
{
    struct tls_context *c = mem_zalloc(sizeof(*c));
    if (c == NULL) {
        return err_set(e, -ENOMEM, "make a TLS context");
    }
    c->refs = 1;
    c->server = config->server;
    list_init(&c->tickets);
    c->bio = tls_bio_method();
    int rc = c->bio != NULL ? make(config, &c->ssl, &c->not_after, e)
                            : err_set(e, -ENOMEM, "make a TLS context");
    if (rc != 0) {
        (void)tls_context_unref(c);
        return rc;
    }
    *ret = c;
    return 0;
}

int tls_context_reload(struct tls_context *c, const struct tls_config *config, struct err *e)
{
    SSL_CTX *ssl = NULL;
    int64_t not_after = 0;
    REQUIRE(config->server == c->server);
    int rc = make(config, &ssl, &not_after, e);
    if (rc == 0) {
        tickets_clear(c);
        SSL_CTX_free(c->ssl);
        c->ssl = ssl;
        c->not_after = not_after;
        c->generation++;
    }
    return rc;
}

struct tls_context *tls_context_ref(struct tls_context *c)
{
    if (c != NULL) {
        c->refs++;
    }
    return c;
}

struct tls_context *tls_context_unref(struct tls_context *c)
{
    if (c != NULL && --c->refs == 0) {
        tickets_clear(c);
        SSL_CTX_free(c->ssl);
        BIO_meth_free(c->bio);
        mem_free(c);
    }
    return NULL;
}

int64_t tls_context_not_after(const struct tls_context *c)
{
    return c->not_after;
}

const struct tls_stats *tls_context_stats(const struct tls_context *c)
{
    return &c->stats;
}

bool tls_context_trusts(struct tls_context *c, X509 *cert, STACK_OF(X509) * chain)
{
    X509_STORE_CTX *x = X509_STORE_CTX_new();
    bool good =
        x != NULL && X509_STORE_CTX_init(x, SSL_CTX_get_cert_store(c->ssl), cert, chain) == 1;
    if (good) {
        (void)X509_STORE_CTX_set_purpose(x, c->server ? X509_PURPOSE_SSL_CLIENT
                                                      : X509_PURPOSE_SSL_SERVER);
        good = X509_verify_cert(x) == 1;
    }
    X509_STORE_CTX_free(x);
    ERR_clear_error();
    return good;
}
