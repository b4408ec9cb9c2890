/*
 * Copies that this node keeps: taken in, asked about, read.
 *
 *   POST /v1/peer/replicate   records: files to db/outputs, then all rows in one transaction
 *   PUT  /v1/peer/copy        a large payload (db/copies) or file, ahead of its record
 *   POST /v1/peer/copies      a holder asks an owner that came back: what became of these?
 *   POST /v1/peer/where       who has this run?
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/node/uv_node_copy.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

/* ---- records ---- */

struct holding {
    struct loop_work work;
    struct node *node;
    struct node_query *query;
    char *body; /* what the records point into */
    struct node_copies copies;
    int rc;
};

static void holding_free(struct holding *x)
{
    node_copies_release(&x->copies);
    mem_free(x->body);
    mem_free(x);
}

static void on_stored(void *arg, int status)
{
    struct holding *x = arg;
    struct node *n = x->node;

    if (status == -ENOSPC || status == -EDQUOT) {
        node_query_refuse(x->query, NODE_DISK_FULL, "the disk of this node is full");
    } else if (status != 0) {
        node_query_refuse(x->query, NODE_STARTING, "the copies could not be stored: %s",
                          err_name(status));
    } else {
        node_copy_answer_write(&x->query->text, x->copies.v, x->copies.n);
        node_query_text(x->query);
    }
    for (size_t i = 0; status == 0 && !n->closing && i < x->copies.n; i++) {
        const struct job_replica *v = &x->copies.v[i];
        if (v->doubled) {
            telemetry_count(n->metrics, TELEMETRY_RUNS_MERGED_TOTAL, TELEMETRY_NO_LABELS, 1);
        }
        if (v->former != 0 && v->former != n->id32) {
            node_copy_tell(n, &v->run, v->former); /* it was overruled, and may not know */
        }
        if (v->said == JOB_REPLICA_DEMOTED) {
            node_heir_fenced(n, &v->run);
        }
    }
    holding_free(x);
}

static void files_work(struct loop_work *w)
{
    struct holding *x = CONTAINER_OF(w, struct holding, work);
    struct node *n = x->node;
    char dir[SANDBOX_DIR_CAP];
    char id[ULID_TEXT_CAP];
    struct stat st;
    bool payloads = false;

    for (size_t i = 0; x->rc == 0 && i < x->copies.n; i++) {
        const struct job_replica *v = &x->copies.v[i];
        const struct node_copy_files *f = &x->copies.files[i];
        if (f->has) {
            sandbox_dir_name(v->run.id, v->run.attempt, dir);
            x->rc = node_output_copy(n->outputs_fd, dir, f->v);
        }
        if (v->full && v->run.payload_bytes > v->payload.n && !v->skip) {
            payloads = true;
            (void)node_id_text(v->run.id, id);
            if (fstatat(n->copies_fd, id, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
                (uint64_t)st.st_size != v->run.payload_bytes) {
                x->rc = -ENODATA; /* it did not come ahead of its record */
            }
        }
    }
    if (x->rc == 0 && payloads) {
        x->rc = sys_fsync_dir(n->copies_fd);
    }
}

static void files_done(struct loop_work *w, int status)
{
    struct holding *x = CONTAINER_OF(w, struct holding, work);
    int rc = status != 0 ? status : x->rc;

    if (rc != 0 || x->node->closing) {
        on_stored(x, rc != 0 ? rc : -ECANCELED);
        return;
    }
    node_asked(job_store_replicate(x->node->store, x->copies.v, x->copies.n, on_stored, x));
}

void node_holder_asked(struct node *n, struct node_query *q, struct str from, struct str body)
{
    struct holding *x = mem_zalloc(sizeof(*x));
    struct err e = { .code = 0 };
    bool files = false;

    (void)from;
    if (x == NULL || (x->body = mem_dup(body.n != 0 ? body.p : "", body.n + 1)) == NULL) {
        node_out_of_memory("copies");
    }
    x->node = n;
    x->query = q;
    int rc = node_copy_parse((struct str){ x->body, body.n }, NODE_COPY_BATCH_MAX, &x->copies, &e);
    if (rc != 0 || x->copies.n == 0) {
        node_query_refuse(q, NODE_BAD_JSON, "%s", rc != 0 ? err_text(&e) : "no records");
        holding_free(x);
        return;
    }
    for (size_t i = 0; i < x->copies.n; i++) {
        struct job_replica *v = &x->copies.v[i];
        v->skip = run_owner(&v->run) == n->id32; /* nobody tells us of our own runs */
        files = files || x->copies.files[i].has || (v->full && v->run.payload_bytes > v->payload.n);
    }
    if (files) {
        INSIST(loop_work_start(&x->work, &n->owner, files_work, files_done) == 0);
    } else {
        node_asked(job_store_replicate(n->store, x->copies.v, x->copies.n, on_stored, x));
    }
}

/* ---- files ahead of their record ---- */

int node_peer_copy_put(struct node *n, struct ulid id, uint32_t attempt, struct str file,
                       const char *spool_name)
{
    char dir[SANDBOX_DIR_CAP];
    char name[ULID_TEXT_CAP];
    int rc = -EINVAL;

    if (str_eqs(file, "payload")) {
        rc = renameat(n->spool_fd, spool_name, n->copies_fd, node_id_text(id, name)) == 0 ? 0
                                                                                          : -errno;
    }
    for (size_t i = 0; i < NODE_FILES && rc == -EINVAL; i++) {
        if (str_eqs(file, node_file_names[i])) {
            sandbox_dir_name(id, attempt, dir);
            rc = node_output_move(n->outputs_fd, dir, node_file_names[i], n->spool_fd, spool_name);
        }
    }
    if (rc != 0) {
        node_spool_remove(n->spool_fd, spool_name);
    }
    return rc;
}

/* ---- what became of these? ---- */

struct checking {
    struct node *node;
    struct node_query *query;
    uint32_t holder;
    size_t n, pending;
    struct node_about v[NODE_MSG_CHECK_MAX];
};
struct check_one {
    struct checking *all;
    size_t at;
};

static void check_answered(struct checking *x)
{
    if (--x->pending == 0) {
        node_about_write(&x->query->text, x->v, x->n);
        node_query_text(x->query);
        mem_free(x);
    }
}

static void check_said(struct check_one *one, int status, const struct run *run)
{
    struct checking *x = one->all;

    /* A failure to read is no "nobody knows it". But with a lost or an older disk this node may not
     * know what it said itself: then the holder goes on. */
    bool older = status == 0 && run->epoch < x->v[one->at].epoch;
    x->v[one->at].known = status != -ENOENT && !older;
    if (status == 0 && !older && !x->node->closing) {
        node_copy_tell(x->node, run, x->holder);
    }
    mem_free(one);
    check_answered(x);
}

static void check_copy(void *arg, int status, const struct run *run, const struct job *spec,
                       struct str payload)
{
    (void)spec;
    (void)payload;
    check_said(arg, status, run);
}

static void check_run(void *arg, int status, const struct run *run, const struct job *spec)
{
    struct check_one *one = arg;
    struct node *n = one->all->node;

    (void)spec;
    if (status == -ENOENT && !n->closing) {
        node_asked(job_store_get_copy(n->store, one->all->v[one->at].id, check_copy, one));
    } else {
        check_said(one, status, run);
    }
}

void node_holder_checked(struct node *n, struct node_query *q, struct str from, struct str body)
{
    struct checking *x = mem_zalloc(sizeof(*x));
    struct err e = { .code = 0 };

    if (x == NULL) {
        node_out_of_memory("a holder's question");
    }
    if (node_about_parse(body, x->v, NODE_MSG_CHECK_MAX, &x->n, &e) != 0) {
        node_query_refuse(q, NODE_BAD_JSON, "%s", err_text(&e));
        mem_free(x);
        return;
    }
    x->node = n;
    x->query = q;
    x->holder = node_id_of(from);
    x->pending = 1;
    for (size_t i = 0; i < x->n; i++) {
        struct run now;
        x->v[i].known = job_core_run(node_core_jobs(n->core), x->v[i].id, &now) &&
                        !run_is_ended(&now) && now.epoch >= x->v[i].epoch;
        if (x->v[i].known) {
            node_copy_tell(n, &now, x->holder);
            continue;
        }
        struct check_one *one = mem_alloc(sizeof(*one));
        if (one == NULL) {
            node_out_of_memory("a holder's question");
        }
        *one = (struct check_one){ .all = x, .at = i };
        x->pending++;
        node_asked(job_store_get_run(n->store, x->v[i].id, check_run, one));
    }
    check_answered(x);
}

struct asked {
    struct node *node;
    char owner[RUN_NODE_CAP];
    struct ulid last;
    bool more;
};

static void ask_some(struct node *n, const char *owner, struct ulid after);

static void on_checked(void *arg, const struct node_call_end *end)
{
    struct asked a = *(struct asked *)arg;
    struct node *n = a.node;
    struct node_about *v = mem_calloc(NODE_MSG_CHECK_MAX, sizeof(*v));
    size_t len = 0;

    mem_free(arg);
    if (v != NULL && end->rc == 0 &&
        node_about_parse(end->text, v, NODE_MSG_CHECK_MAX, &len, NULL) == 0) {
        for (size_t i = 0; i < len; i++) {
            if (!v[i].known) {
                node_heir_take_id(n, v[i].id);
            }
        }
        if (a.more) {
            ask_some(n, a.owner, a.last);
        }
    }
    mem_free(v);
}

static void on_copies(void *arg, int status, const struct run *runs, size_t len, bool more)
{
    struct asked *a = arg;
    struct node *n = a->node;
    AUTO_BUF struct buf body = BUF_INIT(NODE_MSG_MAX);
    struct node_about *v = mem_calloc(len + 1, sizeof(*v));

    if (v == NULL) {
        node_out_of_memory("a question about copies");
    }
    if (status != 0 || len == 0 || n->closing) {
        mem_free(v);
        mem_free(a);
        return;
    }
    for (size_t i = 0; i < len; i++) {
        v[i] = (struct node_about){ runs[i].id, runs[i].epoch, runs[i].attempt, false };
    }
    a->last = runs[len - 1].id;
    a->more = more;
    node_about_write(&body, v, len);
    (void)node_call_post(n, a->owner, "/v1/peer/copies", &body, NODE_REPORT_MS, on_checked, a);
    mem_free(v);
}

static void ask_some(struct node *n, const char *owner, struct ulid after)
{
    struct asked *a = mem_zalloc(sizeof(*a));

    if (a == NULL) {
        node_out_of_memory("a question about copies");
    }
    a->node = n;
    (void)str_copy(a->owner, sizeof(a->owner), str_of(owner));
    node_asked(job_store_copies(n->store, node_id_of(str_of(owner)), after, NODE_MSG_CHECK_MAX,
                                on_copies, a));
}

void node_holder_check(struct node *n, const char *owner)
{
    ask_some(n, owner, (struct ulid){ { 0 } });
}

/* ---- who has it? ---- */

struct where {
    struct node *node;
    struct node_query *query;
    struct ulid id;
};

static void where_say(struct where *x, const char *have, const struct run *run)
{
    struct json_w w;

    json_w_init(&w, &x->query->text, false);
    json_w_obj(&w);
    json_kv_u64(&w, "v", 1);
    json_kv_cstr(&w, "have", have);
    if (run != NULL) {
        json_w_key(&w, "run");
        run_to_record(&w, run);
    }
    json_w_end(&w);
    node_query_text(x->query);
    mem_free(x);
}

static void where_copy(void *arg, int status, const struct run *run, const struct job *spec,
                       struct str payload)
{
    (void)spec;
    (void)payload;
    where_say(arg, status == 0 ? "copy" : "none", status == 0 ? run : NULL);
}

static void where_run(void *arg, int status, const struct run *run, const struct job *spec)
{
    struct where *x = arg;

    (void)spec;
    if (status == 0) {
        where_say(x, "run", run);
    } else if (x->node->closing) {
        where_say(x, "none", NULL);
    } else {
        node_asked(job_store_get_copy(x->node->store, x->id, where_copy, x));
    }
}

void node_holder_where(struct node *n, struct node_query *q, struct str body)
{
    struct where *x = mem_zalloc(sizeof(*x));
    struct node_about about;
    struct err e = { .code = 0 };
    size_t len = 0;

    if (x == NULL) {
        node_out_of_memory("a question");
    }
    if (node_about_parse(body, &about, 1, &len, &e) != 0 || len != 1) {
        node_query_refuse(q, NODE_BAD_JSON, "%s", err_text(&e));
        mem_free(x);
        return;
    }
    *x = (struct where){ .node = n, .query = q, .id = about.id };
    node_asked(job_store_get_run(n->store, x->id, where_run, x));
}
