/*
 * loop - what every owner of libuv handles needs: close counting, timers, deferred calls,
 * thread-pool jobs. One thread: everything here is called on the loop's thread (except a job's work
 * function).
 *
 * Two promises. No callback fires inside the call that registered it. An owner's on_closed fires
 * exactly once, from the loop, after the last close callback of what it holds; it may free the
 * owner.
 *
 *   struct conn { struct loop_owner owner; uv_tcp_t tcp; struct loop_timer idle; … };
 *   loop_owner_init(&c->owner, l, conn_closed);       count 0
 *   loop_timer_init(&c->idle, &c->owner, conn_idle);   count 1
 *   uv_tcp_init(l->uv, &c->tcp); loop_hold(&c->owner); count 2
 *   loop_owner_close(&c->owner);                       nothing may be started from here on
 *   loop_timer_close(&c->idle);
 *   loop_handle_close(&c->owner, (uv_handle_t *)&c->tcp);
 *   … later, from the loop: conn_closed(&c->owner), which frees c.
 */
#ifndef COMMON_LOOP_LOOP_H
#define COMMON_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/list.h"

/* One per uv_loop_t; outlives all that uses it. */
struct loop {
    uv_loop_t *uv;
    uv_idle_t idle;       /* runs while something is deferred */
    struct list deferred; /* struct loop_defer */
    bool running;         /* idle is started */
};

/* 0 or -Exxx. uv stays the caller's. */
int loop_init(struct loop *l, uv_loop_t *uv);
/* Deferred calls that are left are dropped. Then run uv_run() until it returns 0. */
void loop_close(struct loop *l);
/* The loop's cached time. */
uint64_t loop_now_ms(const struct loop *l);

/* --- owners --- */

struct loop_owner;
typedef void loop_closed_fn(struct loop_owner *o);

struct loop_owner {
    struct loop *loop;
    uv_idle_t anchor; /* never runs; its close callback makes the end come from the loop */
    loop_closed_fn *on_closed;
    unsigned open; /* handles and jobs that are not closed yet */
    bool closing;
};

void loop_owner_init(struct loop_owner *o, struct loop *l, loop_closed_fn *on_closed);
/* One more, one less thing to wait for. */
void loop_hold(struct loop_owner *o);
void loop_drop(struct loop_owner *o);
/* From now on on_closed fires as soon as nothing is held. A second call does nothing. */
void loop_owner_close(struct loop_owner *o);
/* uv_close() and loop_drop() when it is closed; sets handle->data to o. For handles that
 * loop_hold() counted. A second call does nothing. */
void loop_handle_close(struct loop_owner *o, uv_handle_t *handle);

/* --- timers --- */

struct loop_timer;
typedef void loop_timer_fn(struct loop_timer *t);

struct loop_timer {
    uv_timer_t uv;
    struct loop_owner *owner;
    loop_timer_fn *fn; /* CONTAINER_OF(t, …) leads to the owner's struct */
};

void loop_timer_init(struct loop_timer *t, struct loop_owner *o, loop_timer_fn *fn); /* holds */
/* (Re)starts: once after delay_ms, then every repeat_ms (0: once only). Does nothing on a closed
 * one. */
void loop_timer_start(struct loop_timer *t, uint64_t delay_ms, uint64_t repeat_ms);
void loop_timer_stop(struct loop_timer *t);
bool loop_timer_active(const struct loop_timer *t);
void loop_timer_close(struct loop_timer *t); /* a second call does nothing */

/* --- deferred calls --- */

struct loop_defer;
typedef void loop_defer_fn(struct loop_defer *d);

/* Lives in the caller's struct; no handle, nothing to close. Cancel it before freeing. */
struct loop_defer {
    struct list link;
    loop_defer_fn *fn;
};

void loop_defer_init(struct loop_defer *d, loop_defer_fn *fn);
/* fn runs once, soon, from the loop, in the order of posting. Posting it again before it ran
 * does nothing; posting it from fn runs it in the next round. */
void loop_defer_post(struct loop *l, struct loop_defer *d);
void loop_defer_cancel(struct loop_defer *d);
bool loop_defer_pending(const struct loop_defer *d);

/* --- thread-pool jobs --- */

struct loop_work;
typedef void loop_work_fn(struct loop_work *w);                  /* on a pool thread */
typedef void loop_work_done_fn(struct loop_work *w, int status); /* on the loop; 0 or -ECANCELED */

struct loop_work {
    uv_work_t req;
    struct loop_owner *owner;
    loop_work_fn *work;
    loop_work_done_fn *done;
    bool busy; /* from start until just before done */
};

/* Holds the owner until done returned. 0 or -Exxx; w must not be busy. done may start it again. */
int loop_work_start(struct loop_work *w, struct loop_owner *o, loop_work_fn *work,
                    loop_work_done_fn *done);
/* 0: it had not begun, done comes with -ECANCELED. -EBUSY: it runs (or ran), done comes with 0. */
int loop_work_cancel(struct loop_work *w);

#endif
