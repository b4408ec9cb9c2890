#include "tests/lib/sim_world.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/insist.h"
#include "common/map.h"
#include "common/mem.h"

enum { EVENTS_MAX = 1 << 26, BACKLOG = 1000, STREAMS = 1 << 16 };

enum kind { DATAGRAM, STREAM, REPLY, FAILED, TIMER };

struct event {
    struct heap_node node;
    enum kind kind;
    enum sim_failure how;
    uint32_t from, to;
    uint32_t id;
    uint32_t life; /* of the receiver, when it was sent */
    uint64_t stream;
    size_t n;
    char bytes[];
};

struct host {
    const struct sim_ops *ops;
    void *arg;
    bool up, mute_out, mute_in;
    uint32_t life; /* how often it was started */
    uint32_t group;
    uint32_t backlog;
    uint64_t paused_us;
    struct event *timer;
};

/* A stream between its opening and its end. */
struct stream {
    bool used, reply;
    uint64_t number;
    uint32_t from, to, id;
    struct event *deadline;
};

struct sim {
    struct rng rng;
    struct heap events;
    struct host *hosts;
    uint32_t hosts_len, hosts_max;
    struct sim_network net;
    struct stream *streams;
    uint64_t next_stream;
    uint64_t now_us;
    uint64_t steps, trace, bytes, packets;
};

static struct event *event_new(struct sim *s, enum kind kind, uint64_t at_us, struct str bytes)
{
    struct event *ev = mem_alloc(sizeof(*ev) + bytes.n);

    INSIST(ev != NULL);
    *ev = (struct event){ .kind = kind, .n = bytes.n };
    if (bytes.n != 0) {
        memcpy(ev->bytes, bytes.p, bytes.n);
    }
    heap_node_init(&ev->node);
    INSIST(heap_push(&s->events, &ev->node, at_us) == 0);
    return ev;
}

static void event_drop(struct sim *s, struct event *ev)
{
    if (ev != NULL) {
        heap_remove(&s->events, &ev->node);
        mem_free(ev);
    }
}

struct sim *sim_new(uint64_t seed, uint32_t hosts_max)
{
    struct sim *s = mem_zalloc(sizeof(*s));

    INSIST(s != NULL);
    rng_init(&s->rng, seed);
    heap_init(&s->events, EVENTS_MAX);
    s->hosts = mem_calloc(hosts_max, sizeof(*s->hosts));
    s->streams = mem_calloc(STREAMS, sizeof(*s->streams));
    INSIST(s->hosts != NULL && s->streams != NULL);
    s->hosts_max = hosts_max;
    s->next_stream = 1;
    /* Anywhere but at 0. */
    s->now_us = (1000000 + rng_below(&s->rng, 1000000000)) * 1000;
    s->net = (struct sim_network){ .delay_min_us = 200, .delay_max_us = 1500 };
    s->trace = seed;
    return s;
}

void sim_free(struct sim *s)
{
    struct heap_node *n;
    while ((n = heap_min(&s->events)) != NULL) {
        event_drop(s, CONTAINER_OF(n, struct event, node));
    }
    heap_release(&s->events);
    mem_free(s->hosts);
    mem_free(s->streams);
    mem_free(s);
}

struct sim_network *sim_network(struct sim *s)
{
    return &s->net;
}

struct rng *sim_rng(struct sim *s)
{
    return &s->rng;
}

uint64_t sim_now_ms(const struct sim *s)
{
    return s->now_us / 1000;
}

int64_t sim_now_s(const struct sim *s)
{
    return 1700000000 + (int64_t)(s->now_us / 1000000);
}

uint64_t sim_steps(const struct sim *s)
{
    return s->steps;
}

uint64_t sim_trace(const struct sim *s)
{
    return s->trace;
}

uint64_t sim_bytes(const struct sim *s)
{
    return s->bytes;
}

uint64_t sim_packets(const struct sim *s)
{
    return s->packets;
}

/* --- hosts --- */

uint32_t sim_host(struct sim *s, const struct sim_ops *ops, void *arg)
{
    INSIST(s->hosts_len < s->hosts_max);
    s->hosts[s->hosts_len] = (struct host){ .ops = ops, .arg = arg, .up = true };
    return s->hosts_len++;
}

void sim_up(struct sim *s, uint32_t host)
{
    s->hosts[host].up = true;
    s->hosts[host].paused_us = 0;
}

void sim_down(struct sim *s, uint32_t host)
{
    struct host *h = &s->hosts[host];
    h->up = false;
    h->life++;
    h->backlog = 0;
    event_drop(s, h->timer);
    h->timer = NULL;
}

bool sim_is_up(const struct sim *s, uint32_t host)
{
    return s->hosts[host].up;
}

void sim_pause(struct sim *s, uint32_t host, uint64_t ms)
{
    s->hosts[host].paused_us = s->now_us + ms * 1000;
}

void sim_group(struct sim *s, uint32_t host, uint32_t group)
{
    s->hosts[host].group = group;
}

void sim_mute(struct sim *s, uint32_t host, bool out, bool in)
{
    s->hosts[host].mute_out = out;
    s->hosts[host].mute_in = in;
}

static bool reaches(const struct sim *s, uint32_t from, uint32_t to)
{
    return to < s->hosts_len && s->hosts[from].group == s->hosts[to].group &&
           !s->hosts[from].mute_out && !s->hosts[to].mute_in;
}

static uint64_t delay(struct sim *s)
{
    return s->net.delay_min_us + rng_below(&s->rng, s->net.delay_max_us - s->net.delay_min_us + 1U);
}

static bool chance(struct sim *s, uint32_t permille)
{
    return permille != 0 && rng_below(&s->rng, 1000) < permille;
}

/* --- datagrams --- */

static void datagram_put(struct sim *s, uint32_t from, uint32_t to, struct str bytes)
{
    uint64_t at = s->now_us + delay(s) + (chance(s, s->net.late_permille) ? s->net.late_us : 0);
    struct event *ev = event_new(s, DATAGRAM, at, bytes);
    ev->from = from;
    ev->to = to;
    ev->life = s->hosts[to].life;
}

void sim_send(struct sim *s, uint32_t from, uint32_t to, struct str bytes)
{
    s->packets++;
    s->bytes += bytes.n;
    if (!reaches(s, from, to) || chance(s, s->net.loss_permille)) {
        return;
    }
    datagram_put(s, from, to, bytes);
    if (chance(s, s->net.twice_permille)) {
        datagram_put(s, from, to, bytes);
    }
}

/* --- streams --- */

static struct stream *stream_of(struct sim *s, uint64_t number)
{
    struct stream *st = &s->streams[number % STREAMS];
    return st->used && st->number == number ? st : NULL;
}

static void stream_end(struct sim *s, struct stream *st)
{
    event_drop(s, st->deadline);
    st->used = false;
}

static void fail_at(struct sim *s, struct stream *st, uint64_t at_us, enum sim_failure how)
{
    event_drop(s, st->deadline);
    st->deadline = event_new(s, FAILED, at_us, STR(""));
    st->deadline->to = st->from;
    st->deadline->life = s->hosts[st->from].life;
    st->deadline->id = st->id;
    st->deadline->stream = st->number;
    st->deadline->how = how;
}

void sim_open(struct sim *s, uint32_t from, uint32_t to, uint32_t id, struct str bytes, bool reply,
              uint64_t deadline_ms)
{
    uint64_t number = s->next_stream++;
    struct stream *st = &s->streams[number % STREAMS];
    uint64_t late = deadline_ms * 1000 > s->now_us ? deadline_ms * 1000 : s->now_us + 1000;

    INSIST(!st->used);
    *st = (struct stream){
        .used = true, .reply = reply, .number = number, .from = from, .to = to, .id = id
    };
    if (!reaches(s, from, to) || !reaches(s, to, from)) {
        fail_at(s, st, late, SIM_UNREACHABLE);
        return;
    }
    if (!s->hosts[to].up) {
        fail_at(s, st, s->now_us + 2 * delay(s), SIM_REFUSED);
        return;
    }
    fail_at(s, st, late, SIM_SILENT);
    /* The handshake, then the bytes: a megabyte takes 10 ms. */
    struct event *ev = event_new(s, STREAM, s->now_us + 3 * delay(s) + bytes.n / 100, bytes);
    ev->from = from;
    ev->to = to;
    ev->life = s->hosts[to].life;
    ev->stream = number;
}

void sim_answer(struct sim *s, uint64_t stream, struct str bytes)
{
    struct stream *st = stream_of(s, stream);

    if (st == NULL || !st->reply || !reaches(s, st->to, st->from)) {
        return;
    }
    struct event *ev = event_new(s, REPLY, s->now_us + delay(s) + bytes.n / 100, bytes);
    ev->to = st->from;
    ev->life = s->hosts[st->from].life;
    ev->id = st->id;
    ev->stream = stream;
}

void sim_hang_up(struct sim *s, uint64_t stream)
{
    struct stream *st = stream_of(s, stream);
    if (st != NULL) {
        fail_at(s, st, s->now_us + delay(s), SIM_SILENT);
    }
}

void sim_timer(struct sim *s, uint32_t host, uint64_t at_ms)
{
    struct host *h = &s->hosts[host];
    uint64_t at = at_ms * 1000 > s->now_us ? at_ms * 1000 : s->now_us;

    if (at_ms == UINT64_MAX) {
        event_drop(s, h->timer);
        h->timer = NULL;
        return;
    }
    if (h->timer != NULL) {
        heap_update(&s->events, &h->timer->node, at);
        return;
    }
    h->timer = event_new(s, TIMER, at, STR(""));
    h->timer->to = host;
    h->timer->life = h->life;
}

/* --- time --- */

static void trace(struct sim *s, const struct event *ev)
{
    uint64_t x =
        s->now_us ^ (uint64_t)ev->kind << 60 ^ (uint64_t)ev->from << 40 ^ (uint64_t)ev->to << 20;
    s->trace = map_hash(s->trace, x, ev->bytes, ev->n);
}

static void deliver(struct sim *s, struct event *ev)
{
    struct host *h = &s->hosts[ev->to];
    struct str bytes = { ev->bytes, ev->n };
    struct stream *st = ev->stream != 0 ? stream_of(s, ev->stream) : NULL;

    s->steps++;
    trace(s, ev);
    switch (ev->kind) {
    case DATAGRAM:
        h->ops->datagram(h->arg, ev->from, bytes);
        break;
    case STREAM:
        if (st != NULL && !st->reply) {
            stream_end(s, st);
        }
        h->ops->stream(h->arg, ev->from, ev->stream, bytes);
        break;
    case REPLY:
        if (st != NULL) {
            stream_end(s, st);
            h->ops->reply(h->arg, ev->id, bytes);
        }
        break;
    case FAILED:
        if (st != NULL) {
            st->deadline = NULL; /* this one */
            stream_end(s, st);
            h->ops->failed(h->arg, ev->id, ev->how);
        }
        break;
    case TIMER:
        h->timer = NULL;
        h->ops->timer(h->arg);
        break;
    }
}

/* To a host that hangs: it waits, if there is room. */
static bool wait_for_host(struct sim *s, struct event *ev)
{
    struct host *h = &s->hosts[ev->to];

    if (h->paused_us <= s->now_us) {
        return false;
    }
    if (ev->kind == DATAGRAM && ++h->backlog > BACKLOG) {
        mem_free(ev);
        return true;
    }
    INSIST(heap_push(&s->events, &ev->node, h->paused_us) == 0);
    return true;
}

bool sim_step(struct sim *s, uint64_t until_ms)
{
    struct heap_node *n = heap_min(&s->events);

    if (n == NULL || n->key > until_ms * 1000) {
        s->now_us = until_ms * 1000 > s->now_us ? until_ms * 1000 : s->now_us;
        return false;
    }
    struct event *ev = CONTAINER_OF(n, struct event, node);
    struct host *h = &s->hosts[ev->to];
    s->now_us = n->key > s->now_us ? n->key : s->now_us;
    heap_remove(&s->events, n);
    if (!h->up || ev->life != h->life) {
        struct stream *st = ev->stream != 0 ? stream_of(s, ev->stream) : NULL;
        if (st != NULL && st->deadline == ev) {
            st->deadline = NULL;
            stream_end(s, st);
        }
        mem_free(ev);
        return true;
    }
    if (wait_for_host(s, ev)) {
        return true;
    }
    h->backlog = 0;
    deliver(s, ev);
    mem_free(ev);
    return true;
}

void sim_run(struct sim *s, uint64_t ms)
{
    uint64_t until = sim_now_ms(s) + ms;
    while (sim_step(s, until)) {
    }
}
