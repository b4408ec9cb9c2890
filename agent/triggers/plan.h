/*
 * plan - all schedules of the cluster as one node sees them: which fires next, and is it for us to
 * fire it? Pure: an event in, effects out.
 *
 * There is no leader. Every node plans every schedule; when a time has come, the first live member
 * in rendezvous order of (job, schedule) fires it, and everybody learns of it as LAST (a row of the
 * shared table). A time that passed without a LAST is looked at again: when its owner has died,
 * the next in order finds itself the owner and fires it, late. A firing is known by (job, schedule,
 * planned time), which is claimed before it runs (DESIGN.md section 10), so that a firing that two
 * owners believe in becomes one run; in a split each side can fire once.
 *
 *   planned time comes     ours: FIRE, answered by FIRED (0: LAST goes to all; else tried again)
 *                          another's: looked at again every TRIGGER_PLAN_RECHECK_MS
 *   a time was missed      within the schedule's deadline (default TRIGGER_PLAN_LATE_MS) it still
 *                          fires; else by its catch_up: none, the last one, all (bounded); MISSED
 *                          counts the rest
 *
 * The clock may step. Nothing fires twice, since only times after the last fired one are planned;
 * a step forward is a stretch of missed times like any other, and each step's effects are bounded.
 */
#ifndef AGENT_TRIGGERS_PLAN_H
#define AGENT_TRIGGERS_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/triggers/triggers.h"
#include "agent/triggers/zone.h"

enum {
    TRIGGER_PLAN_LATE_MS = 60 * 1000, /* later than this is missed, unless start_deadline says so */
    TRIGGER_PLAN_RECHECK_MS = 2000,
    TRIGGER_PLAN_RETRY_MS = 1000, /* a firing that could not be submitted is tried again */
    TRIGGER_PLAN_EFFECTS_MAX = 64,
    TRIGGER_PLAN_MISSED_COUNT_MAX = 10000, /* missed times are counted up to here at once */
};

struct trigger_plan;

struct trigger_plan_config {
    uint32_t node; /* our id */
    size_t max;    /* schedules, at most */
    size_t members_max;
    uint64_t k0, k1; /* of the hash tables */
};

enum trigger_plan_event_type {
    TRIGGER_PLAN_JOB,     /* job, schedules, zones, anchor_us: replaces what the job had */
    TRIGGER_PLAN_DROP,    /* job is gone */
    TRIGGER_PLAN_LAST,    /* job, schedule, planned_us, count, missed: fired, said by anybody */
    TRIGGER_PLAN_FIRED,   /* job, schedule, planned_us, status: the answer to FIRE */
    TRIGGER_PLAN_ENDED,   /* job, schedule: a run of it has ended */
    TRIGGER_PLAN_MEMBERS, /* members: the ids of all live ones, ours among them */
    TRIGGER_PLAN_TICK,
};

struct trigger_plan_event {
    enum trigger_plan_event_type type;
    int64_t now_us; /* wall clock */
    struct str job;
    struct str schedule;
    const struct trigger_schedule *schedules; /* copied */
    const struct trigger_zone *const *zones;  /* one for each; outlive the plan */
    size_t schedules_len;
    int64_t anchor_us; /* when this revision was applied: nothing before it was missed */
    int64_t planned_us;
    uint64_t count;
    uint64_t missed;
    int status; /* FIRED: 0 or -Exxx */
    const uint32_t *members;
    size_t members_len;
};

enum trigger_plan_effect_type {
    TRIGGER_PLAN_FX_FIRE,   /* submit a run for (job, schedule, planned_us); replace: cancel the
                               unfinished ones of this schedule first */
    TRIGGER_PLAN_FX_RECORD, /* tell all: (job, schedule) has planned_us, count, missed */
    TRIGGER_PLAN_FX_MISSED, /* missed more firings were not made, for `reason` */
};
enum trigger_plan_reason {
    TRIGGER_PLAN_LATE,    /* nobody was there in time */
    TRIGGER_PLAN_OVERLAP, /* a run of it was unfinished, and overlap is forbid */
    TRIGGER_PLAN_FAILED,  /* it could not be submitted within its deadline */
};

struct trigger_plan_effect {
    enum trigger_plan_effect_type type;
    enum trigger_plan_reason reason;
    const char *job; /* valid until the next step */
    const char *schedule;
    int64_t planned_us;
    uint64_t count;
    uint64_t missed;
    bool replace;
};

struct trigger_plan_effects {
    size_t n;
    struct trigger_plan_effect v[TRIGGER_PLAN_EFFECTS_MAX];
};

/* -ENOMEM. */
int trigger_plan_new(const struct trigger_plan_config *cfg, struct trigger_plan **ret);
struct trigger_plan *trigger_plan_free(struct trigger_plan *p); /* NULL is fine; returns NULL */
/* One step; *fx is valid until the next one. 0, or for JOB and MEMBERS -ENOMEM or -ENOBUFS (over
 * the limit): nothing has changed then. */
int trigger_plan_step(struct trigger_plan *p, const struct trigger_plan_event *ev,
                      struct trigger_plan_effects *fx);
/* When to send TICK, on the wall clock; at or before now: there is more to do right away.
 * INT64_MAX: no need. */
int64_t trigger_plan_deadline_us(const struct trigger_plan *p);

/* The next firing of one schedule as it stands: 0: none. */
int64_t trigger_plan_next_us(const struct trigger_plan *p, struct str job, struct str schedule);
size_t trigger_plan_len(const struct trigger_plan *p);

/* The first time after after_us that the schedule means, its bounds and Iron's start_at counted in;
 * without jitter. False: none. For `schedule next`. */
bool trigger_schedule_next(const struct trigger_schedule *s, const struct trigger_zone *z,
                           int64_t anchor_us, int64_t after_us, int64_t *ret_us);
/* What a firing is claimed by: "schedule:<job>:<schedule>:<planned, microseconds>". */
enum { TRIGGER_FIRING_KEY_CAP = 180 };
char *trigger_firing_key(struct str job, struct str schedule, int64_t planned_us,
                         char dst[TRIGGER_FIRING_KEY_CAP]);

#endif
