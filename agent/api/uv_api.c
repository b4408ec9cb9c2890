/* The door: who asks, which route, how answers look. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/api/api_internal.h"
#include "common/mem.h"
#include "common/sys/sys.h"
#include "common/version.h"

static api_op_fn *const ops[] = {
    [API_DASHBOARD] = api_dashboard,
    [API_HEALTH] = api_health,
    [API_READY] = api_ready,
    [API_METRICS] = api_metrics,
    [API_OPENAPI] = api_openapi,
    [API_STATUS] = api_status,
    [API_EVENTS] = api_events,
    [API_JOB_LIST] = api_job_list,
    [API_JOB_GET] = api_job_get,
    [API_JOB_PUT] = api_job_put,
    [API_JOB_DELETE] = api_job_delete,
    [API_JOB_SUBMIT] = api_job_submit,
    [API_RUN_LIST] = api_run_list,
    [API_RUN_SUBMIT] = api_run_submit,
    [API_RUN_GET] = api_run_get,
    [API_RUN_OUTPUT] = api_run_output,
    [API_RUN_LOGS] = api_run_logs,
    [API_RUN_SAMPLES] = api_run_samples,
    [API_RUN_PLACEMENT] = api_run_placement,
    [API_RUN_CANCEL] = api_run_cancel,
    [API_RUN_RETRY] = api_run_retry,
    [API_JOB_PLACEMENT] = api_job_placement,
    [API_PROFILE_LIST] = api_profile_list,
    [API_PROFILE_GET] = api_profile_get,
    [API_NODE_LIST] = api_node_list,
    [API_NODE_GET] = api_node_get,
    [API_NODE_DRAIN] = api_node_drain,
    [API_NODE_LEAVE] = api_node_leave,
    [API_MEMBER_LIST] = api_member_list,
    [API_TABLE_LIST] = api_table_list,
    [API_HOOK] = api_hook,
    [API_HOOK_SIGN] = api_hook_sign,
    [API_EVENT_POST] = api_event_post,
    [API_TRIGGER_LIST] = api_trigger_list,
    [API_TRIGGER_TEST] = api_trigger_test,
    [API_TRIGGER_FIRE] = api_trigger_fire,
    [API_TRIGGER_PAUSE] = api_trigger_pause,
    [API_TRIGGER_RESUME] = api_trigger_resume,
    [API_CALLBACK_LIST] = api_callback_list,
    [API_CALLBACK_RETRY] = api_callback_retry,
    [API_SECRET_LIST] = api_secret_list,
    [API_SECRET_PUT] = api_secret_put,
    [API_SECRET_DELETE] = api_secret_delete,
    [API_IMAGE_LIST] = api_image_list,
    [API_IMAGE_DELETE] = api_image_delete,
    [API_IMAGE_PRUNE] = api_image_prune,
    [API_TOKEN_LIST] = api_token_list,
    [API_TOKEN_CREATE] = api_token_create,
    [API_TOKEN_REVOKE] = api_token_revoke,
};
_Static_assert(ARRAY_LEN(ops) == API_OPS, "every operation has its function");

/* -- answers -- */

void api_headers(struct api_call *c)
{
    http_res_header(c->req, "Cache-Control", "no-store");
    http_res_header(c->req, "X-Content-Type-Options", "nosniff");
    http_res_header(c->req, "X-Request-Id", c->request_id);
}

void api_send_text(struct api_call *c, int status, const char *type, struct str text)
{
    c->on_stop = NULL; /* it has its answer */
    api_headers(c);
    http_res_send(c->req, status, type, text.p, text.n);
}

void api_send_json(struct api_call *c, int status, struct buf *body)
{
    if (buf_error(body) != 0) {
        buf_release(body);
        api_fail(c, 500, "internal", "the answer did not fit into memory");
        return;
    }
    (void)buf_addc(body, '\n');
    api_send_text(c, status, "application/json", buf_str(body));
    buf_release(body);
}

static void send_problem(struct api_call *c, int status, const char *code, const char *detail,
                         const struct job_problems *problems)
{
    struct api_field fields[JOB_PROBLEMS_MAX];
    struct buf body = BUF_INIT(256 * 1024);
    char path[512] = "";
    size_t n = 0;
    for (size_t i = 0; problems != NULL && i < problems->n && i < JOB_PROBLEMS_MAX; i++) {
        fields[n++] = (struct api_field){ problems->items[i].field, problems->items[i].detail };
    }
    struct str instance = str_slice(c->head->path, 0, sizeof(path) - 1);
    (void)str_copy(path, sizeof(path), instance);
    api_problem_write(&body, status, code, detail, path, c->request_id, fields, n);
    api_send_text(c, status, "application/problem+json", buf_str(&body));
    buf_release(&body);
}

void api_fail(struct api_call *c, int status, const char *code, const char *fmt, ...)
{
    char detail[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    if (status == 503) {
        http_res_header(c->req, "Retry-After", "1");
    }
    send_problem(c, status, code, detail, NULL);
}

void api_fail_node(struct api_call *c, const struct node_error *error)
{
    int status = node_code_status(error->code);
    if (error->retry_after_s > 0 || status == 503) {
        http_res_headerf(c->req, "Retry-After", "%u",
                         error->retry_after_s > 0 ? error->retry_after_s : 1);
    }
    send_problem(c, status, node_code_name(error->code), error->detail, error->problems);
}

void api_send_run(struct api_call *c, int status, const struct run *run)
{
    struct buf body = BUF_INIT(64 * 1024);
    struct json_w w;
    json_w_init(&w, &body, false);
    run_to_json(&w, run);
    api_send_json(c, status, &body);
}

void api_answer_run(void *arg, const struct node_error *error, const struct run *run, bool replayed)
{
    struct api_call *c = arg;
    (void)replayed;
    if (error != NULL) {
        api_fail_node(c, error);
        return;
    }
    api_send_run(c, 200, run);
}

void api_answer_text(void *arg, const struct node_error *error, struct str text)
{
    struct api_call *c = arg;
    if (error != NULL) {
        api_fail_node(c, error);
        return;
    }
    api_send_text(c, 200, "application/json", text);
}

void api_answer_accepted(void *arg, const struct node_error *error, struct str text)
{
    struct api_call *c = arg;
    if (error != NULL) {
        api_fail_node(c, error);
        return;
    }
    struct buf b = BUF_INIT(API_JSON_MAX);
    (void)buf_addstr(&b, text);
    api_send_json(c, 202, &b);
}

/* -- what operations ask of requests -- */

bool api_param_run(struct api_call *c, struct ulid *ret)
{
    if (ulid_parse(str_of(c->param), ret) != 0) {
        api_fail(c, 404, "unknown_run", "no run '%.64s'", c->param);
        return false;
    }
    return true;
}

bool api_query_known(struct api_call *c, const char *const *names)
{
    struct err e;
    if (api_query_check(c->head->query, names, &e) != 0) {
        api_fail(c, 400, "bad_request", "%s", e.text);
        return false;
    }
    return true;
}

bool api_body_ok(struct api_call *c, int status, uint64_t max)
{
    if (status == -EFBIG) {
        api_fail(c, 413, "body_too_large", "the body is larger than %llu bytes",
                 (unsigned long long)max);
    } else if (status != 0) {
        api_fail(c, 500, "internal", "the body could not be read: %s", err_name(status));
    }
    return status == 0;
}

void api_read_json(struct api_call *c,
                   void (*on_body)(void *arg, struct http_req *req, int status, struct str body))
{
    struct str type = http1_header(c->head, "Content-Type");
    /* What curl -d says when it is told nothing is let through, too. */
    if (!api_type_is_json(type) && !str_ieqs(type, "application/x-www-form-urlencoded")) {
        api_fail(c, 415, "unsupported_media_type", "the body must be application/json");
        return;
    }
    http_req_read_all(c->req, JOB_DOCUMENT_MAX, on_body, c);
}

/* -- deadlines -- */

static void timer_set(struct api *a)
{
    const struct heap_node *first = heap_min(&a->deadlines);
    if (first == NULL) {
        loop_timer_stop(&a->timer);
        return;
    }
    uint64_t now = loop_now_ms(a->loop);
    loop_timer_start(&a->timer, first->key > now ? first->key - now : 0, 0);
}

static void timer_fired(struct loop_timer *t)
{
    struct api *a = CONTAINER_OF(t, struct api, timer);
    uint64_t now = loop_now_ms(a->loop);
    struct heap_node *first;
    while ((first = heap_min(&a->deadlines)) != NULL && first->key <= now) {
        struct api_call *c = CONTAINER_OF(first, struct api_call, due);
        heap_remove(&a->deadlines, first);
        c->on_due(c);
    }
    timer_set(a);
}

bool api_due_set(struct api_call *c, uint64_t ms, void (*fn)(struct api_call *c))
{
    struct api *a = c->api;
    heap_remove(&a->deadlines, &c->due);
    c->on_due = fn;
    if (heap_push(&a->deadlines, &c->due, loop_now_ms(a->loop) + (ms > 0 ? ms : 1)) != 0) {
        if (http_res_started(c->req)) {
            http_res_abort(c->req);
        } else {
            api_fail(c, 503, "queue_full", "too many requests are waiting");
        }
        return false;
    }
    timer_set(a);
    return true;
}

void api_due_clear(struct api_call *c)
{
    heap_remove(&c->api->deadlines, &c->due);
}

/* -- requests -- */

static void call_done(void *arg, bool aborted)
{
    struct api_call *c = arg;
    (void)aborted;
    list_remove(&c->link);
    api_due_clear(c);
    c->watch = node_unwatch(c->watch);
    node_forget(c->api->node, c);
    if (c->on_gone != NULL) {
        c->on_gone(c);
    }
    mem_free(c);
}

static struct api_call *call_new(struct api *a, struct http_req *req)
{
    struct api_call *c = mem_zalloc(sizeof(*c));
    if (c == NULL) {
        return NULL;
    }
    c->api = a;
    c->req = req;
    c->head = http_req_head(req);
    heap_node_init(&c->due);
    struct str id = http1_header(c->head, "X-Request-Id");
    (void)str_copy(c->request_id, sizeof(c->request_id),
                   api_request_id_ok(id) ? id : str_of(http_req_id(req)));
    list_push_back(&a->calls, &c->link);
    http_req_set_arg(req, c, call_done);
    return c;
}

bool api_is_registry(const struct api_call *c)
{
    struct str path = c->head->path;
    return str_eqs(path, "/v2") || str_starts(path, "/v2/");
}

void api_call_go(struct api_call *c)
{
    ops[c->route->op](c);
}

static void call_dispatch(struct api_call *c, enum api_found found, const struct api_match *m)
{
    if (found == API_FOUND) {
        if (!api_proxy_run(c)) {
            api_auth_go(c);
        }
    } else if (found == API_NO_METHOD) {
        http_res_header(c->req, "Allow", m->allow);
        if (str_eqs(c->head->method, "OPTIONS")) {
            api_headers(c);
            http_res_send(c->req, 204, NULL, NULL, 0);
        } else {
            api_fail(c, 405, "method_not_allowed", "allowed here: %s", m->allow);
        }
    } else if (found == API_BAD_PATH) {
        api_fail(c, 400, "bad_request", "the path is not valid");
    } else {
        api_fail(c, 404, "not_found", "no such path; GET /openapi.json lists what there is");
    }
}

static void on_request(void *arg, struct http_req *req)
{
    struct api *a = arg;
    struct api_match m;
    struct api_call *c = call_new(a, req);
    if (c == NULL) {
        http_res_header(req, "Retry-After", "1");
        http_res_send(req, 503, NULL, NULL, 0);
        return;
    }
    if (api_is_peer(c)) {
        api_peer(c);
        return;
    }
    enum api_found found = api_route_find(c->head->method, c->head->path, &m);
    if (found == API_FOUND) {
        c->route = m.route;
        (void)str_copy(c->param, sizeof(c->param), str_of(m.param));
    }
    if (api_handshake(c) || !api_auth_may(c)) {
        return;
    }
    if (api_is_registry(c) && a->opt.registry != NULL) {
        /* The registry sets its own arg: the call is not needed any more. */
        http_req_set_arg(req, NULL, NULL);
        call_done(c, false);
        a->opt.registry(a->opt.registry_arg, req);
        return;
    }
    call_dispatch(c, found, &m);
}

/* -- start and end -- */

static void api_gone(struct loop_owner *o)
{
    struct api *a = CONTAINER_OF(o, struct api, owner);
    void (*on_closed)(void *arg) = a->on_closed;
    void *arg = a->closed_arg;
    heap_release(&a->deadlines);
    (void)token_table_free(a->tokens);
    (void)token_table_free(a->file_tokens);
    mem_free(a);
    if (on_closed != NULL) {
        on_closed(arg);
    }
}

static void server_gone(void *arg)
{
    struct api *a = arg;
    INSIST(list_empty(&a->calls));
    loop_timer_close(&a->timer);
    loop_owner_close(&a->owner);
    loop_drop(&a->owner);
}

int api_start(const struct api_options *opt, struct api **ret, struct err *e)
{
    const struct settings_http *http = &node_settings(opt->node)->http;
    struct api *a = mem_zalloc(sizeof(*a));
    uint64_t salt = 0;
    if (a == NULL) {
        (void)fd_close(opt->listen_fd);
        (void)token_table_free(opt->tokens);
        return err_set(e, -ENOMEM, "start the API");
    }
    a->opt = *opt;
    a->refused_limit = (struct log_limit){ .period_ms = 10000, .burst = 20 };
    a->node = opt->node;
    a->loop = node_loop(opt->node);
    list_init(&a->calls);
    heap_init(&a->deadlines, API_DEADLINES_MAX);
    api_hosts_init(&a->hosts, http->listen, http->advertise);
    sys_random(&salt, sizeof(salt));
    (void)snprintf(a->spool_salt, sizeof(a->spool_salt), "%016llx", (unsigned long long)salt);
    (void)snprintf(a->server_name, sizeof(a->server_name), "agent/%s", version_number);
    loop_owner_init(&a->owner, a->loop, api_gone);
    loop_timer_init(&a->timer, &a->owner, timer_fired);
    loop_hold(&a->owner); /* the server */
    const struct http_server_options options = {
        .connections_max = (unsigned)http->max_connections,
        .header_timeout_ms = (unsigned)http->header_timeout_ms,
        .idle_timeout_ms = (unsigned)http->idle_timeout_ms,
        .body_timeout_ms = (unsigned)http->body_timeout_ms,
        .server_name = a->server_name,
        .tls = opt->tls,
    };
    const struct http_server_handler handler = {
        .on_request = on_request, .on_answer = api_audit, .on_tls_failed = api_audit_tls, .arg = a
    };
    int rc = api_tokens_start(a, opt->tokens, e);
    if (rc == 0) {
        rc = http_server_start(a->loop->uv, opt->listen_fd, &options, &handler, &a->server, e);
    } else {
        (void)fd_close(opt->listen_fd);
    }
    if (rc != 0) {
        api_tokens_stop(a);
        server_gone(a);
        return rc;
    }
    *ret = a;
    return 0;
}

void api_close(struct api *a, unsigned grace_ms, void (*on_closed)(void *arg), void *arg)
{
    REQUIRE(!a->closing);
    a->closing = true;
    a->on_closed = on_closed;
    a->closed_arg = arg;
    api_tokens_stop(a);
    LIST_EACH_SAFE (it, &a->calls) {
        struct api_call *c = LIST_ITEM(it, struct api_call, link);
        if (c->on_stop != NULL) {
            c->on_stop(c);
        }
    }
    http_server_close(a->server, grace_ms, server_gone, a);
}
