/*
 * sys_notify - systemd's readiness and watchdog protocol, without libsystemd.
 */
#ifndef COMMON_SYS_NOTIFY_H
#define COMMON_SYS_NOTIFY_H

#include <stdint.h>

/* Sends "READY=1", "STOPPING=1", "STATUS=…", "WATCHDOG=1", … to $NOTIFY_SOCKET (a path or an
 * abstract name). 1 sent, 0 nobody to tell, -Exxx. */
int sys_sd_notify(const char *text);
/* Microseconds between keep-alives that systemd asks of this process; 0: none. */
uint64_t sys_sd_watchdog_us(void);

#endif
