/*
 * digest - content digests ("sha256:<hex>"), keyed hashes, signatures and comparisons that take
 * constant time.
 *
 * Pure; OpenSSL's EVP underneath. A context is made once and used for many messages: starting the
 * next one costs no look-up of the algorithm.
 */
#ifndef COMMON_DIGEST_H
#define COMMON_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/str.h"

enum digest_algo { DIGEST_NONE, DIGEST_SHA256, DIGEST_SHA512 };

enum {
    DIGEST_BYTES_MAX = 64,
    DIGEST_TEXT_CAP = 7 + 2 * DIGEST_BYTES_MAX + 1, /* "sha512:", hex, NUL */
    HMAC_SHA256_BYTES = 32,
};

/* A value: copy it freely. Bytes past the algorithm's length are zero. */
struct digest {
    enum digest_algo algo; /* DIGEST_NONE in a zeroed one */
    uint8_t b[DIGEST_BYTES_MAX];
};

size_t digest_len(enum digest_algo algo);            /* 32, 64, or 0 */
const char *digest_algo_name(enum digest_algo algo); /* "sha256"; "none" */

/* "sha256:" and 64, or "sha512:" and 128, lower-case hex digits, and nothing else. -EINVAL
 * (malformed), -ENOTSUP (a well-formed name of another algorithm). */
int digest_parse(struct str s, struct digest *ret, struct err *e);
/* The text form; "" for DIGEST_NONE. Returns dst. */
char *digest_format(const struct digest *d, char dst[DIGEST_TEXT_CAP]);
/* Only the hex digits. Returns dst. */
char *digest_hex(const struct digest *d, char dst[DIGEST_TEXT_CAP]);
bool digest_eq(const struct digest *a, const struct digest *b);
int digest_cmp(const struct digest *a, const struct digest *b); /* a total order */

struct digest_ctx;

/* A context that is ready for its first message. -ENOMEM. */
int digest_ctx_new(enum digest_algo algo, struct digest_ctx **ret);
struct digest_ctx *digest_ctx_free(struct digest_ctx *c); /* NULL is fine; returns NULL */
/* Forgets what was fed. */
void digest_ctx_reset(struct digest_ctx *c);
void digest_ctx_update(struct digest_ctx *c, const void *p, size_t n);
/* The digest of all that was fed since the last reset; the context is then reset. */
void digest_ctx_final(struct digest_ctx *c, struct digest *ret);

/* One-shot. -ENOMEM. */
int digest_of(enum digest_algo algo, const void *p, size_t n, struct digest *ret);

int hmac_sha256(const void *key, size_t key_n, const void *p, size_t n,
                uint8_t ret[HMAC_SHA256_BYTES]); /* -ENOMEM */

/* HMAC (RFC 2104) over the pieces put together; for signatures that others make. SHA-1 is there for
 * senders that know nothing newer; as an HMAC it still stands. */
enum hmac_algo { HMAC_SHA1, HMAC_SHA256, HMAC_SHA512 };
enum { HMAC_BYTES_MAX = 64 };
size_t hmac_len(enum hmac_algo algo); /* 20, 32, 64 */
/* -ENOMEM. */
int hmac_of(enum hmac_algo algo, struct str key, const struct str *pieces, size_t n,
            uint8_t ret[HMAC_BYTES_MAX]);
/* Is it the Ed25519 signature (RFC 8032) of the message by this public key? */
bool digest_ed25519_ok(const uint8_t public_key[32], const uint8_t signature[64], struct str text);
/* Equal? The time depends on n only: for secrets and tokens. */
bool mem_equal_ct(const void *a, const void *b, size_t n);
/* Overwrites a secret; not optimised away. */
void mem_wipe(void *p, size_t n);

static inline void digest_ctx_cleanup(struct digest_ctx **c)
{
    *c = digest_ctx_free(*c);
}
#define AUTO_DIGEST_CTX __attribute__((cleanup(digest_ctx_cleanup)))

#endif
