#include "tests/sim/bench_plot.h"

#include <math.h>
#include <stdio.h>

enum { WIDE = 860, HIGH = 330, TOP = 50, BOTTOM = 270, LEFT = 60, MIDDLE = 430 };

void plot_bar(struct plot *p, const char *name, double mean, double p99)
{
    if (p->bars < PLOT_BARS_MAX) {
        p->name[p->bars] = name;
        p->mean[p->bars] = mean;
        p->p99[p->bars++] = p99;
    }
}

void plot_point(struct plot *p, size_t x, double y)
{
    if (p->points < PLOT_POINTS_MAX) {
        p->x[p->points] = (double)x;
        p->y[p->points++] = y;
    }
}

/* Logarithmic: 1 at the bottom, 100 at the top. */
static double height(double v)
{
    double part = log10(v > 1 ? v : 1) / 2;

    return (part < 1 ? part : 1) * (BOTTOM - TOP);
}

static void bars(const struct plot *p, FILE *f)
{
    double step = (MIDDLE - LEFT - 40) / (double)PLOT_BARS_MAX * 1.1;

    (void)fprintf(f,
                  "<text x='%d' y='24' class='t'>slowdown at 70 %% load (log scale): "
                  "mean and p99</text>\n",
                  LEFT);
    for (int k = 0; k <= 2; k++) {
        double y = BOTTOM - k * (BOTTOM - TOP) / 2.0;
        (void)fprintf(f,
                      "<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' class='g'/>"
                      "<text x='%d' y='%.1f' text-anchor='end'>%g</text>\n",
                      LEFT, MIDDLE - 40, y, y, LEFT - 6, y + 4, pow(10, k));
    }
    for (size_t i = 0; i < p->bars; i++) {
        double x = LEFT + 8 + (double)i * step;
        (void)fprintf(f,
                      "<rect x='%.1f' y='%.1f' width='16' height='%.1f' class='a'/>"
                      "<rect x='%.1f' y='%.1f' width='16' height='%.1f' class='b'/>"
                      "<text transform='translate(%.1f %d) rotate(30)'>%s</text>\n",
                      x, BOTTOM - height(p->mean[i]), height(p->mean[i]), x + 17,
                      BOTTOM - height(p->p99[i]), height(p->p99[i]), x + 6, BOTTOM + 14,
                      p->name[i]);
    }
}

static void line(const struct plot *p, FILE *f)
{
    double most = 10;

    for (size_t i = 0; i < p->points; i++) {
        most = fmax(most, p->y[i]);
    }
    (void)fprintf(f,
                  "<text x='%d' y='24' class='t'>regret of a new job in a warm cluster, percent, "
                  "by its run number</text>\n",
                  MIDDLE + 10);
    for (int k = 0; k <= 4; k++) {
        double y = BOTTOM - k * (BOTTOM - TOP) / 4.0;
        (void)fprintf(f,
                      "<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' class='g'/>"
                      "<text x='%d' y='%.1f' text-anchor='end'>%.0f</text>\n",
                      MIDDLE + 30, WIDE - 10, y, y, MIDDLE + 24, y + 4, most * k / 4);
    }
    (void)fprintf(f, "<polyline class='l' points='");
    for (size_t i = 0; i < p->points; i++) {
        double x = MIDDLE + 30 + p->x[i] / PLOT_POINTS_MAX * (WIDE - 40 - MIDDLE);
        double y = BOTTOM - fmax(p->y[i], 0) / most * (BOTTOM - TOP);
        (void)fprintf(f, "%.1f,%.1f ", x, y);
    }
    (void)fprintf(f, "'/>\n");
    for (int k = 10; k <= 60; k += 10) {
        (void)fprintf(f, "<text x='%.1f' y='%d' text-anchor='middle'>%d</text>\n",
                      MIDDLE + 30 + k / (double)PLOT_POINTS_MAX * (WIDE - 40 - MIDDLE), BOTTOM + 16,
                      k);
    }
}

int plot_write(const struct plot *p, const char *path)
{
    FILE *f = fopen(path, "w");

    if (f == NULL) {
        return -1;
    }
    (void)fprintf(f,
                  "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' font-size='11' "
                  "font-family='sans-serif'>\n<style>.t{font-size:13px}.g{stroke:#ccc}"
                  ".a{fill:#1764ab}.b{fill:#9ac3e6}.l{fill:none;stroke:#1764ab;stroke-width:2}"
                  "</style>\n<rect width='%d' height='%d' fill='#fff'/>\n",
                  WIDE, HIGH, WIDE, HIGH);
    bars(p, f);
    line(p, f);
    (void)fprintf(f, "</svg>\n");
    return fclose(f) == 0 ? 0 : -1;
}
