/*
 * The core's own structures; for its files and unit tests.
 *
 * A thousand simulated nodes each hold a thousand members, so a member is one cache line, and names
 * and metadata live once in the pool. Members sit in slots; slot 0 is this node. What hangs on a
 * member (a broadcast, a suspicion) is found through its slot.
 */
#ifndef AGENT_GOSSIP_GOSSIP_INTERNAL_H
#define AGENT_GOSSIP_GOSSIP_INTERNAL_H

#include "agent/gossip/gossip.h"
#include "agent/gossip/gossip_wire.h"
#include "common/heap.h"
#include "common/map.h"
#include "common/rng.h"

enum {
    GOSSIP_SELF = 0,
    GOSSIP_LIMIT_MAX = 31,     /* transmissions of a broadcast */
    GOSSIP_CONFIRMERS = 5,     /* of a suspicion, over the whole cluster */
    GOSSIP_PROBES = 9,         /* one of the round, the others of confirmers */
    GOSSIP_RELAYS = 128,       /* probes on behalf of others */
    GOSSIP_EXCHANGES = 64,     /* streams of ours */
    GOSSIP_ACCUSERS = 6,       /* names that a suspicion keeps */
    GOSSIP_ACKS = 16,          /* answers to one packet */
    GOSSIP_JUMP_MAX = 1 << 20, /* an incarnation grows no faster, but by its own node's word */
    GOSSIP_REPLAY_WINDOW = 64, /* user messages of one sender that may overtake each other */
    GOSSIP_RECORD_ROOM = 1024, /* most bytes of one record that we write */
};
#define GOSSIP_NEVER UINT64_MAX
#define GOSSIP_NONE UINT32_MAX

/* --- the pool --- */

struct gossip_str {
    uint32_t refs;
    uint32_t hash; /* keyed: of tables */
    uint64_t id;   /* the same on every node: of the view hash and of choices all agree on */
    uint16_t n;
    char p[];
};

struct gossip_pool {
    struct map map;
};

/* A reference more; NULL: no memory. s.n <= 65535. */
struct gossip_str *gossip_str_get(struct gossip_pool *p, struct str s);
struct gossip_str *gossip_str_find(const struct gossip_pool *p, struct str s); /* no reference */
void gossip_str_put(struct gossip_pool *p, struct gossip_str *s);              /* NULL is fine */

static inline struct str gossip_str_of(const struct gossip_str *s)
{
    return s != NULL ? (struct str){ s->p, s->n } : (struct str){ NULL, 0 };
}

/* --- members --- */

struct gossip_member {
    struct gossip_str *name; /* NULL: a free slot */
    struct gossip_str *meta; /* NULL: none */
    uint64_t changed_ms;
    uint8_t ip[16];
    uint32_t incarnation;
    uint32_t cast;      /* broadcast that waits, plus 1; in a free slot the next free one */
    uint32_t suspicion; /* plus 1 */
    uint16_t port;
    uint16_t rtt; /* 100 us */
    uint8_t ip_len;
    uint8_t state;
    uint8_t vsn[6];
};
_Static_assert(sizeof(struct gossip_member) <= 64, "sim");

/* A broadcast: what it says is in the member's record, but for who accused. */
struct gossip_cast {
    struct gossip_str *from; /* NULL for alive */
    uint32_t slot;
    uint32_t incarnation;
    uint32_t next, prev; /* in its bucket, plus 1 */
    uint16_t size;       /* bytes of the message */
    uint8_t kind;        /* enum gossip_type */
    uint8_t sent;        /* times; the bucket */
    uint64_t since_ms;   /* put here */
};

struct gossip_suspicion {
    struct heap_node node; /* by when it ends */
    uint32_t slot;
    uint32_t index; /* in the core's array */
    uint64_t start_ms;
    uint64_t min_ms, max_ms;
    uint8_t k; /* confirmations that bring it down to min_ms */
    uint8_t accusers_len;
    bool hard;    /* we found its host refusing or not answering */
    bool refused; /* refusing */
    struct gossip_str *accusers[GOSSIP_ACCUSERS];
};

enum gossip_tcp {
    GOSSIP_TCP_IDLE,
    GOSSIP_TCP_PENDING,
    GOSSIP_TCP_ACKED,
    GOSSIP_TCP_REFUSED,
    GOSSIP_TCP_UNREACHABLE,
    GOSSIP_TCP_SILENT
};

/*
 *   direct --(timeout)--> indirect and TCP --(end of the window)--> accused, or not
 *      \--ack-->  done  <--ack--/
 */
struct gossip_probe {
    bool active;
    bool confirm;  /* of another's suspicion: does not count for our health */
    bool indirect; /* the second stage has begun */
    uint8_t pings;
    uint8_t nacks_expected, nacks;
    enum gossip_tcp tcp;
    uint32_t slot;
    struct gossip_str *name; /* held: the slot may get another tenant */
    uint32_t seq;
    uint64_t sent_ms;
    uint64_t next_ms; /* the next stage, or the next ping of a confirmer */
    uint64_t end_ms;
};

struct gossip_relay {
    bool active;
    bool nack;
    uint32_t mine, theirs; /* sequence numbers */
    struct gossip_addr to;
    uint64_t nack_ms;
    uint64_t end_ms;
};

enum gossip_exchange_kind {
    GOSSIP_X_FREE,
    GOSSIP_X_JOIN,
    GOSSIP_X_SETTLE,    /* after a join, until the view is stable */
    GOSSIP_X_PULL,      /* now and then, or when views differ */
    GOSSIP_X_RECONNECT, /* to a lost member */
    GOSSIP_X_PING,
    GOSSIP_X_USER,
};

struct gossip_exchange {
    enum gossip_exchange_kind kind;
    uint32_t id;
    uint32_t seq;    /* PING */
    uint64_t hash;   /* of our view when it began */
    uint64_t end_ms; /* when nothing can come of it any more */
};

struct gossip_lost {
    struct gossip_str *name;
    struct gossip_addr addr;
    int64_t since_s;
};

/* What was heard of one sender of user messages. */
struct gossip_peer {
    uint64_t boot;
    uint64_t told;   /* the boot that its metadata named last */
    uint64_t window; /* bit i: high - i was seen */
    uint32_t high;
};

struct gossip_ack_out {
    struct gossip_addr to;
    uint32_t seq;
    bool hash;
};

struct gossip {
    uint32_t magic;
    struct gossip_params p;
    struct gossip_pool *pool;
    struct rng rng;
    uint64_t now;
    int64_t now_s;
    uint32_t overhead;
    bool failed; /* no memory in this step */

    struct gossip_member *m;
    struct gossip_peer **peers; /* by slot; NULL until a message came */
    uint32_t m_len, m_cap, m_max;
    uint32_t free_slot; /* plus 1 */
    uint32_t *index;    /* slot plus 1, by hash of the name */
    uint32_t index_cap; /* a power of two */
    uint32_t *order;    /* of probes: slots but ours */
    uint32_t order_len;
    uint32_t order_at;
    uint32_t counts[4]; /* by state */
    uint32_t foreign;   /* live ones that are not ours */
    uint64_t view_hash;

    struct gossip_cast *casts;
    uint32_t casts_len, casts_cap, casts_free, casts_used;
    uint32_t bucket_head[GOSSIP_LIMIT_MAX + 1], bucket_tail[GOSSIP_LIMIT_MAX + 1];

    struct heap suspicions;
    struct gossip_suspicion **sus;
    uint32_t sus_len, sus_cap;

    uint32_t health;
    uint32_t seq;
    struct gossip_probe probes[GOSSIP_PROBES];
    struct gossip_relay relays[GOSSIP_RELAYS];
    uint32_t relays_active;
    struct gossip_exchange exchanges[GOSSIP_EXCHANGES];
    uint32_t next_stream;
    uint32_t tokens;           /* accusations that we may make */
    uint64_t tokens_ms;        /* last refilled */
    uint64_t heard_ms;         /* anything, from anybody */
    uint32_t fails;            /* of our round's probes, in a row */
    uint64_t hold_ms;          /* no verdicts before this */
    uint64_t match_ms;         /* an own node's view was equal */
    uint64_t changed_ms;       /* our view changed */
    uint64_t pulled_ms;        /* last pull because views differed */
    uint32_t differs, matches; /* acks in a row */
    uint64_t matched_ms;       /* the first of them */
    uint64_t flushed_ms;
    uint64_t bumped_ms;
    bool hushed; /* what is learned now is known to others: it need not be told */
    bool urgent; /* what was queued in this step goes out at once */

    uint64_t probe_at, gossip_at, gossiped_ms, pull_at, reap_at;
    bool settling;
    uint32_t settle_stable;
    uint64_t settle_at, settle_delay;
    uint32_t joined_since; /* the view was last settled */

    struct gossip_lost *lost;
    uint32_t lost_len, lost_cap;
    uint64_t reconnect_at;
    uint64_t remember_at;
    bool remember_dirty;

    bool leaving, left;
    uint64_t left_at;

    uint64_t boot;
    uint32_t user_seq;
    uint64_t note_ms[8]; /* by note: when the last one went out */

    struct gossip_ack_out acks[GOSSIP_ACKS];
    unsigned acks_len;

    struct buf body; /* parts of the packet that is being made */
    uint16_t part_len[GOSSIP_PARTS_MAX];
    unsigned parts;
    struct buf scratch;
    struct buf arena; /* bytes of the effects */
    struct gossip_effect *fx;
    size_t *fx_at; /* of each in the arena; SIZE_MAX: none */
    size_t fx_len, fx_cap;
    struct gossip_str **limbo; /* let go at the next step: views may point to them */
    size_t limbo_len, limbo_cap;

    uint64_t counters[GOSSIP_COUNTERS];
};

static inline void gossip_bump(struct gossip *g, enum gossip_counter c)
{
    g->counters[c]++;
}

/* A time in [0, span]. */
uint64_t gossip_jitter(struct gossip *g, uint64_t span);
uint32_t gossip_live(const struct gossip *g);  /* alive and suspect, ourselves too */
uint32_t gossip_known(const struct gossip *g); /* records of any state */
/* log2(n) * 2^16 and log10(n) * 1000, rounded down; n >= 1. */
uint32_t gossip_log2_fixed(uint32_t n);
uint32_t gossip_log10_milli(uint32_t n);
/* How often a broadcast goes out: ceil(ln n) + 6. */
unsigned gossip_limit(uint32_t n);

/* --- gossip_core.c: effects and packets --- */

struct gossip_effect *gossip_fx(struct gossip *g, enum gossip_effect_type type);
/* The same with bytes; NULL: no memory. */
struct gossip_effect *gossip_fx_bytes(struct gossip *g, enum gossip_effect_type type,
                                      struct str bytes);
void gossip_note(struct gossip *g, enum gossip_note note, uint32_t slot,
                 const struct gossip_addr *addr);
void gossip_changed(struct gossip *g, uint32_t slot, enum gossip_change change,
                    enum gossip_state was);
/* Lets a reference go after the step, since effects may point to it. False: there was no memory for
 * that; it is gone already, and so are the effects that pointed to it. */
bool gossip_limbo(struct gossip *g, struct gossip_str *s);
void gossip_packet_begin(struct gossip *g);
void gossip_part(struct gossip *g, enum gossip_type type, const struct gossip_msg *m);
/* Adds what waits in the queue, up to the packet's size, and sends. */
void gossip_packet_send(struct gossip *g, const struct gossip_addr *to, bool piggyback);
/* Opens a stream. False: too many, or no memory. */
bool gossip_open(struct gossip *g, enum gossip_exchange_kind kind, const struct gossip_addr *to,
                 struct str bytes, uint64_t deadline_ms, uint32_t seq);

/* --- gossip_members.c --- */

uint32_t gossip_slot(const struct gossip *g, struct str name); /* GOSSIP_NONE */
/* A dead one with incarnation 0. GOSSIP_NONE: no memory, or full. */
uint32_t gossip_member_add(struct gossip *g, struct str name);
void gossip_reap(struct gossip *g);
/* Keeps counts and view hash right; the only way to change either. */
void gossip_member_state(struct gossip *g, uint32_t slot, enum gossip_state state, uint32_t inc);
void gossip_member_meta(struct gossip *g, uint32_t slot, struct gossip_str *meta); /* takes it */
struct gossip_addr gossip_member_addr(const struct gossip_member *m);
bool gossip_is_ours(const struct gossip_member *m);
void gossip_view_of(const struct gossip *g, uint32_t slot, struct gossip_view *ret);
void gossip_shuffle(struct gossip *g);
/* Up to n distinct random ones for which want() holds; never ourselves. Returns how many. */
unsigned gossip_pick(struct gossip *g, unsigned n,
                     bool (*want)(const struct gossip *g, uint32_t slot, uint32_t arg),
                     uint32_t arg, uint32_t *ret_slots);
bool gossip_want_alive(const struct gossip *g, uint32_t slot, uint32_t but); /* for gossip_pick */
void gossip_members_release(struct gossip *g);

/* --- gossip_queue.c --- */

/* Replaces what waits about that member. from: NULL for alive. */
void gossip_queue_put(struct gossip *g, uint32_t slot, enum gossip_type kind, uint32_t inc,
                      struct gossip_str *from);
void gossip_queue_drop(struct gossip *g, uint32_t slot);
/* Forgets what was put there before: others know it already. Not suspicions. */
void gossip_queue_expire(struct gossip *g, uint64_t before_ms);
/* Adds parts to the packet. */
void gossip_queue_fill(struct gossip *g, size_t room);
/* A round of gossip. */
void gossip_spread(struct gossip *g, unsigned nodes);
void gossip_alive_msg(const struct gossip *g, uint32_t slot, uint32_t inc, struct gossip_msg *ret);

/* --- gossip_state.c: the rules --- */

/* via: where the message came from; NULL: in a view. */
void gossip_on_alive(struct gossip *g, const struct gossip_msg *m, const struct gossip_addr *via);
void gossip_on_suspect(struct gossip *g, const struct gossip_msg *m);
void gossip_on_dead(struct gossip *g, const struct gossip_msg *m);
void gossip_accuse(struct gossip *g, uint32_t slot, enum gossip_tcp evidence);
void gossip_suspicion_end(struct gossip *g, uint32_t slot);
void gossip_suspicions_due(struct gossip *g);
/* Has it been suspect here for as long as the fastest verdict takes? */
bool gossip_suspect_for_long(const struct gossip *g, struct str name);
void gossip_health_add(struct gossip *g, int delta);
void gossip_self_changed(struct gossip *g); /* a new incarnation, told to all */

/* --- gossip_probe.c --- */

void gossip_on_ping(struct gossip *g, const struct gossip_msg *m, const struct gossip_addr *from);
void gossip_on_indirect(struct gossip *g, const struct gossip_msg *m,
                        const struct gossip_addr *from);
void gossip_on_ack(struct gossip *g, const struct gossip_msg *m);
void gossip_on_nack(struct gossip *g, const struct gossip_msg *m);
void gossip_on_tcp_ping(struct gossip *g, uint32_t seq, enum gossip_tcp outcome);
void gossip_acks_send(struct gossip *g);
void gossip_confirm(struct gossip *g, uint32_t slot); /* maybe: another suspects it */
void gossip_probes_due(struct gossip *g);
uint64_t gossip_probes_deadline(const struct gossip *g);
void gossip_stalled(struct gossip *g, uint64_t lag);
/* Is it rather us that nothing reaches? Said for a minute at most. */
bool gossip_isolated(const struct gossip *g);
void gossip_probes_release(struct gossip *g);
void gossip_hash_put(const struct gossip *g, uint8_t dst[9]);

/* --- gossip_pull.c --- */

void gossip_pull_start(struct gossip *g, enum gossip_exchange_kind kind,
                       const struct gossip_addr *to);
/* kind: of the exchange of ours that this answers; FREE: another's, that is to be answered. */
void gossip_on_pull(struct gossip *g, uint32_t stream, struct str body,
                    enum gossip_exchange_kind kind);
void gossip_pulls_due(struct gossip *g);
uint64_t gossip_pulls_deadline(const struct gossip *g);
void gossip_pulls_init(struct gossip *g);
void gossip_view_differs(struct gossip *g, uint32_t slot);
void gossip_view_matches(struct gossip *g);
void gossip_exchange_done(struct gossip *g, const struct gossip_exchange *x, bool good);
void gossip_settle(struct gossip *g, uint64_t within_ms);
/* A member was lost, or is there again (or left). */
void gossip_lost_add(struct gossip *g, uint32_t slot);
void gossip_lost_drop(struct gossip *g, struct str name);
void gossip_lost_read(struct gossip *g, struct str text);
void gossip_lost_release(struct gossip *g);

/* --- gossip_user.c --- */

int gossip_user_send(struct gossip *g, const struct gossip_event *ev);
void gossip_on_user(struct gossip *g, struct str bytes);
/* Tells Serf's agents that we leave, in their words. */
void gossip_serf_leave(struct gossip *g);

#endif
