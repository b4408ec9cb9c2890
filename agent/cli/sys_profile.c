/* Commands about what runs taught: profile, explain, top. */
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "agent/cli/sys_cli.h"
#include "common/sys/sys.h"

enum { TARGET_MAX = 16 * 1024, TOP_MS = 2000, TOP_RUNS = 20 };

static int get(struct cli_ctx *ctx, struct cli_http *h, const char *target,
               struct json_doc **ret_doc, struct err *e)
{
    return cli_call(ctx, h, "GET", target, (struct str){ NULL, 0 }, ret_doc, NULL, e);
}

static int show(struct cli_ctx *ctx, const char *target,
                void (*view)(struct cli_view *v, const struct json *root))
{
    struct err e;
    AUTO_JSON struct json_doc *doc = NULL;

    if (get(ctx, NULL, target, &doc, &e) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    view(&ctx->view, json_root(doc));
    return cli_print(ctx, CLI_EXIT_OK);
}

int cli_cmd_profile(struct cli_ctx *ctx)
{
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);

    if (ctx->args.pos_len == 0) {
        return show(ctx, "/v1/profiles", cli_view_profiles);
    }
    (void)buf_adds(&target, "/v1/profiles/");
    cli_escape_url(&target, str_of(ctx->args.pos[0]), true);
    return show(ctx, buf_cstr(&target), cli_view_profile);
}

int cli_cmd_explain(struct cli_ctx *ctx)
{
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    const char *job = cli_args_value(&ctx->args, "job");
    struct err e;

    if ((job != NULL) == (ctx->args.pos_len == 1)) {
        return cli_fail(CLI_EXIT_USAGE, "which run, or which job? agent explain RUN | --job JOB");
    }
    if (job != NULL) {
        (void)buf_adds(&target, "/v1/jobs/");
        cli_escape_url(&target, str_of(job), false);
    } else {
        AUTO_HTTP struct cli_http *h = NULL;
        char run[64];
        if (cli_http_new(ctx, &h, &e) != 0 ||
            cli_resolve_run(ctx, h, ctx->args.pos[0], run, sizeof(run), &e) != 0) {
            return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
        }
        (void)buf_addf(&target, "/v1/runs/%s", run);
    }
    (void)buf_adds(&target, "/placement");
    return show(ctx, buf_cstr(&target), cli_view_explain);
}

/* ---- top ---- */

/* The newest sample of a run; none when it has none yet. */
static void top_row(struct cli_ctx *ctx, struct cli_http *h, struct cli_table *t,
                    const struct json *run)
{
    AUTO_JSON struct json_doc *doc = NULL;
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    AUTO_BUF struct buf memory = BUF_INIT(64);
    const struct json *last = NULL;
    const struct json *before = NULL;
    struct err e;
    struct str job = cli_json_str(run, "job");

    (void)buf_adds(&target, "/v1/runs/");
    cli_escape_url(&target, cli_json_str(run, "id"), false);
    (void)buf_adds(&target, "/samples");
    if (get(ctx, h, buf_cstr(&target), &doc, &e) == 0) {
        const struct json *samples = json_get(json_root(doc), "samples");
        if (samples != NULL && samples->type == JSON_ARRAY) {
            JSON_EACH (s, samples) {
                before = last;
                last = s;
            }
        }
    }
    double cpu = cli_json_num(last, "cpu_seconds") - cli_json_num(before, "cpu_seconds");
    double time = cli_json_num(last, "t") - cli_json_num(before, "t");
    cli_text_bytes(&memory, cli_json_num(last, "memory_bytes"));
    cli_table_cell(t, CLI_BOLD, cli_json_str(run, "id"));
    cli_table_cell(t, CLI_PLAIN, job.n > 0 ? job : cli_json_str(run, "image"));
    cli_table_cell(t, CLI_PLAIN, cli_json_str(run, "node"));
    cli_table_cellf(t, CLI_PLAIN, "%.0f %%", time > 0 ? 100 * cpu / time : 0);
    cli_table_cell(t, CLI_PLAIN, buf_str(&memory));
    buf_reset(&memory);
    cli_text_bytes(&memory,
                   cli_json_num(last, "io_read_bytes") + cli_json_num(last, "io_write_bytes"));
    cli_table_cell(t, CLI_PLAIN, buf_str(&memory));
    cli_table_cellf(t, CLI_PLAIN, "%.1f s", cli_json_num(last, "t"));
}

static int top_once(struct cli_ctx *ctx, struct err *e)
{
    static const char *const heads[] = { "RUN",     "JOB",  "NODE",  ">CPU",
                                         ">MEMORY", ">I/O", ">TIME", NULL };
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_JSON struct json_doc *nodes = NULL;
    AUTO_JSON struct json_doc *runs = NULL;
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    struct cli_table t;
    int rc = cli_http_new(ctx, &h, e);

    (void)buf_addf(&target, "/v1/runs?state=running&limit=%d", TOP_RUNS);
    if (rc != 0 || (rc = get(ctx, h, "/v1/nodes", &nodes, e)) != 0 ||
        (rc = get(ctx, h, buf_cstr(&target), &runs, e)) != 0) {
        return rc;
    }
    if (ctx->view.format == CLI_FORMAT_JSON) {
        cli_view_json(&ctx->view, json_root(runs));
        return 0;
    }
    cli_view_nodes(&ctx->view, json_root(nodes));
    (void)buf_addc(&ctx->out, '\n');
    cli_table_init(&t, heads);
    const struct json *list = json_get(json_root(runs), "runs");
    if (list != NULL && list->type == JSON_ARRAY) {
        JSON_EACH (run, list) {
            top_row(ctx, h, &t, run);
        }
    }
    rc = cli_table_render(&t, ctx->view.heads, ctx->view.colour, &ctx->out);
    cli_table_release(&t);
    return rc;
}

int cli_cmd_top(struct cli_ctx *ctx)
{
    bool live = cli_is_tty(STDOUT_FILENO) && !cli_args_has(&ctx->args, "once");
    struct err e = { .code = 0 };

    for (;;) {
        if (live) {
            (void)buf_adds(&ctx->out, "\033[H\033[2J");
        }
        if (top_once(ctx, &e) != 0) {
            return cli_fail(CLI_EXIT_FAILED, "%s", err_text(&e));
        }
        int code = cli_print(ctx, CLI_EXIT_OK);
        if (!live || code != CLI_EXIT_OK) {
            return code;
        }
        buf_reset(&ctx->out);
        (void)poll(NULL, 0, TOP_MS);
        ctx->view.now_us = sys_wall_us();
    }
}
