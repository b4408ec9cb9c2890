/*
 * node - one machine of the cluster: joins the cores (jobs, routing) with the store, the images and
 * the sandbox. This header is what api/ sees of it.
 *
 * node.c is pure glue between the cores; uv_node.c runs its effects on the loop. All calls are for
 * the loop's thread. Answers come through callbacks, later, from the loop, never inside the call; a
 * caller that goes away before its answer gives up with node_forget(arg), after which nothing is
 * called with that arg. Pointers in answers are valid during the callback.
 */
#ifndef AGENT_NODE_NODE_H
#define AGENT_NODE_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/jobs/jobs.h"
#include "agent/sandbox/sandbox.h"
#include "agent/triggers/cloudevent.h"
#include "agent/triggers/hook.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/ids.h"
#include "common/settings.h"

struct loop; /* common/loop/loop.h */

struct node;
struct image_puller;
struct image_store;

/* What went wrong, with a stable name for clients (node_code_name) and the HTTP status that says
 * it. */
enum node_code {
    NODE_OK,
    NODE_BAD_JSON,         /* 400: detail has line and column */
    NODE_INVALID_DOCUMENT, /* 422: problems names each field */
    NODE_UNKNOWN_JOB,      /* 404 */
    NODE_UNKNOWN_RUN,      /* 404 */
    NODE_UNKNOWN_IMAGE,    /* 422 */
    NODE_PRECONDITION,     /* 412: If-Match */
    NODE_KEY_REUSED,       /* 422: Idempotency-Key with another body */
    NODE_KEY_IN_FLIGHT,    /* 409 */
    NODE_QUEUE_FULL,       /* 503 + Retry-After */
    NODE_NO_MATCH,         /* 422: no node can ever run this */
    NODE_DISK_FULL,        /* 507 */
    NODE_DRAINING,         /* 503 + Retry-After */
    NODE_CONFLICT,         /* 409: the run's state does not allow it */
    NODE_STARTING,         /* 503 + Retry-After: not ready yet */
    NODE_FORBIDDEN,        /* 403: switched off by configuration */
    NODE_UNAUTHORIZED,     /* 401: a web hook that is not from who it says */
    NODE_REPLAYED,         /* 409: a web hook whose signed time is not now */
    NODE_IGNORED,          /* 200: a web hook whose condition does not hold; nothing was done */
    NODE_UNKNOWN_SECRET,   /* 404 */
    NODE_TOO_FEW,          /* 503 + Retry-After: fewer copies than store.replicas_min */
    NODE_UNKNOWN_TRIGGER,  /* 404 */
    NODE_AMBIGUOUS,        /* 409: the name fits several triggers */
    NODE_UNKNOWN_CALLBACK, /* 404 */
    NODE_INTERNAL,         /* 500 */
};

struct node_error {
    enum node_code code;
    char detail[ERR_TEXT_MAX];
    unsigned retry_after_s;              /* 0: none */
    const struct job_problems *problems; /* with NODE_INVALID_DOCUMENT, else NULL */
};

const char *node_code_name(enum node_code code); /* "unknown_job" */
int node_code_status(enum node_code code);       /* 404 */

/* -- jobs -- */

/* job is NULL when error is not NULL. changed: something differs from the revision before (or it is
 * new: created). */
typedef void node_job_fn(void *arg, const struct node_error *error, const struct job *job,
                         bool created, bool changed);
/* document: the JSON text as sent. if_match: 0, or the revision that must be current. */
void node_job_put(struct node *n, struct str name, struct str document, uint32_t if_match,
                  node_job_fn *fn, void *arg);
void node_job_get(struct node *n, struct str name, uint32_t revision /* 0: newest */,
                  node_job_fn *fn, void *arg);
void node_job_delete(struct node *n, struct str name, node_job_fn *fn, void *arg);

typedef void node_jobs_fn(void *arg, const struct node_error *error, const struct job *const *jobs,
                          size_t jobs_len, const char *next /* cursor or NULL */);
void node_job_list(struct node *n, struct str after, size_t limit, node_jobs_fn *fn, void *arg);

/* -- runs -- */

struct node_submit {
    struct str job;      /* a registered job's name, or empty: a one-off */
    struct str document; /* one-off: its JSON text. Registered: overrides, may be empty */
    /* The payload as the API stored it: a file in spool/ (name without '/'); empty: none. The node
     * takes the file over: it is renamed or removed in every case. */
    struct str spool_name;
    uint64_t payload_bytes;
    struct str payload; /* instead of a file: the bytes themselves; copied */
    enum run_trigger trigger;
    int64_t scheduled_us;       /* RUN_TRIGGER_SCHEDULE: the planned time */
    struct str idempotency_key; /* may be empty */
    struct str callback_url;    /* who is told of its end, beside the document's; empty: nobody */
    struct str callback_secret; /* the secret's name that this is signed with; may be empty */
    uint8_t request_hash[32]; /* SHA-256 over method, target and body: tells a repeated request from
                               another one with the same key */
};

/* run is NULL when error is not NULL. replayed: the key was known, this is the run of then. */
typedef void node_run_fn(void *arg, const struct node_error *error, const struct run *run,
                         bool replayed);
/* Answers when the run is durable. What *submit points at is copied before this returns. */
void node_submit(struct node *n, const struct node_submit *submit, node_run_fn *fn, void *arg);
void node_run_get(struct node *n, struct ulid id, node_run_fn *fn, void *arg);
/* Answers with the run as it is after the request; a run that has ended: NODE_CONFLICT. */
void node_run_cancel(struct node *n, struct ulid id, node_run_fn *fn, void *arg);
/* A new attempt of a run that ended without success. */
void node_run_retry(struct node *n, struct ulid id, node_run_fn *fn, void *arg);

struct node_run_filter {
    struct str job;    /* empty: any */
    uint32_t states;   /* BIT(RUN_…) or 0: any */
    struct ulid after; /* only older ones; zero: from the newest */
    size_t limit;      /* 1 to 1,000 */
};
typedef void node_runs_fn(void *arg, const struct node_error *error, const struct run *runs,
                          size_t runs_len, bool more);
void node_run_list(struct node *n, const struct node_run_filter *filter, node_runs_fn *fn,
                   void *arg);

/* Every state change of one run (or of all: id NULL) from now on, as it happens. The watch lives
 * until node_unwatch(), which may be called from the callback. At most 65,536 watches: NULL beyond.
 */
struct node_watch;
typedef void node_watch_fn(void *arg, const struct run *run);
struct node_watch *node_run_watch(struct node *n, const struct ulid *id, node_watch_fn *fn,
                                  void *arg);
struct node_watch *node_unwatch(struct node_watch *w); /* NULL is fine; returns NULL */

/* Samples and placement of one run as JSON documents (text is NULL with an error). */
typedef void node_text_fn(void *arg, const struct node_error *error, struct str text);
void node_run_samples(struct node *n, struct ulid id, node_text_fn *fn, void *arg);
void node_run_placement(struct node *n, struct ulid id, node_text_fn *fn, void *arg);

/* What would be decided now for a run of this job. */
void node_job_placement(struct node *n, struct str name, node_text_fn *fn, void *arg);

/* What runs taught: {"profiles": […], "health": …}, and all that is known of one job (false, and
 * nothing written: no run of it ended yet, anywhere). */
void node_profiles_json(struct node *n, struct json_w *w);
bool node_profile_json(struct node *n, struct str job, struct json_w *w);

/* The directory runs/ for sandbox_output_… (agent/sandbox/sandbox.h); stays the node's. */
int node_runs_dirfd(const struct node *n);
/* The directory spool/ for payloads on their way in; stays the node's. */
int node_spool_dirfd(const struct node *n);

/* An attempt's output: of one that ran here, or that a peer ran for us and has handed over.
 * -ENOENT: neither. On a pool thread, too. */
int node_output_open(const struct node *n, struct ulid id, uint32_t attempt,
                     struct sandbox_output **ret, struct err *e);

/* -- other nodes -- */

struct http_call;
struct http_client;
struct http_target;

/* What a peer asks of this node: the bodies and answers are agent/node/node_msg.h's. */
enum node_ask {
    NODE_ASK_OFFER,     /* will you take this run? */
    NODE_ASK_CANCEL,    /* end it */
    NODE_ASK_CHECK,     /* do you have these? */
    NODE_ASK_STARTED,   /* it runs */
    NODE_ASK_END,       /* it has ended */
    NODE_ASK_PROBE,     /* how busy are you? */
    NODE_ASK_REPLICATE, /* keep copies of these (agent/node/node_copy_msg.h) */
    NODE_ASK_COPIES,    /* we have copies of these: what became of them? */
    NODE_ASK_WHERE,     /* who has this run? */
    NODE_ASK_CLAIM,     /* a key for the whole cluster */
};
/* from: who asks, as it was authenticated. Any node_error is said before anything was taken. */
void node_peer_asks(struct node *n, enum node_ask ask, struct str from, struct str body,
                    node_text_fn *fn, void *arg);
/* The payload of a run that this peer has of ours: a descriptor, which is the caller's, and its
 * length. -ENOENT: it has no such run. */
int node_peer_payload(struct node *n, struct str from, struct ulid id, uint64_t *ret_bytes);
/* May this peer hand over such a file of an attempt? NODE_OK or the reason in *ret. */
enum node_code node_peer_may_put(struct node *n, struct str from, struct ulid id, uint32_t attempt,
                                 struct str file, uint64_t bytes, struct node_error *ret);
/* It has come: spool_name (in spool/, durable) is taken over in every case. 0 or -Exxx. */
int node_peer_put(struct node *n, struct str from, struct ulid id, uint32_t attempt,
                  struct str file, const char *spool_name);

/* May a file come ahead of its record (a copy's payload, or "stdout", …)? */
enum node_code node_peer_may_copy(struct node *n, struct str file, uint64_t bytes,
                                  struct node_error *ret);
int node_peer_copy_put(struct node *n, struct ulid id, uint32_t attempt, struct str file,
                       const char *spool_name);

/* Where a run's attempt is now, when that is a peer: its name into dst. */
enum { NODE_NAME_CAP = RUN_NODE_CAP };
bool node_run_is_elsewhere(struct node *n, struct ulid id, uint32_t attempt,
                           char dst[NODE_NAME_CAP]);
/* Who accepted a run, by its id: false when that was this node, or nobody who is there. */
bool node_run_owner(struct node *n, struct ulid id, char dst[NODE_NAME_CAP]);
/* Does this node's queue have it? */
bool node_run_is_mine(struct node *n, struct ulid id);
/* Who is to be asked for a run whose entry node is gone, or has given it up: text is that node's
 * name; empty: this one (or nobody). far: all members are asked when nothing of it is here. */
void node_run_locate(struct node *n, struct ulid id, bool far, node_text_fn *fn, void *arg);
/* How a member is reached: false when it is not known. host stays valid until the next event. */
bool node_target(const struct node *n, struct str name, struct http_target *ret);
/* The other members of the cluster, in no particular order: *pos starts at 0. */
struct node_member {
    const char *name;
    char address[96];  /* of its API */
    const char *state; /* "alive", "suspect", "dead", "left" */
    bool alive;
    bool hidden; /* not an agent of ours: it has no API */
};
bool node_member_next(const struct node *n, size_t *pos, struct node_member *ret);
/* The client for calls that may take long, and what every call to a peer says of this node. */
struct http_client *node_http(struct node *n);
void node_identify(const struct node *n, struct http_call *call);

/* -- what sets a job off -- */

/* A web hook as it came. */
struct node_hook_call {
    struct str job;
    struct str hook;
    const struct trigger_hook_header *headers;
    size_t headers_len;
    struct str query; /* still percent-encoded */
    struct str body;
};
/* Verifies it, and triggers the run when its condition holds (else NODE_IGNORED). A delivery that
 * came before gives the run of then. What *call points at is copied as needed. */
void node_hook(struct node *n, const struct node_hook_call *call, node_run_fn *fn, void *arg);
/* The headers that the sender of this hook would send with the body. -ENOENT: no such hook, or
 * secret. */
int node_hook_sign(struct node *n, struct str job, struct str hook, struct str body,
                   struct buf *ret_headers, struct err *e);
/* Triggers every job with a trigger that an event matches: {"runs": [{"id", "job", "replayed"} or
 * {"code", "detail"}], "matched": n}, when all of them are durable. */
void node_event(struct node *n, const struct trigger_cloudevent *events, size_t events_len,
                node_text_fn *fn, void *arg);
/* {"triggers": [...]}: of one job, or (job empty) of all: kind, name, next firing, … */
void node_trigger_list(struct node *n, struct str job, node_text_fn *fn, void *arg);
/* A trigger is "JOB/NAME", or "JOB/KIND/NAME" (kind: schedule, hook, sensor, event, after), or
 * "JOB" where that is enough: NODE_UNKNOWN_TRIGGER, NODE_AMBIGUOUS. */

/* All of a job's ("JOB"), or one: nothing of them sets a run off until they are resumed, on any
 * node and over restarts. Firings missed meanwhile are not made up for. Answers {} when it is
 * durable. */
void node_trigger_pause(struct node *n, struct str trigger, bool paused, node_text_fn *fn,
                        void *arg);
/* Sets a run off now, whatever its condition says, paused or not; payload: the run's. */
void node_trigger_fire(struct node *n, struct str trigger, struct str payload, node_run_fn *fn,
                       void *arg);
/* Would this input set it off? {"would_fire", "paused", "detail", …}; nothing is started and no
 * signature looked at. body: the hook's payload, the sensor's reading, the event (structured), or
 * {"job", "state"} of the job before; a schedule takes none and says its next times. */
struct node_trigger_input {
    struct str body;
    struct str topic; /* of a sensor's message; may be empty */
    struct str query; /* of a hook's call */
    const struct trigger_hook_header *headers;
    size_t headers_len;
};
void node_trigger_test(struct node *n, struct str trigger, const struct node_trigger_input *in,
                       node_text_fn *fn, void *arg);

/* -- call-backs: deliveries of runs that ended here -- */

enum { NODE_CALLBACK_ID_MAX = 40 };
/* {"callbacks": [...], "more"}, the newest first; job, state: empty: any. limit: 1 to 1,000. */
void node_callback_list(struct node *n, struct str job, struct str state, size_t limit,
                        node_text_fn *fn, void *arg);
bool node_callback_is_here(const struct node *n, struct str id);
bool node_callback_state_ok(struct str state); /* "waiting", "delivered", … */
/* Sends it now, whatever became of it, with all its tries before it. Answers with it.
 * NODE_CONFLICT: it is being sent. */
void node_callback_retry(struct node *n, struct str id, node_text_fn *fn, void *arg);

enum { NODE_SECRET_MAX = 64 * 1024 };
/* value: 1 to NODE_SECRET_MAX bytes. Answers {} when it is durable. */
void node_secret_put(struct node *n, struct str name, struct str value, node_text_fn *fn,
                     void *arg);
void node_secret_delete(struct node *n, struct str name, node_text_fn *fn, void *arg);
/* {"secrets": [{"name", "updated_at", "by"}]}; never a value. */
void node_secret_list(struct node *n, node_text_fn *fn, void *arg);

/* -- the feed: what this node sees, as CloudEvents -- */

struct node_feed_event {
    const char *id;   /* of the event, and for node_feed_begin() */
    const char *type; /* "agent.run.succeeded" */
    const char *job;  /* "": of none */
    struct str text;  /* the event: JSON, on one line */
};
/* fn is called, from the loop, when there is more to read; it may close readers. NULL: no memory.
 */
struct node_feed_reader;
struct node_feed_reader *node_feed_open(struct node *n, void (*fn)(void *arg), void *arg);
struct node_feed_reader *node_feed_close(struct node_feed_reader *r); /* NULL is fine; NULL */
/* Where to read on: behind that event; empty: from now on. *ret_whole false: some that came after
 * it are not remembered (or it is of another life of the node): from the oldest that is. */
uint64_t node_feed_begin(struct node *n, struct str last_id, bool *ret_whole);
/* 1: *ret, valid until the next event, and *pos is behind it. 0: nothing yet. -ESTALE: the one at
 * *pos is forgotten. */
int node_feed_next(struct node *n, uint64_t *pos, struct node_feed_event *ret);

/* -- the node itself -- */

void node_self_json(struct node *n, struct json_w *w);         /* Node */
void node_status(struct node *n, node_text_fn *fn, void *arg); /* Status */
/* Prometheus text. The API appends its own families. */
void node_metrics(struct node *n, struct buf *out);
bool node_is_self(const struct node *n, struct str name);
/* Ready: the launcher answered, the store is open, earlier runs are taken up again. */
bool node_is_ready(const struct node *n);
bool node_is_draining(const struct node *n);
/* No new runs are taken; waiting ones stay in the store, running ones go on. */
void node_set_draining(struct node *n, bool draining);
/* May a payload of this size be taken (disk, queue, draining)? Asked before a body is read. NODE_OK
 * or the reason in *ret (may be NULL). */
enum node_code node_admits(struct node *n, uint64_t payload_bytes, struct node_error *ret);

/* -- images (the management side; /v2 is the registry's own) -- */

/* The documents of GET /v1/images, DELETE /v1/images/{name} and POST /v1/images/prune ({"images",
 * "blobs","bytes"}: what went). reference: a tag or a digest; empty: the whole repository.
 * NODE_UNKNOWN_IMAGE when there is none. */
void node_image_list(struct node *n, node_text_fn *fn, void *arg);
void node_image_delete(struct node *n, struct str repository, struct str reference,
                       node_text_fn *fn, void *arg);
void node_image_prune(struct node *n, node_text_fn *fn, void *arg);

/* -- the cluster's tokens -- */

/* One line of common/token.h each, by name. What a row says is not checked here. */
typedef void node_token_fn(void *arg, struct str name, struct str line);
void node_token_each(const struct node *n, node_token_fn *fn, void *arg);
/* 0: it counts at once, on other nodes within seconds; fn(arg, status) comes when it is durable
 * here, unless node_forget() came first. Else -Exxx and fn does not come: -ENOBUFS: the table takes
 * no more. */
typedef void node_written_fn(void *arg, int status);
int node_token_put(struct node *n, struct str name, struct str line, node_written_fn *fn, void *arg,
                   struct err *e);
int node_token_delete(struct node *n, struct str name, node_written_fn *fn, void *arg,
                      struct err *e);
/* changed(arg) after every change, here or elsewhere. One watcher; NULL: none. */
void node_token_watch(struct node *n, void (*changed)(void *arg), void *arg);

struct loop *node_loop(struct node *n);
const struct settings *node_settings(const struct node *n);
struct image_store *node_images(struct node *n);
/* What pulls from upstreams; lives as long. */
struct image_puller *node_image_puller(struct node *n);

/* The caller behind arg is gone: none of its callbacks is called any more. Cheap when there is
 * none. */
void node_forget(struct node *n, void *arg);

#endif
