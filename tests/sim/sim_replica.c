/*
 * Replicated runs on gossip's word: the rules of agent/jobs/replica.h over real gossip cores on the
 * simulated network, with crashes, disks that are lost, hangs, splits and loss. What nodes tell
 * each other is modelled as the daemon does it: an owner tells its record to its holders until they
 * have it; who is refused gives the run up; the first live holder of a dead owner takes over;
 * whoever comes back tells and asks.
 *
 *   sim_replica [--worlds N] [--seed N]
 *
 * After every step: no accepted run is lost, epochs only grow, an end of an epoch stays an end, and
 * no two nodes that see each other speak for a run in one epoch for long. At the end, healed: every
 * accepted run has ended, everywhere. Prints the seed; the same
 * seed gives the same lines.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/jobs/replica.h"
#include "common/insist.h"
#include "tests/lib/gossip_world.h"

enum {
    NODES = 7,
    RUNS = 160,
    REPLICAS = 3,
    TICK_MS = 100,
    FAULTS_MS = 90 * 1000,
    ACCEPT_MS = 60 * 1000,
    CONFLICT_MS = 30 * 1000, /* two speakers of one epoch that see each other: no longer */
    RETURN_MS = 3000,
    ASK_MS = 60 * 1000,  /* between two questions of a holder */
    WIPE_MS = 30 * 1000, /* between two lost disks: what one held has other holders by then */
};

struct record {
    bool has, own;
    uint32_t seen_epoch; /* the highest that was ever here */
    struct run run;
};

struct world {
    struct cluster *c;
    struct rng rng;
    uint64_t seed;
    struct record at[NODES][RUNS];
    bool told[NODES][RUNS][NODES];
    uint32_t forward[NODES][RUNS]; /* a former owner that is to hear of a copy */
    bool accepted[RUNS];
    uint64_t conflict_ms[RUNS];
    bool up[NODES], saw[NODES][NODES];
    uint64_t return_ms[NODES], back_ms[NODES], heal_ms, wipe_ms;
    uint32_t group[NODES];
    uint32_t loss; /* permille, of what is told */
    uint32_t runs;
    struct ulid_gen ids;
    unsigned taken, refused, wiped, crashed, splits, doubled, denied;
};

static void check(const struct world *w, bool good, const char *what, uint32_t run)
{
    if (!good) {
        printf("FAIL seed %llu: %s (run %u, at %llu ms)\n", (unsigned long long)w->seed, what, run,
               (unsigned long long)sim_now_ms(cluster_sim(w->c)));
        exit(1);
    }
}

static uint64_t now(const struct world *w)
{
    return sim_now_ms(cluster_sim(w->c));
}

static bool chance(struct world *w, uint32_t permille)
{
    return rng_below(&w->rng, 1000) < permille;
}

static uint32_t id_of(uint32_t node)
{
    return node + 1;
}

/* Does node i see j alive? */
static bool sees(const struct world *w, uint32_t i, uint32_t j)
{
    const struct gossip *g = cluster_core(w->c, i);
    struct gossip_view v;
    char name[8];
    int n = snprintf(name, sizeof name, "n%u", j);

    return i == j || (g != NULL && gossip_find(g, (struct str){ name, (size_t)n }, &v) &&
                      (v.state == GOSSIP_ALIVE || v.state == GOSSIP_SUSPECT));
}

static size_t live_of(const struct world *w, uint32_t i, uint32_t *ids)
{
    size_t n = 0;

    for (uint32_t j = 0; j < NODES; j++) {
        if (sees(w, i, j)) {
            ids[n++] = id_of(j);
        }
    }
    return n;
}

static bool reaches(struct world *w, uint32_t i, uint32_t j)
{
    return w->up[i] && w->up[j] && w->group[i] == w->group[j] && !chance(w, w->loss);
}

/* ---- what nodes tell each other ---- */

static void put(struct world *w, uint32_t node, uint32_t run, const struct run *r, bool own)
{
    struct record *x = &w->at[node][run];

    check(w, !x->has || r->epoch >= x->run.epoch, "an epoch went back", run);
    check(w,
          !x->has || !run_is_ended(&x->run) || r->epoch > x->run.epoch ||
              run_owner(r) != run_owner(&x->run) || run_is_ended(r),
          "an end became no end", run);
    x->has = true;
    x->own = own;
    x->run = *r;
    for (uint32_t j = 0; j < NODES; j++) {
        w->told[node][run][j] = false;
    }
}

/* True: j has it, and i heard so. */
static bool tell(struct world *w, uint32_t i, uint32_t run, uint32_t j)
{
    struct record *mine = &w->at[i][run];
    struct record *there = &w->at[j][run];

    if (!sees(w, i, j) || !reaches(w, i, j)) {
        return false;
    }
    if (run_owner(&mine->run) == id_of(j)) {
        return true; /* nobody tells a node of its own runs */
    }
    enum job_replica_verdict v =
        there->has ? job_replica_judge(&there->run, &mine->run) : JOB_REPLICA_TAKE;
    if (v == JOB_REPLICA_TAKE) {
        w->doubled += there->has && job_replica_doubled(&mine->run, &there->run) ? 1 : 0;
        if (there->has && run_owner(&there->run) != run_owner(&mine->run) &&
            run_owner(&there->run) != id_of(j)) {
            w->forward[j][run] = run_owner(&there->run); /* it hears that it was overruled */
        }
        put(w, j, run, &mine->run, false);
    }
    if (!reaches(w, j, i)) {
        return false;
    }
    if (v == JOB_REPLICA_STALE) {
        w->refused++;
        w->doubled += job_replica_doubled(&there->run, &mine->run) ? 1 : 0;
        struct run stands = there->run;
        put(w, i, run, &stands, run_owner(&stands) == id_of(i));
    }
    return true;
}

static void tell_all(struct world *w, uint32_t i, uint32_t run)
{
    struct record *x = &w->at[i][run];

    for (uint32_t j = 0; j < NODES && x->own; j++) {
        bool wants = ulid_node(x->run.id) == id_of(j);
        for (size_t k = 0; k < x->run.holders_len; k++) {
            wants = wants || x->run.holders[k] == id_of(j);
        }
        if (j != i && wants && !w->told[i][run][j] && tell(w, i, run, j)) {
            w->told[i][run][j] = true;
        }
    }
}

static void choose(struct world *w, uint32_t i, struct run *r)
{
    uint32_t live[NODES];
    size_t n = live_of(w, i, live);

    r->holders_len =
        (uint8_t)job_replica_holders(r->id, id_of(i), live, n, r->holders, REPLICAS - 1);
}

/* ---- what a node does ---- */

static void accept_one(struct world *w, uint32_t i)
{
    uint32_t run = w->runs++;
    struct run r;
    size_t have = 0;

    w->ids.node = id_of(i);
    run_init(&r, ulid_next(&w->ids, 1000 + now(w), rng_u64(&w->rng)), (int64_t)now(w) * 1000);
    choose(w, i, &r);
    put(w, i, run, &r, true);
    for (size_t k = 0; k < r.holders_len; k++) {
        bool got = tell(w, i, run, r.holders[k] - 1);
        w->told[i][run][r.holders[k] - 1] = got;
        have += got ? 1 : 0;
    }
    if (have == REPLICAS - 1) {
        w->accepted[run] = true;
        return;
    }
    w->denied++; /* a holder did not answer: the client is told so, and it is forgotten */
    for (uint32_t j = 0; j < NODES; j++) {
        w->at[j][run].has = w->at[j][run].own = false;
    }
}

static void take_over(struct world *w, uint32_t i, uint32_t run)
{
    uint32_t live[NODES];
    uint32_t holders[RUN_HOLDERS_MAX];
    struct run r = w->at[i][run].run;
    size_t n = live_of(w, i, live);

    n = job_replica_holders(r.id, id_of(i), live, n, holders, REPLICAS - 1);
    holders[n++] = run_owner(&r);
    job_replica_take_over(&r, id_of(i), holders, n);
    put(w, i, run, &r, true);
    w->taken++;
}

static void look_at_copy(struct world *w, uint32_t i, uint32_t run)
{
    struct record *x = &w->at[i][run];
    uint32_t live[NODES];
    size_t n = live_of(w, i, live);
    uint32_t heir = job_replica_heir(&x->run, live, n);

    if (!run_is_ended(&x->run) && !sees(w, i, run_owner(&x->run) - 1) &&
        run_owner(&x->run) != id_of(i) && (heir == id_of(i) || heir == 0)) {
        take_over(w, i, run);
    }
}

static void fill_up(struct world *w, uint32_t i, uint32_t run)
{
    struct record *x = &w->at[i][run];
    uint32_t live[NODES];
    uint32_t order[RUN_HOLDERS_MAX];
    size_t n = live_of(w, i, live);
    size_t have = 0;

    for (size_t k = 0; k < x->run.holders_len; k++) {
        have += sees(w, i, x->run.holders[k] - 1) ? 1 : 0;
    }
    n = have < REPLICAS - 1
            ? job_replica_holders(x->run.id, id_of(i), live, n, order, RUN_HOLDERS_MAX)
            : 0;
    for (size_t k = 0; k < n; k++) {
        struct run r = x->run;
        uint32_t all[NODES];
        size_t len = live_of(w, i, all);
        if (job_replica_add_holder(&r, order[k], all, len)) {
            put(w, i, run, &r, true);
            return;
        }
    }
}

static void speak(struct world *w, uint32_t i, uint32_t run)
{
    struct record *x = &w->at[i][run];

    tell_all(w, i, run);
    if (!x->own || run_is_ended(&x->run) || now(w) < w->return_ms[i]) {
        return; /* one that came back waits for its holders' word */
    }
    fill_up(w, i, run);
    if (chance(w, 10)) {
        struct run r = x->run;
        run_move(&r, RUN_PLACED, (int64_t)now(w) * 1000);
        run_move(&r, RUN_PREPARING, (int64_t)now(w) * 1000);
        run_move(&r, RUN_RUNNING, (int64_t)now(w) * 1000);
        run_move(&r, RUN_SUCCEEDED, (int64_t)now(w) * 1000);
        r.reason = RUN_REASON_EXIT;
        r.exit_code = 0;
        put(w, i, run, &r, true);
        tell_all(w, i, run);
    }
}

/* What became of the runs of j that i has copies of? */
static void ask(struct world *w, uint32_t i, uint32_t j)
{
    for (uint32_t run = 0; run < w->runs; run++) {
        struct record *x = &w->at[i][run];
        if (!x->has || x->own || run_is_ended(&x->run) || run_owner(&x->run) != id_of(j) ||
            !reaches(w, i, j)) {
            continue;
        }
        if (!w->at[j][run].has || w->at[j][run].run.epoch < x->run.epoch) {
            take_over(w, i, run); /* its disk is lost, or an older one came back */
        } else {
            (void)tell(w, j, run, i);
        }
    }
}

/* Somebody is there (again): it is told what is ours, and asked. */
static void came(struct world *w, uint32_t i, uint32_t j)
{
    for (uint32_t run = 0; run < w->runs; run++) {
        w->told[i][run][j] = false;
    }
    ask(w, i, j);
}

static void live_on(struct world *w, uint32_t i)
{
    uint32_t turn = (uint32_t)(now(w) / TICK_MS % (ASK_MS / TICK_MS));

    for (uint32_t j = 0; j < NODES; j++) {
        bool is = j != i && sees(w, i, j);
        if (is && !w->saw[i][j]) {
            came(w, i, j);
        } else if (is && turn == j) {
            ask(w, i, j); /* who is no holder any more hears of the end like this */
        }
        w->saw[i][j] = is;
    }
    for (uint32_t run = 0; run < w->runs; run++) {
        if (w->forward[i][run] != 0 && tell(w, i, run, w->forward[i][run] - 1)) {
            w->forward[i][run] = 0;
        }
        if (w->at[i][run].own) {
            speak(w, i, run);
        } else if (w->at[i][run].has) {
            look_at_copy(w, i, run);
        }
    }
}

/* ---- faults ---- */

static void split(struct world *w, bool heal)
{
    for (uint32_t i = 0; i < NODES; i++) {
        w->group[i] = heal ? 0 : (uint32_t)rng_below(&w->rng, 2);
        sim_group(cluster_sim(w->c), cluster_host(w->c, i), w->group[i]);
    }
    w->heal_ms = heal ? 0 : now(w) + 5000 + rng_below(&w->rng, 25000);
    w->splits += heal ? 0 : 1;
}

static bool is_whole(const struct world *w)
{
    for (uint32_t i = 0; i < NODES; i++) {
        if (!w->up[i] || w->group[i] != 0) {
            return false;
        }
    }
    return true;
}

static void crash(struct world *w, uint32_t i, bool wipe)
{
    cluster_crash(w->c, i);
    w->up[i] = false;
    w->back_ms[i] = now(w) + 200 + rng_below(&w->rng, 20000);
    w->crashed++;
    if (wipe) {
        w->wiped++;
        w->wipe_ms = now(w) + WIPE_MS;
        memset(w->at[i], 0, sizeof w->at[i]);
    }
}

static void back(struct world *w, uint32_t i)
{
    uint32_t seed = (i + 1 + (uint32_t)rng_below(&w->rng, NODES - 1)) % NODES;

    cluster_start(w->c, i, true);
    cluster_join(w->c, i, seed);
    w->up[i] = true;
    w->back_ms[i] = 0;
    w->return_ms[i] = now(w) + RETURN_MS;
    memset(w->saw[i], 0, sizeof w->saw[i]);
    memset(w->told[i], 0, sizeof w->told[i]);
    memset(w->forward[i], 0, sizeof w->forward[i]);
}

static void fault(struct world *w)
{
    uint32_t i = (uint32_t)rng_below(&w->rng, NODES);
    bool whole = is_whole(w);

    switch (rng_below(&w->rng, 6)) {
    case 0:
        split(w, w->heal_ms != 0);
        break;
    case 1:
        w->loss = (uint32_t)rng_below(&w->rng, 400);
        sim_network(cluster_sim(w->c))->loss_permille = w->loss / 2;
        break;
    case 2:
        /* One disk at a time: the promise is for fewer than `replicas` of them. */
        if (whole && now(w) > w->wipe_ms) {
            crash(w, i, true);
        }
        break;
    default:
        if (w->up[i]) {
            crash(w, i, false);
        }
        break;
    }
}

/* ---- what must hold ---- */

static void holds(struct world *w, uint32_t run)
{
    bool found = false;
    bool conflict = false;

    for (uint32_t i = 0; i < NODES; i++) {
        const struct record *x = &w->at[i][run];
        found = found || x->has;
        for (uint32_t j = 0; j < i && x->own; j++) {
            const struct record *y = &w->at[j][run];
            conflict =
                conflict || (y->own && w->up[i] && w->up[j] && x->run.epoch == y->run.epoch &&
                             w->group[i] == w->group[j] && sees(w, i, j) && sees(w, j, i));
        }
    }
    check(w, !w->accepted[run] || found, "an accepted run is lost", run);
    if (!conflict) {
        w->conflict_ms[run] = 0;
    } else if (w->conflict_ms[run] == 0) {
        w->conflict_ms[run] = now(w);
    }
    check(w, !conflict || now(w) - w->conflict_ms[run] < CONFLICT_MS, "two speak for it", run);
}

static void step(struct world *w)
{
    sim_run(cluster_sim(w->c), TICK_MS);
    for (uint32_t i = 0; i < NODES; i++) {
        if (w->up[i]) {
            live_on(w, i);
        } else if (w->back_ms[i] != 0 && now(w) >= w->back_ms[i]) {
            back(w, i);
        }
    }
    if (w->heal_ms != 0 && now(w) >= w->heal_ms) {
        split(w, true);
    }
    for (uint32_t run = 0; run < w->runs; run++) {
        holds(w, run);
    }
}

/* Every run has ended, wherever something is known of it. Two ends may stand apart when the only
 * one that knew of both crashed before it told (nobody runs it again). */
static bool is_settled(const struct world *w)
{
    for (uint32_t run = 0; run < w->runs; run++) {
        for (uint32_t i = 0; i < NODES && w->accepted[run]; i++) {
            if (w->at[i][run].has && !run_is_ended(&w->at[i][run].run)) {
                return false;
            }
        }
    }
    return true;
}

static void play(uint64_t seed)
{
    struct world *w = calloc(1, sizeof *w);
    const struct cluster_options opt = { .seed = seed, .nodes = NODES };

    INSIST(w != NULL);
    w->seed = seed;
    rng_init(&w->rng, seed);
    w->c = cluster_new(&opt);
    cluster_form(w->c, 1000);
    for (uint32_t i = 0; i < NODES; i++) {
        w->up[i] = true;
    }
    uint64_t start = now(w);
    uint64_t next = start + 2000;
    while (now(w) < start + FAULTS_MS) {
        uint32_t i = (uint32_t)rng_below(&w->rng, NODES);
        if (w->up[i] && w->runs < RUNS && now(w) < start + ACCEPT_MS && chance(w, 300)) {
            accept_one(w, i);
        }
        step(w);
        if (now(w) >= next) {
            next = now(w) + 2000;
            fault(w);
        }
    }
    split(w, true);
    w->loss = 0;
    sim_network(cluster_sim(w->c))->loss_permille = 0;
    uint64_t healed = now(w);
    while (!is_settled(w) || !is_whole(w)) {
        step(w);
        check(w, now(w) < healed + 240 * 1000, "not settled in time", 0);
    }
    uint32_t accepted = 0;
    for (uint32_t run = 0; run < w->runs; run++) {
        accepted += w->accepted[run] ? 1 : 0;
    }
    check(w, accepted >= 5, "hardly a run was accepted", accepted);
    printf("ok   replica seed %llu: %u runs, %u denied, %u crashes, %u disks lost, %u splits; %u "
           "taken over, %u refused, %u ends overruled; settled in %llu s\n",
           (unsigned long long)seed, accepted, w->denied, w->crashed, w->wiped, w->splits, w->taken,
           w->refused, w->doubled, (unsigned long long)((now(w) - healed) / 1000));
    cluster_free(w->c);
    free(w);
}

int main(int argc, char **argv)
{
    uint64_t worlds = 6;
    uint64_t seed = 1;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--worlds") == 0) {
            worlds = strtoull(argv[i + 1], NULL, 10);
        } else if (strcmp(argv[i], "--seed") == 0) {
            seed = strtoull(argv[i + 1], NULL, 10);
        }
    }
    for (uint64_t i = 0; i < worlds; i++) {
        play(seed + i);
    }
    return 0;
}
