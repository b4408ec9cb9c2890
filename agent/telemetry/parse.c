/*
 * parse - cgroup files, v1 and v2, into a reading. Kernels differ in which lines a file has, so
 * every line stands alone: a known key with a number counts, the rest is passed over.
 */
#include <errno.h>
#include <stddef.h>

#include "agent/telemetry/telemetry.h"
#include "common/insist.h"

enum {
    TEXT_MAX = 16384,
    USER_HZ_US =
        10000 /* cpuacct.stat counts 1/100 s: USER_HZ, the same on every architecture here */
};

static const char *const file_names[TELEMETRY_FILE_COUNT] = {
    [TELEMETRY_V2_CPU_STAT] = "cpu.stat",
    [TELEMETRY_V2_MEMORY_CURRENT] = "memory.current",
    [TELEMETRY_V2_MEMORY_PEAK] = "memory.peak",
    [TELEMETRY_V2_MEMORY_STAT] = "memory.stat",
    [TELEMETRY_V2_MEMORY_EVENTS] = "memory.events",
    [TELEMETRY_V2_IO_STAT] = "io.stat",
    [TELEMETRY_V1_CPU_STAT] = "cpu.stat",
    [TELEMETRY_V1_CPUACCT_USAGE] = "cpuacct.usage",
    [TELEMETRY_V1_CPUACCT_STAT] = "cpuacct.stat",
    [TELEMETRY_V1_MEMORY_USAGE] = "memory.usage_in_bytes",
    [TELEMETRY_V1_MEMORY_MAX_USAGE] = "memory.max_usage_in_bytes",
    [TELEMETRY_V1_MEMORY_STAT] = "memory.stat",
    [TELEMETRY_V1_MEMORY_OOM_CONTROL] = "memory.oom_control",
    [TELEMETRY_V1_MEMORY_KMEM_USAGE] = "memory.kmem.usage_in_bytes",
    [TELEMETRY_V1_IO_SERVICE_BYTES] = "blkio.throttle.io_service_bytes",
    [TELEMETRY_V1_IO_SERVICED] = "blkio.throttle.io_serviced",
    [TELEMETRY_PIDS_CURRENT] = "pids.current",
    [TELEMETRY_CPU_PRESSURE] = "cpu.pressure",
    [TELEMETRY_MEMORY_PRESSURE] = "memory.pressure",
    [TELEMETRY_IO_PRESSURE] = "io.pressure",
    [TELEMETRY_NET_RX_BYTES] = "rx_bytes",
    [TELEMETRY_NET_TX_BYTES] = "tx_bytes",
    [TELEMETRY_NET_RX_PACKETS] = "rx_packets",
    [TELEMETRY_NET_TX_PACKETS] = "tx_packets",
};

bool telemetry_file_rdt(enum telemetry_file file)
{
    return file >= TELEMETRY_RDT_LLC && file <= TELEMETRY_RDT_MBM_LAST;
}

const char *telemetry_file_name(enum telemetry_file file)
{
    REQUIRE((unsigned)file < TELEMETRY_FILE_COUNT);
    if (telemetry_file_rdt(file)) {
        return file < TELEMETRY_RDT_MBM ? "llc_occupancy" : "mbm_total_bytes";
    }
    return file_names[file];
}

/* Everything stays below 2^63, where JSON's integers end; a larger figure is garbage. */
static int read_u64(struct str s, uint64_t *ret)
{
    return str_u64_in(s, 0, INT64_MAX, ret);
}

static uint64_t sat_add(uint64_t a, uint64_t b)
{
    return a > INT64_MAX - b ? INT64_MAX : a + b;
}

static uint64_t sat_mul(uint64_t a, uint64_t b)
{
    return b != 0 && a > INT64_MAX / b ? INT64_MAX : a * b;
}

/* ---- "key value" lines ---------------------------------------------------------------------- */

struct key {
    const char *name;
    size_t offset; /* of a uint64_t in struct telemetry_reading */
    uint32_t part;
};
#define KEY(name, field, part) \
    { \
        name, offsetof(struct telemetry_reading, field), TELEMETRY_HAS_##part \
    }

static uint64_t *field_at(struct telemetry_reading *r, size_t offset)
{
    return (uint64_t *)(void *)((char *)r + offset);
}

/* Stores the keys that stand in text; returns the parts that were seen. */
static uint32_t parse_keys(struct str text, const struct key *keys, size_t n,
                           struct telemetry_reading *r)
{
    uint32_t seen = 0;
    struct str line;

    while (str_split(&text, '\n', &line)) {
        ptrdiff_t space = str_find(line, ' ');
        uint64_t v = 0;
        if (space <= 0 || read_u64(str_trim(str_slice(line, (size_t)space, line.n)), &v) != 0) {
            continue;
        }
        struct str name = str_slice(line, 0, (size_t)space);
        for (size_t i = 0; i < n; i++) {
            if (str_eqs(name, keys[i].name)) {
                *field_at(r, keys[i].offset) = v;
                seen |= keys[i].part;
                break;
            }
        }
    }
    return seen;
}

static uint32_t v2_cpu_stat(struct str text, struct telemetry_reading *r)
{
    static const struct key keys[] = {
        KEY("usage_usec", cpu_total_us, CPU),          KEY("user_usec", cpu_user_us, CPU_SPLIT),
        KEY("system_usec", cpu_system_us, CPU_SPLIT),  KEY("nr_throttled", nr_throttled, THROTTLE),
        KEY("throttled_usec", throttled_us, THROTTLE),
    };

    return parse_keys(text, keys, ARRAY_LEN(keys), r);
}

static uint32_t v1_cpu_stat(struct str text, struct telemetry_reading *r)
{
    static const struct key keys[] = {
        KEY("nr_throttled", nr_throttled, THROTTLE),
        KEY("throttled_time", throttled_us, THROTTLE), /* nanoseconds */
    };
    uint32_t seen = 0;

    r->throttled_us = 0;
    seen = parse_keys(text, keys, ARRAY_LEN(keys), r);
    r->throttled_us /= 1000;
    return seen;
}

static uint32_t v1_cpuacct_stat(struct str text, struct telemetry_reading *r)
{
    static const struct key keys[] = {
        KEY("user", cpu_user_us, CPU_SPLIT),
        KEY("system", cpu_system_us, CPU_SPLIT),
    };
    uint32_t seen = 0;

    r->cpu_user_us = 0;
    r->cpu_system_us = 0;
    seen = parse_keys(text, keys, ARRAY_LEN(keys), r);
    r->cpu_user_us = sat_mul(r->cpu_user_us, USER_HZ_US);
    r->cpu_system_us = sat_mul(r->cpu_system_us, USER_HZ_US);
    return seen;
}

static uint32_t v2_memory_stat(struct str text, struct telemetry_reading *r)
{
    static const struct key keys[] = {
        KEY("anon", mem_anon, MEMORY_STAT),     KEY("file", mem_file, MEMORY_STAT),
        KEY("kernel", mem_kernel, MEMORY_STAT), KEY("shmem", mem_shmem, MEMORY_STAT),
        KEY("pgfault", faults_minor, FAULTS),   KEY("pgmajfault", faults_major, FAULTS),
    };
    /* Before Linux 5.18 there is no sum of the kernel's own memory, only its parts. */
    static const char *const parts[] = { "kernel_stack", "pagetables", "percpu",
                                         "sock",         "vmalloc",    "slab" };
    uint64_t sum = 0;
    uint32_t seen = 0;
    struct str rest = text;
    struct str line;

    r->mem_kernel = UINT64_MAX;
    seen = parse_keys(text, keys, ARRAY_LEN(keys), r);
    if (r->mem_kernel == UINT64_MAX) {
        while (str_split(&rest, '\n', &line)) {
            ptrdiff_t space = str_find(line, ' ');
            uint64_t v = 0;
            for (size_t i = 0; space > 0 && i < ARRAY_LEN(parts); i++) {
                if (str_eqs(str_slice(line, 0, (size_t)space), parts[i]) &&
                    read_u64(str_trim(str_slice(line, (size_t)space, line.n)), &v) == 0) {
                    sum = sat_add(sum, v);
                }
            }
        }
        r->mem_kernel = sum;
    }
    return seen;
}

/* v1's own lines come first and leave out child groups; the total_ lines hold them. */
static uint32_t v1_memory_stat(struct str text, struct telemetry_reading *r)
{
    static const struct key keys[] = {
        KEY("total_rss", mem_anon, MEMORY_STAT),       KEY("total_cache", mem_file, MEMORY_STAT),
        KEY("total_shmem", mem_shmem, MEMORY_STAT),    KEY("total_pgfault", faults_minor, FAULTS),
        KEY("total_pgmajfault", faults_major, FAULTS),
    };

    return parse_keys(text, keys, ARRAY_LEN(keys), r);
}

static uint32_t memory_events(struct str text, struct telemetry_reading *r)
{
    static const struct key keys[] = { KEY("oom_kill", oom_kills, OOM) };

    return parse_keys(text, keys, ARRAY_LEN(keys), r);
}

/* ---- single numbers, I/O, pressure ---------------------------------------------------------- */

static uint32_t number(struct str text, uint64_t *dst, uint32_t part)
{
    return read_u64(str_trim(text), dst) == 0 ? part : 0;
}

/* "259:0 rbytes=90112 wbytes=0 rios=22 wios=0 dbytes=0 dios=0", a line per device. */
static uint32_t v2_io_stat(struct str text, struct telemetry_reading *r)
{
    static const struct key keys[] = {
        KEY("rbytes", io_read_bytes, IO),
        KEY("wbytes", io_write_bytes, IO),
        KEY("rios", io_read_ops, IO),
        KEY("wios", io_write_ops, IO),
    };
    uint32_t seen = str_trim(text).n == 0 ? TELEMETRY_HAS_IO : 0; /* empty: nothing was done yet */
    struct str line;
    struct str word;

    r->io_read_bytes = r->io_write_bytes = r->io_read_ops = r->io_write_ops = 0;
    while (str_split(&text, '\n', &line)) {
        while (str_split(&line, ' ', &word)) {
            ptrdiff_t eq = str_find(word, '=');
            uint64_t v = 0;
            if (eq <= 0 || read_u64(str_slice(word, (size_t)eq + 1, word.n), &v) != 0) {
                continue;
            }
            for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
                if (str_eqs(str_slice(word, 0, (size_t)eq), keys[i].name)) {
                    uint64_t *dst = field_at(r, keys[i].offset);
                    *dst = sat_add(*dst, v);
                    seen |= TELEMETRY_HAS_IO;
                }
            }
        }
    }
    return seen;
}

/* "254:0 Read 4096", "254:0 Write 0", … a line per device and kind; "Total 4096" alone at the end.
 */
static uint32_t v1_io(struct str text, uint64_t *reads, uint64_t *writes)
{
    uint32_t seen = 0;
    struct str line;
    struct str device;
    struct str kind;
    uint64_t v = 0;

    *reads = 0;
    *writes = 0;
    while (str_split(&text, '\n', &line)) {
        seen |= str_starts(line, "Total ") ? TELEMETRY_HAS_IO : 0;
        if (!str_split(&line, ' ', &device) || !str_split(&line, ' ', &kind) ||
            read_u64(str_trim(line), &v) != 0) {
            continue;
        }
        if (str_eqs(kind, "Read")) {
            *reads = sat_add(*reads, v);
            seen |= TELEMETRY_HAS_IO;
        } else if (str_eqs(kind, "Write")) {
            *writes = sat_add(*writes, v);
            seen |= TELEMETRY_HAS_IO;
        }
    }
    return seen;
}

/* "some avg10=0.36 avg60=0.45 avg300=0.25 total=4150530" */
static uint32_t pressure(struct str text, uint64_t *dst, uint32_t part)
{
    struct str line;
    struct str word;

    while (str_split(&text, '\n', &line)) {
        if (!str_starts(line, "some ")) {
            continue;
        }
        while (str_split(&line, ' ', &word)) {
            if (str_starts(word, "total=") &&
                read_u64(str_trim(str_slice(word, 6, word.n)), dst) == 0) {
                return part;
            }
        }
    }
    return 0;
}

/* ---- the door ------------------------------------------------------------------------------- */

static uint32_t cpuacct_usage(struct str text, struct telemetry_reading *r)
{
    uint32_t seen = number(text, &r->cpu_total_us, TELEMETRY_HAS_CPU);

    r->cpu_total_us /= 1000;
    return seen;
}

/* One domain's number, added to the others'. */
static uint32_t rdt_number(enum telemetry_file file, struct str text, struct telemetry_reading *r)
{
    bool llc = file < TELEMETRY_RDT_MBM;
    uint64_t *sum = llc ? &r->llc_bytes : &r->mbm_bytes;
    uint64_t v = 0;

    if (number(text, &v, TELEMETRY_HAS_LLC) == 0) {
        return 0;
    }
    *sum = sat_add(*sum, v);
    return llc ? TELEMETRY_HAS_LLC : TELEMETRY_HAS_MBM;
}

static uint32_t parse_file(enum telemetry_file file, struct str text, struct telemetry_reading *r)
{
    if (telemetry_file_rdt(file)) {
        return rdt_number(file, text, r);
    }
    switch (file) {
    case TELEMETRY_V2_CPU_STAT:
        return v2_cpu_stat(text, r);
    case TELEMETRY_V1_CPU_STAT:
        return v1_cpu_stat(text, r);
    case TELEMETRY_V1_CPUACCT_USAGE:
        return cpuacct_usage(text, r);
    case TELEMETRY_V1_CPUACCT_STAT:
        return v1_cpuacct_stat(text, r);
    case TELEMETRY_V2_MEMORY_CURRENT:
    case TELEMETRY_V1_MEMORY_USAGE:
        return number(text, &r->mem_bytes, TELEMETRY_HAS_MEMORY);
    case TELEMETRY_V2_MEMORY_PEAK:
    case TELEMETRY_V1_MEMORY_MAX_USAGE:
        return number(text, &r->mem_peak_bytes, TELEMETRY_HAS_PEAK);
    case TELEMETRY_V2_MEMORY_STAT:
        return v2_memory_stat(text, r);
    case TELEMETRY_V1_MEMORY_STAT:
        return v1_memory_stat(text, r);
    case TELEMETRY_V1_MEMORY_KMEM_USAGE:
        return number(text, &r->mem_kernel, TELEMETRY_HAS_MEMORY_STAT);
    case TELEMETRY_V2_MEMORY_EVENTS:
    case TELEMETRY_V1_MEMORY_OOM_CONTROL:
        return memory_events(text, r);
    case TELEMETRY_V2_IO_STAT:
        return v2_io_stat(text, r);
    case TELEMETRY_V1_IO_SERVICE_BYTES:
        return v1_io(text, &r->io_read_bytes, &r->io_write_bytes);
    case TELEMETRY_V1_IO_SERVICED:
        return v1_io(text, &r->io_read_ops, &r->io_write_ops);
    case TELEMETRY_PIDS_CURRENT:
        return number(text, &r->pids, TELEMETRY_HAS_PIDS);
    case TELEMETRY_CPU_PRESSURE:
        return pressure(text, &r->psi_cpu_us, TELEMETRY_HAS_PSI_CPU);
    case TELEMETRY_MEMORY_PRESSURE:
        return pressure(text, &r->psi_memory_us, TELEMETRY_HAS_PSI_MEMORY);
    case TELEMETRY_IO_PRESSURE:
        return pressure(text, &r->psi_io_us, TELEMETRY_HAS_PSI_IO);
    case TELEMETRY_NET_RX_BYTES:
        return number(text, &r->net_rx_bytes, TELEMETRY_HAS_NET);
    case TELEMETRY_NET_TX_BYTES:
        return number(text, &r->net_tx_bytes, TELEMETRY_HAS_NET);
    case TELEMETRY_NET_RX_PACKETS:
        return number(text, &r->net_rx_packets, TELEMETRY_HAS_NET);
    case TELEMETRY_NET_TX_PACKETS:
        return number(text, &r->net_tx_packets, TELEMETRY_HAS_NET);
    case TELEMETRY_RDT_LLC:
    case TELEMETRY_RDT_LLC_LAST:
    case TELEMETRY_RDT_MBM:
    case TELEMETRY_RDT_MBM_LAST:
    case TELEMETRY_FILE_COUNT:
        break;
    }
    return 0;
}

int telemetry_parse(enum telemetry_file file, struct str text, struct telemetry_reading *r)
{
    struct telemetry_reading tmp = *r;
    uint32_t seen = parse_file(file, str_slice(text, 0, TEXT_MAX), &tmp);

    if (seen == 0) {
        return -ENODATA;
    }
    tmp.has |= seen;
    *r = tmp;
    return 0;
}
