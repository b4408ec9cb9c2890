#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "agent/node/uv_node_internal.h"
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
