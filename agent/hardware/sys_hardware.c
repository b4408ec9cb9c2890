/*
 * sys_hardware - asks the processor and the kernel. Everything that is read is decoded by the pure
 * files beside this one.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "agent/hardware/hardware_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys_fd.h"

#ifndef RDTGROUP_SUPER_MAGIC
#define RDTGROUP_SUPER_MAGIC 0x7655821
#endif

enum {
    BIG_TEXT = 262144, /* mountinfo; of /proc/cpuinfo the first part is enough */
    SMALL_TEXT = 4096,
    AFFINITY_CPUS = 65536,
    CGROUP_DEPTH_MAX = 32
};

struct probe {
    int root; /* of /proc and /sys */
    char *big;
    char small[6][SMALL_TEXT];
    struct hardware_facts *f;
};

/* As much of the file as fits; an empty text when it cannot be read. */
static struct str read_at(int dir, const char *path, char *dst, size_t cap)
{
    AUTO_FD int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    ssize_t n = fd < 0 ? -1 : sys_read_full(fd, dst, cap);

    return (struct str){ dst, n > 0 ? (size_t)n : 0 };
}

static struct str read_small(struct probe *p, unsigned slot, const char *path)
{
    return read_at(p->root, path, p->small[slot], SMALL_TEXT);
}

/* ---- processor ------------------------------------------------------------------------------ */

#if defined(__x86_64__)
static void cpuid_add(struct hardware_cpuid *t, uint32_t leaf, uint32_t subleaf)
{
    struct hardware_cpuid_leaf *l = &t->leaves[t->count];

    if (t->count == HARDWARE_CPUID_MAX) {
        return;
    }
    l->leaf = leaf;
    l->subleaf = subleaf;
    __cpuid_count(leaf, subleaf, l->eax, l->ebx, l->ecx, l->edx);
    t->count++;
}

static uint64_t xgetbv0(void)
{
    uint32_t low = 0;
    uint32_t high = 0;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static void probe_cpu(struct hardware_facts *f)
{
    static const uint32_t wanted[][2] = {
        { 0, 0 },          { 1, 0 },          { 7, 0 },          { 7, 1 },
        { 0xb, 0 },        { 0xd, 0 },        { 0xd, 1 },        { 0xf, 0 },
        { 0xf, 1 },        { 0x10, 0 },       { 0x10, 1 },       { 0x16, 0 },
        { 0x80000001, 0 }, { 0x80000002, 0 }, { 0x80000003, 0 }, { 0x80000004, 0 },
        { 0x80000008, 0 }, { 0x8000001e, 0 },
    };
    struct hardware_cpuid t = { 0 };
    uint32_t max = (uint32_t)__get_cpuid_max(0, NULL);
    uint32_t max_ext = (uint32_t)__get_cpuid_max(0x80000000U, NULL);

    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        if (wanted[i][0] <= ((wanted[i][0] & 0x80000000U) != 0 ? max_ext : max)) {
            cpuid_add(&t, wanted[i][0], wanted[i][1]);
        }
    }
    for (uint32_t sub = 0; sub < HARDWARE_CACHES_MAX; sub++) {
        if (max >= 4) {
            cpuid_add(&t, 4, sub);
        }
        if (max_ext >= 0x8000001dU) {
            cpuid_add(&t, 0x8000001dU, sub);
        }
    }
    cpuid_add(&t, 0x40000000,
              0); /* without a hypervisor it is some other leaf's data: see bit 31 */
    for (uint32_t i = 0; i < t.count; i++) {
        if (t.leaves[i].leaf == 1 && (t.leaves[i].ecx & BIT(27)) != 0) {
            t.xcr0 = xgetbv0();
        }
    }
    hardware_decode_cpuid(&t, f);
}
#elif defined(__aarch64__)
static void probe_cpu(struct hardware_facts *f)
{
    hardware_decode_hwcap(getauxval(AT_HWCAP), getauxval(AT_HWCAP2), f);
}
#else
static void probe_cpu(struct hardware_facts *f)
{
    f->arch = HARDWARE_ARCH_UNKNOWN;
}
#endif

/* How many sets a list of "who is like CPU n" files makes: cores by thread_siblings_list, sockets
 * by package_cpus_list. One read per set. *ret_size: the first set's size. */
static uint32_t count_groups(struct probe *p, struct str online, const char *file,
                             uint32_t *ret_size)
{
    uint32_t groups = 0;
    uint32_t cpu = UINT32_MAX;

    while (hardware_cpulist_next(online, cpu, &cpu)) {
        char path[96];
        uint32_t first = 0;
        (void)snprintf(path, sizeof(path), "sys/devices/system/cpu/cpu%u/topology/%s", cpu, file);
        uint32_t n = hardware_parse_cpulist(read_small(p, 1, path), &first);
        if (n == 0) {
            return 0; /* no such file: unknown */
        }
        if (first == cpu) {
            groups++;
            *ret_size = groups == 1 ? n : *ret_size;
        }
    }
    return groups;
}

static void probe_topology(struct probe *p)
{
    struct hardware_facts *f = p->f;
    struct str online = read_small(p, 0, "sys/devices/system/cpu/online");
    uint32_t threads = 0;
    uint32_t per_socket = 0;

    f->cpus_online = hardware_parse_cpulist(online, NULL);
    f->cores = count_groups(p, online, "thread_siblings_list", &threads);
    f->sockets = count_groups(p, online, "core_siblings_list", &per_socket);
    if (threads != 0) {
        f->threads_per_core = threads;
    }
    f->numa_nodes =
        hardware_parse_cpulist(read_small(p, 1, "sys/devices/system/node/online"), NULL);
    if (f->numa_nodes == 0) {
        f->numa_nodes = 1; /* a kernel without NUMA */
    }
}

/* The kernel's view of CPU 0's caches knows who shares them; CPUID's stays where there is none. */
static void probe_caches(struct probe *p)
{
    static const char *const files[6] = {
        "level", "type", "size", "ways_of_associativity", "coherency_line_size", "shared_cpu_list"
    };
    struct hardware_facts *f = p->f;
    uint32_t count = 0;

    for (unsigned i = 0; i < HARDWARE_CACHES_MAX; i++) {
        struct str t[6];
        struct hardware_cache c = { 0 };
        for (unsigned k = 0; k < ARRAY_LEN(files); k++) {
            char path[96];
            (void)snprintf(path, sizeof(path), "sys/devices/system/cpu/cpu0/cache/index%u/%s", i,
                           files[k]);
            t[k] = read_small(p, k, path);
        }
        if (hardware_parse_cache(t[0], t[1], t[2], t[3], t[4], t[5], &c) == 0) {
            f->caches[count++] = c;
        }
    }
    f->cache_count = count > 0 ? count : f->cache_count;
}

static int probe_affinity(struct hardware_facts *f, struct err *e)
{
    cpu_set_t *set = CPU_ALLOC(AFFINITY_CPUS);
    size_t size = CPU_ALLOC_SIZE(AFFINITY_CPUS);
    int r = 0;

    if (set == NULL) {
        return err_set(e, -ENOMEM, "read the CPU affinity");
    }
    CPU_ZERO_S(size, set);
    if (sched_getaffinity(0, size, set) != 0) {
        r = err_set(e, -errno, "read the CPU affinity");
    } else {
        f->cpus_usable = (uint32_t)CPU_COUNT_S(size, set);
    }
    CPU_FREE(set);
    return r;
}

/* ---- cgroups -------------------------------------------------------------------------------- */

struct limits {
    uint32_t cpu_milli;
    uint64_t memory;
};

static void limits_at(struct probe *p, const char *dir, struct limits *l)
{
    char path[PATH_MAX];
    uint32_t milli = 0;
    uint64_t bytes = 0;

    (void)snprintf(path, sizeof(path), "%s/cpu.max", dir);
    milli = hardware_parse_cpu_max(read_small(p, 0, path));
    if (milli == 0) {
        (void)snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", dir);
        struct str quota = read_small(p, 0, path);
        (void)snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", dir);
        milli = hardware_parse_cfs(quota, read_small(p, 1, path));
    }
    (void)snprintf(path, sizeof(path), "%s/memory.max", dir);
    bytes = hardware_parse_memory_limit(read_small(p, 0, path));
    if (bytes == 0) {
        (void)snprintf(path, sizeof(path), "%s/memory.limit_in_bytes", dir);
        bytes = hardware_parse_memory_limit(read_small(p, 0, path));
    }
    if (milli != 0 && (l->cpu_milli == 0 || milli < l->cpu_milli)) {
        l->cpu_milli = milli;
    }
    if (bytes != 0 && (l->memory == 0 || bytes < l->memory)) {
        l->memory = bytes;
    }
}

/* Every group from ours up to the root of the mount may limit us. */
static void limits_upward(struct probe *p, const char *mount, const char *own, struct limits *l)
{
    char dir[PATH_MAX - 32];
    size_t least = strlen(mount) > 0 ? strlen(mount) - 1 : 0; /* without the leading slash */
    int n = snprintf(dir, sizeof(dir), "%s%s", mount + 1, own);

    if (n <= 0 || (size_t)n >= sizeof(dir)) {
        return;
    }
    for (unsigned depth = 0; depth < CGROUP_DEPTH_MAX; depth++) {
        char *slash = NULL;
        limits_at(p, dir, l);
        slash = strrchr(dir, '/');
        if (slash == NULL || (size_t)(slash - dir) < least) {
            return;
        }
        *slash = '\0';
    }
}

static void probe_cgroups(struct probe *p, struct str mountinfo)
{
    static const struct {
        enum hardware_controller c;
        const char *v1;
    } limited[] = { { HARDWARE_CGROUP_CPU, "cpu" }, { HARDWARE_CGROUP_MEMORY, "memory" } };
    struct hardware_facts *f = p->f;
    struct limits l = { 0 };
    char path[128];
    char own[PATH_MAX];

    hardware_parse_cgroups(read_small(p, 0, "proc/cgroups"), f);
    (void)hardware_parse_mountinfo(mountinfo, f, NULL);
    if (f->cgroup2_mount[0] == '/') {
        (void)snprintf(path, sizeof(path), "%s/cgroup.controllers", f->cgroup2_mount + 1);
        hardware_parse_cgroup_controllers(read_small(p, 0, path), f);
    }
    for (size_t i = 0; i < ARRAY_LEN(limited); i++) {
        const struct hardware_cgroup *g = &f->cgroups[limited[i].c];
        if (g->mount[0] == '/' &&
            hardware_parse_cgroup_path(read_small(p, 2, "proc/self/cgroup"), g->version,
                                       limited[i].v1, own, sizeof(own))) {
            limits_upward(p, g->mount, own, &l);
        }
    }
    f->cpu_quota_milli = l.cpu_milli;
    f->memory_limit_bytes = l.memory < f->memory_bytes ? l.memory : 0;
}

/* ---- resctrl, disk -------------------------------------------------------------------------- */

static void probe_rdt(struct probe *p, const struct hardware_options *opt)
{
    static const char *const dirs[] = { "L3", "L3CODE", "L3DATA", "L2", "L2CODE", "L2DATA" };
    static const char *const cache[] = { "num_closids", "cbm_mask", "min_cbm_bits",
                                         "shareable_bits" };
    static const char *const rest[] = { "MB/num_closids",      "MB/min_bandwidth",
                                        "MB/bandwidth_gran",   "L3_MON/num_rmids",
                                        "L3_MON/mon_features", "L3_MON/max_threshold_occupancy" };
    const char *path = opt->resctrl_path != NULL ? opt->resctrl_path : "/sys/fs/resctrl";
    struct hardware_rdt *r = &p->f->rdt;
    struct statfs fs;
    AUTO_FD int top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    AUTO_FD int info = top < 0 ? -1 : openat(top, "info", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (info < 0 || fstatfs(top, &fs) != 0 ||
        (!opt->resctrl_any_fs && (unsigned long)fs.f_type != RDTGROUP_SUPER_MAGIC)) {
        return;
    }
    r->mounted = true;
    for (size_t d = 0; d < ARRAY_LEN(dirs); d++) {
        for (size_t k = 0; k < ARRAY_LEN(cache); k++) {
            char name[64];
            (void)snprintf(name, sizeof(name), "%s/%s", dirs[d], cache[k]);
            struct str text = read_at(info, name, p->small[0], SMALL_TEXT);
            if (text.n > 0) {
                hardware_parse_rdt(r, name, text);
            }
        }
    }
    for (size_t k = 0; k < ARRAY_LEN(rest); k++) {
        struct str text = read_at(info, rest[k], p->small[0], SMALL_TEXT);
        if (text.n > 0) {
            hardware_parse_rdt(r, rest[k], text);
        }
    }
}

/* A partition has no queue of its own: its disk is one directory up. */
static uint8_t probe_disk(struct probe *p, const char *data_dir)
{
    static const char *const where[] = { "queue/rotational", "../queue/rotational" };
    struct stat st;

    if (data_dir == NULL || stat(data_dir, &st) != 0) {
        return HARDWARE_UNKNOWN;
    }
    for (size_t i = 0; i < ARRAY_LEN(where); i++) {
        char path[96];
        (void)snprintf(path, sizeof(path), "sys/dev/block/%u:%u/%s", major(st.st_dev),
                       minor(st.st_dev), where[i]);
        struct str text = str_trim(read_small(p, 0, path));
        if (str_eqs(text, "1")) {
            return HARDWARE_YES;
        }
        if (str_eqs(text, "0")) {
            return HARDWARE_NO;
        }
    }
    return HARDWARE_UNKNOWN;
}

/* ---- all ------------------------------------------------------------------------------------ */

static void probe_all(struct probe *p, const struct hardware_options *opt)
{
    struct hardware_facts *f = p->f;
    struct hardware_cpuinfo ci;
    struct utsname un;

    probe_cpu(f);
    hardware_parse_cpuinfo(read_at(p->root, "proc/cpuinfo", p->big, 32768), &ci);
    hardware_merge_cpuinfo(f, &ci);
    probe_topology(p);
    probe_caches(p);
    f->memory_bytes = hardware_parse_meminfo(read_small(p, 0, "proc/meminfo"));
    if (uname(&un) == 0) {
        hardware_parse_kernel(str_of(un.release), f);
    }
    probe_cgroups(p, read_at(p->root, "proc/self/mountinfo", p->big, BIG_TEXT));
    probe_rdt(p, opt);
    f->data_dir_rotational = probe_disk(p, opt->data_dir);
    if (f->max_mhz == 0) {
        struct str khz =
            str_trim(read_small(p, 0, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"));
        uint64_t v = 0;
        f->max_mhz = str_u64_in(khz, 0, 100000000, &v) == 0 ? (uint32_t)(v / 1000) : 0;
    }
    hardware_mask_apply(f, &opt->mask);
}

int hardware_probe(struct hardware_facts *ret, const struct hardware_options *opt, struct err *e)
{
    static const struct hardware_options defaults = { 0 };
    struct hardware_facts f = { 0 };
    AUTO_MEM struct probe *p = mem_zalloc(sizeof(*p));
    AUTO_MEM char *big = mem_alloc(BIG_TEXT);
    AUTO_FD int root = -1;
    AUTO_FD int proc = -1;
    int r = 0;

    opt = opt != NULL ? opt : &defaults;
    if (p == NULL || big == NULL) {
        return err_set(e, -ENOMEM, "look at the hardware");
    }
    root = open(opt->root != NULL ? opt->root : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    proc = root < 0 ? -1 : openat(root, "proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0) {
        return err_set(e, -ENOENT, "open /proc");
    }
    r = probe_affinity(&f, e);
    if (r != 0) {
        return r;
    }
    p->root = root;
    p->big = big;
    p->f = &f;
    probe_all(p, opt);
    if (f.cpus_online == 0) {
        f.cpus_online = f.cpus_usable;
    }
    *ret = f;
    return 0;
}
