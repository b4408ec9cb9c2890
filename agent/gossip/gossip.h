/*
 * gossip - membership: who is in the cluster, who lives. Speaks HashiCorp memberlist's protocol to
 * the byte, so that memberlist and Serf nodes can be members too.
 *
 * Pure: an event in, effects out; time is a parameter. The protocol is SWIM (Das, Gupta, Motivala
 * 2002) with Lifeguard (Dadgar, Phillips, Currey 2018). What the wire leaves to each node is our
 * own: pulls after a join until the view is stable, a hash of the view in every ack between our own
 * nodes, a retransmit limit without a cliff, reconnecting to members that were lost, faster
 * verdicts on members whose host refuses or swallows connections, and none while this node itself
 * lags.
 *
 * The bytes here are single messages or compounds and whole stream messages; labels, encryption,
 * CRC and compression are peeled off and put on around them (gossip_layers.h).
 *
 * One object is one node. Its events come one after another, with now_ms never going back.
 * Equal configuration and events give equal effects, with any compiler.
 */
#ifndef AGENT_GOSSIP_GOSSIP_H
#define AGENT_GOSSIP_GOSSIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

enum {
    GOSSIP_NAME_MAX = 128,             /* bytes of a name; longer ones are refused */
    GOSSIP_META_MAX = 512,             /* bytes of metadata that are taken from others */
    GOSSIP_META_OWN_MAX = 64,          /* bytes of our own */
    GOSSIP_PACKET_MAX = 1400,          /* bytes of a datagram with all its layers */
    GOSSIP_USER_PACKET_MAX = 1100,     /* a payload up to this can go by UDP, whatever the names */
    GOSSIP_USER_MAX = 4 * 1024 * 1024, /* a payload by stream */
    GOSSIP_STREAM_MAX = 20 * 1024 * 1024, /* a stream's message, unpacked */
    GOSSIP_MEMBERS_MAX = 16384,           /* default of members_max */
    GOSSIP_REMEMBER_MAX = 1024,           /* members that are kept in mind after they were lost */
    GOSSIP_STREAMS_MAX = 128,             /* exchanges at a time that others began */
};

/* As on the wire. */
enum gossip_state { GOSSIP_ALIVE, GOSSIP_SUSPECT, GOSSIP_DEAD, GOSSIP_LEFT };

const char *gossip_state_name(enum gossip_state s); /* "alive", … */

/* An address as it came: 4 or 16 bytes (IPv4 also as ::ffff:a.b.c.d), never canonicalised, since
 * memberlist compares the bytes. */
struct gossip_addr {
    uint8_t ip[16];
    uint8_t len; /* 4 or 16; 0: none */
    uint16_t port;
};

/* The same host and port, whichever way IPv4 is written. */
bool gossip_addr_same(const struct gossip_addr *a, const struct gossip_addr *b);
enum { GOSSIP_ADDR_TEXT_CAP = 64 };
/* "10.0.0.1:7946", "[fd00::1]:7946", "-" for none. Returns dst. */
const char *gossip_addr_format(const struct gossip_addr *a, char dst[GOSSIP_ADDR_TEXT_CAP]);
/* The same back; literal addresses only. -EINVAL. */
int gossip_addr_parse(struct str s, struct gossip_addr *ret);

/* --- metadata of our own nodes --- */

/* Meta begins with two bytes of magic; then tag, length, value. Unknown tags are skipped. */
struct gossip_meta {
    uint16_t features;   /* GOSSIP_FEATURE_* */
    uint16_t http_port;  /* 0: none */
    uint8_t http_ip[16]; /* only when it is not the gossip address */
    uint8_t http_ip_len; /* 0, 4 or 16 */
    uint64_t class_hash; /* node class; 0: not known */
    uint64_t caps_hash;  /* capability record; 0: not known */
    uint64_t boot;       /* this start of the node: Unix ms << 20 | 20 random bits */
};

enum {
    GOSSIP_FEATURE_TLS = 1 << 0,      /* the HTTP port speaks TLS */
    GOSSIP_FEATURE_DRAINING = 1 << 1, /* takes no new runs */
};

/* Sets *ret_len (<= GOSSIP_META_OWN_MAX). */
void gossip_meta_write(const struct gossip_meta *m, uint8_t dst[GOSSIP_META_OWN_MAX],
                       size_t *ret_len);
/* False: not one of ours (*ret is then zeroed). */
bool gossip_meta_read(struct str meta, struct gossip_meta *ret);

/* --- configuration --- */

enum gossip_profile { GOSSIP_LAN, GOSSIP_WAN, GOSSIP_LOCAL };

struct gossip_params {
    uint32_t probe_interval_ms;
    uint32_t probe_timeout_ms; /* the longest wait for a direct ack */
    uint32_t probe_floor_ms;   /* the shortest, when round trips are short */
    uint32_t indirect;         /* helpers per probe */
    uint32_t gossip_interval_ms;
    uint32_t gossip_nodes;
    uint32_t dead_ms; /* a dead or left member is reaped after this */
    uint32_t pull_interval_ms;
    uint32_t suspicion_mult;
    uint32_t suspicion_max_mult;
    uint32_t suspicion_fast_ms; /* least suspicion with three accusers and hard evidence */
    uint32_t awareness_max;
    uint32_t stream_timeout_ms;
    uint32_t
        reconnect_ms;     /* between two tries at lost members, times log10 of the cluster's size */
    uint32_t remember_ms; /* lost members are forgotten after this */
};

void gossip_params_for(enum gossip_profile profile, struct gossip_params *ret);

struct gossip_pool;

/* Names and metadata, each kept once. A simulation gives one pool to all its nodes. k0, k1: hash
 * key. NULL: no memory. */
struct gossip_pool *gossip_pool_new(uint64_t k0, uint64_t k1);
/* After the last core that uses it. NULL is fine; returns NULL. */
struct gossip_pool *gossip_pool_free(struct gossip_pool *p);

struct gossip_config {
    const char *name;        /* copied; 1 to GOSSIP_NAME_MAX bytes */
    struct gossip_addr addr; /* that others reach us by */
    uint8_t vsn[6];
    struct str meta; /* copied; <= GOSSIP_META_OWN_MAX */
    struct gossip_params params;
    uint32_t members_max; /* 0: GOSSIP_MEMBERS_MAX */
    uint32_t overhead;    /* bytes that the layers add to a packet */
    uint64_t boot;        /* as in the metadata: our user messages carry it */
    uint64_t seed;        /* of all choices */
    uint64_t now_ms;
    int64_t now_s; /* wall clock, for what is remembered */
    struct gossip_pool *pool;
};

/* --- events --- */

enum gossip_event_type {
    GOSSIP_EV_TICK,     /* gossip_deadline_ms() has come (early or late does no harm) */
    GOSSIP_EV_PACKET,   /* from, bytes: a datagram without its layers */
    GOSSIP_EV_STREAM,   /* stream, from, bytes: a whole message on a stream that another opened.
                           Answered by ANSWER or CLOSE, in this step */
    GOSSIP_EV_REPLY,    /* stream, bytes: the whole answer on a stream of ours; it is closed */
    GOSSIP_EV_FAILED,   /* stream, failure: no answer comes on it */
    GOSSIP_EV_JOIN,     /* from: exchange views with whoever is there */
    GOSSIP_EV_META,     /* bytes: our new metadata */
    GOSSIP_EV_SEND,     /* name, channel, bytes, reliable: to that member's application */
    GOSSIP_EV_LEAVE,    /* tell all; LEFT follows, soon */
    GOSSIP_EV_REMEMBER, /* bytes: what REMEMBER said before the last restart */
};

/* What became of a stream. The kinds are evidence: a hung process still has a kernel that accepts
 * for it, a dead one has a kernel that refuses, a dead host has none. */
enum gossip_failure {
    GOSSIP_FAIL_REFUSED,     /* the host answered: nobody listens */
    GOSSIP_FAIL_UNREACHABLE, /* no answer to the connection request, or no route */
    GOSSIP_FAIL_SILENT,      /* connected; no answer within the time, or a broken one */
    GOSSIP_FAIL_LOCAL,       /* not tried: too many, no memory, or given up by us */
};

struct gossip_event {
    enum gossip_event_type type;
    uint64_t now_ms; /* monotonic */
    int64_t now_s;   /* wall clock, Unix; for what is remembered only */
    uint32_t stream;
    struct gossip_addr from;
    struct str bytes;
    struct str name;
    uint8_t channel;
    bool reliable;
    enum gossip_failure failure;
};

/* --- effects --- */

enum gossip_effect_type {
    GOSSIP_FX_PACKET,  /* to, bytes */
    GOSSIP_FX_OPEN,    /* stream, to, bytes, reply, deadline_ms: connect, send; REPLY (when `reply`)
                          or FAILED comes back. Without `reply` only FAILED may */
    GOSSIP_FX_ANSWER,  /* stream, bytes: send on a stream that another opened, then close it */
    GOSSIP_FX_CLOSE,   /* stream: close it without a word; no event comes for it any more */
    GOSSIP_FX_MEMBER,  /* change, member (and its former state) */
    GOSSIP_FX_MESSAGE, /* member: the sender; channel, bytes */
    GOSSIP_FX_REMEMBER, /* bytes: keep them for the next start; replaces what was kept */
    GOSSIP_FX_LEFT,     /* our leave was told to enough others */
    GOSSIP_FX_NOTE, /* note, member.name, to: something a person should see, at a bounded rate */
};

enum gossip_change {
    GOSSIP_JOINED,  /* new, or back from dead or left */
    GOSSIP_UPDATED, /* address or metadata changed */
    GOSSIP_SUSPECTED,
    GOSSIP_CLEARED, /* alive after all */
    GOSSIP_DIED,
    GOSSIP_WENT,   /* left of its own will */
    GOSSIP_REAPED, /* no longer in the list */
};

const char *gossip_change_name(enum gossip_change c);

enum gossip_note {
    GOSSIP_NOTE_CONFLICT,      /* two nodes use member.name; `to` is the other's address */
    GOSSIP_NOTE_MERGE_REFUSED, /* a view was refused: protocol versions */
    GOSSIP_NOTE_FULL,          /* members_max reached */
    GOSSIP_NOTE_REFUTED,       /* others suspected us; we said no */
    GOSSIP_NOTE_UDP_DEAF,      /* member answers TCP but not UDP */
    GOSSIP_NOTE_INCARNATION,   /* an impossible incarnation was ignored */
    GOSSIP_NOTE_PROTOCOL,      /* the peer answered with an error */
};

/* One member as others may see it. Valid until the next step. */
struct gossip_view {
    struct str name;
    struct gossip_addr addr;
    enum gossip_state state;
    uint32_t incarnation;
    uint32_t rtt_us; /* 0: not measured. Smoothed, of direct probes */
    struct str meta;
    uint8_t vsn[6];
    bool ours; /* its metadata carries our magic */
    bool self;
    uint64_t changed_ms; /* when it took its state */
};

struct gossip_effect {
    enum gossip_effect_type type;
    struct gossip_addr to;
    uint32_t stream;
    bool reply;
    uint64_t deadline_ms;
    struct str bytes;
    struct gossip_view member;
    enum gossip_state was; /* MEMBER: the state before */
    enum gossip_change change;
    enum gossip_note note;
    uint8_t channel;
};

/* Valid until the next step of the same object. */
struct gossip_effects {
    const struct gossip_effect *v;
    size_t len;
};

/* --- the core --- */

struct gossip;

/* 0, -EINVAL (name, metadata), -ENOMEM. */
int gossip_new(const struct gossip_config *c, struct gossip **ret, struct err *e);
struct gossip *gossip_free(struct gossip *g); /* NULL is fine; returns NULL */
/* 0; or -ENOMEM: the event was carried out in part, as if what is missing had been lost on the
 * network. For SEND also -ENOENT (no such live member, or not one of ours), -EMSGSIZE. Bytes of
 * others never fail a step: they are counted and dropped. */
int gossip_step(struct gossip *g, const struct gossip_event *ev, struct gossip_effects *fx);
/* When TICK is wanted next. */
uint64_t gossip_deadline_ms(const struct gossip *g);

/* Walks the members, ourselves among them, in no particular order: start with *cursor = 0; false at
 * the end. No step in between. */
bool gossip_next(const struct gossip *g, uint32_t *cursor, struct gossip_view *ret);
bool gossip_find(const struct gossip *g, struct str name, struct gossip_view *ret);
uint32_t gossip_count(const struct gossip *g, enum gossip_state s);
/* Health of this node, 0 (good) to awareness_max - 1: how much its own probes fail. */
uint32_t gossip_health(const struct gossip *g);
/* Equal on two nodes whose live members and their incarnations are equal. */
uint64_t gossip_view_hash(const struct gossip *g);
/* Broadcasts that wait to be sent on. */
size_t gossip_queued(const struct gossip *g);
/* The protocol's overhead may change with the keys. */
void gossip_set_overhead(struct gossip *g, uint32_t bytes);

enum gossip_counter {
    GOSSIP_C_PACKETS_IN,
    GOSSIP_C_PACKETS_OUT,
    GOSSIP_C_BYTES_IN,
    GOSSIP_C_BYTES_OUT,
    GOSSIP_C_STREAMS_IN,
    GOSSIP_C_STREAMS_OUT,
    GOSSIP_C_PROBES,
    GOSSIP_C_PROBES_FAILED,
    GOSSIP_C_INDIRECT,
    GOSSIP_C_SUSPICIONS, /* raised by us */
    GOSSIP_C_REFUTED,
    GOSSIP_C_DIED, /* verdicts of ours */
    GOSSIP_C_PULLS,
    GOSSIP_C_PULLS_FAILED,
    GOSSIP_C_VIEW_DIFFERS,
    GOSSIP_C_RECONNECTS,
    GOSSIP_C_STALLS, /* times this node lagged so much that it passed no verdict */
    GOSSIP_C_CONFLICTS,
    GOSSIP_C_USER_IN,
    GOSSIP_C_USER_OUT,
    GOSSIP_C_DROP_MALFORMED,
    GOSSIP_C_DROP_UNKNOWN, /* message types, names */
    GOSSIP_C_DROP_STALE,   /* repeated or old user messages */
    GOSSIP_C_DROP_INCARNATION,
    GOSSIP_C_DROP_FULL,    /* members_max, queues */
    GOSSIP_C_DROP_VERSION, /* views refused for protocol versions */
    GOSSIP_C_DROP_MEMORY,
    GOSSIP_COUNTERS,
};

uint64_t gossip_counter(const struct gossip *g, enum gossip_counter c);
const char *gossip_counter_name(enum gossip_counter c); /* "packets_received_total" */
const char *gossip_counter_help(enum gossip_counter c);

#endif
