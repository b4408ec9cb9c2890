/* bench_plot - one SVG: slowdown per policy as bars, regret by run number as a line. */
#ifndef TESTS_SIM_BENCH_PLOT_H
#define TESTS_SIM_BENCH_PLOT_H

#include <stddef.h>

enum { PLOT_BARS_MAX = 8, PLOT_POINTS_MAX = 64 };

struct plot {
    size_t bars, points;
    const char *name[PLOT_BARS_MAX];
    double mean[PLOT_BARS_MAX], p99[PLOT_BARS_MAX];
    double x[PLOT_POINTS_MAX], y[PLOT_POINTS_MAX];
};

void plot_bar(struct plot *p, const char *name, double mean, double p99);
void plot_point(struct plot *p, size_t x, double y);
int plot_write(const struct plot *p, const char *path); /* 0, or -1 */

#endif
