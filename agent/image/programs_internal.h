/*
 * programs_internal - the entries of indexes, as their reader gives them; for programs*.c.
 */
#ifndef AGENT_IMAGE_PROGRAMS_INTERNAL_H
#define AGENT_IMAGE_PROGRAMS_INTERNAL_H

#include "agent/image/programs.h"
#include "common/cur.h"

/* Pinned: in files. */
enum image_index_kind {
    IMAGE_INDEX_ELF = 1,
    IMAGE_INDEX_SCRIPT = 2,
    IMAGE_INDEX_LINK = 3,
    IMAGE_INDEX_HARD_LINK = 4,
    IMAGE_INDEX_WHITEOUT = 5,
    IMAGE_INDEX_OPAQUE = 6,
};

/* Texts point into the index. */
struct image_index_entry {
    enum image_index_kind kind;
    struct str path;
    struct str target; /* of a link; of a script its interpreter */
    struct str needed; /* ELF: what is left to read of its names, each with its length */
    uint16_t machine;
    uint8_t level;
    bool program;
    struct str interpreter, runpath;
    struct image_elf_counts counts;
};

struct image_index_reader {
    struct cur c;
};
/* -EBADMSG: it is none, or an incomplete one. */
int image_index_open(struct image_index_reader *r, struct str index);
/* 1: *ret is the next one; 0: that was all; -EBADMSG. */
int image_index_next(struct image_index_reader *r, struct image_index_entry *ret);
/* The next name of entry->needed; false: that was the last. */
bool image_index_needed(struct str *rest, struct str *ret);

#endif
