/* The feed of events: a ring of texts, and who reads it. */
#include "agent/node/uv_node_events.h"

#include <errno.h>
#include <stdio.h>

#include "agent/node/uv_node_internal.h"
#include "agent/triggers/cloudevent.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { EVENT_MAX = 64 * 1024, ID_CAP = 48, TYPE_CAP = 48 };

struct event {
    char id[ID_CAP];
    char type[TYPE_CAP];
    char job[RUN_JOB_CAP];
    char *text;
    size_t len;
};

struct node_feed_reader {
    struct list link;
    struct node *node;
    void (*fn)(void *arg);
    void *arg;
    bool told; /* of what there is: since the last tell */
};

struct node_events {
    struct node *node;
    uint64_t start; /* of this process: the first half of an id */
    uint64_t first; /* number of the oldest that is remembered */
    uint64_t next;  /* number of the next one; the first is 1 */
    size_t bytes;
    struct list readers;
    unsigned readers_len;
    uint64_t warm_until_ms; /* while nobody reads */
    struct loop_defer tell;
    struct buf text; /* of the one that is being made */
    struct json_w w;
    struct event *open;
    struct event ring[NODE_FEED_MAX];
};

static struct event *at(struct node_events *v, uint64_t number)
{
    return &v->ring[number % NODE_FEED_MAX];
}

static void forget_first(struct node_events *v)
{
    struct event *x = at(v, v->first++);

    v->bytes -= x->len;
    x->text = mem_free(x->text);
}

static void forget_all(struct node_events *v)
{
    while (v->first < v->next) {
        forget_first(v);
    }
}

static bool warm(struct node_events *v)
{
    if (v->readers_len != 0 || loop_now_ms(v->node->loop) < v->warm_until_ms) {
        return true;
    }
    forget_all(v);
    return false;
}

/* ---- making ---- */

struct json_w *node_event_begin(struct node *n, const char *type, const char *subject,
                                const char *job)
{
    struct node_events *v = n->events_feed;
    char source[RUN_NODE_CAP + 16];

    if (!warm(v)) {
        return NULL;
    }
    INSIST(v->open == NULL);
    if (v->next - v->first == NODE_FEED_MAX) {
        forget_first(v);
    }
    struct event *x = at(v, v->next);
    (void)snprintf(x->id, sizeof x->id, "%llx-%llu", (unsigned long long)v->start,
                   (unsigned long long)v->next);
    (void)str_copy(x->type, sizeof x->type, str_of(type));
    (void)str_copy(x->job, sizeof x->job, str_of(job));
    (void)snprintf(source, sizeof source, "/v1/nodes/%.63s", n->settings.node.name);
    const struct trigger_event_head head = { .id = x->id,
                                             .source = source,
                                             .type = x->type,
                                             .subject = subject,
                                             .job = job,
                                             .time_us = sys_wall_us() };
    v->open = x;
    buf_reset(&v->text);
    json_w_init(&v->w, &v->text, false);
    trigger_event_open(&v->w, &head);
    return &v->w;
}

void node_event_end(struct node *n)
{
    struct node_events *v = n->events_feed;
    struct event *x = v->open;

    json_w_end(&v->w);
    v->open = NULL;
    x->text = buf_error(&v->text) == 0 ? mem_dup(v->text.data, v->text.len) : NULL;
    if (x->text == NULL) {
        return; /* no memory: its number is the next one's */
    }
    x->len = v->text.len;
    v->bytes += x->len;
    v->next++;
    while (v->bytes > NODE_FEED_BYTES) {
        forget_first(v);
    }
    loop_defer_post(n->loop, &v->tell);
}

void node_event_run(struct node *n, const struct run *run)
{
    char type[TYPE_CAP];
    char id[ULID_TEXT_CAP];

    ulid_format(run->id, id);
    if (run->state == RUN_QUEUED && run->attempt == 1 && run->trigger != RUN_TRIGGER_API) {
        struct json_w *w = node_event_begin(n, "agent.trigger.fired", id, run->job);
        if (w != NULL) {
            json_w_obj(w);
            json_kv_cstr(w, "kind", run_trigger_name((enum run_trigger)run->trigger));
            json_kv_cstr(w, "job", run->job);
            json_kv_cstr(w, "run", id);
            json_kv_time(w, "scheduled_at", run->scheduled_us);
            json_w_end(w);
            node_event_end(n);
        }
    }
    (void)snprintf(type, sizeof type, "agent.run.%s", run_state_name((enum run_state)run->state));
    struct json_w *w = node_event_begin(n, type, id, run->job);
    if (w != NULL) {
        run_to_json(w, run);
        node_event_end(n);
    }
}

void node_event_member(struct node *n, const char *what, const char *name)
{
    char type[TYPE_CAP];

    (void)snprintf(type, sizeof type, "agent.node.%s", what);
    struct json_w *w = node_event_begin(n, type, name, NULL);
    if (w != NULL) {
        json_w_obj(w);
        json_kv_cstr(w, "node", name);
        json_w_end(w);
        node_event_end(n);
    }
}

static void event_of_job(struct node *n, const char *type, const char *job, uint32_t revision)
{
    struct json_w *w = node_event_begin(n, type, job, job);

    if (w != NULL) {
        json_w_obj(w);
        json_kv_cstr(w, "job", job);
        json_kv_u64(w, "revision", revision);
        json_w_end(w);
        node_event_end(n);
    }
}

void node_event_job(struct node *n, const char *what, const char *job, uint32_t revision)
{
    char type[TYPE_CAP];

    (void)snprintf(type, sizeof type, "agent.job.%s", what);
    event_of_job(n, type, job, revision);
}

void node_event_profile(struct node *n, const char *job, uint32_t revision)
{
    event_of_job(n, "agent.job.profile_updated", job, revision);
}

/* ---- reading ---- */

static void tell(struct loop_defer *d)
{
    struct node_events *v = CONTAINER_OF(d, struct node_events, tell);
    bool again = true;

    LIST_EACH (l, &v->readers) {
        LIST_ITEM(l, struct node_feed_reader, link)->told = false;
    }
    /* A reader may close itself, or another one, meanwhile. */
    while (again) {
        again = false;
        LIST_EACH (l, &v->readers) {
            struct node_feed_reader *r = LIST_ITEM(l, struct node_feed_reader, link);
            if (!r->told) {
                r->told = true;
                r->fn(r->arg);
                again = true;
                break;
            }
        }
    }
}

struct node_feed_reader *node_feed_open(struct node *n, void (*fn)(void *arg), void *arg)
{
    struct node_events *v = n->events_feed;
    struct node_feed_reader *r = mem_zalloc(sizeof *r);

    if (r != NULL) {
        (void)warm(v); /* what was remembered for nobody is forgotten first */
        *r = (struct node_feed_reader){ .node = n, .fn = fn, .arg = arg, .told = true };
        list_push_back(&v->readers, &r->link);
        v->readers_len++;
    }
    return r;
}

struct node_feed_reader *node_feed_close(struct node_feed_reader *r)
{
    if (r != NULL) {
        struct node_events *v = r->node->events_feed;
        if (--v->readers_len == 0) {
            v->warm_until_ms = loop_now_ms(r->node->loop) + NODE_FEED_WARM_MS;
        }
        list_remove(&r->link);
        mem_free(r);
    }
    return NULL;
}

uint64_t node_feed_begin(struct node *n, struct str last_id, bool *ret_whole)
{
    struct node_events *v = n->events_feed;
    struct str start;
    uint64_t number = 0;
    uint64_t life = 0;

    *ret_whole = true;
    if (last_id.n == 0) {
        return v->next;
    }
    if (str_split(&last_id, '-', &start) && str_hex_u64(start, &life) == 0 && life == v->start &&
        str_u64(last_id, &number) == 0 && number < v->next && number + 1 >= v->first) {
        return number + 1;
    }
    *ret_whole = false;
    return v->first;
}

int node_feed_next(struct node *n, uint64_t *pos, struct node_feed_event *ret)
{
    struct node_events *v = n->events_feed;

    if (*pos < v->first) {
        return -ESTALE;
    }
    if (*pos >= v->next) {
        return 0;
    }
    const struct event *x = at(v, (*pos)++);
    *ret = (struct node_feed_event){
        .id = x->id, .type = x->type, .job = x->job, .text = { x->text, x->len }
    };
    return 1;
}

/* ---- start and end ---- */

struct node_events *node_events_new(struct node *n)
{
    struct node_events *v = mem_zalloc(sizeof *v);

    if (v != NULL) {
        v->node = n;
        v->start = (uint64_t)sys_wall_us();
        v->first = v->next = 1;
        list_init(&v->readers);
        buf_init(&v->text, EVENT_MAX);
        loop_defer_init(&v->tell, tell);
    }
    return v;
}

void node_events_free(struct node *n)
{
    struct node_events *v = n->events_feed;

    if (v == NULL) {
        return;
    }
    forget_all(v);
    LIST_EACH_SAFE (l, &v->readers) {
        mem_free(LIST_ITEM(l, struct node_feed_reader, link));
    }
    loop_defer_cancel(&v->tell);
    buf_release(&v->text);
    n->events_feed = mem_free(v);
}
