/*
 * sys_random - entropy from the kernel: keys, nonces, tokens, seeds.
 */
#ifndef COMMON_SYS_RANDOM_H
#define COMMON_SYS_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* Blocks only before the kernel's pool is ready (early boot). Cannot fail after that: aborts
 * otherwise. */
void sys_random(void *p, size_t n);
uint64_t sys_random_u64(void);

#endif
