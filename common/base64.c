#include "common/base64.h"

#include <errno.h>
#include <stdint.h>

#include "common/mem.h"

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
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Four characters to one to three bytes; the number of bytes, or 0. */
static size_t decode_group(const char *p, bool last, char dst[3])
{
    uint32_t bits = 0;
    size_t pad = 0;

    for (size_t i = 0; i < 4; i++) {
        int v = value_of(p[i]);
        if (p[i] == '=' && last && i >= 2) {
            pad++;
            v = 0;
        } else if (pad != 0) {
            return 0;
        }
        if (v < 0) {
            return 0;
        }
        bits = bits << 6 | (uint32_t)v;
    }
    /* Bits that no byte takes must be zero: one text per content. */
    if ((pad == 1 && (bits & 0xffU) != 0) || (pad == 2 && (bits & 0xffffU) != 0)) {
        return 0;
    }
    dst[0] = (char)(bits >> 16);
    dst[1] = (char)(bits >> 8 & 0xffU);
    dst[2] = (char)(bits & 0xffU);
    return 3 - pad;
}

int base64_decode(struct str text, char **ret, size_t *ret_len)
{
    size_t len = 0;

    if (text.n % 4 != 0) {
        return -EINVAL;
    }
    char AUTO_MEM *out = mem_alloc(text.n / 4 * 3 + 1);
    if (out == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < text.n; i += 4) {
        char group[3];
        size_t n = decode_group(text.p + i, i + 4 == text.n, group);
        if (n == 0) {
            return -EINVAL;
        }
        memcpy(out + len, group, n);
        len += n;
    }
    out[len] = '\0';
    *ret = TAKE(out);
    *ret_len = len;
    return 0;
}

int base64_encode(struct buf *out, const void *data, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = data;
    char *to = buf_reserve(out, (n + 2) / 3 * 4);

    if (to == NULL) {
        return buf_error(out);
    }
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        uint32_t bits = (uint32_t)p[i] << 16;
        bits |= left > 1 ? (uint32_t)p[i + 1] << 8 : 0;
        bits |= left > 2 ? (uint32_t)p[i + 2] : 0;
        *to++ = digits[bits >> 18];
        *to++ = digits[bits >> 12 & 63U];
        *to++ = left > 1 ? digits[bits >> 6 & 63U] : '=';
        *to++ = left > 2 ? digits[bits & 63U] : '=';
    }
    buf_grow(out, (n + 2) / 3 * 4);
    return 0;
}
