/*
 * sys_cert - X.509 for a closed cluster: an authority, certificates of its members, revocation
 * lists. PEM in, PEM out; files are the caller's. Keys are ECDSA P-256, serial numbers 159 random
 * bits, lifetimes count from one hour ago (clocks differ).
 *
 * Private keys in the buffers are the caller's to wipe (mem_wipe()).
 */
#ifndef COMMON_SYS_CERT_H
#define COMMON_SYS_CERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

enum {
    SYS_CERT_NAME_CAP = 256,
    SYS_CERT_SERIAL_CAP = 43,   /* hex digits and NUL */
    SYS_CERT_SANS_MAX = 32,     /* names and addresses in one certificate */
    SYS_CERT_PEM_MAX = 1 << 20, /* bytes of any PEM text here */
};

/* A self-signed authority that may sign certificates of members and revocation lists, but no other
 * authority. name: its common name. -EINVAL, -ENOMEM. */
int sys_cert_ca(const char *name, unsigned days, struct buf *cert, struct buf *key, struct err *e);

struct sys_cert_request {
    const char *name;        /* common name and first DNS SAN: the node's or the client's name */
    const char *const *sans; /* more names, and addresses */
    size_t sans_len;
    unsigned days; /* never longer than the authority's */
};

/* A new key and its certificate, for client and server side, signed by the authority: the first
 * certificate of ca_cert. -EINVAL (the authority's PEM, a name), -ENOMEM. */
int sys_cert_issue(struct str ca_cert, struct str ca_key, const struct sys_cert_request *r,
                   struct buf *cert, struct buf *key, struct err *e);

struct sys_cert_revoked {
    char serial[SYS_CERT_SERIAL_CAP]; /* hex */
    int64_t at_s;                     /* seconds since 1970 */
};

/* Appends the authority's revocation list, good as long as the authority is. */
int sys_cert_crl(struct str ca_cert, struct str ca_key, const struct sys_cert_revoked *list,
                 size_t len, struct buf *crl, struct err *e);

struct sys_cert_info {
    char name[SYS_CERT_NAME_CAP];   /* the first DNS SAN, or the common name */
    char issuer[SYS_CERT_NAME_CAP]; /* common name */
    char serial[SYS_CERT_SERIAL_CAP];
    char sans[1024]; /* "name, name, 10.0.0.1", cut */
    int64_t not_before_s, not_after_s;
    bool is_ca;
};

/* The nth certificate of a PEM text. -ENOENT: there are not so many; -EINVAL: not PEM. */
int sys_cert_read(struct str pem, size_t nth, struct sys_cert_info *ret, struct err *e);
/* Is the first certificate's key this one? */
bool sys_cert_matches(struct str cert, struct str key);

#endif
