/* The node itself: dashboard, health, metrics, status, nodes, images. */
#include <errno.h>
#include <stdio.h>

#include "agent/api/api_internal.h"
#include "agent/ui/ui.h"
#include "common/version.h"

/* -- embedded files -- */

static const struct ui_file *file_find(const char *name)
{
    for (size_t i = 0; i < ui_files_len; i++) {
        if (strcmp(ui_files[i].name, name) == 0) {
            return &ui_files[i];
        }
    }
    return NULL;
}

/* The bytes change only with the binary: revalidated, then taken from the browser's cache. */
static void file_send(struct api_call *c, const char *name)
{
    const struct ui_file *f = file_find(name);
    char etag[24];
    if (f == NULL) {
        api_fail(c, 404, "not_found", "no such file");
        return;
    }
    (void)snprintf(etag, sizeof(etag), "\"%016llx\"", (unsigned long long)f->hash);
    http_res_header(c->req, "ETag", etag);
    http_res_header(c->req, "Cache-Control", "no-cache");
    http_res_header(c->req, "X-Content-Type-Options", "nosniff");
    http_res_header(c->req, "X-Request-Id", c->request_id);
    if (http1_has_token(c->head, "If-None-Match", etag)) {
        http_res_send(c->req, 304, NULL, NULL, 0);
    } else {
        http_res_send(c->req, 200, f->type, f->data, f->len);
    }
}

void api_dashboard(struct api_call *c)
{
    const char *name = c->param[0] != '\0' ? c->param : "index.html";
    http_res_header(c->req, "Content-Security-Policy",
                    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    http_res_header(c->req, "Referrer-Policy", "no-referrer");
    file_send(c, name);
}

void api_openapi(struct api_call *c)
{
    file_send(c, "openapi.json");
}

/* -- health -- */

void api_health(struct api_call *c)
{
    api_send_text(c, 200, "text/plain; charset=utf-8", STR("ok\n"));
}

void api_ready(struct api_call *c)
{
    if (!node_is_ready(c->api->node)) {
        api_fail(c, 503, "not_ready", "still starting: the store or the launcher is not there yet");
    } else if (node_is_draining(c->api->node)) {
        api_fail(c, 503, "draining", "this node takes no new runs");
    } else {
        api_send_text(c, 200, "text/plain; charset=utf-8", STR("ready\n"));
    }
}

static void metric(struct buf *b, const char *name, const char *type, const char *help, uint64_t v)
{
    (void)buf_addf(b, "# HELP %s %s\n# TYPE %s %s\n%s %llu\n", name, help, name, type, name,
                   (unsigned long long)v);
}

void api_metrics(struct api_call *c)
{
    const struct http_server_stats *st = http_server_stats(c->api->server);
    struct buf b = BUF_INIT(API_JSON_MAX);
    node_metrics(c->api->node, &b);
    metric(&b, "agent_http_connections", "gauge", "Open connections.", st->connections);
    metric(&b, "agent_http_connections_total", "counter", "Connections accepted.",
           st->connections_total);
    metric(&b, "agent_http_connections_refused_total", "counter",
           "Connections refused because there were too many.", st->connections_refused);
    metric(&b, "agent_http_bad_requests_total", "counter", "Requests that were not valid HTTP.",
           st->bad_requests_total);
    metric(&b, "agent_http_received_bytes_total", "counter", "Bytes received.", st->bytes_in);
    metric(&b, "agent_http_sent_bytes_total", "counter", "Bytes sent.", st->bytes_out);
    metric(&b, "agent_http_auth_refused_total", "counter",
           "Requests refused for want of a token, a scope or a prefix.",
           c->api->auth_refused_total);
    metric(&b, "agent_event_readers", "gauge", "Clients that read the feed of events.",
           c->api->event_clients);
    metric(&b, "agent_event_readers_dropped_total", "counter",
           "Clients that read the feed of events too slowly.", c->api->event_drops_total);
    (void)buf_adds(&b, "# HELP agent_http_responses_total Responses by class of status.\n"
                       "# TYPE agent_http_responses_total counter\n");
    for (unsigned class = 2; class <= 5; class ++) {
        (void)buf_addf(&b, "agent_http_responses_total{class=\"%uxx\"} %llu\n", class,
                       (unsigned long long)st->responses_by_class[class]);
    }
    if (c->api->opt.metrics != NULL) {
        c->api->opt.metrics(c->api->opt.arg, &b);
    }
    if (buf_error(&b) != 0) {
        api_fail(c, 500, "internal", "the answer did not fit into memory");
    } else {
        api_send_text(c, 200, "text/plain; version=0.0.4; charset=utf-8", buf_str(&b));
    }
    buf_release(&b);
}

/* -- nodes -- */

static void self_send(struct api_call *c)
{
    struct buf b = BUF_INIT(API_JSON_MAX);
    struct json_w w;
    json_w_init(&w, &b, false);
    node_self_json(c->api->node, &w);
    api_send_json(c, 200, &b);
}

void api_member_list(struct api_call *c)
{
    struct buf b = BUF_INIT(API_JSON_MAX);
    struct json_w w;
    json_w_init(&w, &b, false);
    json_w_obj(&w);
    json_w_key(&w, "members");
    if (c->api->opt.members != NULL) {
        c->api->opt.members(c->api->opt.arg, &w);
    } else {
        json_w_arr(&w);
        json_w_end(&w);
    }
    json_w_end(&w);
    api_send_json(c, 200, &b);
}

void api_table_list(struct api_call *c)
{
    static const char *const names[] = { "type", "limit", "after", NULL };
    struct buf b = BUF_INIT(API_JSON_MAX);
    char type[32] = "";
    char after[1024] = "";
    size_t limit = 0;
    struct err e = { .code = 0 };
    if (!api_query_known(c, names)) {
        return;
    }
    int rc = http1_query(c->head->query, "type", 0, type, sizeof(type));
    rc = rc == 0 || rc == -ENOENT ? http1_query(c->head->query, "after", 0, after, sizeof(after))
                                  : rc;
    rc = rc == -ENOENT ? 0 : rc;
    if (rc != 0 || api_query_limit(c->head->query, &limit, &e) != 0) {
        api_fail(c, 400, "bad_request", "%s",
                 rc != 0 ? "query parameter 'type' or 'after' is not valid" : e.text);
        return;
    }
    if (c->api->opt.table == NULL) {
        (void)buf_adds(&b, "{\"rows\":[]}");
    } else {
        rc = c->api->opt.table(c->api->opt.arg, str_of(type), str_of(after), limit, &b);
    }
    if (rc != 0) {
        buf_release(&b);
        api_fail(c, rc == -EINVAL ? 400 : 500, rc == -EINVAL ? "bad_request" : "internal", "%s",
                 rc == -EINVAL ? "no such type of rows, or 'after' is not a cursor"
                               : "the table does not fit into memory");
        return;
    }
    api_send_json(c, 200, &b);
}

static bool param_is_self(struct api_call *c)
{
    if (node_is_self(c->api->node, str_of(c->param))) {
        return true;
    }
    api_fail(c, 404, "unknown_node", "no node '%.128s'", c->param);
    return false;
}

void api_node_get(struct api_call *c)
{
    if (!api_proxy_node(c) && param_is_self(c)) {
        self_send(c);
    }
}

static void drain_body(void *arg, struct http_req *req, int status, struct str body)
{
    struct api_call *c = arg;
    struct json_doc *doc = NULL;
    struct err e;
    bool draining = true;
    (void)req;
    if (!api_body_ok(c, status, JOB_DOCUMENT_MAX)) {
        return;
    }
    if (body.n > 0) {
        if (json_parse(body.p, body.n, NULL, &doc, &e) != 0) {
            api_fail(c, 400, "bad_json", "%s", e.text);
            return;
        }
        const struct json *root = json_root(doc);
        const struct json *v = json_get(root, "draining");
        bool good = root->type == JSON_OBJECT && root->count == (v != NULL ? 1U : 0U) &&
                    (v == NULL || json_bool(v, &draining));
        doc = json_free(doc);
        if (!good) {
            api_fail(c, 422, "invalid_document",
                     "the body takes one member, \"draining\": true or false");
            return;
        }
    }
    node_set_draining(c->api->node, draining);
    self_send(c);
}

void api_node_drain(struct api_call *c)
{
    if (!api_proxy_node(c) && param_is_self(c)) {
        api_read_json(c, drain_body);
    }
}

void api_node_leave(struct api_call *c)
{
    struct buf b = BUF_INIT(API_JSON_MAX);
    struct json_w w;
    if (api_proxy_node(c) || !param_is_self(c)) {
        return;
    }
    if (c->api->opt.leave == NULL) {
        api_fail(c, 403, "forbidden", "this node cannot leave");
        return;
    }
    c->api->opt.leave(c->api->opt.arg);
    json_w_init(&w, &b, false);
    node_self_json(c->api->node, &w);
    api_send_json(c, 202, &b);
}

/* -- images -- */

void api_image_list(struct api_call *c)
{
    node_image_list(c->api->node, api_answer_text, c);
}

void api_image_delete(struct api_call *c)
{
    static const char *const names[] = { "tag", NULL };
    char tag[256] = "";
    if (!api_query_known(c, names)) {
        return;
    }
    int rc = http1_query(c->head->query, "tag", 0, tag, sizeof(tag));
    if (rc != 0 && rc != -ENOENT) {
        api_fail(c, 400, "bad_request", "query parameter 'tag' is not valid");
        return;
    }
    node_image_delete(c->api->node, str_of(c->param), str_of(tag), api_answer_text, c);
}

void api_image_prune(struct api_call *c)
{
    node_image_prune(c->api->node, api_answer_text, c);
}
