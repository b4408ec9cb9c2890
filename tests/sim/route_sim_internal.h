/* route_sim_internal - the truth, for route_sim.c alone. */
#ifndef TESTS_SIM_ROUTE_SIM_INTERNAL_H
#define TESTS_SIM_ROUTE_SIM_INTERNAL_H

#include "agent/routing/model.h"
#include "tests/sim/route_sim.h"

const struct route_features *sim_class_features(unsigned class_at);
const char *sim_class_id(unsigned class_at);
double sim_affinity(const struct sim_job *j, unsigned class_at, bool later);
double sim_draw_base(const struct sim_job *j, struct rng *r);
double sim_mean_base(const struct sim_job *j);
double sim_mean_seconds(const struct sim_config *c);

#endif
