#include <errno.h>
#include <math.h>

#include "agent/jobs/job_retry.h"
#include "agent/jobs/jobs_internal.h"
#include "agent/jobs/run.h"
#include "common/mem.h"

/* --- writing --- */

static void w_text(struct json_w *w, const char *key, const char *text)
{
    json_w_key(w, key);
    if (text[0] == '\0') {
        json_w_null(w);
    } else {
        json_w_cstr(w, text);
    }
}

static void w_json(struct json_w *w, const char *key, const char *text, const char *otherwise)
{
    json_w_key(w, key);
    json_w_raw(w, str_of(text[0] != '\0' ? text : otherwise));
}

static void w_us(struct json_w *w, const char *key, uint64_t us)
{
    json_kv_real(w, key, (double)us / 1e6, 6);
}

static void w_duration(struct json_w *w, const char *key, bool has, uint64_t us)
{
    if (has) {
        w_us(w, key, us);
    } else {
        json_w_key(w, key);
        json_w_null(w);
    }
}

void job_w_milli(struct json_w *w, const char *key, uint64_t milli)
{
    if (milli % 1000 == 0) {
        json_kv_u64(w, key, milli / 1000);
    } else {
        json_kv_real(w, key, (double)milli / 1e3, 3);
    }
}

static const char *name_memory(unsigned i)
{
    return i == 1 ? "learned" : "asked";
}

static void w_limits(struct json_w *w, const struct run_limits *l)
{
    json_w_key(w, "limits");
    json_w_obj(w);
    json_kv_u64(w, "memory_bytes", l->memory_bytes);
    json_kv_cstr(w, "memory_basis", name_memory(l->memory_learned));
    if (l->memory_reserve_bytes != 0) {
        json_kv_u64(w, "memory_reserved_bytes", l->memory_reserve_bytes);
    }
    if (l->cpu_weight != 0) {
        json_kv_u64(w, "cpu_weight", l->cpu_weight);
    }
    job_w_milli(w, "cpus", l->cpus_milli);
    json_kv_u64(w, "pids", l->pids);
    json_kv_u64(w, "disk_bytes", l->disk_bytes);
    job_w_milli(w, "timeout_seconds", l->timeout_ms);
    job_w_milli(w, "grace_seconds", l->grace_ms);
    json_kv_cstr(w, "network", run_network_name((enum run_network)l->network));
    json_kv_cstr(w, "cache_class", run_cache_name((enum run_cache)l->cache));
    json_kv_cstr(w, "output_overflow", l->output_truncate ? "truncate" : "fail");
    json_w_end(w);
}

static void w_usage(struct json_w *w, const struct run_usage *u)
{
    json_w_key(w, "resources");
    if (!u->measured) {
        json_w_null(w);
        return;
    }
    json_w_obj(w);
    w_us(w, "cpu_user_seconds", u->cpu_user_us);
    w_us(w, "cpu_system_seconds", u->cpu_system_us);
    w_us(w, "cpu_seconds", u->cpu_total_us);
    w_us(w, "cpu_throttled_seconds", u->cpu_throttled_us);
    json_kv_u64(w, "memory_peak_bytes", u->memory_peak_bytes);
    json_kv_cstr(w, "memory_peak_source", run_peak_name((enum run_peak)u->peak_source));
    json_kv_u64(w, "memory_mean_bytes", u->memory_mean_bytes);
    json_kv_u64(w, "io_read_bytes", u->io_read_bytes);
    json_kv_u64(w, "io_write_bytes", u->io_write_bytes);
    json_kv_u64(w, "io_read_ops", u->io_read_ops);
    json_kv_u64(w, "io_write_ops", u->io_write_ops);
    json_kv_u64(w, "network_rx_bytes", u->network_rx_bytes);
    json_kv_u64(w, "network_tx_bytes", u->network_tx_bytes);
    json_kv_u64(w, "network_rx_packets", u->network_rx_packets);
    json_kv_u64(w, "network_tx_packets", u->network_tx_packets);
    if ((u->knows & RUN_KNOWS_CACHE) != 0) {
        json_kv_u64(w, "cache_mean_bytes", (uint64_t)u->cache_mean_kib << 10);
        json_kv_u64(w, "cache_max_bytes", (uint64_t)u->cache_max_kib << 10);
    }
    if ((u->knows & RUN_KNOWS_BANDWIDTH) != 0) {
        json_kv_u64(w, "memory_bandwidth_bytes", u->bandwidth_bytes);
    }
    if (u->knows != 0 || u->cache_class != RUN_CACHE_DEFAULT) {
        json_kv_cstr(w, "cache_class", run_cache_name((enum run_cache)u->cache_class));
    }
    json_kv_u64(w, "oom_kills", u->oom_kills);
    json_kv_u64(w, "samples", u->samples);
    json_w_end(w);
}

static void w_outcome(struct json_w *w, const struct run *r)
{
    json_kv_cstr(w, "state", run_state_name((enum run_state)r->state));
    w_text(w, "reason",
           r->reason == RUN_REASON_NONE ? "" : run_reason_name((enum run_reason)r->reason));
    w_text(w, "detail", r->detail);
    w_text(w, "node", r->node);
    w_text(w, "entry_node", r->entry_node);
    json_kv_u64(w, "attempt", r->attempt);
    json_kv_u64(w, "epoch", r->epoch);
    json_kv_u64(w, "merged", r->merged);
    json_w_key(w, "exit_code");
    if (r->exit_code >= 0) {
        json_w_int(w, r->exit_code);
    } else {
        json_w_null(w);
    }
    json_w_key(w, "signal");
    if (r->signal > 0) {
        json_w_int(w, r->signal);
    } else {
        json_w_null(w);
    }
}

static void w_times(struct json_w *w, const struct run *r)
{
    uint64_t us = 0;
    bool has;

    json_kv_time(w, "created_at", r->created_us);
    json_kv_time(w, "scheduled_at", r->scheduled_us);
    json_kv_time(w, "queued_at", r->queued_us);
    json_kv_time(w, "retry_at", r->retry_at_us);
    json_kv_time(w, "placed_at", r->placed_us);
    json_kv_time(w, "preparing_at", r->preparing_us);
    json_kv_time(w, "started_at", r->started_us);
    json_kv_time(w, "ended_at", r->ended_us);
    has = run_queue_us(r, &us);
    w_duration(w, "queue_seconds", has, us);
    has = run_start_us(r, &us);
    w_duration(w, "start_seconds", has, us);
    has = run_time_us(r, &us);
    w_duration(w, "run_seconds", has, us);
}

static void w_members(struct json_w *w, const struct run *r)
{
    char id[ULID_TEXT_CAP];
    char digest[DIGEST_TEXT_CAP];

    ulid_format(r->id, id);
    json_kv_cstr(w, "id", id);
    w_text(w, "job", r->job);
    json_kv_u64(w, "revision", r->revision);
    w_text(w, "image", r->image);
    w_text(w, "image_digest", digest_format(&r->image_digest, digest));
    w_json(w, "command", r->command, "[]");
    json_kv_cstr(w, "trigger", run_trigger_name((enum run_trigger)r->trigger));
    w_outcome(w, r);
    w_times(w, r);
    w_text(w, "start_kind",
           r->start == RUN_START_NONE ? "" : run_start_name((enum run_start)r->start));
    json_kv_u64(w, "payload_bytes", r->payload_bytes);
    json_kv_u64(w, "output_bytes", r->output_bytes);
    json_kv_u64(w, "log_bytes", r->log_bytes);
    json_kv_bool(w, "output_truncated", r->output_truncated);
    json_kv_bool(w, "log_truncated", r->log_truncated);
    json_kv_bool(w, "cancel_requested", r->cancel_asked);
    w_limits(w, &r->limits);
    w_usage(w, &r->usage);
    w_json(w, "labels", r->labels, "{}");
}

void run_to_json(struct json_w *w, const struct run *r)
{
    json_w_obj(w);
    w_members(w, r);
    json_w_end(w);
}

void run_to_record(struct json_w *w, const struct run *r)
{
    char hash[2 * sizeof r->request_hash + 1];
    const struct run_policy *p = &r->policy;

    json_w_obj(w);
    w_members(w, r);
    str_hex(hash, r->request_hash, sizeof r->request_hash);
    json_kv_cstr(w, "request_hash", hash);
    json_kv_u64(w, "owner", r->owner);
    json_w_key(w, "holders");
    json_w_arr(w);
    for (size_t i = 0; i < r->holders_len; i++) {
        json_w_int(w, r->holders[i]);
    }
    json_w_end(w);
    json_kv_u64(w, "retries_used", r->retries);
    json_w_key(w, "policy");
    json_w_obj(w);
    json_kv_u64(w, "retries_max", p->retries_max);
    json_kv_u64(w, "retries_asked_max", p->retries_asked_max);
    json_kv_u64(w, "retry_backoff_milli", p->retry_backoff_milli);
    json_kv_u64(w, "retry_jitter_milli", p->retry_jitter_milli);
    json_kv_u64(w, "retry_delay_ms", p->retry_delay_ms);
    json_kv_u64(w, "retry_max_delay_ms", p->retry_max_delay_ms);
    if (p->retry_budget_milli != 0) {
        json_kv_u64(w, "retry_budget_milli", p->retry_budget_milli);
    }
    if (p->exit_rules_len != 0) {
        char rules[RUN_EXIT_RULES_TEXT];
        job_exit_rules_format(p, rules);
        json_kv_cstr(w, "exit_rules", rules);
    }
    json_kv_u64(w, "queue_timeout_ms", p->queue_timeout_ms);
    json_kv_u64(w, "concurrency", p->concurrency);
    json_kv_u64(w, "priority", p->priority);
    json_w_end(w);
    json_w_end(w);
}

/* --- reading --- */

/* The first failure sticks; members that are missing or null leave the value as it was. */
struct reader {
    const struct json *o;
    struct err *e;
    int r;
};

static const struct json *r_get(struct reader *rd, const char *key)
{
    const struct json *v = rd->r == 0 ? json_get(rd->o, key) : NULL;

    return v == NULL || v->type == JSON_NULL ? NULL : v;
}

static void r_bad(struct reader *rd, const char *key)
{
    if (rd->r == 0) {
        rd->r = err_say(rd->e, -EINVAL, "run: '%s' is not what it should be", key);
    }
}

static uint64_t r_u64(struct reader *rd, const char *key, uint64_t max)
{
    const struct json *v = r_get(rd, key);
    int64_t i;

    if (v == NULL) {
        return 0;
    }
    if (!json_int(v, &i) || i < 0 || (uint64_t)i > max) {
        r_bad(rd, key);
        return 0;
    }
    return (uint64_t)i;
}

static uint32_t r_u32(struct reader *rd, const char *key)
{
    return (uint32_t)r_u64(rd, key, UINT32_MAX);
}

static uint8_t r_bool(struct reader *rd, const char *key)
{
    const struct json *v = r_get(rd, key);
    bool b = false;

    if (v != NULL && !json_bool(v, &b)) {
        r_bad(rd, key);
    }
    return b;
}

/* A number of seconds (or CPUs) in units of 1/scale. */
static uint64_t r_scaled(struct reader *rd, const char *key, double scale)
{
    const struct json *v = r_get(rd, key);
    double d;

    if (v == NULL) {
        return 0;
    }
    if (!json_real(v, &d) || !(d >= 0) || d * scale > 9e18) {
        r_bad(rd, key);
        return 0;
    }
    return (uint64_t)llround(d * scale);
}

static int64_t r_time(struct reader *rd, const char *key)
{
    const struct json *v = r_get(rd, key);
    struct str s;
    int64_t us = 0;

    if (v != NULL && (!json_str(v, &s) || time_parse(s, &us) != 0)) {
        r_bad(rd, key);
    }
    return us;
}

static void r_text(struct reader *rd, const char *key, char *dst, size_t cap)
{
    const struct json *v = r_get(rd, key);
    struct str s;

    if (v != NULL && (!json_str(v, &s) || str_copy(dst, cap, s) != 0)) {
        r_bad(rd, key);
    }
}

/* The index of the member's text among names, or otherwise. */
static uint8_t r_name(struct reader *rd, const char *key, const char *(*name)(unsigned),
                      unsigned count, unsigned otherwise)
{
    const struct json *v = r_get(rd, key);
    struct str s;

    if (v == NULL) {
        return (uint8_t)otherwise;
    }
    if (json_str(v, &s)) {
        for (unsigned i = 0; i < count; i++) {
            if (str_eqs(s, name(i))) {
                return (uint8_t)i;
            }
        }
    }
    r_bad(rd, key);
    return 0;
}

static const char *name_state(unsigned i)
{
    return run_state_name((enum run_state)i);
}
static const char *name_reason(unsigned i)
{
    return run_reason_name((enum run_reason)i);
}
static const char *name_trigger(unsigned i)
{
    return run_trigger_name((enum run_trigger)i);
}
static const char *name_start(unsigned i)
{
    return run_start_name((enum run_start)i);
}
static const char *name_peak(unsigned i)
{
    return run_peak_name((enum run_peak)i);
}
static const char *name_cache(unsigned i)
{
    return run_cache_name((enum run_cache)i);
}
static const char *name_network(unsigned i)
{
    return run_network_name((enum run_network)i);
}
static const char *name_overflow(unsigned i)
{
    return i == 1 ? "truncate" : "fail";
}

/* A JSON value as text; an empty one as "". */
static void r_json(struct reader *rd, const char *key, enum json_type type, char *dst, size_t cap)
{
    const struct json *v = r_get(rd, key);
    AUTO_BUF struct buf b = BUF_INIT(cap - 1);
    struct json_w w;

    if (v == NULL) {
        return;
    }
    if (v->type != type) {
        r_bad(rd, key);
        return;
    }
    if (v->count == 0) {
        return;
    }
    json_w_init(&w, &b, false);
    json_w_value(&w, v);
    if (buf_error(&b) == -ENOMEM) {
        rd->r = err_set(rd->e, -ENOMEM, "run");
    } else if (buf_error(&b) != 0) {
        r_bad(rd, key);
    } else {
        memcpy(dst, b.data, b.len + 1);
    }
}

static void r_limits(struct reader *up, struct run_limits *l)
{
    struct reader rd = { r_get(up, "limits"), up->e, up->r };

    l->memory_bytes = r_u64(&rd, "memory_bytes", INT64_MAX);
    l->memory_learned = r_name(&rd, "memory_basis", name_memory, 2, 0);
    l->memory_reserve_bytes = r_u64(&rd, "memory_reserved_bytes", INT64_MAX);
    l->cpu_weight = r_u64(&rd, "cpu_weight", 10000);
    l->cpus_milli = r_scaled(&rd, "cpus", 1e3);
    l->pids = r_u64(&rd, "pids", INT64_MAX);
    l->disk_bytes = r_u64(&rd, "disk_bytes", INT64_MAX);
    l->timeout_ms = r_scaled(&rd, "timeout_seconds", 1e3);
    l->grace_ms = r_scaled(&rd, "grace_seconds", 1e3);
    l->network = r_name(&rd, "network", name_network, RUN_NETWORK_COUNT, RUN_NETWORK_NONE);
    l->cache = r_name(&rd, "cache_class", name_cache, RUN_CACHE_COUNT, RUN_CACHE_DEFAULT);
    l->output_truncate = r_name(&rd, "output_overflow", name_overflow, 2, 0);
    up->r = rd.r;
}

static void r_usage(struct reader *up, struct run_usage *u)
{
    static const uint64_t cache_max = (uint64_t)UINT32_MAX << 10;
    const struct json *o = r_get(up, "resources");
    struct reader rd = { o, up->e, up->r };

    if (o == NULL) {
        return;
    }
    u->measured = 1;
    u->cpu_user_us = r_scaled(&rd, "cpu_user_seconds", 1e6);
    u->cpu_system_us = r_scaled(&rd, "cpu_system_seconds", 1e6);
    u->cpu_total_us = r_scaled(&rd, "cpu_seconds", 1e6);
    u->cpu_throttled_us = r_scaled(&rd, "cpu_throttled_seconds", 1e6);
    u->memory_peak_bytes = r_u64(&rd, "memory_peak_bytes", INT64_MAX);
    u->peak_source = r_name(&rd, "memory_peak_source", name_peak, RUN_PEAK_COUNT, RUN_PEAK_NONE);
    u->memory_mean_bytes = r_u64(&rd, "memory_mean_bytes", INT64_MAX);
    u->io_read_bytes = r_u64(&rd, "io_read_bytes", INT64_MAX);
    u->io_write_bytes = r_u64(&rd, "io_write_bytes", INT64_MAX);
    u->io_read_ops = r_u64(&rd, "io_read_ops", INT64_MAX);
    u->io_write_ops = r_u64(&rd, "io_write_ops", INT64_MAX);
    u->network_rx_bytes = r_u64(&rd, "network_rx_bytes", INT64_MAX);
    u->network_tx_bytes = r_u64(&rd, "network_tx_bytes", INT64_MAX);
    u->network_rx_packets = r_u64(&rd, "network_rx_packets", INT64_MAX);
    u->network_tx_packets = r_u64(&rd, "network_tx_packets", INT64_MAX);
    u->knows = r_get(&rd, "cache_max_bytes") != NULL ? RUN_KNOWS_CACHE : 0;
    u->cache_mean_kib = (uint32_t)(r_u64(&rd, "cache_mean_bytes", cache_max) >> 10);
    u->cache_max_kib = (uint32_t)(r_u64(&rd, "cache_max_bytes", cache_max) >> 10);
    u->knows |= r_get(&rd, "memory_bandwidth_bytes") != NULL ? RUN_KNOWS_BANDWIDTH : 0;
    u->bandwidth_bytes = r_u64(&rd, "memory_bandwidth_bytes", INT64_MAX);
    u->cache_class = r_name(&rd, "cache_class", name_cache, RUN_CACHE_COUNT, RUN_CACHE_DEFAULT);
    u->oom_kills = r_u64(&rd, "oom_kills", INT64_MAX);
    u->samples = r_u32(&rd, "samples");
    up->r = rd.r;
}

static void r_policy(struct reader *up, struct run_policy *p)
{
    struct reader rd = { r_get(up, "policy"), up->e, up->r };

    p->retries_max = r_u32(&rd, "retries_max");
    p->retries_asked_max = r_u32(&rd, "retries_asked_max");
    p->retry_backoff_milli = r_u32(&rd, "retry_backoff_milli");
    p->retry_jitter_milli = (uint32_t)r_u64(&rd, "retry_jitter_milli", 1000);
    p->retry_delay_ms = r_u64(&rd, "retry_delay_ms", INT64_MAX);
    p->retry_max_delay_ms = r_u64(&rd, "retry_max_delay_ms", INT64_MAX);
    p->retry_budget_milli = r_u32(&rd, "retry_budget_milli");
    char rules[RUN_EXIT_RULES_TEXT] = "";
    r_text(&rd, "exit_rules", rules, sizeof rules);
    if (job_exit_rules_read(str_of(rules), p) != 0) {
        r_bad(&rd, "exit_rules");
    }
    p->queue_timeout_ms = r_u64(&rd, "queue_timeout_ms", INT64_MAX);
    p->concurrency = r_u32(&rd, "concurrency");
    p->priority = (uint32_t)r_u64(&rd, "priority", 100);
    up->r = rd.r;
}

static void r_identity(struct reader *rd, struct run *r)
{
    const struct json *v = r_get(rd, "id");
    struct str s;

    if (!json_str(v, &s) || ulid_parse(s, &r->id) != 0) {
        r_bad(rd, "id");
    }
    v = r_get(rd, "image_digest");
    if (v != NULL && (!json_str(v, &s) || digest_parse(s, &r->image_digest, NULL) != 0)) {
        r_bad(rd, "image_digest");
    }
    v = r_get(rd, "request_hash");
    if (v != NULL &&
        (!json_str(v, &s) || str_unhex(s, r->request_hash, sizeof r->request_hash) != 0)) {
        r_bad(rd, "request_hash");
    }
    r_text(rd, "job", r->job, sizeof r->job);
    r_text(rd, "image", r->image, sizeof r->image);
    r_text(rd, "node", r->node, sizeof r->node);
    r_text(rd, "entry_node", r->entry_node, sizeof r->entry_node);
    r_text(rd, "detail", r->detail, sizeof r->detail);
    r_json(rd, "command", JSON_ARRAY, r->command, sizeof r->command);
    r_json(rd, "labels", JSON_OBJECT, r->labels, sizeof r->labels);
}

static void r_holders(struct reader *rd, struct run *r)
{
    const struct json *v = r_get(rd, "holders");

    r->owner = r_u32(rd, "owner");
    if (v == NULL) {
        return;
    }
    if (v->type != JSON_ARRAY || v->count > RUN_HOLDERS_MAX) {
        r_bad(rd, "holders");
        return;
    }
    JSON_EACH (item, v) {
        int64_t id;
        if (!json_int(item, &id) || id < 0 || id > UINT32_MAX) {
            r_bad(rd, "holders");
            return;
        }
        r->holders[r->holders_len++] = (uint32_t)id;
    }
}

static void r_times(struct reader *rd, struct run *r)
{
    r->created_us = r_time(rd, "created_at");
    r->scheduled_us = r_time(rd, "scheduled_at");
    r->queued_us = r_time(rd, "queued_at");
    r->retry_at_us = r_time(rd, "retry_at");
    r->placed_us = r_time(rd, "placed_at");
    r->preparing_us = r_time(rd, "preparing_at");
    r->started_us = r_time(rd, "started_at");
    r->ended_us = r_time(rd, "ended_at");
}

static void r_numbers(struct reader *rd, struct run *r)
{
    r->revision = r_u32(rd, "revision");
    r->merged = r_u32(rd, "merged");
    r->epoch = r_u32(rd, "epoch");
    r->attempt = (uint32_t)r_u64(rd, "attempt", RUN_ATTEMPT_MAX);
    r->retries = r_u32(rd, "retries_used");
    r->state = r_name(rd, "state", name_state, RUN_STATE_COUNT, RUN_STATE_COUNT);
    r->reason = r_name(rd, "reason", name_reason, RUN_REASON_COUNT, RUN_REASON_NONE);
    r->trigger = r_name(rd, "trigger", name_trigger, RUN_TRIGGER_COUNT, RUN_TRIGGER_API);
    r->start = r_name(rd, "start_kind", name_start, RUN_START_COUNT, RUN_START_NONE);
    r->output_truncated = r_bool(rd, "output_truncated");
    r->log_truncated = r_bool(rd, "log_truncated");
    r->cancel_asked = r_bool(rd, "cancel_requested");
    r->exit_code =
        r_get(rd, "exit_code") != NULL ? (int16_t)r_u64(rd, "exit_code", 255) : (int16_t)-1;
    r->signal = (int16_t)r_u64(rd, "signal", 64);
    r->payload_bytes = r_u64(rd, "payload_bytes", INT64_MAX);
    r->output_bytes = r_u64(rd, "output_bytes", INT64_MAX);
    r->log_bytes = r_u64(rd, "log_bytes", INT64_MAX);
    if (r->state == RUN_STATE_COUNT) {
        r_bad(rd, "state");
    }
    if (r->epoch == 0) {
        r_bad(rd, "epoch");
    }
    if (r->attempt == 0) {
        r_bad(rd, "attempt");
    }
}

int run_from_json(const struct json *v, struct run *ret, struct err *e)
{
    struct reader rd = { v, e, 0 };
    struct run r;

    if (v == NULL || v->type != JSON_OBJECT) {
        return err_say(e, -EINVAL, "run: not an object");
    }
    memset(&r, 0, sizeof r);
    r_identity(&rd, &r);
    r_numbers(&rd, &r);
    r_holders(&rd, &r);
    r_times(&rd, &r);
    r_limits(&rd, &r.limits);
    r_usage(&rd, &r.usage);
    r_policy(&rd, &r.policy);
    if (rd.r == 0) {
        *ret = r;
    }
    return rd.r;
}
