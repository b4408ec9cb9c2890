/* Messages to bytes and back. One table per message: its keys in the order of their bytes, as Go
 * writes them. */
#include "agent/gossip/gossip_wire.h"

#include "common/insist.h"
#include "common/msgpack.h"

_Static_assert(GOSSIP_ACK == 2 && GOSSIP_MSG_DEAD == 5 && GOSSIP_USER == 8 && GOSSIP_NACK == 11,
               "wire");

enum field_type { F_U8, F_U16, F_U32, F_BOOL, F_STR, F_IP, F_VSN };
enum { OMIT = 1, NIL = 2 }; /* when empty: leave it out; write nil */

struct field {
    const char *key;
    uint8_t key_len;
    uint8_t type;
    uint8_t empty;
    uint16_t offset;
};

/* NOLINTBEGIN(bugprone-macro-parentheses): names of members */
#define FIELD(key_, type_, member_, empty_) \
    { \
        .key = key_, .key_len = sizeof(key_) - 1, .type = type_, .empty = empty_, \
        .offset = offsetof(struct gossip_msg, member_) \
    }
/* NOLINTEND(bugprone-macro-parentheses) */

static const struct field ping_fields[] = {
    FIELD("Node", F_STR, node, 0),
    FIELD("SeqNo", F_U32, seq, 0),
    FIELD("SourceAddr", F_IP, src, OMIT),
    FIELD("SourceNode", F_STR, src_node, OMIT),
    FIELD("SourcePort", F_U16, src_port, OMIT),
};
static const struct field indirect_fields[] = {
    FIELD("Nack", F_BOOL, nack, 0),
    FIELD("Node", F_STR, node, 0),
    FIELD("Port", F_U16, port, 0),
    FIELD("SeqNo", F_U32, seq, 0),
    FIELD("SourceAddr", F_IP, src, OMIT),
    FIELD("SourceNode", F_STR, src_node, OMIT),
    FIELD("SourcePort", F_U16, src_port, OMIT),
    FIELD("Target", F_IP, target, NIL),
};
static const struct field ack_fields[] = {
    FIELD("Payload", F_STR, payload, NIL),
    FIELD("SeqNo", F_U32, seq, 0),
};
static const struct field nack_fields[] = { FIELD("SeqNo", F_U32, seq, 0) };
static const struct field error_fields[] = { FIELD("Error", F_STR, error, 0) };
static const struct field accuse_fields[] = {
    FIELD("From", F_STR, from, 0),
    FIELD("Incarnation", F_U32, incarnation, 0),
    FIELD("Node", F_STR, node, 0),
};
static const struct field alive_fields[] = {
    FIELD("Addr", F_IP, addr, NIL),  FIELD("Incarnation", F_U32, incarnation, 0),
    FIELD("Meta", F_STR, meta, NIL), FIELD("Node", F_STR, node, 0),
    FIELD("Port", F_U16, port, 0),   FIELD("Vsn", F_VSN, vsn, NIL),
};
static const struct field pull_fields[] = {
    FIELD("Join", F_BOOL, join, 0),
    FIELD("Nodes", F_U32, nodes, 0),
    FIELD("UserStateLen", F_U32, user_len, 0),
};
static const struct field user_fields[] = { FIELD("UserMsgLen", F_U32, user_len, 0) };
static const struct field compressed_fields[] = {
    FIELD("Algo", F_U8, algo, 0),
    FIELD("Buf", F_STR, buf, NIL),
};
static const struct field record_fields[] = {
    FIELD("Addr", F_IP, addr, NIL),  FIELD("Incarnation", F_U32, incarnation, 0),
    FIELD("Meta", F_STR, meta, NIL), FIELD("Name", F_STR, node, 0),
    FIELD("Port", F_U16, port, 0),   FIELD("State", F_U8, state, 0),
    FIELD("Vsn", F_VSN, vsn, NIL),
};

#define FIELDS(name) \
    { \
        (name), ARRAY_LEN(name) \
    }

struct fields {
    const struct field *v;
    size_t n;
};

static const struct fields by_type[] = {
    [GOSSIP_PING] = FIELDS(ping_fields),       [GOSSIP_INDIRECT] = FIELDS(indirect_fields),
    [GOSSIP_ACK] = FIELDS(ack_fields),         [GOSSIP_MSG_SUSPECT] = FIELDS(accuse_fields),
    [GOSSIP_MSG_ALIVE] = FIELDS(alive_fields), [GOSSIP_MSG_DEAD] = FIELDS(accuse_fields),
    [GOSSIP_PULL] = FIELDS(pull_fields),       [GOSSIP_COMPRESSED] = FIELDS(compressed_fields),
    [GOSSIP_NACK] = FIELDS(nack_fields),       [GOSSIP_ERROR] = FIELDS(error_fields),
};
static const struct fields record = FIELDS(record_fields);
static const struct fields user = FIELDS(user_fields);

/* --- reading --- */

static void read_ip(struct cur *c, struct gossip_ip *ret)
{
    uint8_t scratch[16];
    struct str s = msgpack_bytes_or_array(c, scratch, sizeof(scratch));

    if (s.n != 0 && s.n != 4 && s.n != 16) {
        c->failed = true;
        return;
    }
    ret->n = (uint8_t)s.n;
    if (s.n != 0) {
        memcpy(ret->b, s.p, s.n);
    }
}

static void read_vsn(struct cur *c, struct gossip_msg *m)
{
    uint8_t scratch[32];
    struct str s = msgpack_bytes_or_array(c, scratch, sizeof(scratch));

    m->vsn_len = (uint8_t)(s.n < sizeof(m->vsn) ? s.n : sizeof(m->vsn));
    if (m->vsn_len != 0) {
        memcpy(m->vsn, s.p, m->vsn_len);
    }
}

static void read_field(struct cur *c, const struct field *f, struct gossip_msg *m)
{
    void *at = (char *)m + f->offset;

    switch ((enum field_type)f->type) {
    case F_U8:
        *(uint8_t *)at = (uint8_t)msgpack_uint(c, UINT8_MAX);
        break;
    case F_U16:
        *(uint16_t *)at = (uint16_t)msgpack_uint(c, UINT16_MAX);
        break;
    case F_U32:
        *(uint32_t *)at = (uint32_t)msgpack_uint(c, UINT32_MAX);
        break;
    case F_BOOL:
        *(bool *)at = msgpack_bool(c);
        break;
    case F_STR:
        *(struct str *)at = msgpack_bytes(c);
        break;
    case F_IP:
        read_ip(c, at);
        break;
    case F_VSN:
        read_vsn(c, m);
        break;
    }
}

/* Peers write their keys in order, so the one expected next is looked at first. */
static const struct field *find(const struct fields *t, size_t expected, struct str key)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct field *f = &t->v[(expected + i) % t->n];
        if (key.n == f->key_len && memcmp(key.p, f->key, key.n) == 0) {
            return f;
        }
    }
    return NULL;
}

static bool read_map(struct cur *c, const struct fields *t, struct gossip_msg *ret)
{
    struct gossip_msg m = { .node = { NULL, 0 } };
    uint32_t pairs = msgpack_map(c);
    size_t expected = 0;

    for (uint32_t i = 0; i < pairs && cur_ok(c); i++) {
        struct str key = msgpack_bytes(c);
        const struct field *f = cur_ok(c) ? find(t, expected, key) : NULL;
        if (f == NULL) {
            msgpack_skip(c);
        } else {
            read_field(c, f, &m);
            expected = (size_t)(f - t->v) + 1;
        }
    }
    *ret = m;
    return cur_ok(c);
}

bool gossip_msg_read(struct cur *c, enum gossip_type type, struct gossip_msg *ret)
{
    return (size_t)type < ARRAY_LEN(by_type) && by_type[type].n != 0 &&
           read_map(c, &by_type[type], ret);
}

bool gossip_record_read(struct cur *c, struct gossip_msg *ret)
{
    return read_map(c, &record, ret);
}

bool gossip_user_header_read(struct cur *c, uint32_t *ret_len)
{
    struct gossip_msg m;
    if (!read_map(c, &user, &m)) {
        return false;
    }
    *ret_len = m.user_len;
    return true;
}

/* --- writing --- */

static bool is_empty(const struct field *f, const struct gossip_msg *m)
{
    const void *at = (const char *)m + f->offset;

    switch ((enum field_type)f->type) {
    case F_U16:
        return *(const uint16_t *)at == 0;
    case F_STR:
        return ((const struct str *)at)->n == 0;
    case F_IP:
        return ((const struct gossip_ip *)at)->n == 0;
    case F_VSN:
        return m->vsn_len == 0;
    case F_U8:
    case F_U32:
    case F_BOOL:
        break;
    }
    return false;
}

static void write_field(struct buf *b, const struct field *f, const struct gossip_msg *m)
{
    const void *at = (const char *)m + f->offset;
    const struct gossip_ip *ip = at;

    msgpack_put_bytes(b, (struct str){ f->key, f->key_len });
    if (f->empty == NIL && is_empty(f, m)) {
        msgpack_put_nil(b);
        return;
    }
    switch ((enum field_type)f->type) {
    case F_U8:
        msgpack_put_uint(b, *(const uint8_t *)at);
        break;
    case F_U16:
        msgpack_put_uint(b, *(const uint16_t *)at);
        break;
    case F_U32:
        msgpack_put_uint(b, *(const uint32_t *)at);
        break;
    case F_BOOL:
        msgpack_put_bool(b, *(const bool *)at);
        break;
    case F_STR:
        msgpack_put_bytes(b, *(const struct str *)at);
        break;
    case F_IP:
        msgpack_put_bytes(b, (struct str){ (const char *)ip->b, ip->n });
        break;
    case F_VSN:
        msgpack_put_bytes(b, (struct str){ (const char *)m->vsn, m->vsn_len });
        break;
    }
}

static void write_map(struct buf *b, const struct fields *t, const struct gossip_msg *m)
{
    uint32_t pairs = 0;
    for (size_t i = 0; i < t->n; i++) {
        pairs += t->v[i].empty == OMIT && is_empty(&t->v[i], m) ? 0 : 1;
    }
    msgpack_put_map(b, pairs);
    for (size_t i = 0; i < t->n; i++) {
        if (t->v[i].empty != OMIT || !is_empty(&t->v[i], m)) {
            write_field(b, &t->v[i], m);
        }
    }
}

void gossip_msg_write(struct buf *b, enum gossip_type type, const struct gossip_msg *m)
{
    REQUIRE((size_t)type < ARRAY_LEN(by_type) && by_type[type].n != 0);
    (void)buf_add_u8(b, (uint8_t)type);
    write_map(b, &by_type[type], m);
}

void gossip_record_write(struct buf *b, const struct gossip_msg *m)
{
    write_map(b, &record, m);
}

void gossip_user_header_write(struct buf *b, uint32_t len)
{
    const struct gossip_msg m = { .user_len = len };
    (void)buf_add_u8(b, GOSSIP_USER);
    write_map(b, &user, &m);
}

/* --- compounds --- */

bool gossip_parts_init(struct gossip_parts *p, struct cur *c)
{
    unsigned n = cur_u8(c);
    struct str lens = cur_bytes(c, 2UL * n);

    *p = (struct gossip_parts){ .left = n };
    cur_init(&p->lens, lens.p, lens.n);
    cur_init(&p->bodies, c->p, cur_left(c));
    return cur_ok(c);
}

bool gossip_parts_next(struct gossip_parts *p, struct str *ret)
{
    if (p->left == 0) {
        return false;
    }
    *ret = cur_bytes(&p->bodies, cur_be16(&p->lens));
    if (!cur_ok(&p->lens) || !cur_ok(&p->bodies)) {
        return false;
    }
    p->left--;
    return true;
}
