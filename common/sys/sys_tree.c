/*
 * sys_remove_tree(): depth first, without recursion and with a handful of descriptors at any depth.
 *
 * Only the directory that is being emptied is open. A stack remembers the device and inode of those
 * above; going up opens ".." and checks that it is the one that the stack says, so that somebody
 * who moves a directory out while we are in it cannot lead us to a place above. A directory is
 * emptied before its next subdirectory is entered, so entries need no memory, either.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys_fd.h"
#include "common/sys/sys_file.h"

enum {
    TREE_DEPTH_MAX =
        65536, /* names of one byte in the deepest tree that PATH_MAX-free calls can make */
    TREE_ROUNDS_MAX = 1000, /* somebody fills the directory as fast as we empty it */
};

struct level {
    dev_t dev;
    ino_t ino;
    char name[NAME_MAX + 1]; /* in the directory above */
};

struct tree {
    struct level *levels;
    size_t depth;
    size_t cap;
    dev_t dev; /* of the top: everything else is another mount */
    int fd;    /* the innermost directory */
};

static int tree_push(struct tree *t, int fd, const char *name)
{
    struct stat st;
    if (fstat(fd, &st) < 0) {
        return -errno;
    }
    if (t->depth == 0) {
        t->dev = st.st_dev;
    } else if (st.st_dev != t->dev) {
        return -EXDEV;
    }
    if (t->depth == TREE_DEPTH_MAX) {
        return -ELOOP;
    }
    if (t->depth == t->cap) {
        size_t cap = t->cap != 0 ? t->cap * 2 : 16;
        struct level *levels = mem_realloc(t->levels, cap * sizeof *levels);
        if (levels == NULL) {
            return -ENOMEM;
        }
        t->levels = levels;
        t->cap = cap;
    }
    struct level *l = &t->levels[t->depth];
    l->dev = st.st_dev;
    l->ino = st.st_ino;
    int r = str_copy(l->name, sizeof l->name, str_of(name));
    if (r != 0) {
        return r;
    }
    t->depth++;
    fd_close(t->fd);
    t->fd = fd;
    return 0;
}

/* One step down never crosses a mount, not even a bind mount of the same file system. */
static int open_step(int dirfd, const char *name, bool down)
{
    if (!down) {
        return sys_open_dir(dirfd, name, false);
    }
    return sys_open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0,
                            SYS_NO_XDEV | SYS_NO_SYMLINKS);
}

/* Opens a directory for emptying, making it accessible first if needed. */
static int open_to_empty(int dirfd, const char *name, bool down)
{
    int fd = open_step(dirfd, name, down);
    if (fd != -EACCES) {
        return fd;
    }
    /* No fchmodat() without following links before 6.6: through the descriptor's /proc name
     * instead. */
    AUTO_FD int path = sys_open_dir(dirfd, name, true);
    if (path < 0) {
        return path;
    }
    char link[32];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", path);
    if (chmod(link, 0700) < 0) {
        return -errno;
    }
    return open_step(dirfd, name, down);
}

/* Removes a name that is not a directory. 1: it is a directory. */
static int remove_file(int dirfd, const char *name)
{
    if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT) {
        return 0;
    }
    int r = -errno;
    if (r == -EISDIR || r == -EPERM || r == -EACCES) {
        struct stat st;
        if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
            return errno == ENOENT ? 0 : -errno;
        }
        if (S_ISDIR(st.st_mode)) {
            return 1;
        }
    }
    return r;
}

/* Writing to a directory may be forbidden while reading it is not. */
static int remove_file_hard(int dirfd, const char *name)
{
    int r = remove_file(dirfd, name);
    if (r == -EACCES && fchmod(dirfd, 0700) == 0) {
        r = remove_file(dirfd, name);
    }
    return r;
}

/* Removes all files of the innermost directory. *ret_sub is the name of a subdirectory that is
 * left, or "". */
static int empty_files(const struct tree *t, char ret_sub[NAME_MAX + 1])
{
    int copy = openat(t->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (copy < 0) {
        return -errno;
    }
    DIR *dir = fdopendir(copy);
    if (dir == NULL) {
        int r = -errno;
        fd_close(copy);
        return r;
    }
    ret_sub[0] = '\0';
    int r = 0;
    while (r == 0) {
        errno = 0;
        const struct dirent *d = readdir(dir);
        if (d == NULL) {
            r = -errno;
            break;
        }
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0) {
            continue;
        }
        r = d->d_type == DT_DIR ? 1 : remove_file_hard(t->fd, d->d_name);
        if (r == 1) {
            r = str_copy(ret_sub, NAME_MAX + 1, str_of(d->d_name));
            if (r == 0 && unlinkat(t->fd, d->d_name, AT_REMOVEDIR) < 0) {
                break; /* not empty, or not ours to judge here: the caller enters it */
            }
            ret_sub[0] = '\0';
        }
    }
    (void)closedir(dir);
    return r;
}

/* Leaves the innermost directory, which is empty, and removes it from the one above. */
static int tree_pop(struct tree *t)
{
    INSIST(t->depth >= 2 && t->levels != NULL);
    const struct level *inner = &t->levels[t->depth - 1];
    const struct level *outer = &t->levels[t->depth - 2];
    struct stat st;
    AUTO_FD int up = open_to_empty(t->fd, "..", false);
    if (up < 0) {
        return up;
    }
    if (fstat(up, &st) < 0) {
        return -errno;
    }
    if (st.st_dev != outer->dev || st.st_ino != outer->ino) {
        return -EBUSY; /* it was moved elsewhere meanwhile */
    }
    if (unlinkat(up, inner->name, AT_REMOVEDIR) < 0 && errno != ENOENT) {
        int r = -errno;
        if (r != -EACCES || fchmod(up, 0700) < 0 || unlinkat(up, inner->name, AT_REMOVEDIR) < 0) {
            return r;
        }
    }
    fd_close(t->fd);
    t->fd = fd_take(&up);
    t->depth--;
    return 0;
}

static int tree_run(struct tree *t)
{
    size_t rounds = 0;
    for (;;) {
        char sub[NAME_MAX + 1] = "";
        int r = empty_files(t, sub);
        if (r != 0) {
            return r;
        }
        if (sub[0] != '\0') {
            AUTO_FD int fd = open_to_empty(t->fd, sub, true);
            if (fd == -ENOENT || fd == -ENOTDIR) {
                if (++rounds > TREE_ROUNDS_MAX) {
                    return -EBUSY;
                }
                continue;
            }
            if (fd < 0) {
                return fd;
            }
            r = tree_push(t, fd, sub);
            if (r != 0) {
                return r;
            }
            (void)fd_take(&fd);
            continue;
        }
        if (t->depth == 1) {
            return 0;
        }
        r = tree_pop(t);
        if (r == -ENOTEMPTY && ++rounds <= TREE_ROUNDS_MAX) {
            continue;
        }
        if (r != 0) {
            return r;
        }
    }
}

int sys_remove_tree(int dirfd, const char *name, struct err *e)
{
    int r = remove_file(dirfd, name);
    if (r == 0) {
        return 0;
    }
    if (r < 0) {
        return err_set(e, r, "remove '%s'", name);
    }
    AUTO_FD int fd = open_to_empty(dirfd, name, false);
    if (fd < 0) {
        return fd == -ENOENT ? 0 : err_set(e, fd, "remove '%s'", name);
    }
    struct tree t = { .fd = -1 };
    r = tree_push(&t, fd, ".");
    if (r == 0) {
        (void)fd_take(&fd);
        r = tree_run(&t);
    }
    if (r == 0 && unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT) {
        r = -errno;
    }
    fd_close(t.fd);
    mem_free(t.levels);
    return r == 0 ? 0 : err_set(e, r, "remove '%s'", name);
}
