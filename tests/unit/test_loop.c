#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#include "common/insist.h"
#include "common/loop/loop.h"

/* What happened, in order. */
static char story[200];

static void tell(const char *what)
{
    size_t n = strlen(story);
    (void)snprintf(story + n, sizeof story - n, "%s ", what);
}

struct fixture {
    uv_loop_t uv;
    struct loop loop;
};

static struct fixture fx;

static int setup(void **state)
{
    (void)state;
    story[0] = '\0';
    if (uv_loop_init(&fx.uv) != 0) {
        return -1;
    }
    return loop_init(&fx.loop, &fx.uv);
}

/* Nothing may be left: uv_loop_close() says -EBUSY otherwise. */
static int teardown(void **state)
{
    (void)state;
    loop_close(&fx.loop);
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    return uv_loop_close(&fx.uv);
}

/* --- deferred calls --- */

static struct loop_defer d1, d2, d3;
static int rounds;

static void say_1(struct loop_defer *d)
{
    (void)d;
    tell("1");
}

static void say_2_cancel_3(struct loop_defer *d)
{
    (void)d;
    tell("2");
    loop_defer_cancel(&d3);
}

static void say_3(struct loop_defer *d)
{
    (void)d;
    tell("3");
}

static void again(struct loop_defer *d)
{
    assert_false(loop_defer_pending(d));
    tell("again");
    if (++rounds < 3) {
        loop_defer_post(&fx.loop, d);
    }
}

static void deferred_calls_come_later_in_order(void **state)
{
    (void)state;
    loop_defer_init(&d1, say_1);
    loop_defer_init(&d2, say_2_cancel_3);
    loop_defer_init(&d3, say_3);
    loop_defer_post(&fx.loop, &d1);
    loop_defer_post(&fx.loop, &d2);
    loop_defer_post(&fx.loop, &d3);
    loop_defer_post(&fx.loop, &d1); /* is pending already */
    assert_true(loop_defer_pending(&d1));
    assert_string_equal(story, "");
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_string_equal(story, "1 2 ");
    assert_false(loop_defer_pending(&d3));
    /* And once more; the loop sleeps in between (uv_run came back). */
    loop_defer_post(&fx.loop, &d3);
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_string_equal(story, "1 2 3 ");
}

static void posting_from_the_call_waits_a_round(void **state)
{
    (void)state;
    rounds = 0;
    loop_defer_init(&d1, again);
    loop_defer_init(&d2, say_1);
    loop_defer_post(&fx.loop, &d1);
    loop_defer_post(&fx.loop, &d2);
    uv_run(&fx.uv, UV_RUN_NOWAIT);
    assert_string_equal(story, "again 1 ");
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_string_equal(story, "again 1 again again ");
}

static void cancelled_calls_let_the_loop_end(void **state)
{
    (void)state;
    loop_defer_init(&d1, say_1);
    loop_defer_post(&fx.loop, &d1);
    loop_defer_cancel(&d1);
    loop_defer_cancel(&d1);
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_string_equal(story, "");
}

/* --- owners and timers --- */

struct owner {
    struct loop_owner owner;
    struct loop_timer a;
    struct loop_timer b;
    uv_pipe_t pipe;
    struct loop_work work;
    unsigned ticks;
    unsigned long worked_on;
    int status;
};

static unsigned freed;

static void owner_closed(struct loop_owner *o)
{
    struct owner *me = CONTAINER_OF(o, struct owner, owner);
    assert_int_equal(o->open, 0);
    tell("closed");
    freed++;
    free(me); /* ASan sees whoever touches it later */
}

static void owner_end(struct owner *me)
{
    loop_owner_close(&me->owner);
    loop_timer_close(&me->a);
    loop_timer_close(&me->b);
}

static void tick(struct loop_timer *t)
{
    struct owner *me = CONTAINER_OF(t, struct owner, a);
    tell("tick");
    if (++me->ticks == 3) {
        owner_end(me);
        owner_end(me);             /* a second call does nothing */
        loop_timer_start(t, 0, 0); /* nor does this */
    }
}

static void once(struct loop_timer *t)
{
    assert_false(loop_timer_active(t));
    tell("once");
}

static struct owner *owner_new(void)
{
    struct owner *me = calloc(1, sizeof *me);
    assert_non_null(me);
    loop_owner_init(&me->owner, &fx.loop, owner_closed);
    loop_timer_init(&me->a, &me->owner, tick);
    loop_timer_init(&me->b, &me->owner, once);
    return me;
}

static void timers_tick_and_close(void **state)
{
    struct owner *me = owner_new();
    (void)state;
    freed = 0;
    loop_timer_start(&me->a, 30, 5);
    loop_timer_start(&me->b, 0, 0);
    assert_true(loop_timer_active(&me->a));
    assert_string_equal(story, ""); /* not inside the call, not even with 0 */
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_string_equal(story, "once tick tick tick closed ");
    assert_int_equal(freed, 1);
}

static void stopped_timers_stay_quiet(void **state)
{
    struct owner *me = owner_new();
    (void)state;
    loop_timer_start(&me->a, 1, 1);
    loop_timer_stop(&me->a);
    loop_timer_stop(&me->a);
    assert_false(loop_timer_active(&me->a));
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_string_equal(story, "");
    owner_end(me);
    assert_string_equal(story, "");
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_string_equal(story, "closed ");
}

static void an_empty_owner_ends_from_the_loop(void **state)
{
    struct owner *me = calloc(1, sizeof *me);
    (void)state;
    assert_non_null(me);
    loop_owner_init(&me->owner, &fx.loop, owner_closed);
    uv_run(&fx.uv, UV_RUN_DEFAULT); /* an idle owner does not keep the loop alive */
    loop_owner_close(&me->owner);
    loop_owner_close(&me->owner);
    assert_string_equal(story, "");
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_string_equal(story, "closed ");
}

static struct owner *owner_with_pipe(void)
{
    struct owner *me = owner_new();
    assert_int_equal(uv_pipe_init(&fx.uv, &me->pipe, 0), 0);
    loop_hold(&me->owner);
    return me;
}

static void close_what_is_held(struct owner *me)
{
    loop_timer_close(&me->b);
    loop_handle_close(&me->owner, (uv_handle_t *)&me->pipe);
    loop_handle_close(&me->owner, (uv_handle_t *)&me->pipe);
    loop_timer_close(&me->a);
}

/* The owner first or last: one end, after both. */
static void any_order_of_closing(void **state)
{
    (void)state;
    freed = 0;
    struct owner *first = owner_with_pipe();
    loop_owner_close(&first->owner);
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_int_equal(freed, 0); /* what it holds is open */
    close_what_is_held(first);
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_int_equal(freed, 1);

    struct owner *last = owner_with_pipe();
    close_what_is_held(last);
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_int_equal(freed, 1); /* it may still start something new */
    loop_owner_close(&last->owner);
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_int_equal(freed, 2);
}

/* --- jobs --- */

static void job(struct loop_work *w)
{
    struct owner *me = CONTAINER_OF(w, struct owner, work);
    me->worked_on = (unsigned long)pthread_self();
}

static void job_done(struct loop_work *w, int status)
{
    struct owner *me = CONTAINER_OF(w, struct owner, work);
    assert_false(w->busy);
    me->status = status;
    tell(status == 0 ? "done" : "cancelled");
    if (status == 0 && ++me->ticks < 2) {
        assert_int_equal(loop_work_start(w, &me->owner, job, job_done), 0);
    }
}

static void jobs_run_elsewhere(void **state)
{
    struct owner *me = owner_new();
    (void)state;
    assert_int_equal(loop_work_start(&me->work, &me->owner, job, job_done), 0);
    assert_true(me->work.busy);
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_string_equal(story, "done done ");
    assert_int_not_equal(me->worked_on, (unsigned long)pthread_self());
    assert_int_equal(loop_work_cancel(&me->work), -EBUSY);
    owner_end(me);
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_string_equal(story, "done done closed ");
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void wait_at_gate(uv_work_t *req)
{
    (void)req;
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
}

/* The owner is closed while its job waits: it is cancelled, reported, and then the owner ends. */
static void cancelled_jobs_report(void **state)
{
    uv_work_t blockers[64];
    struct owner *me = owner_new();
    (void)state;
    pthread_mutex_lock(&gate);
    for (size_t i = 0; i < ARRAY_LEN(blockers); i++) { /* every pool thread is busy */
        assert_int_equal(uv_queue_work(&fx.uv, &blockers[i], wait_at_gate, NULL), 0);
    }
    assert_int_equal(loop_work_start(&me->work, &me->owner, job, job_done), 0);
    owner_end(me);
    assert_int_equal(loop_work_cancel(&me->work), 0);
    assert_string_equal(story, "");
    pthread_mutex_unlock(&gate);
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_string_equal(story, "cancelled closed ");
}

/* A job that runs is waited for. */
static void running_jobs_hold_their_owner(void **state)
{
    struct owner *me = owner_new();
    (void)state;
    me->ticks = 9; /* not again */
    assert_int_equal(loop_work_start(&me->work, &me->owner, job, job_done), 0);
    usleep(50000);
    owner_end(me);
    assert_int_equal(loop_work_cancel(&me->work), -EBUSY);
    uv_run(&fx.uv, UV_RUN_DEFAULT);
    assert_string_equal(story, "done closed ");
}

int main(void)
{
#define WITH_LOOP(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_LOOP(deferred_calls_come_later_in_order),
        WITH_LOOP(posting_from_the_call_waits_a_round),
        WITH_LOOP(cancelled_calls_let_the_loop_end),
        WITH_LOOP(timers_tick_and_close),
        WITH_LOOP(stopped_timers_stay_quiet),
        WITH_LOOP(an_empty_owner_ends_from_the_loop),
        WITH_LOOP(any_order_of_closing),
        WITH_LOOP(jobs_run_elsewhere),
        WITH_LOOP(cancelled_jobs_report),
        WITH_LOOP(running_jobs_hold_their_owner),
    };
    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
