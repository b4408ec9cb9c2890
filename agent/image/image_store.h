/*
 * image_store - the images of this node: blobs by digest on disk, names and references in SQLite.
 *
 *   <data_dir>/blobs/sha256/ab/<hex>   blobs and manifests, verified before they appear under this
 * name <data_dir>/blobs/uploads/<id>      uploads on their way in; emptied at start
 *   <data_dir>/db/images.db            repositories, tags, manifests, who refers to what
 *
 * Calls are for the loop's thread; work that touches disk runs in the thread pool and answers from
 * the loop, never inside the call. Calls that return int return 0 (the callback will come) or
 * -ENOMEM or -ESHUTDOWN (it will not).
 *
 * What is kept: manifests that a tag, an index or a pin leads to, and what they refer to.
 * Everything else goes when it is older than the grace time, and over limit_bytes the least
 * recently used images go as well, unless pinned.
 */
#ifndef AGENT_IMAGE_IMAGE_STORE_H
#define AGENT_IMAGE_IMAGE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/image/image.h"
#include "common/digest.h"
#include "common/err.h"
#include "common/str.h"

struct loop;
struct image_store;

struct image_store_options {
    const char *data_dir;
    struct image_platform
        platform;            /* whom images are chosen for; os "" means image_platform_host() */
    uint64_t limit_bytes;    /* 0: no limit */
    uint64_t blob_bytes_max; /* one blob; 0: 64 GiB */
    unsigned uploads_max;    /* sessions at a time; 0: 256 */
    uint64_t upload_age_ms;  /* an idle session's life; 0: one hour */
    uint64_t grace_ms;       /* of what nothing refers to yet; 0: one hour */
};

/* Makes what is missing under data_dir/blobs and data_dir/db (both must be ours to write). Blocks
 * briefly: called at start. */
int image_store_open(struct loop *l, const struct image_store_options *opt,
                     struct image_store **ret, struct err *e);
/* Waits for what is under way; on_closed fires from the loop and the store is gone. */
void image_store_close(struct image_store *s, void (*on_closed)(void *arg), void *arg);

/* -- resolving -- */

struct image_resolved_layer {
    struct digest digest;  /* the blob: image_store_blob_open() */
    struct digest diff_id; /* of its tar stream */
    uint64_t size;         /* bytes of the blob */
    char media_type[IMAGE_MEDIA_TYPE_MAX + 1];
};

struct image_resolved {
    struct digest digest; /* of what was asked for (an index maybe): pin and show this one */
    struct digest manifest_digest; /* the image for this platform */
    struct image_config config;
    struct image_resolved_layer *layers; /* the lowest first; may be none */
    size_t layers_len;
    uint64_t size; /* bytes of config and layers */
};
struct image_resolved *image_resolved_free(struct image_resolved *r); /* returns NULL */

/* status 0: *image is the receiver's to free. -ENOENT: no such repository, tag or digest here (or a
 * part of it is missing); -EINVAL, -ENOTSUP: not an image that runs here; e has the sentence. */
typedef void image_resolve_fn(void *arg, int status, struct image_resolved *image,
                              const struct err *e);
/* By digest when the reference has one (of whatever repository), otherwise by tag. Counts as a use.
 */
int image_store_resolve(struct image_store *s, const struct image_ref *ref, image_resolve_fn *fn,
                        void *arg);
/* The digest that image_store_resolve() gave lately for this reference, when nothing in the store
 * has changed since; does not wait. -EAGAIN: not known, or the store is busy: resolve it. Any
 * thread. */
int image_store_known(struct image_store *s, const struct image_ref *ref, struct digest *ret);

/* A blob for reading: the descriptor or -Exxx (-ENOENT). One openat(): fine on the loop. Stays
 * readable when the blob is removed meanwhile. Any thread. */
int image_store_blob_open(struct image_store *s, const struct digest *d, uint64_t *ret_size);

/* While pinned, a manifest (or index) and what it refers to stay, whatever happens to its tags.
 * Counted: as many unpins as pins. Kept in memory only: pin again after a start, before the first
 * prune (which is never earlier than grace_ms after the start). */
int image_store_pin(struct image_store *s, const struct digest *d); /* 0 or -ENOMEM */
void image_store_unpin(struct image_store *s, const struct digest *d);

/* -- listing and cleaning -- */

/* text: JSON {"images":[…],"bytes","limit_bytes"}; empty with a status. Valid during the call. */
typedef void image_text_fn(void *arg, int status, struct str text, const struct err *e);
int image_store_list(struct image_store *s, image_text_fn *fn, void *arg);

struct image_pruned {
    uint64_t images; /* tags, or manifests without one */
    uint64_t blobs;
    uint64_t bytes;
};
typedef void image_pruned_fn(void *arg, int status, const struct image_pruned *pruned,
                             const struct err *e);
/* Removes a tag (ref->tag), or a manifest with all its tags (ref->digest); with neither the whole
 * repository. Then what nothing refers to any more, at once. -ENOENT. */
int image_store_delete(struct image_store *s, const struct image_ref *ref, image_pruned_fn *fn,
                       void *arg);
/* Removes what nothing refers to (older than the grace time), and the least recently used images
 * while over the limit. Runs by itself now and then. */
int image_store_prune(struct image_store *s, image_pruned_fn *fn, void *arg);
/* The DiffIDs that images here still refer to: layers of others may be removed from layers/. */
typedef void image_diff_ids_fn(void *arg, int status, const struct digest *diff_ids, size_t n,
                               const struct err *e);
int image_store_diff_ids(struct image_store *s, image_diff_ids_fn *fn, void *arg);

struct image_store_stats {
    uint64_t blobs, bytes; /* on disk, manifests counted */
    uint64_t images;       /* tags */
    uint64_t limit_bytes;
    uint64_t uploads_bytes_total, downloads_bytes_total, pruned_bytes_total;
    unsigned uploads; /* sessions open */
    unsigned pins;
};
void image_store_stats(struct image_store *s, struct image_store_stats *ret);

#endif
