/*
 * sys_clock - the kernel's clocks. Monotonic time counts from boot (suspend not counted) and is for
 * deadlines and durations; wall time is for people and ids.
 */
#ifndef COMMON_SYS_CLOCK_H
#define COMMON_SYS_CLOCK_H

#include <stdint.h>

uint64_t sys_mono_us(void);
uint64_t sys_mono_ms(void);
uint64_t sys_mono_ns(void);
int64_t sys_wall_us(void);      /* since 1970 */
void sys_sleep_ms(uint64_t ms); /* tests and client commands; never in the loop */

#endif
