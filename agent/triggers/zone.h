/*
 * zone - time zones: TZif files (RFC 8536) and the rule in their footer (POSIX TZ) into offsets,
 * and wall-clock times into instants.
 *
 * Pure: the file's bytes come from sys_zone.h. Instants are seconds since 1970 (no leap seconds,
 * as everywhere on Linux); years 1900 to 9999 are sensible. A zone is never changed once made and
 * can be shared.
 */
#ifndef AGENT_TRIGGERS_ZONE_H
#define AGENT_TRIGGERS_ZONE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/str.h"

enum {
    TRIGGER_ZONE_NAME_MAX = 63,
    TRIGGER_ZONE_FILE_MAX = 64 * 1024, /* bytes; the largest of 2024 has 3.9 KiB */
};

/* A wall-clock time in the proleptic Gregorian calendar. */
struct trigger_civil {
    int year;
    int month; /* 1 to 12 */
    int day;   /* 1 to 31 */
    int hour, minute, second;
};

/* Seconds of a wall clock without a zone ("local seconds") to its fields and back. The fields may
 * be out of range in hour, minute and second: they carry over. */
int64_t trigger_civil_seconds(const struct trigger_civil *c);
struct trigger_civil trigger_civil_of(int64_t local_s);
/* 0 Sunday to 6 Saturday. */
int trigger_civil_weekday(int64_t local_s);
int trigger_month_days(int year, int month);

struct trigger_zone;

/* A name that may become a path below a zoneinfo directory: "Europe/Berlin". Letters, digits,
 * '_', '+', '-', '/'; no empty part, none that begins with a dot. */
bool trigger_zone_name_ok(struct str name);

/* The zone that the file's bytes describe. -EBADMSG (no TZif, or a broken one; e says what),
 * -E2BIG, -ENOMEM. The bytes may go away. */
int trigger_zone_parse(struct str name, const void *tzif, size_t n, struct trigger_zone **ret,
                       struct err *e);
/* A POSIX TZ rule alone: "CET-1CEST,M3.5.0,M10.5.0/3". Same errors. */
int trigger_zone_rule(struct str name, struct str rule, struct trigger_zone **ret, struct err *e);
struct trigger_zone *trigger_zone_free(struct trigger_zone *z); /* NULL is fine; returns NULL */
/* "UTC", made into the program. */
const struct trigger_zone *trigger_zone_utc(void);
const char *trigger_zone_name(const struct trigger_zone *z);

/* What holds around one instant. */
struct trigger_offset {
    int32_t seconds; /* east of Greenwich is positive: local = instant + seconds */
    bool dst;
    int64_t since; /* the instant from which on it holds; INT64_MIN: always did */
    int64_t until; /* the instant at which another one begins; INT64_MAX: never */
};
struct trigger_offset trigger_zone_offset(const struct trigger_zone *z, int64_t instant);

/* Which instants show this wall-clock time? */
struct trigger_local {
    int n;         /* 0: skipped when the clock went forward; 1; 2: shown twice */
    int64_t first; /* the instant, the earlier of two; of a skipped time: the change itself */
    int64_t last;  /* the later of two; else first */
    int64_t step;  /* seconds by which the clock was set there, positive in both cases; n == 1: 0 */
    int64_t after; /* n != 1: the local time from which on clocks show each time once again */
};
struct trigger_local trigger_zone_local(const struct trigger_zone *z, int64_t local_s);

#endif
