/*
 * Submits: the payload goes to spool/ while it is hashed, the run is made durable, the answer waits
 * for its end when the client prefers so.
 *
 *   request ─> job known? (large bodies only) ─> body ─> node_submit ─> 202
 *                                                             └─ Prefer: wait ─> watch ─> 200 or
 * 202
 */
#include <errno.h>
#include <stdio.h>

#include "agent/api/api_internal.h"
#include "common/digest.h"
#include "common/mem.h"

enum {
    SUBMIT_ASK_FIRST = 256 * 1024, /* bodies from here on are read only for a job that exists */
    SUBMIT_SPEC_CAP = 8 * 1024,
};

struct submit {
    struct api_call *call;
    struct api_spool *spool;
    int64_t wait_s; /* -1: no preference */
    bool one_off;
    char *spec;     /* of a one-off with its payload as the body; else NULL */
    struct ulid id; /* of the run that is waited for */
};

static void submit_gone(struct api_call *c)
{
    struct submit *s = c->state;
    api_spool_drop(s->spool);
    mem_free(s->spec);
    mem_free(s);
}

/* -- the answer -- */

static void answer(struct submit *s, const struct run *run)
{
    struct api_call *c = s->call;
    char id[ULID_TEXT_CAP];
    bool applied = s->wait_s >= 0;
    api_due_clear(c);
    c->watch = node_unwatch(c->watch);
    c->on_stop = NULL;
    ulid_format(run->id, id);
    http_res_headerf(c->req, "Location", "/v1/runs/%s", id);
    if (applied) {
        http_res_headerf(c->req, "Preference-Applied", "wait=%lld", (long long)s->wait_s);
    }
    api_send_run(c, applied && run_is_ended(run) ? 200 : 202, run);
}

static void wait_read(void *arg, const struct node_error *error, const struct run *run,
                      bool replayed)
{
    struct api_call *c = arg;
    (void)replayed;
    if (error != NULL) {
        api_fail_node(c, error);
    } else {
        answer(c->state, run);
    }
}

/* What a replayed answer says may be older than the watch: the end may have been before it. */
static void wait_checked(void *arg, const struct node_error *error, const struct run *run,
                         bool replayed)
{
    struct api_call *c = arg;
    (void)replayed;
    if (error == NULL && run_is_ended(run) && !http_res_started(c->req)) {
        answer(c->state, run);
    }
}

static void wait_over(struct api_call *c)
{
    struct submit *s = c->state;
    c->watch = node_unwatch(c->watch);
    c->on_stop = NULL;
    api_due_clear(c);
    node_run_get(c->api->node, s->id, wait_read, c);
}

static void wait_changed(void *arg, const struct run *run)
{
    struct api_call *c = arg;
    if (run_is_ended(run)) {
        answer(c->state, run);
    }
}

static void submitted(void *arg, const struct node_error *error, const struct run *run,
                      bool replayed)
{
    struct api_call *c = arg;
    struct submit *s = c->state;
    if (error != NULL) {
        api_fail_node(c, error);
        return;
    }
    if (replayed) {
        http_res_header(c->req, "Idempotency-Replayed", "true");
    }
    if (s->wait_s <= 0 || run_is_ended(run) || c->api->closing) {
        answer(s, run);
        return;
    }
    s->id = run->id;
    c->watch = node_run_watch(c->api->node, &run->id, wait_changed, c);
    if (c->watch == NULL) {
        s->wait_s = -1; /* the run is accepted: that is what the client hears */
        answer(s, run);
        return;
    }
    c->on_stop = wait_over;
    if (replayed) {
        node_run_get(c->api->node, s->id, wait_checked, c);
    }
    (void)api_due_set(c, (uint64_t)s->wait_s * 1000, wait_over);
}

static void submit_go(struct submit *s, struct str document, const char *spool_name, uint64_t bytes,
                      const uint8_t hash[32])
{
    struct api_call *c = s->call;
    struct node_submit n = {
        .job = str_of(s->one_off ? "" : c->param),
        .document = document,
        .spool_name = str_of(spool_name),
        .payload_bytes = bytes,
        .idempotency_key = http1_header(c->head, "Idempotency-Key"),
        .callback_url = http1_header(c->head, "X-Callback-Url"),
        .callback_secret = http1_header(c->head, "X-Callback-Secret"),
    };
    memcpy(n.request_hash, hash, sizeof(n.request_hash));
    node_submit(c->api->node, &n, submitted, c);
}

/* -- with a payload -- */

static void spool_room(void *arg)
{
    struct submit *s = arg;
    http_req_resume(s->call->req);
}

static void spool_done(void *arg, int rc)
{
    struct submit *s = arg;
    struct api_call *c = s->call;
    uint8_t hash[32];
    if (rc == -ENOSPC || rc == -EDQUOT) {
        api_fail(c, 507, "disk_full", "there is no room for the payload");
        return;
    }
    if (rc != 0) {
        api_fail(c, 500, "internal", "the payload could not be stored: %s", err_name(rc));
        return;
    }
    uint64_t bytes = api_spool_bytes(s->spool);
    const char *name = api_spool_take(s->spool, hash);
    submit_go(s, str_of(s->spec), name, bytes, hash);
    api_spool_drop(s->spool);
    s->spool = NULL;
}

static void payload_data(void *arg, struct http_req *req, struct str data)
{
    struct submit *s = arg;
    if (!api_spool_write(s->spool, data)) {
        http_req_pause(req);
    }
}

static void payload_end(void *arg, struct http_req *req, int status)
{
    struct submit *s = arg;
    struct api_call *c = s->call;
    (void)req;
    if (status == 0) {
        api_spool_end(s->spool);
        return;
    }
    (void)api_body_ok(c, status, node_settings(c->api->node)->http.max_body_bytes);
}

static void payload_read(struct submit *s)
{
    static const struct api_spool_events events = { .on_room = spool_room, .on_done = spool_done };
    struct api_call *c = s->call;
    const struct http_body_sink sink = { payload_data, payload_end, s };
    s->spool = api_spool_new(c->api, c->head, &events, s);
    if (s->spool == NULL) {
        api_fail(c, 503, "queue_full", "out of memory");
        return;
    }
    http_req_read(c->req, node_settings(c->api->node)->http.max_body_bytes, &sink);
}

/* -- without one, and one-off documents -- */

static int hash_whole(struct api_call *c, struct str body, uint8_t ret[32])
{
    AUTO_DIGEST_CTX struct digest_ctx *ctx = NULL;
    struct digest d;
    int rc = digest_ctx_new(DIGEST_SHA256, &ctx);
    if (rc != 0) {
        api_fail(c, 503, "queue_full", "out of memory");
        return rc;
    }
    api_request_hash(ctx, c->head);
    digest_ctx_update(ctx, body.p, body.n);
    digest_ctx_final(ctx, &d);
    memcpy(ret, d.b, 32);
    return 0;
}

static void document_came(void *arg, struct http_req *req, int status, struct str body)
{
    struct api_call *c = arg;
    uint8_t hash[32];
    (void)req;
    if (api_body_ok(c, status, JOB_DOCUMENT_MAX) && hash_whole(c, body, hash) == 0) {
        submit_go(c->state, body, "", 0, hash);
    }
}

static void job_known(void *arg, const struct node_error *error, const struct job *job,
                      bool created, bool changed)
{
    struct api_call *c = arg;
    (void)job;
    (void)created;
    (void)changed;
    if (error != NULL) {
        api_fail_node(c, error);
    } else {
        payload_read(c->state);
    }
}

/* -- both -- */

static bool body_is_empty(const struct http1_head *head)
{
    return !head->chunked && (!head->has_length || head->length == 0);
}

/* What can be refused before a byte of the body is read. NULL: answered. */
static struct submit *submit_new(struct api_call *c)
{
    struct node *n = c->api->node;
    const struct settings_http *http = &node_settings(n)->http;
    struct str key = http1_header(c->head, "Idempotency-Key");
    struct node_error error = { 0 };
    if (key.p != NULL && !api_key_ok(key)) {
        api_fail(c, 400, "bad_request", "Idempotency-Key takes 1 to 255 printable characters");
        return NULL;
    }
    if (c->head->has_length && c->head->length > http->max_body_bytes) {
        (void)api_body_ok(c, -EFBIG, http->max_body_bytes);
        return NULL;
    }
    if (node_admits(n, c->head->has_length ? c->head->length : 0, &error) != NODE_OK) {
        api_fail_node(c, &error);
        return NULL;
    }
    struct submit *s = mem_zalloc(sizeof(*s));
    if (s == NULL) {
        api_fail(c, 503, "queue_full", "out of memory");
        return NULL;
    }
    s->call = c;
    s->wait_s = api_prefer_wait(c->head, http->wait_max_ms / 1000);
    c->state = s;
    c->on_gone = submit_gone;
    return s;
}

void api_job_submit(struct api_call *c)
{
    static const char *const names[] = { NULL };
    uint8_t hash[32];
    const struct http1_head *head = c->head;
    struct submit *s = api_query_known(c, names) ? submit_new(c) : NULL;
    if (s == NULL) {
        return;
    }
    if (body_is_empty(head)) {
        if (hash_whole(c, (struct str){ NULL, 0 }, hash) == 0) {
            submit_go(s, (struct str){ NULL, 0 }, "", 0, hash);
        }
    } else if (head->chunked || head->expect_continue || head->length >= SUBMIT_ASK_FIRST) {
        /* Nobody sends a gigabyte to hear that the name was misspelt. */
        node_job_get(c->api->node, str_of(c->param), 0, job_known, c);
    } else {
        payload_read(s);
    }
}

void api_run_submit(struct api_call *c)
{
    static const char *const names[] = { "spec", NULL };
    struct submit *s = api_query_known(c, names) ? submit_new(c) : NULL;
    if (s == NULL) {
        return;
    }
    s->one_off = true;
    char spec[SUBMIT_SPEC_CAP];
    int rc = http1_query(c->head->query, "spec", 0, spec, sizeof(spec));
    if (rc == -ENOENT) {
        api_read_json(c, document_came);
        return;
    }
    if (rc != 0) {
        api_fail(c, 400, "bad_request", "query parameter 'spec' is not valid");
        return;
    }
    s->spec = mem_strdup(spec);
    if (s->spec == NULL) {
        api_fail(c, 503, "queue_full", "out of memory");
        return;
    }
    payload_read(s);
}
