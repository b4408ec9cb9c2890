/* Schedules, and jobs after jobs. */
#include "agent/node/uv_node_triggers_internal.h"

#include <errno.h>
#include <stdio.h>

#include "agent/table/uv_table.h"
#include "agent/triggers/sys_zone.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    SCHEDULES_MAX = 1000000,
    JOBS_MAX = 1000000,
    ACTIVE_MAX = 65536, /* unfinished runs of schedules that are known as such */
    LOAD_PAGE = 500,    /* documents at a time */
    ROW_KEY_CAP = RUN_JOB_CAP + TRIGGER_NAME_MAX + 2,
    LOOK_MAX_MS = 10 * 1000,             /* the clock may be set: looked at so often at least */
    AFTER_DEPTH_MAX = 64,                /* jobs in a chain that are looked at for a circle */
    AFTER_OUTPUT_MAX = 64 * 1024 * 1024, /* bytes of an output that becomes a payload */
};

static struct str id_key(const struct ulid *id)
{
    return (struct str){ (const char *)id->b, sizeof id->b };
}

/* ---- the plan on the loop ---- */

static void look_later(struct node_triggers *t)
{
    int64_t at = trigger_plan_deadline_us(t->plan);
    int64_t now = sys_wall_us();
    uint64_t ms = LOOK_MAX_MS;

    if (t->closed || !t->loaded || at == INT64_MAX) {
        loop_timer_stop(&t->timer);
        return;
    }
    if (at <= now) {
        ms = 0;
    } else if ((uint64_t)(at - now) / 1000 < LOOK_MAX_MS) {
        ms = (uint64_t)(at - now) / 1000 + 1;
    }
    loop_timer_start(&t->timer, ms, 0);
}

static void carry_out(struct node_triggers *t, const struct trigger_plan_effects *fx);

static int step(struct node_triggers *t, struct trigger_plan_event *ev)
{
    struct trigger_plan_effects *fx = mem_alloc(sizeof *fx);

    if (fx == NULL) {
        node_out_of_memory("the plan of schedules");
    }
    ev->now_us = sys_wall_us();
    int rc = trigger_plan_step(t->plan, ev, fx);
    carry_out(t, fx);
    mem_free(fx);
    look_later(t);
    return rc;
}

/* Who is alive decides whose turn it is to fire. */
static void members_tell(struct node_triggers *t)
{
    uint32_t ids[TRIGGER_MEMBERS_MAX];
    struct trigger_plan_event ev = { .type = TRIGGER_PLAN_MEMBERS, .members = ids };

    ev.members_len = node_live_ids(t->node, ids, TRIGGER_MEMBERS_MAX);
    if (ev.members_len == t->members_len &&
        memcmp(ids, t->members, ev.members_len * sizeof ids[0]) == 0) {
        return;
    }
    memcpy(t->members, ids, ev.members_len * sizeof ids[0]);
    t->members_len = ev.members_len;
    struct trigger_plan_effects *fx = mem_alloc(sizeof *fx);
    if (fx == NULL || trigger_plan_step(t->plan, &ev, fx) != 0) {
        node_out_of_memory("the members");
    }
    mem_free(fx);
}

static void on_time(struct loop_timer *timer)
{
    struct node_triggers *t = CONTAINER_OF(timer, struct node_triggers, timer);
    struct trigger_plan_event ev = { .type = TRIGGER_PLAN_TICK };

    if (!t->node->closing) {
        members_tell(t);
        (void)step(t, &ev);
    }
}

/* ---- last firings, which everybody knows from the table ---- */

static void row_key(char dst[ROW_KEY_CAP], struct str job, struct str schedule)
{
    (void)snprintf(dst, ROW_KEY_CAP, "%.*s/%.*s", STR_ARG(job), STR_ARG(schedule));
}

static void record(struct node_triggers *t, const struct trigger_plan_effect *fx)
{
    AUTO_BUF struct buf text = BUF_INIT(512);
    char key[ROW_KEY_CAP];
    struct json_w w;
    struct err e = { 0 };

    if (t->node->closing) {
        return;
    }
    json_w_init(&w, &text, false);
    json_w_obj(&w);
    json_kv_int(&w, "planned_us", fx->planned_us);
    json_kv_u64(&w, "count", fx->count);
    json_kv_u64(&w, "missed", fx->missed);
    json_w_end(&w);
    row_key(key, str_of(fx->job), str_of(fx->schedule));
    if (table_write(t->node->table, TABLE_SCHEDULE, str_of(key), buf_str(&text), NULL, NULL, &e) !=
        0) {
        log_warn("the last firing of schedule '%s' of job '%s' is not kept: %s", fx->schedule,
                 fx->job, err_text(&e));
    }
}

static void last_heard(struct node_triggers *t, struct str job, struct str schedule,
                       struct str value)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct trigger_plan_event ev = { .type = TRIGGER_PLAN_LAST, .job = job, .schedule = schedule };
    int64_t count = 0;
    int64_t missed = 0;

    if (json_parse(value.p, value.n, NULL, &doc, NULL) != 0 ||
        !json_int(json_get(json_root(doc), "planned_us"), &ev.planned_us) ||
        !json_int(json_get(json_root(doc), "count"), &count) ||
        !json_int(json_get(json_root(doc), "missed"), &missed) || count < 0 || missed < 0) {
        return; /* of a version that we do not know */
    }
    ev.count = (uint64_t)count;
    ev.missed = (uint64_t)missed;
    (void)step(t, &ev);
}

static void on_row(void *arg, const struct table_row_view *row, const struct table_row_view *old)
{
    struct node_triggers *t = arg;

    (void)old;
    ptrdiff_t slash = row != NULL ? str_find(row->key, '/') : -1;
    if (slash > 0 && !t->closed && !t->node->closing) {
        last_heard(t, str_slice(row->key, 0, (size_t)slash),
                   str_slice(row->key, (size_t)slash + 1, row->key.n), row->value);
    }
}

/* ---- firing ---- */

/* A firing on its way through node_submit(). */
struct firing {
    struct list link;
    struct node_triggers *owner;
    char job[RUN_JOB_CAP];
    char schedule[TRIGGER_NAME_MAX + 1];
    int64_t planned_us;
};

static void active_drop(struct node_triggers *t, struct active *a)
{
    (void)map_remove(&t->active, id_key(&a->id));
    list_remove(&a->link);
    mem_free(a);
}

static void active_add(struct node_triggers *t, const struct firing *f, const struct run *run)
{
    struct active *a = map_get(&t->active, id_key(&run->id)) == NULL && !run_is_ended(run)
                           ? mem_zalloc(sizeof *a)
                           : NULL;

    if (a == NULL) {
        return;
    }
    a->id = run->id;
    (void)str_copy(a->job, sizeof a->job, str_of(f->job));
    (void)str_copy(a->schedule, sizeof a->schedule, str_of(f->schedule));
    list_init(&a->link);
    /* One that is not known only means that overlap is not seen. */
    if (map_add(&t->active, id_key(&a->id), a) != 0) {
        mem_free(a);
        return;
    }
    list_push_back(&t->actives, &a->link);
}

static void on_fired(void *arg, const struct node_error *error, const struct run *run,
                     bool replayed)
{
    struct firing *f = arg;
    struct node_triggers *t = f->owner;
    struct trigger_plan_event ev = { .type = TRIGGER_PLAN_FIRED,
                                     .job = str_of(f->job),
                                     .schedule = str_of(f->schedule),
                                     .planned_us = f->planned_us };

    (void)replayed;
    list_remove(&f->link);
    if (error == NULL) {
        active_add(t, f, run);
    } else {
        ev.status = -EAGAIN;
        log_warn("schedule '%s' of job '%s' could not be fired: %s", f->schedule, f->job,
                 error->detail);
    }
    if (!t->closed) {
        (void)step(t, &ev);
    }
    mem_free(f);
}

static void cancelled(void *arg, const struct node_error *error, const struct run *run,
                      bool replayed)
{
    (void)arg;
    (void)error;
    (void)run;
    (void)replayed;
}

/* overlap "replace": what runs of this schedule is ended. */
static void replace(struct node_triggers *t, struct str job, struct str schedule)
{
    LIST_EACH_SAFE (l, &t->actives) {
        struct active *a = LIST_ITEM(l, struct active, link);
        if (str_eqs(job, a->job) && str_eqs(schedule, a->schedule)) {
            node_run_cancel(t->node, a->id, cancelled, t);
        }
    }
}

static void fire(struct node_triggers *t, const struct trigger_plan_effect *fx)
{
    char key[TRIGGER_FIRING_KEY_CAP];
    struct digest d;
    struct firing *f = mem_zalloc(sizeof *f);

    if (f == NULL) {
        node_out_of_memory("a firing");
    }
    f->owner = t;
    f->planned_us = fx->planned_us;
    (void)str_copy(f->job, sizeof f->job, str_of(fx->job));
    (void)str_copy(f->schedule, sizeof f->schedule, str_of(fx->schedule));
    list_init(&f->link);
    list_push_back(&t->firings, &f->link);
    if (fx->replace) {
        replace(t, str_of(f->job), str_of(f->schedule));
    }
    struct node_submit s = {
        .job = str_of(f->job),
        .trigger = RUN_TRIGGER_SCHEDULE,
        .scheduled_us = f->planned_us,
        .idempotency_key =
            str_of(trigger_firing_key(str_of(f->job), str_of(f->schedule), f->planned_us, key)),
    };
    if (digest_of(DIGEST_SHA256, key, strlen(key), &d) != 0) {
        node_out_of_memory("a firing");
    }
    memcpy(s.request_hash, d.b, sizeof s.request_hash);
    node_submit(t->node, &s, on_fired, f);
}

static void carry_out(struct node_triggers *t, const struct trigger_plan_effects *fx)
{
    static const char *const reasons[] = {
        [TRIGGER_PLAN_LATE] = "nobody was there in time",
        [TRIGGER_PLAN_OVERLAP] = "the run before has not ended",
        [TRIGGER_PLAN_FAILED] = "they could not be submitted",
    };

    for (size_t i = 0; i < fx->n; i++) {
        const struct trigger_plan_effect *one = &fx->v[i];
        switch (one->type) {
        case TRIGGER_PLAN_FX_FIRE:
            fire(t, one);
            break;
        case TRIGGER_PLAN_FX_MISSED:
            log_warn("schedule '%s' of job '%s': %llu firings are not made: %s", one->schedule,
                     one->job, (unsigned long long)one->missed, reasons[one->reason]);
            break;
        case TRIGGER_PLAN_FX_RECORD:
            record(t, one);
            break;
        }
    }
}

/* ---- documents ---- */

static int set_of(const struct job *job, struct trigger_set **ret,
                  struct trigger_problems *problems)
{
    AUTO_JSON struct json_doc *doc = NULL;
    int rc = json_parse(job->triggers, strlen(job->triggers), NULL, &doc, NULL);

    if (rc != 0) {
        problems->n = 1;
        (void)snprintf(problems->items[0].field, sizeof problems->items[0].field, "triggers");
        (void)snprintf(problems->items[0].detail, sizeof problems->items[0].detail, "too large");
        return rc == -ENOMEM ? rc : -EINVAL;
    }
    return trigger_set_parse(json_root(doc), str_of(job->name), ret, problems);
}

static void add_problem(struct job_problems *ps, const char *field, const char *detail)
{
    if (ps->n == JOB_PROBLEMS_MAX) {
        ps->more++;
        return;
    }
    struct job_problem *p = &ps->items[ps->n++];
    (void)snprintf(p->field, sizeof p->field, "%.63s", field);
    (void)snprintf(p->detail, sizeof p->detail, "%.159s", detail);
}

/* Does any chain of jobs after jobs lead from `job` back to `start`? */
static bool leads_back(const struct node_triggers *t, struct str job, struct str start,
                       unsigned depth)
{
    const struct trigger_entry *e = map_get(&t->jobs, job);

    if (str_eq(job, start)) {
        return true;
    }
    for (size_t i = 0; e != NULL && depth < AFTER_DEPTH_MAX && i < e->set->after_len; i++) {
        const struct trigger_after *a = &e->set->after[i];
        for (size_t k = 0; k < a->jobs_len; k++) {
            if (leads_back(t, str_of(a->jobs[k]), start, depth + 1)) {
                return true;
            }
        }
    }
    return false;
}

static void check_chain(const struct node_triggers *t, const struct job *job,
                        const struct trigger_set *set, struct job_problems *problems)
{
    for (size_t i = 0; i < set->after_len; i++) {
        for (size_t k = 0; k < set->after[i].jobs_len; k++) {
            if (leads_back(t, str_of(set->after[i].jobs[k]), str_of(job->name), 0)) {
                char field[64];
                char detail[160];
                (void)snprintf(field, sizeof field, "triggers.after[%zu].job", i);
                (void)snprintf(detail, sizeof detail,
                               "'%.60s' runs after this job, in the end: a circle",
                               set->after[i].jobs[k]);
                add_problem(problems, field, detail);
                return;
            }
        }
    }
}

int node_triggers_check(struct node *n, const struct job *job, struct job_problems *problems,
                        struct err *e)
{
    struct trigger_problems *found = NULL;
    struct trigger_set *set = NULL;
    size_t before = problems->n;

    if (job->triggers == NULL) {
        return 0;
    }
    found = mem_zalloc(sizeof *found);
    int rc = found == NULL ? -ENOMEM : set_of(job, &set, found);
    for (size_t i = 0; rc == -EINVAL && i < found->n; i++) {
        add_problem(problems, found->items[i].field, found->items[i].detail);
    }
    for (size_t i = 0; rc == 0 && i < set->schedules_len; i++) {
        const struct trigger_zone *zone;
        struct err one = { 0 };
        if (trigger_zone_find(str_of(set->schedules[i].zone), &zone, &one) != 0) {
            char field[64];
            (void)snprintf(field, sizeof field, "triggers.schedules[%zu].time_zone", i);
            add_problem(problems, field, err_text(&one));
        }
    }
    if (rc == 0) {
        check_chain(n->triggers, job, set, problems);
    }
    trigger_set_free(set);
    mem_free(found);
    if (rc != -ENOMEM && problems->n != before) {
        const struct job_problem *p = &problems->items[before];
        return err_say(e, -EINVAL, "%s: %s", p->field, p->detail);
    }
    return rc == 0 ? 0 : err_set(e, rc, "triggers");
}

static void entry_free(struct trigger_entry *x)
{
    trigger_set_free(x->set);
    mem_free(x->seen);
    mem_free(x);
}

static void entry_drop(struct node_triggers *t, struct str name)
{
    struct trigger_entry *x = map_remove(&t->jobs, name);

    if (x != NULL) {
        node_trigger_index_drop(&t->index, x);
        list_remove(&x->link);
        list_remove(&x->after);
        entry_free(x);
    }
}

static void plan_job(struct node_triggers *t, const char *name, int64_t anchor_us,
                     const struct trigger_set *set)
{
    const struct trigger_zone *zones[TRIGGER_PER_JOB_MAX];
    struct trigger_plan_event ev = { .type = TRIGGER_PLAN_JOB,
                                     .job = str_of(name),
                                     .schedules = set != NULL ? set->schedules : NULL,
                                     .schedules_len = set != NULL ? set->schedules_len : 0,
                                     .zones = zones,
                                     .anchor_us = anchor_us };

    for (size_t i = 0; i < ev.schedules_len; i++) {
        if (trigger_zone_find(str_of(ev.schedules[i].zone), &zones[i], NULL) != 0) {
            log_error("job '%s': time zone '%s' is not known here: its schedule goes by UTC", name,
                      ev.schedules[i].zone);
            zones[i] = trigger_zone_utc();
        }
    }
    int rc = step(t, &ev);
    if (rc != 0) {
        log_error("job '%s' is not planned: %s", name,
                  rc == -ENOBUFS ? "there are too many schedules" : err_name(rc));
    }
    for (size_t i = 0; rc == 0 && i < ev.schedules_len; i++) {
        struct str schedule = str_of(ev.schedules[i].name);
        struct table_row_view row;
        char key[ROW_KEY_CAP];
        row_key(key, str_of(name), schedule);
        if (table_get(table_core(t->node->table), TABLE_SCHEDULE, STR(""), str_of(key), &row)) {
            last_heard(t, str_of(name), schedule, row.value);
        }
    }
}

void node_triggers_replan(struct node *n, struct trigger_entry *x)
{
    int64_t since_us;

    node_trigger_pause_apply(n, x, &since_us);
    plan_job(n->triggers, x->name, x->anchor_us > since_us ? x->anchor_us : since_us, x->set);
}

void node_triggers_job(struct node *n, const struct job *job)
{
    struct node_triggers *t = n->triggers;
    const struct trigger_entry *old = map_get(&t->jobs, str_of(job->name));
    struct trigger_problems *problems;
    struct trigger_entry *x;
    int rc;

    if (job->triggers == NULL) {
        if (old != NULL) {
            node_triggers_drop(n, str_of(job->name));
        }
        return;
    }
    problems = mem_zalloc(sizeof *problems);
    x = mem_zalloc(sizeof *x);
    if (problems == NULL || x == NULL) {
        node_out_of_memory("a job's triggers");
    }
    rc = set_of(job, &x->set, problems);
    if (rc == -EINVAL) {
        /* It was accepted by an earlier version, or by another node. */
        log_error("job '%s': %s: %s: its triggers are off", job->name, problems->items[0].field,
                  problems->items[0].detail);
    }
    if (rc == 0 && x->set->after_len != 0) {
        x->seen = mem_calloc(x->set->after_len, sizeof *x->seen);
    }
    if (rc == -ENOMEM || (rc == 0 && x->set->after_len != 0 && x->seen == NULL)) {
        node_out_of_memory("a job's triggers");
    }
    mem_free(problems);
    entry_drop(t, str_of(job->name));
    if (rc != 0) {
        plan_job(t, job->name, job->updated_us, NULL);
        mem_free(x);
        return;
    }
    (void)str_copy(x->name, sizeof x->name, str_of(job->name));
    x->revision = job->revision;
    x->anchor_us = job->updated_us;
    list_init(&x->link);
    list_init(&x->after);
    if (map_add(&t->jobs, str_of(x->name), x) != 0) {
        log_error("job '%s': there are too many jobs with triggers", job->name);
        plan_job(t, job->name, job->updated_us, NULL);
        entry_free(x);
        return;
    }
    list_push_back(&t->entries, &x->link);
    node_trigger_index_add(&t->index, x);
    node_triggers_replan(n, x);
    if (x->set->after_len != 0) {
        list_push_back(&t->followers, &x->after);
    }
}

void node_triggers_drop(struct node *n, struct str name)
{
    struct trigger_plan_event ev = { .type = TRIGGER_PLAN_DROP, .job = name };
    const struct trigger_set *set = node_triggers_find(n, name);

    for (size_t i = 0; set != NULL && i < set->schedules_len; i++) {
        char key[ROW_KEY_CAP];
        row_key(key, name, str_of(set->schedules[i].name));
        (void)table_remove(n->table, TABLE_SCHEDULE, str_of(key), NULL, NULL, NULL);
    }
    (void)step(n->triggers, &ev);
    if (set != NULL) {
        node_trigger_pause_drop(n, node_triggers_entry(n, name));
    }
    entry_drop(n->triggers, name);
}

const struct trigger_set *node_triggers_find(const struct node *n, struct str job)
{
    const struct trigger_entry *x = map_get(&n->triggers->jobs, job);

    return x != NULL ? x->set : NULL;
}

struct trigger_entry *node_triggers_entry(const struct node *n, struct str job)
{
    return map_get(&n->triggers->jobs, job);
}

/* ---- jobs after jobs ---- */

/* A run that follows another: its payload is read first, on a pool thread. */
struct following {
    struct list link;
    struct loop_work work;
    struct node *node;
    struct ulid of;
    uint32_t attempt;
    char job[RUN_JOB_CAP];
    char key[RUN_JOB_CAP + ULID_TEXT_CAP + 32];
    struct buf payload;
    int rc;
    char detail[ERR_TEXT_MAX];
};

static void following_free(struct following *f)
{
    list_remove(&f->link);
    buf_release(&f->payload);
    mem_free(f);
}

static void on_followed(void *arg, const struct node_error *error, const struct run *run,
                        bool replayed)
{
    struct following *f = arg;

    (void)run;
    (void)replayed;
    if (error != NULL) {
        log_warn("job '%s' could not be started after another: %s", f->job, error->detail);
    }
    following_free(f);
}

static void follow_submit(struct following *f)
{
    struct digest d;
    struct node_submit s = { .job = str_of(f->job),
                             .trigger = RUN_TRIGGER_AFTER,
                             .payload = buf_str(&f->payload),
                             .idempotency_key = str_of(f->key) };

    if (digest_of(DIGEST_SHA256, f->key, strlen(f->key), &d) != 0) {
        node_out_of_memory("a run after another");
    }
    memcpy(s.request_hash, d.b, sizeof s.request_hash);
    node_submit(f->node, &s, on_followed, f);
}

static void read_output(struct loop_work *w)
{
    struct following *f = CONTAINER_OF(w, struct following, work);
    struct sandbox_output *o = NULL;
    struct err e = { 0 };
    uint64_t pos = 0;
    size_t n = 1;

    f->rc = node_output_open(f->node, f->of, f->attempt, &o, &e);
    while (f->rc == 0 && n != 0) {
        char *to = buf_reserve(&f->payload, 64 * 1024);
        f->rc = to == NULL ? err_say(&e, -EFBIG, "its output is over %d bytes", AFTER_OUTPUT_MAX)
                           : sandbox_output_read(o, SANDBOX_STDOUT, &pos, to, 64 * 1024, &n, &e);
        if (f->rc == 0) {
            buf_grow(&f->payload, n);
        }
    }
    sandbox_output_free(o);
    (void)str_copy(f->detail, sizeof f->detail, str_of(err_text(&e)));
}

static void output_read(struct loop_work *w, int status)
{
    struct following *f = CONTAINER_OF(w, struct following, work);

    if (status != 0 || f->rc != 0) {
        log_warn("job '%s' is not started after another: %s", f->job,
                 status != 0 ? err_name(status) : f->detail);
        following_free(f);
        return;
    }
    if (!f->node->closing) {
        follow_submit(f);
    }
}

static void follow(struct node *n, const char *job, size_t which, bool payload,
                   const struct run *run)
{
    char id[ULID_TEXT_CAP];
    struct following *f = mem_zalloc(sizeof *f);

    if (f == NULL) {
        node_out_of_memory("a run after another");
    }
    f->node = n;
    list_init(&f->link);
    list_push_back(&n->triggers->following, &f->link);
    f->of = run->id;
    f->attempt = run->attempt;
    buf_init(&f->payload, AFTER_OUTPUT_MAX);
    (void)str_copy(f->job, sizeof f->job, str_of(job));
    ulid_format(run->id, id);
    (void)snprintf(f->key, sizeof f->key, "after:%s:%zu:%s", job, which, id);
    if (!payload) {
        follow_submit(f);
        return;
    }
    int rc = loop_work_start(&f->work, &n->owner, read_output, output_read);
    if (rc != 0) {
        node_out_of_memory("a run after another");
    }
}

static bool counts(enum trigger_after_on on, const struct run *run)
{
    return on == TRIGGER_AFTER_ENDED ||
           (on == TRIGGER_AFTER_SUCCEEDED) == (run->state == RUN_SUCCEEDED);
}

static void after_ended(struct node *n, struct trigger_entry *x, size_t i, const struct run *run)
{
    const struct trigger_after *a = &x->set->after[i];

    for (size_t k = 0; k < a->jobs_len; k++) {
        if (strcmp(a->jobs[k], run->job) != 0 || !counts(a->on, run)) {
            continue;
        }
        x->seen[i] |= UINT64_C(1) << k;
        if (x->seen[i] == (UINT64_C(1) << a->jobs_len) - 1) {
            x->seen[i] = 0;
            follow(n, x->name, i, a->payload, run);
        }
    }
}

void node_triggers_ended(struct node *n, const struct run *run)
{
    struct node_triggers *t = n->triggers;
    struct active *a = map_get(&t->active, id_key(&run->id));

    if (t->closed) {
        return;
    }
    if (a != NULL) {
        struct trigger_plan_event ev = { .type = TRIGGER_PLAN_ENDED,
                                         .job = str_of(a->job),
                                         .schedule = str_of(a->schedule) };
        (void)step(t, &ev);
        active_drop(t, a);
    }
    if (run->job[0] == '\0') {
        return;
    }
    LIST_EACH (l, &t->followers) {
        struct trigger_entry *x = LIST_ITEM(l, struct trigger_entry, after);
        for (size_t i = 0; i < x->set->after_len; i++) {
            if (x->set->after[i].held) {
                continue;
            }
            after_ended(n, x, i, run);
        }
    }
}

/* ---- start and end ---- */

int node_triggers_new(struct node *n, uint64_t k0, uint64_t k1, struct err *e)
{
    struct trigger_plan_config cfg = { .node = node_id_of(str_of(n->settings.node.name)),
                                       .max = SCHEDULES_MAX,
                                       .members_max = TRIGGER_MEMBERS_MAX,
                                       .k0 = k0,
                                       .k1 = k1 };
    struct node_triggers *t = mem_zalloc(sizeof *t);
    int rc = t == NULL ? -ENOMEM : trigger_plan_new(&cfg, &t->plan);

    if (rc != 0) {
        mem_free(t);
        return err_set(e, rc, "the plan of schedules");
    }
    t->node = n;
    map_init(&t->jobs, JOBS_MAX, k0, k1);
    map_init(&t->active, ACTIVE_MAX, k0, k1);
    node_trigger_index_init(&t->index, (size_t)JOBS_MAX * 2, k0, k1);
    list_init(&t->entries);
    list_init(&t->actives);
    list_init(&t->firings);
    list_init(&t->followers);
    list_init(&t->following);
    loop_timer_init(&t->timer, &n->owner, on_time);
    n->triggers = t;
    return 0;
}

static void on_jobs(void *arg, int status, const struct job *const *jobs, size_t jobs_len,
                    bool more)
{
    struct node *n = arg;
    struct node_triggers *t = n->triggers;

    if (n->closing || t->closed) {
        return;
    }
    if (status != 0) {
        log_error("the triggers of the jobs could not be read: %s", err_name(status));
        return;
    }
    for (size_t i = 0; i < jobs_len; i++) {
        node_triggers_job(n, jobs[i]);
    }
    if (more && jobs_len != 0) {
        node_asked(
            job_store_list_jobs(n->store, str_of(jobs[jobs_len - 1]->name), LOAD_PAGE, on_jobs, n));
        return;
    }
    t->loaded = true;
    look_later(t);
    if (trigger_plan_len(t->plan) != 0) {
        log_info("%zu schedules; time zones: %s", trigger_plan_len(t->plan),
                 trigger_zone_version());
    }
}

void node_triggers_load(struct node *n)
{
    if (table_watch(n->table, TABLE_SCHEDULE, on_row, n->triggers) != 0 ||
        node_trigger_pause_watch(n) != 0) {
        node_out_of_memory("a watch of the table");
    }
    node_asked(job_store_list_jobs(n->store, STR(""), LOAD_PAGE, on_jobs, n));
}

void node_triggers_close(struct node *n)
{
    n->triggers->closed = true;
    loop_timer_close(&n->triggers->timer);
}

void node_triggers_free(struct node *n)
{
    struct node_triggers *t = n->triggers;

    if (t == NULL) {
        return;
    }
    LIST_EACH_SAFE (l, &t->entries) {
        struct trigger_entry *x = LIST_ITEM(l, struct trigger_entry, link);
        node_trigger_index_drop(&t->index, x);
        entry_free(x);
    }
    LIST_EACH_SAFE (l, &t->actives) {
        mem_free(LIST_ITEM(l, struct active, link));
    }
    LIST_EACH_SAFE (l, &t->firings) {
        mem_free(LIST_ITEM(l, struct firing, link));
    }
    LIST_EACH_SAFE (l, &t->following) {
        following_free(LIST_ITEM(l, struct following, link));
    }
    map_release(&t->jobs);
    map_release(&t->active);
    node_trigger_index_release(&t->index);
    trigger_plan_free(t->plan);
    n->triggers = mem_free(t);
}
