/* Commands that ask and show: status, runs, jobs, nodes, images, inspect. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/sys_cli.h"
#include "agent/image/image.h"
#include "common/ids.h"
#include "common/sys/sys.h"

enum { TARGET_MAX = 16 * 1024, PAGE = 1000, RUNS_DEFAULT = 20 };

/* GETs one document and shows it. */
static int show(struct cli_ctx *ctx, const char *target,
                void (*view)(struct cli_view *v, const struct json *root))
{
    struct err e;
    AUTO_JSON struct json_doc *doc = NULL;
    if (cli_call(ctx, NULL, "GET", target, (struct str){ NULL, 0 }, &doc, NULL, &e) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    view(&ctx->view, json_root(doc));
    return cli_print(ctx, CLI_EXIT_OK);
}

/* The page again and again, in place on a terminal: until the user has seen enough (Ctrl-C). A node
 * that does not answer for a while is asked again. */
static int watch_status(struct cli_ctx *ctx)
{
    enum { EVERY_MS = 2000 };
    bool in_place = cli_is_tty(STDOUT_FILENO) && ctx->view.format == CLI_FORMAT_TABLE;
    for (bool first = true;; first = false) {
        ctx->view.now_us = sys_wall_us();
        (void)buf_adds(&ctx->out, in_place ? "\033[H\033[2J" : first ? "" : "\n");
        int code = show(ctx, "/v1/status", cli_view_status);
        if (code != CLI_EXIT_OK && first) {
            return code;
        }
        sys_sleep_ms(EVERY_MS);
    }
}

int cli_cmd_status(struct cli_ctx *ctx)
{
    return cli_args_has(&ctx->args, "watch") ? watch_status(ctx)
                                             : show(ctx, "/v1/status", cli_view_status);
}

int cli_cmd_nodes(struct cli_ctx *ctx)
{
    if (ctx->args.pos_len == 0) {
        return show(ctx, "/v1/nodes", cli_view_nodes);
    }
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    (void)buf_adds(&target, "/v1/nodes/");
    cli_escape_url(&target, str_of(ctx->args.pos[0]), false);
    return show(ctx, buf_cstr(&target), cli_view_node);
}

int cli_cmd_members(struct cli_ctx *ctx)
{
    return show(ctx, "/v1/members", cli_view_members);
}

/* ---- lists that come in pages ---- */

struct pages {
    const char *path;  /* "/v1/runs" */
    const char *query; /* "&job=x", escaped */
    const char *key;   /* "runs" */
    uint64_t limit;    /* 0: all */
    void (*view)(struct cli_view *v, const struct json *list);
};

/* Appends the members of one page to a list that is being written. Sets *ret_len. */
static void copy_members(struct json_w *w, const struct json *root, const char *key,
                         size_t *ret_len)
{
    const struct json *list = json_get(root, key);
    *ret_len = 0;
    if (list == NULL || list->type != JSON_ARRAY) {
        return;
    }
    JSON_EACH (item, list) {
        json_w_value(w, item);
        (*ret_len)++;
    }
}

/* All pages as one document: {"runs": […]}. */
static int gather(struct cli_ctx *ctx, const struct pages *p, struct buf *out, struct err *e)
{
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    AUTO_BUF struct buf after = BUF_INIT(TARGET_MAX);
    struct json_w w;
    uint64_t have = 0;
    int rc = cli_http_new(ctx, &h, e);
    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_w_key(&w, p->key);
    json_w_arr(&w);
    while (rc == 0) {
        uint64_t want = p->limit == 0 || p->limit - have > PAGE ? PAGE : p->limit - have;
        AUTO_JSON struct json_doc *doc = NULL;
        buf_reset(&target);
        (void)buf_addf(&target, "%s?limit=%llu%s", p->path, (unsigned long long)want, p->query);
        if (after.len > 0) {
            (void)buf_addf(&target, "&after=%s", buf_cstr(&after));
        }
        rc = cli_call(ctx, h, "GET", buf_cstr(&target), (struct str){ NULL, 0 }, &doc, NULL, e);
        if (rc != 0) {
            return rc;
        }
        size_t got = 0;
        copy_members(&w, json_root(doc), p->key, &got);
        have += got;
        struct str next = cli_json_str(json_root(doc), "next");
        if (next.n == 0 || got == 0 || (p->limit != 0 && have >= p->limit)) {
            break;
        }
        buf_reset(&after);
        cli_escape_url(&after, next, false);
    }
    json_w_end(&w);
    json_w_end(&w);
    if (rc == 0 && buf_error(out) != 0) {
        rc = err_say(e, buf_error(out), "the list is too long");
    }
    return rc;
}

static int show_pages(struct cli_ctx *ctx, const struct pages *p)
{
    struct err e;
    AUTO_BUF struct buf all = BUF_INIT(8ULL * CLI_ANSWER_MAX);
    AUTO_JSON struct json_doc *doc = NULL;
    const struct json_limits limits = { .depth_max = 64, .nodes_max = 64 * 1024 * 1024 };
    int rc = gather(ctx, p, &all, &e);
    if (rc == 0) {
        rc = json_parse(buf_cstr(&all), all.len, &limits, &doc, &e);
    }
    if (rc != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    p->view(&ctx->view, json_root(doc));
    return cli_print(ctx, CLI_EXIT_OK);
}

static int limit_of(const struct cli_ctx *ctx, uint64_t standard, uint64_t *ret)
{
    const char *given = cli_args_value(&ctx->args, "limit");
    *ret = standard;
    if (given != NULL && str_u64(str_of(given), ret) != 0) {
        return cli_fail(CLI_EXIT_USAGE, "'--limit %s': a number is wanted", given);
    }
    return 0;
}

int cli_cmd_table(struct cli_ctx *ctx)
{
    AUTO_BUF struct buf query = BUF_INIT(TARGET_MAX);
    struct pages p = { .path = "/v1/table", .key = "rows", .view = cli_view_table };
    const char *type = cli_args_value(&ctx->args, "type");
    int rc = limit_of(ctx, 0, &p.limit);
    if (rc != 0) {
        return rc;
    }
    if (type != NULL) {
        (void)buf_adds(&query, "&type=");
        cli_escape_url(&query, str_of(type), false);
    }
    p.query = buf_cstr(&query);
    return show_pages(ctx, &p);
}

int cli_cmd_runs(struct cli_ctx *ctx)
{
    static const char *const names[] = { "job", "state" };
    AUTO_BUF struct buf query = BUF_INIT(TARGET_MAX);
    struct pages p = { .path = "/v1/runs", .key = "runs", .view = cli_view_runs };
    int rc = limit_of(ctx, RUNS_DEFAULT, &p.limit);
    if (rc != 0) {
        return rc;
    }
    for (size_t i = 0; i < 2; i++) {
        const char *value = cli_args_value(&ctx->args, names[i]);
        if (value != NULL) {
            (void)buf_addf(&query, "&%s=", names[i]);
            cli_escape_url(&query, str_of(value), false);
        }
    }
    p.query = buf_cstr(&query);
    return show_pages(ctx, &p);
}

/* ---- what failed for good ---- */

static void failed_pages(const struct cli_ctx *ctx, struct buf *query, struct pages *p)
{
    const char *job = cli_args_value(&ctx->args, "job");

    (void)buf_adds(query, "&state=failed,timed_out,lost");
    if (job != NULL) {
        (void)buf_adds(query, "&job=");
        cli_escape_url(query, str_of(job), false);
    }
    *p = (struct pages){ .path = "/v1/runs", .key = "runs", .view = cli_view_runs };
    p->query = buf_cstr(query);
}

/* False: it was not queued again; why is on stderr. */
static bool retry_one(struct cli_ctx *ctx, struct cli_http *h, const char *run)
{
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    struct err e;

    (void)buf_addf(&target, "/v1/runs/%s/retry", run);
    if (cli_call(ctx, h, "POST", buf_cstr(&target), (struct str){ NULL, 0 }, NULL, NULL, &e) != 0) {
        (void)cli_fail(CLI_EXIT_FAILED, "%s: %s", run, e.text);
        return false;
    }
    if (ctx->view.format != CLI_FORMAT_QUIET) {
        (void)buf_addf(&ctx->out, "%s queued\n", run);
    }
    return true;
}

/* The list is read as a whole first: what is retried may fail again meanwhile. */
static int retry_all(struct cli_ctx *ctx, struct cli_http *h)
{
    AUTO_BUF struct buf all = BUF_INIT(8ULL * CLI_ANSWER_MAX);
    AUTO_BUF struct buf query = BUF_INIT(TARGET_MAX);
    AUTO_JSON struct json_doc *doc = NULL;
    const struct json_limits limits = { .depth_max = 64, .nodes_max = 64 * 1024 * 1024 };
    struct pages p;
    struct err e;
    int code = CLI_EXIT_OK;

    failed_pages(ctx, &query, &p);
    int rc = gather(ctx, &p, &all, &e);
    rc = rc == 0 ? json_parse(buf_cstr(&all), all.len, &limits, &doc, &e) : rc;
    if (rc != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    const struct json *runs = json_get(json_root(doc), "runs");
    JSON_EACH (one, runs) {
        char run[64];
        if (str_copy(run, sizeof run, cli_json_str(one, "id")) != 0 || !retry_one(ctx, h, run)) {
            code = CLI_EXIT_FAILED;
        }
    }
    return cli_print(ctx, code);
}

int cli_cmd_failed(struct cli_ctx *ctx)
{
    const struct cli_args *a = &ctx->args;
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_BUF struct buf query = BUF_INIT(TARGET_MAX);
    struct pages p;
    struct err e;
    bool all = cli_args_has(a, "all");
    int code = CLI_EXIT_OK;

    if (a->pos_len == 0 || (strcmp(a->pos[0], "ls") == 0 && a->pos_len == 1)) {
        failed_pages(ctx, &query, &p);
        int rc = limit_of(ctx, RUNS_DEFAULT, &p.limit);
        return rc != 0 ? rc : show_pages(ctx, &p);
    }
    if (strcmp(a->pos[0], "retry") != 0 || all == (a->pos_len > 1)) {
        return cli_fail(CLI_EXIT_USAGE, "agent failed: ls, retry RUN ..., or retry --all");
    }
    if (cli_http_new(ctx, &h, &e) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    if (all) {
        return retry_all(ctx, h);
    }
    for (size_t i = 1; i < a->pos_len; i++) {
        char run[64];
        if (cli_resolve_run(ctx, h, a->pos[i], run, sizeof run, &e) != 0) {
            code = cli_fail(CLI_EXIT_FAILED, "%s: %s", a->pos[i], e.text);
        } else if (!retry_one(ctx, h, run)) {
            code = CLI_EXIT_FAILED;
        }
    }
    return cli_print(ctx, code);
}

/* One request without a body for each name; prints a line for each that worked. */
static int each_name(struct cli_ctx *ctx, size_t first, const char *method, const char *prefix,
                     const char *done)
{
    struct err e;
    AUTO_HTTP struct cli_http *h = NULL;
    if (cli_http_new(ctx, &h, &e) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    int code = CLI_EXIT_OK;
    for (size_t i = first; i < ctx->args.pos_len; i++) {
        AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
        (void)buf_adds(&target, prefix);
        cli_escape_url(&target, str_of(ctx->args.pos[i]), false);
        if (cli_call(ctx, h, method, buf_cstr(&target), (struct str){ NULL, 0 }, NULL, NULL, &e) !=
            0) {
            code = cli_fail(CLI_EXIT_FAILED, "%s: %s", ctx->args.pos[i], e.text);
            continue;
        }
        if (ctx->view.format != CLI_FORMAT_QUIET) {
            cli_text_safe(&ctx->out, str_of(ctx->args.pos[i]));
            (void)buf_addf(&ctx->out, " %s\n", done);
        }
    }
    return cli_print(ctx, code);
}

int cli_cmd_jobs(struct cli_ctx *ctx)
{
    const struct cli_args *a = &ctx->args;
    const char *word = a->pos_len > 0 ? a->pos[0] : "ls";
    if (strcmp(word, "rm") == 0) {
        return a->pos_len > 1 ? each_name(ctx, 1, "DELETE", "/v1/jobs/", "removed")
                              : cli_fail(CLI_EXIT_USAGE, "which job? agent jobs rm JOB ...");
    }
    if (strcmp(word, "ls") != 0 || a->pos_len > 1) {
        return cli_fail(CLI_EXIT_USAGE,
                        "'agent jobs %s': ls or rm is wanted ('agent inspect JOB' "
                        "shows one job)",
                        word);
    }
    struct pages p = { .path = "/v1/jobs", .query = "", .key = "jobs", .view = cli_view_jobs };
    int rc = limit_of(ctx, 0, &p.limit);
    return rc != 0 ? rc : show_pages(ctx, &p);
}

/* ---- images ---- */

static int remove_image(struct cli_ctx *ctx, struct cli_http *h, const char *name, struct err *e)
{
    struct image_ref ref;
    char digest[DIGEST_TEXT_CAP];
    int rc = image_ref_parse(str_of(name), &ref, e);
    if (rc != 0) {
        return rc;
    }
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    if (ref.digest.algo != DIGEST_NONE) {
        /* A manifest with all its tags: the registry's own request. */
        (void)buf_addf(&target, "/v2/%s/manifests/%s", ref.repository,
                       digest_format(&ref.digest, digest));
    } else {
        (void)buf_adds(&target, "/v1/images/");
        cli_escape_url(&target, str_of(ref.repository), true);
        (void)buf_addf(&target, "?tag=%s", ref.tag);
    }
    return cli_call(ctx, h, "DELETE", buf_cstr(&target), (struct str){ NULL, 0 }, NULL, NULL, e);
}

static int remove_images(struct cli_ctx *ctx)
{
    struct err e;
    AUTO_HTTP struct cli_http *h = NULL;
    if (ctx->args.pos_len < 2) {
        return cli_fail(CLI_EXIT_USAGE, "which image? agent images rm REPOSITORY:TAG ...");
    }
    if (cli_http_new(ctx, &h, &e) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    int code = CLI_EXIT_OK;
    for (size_t i = 1; i < ctx->args.pos_len; i++) {
        if (remove_image(ctx, h, ctx->args.pos[i], &e) != 0) {
            code = cli_fail(CLI_EXIT_FAILED, "%s: %s", ctx->args.pos[i], e.text);
        } else if (ctx->view.format != CLI_FORMAT_QUIET) {
            cli_text_safe(&ctx->out, str_of(ctx->args.pos[i]));
            (void)buf_adds(&ctx->out, " removed\n");
        }
    }
    return cli_print(ctx, code);
}

static int prune_images(struct cli_ctx *ctx)
{
    struct err e;
    AUTO_JSON struct json_doc *doc = NULL;
    if (!cli_args_has(&ctx->args, "yes") && cli_is_tty(STDIN_FILENO) && ctx->tty_err) {
        static const char question[] = "Drop all blobs that no tag and no run needs? [y/N] ";
        char answer[8] = { 0 };
        (void)sys_write_full(STDERR_FILENO, question, sizeof(question) - 1);
        if (sys_read(STDIN_FILENO, answer, sizeof(answer) - 1) <= 0 ||
            (answer[0] != 'y' && answer[0] != 'Y')) {
            return cli_fail(CLI_EXIT_FAILED, "nothing was done");
        }
    }
    if (cli_call(ctx, NULL, "POST", "/v1/images/prune", (struct str){ NULL, 0 }, &doc, NULL, &e) !=
        0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    if (ctx->view.format == CLI_FORMAT_JSON) {
        cli_view_json(&ctx->view, json_root(doc));
    } else {
        (void)buf_adds(&ctx->out, "pruned");
        JSON_EACH (item, json_root(doc)) {
            double n = 0;
            if (!json_real(item, &n)) {
                continue;
            }
            (void)buf_adds(&ctx->out, ", ");
            cli_text_safe(&ctx->out, item->key);
            (void)buf_addc(&ctx->out, ' ');
            if (str_ends(item->key, "bytes")) {
                cli_text_bytes(&ctx->out, n);
            } else {
                (void)buf_addf(&ctx->out, "%.0f", n);
            }
        }
        (void)buf_addc(&ctx->out, '\n');
    }
    return cli_print(ctx, CLI_EXIT_OK);
}

int cli_cmd_images(struct cli_ctx *ctx)
{
    const char *word = ctx->args.pos_len > 0 ? ctx->args.pos[0] : "ls";
    if (strcmp(word, "ls") == 0 && ctx->args.pos_len < 2) {
        return show(ctx, "/v1/images", cli_view_images);
    }
    if (strcmp(word, "rm") == 0) {
        return remove_images(ctx);
    }
    if (strcmp(word, "prune") == 0 && ctx->args.pos_len < 2) {
        return prune_images(ctx);
    }
    return cli_fail(CLI_EXIT_USAGE, "'agent images %s': ls, rm or prune is wanted", word);
}

/* ---- runs by what people type ---- */

/* Looks through the newest runs: 0 with dst set, -ENOENT, -EEXIST (several). */
static int search_runs(const struct json *root, struct str word, char *dst, size_t cap,
                       struct err *e)
{
    const struct json *runs = json_get(root, "runs");
    AUTO_BUF struct buf several = BUF_INIT(512);
    size_t found = 0;
    if (runs == NULL || runs->type != JSON_ARRAY) {
        return -ENOENT;
    }
    JSON_EACH (run, runs) {
        struct str id = cli_json_str(run, "id");
        if (!cli_run_matches(id, word)) {
            continue;
        }
        if (found++ == 0 && str_copy(dst, cap, id) != 0) {
            return -ENOENT;
        }
        if (found <= 4) {
            (void)buf_adds(&several, found > 1 ? ", " : "");
            cli_text_safe(&several, id);
        }
    }
    if (found > 1) {
        return err_say(e, -EEXIST, "'%.*s' means %zu runs: %s%s", STR_ARG(word), found,
                       buf_cstr(&several), found > 4 ? ", ..." : "");
    }
    return found == 1 ? 0 : -ENOENT;
}

int cli_resolve_run(struct cli_ctx *ctx, struct cli_http *h, const char *word, char *dst,
                    size_t cap, struct err *e)
{
    struct ulid id;
    struct str w = str_of(word);
    if (str_starts(w, "run/")) {
        w = str_slice(w, 4, w.n);
    }
    if (ulid_parse(w, &id) == 0) {
        char text[ULID_TEXT_CAP];
        ulid_format(id, text);
        return str_copy(dst, cap, str_of(text));
    }
    AUTO_JSON struct json_doc *recent = NULL;
    int rc =
        cli_call(ctx, h, "GET", "/v1/runs?limit=1000", (struct str){ NULL, 0 }, &recent, NULL, e);
    if (rc == 0) {
        rc = search_runs(json_root(recent), w, dst, cap, e);
    }
    if (rc != -ENOENT) {
        return rc;
    }
    if (str_starts(w, "job/")) {
        w = str_slice(w, 4, w.n);
    }
    AUTO_JSON struct json_doc *own = NULL;
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    (void)buf_adds(&target, "/v1/runs?limit=1&job=");
    cli_escape_url(&target, w, false);
    struct err unknown; /* a server that refuses the name as a job's */
    if (cli_call(ctx, h, "GET", buf_cstr(&target), (struct str){ NULL, 0 }, &own, NULL, &unknown) ==
        0) {
        const struct json *runs = json_get(json_root(own), "runs");
        if (runs != NULL && runs->type == JSON_ARRAY && runs->child != NULL) {
            return str_copy(dst, cap, cli_json_str(runs->child, "id"));
        }
    }
    return err_say(e, -ENOENT, "there is no run '%s' (see 'agent runs')", word);
}

/* A job of that name; false when there is none. */
static bool get_job(struct cli_ctx *ctx, struct cli_http *h, struct str name,
                    struct json_doc **ret_doc, struct err *e)
{
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    int status = 0;
    (void)buf_adds(&target, "/v1/jobs/");
    cli_escape_url(&target, name, false);
    return cli_call(ctx, h, "GET", buf_cstr(&target), (struct str){ NULL, 0 }, ret_doc, &status,
                    e) == 0;
}

int cli_cmd_inspect(struct cli_ctx *ctx)
{
    struct err e;
    struct ulid id;
    AUTO_HTTP struct cli_http *h = NULL;
    AUTO_JSON struct json_doc *doc = NULL;
    struct str word = str_of(ctx->args.pos[0]);
    bool is_id = ulid_parse(word, &id) == 0 || str_starts(word, "run/");
    struct str job = str_starts(word, "job/") ? str_slice(word, 4, word.n) : word;
    if (cli_http_new(ctx, &h, &e) != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    if (!is_id && get_job(ctx, h, job, &doc, &e)) {
        cli_view_job(&ctx->view, json_root(doc));
        return cli_print(ctx, CLI_EXIT_OK);
    }
    char run[64];
    int rc = cli_resolve_run(ctx, h, ctx->args.pos[0], run, sizeof(run), &e);
    if (rc == -ENOENT) {
        return cli_fail(CLI_EXIT_FAILED, "there is no run and no job '%s'", ctx->args.pos[0]);
    }
    if (rc == 0) {
        AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
        (void)buf_addf(&target, "/v1/runs/%s", run);
        rc = cli_call(ctx, h, "GET", buf_cstr(&target), (struct str){ NULL, 0 }, &doc, NULL, &e);
    }
    if (rc != 0) {
        return cli_fail(CLI_EXIT_FAILED, "%s", e.text);
    }
    cli_view_run(&ctx->view, json_root(doc));
    return cli_print(ctx, CLI_EXIT_OK);
}
