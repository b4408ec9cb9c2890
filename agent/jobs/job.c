#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

#include "agent/jobs/job_retry.h"
#include "agent/jobs/jobs.h"
#include "agent/jobs/jobs_internal.h"
#include "common/mem.h"

int job_problem_say(struct job_problem *ret, const char *field, const char *fmt, ...)
{
    va_list ap;

    (void)snprintf(ret->field, sizeof ret->field, "%s", field);
    va_start(ap, fmt);
    (void)vsnprintf(ret->detail, sizeof ret->detail, fmt, ap);
    va_end(ap);
    return -EINVAL;
}

/* Linux's numbers on every architecture that has a build; glibc's strsignal() gives sentences. */
static const struct {
    const char *name;
    int number;
} job_signals[] = {
    { "HUP", SIGHUP },     { "INT", SIGINT },   { "QUIT", SIGQUIT }, { "ABRT", SIGABRT },
    { "KILL", SIGKILL },   { "USR1", SIGUSR1 }, { "USR2", SIGUSR2 }, { "PIPE", SIGPIPE },
    { "ALRM", SIGALRM },   { "TERM", SIGTERM }, { "CONT", SIGCONT }, { "STOP", SIGSTOP },
    { "WINCH", SIGWINCH }, { "PWR", SIGPWR },
};

/* Real-time signals as container tools spell them; 34 is the first that glibc leaves to programs.
 */
enum { JOB_RTMIN = 34, JOB_RTMAX = 64 };

int job_signal_parse(struct str s)
{
    uint64_t n;

    if (str_u64_in(s, 1, JOB_RTMAX, &n) == 0) {
        return (int)n;
    }
    if (str_starts(s, "SIG")) {
        s = str_slice(s, 3, SIZE_MAX);
    }
    for (size_t i = 0; i < ARRAY_LEN(job_signals); i++) {
        if (str_eqs(s, job_signals[i].name)) {
            return job_signals[i].number;
        }
    }
    if (str_starts(s, "RTMIN+") &&
        str_u64_in(str_slice(s, 6, SIZE_MAX), 0, JOB_RTMAX - JOB_RTMIN, &n) == 0) {
        return JOB_RTMIN + (int)n;
    }
    return 0;
}

static void w_signal(struct json_w *w, int number)
{
    char text[16];

    for (size_t i = 0; i < ARRAY_LEN(job_signals); i++) {
        if (job_signals[i].number == number) {
            (void)snprintf(text, sizeof text, "SIG%s", job_signals[i].name);
            json_kv_cstr(w, "stop_signal", text);
            return;
        }
    }
    json_kv_u64(w, "stop_signal", (uint64_t)number);
}

/* --- lists --- */

int job_list_add(struct job_list *l, struct str s)
{
    char *copy = mem_strndup(s.n != 0 ? s.p : "", s.n);
    char **v = copy != NULL ? mem_realloc(l->v, (l->n + 1) * sizeof *v) : NULL;

    if (v == NULL) {
        mem_free(copy);
        return -ENOMEM;
    }
    l->v = v;
    l->v[l->n++] = copy;
    return 0;
}

void job_list_release(struct job_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        mem_free(l->v[i]);
    }
    l->v = mem_free(l->v);
    l->n = 0;
}

static int list_dup(const struct job_list *from, struct job_list *to)
{
    for (size_t i = 0; i < from->n; i++) {
        if (job_list_add(to, str_of(from->v[i])) != 0) {
            return -ENOMEM;
        }
    }
    return 0;
}

/* The bytes of the name of "NAME=value". */
static size_t env_name_len(const char *entry)
{
    return (size_t)(strchrnul(entry, '=') - entry);
}

int job_env_set(struct job_list *env, struct str name, struct str value)
{
    AUTO_BUF struct buf b = BUF_INIT(SIZE_MAX / 2);
    size_t at = 0;

    buf_addstr(&b, name);
    buf_addc(&b, '=');
    buf_addstr(&b, value);
    if (buf_error(&b) != 0) {
        return -ENOMEM;
    }
    while (at < env->n && str_cmp((struct str){ env->v[at], env_name_len(env->v[at]) }, name) < 0) {
        at++;
    }
    if (at < env->n && str_eq((struct str){ env->v[at], env_name_len(env->v[at]) }, name)) {
        mem_free(env->v[at]);
        env->v[at] = buf_take(&b);
        return 0;
    }
    if (job_list_add(env, STR("")) != 0) {
        return -ENOMEM;
    }
    mem_free(env->v[env->n - 1]);
    memmove(&env->v[at + 1], &env->v[at], (env->n - 1 - at) * sizeof env->v[0]);
    env->v[at] = buf_take(&b);
    return 0;
}

/* --- the job --- */

struct job *job_free(struct job *j)
{
    if (j != NULL) {
        job_list_release(&j->entrypoint);
        job_list_release(&j->command);
        job_list_release(&j->env);
        job_list_release(&j->require);
        job_list_release(&j->egress);
        job_list_release(&j->prefer);
        job_list_release(&j->secrets);
        mem_free(j->workdir);
        mem_free(j->user);
        mem_free(j->triggers);
        mem_free(j->callbacks);
        mem_free(j->payload);
        mem_free(j);
    }
    return NULL;
}

struct job *job_dup(const struct job *j)
{
    struct job *d = mem_dup(j, sizeof *j);

    if (d == NULL) {
        return NULL;
    }
    d->entrypoint = d->command = d->env = (struct job_list){ 0 };
    d->require = d->prefer = d->egress = d->secrets = (struct job_list){ 0 };
    d->workdir = j->workdir != NULL ? mem_strdup(j->workdir) : NULL;
    d->user = j->user != NULL ? mem_strdup(j->user) : NULL;
    d->triggers = j->triggers != NULL ? mem_strdup(j->triggers) : NULL;
    d->callbacks = j->callbacks != NULL ? mem_strdup(j->callbacks) : NULL;
    d->has_payload = false;
    d->payload = NULL;
    d->payload_len = 0;
    if ((d->workdir == NULL) != (j->workdir == NULL) || (d->user == NULL) != (j->user == NULL) ||
        (d->triggers == NULL) != (j->triggers == NULL) ||
        (d->callbacks == NULL) != (j->callbacks == NULL) ||
        list_dup(&j->entrypoint, &d->entrypoint) != 0 || list_dup(&j->command, &d->command) != 0 ||
        list_dup(&j->env, &d->env) != 0 || list_dup(&j->require, &d->require) != 0 ||
        list_dup(&j->egress, &d->egress) != 0 || list_dup(&j->prefer, &d->prefer) != 0 ||
        list_dup(&j->secrets, &d->secrets) != 0) {
        return job_free(d);
    }
    return d;
}

bool job_name_ok(struct str name)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

    if (name.n == 0 || name.n > JOB_NAME_MAX || name.p[0] == '\0' ||
        strchr(first, name.p[0]) == NULL) {
        return false;
    }
    for (size_t i = 1; i < name.n; i++) {
        char c = name.p[i];
        if (c == '\0' || (strchr(first, c) == NULL && strchr("._-", c) == NULL)) {
            return false;
        }
    }
    return true;
}

/* --- as JSON --- */

static void w_list(struct json_w *w, const char *key, const struct job_list *l)
{
    json_w_key(w, key);
    json_w_arr(w);
    for (size_t i = 0; i < l->n; i++) {
        json_w_cstr(w, l->v[i]);
    }
    json_w_end(w);
}

static void w_env(struct json_w *w, const struct job_list *env)
{
    json_w_key(w, "env");
    json_w_obj(w);
    for (size_t i = 0; i < env->n; i++) {
        size_t n = env_name_len(env->v[i]);
        json_w_keystr(w, (struct str){ env->v[i], n });
        json_w_cstr(w, env->v[i] + n + 1);
    }
    json_w_end(w);
}

static void w_retries(struct json_w *w, const struct job *j)
{
    const struct run_policy *p = &j->policy;

    json_w_key(w, "retries");
    json_w_obj(w);
    if (j->retries_given) {
        json_kv_u64(w, "max", p->retries_max);
    }
    job_w_milli(w, "delay", p->retry_delay_ms);
    job_w_milli(w, "backoff", p->retry_backoff_milli);
    job_w_milli(w, "jitter", p->retry_jitter_milli);
    job_w_milli(w, "max_delay", p->retry_max_delay_ms);
    if (p->retry_budget_milli != 0) {
        job_w_milli(w, "budget", p->retry_budget_milli);
    }
    if (p->exit_rules_len != 0) {
        json_w_key(w, "exit_codes");
        job_exit_rules_to_json(p, w);
    }
    json_w_end(w);
}

static void w_limits(struct json_w *w, const struct run_limits *l)
{
    json_kv_cstr(w, "network", run_network_name((enum run_network)l->network));
    job_w_milli(w, "timeout", l->timeout_ms);
    job_w_milli(w, "grace", l->grace_ms);
    json_kv_u64(w, "memory", l->memory_bytes);
    job_w_milli(w, "cpus", l->cpus_milli);
    json_kv_u64(w, "pids", l->pids);
    json_kv_u64(w, "disk", l->disk_bytes);
    json_kv_cstr(w, "output_overflow", l->output_truncate ? "truncate" : "fail");
}

void job_to_json(struct json_w *w, const struct job *j)
{
    if (j->name[0] != '\0') {
        json_kv_cstr(w, "name", j->name);
    }
    json_kv_cstr(w, "image", j->image);
    if (j->has_entrypoint) {
        w_list(w, "entrypoint", &j->entrypoint);
    }
    if (j->has_command) {
        w_list(w, "command", &j->command);
    }
    w_env(w, &j->env);
    if (j->workdir != NULL) {
        json_kv_cstr(w, "workdir", j->workdir);
    }
    if (j->user != NULL) {
        json_kv_cstr(w, "user", j->user);
    }
    if (j->stop_signal != 0) {
        w_signal(w, j->stop_signal);
    }
    w_limits(w, &j->limits);
    if (j->has_egress) {
        w_list(w, "egress", &j->egress);
    }
    if (j->secrets.n != 0) {
        job_w_secrets(w, &j->secrets);
    }
    w_retries(w, j);
    if (j->policy.queue_timeout_ms != 0) {
        job_w_milli(w, "queue_timeout", j->policy.queue_timeout_ms);
    }
    if (j->policy.concurrency != 0) {
        json_kv_u64(w, "concurrency", j->policy.concurrency);
    }
    json_kv_u64(w, "priority", j->policy.priority);
    w_list(w, "require", &j->require);
    if (j->prefer.n != 0) {
        w_list(w, "prefer", &j->prefer);
    }
    json_w_key(w, "labels");
    json_w_raw(w, str_of(j->labels[0] != '\0' ? j->labels : "{}"));
    if (j->triggers != NULL) {
        json_w_key(w, "triggers");
        json_w_raw(w, str_of(j->triggers));
    }
    if (j->callbacks != NULL) {
        json_w_key(w, "callbacks");
        json_w_raw(w, str_of(j->callbacks));
    }
}

void job_to_text(const struct job *j, struct buf *out)
{
    struct json_w w;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    job_to_json(&w, j);
    json_w_end(&w);
}

/* --- a run of it --- */

/* The arguments as a JSON array of less than RUN_COMMAND_CAP bytes, whole or with "…" at its end.
 */
static void make_command(const struct job_list *command, char dst[RUN_COMMAND_CAP])
{
    static const char more[] = ",\"\xe2\x80\xa6\"]";
    char memory[RUN_COMMAND_CAP];
    size_t n = 0;

    dst[0] = '\0';
    for (size_t i = 0; i < command->n; i++) {
        /* Six bytes are the most that one byte becomes. An argument that is cut is left out whole.
         */
        AUTO_BUF struct buf b = BUF_INIT(RUN_COMMAND_CAP);
        struct json_w w;
        json_w_init(&w, &b, false);
        json_w_cstr(&w, command->v[i]);
        if (buf_error(&b) != 0 || n + 1 + b.len + sizeof more > sizeof memory) {
            break;
        }
        memory[n] = n == 0 ? '[' : ',';
        n++;
        memcpy(memory + n, b.data, b.len);
        n += b.len;
        if (i + 1 == command->n) {
            memcpy(memory + n, "]", 2);
            memcpy(dst, memory, n + 2);
            return;
        }
    }
    if (command->n != 0) {
        bool none = n == 0;
        if (none) {
            memory[n++] = '[';
        }
        memcpy(memory + n, more + none, sizeof more - none);
        memcpy(dst, memory, n + sizeof more - none);
    }
}

/* "zone in (a, b)" is the one form with spaces. */
bool job_requirement_ok(const char *text)
{
    return text[0] != '\0' && text[0] != '=' &&
           (strpbrk(text, " \t\r\n") == NULL || strstr(text, " in ") != NULL ||
            strstr(text, " in(") != NULL);
}

void job_make_run(const struct job *j, struct ulid id, int64_t now_us, struct run *ret)
{
    run_init(ret, id, now_us);
    ret->revision = j->revision;
    ret->limits = j->limits;
    ret->policy = j->policy;
    memcpy(ret->job, j->name, sizeof ret->job);
    memcpy(ret->image, j->image, sizeof ret->image);
    memcpy(ret->labels, j->labels, sizeof ret->labels);
    make_command(&j->command, ret->command);
}
