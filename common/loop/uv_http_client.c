/*
 * The pool: places, who gets which connection, deadlines, start and end of a client.
 *
 *   call ─send─> waiting (place) ─┬─ an idle connection ──────> on it
 *                                 ├─ fewer than per_host_max ──> a new one, on it
 *                                 └─ else: until one is free, in order
 */
#include <errno.h>
#include <string.h>

#include "common/loop/http_client_internal.h"
#include "common/loop/tls.h"
#include "common/mem.h"

enum { PLACES_MAX = 16384, DUE_MAX = 1 << 20 };

/* -- deadlines -- */

static void timer_arm(struct http_client *c)
{
    const struct heap_node *first = heap_min(&c->due);
    if (first == NULL) {
        loop_timer_stop(&c->timer);
        return;
    }
    uint64_t now = loop_now_ms(c->loop);
    loop_timer_start(&c->timer, first->key > now ? first->key - now : 0, 0);
}

static void timer_fired(struct loop_timer *t)
{
    struct http_client *c = CONTAINER_OF(t, struct http_client, timer);
    struct heap_node *first = heap_min(&c->due);
    uint64_t now = loop_now_ms(c->loop);
    /* One each time: what fn does may change everything here. The next comes in the same turn. */
    if (first != NULL && first->key <= now) {
        struct http_due *due = CONTAINER_OF(first, struct http_due, node);
        heap_remove(&c->due, first);
        timer_arm(c);
        due->fn(due);
        return;
    }
    timer_arm(c);
}

bool http_client_due(struct http_client *c, struct http_due *due, uint64_t ms)
{
    uint64_t at = loop_now_ms(c->loop) + ms;
    if (due->node.index != SIZE_MAX) {
        heap_update(&c->due, &due->node, at);
    } else if (heap_push(&c->due, &due->node, at) != 0) {
        return false;
    }
    /* One that is put off is not worth a timer's restart: the timer looks again when it fires. */
    if (heap_min(&c->due) == &due->node &&
        (!loop_timer_active(&c->timer) || uv_timer_get_due_in(&c->timer.uv) > ms)) {
        timer_arm(c);
    }
    return true;
}

void http_client_due_clear(struct http_client *c, struct http_due *due)
{
    heap_remove(&c->due, &due->node);
}

/* -- places -- */

static size_t place_key(const struct http_call *call, char dst[HTTP_PLACE_KEY_CAP])
{
    size_t h = strlen(call->host) + 1;
    size_t n = strlen(call->tls_name) + 1;
    memcpy(dst, call->host, h);
    memcpy(dst + h, call->tls_name, n);
    memcpy(dst + h + n, &call->port, sizeof(call->port));
    memcpy(dst + h + n + sizeof(call->port), &call->tls, sizeof(call->tls));
    return h + n + sizeof(call->port) + sizeof(call->tls);
}

struct http_place *http_client_place(struct http_client *c, const struct http_call *call)
{
    char key[HTTP_PLACE_KEY_CAP];
    size_t n = place_key(call, key);
    struct http_place *p = map_get(&c->places, (struct str){ key, n });
    if (p != NULL) {
        p->refs++;
        return p;
    }
    p = mem_zalloc(sizeof(*p) + n);
    if (p == NULL) {
        return NULL;
    }
    memcpy(p->key, key, n);
    p->key_len = n;
    p->client = c;
    p->host = p->key;
    p->tls_name = p->key + strlen(p->key) + 1;
    p->port = call->port;
    list_init(&p->idle);
    list_init(&p->waiting);
    if (map_add(&c->places, (struct str){ p->key, n }, p) != 0) {
        mem_free(p);
        return NULL;
    }
    p->tls = tls_context_ref(call->tls);
    p->refs = 1;
    return p;
}

void http_place_drop(struct http_place *p)
{
    if (--p->refs == 0) {
        (void)map_remove(&p->client->places, (struct str){ p->key, p->key_len });
        (void)tls_context_unref(p->tls);
        mem_free(p);
    }
}

void http_place_dispatch(struct http_place *p)
{
    struct http_client *c = p->client;
    while (!list_empty(&p->waiting) && !c->closing) {
        struct http_call *call = LIST_ITEM(p->waiting.next, struct http_call, wait_link);
        struct http_link *idle =
            list_empty(&p->idle) ? NULL : LIST_ITEM(p->idle.next, struct http_link, idle_link);
        if (p->links >= c->opt.per_host_max && idle != NULL && call->fresh) {
            http_link_break(idle);
            idle = NULL;
        }
        bool wants_new = idle == NULL || call->fresh;
        if (wants_new && p->links >= c->opt.per_host_max) {
            return;
        }
        list_remove(&call->wait_link);
        c->stats.waiting--;
        if (!wants_new) {
            http_link_take(idle, call);
        } else if (http_link_new(p, call) != 0) {
            http_call_fail(call, -ENOMEM, "out of memory for a connection to %s", call->host);
        }
    }
}

/* -- start and end -- */

static void client_gone(struct loop_owner *o)
{
    struct http_client *c = CONTAINER_OF(o, struct http_client, owner);
    void (*on_closed)(void *arg) = c->on_closed;
    void *arg = c->closed_arg;
    INSIST(c->places.len == 0);
    map_release(&c->places);
    heap_release(&c->due);
    buf_release(&c->cipher);
    mem_free(c->user_agent);
    mem_free(c);
    if (on_closed != NULL) {
        on_closed(arg);
    }
}

static unsigned or_default(unsigned value, unsigned fallback)
{
    return value != 0 ? value : fallback;
}

int http_client_start(struct loop *loop, const struct http_client_options *opt,
                      struct http_client **ret, struct err *e)
{
    static const struct http_client_options none;
    uint64_t key[2] = { 0, 0 };
    struct http_client *c = mem_zalloc(sizeof(*c));
    const struct http_client_options *o = opt != NULL ? opt : &none;
    if (c == NULL) {
        return err_set(e, -ENOMEM, "start the HTTP client");
    }
    c->user_agent = mem_strdup(o->user_agent != NULL ? o->user_agent : "");
    if (c->user_agent == NULL) {
        mem_free(c);
        return err_set(e, -ENOMEM, "start the HTTP client");
    }
    c->loop = loop;
    c->opt = *o;
    c->opt.user_agent = NULL;
    c->opt.per_host_max = or_default(o->per_host_max, 16);
    c->opt.idle_max = or_default(o->idle_max, 256);
    c->opt.waiting_max = or_default(o->waiting_max, 4096);
    c->opt.connect_timeout_ms = or_default(o->connect_timeout_ms, 5000);
    c->opt.idle_timeout_ms = or_default(o->idle_timeout_ms, 30000);
    c->opt.response_timeout_ms = or_default(o->response_timeout_ms, 30000);
    c->opt.body_timeout_ms = or_default(o->body_timeout_ms, 30000);
    if (uv_random(NULL, NULL, key, sizeof(key), 0, NULL) != 0) {
        key[0] = uv_hrtime();
    }
    map_init(&c->places, PLACES_MAX, key[0], key[1]);
    heap_init(&c->due, DUE_MAX);
    buf_init(&c->cipher, (size_t)4 * 1024 * 1024);
    list_init(&c->calls);
    list_init(&c->links);
    list_init(&c->old);
    loop_owner_init(&c->owner, loop, client_gone);
    loop_timer_init(&c->timer, &c->owner, timer_fired);
    *ret = c;
    return 0;
}

void http_client_close(struct http_client *c, void (*on_closed)(void *arg), void *arg)
{
    REQUIRE(!c->closing);
    c->closing = true;
    c->on_closed = on_closed;
    c->closed_arg = arg;
    LIST_EACH_SAFE (it, &c->calls) {
        struct http_call *call = LIST_ITEM(it, struct http_call, all_link);
        http_call_fail(call, -ECANCELED, "the client is being closed");
    }
    LIST_EACH_SAFE (it, &c->links) {
        http_link_break(LIST_ITEM(it, struct http_link, all_link));
    }
    loop_timer_close(&c->timer);
    loop_owner_close(&c->owner);
}

const struct http_client_stats *http_client_stats(const struct http_client *c)
{
    return &c->stats;
}
