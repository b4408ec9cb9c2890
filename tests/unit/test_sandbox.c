/* The sandbox's pure part: spec, record, messages, plan, users, the log's layout. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sandbox/sandbox_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

static const char *const argv[] = { "sh", "-c", "true", NULL };
static const char *const env[] = { "A=b", "EMPTY=", NULL };

static struct digest layers[3];
static const struct egress_net nets[] = {
    { .kind = EGRESS_IP4,
      .prefix = 8,
      .proto = EGRESS_TCP,
      .port_first = 80,
      .port_last = 81,
      .addr = { 10 } },
    { .kind = EGRESS_ALL, .port_first = 443, .port_last = 443 },
    { .kind = EGRESS_IP6, .prefix = 32, .addr = { 0x20, 0x01, 0x0d, 0xb8 } },
};

static struct sandbox_spec sample(void)
{
    for (size_t i = 0; i < ARRAY_LEN(layers); i++) {
        layers[i].algo = i == 1 ? DIGEST_SHA512 : DIGEST_SHA256;
        memset(layers[i].b, (int)i + 1, digest_len(layers[i].algo));
    }
    return (struct sandbox_spec){
        .run = { { 1, 2, 3 } },
        .attempt = 1,
        .argv = argv,
        .argv_len = 3,
        .env = env,
        .env_len = 2,
        .workdir = "/work",
        .user = "app:extra",
        .hostname = "box-1",
        .stop_signal = 15,
        .layers = layers,
        .layers_len = ARRAY_LEN(layers),
        .payload = true,
        .limits = { .memory_bytes = 1u << 28,
                    .cache = SANDBOX_CACHE_SENSITIVE,
                    .cpus_milli = 1500,
                    .cpu_weight = 250,
                    .pids = 64,
                    .disk_bytes = 1u << 26,
                    .disk_inodes = 4096,
                    .shm_bytes = 1u << 26,
                    .nofile = 1024,
                    .timeout_ms = 1000,
                    .grace_ms = 500,
                    .output_bytes = 1u << 20,
                    .log_bytes = 1u << 20,
                    .output_truncate = true,
                    .network = SANDBOX_NETWORK_NAT },
        .egress = { .limited = true, .nets = nets, .nets_len = ARRAY_LEN(nets) },
    };
}

static void same(const struct sandbox_spec *a, const struct sandbox_spec *b)
{
    assert_true(ulid_eq(a->run, b->run));
    assert_int_equal(a->attempt, b->attempt);
    assert_int_equal(a->argv_len, b->argv_len);
    for (size_t i = 0; i < a->argv_len; i++) {
        assert_string_equal(a->argv[i], b->argv[i]);
    }
    assert_int_equal(a->env_len, b->env_len);
    for (size_t i = 0; i < a->env_len; i++) {
        assert_string_equal(a->env[i], b->env[i]);
    }
    assert_string_equal(a->workdir, b->workdir);
    assert_string_equal(a->user, b->user);
    assert_string_equal(a->hostname, b->hostname);
    assert_int_equal(a->stop_signal, b->stop_signal);
    assert_int_equal(a->layers_len, b->layers_len);
    for (size_t i = 0; i < a->layers_len; i++) {
        assert_true(digest_eq(&a->layers[i], &b->layers[i]));
    }
    assert_int_equal(a->payload, b->payload);
    assert_int_equal(a->limits.memory_bytes, b->limits.memory_bytes);
    assert_int_equal(a->limits.cpus_milli, b->limits.cpus_milli);
    assert_int_equal(a->limits.cpu_weight, b->limits.cpu_weight);
    assert_int_equal(a->limits.log_bytes, b->limits.log_bytes);
    assert_int_equal(a->limits.output_truncate, b->limits.output_truncate);
    assert_int_equal(a->limits.network, b->limits.network);
    assert_int_equal(a->egress.limited, b->egress.limited);
    assert_int_equal(a->egress.nets_len, b->egress.nets_len);
    for (size_t i = 0; i < a->egress.nets_len; i++) {
        assert_int_equal(a->egress.nets[i].kind, b->egress.nets[i].kind);
        assert_int_equal(a->egress.nets[i].prefix, b->egress.nets[i].prefix);
        assert_int_equal(a->egress.nets[i].proto, b->egress.nets[i].proto);
        assert_int_equal(a->egress.nets[i].port_first, b->egress.nets[i].port_first);
        assert_int_equal(a->egress.nets[i].port_last, b->egress.nets[i].port_last);
        assert_memory_equal(a->egress.nets[i].addr, b->egress.nets[i].addr, 16);
    }
}

static void spec_round_trip(void **state)
{
    (void)state;
    struct sandbox_spec in = sample();
    struct sandbox_spec out;
    struct buf AUTO_BUF b = BUF_INIT(SANDBOX_SPEC_MAX);
    struct err e = { 0 };
    assert_int_equal(sandbox_spec_encode(&in, &b, &e), 0);
    assert_int_equal(sandbox_spec_decode(b.data, b.len, &out, &e), 0);
    same(&in, &out);
    assert_null(out.argv[out.argv_len]); /* execve() wants it */
    sandbox_spec_release(&out);
}

/* Every shorter or longer blob, and every changed byte, is refused or gives a spec that passes its
 * own check and encodes to the same bytes. */
static void spec_broken(void **state)
{
    (void)state;
    struct sandbox_spec in = sample();
    struct sandbox_spec out;
    struct buf AUTO_BUF b = BUF_INIT(SANDBOX_SPEC_MAX);
    assert_int_equal(sandbox_spec_encode(&in, &b, NULL), 0);
    for (size_t n = 0; n < b.len; n++) {
        assert_int_equal(sandbox_spec_decode(b.data, n, &out, NULL), -EINVAL);
    }
    for (size_t i = 0; i < b.len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            struct buf AUTO_BUF again = BUF_INIT(SANDBOX_SPEC_MAX);
            b.data[i] = (char)(b.data[i] ^ (1 << bit));
            if (sandbox_spec_decode(b.data, b.len, &out, NULL) == 0) {
                assert_int_equal(sandbox_spec_encode(&out, &again, NULL), 0);
                assert_int_equal(again.len, b.len);
                sandbox_spec_release(&out);
            }
            b.data[i] = (char)(b.data[i] ^ (1 << bit));
        }
    }
    buf_addc(&b, 'x');
    assert_int_equal(sandbox_spec_decode(b.data, b.len, &out, NULL), -EINVAL);
}

static void spec_out_of_memory(void **state)
{
    (void)state;
    struct sandbox_spec in = sample();
    struct sandbox_spec out;
    struct buf AUTO_BUF b = BUF_INIT(SANDBOX_SPEC_MAX);
    assert_int_equal(sandbox_spec_encode(&in, &b, NULL), 0);
    int rc = -ENOMEM;
    int failures = 0;
    for (long n = 0; rc == -ENOMEM; n++) {
        mem_fail_after(n, 0);
        rc = sandbox_spec_decode(b.data, b.len, &out, NULL);
        mem_fail_after(-1, 0);
        failures += rc == -ENOMEM;
    }
    assert_int_equal(rc, 0);
    assert_int_equal(failures, 4);
    sandbox_spec_release(&out);
}

static void refuse(struct sandbox_spec s, const char *word)
{
    struct err e = { 0 };
    assert_int_equal(sandbox_spec_check(&s, &e), -EINVAL);
    if (strstr(e.text, word) == NULL) {
        fail_msg("'%s' does not say '%s'", e.text, word);
    }
}

static void spec_ranges(void **state)
{
    (void)state;
    static const char *const no_name[] = { "=x" };
    static const char *const no_equals[] = { "PATH" };
    static const char *const empty[] = { "" };
    struct sandbox_spec s = sample();
#define WITH(change, word) \
    do { \
        s = sample(); \
        change; \
        refuse(s, word); \
    } while (0)
    static const struct egress_net outside[] = { { .kind = EGRESS_IP4, .prefix = 33 } };
    WITH(s.limits.network = SANDBOX_NETWORK_NONE, "destinations");
    WITH(s.limits.network = (enum sandbox_network)3, "network");
    WITH(s.egress.limited = false, "not limited");
    WITH(s.egress.nets = outside; s.egress.nets_len = 1, "destination 1");
    WITH(s.egress.nets_len = SANDBOX_EGRESS_MAX + 1, "at most");
    WITH(s.attempt = 0, "attempt");
    WITH(s.attempt = SANDBOX_ATTEMPT_MAX + 1, "attempt");
    WITH(s.run = (struct ulid){ { 0 } }, "run");
    WITH(s.argv_len = 0, "command");
    WITH(s.argv = empty, "empty");
    WITH(s.env = no_name, "environment");
    WITH(s.env = no_equals, "environment");
    WITH(s.layers_len = 0, "layers");
    WITH(s.layers_len = SANDBOX_LAYERS_MAX + 1, "layers");
    WITH(s.workdir = "relative", "absolute");
    WITH(s.hostname = "", "host name");
    WITH(s.hostname = "-x", "host name");
    WITH(s.hostname = "a_b", "host name");
    WITH(s.hostname = "a\nb", "host name");
    WITH(s.stop_signal = 0, "signal");
    WITH(s.stop_signal = 65, "signal");
    WITH(s.limits.memory_bytes = 4096, "memory_bytes");
    WITH(s.limits.pids = 1, "pids");
    WITH(s.limits.log_bytes = 0, "log_bytes");
#undef WITH
}

static void record_round_trip(void **state)
{
    (void)state;
    struct sandbox_result in = { .reason = SANDBOX_OUTPUT,
                                 .exit_code = 137,
                                 .signal = 9,
                                 .started_wall_us = 1700000000000000,
                                 .ended_wall_us = 1700000000000001,
                                 .setup_us = 900,
                                 .stdout_bytes = 10,
                                 .stdout_kept = 9,
                                 .stderr_bytes = 8,
                                 .stderr_kept = 7,
                                 .stdout_truncated = true,
                                 .text = "too much" };
    struct sandbox_result out;
    uint8_t bytes[SANDBOX_RECORD_SIZE];
    sandbox_record_encode(&in, bytes);
    assert_int_equal(sandbox_record_decode(bytes, sizeof(bytes), &out), 0);
    assert_int_equal(out.reason, in.reason);
    assert_int_equal(out.exit_code, 137);
    assert_int_equal(out.stdout_kept, 9);
    assert_true(out.stdout_truncated && !out.stderr_truncated);
    assert_string_equal(out.text, "too much");
    /* A torn record is none: any one bit. */
    for (size_t i = 0; i < sizeof(bytes); i++) {
        for (int bit = 0; bit < 8; bit++) {
            bytes[i] = (uint8_t)(bytes[i] ^ (1 << bit));
            assert_int_equal(sandbox_record_decode(bytes, sizeof(bytes), &out), -EBADMSG);
            bytes[i] = (uint8_t)(bytes[i] ^ (1 << bit));
        }
    }
    assert_int_equal(sandbox_record_decode(bytes, sizeof(bytes) - 1, &out), -EBADMSG);
}

static struct sandbox_msg message(uint32_t type)
{
    struct sandbox_msg m = { .type = type };
    if (type != SANDBOX_MSG_PING && type != SANDBOX_MSG_ADOPT && type != SANDBOX_MSG_READY) {
        m.run = (struct ulid){ { 9 } };
        m.attempt = 3;
    }
    return m;
}

static void messages(void **state)
{
    (void)state;
    uint8_t bytes[SANDBOX_MSG_SIZE];
    struct sandbox_msg m = message(SANDBOX_MSG_SIGNAL);
    struct sandbox_msg out;
    m.value = 15;
    sandbox_msg_encode(&m, bytes);
    assert_int_equal(sandbox_msg_decode(bytes, sizeof(bytes), 0, SANDBOX_FROM_AGENT, &out), 0);
    assert_int_equal(out.value, 15);
    assert_int_equal(out.attempt, 3);
    /* Wrong length, wrong side, a descriptor too many. */
    assert_int_equal(sandbox_msg_decode(bytes, sizeof(bytes) - 1, 0, SANDBOX_FROM_AGENT, &out),
                     -EBADMSG);
    assert_int_equal(sandbox_msg_decode(bytes, sizeof(bytes), 0, SANDBOX_FROM_LAUNCHER, &out),
                     -EBADMSG);
    assert_int_equal(sandbox_msg_decode(bytes, sizeof(bytes), 1, SANDBOX_FROM_AGENT, &out),
                     -EBADMSG);
    /* A RUN needs exactly one. */
    m = message(SANDBOX_MSG_RUN);
    sandbox_msg_encode(&m, bytes);
    assert_int_equal(sandbox_msg_decode(bytes, sizeof(bytes), 0, SANDBOX_FROM_AGENT, &out),
                     -EBADMSG);
    assert_int_equal(sandbox_msg_decode(bytes, sizeof(bytes), 1, SANDBOX_FROM_AGENT, &out), 0);
    /* Any byte that this type does not use must be zero. */
    m = message(SANDBOX_MSG_PING);
    sandbox_msg_encode(&m, bytes);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(bytes[i] ^ 0x80);
        assert_int_equal(sandbox_msg_decode(bytes, sizeof(bytes), 0, SANDBOX_FROM_AGENT, &out),
                         -EBADMSG);
        bytes[i] = (uint8_t)(bytes[i] ^ 0x80);
    }
}

static void readings(void **state)
{
    (void)state;
    struct sandbox_usage in = { .peak_was_reset = true };
    struct sandbox_usage out;
    uint8_t bytes[USAGE_SIZE];
    in.base.has = 7;
    in.end.psi_io_us = 77;
    in.end.net_tx_packets = 9;
    in.end.mem_peak_bytes = 1u << 30;
    sandbox_usage_encode(&in, bytes);
    assert_int_equal(sandbox_usage_decode(bytes, sizeof(bytes), &out), 0);
    assert_int_equal(out.end.psi_io_us, 77);
    assert_int_equal(out.end.mem_peak_bytes, 1u << 30);
    assert_int_equal(out.end.net_tx_packets, 9);
    uint8_t again[USAGE_SIZE];
    sandbox_usage_encode(&out, again);
    assert_memory_equal(again, bytes, sizeof(bytes));
    bytes[20] ^= 1;
    assert_int_equal(sandbox_usage_decode(bytes, sizeof(bytes), &out), -EBADMSG);
}

static void states(void **state)
{
    (void)state;
    static struct sandbox_state in;
    static struct sandbox_state out;
    uint8_t bytes[STATE_MAX];
    struct sandbox_spec s = sample();
    in = (struct sandbox_state){ .boot_id = "0f0f0f0f-1111-2222-3333-444444444444",
                                 .slot = 7,
                                 .pid = 4711,
                                 .start_ticks = 99,
                                 .peak_was_reset = true,
                                 .rdt_group = 1024,
                                 .cache = SANDBOX_CACHE_POLLUTER,
                                 .base = { .mbm_bytes = 77, .llc_bytes = 78 },
                                 .layers_len = (uint32_t)s.layers_len };
    memcpy(in.layers, s.layers, s.layers_len * sizeof(*s.layers));
    size_t n = sandbox_state_encode(&in, bytes);
    assert_int_equal(sandbox_state_decode(bytes, n, &out), 0);
    assert_string_equal(in.boot_id, out.boot_id);
    assert_int_equal(out.pid, 4711);
    assert_true(out.peak_was_reset && !out.nat);
    assert_int_equal(out.rdt_group, 1024);
    assert_int_equal(out.cache, SANDBOX_CACHE_POLLUTER);
    assert_int_equal(out.base.mbm_bytes, 77);
    assert_int_equal(out.base.llc_bytes, 78);
    assert_true(digest_eq(&in.layers[1], &out.layers[1]));
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(sandbox_state_decode(bytes, i, &out), -EBADMSG);
    }
}

static size_t find_step(const struct sandbox_plan *p, enum plan_op op, const char *path)
{
    for (size_t i = 0; i < p->len; i++) {
        if (p->steps[i].op == op && strcmp(p->steps[i].path, path) == 0) {
            return i;
        }
    }
    fail_msg("no step %d at '%s'", (int)op, path);
    return 0;
}

static void plan_order(void **state)
{
    (void)state;
    static struct sandbox_plan p;
    const unsigned names[] = { 4, 0, 11 };
    struct sandbox_spec s = sample();
    struct plan_facts f = { .layers = names, .resolv_conf = "nameserver 192.0.2.1\n" };
    struct err e = { 0 };
    assert_int_equal(sandbox_plan_make(&s, &f, &p, &e), 0);
    size_t overlay = find_step(&p, PLAN_OVERLAY, "r");
    /* What hides the image's own "dev", "proc", "sys" is there before the overlay is mounted, and
     * nothing touches the overlay's root before that. */
    static const char *const before[] = { "u/d/dev", "u/d/proc", "u/d/sys",
                                          "u/d/etc", "u/d/tmp",  "u/d/run/agent" };
    for (size_t i = 0; i < ARRAY_LEN(before); i++) {
        assert_true(find_step(&p, PLAN_DIR, before[i]) < overlay);
    }
    for (size_t i = 0; i < p.len; i++) {
        if (strncmp(p.steps[i].path, "r/", 2) == 0) {
            assert_true(i > overlay);
        }
    }
    assert_non_null(strstr(p.steps[overlay].text, "lowerdir=l/11:l/0:l/4,upperdir="));
    assert_true(find_step(&p, PLAN_MASK, "r/proc/kcore") > find_step(&p, PLAN_PROC, "r/proc"));
    assert_true(find_step(&p, PLAN_READONLY, "r/proc/sys") > find_step(&p, PLAN_PROC, "r/proc"));
    assert_int_equal(find_step(&p, PLAN_ROOT, "r"), p.len - 1);
    assert_int_equal(p.steps[find_step(&p, PLAN_TMPFS, "u")].size, s.limits.disk_bytes);
    assert_string_equal(p.steps[find_step(&p, PLAN_FILE, "u/d/run/agent/payload")].text, "");
    f.payload_dir = "runs/X.1/in";
    assert_int_equal(sandbox_plan_make(&s, &f, &p, &e), 0);
    overlay = find_step(&p, PLAN_OVERLAY, "r");
    assert_non_null(strstr(p.steps[overlay].text, "lowerdir=runs/X.1/in:l/11:l/0:l/4,"));
    for (size_t i = 0; i < p.len; i++) {
        assert_int_not_equal(p.steps[i].op, PLAN_SECRETS); /* only where there are any */
    }
    s.secrets = true;
    assert_int_equal(sandbox_plan_make(&s, &f, &p, &e), 0);
    size_t secrets = find_step(&p, PLAN_SECRETS, "r/run/agent/secrets");
    assert_true(secrets > find_step(&p, PLAN_OVERLAY, "r"));
    assert_true(find_step(&p, PLAN_DIR, "u/d/run/agent/secrets") < secrets);
    assert_int_equal(p.steps[secrets].mode & 0222, 0);
}

static void secrets_travel(void **state)
{
    static uint8_t head[SANDBOX_SECRETS_HEAD];
    struct sandbox_secret_at got[SANDBOX_SECRETS_MAX];
    struct buf AUTO_BUF out = BUF_INIT(SANDBOX_SECRETS_FILE_MAX);
    struct err e;
    const struct sandbox_secret v[] = { { STR("db"), STR("pass") },
                                        { STR("empty"), STR("") },
                                        { STR("k.pem"), STR("two\nlines") } };
    size_t n = 0;
    (void)state;
    assert_int_equal(sandbox_secrets_encode(v, 3, &out, &e), 0);
    assert_int_equal(out.len, SANDBOX_SECRETS_HEAD + 4 + 9);
    memcpy(head, out.data, sizeof(head));
    assert_int_equal(sandbox_secrets_decode(head, out.len, got, &n), 0);
    assert_int_equal(n, 3);
    assert_string_equal(got[2].file, "k.pem");
    assert_memory_equal(out.data + got[2].at, "two\nlines", got[2].len);
    assert_int_equal(got[1].len, 0);
    /* Another size, a byte of the list changed to what may not be: all refused. */
    assert_int_equal(sandbox_secrets_decode(head, out.len - 1, got, &n), -EBADMSG);
    assert_int_equal(sandbox_secrets_decode(head, out.len + 1, got, &n), -EBADMSG);
    static const struct {
        size_t at;
        uint8_t to;
    } bad[] = { { 0, 'X' }, { 4, 0 },  { 4, 17 }, { 4, 4 },    { 8, 0 },
                { 8, 200 }, { 11, 1 }, { 15, 1 }, { 16, '/' }, { 16, 0 } };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint8_t was = head[bad[i].at];
        head[bad[i].at] = bad[i].to;
        assert_int_equal(sandbox_secrets_decode(head, out.len, got, &n), -EBADMSG);
        head[bad[i].at] = was;
    }
    const struct sandbox_secret twice[] = { { STR("a"), STR("1") }, { STR("a"), STR("2") } };
    buf_reset(&out);
    assert_int_equal(sandbox_secrets_encode(twice, 2, &out, &e), 0);
    memcpy(head, out.data, sizeof(head));
    assert_int_equal(sandbox_secrets_decode(head, out.len, got, &n), -EBADMSG);
    const struct sandbox_secret up[] = { { STR(".."), STR("1") } };
    assert_int_equal(sandbox_secrets_encode(up, 1, &out, &e), -EINVAL);
    assert_int_equal(sandbox_secrets_encode(up, 0, &out, &e), -EINVAL);
    static char much[(1 << 20) + 1];
    const struct sandbox_secret large[] = { { STR("a"), { much, 1 << 20 } },
                                            { STR("b"), { much, 1 } } };
    assert_int_equal(sandbox_secrets_encode(large, 2, &out, &e), -E2BIG);
}

/* A prepared sandbox may serve another run exactly when both would be built alike. */
static void pool_kinds(void **state)
{
    (void)state;
    struct digest other[3];
    struct sandbox_spec a = sample();
    struct sandbox_spec b = sample();
    static const char *const words[] = { "another" };
    b.argv = words;
    b.argv_len = 1;
    b.env_len = 0;
    b.hostname = "box-2";
    b.run.b[3] = 9;
    b.attempt = 2;
    b.payload = false;
    b.stop_signal = 9;
    b.limits.memory_bytes *= 2;
    b.limits.pids = 7;
    b.limits.timeout_ms = 1;
    b.limits.output_bytes = 5;
    b.limits.nofile = 99;
    assert_true(sandbox_pool_same(&a, &b));
    b.user = NULL;
    assert_false(sandbox_pool_same(&a, &b));
    a.user = "";
    assert_true(sandbox_pool_same(&a, &b));
    b.workdir = "/";
    assert_false(sandbox_pool_same(&a, &b));
    b.workdir = a.workdir;
    uint64_t *const sizes[] = { &b.limits.disk_bytes, &b.limits.disk_inodes, &b.limits.shm_bytes };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        (*sizes[i])++;
        assert_false(sandbox_pool_same(&a, &b));
        (*sizes[i])--;
    }
    b.limits.network = SANDBOX_NETWORK_NONE;
    a.limits.network = SANDBOX_NETWORK_HOST;
    assert_false(sandbox_pool_same(&a, &b));
    b.limits.network = a.limits.network;
    b.secrets = true;
    assert_false(sandbox_pool_same(&a, &b));
    b.secrets = false;
    b.layers_len--;
    assert_false(sandbox_pool_same(&a, &b));
    b.layers_len++;
    memcpy(other, a.layers, sizeof(other));
    other[2].b[0] ^= 1;
    b.layers = other;
    assert_false(sandbox_pool_same(&a, &b));
    other[2].b[0] ^= 1;
    assert_true(sandbox_pool_same(&a, &b));
}

static void pool_demand(void **state)
{
    (void)state;
    struct pool_use u = { 0 };
    uint64_t now = 1000000;
    assert_int_equal(sandbox_pool_wanted(&u, now), 0);
    /* One at a time, far apart: one is enough. */
    for (int i = 0; i < 100; i++, now += 40) {
        sandbox_pool_begin(&u, now);
        sandbox_pool_end(&u);
    }
    assert_int_equal(sandbox_pool_wanted(&u, now), 1);
    /* Five at once; ten one after the other within a moment. */
    for (int i = 0; i < 5; i++) {
        sandbox_pool_begin(&u, now + (uint64_t)i * POOL_BURST_MS);
    }
    for (int i = 0; i < 5; i++) {
        sandbox_pool_end(&u);
    }
    now += 1000;
    assert_int_equal(sandbox_pool_wanted(&u, now), 5);
    for (int i = 0; i < 10; i++) {
        sandbox_pool_begin(&u, now);
        sandbox_pool_end(&u);
    }
    assert_int_equal(sandbox_pool_wanted(&u, now), 10);
    /* Remembered for a window, then forgotten step by step. */
    now += POOL_WINDOW_MS;
    sandbox_pool_begin(&u, now);
    assert_int_equal(sandbox_pool_wanted(&u, now), 10);
    now += POOL_WINDOW_MS;
    assert_int_equal(sandbox_pool_wanted(&u, now), 1);
    now += POOL_IDLE_MS - POOL_WINDOW_MS - 1;
    assert_int_equal(sandbox_pool_wanted(&u, now), 1); /* it still runs */
    now++;
    assert_int_equal(sandbox_pool_wanted(&u, now), 0);
    sandbox_pool_end(&u);
    sandbox_pool_end(&u); /* once too often is not below none */
    assert_int_equal(u.live, 0);
}

static void pool_pressure(void **state)
{
    (void)state;
    assert_false(
        sandbox_pool_pressed(STR("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable: 50 kB\n")));
    assert_true(
        sandbox_pool_pressed(STR("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable: 49 kB\n")));
    assert_false(sandbox_pool_pressed(STR("")));
    assert_false(sandbox_pool_pressed(STR("MemTotal\nMemAvailable:\n: 3 kB\nMemTotal: x kB")));
}

static void plan_most_layers(void **state)
{
    (void)state;
    static struct sandbox_plan p;
    static struct digest many[SANDBOX_LAYERS_MAX];
    unsigned names[SANDBOX_LAYERS_MAX];
    struct sandbox_spec s = sample();
    struct plan_facts f = { .layers = names, .resolv_conf = "" };
    for (size_t i = 0; i < SANDBOX_LAYERS_MAX; i++) {
        many[i] = s.layers[0];
        names[i] = 159;
    }
    s.layers = many;
    s.layers_len = SANDBOX_LAYERS_MAX;
    assert_int_equal(sandbox_plan_make(&s, &f, &p, NULL), 0);
    assert_true(strlen(p.steps[find_step(&p, PLAN_OVERLAY, "r")].text) <= PLAN_OPTIONS_MAX);
}

static void resolvers(void **state)
{
    (void)state;
    struct buf AUTO_BUF out = BUF_INIT(8192);
    sandbox_resolv_filter(STR("# made by\nnameserver 127.0.0.53\nnameserver\t192.0.2.1\n"
                              "nameserver ::1\noptions edns0\n"),
                          &out);
    assert_string_equal(buf_cstr(&out), "nameserver\t192.0.2.1\noptions edns0\n");
}

static void users(void **state)
{
    (void)state;
    struct str passwd = STR("root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1000:1001::/home/app:\n"
                            "big:x:70000:70000::/:\nlast:x:5:6:::");
    struct str group = STR("root:x:0:\napp:x:1001:\nextra:x:1002:app,other\nmore:x:1003:other,app");
    struct sandbox_user u;
    struct err e = { 0 };
    assert_int_equal(sandbox_user_find("", passwd, group, &u, &e), 0);
    assert_int_equal(u.uid, 0);
    assert_string_equal(u.home, "/root");
    assert_int_equal(sandbox_user_find("app", passwd, group, &u, &e), 0);
    assert_int_equal(u.uid, 1000);
    assert_int_equal(u.gid, 1001);
    assert_int_equal(u.groups_len, 3);
    assert_int_equal(u.groups[2], 1003);
    assert_string_equal(u.home, "/home/app");
    assert_int_equal(sandbox_user_find("1000", passwd, group, &u, &e), 0);
    assert_int_equal(u.gid, 1001);
    assert_int_equal(u.groups_len, 0);
    assert_int_equal(sandbox_user_find("4242", passwd, group, &u, &e), 0);
    assert_int_equal(u.gid, 0);
    assert_string_equal(u.home, "/");
    assert_int_equal(sandbox_user_find("app:extra", passwd, group, &u, &e), 0);
    assert_int_equal(u.gid, 1002);
    assert_int_equal(u.groups_len, 0);
    assert_int_equal(sandbox_user_find("last", passwd, group, &u, &e), 0);
    assert_int_equal(u.uid, 5);
    assert_int_equal(sandbox_user_find("big", passwd, group, &u, &e), -ENOENT);
    assert_int_equal(sandbox_user_find("70000", passwd, group, &u, &e), -ENOENT);
    assert_int_equal(sandbox_user_find("-1", passwd, group, &u, &e), -ENOENT);
    assert_int_equal(sandbox_user_find("app:nope", passwd, group, &u, &e), -ENOENT);
    assert_int_equal(sandbox_user_find("ghost", passwd, group, &u, &e), -ENOENT);
    assert_non_null(strstr(e.text, "unable to find user 'ghost'"));
}

/* The two files of a log against a plain array: any size, any cut of the writes. */
static void log_layout(void **state)
{
    (void)state;
    struct rng r;
    rng_init(&r, test_seed("log_layout"));
    for (int round = 0; round < 300; round++) {
        struct log_shape s = sandbox_log_shape_of(1 + rng_below(&r, 64) + 1);
        uint8_t head[64];
        uint8_t ring[64];
        uint64_t total = rng_below(&r, 400);
        for (uint64_t i = 0; i < total; i++) {
            if (i < s.head) {
                head[i] = (uint8_t)i;
            } else {
                ring[(i - s.head) % s.ring] = (uint8_t)i;
            }
        }
        uint64_t pos = 0;
        uint64_t lost = 0;
        for (;;) {
            struct log_piece p = sandbox_log_locate(&s, total, pos, false);
            if (p.where == LOG_END) {
                break;
            }
            assert_true(p.n > 0);
            for (uint64_t i = 0; p.where != LOG_GAP && i < p.n; i++) {
                uint8_t got = p.where == LOG_HEAD ? head[p.offset + i] : ring[p.offset + i];
                assert_int_equal(got, (uint8_t)(pos + i));
            }
            lost += p.where == LOG_GAP ? p.n : 0;
            pos += p.n;
        }
        assert_int_equal(pos, total);
        assert_int_equal(lost, total > s.head + s.ring ? total - s.head - s.ring : 0);
    }
}

static void log_marks(void **state)
{
    (void)state;
    char mark[LOG_MARK_MAX];
    size_t n = sandbox_log_mark(UINT64_MAX, mark);
    assert_true(n < SANDBOX_READ_MIN && mark[n - 1] == '\n');
    assert_non_null(strstr(mark, " 18446744073709551615 bytes left out "));
    uint8_t entry[INDEX_ENTRY];
    enum sandbox_stream s;
    int64_t wall;
    uint64_t offset;
    sandbox_index_entry_encode(SANDBOX_STDERR, 1700000000000000, 42, entry);
    sandbox_index_entry_decode(entry, &s, &wall, &offset);
    assert_int_equal(s, SANDBOX_STDERR);
    assert_true(wall == 1700000000000000 && offset == 42);
}

static void directories(void **state)
{
    (void)state;
    struct ulid run;
    struct ulid back;
    uint32_t attempt;
    char name[SANDBOX_DIR_CAP];
    assert_int_equal(ulid_parse(STR("01M83WNW50QD0CJ8MYBX7GQ861"), &run), 0);
    sandbox_dir_name(run, 9999, name);
    assert_string_equal(name, "01M83WNW50QD0CJ8MYBX7GQ861.9999");
    assert_int_equal(sandbox_dir_parse(str_of(name), &back, &attempt), 0);
    assert_true(ulid_eq(run, back) && attempt == 9999);
    static const char *const bad[] = {
        "",
        ".",
        "..",
        "rm-01M83WNW50QD0CJ8MYBX7GQ861.1",
        "01M83WNW50QD0CJ8MYBX7GQ861",
        "01M83WNW50QD0CJ8MYBX7GQ861.",
        "01M83WNW50QD0CJ8MYBX7GQ861.0",
        "01M83WNW50QD0CJ8MYBX7GQ861.01",
        "01M83WNW50QD0CJ8MYBX7GQ861.10000",
        "01m83WNW50QD0CJ8MYBX7GQ861.1",
        "01M83WNW50QD0CJ8MYBX7GQ861.1/",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(sandbox_dir_parse(str_of(bad[i]), &back, &attempt), -EINVAL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spec_round_trip),    cmocka_unit_test(spec_broken),
        cmocka_unit_test(spec_out_of_memory), cmocka_unit_test(spec_ranges),
        cmocka_unit_test(record_round_trip),  cmocka_unit_test(messages),
        cmocka_unit_test(readings),           cmocka_unit_test(states),
        cmocka_unit_test(pool_kinds),         cmocka_unit_test(secrets_travel),
        cmocka_unit_test(pool_demand),        cmocka_unit_test(pool_pressure),
        cmocka_unit_test(plan_order),         cmocka_unit_test(plan_most_layers),
        cmocka_unit_test(resolvers),          cmocka_unit_test(users),
        cmocka_unit_test(log_layout),         cmocka_unit_test(log_marks),
        cmocka_unit_test(directories),
    };
    return cmocka_run_group_tests_name("sandbox", tests, NULL, NULL);
}
