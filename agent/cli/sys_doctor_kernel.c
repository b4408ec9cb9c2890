/* What the kernel lets us do, tried in children that change nothing outside themselves. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/cli/sys_doctor.h"
#include "common/insist.h"
#include "common/sys/sys.h"

/* One probe: what it needs, and where it is tried. */
struct probe {
    const char *path;
    uint64_t uid_base;
    int flag;
};

/* Runs fn in a child. 0, or the errno value that it came back with; ECHILD when it died. */
static int in_child(int (*fn)(const struct probe *p), const struct probe *p)
{
    int status = 0;
    pid_t pid = fork();
    if (pid < 0) {
        return errno;
    }
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(fn(p) & 0xff);
    }
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
}

static const char *why(int code)
{
    const char *text = strerrordesc_np(code);
    return text != NULL ? text : "it died";
}

static int try_unshare(const struct probe *p)
{
    return unshare(p->flag) == 0 ? 0 : errno;
}

/* A mount namespace of its own, from which nothing comes out. */
static int private_mounts(void)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
        return errno;
    }
    return 0;
}

static int try_tmpfs(const struct probe *p)
{
    (void)p;
    int rc = private_mounts();
    if (rc != 0) {
        return rc;
    }
    return mount("agent", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV,
                 "size=65536,nr_inodes=16,mode=0700") == 0
               ? 0
               : errno;
}

static int try_overlay(const struct probe *p)
{
    static const char *const dirs[] = { "/tmp/l", "/tmp/u", "/tmp/w", "/tmp/m" };
    int rc = private_mounts();
    (void)p;
    if (rc != 0) {
        return rc;
    }
    if (mount("agent", "/tmp", "tmpfs", 0, "size=1048576,mode=0700") != 0) {
        return errno;
    }
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        if (mkdir(dirs[i], 0700) != 0) {
            return errno;
        }
    }
    return mount("agent", "/tmp/m", "overlay", 0,
                 "lowerdir=/tmp/l,upperdir=/tmp/u,workdir=/tmp/w") == 0
               ? 0
               : errno;
}

static int write_map(pid_t pid, const char *file, uint64_t base)
{
    char path[64];
    char text[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
    (void)snprintf(text, sizeof(text), "0 %llu 65536", (unsigned long long)base);
    return sys_write_text(AT_FDCWD, path, text);
}

/* A user namespace with the map of a run. The descriptor or -Exxx. */
static int mapped_userns(uint64_t base)
{
    int ends[2];
    int rc = fd_pipe(ends);
    if (rc != 0) {
        return rc;
    }
    /* The sibling stays in its new namespace until the pipe closes. */
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        char c;
        fd_close(ends[1]);
        (void)sys_read(ends[0], &c, 1);
        _exit(0);
    }
    int fd = pid < 0 ? -errno : -1;
    if (pid > 0) {
        char path[64];
        rc = write_map(pid, "uid_map", base);
        rc = rc == 0 ? write_map(pid, "gid_map", base) : rc;
        (void)snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
        fd = rc == 0 ? open(path, O_RDONLY | O_CLOEXEC) : rc;
        fd = fd == -1 ? -errno : fd;
    }
    fd_close(ends[0]);
    fd_close(ends[1]);
    if (pid > 0) {
        (void)waitpid(pid, NULL, 0);
    }
    return fd;
}

static int try_idmap(const struct probe *p)
{
    int rc = private_mounts();
    if (rc != 0) {
        return rc;
    }
    int userns = mapped_userns(p->uid_base);
    if (userns < 0) {
        return -userns;
    }
    int tree = (int)syscall(SYS_open_tree, AT_FDCWD, p->path,
                            OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_NO_AUTOMOUNT);
    if (tree < 0) {
        return errno;
    }
    struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY,
                               .userns_fd = (unsigned)userns };
    return syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) == 0 ? 0
                                                                                         : errno;
}

static int try_seccomp(const struct probe *p)
{
    static const uint32_t actions[] = { SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ERRNO };
    (void)p;
    for (size_t i = 0; i < ARRAY_LEN(actions); i++) {
        if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &actions[i]) != 0) {
            return errno;
        }
    }
    return 0;
}

/* Opens, waits for and reaps a child by pidfd. */
static int try_pidfd(const struct probe *p)
{
    (void)p;
    pid_t pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    if (pid < 0) {
        return errno;
    }
    int fd = sys_pidfd_open(pid);
    siginfo_t info;
    if (fd < 0) {
        return -fd;
    }
    return waitid(P_PIDFD, (id_t)fd, &info, WEXITED) == 0 ? 0 : errno;
}

static int try_openat2(const struct probe *p)
{
    (void)p;
    struct open_how how = { .flags = O_PATH | O_CLOEXEC,
                            .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
    return syscall(SYS_openat2, AT_FDCWD, ".", &how, sizeof(how)) >= 0 ? 0 : errno;
}

static void note(struct cli_doctor *d, enum cli_check check, int code, const char *good)
{
    if (code == 0) {
        cli_doctor_note(d, check, CLI_OK, "%s", good);
    } else {
        cli_doctor_note(d, check, CLI_BAD, "%s", why(code));
    }
}

static void namespaces(struct cli_doctor *d)
{
    static const struct {
        int flag;
        const char *name;
    } kinds[] = {
        { CLONE_NEWNS, "mount" }, { CLONE_NEWPID, "pid" }, { CLONE_NEWNET, "net" },
        { CLONE_NEWIPC, "ipc" },  { CLONE_NEWUTS, "uts" }, { CLONE_NEWCGROUP, "cgroup" },
    };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        const struct probe p = { .flag = kinds[i].flag };
        int code = in_child(try_unshare, &p);
        if (code != 0) {
            cli_doctor_note(d, CLI_CHECK_NAMESPACES, CLI_BAD, "%s: %s", kinds[i].name, why(code));
            return;
        }
    }
    cli_doctor_note(d, CLI_CHECK_NAMESPACES, CLI_OK, "mount, pid, net, ipc, uts, cgroup");
}

static void user_namespaces(struct cli_doctor *d)
{
    char text[32] = "";
    uint64_t most = 0;
    const struct probe p = { .flag = CLONE_NEWUSER };
    ssize_t n = sys_read_text(AT_FDCWD, "/proc/sys/user/max_user_namespaces", text, sizeof(text));
    if (n < 0 || str_u64(str_of(text), &most) != 0) {
        cli_doctor_note(d, CLI_CHECK_USERNS, CLI_BAD, "not in this kernel");
        return;
    }
    int code = in_child(try_unshare, &p);
    if (code != 0) {
        cli_doctor_note(d, CLI_CHECK_USERNS, CLI_BAD, "%s (at most %llu)", why(code),
                        (unsigned long long)most);
    } else {
        cli_doctor_note(d, CLI_CHECK_USERNS, most < 64 ? CLI_WARN : CLI_OK, "at most %llu",
                        (unsigned long long)most);
    }
}

void cli_doctor_kernel(struct cli_doctor *d, const char *path, uint64_t uid_base)
{
    const struct probe p = { .path = path, .uid_base = uid_base };
    struct utsname u;
    bool root = geteuid() == 0;
    if (uname(&u) == 0) {
        cli_doctor_note(d, CLI_CHECK_KERNEL,
                        cli_doctor_kernel_ok(str_of(u.release)) ? CLI_OK : CLI_BAD, "%s %s",
                        u.release, u.machine);
    }
    user_namespaces(d);
    note(d, CLI_CHECK_SECCOMP, in_child(try_seccomp, &p), "filters, kill and errno");
    note(d, CLI_CHECK_PIDFD, in_child(try_pidfd, &p), "open, wait");
    note(d, CLI_CHECK_OPENAT2, in_child(try_openat2, &p), "beneath, without magic links");
    if (!root) {
        static const enum cli_check skipped[] = { CLI_CHECK_NAMESPACES, CLI_CHECK_IDMAP,
                                                  CLI_CHECK_OVERLAY, CLI_CHECK_TMPFS };
        for (size_t i = 0; i < ARRAY_LEN(skipped); i++) {
            cli_doctor_note(d, skipped[i], CLI_SKIPPED, "needs root to try");
        }
        return;
    }
    namespaces(d);
    note(d, CLI_CHECK_TMPFS, in_child(try_tmpfs, &p), "with size and inode limits");
    note(d, CLI_CHECK_OVERLAY, in_child(try_overlay, &p), "mounted one");
    int code = in_child(try_idmap, &p);
    if (code == 0) {
        cli_doctor_note(d, CLI_CHECK_IDMAP, CLI_OK, "on the file system of %s", path);
    } else {
        cli_doctor_note(d, CLI_CHECK_IDMAP, CLI_BAD, "on the file system of %s: %s", path,
                        why(code));
    }
}
