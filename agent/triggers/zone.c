#include "agent/triggers/zone.h"

#include <errno.h>

#include "common/cur.h"
#include "common/insist.h"
#include "common/mem.h"

#define DAY_S INT64_C(86400)
/* An offset plus the longest step between two: how far a wall clock may be from an instant. */
#define SPAN_S (2 * DAY_S)

enum { NAME_CAP = TRIGGER_ZONE_NAME_MAX + 1, OFFSET_MAX_S = 26 * 3600, TRANSITIONS_MAX = 8192 };

/* One end of daylight-saving time: when in a year, in seconds of that year's wall clock. */
struct rule_date {
    enum { RULE_MONTH, RULE_JULIAN, RULE_DAY } kind;
    int month, week, weekday; /* RULE_MONTH: the week-th weekday, 5 is the last */
    int day;                  /* RULE_JULIAN: 1 to 365, never 29 February; RULE_DAY: 0 to 365 */
    int32_t time_s;           /* may be negative or over a day */
};

struct rule {
    bool any; /* there is one */
    bool dst; /* it has daylight-saving time */
    int32_t std_s, dst_s;
    struct rule_date start, end;
};

struct change {
    int64_t at;
    int32_t seconds;
    bool dst;
};

struct trigger_zone {
    char name[NAME_CAP];
    struct rule rule;
    int32_t first_s; /* before the first change */
    bool first_dst;
    size_t n;
    struct change changes[]; /* ascending */
};

/* ---- the calendar ---- */

static bool leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

int trigger_month_days(int year, int month)
{
    static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };

    REQUIRE(month >= 1 && month <= 12);
    return days[month - 1] + (month == 2 && leap(year) ? 1 : 0);
}

/* Rounds towards minus infinity. */
static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;

    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

/* Days since 1970 of the first of a month; years count from March, so that February is the last. */
static int64_t days_of(int64_t year, int month, int day)
{
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t era = floor_div(y, 400);
    int64_t of_era = y - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

int64_t trigger_civil_seconds(const struct trigger_civil *c)
{
    return days_of(c->year, c->month, c->day) * DAY_S + (int64_t)c->hour * 3600 +
           (int64_t)c->minute * 60 + c->second;
}

struct trigger_civil trigger_civil_of(int64_t local_s)
{
    int64_t days = floor_div(local_s, DAY_S);
    int64_t rest = local_s - days * DAY_S;
    int64_t z = days + 719468;
    int64_t era = floor_div(z, 146097);
    int64_t doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153;
    int month = (int)(mp < 10 ? mp + 3 : mp - 9);

    return (struct trigger_civil){
        .year = (int)(yoe + era * 400 + (month <= 2 ? 1 : 0)),
        .month = month,
        .day = (int)(doy - (153 * mp + 2) / 5 + 1),
        .hour = (int)(rest / 3600),
        .minute = (int)(rest / 60 % 60),
        .second = (int)(rest % 60),
    };
}

int trigger_civil_weekday(int64_t local_s)
{
    int64_t d = (floor_div(local_s, DAY_S) + 4) % 7; /* 1970 began on a Thursday */

    return (int)(d < 0 ? d + 7 : d);
}

/* ---- POSIX TZ ---- */

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool alpha(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool take(struct str *s, char c)
{
    if (s->n == 0 || s->p[0] != c) {
        return false;
    }
    *s = str_slice(*s, 1, s->n);
    return true;
}

static bool take_number(struct str *s, int max, int *ret)
{
    int v = 0;
    size_t i = 0;

    for (; i < s->n && i < 4 && digit(s->p[i]); i++) {
        v = v * 10 + (s->p[i] - '0');
    }
    if (i == 0 || v > max) {
        return false;
    }
    *s = str_slice(*s, i, s->n);
    *ret = v;
    return true;
}

/* "CET", "<+0330>": only passed over. */
static bool take_abbreviation(struct str *s)
{
    size_t i = 0;

    if (take(s, '<')) {
        ptrdiff_t end = str_find(*s, '>');
        if (end < 1) {
            return false;
        }
        *s = str_slice(*s, (size_t)end + 1, s->n);
        return true;
    }
    while (i < s->n && alpha(s->p[i])) {
        i++;
    }
    *s = str_slice(*s, i, s->n);
    return i >= 3;
}

/* [+-]hh[:mm[:ss]] */
static bool take_time(struct str *s, int hours_max, int32_t *ret)
{
    int hour = 0;
    int minute = 0;
    int second = 0;
    bool negative = take(s, '-');

    if (!negative) {
        (void)take(s, '+');
    }
    if (!take_number(s, hours_max, &hour) || (take(s, ':') && !take_number(s, 59, &minute)) ||
        (take(s, ':') && !take_number(s, 59, &second))) {
        return false;
    }
    int32_t v = hour * 3600 + minute * 60 + second;
    *ret = negative ? -v : v;
    return true;
}

static bool take_date(struct str *s, struct rule_date *ret)
{
    struct rule_date d = { .kind = RULE_DAY, .time_s = 2 * 3600 };

    if (take(s, 'M')) {
        d.kind = RULE_MONTH;
        if (!take_number(s, 12, &d.month) || d.month < 1 || !take(s, '.') ||
            !take_number(s, 5, &d.week) || d.week < 1 || !take(s, '.') ||
            !take_number(s, 6, &d.weekday)) {
            return false;
        }
    } else if (take(s, 'J')) {
        d.kind = RULE_JULIAN;
        if (!take_number(s, 365, &d.day) || d.day < 1) {
            return false;
        }
    } else if (!take_number(s, 365, &d.day)) {
        return false;
    }
    if (take(s, '/') && !take_time(s, 167, &d.time_s)) {
        return false;
    }
    *ret = d;
    return true;
}

static int rule_parse(struct str s, struct rule *ret, struct err *e)
{
    struct str all = s;
    struct rule r = { .any = true };

    if (!take_abbreviation(&s) || !take_time(&s, 24, &r.std_s)) {
        return err_say(e, -EBADMSG, "'%.*s' is not a POSIX time zone", STR_ARG(all));
    }
    r.std_s = -r.std_s; /* POSIX counts west as positive */
    if (s.n != 0) {
        r.dst = true;
        r.dst_s = r.std_s + 3600;
        bool ok = take_abbreviation(&s);
        if (ok && s.n != 0 && s.p[0] != ',') {
            ok = take_time(&s, 24, &r.dst_s);
            r.dst_s = -r.dst_s;
        }
        if (!ok || !take(&s, ',') || !take_date(&s, &r.start) || !take(&s, ',') ||
            !take_date(&s, &r.end) || s.n != 0) {
            return err_say(e, -EBADMSG, "'%.*s' is not a POSIX time zone", STR_ARG(all));
        }
    }
    *ret = r;
    return 0;
}

/* The wall-clock second at which a rule's date comes in a year. */
static int64_t rule_local(const struct rule_date *d, int64_t year)
{
    int64_t days;

    switch (d->kind) {
    case RULE_MONTH: {
        days = days_of(year, d->month, 1);
        int first = trigger_civil_weekday(days * DAY_S);
        int day = (d->weekday - first + 7) % 7 + (d->week - 1) * 7;
        while (day >= trigger_month_days((int)year, d->month)) {
            day -= 7;
        }
        days += day;
        break;
    }
    case RULE_JULIAN:
        days = days_of(year, 1, 1) + d->day - 1 + (leap(year) && d->day >= 60 ? 1 : 0);
        break;
    case RULE_DAY:
    default:
        days = days_of(year, 1, 1) + d->day;
        break;
    }
    return days * DAY_S + d->time_s;
}

/* The offset that the rule gives at an instant, with the changes around it. */
static struct trigger_offset rule_offset(const struct rule *r, int64_t instant)
{
    struct trigger_offset o = { .seconds = r->std_s, .since = INT64_MIN, .until = INT64_MAX };

    if (!r->dst) {
        return o;
    }
    int64_t year = trigger_civil_of(instant + r->std_s).year;
    /* The changes of three years, in order: whichever comes first within a year. */
    for (int64_t y = year - 1; y <= year + 1; y++) {
        struct change c[2] = {
            { rule_local(&r->start, y) - r->std_s, r->dst_s, true },
            { rule_local(&r->end, y) - r->dst_s, r->std_s, false },
        };
        int early = c[0].at <= c[1].at ? 0 : 1;
        for (int k = 0; k < 2; k++) {
            const struct change *one = &c[k == 0 ? early : 1 - early];
            if (one->at <= instant) {
                o.seconds = one->seconds;
                o.dst = one->dst;
                o.since = one->at;
            } else if (one->at < o.until) {
                o.until = one->at;
            }
        }
    }
    return o;
}

/* ---- TZif ---- */

struct tzif_head {
    uint8_t version;
    uint32_t isutcnt, isstdcnt, leapcnt, timecnt, typecnt, charcnt;
};

static bool head_read(struct cur *c, struct tzif_head *ret)
{
    bool magic = str_eqs(cur_bytes(c, 4), "TZif");

    ret->version = cur_u8(c);
    cur_skip(c, 15);
    ret->isutcnt = cur_be32(c);
    ret->isstdcnt = cur_be32(c);
    ret->leapcnt = cur_be32(c);
    ret->timecnt = cur_be32(c);
    ret->typecnt = cur_be32(c);
    ret->charcnt = cur_be32(c);
    return magic && cur_ok(c);
}

static bool counts_ok(const struct tzif_head *h)
{
    return h->timecnt <= TRANSITIONS_MAX && h->typecnt >= 1 && h->typecnt <= 256 &&
           h->charcnt <= 4096 && h->leapcnt <= 1024 && h->isutcnt <= 256 && h->isstdcnt <= 256;
}

/* Bytes of a data block whose times have `size` bytes. */
static size_t block_size(const struct tzif_head *h, size_t size)
{
    return (size_t)h->timecnt * (size + 1) + (size_t)h->typecnt * 6 + h->charcnt +
           (size_t)h->leapcnt * (size + 4) + h->isstdcnt + h->isutcnt;
}

/* The changes and the first type of one data block, whose counts were checked. */
static int block_read(struct cur *c, const struct tzif_head *h, size_t size, struct trigger_zone *z,
                      struct err *e)
{
    struct {
        int32_t seconds;
        bool dst;
    } types[256];
    bool ok = true;

    for (uint32_t i = 0; i < h->timecnt; i++) {
        uint64_t at = size == 8 ? cur_be64(c) : (uint64_t)(int64_t)(int32_t)cur_be32(c);
        z->changes[i].at = (int64_t)at;
        ok = ok && (i == 0 || z->changes[i].at > z->changes[i - 1].at);
    }
    struct str index = cur_bytes(c, h->timecnt);
    for (uint32_t i = 0; i < h->typecnt; i++) {
        types[i].seconds = (int32_t)cur_be32(c);
        types[i].dst = cur_u8(c) != 0;
        (void)cur_u8(c); /* its name */
        ok = ok && types[i].seconds >= -OFFSET_MAX_S && types[i].seconds <= OFFSET_MAX_S;
    }
    cur_skip(c, h->charcnt + (size_t)h->leapcnt * (size + 4) + h->isstdcnt + h->isutcnt);
    ok = ok && cur_ok(c);
    for (uint32_t i = 0; ok && i < h->timecnt; i++) {
        uint8_t t = (uint8_t)index.p[i];
        ok = t < h->typecnt;
        if (ok) {
            z->changes[i].seconds = types[t].seconds;
            z->changes[i].dst = types[t].dst;
        }
    }
    if (!ok) {
        return err_say(e, -EBADMSG, "time zone '%s': a broken TZif file", z->name);
    }
    z->n = h->timecnt;
    z->first_s = types[0].seconds;
    z->first_dst = types[0].dst;
    return 0;
}

/* Changes that set nothing (a new name, another law) are no changes to a clock. */
static void drop_idle_changes(struct trigger_zone *z)
{
    size_t kept = 0;
    int32_t before = z->first_s;

    for (size_t i = 0; i < z->n; i++) {
        if (z->changes[i].seconds != before) {
            before = z->changes[i].seconds;
            z->changes[kept++] = z->changes[i];
        }
    }
    z->n = kept;
}

static int zone_new(struct str name, size_t changes, struct trigger_zone **ret, struct err *e)
{
    struct trigger_zone *z = mem_zalloc(sizeof *z + changes * sizeof z->changes[0]);

    if (z == NULL) {
        return err_say(e, -ENOMEM, "no memory for a time zone");
    }
    if (str_copy(z->name, sizeof z->name, name) != 0) {
        mem_free(z);
        return err_say(e, -EBADMSG, "a time zone's name has 1 to %d characters",
                       TRIGGER_ZONE_NAME_MAX);
    }
    *ret = z;
    return 0;
}

int trigger_zone_rule(struct str name, struct str rule, struct trigger_zone **ret, struct err *e)
{
    struct trigger_zone *z;
    struct rule r;
    int rc = rule_parse(rule, &r, e);

    if (rc == 0) {
        rc = zone_new(name, 0, &z, e);
    }
    if (rc != 0) {
        return rc;
    }
    z->rule = r;
    z->first_s = r.std_s;
    *ret = z;
    return 0;
}

static int broken(struct str name, const char *what, struct err *e)
{
    return err_say(e, -EBADMSG, "time zone '%.*s': %s", STR_ARG(name), what);
}

int trigger_zone_parse(struct str name, const void *tzif, size_t n, struct trigger_zone **ret,
                       struct err *e)
{
    struct cur c;
    struct tzif_head h;
    struct str footer = { 0 };
    size_t size = 4;

    cur_init(&c, tzif, n);
    if (n > TRIGGER_ZONE_FILE_MAX) {
        return err_say(e, -E2BIG, "time zone '%.*s': over %d bytes", STR_ARG(name),
                       TRIGGER_ZONE_FILE_MAX);
    }
    if (!head_read(&c, &h) || !counts_ok(&h)) {
        return broken(name, "not a TZif file", e);
    }
    if (h.version >= '2') {
        /* The first block is for readers of 32-bit times; the second has it all. */
        cur_skip(&c, block_size(&h, 4));
        if (!head_read(&c, &h) || !counts_ok(&h)) {
            return broken(name, "a broken TZif file", e);
        }
        size = 8;
    }
    struct trigger_zone *z;
    int rc = zone_new(name, h.timecnt, &z, e);
    if (rc != 0) {
        return rc;
    }
    rc = block_read(&c, &h, size, z, e);
    if (rc == 0 && size == 8) {
        struct str rest = cur_bytes(&c, cur_left(&c));
        if (rest.n < 2 || rest.p[0] != '\n' || rest.p[rest.n - 1] != '\n') {
            rc = broken(name, "a TZif file without its last line", e);
        } else {
            footer = str_slice(rest, 1, rest.n - 2);
        }
    }
    if (rc == 0 && footer.n != 0) {
        rc = rule_parse(footer, &z->rule, e);
    }
    if (rc != 0) {
        mem_free(z);
        return rc;
    }
    drop_idle_changes(z);
    *ret = z;
    return 0;
}

struct trigger_zone *trigger_zone_free(struct trigger_zone *z)
{
    return mem_free(z);
}

const struct trigger_zone *trigger_zone_utc(void)
{
    static const struct trigger_zone utc = { .name = "UTC" };

    return &utc;
}

const char *trigger_zone_name(const struct trigger_zone *z)
{
    return z->name;
}

bool trigger_zone_name_ok(struct str name)
{
    char before = '/';

    if (name.n == 0 || name.n > TRIGGER_ZONE_NAME_MAX) {
        return false;
    }
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        bool word = alpha(c) || digit(c) || c == '_' || c == '+' || c == '-';
        if (!word && !(c == '/' && before != '/')) {
            return false;
        }
        before = c;
    }
    return before != '/';
}

/* ---- look-ups ---- */

struct trigger_offset trigger_zone_offset(const struct trigger_zone *z, int64_t instant)
{
    struct trigger_offset o = {
        .seconds = z->first_s,
        .dst = z->first_dst,
        .since = INT64_MIN,
        .until = z->n != 0 ? z->changes[0].at : INT64_MAX,
    };
    size_t low = 0; /* changes before this one have happened */
    size_t high = z->n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (z->changes[mid].at <= instant) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    if (low != 0) {
        o.seconds = z->changes[low - 1].seconds;
        o.dst = z->changes[low - 1].dst;
        o.since = z->changes[low - 1].at;
        o.until = low < z->n ? z->changes[low].at : INT64_MAX;
    }
    if (low == z->n && z->rule.any) {
        struct trigger_offset r = rule_offset(&z->rule, instant);
        /* The list ends where the rule has begun to hold. */
        if (r.since < o.since) {
            r.since = o.since;
        }
        return r;
    }
    return o;
}

struct trigger_local trigger_zone_local(const struct trigger_zone *z, int64_t local_s)
{
    struct trigger_local l = { .n = 0 };
    int64_t at = local_s - SPAN_S;
    struct trigger_offset o = trigger_zone_offset(z, at);

    /* Every stretch of one offset that could show this time; there are a handful at most. */
    for (;;) {
        int64_t instant = local_s - o.seconds;
        if (instant < o.until && instant >= o.since) {
            if (l.n == 0) {
                l.first = instant;
            } else {
                l.after = o.since + (local_s - l.last);
                l.step = instant - l.last;
            }
            l.last = instant;
            l.n = l.n == 0 ? 1 : 2;
        }
        if (o.until == INT64_MAX || o.until > local_s + SPAN_S) {
            break;
        }
        struct trigger_offset next = trigger_zone_offset(z, o.until);
        if (l.n == 0 && local_s >= o.until + o.seconds && local_s < o.until + next.seconds) {
            /* Between the last second before the change and the first one after it. */
            l.first = o.until;
            l.last = o.until;
            l.step = next.seconds - o.seconds;
            l.after = o.until + next.seconds;
            return l;
        }
        o = next;
    }
    return l;
}
