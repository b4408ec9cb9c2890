#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/node/uv_node_internal.h"
#include "common/mem.h"
#include "common/sys/sys.h"

static int write_new(int spool_fd, const char *name, const void *data, size_t n)
{
    AUTO_FD int fd =
        openat(spool_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0) {
        return -errno;
    }
    int rc = sys_write_full(fd, data, n);
    if (rc == 0 && fdatasync(fd) != 0) {
        rc = -errno;
    }
    return rc;
}

int node_file_new(int dirfd, const char *name)
{
    (void)unlinkat(dirfd, name, 0);
    int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0444);

    /* Jobs read their payload as other users; the directory lets only the agent in. */
    return fd < 0 || fchmod(fd, 0444) != 0 ? -errno : fd;
}

int node_file_write(int dirfd, const char *name, const void *data, size_t n)
{
    AUTO_FD int fd = node_file_new(dirfd, name);

    return fd < 0 ? fd : sys_write_full(fd, data, n);
}

static int sync_file(int spool_fd, const char *name)
{
    AUTO_FD int fd = openat(spool_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0) {
        return -errno;
    }
    return fdatasync(fd) != 0 ? -errno : 0;
}

int node_spool_keep(int spool_fd, const char *name, const void *data, size_t n, const char *run_id)
{
    char temporary[64];
    int rc;

    if (data != NULL) {
        (void)snprintf(temporary, sizeof temporary, "new-%s", run_id);
        name = temporary;
        rc = write_new(spool_fd, name, data, n);
    } else {
        rc = sync_file(spool_fd, name);
    }
    if (rc == 0 && renameat(spool_fd, name, spool_fd, run_id) != 0) {
        rc = -errno;
    }
    if (rc == 0) {
        rc = sys_fsync_dir(spool_fd);
    }
    if (rc != 0) {
        node_spool_remove(spool_fd, name);
    }
    return rc;
}

void node_spool_remove(int spool_fd, const char *name)
{
    (void)unlinkat(spool_fd, name, 0);
}

void node_spool_sweep(int spool_fd)
{
    int fd = openat(spool_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    struct ulid id;

    if (dir == NULL) {
        fd_close(fd);
        return;
    }
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.' && ulid_parse(str_of(entry->d_name), &id) != 0) {
            node_spool_remove(spool_fd, entry->d_name);
        }
    }
    closedir(dir);
}

void node_samples_write(int samples_fd, const char *name, const void *data, size_t n)
{
    AUTO_FD int fd =
        openat(samples_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0 || sys_write_full(fd, data, n) != 0) {
        node_spool_remove(samples_fd, name);
    }
}

/* ---- what an attempt on a peer left ---- */

static int output_dir(int outputs_fd, const char *dir_name)
{
    if (mkdirat(outputs_fd, dir_name, 0700) != 0 && errno != EEXIST) {
        return -errno;
    }
    int fd = openat(outputs_fd, dir_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

/* Its reader wants stdout and stderr to be there, if only empty. */
static int output_touch(int dir, const char *name)
{
    AUTO_FD int fd = openat(dir, name, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0444);

    return fd < 0 ? -errno : 0;
}

int node_output_write(int outputs_fd, const char *dir_name,
                      const struct node_bytes files[NODE_FILES])
{
    bool any = false;

    for (size_t i = 0; i < NODE_FILES; i++) {
        any = any || files[i].p != NULL;
    }
    if (!any) {
        return 0;
    }
    AUTO_FD int dir = output_dir(outputs_fd, dir_name);
    if (dir < 0) {
        return dir;
    }
    for (size_t i = 0; i < NODE_FILES; i++) {
        if (files[i].p == NULL) {
            continue;
        }
        int rc = node_file_write(dir, node_file_names[i], files[i].p, files[i].n);
        rc = rc == 0 ? sync_file(dir, node_file_names[i]) : rc;
        if (rc != 0) {
            return rc;
        }
    }
    for (size_t i = 0; i < NODE_FILES; i++) {
        int rc = output_touch(dir, node_file_names[i]);
        if (rc != 0) {
            return rc;
        }
    }
    int rc = sys_fsync_dir(dir);
    return rc == 0 ? sys_fsync_dir(outputs_fd) : rc;
}

int node_output_copy(int outputs_fd, const char *dir_name, const struct str files[NODE_FILES])
{
    AUTO_FD int dir = output_dir(outputs_fd, dir_name);
    int rc = dir < 0 ? dir : 0;

    for (size_t i = 0; rc == 0 && i < NODE_FILES; i++) {
        rc = files[i].p == NULL ? output_touch(dir, node_file_names[i])
                                : node_file_write(dir, node_file_names[i], files[i].p, files[i].n);
    }
    return rc;
}

int node_output_move(int outputs_fd, const char *dir_name, const char *file, int spool_fd,
                     const char *name)
{
    AUTO_FD int dir = output_dir(outputs_fd, dir_name);

    if (dir < 0) {
        return dir;
    }
    return renameat(spool_fd, name, dir, file) != 0 ? -errno : 0;
}

int node_output_file(int dirfd, const char *dir_name, const char *file, uint64_t *ret_bytes)
{
    char path[128];
    struct stat st;

    (void)snprintf(path, sizeof(path), "%s/%s", dir_name, file);
    AUTO_FD int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        return -errno;
    }
    if (!S_ISREG(st.st_mode)) {
        return -EINVAL;
    }
    *ret_bytes = (uint64_t)st.st_size;
    return fd_take(&fd);
}

static int gather_one(int runs_fd, const char *dir_name, size_t i, uint64_t *left,
                      struct node_bytes *ret, bool *ret_sent)
{
    uint64_t bytes = 0;
    AUTO_FD int fd = node_output_file(runs_fd, dir_name, node_file_names[i], &bytes);

    if (fd == -ENOENT || (fd >= 0 && bytes == 0)) {
        *ret_sent = true;
        return 0;
    }
    if (fd < 0) {
        return fd;
    }
    *ret_sent = bytes <= *left;
    if (!*ret_sent) {
        return 0;
    }
    *left -= bytes;
    ret->p = mem_alloc((size_t)bytes);
    if (ret->p == NULL) {
        return -ENOMEM;
    }
    ssize_t got = sys_pread_full(fd, ret->p, (size_t)bytes, 0);
    ret->n = got < 0 ? 0 : (size_t)got;
    return got < 0 ? (int)got : 0;
}

int node_output_gather(int runs_fd, const char *dir_name, struct node_bytes files[NODE_FILES],
                       bool sent[NODE_FILES])
{
    uint64_t left = NODE_MSG_FILES_MAX;
    uint64_t written = 0;
    int rc = 0;

    for (size_t i = 0; i < 2; i++) { /* stdout, stderr */
        uint64_t bytes = 0;
        AUTO_FD int fd = node_output_file(runs_fd, dir_name, node_file_names[i], &bytes);
        written += fd >= 0 ? bytes : 0;
    }
    for (size_t i = 0; i < NODE_FILES; i++) {
        files[i].p = mem_free(files[i].p);
        files[i].n = 0;
        sent[i] = true;
    }
    /* From the last on: the small ones first. */
    for (size_t i = NODE_FILES; written != 0 && rc == 0 && i-- > 0;) {
        rc = gather_one(runs_fd, dir_name, i, &left, &files[i], &sent[i]);
    }
    return rc;
}

int node_notes_each(int dirfd, void (*fn)(void *arg, const char *name, struct str text), void *arg)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;

    if (dir == NULL) {
        int rc = -errno;
        fd_close(fd);
        return rc;
    }
    while ((entry = readdir(dir)) != NULL) {
        AUTO_BUF struct buf text = BUF_INIT(2 * NODE_MSG_MAX);
        if (entry->d_name[0] != '.' &&
            sys_read_file(dirfd, entry->d_name, NODE_MSG_MAX, &text, NULL) == 0) {
            fn(arg, entry->d_name, buf_str(&text));
        }
    }
    closedir(dir);
    return 0;
}
