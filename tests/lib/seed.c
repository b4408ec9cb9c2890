#include "tests/lib/seed.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

uint64_t test_seed(const char *test)
{
    uint64_t seed = 0;
    const char *given = getenv("TEST_SEED");
    if (given != NULL) {
        seed = strtoull(given, NULL, 0);
    } else if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) {
        abort();
    }
    printf("%s: TEST_SEED=%llu\n", test, (unsigned long long)seed);
    return seed;
}
