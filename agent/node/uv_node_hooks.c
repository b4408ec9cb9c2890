/* Web hooks and events: who is it from, does it concern a job, then a run like any other. */
#include <errno.h>
#include <stdio.h>

#include "agent/node/uv_node_triggers_internal.h"
#include "agent/triggers/cloudevent.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { DOCUMENT_MAX = 128 * 1024, ENV_NAME_CAP = 80, EVENT_RUNS_MAX = 1000 };

/* ---- what a run is told ---- */

/* "X-GitHub-Event" becomes "HOOK_X_GITHUB_EVENT". */
static void env_name(char dst[ENV_NAME_CAP], const char *prefix, struct str name)
{
    size_t n = strlen(prefix);

    memcpy(dst, prefix, n);
    for (size_t i = 0; i < name.n && n + 1 < ENV_NAME_CAP; i++) {
        char c = name.p[i];
        bool low = c >= 'a' && c <= 'z';
        bool word = low || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        dst[n++] = low ? (char)(c - 0x20) : word ? c : '_';
    }
    dst[n] = '\0';
}

static void env_begin(struct json_w *w, struct buf *out)
{
    json_w_init(w, out, false);
    json_w_obj(w);
    json_w_key(w, "env");
    json_w_obj(w);
}

static void env_end(struct json_w *w)
{
    json_w_end(w);
    json_w_end(w);
}

static struct str header_of(const struct node_hook_call *call, const char *name)
{
    for (size_t i = 0; i < call->headers_len; i++) {
        if (str_ieqs(call->headers[i].name, name)) {
            return call->headers[i].value;
        }
    }
    return (struct str){ 0 };
}

/* An override document with the headers that the hook hands on; empty when it hands none on. */
static void hook_document(const struct trigger_hook *h, const struct node_hook_call *call,
                          struct buf *out)
{
    struct json_w w;

    if (h->headers_len == 0) {
        return;
    }
    env_begin(&w, out);
    for (size_t i = 0; i < h->headers_len; i++) {
        char name[ENV_NAME_CAP];
        struct str value = header_of(call, h->headers[i]);
        if (value.p != NULL) {
            env_name(name, "HOOK_", str_of(h->headers[i]));
            json_kv_str(&w, name, value);
        }
    }
    env_end(&w);
}

/* ---- conditions ---- */

static struct json_doc *parsed(const struct buf *text)
{
    struct json_doc *doc = NULL;

    return json_parse(buf_cstr(text), text->len, NULL, &doc, NULL) == 0 ? doc : NULL;
}

static struct json_doc *headers_doc(const struct node_trigger_input *call)
{
    AUTO_BUF struct buf text = BUF_INIT(DOCUMENT_MAX);
    struct json_w w;

    json_w_init(&w, &text, false);
    json_w_obj(&w);
    for (size_t i = 0; i < call->headers_len; i++) {
        char low[TRIGGER_HOOK_HEADER_MAX + 1] = "";
        struct str name = str_slice(call->headers[i].name, 0, sizeof low - 1);
        bool again = false;
        for (size_t k = 0; k < name.n; k++) {
            low[k] = name.p[k] >= 'A' && name.p[k] <= 'Z' ? (char)(name.p[k] | 0x20) : name.p[k];
        }
        for (size_t k = 0; k < i; k++) {
            again = again || str_ieqs(call->headers[k].name, low);
        }
        if (!again) {
            json_kv_str(&w, low, call->headers[i].value);
        }
    }
    json_w_end(&w);
    return parsed(&text);
}

static struct json_doc *query_doc(struct str query)
{
    AUTO_BUF struct buf text = BUF_INIT(DOCUMENT_MAX);
    struct json_w w;
    struct str pair;

    json_w_init(&w, &text, false);
    json_w_obj(&w);
    while (str_split(&query, '&', &pair)) {
        char name[64];
        char value[512];
        size_t n = 0;
        size_t m = 0;
        ptrdiff_t eq = str_find(pair, '=');
        struct str left = str_slice(pair, 0, eq < 0 ? pair.n : (size_t)eq);
        struct str right = eq < 0 ? STR("") : str_slice(pair, (size_t)eq + 1, pair.n);
        if (http1_unescape(left, name, sizeof name, &n) == 0 &&
            http1_unescape(right, value, sizeof value, &m) == 0) {
            json_w_keystr(&w, (struct str){ name, n });
            json_w_str(&w, (struct str){ value, m });
        }
    }
    json_w_end(&w);
    return parsed(&text); /* the same name twice: there is no query */
}

bool node_hook_wanted(const struct trigger_hook *h, const struct node_trigger_input *call)
{
    AUTO_JSON struct json_doc *payload = NULL;
    AUTO_JSON struct json_doc *headers = NULL;
    AUTO_JSON struct json_doc *query = NULL;

    if (h->when == NULL) {
        return true;
    }
    if (json_parse(call->body.p, call->body.n, NULL, &payload, NULL) != 0) {
        payload = NULL;
    }
    headers = headers_doc(call);
    query = query_doc(call->query);
    const struct json *values[] = {
        payload != NULL ? json_root(payload) : NULL,
        headers != NULL ? json_root(headers) : NULL,
        query != NULL ? json_root(query) : NULL,
    };
    return trigger_when_holds(h->when, values, NULL);
}

/* ---- hooks ---- */

static const struct trigger_hook *hook_find(const struct node *n, struct str job, struct str hook)
{
    const struct trigger_set *set = node_triggers_find(n, job);

    for (size_t i = 0; set != NULL && i < set->hooks_len; i++) {
        if (str_eqs(hook, set->hooks[i].name)) {
            return &set->hooks[i];
        }
    }
    return NULL;
}

static void refuse(struct node *n, enum node_code code, const char *detail, node_run_fn *fn,
                   void *arg)
{
    struct node_error error = { .code = code };

    (void)snprintf(error.detail, sizeof error.detail, "%s", detail);
    node_request_refuse(node_request_new(n, NODE_OP_SUBMIT, fn, arg), &error);
}

/* 0, or the code to answer with; the reason goes to the log only. */
static enum node_code hook_check(struct node *n, const struct trigger_hook *h,
                                 const struct node_hook_call *call,
                                 struct trigger_hook_delivery *ret)
{
    AUTO_BUF struct buf secret = BUF_INIT(NODE_SECRET_MAX);
    struct trigger_hook_request req = { .headers = call->headers,
                                        .headers_len = call->headers_len,
                                        .body = call->body,
                                        .now_s = sys_wall_us() / 1000000 };
    struct err e = { 0 };
    int rc = 0;

    if (h->secret[0] != '\0') {
        rc = node_secret_get(n, str_of(h->secret), &secret, &e);
    }
    rc = rc == 0 ? trigger_hook_verify(&h->rule, buf_str(&secret), &req, ret, &e) : rc;
    if (secret.data != NULL) {
        mem_wipe(secret.data, secret.cap);
    }
    if (rc == 0) {
        return NODE_OK;
    }
    log_warn("hook '%s' of job '%.*s' is refused: %s", h->name, STR_ARG(call->job), err_text(&e));
    return rc == -ESTALE ? NODE_REPLAYED : NODE_UNAUTHORIZED;
}

void node_hook(struct node *n, const struct node_hook_call *call, node_run_fn *fn, void *arg)
{
    const struct trigger_hook *h = hook_find(n, call->job, call->hook);
    AUTO_BUF struct buf document = BUF_INIT(DOCUMENT_MAX);
    struct trigger_hook_delivery delivery = { 0 };
    struct digest d;
    struct digest id;
    char key[JOB_STORE_KEY_MAX + 1] = "";
    char hex[DIGEST_TEXT_CAP];
    enum node_code code = h == NULL ? NODE_UNAUTHORIZED : hook_check(n, h, call, &delivery);

    if (code != NODE_OK) {
        refuse(n, code,
               code == NODE_REPLAYED ? "its time is not now: sent again, or a clock is wrong"
                                     : "there is no such hook, or it is not from who it says",
               fn, arg);
        return;
    }
    const struct node_trigger_input in = { .body = call->body,
                                           .query = call->query,
                                           .headers = call->headers,
                                           .headers_len = call->headers_len };
    if (h->held || !node_hook_wanted(h, &in)) {
        refuse(n, NODE_IGNORED, h->held ? "the hook is paused" : "the condition does not hold", fn,
               arg);
        return;
    }
    hook_document(h, call, &document);
    if (digest_of(DIGEST_SHA256, call->body.p, call->body.n, &d) != 0 ||
        digest_of(DIGEST_SHA256, delivery.id.p, delivery.id.n, &id) != 0 ||
        buf_error(&document) == -ENOMEM) {
        node_out_of_memory("a hook");
    }
    if (delivery.id.n != 0) {
        digest_hex(&id, hex);
        (void)snprintf(key, sizeof key, "hook:%.*s:%s:%.32s", STR_ARG(call->job), h->name, hex);
    }
    struct node_submit s = { .job = call->job,
                             .document = buf_str(&document),
                             .payload = call->body,
                             .trigger = RUN_TRIGGER_HOOK,
                             .idempotency_key = str_of(key) };
    memcpy(s.request_hash, d.b, sizeof s.request_hash);
    node_submit(n, &s, fn, arg);
}

int node_hook_sign(struct node *n, struct str job, struct str hook, struct str body,
                   struct buf *ret_headers, struct err *e)
{
    const struct trigger_hook *h = hook_find(n, job, hook);
    AUTO_BUF struct buf secret = BUF_INIT(NODE_SECRET_MAX);
    char id[ULID_TEXT_CAP];
    int64_t now = sys_wall_us();
    int rc = 0;

    if (h == NULL) {
        return err_say(e, -ENOENT, "job '%.*s' has no hook '%.*s'", STR_ARG(job), STR_ARG(hook));
    }
    if (h->secret[0] != '\0') {
        rc = node_secret_get(n, str_of(h->secret), &secret, e);
    }
    ulid_format(ulid_next(&n->ids, (uint64_t)(now / 1000), sys_random_u64()), id);
    rc = rc == 0 ? trigger_hook_sign(&h->rule, buf_str(&secret), str_of(id), now / 1000000, body,
                                     ret_headers, e)
                 : rc;
    if (secret.data != NULL) {
        mem_wipe(secret.data, secret.cap);
    }
    return rc;
}

/* ---- events ---- */

/* Events on their way: answered when every run that they set off is durable. */
struct events {
    struct list link; /* node.events */
    struct node_query *query;
    struct node *node;
    size_t waiting;
    size_t matched;
    const struct trigger_cloudevent *now; /* while it is matched */
    struct json_w w;
};

static void events_over(struct events *x)
{
    struct node_query *q = x->query;

    json_w_end(&x->w);
    json_kv_u64(&x->w, "matched", x->matched);
    json_w_end(&x->w);
    list_remove(&x->link);
    mem_free(x);
    node_query_text(q);
}

static void on_event_run(void *arg, const struct node_error *error, const struct run *run,
                         bool replayed)
{
    struct events *x = arg;
    char id[ULID_TEXT_CAP];

    json_w_obj(&x->w);
    if (error != NULL) {
        json_kv_cstr(&x->w, "code", node_code_name(error->code));
        json_kv_cstr(&x->w, "detail", error->detail);
    } else {
        ulid_format(run->id, id);
        json_kv_cstr(&x->w, "id", id);
        json_kv_cstr(&x->w, "job", run->job);
        json_kv_bool(&x->w, "replayed", replayed);
    }
    json_w_end(&x->w);
    if (--x->waiting == 0) {
        events_over(x);
    }
}

bool node_event_wanted(const struct trigger_event *t, const struct trigger_cloudevent *ev)
{
    AUTO_JSON struct json_doc *payload = NULL;
    AUTO_JSON struct json_doc *event = NULL;
    AUTO_BUF struct buf text = BUF_INIT(DOCUMENT_MAX);
    struct json_w w;

    if (t->when == NULL) {
        return true;
    }
    json_w_init(&w, &text, false);
    trigger_event_to_json(ev, &w);
    event = parsed(&text);
    if (!ev->data_is_json ||
        json_parse(buf_cstr(&ev->data), ev->data.len, NULL, &payload, NULL) != 0) {
        payload = NULL;
    }
    const struct json *values[] = { payload != NULL ? json_root(payload) : NULL,
                                    event != NULL ? json_root(event) : NULL };
    return trigger_when_holds(t->when, values, NULL);
}

static void event_submit(struct events *x, struct str job, const struct trigger_event *t,
                         const struct trigger_cloudevent *ev)
{
    AUTO_BUF struct buf document = BUF_INIT(DOCUMENT_MAX);
    AUTO_BUF struct buf name = BUF_INIT(4096);
    struct json_w w;
    struct digest d;
    struct digest id;
    char hex[DIGEST_TEXT_CAP];
    char key[JOB_STORE_KEY_MAX + 1];

    env_begin(&w, &document);
    for (size_t i = 0; i < ev->attributes_len; i++) {
        char env[ENV_NAME_CAP];
        env_name(env, "CE_", str_of(ev->attributes[i].name));
        json_kv_cstr(&w, env, ev->attributes[i].value);
    }
    env_end(&w);
    /* An event is known by its source and its id (CloudEvents 1.0, 3.1). */
    (void)buf_adds(&name, trigger_event_get(ev, "source"));
    (void)buf_addc(&name, '\n');
    (void)buf_adds(&name, trigger_event_get(ev, "id"));
    if (buf_error(&document) != 0 || digest_of(DIGEST_SHA256, ev->data.data, ev->data.len, &d) ||
        digest_of(DIGEST_SHA256, name.data, name.len, &id) != 0) {
        node_out_of_memory("an event");
    }
    digest_hex(&id, hex);
    (void)snprintf(key, sizeof key, "event:%.*s:%s:%.32s", STR_ARG(job), t->name, hex);
    struct node_submit s = { .job = job,
                             .document = buf_str(&document),
                             .payload = buf_str(&ev->data),
                             .trigger = RUN_TRIGGER_SENSOR,
                             .idempotency_key = str_of(key) };
    memcpy(s.request_hash, d.b, sizeof s.request_hash);
    x->waiting++;
    x->matched++;
    node_submit(x->node, &s, on_event_run, x);
}

static void event_meets(void *arg, struct str job, const struct trigger_event *t)
{
    struct events *x = arg;

    if (x->matched < EVENT_RUNS_MAX && trigger_event_matches(t, x->now) &&
        node_event_wanted(t, x->now)) {
        event_submit(x, job, t, x->now);
    }
}

void node_event(struct node *n, const struct trigger_cloudevent *events, size_t events_len,
                node_text_fn *fn, void *arg)
{
    struct events *x = mem_zalloc(sizeof *x);
    struct node_query *q = node_query_new(n, fn, arg);

    if (x == NULL) {
        node_out_of_memory("events");
    }
    x->node = n;
    x->query = q;
    list_init(&x->link);
    list_push_back(&n->events, &x->link);
    json_w_init(&x->w, &q->text, false);
    json_w_obj(&x->w);
    json_w_key(&x->w, "runs");
    json_w_arr(&x->w);
    x->waiting = 1; /* nothing is answered before all were looked at */
    for (size_t k = 0; k < events_len; k++) {
        x->now = &events[k];
        node_triggers_type(n, trigger_event_get(&events[k], "type"), event_meets, x);
    }
    x->waiting--;
    if (x->waiting == 0) {
        events_over(x);
    }
}

void node_hooks_free(struct node *n)
{
    LIST_EACH_SAFE (l, &n->events) {
        mem_free(LIST_ITEM(l, struct events, link));
    }
}
