/*
 * A tar stream to a layer's directory. tar.c says what the entries are, sys_unpack_tree.c where
 * they go; here is what becomes of each.
 *
 * Order within a file: create, write, owner, mode, attributes, times; changing the owner clears
 * setuid and capabilities, so it comes before them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "agent/image/programs.h"
#include "agent/image/tar.h"
#include "agent/image/unpack.h"
#include "agent/image/unpack_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { READ_SIZE = 256 * 1024, HEAD_SIZE = 256 };

struct unpack {
    struct image_tree tree;
    struct image_unpack_report report;
    const struct image_tar_entry *entry;
    char path[IMAGE_PATH_MAX]; /* the entry's, clean */
    int file;                  /* being written; -1: none */
    uint64_t file_left;
    char head[HEAD_SIZE]; /* how it begins */
    size_t head_len;
    struct buf *index; /* of the layer's programs */
};

/* ---- attributes --------------------------------------------------------------------------------
 */

static struct timespec entry_mtime(const struct image_tar_entry *entry)
{
    return (struct timespec){ .tv_sec = entry->mtime_s, .tv_nsec = entry->mtime_ns };
}

/* user.* is the image's own; capabilities are inert under no_new_privs, but programs look at them.
 * Everything else (trusted.*, overlay's marks, labels and ACLs of another host) means something
 * here that the image must not say. */
static bool xattr_wanted(struct str name, bool dir)
{
    if (str_starts(name, "user.")) {
        return !str_starts(name, "user.overlay.");
    }
    return !dir && str_eqs(name, "security.capability");
}

static int set_xattrs(struct unpack *u, int fd, bool dir, struct err *e)
{
    for (size_t i = 0; i < u->entry->xattrs_len; i++) {
        const struct image_tar_xattr *x = &u->entry->xattrs[i];
        char name[IMAGE_TAR_XATTR_NAME_MAX + 1];
        if (!xattr_wanted(x->name, dir) || str_copy(name, sizeof(name), x->name) < 0) {
            u->report.xattrs_dropped++;
            continue;
        }
        if (fsetxattr(fd, name, x->value.n > 0 ? x->value.p : "", x->value.n, 0) == 0) {
            continue;
        }
        /* Not every file system has user attributes; a capability may be malformed or not ours to
         * give. */
        if (errno != ENOTSUP && errno != EPERM && errno != EINVAL) {
            return err_set(e, -errno, "set attribute '%s' of '%s'", name, u->path);
        }
        u->report.xattrs_dropped++;
    }
    return 0;
}

/* Of a regular file or directory that is open. */
static int set_attributes(struct unpack *u, int fd, bool dir, struct err *e)
{
    const struct image_tar_entry *entry = u->entry;
    if (fchown(fd, (uid_t)entry->uid, (gid_t)entry->gid) < 0) {
        return err_set(e, -errno, "set the owner of '%s'", u->path);
    }
    if (fchmod(fd, (mode_t)entry->mode) < 0) {
        return err_set(e, -errno, "set the mode of '%s'", u->path);
    }
    int r = set_xattrs(u, fd, dir, e);
    if (r < 0) {
        return r;
    }
    struct timespec times[2] = { entry_mtime(entry), entry_mtime(entry) };
    if (futimens(fd, times) < 0) {
        return err_set(e, -errno, "set the times of '%s'", u->path);
    }
    return 0;
}

/* Of a link or FIFO just made: it has nothing to open. */
static int set_attributes_at(struct unpack *u, const char *base, struct err *e)
{
    const struct image_tar_entry *entry = u->entry;
    int dir = u->tree.parent;
    u->report.xattrs_dropped += entry->xattrs_len;
    if (fchownat(dir, base, (uid_t)entry->uid, (gid_t)entry->gid, AT_SYMLINK_NOFOLLOW) < 0) {
        return err_set(e, -errno, "set the owner of '%s'", u->path);
    }
    /* A FIFO is no link, so nothing is followed; links have no mode. */
    if (entry->type == IMAGE_TAR_FIFO && fchmodat(dir, base, (mode_t)entry->mode, 0) < 0) {
        return err_set(e, -errno, "set the mode of '%s'", u->path);
    }
    struct timespec times[2] = { entry_mtime(entry), entry_mtime(entry) };
    if (utimensat(dir, base, times, AT_SYMLINK_NOFOLLOW) < 0) {
        return err_set(e, -errno, "set the times of '%s'", u->path);
    }
    return 0;
}

/* ---- making
 * -------------------------------------------------------------------------------------- */

static int make_node(struct unpack *u, const char *base)
{
    int dir = u->tree.parent;
    switch (u->entry->type) {
    case IMAGE_TAR_FILE:
        u->file = openat(dir, base, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
                         0600);
        return u->file < 0 ? -errno : 0;
    case IMAGE_TAR_DIR:
        return mkdirat(dir, base, 0700) < 0 ? -errno : 0;
    case IMAGE_TAR_SYMLINK:
        return symlinkat(u->entry->link.p, dir, base) < 0 ? -errno : 0;
    case IMAGE_TAR_FIFO:
        return mknodat(dir, base, S_IFIFO | 0600, 0) < 0 ? -errno : 0;
    case IMAGE_TAR_HARDLINK:
    case IMAGE_TAR_CHAR:
    case IMAGE_TAR_BLOCK:
    default:
        INSIST(false); /* not made here */
        return -EINVAL;
    }
}

/* Makes the entry's node; what stands in its place goes first (the last of two wins, as in every
 * tar). A directory over a directory only takes its attributes. */
static int make_or_replace(struct unpack *u, const char *base, struct err *e)
{
    bool dir = u->entry->type == IMAGE_TAR_DIR;
    bool whiteout = false;
    int r = make_node(u, base);
    if (r == -EEXIST) {
        r = image_tree_clear(&u->tree, base, dir, &whiteout, e);
        if (r < 0) {
            return r;
        }
        r = make_node(u, base);
        if (r == -EEXIST && dir) {
            return 0;
        }
    }
    if (r < 0) {
        return err_set(e, r, "make '%s'", u->path);
    }
    /* Its lower namesake was deleted: nothing of that may show through the new one. */
    return whiteout && dir ? image_tree_add_opaque(&u->tree, str_of(u->path), e) : 0;
}

/* What the file needs of a processor, into the index. One that can not be looked at is not in it,
 * as one that is no program. */
static void index_file(struct unpack *u)
{
    struct str head = { u->head, u->head_len };
    struct str interpreter = image_script_interpreter(head);
    struct image_elf elf;

    if (interpreter.n != 0 && (u->entry->mode & 0111) != 0) {
        image_index_script(u->index, str_of(u->path), interpreter);
        return;
    }
    if (!image_elf_is(head.p, head.n)) {
        return;
    }
    size_t n = (size_t)u->entry->size;
    void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, u->file, 0);
    if (p == MAP_FAILED) {
        return;
    }
    if (image_elf_read(p, n, &elf, NULL) == 0) {
        image_index_elf(u->index, str_of(u->path), &elf);
    }
    (void)munmap(p, n);
}

static int finish_file(struct unpack *u, struct err *e)
{
    index_file(u);
    int r = set_attributes(u, u->file, false, e);
    u->file = fd_close(u->file);
    return r;
}

static int unpack_file(struct unpack *u, const char *base, struct err *e)
{
    uint64_t size = u->entry->size;
    if (size > u->tree.limits->bytes_max - u->report.bytes) {
        return err_say(e, -E2BIG, "the layer's files are larger than %llu bytes",
                       (unsigned long long)u->tree.limits->bytes_max);
    }
    u->report.bytes += size;
    int r = make_or_replace(u, base, e);
    if (r < 0) {
        return r;
    }
    u->report.files++;
    u->head_len = 0;
    u->file_left = size;
    return size == 0 ? finish_file(u, e) : 0;
}

static int unpack_dir(struct unpack *u, const char *base, struct err *e)
{
    int r = make_or_replace(u, base, e);
    if (r < 0) {
        return r;
    }
    int AUTO_FD fd = openat(u->tree.parent, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return err_set(e, -errno, "open directory '%s'", u->path);
    }
    u->report.dirs++;
    return set_attributes(u, fd, true, e);
}

static int unpack_root(struct unpack *u, struct err *e)
{
    if (u->entry->type != IMAGE_TAR_DIR) {
        return err_say(e, -EINVAL, "the layer's root is not a directory");
    }
    image_tree_leave(&u->tree);
    int AUTO_FD fd = openat(u->tree.root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return err_set(e, -errno, "open the layer's root");
    }
    u->report.dirs++;
    return set_attributes(u, fd, true, e);
}

static int unpack_other(struct unpack *u, const char *base, struct err *e)
{
    int r = make_or_replace(u, base, e);
    if (r < 0) {
        return r;
    }
    if (u->entry->type == IMAGE_TAR_SYMLINK) {
        image_index_link(u->index, str_of(u->path), u->entry->link);
        u->report.symlinks++;
    } else {
        u->report.fifos++;
    }
    return set_attributes_at(u, base, e);
}

/* ---- hard links
 * ------------------------------------------------------------------------------------ */

/* Opens the directory that the target is in: *ret_base is its name there. */
static int open_target(struct unpack *u, char target[IMAGE_PATH_MAX], const char **ret_base,
                       struct err *e)
{
    int r = image_path_clean(u->entry->link, IMAGE_PATH_CLAMP, target, NULL);
    if (r < 0 || target[0] == '\0') {
        return err_say(e, -EINVAL, "hard link '%s' has a bad target", u->path);
    }
    struct str parent;
    char dir[IMAGE_PATH_MAX];
    image_path_split(target, &parent, ret_base);
    str_copy(dir, sizeof(dir), parent.n == 0 ? STR(".") : parent);
    int AUTO_FD fd =
        sys_open_beneath(u->tree.root, dir, O_PATH | O_DIRECTORY, 0, SYS_IN_ROOT | SYS_NO_XDEV);
    struct stat st;
    bool there = fd >= 0 && fstatat(fd, *ret_base, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (!there || image_tree_is_whiteout(&st)) {
        return err_say(e, -EINVAL, "hard link '%s': its target '%s' is not in the same layer",
                       u->path, target);
    }
    if (S_ISDIR(st.st_mode)) {
        return err_say(e, -EINVAL, "hard link '%s' to the directory '%s'", u->path, target);
    }
    return fd_take(&fd);
}

static bool same_file(int dir_a, const char *a, int dir_b, const char *b)
{
    struct stat sa;
    struct stat sb;
    return fstatat(dir_a, a, &sa, AT_SYMLINK_NOFOLLOW) == 0 &&
           fstatat(dir_b, b, &sb, AT_SYMLINK_NOFOLLOW) == 0 && sa.st_dev == sb.st_dev &&
           sa.st_ino == sb.st_ino;
}

static int unpack_hardlink(struct unpack *u, const char *base, struct err *e)
{
    char target[IMAGE_PATH_MAX];
    const char *target_base = NULL;
    bool whiteout = false;
    int AUTO_FD dir = open_target(u, target, &target_base, e);
    if (dir < 0) {
        return dir;
    }
    u->report.hardlinks++;
    image_index_hard_link(u->index, str_of(u->path), str_of(target));
    if (linkat(dir, target_base, u->tree.parent, base, 0) == 0) {
        return 0;
    }
    if (errno == EEXIST && same_file(dir, target_base, u->tree.parent, base)) {
        return 0;
    }
    if (errno == EEXIST) {
        int r = image_tree_clear(&u->tree, base, false, &whiteout, e);
        if (r < 0) {
            return r;
        }
        if (linkat(dir, target_base, u->tree.parent, base, 0) == 0) {
            return 0;
        }
    }
    return err_set(e, -errno, "hard link '%s' to '%s'", u->path, target);
}

/* ---- whiteouts
 * -------------------------------------------------------------------------------------- */

static const char wh_prefix[] = ".wh.";

static int whiteout(struct unpack *u, struct str parent, const char *base, struct err *e)
{
    const char *name = base + sizeof(wh_prefix) - 1;
    if (strcmp(name, ".wh..opq") == 0) {
        image_index_whiteout(u->index, parent, true);
        return image_tree_add_opaque(&u->tree, parent, e);
    }
    if (strncmp(name, wh_prefix, sizeof(wh_prefix) - 1) == 0) {
        return 0; /* aufs' own files */
    }
    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        return err_say(e, -EINVAL, "whiteout '%s' names no file", u->path);
    }
    u->report.whiteouts++;
    char gone[IMAGE_PATH_MAX];
    if (snprintf(gone, sizeof(gone), "%.*s%s%s", STR_ARG(parent), parent.n > 0 ? "/" : "", name) <
        (int)sizeof(gone)) {
        image_index_whiteout(u->index, str_of(gone), false);
    }
    if (mknodat(u->tree.parent, name, S_IFCHR, 0) == 0) {
        return 0;
    }
    struct stat st;
    if (errno != EEXIST || fstatat(u->tree.parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        return err_set(e, -errno, "make the whiteout '%s'", u->path);
    }
    if (!S_ISDIR(st.st_mode)) {
        return 0; /* this layer has a new one already, which hides the lower one */
    }
    char path[IMAGE_PATH_MAX];
    AUTO_BUF struct buf full = BUF_INIT(sizeof(path));
    buf_addf(&full, "%.*s%s%s", STR_ARG(parent), parent.n > 0 ? "/" : "", name);
    return buf_error(&full) < 0 ? buf_error(&full)
                                : image_tree_add_opaque(&u->tree, buf_str(&full), e);
}

/* ---- entries
 * ---------------------------------------------------------------------------------------- */

static int check_ids(const struct unpack *u, struct err *e)
{
    uint64_t max = u->tree.limits->id_max;
    if (u->entry->uid > max || u->entry->gid > max) {
        return err_say(e, -EINVAL, "'%s' belongs to %llu:%llu; ids up to %llu are supported",
                       u->path, (unsigned long long)u->entry->uid,
                       (unsigned long long)u->entry->gid, (unsigned long long)max);
    }
    return 0;
}

static int check_path(struct unpack *u, struct err *e)
{
    unsigned depth = 0;
    int r = image_path_clean(u->entry->path, IMAGE_PATH_REFUSE, u->path, &depth);
    if (r == -EXDEV) {
        return err_say(e, -EINVAL, "'%.*s' is outside of the layer", STR_ARG(u->entry->path));
    }
    if (r < 0) {
        return err_set(e, r, "an entry's name");
    }
    if (depth > u->tree.limits->depth_max) {
        return err_say(e, -E2BIG, "a path with %u components; at most %u are allowed", depth,
                       u->tree.limits->depth_max);
    }
    struct str rest = str_of(u->path);
    struct str part;
    while (str_split(&rest, '/', &part)) {
        if (rest.n > 0 && str_starts(part, wh_prefix)) {
            return err_say(e, -EINVAL, "'%s' is in a directory with a whiteout's name", u->path);
        }
    }
    return check_ids(u, e);
}

static int unpack_entry(struct unpack *u, const struct image_tar_entry *entry, struct err *e)
{
    u->entry = entry;
    int r = image_tree_count(&u->tree, e);
    if (r == 0) {
        r = check_path(u, e);
    }
    if (r < 0) {
        return r;
    }
    if (u->path[0] == '\0') {
        return unpack_root(u, e);
    }
    if (entry->type == IMAGE_TAR_CHAR || entry->type == IMAGE_TAR_BLOCK) {
        u->report.devices_skipped++;
        return 0;
    }
    struct str parent;
    const char *base;
    image_path_split(u->path, &parent, &base);
    r = image_tree_enter(&u->tree, parent, e);
    if (r < 0) {
        return r;
    }
    if (strncmp(base, wh_prefix, sizeof(wh_prefix) - 1) == 0) {
        return whiteout(u, parent, base, e);
    }
    switch (entry->type) {
    case IMAGE_TAR_FILE:
        return unpack_file(u, base, e);
    case IMAGE_TAR_DIR:
        return unpack_dir(u, base, e);
    case IMAGE_TAR_HARDLINK:
        return unpack_hardlink(u, base, e);
    case IMAGE_TAR_SYMLINK:
    case IMAGE_TAR_FIFO:
    case IMAGE_TAR_CHAR:
    case IMAGE_TAR_BLOCK:
    default:
        return unpack_other(u, base, e);
    }
}

static int unpack_data(struct unpack *u, struct str data, struct err *e)
{
    if (u->file < 0) {
        return 0; /* a whiteout with content */
    }
    size_t head = HEAD_SIZE - u->head_len < data.n ? HEAD_SIZE - u->head_len : data.n;
    memcpy(u->head + u->head_len, data.p, head);
    u->head_len += head;
    int r = sys_write_full(u->file, data.p, data.n);
    if (r < 0) {
        return err_set(e, r, "write '%s'", u->path);
    }
    INSIST(data.n <= u->file_left);
    u->file_left -= data.n;
    return u->file_left == 0 ? finish_file(u, e) : 0;
}

static int unpack_bytes(struct unpack *u, struct image_tar *tar, const char *p, size_t n,
                        struct err *e)
{
    size_t at = 0;
    while (at < n) {
        size_t used = 0;
        struct str data = STR("");
        int event = image_tar_feed(tar, p + at, n - at, &used, &data, e);
        at += used;
        int r = event;
        if (event == IMAGE_TAR_ENTRY) {
            r = unpack_entry(u, image_tar_entry(tar), e);
        } else if (event == IMAGE_TAR_DATA) {
            r = unpack_data(u, data, e);
        }
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static int unpack_all(struct unpack *u, int in_fd, struct image_tar *tar, char *bytes,
                      struct err *e)
{
    for (;;) {
        ssize_t n = sys_read(in_fd, bytes, READ_SIZE);
        if (n < 0) {
            return err_set(e, (int)n, "read the layer's stream");
        }
        if (n == 0) {
            return image_tar_finish(tar, e);
        }
        int r = unpack_bytes(u, tar, bytes, (size_t)n, e);
        if (r < 0) {
            return r;
        }
    }
}

int image_unpack_stream(int in_fd, int root_dirfd, const struct image_limits *limits,
                        struct buf *opaque, struct buf *index, struct image_unpack_report *ret,
                        struct err *e)
{
    char AUTO_MEM *bytes = mem_alloc(READ_SIZE);
    struct unpack AUTO_MEM *u = mem_zalloc(sizeof(*u));
    struct image_tar AUTO_IMAGE_TAR *tar = NULL;
    if (bytes == NULL || u == NULL || image_tar_new(&tar) < 0) {
        return err_set(e, -ENOMEM, "unpack a layer");
    }
    u->tree = (struct image_tree){
        .root = root_dirfd,
        .limits = limits,
        .opaque = opaque,
        .report = &u->report,
        .parent = -1,
    };
    u->file = -1;
    u->index = index;
    image_index_begin(index);
    int r = unpack_all(u, in_fd, tar, bytes, e);
    image_index_end(index);
    image_tree_leave(&u->tree);
    u->file = fd_close(u->file);
    if (r < 0) {
        return r;
    }
    *ret = u->report;
    return 0;
}
