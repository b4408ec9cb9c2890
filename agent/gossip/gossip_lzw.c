/* LZW as Go's compress/lzw does it (LSB first, 8-bit literals), and CRC-32. */
#include <errno.h>

#include "agent/gossip/gossip_wire.h"
#include "common/insist.h"
#include "common/mem.h"

enum {
    CLEAR = 256,
    END = 257,
    WIDTH_MIN = 9,
    WIDTH_MAX = 12,
    CODES = 1 << WIDTH_MAX,
    HASH_BITS = 14,
};

/* --- reading --- */

/* What each code stands for is somewhere in the output already: every new one is the string of the
 * code before it and the byte that came next. */
struct unpack {
    struct str in;
    size_t at;
    uint32_t bits;
    unsigned bits_len;
    unsigned width;
    unsigned hi;
    unsigned limit;
    bool last;         /* there is a code before */
    size_t last_start; /* where its string is in the output */
    uint32_t last_len;
    size_t base;         /* of the output in the buf */
    size_t start[CODES]; /* from 258 on */
    uint32_t len[CODES];
};

static void unpack_reset(struct unpack *u)
{
    u->width = WIDTH_MIN;
    u->hi = END;
    u->limit = 1U << WIDTH_MIN;
    u->last = false;
}

/* -1: the input ended. */
static int next_code(struct unpack *u)
{
    while (u->bits_len < u->width) {
        if (u->at == u->in.n) {
            return -1;
        }
        u->bits |= (uint32_t)(uint8_t)u->in.p[u->at++] << u->bits_len;
        u->bits_len += 8;
    }
    int code = (int)(u->bits & ((1U << u->width) - 1));
    u->bits >>= u->width;
    u->bits_len -= u->width;
    return code;
}

/* Appends n bytes that begin at `from` in the output and may run into what is being written. */
static int copy_within(struct buf *out, size_t from, uint32_t n)
{
    char *dst = buf_reserve(out, n);
    if (dst == NULL) {
        return buf_error(out);
    }
    const char *src = out->data + from;
    for (uint32_t i = 0; i < n; i++) {
        dst[i] = src[i];
    }
    buf_grow(out, n);
    return 0;
}

/* The string of a code goes out. */
static int expand(struct unpack *u, unsigned code, size_t max, struct buf *out)
{
    size_t start = out->len;
    uint32_t n = 1;

    if (code < CLEAR) {
        if (start - u->base >= max) {
            return -EFBIG;
        }
        if (buf_addc(out, (char)code) != 0) {
            return buf_error(out);
        }
    } else {
        bool fresh = code == u->hi; /* the one that this very step defines */
        if (code > u->hi || (fresh && !u->last)) {
            return -EBADMSG;
        }
        n = fresh ? u->last_len + 1 : u->len[code];
        size_t from = fresh ? u->last_start : u->start[code];
        if (n > max - (start - u->base)) {
            return -EFBIG;
        }
        int rc = copy_within(out, from, n);
        if (rc != 0) {
            return rc;
        }
    }
    if (u->last) {
        u->start[u->hi] = u->last_start;
        u->len[u->hi] = u->last_len + 1;
    }
    u->last = true;
    u->last_start = start;
    u->last_len = n;
    if (++u->hi >= u->limit) {
        if (u->width == WIDTH_MAX) {
            u->last = false;
            u->hi--;
        } else {
            u->width++;
            u->limit *= 2;
        }
    }
    return 0;
}

int gossip_lzw_unpack(struct str in, size_t max, struct buf *out)
{
    AUTO_MEM struct unpack *u = mem_alloc(sizeof(*u));

    if (u == NULL) {
        return -ENOMEM;
    }
    u->in = in;
    u->at = 0;
    u->bits = 0;
    u->bits_len = 0;
    u->base = out->len;
    unpack_reset(u);
    for (;;) {
        int code = next_code(u);
        if (code < 0) {
            return -EBADMSG;
        }
        if (code == END) {
            return 0;
        }
        if (code == CLEAR) {
            unpack_reset(u);
            continue;
        }
        int rc = expand(u, (unsigned)code, max, out);
        if (rc != 0) {
            return rc;
        }
    }
}

/* --- writing --- */

struct pack {
    struct buf *out;
    uint32_t bits;
    unsigned bits_len;
    unsigned width;
    unsigned hi;
    unsigned limit;
    uint32_t key[1 << HASH_BITS]; /* prefix << 8 | byte, plus 1; 0: free */
    uint16_t code[1 << HASH_BITS];
};

static void emit(struct pack *k, unsigned code)
{
    k->bits |= code << k->bits_len;
    k->bits_len += k->width;
    while (k->bits_len >= 8) {
        (void)buf_add_u8(k->out, (uint8_t)k->bits);
        k->bits >>= 8;
        k->bits_len -= 8;
    }
}

static void pack_reset(struct pack *k)
{
    k->width = WIDTH_MIN;
    k->hi = END;
    k->limit = 1U << WIDTH_MIN;
    memset(k->key, 0, sizeof(k->key));
}

/* One more code. False: they were used up, and all begins anew. */
static bool next_hi(struct pack *k)
{
    if (++k->hi == k->limit) {
        k->width++;
        k->limit *= 2;
    }
    if (k->hi == CODES - 1) {
        emit(k, CLEAR);
        pack_reset(k);
        return false;
    }
    return true;
}

static size_t slot_of(const struct pack *k, uint32_t key)
{
    size_t i = (key * 2654435761U) >> (32 - HASH_BITS);
    while (k->key[i] != 0 && k->key[i] != key) {
        i = (i + 1) & ((1U << HASH_BITS) - 1);
    }
    return i;
}

int gossip_lzw_pack(struct str in, struct buf *out)
{
    AUTO_MEM struct pack *k = mem_alloc(sizeof(*k));

    if (k == NULL) {
        return -ENOMEM;
    }
    k->out = out;
    k->bits = 0;
    k->bits_len = 0;
    pack_reset(k);
    emit(k, CLEAR);
    unsigned code = in.n != 0 ? (uint8_t)in.p[0] : 0;
    for (size_t i = 1; i < in.n; i++) {
        uint32_t key = (code << 8 | (uint8_t)in.p[i]) + 1;
        size_t slot = slot_of(k, key);
        if (k->key[slot] != 0) {
            code = k->code[slot];
            continue;
        }
        emit(k, code);
        code = (uint8_t)in.p[i];
        if (next_hi(k)) {
            k->key[slot] = key;
            k->code[slot] = (uint16_t)k->hi;
        }
    }
    if (in.n != 0) {
        emit(k, code);
        (void)next_hi(k);
    }
    emit(k, END);
    if (k->bits_len > 0) {
        (void)buf_add_u8(k->out, (uint8_t)k->bits);
    }
    return buf_error(out);
}

/* --- CRC-32 --- */

uint32_t gossip_crc32(const void *p, size_t n)
{
    /* Four bits at a time: a table of sixteen. */
    static const uint32_t table[16] = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4,
        0x4DB26158, 0x5005713C, 0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C,
        0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C,
    };
    const uint8_t *b = p;
    uint32_t crc = UINT32_MAX;

    for (size_t i = 0; i < n; i++) {
        crc ^= b[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}
