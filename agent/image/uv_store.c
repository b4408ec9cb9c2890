/*
 * The store on the loop: each call is one job of the thread pool that answers from the loop.
 */
#include <errno.h>
#include <string.h>

#include "agent/image/store_internal.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"

enum { PRUNE_EVERY_MS = 300000, LIST_MAX = 64 << 20 };

struct store_op {
    struct loop_work work;
    struct image_store *store;
    void (*run)(struct store_op *op);  /* on a pool thread */
    void (*done)(struct store_op *op); /* on the loop */
    int status;
    struct err error;
    void *arg;
    struct image_ref ref;
    union {
        image_resolve_fn *resolve;
        image_text_fn *text;
        image_pruned_fn *pruned;
        image_diff_ids_fn *diff_ids;
    } fn;
    /* results */
    struct image_resolved *image;
    struct image_pruned pruned;
    struct buf text;
    struct digest *diff_ids;
    size_t diff_ids_len;
};

static void op_work(struct loop_work *w)
{
    struct store_op *op = CONTAINER_OF(w, struct store_op, work);
    op->run(op);
    if (op->status < 0 && op->error.code == 0) {
        err_set(&op->error, op->status, "image store");
    }
}

static void op_done(struct loop_work *w, int status)
{
    struct store_op *op = CONTAINER_OF(w, struct store_op, work);
    if (status < 0) {
        op->status = err_set(&op->error, status, "image store");
    }
    op->done(op);
    image_resolved_free(op->image);
    buf_release(&op->text);
    mem_free(op->diff_ids);
    mem_free(op);
}

static struct store_op *op_new(struct image_store *s, void (*run)(struct store_op *),
                               void (*done)(struct store_op *), void *arg)
{
    struct store_op *op = s->closing ? NULL : mem_zalloc(sizeof(*op));
    if (op != NULL) {
        op->store = s;
        op->run = run;
        op->done = done;
        op->arg = arg;
        buf_init(&op->text, LIST_MAX);
    }
    return op;
}

/* Takes op over. */
static int op_start(struct image_store *s, struct store_op *op)
{
    if (op == NULL) {
        return s->closing ? -ESHUTDOWN : -ENOMEM;
    }
    int r = loop_work_start(&op->work, &s->owner, op_work, op_done);
    if (r < 0) {
        mem_free(op);
        return -ENOMEM;
    }
    return 0;
}

/* ---- resolve -----------------------------------------------------------------------------------
 */

static void resolve_run(struct store_op *op)
{
    op->status = image_store_resolve_now(op->store, &op->ref, &op->image, &op->error);
}

static void resolve_done(struct store_op *op)
{
    op->fn.resolve(op->arg, op->status, TAKE(op->image), &op->error);
}

int image_store_resolve(struct image_store *s, const struct image_ref *ref, image_resolve_fn *fn,
                        void *arg)
{
    struct store_op *op = op_new(s, resolve_run, resolve_done, arg);
    if (op != NULL) {
        op->ref = *ref;
        op->fn.resolve = fn;
    }
    return op_start(s, op);
}

/* ---- list
 * ---------------------------------------------------------------------------------------- */

static void list_run(struct store_op *op)
{
    op->status = image_store_list_json(op->store, &op->text, &op->error);
}

static void list_done(struct store_op *op)
{
    op->fn.text(op->arg, op->status, op->status < 0 ? STR("") : buf_str(&op->text), &op->error);
}

int image_store_list(struct image_store *s, image_text_fn *fn, void *arg)
{
    struct store_op *op = op_new(s, list_run, list_done, arg);
    if (op != NULL) {
        op->fn.text = fn;
    }
    return op_start(s, op);
}

static void diff_ids_run(struct store_op *op)
{
    op->status = image_store_list_diff_ids(op->store, &op->diff_ids, &op->diff_ids_len, &op->error);
}

static void diff_ids_done(struct store_op *op)
{
    op->fn.diff_ids(op->arg, op->status, op->diff_ids, op->diff_ids_len, &op->error);
}

int image_store_diff_ids(struct image_store *s, image_diff_ids_fn *fn, void *arg)
{
    struct store_op *op = op_new(s, diff_ids_run, diff_ids_done, arg);
    if (op != NULL) {
        op->fn.diff_ids = fn;
    }
    return op_start(s, op);
}

/* ---- removing
 * -------------------------------------------------------------------------------------- */

static void delete_run(struct store_op *op)
{
    op->status = image_store_delete_now(op->store, &op->ref, &op->pruned, &op->error);
}

static void prune_run(struct store_op *op)
{
    op->status = image_store_collect(op->store, true, &op->pruned, &op->error);
}

static void pruned_done(struct store_op *op)
{
    op->fn.pruned(op->arg, op->status, &op->pruned, &op->error);
}

int image_store_delete(struct image_store *s, const struct image_ref *ref, image_pruned_fn *fn,
                       void *arg)
{
    struct store_op *op = op_new(s, delete_run, pruned_done, arg);
    if (op != NULL) {
        op->ref = *ref;
        op->fn.pruned = fn;
    }
    return op_start(s, op);
}

int image_store_prune(struct image_store *s, image_pruned_fn *fn, void *arg)
{
    struct store_op *op = op_new(s, prune_run, pruned_done, arg);
    if (op != NULL) {
        op->fn.pruned = fn;
    }
    return op_start(s, op);
}

/* ---- by itself
 * --------------------------------------------------------------------------------------- */

static void auto_prune_run(struct store_op *op)
{
    op->status = image_store_collect(op->store, false, &op->pruned, &op->error);
}

static void auto_prune_done(struct store_op *op)
{
    op->store->pruning = false;
    if (op->status == -ECANCELED) {
        return;
    }
    if (op->status < 0) {
        log_warn("cannot clean the image store: %s", err_text(&op->error));
    } else if (op->pruned.blobs > 0) {
        log_info("image store: removed %llu images and %llu blobs, %llu bytes",
                 (unsigned long long)op->pruned.images, (unsigned long long)op->pruned.blobs,
                 (unsigned long long)op->pruned.bytes);
    }
}

static void sweep_run(struct store_op *op)
{
    image_store_sweep(op->store);
}

static void sweep_done(struct store_op *op)
{
    op->store->pruning = false;
}

static void start_by_itself(struct image_store *s, void (*run)(struct store_op *),
                            void (*done)(struct store_op *))
{
    if (!s->pruning) {
        s->pruning = op_start(s, op_new(s, run, done, NULL)) == 0;
    }
}

static void prune_due(struct loop_timer *t)
{
    struct image_store *s = CONTAINER_OF(t, struct image_store, prune_timer);
    start_by_itself(s, auto_prune_run, auto_prune_done);
}

/* ---- beginning and end
 * --------------------------------------------------------------------------------- */

static void store_closed(struct loop_owner *o)
{
    struct image_store *s = CONTAINER_OF(o, struct image_store, owner);
    void (*on_closed)(void *arg) = s->on_closed;
    void *arg = s->on_closed_arg;
    image_store_release(s);
    mem_free(s);
    if (on_closed != NULL) {
        on_closed(arg);
    }
}

int image_store_open(struct loop *l, const struct image_store_options *opt,
                     struct image_store **ret, struct err *e)
{
    struct image_store *s = mem_zalloc(sizeof(*s));
    if (s == NULL) {
        return err_set(e, -ENOMEM, "open the image store");
    }
    int r = image_store_init(s, opt, e);
    if (r < 0) {
        mem_free(s);
        err_prefix(e, "image store");
        return r;
    }
    loop_owner_init(&s->owner, l, store_closed);
    loop_timer_init(&s->prune_timer, &s->owner, prune_due);
    loop_timer_start(&s->prune_timer, PRUNE_EVERY_MS, PRUNE_EVERY_MS);
    start_by_itself(s, sweep_run, sweep_done);
    *ret = s;
    return 0;
}

void image_store_close(struct image_store *s, void (*on_closed)(void *arg), void *arg)
{
    REQUIRE(!s->closing);
    s->closing = true;
    s->on_closed = on_closed;
    s->on_closed_arg = arg;
    loop_timer_close(&s->prune_timer);
    loop_owner_close(&s->owner);
}
