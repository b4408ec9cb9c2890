/* One call of `agent`: reads the command line, runs the command, prints. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/sys_cli.h"
#include "common/digest.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"
#include "common/version.h"

int cli_fail(int code, const char *fmt, ...)
{
    AUTO_BUF struct buf text = BUF_INIT(16 * 1024);
    AUTO_BUF struct buf line = BUF_INIT(64 * 1024);
    va_list ap;
    va_start(ap, fmt);
    (void)buf_vaddf(&text, fmt, ap);
    va_end(ap);
    (void)buf_adds(&line, "agent: ");
    cli_text_safe(&line, buf_str(&text));
    (void)buf_addc(&line, '\n');
    (void)sys_write_full(STDERR_FILENO, buf_cstr(&line), line.len);
    return code;
}

int cli_print(struct cli_ctx *ctx, int code)
{
    if (buf_error(&ctx->out) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "what was to be printed does not fit in memory");
    }
    int rc = ctx->out.len > 0 ? sys_write_full(STDOUT_FILENO, ctx->out.data, ctx->out.len) : 0;
    buf_reset(&ctx->out);
    if (rc != 0) {
        struct err e;
        (void)err_set(&e, rc, "write to stdout");
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    return code;
}

int cli_wants_progress(const struct cli_ctx *ctx, bool *ret, struct err *e)
{
    const char *when = cli_args_value(&ctx->args, "progress");
    if (when == NULL || strcmp(when, "auto") == 0) {
        *ret = ctx->tty_err;
    } else if (strcmp(when, "always") == 0) {
        *ret = true;
    } else if (strcmp(when, "never") == 0) {
        *ret = false;
    } else {
        return err_say(e, -EINVAL, "'--progress %s': auto, always or never is wanted", when);
    }
    return 0;
}

int cli_open_input(const char *file, int *ret_fd, struct err *e)
{
    bool is_stdin = strcmp(file, "-") == 0;
    int fd = is_stdin ? fd_dup(STDIN_FILENO, 3) : open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_set(e, is_stdin ? fd : -errno, "open '%s'", is_stdin ? "stdin" : file);
    }
    *ret_fd = fd;
    return 0;
}

int cli_read_input(const char *file, struct buf *out, struct err *e)
{
    enum { PIECE = 64 * 1024 };
    AUTO_FD int fd = -1;
    int rc = cli_open_input(file, &fd, e);
    if (rc != 0) {
        return rc;
    }
    for (;;) {
        char *p = buf_reserve(out, PIECE);
        if (p == NULL) {
            return err_say(e, buf_error(out), "it is too long");
        }
        ssize_t n = sys_read(fd, p, PIECE);
        if (n < 0) {
            return err_set(e, (int)n, "read '%s'", file);
        }
        if (n == 0) {
            return 0;
        }
        buf_grow(out, (size_t)n);
    }
}

/* Set and not empty, or NULL. Before any thread. */
static const char *variable(const char *name)
{
    const char *value = getenv(name); /* NOLINT(concurrency-mt-unsafe) */
    return value != NULL && value[0] != '\0' ? value : NULL;
}

static int set_token(struct cli_ctx *ctx, struct err *e)
{
    const char *file = cli_args_value(&ctx->args, "token-file");
    const char *given = file == NULL ? variable("AGENT_TOKEN") : NULL;
    const char *from = file != NULL ? file : "AGENT_TOKEN";
    AUTO_BUF struct buf text = BUF_INIT(128 * 1024);
    struct str line = str_of(given);
    if (file != NULL) {
        struct str rest;
        int rc = cli_read_input(file, &text, e);
        if (rc != 0) {
            return err_prefix(e, "--token-file");
        }
        rest = buf_str(&text);
        (void)str_split(&rest, '\n', &line);
    } else if (given == NULL) {
        return 0;
    }
    line = str_trim(line);
    /* The text itself is never shown. */
    int rc = token_text_check(line);
    if (rc == -EILSEQ) {
        rc = err_say(e, -EINVAL, "%s: the token is mistyped: its check does not fit", from);
    } else if (rc != 0) {
        rc = err_say(e, -EINVAL, "%s: that is no token; one begins with agt_ ('agent token new')",
                     from);
    } else {
        rc = str_copy(ctx->token, sizeof(ctx->token), line);
    }
    if (text.len > 0) {
        mem_wipe(text.data, text.len);
    }
    return rc;
}

/* What the node's certificate is held against: the named file, or the system's list. */
static int set_tls(struct cli_ctx *ctx, const char *ca, enum cli_scheme scheme, struct err *e)
{
    static const char *const usual[] = { "/etc/ssl/certs/ca-certificates.crt",
                                         "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem" };
    AUTO_BUF struct buf pem = BUF_INIT((size_t)4 * 1024 * 1024);
    bool wanted = scheme == CLI_SCHEME_HTTPS || (scheme == CLI_SCHEME_NONE && ca != NULL);
    int rc = 0;
    if (!wanted) {
        return 0;
    }
    if (ca != NULL) {
        rc = sys_read_file(AT_FDCWD, ca, pem.max, &pem, e);
    } else {
        for (size_t i = 0; i < ARRAY_LEN(usual) && pem.len == 0; i++) {
            (void)sys_read_file(AT_FDCWD, usual[i], pem.max, &pem, NULL);
        }
    }
    const struct tls_config config = { .ca = buf_str(&pem) };
    rc = rc == 0 ? tls_context_new(&config, &ctx->tls, e) : rc;
    return rc == 0 ? 0 : err_prefix(e, "%s", ca != NULL ? ca : "the system's authorities");
}

int cli_set_node(struct cli_ctx *ctx, struct err *e)
{
    const char *given = cli_args_value(&ctx->args, "node");
    const char *name = given != NULL ? "--node" : "AGENT_ADDR";
    const char *addr = given != NULL ? given : variable("AGENT_ADDR");
    const char *ca = cli_args_value(&ctx->args, "tls-ca");
    enum cli_scheme scheme = CLI_SCHEME_NONE;
    int rc = cli_addr_parse(addr != NULL ? addr : "127.0.0.1:7575", ctx->host, sizeof(ctx->host),
                            &ctx->port, &scheme, e);
    if (rc != 0) {
        return err_prefix(e, "%s", name);
    }
    cli_addr_format(ctx->host, ctx->port, ctx->addr, sizeof(ctx->addr));
    rc = set_tls(ctx, ca != NULL ? ca : variable("AGENT_CA"), scheme, e);
    return rc == 0 ? set_token(ctx, e) : rc;
}

static int cmd_completion(struct cli_ctx *ctx)
{
    const char *shell = ctx->args.pos[0];
    if (cli_completion(str_of(shell), &ctx->out) != 0) {
        return cli_fail(CLI_EXIT_USAGE, "no completion for '%s'; bash, zsh and fish are known",
                        shell);
    }
    return cli_print(ctx, CLI_EXIT_OK);
}

static int cmd_version(struct cli_ctx *ctx)
{
    if (ctx->view.format == CLI_FORMAT_JSON) {
        struct json_w w;
        json_w_init(&w, &ctx->out, true);
        json_w_obj(&w);
        json_kv_cstr(&w, "version", version_number);
        json_kv_cstr(&w, "revision", version_revision);
        json_w_end(&w);
        (void)buf_addc(&ctx->out, '\n');
    } else {
        (void)buf_addf(&ctx->out, "agent %s (%s)\n", version_number, version_revision);
    }
    return cli_print(ctx, CLI_EXIT_OK);
}

static int cmd_help(struct cli_ctx *ctx)
{
    const struct cli_args *a = &ctx->args;
    if (cli_args_has(a, "man")) {
        cli_man(&ctx->out);
    } else if (cli_args_has(a, "man-conf")) {
        cli_man_conf(&ctx->out);
    } else if (a->pos_len == 0) {
        cli_help_all(&ctx->out);
    } else {
        struct str name = str_of(a->pos[0]);
        const struct cli_command *c = cli_command_find(name);
        if (c == NULL) {
            const struct cli_command *guess = cli_command_guess(name);
            return cli_fail(CLI_EXIT_USAGE, "there is no command '%s'%s%s%s", a->pos[0],
                            guess != NULL ? "; did you mean '" : "",
                            guess != NULL ? guess->name : "", guess != NULL ? "'?" : "");
        }
        cli_help_command(c, &ctx->out);
    }
    return cli_print(ctx, CLI_EXIT_OK);
}

/* main.c runs the daemon; here only its help is known. */
static int cmd_serve(struct cli_ctx *ctx)
{
    cli_help_command(&cli_commands[CLI_SERVE], &ctx->out);
    return cli_print(ctx, CLI_EXIT_OK);
}

static int (*const handlers[CLI_COMMANDS])(struct cli_ctx *) = {
    [CLI_SERVE] = cmd_serve,           [CLI_STATUS] = cli_cmd_status,
    [CLI_SUBMIT] = cli_cmd_submit,     [CLI_JOBS] = cli_cmd_jobs,
    [CLI_RUNS] = cli_cmd_runs,         [CLI_LOGS] = cli_cmd_logs,
    [CLI_OUTPUT] = cli_cmd_output,     [CLI_INSPECT] = cli_cmd_inspect,
    [CLI_CANCEL] = cli_cmd_cancel,     [CLI_RETRY] = cli_cmd_retry,
    [CLI_FAILED] = cli_cmd_failed,     [CLI_APPLY] = cli_cmd_apply,
    [CLI_PUSH] = cli_cmd_push,         [CLI_IMAGES] = cli_cmd_images,
    [CLI_NODES] = cli_cmd_nodes,       [CLI_DOCTOR] = cli_cmd_doctor,
    [CLI_CONFIG] = cli_cmd_config,     [CLI_COMPLETION] = cmd_completion,
    [CLI_VERSION] = cmd_version,       [CLI_HELP] = cmd_help,
    [CLI_TOKEN] = cli_cmd_token,       [CLI_MEMBERS] = cli_cmd_members,
    [CLI_DRAIN] = cli_cmd_drain,       [CLI_LEAVE] = cli_cmd_leave,
    [CLI_TABLE] = cli_cmd_table,       [CLI_TRIGGER] = cli_cmd_trigger,
    [CLI_SCHEDULE] = cli_cmd_schedule, [CLI_HOOK] = cli_cmd_hook,
    [CLI_SECRET] = cli_cmd_secret,     [CLI_CALLBACK] = cli_cmd_callback,
    [CLI_EVENTS] = cli_cmd_events,     [CLI_CA] = cli_cmd_ca,
    [CLI_KEYGEN] = cli_cmd_keygen,     [CLI_EXPLAIN] = cli_cmd_explain,
    [CLI_PROFILE] = cli_cmd_profile,   [CLI_TOP] = cli_cmd_top,
};

static int prepare(struct cli_ctx *ctx, struct err *e)
{
    const struct cli_args *a = &ctx->args;
    const char *term = variable("TERM");
    bool dumb = term == NULL || strcmp(term, "dumb") == 0;
    ctx->tty_err = cli_is_tty(STDERR_FILENO);
    ctx->view = (struct cli_view){
        .out = &ctx->out,
        .heads = !cli_args_has(a, "no-headers"),
        .colour = cli_is_tty(STDOUT_FILENO) && !dumb && variable("NO_COLOR") == NULL,
        .now_us = sys_wall_us(),
    };
    int rc = cli_format_parse(cli_args_value(a, "output"), &ctx->view.format, e);
    if (rc == 0 && cli_args_has(a, "quiet")) {
        ctx->view.format = CLI_FORMAT_QUIET;
    }
    if (rc == 0 && (a->command->groups & CLI_HAS_NODE) != 0) {
        rc = cli_set_node(ctx, e);
    }
    return rc;
}

static int run(struct cli_ctx *ctx, int argc, char **argv)
{
    struct err e = { .code = 0 };
    int rc = cli_args_parse(argc, argv, &ctx->args, &e);
    const struct cli_command *c = ctx->args.command;
    if (rc != 0) {
        return cli_fail(CLI_EXIT_USAGE, "%s", e.text);
    }
    if (c == NULL || cli_args_has(&ctx->args, "help")) {
        if (c != NULL) {
            cli_help_command(c, &ctx->out);
            return cli_print(ctx, CLI_EXIT_OK);
        }
        cli_help_all(&ctx->out);
        if (cli_args_has(&ctx->args, "help")) {
            return cli_print(ctx, CLI_EXIT_OK);
        }
        (void)sys_write_full(STDERR_FILENO, buf_cstr(&ctx->out), ctx->out.len);
        return CLI_EXIT_USAGE;
    }
    rc = prepare(ctx, &e);
    if (rc != 0) {
        return cli_fail(CLI_EXIT_USAGE, "%s", e.text);
    }
    return handlers[c - cli_commands](ctx);
}

int cli_main(int argc, char **argv)
{
    struct cli_ctx *ctx = mem_zalloc(sizeof(*ctx));
    if (ctx == NULL) {
        return cli_fail(CLI_EXIT_FAILED, "out of memory");
    }
    buf_init(&ctx->out, CLI_TABLE_MAX);
    int code = run(ctx, argc, argv);
    buf_release(&ctx->out);
    mem_wipe(ctx->token, sizeof(ctx->token));
    (void)tls_context_unref(ctx->tls);
    mem_free(ctx);
    return code;
}

int cli_is_serve(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "serve") != 0) {
        return 0;
    }
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return 0;
        }
    }
    return 1;
}

int cli_serve_parse(int argc, char **argv, struct cli_serve *ret)
{
    struct cli_args *a = mem_zalloc(sizeof(*a));
    const char **overrides = mem_calloc((size_t)argc, sizeof(*overrides));
    int code = 0;
    struct err e = { .code = 0 };
    if (a == NULL || overrides == NULL) {
        code = cli_fail(CLI_EXIT_FAILED, "out of memory");
    } else if (cli_args_parse(argc, argv, a, &e) != 0) {
        code = cli_fail(CLI_EXIT_USAGE, "%s", e.text);
    } else {
        for (size_t i = 0; i < a->pos_len; i++) {
            overrides[i] = a->pos[i];
        }
        *ret = (struct cli_serve){ .config = cli_args_value(a, "config"),
                                   .overrides = overrides,
                                   .overrides_len = a->pos_len };
        overrides = NULL;
    }
    mem_free(a);
    mem_free(overrides);
    return code;
}
