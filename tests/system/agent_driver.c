/*
 * agent_driver - what somebody could do who has taken over the agent process. Becomes node.user the
 * way the launcher makes its agent, then tries one thing per child process and prints a line for
 * each: NAME and "done", the errno's name, or "killed".
 *
 *   agent_driver UID GID free|confined WHAT [ARG]...
 *
 * confined: behind the agent process's own system call filter.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/sandbox/sandbox.h"
#include "common/str.h"

static int number(const char *text)
{
    uint64_t n = 0;
    return str_u64_in(str_of(text), 0, INT32_MAX, &n) == 0 ? (int)n : -1;
}

static long try_open(const char *path, int flags)
{
    return open(path, flags | O_CLOEXEC, 0600);
}

/* One attempt: -1 and errno, or not negative when it worked. */
static long attempt(const char *what, const char *a)
{
    static char text[64];
    struct iovec v = { text, sizeof(text) };
    union bpf_attr none;
    memset(&none, 0, sizeof(none));
    int pid = number(a);

    if (strcmp(what, "read") == 0 || strcmp(what, "list") == 0) {
        return try_open(a, O_RDONLY);
    } else if (strcmp(what, "write") == 0) {
        return try_open(a, O_WRONLY);
    } else if (strcmp(what, "create") == 0) {
        return try_open(a, O_WRONLY | O_CREAT | O_EXCL);
    } else if (strcmp(what, "remove") == 0) {
        return unlink(a);
    } else if (strcmp(what, "chmod") == 0) {
        return chmod(a, 0777);
    } else if (strcmp(what, "mount") == 0) {
        return mount("none", a, "tmpfs", 0, NULL);
    } else if (strcmp(what, "umount") == 0) {
        return umount2(a, MNT_DETACH);
    } else if (strcmp(what, "open_tree") == 0) {
        return syscall(SYS_open_tree, AT_FDCWD, a, 1 /* OPEN_TREE_CLONE */);
    } else if (strcmp(what, "unshare") == 0) {
        return unshare(number(a));
    } else if (strcmp(what, "clone") == 0) {
        return syscall(SYS_clone, (long)number(a) | SIGCHLD, 0, 0, 0, 0);
    } else if (strcmp(what, "clone3") == 0) {
        return syscall(SYS_clone3, NULL, 0);
    } else if (strcmp(what, "fork") == 0) {
        return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    } else if (strcmp(what, "setns") == 0) {
        return setns((int)syscall(SYS_pidfd_open, pid, 0), CLONE_NEWNS);
    } else if (strcmp(what, "chroot") == 0) {
        return chroot(a);
    } else if (strcmp(what, "kill") == 0) {
        return kill(pid, SIGUSR2);
    } else if (strcmp(what, "ptrace") == 0) {
        return ptrace(PTRACE_SEIZE, pid, 0, 0);
    } else if (strcmp(what, "process_vm_readv") == 0) {
        return process_vm_readv(pid, &v, 1, &v, 1, 0);
    } else if (strcmp(what, "prlimit") == 0) {
        return prlimit(pid, RLIMIT_CPU, NULL, (struct rlimit *)(void *)text);
    } else if (strcmp(what, "setuid") == 0) {
        return setuid((uid_t)pid);
    } else if (strcmp(what, "setgroups") == 0) {
        return setgroups(0, NULL);
    } else if (strcmp(what, "bpf") == 0) {
        return syscall(SYS_bpf, BPF_MAP_CREATE, &none, sizeof(none));
    } else if (strcmp(what, "kexec") == 0) {
        return syscall(SYS_kexec_load, 0, 0, 0, 0);
    } else if (strcmp(what, "module") == 0) {
        return syscall(SYS_init_module, text, sizeof(text), "");
    } else if (strcmp(what, "io_uring") == 0) {
        return syscall(SYS_io_uring_setup, 1, text);
    } else if (strcmp(what, "perf") == 0) {
        return syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0);
    } else if (strcmp(what, "exec") == 0) {
        return execl(a, a, (char *)NULL);
    } else if (strcmp(what, "mmap_exec") == 0) {
        return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
                       MAP_FAILED
                   ? -1
                   : 0;
    } else if (strcmp(what, "socket") == 0) {
        return socket(number(a), SOCK_RAW | SOCK_CLOEXEC, 0);
    }
    fprintf(stderr, "agent_driver: unknown attempt '%s'\n", what);
    exit(2);
}

static void become(const char *uid, const char *gid)
{
    gid_t g = (gid_t)number(gid);
    uid_t u = (uid_t)number(uid);
    for (int cap = 0; cap <= 63 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++) {
    }
    if (setgroups(1, &g) < 0 || setresgid(g, g, g) < 0 || setresuid(u, u, u) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        perror("agent_driver: become the agent's user");
        exit(2);
    }
}

/* The child's exit status carries errno: 0 done. */
static void child(bool confined, const char *what, const char *arg)
{
    struct err e = { .code = 0 };
    if (confined && sandbox_agent_confine(&e) < 0) {
        fprintf(stderr, "agent_driver: %s\n", err_text(&e));
        _exit(255);
    }
    pid_t self = getpid();
    long rc = attempt(what, arg);
    if (getpid() != self) {
        _exit(0); /* a clone that should not be */
    }
    _exit(rc < 0 ? errno : 0);
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        return 2;
    }
    become(argv[1], argv[2]);
    for (int i = 4; i + 1 < argc; i += 2) {
        int status = 0;
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            child(strcmp(argv[3], "confined") == 0, argv[i], argv[i + 1]);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid) {
            return 2;
        }
        const char *said = !WIFEXITED(status)         ? "killed"
                           : WEXITSTATUS(status) == 0 ? "done"
                                                      : strerrorname_np(WEXITSTATUS(status));
        printf("%s %s %s\n", argv[i], argv[i + 1], said != NULL ? said : "?");
    }
    return 0;
}
