/*
 * cpuid - decodes a table of CPUID leaves (and, on arm64, the HWCAP words). The reading of the
 * registers is sys_hardware.c's.
 */
#include <string.h>

#include "agent/hardware/hardware_internal.h"
#include "common/insist.h"

static const struct hardware_cpuid_leaf *leaf_find(const struct hardware_cpuid *t, uint32_t leaf,
                                                   uint32_t subleaf)
{
    static const struct hardware_cpuid_leaf none = { 0 };
    uint32_t n = t->count < HARDWARE_CPUID_MAX ? t->count : HARDWARE_CPUID_MAX;

    for (uint32_t i = 0; i < n; i++) {
        if (t->leaves[i].leaf == leaf && t->leaves[i].subleaf == subleaf) {
            return &t->leaves[i];
        }
    }
    return &none;
}

static void put32(char *dst, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++) {
        dst[i] = (char)(uint8_t)(v >> (8 * i));
    }
}

void hardware_clean_text(char *dst, size_t cap, struct str s)
{
    size_t n = 0;

    s = str_trim(s);
    for (size_t i = 0; i < s.n && s.p[i] != '\0' && n + 1 < cap; i++) {
        char c = s.p[i];
        if (c == ' ' || c == '\t') {
            if (n == 0 || dst[n - 1] == ' ') {
                continue;
            }
            c = ' ';
        }
        dst[n++] = c >= ' ' && c <= '~' ? c : '?';
    }
    while (n > 0 && dst[n - 1] == ' ') {
        n--;
    }
    dst[n] = '\0';
}

static void decode_names(const struct hardware_cpuid *t, struct hardware_facts *f)
{
    const struct hardware_cpuid_leaf *l = leaf_find(t, 0, 0);
    char text[48];

    put32(text, l->ebx);
    put32(text + 4, l->edx);
    put32(text + 8, l->ecx);
    hardware_clean_text(f->vendor, sizeof(f->vendor), (struct str){ text, 12 });
    for (uint32_t i = 0; i < 3; i++) {
        l = leaf_find(t, 0x80000002U + i, 0);
        put32(text + 16 * i, l->eax);
        put32(text + 16 * i + 4, l->ebx);
        put32(text + 16 * i + 8, l->ecx);
        put32(text + 16 * i + 12, l->edx);
    }
    hardware_clean_text(f->brand, sizeof(f->brand), (struct str){ text, sizeof(text) });
}

static void decode_model(const struct hardware_cpuid *t, struct hardware_facts *f)
{
    uint32_t eax = leaf_find(t, 1, 0)->eax;
    uint32_t family = eax >> 8 & 0xf;

    f->family = family == 0xf ? family + (eax >> 20 & 0xff) : family;
    f->model = eax >> 4 & 0xf;
    if (family == 0xf || family == 6) {
        f->model |= (eax >> 16 & 0xf) << 4;
    }
    f->stepping = eax & 0xf;
    f->base_mhz = leaf_find(t, 0x16, 0)->eax & 0xffff;
    f->max_mhz = leaf_find(t, 0x16, 0)->ebx & 0xffff;
}

static void decode_hypervisor(const struct hardware_cpuid *t, struct hardware_facts *f)
{
    static const struct {
        const char *signature;
        const char *name;
    } known[] = {
        { "KVMKVMKVM", "KVM" },           { "Linux KVM Hv", "KVM" },
        { "VMwareVMware", "VMware" },     { "Microsoft Hv", "Hyper-V" },
        { "XenVMMXenVMM", "Xen" },        { "TCGTCGTCGTCG", "QEMU" },
        { "bhyve bhyve", "bhyve" },       { "prl hyperv", "Parallels" },
        { "VBoxVBoxVBox", "VirtualBox" }, { "ACRNACRNACRN", "ACRN" },
        { "QNXQVMBSQG", "QNX" },          { "SRESRESRESRE", "LMHS" },
    };
    const struct hardware_cpuid_leaf *l = leaf_find(t, 0x40000000, 0);
    char text[12];

    f->hypervisor[0] = '\0';
    if ((leaf_find(t, 1, 0)->ecx >> 31) == 0) {
        return;
    }
    put32(text, l->ebx);
    put32(text + 4, l->ecx);
    put32(text + 8, l->edx);
    hardware_clean_text(f->hypervisor, sizeof(f->hypervisor), (struct str){ text, sizeof(text) });
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strcmp(f->hypervisor, known[i].signature) == 0) {
            hardware_clean_text(f->hypervisor, sizeof(f->hypervisor), str_of(known[i].name));
            return;
        }
    }
    if (f->hypervisor[0] == '\0') {
        hardware_clean_text(f->hypervisor, sizeof(f->hypervisor), STR("unknown"));
    }
}

static void decode_caps(const struct hardware_cpuid *t, struct hardware_facts *f)
{
    const struct hardware_cpuid_leaf *one = leaf_find(t, 1, 0);
    const struct hardware_cpuid_leaf *seven = leaf_find(t, 7, 0);
    const struct hardware_cpuid_leaf *seven1 = leaf_find(t, 7, 1);
    const struct hardware_cpuid_leaf *ext = leaf_find(t, 0x80000001U, 0);
    const uint32_t regs[REG_COUNT] = {
        [REG_L1_ECX] = one->ecx,
        [REG_L1_EDX] = one->edx,
        [REG_L7_EBX] = seven->ebx,
        [REG_L7_ECX] = seven->ecx,
        [REG_L7_EDX] = seven->edx,
        [REG_L71_EAX] = seven1->eax,
        [REG_L71_EDX] = seven1->edx,
        [REG_LD_EAX] = leaf_find(t, 0xd, 1)->eax,
        [REG_X1_ECX] = ext->ecx,
        [REG_X1_EDX] = ext->edx,
        [REG_X8_EBX] = leaf_find(t, 0x80000008U, 0)->ebx,
    };

    f->raw = (struct hardware_caps){ { 0 } };
    for (unsigned c = 0; c < HARDWARE_CAP_X86_END; c++) {
        const struct hardware_cap_info *i = hardware_cap_info(c);
        INSIST(i->name != NULL && i->reg != REG_NONE && i->reg < REG_COUNT);
        if ((regs[i->reg] >> i->bit & 1) != 0) {
            hardware_caps_set(&f->raw, (enum hardware_cap)c);
        }
    }
}

/* Leaf 7 says whether leaves 0xf (monitoring) and 0x10 (allocation) mean anything. */
static void decode_rdt(const struct hardware_cpuid *t, struct hardware_facts *f)
{
    uint32_t ebx = leaf_find(t, 7, 0)->ebx;

    if ((ebx & BIT(12)) != 0 && (leaf_find(t, 0xf, 0)->edx & BIT(1)) != 0) {
        uint32_t events = leaf_find(t, 0xf, 1)->edx;
        hardware_caps_set(&f->raw, HARDWARE_CAP_RDTMON);
        if ((events & BIT(0)) != 0) {
            hardware_caps_set(&f->raw, HARDWARE_CAP_RDTCMT);
        }
        if ((events & (BIT(1) | BIT(2))) == (BIT(1) | BIT(2))) {
            hardware_caps_set(&f->raw, HARDWARE_CAP_RDTMBM);
        }
    }
    if ((ebx & BIT(15)) != 0) {
        uint32_t kinds = leaf_find(t, 0x10, 0)->ebx;
        if ((kinds & BIT(1)) != 0) {
            hardware_caps_set(&f->raw, HARDWARE_CAP_RDTL3CA);
        }
        if ((kinds & BIT(2)) != 0) {
            hardware_caps_set(&f->raw, HARDWARE_CAP_RDTL2CA);
        }
        if ((kinds & BIT(3)) != 0) {
            hardware_caps_set(&f->raw, HARDWARE_CAP_RDTMBA);
        }
    }
}

/* Leaf 4 (Intel) and 0x8000001d (AMD) have one layout. */
static void decode_caches(const struct hardware_cpuid *t, struct hardware_facts *f)
{
    static const uint8_t types[] = { 0, HARDWARE_CACHE_DATA, HARDWARE_CACHE_CODE,
                                     HARDWARE_CACHE_UNIFIED };
    uint32_t leaf = (leaf_find(t, 4, 0)->eax & 0x1f) != 0 ? 4 : 0x8000001dU;

    f->cache_count = 0;
    for (uint32_t sub = 0; sub < HARDWARE_CACHES_MAX; sub++) {
        const struct hardware_cpuid_leaf *l = leaf_find(t, leaf, sub);
        uint32_t type = l->eax & 0x1f;
        if (type == 0 || type >= ARRAY_LEN(types)) {
            return;
        }
        uint64_t line = (l->ebx & 0xfff) + 1;
        uint64_t parts = (l->ebx >> 12 & 0x3ff) + 1;
        uint64_t ways = (l->ebx >> 22) + 1;
        uint64_t size = line * parts * ways * ((uint64_t)l->ecx + 1);
        if (size > CACHE_SIZE_MAX) {
            continue;
        }
        struct hardware_cache *c = &f->caches[f->cache_count++];
        *c = (struct hardware_cache){ 0 };
        c->level = (uint8_t)(l->eax >> 5 & 7);
        c->type = types[type];
        c->ways = (uint16_t)((l->eax & BIT(9)) != 0 ? 0 : ways); /* bit 9: fully associative */
        c->line_bytes = (uint32_t)line;
        c->size_bytes = size;
        c->sharers = (l->eax >> 14 & 0xfff) + 1;
    }
}

static void decode_threads(const struct hardware_cpuid *t, struct hardware_facts *f)
{
    const struct hardware_cpuid_leaf *l = leaf_find(t, 0xb, 0);

    if ((l->ecx >> 8 & 0xff) == 1 && (l->ebx & 0xffff) != 0) {
        f->threads_per_core = l->ebx & 0xffff;
    } else if (leaf_find(t, 0x8000001eU, 0)->leaf != 0) {
        f->threads_per_core = (leaf_find(t, 0x8000001eU, 0)->ebx >> 8 & 0xff) + 1;
    }
}

void hardware_decode_cpuid(const struct hardware_cpuid *t, struct hardware_facts *f)
{
    f->arch = HARDWARE_ARCH_X86_64;
    f->xcr0 = (leaf_find(t, 1, 0)->ecx & BIT(27)) != 0 ? t->xcr0 : 0;
    decode_names(t, f);
    decode_model(t, f);
    decode_hypervisor(t, f);
    decode_caps(t, f);
    decode_rdt(t, f);
    decode_caches(t, f);
    decode_threads(t, f);
}

void hardware_decode_hwcap(uint64_t hwcap, uint64_t hwcap2, struct hardware_facts *f)
{
    _Static_assert(HARDWARE_CAP_ARM / 64 == 2 && HARDWARE_CAP_WORDS == 3, "Arm has the last word");

    f->arch = HARDWARE_ARCH_ARM64;
    f->raw.w[2] = (hwcap & 0xffffffff) | hwcap2 << 32;
    f->usable.w[2] = f->raw.w[2] & ~f->masked.w[2];
}
