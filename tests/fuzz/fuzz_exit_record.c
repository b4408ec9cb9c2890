/* Any bytes as the files of a run's directory and of an image: record, usage, state, log header,
 * passwd. The first byte picks one; checksums are made right, so that what is behind them is met.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sandbox/sandbox_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void as_record(uint8_t *bytes)
{
    struct sandbox_result r;
    uint8_t again[SANDBOX_RECORD_SIZE];
    sandbox_put_le(bytes + SANDBOX_RECORD_SIZE - 8,
                   sandbox_checksum(bytes, SANDBOX_RECORD_SIZE - 8), 8);
    if (sandbox_record_decode(bytes, SANDBOX_RECORD_SIZE, &r) == 0) {
        sandbox_record_encode(&r, again);
        if (sandbox_record_decode(again, sizeof(again), &r) != 0) {
            abort();
        }
        (void)sandbox_reason_name(r.reason);
    }
}

static void as_state(uint8_t *bytes, size_t n)
{
    static struct sandbox_state s;
    static uint8_t again[STATE_MAX];
    if (n < 16) {
        return;
    }
    sandbox_put_le(bytes + n - 8, sandbox_checksum(bytes, n - 8), 8);
    if (sandbox_state_decode(bytes, n, &s) == 0 &&
        sandbox_state_decode(again, sandbox_state_encode(&s, again), &s) != 0) {
        abort();
    }
}

static void as_passwd(const uint8_t *data, size_t n)
{
    struct sandbox_user u;
    struct str text = { (const char *)data, n };
    static const char *const names[] = { "app", "root", "1000", "0:app", "app:1", "" };
    for (size_t i = 0; i < 6; i++) {
        if (sandbox_user_find(names[i], text, text, &u, NULL) == 0 &&
            (u.uid > 65535 || u.gid > 65535 || u.home[0] != '/')) {
            abort();
        }
    }
}

static void as_log(const uint8_t *data, size_t n)
{
    struct log_shape s;
    uint64_t total;
    if (n < LOG_HEADER || sandbox_log_header_decode(data, &s, &total) < 0) {
        return;
    }
    uint64_t pos = 0;
    for (int i = 0; i < 64; i++) {
        struct log_piece p = sandbox_log_locate(&s, total, pos, (n & 1) != 0);
        if (p.where == LOG_END) {
            break;
        }
        if (p.n == 0 || p.n > total - pos) {
            abort();
        }
        pos += p.n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static uint8_t bytes[STATE_MAX];
    if (n < 1) {
        return 0;
    }
    size_t rest = n - 1 < sizeof(bytes) ? n - 1 : sizeof(bytes);
    memset(bytes, 0, sizeof(bytes));
    memcpy(bytes, data + 1, rest);
    switch (data[0] % 4) {
    case 0:
        as_record(bytes);
        break;
    case 1:
        as_state(bytes, rest);
        break;
    case 2:
        as_passwd(data + 1, n - 1);
        break;
    default:
        as_log(data + 1, n - 1);
        break;
    }
    return 0;
}
