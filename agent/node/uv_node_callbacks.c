/* Call-backs out: the deliveries that there are, start and end. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "agent/node/uv_node_callbacks_internal.h"
#include "agent/node/uv_node_events.h"
#include "common/mem.h"
#include "common/sys/sys.h"

const char *const node_delivery_states[NODE_DELIVERY_STATES] = { "waiting", "delivered", "gone",
                                                                 "failed", "off" };

/* ---- deliveries ---- */

static void delivery_json(const struct node_delivery *d, struct json_w *w)
{
    json_w_obj(w);
    json_kv_cstr(w, "id", d->id);
    json_kv_str(w, "run", str_slice(str_of(d->id), 0, ULID_TEXT_LEN));
    json_w_key(w, "job");
    if (d->job[0] != '\0') {
        json_w_cstr(w, d->job);
    } else {
        json_w_null(w);
    }
    json_kv_cstr(w, "url", d->url);
    json_kv_bool(w, "signed", d->secret[0] != '\0');
    json_kv_cstr(w, "event", d->type);
    json_kv_cstr(w, "state", node_delivery_states[d->state]);
    json_kv_u64(w, "tries", d->tries);
    json_w_key(w, "status");
    if (d->status != 0) {
        json_w_int(w, d->status);
    } else {
        json_w_null(w);
    }
    json_kv_cstr(w, "detail", d->detail);
    json_kv_time(w, "created_at", d->created_us);
    json_kv_time(w, "next_at",
                 d->state == NODE_DELIVERY_WAITING && d->flight == NULL ? d->due_us : 0);
    json_kv_time(w, "done_at", d->done_us);
    json_w_end(w);
}

static struct str off_key(struct buf *b, const char *job, const char *url)
{
    (void)buf_addf(b, "%s\n%s", job, url);
    if (buf_error(b) != 0) {
        node_out_of_memory("a call-back");
    }
    return buf_str(b);
}

struct node_off *node_off_find(const struct node_callbacks *c, const char *job, const char *url)
{
    AUTO_BUF struct buf key = BUF_INIT(TRIGGER_URL_MAX + RUN_JOB_CAP + 2);

    return map_get(&c->offs, off_key(&key, job, url));
}

void node_off_free(struct node_callbacks *c, struct node_off *o)
{
    if (o != NULL) {
        (void)map_remove(&c->offs, str_of(o->key));
        list_remove(&o->link);
        mem_free(o->key);
        mem_free(o);
    }
}

/* One-offs have no later runs. */
void node_off_set(struct node_callbacks *c, const struct node_delivery *d)
{
    AUTO_BUF struct buf key = BUF_INIT(TRIGGER_URL_MAX + RUN_JOB_CAP + 2);

    if (d->job[0] == '\0' || d->revision == 0) {
        return;
    }
    node_off_free(c, node_off_find(c, d->job, d->url));
    if (c->offs.len == NODE_OFFS_MAX) {
        node_off_free(c, LIST_ITEM(c->off_list.next, struct node_off, link));
    }
    struct node_off *o = mem_zalloc(sizeof *o);
    (void)off_key(&key, d->job, d->url);
    if (o == NULL || (o->key = buf_take(&key)) == NULL) {
        node_out_of_memory("a call-back");
    }
    o->revision = d->revision;
    list_init(&o->link);
    if (map_add(&c->offs, str_of(o->key), o) != 0) {
        node_out_of_memory("a call-back");
    }
    list_push_back(&c->off_list, &o->link);
}

void node_delivery_dirty(struct node_callbacks *c, struct node_delivery *d)
{
    if (list_empty(&d->dirty)) {
        list_push_back(&c->dirty, &d->dirty);
    }
}

static void node_delivery_free(struct node_delivery *d)
{
    list_remove(&d->link);
    list_remove(&d->dirty);
    mem_free(d->url);
    mem_free(d->body);
    mem_free(d);
}

/* Forgets one that is over, and its row. */
static void node_delivery_drop(struct node_callbacks *c, struct node_delivery *d)
{
    struct node_drop *x = mem_zalloc(sizeof *x);

    if (x == NULL) {
        node_out_of_memory("a call-back");
    }
    memcpy(x->id, d->id, sizeof x->id);
    list_init(&x->link);
    list_push_back(&c->drops, &x->link);
    (void)map_remove(&c->ids, str_of(d->id));
    node_delivery_free(d);
}

/* Room for one more: the one that has been over for the longest goes. */
static bool make_room(struct node_callbacks *c)
{
    if (c->ids.len < NODE_CALLBACKS_MAX) {
        return true;
    }
    LIST_EACH (l, &c->over) {
        struct node_delivery *d = LIST_ITEM(l, struct node_delivery, link);
        if (!d->saving) {
            node_delivery_drop(c, d);
            return true;
        }
    }
    return false;
}

void node_delivery_wait(struct node_callbacks *c, struct node_delivery *d, int64_t due_us)
{
    d->state = NODE_DELIVERY_WAITING;
    d->due_us = due_us;
    list_remove(&d->link);
    if (heap_push(&c->due, &d->due, (uint64_t)due_us) != 0) {
        node_out_of_memory("a call-back");
    }
}

void node_delivery_over(struct node_callbacks *c, struct node_delivery *d,
                        enum node_delivery_state state)
{
    d->state = state;
    d->due_us = 0;
    d->done_us = sys_wall_us();
    c->ended_total[state]++;
    list_remove(&d->link);
    list_push_back(&c->over, &d->link);
    char type[32];
    (void)snprintf(type, sizeof type, "agent.callback.%s", node_delivery_states[state]);
    struct json_w *w = node_event_begin(c->node, type, d->id, d->job);
    if (w != NULL) {
        delivery_json(d, w);
        node_event_end(c->node);
    }
}

static uint64_t place_of(const struct node_callbacks *c, const char *url)
{
    char text[EGRESS_NAME_CAP + 8];
    struct trigger_url u;

    if (trigger_callback_url(str_of(url), &u, NULL) != 0) {
        return 0;
    }
    int n = snprintf(text, sizeof text, "%s:%u", u.host, u.port);
    return map_hash(c->ids.k0, c->ids.k1, text, (size_t)n);
}

/* NULL: there is no room, or it is there already. */
struct node_delivery *node_delivery_new(struct node_callbacks *c, const char *id, struct str url)
{
    unsigned hidden = 0;

    if (map_get(&c->ids, str_of(id)) != NULL) {
        return NULL;
    }
    if (!make_room(c)) {
        c->dropped_total++;
        if (log_limit_ok(&c->limit, loop_now_ms(c->node->loop), &hidden)) {
            log_error("call-back %s is dropped: %d others wait already", id, NODE_CALLBACKS_MAX);
        }
        return NULL;
    }
    struct node_delivery *d = mem_zalloc(sizeof *d);
    if (d == NULL || (d->url = mem_strndup(url.p, url.n)) == NULL) {
        node_out_of_memory("a call-back");
    }
    list_init(&d->link);
    list_init(&d->dirty);
    heap_node_init(&d->due);
    (void)str_copy(d->id, sizeof d->id, str_of(id));
    d->place = place_of(c, d->url);
    if (map_add(&c->ids, str_of(d->id), d) != 0) {
        node_out_of_memory("a call-back");
    }
    return d;
}

void node_deliveries_retain(struct node_callbacks *c)
{
    int64_t before = sys_wall_us() - (int64_t)c->node->settings.store.retention_ms * 1000;

    LIST_EACH_SAFE (l, &c->over) {
        struct node_delivery *d = LIST_ITEM(l, struct node_delivery, link);
        if (d->done_us >= before) {
            return;
        }
        if (!d->saving) {
            node_delivery_drop(c, d);
        }
    }
}

/* ---- for the API ---- */

/* By run: so lists of several nodes merge. */
static int newest_first(const void *a, const void *b)
{
    const struct node_delivery *const *x = a;
    const struct node_delivery *const *y = b;

    return strcmp((*y)->id, (*x)->id);
}

void node_callback_list(struct node *n, struct str job, struct str state, size_t limit,
                        node_text_fn *fn, void *arg)
{
    struct node_callbacks *c = n->callbacks;
    struct node_query *q = node_query_new(n, fn, arg);
    const struct node_delivery **found = mem_calloc(c->ids.len + 1, sizeof(struct node_delivery *));
    const struct node_delivery *d;
    struct json_w w;
    size_t len = 0;
    size_t pos = 0;

    if (found == NULL) {
        node_out_of_memory("a list of call-backs");
    }
    while ((d = map_next(&c->ids, &pos)) != NULL) {
        if ((job.n == 0 || str_eqs(job, d->job)) &&
            (state.n == 0 || str_eqs(state, node_delivery_states[d->state]))) {
            found[len++] = d;
        }
    }
    qsort(found, len, sizeof(struct node_delivery *), newest_first);
    json_w_init(&w, &q->text, false);
    json_w_obj(&w);
    json_w_key(&w, "callbacks");
    json_w_arr(&w);
    for (size_t i = 0; i < len && i < limit; i++) {
        delivery_json(found[i], &w);
    }
    json_w_end(&w);
    json_kv_bool(&w, "more", len > limit);
    json_w_end(&w);
    mem_free(found);
    node_query_text(q);
}

bool node_callback_is_here(const struct node *n, struct str id)
{
    return map_get(&n->callbacks->ids, id) != NULL;
}

bool node_callback_state_ok(struct str state)
{
    for (size_t i = 0; i < NODE_DELIVERY_STATES; i++) {
        if (str_eqs(state, node_delivery_states[i])) {
            return true;
        }
    }
    return false;
}

void node_callback_retry(struct node *n, struct str id, node_text_fn *fn, void *arg)
{
    struct node_callbacks *c = n->callbacks;
    struct node_query *q = node_query_new(n, fn, arg);
    struct node_delivery *d = map_get(&c->ids, id);
    struct json_w w;

    if (d == NULL) {
        node_query_refuse(q, NODE_UNKNOWN_CALLBACK, "there is no call-back '%.*s' here",
                          STR_ARG(str_slice(id, 0, 60)));
        return;
    }
    if (d->flight != NULL || !d->stored) {
        node_query_refuse(q, NODE_CONFLICT, "it is being sent");
        return;
    }
    heap_remove(&c->due, &d->due);
    node_off_free(c, node_off_find(c, d->job, d->url));
    d->tries = 0;
    d->done_us = 0;
    node_delivery_wait(c, d, sys_wall_us());
    node_delivery_dirty(c, d);
    json_w_init(&w, &q->text, false);
    delivery_json(d, &w);
    node_query_text(q);
    node_callbacks_pump(c);
}

void node_callbacks_metrics(struct node *n, struct buf *out)
{
    static const char *const classes[] = { "none", "1xx", "2xx", "3xx", "4xx", "5xx" };
    const struct node_callbacks *c = n->callbacks;
    size_t waiting = c->ids.len;

    LIST_EACH (l, &c->over) {
        waiting--;
    }
    (void)buf_addf(out,
                   "# HELP agent_callbacks_waiting Call-backs that are not delivered yet.\n"
                   "# TYPE agent_callbacks_waiting gauge\nagent_callbacks_waiting %zu\n"
                   "# HELP agent_callbacks_total Call-backs that are over, by how they ended.\n"
                   "# TYPE agent_callbacks_total counter\n",
                   waiting);
    for (size_t i = NODE_DELIVERY_DELIVERED; i < NODE_DELIVERY_STATES; i++) {
        (void)buf_addf(out, "agent_callbacks_total{state=\"%s\"} %llu\n", node_delivery_states[i],
                       (unsigned long long)c->ended_total[i]);
    }
    (void)buf_addf(out,
                   "agent_callbacks_total{state=\"dropped\"} %llu\n"
                   "# HELP agent_callback_answers_total Tries, by class of the answer's status.\n"
                   "# TYPE agent_callback_answers_total counter\n",
                   (unsigned long long)c->dropped_total);
    for (size_t i = 0; i < ARRAY_LEN(classes); i++) {
        (void)buf_addf(out, "agent_callback_answers_total{code=\"%s\"} %llu\n", classes[i],
                       (unsigned long long)c->answers_total[i]);
    }
}

/* ---- start and end ---- */

static int load_row(void *arg, const struct node_callback_row *r)
{
    struct node_callbacks *c = arg;
    char id[NODE_DELIVERY_ID_CAP];

    if (r->state >= NODE_DELIVERY_STATES || r->id.n <= ULID_TEXT_LEN ||
        str_copy(id, sizeof id, r->id) != 0 || r->url.n > TRIGGER_URL_MAX) {
        return 0; /* not of ours */
    }
    struct node_delivery *d = node_delivery_new(c, id, r->url);
    if (d == NULL) {
        return 0;
    }
    (void)str_copy(d->job, sizeof d->job, r->job);
    (void)str_copy(d->secret, sizeof d->secret, r->secret);
    (void)str_copy(d->type, sizeof d->type, r->type);
    (void)str_copy(d->detail, sizeof d->detail, r->detail);
    d->revision = r->revision;
    d->state = (enum node_delivery_state)r->state;
    d->tries = r->tries;
    d->status = r->status;
    d->created_us = r->created_us;
    d->due_us = r->due_us;
    d->done_us = r->done_us;
    d->stored = true;
    if (d->state == NODE_DELIVERY_WAITING) {
        node_delivery_wait(c, d, d->due_us);
    } else {
        list_push_back(&c->over, &d->link);
    }
    return 0;
}

static int by_end(const void *a, const void *b)
{
    const struct node_delivery *const *x = a;
    const struct node_delivery *const *y = b;

    if ((*x)->done_us != (*y)->done_us) {
        return (*x)->done_us < (*y)->done_us ? -1 : 1;
    }
    return strcmp((*x)->id, (*y)->id);
}

/* Those that are over, in the order of their ends: who is off at the end of that, is. */
static void order(struct node_callbacks *c)
{
    struct node_delivery **all = mem_calloc(c->ids.len + 1, sizeof(struct node_delivery *));
    size_t n = 0;

    if (all == NULL) {
        node_out_of_memory("the call-backs");
    }
    LIST_EACH_SAFE (l, &c->over) {
        all[n++] = LIST_ITEM(l, struct node_delivery, link);
        list_remove(l);
    }
    qsort(all, n, sizeof(struct node_delivery *), by_end);
    for (size_t i = 0; i < n; i++) {
        list_push_back(&c->over, &all[i]->link);
        if (all[i]->state == NODE_DELIVERY_GONE) {
            node_off_set(c, all[i]);
        } else if (all[i]->state == NODE_DELIVERY_DELIVERED) {
            node_off_free(c, node_off_find(c, all[i]->job, all[i]->url));
        }
    }
    mem_free(all);
}

static void init(struct node_callbacks *c, struct node *n, uint64_t k0, uint64_t k1)
{
    c->node = n;
    map_init(&c->ids, NODE_CALLBACKS_MAX, k0, k1);
    map_init(&c->offs, NODE_OFFS_MAX, k0, k1);
    heap_init(&c->due, NODE_CALLBACKS_MAX);
    list_init(&c->off_list);
    list_init(&c->over);
    list_init(&c->blocked);
    list_init(&c->dirty);
    list_init(&c->wants);
    list_init(&c->flights);
    list_init(&c->readings);
    list_init(&c->drops);
    list_init(&c->trip.wants);
    c->limit = (struct log_limit){ .period_ms = 60000, .burst = 5 };
    loop_timer_init(&c->timer, &n->owner, node_callbacks_on_timer);
}

int node_callbacks_start(struct node *n, uint64_t k0, uint64_t k1, struct err *e)
{
    const struct http_client_options http = { .per_host_max = NODE_CALLBACKS_TO_ONE,
                                              .idle_max = NODE_CALLBACKS_FLYING,
                                              .idle_timeout_ms = 5000,
                                              .connect_timeout_ms = 10000,
                                              .response_timeout_ms = UINT_MAX,
                                              .user_agent = "agent",
                                              .may_connect = node_callbacks_may_connect,
                                              .arg = n };
    const char *ca = n->settings.callbacks.ca_file;
    char dir[SETTINGS_PATH_MAX + 16];
    struct node_callbacks *c = mem_zalloc(sizeof *c);
    int rc;

    if (c == NULL) {
        return err_set(e, -ENOMEM, "the call-backs");
    }
    n->callbacks = c;
    init(c, n, k0, k1);
    (void)snprintf(dir, sizeof dir, "%s/db", n->settings.node.data_dir);
    if (ca[0] != '\0' && node_callbacks_authorities(ca, &c->tls, e) != 0) {
        return err_prefix(e, "callbacks.ca_file '%s'", ca);
    }
    if ((rc = http_client_start(n->loop, &http, &c->http, e)) != 0 ||
        (rc = node_callback_db_open(dir, &c->db, e)) != 0) {
        return rc;
    }
    if ((rc = node_callback_db_load(c->db, load_row, c)) != 0 ||
        (rc = node_callback_db_seen(c->db, &c->seen_us)) != 0) {
        return err_say(e, rc, "%s", node_callback_db_error(c->db));
    }
    order(c);
    if (c->seen_us != 0) {
        node_asked(job_store_callers_after(n->store, c->seen_us, node_callbacks_earlier, c));
    }
    c->want_seen = true;
    node_callbacks_pump(c);
    return 0;
}

static void http_closed(void *arg)
{
    struct node *n = arg;

    n->callbacks->http = NULL;
    n->callbacks->on_closed(n);
}

void node_callbacks_close(struct node *n, void (*done)(struct node *n))
{
    struct node_callbacks *c = n->callbacks;

    c->closed = true;
    c->on_closed = done;
    loop_timer_close(&c->timer);
    LIST_EACH_SAFE (l, &c->flights) {
        struct node_flight *f = LIST_ITEM(l, struct node_flight, link);
        f->call = http_call_cancel(f->call);
        if (!f->reading) {
            node_flight_free(f);
        }
    }
    http_client_close(c->http, http_closed, n);
}

void node_callbacks_free(struct node *n)
{
    struct node_callbacks *c = n->callbacks;
    struct node_delivery *d;
    size_t pos = 0;

    if (c == NULL) {
        return;
    }
    while ((d = map_next(&c->ids, &pos)) != NULL) {
        heap_remove(&c->due, &d->due);
        node_delivery_free(d);
    }
    LIST_EACH_SAFE (l, &c->off_list) {
        node_off_free(c, LIST_ITEM(l, struct node_off, link));
    }
    LIST_EACH_SAFE (l, &c->drops) {
        mem_free(LIST_ITEM(l, struct node_drop, link));
    }
    map_release(&c->ids);
    map_release(&c->offs);
    heap_release(&c->due);
    c->tls = tls_context_unref(c->tls);
    c->db = node_callback_db_close(c->db);
    n->callbacks = mem_free(c);
}
