#include "agent/gossip/gossip_layers.h"

#include <errno.h>

#include "agent/gossip/gossip_internal_keys.h"
#include "agent/gossip/gossip_wire.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/msgpack.h"

enum { STREAM_HEAD = 5, PACK_FROM = 200 };

static const char *const peel_names[GOSSIP_PEELS] = {
    [GOSSIP_PEEL_OK] = "ok",
    [GOSSIP_PEEL_MORE] = "cut",
    [GOSSIP_PEEL_LABEL] = "label",
    [GOSSIP_PEEL_CRYPT] = "key",
    [GOSSIP_PEEL_CRC] = "checksum",
    [GOSSIP_PEEL_LZW] = "compression",
    [GOSSIP_PEEL_MALFORMED] = "malformed",
    [GOSSIP_PEEL_MEMORY] = "memory",
};

const char *gossip_peel_name(enum gossip_peel p)
{
    return (unsigned)p < GOSSIP_PEELS ? peel_names[p] : "?";
}

void gossip_layers_init(struct gossip_layers *l, struct str label, struct gossip_keys *keys,
                        const uint8_t nonce[GOSSIP_NONCE_PREFIX])
{
    REQUIRE(label.n <= GOSSIP_LABEL_MAX);
    *l = (struct gossip_layers){ .label_len = (uint8_t)label.n, .keys = keys };
    if (label.n != 0) {
        memcpy(l->label, label.p, label.n);
    }
    gossip_layers_set_nonce(l, nonce);
    buf_init(&l->opened, GOSSIP_STREAM_MAX + 64);
    buf_init(&l->unpacked, GOSSIP_STREAM_MAX);
}

void gossip_layers_release(struct gossip_layers *l)
{
    l->keys = gossip_keys_free(l->keys);
    buf_release(&l->opened);
    buf_release(&l->unpacked);
}

void gossip_layers_set_keys(struct gossip_layers *l, struct gossip_keys *keys)
{
    gossip_keys_free(l->keys);
    l->keys = keys;
}

void gossip_layers_set_nonce(struct gossip_layers *l, const uint8_t nonce[GOSSIP_NONCE_PREFIX])
{
    memcpy(l->nonce, nonce, GOSSIP_NONCE_PREFIX);
    l->nonce_at = 0;
}

uint32_t gossip_layers_nonces_left(const struct gossip_layers *l)
{
    return UINT32_MAX - l->nonce_at;
}

uint32_t gossip_layers_overhead(const struct gossip_layers *l)
{
    return (l->label_len != 0 ? 2U + l->label_len : 0) + (l->keys != NULL ? GOSSIP_SEAL_BYTES : 0);
}

static struct str label_of(const struct gossip_layers *l)
{
    return (struct str){ l->label, l->label_len };
}

/* --- putting on --- */

static void put_label(const struct gossip_layers *l, struct buf *out)
{
    if (l->label_len != 0) {
        (void)buf_add_u8(out, GOSSIP_LABEL);
        (void)buf_add_u8(out, l->label_len);
        (void)buf_add(out, l->label, l->label_len);
    }
}

static int put_sealed(struct gossip_layers *l, struct str aad, struct str msg, struct buf *out)
{
    uint8_t nonce[12];

    if (l->nonce_at == UINT32_MAX) {
        return -EOVERFLOW;
    }
    memcpy(nonce, l->nonce, GOSSIP_NONCE_PREFIX);
    for (unsigned i = 0; i < 4; i++) {
        nonce[GOSSIP_NONCE_PREFIX + i] = (uint8_t)(l->nonce_at >> (8 * i));
    }
    l->nonce_at++;
    uint8_t *dst = buf_reserve(out, msg.n + GOSSIP_SEAL_BYTES);
    if (dst == NULL) {
        return buf_error(out);
    }
    int rc = gossip_keys_seal(l->keys, nonce, aad, msg, dst);
    if (rc == 0) {
        buf_grow(out, msg.n + GOSSIP_SEAL_BYTES);
    }
    return rc;
}

int gossip_wrap_packet(struct gossip_layers *l, struct str msg, struct buf *out)
{
    put_label(l, out);
    if (l->keys != NULL) {
        int rc = put_sealed(l, label_of(l), msg, out);
        return rc != 0 ? rc : buf_error(out);
    }
    (void)buf_add(out, msg.p, msg.n);
    return buf_error(out);
}

/* The message, compressed when that makes it smaller; *dst holds it then. */
static struct str packed(struct str msg, struct buf *codes, struct buf *dst)
{
    if (msg.n < PACK_FROM || gossip_lzw_pack(msg, codes) != 0) {
        return msg;
    }
    const struct gossip_msg m = { .buf = buf_str(codes) };
    gossip_msg_write(dst, GOSSIP_COMPRESSED, &m);
    return buf_error(dst) == 0 && dst->len < msg.n ? buf_str(dst) : msg;
}

int gossip_wrap_stream(struct gossip_layers *l, struct str msg, bool dialler, struct buf *out)
{
    AUTO_BUF struct buf codes = BUF_INIT(GOSSIP_STREAM_MAX);
    AUTO_BUF struct buf small = BUF_INIT(GOSSIP_STREAM_MAX);
    char aad[STREAM_HEAD + GOSSIP_LABEL_MAX];
    size_t start;

    msg = packed(msg, &codes, &small);
    if (dialler) {
        put_label(l, out);
    }
    if (l->keys == NULL) {
        (void)buf_add(out, msg.p, msg.n);
        return buf_error(out);
    }
    if (msg.n > GOSSIP_STREAM_MAX - GOSSIP_SEAL_BYTES) {
        return -EMSGSIZE;
    }
    start = out->len;
    (void)buf_add_u8(out, GOSSIP_ENCRYPTED);
    (void)buf_add_be32(out, (uint32_t)msg.n + GOSSIP_SEAL_BYTES);
    if (buf_error(out) != 0) {
        return buf_error(out);
    }
    memcpy(aad, out->data + start, STREAM_HEAD);
    memcpy(aad + STREAM_HEAD, l->label, l->label_len);
    return put_sealed(l, (struct str){ aad, (size_t)STREAM_HEAD + l->label_len }, msg, out);
}

/* --- peeling off --- */

static enum gossip_peel unpack(struct gossip_layers *l, size_t max, struct str *msg)
{
    struct gossip_msg m;
    struct cur c;

    if (msg->n == 0 || (uint8_t)msg->p[0] != GOSSIP_COMPRESSED) {
        return GOSSIP_PEEL_OK;
    }
    cur_init(&c, msg->p + 1, msg->n - 1);
    if (!gossip_msg_read(&c, GOSSIP_COMPRESSED, &m) || m.algo != 0) {
        return GOSSIP_PEEL_MALFORMED;
    }
    buf_reset(&l->unpacked);
    int rc = gossip_lzw_unpack(m.buf, max, &l->unpacked);
    if (rc != 0) {
        return rc == -ENOMEM ? GOSSIP_PEEL_MEMORY : GOSSIP_PEEL_LZW;
    }
    *msg = buf_str(&l->unpacked);
    return msg->n != 0 && (uint8_t)msg->p[0] == GOSSIP_COMPRESSED ? GOSSIP_PEEL_LZW
                                                                  : GOSSIP_PEEL_OK;
}

static enum gossip_peel opened(struct gossip_layers *l, struct str aad, struct str in,
                               struct str *ret)
{
    int rc = gossip_keys_open(l->keys, aad, in, &l->opened);

    if (rc != 0) {
        return rc == -ENOMEM ? GOSSIP_PEEL_MEMORY : GOSSIP_PEEL_CRYPT;
    }
    *ret = buf_str(&l->opened);
    return GOSSIP_PEEL_OK;
}

/* Takes a label off, when there is one. */
static enum gossip_peel peel_label(const struct gossip_layers *l, struct cur *c)
{
    struct str label = { NULL, 0 };

    if (cur_left(c) > 0 && *c->p == GOSSIP_LABEL) {
        cur_skip(c, 1);
        label = cur_bytes(c, cur_u8(c));
        if (!cur_ok(c) || label.n == 0) {
            return cur_ok(c) ? GOSSIP_PEEL_LABEL : GOSSIP_PEEL_MORE;
        }
    }
    return str_eq(label, label_of(l)) ? GOSSIP_PEEL_OK : GOSSIP_PEEL_LABEL;
}

enum gossip_peel gossip_peel_packet(struct gossip_layers *l, struct str in, struct str *ret)
{
    struct cur c;
    struct str msg;

    cur_init(&c, in.p, in.n);
    enum gossip_peel rc = peel_label(l, &c);
    if (rc != GOSSIP_PEEL_OK) {
        return rc == GOSSIP_PEEL_MORE ? GOSSIP_PEEL_MALFORMED : rc;
    }
    msg = cur_bytes(&c, cur_left(&c));
    if (l->keys != NULL && (rc = opened(l, label_of(l), msg, &msg)) != GOSSIP_PEEL_OK) {
        return rc;
    }
    if (msg.n >= 5 && (uint8_t)msg.p[0] == GOSSIP_CRC) {
        cur_init(&c, msg.p + 1, msg.n - 1);
        uint32_t want = cur_be32(&c);
        msg = cur_bytes(&c, cur_left(&c));
        if (gossip_crc32(msg.p, msg.n) != want) {
            return GOSSIP_PEEL_CRC;
        }
    }
    rc = unpack(l, GOSSIP_UNPACKED_MAX, &msg);
    if (rc == GOSSIP_PEEL_OK && msg.n == 0) {
        rc = GOSSIP_PEEL_MALFORMED;
    }
    if (rc == GOSSIP_PEEL_OK) {
        *ret = msg;
    }
    return rc;
}

/* --- streams --- */

/* A map that does not read: cut short, or wrong? Nobody needs that much for one. */
static enum gossip_peel cut(struct str in, size_t from, size_t most)
{
    return in.n - from < most ? GOSSIP_PEEL_MORE : GOSSIP_PEEL_MALFORMED;
}

/* Records of a view that came whole are not looked at again. */
static enum gossip_peel scan_pull(struct gossip_reader *r, struct str in)
{
    struct gossip_msg m;
    struct cur c;

    if (!r->counted) {
        cur_init(&c, in.p + r->start + 1, in.n - r->start - 1);
        if (!gossip_msg_read(&c, GOSSIP_PULL, &m)) {
            return cut(in, r->start, GOSSIP_RECORD_MAX);
        }
        if (m.nodes > GOSSIP_NODES_MAX || m.user_len > GOSSIP_STREAM_MAX) {
            return GOSSIP_PEEL_MALFORMED;
        }
        r->counted = true;
        r->left = m.nodes;
        r->user = m.user_len;
        r->at = in.n - cur_left(&c);
    }
    cur_init(&c, in.p + r->at, in.n - r->at);
    while (r->left > 0) {
        msgpack_skip(&c);
        if (!cur_ok(&c)) {
            return cut(in, r->at, GOSSIP_RECORD_MAX);
        }
        r->at = in.n - cur_left(&c);
        r->left--;
    }
    return in.n - r->at >= r->user ? GOSSIP_PEEL_OK : GOSSIP_PEEL_MORE;
}

/* Is the plain message that begins at r->start there to its end? */
static enum gossip_peel scan(struct gossip_reader *r, struct str in)
{
    uint8_t type = (uint8_t)in.p[r->start];
    struct gossip_msg m;
    uint32_t len;
    struct cur c;

    cur_init(&c, in.p + r->start + 1, in.n - r->start - 1);
    switch (type) {
    case GOSSIP_PULL:
        return scan_pull(r, in);
    case GOSSIP_USER:
        if (!gossip_user_header_read(&c, &len)) {
            return cut(in, r->start, GOSSIP_RECORD_MAX);
        }
        if (len > GOSSIP_STREAM_MAX) {
            return GOSSIP_PEEL_MALFORMED;
        }
        return cur_left(&c) >= len ? GOSSIP_PEEL_OK : GOSSIP_PEEL_MORE;
    case GOSSIP_COMPRESSED:
        return gossip_msg_read(&c, GOSSIP_COMPRESSED, &m) ? GOSSIP_PEEL_OK
                                                          : cut(in, r->start, GOSSIP_STREAM_MAX);
    case GOSSIP_PING:
    case GOSSIP_ACK:
    case GOSSIP_ERROR:
        return gossip_msg_read(&c, (enum gossip_type)type, &m)
                   ? GOSSIP_PEEL_OK
                   : cut(in, r->start, GOSSIP_RECORD_MAX);
    default:
        return type == GOSSIP_ENCRYPTED ? GOSSIP_PEEL_CRYPT : GOSSIP_PEEL_MALFORMED;
    }
}

static enum gossip_peel open_stream(struct gossip_layers *l, struct gossip_reader *r, struct str in,
                                    struct str *ret)
{
    char aad[STREAM_HEAD + GOSSIP_LABEL_MAX];
    struct cur c;

    if ((uint8_t)in.p[r->start] != GOSSIP_ENCRYPTED) {
        return GOSSIP_PEEL_CRYPT;
    }
    cur_init(&c, in.p + r->start + 1, in.n - r->start - 1);
    uint32_t len = cur_be32(&c);
    if (len > GOSSIP_STREAM_MAX) {
        return GOSSIP_PEEL_MALFORMED;
    }
    if (!cur_ok(&c) || cur_left(&c) < len) {
        return GOSSIP_PEEL_MORE;
    }
    memcpy(aad, in.p + r->start, STREAM_HEAD);
    memcpy(aad + STREAM_HEAD, l->label, l->label_len);
    return opened(l, (struct str){ aad, (size_t)STREAM_HEAD + l->label_len }, cur_bytes(&c, len),
                  ret);
}

enum gossip_peel gossip_peel_stream(struct gossip_layers *l, struct gossip_reader *r, struct str in,
                                    struct str *ret)
{
    enum gossip_peel rc;
    struct str msg;
    struct cur c;

    if (in.n > GOSSIP_STREAM_MAX + STREAM_HEAD + 2 + GOSSIP_LABEL_MAX) {
        return GOSSIP_PEEL_MALFORMED;
    }
    if (!r->labelled && !r->dialler && in.n > 0) {
        cur_init(&c, in.p, in.n);
        rc = peel_label(l, &c);
        if (rc != GOSSIP_PEEL_OK) {
            return rc;
        }
        r->labelled = true;
        r->start = in.n - cur_left(&c);
    }
    if (in.n <= r->start) {
        return GOSSIP_PEEL_MORE;
    }
    msg = str_slice(in, r->start, SIZE_MAX);
    rc = l->keys != NULL ? open_stream(l, r, in, &msg) : scan(r, in);
    if (rc == GOSSIP_PEEL_OK) {
        rc = unpack(l, GOSSIP_STREAM_MAX, &msg);
    }
    if (rc == GOSSIP_PEEL_OK && msg.n == 0) {
        rc = GOSSIP_PEEL_MALFORMED;
    }
    if (rc == GOSSIP_PEEL_OK) {
        *ret = msg;
    }
    return rc;
}
