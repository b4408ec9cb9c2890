/*
 * log - one line per event: time, level, process, message; as text or as a JSON object.
 *
 * Pure: lines go to a sink that the process sets (sys_log: stderr or the journal's stderr). Values
 * are escaped: no control character reaches a terminal. Lines of one call site can be rate-limited
 * by the caller (log_limit_ok).
 */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/str.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_TEXT, LOG_JSON };

/* One line, with its newline, len bytes; called from any thread. (A function type, not a struct:
 * the one kind of typedef in the house.) */
typedef void log_sink_fn(void *arg, enum log_level level, const char *line, size_t len);

/* Process-wide; set once before threads. now_us may be NULL (no time in the line). name is the
 * process's role ("launcher", "agent"). */
void log_init(enum log_level level, enum log_format format, const char *name, log_sink_fn *sink,
              void *arg, int64_t (*now_us)(void));
void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);
int log_level_parse(struct str s, enum log_level *ret);

/* printf-like message: a short sentence. Put values in it quoted ('%s'). Cut at 2,000 bytes. */
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) (log_enabled(LOG_DEBUG) ? log_write(LOG_DEBUG, __VA_ARGS__) : (void)0)

/* At most burst lines per period; then one "… N more" when it opens again. */
struct log_limit {
    uint64_t period_ms;
    unsigned burst;
    unsigned used;
    unsigned dropped;
    uint64_t since_ms;
};
bool log_limit_ok(struct log_limit *l, uint64_t now_ms, unsigned *ret_dropped);

#endif
