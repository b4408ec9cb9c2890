/* What nothing needs any more: ended runs beyond retention, directories without a run, old layers.
 */
#include <errno.h>
#include <string.h>

#include "agent/node/uv_node_internal.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    REMOVING_MAX = 32, /* asked of the launcher at a time */
    SWEEP_ROUNDS = 60, /* layers: once in so many rounds of retention, an hour */
    AGAIN_MS = 100,    /* more to forget: the next round comes soon */
};

/* ---- run directories ---- */

struct node_removal {
    struct list link;
    struct ulid run;
    uint32_t attempt;
};

static void removals_go_on(struct node *n)
{
    while (n->removing < REMOVING_MAX && !list_empty(&n->removals) && !n->closing) {
        struct node_removal *r = LIST_ITEM(n->removals.next, struct node_removal, link);
        if (sandbox_client_remove_run(n->client, r->run, r->attempt) != 0) {
            return; /* the launcher is busy or gone: the next round goes on */
        }
        n->removing++;
        list_remove(&r->link);
        mem_free(r);
    }
}

void node_removal_add(struct node *n, struct ulid run, uint32_t attempt)
{
    struct node_removal *r = mem_zalloc(sizeof(*r));

    if (r == NULL) {
        node_out_of_memory("a removal");
    }
    r->run = run;
    r->attempt = attempt;
    list_push_back(&n->removals, &r->link);
    removals_go_on(n);
}

void node_on_run_removed(struct node *n, struct ulid run, uint32_t attempt, int rc,
                         const char *text)
{
    char id[ULID_TEXT_CAP];

    if (n->removing > 0) {
        n->removing--;
    }
    if (rc != 0 && rc != -ENOENT) {
        ulid_format(run, id);
        log_warn("the directory of run %s, attempt %u, was not removed: %s", id, attempt, text);
    }
    removals_go_on(n);
}

/* ---- retention ---- */

/* What peers handed over of forgotten runs; it may be large. */
struct outputs_gone {
    struct loop_work work;
    int dir; /* the node's */
    size_t n;
    struct job_store_gone v[];
};

static void outputs_work(struct loop_work *w)
{
    struct outputs_gone *x = CONTAINER_OF(w, struct outputs_gone, work);
    char name[SANDBOX_DIR_CAP];

    for (size_t i = 0; i < x->n; i++) {
        for (uint32_t a = 1; a <= x->v[i].attempts; a++) {
            sandbox_dir_name(x->v[i].id, a, name);
            (void)sys_remove_tree(x->dir, name, NULL); /* most have none */
        }
    }
}

static void outputs_done(struct loop_work *w, int status)
{
    (void)status;
    mem_free(CONTAINER_OF(w, struct outputs_gone, work));
}

static void outputs_remove(struct node *n, const struct job_store_gone *gone, size_t len)
{
    struct outputs_gone *x = len != 0 ? mem_zalloc(sizeof(*x) + len * sizeof(x->v[0])) : NULL;

    if (x == NULL) {
        return; /* nothing, or they stay: nobody finds them */
    }
    x->dir = n->outputs_fd;
    x->n = len;
    memcpy(x->v, gone, len * sizeof(x->v[0]));
    if (loop_work_start(&x->work, &n->owner, outputs_work, outputs_done) != 0) {
        mem_free(x);
    }
}

static void on_gone(void *arg, int status, const struct job_store_gone *gone, size_t len, bool more)
{
    struct node *n = arg;
    char name[ULID_TEXT_CAP];
    char samples[NODE_SAMPLES_NAME_CAP];

    n->retaining = false;
    if (n->closing || status != 0) {
        return;
    }
    for (size_t i = 0; i < len; i++) {
        ulid_format(gone[i].id, name);
        node_spool_remove(n->spool_fd, name);
        node_spool_remove(n->copies_fd, name);
        for (uint32_t a = 1; a <= gone[i].attempts; a++) {
            node_removal_add(n, gone[i].id, a);
            node_samples_name(gone[i].id, a, samples);
            node_spool_remove(n->samples_fd, samples);
        }
    }
    outputs_remove(n, gone, len);
    if (more) {
        loop_timer_start(&n->retain, AGAIN_MS, NODE_RETAIN_MS);
    }
}

void node_retain(struct node *n)
{
    if (!n->ready) {
        return;
    }
    removals_go_on(n);
    /* What was forgotten before is removed first: the list does not grow. */
    if (!n->retaining && list_empty(&n->removals)) {
        n->retaining = true;
        node_asked(job_store_retain(n->store, sys_wall_us(), on_gone, n));
    }
    if (n->retain_rounds++ % SWEEP_ROUNDS == 0) {
        node_layers_sweep(n);
    }
}

void node_clean_free(struct node *n)
{
    while (!list_empty(&n->removals)) {
        struct node_removal *r = LIST_ITEM(n->removals.next, struct node_removal, link);
        list_remove(&r->link);
        mem_free(r);
    }
}

/* ---- directories that the launcher knows and we do not ---- */

struct orphan {
    struct node *node;
    struct ulid run;
    uint32_t attempt;
};

static void on_looked_up(void *arg, int status, const struct run *run, const struct job *spec)
{
    struct orphan o = *(struct orphan *)arg;

    (void)run;
    (void)spec;
    mem_free(arg);
    /* Forgotten by retention (or never durable) before its directory was removed. */
    if (status == -ENOENT && !o.node->closing) {
        node_removal_add(o.node, o.run, o.attempt);
    }
}

void node_orphan_check(struct node *n, struct ulid id, uint32_t attempt)
{
    struct orphan *o = mem_alloc(sizeof(*o));

    if (o == NULL) {
        node_out_of_memory("a look at a directory");
    }
    *o = (struct orphan){ .node = n, .run = id, .attempt = attempt };
    node_asked(job_store_get_run(n->store, id, on_looked_up, o));
}

/* ---- layers ---- */

static void on_diff_ids(void *arg, int status, const struct digest *diff_ids, size_t len,
                        const struct err *e)
{
    struct node *n = arg;

    n->sweeping = false;
    if (n->closing) {
        return;
    }
    if (status == 0) {
        status = sandbox_client_keep_layers(n->client, diff_ids, len);
    }
    if (status != 0) {
        log_warn("unused layers stay: %s", e != NULL ? err_text(e) : err_name(status));
    }
}

void node_layers_sweep(struct node *n)
{
    if (!n->sweeping && !n->closing) {
        n->sweeping = image_store_diff_ids(n->images_store, on_diff_ids, n) == 0;
    }
}
