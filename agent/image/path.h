/*
 * path - names of files in archives, cleaned before anything is done with them. Internal to image/;
 * pure.
 */
#ifndef AGENT_IMAGE_PATH_H
#define AGENT_IMAGE_PATH_H

#include <stdbool.h>
#include <stddef.h>

#include "agent/image/image.h"
#include "common/str.h"

/* What to do with a ".." that leads above the root. */
enum image_path_rule {
    IMAGE_PATH_REFUSE, /* -EXDEV */
    IMAGE_PATH_CLAMP,  /* it stays at the root, as in a chroot */
};

/* One form for every name: relative, no empty, "." or ".." component, no trailing slash; "" is the
 * root. *ret_depth: components. -EINVAL (NUL inside), -ENAMETOOLONG (the whole, or a component over
 * 255 bytes), -EXDEV. */
int image_path_clean(struct str path, enum image_path_rule rule, char dst[IMAGE_PATH_MAX],
                     unsigned *ret_depth);
/* Parent and last component of a clean path that is not "". *ret_parent points into the path. */
void image_path_split(const char *path, struct str *ret_parent, const char **ret_base);

#endif
