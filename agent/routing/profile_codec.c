#include <errno.h>
#include <math.h>
#include <string.h>

#include "agent/routing/profile.h"
#include "common/cur.h"

/* The value, little endian:
 *   u8 version = 2, u8 feature bits, f32 llc_mib, f32 ghz,
 *   u64 runs, u64 oom, u64 tick, f64 n, f64 sum, f64 square,
 *   f32 weight, cpu_s, read, write, ops, cache_weight, cache_mean, cache_max, bandwidth, margin,
 *   u64 margin_tick, f64 cache_n, cache_x, cache_y, cache_xx, cache_xy (not in version 1),
 *   2 histograms (memory, cores): u8 count, then count times u16 bucket, f32 weight; ascending. */
enum { VERSION = 2, VERSION_OLD = 1, FEATURE_BITS_ALL = 15 };

/* 1 / (1 - 0.998) is 500; a little room for roundings. */
static const double weight_max = 520;
static const double y_max = 31; /* |ln| of 1e13 s and more */
static const uint64_t count_max = 1ULL << 48;

static void add_f32(struct buf *out, float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof bits);
    (void)buf_add_le32(out, bits);
}

static void add_f64(struct buf *out, double v)
{
    uint64_t bits;

    memcpy(&bits, &v, sizeof bits);
    (void)buf_add_le64(out, bits);
}

static void add_hist(struct buf *out, const struct route_hist *h)
{
    (void)buf_add_u8(out, (uint8_t)h->n);
    for (uint32_t i = 0; i < h->n; i++) {
        (void)buf_add_le16(out, h->b[i].bucket);
        add_f32(out, h->b[i].weight);
    }
}

void route_row_encode(const struct route_row *r, struct buf *out)
{
    (void)buf_add_u8(out, VERSION);
    (void)buf_add_u8(out, r->features.bits);
    add_f32(out, r->features.llc_mib);
    add_f32(out, r->features.ghz);
    (void)buf_add_le64(out, r->runs);
    (void)buf_add_le64(out, r->oom);
    (void)buf_add_le64(out, r->tick);
    add_f64(out, r->n);
    add_f64(out, r->sum);
    add_f64(out, r->square);
    const float rest[] = {
        r->weight,       r->cpu_s,      r->read_bytes, r->write_bytes, r->io_ops,
        r->cache_weight, r->cache_mean, r->cache_max,  r->bandwidth,   r->margin
    };
    for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++) {
        add_f32(out, rest[i]);
    }
    (void)buf_add_le64(out, r->margin_tick);
    add_f64(out, r->cache_n);
    add_f64(out, r->cache_x);
    add_f64(out, r->cache_y);
    add_f64(out, r->cache_xx);
    add_f64(out, r->cache_xy);
    add_hist(out, &r->memory);
    add_hist(out, &r->cores);
}

/* Outside numbers: anything odd fails the cursor. */
static double get_f64(struct cur *c, double low, double high)
{
    uint64_t bits = cur_le64(c);
    double v;

    memcpy(&v, &bits, sizeof v);
    if (!isfinite(v) || v < low || v > high) {
        c->failed = true;
        return 0;
    }
    return v;
}

static float get_f32(struct cur *c, double low, double high)
{
    uint32_t bits = cur_le32(c);
    float v;

    memcpy(&v, &bits, sizeof v);
    if (!isfinite(v) || (double)v < low || (double)v > high) {
        c->failed = true;
        return 0;
    }
    return v;
}

static uint64_t get_count(struct cur *c, uint64_t high)
{
    uint64_t v = cur_le64(c);

    if (v > high) {
        c->failed = true;
        return 0;
    }
    return v;
}

static void get_hist(struct cur *c, unsigned buckets, struct route_hist *ret)
{
    unsigned least = 0;

    ret->n = cur_u8(c);
    if (ret->n > ROUTE_HIST_SLOTS) {
        c->failed = true;
        ret->n = 0;
    }
    for (uint32_t i = 0; i < ret->n; i++) {
        unsigned bucket = cur_le16(c);
        float w = get_f32(c, 0, weight_max);
        if (bucket < least || bucket >= buckets) {
            c->failed = true;
            return;
        }
        least = bucket + 1;
        ret->b[i] = (struct route_bucket){ (uint16_t)bucket, w };
    }
}

static void get_rest(struct cur *c, struct route_row *r)
{
    static const double byte_sum_max = 520 * 1e15;

    r->weight = get_f32(c, 0, weight_max);
    r->cpu_s = get_f32(c, 0, 520 * 1e8);
    r->read_bytes = get_f32(c, 0, byte_sum_max);
    r->write_bytes = get_f32(c, 0, byte_sum_max);
    r->io_ops = get_f32(c, 0, byte_sum_max);
    r->cache_weight = get_f32(c, 0, weight_max);
    r->cache_mean = get_f32(c, 0, byte_sum_max);
    r->cache_max = get_f32(c, 0, byte_sum_max);
    r->bandwidth = get_f32(c, 0, byte_sum_max);
    r->margin = get_f32(c, 0, 0.5001);
    r->margin_tick = get_count(c, count_max);
}

/* |x| is at most 20: 2^20 MiB. */
static void get_cache_line(struct cur *c, struct route_row *r)
{
    static const double x_max = 20;

    r->cache_n = get_f64(c, 0, weight_max);
    r->cache_x = get_f64(c, -weight_max * x_max, weight_max * x_max);
    r->cache_y = get_f64(c, -weight_max * y_max, weight_max * y_max);
    r->cache_xx = get_f64(c, 0, weight_max * x_max * x_max);
    r->cache_xy = get_f64(c, -weight_max * x_max * y_max, weight_max * x_max * y_max);
    /* Cauchy-Schwarz: no sums of n points otherwise. */
    double slack = 1e-6 * (1 + r->cache_n) * x_max * x_max;
    if (r->cache_x * r->cache_x > r->cache_n * r->cache_xx + slack) {
        c->failed = true;
    }
}

/* Can these be n weights, their y's sum and their squares' sum? (Cauchy-Schwarz, with roundings.)
 */
static bool sums_hold(const struct route_row *r)
{
    double slack = 1e-6 * (1 + r->n) * y_max * y_max;

    return fabs(r->sum) <= r->n * y_max + 1e-6 && r->square <= r->n * y_max * y_max + 1e-6 &&
           r->sum * r->sum <= r->n * r->square + slack;
}

int route_row_decode(struct str value, struct route_row *ret, struct err *e)
{
    struct route_row r = *ret;
    struct cur c;

    if (value.n > ROUTE_VALUE_MAX) {
        return err_say(e, -EINVAL, "a profile row has at most %d bytes", ROUTE_VALUE_MAX);
    }
    cur_init(&c, value.p, value.n);
    uint8_t version = cur_u8(&c);
    if (version != VERSION && version != VERSION_OLD) {
        return err_say(e, -EINVAL, "a profile row of another version");
    }
    r.features.bits = cur_u8(&c);
    r.features.llc_mib = get_f32(&c, 0, 1 << 20);
    r.features.ghz = get_f32(&c, 0, 1000);
    r.runs = get_count(&c, count_max);
    r.oom = get_count(&c, r.runs);
    r.tick = get_count(&c, count_max);
    r.n = get_f64(&c, 0, weight_max);
    r.sum = get_f64(&c, -weight_max * y_max, weight_max * y_max);
    r.square = get_f64(&c, 0, weight_max * y_max * y_max);
    get_rest(&c, &r);
    r.cache_n = r.cache_x = r.cache_y = r.cache_xx = r.cache_xy = 0;
    if (version == VERSION) {
        get_cache_line(&c, &r);
    }
    get_hist(&c, ROUTE_MEMORY_BUCKETS, &r.memory);
    get_hist(&c, ROUTE_CORES_BUCKETS, &r.cores);
    if (!cur_done(&c) || r.features.bits > FEATURE_BITS_ALL || !sums_hold(&r)) {
        return err_say(e, -EINVAL, "a profile row that is no sum of measurements");
    }
    *ret = r;
    return 0;
}

static char *put(char *p, struct str s)
{
    memcpy(p, s.p, s.n);
    return p + s.n;
}

size_t route_row_key(const struct route_row *r, char key[ROUTE_KEY_MAX])
{
    char digits[10];
    size_t n = 0;
    char *p = key;

    for (uint32_t v = r->revision; n == 0 || v != 0; v /= 10) {
        digits[n++] = (char)('0' + v % 10);
    }
    while (n > 0) {
        *p++ = digits[--n];
    }
    *p++ = '/';
    p = put(p, str_of(r->class_id));
    *p++ = '/';
    p = put(p, str_of(r->origin));
    *p++ = '/';
    p = put(p, str_of(r->job));
    *p = '\0';
    return (size_t)(p - key);
}

int route_row_key_parse(struct str key, struct route_row *ret)
{
    struct route_row r = { .revision = 0 };
    struct str revision;
    struct str class_id;
    struct str origin;
    uint64_t number;

    if (key.n >= ROUTE_KEY_MAX || !str_split(&key, '/', &revision) ||
        !str_split(&key, '/', &class_id) || !str_split(&key, '/', &origin) || key.n == 0) {
        return -EINVAL;
    }
    if (str_u64_in(revision, 0, UINT32_MAX, &number) != 0 ||
        (revision.n > 1 && revision.p[0] == '0') || class_id.n == 0 || origin.n == 0 ||
        str_copy(r.class_id, sizeof r.class_id, class_id) != 0 ||
        str_copy(r.origin, sizeof r.origin, origin) != 0 ||
        str_copy(r.job, sizeof r.job, key) != 0) {
        return -EINVAL;
    }
    r.revision = (uint32_t)number;
    memcpy(ret->job, r.job, sizeof r.job);
    memcpy(ret->class_id, r.class_id, sizeof r.class_id);
    memcpy(ret->origin, r.origin, sizeof r.origin);
    ret->revision = r.revision;
    return 0;
}
