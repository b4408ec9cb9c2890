/*
 * parse - kernel text about processor, caches and memory. Nothing fails hard: what is not
 * understood is left out.
 */
#include <errno.h>
#include <string.h>

#include "agent/hardware/hardware_internal.h"
#include "common/insist.h"

enum { CPUINFO_MAX = 32768 };

/* ---- /proc/cpuinfo -------------------------------------------------------------------------- */

static void cpuinfo_flag(struct str word, struct hardware_cpuinfo *ci)
{
    for (unsigned c = 0; c < HARDWARE_CAP_X86_END; c++) {
        const struct hardware_cap_info *i = hardware_cap_info(c);
        if (i->flag != NULL && str_eqs(word, i->flag)) {
            hardware_caps_set(&ci->flags, (enum hardware_cap)c);
            return;
        }
    }
    ci->rdt_l3 |= str_eqs(word, "cat_l3");
    ci->rdt_l2 |= str_eqs(word, "cat_l2");
    ci->rdt_mba |= str_eqs(word, "mba");
    ci->rdt_cmt |= str_eqs(word, "cqm_occup_llc");
    ci->rdt_mbm |= str_eqs(word, "cqm_mbm_total");
}

/* A number at the start of s ("2300.000" is 2300), 0 when there is none. */
static uint32_t leading_u32(struct str s)
{
    uint64_t v = 0;
    size_t n = 0;

    while (n < s.n && s.p[n] >= '0' && s.p[n] <= '9') {
        n++;
    }
    return str_u64_in(str_slice(s, 0, n), 0, UINT32_MAX, &v) == 0 ? (uint32_t)v : 0;
}

static void cpuinfo_field(struct str key, struct str value, struct hardware_cpuinfo *ci)
{
    const struct {
        const char *key;
        uint32_t *dst;
    } numbers[] = {
        { "cpu family", &ci->family }, { "model", &ci->model },       { "stepping", &ci->stepping },
        { "cpu MHz", &ci->mhz },       { "siblings", &ci->siblings }, { "cpu cores", &ci->cores },
    };
    struct str word;

    if (str_eqs(key, "flags")) {
        ci->flags_seen = true;
        while (str_split(&value, ' ', &word)) {
            cpuinfo_flag(word, ci);
        }
    } else if (str_eqs(key, "vendor_id")) {
        hardware_clean_text(ci->vendor, sizeof(ci->vendor), value);
    } else if (str_eqs(key, "model name")) {
        hardware_clean_text(ci->model_name, sizeof(ci->model_name), value);
    } else {
        for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
            if (str_eqs(key, numbers[i].key)) {
                *numbers[i].dst = leading_u32(value);
            }
        }
    }
}

void hardware_parse_cpuinfo(struct str text, struct hardware_cpuinfo *ret)
{
    struct str line;

    *ret = (struct hardware_cpuinfo){ 0 };
    text = str_slice(text, 0, CPUINFO_MAX);
    while (str_split(&text, '\n', &line)) {
        ptrdiff_t colon = str_find(line, ':');
        if (str_trim(line).n == 0) {
            return; /* the end of the first processor */
        }
        if (colon >= 0) {
            cpuinfo_field(str_trim(str_slice(line, 0, (size_t)colon)),
                          str_trim(str_slice(line, (size_t)colon + 1, line.n)), ret);
        }
    }
}

void hardware_merge_cpuinfo(struct hardware_facts *f, const struct hardware_cpuinfo *ci)
{
    const struct {
        bool there;
        enum hardware_cap cap;
    } rdt[] = {
        { ci->rdt_l3, HARDWARE_CAP_RDTL3CA }, { ci->rdt_l2, HARDWARE_CAP_RDTL2CA },
        { ci->rdt_mba, HARDWARE_CAP_RDTMBA }, { ci->rdt_cmt, HARDWARE_CAP_RDTCMT },
        { ci->rdt_mbm, HARDWARE_CAP_RDTMBM }, { ci->rdt_cmt || ci->rdt_mbm, HARDWARE_CAP_RDTMON },
    };

    f->flags_known = ci->flags_seen;
    f->flags = ci->flags;
    if (f->vendor[0] == '\0') {
        memcpy(f->vendor, ci->vendor, sizeof(f->vendor));
    }
    if (f->brand[0] == '\0') {
        memcpy(f->brand, ci->model_name, sizeof(f->brand));
    }
    if (f->family == 0) {
        f->family = ci->family;
        f->model = ci->model;
        f->stepping = ci->stepping;
    }
    if (f->base_mhz == 0) {
        f->base_mhz = ci->mhz;
    }
    /* AMD's allocation leaves differ from Intel's: the kernel's word counts there. */
    for (size_t i = 0; i < ARRAY_LEN(rdt); i++) {
        if (rdt[i].there) {
            hardware_caps_set(&f->raw, rdt[i].cap);
        }
    }
}

/* ---- CPU lists and caches ------------------------------------------------------------------- */

enum { CPULIST_CPUS = 65536 }; /* no Linux has more: larger numbers are garbage */

static bool cpulist_range(struct str piece, uint32_t *ret_from, uint32_t *ret_to)
{
    ptrdiff_t dash = str_find(piece, '-');
    uint64_t from = 0;
    uint64_t to = 0;
    struct str first = dash < 0 ? piece : str_slice(piece, 0, (size_t)dash);

    if (str_u64_in(first, 0, CPULIST_CPUS - 1, &from) != 0) {
        return false;
    }
    to = from;
    if (dash >= 0 &&
        str_u64_in(str_slice(piece, (size_t)dash + 1, piece.n), from, CPULIST_CPUS - 1, &to) != 0) {
        return false;
    }
    *ret_from = (uint32_t)from;
    *ret_to = (uint32_t)to;
    return true;
}

uint32_t hardware_parse_cpulist(struct str text, uint32_t *ret_first)
{
    uint32_t count = 0;
    uint32_t first = UINT32_MAX;
    uint32_t from = 0;
    uint32_t to = 0;
    struct str piece;

    text = str_trim(text);
    while (str_split(&text, ',', &piece)) {
        if (!cpulist_range(piece, &from, &to) || count > CPULIST_CPUS) {
            return 0;
        }
        count += to - from + 1;
        first = from < first ? from : first;
    }
    if (ret_first != NULL && count > 0) {
        *ret_first = first;
    }
    return count;
}

bool hardware_cpulist_next(struct str text, uint32_t after, uint32_t *ret)
{
    uint32_t least = after + 1; /* UINT32_MAX: from 0 */
    uint32_t best = UINT32_MAX;
    uint32_t from = 0;
    uint32_t to = 0;
    struct str piece;

    text = str_trim(text);
    while (str_split(&text, ',', &piece)) {
        if (cpulist_range(piece, &from, &to) && to >= least) {
            uint32_t c = from > least ? from : least;
            best = c < best ? c : best;
        }
    }
    if (best == UINT32_MAX) {
        return false;
    }
    *ret = best;
    return true;
}

int hardware_parse_cache(struct str level, struct str type, struct str size, struct str ways,
                         struct str line, struct str cpus, struct hardware_cache *ret)
{
    struct hardware_cache c = { 0 };
    uint64_t v = 0;

    if (str_u64_in(str_trim(level), 1, 4, &v) != 0) {
        return -EINVAL;
    }
    c.level = (uint8_t)v;
    type = str_trim(type);
    if (str_eqs(type, "Data")) {
        c.type = HARDWARE_CACHE_DATA;
    } else if (str_eqs(type, "Instruction")) {
        c.type = HARDWARE_CACHE_CODE;
    } else if (str_eqs(type, "Unified")) {
        c.type = HARDWARE_CACHE_UNIFIED;
    } else {
        return -EINVAL;
    }
    if (str_size(str_trim(size), &v) != 0 || v == 0 || v > CACHE_SIZE_MAX) { /* "48K" */
        return -EINVAL;
    }
    c.size_bytes = v;
    c.ways = str_u64_in(str_trim(ways), 0, UINT16_MAX, &v) == 0 ? (uint16_t)v : 0;
    c.line_bytes = str_u64_in(str_trim(line), 0, 4096, &v) == 0 ? (uint32_t)v : 0;
    cpus = str_trim(cpus);
    c.sharers = hardware_parse_cpulist(cpus, NULL);
    if (c.sharers > 0) {
        size_t n = cpus.n;
        while (n >= sizeof(c.cpus)) {
            ptrdiff_t comma = str_rfind(str_slice(cpus, 0, n), ',');
            n = comma > 0 ? (size_t)comma : 0;
        }
        memcpy(c.cpus, cpus.p, n);
    }
    *ret = c;
    return 0;
}

/* ---- memory and kernel ---------------------------------------------------------------------- */

uint64_t hardware_parse_meminfo(struct str text)
{
    struct str line;
    uint64_t kib = 0;

    text = str_slice(text, 0, CPUINFO_MAX);
    while (str_split(&text, '\n', &line)) {
        if (str_starts(line, "MemTotal:")) {
            line = str_trim(str_slice(line, 9, line.n));
            if (str_ends(line, " kB")) {
                line = str_trim(str_slice(line, 0, line.n - 3));
            }
            return str_u64_in(line, 0, INT64_MAX / 1024, &kib) == 0 ? kib * 1024 : 0;
        }
    }
    return 0;
}

void hardware_parse_kernel(struct str release, struct hardware_facts *f)
{
    ptrdiff_t dot = 0;

    release = str_trim(release);
    hardware_clean_text(f->kernel, sizeof(f->kernel), release);
    f->kernel_major = leading_u32(release);
    dot = str_find(release, '.');
    f->kernel_minor = dot < 0 ? 0 : leading_u32(str_slice(release, (size_t)dot + 1, release.n));
}
