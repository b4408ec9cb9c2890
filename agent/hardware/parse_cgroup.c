/*
 * parse_cgroup - which cgroup controllers there are and where, the limits over us, and resctrl's
 * info tree. Pure.
 */
#include <errno.h>
#include <string.h>

#include "agent/hardware/hardware_internal.h"
#include "common/insist.h"

enum { TEXT_MAX = 262144 }; /* mountinfo of a machine with thousands of mounts */

static const struct {
    const char *v1;
    const char *v2; /* NULL: no such controller in v2 */
} controllers[HARDWARE_CGROUP_CONTROLLERS] = {
    [HARDWARE_CGROUP_CPU] = { "cpu", "cpu" },
    [HARDWARE_CGROUP_CPUACCT] = { "cpuacct", NULL },
    [HARDWARE_CGROUP_CPUSET] = { "cpuset", "cpuset" },
    [HARDWARE_CGROUP_MEMORY] = { "memory", "memory" },
    [HARDWARE_CGROUP_IO] = { "blkio", "io" },
    [HARDWARE_CGROUP_PIDS] = { "pids", "pids" },
    [HARDWARE_CGROUP_DEVICES] = { "devices", NULL },
    [HARDWARE_CGROUP_FREEZER] = { "freezer", NULL },
};

/* The next word of *rest, which spaces and tabs separate. */
static struct str next_word(struct str *rest)
{
    struct str word;
    size_t n = 0;

    *rest = str_trim(*rest);
    while (n < rest->n && rest->p[n] != ' ' && rest->p[n] != '\t') {
        n++;
    }
    word = str_slice(*rest, 0, n);
    *rest = str_slice(*rest, n, rest->n);
    return word;
}

static bool list_has(struct str list, const char *name)
{
    struct str piece;

    while (str_split(&list, ',', &piece)) {
        if (str_eqs(piece, name)) {
            return true;
        }
    }
    return false;
}

/* "#subsys_name hierarchy num_cgroups enabled"; hierarchy 0: not held by v1. */
void hardware_parse_cgroups(struct str text, struct hardware_facts *f)
{
    struct str line;

    text = str_slice(text, 0, TEXT_MAX);
    while (str_split(&text, '\n', &line)) {
        struct str name = next_word(&line);
        struct str hierarchy = next_word(&line);
        uint64_t h = 0;
        if (str_u64_in(hierarchy, 1, UINT16_MAX, &h) != 0) {
            continue;
        }
        for (size_t i = 0; i < HARDWARE_CGROUP_CONTROLLERS; i++) {
            if (str_eqs(name, controllers[i].v1)) {
                f->cgroups[i].version = 1;
                f->cgroups[i].hierarchy = (uint16_t)h;
            }
        }
    }
}

void hardware_parse_cgroup_controllers(struct str text, struct hardware_facts *f)
{
    struct str rest = str_trim(str_slice(text, 0, TEXT_MAX));

    while (rest.n > 0) {
        struct str name = next_word(&rest);
        for (size_t i = 0; i < HARDWARE_CGROUP_CONTROLLERS; i++) {
            if (controllers[i].v2 != NULL && str_eqs(name, controllers[i].v2) &&
                f->cgroups[i].version == 0) {
                f->cgroups[i].version = 2;
                memcpy(f->cgroups[i].mount, f->cgroup2_mount, sizeof(f->cgroups[i].mount));
            }
        }
    }
}

/* The first mount of a hierarchy stands; a mount point with escapes (\040) is passed over. */
static void mount_note(char dst[64], struct str where)
{
    if (dst[0] == '\0' && str_find(where, '\\') < 0 && where.n < 64) {
        memcpy(dst, where.p, where.n);
        dst[where.n] = '\0';
    }
}

/* "36 31 0:33 / /sys/fs/cgroup/devices rw,relatime shared:9 - cgroup cgroup rw,devices" */
bool hardware_parse_mountinfo(struct str text, struct hardware_facts *f, char *rdt_mount)
{
    bool rdt = false;
    struct str line;

    text = str_slice(text, 0, TEXT_MAX);
    while (str_split(&text, '\n', &line)) {
        struct str where = { NULL, 0 };
        for (unsigned i = 0; i < 5; i++) {
            where = next_word(&line);
        }
        while (line.n > 0 && !str_eqs(next_word(&line), "-")) {
        }
        struct str type = next_word(&line);
        (void)next_word(&line); /* the source */
        struct str options = next_word(&line);
        if (where.n == 0) {
            continue;
        }
        if (str_eqs(type, "cgroup2")) {
            mount_note(f->cgroup2_mount, where);
        } else if (str_eqs(type, "cgroup")) {
            for (size_t i = 0; i < HARDWARE_CGROUP_CONTROLLERS; i++) {
                if (list_has(options, controllers[i].v1)) {
                    mount_note(f->cgroups[i].mount, where);
                }
            }
        } else if (str_eqs(type, "resctrl")) {
            if (rdt_mount != NULL) {
                rdt_mount[0] = rdt ? rdt_mount[0] : '\0';
                mount_note(rdt_mount, where);
            }
            rdt = true;
        }
    }
    return rdt;
}

/* "4:memory:/a/b", "2:cpu,cpuacct:/", "0::/system.slice/agent.service" */
bool hardware_parse_cgroup_path(struct str text, unsigned version, const char *controller,
                                char *dst, size_t cap)
{
    struct str line;

    text = str_slice(text, 0, TEXT_MAX);
    while (str_split(&text, '\n', &line)) {
        ptrdiff_t a = str_find(line, ':');
        if (a < 0) {
            continue;
        }
        struct str rest = str_slice(line, (size_t)a + 1, line.n);
        ptrdiff_t b = str_find(rest, ':');
        if (b < 0) {
            continue;
        }
        struct str list = str_slice(rest, 0, (size_t)b);
        struct str path = str_slice(rest, (size_t)b + 1, rest.n);
        bool hit = version == 2 ? list.n == 0 && str_eqs(str_slice(line, 0, (size_t)a), "0")
                                : list_has(list, controller);
        if (hit) {
            return str_starts(path, "/") && str_copy(dst, cap, path) == 0;
        }
    }
    return false;
}

static uint32_t quota_milli(uint64_t quota_us, uint64_t period_us)
{
    uint64_t milli = 0;

    if (quota_us == 0 || period_us == 0 || quota_us > UINT64_MAX / 1000) {
        return 0;
    }
    milli = quota_us * 1000 / period_us;
    if (milli == 0) {
        return 1;
    }
    return milli > UINT32_MAX ? 0 : (uint32_t)milli;
}

uint32_t hardware_parse_cpu_max(struct str text)
{
    struct str rest = text;
    uint64_t quota = 0;
    uint64_t period = 0;

    if (str_u64(next_word(&rest), &quota) != 0 || str_u64(next_word(&rest), &period) != 0) {
        return 0; /* "max 100000" */
    }
    return quota_milli(quota, period);
}

uint32_t hardware_parse_cfs(struct str quota, struct str period)
{
    uint64_t q = 0;
    uint64_t p = 0;

    if (str_u64(str_trim(quota), &q) != 0 || str_u64(str_trim(period), &p) != 0) {
        return 0; /* "-1" */
    }
    return quota_milli(q, p);
}

uint64_t hardware_parse_memory_limit(struct str text)
{
    uint64_t v = 0;

    if (str_u64(str_trim(text), &v) != 0) {
        return 0; /* "max" */
    }
    /* v1 says PAGE_COUNTER_MAX, near 2^63, for none. */
    return v >= (uint64_t)1 << 62 ? 0 : v;
}

/* ---- resctrl -------------------------------------------------------------------------------- */

static uint32_t rdt_u32(struct str text)
{
    uint64_t v = 0;

    return str_u64_in(str_trim(text), 0, UINT32_MAX, &v) == 0 ? (uint32_t)v : 0;
}

static uint64_t rdt_hex(struct str text)
{
    uint64_t v = 0;

    text = str_trim(text);
    if (str_starts(text, "0x")) {
        text = str_slice(text, 2, text.n);
    }
    return str_hex_u64(text, &v) == 0 ? v : 0;
}

static void rdt_cache_file(struct hardware_rdt_cache *c, struct str file, struct str text)
{
    c->present = true;
    if (str_eqs(file, "num_closids")) {
        c->closids = rdt_u32(text);
    } else if (str_eqs(file, "cbm_mask")) {
        c->cbm_mask = rdt_hex(text);
    } else if (str_eqs(file, "min_cbm_bits")) {
        c->min_cbm_bits = rdt_u32(text);
    } else if (str_eqs(file, "shareable_bits")) {
        c->shareable_bits = rdt_hex(text);
    }
}

static void rdt_mb_file(struct hardware_rdt *r, struct str file, struct str text)
{
    r->mb = true;
    if (str_eqs(file, "num_closids")) {
        r->mb_closids = rdt_u32(text);
    } else if (str_eqs(file, "min_bandwidth")) {
        r->mb_min = rdt_u32(text);
    } else if (str_eqs(file, "bandwidth_gran")) {
        r->mb_gran = rdt_u32(text);
    }
}

static void rdt_mon_file(struct hardware_rdt *r, struct str file, struct str text)
{
    struct str line;

    r->mon = true;
    if (str_eqs(file, "num_rmids")) {
        r->rmids = rdt_u32(text);
    } else if (str_eqs(file, "max_threshold_occupancy")) {
        r->max_threshold_occupancy = rdt_u32(text);
    } else if (str_eqs(file, "mon_features")) {
        while (str_split(&text, '\n', &line)) {
            line = str_trim(line);
            r->mon_occupancy |= str_eqs(line, "llc_occupancy");
            r->mon_mbm_total |= str_eqs(line, "mbm_total_bytes");
            r->mon_mbm_local |= str_eqs(line, "mbm_local_bytes");
        }
    }
}

void hardware_parse_rdt(struct hardware_rdt *r, const char *path, struct str text)
{
    struct str all = str_of(path);
    ptrdiff_t slash = str_find(all, '/');

    if (slash < 0) {
        return;
    }
    struct str dir = str_slice(all, 0, (size_t)slash);
    struct str file = str_slice(all, (size_t)slash + 1, all.n);
    text = str_slice(text, 0, 4096);
    if (str_eqs(dir, "L3") || str_eqs(dir, "L3CODE") || str_eqs(dir, "L3DATA")) {
        r->l3.cdp |= dir.n > 2;
        rdt_cache_file(&r->l3, file, text);
    } else if (str_eqs(dir, "L2") || str_eqs(dir, "L2CODE") || str_eqs(dir, "L2DATA")) {
        r->l2.cdp |= dir.n > 2;
        rdt_cache_file(&r->l2, file, text);
    } else if (str_eqs(dir, "MB")) {
        rdt_mb_file(r, file, text);
    } else if (str_eqs(dir, "L3_MON")) {
        rdt_mon_file(r, file, text);
    }
}
