/*
 * The job's system calls: an allow-list from moby's default profile, without what its capability
 * groups add, and without ptrace, process_vm_*, io_uring and the keyring calls. What is known and
 * refused gives EPERM; what nobody knew gives ENOSYS, so that C libraries fall back. Another
 * architecture (int 0x80, x32) kills the process: its calls would pass the argument checks.
 *
 * Built once, as a balanced tree (SCMP_FLTATR_CTL_OPTIMIZE 2), and exported to plain BPF.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/sandbox/sys_sandbox.h"
#include "common/insist.h"
#include "common/mem.h"

static const char *const allowed[] = {
    "accept",
    "accept4",
    "access",
    "adjtimex",
    "alarm",
    "arch_prctl",
    "bind",
    "brk",
    "cachestat",
    "capget",
    "capset",
    "chdir",
    "chmod",
    "chown",
    "clock_adjtime",
    "clock_getres",
    "clock_gettime",
    "clock_nanosleep",
    "close",
    "close_range",
    "connect",
    "copy_file_range",
    "creat",
    "dup",
    "dup2",
    "dup3",
    "epoll_create",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "eventfd",
    "eventfd2",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fadvise64",
    "fallocate",
    "fchdir",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "fchown",
    "fchownat",
    "fcntl",
    "fdatasync",
    "fgetxattr",
    "flistxattr",
    "flock",
    "fork",
    "fremovexattr",
    "fsetxattr",
    "fstat",
    "fstatfs",
    "fsync",
    "ftruncate",
    "futex",
    "futex_requeue",
    "futex_wait",
    "futex_waitv",
    "futex_wake",
    "futimesat",
    "get_robust_list",
    "get_thread_area",
    "getcpu",
    "getcwd",
    "getdents",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getitimer",
    "getpeername",
    "getpgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getpriority",
    "getrandom",
    "getresgid",
    "getresuid",
    "getrlimit",
    "getrusage",
    "getsid",
    "getsockname",
    "getsockopt",
    "gettid",
    "gettimeofday",
    "getuid",
    "getxattr",
    "getxattrat",
    "inotify_add_watch",
    "inotify_init",
    "inotify_init1",
    "inotify_rm_watch",
    "io_cancel",
    "io_destroy",
    "io_getevents",
    "io_pgetevents",
    "io_setup",
    "io_submit",
    "ioprio_get",
    "ioprio_set",
    "kill",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "lchown",
    "lgetxattr",
    "link",
    "linkat",
    "listen",
    "listmount",
    "listxattr",
    "listxattrat",
    "llistxattr",
    "lremovexattr",
    "lseek",
    "lsetxattr",
    "lstat",
    "madvise",
    "map_shadow_stack",
    "membarrier",
    "memfd_create",
    "memfd_secret",
    "mincore",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "mlock",
    "mlock2",
    "mlockall",
    "mmap",
    "mprotect",
    "mq_getsetattr",
    "mq_notify",
    "mq_open",
    "mq_timedreceive",
    "mq_timedsend",
    "mq_unlink",
    "mremap",
    "mseal",
    "msgctl",
    "msgget",
    "msgrcv",
    "msgsnd",
    "msync",
    "munlock",
    "munlockall",
    "munmap",
    "name_to_handle_at",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pause",
    "pidfd_open",
    "pidfd_send_signal",
    "pipe",
    "pipe2",
    "pkey_alloc",
    "pkey_free",
    "pkey_mprotect",
    "poll",
    "ppoll",
    "prctl",
    "pread64",
    "preadv",
    "preadv2",
    "prlimit64",
    "process_mrelease",
    "pselect6",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "read",
    "readahead",
    "readlink",
    "readlinkat",
    "readv",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "remap_file_pages",
    "removexattr",
    "removexattrat",
    "rename",
    "renameat",
    "renameat2",
    "restart_syscall",
    "riscv_hwprobe",
    "rmdir",
    "rseq",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigqueueinfo",
    "rt_sigreturn",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "rt_tgsigqueueinfo",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "sched_getaffinity",
    "sched_getattr",
    "sched_getparam",
    "sched_getscheduler",
    "sched_rr_get_interval",
    "sched_setaffinity",
    "sched_setattr",
    "sched_setparam",
    "sched_setscheduler",
    "sched_yield",
    "seccomp",
    "select",
    "semctl",
    "semget",
    "semop",
    "semtimedop",
    "sendfile",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "set_thread_area",
    "set_tid_address",
    "setfsgid",
    "setfsuid",
    "setgid",
    "setgroups",
    "setitimer",
    "setpgid",
    "setpriority",
    "setregid",
    "setresgid",
    "setresuid",
    "setreuid",
    "setrlimit",
    "setsid",
    "setsockopt",
    "setuid",
    "setxattr",
    "setxattrat",
    "shmat",
    "shmctl",
    "shmdt",
    "shmget",
    "shutdown",
    "sigaltstack",
    "signalfd",
    "signalfd4",
    "socketpair",
    "splice",
    "stat",
    "statfs",
    "statmount",
    "statx",
    "symlink",
    "symlinkat",
    "sync",
    "sync_file_range",
    "syncfs",
    "sysinfo",
    "tee",
    "tgkill",
    "time",
    "timer_create",
    "timer_delete",
    "timer_getoverrun",
    "timer_gettime",
    "timer_settime",
    "timerfd_create",
    "timerfd_gettime",
    "timerfd_settime",
    "times",
    "tkill",
    "truncate",
    "umask",
    "uname",
    "unlink",
    "unlinkat",
    "uretprobe",
    "utime",
    "utimensat",
    "utimes",
    "vfork",
    "vmsplice",
    "wait4",
    "waitid",
    "write",
    "writev",
};

/* Known, and not for jobs. */
static const char *const refused[] = {
    "_sysctl",
    "acct",
    "add_key",
    "bpf",
    "chroot",
    "clock_settime",
    "create_module",
    "delete_module",
    "fanotify_init",
    "fanotify_mark",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "get_mempolicy",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "lsm_get_self_attr",
    "lsm_list_modules",
    "lsm_set_self_attr",
    "mbind",
    "migrate_pages",
    "modify_ldt",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "open_tree_attr",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "sysfs",
    "syslog",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "ustat",
    "vhangup",
};

static int add_names(scmp_filter_ctx ctx, uint32_t action, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int nr = seccomp_syscall_resolve_name(names[i]);
        if (nr < 0) {
            continue; /* not on this architecture, or newer than the library: ENOSYS */
        }
        int rc = seccomp_rule_add_exact(ctx, action, nr, 0);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int build_allow(scmp_filter_ctx ctx)
{
    int rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (rc == 0) {
        rc = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    }
    if (rc == 0) {
        rc = add_names(ctx, SCMP_ACT_ALLOW, allowed, ARRAY_LEN(allowed));
    }
    return rc == 0 ? add_names(ctx, SCMP_ACT_ERRNO(EPERM), refused, ARRAY_LEN(refused)) : rc;
}

static int export(scmp_filter_ctx ctx, struct sock_filter **ret, size_t *ret_len)
{
    AUTO_FD int fd = memfd_create("filter", MFD_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    int rc = seccomp_export_bpf(ctx, fd);
    off_t size = rc == 0 ? lseek(fd, 0, SEEK_END) : 0;
    if (rc < 0 || size <= 0 || size % (off_t)sizeof(struct sock_filter) != 0) {
        return rc < 0 ? rc : -EINVAL;
    }
    struct sock_filter *code = mem_alloc((size_t)size);
    if (code == NULL) {
        return -ENOMEM;
    }
    ssize_t n = sys_pread_full(fd, code, (size_t)size, 0);
    if (n != size) {
        mem_free(code);
        return n < 0 ? (int)n : -EIO;
    }
    *ret = code;
    *ret_len = (size_t)size / sizeof(*code);
    return 0;
}

#define LOAD(field) \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
#define JEQ(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define RET(value) BPF_STMT(BPF_RET | BPF_K, value)

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
#else
#error "the sandbox knows x86-64 and arm64"
#endif

enum {
    NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                 CLONE_NEWPID | CLONE_NEWNET,
};

/* In front of libseccomp's program, whose rules hold one compare per argument: foreign
 * architectures and x32 numbers kill; clone3 is unknown, so that C libraries fall back to clone,
 * whose flags are not in memory; the four calls that are judged by their arguments. All compares
 * are on the low 32 bits, which is all that the kernel looks at: the upper half must not decide
 * (CVE-2019-10063). What is not named here falls through to the program. Numbers at the right: a
 * block's lines. */
static const struct sock_filter prologue[] = {
    LOAD(arch),
    JEQ(OUR_ARCH, 1, 0),
    RET(SECCOMP_RET_KILL_PROCESS),
    LOAD(nr),
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1),
    RET(SECCOMP_RET_KILL_PROCESS),
    JEQ(SYS_clone3, 0, 1),
    RET(SECCOMP_RET_ERRNO | ENOSYS), /* 1 */
    JEQ(SYS_ioctl, 0, 6),
    LOAD(args[1]),
    JEQ(0x5412 /* TIOCSTI */, 3, 0),
    JEQ(0x541c /* TIOCLINUX */, 2, 0),
    JEQ(0x5423 /* TIOCSETD */, 1, 0),
    RET(SECCOMP_RET_ALLOW),
    RET(SECCOMP_RET_ERRNO | EPERM), /* 6 */
    JEQ(SYS_clone, 0, 4),
    LOAD(args[0]),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, NAMESPACES, 0, 1),
    RET(SECCOMP_RET_ERRNO | EPERM),
    RET(SECCOMP_RET_ALLOW), /* 4 */
    JEQ(SYS_personality, 0, 8),
    LOAD(args[0]),
    JEQ(0, 5, 0),
    JEQ(8, 4, 0),
    JEQ(0x20000, 3, 0),
    JEQ(0x20008, 2, 0),
    JEQ(0xffffffff, 1, 0),
    RET(SECCOMP_RET_ERRNO | EPERM),
    RET(SECCOMP_RET_ALLOW), /* 8 */
    JEQ(SYS_socket, 0, 18),
    LOAD(args[0]),
    JEQ(AF_UNIX, 4, 0),
    JEQ(AF_INET, 7, 0),
    JEQ(AF_INET6, 6, 0),
    JEQ(AF_NETLINK, 9, 0),
    RET(SECCOMP_RET_ERRNO | EPERM),
    LOAD(args[1]), /* AF_UNIX */
    BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf),
    JEQ(SOCK_SEQPACKET, 7, 0),
    BPF_STMT(BPF_JMP | BPF_JA, 2),
    LOAD(args[1]), /* AF_INET, AF_INET6 */
    BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf),
    JEQ(SOCK_STREAM, 3, 0),
    JEQ(SOCK_DGRAM, 2, 3),
    LOAD(args[2]), /* AF_NETLINK: the protocol */
    JEQ(0 /* NETLINK_ROUTE */, 0, 1),
    RET(SECCOMP_RET_ALLOW),
    RET(SECCOMP_RET_ERRNO | EPERM), /* 18 */
};

int sandbox_filter_build(struct sock_fprog *ret, struct err *e)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (ctx == NULL) {
        return err_set(e, -ENOMEM, "make a seccomp filter");
    }
    struct sock_filter *code = NULL;
    size_t len = 0;
    int rc = build_allow(ctx);
    if (rc == 0) {
        rc = export(ctx, &code, &len);
    }
    seccomp_release(ctx);
    if (rc < 0) {
        return err_set(e, rc, "build the seccomp filter");
    }
    size_t before = ARRAY_LEN(prologue);
    struct sock_filter *all =
        before + len <= BPF_MAXINSNS ? mem_calloc(before + len, sizeof(*all)) : NULL;
    if (all == NULL) {
        mem_free(code);
        return err_set(e, -ENOMEM, "build the seccomp filter");
    }
    for (size_t i = 0; i < before + len; i++) {
        all[i] = i < before ? prologue[i] : code[i - before];
    }
    mem_free(code);
    *ret = (struct sock_fprog){ .len = (unsigned short)(before + len), .filter = all };
    return 0;
}

int sandbox_filter_load(const struct sock_fprog *filter)
{
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter) < 0 ? -errno : 0;
}
