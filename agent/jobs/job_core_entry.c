#include <errno.h>

#include "agent/jobs/job_core_internal.h"
#include "common/mem.h"

/* A record in memory: the numbers as they are, then each text with its NUL. In this order, so that
 * what is cut in need comes last. */
static const struct {
    size_t offset;
    size_t cap;
} packed_texts[] = {
    { offsetof(struct run, job), RUN_JOB_CAP },
    { offsetof(struct run, image), RUN_IMAGE_CAP },
    { offsetof(struct run, node), RUN_NODE_CAP },
    { offsetof(struct run, entry_node), RUN_NODE_CAP },
    { offsetof(struct run, command), RUN_COMMAND_CAP },
    { offsetof(struct run, labels), RUN_LABELS_CAP },
    { offsetof(struct run, detail), RUN_DETAIL_CAP },
};

enum { PACKED_HEAD = offsetof(struct run, job), PACKED_SPARE = RUN_NODE_CAP };

_Static_assert(PACKED_HEAD + sizeof(struct job_entry) <= 800, "a queued run stays under 1 KiB");

static const char *text_of(const struct run *r, size_t i)
{
    return (const char *)r + packed_texts[i].offset;
}

static size_t packed_size(const struct run *r)
{
    size_t n = PACKED_HEAD;

    for (size_t i = 0; i < ARRAY_LEN(packed_texts); i++) {
        n += strlen(text_of(r, i)) + 1;
    }
    return n;
}

struct run *job_core_scratch(struct job_core *c)
{
    INSIST(c->runs_n < JOB_EFFECTS_MAX);
    return &c->runs[c->runs_n++];
}

void job_core_read(const struct job_entry *e, struct run *ret)
{
    const uint8_t *p = e->packed + PACKED_HEAD;

    memcpy(ret, e->packed, PACKED_HEAD);
    for (size_t i = 0; i < ARRAY_LEN(packed_texts); i++) {
        size_t n = strlen((const char *)p) + 1;
        memcpy((char *)ret + packed_texts[i].offset, p, n);
        p += n;
    }
}

struct run *job_core_unpack(struct job_core *c, const struct job_entry *e)
{
    struct run *r = job_core_scratch(c);

    job_core_read(e, r);
    return r;
}

void job_core_pack(struct job_entry *e, const struct run *r)
{
    size_t need = packed_size(r);
    size_t detail_cut = 0;

    if (need > e->packed_cap) {
        uint8_t *p = mem_realloc(e->packed, need);
        if (p != NULL) {
            e->packed = p;
            e->packed_cap = (uint32_t)need;
        } else {
            detail_cut = need - e->packed_cap;
        }
    }
    uint8_t *p = e->packed + PACKED_HEAD;
    memcpy(e->packed, r, PACKED_HEAD);
    for (size_t i = 0; i < ARRAY_LEN(packed_texts); i++) {
        const char *text = text_of(r, i);
        size_t n = strlen(text);
        if (i + 1 == ARRAY_LEN(packed_texts)) {
            /* There is room for the node's name from the start, and nothing else grows. */
            INSIST(n >= detail_cut);
            n -= detail_cut;
        }
        memcpy(p, text, n);
        p[n] = '\0';
        p += n + 1;
    }
    e->attempt = r->attempt;
    e->priority = (uint8_t)r->policy.priority;
}

struct job_queue *job_core_queue(const struct job_core *c, struct str name)
{
    return map_get(&c->names, name);
}

static int queue_get(struct job_core *c, const char *name, struct job_queue **ret)
{
    struct job_queue *q = job_core_queue(c, str_of(name));

    if (q == NULL) {
        q = mem_zalloc(sizeof *q);
        if (q == NULL) {
            return -ENOMEM;
        }
        run_set_text(q->name, sizeof q->name, str_of(name));
        list_init(&q->link);
        list_init(&q->rest);
        q->ready.tie = c->next_tie++;
        int r = map_add(&c->names, str_of(q->name), q);
        if (r != 0) {
            mem_free(q);
            return r;
        }
        list_push_back(&c->queues, &q->link);
    }
    *ret = q;
    return 0;
}

static void queue_drop(struct job_core *c, struct job_queue *q)
{
    if (q->entries == 0) {
        INSIST(q->wait.root == NULL && q->active == 0 && q->waiting == 0);
        job_pq_remove(&c->ready, &q->ready);
        list_remove(&q->rest);
        list_remove(&q->link);
        map_remove(&c->names, str_of(q->name));
        mem_free(q);
    }
}

int job_core_enter(struct job_core *c, const struct run *r, struct job_entry **ret)
{
    struct job_queue *q = NULL;
    struct job_entry *e = mem_zalloc(sizeof *e);

    if (e == NULL) {
        return -ENOMEM;
    }
    e->packed_cap = (uint32_t)(packed_size(r) + PACKED_SPARE);
    e->packed = mem_alloc(e->packed_cap);
    e->id = r->id;
    int err = e->packed == NULL ? -ENOMEM : queue_get(c, r->job, &q);
    if (err == 0) {
        err = map_add(&c->entries, (struct str){ (const char *)e->id.b, sizeof e->id.b }, e);
    }
    if (err != 0) {
        if (q != NULL) {
            queue_drop(c, q);
        }
        mem_free(e->packed);
        mem_free(e);
        return err;
    }
    e->queue = q;
    e->wait.tie = e->timer.tie = c->next_tie++;
    list_init(&e->link);
    job_core_pack(e, r);
    q->entries++;
    if (r->job[0] != '\0' && r->revision >= q->revision) {
        q->revision = r->revision;
        q->concurrency = r->policy.concurrency;
    }
    *ret = e;
    return 0;
}

static void entry_free(struct job_entry *e)
{
    mem_free(e->packed);
    mem_free(e);
}

void job_core_forget(struct job_core *c, struct job_entry *e)
{
    struct job_queue *q = e->queue;

    INSIST(!e->wait.in);
    job_pq_remove(&c->timers, &e->timer);
    list_remove(&e->link);
    map_remove(&c->entries, (struct str){ (const char *)e->id.b, sizeof e->id.b });
    entry_free(e);
    q->entries--;
    queue_drop(c, q);
}

struct job_entry *job_core_find(const struct job_core *c, const struct ulid *id)
{
    return map_get(&c->entries, (struct str){ (const char *)id->b, sizeof id->b });
}

void job_core_release(struct job_core *c)
{
    void *v;

    for (size_t i = 0; (v = map_next(&c->entries, &i)) != NULL;) {
        entry_free(v);
    }
    map_release(&c->entries);
    map_release(&c->names);
    LIST_EACH_SAFE (l, &c->queues) {
        mem_free(LIST_ITEM(l, struct job_queue, link));
    }
}

bool job_core_has_room(const struct job_core *c)
{
    /* The most that one entry's event brings: see job_core.c. */
    return c->fx->n + 8 <= JOB_EFFECTS_MAX && c->runs_n + 4 <= JOB_EFFECTS_MAX;
}

struct job_effect *job_core_fx(struct job_core *c, enum job_effect_type type,
                               const struct job_entry *e, const struct run *r)
{
    INSIST(c->fx->n < JOB_EFFECTS_MAX);
    struct job_effect *fx = &c->fx->v[c->fx->n++];
    *fx = (struct job_effect){ .type = type, .run = r };
    if (e != NULL) {
        fx->id = e->id;
        fx->attempt = e->attempt;
    }
    return fx;
}
