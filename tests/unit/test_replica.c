/* The rules of replicated runs, and the messages that carry their records. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/jobs/replica.h"
#include "agent/node/node_copy_msg.h"
#include "common/buf.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

static uint64_t below(struct rng *r, uint64_t n)
{
    return rng_u64(r) % n;
}

/* Few values of each member, so that records often agree in some and differ in others. */
static void random_run(struct rng *r, struct run *ret)
{
    static const enum run_state states[] = { RUN_QUEUED, RUN_RUNNING, RUN_SUCCEEDED, RUN_FAILED };
    struct ulid id = { { 1, 2, 3, 4, 5, 6, 0, 0, 0, 7, 9 } };

    run_init(ret, id, 1000);
    ret->epoch = 1 + (uint32_t)below(r, 2);
    ret->owner = (uint32_t)below(r, 3);
    ret->attempt = 1 + (uint32_t)below(r, 2);
    ret->state = (uint8_t)states[below(r, 4)];
    if (run_is_ended(ret)) {
        ret->ended_us = 2000 + (int64_t)below(r, 2);
        ret->reason = RUN_REASON_EXIT;
        ret->exit_code = ret->state == RUN_SUCCEEDED ? 0 : 1;
    }
    if (ret->state != RUN_QUEUED) {
        ret->started_us = 1500 + (int64_t)below(r, 2);
    }
    run_set_text(ret->node, sizeof ret->node, below(r, 2) ? STR("a") : STR("b"));
    ret->holders_len = (uint8_t)below(r, 3);
    for (size_t i = 0; i < ret->holders_len; i++) {
        ret->holders[i] = (uint32_t)below(r, 2);
    }
}

static const struct run *better(const struct run *a, const struct run *b)
{
    return job_replica_cmp(a, b) >= 0 ? a : b;
}

static void merging_is_a_total_order(void **state)
{
    struct rng r;
    struct run v[3];

    (void)state;
    rng_init(&r, test_seed("replica"));
    for (int i = 0; i < 200000; i++) {
        for (size_t k = 0; k < 3; k++) {
            random_run(&r, &v[k]);
        }
        int ab = job_replica_cmp(&v[0], &v[1]);
        assert_int_equal(job_replica_cmp(&v[0], &v[0]), 0);           /* idempotent */
        assert_true((ab > 0) == (job_replica_cmp(&v[1], &v[0]) < 0)); /* commutative */
        assert_true((ab == 0) == (job_replica_cmp(&v[1], &v[0]) == 0));
        const struct run *left = better(better(&v[0], &v[1]), &v[2]);
        const struct run *right = better(&v[0], better(&v[1], &v[2])); /* associative */
        assert_int_equal(job_replica_cmp(left, right), 0);
        /* In the words of the contract. */
        if (v[0].epoch != v[1].epoch) {
            assert_true((ab > 0) == (v[0].epoch > v[1].epoch));
        } else if (run_is_ended(&v[0]) != run_is_ended(&v[1])) {
            assert_true((ab > 0) == run_is_ended(&v[0]));
        } else if (run_is_ended(&v[0]) && v[0].ended_us != v[1].ended_us) {
            assert_true((ab > 0) == (v[0].ended_us < v[1].ended_us));
        }
    }
}

static void what_comes_never_undoes_what_stands(void **state)
{
    struct rng r;
    struct run have;
    struct run come;

    (void)state;
    rng_init(&r, test_seed("replica judge"));
    for (int i = 0; i < 200000; i++) {
        random_run(&r, &have);
        random_run(&r, &come);
        enum job_replica_verdict v = job_replica_judge(&have, &come);
        if (come.epoch < have.epoch) {
            assert_int_equal(v, JOB_REPLICA_STALE);
        } else if (come.epoch > have.epoch) {
            assert_int_equal(v, JOB_REPLICA_TAKE);
        } else if (run_is_ended(&have) && !run_is_ended(&come)) {
            assert_int_equal(v, JOB_REPLICA_STALE); /* a tombstone outlives every retry */
        } else if (run_owner(&have) != run_owner(&come)) {
            /* Two owners of one epoch: both sides say the same. */
            enum job_replica_verdict other = job_replica_judge(&come, &have);
            assert_true((v == JOB_REPLICA_TAKE) == (other == JOB_REPLICA_STALE));
        }
        assert_int_equal(job_replica_judge(&have, &have) == JOB_REPLICA_STALE, false);
    }
}

static void holders_are_the_first_live_ones(void **state)
{
    uint32_t live[] = { 10, 20, 30, 40, 50 };
    uint32_t got[RUN_HOLDERS_MAX];
    uint32_t fewer[RUN_HOLDERS_MAX];
    struct rng r;

    (void)state;
    rng_init(&r, test_seed("replica holders"));
    for (int i = 0; i < 2000; i++) {
        struct ulid id;
        for (size_t k = 0; k < sizeof id.b; k++) {
            id.b[k] = (uint8_t)rng_u64(&r);
        }
        size_t n = job_replica_holders(id, 30, live, 5, got, 2);
        assert_int_equal(n, 2);
        assert_true(got[0] != 30 && got[1] != 30 && got[0] != got[1]);
        /* When the first goes, the second becomes the first: nobody else moves. */
        uint32_t rest[4];
        size_t len = 0;
        for (size_t k = 0; k < 5; k++) {
            if (live[k] != got[0]) {
                rest[len++] = live[k];
            }
        }
        assert_int_equal(job_replica_holders(id, 30, rest, len, fewer, 2), 2);
        assert_int_equal(fewer[0], got[1]);
        /* The heir is the first of the record's that is there. */
        struct run run;
        run_init(&run, id, 1);
        memcpy(run.holders, got, sizeof got[0] * n);
        run.holders_len = (uint8_t)n;
        assert_int_equal(job_replica_heir(&run, live, 5), got[0]);
        assert_int_equal(job_replica_heir(&run, rest, len), got[1]);
        assert_int_equal(job_replica_heir(&run, live, 0), 0);
    }
    assert_int_equal(job_replica_holders((struct ulid){ { 1 } }, 10, live, 1, got, 3), 0);
    assert_true(job_replica_enough(0, 1) && !job_replica_enough(0, 2) && job_replica_enough(1, 2));
}

static void an_heir_speaks_with_the_next_epoch(void **state)
{
    const uint32_t holders[] = { 7, 8 };
    const uint32_t live[] = { 7, 9 };
    struct run r;
    struct run before;

    (void)state;
    run_init(&r, (struct ulid){ { 1 } }, 1);
    before = r;
    job_replica_take_over(&r, 5, holders, 2);
    assert_int_equal(r.epoch, 2);
    assert_int_equal(run_owner(&r), 5);
    assert_true(job_replica_cmp(&r, &before) > 0);
    assert_false(job_replica_add_holder(&r, 7, live, 2));
    assert_true(job_replica_add_holder(&r, 9, live, 2)); /* in the place of 8, which is gone */
    assert_int_equal(r.holders_len, 2);
    assert_int_equal(r.holders[1], 9);
    assert_true(job_replica_add_holder(&r, 11, live, 2));
    assert_int_equal(r.holders_len, 3);
}

/* ---- messages ---- */

static void record(struct buf *out, const struct run *r)
{
    struct json_w w;

    json_w_init(&w, out, false);
    run_to_record(&w, r);
}

static void message(struct buf *out, struct run *r)
{
    AUTO_BUF struct buf text = BUF_INIT(65536);
    char bytes[3] = { 0, 1, 2 };
    const struct node_bytes files[NODE_FILES] = { [0] = { bytes, 3 } };

    run_init(r, (struct ulid){ { 1, 2, 3 } }, 1000000);
    r->owner = 77;
    r->holders_len = 2;
    r->holders[0] = 5;
    r->holders[1] = UINT32_MAX;
    record(&text, r);
    node_copy_begin(out);
    node_copy_add(out, r->id, NODE_COPY_FULL, buf_str(&text), STR("{}"), STR("pay"), NULL);
    node_copy_add(out, r->id, 0, buf_str(&text), STR(""), STR(""), files);
    node_copy_add(out, r->id, NODE_COPY_GONE, buf_str(&text), STR(""), STR(""), NULL);
}

static void records_survive_the_way(void **state)
{
    AUTO_BUF struct buf body = BUF_INIT(1 << 20);
    struct node_copies c;
    struct run r;
    struct err e = { 0 };

    (void)state;
    message(&body, &r);
    assert_int_equal(node_copy_parse(buf_str(&body), 3, &c, &e), 0);
    assert_int_equal(c.n, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(job_replica_cmp(&c.v[i].run, &r), 0);
        assert_int_equal(c.v[i].run.owner, 77);
        assert_memory_equal(c.v[i].run.holders, r.holders, sizeof r.holders);
    }
    assert_true(c.v[0].full && str_eqs(c.v[0].payload, "pay") && str_eqs(c.v[0].spec, "{}"));
    assert_true(!c.v[1].full && c.files[1].has && c.files[1].v[0].n == 3);
    assert_null(c.files[1].v[1].p);
    assert_true(c.v[2].gone);
    node_copies_release(&c);
    assert_int_equal(node_copy_parse(buf_str(&body), 2, &c, &e), -E2BIG);
}

/* Every cut and every flipped byte is refused or read; nothing is read beyond the end. */
static void broken_messages_are_refused(void **state)
{
    AUTO_BUF struct buf body = BUF_INIT(1 << 20);
    struct node_copies c;
    struct run r;
    struct err e = { 0 };
    unsigned refused = 0;

    (void)state;
    message(&body, &r);
    for (size_t n = 0; n < body.len; n++) {
        char *part = n == 0 ? NULL : mem_dup(body.data, n); /* exact: sanitizers see the end */
        int rc = node_copy_parse((struct str){ part, n }, 8, &c, &e);
        if (rc == 0) {
            node_copies_release(&c);
        } else {
            assert_true(rc == -EINVAL || rc == -EBADMSG);
            refused++;
        }
        mem_free(part);
    }
    assert_true(refused >= body.len - 3);
    for (size_t at = 0; at < body.len; at++) {
        body.data[at] = (char)(body.data[at] ^ 0x80);
        if (node_copy_parse(buf_str(&body), 8, &c, &e) == 0) {
            node_copies_release(&c);
        }
        body.data[at] = (char)(body.data[at] ^ 0x80);
    }
}

static void answers_survive_the_way(void **state)
{
    AUTO_BUF struct buf text = BUF_INIT(1 << 20);
    struct job_replica v[3] = { { .said = JOB_REPLICA_KEPT },
                                { .said = JOB_REPLICA_WANTED },
                                { .said = JOB_REPLICA_REFUSED } };
    struct node_copy_answer *got = NULL;
    struct err e = { 0 };
    size_t n = 0;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        run_init(&v[i].run, (struct ulid){ { (uint8_t)(i + 1) } }, 1000000);
    }
    v[2].stands = v[2].run;
    v[2].stands.epoch = 9;
    node_copy_answer_write(&text, v, 3);
    assert_int_equal(node_copy_answer_parse(buf_str(&text), 3, &got, &n, &e), 0);
    assert_int_equal(n, 2);
    assert_true(ulid_eq(got[0].id, v[1].run.id) && got[0].said == JOB_REPLICA_WANTED);
    assert_true(got[1].said == JOB_REPLICA_REFUSED && got[1].stands.epoch == 9);
    mem_free(got);
    assert_int_equal(node_copy_answer_parse(buf_str(&text), 1, &got, &n, &e), -EINVAL);
    assert_int_equal(node_copy_answer_parse(STR("{\"v\":2,\"others\":[]}"), 3, &got, &n, &e),
                     -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merging_is_a_total_order),
        cmocka_unit_test(what_comes_never_undoes_what_stands),
        cmocka_unit_test(holders_are_the_first_live_ones),
        cmocka_unit_test(an_heir_speaks_with_the_next_epoch),
        cmocka_unit_test(records_survive_the_way),
        cmocka_unit_test(broken_messages_are_refused),
        cmocka_unit_test(answers_survive_the_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
