/*
 * heap - binary min-heap whose nodes live in the elements; used for deadlines. Ties break by the
 * order of insertion, so that a run can be repeated.
 */
#ifndef COMMON_HEAP_H
#define COMMON_HEAP_H

#include <stddef.h>
#include <stdint.h>

struct heap_node {
    uint64_t key;
    uint64_t seq;
    size_t index; /* SIZE_MAX when not in a heap */
};

struct heap {
    struct heap_node **nodes;
    size_t len;
    size_t cap;
    size_t max;
    uint64_t next_seq;
};

void heap_init(struct heap *h, size_t max);
void heap_release(struct heap *h); /* the elements are the caller's */
void heap_node_init(struct heap_node *n);
/* 0, -ENOMEM, or -ENOBUFS at max. n must not be in a heap. */
int heap_push(struct heap *h, struct heap_node *n, uint64_t key);
struct heap_node *heap_min(const struct heap *h); /* NULL when empty */
/* Does nothing when n is in no heap. */
void heap_remove(struct heap *h, struct heap_node *n);
void heap_update(struct heap *h, struct heap_node *n, uint64_t key);

#endif
