/* `agent token`: `new` makes a token here, without any node; `create`, `ls` and `revoke` are about
 * the cluster's own. */
#include <errno.h>
#include <string.h>

#include "agent/cli/sys_cli.h"
#include "common/digest.h"
#include "common/ids.h"
#include "common/insist.h"
#include "common/sys/sys.h"

/* A duration from now or a time. */
static int expiry_parse(const char *text, int64_t now_us, int64_t *ret_us, struct err *e)
{
    uint64_t ms;
    if (time_parse(str_of(text), ret_us) == 0 && *ret_us > now_us) {
        return 0;
    }
    if (str_duration_ms(str_of(text), &ms) == 0 && ms > 0 &&
        ms <= (uint64_t)100 * 366 * 24 * 3600 * 1000) {
        /* Whole seconds are enough. */
        *ret_us = (now_us / 1000000 + (int64_t)((ms + 999) / 1000)) * 1000000;
        return 0;
    }
    return err_say(e, -EINVAL,
                   "--expires '%s': a duration such as 30d, or a time to come such as "
                   "2027-01-31T00:00:00Z, is wanted",
                   text);
}

static int fields_parse(const struct cli_args *a, int64_t now_us, struct token *t, struct err *e)
{
    const char *name = cli_args_value(a, "name");
    const char *scope = cli_args_value(a, "scope");
    const char *prefix = cli_args_value(a, "prefix");
    const char *expires = cli_args_value(a, "expires");
    if (name == NULL || scope == NULL) {
        return err_say(e, -EINVAL, "'agent token %s' needs --name and --scope", a->pos[0]);
    }
    if (!token_name_ok(str_of(name))) {
        return err_say(e, -EINVAL,
                       "--name: 1 to 64 letters, digits, '.', '_', '@', '-', beginning with a "
                       "letter or digit, are wanted");
    }
    (void)str_copy(t->name, sizeof(t->name), str_of(name));
    int rc = token_scopes_parse(str_of(scope), &t->scopes, e);
    if (rc != 0) {
        return err_prefix(e, "--scope");
    }
    if (prefix != NULL && !token_prefix_ok(str_of(prefix))) {
        return err_say(e, -EINVAL,
                       "--prefix: 1 to 128 letters, digits, '.', '_', '/', '-' are wanted");
    }
    if (prefix != NULL && (t->scopes & TOKEN_ADMIN) != 0) {
        return err_say(e, -EINVAL, "--prefix: admin reaches everything, it takes no prefix");
    }
    (void)str_copy(t->prefix, sizeof(t->prefix), str_of(prefix));
    return expires != NULL ? expiry_parse(expires, now_us, &t->expires_us, e) : 0;
}

static void print(struct cli_ctx *ctx, const char *text, const struct token *t)
{
    AUTO_BUF struct buf line = BUF_INIT(1024);
    token_line_write(&line, t);
    if (ctx->view.format == CLI_FORMAT_JSON) {
        struct json_w w;
        json_w_init(&w, &ctx->out, true);
        json_w_obj(&w);
        json_kv_cstr(&w, "name", t->name);
        json_kv_cstr(&w, "token", text);
        json_w_key(&w, "line");
        json_w_str(&w, str_trim(buf_str(&line)));
        json_w_end(&w);
        (void)buf_addc(&ctx->out, '\n');
        return;
    }
    (void)buf_addf(&ctx->out,
                   "The token, shown this once:\n\n  %s\n\nThe line for auth.tokens_file:\n\n  %s",
                   text, buf_cstr(&line));
}

/* The token itself, and its hash in *t. */
static int secret_make(struct token *t, char text[TOKEN_TEXT_CAP])
{
    uint8_t secret[TOKEN_SECRET_BYTES];
    sys_random(secret, sizeof(secret));
    (void)token_format(secret, text);
    mem_wipe(secret, sizeof(secret));
    return text[0] != '\0' ? token_hash(str_of(text), t->hash) : -ENOMEM;
}

static int token_new(struct cli_ctx *ctx)
{
    char text[TOKEN_TEXT_CAP];
    struct token t = { .scopes = 0 };
    struct err e = { .code = 0 };
    if (fields_parse(&ctx->args, ctx->view.now_us, &t, &e) != 0) {
        return cli_fail(CLI_EXIT_USAGE, "%s", e.text);
    }
    if (secret_make(&t, text) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "out of memory");
    }
    print(ctx, text, &t);
    mem_wipe(text, sizeof(text));
    return cli_print(ctx, CLI_EXIT_OK);
}

/* ---- the cluster's tokens ---- */

/* The secret is made here: the node, and whoever may listen, sees its hash. */
static void document_of(const struct token *t, struct buf *out)
{
    AUTO_BUF struct buf scopes = BUF_INIT(256);
    char hex[2 * TOKEN_HASH_BYTES + 1];
    char time[TIME_TEXT_CAP];
    struct json_w w;
    token_scopes_write(&scopes, t->scopes);
    str_hex(hex, t->hash, sizeof(t->hash));
    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_kv_cstr(&w, "name", t->name);
    json_kv_str(&w, "scopes", buf_str(&scopes));
    json_kv_cstr(&w, "prefix", t->prefix);
    if (t->expires_us != 0) {
        json_kv_cstr(&w, "expires", time_format(t->expires_us, time));
    }
    json_kv_cstr(&w, "sha256", hex);
    json_w_end(&w);
}

static int token_create(struct cli_ctx *ctx)
{
    char text[TOKEN_TEXT_CAP];
    struct token t = { .scopes = 0 };
    struct err e = { .code = 0 };
    AUTO_BUF struct buf body = BUF_INIT(8192);
    if (fields_parse(&ctx->args, ctx->view.now_us, &t, &e) != 0) {
        return cli_fail(CLI_EXIT_USAGE, "%s", e.text);
    }
    if (secret_make(&t, text) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "out of memory");
    }
    document_of(&t, &body);
    int rc = cli_call(ctx, NULL, "POST", "/v1/tokens", buf_str(&body), NULL, NULL, &e);
    if (rc != 0) {
        mem_wipe(text, sizeof(text));
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    if (ctx->view.format == CLI_FORMAT_JSON) {
        struct json_w w;
        json_w_init(&w, &ctx->out, true);
        json_w_obj(&w);
        json_kv_cstr(&w, "name", t.name);
        json_kv_cstr(&w, "token", text);
        json_w_end(&w);
        (void)buf_addc(&ctx->out, '\n');
    } else {
        (void)buf_addf(&ctx->out, "%s\n", text); /* so that $(agent token create ...) is it */
    }
    mem_wipe(text, sizeof(text));
    return cli_print(ctx, CLI_EXIT_OK);
}

static void row_of(struct cli_table *t, const struct json *token, int64_t now_us)
{
    AUTO_BUF struct buf cell = BUF_INIT(4096);
    int64_t expires = cli_json_time(token, "expires_at");
    const struct json *scopes = json_get(token, "scopes");
    cli_table_cell(t, CLI_BOLD, cli_json_str(token, "name"));
    if (scopes != NULL && scopes->type == JSON_ARRAY) {
        JSON_EACH (scope, scopes) {
            struct str s;
            (void)buf_adds(&cell, cell.len > 0 ? "," : "");
            (void)buf_addstr(&cell, json_str(scope, &s) ? s : STR("?"));
        }
    }
    cli_table_cell(t, CLI_PLAIN, buf_str(&cell));
    struct str prefix = cli_json_str(token, "prefix");
    cli_table_cell(t, CLI_PLAIN, prefix.n > 0 ? prefix : STR("-"));
    if (expires == 0) {
        cli_table_cell(t, CLI_PLAIN, STR("never"));
    } else if (expires <= now_us) {
        cli_table_cell(t, CLI_RED, STR("expired"));
    } else {
        buf_reset(&cell);
        (void)buf_adds(&cell, "in ");
        cli_text_age(&cell, expires, now_us);
        cli_table_cell(t, CLI_PLAIN, buf_str(&cell));
    }
    buf_reset(&cell);
    cli_text_age(&cell, now_us, cli_json_time(token, "created_at"));
    cli_table_cell(t, CLI_PLAIN, buf_str(&cell));
    struct str by = cli_json_str(token, "created_by");
    cli_table_cell(t, CLI_PLAIN, by.n > 0 ? by : STR("-"));
    cli_table_cell(t, CLI_PLAIN, cli_json_str(token, "source"));
}

static int token_list(struct cli_ctx *ctx)
{
    static const char *const heads[] = { "NAME", "SCOPES", "PREFIX", "EXPIRES",
                                         "AGE",  "BY",     "SOURCE", NULL };
    AUTO_JSON struct json_doc *doc = NULL;
    struct err e = { .code = 0 };
    struct cli_table t;
    int rc = cli_call(ctx, NULL, "GET", "/v1/tokens", (struct str){ NULL, 0 }, &doc, NULL, &e);
    if (rc != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    if (ctx->view.format == CLI_FORMAT_JSON) {
        cli_view_json(&ctx->view, json_root(doc));
        return cli_print(ctx, CLI_EXIT_OK);
    }
    const struct json *list = json_get(json_root(doc), "tokens");
    bool names = ctx->view.format != CLI_FORMAT_TABLE;
    cli_table_init(&t, heads);
    if (list != NULL && list->type == JSON_ARRAY) {
        JSON_EACH (token, list) {
            if (names) {
                cli_text_safe(&ctx->out, cli_json_str(token, "name"));
                (void)buf_addc(&ctx->out, '\n');
            } else {
                row_of(&t, token, ctx->view.now_us);
            }
        }
    }
    rc = names ? 0 : cli_table_render(&t, ctx->view.heads, ctx->view.colour, &ctx->out);
    cli_table_release(&t);
    return rc == 0 ? cli_print(ctx, CLI_EXIT_OK) : cli_fail(CLI_EXIT_FAILED, "out of memory");
}

static int token_revoke(struct cli_ctx *ctx)
{
    struct err e = { .code = 0 };
    if (ctx->args.pos_len < 2) {
        return cli_fail(CLI_EXIT_USAGE, "'agent token revoke' needs the name of a token");
    }
    for (size_t i = 1; i < ctx->args.pos_len; i++) {
        AUTO_BUF struct buf target = BUF_INIT(4096);
        (void)buf_adds(&target, "/v1/tokens/");
        cli_escape_url(&target, str_of(ctx->args.pos[i]), false);
        if (cli_call(ctx, NULL, "DELETE", buf_cstr(&target), (struct str){ NULL, 0 }, NULL, NULL,
                     &e) != 0) {
            return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
        }
    }
    return CLI_EXIT_OK;
}

int cli_cmd_token(struct cli_ctx *ctx)
{
    static const struct {
        const char *word;
        int (*run)(struct cli_ctx *ctx);
        bool one; /* takes no more words */
    } verbs[] = { { "new", token_new, true },
                  { "create", token_create, true },
                  { "ls", token_list, true },
                  { "revoke", token_revoke, false } };
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        if (strcmp(ctx->args.pos[0], verbs[i].word) == 0) {
            return verbs[i].one && ctx->args.pos_len > 1
                       ? cli_fail(CLI_EXIT_USAGE, "'agent token %s' takes no '%s'", verbs[i].word,
                                  ctx->args.pos[1])
                       : verbs[i].run(ctx);
        }
    }
    return cli_fail(CLI_EXIT_USAGE, "'agent token %s': new, create, ls and revoke are known",
                    ctx->args.pos[0]);
}
