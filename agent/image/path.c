#include "agent/image/path.h"

#include <errno.h>
#include <string.h>

#include "common/insist.h"

enum { COMPONENT_MAX = 255 };

/* Drops the last component of dst[*len]. False when there was none. */
static bool pop(char *dst, size_t *len)
{
    if (*len == 0) {
        return false;
    }
    while (*len > 0 && dst[*len - 1] != '/') {
        --*len;
    }
    if (*len > 0) {
        --*len; /* the slash */
    }
    return true;
}

int image_path_clean(struct str path, enum image_path_rule rule, char dst[IMAGE_PATH_MAX],
                     unsigned *ret_depth)
{
    size_t len = 0;
    unsigned depth = 0;
    struct str part;
    dst[0] = '\0';
    if (str_find(path, '\0') >= 0) {
        return -EINVAL;
    }
    while (str_split(&path, '/', &part)) {
        if (part.n == 0 || str_eqs(part, ".")) {
            continue;
        }
        if (str_eqs(part, "..")) {
            if (pop(dst, &len)) {
                depth--;
            } else if (rule == IMAGE_PATH_REFUSE) {
                dst[0] = '\0';
                return -EXDEV;
            }
            continue;
        }
        if (part.n > COMPONENT_MAX || len + 1 + part.n + 1 > IMAGE_PATH_MAX) {
            dst[0] = '\0';
            return -ENAMETOOLONG;
        }
        if (len > 0) {
            dst[len++] = '/';
        }
        memcpy(dst + len, part.p, part.n);
        len += part.n;
        depth++;
    }
    dst[len] = '\0';
    if (ret_depth != NULL) {
        *ret_depth = depth;
    }
    return 0;
}

void image_path_split(const char *path, struct str *ret_parent, const char **ret_base)
{
    REQUIRE(path[0] != '\0');
    const char *slash = strrchr(path, '/');
    *ret_parent = slash == NULL ? STR("") : (struct str){ path, (size_t)(slash - path) };
    *ret_base = slash == NULL ? path : slash + 1;
}
