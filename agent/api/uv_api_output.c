/*
 * Outputs and logs: whole (with ranges), as far as they are, or followed to the run's end.
 *
 *   run known? ─> open (pool) ─┬─ ended, stdout: the file itself, with ranges
 *        ^                     └─ read a piece (pool) ─> write ─> … ─> nothing more ─┬─> end
 *        |                             ^                                             |
 *        └──── the next attempt ───────┴───────── 60 ms later, while it follows <────┘
 *
 * An attempt that a peer has is asked of that peer, and comes through; when it is over its files
 * are here.
 *
 * File reads happen on pool threads. The state is its own object: it outlives the request while a
 * read is under way.
 */
#include <errno.h>

#include "agent/api/api_internal.h"
#include "common/loop/http_client.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    PIECE = 32 * 1024,
    WAIT_MS = 250, /* for an attempt that has no files yet */
    TAIL_MAX = 1000000,
};

struct follow {
    struct api *api;
    struct api_call *call; /* NULL: the request is gone */
    struct loop_work work;
    struct ulid id;
    uint32_t attempt; /* being read */
    uint32_t latest;  /* of the run */
    bool attempt_given;
    bool follow;
    bool raw; /* /output: bytes and ranges; else text */
    bool both;
    bool run_ended;
    bool changed;         /* the watch has spoken: what it said is newer than any answer */
    struct http_call *up; /* the peer's answer, while it comes */
    bool handed;          /* something of it was passed on */
    bool waits;           /* the peer has said all: for the attempt's end */
    bool opens;           /* waits for the attempt to have files */
    bool reads;           /* waits for more to read */
    bool guest;           /* the run's owner asks, for a run that is here as a guest */
    enum sandbox_stream stream;
    int64_t since_us;
    uint64_t tail; /* lines; UINT64_MAX: all */
    /* The pool's while work is busy. */
    struct sandbox_output *out;
    struct sandbox_output_stat stat;
    uint64_t pos;
    struct sandbox_merge merge;
    uint64_t skip_lines;
    uint64_t left; /* bytes that a reader who does not follow gets at most */
    char *piece;
    size_t n;
    int rc;
};

static void follow_free(struct follow *f)
{
    (void)sandbox_output_free(f->out);
    mem_free(f->piece);
    f->api->followers--;
    mem_free(f);
}

static void follow_gone(struct api_call *c)
{
    struct follow *f = c->state;
    f->call = NULL;
    f->up = http_call_cancel(f->up);
    if (!f->work.busy) {
        follow_free(f);
    }
}

/* The server stops: what is not whole must not look whole. */
static void follow_stop(struct api_call *c)
{
    if (http_res_started(c->req)) {
        http_res_abort(c->req);
    } else {
        api_fail(c, 503, "draining", "the node is stopping");
    }
}

/* -- on a pool thread -- */

/* The next piece of what was asked for, at most n bytes; 0: nothing more for now. */
static int source_read(struct follow *f, uint64_t *pos, struct sandbox_merge *m, size_t *ret_n)
{
    enum sandbox_stream stream;
    int64_t wall_us = INT64_MAX;
    if (!f->both) {
        return sandbox_output_read(f->out, f->stream, pos, f->piece, PIECE, ret_n, NULL);
    }
    int rc = 0;
    do {
        rc = sandbox_output_merge(f->out, m, f->piece, PIECE, ret_n, &stream, &wall_us, NULL);
    } while (rc == 0 && *ret_n > 0 && wall_us < f->since_us);
    return rc;
}

static int lines_count(struct follow *f, uint64_t pos, uint64_t *ret)
{
    struct sandbox_merge m = { 0 };
    uint64_t lines = 0;
    char last = '\n';
    for (;;) {
        size_t n = 0;
        int rc = source_read(f, &pos, &m, &n);
        if (rc != 0) {
            return rc;
        }
        if (n == 0) {
            break;
        }
        for (size_t i = 0; i < n; i++) {
            lines += f->piece[i] == '\n' ? 1 : 0;
        }
        last = f->piece[n - 1];
    }
    *ret = lines + (last != '\n' ? 1 : 0);
    return 0;
}

/* Where the last f->tail lines begin: looks at the end first, then at four times as much, … */
static int tail_find(struct follow *f)
{
    uint64_t floor = f->pos;
    uint64_t back = PIECE;
    uint64_t lines = 0;
    for (;;) {
        uint64_t from = !f->both && f->stat.total > back ? f->stat.total - back : 0;
        bool whole = f->both || from <= floor;
        from = from > floor ? from : floor;
        int rc = lines_count(f, from, &lines);
        if (rc != 0) {
            return rc;
        }
        if (whole || lines > f->tail) {
            f->pos = from;
            f->skip_lines = lines > f->tail ? lines - f->tail : 0;
            return 0;
        }
        back *= 4;
    }
}

static int source_open(struct follow *f)
{
    int rc = node_output_open(f->api->node, f->id, f->attempt, &f->out, NULL);
    if (rc != 0) {
        return rc;
    }
    struct sandbox_output_stat other = { 0 };
    f->pos = 0;
    f->skip_lines = 0;
    f->merge = (struct sandbox_merge){ 0 };
    rc = sandbox_output_stat(f->out, f->stream, &f->stat, NULL);
    if (rc == 0 && f->both) {
        rc = sandbox_output_stat(f->out, SANDBOX_STDOUT, &other, NULL);
    }
    f->left = f->stat.readable + other.readable;
    if (rc == 0 && f->since_us != 0 && !f->both) {
        rc = sandbox_output_seek(f->out, f->stream, f->since_us, &f->pos, NULL);
    }
    if (rc == 0 && f->tail != UINT64_MAX) {
        rc = tail_find(f);
    }
    return rc;
}

static void work_open(struct loop_work *w)
{
    struct follow *f = CONTAINER_OF(w, struct follow, work);
    f->rc = source_open(f);
}

/* Drops what is before the lines that were asked for. */
static void lines_skip(struct follow *f)
{
    size_t at = 0;
    while (f->skip_lines > 0 && at < f->n) {
        const char *nl = memchr(f->piece + at, '\n', f->n - at);
        at = nl != NULL ? (size_t)(nl - f->piece) + 1 : f->n;
        f->skip_lines -= nl != NULL ? 1 : 0;
    }
    memmove(f->piece, f->piece + at, f->n - at);
    f->n -= at;
}

static void work_read(struct loop_work *w)
{
    struct follow *f = CONTAINER_OF(w, struct follow, work);
    /* The state first: what is ended before an empty read stays empty. */
    f->rc = sandbox_output_stat(f->out, f->stream, &f->stat, NULL);
    for (;;) {
        f->n = 0;
        if (f->rc == 0) {
            f->rc = source_read(f, &f->pos, &f->merge, &f->n);
        }
        if (f->rc != 0 || f->n == 0 || f->skip_lines == 0) {
            return;
        }
        lines_skip(f);
        if (f->n > 0) {
            return;
        }
    }
}

/* -- on the loop -- */

static void opened(struct loop_work *w, int status);
static void was_read(struct loop_work *w, int status);

static void follow_work(struct follow *f, loop_work_fn *work, loop_work_done_fn *done)
{
    int rc = loop_work_start(&f->work, &f->api->owner, work, done);
    INSIST(rc == 0);
}

static void poll_open(struct api_call *c)
{
    struct follow *f = c->state;
    f->opens = false;
    follow_work(f, work_open, opened);
}

static void open_later(struct follow *f)
{
    f->opens = true;
    (void)api_due_set(f->call, WAIT_MS, poll_open);
}

static void poll_read(struct api_call *c)
{
    struct follow *f = c->state;
    f->reads = false;
    follow_work(f, work_read, was_read);
}

static void read_later(struct follow *f, uint64_t ms)
{
    f->reads = true;
    (void)api_due_set(f->call, ms, poll_read);
}

static const char *follow_type(const struct follow *f)
{
    return f->raw ? "application/octet-stream" : "text/plain; charset=utf-8";
}

static void follow_drained(void *arg, struct http_req *req)
{
    struct follow *f = arg;
    (void)req;
    if (f->up != NULL) {
        http_call_resume(f->up);
    } else if (!f->work.busy && !f->waits) {
        follow_work(f, work_read, was_read);
    }
}

static void follow_begin(struct follow *f)
{
    struct api_call *c = f->call;
    if (!http_res_started(c->req)) {
        api_headers(c);
        http_res_header(c->req, "X-Accel-Buffering", "no");
        http_res_begin(c->req, 200, follow_type(f), follow_drained, f);
    }
}

static void follow_end(struct follow *f)
{
    api_due_clear(f->call);
    f->call->on_stop = NULL;
    follow_begin(f);
    http_res_end(f->call->req);
}

static void follow_fail(struct follow *f, int rc)
{
    if (http_res_started(f->call->req)) {
        http_res_abort(f->call->req);
    } else {
        f->call->on_stop = NULL;
        api_fail(f->call, 500, "internal", "the output could not be read: %s", err_name(rc));
    }
}

/* Nothing more of this attempt: the next one, the end, or a pause until one of them is sure. */
static void follow_next(struct follow *f)
{
    bool ended = f->run_ended;
    if (f->follow && !f->attempt_given && f->latest > f->attempt) {
        f->out = sandbox_output_free(f->out);
        f->attempt++;
        f->since_us = 0;
        f->tail = UINT64_MAX;
        follow_work(f, work_open, opened);
    } else if (!f->follow || f->attempt_given || ended) {
        follow_end(f);
    } else {
        read_later(f, WAIT_MS);
    }
}

/* -- from a peer -- */

/* The peer has said all that it has: the run's end or its next attempt comes soon. */
static void poll_end(struct api_call *c)
{
    struct follow *f = c->state;
    if (f->run_ended || f->latest > f->attempt) {
        f->waits = false;
        f->handed = false;
        follow_next(f);
    } else {
        (void)api_due_set(c, WAIT_MS, poll_end);
    }
}

static void peer_head(void *arg, struct http_call *up, const struct http1_head *head)
{
    struct follow *f = arg;
    (void)up;
    if (head->status == 200) {
        follow_begin(f);
    }
}

static void peer_data(void *arg, struct http_call *up, struct str data)
{
    struct follow *f = arg;
    if (!http_res_started(f->call->req)) {
        return; /* the words of a refusal */
    }
    f->handed = true;
    if (!http_res_write(f->call->req, data.p, data.n)) {
        http_call_pause(up);
    }
}

static void peer_done(void *arg, struct http_call *up, int rc, int status, const char *why)
{
    struct follow *f = arg;
    (void)up;
    f->up = NULL;
    bool whole = rc == 0 && status == 200;
    if (whole && (!f->follow || f->attempt_given)) {
        follow_end(f);
    } else if (whole || f->handed) {
        f->waits = true;
        poll_end(f->call);
    } else if (f->follow || status == 404) {
        /* Not there yet, or just over: then its files are here. */
        follow_begin(f);
        open_later(f);
    } else if (http_res_started(f->call->req)) {
        http_res_abort(f->call->req);
    } else {
        f->call->on_stop = NULL;
        api_fail(f->call, 502, "node_unreachable", "the node that runs it: %s",
                 why != NULL ? why : err_name(rc));
    }
}

/* True: a peer has this attempt, and is asked. */
static bool peer_ask(struct follow *f)
{
    static const char *const streams[] = {
        [SANDBOX_STDOUT] = "stdout", [SANDBOX_STDERR] = "stderr"
    };
    const struct http_call_events events = {
        .on_head = peer_head, .on_data = peer_data, .on_done = peer_done, .arg = f
    };
    struct api_call *c = f->call;
    char peer[NODE_NAME_CAP];
    char id[ULID_TEXT_CAP];
    char since[TIME_TEXT_CAP];
    struct http_target to;
    AUTO_BUF struct buf target = BUF_INIT(1024);
    if (f->guest || !node_run_is_elsewhere(c->api->node, f->id, f->attempt, peer) ||
        !node_target(c->api->node, str_of(peer), &to)) {
        return false;
    }
    ulid_format(f->id, id);
    (void)buf_addf(&target, "/v1/runs/%s/%s?attempt=%u", id, f->raw ? "output" : "logs",
                   f->attempt);
    if (f->follow) {
        (void)buf_adds(&target, "&follow=1");
    }
    if (!f->raw) {
        (void)buf_addf(&target, "&stream=%s", f->both ? "both" : streams[f->stream]);
        if (f->since_us != 0) {
            (void)buf_addf(&target, "&since=%s", time_format(f->since_us, since));
        }
        if (f->tail != UINT64_MAX) {
            (void)buf_addf(&target, "&tail=%llu", (unsigned long long)f->tail);
        }
    }
    f->up =
        http_call_new(node_http(c->api->node), &to, "GET", buf_cstr(&target), UINT64_MAX, &events);
    if (f->up == NULL) {
        return false;
    }
    node_identify(c->api->node, f->up);
    http_call_header(f->up, "Agent-Hop", "guest");
    http_call_send(f->up);
    return true;
}

/* The file itself: known length, ranges, nothing in memory. */
static void file_send(struct follow *f)
{
    struct api_call *c = f->call;
    uint64_t total = f->stat.readable;
    uint64_t from = 0;
    uint64_t len = total;
    int file = sandbox_output_fd(f->out);
    AUTO_FD int fd = file >= 0 ? fd_dup(file, 3) : -1;
    enum api_range range = API_RANGE_WHOLE;
    struct str header = http1_header(c->head, "Range");
    c->on_stop = NULL;
    if (file >= 0 && fd < 0) {
        follow_fail(f, fd);
        return;
    }
    if (header.p != NULL && str_eqs(c->head->method, "GET")) {
        range = api_range_parse(header, total, &from, &len);
    }
    http_res_header(c->req, "Accept-Ranges", "bytes");
    if (range == API_RANGE_BAD) {
        http_res_headerf(c->req, "Content-Range", "bytes */%llu", (unsigned long long)total);
        api_fail(c, 416, "range_not_satisfiable", "the output has %llu bytes",
                 (unsigned long long)total);
        return;
    }
    api_headers(c);
    if (range == API_RANGE_PART) {
        http_res_headerf(c->req, "Content-Range", "bytes %llu-%llu/%llu", (unsigned long long)from,
                         (unsigned long long)(from + len - 1), (unsigned long long)total);
    }
    int status = range == API_RANGE_PART ? 206 : 200;
    if (fd < 0) {
        http_res_send(c->req, status, follow_type(f), NULL, 0);
    } else {
        http_res_send_file(c->req, status, follow_type(f), fd_take(&fd), from, len);
    }
}

static void opened(struct loop_work *w, int status)
{
    struct follow *f = CONTAINER_OF(w, struct follow, work);
    int rc = status != 0 ? status : f->rc;
    if (f->call == NULL) {
        follow_free(f);
        return;
    }
    bool more = f->follow && !f->run_ended && !f->attempt_given;
    if (rc == -ENOENT && !str_eqs(f->call->head->method, "HEAD") && peer_ask(f)) {
        return;
    }
    if (rc == -ENOENT && f->follow && !f->run_ended) {
        follow_begin(f); /* the client sees at once that it waits for something that is */
        open_later(f);
    } else if (rc == -ENOENT && f->guest) {
        follow_fail(f, rc); /* handed over and gone: the owner has it */
    } else if (rc == -ENOENT) {
        follow_end(f); /* it never came so far as to write anything */
    } else if (rc != 0) {
        follow_fail(f, rc);
    } else if (f->raw && f->stat.ended && !more && !http_res_started(f->call->req)) {
        file_send(f);
    } else {
        follow_begin(f);
        if (str_eqs(f->call->head->method, "HEAD")) {
            follow_end(f);
        } else {
            follow_work(f, work_read, was_read);
        }
    }
}

static void was_read(struct loop_work *w, int status)
{
    struct follow *f = CONTAINER_OF(w, struct follow, work);
    int rc = status != 0 ? status : f->rc;
    if (f->call == NULL) {
        follow_free(f);
        return;
    }
    if (rc != 0) {
        follow_fail(f, rc);
        return;
    }
    if (f->n == 0) {
        if (f->stat.ended || f->run_ended || !f->follow) {
            follow_next(f);
        } else {
            read_later(f, API_POLL_MS);
        }
        return;
    }
    size_t n = f->n;
    if (!f->follow && !f->stat.ended) {
        /* A run that writes faster than we read must not keep us for ever. */
        n = f->left < n ? (size_t)f->left : n;
        f->left -= n;
    }
    bool room = http_res_write(f->call->req, f->piece, n);
    if (!f->follow && !f->stat.ended && f->left == 0) {
        follow_end(f);
    } else if (room) {
        follow_work(f, work_read, was_read);
    }
}

static void run_changed(void *arg, const struct run *run)
{
    struct api_call *c = arg;
    struct follow *f = c->state;
    f->changed = true;
    f->latest = run->attempt;
    f->run_ended = run_is_ended(run);
    if (f->waits || f->opens) {
        (void)api_due_set(c, 0, f->waits ? poll_end : poll_open);
    } else if (f->reads && (f->run_ended || f->latest > f->attempt)) {
        (void)api_due_set(c, 0, poll_read);
    }
}

static void run_came(void *arg, const struct node_error *error, const struct run *run,
                     bool replayed)
{
    struct api_call *c = arg;
    struct follow *f = c->state;
    (void)replayed;
    if (error != NULL) {
        api_fail_node(c, error);
        return;
    }
    if (f->attempt_given && f->attempt > run->attempt) {
        api_fail(c, 404, "not_found", "the run has %lu attempts", (unsigned long)run->attempt);
        return;
    }
    if (!f->changed) {
        f->latest = run->attempt;
        f->run_ended = run_is_ended(run);
    }
    f->attempt = f->attempt_given ? f->attempt : run->attempt;
    c->on_stop = follow_stop;
    follow_work(f, work_open, opened);
}

/* The run as it is, and from now on. The watch comes first: a short run may end while its record is
 * being read. */
static void follow_start(struct follow *f)
{
    struct api_call *c = f->call;
    if (f->follow) {
        c->watch = node_run_watch(c->api->node, &f->id, run_changed, c);
        if (c->watch == NULL) {
            api_fail(c, 503, "queue_full", "too many watches");
            return;
        }
    }
    node_run_get(c->api->node, f->id, run_came, c);
}

static struct follow *follow_new(struct api_call *c)
{
    struct follow *f = NULL;
    if (c->api->followers < API_FOLLOWERS_MAX) {
        f = mem_zalloc(sizeof(*f));
    }
    char *piece = f != NULL ? mem_alloc(PIECE) : NULL;
    if (piece == NULL) {
        mem_free(f);
        api_fail(c, 503, "queue_full", "too many clients read outputs");
        return NULL;
    }
    f->piece = piece;
    f->api = c->api;
    f->call = c;
    f->guest = str_eqs(http1_header(c->head, "Agent-Hop"), "guest");
    f->tail = UINT64_MAX;
    c->api->followers++;
    c->state = f;
    c->on_gone = follow_gone;
    return f;
}

/* What /output and /logs share. */
static bool follow_query(struct api_call *c, struct follow *f)
{
    struct err e;
    uint64_t attempt = 0;
    struct str q = c->head->query;
    if (api_query_u64(q, "attempt", 1, RUN_ATTEMPT_MAX, 0, &attempt, &e) != 0 ||
        api_query_flag(q, "follow", &f->follow, &e) != 0) {
        api_fail(c, 400, "bad_request", "%s", e.text);
        return false;
    }
    f->attempt = (uint32_t)attempt;
    f->attempt_given = attempt > 0;
    return api_param_run(c, &f->id);
}

void api_run_output(struct api_call *c)
{
    static const char *const names[] = { "follow", "attempt", NULL };
    struct follow *f = api_query_known(c, names) ? follow_new(c) : NULL;
    if (f == NULL || !follow_query(c, f)) {
        return;
    }
    f->raw = true;
    f->stream = SANDBOX_STDOUT;
    follow_start(f);
}

void api_run_logs(struct api_call *c)
{
    static const char *const names[] = { "follow", "attempt", "stream", "since", "tail", NULL };
    struct follow *f = api_query_known(c, names) ? follow_new(c) : NULL;
    char stream[16] = "stderr";
    struct err e;
    if (f == NULL || !follow_query(c, f)) {
        return;
    }
    int rc = http1_query(c->head->query, "stream", 0, stream, sizeof(stream));
    f->both = strcmp(stream, "both") == 0;
    f->stream = strcmp(stream, "stdout") == 0 ? SANDBOX_STDOUT : SANDBOX_STDERR;
    if ((rc != 0 && rc != -ENOENT) ||
        (!f->both && f->stream == SANDBOX_STDERR && rc == 0 && strcmp(stream, "stderr") != 0)) {
        api_fail(c, 400, "bad_request", "query parameter 'stream' is stdout, stderr or both");
        return;
    }
    if (api_query_since(c->head->query, sys_wall_us(), &f->since_us, &e) != 0 ||
        api_query_u64(c->head->query, "tail", 0, TAIL_MAX, UINT64_MAX, &f->tail, &e) != 0) {
        api_fail(c, 400, "bad_request", "%s", e.text);
        return;
    }
    follow_start(f);
}
