/* Profiles: sums that add up in any order, their bytes, the model made of them, sizes. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agent/routing/learn.h"
#include "agent/routing/size.h"
#include "common/insist.h"
#include "common/mem.h"
#include "tests/lib/seed.h"

enum { MIB = 1024 * 1024 };

static void logarithm_and_exponential_agree_with_libm(void **state)
{
    struct rng r;
    double worst = 0;

    (void)state;
    rng_init(&r, test_seed("real"));
    for (int i = 0; i < 20000; i++) {
        double x = (rng_unit(&r) - 0.5) * 60;
        double y = exp(x);
        worst = fmax(worst, fabs(route_exp(x) / y - 1));
        worst = fmax(worst, fabs(route_ln(y) - x) / fmax(1, fabs(x)));
    }
    assert_true(worst < 1e-14);
    assert_true(route_exp(NAN) == 1);
    assert_true(route_exp(1e9) > 1e300 && isfinite(route_exp(1e9)));
    assert_true(route_ln(0) == -745 && route_ln(-1) == -745 && route_ln(NAN) == -745);
}

static void normal_draws_have_mean_and_variance(void **state)
{
    struct rng r;
    double sum = 0;
    double square = 0;
    enum { N = 40000 };

    (void)state;
    rng_init(&r, 7);
    for (int i = 0; i < N; i++) {
        double z = route_normal(&r);
        sum += z;
        square += z * z;
    }
    assert_true(fabs(sum / N) < 0.02);
    assert_true(fabs(square / N - 1) < 0.03);
}

/* L Lt x = b is solved: multiplied out, it is b again. */
static void cholesky_solves(void **state)
{
    enum { N = 9 };
    struct rng r;
    double full[N][N];
    double a[ROUTE_PACKED(N)];
    double x[N];
    double b[N];

    (void)state;
    rng_init(&r, test_seed("cholesky"));
    for (size_t i = 0; i < N; i++) {
        for (size_t j = 0; j <= i; j++) {
            full[i][j] = full[j][i] = rng_unit(&r) - 0.5 + (i == j ? N : 0);
            a[ROUTE_PACKED(i) + j] = full[i][j];
        }
        b[i] = x[i] = rng_unit(&r);
    }
    assert_int_equal(route_cholesky(a, N), 0);
    route_solve_lower(a, N, x);
    route_solve_upper(a, N, x);
    for (size_t i = 0; i < N; i++) {
        double sum = 0;
        for (size_t j = 0; j < N; j++) {
            sum += full[i][j] * x[j];
        }
        assert_true(fabs(sum - b[i]) < 1e-12);
    }
    double bad[] = { 1, 2, 1 };
    assert_int_equal(route_cholesky(bad, 2), -EDOM);
}

static struct route_row row_of(const char *job, uint32_t revision, const char *class_id,
                               const char *origin)
{
    struct route_row r = { .revision = revision,
                           .features = { .bits = ROUTE_HAS_AES, .llc_mib = 32, .ghz = 2.5F } };

    assert_int_equal(str_copy(r.job, sizeof r.job, str_of(job)), 0);
    assert_int_equal(str_copy(r.class_id, sizeof r.class_id, str_of(class_id)), 0);
    assert_int_equal(str_copy(r.origin, sizeof r.origin, str_of(origin)), 0);
    return r;
}

static struct route_observation took(uint64_t elapsed_us)
{
    return (struct route_observation){ .outcome = ROUTE_OUTCOME_OK,
                                       .elapsed_us = elapsed_us,
                                       .cpu_us = elapsed_us,
                                       .memory_need_bytes = 40 * MIB };
}

static void buckets_ascend_and_hold_their_bytes(void **state)
{
    (void)state;
    for (uint16_t i = 1; i < ROUTE_MEMORY_BUCKETS; i++) {
        uint64_t top = route_memory_bucket_top(i);
        assert_true(top > route_memory_bucket_top((uint16_t)(i - 1)));
        assert_int_equal(route_memory_bucket(top), i);
        assert_int_equal(route_memory_bucket(top + 1),
                         i + 1 < ROUTE_MEMORY_BUCKETS ? i + 1 : ROUTE_MEMORY_BUCKETS - 1);
    }
    assert_true(route_memory_bucket_top(ROUTE_MEMORY_BUCKETS - 1) > 900ULL * 1024 * MIB);
    assert_int_equal(route_memory_bucket(0), 0);
    assert_int_equal(route_memory_bucket(UINT64_MAX), ROUTE_MEMORY_BUCKETS - 1);
    assert_int_equal(route_cores_bucket(route_cores_bucket_top(17)), 17);
}

static void histogram_stays_sorted_and_keeps_its_weight(void **state)
{
    struct route_hist h = { .n = 0 };
    struct rng r;
    double weight = 0;

    (void)state;
    rng_init(&r, test_seed("hist"));
    for (int i = 0; i < 2000; i++) {
        route_hist_add(&h, (uint16_t)rng_below(&r, ROUTE_MEMORY_BUCKETS), 1);
        weight += 1;
        double sum = 0;
        for (uint32_t k = 0; k < h.n; k++) {
            assert_true(k == 0 || h.b[k].bucket > h.b[k - 1].bucket);
            sum += (double)h.b[k].weight;
        }
        assert_true(fabs(sum - weight) < 1e-3);
    }
    route_hist_scale(&h, 1e-12);
    assert_int_equal(h.n, 0);
}

static void quantile_counts_from_above(void **state)
{
    struct route_hist h = { .n = 0 };
    struct route_dense d = { .total = 0 };

    (void)state;
    assert_int_equal(route_dense_quantile(&d, 0.99), 0);
    route_hist_add(&h, 10, 98);
    route_hist_add(&h, 50, 2);
    route_dense_add(&d, &h, 1);
    assert_int_equal(route_dense_quantile(&d, 0.99), 50);
    assert_int_equal(route_dense_quantile(&d, 0.95), 10);
    assert_int_equal(route_dense_quantile(&d, 0.5), 10);
}

static void row_survives_its_bytes(void **state)
{
    struct route_row r = row_of("enc/rypt:1", 7, "0123456789abcdef", "node-3");
    struct route_row back = { .revision = 0 };
    AUTO_BUF struct buf b = BUF_INIT(ROUTE_VALUE_MAX);
    char key[ROUTE_KEY_MAX];
    struct rng rng;

    (void)state;
    rng_init(&rng, test_seed("row"));
    for (uint64_t i = 1; i <= 300; i++) {
        struct route_observation o = took(1 + rng_below(&rng, 1000000));
        o.memory_need_bytes = rng_below(&rng, 4096ULL * MIB);
        o.outcome = rng_below(&rng, 10) == 0 ? ROUTE_OUTCOME_OOM : ROUTE_OUTCOME_OK;
        o.memory_limit_bytes = 64 * MIB;
        o.has_cache = true;
        o.cache_mean_bytes = rng_below(&rng, 64ULL * MIB);
        o.bandwidth_bytes = rng_u64(&rng) >> 8;
        route_row_add(&r, &o, i * 3, 0, 0, 0);
    }
    size_t n = route_row_key(&r, key);
    assert_string_equal(key, "7/0123456789abcdef/node-3/enc/rypt:1");
    assert_int_equal(route_row_key_parse((struct str){ key, n }, &back), 0);
    route_row_encode(&r, &b);
    assert_int_equal(buf_error(&b), 0);
    assert_int_equal(route_row_decode(buf_str(&b), &back, NULL), 0);
    assert_memory_equal(&back.sum, &r.sum, sizeof r.sum);
    AUTO_BUF struct buf again = BUF_INIT(ROUTE_VALUE_MAX);
    route_row_encode(&back, &again);
    assert_int_equal(again.len, b.len);
    assert_memory_equal(again.data, b.data, b.len);
    assert_int_equal(back.runs, 300);
    assert_true(back.cache_n > 100 && back.cache_xx > 0 && back.cache_xy != 0);
    /* Cut anywhere, or with one byte more, it is refused and nothing is touched. */
    for (size_t i = 0; i < b.len; i++) {
        struct route_row untouched = back;
        assert_int_equal(route_row_decode((struct str){ b.data, i }, &untouched, NULL), -EINVAL);
        assert_memory_equal(&untouched, &back, sizeof back);
    }
    assert_int_equal(buf_addc(&b, 0), 0);
    assert_int_equal(route_row_decode(buf_str(&b), &back, NULL), -EINVAL);
}

/* A row of a node that does not know of the cache's line yet: it ends where the histograms began
 * after margin_tick. */
static void rows_of_version_1_are_read(void **state)
{
    enum { LINE_AT = 106, LINE = 40 };
    struct route_row r = row_of("j", 1, "c", "n");
    struct route_row back = r;
    AUTO_BUF struct buf b = BUF_INIT(ROUTE_VALUE_MAX);
    struct route_observation o = took(2000000);

    (void)state;
    o.has_cache = true;
    o.cache_mean_bytes = 8 * MIB;
    route_row_add(&r, &o, 1, 0, 0, 0);
    route_row_encode(&r, &b);
    b.data[0] = 1;
    memmove(b.data + LINE_AT, b.data + LINE_AT + LINE, b.len - LINE_AT - LINE);
    b.len -= LINE;
    assert_int_equal(route_row_decode(buf_str(&b), &back, NULL), 0);
    assert_true(back.n == 1 && back.cache_n == 0 && back.cache_xx == 0);
    assert_int_equal(back.cores.n, r.cores.n);
    b.data[0] = 3;
    assert_int_equal(route_row_decode(buf_str(&b), &back, NULL), -EINVAL);
}

/* Numbers that no honest node writes. offset: of a double in the value (profile_codec.c). */
static void absurd_numbers_are_refused(void **state)
{
    static const double bad[] = { NAN, INFINITY, -INFINITY, -1, 1e6, 1e300 };
    struct route_row r = row_of("j", 1, "c", "n");
    enum { N_AT = 34, SUM_AT = 42, SQUARE_AT = 50 };
    AUTO_BUF struct buf b = BUF_INIT(ROUTE_VALUE_MAX);

    (void)state;
    for (uint64_t i = 1; i <= 10; i++) {
        struct route_observation o = took(2000000);
        route_row_add(&r, &o, i, 0, 0, 0);
    }
    route_row_encode(&r, &b);
    assert_int_equal(route_row_decode(buf_str(&b), &r, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        for (size_t at = N_AT; at <= SQUARE_AT; at += 8) {
            char saved[8];
            memcpy(saved, b.data + at, 8);
            memcpy(b.data + at, &bad[i], 8);
            /* A negative sum is one of times under a second; but not with these squares. */
            bool fine = at == SUM_AT && fabs(bad[i]) <= 1;
            assert_int_equal(route_row_decode(buf_str(&b), &r, NULL), fine ? 0 : -EINVAL);
            memcpy(b.data + at, saved, 8);
        }
    }
    /* S^2 <= n Q */
    double sum = 9.9;
    memcpy(b.data + SUM_AT, &sum, 8);
    assert_int_equal(route_row_decode(buf_str(&b), &r, NULL), -EINVAL);
}

static void odd_keys_are_refused(void **state)
{
    static const char *const bad[] = {
        "",         "1",      "1/c",    "1/c/n",    "1/c/n/",           "x/c/n/j",
        "01/c/n/j", "1//n/j", "1/c//j", "-1/c/n/j", "4294967296/c/n/j", "1/0123456789abcdef0/n/j"
    };
    struct route_row r;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(route_row_key_parse(str_of(bad[i]), &r), -EINVAL);
    }
}

/* Old knowledge fades by the job's own runs; no report weighs more than one run. */
static void decay_follows_the_runs(void **state)
{
    struct route_row r = row_of("j", 1, "c", "n");
    struct route_observation o = took(1000000);

    (void)state;
    for (uint64_t i = 1; i <= 5000; i++) {
        route_row_add(&r, &o, i, 0, 0, 0);
    }
    assert_true(r.n > 490 && r.n < 510);
    double before = r.n;
    route_row_age(&r, r.tick + 346);
    assert_true(fabs(r.n - before / 2) < 1e-9 * before);
    route_row_age(&r, r.tick + (1ULL << 40));
    assert_true(fabs(r.n - before / 64) < 1e-9 * before);
    route_row_age(&r, 1);
    assert_true(fabs(r.n - before / 64) < 1e-9 * before);
}

static void only_whole_successes_teach_time(void **state)
{
    struct route_row r = row_of("j", 1, "c", "n");
    struct route_observation o = took(1000000);

    (void)state;
    o.outcome = ROUTE_OUTCOME_FAILED;
    route_row_add(&r, &o, 1, 0, 0, 0);
    o.outcome = ROUTE_OUTCOME_OOM;
    route_row_add(&r, &o, 2, 0, 0, 0);
    o.outcome = ROUTE_OUTCOME_CUT;
    route_row_add(&r, &o, 3, 0, 0, 0);
    o.outcome = ROUTE_OUTCOME_OK;
    o.throttled = true;
    route_row_add(&r, &o, 4, 0, 0, 0);
    assert_true(r.n == 0 && r.sum == 0);
    assert_int_equal(r.runs, 4);
    assert_int_equal(r.oom, 1);
    o.throttled = false;
    o.elapsed_us = UINT64_MAX;
    o.cpu_us = UINT64_MAX;
    o.memory_need_bytes = UINT64_MAX;
    route_row_add(&r, &o, 5, 0, 0.5, 0);
    /* Clipped to what was expected: bounded whatever is reported. */
    assert_true(r.n == 1 && r.sum <= 0.5 + 1e-9);
    AUTO_BUF struct buf b = BUF_INIT(ROUTE_VALUE_MAX);
    route_row_encode(&r, &b);
    assert_int_equal(route_row_decode(buf_str(&b), &r, NULL), 0);
}

/* ---- the learner ---- */

static struct route_learn *learner(const char *node, const char *class_id, uint8_t bits)
{
    struct route_learn_config cfg = {
        .node = node,
        .class_id = class_id,
        .features = { .bits = bits, .llc_mib = 16, .ghz = 3 },
        .k0 = 1,
        .k1 = 2,
    };
    struct route_learn *l = NULL;

    assert_int_equal(route_learn_new(&cfg, &l), 0);
    return l;
}

static void observe(struct route_learn *l, const char *job, uint32_t revision,
                    const struct route_observation *o)
{
    const struct route_row *row;

    assert_int_equal(route_learn_observe(l, str_of(job), revision, o, &row), 0);
}

/* What the table does: one learner's row of a job to another. */
static void send(struct route_learn *from, struct route_learn *to, const struct route_row *row)
{
    AUTO_BUF struct buf b = BUF_INIT(ROUTE_VALUE_MAX);
    char key[ROUTE_KEY_MAX];

    (void)from;
    size_t n = route_row_key(row, key);
    route_row_encode(row, &b);
    assert_int_equal(route_learn_put(to, (struct str){ key, n }, buf_str(&b), NULL), 0);
}

static void profile_text(struct route_learn *l, const char *job, struct buf *out)
{
    struct route_size_ask ask = { .fixed_bytes = 0 };
    struct json_w w;

    buf_reset(out);
    json_w_init(&w, out, false);
    assert_true(route_learn_to_json(l, str_of(job), &ask, &w));
    assert_int_equal(buf_error(out), 0);
}

/* The same rows, in any order and again and again, are the same profile to the last bit. */
static void merge_in_any_order_gives_the_same_profile(void **state)
{
    enum { ROWS = 40 };
    struct route_row rows[ROWS];
    struct rng r;
    AUTO_BUF struct buf first = BUF_INIT(1 << 20);
    AUTO_BUF struct buf other = BUF_INIT(1 << 20);

    (void)state;
    rng_init(&r, test_seed("merge"));
    for (size_t i = 0; i < ROWS; i++) {
        char class_id[20];
        char origin[20];
        (void)snprintf(class_id, sizeof class_id, "class%zu", i % 4);
        (void)snprintf(origin, sizeof origin, "node%zu", i);
        rows[i] = row_of("j", 3, class_id, origin);
        for (uint64_t k = 1 + rng_below(&r, 50); k > 0; k--) {
            struct route_observation o = took(1 + rng_below(&r, 10000000));
            o.memory_need_bytes = rng_below(&r, 512 * MIB);
            route_row_add(&rows[i], &o, rows[i].tick + 1 + rng_below(&r, 30), 0, 0, 0);
        }
    }
    for (int round = 0; round < 20; round++) {
        struct route_learn *l = learner("me", "class0", 0);
        for (size_t i = ROWS; i-- > 1;) {
            size_t k = rng_below(&r, i + 1);
            struct route_row t = rows[i];
            rows[i] = rows[k];
            rows[k] = t;
        }
        for (size_t i = 0; i < ROWS; i++) {
            send(NULL, l, &rows[i]);
            if (rng_below(&r, 3) == 0) {
                send(NULL, l, &rows[rng_below(&r, i + 1)]);
            }
        }
        profile_text(l, "j", round == 0 ? &first : &other);
        if (round > 0) {
            assert_int_equal(first.len, other.len);
            assert_memory_equal(first.data, other.data, first.len);
            const struct route_posterior *p = route_learn_model(l, STR("j"), 3);
            assert_non_null(p);
        }
        route_learn_free(l);
    }
}

static struct route_candidate at(const char *node, const char *class_id, uint8_t bits)
{
    return (struct route_candidate){ .node = str_of(node),
                                     .class_id = str_of(class_id),
                                     .features = { .bits = bits, .llc_mib = 16, .ghz = 3 },
                                     .image_warm = true,
                                     .memory_bytes = 1024ULL * MIB,
                                     .memory_free_bytes = 1024ULL * MIB,
                                     .slots = 4,
                                     .slots_free = 4 };
}

/* Two classes, one five times faster for this job: after some runs the expectation says so, and a
 * node without any knowledge of its own says it too, from the others' rows. */
static void what_one_node_measured_another_predicts(void **state)
{
    struct route_learn *fast = learner("a", "aes", ROUTE_HAS_AES);
    struct route_learn *slow = learner("b", "plain", 0);
    struct route_learn *third = learner("c", "plain", 0);
    struct route_candidate c[] = { at("a", "aes", ROUTE_HAS_AES), at("b", "plain", 0) };
    const struct route_row *row;
    struct rng r;

    (void)state;
    rng_init(&r, 3);
    for (int i = 0; i < 30; i++) {
        struct route_observation o = took(90000 + rng_below(&r, 20000));
        assert_int_equal(route_learn_observe(fast, STR("enc"), 1, &o, &row), 0);
        send(fast, third, row);
        o = took(450000 + rng_below(&r, 100000));
        assert_int_equal(route_learn_observe(slow, STR("enc"), 1, &o, &row), 0);
        send(slow, third, row);
    }
    route_learn_predict(third, STR("enc"), 1, 0, NULL, c, 2);
    assert_true(c[0].run_us > 90000 && c[0].run_us < 110000);
    assert_true(c[1].run_us > 450000 && c[1].run_us < 550000);
    assert_true(c[0].learned.class_runs > 25 && c[0].learned.spread < 0.1);
    /* A new revision starts from there, less sure. */
    route_learn_predict(third, STR("enc"), 2, 0, NULL, c, 2);
    assert_true(c[0].run_us > 80000 && c[0].run_us < 120000);
    assert_true(c[1].run_us > 400000 && c[1].run_us < 600000);
    double inherited = c[0].learned.spread;
    route_learn_predict(third, STR("enc"), 1, 0, NULL, c, 2);
    assert_true(c[0].learned.spread < inherited);
    /* The node dies, its rows stay; the table drops them, the knowledge goes. */
    assert_int_equal(route_learn_rows(third), 2);
    route_learn_remove(third, STR("1/aes/a/enc"));
    route_learn_remove(third, STR("1/plain/b/enc"));
    assert_int_equal(route_learn_rows(third), 0);
    uint32_t revision;
    assert_false(route_learn_revision(third, STR("enc"), &revision));
    route_learn_free(fast);
    route_learn_free(slow);
    route_learn_free(third);
}

/* One origin that reports nonsense moves the profile of a class by a bounded amount. */
static void one_liar_does_little(void **state)
{
    struct route_learn *l = learner("me", "x", 0);
    struct route_candidate c = at("n", "aes", ROUTE_HAS_AES);

    (void)state;
    for (size_t k = 0; k < 5; k++) {
        char origin[8];
        (void)snprintf(origin, sizeof origin, "n%zu", k);
        struct route_row r = row_of("j", 1, "aes", origin);
        r.features = c.features;
        for (uint64_t i = 1; i <= 60; i++) {
            struct route_observation o = took(k == 4 ? 1000000000000ULL : 100000);
            route_row_add(&r, &o, i, 0, 0, 0);
        }
        send(NULL, l, &r);
    }
    route_learn_predict(l, STR("j"), 1, 0, NULL, &c, 1);
    assert_true(c.run_us > 90000 && c.run_us < 150000);
    route_learn_free(l);
}

static void own_row_comes_back_after_a_restart(void **state)
{
    struct route_learn *l = learner("a", "aes", ROUTE_HAS_AES);
    const struct route_row *row;
    struct route_observation o = took(100000);
    AUTO_BUF struct buf b = BUF_INIT(ROUTE_VALUE_MAX);
    struct route_totals t;

    (void)state;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(route_learn_observe(l, STR("j"), 1, &o, &row), 0);
    }
    route_row_encode(row, &b);
    route_learn_free(l);
    l = learner("a", "aes", ROUTE_HAS_AES);
    assert_int_equal(route_learn_put(l, STR("1/aes/a/j"), buf_str(&b), NULL), 0);
    observe(l, "j", 1, &o);
    /* The table's older echo changes nothing any more. */
    assert_int_equal(route_learn_put(l, STR("1/aes/a/j"), buf_str(&b), NULL), 0);
    assert_true(route_learn_totals(l, STR("j"), 1, &t));
    assert_int_equal(t.runs, 11);
    route_learn_free(l);
}

static void health_is_learned_and_taken_off(void **state)
{
    struct route_learn *l = learner("slow", "x", 0);
    struct route_row other = row_of("j", 1, "x", "good");
    struct route_candidate c[] = { at("slow", "x", 0), at("good", "x", 0) };

    (void)state;
    other.features = c[0].features;
    for (uint64_t i = 1; i <= 400; i++) {
        struct route_observation o = took(100000);
        route_row_add(&other, &o, i, 0, 0, 0);
    }
    send(NULL, l, &other);
    for (int i = 0; i < 200; i++) {
        struct route_observation o = took(200000);
        observe(l, "j", 1, &o);
    }
    double h = route_learn_health(l, STR("slow"));
    assert_true(h > 0.35 && h < 0.75);
    route_learn_predict(l, STR("j"), 1, 0, NULL, c, 2);
    assert_true(c[0].run_us > c[1].run_us + c[1].run_us / 4);
    route_learn_health_put(l, STR("good"), NAN);
    route_learn_health_put(l, STR("good"), 1e9);
    assert_true(route_learn_health(l, STR("good")) == 0);
    route_learn_health_put(l, STR("good"), 0.01); /* within the dead zone */
    assert_true(route_learn_health(l, STR("good")) == 0);
    route_learn_health_put(l, STR("good"), 0.5);
    assert_true(route_learn_health(l, STR("good")) == 0.5);
    route_learn_free(l);
}

/* A warm cluster knows what AES is worth to jobs like those it has seen. */
static void prior_learns_from_the_jobs(void **state)
{
    struct route_learn *fast = learner("a", "aes", ROUTE_HAS_AES);
    struct route_learn *slow = learner("b", "plain", 0);
    const struct route_row *row;
    struct route_candidate c[] = { at("a", "aes", ROUTE_HAS_AES), at("b", "plain", 0) };

    (void)state;
    route_learn_predict(fast, STR("new"), 1, 0, NULL, c, 2);
    double cold = (double)c[1].run_us / (double)c[0].run_us;
    for (int job = 0; job < 12; job++) {
        char name[16];
        (void)snprintf(name, sizeof name, "job%d", job);
        for (int i = 0; i < 30; i++) {
            struct route_observation o = took(100000);
            observe(fast, name, 1, &o);
            o = took(400000);
            assert_int_equal(route_learn_observe(slow, str_of(name), 1, &o, &row), 0);
            send(slow, fast, row);
        }
    }
    route_learn_predict(fast, STR("new"), 1, 0, NULL, c, 2);
    double warm = (double)c[1].run_us / (double)c[0].run_us;
    assert_true(cold > 1.1 && cold < 1.5);
    assert_true(warm > 2.5 && warm < 5);
    assert_true(c[0].run_us > 50000 && c[0].run_us < 400000);
    route_learn_free(fast);
    route_learn_free(slow);
}

/* Code that an image does not have makes nothing faster, until measurements say that it does. */
static void absent_code_is_worth_nothing(void **state)
{
    struct route_learn *l = learner("a", "aes", ROUTE_HAS_AES);
    struct route_learn *other = learner("b", "plain", 0);
    const struct route_row *row;
    struct route_candidate c[] = { at("a", "aes", ROUTE_HAS_AES), at("b", "plain", 0) };

    (void)state;
    route_learn_predict(l, STR("j"), 1, 0, NULL, c, 2);
    double present = (double)c[1].run_us / (double)c[0].run_us;
    double unsure = c[1].learned.spread;
    route_learn_predict(l, STR("j"), 1, ROUTE_HAS_AES, NULL, c, 2);
    double absent = (double)c[1].run_us / (double)c[0].run_us;
    assert_true(present > 1.1 && absent > 0.99 && absent < 1.01);
    /* What was seen here says as much of the other class as of this one. */
    for (int i = 0; i < 30; i++) {
        struct route_observation o = took(100000);
        observe(l, "j", 1, &o);
    }
    route_learn_predict(l, STR("j"), 1, ROUTE_HAS_AES, NULL, c, 2);
    assert_true(c[1].run_us > 90000 && c[1].run_us < 112000);
    double sure = c[1].learned.spread;
    route_learn_predict(l, STR("j"), 1, 0, NULL, c, 2); /* the same rows, asked otherwise */
    assert_true(c[1].learned.spread > 2 * sure && unsure > sure);
    for (int i = 0; i < 60; i++) {
        struct route_observation o = took(400000);
        assert_int_equal(route_learn_observe(other, STR("j"), 1, &o, &row), 0);
        send(other, l, row);
    }
    route_learn_predict(l, STR("j"), 1, ROUTE_HAS_AES, NULL, c, 2);
    assert_true(c[1].run_us > 3 * c[0].run_us);
    route_learn_free(l);
    route_learn_free(other);
}

static void same_seed_same_draws(void **state)
{
    struct route_learn *l = learner("a", "aes", ROUTE_HAS_AES);
    struct route_candidate c[] = { at("a", "aes", ROUTE_HAS_AES), at("b", "plain", 0) };
    struct rng one;
    struct rng two;
    uint64_t first[2];

    (void)state;
    struct route_observation o = took(123456);
    observe(l, "j", 1, &o);
    rng_init(&one, 5);
    rng_init(&two, 5);
    route_learn_predict(l, STR("j"), 1, 0, &one, c, 2);
    first[0] = c[0].run_us;
    first[1] = c[1].run_us;
    route_learn_predict(l, STR("j"), 1, 0, &two, c, 2);
    assert_int_equal(c[0].run_us, first[0]);
    assert_int_equal(c[1].run_us, first[1]);
    /* A known trace, so that another compiler or C library shows itself. */
    assert_int_equal(first[0], 93764);
    assert_int_equal(first[1], 120690);
    route_learn_free(l);
}

static void rows_have_a_cap(void **state)
{
    struct route_learn_config cfg = { .node = "a", .class_id = "c", .rows_max = 2 };
    struct route_learn *l = NULL;
    const struct route_row *row;
    struct route_observation o = took(1000);

    (void)state;
    assert_int_equal(route_learn_new(&cfg, &l), 0);
    observe(l, "one", 1, &o);
    observe(l, "two", 1, &o);
    assert_int_equal(route_learn_observe(l, STR("three"), 1, &o, &row), -ENOBUFS);
    observe(l, "two", 1, &o);
    assert_int_equal(route_learn_rows(l), 2);
    struct str name;
    assert_true(route_learn_next(l, STR(""), &name) && str_eqs(name, "one"));
    assert_true(route_learn_next(l, name, &name) && str_eqs(name, "two"));
    assert_false(route_learn_next(l, name, &name));
    route_learn_free(l);
}

static void out_of_memory_loses_nothing(void **state)
{
    struct route_observation o = took(1000);
    const struct route_row *row;

    (void)state;
    for (long fail = 0;; fail++) {
        struct route_learn *l = learner("a", "c", 0);
        mem_fail_after(fail, 0);
        int rc = route_learn_observe(l, STR("j"), 1, &o, &row);
        mem_fail_after(-1, 0);
        assert_true(rc == 0 || rc == -ENOMEM);
        assert_int_equal(route_learn_rows(l), rc == 0 ? 1 : 0);
        observe(l, "j", 1, &o);
        assert_int_equal(route_learn_rows(l), 1);
        route_learn_free(l);
        if (rc == 0) {
            return;
        }
    }
}

/* ---- sizes ---- */

static void memory_runs(struct route_learn *l, int n, uint64_t bytes)
{
    for (int i = 0; i < n; i++) {
        struct route_observation o = took(100000);
        o.memory_need_bytes = bytes;
        observe(l, "j", 1, &o);
    }
}

static struct route_size size_of(struct route_learn *l, uint64_t fixed, uint64_t killed)
{
    struct route_size_ask ask = { .fixed_bytes = fixed,
                                  .killed_bytes = killed,
                                  .node_max_bytes = 4096ULL * MIB };
    struct route_totals t;
    struct route_size s;
    bool known = route_learn_totals(l, STR("j"), 1, &t);

    route_size_decide(known ? &t : NULL, 0, &ask, &s);
    return s;
}

static void limit_follows_what_was_used(void **state)
{
    struct route_learn *l = learner("a", "c", 0);
    struct route_size s = size_of(l, 0, 0);

    (void)state;
    assert_int_equal(s.basis, ROUTE_SIZE_FIRST);
    assert_int_equal(s.limit_bytes, 512ULL * MIB);
    memory_runs(l, 1, 100 * MIB);
    s = size_of(l, 0, 0);
    assert_int_equal(s.basis, ROUTE_SIZE_LEARNED);
    assert_true(s.limit_bytes > 200ULL * MIB); /* one run: twice */
    memory_runs(l, 200, 100 * MIB);
    s = size_of(l, 0, 0);
    assert_true(s.limit_bytes > 110ULL * MIB && s.limit_bytes < 126ULL * MIB);
    assert_int_equal(s.cpu_weight, size_of(l, 0, 0).cpu_weight);
    assert_true(s.cpu_weight >= 100 && s.cpu_weight <= 112);
    /* A user's limit wins; what was learned is shown, and counts for admission. */
    s = size_of(l, 512ULL * MIB, 0);
    assert_int_equal(s.basis, ROUTE_SIZE_FIXED);
    assert_int_equal(s.limit_bytes, 512ULL * MIB);
    assert_true(s.learned_bytes < 126ULL * MIB && s.reserve_bytes == s.learned_bytes);
    s = size_of(l, 64ULL * MIB, 0);
    assert_int_equal(s.limit_bytes, 64ULL * MIB);
    assert_int_equal(s.reserve_bytes, 64ULL * MIB);
    route_learn_free(l);
}

/* ---- cache ---- */

/* n runs of `cpu_us` that hold `mib` in the mean, move `bytes` and take 1 s / 2^(e log2 mib), with
 * a little noise. */
static void cache_runs(struct route_learn *l, struct rng *rng, int n, double e, uint64_t bytes)
{
    for (int i = 0; i < n; i++) {
        double mib = 1 + (double)rng_below(rng, 31);
        double noise = ((double)rng_below(rng, 2001) - 1000) / 10000;
        struct route_observation o = took((uint64_t)(1e6 * exp(noise - e * log2(mib))));
        o.cpu_us = 500000;
        o.has_cache = true;
        o.cache_mean_bytes = (uint64_t)(mib * MIB);
        o.cache_max_bytes = o.cache_mean_bytes;
        o.bandwidth_bytes = bytes;
        observe(l, "j", 1, &o);
    }
}

static struct route_cache_use use_of(struct route_learn *l)
{
    struct route_totals t;
    struct route_cache_use u;

    assert_true(route_learn_totals(l, STR("j"), 1, &t));
    route_cache_decide(&t, &u);
    return u;
}

static void classes_of_cache_follow_the_runs(void **state)
{
    static const struct {
        double e;
        uint64_t bytes;
        enum route_cache class;
    } of[] = {
        { 0.3, 100 * MIB, ROUTE_CACHE_SENSITIVE },
        { 0.3, 4096ULL * MIB, ROUTE_CACHE_SENSITIVE }, /* it streams because it lacks cache */
        { 0, 4096ULL * MIB, ROUTE_CACHE_POLLUTER },
        { 0, 100 * MIB, ROUTE_CACHE_DEFAULT },
        { 0.06, 100 * MIB, ROUTE_CACHE_DEFAULT },
        { 0.06, 4096ULL * MIB, ROUTE_CACHE_DEFAULT },
        { -0.3, 100 * MIB, ROUTE_CACHE_DEFAULT }, /* larger inputs: more cache, more time */
    };
    struct rng rng;

    (void)state;
    rng_init(&rng, test_seed("cache"));
    for (size_t i = 0; i < ARRAY_LEN(of); i++) {
        struct route_learn *l = learner("a", "c", 0);
        cache_runs(l, &rng, 7, of[i].e, of[i].bytes);
        assert_int_equal(use_of(l).class, ROUTE_CACHE_DEFAULT); /* too few */
        cache_runs(l, &rng, 60, of[i].e, of[i].bytes);
        struct route_cache_use u = use_of(l);
        assert_int_equal(u.class, of[i].class);
        assert_true(fabs(u.elasticity - of[i].e) < 4 * u.error + 0.02);
        route_learn_free(l);
    }
}

/* What was measured on two nodes adds up, though each is slower or holds more than the other; and
 * without cache readings there is nothing to say. */
static void the_slope_is_each_nodes_own(void **state)
{
    struct route_learn *a = learner("a", "c", 0);
    struct route_learn *b = learner("b", "d", 0);
    struct rng rng;

    (void)state;
    rng_init(&rng, test_seed("slope"));
    cache_runs(a, &rng, 30, 0.3, 0);
    for (int i = 0; i < 30; i++) {
        /* Twice as slow, and always with twice the cache: alone this says nothing. */
        struct route_observation o = took(2000000);
        o.has_cache = true;
        o.cache_mean_bytes = 64 * MIB;
        observe(b, "j", 1, &o);
    }
    assert_true(fabs(use_of(b).elasticity) < 1e-6);
    assert_int_equal(use_of(b).class, ROUTE_CACHE_DEFAULT);
    double alone = use_of(a).elasticity;
    send(b, a, route_learn_own(b, STR("j"), 1));
    assert_true(fabs(use_of(a).elasticity - alone) < 0.05);
    assert_int_equal(use_of(a).class, ROUTE_CACHE_SENSITIVE);
    memory_runs(b, 10, MIB);
    route_learn_free(a);
    route_learn_free(b);
}

static void a_kill_raises_the_next_limit(void **state)
{
    struct route_learn *l = learner("a", "c", 0);

    (void)state;
    memory_runs(l, 100, 100 * MIB);
    struct route_size before = size_of(l, 0, 0);
    struct route_observation o = { .outcome = ROUTE_OUTCOME_OOM,
                                   .elapsed_us = 1000,
                                   .memory_limit_bytes = before.limit_bytes };
    observe(l, "j", 1, &o);
    struct route_size next = size_of(l, 0, 0);
    assert_true(next.limit_bytes > before.limit_bytes);
    assert_true(next.margin > before.margin);
    /* The same run again, at once: twice, then all that the node gives, then no more. */
    struct route_size again = size_of(l, 0, before.limit_bytes);
    assert_int_equal(again.basis, ROUTE_SIZE_GROWN);
    assert_int_equal(again.limit_bytes, before.limit_bytes * 2);
    assert_int_equal(route_size_grow(3000ULL * MIB, 4096ULL * MIB), 4096ULL * MIB);
    assert_int_equal(route_size_grow(4096ULL * MIB, 4096ULL * MIB), 0);
    assert_true(route_size_grow(UINT64_MAX - 5, 0) >= UINT64_MAX - 5);
    /* Long quiet narrows the margin again, never below its least. */
    memory_runs(l, 6000, 100 * MIB);
    assert_true(size_of(l, 0, 0).margin < next.margin);
    assert_true(size_of(l, 0, 0).margin > 0.0999);
    route_learn_free(l);
}

static void page_cache_is_not_need(void **state)
{
    (void)state;
    /* Few samples: the peak is believed. */
    assert_int_equal(route_memory_need(100, 20, 2, 1000), 100);
    assert_int_equal(route_memory_need(100, 0, 100, 1000), 100);
    /* The lower bound can be above a peak that was only sampled. */
    assert_int_equal(route_memory_need(100, 120, 1, 1000), 120);
    /* Filled to the limit by page cache. */
    assert_int_equal(route_memory_need(1000, 200, 50, 1000), 250);
    assert_int_equal(route_memory_need(400, 200, 50, 1000), 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logarithm_and_exponential_agree_with_libm),
        cmocka_unit_test(normal_draws_have_mean_and_variance),
        cmocka_unit_test(cholesky_solves),
        cmocka_unit_test(buckets_ascend_and_hold_their_bytes),
        cmocka_unit_test(histogram_stays_sorted_and_keeps_its_weight),
        cmocka_unit_test(quantile_counts_from_above),
        cmocka_unit_test(row_survives_its_bytes),
        cmocka_unit_test(rows_of_version_1_are_read),
        cmocka_unit_test(absurd_numbers_are_refused),
        cmocka_unit_test(odd_keys_are_refused),
        cmocka_unit_test(decay_follows_the_runs),
        cmocka_unit_test(only_whole_successes_teach_time),
        cmocka_unit_test(merge_in_any_order_gives_the_same_profile),
        cmocka_unit_test(what_one_node_measured_another_predicts),
        cmocka_unit_test(one_liar_does_little),
        cmocka_unit_test(own_row_comes_back_after_a_restart),
        cmocka_unit_test(health_is_learned_and_taken_off),
        cmocka_unit_test(prior_learns_from_the_jobs),
        cmocka_unit_test(absent_code_is_worth_nothing),
        cmocka_unit_test(same_seed_same_draws),
        cmocka_unit_test(rows_have_a_cap),
        cmocka_unit_test(out_of_memory_loses_nothing),
        cmocka_unit_test(limit_follows_what_was_used),
        cmocka_unit_test(classes_of_cache_follow_the_runs),
        cmocka_unit_test(the_slope_is_each_nodes_own),
        cmocka_unit_test(a_kill_raises_the_next_limit),
        cmocka_unit_test(page_cache_is_not_need),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
