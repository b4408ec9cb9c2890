/*
 * sys_netlink - netlink sockets: sends what sandbox_netlink.h makes, reads what the kernel says.
 *
 * The kernel works inside sendmsg() and has queued its answers when that returns, so nothing here
 * waits. A socket stays in the network namespace that it was made in.
 */
#ifndef AGENT_SANDBOX_SYS_NETLINK_H
#define AGENT_SANDBOX_SYS_NETLINK_H

#include <linux/netlink.h>

#include "common/buf.h"
#include "common/err.h"

/* protocol: NETLINK_ROUTE, NETLINK_NETFILTER, NETLINK_SOCK_DIAG. The descriptor or -Exxx. */
int sandbox_netlink_open(int protocol);
/* Sends the messages and takes the answers: 0 when one was asked for (NLM_F_ACK) and none is an
 * error; else the first error, with the kernel's own sentence where it has one. */
int sandbox_netlink_call(int fd, const struct buf *messages, struct err *e);
/* One request with NLM_F_DUMP: each() for every message of the answer. 0 or -Exxx. */
int sandbox_netlink_dump(int fd, const struct buf *message,
                         void (*each)(void *arg, const struct nlmsghdr *h), void *arg);
/* An attribute of those from p on, n bytes; NULL: not there. *ret_len: its payload's. */
const void *sandbox_netlink_attr(const void *p, size_t n, uint16_t type, size_t *ret_len);

#endif
