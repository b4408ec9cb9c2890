/*
 * The shared table at the size that it is made for, on a virtual clock: 1,000 nodes. Prints what it
 * measured and fails when a figure is missed. Deterministic: the same seed gives the same lines.
 *
 *   sim_table [--nodes N] [--seed N]
 *
 * memory      one node that knows N nodes x 200 keys, and a new one that learns all of that
 * changes     one document after the other, each to all nodes; with loss; while every node's load
 *             changes all the time
 * split       halves write apart for a minute, then come together
 * restarts    a tenth of the nodes at once
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/insist.h"
#include "tests/lib/table_world.h"

enum { KEYS = 200, VALUE = 64, BUDGET = 20000, SECOND = 1000, MINUTE = 60 * 1000 };

static unsigned failed;

static void expect(bool ok, const char *what)
{
    if (!ok) {
        printf("FAIL %s\n", what);
        failed++;
    }
}

/* --- memory --- */

struct pair {
    struct table *t[2];
    const char *name[2];
    uint64_t now_ms;
    uint64_t bytes;
    bool one_way; /* the second one is not given what the first knows */
};

static void step_one(struct pair *p, size_t i, struct table_event *ev)
{
    struct table_effects fx;
    struct table_event *sent = NULL;
    size_t n = 0;

    ev->now_ms = p->now_ms;
    ev->wall_ms = 1790000000000 + (int64_t)p->now_ms;
    table_step(p->t[i], ev, &fx);
    sent = calloc(fx.n + 1, sizeof *sent);
    INSIST(sent != NULL);
    for (size_t k = 0; k < fx.n; k++) {
        if (fx.v[k].type == TABLE_FX_SEND && str_eqs(fx.v[k].peer, p->name[1 - i]) &&
            !(p->one_way && i == 0 && fx.v[k].reliable)) {
            char *copy = malloc(fx.v[k].bytes.n);
            INSIST(copy != NULL);
            memcpy(copy, fx.v[k].bytes.p, fx.v[k].bytes.n);
            p->bytes += fx.v[k].bytes.n;
            sent[n++] = (struct table_event){ .type = TABLE_EV_MESSAGE,
                                              .peer = str_of(p->name[i]),
                                              .bytes = { copy, fx.v[k].bytes.n } };
        }
    }
    for (size_t k = 0; k < n; k++) {
        char *copy = NULL;
        memcpy(&copy, &sent[k].bytes.p, sizeof copy);
        step_one(p, 1 - i, &sent[k]);
        free(copy);
    }
    free(sent);
}

static uint64_t root_of(const struct table *t)
{
    struct table_sizes s;

    table_sizes(t, &s);
    return s.root;
}

static struct table *make(const char *name, uint64_t seed)
{
    struct table_config cfg = { .name = str_of(name),
                                .epoch = seed + 1,
                                .entropy = seed * 7919 + 1,
                                .seed = seed,
                                .hash_k0 = 1,
                                .hash_k1 = 2 };
    struct table *t = NULL;

    INSIST(table_new(&cfg, &t, NULL) == 0);
    return t;
}

/* What a node writes: half of it its own facts, half learned cost. */
static void fill(struct table *t, size_t node, uint64_t now_ms)
{
    struct table_effects fx;
    char key[32];
    char value[VALUE];

    for (size_t i = 0; i < KEYS; i++) {
        int n = snprintf(key, sizeof key, "job-%zu@%zu", i, node % 4);
        memset(value, (int)(i + node), sizeof value);
        INSIST(table_put_node(t, now_ms, 1790000000000 + (int64_t)now_ms,
                              i % 2 != 0 ? TABLE_PROFILE : TABLE_IMAGE,
                              (struct str){ key, (size_t)n }, (struct str){ value, VALUE }, &fx,
                              NULL) == 0);
    }
}

static void introduce(struct pair *p, bool up)
{
    for (size_t i = 0; i < 2; i++) {
        struct table_event ev = { .type = TABLE_EV_MEMBER,
                                  .peer = str_of(p->name[1 - i]),
                                  .member = up ? TABLE_MEMBER_UP : TABLE_MEMBER_DOWN,
                                  .speaks = true };
        step_one(p, i, &ev);
    }
}

/* Virtual milliseconds until `done`, or UINT64_MAX. */
static uint64_t pump(struct pair *p, size_t wanted, uint64_t most_ms)
{
    uint64_t began = p->now_ms;

    for (; p->now_ms < began + most_ms; p->now_ms += 50) {
        size_t rows = table_count(p->t[0], TABLE_IMAGE) + table_count(p->t[0], TABLE_PROFILE);
        if (rows >= wanted) {
            return p->now_ms - began;
        }
        for (size_t i = 0; i < 2; i++) {
            struct table_event ev = { .type = TABLE_EV_TICK };
            step_one(p, i, &ev);
        }
    }
    return UINT64_MAX;
}

static void memory(size_t nodes)
{
    size_t before = mallinfo2().uordblks;
    struct table *all = make("all", 1);
    struct pair p = { .now_ms = 5000000, .one_way = true };
    char name[32];

    for (size_t i = 0; i < nodes; i++) {
        (void)snprintf(name, sizeof name, "n%zu", i);
        p.t[0] = all;
        p.t[1] = make(name, i + 100);
        p.name[0] = "all";
        p.name[1] = name;
        fill(p.t[1], i, p.now_ms);
        introduce(&p, true);
        INSIST(pump(&p, (i + 1) * KEYS, MINUTE) != UINT64_MAX);
        introduce(&p, false);
        table_free(p.t[1]);
    }
    struct table_sizes s;
    table_sizes(all, &s);
    double mib = (double)(mallinfo2().uordblks - before) / 1048576;
    printf("memory: %zu rows of %zu nodes take %.1f MiB (%.1f by its own count)\n", s.rows, nodes,
           mib, (double)s.bytes / 1048576);
    expect(s.rows == nodes * KEYS, "all rows are known");
    expect(mib <= 64, "64 MiB for all of them");

    struct table *fresh = make("fresh", 2);
    struct pair q = { .t = { fresh, all }, .name = { "fresh", "all" }, .now_ms = p.now_ms };
    /* It hears of all members first. */
    for (size_t i = 0; i < nodes; i++) {
        struct table_event ev = { .type = TABLE_EV_MEMBER, .member = TABLE_MEMBER_UP };
        (void)snprintf(name, sizeof name, "n%zu", i);
        ev.peer = str_of(name);
        step_one(&q, 0, &ev);
    }
    introduce(&q, true);
    uint64_t took = pump(&q, nodes * KEYS, 5 * MINUTE);
    printf("memory: a new node has learned them after %.1f s and %.1f MiB\n", (double)took / SECOND,
           (double)q.bytes / 1048576);
    expect(took <= 60 * SECOND && root_of(fresh) == root_of(all), "a new node learns all");
    table_free(fresh);
    table_free(all);
}

/* --- changes --- */

struct change {
    const char *key;
    char value[32];
};

static bool everywhere(struct world *w, void *arg)
{
    const struct change *c = arg;

    for (size_t i = 0; i < w->cfg.nodes; i++) {
        struct table_row_view r;
        if (w->nodes[i].table != NULL &&
            (!table_get(w->nodes[i].table, TABLE_JOB, STR(""), str_of(c->key), &r) ||
             !str_eqs(r.value, c->value))) {
            return false;
        }
    }
    return true;
}

static void reset_peaks(struct world *w)
{
    for (size_t i = 0; i < w->cfg.nodes; i++) {
        w->nodes[i].peak_small = 0;
        w->nodes[i].second_ms = w->now_ms;
        w->nodes[i].second_small = 0;
        w->nodes[i].second_bulk = 0;
    }
    w->sent = 0;
}

struct traffic {
    uint64_t peak, mean, bulk;
};

static struct traffic traffic(const struct world *w, uint64_t ms)
{
    struct traffic r = { 0, 0, 0 };
    uint64_t all = 0;

    for (size_t i = 0; i < w->cfg.nodes; i++) {
        struct table_counters c;
        r.peak = w->nodes[i].peak_small > r.peak ? w->nodes[i].peak_small : r.peak;
        r.bulk += w->nodes[i].second_bulk;
        if (w->nodes[i].table != NULL) {
            table_counters(w->nodes[i].table, &c);
            all += c.sent_bytes;
        }
    }
    r.mean = all * 1000 / (ms != 0 ? ms : 1) / w->cfg.nodes;
    return r;
}

static int by_number(const void *a, const void *b)
{
    const uint64_t *x = a;
    const uint64_t *y = b;

    return (*x > *y) - (*x < *y);
}

enum { CHANGES = 20 };

static void change_one_by_one(struct world *w, const char *name, bool load)
{
    uint64_t took[CHANGES];
    const size_t changes = load ? CHANGES / 3 : CHANGES;
    struct rng rng;
    char text[64];

    rng_init(&rng, w->cfg.seed + 5);
    reset_peaks(w);
    for (size_t i = 0; i < changes; i++) {
        size_t node = (size_t)rng_below(&rng, w->cfg.nodes);
        struct change c = { .key = "doc" };
        (void)snprintf(c.value, sizeof c.value, "%s-%zu", name, i);
        INSIST(world_put(w, node, TABLE_JOB, c.key, c.value) == 0);
        took[i] = world_run_until(w, MINUTE, everywhere, &c);
        for (unsigned s = 0; s < 3; s++) {
            for (size_t k = 0; load && k < w->cfg.nodes; k++) {
                unsigned long long unused = rng_below(&rng, 64);
                unsigned long long memory = rng_u64(&rng) >> 40;
                (void)snprintf(text, sizeof text, "free=%llu wait=%zu mem=%llu", unused, k, memory);
                INSIST(world_put(w, k, TABLE_LOAD, "", text) == 0);
            }
            world_run(w, SECOND);
        }
    }
    qsort(took, changes, sizeof took[0], by_number);
    struct traffic t = traffic(w, 0);
    printf("changes, %s: to all %zu nodes in %.2f s (median), %.2f s (the slowest of %zu); at most "
           "%llu bytes/s per node\n",
           name, w->cfg.nodes, (double)took[changes / 2] / SECOND,
           (double)took[changes - 1] / SECOND, changes, (unsigned long long)t.peak);
    expect(took[changes - 1] <= 5 * SECOND, "a change reaches all within 5 s");
    expect(t.peak <= BUDGET + BUDGET / 20, "20 kB/s per node, in any five seconds");
}

static void oldest_load(struct world *w)
{
    uint64_t ages = 0;
    uint64_t n = 0;
    uint64_t worst = 0;
    int64_t now = 1790000000000 + (int64_t)w->now_ms;

    for (size_t i = 0; i < w->cfg.nodes; i += 50) {
        struct table_walk walk = { .type = TABLE_LOAD };
        struct table_row_view r;
        while (table_next(w->nodes[i].table, &walk, &r)) {
            uint64_t age = (uint64_t)(now - r.written_ms);
            ages += age;
            worst = age > worst ? age : worst;
            n++;
        }
    }
    printf("load: seen everywhere %.1f s old on average, %.1f s at most\n",
           (double)ages / (double)(n != 0 ? n : 1) / SECOND, (double)worst / SECOND);
    expect(n >= w->cfg.nodes * ((w->cfg.nodes + 49) / 50) * 99 / 100 && worst <= 120 * SECOND,
           "everybody's load is known");
}

static void idle(struct world *w)
{
    struct traffic before = traffic(w, SECOND);

    reset_peaks(w);
    world_run(w, MINUTE);
    struct traffic after = traffic(w, SECOND);
    uint64_t per_s = (after.mean - before.mean) / 60;
    printf("idle: %llu bytes/s per node, %.2f messages/s\n", (unsigned long long)per_s,
           (double)w->sent / 60 / (double)w->cfg.nodes);
    expect(per_s <= 40, "an idle table is nearly silent");
}

static void split(struct world *w)
{
    for (size_t i = 0; i < w->cfg.nodes; i += 2) {
        w->nodes[i].group = 1;
    }
    for (size_t i = 0; i < 60; i++) {
        char key[32];
        char value[32];
        (void)snprintf(key, sizeof key, "split-%zu", i % 40);
        (void)snprintf(value, sizeof value, "%zu", i);
        INSIST(world_put(w, i * 7 % w->cfg.nodes, TABLE_JOB, key, value) == 0);
        world_run(w, SECOND);
    }
    world_heal(w);
    uint64_t took = world_run_until(w, 3 * MINUTE, world_converged, NULL);
    printf("split: whole again %.1f s after healing\n", (double)took / SECOND);
    expect(took <= 60 * SECOND, "a healed split is whole within a minute");
}

static void restarts(struct world *w)
{
    for (size_t i = 0; i < w->cfg.nodes / 10; i++) {
        world_crash(w, i, false);
    }
    world_run(w, 10 * SECOND);
    for (size_t i = 0; i < w->cfg.nodes / 10; i++) {
        world_start(w, i);
        char value[32];
        (void)snprintf(value, sizeof value, "again-%zu", i);
        INSIST(world_put(w, i, TABLE_CAPABILITY, "", value) == 0);
        INSIST(world_put(w, i, TABLE_LOAD, "", value) == 0);
    }
    uint64_t took = world_run_until(w, 3 * MINUTE, world_converged, NULL);
    printf("restarts: %zu nodes at once, the same everywhere after %.1f s\n", w->cfg.nodes / 10,
           (double)took / SECOND);
    expect(took <= 60 * SECOND, "restarted nodes are in step within a minute");
}

static void changes(size_t nodes, uint64_t seed)
{
    struct world_config cfg = {
        .nodes = nodes, .seed = seed, .delay_min_ms = 1, .delay_max_ms = 5, .persist = true
    };
    struct world *w = world_new(&cfg);

    for (size_t i = 0; i < nodes; i++) {
        char value[64];
        world_start(w, i);
        memset(value, 'c', sizeof value);
        INSIST(world_put_bytes(w, i, TABLE_CAPABILITY, STR(""),
                               (struct str){ value, sizeof value }) == 0);
        INSIST(world_put(w, i, TABLE_LOAD, "", "free=0") == 0);
    }
    uint64_t took = world_run_until(w, 5 * MINUTE, world_converged, NULL);
    printf("start: %zu nodes at once, the same everywhere after %.1f s\n", nodes,
           (double)took / SECOND);
    expect(took <= MINUTE, "a cluster that starts is in step within a minute");
    world_run(w, MINUTE);
    idle(w);
    change_one_by_one(w, "quiet", false);
    w->cfg.loss_permille = 300;
    change_one_by_one(w, "30 % loss", false);
    w->cfg.loss_permille = 10;
    change_one_by_one(w, "load everywhere", true);
    oldest_load(w);
    w->cfg.loss_permille = 0;
    split(w);
    restarts(w);
    printf("steps: %llu\n", (unsigned long long)w->steps);
    world_free(w);
}

int main(int argc, char **argv)
{
    uint64_t nodes = 1000;
    uint64_t seed = 1;

    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t *to = strcmp(argv[i], "--nodes") == 0 ? &nodes : &seed;
        if (str_u64(str_of(argv[i + 1]), to) != 0) {
            printf("usage: sim_table [--nodes N] [--seed N]\n");
            return 2;
        }
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    printf("sim_table: %llu nodes, seed %llu\n", (unsigned long long)nodes,
           (unsigned long long)seed);
    memory((size_t)nodes);
    changes((size_t)nodes, seed);
    printf(failed == 0 ? "ok   sim_table\n" : "FAIL sim_table: %u figures missed\n", failed);
    return failed != 0;
}
