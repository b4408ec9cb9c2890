#include "agent/triggers/cron.h"

#include <errno.h>

#include "common/ids.h"
#include "common/insist.h"

/* Steps of the clock from here on are corrections, not daylight saving (cron(8)). */
enum { CORRECTION_S = 3 * 3600 };

static const char *const month_names[] = { "jan", "feb", "mar", "apr", "may", "jun",
                                           "jul", "aug", "sep", "oct", "nov", "dec" };
static const char *const weekday_names[] = { "sun", "mon", "tue", "wed", "thu", "fri", "sat" };

struct field {
    const char *name;
    int min, max; /* what may be written */
    int hash_max; /* H draws from min to here: every month has these days */
    const char *const *names;
    int names_len;
};

enum { SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY, FIELDS };

static const struct field fields[FIELDS] = {
    [SECOND] = { "second", 0, 59, 59, NULL, 0 },
    [MINUTE] = { "minute", 0, 59, 59, NULL, 0 },
    [HOUR] = { "hour", 0, 23, 23, NULL, 0 },
    [DAY] = { "day of month", 1, 31, 28, NULL, 0 },
    [MONTH] = { "month", 1, 12, 12, month_names, 12 },
    [WEEKDAY] = { "day of week", 0, 7, 6, weekday_names, 7 },
};

/* ---- reading ---- */

static int field_error(const struct field *f, struct str part, const char *why, struct err *e)
{
    return err_say(e, -EINVAL, "%s '%.*s': %s (%d to %d%s)", f->name, STR_ARG(part), why, f->min,
                   f->max,
                   f->names == NULL          ? ""
                   : f->names == month_names ? ", jan to dec"
                                             : ", sun to sat");
}

static bool value_read(const struct field *f, struct str s, int *ret)
{
    uint64_t v;

    for (int i = 0; i < f->names_len; i++) {
        if (str_ieqs(s, f->names[i])) {
            *ret = i + f->min;
            return true;
        }
    }
    if (s.n == 0 || s.n > 4 || str_u64(s, &v) != 0 || v < (uint64_t)f->min ||
        v > (uint64_t)f->max) {
        return false;
    }
    *ret = (int)v;
    return true;
}

/* "a-b" or "a". */
static bool range_read(const struct field *f, struct str s, int *ret_low, int *ret_high)
{
    ptrdiff_t dash = str_find(s, '-');

    if (dash < 0) {
        return value_read(f, s, ret_low) && (*ret_high = *ret_low, true);
    }
    return value_read(f, str_slice(s, 0, (size_t)dash), ret_low) &&
           value_read(f, str_slice(s, (size_t)dash + 1, s.n), ret_high);
}

/* One element of a list into bits. */
static int part_read(const struct field *f, struct str part, uint64_t hash, uint64_t *bits,
                     struct err *e)
{
    struct str range = part;
    uint64_t step = 1;
    int low = f->min;
    int high = f == &fields[WEEKDAY] ? 6 : f->max;
    ptrdiff_t slash = str_find(part, '/');

    if (slash >= 0) {
        range = str_slice(part, 0, (size_t)slash);
        if (str_u64_in(str_slice(part, (size_t)slash + 1, part.n), 1, 99, &step) != 0) {
            return field_error(f, part, "a step is 1 to 99", e);
        }
    }
    if (str_starts(range, "H") && !str_ieqs(range, "H")) {
        struct str inside = str_slice(range, 2, range.n - 3);
        if (range.n < 4 || range.p[1] != '(' || range.p[range.n - 1] != ')' ||
            !range_read(f, inside, &low, &high)) {
            return field_error(f, part, "write H, H(first-last), H/step", e);
        }
    } else if (str_eqs(range, "H")) {
        high = f->hash_max;
    } else if (!str_eqs(range, "*")) {
        if (!range_read(f, range, &low, &high)) {
            return field_error(f, part, "not a value here", e);
        }
        if (slash >= 0 && str_find(range, '-') < 0) {
            return field_error(f, part, "a step needs a range before it, such as 5-59/15", e);
        }
    }
    if (low > high) {
        return field_error(f, part, "the range runs backwards; write two, with a comma", e);
    }
    if (str_starts(range, "H")) {
        uint64_t span = slash >= 0 ? step : (uint64_t)(high - low) + 1;
        low += (int)(hash % span);
        if (slash < 0) {
            high = low;
        }
    }
    for (int v = low; v <= high; v += (int)step) {
        *bits |= UINT64_C(1) << v;
    }
    return 0;
}

static int field_read(const struct field *f, struct str text, uint64_t hash, uint64_t *ret,
                      struct err *e)
{
    struct str rest = text;
    struct str part;
    uint64_t bits = 0;

    while (str_split(&rest, ',', &part)) {
        int rc = part_read(f, part, hash, &bits, e);
        if (rc != 0) {
            return rc;
        }
    }
    if (text.p[text.n - 1] == ',') {
        return field_error(f, text, "nothing behind the last comma", e);
    }
    if (bits & UINT64_C(1) << 7 && f == &fields[WEEKDAY]) {
        bits = (bits | 1) & 0x7f;
    }
    *ret = bits;
    return 0;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The next word of *rest; false at the end. */
static bool word(struct str *rest, struct str *ret)
{
    size_t i = 0;
    size_t from;

    while (i < rest->n && blank(rest->p[i])) {
        i++;
    }
    from = i;
    while (i < rest->n && !blank(rest->p[i])) {
        i++;
    }
    *ret = str_slice(*rest, from, i - from);
    *rest = str_slice(*rest, i, rest->n);
    return ret->n != 0;
}

static bool next_wall(const struct trigger_cron *c, int64_t after, int64_t *ret);

/* Does it ever come? In a form of words that helps. */
static int never(const struct trigger_cron *c, struct err *e)
{
    int64_t unused;
    int64_t start = 0;

    if (next_wall(c, start, &unused)) {
        return 0;
    }
    for (int month = 1; month <= 12; month++) {
        if ((c->months & BIT(month)) != 0 && c->months == BIT(month)) {
            return err_say(e, -EINVAL, "never comes: month %d has %d days at most", month,
                           month == 2 ? 29 : trigger_month_days(2024, month));
        }
    }
    return err_say(e, -EINVAL, "never comes: no month named here has such a day");
}

static int fields_read(struct str text, uint64_t hash, struct trigger_cron *ret, struct err *e)
{
    struct trigger_cron c = { .kind = TRIGGER_CRON_FIELDS };
    struct str words[FIELDS + 1];
    struct str rest = text;
    uint64_t bits[FIELDS] = { [SECOND] = 1 };
    size_t n = 0;

    while (n < ARRAY_LEN(words) && word(&rest, &words[n])) {
        n++;
    }
    if (n < FIELDS - 1 || n > FIELDS) {
        return err_say(e, -EINVAL,
                       "'%.*s' has %zu%s fields: minute, hour, day of month, month, day of week, "
                       "with seconds before them if wanted",
                       STR_ARG(text), n, n > FIELDS ? " or more" : "");
    }
    size_t skip = FIELDS - n;
    for (size_t i = skip; i < FIELDS; i++) {
        /* Every field draws another number from the hash. */
        int rc = field_read(&fields[i], words[i - skip], hash >> (8 * i), &bits[i], e);
        if (rc != 0) {
            return rc;
        }
    }
    c.seconds = skip == 0;
    c.second_bits = bits[SECOND];
    c.minutes = bits[MINUTE];
    c.hours = (uint32_t)bits[HOUR];
    c.days = (uint32_t)bits[DAY];
    c.months = (uint16_t)bits[MONTH];
    c.weekdays = (uint8_t)bits[WEEKDAY];
    c.wild = str_starts(words[MINUTE - skip], "*") || str_starts(words[HOUR - skip], "*");
    c.day_star = str_starts(words[DAY - skip], "*");
    c.weekday_star = str_starts(words[WEEKDAY - skip], "*");
    int rc = never(&c, e);
    if (rc == 0) {
        *ret = c;
    }
    return rc;
}

static int every_read(struct str text, struct trigger_cron *ret, struct err *e)
{
    uint64_t ms;

    if (str_duration_ms(text, &ms) != 0 || ms < 1000 || ms % 1000 != 0 ||
        ms / 1000 > TRIGGER_CRON_EVERY_MAX_S) {
        return err_say(e, -EINVAL, "@every '%.*s': whole seconds, 1s to 366d", STR_ARG(text));
    }
    *ret = (struct trigger_cron){ .kind = TRIGGER_CRON_EVERY, .every_s = (int64_t)(ms / 1000) };
    return 0;
}

static int at_read(struct str text, struct trigger_cron *ret, struct err *e)
{
    int64_t us;

    if (time_parse(text, &us) != 0) {
        return err_say(e, -EINVAL, "@at '%.*s': write it as 2026-11-26T12:00:00Z", STR_ARG(text));
    }
    *ret = (struct trigger_cron){ .kind = TRIGGER_CRON_AT, .at_s = us / 1000000 };
    return 0;
}

static int macro_read(struct str text, uint64_t hash, struct trigger_cron *ret, struct err *e)
{
    static const char *const macros[][2] = {
        { "@yearly", "0 0 1 1 *" }, { "@annually", "0 0 1 1 *" }, { "@monthly", "0 0 1 * *" },
        { "@weekly", "0 0 * * 0" }, { "@daily", "0 0 * * *" },    { "@midnight", "0 0 * * *" },
        { "@hourly", "0 * * * *" },
    };
    struct str rest = text;
    struct str name;

    (void)word(&rest, &name);
    rest = str_trim(rest);
    if (str_ieqs(name, "@every")) {
        return every_read(rest, ret, e);
    }
    if (str_ieqs(name, "@at")) {
        return at_read(rest, ret, e);
    }
    for (size_t i = 0; i < ARRAY_LEN(macros) && rest.n == 0; i++) {
        if (str_ieqs(name, macros[i][0])) {
            return fields_read(str_of(macros[i][1]), hash, ret, e);
        }
    }
    return err_say(e, -EINVAL,
                   "'%.*s': the words are @yearly, @monthly, @weekly, @daily, @hourly, "
                   "@every DURATION, @at TIME",
                   STR_ARG(text));
}

int trigger_cron_parse(struct str text, uint64_t hash, struct trigger_cron *ret,
                       struct str *ret_zone, struct err *e)
{
    struct str s = str_trim(text);
    struct str zone = { 0 };

    if (s.n == 0 || s.n > TRIGGER_CRON_TEXT_MAX) {
        return err_say(e, -EINVAL, "a schedule has 1 to %d characters", TRIGGER_CRON_TEXT_MAX);
    }
    if (str_starts(s, "CRON_TZ=") || str_starts(s, "TZ=")) {
        struct str first;
        (void)word(&s, &first);
        size_t from = (size_t)str_find(first, '=') + 1;
        zone = str_slice(first, from, first.n);
        s = str_trim(s);
        if (!trigger_zone_name_ok(zone)) {
            return err_say(e, -EINVAL, "'%.*s' is not a time zone's name", STR_ARG(zone));
        }
    }
    if (s.n == 0) {
        return err_say(e, -EINVAL, "nothing behind the time zone");
    }
    int rc = s.p[0] == '@' ? macro_read(s, hash, ret, e) : fields_read(s, hash, ret, e);
    if (rc == 0) {
        *ret_zone = zone;
    }
    return rc;
}

/* ---- the next time ---- */

static bool day_matches(const struct trigger_cron *c, const struct trigger_civil *t)
{
    bool day = (c->days & BIT(t->day)) != 0;
    struct trigger_civil midnight = { .year = t->year, .month = t->month, .day = t->day };
    bool weekday =
        (c->weekdays & BIT(trigger_civil_weekday(trigger_civil_seconds(&midnight)))) != 0;

    return c->day_star || c->weekday_star ? day && weekday : day || weekday;
}

/* The lowest bit at or above `from`, or -1. */
static int bit_from(uint64_t bits, int from)
{
    uint64_t left = from > 63 ? 0 : bits >> from << from;

    return left == 0 ? -1 : __builtin_ctzll(left);
}

static void day_next(struct trigger_civil *t)
{
    t->hour = t->minute = t->second = 0;
    if (++t->day > trigger_month_days(t->year, t->month)) {
        t->day = 1;
        if (++t->month > 12) {
            t->month = 1;
            t->year++;
        }
    }
}

/* The time of the day, from *t on. False: none is left on this day. */
static bool time_in_day(const struct trigger_cron *c, struct trigger_civil *t)
{
    int hour = bit_from(c->hours, t->hour);
    int minute = t->minute;
    int second = t->second;

    for (; hour >= 0; hour = bit_from(c->hours, hour + 1)) {
        if (hour != t->hour) {
            minute = second = 0;
        }
        int m = bit_from(c->minutes, minute);
        for (; m >= 0; m = bit_from(c->minutes, m + 1)) {
            int s = bit_from(c->second_bits, m == minute ? second : 0);
            if (s >= 0) {
                t->hour = hour;
                t->minute = m;
                t->second = s;
                return true;
            }
        }
    }
    return false;
}

/* The first wall-clock time after `after` that the fields name. */
static bool next_wall(const struct trigger_cron *c, int64_t after, int64_t *ret)
{
    struct trigger_civil t = trigger_civil_of(after + 1);
    int last = t.year + TRIGGER_CRON_YEARS;

    while (t.year <= last) {
        if ((c->months & BIT(t.month)) == 0) {
            t.day = trigger_month_days(t.year, t.month);
            day_next(&t);
        } else if (!day_matches(c, &t) || !time_in_day(c, &t)) {
            day_next(&t);
        } else {
            *ret = trigger_civil_seconds(&t);
            return true;
        }
    }
    return false;
}

/* An interval: stretch by stretch of equal offset, whatever the clock shows counts. */
static bool next_wild(const struct trigger_cron *c, const struct trigger_zone *z, int64_t after,
                      int64_t *ret)
{
    struct trigger_offset o = trigger_zone_offset(z, after);
    int64_t limit = after + (int64_t)TRIGGER_CRON_YEARS * 366 * 86400;
    int64_t wall = after + o.seconds;

    while (next_wall(c, wall, &wall)) {
        if (wall - o.seconds < o.until) {
            *ret = wall - o.seconds;
            return true;
        }
        if (o.until > limit) {
            return false;
        }
        int64_t change = o.until;
        o = trigger_zone_offset(z, change);
        wall = change + o.seconds - 1;
    }
    return false;
}

/* Wall-clock times: each comes once, in the order of the calendar. */
static bool next_fixed(const struct trigger_cron *c, const struct trigger_zone *z, int64_t after,
                       int64_t *ret)
{
    int64_t wall = after + trigger_zone_offset(z, after).seconds;

    while (next_wall(c, wall, &wall)) {
        struct trigger_local l = trigger_zone_local(z, wall);
        bool skipped = l.n == 0;
        if (l.first > after && !(skipped && l.step >= CORRECTION_S)) {
            *ret = l.first;
            return true;
        }
        /* Skipped for good, or already shown once: go on behind the change. */
        if (l.n != 1) {
            wall = l.after - 1 > wall ? l.after - 1 : wall;
        }
    }
    return false;
}

bool trigger_cron_next(const struct trigger_cron *c, const struct trigger_zone *z, int64_t anchor_s,
                       int64_t after_s, int64_t *ret_s)
{
    switch (c->kind) {
    case TRIGGER_CRON_EVERY: {
        int64_t passed = after_s >= anchor_s ? (after_s - anchor_s) / c->every_s : -1;
        *ret_s = anchor_s + (passed + 1) * c->every_s;
        return true;
    }
    case TRIGGER_CRON_AT:
        *ret_s = c->at_s;
        return c->at_s > after_s;
    case TRIGGER_CRON_FIELDS:
        break;
    }
    return c->wild ? next_wild(c, z, after_s, ret_s) : next_fixed(c, z, after_s, ret_s);
}
