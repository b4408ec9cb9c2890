/*
 * real - the arithmetic that learning needs, the same on every compiler and C library.
 *
 * Only +, -, *, /, sqrt, frexp and ldexp of IEEE doubles are used (all exactly rounded), and the
 * build forbids contraction into fused operations; so the same rows give the same model everywhere.
 */
#ifndef AGENT_ROUTING_REAL_H
#define AGENT_ROUTING_REAL_H

#include <stddef.h>

#include "common/rng.h"

/* Natural logarithm of a finite x > 0, within 2 units in the last place; other x give -745. */
double route_ln(double x);
/* e to the x, within 2 units in the last place; x is held within [-700, 700], NaN gives 1. */
double route_exp(double x);
/* A draw from N(0, 1), by Marsaglia's polar method. */
double route_normal(struct rng *r);

/* A symmetric n x n matrix is packed by rows of its lower half: element (i, j), j <= i, is at
 * i * (i + 1) / 2 + j. */
#define ROUTE_PACKED(n) ((n) * ((n) + 1) / 2)
/* Replaces a by its Cholesky factor L (a = L Lt). 0, or -EDOM when a is not positive definite. */
int route_cholesky(double *a, size_t n);
/* Solve L x = b and Lt x = b in place. */
void route_solve_lower(const double *l, size_t n, double *b);
void route_solve_upper(const double *l, size_t n, double *b);

#endif
