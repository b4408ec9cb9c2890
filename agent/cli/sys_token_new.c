/* `agent token new`: makes a token here, without any node. */
#include <errno.h>
#include <string.h>

#include "agent/cli/sys_cli.h"
#include "common/digest.h"
#include "common/ids.h"
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
    if (strcmp(a->pos[0], "new") != 0) {
        return err_say(e, -EINVAL, "'agent token %s': only 'new' is known", a->pos[0]);
    }
    if (name == NULL || scope == NULL) {
        return err_say(e, -EINVAL, "'agent token new' needs --name and --scope");
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

int cli_cmd_token(struct cli_ctx *ctx)
{
    uint8_t secret[TOKEN_SECRET_BYTES];
    char text[TOKEN_TEXT_CAP];
    struct token t = { .scopes = 0 };
    struct err e = { .code = 0 };
    if (fields_parse(&ctx->args, ctx->view.now_us, &t, &e) != 0) {
        return cli_fail(CLI_EXIT_USAGE, "%s", e.text);
    }
    sys_random(secret, sizeof(secret));
    (void)token_format(secret, text);
    mem_wipe(secret, sizeof(secret));
    if (text[0] == '\0' || token_hash(str_of(text), t.hash) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "out of memory");
    }
    print(ctx, text, &t);
    mem_wipe(text, sizeof(text));
    return cli_print(ctx, CLI_EXIT_OK);
}
