/* The keyring's cipher, for gossip_layers.c only. */
#ifndef AGENT_GOSSIP_GOSSIP_INTERNAL_KEYS_H
#define AGENT_GOSSIP_GOSSIP_INTERNAL_KEYS_H

#include "agent/gossip/gossip_layers.h"

enum { GOSSIP_SEAL_BYTES = 29 }; /* version, nonce, tag */

/* Writes in.n + GOSSIP_SEAL_BYTES bytes to dst. -ENOMEM. */
int gossip_keys_seal(struct gossip_keys *k, const uint8_t nonce[12], struct str aad, struct str in,
                     uint8_t *dst);
/* Replaces out's content. -EBADMSG: no key opens it. Or the buf's error. */
int gossip_keys_open(struct gossip_keys *k, struct str aad, struct str in, struct buf *out);

#endif
