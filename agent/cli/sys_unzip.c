/* The compression around an archive. */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "agent/cli/sys_archive.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { PIECE = 256 * 1024, WINDOW_LOG_MAX = 27 /* 128 MiB, what zstd itself takes by default */ };

struct unzip {
    int in_fd, out_fd;
    size_t len; /* bytes in `in` */
    unsigned char in[PIECE];
    unsigned char out[PIECE];
};

static int bad(struct err *e, const char *why)
{
    return err_say(e, -EBADMSG, "the compressed archive is broken: %s", why);
}

static int refill(struct unzip *u, struct err *e)
{
    ssize_t n = sys_read(u->in_fd, u->in, sizeof(u->in));
    if (n < 0) {
        return err_set(e, (int)n, "read the archive");
    }
    u->len = (size_t)n;
    return 0;
}

static int put(struct unzip *u, size_t n, struct err *e)
{
    int rc = sys_write_full(u->out_fd, u->out, n);
    return rc == 0 ? 0 : err_set(e, rc, "write the archive's content to TMPDIR");
}

static int gunzip(struct unzip *u, struct err *e)
{
    z_stream z = { .next_in = u->in, .avail_in = (uInt)u->len };
    if (inflateInit2(&z, 15 + 16) != Z_OK) {
        return err_set(e, -ENOMEM, "gunzip");
    }
    int rc = 0;
    bool inside = true; /* in a gzip member */
    while (rc == 0) {
        if (z.avail_in == 0) {
            rc = refill(u, e);
            z.next_in = u->in;
            z.avail_in = (uInt)u->len;
            if (rc == 0 && u->len == 0) {
                rc = inside ? bad(e, "it ends too early") : 0;
                break;
            }
        }
        if (rc == 0 && !inside) {
            /* Behind a member: another one, or padding. */
            if (z.next_in[0] != 0x1f) {
                break;
            }
            (void)inflateReset(&z);
            inside = true;
        }
        z.next_out = u->out;
        z.avail_out = sizeof(u->out);
        int zrc = rc == 0 ? inflate(&z, Z_NO_FLUSH) : Z_OK;
        if (zrc != Z_OK && zrc != Z_STREAM_END && zrc != Z_BUF_ERROR) {
            rc = bad(e, z.msg != NULL ? z.msg : "bad gzip data");
        } else if (rc == 0) {
            rc = put(u, sizeof(u->out) - z.avail_out, e);
            inside = zrc != Z_STREAM_END;
        }
    }
    (void)inflateEnd(&z);
    return rc;
}

static int unzstd(struct unzip *u, struct err *e)
{
    ZSTD_DCtx *z = ZSTD_createDCtx();
    if (z == NULL) {
        return err_set(e, -ENOMEM, "unzstd");
    }
    (void)ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, WINDOW_LOG_MAX);
    int rc = 0;
    size_t left = 1; /* 0: between two frames */
    while (rc == 0 && u->len > 0) {
        ZSTD_inBuffer in = { .src = u->in, .size = u->len };
        ZSTD_outBuffer out = { .dst = u->out, .size = sizeof(u->out), .pos = sizeof(u->out) };
        /* A full output means that there may be more of it without further input. */
        while (rc == 0 && (in.pos < in.size || out.pos == out.size)) {
            out.pos = 0;
            left = ZSTD_decompressStream(z, &out, &in);
            rc = ZSTD_isError(left) != 0 ? bad(e, ZSTD_getErrorName(left)) : put(u, out.pos, e);
        }
        if (rc == 0) {
            rc = refill(u, e);
        }
    }
    (void)ZSTD_freeDCtx(z);
    return rc == 0 && left != 0 ? bad(e, "it ends too early") : rc;
}

int cli_unzip(int in_fd, int out_fd, bool *ret_compressed, struct err *e)
{
    unsigned char magic[4] = { 0 };
    ssize_t n = sys_pread_full(in_fd, magic, sizeof(magic), 0);
    if (n < 0) {
        return err_set(e, (int)n, "read the archive");
    }
    bool is_gzip = n >= 2 && magic[0] == 0x1f && magic[1] == 0x8b;
    /* A frame, or a skippable one before it. */
    bool is_zstd =
        n == 4 && ((memcmp(magic, "\x28\xb5\x2f\xfd", 4) == 0) ||
                   ((magic[0] & 0xf0) == 0x50 && memcmp(magic + 1, "\x2a\x4d\x18", 3) == 0));
    *ret_compressed = is_gzip || is_zstd;
    if (!*ret_compressed || out_fd < 0) {
        return 0;
    }
    struct unzip *u = mem_alloc(sizeof(*u));
    if (u == NULL) {
        return err_set(e, -ENOMEM, "unpack the archive");
    }
    u->in_fd = in_fd;
    u->out_fd = out_fd;
    int rc = refill(u, e);
    if (rc == 0) {
        rc = is_gzip ? gunzip(u, e) : unzstd(u, e);
    }
    mem_free(u);
    return rc;
}
