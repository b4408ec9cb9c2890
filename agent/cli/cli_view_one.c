/* Views of one run, one job, one node: a name and a value per line. */
#include "agent/cli/cli_internal.h"
#include "common/ids.h"
#include "common/insist.h"

enum { NAME_WIDTH = 16, LIST_WIDTH = 92 };

static void row(struct cli_view *v, const char *name, struct str text)
{
    (void)buf_addf(v->out, "%s%-*s%s", cli_colour_on(CLI_DIM, v->colour), NAME_WIDTH, name,
                   cli_colour_off(v->colour));
    cli_text_safe(v->out, text);
    (void)buf_addc(v->out, '\n');
}

static void row_if(struct cli_view *v, const char *name, struct str text)
{
    if (text.n > 0) {
        row(v, name, text);
    }
}

/* Any JSON value on one line. */
static void row_json(struct cli_view *v, const char *name, const struct json *value)
{
    if (value == NULL || value->type == JSON_NULL) {
        return;
    }
    AUTO_BUF struct buf b = BUF_INIT(1024 * 1024);
    struct str s = { NULL, 0 };
    if (json_str(value, &s)) {
        (void)buf_addstr(&b, s);
    } else {
        struct json_w w;
        json_w_init(&w, &b, false);
        json_w_value(&w, value);
    }
    row(v, name, buf_str(&b));
}

/* "2026-11-23T08:36:23.1Z (4m ago)". */
static void row_time(struct cli_view *v, const char *name, const struct json *o, const char *key)
{
    int64_t us = cli_json_time(o, key);
    if (us == 0) {
        return;
    }
    AUTO_BUF struct buf b = BUF_INIT(256);
    (void)buf_addstr(&b, cli_json_str(o, key));
    (void)buf_adds(&b, "  (");
    cli_text_age(&b, v->now_us, us);
    (void)buf_adds(&b, " ago)");
    row(v, name, buf_str(&b));
}

/* The words of an array, a comma between them, or the members of an object as key=value. */
static void words(struct buf *out, const struct json *list, const char *between)
{
    if (list == NULL || (list->type != JSON_ARRAY && list->type != JSON_OBJECT)) {
        return;
    }
    bool first = true;
    JSON_EACH (item, list) {
        struct str s = { NULL, 0 };
        double d = 0;
        (void)buf_adds(out, first ? "" : between);
        first = false;
        if (list->type == JSON_OBJECT) {
            (void)buf_addstr(out, item->key);
            (void)buf_addc(out, '=');
        }
        if (json_str(item, &s)) {
            (void)buf_addstr(out, s);
        } else if (json_real(item, &d)) {
            (void)buf_addf(out, "%g", d);
        }
    }
}

static void row_words(struct cli_view *v, const char *name, const struct json *list,
                      const char *between)
{
    AUTO_BUF struct buf b = BUF_INIT(1024 * 1024);
    words(&b, list, between);
    row_if(v, name, buf_str(&b));
}

static void add_times(const struct json *run, struct buf *b)
{
    (void)buf_adds(b, "queued ");
    cli_text_seconds(b, cli_json_num(run, "queue_seconds"));
    (void)buf_adds(b, ", set up ");
    cli_text_seconds(b, cli_json_num(run, "start_seconds"));
    struct str kind = cli_json_str(run, "start_kind");
    if (kind.n > 0) {
        (void)buf_adds(b, " (");
        cli_text_safe(b, kind);
        (void)buf_addc(b, ')');
    }
    (void)buf_adds(b, ", ran ");
    cli_text_seconds(b, cli_json_num(run, "run_seconds"));
}

static void run_data(struct cli_view *v, const struct json *run)
{
    AUTO_BUF struct buf b = BUF_INIT(1024);
    (void)buf_adds(&b, "payload ");
    cli_text_bytes(&b, cli_json_num(run, "payload_bytes"));
    (void)buf_adds(&b, ", output ");
    cli_text_bytes(&b, cli_json_num(run, "output_bytes"));
    bool cut = false;
    if (json_bool(json_get(run, "output_truncated"), &cut) && cut) {
        (void)buf_adds(&b, " (truncated)");
    }
    (void)buf_adds(&b, ", log ");
    cli_text_bytes(&b, cli_json_num(run, "log_bytes"));
    row(v, "data", buf_str(&b));
}

static void run_limits(struct cli_view *v, const struct json *limits)
{
    if (limits == NULL || limits->type != JSON_OBJECT) {
        return;
    }
    AUTO_BUF struct buf b = BUF_INIT(1024);
    (void)buf_adds(&b, "memory ");
    cli_text_bytes(&b, cli_json_num(limits, "memory_bytes"));
    double cpus = cli_json_num(limits, "cpus");
    if (cpus > 0) {
        (void)buf_addf(&b, ", %g CPUs", cpus);
    } else {
        (void)buf_adds(&b, ", all CPUs");
    }
    (void)buf_addf(&b, ", %.0f processes, disk ", cli_json_num(limits, "pids"));
    cli_text_bytes(&b, cli_json_num(limits, "disk_bytes"));
    (void)buf_adds(&b, ", time ");
    cli_text_seconds(&b, cli_json_num(limits, "timeout_seconds"));
    (void)buf_adds(&b, ", network ");
    (void)buf_addstr(&b, cli_json_str(limits, "network"));
    row(v, "limits", buf_str(&b));
}

static void run_network(struct cli_view *v, const struct json *r)
{
    AUTO_BUF struct buf b = BUF_INIT(1024);
    if (cli_json_num(r, "network_rx_packets") <= 0 && cli_json_num(r, "network_tx_packets") <= 0) {
        return;
    }
    (void)buf_adds(&b, "received ");
    cli_text_bytes(&b, cli_json_num(r, "network_rx_bytes"));
    (void)buf_addf(&b, " in %.0f packets, sent ", cli_json_num(r, "network_rx_packets"));
    cli_text_bytes(&b, cli_json_num(r, "network_tx_bytes"));
    (void)buf_addf(&b, " in %.0f", cli_json_num(r, "network_tx_packets"));
    row(v, "network", buf_str(&b));
}

/* What the processor told of the cache, and the class of service. */
static void run_cache(struct cli_view *v, const struct json *r)
{
    AUTO_BUF struct buf b = BUF_INIT(1024);
    struct str class = cli_json_str(r, "cache_class");
    if (class.n == 0) {
        return;
    }
    if (!cli_json_null(r, "cache_max_bytes")) {
        (void)buf_adds(&b, "mean ");
        cli_text_bytes(&b, cli_json_num(r, "cache_mean_bytes"));
        (void)buf_adds(&b, ", most ");
        cli_text_bytes(&b, cli_json_num(r, "cache_max_bytes"));
        (void)buf_adds(&b, ", ");
    }
    if (!cli_json_null(r, "memory_bandwidth_bytes")) {
        (void)buf_adds(&b, "to and from memory ");
        cli_text_bytes(&b, cli_json_num(r, "memory_bandwidth_bytes"));
        (void)buf_adds(&b, ", ");
    }
    (void)buf_adds(&b, "class ");
    cli_text_safe(&b, class);
    row(v, "cache", buf_str(&b));
}

static void run_resources(struct cli_view *v, const struct json *r)
{
    if (r == NULL || r->type != JSON_OBJECT) {
        return;
    }
    AUTO_BUF struct buf b = BUF_INIT(1024);
    cli_text_seconds(&b, cli_json_num(r, "cpu_seconds"));
    (void)buf_adds(&b, " (user ");
    cli_text_seconds(&b, cli_json_num(r, "cpu_user_seconds"));
    (void)buf_adds(&b, ", system ");
    cli_text_seconds(&b, cli_json_num(r, "cpu_system_seconds"));
    (void)buf_adds(&b, ")");
    if (cli_json_num(r, "cpu_throttled_seconds") > 0) {
        (void)buf_adds(&b, ", throttled ");
        cli_text_seconds(&b, cli_json_num(r, "cpu_throttled_seconds"));
    }
    row(v, "cpu", buf_str(&b));

    buf_reset(&b);
    (void)buf_adds(&b, "peak ");
    cli_text_bytes(
        &b, cli_json_null(r, "memory_peak_bytes") ? -1 : cli_json_num(r, "memory_peak_bytes"));
    struct str source = cli_json_str(r, "memory_peak_source");
    if (source.n > 0) {
        (void)buf_adds(&b, " (");
        (void)buf_addstr(&b, source);
        (void)buf_addc(&b, ')');
    }
    if (!cli_json_null(r, "memory_mean_bytes")) {
        (void)buf_adds(&b, ", mean ");
        cli_text_bytes(&b, cli_json_num(r, "memory_mean_bytes"));
    }
    if (cli_json_num(r, "oom_kills") > 0) {
        (void)buf_addf(&b, ", %.0f out-of-memory kills", cli_json_num(r, "oom_kills"));
    }
    row(v, "memory", buf_str(&b));

    buf_reset(&b);
    (void)buf_adds(&b, "read ");
    cli_text_bytes(&b, cli_json_num(r, "io_read_bytes"));
    (void)buf_addf(&b, " in %.0f, written ", cli_json_num(r, "io_read_ops"));
    cli_text_bytes(&b, cli_json_num(r, "io_write_bytes"));
    (void)buf_addf(&b, " in %.0f, from %.0f samples", cli_json_num(r, "io_write_ops"),
                   cli_json_num(r, "samples"));
    row(v, "block I/O", buf_str(&b));
    run_network(v, r);
    run_cache(v, r);
}

static void run_state(struct cli_view *v, const struct json *run)
{
    AUTO_BUF struct buf b = BUF_INIT(4096);
    struct str state = cli_json_str(run, "state");
    struct str reason = cli_json_str(run, "reason");
    cli_text_safe(&b, state);
    if (reason.n > 0) {
        (void)buf_adds(&b, " (");
        cli_text_safe(&b, reason);
        if (!cli_json_null(run, "exit_code")) {
            (void)buf_addf(&b, ", exit code %.0f", cli_json_num(run, "exit_code"));
        }
        if (!cli_json_null(run, "signal")) {
            (void)buf_addf(&b, ", signal %.0f", cli_json_num(run, "signal"));
        }
        (void)buf_addc(&b, ')');
    }
    (void)buf_addf(v->out, "%s%-*s%s%s%s%s\n", cli_colour_on(CLI_DIM, v->colour), NAME_WIDTH,
                   "state", cli_colour_off(v->colour),
                   cli_colour_on(cli_state_colour(state), v->colour), buf_cstr(&b),
                   cli_colour_off(v->colour));
}

void cli_view_run(struct cli_view *v, const struct json *run)
{
    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, run);
        return;
    }
    struct str id = cli_json_str(run, "id");
    if (v->format != CLI_FORMAT_TABLE) {
        (void)buf_adds(v->out, v->format == CLI_FORMAT_NAME ? "run/" : "");
        cli_text_safe(v->out, id);
        (void)buf_addc(v->out, '\n');
        return;
    }
    AUTO_BUF struct buf b = BUF_INIT(4096);
    row(v, "run", id);
    if (!cli_json_null(run, "job")) {
        (void)buf_addstr(&b, cli_json_str(run, "job"));
        (void)buf_addf(&b, " (revision %.0f)", cli_json_num(run, "revision"));
        row(v, "job", buf_str(&b));
    }
    run_state(v, run);
    row_if(v, "detail", cli_json_str(run, "detail"));
    row_if(v, "image", cli_json_str(run, "image"));
    row_if(v, "digest", cli_json_str(run, "image_digest"));
    row_words(v, "command", json_get(run, "command"), " ");
    buf_reset(&b);
    (void)buf_addstr(&b, cli_json_str(run, "node"));
    (void)buf_addf(&b, "%sattempt %.0f, trigger ", b.len > 0 ? ", " : "",
                   cli_json_num(run, "attempt"));
    (void)buf_addstr(&b, cli_json_str(run, "trigger"));
    row(v, "node", buf_str(&b));
    row_time(v, "created", run, "created_at");
    row_time(v, "started", run, "started_at");
    row_time(v, "ended", run, "ended_at");
    buf_reset(&b);
    add_times(run, &b);
    row(v, "times", buf_str(&b));
    run_data(v, run);
    run_limits(v, json_get(run, "limits"));
    run_resources(v, json_get(run, "resources"));
    row_words(v, "labels", json_get(run, "labels"), ", ");
}

void cli_view_job(struct cli_view *v, const struct json *job)
{
    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, job);
        return;
    }
    if (v->format != CLI_FORMAT_TABLE) {
        (void)buf_adds(v->out, v->format == CLI_FORMAT_NAME ? "job/" : "");
        cli_text_safe(v->out, cli_json_str(job, "name"));
        (void)buf_addc(v->out, '\n');
        return;
    }
    row(v, "job", cli_json_str(job, "name"));
    JSON_EACH (item, job) {
        AUTO_BUF struct buf name = BUF_INIT(256);
        cli_text_safe(&name, item->key);
        if (str_eqs(item->key, "name")) {
            continue;
        }
        if (str_ends(item->key, "_at")) {
            row_time(v, buf_cstr(&name), job, buf_cstr(&name));
        } else if (item->type == JSON_OBJECT && !str_eqs(item->key, "retries")) {
            row_words(v, buf_cstr(&name), item, ", ");
        } else if (item->count > 0 || item->type != JSON_ARRAY) {
            row_json(v, buf_cstr(&name), item);
        }
    }
}

/* Capabilities: many words, wrapped. */
static void node_capabilities(struct cli_view *v, const struct json *node)
{
    AUTO_BUF struct buf list = BUF_INIT(256 * 1024);
    AUTO_BUF struct buf safe = BUF_INIT(512 * 1024);
    AUTO_BUF struct buf wrapped = BUF_INIT(1024 * 1024);
    words(&list, json_get(node, "capabilities"), " ");
    if (list.len == 0) {
        return;
    }
    cli_text_safe(&safe, buf_str(&list));
    cli_text_wrap(&wrapped, buf_cstr(&safe), NAME_WIDTH, LIST_WIDTH);
    struct str text = buf_str(&wrapped);
    (void)buf_addf(v->out, "%s%-*s%s", cli_colour_on(CLI_DIM, v->colour), NAME_WIDTH,
                   "capabilities", cli_colour_off(v->colour));
    (void)buf_addstr(v->out, str_slice(text, NAME_WIDTH, text.n));
}

static void node_load(struct cli_view *v, const struct json *node)
{
    AUTO_BUF struct buf b = BUF_INIT(1024);
    (void)buf_addf(&b, "%.0f running, %.0f queued, %.0f slots; load ",
                   cli_json_num(node, "running"), cli_json_num(node, "queued"),
                   cli_json_num(node, "slots"));
    words(&b, json_get(node, "load"), " ");
    row(v, "runs", buf_str(&b));
}

void cli_view_node(struct cli_view *v, const struct json *node)
{
    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, node);
        return;
    }
    if (v->format != CLI_FORMAT_TABLE) {
        (void)buf_adds(v->out, v->format == CLI_FORMAT_NAME ? "node/" : "");
        cli_text_safe(v->out, cli_json_str(node, "name"));
        (void)buf_addc(v->out, '\n');
        return;
    }
    static const struct {
        const char *name, *key;
    } texts[] = {
        { "node", "name" },     { "id", "id" },           { "address", "address" },
        { "state", "state" },   { "version", "version" }, { "class", "class" },
        { "kernel", "kernel" },
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        row_json(v, texts[i].name, json_get(node, texts[i].key));
    }
    row_json(v, "cgroup", json_get(node, "cgroup"));
    AUTO_BUF struct buf b = BUF_INIT(4096);
    (void)buf_addf(&b, "%.0f CPUs, ", cli_json_num(node, "cpus"));
    cli_text_bytes(&b, cli_json_num(node, "memory_bytes"));
    row(v, "size", buf_str(&b));
    node_load(v, node);
    row_words(v, "cpu", json_get(node, "cpu"), ", ");
    const struct json *caches = json_get(node, "caches");
    if (caches != NULL && caches->type == JSON_ARRAY) {
        JSON_EACH (cache, caches) {
            row_words(v, "cache", cache, ", ");
        }
    }
    row_words(v, "rdt", json_get(node, "rdt"), ", ");
    node_capabilities(v, node);
    row_words(v, "labels", json_get(node, "labels"), ", ");
}
