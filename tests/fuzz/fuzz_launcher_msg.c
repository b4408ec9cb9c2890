/* Any bytes as a message to the launcher, and as a spec. What is taken encodes to the same bytes.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sandbox/sandbox_msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void as_message(const uint8_t *data, size_t n)
{
    uint8_t bytes[SANDBOX_MSG_SIZE] = { 0 };
    uint8_t again[SANDBOX_MSG_SIZE];
    struct sandbox_msg m;
    memcpy(bytes, data, n < sizeof(bytes) ? n : sizeof(bytes));
    for (size_t fds = 0; fds < 2; fds++) {
        for (int side = SANDBOX_FROM_AGENT; side <= SANDBOX_FROM_LAUNCHER; side++) {
            if (sandbox_msg_decode(bytes, sizeof(bytes), fds, (enum sandbox_msg_side)side, &m) ==
                0) {
                sandbox_msg_encode(&m, again);
                struct sandbox_result r;
                (void)sandbox_record_decode(m.record, sizeof(m.record), &r);
                if (side == SANDBOX_FROM_AGENT && memcmp(bytes, again, sizeof(bytes)) != 0) {
                    abort();
                }
            }
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sandbox_spec s;
    struct buf out = BUF_INIT(SANDBOX_SPEC_MAX + 1);
    as_message(data, n);
    if (sandbox_spec_decode(data, n, &s, NULL) == 0) {
        if (sandbox_spec_encode(&s, &out, NULL) != 0 || out.len != n) {
            abort();
        }
        sandbox_spec_release(&s);
    }
    buf_release(&out);
    return 0;
}
