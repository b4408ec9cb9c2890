#include "agent/triggers/plan.h"

#include <errno.h>
#include <stdio.h>

#include "common/heap.h"
#include "common/insist.h"
#include "common/list.h"
#include "common/map.h"
#include "common/mem.h"
#include "common/rendezvous.h"

/* One schedule. */
struct entry {
    struct heap_node due; /* key: biased microseconds at which it is looked at */
    struct plan_job *job;
    const struct trigger_zone *zone;
    struct trigger_schedule s;
    uint64_t hash;      /* of (job, schedule): for owner and jitter */
    int64_t last_us;    /* the last fired, or given up; the anchor at first */
    int64_t planned_us; /* the next one; INT64_MAX: none */
    uint64_t count;     /* firings so far */
    uint64_t missed;
    uint32_t active; /* unfinished runs that we fired */
    bool asked;      /* FIRE without its answer */
};

struct plan_job {
    struct list link;                /* only for walking at the end */
    char name[TRIGGER_NAME_MAX + 1]; /* the map's key */
    int64_t anchor_us;
    size_t n;
    struct entry entries[];
};

struct trigger_plan {
    struct trigger_plan_config cfg;
    struct map jobs;
    struct list all;
    struct heap heap;
    size_t len;
    uint32_t *members;
    size_t members_len;
};

/* Wall-clock times can lie before 1970; heap keys are unsigned. */
static uint64_t key_of(int64_t us)
{
    return (uint64_t)us ^ UINT64_C(1) << 63;
}

static int64_t time_of(uint64_t key)
{
    return (int64_t)(key ^ UINT64_C(1) << 63);
}

static int64_t add_us(int64_t t, uint64_t ms)
{
    int64_t r;

    return __builtin_add_overflow(t, (int64_t)(ms * 1000), &r) ? INT64_MAX : r;
}

int trigger_plan_new(const struct trigger_plan_config *cfg, struct trigger_plan **ret)
{
    struct trigger_plan *p = mem_zalloc(sizeof *p);

    if (p == NULL) {
        return -ENOMEM;
    }
    p->cfg = *cfg;
    map_init(&p->jobs, cfg->max, cfg->k0, cfg->k1);
    heap_init(&p->heap, cfg->max);
    list_init(&p->all);
    *ret = p;
    return 0;
}

static void job_drop(struct trigger_plan *p, struct plan_job *j)
{
    for (size_t i = 0; i < j->n; i++) {
        heap_remove(&p->heap, &j->entries[i].due);
        mem_free(j->entries[i].s.text);
    }
    p->len -= j->n;
    (void)map_remove(&p->jobs, str_of(j->name));
    list_remove(&j->link);
    mem_free(j);
}

struct trigger_plan *trigger_plan_free(struct trigger_plan *p)
{
    if (p == NULL) {
        return NULL;
    }
    LIST_EACH_SAFE (l, &p->all) {
        job_drop(p, LIST_ITEM(l, struct plan_job, link));
    }
    map_release(&p->jobs);
    heap_release(&p->heap);
    mem_free(p->members);
    return mem_free(p);
}

/* ---- times ---- */

bool trigger_schedule_next(const struct trigger_schedule *s, const struct trigger_zone *z,
                           int64_t anchor_us, int64_t after_us, int64_t *ret_us)
{
    int64_t next_s;
    int64_t anchor = s->start_us != 0 ? s->start_us : anchor_us;

    /* The moment of start_at itself counts. */
    if (s->start_us != 0 && after_us < s->start_us) {
        after_us = s->start_us - 1;
    }
    int64_t after_s = after_us / 1000000 - (after_us % 1000000 < 0 ? 1 : 0);
    if (!trigger_cron_next(&s->cron, z, anchor / 1000000, after_s, &next_s)) {
        return false;
    }
    *ret_us = next_s * 1000000;
    return s->end_us == 0 || *ret_us <= s->end_us;
}

static uint64_t jitter_us(const struct entry *e, int64_t planned_us)
{
    uint64_t span = e->s.jitter_ms * 1000 + 1;

    return map_hash(e->hash, 0x6a6974746572, &planned_us, sizeof planned_us) % span;
}

/* When a firing is to be made. */
static int64_t due_us(const struct entry *e, int64_t planned_us)
{
    return planned_us + (int64_t)jitter_us(e, planned_us);
}

/* Is it too late now for the firing planned at that time? */
static bool too_late(const struct entry *e, int64_t planned_us, int64_t now_us)
{
    uint64_t late_ms = e->s.deadline_ms != 0 ? e->s.deadline_ms : TRIGGER_PLAN_LATE_MS;

    return now_us > add_us(due_us(e, planned_us), late_ms);
}

/* Looked at next at this time. */
static void look_at(struct trigger_plan *p, struct entry *e, int64_t at_us)
{
    if (at_us == INT64_MAX) {
        heap_remove(&p->heap, &e->due);
    } else if (e->due.index != SIZE_MAX) {
        heap_update(&p->heap, &e->due, key_of(at_us));
    } else {
        /* Room was made when the job came. */
        INSIST(heap_push(&p->heap, &e->due, key_of(at_us)) == 0);
    }
}

/* Plans the first time after the last fired one. */
static void plan_next(struct trigger_plan *p, struct entry *e)
{
    int64_t next;

    e->planned_us = INT64_MAX;
    if (!e->s.paused && !e->s.held && (e->s.times == 0 || e->count < e->s.times) &&
        trigger_schedule_next(&e->s, e->zone, e->job->anchor_us, e->last_us, &next)) {
        e->planned_us = next;
    }
    look_at(p, e, e->planned_us == INT64_MAX ? INT64_MAX : due_us(e, e->planned_us));
}

/* ---- effects ---- */

static struct trigger_plan_effect *effect(struct trigger_plan_effects *fx, const struct entry *e,
                                          enum trigger_plan_effect_type type)
{
    INSIST(fx->n < TRIGGER_PLAN_EFFECTS_MAX);
    struct trigger_plan_effect *f = &fx->v[fx->n++];
    *f = (struct trigger_plan_effect){
        .type = type,
        .job = e->job->name,
        .schedule = e->s.name,
        .planned_us = e->planned_us,
        .count = e->count,
        .missed = e->missed,
    };
    return f;
}

/* Firings up to and including `until` will not be made. */
static void give_up(struct trigger_plan *p, struct entry *e, int64_t until, uint64_t n,
                    enum trigger_plan_reason reason, struct trigger_plan_effects *fx)
{
    e->missed += n;
    e->last_us = until;
    struct trigger_plan_effect *f = effect(fx, e, TRIGGER_PLAN_FX_MISSED);
    f->reason = reason;
    f->missed = n;
    f = effect(fx, e, TRIGGER_PLAN_FX_RECORD);
    f->planned_us = until;
    plan_next(p, e);
}

/* ---- what was missed ---- */

/* The last time at or before `until` that comes after the last fired one; there is one. */
static int64_t last_before(const struct entry *e, int64_t until)
{
    int64_t best = e->planned_us;
    int64_t next;

    /* From ever further back, so that a year of seconds is not walked. */
    for (int64_t back = 120 * INT64_C(1000000); best == e->planned_us; back *= 4) {
        int64_t from = until - back > e->last_us ? until - back : e->last_us;
        int64_t t = from;
        for (unsigned i = 0;
             i < 1000 && trigger_schedule_next(&e->s, e->zone, e->job->anchor_us, t, &next) &&
             next <= until;
             i++) {
            best = next;
            t = next;
        }
        if (from == e->last_us) {
            break;
        }
    }
    return best;
}

/* How many times lie from the planned one up to `until`, at most the limit. */
static uint64_t count_until(const struct entry *e, int64_t until)
{
    uint64_t n = 0;
    int64_t t = e->planned_us - 1;

    while (n < TRIGGER_PLAN_MISSED_COUNT_MAX &&
           trigger_schedule_next(&e->s, e->zone, e->job->anchor_us, t, &t) && t <= until) {
        n++;
    }
    return n;
}

/* The planned time is too long ago. Passes over what is not made up for; true: what is planned now
 * is to be fired. */
static bool catch_up(struct trigger_plan *p, struct entry *e, int64_t now,
                     struct trigger_plan_effects *fx)
{
    uint64_t missed = count_until(e, now);
    int64_t last = last_before(e, now);

    if (e->s.catch_up == TRIGGER_CATCH_UP_ALL && missed <= TRIGGER_CATCH_UP_MAX) {
        return true;
    }
    if (!too_late(e, last, now) || e->s.catch_up != TRIGGER_CATCH_UP_NONE) {
        /* The last one is made (again in time, or made up for); those before it are not. */
        if (missed > 1) {
            give_up(p, e, last - 1, missed - 1, TRIGGER_PLAN_LATE, fx);
        }
        return e->planned_us <= now;
    }
    give_up(p, e, last, missed, TRIGGER_PLAN_LATE, fx);
    return false;
}

/* ---- firing ---- */

static bool ours(const struct trigger_plan *p, const struct entry *e)
{
    uint32_t first;

    return p->members_len == 0 ||
           (rendezvous_pick(e->hash, p->members, p->members_len, &first, 1) == 1 &&
            first == p->cfg.node);
}

static void consider(struct trigger_plan *p, struct entry *e, int64_t now,
                     struct trigger_plan_effects *fx)
{
    if (e->asked || !ours(p, e)) {
        look_at(p, e, add_us(now, TRIGGER_PLAN_RECHECK_MS));
        return;
    }
    if (too_late(e, e->planned_us, now) && !catch_up(p, e, now, fx)) {
        return;
    }
    if (e->active != 0 && e->s.overlap == TRIGGER_OVERLAP_FORBID) {
        give_up(p, e, e->planned_us, 1, TRIGGER_PLAN_OVERLAP, fx);
        return;
    }
    struct trigger_plan_effect *f = effect(fx, e, TRIGGER_PLAN_FX_FIRE);
    f->replace = e->active != 0 && e->s.overlap == TRIGGER_OVERLAP_REPLACE;
    e->asked = true;
    look_at(p, e, add_us(now, TRIGGER_PLAN_RECHECK_MS));
}

/* Each look at an entry has up to three effects. */
static void tick(struct trigger_plan *p, int64_t now, struct trigger_plan_effects *fx)
{
    struct heap_node *n;

    while (fx->n + 3 <= TRIGGER_PLAN_EFFECTS_MAX && (n = heap_min(&p->heap)) != NULL &&
           time_of(n->key) <= now) {
        consider(p, CONTAINER_OF(n, struct entry, due), now, fx);
    }
}

static struct entry *find(const struct trigger_plan *p, struct str job, struct str schedule)
{
    struct plan_job *j = map_get(&p->jobs, job);

    for (size_t i = 0; j != NULL && i < j->n; i++) {
        if (str_eqs(schedule, j->entries[i].s.name)) {
            return &j->entries[i];
        }
    }
    return NULL;
}

static void fired(struct trigger_plan *p, struct entry *e, const struct trigger_plan_event *ev,
                  struct trigger_plan_effects *fx)
{
    if (!e->asked || e->planned_us != ev->planned_us) {
        return;
    }
    e->asked = false;
    if (ev->status == 0) {
        e->count++;
        e->active++;
        e->last_us = e->planned_us;
        (void)effect(fx, e, TRIGGER_PLAN_FX_RECORD);
        plan_next(p, e);
    } else if (too_late(e, e->planned_us, ev->now_us)) {
        give_up(p, e, e->planned_us, 1, TRIGGER_PLAN_FAILED, fx);
    } else {
        look_at(p, e, add_us(ev->now_us, TRIGGER_PLAN_RETRY_MS));
    }
}

static void last_heard(struct trigger_plan *p, struct entry *e, const struct trigger_plan_event *ev)
{
    e->count = ev->count > e->count ? ev->count : e->count;
    e->missed = ev->missed > e->missed ? ev->missed : e->missed;
    if (ev->planned_us > e->last_us) {
        e->last_us = ev->planned_us;
    }
    if (!e->asked || e->planned_us <= e->last_us) {
        e->asked = false;
        plan_next(p, e);
    }
}

/* ---- jobs and members ---- */

static int entry_init(struct entry *e, struct plan_job *j, const struct trigger_schedule *s,
                      const struct trigger_zone *zone)
{
    heap_node_init(&e->due);
    e->s = *s;
    e->s.text = s->text != NULL ? mem_strdup(s->text) : NULL;
    if (s->text != NULL && e->s.text == NULL) {
        return -ENOMEM;
    }
    e->job = j;
    e->zone = zone;
    e->hash = trigger_hash(str_of(j->name), str_of(s->name));
    e->last_us = j->anchor_us;
    e->planned_us = INT64_MAX;
    return 0;
}

/* A new revision's schedule of the same name goes on where the old one was. */
static void entry_inherit(struct entry *e, const struct entry *old)
{
    e->count = old->count;
    e->missed = old->missed;
    e->active = old->active;
    if (old->last_us > e->last_us) {
        e->last_us = old->last_us;
    }
}

static int job_put(struct trigger_plan *p, const struct trigger_plan_event *ev)
{
    struct plan_job *old = map_get(&p->jobs, ev->job);
    size_t others = p->len - (old != NULL ? old->n : 0);
    struct plan_job *j = NULL;
    int rc = others + ev->schedules_len > p->cfg.max ? -ENOBUFS : 0;

    if (rc == 0 && ev->schedules_len != 0) {
        j = mem_zalloc(sizeof *j + ev->schedules_len * sizeof j->entries[0]);
        rc = j == NULL ? -ENOMEM : str_copy(j->name, sizeof j->name, ev->job);
    }
    for (size_t i = 0; rc == 0 && i < ev->schedules_len; i++) {
        j->anchor_us = ev->anchor_us;
        rc = entry_init(&j->entries[i], j, &ev->schedules[i], ev->zones[i]);
        j->n = i + 1;
        const struct entry *before =
            rc == 0 ? find(p, ev->job, str_of(ev->schedules[i].name)) : NULL;
        if (before != NULL) {
            entry_inherit(&j->entries[i], before);
        }
        /* Memory for the heap is asked for now: planning never fails. */
        rc = rc == 0 ? heap_push(&p->heap, &j->entries[i].due, UINT64_MAX) : rc;
    }
    if (rc == 0 && old != NULL) {
        job_drop(p, old);
    }
    if (rc == 0 && j != NULL) {
        rc = map_add(&p->jobs, str_of(j->name), j);
    }
    if (rc != 0) {
        for (size_t i = 0; j != NULL && i < j->n; i++) {
            heap_remove(&p->heap, &j->entries[i].due);
            mem_free(j->entries[i].s.text);
        }
        mem_free(j);
        return rc;
    }
    if (j != NULL) {
        list_push_back(&p->all, &j->link);
        p->len += j->n;
        for (size_t i = 0; i < j->n; i++) {
            plan_next(p, &j->entries[i]);
        }
    }
    return 0;
}

static int members_set(struct trigger_plan *p, const struct trigger_plan_event *ev)
{
    if (ev->members_len > p->cfg.members_max) {
        return -ENOBUFS;
    }
    uint32_t *copy = mem_calloc(ev->members_len + 1, sizeof *copy);
    if (copy == NULL) {
        return -ENOMEM;
    }
    memcpy(copy, ev->members, ev->members_len * sizeof *copy);
    mem_free(p->members);
    p->members = copy;
    p->members_len = ev->members_len;
    return 0;
}

int trigger_plan_step(struct trigger_plan *p, const struct trigger_plan_event *ev,
                      struct trigger_plan_effects *fx)
{
    struct entry *e = NULL;
    struct plan_job *j;

    fx->n = 0;
    if (ev->type == TRIGGER_PLAN_LAST || ev->type == TRIGGER_PLAN_FIRED ||
        ev->type == TRIGGER_PLAN_ENDED) {
        e = find(p, ev->job, ev->schedule);
        if (e == NULL) {
            return 0;
        }
    }
    switch (ev->type) {
    case TRIGGER_PLAN_JOB:
        return job_put(p, ev);
    case TRIGGER_PLAN_DROP:
        j = map_get(&p->jobs, ev->job);
        if (j != NULL) {
            job_drop(p, j);
        }
        return 0;
    case TRIGGER_PLAN_LAST:
        last_heard(p, e, ev);
        return 0;
    case TRIGGER_PLAN_FIRED:
        fired(p, e, ev, fx);
        return 0;
    case TRIGGER_PLAN_ENDED:
        e->active -= e->active != 0 ? 1 : 0;
        return 0;
    case TRIGGER_PLAN_MEMBERS:
        return members_set(p, ev);
    case TRIGGER_PLAN_TICK:
        tick(p, ev->now_us, fx);
        return 0;
    }
    INSIST(false); /* the types above are all there are */
    return 0;
}

int64_t trigger_plan_deadline_us(const struct trigger_plan *p)
{
    const struct heap_node *n = heap_min(&p->heap);

    return n == NULL ? INT64_MAX : time_of(n->key);
}

int64_t trigger_plan_next_us(const struct trigger_plan *p, struct str job, struct str schedule)
{
    const struct entry *e = find(p, job, schedule);

    return e == NULL || e->planned_us == INT64_MAX ? 0 : e->planned_us;
}

size_t trigger_plan_len(const struct trigger_plan *p)
{
    return p->len;
}

char *trigger_firing_key(struct str job, struct str schedule, int64_t planned_us,
                         char dst[TRIGGER_FIRING_KEY_CAP])
{
    (void)snprintf(dst, TRIGGER_FIRING_KEY_CAP, "schedule:%.*s:%.*s:%lld", STR_ARG(job),
                   STR_ARG(schedule), (long long)planned_us);
    return dst;
}
