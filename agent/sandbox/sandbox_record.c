/* The exit record: one sector, little-endian, a checksum over all that is before it. */
#include <errno.h>
#include <string.h>

#include "agent/sandbox/sandbox_internal.h"
#include "common/cur.h"
#include "common/insist.h"

enum { RECORD_MAGIC = 0x31584541 /* "AEX1" */, RECORD_SUM_AT = SANDBOX_RECORD_SIZE - 8 };

_Static_assert(SANDBOX_EXIT == 1 && SANDBOX_OUTPUT == 6 && SANDBOX_LOST == 8, "on disk");

/* FNV-1a, 64 bits: tells a torn or overwritten record, not a forged one (only root and init can
 * write there). */
uint64_t sandbox_checksum(const void *p, size_t n)
{
    const uint8_t *b = p;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ b[i]) * 0x100000001b3u;
    }
    return h;
}

const char *sandbox_reason_name(enum sandbox_reason r)
{
    static const char *const names[] = {
        [SANDBOX_EXIT] = "exit",       [SANDBOX_SIGNAL] = "signal",   [SANDBOX_OOM] = "oom",
        [SANDBOX_TIMEOUT] = "timeout", [SANDBOX_STOPPED] = "stopped", [SANDBOX_OUTPUT] = "output",
        [SANDBOX_SETUP] = "setup",     [SANDBOX_LOST] = "lost",
    };
    if ((unsigned)r >= ARRAY_LEN(names) || names[r] == NULL) {
        return "unknown";
    }
    return names[r];
}

void sandbox_text(char dst[SANDBOX_TEXT_MAX], const char *text)
{
    size_t n = strnlen(text, SANDBOX_TEXT_MAX - 1);
    memcpy(dst, text, n);
    memset(dst + n, 0, SANDBOX_TEXT_MAX - n);
}

void sandbox_put_le(uint8_t *p, uint64_t v, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        p[i] = (uint8_t)(v >> (8 * i));
    }
}

void sandbox_record_encode(const struct sandbox_result *r, uint8_t dst[SANDBOX_RECORD_SIZE])
{
    const uint64_t words[] = {
        (uint64_t)r->reason,
        (uint64_t)r->exit_code,
        (uint64_t)r->signal,
        (uint64_t)r->started_wall_us,
        (uint64_t)r->ended_wall_us,
        r->started_mono_us,
        r->ended_mono_us,
        r->setup_us,
        r->stdout_bytes,
        r->stdout_kept,
        r->stderr_bytes,
        r->stderr_kept,
        (r->stdout_truncated ? 1u : 0u) | (r->stderr_truncated ? 2u : 0u),
        r->cpu_user_us,
        r->cpu_system_us,
        r->maxrss_bytes,
        r->switches_voluntary,
        r->switches_involuntary,
    };
    memset(dst, 0, SANDBOX_RECORD_SIZE);
    sandbox_put_le(dst, RECORD_MAGIC, 8);
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        sandbox_put_le(dst + 8 + 8 * i, words[i], 8);
    }
    size_t at = 8 + sizeof(words);
    _Static_assert(8 + sizeof(words) + SANDBOX_TEXT_MAX <= RECORD_SUM_AT, "the text fits");
    _Static_assert(8 + sizeof(words) + SANDBOX_TEXT_MAX + SANDBOX_RETRY_MAX <= RECORD_SUM_AT,
                   "and what is behind it");
    memcpy(dst + at, r->text, strnlen(r->text, SANDBOX_TEXT_MAX - 1));
    memcpy(dst + at + SANDBOX_TEXT_MAX, r->retry_after,
           strnlen(r->retry_after, SANDBOX_RETRY_MAX - 1));
    sandbox_put_le(dst + RECORD_SUM_AT, sandbox_checksum(dst, RECORD_SUM_AT), 8);
}

static bool result_ok(const struct sandbox_result *r)
{
    return r->reason >= SANDBOX_EXIT && r->reason <= SANDBOX_LOST && r->exit_code >= 0 &&
           r->exit_code <= 255 && r->signal >= 0 && r->signal <= 64 &&
           r->stdout_kept <= r->stdout_bytes && r->stderr_kept <= r->stderr_bytes;
}

int sandbox_record_decode(const void *p, size_t n, struct sandbox_result *ret)
{
    if (n != SANDBOX_RECORD_SIZE) {
        return -EBADMSG;
    }
    struct cur c;
    cur_init(&c, (const uint8_t *)p + RECORD_SUM_AT, 8);
    if (cur_le64(&c) != sandbox_checksum(p, RECORD_SUM_AT)) {
        return -EBADMSG;
    }
    cur_init(&c, p, n);
    if (cur_le64(&c) != RECORD_MAGIC) {
        return -EBADMSG;
    }
    struct sandbox_result r = { 0 };
    r.reason = (enum sandbox_reason)(cur_le64(&c) & 0xff);
    r.exit_code = (int)(int64_t)cur_le64(&c);
    r.signal = (int)(int64_t)cur_le64(&c);
    r.started_wall_us = (int64_t)cur_le64(&c);
    r.ended_wall_us = (int64_t)cur_le64(&c);
    r.started_mono_us = cur_le64(&c);
    r.ended_mono_us = cur_le64(&c);
    r.setup_us = cur_le64(&c);
    r.stdout_bytes = cur_le64(&c);
    r.stdout_kept = cur_le64(&c);
    r.stderr_bytes = cur_le64(&c);
    r.stderr_kept = cur_le64(&c);
    uint64_t flags = cur_le64(&c);
    r.stdout_truncated = (flags & 1) != 0;
    r.stderr_truncated = (flags & 2) != 0;
    r.cpu_user_us = cur_le64(&c);
    r.cpu_system_us = cur_le64(&c);
    r.maxrss_bytes = cur_le64(&c);
    r.switches_voluntary = cur_le64(&c);
    r.switches_involuntary = cur_le64(&c);
    cur_copy(&c, r.text, SANDBOX_TEXT_MAX);
    r.text[SANDBOX_TEXT_MAX - 1] = '\0';
    cur_copy(&c, r.retry_after, SANDBOX_RETRY_MAX); /* zeroes, in a record of an older launcher */
    r.retry_after[SANDBOX_RETRY_MAX - 1] = '\0';
    if (!cur_ok(&c) || !result_ok(&r)) {
        return -EBADMSG;
    }
    *ret = r;
    return 0;
}
