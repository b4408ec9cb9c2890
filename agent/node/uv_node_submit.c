/* Accepting a run: document, image, room in principle, payload on disk, queue, store; then the
 * answer. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "agent/node/uv_node_callbacks.h"
#include "agent/node/uv_node_internal.h"
#include "agent/node/uv_node_triggers.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    RETRY_AFTER_S = 1,
    RETRY_AFTER_DRAIN_S = 10,
    IMAGE_TRIES = 6, /* a quarter of a second apart */
};

/* ---- requests ---- */

static struct str token_key(const uint64_t *token)
{
    return (struct str){ (const char *)token, sizeof *token };
}

static struct str id_key(const struct ulid *id)
{
    return (struct str){ (const char *)id->b, sizeof id->b };
}

struct node_request *node_request_new(struct node *n, enum node_op op, node_run_fn *fn, void *arg)
{
    struct node_request *r = mem_zalloc(sizeof *r);

    if (r == NULL) {
        node_out_of_memory("a request");
    }
    *r = (struct node_request){
        .node = n, .op = op, .token = ++n->next_token, .fn = fn, .arg = arg
    };
    if (map_add(&n->requests, token_key(&r->token), r) != 0) {
        node_out_of_memory("the requests");
    }
    list_init(&r->image_wait);
    list_init(&r->programs_wait);
    list_push_back(&n->request_list, &r->link);
    return r;
}

void node_request_free(struct node_request *r)
{
    struct node *n = r->node;

    (void)map_remove(&n->requests, token_key(&r->token));
    (void)map_remove(&n->submits, id_key(&r->id));
    if (r->claimed && !n->closing) {
        node_claim_drop(n, str_of(r->key), r->id);
    }
    list_remove(&r->link);
    list_remove(&r->image_wait);
    list_remove(&r->programs_wait);
    if (r->spool_name[0] != '\0') {
        node_spool_remove(n->spool_fd, r->spool_name);
    }
    node_doc_unref(r->doc);
    mem_free(r->inline_payload);
    mem_free(r->callback_url);
    mem_free(r->known);
    mem_free(r);
}

void node_request_fail(struct node_request *r, enum node_code code, unsigned retry_after_s,
                       const struct job_problems *problems, const char *fmt, ...)
{
    struct node_error error = { .code = code,
                                .retry_after_s = retry_after_s,
                                .problems = problems };
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(error.detail, sizeof error.detail, fmt, ap);
    va_end(ap);
    if (r->fn != NULL) {
        r->fn(r->arg, &error, NULL, false);
    }
    node_request_free(r);
}

static void succeed(struct node_request *r, const struct run *run)
{
    if (r->fn != NULL) {
        r->fn(r->arg, NULL, run, r->replayed);
    }
    node_request_free(r);
}

/* ---- the steps of a submit ---- */

static void fail_reused(struct node_request *r)
{
    node_request_fail(r, NODE_KEY_REUSED, 0, NULL,
                      "the Idempotency-Key was used for another request within %d hours",
                      JOB_STORE_KEY_HOURS);
}

static void fail_store(struct node_request *r, int status)
{
    switch (status) {
    case -ENOSPC:
    case -EDQUOT:
        node_request_fail(r, NODE_DISK_FULL, 0, NULL, "the disk of this node is full");
        return;
    case -ENOBUFS:
        node_request_fail(r, NODE_QUEUE_FULL, RETRY_AFTER_S, NULL,
                          "this node's queue is full (store.max_queued)");
        return;
    case -EHOSTUNREACH:
        node_request_fail(r, NODE_TOO_FEW, RETRY_AFTER_S, NULL,
                          "fewer nodes could keep the run than store.replicas_min asks for");
        return;
    case -ESTALE:
        node_request_fail(r, NODE_CONFLICT, 0, NULL, "another node speaks for this run now");
        return;
    case -ESHUTDOWN:
    case -ECANCELED:
        node_request_fail(r, NODE_DRAINING, RETRY_AFTER_DRAIN_S, NULL,
                          "this node takes no new runs now");
        return;
    default:
        node_request_fail(r, NODE_INTERNAL, 0, NULL, "the run could not be stored: %s",
                          err_name(status));
        return;
    }
}

static void enqueue(struct node_request *r)
{
    struct node *n = r->node;
    struct job_event ev = { .type = JOB_EV_SUBMIT, .run = &r->run, .token = r->token };
    char key[ULID_TEXT_CAP];

    ulid_format(r->id, key);
    node_docs_put(&n->docs, str_of(key), r->doc);
    if (map_add(&n->submits, id_key(&r->id), r) != 0) {
        node_out_of_memory("a submit");
    }
    node_feed_job(n, &ev);
}

static void payload_work(struct loop_work *w)
{
    struct node_request *r = CONTAINER_OF(w, struct node_request, work);
    char id[ULID_TEXT_CAP];

    ulid_format(r->id, id);
    r->work_status = node_spool_keep(r->node->spool_fd, r->spool_name, r->inline_payload,
                                     r->inline_payload_len, id);
}

static void payload_done(struct loop_work *w, int status)
{
    struct node_request *r = CONTAINER_OF(w, struct node_request, work);

    if (status == 0 && r->work_status == 0) {
        /* From here on the file has the run's name: if the run is not accepted, that one goes. */
        ulid_format(r->id, r->spool_name);
        enqueue(r);
        return;
    }
    if (status == 0) {
        r->spool_name[0] = '\0';
    }
    fail_store(r, status != 0 ? status : r->work_status);
}

static void keep_payload(struct node_request *r)
{
    if (r->run.payload_bytes == 0) {
        enqueue(r);
        return;
    }
    int rc = loop_work_start(&r->work, &r->node->owner, payload_work, payload_done);
    if (rc != 0) {
        fail_store(r, rc);
    }
}

static void on_claimed(void *arg, enum node_code code, const struct run *run)
{
    struct node_request *r = arg;

    if (code == NODE_OK && run == NULL) {
        r->claimed = true;
        keep_payload(r);
    } else if (code == NODE_OK) {
        struct run known = *run;
        r->replayed = true;
        succeed(r, &known);
    } else if (code == NODE_KEY_REUSED) {
        fail_reused(r);
    } else if (code == NODE_KEY_IN_FLIGHT) {
        node_request_fail(r, code, 0, NULL,
                          "a run with this Idempotency-Key is just being accepted elsewhere");
    } else {
        node_request_fail(r, code, RETRY_AFTER_S, NULL,
                          "the nodes that know the Idempotency-Key cannot be reached now");
    }
}

/* The run could be: is its key still free? */
static void claim(struct node_request *r)
{
    if (r->key[0] == '\0' ||
        !node_claim(r->node, str_of(r->key), r->id, r->run.request_hash, on_claimed, r)) {
        keep_payload(r);
    }
}

static bool possible(struct node_request *r)
{
    struct str texts[NODE_TEXTS_MAX];
    struct route_request req;
    struct route_verdict verdict;

    node_request_of(&r->run, r->doc->job, texts, &req);
    node_programs_request(r->node, &r->run, r->doc->job, &req);
    if (node_core_possible(r->node->core, &req, &verdict)) {
        return true;
    }
    if (!node_core_settled(r->node->core, loop_now_ms(r->node->loop)) &&
        (r->node->settings.gossip.join[0] != '\0' || !list_empty(&r->node->places))) {
        node_request_fail(r, NODE_STARTING, RETRY_AFTER_S, NULL,
                          "no node that is known yet can run this; this one has just started");
        return false;
    }
    if (verdict.kind == ROUTE_REQUIREMENT) {
        node_request_fail(r, NODE_NO_MATCH, 0, NULL, "no node meets the requirement '%.*s'",
                          STR_ARG(texts[verdict.require_index]));
    } else if (verdict.kind == ROUTE_ISA || verdict.kind == ROUTE_OTHER_ARCH) {
        char why[ERR_TEXT_MAX];
        node_core_why_not(&verdict, &req, why);
        node_request_fail(r, NODE_NO_MATCH, 0, NULL, "%s", why);
    } else {
        node_request_fail(r, NODE_NO_MATCH, 0, NULL, "no node is large enough: %s",
                          verdict.kind == ROUTE_TOO_MUCH_MEMORY ? "memory" : "cpus");
    }
    return false;
}

void node_submit_placeable(struct node_request *r)
{
    if (node_programs_pending(r->node, &r->run.image_digest, NODE_PROGRAMS_WAIT_MS,
                              &r->programs_until_ms)) {
        list_push_back(&r->node->program_waits, &r->programs_wait);
    } else if (possible(r)) {
        claim(r);
    }
}

static void on_image(void *arg, int status, struct image_resolved *image, const struct err *e)
{
    struct node_request *r = arg;
    struct image_ref ref;
    struct digest newest;

    /* What the cluster has may be newer, or the only one. */
    if ((status == 0 || status == -ENOENT) && !r->node->closing &&
        image_ref_parse(str_of(r->run.image), &ref, NULL) == 0 &&
        node_pull_newer(r->node, &ref, status == 0 ? &image->digest : NULL, &newest)) {
        image_resolved_free(image);
        r->run.image_digest = newest;
        node_submit_placeable(r);
        return;
    }
    /* It may have been pushed to another node just now. */
    if (status == -ENOENT && r->image_tries < IMAGE_TRIES &&
        node_core_peers_len(r->node->core) != 0) {
        r->image_tries++;
        list_push_back(&r->node->image_waits, &r->image_wait);
        return;
    }
    if (status != 0) {
        node_request_fail(r, status == -ENOMEM ? NODE_INTERNAL : NODE_UNKNOWN_IMAGE, 0, NULL,
                          "image '%s': %s", r->run.image, err_text(e));
        return;
    }
    r->run.image_digest = image->digest;
    image_resolved_free(image);
    node_submit_placeable(r);
}

void node_images_again(struct node *n)
{
    struct list now;

    list_init(&now);
    while (!list_empty(&n->image_waits)) {
        struct list *l = n->image_waits.next;
        list_remove(l);
        list_push_back(&now, l);
    }
    while (!list_empty(&now)) {
        struct node_request *r = LIST_ITEM(now.next, struct node_request, image_wait);
        struct image_ref ref;
        list_remove(&r->image_wait);
        int rc = image_ref_parse(str_of(r->run.image), &ref, NULL);
        rc = rc == 0 ? image_store_resolve(n->images_store, &ref, on_image, r) : rc;
        if (rc != 0) {
            fail_store(r, rc);
        }
    }
}

/* The submit's own call-back: the run has a document of its own then. False: refused. */
static bool add_callback(struct node_request *r)
{
    struct job_problems *problems = mem_zalloc(sizeof *problems);
    struct job *job = job_dup(r->doc->job);
    struct err e = { 0 };

    if (problems == NULL || job == NULL) {
        node_out_of_memory("a call-back");
    }
    int rc = node_callbacks_add(r->node, job, r->callback_url, r->callback_secret, problems, &e);
    if (rc != 0) {
        job_free(job);
        node_request_fail(r, rc == -EINVAL ? NODE_INVALID_DOCUMENT : NODE_INTERNAL, 0,
                          rc == -EINVAL ? problems : NULL, "%s", err_text(&e));
    } else {
        node_doc_unref(r->doc);
        r->doc = node_doc_new(job);
        r->has_spec = true;
    }
    mem_free(problems);
    if (rc == 0 && r->doc == NULL) {
        node_out_of_memory("a call-back");
    }
    return rc == 0;
}

/* The document is known: from here on the run has its limits, its image, its policy. */
static void with_document(struct node_request *r, const struct node_submit *s)
{
    struct node *n = r->node;
    struct image_ref ref;
    struct err e = { 0 };
    int64_t now_us = sys_wall_us();

    r->id = ulid_next(&n->ids, (uint64_t)(now_us / 1000), sys_random_u64());
    job_make_run(r->doc->job, r->id, now_us, &r->run);
    node_learn_size(n, &r->run);
    node_copy_choose(n, &r->run);
    run_set_text(r->run.entry_node, sizeof r->run.entry_node, str_of(n->settings.node.name));
    r->run.trigger = (uint8_t)s->trigger;
    r->run.scheduled_us = s->scheduled_us;
    r->run.payload_bytes = s->payload_bytes;
    memcpy(r->run.request_hash, s->request_hash, sizeof r->run.request_hash);
    if (r->inline_payload != NULL) {
        r->run.payload_bytes = r->inline_payload_len;
    }
    if (r->doc->job->has_payload) {
        mem_free(r->inline_payload);
        r->inline_payload = TAKE(r->doc->job->payload);
        r->inline_payload_len = r->doc->job->payload_len;
        r->run.payload_bytes = r->inline_payload_len;
    }
    if (r->callback_url != NULL && !add_callback(r)) {
        return;
    }
    if (image_ref_parse(str_of(r->run.image), &ref, &e) != 0) {
        node_request_fail(r, NODE_UNKNOWN_IMAGE, 0, NULL, "%s", err_text(&e));
        return;
    }
    if (image_store_known(n->images_store, &ref, &r->run.image_digest) == 0) {
        node_submit_placeable(r);
        return;
    }
    int rc = node_image_resolve(n, &ref, on_image, r);
    if (rc != 0) {
        fail_store(r, rc);
    }
}

static bool parse_document(struct node_request *r, struct str text, enum job_mode mode,
                           const struct job *base)
{
    struct job_problems *problems = mem_zalloc(sizeof *problems);
    struct job *job = NULL;
    struct err e = { 0 };
    int rc = problems == NULL ? -ENOMEM
                              : job_parse(text, mode, base != NULL ? str_of(base->name) : STR(""),
                                          base, &r->node->settings, &job, problems, &e);

    if (rc == 0 && ((rc = node_document_check(job, problems, &e)) != 0 ||
                    (rc = node_triggers_check(r->node, job, problems, &e)) != 0 ||
                    (rc = node_callbacks_check(r->node, job, problems, &e)) != 0)) {
        job = job_free(job);
    }
    if (rc == 0) {
        node_doc_unref(r->doc);
        r->doc = node_doc_new(job);
        r->has_spec = true;
        rc = r->doc == NULL ? -ENOMEM : 0;
    }
    if (rc == -EINVAL) {
        node_request_fail(r, NODE_INVALID_DOCUMENT, 0, problems, "%s", err_text(&e));
    } else if (rc == -EBADMSG || rc == -E2BIG) {
        node_request_fail(r, NODE_BAD_JSON, 0, NULL, "%s", err_text(&e));
    } else if (rc != 0) {
        node_request_fail(r, NODE_INTERNAL, 0, NULL, "%s", err_name(rc));
    }
    mem_free(problems);
    return rc == 0;
}

/* What of a submit has to outlive a question to the store. */
struct held_submit {
    struct node_request *request;
    struct node_submit submit;
    char job[RUN_JOB_CAP];
    char *document;
};

static void held_free(struct held_submit *h)
{
    mem_free(h->document);
    mem_free(h);
}

static void with_job(struct node_request *r, struct node_doc *doc, const struct node_submit *s)
{
    r->doc = doc;
    if (str_trim(s->document).n != 0) {
        struct node_doc *base = node_doc_ref(doc);
        bool good = parse_document(r, s->document, JOB_OVERRIDE, base->job);
        node_doc_unref(base);
        if (!good) {
            return;
        }
    }
    with_document(r, s);
}

static void on_job(void *arg, int status, const struct job *job, bool created, bool changed)
{
    struct held_submit *h = arg;
    struct node_request *r = h->request;
    struct node *n = r->node;
    struct job *copy = status == 0 ? job_dup(job) : NULL;
    struct node_doc *doc = copy != NULL ? node_doc_new(copy) : NULL;

    (void)created;
    (void)changed;
    if (status == -ENOENT) {
        node_request_fail(r, NODE_UNKNOWN_JOB, 0, NULL, "there is no job '%s'", h->job);
    } else if (doc == NULL) {
        fail_store(r, status != 0 ? status : -ENOMEM);
    } else {
        node_docs_put(&n->jobs, str_of(h->job), doc);
        with_job(r, doc, &h->submit);
    }
    held_free(h);
}

/* The job's document is not in memory: ask the store, and keep a copy of what was asked meanwhile.
 */
static void ask_job(struct node_request *r, const struct node_submit *s)
{
    struct held_submit *h = mem_zalloc(sizeof *h);

    if (h == NULL) {
        node_out_of_memory("a submit");
    }
    h->request = r;
    h->submit = *s;
    h->document = mem_strndup(s->document.n != 0 ? s->document.p : "", s->document.n);
    if (h->document == NULL) {
        node_out_of_memory("a submit");
    }
    (void)str_copy(h->job, sizeof h->job, s->job);
    h->submit.job = str_of(h->job);
    h->submit.document = (struct str){ h->document, s->document.n };
    node_asked(job_store_get_job(r->node->store, h->submit.job, 0, on_job, h));
}

/* Refusals are answered from the loop as everything else is. */
struct refusal {
    struct loop_defer defer;
    struct node_request *request;
    struct node_error error;
};

static void refuse_now(struct loop_defer *d)
{
    struct refusal *x = CONTAINER_OF(d, struct refusal, defer);

    node_request_fail(x->request, x->error.code, x->error.retry_after_s, NULL, "%s",
                      x->error.detail);
    mem_free(x);
}

void node_request_refuse(struct node_request *r, const struct node_error *error)
{
    struct refusal *x = mem_zalloc(sizeof *x);

    if (x == NULL) {
        node_out_of_memory("a refusal");
    }
    x->request = r;
    x->error = *error;
    loop_defer_init(&x->defer, refuse_now);
    loop_defer_post(r->node->loop, &x->defer);
}

/* A submit whose document is at hand goes on in the next round of the loop. */
struct soon {
    struct loop_defer defer;
    struct held_submit *held;
    struct node_doc *doc;
};

static void go_on(struct loop_defer *d)
{
    struct soon *x = CONTAINER_OF(d, struct soon, defer);
    struct held_submit *h = x->held;
    struct node_request *r = h->request;

    if (x->doc != NULL) {
        with_job(r, x->doc, &h->submit);
    } else if (parse_document(r, h->submit.document, JOB_ONE_OFF, NULL)) {
        with_document(r, &h->submit);
    }
    held_free(h);
    mem_free(x);
}

static void soon(struct node_request *r, const struct node_submit *s, struct node_doc *doc)
{
    struct soon *x = mem_zalloc(sizeof *x);
    struct held_submit *h = mem_zalloc(sizeof *h);
    char *document = mem_strndup(s->document.n != 0 ? s->document.p : "", s->document.n);

    if (x == NULL || h == NULL || document == NULL) {
        node_out_of_memory("a submit");
    }
    *h = (struct held_submit){ .request = r, .submit = *s, .document = document };
    (void)str_copy(h->job, sizeof h->job, s->job);
    h->submit.job = str_of(h->job);
    h->submit.document = (struct str){ h->document, s->document.n };
    x->held = h;
    x->doc = doc;
    loop_defer_init(&x->defer, go_on);
    loop_defer_post(r->node->loop, &x->defer);
}

enum node_code node_admits(struct node *n, uint64_t payload_bytes, struct node_error *ret)
{
    struct job_counts counts;
    struct sys_space space;
    struct node_error e = { .code = NODE_OK };

    job_core_counts(node_core_jobs(n->core), &counts);
    if (!n->ready) {
        e.code = NODE_STARTING;
        e.retry_after_s = RETRY_AFTER_S;
        (void)snprintf(e.detail, sizeof e.detail, "this node is starting");
    } else if (n->draining) {
        e.code = NODE_DRAINING;
        e.retry_after_s = RETRY_AFTER_DRAIN_S;
        (void)snprintf(e.detail, sizeof e.detail, "this node is draining");
    } else if (counts.queued + counts.storing >= n->settings.store.max_queued) {
        e.code = NODE_QUEUE_FULL;
        e.retry_after_s = RETRY_AFTER_S;
        (void)snprintf(e.detail, sizeof e.detail, "%zu runs wait already (store.max_queued)",
                       counts.queued + counts.storing);
    } else if (!node_copy_enough(n)) {
        e.code = NODE_TOO_FEW;
        e.retry_after_s = RETRY_AFTER_S;
        (void)snprintf(e.detail, sizeof e.detail,
                       "fewer nodes are alive than store.replicas_min asks for");
    } else if (job_store_is_full(n->store) ||
               (payload_bytes > 1024 * 1024 && sys_space(n->spool_fd, &space) == 0 &&
                space.free_bytes < payload_bytes + n->settings.store.min_free_bytes)) {
        e.code = NODE_DISK_FULL;
        (void)snprintf(e.detail, sizeof e.detail, "the disk of this node is full");
    }
    if (ret != NULL) {
        *ret = e;
    }
    return e.code;
}

void node_submit(struct node *n, const struct node_submit *s, node_run_fn *fn, void *arg)
{
    struct node_request *r = node_request_new(n, NODE_OP_SUBMIT, fn, arg);
    struct node_error error;

    if (s->spool_name.n != 0) {
        REQUIRE(str_copy(r->spool_name, sizeof r->spool_name, s->spool_name) == 0);
    }
    REQUIRE(str_copy(r->key, sizeof r->key, s->idempotency_key) == 0);
    if (s->callback_url.n != 0) {
        r->callback_url = mem_strndup(s->callback_url.p, s->callback_url.n);
        if (r->callback_url == NULL) {
            node_out_of_memory("a call-back");
        }
        if (str_copy(r->callback_secret, sizeof r->callback_secret, s->callback_secret) != 0) {
            (void)str_copy(r->callback_secret, sizeof r->callback_secret, STR("/")); /* none */
        }
    }
    if (s->payload.n != 0) {
        r->inline_payload = mem_dup(s->payload.p, s->payload.n);
        r->inline_payload_len = s->payload.n;
        if (r->inline_payload == NULL) {
            node_out_of_memory("a payload");
        }
    }
    if (node_admits(n, 0, &error) != NODE_OK) {
        node_request_refuse(r, &error);
        return;
    }
    if (s->job.n == 0) {
        soon(r, s, NULL);
        return;
    }
    if (!job_name_ok(s->job)) {
        error = (struct node_error){ .code = NODE_UNKNOWN_JOB };
        (void)snprintf(error.detail, sizeof error.detail, "no job can have this name");
        node_request_refuse(r, &error);
        return;
    }
    struct node_doc *doc = node_docs_get(&n->jobs, s->job);
    if (doc != NULL) {
        soon(r, s, doc);
    } else {
        ask_job(r, s);
    }
}

/* ---- effects ---- */

struct accepting {
    struct node *node;
    uint64_t token, seq;
    struct ulid id;
};

static void on_accepted(void *arg, int status, bool replayed, const struct run *known)
{
    struct accepting a = *(struct accepting *)arg;
    struct node_request *r = map_get(&a.node->requests, token_key(&a.token));

    mem_free(arg);
    if (r != NULL && replayed && known != NULL) {
        r->known = mem_dup(known, sizeof *known);
        r->replayed = r->known != NULL;
    }
    if (r != NULL && status == -EEXIST) {
        r->key_reused = true;
    }
    /* Replayed: nothing was written, and the queue forgets this one. STORED follows when its
     * holders have it, too. */
    node_copy_accepted(a.node, a.id, replayed ? -EEXIST : status);
}

void node_fx_accept(struct node *n, const struct job_effect *fx)
{
    struct node_request *r = map_remove(&n->submits, id_key(&fx->run->id));
    struct accepting *a = mem_alloc(sizeof *a);

    INSIST(r != NULL);
    if (a == NULL) {
        node_out_of_memory("an acceptance");
    }
    *a = (struct accepting){ .node = n, .token = r->token, .seq = fx->seq, .id = fx->run->id };
    node_copy_accept(n, fx->run, fx->seq);
    node_asked(job_store_accept_run(n->store, fx->run, r->has_spec ? r->doc->job : NULL,
                                    str_of(r->key), on_accepted, a));
}

static void answer_submit(struct node_request *r, const struct job_effect *fx)
{
    char id[ULID_TEXT_CAP];

    ulid_format(r->id, id);
    if (fx->status == 0) {
        r->spool_name[0] = '\0'; /* the run's now, as the key is */
        r->claimed = false;
        succeed(r, fx->run);
        return;
    }
    node_docs_drop(&r->node->docs, str_of(id));
    if (r->replayed) {
        struct run known = *r->known;
        succeed(r, &known);
    } else if (r->key_reused) {
        fail_reused(r);
    } else {
        fail_store(r, fx->status);
    }
}

static void answer_change(struct node_request *r, const struct job_effect *fx)
{
    if (fx->status == 0) {
        succeed(r, fx->run);
    } else if (r->op == NODE_OP_CANCEL) {
        node_request_fail(r, NODE_CONFLICT, 0, NULL, "the run has ended already");
    } else if (fx->status == -EALREADY) {
        node_request_fail(r, NODE_CONFLICT, 0, NULL, "the run has succeeded");
    } else if (fx->status == -EBUSY) {
        node_request_fail(r, NODE_CONFLICT, 0, NULL, "the run has not ended");
    } else if (fx->status == -ERANGE) {
        node_request_fail(r, NODE_CONFLICT, 0, NULL,
                          "the run has had %d attempts, the most there are", RUN_ATTEMPT_MAX);
    } else {
        fail_store(r, fx->status);
    }
}

void node_fx_answer(struct node *n, const struct job_effect *fx)
{
    struct node_request *r = map_get(&n->requests, token_key(&fx->token));

    if (r == NULL) {
        return;
    }
    if (r->op == NODE_OP_SUBMIT) {
        answer_submit(r, fx);
    } else {
        answer_change(r, fx);
    }
}

/* ---- cancel and retry: look at the record first ---- */

static void on_run_to_change(void *arg, int status, const struct run *run, const struct job *spec)
{
    struct node_request *r = arg;
    struct node *n = r->node;
    struct job_event ev = { .id = r->id, .token = r->token };
    char key[ULID_TEXT_CAP];

    if (n->closing) {
        node_request_free(r);
        return;
    }
    ulid_format(r->id, key);
    if (status == -ENOENT) {
        node_request_fail(r, NODE_UNKNOWN_RUN, 0, NULL, "there is no run %s", key);
    } else if (status != 0) {
        fail_store(r, status);
    } else if (r->op == NODE_OP_CANCEL) {
        ev.type = JOB_EV_CANCEL;
        node_feed_job(n, &ev);
    } else if (spec == NULL) {
        node_request_fail(r, NODE_CONFLICT, 0, NULL,
                          "the job's document is not in the store any more");
    } else {
        ev.type = JOB_EV_RETRY;
        ev.run = run;
        node_feed_job(n, &ev);
    }
}

void node_run_cancel(struct node *n, struct ulid id, node_run_fn *fn, void *arg)
{
    struct node_request *r = node_request_new(n, NODE_OP_CANCEL, fn, arg);

    r->id = id;
    node_asked(job_store_get_run(n->store, id, on_run_to_change, r));
}

void node_run_retry(struct node *n, struct ulid id, node_run_fn *fn, void *arg)
{
    struct node_request *r = node_request_new(n, NODE_OP_RETRY, fn, arg);
    struct node_error error;

    r->id = id;
    if (node_admits(n, 0, &error) != NODE_OK) {
        node_request_refuse(r, &error);
        return;
    }
    node_asked(job_store_get_run(n->store, id, on_run_to_change, r));
}
