#include "tests/lib/certs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void pair_init(struct certs_pair *p)
{
    buf_init(&p->cert, SYS_CERT_PEM_MAX);
    buf_init(&p->key, SYS_CERT_PEM_MAX);
}

void certs_ca(struct certs_pair *ret, const char *name)
{
    struct err e = { .code = 0 };
    pair_init(ret);
    if (sys_cert_ca(name, 30, &ret->cert, &ret->key, &e) != 0) {
        fail_msg("%s", e.text);
    }
}

void certs_issue(struct certs_pair *ret, const struct certs_pair *ca, const char *name,
                 const char *san, unsigned days)
{
    struct err e = { .code = 0 };
    const struct sys_cert_request r = {
        .name = name, .sans = &san, .sans_len = san != NULL ? 1 : 0, .days = days
    };
    pair_init(ret);
    if (sys_cert_issue(buf_str(&ca->cert), buf_str(&ca->key), &r, &ret->cert, &ret->key, &e) != 0) {
        fail_msg("%s", e.text);
    }
}

void certs_release(struct certs_pair *p)
{
    buf_release(&p->cert);
    buf_release(&p->key);
}

struct tls_config certs_config(bool server, const struct certs_pair *own,
                               const struct certs_pair *ca, struct str crl)
{
    struct tls_config config = { .server = server, .crl = crl };
    if (own != NULL) {
        config.cert = buf_str(&own->cert);
        config.key = buf_str(&own->key);
    }
    if (ca != NULL) {
        config.ca = buf_str(&ca->cert);
    }
    return config;
}

struct tls_context *certs_context(bool server, const struct certs_pair *own,
                                  const struct certs_pair *ca, struct str crl)
{
    const struct tls_config config = certs_config(server, own, ca, crl);
    struct tls_context *c = NULL;
    struct err e = { .code = 0 };
    if (tls_context_new(&config, &c, &e) != 0) {
        fail_msg("%s", e.text);
    }
    return c;
}
