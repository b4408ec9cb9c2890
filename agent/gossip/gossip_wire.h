/*
 * gossip_wire - the messages of memberlist, as structs and as bytes; and LZW. Internal to gossip/
 * and its tests.
 *
 * Every message is one byte of type and a msgpack map whose keys are known by name. One flat struct
 * holds the fields of all of them. Reading borrows: slices point into the bytes that were read.
 */
#ifndef AGENT_GOSSIP_GOSSIP_WIRE_H
#define AGENT_GOSSIP_GOSSIP_WIRE_H

#include "agent/gossip/gossip.h"
#include "common/buf.h"
#include "common/cur.h"

enum gossip_type {
    GOSSIP_PING = 0,
    GOSSIP_INDIRECT = 1,
    GOSSIP_ACK = 2,
    GOSSIP_MSG_SUSPECT = 3,
    GOSSIP_MSG_ALIVE = 4,
    GOSSIP_MSG_DEAD = 5,
    GOSSIP_PULL = 6,
    GOSSIP_COMPOUND = 7,
    GOSSIP_USER = 8,
    GOSSIP_COMPRESSED = 9,
    GOSSIP_ENCRYPTED = 10,
    GOSSIP_NACK = 11,
    GOSSIP_CRC = 12,
    GOSSIP_ERROR = 13,
    GOSSIP_LABEL = 244,
};

enum {
    GOSSIP_PARTS_MAX = 127,        /* of a compound: the oldest peers count no further */
    GOSSIP_UNPACKED_MAX = 65536,   /* a compressed datagram, unpacked */
    GOSSIP_NODES_MAX = 1 << 20,    /* records of one view */
    GOSSIP_RECORD_MAX = 64 * 1024, /* bytes of one record of a view */
};

struct gossip_ip {
    uint8_t b[16];
    uint8_t n; /* 0, 4 or 16 */
};

struct gossip_msg {
    struct str node;     /* Node, Name */
    struct str from;     /* From */
    struct str src_node; /* SourceNode */
    struct str payload;  /* Payload */
    struct str meta;
    struct str error;
    struct str buf; /* of a compressed one */
    struct gossip_ip addr;
    struct gossip_ip target;
    struct gossip_ip src;
    uint32_t seq;
    uint32_t incarnation;
    uint32_t nodes;
    uint32_t user_len; /* UserStateLen, UserMsgLen */
    uint16_t port;
    uint16_t src_port;
    uint8_t state;
    uint8_t algo;
    uint8_t vsn[6];
    uint8_t vsn_len; /* bytes of vsn that came: 0 to 6 */
    bool nack;
    bool join;
};

/* Reads the map of a message of that type (its type byte is gone). False: malformed. Types that
 * have no map (compound, user by packet, …) are false too. What follows the map is left in c. */
bool gossip_msg_read(struct cur *c, enum gossip_type type, struct gossip_msg *ret);
/* One record of a view. */
bool gossip_record_read(struct cur *c, struct gossip_msg *ret);

/* Type byte and map. Errors are the buf's. */
void gossip_msg_write(struct buf *b, enum gossip_type type, const struct gossip_msg *m);
void gossip_record_write(struct buf *b, const struct gossip_msg *m);
/* The message that says how many bytes of user data follow on a stream. */
void gossip_user_header_write(struct buf *b, uint32_t len);
bool gossip_user_header_read(struct cur *c, uint32_t *ret_len);

/* --- compounds --- */

/* Walks the complete parts: c is behind the type byte at first. */
struct gossip_parts {
    struct cur lens;
    struct cur bodies;
    unsigned left;
};
bool gossip_parts_init(struct gossip_parts *p, struct cur *c); /* false: not even the lengths */
/* False: at the end, or what is left is cut short (p->left is not 0 then). */
bool gossip_parts_next(struct gossip_parts *p, struct str *ret);

/* --- LZW as in GIF: LSB first, 8-bit literals, codes of 9 to 12 bits --- */

/* Appends. -EBADMSG: not LZW, or no end mark; -EFBIG: more than max bytes; or the buf's error. */
int gossip_lzw_unpack(struct str in, size_t max, struct buf *out);
/* Appends. -ENOMEM or the buf's error. */
int gossip_lzw_pack(struct str in, struct buf *out);

/* zlib's CRC-32. */
uint32_t gossip_crc32(const void *p, size_t n);

#endif
