/*
 * submit --wait: follows a run to its end.
 *
 * Two connections carry the run's stdout and stderr as they come; a third one asks for its state,
 * for the progress line and at the end. A follow that breaks is taken up where it was, so that a
 * restart of the agent does not disturb; when a failed attempt is tried again the streams begin
 * anew.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/cli/sys_cli.h"
#include "common/sys/sys.h"

enum {
    TARGET_MAX = 256,
    REFUSAL_MAX = 64 * 1024,
    RETRY_MIN_MS = 20, /* between two tries to open a stream or to see the end */
    RETRY_MAX_MS = 500,
    LOST_MS = 30 * 1000, /* without any answer from the node: given up */
    STATE_MS = 500,      /* between two looks at the state, for the progress line */
};

enum follow_state { FOLLOW_IDLE, FOLLOW_OPEN, FOLLOW_DONE };

struct wait;

/* One of the run's streams. */
struct follow {
    struct wait *w;
    struct cli_http *h;
    const char *path; /* "output?follow=1" */
    int fd;           /* where it goes */
    enum follow_state state;
    uint64_t seen; /* bytes of this attempt written */
    uint64_t skip; /* bytes of this answer that were written before */
    uint64_t retry_ms;
    unsigned pause_ms;
    bool after_end;     /* the run had ended when this was asked for */
    struct buf refusal; /* the body of an answer that is not 200 */
};

struct wait {
    struct cli_ctx *ctx;
    const char *id;
    struct cli_progress *progress;
    struct cli_http *control;
    struct follow streams[2];
    int signals;
    int interrupted; /* the signal that asked for a cancel; 0 none */
    int broken;      /* stdout or stderr could not be written: -Exxx */
    int64_t attempt;
    off_t stdout_start;  /* of a regular file; -1 */
    uint64_t contact_ms; /* when the node was heard last */
    uint64_t state_ms;   /* when to ask for the state again */
    unsigned end_pause_ms;
    struct json_doc *run;
};

static int write_stream(void *arg, struct str data, struct err *e)
{
    struct follow *f = arg;
    f->w->contact_ms = sys_mono_ms();
    if (cli_http_status(f->h) != 200) {
        (void)buf_addstr(&f->refusal, str_slice(data, 0, f->refusal.max - f->refusal.len));
        return 0;
    }
    if (f->skip >= data.n) {
        f->skip -= data.n;
        return 0;
    }
    data = str_slice(data, (size_t)f->skip, data.n);
    f->skip = 0;
    cli_progress_clear(f->w->progress);
    int rc = sys_write_full(f->fd, data.p, data.n);
    if (rc != 0) {
        f->w->broken = rc;
        return err_set(e, -ECANCELED, "write to %s", f->fd == STDOUT_FILENO ? "stdout" : "stderr");
    }
    f->seen += data.n;
    return 0;
}

static void follow_later(struct follow *f)
{
    f->state = FOLLOW_IDLE;
    f->retry_ms = sys_mono_ms() + f->pause_ms;
    f->pause_ms = f->pause_ms * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : f->pause_ms * 2;
}

static void follow_open(struct follow *f)
{
    struct err e;
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    (void)buf_addf(&target, "/v1/runs/%s/%s", f->w->id, f->path);
    const struct cli_request req = { .method = "GET", .target = buf_cstr(&target) };
    f->skip = f->seen;
    f->after_end = f->w->run != NULL && cli_run_ended(json_root(f->w->run));
    buf_reset(&f->refusal);
    if (cli_http_begin(f->h, &req, &e) == 0) {
        f->state = FOLLOW_OPEN;
    } else {
        follow_later(f);
    }
}

/* Asks for the run. A node that does not answer is not an error yet. */
static void look(struct wait *w)
{
    struct err e;
    struct json_doc *doc = NULL;
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    int status = 0;
    (void)buf_addf(&target, "/v1/runs/%s", w->id);
    int rc = cli_call(w->ctx, w->control, "GET", buf_cstr(&target), (struct str){ NULL, 0 }, &doc,
                      &status, &e);
    w->state_ms = sys_mono_ms() + STATE_MS;
    if (rc != 0) {
        return;
    }
    w->contact_ms = sys_mono_ms();
    w->run = json_free(w->run);
    w->run = doc;
}

/* The run is tried again: what the last attempt wrote to a file is taken back. */
static void next_attempt(struct wait *w, int64_t attempt)
{
    bool written = w->streams[0].seen > 0 || w->streams[1].seen > 0;
    if (w->streams[0].seen > 0 && w->stdout_start >= 0 &&
        ftruncate(STDOUT_FILENO, w->stdout_start) == 0) {
        (void)lseek(STDOUT_FILENO, w->stdout_start, SEEK_SET);
    } else if (w->streams[0].seen > 0) {
        cli_progress_clear(w->progress);
        (void)cli_fail(0,
                       "run %s: attempt %lld begins; what came out above is of an attempt that "
                       "failed",
                       w->id, (long long)attempt);
        written = false;
    }
    if (written && w->ctx->tty_err) {
        cli_progress_clear(w->progress);
        (void)cli_fail(0, "run %s: attempt %lld begins", w->id, (long long)attempt);
    }
    for (size_t i = 0; i < 2; i++) {
        w->streams[i].seen = 0;
    }
}

/* Before streams are opened again: is this still the attempt that they belong to? */
static void check_attempt(struct wait *w)
{
    int64_t attempt = 0;
    if (w->run == NULL || !json_int(json_get(json_root(w->run), "attempt"), &attempt)) {
        return;
    }
    if (w->attempt > 0 && attempt > w->attempt) {
        next_attempt(w, attempt);
    }
    w->attempt = attempt > w->attempt ? attempt : w->attempt;
}

static void follow_ended(struct follow *f, int rc)
{
    f->state = FOLLOW_DONE;
    if (f->w->broken != 0) {
        return;
    }
    if (rc == 1 && cli_http_status(f->h) == 200) {
        f->pause_ms = RETRY_MIN_MS;
        return;
    }
    if (rc == 1 && f->after_end) {
        return; /* refused although the run is over: it never wrote anything */
    }
    look(f->w);
    follow_later(f); /* broke off, or it is too early */
}

static void on_signal(struct wait *w)
{
    struct signalfd_siginfo info;
    if (sys_read(w->signals, &info, sizeof(info)) != (ssize_t)sizeof(info)) {
        return;
    }
    int first = w->interrupted;
    w->interrupted = (int)info.ssi_signo;
    if (first != 0) {
        w->broken = -EINTR; /* leave at once */
        return;
    }
    struct err e;
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    (void)buf_addf(&target, "/v1/runs/%s/cancel", w->id);
    cli_progress_clear(w->progress);
    if (cli_call(w->ctx, w->control, "POST", buf_cstr(&target), (struct str){ NULL, 0 }, NULL, NULL,
                 &e) != 0) {
        (void)cli_fail(0, "could not cancel: %s", e.text);
    } else if (w->ctx->tty_err) {
        (void)cli_fail(0, "cancelling run %s; once more to leave it alone", w->id);
    }
}

static void show_progress(struct wait *w)
{
    if (!w->progress->on || w->run == NULL || !cli_progress_due(w->progress)) {
        return;
    }
    const struct json *run = json_root(w->run);
    AUTO_BUF struct buf b = BUF_INIT(1024);
    struct str state = cli_json_str(run, "state");
    int64_t started = cli_json_time(run, "started_at");
    int64_t since = started > 0 ? started : cli_json_time(run, "created_at");
    cli_text_safe(&b, state);
    (void)buf_addc(&b, ' ');
    int64_t now = sys_wall_us();
    int64_t seconds = now > since && since > 0 ? (now - since) / 1000000 : 0;
    cli_text_seconds(&b, (double)seconds);
    struct str node = cli_json_str(run, "node");
    if (node.n > 0 && started > 0) {
        (void)buf_adds(&b, " on ");
        cli_text_safe(&b, node);
    }
    if (w->streams[0].seen > 0) {
        (void)buf_adds(&b, ", output ");
        cli_text_bytes(&b, (double)w->streams[0].seen);
    }
    cli_progress_show(w->progress, buf_cstr(&b));
}

/* How long poll() may sleep. */
static int sleep_ms(const struct wait *w, uint64_t now)
{
    uint64_t until = now + 10 * 1000;
    if (w->streams[0].state == FOLLOW_DONE && w->streams[1].state == FOLLOW_DONE) {
        return 0; /* nothing comes any more: is_over() has paused */
    }
    for (size_t i = 0; i < 2; i++) {
        const struct follow *f = &w->streams[i];
        if (f->state == FOLLOW_IDLE && f->retry_ms < until) {
            until = f->retry_ms;
        }
    }
    if (w->progress->on && until > now + 200) {
        until = now + 200;
    }
    return until > now ? (int)(until - now) : 0;
}

/* Opens what is due, waits, and moves what has come. */
static void turn(struct wait *w)
{
    struct pollfd p[3] = { { .fd = w->signals, .events = POLLIN } };
    uint64_t now = sys_mono_ms();
    for (size_t i = 0; i < 2; i++) {
        struct follow *f = &w->streams[i];
        if (f->state == FOLLOW_IDLE && now >= f->retry_ms) {
            follow_open(f);
        }
        p[i + 1] = (struct pollfd){ .fd = f->state == FOLLOW_OPEN ? cli_http_fd(f->h) : -1,
                                    .events = POLLIN };
    }
    if (poll(p, 3, sleep_ms(w, sys_mono_ms())) < 0) {
        return;
    }
    if (p[0].revents != 0) {
        on_signal(w);
    }
    for (size_t i = 0; i < 2 && w->broken == 0; i++) {
        struct err e;
        if (p[i + 1].revents != 0) {
            int rc = cli_http_pump(w->streams[i].h, write_stream, &w->streams[i], &e);
            if (rc != 0) {
                follow_ended(&w->streams[i], rc);
            }
        }
    }
}

/* Both streams are through: over, tried again, or the end is not recorded yet. True when over. */
static bool is_over(struct wait *w)
{
    if (w->streams[0].state != FOLLOW_DONE || w->streams[1].state != FOLLOW_DONE) {
        return false;
    }
    look(w);
    if (w->run != NULL && cli_run_ended(json_root(w->run))) {
        return true;
    }
    sys_sleep_ms(w->end_pause_ms);
    w->end_pause_ms = w->end_pause_ms * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : w->end_pause_ms * 2;
    int64_t attempt = 0;
    (void)json_int(json_get(w->run != NULL ? json_root(w->run) : NULL, "attempt"), &attempt);
    if (attempt > w->attempt && w->attempt > 0) {
        check_attempt(w);
        for (size_t i = 0; i < 2; i++) {
            w->streams[i].state = FOLLOW_IDLE;
            w->streams[i].retry_ms = 0;
        }
    }
    return false;
}

static int leave(struct wait *w)
{
    struct err e;
    if (w->broken == -EINTR) {
        return 128 + w->interrupted;
    }
    (void)err_set(&e, w->broken, "write what the run said");
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    struct err ignored;
    (void)buf_addf(&target, "/v1/runs/%s/cancel", w->id);
    (void)cli_call(w->ctx, w->control, "POST", buf_cstr(&target), (struct str){ NULL, 0 }, NULL,
                   NULL, &ignored);
    if (w->broken == -EPIPE) {
        return 128 + SIGPIPE; /* as any filter whose reader went away */
    }
    return cli_fail(CLI_EXIT_AGENT, "%s; run %s is cancelled", e.text, w->id);
}

static int follow_to_end(struct wait *w)
{
    look(w);
    check_attempt(w);
    while (!is_over(w)) {
        turn(w);
        uint64_t now = sys_mono_ms();
        if (w->broken != 0) {
            cli_progress_clear(w->progress);
            return leave(w);
        }
        bool waiting = w->streams[0].state == FOLLOW_IDLE || w->streams[1].state == FOLLOW_IDLE;
        if ((w->progress->on || waiting) && now >= w->state_ms) {
            look(w);
            check_attempt(w);
        }
        if (waiting && now - w->contact_ms > LOST_MS) {
            cli_progress_clear(w->progress);
            return cli_fail(
                CLI_EXIT_AGENT,
                "the node at %s does not answer any more; 'agent output -f %s' takes the "
                "run up again",
                w->ctx->addr, w->id);
        }
        show_progress(w);
    }
    cli_progress_clear(w->progress);
    AUTO_BUF struct buf why = BUF_INIT(16 * 1024);
    int code = cli_run_exit(json_root(w->run), &why);
    if (why.len > 0) {
        (void)cli_fail(code, "%s", buf_cstr(&why));
    }
    return code;
}

static int prepare(struct wait *w, struct err *e)
{
    static const char *const paths[] = { "output?follow=1", "logs?follow=1&stream=stderr" };
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR) {
        return err_set(e, -errno, "block signals");
    }
    w->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (w->signals < 0) {
        return err_set(e, -errno, "signalfd");
    }
    struct stat st;
    if (fstat(STDOUT_FILENO, &st) == 0 && S_ISREG(st.st_mode)) {
        w->stdout_start = lseek(STDOUT_FILENO, 0, SEEK_CUR);
    }
    int rc = cli_http_new(w->ctx, &w->control, e);
    for (size_t i = 0; i < 2 && rc == 0; i++) {
        struct follow *f = &w->streams[i];
        f->path = paths[i];
        f->fd = i == 0 ? STDOUT_FILENO : STDERR_FILENO;
        f->pause_ms = RETRY_MIN_MS;
        buf_init(&f->refusal, REFUSAL_MAX);
        rc = cli_http_new(w->ctx, &f->h, e);
    }
    return rc;
}

int cli_wait_run(struct cli_ctx *ctx, const char *id, struct cli_progress *progress)
{
    struct err e;
    struct wait w = { .ctx = ctx,
                      .id = id,
                      .progress = progress,
                      .streams = { { .w = &w }, { .w = &w } },
                      .signals = -1,
                      .stdout_start = -1,
                      .contact_ms = sys_mono_ms(),
                      .end_pause_ms = 1 };
    int rc = prepare(&w, &e);
    int code = rc == 0 ? follow_to_end(&w) : cli_fail(CLI_EXIT_AGENT, "%s", e.text);
    for (size_t i = 0; i < 2; i++) {
        w.streams[i].h = cli_http_free(w.streams[i].h);
        buf_release(&w.streams[i].refusal);
    }
    w.control = cli_http_free(w.control);
    w.run = json_free(w.run);
    w.signals = fd_close(w.signals);
    return code;
}
