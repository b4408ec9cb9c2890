#include "tests/lib/gossip_world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/insist.h"
#include "common/mem.h"

enum { PORT = 7946, OVERHEAD = 29 };

struct node {
    struct cluster *c;
    uint32_t index; /* which node of the cluster it is */
    uint32_t host;
    struct gossip *core;
    char name[16];
    uint32_t starts;
    bool unwell, leaving, left, twin;
    char *remembered;
    size_t remembered_len;
    uint32_t cursor;      /* of the members that are checked in turn */
    uint32_t incarnation; /* own, last seen */
    uint32_t *seen;       /* incarnation of each member, by its number in the name */
};

struct cluster {
    struct cluster_options opt;
    struct sim *sim;
    struct gossip_pool *pool;
    struct node *nodes; /* the cluster's, then twins */
    uint32_t nodes_len, nodes_cap;
    uint32_t *by_host; /* index of the node on it */
    uint32_t hosts_len;
    struct cluster_events events;
};

void cluster_check(bool good, const struct cluster *c, const char *fmt, ...)
{
    va_list ap;

    if (good) {
        return;
    }
    (void)fprintf(stderr, "FAIL seed %llu, %llu ms, step %llu: ", (unsigned long long)c->opt.seed,
                  (unsigned long long)sim_now_ms(c->sim), (unsigned long long)sim_steps(c->sim));
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fprintf(stderr, "\n");
    exit(1);
}

/* --- addresses: a host's number --- */

static struct gossip_addr addr_of(uint32_t host)
{
    struct gossip_addr a = { .len = 4, .port = PORT };
    a.ip[0] = 10;
    a.ip[1] = (uint8_t)(host >> 16);
    a.ip[2] = (uint8_t)(host >> 8);
    a.ip[3] = (uint8_t)host;
    return a;
}

static uint32_t host_of(const struct gossip_addr *a)
{
    return (uint32_t)a->ip[1] << 16 | (uint32_t)a->ip[2] << 8 | a->ip[3];
}

static uint32_t number_of(struct str name)
{
    uint64_t v = UINT32_MAX;
    (void)str_u64(str_slice(name, 1, SIZE_MAX), &v);
    return (uint32_t)v;
}

/* --- what must hold after every step --- */

static void check_member(struct node *n, const struct gossip_view *v)
{
    struct cluster *c = n->c;
    uint32_t i = number_of(v->name);

    cluster_check(i < c->opt.nodes, c, "node %u lists '%.*s', which never was", n->index,
                  STR_ARG(v->name));
    cluster_check(v->incarnation >= n->seen[i] || v->state == GOSSIP_DEAD, c,
                  "node %u: incarnation of n%u fell from %u to %u", n->index, i, n->seen[i],
                  v->incarnation);
    n->seen[i] = v->incarnation;
    cluster_check(v->incarnation < 100000, c, "node %u: incarnation %u of n%u", n->index,
                  v->incarnation, i);
}

static void check_node(struct node *n)
{
    struct gossip_view v;
    uint32_t sum = 0;

    for (unsigned s = GOSSIP_ALIVE; s <= GOSSIP_LEFT; s++) {
        sum += gossip_count(n->core, (enum gossip_state)s);
    }
    cluster_check(sum >= 1 && sum <= n->c->opt.nodes, n->c, "node %u counts %u members", n->index,
                  sum);
    cluster_check(gossip_queued(n->core) <= sum, n->c, "node %u: %zu broadcasts of %u members",
                  n->index, gossip_queued(n->core), sum);
    cluster_check(gossip_health(n->core) < 8, n->c, "node %u: health %u", n->index,
                  gossip_health(n->core));
    /* One member per step, in turn. */
    if (!gossip_next(n->core, &n->cursor, &v)) {
        n->cursor = 0;
        (void)gossip_next(n->core, &n->cursor, &v);
    }
    check_member(n, &v);
    if (v.self) {
        cluster_check(n->leaving || v.state == GOSSIP_ALIVE, n->c, "node %u thinks itself %s",
                      n->index, gossip_state_name(v.state));
        cluster_check(v.incarnation >= n->incarnation, n->c, "node %u: own incarnation fell",
                      n->index);
        n->incarnation = v.incarnation;
    }
}

/* --- steps --- */

static void on_change(struct node *n, const struct gossip_effect *fx)
{
    struct cluster *c = n->c;
    uint32_t i = number_of(fx->member.name);
    const struct node *other = &c->nodes[i < c->opt.nodes ? i : 0];
    bool runs = other->core != NULL && !other->leaving;

    switch (fx->change) {
    case GOSSIP_JOINED:
        c->events.joined++;
        n->seen[other->index] = 0; /* another life, perhaps another address */
        break;
    case GOSSIP_REAPED:
        n->seen[other->index] = 0;
        break;
    case GOSSIP_DIED:
        c->events.died++;
        c->events.false_died += runs;
        c->events.well_died += runs && !other->unwell && !n->unwell;
        break;
    case GOSSIP_SUSPECTED:
        c->events.suspected++;
        break;
    case GOSSIP_WENT:
        c->events.went++;
        break;
    case GOSSIP_UPDATED:
    case GOSSIP_CLEARED:
        break;
    }
}

static void remember(struct node *n, struct str text)
{
    mem_free(n->remembered);
    n->remembered = mem_strndup(text.p, text.n);
    n->remembered_len = text.n;
}

static void carry_out(struct node *n, const struct gossip_effect *fx, uint64_t stream)
{
    struct sim *s = n->c->sim;

    switch (fx->type) {
    case GOSSIP_FX_PACKET:
        cluster_check(fx->bytes.n + OVERHEAD <= GOSSIP_PACKET_MAX, n->c, "node %u sends %zu bytes",
                      n->index, fx->bytes.n);
        sim_send(s, n->host, host_of(&fx->to), fx->bytes);
        break;
    case GOSSIP_FX_OPEN:
        sim_open(s, n->host, host_of(&fx->to), fx->stream, fx->bytes, fx->reply, fx->deadline_ms);
        break;
    case GOSSIP_FX_ANSWER:
        sim_answer(s, stream, fx->bytes);
        break;
    case GOSSIP_FX_CLOSE:
        sim_hang_up(s, stream);
        break;
    case GOSSIP_FX_MEMBER:
        on_change(n, fx);
        break;
    case GOSSIP_FX_MESSAGE:
        n->c->events.messages++;
        break;
    case GOSSIP_FX_REMEMBER:
        remember(n, fx->bytes);
        break;
    case GOSSIP_FX_LEFT:
        n->left = true;
        break;
    case GOSSIP_FX_NOTE:
        n->c->events.conflicts += fx->note == GOSSIP_NOTE_CONFLICT;
        break;
    }
}

static int step(struct node *n, struct gossip_event *ev, uint64_t stream)
{
    struct gossip_effects fx;

    ev->now_ms = sim_now_ms(n->c->sim);
    ev->now_s = sim_now_s(n->c->sim);
    int rc = gossip_step(n->core, ev, &fx);
    for (size_t i = 0; i < fx.len; i++) {
        carry_out(n, &fx.v[i], stream);
    }
    check_node(n);
    sim_timer(n->c->sim, n->host, gossip_deadline_ms(n->core));
    return rc;
}

static void on_datagram(void *arg, uint32_t from, struct str bytes)
{
    struct gossip_event ev = { .type = GOSSIP_EV_PACKET, .from = addr_of(from), .bytes = bytes };
    (void)step(arg, &ev, 0);
}

static void on_stream(void *arg, uint32_t from, uint64_t stream, struct str bytes)
{
    struct gossip_event ev = {
        .type = GOSSIP_EV_STREAM, .from = addr_of(from), .stream = (uint32_t)stream, .bytes = bytes
    };
    (void)step(arg, &ev, stream);
}

static void on_reply(void *arg, uint32_t id, struct str bytes)
{
    struct gossip_event ev = { .type = GOSSIP_EV_REPLY, .stream = id, .bytes = bytes };
    (void)step(arg, &ev, 0);
}

static void on_failed(void *arg, uint32_t id, enum sim_failure how)
{
    static const enum gossip_failure kinds[] = {
        [SIM_REFUSED] = GOSSIP_FAIL_REFUSED,
        [SIM_UNREACHABLE] = GOSSIP_FAIL_UNREACHABLE,
        [SIM_SILENT] = GOSSIP_FAIL_SILENT,
    };
    struct gossip_event ev = { .type = GOSSIP_EV_FAILED, .stream = id, .failure = kinds[how] };
    (void)step(arg, &ev, 0);
}

static void on_timer(void *arg)
{
    struct gossip_event ev = { .type = GOSSIP_EV_TICK };
    (void)step(arg, &ev, 0);
}

static const struct sim_ops ops = { .datagram = on_datagram,
                                    .stream = on_stream,
                                    .reply = on_reply,
                                    .failed = on_failed,
                                    .timer = on_timer };

/* --- clusters --- */

static struct node *node_add(struct cluster *c, uint32_t number, bool twin)
{
    struct node *n = &c->nodes[c->nodes_len];

    INSIST(c->nodes_len < c->nodes_cap);
    n->c = c;
    n->index = c->nodes_len++;
    n->twin = twin;
    n->seen = mem_calloc(c->opt.nodes, sizeof(*n->seen));
    INSIST(n->seen != NULL);
    (void)snprintf(n->name, sizeof(n->name), "n%u", number);
    n->host = sim_host(c->sim, &ops, n);
    sim_down(c->sim, n->host);
    return n;
}

struct cluster *cluster_new(const struct cluster_options *opt)
{
    struct cluster *c = mem_zalloc(sizeof(*c));
    uint32_t all = opt->nodes + opt->spare;

    INSIST(c != NULL);
    c->opt = *opt;
    c->sim = sim_new(opt->seed, all);
    c->pool = gossip_pool_new(opt->seed, 1);
    c->nodes = mem_calloc(all, sizeof(*c->nodes));
    c->nodes_cap = all;
    INSIST(c->pool != NULL && c->nodes != NULL);
    for (uint32_t i = 0; i < opt->nodes; i++) {
        (void)node_add(c, i, false);
    }
    return c;
}

void cluster_free(struct cluster *c)
{
    for (uint32_t i = 0; i < c->nodes_len; i++) {
        gossip_free(c->nodes[i].core);
        mem_free(c->nodes[i].seen);
        mem_free(c->nodes[i].remembered);
    }
    gossip_pool_free(c->pool);
    sim_free(c->sim);
    mem_free(c->nodes);
    mem_free(c);
}

struct sim *cluster_sim(struct cluster *c)
{
    return c->sim;
}

uint32_t cluster_len(const struct cluster *c)
{
    return c->opt.nodes;
}

static size_t meta_of(const struct cluster *c, const struct node *n, uint64_t boot, uint8_t *dst)
{
    const struct gossip_meta m = { .http_port = 7575,
                                   .class_hash = 1 + n->index % 4,
                                   .boot = boot };
    size_t len;

    gossip_meta_write(&m, dst, &len);
    if (c->opt.foreign) {
        dst[0] = 'x';
    }
    /* A tag that nobody knows. */
    if (c->opt.meta_bytes > len + 2 && c->opt.meta_bytes <= GOSSIP_META_OWN_MAX) {
        dst[len] = 200;
        dst[len + 1] = (uint8_t)(c->opt.meta_bytes - len - 2);
        memset(dst + len + 2, 'm', dst[len + 1]);
        len = c->opt.meta_bytes;
    }
    return len;
}

static uint64_t boot_of(const struct node *n)
{
    return (uint64_t)(n->starts + 1) << 20 | n->index;
}

static void node_start(struct node *n, bool remembers)
{
    uint8_t meta[GOSSIP_META_OWN_MAX];
    struct cluster *c = n->c;
    struct gossip_config config = { .name = n->name,
                                    .addr = addr_of(n->host),
                                    .vsn = { 1, 5, 2, 0, 0, 0 },
                                    .overhead = OVERHEAD,
                                    .boot = boot_of(n),
                                    .seed = rng_u64(sim_rng(c->sim)),
                                    .now_ms = sim_now_ms(c->sim),
                                    .now_s = sim_now_s(c->sim),
                                    .pool = c->pool };
    struct err e;

    INSIST(n->core == NULL);
    config.meta = (struct str){ (const char *)meta, meta_of(c, n, config.boot, meta) };
    gossip_params_for(GOSSIP_LAN, &config.params);
    INSIST(gossip_new(&config, &n->core, &e) == 0);
    n->starts++;
    n->incarnation = 0;
    n->cursor = 0;
    n->leaving = n->left = false;
    memset(n->seen, 0, c->opt.nodes * sizeof(*n->seen));
    sim_up(c->sim, n->host);
    struct gossip_event ev = { .type = GOSSIP_EV_TICK };
    (void)step(n, &ev, 0);
    if (remembers && n->remembered != NULL) {
        AUTO_MEM char *text = mem_strndup(n->remembered, n->remembered_len);
        ev = (struct gossip_event){ .type = GOSSIP_EV_REMEMBER,
                                    .bytes = { text, n->remembered_len } };
        (void)step(n, &ev, 0);
    }
}

void cluster_start(struct cluster *c, uint32_t i, bool remembers)
{
    node_start(&c->nodes[i], remembers);
}

void cluster_crash(struct cluster *c, uint32_t i)
{
    struct node *n = &c->nodes[i];
    n->core = gossip_free(n->core);
    sim_down(c->sim, n->host);
}

static void node_join(struct node *n, const struct node *seed)
{
    struct gossip_event ev = { .type = GOSSIP_EV_JOIN, .from = addr_of(seed->host) };
    (void)step(n, &ev, 0);
}

void cluster_join(struct cluster *c, uint32_t i, uint32_t seed)
{
    node_join(&c->nodes[i], &c->nodes[seed]);
}

void cluster_leave(struct cluster *c, uint32_t i)
{
    struct gossip_event ev = { .type = GOSSIP_EV_LEAVE };
    c->nodes[i].leaving = true;
    (void)step(&c->nodes[i], &ev, 0);
}

void cluster_set_meta(struct cluster *c, uint32_t i, uint64_t boot)
{
    uint8_t meta[GOSSIP_META_OWN_MAX];
    struct gossip_event ev = { .type = GOSSIP_EV_META };
    ev.bytes = (struct str){ (const char *)meta, meta_of(c, &c->nodes[i], boot, meta) };
    (void)step(&c->nodes[i], &ev, 0);
}

void cluster_move(struct cluster *c, uint32_t i)
{
    struct node *n = &c->nodes[i];

    INSIST(n->core == NULL);
    n->host = sim_host(c->sim, &ops, n);
    node_start(n, false);
}

void cluster_twin(struct cluster *c, uint32_t i, uint32_t seed)
{
    struct node *n = node_add(c, i, true);
    node_start(n, false);
    node_join(n, &c->nodes[seed]);
}

int cluster_send(struct cluster *c, uint32_t i, uint32_t j, size_t bytes, bool reliable)
{
    AUTO_MEM char *payload = mem_zalloc(bytes + 1);
    struct gossip_event ev = { .type = GOSSIP_EV_SEND,
                               .name = str_of(c->nodes[j].name),
                               .channel = 1,
                               .bytes = { payload, bytes },
                               .reliable = reliable };
    return step(&c->nodes[i], &ev, 0);
}

const struct gossip *cluster_core(const struct cluster *c, uint32_t i)
{
    return c->nodes[i].core;
}

uint32_t cluster_host(const struct cluster *c, uint32_t i)
{
    return c->nodes[i].host;
}

struct cluster_events *cluster_events(struct cluster *c)
{
    return &c->events;
}

void cluster_unwell(struct cluster *c, uint32_t i, bool unwell)
{
    c->nodes[i].unwell = unwell;
}

/* --- questions --- */

static bool runs(const struct node *n)
{
    return n->core != NULL && !n->leaving && !n->twin;
}

bool cluster_whole(const struct cluster *c)
{
    uint32_t up = 0;
    uint64_t hash = 0;
    bool first = true;

    for (uint32_t i = 0; i < c->opt.nodes; i++) {
        up += runs(&c->nodes[i]);
    }
    for (uint32_t i = 0; i < c->opt.nodes; i++) {
        const struct node *n = &c->nodes[i];
        if (!runs(n)) {
            continue;
        }
        if (gossip_count(n->core, GOSSIP_ALIVE) != up ||
            gossip_count(n->core, GOSSIP_SUSPECT) != 0) {
            return false;
        }
        /* Equal hashes, equal lists. */
        if (!first && gossip_view_hash(n->core) != hash) {
            return false;
        }
        hash = gossip_view_hash(n->core);
        first = false;
    }
    return true;
}

static bool sees(const struct node *n, const struct node *other, enum gossip_state state)
{
    struct gossip_view v;
    /* Who was reaped is gone for good. */
    return gossip_find(n->core, str_of(other->name), &v) ? v.state == state : state == GOSSIP_DEAD;
}

bool cluster_all_see(const struct cluster *c, uint32_t i, enum gossip_state state)
{
    for (uint32_t k = 0; k < c->opt.nodes; k++) {
        if (k != i && runs(&c->nodes[k]) && !sees(&c->nodes[k], &c->nodes[i], state)) {
            return false;
        }
    }
    return true;
}

bool cluster_any_sees(const struct cluster *c, uint32_t i, enum gossip_state state)
{
    for (uint32_t k = 0; k < c->opt.nodes; k++) {
        if (k != i && runs(&c->nodes[k]) && sees(&c->nodes[k], &c->nodes[i], state)) {
            return true;
        }
    }
    return false;
}

bool cluster_all_know_boot(const struct cluster *c, uint32_t i, uint64_t boot)
{
    for (uint32_t k = 0; k < c->opt.nodes; k++) {
        struct gossip_view v;
        struct gossip_meta m;
        if (runs(&c->nodes[k]) && (!gossip_find(c->nodes[k].core, str_of(c->nodes[i].name), &v) ||
                                   !gossip_meta_read(v.meta, &m) || m.boot != boot)) {
            return false;
        }
    }
    return true;
}

uint64_t cluster_until(struct cluster *c, const char *what,
                       bool (*done)(struct cluster *c, void *arg), void *arg, uint64_t max_ms)
{
    uint64_t start = sim_now_ms(c->sim);

    while (!done(c, arg)) {
        cluster_check(sim_now_ms(c->sim) - start <= max_ms, c, "%s: not within %llu ms", what,
                      (unsigned long long)max_ms);
        sim_run(c->sim, 20);
    }
    return sim_now_ms(c->sim) - start;
}

static bool whole(struct cluster *c, void *arg)
{
    (void)arg;
    return cluster_whole(c);
}

void cluster_form(struct cluster *c, uint64_t within_ms)
{
    uint64_t start = sim_now_ms(c->sim);

    cluster_start(c, 0, false);
    for (uint32_t i = 1; i < c->opt.nodes; i++) {
        uint64_t at = start + within_ms * i / c->opt.nodes;
        while (sim_step(c->sim, at)) {
        }
        cluster_start(c, i, false);
        cluster_join(c, i, 0);
    }
    (void)cluster_until(c, "a cluster forms", whole, NULL, 60000);
}
