#include "common/seal.h"

#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdbool.h>

enum { VERSION = 1, TAG_BYTES = 16 };

static const unsigned char *bytes(struct str s)
{
    return (const unsigned char *)(s.n != 0 ? s.p : "");
}

int seal_close(const uint8_t key[SEAL_KEY_BYTES], const uint8_t nonce[SEAL_NONCE_BYTES],
               struct str context, struct str plain, struct buf *out)
{
    int n = 0;

    if (plain.n > INT_MAX - SEAL_OVERHEAD || context.n > INT_MAX) {
        return -ENOBUFS;
    }
    uint8_t *to = buf_reserve(out, plain.n + SEAL_OVERHEAD);
    if (to == NULL) {
        return buf_error(out);
    }
    to[0] = VERSION;
    memcpy(to + 1, nonce, SEAL_NONCE_BYTES);
    uint8_t *text = to + 1 + SEAL_NONCE_BYTES;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool ok = ctx != NULL && EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce) == 1 &&
              EVP_EncryptUpdate(ctx, NULL, &n, bytes(context), (int)context.n) == 1 &&
              EVP_EncryptUpdate(ctx, text, &n, bytes(plain), (int)plain.n) == 1 &&
              EVP_EncryptFinal_ex(ctx, text + n, &n) == 1 &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, text + plain.n) == 1;
    EVP_CIPHER_CTX_free(ctx);
    if (!ok) {
        return -ENOMEM;
    }
    buf_grow(out, plain.n + SEAL_OVERHEAD);
    return 0;
}

int seal_open(const uint8_t key[SEAL_KEY_BYTES], struct str context, struct str sealed,
              struct buf *out)
{
    uint8_t tag[TAG_BYTES];
    int n = 0;

    if (sealed.n < SEAL_OVERHEAD || sealed.n > INT_MAX || context.n > INT_MAX ||
        sealed.p[0] != VERSION) {
        return -EBADMSG;
    }
    size_t len = sealed.n - SEAL_OVERHEAD;
    const unsigned char *nonce = bytes(sealed) + 1;
    const unsigned char *text = nonce + SEAL_NONCE_BYTES;
    uint8_t *to = buf_reserve(out, len + 1);
    if (to == NULL) {
        return buf_error(out);
    }
    memcpy(tag, text + len, sizeof tag);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool ok = ctx != NULL && EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce) == 1 &&
              EVP_DecryptUpdate(ctx, NULL, &n, bytes(context), (int)context.n) == 1 &&
              EVP_DecryptUpdate(ctx, to, &n, text, (int)len) == 1 &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) == 1 &&
              EVP_DecryptFinal_ex(ctx, to + n, &n) == 1;
    EVP_CIPHER_CTX_free(ctx);
    if (!ok) {
        return -EBADMSG;
    }
    buf_grow(out, len);
    return 0;
}
