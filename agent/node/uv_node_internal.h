/*
 * uv_node_internal - the shell of a node: what its uv_node*.c files share.
 *
 * The core is stepped from one place (node_feed), never from inside another step: an effect that
 * could be answered at once marks its attempt (live->answer) and is answered by the next round of
 * `settle`.
 */
#ifndef AGENT_NODE_UV_NODE_INTERNAL_H
#define AGENT_NODE_UV_NODE_INTERNAL_H

#include "agent/image/image_store.h"
#include "agent/jobs/uv_store.h"
#include "agent/node/node_internal.h"
#include "agent/node/uv_node.h"
#include "agent/sandbox/uv_sandbox.h"
#include "common/list.h"
#include "common/map.h"
#include "common/rng.h"

enum {
    NODE_DOCS_MAX = 4096,      /* documents remembered for queued runs */
    NODE_JOBS_MAX = 1024,      /* newest revisions remembered */
    NODE_IMAGES_MAX = 256,     /* resolved images remembered */
    NODE_REQUESTS_MAX = 65536, /* API calls without an answer yet */
    NODE_WATCHES_MAX = 65536,
    NODE_PLACEMENTS_MAX = 4096, /* decisions remembered for GET …/placement */
    NODE_PING_MS = 1000,
    NODE_RETAIN_MS = 60 * 1000,
    NODE_RETAIN_FIRST_MS = 2000, /* after the start */
};

/* A job document in force; counted, never changed. */
struct node_doc {
    unsigned refs;
    struct job *job;
};
struct node_doc *node_doc_new(struct job *job); /* takes job over, also when it returns NULL */
struct node_doc *node_doc_ref(struct node_doc *d);
struct node_doc *node_doc_unref(struct node_doc *d); /* NULL is fine; returns NULL */

/* A small cache: key text to a document, least recently used first out. */
struct node_docs {
    struct map map;
    struct list lru; /* the oldest first */
    size_t max;
};
void node_docs_init(struct node_docs *d, size_t max, uint64_t k0, uint64_t k1);
void node_docs_release(struct node_docs *d);
/* A new reference, or NULL. */
struct node_doc *node_docs_get(struct node_docs *d, struct str key);
/* Takes a reference of its own; failure (no memory) only means a read from the store later. */
void node_docs_put(struct node_docs *d, struct str key, struct node_doc *doc);
void node_docs_drop(struct node_docs *d, struct str key);

enum node_image_state { NODE_IMAGE_COLD, NODE_IMAGE_UNPACKING, NODE_IMAGE_READY };

/* An image as resolved by digest, and whether its layers are unpacked. */
struct node_image {
    struct list link; /* node.images: the oldest first */
    struct image_resolved *resolved;
    struct digest *layers; /* DiffIDs, the lowest first */
    bool *done;            /* per layer: UNPACKED came */
    enum node_image_state state;
    unsigned refs; /* by attempts */
};

enum live_stage { LIVE_FREE, LIVE_PLACING, LIVE_PREPARING, LIVE_LAUNCHING, LIVE_RUNNING };
/* What the next round of settle tells the core about this attempt. */
enum live_answer {
    LIVE_NOTHING,
    LIVE_ASK_PLACE, /* the document is at hand */
    LIVE_NO_ROOM,
    LIVE_REFUSED,
    LIVE_PREPARED,
    LIVE_PREPARE_FAILED,
    LIVE_ENDED,
};

/* One attempt between PLACE and its end. A fixed pool, so that an attempt never fails for memory
 * here. */
struct node_live {
    struct list link;    /* node.live or node.live_free */
    struct list pending; /* node.pending while answer is set */
    struct node *node;
    struct ulid id;
    uint32_t attempt;
    enum live_stage stage;
    enum live_answer answer;
    struct job_result result;
    char detail[ERR_TEXT_MAX];
    struct run run; /* as the last effect gave it */
    struct node_doc *doc;
    struct node_image *image;
    bool waits_for_image;
    bool asking; /* the store or the images owe an answer for it */
    uint64_t started_ms;
    struct telemetry_fds fds;
    struct telemetry_meter meter;
    struct telemetry_series series;
    uint64_t generation; /* told apart from another use of the same place */
};

/* A call of the API that waits for the core's answer. */
enum node_op { NODE_OP_SUBMIT, NODE_OP_CANCEL, NODE_OP_RETRY };

struct node_request {
    struct list link;
    struct node *node;
    enum node_op op;
    uint64_t token;  /* the map's key */
    node_run_fn *fn; /* NULL: the caller forgot it */
    void *arg;
    struct ulid id;
    struct run run;
    struct node_doc *doc;
    bool has_spec; /* the run has a document of its own */
    bool replayed;
    bool key_reused;
    char key[JOB_STORE_KEY_MAX + 1];
    char spool_name[64]; /* "" when there is nothing (any more) to remove */
    char *inline_payload;
    size_t inline_payload_len;
    struct loop_work work;
    int work_status;
    struct run *known;
};

/* A durable write that the core waits for. */
struct node_write {
    struct node *node;
    struct ulid id;
    uint64_t seq;
};

struct node_watch {
    struct list link;
    struct node *node;
    struct ulid id;
    bool all;
    bool dead; /* unwatched while watches are being called */
    node_watch_fn *fn;
    void *arg;
};

struct node_placement {
    struct ulid id;
    uint32_t attempt;
    char *text;
};

/* A read for the API: which callback it has, its maker knows. */
struct node_query {
    struct list link;
    struct node *node;
    void *arg; /* of the caller */
    bool forgotten;
    struct ulid id;
    union {
        node_job_fn *job;
        node_jobs_fn *jobs;
        node_run_fn *run;
        node_runs_fn *runs;
        node_text_fn *text;
    } fn;
    struct buf text; /* an answer that is put together in steps */
    struct json_w json;
    struct job_store_job_stats *stats;
    size_t stats_n;
};

struct node {
    struct loop *loop;
    struct loop_owner owner;
    struct settings settings;
    struct node_options opt;
    struct node_core *core;
    struct job_store *store;
    struct image_store *images_store;
    struct sandbox_client *client;
    struct telemetry_metrics *metrics;
    struct hardware_facts facts;
    char class_id[HARDWARE_CLASS_LEN + 1];
    uint32_t id32;
    struct ulid_gen ids;
    struct sandbox_hello hello;
    int runs_fd, spool_fd, samples_fd;
    uint64_t started_ms;
    uint64_t next_token;
    uint64_t next_generation;
    bool said_hello, loading, ready, draining, drained, closing;
    bool stepping;       /* inside node_feed() */
    bool capacity_freed; /* to be told in the next round */

    struct loop_timer tick, ping, sample, retain;
    struct loop_defer settle;
    struct list live, live_free, pending;
    struct node_live *lives;
    size_t lives_len;
    struct list images;
    size_t images_len;
    struct node_docs docs; /* by run id */
    struct node_docs jobs; /* by name: the newest revision */
    struct map requests;   /* struct node_request by token */
    struct map submits;    /* those that wait for the queue to store them, by run id */
    struct list request_list;
    struct list queries;
    size_t queries_len;
    struct list watches;
    size_t watches_len;
    unsigned watching; /* depth of calling them */
    struct node_placement *placements;
    size_t placement_next;
    bool retaining, sweeping;
    struct list removals; /* struct node_removal: run directories to remove, a few at a time */
    unsigned removing;
    unsigned retain_rounds;

    char labels[SETTINGS_LIST_MAX]; /* what route_facts points into */
    char fact_cpus[16];
    struct route_fact route_facts[NODE_FACTS_MAX];
    size_t route_facts_len;

    void (*on_drained)(void *arg);
    void *drained_arg;
    void (*on_closed)(void *arg);
    void *closed_arg;
};

/* -- uv_node.c -- */
void node_feed(struct node *n, struct node_event *ev); /* sets the times, steps, carries out */
void node_feed_job(struct node *n, struct job_event *ev);
void node_settle_later(struct node *n);
_Noreturn void node_out_of_memory(const char *what);
/* What a request to the store answered: it was taken, or there is no memory for it. */
static inline void node_asked(int rc)
{
    if (rc != 0) {
        node_out_of_memory("a request to the store");
    }
}

/* -- uv_node_live.c: attempts -- */
struct node_live *node_live_find(struct node *n, struct ulid id, uint32_t attempt);
struct node_live *node_live_add(struct node *n,
                                const struct run *run); /* NULL: the pool is empty */
void node_live_free(struct node_live *l);
void node_live_answer(struct node_live *l, enum live_answer answer);
void node_live_fail(struct node_live *l, enum live_answer answer, enum run_reason reason,
                    const char *detail);
void node_live_settle(struct node_live *l);
void node_fx_place(struct node *n, const struct run *run);
void node_fx_prepare(struct node *n, const struct run *run);
void node_fx_launch(struct node *n, const struct run *run);
void node_fx_stop(struct node *n, struct ulid id, uint32_t attempt);
void node_sample_all(struct node *n);
void node_image_forget(struct node *n, struct node_image *img);
extern const struct sandbox_client_events node_sandbox_events;

/* -- uv_node_submit.c: accepting, cancelling, retrying -- */
void node_fx_accept(struct node *n, const struct job_effect *fx);
void node_fx_answer(struct node *n, const struct job_effect *fx);
struct node_request *node_request_new(struct node *n, enum node_op op, node_run_fn *fn, void *arg);
void node_request_free(struct node_request *r);
void node_request_fail(struct node_request *r, enum node_code code, unsigned retry_after_s,
                       const struct job_problems *problems, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* -- uv_node_api.c -- */
void node_watchers_tell(struct node *n, const struct run *run);
void node_metrics_ended(struct node *n, const struct run *run);
enum { NODE_SAMPLES_NAME_CAP = ULID_TEXT_CAP + 12 };
void node_samples_name(struct ulid id, uint32_t attempt, char dst[NODE_SAMPLES_NAME_CAP]);
/* Keeps an ended attempt's samples for GET /v1/runs/{id}/samples; not durable. */
void node_samples_keep(struct node_live *l);
void node_placement_keep(struct node *n, const struct node_event *ev,
                         const struct node_effects *fx);

/* -- uv_node_clean.c: what nothing needs any more -- */
/* Tells the launcher which layers images still refer to: it removes the others that nothing uses.
 */
void node_layers_sweep(struct node *n);
/* An ended attempt has a directory: does anybody know its run? If not, the directory goes. */
void node_orphan_check(struct node *n, struct ulid id, uint32_t attempt);
void node_on_run_removed(struct node *n, struct ulid run, uint32_t attempt, int rc,
                         const char *text);
void node_retain(struct node *n); /* forgets ended runs beyond retention, and their files */
void node_clean_free(struct node *n);

/* -- sys_node.c: the spool, on a pool thread -- */
/* Makes the payload durable under the run's name: writes data if there is any, else renames `name`;
 * fsyncs file and directory. 0 or -Exxx. */
int node_spool_keep(int spool_fd, const char *name, const void *data, size_t n, const char *run_id);
void node_spool_remove(int spool_fd, const char *name);
void node_samples_write(int samples_fd, const char *name, const void *data, size_t n);
/* Removes what an earlier life left half-uploaded: every name that is not a run's. */
void node_spool_sweep(int spool_fd);

#endif
