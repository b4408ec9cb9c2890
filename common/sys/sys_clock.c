#include "common/sys/sys_clock.h"

#include <errno.h>
#include <time.h>

#include "common/insist.h"

static struct timespec clock_read(clockid_t id)
{
    struct timespec t;
    INSIST(clock_gettime(id, &t) == 0);
    return t;
}

uint64_t sys_mono_ns(void)
{
    struct timespec t = clock_read(CLOCK_MONOTONIC);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

uint64_t sys_mono_us(void)
{
    return sys_mono_ns() / 1000;
}

uint64_t sys_mono_ms(void)
{
    return sys_mono_ns() / 1000000;
}

int64_t sys_wall_us(void)
{
    struct timespec t = clock_read(CLOCK_REALTIME);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void sys_sleep_ms(uint64_t ms)
{
    struct timespec t = { .tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000 };
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR) {
        /* t holds what is left */
    }
}
