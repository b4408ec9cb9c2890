/* System calls: what is refused, how, and what still works. */
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/keyctl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

static void numbers(void)
{
    static const struct {
        long nr;
        const char *name;
    } eperm[] = {
        { SYS_mount, "mount" },
        { SYS_umount2, "umount2" },
        { SYS_pivot_root, "pivot_root" },
        { SYS_setns, "setns" },
        { SYS_unshare, "unshare" },
        { SYS_ptrace, "ptrace" },
        { SYS_bpf, "bpf" },
        { SYS_perf_event_open, "perf_event_open" },
        { SYS_open_by_handle_at, "open_by_handle_at" },
        { SYS_kexec_load, "kexec_load" },
        { SYS_kexec_file_load, "kexec_file_load" },
        { SYS_init_module, "init_module" },
        { SYS_finit_module, "finit_module" },
        { SYS_delete_module, "delete_module" },
        { SYS_reboot, "reboot" },
        { SYS_swapon, "swapon" },
        { SYS_acct, "acct" },
        { SYS_add_key, "add_key" },
        { SYS_request_key, "request_key" },
        { SYS_keyctl, "keyctl" },
        { SYS_userfaultfd, "userfaultfd" },
        { SYS_fanotify_init, "fanotify_init" },
        { SYS_fanotify_mark, "fanotify_mark" },
        { SYS_process_vm_readv, "process_vm_readv" },
        { SYS_process_vm_writev, "process_vm_writev" },
        { SYS_kcmp, "kcmp" },
        { SYS_io_uring_setup, "io_uring_setup" },
        { SYS_fsopen, "fsopen" },
        { SYS_fsconfig, "fsconfig" },
        { SYS_fsmount, "fsmount" },
        { SYS_move_mount, "move_mount" },
        { SYS_open_tree, "open_tree" },
        { SYS_mount_setattr, "mount_setattr" },
        { SYS_sethostname, "sethostname" },
        { SYS_settimeofday, "settimeofday" },
        { SYS_clock_settime, "clock_settime" },
        { SYS_syslog, "syslog" },
        { SYS_quotactl, "quotactl" },
        { SYS_pidfd_getfd, "pidfd_getfd" },
        { SYS_chroot, "chroot" },
        { SYS_vhangup, "vhangup" },
#ifdef SYS_iopl
        { SYS_iopl, "iopl" },
        { SYS_ioperm, "ioperm" },
        { SYS_modify_ldt, "modify_ldt" },
#endif
    };
    for (size_t i = 0; i < sizeof(eperm) / sizeof(eperm[0]); i++) {
        char name[64];
        snprintf(name, sizeof(name), "call %s", eperm[i].name);
        refused(syscall(eperm[i].nr, 0, 0, 0, 0, 0, 0), EPERM, name);
    }
    refused(syscall(999), ENOSYS, "call with a number nobody knows");
    refused(syscall(SYS_clone3, NULL, 0), ENOSYS, "call clone3");
}

static void clones(void)
{
    static const struct {
        unsigned long flag;
        const char *name;
    } flags[] = {
        { CLONE_NEWUSER, "clone NEWUSER" },     { CLONE_NEWNS, "clone NEWNS" },
        { CLONE_NEWPID, "clone NEWPID" },       { CLONE_NEWNET, "clone NEWNET" },
        { CLONE_NEWIPC, "clone NEWIPC" },       { CLONE_NEWUTS, "clone NEWUTS" },
        { CLONE_NEWCGROUP, "clone NEWCGROUP" },
    };
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        long pid = syscall(SYS_clone, flags[i].flag | SIGCHLD, 0, 0, 0, 0);
        if (pid == 0) {
            _exit(0);
        }
        refused(pid, EPERM, flags[i].name);
        /* The kernel looks at 32 bits of the argument; the filter must not be fooled by the rest.
         */
        pid = syscall(SYS_clone, flags[i].flag | SIGCHLD | (1UL << 40), 0, 0, 0, 0);
        if (pid == 0) {
            _exit(0);
        }
        refused(pid, EPERM, "clone with high bits");
    }
    pid_t pid = fork();
    if (pid == 0) {
        _exit(7);
    }
    int status = 0;
    check(pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7, "fork works",
          "%d", status);
}

static void one_socket(int domain, int type, int protocol, bool want, const char *name)
{
    int fd = socket(domain, type, protocol);
    if (want) {
        check(fd >= 0, name, "%s", strerror(errno));
    } else {
        refused(fd, EPERM, name);
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void sockets(void)
{
    one_socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, true, "socket unix stream");
    one_socket(AF_UNIX, SOCK_DGRAM, 0, true, "socket unix dgram");
    one_socket(AF_UNIX, SOCK_SEQPACKET, 0, true, "socket unix seqpacket");
    one_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0, true, "socket inet stream");
    one_socket(AF_INET, SOCK_DGRAM, 0, true, "socket inet dgram");
    one_socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP, true, "socket ping");
    one_socket(AF_INET6, SOCK_STREAM, 0, true, "socket inet6 stream");
    one_socket(AF_INET6, SOCK_DGRAM, 0, true, "socket inet6 dgram");
    one_socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, true, "socket netlink route");
    one_socket(AF_NETLINK, SOCK_RAW, NETLINK_XFRM, false, "socket netlink xfrm");
    one_socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER, false, "socket netlink netfilter");
    one_socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT, false, "socket netlink audit");
    one_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP, false, "socket raw icmp");
    one_socket(AF_INET, SOCK_SEQPACKET, 132, false, "socket sctp seqpacket");
    one_socket(AF_PACKET, SOCK_RAW, 0, false, "socket packet");
    one_socket(AF_ALG, SOCK_SEQPACKET, 0, false, "socket alg");
    one_socket(AF_VSOCK, SOCK_STREAM, 0, false, "socket vsock");
    one_socket(AF_RXRPC, SOCK_DGRAM, 0, false, "socket rxrpc");
    one_socket(AF_KEY, SOCK_RAW, 2, false, "socket key");
    one_socket(AF_BLUETOOTH, SOCK_RAW, 0, false, "socket bluetooth");
    one_socket(AF_TIPC, SOCK_STREAM, 0, false, "socket tipc");
    errno = 0;
    refused(syscall(SYS_socket, (1UL << 32) | AF_ALG, SOCK_SEQPACKET, 0), EPERM,
            "socket alg with high bits");
}

static void arguments(void)
{
    static const struct {
        unsigned long request;
        const char *name;
    } requests[] = { { 0x5412, "ioctl TIOCSTI" },
                     { 0x541c, "ioctl TIOCLINUX" },
                     { 0x5423, "ioctl TIOCSETD" } };
    char c = 'x';
    for (size_t i = 0; i < 3; i++) {
        refused(syscall(SYS_ioctl, 0, requests[i].request, &c), EPERM, requests[i].name);
        refused(syscall(SYS_ioctl, 0, requests[i].request | (1UL << 32), &c), EPERM,
                "ioctl with high bits");
    }
    int n;
    int p[2];
    check(pipe(p) == 0 && ioctl(p[0], FIONREAD, &n) == 0, "ioctl FIONREAD works", "%s",
          strerror(errno));
    static const unsigned long good[] = { 0xffffffff, 0, 8, 0x20000, 0x20008, 0 };
    for (size_t i = 0; i < 6; i++) {
        check(syscall(SYS_personality, good[i]) >= 0, "personality allowed", "%lx: %s", good[i],
              strerror(errno));
    }
    refused(syscall(SYS_personality, ADDR_NO_RANDOMIZE), EPERM, "personality ADDR_NO_RANDOMIZE");
    refused(syscall(SYS_personality, READ_IMPLIES_EXEC), EPERM, "personality READ_IMPLIES_EXEC");
}

/* A call of another architecture ends the process. */
static void foreign(void)
{
#ifdef __x86_64__
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        long r;
        __asm__ volatile("int $0x80" : "=a"(r) : "a"(20L) : "memory"); /* getpid */
        _exit(0);
    }
    waitpid(pid, &status, 0);
    check(WIFSIGNALED(status), "int 0x80 kills", "status %x", status);
    pid = fork();
    if (pid == 0) {
        syscall(0x40000000 | 39);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    check(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "x32 numbers kill", "status %x",
          status);
#endif
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    numbers();
    clones();
    sockets();
    arguments();
    foreign();
    return 0;
}
