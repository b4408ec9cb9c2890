/* route_sim_internal - the truth, for route_sim.c alone. */
#ifndef TESTS_SIM_ROUTE_SIM_INTERNAL_H
#define TESTS_SIM_ROUTE_SIM_INTERNAL_H

#include "agent/routing/model.h"
#include "tests/sim/route_sim.h"

const struct route_features *rsim_class_features(unsigned class_at);
const char *rsim_class_id(unsigned class_at);
double rsim_affinity(const struct rsim_job *j, unsigned class_at, bool later);
double rsim_draw_base(const struct rsim_job *j, struct rng *r);
double rsim_mean_base(const struct rsim_job *j);
double rsim_mean_seconds(const struct rsim_config *c);

#endif
