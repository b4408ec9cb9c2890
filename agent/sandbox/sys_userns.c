/*
 * Pooled namespaces. A child enters the new user namespace, waits for its maps, then makes a
 * network namespace in it; the descriptors are opened through /proc/<child> before it ends. Off the
 * path of a run: a slot keeps them.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/sandbox/sys_sandbox.h"

static int loopback_up(void)
{
    AUTO_FD int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq r = { .ifr_name = "lo" };
    r.ifr_flags = IFF_UP | IFF_RUNNING;
    if (s < 0 || ioctl(s, SIOCSIFFLAGS, &r) < 0) {
        return -errno;
    }
    return 0;
}

/* Ping and low ports need no capability inside, as Docker has it. Old kernels and odd hosts may
 * lack the files: then only these two things do not work. */
static void net_sysctls(void)
{
    (void)sys_write_text(AT_FDCWD, "/proc/sys/net/ipv4/ping_group_range", "0 65535");
    (void)sys_write_text(AT_FDCWD, "/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
}

/* In the child: says 'u' when it is in the user namespace, waits, says 'n' (or an error). */
static void userns_child(int sock, bool for_slot)
{
    char c = 'u';
    int rc = unshare(CLONE_NEWUSER) < 0 ? -errno : 0;
    if (rc == 0 && (write(sock, &c, 1) != 1 || read(sock, &c, 1) != 1)) {
        _exit(1);
    }
    if (rc == 0 && for_slot) {
        /* Nothing inside may ever make namespaces of its own, seccomp or not. */
        if (sys_write_text(AT_FDCWD, "/proc/sys/user/max_user_namespaces", "0") < 0 ||
            unshare(CLONE_NEWNET) < 0) {
            rc = errno != 0 ? -errno : -EIO;
        } else {
            rc = loopback_up();
            net_sysctls();
        }
    }
    c = rc == 0 ? 'n' : (char)(-rc & 0x7f);
    if (write(sock, &c, 1) == 1) {
        (void)!read(sock, &c, 1); /* until the parent has the descriptors */
    }
    _exit(0);
}

/* Interfaces that come later: their addresses are ours alone, and no router is believed. */
static void net_sysctls_nat(void)
{
    (void)sys_write_text(AT_FDCWD, "/proc/sys/net/ipv6/conf/default/accept_dad", "0");
    (void)sys_write_text(AT_FDCWD, "/proc/sys/net/ipv6/conf/default/accept_ra", "0");
    net_sysctls();
}

static int userns_map(pid_t pid, uint32_t inside, uint32_t outside)
{
    char path[64];
    char text[64];
    snprintf(text, sizeof(text), "%u %u %d", inside, outside, IDS_PER_SLOT);
    snprintf(path, sizeof(path), "/proc/%d/gid_map", (int)pid);
    int rc = sys_write_text(AT_FDCWD, path, text);
    if (rc == 0) {
        snprintf(path, sizeof(path), "/proc/%d/uid_map", (int)pid);
        rc = sys_write_text(AT_FDCWD, path, text);
    }
    return rc;
}

static int ns_open(pid_t pid, const char *name)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int userns_parent(pid_t pid, int sock, uint32_t inside, uint32_t outside, bool for_slot,
                         int *ret_userns, int *ret_netns, struct err *e)
{
    char c = 0;
    if (read(sock, &c, 1) != 1 || c != 'u') {
        return err_set(e, c != 0 ? -c : -EIO, "make a user namespace (user.max_user_namespaces?)");
    }
    int rc = userns_map(pid, inside, outside);
    if (rc < 0) {
        return err_set(e, rc, "map ids %u to %u", inside, outside);
    }
    if (write(sock, &c, 1) != 1 || read(sock, &c, 1) != 1 || c != 'n') {
        return err_set(e, c > 0 ? -c : -EIO, "make a network namespace");
    }
    AUTO_FD int userns = ns_open(pid, "user");
    AUTO_FD int netns = for_slot ? ns_open(pid, "net") : -1;
    if (userns < 0 || (for_slot && netns < 0)) {
        return err_set(e, userns < 0 ? userns : netns, "open a slot's namespaces");
    }
    *ret_userns = fd_take(&userns);
    if (for_slot) {
        *ret_netns = fd_take(&netns);
    }
    return 0;
}

int sandbox_userns_make(uint32_t inside, uint32_t outside, bool for_slot, int *ret_userns,
                        int *ret_netns, struct err *e)
{
    int sock[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) < 0) {
        return err_set(e, -errno, "make a socket pair");
    }
    pid_t pid = fork();
    if (pid < 0) {
        int rc = -errno;
        fd_close(sock[0]);
        fd_close(sock[1]);
        return err_set(e, rc, "fork");
    }
    if (pid == 0) {
        fd_close(sock[0]);
        userns_child(sock[1], for_slot);
    }
    fd_close(sock[1]);
    int rc = userns_parent(pid, sock[0], inside, outside, for_slot, ret_userns, ret_netns, e);
    fd_close(sock[0]);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return rc;
}

/* In the child: says 'n' when the namespace is there, and waits until it was opened. */
static void netns_child(int sock, int userns)
{
    int rc = setns(userns, CLONE_NEWUSER) < 0 || unshare(CLONE_NEWNET) < 0 ? -errno : 0;
    if (rc == 0) {
        rc = loopback_up();
        net_sysctls_nat();
    }
    char c = rc == 0 ? 'n' : (char)(-rc & 0x7f);
    if (write(sock, &c, 1) == 1) {
        (void)!read(sock, &c, 1);
    }
    _exit(0);
}

int sandbox_userns_netns(int userns, int *ret_netns, struct err *e)
{
    int sock[2];
    char c = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) < 0) {
        return err_set(e, -errno, "make a socket pair");
    }
    pid_t pid = fork();
    int rc = pid < 0 ? err_set(e, -errno, "fork") : 0;
    if (pid == 0) {
        fd_close(sock[0]);
        netns_child(sock[1], userns);
    }
    fd_close(sock[1]);
    if (rc == 0 && (read(sock[0], &c, 1) != 1 || c != 'n')) {
        rc = err_set(e, c > 0 ? -c : -EIO, "make a network namespace");
    }
    if (rc == 0) {
        int fd = ns_open(pid, "net");
        rc = fd < 0 ? err_set(e, fd, "open a slot's network namespace") : 0;
        *ret_netns = fd < 0 ? -1 : fd;
    }
    fd_close(sock[0]);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return rc;
}
