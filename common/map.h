/*
 * map - hash table from a byte string to a pointer, SipHash-1-3 keyed at init, open addressing.
 * Keys are not copied: they must live (inside the value, as a rule) as long as the entry. Iteration
 * order is unspecified and must never decide anything; sort, or keep a list beside it.
 */
#ifndef COMMON_MAP_H
#define COMMON_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "common/str.h"

struct map_entry {
    struct str key;
    void *value; /* NULL: free slot */
    uint64_t hash;
};

struct map {
    struct map_entry *entries;
    size_t len;
    size_t cap;
    size_t max;
    uint64_t k0, k1;
};

void map_init(struct map *m, size_t max, uint64_t k0, uint64_t k1);
void map_release(struct map *m);                    /* keys and values are the caller's */
void *map_get(const struct map *m, struct str key); /* NULL when absent */
/* 0, -EEXIST, -ENOBUFS at max, -ENOMEM. value is not NULL. */
int map_add(struct map *m, struct str key, void *value);
/* Returns the value that was there, or NULL. */
void *map_remove(struct map *m, struct str key);
/* Walk: for (size_t i = 0; (v = map_next(m, &i)) != NULL;) — no changes meanwhile. */
void *map_next(const struct map *m, size_t *i);
uint64_t map_hash(uint64_t k0, uint64_t k1, const void *p, size_t n); /* SipHash-1-3 */

#endif
