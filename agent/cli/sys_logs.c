/* logs and output: a run's streams, raw, also while it runs. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/sys_cli.h"
#include "common/sys/sys.h"

enum { TARGET_MAX = 8 * 1024, TRIES_MAX = 20, PAUSE_MS = 250 };

/* Where a stream goes, and how far it came: a follow that broke is taken up there. */
struct stream {
    uint64_t seen; /* bytes written so far */
    uint64_t skip; /* bytes of this answer that were written before */
};

static int to_stdout(void *arg, struct str data, struct err *e)
{
    struct stream *s = arg;
    if (s->skip >= data.n) {
        s->skip -= data.n;
        return 0;
    }
    data = str_slice(data, (size_t)s->skip, data.n);
    s->skip = 0;
    int rc = sys_write_full(STDOUT_FILENO, data.p, data.n);
    if (rc != 0) {
        return err_set(e, rc, "write to stdout");
    }
    s->seen += data.n;
    return 0;
}

/* One answer. *ret_broken: the connection went away in the middle. */
static int copy_once(struct cli_http *h, const char *target, struct stream *s, bool *ret_broken,
                     struct err *e)
{
    const struct cli_request req = { .method = "GET", .target = target };
    *ret_broken = false;
    int rc = cli_http_request(h, &req, e);
    if (rc != 0) {
        *ret_broken = true;
        return rc;
    }
    int status = cli_http_status(h);
    if (status != 200) {
        AUTO_BUF struct buf body = BUF_INIT(CLI_ANSWER_MAX);
        rc = cli_http_body(h, &body, e);
        return rc != 0 ? rc : cli_problem(status, buf_str(&body), NULL, e);
    }
    s->skip = s->seen;
    rc = cli_http_drain(h, to_stdout, s, e);
    *ret_broken = rc == -ECONNRESET || rc == -EPIPE;
    return rc;
}

/* resume: the text does not change behind our back, so that a broken answer can go on. */
static int copy_stream(struct cli_ctx *ctx, struct cli_http *h, const char *target, bool resume)
{
    struct stream s = { .seen = 0 };
    struct err e;
    for (int tries = 0;; tries++) {
        uint64_t before = s.seen;
        bool broken = false;
        int rc = copy_once(h, target, &s, &broken, &e);
        if (rc == 0) {
            return CLI_EXIT_OK;
        }
        tries = s.seen > before ? 0 : tries;
        bool begun = s.seen > 0 || tries > 0;
        if (!broken || !resume || !begun || tries >= TRIES_MAX) {
            return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
        }
        if (tries == 0 && ctx->tty_err) {
            (void)cli_fail(0, "%s; trying again", e.text);
        }
        sys_sleep_ms(PAUSE_MS);
    }
}

static int find_run(struct cli_ctx *ctx, struct cli_http **ret_h, char *run, size_t cap)
{
    struct err e;
    int rc = cli_http_new(ctx, ret_h, &e);
    if (rc == 0) {
        rc = cli_resolve_run(ctx, *ret_h, ctx->args.pos[0], run, cap, &e);
    }
    return rc == 0 ? 0 : cli_fail(CLI_EXIT_FAILED, "%s", e.text);
}

static int add_number(const struct cli_ctx *ctx, const char *option, struct buf *target)
{
    const char *value = cli_args_value(&ctx->args, option);
    uint64_t n = 0;
    if (value == NULL) {
        return 0;
    }
    if (str_u64(str_of(value), &n) != 0) {
        return cli_fail(CLI_EXIT_USAGE, "'--%s %s': a number is wanted", option, value);
    }
    (void)buf_addf(target, "&%s=%llu", option, (unsigned long long)n);
    return 0;
}

int cli_cmd_logs(struct cli_ctx *ctx)
{
    const struct cli_args *a = &ctx->args;
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    char run[64];
    bool both = cli_args_has(a, "both") || (cli_args_has(a, "stdout") && cli_args_has(a, "stderr"));
    const char *stream = both ? "both" : cli_args_has(a, "stdout") ? "stdout" : "stderr";
    int code = find_run(ctx, &h, run, sizeof(run));
    if (code != 0) {
        return code;
    }
    (void)buf_addf(&target, "/v1/runs/%s/logs?stream=%s", run, stream);
    if (cli_args_has(a, "follow")) {
        (void)buf_adds(&target, "&follow=1");
    }
    code = add_number(ctx, "tail", &target);
    const char *since = cli_args_value(a, "since");
    if (since != NULL) {
        (void)buf_adds(&target, "&since=");
        cli_escape_url(&target, str_of(since), false);
    }
    bool whole = since == NULL && !cli_args_has(a, "tail") && !both;
    return code != 0 ? code : copy_stream(ctx, h, buf_cstr(&target), whole);
}

int cli_cmd_output(struct cli_ctx *ctx)
{
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    char run[64];
    int code = find_run(ctx, &h, run, sizeof(run));
    if (code != 0) {
        return code;
    }
    (void)buf_addf(&target, "/v1/runs/%s/output?follow=%d", run,
                   cli_args_has(&ctx->args, "follow") ? 1 : 0);
    code = add_number(ctx, "attempt", &target);
    return code != 0 ? code : copy_stream(ctx, h, buf_cstr(&target), true);
}
