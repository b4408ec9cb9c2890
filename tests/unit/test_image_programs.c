/*
 * What ELF files say of the processor that they are for, and what an image's programs need: files
 * made here, right and wrong, in layers that lie over each other.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agent/image/programs.h"
#include "agent/image/programs_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

/* ---- files ---- */

enum { FILE_MAX = 4096, NOTE_AT = 0x300, TEXT_AT = 0x400, DYN_AT = 0x600, CODE_AT = 0x800 };

struct made {
    uint8_t b[FILE_MAX];
    size_t n;
    bool wide, big;
};

static void put(struct made *m, size_t at, uint64_t v, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        m->b[at + i] = (uint8_t)(v >> (m->big ? 8 * (bytes - 1 - i) : 8 * i));
    }
    m->n = at + bytes > m->n ? at + bytes : m->n;
}

static void put_segment(struct made *m, unsigned i, uint32_t type, uint32_t flags, uint64_t at,
                        uint64_t bytes)
{
    size_t h = m->wide ? 64 + 56 * (size_t)i : 52 + 32 * (size_t)i;
    size_t word = m->wide ? 8 : 4;

    put(m, h, type, 4);
    if (m->wide) {
        put(m, h + 4, flags, 4);
        h += 4;
    }
    put(m, h + 4, at, word);
    put(m, h + 4 + word, 0x10000 + at, word);
    put(m, h + 4 + 2 * word, 0x10000 + at, word);
    put(m, h + 4 + 3 * word, bytes, word);
    put(m, h + 4 + 4 * word, bytes, word);
    if (!m->wide) {
        put(m, h + 4 + 5 * word, flags, 4);
    }
}

struct wanted {
    uint16_t machine;
    bool narrow, big, fixed;
    uint32_t isa;       /* bits of the property; 0: no note */
    const char *interp; /* NULL: none */
    const char *runpath;
    const char *needed[4];
    const void *code;
    size_t code_len;
};

static size_t put_texts(struct made *m, const struct wanted *w)
{
    size_t at = TEXT_AT + 1;
    size_t d = DYN_AT;
    size_t word = m->wide ? 8 : 4;

    for (size_t i = 0; i < 4 && w->needed[i] != NULL; i++) {
        put(m, d, 1, word);
        put(m, d + word, at - TEXT_AT, word);
        d += 2 * word;
        memcpy(m->b + at, w->needed[i], strlen(w->needed[i]) + 1);
        at += strlen(w->needed[i]) + 1;
    }
    if (w->runpath != NULL) {
        put(m, d, 29, word);
        put(m, d + word, at - TEXT_AT, word);
        d += 2 * word;
        memcpy(m->b + at, w->runpath, strlen(w->runpath) + 1);
        at += strlen(w->runpath) + 1;
    }
    put(m, d, 5, word);
    put(m, d + word, 0x10000 + TEXT_AT, word);
    put(m, d + 2 * word, 10, word);
    put(m, d + 3 * word, at - TEXT_AT, word);
    put(m, d + 4 * word, 0, word);
    put(m, d + 5 * word, 0, word);
    return d + 6 * word - DYN_AT;
}

static void make(const struct wanted *w, struct made *m)
{
    unsigned n = 0;
    size_t word;

    memset(m, 0, sizeof(*m));
    m->wide = !w->narrow;
    m->big = w->big;
    word = m->wide ? 8 : 4;
    memcpy(m->b, "\177ELF", 4);
    put(m, 4, m->wide ? 2 : 1, 1);
    put(m, 5, m->big ? 2 : 1, 1);
    put(m, 16, w->fixed ? 2 : 3, 2);
    put(m, 18, w->machine, 2);
    put(m, 24 + word, m->wide ? 64 : 52, word);
    put(m, 24 + 3 * word + 6, m->wide ? 56 : 32, 2);
    put_segment(m, n++, 1, 4, 0, FILE_MAX);
    if (w->isa != 0) {
        put(m, NOTE_AT, 4, 4);
        put(m, NOTE_AT + 4, 16, 4);
        put(m, NOTE_AT + 8, 5, 4);
        memcpy(m->b + NOTE_AT + 12, "GNU", 4);
        put(m, NOTE_AT + 16, 0xc0008002, 4);
        put(m, NOTE_AT + 20, 4, 4);
        put(m, NOTE_AT + 24, w->isa, 4);
        put(m, NOTE_AT + 28, 0, 4);
        put_segment(m, n++, 0x6474e553, 4, NOTE_AT, 32);
    }
    if (w->interp != NULL) {
        memcpy(m->b + 0x500, w->interp, strlen(w->interp) + 1);
        put_segment(m, n++, 3, 4, 0x500, strlen(w->interp) + 1);
    }
    if (w->needed[0] != NULL || w->runpath != NULL) {
        put_segment(m, n++, 2, 4, DYN_AT, put_texts(m, w));
    }
    if (w->code != NULL) {
        memcpy(m->b + CODE_AT, w->code, w->code_len);
        put_segment(m, n++, 1, 5, CODE_AT, w->code_len);
    }
    put(m, 24 + 3 * word + 8, n, 2);
    m->n = FILE_MAX;
}

static struct image_elf read_ok(const struct wanted *w, struct made *m)
{
    struct image_elf elf;
    struct err e = { .code = 0 };

    make(w, m);
    assert_int_equal(image_elf_read(m->b, m->n, &elf, &e), 0);
    return elf;
}

static void headers_of_all_kinds(void **state)
{
    struct made m;
    (void)state;
    for (unsigned kind = 0; kind < 4; kind++) {
        const struct wanted w = { .machine = kind & 2 ? 21 : IMAGE_ELF_X86_64,
                                  .narrow = kind & 1,
                                  .big = kind & 2,
                                  .isa = 7,
                                  .interp = "/lib64/ld.so",
                                  .runpath = "$ORIGIN/../lib",
                                  .needed = { "libc.so.6", "libm.so.6" } };
        const struct image_elf elf = read_ok(&w, &m);
        assert_int_equal(elf.machine, w.machine);
        assert_int_equal(elf.level, 3);
        assert_true(elf.program);
        assert_true(str_eqs(elf.interpreter, "/lib64/ld.so"));
        assert_true(str_eqs(elf.runpath, "$ORIGIN/../lib"));
        assert_int_equal(elf.needed_len, 2);
        assert_true(str_eqs(elf.needed[0], "libc.so.6"));
        assert_true(str_eqs(elf.needed[1], "libm.so.6"));
    }
    /* Only the highest bit counts; a library is no program; one that is fixed is. */
    struct wanted w = { .machine = IMAGE_ELF_X86_64, .isa = 8 };
    assert_int_equal(read_ok(&w, &m).level, 4);
    w.isa = 1;
    assert_int_equal(read_ok(&w, &m).level, 1);
    w.isa = 0x30; /* nothing that there is a name for */
    assert_int_equal(read_ok(&w, &m).level, 0);
    assert_false(read_ok(&w, &m).program);
    w.fixed = true;
    assert_true(read_ok(&w, &m).program);
    assert_string_equal(image_elf_arch(IMAGE_ELF_ARM64), "arm64");
    assert_string_equal(image_elf_arch(9999), "");
}

static void broken_files(void **state)
{
    const struct wanted w = {
        .machine = IMAGE_ELF_X86_64, .isa = 2, .interp = "/ld", .needed = { "a", "b" }
    };
    struct image_elf elf;
    struct made m;
    struct made bad;
    struct err e = { .code = 0 };
    (void)state;
    make(&w, &m);
    for (size_t n = 0; n < 64 + 5 * 56; n++) { /* cut anywhere in the headers */
        int rc = image_elf_read(m.b, n, &elf, &e);
        assert_true(rc == -EBADMSG || (rc == 0 && n >= 64 + 4 * 56));
        assert_true(rc == 0 || e.text[0] != '\0');
    }
    for (size_t i = 4; i < 6; i++) {
        bad = m;
        bad.b[i] = 3;
        assert_int_equal(image_elf_read(bad.b, bad.n, &elf, &e), -EBADMSG);
    }
    bad = m;
    put(&bad, 54, 8, 2); /* headers that are too small */
    assert_int_equal(image_elf_read(bad.b, bad.n, &elf, &e), -EBADMSG);
    bad = m;
    put(&bad, 32, UINT64_MAX - 8, 8); /* and outside of the file */
    assert_int_equal(image_elf_read(bad.b, bad.n, &elf, &e), -EBADMSG);
    /* A string table outside: names are not there, the rest is. */
    bad = m;
    put(&bad, DYN_AT + 4 * 8 + 8, UINT64_MAX, 8);
    assert_int_equal(image_elf_read(bad.b, bad.n, &elf, &e), 0);
    assert_int_equal(elf.needed_len, 0);
    assert_int_equal(elf.level, 2);
    /* Any byte may be anything. Heap copies, so that a byte too far is seen. */
    struct rng rng;
    uint64_t seed = test_seed("image_programs");
    rng_init(&rng, seed);
    for (unsigned i = 0; i < 20000; i++) {
        size_t n = (size_t)rng_below(&rng, FILE_MAX + 1);
        uint8_t *copy = mem_dup(m.b, n + 1);
        assert_non_null(copy);
        for (unsigned k = 0; k < 4 && n > 4; k++) {
            copy[4 + rng_below(&rng, n - 4 < 0x700 ? n - 4 : 0x700)] =
                (uint8_t)rng_below(&rng, 256);
        }
        if (image_elf_read(copy, n, &elf, NULL) == 0) {
            assert_true(elf.level <= 4 && elf.needed_len <= IMAGE_ELF_NEEDED_MAX);
            assert_true(elf.counts.code_bytes <= n);
        }
        mem_free(copy);
    }
}

static void patterns(void **state)
{
    static const uint8_t aes[] = { 0x66, 0x0f, 0x38, 0xdc, 0xc1,         /* aesenc */
                                   0x66, 0x44, 0x0f, 0x38, 0xdf, 0xc1,   /* with a REX */
                                   0xc4, 0xe2, 0x71, 0xdc, 0xc2,         /* vaesenc */
                                   0x66, 0x0f, 0x3a, 0xdf, 0xc1, 0x01 }; /* aeskeygenassist */
    static const uint8_t clmul[] = { 0x66, 0x0f, 0x3a, 0x44, 0xc1, 0x00,
                                     0xc4, 0xe3, 0x71, 0x44, 0xc2, 0x11 };
    static const uint8_t sha[] = { 0x0f, 0x38, 0xcb, 0xc1, 0x41, 0x0f, 0x38,
                                   0xc8, 0xc1, 0x0f, 0x3a, 0xcc, 0xc1, 0x00 };
    static const uint8_t avx2[] = { 0xc5, 0xf5, 0xfe, 0xc2, 0xc5, 0xed, 0xef, 0xc0 };
    static const uint8_t avx[] = { 0xc5, 0xf4, 0x58, 0xc2, 0xc5, 0xf1, 0xfe, 0xc2 }; /* no AVX2 */
    static const uint8_t wide[] = { 0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2,
                                    0x62, 0xf2, 0x75, 0x48, 0xb8, 0xc2 };
    struct image_elf_counts c = { .aes = 0 };
    (void)state;
    image_elf_count(aes, sizeof(aes), &c);
    assert_int_equal(c.aes, 4);
    assert_int_equal(c.clmul + c.sha + c.avx2 + c.avx512, 0);
    assert_int_equal(image_elf_features(&c), IMAGE_FEATURE_AES);
    image_elf_count(clmul, sizeof(clmul), &c);
    assert_int_equal(c.clmul, 2);
    assert_int_equal(image_elf_features(&c), IMAGE_FEATURE_AES); /* two are no evidence */
    image_elf_count(sha, sizeof(sha), &c);
    image_elf_count(sha, sizeof(sha), &c);
    assert_int_equal(c.sha, 6);
    image_elf_count(sha, sizeof(sha), &c);
    assert_int_equal(image_elf_features(&c), IMAGE_FEATURE_AES | IMAGE_FEATURE_SHA);
    image_elf_count(avx, sizeof(avx), &c);
    assert_int_equal(c.avx2, 0);
    image_elf_count(avx2, sizeof(avx2), &c);
    assert_int_equal(c.avx2, 2);
    image_elf_count(wide, sizeof(wide), &c);
    assert_int_equal(c.avx512, 2);
    for (int i = 0; i < 8; i++) {
        image_elf_count(wide, sizeof(wide), &c);
        image_elf_count(avx2, sizeof(avx2), &c);
    }
    assert_true((image_elf_features(&c) & IMAGE_FEATURE_AVX512) != 0);
    assert_true((image_elf_features(&c) & IMAGE_FEATURE_AVX2) != 0);
    c.code_bytes = 1 << 20; /* so few in so much code are chance */
    assert_true((image_elf_features(&c) & (IMAGE_FEATURE_AVX512 | IMAGE_FEATURE_AVX2)) == 0);
    c.aes = UINT32_MAX;
    image_elf_count(aes, sizeof(aes), &c);
    assert_int_equal(c.aes, UINT32_MAX);
    for (size_t n = 0; n < sizeof(wide); n++) { /* cut anywhere */
        uint8_t *cut = mem_dup(wide, n + 1);
        assert_non_null(cut);
        image_elf_count(cut, n, &c);
        mem_free(cut);
    }
    const struct wanted w = { .machine = IMAGE_ELF_X86_64, .code = aes, .code_len = sizeof(aes) };
    struct wanted other = w;
    struct made m;
    other.machine = IMAGE_ELF_ARM64;
    assert_int_equal(read_ok(&w, &m).counts.aes, 4);
    assert_int_equal(read_ok(&other, &m).counts.aes, 0);
}

static void interpreters(void **state)
{
    (void)state;
    assert_true(str_eqs(image_script_interpreter(STR("#!/bin/sh\nx")), "/bin/sh"));
    assert_true(
        str_eqs(image_script_interpreter(STR("#! /usr/bin/env python3\n")), "/usr/bin/env"));
    assert_true(str_eqs(image_script_interpreter(STR("#!/bin/sh")), "/bin/sh"));
    assert_int_equal(image_script_interpreter(STR("#!\n")).n, 0);
    assert_int_equal(image_script_interpreter(STR("#/bin/sh\n")).n, 0);
    assert_int_equal(image_script_interpreter(STR("")).n, 0);
}

/* ---- images ---- */

enum { LAYERS = 3 };

struct image {
    struct buf index[LAYERS];
    struct image_config config;
    char *argv[2], *env[2];
};

static void image_begin(struct image *i, const char *program)
{
    *i = (struct image){ .argv = { mem_strdup(program) } };
    for (size_t k = 0; k < LAYERS; k++) {
        buf_init(&i->index[k], IMAGE_INDEX_MAX);
        image_index_begin(&i->index[k]);
    }
    i->config.cmd = (struct image_strv){ .v = i->argv, .n = 1 };
    i->config.workdir = mem_strdup("/");
    assert_true(i->argv[0] != NULL && i->config.workdir != NULL);
}

static void image_env_is(struct image *i, const char *text)
{
    mem_free(i->env[0]);
    i->env[0] = mem_strdup(text);
    i->config.env = (struct image_strv){ .v = i->env, .n = 1 };
}

static void image_drop(struct image *i)
{
    for (size_t k = 0; k < LAYERS; k++) {
        buf_release(&i->index[k]);
    }
    mem_free(i->argv[0]);
    mem_free(i->env[0]);
    mem_free(i->config.workdir);
}

static void file(struct image *i, unsigned layer, const char *path, struct wanted w)
{
    struct made m;
    w.machine = w.machine != 0 ? w.machine : IMAGE_ELF_X86_64;
    const struct image_elf elf = read_ok(&w, &m);
    image_index_elf(&i->index[layer], str_of(path), &elf);
}
#define FILE_IN(i, layer, path, ...) file(i, layer, path, (struct wanted){ __VA_ARGS__ })
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

static int find(const struct image *i, struct image_programs *ret)
{
    struct str views[LAYERS];
    for (size_t k = 0; k < LAYERS; k++) {
        views[k] = buf_str(&i->index[k]);
    }
    return image_programs_find(views, LAYERS, &i->config, 1, 2, ret);
}

static struct image_programs found(const struct image *i)
{
    struct image_programs p;
    assert_int_equal(find(i, &p), 0);
    return p;
}

/* A distribution's image, in small: /bin is a link, libraries have links, one needs v3. */
static void distribution(struct image *i)
{
    image_begin(i, "tool");
    image_index_link(&i->index[0], STR("bin"), STR("usr/bin"));
    image_index_link(&i->index[0], STR("lib64"), STR("/usr/lib64"));
    image_index_link(&i->index[0], STR("lib"), STR("usr/lib"));
    FILE_IN(i, 0, "usr/lib64/ld.so", .isa = 1);
    FILE_IN(i, 0, "usr/lib/x86_64-linux-gnu/libz.so.1.2", .isa = 1, .needed = { "libfast.so" });
    image_index_link(&i->index[0], STR("usr/lib/x86_64-linux-gnu/libz.so.1"), STR("libz.so.1.2"));
    FILE_IN(i, 0, "usr/lib/libfast.so", .isa = 4);
    FILE_IN(i, 0, "usr/lib/glibc-hwcaps/x86-64-v4/libz.so.1", .isa = 15);
    FILE_IN(i, 1, "usr/bin/tool-2", .interp = "/lib64/ld.so", .needed = { "libz.so.1" });
    image_index_link(&i->index[1], STR("usr/bin/tool"), STR("tool-2"));
}

static void closures(void **state)
{
    struct image i;
    (void)state;
    distribution(&i);
    struct image_programs p = found(&i);
    assert_true(p.known && !p.script && !p.entrypoint);
    assert_int_equal(p.isa, 3); /* of libfast, two libraries away */
    assert_string_equal(p.arch, "amd64");
    assert_int_equal(p.files, 5);
    image_env_is(&i, "PATH=/nowhere:/bin");
    assert_int_equal(found(&i).isa, 3);
    image_env_is(&i, "PATH=/nowhere");
    assert_int_equal(found(&i).isa, 0);
    assert_string_equal(found(&i).arch, "");
    image_env_is(&i, "LD_LIBRARY_PATH=/opt");
    FILE_IN(&i, 2, "opt/libfast.so", .isa = 2); /* is found before the usual one */
    assert_int_equal(found(&i).isa, 2);
    /* A library of another machine is passed over. */
    FILE_IN(&i, 2, "opt/libz.so.1", .machine = IMAGE_ELF_386, .isa = 8);
    assert_int_equal(found(&i).isa, 2);
    image_drop(&i);
}

static void glibc_hwcaps_do_not_count(void **state)
{
    struct image i;
    (void)state;
    distribution(&i);
    FILE_IN(&i, 2, "usr/lib/libfast.so", .isa = 1); /* the plain one needs nothing now */
    assert_int_equal(found(&i).isa, 1);
    image_drop(&i);
}

static void run_paths(void **state)
{
    struct image i;
    (void)state;
    image_begin(&i, "/opt/app/bin/app");
    FILE_IN(&i, 0, "opt/app/bin/app", .fixed = true, .runpath = "/x:${ORIGIN}/../lib",
            .needed = { "liba.so", "libnot-there.so", "/opt/direct.so" });
    FILE_IN(&i, 0, "opt/app/lib/liba.so", .isa = 2, .needed = { "liba.so" }); /* itself */
    assert_int_equal(found(&i).isa, 2);
    FILE_IN(&i, 1, "opt/direct.so", .isa = 4);
    assert_int_equal(found(&i).isa, 3);
    image_drop(&i);
}

static void layers_over_each_other(void **state)
{
    struct image i;
    (void)state;
    image_begin(&i, "/a/tool");
    FILE_IN(&i, 0, "a/tool", .fixed = true, .isa = 8);
    assert_int_equal(found(&i).isa, 4);
    FILE_IN(&i, 1, "a/tool", .fixed = true, .isa = 2); /* replaced */
    assert_int_equal(found(&i).isa, 2);
    image_index_whiteout(&i.index[2], STR("a/tool"), false); /* and gone */
    assert_int_equal(found(&i).isa, 0);
    assert_int_equal(found(&i).files, 0);
    image_drop(&i);

    image_begin(&i, "/a/tool");
    FILE_IN(&i, 0, "a/tool", .fixed = true, .isa = 8);
    image_index_whiteout(&i.index[1], STR("a"), true); /* the directory begins anew */
    assert_int_equal(found(&i).isa, 0);
    FILE_IN(&i, 1, "a/tool", .fixed = true, .isa = 4); /* in the same layer */
    assert_int_equal(found(&i).isa, 3);
    image_index_whiteout(&i.index[2], STR(""), true);
    assert_int_equal(found(&i).isa, 0);
    image_drop(&i);

    image_begin(&i, "/b");
    FILE_IN(&i, 0, "a/tool", .fixed = true, .isa = 4);
    image_index_hard_link(&i.index[0], STR("b"), STR("a/tool"));
    assert_int_equal(found(&i).isa, 3);
    image_drop(&i);
}

static void links_without_end(void **state)
{
    struct image i;
    (void)state;
    image_begin(&i, "/a");
    image_index_link(&i.index[0], STR("a"), STR("b"));
    image_index_link(&i.index[0], STR("b"), STR("../../../a"));
    assert_true(found(&i).known);
    assert_int_equal(found(&i).isa, 0);
    image_drop(&i);
    /* Each doubles the path. */
    image_begin(&i, "/x/x/x");
    image_index_link(&i.index[0], STR("x"), STR("/x/x/x/x/x/x/x/x"));
    assert_true(found(&i).known);
    image_drop(&i);
}

static void scripts_and_others(void **state)
{
    struct image i;
    (void)state;
    image_begin(&i, "/run.sh");
    image_index_script(&i.index[0], STR("run.sh"), STR("/bin/sh"));
    FILE_IN(&i, 0, "bin/sh", .fixed = true, .isa = 2);
    FILE_IN(&i, 0, "opt/fast", .fixed = true, .isa = 8);
    FILE_IN(&i, 0, "opt/lib.so", .isa = 8);
    image_index_link(&i.index[0], STR("fast"), STR("opt/fast"));
    struct image_programs p = found(&i);
    assert_true(p.script);
    assert_int_equal(p.isa, 2); /* its interpreter's */
    assert_int_equal(p.features, IMAGE_FEATURES_ALL);
    assert_int_equal(p.programs_len, 3);
    assert_string_equal(p.programs[0].path, "bin/sh");
    assert_string_equal(p.programs[1].path, "opt/fast");
    assert_string_equal(p.programs[2].path, "fast");
    assert_int_equal(image_programs_isa(&p, STR("")), 2);
    assert_int_equal(image_programs_isa(&p, STR("/opt/fast")), 4);
    assert_int_equal(image_programs_isa(&p, STR("fast")), 4);
    assert_int_equal(image_programs_isa(&p, STR("/bin/other")), 0);
    p.known = false;
    assert_int_equal(image_programs_isa(&p, STR("fast")), 0);
    image_drop(&i);
}

static void facts_as_json(void **state)
{
    AUTO_BUF struct buf out = BUF_INIT(1 << 16);
    AUTO_BUF struct buf again = BUF_INIT(1 << 16);
    struct json_w w;
    struct image i;
    struct image_programs q;
    (void)state;
    image_begin(&i, "/run.sh");
    image_index_script(&i.index[0], STR("run.sh"), STR("/bin/sh"));
    FILE_IN(&i, 0, "bin/sh", .fixed = true, .isa = 2);
    const struct image_programs p = found(&i);
    for (int brief = 0; brief < 2; brief++) {
        struct json_doc *doc = NULL;
        buf_reset(&out);
        json_w_init(&w, &out, false);
        image_programs_write(&w, &p, brief);
        assert_int_equal(json_parse(out.data, out.len, NULL, &doc, NULL), 0);
        assert_int_equal(image_programs_parse(json_root(doc), &q, NULL), 0);
        buf_reset(&again);
        json_w_init(&w, &again, false);
        image_programs_write(&w, &q, brief);
        assert_string_equal(buf_cstr(&out), buf_cstr(&again));
        assert_true(q.known && q.script && q.isa == 2);
        json_free(doc);
    }
    static const char *const odd[] = { "{}", "[]", "{\"scanned\":1}" };
    for (size_t k = 0; k < ARRAY_LEN(odd); k++) {
        struct json_doc *doc = NULL;
        assert_int_equal(json_parse(odd[k], strlen(odd[k]), NULL, &doc, NULL), 0);
        assert_int_equal(image_programs_parse(json_root(doc), &q, NULL), -EINVAL);
        json_free(doc);
    }
    struct json_doc *doc = NULL;
    const char *absurd = "{\"scanned\":true,\"x86_64_level\":9,\"features\":\"x\",\"programs\":3}";
    assert_int_equal(json_parse(absurd, strlen(absurd), NULL, &doc, NULL), 0);
    assert_int_equal(image_programs_parse(json_root(doc), &q, NULL), 0);
    assert_int_equal(q.isa, 0);
    assert_int_equal(q.features, IMAGE_FEATURES_ALL);
    json_free(doc);
    image_drop(&i);
}

static void broken_indexes(void **state)
{
    struct image i;
    struct image_programs p;
    (void)state;
    distribution(&i);
    /* Without one layer's, nothing is concluded. */
    struct buf whole = i.index[0];
    for (size_t n = 0; n < whole.len; n++) {
        char *cut = mem_dup(whole.data, n + 1);
        assert_non_null(cut);
        i.index[0] = (struct buf){ .data = cut, .len = n };
        assert_int_equal(find(&i, &p), 0);
        assert_true(p.known || p.features == IMAGE_FEATURES_ALL);
        assert_true(p.known || p.isa == 0);
        mem_free(cut);
    }
    i.index[0] = whole;
    /* One that did not fit says so. */
    struct buf small = BUF_INIT(64);
    image_index_begin(&small);
    for (int k = 0; k < 8; k++) {
        image_index_link(&small, STR("a/long/name/of/a/link"), STR("to/somewhere"));
    }
    image_index_end(&small);
    assert_int_equal(buf_error(&small), 0);
    buf_release(&i.index[1]);
    i.index[1] = small;
    assert_false(found(&i).known);
    image_drop(&i);
}

static void without_memory(void **state)
{
    struct image i;
    struct image_programs p;
    int rc = -ENOMEM;
    (void)state;
    distribution(&i);
    for (long n = 0; rc == -ENOMEM; n++) {
        mem_fail_after(n, 0);
        rc = find(&i, &p);
        mem_fail_after(-1, 0);
        assert_true(rc == 0 || rc == -ENOMEM);
        assert_true(n < 200);
        if (n < 2) {
            assert_int_equal(rc, -ENOMEM);
        }
    }
    image_drop(&i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_of_all_kinds),
        cmocka_unit_test(broken_files),
        cmocka_unit_test(patterns),
        cmocka_unit_test(interpreters),
        cmocka_unit_test(closures),
        cmocka_unit_test(glibc_hwcaps_do_not_count),
        cmocka_unit_test(run_paths),
        cmocka_unit_test(layers_over_each_other),
        cmocka_unit_test(links_without_end),
        cmocka_unit_test(scripts_and_others),
        cmocka_unit_test(facts_as_json),
        cmocka_unit_test(broken_indexes),
        cmocka_unit_test(without_memory),
    };
    return cmocka_run_group_tests_name("image_programs", tests, NULL, NULL);
}
