/*
 * seed - where random tests begin. TEST_SEED=N repeats a run; without it each run has its own,
 * which is printed.
 */
#ifndef TESTS_LIB_SEED_H
#define TESTS_LIB_SEED_H

#include <stdint.h>

uint64_t test_seed(const char *test);

#endif
