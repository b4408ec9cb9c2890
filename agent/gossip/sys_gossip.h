/*
 * sys_gossip - gossip's sockets, and which address of this machine others see.
 */
#ifndef AGENT_GOSSIP_SYS_GOSSIP_H
#define AGENT_GOSSIP_SYS_GOSSIP_H

#include <stddef.h>
#include <sys/socket.h>

#include "agent/gossip/gossip.h"
#include "common/err.h"

/* A bound UDP socket and a listening TCP socket on the same "host:port", close-on-exec and
 * non-blocking. Port 0: one that is free for both. Blocks for a name look-up, and up to a second
 * while an ended process still holds the address. 0 or -Exxx with the sentence. */
int gossip_sock_listen(const char *listen, int *ret_udp, int *ret_tcp, struct err *e);
/* Where the socket is bound. -Exxx. */
int gossip_sock_bound(int fd, struct gossip_addr *ret, int *ret_family);
/* The address that this machine has towards `to` (nothing is sent). -Exxx. */
int gossip_sock_source(const struct gossip_addr *to, struct gossip_addr *ret);

/* The address as one of `family` (IPv4 mapped for AF_INET6). -EAFNOSUPPORT. */
int gossip_sock_to(const struct gossip_addr *a, int family, struct sockaddr_storage *ret);
/* IPv4 always as four bytes. False: neither IPv4 nor IPv6. */
bool gossip_sock_from(const struct sockaddr *sa, struct gossip_addr *ret);

#endif
