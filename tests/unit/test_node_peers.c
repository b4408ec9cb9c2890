/* The core of a node among others: whom it offers runs to, whose runs it takes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "agent/node/node_internal.h"
#include "agent/node/node_msg.h"
#include "common/base64.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/rng.h"

struct fixture {
    struct node_core *core;
    struct node_effects fx;
    uint64_t now_ms;
    unsigned next;
};

static void step(struct fixture *f, struct node_event ev)
{
    ev.job.now_ms = f->now_ms;
    ev.job.now_us = (int64_t)f->now_ms * 1000 + 1700000000000000;
    node_core_step(f->core, &ev, &f->fx);
}

static void job_event(struct fixture *f, struct job_event ev)
{
    step(f, (struct node_event){ .type = NODE_EV_JOB, .job = ev });
}

static const struct job_effect *effect(const struct fixture *f, enum job_effect_type type)
{
    for (size_t i = 0; i < f->fx.jobs.n; i++) {
        if (f->fx.jobs.v[i].type == type) {
            return &f->fx.jobs.v[i];
        }
    }
    return NULL;
}

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    const struct node_core_config cfg = {
        .jobs = { .max_queued = 1000, .seed = 1, .k0 = 2, .k1 = 3 },
        .name = "n1",
    };
    static const struct route_fact facts[] = { { { "own", 3 }, { "true", 4 } } };

    assert_non_null(f);
    f->now_ms = 5000;
    assert_int_equal(node_core_new(&cfg, &f->core), 0);
    step(f, (struct node_event){ .type = NODE_EV_ROOM,
                                 .room = { .slots = 1, .memory_bytes = 1000, .cpu_milli = 2000 },
                                 .facts = facts,
                                 .facts_len = 1 });
    job_event(f, (struct job_event){ .type = JOB_EV_RECOVERED });
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    node_core_free(f->core);
    mem_free(f);
    return 0;
}

static void peer_full(struct fixture *f, const char *name, unsigned slots_free, uint64_t wait_us,
                      const char *fact, uint64_t image)
{
    const struct route_fact one = { str_of(fact), STR("true") };

    step(f, (struct node_event){
                .type = NODE_EV_PEER,
                .peer = { .name = name,
                          .id32 = (uint32_t)name[1],
                          .has = NODE_PEER_HAS_LOAD | NODE_PEER_HAS_FACTS | NODE_PEER_HAS_IMAGES,
                          .room = { .slots = 4, .memory_bytes = 4000, .cpu_milli = 4000 },
                          .slots_free = slots_free,
                          .memory_free_bytes = 4000,
                          .wait_us = wait_us,
                          .facts = &one,
                          .facts_len = 1,
                          .images = &image,
                          .images_len = 1 },
            });
}

static void peer(struct fixture *f, const char *name, unsigned slots_free)
{
    peer_full(f, name, slots_free, 0, "big", 77);
}

static struct ulid submit(struct fixture *f, uint64_t memory)
{
    struct run run;
    struct ulid id = { .b = { 1, 2, 3, 4, 5, 6 } };

    id.b[15] = (uint8_t)++f->next;
    run_init(&run, id, 1700000000000000);
    run.limits.memory_bytes = memory;
    job_event(f, (struct job_event){ .type = JOB_EV_SUBMIT, .id = id, .run = &run, .token = 1 });
    const struct job_effect *store = effect(f, JOB_FX_STORE);
    assert_non_null(store);
    uint64_t seq = store->seq;
    job_event(f, (struct job_event){ .type = JOB_EV_STORED, .id = id, .seq = seq });
    return id;
}

static void place(struct fixture *f, struct ulid id, uint64_t memory, const char *require)
{
    struct str r = str_of(require);

    step(f, (struct node_event){ .type = NODE_EV_PLACE,
                                 .job = { .id = id, .attempt = 1 },
                                 .request = { .memory_bytes = memory,
                                              .require = &r,
                                              .require_len = require != NULL ? 1 : 0 },
                                 .image = 77,
                                 .image_warm = true });
}

static void offered(struct fixture *f, struct ulid id, const char *name, enum node_offer_end how,
                    unsigned slots_free)
{
    step(f, (struct node_event){
                .type = NODE_EV_OFFERED,
                .job = { .id = id, .attempt = 1 },
                .request = { .memory_bytes = 100 },
                .peer = { .name = name, .slots_free = slots_free, .memory_free_bytes = 4000 },
                .offered = how });
}

static void the_local_node_comes_first(void **state)
{
    struct fixture *f = *state;

    peer(f, "n2", 4);
    struct ulid id = submit(f, 100);
    place(f, id, 100, NULL);
    assert_null(f->fx.offer);
    assert_int_equal(f->fx.decision.chosen, 0);
    assert_int_equal(f->fx.candidates_len, 2);
    assert_non_null(effect(f, JOB_FX_PREPARE));
}

static void what_finds_no_room_here_goes_to_a_peer(void **state)
{
    struct fixture *f = *state;
    struct node_peer p;

    peer(f, "n2", 2);
    place(f, submit(f, 100), 100, NULL);
    struct ulid id = submit(f, 100);
    place(f, id, 100, NULL);
    assert_string_equal(f->fx.offer, "n2");
    assert_int_equal(f->fx.jobs.n, 0);
    /* What is on offer counts already. */
    assert_true(node_core_peer(f->core, STR("n2"), &p));
    assert_int_equal(p.slots_free, 1);
    assert_int_equal(p.memory_free_bytes, 3900);
    offered(f, id, "n2", NODE_OFFER_ACCEPTED, 0);
    assert_false(f->fx.recall);
    assert_string_equal(effect(f, JOB_FX_CHANGED)->run->node, "n2");
    assert_null(effect(f, JOB_FX_PREPARE));
    assert_int_equal(node_core_slots_used(f->core), 1); /* not here */
    const struct job_result done = { .reason = RUN_REASON_EXIT };
    job_event(f, (struct job_event){ .type = JOB_EV_ENDED,
                                     .id = id,
                                     .attempt = 1,
                                     .node = "n2",
                                     .elsewhere = true,
                                     .result = &done });
    assert_true(f->fx.capacity);
    assert_true(node_core_peer(f->core, STR("n2"), &p));
    assert_int_equal(p.slots_free, 2);
}

static void a_refusal_leads_to_the_next_and_then_to_waiting(void **state)
{
    struct fixture *f = *state;

    peer(f, "n2", 2);
    peer_full(f, "n3", 2, 50, "big", 77);
    place(f, submit(f, 100), 100, NULL);
    struct ulid id = submit(f, 100);
    place(f, id, 100, NULL);
    assert_string_equal(f->fx.offer, "n2");
    offered(f, id, "n2", NODE_OFFER_REFUSED, 2); /* it says no: its figures do not matter */
    place(f, id, 100, NULL);
    assert_string_equal(f->fx.offer, "n3");
    offered(f, id, "n3", NODE_OFFER_UNREACHED, 0);
    place(f, id, 100, NULL);
    assert_null(f->fx.offer);
    assert_int_equal(f->fx.decision.chosen, -1);
    assert_true(f->fx.decision.possible);
    assert_null(effect(f, JOB_FX_STORE)); /* it waits here */
    /* Newer word of a peer wakes the queue. */
    peer(f, "n2", 3);
    assert_true(f->fx.capacity);
    job_event(f, (struct job_event){ .type = JOB_EV_CAPACITY });
    assert_non_null(effect(f, JOB_FX_PLACE));
    place(f, id, 100, NULL);
    assert_string_equal(f->fx.offer, "n2");
}

static void requirements_and_images_choose(void **state)
{
    struct fixture *f = *state;

    peer_full(f, "n2", 2, 0, "big", 1);
    peer_full(f, "n3", 2, 90000, "big", 77);
    peer_full(f, "n4", 2, 0, "small", 77);
    struct ulid id = submit(f, 100);
    place(f, id, 100, "big");
    assert_string_equal(f->fx.offer, "n3"); /* has the image, and waits less than a pull takes */
    struct ulid none = submit(f, 100);
    place(f, none, 100, "huge");
    assert_int_equal(effect(f, JOB_FX_STORE)->run->reason, RUN_REASON_NO_MATCH);
    const struct route_request req = { .memory_bytes = 3000 };
    struct route_verdict v;
    assert_true(node_core_possible(f->core, &req, &v));
    assert_int_equal(v.kind, ROUTE_TOO_MUCH_MEMORY); /* here; but not there */
}

static void what_was_cancelled_meanwhile_is_recalled(void **state)
{
    struct fixture *f = *state;
    struct node_peer p;

    peer(f, "n2", 2);
    place(f, submit(f, 100), 100, NULL);
    struct ulid id = submit(f, 100);
    place(f, id, 100, NULL);
    job_event(f, (struct job_event){ .type = JOB_EV_CANCEL, .id = id, .token = 4 });
    offered(f, id, "n2", NODE_OFFER_ACCEPTED, 0);
    assert_true(f->fx.recall);
    assert_true(node_core_peer(f->core, STR("n2"), &p));
    assert_int_equal(p.slots_free, 2);
}

static void peers_that_drain_or_go_get_nothing(void **state)
{
    struct fixture *f = *state;
    struct node_peer p;
    size_t pos = 0;

    peer(f, "n2", 2);
    peer(f, "n3", 2);
    step(f, (struct node_event){ .type = NODE_EV_PEER,
                                 .peer = { .name = "n2", .state = NODE_PEER_DRAINING } });
    step(f, (struct node_event){ .type = NODE_EV_PEER,
                                 .peer = { .name = "n3", .state = NODE_PEER_GONE } });
    assert_int_equal(node_core_peers_len(f->core), 1);
    assert_true(node_core_peer_next(f->core, &pos, &p));
    assert_string_equal(p.name, "n2");
    assert_int_equal(p.slots_free, 2); /* only what was given has changed */
    assert_false(node_core_peer_next(f->core, &pos, &p));
    place(f, submit(f, 100), 100, NULL);
    struct ulid id = submit(f, 100);
    place(f, id, 100, NULL);
    assert_null(f->fx.offer);
    /* What only a draining node could take is not refused: it may come back. */
    struct ulid big = submit(f, 3000);
    place(f, big, 3000, NULL);
    assert_null(effect(f, JOB_FX_STORE));
}

/* Right after a start peers are not known yet: what only they can run waits. */
static void nothing_is_refused_before_peers_are_known(void **state)
{
    const struct node_core_config cfg = {
        .jobs = { .max_queued = 1000, .seed = 1, .k0 = 2, .k1 = 3 },
        .name = "n1",
        .settle_ms = 10000,
    };
    struct fixture *f = *state;

    node_core_free(f->core);
    assert_int_equal(node_core_new(&cfg, &f->core), 0);
    step(f, (struct node_event){ .type = NODE_EV_ROOM,
                                 .room = { .slots = 1, .memory_bytes = 1000, .cpu_milli = 2000 } });
    job_event(f, (struct job_event){ .type = JOB_EV_RECOVERED });
    struct ulid id = submit(f, 100);
    place(f, id, 100, "big");
    assert_null(effect(f, JOB_FX_STORE));
    f->now_ms += 9999;
    assert_false(node_core_settled(f->core, f->now_ms));
    job_event(f, (struct job_event){ .type = JOB_EV_TICK });
    place(f, id, 100, "big");
    assert_null(effect(f, JOB_FX_STORE));
    f->now_ms += 1001;
    job_event(f, (struct job_event){ .type = JOB_EV_TICK });
    assert_non_null(effect(f, JOB_FX_PLACE));
    place(f, id, 100, "big");
    assert_int_equal(effect(f, JOB_FX_STORE)->run->reason, RUN_REASON_NO_MATCH);
    assert_true(node_core_settled(f->core, f->now_ms));
}

static void ids_lead_to_names(void **state)
{
    struct fixture *f = *state;
    char name[16];

    for (int i = 9; i >= 0; i--) {
        (void)snprintf(name, sizeof(name), "p%d", i);
        step(f, (struct node_event){ .type = NODE_EV_PEER,
                                     .peer = { .name = name, .id32 = 100U + (uint32_t)i } });
    }
    assert_string_equal(node_core_peer_name(f->core, 103), "p3");
    assert_null(node_core_peer_name(f->core, 99));
    struct node_peer p;
    char last[16] = "";
    for (size_t pos = 0; node_core_peer_next(f->core, &pos, &p);) {
        assert_true(strcmp(last, p.name) < 0);
        (void)str_copy(last, sizeof(last), str_of(p.name));
    }
}

static void guest(struct fixture *f, enum node_event_type type, uint8_t id, uint32_t attempt,
                  uint64_t memory)
{
    step(f, (struct node_event){ .type = type,
                                 .job = { .id = { .b = { 7, id } }, .attempt = attempt },
                                 .request = { .memory_bytes = memory } });
}

static void guests_take_room_until_they_are_over(void **state)
{
    struct fixture *f = *state;

    guest(f, NODE_EV_GUEST, 1, 1, 400);
    assert_int_equal(f->fx.guest, NODE_GUEST_TAKEN);
    assert_int_equal(node_core_memory_used(f->core), 400);
    guest(f, NODE_EV_GUEST, 1, 1, 400); /* said twice is once */
    assert_int_equal(f->fx.guest, NODE_GUEST_TAKEN);
    assert_int_equal(node_core_slots_used(f->core), 1);
    guest(f, NODE_EV_GUEST, 1, 2, 400); /* the next attempt waits for the end of the first */
    assert_int_equal(f->fx.guest, NODE_GUEST_BUSY);
    guest(f, NODE_EV_GUEST, 2, 1, 1);
    assert_int_equal(f->fx.guest, NODE_GUEST_BUSY);
    guest(f, NODE_EV_GUEST, 3, 1, 5000);
    assert_int_equal(f->fx.guest, NODE_GUEST_IMPOSSIBLE);
    guest(f, NODE_EV_GUEST_OVER, 1, 1, 0);
    assert_true(f->fx.capacity);
    assert_int_equal(node_core_slots_used(f->core), 0);
    guest(f, NODE_EV_GUEST_OVER, 1, 1, 0);
    assert_false(f->fx.capacity);
    guest(f, NODE_EV_GUEST_BACK, 4, 9, 2000); /* it is here, whatever that means */
    guest(f, NODE_EV_GUEST_BACK, 5, 9, 2000);
    assert_int_equal(node_core_slots_used(f->core), 2);
}

/* Who pollutes is counted and told; a run that suffers from it goes where none is. */
static void polluters_and_the_sensitive_keep_apart(void **state)
{
    struct fixture *f = *state;
    const struct ulid id = { .b = { 9 } };
    struct node_event ev = { .type = NODE_EV_GUEST,
                             .job = { .id = id, .attempt = 1 },
                             .request = { .memory_bytes = 10, .pollutes = true } };
    struct node_peer self;

    step(f, ev);
    assert_int_equal(f->fx.guest, NODE_GUEST_TAKEN);
    node_core_load(f->core, &self);
    assert_int_equal(self.polluters, 1);
    assert_int_equal(self.sensitive, 0);
    for (char n = '2'; n <= '4'; n++) {
        const char name[] = { 'n', n, '\0' };
        peer_full(f, name, 4, 1000000, "big", 77);
        step(f, (struct node_event){ .type = NODE_EV_PEER,
                                     .peer = { .name = name,
                                               .id32 = (uint32_t)n,
                                               .has = NODE_PEER_HAS_LOAD,
                                               .slots_free = 4,
                                               .memory_free_bytes = 4000,
                                               .wait_us = 1000000,
                                               .polluters = n == '3' ? 0 : 1,
                                               .sensitive = n == '4' ? 0 : 2 } });
    }
    struct ulid run = submit(f, 100);
    ev = (struct node_event){ .type = NODE_EV_PLACE,
                              .job = { .id = run, .attempt = 1 },
                              .request = { .memory_bytes = 100, .cache_sensitive = true },
                              .image = 77,
                              .image_warm = true };
    step(f, ev);
    assert_string_equal(f->fx.offer, "n3");
    offered(f, run, "n3", NODE_OFFER_REFUSED, 0);
    ev.request = (struct route_request){ .memory_bytes = 100, .pollutes = true };
    step(f, ev);
    assert_string_equal(f->fx.offer, "n4");
    ev = (struct node_event){ .type = NODE_EV_GUEST_OVER, .job = { .id = id, .attempt = 1 } };
    step(f, ev);
    node_core_load(f->core, &self);
    assert_int_equal(self.polluters, 0);
}

static void end_of(struct fixture *f, struct ulid id)
{
    const struct job_result done = { .reason = RUN_REASON_EXIT };

    job_event(f,
              (struct job_event){ .type = JOB_EV_ENDED, .id = id, .attempt = 1, .result = &done });
}

static void own_runs_that_wait_go_before_guests(void **state)
{
    struct fixture *f = *state;
    struct node_peer self;

    struct ulid first = submit(f, 600);
    place(f, first, 600, NULL);
    struct ulid second = submit(f, 600);
    place(f, second, 600, NULL); /* waits */
    const struct job_result done = { .reason = RUN_REASON_EXIT,
                                     .started_us = 1700000000000000,
                                     .ended_us = 1700000002000000 };
    job_event(
        f, (struct job_event){ .type = JOB_EV_ENDED, .id = first, .attempt = 1, .result = &done });
    guest(f, NODE_EV_GUEST, 1, 1, 10);
    assert_int_equal(f->fx.guest, NODE_GUEST_BUSY);
    node_core_load(f->core, &self);
    assert_int_equal(self.slots_free, 0);
    assert_int_equal(self.wait_us, 4000000); /* two runs' time, one slot */
    /* A run that waits for another node keeps nobody out. */
    place(f, second, 600, NULL);
    struct ulid third = submit(f, 10);
    end_of(f, second);
    peer(f, "n2", 0);
    place(f, third, 10, "big");
    f->now_ms += 5000;
    guest(f, NODE_EV_GUEST, 1, 1, 10);
    assert_int_equal(f->fx.guest, NODE_GUEST_TAKEN);
    guest(f, NODE_EV_GUEST_OVER, 1, 1, 10);
    job_event(f, (struct job_event){ .type = JOB_EV_DRAIN, .drain_ms = UINT64_MAX });
    guest(f, NODE_EV_GUEST, 1, 1, 10);
    assert_int_equal(f->fx.guest, NODE_GUEST_DRAINING);
}

/* Whatever comes in whatever order: no peer is given more than it said it has, figures stay within
 * what there is. */
static size_t to_probe(struct fixture *f, const char *require, size_t max, const char **names)
{
    struct str r = str_of(require);
    const struct node_event ev = {
        .request = { .memory_bytes = 100, .require = &r, .require_len = require != NULL ? 1 : 0 },
        .image = 77,
        .image_warm = true
    };

    return node_core_to_probe(f->core, NULL, &ev, max, names);
}

static void probed(struct fixture *f, const char *name, unsigned slots_free, uint64_t wait_us)
{
    step(f, (struct node_event){ .type = NODE_EV_PROBED,
                                 .peer = { .name = name,
                                           .slots_free = slots_free,
                                           .memory_free_bytes = 4000,
                                           .wait_us = wait_us } });
}

/* A decision for a peer is made by what that peer says now. */
static void peers_are_asked_before_they_are_chosen(void **state)
{
    struct fixture *f = *state;
    const char *names[NODE_PROBES_MAX];
    struct node_peer p;

    peer(f, "p1", 1);
    peer(f, "p2", 1);
    peer(f, "p3", 1);
    assert_int_equal(to_probe(f, NULL, 4, names), 0); /* this node takes it */
    assert_int_equal(to_probe(f, "big", 2, names), 2);
    assert_int_equal(to_probe(f, "big", 4, names), 3);
    assert_int_equal(to_probe(f, "nothing", 4, names), 0);
    /* All but one turn out to be full: the table's word does not count any more. */
    probed(f, "p1", 0, 9000000);
    probed(f, "p3", 0, 9000000);
    assert_true(node_core_peer(f->core, STR("p1"), &p));
    assert_int_equal(p.slots_free, 1); /* what it says to all is kept: it only says it once */
    assert_int_equal(to_probe(f, "big", 4, names), 1);
    assert_string_equal(names[0], "p2");
    probed(f, "p2", 1, 0);
    assert_int_equal(to_probe(f, "big", 4, names), 0);
    struct ulid id = submit(f, 100);
    place(f, id, 100, "big");
    assert_string_equal(f->fx.offer, "p2");
    assert_true(f->fx.candidates[f->fx.decision.chosen].probed);
    offered(f, id, "p2", NODE_OFFER_ACCEPTED, 0);
    probed(f, "p1", 0, 9000000);
    peer(f, "p1", 1); /* newer word */
    assert_int_equal(to_probe(f, "big", 4, names), 1);
    /* What was said half a second ago is asked again; who is not known is passed over. */
    f->now_ms += NODE_PROBE_FRESH_MS + 1;
    step(f, (struct node_event){ .type = NODE_EV_JOB, .job = { .type = JOB_EV_TICK } });
    assert_int_equal(to_probe(f, "big", 4, names), 2); /* p2 has what it was given */
    probed(f, "nobody", 5, 0);
    /* Only learned placement asks. */
    node_core_set_policy(f->core, ROUTE_RANDOM);
    assert_int_equal(to_probe(f, "big", 4, names), 0);
}

static void figures_stay_within_bounds(void **state)
{
    struct fixture *f = *state;
    struct rng r;
    static const char *const names[] = { "n2", "n3", "n4" };
    struct ulid waiting = { .b = { 0 } };

    rng_init(&r, 20261127);
    for (int i = 0; i < 4000; i++) {
        const char *name = names[rng_below(&r, 3)];
        f->now_ms += rng_below(&r, 300);
        switch (rng_below(&r, 6)) {
        case 0:
            peer(f, name, (unsigned)rng_below(&r, 5));
            break;
        case 1:
            step(f, (struct node_event){ .type = NODE_EV_PEER,
                                         .peer = { .name = name, .state = NODE_PEER_GONE } });
            break;
        case 2:
            offered(f, waiting, name, (enum node_offer_end)rng_below(&r, 3), 1);
            break;
        default:
            step(f, (struct node_event){ .type = NODE_EV_PLACE,
                                         .job = { .id = waiting, .attempt = 1 },
                                         .request = { .memory_bytes = 300 } });
            break;
        }
        struct node_peer p;
        for (size_t pos = 0; node_core_peer_next(f->core, &pos, &p);) {
            assert_true(p.slots_free <= 4);
            assert_true(p.memory_free_bytes <= 4000);
        }
    }
}

static void peers_survive_every_failed_allocation(void **state)
{
    struct fixture *f = *state;
    struct node_peer p;
    char name[16];

    for (int i = 0; i < 40; i++) {
        (void)snprintf(name, sizeof(name), "m%02d", i);
        for (int64_t n = 0;
             !node_core_peer(f->core, str_of(name), &p) || p.images_len == 0 || p.facts_len == 0;
             n++) {
            assert_true(n < 20);
            mem_fail_after((long)n, 0);
            peer_full(f, name, 1, 0, "big", 5);
            mem_fail_after(-1, 0);
        }
    }
    assert_int_equal(node_core_peers_len(f->core), 40);
}

/* ---- messages ---- */

static struct run a_run(void)
{
    struct run r;
    struct ulid id = { .b = { 1, 2, 3 } };

    run_init(&r, id, 1700000000000000);
    run_set_text(r.image, sizeof(r.image), STR("a/b:1"));
    r.image_digest.algo = DIGEST_SHA256;
    run_set_text(r.entry_node, sizeof(r.entry_node), STR("n1"));
    return r;
}

static void an_offer_comes_through(void **state)
{
    AUTO_BUF struct buf text = BUF_INIT(NODE_MSG_MAX);
    struct job_problems problems;
    struct settings settings;
    struct job *job = NULL;
    struct run run = a_run();
    struct node_offer o;
    struct err e = { .code = 0 };

    (void)state;
    settings_defaults(&settings);
    assert_int_equal(job_parse(STR("{\"image\":\"a/b:1\",\"env\":{\"K\":\"\\u00e4\\n\"}}"),
                               JOB_ONE_OFF, STR(""), NULL, &settings, &job, &problems, &e),
                     0);
    run.payload_bytes = 5;
    run.policy.retries_max = 4;
    node_offer_write(&text, &run, job, (struct str){ "\0ab\xff\n", 5 });
    assert_int_equal(node_offer_parse(buf_str(&text), &o, &e), 0);
    assert_true(ulid_eq(o.run.id, run.id));
    assert_int_equal(o.run.policy.retries_max, 4);
    assert_string_equal(o.job->env.v[0], "K=\xc3\xa4\n");
    assert_true(o.has_payload);
    assert_memory_equal(o.payload, "\0ab\xff\n", 5);
    node_offer_release(&o);
    /* A length that is not the run's. */
    run.payload_bytes = 6;
    buf_reset(&text);
    node_offer_write(&text, &run, job, (struct str){ "12345", 5 });
    assert_int_equal(node_offer_parse(buf_str(&text), &o, &e), -EINVAL);
    /* To be fetched. */
    buf_reset(&text);
    node_offer_write(&text, &run, job, (struct str){ NULL, 0 });
    assert_int_equal(node_offer_parse(buf_str(&text), &o, &e), 0);
    assert_false(o.has_payload);
    node_offer_release(&o);
    /* One that is not queued, one without a digest. */
    run_move(&run, RUN_PLACED, 1);
    buf_reset(&text);
    node_offer_write(&text, &run, job, (struct str){ NULL, 0 });
    assert_int_equal(node_offer_parse(buf_str(&text), &o, &e), -EINVAL);
    job_free(job);
}

static void a_report_comes_through(void **state)
{
    AUTO_BUF struct buf text = BUF_INIT(NODE_MSG_MAX);
    char out[] = "output\0\xfe";
    char samples[] = "{\"samples\":[]}";
    struct node_report r = { .run = a_run(), .innocent = true };
    struct node_report got;
    struct job_result result;
    struct err e = { .code = 0 };

    (void)state;
    node_report_write(&text, &r);
    assert_int_equal(node_report_parse(buf_str(&text), &got, &e), -EINVAL); /* still queued */
    run_move(&r.run, RUN_PLACED, 1);
    run_move(&r.run, RUN_PREPARING, 2);
    run_move(&r.run, RUN_RUNNING, 3);
    run_move(&r.run, RUN_FAILED, 4);
    r.run.reason = RUN_REASON_EXIT;
    r.run.exit_code = 42;
    run_set_text(r.run.detail, sizeof(r.run.detail), STR("why"));
    r.samples = (struct node_bytes){ samples, strlen(samples) };
    r.files[0] = (struct node_bytes){ out, sizeof(out) };
    buf_reset(&text);
    node_report_write(&text, &r);
    assert_int_equal(node_report_parse(buf_str(&text), &got, &e), 0);
    assert_int_equal(got.files[0].n, sizeof(out));
    assert_memory_equal(got.files[0].p, out, sizeof(out));
    assert_null(got.files[1].p);
    assert_string_equal(got.samples.p, samples);
    node_report_result(&got, &result);
    assert_int_equal(result.exit_code, 42);
    assert_int_equal(result.reason, RUN_REASON_EXIT);
    assert_true(result.innocent);
    assert_string_equal(result.detail, "why");
    assert_int_equal(result.started_us, 3);
    node_report_release(&got);
}

static void answers_and_questions_come_through(void **state)
{
    AUTO_BUF struct buf text = BUF_INIT(NODE_MSG_MAX);
    const struct node_answer a = { NODE_SAYS_BUSY, 3, 1000, 50 };
    const struct node_about v[2] = { { { .b = { 1 } }, 1, 2, true },
                                     { { .b = { 2 } }, 3, 4, false } };
    struct node_answer got;
    struct node_about back[2];
    size_t n = 0;
    struct err e = { .code = 0 };

    (void)state;
    node_answer_write(&text, &a);
    assert_int_equal(node_answer_parse(buf_str(&text), &got, &e), 0);
    assert_int_equal(got.says, NODE_SAYS_BUSY);
    assert_int_equal(got.slots_free, 3);
    assert_int_equal(got.wait_us, 50);
    assert_int_equal(node_answer_parse(STR("{\"answer\":\"perhaps\"}"), &got, &e), -EINVAL);
    assert_int_equal(node_answer_parse(STR("[]"), &got, &e), -EINVAL);
    buf_reset(&text);
    node_about_write(&text, v, 2);
    assert_int_equal(node_about_parse(buf_str(&text), back, 2, &n, &e), 0);
    assert_int_equal(n, 2);
    assert_true(back[0].known);
    assert_int_equal(back[1].attempt, 4);
    assert_int_equal(node_about_parse(buf_str(&text), back, 1, &n, &e), -E2BIG);
    assert_int_equal(node_about_parse(STR("{\"runs\":[{\"id\":\"x\"}]}"), back, 2, &n, &e),
                     -EINVAL);
}

static void base64_is_its_own_inverse(void **state)
{
    static const char *const texts[][2] = {
        { "", "" },        { "f", "Zg==" },        { "fo", "Zm8=" },
        { "foo", "Zm9v" }, { "foob", "Zm9vYg==" }, { "foobar", "Zm9vYmFy" }
    };
    struct rng r;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        AUTO_BUF struct buf out = BUF_INIT(100);
        assert_int_equal(base64_encode(&out, texts[i][0], strlen(texts[i][0])), 0);
        assert_string_equal(buf_cstr(&out), texts[i][1]); /* RFC 4648, section 10 */
    }
    rng_init(&r, 4648);
    for (int i = 0; i < 300; i++) {
        AUTO_BUF struct buf out = BUF_INIT(1000);
        uint8_t bytes[200];
        size_t n = (size_t)rng_below(&r, sizeof(bytes) + 1);
        char *back = NULL;
        size_t len = 0;
        for (size_t k = 0; k < n; k++) {
            bytes[k] = (uint8_t)rng_below(&r, 256);
        }
        assert_int_equal(base64_encode(&out, bytes, n), 0);
        assert_int_equal(base64_decode(buf_str(&out), &back, &len), 0);
        assert_int_equal(len, n);
        assert_memory_equal(back, bytes, n);
        mem_free(back);
    }
}

int main(void)
{
#define CORE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CORE(the_local_node_comes_first),
        CORE(what_finds_no_room_here_goes_to_a_peer),
        CORE(a_refusal_leads_to_the_next_and_then_to_waiting),
        CORE(requirements_and_images_choose),
        CORE(what_was_cancelled_meanwhile_is_recalled),
        CORE(peers_that_drain_or_go_get_nothing),
        CORE(nothing_is_refused_before_peers_are_known),
        CORE(ids_lead_to_names),
        CORE(guests_take_room_until_they_are_over),
        CORE(own_runs_that_wait_go_before_guests),
        CORE(peers_are_asked_before_they_are_chosen),
        CORE(polluters_and_the_sensitive_keep_apart),
        CORE(figures_stay_within_bounds),
        CORE(peers_survive_every_failed_allocation),
        cmocka_unit_test(an_offer_comes_through),
        cmocka_unit_test(a_report_comes_through),
        cmocka_unit_test(answers_and_questions_come_through),
        cmocka_unit_test(base64_is_its_own_inverse),
    };

    return cmocka_run_group_tests_name("node_peers", tests, NULL, NULL);
}
