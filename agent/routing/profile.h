/*
 * profile - what is known of a job, as sums that every node can add up.
 *
 * Pure. A *row* is what one node (the origin) measured of one revision of one job on one node
 * class: decayed sums, written by the origin alone and carried by the table as opaque bytes. A
 * *profile* is the sum over the rows of all origins; rows are added in the order of their keys, so
 * that every node gets the same bits from the same rows, whatever order they came in.
 *
 * Time of the decay is not the clock's but the job's: one tick per attempt of the revision, counted
 * over the whole cluster (the sum of the rows' `runs`). A row says at which tick its sums were last
 * brought up to date (`tick`); a reader ages them by the ticks since then. A clock that jumps, or a
 * job that rests for a month, changes nothing; every class ages at the same pace, as if one node
 * had seen all runs. (Forward decay, Cormode et al. 2009, with a logical clock.)
 *
 * No single report and no single origin can do much harm: values are clipped, a row's weight is
 * bounded by its decay (at most 1 / (1 - 0.998) = 500 runs), ageing by one origin's ticks stops at
 * 1/32, and where three or more origins know a class, one that is far from their median is pulled
 * in (see model.c). Text and numbers that no honest node writes are refused by the decoder.
 */
#ifndef AGENT_ROUTING_PROFILE_H
#define AGENT_ROUTING_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

enum {
    ROUTE_NODE_CAP = 64,  /* an origin's name and its NUL */
    ROUTE_JOB_CAP = 129,  /* a job's name (or what stands for it) and its NUL */
    ROUTE_CLASS_CAP = 17, /* hardware_class(): 16 hex digits and a NUL */
    ROUTE_KEY_MAX = 224,
    ROUTE_VALUE_MAX = 512,

    ROUTE_MEMORY_BUCKETS = 284, /* each 5 % wider than the last, from 1 MiB: to 1 TiB */
    ROUTE_CORES_BUCKETS = 128,  /* each 10 % wider, from 0.01 processors: to 1,900 */
    ROUTE_HIST_SLOTS = 24,      /* different buckets that one row keeps */
};

/* The memory margin before anything tuned it. */
#define ROUTE_MARGIN_FIRST 0.15

/* What the model knows of a node class beside its name; it travels in each row, so that what was
 * learned on a class outlives the last node of it. */
struct route_features {
    uint8_t bits;  /* enum route_feature_bit */
    float llc_mib; /* last level cache; 0: unknown */
    float ghz;     /* base frequency; 0: unknown */
};
enum route_feature_bit {
    ROUTE_HAS_AES = 1,
    ROUTE_HAS_SHA = 2,
    ROUTE_HAS_AVX512 = 4,
    ROUTE_HAS_AVX2 = 8,
};

struct route_bucket {
    uint16_t bucket;
    float weight;
};

/* A sparse histogram, ascending by bucket. When its slots are used up the two closest neighbours
 * become the upper one: quantiles only ever grow by that. */
struct route_hist {
    uint32_t n;
    struct route_bucket b[ROUTE_HIST_SLOTS];
};

struct route_row {
    char job[ROUTE_JOB_CAP];
    char class_id[ROUTE_CLASS_CAP];
    char origin[ROUTE_NODE_CAP];
    uint32_t revision;
    struct route_features features;

    uint64_t runs; /* attempts that the origin has seen end, ever */
    uint64_t oom;  /* of them: killed for memory */
    uint64_t tick; /* the job's clock when the sums were last aged */

    /* Service time: y = ln(seconds from exec to exit) less the node's health. Weights halve every
     * 346 ticks (0.998 per run), here and below except in the histograms. */
    double n, sum, square; /* of w, w y, w y^2 */
    /* All attempts that were measured to their end: */
    float weight;
    float cpu_s;                   /* processor seconds */
    float read_bytes, write_bytes; /* block I/O */
    float io_ops;                  /* both directions */
    float cache_weight;            /* attempts with cache readings */
    float cache_mean, cache_max;   /* last level cache bytes held */
    float bandwidth;               /* memory bandwidth bytes */
    /* Of runs with both a learned time and cache readings: x is log2 of the MiB held in the mean, y
     * as above. Their slope is how much the job gains by cache: size.h. */
    double cache_n, cache_x, cache_y, cache_xx, cache_xy;
    float margin;             /* memory margin, tuned by what was killed: size.h */
    uint64_t margin_tick;     /* when it was last lowered */
    struct route_hist memory; /* need of memory; weights halve every 200 ticks */
    struct route_hist cores;  /* processors used: cpu / elapsed; the same */
};

enum route_outcome {
    ROUTE_OUTCOME_OK,     /* exit 0 */
    ROUTE_OUTCOME_FAILED, /* any other end of its own: counted, its time is not learned */
    ROUTE_OUTCOME_OOM,    /* killed for memory: it needs at least its limit */
    ROUTE_OUTCOME_CUT,    /* cancelled, timed out, lost: says nothing but that it ran */
};

/* One attempt that ended. */
struct route_observation {
    enum route_outcome outcome;
    bool throttled;             /* a CPU quota held it back: its time is not learned */
    uint64_t elapsed_us;        /* exec to exit */
    uint64_t cpu_us;            /* user and system */
    uint64_t memory_need_bytes; /* route_memory_need(); 0: not measured */
    uint64_t memory_limit_bytes;
    uint64_t read_bytes, write_bytes, io_ops;
    bool has_cache;
    uint64_t cache_mean_bytes, cache_max_bytes, bandwidth_bytes;
};

/* ---- keys ---- */

/* "REVISION/CLASS/ORIGIN/JOB" into key, which holds ROUTE_KEY_MAX; its length. */
size_t route_row_key(const struct route_row *r, char key[ROUTE_KEY_MAX]);
/* Fills job, class_id, origin and revision. -EINVAL when it is no such key. */
int route_row_key_parse(struct str key, struct route_row *ret);

/* ---- sums ---- */

/* Ages the sums to the given tick of the job's clock; a tick before the row's changes nothing. */
void route_row_age(struct route_row *r, uint64_t tick);
/* Adds one attempt, at the tick that it makes. expected and slack: its y is held within
 * expected +- slack (slack 0: no expectation yet); health is taken off y. The row is aged first. */
void route_row_add(struct route_row *r, const struct route_observation *o, uint64_t tick,
                   double expected, double slack, double health);
/* ln of the seconds, held within what an attempt can take (1 us to 115 days). */
double route_observed_y(uint64_t elapsed_us);
/* Is the time of such an attempt learned? */
bool route_observed_time(const struct route_observation *o);

/* ---- bytes ---- */

/* Appends the value (without the key): version 1, little endian, ROUTE_VALUE_MAX at most. */
void route_row_encode(const struct route_row *r, struct buf *out);
/* Reads a value into *ret, whose key fields stay as they are. -EINVAL, untouched: another version,
 * cut, trailing bytes, not finite, or numbers that cannot be sums of measurements. */
int route_row_decode(struct str value, struct route_row *ret, struct err *e);

/* ---- histograms ---- */

uint16_t route_memory_bucket(uint64_t bytes);
uint64_t route_memory_bucket_top(uint16_t bucket); /* bytes: its upper edge */
uint16_t route_cores_bucket(uint64_t milli);
uint64_t route_cores_bucket_top(uint16_t bucket); /* thousandths of a processor */
void route_hist_add(struct route_hist *h, uint16_t bucket, float weight);
void route_hist_scale(struct route_hist *h, double factor); /* drops what fell below 2^-20 */
/* The sum of sparse ones: dense, in order. */
struct route_dense {
    double total;
    double w[ROUTE_MEMORY_BUCKETS];
};
void route_dense_add(struct route_dense *d, const struct route_hist *h, double factor);
/* The smallest bucket that leaves at most (1 - q) of the weight above it; 0 when empty. */
uint16_t route_dense_quantile(const struct route_dense *d, double q);

/* Ticks' decay factors: 2^-(ticks/346) and 2^-(ticks/200), never below 1/32 in one step. */
double route_decay(uint64_t ticks);
double route_decay_hist(uint64_t ticks);

#endif
