/*
 * gossip_layers - what is around a message: label, encryption, CRC, compression; on datagrams and
 * on streams. Pure. Internal to gossip/, its tests and whoever drives a core with real bytes.
 *
 *   datagram  [label] [AES-GCM] [CRC] [compressed] message
 *   stream    [label, from the dialler only] [encrypted, length] [compressed] message
 */
#ifndef AGENT_GOSSIP_GOSSIP_LAYERS_H
#define AGENT_GOSSIP_GOSSIP_LAYERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

enum { GOSSIP_KEYS_MAX = 16, GOSSIP_LABEL_MAX = 255, GOSSIP_NONCE_PREFIX = 8 };

/* --- keys --- */

struct gossip_keys;

/* The text of a key file: base64 of 16, 24 or 32 bytes per line; empty lines and those that begin
 * with '#' are skipped. The first one encrypts, all are tried to decrypt. -EINVAL (names the line),
 * -ENOMEM. */
int gossip_keys_parse(struct str text, struct gossip_keys **ret, struct err *e);
struct gossip_keys *gossip_keys_free(struct gossip_keys *k); /* NULL is fine; returns NULL */
size_t gossip_keys_len(const struct gossip_keys *k);

/* --- the layers of one node --- */

/* Why bytes were not taken. */
enum gossip_peel {
    GOSSIP_PEEL_OK,
    GOSSIP_PEEL_MORE,      /* a stream: not whole yet */
    GOSSIP_PEEL_LABEL,     /* another label, or none, or one where none is expected */
    GOSSIP_PEEL_CRYPT,     /* no key opens it, or it is not encrypted */
    GOSSIP_PEEL_CRC,       /* check sum */
    GOSSIP_PEEL_LZW,       /* compression broken, nested, or too much comes out */
    GOSSIP_PEEL_MALFORMED, /* lengths, types */
    GOSSIP_PEEL_MEMORY,
    GOSSIP_PEELS,
};
const char *gossip_peel_name(enum gossip_peel p);

struct gossip_layers {
    char label[GOSSIP_LABEL_MAX];
    uint8_t label_len;
    struct gossip_keys *keys; /* NULL: plain */
    uint8_t nonce[GOSSIP_NONCE_PREFIX];
    uint32_t nonce_at;
    struct buf opened;   /* decrypted */
    struct buf unpacked; /* decompressed */
};

/* nonce: random bytes of this start of the node; a counter follows them, so that a nonce comes
 * twice only with the birthday chance of 64 random bits. Takes keys over. */
void gossip_layers_init(struct gossip_layers *l, struct str label, struct gossip_keys *keys,
                        const uint8_t nonce[GOSSIP_NONCE_PREFIX]);
void gossip_layers_release(struct gossip_layers *l);
/* Takes the new ones over, frees the old ones. */
void gossip_layers_set_keys(struct gossip_layers *l, struct gossip_keys *keys);
/* How many more messages can be encrypted before gossip_layers_init() must give new random bytes.
 */
uint32_t gossip_layers_nonces_left(const struct gossip_layers *l);
void gossip_layers_set_nonce(struct gossip_layers *l, const uint8_t nonce[GOSSIP_NONCE_PREFIX]);
/* Bytes that they add to a datagram. */
uint32_t gossip_layers_overhead(const struct gossip_layers *l);

/* Appends. -ENOMEM, -EOVERFLOW (no nonces left), or the buf's error. */
int gossip_wrap_packet(struct gossip_layers *l, struct str msg, struct buf *out);
/* *ret points into `in` or into *l, until the next call. */
enum gossip_peel gossip_peel_packet(struct gossip_layers *l, struct str in, struct str *ret);

/* dialler: this side opened the stream, its label goes first. Compresses when that helps. */
int gossip_wrap_stream(struct gossip_layers *l, struct str msg, bool dialler, struct buf *out);

/* One direction of a stream, as it comes in: zero it at first. */
struct gossip_reader {
    bool dialler;  /* this side opened it: answers carry no label */
    bool labelled; /* the label was read */
    bool counted;  /* the head of a view was read */
    size_t start;  /* of the message, behind the label */
    size_t at;     /* records before this were seen whole */
    uint32_t left; /* records to come */
    uint32_t user; /* bytes behind them */
};

/* in: all bytes so far, from the first on. OK: *ret is the whole message, as from
 * gossip_peel_packet(). MORE: come again with more. Else the stream is not worth reading on. */
enum gossip_peel gossip_peel_stream(struct gossip_layers *l, struct gossip_reader *r, struct str in,
                                    struct str *ret);

#endif
