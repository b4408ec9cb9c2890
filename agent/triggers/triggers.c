#include "agent/triggers/triggers.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "agent/triggers/triggers_internal.h"
#include "common/ids.h"
#include "common/insist.h"
#include "common/map.h"
#include "common/mem.h"

/* The state of reading one document. */
struct doc {
    struct trigger_problems *problems;
    struct trigger_set *set;
    struct str job;
    char where[48]; /* "triggers.schedules[0]" */
    bool no_memory;
};

static const char *const overlap_names[] = { "allow", "forbid", "replace" };
static const char *const catch_up_names[] = { "none", "one", "all" };
static const char *const on_names[] = { "succeeded", "failed", "ended" };

const char *trigger_overlap_name(enum trigger_overlap v)
{
    REQUIRE((size_t)v < ARRAY_LEN(overlap_names));
    return overlap_names[v];
}

const char *trigger_catch_up_name(enum trigger_catch_up v)
{
    REQUIRE((size_t)v < ARRAY_LEN(catch_up_names));
    return catch_up_names[v];
}

const char *trigger_after_on_name(enum trigger_after_on v)
{
    REQUIRE((size_t)v < ARRAY_LEN(on_names));
    return on_names[v];
}

uint64_t trigger_hash(struct str job, struct str name)
{
    /* Fixed keys: every node and every version draws the same. */
    uint64_t h = map_hash(0x7472696767657273, 0x6a6f626e616d6573, job.p, job.n);

    return map_hash(h, 0x7363686564756c65, name.p, name.n);
}

__attribute__((format(printf, 3, 4))) static void problem(struct doc *d, const char *member,
                                                          const char *fmt, ...)
{
    struct trigger_problems *ps = d->problems;
    va_list ap;

    if (ps->n == TRIGGER_PROBLEMS_MAX) {
        return;
    }
    struct trigger_problem *p = &ps->items[ps->n++];
    (void)snprintf(p->field, sizeof p->field, "%.40s%s%.20s", d->where, member[0] ? "." : "",
                   member);
    va_start(ap, fmt);
    (void)vsnprintf(p->detail, sizeof p->detail, fmt, ap);
    va_end(ap);
}

/* A reader's outcome: its sentence becomes a problem. */
static bool took(struct doc *d, const char *member, int rc, const struct err *e)
{
    if (rc == -ENOMEM) {
        d->no_memory = true;
    } else if (rc != 0) {
        problem(d, member, "%s", err_text(e));
    }
    return rc == 0;
}

static void unknown(struct doc *d, const struct json *m)
{
    char name[32];

    (void)snprintf(name, sizeof name, "%.*s", STR_ARG(str_slice(m->key, 0, 20)));
    problem(d, name, "is not a member here");
}

/* ---- members that several kinds have ---- */

static void get_name(struct doc *d, const struct json *m, const char *member,
                     char dst[TRIGGER_NAME_MAX + 1])
{
    struct str s;

    if (!json_str(m, &s) || !trigger_name_ok(s)) {
        problem(d, member, "must be letters, digits, '.', '_', '-', at most %d", TRIGGER_NAME_MAX);
    } else {
        (void)str_copy(dst, TRIGGER_NAME_MAX + 1, s);
    }
}

static void get_when(struct doc *d, const struct json *m, const char *member,
                     const char *const *names, struct trigger_when **ret)
{
    struct err e = { 0 };
    struct str s;

    if (!json_str(m, &s)) {
        problem(d, member, "must be a condition, not %s", json_type_name(m->type));
    } else if (*ret == NULL) {
        (void)took(d, member, trigger_when_new(s, names, ret, &e), &e);
    }
}

static void get_ms(struct doc *d, const struct json *m, const char *member, uint64_t min,
                   uint64_t max, uint64_t *ret)
{
    struct err e = { 0 };

    (void)took(d, member, trigger_get_duration(m, member, min, max, ret, &e), &e);
}

static void get_on(struct doc *d, const struct json *m, enum trigger_after_on *ret)
{
    struct err e = { 0 };
    size_t i = 0;

    if (took(d, "on", trigger_get_choice(m, "on", on_names, ARRAY_LEN(on_names), &i, &e), &e)) {
        *ret = (enum trigger_after_on)i;
    }
}

static void get_text(struct doc *d, const struct json *m, const char *member, char *dst, size_t cap)
{
    struct err e = { 0 };
    struct str s;

    if (took(d, member, trigger_get_text(m, member, 1, cap - 1, &s, &e), &e)) {
        (void)str_copy(dst, cap, s);
    }
}

/* ---- schedules ---- */

#define DAY_MS (UINT64_C(86400) * 1000)

struct schedule_text {
    const struct json *cron;
    const struct json *every;
};

static void schedule_member(struct doc *d, const struct json *m, struct trigger_schedule *s,
                            struct schedule_text *text)
{
    struct err e = { 0 };
    size_t i = 0;

    if (str_eqs(m->key, "name")) {
        get_name(d, m, "name", s->name);
    } else if (str_eqs(m->key, "cron")) {
        text->cron = m;
    } else if (str_eqs(m->key, "run_every")) {
        text->every = m;
    } else if (str_eqs(m->key, "time_zone")) {
        get_text(d, m, "time_zone", s->zone, sizeof s->zone);
        if (!trigger_zone_name_ok(str_of(s->zone))) {
            problem(d, "time_zone", "is not a time zone's name, such as Europe/Berlin");
        }
    } else if (str_eqs(m->key, "overlap")) {
        (void)took(
            d, "overlap",
            trigger_get_choice(m, "overlap", overlap_names, ARRAY_LEN(overlap_names), &i, &e), &e);
        s->overlap = (enum trigger_overlap)i;
    } else if (str_eqs(m->key, "catch_up")) {
        (void)took(
            d, "catch_up",
            trigger_get_choice(m, "catch_up", catch_up_names, ARRAY_LEN(catch_up_names), &i, &e),
            &e);
        s->catch_up = (enum trigger_catch_up)i;
    } else if (str_eqs(m->key, "jitter")) {
        get_ms(d, m, "jitter", 0, DAY_MS, &s->jitter_ms);
    } else if (str_eqs(m->key, "start_deadline")) {
        get_ms(d, m, "start_deadline", 1000, 366 * DAY_MS, &s->deadline_ms);
    } else if (str_eqs(m->key, "start_at")) {
        (void)took(d, "start_at", trigger_get_time(m, "start_at", &s->start_us, &e), &e);
    } else if (str_eqs(m->key, "end_at")) {
        (void)took(d, "end_at", trigger_get_time(m, "end_at", &s->end_us, &e), &e);
    } else if (str_eqs(m->key, "run_times")) {
        (void)took(d, "run_times", trigger_get_count(m, "run_times", 1, INT64_MAX, &s->times, &e),
                   &e);
    } else if (str_eqs(m->key, "paused")) {
        (void)took(d, "paused", trigger_get_bool(m, "paused", &s->paused, &e), &e);
    } else {
        unknown(d, m);
    }
}

/* The expression, or Iron's run_every and start_at in its place. */
static void schedule_expression(struct doc *d, const struct schedule_text *t,
                                struct trigger_schedule *s)
{
    struct err e = { 0 };
    struct str text;
    struct str zone = { 0 };
    uint64_t ms = 0;
    char every[48] = "";
    const char *member = t->cron != NULL ? "cron" : "run_every";

    if (t->cron != NULL && t->every != NULL) {
        problem(d, "run_every", "stands beside cron: only one of them can say when");
        return;
    }
    if (t->cron != NULL) {
        if (!took(d, "cron", trigger_get_text(t->cron, "cron", 1, TRIGGER_CRON_TEXT_MAX, &text, &e),
                  &e)) {
            return;
        }
    } else if (t->every != NULL) {
        get_ms(d, t->every, "run_every", 1000, TRIGGER_CRON_EVERY_MAX_S * UINT64_C(1000), &ms);
        (void)snprintf(every, sizeof every, "@every %llus", (unsigned long long)(ms / 1000));
        text = str_of(every);
    } else if (s->start_us != 0) {
        char at[TIME_TEXT_CAP];
        (void)snprintf(every, sizeof every, "@at %s", time_format(s->start_us, at));
        text = str_of(every);
        s->start_us = 0;
    } else {
        problem(d, "cron", "is missing: when is it to run?");
        return;
    }
    int rc =
        ms == 0 && t->every != NULL
            ? 0
            : trigger_cron_parse(text, trigger_hash(d->job, str_of(s->name)), &s->cron, &zone, &e);
    if (!took(d, member, rc, &e)) {
        return;
    }
    if (zone.n != 0 && s->zone[0] != '\0') {
        problem(d, "cron", "CRON_TZ stands beside time_zone: only one of them can say where");
    } else if (zone.n != 0) {
        (void)str_copy(s->zone, sizeof s->zone, zone);
    }
    s->text = mem_strndup(text.p, text.n);
    d->no_memory = d->no_memory || s->text == NULL;
}

static void read_schedule(struct doc *d, const struct json *v, void *item)
{
    struct trigger_schedule *s = item;
    struct schedule_text text = { 0 };

    JSON_EACH (m, v) {
        schedule_member(d, m, s, &text);
    }
    schedule_expression(d, &text, s);
    if (s->zone[0] == '\0') {
        (void)str_copy(s->zone, sizeof s->zone, STR("UTC"));
    }
    if (s->end_us != 0 && s->end_us <= s->start_us) {
        problem(d, "end_at", "is not after start_at");
    }
}

/* ---- hooks ---- */

static void hook_headers(struct doc *d, const struct json *m, struct trigger_hook *h)
{
    if (m->type != JSON_ARRAY || m->count > TRIGGER_HEADERS_MAX || h->headers != NULL) {
        problem(d, "headers", "must be an array of at most %d names", TRIGGER_HEADERS_MAX);
        return;
    }
    h->headers = mem_calloc(m->count + 1, sizeof h->headers[0]);
    d->no_memory = d->no_memory || h->headers == NULL;
    JSON_EACH (item, m) {
        struct str s;
        bool ok = json_str(item, &s) && s.n != 0 && s.n <= TRIGGER_HOOK_HEADER_MAX;
        for (size_t i = 0; ok && i < s.n; i++) {
            char c = s.p[i];
            ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                 c == '-';
        }
        if (!ok) {
            problem(d, "headers", "has something that is not the name of a header");
            return;
        }
        if (str_ieqs(s, "authorization") || str_ieqs(s, "cookie") ||
            str_ieqs(s, "x-gitlab-token")) {
            problem(d, "headers", "%.*s is a secret and never given to a run", STR_ARG(s));
            return;
        }
        char *copy = h->headers != NULL ? mem_strndup(s.p, s.n) : NULL;
        if (copy == NULL) {
            d->no_memory = true;
            return;
        }
        h->headers[h->headers_len++] = copy;
    }
}

static void read_hook(struct doc *d, const struct json *v, void *item)
{
    static const char *const names[] = { "payload", "headers", "query", NULL };
    struct trigger_hook *h = item;
    struct err e = { 0 };
    bool verified = false;

    JSON_EACH (m, v) {
        if (str_eqs(m->key, "name")) {
            get_name(d, m, "name", h->name);
        } else if (str_eqs(m->key, "verify")) {
            verified = true;
            (void)took(d, "verify", trigger_hook_rule_parse(m, &h->rule, &e), &e);
        } else if (str_eqs(m->key, "secret")) {
            get_name(d, m, "secret", h->secret);
        } else if (str_eqs(m->key, "when")) {
            get_when(d, m, "when", names, &h->when);
        } else if (str_eqs(m->key, "headers")) {
            hook_headers(d, m, h);
        } else {
            unknown(d, m);
        }
    }
    if (!verified) {
        problem(d, "verify",
                "is missing: github, gitlab, stripe, slack, standard, hmac, bearer, or none");
    } else if ((h->rule.kind != TRIGGER_HOOK_NONE) != (h->secret[0] != '\0')) {
        problem(d, "secret",
                h->secret[0] == '\0' ? "is missing: the name of a secret (agent secret set)"
                                     : "has no use with verify none");
    }
}

/* ---- sensors ---- */

bool trigger_topic_matches(struct str filter, struct str topic)
{
    struct str f;
    struct str t;
    bool more;

    if (topic.n != 0 && topic.p[0] == '$' && (filter.n == 0 || filter.p[0] != '$')) {
        return false;
    }
    /* str_split() gives no empty piece at the end; MQTT has one there. */
    size_t levels_f = 1;
    size_t levels_t = 1;
    for (size_t i = 0; i < filter.n; i++) {
        levels_f += filter.p[i] == '/';
    }
    for (size_t i = 0; i < topic.n; i++) {
        levels_t += topic.p[i] == '/';
    }
    for (; levels_f != 0; levels_f--) {
        if (!str_split(&filter, '/', &f)) {
            f = (struct str){ 0 };
        }
        if (str_eqs(f, "#")) {
            return true;
        }
        more = levels_t != 0;
        if (!more) {
            return false;
        }
        levels_t--;
        if (!str_split(&topic, '/', &t)) {
            t = (struct str){ 0 };
        }
        if (!str_eqs(f, "+") && !str_eq(f, t)) {
            return false;
        }
    }
    return levels_t == 0;
}

int trigger_topic_check(struct str filter, struct err *e)
{
    if (filter.n == 0 || filter.n > TRIGGER_TOPIC_MAX || !str_is_utf8(filter)) {
        return err_say(e, -EINVAL, "a topic filter has 1 to %d bytes of UTF-8", TRIGGER_TOPIC_MAX);
    }
    for (size_t i = 0; i < filter.n; i++) {
        char c = filter.p[i];
        bool first = i == 0 || filter.p[i - 1] == '/';
        bool last = i + 1 == filter.n || filter.p[i + 1] == '/';
        if (c == '+' && !(first && last)) {
            return err_say(e, -EINVAL, "'+' in a topic filter stands for a whole level");
        }
        if (c == '#' && !(first && i + 1 == filter.n)) {
            return err_say(e, -EINVAL, "'#' in a topic filter is its last level");
        }
    }
    return 0;
}

static void read_sensor(struct doc *d, const struct json *v, void *item)
{
    static const char *const names[] = { "payload", "value", "topic", "node", NULL };
    struct trigger_sensor_def *s = item;
    struct err e = { 0 };
    uint64_t qos = 1;

    JSON_EACH (m, v) {
        if (str_eqs(m->key, "name")) {
            get_name(d, m, "name", s->name);
        } else if (str_eqs(m->key, "mqtt")) {
            get_text(d, m, "mqtt", s->mqtt, sizeof s->mqtt);
            if (s->mqtt[0] != '\0') {
                (void)took(d, "mqtt", trigger_topic_check(str_of(s->mqtt), &e), &e);
            }
        } else if (str_eqs(m->key, "node")) {
            get_name(d, m, "node", s->node);
        } else if (str_eqs(m->key, "when")) {
            get_when(d, m, "when", names, &s->when);
        } else if (str_eqs(m->key, "rearm")) {
            get_when(d, m, "rearm", names, &s->rearm);
        } else if (str_eqs(m->key, "for")) {
            get_ms(d, m, "for", 0, 7 * DAY_MS, &s->rule.for_ms);
        } else if (str_eqs(m->key, "debounce")) {
            get_ms(d, m, "debounce", 0, DAY_MS, &s->rule.debounce_ms);
        } else if (str_eqs(m->key, "every")) {
            get_ms(d, m, "every", 0, 366 * DAY_MS, &s->rule.every_ms);
        } else if (str_eqs(m->key, "qos")) {
            (void)took(d, "qos", trigger_get_count(m, "qos", 0, 1, &qos, &e), &e);
        } else {
            unknown(d, m);
        }
    }
    s->qos = (unsigned)qos;
    s->rule.has_rearm = s->rearm != NULL;
    if ((s->mqtt[0] != '\0') == (s->node[0] != '\0')) {
        problem(d, "",
                "has to have one of mqtt (a topic filter) and node (a reading of the nodes)");
    }
    if (s->when == NULL) {
        problem(d, "when", "is missing: at which readings does it go off?");
    }
}

/* ---- events, after ---- */

static void read_event(struct doc *d, const struct json *v, void *item)
{
    static const char *const names[] = { "payload", "event", NULL };
    struct trigger_event *t = item;

    JSON_EACH (m, v) {
        if (str_eqs(m->key, "name")) {
            get_name(d, m, "name", t->name);
        } else if (str_eqs(m->key, "type")) {
            get_text(d, m, "type", t->type, sizeof t->type);
        } else if (str_eqs(m->key, "source")) {
            get_text(d, m, "source", t->source, sizeof t->source);
        } else if (str_eqs(m->key, "subject")) {
            get_text(d, m, "subject", t->subject, sizeof t->subject);
        } else if (str_eqs(m->key, "when")) {
            get_when(d, m, "when", names, &t->when);
        } else {
            unknown(d, m);
        }
    }
    if (t->type[0] == '\0' && t->source[0] == '\0' && t->subject[0] == '\0' && t->when == NULL) {
        problem(d, "type", "is missing: type, source, subject or when has to say which events");
    }
}

static void after_jobs(struct doc *d, const struct json *m, struct trigger_after *a)
{
    bool one = m->type == JSON_STRING;
    const struct json *item = one ? m : m->type == JSON_ARRAY ? m->child : NULL;

    if (item == NULL || (!one && m->count > TRIGGER_AFTER_JOBS_MAX)) {
        problem(d, "job", "must be a job's name, or an array of 1 to %d", TRIGGER_AFTER_JOBS_MAX);
        return;
    }
    a->jobs_len = 0;
    for (; item != NULL; item = one ? NULL : item->next) {
        char *dst = a->jobs[a->jobs_len++];
        get_name(d, item, "job", dst);
        if (str_eq(str_of(dst), d->job)) {
            problem(d, "job", "is the job itself: it would never stop");
        }
    }
}

static void read_after(struct doc *d, const struct json *v, void *item)
{
    static const char *const payloads[] = { "none", "output" };
    struct trigger_after *a = item;
    struct err e = { 0 };
    size_t i = 0;

    a->on = TRIGGER_AFTER_SUCCEEDED;
    JSON_EACH (m, v) {
        if (str_eqs(m->key, "job") || str_eqs(m->key, "jobs")) {
            after_jobs(d, m, a);
        } else if (str_eqs(m->key, "on")) {
            get_on(d, m, &a->on);
        } else if (str_eqs(m->key, "payload")) {
            (void)took(d, "payload",
                       trigger_get_choice(m, "payload", payloads, ARRAY_LEN(payloads), &i, &e), &e);
        } else {
            unknown(d, m);
        }
    }
    a->payload = i == 1;
    if (a->jobs_len == 0 && d->problems->n == 0) {
        problem(d, "job", "is missing: after which job?");
    }
    if (a->payload && a->jobs_len > 1) {
        problem(d, "payload", "\"output\" is for one job; several have several outputs");
    }
}

/* ---- lists ---- */

typedef void read_fn(struct doc *d, const struct json *v, void *item);

struct kind {
    const char *name;
    size_t size;
    size_t max;
    size_t name_at;          /* offset of the item's name; SIZE_MAX: it has none */
    size_t items_at, len_at; /* in struct trigger_set */
    read_fn *read;
};

#define KIND(member, type, max, name_at, fn) \
    { \
#member, sizeof(struct type), (max), (name_at), offsetof(struct trigger_set, member), \
            offsetof(struct trigger_set, member##_len), (fn) \
    }

static const struct kind kinds[] = {
    KIND(schedules, trigger_schedule, TRIGGER_PER_JOB_MAX, offsetof(struct trigger_schedule, name),
         read_schedule),
    KIND(hooks, trigger_hook, TRIGGER_PER_JOB_MAX, offsetof(struct trigger_hook, name), read_hook),
    KIND(sensors, trigger_sensor_def, TRIGGER_PER_JOB_MAX,
         offsetof(struct trigger_sensor_def, name), read_sensor),
    KIND(events, trigger_event, TRIGGER_PER_JOB_MAX, offsetof(struct trigger_event, name),
         read_event),
    KIND(after, trigger_after, TRIGGER_PER_JOB_MAX, SIZE_MAX, read_after),
};

/* No two of one kind may have one name. */
static void check_names(struct doc *d, const struct kind *k, const char *items, size_t n)
{
    for (size_t i = 1; k->name_at != SIZE_MAX && i < n; i++) {
        const char *name = items + i * k->size + k->name_at;
        for (size_t j = 0; j < i; j++) {
            if (str_eq(str_of(name), str_of(items + j * k->size + k->name_at))) {
                (void)snprintf(d->where, sizeof d->where, "triggers.%s[%zu]", k->name, i);
                problem(d, "name", "'%s' is there twice", name);
                return;
            }
        }
    }
}

static void read_list(struct doc *d, const struct json *v, const struct kind *k)
{
    char *set = (char *)d->set;
    size_t *len = (size_t *)(void *)(set + k->len_at);
    char **items = (char **)(void *)(set + k->items_at);

    (void)snprintf(d->where, sizeof d->where, "triggers.%s", k->name);
    if (v->type != JSON_ARRAY || v->count > k->max) {
        problem(d, "", "must be an array of at most %zu", k->max);
        return;
    }
    *items = mem_calloc(v->count + 1, k->size);
    if (*items == NULL) {
        d->no_memory = true;
        return;
    }
    JSON_EACH (m, v) {
        char *item = *items + *len * k->size;
        (void)snprintf(d->where, sizeof d->where, "triggers.%s[%zu]", k->name, *len);
        if (k->name_at != SIZE_MAX) {
            /* Its place is its name until it has one. */
            (void)snprintf(item + k->name_at, TRIGGER_NAME_MAX + 1, "%zu", *len);
        }
        ++*len;
        if (m->type != JSON_OBJECT) {
            problem(d, "", "must be an object, not %s", json_type_name(m->type));
        } else {
            k->read(d, m, item);
        }
    }
    check_names(d, k, *items, *len);
}

static void read_triggers(struct doc *d, const struct json *v)
{
    if (v->type != JSON_OBJECT) {
        (void)str_copy(d->where, sizeof d->where, STR("triggers"));
        problem(d, "", "must be an object, not %s", json_type_name(v->type));
        return;
    }
    JSON_EACH (m, v) {
        const struct kind *k = NULL;
        for (size_t i = 0; i < ARRAY_LEN(kinds) && k == NULL; i++) {
            k = str_eqs(m->key, kinds[i].name) ? &kinds[i] : NULL;
        }
        if (k != NULL) {
            read_list(d, m, k);
        } else {
            (void)str_copy(d->where, sizeof d->where, STR("triggers"));
            unknown(d, m);
        }
    }
}

int trigger_set_parse(const struct json *triggers, struct str job, struct trigger_set **ret,
                      struct trigger_problems *problems)
{
    struct doc d = { .problems = problems, .job = job };

    problems->n = 0;
    d.set = mem_zalloc(sizeof *d.set);
    if (d.set == NULL) {
        return -ENOMEM;
    }
    read_triggers(&d, triggers);
    if (d.no_memory || problems->n != 0) {
        trigger_set_free(d.set);
        return d.no_memory ? -ENOMEM : -EINVAL;
    }
    *ret = d.set;
    return 0;
}

struct trigger_set *trigger_set_free(struct trigger_set *s)
{
    if (s == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < s->schedules_len; i++) {
        mem_free(s->schedules[i].text);
    }
    for (size_t i = 0; i < s->hooks_len; i++) {
        trigger_when_free(s->hooks[i].when);
        for (size_t k = 0; k < s->hooks[i].headers_len; k++) {
            mem_free(s->hooks[i].headers[k]);
        }
        mem_free(s->hooks[i].headers);
    }
    for (size_t i = 0; i < s->sensors_len; i++) {
        trigger_when_free(s->sensors[i].when);
        trigger_when_free(s->sensors[i].rearm);
    }
    for (size_t i = 0; i < s->events_len; i++) {
        trigger_when_free(s->events[i].when);
    }
    mem_free(s->schedules);
    mem_free(s->hooks);
    mem_free(s->sensors);
    mem_free(s->events);
    mem_free(s->after);
    return mem_free(s);
}
