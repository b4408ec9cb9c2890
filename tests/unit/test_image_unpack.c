/*
 * Layers from hostile hands: every archive is made here, unpacked into a directory of its own, and
 * what came of it is looked at through descriptors. A directory beside the root holds a file that
 * nobody may touch. Needs root, as the child that unpacks is root of its user namespace.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cmocka.h>

#include "agent/image/programs.h"
#include "agent/image/unpack.h"
#include "common/buf.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

struct fixture {
    char dir[64];
    int top, root;
    struct buf tar, opaque, index;
    struct image_limits limits;
    struct image_unpack_report report;
    struct err e;
};

static int setup(void **state)
{
    static struct fixture f;
    memset(&f, 0, sizeof(f));
    snprintf(f.dir, sizeof(f.dir), "/tmp/agent-unpack-XXXXXX");
    assert_non_null(mkdtemp(f.dir));
    f.top = open(f.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(mkdirat(f.top, "root", 0755), 0);
    int fd = openat(f.top, "outside", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "safe", 4), 4);
    close(fd);
    f.root = openat(f.top, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    buf_init(&f.tar, 64 << 20);
    buf_init(&f.opaque, 1 << 20);
    buf_init(&f.index, IMAGE_INDEX_MAX);
    image_limits_default(&f.limits);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char text[8] = "";
    struct stat st;
    /* Whatever the layer did, it did not get out. */
    assert_int_equal(sys_read_text(f->top, "outside", text, sizeof(text)), 4);
    assert_string_equal(text, "safe");
    assert_int_equal(fstatat(f->top, "outside", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    close(f->root);
    close(f->top);
    assert_int_equal(sys_remove_tree(AT_FDCWD, f->dir, NULL), 0);
    buf_release(&f->tar);
    buf_release(&f->opaque);
    buf_release(&f->index);
    return 0;
}

/* ---- making archives ----------------------------------------------------------------------------
 */

struct item {
    const char *path;
    char type; /* '0' when 0 */
    const char *data;
    const char *link;
    unsigned mode; /* 0644 when 0 */
    uint64_t uid, gid;
    const char *magic; /* 8 bytes; ustar when NULL */
};

static void checksum(char *h)
{
    unsigned sum = 0;
    memset(h + 148, ' ', 8);
    for (size_t i = 0; i < 512; i++) {
        sum += (unsigned char)h[i];
    }
    snprintf(h + 148, 8, "%06o", sum);
}

static void octal(char *field, size_t n, uint64_t v)
{
    char text[32];
    snprintf(text, sizeof(text), "%0*llo", (int)n - 1, (unsigned long long)v);
    memcpy(field, text, n - 1);
}

static void header(char h[512], const struct item *it, size_t size)
{
    memset(h, 0, 512);
    memcpy(h, it->path, strlen(it->path) > 100 ? 100 : strlen(it->path));
    octal(h + 100, 8, it->mode != 0 ? it->mode : 0644);
    octal(h + 108, 8, it->uid);
    octal(h + 116, 8, it->gid);
    octal(h + 124, 12, size);
    octal(h + 136, 12, 1000000000);
    h[156] = it->type != 0 ? it->type : '0';
    if (it->link != NULL) {
        memcpy(h + 157, it->link, strlen(it->link) > 100 ? 100 : strlen(it->link));
    }
    memcpy(h + 257, it->magic != NULL ? it->magic : "ustar\00000", 8);
    checksum(h);
}

static void add_bytes(struct fixture *f, const struct item *it, const void *p, size_t n, bool pad)
{
    static const char zero[512];
    char h[512];
    header(h, it, n);
    assert_int_equal(buf_add(&f->tar, h, 512), 0);
    assert_int_equal(buf_add(&f->tar, n > 0 ? p : "", n), 0);
    if (pad) {
        assert_int_equal(buf_add(&f->tar, zero, -n & 511), 0);
    }
}

static void add(struct fixture *f, const struct item *it)
{
    add_bytes(f, it, it->data, it->data != NULL ? strlen(it->data) : 0, true);
}

static void add_pax(struct fixture *f, const char *key, const void *value, size_t n)
{
    AUTO_BUF struct buf record = BUF_INIT(1 << 21);
    size_t body = strlen(key) + n + 3; /* space, equals, newline */
    size_t len = body + 1;
    for (int i = 0; i < 8; i++) {
        char digits[24];
        len = body + (size_t)snprintf(digits, sizeof(digits), "%zu", len);
    }
    buf_addf(&record, "%zu %s=", len, key);
    buf_add(&record, value, n);
    buf_addc(&record, '\n');
    assert_int_equal(record.len, len);
    const struct item it = { .path = "pax", .type = 'x' };
    add_bytes(f, &it, record.data, record.len, true);
}

static void end(struct fixture *f)
{
    static const char zero[1024];
    buf_add(&f->tar, zero, sizeof(zero));
}

static int unpack(struct fixture *f)
{
    char path[96];
    snprintf(path, sizeof(path), "%s/tar", f->dir);
    int AUTO_FD fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(sys_write_full(fd, buf_cstr(&f->tar), f->tar.len), 0);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    memset(&f->e, 0, sizeof(f->e));
    buf_reset(&f->index);
    int r = image_unpack_stream(fd, f->root, &f->limits, &f->opaque, &f->index, &f->report, &f->e);
    assert_int_equal(unlink(path), 0);
    buf_reset(&f->tar);
    if (r < 0) {
        assert_int_equal(f->e.code, r);
        assert_true(f->e.text[0] != '\0');
    }
    return r;
}

/* An item says what it is about and leaves out the rest. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#define UNPACK(f, ...) unpack_items(f, (const struct item[]){ __VA_ARGS__, { .path = NULL } })

static int unpack_items(struct fixture *f, const struct item *items)
{
    for (; items->path != NULL; items++) {
        add(f, items);
    }
    end(f);
    return unpack(f);
}

/* ---- looking at what came of them
 * ------------------------------------------------------------------ */

static struct stat look(struct fixture *f, const char *path)
{
    struct stat st;
    memset(&st, 0, sizeof(st));
    if (fstatat(f->root, path, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        memset(&st, 0, sizeof(st));
    }
    return st;
}

static bool absent(struct fixture *f, const char *path)
{
    return look(f, path).st_mode == 0;
}

static bool is_whiteout(struct fixture *f, const char *path)
{
    struct stat st = look(f, path);
    return S_ISCHR(st.st_mode) && st.st_rdev == 0;
}

static void assert_content(struct fixture *f, const char *path, const char *want)
{
    char text[64];
    ssize_t n = sys_read_text(f->root, path, text, sizeof(text));
    assert_int_equal(n, strlen(want));
    assert_string_equal(text, want);
}

static bool opaque(struct fixture *f, const char *path)
{
    struct str rest = buf_str(&f->opaque);
    struct str one;
    while (str_split(&rest, '\0', &one)) {
        if (str_eqs(one, path)) {
            return true;
        }
    }
    return false;
}

/* ---- tests
 * ------------------------------------------------------------------------------------------- */

static void plain_tree(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(UNPACK(f, { "./", '5', .mode = 0711, .uid = 5 }, { "a/", '5', .mode = 01777 },
                            { "a/f", .data = "hello", .mode = 04755, .uid = 1234, .gid = 65535 },
                            { "a/l", '2', .link = "/etc/passwd" }, { "a/h", '1', .link = "a/f" },
                            { "p", '6' }, { "/abs", .data = "x" }, { "./dot//y/./z", .data = "y" }),
                     0);
    assert_content(f, "a/f", "hello");
    assert_content(f, "abs", "x");
    assert_content(f, "dot/y/z", "y");
    struct stat st = look(f, "a/f");
    assert_int_equal(st.st_mode & 07777, 04755);
    assert_int_equal(st.st_uid, 1234);
    assert_int_equal(st.st_gid, 65535);
    assert_int_equal(st.st_nlink, 2);
    assert_int_equal(st.st_mtim.tv_sec, 1000000000);
    st = look(f, "a");
    assert_int_equal(st.st_mode & 07777, 01777);
    assert_int_equal(st.st_mtim.tv_sec, 1000000000); /* though entries were made in it */
    st = look(f, ".");
    assert_int_equal(st.st_mode & 07777, 0711);
    assert_int_equal(st.st_uid, 5);
    assert_int_equal(st.st_mtim.tv_sec, 1000000000);
    assert_true(S_ISFIFO(look(f, "p").st_mode));
    assert_true(S_ISLNK(look(f, "a/l").st_mode));
    assert_int_equal(f->report.hardlinks, 1);
    assert_int_equal(f->report.bytes, 7);
}

/* Names that try to leave: refused; links that try to: they end inside. */
static void escapes(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(UNPACK(f, { "../outside", .data = "bad" }), -EINVAL);
    assert_int_equal(UNPACK(f, { "a/../../outside", .data = "bad" }), -EINVAL);
    assert_int_equal(UNPACK(f, { "/../outside", .data = "bad" }), -EINVAL);
    assert_int_equal(UNPACK(f, { "..", '5' }), -EINVAL);
    assert_int_equal(UNPACK(f, { "in/../fine", .data = "ok" }), 0);
    assert_content(f, "fine", "ok");
    assert_int_equal(UNPACK(f, { "up", '2', .link = ".." }, { "up/outside", .data = "bad" }), 0);
    assert_content(f, "outside", "bad");
    assert_int_equal(UNPACK(f, { "far", '2', .link = "../../../../tmp" }, { "far/x", .data = "1" }),
                     0);
    assert_content(f, "tmp/x", "1");
    assert_int_equal(UNPACK(f, { "abs", '2', .link = "/etc" }, { "abs/deep/y", .data = "2" }), 0);
    assert_content(f, "etc/deep/y", "2");
    assert_int_equal(UNPACK(f, { "l1", '2', .link = "l2" }, { "l2", '2', .link = "l1" },
                            { "l1/x", .data = "3" }),
                     -ELOOP);
    assert_int_equal(UNPACK(f, { "plain", .data = "x" }, { "plain/x", .data = "y" }), -ENOTDIR);
}

static void final_links_are_replaced(void **state)
{
    struct fixture *f = *state;
    char target[96];
    snprintf(target, sizeof(target), "%s/outside", f->dir);
    assert_int_equal(UNPACK(f, { "x", '2', .link = target }, { "x", .data = "mine" }), 0);
    assert_content(f, "x", "mine");
    assert_true(S_ISREG(look(f, "x").st_mode));
    assert_int_equal(
        UNPACK(f, { "d", '2', .link = ".." }, { "d/", '5' }, { "d/outside", .data = "in" }), 0);
    assert_content(f, "d/outside", "in");
    /* The name of the last parent leads elsewhere now. */
    assert_int_equal(UNPACK(f, { "t1/", '5' }, { "t2/", '5' }, { "s", '2', .link = "t1" },
                            { "s/a", .data = "1" }, { "s", '2', .link = "t2" },
                            { "s/b", .data = "2" }),
                     0);
    assert_content(f, "t1/a", "1");
    assert_content(f, "t2/b", "2");
    assert_true(absent(f, "t1/b"));
    /* The last one wins, wholly. */
    assert_int_equal(UNPACK(f, { "w/", '5' }, { "w/inner", .data = "1" }, { "w", .data = "file" }),
                     0);
    assert_content(f, "w", "file");
    assert_int_equal(UNPACK(f, { "v", .data = "file" }, { "v/", '5', .mode = 0700 },
                            { "v/", '5', .mode = 0750 }),
                     0);
    assert_int_equal(look(f, "v").st_mode & 07777, 0750);
}

static void hard_links(void **state)
{
    struct fixture *f = *state;
    char target[96];
    snprintf(target, sizeof(target), "%s/outside", f->dir);
    assert_int_equal(UNPACK(f, { "h", '1', .link = target }), -EINVAL);
    assert_int_equal(UNPACK(f, { "h", '1', .link = "../outside" }), -EINVAL);
    assert_non_null(strstr(f->e.text, "not in the same layer"));
    assert_int_equal(UNPACK(f, { "up", '2', .link = ".." }, { "h", '1', .link = "up/outside" }),
                     -EINVAL);
    assert_int_equal(
        UNPACK(f, { "s", '2', .link = target }, { "h", '1', .link = "s" }, { "h", .data = "new" }),
        0);
    assert_content(f, "h", "new");
    assert_true(S_ISLNK(look(f, "s").st_mode));
    assert_int_equal(UNPACK(f, { "d/", '5' }, { "h2", '1', .link = "d" }), -EINVAL);
    assert_int_equal(UNPACK(f, { "h3", '1', .link = "." }), -EINVAL);
    assert_int_equal(UNPACK(f, { "self", .data = "s" }, { "self", '1', .link = "self" }), 0);
    assert_content(f, "self", "s");
    assert_int_equal(UNPACK(f, { "etc/", '5' }, { "etc/pw", .data = "u" },
                            { "b/pw", '1', .link = "../../../etc/pw" }),
                     0);
    assert_content(f, "b/pw", "u");
    assert_int_equal(UNPACK(f, { ".wh.gone" }, { "h4", '1', .link = "gone" }), -EINVAL);
}

static void whiteouts(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(UNPACK(f, { ".wh.a" }, { "d/.wh.b" }, { "n", .data = "n" }, { ".wh.n" },
                            { ".wh.m" }, { "m", .data = "m" }),
                     0);
    assert_true(is_whiteout(f, "a"));
    assert_true(is_whiteout(f, "d/b"));
    assert_content(f, "n", "n"); /* only lower layers' n is deleted, whatever the order */
    assert_content(f, "m", "m");
    assert_int_equal(f->opaque.len, 0);
    assert_int_equal(UNPACK(f, { ".wh.e" }, { "e/x", .data = "1" }), 0);
    assert_true(opaque(f, "e")); /* nothing of the deleted e shows through the new one */
    assert_int_equal(UNPACK(f, { "g/", '5' }, { ".wh.g" }, { ".wh.i" }, { "i/", '5' }), 0);
    assert_true(opaque(f, "g"));
    assert_true(opaque(f, "i"));
    assert_int_equal(UNPACK(f, { "o/.wh..wh..opq" }, { "o/new", .data = "1" },
                            { ".wh..wh..opq", .data = "content" }),
                     0);
    assert_true(opaque(f, "o"));
    assert_true(opaque(f, "."));
    assert_content(f, "o/new", "1");
    assert_int_equal(
        UNPACK(f, { ".wh..wh.plnk", '5' }, { ".wh..wh.aufs" }, { "k/.wh..wh.orph/", '5' }), 0);
    assert_true(absent(f, ".wh..wh.plnk"));
    assert_true(absent(f, ".wh..wh.aufs"));
    static const char *const bad[] = { ".wh.",     ".wh..",     ".wh...", "a2/.wh.",
                                       "a2/.wh..", "a2/.wh...", ".wh.x/y" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(UNPACK(f, { bad[i] }), -EINVAL);
    }
    f->opaque.max = f->opaque.len + 8;
    assert_int_equal(UNPACK(f, { "very/long/name/.wh..wh..opq" }), -E2BIG);
}

static void devices_ids_and_roots(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(UNPACK(f, { "dev/null", '3' }, { "dev/sda", '4' }), 0);
    assert_int_equal(f->report.devices_skipped, 2);
    assert_true(absent(f, "dev/null"));
    assert_int_equal(UNPACK(f, { "x", .uid = 65536 }), -EINVAL);
    assert_int_equal(UNPACK(f, { "x", .gid = 0x1fffff }), -EINVAL);
    assert_int_equal(UNPACK(f, { "/", '5', .mode = 0750 }), 0); /* umoci's name for the root */
    assert_int_equal(look(f, ".").st_mode & 07777, 0750);
    assert_int_equal(UNPACK(f, { "/", '2', .link = "/tmp" }), -EINVAL);
    assert_int_equal(UNPACK(f, { ".", '0', .data = "x" }), -EINVAL);
}

static void limits(void **state)
{
    struct fixture *f = *state;
    f->limits.entries_max = 1000;
    for (int i = 0; i < 1001; i++) {
        char name[16];
        snprintf(name, sizeof(name), "f%d", i);
        add(f, &(struct item){ .path = name });
    }
    assert_int_equal(unpack(f), -E2BIG);
    f->limits.bytes_max = 10;
    assert_int_equal(UNPACK(f, { "big", .data = "0123456789a" }), -E2BIG);
    assert_true(absent(f, "big")); /* known from the header */
    assert_int_equal(UNPACK(f, { "b1", .data = "0123456" }, { "b2", .data = "0123" }), -E2BIG);
    AUTO_BUF struct buf deep = BUF_INIT(8192);
    for (int i = 0; i < 257; i++) {
        buf_adds(&deep, "d/");
    }
    add_pax(f, "path", deep.data, deep.len);
    add(f, &(struct item){ "d", '5' });
    assert_int_equal(unpack(f), -E2BIG);
    buf_reset(&deep);
    for (int i = 0; i < 256; i++) {
        buf_adds(&deep, "d/");
    }
    add_pax(f, "path", deep.data, deep.len);
    add(f, &(struct item){ "d", '5' });
    assert_int_equal(unpack(f), 0);
    char name[300];
    memset(name, 'n', sizeof(name));
    add_pax(f, "path", name, 256);
    add(f, &(struct item){ "n" });
    assert_int_equal(unpack(f), -ENAMETOOLONG);
    add_pax(f, "path", name, 255);
    add(f, &(struct item){ "n" });
    assert_int_equal(unpack(f), 0);
}

static void xattrs(void **state)
{
    struct fixture *f = *state;
    static const char cap[20] = { 1, 0, 0, 2, 1 };
    add_pax(f, "SCHILY.xattr.trusted.overlay.opaque", "y", 1);
    add(f, &(struct item){ "t/", '5' });
    add_pax(f, "SCHILY.xattr.user.overlay.opaque", "y", 1);
    add(f, &(struct item){ "u/", '5' });
    add_pax(f, "SCHILY.xattr.security.selinux", "s", 1);
    add(f, &(struct item){ "s" });
    add_pax(f, "SCHILY.xattr.system.posix_acl_access", "\2\0\0\0", 4);
    add(f, &(struct item){ "acl" });
    add_pax(f, "SCHILY.xattr.security.capability", cap, sizeof(cap));
    add(f, &(struct item){ "cap" });
    assert_int_equal(unpack(f), 0);
    assert_int_equal(f->report.xattrs_dropped, 4);
    char path[96];
    char value[64];
    snprintf(path, sizeof(path), "%s/root/t", f->dir);
    assert_int_equal(getxattr(path, "trusted.overlay.opaque", value, sizeof(value)), -1);
    snprintf(path, sizeof(path), "%s/root/cap", f->dir);
    assert_int_equal(getxattr(path, "security.capability", value, sizeof(value)), 20);
    AUTO_BUF struct buf big = BUF_INIT(1 << 20);
    for (int i = 0; i < 65537; i++) {
        buf_addc(&big, 'x');
    }
    add_pax(f, "SCHILY.xattr.user.big", big.data, big.len);
    add(f, &(struct item){ "big" });
    assert_int_equal(unpack(f), -E2BIG);
}

/* What real tools leave out at the end of an archive, and what cut archives look like. */
static void ends(void **state)
{
    struct fixture *f = *state;
    add(f, &(struct item){ "no-trailer", .data = "1" });
    assert_int_equal(unpack(f), 0);
    add_bytes(f, &(struct item){ "no-padding" }, "12345", 5, false);
    assert_int_equal(unpack(f), 0);
    assert_content(f, "no-padding", "12345");
    add(f, &(struct item){ "garbage", .data = "1" });
    end(f);
    buf_adds(&f->tar, "anything at all");
    assert_int_equal(unpack(f), 0);
    assert_int_equal(unpack(f), 0); /* nothing at all: an empty layer */
    add_bytes(f, &(struct item){ "cut" }, "12345", 5, false);
    f->tar.len -= 2;
    assert_int_equal(unpack(f), -EBADMSG);
    add(f, &(struct item){ "cut-header" });
    f->tar.len -= 100;
    assert_int_equal(unpack(f), -EBADMSG);
    add(f, &(struct item){ "one" });
    char zero[512] = "";
    buf_add(&f->tar, zero, 512);
    add(f, &(struct item){ "two" });
    assert_int_equal(unpack(f), -EBADMSG);
    buf_adds(&f->tar, "this is not a tar archive, but it has more than one block of text .... ");
    while (f->tar.len < 2048) {
        buf_adds(&f->tar, "and more ");
    }
    assert_int_equal(unpack(f), -EBADMSG);
}

static void headers(void **state)
{
    struct fixture *f = *state;
    static const char gnu[] = "ustar  ";
    char name[400];
    memset(name, 'g', sizeof(name));
    memset(name + 200, '/', 1);
    add_bytes(f, &(struct item){ "././@LongLink", 'L', .magic = gnu }, name, 301, true);
    f->tar.data[512 + 300] = '\0';
    add(f, &(struct item){ "ggg", .data = "long", .magic = gnu });
    assert_int_equal(unpack(f), 0);
    name[300] = '\0';
    assert_content(f, name, "long");
    /* A name from both sides; NUL inside a pax value and a GNU name; an empty name. */
    add_bytes(f, &(struct item){ "L", 'L', .magic = gnu }, "gnu", 4, true);
    add_pax(f, "path", "pax", 3);
    add(f, &(struct item){ "x" });
    assert_int_equal(unpack(f), -EBADMSG);
    add_pax(f, "path", "a\0b", 3);
    add(f, &(struct item){ "x" });
    assert_int_equal(unpack(f), -EBADMSG);
    add_bytes(f, &(struct item){ "L", 'L', .magic = gnu }, "a\0b", 4, true);
    add(f, &(struct item){ "x" });
    assert_int_equal(unpack(f), -EBADMSG);
    assert_int_equal(UNPACK(f, { "" }), -EBADMSG);
    /* pax says the size: the header's is not looked at. */
    add_pax(f, "size", "3", 1);
    char h[512];
    header(h, &(struct item){ "sized" }, 0);
    buf_add(&f->tar, h, 512);
    buf_add(&f->tar, "abc", 3);
    for (int i = 0; i < 509; i++) {
        buf_addc(&f->tar, '\0');
    }
    add(f, &(struct item){ "after", .data = "a" });
    assert_int_equal(unpack(f), 0);
    assert_content(f, "sized", "abc");
    assert_content(f, "after", "a");
    /* Things that two readers could take for two things. */
    add_pax(f, "GNU.sparse.major", "1", 1);
    add(f, &(struct item){ "x" });
    assert_int_equal(unpack(f), -ENOTSUP);
    assert_int_equal(UNPACK(f, { "x", 'S' }), -ENOTSUP);
    assert_int_equal(UNPACK(f, { "x", 'M' }), -ENOTSUP);
    assert_int_equal(UNPACK(f, { "d/", '5', .data = "content" }), -EBADMSG);
    assert_int_equal(UNPACK(f, { "l", '2', .link = "x", .data = "content" }), -EBADMSG);
    assert_int_equal(UNPACK(f, { "l", '2' }), -EBADMSG);
    add_bytes(f, &(struct item){ "g", 'g' }, "12 path=evil\n", 13, true);
    f->tar.data[512 + 1] = '3';
    add(f, &(struct item){ "x" });
    assert_int_equal(unpack(f), -ENOTSUP);
    add_bytes(f, &(struct item){ "g", 'g' }, "15 comment=abc\n", 15, true);
    add(f, &(struct item){ "git", .data = "1" });
    assert_int_equal(unpack(f), 0);
    header(h, &(struct item){ "real", .magic = gnu }, 0);
    memcpy(h + 483, "00000000777", 12); /* a sparse file's real size, on a file that is not */
    checksum(h);
    buf_add(&f->tar, h, 512);
    assert_int_equal(unpack(f), -ENOTSUP);
    static const char *const bad_pax[] = { "",       "x",        "5 a=",     "99 path=x\n",
                                           "3 \n\n", "-7 a=b\n", "7 a=b\nx", "6 ab=c\n" };
    for (size_t i = 1; i < ARRAY_LEN(bad_pax); i++) {
        add_bytes(f, &(struct item){ "x", 'x' }, bad_pax[i], strlen(bad_pax[i]), true);
        add(f, &(struct item){ "x" });
        assert_int_equal(unpack(f), -EBADMSG);
    }
}

/* ---- decompression
 * -------------------------------------------------------------------------------------- */

static int decompress(struct fixture *f, const struct buf *in, struct buf *out, struct digest *d)
{
    char path[96];
    struct image_stream_counts counts;
    snprintf(path, sizeof(path), "%s/in", f->dir);
    int AUTO_FD a = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    snprintf(path, sizeof(path), "%s/out", f->dir);
    int AUTO_FD b = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(sys_write_full(a, buf_cstr(in), in->len), 0);
    lseek(a, 0, SEEK_SET);
    memset(&f->e, 0, sizeof(f->e));
    int r = image_decompress_stream(a, b, DIGEST_SHA256, &f->limits, d, &counts, &f->e);
    buf_reset(out);
    if (r == 0) {
        assert_int_equal(counts.in_bytes, in->len);
        assert_int_equal(sys_read_file(f->top, "out", out->max, out, NULL), 0);
        assert_int_equal(counts.out_bytes, out->len);
    }
    return r;
}

static void add_gzip(struct buf *out, const void *p, size_t n)
{
    z_stream z;
    memset(&z, 0, sizeof(z));
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    size_t cap = deflateBound(&z, n) + 64;
    unsigned char *dst = buf_reserve(out, cap);
    assert_non_null(dst);
    z.next_in = (unsigned char *)(uintptr_t)p;
    z.avail_in = (uInt)n;
    z.next_out = dst;
    z.avail_out = (uInt)cap;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    buf_grow(out, cap - z.avail_out);
    deflateEnd(&z);
}

static void add_zstd(struct buf *out, const void *p, size_t n)
{
    size_t cap = ZSTD_compressBound(n);
    void *dst = buf_reserve(out, cap);
    assert_non_null(dst);
    size_t used = ZSTD_compress(dst, cap, p, n, 3);
    assert_false(ZSTD_isError(used));
    buf_grow(out, used);
}

static void formats(void **state)
{
    struct fixture *f = *state;
    AUTO_BUF struct buf in = BUF_INIT(1 << 20);
    AUTO_BUF struct buf out = BUF_INIT(1 << 20);
    struct digest got;
    struct digest want;
    digest_of(DIGEST_SHA256, "hello world", 11, &want);
    buf_adds(&in, "hello world");
    assert_int_equal(decompress(f, &in, &out, &got), 0);
    assert_true(digest_eq(&got, &want));
    buf_reset(&in);
    assert_int_equal(decompress(f, &in, &out, &got), 0); /* empty */
    add_gzip(&in, "hello ", 6);
    add_gzip(&in, "", 0);
    add_gzip(&in, "world", 5);
    assert_int_equal(decompress(f, &in, &out, &got), 0);
    assert_true(digest_eq(&got, &want));
    buf_add(&in, "\0\0\0\0", 4);
    assert_int_equal(decompress(f, &in, &out, &got), 0);
    buf_adds(&in, "tail");
    assert_int_equal(decompress(f, &in, &out, &got), -EBADMSG);
    buf_reset(&in);
    buf_add(&in, "\x5e\x2a\x4d\x18\x03\0\0\0abc", 11); /* a skippable frame comes first */
    add_zstd(&in, "hello ", 6);
    buf_add(&in, "\x50\x2a\x4d\x18\x00\0\0\0", 8);
    add_zstd(&in, "world", 5);
    buf_add(&in, "\x51\x2a\x4d\x18\x02\0\0\0ab", 10);
    assert_int_equal(decompress(f, &in, &out, &got), 0);
    assert_true(digest_eq(&got, &want));
    in.len -= 1;
    assert_int_equal(decompress(f, &in, &out, &got), -EBADMSG);
    buf_reset(&in);
    add_gzip(&in, "hello world", 11);
    for (size_t cut = 2; cut < in.len; cut++) {
        AUTO_BUF struct buf part = BUF_INIT(1 << 16);
        buf_add(&part, in.data, cut);
        assert_int_equal(decompress(f, &part, &out, &got), -EBADMSG);
    }
    in.data[in.len - 6] ^= 1; /* its checksum */
    assert_int_equal(decompress(f, &in, &out, &got), -EBADMSG);
}

static void bombs(void **state)
{
    struct fixture *f = *state;
    AUTO_BUF struct buf in = BUF_INIT(64 << 20);
    AUTO_BUF struct buf out = BUF_INIT(1 << 20);
    struct digest d;
    char *zero = mem_zalloc(8 << 20);
    assert_non_null(zero);
    for (int i = 0; i < 20; i++) { /* 160 MiB, 10,000:1 and more */
        add_zstd(&in, zero, 8 << 20);
    }
    assert_int_equal(decompress(f, &in, &out, &d), -E2BIG);
    assert_non_null(strstr(f->e.text, "1200:1"));
    f->limits.ratio_max = 0;
    f->limits.bytes_max = 1 << 20;
    assert_int_equal(decompress(f, &in, &out, &d), -E2BIG);
    buf_reset(&in);
    add_gzip(&in, zero, 2 << 20);
    assert_int_equal(decompress(f, &in, &out, &d), -E2BIG);
    struct stat st;
    assert_int_equal(fstatat(f->top, "out", &st, 0), 0);
    assert_true(st.st_size <= 1 << 20);
    mem_free(zero);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(plain_tree), T(escapes),   T(final_links_are_replaced),
        T(hard_links), T(whiteouts), T(devices_ids_and_roots),
        T(limits),     T(xattrs),    T(ends),
        T(headers),    T(formats),   T(bombs),
    };
    return cmocka_run_group_tests_name("image_unpack", tests, NULL, NULL);
}
