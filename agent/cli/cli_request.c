/* What is sent to the node and what its answers mean, apart from how they travel. */
#include <errno.h>
#include <signal.h>

#include "agent/cli/cli_internal.h"
#include "agent/image/image.h"
#include "common/http1.h"
#include "common/insist.h"

enum { DOCUMENT_DEPTH_MAX = 64 };

int cli_problem(int status, struct str body, char *code, struct err *e)
{
    if (code != NULL) {
        code[0] = '\0';
    }
    struct json_doc *doc = NULL;
    struct err bad;
    AUTO_BUF struct buf text = BUF_INIT(1024);
    if (json_parse(body.p, body.n, NULL, &doc, &bad) == 0) {
        const struct json *root = json_root(doc);
        struct str detail = cli_json_str(root, "detail");
        cli_text_safe(&text, detail.n > 0 ? detail : cli_json_str(root, "title"));
        const struct json *errors = json_get(root, "errors");
        if (errors != NULL && errors->type == JSON_ARRAY) {
            JSON_EACH (item, errors) {
                struct str field = cli_json_str(item, "field");
                struct str why = cli_json_str(item, "detail");
                (void)buf_adds(&text, text.len > 0 ? "; " : "");
                if (field.n > 0) {
                    cli_text_safe(&text, field);
                    (void)buf_adds(&text, ": ");
                } else if (why.n == 0) {
                    /* The registry's errors have code and message. */
                    why = cli_json_str(item, "message");
                }
                cli_text_safe(&text, why);
            }
        }
        if (code != NULL && str_copy(code, 64, cli_json_str(root, "code")) != 0) {
            code[0] = '\0';
        }
        doc = json_free(doc);
    }
    if (text.len == 0) {
        return err_say(e, -EREMOTEIO, "the node answered %d %s", status, http1_reason(status));
    }
    return err_say(e, -EREMOTEIO, "%s (%d)", buf_cstr(&text), status);
}

/* ---- one-off documents ---- */

static const struct {
    const char *option;
    const char *member;
    enum { AS_TEXT, AS_NUMBER } kind;
} members[] = {
    { "memory", "memory", AS_TEXT },   { "cpus", "cpus", AS_NUMBER },
    { "pids", "pids", AS_NUMBER },     { "disk", "disk", AS_TEXT },
    { "timeout", "timeout", AS_TEXT }, { "grace", "grace", AS_TEXT },
    { "network", "network", AS_TEXT }, { "priority", "priority", AS_NUMBER },
    { "workdir", "workdir", AS_TEXT }, { "user", "user", AS_TEXT },
};

static const char *const other_image_flags[] = { "env",         "label",      "require", "retries",
                                                 "retry-delay", "entrypoint", "egress" };

const char *cli_submit_image_flag(const struct cli_args *a)
{
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        if (cli_args_has(a, members[i].option)) {
            return members[i].option;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(other_image_flags); i++) {
        if (cli_args_has(a, other_image_flags[i])) {
            return other_image_flags[i];
        }
    }
    return NULL;
}

/* Digits and at most one point: a JSON number as it stands. */
static bool is_number(const char *s)
{
    bool digit = false;
    bool point = false;
    size_t i = 0;
    for (; s[i] != '\0'; i++) {
        if (s[i] == '.' && digit && !point) {
            point = true;
        } else if (s[i] >= '0' && s[i] <= '9') {
            digit = true;
        } else {
            return false;
        }
    }
    bool zero_first = i > 1 && s[0] == '0' && s[1] != '.';
    return digit && i <= 18 && s[i - 1] != '.' && !zero_first;
}

static int write_number(struct json_w *w, const char *option, const char *value, struct err *e)
{
    if (!is_number(value)) {
        return err_say(e, -EINVAL, "'--%s %s': a number is wanted", option, value);
    }
    json_w_raw(w, str_of(value));
    return 0;
}

/* {"K": "V", …} of the options "--name K=V"; later ones win, as JSON may not repeat a key. */
static int write_pairs(struct json_w *w, const struct cli_args *a, const char *option,
                       const char *member, struct err *e)
{
    if (!cli_args_has(a, option)) {
        return 0;
    }
    json_w_key(w, member);
    json_w_obj(w);
    size_t i = 0;
    const char *value;
    while ((value = cli_args_next(a, option, &i)) != NULL) {
        struct str pair = str_of(value);
        ptrdiff_t eq = str_find(pair, '=');
        if (eq <= 0) {
            return err_say(e, -EINVAL, "'--%s %s': KEY=VALUE is wanted", option, value);
        }
        bool later = false;
        size_t j = i;
        const char *other;
        while ((other = cli_args_next(a, option, &j)) != NULL) {
            later = later || strncmp(other, value, (size_t)eq + 1) == 0;
        }
        if (!later) {
            json_w_keystr(w, str_slice(pair, 0, (size_t)eq));
            json_w_str(w, str_slice(pair, (size_t)eq + 1, pair.n));
        }
    }
    json_w_end(w);
    return 0;
}

static int write_retries(struct json_w *w, const struct cli_args *a, struct err *e)
{
    const char *max = cli_args_value(a, "retries");
    const char *delay = cli_args_value(a, "retry-delay");
    if (max == NULL) {
        return delay == NULL ? 0
                             : err_say(e, -EINVAL, "'--retry-delay' needs '--retries' beside it");
    }
    json_w_key(w, "retries");
    json_w_obj(w);
    json_w_key(w, "max");
    int rc = write_number(w, "retries", max, e);
    if (rc != 0) {
        return rc;
    }
    if (delay != NULL) {
        json_kv_cstr(w, "delay", delay);
    }
    json_w_end(w);
    return 0;
}

static void write_lists(struct json_w *w, const struct cli_args *a)
{
    const char *entrypoint = cli_args_value(a, "entrypoint");
    if (entrypoint != NULL) {
        json_w_key(w, "entrypoint");
        json_w_arr(w);
        if (entrypoint[0] != '\0') {
            json_w_cstr(w, entrypoint);
        }
        json_w_end(w);
    }
    if (a->rest_len > 0) {
        json_w_key(w, "command");
        json_w_arr(w);
        for (size_t i = 0; i < a->rest_len; i++) {
            json_w_cstr(w, a->rest[i]);
        }
        json_w_end(w);
    }
    static const char *const repeated[] = { "require", "egress" };
    for (size_t k = 0; k < ARRAY_LEN(repeated); k++) {
        if (!cli_args_has(a, repeated[k])) {
            continue;
        }
        json_w_key(w, repeated[k]);
        json_w_arr(w);
        size_t i = 0;
        const char *value;
        while ((value = cli_args_next(a, repeated[k], &i)) != NULL) {
            if (value[0] != '\0') { /* --egress '': nothing at all */
                json_w_cstr(w, value);
            }
        }
        json_w_end(w);
    }
}

int cli_submit_document(const struct cli_args *a, struct buf *out, struct err *e)
{
    struct image_ref ref;
    char image[IMAGE_REF_CAP];
    int rc = image_ref_parse(str_of(a->pos[0]), &ref, e);
    if (rc != 0) {
        return -EINVAL;
    }
    struct json_w w;
    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_kv_cstr(&w, "image", image_ref_format(&ref, image));
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        const char *value = cli_args_value(a, members[i].option);
        if (value == NULL) {
            continue;
        }
        json_w_key(&w, members[i].member);
        if (members[i].kind == AS_TEXT) {
            json_w_cstr(&w, value);
        } else if ((rc = write_number(&w, members[i].option, value, e)) != 0) {
            return rc;
        }
    }
    write_lists(&w, a);
    if ((rc = write_pairs(&w, a, "env", "env", e)) != 0 ||
        (rc = write_pairs(&w, a, "label", "labels", e)) != 0 ||
        (rc = write_retries(&w, a, e)) != 0) {
        return rc;
    }
    json_w_end(&w);
    return buf_error(out) == 0 ? 0 : err_say(e, buf_error(out), "the command line is too long");
}

/* ---- runs ---- */

bool cli_run_ended(const struct json *run)
{
    static const char *const ends[] = { "succeeded", "failed", "timed_out", "cancelled", "lost" };
    struct str state = cli_json_str(run, "state");
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        if (str_eqs(state, ends[i])) {
            return true;
        }
    }
    return false;
}

/* "SIGKILL"; NULL for numbers without a name. */
static const char *signal_name(int64_t number)
{
    static const struct {
        int number;
        const char *name;
    } names[] = {
        { SIGHUP, "SIGHUP" },   { SIGINT, "SIGINT" },   { SIGQUIT, "SIGQUIT" },
        { SIGILL, "SIGILL" },   { SIGTRAP, "SIGTRAP" }, { SIGABRT, "SIGABRT" },
        { SIGBUS, "SIGBUS" },   { SIGFPE, "SIGFPE" },   { SIGKILL, "SIGKILL" },
        { SIGUSR1, "SIGUSR1" }, { SIGSEGV, "SIGSEGV" }, { SIGUSR2, "SIGUSR2" },
        { SIGPIPE, "SIGPIPE" }, { SIGALRM, "SIGALRM" }, { SIGTERM, "SIGTERM" },
        { SIGXCPU, "SIGXCPU" }, { SIGXFSZ, "SIGXFSZ" }, { SIGSYS, "SIGSYS" },
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (names[i].number == number) {
            return names[i].name;
        }
    }
    return NULL;
}

static void why_of(const struct json *run, const char *text, struct buf *why)
{
    (void)buf_adds(why, "run ");
    cli_text_safe(why, cli_json_str(run, "id"));
    (void)buf_addf(why, " %s", text);
    struct str detail = cli_json_str(run, "detail");
    if (detail.n > 0) {
        (void)buf_adds(why, ": ");
        cli_text_safe(why, detail);
    }
}

int cli_run_exit(const struct json *run, struct buf *why)
{
    struct str state = cli_json_str(run, "state");
    struct str reason = cli_json_str(run, "reason");
    int64_t code = -1;
    int64_t signal = 0;
    (void)json_int(json_get(run, "exit_code"), &code);
    (void)json_int(json_get(run, "signal"), &signal);
    bool has_code = code >= 0 && code <= 255;
    bool has_signal = signal > 0 && signal < 128;

    if (str_eqs(state, "succeeded")) {
        return has_code ? (int)code : CLI_EXIT_OK;
    }
    if (str_eqs(state, "timed_out")) {
        why_of(run, "timed out", why);
        return CLI_EXIT_TIMEOUT;
    }
    if (str_eqs(reason, "oom")) {
        why_of(run, "was ended for want of memory (SIGKILL)", why);
        return 128 + SIGKILL;
    }
    if (str_eqs(state, "cancelled")) {
        why_of(run, "was cancelled", why);
        return has_signal ? 128 + (int)signal : 128 + SIGINT;
    }
    if (has_signal && str_eqs(reason, "signal")) {
        AUTO_BUF struct buf text = BUF_INIT(128);
        const char *name = signal_name(signal);
        (void)buf_addf(&text, "was ended by signal %lld", (long long)signal);
        if (name != NULL) {
            (void)buf_addf(&text, " (%s)", name);
        }
        why_of(run, buf_cstr(&text), why);
        return 128 + (int)signal;
    }
    if (has_code && str_eqs(reason, "exit")) {
        if (code == 126 || code == 127) {
            why_of(run, code == 126 ? "could not be executed" : "was not found", why);
        }
        return (int)code;
    }
    AUTO_BUF struct buf text = BUF_INIT(256);
    cli_text_safe(&text, state);
    if (reason.n > 0) {
        (void)buf_adds(&text, " (");
        cli_text_safe(&text, reason);
        (void)buf_addc(&text, ')');
    }
    why_of(run, buf_cstr(&text), why);
    return CLI_EXIT_AGENT;
}

/* ---- several documents in one text ---- */

/* Index behind the value that begins at 0, or -EINVAL. Only the nesting is looked at; the parser
 * judges the rest. */
static ptrdiff_t value_end(struct str s)
{
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > DOCUMENT_DEPTH_MAX) {
                return -EINVAL;
            }
        } else if (c == '}' || c == ']') {
            if (depth == 0) {
                return -EINVAL;
            }
            if (--depth == 0) {
                return (ptrdiff_t)i + 1;
            }
        }
    }
    return -EINVAL;
}

int cli_documents_next(struct str *rest, struct str *ret_doc, struct err *e)
{
    struct str s = str_trim(*rest);
    /* Three dashes between documents, as people are used to. */
    while (str_starts(s, "---")) {
        s = str_trim(str_slice(s, 3, s.n));
    }
    if (s.n == 0) {
        *rest = s;
        return 0;
    }
    if (s.p[0] != '{' && s.p[0] != '[') {
        return err_say(e, -EINVAL, "a JSON object or an array of them is wanted, not '%c'",
                       s.p[0] >= 0x20 && s.p[0] < 0x7f ? s.p[0] : '?');
    }
    ptrdiff_t end = value_end(s);
    if (end < 0) {
        /* Let the parser say where it is broken. */
        *ret_doc = s;
        *rest = str_slice(s, s.n, 0);
        return 1;
    }
    *ret_doc = str_slice(s, 0, (size_t)end);
    *rest = str_slice(s, (size_t)end, s.n);
    return 1;
}
