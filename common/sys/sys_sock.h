/*
 * sys_sock - messages with descriptors over a SOCK_SEQPACKET pair.
 */
#ifndef COMMON_SYS_SOCK_H
#define COMMON_SYS_SOCK_H

#include <stddef.h>
#include <sys/types.h>

enum { SYS_FDS_MAX = 48 }; /* descriptors in one message */

/* A connected pair, close-on-exec. 0 or -Exxx. */
int sys_seqpacket_pair(int ret_fds[2]);
/* One message of n bytes (n > 0) with fds_len descriptors, which stay the caller's. 0 or -Exxx
 * (-EAGAIN when the socket is non-blocking and full; -EPIPE, no signal). */
int sys_send_fds(int sock, const void *p, size_t n, const int *fds, size_t fds_len);
/* One message: its length (0: the peer closed) or -Exxx. Up to fds_max descriptors go to ret_fds,
 * close-on-exec, and their number to *ret_fds_len. A message longer than n, or with more
 * descriptors than fds_max, is -EMSGSIZE: every descriptor of it is closed. */
ssize_t sys_recv_fds(int sock, void *p, size_t n, int *ret_fds, size_t fds_max,
                     size_t *ret_fds_len);

#endif
