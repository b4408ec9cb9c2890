/* Commands that change something: cancel, retry, apply; and config, which reads a file. */
#include <errno.h>
#include <string.h>

#include "agent/cli/sys_cli.h"
#include "common/mem.h"
#include "common/settings.h"
#include "common/sys/sys.h"
#include "common/sys/sys_settings.h"

enum { TARGET_MAX = 16 * 1024, DOCUMENTS_MAX = 64 * 1024 * 1024 };

static int each_run(struct cli_ctx *ctx, const char *verb)
{
    struct err e;
    AUTO_HTTP struct cli_http *h = NULL;
    if (cli_http_new(ctx, &h, &e) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    int code = CLI_EXIT_OK;
    for (size_t i = 0; i < ctx->args.pos_len; i++) {
        char run[64];
        AUTO_JSON struct json_doc *doc = NULL;
        int rc = cli_resolve_run(ctx, h, ctx->args.pos[i], run, sizeof(run), &e);
        if (rc == 0) {
            AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
            (void)buf_addf(&target, "/v1/runs/%s/%s", run, verb);
            rc = cli_call(ctx, h, "POST", buf_cstr(&target), (struct str){ NULL, 0 }, &doc, NULL,
                          &e);
        }
        if (rc != 0) {
            code = cli_fail(CLI_EXIT_FAILED, "%s: %s", ctx->args.pos[i], e.text);
        } else if (ctx->view.format == CLI_FORMAT_TABLE) {
            struct str state = cli_json_str(json_root(doc), "state");
            (void)buf_addf(&ctx->out, "%s ", run);
            cli_text_safe(&ctx->out, state);
            (void)buf_adds(&ctx->out, strcmp(verb, "cancel") == 0 && !cli_run_ended(json_root(doc))
                                          ? ", is being cancelled\n"
                                          : "\n");
        } else {
            cli_view_run(&ctx->view, json_root(doc));
        }
    }
    return cli_print(ctx, code);
}

int cli_cmd_cancel(struct cli_ctx *ctx)
{
    return each_run(ctx, "cancel");
}

int cli_cmd_retry(struct cli_ctx *ctx)
{
    return each_run(ctx, "retry");
}

/* ---- drain, leave ---- */

/* POSTs to /v1/nodes/NODE/what and says in what state the node is. */
static int node_post(struct cli_ctx *ctx, struct cli_http *h, struct str node, const char *what,
                     struct str body)
{
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    AUTO_JSON struct json_doc *doc = NULL;
    struct err e;
    (void)buf_adds(&target, "/v1/nodes/");
    cli_escape_url(&target, node, false);
    (void)buf_addf(&target, "/%s", what);
    if (cli_call(ctx, h, "POST", buf_cstr(&target), body, &doc, NULL, &e) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    cli_text_safe(&ctx->out, cli_json_str(json_root(doc), "name"));
    (void)buf_addc(&ctx->out, ' ');
    cli_text_safe(&ctx->out, cli_json_str(json_root(doc), "state"));
    (void)buf_addc(&ctx->out, '\n');
    return cli_print(ctx, CLI_EXIT_OK);
}

int cli_cmd_drain(struct cli_ctx *ctx)
{
    struct err e;
    AUTO_HTTP struct cli_http *h = NULL;
    bool resume = cli_args_has(&ctx->args, "resume");
    if (cli_http_new(ctx, &h, &e) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    return node_post(ctx, h, str_of(ctx->args.pos[0]), "drain",
                     resume ? STR("{\"draining\":false}") : STR("{\"draining\":true}"));
}

int cli_cmd_leave(struct cli_ctx *ctx)
{
    struct err e;
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_JSON struct json_doc *doc = NULL;
    if (cli_http_new(ctx, &h, &e) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    if (ctx->args.pos_len > 0) {
        return node_post(ctx, h, str_of(ctx->args.pos[0]), "leave", STR("{}"));
    }
    /* Who is it that we talk to? It names itself first. */
    if (cli_call(ctx, h, "GET", "/v1/nodes", (struct str){ NULL, 0 }, &doc, NULL, &e) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    const struct json *nodes = json_get(json_root(doc), "nodes");
    struct str name = cli_json_str(nodes != NULL ? nodes->child : NULL, "name");
    return node_post(ctx, h, name, "leave", STR("{}"));
}

/* ---- apply ---- */

struct apply {
    struct cli_ctx *ctx;
    struct cli_http *h;
    struct json_w w; /* -o json: an array of the answers */
    size_t done;
};

/* The revision before, or 0 when the job is not known. */
static int revision_of(struct apply *a, const char *target, int64_t *ret, struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    int status = 0;
    *ret = 0;
    int rc = cli_call(a->ctx, a->h, "GET", target, (struct str){ NULL, 0 }, &doc, &status, e);
    if (rc != 0) {
        return status == 404 ? 0 : rc;
    }
    return json_int(json_get(json_root(doc), "revision"), ret)
               ? 0
               : err_say(e, -EPROTO, "the node's answer has no revision");
}

static void say_applied(struct apply *a, const struct json *job, int64_t before, int status)
{
    struct buf *out = &a->ctx->out;
    int64_t now = 0;
    (void)json_int(json_get(job, "revision"), &now);
    if (a->ctx->view.format == CLI_FORMAT_JSON) {
        json_w_value(&a->w, job);
        return;
    }
    (void)buf_adds(out, "job/");
    cli_text_safe(out, cli_json_str(job, "name"));
    if (a->ctx->view.format == CLI_FORMAT_NAME) {
        (void)buf_addc(out, '\n');
    } else if (status == 201) {
        (void)buf_adds(out, " created\n");
    } else if (now != before) {
        (void)buf_addf(out, " changed (revision %lld)\n", (long long)now);
    } else {
        (void)buf_adds(out, " unchanged\n");
    }
}

static int apply_one(struct apply *a, const struct json *document, struct err *e)
{
    struct str name = cli_json_str(document, "name");
    if (document->type != JSON_OBJECT || name.n == 0) {
        return err_say(e, -EINVAL, "a job's document is an object with a \"name\"");
    }
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    AUTO_BUF struct buf body = BUF_INIT(DOCUMENTS_MAX);
    AUTO_JSON struct json_doc *answer = NULL;
    struct json_w w;
    (void)buf_adds(&target, "/v1/jobs/");
    cli_escape_url(&target, name, false);
    json_w_init(&w, &body, false);
    json_w_value(&w, document);
    int64_t before = 0;
    int status = 0;
    int rc = buf_error(&body) != 0 ? err_say(e, -E2BIG, "the document is too long")
                                   : revision_of(a, buf_cstr(&target), &before, e);
    if (rc == 0) {
        rc = cli_call(a->ctx, a->h, "PUT", buf_cstr(&target), buf_str(&body), &answer, &status, e);
    }
    if (rc != 0) {
        return err_prefix(e, "job '%.*s'", STR_ARG(name));
    }
    say_applied(a, json_root(answer), before, status);
    a->done++;
    return 0;
}

static int apply_text(struct apply *a, struct str text, struct err *e)
{
    struct str doc_text;
    int more;
    while ((more = cli_documents_next(&text, &doc_text, e)) > 0) {
        AUTO_JSON struct json_doc *doc = NULL;
        int rc = json_parse(doc_text.p, doc_text.n, NULL, &doc, e);
        if (rc != 0) {
            return rc;
        }
        const struct json *root = json_root(doc);
        if (root->type != JSON_ARRAY) {
            rc = apply_one(a, root, e);
        } else {
            JSON_EACH (item, root) {
                rc = rc == 0 ? apply_one(a, item, e) : rc;
            }
        }
        if (rc != 0) {
            return rc;
        }
    }
    return more;
}

static int apply_file(struct apply *a, const char *file, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(DOCUMENTS_MAX);
    int rc = cli_read_input(file, &text, e);
    size_t before = a->done;
    if (rc == 0) {
        rc = apply_text(a, buf_str(&text), e);
    }
    if (rc == 0 && a->done == before) {
        rc = err_say(e, -EINVAL, "there is no document in it");
    }
    return rc == 0 ? 0 : err_prefix(e, "%s", strcmp(file, "-") == 0 ? "stdin" : file);
}

int cli_cmd_apply(struct cli_ctx *ctx)
{
    struct err e;
    AUTO_HTTP struct cli_http *h = NULL;
    bool as_json = ctx->view.format == CLI_FORMAT_JSON;
    if (ctx->args.pos_len == 0 && !cli_args_has(&ctx->args, "file")) {
        return cli_fail(CLI_EXIT_USAGE, "which file? agent apply -f FILE");
    }
    int rc = cli_http_new(ctx, &h, &e);
    struct apply a = { .ctx = ctx, .h = h };
    json_w_init(&a.w, &ctx->out, true);
    if (as_json) {
        json_w_arr(&a.w);
    }
    size_t i = 0;
    const char *file;
    while (rc == 0 && (file = cli_args_next(&ctx->args, "file", &i)) != NULL) {
        rc = apply_file(&a, file, &e);
    }
    for (i = 0; rc == 0 && i < ctx->args.pos_len; i++) {
        rc = apply_file(&a, ctx->args.pos[i], &e);
    }
    if (as_json) {
        json_w_end(&a.w);
        (void)buf_addc(&ctx->out, '\n');
    }
    int code = cli_print(ctx, CLI_EXIT_OK);
    return rc == 0 ? code : cli_fail(CLI_EXIT_FAILED, "%s", e.text);
}

/* ---- config ---- */

int cli_cmd_config(struct cli_ctx *ctx)
{
    const struct cli_args *a = &ctx->args;
    if (strcmp(a->pos[0], "example") == 0 && a->pos_len == 1) {
        settings_example(&ctx->out);
        return cli_print(ctx, CLI_EXIT_OK);
    }
    if (strcmp(a->pos[0], "check") != 0) {
        return cli_fail(CLI_EXIT_USAGE, "'agent config %s': example or check is wanted", a->pos[0]);
    }
    const char *file = NULL;
    const char *overrides[CLI_POS_MAX];
    size_t overrides_len = 0;
    for (size_t i = 1; i < a->pos_len; i++) {
        if (conf_is_override(a->pos[i])) {
            overrides[overrides_len++] = a->pos[i];
        } else {
            file = a->pos[i];
        }
    }
    struct err e;
    struct settings *s = mem_zalloc(sizeof(*s));
    int rc = s == NULL ? err_set(&e, -ENOMEM, "check")
                       : sys_settings_load(file, overrides, overrides_len, s, &e);
    mem_free(s);
    if (rc != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    (void)buf_addf(&ctx->out, "%s: ok\n", file != NULL ? file : "settings");
    return cli_print(ctx, CLI_EXIT_OK);
}
