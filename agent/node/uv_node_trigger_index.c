/*
 * Which triggers a message, a reading or an event concerns: sensors by topic filter and by reading,
 * events by type. Triggers with the same text are one group; a message looks up the group of its
 * own topic and compares itself with the filters that have wildcards, each once, however many jobs
 * there are.
 */
#include <errno.h>
#include <string.h>

#include "agent/node/uv_node_triggers_internal.h"
#include "common/insist.h"
#include "common/mem.h"

static void groups_init(struct trigger_groups *g, size_t max, uint64_t k0, uint64_t k1)
{
    map_init(&g->map, max, k0, k1);
    list_init(&g->all);
    list_init(&g->patterns);
}

void node_trigger_index_init(struct trigger_index *x, size_t max, uint64_t k0, uint64_t k1)
{
    groups_init(&x->topics, max, k0, k1);
    groups_init(&x->readings, max, k0, k1);
    groups_init(&x->types, max, k0, k1);
}

/* Groups go with their last trigger. */
void node_trigger_index_release(struct trigger_index *x)
{
    map_release(&x->topics.map);
    map_release(&x->readings.map);
    map_release(&x->types.map);
}

static struct trigger_group *group_get(struct trigger_groups *g, const char *text, bool pattern)
{
    struct trigger_group *x = map_get(&g->map, str_of(text));

    if (x != NULL) {
        return x;
    }
    x = mem_zalloc(sizeof *x);
    if (x == NULL || (x->text = mem_strdup(text)) == NULL ||
        map_add(&g->map, str_of(x->text), x) != 0) {
        node_out_of_memory("the index of triggers");
    }
    list_init(&x->link);
    list_init(&x->refs);
    list_push_back(pattern ? &g->patterns : &g->all, &x->link);
    return x;
}

static void ref_add(struct trigger_ref *r, struct trigger_groups *g, const char *text, bool pattern,
                    const struct trigger_entry *e, size_t i)
{
    *r = (struct trigger_ref){ .group = group_get(g, text, pattern), .entry = e, .i = i };
    list_init(&r->link);
    list_push_back(&r->group->refs, &r->link);
}

static void ref_drop(struct trigger_groups *g, struct trigger_ref *r)
{
    struct trigger_group *x = r->group;

    list_remove(&r->link);
    if (list_empty(&x->refs)) {
        (void)map_remove(&g->map, str_of(x->text));
        list_remove(&x->link);
        mem_free(x->text);
        mem_free(x);
    }
}

static bool type_is_pattern(const char *type)
{
    size_t n = strlen(type);

    return n == 0 || type[n - 1] == '*';
}

void node_trigger_index_add(struct trigger_index *x, struct trigger_entry *e)
{
    const struct trigger_set *s = e->set;

    if (s->sensors_len + s->events_len == 0) {
        return;
    }
    e->refs = mem_calloc(s->sensors_len + s->events_len, sizeof *e->refs);
    if (e->refs == NULL) {
        node_out_of_memory("the index of triggers");
    }
    for (size_t i = 0; i < s->sensors_len; i++) {
        const struct trigger_sensor_def *d = &s->sensors[i];
        if (d->mqtt[0] != '\0') {
            ref_add(&e->refs[i], &x->topics, d->mqtt, strpbrk(d->mqtt, "+#") != NULL, e, i);
        } else {
            ref_add(&e->refs[i], &x->readings, d->node, false, e, i);
        }
    }
    for (size_t i = 0; i < s->events_len; i++) {
        ref_add(&e->refs[s->sensors_len + i], &x->types, s->events[i].type,
                type_is_pattern(s->events[i].type), e, i);
    }
}

void node_trigger_index_drop(struct trigger_index *x, struct trigger_entry *e)
{
    const struct trigger_set *s = e->set;

    for (size_t i = 0; e->refs != NULL && i < s->sensors_len + s->events_len; i++) {
        ref_drop(i >= s->sensors_len             ? &x->types
                 : s->sensors[i].mqtt[0] != '\0' ? &x->topics
                                                 : &x->readings,
                 &e->refs[i]);
    }
    e->refs = mem_free(e->refs);
}

/* ---- looking things up ---- */

/* A topic has no wildcard (MQTT 3.1.1, 4.7.1); a broker that says otherwise finds nothing by it. */
static bool topic_is_filter(struct str topic)
{
    return str_find(topic, '+') >= 0 || str_find(topic, '#') >= 0;
}

static void tell_sensors(const struct trigger_group *g, node_sensor_fn *fn, void *arg)
{
    LIST_EACH (l, &g->refs) {
        const struct trigger_ref *r = LIST_ITEM(l, struct trigger_ref, link);
        const struct trigger_sensor_def *d = &r->entry->set->sensors[r->i];
        if (!d->held) {
            fn(arg, str_of(r->entry->name), d);
        }
    }
}

void node_triggers_topic(const struct node *n, struct str topic, node_sensor_fn *fn, void *arg)
{
    const struct trigger_groups *g = &n->triggers->index.topics;
    const struct trigger_group *same = map_get(&g->map, topic);

    if (same != NULL && !topic_is_filter(topic)) {
        tell_sensors(same, fn, arg);
    }
    LIST_EACH (l, &g->patterns) {
        const struct trigger_group *p = LIST_ITEM(l, struct trigger_group, link);
        if (trigger_topic_matches(str_of(p->text), topic)) {
            tell_sensors(p, fn, arg);
        }
    }
}

void node_triggers_reading(const struct node *n, const char *name, node_sensor_fn *fn, void *arg)
{
    const struct trigger_group *g = map_get(&n->triggers->index.readings.map, str_of(name));

    if (g != NULL) {
        tell_sensors(g, fn, arg);
    }
}

void node_triggers_readings(const struct node *n, void (*fn)(void *arg, const char *name),
                            void *arg)
{
    LIST_EACH (l, &n->triggers->index.readings.all) {
        fn(arg, LIST_ITEM(l, struct trigger_group, link)->text);
    }
}

static void tell_filters(const struct list *groups,
                         void (*fn)(void *arg, const char *filter, unsigned qos), void *arg)
{
    LIST_EACH (l, groups) {
        const struct trigger_group *g = LIST_ITEM(l, struct trigger_group, link);
        unsigned qos = 0;
        LIST_EACH (k, &g->refs) {
            const struct trigger_ref *r = LIST_ITEM(k, struct trigger_ref, link);
            unsigned one = r->entry->set->sensors[r->i].qos;
            qos = one > qos ? one : qos;
        }
        fn(arg, g->text, qos);
    }
}

void node_triggers_filters(const struct node *n,
                           void (*fn)(void *arg, const char *filter, unsigned qos), void *arg)
{
    tell_filters(&n->triggers->index.topics.all, fn, arg);
    tell_filters(&n->triggers->index.topics.patterns, fn, arg);
}

static void tell_events(const struct trigger_group *g, node_event_fn *fn, void *arg)
{
    LIST_EACH (l, &g->refs) {
        const struct trigger_ref *r = LIST_ITEM(l, struct trigger_ref, link);
        const struct trigger_event *t = &r->entry->set->events[r->i];
        if (!t->held) {
            fn(arg, str_of(r->entry->name), t);
        }
    }
}

void node_triggers_type(const struct node *n, const char *type, node_event_fn *fn, void *arg)
{
    const struct trigger_groups *g = &n->triggers->index.types;
    const struct trigger_group *same = map_get(&g->map, str_of(type));

    if (same != NULL && !type_is_pattern(type)) {
        tell_events(same, fn, arg);
    }
    LIST_EACH (l, &g->patterns) {
        const struct trigger_group *p = LIST_ITEM(l, struct trigger_group, link);
        size_t len = strlen(p->text);
        if (len == 0 || strncmp(p->text, type, len - 1) == 0) {
            tell_events(p, fn, arg);
        }
    }
}
