/*
 * seal - secrets at rest and on the way: AES-256-GCM under the cluster's key.
 *
 * A sealed text is version (1), nonce (12 random bytes), ciphertext, tag (16). It is bound to a
 * context (the secret's name): under another one it does not open. Nonces are random: with one key
 * 2^32 texts may be sealed (NIST SP 800-38D, 8.3), far more than a cluster has secrets.
 */
#ifndef COMMON_SEAL_H
#define COMMON_SEAL_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

enum { SEAL_KEY_BYTES = 32, SEAL_NONCE_BYTES = 12, SEAL_OVERHEAD = 1 + 12 + 16 };

/* Appends the sealed text. nonce: fresh from the kernel for each call. -ENOMEM, -ENOBUFS. */
int seal_close(const uint8_t key[SEAL_KEY_BYTES], const uint8_t nonce[SEAL_NONCE_BYTES],
               struct str context, struct str plain, struct buf *out);
/* Appends the plain text. -EBADMSG: not sealed with this key in this context, or changed. The
 * caller wipes *out. */
int seal_open(const uint8_t key[SEAL_KEY_BYTES], struct str context, struct str sealed,
              struct buf *out);

#endif
