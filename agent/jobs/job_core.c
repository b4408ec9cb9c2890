#include <errno.h>

#include "agent/jobs/job_core_internal.h"
#include "common/insist.h"
#include "common/mem.h"

/*
 * Phases, and what leads from one to the next (job_core_internal.h says what each waits for):
 *
 *   SUBMIT, RETRY -> STORING -> WAITING <-> DELAYED
 *   RECOVER -> LIMBO ----------> |
 *                                v
 *             .--------------- PLACING -> PREPARING -> LAUNCHING -> RUNNING
 *             | no room          |            |            |           |
 *             '-> WAITING        '------------+-----+------+-----------'
 *                                                   v
 *                      tried again: WAITING     ENDING <-> END_AGAIN, then forgotten
 */

static bool is_phase(const struct job_entry *e, enum job_phase ph)
{
    return e->phase == ph;
}

/* PLACING to RUNNING: it holds a place of its job's concurrency. */
static bool is_active(const struct job_entry *e)
{
    return e->phase >= JOB_PH_PLACING && e->phase <= JOB_PH_RUNNING;
}

/* Out of PLACING … RUNNING, with the counts that go with it. */
void job_core_leave_active(struct job_core *c, struct job_entry *e)
{
    if (!is_active(e)) {
        return;
    }
    if (is_phase(e, JOB_PH_PLACING)) {
        c->n_placing--;
    } else {
        c->n_active--;
    }
    if (is_phase(e, JOB_PH_RUNNING)) {
        c->n_running--;
    }
    if (e->elsewhere) {
        c->n_elsewhere--;
    }
    e->queue->active--;
    list_remove(&e->link);
    job_pq_remove(&c->timers, &e->timer);
    job_core_ready(c, e->queue);
}

static void answer(struct job_core *c, uint64_t token, int status, const struct run *r)
{
    struct job_effect *fx = job_core_fx(c, JOB_FX_ANSWER, NULL, status == 0 ? r : NULL);

    fx->token = token;
    fx->status = status;
    if (r != NULL) {
        fx->id = r->id;
    }
}

static void ask(struct job_entry *e, uint64_t token, uint64_t seq)
{
    INSIST(e->askers < JOB_ASKERS_MAX);
    e->tokens[e->askers++] = token;
    e->answer_seq = seq;
}

void job_core_answer(struct job_core *c, struct job_entry *e, int status, const struct run *r)
{
    for (size_t i = 0; i < e->askers; i++) {
        answer(c, e->tokens[i], status, r);
    }
    e->askers = 0;
    e->answer_seq = 0;
}

uint64_t job_core_store(struct job_core *c, const struct job_entry *e, const struct run *r,
                        bool durable)
{
    struct job_effect *fx = job_core_fx(c, JOB_FX_STORE, e, r);

    fx->seq = durable ? ++c->next_seq : 0;
    return fx->seq;
}

static void changed(struct job_core *c, const struct job_entry *e, const struct run *r)
{
    (void)job_core_fx(c, JOB_FX_CHANGED, e, r);
}

/* --- ends --- */

/* r is in an end state: make that durable, then tell. */
static void finish(struct job_core *c, struct job_entry *e, struct run *r)
{
    job_core_pack(e, r);
    e->end_seq = job_core_store(c, e, r, true);
    e->phase = JOB_PH_ENDING;
}

static void end_waiting(struct job_core *c, struct job_entry *e, enum run_reason why,
                        const char *detail)
{
    struct run *r = job_core_unpack(c, e);

    job_core_unwait(c, e);
    r->reason = (uint8_t)why;
    run_set_text(r->detail, sizeof r->detail, str_of(detail));
    run_move(r, run_state_of(why, -1), c->now_us);
    finish(c, e, r);
}

/* *r has just ended and shall be tried again: that attempt's record goes along as former. */
static void queue_again(struct job_core *c, struct job_entry *e, struct run *r, bool is_free,
                        const struct job_result *res)
{
    uint64_t grow_bytes = res->grow_bytes;
    struct run *former = job_core_scratch(c);

    *former = *r;
    run_move(r, RUN_QUEUED, c->now_us);
    r->attempt++;
    if (former->reason == RUN_REASON_OOM && grow_bytes != 0) {
        r->limits.memory_bytes = grow_bytes;
    }
    uint64_t delay = 0;
    if (!is_free) {
        r->retries++;
        delay = res->retry_after_ms != 0 ? res->retry_after_ms
                                         : job_retry_backoff_ms(&r->policy, r->retries, &c->rng);
    }
    r->retry_at_us = delay != 0 ? c->now_us + (int64_t)(delay * 1000) : 0;
    e->queue_deadline_ms = r->policy.queue_timeout_ms != 0
                               ? c->now_ms + delay + r->policy.queue_timeout_ms
                               : UINT64_MAX;
    job_core_pack(e, r);
    struct job_effect *fx = job_core_fx(c, JOB_FX_STORE, e, r);
    fx->former = former;
    changed(c, e, r);
    e->passed = 0;
    e->stop_sent = false;
    e->overtime = false;
    job_core_wait(c, e, r);
}

/* Takes the state along the table's way to one from which `to` is a legal move. */
static void advance(struct run *r, enum run_state to, int64_t now_us)
{
    static const enum run_state way[] = { RUN_PLACED, RUN_PREPARING, RUN_RUNNING };

    for (size_t i = 0; i < ARRAY_LEN(way) && !run_may_move((enum run_state)r->state, to); i++) {
        if (run_may_move((enum run_state)r->state, way[i])) {
            run_move(r, way[i], now_us);
        }
    }
}

static enum run_reason reason_of(const struct job_core *c, const struct job_entry *e,
                                 const struct run *r, const struct job_result *res)
{
    if (r->cancel_asked) {
        return RUN_REASON_CANCELLED;
    }
    if (res->reason != RUN_REASON_CANCELLED) {
        return res->reason;
    }
    /* Stopped, but nobody asked for it: our own doing. */
    if (e->overtime) {
        return RUN_REASON_TIMEOUT;
    }
    return c->draining || e->stop_sent ? RUN_REASON_NODE_LOST : RUN_REASON_CANCELLED;
}

/* The attempt is over. r is the entry's record in this step's memory. */
void job_core_attempt_over(struct job_core *c, struct job_entry *e, struct run *r,
                           const struct job_result *res)
{
    enum run_reason why = reason_of(c, e, r, res);
    enum run_state end = run_state_of(why, res->exit_code);
    int64_t ended_us = res->ended_us != 0 ? res->ended_us : c->now_us;

    job_core_leave_active(c, e);
    advance(r, end, res->started_us != 0 ? res->started_us : c->now_us);
    if (res->started_us != 0) {
        r->started_us = res->started_us;
    }
    run_move(r, end, ended_us);
    r->reason = (uint8_t)why;
    r->exit_code = (int16_t)(res->exit_code >= 0 && res->exit_code <= 255 ? res->exit_code : -1);
    r->signal = (int16_t)(res->signal > 0 && res->signal <= 64 ? res->signal : 0);
    r->output_bytes = res->output_bytes;
    r->log_bytes = res->log_bytes;
    r->output_truncated = res->output_truncated;
    r->log_truncated = res->log_truncated;
    r->usage = res->usage;
    run_set_text(r->detail, sizeof r->detail, str_of(res->detail));
    enum job_again again = job_core_again(c, e, r, res);
    if (again == JOB_AGAIN_NO) {
        finish(c, e, r);
    } else {
        queue_again(c, e, r, again == JOB_AGAIN_FREE, res);
    }
}

/* Before the start: back to the same attempt's turn, or to its end when somebody asked for that. */
static void back_to_queue(struct job_core *c, struct job_entry *e, struct run *r)
{
    if (r->cancel_asked) {
        const struct job_result res = { .reason = RUN_REASON_CANCELLED, .exit_code = -1 };
        job_core_attempt_over(c, e, r, &res);
        return;
    }
    job_core_leave_active(c, e);
    if (r->state != RUN_QUEUED) {
        int64_t queued_us = r->queued_us;
        run_move(r, RUN_QUEUED, c->now_us);
        r->queued_us = queued_us; /* it is still the same wait */
        job_core_pack(e, r);
        (void)job_core_store(c, e, r, false);
        changed(c, e, r);
    }
    job_core_wait(c, e, r);
}

/* --- events: the way in --- */

static size_t queue_len(const struct job_core *c)
{
    return c->n_waiting + c->n_storing;
}

static int may_enter(const struct job_core *c)
{
    if (c->draining) {
        return -ESHUTDOWN;
    }
    return queue_len(c) >= c->cfg.max_queued ? -ENOBUFS : 0;
}

static void enter(struct job_core *c, const struct job_event *ev, const struct run *r,
                  const struct run *former)
{
    struct job_entry *e = NULL;
    int err = job_core_enter(c, r, &e);

    if (err != 0) {
        answer(c, ev->token, err, NULL);
        return;
    }
    e->phase = JOB_PH_STORING;
    if (former == NULL) {
        job_budget_first(&e->queue->budget, c->now_ms);
    }
    e->queue_deadline_ms =
        r->policy.queue_timeout_ms != 0 ? c->now_ms + r->policy.queue_timeout_ms : UINT64_MAX;
    c->n_storing++;
    e->end_seq = job_core_store(c, e, r, true);
    ask(e, ev->token, e->end_seq);
    c->fx->v[c->fx->n - 1].accept = former == NULL;
    c->fx->v[c->fx->n - 1].former = former;
}

static void on_submit(struct job_core *c, const struct job_event *ev)
{
    int err = may_enter(c);

    if (err != 0) {
        answer(c, ev->token, err, NULL);
        return;
    }
    REQUIRE(ev->run->state == RUN_QUEUED);
    struct run *r = job_core_scratch(c);
    *r = *ev->run;
    enter(c, ev, r, NULL);
}

static void on_retry(struct job_core *c, const struct job_event *ev)
{
    int err = may_enter(c);

    if (job_core_find(c, &ev->run->id) != NULL || !run_is_ended(ev->run)) {
        err = -EBUSY;
    } else if (ev->run->state == RUN_SUCCEEDED) {
        err = -EALREADY;
    } else if (ev->run->attempt >= RUN_ATTEMPT_MAX) {
        err = -ERANGE;
    }
    if (err != 0) {
        answer(c, ev->token, err, NULL);
        return;
    }
    struct run *former = job_core_scratch(c);
    struct run *r = job_core_scratch(c);
    *former = *ev->run;
    *r = *ev->run;
    run_move(r, RUN_QUEUED, c->now_us);
    r->epoch++; /* in one epoch an end stays an end, wherever copies are */
    r->attempt++;
    r->retries = 0; /* what somebody asks for is not counted against the policy */
    r->cancel_asked = 0;
    enter(c, ev, r, former);
}

static void on_recover(struct job_core *c, const struct job_event *ev)
{
    struct job_entry *e = NULL;

    REQUIRE(!c->recovered && !run_is_ended(ev->run));
    int err = job_core_enter(c, ev->run, &e);
    if (err != 0) {
        answer(c, ev->token, err, NULL);
        return;
    }
    uint64_t waited = 0;
    if (ev->run->queued_us != 0 && c->now_us > ev->run->queued_us) {
        waited = (uint64_t)(c->now_us - ev->run->queued_us) / 1000;
    }
    uint64_t timeout = ev->run->policy.queue_timeout_ms;
    e->queue_deadline_ms =
        timeout == 0 ? UINT64_MAX : c->now_ms + (waited < timeout ? timeout - waited : 0);
    e->cancel_stored = ev->run->cancel_asked != 0;
    e->phase = JOB_PH_LIMBO;
    list_push_back(&c->limbo, &e->link);
}

/* What became of one run while nobody looked, now that the launcher has told all. */
static void settle(struct job_core *c, struct job_entry *e)
{
    struct run *r = job_core_unpack(c, e);

    list_remove(&e->link);
    if (r->state == RUN_RUNNING) {
        const struct job_result lost = {
            .reason = RUN_REASON_NODE_LOST,
            .exit_code = -1,
            .started_us = r->started_us,
            .detail = "the node went down while it ran",
        };
        job_core_attempt_over(c, e, r, &lost);
    } else {
        back_to_queue(c, e, r);
    }
}

/* --- events: the store --- */

static void stored_entry(struct job_core *c, struct job_entry *e, int status)
{
    struct run *r = job_core_unpack(c, e);

    c->n_storing--;
    job_core_answer(c, e, status, r);
    if (status != 0) {
        (void)job_core_fx(c, JOB_FX_DROP, e, NULL);
        job_core_forget(c, e);
        return;
    }
    changed(c, e, r);
    job_core_wait(c, e, r);
}

static void stored_end(struct job_core *c, struct job_entry *e, int status)
{
    if (status != 0) {
        e->phase = JOB_PH_END_AGAIN;
        job_core_set_timer(c, e, c->now_ms + JOB_STORE_RETRY_MS);
        return;
    }
    struct run *r = job_core_unpack(c, e);
    job_core_answer(c, e, 0, r);
    changed(c, e, r);
    (void)job_core_fx(c, JOB_FX_ENDED, e, r);
    (void)job_core_fx(c, JOB_FX_DROP, e, NULL);
    job_core_forget(c, e);
}

static void on_stored(struct job_core *c, const struct job_event *ev)
{
    struct job_entry *e = job_core_find(c, &ev->id);

    if (e == NULL || ev->seq == 0) {
        return;
    }
    if (ev->seq == e->answer_seq && ev->seq != e->end_seq) {
        if (e->phase >= JOB_PH_ENDING) {
            e->answer_seq = e->end_seq; /* it has ended meanwhile: told when that is durable */
            return;
        }
        e->cancel_stored = ev->status == 0;
        job_core_answer(c, e, ev->status, job_core_unpack(c, e));
        return;
    }
    if (ev->seq != e->end_seq) {
        return;
    }
    if (is_phase(e, JOB_PH_STORING)) {
        stored_entry(c, e, ev->status);
    } else if (is_phase(e, JOB_PH_ENDING)) {
        if (ev->status != 0) {
            job_core_answer(c, e, ev->status, NULL);
        }
        stored_end(c, e, ev->status);
    }
}

static void stop(struct job_core *c, struct job_entry *e, const struct run *r)
{
    (void)job_core_fx(c, JOB_FX_STOP, e, r);
}

static void watch_overtime(struct job_core *c, struct job_entry *e, const struct run *r)
{
    if (r->limits.timeout_ms != 0) {
        /* init keeps the time; this is for the case that it does not. */
        job_core_set_timer(c, e,
                           c->now_ms + r->limits.timeout_ms + r->limits.grace_ms + JOB_OVERTIME_MS);
    }
}

/* --- events: placing, preparing, launching --- */

/* The entry that this answer is for, when it waits for it. */
static struct job_entry *expect(const struct job_core *c, const struct job_event *ev,
                                uint32_t phases)
{
    struct job_entry *e = job_core_find(c, &ev->id);

    return e != NULL && e->attempt == ev->attempt && (BIT(e->phase) & phases) != 0 ? e : NULL;
}

static void on_placed(struct job_core *c, const struct job_event *ev)
{
    struct job_entry *e = expect(c, ev, BIT(JOB_PH_PLACING));

    if (e == NULL) {
        return;
    }
    struct run *r = job_core_unpack(c, e);
    if ((c->draining && !ev->elsewhere) || r->cancel_asked) {
        back_to_queue(c, e, r);
        return;
    }
    if (c->misses < JOB_MISSES_MAX) {
        c->misses = 0;
    }
    e->passed = 0;
    run_set_text(r->node, sizeof r->node, str_of(ev->node));
    run_move(r, RUN_PLACED, c->now_us);
    run_move(r, RUN_PREPARING, c->now_us);
    job_core_pack(e, r);
    c->n_placing--;
    c->n_active++;
    e->phase = ev->elsewhere ? JOB_PH_LAUNCHING : JOB_PH_PREPARING;
    e->elsewhere = ev->elsewhere;
    c->n_elsewhere += ev->elsewhere ? 1 : 0;
    list_push_back(&c->active, &e->link);
    (void)job_core_store(c, e, r, false);
    changed(c, e, r);
    if (!ev->elsewhere) {
        (void)job_core_fx(c, JOB_FX_PREPARE, e, r);
    }
}

/* Before RECOVERED: another node has it, as far as the store knows. */
void job_core_held(struct job_core *c, const struct job_event *ev)
{
    struct job_entry *e = expect(c, ev, BIT(JOB_PH_LIMBO));

    if (e == NULL) {
        return;
    }
    struct run *r = job_core_unpack(c, e);
    if (r->state != RUN_PREPARING && r->state != RUN_RUNNING) {
        return;
    }
    list_remove(&e->link);
    e->queue->active++;
    e->elsewhere = true;
    c->n_active++;
    c->n_elsewhere++;
    list_push_back(&c->active, &e->link);
    e->phase = JOB_PH_LAUNCHING;
    if (r->state == RUN_RUNNING) {
        e->phase = JOB_PH_RUNNING;
        c->n_running++;
        watch_overtime(c, e, r);
    }
    if (r->cancel_asked) {
        stop(c, e, r);
    }
}

static void on_no_room(struct job_core *c, const struct job_event *ev)
{
    struct job_entry *e =
        expect(c, ev, BIT(JOB_PH_PLACING) | BIT(JOB_PH_PREPARING) | BIT(JOB_PH_LAUNCHING));

    if (e == NULL) {
        return;
    }
    back_to_queue(c, e, job_core_unpack(c, e));
    if (is_phase(e, JOB_PH_WAITING)) {
        job_core_missed(c, e);
    }
}

static void on_failed(struct job_core *c, const struct job_event *ev, enum job_phase phase)
{
    struct job_entry *e = expect(c, ev, BIT(phase));

    if (e != NULL) {
        job_core_attempt_over(c, e, job_core_unpack(c, e), ev->result);
    }
}

static void on_prepared(struct job_core *c, const struct job_event *ev)
{
    struct job_entry *e = expect(c, ev, BIT(JOB_PH_PREPARING));

    if (e == NULL) {
        return;
    }
    struct run *r = job_core_unpack(c, e);
    if (c->draining || r->cancel_asked) {
        back_to_queue(c, e, r);
        return;
    }
    e->phase = JOB_PH_LAUNCHING;
    (void)job_core_fx(c, JOB_FX_LAUNCH, e, r);
}

/* --- events: running --- */

static void run_started(struct job_core *c, struct job_entry *e, const struct job_event *ev)
{
    INSIST(e != NULL);
    struct run *r = job_core_unpack(c, e);

    if (is_phase(e, JOB_PH_LIMBO)) {
        list_remove(&e->link);
        e->queue->active++;
        c->n_active++;
        list_push_back(&c->active, &e->link);
    }
    if (r->state != RUN_RUNNING) {
        r->attempt = ev->attempt;
        advance(r, RUN_RUNNING, c->now_us);
        run_move(r, RUN_RUNNING, ev->started_us != 0 ? ev->started_us : c->now_us);
        r->start = (uint8_t)ev->start;
        job_core_pack(e, r);
        (void)job_core_store(c, e, r, false);
        changed(c, e, r);
    }
    e->phase = JOB_PH_RUNNING;
    c->n_running++;
    watch_overtime(c, e, r);
    if (r->cancel_asked) {
        stop(c, e, r);
    }
}

static void on_started(struct job_core *c, const struct job_event *ev)
{
    struct job_entry *e = job_core_find(c, &ev->id);
    bool limbo = e != NULL && is_phase(e, JOB_PH_LIMBO) && ev->attempt >= e->attempt &&
                 ev->attempt <= RUN_ATTEMPT_MAX;

    if (limbo && ev->attempt > e->attempt) {
        /* The crash came before the retry's record was written. */
        struct run *r = job_core_unpack(c, e);
        if (r->state == RUN_RUNNING) {
            run_move(r, RUN_LOST, c->now_us);
        }
        if (r->state != RUN_QUEUED) {
            run_move(r, RUN_QUEUED, c->now_us);
        }
        r->attempt = ev->attempt;
        job_core_pack(e, r);
    }
    if (limbo || expect(c, ev, BIT(JOB_PH_LAUNCHING)) != NULL) {
        run_started(c, e, ev);
        return;
    }
    if (e != NULL && is_phase(e, JOB_PH_RUNNING) && e->attempt == ev->attempt) {
        return; /* told twice */
    }
    /* Something lives that should not. */
    struct job_effect *fx = job_core_fx(c, JOB_FX_STOP, NULL, NULL);
    fx->id = ev->id;
    fx->attempt = ev->attempt;
}

static void on_ended(struct job_core *c, const struct job_event *ev)
{
    struct job_entry *e = job_core_find(c, &ev->id);

    if (e == NULL) {
        return;
    }
    if (is_phase(e, JOB_PH_LIMBO) && ev->attempt >= e->attempt && ev->attempt <= RUN_ATTEMPT_MAX) {
        struct run *r = job_core_unpack(c, e);
        r->attempt = ev->attempt;
        list_remove(&e->link);
        job_core_attempt_over(c, e, r, ev->result);
        return;
    }
    e = expect(c, ev, BIT(JOB_PH_PREPARING) | BIT(JOB_PH_LAUNCHING) | BIT(JOB_PH_RUNNING));
    if (e != NULL) {
        job_core_attempt_over(c, e, job_core_unpack(c, e), ev->result);
    }
}

static void on_cancel(struct job_core *c, const struct job_event *ev)
{
    struct job_entry *e = job_core_find(c, &ev->id);

    if (e == NULL || is_phase(e, JOB_PH_STORING)) {
        answer(c, ev->token, -ENOENT, NULL);
        return;
    }
    if (is_phase(e, JOB_PH_ENDING) || is_phase(e, JOB_PH_END_AGAIN)) {
        answer(c, ev->token, -EALREADY, NULL);
        return;
    }
    if (is_phase(e, JOB_PH_WAITING) || is_phase(e, JOB_PH_DELAYED)) {
        end_waiting(c, e, RUN_REASON_CANCELLED, "");
        ask(e, ev->token, e->end_seq);
        return;
    }
    struct run *r = job_core_unpack(c, e);
    if (e->cancel_stored) {
        answer(c, ev->token, 0, r); /* twice is once */
        return;
    }
    if (e->askers == JOB_ASKERS_MAX) {
        answer(c, ev->token, -EBUSY, NULL);
        return;
    }
    r->cancel_asked = 1;
    job_core_pack(e, r);
    if (e->answer_seq != 0) {
        ask(e, ev->token, e->answer_seq); /* somebody else's is on its way to the disk */
        return;
    }
    ask(e, ev->token, job_core_store(c, e, r, true));
    if (!is_phase(e, JOB_PH_LIMBO)) {
        stop(c, e, r);
    }
}

/* --- events: the whole --- */

static void on_drain(struct job_core *c, const struct job_event *ev)
{
    c->draining = true;
    c->drain_forward = ev->forward;
    c->drained = false;
    c->drain_stopped = false;
    c->drain_deadline_ms =
        ev->drain_ms > UINT64_MAX - c->now_ms ? UINT64_MAX : c->now_ms + ev->drain_ms;
}

static void on_job(struct job_core *c, const struct job_event *ev)
{
    struct job_queue *q = ev->job[0] != '\0' ? job_core_queue(c, str_of(ev->job)) : NULL;

    if (q != NULL) {
        q->concurrency = ev->concurrency;
        job_core_ready(c, q);
    }
}

static void on_event(struct job_core *c, const struct job_event *ev)
{
    switch (ev->type) {
    case JOB_EV_SUBMIT:
        on_submit(c, ev);
        break;
    case JOB_EV_STORED:
        on_stored(c, ev);
        break;
    case JOB_EV_PLACED:
        on_placed(c, ev);
        break;
    case JOB_EV_HELD:
        job_core_held(c, ev);
        break;
    case JOB_EV_NO_ROOM:
        on_no_room(c, ev);
        break;
    case JOB_EV_REFUSED:
        on_failed(c, ev, JOB_PH_PLACING);
        break;
    case JOB_EV_PREPARED:
        on_prepared(c, ev);
        break;
    case JOB_EV_PREPARE_FAILED:
        on_failed(c, ev, JOB_PH_PREPARING);
        break;
    case JOB_EV_STARTED:
        on_started(c, ev);
        break;
    case JOB_EV_ENDED:
        on_ended(c, ev);
        break;
    case JOB_EV_CANCEL:
        on_cancel(c, ev);
        break;
    case JOB_EV_RETRY:
        on_retry(c, ev);
        break;
    case JOB_EV_RECOVER:
        on_recover(c, ev);
        break;
    case JOB_EV_RECOVERED:
        c->recovered = true;
        break;
    case JOB_EV_DRAIN:
        on_drain(c, ev);
        break;
    case JOB_EV_RESUME:
        c->draining = false;
        c->drain_forward = false;
        job_core_wake(c);
        break;
    case JOB_EV_CAPACITY:
        job_core_wake(c);
        break;
    case JOB_EV_JOB:
        on_job(c, ev);
        break;
    case JOB_EV_TAKE:
    case JOB_EV_FENCED:
    case JOB_EV_HOLDERS:
        job_core_owner(c, ev);
        break;
    case JOB_EV_TICK:
        break;
    }
}

/* --- time --- */

static void on_timer(struct job_core *c, struct job_entry *e)
{
    job_pq_remove(&c->timers, &e->timer);
    if (is_phase(e, JOB_PH_END_AGAIN)) {
        struct run *r = job_core_unpack(c, e);
        e->end_seq = job_core_store(c, e, r, true);
        e->phase = JOB_PH_ENDING;
    } else if (is_phase(e, JOB_PH_RUNNING)) {
        e->stop_sent = true;
        e->overtime = true;
        stop(c, e, job_core_unpack(c, e));
        job_core_set_timer(c, e, c->now_ms + JOB_OVERTIME_MS);
    } else if (e->queue_deadline_ms <= c->now_ms) {
        end_waiting(c, e, RUN_REASON_DEADLINE, "it waited longer than its queue_timeout");
    } else {
        INSIST(is_phase(e, JOB_PH_DELAYED));
        struct run *r = job_core_unpack(c, e);
        r->retry_at_us = 0;
        job_core_pack(e, r);
        job_core_unwait(c, e);
        job_core_wait(c, e, r);
    }
}

static void run_timers(struct job_core *c)
{
    while (c->timers.root != NULL && c->timers.root->key <= c->now_ms) {
        if (!job_core_has_room(c)) {
            c->more = true;
            return;
        }
        on_timer(c, CONTAINER_OF(c->timers.root, struct job_entry, timer));
    }
    if (c->wake_ms <= c->now_ms) {
        job_core_wake(c);
    }
}

static void run_recovery(struct job_core *c)
{
    while (c->recovered && !list_empty(&c->limbo)) {
        if (!job_core_has_room(c)) {
            c->more = true;
            return;
        }
        settle(c, LIST_ITEM(c->limbo.next, struct job_entry, link));
    }
}

static void run_drain(struct job_core *c)
{
    if (!c->draining) {
        return;
    }
    if (c->drain_deadline_ms <= c->now_ms && !c->drain_stopped) {
        LIST_EACH (l, &c->active) {
            struct job_entry *e = LIST_ITEM(l, struct job_entry, link);
            if (e->stop_sent || e->elsewhere) {
                continue;
            }
            if (!job_core_has_room(c)) {
                c->more = true;
                return;
            }
            e->stop_sent = true;
            stop(c, e, job_core_unpack(c, e));
        }
        c->drain_stopped = true;
    }
    if (!c->drained && c->n_active == c->n_elsewhere && c->n_placing == 0 && job_core_has_room(c)) {
        c->drained = true;
        (void)job_core_fx(c, JOB_FX_DRAINED, NULL, NULL);
    }
}

void job_step(struct job_core *c, const struct job_event *ev, struct job_effects *fx)
{
    if (ev->now_ms > c->now_ms) {
        c->now_ms = ev->now_ms;
    }
    c->now_us = ev->now_us;
    fx->n = 0;
    c->fx = fx;
    c->runs_n = 0;
    c->more = false;
    on_event(c, ev);
    run_recovery(c);
    run_timers(c);
    job_core_dispatch(c);
    run_drain(c);
    c->fx = NULL;
}

uint64_t job_deadline_ms(const struct job_core *c)
{
    uint64_t at = c->timers.root != NULL ? c->timers.root->key : UINT64_MAX;

    if (c->more) {
        return 0;
    }
    if (c->wake_ms < at) {
        at = c->wake_ms;
    }
    if (c->draining && !c->drain_stopped && c->drain_deadline_ms < at) {
        at = c->drain_deadline_ms;
    }
    return at;
}

/* --- life, and looking in --- */

int job_core_new(const struct job_core_config *cfg, struct job_core **ret)
{
    struct job_core *c = mem_zalloc(sizeof *c);

    if (c == NULL) {
        return -ENOMEM;
    }
    c->cfg = *cfg;
    if (c->cfg.max_live == 0) {
        c->cfg.max_live = 2 * cfg->max_queued + 65536;
    }
    rng_init(&c->rng, cfg->seed);
    map_init(&c->entries, c->cfg.max_live, cfg->k0, cfg->k1);
    map_init(&c->names, c->cfg.max_live, cfg->k1, cfg->k0);
    list_init(&c->queues);
    list_init(&c->limbo);
    list_init(&c->active);
    list_init(&c->resting);
    c->wake_ms = UINT64_MAX;
    *ret = c;
    return 0;
}

struct job_core *job_core_free(struct job_core *c)
{
    if (c != NULL) {
        job_core_release(c);
        mem_free(c);
    }
    return NULL;
}

void job_core_counts(const struct job_core *c, struct job_counts *ret)
{
    struct job_counts n = {
        .live = c->entries.len,
        .queued = c->n_waiting,
        .active = c->n_active,
        .running = c->n_running,
        .elsewhere = c->n_elsewhere,
        .placing = c->n_placing,
        .storing = c->n_storing,
    };
    LIST_EACH (l, &c->queues) {
        struct job_queue *q = LIST_ITEM(l, struct job_queue, link);
        if (q->wait.root != NULL) {
            struct run r;
            job_core_read(CONTAINER_OF(q->wait.root, struct job_entry, wait), &r);
            if (n.oldest_us == 0 || r.queued_us < n.oldest_us) {
                n.oldest_us = r.queued_us;
            }
        }
    }
    *ret = n;
}

bool job_core_each(const struct job_core *c, const void **pos, struct job_job_counts *ret)
{
    const struct list *l = *pos == NULL ? c->queues.next : ((const struct list *)*pos)->next;

    if (l == &c->queues) {
        return false;
    }
    const struct job_queue *q =
        (const struct job_queue *)(const void *)((const char *)l -
                                                 offsetof(struct job_queue, link));
    *pos = l;
    *ret = (struct job_job_counts){ q->name, q->waiting, q->active, q->concurrency };
    return true;
}

bool job_core_run(const struct job_core *c, struct ulid id, struct run *ret)
{
    const struct job_entry *e = job_core_find(c, &id);

    if (e == NULL || e->phase == JOB_PH_STORING) {
        return false; /* what is not durable is not told */
    }
    job_core_read(e, ret);
    return true;
}

bool job_core_draining(const struct job_core *c)
{
    return c->draining;
}

bool job_core_wants_room(const struct job_core *c)
{
    return !list_empty(&c->resting);
}
