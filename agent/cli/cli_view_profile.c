/* Views of what runs taught: profiles, and why a run went where it went. */
#include "agent/cli/cli_internal.h"

static void seconds_cell(struct cli_table *t, const struct json *o, const char *key)
{
    AUTO_BUF struct buf b = BUF_INIT(64);

    if (cli_json_null(o, key)) {
        (void)buf_addc(&b, '-');
    } else {
        cli_text_seconds(&b, cli_json_num(o, key));
    }
    cli_table_cell(t, CLI_PLAIN, buf_str(&b));
}

static void bytes_cell(struct cli_table *t, const struct json *o, const char *key)
{
    AUTO_BUF struct buf b = BUF_INIT(64);

    cli_text_bytes(&b, cli_json_num(o, key));
    cli_table_cell(t, CLI_PLAIN, buf_str(&b));
}

static const struct json *list_of(const struct json *root, const char *key)
{
    static const struct json none = { .type = JSON_ARRAY };
    const struct json *list = json_get(root, key);

    return list != NULL && list->type == JSON_ARRAY ? list : &none;
}

static void render(struct cli_view *v, struct cli_table *t)
{
    (void)cli_table_render(t, v->heads, v->colour, v->out);
    cli_table_release(t);
}

void cli_view_profiles(struct cli_view *v, const struct json *root)
{
    static const char *const heads[] = { "JOB",     ">REVISION", ">RUNS",      ">CPU",
                                         ">MEMORY", ">LIMIT",    ">OOM KILLS", NULL };
    struct cli_table t;

    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, root);
        return;
    }
    cli_table_init(&t, heads);
    JSON_EACH (p, list_of(root, "profiles")) {
        if (v->format != CLI_FORMAT_TABLE) {
            cli_text_safe(v->out, cli_json_str(p, "job"));
            (void)buf_addc(v->out, '\n');
            continue;
        }
        cli_table_cell(&t, CLI_BOLD, cli_json_str(p, "job"));
        cli_table_cellf(&t, CLI_PLAIN, "%.0f", cli_json_num(p, "revision"));
        cli_table_cellf(&t, CLI_PLAIN, "%.0f", cli_json_num(p, "runs"));
        seconds_cell(&t, p, "cpu_seconds");
        bytes_cell(&t, p, "memory_p99_bytes");
        bytes_cell(&t, p, "memory_limit_bytes");
        cli_table_cellf(&t, CLI_PLAIN, "%.0f", cli_json_num(p, "oom_kills"));
    }
    if (v->format == CLI_FORMAT_TABLE) {
        render(v, &t);
    } else {
        cli_table_release(&t);
    }
}

/* "aes sha avx2, 32 MiB cache, 2.4 GHz". */
static void features_cell(struct cli_table *t, const struct json *class_)
{
    AUTO_BUF struct buf b = BUF_INIT(256);
    const struct json *f = json_get(class_, "features");

    if (f != NULL && f->type == JSON_OBJECT) {
        JSON_EACH (item, f) {
            bool on = false;
            if (json_bool(item, &on) && on) {
                (void)buf_adds(&b, b.len > 0 ? " " : "");
                cli_text_safe(&b, item->key);
            }
        }
        if (cli_json_num(f, "llc_mib") > 0) {
            (void)buf_addf(&b, "%s%.0f MiB cache", b.len > 0 ? ", " : "",
                           cli_json_num(f, "llc_mib"));
        }
        if (cli_json_num(f, "ghz") > 0) {
            (void)buf_addf(&b, ", %.1f GHz", cli_json_num(f, "ghz"));
        }
    }
    cli_table_cell(t, CLI_PLAIN, b.len > 0 ? buf_str(&b) : STR("-"));
}

static void classes(struct cli_view *v, const struct json *root)
{
    static const char *const heads[] = { "NODE CLASS", ">RUNS",  ">EXPECTED", ">SPREAD",
                                         ">CPU",       ">NODES", "HAS",       NULL };
    struct cli_table t;

    cli_table_init(&t, heads);
    JSON_EACH (c, list_of(root, "classes")) {
        cli_table_cell(&t, CLI_PLAIN, cli_json_str(c, "class"));
        cli_table_cellf(&t, CLI_PLAIN, "%.0f", cli_json_num(c, "runs"));
        seconds_cell(&t, c, "seconds");
        cli_table_cellf(&t, CLI_PLAIN, "x %.2f", cli_json_num(c, "spread"));
        seconds_cell(&t, c, "cpu_seconds");
        cli_table_cellf(&t, CLI_PLAIN, "%zu", list_of(c, "nodes")->count);
        features_cell(&t, c);
    }
    render(v, &t);
}

static void add_bytes(struct buf *b, const char *name, const struct json *o, const char *key)
{
    (void)buf_adds(b, name);
    cli_text_bytes(b, cli_json_num(o, key));
}

/* "asked 512 MiB, uses p99 190 MiB": what a run gets, and why. */
static void limits(struct cli_view *v, const struct json *root)
{
    const struct json *m = json_get(root, "memory");
    const struct json *l = json_get(root, "limits");
    double asked = cli_json_num(root, "asked_memory_bytes");

    (void)buf_adds(v->out, "\nmemory  ");
    if (asked > 0) {
        add_bytes(v->out, "asked ", root, "asked_memory_bytes");
    } else {
        (void)buf_adds(v->out, "nothing asked");
    }
    add_bytes(v->out, ", uses p50 ", m, "p50_bytes");
    add_bytes(v->out, ", p95 ", m, "p95_bytes");
    add_bytes(v->out, ", p99 ", m, "p99_bytes");
    (void)buf_addf(v->out, "; %.0f out-of-memory kills\n", cli_json_num(m, "oom_kills"));
    add_bytes(v->out, "limit   ", l, "memory_bytes");
    (void)buf_adds(v->out, " (");
    cli_text_safe(v->out, cli_json_str(l, "basis"));
    (void)buf_addf(v->out, ", margin %.0f %% of %.0f runs)", cli_json_num(l, "memory_margin") * 100,
                   cli_json_num(l, "runs"));
    if (asked > 0) {
        add_bytes(v->out, "; learned ", l, "memory_learned_bytes");
        add_bytes(v->out, ", counted as ", l, "memory_reserved_bytes");
    }
    (void)buf_addf(v->out, "\ncpu     p95 of %.2f processors, weight %.0f\n",
                   cli_json_num(json_get(root, "cpu"), "cores_p95"), cli_json_num(l, "cpu_weight"));
    const struct json *io = json_get(root, "io");
    add_bytes(v->out, "I/O     read ", io, "read_bytes");
    add_bytes(v->out, ", written ", io, "write_bytes");
    (void)buf_addf(v->out, " in %.0f operations\n", cli_json_num(io, "operations"));
    const struct json *cache = json_get(root, "cache");
    if (cache != NULL && cache->type == JSON_OBJECT) {
        add_bytes(v->out, "cache   mean ", cache, "mean_bytes");
        add_bytes(v->out, ", most ", cache, "max_bytes");
        add_bytes(v->out, ", memory traffic ", cache, "bandwidth_bytes");
        (void)buf_adds(v->out, "\n        class ");
        cli_text_safe(v->out, cli_json_str(cache, "class"));
        (void)buf_addf(v->out, ": twice the cache is %+.1f %% of time (give or take %.1f)",
                       -100 * cli_json_num(cache, "elasticity"),
                       100 * cli_json_num(cache, "elasticity_error"));
        add_bytes(v->out, ", ", cache, "bandwidth_per_cpu_second");
        (void)buf_addf(v->out, " per processor second, %.0f runs\n", cli_json_num(cache, "runs"));
    }
}

void cli_view_profile(struct cli_view *v, const struct json *root)
{
    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, root);
        return;
    }
    (void)buf_adds(v->out, "job ");
    cli_text_safe(v->out, cli_json_str(root, "job"));
    (void)buf_addf(
        v->out, ", revision %.0f: %.0f runs, one run is within x %.2f of the expected\n\n",
        cli_json_num(root, "revision"), cli_json_num(root, "runs"), cli_json_num(root, "noise"));
    classes(v, root);
    limits(v, root);
}

static void why_cell(struct cli_table *t, const struct json *c)
{
    AUTO_BUF struct buf b = BUF_INIT(512);
    struct str verdict = cli_json_str(c, "verdict");

    cli_text_safe(&b, verdict);
    if (cli_json_str(c, "requirement").n > 0) {
        (void)buf_adds(&b, " ");
        cli_text_safe(&b, cli_json_str(c, "requirement"));
    }
    if (cli_json_str(c, "needs").n > 0) {
        (void)buf_adds(&b, " (needs ");
        cli_text_safe(&b, cli_json_str(c, "needs"));
        (void)buf_adds(&b, ", has ");
        cli_text_safe(&b, cli_json_str(c, "has"));
        (void)buf_addc(&b, ')');
    }
    cli_table_cell(t, str_eqs(verdict, "fit") ? CLI_PLAIN : CLI_DIM, buf_str(&b));
}

/* What the image says by itself. */
static void image_line(struct cli_view *v, const struct json *root)
{
    struct str needs = cli_json_str(root, "image_needs");
    const struct json *without = json_get(root, "image_without");
    struct str name;
    const char *between = "";

    if (needs.n == 0 && without == NULL) {
        return;
    }
    (void)buf_adds(v->out, "\nimage   ");
    if (needs.n > 0) {
        (void)buf_adds(v->out, "needs ");
        cli_text_safe(v->out, needs);
        between = ", ";
    }
    if (without != NULL && without->type == JSON_ARRAY) {
        (void)buf_addf(v->out, "%shas no code for ", between);
        between = "";
        JSON_EACH (i, without) {
            if (json_str(i, &name)) {
                (void)buf_adds(v->out, between);
                cli_text_safe(v->out, name);
                between = ", ";
            }
        }
    }
}

void cli_view_explain(struct cli_view *v, const struct json *root)
{
    static const char *const heads[] = { "",        "NODE",  "VERDICT",   ">SCORE",  ">WAIT",
                                         ">COLD",   ">TIME", ">EXPECTED", ">SPREAD", ">RUNS",
                                         ">HEALTH", ">AGE",  NULL };
    struct cli_table t;
    struct str node = cli_json_str(root, "node");

    if (v->format == CLI_FORMAT_JSON) {
        cli_view_json(v, root);
        return;
    }
    (void)buf_adds(v->out, "node    ");
    cli_text_safe(v->out, node.n > 0 ? node : STR("none"));
    (void)buf_adds(v->out, "\nbasis   ");
    cli_text_safe(v->out, cli_json_str(root, "basis"));
    (void)buf_adds(v->out, "\npolicy  ");
    cli_text_safe(v->out, cli_json_str(root, "policy"));
    image_line(v, root);
    (void)buf_adds(v->out, "\n\n");
    cli_table_init(&t, heads);
    JSON_EACH (c, list_of(root, "candidates")) {
        const struct json *l = json_get(c, "learned");
        bool known = l != NULL && l->type == JSON_OBJECT;
        bool chosen = node.n > 0 && str_eq(cli_json_str(c, "node"), node);
        cli_table_cell(&t, CLI_GREEN, chosen ? STR("*") : STR(""));
        cli_table_cell(&t, chosen ? CLI_BOLD : CLI_PLAIN, cli_json_str(c, "node"));
        why_cell(&t, c);
        seconds_cell(&t, c, "score");
        seconds_cell(&t, c, "wait_seconds");
        seconds_cell(&t, c, "cold_seconds");
        seconds_cell(&t, c, "run_seconds");
        seconds_cell(&t, known ? l : c, known ? "seconds" : "none");
        cli_table_cellf(&t, CLI_PLAIN, known ? "x %.2f" : "-",
                        known ? cli_json_num(l, "spread") : 0);
        cli_table_cellf(&t, CLI_PLAIN, known ? "%.0f" : "-",
                        known ? cli_json_num(l, "class_runs") : 0);
        cli_table_cellf(&t, CLI_PLAIN, known ? "x %.2f" : "-",
                        known ? cli_json_num(l, "health") : 0);
        seconds_cell(&t, c, "age_seconds");
    }
    render(v, &t);
}
