/* Call-backs out: what a run's end means to them, and what a document says. */
#include <errno.h>
#include <stdio.h>

#include "agent/node/uv_node_callbacks_internal.h"
#include "agent/triggers/cloudevent.h"
#include "common/mem.h"
#include "common/sys/sys.h"

/* ---- ends of runs ---- */

static void body_make(const struct node *n, const struct node_delivery *d, const struct run *run,
                      struct buf *out)
{
    char source[RUN_NODE_CAP + 16];
    char id[ULID_TEXT_CAP];
    struct json_w w;
    struct trigger_event_head head = { .id = d->id,
                                       .source = source,
                                       .type = d->type,
                                       .subject = id,
                                       .job = run->job,
                                       .time_us = run->ended_us };

    ulid_format(run->id, id);
    (void)snprintf(source, sizeof source, "/v1/nodes/%.63s", n->settings.node.name);
    json_w_init(&w, out, false);
    trigger_event_open(&w, &head);
    run_to_json(&w, run);
    json_w_end(&w);
}

static void call_back(struct node_callbacks *c, const struct run *run,
                      const struct trigger_callback *to, size_t place)
{
    AUTO_BUF struct buf body = BUF_INIT(NODE_CALLBACK_BODY_MAX);
    char run_id[ULID_TEXT_CAP];
    char id[NODE_DELIVERY_ID_CAP];

    ulid_format(run->id, run_id);
    (void)snprintf(id, sizeof id, "%s.%u.%zu", run_id, run->attempt % 100000, place % 100);
    struct node_delivery *d = node_delivery_new(c, id, str_of(to->url));
    if (d == NULL) {
        return;
    }
    (void)str_copy(d->job, sizeof d->job, str_of(run->job));
    (void)str_copy(d->secret, sizeof d->secret, str_of(to->secret));
    (void)snprintf(d->type, sizeof d->type, "agent.run.%s",
                   run_state_name((enum run_state)run->state));
    d->revision = run->revision;
    d->created_us = d->due_us = sys_wall_us();
    body_make(c->node, d, run, &body);
    d->body = buf_take(&body);
    if (d->body == NULL) {
        node_out_of_memory("a call-back");
    }
    const struct node_off *o = node_off_find(c, d->job, d->url);
    if (o != NULL && o->revision >= d->revision) {
        (void)str_copy(d->detail, sizeof d->detail,
                       STR("it has answered 410 before: apply the job anew, or send this again"));
        node_delivery_over(c, d, NODE_DELIVERY_OFF);
    }
    node_delivery_dirty(c, d);
}

/* -EINVAL: e says why. */
static int parse(const char *text, struct trigger_callbacks *ret, char field[64], struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    int rc = json_parse(text, strlen(text), NULL, &doc, e);

    (void)snprintf(field, 64, "callbacks");
    return rc == 0 ? trigger_callbacks_parse(json_root(doc), ret, field, e) : rc;
}

static void run_over(struct node_callbacks *c, const struct run *run, const struct job *job)
{
    unsigned bit =
        run->state == RUN_SUCCEEDED ? TRIGGER_CALLBACK_SUCCEEDED : TRIGGER_CALLBACK_FAILED;
    struct trigger_callbacks *list = mem_alloc(sizeof *list);
    char field[64];
    struct err e = { 0 };

    if (list == NULL) {
        node_out_of_memory("a call-back");
    }
    if (parse(job->callbacks, list, field, &e) != 0) {
        log_error("job '%s': %s: %s: nobody is told of its run", run->job, field, err_text(&e));
        list->n = 0;
    }
    for (size_t i = 0; i < list->n; i++) {
        if ((list->items[i].on & bit) != 0) {
            call_back(c, run, &list->items[i], i);
        }
    }
    mem_free(list);
    node_callbacks_go(c);
}

static void on_document(void *arg, int status, const struct run *run, const struct job *spec)
{
    struct node_reading *x = arg;
    struct node_callbacks *c = x->c;

    list_remove(&x->link);
    mem_free(x);
    if (c->closed) {
        return;
    }
    if (status == 0 && spec != NULL && spec->callbacks != NULL && run_is_ended(run)) {
        run_over(c, run, spec);
    } else if (status != 0 && status != -ENOENT) {
        log_error("a call-back's document could not be read: %s", err_name(status));
    }
    node_callbacks_go(c);
}

static void read_document(struct node_callbacks *c, struct ulid id)
{
    struct node_reading *x = mem_zalloc(sizeof *x);

    if (x == NULL) {
        node_out_of_memory("a call-back");
    }
    x->c = c;
    x->id = id;
    list_init(&x->link);
    list_push_back(&c->readings, &x->link);
    node_asked(job_store_get_run(c->node->store, id, on_document, x));
}

void node_callbacks_ended(struct node *n, const struct run *run)
{
    struct node_callbacks *c = n->callbacks;
    char id[ULID_TEXT_CAP];

    if (c->closed) {
        return;
    }
    c->want_seen = c->want_seen || c->seen_us + 2 * NODE_SEEN_MARGIN_US < sys_wall_us();
    ulid_format(run->id, id);
    struct node_doc *doc = node_docs_get(&n->docs, str_of(id));
    if (doc == NULL) {
        read_document(c, run->id);
    } else if (doc->job->callbacks != NULL) {
        run_over(c, run, doc->job);
    }
    node_doc_unref(doc);
    node_callbacks_go(c);
}

/* Ends of an earlier life that may have found no row. */
void node_callbacks_earlier(void *arg, int status, const struct run *runs, size_t len, bool more)
{
    struct node_callbacks *c = arg;

    if (c->closed) {
        return;
    }
    if (status != 0) {
        log_error("the runs that ended before this start could not be read: %s: some may call "
                  "nobody back",
                  err_name(status));
        return;
    }
    for (size_t i = 0; i < len; i++) {
        read_document(c, runs[i].id);
    }
    if (more && len != 0) {
        node_asked(job_store_callers_after(c->node->store, runs[len - 1].ended_us,
                                           node_callbacks_earlier, c));
    }
}

void node_callbacks_applied(struct node *n, const char *job)
{
    struct node_callbacks *c = n->callbacks;

    LIST_EACH_SAFE (l, &c->off_list) {
        struct node_off *o = LIST_ITEM(l, struct node_off, link);
        size_t len = strlen(job);
        if (strncmp(o->key, job, len) == 0 && o->key[len] == '\n') {
            node_off_free(c, o);
        }
    }
    /* So that the next start, too, knows. */
    LIST_EACH (l, &c->over) {
        struct node_delivery *d = LIST_ITEM(l, struct node_delivery, link);
        if (d->state == NODE_DELIVERY_GONE && strcmp(d->job, job) == 0) {
            d->state = NODE_DELIVERY_FAILED;
            node_delivery_dirty(c, d);
        }
    }
    node_callbacks_go(c);
}

/* ---- documents ---- */

static int closed_here(const struct node *n, const char *url, struct err *e)
{
    struct trigger_url u;
    uint8_t addr[16];
    struct str host;
    bool closed = false;
    int rc = trigger_callback_url(str_of(url), &u, e);

    if (rc != 0 || n->settings.callbacks.allow_private) {
        return rc;
    }
    host = str_of(u.host);
    if (egress_ip4_parse(host, addr) == 0) {
        closed = !trigger_callback_public(EGRESS_IP4, addr);
    } else if (egress_ip6_parse(host, addr) == 0) {
        closed = !trigger_callback_public(EGRESS_IP6, addr);
    } else {
        closed = str_eqs(host, "localhost") || str_ends(host, ".localhost");
    }
    return closed ? err_say(e, -EINVAL, "'%.80s' is no public address (callbacks.allow_private)",
                            u.host)
                  : 0;
}

static int refuse(struct job_problems *problems, const char *field, struct err *e)
{
    char detail[ERR_TEXT_MAX];

    (void)str_copy(detail, sizeof detail, str_of(err_text(e)));
    if (problems->n < JOB_PROBLEMS_MAX) {
        struct job_problem *p = &problems->items[problems->n++];
        (void)snprintf(p->field, sizeof p->field, "%s", field);
        (void)snprintf(p->detail, sizeof p->detail, "%.*s", (int)sizeof p->detail - 1, detail);
    } else {
        problems->more++;
    }
    return err_say(e, -EINVAL, "%s: %s", field, detail);
}

int node_callbacks_check(struct node *n, const struct job *job, struct job_problems *problems,
                         struct err *e)
{
    struct trigger_callbacks *list;
    char field[64] = "callbacks";
    int rc;

    if (job->callbacks == NULL) {
        return 0;
    }
    list = mem_alloc(sizeof *list);
    rc = list == NULL ? -ENOMEM : parse(job->callbacks, list, field, e);
    for (size_t i = 0; rc == 0 && i < list->n; i++) {
        rc = closed_here(n, list->items[i].url, e);
        (void)snprintf(field, sizeof field, "callbacks[%zu].url", i);
    }
    mem_free(list);
    if (rc == -ENOMEM) {
        return err_set(e, rc, "callbacks");
    }
    return rc == 0 ? 0 : refuse(problems, field, e);
}

int node_callbacks_add(struct node *n, struct job *job, const char *url, const char *secret,
                       struct job_problems *problems, struct err *e)
{
    struct buf text = BUF_INIT(JOB_TRIGGERS_MAX);
    struct trigger_url u;
    struct json_w w;
    size_t had = job->callbacks != NULL ? strlen(job->callbacks) : 0;

    if (trigger_callback_url(str_of(url), &u, e) != 0 || closed_here(n, url, e) != 0) {
        return refuse(problems, "X-Callback-Url", e);
    }
    if (secret[0] != '\0' && !job_name_ok(str_of(secret))) {
        (void)err_say(e, -EINVAL, "must be the name of a secret");
        return refuse(problems, "X-Callback-Secret", e);
    }
    /* "[…" without its end, then one more. */
    (void)buf_add(&text, had > 2 ? job->callbacks : "[", had > 2 ? had - 1 : 1);
    (void)buf_adds(&text, had > 2 ? "," : "");
    json_w_init(&w, &text, false);
    json_w_obj(&w);
    json_kv_cstr(&w, "url", url);
    if (secret[0] != '\0') {
        json_kv_cstr(&w, "secret", secret);
    }
    json_w_end(&w);
    (void)buf_addc(&text, ']');
    char *whole = buf_take(&text);
    if (whole == NULL) {
        return err_set(e, -ENOMEM, "callbacks");
    }
    mem_free(job->callbacks);
    job->callbacks = whole;
    return node_callbacks_check(n, job, problems, e);
}
