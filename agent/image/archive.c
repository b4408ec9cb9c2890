/*
 * The small documents of image archives: docker save's manifest.json, and the OCI layout. Members
 * are found by name in the archive, never on a file system.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/image.h"
#include "agent/image/path.h"
#include "common/insist.h"
#include "common/json.h"
#include "common/mem.h"

enum { SAVED_MAX = 1024, SAVED_TAGS_MAX = 1024 };

int image_archive_name(struct str name, char dst[IMAGE_PATH_MAX])
{
    int r = image_path_clean(name, IMAGE_PATH_REFUSE, dst, NULL);
    return r == -EXDEV ? -EINVAL : r;
}

int image_archive_link(const char *member, struct str target, char dst[IMAGE_PATH_MAX])
{
    const char *slash = strrchr(member, '/');
    size_t dir = slash != NULL ? (size_t)(slash - member) + 1 : 0;
    AUTO_BUF struct buf full = BUF_INIT(2 * IMAGE_PATH_MAX);
    if (target.n == 0) {
        return -EINVAL;
    }
    if (target.p[0] != '/') {
        buf_add(&full, member, dir);
    }
    buf_addstr(&full, target);
    int r = buf_error(&full);
    if (r < 0) {
        return r == -ENOMEM ? r : -ENAMETOOLONG;
    }
    return image_archive_name(buf_str(&full), dst);
}

static int take_member(const struct json *v, char **ret, struct err *e)
{
    char name[IMAGE_PATH_MAX];
    struct str s;
    if (!json_str(v, &s) || image_archive_name(s, name) < 0 || name[0] == '\0') {
        return err_say(e, -EINVAL, "it does not name a file of the archive");
    }
    *ret = mem_strdup(name);
    return *ret != NULL ? 0 : -ENOMEM;
}

static int take_layers(const struct json *list, struct image_saved *saved, struct err *e)
{
    if (list == NULL || list->type != JSON_ARRAY || list->count > IMAGE_LAYERS_MAX) {
        return err_say(e, -EINVAL, "'Layers' is not an array of at most %d names",
                       IMAGE_LAYERS_MAX);
    }
    saved->layers.v = mem_calloc(list->count + 1, sizeof(char *));
    if (saved->layers.v == NULL) {
        return -ENOMEM;
    }
    JSON_EACH (v, list) {
        int r = take_member(v, &saved->layers.v[saved->layers.n], e);
        if (r < 0) {
            err_prefix(e, "Layers[%zu]", saved->layers.n);
            return r;
        }
        saved->layers.n++;
    }
    return 0;
}

static int take_tags(const struct json *list, struct image_saved *saved, struct err *e)
{
    bool none = list == NULL || list->type == JSON_NULL;
    if (!none && (list->type != JSON_ARRAY || list->count > SAVED_TAGS_MAX)) {
        return err_say(e, -EINVAL, "'RepoTags' is not an array of at most %d names",
                       SAVED_TAGS_MAX);
    }
    saved->tags.v = mem_calloc((none ? 0 : list->count) + 1, sizeof(char *));
    if (saved->tags.v == NULL) {
        return -ENOMEM;
    }
    for (const struct json *v = none ? NULL : list->child; v != NULL; v = v->next) {
        struct str s;
        if (!json_str(v, &s)) {
            return err_say(e, -EINVAL, "'RepoTags' holds %s, not a string",
                           json_type_name(v->type));
        }
        char *copy = mem_strndup(s.p, s.n);
        if (copy == NULL) {
            return -ENOMEM;
        }
        saved->tags.v[saved->tags.n++] = copy;
    }
    return 0;
}

static int take_saved(const struct json *v, struct image_saved *saved, struct err *e)
{
    if (v->type != JSON_OBJECT) {
        return err_say(e, -EINVAL, "an image is not an object");
    }
    int r = take_member(json_get(v, "Config"), &saved->config, e);
    if (r < 0) {
        err_prefix(e, "Config");
        return r;
    }
    r = take_layers(json_get(v, "Layers"), saved, e);
    return r < 0 ? r : take_tags(json_get(v, "RepoTags"), saved, e);
}

static int take_saved_list(const struct json *root, struct image_saved_list *list, struct err *e)
{
    if (root->type != JSON_ARRAY || root->count == 0 || root->count > SAVED_MAX) {
        return err_say(e, -EINVAL, "it is not an array of 1 to %d images", SAVED_MAX);
    }
    list->v = mem_calloc(root->count, sizeof(*list->v));
    if (list->v == NULL) {
        return -ENOMEM;
    }
    JSON_EACH (v, root) {
        int r = take_saved(v, &list->v[list->n++], e);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

int image_saved_parse(struct str text, struct image_saved_list *ret, struct err *e)
{
    struct image_saved_list list = { NULL, 0 };
    struct json_doc *doc = NULL;
    int r = text.n > IMAGE_MANIFEST_MAX ? err_say(e, -E2BIG, "it is too large")
                                        : json_parse(text.p, text.n, NULL, &doc, e);
    if (r == 0) {
        r = take_saved_list(json_root(doc), &list, e);
        json_free(doc);
    }
    if (r < 0) {
        image_saved_release(&list);
        err_prefix(e, "manifest.json");
        return r;
    }
    *ret = list;
    return 0;
}

void image_saved_release(struct image_saved_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        mem_free(l->v[i].config);
        image_strv_release(&l->v[i].layers);
        image_strv_release(&l->v[i].tags);
    }
    mem_free(l->v);
    *l = (struct image_saved_list){ NULL, 0 };
}

int image_layout_check(struct str text, struct err *e)
{
    struct json_doc *doc = NULL;
    struct str version = STR("");
    int r = text.n > 65536 ? err_say(e, -E2BIG, "it is too large")
                           : json_parse(text.p, text.n, NULL, &doc, e);
    if (r < 0) {
        err_prefix(e, "oci-layout");
        return r;
    }
    bool ok = json_str(json_get(json_root(doc), "imageLayoutVersion"), &version) &&
              str_starts(version, "1.");
    json_free(doc);
    return ok ? 0 : err_say(e, -ENOTSUP, "oci-layout: not of version 1");
}

char *image_layout_blob(const struct digest *d, char dst[IMAGE_BLOB_PATH_CAP])
{
    char hex[DIGEST_TEXT_CAP];
    int n = snprintf(dst, IMAGE_BLOB_PATH_CAP, "blobs/%s/%s", digest_algo_name(d->algo),
                     digest_hex(d, hex));
    INSIST(n > 0 && n < IMAGE_BLOB_PATH_CAP);
    return dst;
}
