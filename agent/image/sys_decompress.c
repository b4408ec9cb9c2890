/*
 * A blob to the stream that it holds. One loop reads and writes; the formats only turn bytes into
 * bytes. The first bytes decide: media types lie.
 */
#include <errno.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "agent/image/unpack.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    IN_SIZE = 128 * 1024,
    OUT_SIZE = 256 * 1024,
    ZSTD_WINDOW_LOG_MAX = 27, /* 128 MiB: what zstd's own program takes without being told */
};
static const uint64_t ratio_free_bytes = 64ULL << 20;

struct inflater {
    int in_fd, out_fd;
    const struct image_limits *limits;
    struct image_stream_counts counts;
    struct digest_ctx *digest;
    uint8_t *in, *out;
    size_t in_len; /* bytes in `in` that are not used yet begin at in_at */
    size_t in_at;
    bool in_ended;
};

void image_limits_default(struct image_limits *ret)
{
    *ret = (struct image_limits){
        .bytes_max = 16ULL << 30,
        .ratio_max = 1200,
        .entries_max = 2000000,
        .id_max = 65535,
        .depth_max = 256,
    };
}

/* Fills `in` when it is used up. */
static int refill(struct inflater *f, struct err *e)
{
    if (f->in_at < f->in_len || f->in_ended) {
        return 0;
    }
    ssize_t n = sys_read(f->in_fd, f->in, IN_SIZE);
    if (n < 0) {
        return err_set(e, (int)n, "read the layer");
    }
    f->in_at = 0;
    f->in_len = (size_t)n;
    f->in_ended = n == 0;
    f->counts.in_bytes += (uint64_t)n;
    return 0;
}

static int emit(struct inflater *f, const void *p, size_t n, struct err *e)
{
    if (n == 0) {
        return 0;
    }
    f->counts.out_bytes += n;
    if (f->counts.out_bytes > f->limits->bytes_max) {
        return err_say(e, -E2BIG, "the layer is larger than %llu bytes when unpacked",
                       (unsigned long long)f->limits->bytes_max);
    }
    /* What is read ahead makes the ratio look smaller, by one buffer: not worth a subtraction. */
    if (f->limits->ratio_max > 0 && f->counts.out_bytes > ratio_free_bytes &&
        f->counts.out_bytes / f->limits->ratio_max > f->counts.in_bytes) {
        return err_say(e, -E2BIG, "the layer is compressed more than %llu:1",
                       (unsigned long long)f->limits->ratio_max);
    }
    digest_ctx_update(f->digest, p, n);
    int r = sys_write_full(f->out_fd, p, n);
    return r < 0 ? err_set(e, r, "write the layer's stream") : 0;
}

static int copy_plain(struct inflater *f, struct err *e)
{
    for (;;) {
        int r = refill(f, e);
        if (r < 0 || f->in_at == f->in_len) {
            return r;
        }
        r = emit(f, f->in + f->in_at, f->in_len - f->in_at, e);
        if (r < 0) {
            return r;
        }
        f->in_at = f->in_len;
    }
}

/* What follows the last member: padding is fine, anything else is not (Go's reader says the same,
 * so no image that works elsewhere has it). */
static int check_padding(struct inflater *f, struct err *e)
{
    for (;;) {
        int r = refill(f, e);
        if (r < 0 || f->in_at == f->in_len) {
            return r;
        }
        for (; f->in_at < f->in_len; f->in_at++) {
            if (f->in[f->in_at] != 0) {
                return err_say(e, -EBADMSG, "gzip: something else follows the last member");
            }
        }
    }
}

static int gunzip_member(struct inflater *f, z_stream *z, struct err *e)
{
    int zr = Z_OK;
    while (zr != Z_STREAM_END) {
        int r = refill(f, e);
        if (r < 0) {
            return r;
        }
        z->next_in = f->in + f->in_at;
        z->avail_in = (uInt)(f->in_len - f->in_at);
        z->next_out = f->out;
        z->avail_out = OUT_SIZE;
        zr = inflate(z, Z_NO_FLUSH);
        f->in_at = f->in_len - z->avail_in;
        if (zr == Z_MEM_ERROR) {
            return -ENOMEM;
        }
        if (zr != Z_OK && zr != Z_STREAM_END && zr != Z_BUF_ERROR) {
            return err_say(e, -EBADMSG, "gzip: %s", z->msg != NULL ? z->msg : "damaged");
        }
        size_t made = OUT_SIZE - z->avail_out;
        if (zr != Z_STREAM_END && made == 0 && f->in_ended) {
            return err_say(e, -EBADMSG, "gzip: the layer is cut off");
        }
        r = emit(f, f->out, made, e);
        if (r < 0) {
            return r;
        }
    }
    f->counts.members++;
    return 0;
}

static voidpf zlib_alloc(voidpf opaque, uInt items, uInt size)
{
    (void)opaque;
    return mem_calloc(items, size);
}

static void zlib_free(voidpf opaque, voidpf p)
{
    (void)opaque;
    mem_free(p);
}

static int gunzip(struct inflater *f, struct err *e)
{
    z_stream z = { .zalloc = zlib_alloc, .zfree = zlib_free };
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK) {
        return -ENOMEM;
    }
    int r;
    for (;;) {
        r = gunzip_member(f, &z, e);
        if (r == 0) {
            r = refill(f, e);
        }
        if (r < 0 || f->in_at == f->in_len) {
            break;
        }
        if (f->in[f->in_at] != 0x1f) {
            r = check_padding(f, e);
            break;
        }
        inflateReset(&z);
    }
    inflateEnd(&z);
    return r;
}

static int unzstd(struct inflater *f, struct err *e)
{
    ZSTD_DCtx *z = ZSTD_createDCtx();
    if (z == NULL) {
        return -ENOMEM;
    }
    ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG_MAX);
    size_t hint = 0; /* 0: between frames */
    int r;
    for (;;) {
        r = refill(f, e);
        if (r < 0) {
            break;
        }
        ZSTD_inBuffer in = { f->in, f->in_len, f->in_at };
        ZSTD_outBuffer out = { f->out, OUT_SIZE, 0 };
        if (in.pos == in.size && hint == 0) {
            break; /* the end, and nothing is pending */
        }
        hint = ZSTD_decompressStream(z, &out, &in);
        if (ZSTD_isError(hint)) {
            r = err_say(e, -EBADMSG, "zstd: %s", ZSTD_getErrorName(hint));
            break;
        }
        bool stuck = f->in_ended && in.pos == f->in_at && out.pos == 0;
        f->in_at = in.pos;
        f->counts.members += hint == 0;
        r = emit(f, f->out, out.pos, e);
        if (r == 0 && stuck && hint != 0) {
            r = err_say(e, -EBADMSG, "zstd: the layer is cut off");
        }
        if (r < 0) {
            break;
        }
    }
    ZSTD_freeDCtx(z);
    return r;
}

static int inflate_by_magic(struct inflater *f, struct err *e)
{
    ssize_t n = sys_read_full(f->in_fd, f->in, 4);
    if (n < 0) {
        return err_set(e, (int)n, "read the layer");
    }
    f->in_len = (size_t)n;
    f->counts.in_bytes = (uint64_t)n;
    const uint8_t *p = f->in;
    if (n >= 2 && p[0] == 0x1f && p[1] == 0x8b) {
        return gunzip(f, e);
    }
    bool zstd = n == 4 && memcmp(p, "\x28\xb5\x2f\xfd", 4) == 0;
    bool skippable = n == 4 && (p[0] & 0xf0) == 0x50 && memcmp(p + 1, "\x2a\x4d\x18", 3) == 0;
    return zstd || skippable ? unzstd(f, e) : copy_plain(f, e);
}

int image_decompress_stream(int in_fd, int out_fd, enum digest_algo algo,
                            const struct image_limits *limits, struct digest *ret_diff_id,
                            struct image_stream_counts *ret_counts, struct err *e)
{
    uint8_t AUTO_MEM *in = mem_alloc(IN_SIZE);
    uint8_t AUTO_MEM *out = mem_alloc(OUT_SIZE);
    struct digest_ctx AUTO_DIGEST_CTX *digest = NULL;
    if (in == NULL || out == NULL || digest_ctx_new(algo, &digest) < 0) {
        return err_set(e, -ENOMEM, "decompress a layer");
    }
    struct inflater f = {
        .in_fd = in_fd,
        .out_fd = out_fd,
        .limits = limits,
        .digest = digest,
        .in = in,
        .out = out,
    };
    int r = inflate_by_magic(&f, e);
    if (r < 0) {
        return r == -ENOMEM ? err_set(e, r, "decompress a layer") : r;
    }
    digest_ctx_final(digest, ret_diff_id);
    if (ret_counts != NULL) {
        *ret_counts = f.counts;
    }
    return 0;
}
