#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "agent/jobs/job_retry.h"
#include "agent/node/node_internal.h"
#include "common/insist.h"
#include "common/mem.h"

uint64_t node_reserve_of(const struct run_limits *l)
{
    return l->memory_reserve_bytes != 0 && l->memory_reserve_bytes < l->memory_bytes
               ? l->memory_reserve_bytes
               : l->memory_bytes;
}

void node_request_of(const struct run *run, const struct job *job, struct str texts[NODE_TEXTS_MAX],
                     struct route_request *ret)
{
    *ret = (struct route_request){ .memory_bytes = node_reserve_of(&run->limits),
                                   .memory_limit_bytes = run->limits.memory_bytes,
                                   .cpu_milli = (uint32_t)run->limits.cpus_milli,
                                   .require = texts,
                                   .prefer = texts + JOB_REQUIRE_MAX,
                                   .cache_sensitive = run->limits.cache == RUN_CACHE_SENSITIVE,
                                   .pollutes = run->limits.cache == RUN_CACHE_POLLUTER };
    for (size_t i = 0; i < job->require.n && i < JOB_REQUIRE_MAX; i++) {
        texts[i] = str_of(job->require.v[i]);
        ret->require_len = i + 1;
    }
    for (size_t i = 0; i < job->prefer.n && i < JOB_REQUIRE_MAX; i++) {
        texts[JOB_REQUIRE_MAX + i] = str_of(job->prefer.v[i]);
        ret->prefer_len = i + 1;
    }
}

/* One list of requirements; what is wrong is added to problems, the first to e. */
static int requirements_check(const char *key, const struct job_list *list,
                              struct job_problems *problems, struct err *e)
{
    int rc = 0;

    for (size_t i = 0; i < list->n; i++) {
        struct err one = { .code = 0 };
        if (route_require_check(str_of(list->v[i]), &one) == 0) {
            continue;
        }
        if (rc == 0) {
            rc = err_say(e, -EINVAL, "%s[%zu]: %s", key, i, err_text(&one));
        }
        if (problems->n < JOB_PROBLEMS_MAX) {
            struct job_problem *p = &problems->items[problems->n++];
            (void)snprintf(p->field, sizeof(p->field), "%s[%zu]", key, i);
            (void)snprintf(p->detail, sizeof(p->detail), "%.150s", err_text(&one));
        } else {
            problems->more++;
        }
    }
    return rc;
}

int node_document_check(const struct job *job, struct job_problems *problems, struct err *e)
{
    struct err second = { .code = 0 };
    int rc = requirements_check("require", &job->require, problems, e);
    int rc2 = requirements_check("prefer", &job->prefer, problems, rc == 0 ? e : &second);

    return rc != 0 ? rc : rc2;
}

/* What the agent itself puts into a run's environment. */
enum { OWN_ENV_MAX = 18, OWN_ENV_TEXT_MAX = 1024 };

struct own_env {
    char text[OWN_ENV_MAX][OWN_ENV_TEXT_MAX];
    size_t n;
};

static void own(struct own_env *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void own(struct own_env *o, const char *fmt, ...)
{
    va_list ap;

    REQUIRE(o->n < OWN_ENV_MAX);
    va_start(ap, fmt);
    (void)vsnprintf(o->text[o->n++], OWN_ENV_TEXT_MAX, fmt, ap);
    va_end(ap);
}

static void own_env_fill(const struct node_spec_input *in, struct own_env *o)
{
    const struct run *r = in->run;
    char id[ULID_TEXT_CAP];
    char when[TIME_TEXT_CAP];
    char mask[HARDWARE_MASK_ENV_MAX];

    ulid_format(r->id, id);
    own(o, "TASK_ID=%s", id);
    own(o, "AGENT_RUN_ID=%s", id);
    own(o, "AGENT_JOB=%s", r->job);
    own(o, "AGENT_REVISION=%" PRIu32, r->revision);
    own(o, "AGENT_ATTEMPT=%" PRIu32, r->attempt);
    own(o, "AGENT_TRIGGER=%s", run_trigger_name((enum run_trigger)r->trigger));
    own(o, "AGENT_NODE=%s", r->node);
    own(o, "AGENT_MEMORY_BYTES=%" PRIu64, r->limits.memory_bytes);
    own(o, "PAYLOAD_FILE=/run/agent/payload");
    own(o, "AGENT_RETRY_AFTER_FILE=/run/agent/retry-after");
    if (r->limits.cpus_milli != 0) {
        own(o, "AGENT_CPUS=%" PRIu64 ".%03" PRIu64, r->limits.cpus_milli / 1000,
            r->limits.cpus_milli % 1000);
    }
    if (r->limits.timeout_ms != 0) {
        int64_t deadline = in->now_us + (int64_t)r->limits.timeout_ms * 1000;
        own(o, "AGENT_DEADLINE=%s", time_format(deadline, when));
    }
    if (r->scheduled_us != 0) {
        own(o, "AGENT_SCHEDULED_AT=%s", time_format(r->scheduled_us, when));
    }
    if (in->job->secrets.n != 0) {
        own(o, "AGENT_SECRETS_DIR=/run/agent/secrets");
    }
    hardware_mask_openssl(in->mask, mask);
    if (mask[0] != '\0') {
        own(o, "OPENSSL_ia32cap=%s", mask);
    }
    hardware_mask_glibc(in->mask, mask);
    if (mask[0] != '\0') {
        own(o, "GLIBC_TUNABLES=%s", mask);
    }
}

/* The job's environment with ours behind it: the later one wins. */
static int env_make(const struct node_spec_input *in, struct image_strv *ret, struct err *e)
{
    struct own_env *o = mem_zalloc(sizeof *o);
    char **v = mem_calloc(in->job->env.n + OWN_ENV_MAX, sizeof *v);
    int rc = -ENOMEM;

    if (o != NULL && v != NULL) {
        own_env_fill(in, o);
        for (size_t i = 0; i < in->job->env.n; i++) {
            v[i] = in->job->env.v[i];
        }
        for (size_t i = 0; i < o->n; i++) {
            v[in->job->env.n + i] = o->text[i];
        }
        const struct image_strv all = { .v = v, .n = in->job->env.n + o->n };
        rc = image_env(in->config, &all, ret, e);
    }
    mem_free(v);
    mem_free(o);
    return rc == -ENOMEM ? err_set(e, rc, "the run's environment") : rc;
}

static int argv_make(const struct node_spec_input *in, struct image_strv *ret, struct err *e)
{
    const struct job *j = in->job;
    struct image_strv entrypoint = { .v = j->entrypoint.v, .n = j->entrypoint.n };
    struct image_strv command = { .v = j->command.v, .n = j->command.n };

    return image_argv(in->config, j->has_entrypoint ? &entrypoint : NULL,
                      j->has_command ? &command : NULL, ret, e);
}

static int stop_signal(const struct node_spec_input *in)
{
    int sig = SIGTERM;

    if (in->job->stop_signal != 0) {
        return in->job->stop_signal;
    }
    /* An image's odd signal name must not keep its job from running. */
    (void)image_signal_parse(str_of(in->config->stop_signal), &sig);
    return sig;
}

static void limits_make(const struct node_spec_input *in, struct sandbox_limits *l)
{
    static const enum sandbox_network networks[] = {
        [RUN_NETWORK_NONE] = SANDBOX_NETWORK_NONE,
        [RUN_NETWORK_HOST] = SANDBOX_NETWORK_HOST,
        [RUN_NETWORK_NAT] = SANDBOX_NETWORK_NAT,
    };
    const struct run_limits *r = &in->run->limits;

    sandbox_limits_default(&in->settings->sandbox, l);
    l->memory_bytes = r->memory_bytes;
    l->cpus_milli = r->cpus_milli;
    l->cpu_weight = r->cpu_weight;
    l->pids = r->pids;
    l->disk_bytes = r->disk_bytes;
    l->timeout_ms = r->timeout_ms;
    l->grace_ms = r->grace_ms;
    l->output_truncate = r->output_truncate != 0;
    l->cache = r->cache < SANDBOX_CACHE_CLASSES ? (enum sandbox_cache_class)r->cache
                                                : SANDBOX_CACHE_DEFAULT;
    l->network = networks[r->network < RUN_NETWORK_COUNT ? r->network : RUN_NETWORK_NONE];
}

/* The destinations that the job gives as addresses; those of names come with each answer that the
 * run's resolver gives (uv_node_dns.c). */
static int egress_make(const struct node_spec_input *in, struct node_spec *s, struct err *e)
{
    const struct job_list *list = &in->job->egress;

    if (in->run->limits.network != RUN_NETWORK_NAT || !in->job->has_egress) {
        return 0;
    }
    s->spec.egress.limited = true;
    s->egress = mem_calloc(list->n + 1, sizeof s->egress[0]);
    if (s->egress == NULL) {
        return err_set(e, -ENOMEM, "the run's destinations");
    }
    for (size_t i = 0; i < list->n; i++) {
        struct egress_rule rule;
        int rc = egress_parse(str_of(list->v[i]), &rule, e);
        if (rc != 0) {
            return err_prefix(e, "egress[%zu]", i);
        }
        if (rule.net.kind != EGRESS_NAME) {
            s->egress[s->spec.egress.nets_len++] = rule.net;
        }
    }
    s->spec.egress.nets = s->egress;
    return 0;
}

/* "run-" and the end of the id: different for every run, valid as a host name. */
static void hostname_make(struct ulid id, char dst[32])
{
    char text[ULID_TEXT_CAP];

    ulid_format(id, text);
    for (char *p = text; *p != '\0'; p++) {
        if (*p >= 'A' && *p <= 'Z') {
            *p = (char)(*p - 'A' + 'a');
        }
    }
    (void)snprintf(dst, 32, "run-%s", text + ULID_TEXT_LEN - 12);
}

int node_spec_make(const struct node_spec_input *in, struct node_spec *ret, struct err *e)
{
    struct node_spec s = { 0 };
    int rc;

    if (in->layers_len == 0) {
        return err_say(e, -EINVAL, "the image has no layers: there is nothing to run in it");
    }
    s.layers = mem_dup(in->layers, in->layers_len * sizeof in->layers[0]);
    if (s.layers == NULL) {
        return err_set(e, -ENOMEM, "the run's layers");
    }
    rc = argv_make(in, &s.argv, e);
    if (rc == 0) {
        rc = env_make(in, &s.env, e);
    }
    if (rc != 0) {
        node_spec_release(&s);
        return rc;
    }
    hostname_make(in->run->id, s.hostname);
    *ret = s;
    ret->spec = (struct sandbox_spec){
        .run = in->run->id,
        .attempt = in->run->attempt,
        .argv = (const char *const *)ret->argv.v,
        .argv_len = ret->argv.n,
        .env = (const char *const *)ret->env.v,
        .env_len = ret->env.n,
        .workdir = in->job->workdir != NULL ? in->job->workdir : in->config->workdir,
        .user = in->job->user != NULL ? in->job->user : in->config->user,
        .hostname = ret->hostname,
        .stop_signal = stop_signal(in),
        .layers = ret->layers,
        .layers_len = in->layers_len,
        .payload = in->run->payload_bytes != 0,
        .secrets = in->job->secrets.n != 0,
    };
    limits_make(in, &ret->spec.limits);
    rc = egress_make(in, ret, e);
    rc = rc != 0 ? rc : sandbox_spec_check(&ret->spec, e);
    if (rc != 0) {
        node_spec_release(ret);
    }
    return rc;
}

void node_spec_release(struct node_spec *s)
{
    image_strv_release(&s->argv);
    image_strv_release(&s->env);
    s->layers = mem_free(s->layers);
    s->egress = mem_free(s->egress);
}

_Static_assert((int)RUN_CACHE_SENSITIVE == (int)SANDBOX_CACHE_SENSITIVE &&
                   (int)RUN_CACHE_POLLUTER == (int)SANDBOX_CACHE_POLLUTER &&
                   (int)RUN_CACHE_COUNT == (int)SANDBOX_CACHE_CLASSES,
               "the same classes in the same order");

static uint32_t kib_of(uint64_t bytes)
{
    return bytes >> 10 < UINT32_MAX ? (uint32_t)(bytes >> 10) : UINT32_MAX;
}

static void usage_of(const struct sandbox_result *r, const struct telemetry_totals *t,
                     struct run_usage *u)
{
    static const uint8_t peaks[] = {
        [TELEMETRY_PEAK_NONE] = RUN_PEAK_NONE,
        [TELEMETRY_PEAK_KERNEL] = RUN_PEAK_KERNEL,
        [TELEMETRY_PEAK_SAMPLED] = RUN_PEAK_SAMPLED,
    };

    if ((t->has & TELEMETRY_HAS_CPU) == 0) {
        /* No cgroup to ask: what waiting for the processes told. */
        u->measured = r->started_wall_us != 0;
        u->cpu_user_us = r->cpu_user_us;
        u->cpu_system_us = r->cpu_system_us;
        u->cpu_total_us = r->cpu_user_us + r->cpu_system_us;
        u->memory_peak_bytes = r->maxrss_bytes;
        u->peak_source = RUN_PEAK_SAMPLED;
        return;
    }
    u->measured = 1;
    u->samples = t->samples;
    u->cpu_user_us = t->cpu_user_us;
    u->cpu_system_us = t->cpu_system_us;
    u->cpu_total_us = t->cpu_total_us;
    u->cpu_throttled_us = t->throttled_us;
    u->memory_peak_bytes = t->mem_peak_bytes;
    u->memory_mean_bytes = t->mem_mean_bytes;
    u->peak_source = peaks[t->mem_peak_source];
    u->io_read_bytes = t->io_read_bytes;
    u->io_write_bytes = t->io_write_bytes;
    u->io_read_ops = t->io_read_ops;
    u->io_write_ops = t->io_write_ops;
    u->network_rx_bytes = t->net_rx_bytes;
    u->network_tx_bytes = t->net_tx_bytes;
    u->network_rx_packets = t->net_rx_packets;
    u->network_tx_packets = t->net_tx_packets;
    u->oom_kills = t->oom_kills;
    u->knows = (uint8_t)(((t->has & TELEMETRY_HAS_LLC) != 0 ? RUN_KNOWS_CACHE : 0) |
                         ((t->has & TELEMETRY_HAS_MBM) != 0 ? RUN_KNOWS_BANDWIDTH : 0));
    u->cache_mean_kib = kib_of(t->llc_mean_bytes);
    u->cache_max_kib = kib_of(t->llc_max_bytes);
    u->bandwidth_bytes = t->mbm_bytes;
}

static enum run_reason reason_of(const struct sandbox_result *r)
{
    switch (r->reason) {
    case SANDBOX_EXIT:
        return RUN_REASON_EXIT;
    case SANDBOX_SIGNAL:
        return RUN_REASON_SIGNAL;
    case SANDBOX_OOM:
        return RUN_REASON_OOM;
    case SANDBOX_TIMEOUT:
        return RUN_REASON_TIMEOUT;
    case SANDBOX_STOPPED:
        return RUN_REASON_CANCELLED;
    case SANDBOX_OUTPUT:
        return RUN_REASON_OUTPUT;
    case SANDBOX_SETUP:
        /* 126 and 127: the program is not there or cannot be executed, which is the image's fault.
         */
        return r->exit_code == 126 || r->exit_code == 127 ? RUN_REASON_IMAGE : RUN_REASON_SANDBOX;
    case SANDBOX_LOST:
        break;
    }
    return RUN_REASON_NODE_LOST;
}

void node_result_of(const struct sandbox_result *r, const struct telemetry_totals *t,
                    struct job_result *ret)
{
    struct job_result res = {
        .reason = reason_of(r),
        .exit_code = r->reason == SANDBOX_LOST ? -1 : r->exit_code,
        .signal = r->signal,
        .output_truncated = r->stdout_truncated,
        .log_truncated = r->stderr_truncated,
        .output_bytes = r->stdout_kept,
        .log_bytes = r->stderr_bytes,
        .started_us = r->started_wall_us,
        .ended_us = r->ended_wall_us,
        .detail = r->text,
        .retry_after_ms = job_retry_after_ms(str_of(r->retry_after), r->ended_wall_us),
    };

    usage_of(r, t, &res.usage);
    *ret = res;
}
