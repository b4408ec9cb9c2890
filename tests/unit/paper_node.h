/*
 * paper_node - a node made of paper: what node.h and the outputs of sandbox.h promise, with answers
 * that the test sets. Definitions, not declarations: test_api*.c include it, and their linker
 * takes these instead of the real ones.
 */
#ifndef TESTS_UNIT_PAPER_NODE_H
#define TESTS_UNIT_PAPER_NODE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/api/api.h"
#include "common/list.h"
#include "common/loop/http_client.h"
#include "common/loop/loop.h"
#include "common/mem.h"
#include "tests/lib/peer.h"

enum { RUNS_MAX = 16 };

/* ---- the paper node: what it will answer is set by the test ---- */

enum kind { KIND_JOB, KIND_JOBS, KIND_RUN, KIND_RUNS, KIND_TEXT };

struct node {
    struct peer peer;
    struct loop loop;
    struct settings settings;
    struct api *api;
    struct list pending; /* struct pending */
    struct list watches;
    char dir[64];
    int spool_fd;
    bool ready, draining, closed;
    struct node_error refuse; /* the next answer, unless NODE_OK */
    struct job_problems problems;
    enum node_code admits;
    struct job job;
    bool created, replayed, more;
    struct run runs[RUNS_MAX];
    size_t runs_len;
    unsigned answers; /* that reached the API */
    /* what the API asked for */
    struct node_run_filter filter;
    char filter_job[64], name[256], document[4096], spool_name[64], key[300], reference[300];
    uint64_t payload_bytes;
    uint32_t if_match, revision;
    uint8_t hash[32];
    unsigned submits;
    /* the output of every run */
    char text[8192];
    size_t text_len;
    bool output_ended, output_missing, output_fails;
    int output_file;
    /* the peer */
    struct http_client *http;
    uint16_t peer_port; /* 0: alone */
    bool elsewhere, foreign;
};

struct pending {
    struct list link;
    struct loop_defer defer;
    struct node *n;
    enum kind kind;
    void *arg;
    union {
        node_job_fn *job;
        node_jobs_fn *jobs;
        node_run_fn *run;
        node_runs_fn *runs;
        node_text_fn *text;
    } fn;
    struct ulid id;
    const char *text;
    bool deletion;
};

struct node_watch {
    struct list link;
    bool all;
    struct ulid id;
    node_watch_fn *fn;
    void *arg;
};

static struct node *paper; /* for functions that are not told which node */

static const struct run *run_find(struct node *n, struct ulid id)
{
    for (size_t i = 0; i < n->runs_len; i++) {
        if (ulid_eq(n->runs[i].id, id)) {
            return &n->runs[i];
        }
    }
    return NULL;
}

static void pending_fire(struct loop_defer *d)
{
    struct pending *p = CONTAINER_OF(d, struct pending, defer);
    struct node *n = p->n;
    const struct job *job = &n->job;
    struct node_error error = n->refuse;
    const struct run *run = p->kind == KIND_RUN ? run_find(n, p->id) : NULL;
    if (error.code == NODE_OK && p->kind == KIND_RUN && run == NULL) {
        error = (struct node_error){ .code = NODE_UNKNOWN_RUN, .detail = "no such run" };
    }
    const struct node_error *e = error.code != NODE_OK ? &error : NULL;
    n->refuse = (struct node_error){ 0 };
    list_remove(&p->link);
    n->answers++;
    switch (p->kind) {
    case KIND_JOB:
        p->fn.job(p->arg, e, e == NULL && !p->deletion ? job : NULL, n->created, true);
        break;
    case KIND_JOBS:
        p->fn.jobs(p->arg, e, &job, e == NULL ? 1 : 0, n->more ? job->name : NULL);
        break;
    case KIND_RUN:
        p->fn.run(p->arg, e, e == NULL ? run : NULL, n->replayed);
        break;
    case KIND_RUNS:
        p->fn.runs(p->arg, e, n->runs, e == NULL ? n->runs_len : 0, n->more);
        break;
    case KIND_TEXT:
        p->fn.text(p->arg, e, e == NULL ? str_of(p->text) : (struct str){ NULL, 0 });
        break;
    }
    mem_free(p);
}

static struct pending *pend(struct node *n, enum kind kind, void *arg)
{
    struct pending *p = mem_zalloc(sizeof(*p));
    assert_non_null(p);
    p->n = n;
    p->kind = kind;
    p->arg = arg;
    list_push_back(&n->pending, &p->link);
    loop_defer_init(&p->defer, pending_fire);
    loop_defer_post(&n->loop, &p->defer);
    return p;
}

static void keep(char *dst, size_t cap, struct str s)
{
    (void)snprintf(dst, cap, "%.*s", STR_ARG(s));
}

const char *node_code_name(enum node_code code)
{
    static const char *const names[] = {
        [NODE_BAD_JSON] = "bad_json",
        [NODE_INVALID_DOCUMENT] = "invalid_document",
        [NODE_UNKNOWN_JOB] = "unknown_job",
        [NODE_UNKNOWN_RUN] = "unknown_run",
        [NODE_QUEUE_FULL] = "queue_full",
        [NODE_DISK_FULL] = "disk_full",
        [NODE_KEY_REUSED] = "idempotency_key_reused",
        [NODE_PRECONDITION] = "precondition_failed",
        [NODE_CONFLICT] = "conflict",
        [NODE_UNKNOWN_CALLBACK] = "unknown_callback",
    };
    return names[code];
}

int node_code_status(enum node_code code)
{
    static const int statuses[] = {
        [NODE_BAD_JSON] = 400,         [NODE_INVALID_DOCUMENT] = 422, [NODE_UNKNOWN_JOB] = 404,
        [NODE_UNKNOWN_RUN] = 404,      [NODE_QUEUE_FULL] = 503,       [NODE_DISK_FULL] = 507,
        [NODE_KEY_REUSED] = 422,       [NODE_PRECONDITION] = 412,     [NODE_CONFLICT] = 409,
        [NODE_UNKNOWN_CALLBACK] = 404,
    };
    return statuses[code];
}

void node_job_put(struct node *n, struct str name, struct str document, uint32_t if_match,
                  node_job_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), name);
    keep(n->document, sizeof(n->document), document);
    n->if_match = if_match;
    pend(n, KIND_JOB, arg)->fn.job = fn;
}

void node_job_get(struct node *n, struct str name, uint32_t revision, node_job_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), name);
    n->revision = revision;
    pend(n, KIND_JOB, arg)->fn.job = fn;
}

void node_job_delete(struct node *n, struct str name, node_job_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), name);
    struct pending *p = pend(n, KIND_JOB, arg);
    p->fn.job = fn;
    p->deletion = true;
}

void node_job_list(struct node *n, struct str after, size_t limit, node_jobs_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), after);
    n->filter.limit = limit;
    pend(n, KIND_JOBS, arg)->fn.jobs = fn;
}

void node_submit(struct node *n, const struct node_submit *s, node_run_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), s->job);
    keep(n->document, sizeof(n->document), s->document);
    keep(n->spool_name, sizeof(n->spool_name), s->spool_name);
    keep(n->key, sizeof(n->key), s->idempotency_key);
    memcpy(n->hash, s->request_hash, sizeof(n->hash));
    n->payload_bytes = s->payload_bytes;
    n->submits++;
    struct pending *p = pend(n, KIND_RUN, arg);
    p->id = n->runs[0].id;
    p->fn.run = fn;
}

void node_run_get(struct node *n, struct ulid id, node_run_fn *fn, void *arg)
{
    struct pending *p = pend(n, KIND_RUN, arg);
    p->id = id;
    p->fn.run = fn;
}

void node_run_cancel(struct node *n, struct ulid id, node_run_fn *fn, void *arg)
{
    node_run_get(n, id, fn, arg);
}

void node_run_retry(struct node *n, struct ulid id, node_run_fn *fn, void *arg)
{
    node_run_get(n, id, fn, arg);
}

void node_run_list(struct node *n, const struct node_run_filter *filter, node_runs_fn *fn,
                   void *arg)
{
    n->filter = *filter;
    keep(n->filter_job, sizeof(n->filter_job), filter->job);
    pend(n, KIND_RUNS, arg)->fn.runs = fn;
}

struct node_watch *node_run_watch(struct node *n, const struct ulid *id, node_watch_fn *fn,
                                  void *arg)
{
    struct node_watch *w = mem_zalloc(sizeof(*w));
    assert_non_null(w);
    w->all = id == NULL;
    w->id = id != NULL ? *id : w->id;
    w->fn = fn;
    w->arg = arg;
    list_push_back(&n->watches, &w->link);
    return w;
}

struct node_watch *node_unwatch(struct node_watch *w)
{
    if (w != NULL) {
        list_remove(&w->link);
    }
    return mem_free(w);
}

__attribute__((unused)) static void tell(struct node *n, const struct run *run)
{
    LIST_EACH_SAFE (it, &n->watches) {
        struct node_watch *w = LIST_ITEM(it, struct node_watch, link);
        if (w->all || ulid_eq(w->id, run->id)) {
            w->fn(w->arg, run);
        }
    }
}

static void text_pend(struct node *n, const char *text, node_text_fn *fn, void *arg)
{
    struct pending *p = pend(n, KIND_TEXT, arg);
    p->text = text;
    p->fn.text = fn;
}

void node_run_samples(struct node *n, struct ulid id, node_text_fn *fn, void *arg)
{
    (void)id;
    text_pend(n, "{\"samples\":[]}", fn, arg);
}

void node_run_placement(struct node *n, struct ulid id, node_text_fn *fn, void *arg)
{
    (void)id;
    text_pend(n, "{\"basis\":\"local\"}", fn, arg);
}

void node_job_placement(struct node *n, struct str name, node_text_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), name);
    text_pend(n, "{\"basis\":\"learned\"}", fn, arg);
}

void node_profiles_json(struct node *n, struct json_w *w)
{
    (void)n;
    json_w_obj(w);
    json_w_end(w);
}

bool node_profile_json(struct node *n, struct str job, struct json_w *w)
{
    (void)n;
    if (str_eqs(job, "nobody")) {
        return false;
    }
    json_w_obj(w);
    json_kv_str(w, "job", job);
    json_w_end(w);
    return true;
}

void node_status(struct node *n, node_text_fn *fn, void *arg)
{
    text_pend(n, "{\"cluster\":{}}", fn, arg);
}

void node_image_list(struct node *n, node_text_fn *fn, void *arg)
{
    text_pend(n, "{\"images\":[]}", fn, arg);
}

void node_image_delete(struct node *n, struct str repository, struct str reference,
                       node_text_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), repository);
    keep(n->reference, sizeof(n->reference), reference);
    text_pend(n, "{\"images\":1}", fn, arg);
}

void node_image_prune(struct node *n, node_text_fn *fn, void *arg)
{
    text_pend(n, "{\"images\":0}", fn, arg);
}

int node_runs_dirfd(const struct node *n)
{
    return n->spool_fd;
}

int node_spool_dirfd(const struct node *n)
{
    return n->spool_fd;
}

void node_self_json(struct node *n, struct json_w *w)
{
    json_w_obj(w);
    json_kv_cstr(w, "name", "paper");
    json_kv_cstr(w, "state", n->draining ? "draining" : "alive");
    json_w_end(w);
}

void node_metrics(struct node *n, struct buf *out)
{
    (void)n;
    (void)buf_adds(out, "agent_runs_total 0\n");
}

bool node_is_self(const struct node *n, struct str name)
{
    (void)n;
    return str_eqs(name, "paper");
}

bool node_is_ready(const struct node *n)
{
    return n->ready;
}

bool node_is_draining(const struct node *n)
{
    return n->draining;
}

void node_set_draining(struct node *n, bool draining)
{
    n->draining = draining;
}

enum node_code node_admits(struct node *n, uint64_t payload_bytes, struct node_error *ret)
{
    n->payload_bytes = payload_bytes;
    if (n->admits != NODE_OK && ret != NULL) {
        *ret = (struct node_error){ .code = n->admits, .detail = "no room", .retry_after_s = 7 };
    }
    return n->admits;
}

struct loop *node_loop(struct node *n)
{
    return &n->loop;
}

const struct settings *node_settings(const struct node *n)
{
    return &n->settings;
}

/* ---- what sets a job off, and secrets: kept as asked, answered by name ---- */

void node_hook(struct node *n, const struct node_hook_call *call, node_run_fn *fn, void *arg)
{
    struct pending *p = pend(n, KIND_RUN, arg);
    keep(n->name, sizeof(n->name), call->job);
    keep(n->document, sizeof(n->document), call->body);
    p->fn.run = fn;
}

int node_hook_sign(struct node *n, struct str job, struct str hook, struct str body,
                   struct buf *ret_headers, struct err *e)
{
    (void)hook;
    (void)body;
    (void)e;
    keep(n->name, sizeof(n->name), job);
    return buf_adds(ret_headers, "X-Signature: paper\r\n");
}

void node_event(struct node *n, const struct trigger_cloudevent *events, size_t events_len,
                node_text_fn *fn, void *arg)
{
    (void)events;
    (void)events_len;
    text_pend(n, "{\"runs\":[],\"matched\":0}", fn, arg);
}

void node_trigger_list(struct node *n, struct str job, node_text_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), job);
    text_pend(n, "{\"triggers\":[]}", fn, arg);
}

void node_trigger_test(struct node *n, struct str trigger, const struct node_trigger_input *in,
                       node_text_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), trigger);
    keep(n->document, sizeof(n->document), in->body);
    text_pend(n, "{\"would_fire\":true}", fn, arg);
}

void node_trigger_fire(struct node *n, struct str trigger, struct str payload, node_run_fn *fn,
                       void *arg)
{
    struct pending *p = pend(n, KIND_RUN, arg);
    keep(n->name, sizeof(n->name), trigger);
    keep(n->document, sizeof(n->document), payload);
    p->fn.run = fn;
}

void node_trigger_pause(struct node *n, struct str trigger, bool paused, node_text_fn *fn,
                        void *arg)
{
    keep(n->name, sizeof(n->name), trigger);
    text_pend(n, paused ? "{\"paper\":\"paused\"}" : "{}", fn, arg);
}

/* ---- the feed: PAPER_FEED events are remembered ---- */

enum { PAPER_FEED = 8, PAPER_READERS = 8 };

struct node_feed_reader {
    void (*fn)(void *arg);
    void *arg;
};

static struct {
    struct node_feed_reader readers[PAPER_READERS];
    uint64_t first, next; /* of the events; the first is 1 */
    char ids[PAPER_FEED][24];
    char types[PAPER_FEED][64];
    char jobs[PAPER_FEED][64];
    struct str texts[PAPER_FEED]; /* the test's */
} paper_feed = { .first = 1, .next = 1 };

struct node_feed_reader *node_feed_open(struct node *n, void (*fn)(void *arg), void *arg)
{
    (void)n;
    for (size_t i = 0; i < PAPER_READERS; i++) {
        if (paper_feed.readers[i].fn == NULL) {
            paper_feed.readers[i] = (struct node_feed_reader){ fn, arg };
            return &paper_feed.readers[i];
        }
    }
    return NULL;
}

struct node_feed_reader *node_feed_close(struct node_feed_reader *r)
{
    if (r != NULL) {
        r->fn = NULL;
    }
    return NULL;
}

uint64_t node_feed_begin(struct node *n, struct str last_id, bool *ret_whole)
{
    uint64_t number = 0;
    (void)n;
    *ret_whole = last_id.n == 0 || (str_u64(last_id, &number) == 0 &&
                                    number + 1 >= paper_feed.first && number < paper_feed.next);
    return last_id.n == 0 ? paper_feed.next : *ret_whole ? number + 1 : paper_feed.first;
}

int node_feed_next(struct node *n, uint64_t *pos, struct node_feed_event *ret)
{
    (void)n;
    if (*pos < paper_feed.first) {
        return -ESTALE;
    }
    if (*pos >= paper_feed.next) {
        return 0;
    }
    size_t i = (*pos)++ % PAPER_FEED;
    *ret = (struct node_feed_event){ paper_feed.ids[i], paper_feed.types[i], paper_feed.jobs[i],
                                     paper_feed.texts[i] };
    return 1;
}

static size_t __attribute__((unused)) paper_readers(void)
{
    size_t n = 0;
    for (size_t i = 0; i < PAPER_READERS; i++) {
        n += paper_feed.readers[i].fn != NULL;
    }
    return n;
}

static void __attribute__((unused)) paper_says(const char *type, const char *job, struct str text)
{
    size_t i = paper_feed.next % PAPER_FEED;
    (void)snprintf(paper_feed.ids[i], sizeof(paper_feed.ids[i]), "%llu",
                   (unsigned long long)paper_feed.next);
    keep(paper_feed.types[i], sizeof(paper_feed.types[i]), str_of(type));
    keep(paper_feed.jobs[i], sizeof(paper_feed.jobs[i]), str_of(job));
    paper_feed.texts[i] = text;
    if (++paper_feed.next - paper_feed.first > PAPER_FEED) {
        paper_feed.first++;
    }
    for (size_t k = 0; k < PAPER_READERS; k++) {
        if (paper_feed.readers[k].fn != NULL) {
            paper_feed.readers[k].fn(paper_feed.readers[k].arg);
        }
    }
}

void node_callback_list(struct node *n, struct str job, struct str state, size_t limit,
                        node_text_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), job);
    keep(n->reference, sizeof(n->reference), state);
    n->filter.limit = limit;
    text_pend(n, "{\"callbacks\":[],\"more\":false}", fn, arg);
}

bool node_callback_is_here(const struct node *n, struct str id)
{
    (void)n;
    return id.n != 0;
}

bool node_callback_state_ok(struct str state)
{
    return str_eqs(state, "waiting");
}

void node_callback_retry(struct node *n, struct str id, node_text_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), id);
    text_pend(n, "{}", fn, arg);
}

void node_secret_put(struct node *n, struct str name, struct str value, node_text_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), name);
    keep(n->document, sizeof(n->document), value);
    text_pend(n, "{}", fn, arg);
}

void node_secret_delete(struct node *n, struct str name, node_text_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), name);
    text_pend(n, "{}", fn, arg);
}

void node_secret_list(struct node *n, node_text_fn *fn, void *arg)
{
    text_pend(n, "{\"secrets\":[]}", fn, arg);
}

/* ---- the cluster's tokens: kept at once, durable in the next turn ---- */

static struct {
    char name[65];
    char line[512];
} paper_tokens[8];
static void (*paper_tokens_changed)(void *arg);
static void *paper_tokens_arg;
static int paper_token_refusal; /* of the next write */

void node_token_each(const struct node *n, node_token_fn *fn, void *arg)
{
    (void)n;
    for (size_t i = 0; i < ARRAY_LEN(paper_tokens); i++) {
        if (paper_tokens[i].name[0] != '\0') {
            fn(arg, str_of(paper_tokens[i].name), str_of(paper_tokens[i].line));
        }
    }
}

void node_token_watch(struct node *n, void (*changed)(void *arg), void *arg)
{
    (void)n;
    paper_tokens_changed = changed;
    paper_tokens_arg = arg;
}

static void paper_token_set(const char *name, const char *line)
{
    size_t at = 0;
    for (size_t i = ARRAY_LEN(paper_tokens); i-- > 0;) {
        at = paper_tokens[i].name[0] == '\0' ? i : at;
    }
    for (size_t i = 0; i < ARRAY_LEN(paper_tokens); i++) {
        at = strcmp(paper_tokens[i].name, name) == 0 ? i : at;
    }
    (void)snprintf(paper_tokens[at].name, sizeof(paper_tokens[at].name), "%s",
                   line != NULL ? name : "");
    (void)snprintf(paper_tokens[at].line, sizeof(paper_tokens[at].line), "%s",
                   line != NULL ? line : "");
    if (paper_tokens_changed != NULL) {
        paper_tokens_changed(paper_tokens_arg);
    }
}

struct paper_written {
    uv_timer_t timer;
    node_written_fn *fn;
    void *arg;
    struct paper_written *next;
};
static struct paper_written *paper_token_writes;

static void paper_write_closed(uv_handle_t *h)
{
    free(h->data);
}

static void paper_write_done(uv_timer_t *t)
{
    struct paper_written *w = t->data;
    for (struct paper_written **p = &paper_token_writes; *p != NULL; p = &(*p)->next) {
        if (*p == w) {
            *p = w->next;
            break;
        }
    }
    uv_close((uv_handle_t *)t, paper_write_closed);
    if (w->fn != NULL) {
        w->fn(w->arg, 0);
    }
}

static int paper_token_write(struct node *n, struct str name, const char *line, node_written_fn *fn,
                             void *arg, struct err *e)
{
    char text[65];
    if (paper_token_refusal != 0) {
        return err_say(e, paper_token_refusal, "full");
    }
    (void)str_copy(text, sizeof(text), name);
    paper_token_set(text, line);
    struct paper_written *w = calloc(1, sizeof(*w));
    w->fn = fn;
    w->arg = arg;
    w->next = paper_token_writes;
    paper_token_writes = w;
    w->timer.data = w;
    (void)uv_timer_init(&n->peer.loop, &w->timer);
    (void)uv_timer_start(&w->timer, paper_write_done, 1, 0);
    return 0;
}

int node_token_put(struct node *n, struct str name, struct str line, node_written_fn *fn, void *arg,
                   struct err *e)
{
    char text[512];
    (void)str_copy(text, sizeof(text), line);
    return paper_token_write(n, name, text, fn, arg, e);
}

int node_token_delete(struct node *n, struct str name, node_written_fn *fn, void *arg,
                      struct err *e)
{
    return paper_token_write(n, name, NULL, fn, arg, e);
}

void node_forget(struct node *n, void *arg)
{
    for (struct paper_written *w = paper_token_writes; w != NULL; w = w->next) {
        w->fn = w->arg == arg ? NULL : w->fn;
    }
    LIST_EACH_SAFE (it, &n->pending) {
        struct pending *p = LIST_ITEM(it, struct pending, link);
        if (p->arg == arg) {
            loop_defer_cancel(&p->defer);
            list_remove(&p->link);
            mem_free(p);
        }
    }
}

/* ---- the cluster that the paper node is in: its one peer, "other", is itself ---- */

enum node_code node_peer_may_put(struct node *n, struct str from, struct ulid id, uint32_t attempt,
                                 struct str file, uint64_t bytes, struct node_error *ret)
{
    (void)id;
    (void)bytes;
    bool good = str_eqs(from, "other") && attempt == 1 && str_eqs(file, "stdout");
    *ret = (struct node_error){ .code = good ? NODE_OK : NODE_CONFLICT, .detail = "not yours" };
    (void)n;
    return ret->code;
}

int node_peer_put(struct node *n, struct str from, struct ulid id, uint32_t attempt,
                  struct str file, const char *spool_name)
{
    (void)from;
    (void)id;
    (void)attempt;
    (void)file;
    keep(n->spool_name, sizeof(n->spool_name), str_of(spool_name));
    return 0;
}

int node_peer_payload(struct node *n, struct str from, struct ulid id, uint64_t *ret_bytes)
{
    (void)id;
    if (!str_eqs(from, "other") || n->spool_name[0] == '\0') {
        return -ENOENT;
    }
    *ret_bytes = n->payload_bytes;
    return openat(n->spool_fd, n->spool_name, O_RDONLY | O_CLOEXEC);
}

void node_peer_asks(struct node *n, enum node_ask ask, struct str from, struct str body,
                    node_text_fn *fn, void *arg)
{
    keep(n->name, sizeof(n->name), from);
    keep(n->document, sizeof(n->document), body);
    text_pend(n, ask == NODE_ASK_OFFER ? "{\"answer\":\"busy\"}" : "{\"answer\":\"kept\"}", fn,
              arg);
}

bool node_run_is_elsewhere(struct node *n, struct ulid id, uint32_t attempt,
                           char dst[NODE_NAME_CAP])
{
    (void)id;
    (void)attempt;
    keep(dst, NODE_NAME_CAP, STR("other"));
    return n->elsewhere;
}

enum node_code node_peer_may_copy(struct node *n, struct str file, uint64_t bytes,
                                  struct node_error *ret)
{
    (void)n;
    (void)bytes;
    *ret = (struct node_error){ .code = str_eqs(file, "payload") ? NODE_OK : NODE_CONFLICT };
    return ret->code;
}

int node_peer_copy_put(struct node *n, struct ulid id, uint32_t attempt, struct str file,
                       const char *spool_name)
{
    (void)n;
    (void)id;
    (void)attempt;
    (void)file;
    (void)spool_name;
    return 0;
}

bool node_run_is_mine(struct node *n, struct ulid id)
{
    (void)id;
    return !n->foreign;
}

void node_run_locate(struct node *n, struct ulid id, bool far, node_text_fn *fn, void *arg)
{
    (void)n;
    (void)id;
    (void)far;
    fn(arg, NULL, STR(""));
}

bool node_run_owner(struct node *n, struct ulid id, char dst[NODE_NAME_CAP])
{
    (void)id;
    keep(dst, NODE_NAME_CAP, STR("other"));
    return n->foreign;
}

bool node_target(const struct node *n, struct str name, struct http_target *ret)
{
    *ret = (struct http_target){ .host = "127.0.0.1", .port = n->peer_port };
    return str_eqs(name, "other") && n->peer_port != 0;
}

struct http_client *node_http(struct node *n)
{
    return n->http;
}

void node_identify(const struct node *n, struct http_call *call)
{
    (void)n;
    http_call_header(call, "Agent-Node", "other");
}

bool node_member_next(const struct node *n, size_t *pos, struct node_member *ret)
{
    *ret = (struct node_member){ .name = "other", .state = "alive", .alive = true };
    return n->peer_port != 0 && (*pos)++ == 0;
}

/* ---- paper outputs: every run has paper->text on both streams ---- */

struct sandbox_output {
    uint32_t attempt;
};

/* They are read on pool threads: what a test changes while somebody follows it changes here. */
static pthread_mutex_t paper_lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((unused)) static void paper_writes(struct node *n, const char *text, bool ended)
{
    (void)pthread_mutex_lock(&paper_lock);
    n->output_missing = false;
    n->output_ended = ended;
    n->text_len +=
        (size_t)snprintf(n->text + n->text_len, sizeof(n->text) - n->text_len, "%s", text);
    (void)pthread_mutex_unlock(&paper_lock);
}

int node_output_open(const struct node *n, struct ulid id, uint32_t attempt,
                     struct sandbox_output **ret, struct err *e)
{
    (void)n;
    (void)id;
    (void)e;
    (void)pthread_mutex_lock(&paper_lock);
    bool missing = paper->output_missing;
    (void)pthread_mutex_unlock(&paper_lock);
    if (missing) {
        return -ENOENT;
    }
    *ret = calloc(1, sizeof(**ret));
    (*ret)->attempt = attempt;
    return 0;
}

struct sandbox_output *sandbox_output_free(struct sandbox_output *o)
{
    free(o);
    return NULL;
}

int sandbox_output_stat(struct sandbox_output *o, enum sandbox_stream s,
                        struct sandbox_output_stat *ret, struct err *e)
{
    (void)o;
    (void)s;
    (void)e;
    (void)pthread_mutex_lock(&paper_lock);
    ret->ended = paper->output_ended;
    ret->total = paper->text_len;
    ret->readable = paper->text_len;
    (void)pthread_mutex_unlock(&paper_lock);
    return paper->output_fails ? -EIO : 0;
}

int sandbox_output_read(struct sandbox_output *o, enum sandbox_stream s, uint64_t *pos, void *dst,
                        size_t n, size_t *ret_n, struct err *e)
{
    (void)o;
    (void)s;
    (void)e;
    (void)pthread_mutex_lock(&paper_lock);
    size_t left = paper->text_len - (size_t)*pos;
    left = left < n ? left : n;
    left = left < 5 ? left : 5; /* in small pieces */
    memcpy(dst, paper->text + *pos, left);
    (void)pthread_mutex_unlock(&paper_lock);
    *pos += left;
    *ret_n = left;
    return 0;
}

int sandbox_output_fd(const struct sandbox_output *o)
{
    (void)o;
    return paper->output_file;
}

int sandbox_output_merge(struct sandbox_output *o, struct sandbox_merge *m, void *dst, size_t n,
                         size_t *ret_n, enum sandbox_stream *ret_stream, int64_t *ret_wall_us,
                         struct err *e)
{
    *ret_stream = SANDBOX_STDOUT;
    *ret_wall_us = 1000;
    return sandbox_output_read(o, SANDBOX_STDOUT, &m->pos[1], dst, n, ret_n, e);
}

int sandbox_output_seek(struct sandbox_output *o, enum sandbox_stream s, int64_t wall_us,
                        uint64_t *ret_pos, struct err *e)
{
    (void)o;
    (void)s;
    (void)wall_us;
    (void)e;
    *ret_pos = 4;
    return 0;
}

#endif
