/*
 * programs - what the programs of an image need of a processor.
 *
 * Pure. While a layer is unpacked, what matters of it goes into the layer's *index*: its ELF files
 * with their facts (elf.h), its scripts, links and deletions. The indexes of all layers give the
 * facts of an image, without another look at its files: the program that it starts, found as exec
 * and the dynamic linker would find it (links, PATH, DT_RUNPATH, the usual directories, but never a
 * glibc-hwcaps directory, whose files are chosen by what the processor has), with everything that
 * it is linked with.
 *
 *   isa        the highest x86-64 level that any of those says it needs. A hard filter.
 *   features   which instructions are anywhere in the image. Weak evidence: many libraries have
 *              code paths that are never taken; so only absence says much. Of a script nothing is
 *              known: everything counts as present.
 *
 * An index comes from a process that read hostile bytes: its reader trusts nothing.
 */
#ifndef AGENT_IMAGE_PROGRAMS_H
#define AGENT_IMAGE_PROGRAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/image/elf.h"
#include "agent/image/image.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"
#include "common/str.h"

enum {
    IMAGE_INDEX_MAX = 4 * 1024 * 1024, /* bytes of a layer's index */
    IMAGE_INDEX_ENTRIES_MAX = 262144,  /* of all layers of an image */
    IMAGE_PROGRAMS_MAX = 16,
    IMAGE_PROGRAM_PATH_CAP = 128,
};

/* ---- a layer's index ---- */

/* Begins one: out is empty, with a max of IMAGE_INDEX_MAX. Paths are clean and relative. What does
 * not fit makes the whole incomplete, which image_index_end() writes down. */
void image_index_begin(struct buf *out);
void image_index_elf(struct buf *out, struct str path, const struct image_elf *elf);
void image_index_script(struct buf *out, struct str path, struct str interpreter);
void image_index_link(struct buf *out, struct str path, struct str target);
/* A name of another file of the layer: target is clean, too. */
void image_index_hard_link(struct buf *out, struct str path, struct str target);
/* What lower layers have there is gone: path itself, or (opaque) all that is in it. */
void image_index_whiteout(struct buf *out, struct str path, bool opaque);
void image_index_end(struct buf *out);

/* The interpreter of a file that begins with these bytes (as many as there are); empty: it is no
 * script. */
struct str image_script_interpreter(struct str head);

/* ---- an image's facts ---- */

struct image_program {
    char path[IMAGE_PROGRAM_PATH_CAP];
    uint8_t isa;
};

struct image_programs {
    bool known;      /* false: nothing could be found out, and nothing is to be concluded */
    bool entrypoint; /* the program is the image's entrypoint: a job's command does not change it */
    bool script;     /* it is one */
    uint8_t isa;     /* x86-64 level that the image's own program needs, 1 to 4; 0: none is said */
    uint8_t features; /* enum image_feature */
    char arch[16];    /* of that program, "amd64"; "": not known */
    uint32_t files;   /* ELF files in the image */
    struct image_elf_counts counts;
    /* Other programs that need more than x86-64-v1, in the order of their layers. */
    struct image_program programs[IMAGE_PROGRAMS_MAX];
    size_t programs_len;
};

/* indexes: one per layer, the lowest first; empty: there is none. k0, k1: hash key, from entropy.
 * Never fails but for memory (-ENOMEM): what can not be read leaves ret->known false. */
int image_programs_find(const struct str *indexes, size_t n, const struct image_config *config,
                        uint64_t k0, uint64_t k1, struct image_programs *ret);

/* The x86-64 level that a run needs. program: what the job gives in place of the image's (its
 * entrypoint, or command where the image has no entrypoint); empty: it gives none. */
uint8_t image_programs_isa(const struct image_programs *p, struct str program);

/* As one object: "scanned", and if that is so "arch", "x86_64_level", "features", "script",
 * "entrypoint", "programs" (of the last three, brief only what is not false or empty); unless brief
 * also "files" and "hits" (of patterns). */
void image_programs_write(struct json_w *w, const struct image_programs *p, bool brief);
/* -EINVAL: not such an object. known is set. */
int image_programs_parse(const struct json *v, struct image_programs *ret, struct err *e);

#endif
