/* A TLS connection as a filter, over OpenSSL with a BIO that is only two slices. */
#include <errno.h>
#include <string.h>

#include <openssl/err.h>

#include "common/loop/tls_internal.h"
#include "common/mem.h"

/* -- the BIO -- */

static int bio_read(BIO *bio, char *dst, int n)
{
    struct tls_session *s = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (s->in.n == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t take = (size_t)n < s->in.n ? (size_t)n : s->in.n;
    memcpy(dst, s->in.p, take);
    s->in.p += take;
    s->in.n -= take;
    return (int)take;
}

static int bio_write(BIO *bio, const char *p, int n)
{
    struct tls_session *s = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    return s->out != NULL && buf_add(s->out, p, (size_t)n) == 0 ? n : -1;
}

static long bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
    (void)bio;
    (void)num;
    (void)ptr;
    return cmd == BIO_CTRL_FLUSH || cmd == BIO_CTRL_DUP ? 1 : 0;
}

BIO_METHOD *tls_bio_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "slices");
    if (m != NULL) {
        (void)BIO_meth_set_read(m, bio_read);
        (void)BIO_meth_set_write(m, bio_write);
        (void)BIO_meth_set_ctrl(m, bio_ctrl);
    }
    return m;
}

/* -- failures in words -- */

/* Alerts with which the other side refuses our certificate, or says that it wants one. */
static bool is_refusal(unsigned long code)
{
    switch (ERR_GET_REASON(code)) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
        return true;
    default:
        return false;
    }
}

static int session_failed(struct tls_session *s, struct err *e)
{
    unsigned long code = ERR_peek_error();
    long verify = SSL_get_verify_result(s->ssl);
    const char *reason = ERR_reason_error_string(code);
    bool refusal = is_refusal(code);
    ERR_clear_error();
    s->failed = true;
    s->context->stats.failed_total++;
    if (s->out != NULL && buf_error(s->out) == -ENOMEM) {
        return err_set(e, -ENOMEM, "TLS");
    }
    if (refusal && verify != X509_V_OK) {
        return err_say(e, -EACCES, "its certificate is refused: %s",
                       X509_verify_cert_error_string(verify));
    }
    if (refusal) {
        return err_say(e, -EACCES, "it refuses our certificate: %s",
                       reason != NULL ? reason : "no reason given");
    }
    return err_say(e, -EPROTO, "%s", reason != NULL ? reason : "bad TLS");
}

/* -- life -- */

static int session_new(struct tls_context *c, struct tls_session **ret, struct err *e)
{
    struct tls_session *s = mem_zalloc(sizeof(*s));
    BIO *bio = BIO_new(c->bio);
    SSL *ssl = SSL_new(c->ssl);
    if (s == NULL || bio == NULL || ssl == NULL) {
        mem_free(s);
        (void)BIO_free(bio);
        SSL_free(ssl);
        ERR_clear_error();
        return err_set(e, -ENOMEM, "begin TLS");
    }
    BIO_set_data(bio, s);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    (void)SSL_set_app_data(ssl, s);
    s->ssl = ssl;
    s->context = tls_context_ref(c);
    s->judged = c->generation;
    *ret = s;
    return 0;
}

struct tls_session *tls_session_free(struct tls_session *s)
{
    if (s != NULL) {
        s->out = NULL;
        if (s->ready && !s->failed) {
            /* Without this OpenSSL takes a session whose connection was just dropped for bad. */
            SSL_set_shutdown(s->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
        }
        SSL_free(s->ssl);
        (void)tls_context_unref(s->context);
        mem_free(s);
    }
    return NULL;
}

int tls_session_server(struct tls_context *c, struct tls_session **ret, struct err *e)
{
    REQUIRE(c->server);
    int rc = session_new(c, ret, e);
    if (rc == 0) {
        SSL_set_accept_state((*ret)->ssl);
    }
    return rc;
}

static bool is_address(const char *name)
{
    ASN1_OCTET_STRING *ip = a2i_IPADDRESS(name);
    bool is = ip != NULL;
    ASN1_OCTET_STRING_free(ip);
    ERR_clear_error();
    return is;
}

static int session_step(struct tls_session *s, struct err *e);

int tls_session_client(struct tls_context *c, const char *name, uint16_t port,
                       struct tls_session **ret, struct buf *out, struct err *e)
{
    struct tls_session *s = NULL;
    REQUIRE(!c->server);
    int rc = session_new(c, &s, e);
    if (rc != 0) {
        return rc;
    }
    X509_VERIFY_PARAM *param = SSL_get0_param(s->ssl);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
                                               X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    bool address = is_address(name);
    int good = address ? X509_VERIFY_PARAM_set1_ip_asc(param, name)
                       : X509_VERIFY_PARAM_set1_host(param, name, 0);
    char sni[TLS_NAME_CAP]; /* OpenSSL's macro knows no const */
    if (good == 1 && !address) {
        good = str_copy(sni, sizeof(sni), str_of(name)) == 0 &&
               SSL_set_tlsext_host_name(s->ssl, sni) == 1;
    }
    if (good != 1 || name[0] == '\0') {
        (void)tls_session_free(s);
        ERR_clear_error();
        return err_say(e, -EINVAL, "'%s' can not be the name in a certificate", name);
    }
    (void)snprintf(s->key, sizeof(s->key), "%s:%u", name, port);
    tls_context_resume(c, s);
    SSL_set_connect_state(s->ssl);
    s->out = out;
    rc = session_step(s, e);
    s->out = NULL;
    if (rc != 0) {
        (void)tls_session_free(s);
        return rc;
    }
    *ret = s;
    return 0;
}

/* -- bytes -- */

/* The handshake, as far as it gets. */
static int session_step(struct tls_session *s, struct err *e)
{
    ERR_clear_error();
    int rc = SSL_do_handshake(s->ssl);
    if (rc == 1) {
        s->ready = true;
        s->context->stats.handshakes_total++;
        s->context->stats.resumed_total += SSL_session_reused(s->ssl) ? 1 : 0;
        return 0;
    }
    return SSL_get_error(s->ssl, rc) == SSL_ERROR_WANT_READ ? 0 : session_failed(s, e);
}

static int session_read(struct tls_session *s, char *plain, size_t cap, size_t *ret_n,
                        struct err *e)
{
    size_t n = 0;
    size_t got = 0;
    int rc = 1;
    ERR_clear_error();
    while (rc == 1) {
        INSIST(n < cap); /* a record is never longer than what it came in */
        rc = SSL_read_ex(s->ssl, plain + n, cap - n, &got);
        n += rc == 1 ? got : 0;
    }
    *ret_n = n;
    int why = SSL_get_error(s->ssl, rc);
    if (why == SSL_ERROR_ZERO_RETURN) {
        s->closed = true;
        s->in.n = 0; /* nothing that follows counts */
        return 0;
    }
    return why == SSL_ERROR_WANT_READ ? 0 : session_failed(s, e);
}

int tls_session_feed(struct tls_session *s, const void *p, size_t n, char *plain, size_t cap,
                     size_t *ret_n, struct buf *out, struct err *e)
{
    REQUIRE(cap >= n + TLS_RECORD_MAX);
    *ret_n = 0;
    if (s->failed) {
        return err_say(e, -EPROTO, "the connection failed before");
    }
    if (s->closed) {
        return 0;
    }
    s->in = (struct str){ p, n };
    s->out = out;
    int rc = s->ready ? 0 : session_step(s, e);
    if (rc == 0 && s->ready) {
        rc = session_read(s, plain, cap, ret_n, e);
    }
    s->in = (struct str){ NULL, 0 };
    s->out = NULL;
    return rc;
}

bool tls_session_ready(const struct tls_session *s)
{
    return s->ready;
}

bool tls_session_closed(const struct tls_session *s)
{
    return s->closed;
}

int tls_session_write(struct tls_session *s, const void *p, size_t n, struct buf *out,
                      struct err *e)
{
    size_t done = 0;
    REQUIRE(s->ready);
    if (s->failed) {
        return err_say(e, -EPROTO, "the connection failed before");
    }
    if (n == 0) {
        return 0;
    }
    s->out = out;
    ERR_clear_error();
    int rc = SSL_write_ex(s->ssl, p, n, &done);
    s->out = NULL;
    if (buf_error(out) != 0) {
        s->failed = true;
        ERR_clear_error();
        return err_set(e, buf_error(out), "TLS");
    }
    return rc == 1 && done == n ? 0 : session_failed(s, e);
}

void tls_session_end(struct tls_session *s, struct buf *out)
{
    if (s->ready && !s->failed) {
        s->out = out;
        (void)SSL_shutdown(s->ssl);
        s->out = NULL;
        ERR_clear_error();
    }
}

/* -- who is there -- */

/* The first DNS name; false: none that is plain text. */
static bool first_name(X509 *cert, char dst[TLS_NAME_CAP])
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    bool found = false;
    for (int i = 0; i < sk_GENERAL_NAME_num(names) && !found; i++) {
        int type = 0;
        const ASN1_STRING *v = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
        if (type == GEN_DNS) {
            const char *p = (const char *)ASN1_STRING_get0_data(v);
            size_t n = (size_t)ASN1_STRING_length(v);
            if (n == 0 || str_copy(dst, TLS_NAME_CAP, (struct str){ p, n }) != 0) {
                break;
            }
            found = true;
        }
    }
    GENERAL_NAMES_free(names);
    return found;
}

const char *tls_session_peer(struct tls_session *s)
{
    X509 *cert = s->ready ? SSL_get0_peer_certificate(s->ssl) : NULL;
    if (cert == NULL || s->failed || SSL_get_verify_result(s->ssl) != X509_V_OK) {
        return "";
    }
    if (s->judged != s->context->generation) {
        /* The rules have changed since; the chain that it showed may be gone with a resumption, so
         * that a certificate under an intermediate has to shake hands again. */
        s->judged = s->context->generation;
        s->rejected = !tls_context_trusts(s->context, cert, SSL_get_peer_cert_chain(s->ssl));
    }
    bool in_time = X509_cmp_current_time(X509_get0_notAfter(cert)) > 0 &&
                   X509_cmp_current_time(X509_get0_notBefore(cert)) < 0;
    if (s->rejected || !in_time) {
        return "";
    }
    if (s->peer[0] == '\0' && !first_name(cert, s->peer)) {
        s->rejected = true;
    }
    ERR_clear_error();
    return s->peer;
}
