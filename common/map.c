#include "common/map.h"

#include <errno.h>
#include <stdbool.h>

#include "common/insist.h"
#include "common/mem.h"

enum { MAP_FIRST = 16 }; /* slots; always a power of two, at most 3/4 of them used */

static inline uint64_t sip_rotl(uint64_t v, unsigned by)
{
    return v << by | v >> (64 - by);
}

static inline uint64_t sip_le64(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) {
        v |= (uint64_t)p[i] << (8 * i);
    }
    return v;
}

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = sip_rotl(v[1], 13) ^ v[0];
    v[0] = sip_rotl(v[0], 32);
    v[2] += v[3];
    v[3] = sip_rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = sip_rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = sip_rotl(v[1], 17) ^ v[2];
    v[2] = sip_rotl(v[2], 32);
}

uint64_t map_hash(uint64_t k0, uint64_t k1, const void *p, size_t n)
{
    const uint8_t *at = p;
    uint64_t v[4] = { k0 ^ 0x736f6d6570736575U, k1 ^ 0x646f72616e646f6dU, k0 ^ 0x6c7967656e657261U,
                      k1 ^ 0x7465646279746573U };

    for (size_t left = n; left >= 8; left -= 8, at += 8) {
        uint64_t m = sip_le64(at, 8);
        v[3] ^= m;
        sip_round(v);
        v[0] ^= m;
    }
    uint64_t last = (uint64_t)n << 56 | sip_le64(at, n % 8);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    sip_round(v);
    sip_round(v);
    sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

void map_init(struct map *m, size_t max, uint64_t k0, uint64_t k1)
{
    *m = (struct map){ .max = max, .k0 = k0, .k1 = k1 };
}

void map_release(struct map *m)
{
    mem_free(m->entries);
    map_init(m, m->max, m->k0, m->k1);
}

/* The slot of key, or the free one where it would go. cap is not 0. */
static size_t map_slot(const struct map *m, struct str key, uint64_t hash)
{
    size_t mask = m->cap - 1;
    size_t i = (size_t)hash & mask;
    while (m->entries[i].value != NULL &&
           (m->entries[i].hash != hash || !str_eq(m->entries[i].key, key))) {
        i = (i + 1) & mask;
    }
    return i;
}

static int map_resize(struct map *m, size_t cap)
{
    struct map_entry *entries = mem_calloc(cap, sizeof *entries);
    if (entries == NULL) {
        return -ENOMEM;
    }
    struct map_entry *old = m->entries;
    size_t old_cap = m->cap;
    m->entries = entries;
    m->cap = cap;
    for (size_t i = 0; i < old_cap; i++) {
        if (old[i].value != NULL) {
            m->entries[map_slot(m, old[i].key, old[i].hash)] = old[i];
        }
    }
    mem_free(old);
    return 0;
}

void *map_get(const struct map *m, struct str key)
{
    if (m->len == 0) {
        return NULL;
    }
    return m->entries[map_slot(m, key, map_hash(m->k0, m->k1, key.p, key.n))].value;
}

int map_add(struct map *m, struct str key, void *value)
{
    REQUIRE(value != NULL);
    uint64_t hash = map_hash(m->k0, m->k1, key.p, key.n);
    if (m->len != 0 && m->entries[map_slot(m, key, hash)].value != NULL) {
        return -EEXIST;
    }
    if (m->len >= m->max) {
        return -ENOBUFS;
    }
    if (m->len >= m->cap / 4 * 3) {
        int r = map_resize(m, m->cap != 0 ? m->cap * 2 : MAP_FIRST);
        if (r != 0) {
            return r;
        }
    }
    m->entries[map_slot(m, key, hash)] =
        (struct map_entry){ .key = key, .value = value, .hash = hash };
    m->len++;
    return 0;
}

void *map_remove(struct map *m, struct str key)
{
    if (m->len == 0) {
        return NULL;
    }
    size_t mask = m->cap - 1;
    size_t gap = map_slot(m, key, map_hash(m->k0, m->k1, key.p, key.n));
    void *value = m->entries[gap].value;
    if (value == NULL) {
        return NULL;
    }
    /* Close the gap: every later entry of the cluster that may live at the gap moves there. */
    for (size_t i = (gap + 1) & mask; m->entries[i].value != NULL; i = (i + 1) & mask) {
        size_t home = (size_t)m->entries[i].hash & mask;
        if (((i - home) & mask) >= ((i - gap) & mask)) {
            m->entries[gap] = m->entries[i];
            gap = i;
        }
    }
    m->entries[gap] = (struct map_entry){ .value = NULL };
    m->len--;
    return value;
}

void *map_next(const struct map *m, size_t *i)
{
    while (*i < m->cap) {
        void *value = m->entries[(*i)++].value;
        if (value != NULL) {
            return value;
        }
    }
    return NULL;
}
