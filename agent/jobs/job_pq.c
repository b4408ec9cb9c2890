#include "agent/jobs/job_core_internal.h"

static bool before(const struct job_pq_node *a, const struct job_pq_node *b)
{
    return a->key != b->key ? a->key < b->key : a->tie < b->tie;
}

/* Both are roots without siblings; either may be NULL. */
static struct job_pq_node *meld(struct job_pq_node *a, struct job_pq_node *b)
{
    if (a == NULL || b == NULL) {
        return a != NULL ? a : b;
    }
    if (before(b, a)) {
        struct job_pq_node *t = a;
        a = b;
        b = t;
    }
    b->prev = a;
    b->next = a->child;
    if (a->child != NULL) {
        a->child->prev = b;
    }
    a->child = b;
    return a;
}

/* The children of a removed node, joined in pairs from the left, then from the right. */
static struct job_pq_node *meld_children(struct job_pq_node *first)
{
    struct job_pq_node *pairs = NULL; /* linked by next, the last pair first */
    struct job_pq_node *root = NULL;

    while (first != NULL) {
        struct job_pq_node *a = first;
        struct job_pq_node *b = a->next;
        first = b != NULL ? b->next : NULL;
        a->next = a->prev = NULL;
        if (b != NULL) {
            b->next = b->prev = NULL;
        }
        a = meld(a, b);
        a->next = pairs;
        pairs = a;
    }
    while (pairs != NULL) {
        struct job_pq_node *a = pairs;
        pairs = a->next;
        a->next = NULL;
        root = meld(root, a);
    }
    return root;
}

void job_pq_add(struct job_pq *q, struct job_pq_node *n)
{
    REQUIRE(!n->in);
    n->child = n->next = n->prev = NULL;
    n->in = true;
    q->root = meld(q->root, n);
}

void job_pq_remove(struct job_pq *q, struct job_pq_node *n)
{
    if (!n->in) {
        return;
    }
    struct job_pq_node *below = meld_children(n->child);
    if (n == q->root) {
        q->root = below;
    } else {
        if (n->prev->child == n) {
            n->prev->child = n->next;
        } else {
            n->prev->next = n->next;
        }
        if (n->next != NULL) {
            n->next->prev = n->prev;
        }
        q->root = meld(q->root, below);
    }
    n->child = n->next = n->prev = NULL;
    n->in = false;
}
