/*
 * Any bytes as an ELF file, as x86 code, as a script, and as the index of a layer: what is read is
 * in bounds, what was written can be read, and an image's facts keep their ranges.
 */
#include <stdint.h>
#include <string.h>

#include "agent/image/programs.h"
#include "agent/image/programs_internal.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_inside(struct str s, const uint8_t *data, size_t size)
{
    INSIST(s.n == 0 || ((const uint8_t *)s.p >= data && s.n <= size &&
                        (size_t)((const uint8_t *)s.p - data) <= size - s.n));
}

static void check_elf(const uint8_t *data, size_t size)
{
    AUTO_BUF struct buf index = BUF_INIT(IMAGE_INDEX_MAX);
    struct image_index_reader r;
    struct image_index_entry entry;
    struct image_elf elf;
    struct str name;
    size_t n = 0;
    if (image_elf_read(data, size, &elf, NULL) != 0) {
        return;
    }
    INSIST(elf.level <= 4 && elf.needed_len <= IMAGE_ELF_NEEDED_MAX);
    check_inside(elf.interpreter, data, size);
    check_inside(elf.runpath, data, size);
    image_index_begin(&index);
    image_index_elf(&index, STR("a/b"), &elf);
    image_index_end(&index);
    INSIST(image_index_open(&r, buf_str(&index)) == 0 && image_index_next(&r, &entry) == 1);
    INSIST(entry.kind == IMAGE_INDEX_ELF && str_eq(entry.interpreter, elf.interpreter));
    for (; image_index_needed(&entry.needed, &name); n++) {
        check_inside(elf.needed[n], data, size);
        INSIST(str_eq(name, elf.needed[n]));
    }
    INSIST(n == elf.needed_len && image_index_next(&r, &entry) == 0);
}

static void check_image(const uint8_t *data, size_t size)
{
    static char name[] = "sh";
    static char root[] = "/";
    static char *argv[] = { name, NULL };
    static const char head[] = "agent-elf-1 whole\n";
    const struct image_config config = { .cmd = { argv, 1 }, .workdir = root };
    AUTO_BUF struct buf lower = BUF_INIT(IMAGE_INDEX_MAX);
    AUTO_BUF struct buf upper = BUF_INIT(IMAGE_INDEX_MAX);
    struct image_programs p;
    size_t half = size / 2;
    (void)buf_adds(&lower, head);
    (void)buf_add(&lower, data, half);
    (void)buf_adds(&upper, head);
    (void)buf_add(&upper, data + half, size - half);
    const struct str layers[] = { buf_str(&lower), buf_str(&upper) };
    if (image_programs_find(layers, 2, &config, 1, 2, &p) == 0) {
        INSIST(p.isa <= 4 && p.programs_len <= IMAGE_PROGRAMS_MAX);
        INSIST(p.known || (p.isa == 0 && p.features == IMAGE_FEATURES_ALL));
        INSIST(image_programs_isa(&p, STR("x")) <= 4);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct image_elf_counts counts = { .aes = 0 };
    check_inside(image_script_interpreter((struct str){ (const char *)data, size }), data, size);
    image_elf_count(data, size, &counts);
    INSIST(counts.code_bytes == size && image_elf_features(&counts) <= IMAGE_FEATURES_ALL);
    check_elf(data, size);
    if (size >= 2) {
        check_image(data, size);
    }
    return 0;
}
