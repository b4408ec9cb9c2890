/*
 * sys_log - the log's sink: one write() per line to stderr, with the journal's "<N>" priority in
 * front when stderr is the journal's stream (JOURNAL_STREAM names its device and inode).
 */
#ifndef COMMON_SYS_LOG_H
#define COMMON_SYS_LOG_H

#include "common/log.h"

/* log_init() with this sink and the wall clock (no clock under the journal, which has its own). */
void sys_log_init(enum log_level level, enum log_format format, const char *name);

#endif
