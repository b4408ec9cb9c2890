/*
 * What a fetch asks of the store.
 */
#include <errno.h>
#include <string.h>

#include "agent/image/fetch_internal.h"

int image_fetch_load(struct image_store *s, struct image_fetch_doc *doc, struct err *e)
{
    int r = image_blob_load(s, &doc->digest, IMAGE_MANIFEST_MAX, &doc->text, e);
    if (r == -EBADMSG || r == -E2BIG) {
        return -ENOENT; /* damaged, or no manifest: what a source has is better */
    }
    return r;
}

int image_fetch_look(struct image_store *s, const char *repository, const struct image_manifest *m,
                     bool *here, struct err *e)
{
    for (size_t i = 0; i <= m->entries_len; i++) {
        const struct image_descriptor *d = i < m->entries_len ? &m->entries[i] : &m->config;
        int r = image_blob_mount(s, "", repository, &d->digest, e);
        if (r < 0 && r != -ENOENT) {
            return r;
        }
        here[i] = r == 0;
    }
    return 0;
}

int image_fetch_put(struct image_store *s, const char *repository, struct image_fetch_doc *docs,
                    size_t docs_len, const char *tag, struct err *e)
{
    const struct image_fetch_doc *last = &docs[docs_len - 1];
    for (size_t i = 0; i <= last->m.entries_len; i++) {
        const struct image_descriptor *d =
            i < last->m.entries_len ? &last->m.entries[i] : &last->m.config;
        int r = image_blob_mount(s, "", repository, &d->digest, e);
        if (r < 0 && !(r == -ENOENT && image_layer_is_foreign(d))) {
            return r;
        }
    }
    for (size_t i = docs_len; i-- > 0;) {
        bool tagged = i == 0 && tag != NULL;
        int r = image_manifest_put(s, repository, &docs[i].digest, buf_str(&docs[i].text),
                                   &docs[i].m, &tag, tagged ? 1 : 0, e);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}
