/* callback. */
#include <string.h>

#include "agent/cli/sys_cli.h"
#include "common/mem.h"

enum { TARGET_MAX = 16 * 1024 };

static void query(struct cli_ctx *ctx, struct buf *target, const char *option, char *sep)
{
    const char *value = cli_args_value(&ctx->args, option);

    if (value != NULL) {
        (void)buf_addf(target, "%c%s=", *sep, option);
        cli_escape_url(target, str_of(value), false);
        *sep = '&';
    }
}

static int list(struct cli_ctx *ctx)
{
    struct err e = { 0 };
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_JSON struct json_doc *doc = NULL;
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    char sep = '?';
    int rc = cli_http_new(ctx, &h, &e);

    (void)buf_adds(&target, "/v1/callbacks");
    query(ctx, &target, "job", &sep);
    query(ctx, &target, "state", &sep);
    query(ctx, &target, "limit", &sep);
    if (sep == '?' || cli_args_value(&ctx->args, "limit") == NULL) {
        (void)buf_addf(&target, "%climit=1000", sep);
    }
    rc = rc == 0 ? cli_call(ctx, h, "GET", buf_cstr(&target), (struct str){ 0 }, &doc, NULL, &e)
                 : rc;
    if (rc != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    cli_view_callbacks(&ctx->view, json_root(doc));
    return cli_print(ctx, CLI_EXIT_OK);
}

static int retry(struct cli_ctx *ctx, const char *id)
{
    struct err e = { 0 };
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_JSON struct json_doc *doc = NULL;
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    int rc = cli_http_new(ctx, &h, &e);

    (void)buf_adds(&target, "/v1/callbacks/");
    cli_escape_url(&target, str_of(id), false);
    (void)buf_adds(&target, "/retry");
    rc = rc == 0 ? cli_call(ctx, h, "POST", buf_cstr(&target), (struct str){ 0 }, &doc, NULL, &e)
                 : rc;
    if (rc != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s: %s", id, e.text);
    }
    if (ctx->view.format == CLI_FORMAT_JSON) {
        cli_view_json(&ctx->view, json_root(doc));
    } else if (ctx->view.format != CLI_FORMAT_QUIET) {
        (void)buf_addf(&ctx->out, "callback/%s is sent again\n", id);
    }
    return cli_print(ctx, CLI_EXIT_OK);
}

int cli_cmd_callback(struct cli_ctx *ctx)
{
    int code = CLI_EXIT_OK;

    if (ctx->args.pos_len == 0 || strcmp(ctx->args.pos[0], "ls") == 0) {
        return ctx->args.pos_len <= 1
                   ? list(ctx)
                   : cli_fail(CLI_EXIT_USAGE, "agent callback ls takes no more words: see --job");
    }
    if (strcmp(ctx->args.pos[0], "retry") != 0 || ctx->args.pos_len < 2) {
        return cli_fail(CLI_EXIT_USAGE, "agent callback: ls, or retry ID ...");
    }
    for (size_t i = 1; i < ctx->args.pos_len; i++) {
        int one = retry(ctx, ctx->args.pos[i]);
        code = one != CLI_EXIT_OK ? one : code;
    }
    return code;
}
