#include "agent/sandbox/sys_netlink.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/sys/sys.h"

enum { ANSWER_MAX = 32768, SEND_BUFFER = 2 * 1024 * 1024 };

int sandbox_netlink_open(int protocol)
{
    const int on = 1;
    const int size = SEND_BUFFER;
    struct sockaddr_nl own = { .nl_family = AF_NETLINK };
    AUTO_FD int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&own, sizeof(own)) < 0) {
        return -errno;
    }
    /* An error brings its sentence, and not our whole message back. */
    (void)setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
    (void)setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    return fd_take(&fd);
}

static int send_all(int fd, const struct buf *b)
{
    if (buf_error(b) < 0) {
        return buf_error(b);
    }
    ssize_t n = send(fd, b->data, b->len, 0);
    return n < 0 ? -errno : (size_t)n == b->len ? 0 : -EMSGSIZE;
}

const void *sandbox_netlink_attr(const void *p, size_t n, uint16_t type, size_t *ret_len)
{
    const char *at = p;
    struct nlattr a;
    while (n >= sizeof(a)) {
        memcpy(&a, at, sizeof(a));
        if (a.nla_len < sizeof(a) || a.nla_len > n) {
            return NULL;
        }
        if ((a.nla_type & NLA_TYPE_MASK) == type) {
            *ret_len = a.nla_len - sizeof(a);
            return at + sizeof(a);
        }
        size_t step = ((size_t)a.nla_len + 3) & ~(size_t)3;
        at += step < n ? step : n;
        n -= step < n ? step : n;
    }
    return NULL;
}

/* What the kernel says of an error, or "". */
static void error_text(const struct nlmsghdr *h, char dst[160])
{
    size_t at = NLMSG_LENGTH(sizeof(struct nlmsgerr));
    size_t len = 0;
    dst[0] = '\0';
    if ((h->nlmsg_flags & NLM_F_ACK_TLVS) == 0 || h->nlmsg_len <= at) {
        return;
    }
    const char *text =
        sandbox_netlink_attr((const char *)h + at, h->nlmsg_len - at, NLMSGERR_ATTR_MSG, &len);
    if (text != NULL) {
        snprintf(dst, 160, "%.*s", (int)len, text);
    }
}

/* The messages of one datagram. */
static void take_answers(const char *p, size_t n, int *rc, bool *acked, char text[160])
{
    while (n >= sizeof(struct nlmsghdr)) {
        struct nlmsghdr h;
        struct nlmsgerr error;
        memcpy(&h, p, sizeof(h));
        if (h.nlmsg_len < sizeof(h) || h.nlmsg_len > n) {
            return;
        }
        if (h.nlmsg_type == NLMSG_ERROR && h.nlmsg_len >= NLMSG_LENGTH(sizeof(error))) {
            memcpy(&error, p + NLMSG_HDRLEN, sizeof(error));
            *acked = true;
            if (error.error < 0 && *rc == 0) {
                *rc = error.error;
                error_text((const struct nlmsghdr *)(const void *)p, text);
            }
        }
        size_t step = NLMSG_ALIGN(h.nlmsg_len);
        p += step < n ? step : n;
        n -= step < n ? step : n;
    }
}

int sandbox_netlink_call(int fd, const struct buf *messages, struct err *e)
{
    _Alignas(8) char answer[ANSWER_MAX];
    char text[160] = "";
    bool acked = false;
    int rc = send_all(fd, messages);
    if (rc < 0) {
        return err_set(e, rc, "netlink");
    }
    for (;;) {
        ssize_t n = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            if (errno != EAGAIN && rc == 0) {
                rc = -errno;
            }
            break;
        }
        take_answers(answer, (size_t)n, &rc, &acked, text);
    }
    if (rc == 0 && !acked) {
        rc = -EPROTO;
    }
    return rc == 0 ? 0 : err_set(e, rc, "netlink%s%s", text[0] != '\0' ? ": " : "", text);
}

int sandbox_netlink_dump(int fd, const struct buf *message,
                         void (*each)(void *arg, const struct nlmsghdr *h), void *arg)
{
    _Alignas(8) char answer[ANSWER_MAX];
    int rc = send_all(fd, message);
    while (rc == 0) {
        ssize_t n = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN ? -EPROTO : -errno;
        }
        const char *p = answer;
        size_t left = (size_t)n;
        while (left >= sizeof(struct nlmsghdr)) {
            const struct nlmsghdr *h = (const void *)p;
            if (h->nlmsg_len < sizeof(*h) || h->nlmsg_len > left) {
                return -EPROTO;
            }
            if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR) {
                int32_t code = 0;
                if (h->nlmsg_len >= NLMSG_LENGTH(sizeof(code))) {
                    memcpy(&code, p + NLMSG_HDRLEN, sizeof(code));
                }
                return code < 0 ? code : 0;
            }
            each(arg, h);
            size_t step = NLMSG_ALIGN(h->nlmsg_len);
            p += step < left ? step : left;
            left -= step < left ? step : left;
        }
    }
    return rc;
}
