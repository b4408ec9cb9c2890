/*
 * A run's secrets, on the launcher's side: from the memory file that came with the run into the
 * empty tmpfs that its sandbox was built with, before the job's process is told to go on. Then the
 * file system as a whole becomes read-only, for its owner as well. The bytes go from file to file
 * in the kernel: the launcher never has them.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/sandbox/sys_launcher.h"

int sandbox_secrets_check(int fd, struct sandbox_secret_at v[SANDBOX_SECRETS_MAX], size_t *ret_n,
                          struct err *e)
{
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW;
    uint8_t head[SANDBOX_SECRETS_HEAD];
    struct stat st;
    int have = fcntl(fd, F_GET_SEALS);
    if (have < 0 || (have & seals) != seals || fstat(fd, &st) < 0) {
        return err_say(e, -EINVAL, "the run's secrets are not sealed");
    }
    if (sys_pread_full(fd, head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
        sandbox_secrets_decode(head, (uint64_t)st.st_size, v, ret_n) < 0) {
        return err_say(e, -EINVAL, "the list of the run's secrets is broken");
    }
    return 0;
}

static int put_one(int dir, int fd, const struct sandbox_secret_at *s, uint32_t uid, uint32_t gid)
{
    off_t at = (off_t)s->at;
    size_t left = s->len;
    AUTO_FD int to =
        openat(dir, s->file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400);
    if (to < 0) {
        return -errno;
    }
    while (left > 0) {
        ssize_t n = sendfile(to, fd, &at, left);
        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        left -= (size_t)n;
    }
    return fchmod(to, 0400) < 0 || fchown(to, uid, gid) < 0 ? -errno : 0;
}

/* The superblock, not the mount: that is another namespace's. */
static int make_readonly(int dir)
{
    AUTO_FD int fs = fspick(dir, "", FSPICK_EMPTY_PATH | FSPICK_CLOEXEC);
    if (fs < 0) {
        return -errno;
    }
    return fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0 ||
                   fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) < 0
               ? -errno
               : 0;
}

int sandbox_secrets_put(int dir, int fd, uint32_t uid, uint32_t gid, struct err *e)
{
    struct sandbox_secret_at v[SANDBOX_SECRETS_MAX];
    size_t n = 0;
    int rc = sandbox_secrets_check(fd, v, &n, e);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = put_one(dir, fd, &v[i], uid, gid);
    }
    if (rc == 0) {
        rc = make_readonly(dir);
    }
    return rc < 0 ? err_set(e, rc, "hand the run its secrets") : 0;
}

int sandbox_secrets_drop(int fd)
{
    static const char zeroes[4096];
    struct stat st;
    off_t at = 0;
    if (fd >= 0 && fstat(fd, &st) == 0) {
        while (at < st.st_size) {
            off_t left = st.st_size - at;
            size_t n = left < (off_t)sizeof(zeroes) ? (size_t)left : sizeof(zeroes);
            if (sys_pwrite_full(fd, zeroes, n, (uint64_t)at) < 0) {
                break;
            }
            at += (off_t)n;
        }
    }
    return fd_close(fd);
}
