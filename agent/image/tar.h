/*
 * tar - a strict reader of tar streams: ustar, pax and GNU's long names. Pure: the owner feeds
 * bytes and takes one event at a time, as with http1.h.
 *
 * Readers that disagree about an archive are how hostile layers get in. So what two readers could
 * understand differently is refused: a size on an entry without content, NUL inside names, names
 * from pax and GNU headers at once, global headers that change entries, unknown types, sparse
 * files, star's header, bad numbers. Accepted because real tools write it: an archive without its
 * end marker, a last file without its padding, anything after the end marker.
 */
#ifndef AGENT_IMAGE_TAR_H
#define AGENT_IMAGE_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/str.h"

enum {
    IMAGE_TAR_PATH_MAX = 4096,        /* bytes of a name or link target */
    IMAGE_TAR_HEADERS_MAX = 1 << 20,  /* bytes of one entry's pax header */
    IMAGE_TAR_XATTRS_MAX = 128,       /* of one entry */
    IMAGE_TAR_XATTR_SIZE_MAX = 65536, /* the kernel's XATTR_SIZE_MAX */
    IMAGE_TAR_XATTR_NAME_MAX = 255,
};

enum image_tar_type {
    IMAGE_TAR_FILE,
    IMAGE_TAR_HARDLINK,
    IMAGE_TAR_SYMLINK,
    IMAGE_TAR_CHAR,
    IMAGE_TAR_BLOCK,
    IMAGE_TAR_DIR,
    IMAGE_TAR_FIFO,
};

struct image_tar_xattr {
    struct str name;
    struct str value;
};

struct image_tar_entry {
    enum image_tar_type type;
    struct str path; /* as written, followed by a NUL; not empty, without NUL */
    struct str link; /* likewise, for links; may be empty for nothing else */
    uint32_t mode;   /* 07777 */
    uint64_t uid, gid;
    uint64_t size; /* content that follows; 0 unless a file */
    int64_t mtime_s;
    uint32_t mtime_ns;
    const struct image_tar_xattr *xattrs;
    size_t xattrs_len;
};

enum image_tar_event { IMAGE_TAR_MORE, IMAGE_TAR_ENTRY, IMAGE_TAR_DATA, IMAGE_TAR_END };

struct image_tar;

int image_tar_new(struct image_tar **ret); /* -ENOMEM */
struct image_tar *image_tar_free(struct image_tar *t);

/* Takes up to n bytes at p. Sets *ret_used and returns an enum image_tar_event:
 * IMAGE_TAR_MORE   all consumed, nothing to say yet;
 * IMAGE_TAR_ENTRY  image_tar_entry() is complete; its content follows as DATA;
 * IMAGE_TAR_DATA   *ret_data is a slice of the caller's bytes;
 * IMAGE_TAR_END    the end marker; everything after it is to be ignored.
 * Or negative: -EBADMSG malformed, -ENOTSUP, -E2BIG, -ENOMEM; then it stays failed. */
int image_tar_feed(struct image_tar *t, const char *p, size_t n, size_t *ret_used,
                   struct str *ret_data, struct err *e);
/* The stream ended: 0, or -EBADMSG in the middle of an entry. */
int image_tar_finish(struct image_tar *t, struct err *e);
/* Valid from IMAGE_TAR_ENTRY until the next call that follows its content. */
const struct image_tar_entry *image_tar_entry(const struct image_tar *t);

static inline void image_tar_cleanup(struct image_tar **t)
{
    *t = image_tar_free(*t);
}
#define AUTO_IMAGE_TAR __attribute__((cleanup(image_tar_cleanup)))

#endif
