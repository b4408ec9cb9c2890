/*
 * triggers_internal - reading members of a trigger's description, shared by the files of this
 * folder and their unit tests.
 */
#ifndef AGENT_TRIGGERS_TRIGGERS_INTERNAL_H
#define AGENT_TRIGGERS_TRIGGERS_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/json.h"

/* Each: 0 and *ret, or -EINVAL with a sentence that begins with the member's name. */
int trigger_get_text(const struct json *v, const char *name, size_t min, size_t max,
                     struct str *ret, struct err *e);
/* A number of seconds or "5m", in milliseconds. */
int trigger_get_duration(const struct json *v, const char *name, uint64_t min_ms, uint64_t max_ms,
                         uint64_t *ret_ms, struct err *e);
int trigger_get_count(const struct json *v, const char *name, uint64_t min, uint64_t max,
                      uint64_t *ret, struct err *e);
int trigger_get_bool(const struct json *v, const char *name, bool *ret, struct err *e);
/* One of the names; *ret is its index. */
int trigger_get_choice(const struct json *v, const char *name, const char *const *names, size_t n,
                       size_t *ret, struct err *e);
int trigger_get_time(const struct json *v, const char *name, int64_t *ret_us, struct err *e);
/* Letters, digits, '.', '_', '-', first a letter or digit, 1 to 63. */
bool trigger_name_ok(struct str name);

#endif
