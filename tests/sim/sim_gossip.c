/*
 * Gossip under load and faults, on virtual time.
 *
 *   sim_gossip [--seed N] [--only NAME] [--quick] [--list] [--figures]
 *
 * Each scenario prints its seed, what it measured and the hash of its run. The same seed gives the
 * same hash with any compiler.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/insist.h"
#include "tests/lib/gossip_world.h"

struct run {
    uint64_t seed;
    bool quick;
    char text[256]; /* what was measured */
};

struct about {
    uint32_t node;
    enum gossip_state state;
    uint64_t boot;
};

static bool whole(struct cluster *c, void *arg)
{
    (void)arg;
    return cluster_whole(c);
}

static bool all_see(struct cluster *c, void *arg)
{
    const struct about *a = arg;
    return cluster_all_see(c, a->node, a->state);
}

static bool any_sees(struct cluster *c, void *arg)
{
    const struct about *a = arg;
    return cluster_any_sees(c, a->node, a->state);
}

static bool all_know(struct cluster *c, void *arg)
{
    const struct about *a = arg;
    return cluster_all_know_boot(c, a->node, a->boot);
}

static struct cluster *cluster(const struct run *r, uint32_t nodes, uint32_t spare)
{
    const struct cluster_options opt = { .seed = r->seed, .nodes = nodes, .spare = spare + nodes };
    return cluster_new(&opt);
}

/* Ends a scenario: its trace. */
static uint64_t end(struct cluster *c)
{
    uint64_t trace = sim_trace(cluster_sim(c));
    cluster_free(c);
    return trace;
}

#define MEASURED(r, ...) (void)snprintf((r)->text, sizeof((r)->text), __VA_ARGS__)

/* --- joining --- */

static uint64_t join_n(struct run *r, uint32_t n, uint64_t within_ms, uint64_t max_ms)
{
    struct cluster *c = cluster(r, n, 0);
    uint64_t start = sim_now_ms(cluster_sim(c));

    cluster_form(c, within_ms);
    uint64_t took = sim_now_ms(cluster_sim(c)) - start;
    cluster_check(took <= max_ms, c, "%u nodes joined in %llu ms", n, (unsigned long long)took);
    cluster_check(cluster_events(c)->died == 0, c, "%llu deaths while joining",
                  (unsigned long long)cluster_events(c)->died);
    MEASURED(r, "%u nodes know each other after %llu ms, %llu datagrams", n,
             (unsigned long long)took, (unsigned long long)sim_packets(cluster_sim(c)));
    return end(c);
}

static uint64_t mass_join(struct run *r)
{
    return join_n(r, r->quick ? 200 : 1000, 100, 10000);
}

static uint64_t join_50(struct run *r)
{
    return join_n(r, 50, 50, 2500);
}

static uint64_t join_99(struct run *r)
{
    return join_n(r, 99, 50, 2500);
}

/* One node's change among a thousand; then one that dies, one that leaves. */
static uint64_t large(struct run *r)
{
    struct cluster *c = cluster(r, r->quick ? 200 : 1000, 0);
    struct about a = { .node = 7, .boot = 4711 };

    cluster_form(c, 5000);
    sim_run(cluster_sim(c), 5000);
    cluster_set_meta(c, a.node, a.boot);
    uint64_t change = cluster_until(c, "a change reaches all", all_know, &a, 5000);
    a = (struct about){ .node = 11, .state = GOSSIP_DEAD };
    cluster_crash(c, a.node);
    uint64_t first = cluster_until(c, "a dead node is seen", any_sees, &a, 10000);
    uint64_t all = first + cluster_until(c, "all see it", all_see, &a, 10000);
    a = (struct about){ .node = 13, .state = GOSSIP_LEFT };
    cluster_leave(c, a.node);
    uint64_t left = cluster_until(c, "a node leaves", all_see, &a, 5000);
    cluster_check(cluster_events(c)->false_died == 0, c, "false deaths");
    MEASURED(r, "%u nodes: change %llu ms, death seen %llu / by all %llu ms, leave %llu ms",
             cluster_len(c), (unsigned long long)change, (unsigned long long)first,
             (unsigned long long)all, (unsigned long long)left);
    return end(c);
}

/* What an idle node sends. */
static uint64_t idle(struct run *r)
{
    struct cluster *c = cluster(r, 100, 0);
    struct sim *s = cluster_sim(c);

    cluster_form(c, 1000);
    sim_run(s, 20000);
    uint64_t packets = sim_packets(s);
    uint64_t bytes = sim_bytes(s);
    sim_run(s, 60000);
    packets = sim_packets(s) - packets;
    bytes = sim_bytes(s) - bytes;
    cluster_check(packets <= 100 * 60 * 2 + 100, c, "%llu packets", (unsigned long long)packets);
    cluster_check(bytes <= 100ULL * 60 * 89, c, "%llu bytes", (unsigned long long)bytes);
    MEASURED(r, "100 nodes, each %.2f packets and %.1f bytes per second", (double)packets / 6000,
             (double)bytes / 6000);
    return end(c);
}

/* --- failures --- */

static uint64_t crash(struct run *r, bool silent)
{
    struct cluster *c = cluster(r, 100, 0);
    struct about a = { .node = 42, .state = GOSSIP_DEAD };

    cluster_form(c, 2000);
    sim_run(cluster_sim(c), 5000);
    if (silent) {
        sim_mute(cluster_sim(c), cluster_host(c, a.node), true, true);
        cluster_unwell(c, a.node, true);
    } else {
        cluster_crash(c, a.node);
    }
    uint64_t first = cluster_until(c, "the first sees it", any_sees, &a, 12000);
    uint64_t all = first;
    while (!silent && !cluster_all_see(c, a.node, a.state)) {
        sim_run(cluster_sim(c), 20);
        all += 20;
        cluster_check(all < 15000, c, "not all see it");
    }
    cluster_check(cluster_events(c)->well_died == 0, c, "healthy nodes died");
    MEASURED(r, "first dead after %llu ms, all know after %llu ms", (unsigned long long)first,
             (unsigned long long)all);
    return end(c);
}

static uint64_t crash_refusing(struct run *r)
{
    return crash(r, false);
}

static uint64_t crash_silent(struct run *r)
{
    return crash(r, true);
}

static uint64_t rolling_restart(struct run *r)
{
    struct cluster *c = cluster(r, 60, 0);

    cluster_form(c, 1000);
    sim_run(cluster_sim(c), 3000);
    *cluster_events(c) = (struct cluster_events){ 0 };
    for (uint32_t i = 0; i < cluster_len(c); i++) {
        cluster_crash(c, i);
        sim_run(cluster_sim(c), 300);
        cluster_start(c, i, false);
        cluster_join(c, i, (i + 1) % cluster_len(c));
        sim_run(cluster_sim(c), 700);
    }
    uint64_t took = cluster_until(c, "whole after a rolling restart", whole, NULL, 10000);
    cluster_check(cluster_events(c)->false_died == 0, c, "%llu false deaths",
                  (unsigned long long)cluster_events(c)->false_died);
    MEASURED(r, "60 restarts, a second each: whole %llu ms after the last",
             (unsigned long long)took);
    return end(c);
}

/* All restart at once, and know only what their files say. */
static uint64_t restart_all(struct run *r)
{
    struct cluster *c = cluster(r, 40, 0);

    cluster_form(c, 1000);
    sim_run(cluster_sim(c), 20000);
    for (uint32_t i = 0; i < cluster_len(c); i++) {
        cluster_crash(c, i);
    }
    sim_run(cluster_sim(c), 2000);
    for (uint32_t i = 0; i < cluster_len(c); i++) {
        cluster_start(c, i, true);
    }
    uint64_t took = cluster_until(c, "whole from files alone", whole, NULL, 30000);
    MEASURED(r, "40 nodes without a seed find each other in %llu ms", (unsigned long long)took);
    return end(c);
}

static uint64_t flapping(struct run *r)
{
    struct cluster *c = cluster(r, 50, 0);

    cluster_form(c, 1000);
    sim_run(cluster_sim(c), 3000);
    for (unsigned i = 0; i < 12; i++) {
        cluster_crash(c, 5);
        sim_run(cluster_sim(c), 500 + rng_below(sim_rng(cluster_sim(c)), 6000));
        cluster_start(c, 5, i % 2 == 0);
        cluster_join(c, 5, 6 + i);
        sim_run(cluster_sim(c), 500 + rng_below(sim_rng(cluster_sim(c)), 4000));
    }
    uint64_t took = cluster_until(c, "a flapping node is there at last", whole, NULL, 15000);
    cluster_check(cluster_events(c)->well_died < 100, c, "%llu deaths of live nodes",
                  (unsigned long long)cluster_events(c)->well_died);
    MEASURED(r, "12 flaps, whole %llu ms after the last", (unsigned long long)took);
    return end(c);
}

static void split(struct cluster *c, uint64_t ms)
{
    for (uint32_t i = 0; i < cluster_len(c); i++) {
        sim_group(cluster_sim(c), cluster_host(c, i), i % 2);
        cluster_unwell(c, i, true);
    }
    sim_run(cluster_sim(c), ms);
    for (uint32_t i = 0; i < cluster_len(c); i++) {
        sim_group(cluster_sim(c), cluster_host(c, i), 0);
    }
}

static uint64_t split_heal(struct run *r)
{
    struct cluster *c = cluster(r, 30, 0);
    uint64_t took[3];
    static const uint64_t ms[3] = { 8000, 60000, 600000 };

    cluster_form(c, 500);
    for (unsigned i = 0; i < 3; i++) {
        sim_run(cluster_sim(c), 5000);
        split(c, ms[i]);
        cluster_check(ms[i] < 20000 || !cluster_whole(c), c, "a split that nobody saw");
        took[i] = cluster_until(c, "whole after a split", whole, NULL, 30000);
    }
    MEASURED(r, "15 + 15: whole %llu, %llu, %llu ms after splits of 8, 60, 600 s",
             (unsigned long long)took[0], (unsigned long long)took[1], (unsigned long long)took[2]);
    return end(c);
}

/* One hears nobody, but is heard; then the other way round. */
static uint64_t one_way(struct run *r)
{
    struct cluster *c = cluster(r, 30, 0);

    cluster_form(c, 500);
    for (unsigned i = 0; i < 2; i++) {
        uint32_t host = cluster_host(c, 9);
        cluster_unwell(c, 9, true);
        sim_mute(cluster_sim(c), host, i == 0, i == 1);
        sim_run(cluster_sim(c), 40000);
        sim_mute(cluster_sim(c), host, false, false);
        (void)cluster_until(c, "whole after a one-way cut", whole, NULL, 40000);
    }
    cluster_check(cluster_events(c)->well_died == 0, c, "%llu deaths among the healthy",
                  (unsigned long long)cluster_events(c)->well_died);
    MEASURED(r, "40 s deaf, 40 s mute: no healthy node was declared dead");
    return end(c);
}

/* Eight of fifty hang 4 s, run 64 ms, hang 4 s, … for a minute. memberlist: 1,250 false deaths. */
static uint64_t slow_nodes(struct run *r)
{
    struct cluster *c = cluster(r, 50, 0);

    cluster_form(c, 500);
    sim_run(cluster_sim(c), 5000);
    for (uint32_t i = 0; i < 8; i++) {
        cluster_unwell(c, i * 6, true);
    }
    uint64_t until = sim_now_ms(cluster_sim(c)) + 64000;
    while (sim_now_ms(cluster_sim(c)) < until) {
        for (uint32_t i = 0; i < 8; i++) {
            sim_pause(cluster_sim(c), cluster_host(c, i * 6), 4000);
        }
        sim_run(cluster_sim(c), 4064);
    }
    uint64_t died = cluster_events(c)->false_died;
    cluster_check(cluster_events(c)->well_died == 0, c, "%llu deaths among the healthy",
                  (unsigned long long)cluster_events(c)->well_died);
    cluster_check(died <= 312, c, "%llu false deaths", (unsigned long long)died);
    uint64_t took = cluster_until(c, "whole after slowness", whole, NULL, 20000);
    MEASURED(r, "%llu false deaths (memberlist: 1,250), none of the healthy; whole after %llu ms",
             (unsigned long long)died, (unsigned long long)took);
    return end(c);
}

static uint64_t loss(struct run *r)
{
    struct cluster *c = cluster(r, 50, 0);
    struct sim_network *net = sim_network(cluster_sim(c));

    net->loss_permille = 300;
    net->twice_permille = 50;
    net->late_permille = 50;
    net->late_us = 40000;
    uint64_t start = sim_now_ms(cluster_sim(c));
    cluster_form(c, 50);
    uint64_t joined = sim_now_ms(cluster_sim(c)) - start;
    sim_run(cluster_sim(c), 90000);
    cluster_check(cluster_events(c)->died == 0, c, "%llu deaths",
                  (unsigned long long)cluster_events(c)->died);
    struct about a = { .node = 3, .boot = 99 };
    cluster_set_meta(c, a.node, a.boot);
    uint64_t change = cluster_until(c, "a change reaches all", all_know, &a, 10000);
    MEASURED(
        r,
        "30 %% loss, 50 nodes: joined in %llu ms, change in %llu ms, %llu suspicions, no death in 90 s",
        (unsigned long long)joined, (unsigned long long)change,
        (unsigned long long)cluster_events(c)->suspected);
    return end(c);
}

static bool leavers_gone(struct cluster *c, void *arg)
{
    uint32_t n = *(const uint32_t *)arg;
    for (uint32_t i = 0; i < n; i++) {
        if (!cluster_all_see(c, i, GOSSIP_LEFT)) {
            return false;
        }
    }
    return true;
}

static uint64_t leave_100(struct run *r)
{
    struct cluster *c = cluster(r, 300, 0);
    uint32_t n = 100;

    cluster_form(c, 1000);
    sim_run(cluster_sim(c), 5000);
    *cluster_events(c) = (struct cluster_events){ 0 };
    for (uint32_t i = 0; i < n; i++) {
        cluster_leave(c, i);
    }
    uint64_t took = cluster_until(c, "100 leave", leavers_gone, &n, 10000);
    for (uint32_t i = 0; i < n; i++) {
        cluster_crash(c, i);
    }
    sim_run(cluster_sim(c), 20000);
    cluster_check(cluster_events(c)->died == 0, c, "%llu of those who left were called dead",
                  (unsigned long long)cluster_events(c)->died);
    cluster_check(cluster_whole(c), c, "the others are not whole");
    MEASURED(r, "100 of 300 leave at once: all others know after %llu ms, none called dead",
             (unsigned long long)took);
    return end(c);
}

static uint64_t duplicate(struct run *r)
{
    struct cluster *c = cluster(r, 20, 3);

    cluster_form(c, 500);
    sim_run(cluster_sim(c), 5000);
    *cluster_events(c) = (struct cluster_events){ 0 };
    cluster_twin(c, 4, 9);
    sim_run(cluster_sim(c), 60000);
    cluster_check(cluster_events(c)->conflicts > 0, c, "nobody saw the conflict");
    cluster_check(cluster_events(c)->well_died == 0, c, "%llu deaths",
                  (unsigned long long)cluster_events(c)->well_died);
    cluster_check(cluster_all_see(c, 4, GOSSIP_ALIVE), c, "the first one lost its name");
    MEASURED(r, "the first keeps its name; the second was noticed %llu times",
             (unsigned long long)cluster_events(c)->conflicts);
    return end(c);
}

static uint64_t moved(struct run *r)
{
    struct cluster *c = cluster(r, 30, 2);

    cluster_form(c, 500);
    sim_run(cluster_sim(c), 5000);
    cluster_crash(c, 8);
    sim_run(cluster_sim(c), 500);
    cluster_move(c, 8);
    cluster_join(c, 8, 1);
    uint64_t took = cluster_until(c, "a node is back at another address", whole, NULL, 15000);
    MEASURED(r, "back at another address: all know after %llu ms", (unsigned long long)took);
    return end(c);
}

/* Applications' messages: each at most once, whatever the network doubles. */
static uint64_t messages(struct run *r)
{
    struct cluster *c = cluster(r, 20, 0);

    sim_network(cluster_sim(c))->twice_permille = 500;
    sim_network(cluster_sim(c))->late_permille = 300;
    sim_network(cluster_sim(c))->late_us = 5000;
    cluster_form(c, 500);
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t from = i % 20;
        int rc =
            cluster_send(c, from, (from + 1 + i % 7) % 20, i % 3 == 0 ? 5000 : 300, i % 5 == 0);
        cluster_check(rc == 0, c, "send: %d", rc);
        sim_run(cluster_sim(c), 3);
    }
    sim_run(cluster_sim(c), 1000);
    cluster_check(cluster_events(c)->messages == 200, c, "%llu of 200 messages came",
                  (unsigned long long)cluster_events(c)->messages);
    MEASURED(r, "200 sent, half of them doubled by the network: 200 came");
    return end(c);
}

static const struct {
    const char *name;
    uint64_t (*run)(struct run *r);
} scenarios[] = {
    { "join-50", join_50 },
    { "join-99", join_99 },
    { "mass-join", mass_join },
    { "large", large },
    { "idle", idle },
    { "crash", crash_refusing },
    { "crash-silent", crash_silent },
    { "rolling-restart", rolling_restart },
    { "restart-all", restart_all },
    { "flapping", flapping },
    { "split", split_heal },
    { "one-way", one_way },
    { "slow-nodes", slow_nodes },
    { "loss", loss },
    { "leave-100", leave_100 },
    { "duplicate", duplicate },
    { "moved", moved },
    { "messages", messages },
};

static double seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    struct run r = { .seed = 1 };
    const char *only = NULL;
    bool plain = false;
    unsigned ran = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            if (str_u64(str_of(argv[++i]), &r.seed) != 0) {
                return 2;
            }
        } else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
            only = argv[++i];
        } else if (strcmp(argv[i], "--quick") == 0) {
            r.quick = true;
        } else if (strcmp(argv[i], "--plain") == 0) {
            plain = true; /* nothing that differs between two runs of one seed */
        } else {
            (void)fprintf(stderr,
                          "usage: sim_gossip [--seed N] [--only NAME] [--quick] [--plain]\n");
            return 2;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(scenarios); i++) {
        if (only != NULL && strcmp(only, scenarios[i].name) != 0) {
            continue;
        }
        double start = seconds();
        uint64_t trace = scenarios[i].run(&r);
        (void)printf("ok   %-15s seed %llu  %016llx  %s", scenarios[i].name,
                     (unsigned long long)r.seed, (unsigned long long)trace, r.text);
        if (!plain) {
            (void)printf("  [%.1f s]", seconds() - start);
        }
        (void)printf("\n");
        (void)fflush(stdout);
        ran++;
    }
    return ran > 0 ? 0 : 2;
}
