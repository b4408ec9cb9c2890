/*
 * The tar reader: fed in one piece and in small ones it says the same; and what it accepts,
 * libarchive reads as the same entries. The other way round does not hold: we refuse more.
 */
#include <archive.h>
#include <archive_entry.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/tar.h"
#include "common/buf.h"
#include "common/digest.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TRACE_MAX = 4 << 20 };

static void trace_name(struct buf *out, struct str s)
{
    /* libarchive's getters end at a slash or not, as the archive says. */
    while (s.n > 0 && s.p[s.n - 1] == '/') {
        s.n--;
    }
    buf_addf(out, "%zu:", s.n);
    buf_addstr(out, s);
}

/* One line for each entry, and the content as bytes. 0 or the reader's error. */
static int read_ours(const uint8_t *p, size_t n, size_t step, struct buf *out)
{
    struct image_tar AUTO_IMAGE_TAR *t = NULL;
    size_t at = 0;
    int r = image_tar_new(&t);
    INSIST(r == 0);
    while (at < n) {
        size_t piece = n - at < step ? n - at : step;
        size_t used = 0;
        struct str data = { NULL, 0 };
        r = image_tar_feed(t, (const char *)p + at, piece, &used, &data, NULL);
        if (r < 0) {
            return r;
        }
        INSIST(used <= piece && (used > 0 || r == IMAGE_TAR_ENTRY));
        at += used;
        if (r == IMAGE_TAR_ENTRY) {
            const struct image_tar_entry *entry = image_tar_entry(t);
            INSIST(entry->path.n > 0 && entry->path.n == strlen(entry->path.p));
            INSIST(entry->size == 0 || entry->type == IMAGE_TAR_FILE);
            buf_addf(out, "\nE%d ", (int)entry->type);
            trace_name(out, entry->path);
            trace_name(out, entry->link);
            buf_addf(out, " %o %llu %llu %llu:", entry->mode, (unsigned long long)entry->uid,
                     (unsigned long long)entry->gid, (unsigned long long)entry->size);
        } else if (r == IMAGE_TAR_DATA) {
            buf_addstr(out, data);
        } else if (r == IMAGE_TAR_END) {
            return 0;
        }
    }
    return image_tar_finish(t, NULL);
}

static int our_type(struct archive_entry *entry)
{
    if (archive_entry_hardlink(entry) != NULL) {
        return IMAGE_TAR_HARDLINK;
    }
    switch (archive_entry_filetype(entry)) {
    case AE_IFREG:
        return IMAGE_TAR_FILE;
    case AE_IFLNK:
        return IMAGE_TAR_SYMLINK;
    case AE_IFCHR:
        return IMAGE_TAR_CHAR;
    case AE_IFBLK:
        return IMAGE_TAR_BLOCK;
    case AE_IFDIR:
        return IMAGE_TAR_DIR;
    case AE_IFIFO:
        return IMAGE_TAR_FIFO;
    default:
        return -1;
    }
}

static struct str name_of(const char *utf8, const char *raw)
{
    return str_of(utf8 != NULL ? utf8 : raw);
}

static bool trace_theirs(struct archive *a, struct archive_entry *entry, struct buf *out)
{
    int type = our_type(entry);
    const char *link =
        type == IMAGE_TAR_HARDLINK ? archive_entry_hardlink(entry) : archive_entry_symlink(entry);
    buf_addf(out, "\nE%d ", type);
    trace_name(out, name_of(archive_entry_pathname(entry), archive_entry_pathname_utf8(entry)));
    trace_name(out, str_of(link));
    buf_addf(out, " %o %llu %llu %llu:", (unsigned)archive_entry_perm(entry) & 07777,
             (unsigned long long)archive_entry_uid(entry),
             (unsigned long long)archive_entry_gid(entry),
             (unsigned long long)(type == IMAGE_TAR_FILE ? archive_entry_size(entry) : 0));
    char bytes[4096];
    la_ssize_t n;
    while ((n = archive_read_data(a, bytes, sizeof(bytes))) > 0) {
        buf_add(out, bytes, (size_t)n);
    }
    return n == 0;
}

/* False: libarchive gave up (it wants padding and known charsets, we do not). */
static bool read_theirs(const uint8_t *p, size_t n, struct buf *out)
{
    struct archive *a = archive_read_new();
    struct archive_entry *entry = NULL;
    bool ok = true;
    INSIST(a != NULL);
    archive_read_support_format_tar(a);
    if (archive_read_open_memory(a, p, n) != ARCHIVE_OK) {
        archive_read_free(a);
        return false;
    }
    int r;
    while (ok && (r = archive_read_next_header(a, &entry)) == ARCHIVE_OK) {
        ok = trace_theirs(a, entry, out);
    }
    ok = ok && r == ARCHIVE_EOF;
    archive_read_free(a);
    return ok;
}

/* What fuzzers do not find by chance: checksums that are right. Only where a header may begin. */
static void repair(uint8_t *p, size_t n)
{
    for (size_t at = 0; n - at >= 512; at += 512) {
        if (memcmp(p + at + 257, "ustar", 5) != 0) {
            continue;
        }
        unsigned sum = 8 * ' ';
        for (size_t i = 0; i < 512; i++) {
            sum += i < 148 || i >= 156 ? p[at + i] : 0;
        }
        char text[8];
        snprintf(text, sizeof(text), "%06o", sum);
        memcpy(p + at + 148, text, 7);
        p[at + 155] = ' ';
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[1 << 16];
    AUTO_BUF struct buf whole = BUF_INIT(TRACE_MAX);
    AUTO_BUF struct buf pieces = BUF_INIT(TRACE_MAX);
    AUTO_BUF struct buf theirs = BUF_INIT(TRACE_MAX);
    if (size > sizeof(bytes)) {
        return 0;
    }
    if (size > 0) {
        memcpy(bytes, data, size);
    }
    repair(bytes, size);
    int r = read_ours(bytes, size, SIZE_MAX, &whole);
    INSIST(read_ours(bytes, size, 1 + size % 700, &pieces) == r);
    INSIST(str_eq(buf_str(&whole), buf_str(&pieces)));
    if (r == 0 && whole.len > 0 && read_theirs(bytes, size, &theirs)) {
        INSIST(str_eq(buf_str(&whole), buf_str(&theirs)));
    }
    return 0;
}
