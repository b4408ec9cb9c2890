/*
 * sys_cli - what the commands share: the context of one call, HTTP to a node, the terminal.
 */
#ifndef AGENT_CLI_SYS_CLI_H
#define AGENT_CLI_SYS_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/cli/cli_internal.h"
#include "common/http1.h"
#include "common/loop/tls.h"
#include "common/token.h"

enum {
    CLI_ANSWER_MAX = 64 * 1024 * 1024, /* bytes of an answer that is held in memory */
    CLI_ADDR_CAP = 280,
};

struct cli_ctx {
    struct cli_args args;
    char host[256];
    uint16_t port;
    char addr[CLI_ADDR_CAP];    /* for messages */
    char token[TOKEN_TEXT_CAP]; /* "": none is shown */
    struct tls_context *tls;    /* NULL: plain HTTP */
    struct buf out;             /* what goes to stdout at the end */
    struct cli_view view;       /* writes to out */
    bool tty_err;
};

/* ---- the context (sys_cli.c) ---- */

/* Prints "agent: TEXT" to stderr. Returns code. */
int cli_fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Writes ctx->out to stdout and empties it. Returns code, or CLI_EXIT_FAILED when it failed. */
int cli_print(struct cli_ctx *ctx, int code);
/* A file that the user named; "-" is stdin. */
int cli_open_input(const char *file, int *ret_fd, struct err *e);
/* All of it, as far as out's cap allows. */
int cli_read_input(const char *file, struct buf *out, struct err *e);
/* "auto", "always", "never" of --progress. -EINVAL. */
int cli_wants_progress(const struct cli_ctx *ctx, bool *ret, struct err *e);
/* The address (AGENT_ADDR, --node), whom to trust (AGENT_CA, --tls-ca) and the token (AGENT_TOKEN,
 * --token-file) into ctx. TLS is spoken when the address begins with https://, or has no scheme and
 * an authority is named. -EINVAL, or what reading a file gave. */
int cli_set_node(struct cli_ctx *ctx, struct err *e);

/* ---- the progress line (sys_terminal.c) ---- */

struct cli_progress {
    bool on;
    bool tty;         /* one line that is redrawn; else lines */
    bool shown;       /* something stands on the line */
    uint64_t next_us; /* not before */
};

void cli_progress_init(struct cli_progress *p, bool on);
/* Is it time for a new text? */
bool cli_progress_due(const struct cli_progress *p);
void cli_progress_show(struct cli_progress *p, const char *text);
/* Takes the line away. */
void cli_progress_clear(struct cli_progress *p);
bool cli_is_tty(int fd);
/* "[#####     ]" of 20 columns. */
void cli_progress_bar(struct buf *out, uint64_t done, uint64_t total);

/* ---- HTTP (sys_http.c) ---- */

struct cli_http; /* a connection to the node; connects when it is needed */

/* Reads up to n bytes of a body into p: the count, 0 at the end, -Exxx with e set. */
typedef ssize_t cli_source_fn(void *arg, void *p, size_t n, struct err *e);
/* Takes a piece of an answer's body. 0, or -Exxx to stop. */
typedef int cli_sink_fn(void *arg, struct str data, struct err *e);

struct cli_request {
    const char *method;
    const char *target;    /* path and query, escaped */
    const char *type;      /* Content-Type, or NULL */
    const char *headers;   /* more lines, each with CRLF; or NULL */
    struct str body;       /* when source is NULL */
    cli_source_fn *source; /* a streamed body */
    void *source_arg;
    bool has_length; /* of the source; else chunked */
    uint64_t length;
    int timeout_ms; /* for the answer's head; 0: 300 s, -1: none */
};

/* -ENOMEM. */
int cli_http_new(const struct cli_ctx *ctx, struct cli_http **ret, struct err *e);
struct cli_http *cli_http_free(struct cli_http *h); /* returns NULL */
static inline void cli_http_cleanup(struct cli_http **h)
{
    *h = cli_http_free(*h);
}
#define AUTO_HTTP __attribute__((cleanup(cli_http_cleanup)))

/* Sends the request and reads the head of its answer: 0, then http1_head() of cli_http_head(). A
 * connection that was kept alive and has gone meanwhile is made again for requests without a
 * source. -ECONNREFUSED and the like: nobody answers; -ECONNRESET, -EPIPE: lost on the way. */
int cli_http_request(struct cli_http *h, const struct cli_request *req, struct err *e);
/* As cli_http_request(), but does not wait for the answer: pump until the head is there. */
int cli_http_begin(struct cli_http *h, const struct cli_request *req, struct err *e);
/* Has the answer's head come? */
bool cli_http_headed(const struct cli_http *h);
const struct http1_head *cli_http_head(const struct cli_http *h);
int cli_http_status(const struct cli_http *h);
/* For poll(2). */
int cli_http_fd(const struct cli_http *h);
/* Gives the sink what has come in, reading once, without waiting: 1 the answer is over, 0 there may
 * be more, -Exxx. */
int cli_http_pump(struct cli_http *h, cli_sink_fn *sink, void *arg, struct err *e);
/* The whole rest of the answer, waiting. */
int cli_http_drain(struct cli_http *h, cli_sink_fn *sink, void *arg, struct err *e);
/* Appends the whole rest to out. */
int cli_http_body(struct cli_http *h, struct buf *out, struct err *e);

/* ---- one request, one answer ---- */

/* A JSON answer with a 2xx status; anything else is an error whose sentence is the server's. body
 * may be empty. ret_doc may be NULL; *ret_status (may be NULL) is set whenever an answer came. */
int cli_call(struct cli_ctx *ctx, struct cli_http *h, const char *method, const char *target,
             struct str body, struct json_doc **ret_doc, int *ret_status, struct err *e);

/* The whole run id that was meant by `word`: an id, the beginning or end of one, a job's name. cap
 * is at least 64. */
int cli_resolve_run(struct cli_ctx *ctx, struct cli_http *h, const char *word, char *dst,
                    size_t cap, struct err *e);

/* ---- commands; each returns the exit code ---- */

int cli_cmd_status(struct cli_ctx *ctx);
int cli_cmd_submit(struct cli_ctx *ctx);
int cli_cmd_jobs(struct cli_ctx *ctx);
int cli_cmd_runs(struct cli_ctx *ctx);
int cli_cmd_logs(struct cli_ctx *ctx);
int cli_cmd_output(struct cli_ctx *ctx);
int cli_cmd_inspect(struct cli_ctx *ctx);
int cli_cmd_explain(struct cli_ctx *ctx);
int cli_cmd_profile(struct cli_ctx *ctx);
int cli_cmd_top(struct cli_ctx *ctx);
int cli_cmd_cancel(struct cli_ctx *ctx);
int cli_cmd_retry(struct cli_ctx *ctx);
int cli_cmd_apply(struct cli_ctx *ctx);
int cli_cmd_push(struct cli_ctx *ctx);
int cli_cmd_images(struct cli_ctx *ctx);
int cli_cmd_nodes(struct cli_ctx *ctx);
int cli_cmd_members(struct cli_ctx *ctx);
int cli_cmd_drain(struct cli_ctx *ctx);
int cli_cmd_leave(struct cli_ctx *ctx);
int cli_cmd_table(struct cli_ctx *ctx);
int cli_cmd_failed(struct cli_ctx *ctx);
int cli_cmd_trigger(struct cli_ctx *ctx);
int cli_cmd_callback(struct cli_ctx *ctx);
int cli_cmd_events(struct cli_ctx *ctx);
int cli_cmd_schedule(struct cli_ctx *ctx);
int cli_cmd_hook(struct cli_ctx *ctx);
int cli_cmd_secret(struct cli_ctx *ctx);
int cli_cmd_token(struct cli_ctx *ctx);
int cli_cmd_ca(struct cli_ctx *ctx);
int cli_cmd_keygen(struct cli_ctx *ctx);
int cli_cmd_doctor(struct cli_ctx *ctx);
int cli_cmd_config(struct cli_ctx *ctx);

/* Follows a submitted run to its end (sys_wait.c): the run's streams to stdout and stderr. Returns
 * the run's exit code. */
int cli_wait_run(struct cli_ctx *ctx, const char *id, struct cli_progress *progress);

#endif
