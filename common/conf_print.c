/* The table as text: what a key takes, one value, the example file. */
#include <inttypes.h>
#include <stdio.h>

#include "common/conf.h"
#include "common/insist.h"

static void put_size(struct buf *out, uint64_t v)
{
    static const char *const units[] = { "", "KiB", "MiB", "GiB", "TiB" };
    size_t u = 0;
    while (v != 0 && v % 1024 == 0 && u + 1 < ARRAY_LEN(units)) {
        v /= 1024;
        u++;
    }
    buf_addf(out, "%" PRIu64 "%s", v, units[u]);
}

static void put_duration(struct buf *out, uint64_t ms)
{
    static const struct {
        uint64_t ms;
        const char *unit;
    } units[] = { { 86400000, "d" }, { 3600000, "h" }, { 60000, "m" }, { 1000, "s" }, { 1, "ms" } };
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (ms % units[i].ms == 0 && (ms != 0 || i == 3)) {
            buf_addf(out, "%" PRIu64 "%s", ms / units[i].ms, units[i].unit);
            return;
        }
    }
}

static void put_milli(struct buf *out, uint64_t v)
{
    buf_addf(out, "%" PRIu64, v / 1000);
    if (v % 1000 != 0) {
        char digits[8];
        (void)snprintf(digits, sizeof digits, ".%03u", (unsigned)(v % 1000));
        size_t n = 4;
        while (digits[n - 1] == '0') {
            n--;
        }
        buf_add(out, digits, n);
    }
}

static void put_number(const struct conf_key *k, uint64_t v, struct buf *out)
{
    if (k->type == CONF_SIZE) {
        put_size(out, v);
    } else if (k->type == CONF_DURATION) {
        put_duration(out, v);
    } else if (k->type == CONF_MILLI) {
        put_milli(out, v);
    } else {
        buf_addf(out, "%" PRIu64, v);
    }
}

static bool is_text(const struct conf_key *k)
{
    return k->type == CONF_TEXT || k->type == CONF_PATH || k->type == CONF_ADDR ||
           k->type == CONF_LIST;
}

static const char *unit_of(const struct conf_key *k)
{
    static const char *const units[] = {
        [CONF_TEXT] = "text",
        [CONF_PATH] = "an absolute path",
        [CONF_ADDR] = "host:port",
        [CONF_LIST] = "a comma list",
        [CONF_BOOL] = "yes or no",
        [CONF_INT] = "a number",
        [CONF_SIZE] = "a size in bytes (64KiB, 1.5GiB, 10MB)",
        [CONF_DURATION] = "a duration (250ms, 10s, 1h30m, 7d)",
        [CONF_MILLI] = "a number with up to three decimals",
        [CONF_CHOICE] = "",
    };
    return k->unit != NULL ? k->unit : units[k->type];
}

void conf_allowed(const struct conf_key *k, struct buf *out)
{
    buf_adds(out, unit_of(k));
    if (k->type == CONF_CHOICE) {
        for (size_t i = 0; k->choices[i] != NULL; i++) {
            buf_addf(out, "%s%s", i == 0 ? "" : ", ", k->choices[i]);
        }
        return;
    }
    if (k->type == CONF_BOOL) {
        return;
    }
    if (is_text(k)) {
        buf_addf(out, ", at most %" PRIu64 " bytes", k->max != 0 ? k->max : (uint64_t)k->size - 1);
        return;
    }
    buf_adds(out, ", ");
    put_number(k, k->min, out);
    buf_adds(out, " to ");
    put_number(k, k->max, out);
    if (k->zero != NULL) {
        buf_addf(out, ", or '%s'", k->zero);
    }
}

void conf_print(const struct conf_key *k, const void *obj, struct buf *out)
{
    const char *at = (const char *)obj + k->offset;
    if (is_text(k)) {
        buf_adds(out, k->secret && at[0] != '\0' ? "(secret)" : at);
    } else if (k->type == CONF_BOOL) {
        bool b;
        memcpy(&b, at, sizeof b);
        buf_adds(out, b ? "yes" : "no");
    } else if (k->type == CONF_CHOICE) {
        unsigned i;
        memcpy(&i, at, sizeof i);
        buf_adds(out, k->choices[i]);
    } else {
        uint64_t v;
        memcpy(&v, at, sizeof v);
        if (v == 0 && k->zero != NULL) {
            buf_adds(out, k->zero);
        } else {
            put_number(k, v, out);
        }
    }
}

bool conf_equal(const struct conf_key *k, const void *a, const void *b)
{
    const char *x = (const char *)a + k->offset;
    const char *y = (const char *)b + k->offset;
    return is_text(k) ? strcmp(x, y) == 0 : memcmp(x, y, k->size) == 0;
}

/* Each line of text behind "# ". */
static void put_comment(struct buf *out, const char *text)
{
    struct str rest = str_of(text);
    struct str line;
    while (str_split(&rest, '\n', &line)) {
        buf_addf(out, "#%s%.*s\n", line.n != 0 ? " " : "", STR_ARG(line));
    }
}

static void put_key(struct buf *out, const struct conf_key *k)
{
    bool empty = k->def == NULL || k->def[0] == '\0';

    put_comment(out, k->help);
    buf_adds(out, "# Takes: ");
    conf_allowed(k, out);
    buf_addf(out, ".\n# Default: %s.%s\n",
             k->def == NULL ? "none, it must be given"
             : empty        ? "not set"
                            : k->def,
             k->reloadable ? " SIGHUP applies a change." : "");
    buf_addf(out, "#%s =%s%s\n", k->key, empty ? "" : " ", empty ? "" : k->def);
}

void conf_example(const struct conf_table *t, struct buf *out)
{
    put_comment(out, t->about);
    for (size_t s = 0; s < t->sections_len; s++) {
        buf_adds(out, "\n");
        put_comment(out, t->sections[s].help);
        buf_addf(out, "[%s]\n", t->sections[s].name);
        for (size_t i = 0; i < t->keys_len; i++) {
            if (strcmp(t->keys[i].section, t->sections[s].name) == 0) {
                buf_adds(out, "\n");
                put_key(out, &t->keys[i]);
            }
        }
    }
}
