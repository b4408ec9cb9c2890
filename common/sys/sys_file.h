/*
 * sys_file - files and trees through directory descriptors. AT_FDCWD is a fine dirfd.
 */
#ifndef COMMON_SYS_FILE_H
#define COMMON_SYS_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

/* Resolution rules of sys_open_beneath(); always without magic links. */
enum {
    SYS_NO_SYMLINKS = 1, /* no link anywhere on the way, nor at the end */
    SYS_NO_XDEV = 2,     /* no other mount */
    SYS_IN_ROOT = 4, /* dirfd is the root for absolute paths, links and ".." (default: beneath, such
                        paths fail with -EXDEV) */
};

/* openat2(): flags as open(), O_CLOEXEC added; mode with O_CREAT or O_TMPFILE. The descriptor or
 * -Exxx (-ELOOP, -EXDEV: the rules forbid it). */
int sys_open_beneath(int dirfd, const char *path, int flags, mode_t mode, unsigned rules);
/* A directory to work in: O_PATH when path_only. The descriptor or -Exxx; the last part may not be
 * a link. */
int sys_open_dir(int dirfd, const char *path, bool path_only);

/* Appends the whole file to out. At most max bytes: more is -EFBIG. Files of /proc and /sys are
 * fine. -ENOMEM, -ENOBUFS (out's own limit), -Exxx. */
int sys_read_file(int dirfd, const char *name, size_t max, struct buf *out, struct err *e);
/* Reads a small file (kernel files as a rule) into dst with a NUL and without the trailing newline:
 * its length or -Exxx (-EFBIG: does not fit). */
ssize_t sys_read_text(int dirfd, const char *name, char *dst, size_t cap);
/* One write() to an existing file (cgroup, sysctl). 0 or -Exxx. */
int sys_write_text(int dirfd, const char *name, const char *text);

/* Replaces name by a new file: temporary file in the same directory, fsync, rename, fsync of the
 * directory. After 0 it is durable; after a
 * failure the old one is untouched. Only a crash in between leaves a file ".tmp-<16 hex digits>".
 */
int sys_write_file_atomic(int dirfd, const char *name, const void *data, size_t n, mode_t mode,
                          struct err *e);
/* Makes path and what is missing above it, each with mode. Existing directories are left as they
 * are; -ENOTDIR when something else is in the way. */
int sys_mkdirs(int dirfd, const char *path, mode_t mode, struct err *e);
int sys_fsync_dir(int dirfd); /* any directory descriptor but O_PATH; 0 or -Exxx */

/* Removes name and all that is under it: fd-relative, never through a link, never into another
 * mount (-EXDEV), any depth with bounded memory and descriptors. Directories that cannot be read
 * are made readable first. A name that does not exist is 0. A file that goes away meanwhile is
 * fine. */
int sys_remove_tree(int dirfd, const char *name, struct err *e);

/* Free and total bytes (and inodes; either pointer may be NULL) of the file system at dirfd/name,
 * as an unprivileged user sees them. */
struct sys_space {
    uint64_t total_bytes;
    uint64_t free_bytes;
    uint64_t total_inodes;
    uint64_t free_inodes;
};
int sys_space(int fd, struct sys_space *ret);

#endif
