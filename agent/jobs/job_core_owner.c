/* Runs that change their owner (agent/jobs/replica.h). */
#include <errno.h>
#include <string.h>

#include "agent/jobs/job_core_internal.h"
#include "common/insist.h"

/* What the dead owner's attempt came to: the same as when an executor is lost. */
static void attempt_lost(struct job_core *c, struct job_entry *e)
{
    struct run *r = job_core_unpack(c, e);
    const struct job_result lost = {
        .reason = RUN_REASON_NODE_LOST,
        .exit_code = -1,
        .innocent = r->state != RUN_RUNNING,
        .started_us = r->started_us,
        .detail = "its owner went down, and the attempt with it",
    };

    list_remove(&e->link);
    e->elsewhere = true; /* for the policy: it did run on another node */
    if (r->state != RUN_QUEUED) {
        job_core_attempt_over(c, e, r, &lost);
    } else {
        /* The copy may be behind by a placement: whoever has that attempt is not met again. */
        r->attempt += r->attempt < RUN_ATTEMPT_MAX ? 1 : 0;
        job_core_pack(e, r);
        (void)job_core_store(c, e, r, false);
        (void)job_core_fx(c, JOB_FX_CHANGED, e, r);
        job_core_wait(c, e, r);
    }
    e->elsewhere = false;
}

static void on_take(struct job_core *c, const struct job_event *ev)
{
    struct job_entry *e = NULL;

    REQUIRE(!run_is_ended(ev->run));
    if (job_core_find(c, &ev->run->id) != NULL || job_core_enter(c, ev->run, &e) != 0) {
        return; /* no room in memory: the store has it, and the next start takes it up */
    }
    uint64_t timeout = ev->run->policy.queue_timeout_ms;
    e->queue_deadline_ms = timeout == 0 ? UINT64_MAX : c->now_ms + timeout;
    e->cancel_stored = ev->run->cancel_asked != 0;
    e->phase = JOB_PH_LIMBO;
    list_push_back(&c->limbo, &e->link);
    if (ev->elsewhere) {
        job_core_held(c, ev);
    }
    if (e->phase == JOB_PH_LIMBO && c->recovered) {
        attempt_lost(c, e);
    }
}

static void on_fence(struct job_core *c, const struct job_event *ev)
{
    struct job_entry *e = job_core_find(c, &ev->id);

    if (e == NULL) {
        return;
    }
    switch ((enum job_phase)e->phase) {
    case JOB_PH_STORING:
        c->n_storing--;
        break;
    case JOB_PH_LIMBO:
        list_remove(&e->link);
        break;
    case JOB_PH_WAITING:
    case JOB_PH_DELAYED:
        job_core_unwait(c, e);
        break;
    case JOB_PH_PLACING:
    case JOB_PH_PREPARING:
    case JOB_PH_LAUNCHING:
    case JOB_PH_RUNNING:
        if (!e->elsewhere) {
            (void)job_core_fx(c, JOB_FX_STOP, e, job_core_unpack(c, e));
        }
        job_core_leave_active(c, e);
        break;
    case JOB_PH_ENDING:
        break;
    case JOB_PH_END_AGAIN:
        job_pq_remove(&c->timers, &e->timer);
        break;
    }
    job_core_answer(c, e, -ESTALE, NULL);
    (void)job_core_fx(c, JOB_FX_DROP, e, NULL);
    job_core_forget(c, e);
}

static void on_holders(struct job_core *c, const struct job_event *ev)
{
    struct job_entry *e = job_core_find(c, &ev->id);

    if (e == NULL) {
        return;
    }
    struct run *r = job_core_unpack(c, e);
    r->holders_len = ev->run->holders_len;
    memcpy(r->holders, ev->run->holders, sizeof r->holders);
    job_core_pack(e, r);
    if (e->phase != JOB_PH_STORING && e->phase < JOB_PH_ENDING) {
        (void)job_core_store(c, e, r, false);
    }
}

void job_core_owner(struct job_core *c, const struct job_event *ev)
{
    if (ev->type == JOB_EV_TAKE) {
        on_take(c, ev);
    } else if (ev->type == JOB_EV_FENCED) {
        on_fence(c, ev);
    } else {
        on_holders(c, ev);
    }
}
