/*
 * secrets - the files that the node shows and trusts: certificates, their keys, the gossip keys.
 *
 * They may be root's alone (mode 0600). The launcher, which never speaks to the network, reads them
 * and hands what they say to every agent process in one memory file that only it can write. It
 * looks at them once a second, and at once on SIGHUP; when what they say has changed it writes
 * the memory file anew and tells the agent process (SIGUSR1), so that a certificate is renewed by
 * putting new files in the old ones' place.
 */
#ifndef AGENT_SECRETS_H
#define AGENT_SECRETS_H

#include <stdbool.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/loop/tls.h"
#include "common/settings.h"

enum daemon_secret {
    DAEMON_TLS_CERT,
    DAEMON_TLS_KEY,
    DAEMON_TLS_CLIENT_CA,
    DAEMON_TLS_CRL,
    DAEMON_GOSSIP_KEYS, /* gossip.key_file as it is */
    DAEMON_SECRETS,     /* how many */
};

/* What the files say; "" for one that is not set. */
struct daemon_secrets {
    struct buf items[DAEMON_SECRETS];
};

void daemon_secrets_init(struct daemon_secrets *s);
void daemon_secrets_release(struct daemon_secrets *s); /* wipes */

/* -- in the launcher -- */

struct daemon_vault;

/* Reads the files that the settings name. A missing or unreadable one is an error that names its
 * key. *ret_fd is what agent processes inherit. -ENOMEM, -EINVAL, -Exxx. */
int daemon_vault_open(const struct settings *s, struct daemon_vault **ret, int *ret_fd,
                      struct err *e);
const struct daemon_secrets *daemon_vault_secrets(const struct daemon_vault *v);
/* Looks again: below the directory `root`, for the launcher lives in an empty one. asked: read now;
 * else only what looks changed, and stood still since the last look. True: something changed, and
 * the memory file has it. Trouble is logged, and everything stays as it was. */
bool daemon_vault_refresh(void *vault, int root, bool asked);

/* -- in the agent process -- */

/* What the memory file says. -EAGAIN: it is being written just now. */
int daemon_secrets_take(int fd, struct daemon_secrets *ret, struct err *e);

/* -- both -- */

/* TLS of the HTTP server, or of calls to other nodes: slices of s. */
struct tls_config daemon_secrets_tls(const struct daemon_secrets *s, bool server);
/* Would the agent process take them? Also: is the certificate the node's own (http.tls_client_ca
 * is set: nodes know each other by it)? -EINVAL with the key's name. */
int daemon_secrets_check(const struct daemon_secrets *s, const struct settings *settings,
                         struct err *e);

#endif
