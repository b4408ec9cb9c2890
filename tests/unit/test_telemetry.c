/* cgroup texts of both versions, deltas, a run's totals, series, and this machine's own files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/telemetry/telemetry.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/rng.h"

static const char v2_cpu[] = "usage_usec 34160716\nuser_usec 20103872\nsystem_usec 14056844\n"
                             "nice_usec 0\ncore_sched.force_idle_usec 0\nnr_periods 40\n"
                             "nr_throttled 7\nthrottled_usec 81234\nnr_bursts 0\nburst_usec 0\n";
static const char v2_mem[] =
    "anon 4194304\nfile 1048576\nkernel 524288\nkernel_stack 16384\npagetables 61440\nsock 0\n"
    "shmem 8192\nfile_mapped 0\nanon_thp 0\ninactive_anon 4153344\npgfault 1234\npgmajfault 5\n";
static const char v2_mem_old[] =
    "anon 100\nfile 200\nkernel_stack 16384\npagetables 4096\npercpu 10\n"
    "sock 5\nshmem 0\nslab 1000\nslab_reclaimable 600\npgfault 1\n";
static const char v2_io[] =
    "259:0 rbytes=90112 wbytes=4096 rios=22 wios=1 dbytes=0 dios=0\n"
    "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n7:0 \n";
static const char v1_mem[] =
    "cache 9220096\nrss 6713344\nshmem 9068544\npgfault 34894\n"
    "hierarchical_memory_limit 9223372036854771712\ntotal_cache 242683904\n"
    "total_rss 12103680\ntotal_rss_huge 0\ntotal_shmem 9068544\n"
    "total_pgfault 1103697\ntotal_pgmajfault 962\n";
static const char v1_bytes[] =
    "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 12288\n254:0 Async 0\n"
    "254:0 Discard 0\n254:0 Total 12288\n7:1 Read 1\n7:1 Write 2\n"
    "Total 12291\n";
static const char psi[] = "some avg10=0.36 avg60=0.45 avg300=0.25 total=4150530\n"
                          "full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n";

static int parse(enum telemetry_file f, const char *text, struct telemetry_reading *r)
{
    return telemetry_parse(f, str_of(text), r);
}

static void reads_v2(void **state)
{
    (void)state;
    struct telemetry_reading r = { 0 };

    assert_int_equal(parse(TELEMETRY_V2_CPU_STAT, v2_cpu, &r), 0);
    assert_int_equal(parse(TELEMETRY_V2_MEMORY_CURRENT, "5767168\n", &r), 0);
    assert_int_equal(parse(TELEMETRY_V2_MEMORY_PEAK, "6291456\n", &r), 0);
    assert_int_equal(parse(TELEMETRY_V2_MEMORY_STAT, v2_mem, &r), 0);
    assert_int_equal(parse(TELEMETRY_V2_MEMORY_EVENTS,
                           "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n", &r),
                     0);
    assert_int_equal(parse(TELEMETRY_V2_IO_STAT, v2_io, &r), 0);
    assert_int_equal(parse(TELEMETRY_PIDS_CURRENT, "3\n", &r), 0);
    assert_int_equal(parse(TELEMETRY_CPU_PRESSURE, psi, &r), 0);
    assert_int_equal(r.cpu_total_us, 34160716);
    assert_int_equal(r.cpu_user_us, 20103872);
    assert_int_equal(r.cpu_system_us, 14056844);
    assert_int_equal(r.nr_throttled, 7);
    assert_int_equal(r.throttled_us, 81234);
    assert_int_equal(r.mem_bytes, 5767168);
    assert_int_equal(r.mem_peak_bytes, 6291456);
    assert_int_equal(r.mem_anon, 4194304);
    assert_int_equal(r.mem_kernel, 524288);
    assert_int_equal(r.mem_shmem, 8192);
    assert_int_equal(r.faults_minor, 1234);
    assert_int_equal(r.oom_kills, 1);
    assert_int_equal(r.io_read_bytes, 90112 + 1459200);
    assert_int_equal(r.io_write_bytes, 4096 + 314773504);
    assert_int_equal(r.io_read_ops, 214);
    assert_int_equal(r.io_write_ops, 354);
    assert_int_equal(r.pids, 3);
    assert_int_equal(r.psi_cpu_us, 4150530);
    assert_int_equal(parse(TELEMETRY_V2_MEMORY_STAT, v2_mem_old, &r), 0);
    assert_int_equal(r.mem_kernel, 16384 + 4096 + 10 + 5 + 1000);
    assert_int_equal(parse(TELEMETRY_V2_IO_STAT, "", &r), 0);
    assert_int_equal(r.io_read_bytes, 0);
}

static void reads_v1(void **state)
{
    (void)state;
    struct telemetry_reading r = { 0 };

    assert_int_equal(parse(TELEMETRY_V1_CPUACCT_USAGE, "36872673014\n", &r), 0);
    assert_int_equal(parse(TELEMETRY_V1_CPUACCT_STAT, "user 2168\nsystem 1518\n", &r), 0);
    assert_int_equal(
        parse(TELEMETRY_V1_CPU_STAT, "nr_periods 9\nnr_throttled 4\nthrottled_time 2500000\n", &r),
        0);
    assert_int_equal(parse(TELEMETRY_V1_MEMORY_USAGE, "254722048\n", &r), 0);
    assert_int_equal(parse(TELEMETRY_V1_MEMORY_MAX_USAGE, "994402304\n", &r), 0);
    assert_int_equal(parse(TELEMETRY_V1_MEMORY_STAT, v1_mem, &r), 0);
    assert_int_equal(parse(TELEMETRY_V1_MEMORY_KMEM_USAGE, "65536\n", &r), 0);
    assert_int_equal(
        parse(TELEMETRY_V1_MEMORY_OOM_CONTROL, "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", &r),
        0);
    assert_int_equal(parse(TELEMETRY_V1_IO_SERVICE_BYTES, v1_bytes, &r), 0);
    assert_int_equal(parse(TELEMETRY_V1_IO_SERVICED, "Total 0\n", &r), 0);
    assert_int_equal(r.cpu_total_us, 36872673);
    assert_int_equal(r.cpu_user_us, 21680000);
    assert_int_equal(r.cpu_system_us, 15180000);
    assert_int_equal(r.throttled_us, 2500);
    assert_int_equal(r.nr_throttled, 4);
    assert_int_equal(r.mem_anon, 12103680);
    assert_int_equal(r.mem_file, 242683904);
    assert_int_equal(r.mem_shmem, 9068544);
    assert_int_equal(r.mem_kernel, 65536);
    assert_int_equal(r.faults_major, 962);
    assert_int_equal(r.oom_kills, 2);
    assert_int_equal(r.io_read_bytes, 4097);
    assert_int_equal(r.io_write_bytes, 8194);
    assert_int_equal(r.io_read_ops, 0);
}

static void garbage_changes_nothing(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "no",           "-1\n",           "99999999999999999999999\n",
        "usage_usec\n", "usage_usec x\n", " 5 5 5",
        "some total\n", "total=5"
    };
    struct telemetry_reading zero = { 0 };

    for (unsigned f = 0; f < TELEMETRY_FILE_COUNT; f++) {
        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
            struct telemetry_reading r = { 0 };
            assert_int_equal(parse((enum telemetry_file)f, texts[i], &r), -ENODATA);
            assert_memory_equal(&r, &zero, sizeof(r));
        }
        assert_non_null(telemetry_file_name((enum telemetry_file)f));
    }
}

static void fill(struct rng *rng, struct telemetry_reading *r)
{
    uint64_t *w = (uint64_t *)(void *)&r->cpu_total_us;
    size_t n = (sizeof(*r) - offsetof(struct telemetry_reading, cpu_total_us)) / 8;

    for (size_t i = 0; i < n; i++) {
        w[i] = rng_u64(rng) >> (rng_u64(rng) % 64);
    }
    r->has = (uint32_t)rng_u64(rng);
}

static uint64_t seed(void)
{
    const char *s = getenv("TEST_SEED");
    uint64_t v = 20261123;

    if (s != NULL) {
        assert_int_equal(str_u64(str_of(s), &v), 0);
    }
    print_message("seed %llu\n", (unsigned long long)v);
    return v;
}

/* Whatever the kernel says: no counter of a run ever falls, no mean is above the peak. */
static void totals_never_fall(void **state)
{
    (void)state;
    struct rng rng;

    rng_init(&rng, seed());
    for (unsigned round = 0; round < 2000; round++) {
        struct telemetry_reading base = { 0 };
        struct telemetry_meter m;
        struct telemetry_sample last = { 0 };
        struct telemetry_sample s;
        struct telemetry_totals t;
        struct telemetry_reading r = { 0 };
        fill(&rng, &base);
        telemetry_meter_init(&m, rng_u64(&rng) % 4 == 0 ? NULL : &base, 1000,
                             (rng_u64(&rng) & 1) != 0);
        for (unsigned i = 0; i < 10; i++) {
            fill(&rng, &r);
            telemetry_meter_add(&m, &r, rng_u64(&rng) >> (rng_u64(&rng) % 64), &s);
            assert_true(s.at_us >= last.at_us && s.cpu_total_us >= last.cpu_total_us);
            assert_true(s.cpu_user_us >= last.cpu_user_us && s.cpu_system_us >= last.cpu_system_us);
            assert_true(s.io_read_bytes >= last.io_read_bytes &&
                        s.io_write_ops >= last.io_write_ops);
            assert_true(s.throttled_us >= last.throttled_us && s.mbm_bytes >= last.mbm_bytes);
            last = s;
        }
        fill(&rng, &r);
        telemetry_meter_end(&m, &r, last.at_us, &t);
        assert_true(t.cpu_total_us >= last.cpu_total_us && t.io_read_bytes >= last.io_read_bytes);
        assert_true(t.mem_mean_bytes <= t.mem_peak_bytes ||
                    t.mem_peak_source == TELEMETRY_PEAK_NONE);
        assert_int_equal(t.samples, 10);
        assert_true(t.mbm_bytes >= last.mbm_bytes && t.llc_mean_bytes <= t.llc_max_bytes);
    }
}

/* A monitoring group: two domains are added up, words are no numbers. */
static void cache_files(void **state)
{
    static const char *const none[] = { "Unavailable\n", "Error\n", "Unassigned\n", "", "-1\n" };
    const enum telemetry_file second_llc = (enum telemetry_file)(TELEMETRY_RDT_LLC + 1);
    struct telemetry_reading r = { .has = 0 };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(none); i++) {
        assert_int_equal(telemetry_parse(TELEMETRY_RDT_LLC, str_of(none[i]), &r), -ENODATA);
        assert_int_equal(telemetry_parse(TELEMETRY_RDT_MBM_LAST, str_of(none[i]), &r), -ENODATA);
    }
    assert_int_equal(r.has, 0);
    assert_int_equal(telemetry_parse(TELEMETRY_RDT_LLC, STR("32440320\n"), &r), 0);
    assert_int_equal(telemetry_parse(second_llc, STR("1000\n"), &r), 0);
    assert_int_equal(telemetry_parse(TELEMETRY_RDT_MBM, STR("264830976\n"), &r), 0);
    assert_int_equal(r.llc_bytes, 32441320);
    assert_int_equal(r.mbm_bytes, 264830976);
    assert_int_equal(r.has, TELEMETRY_HAS_LLC | TELEMETRY_HAS_MBM);
    assert_string_equal(telemetry_file_name(second_llc), "llc_occupancy");
    assert_string_equal(telemetry_file_name(TELEMETRY_RDT_MBM_LAST), "mbm_total_bytes");
}

static void cache_of_a_run(void **state)
{
    const uint32_t has = TELEMETRY_HAS_LLC | TELEMETRY_HAS_MBM;
    struct telemetry_reading r = { .has = has, .llc_bytes = 64 << 20, .mbm_bytes = 5000 };
    struct telemetry_meter m;
    struct telemetry_sample s;
    struct telemetry_totals t;
    (void)state;

    telemetry_meter_init(&m, &r, 0, true);
    /* What the run before left in the cache is not told. */
    telemetry_meter_add(&m, &r, 100000, &s);
    assert_int_equal(s.rdt, TELEMETRY_HAS_MBM);
    assert_int_equal(s.llc_bytes, 0);
    telemetry_meter_end(&m, NULL, 100000, &t);
    assert_int_equal(t.has & has, TELEMETRY_HAS_MBM);
    r.llc_bytes = 8 << 20;
    r.mbm_bytes = 6000;
    telemetry_meter_add(&m, &r, 1100000, &s);
    assert_int_equal(s.llc_bytes, 8 << 20);
    assert_int_equal(s.mbm_bytes, 1000);
    /* A reading without them leaves both as they are, and weighs nothing. */
    telemetry_meter_add(&m, &(const struct telemetry_reading){ .has = 0 }, 2100000, &s);
    assert_int_equal(s.llc_bytes, 8 << 20);
    r.llc_bytes = 4 << 20;
    r.mbm_bytes = 200; /* went back: counts from its new value, and the total never falls */
    telemetry_meter_add(&m, &r, 3100000, &s);
    assert_int_equal(s.mbm_bytes, 1000);
    telemetry_meter_end(&m, NULL, 3100000, &t);
    assert_int_equal(t.has & has, has);
    assert_int_equal(t.llc_max_bytes, 8 << 20);
    assert_int_equal(t.llc_mean_bytes, 6 << 20);
    assert_int_equal(t.mbm_bytes, 1000);
    /* One without a number before the run has no difference. */
    r.has = TELEMETRY_HAS_LLC;
    telemetry_meter_init(&m, &r, 0, true);
    r.has = has;
    telemetry_meter_add(&m, &r, 300000, &s);
    assert_int_equal(s.rdt, TELEMETRY_HAS_LLC);
}

static void a_run_in_a_used_group(void **state)
{
    (void)state;
    struct telemetry_reading base = { .has = UINT32_MAX,
                                      .cpu_total_us = 1000000,
                                      .mem_bytes = 100 << 20,
                                      .mem_file = 99 << 20,
                                      .mem_peak_bytes = 800 << 20,
                                      .oom_kills = 3,
                                      .io_read_bytes = 4096 };
    struct telemetry_reading r = base;
    struct telemetry_meter m;
    struct telemetry_sample s;
    struct telemetry_totals t;

    telemetry_meter_init(&m, &base, 1700000000000000, false);
    r.cpu_total_us = 1400000;
    r.mem_bytes = 150 << 20;
    r.mem_anon = 40 << 20;
    telemetry_meter_add(&m, &r, 1000000, &s);
    assert_int_equal(s.cpu_total_us, 400000);
    assert_int_equal(s.mem_bytes, 50 << 20);
    assert_int_equal(s.wall_us, 1700000001000000);
    /* The old page cache was reclaimed: what cannot be dropped is the floor. */
    r.mem_bytes = 90 << 20;
    r.mem_anon = 80 << 20;
    r.mem_file = 10 << 20;
    telemetry_meter_add(&m, &r, 2000000, &s);
    assert_int_equal(s.mem_bytes, 80 << 20);
    r.oom_kills = 4;
    r.mem_bytes = 20 << 20;
    r.mem_anon = 0;
    telemetry_meter_end(&m, &r, 2100000, &t);
    assert_int_equal(t.mem_peak_bytes, 80 << 20);
    assert_int_equal(t.mem_peak_source, TELEMETRY_PEAK_SAMPLED);
    assert_int_equal(t.mem_fixed_peak_bytes, 80 << 20);
    assert_int_equal(t.mem_mean_bytes, 65 << 20);
    assert_int_equal(t.oom_kills, 1);
    assert_int_equal(t.io_read_bytes, 0);
    assert_int_equal(t.elapsed_us, 2100000);
    /* The mark rose during the run: then it is the run's. */
    r.mem_peak_bytes = 900 << 20;
    telemetry_meter_end(&m, &r, 2100000, &t);
    assert_int_equal(t.mem_peak_bytes, 800 << 20);
    assert_int_equal(t.mem_peak_source, TELEMETRY_PEAK_KERNEL);
    /* The last reading could not be had. */
    telemetry_meter_end(&m, NULL, 2100000, &t);
    assert_int_equal(t.cpu_total_us, 400000);
    assert_int_equal(t.mem_peak_source, TELEMETRY_PEAK_SAMPLED);
}

/* A run that ends before its first sample: all is in the last reading. */
static void a_short_run(void **state)
{
    (void)state;
    struct telemetry_meter m;
    struct telemetry_totals t;
    struct telemetry_reading r = {
        .has = UINT32_MAX, .cpu_total_us = 900, .mem_bytes = 4096, .mem_peak_bytes = 1 << 20
    };

    telemetry_meter_init(&m, NULL, 0, true);
    telemetry_meter_end(&m, &r, 1500, &t);
    assert_int_equal(t.cpu_total_us, 900);
    assert_int_equal(t.mem_peak_bytes, 1 << 20);
    assert_int_equal(t.mem_peak_source, TELEMETRY_PEAK_KERNEL);
    assert_int_equal(t.samples, 0);
}

static void series_halves(void **state)
{
    (void)state;

    for (uint32_t max = 2; max <= 33; max++) {
        struct telemetry_series s;
        uint64_t mem_peak = 0;
        telemetry_series_init(&s, max);
        for (uint64_t i = 1; i <= 3000; i++) {
            struct telemetry_sample x = { .at_us = i, .cpu_total_us = i * 10 };
            x.mem_bytes = i * 7919 % 1009;
            mem_peak = x.mem_bytes > mem_peak ? x.mem_bytes : mem_peak;
            assert_int_equal(telemetry_series_add(&s, &x), 0);
            assert_true(s.n <= max && s.pending < s.stride);
            assert_int_equal((uint64_t)s.n * s.stride + s.pending, i);
            assert_int_equal(s.pending > 0 ? s.open.at_us : s.s[s.n - 1].at_us, i);
        }
        uint64_t seen = s.pending > 0 ? s.open.mem_bytes : 0;
        for (uint32_t i = 0; i < s.n; i++) {
            assert_int_equal(s.s[i].at_us, (uint64_t)(i + 1) * s.stride);
            seen = s.s[i].mem_bytes > seen ? s.s[i].mem_bytes : seen;
        }
        assert_int_equal(seen, mem_peak);
        telemetry_series_release(&s);
    }
}

static void series_without_memory(void **state)
{
    (void)state;
    struct telemetry_series s;
    struct telemetry_sample x = { .at_us = 1 };

    telemetry_series_init(&s, 0);
    mem_fail_after(0, 1);
    assert_int_equal(telemetry_series_add(&s, &x), -ENOMEM);
    mem_fail_after(-1, 0);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(telemetry_series_add(&s, &x), 0);
    }
    mem_fail_after(0, 1);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(telemetry_series_add(&s, &x), 0);
    }
    mem_fail_after(-1, 0);
    assert_true(s.n <= 16 && s.stride == 8);
    telemetry_series_release(&s);
}

static void writes_json(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(1 << 16);
    struct json_w w;
    struct json_doc *doc = NULL;
    struct telemetry_series s;
    struct telemetry_sample x = { .at_us = 5, .wall_us = 1700000000000000, .mem_bytes = 77 };
    struct telemetry_totals t = { .mem_peak_bytes = 9, .mem_peak_source = TELEMETRY_PEAK_SAMPLED };
    int64_t v = 0;

    telemetry_series_init(&s, 4);
    for (unsigned i = 0; i < 7; i++) {
        assert_int_equal(telemetry_series_add(&s, &x), 0);
    }
    json_w_init(&w, &b, false);
    json_w_obj(&w);
    json_w_key(&w, "series");
    telemetry_series_to_json(&s, &w);
    json_w_key(&w, "totals");
    telemetry_totals_to_json(&t, &w);
    json_w_end(&w);
    assert_int_equal(json_parse(b.data, b.len, NULL, &doc, NULL), 0);
    const struct json *samples = json_get(json_get(json_root(doc), "series"), "samples");
    assert_int_equal(samples->count, s.n + (s.pending > 0));
    assert_true(json_int(json_get(json_at(samples, 0), "memory_bytes"), &v) && v == 77);
    assert_true(json_int(json_get(json_get(json_root(doc), "totals"), "memory_peak_bytes"), &v));
    assert_int_equal(v, 9);
    (void)json_free(doc);
    telemetry_series_release(&s);
    buf_release(&b);
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[256];
    FILE *f = NULL;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* A directory that looks like a v2 group, and files that change between reads. */
static void reads_files(void **state)
{
    (void)state;
    char dir[] = "/tmp/test_telemetry.XXXXXX";
    static const char *const names[] = { "cpu.stat", "memory.current", "memory.stat", "memory.peak",
                                         "io.stat" };
    struct telemetry_dirs d = TELEMETRY_DIRS_NONE;
    struct telemetry_fds fds;
    struct telemetry_reading r;
    struct err e = { 0 };

    assert_non_null(mkdtemp(dir));
    d.v2 = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(d.v2 >= 0);
    assert_int_equal(telemetry_open(&d, &fds, &e), -ENOENT);
    put(dir, "cpu.stat", v2_cpu);
    put(dir, "memory.current", "1000\n");
    put(dir, "memory.stat", v2_mem);
    put(dir, "memory.peak", "5000\n");
    put(dir, "io.stat", v2_io);
    assert_int_equal(telemetry_open(&d, &fds, &e), 0);
    assert_true(fds.fd[TELEMETRY_V1_MEMORY_USAGE] < 0);
    assert_int_equal(telemetry_read(&fds, TELEMETRY_CHEAP, &r), 0);
    assert_int_equal(r.mem_bytes, 1000);
    assert_true((r.has & TELEMETRY_HAS_PEAK) == 0);
    put(dir, "memory.current", "2000\n");
    assert_int_equal(telemetry_read(&fds, TELEMETRY_ALL, &r), 0);
    assert_int_equal(r.mem_bytes, 2000);
    assert_int_equal(r.mem_peak_bytes, 5000);
    assert_int_equal(r.cpu_total_us, 34160716);
    telemetry_fds_close(&fds);
    assert_int_equal(telemetry_read(&fds, TELEMETRY_ALL, &r), -ENODATA);
    assert_int_equal(telemetry_peak_reset(&fds), -EOPNOTSUPP);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        assert_int_equal(unlinkat(d.v2, names[i], 0), 0);
    }
    assert_int_equal(close(d.v2), 0);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_v2),
        cmocka_unit_test(reads_v1),
        cmocka_unit_test(garbage_changes_nothing),
        cmocka_unit_test(totals_never_fall),
        cmocka_unit_test(cache_files),
        cmocka_unit_test(cache_of_a_run),
        cmocka_unit_test(a_run_in_a_used_group),
        cmocka_unit_test(a_short_run),
        cmocka_unit_test(series_halves),
        cmocka_unit_test(series_without_memory),
        cmocka_unit_test(writes_json),
        cmocka_unit_test(reads_files),
    };

    return cmocka_run_group_tests_name("telemetry", tests, NULL, NULL);
}
