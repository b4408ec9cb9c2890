#include "agent/routing/profile.h"

#include "agent/routing/real.h"

/* An OOM kill widens the margin by this; every 500 runs without one narrow it. */
static const float margin_min = 0.10F;
static const float margin_max = 0.50F;
static const float margin_up = 0.05F;
static const float margin_down = 0.01F;
enum { MARGIN_WINDOW = 500 };

/* What one attempt may add at most, so that a counter gone wild stays a bounded lie. */
static const double cache_mib_min = 1.0 / 64;
static const double cache_mib_max = 1 << 20;
static const double cpu_s_max = 1e8;
static const double bytes_max = 1e15;

static double held(double x, double low, double high)
{
    if (!(x > low)) {
        return low; /* NaN too */
    }
    return x < high ? x : high;
}

double route_observed_y(uint64_t elapsed_us)
{
    return route_ln(held((double)elapsed_us, 1, 1e13) / 1e6);
}

bool route_observed_time(const struct route_observation *o)
{
    return o->outcome == ROUTE_OUTCOME_OK && !o->throttled && o->elapsed_us > 0;
}

void route_row_age(struct route_row *r, uint64_t tick)
{
    if (tick <= r->tick) {
        return;
    }
    double f = route_decay(tick - r->tick);
    float ff = (float)f;
    r->n *= f;
    r->sum *= f;
    r->square *= f;
    r->weight *= ff;
    r->cpu_s *= ff;
    r->read_bytes *= ff;
    r->write_bytes *= ff;
    r->io_ops *= ff;
    r->cache_weight *= ff;
    r->cache_mean *= ff;
    r->cache_max *= ff;
    r->bandwidth *= ff;
    r->cache_n *= f;
    r->cache_x *= f;
    r->cache_y *= f;
    r->cache_xx *= f;
    r->cache_xy *= f;
    double fh = route_decay_hist(tick - r->tick);
    route_hist_scale(&r->memory, fh);
    route_hist_scale(&r->cores, fh);
    r->tick = tick;
}

static void margin_tune(struct route_row *r, bool killed, uint64_t tick)
{
    if (r->margin <= 0) {
        r->margin = (float)ROUTE_MARGIN_FIRST;
        r->margin_tick = tick;
    }
    if (killed) {
        r->margin += margin_up;
        r->margin_tick = tick;
    } else if (tick >= r->margin_tick && tick - r->margin_tick >= MARGIN_WINDOW) {
        r->margin -= margin_down;
        r->margin_tick = tick;
    }
    r->margin = (float)held((double)r->margin, (double)margin_min, (double)margin_max);
}

/* One point of the line "time over cache held". */
static void add_cache_point(struct route_row *r, const struct route_observation *o, double y)
{
    if (!o->has_cache) {
        return;
    }
    double mib = held((double)o->cache_mean_bytes / 1048576, cache_mib_min, cache_mib_max);
    double x = route_ln(mib) / route_ln(2);
    r->cache_n += 1;
    r->cache_x += x;
    r->cache_y += y;
    r->cache_xx += x * x;
    r->cache_xy += x * y;
}

static void add_usage(struct route_row *r, const struct route_observation *o)
{
    r->weight += 1;
    r->cpu_s += (float)held((double)o->cpu_us / 1e6, 0, cpu_s_max);
    r->read_bytes += (float)held((double)o->read_bytes, 0, bytes_max);
    r->write_bytes += (float)held((double)o->write_bytes, 0, bytes_max);
    r->io_ops += (float)held((double)o->io_ops, 0, bytes_max);
    if (o->has_cache) {
        r->cache_weight += 1;
        r->cache_mean += (float)held((double)o->cache_mean_bytes, 0, bytes_max);
        r->cache_max += (float)held((double)o->cache_max_bytes, 0, bytes_max);
        r->bandwidth += (float)held((double)o->bandwidth_bytes, 0, bytes_max);
    }
    if (o->elapsed_us > 0) {
        double milli = held((double)o->cpu_us * 1000 / (double)o->elapsed_us, 0, 1e6);
        route_hist_add(&r->cores, route_cores_bucket((uint64_t)milli), 1);
    }
    if (o->memory_need_bytes > 0) {
        route_hist_add(&r->memory, route_memory_bucket(o->memory_need_bytes), 1);
    }
}

void route_row_add(struct route_row *r, const struct route_observation *o, uint64_t tick,
                   double expected, double slack, double health)
{
    route_row_age(r, tick);
    r->runs++;
    margin_tune(r, o->outcome == ROUTE_OUTCOME_OOM, tick);
    switch (o->outcome) {
    case ROUTE_OUTCOME_OK:
    case ROUTE_OUTCOME_FAILED:
        add_usage(r, o);
        break;
    case ROUTE_OUTCOME_OOM:
        r->oom++;
        if (o->memory_limit_bytes > 0) {
            /* It needs more than this; how much more the next try tells. */
            route_hist_add(&r->memory,
                           route_memory_bucket(o->memory_limit_bytes + o->memory_limit_bytes / 20),
                           1);
        }
        break;
    case ROUTE_OUTCOME_CUT:
        break;
    }
    if (route_observed_time(o)) {
        double y = route_observed_y(o->elapsed_us) - health;
        if (slack > 0) {
            y = held(y, expected - slack, expected + slack);
        }
        r->n += 1;
        r->sum += y;
        r->square += y * y;
        add_cache_point(r, o, y);
    }
}
