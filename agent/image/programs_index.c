/* A layer's index as bytes. */
#include <errno.h>
#include <string.h>

#include "agent/image/programs_internal.h"

static const char head_whole[] = "agent-elf-1 whole\n";
static const char head_part[] = "agent-elf-1 part.\n";
enum { HEAD = sizeof(head_whole) - 1 };
_Static_assert(sizeof(head_whole) == sizeof(head_part), "file");
_Static_assert(IMAGE_INDEX_ELF == 1 && IMAGE_INDEX_OPAQUE == 6, "file");

/* ---- writing ---- */

static void add_text(struct buf *out, struct str s)
{
    struct str cut = str_slice(s, 0, UINT16_MAX);

    (void)buf_add_le16(out, (uint16_t)cut.n);
    (void)buf_addstr(out, cut);
}

static void add_entry(struct buf *out, enum image_index_kind kind, struct str path)
{
    (void)buf_add_u8(out, (uint8_t)kind);
    add_text(out, path);
}

void image_index_begin(struct buf *out)
{
    (void)buf_add(out, head_whole, HEAD);
}

void image_index_elf(struct buf *out, struct str path, const struct image_elf *elf)
{
    const struct image_elf_counts *c = &elf->counts;
    const uint32_t counts[] = { c->aes, c->clmul, c->sha, c->avx2, c->avx512 };

    add_entry(out, IMAGE_INDEX_ELF, path);
    (void)buf_add_le16(out, elf->machine);
    (void)buf_add_u8(out, elf->level);
    (void)buf_add_u8(out, elf->program ? 1 : 0);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        (void)buf_add_le32(out, counts[i]);
    }
    (void)buf_add_le64(out, c->code_bytes);
    add_text(out, elf->interpreter);
    add_text(out, elf->runpath);
    (void)buf_add_u8(out, (uint8_t)elf->needed_len);
    for (size_t i = 0; i < elf->needed_len; i++) {
        add_text(out, elf->needed[i]);
    }
}

void image_index_script(struct buf *out, struct str path, struct str interpreter)
{
    add_entry(out, IMAGE_INDEX_SCRIPT, path);
    add_text(out, interpreter);
}

void image_index_link(struct buf *out, struct str path, struct str target)
{
    add_entry(out, IMAGE_INDEX_LINK, path);
    add_text(out, target);
}

void image_index_hard_link(struct buf *out, struct str path, struct str target)
{
    add_entry(out, IMAGE_INDEX_HARD_LINK, path);
    add_text(out, target);
}

void image_index_whiteout(struct buf *out, struct str path, bool opaque)
{
    add_entry(out, opaque ? IMAGE_INDEX_OPAQUE : IMAGE_INDEX_WHITEOUT, path);
}

void image_index_end(struct buf *out)
{
    if (buf_error(out) != 0) {
        buf_reset(out);
        (void)buf_add(out, head_part, HEAD);
    }
}

struct str image_script_interpreter(struct str head)
{
    if (!str_starts(head, "#!")) {
        return STR("");
    }
    struct str line = str_slice(head, 2, head.n);
    ptrdiff_t end = str_find(line, '\n');
    line = str_trim(end >= 0 ? str_slice(line, 0, (size_t)end) : line);
    for (size_t i = 0; i < line.n; i++) {
        if (line.p[i] == ' ' || line.p[i] == '\t') {
            return str_slice(line, 0, i);
        }
    }
    return line;
}

/* ---- reading ---- */

int image_index_open(struct image_index_reader *r, struct str index)
{
    if (index.n < HEAD || memcmp(index.p, head_whole, HEAD) != 0) {
        return -EBADMSG;
    }
    cur_init(&r->c, index.p + HEAD, index.n - HEAD);
    return 0;
}

static struct str get_text(struct cur *c)
{
    return cur_bytes(c, cur_le16(c));
}

static void get_elf(struct cur *c, struct image_index_entry *ret)
{
    ret->machine = cur_le16(c);
    ret->level = cur_u8(c);
    ret->program = cur_u8(c) != 0;
    ret->counts.aes = cur_le32(c);
    ret->counts.clmul = cur_le32(c);
    ret->counts.sha = cur_le32(c);
    ret->counts.avx2 = cur_le32(c);
    ret->counts.avx512 = cur_le32(c);
    ret->counts.code_bytes = cur_le64(c);
    ret->interpreter = get_text(c);
    ret->runpath = get_text(c);
    uint8_t names = cur_u8(c);
    const uint8_t *from = c->p;
    for (uint8_t i = 0; i < names; i++) {
        (void)get_text(c);
    }
    if (cur_ok(c)) {
        ret->needed = (struct str){ (const char *)from, (size_t)(c->p - from) };
    }
}

int image_index_next(struct image_index_reader *r, struct image_index_entry *ret)
{
    struct image_index_entry entry = { .level = 0 };
    struct cur *c = &r->c;

    if (cur_done(c)) {
        return 0;
    }
    uint8_t kind = cur_u8(c);
    entry.path = get_text(c);
    switch (kind) {
    case IMAGE_INDEX_ELF:
        get_elf(c, &entry);
        break;
    case IMAGE_INDEX_SCRIPT:
    case IMAGE_INDEX_LINK:
    case IMAGE_INDEX_HARD_LINK:
        entry.target = get_text(c);
        break;
    case IMAGE_INDEX_WHITEOUT:
    case IMAGE_INDEX_OPAQUE:
        break;
    default:
        return -EBADMSG;
    }
    if (!cur_ok(c) || entry.level > 4 || entry.path.n >= IMAGE_PATH_MAX) {
        return -EBADMSG;
    }
    entry.kind = (enum image_index_kind)kind;
    *ret = entry;
    return 1;
}

bool image_index_needed(struct str *rest, struct str *ret)
{
    struct cur c;

    cur_init(&c, rest->p, rest->n);
    *ret = get_text(&c);
    if (!cur_ok(&c)) {
        return false;
    }
    *rest = str_slice(*rest, 2 + ret->n, rest->n);
    return true;
}
