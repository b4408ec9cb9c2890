/*
 * probe - what the probes share. A probe is a small static program that runs inside a sandbox,
 * tries what must not work (and what must), and prints one line each: "ok NAME" or "FAIL NAME:
 * why".
 */
#ifndef PROBE_H
#define PROBE_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static inline void check(bool good, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static inline void check(bool good, const char *name, const char *fmt, ...)
{
    if (good) {
        printf("ok %s\n", name);
        return;
    }
    va_list ap;
    printf("FAIL %s: ", name);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
}

/* The call must fail with this errno. */
static inline void refused(long result, int want, const char *name)
{
    int got = errno;
    check(result < 0 && got == want, name, "%ld, %s (want %s)", result,
          result < 0 ? strerrorname_np(got) : "no error", strerrorname_np(want));
}

#endif
