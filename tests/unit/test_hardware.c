/* CPUID tables and kernel text into facts; masks, node class; and this machine beside lscpu's
 * source, /proc/cpuinfo. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/hardware/hardware.h"
#include "agent/hardware/hardware_internal.h"
#include "common/rng.h"

static uint32_t word(const char *s)
{
    return (uint32_t)(uint8_t)s[0] | (uint32_t)(uint8_t)s[1] << 8 | (uint32_t)(uint8_t)s[2] << 16 |
           (uint32_t)(uint8_t)s[3] << 24;
}

static struct hardware_cpuid_leaf *add(struct hardware_cpuid *t, uint32_t leaf, uint32_t sub)
{
    struct hardware_cpuid_leaf *l = &t->leaves[t->count++];

    *l = (struct hardware_cpuid_leaf){ .leaf = leaf, .subleaf = sub };
    return l;
}

/* An Ice Lake like processor: 2 threads a core, 12-way 18 MiB cache, RDT. */
static struct hardware_cpuid icelake(void)
{
    struct hardware_cpuid t = { .xcr0 = 0xe7 };
    struct hardware_cpuid_leaf *l = add(&t, 0, 0);

    l->ebx = word("Genu");
    l->edx = word("ineI");
    l->ecx = word("ntel");
    l = add(&t, 1, 0);
    l->eax = 0x000606a6; /* family 6, model 0x6a, stepping 6 */
    l->ecx = 1U << 25 | 1U << 1 | 1U << 28 | 1U << 27 | 1U << 26 | 1U << 12 | 1U << 29 | 1U << 0 |
             1U << 9 | 1U << 19 | 1U << 20 | 1U << 13 | 1U << 23 | 1U << 22;
    l->edx = 1U << 0 | 1U << 8 | 1U << 15 | 1U << 23 | 1U << 24 | 1U << 25 | 1U << 26;
    l = add(&t, 7, 0);
    l->ebx = 1U << 5 | 1U << 3 | 1U << 8 | 1U << 12 | 1U << 15 | 1U << 16 | 1U << 17 | 1U << 28 |
             1U << 29 | 1U << 30 | 1U << 31;
    l->ecx = 1U << 9 | 1U << 10;
    l = add(&t, 0xb, 0);
    l->ebx = 2;
    l->ecx = 1U << 8;
    l = add(&t, 0xf, 0);
    l->edx = 2;
    l = add(&t, 0xf, 1);
    l->edx = 7;
    l = add(&t, 0x10, 0);
    l->ebx = 2 | 8;
    l = add(&t, 0x16, 0);
    l->eax = 2400;
    l->ebx = 3500;
    l = add(&t, 4, 0);
    l->eax = 1 | 1 << 5 | 1 << 14;
    l->ebx = 63 | 11U << 22;
    l->ecx = 63;
    l = add(&t, 4, 1);
    l->eax = 3 | 3 << 5 | 31 << 14;
    l->ebx = 63 | 11U << 22;
    l->ecx = 24575;
    l = add(&t, 0x80000001U, 0);
    l->ecx = 1 | 1 << 5;
    l = add(&t, 0x80000002U, 0);
    l->eax = word("  In");
    l->ebx = word("tel ");
    l->ecx = word("  Xe");
    l->edx = word("on\x01 ");
    return t;
}

static void decodes_cpuid(void **state)
{
    (void)state;
    struct hardware_cpuid t = icelake();
    struct hardware_facts f = { 0 };

    hardware_decode_cpuid(&t, &f);
    hardware_settle(&f);
    assert_string_equal(f.vendor, "GenuineIntel");
    assert_string_equal(f.brand, "Intel Xeon?");
    assert_int_equal(f.family, 6);
    assert_int_equal(f.model, 0x6a);
    assert_int_equal(f.stepping, 6);
    assert_int_equal(f.base_mhz, 2400);
    assert_int_equal(f.max_mhz, 3500);
    assert_int_equal(f.threads_per_core, 2);
    assert_string_equal(f.hypervisor, "");
    assert_int_equal(f.cache_count, 2);
    assert_int_equal(f.caches[0].size_bytes, 48 << 10);
    assert_int_equal(hardware_llc_bytes(&f), 18 << 20);
    assert_int_equal(hardware_llc_ways(&f), 12);
    assert_int_equal(f.caches[1].sharers, 32);
    assert_int_equal(f.microarch_level, 4);
    assert_true(hardware_caps_has(&f.usable, HARDWARE_CAP_VAES));
    assert_true(hardware_caps_has(&f.raw, HARDWARE_CAP_RDTL3CA));
    assert_true(hardware_caps_has(&f.raw, HARDWARE_CAP_RDTMBM));
    assert_false(hardware_caps_has(&f.raw, HARDWARE_CAP_RDTL2CA));
    assert_false(hardware_caps_has(&f.usable, HARDWARE_CAP_RDTL3CA)); /* resctrl is not mounted */
}

static void amd_family_and_hypervisors(void **state)
{
    (void)state;
    static const struct {
        const char *signature;
        const char *name;
    } vendors[] = { { "KVMKVMKVM\0\0\0", "KVM" },
                    { "Microsoft Hv", "Hyper-V" },
                    { "NewOneNewOne", "NewOneNewOne" },
                    { "\0\0\0\0\0\0\0\0\0\0\0\0", "unknown" } };

    for (size_t i = 0; i < 4; i++) {
        struct hardware_cpuid t = { 0 };
        struct hardware_facts f = { 0 };
        struct hardware_cpuid_leaf *l = add(&t, 1, 0);
        l->eax = 0x00a10f11; /* family 0xf + 0xa, model 0x11 */
        l->ecx = 1U << 31;
        l = add(&t, 0x40000000, 0);
        l->ebx = word(vendors[i].signature);
        l->ecx = word(vendors[i].signature + 4);
        l->edx = word(vendors[i].signature + 8);
        l = add(&t, 0x8000001dU, 0);
        l->eax = 3 | 3 << 5 | 15 << 14;
        l->ebx = 63 | 15U << 22;
        l->ecx = 32767;
        l = add(&t, 0x8000001eU, 0);
        l->ebx = 1 << 8;
        hardware_decode_cpuid(&t, &f);
        assert_int_equal(f.family, 25);
        assert_int_equal(f.model, 0x11);
        assert_string_equal(f.hypervisor, vendors[i].name);
        assert_int_equal(hardware_llc_bytes(&f), 32 << 20);
        assert_int_equal(f.threads_per_core, 2);
    }
}

/* The processor says yes; the kernel, XCR0 or the mask say no. */
static void usable_is_less_than_raw(void **state)
{
    (void)state;
    struct hardware_cpuid t = icelake();
    struct hardware_facts f = { 0 };
    struct hardware_cpuinfo ci;
    struct hardware_caps mask;

    hardware_decode_cpuid(&t, &f);
    f.xcr0 = 0x7; /* no AVX-512 state */
    hardware_settle(&f);
    assert_true(hardware_caps_has(&f.raw, HARDWARE_CAP_AVX512F));
    assert_false(hardware_caps_has(&f.usable, HARDWARE_CAP_AVX512F));
    assert_true(hardware_caps_has(&f.usable, HARDWARE_CAP_AVX2));
    assert_int_equal(f.microarch_level, 3);

    hardware_parse_cpuinfo(
        STR("processor\t: 0\nflags\t\t: fpu cx8 cmov mmx fxsr sse sse2 pni ssse3 "
            "sse4_1 sse4_2 cx16 popcnt lahf_lm aes sha_ni cat_l3 mba\n\nflags: avx\n"),
        &ci);
    assert_true(ci.flags_seen && ci.rdt_l3 && ci.rdt_mba && !ci.rdt_cmt);
    hardware_merge_cpuinfo(&f, &ci);
    hardware_settle(&f);
    assert_true(hardware_caps_has(&f.usable, HARDWARE_CAP_AESNI));
    assert_false(hardware_caps_has(&f.usable, HARDWARE_CAP_AVX));
    assert_false(hardware_caps_has(&f.usable, HARDWARE_CAP_VAES)); /* its flag is missing too */
    assert_int_equal(f.microarch_level, 2);

    assert_int_equal(hardware_mask_parse(STR("-SSE2"), &mask, NULL), 0);
    hardware_mask_apply(&f, &mask);
    assert_false(hardware_caps_has(&f.usable, HARDWARE_CAP_AESNI));
    assert_int_equal(f.microarch_level, 0);
}

static void masks(void **state)
{
    (void)state;
    struct hardware_caps m;
    struct hardware_caps m2;
    struct err e = { 0 };
    char env[HARDWARE_MASK_ENV_MAX];
    char hex[49];

    assert_int_equal(hardware_mask_parse(STR(""), &m, &e), 0);
    assert_int_equal(hardware_caps_count(&m), 0);
    hardware_mask_openssl(&m, env);
    assert_string_equal(env, "");
    hardware_mask_glibc(&m, env);
    assert_string_equal(env, "");

    assert_int_equal(hardware_mask_parse(STR(" -cpu-cpuid.AESNI,clmul , -sha_ni"), &m, &e), 0);
    assert_true(hardware_caps_has(&m, HARDWARE_CAP_AESNI));
    assert_true(hardware_caps_has(&m, HARDWARE_CAP_VAES)); /* builds on AESNI */
    assert_true(hardware_caps_has(&m, HARDWARE_CAP_VPCLMULQDQ));
    assert_int_equal(hardware_caps_count(&m), 5);
    hardware_mask_openssl(&m, env);
    assert_string_equal(env, "~0x200000200000000:~0x60020000000");
    hardware_caps_hex(&m, hex);
    assert_int_equal(strlen(hex), 48);
    assert_int_equal(hardware_caps_unhex(str_of(hex), &m2), 0);
    assert_memory_equal(&m, &m2, sizeof(m));
    assert_int_not_equal(hardware_caps_unhex(STR("12"), &m2), 0);

    assert_int_equal(hardware_mask_parse(STR("-AVX512F"), &m, &e), 0);
    hardware_mask_openssl(&m, env);
    assert_true(strncmp(env, ":~0x", 4) == 0);
    hardware_mask_glibc(&m, env);
    assert_true(strncmp(env, "glibc.cpu.hwcaps=-AVX512BW,", 27) == 0);
    assert_null(strstr(env, "-AVX2"));
    assert_int_equal(hardware_mask_parse(STR("-AVX"), &m, &e), 0);
    hardware_mask_glibc(&m, env);
    assert_non_null(strstr(env, ",-AVX2"));

    /* Everything at once still fits. */
    memset(&m, 0xff, sizeof(m));
    hardware_mask_glibc(&m, env);
    assert_non_null(strstr(env, "-XSAVEC"));

    assert_int_equal(hardware_mask_parse(STR("-AESNI,-WARP9"), &m, &e), -EINVAL);
    assert_non_null(strstr(err_text(&e), "-WARP9"));
    assert_int_equal(hardware_mask_parse(STR("-"), &m, &e), -EINVAL);
}

static void names(void **state)
{
    (void)state;
    unsigned named = 0;

    for (unsigned c = 0; c < HARDWARE_CAP_COUNT; c++) {
        const char *name = hardware_cap_name((enum hardware_cap)c);
        enum hardware_cap back = HARDWARE_CAP_ADX;
        enum hardware_arch arch =
            c >= HARDWARE_CAP_ARM ? HARDWARE_ARCH_ARM64 : HARDWARE_ARCH_X86_64;
        if (name == NULL) {
            assert_true((c >= HARDWARE_CAP_X86_END && c < HARDWARE_CAP_RDTMON) ||
                        (c >= HARDWARE_CAP_RDT_END && c < HARDWARE_CAP_ARM));
            continue;
        }
        named++;
        assert_true(strlen(name) < HARDWARE_CAP_NAME_MAX);
        assert_int_equal(hardware_cap_by_name(str_of(name), arch, &back), 0);
        assert_int_equal(back, c);
    }
    assert_int_equal(named, 95 + 6 + 64);
    enum hardware_cap cap = HARDWARE_CAP_ADX;
    assert_int_equal(hardware_cap_by_name(STR("aes"), HARDWARE_ARCH_X86_64, &cap), 0);
    assert_int_equal(cap, HARDWARE_CAP_AESNI);
    assert_int_equal(hardware_cap_by_name(STR("AES"), HARDWARE_ARCH_ARM64, &cap), 0);
    assert_int_equal(cap, HARDWARE_CAP_ARM_AES);
    assert_int_equal(hardware_cap_by_name(STR("cpu-cpuid.PCLMULQDQ"), HARDWARE_ARCH_X86_64, &cap),
                     0);
    assert_int_equal(cap, HARDWARE_CAP_CLMUL);
    assert_int_equal(hardware_cap_by_name(STR("cpu-rdt.RDTCMT"), HARDWARE_ARCH_X86_64, &cap), 0);
    assert_int_equal(cap, HARDWARE_CAP_RDTCMT);
    assert_int_equal(hardware_cap_by_name(STR(""), HARDWARE_ARCH_X86_64, &cap), -ENOENT);
    assert_int_equal(hardware_cap_by_name(STR("cpu-cpuid."), HARDWARE_ARCH_X86_64, &cap), -ENOENT);
}

static void arm(void **state)
{
    (void)state;
    struct hardware_facts f = { 0 };
    struct hardware_caps mask;

    hardware_decode_hwcap(1U << 3 | 1U << 6 | 1U << 21, 1U << 1, &f);
    hardware_settle(&f);
    assert_true(hardware_caps_has(&f.usable, HARDWARE_CAP_ARM_AES));
    assert_true(hardware_caps_has(&f.usable, HARDWARE_CAP_ARM_SHA2));
    assert_true(hardware_caps_has(&f.usable, HARDWARE_CAP_ARM_SHA512));
    assert_true(hardware_caps_has(&f.usable, HARDWARE_CAP_ARM_SVE2));
    assert_int_equal(hardware_caps_count(&f.usable), 4);
    assert_int_equal(hardware_mask_parse(STR("-AES"), &mask, NULL), 0);
    hardware_mask_apply(&f, &mask);
    assert_false(hardware_caps_has(&f.usable, HARDWARE_CAP_ARM_AES));
}

static void classes(void **state)
{
    (void)state;
    struct hardware_cpuid t = icelake();
    struct hardware_facts f = { 0 };
    struct hardware_facts g;
    struct hardware_caps mask;
    char a[HARDWARE_CLASS_LEN + 1];
    char b[HARDWARE_CLASS_LEN + 1];

    hardware_decode_cpuid(&t, &f);
    hardware_settle(&f);
    hardware_class(&f, a);
    assert_string_equal(a, "8f43fd6a953b3680"); /* the id is the same on every node and for ever */

    g = f; /* what does not make another class */
    g.rdt.mounted = g.rdt.l3.present = true;
    g.cpus_usable = 3;
    g.memory_bytes = 5;
    g.stepping = 9;
    g.caches[1].size_bytes = 30 << 20;
    hardware_caps_set(&g.raw, HARDWARE_CAP_HYPERVISOR);
    hardware_settle(&g);
    hardware_class(&g, b);
    assert_string_equal(a, b);

    g = f; /* what does */
    g.caches[1].size_bytes = 32 << 20;
    hardware_class(&g, b);
    assert_string_not_equal(a, b);
    g = f;
    g.model++;
    hardware_class(&g, b);
    assert_string_not_equal(a, b);
    g = f;
    assert_int_equal(hardware_mask_parse(STR("-AESNI"), &mask, NULL), 0);
    hardware_mask_apply(&g, &mask);
    hardware_class(&g, b);
    assert_string_not_equal(a, b);
}

static void cpulists(void **state)
{
    (void)state;
    uint32_t v = 77;

    assert_int_equal(hardware_parse_cpulist(STR("0-3,8,10-11\n"), &v), 7);
    assert_int_equal(v, 0);
    assert_int_equal(hardware_parse_cpulist(STR("5"), &v), 1);
    assert_int_equal(v, 5);
    assert_int_equal(hardware_parse_cpulist(STR("\n"), &v), 0);
    assert_int_equal(hardware_parse_cpulist(STR("3-1"), &v), 0);
    assert_int_equal(hardware_parse_cpulist(STR("0-999999999"), &v), 0);
    assert_int_equal(hardware_parse_cpulist(STR("a"), &v), 0);
    assert_true(hardware_cpulist_next(STR("2-3,9"), UINT32_MAX, &v) && v == 2);
    assert_true(hardware_cpulist_next(STR("2-3,9"), 2, &v) && v == 3);
    assert_true(hardware_cpulist_next(STR("2-3,9"), 3, &v) && v == 9);
    assert_false(hardware_cpulist_next(STR("2-3,9"), 9, &v));
}

static void caches(void **state)
{
    (void)state;
    struct hardware_cache c;
    char many[512];
    size_t n = 0;

    assert_int_equal(hardware_parse_cache(STR("3\n"), STR("Unified\n"), STR("266240K\n"),
                                          STR("20\n"), STR("64\n"), STR("0-1\n"), &c),
                     0);
    assert_int_equal(c.size_bytes, 272629760);
    assert_int_equal(c.sharers, 2);
    assert_string_equal(c.cpus, "0-1");
    for (unsigned i = 0; i < 100; i++) {
        n += (size_t)snprintf(many + n, sizeof(many) - n, "%s%u", i == 0 ? "" : ",", 2 * i);
    }
    assert_int_equal(hardware_parse_cache(STR("1"), STR("Data"), STR("48K"), STR(""), STR(""),
                                          (struct str){ many, n }, &c),
                     0);
    assert_int_equal(c.sharers, 100);
    assert_true(strlen(c.cpus) < sizeof(c.cpus) && strncmp(many, c.cpus, strlen(c.cpus)) == 0);
    assert_int_equal(many[strlen(c.cpus)], ',');
    assert_int_equal(
        hardware_parse_cache(STR("9"), STR("Data"), STR("1K"), STR(""), STR(""), STR(""), &c),
        -EINVAL);
    assert_int_equal(
        hardware_parse_cache(STR("1"), STR("Magic"), STR("1K"), STR(""), STR(""), STR(""), &c),
        -EINVAL);
    assert_int_equal(
        hardware_parse_cache(STR("1"), STR("Data"), STR(""), STR(""), STR(""), STR(""), &c),
        -EINVAL);
}

static const char mountinfo[] =
    "23 27 0:22 / /sys rw,relatime - sysfs sysfs rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:3 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
    "42 31 0:39 / /mnt/a\\040b rw,relatime - cgroup cgroup rw,pids\n"
    "43 31 0:40 / /sys/fs/resctrl rw,relatime shared:11 - resctrl resctrl rw\n"
    "broken line -\n";

static void cgroups(void **state)
{
    (void)state;
    struct hardware_facts f = { 0 };
    char where[64];
    char path[64];

    hardware_parse_cgroups(STR("#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\n"
                               "cpu\t1\t1\t1\ncpuacct\t1\t1\t1\nmemory\t4\t14\t1\npids\t0\t1\t1\n"
                               "blkio\t0\t1\t1\n"),
                           &f);
    assert_true(hardware_parse_mountinfo(str_of(mountinfo), &f, where));
    assert_string_equal(where, "/sys/fs/resctrl");
    hardware_parse_cgroup_controllers(STR("cpu io pids hugetlb\n"), &f);
    assert_int_equal(f.cgroups[HARDWARE_CGROUP_CPU].version, 1);
    assert_int_equal(f.cgroups[HARDWARE_CGROUP_CPU].hierarchy, 1);
    assert_string_equal(f.cgroups[HARDWARE_CGROUP_CPU].mount, "/sys/fs/cgroup/cpu,cpuacct");
    assert_string_equal(f.cgroups[HARDWARE_CGROUP_CPUACCT].mount, "/sys/fs/cgroup/cpu,cpuacct");
    assert_int_equal(f.cgroups[HARDWARE_CGROUP_MEMORY].version, 1);
    assert_int_equal(f.cgroups[HARDWARE_CGROUP_PIDS].version, 2);
    assert_string_equal(f.cgroups[HARDWARE_CGROUP_PIDS].mount, "/sys/fs/cgroup/unified");
    assert_int_equal(f.cgroups[HARDWARE_CGROUP_IO].version, 2);
    assert_int_equal(f.cgroups[HARDWARE_CGROUP_FREEZER].version, 0);

    const struct str own = STR("4:memory:/a/b\n1:cpu,cpuacct:/c\n0::/system.slice/agent.service\n");
    assert_true(hardware_parse_cgroup_path(own, 1, "memory", path, sizeof(path)));
    assert_string_equal(path, "/a/b");
    assert_true(hardware_parse_cgroup_path(own, 1, "cpuacct", path, sizeof(path)));
    assert_string_equal(path, "/c");
    assert_true(hardware_parse_cgroup_path(own, 2, "memory", path, sizeof(path)));
    assert_string_equal(path, "/system.slice/agent.service");
    assert_false(hardware_parse_cgroup_path(own, 1, "blkio", path, sizeof(path)));
    assert_false(hardware_parse_cgroup_path(own, 1, "memory", path, 3));
    assert_int_equal(hardware_parse_cpu_max(STR("150000 100000\n")), 1500);
    assert_int_equal(hardware_parse_cpu_max(STR("max 100000\n")), 0);
    assert_int_equal(hardware_parse_cpu_max(STR("1 100000\n")), 1);
    assert_int_equal(hardware_parse_cfs(STR("-1\n"), STR("100000\n")), 0);
    assert_int_equal(hardware_parse_cfs(STR("50000\n"), STR("100000\n")), 500);
    assert_int_equal(hardware_parse_memory_limit(STR("max\n")), 0);
    assert_int_equal(hardware_parse_memory_limit(STR("9223372036854771712\n")), 0);
    assert_int_equal(hardware_parse_memory_limit(STR("1073741824\n")), 1 << 30);
    assert_int_equal(hardware_parse_meminfo(STR("MemTotal:       24684092 kB\nMemFree: 1 kB\n")),
                     24684092ULL * 1024);
    assert_int_equal(hardware_parse_meminfo(STR("MemTotal: 99999999999999999999 kB\n")), 0);
    hardware_parse_kernel(STR("6.1.0-25-amd64\n"), &f);
    assert_int_equal(f.kernel_major, 6);
    assert_int_equal(f.kernel_minor, 1);
    assert_string_equal(f.kernel, "6.1.0-25-amd64");
}

static void resctrl(void **state)
{
    (void)state;
    struct hardware_facts f = { .arch = HARDWARE_ARCH_X86_64 };

    hardware_parse_rdt(&f.rdt, "L3/num_closids", STR("16\n"));
    hardware_parse_rdt(&f.rdt, "L3/cbm_mask", STR("fffff\n"));
    hardware_parse_rdt(&f.rdt, "L3/min_cbm_bits", STR("1\n"));
    hardware_parse_rdt(&f.rdt, "L3/shareable_bits", STR("c0000\n"));
    hardware_parse_rdt(&f.rdt, "MB/num_closids", STR("8\n"));
    hardware_parse_rdt(&f.rdt, "MB/min_bandwidth", STR("10\n"));
    hardware_parse_rdt(&f.rdt, "L3_MON/num_rmids", STR("192\n"));
    hardware_parse_rdt(
        &f.rdt, "L3_MON/mon_features",
        STR("llc_occupancy\nmbm_total_bytes\nmbm_total_bytes_config\nmbm_local_bytes\n"));
    hardware_parse_rdt(&f.rdt, "L3_MON/max_threshold_occupancy", STR("98304\n"));
    hardware_parse_rdt(&f.rdt, "what/ever", STR("5\n"));
    hardware_parse_rdt(&f.rdt, "last_cmd_status", STR("ok\n"));
    assert_int_equal(f.rdt.l3.closids, 16);
    assert_int_equal(f.rdt.l3.cbm_mask, 0xfffff);
    assert_int_equal(f.rdt.l3.shareable_bits, 0xc0000);
    assert_int_equal(f.rdt.mb_closids, 8);
    assert_int_equal(f.rdt.rmids, 192);
    assert_false(f.rdt.l2.present);
    hardware_settle(&f);
    assert_int_equal(hardware_caps_count(&f.usable), 0); /* not mounted */
    f.rdt.mounted = true;
    hardware_settle(&f);
    assert_true(hardware_caps_has(&f.usable, HARDWARE_CAP_RDTCMT));
    assert_true(hardware_caps_has(&f.usable, HARDWARE_CAP_RDTMBM));
    assert_true(hardware_caps_has(&f.usable, HARDWARE_CAP_RDTL3CA));
    assert_true(hardware_caps_has(&f.usable, HARDWARE_CAP_RDTMBA));
    assert_int_equal(hardware_caps_count(&f.usable), 5);
    hardware_parse_rdt(&f.rdt, "L2CODE/num_closids", STR("4\n"));
    assert_true(f.rdt.l2.present && f.rdt.l2.cdp);
}

/* Random CPUID tables: usable is within raw, what a usable one needs is usable, JSON parses. */
static void any_cpuid(void **state)
{
    (void)state;
    static const uint32_t leaves[] = { 0,          1,          4,          7,          0xb,
                                       0xd,        0xf,        0x10,       0x16,       0x40000000,
                                       0x80000001, 0x80000002, 0x80000003, 0x80000004, 0x80000008,
                                       0x8000001d, 0x8000001e };
    struct rng rng;
    uint64_t seed = 20261123;
    const char *s = getenv("TEST_SEED");

    if (s != NULL) {
        assert_int_equal(str_u64(str_of(s), &seed), 0);
    }
    print_message("seed %llu\n", (unsigned long long)seed);
    rng_init(&rng, seed);
    for (unsigned round = 0; round < 500; round++) {
        struct hardware_cpuid t = { .xcr0 = rng_u64(&rng) };
        struct hardware_facts f = { 0 };
        struct buf b = BUF_INIT(1 << 16);
        struct json_w w;
        struct json_doc *doc = NULL;
        struct err e = { 0 };
        while (t.count < HARDWARE_CPUID_MAX) {
            struct hardware_cpuid_leaf *l =
                add(&t, leaves[rng_below(&rng, 17)], (uint32_t)rng_below(&rng, 3));
            l->eax = (uint32_t)rng_u64(&rng);
            l->ebx = (uint32_t)rng_u64(&rng);
            l->ecx = (uint32_t)rng_u64(&rng);
            l->edx = (uint32_t)rng_u64(&rng);
        }
        hardware_decode_cpuid(&t, &f);
        hardware_settle(&f);
        for (unsigned c = 0; c < HARDWARE_CAP_X86_END; c++) {
            const struct hardware_cap_info *i = hardware_cap_info(c);
            if (hardware_caps_has(&f.usable, (enum hardware_cap)c)) {
                assert_true(hardware_caps_has(&f.raw, (enum hardware_cap)c));
                assert_true((f.xcr0 & i->xcr0) == i->xcr0);
                for (unsigned k = 0; k < 2; k++) {
                    assert_true(i->needs[k] == 0 ||
                                hardware_caps_has(&f.usable, (enum hardware_cap)i->needs[k]));
                }
            }
        }
        json_w_init(&w, &b, false);
        hardware_to_json(&f, &w);
        if (json_parse(b.data, b.len, NULL, &doc, &e) != 0) {
            fail_msg("%s in %s", err_text(&e), buf_cstr(&b));
        }
        (void)json_free(doc);
        buf_release(&b);
    }
}

/* This machine: what we say agrees with the kernel's own words, and nothing is made up. */
static void this_machine(void **state)
{
    (void)state;
    static char text[32768];
    struct hardware_facts f;
    struct hardware_facts again;
    struct hardware_options opt = { .data_dir = "/" };
    struct hardware_cpuinfo ci;
    struct err e = { 0 };
    FILE *in = fopen("/proc/cpuinfo", "r");

    assert_non_null(in);
    size_t n = fread(text, 1, sizeof(text), in);
    assert_int_equal(fclose(in), 0);
    hardware_parse_cpuinfo((struct str){ text, n }, &ci);
    memset(&f, 0xa5, sizeof(f));
    assert_int_equal(hardware_probe(&f, &opt, &e), 0);
    assert_int_equal(hardware_probe(&again, &opt, &e), 0);
    assert_memory_equal(&f.usable, &again.usable, sizeof(f.usable));
    assert_true(f.cpus_usable >= 1 && f.cpus_online >= f.cpus_usable);
    assert_int_equal(f.cpus_online, sysconf(_SC_NPROCESSORS_ONLN));
    assert_true(f.cores >= 1 && f.sockets >= 1 && f.numa_nodes >= 1);
    assert_int_equal(f.cores * f.threads_per_core, f.cpus_online);
    assert_true(f.memory_bytes > 64 << 20);
    assert_true(f.kernel_major >= 5 && f.kernel[0] != '\0');
    if (f.arch == HARDWARE_ARCH_X86_64) {
        assert_true(ci.flags_seen);
        assert_string_equal(f.vendor, ci.vendor);
        assert_string_equal(f.brand, ci.model_name);
        assert_int_equal(f.family, ci.family);
        assert_int_equal(f.model, ci.model);
        assert_int_equal(f.stepping, ci.stepping);
        assert_true(f.microarch_level >= 1);
        for (unsigned c = 0; c < HARDWARE_CAP_X86_END; c++) {
            const struct hardware_cap_info *i = hardware_cap_info(c);
            if (i->flag != NULL && hardware_caps_has(&f.usable, (enum hardware_cap)c)) {
                assert_true(hardware_caps_has(&ci.flags, (enum hardware_cap)c));
            }
            if (hardware_caps_has(&ci.flags, (enum hardware_cap)c) &&
                !hardware_caps_has(&f.usable, (enum hardware_cap)c)) {
                print_message("note: the kernel lists %s, and it is not usable\n", i->name);
            }
        }
    }
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[256];
    FILE *f = NULL;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (text == NULL) {
        assert_int_equal(mkdir(path, 0700), 0);
        return;
    }
    f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* A tree that looks like resctrl counts only when the file system's magic is not asked for. */
static void resctrl_elsewhere(void **state)
{
    (void)state;
    static const char *const made[] = { "info/L3/cbm_mask", "info/L3/num_closids", "info/L3",
                                        "info" };
    char dir[] = "/tmp/test_hardware.XXXXXX";
    struct hardware_options opt = { .resctrl_path = dir };
    struct hardware_facts f;
    struct err e = { 0 };

    assert_non_null(mkdtemp(dir));
    put(dir, "info", NULL);
    put(dir, "info/L3", NULL);
    put(dir, "info/L3/num_closids", "15\n");
    put(dir, "info/L3/cbm_mask", "7ff\n");
    assert_int_equal(hardware_probe(&f, &opt, &e), 0);
    assert_false(f.rdt.mounted);
    opt.resctrl_any_fs = true;
    assert_int_equal(hardware_mask_parse(STR("-AESNI"), &opt.mask, &e), 0);
    assert_int_equal(hardware_probe(&f, &opt, &e), 0);
    assert_true(f.rdt.mounted && f.rdt.l3.present);
    assert_int_equal(f.rdt.l3.closids, 15);
    assert_int_equal(f.rdt.l3.cbm_mask, 0x7ff);
    assert_true(hardware_caps_has(&f.usable, HARDWARE_CAP_RDTL3CA));
    assert_false(hardware_caps_has(&f.usable, HARDWARE_CAP_AESNI));
    for (size_t i = 0; i < sizeof(made) / sizeof(made[0]); i++) {
        char path[256];
        (void)snprintf(path, sizeof(path), "%s/%s", dir, made[i]);
        assert_int_equal(remove(path), 0);
    }
    opt.root = dir; /* no /proc under it */
    assert_int_equal(hardware_probe(&f, &opt, &e), -ENOENT);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_cpuid),
        cmocka_unit_test(amd_family_and_hypervisors),
        cmocka_unit_test(usable_is_less_than_raw),
        cmocka_unit_test(masks),
        cmocka_unit_test(names),
        cmocka_unit_test(arm),
        cmocka_unit_test(classes),
        cmocka_unit_test(cpulists),
        cmocka_unit_test(caches),
        cmocka_unit_test(cgroups),
        cmocka_unit_test(resctrl),
        cmocka_unit_test(any_cpuid),
        cmocka_unit_test(this_machine),
        cmocka_unit_test(resctrl_elsewhere),
    };

    return cmocka_run_group_tests_name("hardware", tests, NULL, NULL);
}
