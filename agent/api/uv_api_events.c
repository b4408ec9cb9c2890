/*
 * The feed of events, as server-sent events: each is a CloudEvent with its id, so that a client
 * that comes back with Last-Event-ID misses nothing that is still remembered.
 *
 *   node: something has happened ─> write what is new ─┬─ all of it: wait for more
 *                                                      └─ the client reads slowly: wait for drain
 *
 * A client whose place is no longer remembered is dropped, and counted; what is missing at the
 * start (Last-Event-ID is of another life, or too old) is said by an event agent.feed.gap.
 */
#include <errno.h>
#include <stdio.h>

#include "agent/api/api_internal.h"
#include "agent/triggers/cloudevent.h"
#include "common/ids.h"
#include "common/mem.h"

enum { TYPE_MAX = 128, LAST_ID_MAX = 128, MESSAGE_MAX = 128 * 1024 };

struct feed {
    struct api_call *call;
    struct node_feed_reader *reader;
    uint64_t pos;
    bool full; /* until the client has read */
    char type[TYPE_MAX + 1];
    char job[RUN_JOB_CAP];
};

static void feed_beat(struct api_call *c)
{
    if (http_res_write(c->req, ": still here\n\n", 14)) {
        (void)api_due_set(c, API_HEARTBEAT_MS, feed_beat);
    } else {
        c->api->event_drops_total++;
        http_res_abort(c->req);
    }
}

static bool feed_says(struct feed *f, const char *id, const char *type, struct str text)
{
    AUTO_BUF struct buf b = BUF_INIT(MESSAGE_MAX);

    if (id != NULL) {
        (void)buf_addf(&b, "id: %s\n", id);
    }
    (void)buf_addf(&b, "event: %s\ndata: ", type);
    (void)buf_addstr(&b, text);
    (void)buf_adds(&b, "\n\n");
    return buf_error(&b) == 0 && http_res_write(f->call->req, b.data, b.len);
}

static bool feed_wants(const struct feed *f, const struct node_feed_event *ev)
{
    return str_starts(str_of(ev->type), f->type) &&
           (f->job[0] == '\0' || strcmp(f->job, ev->job) == 0);
}

/* Something is new, or the client has read. */
static void feed_go(struct feed *f)
{
    struct api_call *c = f->call;
    struct node_feed_event ev;
    int rc = 0;

    while (!f->full && (rc = node_feed_next(c->api->node, &f->pos, &ev)) == 1) {
        if (feed_wants(f, &ev)) {
            f->full = !feed_says(f, ev.id, ev.type, ev.text);
        }
    }
    if (rc == -ESTALE) {
        c->api->event_drops_total++;
        f->reader = node_feed_close(f->reader);
        http_res_abort(c->req);
    }
}

static void feed_new(void *arg)
{
    struct feed *f = arg;
    struct node_feed_event ev;
    uint64_t pos = f->pos;

    /* One that does not read is dropped once its place is forgotten. */
    if (!f->full || node_feed_next(f->call->api->node, &pos, &ev) == -ESTALE) {
        f->full = false;
        feed_go(f);
    }
}

static void feed_drained(void *arg, struct http_req *req)
{
    struct feed *f = arg;

    (void)req;
    f->full = false;
    if (f->reader != NULL) {
        feed_go(f);
    }
}

static void feed_gone(struct api_call *c)
{
    struct feed *f = c->state;

    f->reader = node_feed_close(f->reader);
    c->api->event_clients--;
    mem_free(f);
}

static void feed_stop(struct api_call *c)
{
    struct feed *f = c->state;

    f->reader = node_feed_close(f->reader);
    api_due_clear(c);
    http_res_end(c->req);
}

/* Some of what came after that id is not known any more. */
static void feed_gap(struct feed *f, struct str last)
{
    AUTO_BUF struct buf b = BUF_INIT(4096);
    char source[NODE_NAME_CAP + 16];
    char id[LAST_ID_MAX + 8];
    struct json_w w;

    (void)snprintf(source, sizeof source, "/v1/nodes/%.63s",
                   node_settings(f->call->api->node)->node.name);
    (void)snprintf(id, sizeof id, "gap-%.*s", STR_ARG(str_slice(last, 0, LAST_ID_MAX)));
    const struct trigger_event_head head = { .id = id, .source = source, .type = "agent.feed.gap" };
    json_w_init(&w, &b, false);
    trigger_event_open(&w, &head);
    json_w_obj(&w);
    json_kv_str(&w, "after", last);
    json_w_end(&w);
    json_w_end(&w);
    (void)feed_says(f, NULL, head.type, buf_str(&b));
}

/* False: answered. */
static bool feed_query(struct api_call *c, struct feed *f, struct str *ret_last)
{
    static const char *const names[] = { "type", "job", NULL };
    int rc;

    if (!api_query_known(c, names)) {
        return false;
    }
    *ret_last = http1_header(c->head, "Last-Event-ID");
    rc = http1_query(c->head->query, "type", 0, f->type, sizeof f->type);
    rc = rc == 0 || rc == -ENOENT ? http1_query(c->head->query, "job", 0, f->job, sizeof f->job)
                                  : rc;
    if ((rc != 0 && rc != -ENOENT) || ret_last->n > LAST_ID_MAX) {
        api_fail(c, 400, "bad_request",
                 "query parameters are type=PREFIX (%d bytes at most) and job=JOB; Last-Event-ID "
                 "is the id of an event",
                 TYPE_MAX);
        return false;
    }
    return true;
}

void api_events(struct api_call *c)
{
    struct feed *f;
    struct str last = { 0 };
    bool whole = true;

    if (str_eqs(c->head->method, "HEAD")) {
        api_headers(c);
        http_res_send_length(c->req, 200, "text/event-stream", 0);
        return;
    }
    if (c->api->event_clients >= API_EVENT_CLIENTS_MAX) {
        api_fail(c, 503, "queue_full", "too many clients read events");
        return;
    }
    f = mem_zalloc(sizeof *f);
    if (f == NULL) {
        api_fail(c, 503, "queue_full", "out of memory");
        return;
    }
    f->call = c;
    if (!feed_query(c, f, &last)) {
        mem_free(f);
        return;
    }
    f->reader = node_feed_open(c->api->node, feed_new, f);
    if (f->reader == NULL) {
        mem_free(f);
        api_fail(c, 503, "queue_full", "out of memory");
        return;
    }
    f->pos = node_feed_begin(c->api->node, last, &whole);
    c->state = f;
    c->api->event_clients++;
    c->on_gone = feed_gone;
    c->on_stop = feed_stop;
    api_headers(c);
    http_res_header(c->req, "X-Accel-Buffering", "no");
    http_res_begin(c->req, 200, "text/event-stream", feed_drained, f);
    (void)http_res_write(c->req, "retry: 2000\n\n", 13);
    (void)api_due_set(c, API_HEARTBEAT_MS, feed_beat);
    if (!whole) {
        feed_gap(f, last);
    }
    feed_go(f);
}
