/*
 * sys_archive - members of an image archive on disk: a tar file, also compressed by gzip or zstd,
 * or a directory with the same content. Member names are in image_archive_name()'s form.
 *
 * A compressed archive is unpacked once into a file without a name in TMPDIR, so that members can
 * be read in any order with little memory.
 */
#ifndef AGENT_CLI_SYS_ARCHIVE_H
#define AGENT_CLI_SYS_ARCHIVE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/buf.h"
#include "common/err.h"

struct cli_archive;

/* 0 or -Exxx: no such file, no archive, broken, more than 65,536 members. */
int cli_archive_open(const char *path, struct cli_archive **ret, struct err *e);
struct cli_archive *cli_archive_free(struct cli_archive *a); /* returns NULL */
static inline void cli_archive_cleanup(struct cli_archive **a)
{
    *a = cli_archive_free(*a);
}
#define AUTO_ARCHIVE __attribute__((cleanup(cli_archive_cleanup)))

/* One member, open for reading. */
struct cli_member {
    int fd; /* its own */
    uint64_t offset;
    uint64_t size;
};

/* Follows links inside the archive. -ENOENT. */
int cli_archive_member(const struct cli_archive *a, const char *name, struct cli_member *ret,
                       struct err *e);
bool cli_archive_has(const struct cli_archive *a, const char *name);
/* A small member as a whole. -E2BIG over max. */
int cli_archive_read(const struct cli_archive *a, const char *name, size_t max, struct buf *out,
                     struct err *e);

/* Copies what in_fd holds, uncompressed: gzip (all members) and zstd (all frames) by their magic,
 * anything else as it is. out_fd may be -1 to only learn *ret_compressed. */
int cli_unzip(int in_fd, int out_fd, bool *ret_compressed, struct err *e);

#endif
