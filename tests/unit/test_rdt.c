/* Classes of service, schemata, refusals and the pool of monitoring groups. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "agent/sandbox/sandbox_rdt.h"
#include "common/insist.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

/* ---- schemata ---- */

static void both_formats_of_schemata_are_read(void **state)
{
    struct rdt_schemata s;
    (void)state;
    assert_int_equal(sandbox_rdt_schemata_parse(STR("    MB:0=100;1= 90\n    L3:0=7ff;1=3\n"), &s),
                     0);
    assert_true(s.has[RDT_L3] && s.has[RDT_MB] && !s.has[RDT_L3CODE]);
    assert_int_equal(s.len[RDT_L3], 2);
    assert_int_equal(s.value[RDT_L3][0], 0x7ff);
    assert_int_equal(s.value[RDT_L3][1], 3);
    assert_int_equal(s.value[RDT_MB][1], 90);
    assert_int_equal(sandbox_rdt_bandwidth(&s), RDT_PERCENT);
    /* Older kernels pad with zeroes and blanks; domains need not begin with 0. */
    assert_int_equal(
        sandbox_rdt_schemata_parse(STR("L2:0=0ffff\nMB:8=   100;9=   100\nL3:8=0000fffff;9=1"), &s),
        0);
    assert_int_equal(s.id[RDT_L3][0], 8);
    assert_int_equal(s.value[RDT_L3][0], 0xfffff);
    assert_int_equal(s.id[RDT_MB][1], 9);
    assert_int_equal(sandbox_rdt_schemata_parse(STR("L3DATA:0=f\nL3CODE:0=f\n"), &s), 0);
    assert_true(s.has[RDT_L3CODE] && s.has[RDT_L3DATA] && !s.has[RDT_L3]);
    assert_int_equal(sandbox_rdt_bandwidth(&s), RDT_NO_BANDWIDTH);
    assert_int_equal(sandbox_rdt_schemata_parse(STR("MB:0=4294967295\n"), &s), 0);
    assert_int_equal(sandbox_rdt_bandwidth(&s), RDT_MIBPS);
    assert_int_equal(sandbox_rdt_schemata_parse(STR("MB:0=2048\n"), &s), 0);
    assert_int_equal(sandbox_rdt_bandwidth(&s), RDT_EIGHTHS);
}

static void what_is_no_schemata_is_refused(void **state)
{
    static const char *const texts[] = { "",
                                         "\n",
                                         "L3",
                                         "L3:",
                                         "L3:0",
                                         "L3:0=",
                                         "L3:x=1",
                                         "L3:0=fg",

                                         "L3:0=1;;1=1",
                                         "MB:0=1000000000000",
                                         "L3:uninitialized",
                                         "L2:0=ff",
                                         "L3:-1=f",
                                         "L3:0=1 2" };
    struct rdt_schemata s;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        assert_int_equal(sandbox_rdt_schemata_parse(str_of(texts[i]), &s), -EINVAL);
    }
    /* Of two lines of one resource the last counts. */
    assert_int_equal(sandbox_rdt_schemata_parse(STR("L3:0=f\nL3:0\n"), &s), -EINVAL);
    /* One broken line does not hide the other. */
    assert_int_equal(sandbox_rdt_schemata_parse(STR("L3:uninitialized\nMB:0=100\n"), &s), 0);
    assert_false(s.has[RDT_L3]);
}

static void schemata_text_is_as_the_kernel_takes_it(void **state)
{
    struct rdt_schemata root;
    const struct rdt_class c = { .mask = 0x1fc, .percent = 50 };
    struct buf AUTO_BUF out = BUF_INIT(RDT_TEXT_MAX);
    (void)state;
    (void)sandbox_rdt_schemata_parse(STR("MB:0=100;1=100\nL3:0=7ff;1=7ff\n"), &root);
    sandbox_rdt_schemata_write(&root, &c, &out);
    assert_string_equal(buf_cstr(&out), "L3:0=1fc;1=1fc\nMB:0=50;1=50\n");
    buf_reset(&out);
    (void)sandbox_rdt_schemata_parse(STR("L3DATA:3=ff\nL3CODE:3=ff\nMB:3=100\n"), &root);
    sandbox_rdt_schemata_write(&root, &(const struct rdt_class){ .mask = 3 }, &out);
    assert_string_equal(buf_cstr(&out), "L3CODE:3=3\nL3DATA:3=3\n");
}

/* ---- classes ---- */

static struct hardware_rdt machine(uint64_t mask, uint64_t shareable, uint32_t closids)
{
    return (struct hardware_rdt){ .mounted = true,
                                  .l3 = { .present = true,
                                          .cbm_mask = mask,
                                          .shareable_bits = shareable,
                                          .min_cbm_bits = 1,
                                          .closids = closids },
                                  .mb = true,
                                  .mb_closids = 8,
                                  .mb_min = 10,
                                  .mb_gran = 10 };
}

/* Masks of real machines (goresctrl's, intel-cmt-cat's test data). */
static void classes_of_real_machines(void **state)
{
    static const struct {
        uint64_t mask, shareable, sensitive, polluter;
    } of[] = {
        { 0x7ff, 0x600, 0x1fc, 0x3 },       /* Skylake-SP: 11 ways */
        { 0xfffff, 0xc0000, 0x3fffc, 0x3 }, /* 20 ways */
        { 0xfffff, 0xc0001, 0x3fff8, 0x6 }, /* devices share the lowest, too */
        { 0xfff, 0, 0xffc, 0x3 },
    };
    struct rdt_class c[SANDBOX_CACHE_CLASSES];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(of); i++) {
        struct hardware_rdt m = machine(of[i].mask, of[i].shareable, 16);
        assert_true(sandbox_rdt_classes(&m, RDT_PERCENT, c));
        assert_int_equal(c[SANDBOX_CACHE_SENSITIVE].mask, of[i].sensitive);
        assert_int_equal(c[SANDBOX_CACHE_POLLUTER].mask, of[i].polluter);
        assert_int_equal(c[SANDBOX_CACHE_DEFAULT].mask, 0);
        assert_int_equal(c[SANDBOX_CACHE_POLLUTER].percent, 50);
        assert_int_equal(c[SANDBOX_CACHE_SENSITIVE].percent, 0);
        assert_true(sandbox_rdt_classes(&m, RDT_MIBPS, c));
        assert_int_equal(c[SANDBOX_CACHE_POLLUTER].percent, 0);
    }
}

static void no_classes_where_there_is_no_room(void **state)
{
    struct rdt_class c[SANDBOX_CACHE_CLASSES];
    struct hardware_rdt few_ways = machine(0xf, 0, 16);
    struct hardware_rdt few_ids = machine(0x7ff, 0, 2);
    struct hardware_rdt few_mb = machine(0x7ff, 0, 16);
    struct hardware_rdt wide = machine(0x7ff, 0, 16);
    struct hardware_rdt none = { .mounted = true };
    (void)state;
    assert_false(sandbox_rdt_classes(&few_ways, RDT_PERCENT, c));
    assert_false(sandbox_rdt_classes(&few_ids, RDT_PERCENT, c));
    few_mb.mb_closids = 2;
    assert_false(sandbox_rdt_classes(&few_mb, RDT_PERCENT, c));
    assert_false(sandbox_rdt_classes(&none, RDT_PERCENT, c));
    assert_int_equal(c[SANDBOX_CACHE_SENSITIVE].mask, 0);
    wide.l3.min_cbm_bits = 4;
    assert_true(sandbox_rdt_classes(&wide, RDT_PERCENT, c));
    assert_int_equal(c[SANDBOX_CACHE_POLLUTER].mask, 0xf);
    wide.mb_gran = 40;
    assert_true(sandbox_rdt_classes(&wide, RDT_PERCENT, c));
    assert_int_equal(c[SANDBOX_CACHE_POLLUTER].percent, 80); /* rounded up, as the kernel does */
}

/* Whatever a machine says, its masks are what its kernel would take. */
static void masks_of_any_machine_are_valid(void **state)
{
    struct rng rng;
    unsigned parted = 0;
    (void)state;
    rng_init(&rng, test_seed("masks"));
    for (int i = 0; i < 20000; i++) {
        struct rdt_class c[SANDBOX_CACHE_CLASSES];
        struct hardware_rdt m =
            machine(rng_u64(&rng) >> (rng_u64(&rng) % 64), rng_u64(&rng) & rng_u64(&rng),
                    (uint32_t)(rng_u64(&rng) % 20));
        m.l3.min_cbm_bits = (uint32_t)(rng_u64(&rng) % 6);
        m.mb_gran = (uint32_t)(rng_u64(&rng) % 120);
        if (!sandbox_rdt_classes(&m, RDT_PERCENT, c)) {
            continue;
        }
        parted++;
        for (size_t k = SANDBOX_CACHE_SENSITIVE; k < SANDBOX_CACHE_CLASSES; k++) {
            uint64_t v = c[k].mask;
            uint64_t low = v & (~v + 1);
            assert_true(v != 0 && (v & ~m.l3.cbm_mask) == 0 && (v & m.l3.shareable_bits) == 0);
            assert_true(((v / low) & (v / low + 1)) == 0);
            assert_true((uint32_t)__builtin_popcountll(v) >= m.l3.min_cbm_bits);
            assert_true(c[k].percent < 100);
        }
        assert_true((c[SANDBOX_CACHE_SENSITIVE].mask & c[SANDBOX_CACHE_POLLUTER].mask) == 0);
    }
    assert_true(parted > 1000);
}

/* ---- refusals ---- */

static void every_refusal_has_an_answer(void **state)
{
    static const struct {
        int rc;
        const char *status;
        enum rdt_answer answer;
    } of[] = {
        { -ENOSPC, "Out of CLOSIDs", RDT_NO_MORE },
        { -ENOSPC, "out of CLOSIDs", RDT_NO_MORE },
        { -ENOSPC, "Out of RMIDs", RDT_NO_MORE },
        { -EBUSY, "Out of RMIDs", RDT_LATER },
        { -EBUSY, "", RDT_LATER },
        { -ENOSPC, "", RDT_NO_MORE },
        { -ENOSPC, "No space on L3:0", RDT_CLASS },
        { -ENOSPC, "Kernel out of memory", RDT_LATER },
        { -EINVAL, "Missing ':'", RDT_CLASS },
        { -EINVAL, "Missing 'L3' value", RDT_CLASS },
        { -EINVAL, "Unknown or unsupported resource name 'L3'", RDT_CLASS },
        { -EINVAL, "Missing '=' or non-numeric domain", RDT_CLASS },
        { -EINVAL, "Duplicate domain 0", RDT_CLASS },
        { -EINVAL, "Non-hex character in the mask zz", RDT_CLASS },
        { -EINVAL, "Mask out of range", RDT_CLASS },
        { -EINVAL, "The mask f7 has non-consecutive 1-bits", RDT_CLASS },
        { -EINVAL, "mask f7 has non-consecutive 1-bits", RDT_CLASS },
        { -EINVAL, "Need at least 2 bits in the mask", RDT_CLASS },
        { -EINVAL, "Overlaps with exclusive group", RDT_CLASS },
        { -EINVAL, "Overlaps with other group", RDT_CLASS },
        { -EINVAL, "CBM overlaps with pseudo-locked region", RDT_CLASS },
        { -EINVAL, "Pseudo-locked region in hierarchy", RDT_CLASS },
        { -EINVAL, "Resource group is pseudo-locked", RDT_CLASS },
        { -EINVAL, "Invalid MB value x", RDT_CLASS },
        { -EINVAL, "MB value 5 out of range [10,100]", RDT_CLASS },
        { -EINVAL, "No support for non-linear MB domains", RDT_CLASS },
        { -EINVAL, "Cannot pseudo-lock MBA resource", RDT_CLASS },
        { -EINVAL, "Schemata overlaps", RDT_CLASS },
        { -EINVAL, "Cannot be exclusive without CAT/CDP", RDT_CLASS },
        { -EINVAL, "Unknown or unsupported mode", RDT_CLASS },
        { -EINVAL, "Task list parsing error pid x", RDT_TASK },
        { -EINVAL, "Invalid pid -1", RDT_TASK },
        { -EINVAL, "Can't move task to different control group", RDT_TASK },
        { -ESRCH, "No task 12\nError while processing task 12", RDT_TASK },
        { -EPERM, "No permission to move task 12\nError while processing task 12", RDT_TASK },
        { -ESRCH, "", RDT_TASK },
        { -ENODEV, "Cache domain offline", RDT_CLASS },
        { -ENODEV, "", RDT_GONE },
        { -ENOTCONN, "", RDT_GONE },
        { -ENOENT, "", RDT_GONE },
        { -EINVAL, "", RDT_BROKEN },
        { -EPERM, "something new", RDT_BROKEN },
    };
    char line[32];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(of); i++) {
        assert_int_equal(sandbox_rdt_answer(of[i].rc, str_of(of[i].status)), of[i].answer);
    }
    sandbox_rdt_status_line(STR("No task 12\nError\x01\xff while processing task 12\n"), line,
                            sizeof line);
    assert_true(strncmp(line, "No task 12; Error?? while", 25) == 0 && strlen(line) < 32);
}

/* ---- the pool ---- */

static void groups_are_used_again(void **state)
{
    struct rdt_group groups[3] = { { RDT_ABSENT, SANDBOX_CACHE_DEFAULT, 0 } };
    struct rdt_pool p = { .groups = groups, .len = 3 };
    struct rdt_step s;
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        s = sandbox_rdt_want(&p, SANDBOX_CACHE_DEFAULT, 1000);
        assert_int_equal(s.act, RDT_MAKE);
        sandbox_rdt_made(&p, s.group, SANDBOX_CACHE_DEFAULT, 0, false, 1000);
    }
    assert_int_equal(sandbox_rdt_free(&p), 0);
    assert_int_equal(sandbox_rdt_want(&p, SANDBOX_CACHE_DEFAULT, 1000).act, RDT_NONE);
    sandbox_rdt_over(&p, 2, 2000);
    sandbox_rdt_over(&p, 0, 3000);
    s = sandbox_rdt_want(&p, SANDBOX_CACHE_DEFAULT, 4000);
    assert_true(s.act == RDT_USE && s.group == 2); /* it has rested longest */
    /* Another class has one of the default's; its id goes to limbo, so the next comes later. */
    s = sandbox_rdt_want(&p, SANDBOX_CACHE_POLLUTER, 4000);
    assert_true(s.act == RDT_REPLACE && s.group == 0 && s.was == SANDBOX_CACHE_DEFAULT);
    sandbox_rdt_made(&p, 0, SANDBOX_CACHE_POLLUTER, -EBUSY, true, 4000);
    assert_int_equal(sandbox_rdt_want(&p, SANDBOX_CACHE_POLLUTER, 4000 + RDT_RETRY_MS - 1).act,
                     RDT_NONE);
    s = sandbox_rdt_want(&p, SANDBOX_CACHE_POLLUTER, 4000 + RDT_RETRY_MS);
    assert_true(s.act == RDT_MAKE && s.group == 0);
    sandbox_rdt_made(&p, 0, SANDBOX_CACHE_POLLUTER, 0, false, 5000);
    sandbox_rdt_over(&p, 0, 5000);
    assert_int_equal(sandbox_rdt_want(&p, SANDBOX_CACHE_POLLUTER, 5000).act, RDT_USE);
}

/* Any order of wants, ends and failures: a group is never given twice, and one that was given up
 * comes back. */
static void no_group_has_two_runs(void **state)
{
    enum { N = 5, RUNS = 8 };
    struct rdt_group groups[N] = { { RDT_ABSENT, SANDBOX_CACHE_DEFAULT, 0 } };
    struct rdt_pool p = { .groups = groups, .len = N };
    bool there[N] = { false };
    enum sandbox_cache_class in[N] = { SANDBOX_CACHE_DEFAULT };
    bool live[N] = { false };
    struct rng rng;
    unsigned given = 0;
    uint64_t now = 1;
    (void)state;
    rng_init(&rng, test_seed("pool"));
    for (int i = 0; i < 50000; i++, now += rng_u64(&rng) % 400) {
        uint32_t g = (uint32_t)(rng_u64(&rng) % N);
        if (rng_u64(&rng) % 2 == 0) {
            if (live[g]) {
                live[g] = false;
                sandbox_rdt_over(&p, g, now);
            }
            continue;
        }
        enum sandbox_cache_class class =
            (enum sandbox_cache_class)(rng_u64(&rng) % SANDBOX_CACHE_CLASSES);
        struct rdt_step s = sandbox_rdt_want(&p, class, now);
        if (s.act == RDT_NONE) {
            continue;
        }
        assert_true(s.group < N && !live[s.group]);
        assert_int_equal(s.act == RDT_MAKE, !there[s.group]);
        if (s.act == RDT_USE) {
            assert_int_equal(in[s.group], class);
        } else {
            bool removed = s.act == RDT_REPLACE;
            int rc = rng_u64(&rng) % 3 == 0 ? -EBUSY : 0;
            assert_true(!removed || (in[s.group] == s.was && s.was != class));
            there[s.group] = rc == 0;
            in[s.group] = class;
            sandbox_rdt_made(&p, s.group, class, rc, removed, now);
            if (rc != 0) {
                continue;
            }
        }
        live[s.group] = true;
        given++;
    }
    assert_true(given > 5000);
}

static void the_pool_leaves_ids_to_others(void **state)
{
    (void)state;
    assert_int_equal(sandbox_rdt_pool_len(160, 32), 32);
    assert_int_equal(sandbox_rdt_pool_len(160, 4096), 117);
    assert_int_equal(sandbox_rdt_pool_len(4, 8), 0);
    assert_int_equal(sandbox_rdt_pool_len(0, 8), 0);
    assert_int_equal(sandbox_rdt_pool_len(UINT32_MAX, UINT32_MAX), RDT_GROUPS_MAX);
}

static void names_are_told_apart(void **state)
{
    char name[RDT_NAME_CAP];
    uint32_t g = 0;
    (void)state;
    sandbox_rdt_group_name("agent-1a2b", 17, name);
    assert_string_equal(name, "agent-1a2b.17");
    assert_true(sandbox_rdt_name_ours("agent-1a2b", name, &g));
    assert_int_equal(g, 17);
    sandbox_rdt_class_name("agent-1a2b", SANDBOX_CACHE_POLLUTER, name);
    assert_string_equal(name, "agent-1a2b.polluter");
    assert_true(sandbox_rdt_name_ours("agent-1a2b", name, &g));
    assert_int_equal(g, UINT32_MAX);
    static const char *const foreign[] = { "agent-1a2b",   "agent-1a2b0.1", "COS1",
                                           "agent-1a2c.1", "xagent-1a2b.1", "agent-1a2b." };
    for (size_t i = 0; i < ARRAY_LEN(foreign); i++) {
        assert_false(sandbox_rdt_name_ours("agent-1a2b", foreign[i], &g));
    }
    assert_true(sandbox_rdt_name_ours("agent-1a2b", "agent-1a2b.01", &g) && g == UINT32_MAX);
    assert_true(sandbox_rdt_name_ours("agent-1a2b", "agent-1a2b.1024", &g) && g == UINT32_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_formats_of_schemata_are_read),
        cmocka_unit_test(what_is_no_schemata_is_refused),
        cmocka_unit_test(schemata_text_is_as_the_kernel_takes_it),
        cmocka_unit_test(classes_of_real_machines),
        cmocka_unit_test(no_classes_where_there_is_no_room),
        cmocka_unit_test(masks_of_any_machine_are_valid),
        cmocka_unit_test(every_refusal_has_an_answer),
        cmocka_unit_test(groups_are_used_again),
        cmocka_unit_test(no_group_has_two_runs),
        cmocka_unit_test(the_pool_leaves_ids_to_others),
        cmocka_unit_test(names_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
