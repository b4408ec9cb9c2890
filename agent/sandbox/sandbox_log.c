/* Where the log's bytes are, and the small files of a run's directory. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/sandbox/sandbox_internal.h"
#include "common/cur.h"
#include "common/insist.h"

enum { TAIL_MAGIC = 0x314c5441, STATE_MAGIC = 0x32545341, USAGE_MAGIC = 0x32535541 };

struct log_shape sandbox_log_shape_of(uint64_t log_bytes)
{
    uint64_t head = log_bytes / 2;
    return (struct log_shape){ .head = head, .ring = log_bytes - head };
}

void sandbox_log_header_encode(const struct log_shape *s, uint64_t total, uint8_t dst[LOG_HEADER])
{
    sandbox_put_le(dst, TAIL_MAGIC, 8);
    sandbox_put_le(dst + 8, s->head, 8);
    sandbox_put_le(dst + 16, s->ring, 8);
    sandbox_put_le(dst + 24, total, 8);
}

int sandbox_log_header_decode(const uint8_t src[LOG_HEADER], struct log_shape *ret,
                              uint64_t *ret_total)
{
    struct cur c;
    cur_init(&c, src, LOG_HEADER);
    uint64_t magic = cur_le64(&c);
    uint64_t head = cur_le64(&c);
    uint64_t ring = cur_le64(&c);
    if (magic != TAIL_MAGIC || ring == 0 || ring > (UINT64_C(1) << 50)) {
        return -EBADMSG;
    }
    *ret = (struct log_shape){ .head = head, .ring = ring };
    *ret_total = cur_le64(&c);
    return 0;
}

struct log_piece sandbox_log_locate(const struct log_shape *s, uint64_t total, uint64_t pos,
                                    bool live)
{
    if (pos >= total) {
        return (struct log_piece){ .where = LOG_END };
    }
    if (pos < s->head) {
        uint64_t end = total < s->head ? total : s->head;
        return (struct log_piece){ .where = LOG_HEAD, .offset = pos, .n = end - pos };
    }
    uint64_t first = s->head; /* the oldest position that the ring still has */
    if (total - s->head > s->ring) {
        uint64_t margin = live && s->ring > LOG_MARGIN ? LOG_MARGIN : 0;
        first = total - s->ring + margin;
    }
    if (pos < first) {
        return (struct log_piece){ .where = LOG_GAP, .n = first - pos };
    }
    uint64_t at = (pos - s->head) % s->ring;
    uint64_t n = s->ring - at;
    if (n > total - pos) {
        n = total - pos;
    }
    return (struct log_piece){ .where = LOG_RING, .offset = at, .n = n };
}

size_t sandbox_log_mark(uint64_t lost, char dst[LOG_MARK_MAX])
{
    int n = snprintf(dst, LOG_MARK_MAX, "\n[\xe2\x80\xa6 %llu bytes left out \xe2\x80\xa6]\n",
                     (unsigned long long)lost);
    INSIST(n > 0 && n < LOG_MARK_MAX);
    return (size_t)n;
}

void sandbox_index_entry_encode(enum sandbox_stream s, int64_t wall_us, uint64_t offset,
                                uint8_t dst[INDEX_ENTRY])
{
    sandbox_put_le(dst, ((uint64_t)wall_us << 1) | (s == SANDBOX_STDERR ? 1 : 0), 8);
    sandbox_put_le(dst + 8, offset, 8);
}

void sandbox_index_entry_decode(const uint8_t src[INDEX_ENTRY], enum sandbox_stream *ret_s,
                                int64_t *ret_wall_us, uint64_t *ret_offset)
{
    struct cur c;
    cur_init(&c, src, INDEX_ENTRY);
    uint64_t first = cur_le64(&c);
    *ret_s = (first & 1) != 0 ? SANDBOX_STDERR : SANDBOX_STDOUT;
    *ret_wall_us = (int64_t)(first >> 1);
    *ret_offset = cur_le64(&c);
}

static void put_words(uint8_t *dst, size_t *at, const uint64_t *words, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        sandbox_put_le(dst + *at, words[i], 8);
        *at += 8;
    }
}

static void get_reading(struct cur *c, struct telemetry_reading *ret)
{
    uint64_t words[SANDBOX_READING_WORDS];
    for (size_t i = 0; i < SANDBOX_READING_WORDS; i++) {
        words[i] = cur_le64(c);
    }
    sandbox_reading_from_words(words, ret);
}

size_t sandbox_state_encode(const struct sandbox_state *s, uint8_t dst[STATE_MAX])
{
    uint64_t words[SANDBOX_READING_WORDS];
    const uint64_t head[] = {
        STATE_MAGIC,
        s->slot,
        (uint64_t)s->pid,
        s->start_ticks,
        (uint64_t)s->started_wall_us,
        s->setup_us,
        s->kind,
        (s->peak_was_reset ? 1u : 0u) | (s->nat ? 2u : 0u) | (uint64_t)s->cache << 8 |
            (uint64_t)s->rdt_group << 32,
        s->layers_len,
    };
    size_t at = 0;
    put_words(dst, &at, head, ARRAY_LEN(head));
    memset(dst + at, 0, 40);
    memcpy(dst + at, s->boot_id, sizeof(s->boot_id) - 1);
    at += 40;
    sandbox_reading_to_words(&s->base, words);
    put_words(dst, &at, words, SANDBOX_READING_WORDS);
    for (size_t i = 0; i < s->layers_len; i++) {
        sandbox_put_le(dst + at, (uint64_t)s->layers[i].algo, 8);
        memcpy(dst + at + 8, s->layers[i].b, DIGEST_BYTES_MAX);
        at += 8 + DIGEST_BYTES_MAX;
    }
    sandbox_put_le(dst + at, sandbox_checksum(dst, at), 8);
    return at + 8;
}

int sandbox_state_decode(const void *p, size_t n, struct sandbox_state *ret)
{
    struct cur c;
    if (n < 8) {
        return -EBADMSG;
    }
    cur_init(&c, (const uint8_t *)p + n - 8, 8);
    if (cur_le64(&c) != sandbox_checksum(p, n - 8)) {
        return -EBADMSG;
    }
    cur_init(&c, p, n - 8);
    struct sandbox_state s = { 0 };
    uint64_t magic = cur_le64(&c);
    s.slot = (uint32_t)cur_le64(&c);
    s.pid = (int64_t)cur_le64(&c);
    s.start_ticks = cur_le64(&c);
    s.started_wall_us = (int64_t)cur_le64(&c);
    s.setup_us = cur_le64(&c);
    s.kind = (uint32_t)cur_le64(&c);
    uint64_t flags = cur_le64(&c);
    s.peak_was_reset = (flags & 1) != 0;
    s.nat = (flags & 2) != 0;
    s.cache = (enum sandbox_cache_class)(flags >> 8 & 3);
    s.rdt_group = (uint32_t)(flags >> 32);
    uint64_t layers = cur_le64(&c);
    cur_copy(&c, s.boot_id, 36);
    cur_skip(&c, 4);
    get_reading(&c, &s.base);
    if (magic != STATE_MAGIC || s.cache >= SANDBOX_CACHE_CLASSES || layers > SANDBOX_LAYERS_MAX ||
        s.pid < 0 || s.pid > INT32_MAX) {
        return -EBADMSG;
    }
    s.layers_len = (uint32_t)layers;
    for (size_t i = 0; i < layers; i++) {
        uint64_t algo = cur_le64(&c);
        s.layers[i].algo = algo == DIGEST_SHA512 ? DIGEST_SHA512 : DIGEST_SHA256;
        cur_copy(&c, s.layers[i].b, DIGEST_BYTES_MAX);
    }
    if (!cur_done(&c)) {
        return -EBADMSG;
    }
    *ret = s;
    return 0;
}

void sandbox_usage_encode(const struct sandbox_usage *u, uint8_t dst[USAGE_SIZE])
{
    uint64_t words[SANDBOX_READING_WORDS];
    const uint64_t head[] = { USAGE_MAGIC, u->peak_was_reset ? 1 : 0 };
    size_t at = 0;
    put_words(dst, &at, head, ARRAY_LEN(head));
    sandbox_reading_to_words(&u->base, words);
    put_words(dst, &at, words, SANDBOX_READING_WORDS);
    sandbox_reading_to_words(&u->end, words);
    put_words(dst, &at, words, SANDBOX_READING_WORDS);
    sandbox_put_le(dst + at, sandbox_checksum(dst, at), 8);
    INSIST(at + 8 == USAGE_SIZE);
}

int sandbox_usage_decode(const void *p, size_t n, struct sandbox_usage *ret)
{
    struct cur c;
    if (n != USAGE_SIZE) {
        return -EBADMSG;
    }
    cur_init(&c, (const uint8_t *)p + n - 8, 8);
    if (cur_le64(&c) != sandbox_checksum(p, n - 8)) {
        return -EBADMSG;
    }
    cur_init(&c, p, n - 8);
    if (cur_le64(&c) != USAGE_MAGIC) {
        return -EBADMSG;
    }
    ret->peak_was_reset = cur_le64(&c) == 1;
    get_reading(&c, &ret->base);
    get_reading(&c, &ret->end);
    return 0;
}
