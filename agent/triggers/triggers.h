/*
 * triggers - what sets a job off besides a direct call, as a job's document says it: schedules, web
 * hooks, sensors, events, other jobs.
 *
 * This header is the document: the member "triggers" of a job, checked and compiled. Pure. Beside
 * it: cron.h and zone.h (when), when.h (conditions), sensor.h (edges), hook.h (who is it from),
 * cloudevent.h (events), schedule.h (which schedule fires next).
 */
#ifndef AGENT_TRIGGERS_TRIGGERS_H
#define AGENT_TRIGGERS_TRIGGERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/triggers/cron.h"
#include "agent/triggers/hook.h"
#include "agent/triggers/sensor.h"
#include "agent/triggers/when.h"
#include "common/err.h"
#include "common/json.h"

enum {
    TRIGGER_NAME_MAX = 63,    /* of a trigger within its job, of a secret, of a job */
    TRIGGER_PER_JOB_MAX = 64, /* of each kind */
    TRIGGER_TOPIC_MAX = 255,
    TRIGGER_FILTER_MAX = 255, /* bytes of an event filter's text */
    TRIGGER_HEADERS_MAX = 32, /* headers that a hook hands on */
    TRIGGER_AFTER_JOBS_MAX = 16,
    TRIGGER_CATCH_UP_MAX = 100, /* missed firings made up for, with catch_up "all" */
};

enum trigger_overlap {
    TRIGGER_OVERLAP_ALLOW,
    TRIGGER_OVERLAP_FORBID,  /* not while a run of this schedule is unfinished: counted as missed */
    TRIGGER_OVERLAP_REPLACE, /* the unfinished one is cancelled first */
};
enum trigger_catch_up { TRIGGER_CATCH_UP_NONE, TRIGGER_CATCH_UP_ONE, TRIGGER_CATCH_UP_ALL };

struct trigger_schedule {
    char name[TRIGGER_NAME_MAX + 1];      /* given, or its place in the list: "0" */
    char zone[TRIGGER_ZONE_NAME_MAX + 1]; /* "UTC" by default */
    char *text;                           /* the expression as written */
    struct trigger_cron cron;
    enum trigger_overlap overlap;
    enum trigger_catch_up catch_up;
    bool paused;          /* the document says so */
    bool held;            /* somebody paused it meanwhile: not of the document, here and below */
    uint64_t jitter_ms;   /* a firing comes up to this later, the same for all nodes */
    uint64_t deadline_ms; /* how late a firing may start; 0: any */
    int64_t start_us;     /* 0: no bound */
    int64_t end_us;
    uint64_t times; /* firings in all; 0: no bound */
};

struct trigger_hook {
    char name[TRIGGER_NAME_MAX + 1];
    char secret[TRIGGER_NAME_MAX + 1]; /* the secret's name; "" with verify none only */
    struct trigger_hook_rule rule;
    struct trigger_when *when; /* NULL: always. Names: payload, headers, query */
    char **headers;            /* names handed to the run as HOOK_<NAME> */
    size_t headers_len;
    bool held;
};

struct trigger_sensor_def {
    char name[TRIGGER_NAME_MAX + 1];
    char mqtt[TRIGGER_TOPIC_MAX + 1]; /* a topic filter, or "" */
    char node[TRIGGER_NAME_MAX + 1];  /* a reading of the nodes' own, or "" */
    struct trigger_when *when;        /* names: payload, value, topic, node */
    struct trigger_when *rearm;       /* NULL: when `when` holds no longer */
    struct trigger_sensor_rule rule;
    unsigned qos; /* 0 or 1 */
    bool held;
};

struct trigger_event {
    char name[TRIGGER_NAME_MAX + 1];
    char type[TRIGGER_FILTER_MAX + 1]; /* as CloudEvents; `*` at the end: a prefix; "": any */
    char source[TRIGGER_FILTER_MAX + 1];
    char subject[TRIGGER_FILTER_MAX + 1];
    struct trigger_when *when; /* names: payload, event */
    bool held;
};

enum trigger_after_on { TRIGGER_AFTER_SUCCEEDED, TRIGGER_AFTER_FAILED, TRIGGER_AFTER_ENDED };

struct trigger_after {
    char jobs[TRIGGER_AFTER_JOBS_MAX][TRIGGER_NAME_MAX + 1];
    size_t jobs_len; /* over 1: fan-in, all of them */
    enum trigger_after_on on;
    bool payload; /* the output of the one is the payload of the next */
    bool held;
};

struct trigger_set {
    struct trigger_schedule *schedules;
    size_t schedules_len;
    struct trigger_hook *hooks;
    size_t hooks_len;
    struct trigger_sensor_def *sensors;
    size_t sensors_len;
    struct trigger_event *events;
    size_t events_len;
    struct trigger_after *after;
    size_t after_len;
};

enum { TRIGGER_PROBLEMS_MAX = 16 };
struct trigger_problem {
    char field[64]; /* "triggers.schedules[0].cron" */
    char detail[256];
};
struct trigger_problems {
    size_t n;
    struct trigger_problem items[TRIGGER_PROBLEMS_MAX];
};

/* Reads it. job: its name, for `H` in cron. 0 and *ret;
 * -EINVAL and *problems (never empty then); -ENOMEM. Zones are checked by form only: whoever has
 * the zoneinfo looks them up (sys_zone.h). */
int trigger_set_parse(const struct json *triggers, struct str job, struct trigger_set **ret,
                      struct trigger_problems *problems);
struct trigger_set *trigger_set_free(struct trigger_set *s); /* NULL is fine; returns NULL */

/* What `H` of a job's schedules is drawn from; the same on every node. */
uint64_t trigger_hash(struct str job, struct str name);

const char *trigger_overlap_name(enum trigger_overlap v);
const char *trigger_catch_up_name(enum trigger_catch_up v);
const char *trigger_after_on_name(enum trigger_after_on v);

/* Does the topic of a message match an MQTT topic filter ('+' one level, '#' the rest; topics that
 * begin with '$' only match filters that do)? */
bool trigger_topic_matches(struct str filter, struct str topic);
/* MQTT 3.1.1 section 4.7: -EINVAL with the reason. */
int trigger_topic_check(struct str filter, struct err *e);

#endif
