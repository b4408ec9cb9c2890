/*
 * Blobs: files under their digest. A file gets that name only after its bytes were hashed and
 * synced; the row in the database follows, so a crash can leave a file without a row (removed when
 * it is old) or nothing, never half a blob.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/image/store_internal.h"
#include "common/insist.h"
#include "common/sys/sys.h"

enum {
    BLOB_NAME_CAP = 16 + DIGEST_TEXT_CAP,
    DISK_RESERVE = 64 << 20, /* bytes that stay free for records and logs */
};

/* "sha256/ab" and "sha256/ab/<hex>". */
static void blob_name(const struct digest *d, char dir[16], char name[BLOB_NAME_CAP])
{
    char hex[DIGEST_TEXT_CAP];
    digest_hex(d, hex);
    snprintf(dir, 16, "%s/%.2s", digest_algo_name(d->algo), hex);
    snprintf(name, BLOB_NAME_CAP, "%s/%s", dir, hex);
}

int image_blobs_init(struct image_store *s, struct err *e)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/blobs", s->opt.data_dir);
    int r = sys_mkdirs(AT_FDCWD, path, 0700, e);
    if (r < 0) {
        return r;
    }
    s->blobs = sys_open_dir(AT_FDCWD, path, false);
    if (s->blobs < 0) {
        return err_set(e, s->blobs, "open '%s'", path);
    }
    /* What was on its way in when the last process ended starts again. */
    r = sys_remove_tree(s->blobs, "uploads", e);
    static const char *const dirs[] = { "uploads", "sha256", "sha512" };
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(dirs); i++) {
        r = sys_mkdirs(s->blobs, dirs[i], 0700, e);
    }
    if (r < 0) {
        return r;
    }
    s->uploads = sys_open_dir(s->blobs, "uploads", false);
    return s->uploads < 0 ? err_set(e, s->uploads, "open '%s/uploads'", path) : 0;
}

int image_upload_create(struct image_store *s, char ret_name[IMAGE_UPLOAD_NAME_CAP], int *ret_fd,
                        struct err *e)
{
    uint8_t id[IMAGE_SESSION_LEN / 2];
    sys_random(id, sizeof(id));
    str_hex(ret_name, id, sizeof(id));
    int fd = openat(s->uploads, ret_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        return err_set(e, -errno, "make an upload's file");
    }
    *ret_fd = fd;
    return 0;
}

void image_upload_remove(struct image_store *s, const char *name)
{
    (void)unlinkat(s->uploads, name, 0);
}

/* The directory of the blob, made durable when it is new. */
static int blob_dir(struct image_store *s, const char *name, int *ret_fd, struct err *e)
{
    int fd = sys_open_dir(s->blobs, name, false);
    if (fd == -ENOENT) {
        char algo[16];
        snprintf(algo, sizeof(algo), "%.6s", name);
        int r = sys_mkdirs(s->blobs, name, 0700, e);
        if (r < 0) {
            return r;
        }
        int AUTO_FD parent = sys_open_dir(s->blobs, algo, false);
        r = parent < 0 ? parent : sys_fsync_dir(parent);
        if (r < 0) {
            return err_set(e, r, "sync the blob directory '%s'", algo);
        }
        fd = sys_open_dir(s->blobs, name, false);
    }
    if (fd < 0) {
        return err_set(e, fd, "open the blob directory '%s'", name);
    }
    *ret_fd = fd;
    return 0;
}

/* Records the blob and, with a repository, that it is in there. Lock held. */
static int record(struct image_store *s, const char *digest, uint64_t size, const char *repo,
                  struct err *e)
{
    int64_t now = sys_wall_us();
    struct image_db *db = &s->db;
    sqlite3_stmt *q = image_db_query(db, "INSERT INTO blobs(digest, size, added) VALUES(?1, ?2, ?3)"
                                         " ON CONFLICT(digest) DO NOTHING");
    image_db_text(q, 1, digest);
    image_db_int(q, 2, (int64_t)size);
    image_db_int(q, 3, now);
    int r = image_db_run(db, q, e);
    bool added = r == 0 && sqlite3_changes(db->handle) > 0;
    if (r == 0 && repo != NULL) {
        int64_t id = image_db_repo(db, repo, true, e);
        q = image_db_query(db, "INSERT INTO links(repo, digest, added) VALUES(?1, ?2, ?3)"
                               " ON CONFLICT(repo, digest) DO UPDATE SET added = ?3");
        image_db_int(q, 1, id);
        image_db_text(q, 2, digest);
        image_db_int(q, 3, now);
        r = id < 0 ? (int)id : image_db_run(db, q, e);
    }
    if (added && r == 0) {
        image_store_add_stats(s, 1, (int64_t)size);
    }
    return r;
}

int image_upload_commit(struct image_store *s, const char *name, int fd, const struct digest *d,
                        uint64_t size, const char *repo, struct err *e)
{
    char dir[16];
    char path[BLOB_NAME_CAP];
    char text[DIGEST_TEXT_CAP];
    int AUTO_FD dirfd = -1;
    blob_name(d, dir, path);
    digest_format(d, text);
    if (fsync(fd) < 0) {
        return err_set(e, -errno, "sync a blob");
    }
    int r = blob_dir(s, dir, &dirfd, e);
    if (r < 0) {
        return r;
    }
    /* Under the lock from the name to the row, so that collecting never sees the one without the
     * other. */
    pthread_mutex_lock(&s->lock);
    if (renameat(s->uploads, name, s->blobs, path) < 0) {
        r = err_set(e, -errno, "name a blob");
    }
    if (r == 0) {
        r = sys_fsync_dir(dirfd);
        if (r < 0) {
            err_set(e, r, "sync the blob directory '%s'", dir);
        }
    }
    if (r == 0) {
        r = image_db_begin(&s->db, e);
        if (r == 0) {
            r = image_db_end(&s->db, record(s, text, size, repo, e), e);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

int image_blob_write(struct image_store *s, const struct digest *d, const void *p, size_t n,
                     struct err *e)
{
    char name[IMAGE_UPLOAD_NAME_CAP];
    int AUTO_FD fd = -1;
    int r = image_upload_create(s, name, &fd, e);
    if (r < 0) {
        return r;
    }
    r = sys_write_full(fd, p, n);
    if (r < 0) {
        err_set(e, r, "write a blob");
    } else {
        r = image_upload_commit(s, name, fd, d, n, NULL, e);
    }
    if (r < 0) {
        image_upload_remove(s, name);
    }
    return r;
}

void image_blob_unlink(struct image_store *s, const struct digest *d)
{
    char dir[16];
    char path[BLOB_NAME_CAP];
    blob_name(d, dir, path);
    (void)unlinkat(s->blobs, path, 0);
}

int image_store_blob_open(struct image_store *s, const struct digest *d, uint64_t *ret_size)
{
    char dir[16];
    char path[BLOB_NAME_CAP];
    struct stat st;
    if (d->algo == DIGEST_NONE) {
        return -ENOENT;
    }
    blob_name(d, dir, path);
    int fd = openat(s->blobs, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        fd_close(fd);
        return -ENOENT;
    }
    if (ret_size != NULL) {
        *ret_size = (uint64_t)st.st_size;
    }
    return fd;
}

int image_blob_load(struct image_store *s, const struct digest *d, size_t max, struct buf *out,
                    struct err *e)
{
    char text[DIGEST_TEXT_CAP];
    uint64_t size = 0;
    struct digest got;
    digest_format(d, text);
    int AUTO_FD fd = image_store_blob_open(s, d, &size);
    if (fd < 0) {
        return err_say(e, fd, "blob %s is not here", text);
    }
    if (size > max) {
        return err_say(e, -E2BIG, "blob %s has %llu bytes; at most %zu are allowed", text,
                       (unsigned long long)size, max);
    }
    char *p = buf_reserve(out, (size_t)size);
    if (p == NULL) {
        return err_set(e, -ENOMEM, "read blob %s", text);
    }
    ssize_t n = sys_read_full(fd, p, (size_t)size);
    if (n < 0) {
        return err_set(e, (int)n, "read blob %s", text);
    }
    buf_grow(out, (size_t)n);
    int r = digest_of(d->algo, p, (size_t)n, &got);
    if (r < 0) {
        return r;
    }
    return digest_eq(&got, d) ? 0 : err_say(e, -EBADMSG, "blob %s is damaged on disk", text);
}

/* ---- in repositories
 * ------------------------------------------------------------------------------ */

/* Lock held. */
static int find_link(struct image_store *s, const char *repo, const char *digest,
                     uint64_t *ret_size, struct err *e)
{
    struct image_db *db = &s->db;
    int64_t now = sys_wall_us();
    int64_t id = image_db_repo(db, repo, false, e);
    if (id < 0) {
        return (int)id;
    }
    sqlite3_stmt AUTO_QUERY *q =
        image_db_query(db, "SELECT b.size, l.added FROM links l JOIN blobs b USING(digest)"
                           " WHERE l.repo = ?1 AND l.digest = ?2");
    image_db_int(q, 1, id);
    image_db_text(q, 2, digest);
    int r = image_db_step(db, q, e);
    if (r <= 0) {
        return r < 0 ? r : err_say(e, -ENOENT, "no blob %s in '%s'", digest, repo);
    }
    *ret_size = (uint64_t)sqlite3_column_int64(q, 0);
    if (now - sqlite3_column_int64(q, 1) < (int64_t)s->opt.grace_ms * 1000 / 2) {
        return 0;
    }
    /* A client that was told "it is here" will not send it again: keep it until the manifest comes.
     */
    sqlite3_stmt *touch =
        image_db_query(db, "UPDATE links SET added = ?3 WHERE repo = ?1 AND digest = ?2");
    image_db_int(touch, 1, id);
    image_db_text(touch, 2, digest);
    image_db_int(touch, 3, now);
    return image_db_run(db, touch, e);
}

int image_blob_stat(struct image_store *s, const char *repo, const struct digest *d,
                    uint64_t *ret_size, struct err *e)
{
    char text[DIGEST_TEXT_CAP];
    pthread_mutex_lock(&s->lock);
    int r = find_link(s, repo, digest_format(d, text), ret_size, e);
    pthread_mutex_unlock(&s->lock);
    return r;
}

static int mount_locked(struct image_store *s, const char *from, const char *repo,
                        const char *digest, struct err *e)
{
    uint64_t size = 0;
    if (from[0] != '\0') {
        int r = find_link(s, from, digest, &size, e);
        return r < 0 ? r : record(s, digest, size, repo, e);
    }
    sqlite3_stmt AUTO_QUERY *q =
        image_db_query(&s->db, "SELECT size FROM blobs WHERE digest = ?1"
                               " AND EXISTS(SELECT 1 FROM links l WHERE l.digest = ?1)");
    image_db_text(q, 1, digest);
    int r = image_db_step(&s->db, q, e);
    if (r <= 0) {
        return r < 0 ? r : err_say(e, -ENOENT, "no blob %s here", digest);
    }
    return record(s, digest, (uint64_t)sqlite3_column_int64(q, 0), repo, e);
}

int image_blob_mount(struct image_store *s, const char *from, const char *repo,
                     const struct digest *d, struct err *e)
{
    char text[DIGEST_TEXT_CAP];
    pthread_mutex_lock(&s->lock);
    int r = image_db_begin(&s->db, e);
    if (r == 0) {
        r = image_db_end(&s->db, mount_locked(s, from, repo, digest_format(d, text), e), e);
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

static int delete_link(struct image_store *s, const char *repo, const char *digest, struct err *e)
{
    int64_t id = image_db_repo(&s->db, repo, false, e);
    if (id < 0) {
        return (int)id;
    }
    sqlite3_stmt *q = image_db_query(&s->db, "DELETE FROM links WHERE repo = ?1 AND digest = ?2");
    image_db_int(q, 1, id);
    image_db_text(q, 2, digest);
    int r = image_db_run(&s->db, q, e);
    if (r == 0 && sqlite3_changes(s->db.handle) == 0) {
        r = err_say(e, -ENOENT, "no blob %s in '%s'", digest, repo);
    }
    return r;
}

int image_blob_delete(struct image_store *s, const char *repo, const struct digest *d,
                      struct err *e)
{
    char text[DIGEST_TEXT_CAP];
    pthread_mutex_lock(&s->lock);
    int r = delete_link(s, repo, digest_format(d, text), e);
    pthread_mutex_unlock(&s->lock);
    return r;
}

int image_store_room(struct image_store *s, uint64_t n, struct err *e)
{
    struct sys_space space;
    if (sys_space(s->blobs, &space) == 0 &&
        (space.free_bytes < DISK_RESERVE || space.free_bytes - DISK_RESERVE < n)) {
        return err_say(e, -ENOSPC, "the disk of the image store is full");
    }
    struct image_store_stats stats;
    image_store_stats(s, &stats);
    if (stats.limit_bytes == 0 ||
        (stats.bytes <= stats.limit_bytes && n <= stats.limit_bytes - stats.bytes)) {
        return 0;
    }
    struct image_pruned pruned;
    int r = image_store_collect(s, false, &pruned, e);
    if (r < 0) {
        return r;
    }
    image_store_stats(s, &stats);
    if (stats.bytes > stats.limit_bytes || n > stats.limit_bytes - stats.bytes) {
        return err_say(e, -ENOSPC, "the image store is full (%llu of %llu bytes)",
                       (unsigned long long)stats.bytes, (unsigned long long)stats.limit_bytes);
    }
    return 0;
}
