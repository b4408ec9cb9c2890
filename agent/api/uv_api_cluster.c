/*
 * Questions that all nodes answer together: runs, nodes, status.
 *
 *   local answer ─> the same question to every member (Agent-Hop) ─> merged when all have answered,
 *                                                    or ASK_MS later with what there is
 */
#include <errno.h>

#include "agent/api/api_internal.h"
#include "agent/api/api_merge.h"
#include "common/loop/http_client.h"
#include "common/mem.h"

enum { ASK_MS = 900, PART_MAX = 4 * 1024 * 1024, MEMBERS_MAX = 4096 };

struct part {
    struct scatter *scatter;
    struct http_call *up;
    struct buf text;
    char node[NODE_NAME_CAP];
    char address[96];
    const char *state;
    bool whole;
};

struct scatter {
    struct api_call *call;
    size_t n, left;
    size_t limit; /* of runs */
    void (*merge)(struct buf *out, const struct scatter *s, const struct api_part *parts);
    struct part parts[];
};

static void scatter_gone(struct api_call *c)
{
    struct scatter *s = c->state;
    for (size_t i = 0; i < s->n; i++) {
        s->parts[i].up = http_call_cancel(s->parts[i].up);
        buf_release(&s->parts[i].text);
    }
    mem_free(s);
}

static void scatter_send(struct scatter *s)
{
    struct api_call *c = s->call;
    struct api_part *parts = mem_calloc(s->n, sizeof(*parts));
    struct json_doc **docs = mem_calloc(s->n, sizeof(struct json_doc *));
    const struct json_limits limits = { .nodes_max = 2 * 1024 * 1024 };
    struct buf out = BUF_INIT(API_JSON_MAX);
    c->on_stop = NULL;
    for (size_t i = 0; parts != NULL && docs != NULL && i < s->n; i++) {
        const struct part *p = &s->parts[i];
        parts[i] = (struct api_part){ p->node, p->state, p->address, NULL };
        if (p->whole && json_parse(p->text.data, p->text.len, &limits, &docs[i], NULL) == 0) {
            parts[i].root = json_root(docs[i]);
        }
    }
    if (parts == NULL || docs == NULL) {
        api_fail(c, 503, "queue_full", "out of memory");
    } else {
        s->merge(&out, s, parts);
        api_send_json(c, 200, &out);
    }
    for (size_t i = 0; docs != NULL && i < s->n; i++) {
        docs[i] = json_free(docs[i]);
    }
    mem_free(parts);
    mem_free(docs);
    buf_release(&out);
}

static void part_data(void *arg, struct http_call *up, struct str data)
{
    struct part *p = arg;
    (void)up;
    (void)buf_addstr(&p->text, data);
}

static void part_done(void *arg, struct http_call *up, int rc, int status, const char *why)
{
    struct part *p = arg;
    struct scatter *s = p->scatter;
    (void)up;
    (void)why;
    p->up = NULL;
    p->whole = rc == 0 && status == 200 && buf_error(&p->text) == 0;
    if (--s->left == 0) {
        scatter_send(s);
    }
}

static void part_ask(struct part *p)
{
    struct scatter *s = p->scatter;
    struct api_call *c = s->call;
    const struct http_call_events events = { .on_data = part_data, .on_done = part_done, .arg = p };
    char target[HTTP1_TARGET_MAX + 1];
    struct http_target to;
    char token[1024];
    if (!node_target(c->api->node, str_of(p->node), &to) ||
        str_copy(target, sizeof(target), c->head->target) != 0 || target[0] != '/') {
        return;
    }
    p->up = http_call_new(node_http(c->api->node), &to, "GET", target, PART_MAX, &events);
    if (p->up == NULL) {
        return;
    }
    struct str auth = http1_header(c->head, "Authorization");
    if (auth.p != NULL && str_copy(token, sizeof(token), auth) == 0) {
        http_call_header(p->up, "Authorization", token);
    }
    http_call_header(p->up, "Agent-Hop", "1");
    node_identify(c->api->node, p->up);
    http_call_deadline(p->up, ASK_MS);
    http_call_send(p->up);
    s->left++;
}

static void scatter_begin(struct api_call *c, struct str own, size_t limit,
                          void (*merge)(struct buf *out, const struct scatter *s,
                                        const struct api_part *parts))
{
    struct node_member m;
    size_t members = 0;
    size_t pos = 0;
    while (members < MEMBERS_MAX && node_member_next(c->api->node, &pos, &m)) {
        members++;
    }
    struct scatter *s = mem_zalloc(sizeof(*s) + (members + 1) * sizeof(s->parts[0]));
    if (s == NULL) {
        api_fail(c, 503, "queue_full", "out of memory");
        return;
    }
    s->call = c;
    s->limit = limit;
    s->merge = merge;
    c->state = s;
    c->on_gone = scatter_gone;
    pos = 0;
    for (size_t i = 0; i <= members; i++) {
        struct part *p = &s->parts[s->n++];
        p->scatter = s;
        buf_init(&p->text, PART_MAX);
        p->state = "alive";
        if (i == 0) {
            (void)str_copy(p->node, sizeof(p->node),
                           str_of(node_settings(c->api->node)->node.name));
            p->whole = buf_addstr(&p->text, own) == 0;
            continue;
        }
        (void)node_member_next(c->api->node, &pos, &m);
        (void)str_copy(p->node, sizeof(p->node), str_of(m.name));
        (void)str_copy(p->address, sizeof(p->address), str_of(m.address));
        p->state = m.alive ? "unreachable" : m.state;
        if (m.alive && !m.hidden) {
            part_ask(p);
        }
    }
    if (s->left == 0) {
        scatter_send(s);
    }
}

static bool is_alone(const struct api_call *c)
{
    struct node_member m;
    size_t pos = 0;
    return api_is_hop(c) || !node_member_next(c->api->node, &pos, &m);
}

/* ---- status ---- */

static void status_merge(struct buf *out, const struct scatter *s, const struct api_part *parts)
{
    api_merge_status(out, parts, s->n);
}

static void status_came(void *arg, const struct node_error *error, struct str text)
{
    struct api_call *c = arg;
    if (error != NULL || is_alone(c)) {
        api_answer_text(c, error, text);
    } else {
        scatter_begin(c, text, 0, status_merge);
    }
}

void api_status(struct api_call *c)
{
    node_status(c->api->node, status_came, c);
}

/* ---- nodes ---- */

static void nodes_merge(struct buf *out, const struct scatter *s, const struct api_part *parts)
{
    api_merge_nodes(out, parts, s->n);
}

void api_node_list(struct api_call *c)
{
    struct buf b = BUF_INIT(API_JSON_MAX);
    struct json_w w;
    json_w_init(&w, &b, false);
    json_w_obj(&w);
    json_w_key(&w, "nodes");
    json_w_arr(&w);
    node_self_json(c->api->node, &w);
    json_w_end(&w);
    json_w_end(&w);
    if (buf_error(&b) != 0 || is_alone(c)) {
        api_send_json(c, 200, &b);
    } else {
        scatter_begin(c, buf_str(&b), 0, nodes_merge);
    }
    buf_release(&b);
}

/* ---- runs ---- */

static void runs_merge(struct buf *out, const struct scatter *s, const struct api_part *parts)
{
    api_merge_runs(out, parts, s->n, s->limit);
}

void api_runs_send(struct api_call *c, struct buf *own, size_t limit)
{
    if (buf_error(own) != 0 || is_alone(c)) {
        api_send_json(c, 200, own);
    } else {
        scatter_begin(c, buf_str(own), limit, runs_merge);
        buf_release(own);
    }
}

/* ---- call-backs ---- */

static void callbacks_merge(struct buf *out, const struct scatter *s, const struct api_part *parts)
{
    api_merge_callbacks(out, parts, s->n, s->limit);
}

void api_callbacks_send(struct api_call *c, struct str own, size_t limit)
{
    if (is_alone(c)) {
        api_answer_text(c, NULL, own);
    } else {
        scatter_begin(c, own, limit, callbacks_merge);
    }
}
