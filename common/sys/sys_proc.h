/*
 * sys_proc - processes by pidfd, and by (pid, start time) across restarts.
 */
#ifndef COMMON_SYS_PROC_H
#define COMMON_SYS_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The descriptor (close-on-exec) or -Exxx (-ESRCH). */
int sys_pidfd_open(pid_t pid);
/* 0 or -Exxx (-ESRCH: it ended). */
int sys_pidfd_signal(int pidfd, int sig);
/* Field 22 of /proc/PID/stat: clock ticks after boot; tells a recycled pid from the one that was
 * meant. 0 or -Exxx (-ESRCH). */
int sys_proc_start_time(pid_t pid, uint64_t *ret_ticks);
/* Opens the process that has this pid and this start time. The pidfd, or -ESRCH when it ended or
 * the number belongs to another one. */
int sys_pidfd_open_started(pid_t pid, uint64_t start_ticks);
/* Is it over? (A pidfd polls readable then.) */
bool sys_pidfd_ended(int pidfd);
/* This machine's boot, as the kernel names it: 36 characters. 0 or -Exxx. */
int sys_boot_id(char dst[37]);

#endif
