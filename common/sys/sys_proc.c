#include "common/sys/sys_proc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/str.h"
#include "common/sys/sys_fd.h"
#include "common/sys/sys_file.h"

int sys_pidfd_open(pid_t pid)
{
    long fd = syscall(SYS_pidfd_open, pid, 0U); /* always close-on-exec */
    return fd < 0 ? -errno : (int)fd;
}

int sys_pidfd_signal(int pidfd, int sig)
{
    return syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0U) < 0 ? -errno : 0;
}

int sys_proc_start_time(pid_t pid, uint64_t *ret_ticks)
{
    enum { FIELD = 22, FIRST = 3 }; /* FIRST is the one behind "(name) " */
    char path[32];
    char text[1024];

    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    ssize_t n = sys_read_text(AT_FDCWD, path, text, sizeof text);
    if (n < 0) {
        return n == -ENOENT ? -ESRCH : (int)n;
    }
    struct str s = { text, (size_t)n };
    ptrdiff_t close = str_rfind(s, ')'); /* the name may hold blanks and parentheses */
    struct str rest = str_slice(s, close < 0 ? SIZE_MAX : (size_t)close + 2, SIZE_MAX);
    struct str field = { NULL, 0 };
    for (int i = FIRST; i <= FIELD; i++) {
        if (!str_split(&rest, ' ', &field)) {
            return -EBADMSG;
        }
    }
    return str_u64(field, ret_ticks) == 0 ? 0 : -EBADMSG;
}

int sys_pidfd_open_started(pid_t pid, uint64_t start_ticks)
{
    uint64_t ticks;
    AUTO_FD int fd = sys_pidfd_open(pid);
    if (fd < 0) {
        return fd == -EINVAL ? -ESRCH : fd;
    }
    /* Read after opening: if the number was recycled in between, the times differ or the pidfd has
     * ended. */
    int r = sys_proc_start_time(pid, &ticks);
    if (r != 0 || ticks != start_ticks || sys_pidfd_ended(fd)) {
        return r != 0 && r != -ESRCH ? r : -ESRCH;
    }
    return fd_take(&fd);
}

bool sys_pidfd_ended(int pidfd)
{
    struct pollfd p = { .fd = pidfd, .events = POLLIN };
    int n;
    do {
        n = poll(&p, 1, 0);
    } while (n < 0 && errno == EINTR);
    return n > 0 && (p.revents & POLLIN) != 0;
}

int sys_boot_id(char dst[37])
{
    ssize_t n = sys_read_text(AT_FDCWD, "/proc/sys/kernel/random/boot_id", dst, 38);
    return n < 0 ? (int)n : n == 36 ? 0 : -EBADMSG;
}
