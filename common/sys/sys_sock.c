#include "common/sys/sys_sock.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/insist.h"
#include "common/sys/sys_fd.h"

/* The kernel passes at most 253 in one message: room for all, so that none is dropped unseen. */
enum { KERNEL_FDS_MAX = 253 };

int sys_seqpacket_pair(int ret_fds[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret_fds) < 0 ? -errno : 0;
}

int sys_send_fds(int sock, const void *p, size_t n, const int *fds, size_t fds_len)
{
    REQUIRE(n > 0 && fds_len <= SYS_FDS_MAX);
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(SYS_FDS_MAX * sizeof(int))];
    } control = { .bytes = { 0 } };
    struct iovec iov = { .iov_len = n };
    memcpy(&iov.iov_base, &p, sizeof p); /* the interface is not const, sendmsg() is */
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (fds_len != 0) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(fds_len * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(fds_len * sizeof(int));
        memcpy(CMSG_DATA(c), fds, fds_len * sizeof(int));
    }
    ssize_t put;
    do {
        put = sendmsg(sock, &m, MSG_NOSIGNAL);
    } while (put < 0 && errno == EINTR);
    if (put < 0) {
        return -errno;
    }
    INSIST((size_t)put == n); /* a packet is sent whole */
    return 0;
}

/* Takes the message's descriptors out of its control data. Returns how many. */
static size_t take_fds(struct msghdr *m, int fds[KERNEL_FDS_MAX])
{
    size_t n = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        if (count > KERNEL_FDS_MAX - n) {
            count = KERNEL_FDS_MAX - n;
        }
        memcpy(fds + n, CMSG_DATA(c), count * sizeof(int));
        n += count;
    }
    return n;
}

ssize_t sys_recv_fds(int sock, void *p, size_t n, int *ret_fds, size_t fds_max, size_t *ret_fds_len)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(KERNEL_FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = { .iov_base = p, .iov_len = n };
    struct msghdr m = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    int fds[KERNEL_FDS_MAX];
    ssize_t got;
    do {
        got = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return -errno;
    }
    size_t fds_len = take_fds(&m, fds);
    if ((m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || fds_len > fds_max) {
        for (size_t i = 0; i < fds_len; i++) {
            fd_close(fds[i]);
        }
        return -EMSGSIZE;
    }
    if (fds_len != 0) {
        memcpy(ret_fds, fds, fds_len * sizeof(int));
    }
    *ret_fds_len = fds_len;
    return got;
}
