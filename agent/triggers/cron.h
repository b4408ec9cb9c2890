/*
 * cron - schedule expressions, and the next time that one means.
 *
 * Five fields as in Vixie's cron (minute hour day-of-month month day-of-week), or six with seconds
 * first. In a field: `*`, numbers, names (jan, mon; any case), ranges, lists, steps behind `*` or a
 * range, and Jenkins' `H` (a number that is fixed for the job but spread between jobs; `H(0-29)`,
 * `H/15`). Sunday is 0 and 7. When both day fields are restricted (do not begin with `*`) either
 * may match, as crontab(5) says. Also @yearly (@annually), @monthly, @weekly, @daily (@midnight),
 * @hourly, `@every 90s`, `@at 2026-11-26T12:00:00Z`, and a leading `CRON_TZ=Zone` (or `TZ=`).
 *
 * Daylight saving, as Debian's cron(8) has it for steps of less than three hours. A schedule
 * without `*` in its hour and minute fields means wall-clock times: those that the clock skips come
 * once, at the moment of the change; those that it shows twice come the first time only. One with a
 * `*` there is an interval: it follows the clock as it is shown, skipping nothing and repeating
 * what is shown again. Larger steps are corrections of the clock: skipped times do not come.
 */
#ifndef AGENT_TRIGGERS_CRON_H
#define AGENT_TRIGGERS_CRON_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/triggers/zone.h"
#include "common/err.h"
#include "common/str.h"

enum {
    TRIGGER_CRON_TEXT_MAX = 255,            /* bytes of an expression */
    TRIGGER_CRON_EVERY_MAX_S = 366 * 86400, /* of @every; at least 1 s */
    TRIGGER_CRON_YEARS = 40,                /* a time that does not come within these never comes */
};

enum trigger_cron_kind { TRIGGER_CRON_FIELDS, TRIGGER_CRON_EVERY, TRIGGER_CRON_AT };

/* A value: copy it freely. */
struct trigger_cron {
    enum trigger_cron_kind kind;
    bool seconds; /* six fields were given */
    bool wild;    /* `*` in hour or minute: an interval */
    bool day_star;
    bool weekday_star;
    uint8_t weekdays; /* bits 0 (Sunday) to 6 */
    uint16_t months;  /* bits 1 to 12 */
    uint32_t days;    /* bits 1 to 31 */
    uint32_t hours;
    uint64_t minutes;
    uint64_t second_bits;
    int64_t every_s; /* TRIGGER_CRON_EVERY */
    int64_t at_s;    /* TRIGGER_CRON_AT */
};

/* Reads an expression. hash: what `H` is drawn from (of the job's name). *ret_zone: the name behind
 * CRON_TZ=, or empty; a slice of text. -EINVAL: e says which field, and what is allowed there, or
 * why the time never comes ("February has no day 31"). */
int trigger_cron_parse(struct str text, uint64_t hash, struct trigger_cron *ret,
                       struct str *ret_zone, struct err *e);

/* The first instant after `after_s` at which it fires. anchor_s: @every counts from here (the
 * moment at which the schedule was made; the same on every node). False: there is none. */
bool trigger_cron_next(const struct trigger_cron *c, const struct trigger_zone *z, int64_t anchor_s,
                       int64_t after_s, int64_t *ret_s);

#endif
