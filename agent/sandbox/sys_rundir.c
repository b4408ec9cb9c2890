/* A run's directory: made by the launcher, read by the agent, written by init through descriptors.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/sandbox/sys_launcher.h"
#include "common/insist.h"

static const struct {
    const char *name;
    enum spawn_fd fd;
} files[] = {
    { "stdout", SPAWN_FD_STDOUT }, { "stderr", SPAWN_FD_STDERR }, { "stderr.tail", SPAWN_FD_TAIL },
    { "index", SPAWN_FD_INDEX },   { "exit", SPAWN_FD_EXIT },
};

/* A file that the agent may read: root:agent 0640. The directory hands its group down. */
static int make_file(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    return fd < 0 ? -errno : fd;
}

int sandbox_rundir_payload_open(struct launcher *l, struct ulid run, uint64_t *ret_bytes,
                                struct err *e)
{
    struct stat st;
    char id[ULID_TEXT_CAP];
    ulid_format(run, id);
    AUTO_FD int fd =
        sys_open_beneath(l->spool, id, O_RDONLY | O_NONBLOCK, 0, SYS_NO_SYMLINKS | SYS_NO_XDEV);
    if (fd < 0 || fstat(fd, &st) < 0) {
        return err_set(e, fd < 0 ? fd : -errno, "open the payload 'spool/%s'", id);
    }
    /* Earlier attempts hold links of their own. Somebody else's file it cannot be: the owner. */
    if (!S_ISREG(st.st_mode) || st.st_uid != l->agent_uid) {
        return err_say(e, -EINVAL, "the payload 'spool/%s' is not a plain file of the agent's", id);
    }
    *ret_bytes = (uint64_t)st.st_size;
    return fd_take(&fd);
}

int sandbox_rundir_payload_link(struct launcher *l, int dir, struct ulid run, int payload,
                                struct err *e)
{
    char id[ULID_TEXT_CAP];
    ulid_format(run, id);
    if (fchmod(payload, 0444) < 0 || mkdirat(dir, "in", 0755) < 0 ||
        mkdirat(dir, "in/run", 0755) < 0 || mkdirat(dir, "in/run/agent", 0755) < 0 ||
        linkat(l->spool, id, dir, "in/run/agent/payload", 0) < 0) {
        return err_set(e, -errno, "link the payload 'spool/%s'", id);
    }
    return 0;
}

/* ---- spare directories: made ahead, so that a run begins with one rename ---- */

static void spare_name(unsigned long number, char dst[SANDBOX_DIR_CAP])
{
    snprintf(dst, SANDBOX_DIR_CAP, "%s%d-%lu", SANDBOX_SPARE, (int)getpid(), number);
}

void sandbox_rundir_spare_close(struct spare *s)
{
    s->dir = fd_close(s->dir);
    for (size_t i = 0; i < SPAWN_FDS_MAX; i++) {
        s->fds[i] = fd_close(s->fds[i]);
    }
}

void sandbox_rundir_spare_drop(struct launcher *l, struct spare *s)
{
    char name[SANDBOX_DIR_CAP];
    spare_name(s->number, name);
    sandbox_rundir_spare_close(s);
    (void)sys_remove_tree(l->runs, name, NULL);
}

static int spare_fill(struct launcher *l, struct spare *s, struct err *e)
{
    char name[SANDBOX_DIR_CAP];
    spare_name(s->number, name);
    if (mkdirat(l->runs, name, 0750) < 0) {
        return err_set(e, -errno, "make a run's directory");
    }
    s->dir = openat(l->runs, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (s->dir < 0) {
        return err_set(e, -errno, "open a run's directory");
    }
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        int fd = make_file(s->dir, files[i].name);
        if (fd < 0) {
            return err_set(e, fd, "make a run's file '%s'", files[i].name);
        }
        s->fds[files[i].fd] = fd;
    }
    AUTO_FD int usage = make_file(s->dir, "usage");
    AUTO_FD int state =
        openat(s->dir, "sandbox", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return usage < 0 || state < 0 ? err_set(e, usage < 0 ? usage : -errno, "make a run's file") : 0;
}

static void spare_init(struct launcher *l, struct spare *s)
{
    *s = (struct spare){ .number = l->spare_number++, .dir = -1 };
    for (size_t i = 0; i < SPAWN_FDS_MAX; i++) {
        s->fds[i] = -1;
    }
}

static int spare_make(struct launcher *l, struct spare *s, struct err *e)
{
    spare_init(l, s);
    int rc = spare_fill(l, s, e);
    if (rc < 0) {
        sandbox_rundir_spare_drop(l, s);
    }
    return rc;
}

bool sandbox_rundir_refill(struct launcher *l)
{
    struct err e = { 0 };
    if (l->spares_len >= SPARES_MAX / 2 || spare_make(l, &l->spares[l->spares_len], &e) < 0) {
        return false; /* failed: the run that needs one says why */
    }
    l->spares_len++;
    return true;
}

void sandbox_rundir_drop_spares(struct launcher *l)
{
    while (l->spares_len > 0) {
        sandbox_rundir_spare_drop(l, &l->spares[--l->spares_len]);
    }
}

/* The file as it was when it was made, open; -EBUSY: somebody else has it open, who would see
 * another run's bytes in it. A write lease is given to the only one (fcntl(2)); nobody can open the
 * file by name meanwhile. Records are overwritten, not cut: blocks that are given back cost a
 * request to the disk where it is mounted with "discard". */
static int file_reuse(int dir, const char *name, bool record)
{
    static const uint8_t nothing[4096];
    struct stat st;
    AUTO_FD int fd = openat(dir, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        return fd < 0 ? -errno : -EIO;
    }
    if (!S_ISREG(st.st_mode) || st.st_nlink != 1 || fcntl(fd, F_SETLEASE, F_WRLCK) < 0) {
        return -EBUSY;
    }
    (void)fcntl(fd, F_SETLEASE, F_UNLCK);
    int rc = 0;
    if (record && st.st_size <= (off_t)sizeof(nothing)) {
        rc = sys_pwrite_full(fd, nothing, (size_t)st.st_size, 0);
    } else if (st.st_size > 0 && ftruncate(fd, 0) < 0) {
        rc = -errno;
    }
    return rc < 0 ? rc : fd_take(&fd);
}

static int spare_reuse(struct spare *s)
{
    static const char *const records[] = { "usage", "sandbox" };
    for (size_t i = 0; i < ARRAY_LEN(records); i++) {
        AUTO_FD int fd = file_reuse(s->dir, records[i], true);
        if (fd < 0) {
            return fd;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        int fd = file_reuse(s->dir, files[i].name, files[i].fd == SPAWN_FD_EXIT);
        if (fd < 0) {
            return fd;
        }
        s->fds[files[i].fd] = fd;
    }
    return 0;
}

bool sandbox_rundir_recycle(struct launcher *l, const char *name, int dir)
{
    char spare[SANDBOX_DIR_CAP];
    struct spare *s = &l->spares[l->spares_len];
    if (l->spares_len >= SPARES_MAX || faccessat(dir, "in", F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        return false;
    }
    spare_init(l, s);
    spare_name(s->number, spare);
    s->dir = fd_dup(dir, 3);
    if (s->dir < 0 || renameat2(l->runs, name, l->runs, spare, RENAME_NOREPLACE) < 0) {
        s->dir = fd_close(s->dir);
        return false;
    }
    if (spare_reuse(s) < 0) {
        sandbox_rundir_spare_drop(l, s);
    } else {
        l->spares_len++;
    }
    return true;
}

int sandbox_rundir_spare_take(struct launcher *l, struct spare *ret, struct err *e)
{
    if (l->spares_len > 0) {
        *ret = l->spares[--l->spares_len];
        return 0;
    }
    return spare_make(l, ret, e);
}

int sandbox_rundir_name(struct launcher *l, const struct spare *s, struct ulid run,
                        uint32_t attempt, struct err *e)
{
    char name[SANDBOX_DIR_CAP];
    char from[SANDBOX_DIR_CAP];
    sandbox_dir_name(run, attempt, name);
    spare_name(s->number, from);
    if (renameat2(l->runs, from, l->runs, name, RENAME_NOREPLACE) < 0) {
        return err_set(e, -errno, "make the run's directory '%s'", name);
    }
    return 0;
}

void sandbox_rundir_undo(struct launcher *l, struct ulid run, uint32_t attempt)
{
    char name[SANDBOX_DIR_CAP];
    sandbox_dir_name(run, attempt, name);
    (void)sys_remove_tree(l->runs, name, NULL);
}

int sandbox_rundir_state_write(int dir, const struct sandbox_state *s)
{
    uint8_t bytes[STATE_MAX];
    size_t n = sandbox_state_encode(s, bytes);
    AUTO_FD int fd = openat(dir, "sandbox", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : sys_pwrite_full(fd, bytes, n, 0);
}

static ssize_t read_whole(int dir, const char *name, void *dst, size_t cap)
{
    AUTO_FD int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : sys_pread_full(fd, dst, cap, 0);
}

int sandbox_rundir_state_read(int dir, struct sandbox_state *ret)
{
    uint8_t bytes[STATE_MAX];
    ssize_t n = read_whole(dir, "sandbox", bytes, sizeof(bytes));
    return n < 0 ? (int)n : sandbox_state_decode(bytes, (size_t)n, ret);
}

int sandbox_rundir_record_read(int dir, struct sandbox_result *ret)
{
    uint8_t bytes[SANDBOX_RECORD_SIZE] = { 0 };
    ssize_t n = read_whole(dir, "exit", bytes, sizeof(bytes));
    if (n >= 0 && bytes[0] == 0) { /* empty, or in a directory used again: zeros */
        return -ENOENT;
    }
    return n < 0 ? (int)n : sandbox_record_decode(bytes, (size_t)n, ret);
}

int sandbox_rundir_record_write(int dir, const struct sandbox_result *r)
{
    uint8_t bytes[SANDBOX_RECORD_SIZE];
    sandbox_record_encode(r, bytes);
    AUTO_FD int fd = openat(dir, "exit", O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    int rc = fd < 0 ? -errno : sys_pwrite_full(fd, bytes, sizeof(bytes), 0);
    return rc < 0 ? rc : (fdatasync(fd) < 0 ? -errno : 0);
}

int sandbox_rundir_usage_write(int dir, const struct sandbox_usage *u)
{
    uint8_t bytes[USAGE_SIZE];
    sandbox_usage_encode(u, bytes);
    AUTO_FD int fd = openat(dir, "usage", O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        fd = make_file(dir, "usage");
    }
    return fd < 0 ? -EIO : sys_pwrite_full(fd, bytes, sizeof(bytes), 0);
}

int sandbox_rundir_usage_read(int dir, struct sandbox_usage *ret)
{
    uint8_t bytes[USAGE_SIZE];
    ssize_t n = read_whole(dir, "usage", bytes, sizeof(bytes));
    return n < 0 ? (int)n : sandbox_usage_decode(bytes, (size_t)n, ret);
}
