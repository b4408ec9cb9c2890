/*
 * telemetry - what a run used (samples, totals), and Prometheus text.
 *
 * The launcher opens a slot's cgroup files (telemetry_open) and passes the descriptors to the
 * unprivileged agent, which reads them (telemetry_read) for the life of the slot. Slots reuse their
 * cgroups, so what a run used is the difference between readings: a meter takes the reading before
 * the run as its base and turns later ones into samples and, at the end, totals.
 *
 *     telemetry_read(fds, TELEMETRY_ALL, &r);    before the run's first process
 *     telemetry_meter_init(&m, &r, wall_us, peak_was_reset);
 *     telemetry_read(fds, TELEMETRY_CHEAP, &r);  every telemetry.interval
 *     telemetry_meter_add(&m, &r, at_us, &sample); telemetry_series_add(&series, &sample);
 *     telemetry_read(fds, TELEMETRY_ALL, &r);    after its last process, before the slot's reuse
 *     telemetry_meter_end(&m, &r, at_us, &totals);
 *
 * Times are microseconds, sizes bytes. Pure but for sys_telemetry.c (telemetry_open,
 * telemetry_read, telemetry_peak_reset, telemetry_fds_close).
 */
#ifndef AGENT_TELEMETRY_H
#define AGENT_TELEMETRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"
#include "common/str.h"

/* ---- cgroup files --------------------------------------------------------------------------- */

/* A kind of file is a name and a format. Numbers are part of the launcher's messages: append only.
 */
enum telemetry_file {
    TELEMETRY_V2_CPU_STAT,
    TELEMETRY_V2_MEMORY_CURRENT,
    TELEMETRY_V2_MEMORY_PEAK,
    TELEMETRY_V2_MEMORY_STAT,
    TELEMETRY_V2_MEMORY_EVENTS,
    TELEMETRY_V2_IO_STAT,
    TELEMETRY_V1_CPU_STAT, /* throttling only */
    TELEMETRY_V1_CPUACCT_USAGE,
    TELEMETRY_V1_CPUACCT_STAT,
    TELEMETRY_V1_MEMORY_USAGE,
    TELEMETRY_V1_MEMORY_MAX_USAGE,
    TELEMETRY_V1_MEMORY_STAT,
    TELEMETRY_V1_MEMORY_OOM_CONTROL,
    TELEMETRY_V1_MEMORY_KMEM_USAGE,
    TELEMETRY_V1_IO_SERVICE_BYTES,
    TELEMETRY_V1_IO_SERVICED,
    TELEMETRY_PIDS_CURRENT, /* the same in both */
    TELEMETRY_CPU_PRESSURE, /* v2 groups only */
    TELEMETRY_MEMORY_PRESSURE,
    TELEMETRY_IO_PRESSURE,
    /* Of an interface, as the run sees it: what it received, what it sent. */
    TELEMETRY_NET_RX_BYTES,
    TELEMETRY_NET_TX_BYTES,
    TELEMETRY_NET_RX_PACKETS,
    TELEMETRY_NET_TX_PACKETS,
    /* Of the run's resctrl monitoring group, one file per cache domain: what it holds of the last
     * level cache, and the bytes that it moved to and from memory. */
    TELEMETRY_RDT_LLC,
    TELEMETRY_RDT_LLC_LAST = TELEMETRY_RDT_LLC + 7,
    TELEMETRY_RDT_MBM,
    TELEMETRY_RDT_MBM_LAST = TELEMETRY_RDT_MBM + 7,
    TELEMETRY_FILE_COUNT
};
/* More domains than that are not measured: a machine has one per socket, as a rule. */
enum { TELEMETRY_RDT_DOMAINS = 8, TELEMETRY_RDT_SETTLE_US = 200000 };

struct telemetry_fds {
    int fd[TELEMETRY_FILE_COUNT]; /* -1: not there */
};

/* Directories of one slot's cgroup: the v2 group, and the v1 groups by controller. -1 where there
 * is none; the same descriptor may stand in several places. A controller that has a v1 directory is
 * read there, else from v2. */
struct telemetry_dirs {
    int v2;
    int cpu, cpuacct, memory, blkio, pids;
};
#define TELEMETRY_DIRS_NONE ((struct telemetry_dirs){ -1, -1, -1, -1, -1, -1 })

/* ---- readings ------------------------------------------------------------------------------- */

/* Which parts of a reading were really read. */
enum telemetry_part {
    TELEMETRY_HAS_CPU = 1 << 0,
    TELEMETRY_HAS_CPU_SPLIT = 1 << 1, /* user and system */
    TELEMETRY_HAS_THROTTLE = 1 << 2,
    TELEMETRY_HAS_MEMORY = 1 << 3,
    TELEMETRY_HAS_MEMORY_STAT = 1 << 4,
    TELEMETRY_HAS_PEAK = 1 << 5,
    TELEMETRY_HAS_OOM = 1 << 6,
    TELEMETRY_HAS_IO = 1 << 7,
    TELEMETRY_HAS_PIDS = 1 << 8,
    TELEMETRY_HAS_PSI_CPU = 1 << 9,
    TELEMETRY_HAS_PSI_MEMORY = 1 << 10,
    TELEMETRY_HAS_PSI_IO = 1 << 11,
    TELEMETRY_HAS_FAULTS = 1 << 12,
    TELEMETRY_HAS_NET = 1 << 13,
    TELEMETRY_HAS_LLC = 1 << 14, /* cache occupancy, of every domain that was opened */
    TELEMETRY_HAS_MBM = 1 << 15  /* memory bandwidth, the same */
};

/* The kernel's counters as they stand, since the group was made. */
struct telemetry_reading {
    uint32_t has; /* enum telemetry_part bits */
    /* v1 counts user and system in ticks of 10 ms: their sum may pass the total by two of them. */
    uint64_t cpu_total_us, cpu_user_us, cpu_system_us;
    uint64_t throttled_us, nr_throttled;
    uint64_t mem_bytes; /* everything charged, page cache too */
    uint64_t mem_anon, mem_file, mem_kernel,
        mem_shmem; /* mem_file holds shmem, as the kernel counts */
    uint64_t mem_peak_bytes;
    uint64_t faults_minor, faults_major;
    uint64_t oom_kills;
    uint64_t io_read_bytes, io_write_bytes, io_read_ops, io_write_ops;
    uint64_t pids;
    uint64_t psi_cpu_us, psi_memory_us, psi_io_us; /* "some" total */
    uint64_t net_rx_bytes, net_tx_bytes, net_rx_packets, net_tx_packets;
    uint64_t llc_bytes; /* a gauge; sums over the domains */
    uint64_t mbm_bytes;
};

/* Reads one file's text into r; lines that are missing, unknown or garbage are passed over. 0, or
 * -ENODATA when nothing in it was understood (r is unchanged then). A file of a monitoring group
 * adds to what r has of other domains; "Unavailable", "Unassigned" and "Error" are not understood.
 */
int telemetry_parse(enum telemetry_file file, struct str text, struct telemetry_reading *r);
bool telemetry_file_rdt(enum telemetry_file file); /* a file of a monitoring group? */
/* The file's name inside its group ("memory.peak"). Static text. */
const char *telemetry_file_name(enum telemetry_file file);

/* Opens what is there, read-only and close-on-exec (memory.peak and memory.max_usage_in_bytes
 * read-write when that is allowed, for telemetry_peak_reset). Missing files stay -1; 0, or -ENOENT
 * when not one could be opened. The caller closes with telemetry_fds_close(). */
int telemetry_open(const struct telemetry_dirs *dirs, struct telemetry_fds *ret, struct err *e);
void telemetry_fds_init(struct telemetry_fds *fds); /* all -1 */
void telemetry_fds_close(struct telemetry_fds *fds);

enum telemetry_depth {
    TELEMETRY_CHEAP, /* what a sample holds */
    TELEMETRY_ALL    /* also peak, OOM, pressure */
};
/* One pread per file into a stack buffer, no memory, no seek. Files that fail are left out (see
 * has). 0, or -ENODATA when none could be read. */
int telemetry_read(const struct telemetry_fds *fds, enum telemetry_depth depth,
                   struct telemetry_reading *ret);
/* Puts the kernel's peak back to the present usage: v1 always, v2 since Linux 6.12, and there the
 * reset counts only for this very descriptor. 0, -EOPNOTSUPP (older kernel, or no such file). */
int telemetry_peak_reset(const struct telemetry_fds *fds);

/* now - base for every counter, never below 0 (a counter that went back counts from its new value);
 * gauges (mem_*, pids, llc_bytes) are taken from now. has holds what both have. */
void telemetry_delta(const struct telemetry_reading *base, const struct telemetry_reading *now,
                     struct telemetry_reading *ret);

/* ---- samples and totals of a run ------------------------------------------------------------ */

struct telemetry_sample {
    uint64_t at_us;                                    /* since the run's start */
    int64_t wall_us;                                   /* UNIX time */
    uint64_t cpu_user_us, cpu_system_us, cpu_total_us; /* since the run's start, as all counters */
    uint64_t throttled_us, nr_throttled;
    uint64_t mem_bytes, mem_anon, mem_file, mem_kernel, mem_shmem;
    uint64_t io_read_bytes, io_write_bytes, io_read_ops, io_write_ops;
    uint64_t net_rx_bytes, net_tx_bytes;
    uint64_t pids;
    uint64_t llc_bytes; /* last level cache held */
    uint64_t mbm_bytes; /* moved to and from memory */
    uint32_t rdt;       /* TELEMETRY_HAS_LLC, TELEMETRY_HAS_MBM: which of the two are known */
};

enum telemetry_peak_source {
    TELEMETRY_PEAK_NONE,   /* memory was not measured */
    TELEMETRY_PEAK_KERNEL, /* the kernel's high-water mark of this run alone */
    TELEMETRY_PEAK_SAMPLED /* the largest sample: the truth may be higher */
};

struct telemetry_totals {
    uint32_t has; /* enum telemetry_part bits */
    uint64_t elapsed_us;
    uint64_t cpu_user_us, cpu_system_us, cpu_total_us;
    uint64_t throttled_us, nr_throttled;
    uint64_t mem_peak_bytes;       /* upper bound of the need: page cache counts */
    uint8_t mem_peak_source;       /* enum telemetry_peak_source */
    uint64_t mem_fixed_peak_bytes; /* lower bound: largest sample of anonymous + shared + kernel */
    uint64_t mem_mean_bytes;       /* weighted by time */
    uint64_t oom_kills;
    uint64_t faults_minor, faults_major;
    uint64_t io_read_bytes, io_write_bytes, io_read_ops, io_write_ops;
    uint64_t net_rx_bytes, net_tx_bytes, net_rx_packets, net_tx_packets;
    uint64_t psi_cpu_us, psi_memory_us, psi_io_us;
    uint64_t switches_voluntary,
        switches_involuntary; /* from the exit record; the caller sets them */
    uint64_t pids_peak;       /* sampled */
    /* With TELEMETRY_HAS_LLC: over the samples from TELEMETRY_RDT_SETTLE_US on (until then the
     * cache may hold lines of the run before), the mean weighted by time. */
    uint64_t llc_mean_bytes, llc_max_bytes;
    uint64_t mbm_bytes; /* with TELEMETRY_HAS_MBM */
    uint32_t samples;
};

/* Embedded by its owner; nothing to release. */
struct telemetry_meter {
    struct telemetry_reading base;
    int64_t start_wall_us;
    bool peak_reset;
    struct telemetry_sample last;
    uint64_t mem_peak, fixed_peak, pids_peak;
    uint64_t mem_kib_ms; /* sum of KiB x ms, saturating */
    uint64_t llc_kib_ms, llc_us, llc_max;
    uint32_t samples;
    uint32_t has;
};

/* base: the reading before the run; NULL for a fresh group (all zero). peak_was_reset: the kernel's
 * peak counts from here (a fresh group, or telemetry_peak_reset() gave 0). */
void telemetry_meter_init(struct telemetry_meter *m, const struct telemetry_reading *base,
                          int64_t start_wall_us, bool peak_was_reset);
/* at_us: since the run's start; times that go back are taken as the last one. Page cache that the
 * run before left in the group is not charged to this one. *ret may be NULL. */
void telemetry_meter_add(struct telemetry_meter *m, const struct telemetry_reading *now,
                         uint64_t at_us, struct telemetry_sample *ret);
/* now: the last reading, or NULL when it could not be had (then the last sample stands). Can be
 * called during the run for totals so far: the meter is not changed. */
void telemetry_meter_end(const struct telemetry_meter *m, const struct telemetry_reading *now,
                         uint64_t at_us, struct telemetry_totals *ret);

const char *telemetry_peak_source_name(
    enum telemetry_peak_source s); /* "kernel", "sampled", "none" */
void telemetry_totals_to_json(const struct telemetry_totals *t, struct json_w *w); /* one object */
void telemetry_sample_to_json(const struct telemetry_sample *s, struct json_w *w); /* one object */

/* ---- series --------------------------------------------------------------------------------- */

enum { TELEMETRY_SERIES_MAX = 600 };

/* At most `max` samples of a run. When full, pairs are joined (the later counters, the larger
 * gauges) and from then on every 2nd, 4th, … sample is kept as it comes, joined in the same way. */
struct telemetry_series {
    struct telemetry_sample *s;
    uint32_t n, cap, max;
    uint32_t stride;  /* samples per kept one: a power of two */
    uint32_t pending; /* samples joined into `open` so far */
    struct telemetry_sample open;
};

void telemetry_series_init(struct telemetry_series *s, uint32_t max); /* 0: TELEMETRY_SERIES_MAX */
void telemetry_series_release(struct telemetry_series *s);
/* Out of memory joins pairs instead of growing; -ENOMEM only when not even 2 samples fit. */
int telemetry_series_add(struct telemetry_series *s, const struct telemetry_sample *sample);
/* One object: "stride", "samples": [ … ], the open one last. */
void telemetry_series_to_json(const struct telemetry_series *s, struct json_w *w);

/* ---- Prometheus text ------------------------------------------------------------------------ */

enum telemetry_prom_type { TELEMETRY_COUNTER, TELEMETRY_GAUGE, TELEMETRY_HISTOGRAM };

struct telemetry_label {
    const char *name;
    struct str value; /* escaped when written; invalid UTF-8 becomes '?' */
};

/* The "# HELP" and "# TYPE" lines: once per family, before its samples. */
void telemetry_prom_family(struct buf *out, const char *name, enum telemetry_prom_type type,
                           const char *help);
void telemetry_prom_u64(struct buf *out, const char *name, const struct telemetry_label *labels,
                        size_t nlabels, uint64_t v);
void telemetry_prom_real(struct buf *out, const char *name, const struct telemetry_label *labels,
                         size_t nlabels, double v);
/* v_us written as seconds with six decimals, trailing zeroes cut. */
void telemetry_prom_seconds(struct buf *out, const char *name, const struct telemetry_label *labels,
                            size_t nlabels, uint64_t v_us);

/* Live runs of one job, for cAdvisor's container_* names. Summed by the caller or given singly:
 * equal jobs are summed here. */
struct telemetry_live {
    struct str job;
    struct telemetry_sample now;
    uint64_t mem_peak_bytes;
    uint64_t mem_limit_bytes; /* 0: none */
    uint64_t oom_kills;
    int64_t start_wall_us;
};
/* container_*{job=…} for n live runs; jobs beyond jobs_max are summed as job="other". -ENOMEM. */
int telemetry_prom_live(struct buf *out, const struct telemetry_live *runs, size_t n,
                        uint32_t jobs_max);

/* ---- own metrics ---------------------------------------------------------------------------- */

/* Names, labels and help are in metrics.c's table. Durations are histograms in seconds. */
enum telemetry_metric {
    TELEMETRY_RUNS_TOTAL,               /* job, state, reason */
    TELEMETRY_RUN_DURATION,             /* job */
    TELEMETRY_RUN_QUEUE,                /* job */
    TELEMETRY_RUN_START,                /* kind: cold, cached, warm */
    TELEMETRY_RUN_PULL,                 /* - */
    TELEMETRY_RUN_CPU_SECONDS_TOTAL,    /* job; value in microseconds */
    TELEMETRY_QUEUE_DEPTH,              /* job */
    TELEMETRY_QUEUE_OLDEST,             /* - ; value in microseconds */
    TELEMETRY_RUNS_RUNNING,             /* job */
    TELEMETRY_FORWARDS_TOTAL,           /* reason */
    TELEMETRY_RUNS_TAKEN_OVER_TOTAL,    /* - */
    TELEMETRY_RUNS_MERGED_TOTAL,        /* - */
    TELEMETRY_ROUTE_DECISIONS_TOTAL,    /* basis */
    TELEMETRY_PROFILE_SAMPLES,          /* job */
    TELEMETRY_RIGHT_SIZE_BYTES,         /* job, kind: asked, learned */
    TELEMETRY_WEBHOOK_DELIVERIES_TOTAL, /* code */
    TELEMETRY_SCHEDULE_MISSED_TOTAL,    /* job */
    TELEMETRY_MEMBERS,                  /* state */
    TELEMETRY_RDT_RMIDS_FREE,           /* - */
    TELEMETRY_HTTP_REQUESTS_TOTAL,      /* route, code */
    TELEMETRY_HTTP_DURATION,            /* route */
    TELEMETRY_DROPPED_TOTAL,            /* what: counted drops of any bounded thing */
    TELEMETRY_METRIC_COUNT
};

enum { TELEMETRY_LABELS_MAX = 3, TELEMETRY_BUCKETS = 20, TELEMETRY_LABEL_LEN_MAX = 128 };

/* Label values in the order of the comment above; NULL for those that a metric does not have. */
struct telemetry_labels {
    const char *v[TELEMETRY_LABELS_MAX];
};
#define TELEMETRY_LABELS(...) (&(const struct telemetry_labels){ { __VA_ARGS__ } })
#define TELEMETRY_NO_LABELS (&(const struct telemetry_labels){ { NULL } })

/* All series of the process's own metrics. Not thread-safe: one owner, the loop. */
struct telemetry_metrics;

/* jobs_max: distinct job labels (0: 200); the jobs that come later share job="other". cells_max:
 * series in all (0: 8,192); what comes later is counted in agent_metrics_dropped_total. version and
 * revision go into agent_build_info and must be static text. k0, k1: hash key, from the caller's
 * entropy. */
int telemetry_metrics_new(uint32_t jobs_max, uint32_t cells_max, const char *version,
                          const char *revision, uint64_t k0, uint64_t k1,
                          struct telemetry_metrics **ret, struct err *e);
struct telemetry_metrics *telemetry_metrics_free(struct telemetry_metrics *m);
/* Counters; a metric of another type is the caller's bug. Out of memory: counted as dropped. */
void telemetry_count(struct telemetry_metrics *m, enum telemetry_metric id,
                     const struct telemetry_labels *labels, uint64_t n);
void telemetry_gauge(struct telemetry_metrics *m, enum telemetry_metric id,
                     const struct telemetry_labels *labels, uint64_t v);
void telemetry_observe_us(struct telemetry_metrics *m, enum telemetry_metric id,
                          const struct telemetry_labels *labels, uint64_t us);
/* A counter's or gauge's value, a histogram's count; 0 when there is no such series. */
uint64_t telemetry_value(const struct telemetry_metrics *m, enum telemetry_metric id,
                         const struct telemetry_labels *labels);
/* A gauge family before it is set anew: series that are not set again vanish. */
void telemetry_gauge_clear(struct telemetry_metrics *m, enum telemetry_metric id);
/* The job was deleted: its series and its place among the job labels go. */
void telemetry_forget_job(struct telemetry_metrics *m, const char *job);
/* All families, in the order of the enum, series in order of creation. The buf's sticky error says
 * when it did not fit. */
void telemetry_metrics_write(const struct telemetry_metrics *m, struct buf *out);

#endif
