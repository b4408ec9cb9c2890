/*
 * The spec as a blob: "AGSP", version, then every field in the struct's order, the strings before
 * the destinations. Strings are a 32-bit
 * length that counts their NUL, and the bytes with it, so that a decoded spec points into the blob.
 */
#include <errno.h>
#include <string.h>

#include "agent/sandbox/sandbox_internal.h"
#include "common/cur.h"
#include "common/insist.h"
#include "common/mem.h"

_Static_assert(SANDBOX_NETWORK_HOST == 1 && SANDBOX_NETWORK_NAT == 2 &&
                   (int)SETTINGS_NETWORK_HOST == (int)SANDBOX_NETWORK_HOST &&
                   (int)SETTINGS_NETWORK_NAT == (int)SANDBOX_NETWORK_NAT,
               "networks");

enum { SPEC_MAGIC = 0x50534741, SPEC_VERSION = 3, SPEC_PATH_MAX = 4096, SPEC_USER_MAX = 256 };
enum { SPEC_PAYLOAD = 1, SPEC_SECRETS = 2 };

static const char *text_of(const char *s)
{
    return s != NULL ? s : "";
}

static bool hostname_ok(const char *s)
{
    size_t n = strlen(s);
    if (n < 1 || n > 63 || s[0] == '-' || s[0] == '.') {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '-' || c == '.')) {
            return false;
        }
    }
    return true;
}

static int limits_check(const struct sandbox_limits *l, struct err *e)
{
    const struct {
        const char *name;
        uint64_t value, min, max;
    } ranges[] = {
        { "memory_bytes", l->memory_bytes, 1u << 20, UINT64_C(1) << 50 },
        { "cpus_milli", l->cpus_milli, 0, 10000000 },
        { "cpu_weight", l->cpu_weight, 0, 10000 },
        { "pids", l->pids, 2, 4194304 },
        { "disk_bytes", l->disk_bytes, 1u << 16, UINT64_C(1) << 50 },
        { "disk_inodes", l->disk_inodes, 64, UINT64_C(1) << 40 },
        { "shm_bytes", l->shm_bytes, 4096, UINT64_C(1) << 50 },
        { "nofile", l->nofile, 16, 1u << 30 },
        { "core_bytes", l->core_bytes, 0, UINT64_C(1) << 50 },
        { "timeout_ms", l->timeout_ms, 0, UINT64_C(1) << 40 },
        { "grace_ms", l->grace_ms, 0, UINT64_C(1) << 40 },
        { "output_bytes", l->output_bytes, 0, UINT64_C(1) << 50 },
        { "log_bytes", l->log_bytes, 1024, UINT64_C(1) << 40 },
    };
    for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max) {
            return err_say(e, -EINVAL, "the sandbox's %s is %llu, not %llu to %llu", ranges[i].name,
                           (unsigned long long)ranges[i].value, (unsigned long long)ranges[i].min,
                           (unsigned long long)ranges[i].max);
        }
    }
    if (l->network > SANDBOX_NETWORK_NAT) {
        return err_say(e, -EINVAL, "the sandbox's network is unknown");
    }
    if (l->cache >= SANDBOX_CACHE_CLASSES) {
        return err_say(e, -EINVAL, "the sandbox's cache class is unknown");
    }
    return 0;
}

static int env_check(const struct sandbox_spec *s, struct err *e)
{
    for (size_t i = 0; i < s->env_len; i++) {
        const char *eq = strchr(s->env[i], '=');
        if (eq == NULL || eq == s->env[i] || eq - s->env[i] > SANDBOX_ENV_NAME_MAX) {
            return err_say(e, -EINVAL, "environment entry %zu is not NAME=value", i + 1);
        }
    }
    return 0;
}

int sandbox_spec_check(const struct sandbox_spec *s, struct err *e)
{
    if (ulid_is_zero(s->run) || s->attempt < 1 || s->attempt > SANDBOX_ATTEMPT_MAX) {
        return err_say(e, -EINVAL, "the sandbox's run or attempt is out of range");
    }
    if (s->argv_len < 1 || s->argv_len > SANDBOX_ARGS_MAX) {
        return err_say(e, -EINVAL, "no command, or more than %d arguments", SANDBOX_ARGS_MAX);
    }
    if (s->argv[0][0] == '\0') {
        return err_say(e, -EINVAL, "the command's name is empty");
    }
    if (s->env_len > SANDBOX_ENV_MAX) {
        return err_say(e, -EINVAL, "more than %d environment entries", SANDBOX_ENV_MAX);
    }
    if (s->layers_len < 1 || s->layers_len > SANDBOX_LAYERS_MAX) {
        return err_say(e, -EINVAL, "%zu layers, not 1 to %d", s->layers_len, SANDBOX_LAYERS_MAX);
    }
    for (size_t i = 0; i < s->layers_len; i++) {
        if (digest_len(s->layers[i].algo) == 0) {
            return err_say(e, -EINVAL, "layer %zu has no digest", i + 1);
        }
    }
    const char *dir = text_of(s->workdir);
    if ((dir[0] != '\0' && dir[0] != '/') || strlen(dir) >= SPEC_PATH_MAX) {
        return err_say(e, -EINVAL, "the working directory is not an absolute path");
    }
    if (strlen(text_of(s->user)) >= SPEC_USER_MAX) {
        return err_say(e, -EINVAL, "the user's name is too long");
    }
    if (!hostname_ok(text_of(s->hostname))) {
        return err_say(e, -EINVAL, "the host name is not 1 to 63 letters, digits, '-' or '.'");
    }
    if (s->stop_signal < 1 || s->stop_signal > 64) {
        return err_say(e, -EINVAL, "stop signal %d is not 1 to 64", s->stop_signal);
    }
    int rc = env_check(s, e);
    rc = rc < 0 ? rc : limits_check(&s->limits, e);
    if (rc == 0 && s->limits.network != SANDBOX_NETWORK_NAT &&
        (s->egress.limited || s->egress.nets_len != 0)) {
        rc = err_say(e, -EINVAL, "only a sandbox with network \"nat\" has destinations");
    }
    return rc < 0 ? rc : sandbox_egress_check(&s->egress, e);
}

static void add_text(struct buf *out, const char *s)
{
    size_t n = strlen(s) + 1;
    buf_add_le32(out, n < UINT32_MAX ? (uint32_t)n : UINT32_MAX);
    buf_add(out, s, n);
}

static void add_limits(struct buf *out, const struct sandbox_limits *l)
{
    const uint64_t words[] = {
        l->memory_bytes,      l->cpus_milli,
        l->cpu_weight,        l->pids,
        l->disk_bytes,        l->disk_inodes,
        l->shm_bytes,         l->nofile,
        l->core_bytes,        l->timeout_ms,
        l->grace_ms,          l->output_bytes,
        l->log_bytes,         l->output_truncate ? 1 : 0,
        (uint64_t)l->network, (uint64_t)l->cache,
    };
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        buf_add_le64(out, words[i]);
    }
}

int sandbox_spec_encode(const struct sandbox_spec *s, struct buf *out, struct err *e)
{
    int rc = sandbox_spec_check(s, e);
    if (rc < 0) {
        return rc;
    }
    size_t before = out->len;
    buf_add_le32(out, SPEC_MAGIC);
    buf_add_le32(out, SPEC_VERSION);
    buf_add(out, s->run.b, sizeof(s->run.b));
    buf_add_le32(out, s->attempt);
    buf_add_le32(out, (uint32_t)s->argv_len);
    buf_add_le32(out, (uint32_t)s->env_len);
    buf_add_le32(out, (uint32_t)s->layers_len);
    buf_add_le32(out, (uint32_t)s->stop_signal);
    buf_add_le32(out, (s->payload ? SPEC_PAYLOAD : 0u) | (s->secrets ? SPEC_SECRETS : 0u));
    add_limits(out, &s->limits);
    for (size_t i = 0; i < s->layers_len; i++) {
        buf_add_le32(out, (uint32_t)s->layers[i].algo);
        buf_add(out, s->layers[i].b, digest_len(s->layers[i].algo));
    }
    add_text(out, text_of(s->workdir));
    add_text(out, text_of(s->user));
    add_text(out, text_of(s->hostname));
    for (size_t i = 0; i < s->argv_len; i++) {
        add_text(out, s->argv[i]);
    }
    for (size_t i = 0; i < s->env_len; i++) {
        add_text(out, s->env[i]);
    }
    sandbox_egress_encode(&s->egress, out);
    if (buf_error(out) == -ENOMEM) {
        return err_set(e, -ENOMEM, "encode the sandbox's spec");
    }
    if (buf_error(out) < 0 || out->len - before > SANDBOX_SPEC_MAX) {
        return err_say(e, -E2BIG, "arguments and environment take more than %d KiB",
                       SANDBOX_SPEC_MAX / 1024);
    }
    return 0;
}

/* A string of the blob, or NULL (and c fails). */
static const char *get_text(struct cur *c)
{
    uint32_t n = cur_le32(c);
    struct str s = cur_bytes(c, n);
    if (!cur_ok(c) || n == 0 || memchr(s.p, '\0', n) != s.p + n - 1) {
        c->failed = true;
        return NULL;
    }
    return s.p;
}

static void get_limits(struct cur *c, struct sandbox_limits *l)
{
    l->memory_bytes = cur_le64(c);
    l->cpus_milli = cur_le64(c);
    l->cpu_weight = cur_le64(c);
    l->pids = cur_le64(c);
    l->disk_bytes = cur_le64(c);
    l->disk_inodes = cur_le64(c);
    l->shm_bytes = cur_le64(c);
    l->nofile = cur_le64(c);
    l->core_bytes = cur_le64(c);
    l->timeout_ms = cur_le64(c);
    l->grace_ms = cur_le64(c);
    l->output_bytes = cur_le64(c);
    l->log_bytes = cur_le64(c);
    uint64_t truncate = cur_le64(c);
    uint64_t network = cur_le64(c);
    uint64_t cache = cur_le64(c);
    l->output_truncate = truncate == 1;
    l->network = (enum sandbox_network)(network & 3);
    l->cache = (enum sandbox_cache_class)(cache & 3);
    if (truncate > 1 || network > SANDBOX_NETWORK_NAT || cache >= SANDBOX_CACHE_CLASSES) {
        c->failed = true;
    }
}

static int get_strings(struct cur *c, size_t n, const char *const **ret)
{
    /* One more: execve() wants a NULL behind. */
    const char **v = mem_calloc(n + 1, sizeof(*v));
    if (v == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        v[i] = get_text(c);
        if (v[i] == NULL) {
            break;
        }
    }
    *ret = v;
    return 0;
}

static int get_layers(struct cur *c, struct sandbox_spec *s)
{
    struct digest *layers = mem_calloc(s->layers_len, sizeof(*layers));
    if (layers == NULL) {
        return -ENOMEM;
    }
    s->layers = layers;
    for (size_t i = 0; i < s->layers_len; i++) {
        uint32_t algo = cur_le32(c);
        if (algo != DIGEST_SHA256 && algo != DIGEST_SHA512) {
            c->failed = true;
            break;
        }
        layers[i].algo = (enum digest_algo)algo;
        cur_copy(c, layers[i].b, digest_len(layers[i].algo));
    }
    return 0;
}

void sandbox_spec_release(struct sandbox_spec *s)
{
    /* The arrays are this file's own; only their type says const. */
    union {
        const void *in;
        void *out;
    } argv = { .in = s->argv }, env = { .in = s->env }, layers = { .in = s->layers },
      nets = { .in = s->egress.nets };
    mem_free(argv.out);
    mem_free(env.out);
    mem_free(layers.out);
    mem_free(nets.out);
    *s = (struct sandbox_spec){ 0 };
}

static int decode_body(struct cur *c, struct sandbox_spec *s)
{
    int rc = get_layers(c, s);
    if (rc == 0) {
        s->workdir = get_text(c);
        s->user = get_text(c);
        s->hostname = get_text(c);
        rc = get_strings(c, s->argv_len, &s->argv);
    }
    rc = rc == 0 ? get_strings(c, s->env_len, &s->env) : rc;
    return rc == 0 && cur_ok(c) ? sandbox_egress_decode(c, &s->egress) : rc;
}

int sandbox_spec_decode(const void *p, size_t n, struct sandbox_spec *ret, struct err *e)
{
    struct cur c;
    struct sandbox_spec s = { 0 };
    cur_init(&c, p, n);
    if (n > SANDBOX_SPEC_MAX || cur_le32(&c) != SPEC_MAGIC || cur_le32(&c) != SPEC_VERSION) {
        return err_say(e, -EINVAL, "not a sandbox's spec");
    }
    cur_copy(&c, s.run.b, sizeof(s.run.b));
    s.attempt = cur_le32(&c);
    s.argv_len = cur_le32(&c);
    s.env_len = cur_le32(&c);
    s.layers_len = cur_le32(&c);
    s.stop_signal = (int)(cur_le32(&c) & 0xffff);
    uint32_t flags = cur_le32(&c);
    s.payload = (flags & SPEC_PAYLOAD) != 0;
    s.secrets = (flags & SPEC_SECRETS) != 0;
    get_limits(&c, &s.limits);
    if (!cur_ok(&c) || flags > (SPEC_PAYLOAD | SPEC_SECRETS) || s.argv_len < 1 ||
        s.argv_len > SANDBOX_ARGS_MAX || s.env_len > SANDBOX_ENV_MAX || s.layers_len < 1 ||
        s.layers_len > SANDBOX_LAYERS_MAX) {
        return err_say(e, -EINVAL, "the sandbox's spec is broken");
    }
    int rc = decode_body(&c, &s);
    if (rc < 0) {
        err_set(e, rc, "decode the sandbox's spec");
    } else if (!cur_done(&c)) {
        rc = err_say(e, -EINVAL, "the sandbox's spec is broken");
    } else {
        rc = sandbox_spec_check(&s, e);
    }
    if (rc < 0) {
        sandbox_spec_release(&s);
        return rc;
    }
    *ret = s;
    return 0;
}

void sandbox_limits_default(const struct settings_sandbox *s, struct sandbox_limits *ret)
{
    *ret = (struct sandbox_limits){
        .memory_bytes = s->memory,
        .cpus_milli = s->cpus_milli,
        .pids = s->pids,
        .disk_bytes = s->disk_bytes,
        .disk_inodes = s->disk_inodes,
        .shm_bytes = s->shm_bytes,
        .nofile = s->nofile,
        .core_bytes = s->core_bytes,
        .timeout_ms = s->timeout_ms,
        .grace_ms = s->grace_ms,
        .output_bytes = s->output_bytes,
        .log_bytes = s->log_bytes,
        .network = (enum sandbox_network)s->network,
    };
}

void sandbox_dir_name(struct ulid run, uint32_t attempt, char dst[SANDBOX_DIR_CAP])
{
    char id[ULID_TEXT_CAP];
    ulid_format(run, id);
    memcpy(dst, id, ULID_TEXT_LEN);
    size_t at = ULID_TEXT_LEN;
    dst[at++] = '.';
    char digits[12];
    size_t n = 0;
    do {
        digits[n++] = (char)('0' + attempt % 10);
        attempt /= 10;
    } while (attempt != 0);
    while (n > 0) {
        dst[at++] = digits[--n];
    }
    dst[at] = '\0';
}

int sandbox_dir_parse(struct str name, struct ulid *ret_run, uint32_t *ret_attempt)
{
    struct ulid run;
    uint64_t attempt;
    if (name.n < ULID_TEXT_LEN + 2 || name.p[ULID_TEXT_LEN] != '.' ||
        ulid_parse(str_slice(name, 0, ULID_TEXT_LEN), &run) < 0 || ulid_is_zero(run) ||
        str_u64_in(str_slice(name, ULID_TEXT_LEN + 1, name.n), 1, SANDBOX_ATTEMPT_MAX, &attempt) <
            0) {
        return -EINVAL;
    }
    char again[SANDBOX_DIR_CAP];
    sandbox_dir_name(run, (uint32_t)attempt, again);
    if (!str_eqs(name, again)) {
        return -EINVAL; /* lower case, leading zeroes: not ours */
    }
    *ret_run = run;
    *ret_attempt = (uint32_t)attempt;
    return 0;
}
