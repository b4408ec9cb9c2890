/* The keyring, and AES-GCM with it. */
#include <errno.h>
#include <openssl/evp.h>

#include "agent/gossip/gossip_internal_keys.h"
#include "common/base64.h"
#include "common/digest.h"
#include "common/insist.h"
#include "common/mem.h"

struct key {
    EVP_CIPHER_CTX *seal; /* with the key set: a message only sets its nonce */
    EVP_CIPHER_CTX *open;
};

struct gossip_keys {
    struct key v[GOSSIP_KEYS_MAX];
    size_t len;
};

static int key_init(struct key *k, const uint8_t *bytes, size_t n)
{
    const EVP_CIPHER *cipher = n == 16   ? EVP_aes_128_gcm()
                               : n == 24 ? EVP_aes_192_gcm()
                                         : EVP_aes_256_gcm();

    k->seal = EVP_CIPHER_CTX_new();
    k->open = EVP_CIPHER_CTX_new();
    if (k->seal == NULL || k->open == NULL ||
        EVP_EncryptInit_ex(k->seal, cipher, NULL, bytes, NULL) != 1 ||
        EVP_DecryptInit_ex(k->open, cipher, NULL, bytes, NULL) != 1) {
        return -ENOMEM;
    }
    return 0;
}

struct gossip_keys *gossip_keys_free(struct gossip_keys *k)
{
    for (size_t i = 0; k != NULL && i < k->len; i++) {
        EVP_CIPHER_CTX_free(k->v[i].seal);
        EVP_CIPHER_CTX_free(k->v[i].open);
    }
    return mem_free(k);
}

size_t gossip_keys_len(const struct gossip_keys *k)
{
    return k != NULL ? k->len : 0;
}

static int key_add(struct gossip_keys *k, struct str line, unsigned number, struct err *e)
{
    uint8_t bytes[32];
    size_t n = 0;
    int rc = 0;

    if (base64_read(line, bytes, sizeof(bytes), &n) != 0 || (n != 16 && n != 24 && n != 32)) {
        rc = err_say(e, -EINVAL, "line %u is not a key: base64 of 16, 24 or 32 bytes", number);
    } else if (k->len == GOSSIP_KEYS_MAX) {
        rc = err_say(e, -EINVAL, "more than %d keys", GOSSIP_KEYS_MAX);
    } else if ((rc = key_init(&k->v[k->len++], bytes, n)) != 0) {
        rc = err_set(e, rc, "take a gossip key");
    }
    mem_wipe(bytes, sizeof(bytes));
    return rc;
}

int gossip_keys_parse(struct str text, struct gossip_keys **ret, struct err *e)
{
    struct gossip_keys *k = mem_zalloc(sizeof(*k));
    struct str line;
    unsigned number = 0;
    int rc = k == NULL ? err_set(e, -ENOMEM, "take the gossip keys") : 0;

    while (rc == 0 && str_split(&text, '\n', &line)) {
        line = str_trim(line);
        number++;
        if (line.n != 0 && line.p[0] != '#') {
            rc = key_add(k, line, number, e);
        }
    }
    if (rc == 0 && k->len == 0) {
        rc = err_say(e, -EINVAL, "there is no key in it");
    }
    if (rc != 0) {
        gossip_keys_free(k);
        return rc;
    }
    *ret = k;
    return 0;
}

int gossip_keys_seal(struct gossip_keys *k, const uint8_t nonce[12], struct str aad, struct str in,
                     uint8_t *dst)
{
    EVP_CIPHER_CTX *c = k->v[0].seal;
    int n = 0;

    REQUIRE(in.n <= INT32_MAX);
    dst[0] = 1;
    memcpy(dst + 1, nonce, 12);
    if (EVP_EncryptInit_ex(c, NULL, NULL, NULL, nonce) != 1 ||
        (aad.n != 0 && EVP_EncryptUpdate(c, NULL, &n, (const uint8_t *)aad.p, (int)aad.n) != 1) ||
        EVP_EncryptUpdate(c, dst + 13, &n, (const uint8_t *)in.p, (int)in.n) != 1 ||
        EVP_EncryptFinal_ex(c, dst + 13 + n, &n) != 1 ||
        EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, 16, dst + 13 + in.n) != 1) {
        return -ENOMEM;
    }
    return 0;
}

static bool open_with(struct key *k, const uint8_t *in, size_t n, struct str aad, uint8_t *dst)
{
    uint8_t tag[16];
    int len = 0;

    memcpy(tag, in + 13 + n, sizeof(tag));
    return EVP_DecryptInit_ex(k->open, NULL, NULL, NULL, in + 1) == 1 &&
           (aad.n == 0 ||
            EVP_DecryptUpdate(k->open, NULL, &len, (const uint8_t *)aad.p, (int)aad.n) == 1) &&
           EVP_DecryptUpdate(k->open, dst, &len, in + 13, (int)n) == 1 &&
           EVP_CIPHER_CTX_ctrl(k->open, EVP_CTRL_GCM_SET_TAG, 16, tag) == 1 &&
           EVP_DecryptFinal_ex(k->open, dst + len, &len) == 1;
}

/* Version 0 pads to blocks; its last byte says by how much. False: it does not. */
static bool unpad(const uint8_t *p, size_t *n)
{
    uint8_t pad = *n > 0 ? p[*n - 1] : 0;
    bool good = pad >= 1 && pad <= 16 && pad <= *n;

    for (size_t i = 0; good && i < pad; i++) {
        good = p[*n - 1 - i] == pad;
    }
    *n -= good ? pad : 0;
    return good;
}

int gossip_keys_open(struct gossip_keys *k, struct str aad, struct str in, struct buf *out)
{
    const uint8_t *p = (const uint8_t *)in.p;
    size_t n = in.n - GOSSIP_SEAL_BYTES;

    if (in.n < GOSSIP_SEAL_BYTES || p[0] > 1 || (p[0] == 0 && in.n < 45) || in.n > INT32_MAX) {
        return -EBADMSG;
    }
    buf_reset(out);
    uint8_t *dst = buf_reserve(out, n + 16);
    if (dst == NULL) {
        return buf_error(out);
    }
    for (size_t i = 0; i < k->len; i++) {
        if (open_with(&k->v[i], p, n, aad, dst)) {
            if (p[0] == 0 && !unpad(dst, &n)) {
                return -EBADMSG;
            }
            buf_grow(out, n);
            return 0;
        }
    }
    return -EBADMSG;
}
