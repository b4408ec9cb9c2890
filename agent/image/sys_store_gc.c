/*
 * What goes, and when. Three rules:
 *
 *   a manifest's rows go when no repository holds it, no index names it and nothing pins it;
 *   a blob goes when no manifest refers to it and nobody pushed, mounted or asked for it within the
 *   grace time (a client that was told "it is here" is about to push the manifest);
 *   what a removed manifest referred to has no grace: dropping it makes its blobs old.
 *
 * Rows go first, then files, under one lock: a crash between leaves files that no row knows, which
 * image_store_sweep() finds at the next start.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/image/store_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { BATCH = 256 };

struct digest_list {
    char v[BATCH][DIGEST_TEXT_CAP];
    uint64_t size[BATCH];
    size_t n;
};

static int run_text(struct image_store *s, const char *sql, const char *text, struct err *e)
{
    sqlite3_stmt *q = image_db_query(&s->db, sql);
    image_db_text(q, 1, text);
    return image_db_run(&s->db, q, e);
}

/* 1: there is a row; 0: none; or -Exxx. */
static int exists(struct image_store *s, const char *sql, int64_t repo, const char *text,
                  struct err *e)
{
    sqlite3_stmt AUTO_QUERY *q = image_db_query(&s->db, sql);
    image_db_text(q, 1, text);
    if (repo > 0) {
        image_db_int(q, 2, repo);
    }
    return image_db_step(&s->db, q, e);
}

int image_manifest_drop(struct image_store *s, const char *digest, struct err *e)
{
    int r = exists(s, "SELECT 1 FROM holds WHERE digest = ?1", 0, digest, e);
    if (r == 0) {
        r = exists(s, "SELECT 1 FROM refs WHERE digest = ?1 AND kind = 3", 0, digest, e);
    }
    if (r != 0 || image_store_is_pinned(s, digest)) {
        return r < 0 ? r : 0;
    }
    static const char *const steps[] = {
        "UPDATE blobs SET added = 0 WHERE digest = ?1 OR digest IN"
        " (SELECT digest FROM refs WHERE manifest = ?1)",
        "UPDATE links SET added = 0 WHERE digest IN"
        " (SELECT digest FROM refs WHERE manifest = ?1)",
        "DELETE FROM refs WHERE manifest = ?1",
        "DELETE FROM manifests WHERE digest = ?1",
    };
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(steps); i++) {
        r = run_text(s, steps[i], digest, e);
    }
    return r;
}

static int list_texts(struct image_store *s, sqlite3_stmt *q, struct digest_list *list,
                      struct err *e)
{
    list->n = 0;
    while (list->n < BATCH) {
        int r = image_db_step(&s->db, q, e);
        if (r <= 0) {
            return r;
        }
        if (str_copy(list->v[list->n], DIGEST_TEXT_CAP, str_of(image_db_column_text(q, 0))) < 0) {
            return -EIO;
        }
        list->size[list->n] = (uint64_t)sqlite3_column_int64(q, 1);
        list->n++;
    }
    return 0;
}

static int list_children(struct image_store *s, const char *digest, struct digest_list *list,
                         struct err *e)
{
    sqlite3_stmt AUTO_QUERY *q = image_db_query(
        &s->db, "SELECT digest, 0 FROM refs WHERE manifest = ?1 AND kind = 3 LIMIT 256");
    image_db_text(q, 1, digest);
    return list_texts(s, q, list, e);
}

/* The repository lets go of a manifest that has no tag left there, and of what only it led to. Lock
 * held.
 */
static int let_go(struct image_store *s, int64_t repo, const char *digest, unsigned depth,
                  struct err *e)
{
    int r = exists(s, "SELECT 1 FROM tags WHERE digest = ?1 AND repo = ?2", repo, digest, e);
    if (r == 0 && depth > 0) {
        r = exists(s, "SELECT 1 FROM refs WHERE digest = ?1 AND kind = 3", 0, digest, e);
    }
    if (r != 0 || image_store_is_pinned(s, digest)) {
        return r < 0 ? r : 0;
    }
    struct digest_list AUTO_MEM *children = mem_alloc(sizeof(*children));
    if (children == NULL) {
        return -ENOMEM;
    }
    r = list_children(s, digest, children, e);
    if (r == 0) {
        sqlite3_stmt *q =
            image_db_query(&s->db, "DELETE FROM holds WHERE repo = ?1 AND digest = ?2");
        image_db_int(q, 1, repo);
        image_db_text(q, 2, digest);
        r = image_db_run(&s->db, q, e);
    }
    if (r == 0) {
        r = image_manifest_drop(s, digest, e);
    }
    for (size_t i = 0; r == 0 && depth < IMAGE_INDEX_DEPTH_MAX && i < children->n; i++) {
        r = let_go(s, repo, children->v[i], depth + 1, e);
    }
    return r;
}

/* ---- blobs
 * ---------------------------------------------------------------------------------------- */

static int list_dead(struct image_store *s, struct digest_list *list, struct err *e)
{
    sqlite3_stmt AUTO_QUERY *q = image_db_query(
        &s->db, "SELECT digest, size FROM blobs b WHERE added < ?1"
                " AND NOT EXISTS(SELECT 1 FROM manifests m WHERE m.digest = b.digest)"
                " AND NOT EXISTS(SELECT 1 FROM refs r WHERE r.digest = b.digest AND r.kind <> 4)"
                " AND NOT EXISTS(SELECT 1 FROM links l WHERE l.digest = b.digest"
                "  AND l.added >= ?1) LIMIT 256");
    image_db_int(q, 1, sys_wall_us() - (int64_t)s->opt.grace_ms * 1000);
    return list_texts(s, q, list, e);
}

static int delete_rows(struct image_store *s, const struct digest_list *list, struct err *e)
{
    int r = image_db_begin(&s->db, e);
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; r == 0 && i < list->n; i++) {
        r = run_text(s, "DELETE FROM blobs WHERE digest = ?1", list->v[i], e);
        if (r == 0) {
            r = run_text(s, "DELETE FROM links WHERE digest = ?1", list->v[i], e);
        }
    }
    return image_db_end(&s->db, r, e);
}

/* Lock held, no transaction open. */
static int remove_dead(struct image_store *s, struct image_pruned *ret, struct err *e)
{
    struct digest_list AUTO_MEM *list = mem_alloc(sizeof(*list));
    if (list == NULL) {
        return -ENOMEM;
    }
    do {
        int r = list_dead(s, list, e);
        if (r == 0) {
            r = delete_rows(s, list, e);
        }
        if (r < 0) {
            return r;
        }
        for (size_t i = 0; i < list->n; i++) {
            struct digest d;
            if (digest_parse(str_of(list->v[i]), &d, NULL) == 0) {
                image_blob_unlink(s, &d);
            }
            image_store_add_stats(s, -1, -(int64_t)list->size[i]);
            ret->blobs++;
            ret->bytes += list->size[i];
        }
    } while (list->n == BATCH);
    return 0;
}

/* ---- images
 * ----------------------------------------------------------------------------------------- */

struct candidate {
    int64_t repo;
    char digest[DIGEST_TEXT_CAP];
};

/* The first manifest that the query lists and nothing pins. 1, 0, or -Exxx. */
static int pick(struct image_store *s, sqlite3_stmt *q, struct candidate *ret, struct err *e)
{
    int r;
    while ((r = image_db_step(&s->db, q, e)) == 1) {
        ret->repo = sqlite3_column_int64(q, 0);
        if (str_copy(ret->digest, sizeof(ret->digest), str_of(image_db_column_text(q, 1))) < 0) {
            return -EIO;
        }
        if (!image_store_is_pinned(s, ret->digest)) {
            return 1;
        }
    }
    return r;
}

static int pick_untagged(struct image_store *s, struct candidate *ret, struct err *e)
{
    /* Signatures and the like (subject) go with what they speak of. */
    sqlite3_stmt AUTO_QUERY *q = image_db_query(
        &s->db, "SELECT h.repo, h.digest FROM holds h WHERE h.pushed < ?1"
                " AND NOT EXISTS(SELECT 1 FROM tags t WHERE t.repo = h.repo"
                "  AND t.digest = h.digest)"
                " AND NOT EXISTS(SELECT 1 FROM refs r WHERE r.digest = h.digest AND r.kind = 3)"
                " AND NOT EXISTS(SELECT 1 FROM manifests m JOIN manifests o"
                "  ON o.digest = m.subject WHERE m.digest = h.digest)");
    image_db_int(q, 1, sys_wall_us() - (int64_t)s->opt.grace_ms * 1000);
    return pick(s, q, ret, e);
}

static int pick_least_used(struct image_store *s, struct candidate *ret, struct err *e)
{
    sqlite3_stmt AUTO_QUERY *q = image_db_query(
        &s->db, "SELECT h.repo, h.digest FROM holds h WHERE h.pushed < ?1 AND h.used < ?1"
                " AND NOT EXISTS(SELECT 1 FROM refs r WHERE r.digest = h.digest AND r.kind = 3)"
                " ORDER BY h.used, h.digest");
    image_db_int(q, 1, sys_wall_us() - (int64_t)s->opt.grace_ms * 1000);
    return pick(s, q, ret, e);
}

/* Lock held. */
static int evict(struct image_store *s, const struct candidate *c, struct err *e)
{
    int r = image_db_begin(&s->db, e);
    if (r < 0) {
        return r;
    }
    sqlite3_stmt *q = image_db_query(&s->db, "DELETE FROM tags WHERE repo = ?1 AND digest = ?2");
    image_db_int(q, 1, c->repo);
    image_db_text(q, 2, c->digest);
    r = image_db_run(&s->db, q, e);
    if (r == 0) {
        r = let_go(s, c->repo, c->digest, 0, e);
    }
    return image_db_end(&s->db, r, e);
}

static bool over_limit(struct image_store *s)
{
    struct image_store_stats stats;
    image_store_stats(s, &stats);
    return stats.limit_bytes > 0 && stats.bytes > stats.limit_bytes;
}

/* Manifests that only a pin kept, and repositories in which nothing is. Lock held. */
static int tidy(struct image_store *s, struct err *e)
{
    struct digest_list AUTO_MEM *list = mem_alloc(sizeof(*list));
    if (list == NULL) {
        return -ENOMEM;
    }
    int r = image_db_begin(&s->db, e);
    if (r < 0) {
        return r;
    }
    {
        sqlite3_stmt AUTO_QUERY *q = image_db_query(
            &s->db, "SELECT digest, 0 FROM manifests m"
                    " WHERE NOT EXISTS(SELECT 1 FROM holds h WHERE h.digest = m.digest)"
                    " AND NOT EXISTS(SELECT 1 FROM refs r WHERE r.digest = m.digest"
                    "  AND r.kind = 3)");
        r = list_texts(s, q, list, e);
    }
    for (size_t i = 0; r == 0 && i < list->n; i++) {
        r = image_manifest_drop(s, list->v[i], e);
    }
    if (r == 0) {
        sqlite3_stmt *q = image_db_query(
            &s->db, "DELETE FROM repos WHERE"
                    " NOT EXISTS(SELECT 1 FROM holds h WHERE h.repo = repos.id)"
                    " AND NOT EXISTS(SELECT 1 FROM links l WHERE l.repo = repos.id)");
        r = image_db_run(&s->db, q, e);
    }
    return image_db_end(&s->db, r, e);
}

/* Pins live in memory only: after a start, whoever needs them has to set them again first. */
static bool settled(const struct image_store *s)
{
    return sys_mono_ms() - s->started_ms >= s->opt.grace_ms;
}

static int collect_images(struct image_store *s, bool untagged, struct image_pruned *ret,
                          struct err *e)
{
    struct candidate c;
    int r = tidy(s, e);
    while (r == 0 && untagged && (r = pick_untagged(s, &c, e)) == 1) {
        r = evict(s, &c, e);
        ret->images++;
    }
    if (r == 0) {
        r = remove_dead(s, ret, e);
    }
    while (r == 0 && over_limit(s) && (r = pick_least_used(s, &c, e)) == 1) {
        r = evict(s, &c, e);
        ret->images++;
        if (r == 0) {
            r = remove_dead(s, ret, e);
        }
    }
    return r;
}

static int collect_locked(struct image_store *s, bool untagged, struct image_pruned *ret,
                          struct err *e)
{
    int r = settled(s) ? collect_images(s, untagged, ret, e) : remove_dead(s, ret, e);
    return r < 0 ? r : image_store_count(s, e);
}

int image_store_collect(struct image_store *s, bool untagged, struct image_pruned *ret,
                        struct err *e)
{
    struct image_pruned pruned = { 0 };
    pthread_mutex_lock(&s->lock);
    int r = collect_locked(s, untagged, &pruned, e);
    pthread_mutex_unlock(&s->lock);
    if (r == 0) {
        *ret = pruned;
    }
    return r;
}

/* ---- deleting one image
 * ------------------------------------------------------------------------------- */

/* The next manifest of the repository that the reference means. 1, 0, or -Exxx. */
static int next_of_ref(struct image_store *s, int64_t repo, const struct image_ref *ref,
                       struct candidate *ret, struct err *e)
{
    static const char by_tag[] = "SELECT repo, digest FROM tags WHERE repo = ?1 AND tag = ?2";
    static const char by_digest[] =
        "SELECT repo, digest FROM holds WHERE repo = ?1 AND digest = ?2";
    static const char any[] = "SELECT repo, digest FROM holds h WHERE repo = ?1 AND NOT EXISTS"
                              "(SELECT 1 FROM refs r WHERE r.digest = h.digest AND r.kind = 3)";
    char text[DIGEST_TEXT_CAP];
    bool has_digest = ref->digest.algo != DIGEST_NONE;
    bool has_tag = ref->tag[0] != '\0';
    sqlite3_stmt AUTO_QUERY *q = image_db_query(&s->db, has_digest ? by_digest
                                                        : has_tag  ? by_tag
                                                                   : any);
    image_db_int(q, 1, repo);
    if (has_digest || has_tag) {
        image_db_text(q, 2, has_digest ? digest_format(&ref->digest, text) : ref->tag);
    }
    if (!has_digest && !has_tag) {
        return pick(s, q, ret, e);
    }
    int r = image_db_step(&s->db, q, e);
    if (r == 1) {
        ret->repo = repo;
        r = str_copy(ret->digest, sizeof(ret->digest), str_of(image_db_column_text(q, 1))) < 0
                ? -EIO
                : 1;
    }
    return r;
}

static int delete_tag(struct image_store *s, const struct candidate *c, const char *tag,
                      struct err *e)
{
    int r = image_db_begin(&s->db, e);
    if (r < 0) {
        return r;
    }
    sqlite3_stmt *q = image_db_query(&s->db, "DELETE FROM tags WHERE repo = ?1 AND tag = ?2");
    image_db_int(q, 1, c->repo);
    image_db_text(q, 2, tag);
    r = image_db_run(&s->db, q, e);
    if (r == 0) {
        r = let_go(s, c->repo, c->digest, 0, e);
    }
    return image_db_end(&s->db, r, e);
}

static int delete_locked(struct image_store *s, const struct image_ref *ref,
                         struct image_pruned *ret, struct err *e)
{
    struct candidate c;
    char text[IMAGE_REF_CAP];
    bool whole = ref->digest.algo == DIGEST_NONE && ref->tag[0] == '\0';
    bool by_tag = ref->digest.algo == DIGEST_NONE && !whole;
    int64_t repo = image_db_repo(&s->db, ref->repository, false, e);
    int r = repo < 0 ? (int)repo : next_of_ref(s, repo, ref, &c, e);
    if (r == 0) {
        return err_say(e, -ENOENT, "no image '%s' here", image_ref_format(ref, text));
    }
    while (r == 1) {
        ret->images++;
        r = by_tag ? delete_tag(s, &c, ref->tag, e) : evict(s, &c, e);
        if (r == 0 && whole) {
            r = next_of_ref(s, repo, ref, &c, e);
        }
    }
    if (r == 0) {
        r = tidy(s, e);
    }
    if (r == 0) {
        r = remove_dead(s, ret, e);
    }
    return r < 0 ? r : image_store_count(s, e);
}

int image_store_delete_now(struct image_store *s, const struct image_ref *ref,
                           struct image_pruned *ret, struct err *e)
{
    struct image_pruned pruned = { 0 };
    pthread_mutex_lock(&s->lock);
    int r = delete_locked(s, ref, &pruned, e);
    pthread_mutex_unlock(&s->lock);
    if (r == 0) {
        *ret = pruned;
    }
    return r;
}

/* ---- files that no row knows
 * ---------------------------------------------------------------------------- */

static void sweep_file(struct image_store *s, int dir, enum digest_algo algo, const char *name)
{
    char text[DIGEST_TEXT_CAP];
    struct stat st;
    int n = snprintf(text, sizeof(text), "%s:%s", digest_algo_name(algo), name);
    if (n < 0 || n >= (int)sizeof(text) || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
        (int64_t)st.st_mtim.tv_sec * 1000000 > sys_wall_us() - (int64_t)s->opt.grace_ms * 1000) {
        return;
    }
    pthread_mutex_lock(&s->lock);
    if (exists(s, "SELECT 1 FROM blobs WHERE digest = ?1", 0, text, NULL) == 0) {
        (void)unlinkat(dir, name, 0);
    }
    pthread_mutex_unlock(&s->lock);
}

static void sweep_dir(struct image_store *s, enum digest_algo algo, unsigned i)
{
    char path[32];
    snprintf(path, sizeof(path), "%s/%02x", digest_algo_name(algo), i);
    int fd = sys_open_dir(s->blobs, path, false);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (d == NULL) {
        fd_close(fd);
        return;
    }
    struct dirent *entry;
    while ((entry = readdir(d)) != NULL) {
        if (entry->d_name[0] != '.') {
            sweep_file(s, dirfd(d), algo, entry->d_name);
        }
    }
    closedir(d);
}

void image_store_sweep(struct image_store *s)
{
    for (unsigned i = 0; i < 256; i++) {
        sweep_dir(s, DIGEST_SHA256, i);
        sweep_dir(s, DIGEST_SHA512, i);
    }
}
