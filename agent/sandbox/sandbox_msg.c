#include "agent/sandbox/sandbox_msg.h"

#include <errno.h>
#include <string.h>

#include "common/cur.h"
#include "common/insist.h"

_Static_assert(SANDBOX_MSG_READY == 1 && SANDBOX_MSG_ADOPT == 9, "wire");
_Static_assert(SANDBOX_MSG_HELLO == 32 && SANDBOX_MSG_ADOPTED == 39, "wire");
_Static_assert(SANDBOX_MSG_EGRESS == 11 && SANDBOX_MSG_EGRESS_SET == 40, "wire");

/* What a type may have beside itself. */
enum {
    HAS_RUN = 1, /* run and attempt; both required */
    HAS_RC = 2,
    HAS_VALUE = 4,
    HAS_DIGEST = 8, /* required */
    HAS_NUMBER = 16,
    HAS_TEXT = 32,
    HAS_RECORD = 64,
    HAS_BASE = 128,
    HAS_END = 256,
};

static const struct {
    uint16_t has;
    uint8_t from; /* enum sandbox_msg_side + 1; 0: no such type */
    uint8_t fds_min, fds_max;
} shapes[] = {
    [SANDBOX_MSG_READY] = { HAS_TEXT, 1, 0, 0 },
    [SANDBOX_MSG_PING] = { 0, 1, 0, 0 },
    [SANDBOX_MSG_RUN] = { HAS_RUN, 1, 1, 2 },
    [SANDBOX_MSG_STOP] = { HAS_RUN, 1, 0, 0 },
    [SANDBOX_MSG_SIGNAL] = { HAS_RUN | HAS_VALUE, 1, 0, 0 },
    [SANDBOX_MSG_UNPACK] = { HAS_DIGEST, 1, 1, 1 },
    [SANDBOX_MSG_REMOVE_RUN] = { HAS_RUN, 1, 0, 0 },
    [SANDBOX_MSG_REMOVE_LAYER] = { HAS_DIGEST, 1, 0, 0 },
    [SANDBOX_MSG_ADOPT] = { 0, 1, 0, 0 },
    [SANDBOX_MSG_KEEP_LAYERS] = { 0, 1, 1, 1 },
    [SANDBOX_MSG_EGRESS] = { HAS_RUN | HAS_RECORD, 1, 0, 0 },
    [SANDBOX_MSG_HELLO] = { HAS_NUMBER, 2, 0, 0 },
    [SANDBOX_MSG_STARTED] = { HAS_RUN | HAS_NUMBER | HAS_BASE, 2, 0, 48 },
    [SANDBOX_MSG_ENDED] = { HAS_RUN | HAS_VALUE | HAS_NUMBER | HAS_RECORD | HAS_BASE | HAS_END, 2,
                            0, 0 },
    [SANDBOX_MSG_FAILED] = { HAS_RUN | HAS_RC | HAS_TEXT, 2, 0, 0 },
    [SANDBOX_MSG_UNPACKED] = { HAS_DIGEST | HAS_RC | HAS_TEXT | HAS_NUMBER, 2, 0, 1 },
    [SANDBOX_MSG_RUN_REMOVED] = { HAS_RUN | HAS_RC | HAS_TEXT, 2, 0, 0 },
    [SANDBOX_MSG_LAYER_REMOVED] = { HAS_DIGEST | HAS_RC | HAS_TEXT, 2, 0, 0 },
    [SANDBOX_MSG_ADOPTED] = { 0, 2, 0, 0 },
    [SANDBOX_MSG_EGRESS_SET] = { HAS_RUN | HAS_RC | HAS_TEXT, 2, 0, 0 },
};

void sandbox_reading_to_words(const struct telemetry_reading *r, uint64_t *w)
{
    const uint64_t words[SANDBOX_READING_WORDS] = {
        r->has,           r->cpu_total_us,   r->cpu_user_us,
        r->cpu_system_us, r->throttled_us,   r->nr_throttled,
        r->mem_bytes,     r->mem_anon,       r->mem_file,
        r->mem_kernel,    r->mem_shmem,      r->mem_peak_bytes,
        r->faults_minor,  r->faults_major,   r->oom_kills,
        r->io_read_bytes, r->io_write_bytes, r->io_read_ops,
        r->io_write_ops,  r->pids,           r->psi_cpu_us,
        r->psi_memory_us, r->psi_io_us,      r->net_rx_bytes,
        r->net_tx_bytes,  r->net_rx_packets, r->net_tx_packets,
        r->llc_bytes,     r->mbm_bytes,
    };
    memcpy(w, words, sizeof(words));
}

void sandbox_reading_from_words(const uint64_t *w, struct telemetry_reading *ret)
{
    *ret = (struct telemetry_reading){
        .has = (uint32_t)w[0],
        .cpu_total_us = w[1],
        .cpu_user_us = w[2],
        .cpu_system_us = w[3],
        .throttled_us = w[4],
        .nr_throttled = w[5],
        .mem_bytes = w[6],
        .mem_anon = w[7],
        .mem_file = w[8],
        .mem_kernel = w[9],
        .mem_shmem = w[10],
        .mem_peak_bytes = w[11],
        .faults_minor = w[12],
        .faults_major = w[13],
        .oom_kills = w[14],
        .io_read_bytes = w[15],
        .io_write_bytes = w[16],
        .io_read_ops = w[17],
        .io_write_ops = w[18],
        .pids = w[19],
        .psi_cpu_us = w[20],
        .psi_memory_us = w[21],
        .psi_io_us = w[22],
        .net_rx_bytes = w[23],
        .net_tx_bytes = w[24],
        .net_rx_packets = w[25],
        .net_tx_packets = w[26],
        .llc_bytes = w[27],
        .mbm_bytes = w[28],
    };
}

struct put {
    uint8_t *p;
    size_t n;
};

static void put_int(struct put *o, uint64_t v, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        o->p[o->n++] = (uint8_t)(v >> (8 * i));
    }
}

static void put_bytes(struct put *o, const void *p, size_t n)
{
    memcpy(o->p + o->n, p, n);
    o->n += n;
}

static void put_reading(struct put *o, const struct telemetry_reading *r)
{
    uint64_t words[SANDBOX_READING_WORDS];
    sandbox_reading_to_words(r, words);
    for (size_t i = 0; i < SANDBOX_READING_WORDS; i++) {
        put_int(o, words[i], 8);
    }
}

void sandbox_msg_encode(const struct sandbox_msg *m, uint8_t dst[SANDBOX_MSG_SIZE])
{
    struct put o = { .p = dst };
    memset(dst, 0, SANDBOX_MSG_SIZE);
    put_int(&o, m->type, 4);
    put_int(&o, (uint32_t)m->rc, 4);
    put_int(&o, m->attempt, 4);
    put_int(&o, m->value, 4);
    put_bytes(&o, m->run.b, sizeof(m->run.b));
    put_int(&o, (uint64_t)m->digest.algo, 4);
    put_bytes(&o, m->digest.b, DIGEST_BYTES_MAX);
    for (size_t i = 0; i < SANDBOX_MSG_NUMBERS; i++) {
        put_int(&o, m->number[i], 8);
    }
    put_bytes(&o, m->text, strnlen(m->text, SANDBOX_TEXT_MAX - 1));
    o.n = 4 * 5 + 16 + DIGEST_BYTES_MAX + 8 * SANDBOX_MSG_NUMBERS + SANDBOX_TEXT_MAX;
    put_bytes(&o, m->record, SANDBOX_RECORD_SIZE);
    put_reading(&o, &m->base);
    put_reading(&o, &m->end);
    INSIST(o.n <= SANDBOX_MSG_SIZE);
}

static bool all_zero(const void *p, size_t n)
{
    const uint8_t *b = p;
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++) {
        any |= b[i];
    }
    return any == 0;
}

static void get_reading(struct cur *c, struct telemetry_reading *ret, bool *ret_zero)
{
    uint64_t words[SANDBOX_READING_WORDS];
    *ret_zero = true;
    for (size_t i = 0; i < SANDBOX_READING_WORDS; i++) {
        words[i] = cur_le64(c);
        *ret_zero = *ret_zero && words[i] == 0;
    }
    sandbox_reading_from_words(words, ret);
}

/* The digest field is of a known kind, and its unused bytes are zero. */
static bool digest_ok(const struct digest *d)
{
    size_t len = digest_len(d->algo);
    return len != 0 && all_zero(d->b + len, DIGEST_BYTES_MAX - len);
}

static bool shape_ok(const struct sandbox_msg *m, unsigned has, bool base_zero, bool end_zero)
{
    size_t text_len = strnlen(m->text, SANDBOX_TEXT_MAX);
    bool run = !ulid_is_zero(m->run) && m->attempt >= 1 && m->attempt <= SANDBOX_ATTEMPT_MAX;
    bool no_run = ulid_is_zero(m->run) && m->attempt == 0;
    bool no_digest = m->digest.algo == DIGEST_NONE && all_zero(m->digest.b, DIGEST_BYTES_MAX);
    return ((has & HAS_RUN) ? run : no_run) &&
           ((has & HAS_DIGEST) ? digest_ok(&m->digest) : no_digest) &&
           ((has & HAS_RC) ? m->rc <= 0 && m->rc > -4096 : m->rc == 0) &&
           ((has & HAS_VALUE) || m->value == 0) &&
           ((has & HAS_NUMBER) || all_zero(m->number, sizeof(m->number))) &&
           text_len < SANDBOX_TEXT_MAX && ((has & HAS_TEXT) || text_len == 0) &&
           all_zero(m->text + text_len, SANDBOX_TEXT_MAX - text_len) &&
           ((has & HAS_RECORD) || all_zero(m->record, SANDBOX_RECORD_SIZE)) &&
           ((has & HAS_BASE) || base_zero) && ((has & HAS_END) || end_zero);
}

int sandbox_msg_decode(const void *p, size_t n, size_t fds, enum sandbox_msg_side from,
                       struct sandbox_msg *ret)
{
    if (n != SANDBOX_MSG_SIZE) {
        return -EBADMSG;
    }
    struct cur c;
    struct sandbox_msg m = { 0 };
    bool base_zero;
    bool end_zero;
    cur_init(&c, p, n);
    m.type = cur_le32(&c);
    m.rc = (int32_t)cur_le32(&c);
    m.attempt = cur_le32(&c);
    m.value = cur_le32(&c);
    cur_copy(&c, m.run.b, sizeof(m.run.b));
    uint32_t algo = cur_le32(&c);
    if (m.type >= ARRAY_LEN(shapes) || shapes[m.type].from != (int)from + 1 ||
        algo > DIGEST_SHA512) {
        return -EBADMSG;
    }
    m.digest.algo = (enum digest_algo)algo;
    cur_copy(&c, m.digest.b, DIGEST_BYTES_MAX);
    for (size_t i = 0; i < SANDBOX_MSG_NUMBERS; i++) {
        m.number[i] = cur_le64(&c);
    }
    cur_copy(&c, m.text, SANDBOX_TEXT_MAX);
    cur_copy(&c, m.record, SANDBOX_RECORD_SIZE);
    get_reading(&c, &m.base, &base_zero);
    get_reading(&c, &m.end, &end_zero);
    size_t left = cur_left(&c);
    if (!all_zero(cur_bytes(&c, left).p, left) || !cur_done(&c) || fds < shapes[m.type].fds_min ||
        fds > shapes[m.type].fds_max || !shape_ok(&m, shapes[m.type].has, base_zero, end_zero)) {
        return -EBADMSG;
    }
    *ret = m;
    return 0;
}
