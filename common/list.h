/*
 * list - doubly linked list whose links live in the elements. An element is in at most one list per
 * link. No memory is owned.
 */
#ifndef COMMON_LIST_H
#define COMMON_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "common/insist.h"

struct list {
    struct list *next;
    struct list *prev;
};

static inline void list_init(struct list *l)
{
    l->next = l;
    l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}
static inline void list_insert_before(struct list *pos, struct list *item)
{
    item->next = pos;
    item->prev = pos->prev;
    pos->prev->next = item;
    pos->prev = item;
}
static inline void list_push_back(struct list *head, struct list *item)
{
    list_insert_before(head, item);
}
static inline void list_push_front(struct list *head, struct list *item)
{
    list_insert_before(head->next, item);
}
/* Unlinks and leaves the link empty, so a second call is harmless. */
static inline void list_remove(struct list *item)
{
    item->prev->next = item->next;
    item->next->prev = item->prev;
    list_init(item);
}

#define LIST_ITEM(l, type, member) CONTAINER_OF(l, type, member)
#define LIST_EACH(pos, head) for (struct list *pos = (head)->next; pos != (head); pos = pos->next)
/* pos may be removed (and freed) in the body. */
#define LIST_EACH_SAFE(pos, head) \
    for (struct list *pos = (head)->next, *pos##_next = pos->next; pos != (head); \
         pos = pos##_next, pos##_next = pos->next)

#endif
