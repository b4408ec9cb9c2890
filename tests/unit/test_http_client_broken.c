/* The HTTP client against servers that misbehave: the test plays them, between turns of the loop.
 */
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

static int take(struct calls *w)
{
    for (int i = 0; i < 5000; i++) {
        peer_turn(&w->peer, 0);
        int fd = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            return fd;
        }
        (void)usleep(500);
    }
    fail_msg("no connection came");
    return -1;
}

/* One call, answered with these bytes and a close. */
static void answer(struct shot *s, struct calls *w, const char *method, const char *bytes)
{
    (void)shot_aim(s, w, method, "/x");
    shot_fire(s);
    int fd = take(w);
    (void)peer_hear(&w->peer, fd, "\r\n\r\n");
    peer_say(&w->peer, fd, bytes);
    (void)shutdown(fd, SHUT_WR);
    shot_land(s);
    (void)close(fd);
    shot_free(s);
}

static void test_broken_answers(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        int rc;
        int status;
        const char *why;
    } cases[] = {
        { "", -ECONNRESET, 0, "closed the connection before it answered" },
        { "HTTP/1.1 200 OK\r\nContent-Le", -EPROTO, 0, "in the middle of its answer" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", -EPROTO, 200, "in the middle" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", -EPROTO, 200,
          "in the middle" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", -EPROTO, 200, "not HTTP" },
        { "SSH-2.0-OpenSSH_9.2\r\n", -EPROTO, 0, "not HTTP" },
        { "\x15\x03\x03\x00\x02\x02\x46", -EPROTO, 0, "" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", -EPROTO, 0,
          "not HTTP" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
          -EPROTO, 0, "not HTTP" },
        { "HTTP/2.0 200 OK\r\n\r\n", -EPROTO, 0, "not HTTP" },
        { "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", -EPROTO, 0,
          "101" },
        { "HTTP/1.1 200 OK\nContent-Length: 0\n\n", -EPROTO, 0, "not HTTP" },
        { "HTTP/1.1 200 OK\r\n\r\nuntil the end", 0, 200, "" },
        { "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 0, 200, "" },
        { "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
          "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
          0, 200, "" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", 0, 200, "" },
    };
    struct calls w;
    struct shot s;
    calls_start(&w, NULL, false);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        answer(&s, &w, "GET", cases[i].bytes);
        if (s.rc != cases[i].rc || s.status != cases[i].status ||
            strstr(s.why, cases[i].why) == NULL) {
            fail_msg("case %zu: rc %d status %d why '%s'", i, s.rc, s.status, s.why);
        }
    }
    calls_stop(&w);
}

static void test_too_many_interims(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    char bytes[4096] = "";
    for (int i = 0; i < 40; i++) {
        strcat(bytes, "HTTP/1.1 102 Processing\r\n\r\n");
    }
    calls_start(&w, NULL, false);
    answer(&s, &w, "GET", bytes);
    assert_int_equal(s.rc, -EPROTO);
    calls_stop(&w);
}

static void test_head_has_no_body(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    calls_start(&w, NULL, false);
    answer(&s, &w, "HEAD",
           "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n");
    assert_int_equal(s.rc, 0);
    assert_int_equal(s.status, 200);
    calls_stop(&w);
}

static void test_unasked_bytes(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    calls_start(&w, NULL, false);
    (void)shot_aim(&s, &w, "GET", "/x");
    shot_fire(&s);
    int fd = take(&w);
    (void)peer_hear(&w.peer, fd, "\r\n\r\n");
    peer_say(&w.peer, fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    shot_land(&s);
    assert_int_equal(http_client_stats(w.client)->idle, 1);
    /* An answer to the next request before it was made: that one must not get it. */
    peer_say(&w.peer, fd, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    peer_turn(&w.peer, 20);
    assert_int_equal(http_client_stats(w.client)->idle, 0);
    assert_int_equal(http_client_stats(w.client)->connections, 0);
    (void)close(fd);
    shot_free(&s);
    calls_stop(&w);
}

static void test_timeouts(void **state)
{
    (void)state;
    const struct http_client_options opt = { .response_timeout_ms = 60,
                                             .body_timeout_ms = 60,
                                             .connect_timeout_ms = 500 };
    struct calls w;
    struct shot s;
    calls_start(&w, &opt, false);
    (void)shot_aim(&s, &w, "GET", "/x");
    shot_fire(&s);
    int fd = take(&w);
    shot_land(&s); /* no answer at all */
    assert_int_equal(s.rc, -ETIMEDOUT);
    HAS(s.why, "its answer");
    HAS(s.why, "127.0.0.1:");
    (void)close(fd);
    (void)shot_aim(&s, &w, "GET", "/x");
    shot_fire(&s);
    fd = take(&w);
    peer_say(&w.peer, fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok");
    shot_land(&s); /* half of it */
    assert_int_equal(s.rc, -ETIMEDOUT);
    assert_int_equal(s.bytes, 2);
    HAS(s.why, "the rest");
    shot_free(&s);
    (void)close(fd);
    (void)shot_aim(&s, &w, "GET", "/x");
    shot_fire(&s);
    fd = take(&w);
    (void)peer_hear(&w.peer, fd, "\r\n\r\n");
    peer_say(&w.peer, fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    for (int i = 0; i < 9; i++) { /* slow, but never too slow */
        peer_turn(&w.peer, 20);
        peer_say(&w.peer, fd, "o");
    }
    shot_land(&s);
    assert_int_equal(s.rc, 0);
    shot_free(&s);
    (void)close(fd);
    peer_turn(&w.peer, 5);
    /* The server does not read what is sent. */
    struct http_call *call = shot_aim(&s, &w, "POST", "/x");
    char *body = calloc(1, 1 << 24);
    http_call_body(call, body, 1 << 24);
    free(body);
    shot_fire(&s);
    fd = take(&w);
    shot_land(&s);
    assert_int_equal(s.rc, -ETIMEDOUT);
    HAS(s.why, "to leave");
    (void)close(fd);
    calls_stop(&w);
}

static void test_deadlines(void **state)
{
    (void)state;
    const struct http_client_options opt = { .per_host_max = 1 };
    struct calls w;
    struct shot s[3];
    calls_start(&w, &opt, false);
    for (int i = 0; i < 3; i++) {
        http_call_deadline(shot_aim(&s[i], &w, "GET", "/x"), i == 0 ? 0 : 40);
    }
    http_call_deadline(s[1].call, 0);
    shot_fire(&s[0]);
    shot_fire(&s[2]); /* waits */
    shot_land(&s[2]);
    assert_int_equal(s[2].rc, -ETIMEDOUT);
    HAS(s[2].why, "before there was a connection");
    int fd = take(&w);
    http_call_deadline(s[0].call, 40);
    shot_land(&s[0]);
    assert_int_equal(s[0].rc, -ETIMEDOUT);
    HAS(s[0].why, "before its answer");
    (void)close(fd);
    shot_fire(&s[1]);
    fd = take(&w);
    peer_say(&w.peer, fd, "HTTP/1.1 200 OK\r\n\r\nsome");
    http_call_deadline(s[1].call, 40);
    shot_land(&s[1]);
    HAS(s[1].why, "in the middle");
    (void)close(fd);
    for (int i = 0; i < 3; i++) {
        shot_free(&s[i]);
    }
    calls_stop(&w);
}

/* A kept connection is closed by the server just when the next request comes. */
static int kept_and_closed(struct calls *w, struct shot *s, const char *method, bool key)
{
    (void)shot_aim(s, w, "GET", "/x");
    shot_fire(s);
    int fd = take(w);
    (void)peer_hear(&w->peer, fd, "\r\n\r\n");
    peer_say(&w->peer, fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    shot_land(s);
    shot_free(s);
    struct http_call *call = shot_aim(s, w, method, "/again");
    if (key) {
        http_call_header(call, "Idempotency-Key", "k");
    }
    http_call_body(call, "body", 4);
    shot_fire(s);
    assert_int_equal(http_client_stats(w->client)->reused_total, 1);
    HAS(peer_hear(&w->peer, fd, "body"), "/again");
    (void)close(fd);
    return fd;
}

static void test_sent_once_more(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct calls w;
        struct shot s;
        calls_start(&w, NULL, false);
        (void)kept_and_closed(&w, &s, i == 0 ? "PUT" : "POST", i == 1);
        int fd = take(&w);
        char *got = peer_hear(&w.peer, fd, "body");
        HAS(got, " /again HTTP/1.1\r\n");
        HAS(got, "Content-Length: 4\r\n\r\nbody");
        peer_say(&w.peer, fd, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
        shot_land(&s);
        assert_int_equal(s.rc, 0);
        assert_int_equal(s.status, 201);
        (void)close(fd);
        calls_stop(&w);
    }
    struct calls w;
    struct shot s;
    calls_start(&w, NULL, false);
    (void)kept_and_closed(&w, &s, "POST", false);
    shot_land(&s);
    assert_int_equal(s.rc, -ECONNRESET);
    calls_stop(&w);
    /* Once: a second close is told. */
    calls_start(&w, NULL, false);
    (void)kept_and_closed(&w, &s, "PUT", false);
    int fd = take(&w);
    (void)peer_hear(&w.peer, fd, "body");
    (void)close(fd);
    shot_land(&s);
    assert_int_equal(s.rc, -ECONNRESET);
    calls_stop(&w);
}

static void test_answer_before_the_end(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    calls_start(&w, NULL, false);
    struct http_call *call = shot_aim(&s, &w, "POST", "/x");
    http_call_body_stream(call, UINT64_MAX);
    shot_fire(&s);
    int fd = take(&w);
    (void)http_call_write(call, "part", 4);
    (void)peer_hear(&w.peer, fd, "part");
    peer_say(&w.peer, fd, "HTTP/1.1 413 No\r\nContent-Length: 3\r\n\r\nbig");
    shot_land(&s);
    assert_int_equal(s.rc, 0);
    assert_int_equal(s.status, 413);
    assert_string_equal(buf_cstr(&s.body), "big");
    /* The rest of that body must not reach the next request's connection. */
    assert_int_equal(http_client_stats(w.client)->connections, 0);
    (void)close(fd);
    shot_free(&s);
    calls_stop(&w);
}

static void test_refused(void **state)
{
    (void)state;
    struct calls w;
    struct shot s;
    calls_start(&w, NULL, false);
    struct sockaddr_in addr = w.peer.addr;
    socklen_t n = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    addr.sin_port = 0;
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &n), 0);
    in_port_t was = w.peer.addr.sin_port;
    w.peer.addr.sin_port = addr.sin_port; /* bound, but nobody listens */
    (void)shot_aim(&s, &w, "GET", "/x");
    shot_fire(&s);
    shot_land(&s);
    assert_int_equal(s.rc, -ECONNREFUSED);
    HAS(s.why, "connect to 127.0.0.1:");
    HAS(s.why, "refused");
    w.peer.addr.sin_port = was;
    (void)close(fd);
    calls_stop(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken_answers),   cmocka_unit_test(test_too_many_interims),
        cmocka_unit_test(test_head_has_no_body), cmocka_unit_test(test_unasked_bytes),
        cmocka_unit_test(test_timeouts),         cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_sent_once_more),   cmocka_unit_test(test_answer_before_the_end),
        cmocka_unit_test(test_refused),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
