#include "common/sys/sys_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/insist.h"
#include "common/sys/sys_fd.h"
#include "common/sys/sys_random.h"

int sys_open_beneath(int dirfd, const char *path, int flags, mode_t mode, unsigned rules)
{
    struct open_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? mode : 0,
        .resolve = RESOLVE_NO_MAGICLINKS,
    };
    how.resolve |= (rules & SYS_IN_ROOT) != 0 ? RESOLVE_IN_ROOT : RESOLVE_BENEATH;
    how.resolve |= (rules & SYS_NO_SYMLINKS) != 0 ? RESOLVE_NO_SYMLINKS : 0;
    how.resolve |= (rules & SYS_NO_XDEV) != 0 ? RESOLVE_NO_XDEV : 0;
    /* -EAGAIN: a rename elsewhere raced with the walk. Bounded, so that nobody can hold us here. */
    for (int tries = 0;; tries++) {
        long fd = syscall(SYS_openat2, dirfd, path, &how, sizeof how);
        if (fd >= 0) {
            return (int)fd;
        }
        if (errno != EINTR && (errno != EAGAIN || tries >= 128)) {
            return -errno;
        }
    }
}

int sys_open_dir(int dirfd, const char *path, bool path_only)
{
    int flags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | (path_only ? O_PATH : O_RDONLY);
    int fd = openat(dirfd, path, flags);
    return fd < 0 ? -errno : fd;
}

static int open_file(int dirfd, const char *name, int flags, mode_t mode)
{
    int fd;
    do {
        fd = openat(dirfd, name, flags | O_CLOEXEC | O_NOCTTY, mode);
    } while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

int sys_read_file(int dirfd, const char *name, size_t max, struct buf *out, struct err *e)
{
    enum { PIECE = 16 * 1024 };
    AUTO_FD int fd = open_file(dirfd, name, O_RDONLY, 0);
    if (fd < 0) {
        return err_set(e, fd, "open '%s'", name);
    }
    size_t total = 0;
    for (;;) {
        /* One byte more than allowed tells whether there is more. Sizes of kernel files mean
         * nothing. */
        size_t want = max - total < PIECE ? max - total + 1 : PIECE;
        char piece[PIECE];
        ssize_t got = sys_read(fd, piece, want);
        if (got < 0) {
            return err_set(e, (int)got, "read '%s'", name);
        }
        if (got == 0) {
            return 0;
        }
        if ((size_t)got > max - total) {
            return err_say(e, -EFBIG, "'%s' is larger than %zu bytes", name, max);
        }
        total += (size_t)got;
        int r = buf_add(out, piece, (size_t)got);
        if (r != 0) {
            return err_set(e, r, "read '%s'", name);
        }
    }
}

ssize_t sys_read_text(int dirfd, const char *name, char *dst, size_t cap)
{
    REQUIRE(cap > 0);
    AUTO_FD int fd = open_file(dirfd, name, O_RDONLY, 0);
    if (fd < 0) {
        return fd;
    }
    ssize_t n = sys_read_full(fd, dst, cap);
    if (n < 0) {
        return n;
    }
    if ((size_t)n == cap) {
        return -EFBIG;
    }
    if (n > 0 && dst[n - 1] == '\n') {
        n--;
    }
    dst[n] = '\0';
    return n;
}

int sys_write_text(int dirfd, const char *name, const char *text)
{
    AUTO_FD int fd = open_file(dirfd, name, O_WRONLY, 0);
    if (fd < 0) {
        return fd;
    }
    size_t n = strlen(text);
    ssize_t put = sys_write(fd, text, n);
    if (put < 0) {
        return (int)put;
    }
    return (size_t)put == n ? 0 : -EIO;
}

int sys_fsync_dir(int dirfd)
{
    if (dirfd == AT_FDCWD) {
        AUTO_FD int fd = sys_open_dir(AT_FDCWD, ".", false);
        if (fd < 0) {
            return fd;
        }
        return fsync(fd) < 0 ? -errno : 0;
    }
    return fsync(dirfd) < 0 ? -errno : 0;
}

/* The directory that holds name: dirfd itself, or one below. */
static int open_parent(int dirfd, const char *name)
{
    const char *slash = strrchr(name, '/');
    if (slash == NULL) {
        return sys_open_dir(dirfd, ".", false);
    }
    char parent[4096];
    struct str s = { name, slash == name ? 1 : (size_t)(slash - name) };
    int r = str_copy(parent, sizeof parent, s);
    if (r != 0) {
        return r;
    }
    int fd = openat(dirfd, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int sys_write_file_atomic(int dirfd, const char *name, const void *data, size_t n, mode_t mode,
                          struct err *e)
{
    AUTO_FD int dir = open_parent(dirfd, name);
    if (dir < 0) {
        return err_set(e, dir, "open the directory of '%s'", name);
    }
    const char *slash = strrchr(name, '/');
    const char *base = slash != NULL ? slash + 1 : name;
    char temporary[32];
    (void)snprintf(temporary, sizeof temporary, ".tmp-%016llx",
                   (unsigned long long)sys_random_u64());
    AUTO_FD int fd = open_file(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return err_set(e, fd, "make a temporary file for '%s'", name);
    }
    int r = sys_write_full(fd, data, n);
    if (r == 0 && fchmod(fd, mode) < 0) {
        r = -errno;
    }
    if (r == 0 && fsync(fd) < 0) {
        r = -errno;
    }
    if (r == 0 && renameat(dir, temporary, dir, base) < 0) {
        r = -errno;
    }
    if (r != 0) {
        (void)unlinkat(dir, temporary, 0);
        return err_set(e, r, "write '%s'", name);
    }
    r = sys_fsync_dir(dir);
    return r != 0 ? err_set(e, r, "flush the directory of '%s'", name) : 0;
}

int sys_mkdirs(int dirfd, const char *path, mode_t mode, struct err *e)
{
    char copy[4096];
    int r = str_copy(copy, sizeof copy, str_of(path));
    if (r != 0 || copy[0] == '\0') {
        return err_set(e, r != 0 ? r : -ENOENT, "make directory '%s'", path);
    }
    for (char *at = copy + 1;; at++) {
        if (*at != '/' && *at != '\0') {
            continue;
        }
        char saved = *at;
        struct stat st;
        *at = '\0';
        if (mkdirat(dirfd, copy, mode) < 0) {
            r = -errno;
            if (fstatat(dirfd, copy, &st, 0) < 0) {
                return err_set(e, r, "make directory '%s'", copy);
            }
            if (!S_ISDIR(st.st_mode)) {
                return err_set(e, -ENOTDIR, "make directory '%s'", copy);
            }
        }
        *at = saved;
        if (saved == '\0') {
            return 0;
        }
    }
}

int sys_space(int fd, struct sys_space *ret)
{
    struct statvfs v;
    int r;
    do {
        r = fstatvfs(fd, &v);
    } while (r < 0 && errno == EINTR);
    if (r < 0) {
        return -errno;
    }
    *ret = (struct sys_space){
        .total_bytes = (uint64_t)v.f_blocks * v.f_frsize,
        .free_bytes = (uint64_t)v.f_bavail * v.f_frsize,
        .total_inodes = v.f_files,
        .free_inodes = v.f_favail,
    };
    return 0;
}
