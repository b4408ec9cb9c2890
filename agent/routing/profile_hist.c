#include <string.h>

#include "agent/routing/profile.h"
#include "agent/routing/real.h"
#include "common/insist.h"

static const uint64_t memory_first = 1024 * 1024;
static const uint64_t cores_first = 10;
/* Less than a millionth of a run is nothing. */
static const double weight_min = 1.0 / (1 << 20);

/* Edges are integers, so that every node finds the same bucket. */
static uint64_t memory_next(uint64_t edge)
{
    return edge + edge / 20;
}

static uint64_t cores_next(uint64_t edge)
{
    return edge + edge / 10 + 1;
}

uint16_t route_memory_bucket(uint64_t bytes)
{
    uint16_t i = 0;

    for (uint64_t top = memory_first; bytes > top && i < ROUTE_MEMORY_BUCKETS - 1; i++) {
        top = memory_next(top);
    }
    return i;
}

uint64_t route_memory_bucket_top(uint16_t bucket)
{
    uint64_t top = memory_first;

    for (uint16_t i = 0; i < bucket && i < ROUTE_MEMORY_BUCKETS - 1; i++) {
        top = memory_next(top);
    }
    return top;
}

uint16_t route_cores_bucket(uint64_t milli)
{
    uint16_t i = 0;

    for (uint64_t top = cores_first; milli > top && i < ROUTE_CORES_BUCKETS - 1; i++) {
        top = cores_next(top);
    }
    return i;
}

uint64_t route_cores_bucket_top(uint16_t bucket)
{
    uint64_t top = cores_first;

    for (uint16_t i = 0; i < bucket && i < ROUTE_CORES_BUCKETS - 1; i++) {
        top = cores_next(top);
    }
    return top;
}

/* Makes one slot free: the closest two neighbours become the upper one. */
static void hist_join(struct route_hist *h)
{
    uint32_t at = 0;
    unsigned least = UINT16_MAX + 1U;

    for (uint32_t i = 0; i + 1 < h->n; i++) {
        unsigned gap = (unsigned)(h->b[i + 1].bucket - h->b[i].bucket);
        if (gap < least) {
            least = gap;
            at = i;
        }
    }
    h->b[at + 1].weight += h->b[at].weight;
    memmove(&h->b[at], &h->b[at + 1], (h->n - at - 1) * sizeof h->b[0]);
    h->n--;
}

void route_hist_add(struct route_hist *h, uint16_t bucket, float weight)
{
    uint32_t i = 0;

    while (i < h->n && h->b[i].bucket < bucket) {
        i++;
    }
    if (i < h->n && h->b[i].bucket == bucket) {
        h->b[i].weight += weight;
        return;
    }
    if (h->n == ROUTE_HIST_SLOTS) {
        hist_join(h);
        route_hist_add(h, bucket, weight);
        return;
    }
    memmove(&h->b[i + 1], &h->b[i], (h->n - i) * sizeof h->b[0]);
    h->b[i] = (struct route_bucket){ bucket, weight };
    h->n++;
}

void route_hist_scale(struct route_hist *h, double factor)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < h->n; i++) {
        double w = (double)h->b[i].weight * factor;
        if (w >= weight_min) {
            h->b[kept++] = (struct route_bucket){ h->b[i].bucket, (float)w };
        }
    }
    h->n = kept;
}

void route_dense_add(struct route_dense *d, const struct route_hist *h, double factor)
{
    for (uint32_t i = 0; i < h->n; i++) {
        double w = (double)h->b[i].weight * factor;
        INSIST(h->b[i].bucket < ROUTE_MEMORY_BUCKETS);
        d->w[h->b[i].bucket] += w;
        d->total += w;
    }
}

uint16_t route_dense_quantile(const struct route_dense *d, double q)
{
    double above = 0;
    double allowed = d->total * (1 - q);

    for (uint16_t i = ROUTE_MEMORY_BUCKETS; i-- > 0;) {
        above += d->w[i];
        if (above > allowed && d->w[i] > 0) {
            return i;
        }
    }
    return 0;
}

/* 1/32 at most: one origin's ticks never wipe out what the others know. */
static double decay(uint64_t ticks, uint64_t half_life)
{
    if (ticks >= 5 * half_life) {
        return 1.0 / 32;
    }
    return route_exp(-0.69314718055994530942 * (double)ticks / (double)half_life);
}

double route_decay(uint64_t ticks)
{
    return decay(ticks, 346);
}

double route_decay_hist(uint64_t ticks)
{
    return decay(ticks, 200);
}
