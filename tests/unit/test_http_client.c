/* The HTTP client over loopback, against our own server: one thread turns the loop. */
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

enum { BIG = 5 * 1024 * 1024 + 321, SHOTS = 16 };

static void test_keep_alive(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    char host[32];
    calls_start(&w, NULL, true);
    (void)snprintf(host, sizeof(host), "127.0.0.1:%u", ntohs(w.peer.addr.sin_port));
    for (int i = 0; i < 3; i++) {
        (void)shot_aim(&s, &w, "GET", "/hello");
        shot_fire(&s);
        shot_land(&s);
        assert_int_equal(s.rc, 0);
        assert_int_equal(s.status, 200);
        assert_int_equal(s.heads, 1);
        assert_string_equal(buf_cstr(&s.body), "hello");
        assert_string_equal(s.header, host);
        assert_string_equal(s.why, "");
        shot_free(&s);
    }
    const struct http_client_stats *stats = http_client_stats(w.client);
    assert_int_equal(stats->connections_total, 1);
    assert_int_equal(stats->reused_total, 2);
    assert_int_equal(stats->calls_total, 3);
    assert_int_equal(stats->failed_total, 0);
    assert_int_equal(stats->idle, 1);
    calls_stop(&w);
}

static void test_kinds_of_answers(void **state)
{
    (void)state;
    const struct http_client_options opt = { .user_agent = "agent/test" };
    struct calls w;
    struct shot s;
    calls_start(&w, &opt, true);
    (void)shot_aim(&s, &w, "GET", "/agent");
    shot_fire(&s);
    shot_land(&s);
    assert_string_equal(buf_cstr(&s.body), "agent/test");
    shot_free(&s);
    (void)shot_aim(&s, &w, "HEAD", "/hello");
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.rc, 0);
    assert_int_equal(s.bytes, 0);
    (void)shot_aim(&s, &w, "DELETE", "/none");
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.status, 204);
    (void)shot_aim(&s, &w, "GET", "/nowhere?a=b");
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.status, 404);
    assert_int_equal(s.rc, 0);
    shot_free(&s);
    assert_int_equal(http_client_stats(w.client)->connections_total, 1);
    calls_stop(&w);
}

static void test_limit_per_place(void **state)
{
    (void)state;
    const struct http_client_options opt = { .per_host_max = 2 };
    struct calls w;
    struct shot s[SHOTS];
    calls_start(&w, &opt, true);
    for (int i = 0; i < SHOTS; i++) {
        (void)shot_aim(&s[i], &w, "GET", "/hello");
        shot_fire(&s[i]);
    }
    assert_int_equal(http_client_stats(w.client)->waiting, SHOTS - 2);
    for (int i = 0; i < SHOTS; i++) {
        shot_land(&s[i]);
        assert_int_equal(s[i].rc, 0);
        shot_free(&s[i]);
    }
    assert_int_equal(http_client_stats(w.client)->connections_total, 2);
    assert_int_equal(http_client_stats(w.client)->idle, 2);
    calls_stop(&w);
}

static void test_waiting_limit(void **state)
{
    (void)state;
    const struct http_client_options opt = { .per_host_max = 1, .waiting_max = 2 };
    struct calls w;
    struct shot s[4];
    calls_start(&w, &opt, true);
    for (int i = 0; i < 4; i++) {
        (void)shot_aim(&s[i], &w, "GET", "/hello");
        shot_fire(&s[i]);
    }
    for (int i = 0; i < 4; i++) {
        shot_land(&s[i]);
        assert_int_equal(s[i].rc, i == 3 ? -EAGAIN : 0);
        shot_free(&s[i]);
    }
    calls_stop(&w);
}

static void test_idle_limit(void **state)
{
    (void)state;
    const struct http_client_options opt = { .idle_max = 1, .idle_timeout_ms = 50 };
    struct calls w;
    struct shot s[3];
    calls_start(&w, &opt, true);
    for (int i = 0; i < 3; i++) {
        (void)shot_aim(&s[i], &w, "GET", "/hello");
        shot_fire(&s[i]);
    }
    for (int i = 0; i < 3; i++) {
        shot_land(&s[i]);
        shot_free(&s[i]);
    }
    assert_int_equal(http_client_stats(w.client)->idle, 1);
    peer_turn(&w.peer, 120);
    assert_int_equal(http_client_stats(w.client)->idle, 0);
    assert_int_equal(http_client_stats(w.client)->connections, 0);
    calls_stop(&w);
}

static void test_bytes_body(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    char *body = malloc(BIG);
    calls_start(&w, NULL, true);
    for (size_t i = 0; i < BIG; i++) {
        body[i] = (char)(i * 7 + i / 251);
    }
    struct http_call *call = shot_aim(&s, &w, "POST", "/echo");
    http_call_header(call, "Content-Type", "text/plain");
    http_call_headerf(call, "X-Number", "%d", 5);
    http_call_body(call, body, BIG);
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.rc, 0);
    assert_int_equal(s.bytes, BIG);
    assert_memory_equal(s.body.data, body, BIG);
    shot_free(&s);
    call = shot_aim(&s, &w, "POST", "/echo");
    http_call_body(call, "", 0);
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.rc, 0);
    assert_int_equal(s.bytes, 0);
    free(body);
    calls_stop(&w);
}

static void stream_up(struct calls *w, uint64_t length, unsigned blocks)
{
    struct shot s;
    char text[32];
    struct http_call *call = shot_aim(&s, w, "POST", "/count");
    http_call_body_stream(call, length);
    shot_fire(&s);
    s.to_write = blocks;
    /* What is written before there is a connection waits; its end is told by on_drain. */
    while (s.to_write > 0 && http_call_write(call, "0123456789", 10)) {
        s.to_write--;
        static const char block[CALLS_BLOCK - 10] = { 'z' };
        if (!http_call_write(call, block, sizeof(block))) {
            break;
        }
    }
    if (s.to_write == 0) {
        http_call_write_end(call);
    }
    shot_land(&s);
    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)blocks * CALLS_BLOCK);
    assert_int_equal(s.rc, 0);
    assert_string_equal(buf_cstr(&s.body), text);
    assert_true(blocks < 8 || s.drains > 0);
    shot_free(&s);
}

static void test_stream_body(void **state)
{
    (void)state;
    struct calls w;
    calls_start(&w, NULL, true);
    stream_up(&w, UINT64_MAX, 300);
    stream_up(&w, UINT64_C(300) * CALLS_BLOCK, 300);
    stream_up(&w, UINT64_MAX, 0);
    stream_up(&w, 0, 0);
    stream_up(&w, UINT64_MAX, 3);
    assert_int_equal(http_client_stats(w.client)->connections_total, 1);
    /* Less than was said. */
    struct shot s;
    struct http_call *call = shot_aim(&s, &w, "POST", "/count");
    http_call_body_stream(call, 10);
    shot_fire(&s);
    assert_true(http_call_write(call, "abc", 3));
    http_call_write_end(call);
    assert_false(http_call_write(call, "abc", 3));
    shot_land(&s);
    assert_int_equal(s.rc, -EPIPE);
    calls_stop(&w);
}

static int make_file(size_t n)
{
    char name[64];
    (void)snprintf(name, sizeof(name), "/tmp/test_http_client.XXXXXX");
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    (void)unlink(name);
    for (size_t i = 0; i < n; i += 8) {
        char text[9];
        (void)snprintf(text, sizeof(text), "%08zx", i);
        assert_int_equal(write(fd, text, n - i < 8 ? n - i : 8), n - i < 8 ? n - i : 8);
    }
    return fd;
}

static void test_file_body(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    calls_start(&w, NULL, true);
    int fd = make_file(BIG);
    struct http_call *call = shot_aim(&s, &w, "PUT", "/echo");
    http_call_body_file(call, dup(fd), 8, BIG - 8);
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.rc, 0);
    assert_int_equal(s.bytes, BIG - 8);
    assert_memory_equal(s.body.data, "0000000800000010", 16);
    assert_memory_equal(s.body.data + 1000 * 8, "00001f48", 8);
    shot_free(&s);
    call = shot_aim(&s, &w, "PUT", "/echo");
    http_call_body_file(call, dup(fd), 0, 0);
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.rc, 0);
    /* A file that is shorter than was said. */
    call = shot_aim(&s, &w, "PUT", "/count");
    http_call_body_file(call, dup(fd), 0, BIG + 1);
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.rc, -EIO);
    /* Cancelled while a read is under way. */
    call = shot_aim(&s, &w, "PUT", "/count");
    http_call_body_file(call, fd, 0, BIG);
    shot_fire(&s);
    calls_wait(&w, &w.requests, 4);
    (void)http_call_cancel(call);
    assert_int_equal(s.dones, 0);
    calls_stop(&w);
}

static void test_pause(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    calls_start(&w, NULL, true);
    w.stream_left = 400;
    struct http_call *call = shot_aim(&s, &w, "GET", "/stream");
    s.pause_in_data = true;
    shot_fire(&s);
    while (s.bytes == 0) {
        peer_turn(&w.peer, 0);
    }
    peer_turn(&w.peer, 100);
    uint64_t before = s.bytes;
    assert_true(before <= CALLS_BLOCK);
    assert_true(w.stream_left > 200); /* the sockets hold some; the rest was not even made */
    while (s.dones == 0) {
        http_call_resume(call);
        peer_turn(&w.peer, 0);
    }
    assert_int_equal(s.rc, 0);
    assert_int_equal(s.bytes, (uint64_t)400 * CALLS_BLOCK);
    uint32_t sum = 0;
    for (int left = 399; left >= 0; left--) {
        for (int i = 0; i < CALLS_BLOCK; i++) {
            sum = sum * 31 + (unsigned char)('a' + left % 26);
        }
    }
    assert_int_equal(s.sum, sum);
    shot_free(&s);
    calls_stop(&w);
}

static void test_cancel(void **state)
{
    (void)state;
    const struct http_client_options opt = { .per_host_max = 1 };
    struct calls w;
    struct shot s[4];
    calls_start(&w, &opt, true);
    /* Before it was sent; while it waits behind another; while it is being connected. */
    (void)http_call_cancel(shot_aim(&s[0], &w, "GET", "/hello"));
    (void)shot_aim(&s[1], &w, "GET", "/hello");
    shot_fire(&s[1]);
    (void)shot_aim(&s[2], &w, "GET", "/hello");
    shot_fire(&s[2]);
    (void)shot_aim(&s[3], &w, "GET", "/hello");
    shot_fire(&s[3]);
    s[2].call = http_call_cancel(s[2].call);
    s[1].call = http_call_cancel(s[1].call);
    shot_land(&s[3]);
    assert_int_equal(s[3].rc, 0);
    assert_int_equal(w.requests, 1); /* on the connection that was begun for the first */
    assert_int_equal(http_client_stats(w.client)->connections_total, 1);
    shot_free(&s[3]);
    /* From its own callbacks. */
    (void)shot_aim(&s[0], &w, "GET", "/hello");
    s[0].cancel_in_head = true;
    shot_fire(&s[0]);
    calls_wait(&w, &s[0].heads, 1);
    assert_null(s[0].call);
    w.stream_left = 100;
    (void)shot_aim(&s[1], &w, "GET", "/stream");
    s[1].cancel_in_data = true;
    shot_fire(&s[1]);
    while (s[1].call != NULL) {
        peer_turn(&w.peer, 0);
    }
    (void)shot_aim(&s[2], &w, "GET", "/hold");
    shot_fire(&s[2]);
    calls_wait(&w, &w.requests, 4);
    s[2].call = http_call_cancel(s[2].call);
    (void)shot_aim(&s[3], &w, "GET", "/hello");
    shot_fire(&s[3]);
    shot_land(&s[3]);
    assert_int_equal(s[3].rc, 0);
    assert_int_equal(s[0].dones + s[1].dones + s[2].dones, 0);
    for (int i = 0; i < 4; i++) {
        shot_free(&s[i]);
    }
    calls_stop(&w);
}

static void test_too_long(void **state)
{
    (void)state;
    const struct http_call_events none = { .arg = NULL };
    struct calls w;
    struct shot s;
    calls_start(&w, NULL, true);
    const struct http_target to = { .host = "127.0.0.1", .port = ntohs(w.peer.addr.sin_port) };
    (void)http_call_cancel(shot_aim(&s, &w, "GET", "/hello"));
    const struct http_call_events ev = shot_events(&s);
    s.call = http_call_new(w.client, &to, "GET", "/hello", 4, &ev);
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.rc, -EFBIG);
    assert_int_equal(s.heads, 0);
    HAS(s.why, "5 bytes");
    w.stream_left = 100;
    s.dones = 0;
    s.call = http_call_new(w.client, &to, "GET", "/stream", 100000, &ev);
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.rc, -EFBIG);
    assert_int_equal(s.heads, 1);
    assert_true(s.bytes <= 100000);
    shot_free(&s);
    /* Nobody looks: the answer is thrown away. */
    w.stream_left = 3;
    struct http_call *call = http_call_new(w.client, &to, "GET", "/stream", UINT64_MAX, &none);
    http_call_send(call);
    while (http_client_stats(w.client)->calls_total < 3) {
        peer_turn(&w.peer, 0);
    }
    assert_int_equal(http_client_stats(w.client)->failed_total, 2);
    calls_stop(&w);
}

static void test_names(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    calls_start(&w, NULL, true);
    assert_non_null(
        shot_aim_at(&s, &w, "localhost", "GET", "/hello")); /* ::1, too, may be one of its */
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.rc, 0);
    HAS(s.header, "localhost:");
    shot_free(&s);
    assert_non_null(shot_aim_at(&s, &w, "no such name", "GET", "/hello"));
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.rc, -EHOSTUNREACH);
    HAS(s.why, "look up 'no such name'");
    assert_non_null(shot_aim_at(&s, &w, "::1", "GET", "/hello"));
    shot_fire(&s);
    shot_land(&s);
    assert_int_not_equal(s.rc, 0); /* the server is on 127.0.0.1 */
    HAS(s.why, "[::1]:");
    /* Given up while the look-up runs. */
    assert_non_null(shot_aim_at(&s, &w, "localhost", "GET", "/hello"));
    shot_fire(&s);
    (void)http_call_cancel(s.call);
    calls_stop(&w);
}

static void test_close(void **state)
{
    (void)state;
    const struct http_client_options opt = { .per_host_max = 1 };
    struct calls w;
    struct shot s[4];
    calls_start(&w, &opt, true);
    (void)shot_aim(&s[0], &w, "GET", "/hello"); /* never sent */
    (void)shot_aim(&s[1], &w, "GET", "/hold");
    shot_fire(&s[1]);
    calls_wait(&w, &w.requests, 1);
    (void)shot_aim(&s[2], &w, "GET", "/hello"); /* waits */
    shot_fire(&s[2]);
    assert_non_null(shot_aim_at(&s[3], &w, "localhost", "GET", "/hello")); /* is looked up */
    shot_fire(&s[3]);
    w.in_call = true;
    http_client_close(w.client, calls_set_true, &w.client_closed);
    w.in_call = false;
    assert_false(w.client_closed);
    while (!w.client_closed) {
        peer_turn(&w.peer, 0);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(s[i].dones, 1);
        assert_int_equal(s[i].rc, -ECANCELED);
    }
    calls_stop(&w);
}

/* Every request for memory fails once, then all from there on: no call is lost, nothing leaks. */
static void test_no_memory(void **state)
{
    (void)state;
    bool all_passed = false;
    for (long after = 0; !all_passed && after < 400; after++) {
        struct calls w;
        struct shot s;
        calls_start(&w, NULL, true);
        w.stream_left = 2;
        mem_fail_after(after, 0);
        bool made = shot_aim_at(&s, &w, "127.0.0.1", "POST", "/echo") != NULL;
        if (made) {
            http_call_body(s.call, "0123456789", 10);
            http_call_deadline(s.call, 5000);
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

/* Every address is asked for, the literal one and those of a name. */
static bool deny(void *arg, const struct sockaddr *to)
{
    unsigned *asked = arg;
    assert_true(to->sa_family == AF_INET || to->sa_family == AF_INET6);
    return ++*asked > 100;
}

static void test_may_connect(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    unsigned asked = 0;
    const struct http_client_options opt = { .may_connect = deny, .arg = &asked };
    static const char *const hosts[] = { "127.0.0.1", "localhost" };
    calls_start(&w, &opt, true);
    for (size_t i = 0; i < 2; i++) {
        unsigned before = asked;
        assert_non_null(shot_aim_at(&s, &w, hosts[i], "GET", "/hello"));
        shot_fire(&s);
        shot_land(&s);
        assert_int_equal(s.rc, -EPERM);
        assert_int_equal(s.status, 0);
        assert_non_null(strstr(s.why, hosts[i]));
        assert_true(asked > before);
        shot_free(&s);
    }
    assert_int_equal(http_client_stats(w.client)->connections_total, 0);
    asked = 100;
    (void)shot_aim(&s, &w, "GET", "/hello");
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.status, 200);
    shot_free(&s);
    calls_stop(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keep_alive),      cmocka_unit_test(test_kinds_of_answers),
        cmocka_unit_test(test_limit_per_place), cmocka_unit_test(test_waiting_limit),
        cmocka_unit_test(test_idle_limit),      cmocka_unit_test(test_bytes_body),
        cmocka_unit_test(test_stream_body),     cmocka_unit_test(test_file_body),
        cmocka_unit_test(test_pause),           cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_too_long),        cmocka_unit_test(test_names),
        cmocka_unit_test(test_may_connect),     cmocka_unit_test(test_close),
        cmocka_unit_test(test_no_memory),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
