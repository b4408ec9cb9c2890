/* Call-backs out: their database, and sending. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>

#include "agent/node/uv_node_callbacks_internal.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    AUTHORITIES_MAX = 4 << 20,
    AGAIN_MS = 1000,     /* after a write that failed */
    LOOK_MS = 60 * 1000, /* the longest wait of the timer: the wall clock may be set */
};

static const char system_ca[] = "/etc/ssl/certs/ca-certificates.crt";

/* ---- the database: one trip at a time, on a pool thread ---- */

int node_callbacks_authorities(const char *file, struct tls_context **ret, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(AUTHORITIES_MAX);
    int rc = sys_read_file(AT_FDCWD, file, AUTHORITIES_MAX, &text, e);
    const struct tls_config config = { .ca = buf_str(&text) };

    return rc == 0 ? tls_context_new(&config, ret, e) : rc;
}

static void trip_work(struct loop_work *w)
{
    struct node_trip *t = CONTAINER_OF(w, struct node_trip, work);
    struct node_callbacks *c = CONTAINER_OF(t, struct node_callbacks, trip);
    struct err e = { 0 };

    t->rc = t->n != 0 || t->seen_us != 0
                ? node_callback_db_apply(c->db, t->changes, t->n, t->seen_us)
                : 0;
    LIST_EACH (l, &t->wants) {
        struct node_flight *f = LIST_ITEM(l, struct node_flight, want);
        f->rc = f->rc != 0 ? f->rc : node_callback_db_body(c->db, str_of(f->d->id), &f->body);
    }
    if (t->want_tls && node_callbacks_authorities(system_ca, &t->tls, &e) != 0) {
        (void)str_copy(t->tls_error, sizeof t->tls_error, str_of(err_text(&e)));
    }
}

static void saved(struct node_callbacks *c, struct node_trip *t)
{
    unsigned hidden = 0;

    for (size_t i = 0; i < t->n; i++) {
        struct node_delivery *d = t->saved[i];
        t->dropped[i] = mem_free(t->dropped[i]);
        if (d == NULL) {
            continue; /* a row that was to go and did not: it goes with the next start's cap */
        }
        d->saving = false;
        if (t->rc != 0) {
            node_delivery_dirty(c, d);
        } else if (!d->stored) {
            d->stored = true;
            d->body = mem_free(d->body);
            if (d->state == NODE_DELIVERY_WAITING) {
                node_delivery_wait(c, d, d->due_us);
            }
        }
    }
    if (t->rc != 0 && log_limit_ok(&c->limit, loop_now_ms(c->node->loop), &hidden)) {
        log_error("call-backs could not be written down: %s", node_callback_db_error(c->db));
    }
    c->again_ms = t->rc != 0 ? loop_now_ms(c->node->loop) + AGAIN_MS : 0;
    t->n = 0;
}

static void fly(struct node_flight *f);

static void trip_over(struct loop_work *w, int status)
{
    struct node_trip *t = CONTAINER_OF(w, struct node_trip, work);
    struct node_callbacks *c = CONTAINER_OF(t, struct node_callbacks, trip);

    t->busy = false;
    if (status != 0) {
        t->rc = status;
    }
    if (t->rc == 0 && t->seen_us != 0) {
        c->seen_us = t->seen_us;
    }
    saved(c, t);
    if (t->tls != NULL) {
        c->tls = t->tls;
        t->tls = NULL;
    }
    while (!list_empty(&t->wants)) {
        struct node_flight *f = LIST_ITEM(t->wants.next, struct node_flight, want);
        list_remove(&f->want);
        f->reading = false;
        f->rc = status != 0 ? status : f->rc;
        fly(f);
    }
    node_callbacks_go(c);
    node_callbacks_pump(c);
}

static void take_row(struct node_trip *t, struct node_delivery *d)
{
    size_t i = t->n++;

    memcpy(t->details[i], d->detail, sizeof t->details[i]);
    t->saved[i] = d;
    t->changes[i] = (struct node_callback_change){
        .op = NODE_CALLBACK_PUT,
        .row = { .id = str_of(d->id),
                 .job = str_of(d->job),
                 .url = str_of(d->url),
                 .secret = str_of(d->secret),
                 .type = str_of(d->type),
                 .detail = str_of(t->details[i]),
                 .body = str_of(d->body != NULL ? d->body : ""),
                 .revision = d->revision,
                 .state = d->state,
                 .tries = d->tries,
                 .status = d->status,
                 .created_us = d->created_us,
                 .due_us = d->due_us,
                 .done_us = d->done_us },
    };
    d->saving = true;
    list_remove(&d->dirty);
}

static void take_drops(struct node_callbacks *c, struct node_trip *t)
{
    while (!list_empty(&c->drops) && t->n < NODE_TRIP_ROWS_MAX) {
        struct node_drop *x = LIST_ITEM(c->drops.next, struct node_drop, link);
        size_t i = t->n++;
        t->saved[i] = NULL;
        t->dropped[i] = mem_strdup(x->id);
        if (t->dropped[i] == NULL) {
            node_out_of_memory("a call-back");
        }
        t->changes[i] = (struct node_callback_change){ .op = NODE_CALLBACK_DROP,
                                                       .row = { .id = str_of(t->dropped[i]) } };
        list_remove(&x->link);
        mem_free(x);
    }
}

/* The next trip, when there is anything to be carried. */
void node_callbacks_go(struct node_callbacks *c)
{
    struct node_trip *t = &c->trip;
    uint64_t now = loop_now_ms(c->node->loop);
    bool may_write = c->again_ms == 0 || now >= c->again_ms;

    if (t->busy || c->closed) {
        return;
    }
    t->seen_us = 0;
    t->want_tls = false;
    if (may_write) {
        take_drops(c, t);
        while (!list_empty(&c->dirty) && t->n < NODE_TRIP_ROWS_MAX) {
            take_row(t, LIST_ITEM(c->dirty.next, struct node_delivery, dirty));
        }
        if ((t->n != 0 || c->want_seen) && list_empty(&c->readings)) {
            t->seen_us = sys_wall_us() - NODE_SEEN_MARGIN_US;
            c->want_seen = false;
        }
    }
    while (!list_empty(&c->wants)) {
        struct node_flight *f = LIST_ITEM(c->wants.next, struct node_flight, want);
        list_remove(&f->want);
        list_push_back(&t->wants, &f->want);
        f->reading = true;
        t->want_tls = t->want_tls || (f->url.tls && c->tls == NULL);
    }
    if (t->n == 0 && t->seen_us == 0 && list_empty(&t->wants)) {
        return;
    }
    t->busy = true;
    if (loop_work_start(&t->work, &c->node->owner, trip_work, trip_over) != 0) {
        node_out_of_memory("the call-backs");
    }
}

/* ---- sending ---- */

void node_flight_free(struct node_flight *f)
{
    f->d->flight = NULL;
    f->c->flying--;
    list_remove(&f->link);
    list_remove(&f->want);
    buf_release(&f->body);
    mem_free(f);
}

/* The next one for a host that has room again. */
static void unblock(struct node_callbacks *c, uint64_t place)
{
    LIST_EACH (l, &c->blocked) {
        struct node_delivery *d = LIST_ITEM(l, struct node_delivery, link);
        if (d->place == place) {
            node_delivery_wait(c, d, d->due_us);
            return;
        }
    }
}

static void judged(struct node_callbacks *c, struct node_delivery *d, const struct node_flight *f,
                   bool final)
{
    enum trigger_callback_verdict verdict = trigger_callback_judge(f->status);
    uint64_t wait_ms = 0;

    if (verdict == TRIGGER_CALLBACK_DELIVERED) {
        d->detail[0] = '\0';
        node_off_free(c, node_off_find(c, d->job, d->url));
        node_delivery_over(c, d, NODE_DELIVERY_DELIVERED);
    } else if (verdict == TRIGGER_CALLBACK_GONE) {
        node_off_set(c, d);
        node_delivery_over(c, d, NODE_DELIVERY_GONE);
        log_warn("call-back %s: %s answers 410: it is told of no more runs of '%s' until the job "
                 "is applied anew",
                 d->id, d->url, d->job);
    } else if (final ||
               !trigger_callback_next(d->tries, sys_random_u64(), f->retry_after_s, &wait_ms)) {
        node_delivery_over(c, d, NODE_DELIVERY_FAILED);
        log_warn("call-back %s to %s has failed: %s", d->id, d->url, d->detail);
    } else {
        node_delivery_wait(c, d, sys_wall_us() + (int64_t)wait_ms * 1000);
    }
}

/* One try is over. detail: why it did not succeed. */
static void landed(struct node_flight *f, bool final, const char *detail)
{
    struct node_callbacks *c = f->c;
    struct node_delivery *d = f->d;

    d->tries++;
    d->status = f->status;
    c->answers_total[f->status >= 100 && f->status < 600 ? f->status / 100 : 0]++;
    (void)str_copy(d->detail, sizeof d->detail,
                   str_slice(str_of(detail), 0, NODE_DELIVERY_DETAIL_CAP - 1));
    judged(c, d, f, final);
    log_debug("call-back %s, try %u: %d %s", d->id, d->tries, d->status, d->detail);
    uint64_t place = d->place;
    node_delivery_dirty(c, d);
    node_flight_free(f);
    unblock(c, place);
    node_callbacks_go(c);
    node_callbacks_pump(c);
}

static void on_head(void *arg, struct http_call *call, const struct http1_head *head)
{
    struct node_flight *f = arg;

    (void)call;
    f->status = head->status;
    if (str_u64(http1_header(head, "Retry-After"), &f->retry_after_s) != 0) {
        f->retry_after_s = 0;
    }
}

static void on_done(void *arg, struct http_call *call, int rc, int status, const char *why)
{
    struct node_flight *f = arg;
    char detail[NODE_DELIVERY_DETAIL_CAP];

    (void)call;
    f->call = NULL;
    f->status = status; /* of an answer that is too long, too */
    if (f->status >= 300 && f->status < 400) {
        (void)snprintf(detail, sizeof detail, "it answered %d: redirects are not followed",
                       f->status);
    } else if (f->status != 0) {
        (void)snprintf(detail, sizeof detail, "it answered %d", f->status);
    } else if (rc == -EPERM) {
        (void)snprintf(detail, sizeof detail,
                       "'%.100s' has no public address (callbacks.allow_private)", f->url.host);
    } else {
        (void)snprintf(detail, sizeof detail, "%s", why != NULL ? why : err_name(rc));
    }
    /* An address that is closed stays closed: no schedule changes that. */
    landed(f, f->status == 0 && rc == -EPERM, detail);
}

/* What OpenFaaS' receivers read. */
static void header_openfaas(const struct node_flight *f)
{
    AUTO_JSON struct json_doc *doc = NULL;
    double seconds = 0;

    http_call_headerf(f->call, "X-Call-Id", "%.26s", f->d->id);
    http_call_header(f->call, "X-Function-Status",
                     strcmp(f->d->type, "agent.run.succeeded") == 0 ? "200" : "500");
    if (json_parse(f->body.data, f->body.len, NULL, &doc, NULL) == 0) {
        const struct json *data = json_get(json_root(doc), "data");
        const struct json *v = data != NULL ? json_get(data, "run_seconds") : NULL;
        if (v != NULL && json_real(v, &seconds)) {
            http_call_headerf(f->call, "X-Duration-Seconds", "%.6f", seconds);
        }
    }
}

static int sign(struct node_flight *f, int64_t now_s, struct buf *out, struct err *e)
{
    AUTO_BUF struct buf secret = BUF_INIT(NODE_SECRET_MAX);
    int rc;

    if (f->d->secret[0] == '\0') {
        return 0;
    }
    rc = node_secret_get(f->c->node, str_of(f->d->secret), &secret, e);
    rc = rc == 0 ? trigger_callback_sign(buf_str(&secret), str_of(f->d->id), now_s,
                                         buf_str(&f->body), out, e)
                 : rc;
    if (secret.data != NULL) {
        mem_wipe(secret.data, secret.cap);
    }
    return rc;
}

/* Its body is at hand: sent, or the try is over. */
static void fly(struct node_flight *f)
{
    struct node_callbacks *c = f->c;
    struct http_call_events events = { .on_head = on_head, .on_done = on_done, .arg = f };
    struct http_target to = { .host = f->url.host, .port = f->url.port };
    AUTO_BUF struct buf signature = BUF_INIT(4096);
    char target[TRIGGER_URL_MAX + 2];
    struct err e = { 0 };
    int64_t now_s = sys_wall_us() / 1000000;
    int rc = f->rc;

    if (c->closed) {
        node_flight_free(f);
        return;
    }
    if (f->url.tls && c->tls == NULL) {
        rc = err_say(&e, -ENOENT, "no authorities for https: %s", c->trip.tls_error);
    }
    rc = rc == 0 ? sign(f, now_s, &signature, &e) : rc;
    if (rc != 0) {
        landed(f, false, e.code != 0 ? err_text(&e) : err_name(rc));
        return;
    }
    (void)snprintf(target, sizeof target, "%s%.*s",
                   f->url.target.n == 0 || f->url.target.p[0] != '/' ? "/" : "",
                   STR_ARG(f->url.target));
    to.tls = f->url.tls ? c->tls : NULL;
    f->call = http_call_new(c->http, &to, "POST", target, NODE_CALLBACK_ANSWER_MAX, &events);
    if (f->call == NULL) {
        node_out_of_memory("a call-back");
    }
    http_call_header(f->call, "Content-Type", "application/cloudevents+json");
    http_call_header(f->call, "Idempotency-Key", f->d->id);
    http_call_header(f->call, "webhook-id", f->d->id);
    http_call_headerf(f->call, "webhook-timestamp", "%lld", (long long)now_s);
    if (signature.len != 0) {
        http_call_header(f->call, "webhook-signature", buf_cstr(&signature));
    }
    header_openfaas(f);
    http_call_body(f->call, f->body.data, f->body.len);
    http_call_deadline(f->call, c->node->settings.callbacks.timeout_ms);
    http_call_send(f->call);
}

static unsigned flying_to(const struct node_callbacks *c, uint64_t place)
{
    unsigned n = 0;

    LIST_EACH (l, &c->flights) {
        n += LIST_ITEM(l, struct node_flight, link)->d->place == place;
    }
    return n;
}

static void flight_begin(struct node_callbacks *c, struct node_delivery *d)
{
    struct node_flight *f = mem_zalloc(sizeof *f);

    if (f == NULL) {
        node_out_of_memory("a call-back");
    }
    f->c = c;
    f->d = d;
    d->flight = f;
    buf_init(&f->body, NODE_CALLBACK_BODY_MAX);
    list_init(&f->link);
    list_init(&f->want);
    list_push_back(&c->flights, &f->link);
    list_push_back(&c->wants, &f->want);
    c->flying++;
    /* The row may be of an older version that took other URLs: then it has no host and fails. */
    f->rc = trigger_callback_url(str_of(d->url), &f->url, NULL);
}

static void timer_set(struct node_callbacks *c, int64_t now_us)
{
    const struct heap_node *first = heap_min(&c->due);
    uint64_t now = loop_now_ms(c->node->loop);
    uint64_t ms = LOOK_MS;

    if (first != NULL && c->flying < NODE_CALLBACKS_FLYING) {
        int64_t left = (int64_t)first->key - now_us;
        ms = left <= 0 ? 0 : left / 1000 + 1 < LOOK_MS ? (uint64_t)left / 1000 + 1 : LOOK_MS;
    }
    if (c->again_ms != 0) {
        uint64_t left = c->again_ms > now ? c->again_ms - now : 0;
        ms = left < ms ? left : ms;
    }
    loop_timer_start(&c->timer, ms, 0);
}

/* Sends what is due, as far as there is room. */
void node_callbacks_pump(struct node_callbacks *c)
{
    int64_t now_us = sys_wall_us();

    if (c->closed) {
        return;
    }
    while (c->flying < NODE_CALLBACKS_FLYING) {
        struct heap_node *first = heap_min(&c->due);
        if (first == NULL || (int64_t)first->key > now_us) {
            break;
        }
        struct node_delivery *d = CONTAINER_OF(first, struct node_delivery, due);
        heap_remove(&c->due, first);
        if (flying_to(c, d->place) >= NODE_CALLBACKS_TO_ONE) {
            list_push_back(&c->blocked, &d->link);
        } else {
            flight_begin(c, d);
        }
    }
    node_callbacks_go(c);
    timer_set(c, now_us);
}

void node_callbacks_on_timer(struct loop_timer *t)
{
    struct node_callbacks *c = CONTAINER_OF(t, struct node_callbacks, timer);

    node_deliveries_retain(c);
    node_callbacks_pump(c);
}

bool node_callbacks_may_connect(void *arg, const struct sockaddr *to)
{
    const struct node *n = arg;
    const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)to;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)to;

    if (n->settings.callbacks.allow_private) {
        return true;
    }
    return to->sa_family == AF_INET6
               ? trigger_callback_public(EGRESS_IP6, six->sin6_addr.s6_addr)
               : trigger_callback_public(EGRESS_IP4, (const uint8_t *)&four->sin_addr.s_addr);
}
