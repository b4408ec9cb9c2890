/*
 * caps - sets of capabilities, their names, masks, and what of the raw ones is usable.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/hardware/hardware_internal.h"
#include "common/insist.h"

bool hardware_caps_has(const struct hardware_caps *c, enum hardware_cap cap)
{
    REQUIRE((unsigned)cap < HARDWARE_CAP_COUNT);
    return (c->w[(unsigned)cap / 64] >> ((unsigned)cap % 64) & 1) != 0;
}

void hardware_caps_set(struct hardware_caps *c, enum hardware_cap cap)
{
    REQUIRE((unsigned)cap < HARDWARE_CAP_COUNT);
    c->w[(unsigned)cap / 64] |= (uint64_t)1 << ((unsigned)cap % 64);
}

static void caps_clear(struct hardware_caps *c, unsigned cap)
{
    c->w[cap / 64] &= ~((uint64_t)1 << (cap % 64));
}

unsigned hardware_caps_count(const struct hardware_caps *c)
{
    unsigned n = 0;

    for (unsigned i = 0; i < HARDWARE_CAP_WORDS; i++) {
        for (uint64_t w = c->w[i]; w != 0; w &= w - 1) {
            n++;
        }
    }
    return n;
}

const char *hardware_cap_name(enum hardware_cap cap)
{
    return hardware_cap_info((unsigned)cap)->name;
}

const char *hardware_cap_short(const struct hardware_cap_info *i)
{
    const char *dot = strchr(i->name, '.');

    return dot != NULL ? dot + 1 : i->name;
}

/* Looks in [from, to): by name, then by the kernel's spelling. */
static int cap_find(struct str name, unsigned from, unsigned to, enum hardware_cap *ret)
{
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned c = from; c < to; c++) {
            const struct hardware_cap_info *i = hardware_cap_info(c);
            bool hit = false;

            if (i->name == NULL) {
                continue;
            }
            if (pass == 0) {
                hit = str_ieqs(name, i->name) || str_ieqs(name, hardware_cap_short(i));
            } else {
                hit = i->flag != NULL && str_ieqs(name, i->flag);
            }
            if (hit) {
                *ret = (enum hardware_cap)c;
                return 0;
            }
        }
    }
    return -ENOENT;
}

int hardware_cap_by_name(struct str name, enum hardware_arch arch, enum hardware_cap *ret)
{
    static const char prefix[] = "cpu-cpuid.";

    if (name.n > sizeof(prefix) - 1 && str_ieqs(str_slice(name, 0, sizeof(prefix) - 1), prefix)) {
        name = str_slice(name, sizeof(prefix) - 1, name.n);
    }
    if (arch == HARDWARE_ARCH_ARM64 &&
        cap_find(name, HARDWARE_CAP_ARM, HARDWARE_CAP_COUNT, ret) == 0) {
        return 0;
    }
    if (cap_find(name, 0, HARDWARE_CAP_ARM, ret) == 0) {
        return 0;
    }
    return cap_find(name, HARDWARE_CAP_ARM, HARDWARE_CAP_COUNT, ret);
}

void hardware_caps_hex(const struct hardware_caps *c, char dst[49])
{
    uint8_t bytes[HARDWARE_CAP_WORDS * 8];

    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(c->w[i / 8] >> (8 * (i % 8)));
    }
    str_hex(dst, bytes, sizeof(bytes));
}

int hardware_caps_unhex(struct str s, struct hardware_caps *ret)
{
    uint8_t bytes[HARDWARE_CAP_WORDS * 8];
    struct hardware_caps c = { { 0 } };
    int r = str_unhex(s, bytes, sizeof(bytes));

    if (r != 0) {
        return r;
    }
    for (size_t i = 0; i < sizeof(bytes); i++) {
        c.w[i / 8] |= (uint64_t)bytes[i] << (8 * (i % 8));
    }
    *ret = c;
    return 0;
}

/* ---- masks ---------------------------------------------------------------------------------- */

/* Whether something that cap builds on is (want) or is not (!want) in set. */
static bool cap_needs(unsigned cap, const struct hardware_caps *set, bool want)
{
    const struct hardware_cap_info *i = hardware_cap_info(cap);

    for (size_t k = 0; k < ARRAY_LEN(i->needs); k++) {
        if (i->needs[k] != 0 && hardware_caps_has(set, (enum hardware_cap)i->needs[k]) == want) {
            return true;
        }
    }
    return false;
}

void hardware_mask_close(struct hardware_caps *mask)
{
    bool changed = true;

    while (changed) {
        changed = false;
        for (unsigned c = 0; c < HARDWARE_CAP_X86_END; c++) {
            if (!hardware_caps_has(mask, (enum hardware_cap)c) && cap_needs(c, mask, true)) {
                hardware_caps_set(mask, (enum hardware_cap)c);
                changed = true;
            }
        }
    }
}

static int mask_word(struct str word, struct hardware_caps *mask, struct err *e)
{
    struct str name = str_starts(word, "-") ? str_slice(word, 1, word.n) : word;
    enum hardware_cap cap = HARDWARE_CAP_ADX;

    if (name.n == 0 || name.n > HARDWARE_CAP_NAME_MAX ||
        hardware_cap_by_name(name, HARDWARE_ARCH_UNKNOWN, &cap) != 0) {
        return err_say(e, -EINVAL, "no capability is called '%.*s'",
                       STR_ARG(str_slice(word, 0, HARDWARE_CAP_NAME_MAX)));
    }
    hardware_caps_set(mask, cap);
    /* A name that x86 and Arm share takes both away: the other is not there anyhow. */
    if (hardware_cap_by_name(name, HARDWARE_ARCH_ARM64, &cap) == 0) {
        hardware_caps_set(mask, cap);
    }
    return 0;
}

int hardware_mask_parse(struct str s, struct hardware_caps *ret, struct err *e)
{
    struct hardware_caps mask = { { 0 } };

    for (size_t at = 0; at < s.n;) {
        size_t end = at;
        while (end < s.n && s.p[end] != ',' && s.p[end] != ' ' && s.p[end] != '\t') {
            end++;
        }
        if (end > at) {
            int r = mask_word(str_slice(s, at, end - at), &mask, e);
            if (r != 0) {
                return r;
            }
        }
        at = end + 1;
    }
    hardware_mask_close(&mask);
    *ret = mask;
    return 0;
}

void hardware_mask_apply(struct hardware_facts *f, const struct hardware_caps *mask)
{
    for (unsigned i = 0; i < HARDWARE_CAP_WORDS; i++) {
        f->masked.w[i] |= mask->w[i];
    }
    hardware_mask_close(&f->masked);
    hardware_settle(f);
}

/* OPENSSL_ia32cap is two 64-bit words: leaf 1 (EDX low, ECX high) and leaf 7 (EBX low, ECX high).
 */
void hardware_mask_openssl(const struct hardware_caps *mask, char dst[HARDWARE_MASK_ENV_MAX])
{
    uint64_t one = 0;
    uint64_t seven = 0;
    int n = 0;

    for (unsigned c = 0; c < HARDWARE_CAP_X86_END; c++) {
        const struct hardware_cap_info *i = hardware_cap_info(c);
        if (!hardware_caps_has(mask, (enum hardware_cap)c)) {
            continue;
        }
        one |= i->reg == REG_L1_EDX ? (uint64_t)1 << i->bit : 0;
        one |= i->reg == REG_L1_ECX ? (uint64_t)1 << (32 + i->bit) : 0;
        seven |= i->reg == REG_L7_EBX ? (uint64_t)1 << i->bit : 0;
        seven |= i->reg == REG_L7_ECX ? (uint64_t)1 << (32 + i->bit) : 0;
    }
    dst[0] = '\0';
    if (one != 0) {
        n = snprintf(dst, HARDWARE_MASK_ENV_MAX, "~0x%llx", (unsigned long long)one);
    }
    if (seven != 0) {
        (void)snprintf(dst + n, (size_t)(HARDWARE_MASK_ENV_MAX - n), ":~0x%llx",
                       (unsigned long long)seven);
    }
}

void hardware_mask_glibc(const struct hardware_caps *mask, char dst[HARDWARE_MASK_ENV_MAX])
{
    size_t at = 0;

    dst[0] = '\0';
    for (unsigned c = 0; c < HARDWARE_CAP_X86_END; c++) {
        const struct hardware_cap_info *i = hardware_cap_info(c);
        if (i->glibc == NULL || !hardware_caps_has(mask, (enum hardware_cap)c)) {
            continue;
        }
        int n = snprintf(dst + at, HARDWARE_MASK_ENV_MAX - at, "%s-%s",
                         at == 0 ? "glibc.cpu.hwcaps=" : ",", i->glibc);
        INSIST(n > 0 && (size_t)n < HARDWARE_MASK_ENV_MAX - at);
        at += (size_t)n;
    }
}

/* ---- usable --------------------------------------------------------------------------------- */

static uint32_t microarch_level(const struct hardware_caps *u)
{
    static const uint8_t levels[][12] = {
        { HARDWARE_CAP_CMOV, HARDWARE_CAP_CMPXCHG8, HARDWARE_CAP_X87, HARDWARE_CAP_FXSR,
          HARDWARE_CAP_MMX, HARDWARE_CAP_SSE, HARDWARE_CAP_SSE2 },
        { HARDWARE_CAP_CX16, HARDWARE_CAP_LAHF, HARDWARE_CAP_POPCNT, HARDWARE_CAP_SSE3,
          HARDWARE_CAP_SSSE3, HARDWARE_CAP_SSE4, HARDWARE_CAP_SSE42 },
        { HARDWARE_CAP_AVX, HARDWARE_CAP_AVX2, HARDWARE_CAP_BMI1, HARDWARE_CAP_BMI2,
          HARDWARE_CAP_F16C, HARDWARE_CAP_FMA3, HARDWARE_CAP_LZCNT, HARDWARE_CAP_MOVBE,
          HARDWARE_CAP_OSXSAVE },
        { HARDWARE_CAP_AVX512F, HARDWARE_CAP_AVX512BW, HARDWARE_CAP_AVX512CD, HARDWARE_CAP_AVX512DQ,
          HARDWARE_CAP_AVX512VL },
    };
    uint32_t level = 0;

    for (; level < ARRAY_LEN(levels); level++) {
        for (size_t k = 0; k < ARRAY_LEN(levels[0]); k++) {
            unsigned cap = levels[level][k]; /* 0 fills up: no level asks for ADX */
            if (cap != 0 && !hardware_caps_has(u, (enum hardware_cap)cap)) {
                return level;
            }
        }
    }
    return level;
}

static void settle_x86(struct hardware_facts *f)
{
    bool changed = true;

    for (unsigned c = 0; c < HARDWARE_CAP_X86_END; c++) {
        const struct hardware_cap_info *i = hardware_cap_info(c);
        enum hardware_cap cap = (enum hardware_cap)c;
        if (hardware_caps_has(&f->raw, cap) && (f->xcr0 & i->xcr0) == i->xcr0 &&
            (i->flag == NULL || !f->flags_known || hardware_caps_has(&f->flags, cap))) {
            hardware_caps_set(&f->usable, cap);
        }
    }
    for (unsigned w = 0; w < HARDWARE_CAP_WORDS; w++) {
        f->usable.w[w] &= ~f->masked.w[w];
    }
    while (changed) {
        changed = false;
        for (unsigned c = 0; c < HARDWARE_CAP_X86_END; c++) {
            if (hardware_caps_has(&f->usable, (enum hardware_cap)c) &&
                cap_needs(c, &f->usable, false)) {
                caps_clear(&f->usable, c);
                changed = true;
            }
        }
    }
}

static void settle_rdt(struct hardware_facts *f)
{
    const struct hardware_rdt *r = &f->rdt;
    const struct {
        enum hardware_cap cap;
        bool there;
    } caps[] = {
        { HARDWARE_CAP_RDTMON, r->mon },
        { HARDWARE_CAP_RDTCMT, r->mon && r->mon_occupancy },
        { HARDWARE_CAP_RDTMBM, r->mon && r->mon_mbm_total && r->mon_mbm_local },
        { HARDWARE_CAP_RDTL3CA, r->l3.present },
        { HARDWARE_CAP_RDTL2CA, r->l2.present },
        { HARDWARE_CAP_RDTMBA, r->mb },
    };

    for (size_t k = 0; k < ARRAY_LEN(caps); k++) {
        if (r->mounted && caps[k].there && !hardware_caps_has(&f->masked, caps[k].cap)) {
            hardware_caps_set(&f->usable, caps[k].cap);
        }
    }
}

void hardware_settle(struct hardware_facts *f)
{
    f->usable = (struct hardware_caps){ { 0 } };
    f->microarch_level = 0;
    if (f->arch == HARDWARE_ARCH_X86_64) {
        settle_x86(f);
        f->microarch_level = microarch_level(&f->usable);
    } else if (f->arch == HARDWARE_ARCH_ARM64) {
        for (unsigned w = HARDWARE_CAP_ARM / 64; w < HARDWARE_CAP_WORDS; w++) {
            f->usable.w[w] = f->raw.w[w] & ~f->masked.w[w];
        }
    }
    settle_rdt(f);
}
