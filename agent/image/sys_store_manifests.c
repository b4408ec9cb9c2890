/*
 * Manifests: a blob each, and rows that say what it is, where it is, and what it refers to.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/store_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

/* ---- finding -----------------------------------------------------------------------------------
 */

/* Lock held. ret_repo: the repository's id. */
static int find(struct image_store *s, const struct image_ref *ref, int64_t *ret_repo,
                struct image_manifest_info *ret, bool *ret_no_repo, struct err *e)
{
    static const char by_tag[] =
        "SELECT m.digest, m.size, m.media_type FROM tags t JOIN manifests m USING(digest)"
        " WHERE t.repo = ?1 AND t.tag = ?2";
    static const char by_digest[] =
        "SELECT m.digest, m.size, m.media_type FROM holds h JOIN manifests m USING(digest)"
        " WHERE h.repo = ?1 AND h.digest = ?2";
    char text[DIGEST_TEXT_CAP];
    bool has_digest = ref->digest.algo != DIGEST_NONE;
    *ret_repo = image_db_repo(&s->db, ref->repository, false, e);
    *ret_no_repo = *ret_repo == -ENOENT;
    if (*ret_repo < 0) {
        return (int)*ret_repo;
    }
    sqlite3_stmt AUTO_QUERY *q = image_db_query(&s->db, has_digest ? by_digest : by_tag);
    image_db_int(q, 1, *ret_repo);
    image_db_text(q, 2, has_digest ? digest_format(&ref->digest, text) : ref->tag);
    int r = image_db_step(&s->db, q, e);
    if (r <= 0) {
        return r < 0 ? r
                     : err_say(e, -ENOENT, "no manifest '%s' in '%s'", has_digest ? text : ref->tag,
                               ref->repository);
    }
    ret->size = (uint64_t)sqlite3_column_int64(q, 1);
    r = digest_parse(str_of(image_db_column_text(q, 0)), &ret->digest, e);
    if (r < 0) {
        return -EIO;
    }
    return str_copy(ret->media_type, sizeof(ret->media_type), str_of(image_db_column_text(q, 2)));
}

int image_manifest_find(struct image_store *s, const struct image_ref *ref,
                        struct image_manifest_info *ret, bool *ret_no_repo, struct err *e)
{
    int64_t repo = 0;
    pthread_mutex_lock(&s->lock);
    int r = find(s, ref, &repo, ret, ret_no_repo, e);
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* ---- putting
 * ------------------------------------------------------------------------------------- */

static int need_blob(struct image_store *s, int64_t repo, const struct image_descriptor *d,
                     struct err *e)
{
    char text[DIGEST_TEXT_CAP];
    digest_format(&d->digest, text);
    sqlite3_stmt AUTO_QUERY *q =
        image_db_query(&s->db, "SELECT b.size FROM links l JOIN blobs b USING(digest)"
                               " WHERE l.repo = ?1 AND l.digest = ?2");
    image_db_int(q, 1, repo);
    image_db_text(q, 2, text);
    int r = image_db_step(&s->db, q, e);
    if (r < 0) {
        return r;
    }
    if (r == 0) {
        return err_say(e, -ENXIO, "blob %s was not pushed to this repository", text);
    }
    if ((uint64_t)sqlite3_column_int64(q, 0) != d->size) {
        return err_say(e, -EINVAL, "blob %s has %lld bytes, not %llu", text,
                       (long long)sqlite3_column_int64(q, 0), (unsigned long long)d->size);
    }
    return 0;
}

/* A layer of another registry's may be missing, and so may an index's parts: those are only needed
 * when somebody runs them. */
static int check_blobs(struct image_store *s, int64_t repo, const struct image_manifest *m,
                       struct err *e)
{
    if (m->index) {
        return 0;
    }
    int r = need_blob(s, repo, &m->config, e);
    for (size_t i = 0; r == 0 && i < m->entries_len; i++) {
        const struct image_descriptor *d = &m->entries[i];
        if (!image_layer_is_foreign(d) && !d->has_urls) {
            r = need_blob(s, repo, d, e);
        }
    }
    return r;
}

static int add_ref(struct image_store *s, const char *manifest, const struct digest *d,
                   enum image_ref_kind kind, struct err *e)
{
    char text[DIGEST_TEXT_CAP];
    sqlite3_stmt *q = image_db_query(
        &s->db, "INSERT OR IGNORE INTO refs(manifest, digest, kind) VALUES(?1, ?2, ?3)");
    image_db_text(q, 1, manifest);
    image_db_text(q, 2, digest_format(d, text));
    image_db_int(q, 3, (int64_t)kind);
    return image_db_run(&s->db, q, e);
}

static int add_refs(struct image_store *s, const char *manifest, const struct image_manifest *m,
                    const struct image_config *config, struct err *e)
{
    int r = 0;
    if (!m->index) {
        r = add_ref(s, manifest, &m->config.digest, IMAGE_REFERS_CONFIG, e);
    }
    for (size_t i = 0; r == 0 && i < m->entries_len; i++) {
        r = add_ref(s, manifest, &m->entries[i].digest,
                    m->index ? IMAGE_REFERS_MANIFEST : IMAGE_REFERS_LAYER, e);
    }
    for (size_t i = 0; r == 0 && i < config->diff_ids_len; i++) {
        r = add_ref(s, manifest, &config->diff_ids[i], IMAGE_REFERS_DIFF_ID, e);
    }
    return r;
}

static int add_manifest(struct image_store *s, const char *digest, size_t size,
                        const struct image_manifest *m, const struct image_config *config,
                        struct err *e)
{
    char subject[DIGEST_TEXT_CAP];
    uint64_t total = size + m->config.size;
    for (size_t i = 0; !m->index && i < m->entries_len; i++) {
        total += m->entries[i].size;
    }
    sqlite3_stmt *q = image_db_query(
        &s->db, "INSERT INTO manifests(digest, media_type, size, total, layers, created, subject,"
                " artifact_type, annotations) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
                " ON CONFLICT(digest) DO UPDATE SET media_type = ?2");
    image_db_text(q, 1, digest);
    image_db_text(q, 2, m->media_type);
    image_db_int(q, 3, (int64_t)size);
    image_db_int(q, 4, (int64_t)(total & INT64_MAX));
    image_db_int(q, 5, m->index ? 0 : (int64_t)m->entries_len);
    image_db_int(q, 6, config->created_us);
    image_db_text(q, 7, m->has_subject ? digest_format(&m->subject, subject) : NULL);
    image_db_text(q, 8, m->artifact_type);
    image_db_text(q, 9, m->annotations);
    int r = image_db_run(&s->db, q, e);
    return r < 0 ? r : add_refs(s, digest, m, config, e);
}

static int hold(struct image_store *s, int64_t repo, const char *digest, const char *const *tags,
                size_t tags_len, struct err *e)
{
    int64_t now = sys_wall_us();
    sqlite3_stmt *q = image_db_query(
        &s->db, "INSERT INTO holds(repo, digest, pushed, used) VALUES(?1, ?2, ?3, ?3)"
                " ON CONFLICT(repo, digest) DO UPDATE SET pushed = ?3, used = ?3");
    image_db_int(q, 1, repo);
    image_db_text(q, 2, digest);
    image_db_int(q, 3, now);
    int r = image_db_run(&s->db, q, e);
    for (size_t i = 0; r == 0 && i < tags_len; i++) {
        q = image_db_query(&s->db,
                           "INSERT INTO tags(repo, tag, digest, pushed) VALUES(?1, ?2, ?3, ?4)"
                           " ON CONFLICT(repo, tag) DO UPDATE SET digest = ?3, pushed = ?4");
        image_db_int(q, 1, repo);
        image_db_text(q, 2, tags[i]);
        image_db_text(q, 3, digest);
        image_db_int(q, 4, now);
        r = image_db_run(&s->db, q, e);
    }
    return r;
}

/* The config tells when the image was made and which layers it unpacks to; an artifact's may be
 * anything and tells nothing. */
static void load_config(struct image_store *s, const struct image_manifest *m,
                        struct image_config *config)
{
    AUTO_BUF struct buf text = BUF_INIT(IMAGE_CONFIG_MAX + 1);
    if (m->index || (strcmp(m->config.media_type, IMAGE_TYPE_OCI_CONFIG) != 0 &&
                     strcmp(m->config.media_type, IMAGE_TYPE_DOCKER_CONFIG) != 0)) {
        return;
    }
    if (image_blob_load(s, &m->config.digest, IMAGE_CONFIG_MAX, &text, NULL) == 0) {
        (void)image_config_parse(buf_str(&text), config, NULL);
    }
}

struct put {
    const char *repo;
    const char *digest;
    size_t size;
    const struct image_manifest *m;
    const struct image_config *config;
    const char *const *tags;
    size_t tags_len;
};

/* Lock held. */
static int put_rows(struct image_store *s, const struct put *p, struct err *e)
{
    int64_t repo = image_db_repo(&s->db, p->repo, true, e);
    int r = repo < 0 ? (int)repo : check_blobs(s, repo, p->m, e);
    if (r == 0) {
        r = add_manifest(s, p->digest, p->size, p->m, p->config, e);
    }
    return r < 0 ? r : hold(s, repo, p->digest, p->tags, p->tags_len, e);
}

int image_manifest_put(struct image_store *s, const char *repo, const struct digest *d,
                       struct str text, const struct image_manifest *m, const char *const *tags,
                       size_t tags_len, struct err *e)
{
    char digest[DIGEST_TEXT_CAP];
    struct image_config config;
    memset(&config, 0, sizeof(config));
    int r = image_blob_write(s, d, text.p, text.n, e);
    if (r < 0) {
        return r;
    }
    load_config(s, m, &config);
    struct put put = {
        .repo = repo,
        .digest = digest_format(d, digest),
        .size = text.n,
        .m = m,
        .config = &config,
        .tags = tags,
        .tags_len = tags_len,
    };
    pthread_mutex_lock(&s->lock);
    r = image_db_begin(&s->db, e);
    if (r == 0) {
        r = image_db_end(&s->db, put_rows(s, &put, e), e);
    }
    if (r == 0) {
        r = image_store_count(s, e);
    }
    pthread_mutex_unlock(&s->lock);
    image_config_release(&config);
    return r;
}

/* ---- deleting
 * ---------------------------------------------------------------------------------------- */

static int delete_rows(struct image_store *s, int64_t repo, const struct image_ref *ref,
                       const struct image_manifest_info *info, struct err *e)
{
    char text[DIGEST_TEXT_CAP];
    sqlite3_stmt *q;
    if (ref->digest.algo == DIGEST_NONE) {
        q = image_db_query(&s->db, "DELETE FROM tags WHERE repo = ?1 AND tag = ?2");
        image_db_int(q, 1, repo);
        image_db_text(q, 2, ref->tag);
        return image_db_run(&s->db, q, e);
    }
    digest_format(&info->digest, text);
    q = image_db_query(&s->db, "DELETE FROM tags WHERE repo = ?1 AND digest = ?2");
    image_db_int(q, 1, repo);
    image_db_text(q, 2, text);
    int r = image_db_run(&s->db, q, e);
    if (r == 0) {
        q = image_db_query(&s->db, "DELETE FROM holds WHERE repo = ?1 AND digest = ?2");
        image_db_int(q, 1, repo);
        image_db_text(q, 2, text);
        r = image_db_run(&s->db, q, e);
    }
    return r < 0 ? r : image_manifest_drop(s, text, e);
}

static int delete_locked(struct image_store *s, const struct image_ref *ref, bool *ret_no_repo,
                         struct err *e)
{
    struct image_manifest_info info;
    int64_t repo = 0;
    int r = find(s, ref, &repo, &info, ret_no_repo, e);
    return r < 0 ? r : delete_rows(s, repo, ref, &info, e);
}

int image_manifest_delete(struct image_store *s, const struct image_ref *ref, bool *ret_no_repo,
                          struct err *e)
{
    pthread_mutex_lock(&s->lock);
    *ret_no_repo = false;
    int r = image_db_begin(&s->db, e);
    if (r == 0) {
        r = image_db_end(&s->db, delete_locked(s, ref, ret_no_repo, e), e);
    }
    if (r == 0) {
        r = image_store_count(s, e);
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* ---- lists
 * --------------------------------------------------------------------------------------------- */

/* Writes up to n names; sets ret_last when there is one more. */
static int write_names(struct image_store *s, sqlite3_stmt *q, uint64_t n, struct json_w *w,
                       char *ret_last, size_t cap, struct err *e)
{
    char last[IMAGE_NAME_MAX + 1] = "";
    ret_last[0] = '\0';
    for (uint64_t i = 0;; i++) {
        int r = image_db_step(&s->db, q, e);
        if (r <= 0) {
            return r;
        }
        if (i == n) {
            return str_copy(ret_last, cap, str_of(last));
        }
        struct str name = str_of(image_db_column_text(q, 0));
        json_w_str(w, name);
        if (str_copy(last, sizeof(last), name) < 0) {
            return -EIO;
        }
    }
}

int image_store_names(struct image_store *s, const char *repo, const char *after, uint64_t n,
                      struct json_w *w, char ret_last[IMAGE_NAME_MAX + 1], struct err *e)
{
    static const char tags[] =
        "SELECT tag FROM tags WHERE repo = ?1 AND tag > ?2 ORDER BY tag LIMIT ?3";
    /* A repository is there while it has a manifest. */
    static const char repos[] =
        "SELECT name FROM repos r WHERE name > ?2"
        " AND EXISTS(SELECT 1 FROM holds h WHERE h.repo = r.id) ORDER BY name LIMIT ?3";
    pthread_mutex_lock(&s->lock);
    int64_t id = repo != NULL ? image_db_repo(&s->db, repo, false, e) : 0;
    int r = id < 0 ? (int)id : 0;
    if (r == 0) {
        sqlite3_stmt AUTO_QUERY *q = image_db_query(&s->db, repo != NULL ? tags : repos);
        if (repo != NULL) {
            image_db_int(q, 1, id);
        }
        image_db_text(q, 2, after);
        image_db_int(q, 3, (int64_t)n + 1);
        r = write_names(s, q, n, w, ret_last, IMAGE_NAME_MAX + 1, e);
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

static void write_referrer(struct json_w *w, sqlite3_stmt *q)
{
    const char *type = image_db_column_text(q, 3);
    const char *annotations = image_db_column_text(q, 4);
    json_w_obj(w);
    json_kv_cstr(w, "mediaType", image_db_column_text(q, 1));
    json_kv_cstr(w, "digest", image_db_column_text(q, 0));
    json_kv_int(w, "size", sqlite3_column_int64(q, 2));
    if (type[0] != '\0') {
        json_kv_cstr(w, "artifactType", type);
    }
    if (annotations[0] != '\0') {
        json_w_key(w, "annotations");
        json_w_raw(w, str_of(annotations));
    }
    json_w_end(w);
}

static int write_referrers(struct image_store *s, sqlite3_stmt *q, uint64_t n, struct json_w *w,
                           char ret_last[DIGEST_TEXT_CAP], struct err *e)
{
    char last[DIGEST_TEXT_CAP] = "";
    ret_last[0] = '\0';
    for (uint64_t i = 0;; i++) {
        int r = image_db_step(&s->db, q, e);
        if (r <= 0) {
            return r;
        }
        /* Annotations can make it long: a page ends by its size as well. */
        if (i == n || (i > 0 && w->out->len > IMAGE_MANIFEST_MAX / 2)) {
            return str_copy(ret_last, DIGEST_TEXT_CAP, str_of(last));
        }
        write_referrer(w, q);
        if (str_copy(last, sizeof(last), str_of(image_db_column_text(q, 0))) < 0) {
            return -EIO;
        }
    }
}

int image_store_referrers(struct image_store *s, const char *repo, const struct digest *d,
                          const char *artifact_type, const char *after, uint64_t n,
                          struct json_w *w, char ret_last[DIGEST_TEXT_CAP], struct err *e)
{
    char text[DIGEST_TEXT_CAP];
    ret_last[0] = '\0';
    pthread_mutex_lock(&s->lock);
    int64_t id = image_db_repo(&s->db, repo, false, NULL);
    int r = id < 0 && id != -ENOENT ? (int)id : 0;
    if (id > 0) {
        sqlite3_stmt AUTO_QUERY *q = image_db_query(
            &s->db, "SELECT m.digest, m.media_type, m.size, m.artifact_type, m.annotations"
                    " FROM manifests m JOIN holds h ON h.repo = ?1 AND h.digest = m.digest"
                    " WHERE m.subject = ?2 AND (?3 = '' OR m.artifact_type = ?3)"
                    " AND m.digest > ?4 ORDER BY m.digest LIMIT ?5");
        image_db_int(q, 1, id);
        image_db_text(q, 2, digest_format(d, text));
        image_db_text(q, 3, artifact_type);
        image_db_text(q, 4, after);
        image_db_int(q, 5, (int64_t)n + 1);
        r = write_referrers(s, q, n, w, ret_last, e);
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}
