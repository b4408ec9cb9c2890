/*
 * The engine: values by type, files through inih, overrides. conf_print.c has the way back to text.
 *
 * inih cuts over-long lines silently, skips over NUL and byte-order marks, takes "key: value" for
 * an assignment, joins indented lines and reports no line numbers. So the reader that feeds it
 * hands over one checked line at a time and counts.
 */
#include "common/conf.h"

#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>

#include "common/insist.h"
#include "common/mem.h"

const struct conf_key *conf_find(const struct conf_table *t, struct str section, struct str key)
{
    for (size_t i = 0; i < t->keys_len; i++) {
        if (str_eqs(section, t->keys[i].section) && str_eqs(key, t->keys[i].key)) {
            return &t->keys[i];
        }
    }
    return NULL;
}

/* --- values --- */

static char *text_of(const struct conf_key *k, void *obj)
{
    return (char *)obj + k->offset;
}

static uint64_t text_max(const struct conf_key *k)
{
    return k->max != 0 ? k->max : k->size - 1;
}

static bool port_ok(struct str s)
{
    uint64_t port;
    return s.n <= 5 && str_u64_in(s, 0, 65535, &port) == 0;
}

static bool addr_ok(struct str s)
{
    ptrdiff_t colon = str_rfind(s, ':');
    if (colon < 0 || !port_ok(str_slice(s, (size_t)colon + 1, SIZE_MAX))) {
        return false;
    }
    struct str host = str_slice(s, 0, (size_t)colon);
    bool brackets = host.n >= 2 && host.p[0] == '[' && host.p[host.n - 1] == ']';
    if (brackets) {
        host = str_slice(host, 1, host.n - 2);
        if (host.n == 0) {
            return false;
        }
    }
    for (size_t i = 0; i < host.n; i++) {
        char c = host.p[i];
        bool name = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '.' || c == '-' || c == '_';
        if (!name && !(brackets && (c == ':' || c == '%'))) {
            return false;
        }
    }
    return true;
}

/* "a, b,c" to "a,b,c"; empty pieces are refused. */
static int set_list(const struct conf_key *k, struct str value, void *obj)
{
    char list[CONF_LINE_MAX];
    size_t n = 0;
    struct str rest = value;
    struct str piece;

    while (str_split(&rest, ',', &piece)) {
        piece = str_trim(piece);
        if (piece.n == 0 || n + 1 + piece.n >= sizeof list) {
            return -EINVAL;
        }
        if (n != 0) {
            list[n++] = ',';
        }
        memcpy(list + n, piece.p, piece.n);
        n += piece.n;
    }
    if (n > text_max(k) || str_ends(value, ",")) {
        return -EINVAL;
    }
    return str_copy(text_of(k, obj), k->size, (struct str){ list, n });
}

static int set_text(const struct conf_key *k, struct str value, void *obj)
{
    bool empty_ok = k->def != NULL && k->def[0] == '\0';
    if (value.n == 0 && empty_ok) {
        text_of(k, obj)[0] = '\0';
        return 0;
    }
    if (value.n == 0 || value.n < k->min || value.n > text_max(k)) {
        return -EINVAL;
    }
    if ((k->type == CONF_PATH && value.p[0] != '/') || (k->type == CONF_ADDR && !addr_ok(value))) {
        return -EINVAL;
    }
    return k->type == CONF_LIST ? set_list(k, value, obj)
                                : str_copy(text_of(k, obj), k->size, value);
}

/* "0.5" to 500. */
static int parse_milli(struct str s, uint64_t *ret)
{
    ptrdiff_t dot = str_find(s, '.');
    uint64_t whole;
    uint64_t part = 0;
    struct str fraction = dot < 0 ? STR("") : str_slice(s, (size_t)dot + 1, SIZE_MAX);
    int r =
        str_u64_in(str_slice(s, 0, dot < 0 ? SIZE_MAX : (size_t)dot), 0, UINT64_MAX / 2000, &whole);
    if (r != 0 ||
        (dot >= 0 && (fraction.n == 0 || fraction.n > 3 || str_u64(fraction, &part) != 0))) {
        return -EINVAL;
    }
    for (size_t i = fraction.n; i < 3; i++) {
        part *= 10;
    }
    *ret = whole * 1000 + part;
    return 0;
}

static int parse_number(const struct conf_key *k, struct str value, uint64_t *ret)
{
    if (k->zero != NULL && str_eqs(value, k->zero)) {
        *ret = 0;
        return 0;
    }
    uint64_t v = 0;
    int r = k->type == CONF_SIZE       ? str_size(value, &v)
            : k->type == CONF_DURATION ? str_duration_ms(value, &v)
            : k->type == CONF_MILLI    ? parse_milli(value, &v)
                                       : str_u64(value, &v);
    if (r != 0) {
        return r;
    }
    if (v < k->min || v > k->max) {
        return -ERANGE;
    }
    *ret = v;
    return 0;
}

static int set_choice(const struct conf_key *k, struct str value, void *obj)
{
    for (unsigned i = 0; k->choices[i] != NULL; i++) {
        if (str_eqs(value, k->choices[i])) {
            memcpy((char *)obj + k->offset, &i, sizeof i);
            return 0;
        }
    }
    return -EINVAL;
}

/* Leaves obj alone on failure: -EINVAL or -ERANGE. */
static int set_value(const struct conf_key *k, struct str value, void *obj)
{
    switch (k->type) {
    case CONF_TEXT:
    case CONF_PATH:
    case CONF_ADDR:
    case CONF_LIST:
        return set_text(k, value, obj);
    case CONF_CHOICE:
        return set_choice(k, value, obj);
    case CONF_BOOL: {
        bool b;
        int r = str_bool(value, &b);
        if (r == 0) {
            memcpy((char *)obj + k->offset, &b, sizeof b);
        }
        return r;
    }
    case CONF_INT:
    case CONF_SIZE:
    case CONF_DURATION:
    case CONF_MILLI:
        break;
    }
    uint64_t v;
    int r = parse_number(k, value, &v);
    if (r == 0) {
        memcpy((char *)obj + k->offset, &v, sizeof v);
    }
    return r;
}

void conf_defaults(const struct conf_table *t, void *obj)
{
    REQUIRE(t->keys_len <= CONF_KEYS_MAX);
    memset(obj, 0, t->object_size);
    for (size_t i = 0; i < t->keys_len; i++) {
        const struct conf_key *k = &t->keys[i];
        INSIST(k->offset + k->size <= t->object_size);
        INSIST(k->def == NULL || set_value(k, str_of(k->def), obj) == 0);
    }
}

/* --- messages --- */

static bool section_known(const struct conf_table *t, struct str section)
{
    for (size_t i = 0; i < t->sections_len; i++) {
        if (str_eqs(section, t->sections[i].name)) {
            return true;
        }
    }
    return false;
}

/* Nearest name, if it is near enough to be what was meant. */
struct nearest {
    const char *name;
    unsigned distance;
};

static void nearest_try(struct nearest *n, struct str given, const char *name)
{
    unsigned d = str_distance(given, str_of(name));
    size_t limit = given.n < 4 ? 1 : given.n / 3 + 1;
    if (d <= limit && (n->name == NULL || d < n->distance)) {
        *n = (struct nearest){ name, d };
    }
}

/* where: "agent.conf:12: " or "--sandbox.memry: ". */
static int unknown_key(const struct conf_table *t, const char *where, struct str section,
                       struct str key, struct err *e)
{
    struct nearest near = { NULL, 0 };
    struct str shown_section = str_slice(section, 0, 64);
    struct str shown = str_slice(key, 0, 64);

    if (!section_known(t, section)) {
        for (size_t i = 0; i < t->sections_len; i++) {
            nearest_try(&near, section, t->sections[i].name);
        }
        if (near.name != NULL) {
            return err_say(e, -EINVAL, "%sunknown section [%.*s]; did you mean [%s]?", where,
                           STR_ARG(shown_section), near.name);
        }
        return err_say(e, -EINVAL, "%sunknown section [%.*s]", where, STR_ARG(shown_section));
    }
    for (size_t i = 0; i < t->keys_len; i++) {
        if (str_eqs(section, t->keys[i].section)) {
            nearest_try(&near, key, t->keys[i].key);
        }
    }
    if (near.name != NULL) {
        return err_say(e, -EINVAL, "%sunknown key '%.*s' in [%.*s]; did you mean '%s'?", where,
                       STR_ARG(shown), STR_ARG(shown_section), near.name);
    }
    /* The right key in the wrong section? */
    for (size_t i = 0; i < t->keys_len; i++) {
        if (str_eqs(key, t->keys[i].key)) {
            return err_say(e, -EINVAL, "%sunknown key '%.*s' in [%.*s]; there is one in [%s]",
                           where, STR_ARG(shown), STR_ARG(shown_section), t->keys[i].section);
        }
    }
    return err_say(e, -EINVAL, "%sunknown key '%.*s' in [%.*s]", where, STR_ARG(shown),
                   STR_ARG(shown_section));
}

static int bad_value(const struct conf_key *k, const char *where, struct str value, struct err *e)
{
    AUTO_BUF struct buf allowed = BUF_INIT(256);
    struct str shown = k->secret ? STR("(secret)") : str_slice(value, 0, 64);
    bool cut = !k->secret && value.n > shown.n;

    conf_allowed(k, &allowed);
    return err_say(e, -EINVAL, "%s%s.%s: '%.*s%s' is not allowed; it takes %s", where, k->section,
                   k->key, STR_ARG(shown), cut ? "…" : "", buf_cstr(&allowed));
}

/* One assignment from wherever. line: see struct conf_seen. */
static int assign(const struct conf_table *t, const char *where, struct str section, struct str key,
                  struct str value, uint32_t line, void *obj, struct conf_seen *seen, struct err *e)
{
    const struct conf_key *k = conf_find(t, section, key);
    if (k == NULL) {
        return unknown_key(t, where, section, key, e);
    }
    size_t i = (size_t)(k - t->keys);
    if (line != UINT32_MAX && seen->line[i] != 0) {
        return err_say(e, -EINVAL, "%s%s.%s was set in line %u already", where, k->section, k->key,
                       seen->line[i]);
    }
    if (!str_is_utf8(value) || set_value(k, value, obj) != 0) {
        return bad_value(k, where, value, e);
    }
    if (seen != NULL) {
        seen->line[i] = line;
    }
    return 0;
}

/* --- files --- */

struct reader {
    const struct conf_table *table;
    const char *name;
    struct str rest;
    uint32_t line;
    void *obj;
    struct conf_seen *seen;
    struct err *e;
    int error;
};

__attribute__((format(printf, 2, 3))) static char *reader_fail(struct reader *rd, const char *fmt,
                                                               ...)
{
    if (rd->error == 0) {
        struct err why;
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(why.text, sizeof why.text, fmt, ap);
        va_end(ap);
        rd->error = err_say(rd->e, -EINVAL, "%s:%u: %s", rd->name, rd->line, why.text);
    }
    rd->rest = (struct str){ NULL, 0 };
    return NULL;
}

/* What inih would read otherwise than it says in our manual. */
static const char *line_problem(const struct reader *rd, struct str line)
{
    if (rd->line == 1 && str_starts(line, "\xef\xbb\xbf")) {
        return "the file begins with a byte-order mark; save it as UTF-8 without one";
    }
    if (str_find(line, '\0') >= 0) {
        return "a NUL byte";
    }
    if (!str_is_utf8(line)) {
        return "not valid UTF-8";
    }
    struct str text = str_trim(line);
    if (text.n == 0 || text.p[0] == '#' || text.p[0] == ';') {
        return NULL;
    }
    if (text.p[0] == '[') {
        ptrdiff_t close = str_find(text, ']');
        struct str behind = str_trim(str_slice(text, close < 0 ? 0 : (size_t)close + 1, SIZE_MAX));
        bool ok = close > 1 && (behind.n == 0 || behind.p[0] == '#' || behind.p[0] == ';');
        return ok ? NULL : "a section line is '[name]'";
    }
    ptrdiff_t equals = str_find(text, '=');
    ptrdiff_t colon = str_find(text, ':');
    if (equals < 0 || (colon >= 0 && colon < equals)) {
        return "expected 'key = value', '[section]' or a comment";
    }
    if (equals == 0) {
        return "there is no key before '='";
    }
    /* "key=;x": a comment to one reader, a value to the next. */
    bool semicolon = str_starts(str_slice(text, (size_t)equals + 1, SIZE_MAX), ";");
    return semicolon ? "a value cannot begin with ';'" : NULL;
}

/* inih's source of lines, like fgets(). */
static char *read_line(char *dst, int room, void *arg)
{
    struct reader *rd = arg;
    struct str line;

    if (rd->error != 0 || !str_split(&rd->rest, '\n', &line)) {
        return NULL;
    }
    rd->line++;
    if (line.n > CONF_LINE_MAX || room < 0 || line.n + 2 > (size_t)room) {
        return reader_fail(rd, "the line is longer than %d bytes", CONF_LINE_MAX);
    }
    const char *problem = line_problem(rd, line);
    if (problem != NULL) {
        return reader_fail(rd, "%s", problem);
    }
    struct str text = str_trim(line);
    if (text.n != 0 && text.p[0] == '[') {
        struct str section = str_slice(text, 1, (size_t)str_find(text, ']') - 1);
        if (!section_known(rd->table, section)) {
            char where[300];
            (void)snprintf(where, sizeof where, "%s:%u: ", rd->name, rd->line);
            rd->error = unknown_key(rd->table, where, section, STR(""), rd->e);
            return NULL;
        }
    }
    if (text.n != 0) {
        memcpy(dst, text.p, text.n);
    }
    dst[text.n] = '\n';
    dst[text.n + 1] = '\0';
    return dst;
}

static int on_assignment(void *arg, const char *section, const char *key, const char *value)
{
    struct reader *rd = arg;
    char where[300];

    if (rd->error != 0) {
        return 0;
    }
    if (section[0] == '\0') {
        (void)reader_fail(rd, "'%.64s' stands before the first [section]", key);
        return 0;
    }
    (void)snprintf(where, sizeof where, "%s:%u: ", rd->name, rd->line);
    rd->error = assign(rd->table, where, str_of(section), str_of(key), str_of(value), rd->line,
                       rd->obj, rd->seen, rd->e);
    return rd->error == 0;
}

int conf_parse(const struct conf_table *t, const char *name, struct str text, void *obj,
               struct conf_seen *seen, struct err *e)
{
    if (text.n > CONF_FILE_MAX) {
        return err_say(e, -E2BIG, "%s is larger than %d bytes", name, CONF_FILE_MAX);
    }
    struct conf_seen *own = NULL;
    if (seen == NULL) {
        own = mem_zalloc(sizeof *own);
        if (own == NULL) {
            return err_set(e, -ENOMEM, "read %s", name);
        }
        seen = own;
    }
    /* Debian's inih takes these at run time; its own limit is 200 bytes on the stack. */
    ini_use_stack = false;
    ini_initial_alloc = CONF_LINE_MAX + 4;
    ini_max_line = CONF_LINE_MAX + 4;
    ini_allow_multiline = false;
    ini_stop_on_first_error = true;

    struct reader rd = { .table = t, .name = name, .rest = text, .obj = obj, .seen = seen, .e = e };
    int r = ini_parse_stream(read_line, &rd, on_assignment, &rd);
    mem_free(own);
    if (rd.error != 0) {
        return rd.error;
    }
    if (r == -2) {
        return err_set(e, -ENOMEM, "read %s", name);
    }
    if (r != 0) {
        return err_say(e, -EINVAL, "%s:%u: malformed line", name, rd.line);
    }
    return 0;
}

/* --- overrides --- */

static struct str override_name(const char *arg)
{
    struct str s = str_of(arg);
    return str_starts(s, "--") ? str_slice(s, 2, SIZE_MAX) : s;
}

bool conf_is_override(const char *arg)
{
    struct str s = override_name(arg);
    ptrdiff_t dot = str_find(s, '.');
    ptrdiff_t equals = str_find(s, '=');
    return str_starts(str_of(arg), "--") && dot > 0 && (equals < 0 || dot < equals);
}

int conf_override(const struct conf_table *t, const char *arg, void *obj, struct conf_seen *seen,
                  struct err *e)
{
    struct str s = override_name(arg);
    ptrdiff_t equals = str_find(s, '=');
    struct str name = str_slice(s, 0, equals < 0 ? SIZE_MAX : (size_t)equals);
    ptrdiff_t dot = str_find(name, '.');
    if (equals < 0 || dot < 0) {
        return err_say(e, -EINVAL, "'%.100s' is not --section.key=value", arg);
    }
    char where[160];
    (void)snprintf(where, sizeof where, "--%.*s: ", STR_ARG(str_slice(name, 0, 128)));
    return assign(t, where, str_slice(name, 0, (size_t)dot),
                  str_slice(name, (size_t)dot + 1, SIZE_MAX),
                  str_trim(str_slice(s, (size_t)equals + 1, SIZE_MAX)), UINT32_MAX, obj, seen, e);
}
