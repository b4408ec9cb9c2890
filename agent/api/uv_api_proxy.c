/*
 * Requests that another node answers: about runs that it accepted, about itself.
 *
 *   client ─> this node ─ Agent-Hop ─> that node        one hop, never a second
 *
 * Bodies stream both ways with back-pressure. The client's token goes along and is judged there,
 * too: being asked by a node gives no rights.
 */
#include <errno.h>

#include "agent/api/api_internal.h"
#include "common/loop/http_client.h"
#include "common/mem.h"

struct proxy {
    struct api_call *call; /* NULL: the client is gone */
    struct http_call *up;
    char node[NODE_NAME_CAP];
    int status;
    bool body_left; /* the request's body still comes */
};

static const char *const request_headers[] = { "Authorization",   "Accept", "Content-Type",
                                               "Idempotency-Key", "Range",  "If-Match",
                                               "Prefer" };
static const char *const answer_headers[] = {
    "Location",           "ETag",  "Retry-After",      "Accept-Ranges",       "Content-Range",
    "Preference-Applied", "Allow", "WWW-Authenticate", "Idempotency-Replayed"
};

bool api_is_hop(const struct api_call *c)
{
    return http1_header(c->head, "Agent-Hop").p != NULL;
}

static void proxy_gone(struct api_call *c)
{
    struct proxy *p = c->state;
    p->up = http_call_cancel(p->up);
    mem_free(p);
}

static void proxy_stop(struct api_call *c)
{
    if (http_res_started(c->req)) {
        http_res_abort(c->req);
    } else {
        struct proxy *p = c->state;
        p->up = http_call_cancel(p->up);
        api_fail(c, 503, "draining", "the node is stopping");
    }
}

static const char *text_of(struct str s, char *dst, size_t cap)
{
    return s.p != NULL && str_copy(dst, cap, s) == 0 ? dst : NULL;
}

static void answer_drained(void *arg, struct http_req *req)
{
    struct proxy *p = arg;
    (void)req;
    if (p->up != NULL) {
        http_call_resume(p->up);
    }
}

static void on_head(void *arg, struct http_call *up, const struct http1_head *head)
{
    struct proxy *p = arg;
    struct api_call *c = p->call;
    char value[1024];
    char type[256];
    (void)up;
    p->status = head->status;
    api_headers(c);
    http_res_header(c->req, "Agent-Answered-By", p->node);
    for (size_t i = 0; i < ARRAY_LEN(answer_headers); i++) {
        const char *v = text_of(http1_header(head, answer_headers[i]), value, sizeof(value));
        if (v != NULL) {
            http_res_header(c->req, answer_headers[i], v);
        }
    }
    const char *content = text_of(http1_header(head, "Content-Type"), type, sizeof(type));
    if (str_eqs(c->head->method, "HEAD") && head->has_length) {
        http_res_send_length(c->req, head->status, content, head->length);
    } else if (head->status == 204 || str_eqs(c->head->method, "HEAD")) {
        http_res_send(c->req, head->status, content, NULL, 0);
    } else {
        http_res_begin(c->req, head->status, content, answer_drained, p);
    }
}

static void on_data(void *arg, struct http_call *up, struct str data)
{
    struct proxy *p = arg;
    if (p->status != 204 && !str_eqs(p->call->head->method, "HEAD") &&
        !http_res_write(p->call->req, data.p, data.n)) {
        http_call_pause(up);
    }
}

static void on_done(void *arg, struct http_call *up, int rc, int status, const char *why)
{
    struct proxy *p = arg;
    struct api_call *c = p->call;
    (void)up;
    (void)status;
    p->up = NULL;
    c->on_stop = NULL;
    bool streams = http_res_started(c->req);
    if (rc == 0 && p->status != 204 && !str_eqs(c->head->method, "HEAD")) {
        http_res_end(c->req);
    } else if (rc != 0 && streams) {
        http_res_abort(c->req);
    } else if (rc != 0) {
        api_fail(c, rc == -ETIMEDOUT ? 504 : 502, "node_unreachable", "node '%s': %s", p->node,
                 why != NULL ? why : err_name(rc));
    }
}

static void body_room(void *arg, struct http_call *up)
{
    struct proxy *p = arg;
    (void)up;
    if (p->body_left) {
        http_req_resume(p->call->req);
    }
}

static void body_data(void *arg, struct http_req *req, struct str data)
{
    struct proxy *p = arg;
    if (p->up != NULL && !http_call_write(p->up, data.p, data.n)) {
        http_req_pause(req);
    }
}

static void body_end(void *arg, struct http_req *req, int status)
{
    struct proxy *p = arg;
    (void)req;
    p->body_left = false;
    if (status == 0 && p->up != NULL) {
        http_call_write_end(p->up);
    } else if (status != 0 && !http_res_started(p->call->req)) {
        p->up = http_call_cancel(p->up);
        (void)api_body_ok(p->call, status, node_settings(p->call->api->node)->http.max_body_bytes);
    }
}

static void send_up(struct proxy *p, const struct http_target *to)
{
    static const struct http_call_events none = {
        .on_head = on_head, .on_data = on_data, .on_drain = body_room, .on_done = on_done
    };
    struct api_call *c = p->call;
    struct http_call_events events = none;
    char text[2048];
    char target[HTTP1_TARGET_MAX + 1];
    bool body = c->head->chunked || (c->head->has_length && c->head->length > 0);
    events.arg = p;
    (void)text_of(c->head->method, text, sizeof(text));
    if (str_copy(target, sizeof(target), c->head->target) != 0 || target[0] != '/' ||
        (p->up = http_call_new(node_http(c->api->node), to, text, target, UINT64_MAX, &events)) ==
            NULL) {
        api_fail(c, 503, "queue_full", "the request cannot be passed on");
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(request_headers); i++) {
        const char *v = text_of(http1_header(c->head, request_headers[i]), text, sizeof(text));
        if (v != NULL) {
            http_call_header(p->up, request_headers[i], v);
        }
    }
    http_call_header(p->up, "X-Request-Id", c->request_id);
    http_call_header(p->up, "Agent-Hop", api_is_hop(c) ? "2" : "1");
    node_identify(c->api->node, p->up);
    if (body) {
        http_call_body_stream(p->up, c->head->has_length ? c->head->length : UINT64_MAX);
    }
    http_call_send(p->up);
    if (body) {
        const struct http_body_sink sink = { body_data, body_end, p };
        p->body_left = true;
        http_req_read(c->req, node_settings(c->api->node)->http.max_body_bytes, &sink);
    }
}

void api_proxy(struct api_call *c, const char *node)
{
    struct http_target to;
    struct proxy *p = NULL;
    if (!node_target(c->api->node, str_of(node), &to)) {
        api_fail(c, 502, "node_unreachable", "node '%s' is not reachable now", node);
        return;
    }
    p = mem_zalloc(sizeof(*p));
    if (p == NULL) {
        api_fail(c, 503, "queue_full", "out of memory");
        return;
    }
    p->call = c;
    (void)str_copy(p->node, sizeof(p->node), str_of(node));
    c->state = p;
    c->on_gone = proxy_gone;
    c->on_stop = proxy_stop;
    send_up(p, &to);
}

static void located(void *arg, const struct node_error *error, struct str name)
{
    struct api_call *c = arg;
    char node[NODE_NAME_CAP];
    if (error == NULL && name.n != 0 && str_copy(node, sizeof(node), name) == 0) {
        api_proxy(c, node);
    } else {
        api_auth_go(c);
    }
}

/* The entry node answers while it is there. It, and everybody once it is gone, looks for whoever
 * has taken the run over: so it may be two hops, never a third. */
bool api_proxy_run(struct api_call *c)
{
    struct node *n = c->api->node;
    char owner[NODE_NAME_CAP];
    struct str hop = http1_header(c->head, "Agent-Hop");
    struct ulid id;
    if (c->route->reach != API_REACH_RUN || (hop.p != NULL && !str_eqs(hop, "1")) ||
        ulid_parse(str_of(c->param), &id) != 0 || node_run_is_mine(n, id)) {
        return false;
    }
    if (hop.p == NULL && node_run_owner(n, id, owner)) {
        api_proxy(c, owner);
    } else {
        node_run_locate(n, id, hop.p == NULL, located, c);
    }
    return true;
}

bool api_proxy_node(struct api_call *c)
{
    struct http_target to;
    if (node_is_self(c->api->node, str_of(c->param)) || api_is_hop(c) ||
        !node_target(c->api->node, str_of(c->param), &to)) {
        return false;
    }
    api_proxy(c, c->param);
    return true;
}
