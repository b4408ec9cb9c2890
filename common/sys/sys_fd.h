/*
 * sys_fd - descriptors that close themselves, and reads and writes that finish.
 */
#ifndef COMMON_SYS_FD_H
#define COMMON_SYS_FD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

/* Closes once (EINTR means closed on Linux), keeps errno. fd < 0 is fine. Returns -1. */
int fd_close(int fd);
/* Hands the descriptor out of an AUTO_FD variable. */
static inline int fd_take(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}
static inline void fd_cleanup(int *fd)
{
    *fd = fd_close(*fd);
}
/* AUTO_FD int fd = …: closed at the end of the scope. */
#define AUTO_FD __attribute__((cleanup(fd_cleanup)))

int fd_set_nonblock(int fd, int on); /* 0 or -Exxx */
int fd_set_cloexec(int fd, int on);
/* A duplicate, close-on-exec, numbered at least `least`. The descriptor or -Exxx. */
int fd_dup(int fd, int least);
int fd_pipe(int ret_fds[2]); /* O_CLOEXEC; [0] reads. 0 or -Exxx */

/* One call, EINTR retried. Bytes (0 at the end of the file) or -Exxx. */
ssize_t sys_read(int fd, void *p, size_t n);
ssize_t sys_write(int fd, const void *p, size_t n);
/* As many bytes as there are until n or the end of the file: the count, or -Exxx. */
ssize_t sys_read_full(int fd, void *p, size_t n);
ssize_t sys_pread_full(int fd, void *p, size_t n, uint64_t offset);
/* All n bytes: 0 or -Exxx. For blocking descriptors. */
int sys_write_full(int fd, const void *p, size_t n);
int sys_pwrite_full(int fd, const void *p, size_t n, uint64_t offset);

#endif
