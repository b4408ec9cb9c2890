#include "tests/lib/table_world.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/insist.h"
#include "common/mem.h"

enum { WORLD_EPOCH_MS = 1000000, WINDOW_MS = 5000, MAX_EVENTS = 8 * 1024 * 1024 };
static const int64_t WALL_MS = 1790000000000;

struct world_record {
    struct world_record *next;
    struct table_record r;
    uint64_t seq;
    size_t key_n;
    char key[1 + 1 + TABLE_NAME_MAX + 1 + TABLE_KEY_MAX];
    char *bytes; /* what r's slices point into */
};

enum event_type { EVENT_MESSAGE, EVENT_MEMBER };

struct event {
    struct heap_node node;
    enum event_type type;
    size_t to, from;
    uint64_t life;
    bool reliable;
    enum table_member member;
    uint64_t from_life;
    size_t n;
    char bytes[];
};

static void *must(void *p)
{
    INSIST(p != NULL);
    return p;
}

/* --- disk --- */

static struct world_record *record_new(const struct table_record *r)
{
    struct world_record *c = must(calloc(1, sizeof *c));
    char *p = c->bytes = must(malloc(r->writer.n + r->owner.n + r->key.n + r->value.n + 1));
    struct str *slices[] = { &c->r.writer, &c->r.owner, &c->r.key, &c->r.value };

    c->r = *r;
    for (size_t i = 0; i < ARRAY_LEN(slices); i++) {
        memcpy(p, slices[i]->n != 0 ? slices[i]->p : "", slices[i]->n);
        slices[i]->p = p;
        p += slices[i]->n;
    }
    if (r->op == TABLE_STREAM_PUT || r->op == TABLE_STREAM_DROP) {
        memcpy(c->key, &r->stream, sizeof r->stream);
        c->key_n = sizeof r->stream;
    } else {
        c->key_n = (size_t)snprintf(c->key, sizeof c->key, "%u/%.*s/%.*s", r->type,
                                    STR_ARG(c->r.owner), STR_ARG(c->r.key));
    }
    return c;
}

static void record_free(struct world_record *c)
{
    if (c != NULL) {
        free(c->bytes);
        free(c);
    }
}

static void disk_init(struct world_disk *d)
{
    map_init(&d->rows, SIZE_MAX, 1, 2);
    map_init(&d->streams, SIZE_MAX, 3, 4);
    d->durable_seq = 0;
}

static void disk_clear(struct world_disk *d)
{
    struct world_record *c;

    for (size_t i = 0; (c = map_next(&d->rows, &i)) != NULL;) {
        record_free(c);
    }
    for (size_t i = 0; (c = map_next(&d->streams, &i)) != NULL;) {
        record_free(c);
    }
    map_release(&d->rows);
    map_release(&d->streams);
}

static void disk_apply(struct world_disk *d, struct world_record *c)
{
    bool stream = c->r.op == TABLE_STREAM_PUT || c->r.op == TABLE_STREAM_DROP;
    struct map *m = stream ? &d->streams : &d->rows;

    record_free(map_remove(m, (struct str){ c->key, c->key_n }));
    if (c->r.op == TABLE_STREAM_PUT || c->r.op == TABLE_ROW_PUT) {
        INSIST(map_add(m, (struct str){ c->key, c->key_n }, c) == 0);
    } else {
        record_free(c);
    }
}

static struct world_disk *disk_copy(const struct world_disk *d)
{
    struct world_disk *ret = must(calloc(1, sizeof *ret));
    struct world_record *c;

    disk_init(ret);
    for (size_t i = 0; (c = map_next(&d->streams, &i)) != NULL;) {
        disk_apply(ret, record_new(&c->r));
    }
    for (size_t i = 0; (c = map_next(&d->rows, &i)) != NULL;) {
        disk_apply(ret, record_new(&c->r));
    }
    return ret;
}

struct world_disk *world_disk_copy(const struct world *w, size_t node)
{
    return disk_copy(&w->nodes[node].disk);
}

void world_disk_restore(struct world *w, size_t node, struct world_disk *d)
{
    disk_clear(&w->nodes[node].disk);
    w->nodes[node].disk = *d;
    free(d);
}

void world_disk_free(struct world_disk *d)
{
    disk_clear(d);
    free(d);
}

static void waiting_drop(struct world_node *n)
{
    while (n->waiting != NULL) {
        struct world_record *c = n->waiting;
        n->waiting = c->next;
        record_free(c);
    }
    n->waiting_last = NULL;
    n->commit_ms = 0;
}

/* --- effects --- */

static int64_t wall(const struct world *w, const struct world_node *n)
{
    return WALL_MS + (int64_t)w->now_ms + n->wall_offset_ms;
}

static void count_sent(struct world *w, struct world_node *n, size_t bytes, bool reliable)
{
    if (w->now_ms >= n->second_ms + WINDOW_MS) {
        uint64_t per_s = n->second_small * 1000 / WINDOW_MS;
        n->peak_small = per_s > n->peak_small ? per_s : n->peak_small;
        n->second_ms = w->now_ms;
        n->second_small = 0;
    }
    n->second_small += reliable ? 0 : bytes + 28; /* IP and UDP heads */
    n->second_bulk += reliable ? bytes : 0;
}

static size_t node_of(struct str name)
{
    uint64_t i = 0;

    INSIST(str_u64(str_slice(name, 1, name.n - 1), &i) == 0);
    return (size_t)i;
}

static void post(struct world *w, struct event *ev, uint64_t in_ms)
{
    heap_node_init(&ev->node);
    INSIST(heap_push(&w->events, &ev->node, w->now_ms + in_ms) == 0);
}

static uint64_t delay(struct world *w)
{
    return w->cfg.delay_min_ms + rng_below(&w->rng, w->cfg.delay_max_ms - w->cfg.delay_min_ms + 1);
}

static void send(struct world *w, size_t from, const struct table_effect *fx)
{
    size_t to = node_of(fx->peer);
    unsigned times = 1;

    INSIST(fx->reliable || fx->bytes.n <= TABLE_DIRECT_MAX);
    INSIST(fx->bytes.n <= TABLE_MESSAGE_MAX && to < w->cfg.nodes);
    w->sent++;
    count_sent(w, &w->nodes[from], fx->bytes.n, fx->reliable);
    if (!fx->reliable && rng_below(&w->rng, 1000) < w->cfg.loss_permille) {
        w->lost++;
        return;
    }
    if (!fx->reliable && rng_below(&w->rng, 1000) < w->cfg.repeat_permille) {
        times = 2;
    }
    for (; times > 0; times--) {
        struct event *ev = must(malloc(sizeof *ev + fx->bytes.n));
        *ev = (struct event){ .type = EVENT_MESSAGE,
                              .to = to,
                              .from = from,
                              .life = w->nodes[to].life,
                              .reliable = fx->reliable,
                              .n = fx->bytes.n };
        memcpy(ev->bytes, fx->bytes.p, fx->bytes.n);
        uint64_t in = delay(w);
        in += fx->reliable ? delay(w) * 2 : 0;
        post(w, ev, in);
    }
}

static void persist(struct world *w, struct world_node *n, const struct table_effect *fx)
{
    struct world_record *c = record_new(&fx->record);

    if (n->waiting_last != NULL) {
        n->waiting_last->next = c;
    } else {
        n->waiting = c;
    }
    n->waiting_last = c;
    if (n->commit_ms == 0) {
        n->commit_ms = w->now_ms + 1 + rng_below(&w->rng, 20);
    }
}

static void set_timer(struct world *w, struct world_node *n)
{
    uint64_t at = table_deadline_ms(n->table);

    if (n->commit_ms != 0 && n->commit_ms < at) {
        at = n->commit_ms;
    }
    at = at > w->now_ms ? at : w->now_ms + 1;
    if (n->timer.index == SIZE_MAX) {
        INSIST(heap_push(&w->timers, &n->timer, at) == 0);
    } else {
        heap_update(&w->timers, &n->timer, at);
    }
}

static void carry_out(struct world *w, size_t node, const struct table_effects *fx)
{
    struct world_node *n = &w->nodes[node];

    for (size_t i = 0; i < fx->n; i++) {
        switch (fx->v[i].type) {
        case TABLE_FX_SEND:
            send(w, node, &fx->v[i]);
            break;
        case TABLE_FX_PERSIST:
            persist(w, n, &fx->v[i]);
            break;
        case TABLE_FX_CHANGED:
        default:
            n->changes++;
            if (w->on_change != NULL) {
                w->on_change(w->arg, node, &fx->v[i]);
            }
            break;
        }
    }
    n->waiting_seq = fx->persist_seq;
    set_timer(w, n);
}

static void step(struct world *w, size_t node, struct table_event *ev)
{
    struct world_node *n = &w->nodes[node];
    struct table_effects fx;

    ev->now_ms = w->now_ms;
    ev->wall_ms = wall(w, n);
    w->steps++;
    table_step(n->table, ev, &fx);
    carry_out(w, node, &fx);
}

static void commit(struct world *w, size_t node)
{
    struct world_node *n = &w->nodes[node];
    struct table_event ev = { .type = TABLE_EV_PERSISTED, .persist_seq = n->waiting_seq };

    while (n->waiting != NULL) {
        struct world_record *c = n->waiting;
        n->waiting = c->next;
        disk_apply(&n->disk, c);
    }
    n->waiting_last = NULL;
    n->commit_ms = 0;
    step(w, node, &ev);
}

/* --- membership --- */

static void tell_member(struct world *w, size_t to, size_t about, enum table_member member,
                        uint64_t in_ms)
{
    struct event *ev = must(malloc(sizeof *ev));

    *ev = (struct event){ .type = EVENT_MEMBER,
                          .to = to,
                          .from = about,
                          .life = w->nodes[to].life,
                          .from_life = w->nodes[about].life,
                          .member = member };
    post(w, ev, in_ms);
}

static bool hears(const struct world *w, size_t a, size_t b)
{
    return w->nodes[a].group == w->nodes[b].group;
}

/* What the oracle says now is checked again when it is told. */
static bool still_true(const struct world *w, const struct event *ev)
{
    const struct world_node *about = &w->nodes[ev->from];
    bool is_up = about->table != NULL && hears(w, ev->to, ev->from);

    return (ev->member == TABLE_MEMBER_UP) == is_up;
}

static void tell_all(struct world *w, size_t about, bool up)
{
    for (size_t i = 0; i < w->cfg.nodes; i++) {
        if (i == about || w->nodes[i].table == NULL) {
            continue;
        }
        if (up && hears(w, i, about)) {
            tell_member(w, i, about, TABLE_MEMBER_UP, 1 + rng_below(&w->rng, 1000));
            tell_member(w, about, i, TABLE_MEMBER_UP, 1 + rng_below(&w->rng, 1000));
        } else if (!up) {
            uint64_t in = rng_below(&w->rng, 1000);
            tell_member(w, i, about, TABLE_MEMBER_DOWN, w->cfg.down_ms + in);
            tell_member(w, i, about, TABLE_MEMBER_REAPED, w->cfg.reap_ms + in);
        }
    }
}

/* --- nodes --- */

static void load(struct world *w, struct world_node *n)
{
    struct world_record *c;

    for (size_t i = 0; (c = map_next(&n->disk.streams, &i)) != NULL;) {
        INSIST(table_load(n->table, wall(w, n), &c->r) == 0);
    }
    for (size_t i = 0; (c = map_next(&n->disk.rows, &i)) != NULL;) {
        INSIST(table_load(n->table, wall(w, n), &c->r) == 0);
    }
}

void world_start(struct world *w, size_t node)
{
    struct world_node *n = &w->nodes[node];
    struct table_config cfg = w->cfg.table;
    struct err e = { .code = 0 };

    INSIST(n->table == NULL);
    n->life++;
    cfg.name = str_of(n->name);
    cfg.node_id = (uint32_t)node;
    cfg.epoch = (uint64_t)wall(w, n) * 1000;
    cfg.entropy = rng_u64(&w->rng);
    cfg.seed = rng_u64(&w->rng);
    cfg.hash_k0 = rng_u64(&w->rng);
    cfg.hash_k1 = rng_u64(&w->rng);
    cfg.persist = w->cfg.persist;
    n->epoch = cfg.epoch;
    n->began_ms = w->now_ms;
    INSIST(table_new(&cfg, &n->table, &e) == 0);
    load(w, n);
    tell_all(w, node, true);
    set_timer(w, n);
}

void world_crash(struct world *w, size_t node, bool lose_disk)
{
    struct world_node *n = &w->nodes[node];

    n->table = table_free(n->table);
    n->life++;
    waiting_drop(n);
    heap_remove(&w->timers, &n->timer);
    if (lose_disk) {
        disk_clear(&n->disk);
        disk_init(&n->disk);
    }
    tell_all(w, node, false);
}

void world_group(struct world *w, size_t node, unsigned group)
{
    w->nodes[node].group = group;
    for (size_t i = 0; i < w->cfg.nodes; i++) {
        if (i != node && w->nodes[i].table != NULL && w->nodes[node].table != NULL) {
            bool up = hears(w, i, node);
            uint64_t in = rng_below(&w->rng, 1000) + 1;
            tell_member(w, i, node, up ? TABLE_MEMBER_UP : TABLE_MEMBER_DOWN,
                        in + (up ? 0 : w->cfg.down_ms));
            tell_member(w, node, i, up ? TABLE_MEMBER_UP : TABLE_MEMBER_DOWN,
                        in + (up ? 0 : w->cfg.down_ms));
            if (!up) {
                tell_member(w, i, node, TABLE_MEMBER_REAPED, in + w->cfg.reap_ms);
                tell_member(w, node, i, TABLE_MEMBER_REAPED, in + w->cfg.reap_ms);
            }
        }
    }
}

void world_heal(struct world *w)
{
    for (size_t i = 0; i < w->cfg.nodes; i++) {
        w->nodes[i].group = 0;
    }
    for (size_t i = 0; i < w->cfg.nodes; i++) {
        if (w->nodes[i].table != NULL) {
            tell_all(w, i, true);
        }
    }
}

struct world *world_new(const struct world_config *cfg)
{
    struct world *w = must(calloc(1, sizeof *w));

    w->cfg = *cfg;
    w->cfg.down_ms = cfg->down_ms != 0 ? cfg->down_ms : 3000;
    w->cfg.reap_ms = cfg->reap_ms != 0 ? cfg->reap_ms : 60000;
    w->now_ms = WORLD_EPOCH_MS;
    rng_init(&w->rng, cfg->seed);
    heap_init(&w->timers, cfg->nodes);
    heap_init(&w->events, MAX_EVENTS);
    w->nodes = must(calloc(cfg->nodes, sizeof *w->nodes));
    for (size_t i = 0; i < cfg->nodes; i++) {
        (void)snprintf(w->nodes[i].name, sizeof w->nodes[i].name, "n%zu", i);
        heap_node_init(&w->nodes[i].timer);
        disk_init(&w->nodes[i].disk);
    }
    return w;
}

void world_free(struct world *w)
{
    struct heap_node *h;

    while ((h = heap_min(&w->events)) != NULL) {
        heap_remove(&w->events, h);
        free(CONTAINER_OF(h, struct event, node));
    }
    for (size_t i = 0; i < w->cfg.nodes; i++) {
        table_free(w->nodes[i].table);
        waiting_drop(&w->nodes[i]);
        disk_clear(&w->nodes[i].disk);
    }
    heap_release(&w->events);
    heap_release(&w->timers);
    free(w->nodes);
    free(w);
}

/* --- time --- */

static void deliver(struct world *w, struct event *ev)
{
    struct world_node *to = &w->nodes[ev->to];
    struct table_event step_ev = { .type = TABLE_EV_MESSAGE,
                                   .peer = str_of(w->nodes[ev->from].name),
                                   .bytes = { ev->bytes, ev->n } };

    if (to->table == NULL || to->life != ev->life) {
        return;
    }
    if (ev->type == EVENT_MESSAGE) {
        if (hears(w, ev->to, ev->from)) {
            step(w, ev->to, &step_ev);
        } else {
            w->lost++;
        }
        return;
    }
    if (still_true(w, ev) &&
        (ev->member != TABLE_MEMBER_UP || w->nodes[ev->from].life == ev->from_life)) {
        step_ev.type = TABLE_EV_MEMBER;
        step_ev.member = ev->member;
        step_ev.speaks = true;
        step(w, ev->to, &step_ev);
    }
}

static bool one(struct world *w, uint64_t until_ms)
{
    struct heap_node *t = heap_min(&w->timers);
    struct heap_node *e = heap_min(&w->events);
    bool timer = t != NULL && (e == NULL || t->key <= e->key);
    uint64_t at = timer ? t->key : e != NULL ? e->key : UINT64_MAX;

    if (at > until_ms) {
        return false;
    }
    w->now_ms = at > w->now_ms ? at : w->now_ms;
    if (!timer) {
        struct event *ev = CONTAINER_OF(e, struct event, node);
        heap_remove(&w->events, e);
        deliver(w, ev);
        free(ev);
        return true;
    }
    struct world_node *n = CONTAINER_OF(t, struct world_node, timer);
    size_t node = (size_t)(n - w->nodes);
    if (n->commit_ms != 0 && n->commit_ms <= w->now_ms) {
        commit(w, node);
    } else {
        struct table_event ev = { .type = TABLE_EV_TICK };
        step(w, node, &ev);
    }
    return true;
}

void world_run(struct world *w, uint64_t ms)
{
    uint64_t until = w->now_ms + ms;

    while (one(w, until)) {
    }
    w->now_ms = until;
}

uint64_t world_run_until(struct world *w, uint64_t ms, bool (*done)(struct world *w, void *arg),
                         void *arg)
{
    uint64_t began = w->now_ms;

    for (uint64_t passed = 0; passed <= ms; passed += 50) {
        if (done(w, arg)) {
            return w->now_ms - began;
        }
        world_run(w, 50);
    }
    return done(w, arg) ? w->now_ms - began : UINT64_MAX;
}

/* --- doing and looking --- */

int world_put_bytes(struct world *w, size_t node, unsigned type, struct str key, struct str value)
{
    struct world_node *n = &w->nodes[node];
    struct table_effects fx;
    bool of_cluster = table_type_info(type)->ownership == TABLE_OF_CLUSTER;
    int rc = (of_cluster ? table_put : table_put_node)(n->table, w->now_ms, wall(w, n), type, key,
                                                       value, &fx, NULL);

    carry_out(w, node, &fx);
    return rc;
}

int world_put(struct world *w, size_t node, unsigned type, const char *key, const char *value)
{
    return world_put_bytes(w, node, type, str_of(key), str_of(value));
}

int world_delete(struct world *w, size_t node, unsigned type, const char *key)
{
    struct world_node *n = &w->nodes[node];
    struct table_effects fx;
    int rc = table_delete(n->table, w->now_ms, wall(w, n), type, str_of(key), &fx, NULL);

    carry_out(w, node, &fx);
    return rc;
}

void world_feed(struct world *w, size_t node, const char *from, struct str bytes)
{
    struct table_event ev = { .type = TABLE_EV_MESSAGE, .peer = str_of(from), .bytes = bytes };

    step(w, node, &ev);
}

uint64_t world_root(const struct world *w, size_t node)
{
    struct table_sizes sizes;

    table_sizes(w->nodes[node].table, &sizes);
    return sizes.root;
}

bool world_converged(struct world *w, void *arg)
{
    uint64_t root = 0;
    bool any = false;

    (void)arg;
    for (size_t i = 0; i < w->cfg.nodes; i++) {
        if (w->nodes[i].table == NULL) {
            continue;
        }
        if (any && world_root(w, i) != root) {
            return false;
        }
        root = world_root(w, i);
        any = true;
    }
    return true;
}

uint64_t world_rows_hash(const struct world *w, size_t node)
{
    uint64_t sum = 0;

    for (unsigned type = 0; type < TABLE_TYPES; type++) {
        struct table_walk walk = { .type = type };
        struct table_row_view r;
        while (table_next(w->nodes[node].table, &walk, &r)) {
            uint64_t h = map_hash(type, 1, r.owner.p, r.owner.n);
            h = map_hash(h, 2, r.key.p, r.key.n);
            sum += map_hash(h, 3, r.value.p, r.value.n);
        }
    }
    return sum;
}
