/*
 * The directory of a layer, through descriptors. The layer's own links may point anywhere: every
 * path is resolved by the kernel with the layer's directory as its root, and the last component is
 * never followed.
 *
 * The directory was empty when the layer began, so what is in it was made by this layer: the file
 * system itself is the set of the layer's paths, and no directory is ever listed to apply a
 * whiteout.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent/image/unpack_internal.h"
#include "common/insist.h"
#include "common/sys/sys.h"

enum { LINKS_MAX = 40, REST_MAX = 2 * IMAGE_PATH_MAX };

bool image_tree_is_whiteout(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}

int image_tree_count(struct image_tree *t, struct err *e)
{
    if (++t->report->entries > t->limits->entries_max) {
        return err_say(e, -E2BIG, "the layer has more than %llu entries",
                       (unsigned long long)t->limits->entries_max);
    }
    return 0;
}

int image_tree_add_opaque(struct image_tree *t, struct str path, struct err *e)
{
    buf_addstr(t->opaque, path.n == 0 ? STR(".") : path);
    buf_addc(t->opaque, '\0');
    t->report->opaques++;
    int r = buf_error(t->opaque);
    if (r < 0) {
        return err_say(e, r == -ENOMEM ? r : -E2BIG, "the layer has too many opaque directories");
    }
    return 0;
}

/* For show only: a directory that does not keep times is no reason to fail. */
static void restore_mtime(int dir, struct timespec mtime)
{
    struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, mtime };
    (void)utimensat(dir, ".", times, AT_SYMLINK_NOFOLLOW);
}

void image_tree_leave(struct image_tree *t)
{
    if (t->parent >= 0) {
        restore_mtime(t->parent, t->parent_mtime);
        t->parent = fd_close(t->parent);
    }
}

/* ---- a path whose directories may be missing ----------------------------------------------------
 */

struct walk {
    struct image_tree *tree;
    char done[IMAGE_PATH_MAX]; /* clean, without links: exists */
    char rest[REST_MAX];       /* still to go */
    unsigned links;
};

static int open_done(const struct walk *w)
{
    return sys_open_beneath(w->tree->root, w->done[0] == '\0' ? "." : w->done, O_PATH | O_DIRECTORY,
                            0, SYS_NO_SYMLINKS | SYS_NO_XDEV);
}

static int walk_push(struct walk *w, const char *part)
{
    size_t len = strlen(w->done);
    size_t n = strlen(part);
    if (len + 1 + n + 1 > sizeof(w->done)) {
        return -ENAMETOOLONG;
    }
    if (len > 0) {
        w->done[len++] = '/';
    }
    memcpy(w->done + len, part, n + 1);
    return 0;
}

static void walk_pop(struct walk *w)
{
    char *slash = strrchr(w->done, '/');
    if (slash != NULL) {
        *slash = '\0';
    } else {
        w->done[0] = '\0';
    }
}

/* The next component off the front of w->rest; false at the end. */
static bool walk_next(struct walk *w, char part[NAME_MAX + 1], int *ret_error)
{
    const char *p = w->rest + strspn(w->rest, "/");
    size_t n = strcspn(p, "/");
    *ret_error = n > NAME_MAX ? -ENAMETOOLONG : 0;
    if (n == 0 || n > NAME_MAX) {
        return false;
    }
    memcpy(part, p, n);
    part[n] = '\0';
    memmove(w->rest, p + n, strlen(p + n) + 1);
    return true;
}

/* Puts a link's target in front of what is left. */
static int walk_link(struct walk *w, int dir, const char *part)
{
    char target[REST_MAX];
    ssize_t n = readlinkat(dir, part, target, sizeof(target));
    if (n < 0) {
        return -errno;
    }
    size_t rest = strlen(w->rest);
    if (++w->links > LINKS_MAX) {
        return -ELOOP;
    }
    if ((size_t)n + 1 + rest + 1 > sizeof(w->rest)) {
        return -ENAMETOOLONG;
    }
    memmove(w->rest + n + 1, w->rest, rest + 1);
    memcpy(w->rest, target, (size_t)n);
    w->rest[n] = '/';
    if (n > 0 && target[0] == '/') {
        w->done[0] = '\0';
    }
    return 0;
}

/* Makes a directory that the archive has no entry for, in place of a whiteout if there is one. What
 * it is made in keeps its time. */
static int walk_mkdir(struct walk *w, int dir, const char *part, bool whiteout, struct err *e)
{
    struct stat st;
    int r = image_tree_count(w->tree, e);
    if (r < 0) {
        return r;
    }
    bool timed = fstat(dir, &st) == 0;
    if (whiteout && unlinkat(dir, part, 0) < 0) {
        return err_set(e, -errno, "replace the whiteout of '%s'", part);
    }
    if (mkdirat(dir, part, 0755) < 0) {
        return err_set(e, -errno, "make directory '%s' for an entry", part);
    }
    if (timed) {
        restore_mtime(dir, st.st_mtim);
    }
    return 0;
}

static int walk_component(struct walk *w, const char *part, struct err *e)
{
    struct stat st;
    int AUTO_FD dir = open_done(w);
    if (dir < 0) {
        return err_set(e, dir, "open directory '%s' of the layer", w->done);
    }
    bool missing = fstatat(dir, part, &st, AT_SYMLINK_NOFOLLOW) < 0;
    if (missing && errno != ENOENT) {
        return err_set(e, -errno, "look at '%s/%s' of the layer", w->done, part);
    }
    if (!missing && S_ISLNK(st.st_mode)) {
        int r = walk_link(w, dir, part);
        return r < 0 ? err_set(e, r, "follow the link '%s/%s' of the layer", w->done, part) : 0;
    }
    bool whiteout = !missing && image_tree_is_whiteout(&st);
    if (!missing && !whiteout && !S_ISDIR(st.st_mode)) {
        return err_say(e, -ENOTDIR, "'%s/%s' of the layer is not a directory", w->done, part);
    }
    int r = missing || whiteout ? walk_mkdir(w, dir, part, whiteout, e) : 0;
    if (r == 0 && walk_push(w, part) < 0) {
        r = err_set(e, -ENAMETOOLONG, "make the directories of an entry");
    }
    if (r == 0 && whiteout) {
        r = image_tree_add_opaque(w->tree, str_of(w->done), e);
    }
    return r;
}

/* Slow and complete: component by component, making what is missing, also where a link points to.
 */
static int open_parent_making(struct image_tree *t, struct str path, int *ret_fd, struct err *e)
{
    struct walk w = { .tree = t };
    int r = str_copy(w.rest, sizeof(w.rest), path);
    char part[NAME_MAX + 1];
    while (r == 0 && walk_next(&w, part, &r)) {
        if (strcmp(part, ".") == 0) {
            continue;
        }
        if (strcmp(part, "..") == 0) {
            walk_pop(&w);
            continue;
        }
        r = walk_component(&w, part, e);
        if (r < 0) {
            return r;
        }
    }
    if (r < 0) {
        return err_set(e, r, "make the directories of '%.*s'", STR_ARG(path));
    }
    int fd = open_done(&w);
    if (fd < 0) {
        return err_set(e, fd, "open directory '%s' of the layer", w.done);
    }
    *ret_fd = fd;
    return 0;
}

int image_tree_enter(struct image_tree *t, struct str path, struct err *e)
{
    if (t->parent >= 0 && !t->replaced && str_eqs(path, t->parent_path)) {
        return 0;
    }
    image_tree_leave(t);
    t->replaced = false;
    int r = str_copy(t->parent_path, sizeof(t->parent_path), path);
    INSIST(r == 0); /* it is clean */
    int AUTO_FD fd = sys_open_beneath(t->root, path.n == 0 ? "." : t->parent_path,
                                      O_PATH | O_DIRECTORY, 0, SYS_IN_ROOT | SYS_NO_XDEV);
    if (fd == -ENOENT || fd == -ENOTDIR) {
        r = open_parent_making(t, path, &fd, e);
        if (r < 0) {
            return r;
        }
    } else if (fd < 0) {
        return err_set(e, fd, "open directory '%s' of the layer", t->parent_path);
    }
    struct stat st;
    if (fstat(fd, &st) < 0) {
        return err_set(e, -errno, "look at directory '%s' of the layer", t->parent_path);
    }
    t->parent_mtime = st.st_mtim;
    t->parent = fd_take(&fd);
    return 0;
}

int image_tree_clear(struct image_tree *t, const char *base, bool want_dir, bool *ret_whiteout,
                     struct err *e)
{
    struct stat st;
    *ret_whiteout = false;
    if (fstatat(t->parent, base, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        return errno == ENOENT ? 0 : err_set(e, -errno, "look at '%s' of the layer", base);
    }
    if (S_ISDIR(st.st_mode) && want_dir) {
        return 0;
    }
    *ret_whiteout = image_tree_is_whiteout(&st);
    t->replaced = true;
    if (S_ISDIR(st.st_mode)) {
        int r = sys_remove_tree(t->parent, base, e);
        if (r < 0) {
            return r;
        }
    } else if (unlinkat(t->parent, base, 0) < 0) {
        return err_set(e, -errno, "replace '%s' of the layer", base);
    }
    return 0;
}
