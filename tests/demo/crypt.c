/* What the routing demonstration runs: so many MiB through AES-128-GCM in records of 16 KiB, or
 * through SHA-256. libcrypto takes the instructions that OPENSSL_ia32cap leaves it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

enum { RECORD = 16 * 1024, PER_MIB = 1024 * 1024 / RECORD };

static unsigned char plain[RECORD];
static unsigned char sealed[RECORD + 16];

static int gcm(long mib)
{
    static const unsigned char key[16] = "not a secret";
    unsigned char iv[12] = { 0 };
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n;

    for (long i = 0; ctx != NULL && i < mib * PER_MIB; i++) {
        memcpy(iv, &i, sizeof(i));
        if (EVP_EncryptInit_ex(ctx, EVP_aes_128_gcm(), NULL, key, iv) != 1 ||
            EVP_EncryptUpdate(ctx, sealed, &n, plain, RECORD) != 1 ||
            EVP_EncryptFinal_ex(ctx, sealed + n, &n) != 1 ||
            EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, sealed + RECORD) != 1) {
            return 1;
        }
    }
    EVP_CIPHER_CTX_free(ctx);
    return ctx == NULL;
}

static int sha(long mib)
{
    unsigned char hash[32];
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();

    if (ctx == NULL || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1) {
        return 1;
    }
    for (long i = 0; i < mib * PER_MIB; i++) {
        if (EVP_DigestUpdate(ctx, plain, RECORD) != 1) {
            return 1;
        }
    }
    int ok = EVP_DigestFinal_ex(ctx, hash, NULL);
    EVP_MD_CTX_free(ctx);
    (void)printf("%02x%02x\n", hash[0], hash[1]);
    return ok != 1;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        (void)fprintf(stderr, "usage: crypt gcm|sha MIB\n");
        return 2;
    }
    long mib = strtol(argv[2], NULL, 10);
    return strcmp(argv[1], "gcm") == 0 ? gcm(mib) : sha(mib);
}
