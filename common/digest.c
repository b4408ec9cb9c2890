#include "common/digest.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/params.h>
#include <string.h>

#include "common/insist.h"
#include "common/mem.h"

struct digest_ctx {
    enum digest_algo algo;
    EVP_MD *md; /* fetched once: a fetch per message costs more than a small message */
    EVP_MD_CTX *ctx;
};

static const struct {
    const char *name;
    size_t len;
} digest_algos[] = {
    [DIGEST_NONE] = { "none", 0 },
    [DIGEST_SHA256] = { "sha256", 32 },
    [DIGEST_SHA512] = { "sha512", 64 },
};

size_t digest_len(enum digest_algo algo)
{
    return (size_t)algo < ARRAY_LEN(digest_algos) ? digest_algos[algo].len : 0;
}

const char *digest_algo_name(enum digest_algo algo)
{
    return (size_t)algo < ARRAY_LEN(digest_algos) ? digest_algos[algo].name : "none";
}

/* OCI: algorithm ::= component (separator component)*, component ::= [a-z0-9]+ */
static bool digest_name_ok(struct str name)
{
    bool component = false;
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
            component = true;
        } else if (component && (c == '+' || c == '.' || c == '_' || c == '-')) {
            component = false;
        } else {
            return false;
        }
    }
    return component;
}

int digest_parse(struct str s, struct digest *ret, struct err *e)
{
    ptrdiff_t colon = str_find(s, ':');
    struct str shown = str_slice(s, 0, DIGEST_TEXT_CAP);
    if (colon < 0 || !digest_name_ok(str_slice(s, 0, (size_t)colon))) {
        return err_say(e, -EINVAL, "'%.*s' is not a digest (sha256:<64 hex digits>)",
                       STR_ARG(shown));
    }
    struct str name = str_slice(s, 0, (size_t)colon);
    struct str hex = str_slice(s, (size_t)colon + 1, SIZE_MAX);
    for (size_t a = DIGEST_SHA256; a < ARRAY_LEN(digest_algos); a++) {
        if (!str_eqs(name, digest_algos[a].name)) {
            continue;
        }
        struct digest d = { .algo = (enum digest_algo)a };
        bool lower = true;
        for (size_t i = 0; i < hex.n; i++) {
            lower = lower && !(hex.p[i] >= 'A' && hex.p[i] <= 'F');
        }
        if (!lower || hex.n != 2 * digest_algos[a].len ||
            str_unhex(hex, d.b, digest_algos[a].len) != 0) {
            return err_say(e, -EINVAL, "digest '%.*s': %s needs %zu lower-case hex digits",
                           STR_ARG(shown), digest_algos[a].name, 2 * digest_algos[a].len);
        }
        *ret = d;
        return 0;
    }
    return err_say(e, -ENOTSUP, "digest algorithm '%.*s' is not supported (sha256, sha512 are)",
                   STR_ARG(str_slice(name, 0, 64)));
}

char *digest_hex(const struct digest *d, char dst[DIGEST_TEXT_CAP])
{
    str_hex(dst, d->b, digest_len(d->algo));
    return dst;
}

char *digest_format(const struct digest *d, char dst[DIGEST_TEXT_CAP])
{
    dst[0] = '\0';
    if (d->algo != DIGEST_NONE) {
        const char *name = digest_algo_name(d->algo);
        size_t n = strlen(name);
        memcpy(dst, name, n);
        dst[n] = ':';
        str_hex(dst + n + 1, d->b, digest_len(d->algo));
    }
    return dst;
}

bool digest_eq(const struct digest *a, const struct digest *b)
{
    return digest_cmp(a, b) == 0;
}

int digest_cmp(const struct digest *a, const struct digest *b)
{
    if (a->algo != b->algo) {
        return a->algo < b->algo ? -1 : 1;
    }
    return memcmp(a->b, b->b, digest_len(a->algo));
}

int digest_ctx_new(enum digest_algo algo, struct digest_ctx **ret)
{
    REQUIRE(digest_len(algo) != 0);
    struct digest_ctx *c = mem_zalloc(sizeof *c);
    if (c == NULL) {
        return -ENOMEM;
    }
    c->algo = algo;
    c->md = EVP_MD_fetch(NULL, digest_algo_name(algo), NULL);
    c->ctx = EVP_MD_CTX_new();
    if (c->md == NULL || c->ctx == NULL || EVP_DigestInit_ex2(c->ctx, c->md, NULL) != 1) {
        digest_ctx_free(c);
        return -ENOMEM;
    }
    *ret = c;
    return 0;
}

struct digest_ctx *digest_ctx_free(struct digest_ctx *c)
{
    if (c != NULL) {
        EVP_MD_CTX_free(c->ctx);
        EVP_MD_free(c->md);
        mem_free(c);
    }
    return NULL;
}

void digest_ctx_reset(struct digest_ctx *c)
{
    /* Neither allocates nor looks anything up: it cannot fail on a context that began once. */
    INSIST(EVP_DigestInit_ex2(c->ctx, NULL, NULL) == 1);
}

void digest_ctx_update(struct digest_ctx *c, const void *p, size_t n)
{
    if (n != 0) {
        INSIST(EVP_DigestUpdate(c->ctx, p, n) == 1);
    }
}

void digest_ctx_final(struct digest_ctx *c, struct digest *ret)
{
    struct digest d = { .algo = c->algo };
    unsigned n = 0;
    INSIST(EVP_DigestFinal_ex(c->ctx, d.b, &n) == 1 && n == digest_len(c->algo));
    digest_ctx_reset(c);
    *ret = d;
}

int digest_of(enum digest_algo algo, const void *p, size_t n, struct digest *ret)
{
    REQUIRE(digest_len(algo) != 0);
    struct digest d = { .algo = algo };
    if (EVP_Q_digest(NULL, digest_algo_name(algo), NULL, n != 0 ? p : "", n, d.b, NULL) != 1) {
        return -ENOMEM;
    }
    *ret = d;
    return 0;
}

int hmac_sha256(const void *key, size_t key_n, const void *p, size_t n,
                uint8_t ret[HMAC_SHA256_BYTES])
{
    size_t len = 0;
    if (EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL, key_n != 0 ? key : "", key_n,
                  n != 0 ? p : (const void *)"", n, ret, HMAC_SHA256_BYTES, &len) == NULL) {
        return -ENOMEM;
    }
    INSIST(len == HMAC_SHA256_BYTES);
    return 0;
}

static const struct {
    const char *name;
    size_t len;
} hmac_algos[] = {
    [HMAC_SHA1] = { "SHA1", 20 },
    [HMAC_SHA256] = { "SHA256", 32 },
    [HMAC_SHA512] = { "SHA512", 64 },
};

size_t hmac_len(enum hmac_algo algo)
{
    REQUIRE((size_t)algo < ARRAY_LEN(hmac_algos));
    return hmac_algos[algo].len;
}

int hmac_of(enum hmac_algo algo, struct str key, const struct str *pieces, size_t n,
            uint8_t ret[HMAC_BYTES_MAX])
{
    char name[8];
    size_t len = 0;

    REQUIRE((size_t)algo < ARRAY_LEN(hmac_algos));
    (void)str_copy(name, sizeof name, str_of(hmac_algos[algo].name));
    const OSSL_PARAM params[] = { OSSL_PARAM_construct_utf8_string("digest", name, 0),
                                  OSSL_PARAM_construct_end() };
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *ctx = mac != NULL ? EVP_MAC_CTX_new(mac) : NULL;
    bool ok = ctx != NULL && EVP_MAC_init(ctx, (const unsigned char *)(key.n != 0 ? key.p : ""),
                                          key.n, params) == 1;
    for (size_t i = 0; ok && i < n; i++) {
        ok = EVP_MAC_update(ctx, (const unsigned char *)pieces[i].p, pieces[i].n) == 1;
    }
    ok = ok && EVP_MAC_final(ctx, ret, &len, HMAC_BYTES_MAX) == 1;
    EVP_MAC_CTX_free(ctx);
    EVP_MAC_free(mac);
    return ok ? 0 : -ENOMEM;
}

bool digest_ed25519_ok(const uint8_t public_key[32], const uint8_t signature[64], struct str text)
{
    EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, 32);
    EVP_MD_CTX *ctx = key != NULL ? EVP_MD_CTX_new() : NULL;
    bool ok = ctx != NULL && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) == 1 &&
              EVP_DigestVerify(ctx, signature, 64, (const unsigned char *)text.p, text.n) == 1;

    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(key);
    return ok;
}

bool mem_equal_ct(const void *a, const void *b, size_t n)
{
    return n == 0 || CRYPTO_memcmp(a, b, n) == 0;
}

void mem_wipe(void *p, size_t n)
{
    if (n != 0) {
        OPENSSL_cleanse(p, n);
    }
}
