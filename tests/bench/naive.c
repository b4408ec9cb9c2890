#include "tests/bench/naive.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/insist.h"
#include "common/sys/sys.h"

static const char *const v1_groups[] = { "memory", "cpu", "pids", "blkio" };

static int put(const char *path, const char *text)
{
    return sys_write_text(AT_FDCWD, path, text);
}

/* Four cgroups made for this run alone, where version 1 is mounted; nothing elsewhere. */
static void groups_make(unsigned serial, pid_t pid)
{
    char path[256];
    char text[32];

    snprintf(text, sizeof text, "%d", (int)pid);
    for (size_t i = 0; i < ARRAY_LEN(v1_groups); i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/agent-naive-%u", v1_groups[i], serial);
        if (mkdir(path, 0755) == 0) {
            snprintf(path, sizeof path, "/sys/fs/cgroup/%s/agent-naive-%u/cgroup.procs",
                     v1_groups[i], serial);
            (void)put(path, text);
        }
    }
}

static void groups_remove(unsigned serial)
{
    char path[256];

    for (size_t i = 0; i < ARRAY_LEN(v1_groups); i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/agent-naive-%u", v1_groups[i], serial);
        (void)rmdir(path);
    }
}

/* 296 allowed calls in libseccomp's own (linear) order. */
static int filter_load(void)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int rc = ctx == NULL ? -ENOMEM : 0;

    for (int nr = 0; nr < 296 && rc == 0; nr++) {
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0);
    }
    if (rc == 0) {
        rc = seccomp_load(ctx);
    }
    seccomp_release(ctx);
    return rc;
}

static int mounts_make(const struct naive *n)
{
    static const char *const devices[] = { "null", "zero", "full", "random", "urandom", "tty" };
    char options[1024];
    char merged[300];
    char path[400];
    char source[64];

    snprintf(merged, sizeof merged, "%s/m", n->work);
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s/u,workdir=%s/w,userxattr", n->lower,
             n->work, n->work);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("overlay", merged, "overlay", 0, options) != 0) {
        return -errno;
    }
    snprintf(path, sizeof path, "%s/proc", merged);
    if (mount("proc", path, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0) {
        return -errno;
    }
    snprintf(path, sizeof path, "%s/tmp", merged);
    if (mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "size=64m") != 0) {
        return -errno;
    }
    snprintf(path, sizeof path, "%s/dev", merged);
    if (mount("tmpfs", path, "tmpfs", MS_NOSUID, "size=64k") != 0) {
        return -errno;
    }
    for (size_t i = 0; i < ARRAY_LEN(devices); i++) {
        snprintf(path, sizeof path, "%s/dev/%s", merged, devices[i]);
        snprintf(source, sizeof source, "/dev/%s", devices[i]);
        int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
        if (fd < 0) {
            return -errno;
        }
        close(fd);
        (void)mount(source, path, NULL, MS_BIND, NULL); /* /dev/tty may not be there */
    }
    if (chdir(merged) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 ||
        umount2(".", MNT_DETACH) != 0 || chdir("/") != 0) {
        return -errno;
    }
    return 0;
}

static void child(const struct naive *n, int go)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct none[2] = { { 0 } };
    char byte;

    if (read(go, &byte, 1) != 1 || setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0 ||
        mounts_make(n) != 0 || sethostname("naive", 5) != 0) {
        _exit(125);
    }
    for (int cap = 0; cap <= 40; cap++) {
        (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || syscall(SYS_capset, &head, none) != 0 ||
        filter_load() != 0) {
        _exit(125);
    }
    char *const argv[] = { (char *)(uintptr_t)n->path, NULL };
    char *const env[] = { NULL };
    execve(n->path, argv, env);
    _exit(127);
}

static int maps_write(pid_t pid, unsigned base)
{
    char path[64];
    char text[64];
    int rc;

    snprintf(text, sizeof text, "0 %u 65536", base);
    snprintf(path, sizeof path, "/proc/%d/setgroups", (int)pid);
    (void)put(path, "deny");
    snprintf(path, sizeof path, "/proc/%d/uid_map", (int)pid);
    rc = put(path, text);
    if (rc == 0) {
        snprintf(path, sizeof path, "/proc/%d/gid_map", (int)pid);
        rc = put(path, text);
    }
    return rc;
}

static int dirs_make(const struct naive *n)
{
    static const char *const names[] = { "u", "w", "m" };
    char path[300];

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof path, "%s/%s", n->work, names[i]);
        if (mkdir(path, 0755) != 0 && errno != EEXIST) {
            return -errno;
        }
        if (chown(path, n->id_base, n->id_base) != 0) {
            return -errno;
        }
    }
    return 0;
}

int naive_run(struct naive *n, struct err *e)
{
    AUTO_FD int go_read = -1;
    AUTO_FD int go_write = -1;
    int pipe_fds[2];
    int status = 0;
    unsigned serial = n->serial++;
    struct err ignored;
    struct naive one = *n;

    snprintf(one.work, sizeof one.work, "%.200s/%u", n->work, serial);
    if (mkdir(one.work, 0755) != 0 || dirs_make(&one) != 0 || fd_pipe(pipe_fds) != 0) {
        return err_set(e, -errno, "prepare a naive sandbox in '%s'", one.work);
    }
    go_read = pipe_fds[0];
    go_write = pipe_fds[1];
    long pid = syscall(SYS_clone,
                       CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                           CLONE_NEWUTS | CLONE_NEWCGROUP | SIGCHLD,
                       NULL, NULL, NULL, NULL);
    if (pid == 0) {
        child(&one, go_read);
    }
    if (pid < 0) {
        return err_set(e, -errno, "clone");
    }
    groups_make(serial, (pid_t)pid);
    if (maps_write((pid_t)pid, n->id_base) != 0 || write(go_write, "x", 1) != 1) {
        (void)kill((pid_t)pid, SIGKILL);
    }
    while (waitpid((pid_t)pid, &status, 0) < 0 && errno == EINTR) {
    }
    groups_remove(serial);
    (void)sys_remove_tree(AT_FDCWD, one.work, &ignored);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
