/*
 * sys_settings - agent.conf from the file system.
 */
#ifndef COMMON_SYS_SETTINGS_H
#define COMMON_SYS_SETTINGS_H

#include "common/settings.h"

/* Reads path (NULL: no file, defaults and overrides only), applies the overrides
 * ("--section.key=value"), checks, and fills node.name with the host name when it is not set. *ret
 * is untouched on failure. -ENOENT, -EINVAL, … with the sentence in e. */
int sys_settings_load(const char *path, const char *const *overrides, size_t overrides_len,
                      struct settings *ret, struct err *e);

#endif
