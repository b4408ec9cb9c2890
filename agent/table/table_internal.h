/*
 * table_internal - what the core's files share.
 *
 *   table_types.c   the types' rules and budgets
 *   table_rows.c    rows: memory, the index, the arrays by type
 *   table_stream.c  streams: versions, what is told of them, hashes; merging one row
 *   table_wire.c    messages as bytes: read and written, without deciding anything
 *   table_sync.c    comparing with a member, answering
 *   table_push.c    telling news; partners; what may be sent now
 *   table_apply.c   taking rows in
 *   table_write.c   this node's own writes
 *   table_life.c    restarts, old disks, wrong clocks, absence; what expires; loading
 *   table.c         making, stepping, reading, effects
 */
#ifndef AGENT_TABLE_TABLE_INTERNAL_H
#define AGENT_TABLE_TABLE_INTERNAL_H

#include "agent/table/table.h"
#include "common/buf.h"
#include "common/cur.h"
#include "common/heap.h"
#include "common/insist.h"
#include "common/list.h"
#include "common/map.h"
#include "common/rng.h"

enum {
    /* A stream's kind: two bits, so four streams per node. */
    TABLE_KIND_VOLATILE = 1,
    TABLE_KIND_CLUSTER = 2,
    TABLE_KINDS = 4,
    TABLE_PLANES = 2, /* what is compared apart: kind & TABLE_KIND_VOLATILE */
    TABLE_BUCKETS = 64,
    TABLE_FANOUT = 3,            /* members per push */
    TABLE_PUSH_MS = 200,         /* between pushes */
    TABLE_SYNC_MS = 500,         /* between comparisons while something differs */
    TABLE_SYNC_IDLE_MS = 5000,   /* and when nothing did for long */
    TABLE_ACTIVE_MS = 6000,      /* how long a difference keeps us comparing often */
    TABLE_ASK_MS = 1000,         /* a stream is asked for once in this time */
    TABLE_RECENT = 4,            /* streams that changed last are named with each comparison */
    TABLE_FRESH_MS = 30 * 1000,  /* a row written so recently is news */
    TABLE_SWEEP_MS = 5 * 1000,   /* between looks for what has expired */
    TABLE_EMPTY_MS = 600 * 1000, /* a stream without rows is remembered so long */
    TABLE_REFUSED_MS = 5 * 1000,
    TABLE_REFUSED_LEN = 1024,       /* a power of two */
    TABLE_ODD_TIMES = 3,            /* equal versions with different rows, so often and … */
    TABLE_ODD_MS = 10 * 1000,       /* … for so long: fetched anew */
    TABLE_REPLY_BYTES = 256 * 1024, /* of one message to a member that is far behind */
    TABLE_DIGEST_BYTES = 64 * 1024,
    TABLE_ROW_OVERHEAD = 16, /* the allocator's, of one row */
};

enum { TABLE_ROW_DELETED = 1, TABLE_ROW_OWNED = 2 };

struct table_stream;

struct table_row {
    struct list link; /* table_stream.rows */
    struct table_stream *stream;
    uint64_t version;
    uint64_t clock;
    uint32_t hash;
    uint32_t at; /* in the array of its type */
    uint32_t value_len;
    uint8_t key_len;
    uint8_t type;
    uint8_t flags;
    char bytes[]; /* key, then value */
};
_Static_assert(sizeof(struct table_row) <= 64, "200,000 of them fit");

struct table_stream {
    uint64_t id;
    uint64_t version;      /* known without a gap up to here; own: the last one written */
    uint64_t tell;         /* what others are told: own: the durable part; else version */
    uint64_t boot_version; /* own: where this life began */
    uint64_t epoch;        /* of node-owned ones: the owner's */
    uint64_t content;      /* of its rows, tombstones too: the sum of their hashes */
    uint64_t hashed;       /* what this stream put into root and bucket; 0: nothing */
    struct list rows;      /* ascending versions, tombstones too */
    size_t rows_len;
    uint64_t bytes; /* keys and values */
    uint64_t asked_ms, changed_ms, odd_ms;
    struct list bucket; /* table_plane.buckets */
    struct list recent; /* table_plane.recent: the last one changed first */
    struct list hot;    /* table_plane.hot while there is news to tell */
    uint64_t hot_base;  /* rows above this are news */
    unsigned hot_left;  /* members still to be told */
    uint8_t odd;        /* times in a row */
    uint8_t kind;
    bool own, repair, doubtful;
    uint8_t name_len;
    char name[];
};

struct table_plane {
    uint64_t root;
    uint64_t hashes[TABLE_BUCKETS];
    struct list buckets[TABLE_BUCKETS];
    struct list hot;
    struct list recent;
    struct str busy_with; /* the member that we compare with */
    char busy_name[TABLE_NAME_MAX];
    uint64_t busy_ms; /* until then */
};

struct table_peer {
    struct table_stream *streams[2]; /* node-owned ones, by TABLE_KIND_VOLATILE */
    size_t up_at;                    /* in table.up; SIZE_MAX: not there */
    uint8_t name_len;
    char name[];
};

struct table_rows {
    struct table_row **v;
    size_t n, cap;
    size_t deleted;
    uint64_t bytes; /* keys and values of all */
    uint64_t own_bytes;
};

/* A value that waits for its interval, or the wait of one that was just published. */
struct table_staged {
    struct heap_node node; /* key: when it may be published */
    uint8_t type;
    bool waits;
    uint8_t key_len; /* the map's key: type, key */
    char *value;
    size_t value_len;
    char name[]; /* type, key */
};

struct table_bucket { /* of tokens: bytes that may be sent */
    uint64_t per_s;
    int64_t most;
    int64_t left; /* below 0: a debt */
    uint64_t at_ms;
    uint64_t rest; /* thousandths of a byte */
};

struct table_durable { /* own versions that wait for the disk */
    uint64_t seq;
    uint64_t stream;
    uint64_t version;
};

struct table {
    struct table_config cfg;
    char name[TABLE_NAME_MAX];
    uint64_t epoch;
    uint64_t clock;
    uint64_t streams_made;
    uint64_t now_ms;
    int64_t wall_ms;
    struct rng rng;

    struct table_row **index;
    size_t index_cap, index_len;
    struct table_rows types[TABLE_TYPES];
    uint64_t bytes;

    struct map streams; /* by id */
    struct table_stream *own[TABLE_KINDS];
    struct table_plane planes[TABLE_PLANES];
    struct list doubtful; /* table_stream.bucket: loaded, but perhaps deleted since */

    struct map peers;
    struct table_peer **up; /* those to talk to */
    size_t up_len, up_cap;
    size_t up_next;

    struct heap staged_heap;
    struct map staged;
    struct table_durable *durable;
    size_t durable_len, durable_cap;
    uint64_t persist_seq;

    struct table_bucket small, bulk;
    struct {
        uint64_t id, until_ms;
    } refused[TABLE_REFUSED_LEN];
    uint64_t progress; /* sections that brought something new */
    uint64_t next_push_ms, last_push_ms, next_sync_ms, next_sweep_ms;
    uint64_t differ_ms; /* when a difference was last seen */
    uint64_t sync_ms;   /* the present interval */
    uint64_t in_step_ms;
    bool begun;        /* loading is over */
    bool clock_agrees; /* the last member that said its time has the same as we */
    bool stale;        /* away too long to know what was deleted */
    uint64_t stale_ms; /* since when only such members were heard; UINT64_MAX: another one was */

    struct table_effect *fx;
    size_t fx_len, fx_cap;
    void **garbage; /* freed at the next step */
    size_t garbage_len, garbage_cap;
    struct table_counters counters;
};

static inline struct str table_row_key(const struct table_row *r)
{
    return (struct str){ r->bytes, r->key_len };
}
static inline struct str table_row_value(const struct table_row *r)
{
    return (struct str){ r->bytes + r->key_len, r->value_len };
}
static inline struct str table_stream_name(const struct table_stream *s)
{
    return (struct str){ s->name, s->name_len };
}
static inline struct str table_row_owner(const struct table_row *r)
{
    return (r->flags & TABLE_ROW_OWNED) != 0 ? table_stream_name(r->stream) : (struct str){ "", 0 };
}
static inline uint64_t table_clock_ms(uint64_t clock)
{
    return clock >> 16;
}

/* --- table_types.c --- */
const struct table_type_info *table_limits(unsigned type); /* never NULL */
unsigned table_kind_of(const struct table_type_info *i);
uint64_t table_stream_budget(unsigned kind);

/* --- table_rows.c --- */
struct table_row *table_row_find(const struct table *t, unsigned type, struct str owner,
                                 struct str key);
/* Not yet in anything. NULL: no memory. */
struct table_row *table_row_new(struct table *t, unsigned type, unsigned flags, struct str key,
                                struct str value);
/* Room for one more row in index and array. -ENOMEM. */
int table_row_reserve(struct table *t, unsigned type);
void table_row_index(struct table *t, struct table_row *r); /* its stream is set; room is there */
void table_row_unindex(struct table *t, struct table_row *r);
uint64_t table_row_hash(const struct table_row *r); /* the same on every node */
uint64_t table_row_cost(const struct table_row *r);
void table_row_view(const struct table_row *r, struct table_row_view *ret);

/* --- table_stream.c --- */
uint64_t table_stream_id(struct str name, uint64_t epoch, unsigned kind); /* node-owned */
struct table_stream *table_stream_find(const struct table *t, uint64_t id);
/* Known and empty. NULL: no memory, or too many. */
struct table_stream *table_stream_new(struct table *t, uint64_t id, unsigned kind, struct str name);
/* Drops the rows that are left (as changes) and the stream. */
void table_stream_drop(struct table *t, struct table_stream *s);
void table_stream_changed(struct table *t, struct table_stream *s); /* just now */
/* What is told of it changed: hashes follow. */
void table_stream_rehash(struct table *t, struct table_stream *s);
static inline bool table_stream_listed(const struct table_stream *s)
{
    return s->hashed != 0;
}
/* Puts the row at the end of the stream (or, loading, in its place), in the stead of old. */
void table_row_place(struct table *t, struct table_stream *s, struct table_row *r,
                     struct table_row *old);
/* Takes it out of everything; it stays readable until the next step. */
void table_row_remove(struct table *t, struct table_row *r);
/* The first row above the version, or NULL. */
struct table_row *table_stream_after(const struct table_stream *s, uint64_t version);

/* --- table_wire.c --- */
enum table_part {
    TABLE_PART_SYNC = 1,
    TABLE_PART_BUCKETS = 2,
    TABLE_PART_DIGEST = 3,
    TABLE_PART_WANT = 4,
    TABLE_PART_DELTA = 5,
};
enum { TABLE_WIRE_VERSION = 1, TABLE_FLAG_STALE = 1, TABLE_FLAG_BULK = 1 };

struct table_entry { /* of a digest or a want */
    uint64_t id, version;
    uint32_t content;
};
struct table_section { /* of a delta */
    unsigned kind;
    bool named;
    uint64_t id, epoch, base, to;
    struct str name;
    uint64_t rows;
};
struct table_wire_row {
    unsigned type, flags;
    uint64_t version, clock;
    struct str key, value;
};

void table_put_varint(struct buf *b, uint64_t v);
uint64_t table_cur_varint(struct cur *c);
/* Starts a message. */
void table_message_begin(struct buf *b);
/* A part's body goes into the message. */
void table_part_add(struct buf *b, enum table_part part, const struct buf *body);
void table_put_row(struct buf *b, const struct table_row *r, uint64_t before);
size_t table_row_wire_max(const struct table_row *r);
void table_put_section(struct buf *b, const struct table_stream *s, bool named, uint64_t base,
                       uint64_t to, size_t rows);
size_t table_section_wire_max(const struct table_stream *s);
/* Readers: c->failed says that it was malformed. */
void table_read_section(struct cur *c, struct table_section *ret);
void table_read_row(struct cur *c, const struct table_section *s, uint64_t before,
                    struct table_wire_row *ret);
void table_read_entry(struct cur *c, enum table_part part, struct table_entry *ret);
/* Is the whole message well-formed? */
bool table_message_check(struct str bytes);
bool table_next_part(struct cur *c, enum table_part *ret_part, struct cur *ret_body);

/* --- table_sync.c --- */
void table_sync_tick(struct table *t);
void table_on_sync(struct table *t, struct table_peer *from, struct cur *c);
/* direct: the message was one datagram. */
void table_on_buckets(struct table *t, struct table_peer *from, struct cur *c, bool direct);
void table_on_digest(struct table *t, struct table_peer *from, struct cur *c);
void table_on_want(struct table *t, struct table_peer *from, struct cur *c);
/* Asks for what is above `from_version`, unless somebody was asked just now. */
void table_ask(struct table *t, struct table_peer *peer, const struct table_entry *entries,
               size_t n);
void table_differs(struct table *t);

/* --- table_push.c --- */
void table_hot(struct table *t, struct table_stream *s, uint64_t base);
void table_cold(struct table_stream *s);
void table_push_tick(struct table *t);
struct table_peer *table_partner(struct table *t);
/* May be NULL. */
struct table_peer *table_peer_find(const struct table *t, struct str name);
int table_peer_up(struct table *t, struct str name, bool speaks);
void table_peer_down(struct table *t, struct table_peer *p);
void table_peer_reap(struct table *t, struct table_peer *p);
void table_bucket_refill(struct table_bucket *b, uint64_t now_ms);
uint64_t table_interval_ms(const struct table *t, const struct table_type_info *i);
/* Takes the bytes over. */
void table_send(struct table *t, struct str peer, struct buf *bytes, bool bulk);

/* --- table_apply.c --- */
void table_on_delta(struct table *t, struct table_peer *from, struct cur *c, bool direct);
bool table_is_refused(const struct table *t, uint64_t id);
void table_refuse(struct table *t, uint64_t id);

/* --- table_write.c --- */
/* The stream that a write of this kind goes to; made when there is none. NULL: no memory. */
struct table_stream *table_own_stream(struct table *t, unsigned kind);
bool table_durable_room(struct table *t);
/* The last write is told when it is durable. Room is there. */
void table_await_disk(struct table *t, struct table_stream *s);
void table_tell_up_to(struct table *t, struct table_stream *s, uint64_t version);
uint64_t table_clock_next(struct table *t);
void table_clock_seen(struct table *t, uint64_t clock);
int table_own_nodes(struct table *t); /* makes the streams of node-owned rows */
void table_staged_tick(struct table *t);
void table_staged_free(struct table *t);
void table_on_persisted(struct table *t, uint64_t seq);

/* --- table_life.c --- */
/* The old stream of this kind is somebody else's from now on; what this life wrote moves to a new
 * one. */
void table_restream(struct table *t, unsigned kind);
/* Another life of this node wrote with this epoch. */
void table_epoch_jump(struct table *t, uint64_t seen);
void table_check_clock(struct table *t);
void table_sweep(struct table *t);
bool table_expired(const struct table *t, uint64_t clock); /* a tombstone of then */
void table_begin_life(struct table *t);                    /* loading is over */
void table_unstale(struct table *t, bool confirmed);
void table_heard(struct table *t, bool is_stale);

/* --- table.c --- */
/* Every call that fills effects begins and ends with these. */
void table_begin(struct table *t, uint64_t now_ms, int64_t wall_ms);
void table_end(struct table *t, struct table_effects *fx);
bool table_fx_room(struct table *t, size_t n); /* false: no memory */
void table_garbage(struct table *t, void *p);  /* freed at the next step; room is there */
void table_fx_changed(struct table *t, const struct table_row *r, const struct table_row *old);
void table_fx_row(struct table *t, const struct table_row *r, bool drop);
void table_fx_stream(struct table *t, const struct table_stream *s, bool drop);

#endif
