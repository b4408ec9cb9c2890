#include "tests/sim/bench_trace.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/routing/real.h"

enum { LINE_MAX_BYTES = 65536, FIELDS_MAX = 600, HASH_CHARS = 16 };

struct table {
    char line[LINE_MAX_BYTES];
    char *field[FIELDS_MAX];
    size_t fields;
};

static bool next_line(FILE *f, struct table *t)
{
    if (fgets(t->line, sizeof t->line, f) == NULL) {
        return false;
    }
    t->fields = 0;
    for (char *p = t->line; p != NULL && t->fields < FIELDS_MAX;) {
        t->field[t->fields++] = p;
        p = strchr(p, ',');
        if (p != NULL) {
            *p++ = '\0';
        }
    }
    return true;
}

static FILE *open_file(const char *dir, const char *name, struct table *t)
{
    char path[512];

    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "r");
    if (f != NULL) {
        (void)next_line(f, t); /* the head */
    }
    return f;
}

static double number(const struct table *t, size_t i)
{
    return i < t->fields ? strtod(t->field[i], NULL) : 0;
}

/* Ascending for sure, and never less than low. */
static double above(double v, double low)
{
    return v > low ? v : low;
}

static size_t read_durations(FILE *f, struct table *t, struct rsim_config *c,
                             struct rsim_memory_job *memory)
{
    size_t n = 0;

    while (n < RSIM_JOBS_MAX && next_line(f, t)) {
        struct rsim_job *j = &c->job[n];
        (void)snprintf(memory[n].name, sizeof memory[n].name, "%.*s", HASH_CHARS, t->field[2]);
        j->quantiles = true;
        double last = -7;
        for (size_t i = 0; i < 7; i++) {
            last = j->quantile[i] = above(route_ln(above(number(t, 7 + i), 1) / 1000), last);
        }
        j->popularity = 0;
        n++;
    }
    return n;
}

static size_t find(const struct rsim_memory_job *memory, size_t n, const char *hash)
{
    size_t i = 0;

    while (i < n && strncmp(memory[i].name, hash, HASH_CHARS) != 0) {
        i++;
    }
    return i;
}

static size_t read_sample(const char *dir, struct rsim_config *c, struct rsim_memory_job *memory)
{
    static const double at[] = { 0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1 };
    struct table *t = malloc(sizeof *t);
    size_t n = 0;
    FILE *f;

    if (t == NULL || (f = open_file(dir, "durations.csv", t)) == NULL) {
        free(t);
        return 0;
    }
    n = read_durations(f, t, c, memory);
    (void)fclose(f);
    f = open_file(dir, "invocations.csv", t);
    while (f != NULL && next_line(f, t)) {
        size_t i = find(memory, n, t->field[2]);
        for (size_t k = 4; i < n && k < t->fields; k++) {
            c->job[i].popularity += number(t, k);
        }
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    f = open_file(dir, "memory.csv", t);
    while (f != NULL && next_line(f, t)) {
        size_t i = find(memory, n, t->field[0]);
        if (i == n) {
            continue;
        }
        memory[i].points = 8;
        memcpy(memory[i].at, at, sizeof at);
        double last = 1;
        for (size_t k = 0; k < 8; k++) {
            /* Column 5 is the first percentile; there is none for 0; 99 is left out, 100 ends it.
             */
            size_t column = k == 0 ? 5 : k < 7 ? 4 + k : 12;
            last = memory[i].mib[k] = above(number(t, column), last);
        }
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    free(t);
    return n;
}

/* Published quantiles over functions: duration p25/50/75/99 84/396/2,984/146,627 ms (cut at a
 * minute here), memory p50/p95 56/204 MB; the first function makes most of the calls. */
static size_t draw_sample(uint64_t seed, struct rsim_config *c, struct rsim_memory_job *memory)
{
    enum { FUNCTIONS = 100 };
    static const double spread[] = { -2, -1.4, -0.3, 0, 0.3, 1.4, 2 };
    struct rng r;

    rng_init(&r, seed ^ 0x617a);
    for (size_t i = 0; i < FUNCTIONS; i++) {
        struct rsim_job *j = &c->job[i];
        double median = route_ln(0.396) + 2.2 * route_normal(&r);
        median = median > 3 ? 3 : median < -6 ? -6 : median;
        j->quantiles = true;
        j->popularity = i == 0 ? 400 : 1 / (1 + (double)i / 4);
        for (size_t k = 0; k < 7; k++) {
            j->quantile[k] = median + spread[k];
        }
        (void)snprintf(memory[i].name, sizeof memory[i].name, "function%zu", i);
        memory[i].points = 7;
        double middle = route_exp(route_ln(56) + 0.78 * route_normal(&r));
        for (size_t k = 0; k < 7; k++) {
            memory[i].at[k] = rsim_quantile_at(k);
            memory[i].mib[k] = middle * route_exp(spread[k] * 0.15);
        }
    }
    return FUNCTIONS;
}

size_t bench_trace(const char *dir, uint64_t seed, struct rsim_config *c,
                   struct rsim_memory_job *memory, bool *ret_real)
{
    struct rsim_job kinds[30];
    size_t n;

    memcpy(kinds, c->job, sizeof kinds);
    memset(memory, 0, RSIM_JOBS_MAX * sizeof *memory);
    memset(c->job, 0, sizeof c->job);
    n = dir != NULL ? read_sample(dir, c, memory) : 0;
    *ret_real = n > 0;
    if (n == 0) {
        n = draw_sample(seed, c, memory);
    }
    for (size_t i = 0; i < n; i++) {
        struct rsim_job *j = &c->job[i];
        memcpy(j->weight, kinds[i % 30].weight, sizeof j->weight);
        memcpy(j->later, j->weight, sizeof j->later);
        memcpy(j->residual, kinds[i % 30].residual, sizeof j->residual);
        memory[i].popularity = memory[i].points > 0 ? j->popularity : 0;
    }
    c->jobs = n;
    return n;
}
