/* uv_node_callbacks_internal - what the files uv_node_callbacks*.c share. */
#ifndef AGENT_NODE_UV_NODE_CALLBACKS_INTERNAL_H
#define AGENT_NODE_UV_NODE_CALLBACKS_INTERNAL_H

#include "agent/node/sys_node_callbacks.h"
#include "agent/node/uv_node_callbacks.h"
#include "agent/node/uv_node_internal.h"
#include "agent/triggers/callback.h"
#include "common/heap.h"
#include "common/loop/tls.h"

enum {
    NODE_DELIVERY_ID_CAP = ULID_TEXT_CAP + 16, /* "<RUN>.<attempt>.<place>" */
    NODE_DELIVERY_DETAIL_CAP = 200,
    NODE_TRIP_ROWS_MAX = 256, /* rows of one transaction */
    NODE_OFFS_MAX = 4096,
};
/* Ends may come to be known here this much later than their time says. */
#define NODE_SEEN_MARGIN_US (INT64_C(120) * 1000000)

/* Kept in the database: never renumber. */
enum node_delivery_state {
    NODE_DELIVERY_WAITING,
    NODE_DELIVERY_DELIVERED,
    NODE_DELIVERY_GONE,
    NODE_DELIVERY_FAILED,
    NODE_DELIVERY_OFF,
    NODE_DELIVERY_STATES
};
extern const char *const node_delivery_states[NODE_DELIVERY_STATES];

struct node_delivery {
    struct heap_node due;       /* callbacks.due while it waits for its time */
    struct list link;           /* callbacks.over, or callbacks.blocked */
    struct list dirty;          /* callbacks.dirty while its row has to be written */
    struct node_flight *flight; /* while it is being sent */
    char id[NODE_DELIVERY_ID_CAP];
    char job[RUN_JOB_CAP];
    char type[32];
    char secret[TRIGGER_NAME_MAX + 1];
    char detail[NODE_DELIVERY_DETAIL_CAP];
    char *url;
    char *body;     /* until it is in the database */
    uint64_t place; /* a hash of host and port */
    uint32_t revision;
    enum node_delivery_state state;
    unsigned tries;
    int status;
    int64_t created_us, due_us, done_us;
    bool stored;
    bool saving; /* the pool writes its row now */
};

/* One that is being sent. */
struct node_flight {
    struct list link; /* callbacks.flights */
    struct list want; /* callbacks.wants while its body has to be read */
    struct node_callbacks *c;
    struct node_delivery *d;
    struct http_call *call;
    struct trigger_url url;
    struct buf body;
    int rc; /* of reading the body */
    int status;
    uint64_t retry_after_s;
    bool reading; /* the pool fills in its body now */
};

/* A receiver that has answered 410. */
struct node_off {
    struct list link;
    uint32_t revision; /* of the job then */
    char *key;         /* job, newline, URL */
};

/* A trip to the database. */
struct node_trip {
    struct loop_work work;
    bool busy;
    struct node_callback_change changes[NODE_TRIP_ROWS_MAX];
    struct node_delivery *saved[NODE_TRIP_ROWS_MAX]; /* NULL: dropped */
    char details[NODE_TRIP_ROWS_MAX][NODE_DELIVERY_DETAIL_CAP];
    char *dropped[NODE_TRIP_ROWS_MAX];
    size_t n;
    struct list wants; /* flights */
    int64_t seen_us;
    bool want_tls;
    struct tls_context *tls;
    char tls_error[ERR_TEXT_MAX];
    int rc;
};

/* An ended run whose document is being read. */
struct node_reading {
    struct list link;
    struct node_callbacks *c;
    struct ulid id;
};

struct node_callbacks {
    struct node *node;
    struct node_callback_db *db;
    struct http_client *http;
    struct tls_context *tls; /* NULL until it is needed */
    struct map ids;
    struct map offs; /* struct node_off by key */
    struct list off_list;
    struct heap due;
    struct list over;    /* ended deliveries, the oldest end first */
    struct list blocked; /* due, but their host has enough */
    struct list dirty;
    struct list wants;
    struct list flights;
    struct list readings;
    unsigned flying;
    struct loop_timer timer; /* the next due one, or a write to be tried again */
    struct node_trip trip;
    struct list drops; /* struct node_drop: rows to be removed */
    bool want_seen;
    bool closed;
    int64_t seen_us;
    uint64_t again_ms;
    struct log_limit limit;
    uint64_t ended_total[NODE_DELIVERY_STATES];
    uint64_t dropped_total;
    uint64_t answers_total[6]; /* by class of status; 0: none came */
    void (*on_closed)(struct node *n);
};

struct node_drop {
    struct list link;
    char id[NODE_DELIVERY_ID_CAP];
};

/* -- uv_node_callbacks.c: what there is -- */

/* NULL: there is no room, or it is there already. */
struct node_delivery *node_delivery_new(struct node_callbacks *c, const char *id, struct str url);
void node_delivery_dirty(struct node_callbacks *c, struct node_delivery *d);
void node_delivery_wait(struct node_callbacks *c, struct node_delivery *d, int64_t due_us);
void node_delivery_over(struct node_callbacks *c, struct node_delivery *d,
                        enum node_delivery_state state);
/* Forgets those that have been over for longer than retention. */
void node_deliveries_retain(struct node_callbacks *c);
struct node_off *node_off_find(const struct node_callbacks *c, const char *job, const char *url);
void node_off_set(struct node_callbacks *c, const struct node_delivery *d);
void node_off_free(struct node_callbacks *c, struct node_off *o); /* NULL is fine */

/* -- uv_node_callbacks_send.c: the database and the wire -- */

int node_callbacks_authorities(const char *file, struct tls_context **ret, struct err *e);
bool node_callbacks_may_connect(void *arg, const struct sockaddr *to);
void node_callbacks_on_timer(struct loop_timer *t);
/* Writes what has changed. */
void node_callbacks_go(struct node_callbacks *c);
/* Sends what is due, as far as there is room. */
void node_callbacks_pump(struct node_callbacks *c);
void node_flight_free(struct node_flight *f);

/* -- uv_node_callbacks_runs.c: ends of runs, documents -- */

void node_callbacks_earlier(void *arg, int status, const struct run *runs, size_t len, bool more);

#endif
