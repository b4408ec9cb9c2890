#include "agent/gossip/sys_gossip.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/settings.h"
#include "common/sys/sys.h"

enum {
    BACKLOG = 512,
    RECEIVE_BYTES = 2 * 1024 * 1024,
    RECEIVE_LEAST = 64 * 1024,
    PATIENCE = 20, /* times 50 ms */
    PORT_TRIES = 16,
};

int gossip_sock_to(const struct gossip_addr *a, int family, struct sockaddr_storage *ret)
{
    static const uint8_t mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF };
    struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(a->port) };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(a->port) };
    bool is_mapped = a->len == 16 && memcmp(a->ip, mapped, sizeof(mapped)) == 0;

    memset(ret, 0, sizeof(*ret));
    if (family == AF_INET && (a->len == 4 || is_mapped)) {
        memcpy(&v4.sin_addr, a->len == 4 ? a->ip : a->ip + 12, 4);
        memcpy(ret, &v4, sizeof(v4));
        return 0;
    }
    if (family != AF_INET6 || (a->len != 4 && a->len != 16)) {
        return -EAFNOSUPPORT;
    }
    if (a->len == 4) {
        memcpy(v6.sin6_addr.s6_addr, mapped, sizeof(mapped));
        memcpy(v6.sin6_addr.s6_addr + 12, a->ip, 4);
    } else {
        memcpy(v6.sin6_addr.s6_addr, a->ip, 16);
    }
    memcpy(ret, &v6, sizeof(v6));
    return 0;
}

bool gossip_sock_from(const struct sockaddr *sa, struct gossip_addr *ret)
{
    *ret = (struct gossip_addr){ .len = 0 };
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, sa, sizeof(v4));
        ret->len = 4;
        ret->port = ntohs(v4.sin_port);
        memcpy(ret->ip, &v4.sin_addr, 4);
        return true;
    }
    if (sa->sa_family != AF_INET6) {
        return false;
    }
    struct sockaddr_in6 v6;
    memcpy(&v6, sa, sizeof(v6));
    ret->port = ntohs(v6.sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
        ret->len = 4;
        memcpy(ret->ip, v6.sin6_addr.s6_addr + 12, 4);
    } else {
        ret->len = 16;
        memcpy(ret->ip, v6.sin6_addr.s6_addr, 16);
    }
    return true;
}

int gossip_sock_bound(int fd, struct gossip_addr *ret, int *ret_family)
{
    struct sockaddr_storage sa = { .ss_family = AF_UNSPEC };
    socklen_t n = sizeof(sa);

    if (getsockname(fd, (struct sockaddr *)&sa, &n) != 0) {
        return -errno;
    }
    if (!gossip_sock_from((struct sockaddr *)&sa, ret)) {
        return -EAFNOSUPPORT;
    }
    if (ret_family != NULL) {
        *ret_family = sa.ss_family;
    }
    return 0;
}

int gossip_sock_source(const struct gossip_addr *to, struct gossip_addr *ret)
{
    struct sockaddr_storage sa = { .ss_family = AF_UNSPEC };
    int family = to->len == 16 ? AF_INET6 : AF_INET;
    int rc = gossip_sock_to(to, family, &sa);
    AUTO_FD int fd = rc == 0 ? socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;

    if (rc != 0) {
        return rc;
    }
    if (fd < 0 || connect(fd, (struct sockaddr *)&sa,
                          family == AF_INET ? sizeof(struct sockaddr_in)
                                            : sizeof(struct sockaddr_in6)) != 0) {
        return -errno;
    }
    return gossip_sock_bound(fd, ret, NULL);
}

/* After a kill -9 the last launcher's children are still dying, with its socket in their hands. */
static int bind_patiently(int fd, const struct sockaddr *sa, socklen_t n)
{
    const struct timespec pause = { .tv_nsec = 50 * 1000 * 1000 };
    int rc = bind(fd, sa, n);

    for (int i = 0; rc != 0 && errno == EADDRINUSE && i < PATIENCE; i++) {
        (void)nanosleep(&pause, NULL);
        rc = bind(fd, sa, n);
    }
    return rc;
}

static int tcp_open(const struct addrinfo *ai, int *ret)
{
    int one = 1;
    AUTO_FD int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
        bind_patiently(fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        return -errno;
    }
    *ret = fd_take(&fd);
    return 0;
}

static int udp_open(const struct sockaddr *sa, socklen_t n, bool patient, int *ret)
{
    AUTO_FD int fd = socket(sa->sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0 || (patient ? bind_patiently(fd, sa, n) : bind(fd, sa, n)) != 0) {
        return -errno;
    }
    /* As much as the machine gives: a node that was busy finds what was said meanwhile. */
    for (int bytes = RECEIVE_BYTES; bytes >= RECEIVE_LEAST; bytes /= 2) {
        if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) == 0 ||
            setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)) == 0) {
            break;
        }
    }
    *ret = fd_take(&fd);
    return 0;
}

static int open_both(const struct addrinfo *ai, bool any_port, int *ret_udp, int *ret_tcp)
{
    struct sockaddr_storage sa = { .ss_family = AF_UNSPEC };
    socklen_t n = sizeof(sa);
    AUTO_FD int tcp = -1;
    int rc = tcp_open(ai, &tcp);

    if (rc != 0 || tcp < 0) {
        return rc;
    }
    if (getsockname(tcp, (struct sockaddr *)&sa, &n) != 0) {
        return -errno;
    }
    rc = udp_open((struct sockaddr *)&sa, n, !any_port, ret_udp);
    if (rc == 0) {
        *ret_tcp = fd_take(&tcp);
    }
    return rc;
}

int gossip_sock_listen(const char *listen_addr, int *ret_udp, int *ret_tcp, struct err *e)
{
    char host[SETTINGS_TEXT_MAX];
    char port_text[8];
    uint16_t port;
    const struct addrinfo hints = { .ai_family = AF_UNSPEC,
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    struct addrinfo *found = NULL;
    int rc = settings_addr_split(listen_addr, host, sizeof(host), &port);

    if (rc != 0) {
        return err_say(e, rc, "gossip.listen: '%s' is not host:port", listen_addr);
    }
    (void)snprintf(port_text, sizeof(port_text), "%u", port);
    int gai = getaddrinfo(host[0] != '\0' ? host : NULL, port_text, &hints, &found);
    if (gai != 0) {
        return err_say(e, -EADDRNOTAVAIL, "gossip.listen: '%s': %s", listen_addr,
                       gai_strerror(gai));
    }
    rc = open_both(found, port == 0, ret_udp, ret_tcp);
    for (int i = 0; port == 0 && rc == -EADDRINUSE && i < PORT_TRIES; i++) {
        rc = open_both(found, true, ret_udp, ret_tcp);
    }
    freeaddrinfo(found);
    return rc == 0 ? 0 : err_set(e, rc, "listen on '%s' (gossip.listen)", listen_addr);
}
