#include "common/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "common/ids.h"

enum {
    LOG_MESSAGE_MAX = 2000,
    LOG_LINE_MAX = 6 * LOG_MESSAGE_MAX + 256, /* an escape takes at most six characters */
};

static const char *const log_levels[] = { "error", "warn", "info", "debug" };

/* Written by log_init() before there are threads; afterwards only the level changes. */
static struct {
    atomic_int level;
    enum log_format format;
    char name[32];
    log_sink_fn *sink;
    void *arg;
    int64_t (*now_us)(void);
} log_state = { .level = LOG_INFO };

void log_init(enum log_level level, enum log_format format, const char *name, log_sink_fn *sink,
              void *arg, int64_t (*now_us)(void))
{
    log_state.format = format;
    log_state.sink = sink;
    log_state.arg = arg;
    log_state.now_us = now_us;
    (void)snprintf(log_state.name, sizeof log_state.name, "%s", name != NULL ? name : "");
    log_set_level(level);
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&log_state.level, (int)level, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&log_state.level, memory_order_relaxed);
}

int log_level_parse(struct str s, enum log_level *ret)
{
    for (size_t i = 0; i < sizeof log_levels / sizeof log_levels[0]; i++) {
        if (str_ieqs(s, log_levels[i])) {
            *ret = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* A line under construction; has room for the worst case, so nothing is checked but that. */
struct line {
    char text[LOG_LINE_MAX];
    size_t n;
};

static void line_adds(struct line *l, const char *s)
{
    size_t n = strlen(s);
    if (n > sizeof l->text - l->n) {
        n = sizeof l->text - l->n;
    }
    memcpy(l->text + l->n, s, n);
    l->n += n;
}

/* No control character, no C1 control, no malformed UTF-8 reaches a terminal or a log shipper. */
static void line_add_escaped(struct line *l, const char *s, bool json)
{
    struct str rest = str_of(s);
    while (rest.n != 0) {
        unsigned char c = (unsigned char)rest.p[0];
        char out[8];
        size_t take = 1;

        if (c == '\n' || c == '\t' || c == '\r') {
            (void)snprintf(out, sizeof out, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
        } else if (c < 0x20 || c == 0x7f) {
            (void)snprintf(out, sizeof out, json ? "\\u%04x" : "\\x%02x", c);
        } else if (c < 0x80) {
            bool quote = json && (c == '"' || c == '\\');
            (void)snprintf(out, sizeof out, quote ? "\\%c" : "%c", c);
        } else {
            take = str_utf8_span(str_slice(rest, 0, 4));
            if (take >= 2) {
                take = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
            }
            if (take < 2) {
                take = 1;
                (void)snprintf(out, sizeof out, json ? "\\ufffd" : "\\x%02x", c);
            } else if (c == 0xc2 && (unsigned char)rest.p[1] < 0xa0) {
                (void)snprintf(out, sizeof out, "\\u%04x", (unsigned char)rest.p[1]);
            } else {
                memcpy(out, rest.p, take);
                out[take] = '\0';
            }
        }
        line_adds(l, out);
        rest = str_slice(rest, take, SIZE_MAX);
    }
}

void log_write(enum log_level level, const char *fmt, ...)
{
    char message[LOG_MESSAGE_MAX];
    char now[TIME_TEXT_CAP] = "";
    struct line l;
    va_list ap;

    if (log_state.sink == NULL || !log_enabled(level)) {
        return;
    }
    int saved = errno;
    va_start(ap, fmt);
    if (vsnprintf(message, sizeof message, fmt, ap) < 0) {
        message[0] = '\0';
    }
    va_end(ap);
    if (log_state.now_us != NULL) {
        time_format(log_state.now_us(), now);
    }

    bool json = log_state.format == LOG_JSON;
    l.n = 0;
    line_adds(&l, json ? "{" : "");
    if (now[0] != '\0') {
        line_adds(&l, json ? "\"time\":\"" : "");
        line_adds(&l, now);
        line_adds(&l, json ? "\"," : " ");
    }
    line_adds(&l, json ? "\"level\":\"" : "");
    line_adds(&l, log_levels[level]);
    line_adds(&l, json ? "\",\"process\":\"" : " ");
    line_add_escaped(&l, log_state.name, json);
    line_adds(&l, json ? "\",\"message\":\"" : ": ");
    line_add_escaped(&l, message, json);
    line_adds(&l, json ? "\"}\n" : "\n");
    log_state.sink(log_state.arg, level, l.text, l.n);
    errno = saved;
}

bool log_limit_ok(struct log_limit *l, uint64_t now_ms, unsigned *ret_dropped)
{
    *ret_dropped = 0;
    if (l->used == 0 || now_ms - l->since_ms >= l->period_ms) {
        l->since_ms = now_ms;
        l->used = 0;
        *ret_dropped = l->dropped;
        l->dropped = 0;
    }
    if (l->used >= l->burst) {
        l->dropped++;
        return false;
    }
    l->used++;
    return true;
}
