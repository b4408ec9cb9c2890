/*
 * From a name to what has to be run: index, manifest, config, layers. Each document is read from
 * its blob, hashed again, and checked against the descriptor that led to it.
 */
#include <errno.h>
#include <string.h>

#include "agent/image/store_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { USE_EVERY_S = 60 };

struct image_resolved *image_resolved_free(struct image_resolved *r)
{
    if (r != NULL) {
        image_config_release(&r->config);
        mem_free(r->layers);
        mem_free(r);
    }
    return NULL;
}

/* Of whatever repository. */
static int find_digest(struct image_store *s, const struct digest *d,
                       struct image_manifest_info *ret, struct err *e)
{
    char text[DIGEST_TEXT_CAP];
    sqlite3_stmt AUTO_QUERY *q =
        image_db_query(&s->db, "SELECT size, media_type FROM manifests WHERE digest = ?1");
    image_db_text(q, 1, digest_format(d, text));
    int r = image_db_step(&s->db, q, e);
    if (r <= 0) {
        return r < 0 ? r : err_say(e, -ENOENT, "no image %s here", text);
    }
    ret->digest = *d;
    ret->size = (uint64_t)sqlite3_column_int64(q, 0);
    return str_copy(ret->media_type, sizeof(ret->media_type), str_of(image_db_column_text(q, 1)));
}

/* Written at most once a minute. */
static int count_use(struct image_store *s, const struct digest *d, struct err *e)
{
    char text[DIGEST_TEXT_CAP];
    int64_t now = sys_wall_us();
    sqlite3_stmt *q =
        image_db_query(&s->db, "UPDATE holds SET used = ?2 WHERE digest = ?1 AND used < ?3");
    image_db_text(q, 1, digest_format(d, text));
    image_db_int(q, 2, now);
    image_db_int(q, 3, now - (int64_t)USE_EVERY_S * 1000000);
    return image_db_run(&s->db, q, e);
}

static int find_start(struct image_store *s, const struct image_ref *ref,
                      struct image_manifest_info *ret, struct err *e)
{
    bool no_repo = false;
    int r;
    if (ref->digest.algo == DIGEST_NONE) {
        r = image_manifest_find(s, ref, ret, &no_repo, e);
        if (r == -ENOENT) {
            char text[IMAGE_REF_CAP];
            return err_say(e, r, "no image '%s' here", image_ref_format(ref, text));
        }
    } else {
        pthread_mutex_lock(&s->lock);
        r = find_digest(s, &ref->digest, ret, e);
        pthread_mutex_unlock(&s->lock);
    }
    if (r == 0) {
        pthread_mutex_lock(&s->lock);
        r = count_use(s, &ret->digest, e);
        pthread_mutex_unlock(&s->lock);
    }
    return r;
}

static int load_manifest(struct image_store *s, const struct image_manifest_info *at,
                         struct image_manifest *ret, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(IMAGE_MANIFEST_MAX + 1);
    int r = image_blob_load(s, &at->digest, IMAGE_MANIFEST_MAX, &text, e);
    if (r < 0) {
        return r;
    }
    if (text.len != at->size) {
        return err_say(e, -EINVAL, "a manifest has %zu bytes, not %llu as said", text.len,
                       (unsigned long long)at->size);
    }
    return image_manifest_parse(buf_str(&text), str_of(at->media_type), ret, e);
}

/* Goes down through indexes. *at becomes the manifest. */
static int find_manifest(struct image_store *s, struct image_manifest_info *at,
                         struct image_manifest *ret, struct err *e)
{
    for (unsigned depth = 0;; depth++) {
        int r = load_manifest(s, at, ret, e);
        if (r < 0 || !ret->index) {
            return r;
        }
        size_t i = 0;
        r = depth == IMAGE_INDEX_DEPTH_MAX
                ? err_say(e, -EINVAL, "indexes are nested more than %d deep", IMAGE_INDEX_DEPTH_MAX)
                : image_index_select(ret, &s->opt.platform, &i, e);
        if (r == 0) {
            at->digest = ret->entries[i].digest;
            at->size = ret->entries[i].size;
            memcpy(at->media_type, ret->entries[i].media_type, sizeof(at->media_type));
        }
        image_manifest_release(ret);
        if (r < 0) {
            return r == -ENOENT ? -ENOTSUP : r;
        }
    }
}

static int check_layers(const struct image_manifest *m, const struct image_config *c, struct err *e)
{
    if (m->entries_len != c->diff_ids_len) {
        return err_say(e, -EINVAL, "the image has %zu layers, but its config says %zu",
                       m->entries_len, c->diff_ids_len);
    }
    if (m->entries_len == 0) {
        return err_say(e, -EINVAL, "the image has no layers");
    }
    INSIST(m->entries_len <= IMAGE_LAYERS_MAX); /* the config's parser saw to it */
    for (size_t i = 0; i < m->entries_len; i++) {
        if (!image_layer_type_ok(str_of(m->entries[i].media_type))) {
            return err_say(e, -ENOTSUP, "layers of the type '%s' are not supported",
                           m->entries[i].media_type);
        }
    }
    return 0;
}

static int take_layers(struct image_store *s, const struct image_manifest *m,
                       struct image_resolved *image, struct err *e)
{
    int r = check_layers(m, &image->config, e);
    if (r < 0) {
        return r;
    }
    image->layers = mem_calloc(m->entries_len, sizeof(*image->layers));
    if (image->layers == NULL) {
        return -ENOMEM;
    }
    image->layers_len = m->entries_len;
    for (size_t i = 0; i < m->entries_len; i++) {
        struct image_resolved_layer *layer = &image->layers[i];
        char text[DIGEST_TEXT_CAP];
        uint64_t size = 0;
        layer->digest = m->entries[i].digest;
        layer->diff_id = image->config.diff_ids[i];
        layer->size = m->entries[i].size;
        memcpy(layer->media_type, m->entries[i].media_type, sizeof(layer->media_type));
        int AUTO_FD fd = image_store_blob_open(s, &layer->digest, &size);
        if (fd < 0 || size != layer->size) {
            return err_say(e, -ENOENT, "layer %s of the image is not here",
                           digest_format(&layer->digest, text));
        }
        image->size += size;
    }
    return 0;
}

static int fill(struct image_store *s, const struct image_manifest *m, struct image_resolved *image,
                struct err *e)
{
    const char *type = m->config.media_type;
    if (strcmp(type, IMAGE_TYPE_OCI_CONFIG) != 0 && strcmp(type, IMAGE_TYPE_DOCKER_CONFIG) != 0) {
        return err_say(e, -ENOTSUP, "it is an artifact ('%s'), not an image", type);
    }
    AUTO_BUF struct buf text = BUF_INIT(IMAGE_CONFIG_MAX + 1);
    int r = image_blob_load(s, &m->config.digest, IMAGE_CONFIG_MAX, &text, e);
    if (r == 0) {
        r = image_config_parse(buf_str(&text), &image->config, e);
    }
    if (r == 0) {
        r = image_config_check(&image->config, &s->opt.platform, e);
    }
    image->size = text.len;
    return r < 0 ? r : take_layers(s, m, image, e);
}

int image_store_resolve_now(struct image_store *s, const struct image_ref *ref,
                            struct image_resolved **ret, struct err *e)
{
    struct image_manifest_info at;
    struct image_manifest m;
    pthread_mutex_lock(&s->lock);
    int changes = image_memo_changes(s);
    pthread_mutex_unlock(&s->lock);
    int r = find_start(s, ref, &at, e);
    if (r < 0) {
        return r;
    }
    const struct digest found = at.digest;
    struct image_resolved *image = mem_zalloc(sizeof(*image));
    if (image == NULL) {
        return err_set(e, -ENOMEM, "resolve an image");
    }
    image->digest = at.digest;
    r = find_manifest(s, &at, &m, e);
    if (r == 0) {
        image->manifest_digest = at.digest;
        r = fill(s, &m, image, e);
        image_manifest_release(&m);
    }
    if (r < 0) {
        image_resolved_free(image);
        char text[IMAGE_REF_CAP];
        err_prefix(e, "image '%s'", image_ref_format(ref, text));
        return r;
    }
    pthread_mutex_lock(&s->lock);
    if (image_memo_changes(s) == changes) { /* else the next one keeps it */
        image_memo_keep(s, ref, &found, changes);
    }
    pthread_mutex_unlock(&s->lock);
    *ret = image;
    return 0;
}
