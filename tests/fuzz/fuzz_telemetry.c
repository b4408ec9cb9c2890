/* Any bytes as any cgroup file: the first byte picks the kind. A run's counters never fall. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "agent/telemetry/telemetry.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct telemetry_reading r = { 0 };
    struct telemetry_meter m;
    struct telemetry_totals a;
    struct telemetry_totals b;
    struct str rest;
    struct str piece;

    if (n < 1) {
        return 0;
    }
    rest = (struct str){ (const char *)data + 1, n - 1 };
    telemetry_meter_init(&m, NULL, 0, (data[0] & 128) != 0);
    /* '~' parts several files. */
    for (unsigned i = data[0]; str_split(&rest, '~', &piece); i++) {
        (void)telemetry_parse((enum telemetry_file)(i % TELEMETRY_FILE_COUNT), piece, &r);
        telemetry_meter_end(&m, &r, i, &a);
        telemetry_meter_add(&m, &r, i, NULL);
        telemetry_meter_end(&m, NULL, i, &b);
        if (b.cpu_total_us < a.cpu_total_us || b.io_read_bytes < a.io_read_bytes) {
            abort();
        }
    }
    return 0;
}
