/* Views of the server's JSON: lists and the status page. */
#include <errno.h>
#include <string.h>

#include "agent/cli/cli_internal.h"
#include "common/ids.h"
#include "common/insist.h"

int cli_format_parse(const char *text, enum cli_format *ret, struct err *e)
{
    if (text == NULL || strcmp(text, "table") == 0) {
        *ret = CLI_FORMAT_TABLE;
    } else if (strcmp(text, "json") == 0) {
        *ret = CLI_FORMAT_JSON;
    } else if (strcmp(text, "name") == 0) {
        *ret = CLI_FORMAT_NAME;
    } else {
        return err_say(e, -EINVAL, "'-o %s': table, json or name is wanted", text);
    }
    return 0;
}

struct str cli_json_str(const struct json *o, const char *key)
{
    struct str s = { NULL, 0 };
    (void)json_str(json_get(o, key), &s);
    return s;
}

double cli_json_num(const struct json *o, const char *key)
{
    double d = 0;
    (void)json_real(json_get(o, key), &d);
    return d;
}

int64_t cli_json_time(const struct json *o, const char *key)
{
    int64_t us = 0;
    struct str s = cli_json_str(o, key);
    return s.n > 0 && time_parse(s, &us) == 0 ? us : 0;
}

bool cli_json_null(const struct json *o, const char *key)
{
    const struct json *v = json_get(o, key);
    return v == NULL || v->type == JSON_NULL;
}

void cli_view_json(struct cli_view *v, const struct json *root)
{
    struct json_w w;
    json_w_init(&w, v->out, true);
    json_w_value(&w, root);
    (void)buf_addc(v->out, '\n');
}

enum cli_colour cli_state_colour(struct str state)
{
    if (str_eqs(state, "succeeded") || str_eqs(state, "alive")) {
        return CLI_GREEN;
    }
    if (str_eqs(state, "failed") || str_eqs(state, "timed_out") || str_eqs(state, "lost") ||
        str_eqs(state, "dead")) {
        return CLI_RED;
    }
    if (str_eqs(state, "running") || str_eqs(state, "preparing")) {
        return CLI_BLUE;
    }
    return str_eqs(state, "cancelled") ? CLI_DIM : CLI_YELLOW;
}

/* The array of a list answer, or of the answer itself. Never NULL: an empty one. */
static const struct json *members_of(const struct json *list, const char *key)
{
    static const struct json none = { .type = JSON_ARRAY };
    const struct json *a = json_get(list, key);
    return a != NULL && a->type == JSON_ARRAY ? a : &none;
}

/* "kind/name" or "name" per line. True when that was asked for. */
static bool names_only(struct cli_view *v, const struct json *array, const char *kind,
                       const char *key)
{
    if (v->format != CLI_FORMAT_NAME && v->format != CLI_FORMAT_QUIET) {
        return false;
    }
    JSON_EACH (item, array) {
        if (v->format == CLI_FORMAT_NAME) {
            (void)buf_addf(v->out, "%s/", kind);
        }
        cli_text_safe(v->out, cli_json_str(item, key));
        (void)buf_addc(v->out, '\n');
    }
    return true;
}

static void age_cell(struct cli_view *v, struct cli_table *t, int64_t then_us)
{
    AUTO_BUF struct buf b = BUF_INIT(64);
    cli_text_age(&b, v->now_us, then_us);
    cli_table_cell(t, CLI_PLAIN, buf_str(&b));
}

static void bytes_cell(struct cli_table *t, double bytes)
{
    AUTO_BUF struct buf b = BUF_INIT(64);
    cli_text_bytes(&b, bytes);
    cli_table_cell(t, CLI_PLAIN, buf_str(&b));
}

static void text_cell(struct cli_table *t, struct str s)
{
    cli_table_cell(t, CLI_PLAIN, s.n > 0 ? s : STR("-"));
}

static void number_cell(struct cli_table *t, const struct json *o, const char *key)
{
    if (cli_json_null(o, key)) {
        cli_table_cell(t, CLI_PLAIN, STR("-"));
        return;
    }
    cli_table_cellf(t, CLI_PLAIN, "%.0f", cli_json_num(o, key));
}

static void finish(struct cli_view *v, struct cli_table *t)
{
    (void)cli_table_render(t, v->heads, v->colour, v->out);
    cli_table_release(t);
}

/* How long the run took, or has been running. */
static void time_cell(struct cli_view *v, struct cli_table *t, const struct json *run)
{
    AUTO_BUF struct buf b = BUF_INIT(64);
    int64_t started = cli_json_time(run, "started_at");
    if (started == 0) {
        (void)buf_addc(&b, '-');
    } else if (cli_run_ended(run)) {
        cli_text_seconds(&b, cli_json_num(run, "run_seconds"));
    } else {
        cli_text_seconds(&b, v->now_us > started ? (double)(v->now_us - started) / 1e6 : 0);
    }
    cli_table_cell(t, CLI_PLAIN, buf_str(&b));
}

/* "exit 3", "signal 9", or the reason. */
static void result_cell(struct cli_table *t, const struct json *run)
{
    struct str reason = cli_json_str(run, "reason");
    if (str_eqs(reason, "exit") && !cli_json_null(run, "exit_code")) {
        cli_table_cellf(t, CLI_PLAIN, "exit %.0f", cli_json_num(run, "exit_code"));
    } else if (str_eqs(reason, "signal") && !cli_json_null(run, "signal")) {
        cli_table_cellf(t, CLI_PLAIN, "signal %.0f", cli_json_num(run, "signal"));
    } else {
        text_cell(t, reason);
    }
}

static struct str job_or_image(const struct json *run)
{
    struct str job = cli_json_str(run, "job");
    return job.n > 0 ? job : cli_json_str(run, "image");
}

static void runs_table(struct cli_view *v, const struct json *runs)
{
    static const char *const heads[] = { "RUN",   "JOB",   "STATE",   "RESULT", "NODE",
                                         ">TIME", ">PEAK", ">OUTPUT", ">AGE",   NULL };
    struct cli_table t;
    cli_table_init(&t, heads);
    JSON_EACH (run, runs) {
        struct str state = cli_json_str(run, "state");
        const struct json *used = json_get(run, "resources");
        text_cell(&t, cli_json_str(run, "id"));
        text_cell(&t, job_or_image(run));
        cli_table_cell(&t, cli_state_colour(state), state);
        result_cell(&t, run);
        text_cell(&t, cli_json_str(run, "node"));
        time_cell(v, &t, run);
        bytes_cell(&t, cli_json_null(used, "memory_peak_bytes")
                           ? -1
                           : cli_json_num(used, "memory_peak_bytes"));
        bytes_cell(&t, cli_json_num(run, "output_bytes"));
        age_cell(v, &t, cli_json_time(run, "created_at"));
    }
    finish(v, &t);
}

void cli_view_runs(struct cli_view *v, const struct json *list)
{
    const struct json *runs = members_of(list, "runs");
    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, list);
    } else if (!names_only(v, runs, "run", "id")) {
        runs_table(v, runs);
    }
}

void cli_view_jobs(struct cli_view *v, const struct json *list)
{
    static const char *const heads[] = { "JOB",  ">REV",    "IMAGE",    "MEMORY",
                                         "CPUS", "TIMEOUT", ">CHANGED", NULL };
    const struct json *jobs = members_of(list, "jobs");
    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, list);
        return;
    }
    if (names_only(v, jobs, "job", "name")) {
        return;
    }
    struct cli_table t;
    cli_table_init(&t, heads);
    JSON_EACH (job, jobs) {
        text_cell(&t, cli_json_str(job, "name"));
        number_cell(&t, job, "revision");
        text_cell(&t, cli_json_str(job, "image"));
        for (size_t i = 0; i < 3; i++) {
            /* Sizes and times are text or numbers. */
            static const char *const keys[] = { "memory", "cpus", "timeout" };
            const struct json *value = json_get(job, keys[i]);
            struct str s = { NULL, 0 };
            double d = 0;
            AUTO_BUF struct buf b = BUF_INIT(64);
            if (json_str(value, &s)) {
                text_cell(&t, s);
                continue;
            }
            if (!json_real(value, &d)) {
                (void)buf_addc(&b, '-');
            } else if (i == 0) {
                cli_text_bytes(&b, d);
            } else if (i == 1) {
                (void)buf_addf(&b, "%g", d);
            } else {
                cli_text_seconds(&b, d);
            }
            cli_table_cell(&t, CLI_PLAIN, buf_str(&b));
        }
        age_cell(v, &t, cli_json_time(job, "updated_at"));
    }
    finish(v, &t);
}

/* What tells processors apart when jobs are placed: the first name that the node has of each. */
static void caps_cell(struct cli_table *t, const struct json *node)
{
    static const struct {
        const char *nfd, *word;
    } wanted[] = {
        { "cpu-cpuid.AESNI", "aes" }, { "cpu-cpuid.AES", "aes" },        { "cpu-cpuid.SHA", "sha" },
        { "cpu-cpuid.AVX2", "avx2" }, { "cpu-cpuid.AVX512F", "avx512" }, { "cpu-rdt.", "rdt" },
    };
    AUTO_BUF struct buf b = BUF_INIT(256);
    const char *last = "";
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        size_t n = strlen(wanted[i].nfd);
        bool family = wanted[i].nfd[n - 1] == '.';
        JSON_EACH (cap, members_of(node, "capabilities")) {
            struct str name = { NULL, 0 };
            if (json_str(cap, &name) && strcmp(last, wanted[i].word) != 0 &&
                (family ? str_starts(name, wanted[i].nfd) : str_eqs(name, wanted[i].nfd))) {
                last = wanted[i].word;
                (void)buf_addf(&b, "%s%s", b.len > 0 ? "," : "", last);
            }
        }
    }
    text_cell(t, buf_str(&b));
}

static void nodes_table(struct cli_view *v, const struct json *nodes)
{
    static const char *const heads[] = { "NODE",  "ADDRESS", "STATE", "CLASS",  "CAN",
                                         ">CPUS", ">MEMORY", ">RUN",  ">QUEUE", ">SLOTS",
                                         ">LOAD", "VERSION", ">UP",   NULL };
    struct cli_table t;
    cli_table_init(&t, heads);
    JSON_EACH (node, nodes) {
        struct str state = cli_json_str(node, "state");
        double load = 0;
        const struct json *loads = json_get(node, "load");
        bool has_load =
            loads != NULL && loads->type == JSON_ARRAY && json_real(loads->child, &load);
        text_cell(&t, cli_json_str(node, "name"));
        text_cell(&t, cli_json_str(node, "address"));
        cli_table_cell(&t, cli_state_colour(state), state);
        text_cell(&t, cli_json_str(node, "class"));
        caps_cell(&t, node);
        number_cell(&t, node, "cpus");
        bytes_cell(&t, cli_json_num(node, "memory_bytes"));
        number_cell(&t, node, "running");
        number_cell(&t, node, "queued");
        number_cell(&t, node, "slots");
        cli_table_cellf(&t, CLI_PLAIN, has_load ? "%.2f" : "-", load);
        text_cell(&t, cli_json_str(node, "version"));
        double up = cli_json_num(node, "uptime_seconds");
        age_cell(v, &t, up > 0 && up < 1e12 ? v->now_us - (int64_t)(up * 1e6) : 0);
    }
    finish(v, &t);
}

void cli_view_nodes(struct cli_view *v, const struct json *list)
{
    const struct json *nodes = members_of(list, "nodes");
    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, list);
    } else if (!names_only(v, nodes, "node", "name")) {
        nodes_table(v, nodes);
    }
}

void cli_view_members(struct cli_view *v, const struct json *list)
{
    static const char *const heads[] = { "MEMBER",       "ADDRESS", "STATE",
                                         ">INCARNATION", ">RTT",    "KIND",
                                         ">HTTP",        ">SINCE",  NULL };
    const struct json *members = members_of(list, "members");
    struct cli_table t;
    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, list);
        return;
    }
    if (names_only(v, members, "member", "name")) {
        return;
    }
    cli_table_init(&t, heads);
    JSON_EACH (m, members) {
        struct str state = cli_json_str(m, "state");
        const struct json *self = json_get(m, "self");
        const struct json *ours = json_get(m, "agent");
        bool is_self = false;
        bool is_ours = false;
        double rtt = cli_json_num(m, "rtt_us");
        (void)(self != NULL && json_bool(self, &is_self));
        (void)(ours != NULL && json_bool(ours, &is_ours));
        text_cell(&t, cli_json_str(m, "name"));
        text_cell(&t, cli_json_str(m, "address"));
        cli_table_cell(&t, cli_state_colour(state), state);
        number_cell(&t, m, "incarnation");
        cli_table_cellf(&t, CLI_PLAIN, rtt > 0 ? "%.1f ms" : "-", rtt / 1000);
        cli_table_cell(&t, CLI_PLAIN,
                       is_self   ? STR("self")
                       : is_ours ? STR("agent")
                                 : STR("other"));
        const struct json *meta = json_get(m, "meta");
        double port = meta != NULL ? cli_json_num(meta, "http_port") : 0;
        cli_table_cellf(&t, CLI_PLAIN, port > 0 ? "%.0f" : "-", port);
        age_cell(v, &t, v->now_us - (int64_t)(cli_json_num(m, "state_ms") * 1000));
    }
    finish(v, &t);
}

void cli_view_table(struct cli_view *v, const struct json *list)
{
    static const char *const heads[] = { "TYPE",     "OWNER",  "KEY",  "WRITER",
                                         ">VERSION", ">BYTES", ">AGE", NULL };
    const struct json *rows = members_of(list, "rows");
    struct cli_table t;
    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, list);
        return;
    }
    if (names_only(v, rows, "row", "key")) {
        return;
    }
    cli_table_init(&t, heads);
    JSON_EACH (row, rows) {
        struct str owner = cli_json_str(row, "owner");
        struct str key = cli_json_str(row, "key");
        text_cell(&t, cli_json_str(row, "type"));
        text_cell(&t, owner.n != 0 ? owner : STR("cluster"));
        text_cell(&t, key.n != 0 ? key : STR("-"));
        text_cell(&t, cli_json_str(row, "writer"));
        number_cell(&t, row, "version");
        number_cell(&t, row, "bytes");
        age_cell(v, &t, cli_json_time(row, "written_at"));
    }
    finish(v, &t);
}

/* What a trigger waits for, in one cell. */
static struct str trigger_when(const struct json *t)
{
    static const char *const members[] = { "cron", "verify", "mqtt", "node", "type", "on" };

    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        struct str s = cli_json_str(t, members[i]);
        if (s.n != 0) {
            return s;
        }
    }
    return STR("-");
}

void cli_view_triggers(struct cli_view *v, const struct json *list)
{
    static const char *const heads[] = { "JOB", "KIND", "NAME", "WHEN", "ZONE", "NEXT", NULL };
    const struct json *triggers = members_of(list, "triggers");
    struct cli_table t;

    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, list);
        return;
    }
    if (names_only(v, triggers, "trigger", "name")) {
        return;
    }
    cli_table_init(&t, heads);
    JSON_EACH (m, triggers) {
        struct str zone = cli_json_str(m, "time_zone");
        struct str next = cli_json_str(
            json_get(m, "next") != NULL ? json_at(json_get(m, "next"), 0) : NULL, "at");
        bool paused = false;
        text_cell(&t, cli_json_str(m, "job"));
        text_cell(&t, cli_json_str(m, "kind"));
        text_cell(&t, cli_json_str(m, "name"));
        text_cell(&t, trigger_when(m));
        text_cell(&t, zone.n != 0 ? zone : STR("-"));
        (void)(json_get(m, "paused") != NULL && json_bool(json_get(m, "paused"), &paused));
        text_cell(&t, paused ? STR("paused") : next.n != 0 ? next : STR("-"));
    }
    finish(v, &t);
}

/* The next firings of schedules, in UTC and in their zones. */
void cli_view_schedule(struct cli_view *v, const struct json *list)
{
    static const char *const heads[] = { "SCHEDULE", "CRON", "UTC", "LOCAL", "ZONE", NULL };
    const struct json *triggers = members_of(list, "triggers");
    struct cli_table t;

    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, list);
        return;
    }
    cli_table_init(&t, heads);
    JSON_EACH (m, triggers) {
        const struct json *next = members_of(m, "next");
        if (!str_eqs(cli_json_str(m, "kind"), "schedule")) {
            continue;
        }
        JSON_EACH (one, next) {
            text_cell(&t, cli_json_str(m, "name"));
            text_cell(&t, cli_json_str(m, "cron"));
            text_cell(&t, cli_json_str(one, "at"));
            text_cell(&t, cli_json_str(one, "local"));
            text_cell(&t, cli_json_str(m, "time_zone"));
        }
    }
    finish(v, &t);
}

void cli_view_callbacks(struct cli_view *v, const struct json *list)
{
    static const char *const heads[] = { "ID",   "JOB", "STATE", ">TRIES", ">STATUS",
                                         "NEXT", "URL", "WHY",   NULL };
    const struct json *callbacks = members_of(list, "callbacks");
    struct cli_table t;

    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, list);
        return;
    }
    if (names_only(v, callbacks, "callback", "id")) {
        return;
    }
    cli_table_init(&t, heads);
    JSON_EACH (m, callbacks) {
        struct str job = cli_json_str(m, "job");
        struct str next = cli_json_str(m, "next_at");
        text_cell(&t, cli_json_str(m, "id"));
        text_cell(&t, job.n != 0 ? job : STR("-"));
        text_cell(&t, cli_json_str(m, "state"));
        number_cell(&t, m, "tries");
        number_cell(&t, m, "status");
        text_cell(&t, next.n != 0 ? next : STR("-"));
        text_cell(&t, cli_json_str(m, "url"));
        text_cell(&t, cli_json_str(m, "detail"));
    }
    finish(v, &t);
}

void cli_view_secrets(struct cli_view *v, const struct json *list)
{
    static const char *const heads[] = { "SECRET", "SET", "BY", NULL };
    const struct json *secrets = members_of(list, "secrets");
    struct cli_table t;

    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, list);
        return;
    }
    if (names_only(v, secrets, "secret", "name")) {
        return;
    }
    cli_table_init(&t, heads);
    JSON_EACH (m, secrets) {
        text_cell(&t, cli_json_str(m, "name"));
        text_cell(&t, cli_json_str(m, "updated_at"));
        text_cell(&t, cli_json_str(m, "by"));
    }
    finish(v, &t);
}

/* "repository:tag", or "repository@digest" where there is no tag. */
static void image_name(struct buf *out, const struct json *image)
{
    struct str tag = cli_json_str(image, "tag");
    cli_text_safe(out, cli_json_str(image, "repository"));
    (void)buf_addc(out, tag.n > 0 ? ':' : '@');
    cli_text_safe(out, tag.n > 0 ? tag : cli_json_str(image, "digest"));
}

/* What its program asks of a processor. */
static void needs_cell(struct cli_table *t, const struct json *programs)
{
    double level = cli_json_num(programs, "x86_64_level");
    struct str arch = cli_json_str(programs, "arch");

    if (level > 1) {
        cli_table_cellf(t, CLI_PLAIN, "x86-64-v%.0f", level);
    } else {
        text_cell(t, arch.n > 0 ? arch : STR("-"));
    }
}

void cli_view_images(struct cli_view *v, const struct json *list)
{
    static const char *const heads[] = { "REPOSITORY", "TAG",     "DIGEST",  ">LAYERS",
                                         ">SIZE",      ">SHARED", ">PUSHED", ">LAST USED",
                                         "KEPT",       "NEEDS",   NULL };
    const struct json *images = members_of(list, "images");
    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, list);
        return;
    }
    if (v->format != CLI_FORMAT_TABLE) {
        JSON_EACH (image, images) {
            (void)buf_adds(v->out, v->format == CLI_FORMAT_NAME ? "image/" : "");
            image_name(v->out, image);
            (void)buf_addc(v->out, '\n');
        }
        return;
    }
    struct cli_table t;
    cli_table_init(&t, heads);
    JSON_EACH (image, images) {
        text_cell(&t, cli_json_str(image, "repository"));
        text_cell(&t, cli_json_str(image, "tag"));
        text_cell(&t, str_slice(cli_json_str(image, "digest"), 0, 7 + 12));
        const struct json *layers = json_get(image, "layers");
        if (layers != NULL && layers->type == JSON_ARRAY) {
            cli_table_cellf(&t, CLI_PLAIN, "%zu", layers->count);
        } else {
            number_cell(&t, image, "layers");
        }
        bool kept = false;
        (void)json_bool(json_get(image, "kept"), &kept);
        bytes_cell(&t, cli_json_num(image, "size_bytes"));
        bytes_cell(&t, cli_json_num(image, "shared_bytes"));
        age_cell(v, &t, cli_json_time(image, "pushed_at"));
        age_cell(v, &t, cli_json_time(image, "last_used_at"));
        cli_table_cell(&t, CLI_PLAIN, kept ? STR("yes") : STR("-"));
        needs_cell(&t, json_get(image, "programs"));
    }
    finish(v, &t);
}

/* ---- the status page ---- */

static void headline(struct cli_view *v, const char *text)
{
    (void)buf_addf(v->out, "\n%s%s%s\n", cli_colour_on(CLI_BOLD, v->colour), text,
                   cli_colour_off(v->colour));
}

static void status_jobs(struct cli_view *v, const struct json *jobs)
{
    static const char *const heads[] = { "JOB",     ">REV",      "IMAGE",
                                         ">QUEUED", ">RUNNING",  ">SUCCEEDED",
                                         ">FAILED", ">LAST RUN", NULL };
    struct cli_table t;
    cli_table_init(&t, heads);
    JSON_EACH (job, jobs) {
        text_cell(&t, cli_json_str(job, "name"));
        number_cell(&t, job, "revision");
        text_cell(&t, cli_json_str(job, "image"));
        number_cell(&t, job, "queued");
        number_cell(&t, job, "running");
        number_cell(&t, job, "succeeded");
        cli_table_cellf(&t, cli_json_num(job, "failed") > 0 ? CLI_RED : CLI_PLAIN, "%.0f",
                        cli_json_num(job, "failed"));
        /* A time, or the run itself. */
        const struct json *last = json_get(job, "last_run");
        age_cell(v, &t,
                 last != NULL && last->type == JSON_OBJECT ? cli_json_time(last, "created_at")
                                                           : cli_json_time(job, "last_run"));
    }
    finish(v, &t);
}

static void status_line(struct cli_view *v, const struct json *status)
{
    const struct json *cluster = json_get(status, "cluster");
    const struct json *runs = json_get(status, "runs");
    const struct json *images = json_get(status, "images");
    double nodes = cli_json_num(cluster, "nodes");
    (void)buf_addf(v->out, "%scluster%s  %.0f node%s, version ", cli_colour_on(CLI_BOLD, v->colour),
                   cli_colour_off(v->colour), nodes, nodes == 1 ? "" : "s");
    cli_text_safe(v->out, cli_json_str(cluster, "version"));
    (void)buf_addf(v->out,
                   "; %.0f queued, %.0f running, %.0f succeeded, %.0f failed; %.0f image%s, ",
                   cli_json_num(runs, "queued"), cli_json_num(runs, "running"),
                   cli_json_num(runs, "succeeded"), cli_json_num(runs, "failed"),
                   cli_json_num(images, "count"), cli_json_num(images, "count") == 1 ? "" : "s");
    cli_text_bytes(v->out, cli_json_num(images, "bytes"));
    (void)buf_addc(v->out, '\n');
}

void cli_view_status(struct cli_view *v, const struct json *status)
{
    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, status);
        return;
    }
    status_line(v, status);
    JSON_EACH (warning, members_of(status, "warnings")) {
        struct str s = { NULL, 0 };
        (void)buf_addf(v->out, "%swarning%s  ", cli_colour_on(CLI_YELLOW, v->colour),
                       cli_colour_off(v->colour));
        cli_text_safe(v->out, json_str(warning, &s) ? s : cli_json_str(warning, "detail"));
        (void)buf_addc(v->out, '\n');
    }
    headline(v, "Nodes");
    nodes_table(v, members_of(status, "nodes"));
    const struct json *jobs = members_of(status, "jobs");
    if (jobs->count > 0) {
        headline(v, "Jobs");
        status_jobs(v, jobs);
    }
    const struct json *failures = members_of(status, "failures");
    if (failures->count > 0) {
        headline(v, "Last failures");
        runs_table(v, failures);
    }
}
