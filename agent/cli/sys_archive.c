/* Members of an image archive. */
#include "agent/cli/sys_archive.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/image/image.h"
#include "agent/image/tar.h"
#include "common/map.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { MEMBERS_MAX = 65536, LINKS_MAX = 8, PIECE = 256 * 1024 };

struct entry {
    uint64_t offset, size;
    const char *link; /* behind the name; NULL: a file */
    char name[];
};

struct cli_archive {
    int fd; /* the tar file, or the directory */
    bool is_dir;
    struct map members; /* name -> struct entry */
};

struct cli_archive *cli_archive_free(struct cli_archive *a)
{
    if (a == NULL) {
        return NULL;
    }
    size_t i = 0;
    void *entry;
    while ((entry = map_next(&a->members, &i)) != NULL) {
        mem_free(entry);
    }
    map_release(&a->members);
    fd_close(a->fd);
    return mem_free(a);
}

/* A repeated name: the last one counts, as for every tar reader. */
static int add_entry(struct cli_archive *a, const char *name, const char *link, uint64_t offset,
                     uint64_t size, struct err *e)
{
    size_t name_n = strlen(name) + 1;
    size_t link_n = link != NULL ? strlen(link) + 1 : 0;
    struct entry *entry = mem_alloc(sizeof(*entry) + name_n + link_n);
    if (entry == NULL) {
        return err_set(e, -ENOMEM, "read the archive");
    }
    entry->offset = offset;
    entry->size = size;
    entry->link = link != NULL ? entry->name + name_n : NULL;
    memcpy(entry->name, name, name_n);
    if (link != NULL) {
        memcpy(entry->name + name_n, link, link_n);
    }
    mem_free(map_remove(&a->members, str_of(name)));
    int rc = map_add(&a->members, str_of(entry->name), entry);
    if (rc != 0) {
        mem_free(entry);
        return rc == -ENOBUFS
                   ? err_say(e, -E2BIG, "the archive has more than %d members", (int)MEMBERS_MAX)
                   : err_set(e, rc, "read the archive");
    }
    return 0;
}

static int take_entry(struct cli_archive *a, const struct image_tar_entry *t, uint64_t offset,
                      struct err *e)
{
    char name[IMAGE_PATH_MAX];
    char link[IMAGE_PATH_MAX];
    if (image_archive_name(t->path, name) != 0) {
        return err_say(e, -EBADMSG, "the archive has a member '%.*s'", STR_ARG(t->path));
    }
    switch (t->type) {
    case IMAGE_TAR_FILE:
        return add_entry(a, name, NULL, offset, t->size, e);
    case IMAGE_TAR_SYMLINK:
        /* One that leaves the archive is no member. */
        return image_archive_link(name, t->link, link) == 0 ? add_entry(a, name, link, 0, 0, e) : 0;
    case IMAGE_TAR_HARDLINK:
        return image_archive_name(t->link, link) == 0 ? add_entry(a, name, link, 0, 0, e) : 0;
    case IMAGE_TAR_CHAR:
    case IMAGE_TAR_BLOCK:
    case IMAGE_TAR_DIR:
    case IMAGE_TAR_FIFO:
        break;
    }
    return 0;
}

/* Walks the headers; contents are seeked over. */
static int scan(struct cli_archive *a, struct err *e)
{
    AUTO_IMAGE_TAR struct image_tar *tar = NULL;
    AUTO_MEM char *piece = mem_alloc(PIECE);
    if (piece == NULL || image_tar_new(&tar) != 0) {
        return err_set(e, -ENOMEM, "read the archive");
    }
    uint64_t at = 0; /* of what is fed next */
    for (;;) {
        ssize_t got = sys_pread_full(a->fd, piece, PIECE, at);
        if (got < 0) {
            return err_set(e, (int)got, "read the archive");
        }
        if (got == 0) {
            return image_tar_finish(tar, e);
        }
        size_t n = (size_t)got;
        size_t i = 0;
        while (i < n) {
            size_t used = 0;
            struct str data;
            int rc = image_tar_feed(tar, piece + i, n - i, &used, &data, e);
            i += used;
            if (rc == IMAGE_TAR_END) {
                return 0;
            }
            if (rc == IMAGE_TAR_ENTRY) {
                rc = take_entry(a, image_tar_entry(tar), at + i, e);
            }
            if (rc < 0) {
                return rc;
            }
        }
        at += n;
    }
}

/* A file without a name. */
static int open_scratch(struct err *e)
{
    const char *dir = getenv("TMPDIR"); /* NOLINT(concurrency-mt-unsafe) */
    if (dir == NULL || dir[0] == '\0') {
        dir = "/tmp";
    }
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return fd >= 0 ? fd : err_set(e, -errno, "make a file in '%s' (TMPDIR)", dir);
}

static int open_tar(struct cli_archive *a, struct err *e)
{
    bool compressed = false;
    int rc = cli_unzip(a->fd, -1, &compressed, e);
    if (rc == 0 && compressed) {
        AUTO_FD int scratch = open_scratch(e);
        if (scratch < 0) {
            return scratch;
        }
        rc = cli_unzip(a->fd, scratch, &compressed, e);
        if (rc == 0) {
            fd_close(a->fd);
            a->fd = fd_take(&scratch);
        }
    }
    return rc == 0 ? scan(a, e) : rc;
}

int cli_archive_open(const char *path, struct cli_archive **ret, struct err *e)
{
    AUTO_ARCHIVE struct cli_archive *a = mem_zalloc(sizeof(*a));
    struct stat st;
    if (a == NULL) {
        return err_set(e, -ENOMEM, "open '%s'", path);
    }
    map_init(&a->members, MEMBERS_MAX, sys_random_u64(), sys_random_u64());
    a->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (a->fd < 0 || fstat(a->fd, &st) != 0) {
        return err_set(e, -errno, "open '%s'", path);
    }
    a->is_dir = S_ISDIR(st.st_mode);
    if (!a->is_dir && !S_ISREG(st.st_mode)) {
        return err_say(e, -EINVAL, "'%s' is neither a file nor a directory", path);
    }
    int rc = a->is_dir ? 0 : open_tar(a, e);
    if (rc != 0) {
        return err_prefix(e, "%s", path);
    }
    *ret = TAKE(a);
    return 0;
}

static int dir_member(const struct cli_archive *a, const char *name, struct cli_member *ret,
                      struct err *e)
{
    struct stat st;
    AUTO_FD int fd = sys_open_beneath(a->fd, name, O_RDONLY | O_NONBLOCK, 0, 0);
    if (fd < 0 || fstat(fd, &st) != 0) {
        return err_set(e, fd < 0 ? fd : -errno, "open '%s' of the layout", name);
    }
    if (!S_ISREG(st.st_mode)) {
        return err_say(e, -EINVAL, "'%s' of the layout is not a file", name);
    }
    *ret = (struct cli_member){ .fd = fd_take(&fd), .size = (uint64_t)st.st_size };
    return 0;
}

static const struct entry *find(const struct cli_archive *a, const char *name)
{
    const struct entry *entry = map_get(&a->members, str_of(name));
    for (int i = 0; i < LINKS_MAX && entry != NULL && entry->link != NULL; i++) {
        entry = map_get(&a->members, str_of(entry->link));
    }
    return entry != NULL && entry->link == NULL ? entry : NULL;
}

int cli_archive_member(const struct cli_archive *a, const char *name, struct cli_member *ret,
                       struct err *e)
{
    if (a->is_dir) {
        return dir_member(a, name, ret, e);
    }
    const struct entry *entry = find(a, name);
    if (entry == NULL) {
        return err_say(e, -ENOENT, "the archive has no member '%s'", name);
    }
    int fd = fd_dup(a->fd, 3);
    if (fd < 0) {
        return err_set(e, fd, "read the archive");
    }
    *ret = (struct cli_member){ .fd = fd, .offset = entry->offset, .size = entry->size };
    return 0;
}

bool cli_archive_has(const struct cli_archive *a, const char *name)
{
    if (!a->is_dir) {
        return find(a, name) != NULL;
    }
    struct cli_member m = { .fd = -1 };
    if (dir_member(a, name, &m, NULL) != 0) {
        return false;
    }
    fd_close(m.fd);
    return true;
}

int cli_archive_read(const struct cli_archive *a, const char *name, size_t max, struct buf *out,
                     struct err *e)
{
    struct cli_member m = { .fd = -1 };
    int rc = cli_archive_member(a, name, &m, e);
    if (rc != 0) {
        return rc;
    }
    char *p = m.size <= max ? buf_reserve(out, (size_t)m.size) : NULL;
    if (p == NULL) {
        rc = err_say(e, m.size <= max ? -ENOMEM : -E2BIG, "'%s' is too long", name);
    } else {
        ssize_t n = sys_pread_full(m.fd, p, (size_t)m.size, m.offset);
        if (n == (ssize_t)m.size) {
            buf_grow(out, (size_t)n);
        } else {
            rc = err_say(e, -EIO, "'%s' could not be read", name);
        }
    }
    fd_close(m.fd);
    return rc;
}
