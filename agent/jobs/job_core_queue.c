#include "agent/jobs/job_core_internal.h"

/* One start costs a job STRIDE / (1 + priority) of virtual time. */
#define STRIDE (UINT64_C(1) << 20)

static void timer_for_wait(struct job_core *c, struct job_entry *e)
{
    uint64_t at = e->queue_deadline_ms;

    if (e->phase == JOB_PH_DELAYED && e->not_before_ms < at) {
        at = e->not_before_ms;
    }
    job_core_set_timer(c, e, at);
}

void job_core_set_timer(struct job_core *c, struct job_entry *e, uint64_t at_ms)
{
    job_pq_remove(&c->timers, &e->timer);
    if (at_ms != UINT64_MAX) {
        e->timer.key = at_ms;
        job_pq_add(&c->timers, &e->timer);
    }
}

void job_core_ready(struct job_core *c, struct job_queue *q)
{
    bool may =
        q->wait.root != NULL && !q->resting && (q->concurrency == 0 || q->active < q->concurrency);

    if (may == q->ready.in) {
        return;
    }
    if (!may) {
        job_pq_remove(&c->ready, &q->ready);
        return;
    }
    /* Who was away has no claim on the time before. */
    if (q->pass < c->vtime) {
        q->pass = c->vtime;
    }
    struct job_entry *first = CONTAINER_OF(q->wait.root, struct job_entry, wait);
    q->ready.key = first->passed >= JOB_PASSED_MAX ? 0 : q->pass;
    job_pq_add(&c->ready, &q->ready);
}

void job_core_wait(struct job_core *c, struct job_entry *e, const struct run *r)
{
    e->elsewhere = false;
    if (!c->recovered) {
        e->phase = JOB_PH_LIMBO;
        list_remove(&e->link);
        list_push_back(&c->limbo, &e->link);
        return;
    }
    c->n_waiting++;
    e->queue->waiting++;
    if (r->retry_at_us > c->now_us) {
        /* The wall clock may have been set back meanwhile: never longer than the policy says. */
        uint64_t most = job_retry_longest_ms(&r->policy);
        uint64_t left = ((uint64_t)(r->retry_at_us - c->now_us) + 999) / 1000;
        e->phase = JOB_PH_DELAYED;
        e->not_before_ms = c->now_ms + (left < most ? left : most);
    } else {
        uint64_t age = r->created_us > 0 ? (uint64_t)r->created_us & ((UINT64_C(1) << 56) - 1) : 0;
        uint64_t rank = e->priority < 100 ? 100U - e->priority : 0;
        e->phase = JOB_PH_WAITING;
        e->wait.key = rank << 56 | age;
        job_pq_add(&e->queue->wait, &e->wait);
        job_core_ready(c, e->queue);
    }
    timer_for_wait(c, e);
}

void job_core_unwait(struct job_core *c, struct job_entry *e)
{
    INSIST(e->phase == JOB_PH_WAITING || e->phase == JOB_PH_DELAYED);
    c->n_waiting--;
    e->queue->waiting--;
    job_pq_remove(&e->queue->wait, &e->wait);
    job_pq_remove(&c->timers, &e->timer);
    job_core_ready(c, e->queue);
}

void job_core_missed(struct job_core *c, struct job_entry *e)
{
    struct job_queue *q = e->queue;

    if (e->passed < JOB_PASSED_MAX) {
        e->passed++;
        c->misses++;
    } else {
        /* It waited long enough: what becomes free now is kept for it. */
        c->misses = JOB_MISSES_MAX;
    }
    q->resting = true;
    if (list_empty(&q->rest)) {
        list_push_back(&c->resting, &q->rest);
    }
    job_core_ready(c, q);
    if (c->wake_ms == UINT64_MAX) {
        c->wake_ms = c->now_ms + JOB_NO_ROOM_MS;
    }
}

void job_core_wake(struct job_core *c)
{
    c->misses = 0;
    c->wake_ms = UINT64_MAX;
    LIST_EACH_SAFE (l, &c->resting) {
        struct job_queue *q = LIST_ITEM(l, struct job_queue, rest);
        list_remove(&q->rest);
        q->resting = false;
        job_core_ready(c, q);
    }
}

static void place(struct job_core *c, struct job_queue *q)
{
    struct job_entry *e = CONTAINER_OF(q->wait.root, struct job_entry, wait);

    if (q->pass > c->vtime) {
        c->vtime = q->pass;
    }
    q->pass += STRIDE / (1U + e->priority);
    job_core_unwait(c, e);
    e->phase = JOB_PH_PLACING;
    q->active++;
    c->n_placing++;
    /* Its key has changed. */
    job_pq_remove(&c->ready, &q->ready);
    job_core_ready(c, q);
    (void)job_core_fx(c, JOB_FX_PLACE, e, job_core_unpack(c, e));
}

void job_core_dispatch(struct job_core *c)
{
    while (c->recovered && (!c->draining || c->drain_forward) && c->misses < JOB_MISSES_MAX &&
           c->ready.root != NULL && c->n_placing < JOB_PLACING_MAX) {
        if (!job_core_has_room(c)) {
            c->more = true;
            return;
        }
        place(c, CONTAINER_OF(c->ready.root, struct job_queue, ready));
    }
}
