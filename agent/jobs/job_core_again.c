/* Is an attempt that has ended tried again? */
#include "agent/jobs/job_core_internal.h"

static enum job_again may_again(const struct job_core *c, const struct job_entry *e,
                                const struct run *r, const struct job_result *res)
{
    uint32_t most = r->policy.retries_max;

    if (r->attempt >= RUN_ATTEMPT_MAX) {
        return JOB_AGAIN_NO;
    }
    switch ((enum run_reason)r->reason) {
    case RUN_REASON_EXIT:
        if (r->exit_code == 0) {
            return JOB_AGAIN_NO;
        }
        if (job_exit_means(&r->policy, r->exit_code) == RUN_EXIT_FAILS) {
            return JOB_AGAIN_NO;
        }
        if ((r->exit_code == 75 || job_exit_means(&r->policy, r->exit_code) == RUN_EXIT_RETRIES) &&
            r->policy.retries_asked_max > most) {
            most = r->policy.retries_asked_max;
        }
        break;
    case RUN_REASON_OOM:
        if (res->grow_bytes != 0) {
            return JOB_AGAIN_FREE;
        }
        break;
    case RUN_REASON_SIGNAL:
    case RUN_REASON_TIMEOUT:
    case RUN_REASON_IMAGE:
    case RUN_REASON_SANDBOX:
        break;
    case RUN_REASON_NODE_LOST:
        if (res->innocent || (c->draining && e->stop_sent)) {
            return JOB_AGAIN_FREE; /* we stopped it: not its fault */
        }
        /* A cluster goes on when a node dies: unless the document speaks of retries. */
        if (e->elsewhere && r->policy.retries_asked_max > most) {
            most = r->policy.retries_asked_max;
        }
        break;
    case RUN_REASON_NONE:
    case RUN_REASON_NO_MATCH:
    case RUN_REASON_CANCELLED:
    case RUN_REASON_DEADLINE:
    case RUN_REASON_QUOTA:
    case RUN_REASON_OUTPUT:
    case RUN_REASON_SECRET:
    case RUN_REASON_COUNT:
        return JOB_AGAIN_NO;
    }
    return r->retries < most ? JOB_AGAIN_RETRY : JOB_AGAIN_NO;
}

/* The same, with the job's budget of retries counted in. */
enum job_again job_core_again(struct job_core *c, const struct job_entry *e, struct run *r,
                              const struct job_result *res)
{
    enum job_again again = may_again(c, e, r, res);

    if (again != JOB_AGAIN_RETRY ||
        job_budget_take(&e->queue->budget, r->policy.retry_budget_milli, c->now_ms)) {
        return again;
    }
    run_set_text(r->detail, sizeof r->detail,
                 STR("not tried again: too many retries of this job (retries.budget)"));
    return JOB_AGAIN_NO;
}
