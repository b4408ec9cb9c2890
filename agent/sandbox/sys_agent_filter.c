/*
 * The agent process's own system calls. It meets the network, so it may do what a file server does
 * and no more: no other process, no namespace, no mount, no code that was not in its binary.
 *
 * Three kinds of refusal. What only an intruder asks for kills the process: the launcher starts
 * another, and what runs is taken up again. clone3 is unknown, so that the C library falls back to
 * clone, whose flags a filter can read. Anything else is answered with EPERM and said in the log
 * with its number: a list that is too short shows itself.
 */
#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <ucontext.h>
#include <unistd.h>

#include "agent/sandbox/sandbox.h"
#include "common/insist.h"

/* What the loop, the store and the images call, and the siblings that libuv, SQLite, OpenSSL and
 * the C library choose by size, flag or kernel. */
static const char *const allowed[] = {
    /* files */
    "access",
    "chmod",
    "close",
    "close_range",
    "copy_file_range",
    "dup",
    "dup2",
    "dup3",
    "faccessat",
    "faccessat2",
    "fadvise64",
    "fallocate",
    "fchmod",
    "fchmodat",
    "fcntl",
    "fdatasync",
    "flock",
    "fstat",
    "fstatfs",
    "fsync",
    "ftruncate",
    "getcwd",
    "getdents64",
    "link",
    "linkat",
    "lseek",
    "lstat",
    "memfd_create",
    "mkdir",
    "mkdirat",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe2",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "read",
    "readlink",
    "readlinkat",
    "readv",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "sendfile",
    "stat",
    "statfs",
    "statx",
    "sync_file_range",
    "truncate",
    "umask",
    "unlink",
    "unlinkat",
    "utimensat",
    "write",
    "writev",
    /* memory */
    "brk",
    "madvise",
    "mremap",
    "munmap",
    "msync",
    /* sockets and waiting */
    "accept",
    "accept4",
    "bind",
    "connect",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "eventfd2",
    "getpeername",
    "getsockname",
    "getsockopt",
    "listen",
    "poll",
    "ppoll",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "socketpair",
    /* threads, time, itself */
    "clock_getres",
    "clock_gettime",
    "clock_nanosleep",
    "exit",
    "exit_group",
    "futex",
    "get_robust_list",
    "getcpu",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getppid",
    "getpriority",
    "getrandom",
    "getresgid",
    "getresuid",
    "getrlimit",
    "getrusage",
    "gettid",
    "gettimeofday",
    "getuid",
    "membarrier",
    "nanosleep",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_getparam",
    "sched_getscheduler",
    "sched_yield",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
    "sysinfo",
    "time",
    "times",
    "uname",
};

static const char *const deadly[] = {
    "acct",
    "add_key",
    "bpf",
    "chroot",
    "delete_module",
    "execve",
    "execveat",
    "finit_module",
    "fork",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "mount",
    "mount_setattr",
    "move_mount",
    "name_to_handle_at",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pidfd_getfd",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "reboot",
    "request_key",
    "setdomainname",
    "setgid",
    "setgroups",
    "sethostname",
    "setns",
    "setregid",
    "setresgid",
    "setresuid",
    "setreuid",
    "settimeofday",
    "setuid",
    "swapoff",
    "swapon",
    "syslog",
    "umount2",
    "unshare",
    "userfaultfd",
    "vfork",
};

static int add_names(scmp_filter_ctx ctx, uint32_t action, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int nr = seccomp_syscall_resolve_name(names[i]);
        /* Not on this architecture, or newer than the library: refused anyway. */
        int rc = nr < 0 ? 0 : seccomp_rule_add_exact(ctx, action, nr, 0);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* What depends on an argument. */
static int add_judged(scmp_filter_ctx ctx)
{
    const scmp_datum_t spaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
    const scmp_datum_t thread = CLONE_THREAD | CLONE_VM | CLONE_SIGHAND;
    const scmp_datum_t self = (scmp_datum_t)getpid();
    const struct {
        int nr;
        struct scmp_arg_cmp cmp;
    } rules[] = {
        { SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, thread | spaces, thread) },
        { SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
        { SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
        { SCMP_SYS(socket), SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, AF_UNIX) },
        { SCMP_SYS(socket), SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, AF_INET) },
        { SCMP_SYS(socket), SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, AF_INET6) },
        { SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, FIONBIO) },
        { SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, FIONREAD) },
        { SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, FIOCLEX) },
        { SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, TCGETS) },
        { SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, PR_SET_NAME) },
        /* abort() */
        { SCMP_SYS(tgkill), SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, self) },
    };
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        int rc = seccomp_rule_add_exact_array(ctx, SCMP_ACT_ALLOW, rules[i].nr, 1, &rules[i].cmp);
        if (rc < 0) {
            return rc;
        }
    }
    /* Reading limits, never setting another's. */
    const struct scmp_arg_cmp own[] = { SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, 0) };
    int rc = seccomp_rule_add_exact_array(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, own);
    return rc < 0 ? rc : seccomp_rule_add_exact(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
}

/* SIGSYS of a refused call: says which, and answers EPERM in its place. Nothing but write(2). */
static void on_refused(int sig, siginfo_t *si, void *context)
{
    static volatile sig_atomic_t said;
    ucontext_t *uc = context;
    char text[] = "the agent process's filter refused system call 0000\n";
    size_t at = sizeof(text) - 3;

    (void)sig;
    for (int nr = si->si_syscall; nr > 0 && text[at] == '0'; nr /= 10) {
        text[at--] = (char)('0' + nr % 10);
    }
    if (said < 100) {
        said++;
        (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
    }
#if defined(__x86_64__)
    uc->uc_mcontext.gregs[REG_RAX] = -EPERM;
#elif defined(__aarch64__)
    uc->uc_mcontext.regs[0] = (unsigned long long)-EPERM;
#else
#error "the filter knows x86-64 and arm64"
#endif
}

int sandbox_agent_confine(struct err *e)
{
    const struct sigaction sa = { .sa_sigaction = on_refused, .sa_flags = SA_SIGINFO };
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);

    if (ctx == NULL || sigaction(SIGSYS, &sa, NULL) < 0) {
        seccomp_release(ctx);
        return err_set(e, -ENOMEM, "make the agent process's filter");
    }
    int rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    rc = rc == 0 ? seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1) : rc;
    rc = rc == 0 ? seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) : rc;
    rc = rc == 0 ? add_names(ctx, SCMP_ACT_ALLOW, allowed, ARRAY_LEN(allowed)) : rc;
    rc = rc == 0 ? add_names(ctx, SCMP_ACT_KILL_PROCESS, deadly, ARRAY_LEN(deadly)) : rc;
    rc = rc == 0 ? add_judged(ctx) : rc;
    rc = rc == 0 ? seccomp_load(ctx) : rc;
    seccomp_release(ctx);
    return rc < 0 ? err_set(e, rc, "load the agent process's filter") : 0;
}
