/* events: the feed of a node, line by line, for as long as it takes. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/sys_cli.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    TARGET_MAX = 8 * 1024,
    LINE_MAX_BYTES = 256 * 1024,
    ID_MAX = 128,
    TRIES_MAX = 20,
    PAUSE_MS = 500
};

struct reader {
    struct cli_ctx *ctx;
    struct buf line; /* that is not whole yet */
    char last[ID_MAX + 1];
    char id[ID_MAX + 1]; /* of the event that is being read */
    uint64_t seen, want; /* want 0: no end */
    bool json;
};

/* One event as people read it. */
static void show(struct reader *r, struct str text)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct buf *out = &r->ctx->out;
    struct str s;

    if (r->json || json_parse(text.p, text.n, NULL, &doc, NULL) != 0) {
        (void)buf_addstr(out, text);
        (void)buf_addc(out, '\n');
        return;
    }
    const struct json *ev = json_root(doc);
    const struct json *data = json_get(ev, "data");
    static const char *const members[] = { "subject", "job" };
    cli_text_safe(out, cli_json_str(ev, "time"));
    (void)buf_addc(out, ' ');
    cli_text_safe(out, cli_json_str(ev, "type"));
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        s = cli_json_str(ev, members[i]);
        if (s.n != 0) {
            (void)buf_addc(out, ' ');
            cli_text_safe(out, s);
        }
    }
    static const char *const details[] = { "reason", "node", "kind", "url", "detail" };
    for (size_t i = 0; data != NULL && data->type == JSON_OBJECT && i < ARRAY_LEN(details); i++) {
        s = cli_json_str(data, details[i]);
        if (s.n != 0 && !str_eqs(s, "none")) {
            (void)buf_addf(out, " %s=", details[i]);
            cli_text_safe(out, s);
        }
    }
    (void)buf_addc(out, '\n');
}

static int flush(struct reader *r, struct err *e)
{
    struct buf *out = &r->ctx->out;
    int rc = buf_error(out);

    rc = rc == 0 ? sys_write_full(STDOUT_FILENO, out->data, out->len) : rc;
    buf_reset(out);
    return rc == 0 ? 0 : err_set(e, rc, "write to stdout");
}

static int line_came(struct reader *r, struct str line, struct err *e)
{
    if (str_starts(line, "id: ")) {
        (void)str_copy(r->id, sizeof r->id, str_slice(line, 4, line.n));
        return 0;
    }
    if (!str_starts(line, "data: ")) {
        return 0;
    }
    show(r, str_slice(line, 6, line.n));
    if (r->id[0] != '\0') {
        memcpy(r->last, r->id, sizeof r->last);
    }
    r->id[0] = '\0';
    r->seen++;
    int rc = flush(r, e);
    return rc == 0 && r->want != 0 && r->seen >= r->want ? -ECANCELED : rc;
}

static int data_came(void *arg, struct str data, struct err *e)
{
    struct reader *r = arg;
    int rc = buf_addstr(&r->line, data) != 0 ? err_set(e, -EMSGSIZE, "an event") : 0;
    const char *end;

    while (rc == 0 && r->line.len != 0 && (end = memchr(r->line.data, '\n', r->line.len)) != NULL) {
        size_t n = (size_t)(end - r->line.data);
        rc = line_came(r, str_slice(buf_str(&r->line), 0, n), e);
        buf_consume(&r->line, n + 1);
    }
    return rc;
}

/* *ret_broken: the connection went away, which another one can make good. */
static int read_once(struct reader *r, struct cli_http *h, const char *target, bool *ret_broken,
                     struct err *e)
{
    AUTO_BUF struct buf headers = BUF_INIT(512);
    struct cli_request req = { .method = "GET", .target = target };

    if (r->last[0] != '\0') {
        (void)buf_addf(&headers, "Last-Event-ID: %s\r\n", r->last);
        req.headers = buf_cstr(&headers);
    }
    *ret_broken = true;
    int rc = cli_http_request(h, &req, e);
    if (rc != 0) {
        return rc;
    }
    int status = cli_http_status(h);
    if (status != 200) {
        AUTO_BUF struct buf body = BUF_INIT(CLI_ANSWER_MAX);
        *ret_broken = false;
        rc = cli_http_body(h, &body, e);
        return rc != 0 ? rc : cli_problem(status, buf_str(&body), NULL, e);
    }
    buf_reset(&r->line);
    r->id[0] = '\0';
    rc = cli_http_drain(h, data_came, r, e);
    *ret_broken = rc == 0 || rc == -ECONNRESET || rc == -EPIPE || rc == -EPROTO;
    return rc == 0 ? err_say(e, -ECONNRESET, "the node has ended the feed") : rc;
}

static void query(const struct cli_ctx *ctx, struct buf *target, const char *option, char *sep)
{
    const char *value = cli_args_value(&ctx->args, option);

    if (value != NULL) {
        (void)buf_addf(target, "%c%s=", *sep, option);
        cli_escape_url(target, str_of(value), false);
        *sep = '&';
    }
}

static int follow(struct cli_ctx *ctx, struct reader *r, const char *target)
{
    struct err e = { 0 };

    for (int tries = 0;; tries++) {
        AUTO_HTTP struct cli_http *h = NULL;
        bool broken = false;
        uint64_t before = r->seen;
        int rc = cli_http_new(ctx, &h, &e);
        rc = rc == 0 ? read_once(r, h, target, &broken, &e) : rc;
        if (rc == -ECANCELED) {
            return CLI_EXIT_OK;
        }
        tries = r->seen > before ? 0 : tries;
        bool begun = r->seen != 0 || tries > 0;
        if (!broken || !begun || tries >= TRIES_MAX) {
            return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
        }
        sys_sleep_ms(PAUSE_MS);
    }
}

int cli_cmd_events(struct cli_ctx *ctx)
{
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    struct reader r = { .ctx = ctx, .json = ctx->view.format == CLI_FORMAT_JSON };
    const char *after = cli_args_value(&ctx->args, "after");
    const char *count = cli_args_value(&ctx->args, "count");
    char sep = '?';

    if (count != NULL && str_u64_in(str_of(count), 1, UINT64_MAX, &r.want) != 0) {
        return cli_fail(CLI_EXIT_USAGE, "'--count %s': a number from 1 on is wanted", count);
    }
    if (after != NULL &&
        (str_copy(r.last, sizeof r.last, str_of(after)) != 0 || strpbrk(after, "\r\n") != NULL)) {
        return cli_fail(CLI_EXIT_USAGE, "'--after %.40s': an event's id is wanted", after);
    }
    (void)buf_adds(&target, "/v1/events");
    query(ctx, &target, "type", &sep);
    query(ctx, &target, "job", &sep);
    buf_init(&r.line, LINE_MAX_BYTES);
    int code = follow(ctx, &r, buf_cstr(&target));
    buf_release(&r.line);
    return code;
}
