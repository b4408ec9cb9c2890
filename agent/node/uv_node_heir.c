/*
 * Owners that die, and come back.
 *
 *   gossip: dead ─> copies of its unfinished runs ─ are we the first live holder? ─> payload to
 *   spool/ ─> the copy becomes a run of ours, with the next epoch ─> queue: its attempt is taken up
 *   where it runs, or is lost and placed again ─> holders
 *
 *   started again ─> the holders of every unfinished run are told it ─ kept ─> it is still ours
 *                                                                    └ refused ─> fenced
 *   a split heals ─> both sides tell each other what they own: the record that does not stand is
 *   given up, and kept aside when it had come to an end
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "agent/node/uv_node_copy.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    HEIRS_MAX = 128,          /* taken over at a time */
    LOOK_MS = 1000,           /* between two looks for dead owners */
    LEFT_MS = 10 * 1000,      /* a node that left may only have been started again */
    ASK_MS = 60 * 1000,       /* between two questions about an owner's unfinished copies */
    STRANGERS_MS = 60 * 1000, /* between two looks for owners that nobody knows of */
    RETURN_MS = 3000,         /* after a start: the holders' word is waited for */
};

struct heir {
    struct list link;
    struct node *node;
    struct loop_work work;
    struct run run; /* as it will be */
    struct node_doc *doc;
    char *payload;
    size_t payload_len;
    int rc;
};

static void scan_next(struct node *n);

static void heir_over(struct heir *x)
{
    struct node *n = x->node;

    list_remove(&x->link);
    n->heirs_len--;
    node_doc_unref(x->doc);
    mem_free(x->payload);
    mem_free(x);
    if (n->heirs_len == 0 && !n->closing) {
        scan_next(n);
    }
}

/* ---- going on with a run ---- */

/* May the attempt still be where the record says? */
static bool is_there(struct node *n, const struct run *run)
{
    const struct node_place *p = node_place_find(n, str_of(run->node));

    if (run->state != RUN_PREPARING && run->state != RUN_RUNNING) {
        return false;
    }
    return node_is_self(n, str_of(run->node)) ? node_guest_has(n, run->id, run->attempt)
                                              : p != NULL && p->alive;
}

static void on_adopted(void *arg, int status)
{
    struct heir *x = arg;
    struct node *n = x->node;
    struct job_event ev = {
        .type = JOB_EV_TAKE, .id = x->run.id, .attempt = x->run.attempt, .run = &x->run
    };
    char id[ULID_TEXT_CAP];

    if (status != 0 || n->closing) {
        if (status != 0 && status != -ESTALE && status != -ENOENT) {
            log_error("run %s could not be taken over: %s", node_id_text(x->run.id, id),
                      err_name(status));
        }
        heir_over(x);
        return;
    }
    telemetry_count(n->metrics, TELEMETRY_RUNS_TAKEN_OVER_TOTAL, TELEMETRY_NO_LABELS, 1);
    log_info("run %s is this node's now (epoch %u): its owner is gone", node_id_text(x->run.id, id),
             x->run.epoch);
    if (x->doc != NULL) {
        node_docs_put(&n->docs, str_of(id), x->doc);
    }
    node_copy_own(n, &x->run);
    ev.elsewhere = is_there(n, &x->run);
    ev.node = x->run.node;
    if (ev.elsewhere) {
        node_remote_adopt(n, &x->run);
    }
    node_feed_job(n, &ev);
    heir_over(x);
}

static void payload_work(struct loop_work *w)
{
    struct heir *x = CONTAINER_OF(w, struct heir, work);
    struct node *n = x->node;
    char id[ULID_TEXT_CAP];

    (void)node_id_text(x->run.id, id);
    if (x->payload_len != 0) {
        x->rc = node_spool_keep(n->spool_fd, NULL, x->payload, x->payload_len, id);
        return;
    }
    x->rc = linkat(n->copies_fd, id, n->spool_fd, id, 0) == 0 || errno == EEXIST ? 0 : -errno;
    x->rc = x->rc == 0 ? sys_fsync_dir(n->spool_fd) : x->rc;
}

static void adopt(struct heir *x)
{
    node_asked(job_store_adopt(x->node->store, &x->run, on_adopted, x));
}

static void payload_done(struct loop_work *w, int status)
{
    struct heir *x = CONTAINER_OF(w, struct heir, work);
    char id[ULID_TEXT_CAP];

    if (status != 0 || x->rc != 0 || x->node->closing) {
        if (!x->node->closing) {
            log_error("run %s is not taken over: its payload: %s", node_id_text(x->run.id, id),
                      err_name(x->rc));
        }
        heir_over(x);
        return;
    }
    adopt(x);
}

static void on_copy(void *arg, int status, const struct run *run, const struct job *spec,
                    struct str payload)
{
    struct heir *x = arg;
    struct node *n = x->node;
    uint32_t live[NODE_MEMBERS_MAX];
    uint32_t holders[RUN_HOLDERS_MAX];

    if (status != 0 || n->closing || run_is_ended(run)) {
        heir_over(x);
        return;
    }
    x->run = *run;
    struct job *copy = spec != NULL ? job_dup(spec) : NULL;
    x->doc = copy != NULL ? node_doc_new(copy) : NULL;
    x->payload = payload.n != 0 ? mem_dup(payload.p, payload.n) : NULL;
    x->payload_len = payload.n;
    size_t len = node_live_ids(n, live, NODE_MEMBERS_MAX);
    size_t want = (size_t)n->settings.store.replicas - 1;
    len = job_replica_holders(run->id, n->id32, live, len, holders, want);
    if (len < RUN_HOLDERS_MAX) {
        holders[len++] = run_owner(run); /* it has to hear of this when it comes back */
    }
    job_replica_take_over(&x->run, n->id32, holders, len);
    if (run->payload_bytes == 0) {
        adopt(x);
    } else {
        INSIST(loop_work_start(&x->work, &n->owner, payload_work, payload_done) == 0);
    }
}

void node_heir_take_id(struct node *n, struct ulid id)
{
    LIST_EACH (pos, &n->heirs) {
        if (ulid_eq(LIST_ITEM(pos, struct heir, link)->run.id, id)) {
            return;
        }
    }
    struct heir *x = mem_zalloc(sizeof(*x));
    if (x == NULL) {
        node_out_of_memory("a run that is taken over");
    }
    x->node = n;
    x->run.id = id;
    list_push_back(&n->heirs, &x->link);
    n->heirs_len++;
    node_asked(job_store_get_copy(n->store, id, on_copy, x));
}

/* ---- whose runs? ---- */

/* Nobody who could still end it is there, and we are next. */
static bool is_ours(const struct node *n, const struct run *run)
{
    uint32_t live[NODE_MEMBERS_MAX];
    uint64_t keep = n->settings.store.retention_ms;
    int64_t age_us = sys_wall_us() - run->created_us;

    if (node_place_by_id(n, run_owner(run)) != NULL || run_owner(run) == n->id32 || n->draining) {
        return false;
    }
    if (keep != 0 && age_us > 0 && (uint64_t)age_us / 1000 > keep) {
        return false; /* its end may have been forgotten by everybody */
    }
    size_t len = node_live_ids(n, live, NODE_MEMBERS_MAX);
    uint32_t heir = job_replica_heir(run, live, len);
    return heir == n->id32 || heir == 0;
}

static void on_some(void *arg, int status, const struct run *runs, size_t len, bool more)
{
    struct node *n = arg;

    n->heir_scan = false;
    n->heir_more = status == 0 && more;
    if (status != 0 || n->closing) {
        return;
    }
    for (size_t i = 0; i < len; i++) {
        n->heir_after = runs[i].id;
        if (is_ours(n, &runs[i])) {
            node_heir_take_id(n, runs[i].id);
        }
    }
    if (n->heirs_len == 0) {
        scan_next(n);
    }
}

static void scan(struct node *n, uint32_t owner, struct ulid after)
{
    n->heir_scan = true;
    n->heir_owner = owner;
    n->heir_more = false;
    node_asked(job_store_copies(n->store, owner, after, HEIRS_MAX, on_some, n));
}

static void scan_next(struct node *n)
{
    if (!n->heir_scan && n->heir_more) {
        scan(n, n->heir_owner, n->heir_after);
    }
}

static bool is_scanning(const struct node *n)
{
    return n->heir_scan || n->heir_more || n->heirs_len != 0;
}

void node_heir_gone(struct node *n, uint32_t owner)
{
    if (n->ready && !n->closing && !is_scanning(n)) {
        scan(n, owner, (struct ulid){ { 0 } });
    }
}

/* Who is no holder of a run any more still has a copy: it hears of its end like this, before its
 * owner dies and the copy is all that it knows. */
static void ask_owners(struct node *n, uint64_t now)
{
    LIST_EACH (pos, &n->places) {
        struct node_place *p = LIST_ITEM(pos, struct node_place, link);
        if (p->alive && !p->hidden && now - p->asked_ms >= ASK_MS) {
            p->asked_ms = now;
            node_holder_check(n, p->name);
            return;
        }
    }
}

/* The dead ones in turn; sometimes whoever is in no list of members any more. */
void node_heir_look(struct node *n)
{
    uint64_t now = loop_now_ms(n->loop);

    if (is_scanning(n) || now < n->heir_ms) {
        return;
    }
    n->heir_ms = now + LOOK_MS;
    ask_owners(n, now);
    if (now >= n->strangers_ms && node_core_settled(n->core, now)) {
        n->strangers_ms = now + STRANGERS_MS;
        scan(n, 0, (struct ulid){ { 0 } });
        return;
    }
    struct node_place *next = NULL;
    LIST_EACH (pos, &n->places) {
        struct node_place *p = LIST_ITEM(pos, struct node_place, link);
        uint64_t since = p->gone_ms + (p->state != NULL && p->state[0] == 'l' ? LEFT_MS : 0);
        if (!p->alive && !p->hidden && now >= since &&
            (next == NULL || p->scanned_ms < next->scanned_ms)) {
            next = p;
        }
    }
    if (next != NULL) {
        next->scanned_ms = now;
        scan(n, node_id_of(str_of(next->name)), (struct ulid){ { 0 } });
    }
}

/* ---- somebody else's ---- */

void node_heir_fenced(struct node *n, const struct run *stands)
{
    struct job_event ev = { .type = JOB_EV_FENCED, .id = stands->id };
    struct node_copy *c = node_copy_find(n, stands->id);
    const char *name = node_core_peer_name(n->core, run_owner(stands));
    char id[ULID_TEXT_CAP];
    struct run now;

    if (job_core_run(node_core_jobs(n->core), stands->id, &now)) {
        log_warn("run %s is '%s's now (epoch %u): this node lets it go",
                 node_id_text(stands->id, id), name != NULL ? name : "another node", stands->epoch);
    }
    node_remote_drop(n, stands->id);
    node_feed_job(n, &ev);
    node_live_drop(n, stands->id);
    if (c != NULL && c->run == NULL) {
        node_copy_free(c);
    }
    node_watchers_tell(n, stands);
}

struct yielding {
    struct node *node;
    struct buf record;
    struct job_replica v;
};

static void on_yielded(void *arg, int status)
{
    struct yielding *y = arg;
    struct node *n = y->node;

    if (status == 0 && y->v.doubled) {
        telemetry_count(n->metrics, TELEMETRY_RUNS_MERGED_TOTAL, TELEMETRY_NO_LABELS, 1);
    }
    if (!n->closing && status == 0 &&
        (y->v.said == JOB_REPLICA_DEMOTED || y->v.said == JOB_REPLICA_KEPT)) {
        node_heir_fenced(n, &y->v.run);
    }
    buf_release(&y->record);
    mem_free(y);
}

void node_heir_refused(struct node *n, const struct run *stands)
{
    struct yielding *y = mem_zalloc(sizeof(*y));
    struct json_w w;

    if (y == NULL) {
        node_out_of_memory("a record");
    }
    y->node = n;
    y->v.run = *stands;
    buf_init(&y->record, 64 * 1024);
    json_w_init(&w, &y->record, false);
    run_to_record(&w, stands);
    y->v.record = buf_str(&y->record);
    node_asked(job_store_replicate(n->store, &y->v, 1, on_yielded, y));
}

/* ---- after a start ---- */

void node_heir_return(struct node *n)
{
    uint64_t now = loop_now_ms(n->loop);

    if (n->returned_ms == 0) {
        n->returned_ms = now + RETURN_MS;
    }
    if (node_copy_is_settled(n) || now >= n->returned_ms) {
        n->returned_ms = UINT64_MAX;
        (void)sandbox_client_adopt(n->client);
    }
}

void node_heirs_free(struct node *n)
{
    while (!list_empty(&n->heirs)) {
        struct heir *x = LIST_ITEM(n->heirs.next, struct heir, link);
        list_remove(&x->link);
        node_doc_unref(x->doc);
        mem_free(x->payload);
        mem_free(x);
    }
}
