/*
 * uv_node_triggers_internal - what the files about triggers share: uv_node_triggers.c (documents,
 * schedules, jobs after jobs), uv_node_trigger_index.c (which triggers a message concerns),
 * uv_node_trigger_pause.c (what is held), uv_node_trigger_api.c (list, test, fire).
 */
#ifndef AGENT_NODE_UV_NODE_TRIGGERS_INTERNAL_H
#define AGENT_NODE_UV_NODE_TRIGGERS_INTERNAL_H

#include "agent/node/uv_node_internal.h"
#include "agent/node/uv_node_triggers.h"
#include "agent/triggers/plan.h"

enum { TRIGGER_MEMBERS_MAX = 4096 };

/* ---- which triggers a message concerns ---- */

/* One sensor or event of a job, in the group of all that have the same topic filter, reading or
 * event type. */
struct trigger_ref {
    struct list link; /* trigger_group.refs */
    struct trigger_group *group;
    const struct trigger_entry *entry;
    size_t i; /* in its set's sensors, or events */
};
struct trigger_group {
    struct list link; /* trigger_groups.all, or .patterns */
    struct list refs; /* struct trigger_ref */
    char *text;       /* the map's key, owned */
};
struct trigger_groups {
    struct map map;       /* struct trigger_group, by text */
    struct list all;      /* those that a text finds by being the same */
    struct list patterns; /* those that have to be compared: wildcards, prefixes */
};
struct trigger_index {
    struct trigger_groups topics, readings, types;
};

/* One job's triggers. */
struct trigger_entry {
    struct list link;
    struct list after;      /* node_triggers.followers, when it comes after others */
    char name[RUN_JOB_CAP]; /* the map's key */
    uint32_t revision;
    int64_t anchor_us; /* when it was applied: @every counts from here */
    struct trigger_set *set;
    uint64_t *seen;           /* for each `after`: the jobs of a fan-in that have ended, as bits */
    struct trigger_ref *refs; /* of its sensors, then of its events */
};

/* A run that a schedule fired and that has not ended. */
struct active {
    struct list link;
    struct ulid id; /* the map's key */
    char job[RUN_JOB_CAP];
    char schedule[TRIGGER_NAME_MAX + 1];
};

struct node_triggers {
    struct node *node;
    struct trigger_plan *plan;
    struct loop_timer timer;
    struct map jobs; /* struct trigger_entry */
    struct list entries;
    struct map active; /* struct active */
    struct list actives;
    struct list followers;
    struct list firings;   /* struct firing */
    struct list following; /* struct following */
    struct trigger_index index;
    uint32_t members[TRIGGER_MEMBERS_MAX]; /* what the plan was told last */
    size_t members_len;
    bool loaded;
    bool closed;
};

void node_trigger_index_init(struct trigger_index *x, size_t max, uint64_t k0, uint64_t k1);
void node_trigger_index_release(struct trigger_index *x);
/* The entry's set and name are in place. No memory ends the process, as for all documents. */
void node_trigger_index_add(struct trigger_index *x, struct trigger_entry *e);
void node_trigger_index_drop(struct trigger_index *x, struct trigger_entry *e);

/* ---- what is held ---- */

/* Marks what the table says is held in the entry's set; *ret_since_us: when its schedules were let
 * go on last (0: never held). */
void node_trigger_pause_apply(const struct node *n, struct trigger_entry *e, int64_t *ret_since_us);
int node_trigger_pause_watch(struct node *n);
/* The job is gone, and what was held of it. */
void node_trigger_pause_drop(struct node *n, const struct trigger_entry *e);
/* The schedules of the entry as they stand go to the plan again. */
void node_triggers_replan(struct node *n, struct trigger_entry *x);
/* What "job", "job/name" or "job/kind/name" names; points into the job's set. */
struct node_trigger_name {
    const char *job;
    const char *kind; /* NULL: the job as a whole */
    const char *name;
    size_t index; /* among those of its kind */
};
/* whole: a job's name alone means all of its triggers; else its only one. -ENOENT, -ENOTUNIQ. */
int node_trigger_resolve(const struct node *n, struct str text, bool whole,
                         struct node_trigger_name *ret, struct err *e);
/* uv_node_hooks.c: does the condition hold? Filters and signatures apart. */
bool node_hook_wanted(const struct trigger_hook *h, const struct node_trigger_input *in);
bool node_event_wanted(const struct trigger_event *t, const struct trigger_cloudevent *ev);
struct trigger_entry *node_triggers_entry(const struct node *n, struct str job);

#endif
