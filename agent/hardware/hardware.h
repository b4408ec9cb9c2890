/*
 * hardware - what this machine is: processor, caches, topology, memory, kernel, cgroups, resctrl.
 *
 * struct hardware_facts is plain data without pointers: copy it as you like. Everything that reads
 * bytes (CPUID tables, /proc, /sys and resctrl text) is pure and bounded, and never fails on odd
 * text: what cannot be understood stays at its zero value. Only hardware_probe() makes system
 * calls.
 *
 * A capability has Node Feature Discovery's name: "cpu-cpuid.AESNI", "cpu-rdt.RDTL3CA". It is *raw*
 * when the processor claims it, *usable* when a program can use it: the kernel lists its flag in
 * /proc/cpuinfo, XCR0 lets its registers be saved, what it builds on is usable, and agent.conf's
 * node.capabilities_mask does not take it away. Raw of the cpu-rdt names is the processor's claim,
 * usable means that resctrl is mounted and has the info directory. On arm64 both come from HWCAP.
 */
#ifndef AGENT_HARDWARE_H
#define AGENT_HARDWARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/json.h"
#include "common/str.h"

/* The numbers travel between nodes: append only, never renumber. x86: 0-111, RDT: 112-127, arm64:
 * 128-191. */
enum hardware_cap {
    HARDWARE_CAP_ADX,
    HARDWARE_CAP_AESNI,
    HARDWARE_CAP_AMXBF16,
    HARDWARE_CAP_AMXCOMPLEX,
    HARDWARE_CAP_AMXFP16,
    HARDWARE_CAP_AMXINT8,
    HARDWARE_CAP_AMXTILE,
    HARDWARE_CAP_AVX,
    HARDWARE_CAP_AVX2,
    HARDWARE_CAP_AVX512BF16,
    HARDWARE_CAP_AVX512BITALG,
    HARDWARE_CAP_AVX512BW,
    HARDWARE_CAP_AVX512CD,
    HARDWARE_CAP_AVX512DQ,
    HARDWARE_CAP_AVX512ER,
    HARDWARE_CAP_AVX512F,
    HARDWARE_CAP_AVX512FP16,
    HARDWARE_CAP_AVX512IFMA,
    HARDWARE_CAP_AVX512PF,
    HARDWARE_CAP_AVX512VBMI,
    HARDWARE_CAP_AVX512VBMI2,
    HARDWARE_CAP_AVX512VL,
    HARDWARE_CAP_AVX512VNNI,
    HARDWARE_CAP_AVX512VP2INTERSECT,
    HARDWARE_CAP_AVX512VPOPCNTDQ,
    HARDWARE_CAP_AVXIFMA,
    HARDWARE_CAP_AVXNECONVERT,
    HARDWARE_CAP_AVXVNNI,
    HARDWARE_CAP_AVXVNNIINT8,
    HARDWARE_CAP_AVXVNNIINT16,
    HARDWARE_CAP_BMI1,
    HARDWARE_CAP_BMI2,
    HARDWARE_CAP_CLDEMOTE,
    HARDWARE_CAP_CLMUL,
    HARDWARE_CAP_CLZERO,
    HARDWARE_CAP_CMOV,
    HARDWARE_CAP_CMPCCXADD,
    HARDWARE_CAP_CMPXCHG8,
    HARDWARE_CAP_CX16,
    HARDWARE_CAP_ENQCMD,
    HARDWARE_CAP_ERMS,
    HARDWARE_CAP_F16C,
    HARDWARE_CAP_FMA3,
    HARDWARE_CAP_FMA4,
    HARDWARE_CAP_FSRM,
    HARDWARE_CAP_FXSR,
    HARDWARE_CAP_GFNI,
    HARDWARE_CAP_HLE,
    HARDWARE_CAP_HTT,
    HARDWARE_CAP_HYPERVISOR,
    HARDWARE_CAP_LAHF,
    HARDWARE_CAP_LZCNT,
    HARDWARE_CAP_MMX,
    HARDWARE_CAP_MOVBE,
    HARDWARE_CAP_MOVDIR64B,
    HARDWARE_CAP_MOVDIRI,
    HARDWARE_CAP_MPX,
    HARDWARE_CAP_NX,
    HARDWARE_CAP_OSXSAVE,
    HARDWARE_CAP_POPCNT,
    HARDWARE_CAP_PREFETCHI,
    HARDWARE_CAP_RDPRU,
    HARDWARE_CAP_RDRAND,
    HARDWARE_CAP_RDSEED,
    HARDWARE_CAP_RDTSCP,
    HARDWARE_CAP_RTM,
    HARDWARE_CAP_SERIALIZE,
    HARDWARE_CAP_SGX,
    HARDWARE_CAP_SHA,
    HARDWARE_CAP_SHA512_X86, /* klauspost and NFD spell it SHA512, as Arm's */
    HARDWARE_CAP_SM3_X86,
    HARDWARE_CAP_SM4_X86,
    HARDWARE_CAP_SSE,
    HARDWARE_CAP_SSE2,
    HARDWARE_CAP_SSE3,
    HARDWARE_CAP_SSE4,
    HARDWARE_CAP_SSE42,
    HARDWARE_CAP_SSE4A,
    HARDWARE_CAP_SSSE3,
    HARDWARE_CAP_SVM,
    HARDWARE_CAP_SYSCALL,
    HARDWARE_CAP_TBM,
    HARDWARE_CAP_TSXLDTRK,
    HARDWARE_CAP_VAES,
    HARDWARE_CAP_VMX,
    HARDWARE_CAP_VPCLMULQDQ,
    HARDWARE_CAP_WAITPKG,
    HARDWARE_CAP_WBNOINVD,
    HARDWARE_CAP_X87,
    HARDWARE_CAP_XGETBV1,
    HARDWARE_CAP_XOP,
    HARDWARE_CAP_XSAVE,
    HARDWARE_CAP_XSAVEC,
    HARDWARE_CAP_XSAVEOPT,
    HARDWARE_CAP_XSAVES,
    HARDWARE_CAP_X86_END,

    HARDWARE_CAP_RDTMON = 112,
    HARDWARE_CAP_RDTCMT,
    HARDWARE_CAP_RDTMBM,
    HARDWARE_CAP_RDTL3CA,
    HARDWARE_CAP_RDTL2CA,
    HARDWARE_CAP_RDTMBA,
    HARDWARE_CAP_RDT_END,

    HARDWARE_CAP_ARM =
        128, /* AT_HWCAP's bits in order, then AT_HWCAP2's: see hardware_decode_hwcap() */
    HARDWARE_CAP_ARM_FP = 128,
    HARDWARE_CAP_ARM_ASIMD = 129,
    HARDWARE_CAP_ARM_AES = 131,
    HARDWARE_CAP_ARM_PMULL = 132,
    HARDWARE_CAP_ARM_SHA1 = 133,
    HARDWARE_CAP_ARM_SHA2 = 134,
    HARDWARE_CAP_ARM_CRC32 = 135,
    HARDWARE_CAP_ARM_ATOMICS = 136,
    HARDWARE_CAP_ARM_SHA3 = 145,
    HARDWARE_CAP_ARM_SHA512 = 149,
    HARDWARE_CAP_ARM_SVE = 150,
    HARDWARE_CAP_ARM_SVE2 = 161,
    HARDWARE_CAP_COUNT = 192
};

enum { HARDWARE_CAP_WORDS = HARDWARE_CAP_COUNT / 64, HARDWARE_CAP_NAME_MAX = 40 };

struct hardware_caps {
    uint64_t w[HARDWARE_CAP_WORDS]; /* bit c % 64 of word c / 64 */
};

enum {
    HARDWARE_CACHES_MAX = 12,
    HARDWARE_TEXT_MAX = 65,
    HARDWARE_CPULIST_MAX = 64,
    HARDWARE_CLASS_LEN = 16, /* hex digits of a node class id */
    HARDWARE_CPUID_MAX = 64
};

enum hardware_arch { HARDWARE_ARCH_UNKNOWN, HARDWARE_ARCH_X86_64, HARDWARE_ARCH_ARM64 };
enum hardware_cache_type { HARDWARE_CACHE_UNIFIED, HARDWARE_CACHE_DATA, HARDWARE_CACHE_CODE };
enum hardware_answer { HARDWARE_UNKNOWN, HARDWARE_NO, HARDWARE_YES };

struct hardware_cache {
    uint8_t level; /* 1-4 */
    uint8_t type;  /* enum hardware_cache_type */
    uint16_t ways; /* 0: unknown or fully associative */
    uint32_t line_bytes;
    uint64_t size_bytes;             /* of one instance */
    uint32_t sharers;                /* logical CPUs that share the instance of CPU 0; 0: unknown */
    char cpus[HARDWARE_CPULIST_MAX]; /* their list, "0-3,8-11"; cut at a comma when too long */
};

/* Controllers that matter here; io is v1's blkio. */
enum hardware_controller {
    HARDWARE_CGROUP_CPU,
    HARDWARE_CGROUP_CPUACCT, /* v1 only: v2's cpu has it */
    HARDWARE_CGROUP_CPUSET,
    HARDWARE_CGROUP_MEMORY,
    HARDWARE_CGROUP_IO,
    HARDWARE_CGROUP_PIDS,
    HARDWARE_CGROUP_DEVICES, /* v1 only */
    HARDWARE_CGROUP_FREEZER, /* v1 only: v2 has cgroup.freeze in every group */
    HARDWARE_CGROUP_CONTROLLERS
};

struct hardware_cgroup {
    uint8_t version;    /* 0: not available, 1, 2 */
    uint16_t hierarchy; /* v1: the number in /proc/cgroups; v2: 0 */
    char mount[64];     /* mount point of its hierarchy; "" when not mounted or too long */
};

struct hardware_rdt_cache {
    bool present; /* its info directory is there */
    bool cdp;     /* mounted with code and data apart */
    uint32_t closids;
    uint64_t cbm_mask;
    uint32_t min_cbm_bits;
    uint64_t shareable_bits;
};

struct hardware_rdt {
    bool mounted;
    struct hardware_rdt_cache l3;
    struct hardware_rdt_cache l2;
    bool mb; /* memory bandwidth allocation */
    uint32_t mb_closids;
    uint32_t mb_min;  /* percent; AMD: 1/8 GB/s */
    uint32_t mb_gran; /* as mb_min */
    bool mon;
    uint32_t rmids;
    bool mon_occupancy;
    bool mon_mbm_total;
    bool mon_mbm_local;
    uint32_t max_threshold_occupancy; /* bytes */
};

struct hardware_facts {
    uint8_t arch;                       /* enum hardware_arch */
    char vendor[HARDWARE_TEXT_MAX];     /* "GenuineIntel" */
    char brand[HARDWARE_TEXT_MAX];      /* trimmed, single spaces */
    char hypervisor[HARDWARE_TEXT_MAX]; /* "" on bare metal, "KVM", "VMware", …; "unknown" */
    uint32_t family;
    uint32_t model;
    uint32_t stepping;
    uint32_t microarch_level; /* X86_64_V1..V4 by usable capabilities: 1-4; 0 elsewhere */
    uint32_t base_mhz;        /* 0: unknown. For display and the prior only: never schedule on it */
    uint32_t max_mhz;         /* 0: unknown */

    uint32_t cpus_online;
    uint32_t cpus_usable;     /* our affinity, which holds our cpuset */
    uint32_t cpu_quota_milli; /* tightest quota over us in thousandths of a CPU; 0: none */
    uint32_t cores;
    uint32_t threads_per_core;
    uint32_t sockets;
    uint32_t numa_nodes;
    uint32_t cache_count;
    struct hardware_cache caches[HARDWARE_CACHES_MAX];

    uint64_t memory_bytes;          /* MemTotal */
    uint64_t memory_limit_bytes;    /* tightest cgroup limit over us; 0: none */
    uint8_t data_dir_rotational;    /* enum hardware_answer */
    char kernel[HARDWARE_TEXT_MAX]; /* release: "6.1.0-25-amd64" */
    uint32_t kernel_major;
    uint32_t kernel_minor;

    struct hardware_cgroup cgroups[HARDWARE_CGROUP_CONTROLLERS];
    char cgroup2_mount[64]; /* where cgroup2 is mounted; "" when nowhere */

    uint64_t xcr0;
    bool flags_known;           /* /proc/cpuinfo's flags were read */
    struct hardware_caps flags; /* what they said; means nothing without flags_known */
    struct hardware_caps raw;
    struct hardware_caps usable;
    struct hardware_caps masked; /* what node.capabilities_mask takes away */
    struct hardware_rdt rdt;
};

/* ---- capabilities --------------------------------------------------------------------------- */

bool hardware_caps_has(const struct hardware_caps *c, enum hardware_cap cap);
void hardware_caps_set(struct hardware_caps *c, enum hardware_cap cap);
unsigned hardware_caps_count(const struct hardware_caps *c);
/* The whole name ("cpu-cpuid.AESNI"), or NULL for a number without a name. Static text. */
const char *hardware_cap_name(enum hardware_cap cap);
/* By whole or short name, case folded ("cpu-cpuid.AESNI", "AESNI", "PCLMULQDQ" and other known
 * spellings). On a name that two architectures share, arch decides (HARDWARE_ARCH_UNKNOWN: x86
 * first). 0 or -ENOENT. */
int hardware_cap_by_name(struct str name, enum hardware_arch arch, enum hardware_cap *ret);
/* 48 hex digits for the table and the wire; dst holds 49. The reverse: 0 or -EINVAL. */
void hardware_caps_hex(const struct hardware_caps *c, char dst[49]);
int hardware_caps_unhex(struct str s, struct hardware_caps *ret);

/* node.capabilities_mask: names to take away, separated by commas or spaces, each with an optional
 * leading '-': "-AESNI,-SHA". Taking one away takes with it what builds on it (-AVX also AVX2 and
 * AVX512…). "" is no mask. -EINVAL names the first word that is no capability. */
int hardware_mask_parse(struct str s, struct hardware_caps *ret, struct err *e);
/* Usable loses what the mask holds; masked remembers it; the microarchitecture level follows. */
void hardware_mask_apply(struct hardware_facts *f, const struct hardware_caps *mask);
/* What makes a sandboxed program see the mask too: the value of OPENSSL_ia32cap and of
 * GLIBC_TUNABLES; "" when the mask holds nothing that they can express. x86 only. */
enum { HARDWARE_MASK_ENV_MAX = 512 };
void hardware_mask_openssl(const struct hardware_caps *mask, char dst[HARDWARE_MASK_ENV_MAX]);
void hardware_mask_glibc(const struct hardware_caps *mask, char dst[HARDWARE_MASK_ENV_MAX]);

/* ---- node class ----------------------------------------------------------------------------- */

/* Bytes of the last level cache (the largest level's unified or data cache), 0 when unknown. */
uint64_t hardware_llc_bytes(const struct hardware_facts *f);
uint32_t hardware_llc_ways(const struct hardware_facts *f);
/* The class: 16 hex digits over architecture, vendor, family, model, brand, usable capabilities
 * that change how fast code runs (RDT is not among them: mounting resctrl must not orphan profiles)
 * and the cache size rounded down to a power of two. Equal on every node, compiler and version. id
 * is NUL-terminated. */
void hardware_class(const struct hardware_facts *f, char id[HARDWARE_CLASS_LEN + 1]);

/* ---- JSON ----------------------------------------------------------------------------------- */

/* One object: "class", "arch", "cpu", "caches", "memory", "kernel", "cgroup", "rdt",
 * "capabilities" (usable names), "capabilities_unusable" (raw but not usable). */
void hardware_to_json(const struct hardware_facts *f, struct json_w *w);

/* ---- pure readers --------------------------------------------------------------------------- */

struct hardware_cpuid_leaf {
    uint32_t leaf, subleaf;
    uint32_t eax, ebx, ecx, edx;
};
struct hardware_cpuid {
    uint32_t count;
    uint64_t xcr0; /* 0 when OSXSAVE is off */
    struct hardware_cpuid_leaf leaves[HARDWARE_CPUID_MAX];
};
/* Fills arch, vendor, brand, family, model, stepping, hypervisor, frequencies, caches, raw and
 * xcr0, and threads per core as far as the leaves tell. */
void hardware_decode_cpuid(const struct hardware_cpuid *t, struct hardware_facts *f);
/* arm64: sets arch, raw and usable from the two HWCAP words. */
void hardware_decode_hwcap(uint64_t hwcap, uint64_t hwcap2, struct hardware_facts *f);

/* usable = raw, and in the kernel's flags (when known), and allowed by XCR0, and what it builds on
 * is usable; without masked. RDT names by f->rdt. Sets microarch_level. Call it last. */
void hardware_settle(struct hardware_facts *f);

/* The first processor's block of /proc/cpuinfo: flags as capabilities, and the fields that CPUID
 * left empty. Only the first 32 KiB are looked at. */
struct hardware_cpuinfo {
    bool flags_seen;
    struct hardware_caps flags;
    char vendor[HARDWARE_TEXT_MAX];
    char model_name[HARDWARE_TEXT_MAX];
    uint32_t family, model, stepping;
    uint32_t mhz;
    uint32_t siblings, cores; /* per socket; 0: not said */
    bool rdt_l3, rdt_l2, rdt_mba, rdt_cmt,
        rdt_mbm; /* cat_l3, cat_l2, mba, cqm_occup_llc, cqm_mbm_* */
};
void hardware_parse_cpuinfo(struct str text, struct hardware_cpuinfo *ret);
/* Joins them: the kernel's word on the flags, and what f does not know yet. */
void hardware_merge_cpuinfo(struct hardware_facts *f, const struct hardware_cpuinfo *ci);

/* "0-3,8,10-11": how many; *ret_first is the first (may be NULL). Malformed text: 0. */
uint32_t hardware_parse_cpulist(struct str text, uint32_t *ret_first);
/* The lowest CPU after `after` (or from 0 with after = UINT32_MAX) in the list; false at the end.
 */
bool hardware_cpulist_next(struct str text, uint32_t after, uint32_t *ret);
/* Files of /sys/devices/system/cpu/cpuN/cache/indexM. 0 or -EINVAL. */
int hardware_parse_cache(struct str level, struct str type, struct str size, struct str ways,
                         struct str line, struct str cpus, struct hardware_cache *ret);
uint64_t hardware_parse_meminfo(struct str text); /* MemTotal in bytes, or 0 */
void hardware_parse_kernel(struct str release, struct hardware_facts *f);
/* /proc/cgroups: which controllers a v1 hierarchy holds. */
void hardware_parse_cgroups(struct str text, struct hardware_facts *f);
/* A cgroup.controllers file of v2's root: controllers that v1 does not hold become v2's. */
void hardware_parse_cgroup_controllers(struct str text, struct hardware_facts *f);
/* /proc/self/mountinfo: mount points of the cgroup hierarchies. true when resctrl is mounted, with
 * where in rdt_mount (64 bytes, may be NULL). */
bool hardware_parse_mountinfo(struct str text, struct hardware_facts *f, char *rdt_mount);
/* Our own path in a controller's hierarchy from /proc/self/cgroup ("/system.slice/agent.service");
 * version 2: the "0::" line. false when there is none or it does not fit cap. */
bool hardware_parse_cgroup_path(struct str text, unsigned version, const char *controller,
                                char *dst, size_t cap);
/* cpu.max ("150000 100000"), in thousandths of a CPU; 0: no limit or not understood. */
uint32_t hardware_parse_cpu_max(struct str text);
/* v1's cpu.cfs_quota_us and cpu.cfs_period_us. */
uint32_t hardware_parse_cfs(struct str quota, struct str period);
/* memory.max or memory.limit_in_bytes; 0: no limit. */
uint64_t hardware_parse_memory_limit(struct str text);

/* One file of resctrl's info tree, path relative to it ("L3/cbm_mask", "L3_MON/num_rmids"). Unknown
 * paths are ignored. */
void hardware_parse_rdt(struct hardware_rdt *r, const char *path, struct str text);

/* ---- the machine ---------------------------------------------------------------------------- */

struct hardware_options {
    const char *resctrl_path;  /* NULL: /sys/fs/resctrl */
    bool resctrl_any_fs;       /* do not ask for the file system's magic (an emulator under FUSE) */
    const char *data_dir;      /* whose disk is asked about; NULL: not asked */
    const char *root;          /* tests: prefix of /proc and /sys; NULL: none */
    struct hardware_caps mask; /* node.capabilities_mask, parsed */
};
/* Reads everything. Blocking, some milliseconds on big machines: at start, not in the loop. Fails
 * only when /proc is not there (-ENOENT) or the affinity cannot be read; anything else that is
 * missing leaves its fact unknown. opt may be NULL. */
int hardware_probe(struct hardware_facts *ret, const struct hardware_options *opt, struct err *e);

#endif
