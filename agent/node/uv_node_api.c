/* What the API reads: jobs, runs, watches, samples, placement, metrics. */
#include <errno.h>
#include <stdio.h>

#include "agent/node/uv_node_callbacks.h"
#include "agent/node/uv_node_events.h"
#include "agent/node/uv_node_internal.h"
#include "agent/node/uv_node_triggers.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { ANSWER_MAX = 8 * 1024 * 1024, RETRY_AFTER_S = 1, PLACEMENT_CANDIDATES = 32 };

/* ---- queries ---- */

static struct node_query *query_new(struct node *n, void *arg)
{
    struct node_query *q = mem_zalloc(sizeof *q);

    if (q == NULL) {
        node_out_of_memory("a query");
    }
    q->node = n;
    q->arg = arg;
    buf_init(&q->text, ANSWER_MAX);
    list_push_back(&n->queries, &q->link);
    return q;
}

static void query_free(struct node_query *q)
{
    list_remove(&q->link);
    buf_release(&q->text);
    mem_free(q);
}

static struct node_error error_of(int status, enum node_code not_found, const char *what)
{
    struct node_error e = { .code = NODE_INTERNAL };

    switch (status) {
    case -ENOENT:
        e.code = not_found;
        (void)snprintf(e.detail, sizeof e.detail, "there is no such %s", what);
        break;
    case -EAGAIN:
        e.code = NODE_PRECONDITION;
        (void)snprintf(e.detail, sizeof e.detail, "the %s has another revision now (If-Match)",
                       what);
        break;
    case -ENOSPC:
    case -EDQUOT:
        e.code = NODE_DISK_FULL;
        (void)snprintf(e.detail, sizeof e.detail, "the disk of this node is full");
        break;
    case -ENOBUFS:
    case -ECANCELED:
        e.code = NODE_QUEUE_FULL;
        e.retry_after_s = RETRY_AFTER_S;
        (void)snprintf(e.detail, sizeof e.detail, "the store of this node is busy");
        break;
    default:
        (void)snprintf(e.detail, sizeof e.detail, "the store says %s", err_name(status));
        break;
    }
    return e;
}

void node_forget(struct node *n, void *arg)
{
    if (n->table != NULL) {
        table_forget(n->table, arg);
    }
    LIST_EACH (pos, &n->queries) {
        struct node_query *q = LIST_ITEM(pos, struct node_query, link);
        q->forgotten = q->forgotten || q->arg == arg;
    }
    LIST_EACH (pos, &n->request_list) {
        struct node_request *r = LIST_ITEM(pos, struct node_request, link);
        if (r->arg == arg) {
            r->fn = NULL;
        }
    }
}

/* ---- jobs ---- */

static void on_job(void *arg, int status, const struct job *job, bool created, bool changed)
{
    struct node_query *q = arg;

    if (!q->forgotten) {
        struct node_error e = { 0 };
        if (status != 0) {
            e = error_of(status, NODE_UNKNOWN_JOB, "job");
        }
        q->fn.job(q->arg, status != 0 ? &e : NULL, status != 0 ? NULL : job, created, changed);
    }
    query_free(q);
}

static void on_job_put(void *arg, int status, const struct job *job, bool created, bool changed)
{
    struct node_query *q = arg;
    struct node *n = q->node;

    if (status == 0 && !n->closing) {
        node_docs_drop(&n->jobs, str_of(job->name));
        struct job_event ev = { .type = JOB_EV_JOB,
                                .job = job->name,
                                .concurrency = job->policy.concurrency };
        node_feed_job(n, &ev);
        node_image_keep(n, job);
        node_callbacks_applied(n, job->name);
        if (changed) {
            node_triggers_job(n, job);
            node_cluster_job_put(n, job);
            node_event_job(n, "applied", job->name, job->revision);
            log_info("job '%s' is at revision %u", job->name, job->revision);
        }
    }
    on_job(arg, status, job, created, changed);
}

/* A refused document is answered from the loop, as everything is. */
struct refused_job {
    struct loop_defer defer;
    struct node_query *query;
    struct node_error error;
    struct job_problems problems;
};

static void refuse_job(struct loop_defer *d)
{
    struct refused_job *x = CONTAINER_OF(d, struct refused_job, defer);
    struct node_query *q = x->query;

    if (!q->forgotten) {
        q->fn.job(q->arg, &x->error, NULL, false, false);
    }
    query_free(q);
    mem_free(x);
}

void node_job_put(struct node *n, struct str name, struct str document, uint32_t if_match,
                  node_job_fn *fn, void *arg)
{
    struct node_query *q = query_new(n, arg);
    struct refused_job *x = mem_zalloc(sizeof *x);
    struct job *job = NULL;
    struct err e = { 0 };

    if (x == NULL) {
        node_out_of_memory("a job document");
    }
    q->fn.job = fn;
    int rc = job_parse(document, JOB_REGISTERED, name, NULL, &n->settings, &job, &x->problems, &e);
    if (rc == 0 && ((rc = node_document_check(job, &x->problems, &e)) != 0 ||
                    (rc = node_triggers_check(n, job, &x->problems, &e)) != 0 ||
                    (rc = node_callbacks_check(n, job, &x->problems, &e)) != 0)) {
        job = job_free(job);
    }
    if (rc == 0) {
        mem_free(x);
        node_asked(job_store_put_job(n->store, job, if_match, sys_wall_us(), on_job_put, q));
        job_free(job);
        return;
    }
    x->query = q;
    x->error.code = rc == -EINVAL   ? NODE_INVALID_DOCUMENT
                    : rc == -ENOMEM ? NODE_INTERNAL
                                    : NODE_BAD_JSON;
    x->error.problems = rc == -EINVAL ? &x->problems : NULL;
    (void)snprintf(x->error.detail, sizeof x->error.detail, "%s", err_text(&e));
    loop_defer_init(&x->defer, refuse_job);
    loop_defer_post(n->loop, &x->defer);
}

void node_job_get(struct node *n, struct str name, uint32_t revision, node_job_fn *fn, void *arg)
{
    struct node_query *q = query_new(n, arg);

    q->fn.job = fn;
    node_asked(job_store_get_job(n->store, name, revision, on_job, q));
}

struct deletion {
    struct node_query *query;
    struct job *job;
};

static void on_deleted(void *arg, int status)
{
    struct deletion *x = arg;
    struct node *n = x->query->node;

    if (status == 0 && !n->closing) {
        node_docs_drop(&n->jobs, str_of(x->job->name));
        node_triggers_drop(n, str_of(x->job->name));
        node_cluster_job_deleted(n, x->job->name);
        telemetry_forget_job(n->metrics, x->job->name);
        node_image_let_go(n, x->job->name);
        node_event_job(n, "deleted", x->job->name, x->job->revision);
        log_info("job '%s' is deleted", x->job->name);
    }
    on_job(x->query, status, x->job, false, true);
    job_free(x->job);
    mem_free(x);
}

static void on_job_to_delete(void *arg, int status, const struct job *job, bool created,
                             bool changed)
{
    struct node_query *q = arg;
    struct deletion *x = mem_zalloc(sizeof *x);

    if (status != 0 || q->node->closing) {
        mem_free(x);
        on_job(arg, status != 0 ? status : -ECANCELED, NULL, created, changed);
        return;
    }
    if (x == NULL || (x->job = job_dup(job)) == NULL) {
        node_out_of_memory("a deletion");
    }
    x->query = q;
    node_asked(job_store_delete_job(q->node->store, str_of(x->job->name), 0, on_deleted, x));
}

void node_job_delete(struct node *n, struct str name, node_job_fn *fn, void *arg)
{
    struct node_query *q = query_new(n, arg);

    q->fn.job = fn;
    node_asked(job_store_get_job(n->store, name, 0, on_job_to_delete, q));
}

static void on_jobs(void *arg, int status, const struct job *const *jobs, size_t n, bool more)
{
    struct node_query *q = arg;

    if (!q->forgotten) {
        struct node_error e = { 0 };
        if (status != 0) {
            e = error_of(status, NODE_INTERNAL, "job");
        }
        q->fn.jobs(q->arg, status != 0 ? &e : NULL, jobs, status != 0 ? 0 : n,
                   status == 0 && more && n > 0 ? jobs[n - 1]->name : NULL);
    }
    query_free(q);
}

void node_job_list(struct node *n, struct str after, size_t limit, node_jobs_fn *fn, void *arg)
{
    struct node_query *q = query_new(n, arg);

    q->fn.jobs = fn;
    node_asked(job_store_list_jobs(n->store, after, limit, on_jobs, q));
}

/* ---- runs ---- */

static void run_read(struct node_query *q, int status, const struct run *run);

/* A run of another node, of which we have a copy. */
static void on_copy(void *arg, int status, const struct run *run, const struct job *spec,
                    struct str payload)
{
    (void)spec;
    (void)payload;
    run_read(arg, status, run);
}

static void on_run(void *arg, int status, const struct run *run, const struct job *spec)
{
    struct node_query *q = arg;

    (void)spec;
    if (status == -ENOENT && node_guest_find(q->node, q->id) == NULL && !q->node->closing) {
        node_asked(job_store_get_copy(q->node->store, q->id, on_copy, q));
    } else {
        run_read(q, status, run);
    }
}

static void run_read(struct node_query *q, int status, const struct run *run)
{
    const struct node_guest *g = status == -ENOENT ? node_guest_find(q->node, q->id) : NULL;
    struct run now;

    if (g != NULL) {
        status = 0;
        run = &g->run;
    }
    if (!q->forgotten) {
        struct node_error e = { 0 };
        if (status != 0) {
            e = error_of(status, NODE_UNKNOWN_RUN, "run");
        } else if (job_core_run(node_core_jobs(q->node->core), q->id, &now) && !run_is_ended(run)) {
            now.merged = run->merged;
            run = &now; /* the store may be behind by a lazy write */
        }
        q->fn.run(q->arg, status != 0 ? &e : NULL, status != 0 ? NULL : run, false);
    }
    query_free(q);
}

void node_run_get(struct node *n, struct ulid id, node_run_fn *fn, void *arg)
{
    struct node_query *q = query_new(n, arg);

    q->id = id;
    q->fn.run = fn;
    node_asked(job_store_get_run(n->store, id, on_run, q));
}

static void on_runs(void *arg, int status, const struct run *runs, size_t n, bool more)
{
    struct node_query *q = arg;

    if (!q->forgotten) {
        struct node_error e = { 0 };
        if (status != 0) {
            e = error_of(status, NODE_INTERNAL, "run");
        }
        q->fn.runs(q->arg, status != 0 ? &e : NULL, runs, status != 0 ? 0 : n, more);
    }
    query_free(q);
}

void node_run_list(struct node *n, const struct node_run_filter *filter, node_runs_fn *fn,
                   void *arg)
{
    struct node_query *q = query_new(n, arg);
    const struct job_store_filter f = {
        .job = filter->job, .states = filter->states, .after = filter->after, .limit = filter->limit
    };

    q->fn.runs = fn;
    node_asked(job_store_list_runs(n->store, &f, on_runs, q));
}

/* ---- watches ---- */

struct node_watch *node_run_watch(struct node *n, const struct ulid *id, node_watch_fn *fn,
                                  void *arg)
{
    struct node_watch *w = n->watches_len < NODE_WATCHES_MAX ? mem_zalloc(sizeof *w) : NULL;

    if (w != NULL) {
        w->node = n;
        w->fn = fn;
        w->arg = arg;
        w->all = id == NULL;
        if (id != NULL) {
            w->id = *id;
        }
        n->watches_len++;
        /* Newest first: one that is made while watches are being called is not called for that. */
        list_push_front(&n->watches, &w->link);
    }
    return w;
}

static void watch_free(struct node_watch *w)
{
    list_remove(&w->link);
    w->node->watches_len--;
    mem_free(w);
}

struct node_watch *node_unwatch(struct node_watch *w)
{
    if (w == NULL) {
        return NULL;
    }
    if (w->node->watching > 0) {
        w->dead = true;
    } else {
        watch_free(w);
    }
    return NULL;
}

void node_watchers_tell(struct node *n, const struct run *run)
{
    node_event_run(n, run);
    n->watching++;
    LIST_EACH (pos, &n->watches) {
        struct node_watch *w = LIST_ITEM(pos, struct node_watch, link);
        if (!w->dead && (w->all || ulid_eq(w->id, run->id))) {
            w->fn(w->arg, run);
        }
    }
    if (--n->watching > 0) {
        return;
    }
    LIST_EACH_SAFE (pos, &n->watches) {
        struct node_watch *w = LIST_ITEM(pos, struct node_watch, link);
        if (w->dead) {
            watch_free(w);
        }
    }
}

/* ---- placement and samples ---- */

void node_placement_keep(struct node *n, const struct node_event *ev, const struct node_effects *fx)
{
    struct node_placement *p = &n->placements[n->placement_next];
    AUTO_BUF struct buf out = BUF_INIT(64 * 1024);
    struct route_candidate candidates[PLACEMENT_CANDIDATES];
    struct route_verdict verdicts[PLACEMENT_CANDIDATES];
    struct route_decision decision = fx->decision;
    struct route_request request = ev->request;
    size_t len = 0;
    struct json_w w;

    ptrdiff_t wanted = decision.chosen >= 0 ? decision.chosen : decision.hold;

    /* Of a large cluster: this node, the chosen one, and some of the others. */
    for (size_t i = 0; i < fx->candidates_len; i++) {
        bool is_it = (ptrdiff_t)i == wanted;
        bool later = !is_it && wanted > (ptrdiff_t)i;
        if (len + (later ? 1 : 0) >= PLACEMENT_CANDIDATES) {
            continue;
        }
        decision.chosen = is_it && decision.chosen >= 0 ? (ptrdiff_t)len : decision.chosen;
        decision.hold = is_it && decision.hold >= 0 ? (ptrdiff_t)len : decision.hold;
        candidates[len] = fx->candidates[i];
        verdicts[len++] = fx->verdicts[i];
    }
    json_w_init(&w, &out, false);
    request.policy = (enum route_policy)n->settings.routing.policy;
    route_to_json(&w, &request, candidates, len, verdicts, &decision);
    char *text = buf_take(&out);
    if (text == NULL) {
        return;
    }
    n->placement_next = (n->placement_next + 1) % NODE_PLACEMENTS_MAX;
    mem_free(p->text);
    *p = (struct node_placement){ .id = ev->job.id, .attempt = ev->job.attempt, .text = text };
}

static const char *placement_of(const struct node *n, struct ulid id)
{
    for (size_t i = 1; i <= NODE_PLACEMENTS_MAX; i++) {
        size_t at = (n->placement_next + NODE_PLACEMENTS_MAX - i) % NODE_PLACEMENTS_MAX;
        const struct node_placement *p = &n->placements[at];
        if (p->text != NULL && ulid_eq(p->id, id)) {
            return p->text;
        }
    }
    return NULL;
}

static void on_placement_run(void *arg, int status, const struct run *run, const struct job *spec)
{
    struct node_query *q = arg;

    (void)spec;
    if (!q->forgotten) {
        const char *text = status == 0 ? placement_of(q->node, q->id) : NULL;
        struct node_error e = { 0 };
        struct json_w w;
        if (status != 0) {
            e = error_of(status, NODE_UNKNOWN_RUN, "run");
        } else if (text == NULL) {
            /* Not decided yet, or too long ago to be remembered. */
            json_w_init(&w, &q->text, false);
            json_w_obj(&w);
            json_kv_cstr(&w, "basis", run->placed_us == 0 ? "none" : "forgotten");
            json_w_key(&w, "node");
            if (run->node[0] != '\0') {
                json_w_cstr(&w, run->node);
            } else {
                json_w_null(&w);
            }
            json_w_key(&w, "candidates");
            json_w_arr(&w);
            json_w_end(&w);
            json_w_end(&w);
            text = buf_cstr(&q->text);
        }
        q->fn.text(q->arg, status != 0 ? &e : NULL, str_of(text));
    }
    query_free(q);
}

void node_run_placement(struct node *n, struct ulid id, node_text_fn *fn, void *arg)
{
    struct node_query *q = query_new(n, arg);

    q->id = id;
    q->fn.text = fn;
    node_asked(job_store_get_run(n->store, id, on_placement_run, q));
}

static struct node_live *live_of(struct node *n, struct ulid id)
{
    LIST_EACH (pos, &n->live) {
        struct node_live *l = LIST_ITEM(pos, struct node_live, link);
        if (l->stage == LIVE_RUNNING && ulid_eq(l->id, id)) {
            return l;
        }
    }
    return NULL;
}

static void sample_write(struct json_w *w, const struct telemetry_sample *s)
{
    json_w_obj(w);
    json_kv_real(w, "t", (double)s->at_us / 1e6, 3);
    json_kv_time(w, "time", s->wall_us);
    json_kv_real(w, "cpu_seconds", (double)s->cpu_total_us / 1e6, 6);
    json_kv_real(w, "cpu_user_seconds", (double)s->cpu_user_us / 1e6, 6);
    json_kv_real(w, "cpu_system_seconds", (double)s->cpu_system_us / 1e6, 6);
    json_kv_real(w, "cpu_throttled_seconds", (double)s->throttled_us / 1e6, 6);
    json_kv_u64(w, "memory_bytes", s->mem_bytes);
    json_kv_u64(w, "memory_anon_bytes", s->mem_anon);
    json_kv_u64(w, "memory_file_bytes", s->mem_file);
    json_kv_u64(w, "memory_kernel_bytes", s->mem_kernel);
    json_kv_u64(w, "memory_shmem_bytes", s->mem_shmem);
    json_kv_u64(w, "io_read_bytes", s->io_read_bytes);
    json_kv_u64(w, "io_write_bytes", s->io_write_bytes);
    json_kv_u64(w, "io_read_ops", s->io_read_ops);
    json_kv_u64(w, "io_write_ops", s->io_write_ops);
    json_kv_u64(w, "network_rx_bytes", s->net_rx_bytes);
    json_kv_u64(w, "network_tx_bytes", s->net_tx_bytes);
    json_kv_u64(w, "pids", s->pids);
    if ((s->rdt & TELEMETRY_HAS_LLC) != 0) {
        json_kv_u64(w, "cache_bytes", s->llc_bytes);
    }
    if ((s->rdt & TELEMETRY_HAS_MBM) != 0) {
        json_kv_u64(w, "memory_bandwidth_bytes", s->mbm_bytes);
    }
    json_w_end(w);
}

/* The document of GET /v1/runs/{id}/samples: seconds, as everywhere in the API. Of a long run pairs
 * of samples were joined: what they are apart is said, not what was configured. */
static void samples_write(struct node *n, struct json_w *w, const struct telemetry_series *s)
{
    double apart_ms = (double)n->settings.telemetry.interval_ms * (s->stride > 0 ? s->stride : 1);

    json_w_obj(w);
    json_kv_real(w, "interval_seconds", apart_ms / 1000, 3);
    json_w_key(w, "samples");
    json_w_arr(w);
    for (uint32_t i = 0; i < s->n; i++) {
        sample_write(w, &s->s[i]);
    }
    if (s->pending > 0) {
        sample_write(w, &s->open);
    }
    json_w_end(w);
    json_w_end(w);
}

static void on_samples_run(void *arg, int status, const struct run *run, const struct job *spec)
{
    struct node_query *q = arg;
    struct node *n = q->node;
    char name[NODE_SAMPLES_NAME_CAP];
    struct json_w w;

    (void)spec;
    if (!q->forgotten) {
        struct node_error e = { 0 };
        struct node_live *l = live_of(n, q->id); /* of a guest, too */
        if (status != 0 && l == NULL) {
            e = error_of(status, NODE_UNKNOWN_RUN, "run");
        } else if (l != NULL) {
            json_w_init(&w, &q->text, false);
            samples_write(n, &w, &l->series);
        } else {
            node_samples_name(q->id, run->attempt, name);
            if (sys_read_file(n->samples_fd, name, ANSWER_MAX, &q->text, NULL) != 0) {
                struct telemetry_series none;
                telemetry_series_init(&none, 0);
                buf_reset(&q->text);
                json_w_init(&w, &q->text, false);
                samples_write(n, &w, &none);
            }
        }
        q->fn.text(q->arg, e.code != NODE_OK ? &e : NULL, buf_str(&q->text));
    }
    query_free(q);
}

void node_run_samples(struct node *n, struct ulid id, node_text_fn *fn, void *arg)
{
    struct node_query *q = query_new(n, arg);

    q->id = id;
    q->fn.text = fn;
    node_asked(job_store_get_run(n->store, id, on_samples_run, q));
}

void node_samples_name(struct ulid id, uint32_t attempt, char dst[NODE_SAMPLES_NAME_CAP])
{
    char text[ULID_TEXT_CAP];

    ulid_format(id, text);
    (void)snprintf(dst, NODE_SAMPLES_NAME_CAP, "%s.%u", text, attempt);
}

/* Written on a pool thread: the loop does not wait for a disk that is busy. */
struct samples_file {
    struct loop_work work;
    int dir; /* the node's */
    struct buf text;
    char name[NODE_SAMPLES_NAME_CAP];
};

static void samples_work(struct loop_work *w)
{
    struct samples_file *f = CONTAINER_OF(w, struct samples_file, work);

    node_samples_write(f->dir, f->name, f->text.data, f->text.len);
}

static void samples_done(struct loop_work *w, int status)
{
    struct samples_file *f = CONTAINER_OF(w, struct samples_file, work);

    (void)status;
    buf_release(&f->text);
    mem_free(f);
}

void node_samples_text(struct node_live *l, struct node_bytes *ret)
{
    AUTO_BUF struct buf text = BUF_INIT(NODE_MSG_SAMPLES_MAX);
    struct json_w w;

    if (l->series.n == 0 && l->series.pending == 0) {
        return;
    }
    json_w_init(&w, &text, false);
    samples_write(l->node, &w, &l->series);
    if (buf_error(&text) == 0) {
        mem_free(ret->p);
        ret->n = text.len;
        ret->p = buf_take(&text);
    }
}

void node_samples_keep(struct node_live *l)
{
    struct node *n = l->node;
    struct samples_file *f = NULL;
    struct json_w w;

    if ((l->series.n == 0 && l->series.pending == 0) || (f = mem_zalloc(sizeof(*f))) == NULL) {
        return;
    }
    f->dir = n->samples_fd;
    buf_init(&f->text, ANSWER_MAX);
    json_w_init(&w, &f->text, false);
    samples_write(n, &w, &l->series);
    node_samples_name(l->id, l->attempt, f->name);
    if (buf_error(&f->text) != 0 ||
        loop_work_start(&f->work, &n->owner, samples_work, samples_done) != 0) {
        samples_done(&f->work, -ENOMEM);
    }
}

/* ---- small reads ---- */

int node_runs_dirfd(const struct node *n)
{
    return n->runs_fd;
}

int node_spool_dirfd(const struct node *n)
{
    return n->spool_fd;
}

bool node_is_self(const struct node *n, struct str name)
{
    return str_eqs(name, n->settings.node.name);
}

bool node_is_ready(const struct node *n)
{
    return n->ready;
}

bool node_is_draining(const struct node *n)
{
    return n->draining;
}

struct loop *node_loop(struct node *n)
{
    return n->loop;
}

const struct settings *node_settings(const struct node *n)
{
    return &n->settings;
}

struct image_store *node_images(struct node *n)
{
    return n->images_store;
}
