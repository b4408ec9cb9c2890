/*
 * meter - what one run used, out of the counters of a cgroup that others used before it.
 */
#include <errno.h>

#include "agent/telemetry/telemetry.h"
#include "common/insist.h"
#include "common/mem.h"

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t sat_add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* A counter that went back was reset or its group made anew: what it shows now is all ours. */
static uint64_t counted(uint64_t base, uint64_t now)
{
    return now >= base ? now - base : now;
}

void telemetry_delta(const struct telemetry_reading *base, const struct telemetry_reading *now,
                     struct telemetry_reading *ret)
{
    struct telemetry_reading d = *now;

    d.has = base->has & now->has;
    d.cpu_total_us = counted(base->cpu_total_us, now->cpu_total_us);
    d.cpu_user_us = counted(base->cpu_user_us, now->cpu_user_us);
    d.cpu_system_us = counted(base->cpu_system_us, now->cpu_system_us);
    d.throttled_us = counted(base->throttled_us, now->throttled_us);
    d.nr_throttled = counted(base->nr_throttled, now->nr_throttled);
    d.faults_minor = counted(base->faults_minor, now->faults_minor);
    d.faults_major = counted(base->faults_major, now->faults_major);
    d.oom_kills = counted(base->oom_kills, now->oom_kills);
    d.io_read_bytes = counted(base->io_read_bytes, now->io_read_bytes);
    d.io_write_bytes = counted(base->io_write_bytes, now->io_write_bytes);
    d.io_read_ops = counted(base->io_read_ops, now->io_read_ops);
    d.io_write_ops = counted(base->io_write_ops, now->io_write_ops);
    d.net_rx_bytes = counted(base->net_rx_bytes, now->net_rx_bytes);
    d.net_tx_bytes = counted(base->net_tx_bytes, now->net_tx_bytes);
    d.net_rx_packets = counted(base->net_rx_packets, now->net_rx_packets);
    d.net_tx_packets = counted(base->net_tx_packets, now->net_tx_packets);
    d.mbm_bytes = counted(base->mbm_bytes, now->mbm_bytes);
    d.psi_cpu_us = counted(base->psi_cpu_us, now->psi_cpu_us);
    d.psi_memory_us = counted(base->psi_memory_us, now->psi_memory_us);
    d.psi_io_us = counted(base->psi_io_us, now->psi_io_us);
    *ret = d;
}

void telemetry_meter_init(struct telemetry_meter *m, const struct telemetry_reading *base,
                          int64_t start_wall_us, bool peak_was_reset)
{
    *m = (struct telemetry_meter){ 0 };
    if (base != NULL) {
        m->base = *base;
    } else {
        m->base.has = UINT32_MAX; /* a fresh group: zero is known of everything */
    }
    m->start_wall_us = start_wall_us;
    m->peak_reset = peak_was_reset;
}

/* What the run holds: the group's memory without what was there before it, but never less than what
 * cannot be reclaimed. */
static uint64_t own_memory(const struct telemetry_meter *m, const struct telemetry_reading *now,
                           uint64_t fixed)
{
    uint64_t left = now->mem_bytes > m->base.mem_bytes ? now->mem_bytes - m->base.mem_bytes : 0;

    return max_u64(left, fixed < now->mem_bytes ? fixed : now->mem_bytes);
}

/* Anonymous, shared and kernel memory beyond what the group held before. */
static uint64_t fixed_memory(const struct telemetry_meter *m, const struct telemetry_reading *now)
{
    uint64_t here = sat_add(sat_add(now->mem_anon, now->mem_shmem), now->mem_kernel);
    uint64_t before = sat_add(sat_add(m->base.mem_anon, m->base.mem_shmem), m->base.mem_kernel);

    here = here > before ? here - before : 0;
    return here < INT64_MAX ? here : INT64_MAX; /* JSON's integers end there */
}

static void sample_fill(const struct telemetry_meter *m, const struct telemetry_reading *now,
                        uint64_t at_us, struct telemetry_sample *s)
{
    struct telemetry_reading d;

    telemetry_delta(&m->base, now, &d);
    *s = m->last; /* what could not be read this time stays */
    s->at_us = max_u64(at_us, m->last.at_us);
    s->wall_us = m->start_wall_us;
    if (s->at_us < (uint64_t)(INT64_MAX / 2) && m->start_wall_us < INT64_MAX / 2) {
        s->wall_us += (int64_t)s->at_us;
    }
    if ((d.has & TELEMETRY_HAS_CPU) != 0) {
        s->cpu_total_us = max_u64(d.cpu_total_us, m->last.cpu_total_us);
    }
    if ((d.has & TELEMETRY_HAS_CPU_SPLIT) != 0) {
        s->cpu_user_us = max_u64(d.cpu_user_us, m->last.cpu_user_us);
        s->cpu_system_us = max_u64(d.cpu_system_us, m->last.cpu_system_us);
    }
    if ((d.has & TELEMETRY_HAS_THROTTLE) != 0) {
        s->throttled_us = max_u64(d.throttled_us, m->last.throttled_us);
        s->nr_throttled = max_u64(d.nr_throttled, m->last.nr_throttled);
    }
    if ((d.has & TELEMETRY_HAS_IO) != 0) {
        s->io_read_bytes = max_u64(d.io_read_bytes, m->last.io_read_bytes);
        s->io_write_bytes = max_u64(d.io_write_bytes, m->last.io_write_bytes);
        s->io_read_ops = max_u64(d.io_read_ops, m->last.io_read_ops);
        s->io_write_ops = max_u64(d.io_write_ops, m->last.io_write_ops);
    }
    if ((d.has & TELEMETRY_HAS_NET) != 0) {
        s->net_rx_bytes = max_u64(d.net_rx_bytes, m->last.net_rx_bytes);
        s->net_tx_bytes = max_u64(d.net_tx_bytes, m->last.net_tx_bytes);
    }
    if ((d.has & TELEMETRY_HAS_MBM) != 0) {
        s->mbm_bytes = max_u64(d.mbm_bytes, m->last.mbm_bytes);
        s->rdt |= TELEMETRY_HAS_MBM;
    }
    /* No base: what the cache holds is not a difference. */
    if ((now->has & TELEMETRY_HAS_LLC) != 0 && s->at_us >= TELEMETRY_RDT_SETTLE_US) {
        s->llc_bytes = now->llc_bytes;
        s->rdt |= TELEMETRY_HAS_LLC;
    }
    if ((now->has & TELEMETRY_HAS_MEMORY_STAT) != 0) {
        s->mem_anon = now->mem_anon;
        s->mem_file = now->mem_file;
        s->mem_kernel = now->mem_kernel;
        s->mem_shmem = now->mem_shmem;
    }
    if ((now->has & TELEMETRY_HAS_MEMORY) != 0) {
        s->mem_bytes = own_memory(m, now, fixed_memory(m, now));
    }
    if ((now->has & TELEMETRY_HAS_PIDS) != 0) {
        s->pids = now->pids;
    }
}

/* What the cache held, where this very reading says so. The first such reading has no time before
 * it: it counts for what follows it. */
static void llc_add(struct telemetry_meter *m, const struct telemetry_sample *s, uint64_t dt_us)
{
    m->has |= TELEMETRY_HAS_LLC;
    m->llc_max = max_u64(m->llc_max, s->llc_bytes);
    m->llc_us = sat_add(m->llc_us, dt_us);
    m->llc_kib_ms = s->llc_bytes >> 10 < UINT32_MAX
                        ? sat_add(m->llc_kib_ms, (s->llc_bytes >> 10) * dt_us / 1000)
                        : UINT64_MAX;
}

void telemetry_meter_add(struct telemetry_meter *m, const struct telemetry_reading *now,
                         uint64_t at_us, struct telemetry_sample *ret)
{
    struct telemetry_sample s;
    uint64_t dt_us = 0;

    sample_fill(m, now, at_us, &s);
    /* The memory seen now stands for the time since the last sample. KiB x us of one step fits; a
     * step is at most an hour. */
    dt_us = s.at_us - m->last.at_us;
    dt_us = dt_us < 3600000000ULL ? dt_us : 3600000000ULL;
    if (s.mem_bytes >> 10 < UINT32_MAX) {
        m->mem_kib_ms = sat_add(m->mem_kib_ms, (s.mem_bytes >> 10) * dt_us / 1000);
    } else {
        m->mem_kib_ms = UINT64_MAX;
    }
    m->has |= now->has & m->base.has & ~(uint32_t)TELEMETRY_HAS_LLC;
    if ((now->has & TELEMETRY_HAS_LLC) != 0 && s.at_us >= TELEMETRY_RDT_SETTLE_US) {
        llc_add(m, &s, dt_us);
    }
    if ((now->has & TELEMETRY_HAS_MEMORY) != 0) {
        m->mem_peak = max_u64(m->mem_peak, s.mem_bytes);
    }
    if ((now->has & TELEMETRY_HAS_MEMORY_STAT) != 0) {
        m->fixed_peak = max_u64(m->fixed_peak, fixed_memory(m, now));
    }
    m->pids_peak = max_u64(m->pids_peak, s.pids);
    m->samples++;
    m->last = s;
    if (ret != NULL) {
        *ret = s;
    }
}

static uint64_t llc_mean(const struct telemetry_meter *m)
{
    if (m->llc_us < 1000 || m->llc_kib_ms == UINT64_MAX) {
        return m->llc_max;
    }
    uint64_t mean = m->llc_kib_ms / (m->llc_us / 1000);
    mean = mean < UINT64_MAX >> 11 ? mean << 10 : m->llc_max;
    return mean < m->llc_max ? mean : m->llc_max;
}

static uint64_t mean_bytes(const struct telemetry_meter *m)
{
    uint64_t us = m->last.at_us;
    uint64_t mean = 0;

    if (us == 0 || m->mem_kib_ms == UINT64_MAX) {
        return m->last.mem_bytes;
    }
    if (m->mem_kib_ms <= UINT64_MAX / 1024000) {
        mean = m->mem_kib_ms * 1024000 / us;
    } else {
        mean = m->mem_kib_ms / (us / 1000 + 1) << 10;
    }
    return mean < m->mem_peak ? mean : m->mem_peak; /* rounding never shows a mean above the peak */
}

/* The kernel's mark is this run's own when it was reset before it, or has risen since. */
static void peak_fill(const struct telemetry_meter *m, const struct telemetry_reading *now,
                      struct telemetry_totals *t)
{
    bool ours = false;

    t->mem_peak_bytes = m->mem_peak;
    t->mem_peak_source =
        (m->has & TELEMETRY_HAS_MEMORY) != 0 ? TELEMETRY_PEAK_SAMPLED : TELEMETRY_PEAK_NONE;
    if (now == NULL || (now->has & TELEMETRY_HAS_PEAK) == 0) {
        return;
    }
    ours = m->peak_reset || ((m->base.has & TELEMETRY_HAS_PEAK) != 0 &&
                             now->mem_peak_bytes > m->base.mem_peak_bytes);
    if (ours) {
        uint64_t own =
            now->mem_peak_bytes > m->base.mem_bytes ? now->mem_peak_bytes - m->base.mem_bytes : 0;
        t->mem_peak_bytes = max_u64(own, m->mem_peak);
        t->mem_peak_source = TELEMETRY_PEAK_KERNEL;
    }
}

void telemetry_meter_end(const struct telemetry_meter *m, const struct telemetry_reading *now,
                         uint64_t at_us, struct telemetry_totals *ret)
{
    struct telemetry_meter end = *m;
    struct telemetry_totals t = { 0 };

    if (now != NULL) {
        struct telemetry_reading d;
        telemetry_meter_add(&end, now, at_us, NULL);
        telemetry_delta(&m->base, now, &d);
        t.oom_kills = (d.has & TELEMETRY_HAS_OOM) != 0 ? d.oom_kills : 0;
        t.faults_minor = (d.has & TELEMETRY_HAS_FAULTS) != 0 ? d.faults_minor : 0;
        t.faults_major = (d.has & TELEMETRY_HAS_FAULTS) != 0 ? d.faults_major : 0;
        t.psi_cpu_us = (d.has & TELEMETRY_HAS_PSI_CPU) != 0 ? d.psi_cpu_us : 0;
        t.psi_memory_us = (d.has & TELEMETRY_HAS_PSI_MEMORY) != 0 ? d.psi_memory_us : 0;
        t.net_rx_packets = (d.has & TELEMETRY_HAS_NET) != 0 ? d.net_rx_packets : 0;
        t.net_tx_packets = (d.has & TELEMETRY_HAS_NET) != 0 ? d.net_tx_packets : 0;
        t.psi_io_us = (d.has & TELEMETRY_HAS_PSI_IO) != 0 ? d.psi_io_us : 0;
    }
    t.has = end.has;
    t.elapsed_us = max_u64(at_us, end.last.at_us);
    t.cpu_total_us = end.last.cpu_total_us;
    t.cpu_user_us = end.last.cpu_user_us;
    t.cpu_system_us = end.last.cpu_system_us;
    t.throttled_us = end.last.throttled_us;
    t.nr_throttled = end.last.nr_throttled;
    t.io_read_bytes = end.last.io_read_bytes;
    t.io_write_bytes = end.last.io_write_bytes;
    t.io_read_ops = end.last.io_read_ops;
    t.io_write_ops = end.last.io_write_ops;
    t.net_rx_bytes = end.last.net_rx_bytes;
    t.net_tx_bytes = end.last.net_tx_bytes;
    t.mem_fixed_peak_bytes = end.fixed_peak;
    t.llc_mean_bytes = llc_mean(&end);
    t.llc_max_bytes = end.llc_max;
    t.mbm_bytes = end.last.mbm_bytes;
    t.mem_mean_bytes = mean_bytes(m->samples > 0 ? m : &end);
    t.pids_peak = end.pids_peak;
    t.samples = m->samples;
    peak_fill(&end, now, &t);
    *ret = t;
}

/* ---- series --------------------------------------------------------------------------------- */

void telemetry_series_init(struct telemetry_series *s, uint32_t max)
{
    *s = (struct telemetry_series){ 0 };
    s->max = max == 0 ? TELEMETRY_SERIES_MAX : max < 2 ? 2 : max;
    s->stride = 1;
}

void telemetry_series_release(struct telemetry_series *s)
{
    s->s = mem_free(s->s);
    telemetry_series_init(s, s->max);
}

/* Two neighbours as one: the later counters, the larger gauges. */
static void sample_join(struct telemetry_sample *a, const struct telemetry_sample *later)
{
    struct telemetry_sample j = *later;

    j.mem_bytes = max_u64(a->mem_bytes, later->mem_bytes);
    j.mem_anon = max_u64(a->mem_anon, later->mem_anon);
    j.mem_file = max_u64(a->mem_file, later->mem_file);
    j.mem_kernel = max_u64(a->mem_kernel, later->mem_kernel);
    j.mem_shmem = max_u64(a->mem_shmem, later->mem_shmem);
    j.pids = max_u64(a->pids, later->pids);
    j.llc_bytes = max_u64(a->llc_bytes, later->llc_bytes);
    j.rdt |= a->rdt;
    *a = j;
}

static void series_halve(struct telemetry_series *s)
{
    uint32_t kept = s->n / 2;
    bool odd = s->n % 2 != 0;

    for (uint32_t i = 0; i < kept; i++) {
        struct telemetry_sample a = s->s[2 * i];
        sample_join(&a, &s->s[2 * i + 1]);
        s->s[i] = a;
    }
    if (odd) {
        /* The last one waits for its partner: it is half of the next kept sample. */
        struct telemetry_sample a = s->s[s->n - 1];
        if (s->pending > 0) {
            sample_join(&a, &s->open);
        }
        s->open = a;
        s->pending += s->stride;
    }
    s->n = kept;
    s->stride *= 2;
}

/* Room for one more: grows, else joins pairs. */
static int series_room(struct telemetry_series *s)
{
    if (s->n < s->cap) {
        return 0;
    }
    if (s->cap < s->max) {
        uint32_t cap = s->cap == 0 ? 16 : s->cap * 2;
        cap = cap < s->max ? cap : s->max;
        struct telemetry_sample *p = mem_realloc(s->s, cap * sizeof(*p));
        if (p != NULL) {
            s->s = p;
            s->cap = cap;
            return 0;
        }
        if (s->cap < 2) {
            return -ENOMEM;
        }
    }
    INSIST(s->n >= 2);
    if (s->stride > UINT32_MAX / 4) {
        return -ENOBUFS;
    }
    series_halve(s);
    return 0;
}

int telemetry_series_add(struct telemetry_series *s, const struct telemetry_sample *sample)
{
    int r = 0;

    if (s->pending + 1 >= s->stride) {
        r = series_room(s);
        if (r != 0) {
            return r;
        }
    }
    if (s->pending == 0) {
        s->open = *sample;
    } else {
        sample_join(&s->open, sample);
    }
    s->pending++;
    if (s->pending >= s->stride) {
        s->s[s->n++] = s->open;
        s->pending = 0;
    }
    return 0;
}
