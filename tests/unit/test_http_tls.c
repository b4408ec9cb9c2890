/* HTTP over TLS, our client against our server, and both against what is no TLS. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/mem.h"
#include "tests/lib/calls.h"
#include "tests/lib/certs.h"

enum { BIG = 3 * 1024 * 1024 + 17 };

static struct certs_pair ca, node_a, node_b;

static int setup(void **state)
{
    (void)state;
    certs_ca(&ca, "test-ca");
    certs_issue(&node_a, &ca, "node-a", "127.0.0.1", 30);
    certs_issue(&node_b, &ca, "node-b", NULL, 30);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    certs_release(&ca);
    certs_release(&node_a);
    certs_release(&node_b);
    return 0;
}

/* A server that asks for certificates, and a client that has one. */
static void start(struct calls *w)
{
    calls_start_tls(w, certs_context(true, &node_a, &ca, STR("")),
                    certs_context(false, &node_b, &ca, STR("")));
}

static void get(struct calls *w, struct shot *s, const char *target)
{
    (void)shot_aim(s, w, "GET", target);
    shot_fire(s);
    shot_land(s);
}

static void test_requests(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    start(&w);
    for (int i = 0; i < 3; i++) {
        get(&w, &s, "/hello");
        assert_int_equal(s.rc, 0);
        assert_string_equal(buf_cstr(&s.body), "hello");
        shot_free(&s);
    }
    get(&w, &s, "/name");
    assert_string_equal(buf_cstr(&s.body), "node-b");
    shot_free(&s);
    assert_int_equal(http_client_stats(w.client)->connections_total, 1);
    assert_int_equal(tls_context_stats(w.tls)->handshakes_total, 1);
    /* By name: what the certificate must carry need not be what is dialled. */
    w.tls_name = "node-a";
    get(&w, &s, "/hello");
    assert_int_equal(s.rc, 0);
    shot_free(&s);
    assert_int_equal(http_client_stats(w.client)->connections_total, 2);
    w.tls_name = "node-c";
    get(&w, &s, "/hello");
    assert_int_equal(s.rc, -EACCES);
    HAS(s.why, "TLS with 127.0.0.1:");
    HAS(s.why, "mismatch");
    calls_stop(&w);
}

static void test_resumed(void **state)
{
    (void)state;
    struct calls w;
    struct shot s[8];
    start(&w);
    for (int i = 0; i < 8; i++) {
        (void)shot_aim(&s[i], &w, "GET", i == 0 ? "/hello" : "/name");
        shot_fire(&s[i]);
        if (i == 0) {
            shot_land(&s[i]);
            shot_free(&s[i]);
        }
    }
    for (int i = 1; i < 8; i++) {
        shot_land(&s[i]);
        assert_string_equal(buf_cstr(&s[i].body), "node-b");
        shot_free(&s[i]);
    }
    assert_int_equal(tls_context_stats(w.tls)->handshakes_total, 7);
    assert_int_equal(tls_context_stats(w.tls)->resumed_total, 1); /* a ticket serves once */
    calls_stop(&w);
}

static void test_big_bodies(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    char *body = malloc(BIG);
    start(&w);
    for (size_t i = 0; i < BIG; i++) {
        body[i] = (char)(i * 11 + i / 257);
    }
    struct http_call *call = shot_aim(&s, &w, "POST", "/echo");
    http_call_body(call, body, BIG);
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.rc, 0);
    assert_int_equal(s.bytes, BIG);
    assert_memory_equal(s.body.data, body, BIG);
    shot_free(&s);
    call = shot_aim(&s, &w, "POST", "/count");
    http_call_body_stream(call, UINT64_MAX);
    s.to_write = 200;
    shot_fire(&s);
    assert_true(http_call_write(call, "abc", 3));
    while (s.to_write > 0 && http_call_write(call, body, CALLS_BLOCK)) {
        s.to_write--;
    }
    shot_land(&s);
    assert_int_equal(s.rc, 0);
    assert_true(s.drains > 0);
    shot_free(&s);
    free(body);
    calls_stop(&w);
}

static void test_pause(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    start(&w);
    w.stream_left = 400;
    struct http_call *call = shot_aim(&s, &w, "GET", "/stream");
    s.pause_in_data = true;
    shot_fire(&s);
    while (s.bytes == 0) {
        peer_turn(&w.peer, 0);
    }
    peer_turn(&w.peer, 100);
    assert_true(s.bytes <= CALLS_BLOCK + TLS_RECORD_MAX);
    assert_true(w.stream_left > 200);
    while (s.dones == 0) {
        http_call_resume(call);
        peer_turn(&w.peer, 0);
    }
    assert_int_equal(s.rc, 0);
    assert_int_equal(s.bytes, (uint64_t)400 * CALLS_BLOCK);
    shot_free(&s);
    calls_stop(&w);
}

static void test_plain_to_tls(void **state)
{
    (void)state;
    struct calls w;
    start(&w);
    char *got = peer_ask(&w.peer, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    HAS(got, "HTTP/1.1 400 ");
    HAS(got, "application/problem+json");
    HAS(got, "https://");
    assert_int_equal(w.requests, 0);
    /* A client that speaks TLS to a plain server: closed at once, and said so. */
    calls_stop(&w);
    struct shot s;
    calls_start(&w, NULL, true);
    w.tls = certs_context(false, NULL, &ca, STR(""));
    get(&w, &s, "/hello");
    assert_int_equal(s.rc, -ECONNRESET);
    HAS(s.why, "TLS with 127.0.0.1:");
    calls_stop(&w);
}

static void test_refused(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    struct certs_pair other, stranger;
    certs_ca(&other, "other-ca");
    certs_issue(&stranger, &other, "node-b", NULL, 30);
    calls_start_tls(&w, certs_context(true, &node_a, &ca, STR("")),
                    certs_context(false, &stranger, &ca, STR("")));
    get(&w, &s, "/name");
    assert_int_equal(s.rc, -EACCES);
    assert_int_equal(w.requests, 0);
    assert_int_equal(w.tls_failed, 1);
    assert_int_equal(w.tls_failed_rc, -EACCES);
    calls_stop(&w);
    certs_release(&other);
    certs_release(&stranger);
}

/* A reload between two requests of one connection takes the name away. */
static void test_reload(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    struct certs_pair other;
    certs_ca(&other, "other-ca");
    start(&w);
    get(&w, &s, "/name");
    assert_string_equal(buf_cstr(&s.body), "node-b");
    shot_free(&s);
    const struct tls_config next = certs_config(true, &node_a, &other, STR(""));
    assert_int_equal(tls_context_reload(w.server_tls, &next, NULL), 0);
    get(&w, &s, "/name");
    assert_int_equal(s.rc, 0);
    assert_string_equal(buf_cstr(&s.body), "");
    shot_free(&s);
    assert_int_equal(http_client_stats(w.client)->connections_total, 1);
    calls_stop(&w);
    certs_release(&other);
}

/* Hellos that never end, noise, and a cut in the middle of an answer. */
static void test_broken(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    start(&w);
    int fd = peer_dial(&w.peer);
    peer_say_n(&w.peer, fd, "\x16\x03\x01\x02\x00\x01\x00", 7);
    peer_turn(&w.peer, 5);
    (void)close(fd);
    fd = peer_dial(&w.peer);
    peer_say_n(&w.peer, fd, "\x16\x03\x01\xff\xff\x01\x02\x03\x04\x05\x06\x07", 12);
    struct buf got = BUF_INIT(1 << 20);
    assert_int_equal(peer_hear_some(&w.peer, fd, &got, NULL, SIZE_MAX), 0); /* an alert, closed */
    assert_int_equal(got.data[0], 0x15);
    buf_release(&got);
    (void)close(fd);
    assert_int_equal(w.tls_failed, 1);
    assert_int_equal(w.tls_failed_rc, -EPROTO);
    get(&w, &s, "/hello");
    assert_int_equal(s.rc, 0);
    shot_free(&s);
    calls_stop(&w);
    /* Not TLS at all. */
    calls_start(&w, NULL, false);
    w.tls = certs_context(false, NULL, &ca, STR(""));
    (void)shot_aim(&s, &w, "GET", "/hello");
    shot_fire(&s);
    int server = -1;
    while (server < 0) {
        peer_turn(&w.peer, 0);
        server = accept4(w.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    }
    peer_say(&w.peer, server, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    shot_land(&s);
    assert_int_equal(s.rc, -EPROTO);
    HAS(s.why, "TLS with");
    (void)close(server);
    calls_stop(&w);
}

/* Each of our requests for memory fails once. (OpenSSL's own are beyond the switch.) */
static void test_no_memory(void **state)
{
    (void)state;
    bool all_passed = false;
    for (long after = 0; !all_passed && after < 400; after++) {
        struct calls w;
        struct shot s;
        start(&w);
        mem_fail_after(after, 0);
        bool made = shot_aim_at(&s, &w, "127.0.0.1", "POST", "/echo") != NULL;
        if (made) {
            http_call_body(s.call, "0123456789", 10);
            shot_fire(&s);
            shot_land(&s);
        }
        all_passed = mem_fail_count() < after;
        mem_fail_after(-1, 0);
        assert_true(!all_passed || (made && s.rc == 0 && s.bytes == 10));
        shot_free(&s);
        calls_stop(&w);
    }
    assert_true(all_passed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),     cmocka_unit_test(test_resumed),
        cmocka_unit_test(test_big_bodies),   cmocka_unit_test(test_pause),
        cmocka_unit_test(test_plain_to_tls), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_reload),       cmocka_unit_test(test_broken),
        cmocka_unit_test(test_no_memory),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, setup, teardown);
}
