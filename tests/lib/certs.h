/*
 * certs - authorities, certificates and TLS contexts for tests.
 */
#ifndef TESTS_LIB_CERTS_H
#define TESTS_LIB_CERTS_H

#include "common/buf.h"
#include "common/loop/tls.h"
#include "common/sys/sys_cert.h"

struct certs_pair {
    struct buf cert, key;
};

void certs_ca(struct certs_pair *ret, const char *name);
/* san: one more name or address, or NULL. days: 0 is over at once. */
void certs_issue(struct certs_pair *ret, const struct certs_pair *ca, const char *name,
                 const char *san, unsigned days);
void certs_release(struct certs_pair *p);
/* own, ca: NULL for none. crl: "" for none. Fails the test when the context can not be made. */
struct tls_context *certs_context(bool server, const struct certs_pair *own,
                                  const struct certs_pair *ca, struct str crl);
struct tls_config certs_config(bool server, const struct certs_pair *own,
                               const struct certs_pair *ca, struct str crl);

#endif
