/*
 * elf - what an ELF file says of the processor that it is for.
 *
 * Pure: the whole file in memory, in; facts, out. Reads headers, the dynamic section, the property
 * note (x86-64 psABI, "ISA needed": GNU_PROPERTY_X86_ISA_1_NEEDED) and counts byte patterns of
 * instructions in executable segments. Whatever the bytes, nothing outside of them is read; work is
 * linear in the file's size.
 *
 * The counts are evidence, no proof: a disassembler would need to know where instructions begin.
 * AES, CLMUL and SHA have long encodings that data hardly ever shows; the AVX ones are noisy, so
 * image_elf_features() asks for more of them the more code there is.
 */
#ifndef AGENT_IMAGE_ELF_H
#define AGENT_IMAGE_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/str.h"

enum {
    IMAGE_ELF_NEEDED_MAX = 64, /* libraries that one file may name */
    IMAGE_ELF_NAME_MAX = 512,  /* bytes of a library's name, of an interpreter or a run path */
    IMAGE_ELF_386 = 3,         /* e_machine */
    IMAGE_ELF_X86_64 = 62,
    IMAGE_ELF_ARM64 = 183,
};

/* Instructions that are there. */
enum image_feature {
    IMAGE_FEATURE_AES = 1,
    IMAGE_FEATURE_CLMUL = 2,
    IMAGE_FEATURE_SHA = 4,
    IMAGE_FEATURE_AVX2 = 8,
    IMAGE_FEATURE_AVX512 = 16,
    IMAGE_FEATURES_ALL = 31,
};

struct image_elf_counts {
    uint32_t aes, clmul, sha, avx2, avx512; /* patterns; they stop at UINT32_MAX */
    uint64_t code_bytes;                    /* that were looked at */
};

/* Texts point into the file. */
struct image_elf {
    uint16_t machine;
    uint8_t level;          /* x86-64 level that it says it needs, 1 to 4; 0: it says nothing */
    bool program;           /* something that is started: it has an interpreter, or is fixed */
    struct str interpreter; /* of PT_INTERP; empty: none */
    struct str runpath;     /* DT_RUNPATH, or else DT_RPATH */
    struct str needed[IMAGE_ELF_NEEDED_MAX];
    size_t needed_len;
    struct image_elf_counts counts; /* of x86 code; else 0 */
};

/* Does it begin like one? n may be the first few bytes. */
bool image_elf_is(const void *p, size_t n);
/* -EBADMSG: none, or cut, or it contradicts itself; e says what. *ret is untouched then. */
int image_elf_read(const void *p, size_t n, struct image_elf *ret, struct err *e);
/* Adds the patterns in n bytes of x86 code. */
void image_elf_count(const void *p, size_t n, struct image_elf_counts *counts);
void image_elf_counts_add(struct image_elf_counts *to, const struct image_elf_counts *from);
/* enum image_feature bits: what the counts say is there (aes and clmul from 4 on, sha from 8, avx2
 * from 4 and one per 16 KiB of code, avx512 from 8 and one per 32 KiB). */
unsigned image_elf_features(const struct image_elf_counts *counts);
/* "amd64", "arm64", …: the name that images use; "" when it has none. */
const char *image_elf_arch(uint16_t machine);

#endif
