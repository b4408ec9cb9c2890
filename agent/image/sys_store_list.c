/*
 * What the store shows of itself.
 */
#include <errno.h>
#include <string.h>

#include "agent/image/store_internal.h"
#include "common/mem.h"

enum { DIFF_IDS_MAX = 1 << 17 };

/* Bytes of the blobs of m (or of what m, an index, leads to) that other images need as well. */
#define SHARED_SQL \
    "coalesce((SELECT sum(b.size) FROM blobs b WHERE b.digest IN" \
    "  (SELECT f.digest FROM refs f WHERE f.kind IN (1, 2) AND (f.manifest = m.digest OR" \
    "   f.manifest IN (SELECT g.digest FROM refs g WHERE g.manifest = m.digest AND g.kind = 3)))" \
    " AND EXISTS (SELECT 1 FROM refs o WHERE o.digest = b.digest AND o.kind IN (1, 2)" \
    "  AND o.manifest <> m.digest AND o.manifest NOT IN" \
    "  (SELECT g.digest FROM refs g WHERE g.manifest = m.digest AND g.kind = 3))), 0)"

/* One row per tag; a manifest without a tag that no index names has one with a null. The size of an
 * index is that of what it leads to. */
static const char list_sql[] =
    "SELECT r.name, t.tag, h.digest, m.total + coalesce((SELECT sum(c.total) FROM refs f"
    "   JOIN manifests c ON c.digest = f.digest WHERE f.manifest = m.digest AND f.kind = 3), 0),"
    "  max(m.layers, coalesce((SELECT max(c.layers) FROM refs f JOIN manifests c"
    "   ON c.digest = f.digest WHERE f.manifest = m.digest AND f.kind = 3), 0)),"
    "  max(m.created, coalesce((SELECT max(c.created) FROM refs f JOIN manifests c"
    "   ON c.digest = f.digest WHERE f.manifest = m.digest AND f.kind = 3), 0)),"
    "  coalesce(t.pushed, h.pushed), h.used, " SHARED_SQL
    " FROM holds h JOIN repos r ON r.id = h.repo JOIN manifests m ON m.digest = h.digest"
    " LEFT JOIN tags t ON t.repo = h.repo AND t.digest = h.digest"
    " WHERE t.tag IS NOT NULL OR NOT EXISTS"
    "  (SELECT 1 FROM refs f WHERE f.digest = h.digest AND f.kind = 3)"
    " ORDER BY r.name, t.tag, h.digest";

static void write_row(struct image_store *s, struct json_w *w, sqlite3_stmt *q)
{
    json_w_obj(w);
    json_kv_cstr(w, "repository", image_db_column_text(q, 0));
    json_w_key(w, "tag");
    if (sqlite3_column_type(q, 1) == SQLITE_NULL) {
        json_w_null(w);
    } else {
        json_w_cstr(w, image_db_column_text(q, 1));
    }
    json_kv_cstr(w, "digest", image_db_column_text(q, 2));
    json_kv_int(w, "size_bytes", sqlite3_column_int64(q, 3));
    json_kv_int(w, "shared_bytes", sqlite3_column_int64(q, 8));
    json_kv_int(w, "layers", sqlite3_column_int64(q, 4));
    json_kv_time(w, "created_at", sqlite3_column_int64(q, 5));
    json_kv_time(w, "pushed_at", sqlite3_column_int64(q, 6));
    json_kv_time(w, "last_used_at", sqlite3_column_int64(q, 7));
    json_kv_bool(w, "kept", image_store_is_pinned(s, image_db_column_text(q, 2)));
    json_w_end(w);
}

int image_store_list_json(struct image_store *s, struct buf *out, struct err *e)
{
    struct image_store_stats stats;
    struct json_w w;
    int r;
    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_w_key(&w, "images");
    json_w_arr(&w);
    pthread_mutex_lock(&s->lock);
    {
        sqlite3_stmt AUTO_QUERY *q = image_db_query(&s->db, list_sql);
        while ((r = image_db_step(&s->db, q, e)) == 1) {
            write_row(s, &w, q);
        }
    }
    pthread_mutex_unlock(&s->lock);
    if (r < 0) {
        return r;
    }
    image_store_stats(s, &stats);
    json_w_end(&w);
    json_kv_u64(&w, "bytes", stats.bytes);
    json_kv_u64(&w, "limit_bytes", stats.limit_bytes);
    json_w_end(&w);
    return buf_error(out) < 0 ? err_set(e, buf_error(out), "list the images") : 0;
}

static int read_diff_ids(struct image_store *s, struct digest *list, size_t *n, struct err *e)
{
    sqlite3_stmt AUTO_QUERY *q =
        image_db_query(&s->db, "SELECT DISTINCT digest FROM refs WHERE kind = 4 ORDER BY digest");
    int r;
    while ((r = image_db_step(&s->db, q, e)) == 1) {
        if (*n == DIFF_IDS_MAX) {
            return err_say(e, -E2BIG, "more than %d layers", DIFF_IDS_MAX);
        }
        if (digest_parse(str_of(image_db_column_text(q, 0)), &list[*n], e) < 0) {
            return -EIO;
        }
        ++*n;
    }
    return r;
}

static int64_t count(struct image_store *s, const char *sql, struct err *e)
{
    sqlite3_stmt AUTO_QUERY *q = image_db_query(&s->db, sql);
    int r = image_db_step(&s->db, q, e);
    return r < 0 ? r : sqlite3_column_int64(q, 0);
}

int image_store_list_diff_ids(struct image_store *s, struct digest **ret, size_t *ret_n,
                              struct err *e)
{
    size_t n = 0;
    struct digest AUTO_MEM *list = NULL;
    pthread_mutex_lock(&s->lock);
    int64_t max = count(s, "SELECT count(*) FROM refs WHERE kind = 4", e);
    int r = max < 0 ? (int)max : 0;
    if (r == 0) {
        size_t cap = max < DIFF_IDS_MAX ? (size_t)max : DIFF_IDS_MAX;
        list = mem_calloc(cap + 1, sizeof(*list));
        r = list == NULL ? -ENOMEM : read_diff_ids(s, list, &n, e);
    }
    pthread_mutex_unlock(&s->lock);
    if (r == 0) {
        *ret = TAKE(list);
        *ret_n = n;
    }
    return r;
}

int image_store_count(struct image_store *s, struct err *e)
{
    int64_t blobs = count(s, "SELECT count(*) FROM blobs", e);
    int64_t bytes = count(s, "SELECT coalesce(sum(size), 0) FROM blobs", e);
    int64_t images = count(s, "SELECT count(*) FROM tags", e);
    if (blobs < 0 || bytes < 0 || images < 0) {
        return -EIO;
    }
    pthread_mutex_lock(&s->brief);
    s->stats.blobs = (uint64_t)blobs;
    s->stats.bytes = (uint64_t)bytes;
    s->stats.images = (uint64_t)images;
    pthread_mutex_unlock(&s->brief);
    return 0;
}
