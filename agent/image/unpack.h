/*
 * unpack - a layer blob to a tar stream, and a tar stream to a directory that overlayfs can stack.
 *
 * Both run in confined children of the launcher (user namespace with the ids 0 to 65535, no
 * network, limits): they keep no global state, touch nothing but the descriptors they are given,
 * open no /proc, start no program, and use memory that does not grow with the layer. Blocking.
 */
#ifndef AGENT_IMAGE_UNPACK_H
#define AGENT_IMAGE_UNPACK_H

#include <stdint.h>

#include "common/buf.h"
#include "common/digest.h"
#include "common/err.h"

struct image_limits {
    uint64_t bytes_max;   /* uncompressed stream, and the sum of the files' content */
    uint64_t ratio_max;   /* uncompressed to compressed, looked at from 64 MiB on; 0: any */
    uint64_t entries_max; /* of the archive, and directories made on the way */
    uint32_t id_max;      /* highest uid and gid */
    unsigned depth_max;   /* components of a path */
};

/* 16 GiB, 1,200:1 (gzip's own limit is 1,032), 2 million, 65535, 256. */
void image_limits_default(struct image_limits *ret);

struct image_stream_counts {
    uint64_t in_bytes;
    uint64_t out_bytes;
    unsigned members; /* gzip members or zstd frames; 0: it was not compressed */
};

/* Decompresses in_fd to out_fd: gzip (any number of members), zstd (any number of frames, skippable
 * ones too), or neither, told by the first bytes whatever the media type said. Windows of zstd over
 * 128 MiB are refused. ret_diff_id: the digest (of that algorithm) of what was written. -EBADMSG:
 * damaged, cut off or followed by something else; -E2BIG: a limit; -Exxx of reading or writing. */
int image_decompress_stream(int in_fd, int out_fd, enum digest_algo algo,
                            const struct image_limits *limits, struct digest *ret_diff_id,
                            struct image_stream_counts *ret_counts, struct err *e);

struct image_unpack_report {
    uint64_t entries; /* of the archive */
    uint64_t bytes;   /* content of files */
    uint64_t files, dirs, symlinks, hardlinks, fifos;
    uint64_t whiteouts, opaques;
    uint64_t devices_skipped; /* device nodes are never made */
    uint64_t xattrs_dropped;  /* all but user.* (without user.overlay.*) and security.capability */
};

/* Unpacks the tar stream in_fd into root_dirfd, an empty directory that is this layer's alone:
 * whiteouts become character devices 0:0, opaque directories are appended to `opaque` (relative to
 * the root, "." for itself, each with its NUL; at most opaque->max bytes), because only the
 * launcher can mark them. Such a path can lead through links that the layer made, and what it names
 * can be gone again: open it with RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV and
 * O_DIRECTORY, and pass over what is not there. `index` (empty, with a max of IMAGE_INDEX_MAX) gets
 * the index of the layer's programs (programs.h); it is never a reason to fail. Reads to the end of
 * in_fd also after the archive's end, so that a hashing writer never blocks. 0, or -EBADMSG,
 * -EINVAL (a name or link the rules forbid), -ENOTSUP, -E2BIG, -EDQUOT/-ENOSPC, -Exxx; the
 * directory is then half-filled and to be removed. Does not sync. */
int image_unpack_stream(int in_fd, int root_dirfd, const struct image_limits *limits,
                        struct buf *opaque, struct buf *index, struct image_unpack_report *ret,
                        struct err *e);

#endif
