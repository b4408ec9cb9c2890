#include <errno.h>

#include "common/insist.h"
#include "common/loop/loop.h"

/* --- the loop, deferred calls --- */

/* libuv's idle phase comes before it polls, and an active idle handle keeps it from sleeping. */
static void run_deferred(uv_idle_t *idle)
{
    struct loop *l = idle->data;
    struct list round;

    /* What is posted from now on waits for the next round: no call chain can starve the loop. */
    list_init(&round);
    if (!list_empty(&l->deferred)) {
        list_insert_before(&l->deferred, &round);
        list_remove(&l->deferred);
    }
    while (!list_empty(&round)) {
        struct loop_defer *d = LIST_ITEM(round.next, struct loop_defer, link);
        list_remove(&d->link);
        d->fn(d); /* may cancel others of this round, may free d */
    }
    if (list_empty(&l->deferred)) {
        uv_idle_stop(idle);
        l->running = false;
    }
}

int loop_init(struct loop *l, uv_loop_t *uv)
{
    l->uv = uv;
    l->running = false;
    list_init(&l->deferred);
    int r = uv_idle_init(uv, &l->idle);
    l->idle.data = l;
    return r;
}

void loop_close(struct loop *l)
{
    while (!list_empty(&l->deferred)) {
        list_remove(l->deferred.next);
    }
    uv_close((uv_handle_t *)&l->idle, NULL);
}

uint64_t loop_now_ms(const struct loop *l)
{
    return uv_now(l->uv);
}

void loop_defer_init(struct loop_defer *d, loop_defer_fn *fn)
{
    list_init(&d->link);
    d->fn = fn;
}

void loop_defer_post(struct loop *l, struct loop_defer *d)
{
    if (loop_defer_pending(d)) {
        return;
    }
    list_push_back(&l->deferred, &d->link);
    if (!l->running) {
        INSIST(uv_idle_start(&l->idle, run_deferred) == 0);
        l->running = true;
    }
}

void loop_defer_cancel(struct loop_defer *d)
{
    list_remove(&d->link);
}

bool loop_defer_pending(const struct loop_defer *d)
{
    return !list_empty(&d->link);
}

/* --- owners --- */

static void anchor_closed(uv_handle_t *anchor)
{
    struct loop_owner *o = anchor->data;
    o->on_closed(o); /* o may be gone now */
}

static void owner_end_if_over(struct loop_owner *o)
{
    if (o->closing && o->open == 0) {
        uv_close((uv_handle_t *)&o->anchor, anchor_closed);
    }
}

void loop_owner_init(struct loop_owner *o, struct loop *l, loop_closed_fn *on_closed)
{
    o->loop = l;
    o->on_closed = on_closed;
    o->open = 0;
    o->closing = false;
    INSIST(uv_idle_init(l->uv, &o->anchor) == 0);
    o->anchor.data = o;
}

void loop_hold(struct loop_owner *o)
{
    /* Once it is closing only what is held already may hold more: the end may be under way
     * otherwise. */
    REQUIRE(!o->closing || o->open != 0);
    o->open++;
}

void loop_drop(struct loop_owner *o)
{
    REQUIRE(o->open > 0);
    o->open--;
    owner_end_if_over(o);
}

void loop_owner_close(struct loop_owner *o)
{
    if (!o->closing) {
        o->closing = true;
        owner_end_if_over(o);
    }
}

static void held_closed(uv_handle_t *handle)
{
    loop_drop(handle->data);
}

void loop_handle_close(struct loop_owner *o, uv_handle_t *handle)
{
    if (!uv_is_closing(handle)) {
        handle->data = o;
        uv_close(handle, held_closed);
    }
}

/* --- timers --- */

static void timer_fired(uv_timer_t *uv)
{
    struct loop_timer *t = uv->data;
    t->fn(t);
}

static void timer_closed(uv_handle_t *handle)
{
    struct loop_timer *t = handle->data;
    loop_drop(t->owner);
}

void loop_timer_init(struct loop_timer *t, struct loop_owner *o, loop_timer_fn *fn)
{
    t->owner = o;
    t->fn = fn;
    INSIST(uv_timer_init(o->loop->uv, &t->uv) == 0);
    t->uv.data = t;
    loop_hold(o);
}

void loop_timer_start(struct loop_timer *t, uint64_t delay_ms, uint64_t repeat_ms)
{
    if (!uv_is_closing((uv_handle_t *)&t->uv)) {
        INSIST(uv_timer_start(&t->uv, timer_fired, delay_ms, repeat_ms) == 0);
    }
}

void loop_timer_stop(struct loop_timer *t)
{
    (void)uv_timer_stop(&t->uv);
}

bool loop_timer_active(const struct loop_timer *t)
{
    return uv_is_active((const uv_handle_t *)&t->uv) != 0;
}

void loop_timer_close(struct loop_timer *t)
{
    if (!uv_is_closing((uv_handle_t *)&t->uv)) {
        uv_close((uv_handle_t *)&t->uv, timer_closed);
    }
}

/* --- thread-pool jobs --- */

static void work_runs(uv_work_t *req)
{
    struct loop_work *w = req->data;
    w->work(w);
}

static void work_done(uv_work_t *req, int status)
{
    struct loop_work *w = req->data;
    struct loop_owner *o = w->owner;
    w->busy = false;
    w->done(w, status == UV_ECANCELED ? -ECANCELED : 0);
    loop_drop(o); /* last: w lives in what o's end frees */
}

int loop_work_start(struct loop_work *w, struct loop_owner *o, loop_work_fn *work,
                    loop_work_done_fn *done)
{
    REQUIRE(!w->busy);
    w->owner = o;
    w->work = work;
    w->done = done;
    w->req.data = w;
    loop_hold(o);
    w->busy = true;
    int r = uv_queue_work(o->loop->uv, &w->req, work_runs, work_done);
    if (r != 0) {
        w->busy = false;
        loop_drop(o);
    }
    return r;
}

int loop_work_cancel(struct loop_work *w)
{
    if (!w->busy) {
        return -EBUSY;
    }
    return uv_cancel((uv_req_t *)&w->req) == 0 ? 0 : -EBUSY;
}
