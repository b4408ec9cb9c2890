/*
 * sys - thin, error-reporting wrappers of system calls; the only layer-1 way to the kernel besides
 * the loop. Everything retries EINTR, opens with O_CLOEXEC, and never follows a link that it was
 * not asked to.
 */
#ifndef COMMON_SYS_SYS_H
#define COMMON_SYS_SYS_H

#include "common/sys/sys_clock.h"
#include "common/sys/sys_fd.h"
#include "common/sys/sys_file.h"
#include "common/sys/sys_log.h"
#include "common/sys/sys_notify.h"
#include "common/sys/sys_proc.h"
#include "common/sys/sys_random.h"
#include "common/sys/sys_sock.h"

#endif
