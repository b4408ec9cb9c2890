/* Any bytes as any kernel text about hardware, and as a CPUID table. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/hardware/hardware.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void texts(struct str s, struct hardware_facts *f)
{
    static const char *const rdt[] = { "L3/cbm_mask", "L2DATA/num_closids", "MB/min_bandwidth",
                                       "L3_MON/mon_features", "L3_MON/num_rmids" };
    struct hardware_cpuinfo ci;
    struct hardware_cache cache;
    struct hardware_caps mask;
    char path[32];
    char where[64];
    uint32_t cpu = UINT32_MAX;
    struct str half = str_slice(s, s.n / 2, s.n);

    hardware_parse_cpuinfo(s, &ci);
    hardware_merge_cpuinfo(f, &ci);
    for (unsigned i = 0; i < 100 && hardware_cpulist_next(s, cpu, &cpu); i++) {
    }
    (void)hardware_parse_cpulist(s, &cpu);
    (void)hardware_parse_cache(STR("3"), STR("Unified"), half, s, half, s, &cache);
    f->memory_bytes = hardware_parse_meminfo(s);
    hardware_parse_kernel(s, f);
    hardware_parse_cgroups(s, f);
    (void)hardware_parse_mountinfo(s, f, where);
    hardware_parse_cgroup_controllers(s, f);
    (void)hardware_parse_cgroup_path(s, 1, "memory", path, sizeof(path));
    (void)hardware_parse_cgroup_path(s, 2, "memory", path, sizeof(path));
    f->cpu_quota_milli = hardware_parse_cpu_max(s) | hardware_parse_cfs(s, half);
    f->memory_limit_bytes = hardware_parse_memory_limit(s);
    for (size_t i = 0; i < sizeof(rdt) / sizeof(rdt[0]); i++) {
        hardware_parse_rdt(&f->rdt, rdt[i], s);
    }
    if (hardware_mask_parse(str_slice(s, 0, 4096), &mask, NULL) == 0) {
        hardware_mask_apply(f, &mask);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct hardware_cpuid t = { 0 };
    struct hardware_facts f = { 0 };
    struct buf b = BUF_INIT(1 << 17);
    struct json_w w;
    struct json_doc *doc = NULL;
    size_t bytes = n < sizeof(t) ? n : sizeof(t);

    if (n > 0) {
        memcpy(&t, data, bytes); /* count may lie */
    }
    hardware_decode_cpuid(&t, &f);
    texts((struct str){ (const char *)data, n }, &f);
    hardware_settle(&f);
    json_w_init(&w, &b, false);
    hardware_to_json(&f, &w);
    if (buf_error(&b) != 0 || json_parse(b.data, b.len, NULL, &doc, NULL) != 0) {
        abort();
    }
    (void)json_free(doc);
    buf_release(&b);
    return 0;
}
