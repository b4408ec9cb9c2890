/* bench_trace - job types from the Azure Functions 2019 sample, or drawn from its quantiles. */
#ifndef TESTS_SIM_BENCH_TRACE_H
#define TESTS_SIM_BENCH_TRACE_H

#include "tests/sim/route_sim.h"

/* Times and popularities of up to RSIM_JOBS_MAX functions into c (what each gains by which feature
 * stays as it is there, repeated), and their memory. dir NULL or without the files: synthetic.
 * Returns the number of functions; *ret_real says whether the sample was read. */
size_t bench_trace(const char *dir, uint64_t seed, struct rsim_config *c,
                   struct rsim_memory_job *memory, bool *ret_real);

#endif
