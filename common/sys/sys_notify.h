/*
 * sys_notify - systemd's readiness and watchdog protocol, without libsystemd.
 */
#ifndef COMMON_SYS_NOTIFY_H
#define COMMON_SYS_NOTIFY_H

#include <stdint.h>

/* Finds $NOTIFY_SOCKET (a path or an abstract name) and stays connected to it: for a process that
 * leaves the mount namespace in which the path means something. 1 connected, 0 nobody asked to be
 * told, -Exxx. One owner per process; the descriptor is not inherited by exec. */
int sys_sd_notify_open(void);
/* Sends "READY=1", "STOPPING=1", "STATUS=…", "WATCHDOG=1", … to it, after
 * sys_sd_notify_open() where that was not done. 1 sent, 0 nobody to tell, -Exxx. */
int sys_sd_notify(const char *text);
/* Microseconds between keep-alives that systemd asks of this process; 0: none. */
uint64_t sys_sd_watchdog_us(void);

#endif
