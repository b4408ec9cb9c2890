#include "agent/image/elf.h"

#include <errno.h>
#include <string.h>

#include "common/cur.h"
#include "common/mem.h"

enum {
    HEADERS_MAX = 256, /* program headers looked at */
    DYNAMIC_MAX = 4096,
    NOTES_MAX = 64 * 1024, /* bytes */

    PT_LOAD_ = 1,
    PT_DYNAMIC_ = 2,
    PT_INTERP_ = 3,
    PT_NOTE_ = 4,
    PF_X_ = 1,
    ET_EXEC_ = 2,
    ET_DYN_ = 3,
    DT_NEEDED_ = 1,
    DT_STRTAB_ = 5,
    DT_STRSZ_ = 10,
    DT_RPATH_ = 15,
    DT_RUNPATH_ = 29,
    NT_GNU_PROPERTY_ = 5,
};
static const uint32_t pt_gnu_property = 0x6474e553;
static const uint32_t x86_isa_needed = 0xc0008002;

/* ---- reading ---- */

struct in {
    const uint8_t *p;
    size_t n;
    bool wide, big;
};

struct segment {
    uint32_t type, flags;
    uint64_t offset, address, bytes;
};

/* A range of the file, as far as it is there; false: it begins outside. */
static bool range(const struct in *in, uint64_t offset, uint64_t bytes, struct str *ret)
{
    if (offset > in->n) {
        return false;
    }
    uint64_t left = in->n - offset;
    *ret = (struct str){ (const char *)in->p + offset, (size_t)(bytes < left ? bytes : left) };
    return true;
}

static uint64_t u16_of(const struct in *in, struct cur *c)
{
    return in->big ? cur_be16(c) : cur_le16(c);
}

static uint32_t u32_of(const struct in *in, struct cur *c)
{
    return in->big ? cur_be32(c) : cur_le32(c);
}

/* An address, offset or size: as wide as the file's class. */
static uint64_t word_of(const struct in *in, struct cur *c)
{
    if (!in->wide) {
        return u32_of(in, c);
    }
    return in->big ? cur_be64(c) : cur_le64(c);
}

static size_t segments_read(const struct in *in, uint64_t at, uint64_t each, uint64_t count,
                            struct segment ret[HEADERS_MAX])
{
    size_t n = 0;

    for (uint64_t i = 0; i < count && n < HEADERS_MAX; i++) {
        struct segment s;
        struct cur c;
        if (at > in->n || each > (in->n - at) / (i + 1)) {
            break; /* cut */
        }
        cur_init(&c, in->p + at + i * each, (size_t)each);
        s.type = u32_of(in, &c);
        if (in->wide) {
            s.flags = u32_of(in, &c);
        }
        s.offset = word_of(in, &c);
        s.address = word_of(in, &c);
        (void)word_of(in, &c);
        s.bytes = word_of(in, &c);
        (void)word_of(in, &c);
        if (!in->wide) {
            s.flags = u32_of(in, &c);
        }
        if (cur_ok(&c)) {
            ret[n++] = s;
        }
    }
    return n;
}

/* ---- the dynamic section ---- */

/* Where the file has what will be at that address; false: nowhere. */
static bool offset_of(const struct segment *s, size_t n, uint64_t address, uint64_t *ret)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i].type == PT_LOAD_ && address >= s[i].address &&
            address - s[i].address < s[i].bytes) {
            *ret = s[i].offset + (address - s[i].address);
            return *ret >= s[i].offset;
        }
    }
    return false;
}

/* A string of the table: empty when it is none. */
static struct str text_of(struct str table, uint64_t at)
{
    if (at >= table.n) {
        return STR("");
    }
    struct str rest = str_slice(table, (size_t)at, table.n);
    const char *end = memchr(rest.p, '\0', rest.n);
    size_t len = end != NULL ? (size_t)(end - rest.p) : 0;

    return len <= IMAGE_ELF_NAME_MAX ? str_slice(rest, 0, len) : STR("");
}

static void dynamic_read(const struct in *in, const struct segment *segments, size_t n,
                         const struct segment *dynamic, struct image_elf *ret)
{
    uint64_t names[IMAGE_ELF_NEEDED_MAX];
    size_t names_len = 0;
    uint64_t table_at = 0;
    uint64_t table_bytes = 0;
    uint64_t rpath = 0;
    uint64_t runpath = 0;
    struct str bytes;
    struct str table;
    struct cur c;

    if (!range(in, dynamic->offset, dynamic->bytes, &bytes)) {
        return;
    }
    cur_init(&c, bytes.p, bytes.n);
    for (size_t i = 0; i < DYNAMIC_MAX; i++) {
        uint64_t tag = word_of(in, &c);
        uint64_t value = word_of(in, &c);
        if (!cur_ok(&c) || tag == 0) {
            break;
        }
        if (tag == DT_NEEDED_ && names_len < IMAGE_ELF_NEEDED_MAX) {
            names[names_len++] = value;
        } else if (tag == DT_STRTAB_) {
            table_at = value;
        } else if (tag == DT_STRSZ_) {
            table_bytes = value;
        } else if (tag == DT_RPATH_) {
            rpath = value;
        } else if (tag == DT_RUNPATH_) {
            runpath = value;
        }
    }
    if (!offset_of(segments, n, table_at, &table_at) || !range(in, table_at, table_bytes, &table)) {
        return;
    }
    for (size_t i = 0; i < names_len; i++) {
        struct str name = text_of(table, names[i]);
        if (name.n != 0) {
            ret->needed[ret->needed_len++] = name;
        }
    }
    if (runpath != 0 || rpath != 0) {
        ret->runpath = text_of(table, runpath != 0 ? runpath : rpath);
    }
}

/* ---- notes ---- */

/* The properties of one note: each a type, a length and its data, padded to the class. */
static void properties_read(const struct in *in, struct str bytes, struct image_elf *ret)
{
    struct cur c;
    size_t pad = in->wide ? 8 : 4;

    cur_init(&c, bytes.p, bytes.n);
    while (cur_left(&c) >= 8) {
        uint32_t type = u32_of(in, &c);
        uint32_t len = u32_of(in, &c);
        struct str data = cur_bytes(&c, len);
        struct cur value;
        if (!cur_ok(&c)) {
            return;
        }
        if (type == x86_isa_needed && len == 4) {
            cur_init(&value, data.p, data.n);
            uint32_t bits = u32_of(in, &value) & 0xf; /* baseline, v2, v3, v4 */
            for (uint8_t level = 4; level > ret->level; level--) {
                if ((bits >> (level - 1) & 1) != 0) {
                    ret->level = level;
                }
            }
        }
        size_t odd = len % pad;
        cur_skip(&c, odd != 0 && pad - odd <= cur_left(&c) ? pad - odd : 0);
    }
}

static void notes_read(const struct in *in, const struct segment *s, struct image_elf *ret)
{
    struct str bytes;
    struct cur c;

    if (!range(in, s->offset, s->bytes < NOTES_MAX ? s->bytes : NOTES_MAX, &bytes)) {
        return;
    }
    cur_init(&c, bytes.p, bytes.n);
    while (cur_left(&c) >= 12) {
        uint32_t name_len = u32_of(in, &c);
        uint32_t len = u32_of(in, &c);
        uint32_t type = u32_of(in, &c);
        struct str name = cur_bytes(&c, name_len);
        size_t odd = name_len % 4;
        cur_skip(&c, odd != 0 ? 4 - odd : 0);
        struct str data = cur_bytes(&c, len);
        if (!cur_ok(&c)) {
            return;
        }
        if (type == NT_GNU_PROPERTY_ && name.n == 4 && memcmp(name.p, "GNU", 4) == 0) {
            properties_read(in, data, ret);
        }
        odd = len % 4;
        cur_skip(&c, odd != 0 && 4 - odd <= cur_left(&c) ? 4 - odd : 0);
    }
}

/* ---- instructions ---- */

static void more(uint32_t *count)
{
    *count += *count < UINT32_MAX ? 1 : 0;
}

/* Legacy encodings of 0F 38 and 0F 3A; sixty_six: behind a prefix 66, perhaps with a REX between.
 */
static void legacy(const uint8_t *at, bool sixty_six, struct image_elf_counts *c)
{
    uint8_t map = at[1];
    uint8_t op = at[2];

    if (map == 0x38 && sixty_six && op >= 0xdb && op <= 0xdf) {
        more(&c->aes);
    } else if (map == 0x38 && !sixty_six && op >= 0xc8 && op <= 0xcd) {
        more(&c->sha);
    } else if (map == 0x3a && sixty_six && op == 0xdf) {
        more(&c->aes);
    } else if (map == 0x3a && sixty_six && op == 0x44) {
        more(&c->clmul);
    } else if (map == 0x3a && !sixty_six && op == 0xcc) {
        more(&c->sha);
    }
}

/* VEX with three bytes: C4 RXB.map W.vvvv.L.pp opcode. */
static void vex3(const uint8_t *at, struct image_elf_counts *c)
{
    unsigned map = at[1] & 0x1f;
    bool sixty_six = (at[2] & 3) == 1;
    uint8_t op = at[3];

    if (!sixty_six) {
        return;
    }
    if ((map == 2 && op >= 0xdb && op <= 0xdf) || (map == 3 && op == 0xdf)) {
        more(&c->aes);
    } else if (map == 3 && op == 0x44) {
        more(&c->clmul);
    }
}

/* Integer operations, which AVX has with 128 bits only: with 256 they are AVX2. */
static bool integer_op(uint8_t op)
{
    return (op >= 0x60 && op <= 0x6d && op != 0x64 && op != 0x66) || (op >= 0x74 && op <= 0x76) ||
           op == 0xd4 || op == 0xd7 || op == 0xda || op == 0xdb || op == 0xde || op == 0xeb ||
           op == 0xef || op == 0xfa || op == 0xfb || (op >= 0xfc && op <= 0xfe);
}

/* What compilers make of 512 bits: moves, sums, products, logic. */
static bool wide_op(unsigned map, uint8_t op)
{
    if (map == 1) {
        return op == 0x10 || op == 0x11 || op == 0x28 || op == 0x29 || op == 0x6f || op == 0x7f ||
               op == 0x58 || op == 0x59 || op == 0x5c || op == 0xef || op == 0xfe || op == 0xdb;
    }
    return map == 2 && (op == 0x18 || op == 0x19 || op == 0x58 || op == 0x98 || op == 0xa8 ||
                        op == 0xb8 || op == 0xac || op == 0xbc);
}

void image_elf_count(const void *p, size_t n, struct image_elf_counts *counts)
{
    const uint8_t *b = p;
    struct image_elf_counts c = *counts;

    c.code_bytes += n;
    for (size_t i = 0; i + 3 <= n; i++) {
        size_t left = n - i;
        switch (b[i]) {
        case 0x0f:
            if (b[i + 1] == 0x38 || b[i + 1] == 0x3a) {
                bool rex = i >= 1 && (b[i - 1] & 0xf0) == 0x40;
                legacy(b + i, rex ? i >= 2 && b[i - 2] == 0x66 : i >= 1 && b[i - 1] == 0x66, &c);
            }
            break;
        case 0xc4:
            if (left >= 4) {
                vex3(b + i, &c);
            }
            break;
        case 0xc5: /* VEX with two bytes: R.vvvv.L.pp opcode */
            if ((b[i + 1] & 7) == 5 && integer_op(b[i + 2])) {
                more(&c.avx2);
            }
            break;
        case 0x62: /* EVEX */
            if (left >= 5 && (b[i + 1] & 0x0c) == 0 && (b[i + 2] & 4) != 0 &&
                (b[i + 3] & 0x60) == 0x40 && wide_op(b[i + 1] & 3, b[i + 4])) {
                more(&c.avx512);
            }
            break;
        default:
            break;
        }
    }
    *counts = c;
}

static uint32_t sum_of(uint32_t a, uint32_t b)
{
    return a > UINT32_MAX - b ? UINT32_MAX : a + b;
}

void image_elf_counts_add(struct image_elf_counts *to, const struct image_elf_counts *from)
{
    to->aes = sum_of(to->aes, from->aes);
    to->clmul = sum_of(to->clmul, from->clmul);
    to->sha = sum_of(to->sha, from->sha);
    to->avx2 = sum_of(to->avx2, from->avx2);
    to->avx512 = sum_of(to->avx512, from->avx512);
    to->code_bytes = to->code_bytes > UINT64_MAX - from->code_bytes
                         ? UINT64_MAX
                         : to->code_bytes + from->code_bytes;
}

unsigned image_elf_features(const struct image_elf_counts *c)
{
    return (c->aes >= 4 ? IMAGE_FEATURE_AES : 0u) | (c->clmul >= 4 ? IMAGE_FEATURE_CLMUL : 0u) |
           (c->sha >= 8 ? IMAGE_FEATURE_SHA : 0u) |
           (c->avx2 >= 4 + c->code_bytes / 16384 ? IMAGE_FEATURE_AVX2 : 0u) |
           (c->avx512 >= 8 + c->code_bytes / 32768 ? IMAGE_FEATURE_AVX512 : 0u);
}

const char *image_elf_arch(uint16_t machine)
{
    static const struct {
        uint16_t machine;
        const char *name;
    } names[] = {
        { IMAGE_ELF_386, "386" },
        { IMAGE_ELF_X86_64, "amd64" },
        { IMAGE_ELF_ARM64, "arm64" },
        { 40, "arm" },
        { 243, "riscv64" },
        { 21, "ppc64le" },
        { 22, "s390x" },
        { 258, "loong64" },
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i].machine == machine) {
            return names[i].name;
        }
    }
    return "";
}

/* ---- all of it ---- */

bool image_elf_is(const void *p, size_t n)
{
    return n >= 4 && memcmp(p, "\177ELF", 4) == 0;
}

static void interpreter_read(const struct in *in, const struct segment *s, struct image_elf *ret)
{
    struct str text;

    if (s->bytes <= IMAGE_ELF_NAME_MAX + 1 && range(in, s->offset, s->bytes, &text)) {
        ret->interpreter = text_of(text, 0);
    }
}

static void segment_read(const struct in *in, const struct segment *all, size_t n,
                         const struct segment *s, struct image_elf *ret)
{
    struct str code;

    if (s->type == PT_INTERP_) {
        interpreter_read(in, s, ret);
    } else if (s->type == PT_DYNAMIC_) {
        if (ret->needed_len == 0) {
            dynamic_read(in, all, n, s, ret);
        }
    } else if (s->type == PT_NOTE_ || s->type == pt_gnu_property) {
        notes_read(in, s, ret);
    } else if (s->type == PT_LOAD_ && (s->flags & PF_X_) != 0 &&
               range(in, s->offset, s->bytes, &code) &&
               (ret->machine == IMAGE_ELF_X86_64 || ret->machine == IMAGE_ELF_386) &&
               ret->counts.code_bytes + code.n <= in->n) { /* overlapping ones: not for ever */
        image_elf_count(code.p, code.n, &ret->counts);
    }
}

int image_elf_read(const void *p, size_t n, struct image_elf *ret, struct err *e)
{
    struct in in = { .p = p, .n = n };
    struct segment segments[HEADERS_MAX];
    struct image_elf elf = { .level = 0 };
    struct cur c;

    if (!image_elf_is(p, n)) {
        return err_say(e, -EBADMSG, "it is no ELF file");
    }
    cur_init(&c, p, n);
    cur_skip(&c, 4);
    uint8_t class_is = cur_u8(&c);
    uint8_t order = cur_u8(&c);
    if (class_is < 1 || class_is > 2 || order < 1 || order > 2) {
        return err_say(e, -EBADMSG, "an ELF file of class %u and byte order %u", class_is, order);
    }
    in.wide = class_is == 2;
    in.big = order == 2;
    cur_skip(&c, 10);
    uint64_t type = u16_of(&in, &c);
    elf.machine = (uint16_t)u16_of(&in, &c);
    (void)u32_of(&in, &c);  /* version */
    (void)word_of(&in, &c); /* entry */
    uint64_t at = word_of(&in, &c);
    (void)word_of(&in, &c); /* sections */
    (void)u32_of(&in, &c);
    (void)u16_of(&in, &c);
    uint64_t each = u16_of(&in, &c);
    uint64_t count = u16_of(&in, &c);
    if (!cur_ok(&c)) {
        return err_say(e, -EBADMSG, "the ELF header is cut off");
    }
    if (count != 0 && each < (in.wide ? 56u : 32u)) {
        return err_say(e, -EBADMSG, "ELF program headers of %u bytes", (unsigned)each);
    }
    size_t len = segments_read(&in, at, each, count, segments);
    if (len < count && len < HEADERS_MAX) {
        return err_say(e, -EBADMSG, "the ELF program headers are cut off");
    }
    for (size_t i = 0; i < len; i++) {
        segment_read(&in, segments, len, &segments[i], &elf);
    }
    elf.program = (type == ET_EXEC_ || type == ET_DYN_) && count != 0 &&
                  (type == ET_EXEC_ || elf.interpreter.n != 0);
    *ret = elf;
    return 0;
}
