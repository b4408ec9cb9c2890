/* Job documents in memory: counted values in small caches. */
#include "agent/node/uv_node_internal.h"
#include "common/insist.h"
#include "common/mem.h"

struct entry {
    struct list link;
    struct node_doc *doc;
    size_t key_len;
    char key[];
};

struct node_doc *node_doc_new(struct job *job)
{
    struct node_doc *d = mem_zalloc(sizeof *d);

    if (d == NULL) {
        job_free(job);
        return NULL;
    }
    *d = (struct node_doc){ .refs = 1, .job = job };
    return d;
}

struct node_doc *node_doc_ref(struct node_doc *d)
{
    d->refs++;
    return d;
}

struct node_doc *node_doc_unref(struct node_doc *d)
{
    if (d != NULL && --d->refs == 0) {
        job_free(d->job);
        mem_free(d);
    }
    return NULL;
}

void node_docs_init(struct node_docs *d, size_t max, uint64_t k0, uint64_t k1)
{
    map_init(&d->map, max, k0, k1);
    list_init(&d->lru);
    d->max = max;
}

static void entry_free(struct node_docs *d, struct entry *x)
{
    (void)map_remove(&d->map, (struct str){ x->key, x->key_len });
    list_remove(&x->link);
    node_doc_unref(x->doc);
    mem_free(x);
}

void node_docs_release(struct node_docs *d)
{
    while (!list_empty(&d->lru)) {
        entry_free(d, LIST_ITEM(d->lru.next, struct entry, link));
    }
    map_release(&d->map);
}

struct node_doc *node_docs_get(struct node_docs *d, struct str key)
{
    struct entry *x = map_get(&d->map, key);

    if (x == NULL) {
        return NULL;
    }
    list_remove(&x->link);
    list_push_back(&d->lru, &x->link);
    return node_doc_ref(x->doc);
}

void node_docs_put(struct node_docs *d, struct str key, struct node_doc *doc)
{
    node_docs_drop(d, key);
    if (d->map.len == d->max) {
        entry_free(d, LIST_ITEM(d->lru.next, struct entry, link));
    }
    struct entry *x = mem_alloc(sizeof *x + key.n);
    if (x == NULL) {
        return;
    }
    x->key_len = key.n;
    memcpy(x->key, key.p, key.n);
    if (map_add(&d->map, (struct str){ x->key, x->key_len }, x) != 0) {
        mem_free(x);
        return;
    }
    x->doc = node_doc_ref(doc);
    list_push_back(&d->lru, &x->link);
}

void node_docs_drop(struct node_docs *d, struct str key)
{
    struct entry *x = map_get(&d->map, key);

    if (x != NULL) {
        entry_free(d, x);
    }
}
