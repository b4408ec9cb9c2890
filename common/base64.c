#include "common/base64.h"

#include <errno.h>
#include <stdint.h>

#include "common/mem.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int base64_encode(struct buf *out, const void *data, size_t n)
{
    const uint8_t *b = data;

    for (size_t i = 0; i < n; i += 3) {
        size_t have = n - i < 3 ? n - i : 3;
        uint32_t v = (uint32_t)b[i] << 16 | (have > 1 ? (uint32_t)b[i + 1] << 8 : 0) |
                     (have > 2 ? (uint32_t)b[i + 2] : 0);
        char four[4];
        for (size_t k = 0; k < 4; k++) {
            four[k] = k <= have ? alphabet[v >> (18 - 6 * k) & 63] : '=';
        }
        (void)buf_add(out, four, sizeof four);
    }
    return buf_error(out);
}

/* 0 to 63, or -1. */
static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    if (c == '+' || c == '-') {
        return 62;
    }
    return c == '/' || c == '_' ? 63 : -1;
}

int base64_read(struct str text, void *dst, size_t cap, size_t *ret_n)
{
    uint8_t *out = dst;
    size_t n = 0;
    uint32_t bits = 0;
    unsigned held = 0;

    if (text.n % 4 == 0 && str_ends(text, "=")) {
        text.n -= str_ends(text, "==") ? 2 : 1;
    }
    if (text.n % 4 == 1) {
        return -EINVAL;
    }
    for (size_t i = 0; i < text.n; i++) {
        int v = value_of(text.p[i]);
        if (v < 0) {
            return -EINVAL;
        }
        bits = bits << 6 | (uint32_t)v;
        held += 6;
        if (held >= 8) {
            held -= 8;
            if (n == cap) {
                return -ENOBUFS;
            }
            out[n++] = (uint8_t)(bits >> held);
        }
    }
    if ((bits & ((UINT32_C(1) << held) - 1)) != 0) {
        return -EINVAL;
    }
    *ret_n = n;
    return 0;
}

int base64_decode(struct str text, char **ret, size_t *ret_len)
{
    size_t len = 0;
    size_t cap = text.n / 4 * 3;

    if (text.n % 4 != 0 || str_find(text, '-') >= 0 || str_find(text, '_') >= 0) {
        return -EINVAL;
    }
    char AUTO_MEM *out = mem_alloc(cap + 1);
    if (out == NULL) {
        return -ENOMEM;
    }
    int rc = base64_read(text, out, cap, &len);
    if (rc != 0) {
        return rc;
    }
    out[len] = '\0';
    *ret = TAKE(out);
    *ret_len = len;
    return 0;
}
