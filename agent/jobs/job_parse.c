#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "agent/jobs/job_retry.h"
#include "agent/jobs/jobs.h"
#include "agent/jobs/jobs_internal.h"
#include "common/mem.h"

enum {
    JOB_RETRIES_MAX = 100,
    JOB_RETRIES_ASKED = 3, /* for exit code 75, when the document does not speak of retries */
    JOB_CONCURRENCY_MAX = 100000,
    JOB_PRIORITY_MAX = 100,
    JOB_PIDS_MAX = 4194304,
    JOB_CPUS_MILLI_MAX = 1024 * 1000,
    JOB_PATH_MAX = 4095,
    JOB_USER_MAX = 255,
    JOB_ENV_NAME_MAX = 256,
};

#define MIB (1024 * UINT64_C(1024))
#define HOUR_MS (3600 * UINT64_C(1000))

/* What this node allows. A document that was accepted once is read again without bounds: they may
 * have changed since. */
struct bounds {
    bool none;
    bool host_network;
    bool nat;
    uint64_t memory_max;
    uint64_t disk_max;
    uint64_t timeout_max_ms; /* 0: none */
};

struct parse {
    struct job *j;
    struct bounds bounds;
    struct job_problems *problems;
    enum job_mode mode;
    struct str name;    /* of the path */
    const char *within; /* "retries." or "" */
    int r;              /* 0 or -ENOMEM */
};

__attribute__((format(printf, 3, 4))) static void problem(struct parse *p, const char *field,
                                                          const char *fmt, ...)
{
    struct job_problems *ps = p->problems;
    char text[256];
    va_list ap;

    if (ps->n == JOB_PROBLEMS_MAX) {
        ps->more++;
        return;
    }
    struct job_problem *one = &ps->items[ps->n++];
    (void)snprintf(text, sizeof text, "%s%s", p->within, field);
    run_set_text(one->field, sizeof one->field, str_of(text));
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    run_set_text(one->detail, sizeof one->detail, str_of(text));
}

/* For messages: outside text is shown short. */
#define SHORT_ARG(s) STR_ARG(str_slice((s), 0, 60))

/* --- values --- */

static bool get_text(struct parse *p, const char *field, const struct json *v, size_t max,
                     struct str *ret)
{
    struct str s;

    if (!json_str(v, &s)) {
        problem(p, field, "must be a string, not %s", json_type_name(v->type));
        return false;
    }
    if (s.n == 0 || s.n > max) {
        problem(p, field, "must have 1 to %zu bytes", max);
        return false;
    }
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f) {
            problem(p, field, "may not hold control characters");
            return false;
        }
    }
    *ret = s;
    return true;
}

static bool in_range(struct parse *p, const char *field, uint64_t v, uint64_t min, uint64_t max)
{
    if (!p->bounds.none && (v < min || v > max)) {
        problem(p, field, "must be %llu to %llu", (unsigned long long)min, (unsigned long long)max);
        return false;
    }
    return true;
}

static void get_count(struct parse *p, const char *field, const struct json *v, uint64_t min,
                      uint64_t max, uint64_t *ret)
{
    int64_t i;

    if (!json_int(v, &i)) {
        problem(p, field, "must be an integer, not %s", json_type_name(v->type));
    } else if (i < 0) {
        problem(p, field, "must be %llu to %llu", (unsigned long long)min, (unsigned long long)max);
    } else if (in_range(p, field, (uint64_t)i, min, max)) {
        *ret = (uint64_t)i;
    }
}

static void get_u32(struct parse *p, const char *field, const struct json *v, uint32_t max,
                    uint32_t *ret)
{
    uint64_t n = *ret;

    get_count(p, field, v, 0, max, &n);
    *ret = (uint32_t)n;
}

/* A number in thousandths. */
static void get_milli(struct parse *p, const char *field, const struct json *v, uint64_t min,
                      uint64_t max, uint64_t *ret)
{
    double d;

    if (!json_real(v, &d)) {
        problem(p, field, "must be a number, not %s", json_type_name(v->type));
    } else if (!(d * 1e3 >= (double)min - 0.5 && d * 1e3 <= (double)max + 0.5)) {
        problem(p, field, "must be %g to %g", (double)min / 1e3, (double)max / 1e3);
    } else {
        *ret = (uint64_t)llround(d * 1e3);
    }
}

static void get_size(struct parse *p, const char *field, const struct json *v, uint64_t min,
                     uint64_t max, uint64_t *ret)
{
    struct str s;
    int64_t i;
    uint64_t bytes = 0;
    char low[24];
    char high[24];

    if (json_int(v, &i)) {
        bytes = i < 0 ? 0 : (uint64_t)i;
    } else if (!json_str(v, &s)) {
        problem(p, field, "must be a size (bytes, or a text such as \"512MiB\"), not %s",
                json_type_name(v->type));
        return;
    } else if (str_size(s, &bytes) != 0) {
        problem(p, field, "'%.*s' is not a size: write bytes, or a text such as \"512MiB\"",
                SHORT_ARG(s));
        return;
    }
    if (!p->bounds.none && (bytes < min || bytes > max)) {
        problem(p, field, "must be %s to %s", str_fmt_size(low, sizeof low, min),
                str_fmt_size(high, sizeof high, max));
        return;
    }
    *ret = bytes;
}

static void get_duration(struct parse *p, const char *field, const struct json *v, uint64_t min_ms,
                         uint64_t max_ms, uint64_t *ret)
{
    struct str s;
    double d;
    uint64_t ms = 0;
    char low[32];
    char high[32];

    if (json_real(v, &d)) {
        /* What does not fit fails the range below. */
        ms = d >= 0 && d < 1e15 ? (uint64_t)llround(d * 1e3) : UINT64_MAX;
    } else if (!json_str(v, &s)) {
        problem(p, field, "must be a duration (seconds, or a text such as \"90s\"), not %s",
                json_type_name(v->type));
        return;
    } else if (str_duration_ms(s, &ms) != 0) {
        problem(p, field, "'%.*s' is not a duration: write seconds, or a text such as \"1h30m\"",
                SHORT_ARG(s));
        return;
    }
    if (!p->bounds.none && (ms < min_ms || ms > max_ms)) {
        problem(p, field, "must be %s to %s", str_fmt_duration(low, sizeof low, min_ms * 1000),
                str_fmt_duration(high, sizeof high, max_ms * 1000));
        return;
    }
    *ret = ms;
}

/* The index of the text among two names, or -1. */
static int get_choice(struct parse *p, const char *field, const struct json *v, const char *zero,
                      const char *one)
{
    struct str s;

    if (!json_str(v, &s)) {
        problem(p, field, "must be \"%s\" or \"%s\", not %s", zero, one, json_type_name(v->type));
        return -1;
    }
    if (str_eqs(s, zero)) {
        return 0;
    }
    if (str_eqs(s, one)) {
        return 1;
    }
    problem(p, field, "must be \"%s\" or \"%s\", not '%.*s'", zero, one, SHORT_ARG(s));
    return -1;
}

static void set_string(struct parse *p, char **dst, struct str s)
{
    char *copy = mem_strndup(s.p, s.n);

    if (copy == NULL) {
        p->r = -ENOMEM;
        return;
    }
    mem_free(*dst);
    *dst = copy;
}

static bool get_list(struct parse *p, const char *field, const struct json *v, size_t n_max,
                     size_t bytes_max, struct job_list *ret)
{
    struct job_list l = { 0 };
    size_t i = 0;
    size_t before = p->problems->n + p->problems->more;

    if (v->type != JSON_ARRAY) {
        problem(p, field, "must be an array of strings, not %s", json_type_name(v->type));
        return false;
    }
    if (v->count > n_max) {
        problem(p, field, "has %zu elements; %zu are the most", v->count, n_max);
        return false;
    }
    JSON_EACH (item, v) {
        char where[48];
        struct str s;
        (void)snprintf(where, sizeof where, "%s[%zu]", field, i++);
        if (!json_str(item, &s)) {
            problem(p, where, "must be a string, not %s", json_type_name(item->type));
        } else if (s.n > bytes_max) {
            problem(p, where, "has %zu bytes; %zu are the most", s.n, bytes_max);
        } else if (job_list_add(&l, s) != 0) {
            p->r = -ENOMEM;
            break;
        }
    }
    if (p->r != 0 || before != p->problems->n + p->problems->more) {
        job_list_release(&l);
        return false;
    }
    job_list_release(ret);
    *ret = l;
    return true;
}

/* --- the fields --- */

static void f_name(struct parse *p, const struct json *v)
{
    struct str s;

    if (!get_text(p, "name", v, JOB_NAME_MAX, &s)) {
        return;
    }
    if (p->mode == JOB_ONE_OFF) {
        problem(p, "name", "a one-off has no name: PUT /v1/jobs/{job} registers a job");
    } else if (!str_eq(s, p->name)) {
        problem(p, "name", "is '%.*s', but the request is about '%.*s'", SHORT_ARG(s),
                SHORT_ARG(p->name));
    }
}

static void f_image(struct parse *p, const struct json *v)
{
    static const char also[] = "./_-:@";
    struct str s;

    if (!get_text(p, "image", v, JOB_IMAGE_MAX, &s)) {
        return;
    }
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!word && (strchr(also, c) == NULL || (i == 0 && c != '_'))) {
            problem(p, "image", "'%.*s' is not an image such as team/encrypt:1", SHORT_ARG(s));
            return;
        }
    }
    (void)str_copy(p->j->image, sizeof p->j->image, s);
}

static void f_entrypoint(struct parse *p, const struct json *v)
{
    if (get_list(p, "entrypoint", v, JOB_ARGS_MAX, JOB_ARG_BYTES_MAX, &p->j->entrypoint)) {
        p->j->has_entrypoint = true;
    }
}

static void f_command(struct parse *p, const struct json *v)
{
    if (get_list(p, "command", v, JOB_ARGS_MAX, JOB_ARG_BYTES_MAX, &p->j->command)) {
        p->j->has_command = true;
    }
}

static bool env_name_ok(struct parse *p, const char *where, struct str name)
{
    static const char *const ours[] = { "PAYLOAD_FILE", "TASK_ID" };

    if (name.n == 0 || name.n > JOB_ENV_NAME_MAX || str_find(name, '=') >= 0) {
        problem(p, where, "a variable's name has 1 to %d bytes and no '='", JOB_ENV_NAME_MAX);
        return false;
    }
    bool taken = str_starts(name, "AGENT_");
    for (size_t i = 0; i < ARRAY_LEN(ours); i++) {
        taken = taken || str_eqs(name, ours[i]);
    }
    if (taken) {
        problem(p, where, "is set by the agent");
    }
    return !taken;
}

static void f_env(struct parse *p, const struct json *v)
{
    if (v->type != JSON_OBJECT) {
        problem(p, "env", "must be an object of strings, not %s", json_type_name(v->type));
        return;
    }
    if (v->count + p->j->env.n > JOB_ENV_MAX) {
        problem(p, "env", "has %zu variables; %d are the most", v->count + p->j->env.n,
                JOB_ENV_MAX);
        return;
    }
    JSON_EACH (item, v) {
        char where[64];
        struct str s;
        (void)snprintf(where, sizeof where, "env.%.*s", STR_ARG(str_slice(item->key, 0, 50)));
        if (!env_name_ok(p, where, item->key)) {
            continue;
        }
        if (!json_str(item, &s)) {
            problem(p, where, "must be a string, not %s", json_type_name(item->type));
        } else if (s.n + item->key.n + 1 > JOB_ARG_BYTES_MAX) {
            problem(p, where, "has %zu bytes; name and value may have %d", s.n, JOB_ARG_BYTES_MAX);
        } else if (job_env_set(&p->j->env, item->key, s) != 0) {
            p->r = -ENOMEM;
            return;
        }
    }
}

static void f_workdir(struct parse *p, const struct json *v)
{
    struct str s;

    if (!get_text(p, "workdir", v, JOB_PATH_MAX, &s)) {
        return;
    }
    if (s.p[0] != '/') {
        problem(p, "workdir", "'%.*s' is not an absolute path", SHORT_ARG(s));
        return;
    }
    set_string(p, &p->j->workdir, s);
}

static void f_user(struct parse *p, const struct json *v)
{
    struct str s;

    if (get_text(p, "user", v, JOB_USER_MAX, &s)) {
        set_string(p, &p->j->user, s);
    }
}

static void f_stop_signal(struct parse *p, const struct json *v)
{
    struct str s;
    int64_t i;
    int signal = 0;

    if (json_int(v, &i)) {
        signal = i >= 1 && i <= 64 ? (int)i : 0;
    } else if (json_str(v, &s)) {
        signal = job_signal_parse(s);
    } else {
        problem(p, "stop_signal", "must be a name such as \"SIGTERM\" or a number, not %s",
                json_type_name(v->type));
        return;
    }
    if (signal == 0) {
        problem(p, "stop_signal", "is not a signal: a name such as \"SIGTERM\", or 1 to 64");
        return;
    }
    p->j->stop_signal = signal;
}

static void f_network(struct parse *p, const struct json *v)
{
    struct job_problem bad;

    if (job_parse_network(v, p->bounds.host_network, p->bounds.nat, p->j, &bad) != 0) {
        problem(p, bad.field, "%s", bad.detail);
    }
}

/* What another file read. */
static void taken(struct parse *p, int r, const struct job_problem *bad)
{
    if (r == -EINVAL) {
        problem(p, bad->field, "%s", bad->detail);
    } else if (r != 0) {
        p->r = r;
    }
}

static void f_egress(struct parse *p, const struct json *v)
{
    struct job_problem bad;

    taken(p, job_parse_egress(v, p->j, &bad), &bad);
}

static void f_secrets(struct parse *p, const struct json *v)
{
    struct job_problem bad;

    taken(p, job_parse_secrets(v, p->j, &bad), &bad);
}

static void f_timeout(struct parse *p, const struct json *v)
{
    uint64_t max = p->bounds.timeout_max_ms;
    int64_t i;

    if (max == 0 && json_int(v, &i) && i == 0) {
        p->j->limits.timeout_ms = 0;
        return;
    }
    get_duration(p, "timeout", v, 1, max != 0 ? max : 10000 * HOUR_MS, &p->j->limits.timeout_ms);
}

static void f_grace(struct parse *p, const struct json *v)
{
    get_duration(p, "grace", v, 0, HOUR_MS, &p->j->limits.grace_ms);
}

static void f_queue_timeout(struct parse *p, const struct json *v)
{
    get_duration(p, "queue_timeout", v, 0, 30 * 24 * HOUR_MS, &p->j->policy.queue_timeout_ms);
}

static void f_memory(struct parse *p, const struct json *v)
{
    get_size(p, "memory", v, MIB, p->bounds.memory_max, &p->j->limits.memory_bytes);
}

static void f_cpus(struct parse *p, const struct json *v)
{
    uint64_t milli = p->j->limits.cpus_milli;

    get_milli(p, "cpus", v, 0, JOB_CPUS_MILLI_MAX, &milli);
    if (milli != 0 && milli < 10) {
        problem(p, "cpus", "must be 0 (no limit) or at least 0.01");
        return;
    }
    p->j->limits.cpus_milli = milli;
}

static void f_pids(struct parse *p, const struct json *v)
{
    get_count(p, "pids", v, 2, JOB_PIDS_MAX, &p->j->limits.pids);
}

static void f_disk(struct parse *p, const struct json *v)
{
    uint64_t max = p->bounds.disk_max;

    get_size(p, "disk", v, max < MIB ? max : MIB, max, &p->j->limits.disk_bytes);
}

static void f_output_overflow(struct parse *p, const struct json *v)
{
    int i = get_choice(p, "output_overflow", v, "fail", "truncate");

    if (i >= 0) {
        p->j->limits.output_truncate = i == 1;
    }
}

static void f_concurrency(struct parse *p, const struct json *v)
{
    get_u32(p, "concurrency", v, JOB_CONCURRENCY_MAX, &p->j->policy.concurrency);
}

static void f_priority(struct parse *p, const struct json *v)
{
    get_u32(p, "priority", v, JOB_PRIORITY_MAX, &p->j->policy.priority);
}

static void get_requirements(struct parse *p, const char *key, const struct json *v,
                             struct job_list *dst)
{
    struct job_list l = { 0 };

    if (!get_list(p, key, v, JOB_REQUIRE_MAX, JOB_REQUIRE_TEXT_MAX, &l)) {
        return;
    }
    for (size_t i = 0; i < l.n; i++) {
        char where[32];
        if (!job_requirement_ok(l.v[i])) {
            (void)snprintf(where, sizeof where, "%s[%zu]", key, i);
            problem(p, where, "must be a capability (\"cpu-cpuid.AESNI\") or \"label=value\"");
        }
    }
    job_list_release(dst);
    *dst = l;
}

static void f_require(struct parse *p, const struct json *v)
{
    get_requirements(p, "require", v, &p->j->require);
}

static void f_prefer(struct parse *p, const struct json *v)
{
    get_requirements(p, "prefer", v, &p->j->prefer);
}

static bool label_ok(struct parse *p, const struct json *item)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/";
    char where[80];
    struct str s;
    bool ok = item->key.n != 0 && item->key.n <= JOB_LABEL_TEXT_MAX;

    (void)snprintf(where, sizeof where, "labels.%.*s", STR_ARG(str_slice(item->key, 0, 50)));
    for (size_t i = 0; ok && i < item->key.n; i++) {
        ok = strchr(letters, item->key.p[i]) != NULL;
    }
    if (!ok) {
        problem(p, where, "a label's name has 1 to %d letters, digits, '-', '.', '_', '/'",
                JOB_LABEL_TEXT_MAX);
    }
    if (!json_str(item, &s)) {
        problem(p, where, "must be a string, not %s", json_type_name(item->type));
        return false;
    }
    if (s.n > JOB_LABEL_TEXT_MAX) {
        problem(p, where, "has %zu bytes; %d are the most", s.n, JOB_LABEL_TEXT_MAX);
        return false;
    }
    return ok;
}

static void f_labels(struct parse *p, const struct json *v)
{
    const struct json *sorted[JOB_LABELS_MAX];
    AUTO_BUF struct buf b = BUF_INIT(sizeof p->j->labels - 1);
    struct json_w w;
    size_t n = 0;
    bool ok = true;

    if (v->type != JSON_OBJECT) {
        problem(p, "labels", "must be an object of strings, not %s", json_type_name(v->type));
        return;
    }
    if (v->count > JOB_LABELS_MAX) {
        problem(p, "labels", "has %zu labels; %d are the most", v->count, JOB_LABELS_MAX);
        return;
    }
    JSON_EACH (item, v) {
        size_t at = n++;
        ok = label_ok(p, item) && ok;
        for (; at > 0 && str_cmp(item->key, sorted[at - 1]->key) < 0; at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = item;
    }
    if (!ok) {
        return;
    }
    json_w_init(&w, &b, false);
    json_w_obj(&w);
    for (size_t i = 0; i < n; i++) {
        json_w_keystr(&w, sorted[i]->key);
        json_w_str(&w, sorted[i]->u.s);
    }
    json_w_end(&w);
    if (buf_error(&b) == -ENOMEM) {
        p->r = -ENOMEM;
    } else if (buf_error(&b) != 0) {
        problem(p, "labels", "are longer than %zu bytes of JSON together", sizeof p->j->labels - 1);
    } else {
        (void)str_copy(p->j->labels, sizeof p->j->labels, n != 0 ? buf_str(&b) : STR(""));
    }
}

static void f_payload(struct parse *p, const struct json *v)
{
    struct job_problem bad;

    taken(p, job_parse_payload(v, p->j, &bad), &bad);
}

static void f_payload_base64(struct parse *p, const struct json *v)
{
    struct job_problem bad;

    taken(p, job_parse_payload_base64(v, p->j, &bad), &bad);
}

/* --- triggers --- */

/* As compact JSON; agent/triggers reads what is in it. */
static void get_raw(struct parse *p, const char *field, const struct json *v, enum json_type type,
                    char **dst)
{
    AUTO_BUF struct buf b = BUF_INIT(JOB_TRIGGERS_MAX);
    struct json_w w;

    if (v->type != type) {
        problem(p, field, "must be %s, not %s", json_type_name(type), json_type_name(v->type));
        return;
    }
    json_w_init(&w, &b, false);
    json_w_value(&w, v);
    if (buf_error(&b) == -ENOBUFS) {
        problem(p, field, "is longer than %d bytes", JOB_TRIGGERS_MAX);
    } else if (buf_error(&b) != 0) {
        p->r = -ENOMEM;
    } else {
        mem_free(*dst);
        *dst = v->count != 0 ? buf_take(&b) : NULL;
    }
}

static void f_triggers(struct parse *p, const struct json *v)
{
    get_raw(p, "triggers", v, JSON_OBJECT, &p->j->triggers);
}

static void f_callbacks(struct parse *p, const struct json *v)
{
    get_raw(p, "callbacks", v, JSON_ARRAY, &p->j->callbacks);
}

/* --- retries --- */

static void f_retries_max(struct parse *p, const struct json *v)
{
    get_u32(p, "max", v, JOB_RETRIES_MAX, &p->j->policy.retries_max);
    p->j->policy.retries_asked_max = p->j->policy.retries_max;
    p->j->retries_given = true;
}

static void f_retries_delay(struct parse *p, const struct json *v)
{
    get_duration(p, "delay", v, 0, 24 * HOUR_MS, &p->j->policy.retry_delay_ms);
}

static void f_retries_max_delay(struct parse *p, const struct json *v)
{
    get_duration(p, "max_delay", v, 0, 7 * 24 * HOUR_MS, &p->j->policy.retry_max_delay_ms);
}

static void f_retries_backoff(struct parse *p, const struct json *v)
{
    uint64_t milli = p->j->policy.retry_backoff_milli;

    get_milli(p, "backoff", v, 1000, 10000, &milli);
    p->j->policy.retry_backoff_milli = (uint32_t)milli;
}

static void f_retries_jitter(struct parse *p, const struct json *v)
{
    uint64_t milli = p->j->policy.retry_jitter_milli;

    get_milli(p, "jitter", v, 0, 1000, &milli);
    p->j->policy.retry_jitter_milli = (uint32_t)milli;
}

static void f_retries_budget(struct parse *p, const struct json *v)
{
    uint64_t milli = p->j->policy.retry_budget_milli;

    get_milli(p, "budget", v, 0, 100000, &milli);
    p->j->policy.retry_budget_milli = (uint32_t)milli;
}

static void f_retries_exit_codes(struct parse *p, const struct json *v)
{
    struct job_problem bad;

    taken(p, job_exit_rules_parse(v, &p->j->policy, bad.field, bad.detail), &bad);
}

/* --- the document --- */

enum { M_JOB = BIT(JOB_REGISTERED), M_ONCE = BIT(JOB_ONE_OFF), M_OVER = BIT(JOB_OVERRIDE) };
enum { M_ALL = M_JOB | M_ONCE | M_OVER, M_DEFINES = M_JOB | M_ONCE };

struct field {
    const char *name;
    void (*read)(struct parse *p, const struct json *v);
    unsigned modes;
};

static const struct field retries_fields[] = {
    { "max", f_retries_max, M_ALL },
    { "delay", f_retries_delay, M_ALL },
    { "backoff", f_retries_backoff, M_ALL },
    { "jitter", f_retries_jitter, M_ALL },
    { "max_delay", f_retries_max_delay, M_ALL },
    { "budget", f_retries_budget, M_ALL },
    { "exit_codes", f_retries_exit_codes, M_ALL },
};

static void read_fields(struct parse *p, const struct json *o, const struct field *fields,
                        size_t n);

static void f_retries(struct parse *p, const struct json *v)
{
    if (v->type != JSON_OBJECT) {
        problem(p, "retries", "must be an object such as {\"max\": 3}, not %s",
                json_type_name(v->type));
        return;
    }
    p->within = "retries.";
    read_fields(p, v, retries_fields, ARRAY_LEN(retries_fields));
    p->within = "";
}

static const struct field job_fields[] = {
    { "name", f_name, M_ALL },
    { "image", f_image, M_DEFINES },
    { "entrypoint", f_entrypoint, M_ALL },
    { "command", f_command, M_ALL },
    { "env", f_env, M_ALL },
    { "workdir", f_workdir, M_ALL },
    { "user", f_user, M_ALL },
    { "stop_signal", f_stop_signal, M_ALL },
    { "network", f_network, M_ALL },
    { "egress", f_egress, M_ALL },
    { "secrets", f_secrets, M_JOB },
    { "timeout", f_timeout, M_ALL },
    { "grace", f_grace, M_ALL },
    { "queue_timeout", f_queue_timeout, M_ALL },
    { "memory", f_memory, M_ALL },
    { "cpus", f_cpus, M_ALL },
    { "pids", f_pids, M_ALL },
    { "disk", f_disk, M_ALL },
    { "output_overflow", f_output_overflow, M_ALL },
    { "retries", f_retries, M_ALL },
    { "concurrency", f_concurrency, M_JOB },
    { "priority", f_priority, M_DEFINES },
    { "prefer", f_prefer, M_ALL },
    { "require", f_require, M_ALL },
    { "labels", f_labels, M_ALL },
    { "triggers", f_triggers, M_JOB },
    { "callbacks", f_callbacks, M_ALL },
    { "payload", f_payload, M_ONCE | M_OVER },
    { "payload_base64", f_payload_base64, M_ONCE | M_OVER },
};

static void unknown_field(struct parse *p, struct str name, const struct field *fields, size_t n)
{
    const char *best = NULL;
    unsigned best_distance = 3;
    char shown[64];

    run_set_text(shown, sizeof shown, name);
    for (size_t i = 0; i < n; i++) {
        unsigned d = str_distance(name, str_of(fields[i].name));
        if ((fields[i].modes & BIT(p->mode)) != 0 && d < best_distance) {
            best = fields[i].name;
            best_distance = d;
        }
    }
    if (best != NULL) {
        problem(p, shown, "is not known; did you mean \"%s\"?", best);
    } else {
        problem(p, shown, "is not known");
    }
}

static void read_fields(struct parse *p, const struct json *o, const struct field *fields, size_t n)
{
    JSON_EACH (v, o) {
        const struct field *f = NULL;
        for (size_t i = 0; i < n; i++) {
            if (str_eqs(v->key, fields[i].name)) {
                f = &fields[i];
            }
        }
        if (f == NULL) {
            unknown_field(p, v->key, fields, n);
        } else if ((f->modes & BIT(p->mode)) == 0) {
            problem(p, f->name, "%s",
                    p->mode == JOB_OVERRIDE  ? "cannot be changed for one run of a registered job"
                    : p->mode == JOB_ONE_OFF ? "means nothing for a one-off"
                                             : "belongs to a submit, not to the job");
        } else if (v->type != JSON_NULL && p->r == 0) {
            f->read(p, v); /* null is as if it were not there */
        }
    }
}

static void defaults(struct job *j, const struct settings_sandbox *s)
{
    j->limits = (struct run_limits){
        .memory_bytes = s->memory,
        .cpus_milli = s->cpus_milli,
        .pids = s->pids,
        .disk_bytes = s->disk_bytes,
        .timeout_ms = s->timeout_ms,
        .grace_ms = s->grace_ms,
    };
    if (s->network == SETTINGS_NETWORK_HOST && s->allow_host_network) {
        j->limits.network = RUN_NETWORK_HOST;
    } else if (s->network == SETTINGS_NETWORK_NAT && s->allow_nat) {
        j->limits.network = RUN_NETWORK_NAT;
    }
}

static struct bounds bounds_of(const struct settings *s)
{
    uint64_t memory = s->sandbox.memory_max != 0 ? s->sandbox.memory_max : s->node.memory;

    return (struct bounds){
        .host_network = s->sandbox.allow_host_network,
        .nat = s->sandbox.allow_nat,
        .memory_max = memory != 0 ? memory : INT64_MAX,
        .disk_max = s->sandbox.disk_bytes,
        .timeout_max_ms = s->sandbox.timeout_max_ms,
    };
}

static void check_whole(struct parse *p)
{
    if (p->mode == JOB_REGISTERED && !job_name_ok(p->name)) {
        problem(p, "name",
                "a job's name has 1 to %d letters, digits, '.', '_', '-' and begins with a letter "
                "or digit",
                JOB_NAME_MAX);
    }
    bool image_named = false;
    for (size_t i = 0; i < p->problems->n; i++) {
        image_named = image_named || strcmp(p->problems->items[i].field, "image") == 0;
    }
    if (p->j->image[0] == '\0' && !image_named) {
        problem(p, "image", "is missing");
    }
    if (p->j->has_egress && p->j->limits.network != RUN_NETWORK_NAT && p->problems->n == 0) {
        problem(p, "egress", "is only for \"network\": \"nat\"");
    }
    if (p->j->has_entrypoint && p->j->entrypoint.n == 0 && p->j->has_command &&
        p->j->command.n == 0) {
        problem(p, "command", "is empty, and so is entrypoint: nothing would run");
    }
}

static int parse_tree(struct parse *p, const struct json *root, struct err *e)
{
    if (root->type != JSON_OBJECT) {
        problem(p, "", "a job document is an object, not %s", json_type_name(root->type));
    } else {
        read_fields(p, root, job_fields, ARRAY_LEN(job_fields));
        check_whole(p);
    }
    if (p->r != 0) {
        return err_set(e, p->r, "job document");
    }
    if (p->problems->n != 0) {
        const struct job_problem *first = &p->problems->items[0];
        return err_say(e, -EINVAL, "%s%s%s", first->field, first->field[0] != '\0' ? ": " : "",
                       first->detail);
    }
    return 0;
}

/* j is the parser's from here on: *ret_job or freed. */
static int parse_into(struct job *j, struct parse *p, const struct json *root, struct job **ret_job,
                      struct err *e)
{
    p->j = j;
    p->within = "";
    if (p->mode != JOB_OVERRIDE) {
        j->policy = (struct run_policy){
            .retries_asked_max = JOB_RETRIES_ASKED,
            .retry_backoff_milli = 2000,
            .retry_jitter_milli = 200,
            .retry_delay_ms = 5000,
            .retry_max_delay_ms = 300000,
        };
    }
    if (p->mode == JOB_REGISTERED) {
        run_set_text(j->name, sizeof j->name, p->name);
    }
    int r = parse_tree(p, root, e);
    if (r != 0) {
        job_free(j);
        return r;
    }
    *ret_job = j;
    return 0;
}

static int parse_text(struct str text, struct json_doc **ret, struct err *e)
{
    struct json_limits limits = { .depth_max = 8, .nodes_max = 8192 };
    int r = json_parse(text.p, text.n, &limits, ret, e);

    if (r == -EINVAL) {
        r = -EBADMSG;
        if (e != NULL) {
            e->code = r;
        }
    }
    return r;
}

int job_parse(struct str text, enum job_mode mode, struct str name, const struct job *base,
              const struct settings *settings, struct job **ret_job, struct job_problems *problems,
              struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;

    REQUIRE((mode == JOB_OVERRIDE) == (base != NULL));
    problems->n = 0;
    problems->more = 0;
    if (text.n > JOB_DOCUMENT_MAX) {
        return err_say(e, -E2BIG, "a job document has at most %d bytes", JOB_DOCUMENT_MAX);
    }
    int r = parse_text(text, &doc, e);
    if (r != 0) {
        return r;
    }
    struct job *j = base != NULL ? job_dup(base) : mem_zalloc(sizeof *j);
    if (j == NULL) {
        return err_set(e, -ENOMEM, "job document");
    }
    if (base == NULL) {
        defaults(j, &settings->sandbox);
    } else {
        name = str_of(base->name);
        j->triggers = mem_free(j->triggers); /* the job's, not the run's */
    }
    struct parse p = {
        .bounds = bounds_of(settings), .problems = problems, .mode = mode, .name = name
    };
    return parse_into(j, &p, json_root(doc), ret_job, e);
}

int job_parse_stored(struct str text, struct job **ret_job, struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct job_problems problems = { 0 };
    struct str name = { 0 };
    int r = parse_text(text, &doc, e);

    if (r != 0) {
        return r;
    }
    bool named = json_str(json_get(json_root(doc), "name"), &name);
    struct job *j = mem_zalloc(sizeof *j);
    if (j == NULL) {
        return err_set(e, -ENOMEM, "job document");
    }
    struct parse p = {
        .bounds = { .none = true, .host_network = true, .nat = true },
        .problems = &problems,
        .mode = named ? JOB_REGISTERED : JOB_ONE_OFF,
        .name = name,
    };
    return parse_into(j, &p, json_root(doc), ret_job, e);
}
