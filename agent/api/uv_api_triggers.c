/*
 * What sets jobs off: web hooks, events, the list of triggers, and the secrets that hooks are
 * verified with.
 *
 * A hook needs no token: its signature is its right. Nothing of it is looked into before that
 * holds, and an answer never says whether the hook, its job or its signature was wrong.
 */
#include <errno.h>

#include "agent/api/api_internal.h"
#include "agent/triggers/cloudevent.h"
#include "common/mem.h"

enum { HOOK_ORIGIN_MAX = 255 };

static size_t headers_of(const struct http1_head *head,
                         struct trigger_hook_header dst[HTTP1_HEADERS_MAX])
{
    size_t n = head->headers_len < HTTP1_HEADERS_MAX ? head->headers_len : HTTP1_HEADERS_MAX;

    for (size_t i = 0; i < n; i++) {
        dst[i] = (struct trigger_hook_header){ head->headers[i].name, head->headers[i].value };
    }
    return n;
}

/* ---- hooks ---- */

static void hook_came(void *arg, const struct node_error *error, const struct run *run,
                      bool replayed)
{
    struct api_call *c = arg;
    struct buf b = BUF_INIT(1024);
    char id[ULID_TEXT_CAP];

    if (error != NULL && error->code == NODE_IGNORED) {
        (void)buf_addf(&b, "{\"accepted\":false,\"detail\":\"%s\"}", error->detail);
        api_send_json(c, 200, &b);
        return;
    }
    if (error != NULL) {
        api_fail_node(c, error);
        return;
    }
    if (replayed) {
        http_res_header(c->req, "Idempotency-Replayed", "true");
    }
    ulid_format(run->id, id);
    http_res_headerf(c->req, "Location", "/v1/runs/%s", id);
    (void)buf_addf(&b, "{\"accepted\":true,\"id\":\"%s\"}", id);
    api_send_json(c, 202, &b);
}

/* "job/hook"; false: answered. */
static bool hook_names(struct api_call *c, struct str *ret_job, struct str *ret_hook)
{
    struct str path = str_of(c->param);
    ptrdiff_t slash = str_find(path, '/');

    if (slash < 1 || str_find(str_slice(path, (size_t)slash + 1, path.n), '/') >= 0) {
        api_fail(c, 404, "not_found", "a hook's path is /v1/hooks/JOB/HOOK");
        return false;
    }
    *ret_job = str_slice(path, 0, (size_t)slash);
    *ret_hook = str_slice(path, (size_t)slash + 1, path.n);
    return true;
}

static void hook_body(void *arg, struct http_req *req, int status, struct str body)
{
    struct api_call *c = arg;
    struct trigger_hook_header headers[HTTP1_HEADERS_MAX];
    struct node_hook_call call = { .headers = headers, .query = c->head->query, .body = body };

    (void)req;
    if (!api_body_ok(c, status, node_settings(c->api->node)->http.max_event_bytes) ||
        !hook_names(c, &call.job, &call.hook)) {
        return;
    }
    call.headers_len = headers_of(c->head, headers);
    node_hook(c->api->node, &call, hook_came, c);
}

void api_hook(struct api_call *c)
{
    http_req_read_all(c->req, node_settings(c->api->node)->http.max_event_bytes, hook_body, c);
}

static void sign_body(void *arg, struct http_req *req, int status, struct str body)
{
    struct api_call *c = arg;
    AUTO_BUF struct buf lines = BUF_INIT(16 * 1024);
    struct buf b = BUF_INIT(64 * 1024);
    struct str job;
    struct str hook;
    struct str rest;
    struct str line;
    struct json_w w;
    struct err e = { 0 };

    (void)req;
    if (!api_body_ok(c, status, node_settings(c->api->node)->http.max_event_bytes) ||
        !hook_names(c, &job, &hook)) {
        return;
    }
    int rc = node_hook_sign(c->api->node, job, hook, body, &lines, &e);
    if (rc != 0) {
        api_fail(c, rc == -ENOENT ? 404 : 422, rc == -ENOENT ? "not_found" : "cannot_sign", "%s",
                 err_text(&e));
        return;
    }
    json_w_init(&w, &b, false);
    json_w_obj(&w);
    json_w_key(&w, "headers");
    json_w_arr(&w);
    rest = buf_str(&lines);
    while (str_split(&rest, '\n', &line)) {
        json_w_str(&w, str_trim(line));
    }
    json_w_end(&w);
    json_w_end(&w);
    api_send_json(c, 200, &b);
}

void api_hook_sign(struct api_call *c)
{
    http_req_read_all(c->req, node_settings(c->api->node)->http.max_event_bytes, sign_body, c);
}

/* ---- events ---- */

/* The body's events into ret; how many, or -Exxx. */
static int events_read(struct api_call *c, struct str body, struct trigger_cloudevent *ret,
                       struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct trigger_hook_header headers[HTTP1_HEADERS_MAX];
    enum trigger_event_mode mode = trigger_event_mode_of(http1_header(c->head, "Content-Type"));
    size_t n = 0;
    int made = 0;
    int rc;

    if (mode == TRIGGER_EVENT_BINARY) {
        n = headers_of(c->head, headers);
        rc = trigger_event_from_headers(headers, n, body, &ret[0], e);
        return rc == 0 ? 1 : rc;
    }
    rc = json_parse(body.p, body.n, NULL, &doc, e);
    if (rc != 0) {
        return rc;
    }
    const struct json *root = json_root(doc);
    if (mode == TRIGGER_EVENT_STRUCTURED) {
        rc = trigger_event_from_json(root, &ret[0], e);
        return rc == 0 ? 1 : rc;
    }
    if (root->type != JSON_ARRAY || root->count > TRIGGER_EVENT_BATCH_MAX) {
        return err_say(e, -EINVAL, "a batch is an array of at most %d events",
                       TRIGGER_EVENT_BATCH_MAX);
    }
    JSON_EACH (one, root) {
        rc = trigger_event_from_json(one, &ret[made], e);
        if (rc != 0) {
            (void)err_prefix(e, "event %d", made);
            for (int i = 0; i < made; i++) {
                trigger_event_release(&ret[i]);
            }
            return rc;
        }
        made++;
    }
    return made;
}

static void events_body(void *arg, struct http_req *req, int status, struct str body)
{
    struct api_call *c = arg;
    struct err e = { 0 };

    (void)req;
    if (!api_body_ok(c, status, node_settings(c->api->node)->http.max_event_bytes)) {
        return;
    }
    struct trigger_cloudevent *events = mem_calloc(TRIGGER_EVENT_BATCH_MAX, sizeof *events);
    if (events == NULL) {
        api_fail(c, 503, "no_memory", "no memory for the events");
        return;
    }
    int n = events_read(c, body, events, &e);
    if (n < 0) {
        api_fail(c, n == -ENOMEM ? 503 : 400, "bad_event", "%s", err_text(&e));
    } else {
        node_event(c->api->node, events, (size_t)n, api_answer_accepted, c);
    }
    for (int i = 0; i < n; i++) {
        trigger_event_release(&events[i]);
    }
    mem_free(events);
}

void api_event_post(struct api_call *c)
{
    http_req_read_all(c->req, node_settings(c->api->node)->http.max_event_bytes, events_body, c);
}

/* ---- the handshake of CloudEvents' HTTP WebHook specification, section 4 ---- */

/* A host name, as WebHook-Request-Origin says who will send. */
static bool origin_ok(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        char ch = s.p[i];
        bool word =
            (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9');
        if (!word && ch != '.' && ch != '-' && ch != ':') {
            return false;
        }
    }
    return s.n != 0 && s.n <= HOOK_ORIGIN_MAX;
}

/* Everybody may send: what is sent has to show its own right, a token or a signature. So this needs
 * none, and says nothing of which hooks there are. */
bool api_handshake(struct api_call *c)
{
    struct str origin = http1_header(c->head, "WebHook-Request-Origin");
    char text[HOOK_ORIGIN_MAX + 1];

    if (!str_eqs(c->head->method, "OPTIONS") ||
        !(str_eqs(c->head->path, "/v1/events") || str_starts(c->head->path, "/v1/hooks/")) ||
        !origin_ok(origin) || str_copy(text, sizeof text, origin) != 0) {
        return false;
    }
    api_headers(c);
    http_res_header(c->req, "WebHook-Allowed-Origin", text);
    if (http1_header(c->head, "WebHook-Request-Rate").p != NULL) {
        http_res_header(c->req, "WebHook-Allowed-Rate", "*");
    }
    http_res_header(c->req, "Allow", "POST, OPTIONS");
    http_res_send(c->req, 200, NULL, NULL, 0);
    return true;
}

/* ---- triggers ---- */

void api_trigger_list(struct api_call *c)
{
    static const char *const names[] = { "job", NULL };
    char job[RUN_JOB_CAP] = "";

    if (!api_query_known(c, names)) {
        return;
    }
    int rc = http1_query(c->head->query, "job", 0, job, sizeof job);
    if (rc != 0 && rc != -ENOENT) {
        api_fail(c, 400, "bad_request", "query parameter 'job' is not a job's name");
        return;
    }
    node_trigger_list(c->api->node, str_of(job), api_answer_text, c);
}

/* A call's text, as far as conditions see it. */
static void test_body(void *arg, struct http_req *req, int status, struct str body)
{
    struct api_call *c = arg;
    struct trigger_hook_header headers[HTTP1_HEADERS_MAX];
    struct node_trigger_input in = { .body = body, .headers = headers, .query = c->head->query };
    char topic[TRIGGER_TOPIC_MAX + 1] = "";

    (void)req;
    if (!api_body_ok(c, status, node_settings(c->api->node)->http.max_event_bytes)) {
        return;
    }
    int rc = http1_query(c->head->query, "topic", 0, topic, sizeof topic);
    if (rc != 0 && rc != -ENOENT) {
        api_fail(c, 400, "bad_request", "query parameter 'topic' is not a topic");
        return;
    }
    in.topic = str_of(topic);
    in.headers_len = headers_of(c->head, headers);
    node_trigger_test(c->api->node, str_of(c->param), &in, api_answer_text, c);
}

void api_trigger_test(struct api_call *c)
{
    http_req_read_all(c->req, node_settings(c->api->node)->http.max_event_bytes, test_body, c);
}

static void fire_body(void *arg, struct http_req *req, int status, struct str body)
{
    struct api_call *c = arg;

    (void)req;
    if (api_body_ok(c, status, node_settings(c->api->node)->http.max_event_bytes)) {
        node_trigger_fire(c->api->node, str_of(c->param), body, hook_came, c);
    }
}

void api_trigger_fire(struct api_call *c)
{
    http_req_read_all(c->req, node_settings(c->api->node)->http.max_event_bytes, fire_body, c);
}

void api_trigger_pause(struct api_call *c)
{
    node_trigger_pause(c->api->node, str_of(c->param), true, api_answer_text, c);
}

void api_trigger_resume(struct api_call *c)
{
    node_trigger_pause(c->api->node, str_of(c->param), false, api_answer_text, c);
}

/* ---- secrets ---- */

static bool secret_name_ok(struct api_call *c)
{
    if (job_name_ok(str_of(c->param))) {
        return true;
    }
    api_fail(c, 422, "bad_name", "a secret's name is letters, digits, '.', '_', '-', at most %d",
             JOB_NAME_MAX);
    return false;
}

static void secret_body(void *arg, struct http_req *req, int status, struct str body)
{
    struct api_call *c = arg;

    (void)req;
    if (!api_body_ok(c, status, NODE_SECRET_MAX)) {
        return;
    }
    if (body.n == 0) {
        api_fail(c, 422, "empty", "a secret has 1 to %d bytes", NODE_SECRET_MAX);
        return;
    }
    node_secret_put(c->api->node, str_of(c->param), body, api_answer_text, c);
}

void api_secret_put(struct api_call *c)
{
    if (secret_name_ok(c)) {
        http_req_read_all(c->req, NODE_SECRET_MAX, secret_body, c);
    }
}

void api_secret_delete(struct api_call *c)
{
    if (secret_name_ok(c)) {
        node_secret_delete(c->api->node, str_of(c->param), api_answer_text, c);
    }
}

void api_secret_list(struct api_call *c)
{
    node_secret_list(c->api->node, api_answer_text, c);
}
