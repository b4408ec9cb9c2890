#include "common/heap.h"

#include <errno.h>
#include <stdbool.h>

#include "common/insist.h"
#include "common/mem.h"

enum { HEAP_FIRST = 16 };

void heap_init(struct heap *h, size_t max)
{
    *h = (struct heap){ .max = max };
}

void heap_release(struct heap *h)
{
    for (size_t i = 0; i < h->len; i++) {
        h->nodes[i]->index = SIZE_MAX;
    }
    mem_free(h->nodes);
    heap_init(h, h->max);
}

void heap_node_init(struct heap_node *n)
{
    *n = (struct heap_node){ .index = SIZE_MAX };
}

static bool heap_less(const struct heap_node *a, const struct heap_node *b)
{
    return a->key != b->key ? a->key < b->key : a->seq < b->seq;
}

static void heap_put(struct heap *h, size_t i, struct heap_node *n)
{
    h->nodes[i] = n;
    n->index = i;
}

static void heap_up(struct heap *h, struct heap_node *n)
{
    size_t i = n->index;
    while (i > 0) {
        size_t parent = (i - 1) / 2;
        if (!heap_less(n, h->nodes[parent])) {
            break;
        }
        heap_put(h, i, h->nodes[parent]);
        i = parent;
    }
    heap_put(h, i, n);
}

static void heap_down(struct heap *h, struct heap_node *n)
{
    size_t i = n->index;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= h->len) {
            break;
        }
        if (child + 1 < h->len && heap_less(h->nodes[child + 1], h->nodes[child])) {
            child++;
        }
        if (!heap_less(h->nodes[child], n)) {
            break;
        }
        heap_put(h, i, h->nodes[child]);
        i = child;
    }
    heap_put(h, i, n);
}

int heap_push(struct heap *h, struct heap_node *n, uint64_t key)
{
    REQUIRE(n->index == SIZE_MAX);
    if (h->len >= h->max) {
        return -ENOBUFS;
    }
    if (h->len == h->cap) {
        if (h->cap > SIZE_MAX / 2 / sizeof *h->nodes) {
            return -ENOMEM;
        }
        size_t cap = h->cap != 0 ? h->cap * 2 : HEAP_FIRST;
        struct heap_node **nodes = mem_realloc(h->nodes, cap * sizeof *nodes);
        if (nodes == NULL) {
            return -ENOMEM;
        }
        h->nodes = nodes;
        h->cap = cap;
    }
    n->key = key;
    n->seq = h->next_seq++;
    n->index = h->len++;
    heap_up(h, n);
    return 0;
}

struct heap_node *heap_min(const struct heap *h)
{
    return h->len != 0 ? h->nodes[0] : NULL;
}

void heap_remove(struct heap *h, struct heap_node *n)
{
    if (n->index == SIZE_MAX) {
        return;
    }
    INSIST(n->index < h->len && h->nodes[n->index] == n);
    struct heap_node *last = h->nodes[--h->len];
    if (last != n) {
        heap_put(h, n->index, last);
        heap_up(h, last);
        heap_down(h, last);
    }
    n->index = SIZE_MAX;
}

void heap_update(struct heap *h, struct heap_node *n, uint64_t key)
{
    REQUIRE(n->index < h->len && h->nodes[n->index] == n);
    n->key = key;
    n->seq = h->next_seq++;
    heap_up(h, n);
    heap_down(h, n);
}
