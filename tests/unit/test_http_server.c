/* The HTTP server over loopback: one thread turns the loop and plays the client. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/loop/http_server.h"
#include "common/mem.h"
#include "tests/lib/peer.h"

enum { FILE_BYTES = 3 * 1024 * 1024 + 17, STREAM_BLOCK = 64 * 1024 };

struct world {
    struct peer peer;
    struct http_server *server;
    bool closed;
    /* what the handler saw */
    unsigned requests;
    unsigned done;
    unsigned aborted;
    struct http_req *held;
    uint64_t body_bytes;
    int body_status;
    unsigned stream_left;
    unsigned drains;
    bool in_call; /* a callback that comes now comes from inside a call */
    char file[64];
    char id[2][17];
};

static void on_done(void *arg, bool aborted)
{
    struct world *w = arg;
    assert_false(w->in_call);
    w->done++;
    w->aborted += aborted ? 1 : 0;
    w->held = NULL;
}

static void on_body(void *arg, struct http_req *req, int status, struct str body)
{
    struct world *w = arg;
    assert_false(w->in_call);
    w->body_status = status;
    if (status == 0) {
        http_res_send(req, 200, "application/octet-stream", body.p, body.n);
    } else {
        http_res_send(req, status == -EFBIG ? 413 : 500, NULL, NULL, 0);
    }
}

static void count_data(void *arg, struct http_req *req, struct str data)
{
    struct world *w = arg;
    assert_false(w->in_call);
    w->body_bytes += data.n;
    http_req_pause(req);
    w->held = req;
}

static void count_end(void *arg, struct http_req *req, int status)
{
    struct world *w = arg;
    assert_false(w->in_call);
    w->body_status = status;
    char text[32];
    int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)w->body_bytes);
    http_res_send(req, 200, "text/plain", text, (size_t)n);
}

static void stream_more(void *arg, struct http_req *req)
{
    static const char block[STREAM_BLOCK] = { 'x' };
    struct world *w = arg;
    w->drains++;
    while (w->stream_left > 0) {
        w->stream_left--;
        if (!http_res_write(req, block, sizeof(block))) {
            return;
        }
    }
    http_res_end(req);
}

static void on_request(void *arg, struct http_req *req)
{
    struct world *w = arg;
    struct str path = http_req_head(req)->path;
    const struct http_body_sink sink = { count_data, count_end, w };
    assert_false(w->in_call);
    (void)snprintf(w->id[w->requests % 2], 17, "%s", http_req_id(req));
    w->requests++;
    http_req_set_arg(req, w, on_done);
    assert_ptr_equal(http_req_arg(req), w);
    w->in_call = true;
    if (str_eqs(path, "/hello")) {
        http_res_header(req, "X-Thing", "one");
        http_res_send(req, 200, "text/plain", "hello", 5);
    } else if (str_eqs(path, "/echo")) {
        http_req_read_all(req, 100000, on_body, w);
    } else if (str_eqs(path, "/tiny")) {
        http_req_read_all(req, 10, on_body, w);
    } else if (str_eqs(path, "/count")) {
        http_req_read(req, UINT64_MAX, &sink);
    } else if (str_eqs(path, "/stream")) {
        http_res_begin(req, 200, "text/plain", stream_more, w);
        w->in_call = false;
        stream_more(w, req);
    } else if (str_eqs(path, "/file")) {
        int fd = open(w->file, O_RDONLY | O_CLOEXEC);
        http_res_send_file(req, 206, "text/plain", fd, 10, FILE_BYTES - 10);
    } else if (str_eqs(path, "/short") || str_eqs(path, "/big")) {
        int fd = open(w->file, O_RDWR | O_CLOEXEC);
        bool big = str_eqs(path, "/big");
        assert_int_equal(ftruncate(fd, big ? 1 << 26 : FILE_BYTES), 0);
        http_res_send_file(req, 200, NULL, fd, 0, big ? 1 << 26 : FILE_BYTES + 1);
    } else if (str_eqs(path, "/hold")) {
        w->held = req;
    } else if (str_eqs(path, "/break")) {
        http_res_begin(req, 200, NULL, NULL, NULL);
        (void)http_res_write(req, "half", 4);
        http_res_abort(req);
    } else if (str_eqs(path, "/length")) {
        http_res_send_length(req, 200, NULL, 12345);
    } else if (str_eqs(path, "/peer")) {
        const char *peer = http_req_peer(req);
        assert_true(http_req_is_loopback(req));
        http_res_send(req, 200, NULL, peer, strlen(peer));
    } else {
        http_res_send(req, 404, NULL, NULL, 0);
    }
    w->in_call = false;
}

static void on_closed(void *arg)
{
    struct world *w = arg;
    w->closed = true;
}

static void start_with(struct world *w, const struct http_server_options *opt)
{
    const struct http_server_handler handler = { .on_request = on_request, .arg = w };
    struct err e;
    int fd;
    memset(w, 0, sizeof(*w));
    peer_init(&w->peer, &fd);
    assert_int_equal(http_server_start(&w->peer.loop, fd, opt, &handler, &w->server, &e), 0);
}

static void start(struct world *w)
{
    const struct http_server_options opt = { .server_name = "agent/test" };
    start_with(w, &opt);
}

static void stop(struct world *w)
{
    http_server_close(w->server, 0, on_closed, w);
    assert_false(w->closed);
    peer_release(&w->peer);
    assert_true(w->closed);
    assert_int_equal(w->done, w->requests);
}

static void test_keep_alive(void **state)
{
    (void)state;
    struct world w;
    start(&w);
    int fd = peer_dial(&w.peer);
    for (int i = 0; i < 3; i++) {
        peer_say(&w.peer, fd, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        char *got = peer_hear(&w.peer, fd, "hello");
        HAS(got, "HTTP/1.1 200 OK\r\n");
        HAS(got, "Content-Length: 5\r\n");
        HAS(got, "Content-Type: text/plain\r\n");
        HAS(got, "Server: agent/test\r\n");
        HAS(got, "Date: ");
        HAS(got, " GMT\r\n");
        HAS(got, "X-Thing: one\r\n\r\nhello");
        HAS_NOT(got, "Connection:");
    }
    assert_int_equal(w.requests, 3);
    assert_string_not_equal(w.id[0], w.id[1]);
    assert_int_equal(strlen(w.id[0]), 16);
    peer_say(&w.peer, fd, "GET /peer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    char *got = peer_hear(&w.peer, fd, NULL);
    HAS(got, "Connection: close\r\n");
    HAS(got, "\r\n\r\n127.0.0.1:");
    (void)close(fd);
    stop(&w);
}

static void test_old_version(void **state)
{
    (void)state;
    struct world w;
    start(&w);
    int fd = peer_dial(&w.peer);
    peer_say(&w.peer, fd, "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    HAS(peer_hear(&w.peer, fd, "hello"), "Connection: keep-alive\r\n");
    w.stream_left = 1;
    peer_say(&w.peer, fd, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    struct buf got = BUF_INIT(1 << 24);
    assert_int_equal(peer_hear_some(&w.peer, fd, &got, NULL, SIZE_MAX),
                     0); /* the close is the end */
    HAS(buf_cstr(&got), "Connection: close\r\n");
    HAS_NOT(buf_cstr(&got), "chunked");
    assert_true(got.len > STREAM_BLOCK);
    buf_release(&got);
    (void)close(fd);
    stop(&w);
}

static void test_pipelining(void **state)
{
    (void)state;
    enum { N = 200 };
    struct world w;
    struct buf all = BUF_INIT(1 << 20);
    struct buf got = BUF_INIT(1 << 20);
    start(&w);
    int fd = peer_dial(&w.peer);
    for (int i = 0; i < N; i++) {
        (void)buf_addf(&all, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n<%03d>",
                       i);
    }
    (void)buf_adds(&all, "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    peer_say_n(&w.peer, fd, all.data, all.len);
    assert_int_equal(peer_hear_some(&w.peer, fd, &got, NULL, SIZE_MAX), 0);
    const char *at = buf_cstr(&got);
    for (int i = 0; i < N; i++) {
        char want[16];
        (void)snprintf(want, sizeof(want), "<%03d>", i);
        at = strstr(at, want); /* each answer, in order */
        assert_non_null(at);
    }
    HAS(at, "hello");
    assert_int_equal(w.requests, N + 1);
    buf_release(&all);
    buf_release(&got);
    (void)close(fd);
    stop(&w);
}

static void test_byte_by_byte(void **state)
{
    (void)state;
    static const char text[] =
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n";
    struct world w;
    start(&w);
    int fd = peer_dial(&w.peer);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof(text) - 1; i++) {
            peer_say_n(&w.peer, fd, text + i, 1);
        }
        HAS(peer_hear(&w.peer, fd, "abcde"), "Content-Length: 5\r\n");
    }
    (void)close(fd);
    stop(&w);
}

static void test_head(void **state)
{
    (void)state;
    struct world w;
    start(&w);
    int fd = peer_dial(&w.peer);
    w.stream_left = 2;
    peer_say(&w.peer, fd,
             "HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\nHEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n"
             "HEAD /file HTTP/1.1\r\nHost: a\r\n\r\nGET /length HTTP/1.1\r\nHost: a\r\n"
             "Connection: close\r\n\r\n");
    char *got = peer_hear(&w.peer, fd, NULL);
    HAS(got, "Content-Length: 5\r\n");
    HAS(got, "Transfer-Encoding: chunked\r\n\r\nHTTP/1.1 206");
    HAS(got, "Content-Length: 3145735\r\n\r\nHTTP/1.1 200");
    HAS(got, "Content-Length: 12345\r\n");
    HAS_NOT(got, "hello");
    HAS_NOT(got, "xxx");
    (void)close(fd);
    stop(&w);
}

static void test_expect(void **state)
{
    (void)state;
    struct world w;
    start(&w);
    int fd = peer_dial(&w.peer);
    peer_say(&w.peer, fd,
             "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    HAS(peer_hear(&w.peer, fd, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    peer_say(&w.peer, fd, "abc");
    HAS(peer_hear(&w.peer, fd, "abc"), "HTTP/1.1 200 OK\r\n");
    /* Declared too long: the handler's refusal comes without the go-ahead, and ends it. */
    peer_say(
        &w.peer, fd,
        "POST /tiny HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n");
    char *got = peer_hear(&w.peer, fd, NULL);
    HAS(got, "HTTP/1.1 413 ");
    HAS_NOT(got, "100 Continue");
    assert_int_equal(w.body_status, -EFBIG);
    (void)close(fd);
    stop(&w);
}

static void test_unread_body(void **state)
{
    (void)state;
    struct world w;
    struct buf body = BUF_INIT(1 << 20);
    start(&w);
    int fd = peer_dial(&w.peer);
    /* A small one is dropped, and the connection goes on. */
    peer_say(&w.peer, fd, "POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234");
    HAS(peer_hear(&w.peer, fd, "hello"), "200 OK");
    peer_say(&w.peer, fd, "56789GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    HAS(peer_hear(&w.peer, fd, "hello"), "200 OK");
    /* Too long only as it turns out. */
    peer_say(&w.peer, fd,
             "POST /tiny HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
             "6\r\nabcdef\r\n6\r\nghijkl\r\n0\r\n\r\n");
    HAS(peer_hear(&w.peer, fd, "\r\n\r\n"), "413");
    assert_int_equal(w.body_status, -EFBIG);
    /* A large one ends the connection, and the answer arrives whole all the same. */
    peer_say(&w.peer, fd, "POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    char *room = buf_reserve(&body, 1000000);
    memset(room, 'z', 1000000);
    peer_say_n(&w.peer, fd, room, 1000000);
    char *got = peer_hear(&w.peer, fd, NULL);
    HAS(got, "hello");
    assert_int_equal(w.requests, 4);
    assert_int_equal(w.aborted, 0);
    buf_release(&body);
    (void)close(fd);
    stop(&w);
}

static void test_back_pressure_in(void **state)
{
    (void)state;
    struct world w;
    static char block[1 << 20];
    start(&w);
    int fd = peer_dial(&w.peer);
    peer_say(&w.peer, fd, "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 8388608\r\n\r\n");
    size_t sent = 0;
    for (int i = 0; i < 200; i++) {
        ssize_t n = send(fd, block, sizeof(block), MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        peer_turn(&w.peer, 0);
    }
    /* The handler paused after the first slice: the server takes no more than one read ahead. */
    assert_true(w.body_bytes <= 65536);
    assert_true(http_server_stats(w.server)->bytes_in <= 4 * 65536);
    while (w.body_bytes < 8388608) {
        size_t left = 8388608 - sent;
        ssize_t n = left > 0
                        ? send(fd, block, left < sizeof(block) ? left : sizeof(block), MSG_NOSIGNAL)
                        : 0;
        sent += n > 0 ? (size_t)n : 0;
        if (w.held != NULL) {
            w.in_call = true;
            http_req_resume(w.held);
            w.in_call = false;
        }
        peer_turn(&w.peer, 0);
    }
    assert_non_null(w.held);
    http_req_resume(w.held); /* the end waits for this, too */
    HAS(peer_hear(&w.peer, fd, "8388608"), "200 OK");
    (void)close(fd);
    stop(&w);
}

static void test_back_pressure_out(void **state)
{
    (void)state;
    enum { BLOCKS = 400 };
    struct world w;
    struct buf got = BUF_INIT(1 << 26);
    start(&w);
    int fd = peer_dial(&w.peer);
    w.stream_left = BLOCKS;
    peer_say(&w.peer, fd, "GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    peer_turn(&w.peer, 50);
    assert_true(w.stream_left > 0); /* it waits for the client */
    assert_int_equal(peer_hear_some(&w.peer, fd, &got, NULL, SIZE_MAX), 0);
    assert_int_equal(w.stream_left, 0);
    assert_true(w.drains > 2);
    assert_true(got.len > (size_t)BLOCKS * (STREAM_BLOCK + 9));
    assert_memory_equal(got.data + got.len - 7, "\r\n0\r\n\r\n", 7);
    buf_release(&got);
    (void)close(fd);
    stop(&w);
}

static void file_make(struct world *w)
{
    static char block[FILE_BYTES];
    for (size_t i = 0; i < sizeof(block); i++) {
        block[i] = (char)('a' + (i * 31 + (i >> 10)) % 26);
    }
    (void)snprintf(w->file, sizeof(w->file), "/tmp/test_http_server.XXXXXX");
    int fd = mkstemp(w->file);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
    (void)close(fd);
}

static void test_file(void **state)
{
    (void)state;
    struct world w;
    struct buf got = BUF_INIT(1 << 24);
    start(&w);
    file_make(&w);
    int fd = peer_dial(&w.peer);
    peer_say(&w.peer, fd,
             "GET /file HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_int_equal(peer_hear_some(&w.peer, fd, &got, NULL, FILE_BYTES), 1);
    while (strncmp(got.data + got.len - 5, "hello", 5) != 0) {
        assert_int_equal(peer_hear_some(&w.peer, fd, &got, NULL, got.len + 1), 1);
    }
    char *body = strstr(got.data, "\r\n\r\n") + 4;
    for (size_t i = 10; i < FILE_BYTES; i++) {
        assert_int_equal(body[i - 10], (char)('a' + (i * 31 + (i >> 10)) % 26));
    }
    assert_memory_equal(body + FILE_BYTES - 10, "HTTP/1.1 200", 12);
    buf_release(&got);
    /* Shorter than was promised: broken off, not padded. */
    peer_say(&w.peer, fd, "GET /short HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_true(peer_hear_some(&w.peer, fd, &got, NULL, SIZE_MAX) <= 0);
    assert_true(got.len < FILE_BYTES + 512);
    assert_int_equal(w.aborted, 1);
    buf_release(&got);
    (void)close(fd);
    /* A client that goes away in the middle, and a server that ends meanwhile. */
    fd = peer_dial(&w.peer);
    peer_say(&w.peer, fd, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    peer_turn(&w.peer, 20);
    (void)close(fd);
    peer_turn(&w.peer, 20);
    assert_int_equal(w.aborted, 2);
    fd = peer_dial(&w.peer);
    peer_say(&w.peer, fd, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    (void)uv_run(&w.peer.loop, UV_RUN_NOWAIT);
    stop(&w);
    (void)close(fd);
    (void)unlink(w.file);
}

static void test_client_gone(void **state)
{
    (void)state;
    struct world w;
    start(&w);
    const struct linger hard = { .l_onoff = 1, .l_linger = 0 };
    int fd = peer_dial(&w.peer);
    peer_say(&w.peer, fd, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    peer_turn(&w.peer, 5);
    assert_non_null(w.held);
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    (void)close(fd);
    peer_turn(&w.peer, 20);
    assert_int_equal(w.aborted, 1);
    /* In the middle of a body. */
    fd = peer_dial(&w.peer);
    peer_say(&w.peer, fd, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    (void)close(fd);
    peer_turn(&w.peer, 20);
    assert_int_equal(w.aborted, 2);
    /* Half closed: what it asked for it still gets. */
    fd = peer_dial(&w.peer);
    peer_say(&w.peer, fd, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    (void)shutdown(fd, SHUT_WR);
    peer_turn(&w.peer, 20);
    assert_non_null(w.held);
    w.in_call = true;
    http_res_send(w.held, 200, NULL, "late", 4);
    w.in_call = false;
    HAS(peer_hear(&w.peer, fd, NULL), "late");
    assert_int_equal(w.aborted, 2);
    (void)close(fd);
    /* The server breaks off. */
    fd = peer_dial(&w.peer);
    peer_say(&w.peer, fd, "GET /break HTTP/1.1\r\nHost: a\r\n\r\n");
    char *got = peer_hear(&w.peer, fd, NULL);
    HAS(got, "4\r\nhalf\r\n");
    HAS_NOT(got, "0\r\n\r\n");
    assert_int_equal(w.aborted, 3);
    (void)close(fd);
    stop(&w);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *status;
    } bad[] = {
        { "GET / HTTP/1.1\r\n\r\n", "400" },
        { "GET / HTTP/1.1\nHost: a\n\n", "400" },
        { "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400" },
        { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
          "400" },
        { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\nx", "400" },
        { "GET / HTTP/9.9\r\nHost: a\r\n\r\n", "505" },
        { "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n"
          "0\r\n\r\n",
          "400" },
    };
    struct world w;
    start(&w);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int fd = peer_dial(&w.peer);
        peer_say(&w.peer, fd, bad[i].text);
        char *got = peer_hear(&w.peer, fd, NULL);
        HAS(got, "application/problem+json");
        HAS(got, "Connection: close");
        assert_memory_equal(got + 9, bad[i].status, 3);
        (void)close(fd);
    }
    assert_int_equal(http_server_stats(w.server)->bad_requests_total, 7);
    assert_int_equal(w.requests, 1);
    assert_int_equal(w.aborted, 1);
    /* A TLS hello is closed at once, without a word. */
    int fd = peer_dial(&w.peer);
    peer_say_n(&w.peer, fd, "\x16\x03\x01\x02\x00", 5);
    assert_string_equal(peer_hear(&w.peer, fd, NULL), "");
    (void)close(fd);
    stop(&w);
}

static void test_oversize_head(void **state)
{
    (void)state;
    struct world w;
    struct buf b = BUF_INIT(1 << 20);
    start(&w);
    (void)buf_adds(&b, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
    memset(buf_reserve(&b, 40000), 'y', 40000);
    buf_grow(&b, 40000);
    (void)buf_adds(&b, "\r\n\r\n");
    int fd = peer_dial(&w.peer);
    peer_say_n(&w.peer, fd, b.data, b.len);
    HAS(peer_hear(&w.peer, fd, NULL), "HTTP/1.1 431 ");
    (void)close(fd);
    buf_release(&b);
    stop(&w);
}

static void test_deadlines(void **state)
{
    (void)state;
    const struct http_server_options opt = { .header_timeout_ms = 60,
                                             .idle_timeout_ms = 150,
                                             .body_timeout_ms = 60,
                                             .write_timeout_ms = 60 };
    struct world w;
    start_with(&w, &opt);
    int idle = peer_dial(&w.peer);
    int head = peer_dial(&w.peer);
    int body = peer_dial(&w.peer);
    int hold = peer_dial(&w.peer);
    int slow = peer_dial(&w.peer);
    peer_say(&w.peer, head, "GET / HTTP/1.1\r\n");
    peer_say(&w.peer, body, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
    peer_say(&w.peer, hold, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    peer_turn(&w.peer, 30);
    struct http_req *held = w.held;
    peer_say(&w.peer, head, "Host:"); /* a trickle does not prolong it */
    w.stream_left = 4000;
    peer_say(&w.peer, slow, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_int_equal(http_server_stats(w.server)->connections, 5);
    peer_turn(&w.peer, 60);
    HAS(peer_hear(&w.peer, head, NULL), "HTTP/1.1 408 ");
    HAS(peer_hear(&w.peer, body, NULL), "HTTP/1.1 408 ");
    (void)close(head);
    (void)close(body);
    peer_turn(&w.peer, 60);
    /* The one that reads nothing is cut off; the one whose handler thinks is not. */
    assert_int_equal(w.aborted, 2);
    peer_turn(&w.peer, 60);
    assert_string_equal(peer_hear(&w.peer, idle, NULL), "");
    assert_int_equal(http_server_stats(w.server)->connections, 1);
    http_res_send(held, 200, NULL, "kept", 4);
    HAS(peer_hear(&w.peer, hold, "kept"), "200 OK");
    (void)close(hold);
    (void)close(idle);
    (void)close(slow);
    stop(&w);
}

static void test_connection_cap(void **state)
{
    (void)state;
    const struct http_server_options opt = { .connections_max = 2 };
    struct world w;
    start_with(&w, &opt);
    int a = peer_dial(&w.peer);
    int b = peer_dial(&w.peer);
    peer_turn(&w.peer, 5);
    int c = peer_dial(&w.peer);
    char *got = peer_hear(&w.peer, c, NULL);
    HAS(got, "HTTP/1.1 503 ");
    HAS(got, "Retry-After: ");
    assert_int_equal(http_server_stats(w.server)->connections_refused, 1);
    (void)close(a);
    (void)close(c);
    peer_turn(&w.peer, 10);
    c = peer_dial(&w.peer);
    peer_say(&w.peer, c, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    HAS(peer_hear(&w.peer, c, "hello"), "200 OK");
    (void)close(b);
    (void)close(c);
    stop(&w);
}

static void test_graceful_end(void **state)
{
    (void)state;
    struct world w;
    start(&w);
    int idle = peer_dial(&w.peer);
    int busy = peer_dial(&w.peer);
    int stuck = peer_dial(&w.peer);
    peer_say(&w.peer, stuck, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n");
    peer_say(&w.peer, busy, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    peer_turn(&w.peer, 10);
    struct http_req *held = w.held;
    http_server_close(w.server, 100, on_closed, &w);
    peer_turn(&w.peer, 10);
    assert_string_equal(peer_hear(&w.peer, idle, NULL), "");
    assert_false(w.closed);
    http_res_send(held, 200, NULL, "bye", 3);
    char *got = peer_hear(&w.peer, busy, NULL);
    HAS(got, "bye");
    HAS(got, "Connection: close");
    (void)close(busy);
    peer_release(&w.peer);
    assert_true(w.closed);
    assert_int_equal(w.done, 2);
    assert_int_equal(w.aborted, 1);
    (void)close(idle);
    (void)close(stuck);
}

static void test_unix_socket(void **state)
{
    (void)state;
    struct world w;
    const struct http_server_options opt = { 0 };
    const struct http_server_handler handler = { .on_request = on_request, .arg = &w };
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    memset(&w, 0, sizeof(w));
    assert_int_equal(uv_loop_init(&w.peer.loop), 0);
    char dir[] = "/tmp/test_http_server.XXXXXX";
    assert_non_null(mkdtemp(dir));
    (void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/s", dir);
    int lfd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(lfd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(http_server_start(&w.peer.loop, lfd, &opt, &handler, &w.server, NULL), 0);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    peer_say(&w.peer, fd, "GET /peer HTTP/1.1\r\nHost: a\r\n\r\n");
    HAS(peer_hear(&w.peer, fd, "unix"), "200 OK");
    (void)close(fd);
    stop(&w);
    (void)unlink(sa.sun_path);
    (void)rmdir(dir);
}

/* Whatever allocation fails: nothing leaks, nothing hangs, every request has its end. */
static void test_no_memory(void **state)
{
    (void)state;
    unsigned whole = 0;
    for (long n = 0; n < 60; n++) {
        struct world w;
        start(&w);
        file_make(&w);
        mem_fail_after(n, 0);
        int fd = peer_dial(&w.peer);
        w.stream_left = 20;
        peer_say(&w.peer, fd,
                 "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
                 "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
        peer_turn(&w.peer, 2);
        peer_say(&w.peer, fd, "GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        struct buf got = BUF_INIT(1 << 26);
        peer_turn(&w.peer, 2);
        mem_fail_after(-1, 0);
        whole +=
            peer_hear_some(&w.peer, fd, &got, NULL, SIZE_MAX) == 0 && got.len > FILE_BYTES ? 1 : 0;
        buf_release(&got);
        (void)close(fd);
        (void)unlink(w.file);
        stop(&w);
    }
    assert_true(whole > 0 && whole < 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_old_version),
        cmocka_unit_test(test_pipelining),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_expect),
        cmocka_unit_test(test_unread_body),
        cmocka_unit_test(test_back_pressure_in),
        cmocka_unit_test(test_back_pressure_out),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_client_gone),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_oversize_head),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_connection_cap),
        cmocka_unit_test(test_graceful_end),
        cmocka_unit_test(test_unix_socket),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("http_server", tests, NULL, NULL);
}
