#include "tests/lib/calls.h"

#include "common/loop/tls.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* -- our server -- */

static void on_body(void *arg, struct http_req *req, int status, struct str body)
{
    (void)arg;
    http_res_send(req, status == 0 ? 200 : 503, "application/octet-stream", body.p, body.n);
}

static void count_data(void *arg, struct http_req *req, struct str data)
{
    struct calls *w = arg;
    w->server_bytes += data.n;
    http_req_pause(req);
    http_req_resume(req);
}

static void count_end(void *arg, struct http_req *req, int status)
{
    struct calls *w = arg;
    char text[32];
    assert_int_equal(status, 0);
    int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)w->server_bytes);
    http_res_send(req, 200, "text/plain", text, (size_t)n);
}

static void stream_more(void *arg, struct http_req *req)
{
    static char block[CALLS_BLOCK];
    struct calls *w = arg;
    while (w->stream_left > 0) {
        w->stream_left--;
        memset(block, 'a' + (int)(w->stream_left % 26), sizeof(block));
        if (!http_res_write(req, block, sizeof(block))) {
            return;
        }
    }
    http_res_end(req);
}

static void on_request(void *arg, struct http_req *req)
{
    struct calls *w = arg;
    struct str path = http_req_head(req)->path;
    const struct http_body_sink sink = { count_data, count_end, w };
    w->requests++;
    if (str_eqs(path, "/hello")) {
        struct str host = http1_header(http_req_head(req), "Host");
        http_res_headerf(req, "X-Thing", "%.*s", STR_ARG(host));
        http_res_send(req, 200, "text/plain", "hello", 5);
    } else if (str_eqs(path, "/agent")) {
        struct str agent = http1_header(http_req_head(req), "User-Agent");
        http_res_send(req, 200, "text/plain", agent.p, agent.n);
    } else if (str_eqs(path, "/name")) {
        http_res_send(req, 200, "text/plain", http_req_tls_name(req),
                      strlen(http_req_tls_name(req)));
    } else if (str_eqs(path, "/echo")) {
        http_req_read_all(req, 1 << 24, on_body, w);
    } else if (str_eqs(path, "/count")) {
        w->server_bytes = 0;
        http_req_read(req, UINT64_MAX, &sink);
    } else if (str_eqs(path, "/stream")) {
        http_res_begin(req, 200, "text/plain", stream_more, w);
        stream_more(w, req);
    } else if (str_eqs(path, "/none")) {
        http_res_send(req, 204, NULL, NULL, 0);
    } else if (str_eqs(path, "/hold")) {
        http_req_set_arg(req, w, NULL);
    } else {
        http_res_send(req, 404, "text/plain", "no", 2);
    }
}

/* -- worlds -- */

void calls_set_true(void *arg)
{
    bool *b = arg;
    *b = true;
}

static void on_tls_failed(void *arg, const char *peer, int rc, const char *why)
{
    struct calls *w = arg;
    assert_non_null(strstr(peer, "127.0.0.1:"));
    assert_true(why[0] != '\0');
    w->tls_failed++;
    w->tls_failed_rc = rc;
}

static void start(struct calls *w, const struct http_client_options *opt, bool serve,
                  struct tls_context *tls)
{
    const struct http_server_handler handler = { .on_request = on_request,
                                                 .arg = w,
                                                 .on_tls_failed = on_tls_failed };
    const struct http_server_options options = { .tls = tls };
    struct err e;
    memset(w, 0, sizeof(*w));
    peer_init(&w->peer, &w->listener);
    if (serve) {
        assert_int_equal(
            http_server_start(&w->peer.loop, w->listener, &options, &handler, &w->server, &e), 0);
    } else {
        assert_int_equal(listen(w->listener, 64), 0);
    }
    assert_int_equal(loop_init(&w->loop, &w->peer.loop), 0);
    assert_int_equal(http_client_start(&w->loop, opt, &w->client, &e), 0);
}

void calls_start(struct calls *w, const struct http_client_options *opt, bool serve)
{
    start(w, opt, serve, NULL);
}

void calls_start_tls(struct calls *w, struct tls_context *server, struct tls_context *client)
{
    start(w, NULL, true, server);
    w->server_tls = server;
    w->tls = client;
}

void calls_stop(struct calls *w)
{
    if (!w->client_closed) {
        http_client_close(w->client, calls_set_true, &w->client_closed);
    }
    while (!w->client_closed) {
        peer_turn(&w->peer, 0);
    }
    if (w->server != NULL) {
        http_server_close(w->server, 0, calls_set_true, &w->server_closed);
    } else {
        (void)close(w->listener);
    }
    loop_close(&w->loop);
    peer_release(&w->peer);
    (void)tls_context_unref(w->server_tls);
    (void)tls_context_unref(w->tls);
}

/* -- shots -- */

static void shot_head(void *arg, struct http_call *call, const struct http1_head *head)
{
    struct shot *s = arg;
    assert_false(s->w->in_call);
    assert_ptr_equal(call, s->call);
    s->heads++;
    s->status = head->status;
    (void)str_copy(s->header, sizeof(s->header), http1_header(head, "X-Thing"));
    if (s->cancel_in_head) {
        s->call = http_call_cancel(call);
    }
}

static void shot_data(void *arg, struct http_call *call, struct str data)
{
    struct shot *s = arg;
    assert_false(s->w->in_call);
    for (size_t i = 0; i < data.n; i++) {
        s->sum = s->sum * 31 + (unsigned char)data.p[i];
    }
    s->bytes += data.n;
    (void)buf_addstr(&s->body, data);
    if (s->cancel_in_data) {
        s->call = http_call_cancel(call);
    } else if (s->pause_in_data) {
        http_call_pause(call);
    }
}

static void shot_drain(void *arg, struct http_call *call)
{
    static const char block[CALLS_BLOCK] = { 'y' };
    struct shot *s = arg;
    assert_false(s->w->in_call);
    s->drains++;
    while (s->to_write > 0) {
        s->to_write--;
        if (!http_call_write(call, block, sizeof(block))) {
            return;
        }
    }
    http_call_write_end(call);
}

static void shot_done(void *arg, struct http_call *call, int rc, int status, const char *why)
{
    struct shot *s = arg;
    assert_false(s->w->in_call);
    assert_ptr_equal(call, s->call);
    s->dones++;
    s->rc = rc;
    s->status = status;
    (void)snprintf(s->why, sizeof(s->why), "%s", why);
    s->call = NULL;
}

struct http_call_events shot_events(struct shot *s)
{
    return (struct http_call_events){ shot_head, shot_data, shot_drain, shot_done, s };
}

struct http_call *shot_aim_at(struct shot *s, struct calls *w, const char *host, const char *method,
                              const char *target)
{
    const struct http_call_events ev = shot_events(s);
    const struct http_target to = {
        .host = host, .port = ntohs(w->peer.addr.sin_port), .tls = w->tls, .tls_name = w->tls_name
    };
    memset(s, 0, sizeof(*s));
    buf_init(&s->body, 1 << 25);
    s->w = w;
    s->call = http_call_new(w->client, &to, method, target, 1 << 26, &ev);
    return s->call;
}

struct http_call *shot_aim(struct shot *s, struct calls *w, const char *method, const char *target)
{
    struct http_call *call = shot_aim_at(s, w, "127.0.0.1", method, target);
    assert_non_null(call);
    return call;
}

void shot_fire(struct shot *s)
{
    s->w->in_call = true;
    http_call_send(s->call);
    s->w->in_call = false;
}

void calls_wait(struct calls *w, const unsigned *what, unsigned least)
{
    uint64_t end = uv_hrtime() + UINT64_C(10000000000);
    while (*what < least && uv_hrtime() < end) {
        peer_turn(&w->peer, 0);
    }
    assert_true(*what >= least);
}

void shot_land(struct shot *s)
{
    calls_wait(s->w, &s->dones, 1);
    assert_int_equal(s->dones, 1);
}

void shot_free(struct shot *s)
{
    buf_release(&s->body);
}
