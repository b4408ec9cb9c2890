/* submit: the payload and what describes the run, up to the node's answer. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/cli/sys_cli.h"
#include "common/sys/sys.h"

enum { TARGET_MAX = 64 * 1024, DOCUMENT_MAX = 1024 * 1024, CODE_CAP = 64 };

struct payload {
    int fd; /* -1: none, or text */
    struct str text;
    bool has_length;
    uint64_t length;
    uint64_t sent;
    struct cli_progress *progress;
};

static ssize_t payload_source(void *arg, void *p, size_t n, struct err *e)
{
    struct payload *load = arg;
    ssize_t got = sys_read(load->fd, p, n);
    if (got < 0) {
        return err_set(e, (int)got, "read the payload");
    }
    load->sent += (uint64_t)got;
    if (cli_progress_due(load->progress)) {
        AUTO_BUF struct buf b = BUF_INIT(512);
        (void)buf_adds(&b, "uploading ");
        if (load->has_length) {
            cli_progress_bar(&b, load->sent, load->length);
            (void)buf_addc(&b, ' ');
        }
        cli_text_bytes(&b, (double)load->sent);
        if (load->has_length) {
            (void)buf_adds(&b, " of ");
            cli_text_bytes(&b, (double)load->length);
        }
        cli_progress_show(load->progress, buf_cstr(&b));
    }
    return got;
}

/* The size of what is left in a regular file; pipes and devices have none. */
static int measure(struct payload *load, struct err *e)
{
    struct stat st;
    if (fstat(load->fd, &st) != 0) {
        return err_set(e, -errno, "read the payload");
    }
    if (S_ISDIR(st.st_mode)) {
        return err_say(e, -EISDIR, "the payload is a directory");
    }
    if (S_ISREG(st.st_mode)) {
        off_t at = lseek(load->fd, 0, SEEK_CUR);
        load->has_length = true;
        load->length = at >= 0 && at < st.st_size ? (uint64_t)(st.st_size - at) : 0;
    }
    return 0;
}

/* Is there something on stdin that is meant for us? /dev/null and a closed stdin are not. */
static bool stdin_is_payload(void)
{
    struct stat st;
    if (fstat(STDIN_FILENO, &st) != 0 || cli_is_tty(STDIN_FILENO)) {
        return false;
    }
    return !S_ISCHR(st.st_mode);
}

static int open_payload(const struct cli_ctx *ctx, bool wait, struct payload *load, struct err *e)
{
    const char *file = cli_args_value(&ctx->args, "payload");
    const char *data = cli_args_value(&ctx->args, "data");
    if (file != NULL && data != NULL) {
        return err_say(e, -EINVAL, "'--payload' and '--data' exclude each other");
    }
    if (data != NULL && data[0] != '@') {
        load->text = str_of(data);
        return 0;
    }
    if (data != NULL) {
        file = data + 1;
    }
    if (file == NULL && wait && stdin_is_payload()) {
        file = "-";
    }
    if (file == NULL) {
        return 0;
    }
    int rc = cli_open_input(file, &load->fd, e);
    return rc != 0 ? rc : measure(load, e);
}

/* Where to, and for an image what: the document goes into the body when there is no payload. */
static int address(const struct cli_ctx *ctx, bool has_payload, struct buf *target,
                   struct buf *document, struct err *e)
{
    struct str name = str_of(ctx->args.pos[0]);
    if (!cli_is_image(name)) {
        const char *flag = cli_submit_image_flag(&ctx->args);
        if (flag != NULL) {
            return err_say(e, -EINVAL,
                           "'--%s' is for images; '%s' is a job, whose document says this", flag,
                           ctx->args.pos[0]);
        }
        if (ctx->args.rest_len > 0) {
            return err_say(
                e, -EINVAL,
                "words behind '--' are for images; '%s' is a job, whose document has the "
                "command",
                ctx->args.pos[0]);
        }
        (void)buf_adds(target, "/v1/jobs/");
        cli_escape_url(target, name, false);
        (void)buf_adds(target, "/runs");
        return 0;
    }
    int rc = cli_submit_document(&ctx->args, document, e);
    if (rc != 0) {
        return rc;
    }
    (void)buf_adds(target, "/v1/runs");
    if (has_payload) {
        size_t before = target->len;
        (void)buf_adds(target, "?spec=");
        cli_escape_url(target, buf_str(document), false);
        if (target->len - before > CLI_SPEC_MAX) {
            return err_say(e, -E2BIG,
                           "the command line is too long beside a payload; register a job with "
                           "'agent apply' instead");
        }
    }
    return 0;
}

static int headers_of(const struct cli_ctx *ctx, struct buf *headers, struct err *e)
{
    const char *key = cli_args_value(&ctx->args, "idempotency-key");
    (void)buf_adds(headers, "Accept: application/json\r\n");
    if (key == NULL) {
        return 0;
    }
    for (const char *p = key; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f) {
            return err_say(e, -EINVAL, "'--idempotency-key': printable ASCII is wanted");
        }
    }
    (void)buf_addf(headers, "Idempotency-Key: %s\r\n", key);
    return 0;
}

static int post(struct cli_ctx *ctx, struct payload *load, const char *target,
                const struct buf *document, struct json_doc **ret_doc, struct err *e)
{
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_BUF struct buf headers = BUF_INIT(8 * 1024);
    AUTO_BUF struct buf answer = BUF_INIT(CLI_ANSWER_MAX);
    bool has_payload = load->fd >= 0 || load->text.p != NULL;
    int rc = headers_of(ctx, &headers, e);
    if (rc == 0) {
        rc = cli_http_new(ctx, &h, e);
    }
    if (rc != 0) {
        return rc;
    }
    struct cli_request req = {
        .method = "POST",
        .target = target,
        .headers = buf_cstr(&headers),
        .type = has_payload         ? "application/octet-stream"
                : document->len > 0 ? "application/json"
                                    : NULL,
        .body = has_payload ? load->text : buf_str(document),
    };
    if (load->fd >= 0) {
        req.source = payload_source;
        req.source_arg = load;
        req.has_length = load->has_length;
        req.length = load->length;
    }
    rc = cli_http_request(h, &req, e);
    if (rc == 0) {
        rc = cli_http_body(h, &answer, e);
    }
    cli_progress_clear(load->progress);
    if (rc != 0) {
        return rc;
    }
    int status = cli_http_status(h);
    if (status != 200 && status != 202) {
        return cli_problem(status, buf_str(&answer), NULL, e);
    }
    if (json_parse(buf_cstr(&answer), answer.len, NULL, ret_doc, e) != 0) {
        (void)err_prefix(e, "the node's answer");
        return -EPROTO;
    }
    return 0;
}

static int submit(struct cli_ctx *ctx, bool wait, struct cli_progress *progress,
                  struct json_doc **ret_doc, struct err *e)
{
    struct payload load = { .fd = -1, .progress = progress };
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    AUTO_BUF struct buf document = BUF_INIT(DOCUMENT_MAX);
    int rc = open_payload(ctx, wait, &load, e);
    if (rc == 0) {
        rc = address(ctx, load.fd >= 0 || load.text.p != NULL, &target, &document, e);
    }
    if (rc == 0) {
        rc = post(ctx, &load, buf_cstr(&target), &document, ret_doc, e);
    }
    load.fd = fd_close(load.fd);
    return rc;
}

int cli_cmd_submit(struct cli_ctx *ctx)
{
    struct err e;
    AUTO_JSON struct json_doc *doc = NULL;
    struct cli_progress progress;
    bool shown = false;
    bool wait = cli_args_has(&ctx->args, "wait");
    if (wait && cli_args_has(&ctx->args, "detach")) {
        return cli_fail(CLI_EXIT_USAGE, "'--wait' and '--detach' exclude each other");
    }
    if (cli_wants_progress(ctx, &shown, &e) != 0) {
        return cli_fail(CLI_EXIT_USAGE, "%s", e.text);
    }
    cli_progress_init(&progress, shown);
    int rc = submit(ctx, wait, &progress, &doc, &e);
    if (rc == -EINVAL) {
        return cli_fail(CLI_EXIT_USAGE, "%s", e.text);
    }
    if (rc != 0) {
        return cli_fail(wait ? CLI_EXIT_AGENT : CLI_EXIT_FAILED, "%s", e.text);
    }
    char id[64];
    if (str_copy(id, sizeof(id), cli_json_str(json_root(doc), "id")) != 0 || id[0] == '\0') {
        return cli_fail(wait ? CLI_EXIT_AGENT : CLI_EXIT_FAILED, "the node's answer names no run");
    }
    if (wait) {
        return cli_wait_run(ctx, id, &progress);
    }
    if (ctx->view.format == CLI_FORMAT_TABLE) {
        ctx->view.format = CLI_FORMAT_QUIET; /* the id, for scripts */
    }
    cli_view_run(&ctx->view, json_root(doc));
    return cli_print(ctx, CLI_EXIT_OK);
}
