/* probe_net tcp|udp ADDRESS PORT [SOURCE PORT]: says "x" and prints the one line that comes back, or
 * "no" and why on stderr. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int no(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    puts("no");
    return 0;
}

static socklen_t address(const char *text, const char *port, struct sockaddr_storage *ret)
{
    uint16_t be = htons((uint16_t)strtoul(port, NULL, 10));
    struct sockaddr_in *four = (void *)ret;
    struct sockaddr_in6 *six = (void *)ret;
    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = be;
        return sizeof(*four);
    }
    if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = be;
        return sizeof(*six);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_storage to;
    struct sockaddr_storage from;
    char line[512];
    struct timeval limit = { .tv_sec = 2 };
    socklen_t len = argc >= 4 ? address(argv[2], argv[3], &to) : 0;
    if (len == 0) {
        fprintf(stderr, "usage: probe_net tcp|udp ADDRESS PORT [SOURCE PORT]\n");
        return 2;
    }
    bool tcp = strcmp(argv[1], "tcp") == 0;
    int s = socket(to.ss_family, tcp ? SOCK_STREAM : SOCK_DGRAM, 0);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (argc > 4) {
        socklen_t n = address(to.ss_family == AF_INET ? "0.0.0.0" : "::", argv[4], &from);
        if (bind(s, (void *)&from, n) < 0) {
            return no("bind");
        }
    }
    if (s < 0 || connect(s, (void *)&to, len) < 0) {
        return no("connect");
    }
    if (send(s, "x\n", 2, 0) != 2 || (tcp && shutdown(s, SHUT_WR) < 0)) {
        return no("send");
    }
    ssize_t n = recv(s, line, sizeof(line) - 1, 0);
    if (n <= 0) {
        errno = n == 0 ? EPIPE : errno;
        return no("recv");
    }
    line[n] = '\0';
    fputs(line, stdout);
    return 0;
}
