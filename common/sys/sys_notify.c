#include "common/sys/sys_notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/str.h"
#include "common/sys/sys_fd.h"

/* The supervisor's socket, once sys_sd_notify_open() found it. */
static int notify_fd = -1;

int sys_sd_notify_open(void)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    struct str name = str_of(getenv("NOTIFY_SOCKET"));

    notify_fd = fd_close(notify_fd);
    if (name.n == 0) {
        return 0;
    }
    if ((name.p[0] != '/' && name.p[0] != '@') || name.n < 2 || name.n >= sizeof to.sun_path) {
        return -EINVAL;
    }
    memcpy(to.sun_path, name.p, name.n);
    if (name.p[0] == '@') {
        to.sun_path[0] = '\0';
    }
    AUTO_FD int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (sock < 0) {
        return -errno;
    }
    /* An abstract name has no NUL: the length says where it ends. */
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name.n);
    if (connect(sock, (const struct sockaddr *)&to, len) != 0) {
        return -errno;
    }
    notify_fd = fd_take(&sock);
    return 1;
}

int sys_sd_notify(const char *text)
{
    ssize_t put;

    if (notify_fd < 0) {
        int rc = sys_sd_notify_open();
        if (rc <= 0) {
            return rc;
        }
    }
    do {
        put = send(notify_fd, text, strlen(text), MSG_NOSIGNAL);
    } while (put < 0 && errno == EINTR);
    return put < 0 ? -errno : 1;
}

uint64_t sys_sd_watchdog_us(void)
{
    uint64_t us;
    uint64_t pid;
    if (str_u64(str_of(getenv("WATCHDOG_USEC")), &us) != 0) {
        return 0;
    }
    const char *who = getenv("WATCHDOG_PID");
    if (who != NULL && (str_u64(str_of(who), &pid) != 0 || pid != (uint64_t)getpid())) {
        return 0;
    }
    return us;
}
