/*
 * table - the shared routing table: every node's facts and load, and the cluster's documents, the
 * same on every node a few seconds after each write.
 *
 * Pure: an event in, effects out; no clock, disk, socket or chance of its own. uv_table.h runs it
 * on the loop and keeps its durable part on disk. Equal seeds and events give equal effects.
 *
 * Rows. A row is (type, owner, key) -> value. Values are bytes that the table does not look into.
 *
 *   node-owned     owner is the node that wrote it; nobody else can. It lives in memory and goes
 *                  when its node restarts (a new epoch), or when the member is reaped.
 *   cluster-owned  anybody writes it; the last writer wins by hybrid logical clock (48 bits of Unix
 *                  milliseconds, 16 of counter; ties by stream). Kept by every node on disk;
 * deleted by a tombstone that outlives the longest absence. owner is "". per origin cluster-owned,
 * but owner is the node that wrote it, and only that node writes it: one additive row per origin
 * (profiles). It outlives its origin.
 *
 * Reconciliation is Scuttlebutt (van Renesse, Dumitriu, Gough, Thomas: "Efficient Reconciliation
 * and Flow Control for Anti-Entropy Protocols", 2008): each writer numbers its writes; who knows a
 * writer up to version v has all of its rows that still stand up to v; so a difference is one
 * number per writer. A node has a stream for each kind of row, and a fresh one after losing its
 * disk. What was just written or learned is pushed to a few members at once; beside that every node
 * compares with a random one: a root hash, then hashes of 64 buckets of streams, then versions of
 * the streams in the buckets that differ, then the rows, the one most behind first. What changes
 * all the time (load, profiles) has hashes of its own, so that it never hides a document that went
 * missing.
 *
 * Safe against loss, repetition, reorder and truncation of messages: a message is checked as a
 * whole before any of it counts, and a stream only ever grows from what is known without a gap.
 */
#ifndef AGENT_TABLE_TABLE_H
#define AGENT_TABLE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/str.h"

/* Numbers on the wire and on disk: never reused. */
enum table_type {
    TABLE_CAPABILITY = 1, /* node-owned: what a node is */
    TABLE_LOAD = 2,       /* node-owned: free slots, queue, wait; changes all the time */
    TABLE_IMAGE = 3,      /* node-owned: images held */
    TABLE_JOB = 8,        /* cluster-owned: job documents */
    TABLE_TOKEN = 9,      /* cluster-owned */
    TABLE_SECRET = 10,    /* cluster-owned */
    TABLE_SCHEDULE = 11,  /* cluster-owned: last firing of a schedule */
    TABLE_PROFILE = 12,   /* per origin: learned cost; changes all the time */
    TABLE_PAUSE = 14,     /* cluster-owned: triggers that are held */
};

enum {
    TABLE_TYPES = 32,            /* type numbers are below this */
    TABLE_NAME_MAX = 128,        /* bytes of a node's name */
    TABLE_KEY_MAX = 255,         /* bytes of a key; may be empty */
    TABLE_DIRECT_MAX = 1300,     /* bytes of a message that goes unreliably */
    TABLE_MESSAGE_MAX = 1 << 20, /* bytes of a message at most; longer ones are refused */
    TABLE_PEERS_MAX = 4096,      /* members */
    TABLE_STREAMS_MAX = 65536,
};

enum table_ownership { TABLE_OF_NODE, TABLE_OF_CLUSTER, TABLE_PER_ORIGIN };

/* What holds for the rows of a type. Every node of a cluster must have the same. */
struct table_type_info {
    const char *name; /* "job" */
    enum table_ownership ownership;
    bool is_volatile;    /* changes all the time: reconciled after everything else */
    bool is_private;     /* values are never shown (GET /v1/table) */
    uint32_t value_max;  /* bytes of one value */
    uint32_t rows_bytes; /* keys + values: of one node (node-owned, per origin), of all of the
                            cluster (cluster-owned) */
    uint32_t
        interval_ms; /* a row is published at most so often: later values wait, the last one
                        counts. Grows with the cluster, so that the traffic does not. 0: at once */
};

/* NULL: no such type. */
const struct table_type_info *table_type_info(unsigned type);
/* By its name; 0: there is none. */
unsigned table_type_of(struct str name);

struct table_config {
    struct str name; /* this node's; copied */
    uint32_t node_id;
    uint64_t epoch;   /* boot id: greater than at every earlier start. Unix time in microseconds */
    uint64_t entropy; /* from the kernel: makes the ids of this node's streams unique */
    uint64_t seed;    /* of the choice of partners */
    uint64_t hash_k0, hash_k1; /* of the index, from the kernel */
    bool persist;              /* PERSIST effects are answered; false: there is no disk */
    uint64_t tombstone_ms;     /* 0: 7 days. Longer than any node is away */
    uint64_t skew_max_ms;      /* 0: 60,000. Writes dated further ahead are not taken yet */
    uint64_t absent_ms;        /* how long this node was away; UINT64_MAX: its disk is new */
    uint64_t bytes_per_s;      /* 0: 20,000. What this node sends when little has changed */
    uint64_t bulk_bytes_per_s; /* 0: 4 MiB. What it sends to members that are far behind */
    uint64_t memory_max;       /* 0: 256 MiB. Rows beyond it are refused and counted */
};

struct table;

/* -ENOMEM, -EINVAL (name empty or too long). */
int table_new(const struct table_config *cfg, struct table **ret, struct err *e);
struct table *table_free(struct table *t); /* NULL is fine; returns NULL */

/* --- rows --- */

/* A row as readers see it. Slices are valid until the next step, write or load. */
struct table_row_view {
    unsigned type;
    struct str owner; /* "" for cluster-owned ones */
    struct str key;
    struct str value;
    struct str writer;  /* the node that wrote it */
    int64_t written_ms; /* Unix time at the writer */
    uint64_t clock;     /* the hybrid logical clock: greater is newer for one key */
    uint64_t version;   /* in its writer's stream */
};

/* owner: "" for cluster-owned rows. False: no such row (or it was deleted). ret may be NULL. */
bool table_get(const struct table *t, unsigned type, struct str owner, struct str key,
               struct table_row_view *ret);

/* Walks the rows of a type, in no particular order. No step, write or load meanwhile.
 *   struct table_walk w = { .type = TABLE_LOAD };
 *   while (table_next(t, &w, &row)) … */
struct table_walk {
    unsigned type;
    struct str owner; /* only this owner's; p NULL: everybody's */
    size_t at;        /* 0 at the start */
};
bool table_next(const struct table *t, struct table_walk *w, struct table_row_view *ret);
size_t table_count(const struct table *t, unsigned type);

/* --- effects --- */

enum table_effect_type {
    TABLE_FX_SEND,    /* bytes to peer; reliable: over a connection, else one datagram */
    TABLE_FX_PERSIST, /* record: write or remove it on disk, in the order of the effects */
    TABLE_FX_CHANGED, /* row appeared, changed or went: row or old may be absent */
};

/* What is on disk: streams and rows. A disk that holds any prefix of the sequence of PERSIST
 * effects is a valid one. */
enum table_record_op { TABLE_STREAM_PUT, TABLE_STREAM_DROP, TABLE_ROW_PUT, TABLE_ROW_DROP };

struct table_record {
    enum table_record_op op;
    uint64_t stream;   /* both: its id */
    uint64_t version;  /* STREAM_PUT: known up to here; ROW_PUT: of the row */
    unsigned kind;     /* STREAM_PUT */
    bool own;          /* STREAM_PUT: this node writes into it */
    struct str writer; /* STREAM_PUT: the node's name */
    unsigned type;     /* rows; ROW_DROP: type, owner and key say which */
    struct str owner;
    struct str key;
    struct str value;
    uint64_t clock;
    bool deleted; /* a tombstone */
};

struct table_effect {
    enum table_effect_type type;
    struct str peer; /* SEND */
    struct str bytes;
    bool reliable;
    struct table_record record; /* PERSIST */
    bool has_row, has_old;      /* CHANGED */
    struct table_row_view row;  /* without `row`: gone, old says what */
    struct table_row_view old;
};

/* v and all that it points at stay valid until the next step, write or load. */
struct table_effects {
    const struct table_effect *v;
    size_t n;
    uint64_t persist_seq; /* of the last PERSIST so far: what TABLE_EV_PERSISTED answers */
};

/* --- writing --- */

/* All of these fill *fx as table_step() does. now_ms: monotonic; wall_ms: Unix time. A value equal
 * to the one that stands writes nothing. e says which limit was reached:
 *   -EINVAL   no such type, wrong ownership for the call, key longer than TABLE_KEY_MAX
 *   -E2BIG    the value is longer than the type's value_max
 *   -EDQUOT   the type's rows_bytes would be exceeded
 *   -ENOMEM   also: memory_max
 * A write that a failed call began changed nothing. */

/* This node's own row: of a node-owned or per-origin type. */
int table_put_node(struct table *t, uint64_t now_ms, int64_t wall_ms, unsigned type, struct str key,
                   struct str value, struct table_effects *fx, struct err *e);
/* A cluster-owned row. It is told to nobody before it is durable (TABLE_EV_PERSISTED). */
int table_put(struct table *t, uint64_t now_ms, int64_t wall_ms, unsigned type, struct str key,
              struct str value, struct table_effects *fx, struct err *e);
/* A cluster-owned row, or one of this node's own. -ENOENT: there is none. */
int table_delete(struct table *t, uint64_t now_ms, int64_t wall_ms, unsigned type, struct str key,
                 struct table_effects *fx, struct err *e);
/* Publishes the values that wait for their interval (before a clean end). */
int table_flush(struct table *t, uint64_t now_ms, int64_t wall_ms, struct table_effects *fx);

/* --- loading --- */

/* What the disk holds, before the first step and the first write: all streams, then all rows.
 * -EBADMSG: the record makes no sense (it is left out; the rest is fine). -ENOMEM. */
int table_load(struct table *t, int64_t wall_ms, const struct table_record *record);

/* --- steps --- */

enum table_event_type {
    TABLE_EV_TICK,
    TABLE_EV_MEMBER,    /* member */
    TABLE_EV_MESSAGE,   /* from, bytes */
    TABLE_EV_PERSISTED, /* persist_seq: all up to it are durable */
};

enum table_member { TABLE_MEMBER_UP, TABLE_MEMBER_DOWN, TABLE_MEMBER_REAPED };

struct table_event {
    enum table_event_type type;
    uint64_t now_ms; /* monotonic */
    int64_t wall_ms; /* Unix time */
    struct str peer; /* MEMBER, MESSAGE: its name */
    enum table_member member;
    bool speaks; /* MEMBER: it carries our magic, so it is sent to and listened to */
    struct str bytes;
    uint64_t persist_seq;
};

void table_step(struct table *t, const struct table_event *ev, struct table_effects *fx);
/* When to send TICK: a time of now_ms's clock. */
uint64_t table_deadline_ms(const struct table *t);

/* --- looking in --- */

struct table_counters {
    uint64_t sent_messages, sent_bytes;      /* all */
    uint64_t sent_reliable, sent_bulk_bytes; /* of these: over connections; to members far behind */
    uint64_t received_messages, received_bytes;
    uint64_t rows_received; /* rows that were news */
    uint64_t rows_known;    /* rows that were not */
    uint64_t refused_malformed;
    uint64_t refused_stranger; /* from or about a node that is no member */
    uint64_t refused_skew;     /* dated too far ahead */
    uint64_t refused_budget;   /* beyond a type's budget, or memory_max */
    uint64_t refused_gap;      /* rows after a gap: they come again by comparing */
    uint64_t compares, compares_equal;
    uint64_t repairs; /* streams fetched anew because equal versions had different rows */
    uint64_t
        streams_begun; /* own streams: the first ones, and after an old disk or a clock set back */
    uint64_t expired;  /* tombstones that went */
};
void table_counters(const struct table *t, struct table_counters *ret);

struct table_sizes {
    size_t rows, tombstones, streams, peers;
    uint64_t bytes; /* of memory, rows with their overhead */
    uint64_t root;  /* the hash of all that is known: equal on two nodes that know the same */
    bool settled;   /* this node knows what was deleted: it was not away longer than tombstone_ms,
                       or has compared since with a member that was not */
    uint64_t in_step_ms; /* since when no comparison found a difference, or 0 (now_ms's clock) */
};
void table_sizes(const struct table *t, struct table_sizes *ret);

#endif
