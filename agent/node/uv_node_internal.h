/*
 * uv_node_internal - the shell of a node: what its uv_node*.c files share.
 *
 * The core is stepped from one place (node_feed), never from inside another step: an effect that
 * could be answered at once marks its attempt (live->answer) and is answered by the next round of
 * `settle`.
 */
#ifndef AGENT_NODE_UV_NODE_INTERNAL_H
#define AGENT_NODE_UV_NODE_INTERNAL_H

#include "agent/image/image_fetch.h"
#include "agent/image/image_pull.h"
#include "agent/image/image_store.h"
#include "agent/image/programs.h"
#include "agent/jobs/uv_store.h"
#include "agent/node/node_internal.h"
#include "agent/node/node_msg.h"
#include "agent/node/uv_node.h"
#include "agent/sandbox/uv_sandbox.h"
#include "agent/sandbox/uv_sandbox_dns.h"
#include "agent/table/uv_table.h"
#include "common/list.h"
#include "common/log.h"
#include "common/loop/http_client.h"
#include "common/map.h"
#include "common/rng.h"
#include "common/seal.h"

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
    NODE_GUESTS_MAX = 65536,     /* peers' runs here, with those whose end is not taken yet */
    NODE_REMOTES_MAX = 262144,   /* runs that peers have */
    NODE_COPIES_MAX = 4194304,   /* runs of ours that others know of, or should; the queue's own
                                    limit is lower */
    NODE_OFFER_MS = 3000,        /* for the answer to an offer */
    NODE_REPORT_MS = 30000,      /* for the answer to an end */
    NODE_CHECK_MS = 5000,        /* between two looks at what peers have of ours */
    NODE_SETTLE_MS = 15000,      /* after the start: peers come to be known */
    NODE_MISSING_MS = 30000,     /* a peer that nobody knows of: its attempts are lost */
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

/* READING: unpacked, and what its programs need is being found out. */
enum node_image_state {
    NODE_IMAGE_COLD,
    NODE_IMAGE_UNPACKING,
    NODE_IMAGE_READING,
    NODE_IMAGE_READY
};

/* An image as resolved by digest, and whether its layers are unpacked. */
struct node_image {
    struct list link; /* node.images: the oldest first */
    struct image_resolved *resolved;
    struct digest *layers; /* DiffIDs, the lowest first */
    bool *done;            /* per layer: UNPACKED came */
    int *index;            /* per layer: what is kept of its content; -1: nothing */
    enum node_image_state state;
    bool pinned; /* in the store: an attempt wanted it; else it is only looked at, then forgotten */
    unsigned refs; /* by attempts */
};

enum live_stage {
    LIVE_FREE,
    LIVE_PLACING,
    LIVE_OFFERING,
    LIVE_PREPARING,
    LIVE_LAUNCHING,
    LIVE_RUNNING
};
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
    struct node_guest *guest; /* a peer's run; NULL: one of the queue's */
    unsigned tries;           /* offers so far */
    struct node_image *image;
    bool waits_for_image;
    bool asking;                /* the store or the images owe an answer for it */
    bool pulled;                /* its image was fetched: what is missing now stays missing */
    unsigned probe_rounds;      /* PLACING: how often peers were asked before */
    unsigned probes_out;        /* answers that are still awaited */
    uint64_t probes_until_ms;   /* it is placed without them then; 0: it does not wait */
    bool waits_for_programs;    /* PLACING: for what its image's programs need */
    uint64_t programs_until_ms; /* it is placed without then; 0: it has not waited */
    uint64_t started_ms;
    struct telemetry_fds fds;
    uint8_t cache; /* enum run_cache: the class that it really is in */
    struct telemetry_meter meter;
    struct telemetry_series series;
    uint64_t generation; /* told apart from another use of the same place */
};

/* ---- other nodes ---- */

/* How a member is reached. */
struct node_place {
    struct list link;
    char name[RUN_NODE_CAP];
    char host[64]; /* a literal address */
    uint16_t port;
    const char *state; /* static: gossip's word */
    bool tls;
    bool alive;
    bool draining;
    bool hidden;                  /* no agent of ours: it takes no runs */
    uint64_t gone_ms, scanned_ms; /* since when it is not alive; its copies were looked at */
    uint64_t asked_ms;            /* what became of its runs that we have copies of */
};

/* A POST to a peer. fn comes once, from the loop, never inside the call, unless it is cancelled. */
struct node_call;
/* rc 0: text is the answer, status 200. Else -Exxx, or -EREMOTEIO with the status of a refusal.
 * never: the peer has not got it, for sure. */
struct node_call_end {
    int rc;
    int status;
    bool never;
    struct str text;
    const char *why;
};
typedef void node_call_fn(void *arg, const struct node_call_end *end);

/* An attempt of ours that a peer has, or is asked to take. */
enum node_remote_state { REMOTE_OFFERED, REMOTE_HELD };

struct node_remote {
    struct list link;
    struct node *node;
    struct ulid id; /* the map's key */
    uint32_t epoch, attempt;
    char peer[RUN_NODE_CAP];
    enum node_remote_state state;
    bool started;
    bool stop;               /* it is to end: told again until it does */
    uint64_t heard_ms;       /* when the peer last said that it has it */
    uint64_t missing_ms;     /* since when the peer is no member; 0: it is one */
    struct node_call *offer; /* OFFERED */
    struct node_live *live;  /* OFFERED */
    uint64_t memory_bytes;
    bool ending; /* its end is being written down */
};

/* A body on its way from a peer into a file. */
struct node_fetch;
/* rc 0: all of it is in the file, durable. Comes once, from the loop, unless it is cancelled. */
typedef void node_fetch_fn(void *arg, int rc, const char *why);

/* A peer's attempt here, from its acceptance until the owner has taken its end. */
enum guest_stage {
    GUEST_NOTING,    /* its note and payload are being written; then the offer is answered */
    GUEST_BACK,      /* of an earlier life: the launcher says whether it runs or has ended */
    GUEST_FETCHING,  /* the payload comes from the owner */
    GUEST_PREPARING, /* image, launcher */
    GUEST_WAITING,   /* for the next try: there was no slot after all, or no payload */
    GUEST_RUNNING,
    GUEST_ENDED, /* until the owner has taken it */
    GUEST_OVER,  /* let go: freed as soon as no work is under way for it */
};

struct node_guest {
    struct list link;
    struct node *node;
    struct run run; /* id: the map's key */
    struct node_doc *doc;
    char owner[RUN_NODE_CAP];
    enum guest_stage stage;
    bool stop;             /* the owner wants its end */
    bool unwanted;         /* ... and does not want to hear of it */
    bool told;             /* the owner knows that it runs */
    bool gathered;         /* report has the samples and the files that are small */
    bool sent[NODE_FILES]; /* that need no transfer of their own (any more) */
    unsigned tries;
    uint64_t due_ms;   /* the next try at whatever waits; 0: nothing does */
    uint64_t ended_ms; /* when it ended here */
    struct node_report report;
    struct loop_work work; /* the note, or gathering */
    int work_rc;
    struct buf note;
    char *payload; /* of the offer, until it is written */
    size_t payload_len;
    struct node_fetch *fetch;
    struct node_call *call; /* `started` or `end` */
    struct http_call *put;  /* the file number `putting` */
    size_t putting;
    struct node_query *asks; /* who offered it and waits */
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
    bool has_spec;          /* the run has a document of its own */
    struct list image_wait; /* node.image_waits: nobody has the image yet, as far as is known */
    unsigned image_tries;
    struct list programs_wait; /* node.program_waits: what its image's programs need is being found
                                  out */
    uint64_t programs_until_ms;
    bool replayed;
    bool key_reused;
    bool claimed; /* the key is this run's in the whole cluster */
    char key[JOB_STORE_KEY_MAX + 1];
    char spool_name[64]; /* "" when there is nothing (any more) to remove */
    char *inline_payload;
    size_t inline_payload_len;
    char *callback_url; /* beside the document's; NULL: none */
    char callback_secret[TRIGGER_NAME_MAX + 1];
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
    uint32_t attempt;
    struct loop_defer later;
    struct node_error error; /* of an answer that waits for `later` */
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
    struct route_learn *learn; /* what runs teach; the core asks it */
    int health_told;           /* thousandths of ln(time) */
    bool learn_said;           /* that a row was odd */
    struct job_store *store;
    struct image_store *images_store;
    struct image_puller *puller;
    struct sandbox_client *client;
    struct sandbox_dns *dns; /* NULL once it is closed */
    struct telemetry_metrics *metrics;
    struct hardware_facts facts;
    char class_id[HARDWARE_CLASS_LEN + 1];
    uint32_t id32;
    struct ulid_gen ids;
    struct sandbox_hello hello;
    int runs_fd, spool_fd, samples_fd, guests_fd, outputs_fd, copies_fd;
    uint64_t started_ms;
    uint64_t next_token;
    uint64_t next_generation;
    bool said_hello, loading, ready, draining, drained, closing;
    bool stepping;       /* inside node_feed() */
    bool capacity_freed; /* to be told in the next round */
    /* Of the last step. */
    char last_offer[RUN_NODE_CAP];
    bool last_recall;
    enum node_guest_answer last_guest;

    struct http_client *http;         /* short questions between nodes */
    struct http_client *http_streams; /* whatever may take long */
    void (*on_tokens)(void *arg);     /* node_token_watch() */
    void *tokens_arg;
    struct list places; /* struct node_place */
    struct map place_names;
    struct list calls; /* struct node_call */
    struct map remotes;
    struct list remote_list;
    struct list copies; /* struct node_copy: what others have to know of our runs */
    struct map copy_ids;
    size_t copies_owed; /* of ended runs */
    struct list senders;
    struct loop_defer send;
    struct loop_timer send_late;
    struct list heirs; /* struct heir: being taken over */
    unsigned heirs_len;
    bool heir_scan, heir_more; /* a piece of a dead owner's copies is being read; there are more */
    uint32_t heir_owner;
    struct ulid heir_after;
    uint64_t heir_ms, strangers_ms; /* the next looks */
    uint64_t
        returned_ms;    /* until then an earlier life's runs wait for their holders' word; 0: not */
    struct list claims; /* struct claiming */
    struct loop_timer claim_timer;
    struct list end_waits; /* struct node_query: answered when that run's end is durable */
    struct map guests;
    struct list guest_list;
    size_t guests_live;                      /* not ended */
    uint64_t guests_stop_ms, guests_wait_ms; /* a drain: stop them then; wait for reports so long */
    uint64_t check_ms;                       /* the next look at what peers have of ours */
    struct table_shell *table;
    struct image_fetcher *fetcher;
    struct image_header identity[2]; /* what calls to peers carry */
    size_t identity_len;
    struct log_limit row_limit;
    struct list image_waits; /* struct node_request: their image may have been pushed elsewhere just
                                now, so it is looked for again */
    struct list programs; /* struct node_programs: what images' programs need; the oldest first */
    struct map program_digests;
    struct list program_waits; /* struct node_request */
    struct digest scanning;    /* the image that is looked at without a run of it */
    bool scan_busy;
    int programs_fd; /* db/programs */
    bool listing;    /* the images are being listed */
    uint64_t images_stamp, images_again_ms;

    struct loop_timer tick, ping, sample, retain, peers;
    struct loop_timer probes; /* runs for those that wait for answers of peers */
    struct loop_defer settle;
    struct list live, live_free, pending;
    struct node_live *lives;
    size_t lives_len;
    struct list images;
    struct list warm; /* struct node_warm */
    size_t warm_len;
    size_t images_len;
    struct node_docs docs; /* by run id */
    struct node_docs jobs; /* by name: the newest revision */
    struct map requests;   /* struct node_request by token */
    struct node_triggers *triggers;
    struct node_sensors *sensors;
    struct node_callbacks *callbacks;
    struct node_events *events_feed;
    struct list events; /* struct events of uv_node_hooks.c */
    uint8_t secrets_key[SEAL_KEY_BYTES];
    struct map submits; /* those that wait for the queue to store them, by run id */
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
    char fact_cpus[16], fact_llc[24], fact_mhz[16], fact_level[16];
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
/* What is on its way here of a run that is somebody else's; a sandbox ends by itself (STOP). */
void node_live_drop(struct node *n, struct ulid id);
struct node_live *node_live_add(struct node *n,
                                const struct run *run); /* NULL: the pool is empty */
void node_live_free(struct node_live *l);
/* uv_node_dns.c: what a run asks of DNS is answered; takes its socket over. l: NULL when nobody
 * knows the run. */
void node_dns_started(struct node *n, const struct node_live *l, int fd);
void node_dns_egress_set(void *arg, struct ulid run, uint32_t attempt, int rc, const char *text);
void node_live_answer(struct node_live *l, enum live_answer answer);
void node_live_fail(struct node_live *l, enum live_answer answer, enum run_reason reason,
                    const char *detail);
void node_live_settle(struct node_live *l);
void node_fx_place(struct node *n, const struct run *run);
void node_fx_prepare(struct node *n, const struct run *run);
void node_fx_launch(struct node *n, const struct run *run);
void node_fx_stop(struct node *n, struct ulid id, uint32_t attempt);
void node_sample_all(struct node *n);
size_t node_running(const struct node *n); /* attempts that run here, guests counted */
void node_image_forget(struct node *n, struct node_image *img);

/* The resolved image of that digest that is remembered, or NULL. */
struct node_image *node_image_find(struct node *n, const struct digest *d);
struct node_image *node_image_add(struct node *n, struct image_resolved *resolved); /* takes it */
/* Asks for every layer that is not there. Whoever waits for it hears of it. */
void node_image_unpack(struct node *n, struct node_image *img);
/* It can be started: unpacked, and read. */
void node_image_ready(struct node *n, struct node_image *img);

/* -- uv_node_programs.c: what the programs of images need of a processor -- */
enum { NODE_PROGRAMS_MAX = 4096, NODE_PROGRAMS_WAIT_MS = 5000, NODE_PROGRAMS_PEER_MS = 3000 };
void node_programs_init(struct node *n, uint64_t k0, uint64_t k1);
int node_programs_load(struct node *n, struct err *e); /* what is remembered of an earlier life */
void node_programs_free(struct node *n);
/* What is known of the image, here or from the table; NULL: nothing (yet). */
const struct image_programs *node_programs_get(struct node *n, const struct digest *d);
/* Is it worth waiting for it? It is if the image is here (then it is being looked at from now on),
 * or a peer has it that has not looked yet; no longer than until *until_ms, which is set the first
 * time. */
bool node_programs_pending(struct node *n, const struct digest *d, uint64_t most_ms,
                           uint64_t *until_ms);
/* An image was pushed, or is here without having been looked at. */
void node_programs_want(struct node *n, const struct digest *d);
/* The layers of img are there: reads their indexes on a pool thread, then node_image_ready(). */
void node_programs_read(struct node *n, struct node_image *img);
/* An image could not be unpacked: whoever waits only for what it needs waits no longer. */
void node_programs_unpack_failed(struct node *n, const struct digest *d);
/* Four times a second, and when something came: those who wait look again. */
void node_programs_look(struct node *n);
/* Fills in what the image asks of a node. */
void node_programs_request(struct node *n, const struct run *run, const struct job *job,
                           struct route_request *req);
/* Does this node have what the run's image needs? False: e says what is missing. */
bool node_programs_fit(struct node *n, const struct run *run, const struct job *job, struct err *e);
/* GET /v1/images: the list with what is known of each. */
void node_programs_list(struct node *n, struct str list, struct buf *out);

/* -- uv_node_probe.c: how busy peers are, asked just before a decision -- */
enum { NODE_PROBE_WAIT_MS = 5, NODE_PROBE_ANSWER_MS = 500 };
void node_probes_init(struct node *n);
/* True: peers are asked, and LIVE_ASK_PLACE comes when they have answered or time is up. */
bool node_probes_ask(struct node_live *l, const struct node_event *place);

/* -- uv_node_upstream.c -- */
int node_upstream_start(struct node *n, struct err *e);
void node_upstream_reload(struct node *n);
/* image_store_resolve(), after pulling what is not here and has an upstream. */
int node_image_resolve(struct node *n, const struct image_ref *ref, image_resolve_fn *fn,
                       void *arg);

/* -- uv_node_warm.c: images of registered jobs stay -- */
void node_image_keep(struct node *n, const struct job *job);
void node_image_let_go(struct node *n, const char *job);
void node_images_keep_all(struct node *n);
void node_images_kept_free(struct node *n);
extern const struct sandbox_client_events node_sandbox_events;

/* -- uv_node_submit.c: accepting, cancelling, retrying -- */
void node_fx_accept(struct node *n, const struct job_effect *fx);
void node_images_again(struct node *n); /* looks for the images of those that wait */
/* The image of a submit is known, and what its programs need as far as it will be: goes on. */
void node_submit_placeable(struct node_request *r);
void node_fx_answer(struct node *n, const struct job_effect *fx);
struct node_request *node_request_new(struct node *n, enum node_op op, node_run_fn *fn, void *arg);
void node_request_free(struct node_request *r);
void node_request_fail(struct node_request *r, enum node_code code, unsigned retry_after_s,
                       const struct job_problems *problems, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* Answers with the error, from the loop. */
void node_request_refuse(struct node_request *r, const struct node_error *error);

/* -- uv_node_hooks.c, uv_node_secrets.c -- */
void node_hooks_free(struct node *n);
/* -- uv_node_sensors.c: -EINVAL, -EIO (mqtt.url), -Exxx (its password) -- */
int node_sensors_start(struct node *n, uint64_t k0, uint64_t k1, struct err *e);
void node_sensors_metrics(struct node *n, struct buf *out); /* nothing without a broker */
void node_sensors_close(struct node *n);
void node_sensors_free(struct node *n);
int node_secrets_start(struct node *n, struct err *e);
void node_secrets_free(struct node *n);
/* Appends the secret's bytes; the caller wipes them. -ENOENT, -EBADMSG (another key), -ENOMEM. */
int node_secret_get(struct node *n, struct str name, struct buf *out, struct err *e);
/* What sandbox_client_run() takes for a run of this job; nothing when it has no secrets. The caller
 * wipes *out. Errors as above. */
int node_secrets_of(struct node *n, const struct job *job, struct buf *out, struct err *e);

/* -- uv_node_api.c -- */
void node_watchers_tell(struct node *n, const struct run *run);
void node_metrics_ended(struct node *n, const struct run *run);
enum { NODE_SAMPLES_NAME_CAP = ULID_TEXT_CAP + 12 };
void node_samples_name(struct ulid id, uint32_t attempt, char dst[NODE_SAMPLES_NAME_CAP]);
/* Keeps an ended attempt's samples for GET /v1/runs/{id}/samples; not durable. */
void node_samples_keep(struct node_live *l);
/* The same document for the owner of a guest; none when there are none, or they are too many. */
void node_samples_text(struct node_live *l, struct node_bytes *ret);
void node_placement_keep(struct node *n, const struct node_event *ev,
                         const struct node_effects *fx);

static inline const char *node_id_text(struct ulid id, char dst[ULID_TEXT_CAP])
{
    ulid_format(id, dst);
    return dst;
}

/* -- uv_node_peer.c: how peers are reached, and what they ask -- */
void node_peers_init(struct node *n, uint64_t k0, uint64_t k1);
int node_peers_start(struct node *n, struct err *e);
void node_peers_look(struct node *n); /* four times a second */
uint32_t node_id_of(struct str name); /* what a run's id has of its entry node */
void node_peers_free(struct node *n);
/* Tells the core, too. host: a literal address. */
void node_place_set(struct node *n, const struct node_place *p);
void node_place_gone(struct node *n, struct str name);
const struct node_place *node_place_find(const struct node *n, struct str name);
struct node_call *node_call_post(struct node *n, const char *peer, const char *target,
                                 const struct buf *body, uint64_t deadline_ms, node_call_fn *fn,
                                 void *arg);
struct node_call *node_call_cancel(struct node_call *c); /* NULL is fine; returns NULL */
/* GET target of that peer into the file name (new, mode 0444) of dirfd; bytes: its exact length.
 * NULL: no memory. */
struct node_fetch *node_fetch_start(struct node *n, const char *peer, const char *target, int dirfd,
                                    const char *name, uint64_t bytes, node_fetch_fn *fn, void *arg);
struct node_fetch *node_fetch_cancel(struct node_fetch *f); /* NULL is fine; returns NULL */
/* A question of a peer; answered by node_query_say() or node_query_refuse(), from the loop. */
struct node_query *node_query_new(struct node *n, node_text_fn *fn, void *arg);
void node_query_say(struct node_query *q, enum node_says says);
void node_query_text(struct node_query *q); /* q->text is the answer */
void node_query_refuse(struct node_query *q, enum node_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* -- uv_node_cluster.c: gossip and table -- */
int node_cluster_start(struct node *n, struct err *e);
void node_cluster_ready(struct node *n);
void node_cluster_capability(struct node *n); /* what this node is has changed */
void node_cluster_look(struct node *n);       /* four times a second: what else has changed */
void node_cluster_job_put(struct node *n, const struct job *job);
void node_cluster_job_deleted(struct node *n, const char *name);
/* The ids of all who could look after something: live members that are not draining, this node
 * among them. Members that see each other agree, and so on the rendezvous order. Returns how many;
 * cap is over 0. */
size_t node_live_ids(const struct node *n, uint32_t *ids, size_t cap);
/* What the cluster says that a tag is; false: nobody has it. */
bool node_cluster_tag(const struct node *n, const char *repository, const char *tag,
                      struct digest *ret);

/* -- uv_node_pull.c: images of other nodes -- */
int node_pull_start(struct node *n, struct err *e);
/* Fetches the run's image by its digest; `first` is asked first when it has it ("": nobody). fn
 * comes when 0 is returned. -ENOENT: no member has it; as image_fetch_start(). */
int node_pull_image(struct node *n, const struct run *run, const char *first, image_fetch_fn *fn,
                    void *arg, struct err *e);
/* here: what the reference is in this node's store, or NULL. True: in the cluster it is something
 * else, *ret. */
bool node_pull_newer(const struct node *n, const struct image_ref *ref, const struct digest *here,
                     struct digest *ret);
/* Does a live member say that it has this image? */
bool node_cluster_has(const struct node *n, const struct digest *d);

/* -- uv_node_remote.c: runs of ours that peers have -- */
void node_remote_offer(struct node_live *l, const char *peer);
/* False: no peer has it. */
bool node_remote_stop(struct node *n, struct ulid id, uint32_t attempt);
/* Before RECOVERED: the run is on another node, as far as the store knows. */
void node_remote_recover(struct node *n, const struct run *run);
void node_remote_ended(struct node *n, const struct run *run); /* JOB_FX_ENDED */
void node_remote_peer_gone(struct node *n, const char *peer);
void node_remote_look(struct node *n); /* every NODE_CHECK_MS */
void node_remote_free_all(struct node *n);
/* The remote when the peer has just this attempt, else NULL. */
struct node_remote *node_remote_match(struct node *n, struct str peer, struct ulid id,
                                      uint32_t epoch, uint32_t attempt);
void node_remote_said_started(struct node *n, struct node_query *q, struct str from,
                              struct str body);
void node_remote_said_ended(struct node *n, struct node_query *q, struct str from, struct str body);

/* The attempt is at run->node, under its new epoch: it is asked at once. */
void node_remote_adopt(struct node *n, const struct run *run);
/* The run is somebody else's: what a peer has of it reports there. */
void node_remote_drop(struct node *n, struct ulid id);

/* -- uv_node_guest.c, uv_node_report.c: runs of peers here -- */
/* Its owner is gone: this one speaks for it now. False: there is no such attempt. */
bool node_guest_adopt(struct node *n, struct ulid id, uint32_t attempt, uint32_t epoch,
                      const char *owner);
bool node_guest_has(struct node *n, struct ulid id, uint32_t attempt);
struct node_guest *node_guest_find(struct node *n, struct ulid id);
void node_guest_offered(struct node *n, struct node_query *q, struct str from, struct str body);
void node_guest_cancelled(struct node *n, struct node_query *q, struct str from, struct str body);
void node_guest_checked(struct node *n, struct node_query *q, struct str from, struct str body);
void node_guest_settled(struct node_live *l, enum live_answer answer);
void node_guest_started(struct node_guest *g, const struct sandbox_started *s, enum run_start kind);
void node_guest_ended(struct node_guest *g, const struct job_result *r);
void node_guest_let_go(struct node_guest *g);
void node_guest_over(struct node_guest *g);
int node_guests_load(struct node *n);                     /* at the start, before ADOPT */
void node_guests_adopted(struct node *n);                 /* the launcher has told all */
void node_guests_look(struct node *n);                    /* whatever is due */
void node_guests_kick(struct node *n, const char *owner); /* it is back: report now */
void node_guests_drain(struct node *n, uint64_t grace_ms);
bool node_guests_drained(struct node *n);
void node_guests_free(struct node *n);
void node_report_go(struct node_guest *g); /* the next step of telling the owner the end */
void node_report_started(struct node_guest *g);

/* -- uv_node_copy.c: copies of this node's runs (agent/node/uv_node_copy.h) -- */
/* Fills in who shall have copies of a new run. */
void node_copy_choose(const struct node *n, struct run *run);
/* Are there members enough to hold copies of a new run? */
bool node_copy_enough(const struct node *n);
/* A new run goes to its holders while the store writes it. STORED follows when both have it. */
void node_copy_accept(struct node *n, const struct run *run, uint64_t seq);
void node_copy_accepted(struct node *n, struct ulid id, int status); /* what the store said */
void node_copy_stored(struct node *n, const struct run *run);        /* any later JOB_FX_STORE */
void node_copy_recovered(struct node *n, const struct run *run);     /* of an earlier life */
void node_copy_own(struct node *n,
                   const struct run *run); /* taken over: its holders get it whole */
/* That holder is told this record, whoever owns it. */
void node_copy_tell(struct node *n, const struct run *run, uint32_t holder);
void node_copy_look(struct node *n);
void node_copy_member(struct node *n, uint32_t id, bool came);
/* Has every holder that there is heard everything? */
bool node_copy_is_settled(const struct node *n);
void node_copies_free(struct node *n);

/* -- uv_node_send.c -- */
void node_send_all(struct loop_defer *d);
void node_send_late(struct loop_timer *t);
void node_senders_free(struct node *n);

/* -- uv_node_holder.c: copies that this node keeps -- */
void node_holder_asked(struct node *n, struct node_query *q, struct str from, struct str body);
/* An owner is asked what became of runs that we have unfinished copies of. */
void node_holder_check(struct node *n, const char *owner);
void node_holder_checked(struct node *n, struct node_query *q, struct str from, struct str body);
void node_holder_where(struct node *n, struct node_query *q, struct str body);

/* -- uv_node_heir.c: owners that die, and come back -- */
void node_heir_look(struct node *n);
void node_heir_gone(struct node *n, uint32_t owner); /* gossip says so */
/* After a start: waits until the holders of unfinished runs have said whose they are; then goes on
 * with sandbox_client_adopt(). */
void node_heir_return(struct node *n);
void node_heirs_free(struct node *n);

/* -- uv_node_locate.c -- */
/* name: who to ask for the run; "": this node; NULL: nobody. run: its record, as far as known. */
typedef void node_locate_fn(void *arg, const char *name, const struct run *run);
/* far: when nothing of it is here all members are asked. */
void node_locate(struct node *n, struct ulid id, bool far, node_locate_fn *fn, void *arg);

/* -- uv_node_claim.c -- */
/* NODE_OK and run NULL: the key is ours. NODE_OK and a run: it is that one's, of an equal request.
 * NODE_KEY_REUSED: of another request. NODE_KEY_IN_FLIGHT: of a run that nobody knows yet.
 * NODE_STARTING: nobody could be asked. */
typedef void node_claim_fn(void *arg, enum node_code code, const struct run *run);
/* False: this node is alone, and fn does not come: its own store knows all keys. */
bool node_claim(struct node *n, struct str key, struct ulid run, const uint8_t hash[32],
                node_claim_fn *fn, void *arg);
void node_claims_due(struct loop_timer *t);
void node_claim_drop(struct node *n, struct str key, struct ulid run);
void node_claim_asked(struct node *n, struct node_query *q, struct str body);
void node_claims_free(struct node *n);

/* -- uv_node_learn.c: what runs teach -- */
enum { NODE_PROFILES_SHOWN = 1000 };
int node_learn_init(struct node *n, struct err *e); /* after the facts are known */
void node_learn_release(struct node *n);
/* An attempt ended here, ours or a guest's. */
void node_learn_ended(struct node *n, const struct run *run, const struct job_result *result,
                      const struct telemetry_totals *totals);
/* The limit of a run that is about to be accepted: what its job needed, unless its document asks
 * for another than the default. */
void node_learn_size(struct node *n, struct run *run);
int node_learn_start(struct node *n); /* what the table has, and what comes; after it is open */

/* -- uv_node_clean.c: what nothing needs any more -- */
void node_removal_add(struct node *n, struct ulid run, uint32_t attempt);
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
/* A new file of mode 0444 in the place of any of that name: the descriptor or -Exxx. */
int node_file_new(int dirfd, const char *name);
int node_file_write(int dirfd, const char *name, const void *data, size_t n); /* not synced */
/* What an attempt on a peer left, as a directory "<RUNID>.<attempt>" like the launcher's: the files
 * that are there, each durable. */
int node_output_write(int outputs_fd, const char *dir_name,
                      const struct node_bytes files[NODE_FILES]);
/* The same for a copy of a record's files: nobody is promised that they survive a power cut. */
int node_output_copy(int outputs_fd, const char *dir_name, const struct str files[NODE_FILES]);
/* Moves spool/`name` there as `file`. */
int node_output_move(int outputs_fd, const char *dir_name, const char *file, int spool_fd,
                     const char *name);
/* Reads the files of runs/`dir_name` that are small enough (all together NODE_MSG_FILES_MAX) into
 * files, and says in sent[] which are not left to be sent apart. None when the attempt wrote
 * nothing. */
int node_output_gather(int runs_fd, const char *dir_name, struct node_bytes files[NODE_FILES],
                       bool sent[NODE_FILES]);
/* A file of an attempt's directory, for reading: the descriptor and its length, or -Exxx. */
int node_output_file(int dirfd, const char *dir_name, const char *file, uint64_t *ret_bytes);
/* Calls fn with the name and text of each file in the directory. */
int node_notes_each(int dirfd, void (*fn)(void *arg, const char *name, struct str text), void *arg);

/* -- uv_node_tokens.c -- */
int node_tokens_start(struct node *n);

#endif
