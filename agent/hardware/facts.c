/*
 * facts - what is derived from the facts: node class, last level cache, JSON.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/hardware/hardware_internal.h"
#include "common/insist.h"
#include "common/map.h"

static const struct hardware_cache *llc(const struct hardware_facts *f)
{
    const struct hardware_cache *best = NULL;
    uint32_t n = f->cache_count < HARDWARE_CACHES_MAX ? f->cache_count : HARDWARE_CACHES_MAX;

    for (uint32_t i = 0; i < n; i++) {
        const struct hardware_cache *c = &f->caches[i];
        if (c->type != HARDWARE_CACHE_CODE && (best == NULL || c->level > best->level)) {
            best = c;
        }
    }
    return best;
}

uint64_t hardware_llc_bytes(const struct hardware_facts *f)
{
    return llc(f) != NULL ? llc(f)->size_bytes : 0;
}

uint32_t hardware_llc_ways(const struct hardware_facts *f)
{
    return llc(f) != NULL ? llc(f)->ways : 0;
}

void hardware_class(const struct hardware_facts *f, char id[HARDWARE_CLASS_LEN + 1])
{
    /* Fixed keys, "agent node class" as ASCII: every node must come to the same id. */
    const uint64_t k0 = 0x6567616e20746e65ULL;
    const uint64_t k1 = 0x7373616c63206564ULL;
    char text[1024];
    char hex[49];
    struct hardware_caps caps = { { 0 } };
    unsigned bucket = 0;

    for (unsigned c = 0; c < HARDWARE_CAP_COUNT; c++) {
        const struct hardware_cap_info *i = hardware_cap_info(c);
        if (i->name != NULL && (i->how & CAP_NOT_IN_CLASS) == 0 &&
            hardware_caps_has(&f->usable, (enum hardware_cap)c)) {
            hardware_caps_set(&caps, (enum hardware_cap)c);
        }
    }
    for (uint64_t b = hardware_llc_bytes(f); b > 1; b >>= 1) {
        bucket++;
    }
    hardware_caps_hex(&caps, hex);
    int n = snprintf(text, sizeof(text), "1\n%u\n%.*s\n%.*s\n%" PRIu32 " %" PRIu32 "\n%u\n%s",
                     (unsigned)f->arch, (int)sizeof(f->vendor) - 1, f->vendor,
                     (int)sizeof(f->brand) - 1, f->brand, f->family, f->model, bucket, hex);
    INSIST(n > 0 && (size_t)n < sizeof(text));
    (void)snprintf(id, HARDWARE_CLASS_LEN + 1, "%016" PRIx64, map_hash(k0, k1, text, (size_t)n));
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static const char *arch_name(uint8_t arch)
{
    static const char *const names[] = { "unknown", "amd64", "arm64" };

    return arch < ARRAY_LEN(names) ? names[arch] : names[0];
}

static void json_cpu(const struct hardware_facts *f, struct json_w *w)
{
    json_w_key(w, "cpu");
    json_w_obj(w);
    json_kv_cstr(w, "vendor", f->vendor);
    json_kv_cstr(w, "brand", f->brand);
    json_kv_u64(w, "family", f->family);
    json_kv_u64(w, "model", f->model);
    json_kv_u64(w, "stepping", f->stepping);
    json_kv_u64(w, "online", f->cpus_online);
    json_kv_u64(w, "usable", f->cpus_usable);
    if (f->cpu_quota_milli != 0) {
        json_kv_real(w, "quota", (double)f->cpu_quota_milli / 1000, 3);
    }
    json_kv_u64(w, "sockets", f->sockets);
    json_kv_u64(w, "cores", f->cores);
    json_kv_u64(w, "threads_per_core", f->threads_per_core);
    json_kv_u64(w, "numa_nodes", f->numa_nodes);
    if (f->base_mhz != 0) {
        json_kv_u64(w, "base_mhz", f->base_mhz);
    }
    if (f->max_mhz != 0) {
        json_kv_u64(w, "max_mhz", f->max_mhz);
    }
    if (f->arch == HARDWARE_ARCH_X86_64) {
        char level[16];
        (void)snprintf(level, sizeof(level), "X86_64_V%u", (unsigned)f->microarch_level);
        json_kv_cstr(w, "microarch", f->microarch_level > 0 ? level : "");
    }
    if (f->hypervisor[0] != '\0') {
        json_kv_cstr(w, "hypervisor", f->hypervisor);
    }
    json_w_end(w);
}

static void json_caches(const struct hardware_facts *f, struct json_w *w)
{
    static const char *const types[] = { "unified", "data", "code" };

    json_w_key(w, "caches");
    json_w_arr(w);
    for (uint32_t i = 0; i < f->cache_count && i < HARDWARE_CACHES_MAX; i++) {
        const struct hardware_cache *c = &f->caches[i];
        json_w_obj(w);
        json_kv_u64(w, "level", c->level);
        json_kv_cstr(w, "type", c->type < ARRAY_LEN(types) ? types[c->type] : "unknown");
        json_kv_u64(w, "bytes", c->size_bytes);
        json_kv_u64(w, "ways", c->ways);
        json_kv_u64(w, "line_bytes", c->line_bytes);
        json_kv_u64(w, "sharers", c->sharers);
        json_kv_cstr(w, "cpus", c->cpus);
        json_w_end(w);
    }
    json_w_end(w);
}

static void json_memory(const struct hardware_facts *f, struct json_w *w)
{
    json_w_key(w, "memory");
    json_w_obj(w);
    json_kv_u64(w, "bytes", f->memory_bytes);
    if (f->memory_limit_bytes != 0) {
        json_kv_u64(w, "limit_bytes", f->memory_limit_bytes);
    }
    json_w_end(w);
    if (f->data_dir_rotational != HARDWARE_UNKNOWN) {
        json_w_key(w, "disk");
        json_w_obj(w);
        json_kv_bool(w, "rotational", f->data_dir_rotational == HARDWARE_YES);
        json_w_end(w);
    }
}

static void json_cgroup(const struct hardware_facts *f, struct json_w *w)
{
    static const char *const names[HARDWARE_CGROUP_CONTROLLERS] = {
        "cpu", "cpuacct", "cpuset", "memory", "io", "pids", "devices", "freezer",
    };

    json_w_key(w, "cgroup");
    json_w_obj(w);
    for (size_t i = 0; i < HARDWARE_CGROUP_CONTROLLERS; i++) {
        if (f->cgroups[i].version != 0) {
            json_kv_u64(w, names[i], f->cgroups[i].version);
        }
    }
    json_w_end(w);
}

static void json_rdt_cache(const char *key, const struct hardware_rdt_cache *c, struct json_w *w)
{
    char hex[24];

    if (!c->present) {
        return;
    }
    json_w_key(w, key);
    json_w_obj(w);
    json_kv_u64(w, "closids", c->closids);
    (void)snprintf(hex, sizeof(hex), "%" PRIx64, c->cbm_mask);
    json_kv_cstr(w, "cbm_mask", hex);
    (void)snprintf(hex, sizeof(hex), "%" PRIx64, c->shareable_bits);
    json_kv_cstr(w, "shareable_bits", hex);
    json_kv_u64(w, "min_cbm_bits", c->min_cbm_bits);
    json_kv_bool(w, "cdp", c->cdp);
    json_w_end(w);
}

static void json_rdt(const struct hardware_facts *f, struct json_w *w)
{
    json_w_key(w, "rdt");
    json_w_obj(w);
    json_kv_bool(w, "mounted", f->rdt.mounted);
    json_rdt_cache("l3", &f->rdt.l3, w);
    json_rdt_cache("l2", &f->rdt.l2, w);
    if (f->rdt.mb) {
        json_w_key(w, "mb");
        json_w_obj(w);
        json_kv_u64(w, "closids", f->rdt.mb_closids);
        json_kv_u64(w, "min", f->rdt.mb_min);
        json_kv_u64(w, "gran", f->rdt.mb_gran);
        json_w_end(w);
    }
    if (f->rdt.mon) {
        json_w_key(w, "monitoring");
        json_w_obj(w);
        json_kv_u64(w, "rmids", f->rdt.rmids);
        json_kv_bool(w, "llc_occupancy", f->rdt.mon_occupancy);
        json_kv_bool(w, "mbm_total", f->rdt.mon_mbm_total);
        json_kv_bool(w, "mbm_local", f->rdt.mon_mbm_local);
        json_kv_u64(w, "max_threshold_occupancy_bytes", f->rdt.max_threshold_occupancy);
        json_w_end(w);
    }
    json_w_end(w);
}

/* Names of those in a and, when b is given, not in b. */
static void json_caps(const char *key, const struct hardware_caps *a, const struct hardware_caps *b,
                      struct json_w *w)
{
    json_w_key(w, key);
    json_w_arr(w);
    for (unsigned c = 0; c < HARDWARE_CAP_COUNT; c++) {
        enum hardware_cap cap = (enum hardware_cap)c;
        const char *name = hardware_cap_name(cap);
        if (name != NULL && hardware_caps_has(a, cap) &&
            (b == NULL || !hardware_caps_has(b, cap))) {
            json_w_cstr(w, name);
        }
    }
    json_w_end(w);
}

void hardware_to_json(const struct hardware_facts *f, struct json_w *w)
{
    char id[HARDWARE_CLASS_LEN + 1];

    hardware_class(f, id);
    json_w_obj(w);
    json_kv_cstr(w, "class", id);
    json_kv_cstr(w, "arch", arch_name(f->arch));
    json_cpu(f, w);
    json_caches(f, w);
    json_memory(f, w);
    json_kv_cstr(w, "kernel", f->kernel);
    json_cgroup(f, w);
    json_rdt(f, w);
    json_caps("capabilities", &f->usable, NULL, w);
    json_caps("capabilities_unusable", &f->raw, &f->usable, w);
    json_w_end(w);
}
