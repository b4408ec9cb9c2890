/*
 *            512 bytes            its content             its padding
 *   HEADER ──────────► (x g L K) ─────────► META ───────────────────► HEADER
 *     │ └────────────► an entry ──────────► DATA ──► PAD ───────────► HEADER
 *     └─ two blocks of zeroes ► ENDED
 *
 * It waits for bytes in every state but ENDED and FAILED.
 */
#include "agent/image/tar.h"

#include <errno.h>
#include <string.h>

#include "agent/image/tar_pax.h"
#include "common/buf.h"
#include "common/insist.h"
#include "common/mem.h"

enum { BLOCK = 512 };

enum tar_state { TAR_HEADER, TAR_META, TAR_DATA, TAR_PAD, TAR_ENDED, TAR_FAILED };

struct image_tar {
    enum tar_state state;
    uint8_t block[BLOCK];
    size_t have;
    bool zero_seen; /* the last block was all zeroes */

    char meta_type; /* META: 'x', 'g', 'L' or 'K' */
    uint64_t left;  /* of META's or DATA's content */
    size_t pad;     /* then */
    struct buf meta;

    /* What came before the entry's own header. */
    bool has_pax, has_gnu_path, has_gnu_link;
    struct buf pax_bytes; /* pax points into it */
    struct image_pax pax;
    struct buf path, link; /* also the entry's, when it is complete */
    struct image_tar_entry entry;
};

int image_tar_new(struct image_tar **ret)
{
    struct image_tar *t = mem_zalloc(sizeof(*t));
    if (t == NULL) {
        return -ENOMEM;
    }
    buf_init(&t->meta, IMAGE_TAR_HEADERS_MAX);
    buf_init(&t->pax_bytes, IMAGE_TAR_HEADERS_MAX);
    buf_init(&t->path, IMAGE_TAR_PATH_MAX);
    buf_init(&t->link, IMAGE_TAR_PATH_MAX);
    *ret = t;
    return 0;
}

struct image_tar *image_tar_free(struct image_tar *t)
{
    if (t != NULL) {
        buf_release(&t->meta);
        buf_release(&t->pax_bytes);
        buf_release(&t->path);
        buf_release(&t->link);
        mem_free(t);
    }
    return NULL;
}

const struct image_tar_entry *image_tar_entry(const struct image_tar *t)
{
    return &t->entry;
}

static int bad(struct err *e, const char *what)
{
    return err_say(e, -EBADMSG, "tar: %s", what);
}

static void forget_overlay(struct image_tar *t)
{
    t->has_pax = t->has_gnu_path = t->has_gnu_link = false;
    memset(&t->pax, 0, sizeof(t->pax));
    buf_reset(&t->pax_bytes);
    buf_reset(&t->path);
    buf_reset(&t->link);
}

static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0) {
            return false;
        }
    }
    return true;
}

/* Old tars summed signed bytes; both sums are in use. */
static bool checksum_ok(const uint8_t b[BLOCK])
{
    int64_t want = 0;
    if (image_tar_number(b + 148, 8, &want) < 0) {
        return false;
    }
    int64_t plain = 0;
    int64_t with_sign = 0;
    for (size_t i = 0; i < BLOCK; i++) {
        uint8_t c = i >= 148 && i < 156 ? ' ' : b[i];
        plain += c;
        with_sign += c >= 128 ? (int)c - 256 : (int)c;
    }
    return want == plain || want == with_sign;
}

/* A text field ends with NUL or is full. */
static struct str text_field(const uint8_t *p, size_t n)
{
    const uint8_t *nul = memchr(p, 0, n);
    return (struct str){ (const char *)p, nul == NULL ? n : (size_t)(nul - p) };
}

static int take_names(struct image_tar *t, bool ustar, struct err *e)
{
    struct image_pax *pax = &t->pax;
    if ((t->has_gnu_path && pax->has_path) || (t->has_gnu_link && pax->has_link)) {
        return bad(e, "an entry has its name from a pax and from a GNU header");
    }
    if (pax->has_path) {
        buf_reset(&t->path);
        buf_addstr(&t->path, pax->path);
    } else if (!t->has_gnu_path) {
        buf_reset(&t->path);
        struct str prefix = text_field(t->block + 345, 155);
        if (ustar && prefix.n > 0) {
            buf_addstr(&t->path, prefix);
            buf_addc(&t->path, '/');
        }
        buf_addstr(&t->path, text_field(t->block, 100));
    }
    if (pax->has_link) {
        buf_reset(&t->link);
        buf_addstr(&t->link, pax->link);
    } else if (!t->has_gnu_link) {
        buf_reset(&t->link);
        buf_addstr(&t->link, text_field(t->block + 157, 100));
    }
    int r = buf_error(&t->path) != 0 ? buf_error(&t->path) : buf_error(&t->link);
    if (r < 0) {
        return r == -ENOMEM ? r : err_say(e, -E2BIG, "tar: a name is too long");
    }
    return t->path.len > 0 ? 0 : bad(e, "an entry without a name");
}

static int take_numbers(struct image_tar *t, struct err *e)
{
    const struct image_pax *pax = &t->pax;
    int64_t mode = 0;
    int64_t uid = 0;
    int64_t gid = 0;
    int64_t size = 0;
    int64_t mtime = 0;
    if (image_tar_number(t->block + 100, 8, &mode) < 0 || mode < 0 ||
        image_tar_number(t->block + 108, 8, &uid) < 0 ||
        image_tar_number(t->block + 116, 8, &gid) < 0 ||
        image_tar_number(t->block + 124, 12, &size) < 0 || size < 0 ||
        image_tar_number(t->block + 136, 12, &mtime) < 0) {
        return bad(e, "a number in a header is malformed");
    }
    if ((uid < 0 && !pax->has_uid) || (gid < 0 && !pax->has_gid)) {
        return bad(e, "a negative owner");
    }
    t->entry.mode = (uint32_t)mode & 07777;
    t->entry.uid = pax->has_uid ? pax->uid : (uint64_t)uid;
    t->entry.gid = pax->has_gid ? pax->gid : (uint64_t)gid;
    t->entry.size = pax->has_size ? pax->size : (uint64_t)size;
    t->entry.mtime_s = pax->has_mtime ? pax->mtime_s : mtime;
    t->entry.mtime_ns = pax->has_mtime ? pax->mtime_ns : 0;
    return 0;
}

static int take_type(struct image_tar *t, struct err *e)
{
    static const enum image_tar_type types[] = {
        IMAGE_TAR_FILE,  IMAGE_TAR_HARDLINK, IMAGE_TAR_SYMLINK, IMAGE_TAR_CHAR,
        IMAGE_TAR_BLOCK, IMAGE_TAR_DIR,      IMAGE_TAR_FIFO,    IMAGE_TAR_FILE,
    };
    struct image_tar_entry *entry = &t->entry;
    char flag = (char)t->block[156];
    if (flag == 'S') {
        return err_say(e, -ENOTSUP, "tar: sparse files are not supported");
    }
    if (flag != '\0' && (flag < '0' || flag > '7')) {
        return err_say(e, -ENOTSUP, "tar: entry type 0x%02x is not supported", t->block[156]);
    }
    entry->type = flag == '\0' ? IMAGE_TAR_FILE : types[flag - '0'];
    if (entry->type == IMAGE_TAR_FILE && t->path.data[t->path.len - 1] == '/') {
        entry->type = IMAGE_TAR_DIR; /* how tar said it before there was a type for it */
    }
    bool link = entry->type == IMAGE_TAR_HARDLINK || entry->type == IMAGE_TAR_SYMLINK;
    if (link && t->link.len == 0) {
        return bad(e, "a link without a target");
    }
    /* Some readers skip such content, others take it for the next header. */
    if (entry->type != IMAGE_TAR_FILE && entry->size != 0) {
        return bad(e, "an entry that is no file has a size");
    }
    return 0;
}

/* The header in t->block belongs to an entry. */
static int take_entry(struct image_tar *t, bool ustar, struct err *e)
{
    int r = take_names(t, ustar, e);
    if (r == 0) {
        r = take_numbers(t, e);
    }
    if (r == 0) {
        r = take_type(t, e);
    }
    if (r < 0) {
        return r;
    }
    t->entry.path = buf_str(&t->path);
    t->entry.link = t->entry.type == IMAGE_TAR_HARDLINK || t->entry.type == IMAGE_TAR_SYMLINK
                        ? buf_str(&t->link)
                        : STR("");
    t->entry.xattrs = t->pax.xattrs;
    t->entry.xattrs_len = t->pax.xattrs_len;
    t->left = t->entry.size;
    t->pad = (size_t)(-t->left & (BLOCK - 1));
    t->state = t->left > 0 ? TAR_DATA : TAR_HEADER;
    return IMAGE_TAR_ENTRY;
}

static int begin_meta(struct image_tar *t, char type, struct err *e)
{
    bool again = (type == 'x' && t->has_pax) || (type == 'L' && t->has_gnu_path) ||
                 (type == 'K' && t->has_gnu_link);
    if (again) {
        return bad(e, "an entry has two headers of one kind");
    }
    int64_t size = 0;
    if (image_tar_number(t->block + 124, 12, &size) < 0 || size < 0) {
        return bad(e, "a number in a header is malformed");
    }
    int64_t max = type == 'L' || type == 'K' ? IMAGE_TAR_PATH_MAX + 1 : IMAGE_TAR_HEADERS_MAX;
    if (size > max) {
        return err_say(e, -E2BIG, "tar: an extended header of %lld bytes; at most %lld are allowed",
                       (long long)size, (long long)max);
    }
    t->meta_type = type;
    t->left = (uint64_t)size;
    t->pad = (size_t)(-t->left & (BLOCK - 1));
    buf_reset(&t->meta);
    t->state = TAR_META;
    return IMAGE_TAR_MORE;
}

/* A whole block stands in t->block. */
static int take_block(struct image_tar *t, struct err *e)
{
    const uint8_t *b = t->block;
    if (all_zero(b, BLOCK)) {
        if (t->has_pax || t->has_gnu_path || t->has_gnu_link) {
            return bad(e, "it ends after an extended header");
        }
        if (t->zero_seen) {
            t->state = TAR_ENDED;
            return IMAGE_TAR_END;
        }
        t->zero_seen = true;
        return IMAGE_TAR_MORE;
    }
    if (t->zero_seen) {
        return bad(e, "a single block of zeroes between entries");
    }
    if (!checksum_ok(b)) {
        return bad(e, "a header's checksum is wrong (not a tar archive?)");
    }
    bool ustar = memcmp(b + 257, "ustar\0", 6) == 0;
    bool gnu = memcmp(b + 257, "ustar  \0", 8) == 0;
    if (!ustar && !gnu && memcmp(b + 257, "ustar", 5) == 0) {
        return bad(e, "a header of an unknown format");
    }
    if (ustar && memcmp(b + 508, "tar\0", 4) == 0) {
        return err_say(e, -ENOTSUP, "tar: star's own format is not supported");
    }
    /* Offsets, sparse maps and real sizes; some readers look at them whatever the type is. */
    if (gnu && !all_zero(b + 369, BLOCK - 369)) {
        return err_say(e, -ENOTSUP, "tar: sparse files and volumes are not supported");
    }
    switch (b[156]) {
    case 'x':
    case 'g':
    case 'L':
    case 'K':
        return begin_meta(t, (char)b[156], e);
    default:
        return take_entry(t, ustar, e);
    }
}

/* GNU: the name and one NUL (or more, to be kind). */
static int take_gnu_name(struct image_tar *t, struct buf *name, bool *has, struct err *e)
{
    struct str s = buf_str(&t->meta);
    while (s.n > 0 && s.p[s.n - 1] == '\0') {
        s.n--;
    }
    if (s.n == 0 || str_find(s, '\0') >= 0) {
        return bad(e, "an empty name, or NUL inside one");
    }
    buf_reset(name);
    int r = buf_addstr(name, s);
    if (r < 0) {
        return r == -ENOMEM ? r : err_say(e, -E2BIG, "tar: a name is too long");
    }
    *has = true;
    return 0;
}

static int take_meta(struct image_tar *t, struct err *e)
{
    int r = buf_error(&t->meta);
    if (r < 0) {
        return r;
    }
    switch (t->meta_type) {
    case 'L':
        return take_gnu_name(t, &t->path, &t->has_gnu_path, e);
    case 'K':
        return take_gnu_name(t, &t->link, &t->has_gnu_link, e);
    case 'g':
        return image_pax_check_global(t->meta.data, t->meta.len, e);
    default:
        INSIST(t->meta_type == 'x');
        /* The bytes have to stay while a long name's header may still come. */
        struct buf empty = t->pax_bytes;
        t->pax_bytes = t->meta;
        t->meta = empty;
        t->has_pax = true;
        return image_pax_parse(t->pax_bytes.data, t->pax_bytes.len, &t->pax, e);
    }
}

static size_t min_size(uint64_t a, size_t b)
{
    return a < b ? (size_t)a : b;
}

static int feed_header(struct image_tar *t, const char *p, size_t n, size_t *used, struct err *e)
{
    if (t->have == 0 && t->entry.path.p != NULL) {
        memset(&t->entry, 0, sizeof(t->entry)); /* the last one is done with */
        forget_overlay(t);
    }
    size_t take = min_size(BLOCK - t->have, n);
    memcpy(t->block + t->have, p, take);
    t->have += take;
    *used += take;
    if (t->have < BLOCK) {
        return IMAGE_TAR_MORE;
    }
    t->have = 0;
    return take_block(t, e);
}

static int feed_meta(struct image_tar *t, const char *p, size_t n, size_t *used, struct err *e)
{
    size_t take = min_size(t->left, n);
    if (take > 0) {
        buf_add(&t->meta, p, take);
        t->left -= take;
    }
    size_t skip = t->left == 0 ? min_size(t->pad, n - take) : 0;
    t->pad -= skip;
    *used += take + skip;
    if (t->left > 0 || t->pad > 0) {
        return IMAGE_TAR_MORE;
    }
    t->state = TAR_HEADER;
    int r = take_meta(t, e);
    return r < 0 ? r : IMAGE_TAR_MORE;
}

/* One step: what the state makes of the bytes. */
static int feed_step(struct image_tar *t, const char *p, size_t n, size_t *used, struct str *data,
                     struct err *e)
{
    size_t take;
    switch (t->state) {
    case TAR_HEADER:
        return feed_header(t, p, n, used, e);
    case TAR_META:
        return feed_meta(t, p, n, used, e);
    case TAR_DATA:
        take = min_size(t->left, n);
        *data = (struct str){ p, take };
        *used += take;
        t->left -= take;
        if (t->left == 0) {
            t->state = t->pad > 0 ? TAR_PAD : TAR_HEADER;
        }
        return IMAGE_TAR_DATA;
    case TAR_PAD:
        take = min_size(t->pad, n);
        *used += take;
        t->pad -= take;
        if (t->pad == 0) {
            t->state = TAR_HEADER;
        }
        return IMAGE_TAR_MORE;
    case TAR_ENDED:
        *used += n;
        return IMAGE_TAR_END;
    case TAR_FAILED:
    default:
        return bad(e, "it failed before");
    }
}

int image_tar_feed(struct image_tar *t, const char *p, size_t n, size_t *ret_used,
                   struct str *ret_data, struct err *e)
{
    size_t used = 0;
    int r = IMAGE_TAR_MORE;
    /* An extended header without content needs no byte to be complete. */
    while (r == IMAGE_TAR_MORE &&
           (used < n || (t->state == TAR_META && t->left == 0 && t->pad == 0))) {
        r = feed_step(t, p + used, n - used, &used, ret_data, e);
    }
    *ret_used = used;
    if (r < 0) {
        t->state = TAR_FAILED;
    }
    return r;
}

int image_tar_finish(struct image_tar *t, struct err *e)
{
    switch (t->state) {
    case TAR_HEADER:
        if (!all_zero(t->block, t->have)) {
            return bad(e, "it is cut off in a header");
        }
        /* The entry that these belong to was there already when entry.path is set. */
        if (t->entry.path.p == NULL && (t->has_pax || t->has_gnu_path || t->has_gnu_link)) {
            return bad(e, "it ends after an extended header");
        }
        return 0;
    case TAR_PAD:
    case TAR_ENDED:
        return 0;
    case TAR_META:
    case TAR_DATA:
        return bad(e, "it is cut off in an entry");
    case TAR_FAILED:
    default:
        return bad(e, "it failed before");
    }
}
