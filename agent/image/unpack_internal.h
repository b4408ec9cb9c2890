/*
 * unpack_internal - the tree that a layer is unpacked into: parents, replacing, whiteouts. For
 * sys_unpack*.c only.
 */
#ifndef AGENT_IMAGE_UNPACK_INTERNAL_H
#define AGENT_IMAGE_UNPACK_INTERNAL_H

#include <stdbool.h>
#include <sys/stat.h>
#include <time.h>

#include "agent/image/path.h"
#include "agent/image/unpack.h"

struct image_tree {
    int root;
    const struct image_limits *limits;
    struct buf *opaque;
    struct image_unpack_report *report;

    /* The directory of the entry before this one: most entries follow their siblings. Its times are
     * put back when it is left, because making entries in it changes them. */
    int parent; /* O_PATH; -1: none */
    char parent_path[IMAGE_PATH_MAX];
    struct timespec parent_mtime;
    bool replaced; /* something was: a link in parent_path may lead elsewhere now */
};

/* Makes `path` (clean) the tree's parent directory, with what is missing of it (0755, root's).
 * Links on the way are followed inside the root, as the kernel of a container would. */
int image_tree_enter(struct image_tree *t, struct str path, struct err *e);
/* Puts the parent's times back and forgets it. */
void image_tree_leave(struct image_tree *t);
/* Something is in the way of `base` in the parent: removes it, unless it is a directory and one is
 * wanted. *ret_whiteout: it was a whiteout. */
int image_tree_clear(struct image_tree *t, const char *base, bool want_dir, bool *ret_whiteout,
                     struct err *e);
/* The directory hides what lower layers have in it. path: clean. */
int image_tree_add_opaque(struct image_tree *t, struct str path, struct err *e);
/* Counts an entry or a directory made on the way. */
int image_tree_count(struct image_tree *t, struct err *e);
bool image_tree_is_whiteout(const struct stat *st);

#endif
