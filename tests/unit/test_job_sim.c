/*
 * A randomised world around the queue: a store that loses what is not durable, a launcher that
 * survives crashes of the agent, a clock that jumps. After every step: nothing that was accepted is
 * lost, every attempt starts once, ends are told once and only when they are durable, no job is
 * over its concurrency. At the end, with the faults off: everything has ended.
 *
 * JOB_SIM_SEED=n repeats one world, JOB_SIM_WORLDS=n plays more of them.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/jobs/jobs_core.h"
#include "common/insist.h"
#include "common/rng.h"
#include "common/str.h"

enum { RUNS = 150, JOBS = 5, SLOTS = 4, PENDING = 4096, ATTEMPTS = 64 };

struct item {
    struct ulid id;
    bool stored; /* durable holds what the disk says */
    struct run durable;
    bool acked;
    unsigned told; /* ENDED effects since the last retry */
    bool cancel_acked;
    uint32_t live; /* attempt that runs under the launcher; 0: none */
    uint64_t live_until_ms;
    uint64_t started; /* bit per attempt */
    uint64_t has_dir; /* attempts that the launcher tells of after a crash */
    struct job_result ended[ATTEMPTS];
};

struct pending {
    uint64_t due_ms;
    uint64_t order;
    struct job_event ev;
    struct job_result result;
};

/* A write on its way to the disk; they arrive in order. */
struct write {
    struct run run;
    uint64_t seq;
    int status;
};

struct world {
    struct rng rng;
    struct job_core *c;
    struct job_effects fx;
    uint64_t now_ms;
    int64_t now_us;
    struct item items[RUNS];
    size_t n;
    struct pending *pending;
    size_t pending_n;
    uint64_t order;
    struct write *writes;
    size_t writes_n;
    uint64_t steps, crashes, ends, retries;
    bool faults;
};

static const uint32_t job_concurrency[JOBS] = { 0, 1, 2, 0, 3 };
static char job_names[JOBS][8] = { "", "one", "two", "free", "three" };

static bool chance(struct world *w, unsigned percent)
{
    return rng_below(&w->rng, 100) < percent;
}

static struct item *item_of(struct world *w, const struct ulid *id)
{
    for (size_t i = 0; i < w->n; i++) {
        if (ulid_eq(w->items[i].id, *id)) {
            return &w->items[i];
        }
    }
    return NULL;
}

static void later(struct world *w, uint64_t ms, struct job_event ev, const struct job_result *res)
{
    assert_true(w->pending_n < PENDING);
    struct pending *p = &w->pending[w->pending_n++];
    p->due_ms = w->now_ms + ms;
    p->order = w->order++;
    p->ev = ev;
    p->result = res != NULL ? *res : (struct job_result){ 0 };
}

static struct job_event about(const struct job_effect *fx, enum job_event_type type)
{
    return (struct job_event){ .type = type, .id = fx->id, .attempt = fx->attempt };
}

static struct job_result any_result(struct world *w)
{
    static const enum run_reason ways[] = { RUN_REASON_EXIT,   RUN_REASON_EXIT, RUN_REASON_EXIT,
                                            RUN_REASON_SIGNAL, RUN_REASON_OOM,  RUN_REASON_TIMEOUT,
                                            RUN_REASON_OUTPUT };
    static const int codes[] = { 0, 0, 1, 75 };
    struct job_result r = { .reason = ways[rng_below(&w->rng, ARRAY_LEN(ways))], .exit_code = -1 };

    if (!w->faults) {
        r.reason = RUN_REASON_EXIT;
    }
    if (r.reason == RUN_REASON_EXIT) {
        r.exit_code = w->faults ? codes[rng_below(&w->rng, ARRAY_LEN(codes))] : 0;
    }
    return r;
}

static size_t live_runs(const struct world *w)
{
    size_t n = 0;

    for (size_t i = 0; i < w->n; i++) {
        n += w->items[i].live != 0;
    }
    return n;
}

/* --- effects --- */

static void fx_store(struct world *w, const struct job_effect *fx)
{
    assert_true(w->writes_n < PENDING);
    struct write *wr = &w->writes[w->writes_n++];
    wr->run = *fx->run;
    wr->seq = fx->seq;
    wr->status = w->faults && chance(w, 4) ? -ENOSPC : 0;
}

static void fx_answer(struct world *w, const struct job_effect *fx)
{
    /* Tokens: 1 + 3 * item for submits, + 1 cancels, + 2 retries; 0: a recovery's error. */
    assert_int_not_equal(fx->token, 0);
    struct item *it = &w->items[(fx->token - 1) / 3];
    unsigned kind = (unsigned)((fx->token - 1) % 3);
    if (fx->status != 0) {
        return;
    }
    assert_true(it->stored);
    assert_non_null(fx->run);
    if (kind == 0) {
        assert_false(it->acked);
        it->acked = true;
    } else if (kind == 1) {
        assert_true(it->durable.cancel_asked || it->durable.state == RUN_CANCELLED);
        it->cancel_acked = true;
    } else {
        it->told = 0;
        it->cancel_acked = false;
        w->retries++;
    }
}

static void fx_launch(struct world *w, const struct job_effect *fx)
{
    struct item *it = item_of(w, &fx->id);
    struct job_result bad = { .reason = RUN_REASON_SANDBOX, .exit_code = -1 };
    unsigned way = w->faults ? (unsigned)rng_below(&w->rng, 20) : 9;

    assert_int_equal(it->live, 0);
    assert_int_equal(it->started & UINT64_C(1) << fx->attempt, 0);
    if (way == 0) {
        later(w, 1, about(fx, JOB_EV_ENDED), &bad);
    } else if (way == 1 || live_runs(w) >= SLOTS) {
        later(w, 1, about(fx, JOB_EV_NO_ROOM), NULL);
    } else {
        it->live = fx->attempt;
        it->live_until_ms = w->now_ms + 2 + rng_below(&w->rng, 3000);
        it->started |= UINT64_C(1) << fx->attempt;
        it->has_dir |= UINT64_C(1) << fx->attempt;
        later(w, 1, about(fx, JOB_EV_STARTED), NULL);
    }
}

static void live_ends(struct world *w, struct item *it, const struct job_result *r)
{
    struct job_event ev = { .type = JOB_EV_ENDED, .id = it->id, .attempt = it->live };

    it->ended[it->live] = *r;
    it->live = 0;
    later(w, 2, ev, r);
}

static void fx_stop(struct world *w, const struct job_effect *fx)
{
    struct item *it = item_of(w, &fx->id);
    const struct job_result r = { .reason = RUN_REASON_CANCELLED, .exit_code = -1 };

    if (it != NULL && it->live == fx->attempt && it->live != 0) {
        live_ends(w, it, &r);
    }
}

static void fx_place(struct world *w, const struct job_effect *fx)
{
    struct job_result no = { .reason = RUN_REASON_NO_MATCH, .exit_code = -1 };
    struct job_event ev = about(fx, JOB_EV_PLACED);

    assert_true(item_of(w, &fx->id)->stored);
    ev.node = "n1";
    if (w->faults && chance(w, 2)) {
        later(w, 1, about(fx, JOB_EV_REFUSED), &no);
    } else if (live_runs(w) >= SLOTS || (w->faults && chance(w, 5))) {
        later(w, 1, about(fx, JOB_EV_NO_ROOM), NULL);
    } else {
        later(w, rng_below(&w->rng, 3), ev, NULL);
    }
}

static void fx_prepare(struct world *w, const struct job_effect *fx)
{
    struct job_result bad = { .reason = RUN_REASON_IMAGE, .exit_code = -1 };

    if (w->faults && chance(w, 3)) {
        later(w, 5, about(fx, JOB_EV_PREPARE_FAILED), &bad);
    } else {
        later(w, rng_below(&w->rng, 20), about(fx, JOB_EV_PREPARED), NULL);
    }
}

static void fx_ended(struct world *w, const struct job_effect *fx)
{
    struct item *it = item_of(w, &fx->id);

    assert_true(it->stored && run_is_ended(&it->durable));
    assert_int_equal(it->durable.state, fx->run->state);
    assert_int_equal(it->durable.attempt, fx->run->attempt);
    assert_int_equal(it->told++, 0);
    if (it->cancel_acked) {
        assert_int_equal(fx->run->state, RUN_CANCELLED);
    }
    w->ends++;
}

static void carry_out(struct world *w)
{
    for (size_t i = 0; i < w->fx.n; i++) {
        const struct job_effect *fx = &w->fx.v[i];
        switch (fx->type) {
        case JOB_FX_STORE:
            fx_store(w, fx);
            break;
        case JOB_FX_ANSWER:
            fx_answer(w, fx);
            break;
        case JOB_FX_PLACE:
            fx_place(w, fx);
            break;
        case JOB_FX_PREPARE:
            fx_prepare(w, fx);
            break;
        case JOB_FX_LAUNCH:
            fx_launch(w, fx);
            break;
        case JOB_FX_STOP:
            fx_stop(w, fx);
            break;
        case JOB_FX_ENDED:
            fx_ended(w, fx);
            break;
        case JOB_FX_CHANGED:
        case JOB_FX_DROP:
        case JOB_FX_DRAINED:
            break;
        }
    }
}

/* --- safety --- */

static void check(struct world *w)
{
    size_t live[JOBS] = { 0 };
    struct run r;

    for (size_t i = 0; i < w->n; i++) {
        const struct item *it = &w->items[i];
        if (it->acked) {
            assert_true(it->stored);
            assert_true(run_is_ended(&it->durable) || job_core_run(w->c, it->id, &r));
        }
        if (it->told != 0) {
            assert_true(run_is_ended(&it->durable));
        }
        if (it->live != 0) {
            for (size_t k = 0; k < JOBS; k++) {
                live[k] += strcmp(it->durable.job, job_names[k]) == 0;
            }
        }
    }
    for (size_t k = 0; k < JOBS; k++) {
        assert_true(job_concurrency[k] == 0 || live[k] <= job_concurrency[k]);
    }
    assert_true(live_runs(w) <= SLOTS);
}

static void feed(struct world *w, struct job_event *ev)
{
    ev->now_ms = w->now_ms;
    ev->now_us = w->now_us;
    job_step(w->c, ev, &w->fx);
    w->steps++;
    carry_out(w);
    check(w);
    while (job_deadline_ms(w->c) == 0) {
        struct job_event tick = { .type = JOB_EV_TICK, .now_ms = w->now_ms, .now_us = w->now_us };
        job_step(w->c, &tick, &w->fx);
        carry_out(w);
        check(w);
    }
}

/* --- the world's doings --- */

static void do_submit(struct world *w)
{
    if (w->n == RUNS) {
        return;
    }
    struct item *it = &w->items[w->n++];
    size_t job = rng_below(&w->rng, JOBS);
    struct run r;

    memset(it, 0, sizeof *it);
    for (size_t i = 0; i < sizeof it->id.b; i++) {
        it->id.b[i] = (uint8_t)rng_u64(&w->rng);
    }
    run_init(&r, it->id, w->now_us);
    run_set_text(r.job, sizeof r.job, str_of(job_names[job]));
    r.revision = job != 0;
    r.policy = (struct run_policy){
        .retries_max = (uint32_t)rng_below(&w->rng, 4),
        .retries_asked_max = 5,
        .retry_backoff_milli = 2000,
        .retry_jitter_milli = 200,
        .retry_delay_ms = rng_below(&w->rng, 2000),
        .retry_max_delay_ms = 5000,
        .queue_timeout_ms = chance(w, 10) ? 20000 : 0,
        .concurrency = job_concurrency[job],
        .priority = (uint32_t)rng_below(&w->rng, 101),
    };
    it->durable = r; /* its job's name, for check() */
    struct job_event ev = { .type = JOB_EV_SUBMIT,
                            .run = &r,
                            .token = 1 + 3 * (uint64_t)(it - w->items) };
    feed(w, &ev);
}

static void do_cancel(struct world *w)
{
    struct item *it = &w->items[rng_below(&w->rng, w->n)];
    struct job_event ev = { .type = JOB_EV_CANCEL,
                            .id = it->id,
                            .token = 2 + 3 * (uint64_t)(it - w->items) };

    if (it->acked) {
        feed(w, &ev);
    }
}

static void do_retry(struct world *w)
{
    struct item *it = &w->items[rng_below(&w->rng, w->n)];
    struct run r = it->durable;
    struct job_event ev = {
        .type = JOB_EV_RETRY, .id = it->id, .run = &r, .token = 3 + 3 * (uint64_t)(it - w->items)
    };

    if (it->told != 0 && it->durable.attempt < ATTEMPTS - 20) {
        feed(w, &ev);
    }
}

static void do_write(struct world *w)
{
    struct write wr;

    if (w->writes_n == 0) {
        return;
    }
    wr = w->writes[0];
    memmove(w->writes, w->writes + 1, --w->writes_n * sizeof wr);
    struct item *it = item_of(w, &wr.run.id);
    if (wr.status == 0) {
        it->stored = true;
        it->durable = wr.run;
    }
    if (wr.seq != 0) {
        struct job_event ev = {
            .type = JOB_EV_STORED, .id = wr.run.id, .seq = wr.seq, .status = wr.status
        };
        feed(w, &ev);
    }
}

static void do_pending(struct world *w)
{
    size_t best = w->pending_n;

    for (size_t i = 0; i < w->pending_n; i++) {
        if (w->pending[i].due_ms <= w->now_ms &&
            (best == w->pending_n || w->pending[i].order < w->pending[best].order)) {
            best = i;
        }
    }
    if (best == w->pending_n) {
        return;
    }
    struct pending p = w->pending[best];
    w->pending[best] = w->pending[--w->pending_n];
    p.ev.result = &p.result;
    feed(w, &p.ev);
    if (p.ev.type == JOB_EV_ENDED) {
        struct job_event ev = { .type = JOB_EV_CAPACITY };
        feed(w, &ev);
    }
}

static void do_time(struct world *w, uint64_t ms)
{
    struct job_event ev = { .type = JOB_EV_TICK };

    w->now_ms += ms;
    w->now_us += (int64_t)ms * 1000;
    for (size_t i = 0; i < w->n; i++) {
        if (w->items[i].live != 0 && w->items[i].live_until_ms <= w->now_ms) {
            struct job_result r = any_result(w);
            live_ends(w, &w->items[i], &r);
        }
    }
    if (job_deadline_ms(w->c) <= w->now_ms) {
        feed(w, &ev);
        if (w->faults) {
            return;
        }
        assert_true(job_deadline_ms(w->c) > w->now_ms);
    }
}

static void new_core(struct world *w)
{
    struct job_core_config cfg = { .max_queued = 100, .seed = rng_u64(&w->rng), .k0 = 1, .k1 = 2 };

    w->c = job_core_free(w->c);
    assert_int_equal(job_core_new(&cfg, &w->c), 0);
}

static void adopt(struct world *w, struct item *it)
{
    for (uint32_t a = 1; a < ATTEMPTS; a++) {
        struct job_event ev = { .type = JOB_EV_STARTED, .id = it->id, .attempt = a };
        if ((it->has_dir & UINT64_C(1) << a) == 0) {
            continue;
        }
        if (it->live != a) {
            ev.type = JOB_EV_ENDED;
            ev.result = &it->ended[a];
        }
        feed(w, &ev);
    }
}

/* The agent dies; with power, the launcher and all that runs die, too. */
static void do_crash(struct world *w, bool power)
{
    w->crashes++;
    w->pending_n = 0;
    /* What was written but not answered may be there or not. */
    size_t kept = rng_below(&w->rng, w->writes_n + 1);
    for (size_t i = 0; i < kept; i++) {
        struct item *it = item_of(w, &w->writes[i].run.id);
        if (w->writes[i].status == 0) {
            it->stored = true;
            it->durable = w->writes[i].run;
        }
    }
    w->writes_n = 0;
    new_core(w);
    for (size_t i = 0; i < w->n; i++) {
        struct item *it = &w->items[i];
        if (power && it->live != 0) {
            /* It left no record; the launcher says so. */
            it->ended[it->live] =
                (struct job_result){ .reason = RUN_REASON_NODE_LOST, .exit_code = -1 };
            it->live = 0;
        }
        if (it->stored && !run_is_ended(&it->durable)) {
            struct run r = it->durable;
            struct job_event ev = { .type = JOB_EV_RECOVER, .run = &r };
            if (it->told != 0) {
                it->told = 0; /* a retry was on its way */
                it->cancel_acked = false;
            }
            job_step(w->c, &ev, &w->fx);
            assert_int_equal(w->fx.n, 0);
        } else if (it->stored && it->told == 0) {
            it->told = 1; /* it ended, and nobody was there to tell */
        }
    }
    for (size_t i = 0; i < w->n; i++) {
        adopt(w, &w->items[i]);
    }
    struct job_event ev = { .type = JOB_EV_RECOVERED };
    feed(w, &ev);
}

static void do_something(struct world *w)
{
    switch (rng_below(&w->rng, 12)) {
    case 0:
        do_submit(w);
        break;
    case 1:
        if (w->n != 0 && chance(w, 30)) {
            do_cancel(w);
        }
        break;
    case 2:
        if (w->n != 0 && chance(w, 30)) {
            do_retry(w);
        }
        break;
    case 3:
        do_time(w, rng_below(&w->rng, chance(w, 10) ? 5000 : 100));
        break;
    case 4:
        if (chance(w, 3)) {
            do_crash(w, chance(w, 30));
        }
        break;
    case 5:
    case 6:
    case 7:
        do_write(w);
        break;
    default:
        do_pending(w);
        break;
    }
}

static bool is_idle(const struct world *w)
{
    struct job_counts n;

    job_core_counts(w->c, &n);
    return n.live == 0 && w->writes_n == 0 && live_runs(w) == 0;
}

static void play(uint64_t seed)
{
    struct world *w = test_calloc(1, sizeof *w);
    struct job_event ev = { .type = JOB_EV_RECOVERED };
    size_t acked = 0;
    size_t rounds = 0;

    rng_init(&w->rng, seed);
    w->pending = test_calloc(PENDING, sizeof w->pending[0]);
    w->writes = test_calloc(PENDING, sizeof w->writes[0]);
    w->now_ms = 1000000 + rng_below(&w->rng, 1000000);
    w->now_us = 1700000000000000;
    w->faults = true;
    new_core(w);
    feed(w, &ev);
    for (size_t i = 0; i < 6000; i++) {
        do_something(w);
    }
    w->faults = false;
    for (; !is_idle(w); rounds++) {
        if (rounds == 20000) {
            fail_msg("seed %llu: no progress", (unsigned long long)seed);
        }
        do_write(w);
        do_pending(w);
        do_time(w, 20);
    }
    for (size_t i = 0; i < w->n; i++) {
        acked += w->items[i].acked;
        if (w->items[i].stored) {
            assert_true(run_is_ended(&w->items[i].durable));
            assert_int_equal(w->items[i].told, 1);
        }
    }
    assert_true(acked >= 20 && w->ends > 0);
    if (getenv("JOB_SIM_VERBOSE") != NULL) {
        print_message(
            "seed %llu: %zu accepted, %llu ends, %llu retries, %llu crashes, %llu steps\n",
            (unsigned long long)seed, acked, (unsigned long long)w->ends,
            (unsigned long long)w->retries, (unsigned long long)w->crashes,
            (unsigned long long)w->steps);
    }
    job_core_free(w->c);
    test_free(w->pending);
    test_free(w->writes);
    test_free(w);
}

static uint64_t number_of(const char *name, uint64_t otherwise)
{
    uint64_t v = otherwise;

    (void)str_u64(str_of(getenv(name)), &v);
    return v;
}

static void worlds(void **state)
{
    uint64_t seed = number_of("JOB_SIM_SEED", 1);
    uint64_t n = number_of("JOB_SIM_WORLDS", getenv("JOB_SIM_SEED") != NULL ? 1 : 30);

    (void)state;
    print_message("seeds %llu to %llu (JOB_SIM_SEED, JOB_SIM_WORLDS)\n", (unsigned long long)seed,
                  (unsigned long long)(seed + n - 1));
    for (uint64_t i = 0; i < n; i++) {
        if (getenv("JOB_SIM_VERBOSE") != NULL) {
            print_message("seed %llu\n", (unsigned long long)(seed + i));
        }
        play(seed + i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(worlds),
    };
    return cmocka_run_group_tests_name("job_sim", tests, NULL, NULL);
}
