/*
 * tar_pax - the records of a pax extended header and the number fields of a tar header. Internal to
 * image/.
 */
#ifndef AGENT_IMAGE_TAR_PAX_H
#define AGENT_IMAGE_TAR_PAX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/image/tar.h"
#include "common/err.h"

/* What a pax header says of the next entry. The slices point into the header's bytes. */
struct image_pax {
    bool has_path, has_link, has_size, has_uid, has_gid, has_mtime;
    struct str path, link;
    uint64_t size, uid, gid;
    int64_t mtime_s;
    uint32_t mtime_ns;
    struct image_tar_xattr xattrs[IMAGE_TAR_XATTRS_MAX];
    size_t xattrs_len;
};

/* Changes the bytes (xattrs are decoded in place). -EBADMSG, -ENOTSUP, -E2BIG. */
int image_pax_parse(char *p, size_t n, struct image_pax *ret, struct err *e);
/* A global header: fine as long as it changes no entry. -ENOTSUP otherwise. */
int image_pax_check_global(char *p, size_t n, struct err *e);
/* Octal, or base 256 when the first bit is set. -EINVAL. */
int image_tar_number(const uint8_t *p, size_t n, int64_t *ret);

#endif
