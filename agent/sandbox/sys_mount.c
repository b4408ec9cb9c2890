/*
 * Mounts: a slot's prepared ones, and the plan's steps. Paths are relative to the set-up
 * namespace's root, a tmpfs of our own that holds nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent/sandbox/sys_sandbox.h"
#include "common/insist.h"

static int mount_at(const char *type, const char *path, unsigned long flags, const char *options,
                    struct err *e)
{
    if (mount(type, path, type, flags, options) < 0) {
        return err_set(e, -errno, "mount %s at '%s'", type, path);
    }
    return 0;
}

/* The mount at `from` on top of `to`, with the flags that it has. */
static int mount_bind(const char *from, const char *to)
{
    return mount(from, to, NULL, MS_BIND, NULL) < 0 ? -errno : 0;
}

static int mount_remount(const char *path, uint64_t attr)
{
    struct mount_attr a = { .attr_set = attr };
    return mount_setattr(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, &a, sizeof(a)) < 0 ? -errno : 0;
}

/* What is at path reads as empty: /dev/null over a file, an empty directory over one. Both are of
 * read-only mounts, and a bind keeps that. */
static int mount_mask(const char *path, const char *null, const char *empty, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) < 0) {
        return errno == ENOENT ? 0 : err_set(e, -errno, "look at '%s'", path);
    }
    if (S_ISLNK(st.st_mode)) {
        return 0; /* its target is masked under its own name */
    }
    int rc = mount_bind(S_ISDIR(st.st_mode) ? empty : null, path);
    return rc < 0 ? err_set(e, rc, "mask '%s'", path) : 0;
}

static int mount_readonly(const char *path, struct err *e)
{
    if (access(path, F_OK) < 0) {
        return errno == ENOENT ? 0 : err_set(e, -errno, "look at '%s'", path);
    }
    int rc = mount_bind(path, path);
    if (rc == 0) {
        rc = mount_remount(path, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                                     MOUNT_ATTR_NOEXEC);
    }
    return rc < 0 ? err_set(e, rc, "make '%s' read-only", path) : 0;
}

/* ---- a slot's prepared mounts ---- */

static int make_device(const char *path, unsigned major_number, unsigned minor_number,
                       struct err *e)
{
    dev_t dev = makedev(major_number, minor_number);
    struct stat st;
    if (mknod(path, S_IFCHR | 0666, dev) < 0 || chmod(path, 0666) < 0) {
        return err_set(e, -errno, "make device '%s'", path);
    }
    AUTO_FD int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0) {
        return err_set(e, -errno, "open device '%s'", path);
    }
    return S_ISCHR(st.st_mode) && st.st_rdev == dev ? 0 : err_say(e, -EINVAL, "'%s' is odd", path);
}

/* Ours from the start: no image has a say in what /dev/null is. Read-only when it is done, so that
 * the runs of a slot can share it. */
static int prepare_dev(struct err *e)
{
    static const struct {
        const char *path;
        unsigned minor_number;
    } devices[] = {
        { "dev/null", 3 },   { "dev/zero", 5 },    { "dev/full", 7 },
        { "dev/random", 8 }, { "dev/urandom", 9 },
    };
    static const char *const links[][2] = {
        { "/proc/self/fd", "dev/fd" },       { "/proc/self/fd/0", "dev/stdin" },
        { "/proc/self/fd/1", "dev/stdout" }, { "/proc/self/fd/2", "dev/stderr" },
        { "pts/ptmx", "dev/ptmx" },
    };
    int rc = mount_at("tmpfs", "dev", MS_NOSUID | MS_NOEXEC, "size=64k,nr_inodes=64,mode=755", e);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(devices); i++) {
        rc = make_device(devices[i].path, 1, devices[i].minor_number, e);
    }
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(links); i++) {
        rc = symlink(links[i][0], links[i][1]) < 0 ? err_set(e, -errno, "link '%s'", links[i][1])
                                                   : 0;
    }
    if (rc == 0 && (mkdir("dev/pts", 0755) < 0 || mkdir("dev/shm", 0755) < 0)) {
        rc = err_set(e, -errno, "make directories of /dev");
    }
    if (rc == 0 && (rc = mount_remount("dev", MOUNT_ATTR_RDONLY)) < 0) {
        err_set(e, rc, "make /dev read-only");
    }
    return rc;
}

/* Which devices are hot: a side channel between jobs. */
static int mask_thermal(struct err *e)
{
    int rc = 0;
    for (unsigned cpu = 0; rc == 0 && cpu < 4096; cpu++) {
        char path[96];
        snprintf(path, sizeof(path), "sys/devices/system/cpu/cpu%u", cpu);
        if (access(path, F_OK) < 0) {
            break;
        }
        snprintf(path, sizeof(path), "sys/devices/system/cpu/cpu%u/thermal_throttle", cpu);
        rc = mount_mask(path, "dev/null", "m", e);
    }
    return rc;
}

static int prepare_sys(struct err *e)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY;
    int rc = mount_at("tmpfs", "m", flags, "size=4k,nr_inodes=2,mode=755", e);
    if (rc == 0) {
        rc = mount_at("sysfs", "sys", flags, NULL, e);
    }
    for (size_t i = 0; rc == 0 && sandbox_masked_sys[i] != NULL; i++) {
        char path[96];
        snprintf(path, sizeof(path), "sys/%s", sandbox_masked_sys[i]);
        rc = mount_mask(path, "dev/null", "m", e);
    }
    return rc == 0 ? mask_thermal(e) : rc;
}

int sandbox_mount_prepare_slot(const struct slot_box *box, struct err *e)
{
    static const char *const not_ours[] = { "proc", "exe" };
    static const char *const dirs[] = { "l", "u", "r", "dev", "sys", "m" };
    if (unshare(CLONE_NEWNS) < 0) {
        return err_set(e, -errno, "make a mount namespace");
    }
    for (size_t i = 0; i < ARRAY_LEN(not_ours); i++) {
        (void)umount2(not_ours[i], MNT_DETACH | UMOUNT_NOFOLLOW);
    }
    /* A root of the slot's own: the launcher's is shared with it otherwise. */
    int rc = mount_at("tmpfs", "slot", MS_NOSUID | MS_NODEV, "size=64k,nr_inodes=512,mode=755", e);
    if (rc < 0) {
        return rc;
    }
    static const char *const moved[] = { "layers", "runs" };
    for (size_t i = 0; i < ARRAY_LEN(moved); i++) {
        char to[32];
        snprintf(to, sizeof(to), "slot/%s", moved[i]);
        if (mkdir(to, 0755) < 0 || mount(moved[i], to, NULL, MS_MOVE, NULL) < 0) {
            return err_set(e, -errno, "move '%s'", moved[i]);
        }
    }
    if (chdir("slot") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
        chdir("/") < 0) {
        return err_set(e, -errno, "enter the slot's root");
    }
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        if (mkdir(dirs[i], 0755) < 0) {
            return err_set(e, -errno, "make '%s'", dirs[i]);
        }
    }
    if (setns(box->netns, CLONE_NEWNET) < 0) {
        return err_set(e, -errno, "enter the slot's network namespace");
    }
    rc = prepare_dev(e);
    return rc == 0 ? prepare_sys(e) : rc;
}

int sandbox_mount_attach_layer(const struct slot_box *box, const char *hex, unsigned n,
                               struct err *e)
{
    char from[160];
    char to[32];
    struct mount_attr a = {
        .attr_set =
            (uint64_t)(MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID),

        .userns_fd = (unsigned)box->idmap,
    };
    snprintf(from, sizeof(from), "layers/%s", hex);
    snprintf(to, sizeof(to), "l/%u", n);
    AUTO_FD int fd =
        open_tree(AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
    if (fd < 0) {
        return err_set(e, errno == ENOENT ? -ESTALE : -errno, "clone layer '%.12s'", hex);
    }
    if (mount_setattr(fd, "", AT_EMPTY_PATH, &a, sizeof(a)) < 0) {
        return err_set(e, -errno,
                       "map the ids of layer '%.12s' (does data_dir's file system allow "
                       "id-mapped mounts?)",
                       hex);
    }
    if (mkdir(to, 0755) < 0 && errno != EEXIST) {
        return err_set(e, -errno, "make '%s'", to);
    }
    if (move_mount(fd, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH) < 0) {
        return err_set(e, -errno, "attach layer '%.12s'", hex);
    }
    return 0;
}

int sandbox_mount_detach_layer(unsigned n)
{
    char path[32];
    snprintf(path, sizeof(path), "l/%u", n);
    return umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
}

/* ---- the plan's steps ---- */

static int step_tmpfs(const struct slot_box *box, const struct plan_step *s, struct err *e)
{
    char options[160];
    snprintf(options, sizeof(options), "size=%llu,nr_inodes=%llu,mode=%o,uid=%u,gid=%u",
             (unsigned long long)s->size, (unsigned long long)s->inodes, s->mode, box->root_id,
             box->root_id);
    return mount_at("tmpfs", s->path, MS_NOSUID | MS_NODEV, options, e);
}

/* Never written to swap, where the kernel (6.4) knows how to say so. */
static int step_secrets(const struct slot_box *box, const struct plan_step *s, struct err *e)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    char options[160];
    int n = snprintf(options, sizeof(options), "size=%llu,nr_inodes=%llu,mode=%o,uid=%u,gid=%u",
                     (unsigned long long)s->size, (unsigned long long)s->inodes, s->mode,
                     box->root_id, box->root_id);
    snprintf(options + n, sizeof(options) - (size_t)n, ",noswap");
    if (mount("tmpfs", s->path, "tmpfs", flags, options) == 0) {
        return 0;
    }
    options[n] = '\0';
    return mount_at("tmpfs", s->path, flags, options, e);
}

static int step_devpts(const struct slot_box *box, const struct plan_step *s, struct err *e)
{
    char options[96];
    snprintf(options, sizeof(options), "newinstance,ptmxmode=0666,mode=0620,gid=%u,max=%llu",
             box->root_id + 5, (unsigned long long)s->size);
    return mount_at("devpts", s->path, MS_NOSUID | MS_NOEXEC, options, e);
}

static int step_dir(const struct plan_step *s, struct err *e)
{
    if (mkdir(s->path, s->mode) < 0) {
        return err_set(e, -errno, "make directory '%s'", s->path);
    }
    return 0;
}

static int step_file(const struct plan_step *s, struct err *e)
{
    AUTO_FD int fd = open(s->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, s->mode);
    if (fd < 0) {
        return err_set(e, -errno, "make file '%s'", s->path);
    }
    int rc = sys_write_full(fd, s->text, strlen(s->text));
    return rc < 0 ? err_set(e, rc, "write '%s'", s->path) : 0;
}

static int step_link(const struct plan_step *s, struct err *e)
{
    if (symlink(s->text, s->path) < 0) {
        return err_set(e, -errno, "link '%s'", s->path);
    }
    return 0;
}

static int step_root(const struct plan_step *s, struct err *e)
{
    if (chdir(s->path) < 0 || chroot(".") < 0) {
        return err_set(e, -errno, "enter the sandbox's root");
    }
    return 0;
}

static int step_apply(const struct slot_box *box, const struct plan_step *s, struct err *e)
{
    switch (s->op) {
    case PLAN_TMPFS:
        return step_tmpfs(box, s, e);
    case PLAN_SECRETS:
        return step_secrets(box, s, e);
    case PLAN_DIR:
        return step_dir(s, e);
    case PLAN_FILE:
        return step_file(s, e);
    case PLAN_LINK:
        return step_link(s, e);
    case PLAN_OVERLAY:
        return mount_at("overlay", s->path, MS_NOSUID | MS_NODEV, s->text, e);
    case PLAN_MOVE:
        return mount(s->text, s->path, NULL, MS_MOVE, NULL) < 0
                   ? err_set(e, -errno, "move '%s' to '%s'", s->text, s->path)
                   : 0;
    case PLAN_DEVPTS:
        return step_devpts(box, s, e);
    case PLAN_PROC:
        return mount_at("proc", s->path, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, e);
    case PLAN_MASK:
        return mount_mask(s->path, "r/dev/null", "m", e);
    case PLAN_READONLY:
        return mount_readonly(s->path, e);
    case PLAN_HOSTNAME:
        return sethostname(s->text, strlen(s->text)) < 0 ? err_set(e, -errno, "set the host name")
                                                         : 0;
    case PLAN_ROOT:
        return step_root(s, e);
    default:
        return err_say(e, -EINVAL, "unknown step");
    }
}

/* Files are made by the sandbox's root, in a tmpfs that is its own: owner and mode are right at
 * once, instead of by two more calls for each. Mounts and the rest need the true root. */
static bool step_makes_file(const struct plan_step *s)
{
    return s->op == PLAN_DIR || s->op == PLAN_FILE || s->op == PLAN_LINK;
}

static int become_maker(uint32_t id, struct err *e)
{
    (void)setfsgid(id);
    (void)setfsuid(id);
    if ((uint32_t)setfsuid((uid_t)-1) != id || (uint32_t)setfsgid((gid_t)-1) != id) {
        return err_say(e, -EPERM, "cannot make files as %u", id);
    }
    return 0;
}

int sandbox_mount_apply(const struct slot_box *box, const struct sandbox_plan *plan, struct err *e)
{
    bool making = false;
    mode_t mask = umask(0);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < plan->len; i++) {
        const struct plan_step *s = &plan->steps[i];
        if (step_makes_file(s) != making) {
            making = !making;
            rc = become_maker(making ? box->root_id : 0, e);
        }
        if (rc == 0) {
            rc = step_apply(box, s, e);
        }
    }
    (void)umask(mask);
    return rc;
}
