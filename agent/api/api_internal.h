/*
 * api_internal - what the uv_ files of agent/api share.
 *
 * A struct api_call is one request on its way. It is the `arg` of every callback of node.h: when
 * the client goes away the call forgets the node's answers (node_forget), its watch and its
 * deadline, lets on_gone release what the operation holds, and is freed. Work in the thread pool
 * never points at a call.
 */
#ifndef AGENT_API_INTERNAL_H
#define AGENT_API_INTERNAL_H

#include "agent/api/api.h"
#include "agent/api/api_request.h"
#include "common/heap.h"
#include "common/json.h"
#include "common/list.h"
#include "common/log.h"
#include "common/loop/loop.h"

enum {
    API_DEADLINES_MAX = 65536,
    API_EVENT_CLIENTS_MAX = 256,
    API_FOLLOWERS_MAX = 1024,
    API_REQUEST_ID_CAP = 129,
    API_JSON_MAX = 64 * 1024 * 1024, /* one answer: a page of 1,000 runs is about 2 MiB */
    API_POLL_MS = 60,
    API_HEARTBEAT_MS = 15000,
};

struct api {
    struct loop_owner owner;
    struct loop *loop;
    struct node *node;
    struct http_server *server;
    struct api_options opt;
    struct api_hosts hosts;
    struct list calls;
    struct heap deadlines;
    struct loop_timer timer;
    struct token_table *file_tokens; /* of auth.tokens_file; NULL: none are asked for */
    struct token_table *tokens;      /* those and the cluster's; NULL with the other */
    uint64_t auth_refused_total;
    struct log_limit refused_limit;
    unsigned event_clients;
    uint64_t event_drops_total; /* readers that were too slow */
    unsigned followers;
    uint64_t spool_next;
    char spool_salt[17];
    char server_name[64];
    void (*on_closed)(void *arg);
    void *closed_arg;
    bool closing;
};

struct api_call {
    struct api *api;
    struct http_req *req;
    const struct http1_head *head;
    const struct api_route *route; /* NULL: the path is none, or the registry's */
    struct list link;
    struct heap_node due;
    void (*on_due)(struct api_call *c);
    struct node_watch *watch;
    void *state;                         /* the operation's own */
    void (*on_gone)(struct api_call *c); /* the request is over: release state */
    void (*on_stop)(struct api_call *c); /* the server stops: answer now */
    char param[API_PARAM_CAP];           /* the path's parameter, decoded */
    char request_id[API_REQUEST_ID_CAP];
    bool has_token;
    uint8_t token_hash[TOKEN_HASH_BYTES];
    char prefix[TOKEN_PREFIX_CAP]; /* of the token; "": everything */
};

/* -- uv_api.c: answers and deadlines -- */

/* Sends and releases body; a body that found no memory becomes a 500. */
void api_send_json(struct api_call *c, int status, struct buf *body);
void api_send_text(struct api_call *c, int status, const char *type, struct str text);
/* The headers that every answer has. api_send_… and api_fail… add them; streams do it themselves.
 */
void api_headers(struct api_call *c);
void api_fail(struct api_call *c, int status, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void api_fail_node(struct api_call *c, const struct node_error *error);
/* Calls fn once, after ms; a second call replaces the first. When there are too many the call is
 * answered with 503 and false comes back. */
bool api_due_set(struct api_call *c, uint64_t ms, void (*fn)(struct api_call *c));
void api_due_clear(struct api_call *c);
/* The path's parameter as a run id; false: answered with 404. */
bool api_param_run(struct api_call *c, struct ulid *ret);
/* Unknown query parameters are answered with 400 and false. */
bool api_query_known(struct api_call *c, const char *const *names);
/* The body of a JSON document: checks the type, reads, hands over. Errors are answered. */
void api_read_json(struct api_call *c,
                   void (*on_body)(void *arg, struct http_req *req, int status, struct str body));
/* The status of on_body: true when it is 0, else answered. */
bool api_body_ok(struct api_call *c, int status, uint64_t max);
/* The run in JSON, 64 KiB or less. */
void api_send_run(struct api_call *c, int status, const struct run *run);
/* node_run_fn that answers 200 with the run. */
void api_answer_run(void *arg, const struct node_error *error, const struct run *run,
                    bool replayed);
/* node_text_fn that answers 200 with the text. */
void api_answer_text(void *arg, const struct node_error *error, struct str text);
/* The same with 202. */
void api_answer_accepted(void *arg, const struct node_error *error, struct str text);

/* Is the path /v2 or under it? */
bool api_is_registry(const struct api_call *c);
/* Runs the operation of the route. */
void api_call_go(struct api_call *c);

/* -- uv_api_auth.c: who may -- */

/* False: answered. c->route and c->param are set when there is a route. */
bool api_auth_may(struct api_call *c);
/* What can be checked only by asking the node, then api_call_go(). */
void api_auth_go(struct api_call *c);
/* on_answer of the server: a line for every change and, not too many, for refusals. */
void api_audit(void *arg, const struct http_req *req, int status);
/* on_tls_failed of the server: a certificate that was refused belongs in the audit. */
void api_audit_tls(void *arg, const char *peer, int rc, const char *why);

/* -- uv_api_peer.c: what nodes ask of each other -- */

bool api_is_peer(const struct api_call *c);
void api_peer(struct api_call *c);
/* The node that asks, as it is authenticated; false: it is none. */
bool api_peer_name(const struct api_call *c, struct str *ret);

/* -- uv_api_proxy.c: what another node answers -- */

/* It comes from a node that passed it on: answered here or not at all. */
bool api_is_hop(const struct api_call *c);
/* The whole request goes to that node, its answer to the client. */
void api_proxy(struct api_call *c, const char *node);
/* The same, when the path's run was accepted by another node; when its node is another one. */
bool api_proxy_run(struct api_call *c);
bool api_proxy_node(struct api_call *c);

/* -- uv_api_cluster.c: what all nodes answer together -- */

/* This node's page of runs; answers with everybody's. Releases own. */
void api_runs_send(struct api_call *c, struct buf *own, size_t limit);
/* The same for its call-backs. */
void api_callbacks_send(struct api_call *c, struct str own, size_t limit);

/* -- uv_api_tokens.c: the cluster's tokens -- */

/* Takes the file's tokens over (NULL: nobody is asked), in every case. -ENOMEM. */
int api_tokens_start(struct api *a, struct token_table *tokens, struct err *e);
void api_tokens_stop(struct api *a);

/* -- operations, by enum api_op -- */

typedef void api_op_fn(struct api_call *c);
/* uv_api_cluster.c */
api_op_fn api_status, api_node_list;
/* uv_api_node.c */
api_op_fn api_dashboard, api_health, api_ready, api_metrics, api_openapi;
api_op_fn api_node_get, api_node_drain, api_node_leave, api_member_list, api_table_list;
api_op_fn api_image_list, api_image_delete, api_image_prune;
/* uv_api_tokens.c */
api_op_fn api_token_list, api_token_create, api_token_revoke;
/* uv_api_jobs.c */
api_op_fn api_job_list, api_job_get, api_job_put, api_job_delete;
/* uv_api_runs.c */
api_op_fn api_job_placement, api_profile_list, api_profile_get;
api_op_fn api_run_list, api_run_get, api_run_samples, api_run_placement;
api_op_fn api_run_cancel, api_run_retry;
/* uv_api_events.c */
api_op_fn api_events;
/* uv_api_callbacks.c */
api_op_fn api_callback_list, api_callback_retry;
/* uv_api_submit.c */
api_op_fn api_job_submit, api_run_submit;
/* uv_api_output.c */
api_op_fn api_run_output, api_run_logs;

/* True: answered. A sender of events asks whether it may (CloudEvents' HTTP WebHook, section 4). */
bool api_handshake(struct api_call *c);
/* uv_api_triggers.c */
api_op_fn api_hook, api_hook_sign, api_event_post, api_trigger_list;
api_op_fn api_trigger_test, api_trigger_fire, api_trigger_pause, api_trigger_resume;
api_op_fn api_secret_list, api_secret_put, api_secret_delete;

/* -- uv_api_spool.c: a payload on its way into spool/ -- */

struct digest_ctx;
/* Method and target: the first part of what tells a repeated request from another one. */
void api_request_hash(struct digest_ctx *hash, const struct http1_head *head);

struct api_spool;
struct api_spool_events {
    void (*on_room)(void *arg); /* after a write that answered false */
    /* Once: 0 after api_spool_end (durable), -Exxx at any time. */
    void (*on_done)(void *arg, int rc);
};
/* Hashes method, target and body as they come; the file is made with the first bytes. NULL: no
 * memory. */
struct api_spool *api_spool_new(struct api *a, const struct http1_head *head,
                                const struct api_spool_events *events, void *arg);
/* Copies. False: write no more until on_room (or on_done, when it failed). */
bool api_spool_write(struct api_spool *s, struct str data);
void api_spool_end(struct api_spool *s);
uint64_t api_spool_bytes(const struct api_spool *s);
/* After on_done(0): the file's name in spool/, "" when the body was empty. It is the caller's from
 * then on. */
const char *api_spool_take(struct api_spool *s, uint8_t ret_hash[32]);
/* No more events; removes the file unless it was taken. NULL is fine. */
void api_spool_drop(struct api_spool *s);

#endif
