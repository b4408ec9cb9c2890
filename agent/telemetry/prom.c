/*
 * prom - Prometheus' text format (version 0.0.4), and the container_* families of live runs.
 */
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "agent/telemetry/telemetry.h"
#include "common/insist.h"
#include "common/mem.h"

void telemetry_prom_family(struct buf *out, const char *name, enum telemetry_prom_type type,
                           const char *help)
{
    static const char *const types[] = { "counter", "gauge", "histogram" };

    REQUIRE((unsigned)type < ARRAY_LEN(types));
    (void)buf_addf(out, "# HELP %s ", name);
    for (const char *p = help; *p != '\0'; p++) {
        if (*p == '\\' || *p == '\n') {
            (void)buf_adds(out, *p == '\\' ? "\\\\" : "\\n");
        } else {
            (void)buf_addc(out, *p);
        }
    }
    (void)buf_addf(out, "\n# TYPE %s %s\n", name, types[type]);
}

/* Length of the UTF-8 sequence at the start of s; 0 when it is not valid. */
static size_t utf8_len(struct str s)
{
    uint8_t c = (uint8_t)s.p[0];
    size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;

    return n <= s.n && c != 0 && str_is_utf8(str_slice(s, 0, n)) ? n : 0;
}

static void add_value(struct buf *out, struct str v)
{
    for (size_t i = 0; i < v.n;) {
        size_t n = utf8_len(str_slice(v, i, v.n));
        if (n == 0) {
            (void)buf_addc(out, '?');
        } else if (v.p[i] == '\\' || v.p[i] == '"') {
            (void)buf_addc(out, '\\');
            (void)buf_addc(out, v.p[i]);
        } else if (v.p[i] == '\n') {
            (void)buf_adds(out, "\\n");
        } else {
            (void)buf_add(out, v.p + i, n);
        }
        i += n == 0 ? 1 : n;
    }
}

static void add_series(struct buf *out, const char *name, const struct telemetry_label *labels,
                       size_t nlabels)
{
    (void)buf_adds(out, name);
    for (size_t i = 0; i < nlabels; i++) {
        (void)buf_addf(out, "%c%s=\"", i == 0 ? '{' : ',', labels[i].name);
        add_value(out, labels[i].value);
        (void)buf_addc(out, '"');
    }
    (void)buf_adds(out, nlabels > 0 ? "} " : " ");
}

void telemetry_prom_u64(struct buf *out, const char *name, const struct telemetry_label *labels,
                        size_t nlabels, uint64_t v)
{
    add_series(out, name, labels, nlabels);
    (void)buf_addf(out, "%llu\n", (unsigned long long)v);
}

void telemetry_prom_real(struct buf *out, const char *name, const struct telemetry_label *labels,
                         size_t nlabels, double v)
{
    add_series(out, name, labels, nlabels);
    if (isnan(v)) {
        (void)buf_adds(out, "NaN\n");
    } else if (isinf(v)) {
        (void)buf_adds(out, v > 0 ? "+Inf\n" : "-Inf\n");
    } else {
        (void)buf_addf(out, "%.15g\n", v);
    }
}

void telemetry_prom_seconds(struct buf *out, const char *name, const struct telemetry_label *labels,
                            size_t nlabels, uint64_t v_us)
{
    char text[40];
    int n = snprintf(text, sizeof(text), "%llu.%06u", (unsigned long long)(v_us / 1000000),
                     (unsigned)(v_us % 1000000));

    INSIST(n > 7 && (size_t)n < sizeof(text));
    while (text[n - 1] == '0') {
        text[--n] = '\0';
    }
    if (text[n - 1] == '.') {
        text[--n] = '\0';
    }
    add_series(out, name, labels, nlabels);
    (void)buf_addf(out, "%s\n", text);
}

/* ---- live runs ------------------------------------------------------------------------------ */

struct live_sum {
    struct str job;
    uint64_t cpu_us, cpu_user_us, cpu_system_us, throttled_us, nr_throttled;
    uint64_t mem, working_set, peak, limit, oom_kills;
    uint64_t read_bytes, write_bytes, read_ops, write_ops;
    uint64_t rx_bytes, tx_bytes;
    uint64_t cache, bandwidth;
    uint64_t pids, start_us;
    uint32_t rdt;
};

static const struct {
    const char *name;
    enum telemetry_prom_type type;
    bool seconds; /* the field is in microseconds */
    size_t offset;
    const char *help;
    uint32_t rdt; /* only where that is measured: TELEMETRY_HAS_LLC, TELEMETRY_HAS_MBM */
} live_families[] = {
#define LIVE(name, type, seconds, field, help) \
    { \
        "container_" name, type, seconds, offsetof(struct live_sum, field), help, 0 \
    }
    LIVE("cpu_usage_seconds_total", TELEMETRY_COUNTER, true, cpu_us,
         "CPU time of a job's live runs."),
    LIVE("cpu_user_seconds_total", TELEMETRY_COUNTER, true, cpu_user_us,
         "User CPU time of a job's live runs."),
    LIVE("cpu_system_seconds_total", TELEMETRY_COUNTER, true, cpu_system_us,
         "System CPU time of a job's live runs."),
    LIVE("cpu_cfs_throttled_seconds_total", TELEMETRY_COUNTER, true, throttled_us,
         "Time that a job's live runs were held back by their CPU quota."),
    LIVE("cpu_cfs_throttled_periods_total", TELEMETRY_COUNTER, false, nr_throttled,
         "Periods in which a job's live runs were held back."),
    LIVE("memory_usage_bytes", TELEMETRY_GAUGE, false, mem,
         "Memory of a job's live runs, page cache too."),
    LIVE("memory_working_set_bytes", TELEMETRY_GAUGE, false, working_set,
         "Memory of a job's live runs that cannot be dropped: anonymous, shared and kernel."),
    LIVE("memory_max_usage_bytes", TELEMETRY_GAUGE, false, peak,
         "Sum of the memory peaks of a job's live runs."),
    LIVE("spec_memory_limit_bytes", TELEMETRY_GAUGE, false, limit,
         "Sum of the memory limits of a job's live runs."),
    LIVE("oom_events_total", TELEMETRY_COUNTER, false, oom_kills,
         "Processes of a job's live runs that were killed for want of memory."),
    LIVE("fs_reads_bytes_total", TELEMETRY_COUNTER, false, read_bytes,
         "Bytes that a job's live runs read from block devices."),
    LIVE("fs_writes_bytes_total", TELEMETRY_COUNTER, false, write_bytes,
         "Bytes that a job's live runs wrote to block devices."),
    LIVE("fs_reads_total", TELEMETRY_COUNTER, false, read_ops,
         "Reads of block devices by a job's live runs."),
    LIVE("fs_writes_total", TELEMETRY_COUNTER, false, write_ops,
         "Writes to block devices by a job's live runs."),
    LIVE("network_receive_bytes_total", TELEMETRY_COUNTER, false, rx_bytes,
         "Bytes that a job's live runs received from the network."),
    LIVE("network_transmit_bytes_total", TELEMETRY_COUNTER, false, tx_bytes,
         "Bytes that a job's live runs sent to the network."),
    LIVE("processes", TELEMETRY_GAUGE, false, pids, "Processes and threads of a job's live runs."),
    LIVE("start_time_seconds", TELEMETRY_GAUGE, true, start_us,
         "UNIX time at which the oldest live run of a job started."),
#undef LIVE
    { "container_llc_occupancy_bytes", TELEMETRY_GAUGE, false, offsetof(struct live_sum, cache),
      "Last level cache that a job's live runs hold.", TELEMETRY_HAS_LLC },
    { "container_memory_bandwidth_bytes_total", TELEMETRY_COUNTER, false,
      offsetof(struct live_sum, bandwidth),
      "Bytes that a job's live runs moved to and from memory.", TELEMETRY_HAS_MBM },
};

static void live_add(struct live_sum *s, const struct telemetry_live *l)
{
    uint64_t start = l->start_wall_us > 0 ? (uint64_t)l->start_wall_us : 0;

    s->cpu_us += l->now.cpu_total_us;
    s->cpu_user_us += l->now.cpu_user_us;
    s->cpu_system_us += l->now.cpu_system_us;
    s->throttled_us += l->now.throttled_us;
    s->nr_throttled += l->now.nr_throttled;
    s->mem += l->now.mem_bytes;
    s->working_set += l->now.mem_anon + l->now.mem_shmem + l->now.mem_kernel;
    s->peak += l->mem_peak_bytes;
    s->limit += l->mem_limit_bytes;
    s->oom_kills += l->oom_kills;
    s->read_bytes += l->now.io_read_bytes;
    s->write_bytes += l->now.io_write_bytes;
    s->read_ops += l->now.io_read_ops;
    s->write_ops += l->now.io_write_ops;
    s->rx_bytes += l->now.net_rx_bytes;
    s->tx_bytes += l->now.net_tx_bytes;
    s->pids += l->now.pids;
    s->cache += l->now.llc_bytes;
    s->bandwidth += l->now.mbm_bytes;
    s->rdt |= l->now.rdt;
    s->start_us = s->start_us == 0 || start < s->start_us ? start : s->start_us;
}

/* The job's sum; a new one while there is room for a name; else the last slot, "other". */
static struct live_sum *live_find(struct live_sum *sums, size_t *n, size_t max, struct str job)
{
    for (size_t i = 0; i < *n; i++) {
        if (str_eq(sums[i].job, job)) {
            return &sums[i];
        }
    }
    if (*n < max) {
        sums[*n].job = job;
        return &sums[(*n)++];
    }
    sums[max].job = STR("other");
    return &sums[max];
}

/* A family that no run of any job has figures for is left out. */
static bool family_shown(const struct live_sum *sums, size_t n, uint32_t rdt)
{
    bool shown = rdt == 0;

    for (size_t i = 0; i < n && !shown; i++) {
        shown = (sums[i].rdt & rdt) != 0;
    }
    return shown;
}

int telemetry_prom_live(struct buf *out, const struct telemetry_live *runs, size_t n,
                        uint32_t jobs_max)
{
    size_t max = n < jobs_max ? n : jobs_max;
    size_t used = 0;
    AUTO_MEM struct live_sum *sums = mem_calloc(max + 1, sizeof(*sums));

    if (sums == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        live_add(live_find(sums, &used, max, runs[i].job), &runs[i]);
    }
    if (sums[max].job.n > 0) {
        used = max + 1;
    }
    for (size_t f = 0; used > 0 && f < ARRAY_LEN(live_families); f++) {
        const char *name = live_families[f].name;
        if (!family_shown(sums, used, live_families[f].rdt)) {
            continue;
        }
        telemetry_prom_family(out, name, live_families[f].type, live_families[f].help);
        for (size_t i = 0; i < used; i++) {
            const struct telemetry_label label = { "job", sums[i].job };
            uint64_t v = 0;
            if ((live_families[f].rdt & ~sums[i].rdt) != 0) {
                continue;
            }
            memcpy(&v, (const char *)&sums[i] + live_families[f].offset, sizeof(v));
            if (live_families[f].seconds) {
                telemetry_prom_seconds(out, name, &label, 1, v);
            } else {
                telemetry_prom_u64(out, name, &label, 1, v);
            }
        }
    }
    return buf_error(out);
}
