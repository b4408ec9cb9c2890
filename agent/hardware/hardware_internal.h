/*
 * hardware_internal - the table of capabilities, for the files of this folder and its tests.
 */
#ifndef AGENT_HARDWARE_INTERNAL_H
#define AGENT_HARDWARE_INTERNAL_H

#include <stdint.h>

#include "agent/hardware/hardware.h"

/* Where a capability's CPUID bit stands: leaf (and subleaf) and register. */
enum hardware_reg {
    REG_NONE,
    REG_L1_ECX,
    REG_L1_EDX,
    REG_L7_EBX,
    REG_L7_ECX,
    REG_L7_EDX,
    REG_L71_EAX, /* leaf 7, subleaf 1 */
    REG_L71_EDX,
    REG_LD_EAX, /* leaf 0xd, subleaf 1 */
    REG_X1_ECX, /* leaf 0x80000001 */
    REG_X1_EDX,
    REG_X8_EBX, /* leaf 0x80000008 */
    REG_COUNT
};

enum {
    CAP_NOT_IN_CLASS = 1 /* does not change how fast a program's code runs */
};

/* Parts of XCR0 that the system must have switched on. */
enum {
    X_AVX = 0x6,    /* SSE and AVX state */
    X_MPX = 0x18,   /* bounds registers */
    X_512 = 0xe6,   /* AVX, opmask, both upper halves */
    X_AMX = 0x60000 /* tile configuration and data */
};

struct hardware_cap_info {
    const char *name;  /* whole: "cpu-cpuid.AESNI"; NULL: number not in use */
    const char *flag;  /* in /proc/cpuinfo; NULL: the kernel does not list it */
    const char *glibc; /* in glibc.cpu.hwcaps; NULL: not there */
    uint8_t reg;       /* enum hardware_reg */
    uint8_t bit;
    uint32_t xcr0;
    uint8_t how; /* CAP_… */
    uint8_t
        needs[2]; /* capabilities that it builds on; 0: none (nothing builds on ADX, number 0) */
};

/* No cache is larger: such a figure is garbage, and JSON's integers end at 2^63. */
#define CACHE_SIZE_MAX ((uint64_t)1 << 40)

const struct hardware_cap_info *hardware_cap_info(unsigned cap);
/* The part of the name after the dot. */
const char *hardware_cap_short(const struct hardware_cap_info *i);
/* Adds to mask whatever builds on something in it. */
void hardware_mask_close(struct hardware_caps *mask);
/* Copies printable ASCII of s into dst[cap]: trimmed, runs of spaces as one, the rest as '?'. */
void hardware_clean_text(char *dst, size_t cap, struct str s);

#endif
