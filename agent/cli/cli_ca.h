/*
 * cli_ca - the list of certificates that an authority has issued: the file `issued` beside its key.
 * Pure.
 *
 *   SERIAL NAME until=2027-01-31T00:00:00Z by=SERIAL [revoked=2026-12-01T10:00:00Z]
 *
 * by: the authority's own serial number, for during a rotation there are two.
 */
#ifndef AGENT_CLI_CLI_CA_H
#define AGENT_CLI_CLI_CA_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

enum {
    CLI_CA_SERIAL_CAP = 43,
    CLI_CA_NAME_CAP = 65,
    CLI_CA_ENTRIES_MAX = 100000,
    CLI_CA_FILE_MAX = 32 * 1024 * 1024,
};

struct cli_ca_entry {
    char serial[CLI_CA_SERIAL_CAP]; /* hex, upper case */
    char name[CLI_CA_NAME_CAP];
    char by[CLI_CA_SERIAL_CAP];
    int64_t until_s;   /* seconds since 1970 */
    int64_t revoked_s; /* 0: it is not */
};

struct cli_ca_list {
    struct cli_ca_entry *items;
    size_t len, cap;
};

/* "issued:LINE: what is wrong". -EINVAL, -E2BIG, -ENOMEM; *ret is then empty. */
int cli_ca_parse(struct str text, struct cli_ca_list *ret, struct err *e);
/* -ENOMEM, -E2BIG. */
int cli_ca_add(struct cli_ca_list *list, const struct cli_ca_entry *entry, struct err *e);
/* Removes what this authority issued. */
void cli_ca_drop(struct cli_ca_list *list, const char *by);
/* Marks as revoked what has this name, or a serial number that begins so (at least 8 digits), and
 * is not yet. How many. */
size_t cli_ca_revoke(struct cli_ca_list *list, struct str which, int64_t now_s);
void cli_ca_write(const struct cli_ca_list *list, struct buf *out);
void cli_ca_release(struct cli_ca_list *list);

#endif
