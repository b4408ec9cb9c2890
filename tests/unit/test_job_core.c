#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agent/jobs/job_core_internal.h"
#include "agent/jobs/jobs_core.h"
#include "common/mem.h"

/* A core, its last effects, and a clock that the test moves. */
struct bench {
    struct job_core *c;
    struct job_effects fx;
    uint64_t now_ms;
    uint32_t next_id;
};

static const int64_t T0 = 1700000000000000;

static struct bench *bench_new(size_t max_queued)
{
    struct bench *b = test_calloc(1, sizeof *b);
    struct job_core_config cfg = { .max_queued = max_queued, .seed = 5, .k0 = 1, .k1 = 2 };

    assert_int_equal(job_core_new(&cfg, &b->c), 0);
    b->now_ms = 500000;
    return b;
}

static void bench_free(struct bench *b)
{
    job_core_free(b->c);
    test_free(b);
}

static void step(struct bench *b, struct job_event ev)
{
    ev.now_ms = b->now_ms;
    ev.now_us = T0 + (int64_t)b->now_ms * 1000;
    job_step(b->c, &ev, &b->fx);
}

static void tick(struct bench *b, uint64_t ms)
{
    b->now_ms += ms;
    step(b, (struct job_event){ .type = JOB_EV_TICK });
}

/* The n-th effect of this type in the last step, or NULL. */
static const struct job_effect *fx_of(const struct bench *b, enum job_effect_type type, size_t n)
{
    for (size_t i = 0; i < b->fx.n; i++) {
        if (b->fx.v[i].type == type && n-- == 0) {
            return &b->fx.v[i];
        }
    }
    return NULL;
}

static struct job_effect must(const struct bench *b, enum job_effect_type type)
{
    const struct job_effect *fx = fx_of(b, type, 0);

    if (fx == NULL) {
        fail_msg("no effect %d among %zu", (int)type, b->fx.n);
    }
    return *fx;
}

static struct job_event on(const struct job_effect *fx, enum job_event_type type)
{
    return (struct job_event){
        .type = type, .id = fx->id, .attempt = fx->attempt, .seq = fx->seq, .node = "n1"
    };
}

static struct run run_of(struct bench *b, const char *job, uint32_t priority)
{
    struct ulid id = { { 0 } };
    struct run r;

    b->next_id++;
    id.b[12] = (uint8_t)(b->next_id >> 24);
    id.b[13] = (uint8_t)(b->next_id >> 16);
    id.b[14] = (uint8_t)(b->next_id >> 8);
    id.b[15] = (uint8_t)b->next_id;
    run_init(&r, id, T0 + (int64_t)b->now_ms * 1000 + b->next_id);
    run_set_text(r.job, sizeof r.job, str_of(job));
    r.revision = job[0] != '\0';
    r.policy.priority = priority;
    r.policy.retry_backoff_milli = 2000;
    r.policy.retry_max_delay_ms = 300000;
    return r;
}

/* Accepted and durable; what follows from that is in the effects. */
static struct ulid submit(struct bench *b, const struct run *r)
{
    struct job_effect store;

    step(b, (struct job_event){ .type = JOB_EV_SUBMIT, .run = r, .token = 9 });
    store = must(b, JOB_FX_STORE);
    assert_true(store.accept && store.seq != 0);
    assert_null(fx_of(b, JOB_FX_ANSWER, 0));
    assert_null(fx_of(b, JOB_FX_PLACE, 0)); /* not before it is durable */
    step(b, on(&store, JOB_EV_STORED));
    assert_int_equal(must(b, JOB_FX_ANSWER).status, 0);
    assert_int_equal(must(b, JOB_FX_ANSWER).token, 9);
    return r->id;
}

static void recovered(struct bench *b)
{
    step(b, (struct job_event){ .type = JOB_EV_RECOVERED });
}

/* From PLACE (in the last effects) to running. */
static void start(struct bench *b, struct job_effect place)
{
    step(b, on(&place, JOB_EV_PLACED));
    assert_string_equal(must(b, JOB_FX_PREPARE).run->node, "n1");
    assert_int_equal(must(b, JOB_FX_STORE).seq, 0);
    step(b, on(&place, JOB_EV_PREPARED));
    (void)must(b, JOB_FX_LAUNCH);
    step(b, on(&place, JOB_EV_STARTED));
    assert_int_equal(must(b, JOB_FX_CHANGED).run->state, RUN_RUNNING);
}

static void end(struct bench *b, struct ulid id, uint32_t attempt, enum run_reason why, int code)
{
    struct job_result res = { .reason = why, .exit_code = code };

    step(b,
         (struct job_event){ .type = JOB_EV_ENDED, .id = id, .attempt = attempt, .result = &res });
}

static struct run get(struct bench *b, struct ulid id)
{
    struct run r;

    assert_true(job_core_run(b->c, id, &r));
    return r;
}

/* --- the way through --- */

static void a_run_goes_through(void **state)
{
    struct bench *b = bench_new(10);
    struct run r = run_of(b, "", 0);

    (void)state;
    recovered(b);
    struct ulid id = submit(b, &r);
    start(b, must(b, JOB_FX_PLACE));
    end(b, id, 1, RUN_REASON_EXIT, 0);
    assert_null(fx_of(b, JOB_FX_ENDED, 0)); /* nobody is told before it is durable */
    assert_null(fx_of(b, JOB_FX_CHANGED, 0));
    struct job_effect store = must(b, JOB_FX_STORE);
    assert_true(store.seq != 0 && !store.accept);
    step(b, on(&store, JOB_EV_STORED));
    assert_int_equal(must(b, JOB_FX_ENDED).run->state, RUN_SUCCEEDED);
    assert_int_equal(must(b, JOB_FX_ENDED).run->exit_code, 0);
    assert_int_equal(b->fx.v[b->fx.n - 1].type, JOB_FX_DROP);
    struct run gone;
    assert_false(job_core_run(b->c, id, &gone));
    struct job_counts n;
    job_core_counts(b->c, &n);
    assert_int_equal(n.live + n.active + n.queued + n.placing + n.storing, 0);
    bench_free(b);
}

static void an_end_is_stored_again_until_it_is(void **state)
{
    struct bench *b = bench_new(10);
    struct run r = run_of(b, "", 0);

    (void)state;
    recovered(b);
    struct ulid id = submit(b, &r);
    start(b, must(b, JOB_FX_PLACE));
    end(b, id, 1, RUN_REASON_EXIT, 0);
    for (int i = 0; i < 3; i++) {
        struct job_event ev = on(fx_of(b, JOB_FX_STORE, 0), JOB_EV_STORED);
        ev.status = -ENOSPC;
        step(b, ev);
        assert_int_equal(b->fx.n, 0);
        assert_int_equal(job_deadline_ms(b->c), b->now_ms + JOB_STORE_RETRY_MS);
        tick(b, JOB_STORE_RETRY_MS);
    }
    struct job_effect store = must(b, JOB_FX_STORE);
    step(b, on(&store, JOB_EV_STORED));
    (void)must(b, JOB_FX_ENDED);
    bench_free(b);
}

static void what_is_not_stored_is_refused(void **state)
{
    struct bench *b = bench_new(2);
    struct run r = run_of(b, "", 0);

    (void)state;
    recovered(b);
    step(b, (struct job_event){ .type = JOB_EV_SUBMIT, .run = &r, .token = 1 });
    struct job_event ev = on(fx_of(b, JOB_FX_STORE, 0), JOB_EV_STORED);
    ev.status = -ENOSPC;
    step(b, ev);
    assert_int_equal(must(b, JOB_FX_ANSWER).status, -ENOSPC);
    (void)must(b, JOB_FX_DROP);
    assert_null(fx_of(b, JOB_FX_PLACE, 0));
    bench_free(b);
}

static void the_queue_has_a_cap(void **state)
{
    struct bench *b = bench_new(3);
    struct run r;

    (void)state;
    recovered(b);
    step(b, (struct job_event){ .type = JOB_EV_DRAIN, .drain_ms = UINT64_MAX });
    r = run_of(b, "", 0);
    step(b, (struct job_event){ .type = JOB_EV_SUBMIT, .run = &r, .token = 3 });
    assert_int_equal(must(b, JOB_FX_ANSWER).status, -ESHUTDOWN);
    step(b, (struct job_event){ .type = JOB_EV_RESUME });
    for (int i = 0; i < 3; i++) {
        r = run_of(b, "", 0);
        step(b, (struct job_event){ .type = JOB_EV_SUBMIT, .run = &r });
        assert_null(fx_of(b, JOB_FX_ANSWER, 0));
    }
    r = run_of(b, "", 0);
    step(b, (struct job_event){ .type = JOB_EV_SUBMIT, .run = &r, .token = 4 });
    assert_int_equal(must(b, JOB_FX_ANSWER).status, -ENOBUFS);
    bench_free(b);
}

/* --- turns --- */

/* Serves one run at a time and counts whose it was. */
static void serve(struct bench *b, size_t starts, const char *const *jobs, size_t *counts, size_t n)
{
    for (size_t s = 0; s < starts; s++) {
        struct job_effect place = must(b, JOB_FX_PLACE);
        struct run r = get(b, place.id);
        for (size_t i = 0; i < n; i++) {
            counts[i] += strcmp(r.job, jobs[i]) == 0;
        }
        struct job_result no = { .reason = RUN_REASON_NO_MATCH, .exit_code = -1 };
        struct job_event ev = on(&place, JOB_EV_REFUSED);
        ev.result = &no;
        step(b, ev);
    }
}

static void jobs_share_by_priority(void **state)
{
    static const char *const jobs[] = { "low", "high", "" };
    enum { ASKED = 240 };
    struct bench *b = bench_new(2000);
    struct job_result no = { .reason = RUN_REASON_NO_MATCH, .exit_code = -1 };
    struct job_effect asked[ASKED + JOB_EFFECTS_MAX];
    size_t counts[3] = { 0 };
    size_t n = 0;

    (void)state;
    /* Accepted before RECOVERED: all are there when the turns begin. */
    for (int i = 0; i < 600; i++) {
        struct run r = run_of(b, jobs[i / 200], i / 200 == 1 ? 3 : 0);
        (void)submit(b, &r);
    }
    recovered(b);
    while (job_deadline_ms(b->c) == 0 && fx_of(b, JOB_FX_PLACE, 0) == NULL) {
        tick(b, 0);
    }
    for (size_t done = 0; done < ASKED; done++) {
        for (size_t i = 0; i < b->fx.n; i++) {
            if (b->fx.v[i].type == JOB_FX_PLACE) {
                asked[n++] = b->fx.v[i];
            }
        }
        while (n == done) {
            tick(b, 0);
            assert_non_null(fx_of(b, JOB_FX_PLACE, 0));
            asked[n++] = must(b, JOB_FX_PLACE);
        }
        struct run r = get(b, asked[done].id);
        for (size_t k = 0; k < 3; k++) {
            counts[k] += strcmp(r.job, jobs[k]) == 0;
        }
        struct job_event ev = on(&asked[done], JOB_EV_REFUSED);
        ev.result = &no;
        step(b, ev);
    }
    /* Shares 1 : 4 : 1. */
    assert_in_range(counts[0], 38, 42);
    assert_in_range(counts[1], 156, 164);
    assert_in_range(counts[2], 38, 42);
    bench_free(b);
}

static void inside_a_job_priority_then_age(void **state)
{
    static const uint32_t priorities[] = { 5, 9, 5, 0, 9 };
    static const size_t order[] = { 1, 4, 0, 2, 3 };
    struct bench *b = bench_new(20);
    struct ulid ids[5];

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        struct run r = run_of(b, "j", priorities[i]);
        r.policy.concurrency = 1;
        ids[i] = submit(b, &r);
    }
    recovered(b);
    for (size_t i = 0; i < 5; i++) {
        struct job_effect place = must(b, JOB_FX_PLACE);
        assert_null(fx_of(b, JOB_FX_PLACE, 1)); /* one at a time */
        assert_true(ulid_eq(place.id, ids[order[i]]));
        size_t counts[1] = { 0 };
        static const char *const jobs[] = { "j" };
        serve(b, 1, jobs, counts, 1);
        assert_int_equal(counts[0], 1);
    }
    bench_free(b);
}

static void concurrency_is_kept_and_can_change(void **state)
{
    struct bench *b = bench_new(20);
    struct job_effect places[2];
    struct run r;

    (void)state;
    for (int i = 0; i < 5; i++) {
        r = run_of(b, "j", 0);
        r.policy.concurrency = 2;
        (void)submit(b, &r);
    }
    recovered(b);
    places[0] = must(b, JOB_FX_PLACE);
    places[1] = *fx_of(b, JOB_FX_PLACE, 1);
    assert_null(fx_of(b, JOB_FX_PLACE, 2));
    start(b, places[0]);
    start(b, places[1]);
    tick(b, 5000);
    assert_null(fx_of(b, JOB_FX_PLACE, 0));
    end(b, places[0].id, 1, RUN_REASON_EXIT, 0);
    (void)must(b, JOB_FX_PLACE); /* before the end is durable: the place is free */
    assert_null(fx_of(b, JOB_FX_PLACE, 1));
    step(b, (struct job_event){ .type = JOB_EV_JOB, .job = "j", .concurrency = 4 });
    assert_non_null(fx_of(b, JOB_FX_PLACE, 1));
    assert_null(fx_of(b, JOB_FX_PLACE, 2));
    const void *pos = NULL;
    struct job_job_counts n;
    assert_true(job_core_each(b->c, &pos, &n));
    assert_string_equal(n.job, "j");
    assert_int_equal(n.active, 4);
    assert_int_equal(n.concurrency, 4);
    assert_false(job_core_each(b->c, &pos, &n));
    bench_free(b);
}

static void no_room_rests_but_lets_others_try(void **state)
{
    struct bench *b = bench_new(20);
    struct run big = run_of(b, "big", 0);
    struct run small = run_of(b, "small", 0);

    (void)state;
    struct ulid big_id = submit(b, &big);
    struct ulid small_id = submit(b, &small);
    recovered(b);
    struct job_effect first = must(b, JOB_FX_PLACE);
    struct job_effect second = *fx_of(b, JOB_FX_PLACE, 1);
    assert_true(ulid_eq(first.id, big_id) && ulid_eq(second.id, small_id));
    step(b, on(&first, JOB_EV_NO_ROOM));
    assert_null(fx_of(b, JOB_FX_PLACE, 0)); /* not at once again */
    start(b, second);
    assert_int_equal(job_deadline_ms(b->c), b->now_ms + JOB_NO_ROOM_MS);
    step(b, (struct job_event){ .type = JOB_EV_CAPACITY });
    assert_true(ulid_eq(must(b, JOB_FX_PLACE).id, big_id));
    /* Passed over too often: then it is asked first, and nothing goes past it. */
    for (int i = 0; i < JOB_PASSED_MAX; i++) {
        struct job_event no = { .type = JOB_EV_NO_ROOM, .id = big_id, .attempt = 1 };
        step(b, no);
        step(b, (struct job_event){ .type = JOB_EV_CAPACITY });
    }
    struct job_event no = { .type = JOB_EV_NO_ROOM, .id = big_id, .attempt = 1 };
    step(b, no);
    struct run other = run_of(b, "small", 0);
    (void)submit(b, &other);
    assert_null(fx_of(b, JOB_FX_PLACE, 0));
    step(b, (struct job_event){ .type = JOB_EV_CAPACITY });
    assert_true(ulid_eq(must(b, JOB_FX_PLACE).id, big_id));
    bench_free(b);
}

static void no_room_at_the_launcher_keeps_the_attempt(void **state)
{
    struct bench *b = bench_new(20);
    struct run r = run_of(b, "", 0);

    (void)state;
    recovered(b);
    struct ulid id = submit(b, &r);
    struct job_effect place = must(b, JOB_FX_PLACE);
    step(b, on(&place, JOB_EV_PLACED));
    step(b, on(&place, JOB_EV_PREPARED));
    b->now_ms += 70;
    step(b, on(&place, JOB_EV_NO_ROOM));
    assert_int_equal(must(b, JOB_FX_CHANGED).run->state, RUN_QUEUED);
    struct run now = get(b, id);
    assert_int_equal(now.attempt, 1);
    assert_int_equal(now.queued_us, r.queued_us);
    assert_string_equal(now.node, "");
    tick(b, JOB_NO_ROOM_MS);
    start(b, must(b, JOB_FX_PLACE));
    bench_free(b);
}

/* --- retries and deadlines --- */

static void backoff_grows_within_its_bounds(void **state)
{
    struct run_policy p = { .retry_delay_ms = 1000,
                            .retry_backoff_milli = 2000,
                            .retry_max_delay_ms = 10000 };
    static const uint64_t want[] = { 1000, 2000, 4000, 8000, 10000, 10000 };
    struct rng a, b;

    (void)state;
    rng_init(&a, 7);
    rng_init(&b, 7);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(job_retry_backoff_ms(&p, i + 1, &a), want[i]);
    }
    p.retry_jitter_milli = 200;
    rng_init(&a, 7);
    uint64_t low = UINT64_MAX;
    uint64_t high = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t d = job_retry_backoff_ms(&p, 1, &a);
        assert_int_equal(d, job_retry_backoff_ms(&p, 1, &b)); /* same seed, same delays */
        low = d < low ? d : low;
        high = d > high ? d : high;
    }
    assert_in_range(low, 800, 810);
    assert_in_range(high, 1190, 1200);
    p = (struct run_policy){ .retry_delay_ms = INT64_MAX,
                             .retry_backoff_milli = UINT32_MAX,
                             .retry_jitter_milli = 1000,
                             .retry_max_delay_ms = INT64_MAX };
    assert_true(job_retry_backoff_ms(&p, 100, &a) <= UINT64_C(30) * 24 * 3600 * 1000);
    p = (struct run_policy){ 0 };
    assert_int_equal(job_retry_backoff_ms(&p, 3, &a), 0);
}

static void failures_are_tried_again(void **state)
{
    struct bench *b = bench_new(20);
    struct run r = run_of(b, "", 0);

    (void)state;
    r.policy.retries_max = 2;
    r.policy.retry_delay_ms = 1000;
    recovered(b);
    struct ulid id = submit(b, &r);
    for (uint32_t attempt = 1; attempt <= 2; attempt++) {
        start(b, must(b, JOB_FX_PLACE));
        end(b, id, attempt, RUN_REASON_OOM, -1);
        struct job_effect store = must(b, JOB_FX_STORE);
        assert_int_equal(store.former->attempt, attempt);
        assert_int_equal(store.former->state, RUN_FAILED);
        assert_int_equal(store.former->reason, RUN_REASON_OOM);
        assert_int_equal(store.run->attempt, attempt + 1);
        assert_int_equal(store.run->state, RUN_QUEUED);
        assert_int_equal(job_deadline_ms(b->c), b->now_ms + 1000 * attempt);
        tick(b, 1000 * attempt - 1);
        assert_null(fx_of(b, JOB_FX_PLACE, 0));
        tick(b, 1);
    }
    start(b, must(b, JOB_FX_PLACE));
    /* An answer about an attempt that is over changes nothing. */
    end(b, id, 1, RUN_REASON_EXIT, 0);
    assert_int_equal(b->fx.n, 0);
    end(b, id, 3, RUN_REASON_EXIT, 1);
    struct job_effect store = must(b, JOB_FX_STORE);
    assert_int_equal(store.run->state, RUN_FAILED);
    assert_int_equal(store.run->attempt, 3);
    bench_free(b);
}

static void which_ends_are_tried_again(void **state)
{
    static const struct {
        enum run_reason reason;
        int code;
        uint32_t max, asked;
        bool again;
    } cases[] = {
        { RUN_REASON_EXIT, 0, 9, 9, false },      { RUN_REASON_EXIT, 1, 0, 3, false },
        { RUN_REASON_EXIT, 75, 0, 3, true },      { RUN_REASON_EXIT, 75, 0, 0, false },
        { RUN_REASON_EXIT, 1, 1, 1, true },       { RUN_REASON_SIGNAL, -1, 1, 1, true },
        { RUN_REASON_TIMEOUT, -1, 1, 1, true },   { RUN_REASON_IMAGE, -1, 1, 1, true },
        { RUN_REASON_SANDBOX, -1, 1, 1, true },   { RUN_REASON_NODE_LOST, -1, 1, 1, true },
        { RUN_REASON_OUTPUT, -1, 9, 9, false },   { RUN_REASON_QUOTA, -1, 9, 9, false },
        { RUN_REASON_NO_MATCH, -1, 9, 9, false }, { RUN_REASON_CANCELLED, -1, 9, 9, false },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct bench *b = bench_new(20);
        struct run r = run_of(b, "", 0);
        r.policy.retries_max = cases[i].max;
        r.policy.retries_asked_max = cases[i].asked;
        recovered(b);
        struct ulid id = submit(b, &r);
        start(b, must(b, JOB_FX_PLACE));
        end(b, id, 1, cases[i].reason, cases[i].code);
        assert_int_equal(must(b, JOB_FX_STORE).former != NULL, cases[i].again);
        bench_free(b);
    }
}

static void waiting_has_a_deadline(void **state)
{
    struct bench *b = bench_new(20);
    struct run r = run_of(b, "", 0);

    (void)state;
    r.policy.queue_timeout_ms = 4000;
    recovered(b);
    (void)submit(b, &r);
    struct job_effect place = must(b, JOB_FX_PLACE);
    step(b, on(&place, JOB_EV_NO_ROOM));
    for (int i = 0; i < 3; i++) {
        tick(b, 1000);
        place = must(b, JOB_FX_PLACE);
        step(b, on(&place, JOB_EV_NO_ROOM));
    }
    tick(b, 1000);
    struct job_effect store = must(b, JOB_FX_STORE);
    assert_int_equal(store.run->state, RUN_TIMED_OUT);
    assert_int_equal(store.run->reason, RUN_REASON_DEADLINE);
    bench_free(b);
}

static void overtime_is_stopped(void **state)
{
    struct bench *b = bench_new(20);
    struct run r = run_of(b, "", 0);

    (void)state;
    r.limits.timeout_ms = 5000;
    r.limits.grace_ms = 1000;
    recovered(b);
    struct ulid id = submit(b, &r);
    start(b, must(b, JOB_FX_PLACE));
    tick(b, 6000);
    assert_int_equal(b->fx.n, 0); /* that is init's business */
    tick(b, JOB_OVERTIME_MS);
    (void)must(b, JOB_FX_STOP);
    tick(b, JOB_OVERTIME_MS);
    (void)must(b, JOB_FX_STOP);
    end(b, id, 1, RUN_REASON_CANCELLED, -1);
    assert_int_equal(must(b, JOB_FX_STORE).run->reason, RUN_REASON_TIMEOUT);
    bench_free(b);
}

/* --- cancel, retry, drain, recovery --- */

static void cancel(struct bench *b, struct ulid id, uint64_t token)
{
    step(b, (struct job_event){ .type = JOB_EV_CANCEL, .id = id, .token = token });
}

static void cancels_wait_for_the_disk(void **state)
{
    struct bench *b = bench_new(20);
    struct run r = run_of(b, "", 0);

    (void)state;
    recovered(b);
    struct ulid id = submit(b, &r);
    start(b, must(b, JOB_FX_PLACE));
    cancel(b, id, 1);
    (void)must(b, JOB_FX_STOP);
    struct job_effect store = must(b, JOB_FX_STORE);
    assert_null(fx_of(b, JOB_FX_ANSWER, 0));
    cancel(b, id, 2);
    assert_int_equal(b->fx.n, 0);
    step(b, on(&store, JOB_EV_STORED));
    assert_int_equal(fx_of(b, JOB_FX_ANSWER, 0)->token, 1);
    assert_int_equal(fx_of(b, JOB_FX_ANSWER, 1)->token, 2);
    cancel(b, id, 3);
    assert_int_equal(must(b, JOB_FX_ANSWER).status, 0);
    /* However it ended: it was cancelled. */
    end(b, id, 1, RUN_REASON_EXIT, 0);
    store = must(b, JOB_FX_STORE);
    assert_int_equal(store.run->state, RUN_CANCELLED);
    cancel(b, id, 4);
    assert_int_equal(must(b, JOB_FX_ANSWER).status, -EALREADY);
    step(b, on(&store, JOB_EV_STORED));
    cancel(b, id, 5);
    assert_int_equal(must(b, JOB_FX_ANSWER).status, -ENOENT);
    bench_free(b);
}

static void a_waiting_run_is_cancelled_at_once(void **state)
{
    struct bench *b = bench_new(20);
    struct run r = run_of(b, "", 0);

    (void)state;
    recovered(b);
    struct ulid id = submit(b, &r);
    struct job_effect place = must(b, JOB_FX_PLACE);
    step(b, on(&place, JOB_EV_NO_ROOM));
    cancel(b, id, 6);
    struct job_effect store = must(b, JOB_FX_STORE);
    assert_int_equal(store.run->state, RUN_CANCELLED);
    assert_null(fx_of(b, JOB_FX_ANSWER, 0));
    step(b, on(&store, JOB_EV_STORED));
    assert_int_equal(must(b, JOB_FX_ANSWER).token, 6);
    (void)must(b, JOB_FX_ENDED);
    /* One that is being placed: the answer ends it. */
    r = run_of(b, "", 0);
    id = submit(b, &r);
    step(b, (struct job_event){ .type = JOB_EV_CAPACITY });
    cancel(b, id, 7);
    (void)must(b, JOB_FX_STOP);
    step(b, (struct job_event){ .type = JOB_EV_PLACED, .id = id, .attempt = 1, .node = "n1" });
    assert_null(fx_of(b, JOB_FX_PREPARE, 0));
    assert_int_equal(must(b, JOB_FX_STORE).run->state, RUN_CANCELLED);
    bench_free(b);
}

static void an_ended_run_can_be_retried(void **state)
{
    struct bench *b = bench_new(20);
    struct run r = run_of(b, "", 0);

    (void)state;
    recovered(b);
    r.state = RUN_SUCCEEDED;
    step(b, (struct job_event){ .type = JOB_EV_RETRY, .run = &r, .token = 1 });
    assert_int_equal(must(b, JOB_FX_ANSWER).status, -EALREADY);
    r.state = RUN_RUNNING;
    step(b, (struct job_event){ .type = JOB_EV_RETRY, .run = &r, .token = 1 });
    assert_int_equal(must(b, JOB_FX_ANSWER).status, -EBUSY);
    r.state = RUN_CANCELLED;
    r.reason = RUN_REASON_CANCELLED;
    r.cancel_asked = 1;
    r.attempt = RUN_ATTEMPT_MAX;
    step(b, (struct job_event){ .type = JOB_EV_RETRY, .run = &r, .token = 1 });
    assert_int_equal(must(b, JOB_FX_ANSWER).status, -ERANGE);
    r.attempt = 4;
    step(b, (struct job_event){ .type = JOB_EV_RETRY, .run = &r, .token = 1 });
    struct job_effect store = must(b, JOB_FX_STORE);
    assert_false(store.accept);
    assert_int_equal(store.former->state, RUN_CANCELLED);
    assert_int_equal(store.run->attempt, 5);
    assert_int_equal(store.run->cancel_asked, 0);
    struct run hidden;
    assert_false(job_core_run(b->c, r.id, &hidden)); /* the store has the truth still */
    step(b, on(&store, JOB_EV_STORED));
    assert_int_equal(must(b, JOB_FX_ANSWER).status, 0);
    start(b, must(b, JOB_FX_PLACE));
    bench_free(b);
}

static void a_drain_stops_and_keeps(void **state)
{
    struct bench *b = bench_new(20);
    struct run r = run_of(b, "", 0);
    struct run waits = run_of(b, "", 0);

    (void)state;
    recovered(b);
    struct ulid id = submit(b, &r);
    start(b, must(b, JOB_FX_PLACE));
    step(b, (struct job_event){ .type = JOB_EV_DRAIN, .drain_ms = 3000 });
    assert_null(fx_of(b, JOB_FX_DRAINED, 0));
    step(b, (struct job_event){ .type = JOB_EV_SUBMIT, .run = &waits, .token = 2 });
    assert_int_equal(must(b, JOB_FX_ANSWER).status, -ESHUTDOWN);
    assert_int_equal(job_deadline_ms(b->c), b->now_ms + 3000);
    tick(b, 3000);
    (void)must(b, JOB_FX_STOP);
    end(b, id, 1, RUN_REASON_CANCELLED, -1);
    /* Not its fault: queued again, though it has no retries. */
    struct job_effect store = must(b, JOB_FX_STORE);
    assert_int_equal(store.run->state, RUN_QUEUED);
    assert_int_equal(store.run->attempt, 2);
    assert_int_equal(store.former->reason, RUN_REASON_NODE_LOST);
    (void)must(b, JOB_FX_DRAINED);
    tick(b, 100);
    assert_int_equal(b->fx.n, 0);
    step(b, (struct job_event){ .type = JOB_EV_RESUME });
    (void)must(b, JOB_FX_PLACE);
    bench_free(b);
}

static void recovery_takes_up_what_was(void **state)
{
    struct bench *b = bench_new(20);
    struct run runs[6];

    (void)state;
    for (size_t i = 0; i < 6; i++) {
        runs[i] = run_of(b, "", 0);
        runs[i].state = (uint8_t)(i == 0 ? RUN_QUEUED : i == 1 ? RUN_PREPARING : RUN_RUNNING);
    }
    runs[5].state = RUN_QUEUED; /* it was started, but the crash came before that was written */
    for (size_t i = 0; i < 6; i++) {
        step(b, (struct job_event){ .type = JOB_EV_RECOVER, .run = &runs[i] });
        assert_int_equal(b->fx.n, 0);
    }
    step(b, (struct job_event){ .type = JOB_EV_STARTED, .id = runs[2].id, .attempt = 1 });
    end(b, runs[3].id, 1, RUN_REASON_EXIT, 0);
    assert_int_equal(must(b, JOB_FX_STORE).run->state, RUN_SUCCEEDED);
    step(b, (struct job_event){ .type = JOB_EV_STARTED, .id = runs[5].id, .attempt = 1 });
    assert_int_equal(must(b, JOB_FX_STORE).run->state, RUN_RUNNING);
    /* One that nobody knows is stopped. */
    step(b, (struct job_event){ .type = JOB_EV_STARTED, .id = { { 99 } }, .attempt = 3 });
    assert_int_equal(must(b, JOB_FX_STOP).attempt, 3);
    assert_null(must(b, JOB_FX_STOP).run);
    recovered(b);
    /* 0 and 1 are placed again, 4 is lost. */
    assert_true(ulid_eq(must(b, JOB_FX_PLACE).id, runs[0].id));
    assert_true(ulid_eq(fx_of(b, JOB_FX_PLACE, 1)->id, runs[1].id));
    assert_null(fx_of(b, JOB_FX_PLACE, 2));
    bool lost = false;
    for (size_t i = 0; i < b->fx.n; i++) {
        lost = lost || (b->fx.v[i].type == JOB_FX_STORE && b->fx.v[i].run->state == RUN_LOST &&
                        ulid_eq(b->fx.v[i].id, runs[4].id));
    }
    assert_true(lost);
    assert_int_equal(get(b, runs[2].id).state, RUN_RUNNING);
    bench_free(b);
}

/* --- memory and many --- */

static void many_runs_cost_little(void **state)
{
    enum { N = 20000 };
    struct bench *b = bench_new(N);
    size_t bytes = 0;

    (void)state;
    for (int i = 0; i < N; i++) {
        struct run r = run_of(b, i % 3 == 0 ? "encrypt" : "resize", (uint32_t)i % 101);
        run_set_text(r.image, sizeof r.image, STR("team/encrypt:1.2.3"));
        run_set_text(r.command, sizeof r.command, STR("[\"openssl\",\"enc\",\"-aes-256-ctr\"]"));
        run_set_text(r.entry_node, sizeof r.entry_node, STR("node-17"));
        struct ulid id = submit(b, &r);
        const struct job_entry *e = job_core_find(b->c, &id);
        bytes += sizeof *e + e->packed_cap;
    }
    bytes += b->c->entries.cap * sizeof b->c->entries.entries[0];
    print_message("%zu bytes for a queued run\n", bytes / N);
    assert_true(bytes / N <= 1024);
    /* All of them are there after RECOVERED, in as many steps as it takes. */
    recovered(b);
    for (int i = 0; job_deadline_ms(b->c) == 0; i++) {
        assert_true(i < N);
        tick(b, 0);
    }
    struct job_counts n;
    job_core_counts(b->c, &n);
    assert_int_equal(n.queued + n.placing, N);
    assert_int_equal(n.placing, JOB_PLACING_MAX);
    assert_true(n.oldest_us != 0);
    bench_free(b);
}

static void the_way_in_survives_no_memory(void **state)
{
    struct bench *b = bench_new(20);
    struct run r = run_of(b, "j", 0);
    long n = 0;

    (void)state;
    recovered(b);
    do {
        mem_fail_after(n++, 1);
        step(b, (struct job_event){ .type = JOB_EV_SUBMIT, .run = &r, .token = 1 });
        mem_fail_after(-1, 0);
        assert_true(fx_of(b, JOB_FX_ANSWER, 0) == NULL || must(b, JOB_FX_ANSWER).status == -ENOMEM);
    } while (fx_of(b, JOB_FX_STORE, 0) == NULL && n < 100);
    assert_true(n > 2 && n < 100);
    struct job_effect store = must(b, JOB_FX_STORE);
    /* From here on nothing needs memory, but for a detail that does not fit. */
    mem_fail_after(0, 1);
    step(b, on(&store, JOB_EV_STORED));
    start(b, must(b, JOB_FX_PLACE));
    char detail[250];
    memset(detail, 'd', sizeof detail);
    detail[sizeof detail - 1] = '\0';
    struct job_result res = { .reason = RUN_REASON_SANDBOX, .exit_code = -1, .detail = detail };
    step(b, (struct job_event){ .type = JOB_EV_ENDED, .id = r.id, .attempt = 1, .result = &res });
    store = must(b, JOB_FX_STORE);
    step(b, on(&store, JOB_EV_STORED));
    mem_fail_after(-1, 0);
    assert_int_equal(must(b, JOB_FX_ENDED).run->state, RUN_FAILED);
    bench_free(b);
}

struct element {
    struct job_pq_node node;
    unsigned number;
};

static void the_priority_queue_sorts(void **state)
{
    enum { N = 2000 };
    struct element *el = test_calloc(N, sizeof *el);
    struct job_pq q = { NULL };
    struct rng g;
    size_t in = 0;

    (void)state;
    rng_init(&g, 11);
    for (unsigned i = 0; i < N; i++) {
        el[i].node.key = rng_below(&g, 100);
        el[i].node.tie = i;
        job_pq_add(&q, &el[i].node);
        in++;
        if (rng_below(&g, 3) == 0) {
            struct element *out = &el[rng_below(&g, i + 1)];
            in -= out->node.in;
            job_pq_remove(&q, &out->node);
            job_pq_remove(&q, &out->node); /* harmless */
        }
    }
    uint64_t key = 0;
    uint64_t tie = 0;
    for (; q.root != NULL; in--) {
        assert_true(q.root->key > key || (q.root->key == key && q.root->tie >= tie));
        key = q.root->key;
        tie = q.root->tie;
        job_pq_remove(&q, q.root);
    }
    assert_int_equal(in, 0);
    test_free(el);
}

/* --- on another node --- */

static struct job_event elsewhere(const struct job_effect *fx, enum job_event_type type)
{
    struct job_event ev = on(fx, type);

    ev.node = "n2";
    ev.elsewhere = true;
    return ev;
}

static void a_run_elsewhere_is_only_watched(void **state)
{
    struct bench *b = bench_new(20);
    struct run r = run_of(b, "j", 0);
    struct job_counts n;

    (void)state;
    recovered(b);
    struct ulid id = submit(b, &r);
    struct job_effect place = must(b, JOB_FX_PLACE);
    step(b, elsewhere(&place, JOB_EV_PLACED));
    assert_null(fx_of(b, JOB_FX_PREPARE, 0));
    assert_string_equal(must(b, JOB_FX_CHANGED).run->node, "n2");
    job_core_counts(b->c, &n);
    assert_int_equal(n.active, 1);
    assert_int_equal(n.elsewhere, 1);
    /* A drain neither stops it nor waits for it. */
    step(b, (struct job_event){ .type = JOB_EV_DRAIN, .drain_ms = 0 });
    assert_null(fx_of(b, JOB_FX_STOP, 0));
    (void)must(b, JOB_FX_DRAINED);
    step(b, elsewhere(&place, JOB_EV_STARTED));
    assert_int_equal(must(b, JOB_FX_CHANGED).run->state, RUN_RUNNING);
    end(b, id, 1, RUN_REASON_EXIT, 0);
    assert_int_equal(must(b, JOB_FX_STORE).run->state, RUN_SUCCEEDED);
    job_core_counts(b->c, &n);
    assert_int_equal(n.active + n.elsewhere + n.running, 0);
    bench_free(b);
}

static void a_lost_node_costs_a_retry_only_when_it_ran(void **state)
{
    const struct job_result lost = { .reason = RUN_REASON_NODE_LOST };
    const struct job_result innocent = { .reason = RUN_REASON_NODE_LOST, .innocent = true };
    struct bench *b = bench_new(20);
    struct run r = run_of(b, "", 0);

    (void)state;
    r.policy.retries_asked_max = 1;
    recovered(b);
    struct ulid id = submit(b, &r);
    for (uint32_t attempt = 1; attempt <= 3; attempt++) {
        struct job_effect place = must(b, JOB_FX_PLACE);
        step(b, elsewhere(&place, JOB_EV_PLACED));
        step(b, (struct job_event){ .type = JOB_EV_ENDED,
                                    .id = id,
                                    .attempt = attempt,
                                    .result = attempt == 1 ? &innocent : &lost });
        if (attempt < 3) {
            assert_int_equal(get(b, id).attempt, attempt + 1);
            assert_int_equal(get(b, id).retries, attempt - 1);
        }
    }
    assert_int_equal(must(b, JOB_FX_STORE).run->state, RUN_LOST);
    bench_free(b);
}

static void what_another_node_holds_is_taken_up(void **state)
{
    static const enum run_state states[] = { RUN_PREPARING, RUN_RUNNING };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(states); i++) {
        struct bench *b = bench_new(20);
        struct run r = run_of(b, "", 0);
        run_move(&r, RUN_PLACED, T0);
        run_move(&r, RUN_PREPARING, T0);
        if (states[i] == RUN_RUNNING) {
            run_move(&r, RUN_RUNNING, T0);
        }
        run_set_text(r.node, sizeof r.node, STR("n2"));
        step(b, (struct job_event){ .type = JOB_EV_RECOVER, .run = &r });
        step(b, (struct job_event){ .type = JOB_EV_HELD, .id = r.id, .attempt = 1 });
        recovered(b);
        assert_int_equal(get(b, r.id).state, states[i]);
        step(b, (struct job_event){ .type = JOB_EV_STARTED, .id = r.id, .attempt = 1 });
        assert_null(fx_of(b, JOB_FX_STOP, 0));
        assert_int_equal(get(b, r.id).state, RUN_RUNNING);
        end(b, r.id, 1, RUN_REASON_EXIT, 3);
        assert_int_equal(must(b, JOB_FX_STORE).run->exit_code, 3);
        bench_free(b);
    }
}

static void a_drain_may_send_the_queue_away(void **state)
{
    struct bench *b = bench_new(20);
    struct run r = run_of(b, "", 0);

    (void)state;
    recovered(b);
    (void)submit(b, &r);
    struct job_effect place = must(b, JOB_FX_PLACE);
    step(b, on(&place, JOB_EV_NO_ROOM));
    step(b, (struct job_event){ .type = JOB_EV_DRAIN, .drain_ms = UINT64_MAX, .forward = true });
    tick(b, JOB_NO_ROOM_MS);
    place = must(b, JOB_FX_PLACE);
    step(b, on(&place, JOB_EV_PLACED)); /* not here */
    assert_null(fx_of(b, JOB_FX_PREPARE, 0));
    place = must(b, JOB_FX_PLACE);
    step(b, elsewhere(&place, JOB_EV_PLACED));
    assert_int_equal(must(b, JOB_FX_CHANGED).run->state, RUN_PREPARING);
    bench_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_goes_through),
        cmocka_unit_test(an_end_is_stored_again_until_it_is),
        cmocka_unit_test(what_is_not_stored_is_refused),
        cmocka_unit_test(the_queue_has_a_cap),
        cmocka_unit_test(jobs_share_by_priority),
        cmocka_unit_test(inside_a_job_priority_then_age),
        cmocka_unit_test(concurrency_is_kept_and_can_change),
        cmocka_unit_test(no_room_rests_but_lets_others_try),
        cmocka_unit_test(no_room_at_the_launcher_keeps_the_attempt),
        cmocka_unit_test(backoff_grows_within_its_bounds),
        cmocka_unit_test(failures_are_tried_again),
        cmocka_unit_test(which_ends_are_tried_again),
        cmocka_unit_test(waiting_has_a_deadline),
        cmocka_unit_test(overtime_is_stopped),
        cmocka_unit_test(cancels_wait_for_the_disk),
        cmocka_unit_test(a_waiting_run_is_cancelled_at_once),
        cmocka_unit_test(an_ended_run_can_be_retried),
        cmocka_unit_test(a_drain_stops_and_keeps),
        cmocka_unit_test(recovery_takes_up_what_was),
        cmocka_unit_test(a_run_elsewhere_is_only_watched),
        cmocka_unit_test(a_lost_node_costs_a_retry_only_when_it_ran),
        cmocka_unit_test(what_another_node_holds_is_taken_up),
        cmocka_unit_test(a_drain_may_send_the_queue_away),
        cmocka_unit_test(many_runs_cost_little),
        cmocka_unit_test(the_way_in_survives_no_memory),
        cmocka_unit_test(the_priority_queue_sorts),
    };
    return cmocka_run_group_tests_name("job_core", tests, NULL, NULL);
}
