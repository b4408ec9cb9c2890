/* Triggers as the API sees them: listed, tested, set off by hand. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "agent/node/uv_node_triggers_internal.h"
#include "agent/triggers/cloudevent.h"
#include "agent/triggers/sys_zone.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    LIST_JOBS_MAX = 1000, /* jobs in one answer */
    NEXT_SHOWN = 5,
};

/* ---- listing ---- */

/* The next times, on both clocks. */
static void list_next(const struct node_triggers *t, const struct trigger_entry *x,
                      const struct trigger_schedule *s, struct json_w *w)
{
    const struct trigger_zone *zone = trigger_zone_utc();
    int64_t at = trigger_plan_next_us(t->plan, str_of(x->name), str_of(s->name));

    (void)trigger_zone_find(str_of(s->zone), &zone, NULL);
    json_w_key(w, "next");
    json_w_arr(w);
    for (int i = 0; i < NEXT_SHOWN && at != 0; i++) {
        char text[TIME_TEXT_CAP];
        struct trigger_offset o = trigger_zone_offset(zone, at / 1000000);
        int minutes = (o.seconds < 0 ? -o.seconds : o.seconds) / 60;
        struct trigger_civil c = trigger_civil_of(at / 1000000 + o.seconds);
        json_w_obj(w);
        json_kv_time(w, "at", at);
        (void)snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d%c%02d:%02d",
                       c.year % 10000, c.month, c.day, c.hour, c.minute, c.second,
                       o.seconds < 0 ? '-' : '+', minutes / 60 % 100, minutes % 60);
        json_kv_cstr(w, "local", text);
        json_w_end(w);
        if (!trigger_schedule_next(s, zone, x->anchor_us, at, &at)) {
            at = 0;
        }
    }
    json_w_end(w);
}

static void list_schedules(const struct node_triggers *t, const struct trigger_entry *x,
                           struct json_w *w)
{
    for (size_t i = 0; i < x->set->schedules_len; i++) {
        const struct trigger_schedule *s = &x->set->schedules[i];
        json_w_obj(w);
        json_kv_cstr(w, "job", x->name);
        json_kv_cstr(w, "kind", "schedule");
        json_kv_cstr(w, "name", s->name);
        json_kv_cstr(w, "cron", s->text);
        json_kv_cstr(w, "time_zone", s->zone);
        json_kv_bool(w, "paused", s->paused || s->held);
        list_next(t, x, s, w);
        json_w_end(w);
    }
}

static void list_one(struct json_w *w, const struct trigger_entry *x, const char *kind,
                     const char *name, bool held, const char *key, const char *value)
{
    json_w_obj(w);
    json_kv_cstr(w, "job", x->name);
    json_kv_cstr(w, "kind", kind);
    json_kv_cstr(w, "name", name);
    json_kv_cstr(w, key, value);
    json_kv_bool(w, "paused", held);
    json_w_end(w);
}

static void list_hook(struct json_w *w, const struct trigger_entry *x, const struct trigger_hook *h)
{
    json_w_obj(w);
    json_kv_cstr(w, "job", x->name);
    json_kv_cstr(w, "kind", "hook");
    json_kv_cstr(w, "name", h->name);
    json_kv_cstr(w, "verify", trigger_hook_kind_name(h->rule.kind));
    json_w_key(w, "rule");
    trigger_hook_rule_to_json(w, &h->rule);
    json_kv_bool(w, "paused", h->held);
    json_w_end(w);
}

static void list_entry(const struct node_triggers *t, const struct trigger_entry *x,
                       struct json_w *w)
{
    const struct trigger_set *s = x->set;

    list_schedules(t, x, w);
    for (size_t i = 0; i < s->hooks_len; i++) {
        list_hook(w, x, &s->hooks[i]);
    }
    for (size_t i = 0; i < s->sensors_len; i++) {
        bool mqtt = s->sensors[i].mqtt[0] != '\0';
        list_one(w, x, "sensor", s->sensors[i].name, s->sensors[i].held, mqtt ? "mqtt" : "node",
                 mqtt ? s->sensors[i].mqtt : s->sensors[i].node);
    }
    for (size_t i = 0; i < s->events_len; i++) {
        list_one(w, x, "event", s->events[i].name, s->events[i].held, "type", s->events[i].type);
    }
    for (size_t i = 0; i < s->after_len; i++) {
        list_one(w, x, "after", s->after[i].jobs[0], s->after[i].held, "on",
                 trigger_after_on_name(s->after[i].on));
    }
}

static int by_name(const void *a, const void *b)
{
    const struct trigger_entry *const *x = a;
    const struct trigger_entry *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

void node_trigger_list(struct node *n, struct str job, node_text_fn *fn, void *arg)
{
    struct node_triggers *t = n->triggers;
    struct node_query *q = node_query_new(n, fn, arg);
    const struct trigger_entry **sorted =
        mem_calloc(t->jobs.len + 1, sizeof(struct trigger_entry *));
    struct json_w w;
    size_t len = 0;

    if (sorted == NULL) {
        node_out_of_memory("a list of triggers");
    }
    LIST_EACH (l, &t->entries) {
        const struct trigger_entry *x = LIST_ITEM(l, struct trigger_entry, link);
        if (job.n == 0 || str_eqs(job, x->name)) {
            sorted[len++] = x;
        }
    }
    qsort(sorted, len, sizeof(struct trigger_entry *), by_name);
    json_w_init(&w, &q->text, false);
    json_w_obj(&w);
    json_w_key(&w, "triggers");
    json_w_arr(&w);
    for (size_t i = 0; i < len && i < LIST_JOBS_MAX; i++) {
        list_entry(t, sorted[i], &w);
    }
    json_w_end(&w);
    json_kv_bool(&w, "more", len > LIST_JOBS_MAX);
    json_kv_cstr(&w, "zones", trigger_zone_version());
    json_w_end(&w);
    mem_free(sorted);
    node_query_text(q);
}

/* ---- by name ---- */

enum kind { SCHEDULE, HOOK, SENSOR, EVENT, AFTER, KINDS };
static const char *const kinds[KINDS] = { "schedule", "hook", "sensor", "event", "after" };

static size_t kind_len(const struct trigger_set *s, size_t kind)
{
    const size_t len[KINDS] = { s->schedules_len, s->hooks_len, s->sensors_len, s->events_len,
                                s->after_len };

    return len[kind];
}

static const char *kind_name(const struct trigger_set *s, size_t kind, size_t i)
{
    switch (kind) {
    case SCHEDULE:
        return s->schedules[i].name;
    case HOOK:
        return s->hooks[i].name;
    case SENSOR:
        return s->sensors[i].name;
    case EVENT:
        return s->events[i].name;
    default:
        return s->after[i].jobs[0];
    }
}

int node_trigger_resolve(const struct node *n, struct str text, bool whole,
                         struct node_trigger_name *ret, struct err *e)
{
    struct str rest = text;
    struct str job;
    struct str kind = { 0 };
    size_t found = 0;

    (void)str_split(&rest, '/', &job);
    const struct trigger_entry *x = node_triggers_entry(n, job);
    if (x == NULL) {
        return err_say(e, -ENOENT, "there is no job '%.*s' with triggers", STR_ARG(job));
    }
    *ret = (struct node_trigger_name){ .job = x->name };
    if (job.n == text.n && whole) {
        return 0;
    }
    ptrdiff_t slash = str_find(rest, '/');
    if (slash >= 0) {
        kind = str_slice(rest, 0, (size_t)slash);
        rest = str_slice(rest, (size_t)slash + 1, rest.n);
    }
    for (size_t k = 0; k < KINDS; k++) {
        for (size_t i = 0; i < kind_len(x->set, k); i++) {
            bool named = rest.n == 0 ? job.n == text.n : str_eqs(rest, kind_name(x->set, k, i));
            if (named && (kind.n == 0 || str_eqs(kind, kinds[k]))) {
                ret->kind = kinds[k];
                ret->name = kind_name(x->set, k, i);
                ret->index = i;
                found++;
            }
        }
    }
    if (found == 0) {
        return err_say(e, -ENOENT, "job '%s' has no trigger '%.*s'", x->name, STR_ARG(rest));
    }
    return found == 1 ? 0
                      : err_say(e, -ENOTUNIQ,
                                "job '%s' has several such triggers: say JOB/KIND/NAME, as 'agent "
                                "trigger ls' shows them",
                                x->name);
}

/* ---- set off by hand ---- */

void node_trigger_fire(struct node *n, struct str trigger, struct str payload, node_run_fn *fn,
                       void *arg)
{
    static const enum run_trigger as[KINDS] = { RUN_TRIGGER_SCHEDULE, RUN_TRIGGER_HOOK,
                                                RUN_TRIGGER_SENSOR, RUN_TRIGGER_SENSOR,
                                                RUN_TRIGGER_AFTER };
    struct node_trigger_name name;
    struct err e = { 0 };
    struct digest d;

    if (node_trigger_resolve(n, trigger, false, &name, &e) != 0) {
        struct node_error error = { .code =
                                        e.code == -ENOENT ? NODE_UNKNOWN_TRIGGER : NODE_AMBIGUOUS };
        (void)snprintf(error.detail, sizeof error.detail, "%s", err_text(&e));
        node_request_refuse(node_request_new(n, NODE_OP_SUBMIT, fn, arg), &error);
        return;
    }
    struct node_submit s = { .job = str_of(name.job), .payload = payload };
    for (size_t k = 0; k < KINDS; k++) {
        if (name.kind == kinds[k]) {
            s.trigger = as[k];
            s.scheduled_us = k == SCHEDULE ? sys_wall_us() : 0;
        }
    }
    if (digest_of(DIGEST_SHA256, payload.p, payload.n, &d) != 0) {
        node_out_of_memory("a run");
    }
    memcpy(s.request_hash, d.b, sizeof s.request_hash);
    node_submit(n, &s, fn, arg);
}

/* ---- would it? ---- */

static struct json text_value(struct str s)
{
    return (struct json){ .type = JSON_STRING, .u.s = s };
}

static void say(struct json_w *w, bool would, bool held, const char *why)
{
    json_kv_bool(w, "would_fire", would && !held);
    json_kv_bool(w, "paused", held);
    json_kv_cstr(w, "detail", would && held ? "its condition holds, but it is paused" : why);
}

static void test_sensor(const struct node *n, const struct trigger_sensor_def *d,
                        const struct node_trigger_input *in, const struct json *root,
                        struct json_w *w)
{
    struct json text = text_value(in->body);
    struct json topic = text_value(in->topic);
    struct json place = text_value(str_of(n->settings.node.name));
    const struct json *value = root != NULL ? root : str_is_utf8(in->body) ? &text : NULL;
    const struct json *values[] = { value, value, in->topic.n != 0 ? &topic : NULL, &place };
    bool missing = false;
    bool unused = false;

    if (d->mqtt[0] != '\0' && in->topic.n != 0 &&
        !trigger_topic_matches(str_of(d->mqtt), in->topic)) {
        say(w, false, d->held, "its topic filter does not match");
        return;
    }
    bool holds = trigger_when_holds(d->when, values, &missing);
    say(w, holds, d->held,
        missing ? "its condition asks for something that is not there"
        : holds ? "its condition holds (for, rearm and rate come on top of that)"
                : "its condition does not hold");
    json_kv_bool(w, "rearms",
                 d->rearm != NULL ? trigger_when_holds(d->rearm, values, &unused)
                                  : !holds && !missing);
}

static void test_event(const struct trigger_event *t, const struct json *root, struct json_w *w)
{
    struct trigger_cloudevent ev = { 0 };
    struct err e = { 0 };
    int rc = root != NULL ? trigger_event_from_json(root, &ev, &e)
                          : err_say(&e, -EINVAL, "an event is a JSON object (CloudEvents 1.0)");

    if (rc != 0) {
        say(w, false, t->held, err_text(&e));
        return;
    }
    bool fits = trigger_event_matches(t, &ev);
    bool wanted = fits && node_event_wanted(t, &ev);
    say(w, wanted, t->held,
        wanted ? "its filters and its condition hold"
        : fits ? "its condition does not hold"
               : "its type, source or subject does not match");
    trigger_event_release(&ev);
}

static void test_after(const struct trigger_after *a, const struct json *root, struct json_w *w)
{
    struct str state = { 0 };
    struct str job = { 0 };
    bool named = false;

    (void)json_str(root != NULL ? json_get(root, "state") : NULL, &state);
    (void)json_str(root != NULL ? json_get(root, "job") : NULL, &job);
    for (size_t i = 0; i < a->jobs_len; i++) {
        named = named || job.n == 0 || str_eqs(job, a->jobs[i]);
    }
    bool end = a->on == TRIGGER_AFTER_ENDED ||
               (a->on == TRIGGER_AFTER_SUCCEEDED) == str_eqs(state, "succeeded");
    say(w, named && end && state.n != 0, a->held,
        state.n == 0      ? "say how the other job ended: {\"state\": \"succeeded\"}"
        : !named          ? "it does not come after that job"
        : !end            ? "it does not come after such an end"
        : a->jobs_len > 1 ? "it comes when all of its jobs have ended so"
                          : "it comes after such an end");
}

void node_trigger_test(struct node *n, struct str trigger, const struct node_trigger_input *in,
                       node_text_fn *fn, void *arg)
{
    struct node_query *q = node_query_new(n, fn, arg);
    AUTO_JSON struct json_doc *doc = NULL;
    struct node_trigger_name name;
    struct err e = { 0 };
    struct json_w w;

    if (node_trigger_resolve(n, trigger, false, &name, &e) != 0) {
        node_query_refuse(q, e.code == -ENOENT ? NODE_UNKNOWN_TRIGGER : NODE_AMBIGUOUS, "%s",
                          err_text(&e));
        return;
    }
    const struct trigger_entry *x = node_triggers_entry(n, str_of(name.job));
    const struct trigger_set *s = x->set;
    if (json_parse(in->body.p, in->body.n, NULL, &doc, NULL) != 0) {
        doc = NULL;
    }
    const struct json *root = doc != NULL ? json_root(doc) : NULL;
    json_w_init(&w, &q->text, false);
    json_w_obj(&w);
    json_kv_cstr(&w, "job", name.job);
    json_kv_cstr(&w, "kind", name.kind);
    json_kv_cstr(&w, "name", name.name);
    if (name.kind == kinds[SCHEDULE]) {
        const struct trigger_schedule *one = &s->schedules[name.index];
        say(&w, true, one->held || one->paused, "it fires at its times");
        list_next(n->triggers, x, one, &w);
    } else if (name.kind == kinds[HOOK]) {
        bool wanted = node_hook_wanted(&s->hooks[name.index], in);
        say(&w, wanted, s->hooks[name.index].held,
            wanted ? "its condition holds (the signature was not asked for)"
                   : "its condition does not hold");
    } else if (name.kind == kinds[SENSOR]) {
        test_sensor(n, &s->sensors[name.index], in, root, &w);
    } else if (name.kind == kinds[EVENT]) {
        test_event(&s->events[name.index], root, &w);
    } else {
        test_after(&s->after[name.index], root, &w);
    }
    json_w_end(&w);
    node_query_text(q);
}
