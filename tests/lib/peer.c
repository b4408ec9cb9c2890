#include "tests/lib/peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PATIENCE_MS = 5000 };

void peer_init(struct peer *p, int *ret_fd)
{
    socklen_t n = sizeof(p->addr);
    memset(p, 0, sizeof(*p));
    assert_int_equal(uv_loop_init(&p->loop), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    p->addr.sin_family = AF_INET;
    p->addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&p->addr, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&p->addr, &n), 0);
    *ret_fd = fd;
}

void peer_release(struct peer *p)
{
    (void)uv_run(&p->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&p->loop), 0);
}

void peer_turn(struct peer *p, unsigned ms)
{
    const struct timespec nap = { .tv_nsec = 500000 };
    uint64_t end = uv_hrtime() + (uint64_t)ms * 1000000;
    do {
        (void)uv_run(&p->loop, UV_RUN_NOWAIT);
        if (ms > 0) {
            (void)nanosleep(&nap, NULL);
        }
    } while (uv_hrtime() < end);
}

int peer_dial(struct peer *p)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    assert_int_equal(connect(fd, (struct sockaddr *)&p->addr, sizeof(p->addr)), 0);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

void peer_say_n(struct peer *p, int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t k = send(fd, bytes, n, MSG_NOSIGNAL);
        if (k > 0) {
            bytes += k;
            n -= (size_t)k;
        } else if (errno != EAGAIN) {
            return; /* the server closed; what it said is still to be read */
        }
        peer_turn(p, 0);
    }
}

void peer_say(struct peer *p, int fd, const char *text)
{
    peer_say_n(p, fd, text, strlen(text));
}

int peer_hear_some(struct peer *p, int fd, struct buf *got, const char *end, size_t least)
{
    static char room[65536];
    uint64_t until = uv_hrtime() + UINT64_C(1000000) * PATIENCE_MS;
    for (;;) {
        ssize_t n = recv(fd, room, sizeof(room), 0);
        if (n > 0) {
            assert_int_equal(buf_add(got, room, (size_t)n), 0);
        }
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            return n == 0 ? 0 : -1;
        }
        if ((end != NULL && strstr(buf_cstr(got), end) != NULL) || got->len >= least) {
            return 1;
        }
        if (uv_hrtime() > until) {
            fail_msg("nothing more came; so far: %.2000s", buf_cstr(got));
        }
        peer_turn(p, n > 0 ? 0 : 1);
    }
}

char *peer_hear(struct peer *p, int fd, const char *end)
{
    static char text[256 * 1024];
    struct buf got = BUF_INIT(1 << 24);
    (void)peer_hear_some(p, fd, &got, end, SIZE_MAX);
    (void)snprintf(text, sizeof(text), "%s", buf_cstr(&got));
    buf_release(&got);
    return text;
}

char *peer_ask(struct peer *p, const char *request)
{
    int fd = peer_dial(p);
    peer_say(p, fd, request);
    char *got = peer_hear(p, fd, NULL);
    (void)close(fd);
    return got;
}
