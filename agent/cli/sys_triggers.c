/* trigger, schedule, hook, secret. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/sys_cli.h"
#include "common/insist.h"
#include "common/mem.h"

enum { TARGET_MAX = 16 * 1024, BODY_MAX = 64 * 1024 * 1024 };

typedef void view_fn(struct cli_view *v, const struct json *list);

static int get(struct cli_ctx *ctx, const char *target, view_fn *view)
{
    struct err e;
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_JSON struct json_doc *doc = NULL;
    int rc = cli_http_new(ctx, &h, &e);

    rc = rc == 0 ? cli_call(ctx, h, "GET", target, (struct str){ 0 }, &doc, NULL, &e) : rc;
    if (rc != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    view(&ctx->view, json_root(doc));
    return cli_print(ctx, CLI_EXIT_OK);
}

static int of_job(struct cli_ctx *ctx, const char *job, view_fn *view)
{
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);

    (void)buf_adds(&target, "/v1/triggers");
    if (job != NULL) {
        (void)buf_adds(&target, "?job=");
        cli_escape_url(&target, str_of(job), false);
    }
    return get(ctx, buf_cstr(&target), view);
}

/* test, fire, pause, resume. */
static int trigger_do(struct cli_ctx *ctx, const char *verb, const char *trigger)
{
    struct err e = { 0 };
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_JSON struct json_doc *doc = NULL;
    AUTO_BUF struct buf body = BUF_INIT(BODY_MAX);
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    const char *path = cli_args_value(&ctx->args, "payload");
    const char *topic = cli_args_value(&ctx->args, "topic");
    bool would = false;

    (void)buf_addf(&target, "/v1/triggers/%s/", verb);
    cli_escape_url(&target, str_of(trigger), true);
    if (topic != NULL) {
        (void)buf_adds(&target, "?topic=");
        cli_escape_url(&target, str_of(topic), false);
    }
    int rc = path != NULL ? cli_read_input(path, &body, &e) : 0;
    rc = rc == 0 ? cli_http_new(ctx, &h, &e) : rc;
    rc = rc == 0 ? cli_call(ctx, h, "POST", buf_cstr(&target), buf_str(&body), &doc, NULL, &e) : rc;
    if (rc != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    const struct json *root = json_root(doc);
    if (ctx->view.format == CLI_FORMAT_JSON) {
        cli_view_json(&ctx->view, root);
        return cli_print(ctx, CLI_EXIT_OK);
    }
    if (strcmp(verb, "test") == 0) {
        (void)json_bool(json_get(root, "would_fire"), &would);
        (void)buf_addf(&ctx->out, "%s: %.*s\n", would ? "yes" : "no",
                       STR_ARG(cli_json_str(root, "detail")));
        return cli_print(ctx, would ? CLI_EXIT_OK : CLI_EXIT_FAILED);
    }
    if (strcmp(verb, "fire") == 0) {
        (void)buf_addf(&ctx->out, "%.*s\n", STR_ARG(cli_json_str(root, "id")));
    } else if (ctx->view.format != CLI_FORMAT_QUIET) {
        (void)buf_addf(&ctx->out, "trigger/%s %sd\n", trigger, verb);
    }
    return cli_print(ctx, CLI_EXIT_OK);
}

int cli_cmd_trigger(struct cli_ctx *ctx)
{
    static const char *const verbs[] = { "test", "fire", "pause", "resume" };
    const struct cli_args *a = &ctx->args;

    if (a->pos_len == 0 || strcmp(a->pos[0], "ls") == 0) {
        return of_job(ctx, a->pos_len == 2 ? a->pos[1] : NULL, cli_view_triggers);
    }
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        if (strcmp(a->pos[0], verbs[i]) == 0 && a->pos_len == 2) {
            return trigger_do(ctx, verbs[i], a->pos[1]);
        }
    }
    return cli_fail(CLI_EXIT_USAGE,
                    "agent trigger: ls [JOB], or test, fire, pause or resume TRIGGER");
}

int cli_cmd_schedule(struct cli_ctx *ctx)
{
    if (strcmp(ctx->args.pos[0], "next") != 0) {
        return cli_fail(CLI_EXIT_USAGE, "agent schedule: 'next JOB' is what there is");
    }
    return of_job(ctx, ctx->args.pos[1], cli_view_schedule);
}

/* ---- hooks ---- */

/* In single quotes for a shell. */
static void quoted(struct buf *out, struct str s)
{
    (void)buf_addc(out, '\'');
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '\'') {
            (void)buf_adds(out, "'\\''");
        } else {
            (void)buf_addc(out, s.p[i]);
        }
    }
    (void)buf_addc(out, '\'');
}

int cli_cmd_hook(struct cli_ctx *ctx)
{
    struct err e = { 0 };
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_JSON struct json_doc *doc = NULL;
    AUTO_BUF struct buf body = BUF_INIT(BODY_MAX);
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);

    if (strcmp(ctx->args.pos[0], "test") != 0) {
        return cli_fail(CLI_EXIT_USAGE, "agent hook: 'test JOB HOOK' is what there is");
    }
    (void)buf_adds(&target, "/v1/triggers/sign/");
    cli_escape_url(&target, str_of(ctx->args.pos[1]), false);
    (void)buf_addc(&target, '/');
    cli_escape_url(&target, str_of(ctx->args.pos[2]), false);
    const char *path = cli_args_value(&ctx->args, "payload");
    int rc = path != NULL ? cli_read_input(path, &body, &e) : buf_adds(&body, "{}");
    rc = rc == 0 ? cli_http_new(ctx, &h, &e) : rc;
    rc = rc == 0 ? cli_call(ctx, h, "POST", buf_cstr(&target), buf_str(&body), &doc, NULL, &e) : rc;
    if (rc != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    (void)buf_adds(&ctx->out, "curl -sS");
    const struct json *headers = json_get(json_root(doc), "headers");
    for (const struct json *one = headers != NULL ? headers->child : NULL; one != NULL;
         one = one->next) {
        struct str line = { 0 };
        (void)json_str(one, &line);
        (void)buf_adds(&ctx->out, " -H ");
        quoted(&ctx->out, line);
    }
    (void)buf_adds(&ctx->out, " --data-binary ");
    quoted(&ctx->out, buf_str(&body));
    (void)buf_addf(&ctx->out, " '%s%s/v1/hooks/%s/%s'\n", ctx->tls != NULL ? "https://" : "http://",
                   ctx->addr, ctx->args.pos[1], ctx->args.pos[2]);
    return cli_print(ctx, CLI_EXIT_OK);
}

/* ---- secrets ---- */

static int secret_change(struct cli_ctx *ctx, const char *method, const char *name, struct str body)
{
    struct err e = { 0 };
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_JSON struct json_doc *doc = NULL;
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    int rc = cli_http_new(ctx, &h, &e);

    (void)buf_adds(&target, "/v1/secrets/");
    cli_escape_url(&target, str_of(name), false);
    rc = rc == 0 ? cli_call(ctx, h, method, buf_cstr(&target), body, &doc, NULL, &e) : rc;
    if (rc != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s: %s", name, e.text);
    }
    if (ctx->view.format != CLI_FORMAT_QUIET) {
        (void)buf_addf(&ctx->out, "secret/%s %s\n", name, body.n != 0 ? "set" : "deleted");
    }
    return cli_print(ctx, CLI_EXIT_OK);
}

static int secret_set(struct cli_ctx *ctx)
{
    struct err e = { 0 };
    AUTO_BUF struct buf value = BUF_INIT(BODY_MAX);

    if (ctx->args.pos_len != 2) {
        return cli_fail(CLI_EXIT_USAGE, "agent secret set NAME < FILE");
    }
    if (isatty(STDIN_FILENO)) {
        return cli_fail(CLI_EXIT_USAGE, "the secret comes from stdin: agent secret set %s < FILE",
                        ctx->args.pos[1]);
    }
    if (cli_read_input("-", &value, &e) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    if (value.len != 0 && value.data[value.len - 1] == '\n') {
        value.len--;
    }
    if (value.len == 0) {
        return cli_fail(CLI_EXIT_USAGE, "the secret is empty");
    }
    return secret_change(ctx, "PUT", ctx->args.pos[1], buf_str(&value));
}

int cli_cmd_secret(struct cli_ctx *ctx)
{
    const char *verb = ctx->args.pos[0];
    int code = CLI_EXIT_OK;

    if (strcmp(verb, "set") == 0) {
        return secret_set(ctx);
    }
    if (strcmp(verb, "ls") == 0) {
        return get(ctx, "/v1/secrets", cli_view_secrets);
    }
    if (strcmp(verb, "rm") != 0 || ctx->args.pos_len < 2) {
        return cli_fail(CLI_EXIT_USAGE, "agent secret: set NAME, ls, or rm NAME ...");
    }
    for (size_t i = 1; i < ctx->args.pos_len; i++) {
        int one = secret_change(ctx, "DELETE", ctx->args.pos[i], (struct str){ 0 });
        code = one != CLI_EXIT_OK ? one : code;
    }
    return code;
}
