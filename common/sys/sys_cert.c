#include "common/sys/sys_cert.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "common/insist.h"
#include "common/sys/sys_random.h"

enum { CLOCK_SLACK_S = 3600, DAY_S = 24 * 3600, SERIAL_BYTES = 20 };

/* Everything that one certificate needs, so that one place frees it. */
struct work {
    X509 *ca;
    EVP_PKEY *ca_key;
    X509 *cert;
    EVP_PKEY *key;
    X509_CRL *crl;
};

static void work_release(struct work *w)
{
    X509_free(w->ca);
    EVP_PKEY_free(w->ca_key);
    X509_free(w->cert);
    EVP_PKEY_free(w->key);
    X509_CRL_free(w->crl);
    ERR_clear_error();
}

#define AUTO_WORK __attribute__((cleanup(work_release)))

static int refuse_pass(char *buf, int size, int rwflag, void *u)
{
    (void)buf;
    (void)size;
    (void)rwflag;
    (void)u;
    return -1; /* never ask a terminal */
}

/* What OpenSSL says, behind our own words. */
static int failed(struct err *e, const char *what)
{
    const char *why = ERR_reason_error_string(ERR_peek_last_error());
    return err_say(e, -EINVAL, "%s: %s", what, why != NULL ? why : "OpenSSL failed");
}

/* -- PEM -- */

static X509 *cert_of(struct str pem)
{
    BIO *in = BIO_new_mem_buf(pem.p, (int)pem.n);
    X509 *cert = in != NULL ? PEM_read_bio_X509(in, NULL, refuse_pass, NULL) : NULL;
    (void)BIO_free(in);
    return cert;
}

static EVP_PKEY *key_of(struct str pem)
{
    BIO *in = BIO_new_mem_buf(pem.p, (int)pem.n);
    EVP_PKEY *key = in != NULL ? PEM_read_bio_PrivateKey(in, NULL, refuse_pass, NULL) : NULL;
    (void)BIO_free(in);
    return key;
}

/* Appends what `write` put into a memory BIO. */
static int bio_to_buf(BIO *out, int written, struct buf *dst, struct err *e)
{
    char *p = NULL;
    long n = out != NULL ? BIO_get_mem_data(out, &p) : 0;
    int rc = written == 1 && n > 0 ? buf_add(dst, p, (size_t)n) : -ENOMEM;
    (void)BIO_free(out);
    return rc == 0 ? 0 : err_set(e, rc, "write PEM");
}

static int cert_write(X509 *cert, struct buf *dst, struct err *e)
{
    BIO *out = BIO_new(BIO_s_mem());
    return bio_to_buf(out, out != NULL ? PEM_write_bio_X509(out, cert) : 0, dst, e);
}

static int key_write(EVP_PKEY *key, struct buf *dst, struct err *e)
{
    BIO *out = BIO_new(BIO_s_secmem());
    int written =
        out != NULL ? PEM_write_bio_PKCS8PrivateKey(out, key, NULL, NULL, 0, NULL, NULL) : 0;
    return bio_to_buf(out, written, dst, e);
}

static int ca_of(struct work *w, struct str ca_cert, struct str ca_key, struct err *e)
{
    w->ca = cert_of(ca_cert);
    if (w->ca == NULL) {
        return err_say(e, -EINVAL, "the authority's certificate is not PEM");
    }
    w->ca_key = key_of(ca_key);
    if (w->ca_key == NULL) {
        return err_say(e, -EINVAL,
                       "the authority's key is not a PEM private key without a pass phrase");
    }
    if (X509_check_private_key(w->ca, w->ca_key) != 1) {
        return err_say(e, -EINVAL, "the authority's key is not its certificate's");
    }
    return 0;
}

/* -- parts of a certificate -- */

static bool set_serial(ASN1_INTEGER *serial)
{
    uint8_t bytes[SERIAL_BYTES];
    sys_random(bytes, sizeof(bytes));
    bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40); /* positive, always as long */
    BIGNUM *n = BN_bin2bn(bytes, sizeof(bytes), NULL);
    bool done = n != NULL && BN_to_ASN1_INTEGER(n, serial) != NULL;
    BN_free(n);
    return done;
}

static bool set_times(X509 *cert, unsigned days, const X509 *ca)
{
    time_t now = time(NULL);
    bool done = X509_time_adj_ex(X509_getm_notBefore(cert), 0, -CLOCK_SLACK_S, &now) != NULL &&
                X509_time_adj_ex(X509_getm_notAfter(cert), (int)days, 0, &now) != NULL;
    if (done && ca != NULL &&
        ASN1_TIME_compare(X509_get0_notAfter(cert), X509_get0_notAfter(ca)) > 0) {
        done = X509_set1_notAfter(cert, X509_get0_notAfter(ca)) == 1;
    }
    return done;
}

static bool add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *x = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool done = x != NULL && X509_add_ext(cert, x, -1) == 1;
    X509_EXTENSION_free(x);
    return done;
}

static bool set_name(X509_NAME *name, const char *cn)
{
    return X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_UTF8,
                                      (const unsigned char *)cn, -1, -1, 0) == 1;
}

static bool name_ok(const char *name)
{
    static const char set[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
    size_t n = strlen(name);
    /* 64 bytes is what a common name may have. */
    return n > 0 && n <= 64 && strspn(name, set) == n && name[0] != '.' && name[0] != '-';
}

/* subjectAltName without OpenSSL's own little language, into which a name could write. */
static bool add_san(GENERAL_NAMES *names, const char *text)
{
    GENERAL_NAME *g = GENERAL_NAME_new();
    ASN1_OCTET_STRING *ip = a2i_IPADDRESS(text);
    ERR_clear_error();
    if (g == NULL) {
        ASN1_OCTET_STRING_free(ip);
        return false;
    }
    if (ip != NULL) {
        GENERAL_NAME_set0_value(g, GEN_IPADD, ip);
    } else {
        ASN1_IA5STRING *dns = ASN1_IA5STRING_new();
        if (dns == NULL || ASN1_STRING_set(dns, text, (int)strlen(text)) != 1) {
            ASN1_IA5STRING_free(dns);
            GENERAL_NAME_free(g);
            return false;
        }
        GENERAL_NAME_set0_value(g, GEN_DNS, dns);
    }
    if (sk_GENERAL_NAME_push(names, g) <= 0) {
        GENERAL_NAME_free(g);
        return false;
    }
    return true;
}

static bool add_sans(X509 *cert, const struct sys_cert_request *r)
{
    GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
    bool done = names != NULL && add_san(names, r->name);
    for (size_t i = 0; i < r->sans_len && done; i++) {
        done = add_san(names, r->sans[i]);
    }
    done = done && X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, 0) == 1;
    GENERAL_NAMES_free(names);
    return done;
}

/* A certificate with a key of its own, but without extensions and signature. */
static bool begin(struct work *w, const char *cn, unsigned days)
{
    w->key = EVP_EC_gen("P-256");
    w->cert = X509_new();
    return w->key != NULL && w->cert != NULL && X509_set_version(w->cert, X509_VERSION_3) == 1 &&
           set_serial(X509_get_serialNumber(w->cert)) && set_times(w->cert, days, w->ca) &&
           X509_set_pubkey(w->cert, w->key) == 1 && set_name(X509_get_subject_name(w->cert), cn);
}

int sys_cert_ca(const char *name, unsigned days, struct buf *cert, struct buf *key, struct err *e)
{
    AUTO_WORK struct work w = { .ca = NULL };
    if (!name_ok(name)) {
        return err_say(e, -EINVAL, "'%s' is no name for an authority", name);
    }
    if (!begin(&w, name, days) ||
        X509_set_issuer_name(w.cert, X509_get_subject_name(w.cert)) != 1 ||
        !add_extension(w.cert, w.cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(w.cert, w.cert, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(w.cert, w.cert, NID_subject_key_identifier, "hash") ||
        X509_sign(w.cert, w.key, EVP_sha256()) == 0) {
        return failed(e, "make an authority");
    }
    int rc = cert_write(w.cert, cert, e);
    return rc == 0 ? key_write(w.key, key, e) : rc;
}

static int request_check(const struct sys_cert_request *r, struct err *e)
{
    if (!name_ok(r->name)) {
        return err_say(e, -EINVAL,
                       "'%s' is no name for a certificate: 1 to 64 letters, digits, '-', '.', '_' "
                       "are wanted",
                       r->name);
    }
    if (r->sans_len > SYS_CERT_SANS_MAX) {
        return err_say(e, -EINVAL, "more than %d names and addresses", SYS_CERT_SANS_MAX);
    }
    for (size_t i = 0; i < r->sans_len; i++) {
        ASN1_OCTET_STRING *ip = a2i_IPADDRESS(r->sans[i]);
        bool ok = ip != NULL || name_ok(r->sans[i]);
        ASN1_OCTET_STRING_free(ip);
        ERR_clear_error();
        if (!ok) {
            return err_say(e, -EINVAL, "'%s' is neither a name nor an address", r->sans[i]);
        }
    }
    return 0;
}

int sys_cert_issue(struct str ca_cert, struct str ca_key, const struct sys_cert_request *r,
                   struct buf *cert, struct buf *key, struct err *e)
{
    AUTO_WORK struct work w = { .ca = NULL };
    int rc = request_check(r, e);
    rc = rc == 0 ? ca_of(&w, ca_cert, ca_key, e) : rc;
    if (rc != 0) {
        return rc;
    }
    if (!begin(&w, r->name, r->days) ||
        X509_set_issuer_name(w.cert, X509_get_subject_name(w.ca)) != 1 ||
        !add_extension(w.cert, w.ca, NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(w.cert, w.ca, NID_key_usage, "critical,digitalSignature") ||
        !add_extension(w.cert, w.ca, NID_ext_key_usage, "serverAuth,clientAuth") ||
        !add_extension(w.cert, w.ca, NID_subject_key_identifier, "hash") ||
        !add_extension(w.cert, w.ca, NID_authority_key_identifier, "keyid") ||
        !add_sans(w.cert, r) || X509_sign(w.cert, w.ca_key, EVP_sha256()) == 0) {
        return failed(e, "make a certificate");
    }
    rc = cert_write(w.cert, cert, e);
    return rc == 0 ? key_write(w.key, key, e) : rc;
}

/* -- revocation -- */

static bool add_revoked(X509_CRL *crl, const struct sys_cert_revoked *r)
{
    BIGNUM *n = NULL;
    ASN1_INTEGER *serial = BN_hex2bn(&n, r->serial) > 0 ? BN_to_ASN1_INTEGER(n, NULL) : NULL;
    ASN1_TIME *at = ASN1_TIME_set(NULL, (time_t)r->at_s);
    X509_REVOKED *one = X509_REVOKED_new();
    bool done = serial != NULL && at != NULL && one != NULL &&
                X509_REVOKED_set_serialNumber(one, serial) == 1 &&
                X509_REVOKED_set_revocationDate(one, at) == 1 &&
                X509_CRL_add0_revoked(crl, one) == 1;
    if (!done) {
        X509_REVOKED_free(one);
    }
    ASN1_TIME_free(at);
    ASN1_INTEGER_free(serial);
    BN_free(n);
    return done;
}

/* Which key signed it: during a rotation two authorities may have one name. */
static bool add_crl_key(X509_CRL *crl, X509 *ca)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, ca, NULL, NULL, crl, 0);
    X509_EXTENSION *x = X509V3_EXT_conf_nid(NULL, &ctx, NID_authority_key_identifier, "keyid");
    bool done = x != NULL && X509_CRL_add_ext(crl, x, -1) == 1;
    X509_EXTENSION_free(x);
    return done;
}

int sys_cert_crl(struct str ca_cert, struct str ca_key, const struct sys_cert_revoked *list,
                 size_t len, struct buf *crl, struct err *e)
{
    AUTO_WORK struct work w = { .ca = NULL };
    int rc = ca_of(&w, ca_cert, ca_key, e);
    if (rc != 0) {
        return rc;
    }
    ASN1_TIME *now = ASN1_TIME_set(NULL, time(NULL) - CLOCK_SLACK_S);
    w.crl = X509_CRL_new();
    bool done = w.crl != NULL && now != NULL &&
                X509_CRL_set_version(w.crl, X509_CRL_VERSION_2) == 1 &&
                X509_CRL_set_issuer_name(w.crl, X509_get_subject_name(w.ca)) == 1 &&
                X509_CRL_set1_lastUpdate(w.crl, now) == 1 &&
                X509_CRL_set1_nextUpdate(w.crl, X509_get0_notAfter(w.ca)) == 1;
    done = done && add_crl_key(w.crl, w.ca);
    for (size_t i = 0; i < len && done; i++) {
        done = add_revoked(w.crl, &list[i]);
    }
    ASN1_TIME_free(now);
    if (!done || X509_CRL_sort(w.crl) != 1 || X509_CRL_sign(w.crl, w.ca_key, EVP_sha256()) == 0) {
        return failed(e, "make a revocation list");
    }
    BIO *out = BIO_new(BIO_s_mem());
    return bio_to_buf(out, out != NULL ? PEM_write_bio_X509_CRL(out, w.crl) : 0, crl, e);
}

/* -- reading -- */

static void common_name(X509_NAME *name, char *dst, size_t cap)
{
    int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
    unsigned char *utf8 = NULL;
    dst[0] = '\0';
    if (at >= 0) {
        int n = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
        if (n > 0) {
            (void)str_copy(dst, cap, (struct str){ (const char *)utf8, (size_t)n });
        }
        OPENSSL_free(utf8);
    }
}

static void san_text(const GENERAL_NAME *g, char *dst, size_t cap)
{
    int type = 0;
    const ASN1_STRING *v = GENERAL_NAME_get0_value(g, &type);
    dst[0] = '\0';
    if (type == GEN_DNS) {
        (void)str_copy(
            dst, cap,
            (struct str){ (const char *)ASN1_STRING_get0_data(v), (size_t)ASN1_STRING_length(v) });
    } else if (type == GEN_IPADD) {
        const uint8_t *b = ASN1_STRING_get0_data(v);
        if (ASN1_STRING_length(v) == 4) {
            (void)snprintf(dst, cap, "%u.%u.%u.%u", b[0], b[1], b[2], b[3]);
        } else if (ASN1_STRING_length(v) == 16) {
            size_t at = 0;
            for (int i = 0; i < 16; i += 2) {
                at += (size_t)snprintf(dst + at, cap - at, "%s%x", i > 0 ? ":" : "",
                                       ((unsigned)b[i] << 8) | b[i + 1]);
            }
        }
    }
}

static void read_sans(X509 *cert, struct sys_cert_info *ret)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    bool named = false;
    size_t at = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
        char text[SYS_CERT_NAME_CAP];
        san_text(g, text, sizeof(text));
        if (text[0] == '\0') {
            continue;
        }
        if (g->type == GEN_DNS && !named) {
            named = true;
            (void)str_copy(ret->name, sizeof(ret->name), str_of(text));
        }
        size_t n = strlen(text) + 2;
        if (at + n < sizeof(ret->sans)) {
            at += (size_t)snprintf(ret->sans + at, sizeof(ret->sans) - at, "%s%s",
                                   at > 0 ? ", " : "", text);
        }
    }
    GENERAL_NAMES_free(names);
}

static int64_t seconds_of(const ASN1_TIME *t)
{
    struct tm tm;
    return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static int info_fill(X509 *cert, struct sys_cert_info *ret, struct err *e)
{
    memset(ret, 0, sizeof(*ret));
    common_name(X509_get_subject_name(cert), ret->name, sizeof(ret->name));
    common_name(X509_get_issuer_name(cert), ret->issuer, sizeof(ret->issuer));
    read_sans(cert, ret);
    ret->not_before_s = seconds_of(X509_get0_notBefore(cert));
    ret->not_after_s = seconds_of(X509_get0_notAfter(cert));
    ret->is_ca = X509_check_ca(cert) == 1;
    BIGNUM *n = ASN1_INTEGER_to_BN(X509_get0_serialNumber(cert), NULL);
    char *hex = n != NULL ? BN_bn2hex(n) : NULL;
    int rc = hex != NULL ? str_copy(ret->serial, sizeof(ret->serial), str_of(hex)) : -ENOMEM;
    OPENSSL_free(hex);
    BN_free(n);
    return rc == 0 ? 0 : err_say(e, rc, "a certificate's serial number is too long");
}

int sys_cert_read(struct str pem, size_t nth, struct sys_cert_info *ret, struct err *e)
{
    struct sys_cert_info info;
    BIO *in = pem.n <= SYS_CERT_PEM_MAX ? BIO_new_mem_buf(pem.p, (int)pem.n) : NULL;
    X509 *cert = NULL;
    size_t i = 0;
    ERR_clear_error();
    while (in != NULL && (cert = PEM_read_bio_X509(in, NULL, refuse_pass, NULL)) != NULL &&
           i++ < nth) {
        X509_free(cert);
    }
    (void)BIO_free(in);
    if (cert == NULL) {
        unsigned long code = ERR_peek_last_error();
        bool ended = i > 0 && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
        ERR_clear_error();
        return ended ? err_say(e, -ENOENT, "there are %zu certificates only", i)
                     : err_say(e, -EINVAL, "this is not a PEM certificate");
    }
    int rc = info_fill(cert, &info, e);
    X509_free(cert);
    ERR_clear_error();
    if (rc == 0) {
        *ret = info;
    }
    return rc;
}

bool sys_cert_matches(struct str cert, struct str key)
{
    AUTO_WORK struct work w = { .cert = cert_of(cert), .key = key_of(key) };
    return w.cert != NULL && w.key != NULL && X509_check_private_key(w.cert, w.key) == 1;
}
