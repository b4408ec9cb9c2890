#include "agent/sandbox/sandbox_rdt.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/insist.h"

enum {
    POLLUTER_WAYS = 2,
    POLLUTER_PERCENT = 50,
    SENSITIVE_WAYS_MIN = 3, /* fewer are no place for a run that wants cache */
    PERCENT_ALL = 100,
    CLOSIDS_MIN = 3 /* the root's and ours */
};

const char *sandbox_cache_class_name(enum sandbox_cache_class c)
{
    static const char *const names[] = { "default", "sensitive", "polluter" };

    REQUIRE((unsigned)c < ARRAY_LEN(names));
    return names[c];
}

/* ---- schemata ---- */

static bool resource_named(struct str name, enum rdt_resource *ret)
{
    static const char *const names[RDT_RESOURCES] = { "L3", "L3CODE", "L3DATA", "MB" };

    for (size_t i = 0; i < RDT_RESOURCES; i++) {
        if (str_eqs(name, names[i])) {
            *ret = (enum rdt_resource)i;
            return true;
        }
    }
    return false;
}

/* "0=fffff;1=fffff" or "0=  100;1=  100" */
static bool domains_parse(struct str text, enum rdt_resource r, struct rdt_schemata *s)
{
    uint32_t n = 0;
    struct str entry;

    while (str_split(&text, ';', &entry)) {
        ptrdiff_t eq = str_find(entry, '=');
        uint64_t id = 0;
        uint64_t value = 0;
        if (eq < 0 || n == RDT_DOMAINS_MAX ||
            str_u64_in(str_trim(str_slice(entry, 0, (size_t)eq)), 0, UINT32_MAX, &id) != 0) {
            return false;
        }
        struct str v = str_trim(str_slice(entry, (size_t)eq + 1, entry.n));
        if ((r == RDT_MB ? str_u64_in(v, 0, UINT32_MAX, &value) : str_hex_u64(v, &value)) != 0) {
            return false;
        }
        s->id[r][n] = (uint32_t)id;
        s->value[r][n++] = value;
    }
    s->len[r] = n;
    return n > 0;
}

int sandbox_rdt_schemata_parse(struct str text, struct rdt_schemata *ret)
{
    struct str line;
    bool any = false;

    memset(ret, 0, sizeof(*ret));
    text = str_slice(text, 0, RDT_TEXT_MAX);
    while (str_split(&text, '\n', &line)) {
        ptrdiff_t colon = str_find(line, ':');
        enum rdt_resource r;
        if (colon < 0 || !resource_named(str_trim(str_slice(line, 0, (size_t)colon)), &r)) {
            continue;
        }
        ret->has[r] = domains_parse(str_slice(line, (size_t)colon + 1, line.n), r, ret);
    }
    for (size_t r = 0; r < RDT_RESOURCES; r++) {
        any |= ret->has[r];
    }
    return any ? 0 : -EINVAL;
}

enum rdt_bandwidth sandbox_rdt_bandwidth(const struct rdt_schemata *root)
{
    uint64_t most = 0;

    if (!root->has[RDT_MB]) {
        return RDT_NO_BANDWIDTH;
    }
    for (uint32_t i = 0; i < root->len[RDT_MB]; i++) {
        most = root->value[RDT_MB][i] > most ? root->value[RDT_MB][i] : most;
    }
    return most <= PERCENT_ALL ? RDT_PERCENT : most <= 2048 ? RDT_EIGHTHS : RDT_MIBPS;
}

/* ---- classes ---- */

static unsigned bits_of(uint64_t v)
{
    unsigned n = 0;

    for (; v != 0; v &= v - 1) {
        n++;
    }
    return n;
}

/* The lowest run of `n` ones in v; 0 when there is none. */
static uint64_t low_run(uint64_t v, unsigned n)
{
    for (unsigned at = 0; n > 0 && at + n <= 64; at++) {
        uint64_t run = (n == 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1) << at;
        if ((v & run) == run) {
            return run;
        }
    }
    return 0;
}

/* The longest run of ones in v, of equal ones the highest. */
static uint64_t long_run(uint64_t v)
{
    uint64_t best = 0;
    uint64_t run = 0;

    for (unsigned at = 0; at < 64; at++) {
        uint64_t bit = UINT64_C(1) << at;
        run = (v & bit) != 0 ? run | bit : 0;
        best = run != 0 && bits_of(run) >= bits_of(best) ? run : best;
    }
    return best;
}

static uint32_t percent_of(const struct hardware_rdt *r)
{
    uint32_t gran = r->mb_gran > 0 ? r->mb_gran : 1;
    uint32_t v = (POLLUTER_PERCENT + gran - 1) / gran * gran;

    v = v < r->mb_min ? r->mb_min : v;
    return v < PERCENT_ALL ? v : 0;
}

bool sandbox_rdt_classes(const struct hardware_rdt *r, enum rdt_bandwidth bandwidth,
                         struct rdt_class ret[SANDBOX_CACHE_CLASSES])
{
    uint64_t own = r->l3.cbm_mask & ~r->l3.shareable_bits;
    unsigned least = r->l3.min_cbm_bits > 0 ? r->l3.min_cbm_bits : 1;
    uint32_t closids = r->l3.closids;

    memset(ret, 0, SANDBOX_CACHE_CLASSES * sizeof(*ret));
    closids = r->mb && r->mb_closids < closids ? r->mb_closids : closids;
    closids = r->l2.present && r->l2.closids < closids ? r->l2.closids : closids;
    if (!r->l3.present || closids < CLOSIDS_MIN) {
        return false;
    }
    uint64_t low = low_run(own, least > POLLUTER_WAYS ? least : POLLUTER_WAYS);
    uint64_t top = long_run(own & ~low);
    if (low == 0 || bits_of(top) < least || bits_of(top) < SENSITIVE_WAYS_MIN) {
        return false;
    }
    ret[SANDBOX_CACHE_SENSITIVE].mask = top;
    ret[SANDBOX_CACHE_POLLUTER].mask = low;
    ret[SANDBOX_CACHE_POLLUTER].percent = r->mb && bandwidth == RDT_PERCENT ? percent_of(r) : 0;
    return true;
}

void sandbox_rdt_schemata_write(const struct rdt_schemata *root, const struct rdt_class *c,
                                struct buf *out)
{
    static const char *const names[RDT_RESOURCES] = { "L3", "L3CODE", "L3DATA", "MB" };

    for (size_t r = 0; r < RDT_RESOURCES; r++) {
        bool wanted = root->has[r] && (r == RDT_MB ? c->percent != 0 : c->mask != 0);
        for (uint32_t i = 0; wanted && i < root->len[r]; i++) {
            (void)buf_addf(out, "%s%s%u=", i == 0 ? names[r] : "", i == 0 ? ":" : ";",
                           root->id[r][i]);
            if (r == RDT_MB) {
                (void)buf_addf(out, "%u", c->percent);
            } else {
                (void)buf_addf(out, "%llx", (unsigned long long)c->mask);
            }
        }
        if (wanted) {
            (void)buf_addc(out, '\n');
        }
    }
}

/* ---- refusals ---- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool holds(struct str text, const char *words)
{
    size_t n = strlen(words);

    for (size_t at = 0; at + n <= text.n; at++) {
        size_t k = 0;
        while (k < n && lower(text.p[at + k]) == words[k]) {
            k++;
        }
        if (k == n) {
            return true;
        }
    }
    return false;
}

enum rdt_answer sandbox_rdt_answer(int rc, struct str status)
{
    static const struct {
        const char *words; /* lower case */
        enum rdt_answer answer;
    } known[] = {
        { "out of closids", RDT_NO_MORE },
        { "out of rmids", RDT_NO_MORE },
        { "kernel out of memory", RDT_LATER },
        { "no space on", RDT_CLASS },
        { "missing ", RDT_CLASS },
        { "unknown or unsupported", RDT_CLASS },
        { "duplicate domain", RDT_CLASS },
        { "non-hex character", RDT_CLASS },
        { "mask out of range", RDT_CLASS },
        { "non-consecutive", RDT_CLASS },
        { "bits in the mask", RDT_CLASS },
        { "overlaps with", RDT_CLASS },
        { "pseudo-lock", RDT_CLASS },
        { "mb value", RDT_CLASS },
        { "non-linear mb", RDT_CLASS },
        { "schemata overlaps", RDT_CLASS },
        { "cannot be exclusive", RDT_CLASS },
        { "no task", RDT_TASK },
        { "no permission to move task", RDT_TASK },
        { "can't move task", RDT_TASK },
        { "task list parsing", RDT_TASK },
        { "invalid pid", RDT_TASK },
        { "cache domain offline", RDT_CLASS },
    };

    status = str_slice(status, 0, RDT_TEXT_MAX);
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (holds(status, known[i].words)) {
            /* Ids that wait in limbo come back by themselves; ids of others do not. */
            bool limbo = known[i].answer == RDT_NO_MORE && rc == -EBUSY;
            return limbo ? RDT_LATER : known[i].answer;
        }
    }
    switch (rc) {
    case -EBUSY:
    case -ENOMEM:
    case -EINTR:
        return RDT_LATER;
    case -ENOSPC:
        return RDT_NO_MORE;
    case -ESRCH:
        return RDT_TASK;
    case -ENOTCONN:
    case -ECONNABORTED:
    case -ENODEV:
    case -ENOENT:
    case -ESTALE:
        return RDT_GONE;
    default:
        return RDT_BROKEN;
    }
}

void sandbox_rdt_status_line(struct str status, char *dst, size_t cap)
{
    size_t n = 0;

    status = str_trim(status);
    for (size_t i = 0; i < status.n && n + 3 < cap; i++) {
        char c = status.p[i];
        if (c == '\n') {
            dst[n++] = ';';
            c = ' ';
        }
        dst[n++] = c >= ' ' && c < 127 ? c : '?';
    }
    dst[n] = '\0';
}

/* ---- monitoring groups ---- */

uint32_t sandbox_rdt_pool_len(uint32_t rmids, uint32_t slots)
{
    uint32_t ours = rmids - rmids / 4;

    ours = ours > SANDBOX_CACHE_CLASSES ? ours - SANDBOX_CACHE_CLASSES : 0;
    ours = ours < slots ? ours : slots;
    return ours < RDT_GROUPS_MAX ? ours : RDT_GROUPS_MAX;
}

/* The free group that has rested longest, of the class or (other) of any other class. */
static uint32_t pool_rested(const struct rdt_pool *p, enum sandbox_cache_class class, bool other)
{
    uint32_t best = UINT32_MAX;

    for (uint32_t i = 0; i < p->len; i++) {
        const struct rdt_group *g = &p->groups[i];
        if (g->state == RDT_FREE && (g->class == class) != other &&
            (best == UINT32_MAX || g->since_ms < p->groups[best].since_ms)) {
            best = i;
        }
    }
    return best;
}

static uint32_t pool_absent(const struct rdt_pool *p)
{
    for (uint32_t i = 0; i < p->len; i++) {
        if (p->groups[i].state == RDT_ABSENT) {
            return i;
        }
    }
    return UINT32_MAX;
}

struct rdt_step sandbox_rdt_want(struct rdt_pool *p, enum sandbox_cache_class class,
                                 uint64_t now_ms)
{
    struct rdt_step s = { .act = RDT_USE, .was = class };

    s.group = pool_rested(p, class, false);
    if (s.group != UINT32_MAX) {
        p->groups[s.group].state = RDT_USED;
        return s;
    }
    if (now_ms < p->retry_ms) {
        s.act = RDT_NONE;
        return s;
    }
    s.act = RDT_MAKE;
    s.group = pool_absent(p);
    if (s.group == UINT32_MAX) {
        s.group = pool_rested(p, class, true);
        s.act = s.group == UINT32_MAX ? RDT_NONE : RDT_REPLACE;
        s.was = s.group == UINT32_MAX ? class : p->groups[s.group].class;
    }
    return s;
}

void sandbox_rdt_made(struct rdt_pool *p, uint32_t group, enum sandbox_cache_class class, int rc,
                      bool removed, uint64_t now_ms)
{
    REQUIRE(group < p->len && p->groups[group].state != RDT_USED);
    struct rdt_group *g = &p->groups[group];

    if (rc == 0) {
        *g = (struct rdt_group){ .state = RDT_USED, .class = class };
        p->retry_ms = 0;
        return;
    }
    if (removed) {
        g->state = RDT_ABSENT;
    }
    p->retry_ms = now_ms + RDT_RETRY_MS;
}

void sandbox_rdt_over(struct rdt_pool *p, uint32_t group, uint64_t now_ms)
{
    REQUIRE(group < p->len && p->groups[group].state == RDT_USED);
    p->groups[group].state = RDT_FREE;
    p->groups[group].since_ms = now_ms;
}

bool sandbox_rdt_found(struct rdt_pool *p, uint32_t group, enum sandbox_cache_class class,
                       bool used, uint64_t now_ms)
{
    if (group >= p->len || p->groups[group].state != RDT_ABSENT) {
        return false;
    }
    p->groups[group] = (struct rdt_group){ .state = used ? RDT_USED : RDT_FREE,
                                           .class = class,
                                           .since_ms = now_ms };
    return true;
}

uint32_t sandbox_rdt_free(const struct rdt_pool *p)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->len; i++) {
        n += p->groups[i].state == RDT_FREE || p->groups[i].state == RDT_ABSENT ? 1 : 0;
    }
    return n;
}

/* ---- names ---- */

void sandbox_rdt_group_name(const char *prefix, uint32_t group, char dst[RDT_NAME_CAP])
{
    (void)snprintf(dst, RDT_NAME_CAP, "%.32s.%u", prefix, group);
}

void sandbox_rdt_class_name(const char *prefix, enum sandbox_cache_class class,
                            char dst[RDT_NAME_CAP])
{
    REQUIRE(class != SANDBOX_CACHE_DEFAULT);
    (void)snprintf(dst, RDT_NAME_CAP, "%.32s.%s", prefix, sandbox_cache_class_name(class));
}

bool sandbox_rdt_name_ours(const char *prefix, const char *name, uint32_t *ret_group)
{
    struct str s = str_of(name);
    size_t n = strlen(prefix);
    uint64_t v = 0;

    if (!str_starts(s, prefix) || s.n < n + 2 || s.p[n] != '.') {
        return false;
    }
    s = str_slice(s, n + 1, s.n);
    bool number = str_u64_in(s, 0, RDT_GROUPS_MAX - 1, &v) == 0 && (s.p[0] != '0' || s.n == 1);
    *ret_group = number ? (uint32_t)v : UINT32_MAX;
    return true;
}
