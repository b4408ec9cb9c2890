#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/table/table_internal.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/lib/seed.h"
#include "tests/lib/table_world.h"

enum { MINUTE = 60 * 1000, DAY = 24 * 60 * MINUTE };

static struct world *three(struct world_config cfg)
{
    cfg.nodes = 3;
    cfg.delay_min_ms = 1;
    cfg.delay_max_ms = 10;
    struct world *w = world_new(&cfg);

    for (size_t i = 0; i < 3; i++) {
        world_start(w, i);
    }
    world_run(w, 2000);
    return w;
}

static bool has(struct world *w, size_t node, unsigned type, const char *owner, const char *key,
                const char *value)
{
    struct table_row_view r;

    return table_get(w->nodes[node].table, type, str_of(owner), str_of(key), &r) &&
           str_eqs(r.value, value);
}

static struct table_counters counters(struct world *w, size_t node)
{
    struct table_counters c;

    table_counters(w->nodes[node].table, &c);
    return c;
}

static void settle(struct world *w)
{
    assert_int_not_equal(world_run_until(w, 2 * MINUTE, world_converged, NULL), UINT64_MAX);
}

/* --- what a row is --- */

static void test_types(void **state)
{
    (void)state;
    assert_int_equal(table_type_of(STR("job")), TABLE_JOB);
    assert_int_equal(table_type_of(STR("nothing")), 0);
    assert_null(table_type_info(0));
    assert_null(table_type_info(31));
    assert_int_equal(table_type_info(TABLE_PROFILE)->ownership, TABLE_PER_ORIGIN);
    assert_true(table_type_info(TABLE_SECRET)->is_private);
}

static void test_a_write_appears_everywhere(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = true });

    assert_int_equal(world_put(w, 0, TABLE_JOB, "resize", "{}"), 0);
    assert_int_equal(world_put(w, 1, TABLE_CAPABILITY, "", "cpu"), 0);
    assert_int_equal(world_put(w, 2, TABLE_PROFILE, "resize@1", "7"), 0);
    assert_true(has(w, 0, TABLE_JOB, "", "resize", "{}"));
    world_run(w, 1000);
    for (size_t i = 0; i < 3; i++) {
        assert_true(has(w, i, TABLE_JOB, "", "resize", "{}"));
        assert_true(has(w, i, TABLE_CAPABILITY, "n1", "", "cpu"));
        assert_true(has(w, i, TABLE_PROFILE, "n2", "resize@1", "7"));
        assert_int_equal(table_count(w->nodes[i].table, TABLE_JOB), 1);
        struct table_walk walk = { .type = TABLE_PROFILE, .owner = STR("n2") };
        struct table_row_view r;
        assert_true(table_next(w->nodes[i].table, &walk, &r));
        assert_true(str_eqs(r.writer, "n2"));
        assert_false(table_next(w->nodes[i].table, &walk, &r));
        walk = (struct table_walk){ .type = TABLE_PROFILE, .owner = STR("n1") };
        assert_false(table_next(w->nodes[i].table, &walk, &r));
    }
    world_free(w);
}

/* Nobody hears of a document before the disk of its writer has it. */
static void test_told_when_durable(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = true });

    assert_int_equal(world_put(w, 0, TABLE_JOB, "a", "1"), 0);
    world_crash(w, 0, false); /* at once: nothing is durable */
    world_run(w, 5000);
    assert_false(has(w, 1, TABLE_JOB, "", "a", "1"));
    world_start(w, 0);
    world_run(w, 5000);
    assert_false(has(w, 0, TABLE_JOB, "", "a", "1"));
    assert_int_equal(world_put(w, 0, TABLE_JOB, "a", "2"), 0);
    world_run(w, 30); /* longer than the disk takes */
    world_crash(w, 0, false);
    world_start(w, 0);
    world_run(w, 5000);
    assert_true(has(w, 0, TABLE_JOB, "", "a", "2"));
    assert_true(has(w, 2, TABLE_JOB, "", "a", "2"));
    world_free(w);
}

static void test_delete(void **state)
{
    (void)state;
    struct world *w =
        three((struct world_config){ .persist = true, .table = { .tombstone_ms = 10 * MINUTE } });

    assert_int_equal(world_delete(w, 0, TABLE_JOB, "a"), -ENOENT);
    assert_int_equal(world_put(w, 0, TABLE_JOB, "a", "1"), 0);
    world_run(w, 2000);
    world_crash(w, 2, false); /* it has the row and misses the deletion */
    assert_int_equal(world_delete(w, 1, TABLE_JOB, "a"), 0);
    assert_int_equal(world_delete(w, 1, TABLE_JOB, "a"), -ENOENT);
    world_run(w, 2000);
    assert_false(has(w, 0, TABLE_JOB, "", "a", "1"));
    assert_int_equal(table_count(w->nodes[0].table, TABLE_JOB), 0);
    world_start(w, 2);
    assert_true(has(w, 2, TABLE_JOB, "", "a", "1"));
    world_run(w, 5000);
    assert_false(has(w, 2, TABLE_JOB, "", "a", "1"));
    /* The tombstone goes in its time, on all of them, and the key can be used again. */
    world_run(w, 12 * MINUTE);
    for (size_t i = 0; i < 3; i++) {
        struct table_sizes s;
        table_sizes(w->nodes[i].table, &s);
        assert_int_equal(s.tombstones, 0);
        assert_int_equal(counters(w, i).expired, 1);
    }
    assert_int_equal(world_put(w, 0, TABLE_JOB, "a", "2"), 0);
    world_run(w, 2000);
    assert_true(has(w, 1, TABLE_JOB, "", "a", "2"));
    world_free(w);
}

static void test_node_rows_go(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = true, .reap_ms = 20000 });

    assert_int_equal(world_put(w, 0, TABLE_CAPABILITY, "", "old"), 0);
    assert_int_equal(world_put(w, 0, TABLE_IMAGE, "busybox", "x"), 0);
    assert_int_equal(world_put(w, 0, TABLE_PROFILE, "j", "5"), 0);
    world_run(w, 2000);
    assert_true(has(w, 1, TABLE_IMAGE, "n0", "busybox", "x"));
    /* A new life has none of the old one's facts. */
    world_crash(w, 0, false);
    world_start(w, 0);
    assert_int_equal(world_put(w, 0, TABLE_CAPABILITY, "", "new"), 0);
    world_run(w, 3000);
    assert_true(has(w, 1, TABLE_CAPABILITY, "n0", "", "new"));
    assert_false(has(w, 1, TABLE_IMAGE, "n0", "busybox", "x"));
    /* A reaped one has none at all; what it learned stays. */
    world_crash(w, 0, false);
    world_run(w, 10000);
    assert_true(has(w, 1, TABLE_CAPABILITY, "n0", "", "new"));
    world_run(w, 30000);
    assert_false(has(w, 1, TABLE_CAPABILITY, "n0", "", "new"));
    assert_true(has(w, 2, TABLE_PROFILE, "n0", "j", "5"));
    world_free(w);
}

static void test_interval(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = false });
    uint64_t before = w->nodes[1].changes;

    for (unsigned i = 0; i < 100; i++) {
        char value[16] = { (char)('a' + i % 26), (char)('a' + i / 26), '\0' };
        assert_int_equal(world_put(w, 0, TABLE_LOAD, "", value), 0);
        world_run(w, 50);
    }
    world_run(w, 3000);
    assert_true(has(w, 1, TABLE_LOAD, "n0", "", "vd"));
    assert_in_range(w->nodes[1].changes - before, 4, 8); /* 5 s: not a hundred */
    /* The same value again is not written. */
    before = w->nodes[1].changes;
    assert_int_equal(world_put(w, 0, TABLE_LOAD, "", "vd"), 0);
    world_run(w, 3000);
    assert_int_equal(w->nodes[1].changes, before);
    world_free(w);
}

/* --- limits --- */

static void test_budgets(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = false });
    struct table *t = w->nodes[0].table;
    struct table_effects fx;
    struct err e = { 0 };
    char *big = calloc(1, 300 * 1024);
    char key[300];

    assert_non_null(big);
    memset(key, 'k', sizeof key);
    assert_int_equal(table_put(t, w->now_ms, 1790000000000, TABLE_JOB, STR("j"),
                               (struct str){ big, 300 * 1024 }, &fx, &e),
                     -E2BIG);
    assert_non_null(strstr(err_text(&e), "job 'j': 307200 bytes"));
    assert_int_equal(table_put(t, w->now_ms, 1790000000000, TABLE_JOB, (struct str){ key, 256 },
                               STR("x"), &fx, &e),
                     -EINVAL);
    assert_int_equal(table_put(t, w->now_ms, 1790000000000, TABLE_LOAD, STR(""), STR("x"), &fx, &e),
                     -EINVAL);
    assert_int_equal(
        table_put_node(t, w->now_ms, 1790000000000, TABLE_JOB, STR(""), STR("x"), &fx, &e),
        -EINVAL);
    int rc = 0;
    unsigned n = 0;
    for (; rc == 0 && n < 1000; n++) {
        (void)snprintf(key, sizeof key, "image-%u", n);
        rc = table_put_node(t, w->now_ms, 1790000000000, TABLE_IMAGE, str_of(key),
                            (struct str){ big, 4096 }, &fx, &e);
    }
    assert_int_equal(rc, -EDQUOT);
    assert_in_range(n, 60, 64);
    assert_non_null(strstr(err_text(&e), "its budget is 262144"));
    /* What is there can still be changed and deleted. */
    assert_int_equal(table_put_node(t, w->now_ms, 1790000000000, TABLE_IMAGE, STR("image-0"),
                                    STR("small"), &fx, &e),
                     0);
    assert_int_equal(
        table_delete(t, w->now_ms, 1790000000000, TABLE_IMAGE, STR("image-1"), &fx, &e), 0);
    free(big);
    world_free(w);
}

static void test_memory_max(void **state)
{
    (void)state;
    struct world *w =
        three((struct world_config){ .persist = false, .table = { .memory_max = 64 * 1024 } });
    char value[1000];
    char key[16];
    int rc = 0;

    memset(value, 'v', sizeof value);
    for (unsigned i = 0; rc == 0 && i < 100; i++) {
        (void)snprintf(key, sizeof key, "%u", i);
        rc = world_put_bytes(w, 0, TABLE_JOB, str_of(key), (struct str){ value, sizeof value });
    }
    assert_int_equal(rc, -ENOMEM);
    world_run(w, 5000);
    struct table_sizes s;
    table_sizes(w->nodes[1].table, &s);
    assert_in_range(s.rows, 40, 64);
    world_free(w);
}

/* A large document goes over connections and is not pushed to those who have it. */
static void test_large_document(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = true });
    size_t n = 200 * 1024;
    char *big = malloc(n);

    assert_non_null(big);
    memset(big, 'x', n);
    assert_int_equal(world_put_bytes(w, 0, TABLE_JOB, STR("big"), (struct str){ big, n }), 0);
    world_run(w, 3000);
    for (size_t i = 1; i < 3; i++) {
        struct table_row_view r;
        assert_true(table_get(w->nodes[i].table, TABLE_JOB, STR(""), STR("big"), &r));
        assert_int_equal(r.value.n, n);
        assert_memory_equal(r.value.p, big, n);
    }
    struct table_counters c = counters(w, 0);
    assert_in_range(c.sent_bulk_bytes, n, 4 * n);
    free(big);
    world_free(w);
}

/* --- clocks --- */

static void test_clock_ahead(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = true });

    w->nodes[0].wall_offset_ms = 10 * MINUTE;
    assert_int_equal(world_put(w, 0, TABLE_JOB, "early", "0"), 0);
    world_run(w, 2 * MINUTE);
    assert_false(has(w, 1, TABLE_JOB, "", "early", "0"));
    assert_true(counters(w, 1).refused_skew > 0);
    /* Set right again, it dates anew what nobody took, and goes on. */
    w->nodes[0].wall_offset_ms = 0;
    world_run(w, 10000);
    assert_int_equal(world_put(w, 0, TABLE_JOB, "late", "1"), 0);
    world_run(w, MINUTE);
    assert_true(has(w, 1, TABLE_JOB, "", "early", "0"));
    assert_true(has(w, 2, TABLE_JOB, "", "late", "1"));
    settle(w);
    world_free(w);
}

/* A node whose clock is behind still overwrites what it has seen. */
static void test_clock_behind(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = true });

    assert_int_equal(world_put(w, 0, TABLE_JOB, "a", "first"), 0);
    world_run(w, 2000);
    w->nodes[1].wall_offset_ms = -30 * 1000;
    assert_int_equal(world_put(w, 1, TABLE_JOB, "a", "second"), 0);
    world_run(w, 2000);
    for (size_t i = 0; i < 3; i++) {
        assert_true(has(w, i, TABLE_JOB, "", "a", "second"));
    }
    world_free(w);
}

/* A node that starts in 1970 keeps what it has and what it writes. */
static void test_clock_1970(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = true });

    assert_int_equal(world_put(w, 0, TABLE_JOB, "a", "1"), 0);
    world_run(w, 2000);
    world_crash(w, 0, false);
    w->nodes[0].wall_offset_ms = -1700000000000;
    world_start(w, 0);
    assert_true(has(w, 0, TABLE_JOB, "", "a", "1"));
    assert_int_equal(world_put(w, 0, TABLE_JOB, "a", "2"), 0);
    world_run(w, 5000);
    assert_true(has(w, 1, TABLE_JOB, "", "a", "2"));
    w->nodes[0].wall_offset_ms = 0;
    world_run(w, 5000);
    settle(w);
    assert_true(has(w, 0, TABLE_JOB, "", "a", "2"));
    world_free(w);
}

/* --- lives and disks --- */

static void test_lost_disk(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = true });

    assert_int_equal(world_put(w, 0, TABLE_JOB, "a", "1"), 0);
    world_run(w, 2000);
    world_crash(w, 0, true);
    world_start(w, 0);
    assert_int_equal(world_put(w, 0, TABLE_JOB, "b", "2"), 0);
    world_run(w, 5000);
    for (size_t i = 0; i < 3; i++) {
        assert_true(has(w, i, TABLE_JOB, "", "a", "1"));
        assert_true(has(w, i, TABLE_JOB, "", "b", "2"));
    }
    settle(w);
    world_free(w);
}

static void test_restored_disk(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = true });

    assert_int_equal(world_put(w, 0, TABLE_JOB, "a", "1"), 0);
    world_run(w, 2000);
    struct world_disk *backup = world_disk_copy(w, 0);
    assert_int_equal(world_put(w, 0, TABLE_JOB, "b", "since"), 0);
    assert_int_equal(world_put(w, 0, TABLE_JOB, "a", "2"), 0);
    world_run(w, 2000);
    world_crash(w, 0, true);
    world_disk_restore(w, 0, backup);
    world_start(w, 0);
    /* It writes with numbers that it used before. */
    assert_int_equal(world_put(w, 0, TABLE_JOB, "c", "again"), 0);
    world_run(w, 30000);
    settle(w);
    for (size_t i = 0; i < 3; i++) {
        assert_true(has(w, i, TABLE_JOB, "", "a", "2"));
        assert_true(has(w, i, TABLE_JOB, "", "b", "since"));
        assert_true(has(w, i, TABLE_JOB, "", "c", "again"));
    }
    world_free(w);
}

/* The earlier life's clock was ahead: its epoch is greater than the new one's. */
static void test_epoch_of_the_future(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = true });

    world_crash(w, 0, false);
    w->nodes[0].wall_offset_ms = 30 * MINUTE;
    world_start(w, 0);
    assert_int_equal(world_put(w, 0, TABLE_CAPABILITY, "", "old"), 0);
    world_run(w, 5000);
    assert_true(has(w, 1, TABLE_CAPABILITY, "n0", "", "old"));
    world_crash(w, 0, false);
    w->nodes[0].wall_offset_ms = 0;
    world_start(w, 0);
    assert_int_equal(world_put(w, 0, TABLE_CAPABILITY, "", "new"), 0);
    world_run(w, 20000);
    assert_true(has(w, 1, TABLE_CAPABILITY, "n0", "", "new"));
    assert_true(has(w, 2, TABLE_CAPABILITY, "n0", "", "new"));
    settle(w);
    world_free(w);
}

/* Away for longer than tombstones live: what was deleted meanwhile does not come back. */
static void test_long_absence(void **state)
{
    (void)state;
    struct world *w =
        three((struct world_config){ .persist = true, .table = { .tombstone_ms = 5 * MINUTE } });

    assert_int_equal(world_put(w, 2, TABLE_JOB, "kept", "1"), 0);
    assert_int_equal(world_put(w, 2, TABLE_JOB, "gone", "1"), 0);
    world_run(w, 2000);
    world_crash(w, 2, false);
    assert_int_equal(world_delete(w, 0, TABLE_JOB, "gone"), 0);
    world_run(w, 30 * MINUTE);
    w->cfg.table.absent_ms = 30 * MINUTE;
    world_start(w, 2);
    assert_true(has(w, 2, TABLE_JOB, "", "gone", "1")); /* readable until somebody is heard */
    world_run(w, 30000);
    settle(w);
    for (size_t i = 0; i < 3; i++) {
        assert_true(has(w, i, TABLE_JOB, "", "kept", "1"));
        assert_false(has(w, i, TABLE_JOB, "", "gone", "1"));
    }
    struct table_sizes s;
    table_sizes(w->nodes[2].table, &s);
    assert_true(s.settled);
    world_free(w);
}

/* All were away as long: nobody knows better, everything stays. */
static void test_long_absence_of_all(void **state)
{
    (void)state;
    struct world *w =
        three((struct world_config){ .persist = true, .table = { .tombstone_ms = 5 * MINUTE } });

    assert_int_equal(world_put(w, 2, TABLE_JOB, "kept", "1"), 0);
    world_run(w, 2000);
    for (size_t i = 0; i < 3; i++) {
        world_crash(w, i, i == 0); /* and one of them has a new disk */
    }
    world_run(w, 30 * MINUTE);
    w->cfg.table.absent_ms = 30 * MINUTE;
    for (size_t i = 0; i < 3; i++) {
        world_start(w, i);
    }
    world_run(w, 5 * MINUTE);
    for (size_t i = 0; i < 3; i++) {
        struct table_sizes s;
        assert_true(has(w, i, TABLE_JOB, "", "kept", "1"));
        table_sizes(w->nodes[i].table, &s);
        assert_true(s.settled);
    }
    world_free(w);
}

/* Equal versions, different rows: cannot happen; when it does it is mended. */
static void test_repair(void **state)
{
    (void)state;
    struct world *w = three((struct world_config){ .persist = true });

    assert_int_equal(world_put(w, 0, TABLE_JOB, "a", "1"), 0);
    assert_int_equal(world_put(w, 0, TABLE_JOB, "b", "1"), 0);
    world_run(w, 2000);
    struct table *t = w->nodes[1].table;
    struct table_row *r = table_row_find(t, TABLE_JOB, STR(""), STR("a"));
    assert_non_null(r);
    struct table_stream *s = r->stream;
    assert_true(table_fx_room(t, 4));
    table_row_remove(t, r);
    table_stream_rehash(t, s);
    world_run(w, 2 * MINUTE);
    assert_true(has(w, 1, TABLE_JOB, "", "a", "1"));
    assert_true(counters(w, 1).repairs >= 1);
    settle(w);
    world_free(w);
}

/* --- merging --- */

struct captured {
    char *bytes[64];
    size_t len[64];
    size_t n;
};

/* Deltas of three writers about the same keys, in every order and repeated. */
static struct table *plain(const char *name)
{
    struct table_config cfg = { .name = str_of(name), .epoch = 1, .entropy = 5, .seed = 1 };
    struct table *t = NULL;

    cfg.entropy += (uint64_t)name[0];
    assert_int_equal(table_new(&cfg, &t, NULL), 0);
    return t;
}

static void event(struct table *t, struct table_event ev, struct captured *c)
{
    struct table_effects fx;

    ev.wall_ms = 1790000000000 + (int64_t)ev.now_ms;
    table_step(t, &ev, &fx);
    for (size_t i = 0; c != NULL && i < fx.n; i++) {
        if (fx.v[i].type == TABLE_FX_SEND && c->n < 64) {
            c->bytes[c->n] = test_malloc(fx.v[i].bytes.n);
            memcpy(c->bytes[c->n], fx.v[i].bytes.p, fx.v[i].bytes.n);
            c->len[c->n++] = fx.v[i].bytes.n;
        }
    }
}

static void capture_writer(const char *name, unsigned round, struct captured *c)
{
    static const char *const keys[] = { "a", "b", "c", "d" };
    struct table *t = plain(name);
    struct table_effects fx;
    uint64_t now = 1000 + 7 * round;

    event(t, (struct table_event){ .type = TABLE_EV_MEMBER, .peer = STR("r"), .speaks = true },
          NULL);
    for (size_t i = 0; i < 4; i++) {
        char value[8] = { name[0], (char)('0' + i), '\0' };
        now += 250;
        int64_t wall = 1790000000000 + (int64_t)now;
        if (i == 3) {
            (void)table_delete(t, now, wall, TABLE_JOB, STR("b"), &fx, NULL);
        }
        assert_int_equal(
            table_put(t, now, wall, TABLE_JOB, str_of(keys[i]), str_of(value), &fx, NULL), 0);
        event(t, (struct table_event){ .now_ms = now }, c);
    }
    table_free(t);
}

static uint64_t merged(const struct captured *c, const size_t *order, size_t n)
{
    struct table *t = plain("r");
    const char *names[] = { "x", "y", "z" };

    for (size_t i = 0; i < 3; i++) {
        event(t,
              (struct table_event){
                  .type = TABLE_EV_MEMBER, .peer = str_of(names[i]), .speaks = true },
              NULL);
    }
    for (size_t i = 0; i < n; i++) {
        event(t,
              (struct table_event){ .type = TABLE_EV_MESSAGE,
                                    .now_ms = 5000,
                                    .peer = STR("x"),
                                    .bytes = { c->bytes[order[i]], c->len[order[i]] } },
              NULL);
    }
    struct table_counters k;
    table_counters(t, &k);
    assert_int_equal(k.refused_malformed, 0);
    uint64_t root = t->planes[0].root;
    assert_true(table_get(t, TABLE_JOB, STR(""), STR("d"), NULL));
    assert_false(table_get(t, TABLE_JOB, STR(""), STR("b"), NULL));
    table_free(t);
    return root;
}

static void test_order_is_nothing(void **state)
{
    (void)state;
    struct captured c = { .n = 0 };
    size_t order[128];
    struct rng rng;

    capture_writer("x", 0, &c);
    capture_writer("y", 1, &c);
    capture_writer("z", 2, &c);
    assert_in_range(c.n, 6, 40);
    rng_init(&rng, test_seed("table_order"));
    uint64_t root = 0;
    for (unsigned round = 0; round < 200; round++) {
        /* Everything twice: news and repetition. Gaps are filled by the second time around. */
        size_t n = 0;
        for (unsigned times = 0; times < 2; times++) {
            size_t from = n;
            for (size_t i = 0; i < c.n; i++) {
                order[n++] = i;
            }
            for (size_t i = n - 1; times == 0 && i > from; i--) {
                size_t k = from + (size_t)rng_below(&rng, i - from + 1);
                size_t tmp = order[i];
                order[i] = order[k];
                order[k] = tmp;
            }
        }
        uint64_t now = merged(&c, order, n);
        assert_true(round == 0 || now == root);
        root = now;
    }
    for (size_t i = 0; i < c.n; i++) {
        test_free(c.bytes[i]);
    }
}

/* --- bad messages, no memory --- */

static void test_bad_messages(void **state)
{
    (void)state;
    struct captured c = { .n = 0 };
    struct rng rng;

    capture_writer("x", 0, &c);
    rng_init(&rng, test_seed("table_bad"));
    struct table *t = plain("r");
    event(t, (struct table_event){ .type = TABLE_EV_MEMBER, .peer = STR("x"), .speaks = true },
          NULL);
    for (size_t i = 0; i < c.n; i++) {
        for (size_t cut = 0; cut < c.len[i]; cut++) {
            char *copy = test_malloc(cut + 1);
            memcpy(copy, c.bytes[i], cut);
            event(t,
                  (struct table_event){ .type = TABLE_EV_MESSAGE,
                                        .now_ms = 5000,
                                        .peer = STR("x"),
                                        .bytes = { copy, cut } },
                  NULL);
            test_free(copy);
        }
    }
    assert_int_equal(table_count(t, TABLE_JOB), 0); /* a piece of a message is nothing */
    for (unsigned round = 0; round < 20000; round++) {
        size_t i = (size_t)rng_below(&rng, c.n);
        char *copy = test_malloc(c.len[i]);
        memcpy(copy, c.bytes[i], c.len[i]);
        copy[rng_below(&rng, c.len[i])] ^= (char)(1 << rng_below(&rng, 8));
        event(t,
              (struct table_event){ .type = TABLE_EV_MESSAGE,
                                    .now_ms = 5000 + round,
                                    .peer = STR("x"),
                                    .bytes = { copy, c.len[i] } },
              NULL);
        test_free(copy);
    }
    struct table_counters k;
    table_counters(t, &k);
    assert_true(k.refused_malformed > 1000);
    event(t,
          (struct table_event){ .type = TABLE_EV_MESSAGE,
                                .peer = STR("stranger"),
                                .bytes = { c.bytes[0], c.len[0] } },
          NULL);
    struct table_counters after;
    table_counters(t, &after);
    assert_int_equal(after.refused_stranger, k.refused_stranger + 1);
    for (size_t i = 0; i < c.n; i++) {
        test_free(c.bytes[i]);
    }
    table_free(t);
}

/* Every allocation fails once: an error or a message that comes again, never a wrong row. */
static void test_no_memory(void **state)
{
    (void)state;
    struct captured c = { .n = 0 };

    capture_writer("x", 0, &c);
    for (long n = 0; n < 200; n++) {
        struct table *t = NULL;
        struct table_config cfg = { .name = STR("r"), .epoch = 1, .entropy = 9, .seed = 1 };
        mem_fail_after(n, 0);
        if (table_new(&cfg, &t, NULL) == 0) {
            struct table_effects fx;
            event(t,
                  (struct table_event){ .type = TABLE_EV_MEMBER, .peer = STR("x"), .speaks = true },
                  NULL);
            (void)table_put(t, 1000, 1790000000000, TABLE_JOB, STR("own"), STR("1"), &fx, NULL);
            (void)table_put_node(t, 1000, 1790000000000, TABLE_LOAD, STR(""), STR("1"), &fx, NULL);
            for (size_t i = 0; i < c.n; i++) {
                event(t,
                      (struct table_event){ .type = TABLE_EV_MESSAGE,
                                            .now_ms = 2000 + i,
                                            .peer = STR("x"),
                                            .bytes = { c.bytes[i], c.len[i] } },
                      NULL);
            }
        }
        mem_fail_after(-1, 0);
        for (size_t i = 0; t != NULL && i < c.n; i++) {
            event(t,
                  (struct table_event){ .type = TABLE_EV_MEMBER, .peer = STR("x"), .speaks = true },
                  NULL);
            event(t,
                  (struct table_event){ .type = TABLE_EV_MESSAGE,
                                        .now_ms = 3000 + i,
                                        .peer = STR("x"),
                                        .bytes = { c.bytes[i], c.len[i] } },
                  NULL);
        }
        assert_true(t == NULL || table_get(t, TABLE_JOB, STR(""), STR("d"), NULL));
        table_free(t);
    }
    for (size_t i = 0; i < c.n; i++) {
        test_free(c.bytes[i]);
    }
}

/* Equal seeds, equal traces. */
static void test_deterministic(void **state)
{
    (void)state;
    uint64_t sent[2];
    uint64_t rows[2];

    for (size_t i = 0; i < 2; i++) {
        struct world *w =
            three((struct world_config){ .seed = 77, .persist = true, .loss_permille = 200 });
        for (size_t k = 0; k < 50; k++) {
            char value[16];
            (void)snprintf(value, sizeof value, "%zu", k);
            assert_int_equal(world_put(w, k % 3, TABLE_JOB, "k", value), 0);
            world_run(w, 100);
        }
        sent[i] = w->sent;
        rows[i] = world_root(w, 1);
        world_free(w);
    }
    assert_int_equal(sent[0], sent[1]);
    assert_int_equal(rows[0], rows[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_a_write_appears_everywhere),
        cmocka_unit_test(test_told_when_durable),
        cmocka_unit_test(test_delete),
        cmocka_unit_test(test_node_rows_go),
        cmocka_unit_test(test_interval),
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_memory_max),
        cmocka_unit_test(test_large_document),
        cmocka_unit_test(test_clock_ahead),
        cmocka_unit_test(test_clock_behind),
        cmocka_unit_test(test_clock_1970),
        cmocka_unit_test(test_lost_disk),
        cmocka_unit_test(test_restored_disk),
        cmocka_unit_test(test_epoch_of_the_future),
        cmocka_unit_test(test_long_absence),
        cmocka_unit_test(test_long_absence_of_all),
        cmocka_unit_test(test_repair),
        cmocka_unit_test(test_order_is_nothing),
        cmocka_unit_test(test_bad_messages),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_deterministic),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
