/* What the core knows of other nodes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/node/node_core_internal.h"
#include "common/insist.h"
#include "common/mem.h"

enum { PEERS_FIRST = 16 };

uint64_t node_image_hash(const struct digest *d)
{
    uint64_t v = 0;

    for (size_t i = 0; i < 8; i++) {
        v = v << 8 | d->b[i];
    }
    return v;
}

/* Where the name is, or would be. */
static size_t peer_at(const struct node_core *c, struct str name, bool *ret_found)
{
    size_t from = 0;
    size_t to = c->peers_len;

    *ret_found = false;
    while (from < to) {
        size_t mid = from + (to - from) / 2;
        int order = str_cmp(str_of(c->peers[mid]->name), name);
        if (order == 0) {
            *ret_found = true;
            return mid;
        }
        if (order < 0) {
            from = mid + 1;
        } else {
            to = mid;
        }
    }
    return from;
}

struct node_core_peer *node_core_peer_find(const struct node_core *c, struct str name)
{
    bool found;
    size_t at = peer_at(c, name, &found);

    return found ? c->peers[at] : NULL;
}

static void facts_free(struct node_core_peer *p)
{
    p->facts = mem_free(p->facts);
    p->facts_text = mem_free(p->facts_text);
    p->p.facts = NULL;
    p->p.facts_len = 0;
    p->class_of = (struct node_class){ .isa = 0 };
}

static void images_free(struct node_core_peer *p)
{
    p->images = mem_free(p->images);
    p->p.images = NULL;
    p->p.images_len = 0;
}

static void peer_free(struct node_core_peer *p)
{
    facts_free(p);
    images_free(p);
    mem_free(p);
}

void node_core_peers_release(struct node_core *c)
{
    for (size_t i = 0; i < c->peers_len; i++) {
        peer_free(c->peers[i]);
    }
    mem_free(c->peers);
    mem_free(c->candidates);
    mem_free(c->verdicts);
}

static int peers_grow(struct node_core *c)
{
    size_t cap = c->peers_cap == 0 ? PEERS_FIRST : 2 * c->peers_cap;
    struct node_core_peer **peers = mem_calloc(cap, sizeof(struct node_core_peer *));
    struct route_candidate *candidates = mem_calloc(cap + 1, sizeof(*candidates));
    struct route_verdict *verdicts = mem_calloc(cap + 1, sizeof(*verdicts));

    if (peers == NULL || candidates == NULL || verdicts == NULL) {
        mem_free(peers);
        mem_free(candidates);
        mem_free(verdicts);
        return -ENOMEM;
    }
    if (c->peers_len != 0) {
        memcpy(peers, c->peers, c->peers_len * sizeof(struct node_core_peer *));
    }
    mem_free(c->peers);
    mem_free(c->candidates);
    mem_free(c->verdicts);
    c->peers = peers;
    c->candidates = candidates;
    c->verdicts = verdicts;
    c->peers_cap = cap;
    return 0;
}

int node_core_peers_init(struct node_core *c)
{
    return peers_grow(c);
}

static struct node_core_peer *peer_add(struct node_core *c, struct str name, size_t at)
{
    if (c->peers_len == NODE_PEERS_MAX || (c->peers_len == c->peers_cap && peers_grow(c) != 0)) {
        return NULL;
    }
    struct node_core_peer *p = mem_zalloc(sizeof(*p));
    if (p == NULL) {
        return NULL;
    }
    run_set_text(p->name, sizeof(p->name), name);
    p->p.name = p->name;
    p->p.state = NODE_PEER_GONE;
    memmove(&c->peers[at + 1], &c->peers[at],
            (c->peers_len - at) * sizeof(struct node_core_peer *));
    c->peers[at] = p;
    c->peers_len++;
    return p;
}

/* Takes copies, or keeps what was known when there is no memory: the next word brings it again. */
static void facts_take(struct node_core_peer *to, const struct node_peer *from)
{
    size_t n = from->facts_len < NODE_FACTS_MAX ? from->facts_len : NODE_FACTS_MAX;
    size_t bytes = 1;

    for (size_t i = 0; i < n; i++) {
        bytes += from->facts[i].name.n + from->facts[i].value.n;
    }
    struct route_fact *facts = mem_calloc(n + 1, sizeof(*facts));
    char *text = mem_alloc(bytes);
    if (facts == NULL || text == NULL) {
        mem_free(facts);
        mem_free(text);
        return;
    }
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const struct route_fact *f = &from->facts[i];
        facts[i].name = (struct str){ text + at, f->name.n };
        facts[i].value = (struct str){ text + at + f->name.n, f->value.n };
        if (f->name.n != 0) {
            memcpy(text + at, f->name.p, f->name.n);
        }
        if (f->value.n != 0) {
            memcpy(text + at + f->name.n, f->value.p, f->value.n);
        }
        at += f->name.n + f->value.n;
    }
    facts_free(to);
    to->facts = facts;
    to->p.facts = facts;
    to->p.facts_len = n;
    to->facts_text = text;
    to->p.room = from->room;
    node_class_of(facts, n, &to->class_of);
}

static int hash_order(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void images_take(struct node_core_peer *to, const struct node_peer *from)
{
    size_t n = from->images_len < NODE_PEER_IMAGES_MAX ? from->images_len : NODE_PEER_IMAGES_MAX;
    uint64_t *images = mem_calloc(n + 1, sizeof(*images));

    if (images == NULL) {
        return;
    }
    if (n != 0) {
        memcpy(images, from->images, n * sizeof(*images));
        qsort(images, n, sizeof(*images), hash_order);
    }
    images_free(to);
    to->images = images;
    to->p.images = images;
    to->p.images_len = n;
}

bool node_core_peer_set(struct node_core *c, const struct node_peer *p)
{
    bool found;
    size_t at = peer_at(c, str_of(p->name), &found);
    struct node_core_peer *peer = found ? c->peers[at] : NULL;

    if (p->state == NODE_PEER_GONE) {
        if (found) {
            c->peers_len--;
            memmove(&c->peers[at], &c->peers[at + 1],
                    (c->peers_len - at) * sizeof(struct node_core_peer *));
            peer_free(peer);
        }
        return false;
    }
    if (peer == NULL && (peer = peer_add(c, str_of(p->name), at)) == NULL) {
        return false; /* as if it were not there; it is told again */
    }
    bool more = peer->p.state != NODE_PEER_ALIVE && p->state == NODE_PEER_ALIVE;
    peer->p.id32 = p->id32;
    peer->p.state = p->state;
    if ((p->has & NODE_PEER_HAS_FACTS) != 0) {
        facts_take(peer, p);
    }
    if ((p->has & NODE_PEER_HAS_IMAGES) != 0) {
        images_take(peer, p);
    }
    if ((p->has & NODE_PEER_HAS_LOAD) != 0) {
        more = more || p->slots_free > peer->p.slots_free ||
               p->memory_free_bytes > peer->p.memory_free_bytes;
        peer->p.slots_free = p->slots_free;
        peer->p.memory_free_bytes = p->memory_free_bytes;
        peer->p.wait_us = p->wait_us;
        peer->p.polluters = p->polluters;
        peer->p.sensitive = p->sensitive;
        peer->seen_ms = c->now_ms > p->age_ms ? c->now_ms - p->age_ms : 0;
        peer->blocked_ms = 0;
        if (peer->seen_ms >= peer->probed_ms) {
            peer->probed_ms = 0; /* this is newer */
        }
    }
    return more && p->state == NODE_PEER_ALIVE;
}

void node_core_peer_probed(struct node_core *c, const struct node_peer *p)
{
    struct node_core_peer *peer = node_core_peer_find(c, str_of(p->name));

    if (peer != NULL) {
        peer->probe_slots_free = p->slots_free;
        peer->probe_memory_free = p->memory_free_bytes;
        peer->probe_wait_us = p->wait_us;
        peer->probed_ms = c->now_ms;
    }
}

void node_core_peer_take(struct node_core_peer *p, uint64_t memory_bytes)
{
    p->probe_slots_free -= p->probe_slots_free > 0 ? 1 : 0;
    p->probe_memory_free -=
        p->probe_memory_free > memory_bytes ? memory_bytes : p->probe_memory_free;
    p->p.slots_free -= p->p.slots_free > 0 ? 1 : 0;
    p->p.memory_free_bytes -=
        p->p.memory_free_bytes > memory_bytes ? memory_bytes : p->p.memory_free_bytes;
}

void node_core_peer_give(struct node_core_peer *p, uint64_t memory_bytes)
{
    p->probed_ms = 0; /* what it said is not so any more */
    if (p->p.slots_free < p->p.room.slots) {
        p->p.slots_free++;
    }
    uint64_t most = p->p.room.memory_bytes;
    uint64_t now = p->p.memory_free_bytes;
    p->p.memory_free_bytes =
        most - (now < most ? now : most) > memory_bytes ? now + memory_bytes : most;
}

static bool has_image(const struct node_core_peer *p, uint64_t image)
{
    return p->p.images_len != 0 &&
           bsearch(&image, p->images, p->p.images_len, sizeof(image), hash_order) != NULL;
}

static uint64_t age_ms(const struct node_core *c, uint64_t since_ms)
{
    return c->now_ms > since_ms ? c->now_ms - since_ms : 0;
}

size_t node_core_candidates(struct node_core *c, uint64_t image)
{
    for (size_t i = 0; i < c->peers_len; i++) {
        const struct node_core_peer *p = c->peers[i];
        bool blocked = p->blocked_ms > c->now_ms;
        bool probed = p->probed_ms != 0 && c->now_ms - p->probed_ms <= NODE_PROBE_FRESH_MS;
        c->candidates[i + 1] = (struct route_candidate){
            .node = str_of(p->name),
            .draining = p->p.state != NODE_PEER_ALIVE,
            .probed = probed,
            .image_warm = has_image(p, image),
            .memory_bytes = p->p.room.memory_bytes,
            .memory_free_bytes = probed ? p->probe_memory_free : p->p.memory_free_bytes,
            .cpu_milli = p->p.room.cpu_milli,
            .slots = p->p.room.slots,
            .slots_free = blocked  ? 0
                          : probed ? p->probe_slots_free
                                   : p->p.slots_free,
            .wait_us = (probed ? p->probe_wait_us : p->p.wait_us) + NODE_FORWARD_US,
            .polluters = p->p.polluters,
            .sensitive = p->p.sensitive,
            .cold_us = NODE_COLD_US,
            .age_us = age_ms(c, probed ? p->probed_ms : p->seen_ms) * 1000,
            .facts = p->p.facts,
            .facts_len = p->p.facts_len,
        };
    }
    return c->peers_len + 1;
}

/* ---- looking in ---- */

static void peer_read(const struct node_core *c, const struct node_core_peer *p,
                      struct node_peer *ret)
{
    *ret = p->p;
    ret->age_ms = c->now_ms > p->seen_ms ? c->now_ms - p->seen_ms : 0;
}

const char *node_core_peer_name(const struct node_core *c, uint32_t id32)
{
    for (size_t i = 0; i < c->peers_len; i++) {
        if (c->peers[i]->p.id32 == id32) {
            return c->peers[i]->name;
        }
    }
    return NULL;
}

bool node_core_peer(const struct node_core *c, struct str name, struct node_peer *ret)
{
    const struct node_core_peer *p = node_core_peer_find(c, name);

    if (p != NULL) {
        peer_read(c, p, ret);
    }
    return p != NULL;
}

size_t node_core_peers_len(const struct node_core *c)
{
    return c->peers_len;
}

bool node_core_peer_next(const struct node_core *c, size_t *pos, struct node_peer *ret)
{
    if (*pos >= c->peers_len) {
        return false;
    }
    peer_read(c, c->peers[(*pos)++], ret);
    return true;
}
