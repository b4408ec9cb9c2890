/*
 * A client connection's pump: the answer's bytes in, events to the call's owner out, deadlines.
 * Everything that can call the owner happens here, and here is reached from libuv only.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/loop/http_client_internal.h"
#include "common/mem.h"

/* The call is over, well or not: its connection goes on or ends first, so that what on_done starts
 * can have it. */
static void answer_over(struct http_link *l, int rc, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void answer_over(struct http_link *l, int rc, const char *fmt, ...)
{
    struct http_call *call = l->call;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(call->why, sizeof(call->why), fmt, ap);
    va_end(ap);
    call->rc = rc;
    l->call = NULL;
    call->link = NULL;
    bool whole = rc == 0 && call->keep && call->body_ended && http_link_queued(l) == 0;
    http_link_free_for_next(l, whole);
    http_call_done(call);
}

static void on_head(struct http_link *l)
{
    struct http_call *call = l->call;
    const struct http1_head *head = http1_head(l->parser);
    char name[300];
    if (head->status < 200) {
        l->interim = true;
        if (head->status == 101 || ++l->interims > HTTP_LINK_INTERIM_MAX) {
            answer_over(l, -EPROTO, "%s answered with status %d, which nobody asked for",
                        http_link_name(l->place, name, sizeof(name)), head->status);
        }
        return;
    }
    l->interim = false;
    call->status = head->status;
    call->keep = head->keep_alive;
    if (head->has_length && head->length > call->body_max && !call->is_head) {
        answer_over(l, -EFBIG, "the answer of %s has %llu bytes, more than the %llu allowed",
                    http_link_name(l->place, name, sizeof(name)), (unsigned long long)head->length,
                    (unsigned long long)call->body_max);
        return;
    }
    if (call->ev.on_head != NULL) {
        call->ev.on_head(call->ev.arg, call, head);
    }
}

static void on_body(struct http_link *l, struct str data)
{
    struct http_call *call = l->call;
    char name[300];
    if (l->interim) {
        answer_over(l, -EPROTO, "%s sent an interim answer with a body",
                    http_link_name(l->place, name, sizeof(name)));
        return;
    }
    call->body_seen += data.n;
    if (call->body_seen > call->body_max) {
        answer_over(l, -EFBIG, "the answer of %s is longer than the %llu bytes allowed",
                    http_link_name(l->place, name, sizeof(name)),
                    (unsigned long long)call->body_max);
    } else if (call->ev.on_data != NULL) {
        call->ev.on_data(call->ev.arg, call, data);
    }
}

/* A message is over: an interim one, or the answer. `more`: bytes that belong to none follow. */
static void on_end(struct http_link *l, bool more)
{
    struct http_call *call = l->call;
    if (l->interim) {
        l->interim = false;
        http1_reset(l->parser);
        if (call->is_head) {
            http1_expect_no_body(l->parser);
        }
        return;
    }
    call->keep = call->keep && !more;
    answer_over(l, 0, "%s", "");
}

/* The connection has ended and nothing of it is left to read. */
static void on_close(struct http_link *l)
{
    struct http_call *call = l->call;
    char name[300];
    int rc = l->broken_rc;
    if (call == NULL) {
        http_link_lost(l, rc, "closed");
        return;
    }
    (void)http_link_name(l->place, name, sizeof(name));
    if (l->state != HTTP_LINK_OPEN) {
        http_link_lost(l, rc == UV_EOF ? -ECONNRESET : rc, "%s %s: %s",
                       l->state == HTTP_LINK_HANDSHAKE ? "TLS with" : "connect to", name,
                       rc == UV_EOF ? "the connection was closed" : uv_strerror(rc));
    } else if (call->status != 0 && rc == UV_EOF && http1_finish(l->parser, NULL) == 0) {
        call->keep = false;
        answer_over(l, 0, "%s", "");
    } else if (rc != UV_EOF) {
        http_link_lost(l, rc, "%s broke the connection %s: %s", name,
                       call->answered ? "in the middle of its answer" : "before it answered",
                       uv_strerror(rc));
    } else if (call->answered) {
        http_link_lost(l, -EPROTO, "%s closed the connection in the middle of its answer", name);
    } else {
        http_link_lost(l, -ECONNRESET, "%s closed the connection before it answered", name);
    }
}

/* The request can not be sent to its end. Whoever closed may have said why: that is read first. */
static bool write_failed(const struct http_link *l)
{
    return l->write_rc != 0 && l->write_rc != UV_EPIPE && l->write_rc != UV_ECONNRESET;
}

/* One step. False: nothing more can be done with what is there. */
static bool link_step(struct http_link *l, const char *p, size_t n, size_t *ret_used)
{
    struct http_call *call = l->call;
    struct str body;
    struct err e = { .code = 0 };
    char name[300];
    if (l->state == HTTP_LINK_OPEN && call != NULL && call->drain_due) {
        call->drain_due = false;
        if (call->ev.on_drain != NULL) {
            call->ev.on_drain(call->ev.arg, call);
        }
        return true;
    }
    if (call != NULL && write_failed(l)) {
        http_link_lost(l, l->write_rc, "send to %s: %s",
                       http_link_name(l->place, name, sizeof(name)), uv_strerror(l->write_rc));
        return false;
    }
    if (call == NULL && n > 0) {
        http_link_lost(l, -EPROTO, "bytes that nobody asked for");
        return false;
    }
    if (call == NULL || l->state != HTTP_LINK_OPEN || (call->paused && n > 0)) {
        return false;
    }
    if (call->paused) {
        return false;
    }
    call->answered = call->answered || n > 0;
    int rc = http1_feed(l->parser, p, n, ret_used, &body, &e);
    if (rc < 0) {
        answer_over(l, rc == -ENOMEM ? rc : -EPROTO, "the answer of %s is not HTTP: %s",
                    http_link_name(l->place, name, sizeof(name)), err_text(&e));
    } else if (rc == HTTP1_HEAD) {
        on_head(l);
    } else if (rc == HTTP1_BODY) {
        on_body(l, body);
    } else if (rc == HTTP1_END) {
        on_end(l, n > *ret_used);
    } else {
        return *ret_used > 0;
    }
    return true;
}

/* -- deadlines -- */

static unsigned wait_ms(const struct http_client *c, enum http_link_wait w)
{
    switch (w) {
    case HTTP_LINK_WAIT_IDLE:
        return c->opt.idle_timeout_ms;
    case HTTP_LINK_WAIT_ANSWER:
        return c->opt.response_timeout_ms;
    case HTTP_LINK_WAIT_OUT:
    case HTTP_LINK_WAIT_IN:
        return c->opt.body_timeout_ms;
    case HTTP_LINK_WAIT_NONE:
        break;
    }
    return UINT_MAX;
}

static void wait_update(struct http_link *l, bool progress)
{
    const struct http_call *call = l->call;
    enum http_link_wait w = HTTP_LINK_WAIT_NONE;
    if (l->state != HTTP_LINK_OPEN) {
        return; /* the deadline of making a connection runs */
    }
    if (call == NULL) {
        w = HTTP_LINK_WAIT_IDLE;
    } else if (http_link_queued(l) > 0 && l->write_rc == 0) {
        w = HTTP_LINK_WAIT_OUT;
    } else if (call->paused) {
        w = HTTP_LINK_WAIT_NONE;
    } else if (call->status != 0) {
        w = HTTP_LINK_WAIT_IN;
    } else if (call->body_ended || l->write_rc != 0) {
        w = HTTP_LINK_WAIT_ANSWER;
    }
    bool again = w != l->wait || (progress && w == HTTP_LINK_WAIT_IN) ||
                 l->due.node.index == SIZE_MAX || w == HTTP_LINK_WAIT_IDLE;
    if (!again) {
        return;
    }
    l->wait = w;
    l->out_seen = l->out_total - http_link_queued(l);
    if (wait_ms(l->client, w) == UINT_MAX) {
        http_client_due_clear(l->client, &l->due);
    } else if (!http_client_due(l->client, &l->due, wait_ms(l->client, w))) {
        l->broken_rc = UV_ENOMEM;
        http_link_kick(l);
    }
}

void http_link_timeout(struct http_due *due)
{
    struct http_link *l = CONTAINER_OF(due, struct http_link, due);
    uint64_t out = l->out_total - http_link_queued(l);
    char name[300];
    if (l->state == HTTP_LINK_OPEN && l->call == NULL) {
        http_link_break(l);
        return;
    }
    if (l->state == HTTP_LINK_OPEN && l->wait == HTTP_LINK_WAIT_OUT && out != l->out_seen) {
        wait_update(l, true);
        return;
    }
    static const char *const stages[] = {
        [HTTP_LINK_RESOLVE] = "the look-up of its name",
        [HTTP_LINK_CONNECT] = "the connection",
        [HTTP_LINK_HANDSHAKE] = "the TLS handshake",
    };
    static const char *const waits[] = {
        [HTTP_LINK_WAIT_NONE] = "it",
        [HTTP_LINK_WAIT_IDLE] = "it",
        [HTTP_LINK_WAIT_OUT] = "the request to leave",
        [HTTP_LINK_WAIT_ANSWER] = "its answer",
        [HTTP_LINK_WAIT_IN] = "the rest of its answer",
    };
    const char *what = l->state == HTTP_LINK_OPEN ? waits[l->wait] : stages[l->state];
    http_link_lost(l, -ETIMEDOUT, "%s: waited too long for %s",
                   http_link_name(l->place, name, sizeof(name)), what);
}

/* -- the pump -- */

static void keep_rest(struct http_link *l, const char *p, size_t n)
{
    if (l->pending != NULL) {
        l->pending_at = (size_t)(p - l->pending);
        if (n == 0) {
            l->pending = mem_free(l->pending);
        }
    } else if (n > 0) {
        l->pending = mem_dup(p, n);
        l->pending_at = 0;
        l->pending_len = n;
        if (l->pending == NULL) {
            http_link_lost(l, -ENOMEM, "out of memory for an answer");
        }
    }
}

void http_link_run(struct http_link *l, const char *p, size_t n)
{
    size_t used = 0;
    bool more = true;
    l->in_pump = true;
    if (l->call != NULL && l->state == HTTP_LINK_OPEN) {
        http_call_flow(l->call);
    }
    while (more && !l->closing) {
        size_t step = 0;
        more = link_step(l, p + used, n - used, &step);
        used += step;
    }
    if (!l->closing) {
        keep_rest(l, p + used, n - used);
    }
    if (!l->closing && l->broken_rc != 0 && l->pending == NULL &&
        !(l->call != NULL && l->call->paused && l->state == HTTP_LINK_OPEN)) {
        on_close(l);
    }
    l->in_pump = false;
    if (!l->closing) {
        wait_update(l, used > 0);
        http_link_reading(l);
    }
}

void http_link_pump(struct http_link *l)
{
    if (l->closing) {
        return;
    }
    if (l->pending != NULL) {
        http_link_run(l, l->pending + l->pending_at, l->pending_len - l->pending_at);
    } else {
        http_link_run(l, l->client->rbuf, 0);
    }
}
