/*
 * rng - a small seeded generator (xoshiro256**) for jitter, sampling and simulations. Repeatable
 * from its seed, never for nonces or tokens: those are drawn from the kernel (sys_random) and
 * passed in.
 */
#ifndef COMMON_RNG_H
#define COMMON_RNG_H

#include <stdint.h>

struct rng {
    uint64_t s[4];
};

void rng_init(struct rng *r, uint64_t seed); /* splitmix64 expands the seed */
uint64_t rng_u64(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t n); /* uniform in [0, n), n > 0 */
double rng_unit(struct rng *r);                /* [0, 1) */

#endif
