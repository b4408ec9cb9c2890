#include "agent/gossip/gossip_internal.h"
#include "common/insist.h"
#include "common/mem.h"

/* Any constant will do, if it is the same everywhere. */
static const uint64_t id_k0 = 0x6d656d6265727368, id_k1 = 0x6970206f66206f6e;

struct gossip_pool *gossip_pool_new(uint64_t k0, uint64_t k1)
{
    struct gossip_pool *p = mem_zalloc(sizeof(*p));
    if (p != NULL) {
        map_init(&p->map, SIZE_MAX / 64, k0, k1);
    }
    return p;
}

struct gossip_pool *gossip_pool_free(struct gossip_pool *p)
{
    if (p != NULL) {
        INSIST(p->map.len == 0);
        map_release(&p->map);
    }
    return mem_free(p);
}

struct gossip_str *gossip_str_find(const struct gossip_pool *p, struct str s)
{
    return map_get(&p->map, s);
}

struct gossip_str *gossip_str_get(struct gossip_pool *p, struct str s)
{
    REQUIRE(s.n <= UINT16_MAX);
    struct gossip_str *g = map_get(&p->map, s);
    if (g != NULL) {
        g->refs++;
        return g;
    }
    g = mem_alloc(sizeof(*g) + s.n + 1);
    if (g == NULL) {
        return NULL;
    }
    g->refs = 1;
    g->n = (uint16_t)s.n;
    memcpy(g->p, s.p, s.n);
    g->p[s.n] = '\0';
    g->hash = (uint32_t)map_hash(p->map.k0, p->map.k1, s.p, s.n);
    g->id = map_hash(id_k0, id_k1, s.p, s.n);
    if (map_add(&p->map, gossip_str_of(g), g) != 0) {
        return mem_free(g);
    }
    return g;
}

void gossip_str_put(struct gossip_pool *p, struct gossip_str *s)
{
    if (s != NULL && --s->refs == 0) {
        (void)map_remove(&p->map, gossip_str_of(s));
        mem_free(s);
    }
}
