/*
 * sim_world - a network of hosts on a virtual clock: what a seed says happens, every time alike.
 *
 * A host is whoever wants datagrams, streams and a timer: a gossip core today, other cores through
 * the same five functions. The network loses, delays, reorders and doubles datagrams; streams are
 * whole or fail, as TCP would let one see it: refused (nobody listens), unreachable (cut off) or
 * silent (accepted by a kernel whose process hangs). Hosts crash, hang, and are cut from each other
 * by groups or one way. Everything that is delivered goes into a hash of the run: the trace.
 *
 * The clock does not begin at 0. Nothing here asks the machine for time or chance.
 */
#ifndef TESTS_LIB_SIM_WORLD_H
#define TESTS_LIB_SIM_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/heap.h"
#include "common/rng.h"
#include "common/str.h"

struct sim;

enum sim_failure { SIM_REFUSED, SIM_UNREACHABLE, SIM_SILENT };

/* What a host does. arg is the host's own. */
struct sim_ops {
    void (*datagram)(void *arg, uint32_t from, struct str bytes);
    /* Another opened a stream: sim_answer() or sim_hang_up() it, now or later. */
    void (*stream)(void *arg, uint32_t from, uint64_t stream, struct str bytes);
    void (*reply)(void *arg, uint32_t id, struct str bytes);
    void (*failed)(void *arg, uint32_t id, enum sim_failure how);
    void (*timer)(void *arg);
};

struct sim_network {
    uint32_t delay_min_us, delay_max_us;
    uint32_t late_permille, late_us; /* some datagrams come so much later: others overtake them */
    uint32_t loss_permille;          /* of datagrams */
    uint32_t twice_permille;
};

struct sim *sim_new(uint64_t seed, uint32_t hosts_max);
void sim_free(struct sim *s);
struct sim_network *sim_network(struct sim *s); /* may be changed at any time */
struct rng *sim_rng(struct sim *s);             /* of the world, not of a core */
uint64_t sim_now_ms(const struct sim *s);
int64_t sim_now_s(const struct sim *s);
uint64_t sim_steps(const struct sim *s);   /* deliveries so far */
uint64_t sim_trace(const struct sim *s);   /* their hash */
uint64_t sim_bytes(const struct sim *s);   /* of datagrams sent */
uint64_t sim_packets(const struct sim *s); /* datagrams sent */

/* A host that is up. Its number. */
uint32_t sim_host(struct sim *s, const struct sim_ops *ops, void *arg);
void sim_up(struct sim *s, uint32_t host);
/* The process is gone: what was on its way to it is lost, streams to it are refused. */
void sim_down(struct sim *s, uint32_t host);
bool sim_is_up(const struct sim *s, uint32_t host);
/* It does nothing till then: what arrives waits, as in a socket's buffer (up to 1,000 packets). */
void sim_pause(struct sim *s, uint32_t host, uint64_t ms);
/* Hosts of different groups do not reach each other. All begin in group 0. */
void sim_group(struct sim *s, uint32_t host, uint32_t group);
/* Nothing that it sends arrives; nothing arrives at it. */
void sim_mute(struct sim *s, uint32_t host, bool out, bool in);

void sim_send(struct sim *s, uint32_t from, uint32_t to, struct str bytes);
/* reply: an answer is wanted. `id` comes back in reply() or failed(), at deadline_ms at latest. */
void sim_open(struct sim *s, uint32_t from, uint32_t to, uint32_t id, struct str bytes, bool reply,
              uint64_t deadline_ms);
void sim_answer(struct sim *s, uint64_t stream, struct str bytes);
void sim_hang_up(struct sim *s, uint64_t stream);
/* Calls timer() at that time; replaces the last one. UINT64_MAX: never. */
void sim_timer(struct sim *s, uint32_t host, uint64_t at_ms);

/* Delivers the next thing, if it comes before the time. False: the time was reached. */
bool sim_step(struct sim *s, uint64_t until_ms);
void sim_run(struct sim *s, uint64_t ms);

#endif
