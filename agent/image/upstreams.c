/*
 * registry.upstreams: which repositories are to be had where.
 */
#include <errno.h>
#include <string.h>

#include "agent/image/origin.h"
#include "common/mem.h"

static int take_mirrors(struct str text, struct image_upstream *u, struct err *e)
{
    struct str rest = text;
    struct str one;
    while (str_split(&rest, '|', &one)) {
        if (u->mirrors_len == IMAGE_MIRRORS_MAX) {
            return err_say(e, -E2BIG, "at most %d URLs for one upstream", IMAGE_MIRRORS_MAX);
        }
        struct image_url *url = &u->mirrors[u->mirrors_len];
        int r = image_url_parse(str_trim(one), url, e);
        if (r < 0) {
            return r;
        }
        if (strchr(url->path, '?') != NULL) {
            return err_say(e, -EINVAL, "an upstream's URL has no query");
        }
        u->mirrors_len++;
    }
    return u->mirrors_len > 0 ? 0 : err_say(e, -EINVAL, "an upstream without a URL");
}

static int take_upstream(struct str text, struct image_upstream *u, struct err *e)
{
    ptrdiff_t equals = str_find(text, '=');
    if (equals < 0) {
        return err_say(e, -EINVAL, "'%.*s' is not NAME=URL", STR_ARG(str_slice(text, 0, 80)));
    }
    struct str prefix = str_trim(str_slice(text, 0, (size_t)equals));
    bool all = str_eqs(prefix, "*");
    if (!all && !image_name_ok(prefix)) {
        return err_say(e, -EINVAL, "'%.*s' is neither a repository's first part nor *",
                       STR_ARG(str_slice(prefix, 0, 80)));
    }
    int r = str_copy(u->prefix, sizeof(u->prefix), all ? STR("") : prefix);
    return r < 0 ? err_set(e, r, "an upstream's name")
                 : take_mirrors(str_slice(text, (size_t)equals + 1, text.n), u, e);
}

int image_upstreams_parse(struct str text, struct image_upstreams *ret, struct err *e)
{
    struct image_upstreams u = { .v = NULL };
    struct str rest = text;
    struct str one;
    while (str_split(&rest, ',', &one)) {
        one = str_trim(one);
        if (one.n == 0) {
            continue;
        }
        struct image_upstream *more =
            u.n == IMAGE_UPSTREAMS_MAX ? NULL : mem_realloc(u.v, (u.n + 1) * sizeof(*u.v));
        if (more == NULL) {
            int r = u.n == IMAGE_UPSTREAMS_MAX ? -E2BIG : -ENOMEM;
            image_upstreams_release(&u);
            return err_set(e, r, "read the list of upstreams");
        }
        u.v = more;
        memset(&u.v[u.n], 0, sizeof(*u.v));
        int r = take_upstream(one, &u.v[u.n], e);
        if (r < 0) {
            image_upstreams_release(&u);
            return r;
        }
        u.n++;
    }
    *ret = u;
    return 0;
}

void image_upstreams_release(struct image_upstreams *u)
{
    u->v = mem_free(u->v);
    u->n = 0;
}

const struct image_upstream *image_upstreams_find(const struct image_upstreams *u,
                                                  const char *repository)
{
    for (size_t i = 0; i < u->n; i++) {
        size_t n = strlen(u->v[i].prefix);
        if (n == 0 || (strncmp(repository, u->v[i].prefix, n) == 0 && repository[n] == '/')) {
            return &u->v[i];
        }
    }
    return NULL;
}

int image_upstream_name(const struct image_upstream *u, size_t mirror, const char *repository,
                        char dst[IMAGE_NAME_MAX + 1])
{
    AUTO_BUF struct buf name = BUF_INIT(IMAGE_NAME_MAX);
    size_t n = strlen(u->prefix);
    const char *path = u->mirrors[mirror].path + 1;
    struct str before = str_of(path);
    while (before.n > 0 && before.p[before.n - 1] == '/') {
        before.n--;
    }
    buf_addstr(&name, before);
    if (before.n > 0) {
        buf_addc(&name, '/');
    }
    buf_adds(&name, repository + (n > 0 ? n + 1 : 0));
    int r = buf_error(&name);
    if (r < 0) {
        return r == -ENOMEM ? r : -ENAMETOOLONG;
    }
    if (!image_name_ok(buf_str(&name))) {
        return -EINVAL;
    }
    return str_copy(dst, IMAGE_NAME_MAX + 1, buf_str(&name));
}
