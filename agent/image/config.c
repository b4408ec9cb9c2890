/*
 * What an image says about how it is run. Unknown members are not an error and null is absent;
 * labels and the like are not even read.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/image.h"
#include "common/ids.h"
#include "common/insist.h"
#include "common/json.h"
#include "common/mem.h"

enum { STRINGS_MAX = 4096 };
static const struct json_limits config_json_limits = { .depth_max = 32, .nodes_max = 200000 };

void image_strv_release(struct image_strv *s)
{
    for (size_t i = 0; i < s->n; i++) {
        mem_free(s->v[i]);
    }
    mem_free(s->v);
    *s = (struct image_strv){ NULL, 0 };
}

static int strv_init(struct image_strv *s, size_t cap)
{
    s->n = 0;
    s->v = mem_calloc(cap + 1, sizeof(*s->v));
    return s->v != NULL ? 0 : -ENOMEM;
}

/* There is room. */
static int strv_add(struct image_strv *s, const char *text, size_t n)
{
    s->v[s->n] = mem_strndup(n > 0 ? text : "", n);
    if (s->v[s->n] == NULL) {
        return -ENOMEM;
    }
    s->n++;
    return 0;
}

static const struct json *member(const struct json *obj, const char *key)
{
    const struct json *v = json_get(obj, key);
    return v == NULL || v->type == JSON_NULL ? NULL : v;
}

static int take_strv(const struct json *obj, const char *key, struct image_strv *ret, struct err *e)
{
    const struct json *list = member(obj, key);
    if (list == NULL) {
        return strv_init(ret, 0);
    }
    if (list->type != JSON_ARRAY) {
        return err_say(e, -EINVAL, "'%s' is %s, not an array", key, json_type_name(list->type));
    }
    if (list->count > STRINGS_MAX) {
        return err_say(e, -E2BIG, "'%s' has more than %d members", key, STRINGS_MAX);
    }
    int r = strv_init(ret, list->count);
    JSON_EACH (v, list) {
        struct str s;
        if (r == 0 && !json_str(v, &s)) {
            r = err_say(e, -EINVAL, "'%s' holds %s, not a string", key, json_type_name(v->type));
        }
        if (r == 0) {
            r = strv_add(ret, s.p, s.n);
        }
    }
    return r;
}

static int take_text(const struct json *obj, const char *key, const char *otherwise, char **ret,
                     struct err *e)
{
    const struct json *v = member(obj, key);
    struct str s = STR("");
    if (v != NULL && !json_str(v, &s)) {
        return err_say(e, -EINVAL, "'%s' is %s, not a string", key, json_type_name(v->type));
    }
    *ret = s.n > 0 ? mem_strndup(s.p, s.n) : mem_strdup(otherwise);
    return *ret != NULL ? 0 : -ENOMEM;
}

static int take_short(const struct json *obj, const char *key, char *dst, size_t cap, struct err *e)
{
    struct str s = STR("");
    const struct json *v = member(obj, key);
    if ((v != NULL && !json_str(v, &s)) || str_copy(dst, cap, s) < 0) {
        return err_say(e, -EINVAL, "'%s' is not a short string", key);
    }
    return 0;
}

static int take_diff_ids(const struct json *root, struct image_config *c, struct err *e)
{
    const struct json *rootfs = member(root, "rootfs");
    struct str text;
    if (!json_str(json_get(rootfs, "type"), &text) || !str_eqs(text, "layers")) {
        return err_say(e, -EINVAL, "rootfs.type is not 'layers'");
    }
    const struct json *list = member(rootfs, "diff_ids");
    if (list == NULL) {
        return 0;
    }
    if (list->type != JSON_ARRAY || list->count > IMAGE_LAYERS_MAX) {
        return err_say(e, list->type != JSON_ARRAY ? -EINVAL : -E2BIG,
                       "rootfs.diff_ids is not an array of at most %d digests", IMAGE_LAYERS_MAX);
    }
    c->diff_ids = mem_calloc(list->count + 1, sizeof(*c->diff_ids));
    if (c->diff_ids == NULL) {
        return -ENOMEM;
    }
    JSON_EACH (v, list) {
        if (!json_str(v, &text) || digest_parse(text, &c->diff_ids[c->diff_ids_len], e) < 0) {
            return err_say(e, -EINVAL, "rootfs.diff_ids[%zu] is not a digest", c->diff_ids_len);
        }
        c->diff_ids_len++;
    }
    return 0;
}

static int take_platform(const struct json *root, struct image_platform *p, struct err *e)
{
    int r = take_short(root, "os", p->os, sizeof(p->os), e);
    if (r == 0) {
        r = take_short(root, "architecture", p->architecture, sizeof(p->architecture), e);
    }
    return r < 0 ? r : take_short(root, "variant", p->variant, sizeof(p->variant), e);
}

static int take_config(const struct json *root, struct image_config *c, struct err *e)
{
    if (root->type != JSON_OBJECT) {
        return err_say(e, -EINVAL, "it is not an object");
    }
    const struct json *run = member(root, "config");
    if (run != NULL && run->type != JSON_OBJECT) {
        return err_say(e, -EINVAL, "'config' is not an object");
    }
    struct str created;
    if (json_str(json_get(root, "created"), &created) && time_parse(created, &c->created_us) < 0) {
        c->created_us = 0;
    }
    int r = take_platform(root, &c->platform, e);
    if (r == 0) {
        r = take_strv(run, "Entrypoint", &c->entrypoint, e);
    }
    if (r == 0) {
        r = take_strv(run, "Cmd", &c->cmd, e);
    }
    if (r == 0) {
        r = take_strv(run, "Env", &c->env, e);
    }
    if (r == 0) {
        r = take_text(run, "User", "", &c->user, e);
    }
    if (r == 0) {
        r = take_text(run, "WorkingDir", "/", &c->workdir, e);
    }
    if (r == 0) {
        r = take_text(run, "StopSignal", "SIGTERM", &c->stop_signal, e);
    }
    return r < 0 ? r : take_diff_ids(root, c, e);
}

int image_config_parse(struct str text, struct image_config *ret, struct err *e)
{
    struct json_doc *doc = NULL;
    struct image_config c;
    memset(&c, 0, sizeof(c));
    if (text.n > IMAGE_CONFIG_MAX) {
        return err_say(e, -E2BIG, "the image's config has more than %d bytes", IMAGE_CONFIG_MAX);
    }
    int r = json_parse(text.p, text.n, &config_json_limits, &doc, e);
    if (r == 0) {
        r = take_config(json_root(doc), &c, e);
        json_free(doc);
    }
    if (r < 0) {
        image_config_release(&c);
        err_prefix(e, "image config");
        return r;
    }
    *ret = c;
    return 0;
}

void image_config_release(struct image_config *c)
{
    image_strv_release(&c->entrypoint);
    image_strv_release(&c->cmd);
    image_strv_release(&c->env);
    mem_free(c->user);
    mem_free(c->workdir);
    mem_free(c->stop_signal);
    mem_free(c->diff_ids);
    memset(c, 0, sizeof(*c));
}

int image_config_check(const struct image_config *c, const struct image_platform *host,
                       struct err *e)
{
    const struct image_platform *p = &c->platform;
    if (strcmp(p->os, host->os) == 0 && strcmp(p->architecture, host->architecture) == 0) {
        return 0;
    }
    return err_say(
        e, -ENOTSUP, "the image is for %s/%s, this node is %s/%s", p->os[0] != '\0' ? p->os : "?",
        p->architecture[0] != '\0' ? p->architecture : "?", host->os, host->architecture);
}

/* ---- what to execute
 * ------------------------------------------------------------------------------ */

static int strv_add_all(struct image_strv *to, const struct image_strv *from)
{
    for (size_t i = 0; i < from->n; i++) {
        int r = strv_add(to, from->v[i], strlen(from->v[i]));
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

int image_argv(const struct image_config *c, const struct image_strv *user_entrypoint,
               const struct image_strv *user_cmd, struct image_strv *ret, struct err *e)
{
    static const struct image_strv none = { NULL, 0 };
    const struct image_strv *entrypoint =
        user_entrypoint != NULL ? user_entrypoint : &c->entrypoint;
    const struct image_strv *cmd = user_cmd != NULL          ? user_cmd
                                   : user_entrypoint != NULL ? &none
                                                             : &c->cmd;
    struct image_strv argv;
    if (entrypoint->n + cmd->n == 0) {
        return err_say(e, -EINVAL, "the image names no command, and none was given");
    }
    if (entrypoint->n + cmd->n > STRINGS_MAX) {
        return err_say(e, -E2BIG, "more than %d arguments", STRINGS_MAX);
    }
    int r = strv_init(&argv, entrypoint->n + cmd->n);
    if (r < 0) {
        return r;
    }
    r = strv_add_all(&argv, entrypoint);
    if (r == 0) {
        r = strv_add_all(&argv, cmd);
    }
    if (r == 0 && argv.v[0][0] == '\0') {
        r = err_say(e, -EINVAL, "the command is an empty string");
    }
    if (r < 0) {
        image_strv_release(&argv);
        return r;
    }
    *ret = argv;
    return 0;
}

/* Sets or replaces one "NAME=value"; a text without a name is passed over. */
static int env_set(struct image_strv *env, const char *text)
{
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text) {
        return 0;
    }
    size_t name = (size_t)(equals - text) + 1;
    for (size_t i = 0; i < env->n; i++) {
        if (strncmp(env->v[i], text, name) == 0) {
            char *copy = mem_strdup(text);
            if (copy == NULL) {
                return -ENOMEM;
            }
            mem_free(env->v[i]);
            env->v[i] = copy;
            return 0;
        }
    }
    return strv_add(env, text, strlen(text));
}

int image_env(const struct image_config *c, const struct image_strv *job, struct image_strv *ret,
              struct err *e)
{
    struct image_strv env;
    size_t job_n = job != NULL ? job->n : 0;
    if (c->env.n + job_n > STRINGS_MAX) {
        return err_say(e, -E2BIG, "more than %d environment variables", STRINGS_MAX);
    }
    int r = strv_init(&env, c->env.n + job_n);
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; r == 0 && i < c->env.n; i++) {
        r = env_set(&env, c->env.v[i]);
    }
    for (size_t i = 0; r == 0 && i < job_n; i++) {
        r = env_set(&env, job->v[i]);
    }
    if (r < 0) {
        image_strv_release(&env);
        return r;
    }
    *ret = env;
    return 0;
}

/* ---- signals
 * ----------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int number;
} signal_names[] = {
    { "ABRT", SIGABRT }, { "ALRM", SIGALRM }, { "BUS", SIGBUS },       { "CHLD", SIGCHLD },
    { "CLD", SIGCHLD },  { "CONT", SIGCONT }, { "FPE", SIGFPE },       { "HUP", SIGHUP },
    { "ILL", SIGILL },   { "INT", SIGINT },   { "IO", SIGIO },         { "IOT", SIGABRT },
    { "KILL", SIGKILL }, { "PIPE", SIGPIPE }, { "POLL", SIGIO },       { "PROF", SIGPROF },
    { "PWR", SIGPWR },   { "QUIT", SIGQUIT }, { "SEGV", SIGSEGV },     { "STKFLT", 16 },
    { "STOP", SIGSTOP }, { "SYS", SIGSYS },   { "TERM", SIGTERM },     { "TRAP", SIGTRAP },
    { "TSTP", SIGTSTP }, { "TTIN", SIGTTIN }, { "TTOU", SIGTTOU },     { "URG", SIGURG },
    { "USR1", SIGUSR1 }, { "USR2", SIGUSR2 }, { "VTALRM", SIGVTALRM }, { "WINCH", SIGWINCH },
    { "XCPU", SIGXCPU }, { "XFSZ", SIGXFSZ },
};

/* Docker counts real-time signals as the C library shows them: 34 to 64. */
enum { RT_MIN = 34, RT_MAX = 64 };

static int parse_realtime(struct str s, int *ret)
{
    uint64_t n = 0;
    if (str_eqs(s, "RTMIN")) {
        *ret = RT_MIN;
    } else if (str_eqs(s, "RTMAX")) {
        *ret = RT_MAX;
    } else if (str_starts(s, "RTMIN+") &&
               str_u64_in(str_slice(s, 6, s.n), 0, RT_MAX - RT_MIN, &n) == 0) {
        *ret = RT_MIN + (int)n;
    } else if (str_starts(s, "RTMAX-") &&
               str_u64_in(str_slice(s, 6, s.n), 0, RT_MAX - RT_MIN, &n) == 0) {
        *ret = RT_MAX - (int)n;
    } else {
        return -EINVAL;
    }
    return 0;
}

int image_signal_parse(struct str s, int *ret_signal)
{
    uint64_t n = 0;
    if (str_u64_in(s, 1, 64, &n) == 0) {
        *ret_signal = (int)n;
        return 0;
    }
    char upper[16];
    if (str_copy(upper, sizeof(upper), s) < 0) {
        return -EINVAL;
    }
    for (char *p = upper; *p != '\0'; p++) {
        *p = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
    }
    struct str name = str_of(upper);
    if (str_starts(name, "SIG")) {
        name = str_slice(name, 3, name.n);
    }
    for (size_t i = 0; i < ARRAY_LEN(signal_names); i++) {
        if (str_eqs(name, signal_names[i].name)) {
            *ret_signal = signal_names[i].number;
            return 0;
        }
    }
    return parse_realtime(name, ret_signal);
}
