/*
 * How long does the next firing of a schedule take? bench-cron [ROUNDS]: microseconds per
 * expression, in a zone with daylight saving, from days over ten years.
 */
#include <stdio.h>

#include "agent/triggers/cron.h"
#include "agent/triggers/sys_zone.h"
#include "common/insist.h"
#include "common/rng.h"
#include "common/str.h"
#include "common/sys/sys.h"

enum { ROUNDS = 200000 };

static int measure(const char *text, const struct trigger_zone *zone, uint64_t rounds)
{
    const int64_t start = 1795651200; /* 2026-11-26 */
    struct trigger_cron cron;
    struct str zone_name;
    struct err e = { 0 };
    struct rng rng;
    int64_t sum = 0;

    rng_init(&rng, 7);
    if (trigger_cron_parse(str_of(text), 1, &cron, &zone_name, &e) != 0) {
        fprintf(stderr, "%s: %s\n", text, err_text(&e));
        return 1;
    }
    uint64_t begun = sys_mono_us();
    for (uint64_t i = 0; i < rounds; i++) {
        int64_t at = 0;
        int64_t from = start + (int64_t)rng_below(&rng, (uint64_t)10 * 365 * 86400);
        sum += trigger_cron_next(&cron, zone, start, from, &at) ? at & 1 : 0;
    }
    double us = (double)(sys_mono_us() - begun) / (double)rounds;
    printf("%-32s %8.3f us%s\n", text, us, sum < 0 ? "!" : "");
    return us <= 10 ? 0 : 2;
}

int main(int argc, char **argv)
{
    static const char *const texts[] = { "* * * * *",           "*/5 * * * *", "30 2 * * *",
                                         "0 0 1 * *",           "0 0 29 2 *",  "0 12 * * mon-fri",
                                         "15,45 8-18 1,15 * 5", "0 0 1 1 *",   "* * * * * *",
                                         "59 59 23 31 12 *",    "@every 90s",  "H H * * *" };
    const struct trigger_zone *zone;
    uint64_t rounds = ROUNDS;
    struct err e = { 0 };
    int rc = 0;

    if (argc > 1) {
        (void)str_u64(str_of(argv[1]), &rounds);
    }
    if (trigger_zone_find(STR("Europe/Berlin"), &zone, &e) != 0) {
        fprintf(stderr, "%s\n", err_text(&e));
        return 1;
    }
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        int one = measure(texts[i], zone, rounds);
        rc = one > rc ? one : rc;
    }
    return rc;
}
