/*
 * Names: repositories, tags, references. The grammar is the distribution-spec's; what it does not
 * allow never gets as far as a path or a query.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/image.h"
#include "common/insist.h"

static bool lower_or_digit(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* One path component: runs of letters and digits with ".", "_", "__" or any number of "-" between.
 */
static bool component_ok(struct str s)
{
    size_t i = 0;
    if (s.n == 0 || !lower_or_digit(s.p[0]) || !lower_or_digit(s.p[s.n - 1])) {
        return false;
    }
    while (i < s.n) {
        if (lower_or_digit(s.p[i])) {
            i++;
            continue;
        }
        char sep = s.p[i];
        size_t run = 0;
        while (i + run < s.n && s.p[i + run] == sep) {
            run++;
        }
        size_t max = sep == '.' ? 1 : sep == '_' ? 2 : sep == '-' ? s.n : 0;
        if (run > max || !lower_or_digit(s.p[i + run])) {
            return false;
        }
        i += run;
    }
    return true;
}

bool image_name_ok(struct str s)
{
    struct str part;
    if (s.n == 0 || s.n > IMAGE_NAME_MAX || s.p[s.n - 1] == '/') {
        return false;
    }
    while (str_split(&s, '/', &part)) {
        if (!component_ok(part)) {
            return false;
        }
    }
    return true;
}

bool image_tag_ok(struct str s)
{
    if (s.n == 0 || s.n > IMAGE_TAG_MAX || s.p[0] == '.' || s.p[0] == '-') {
        return false;
    }
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!lower_or_digit(c) && !(c >= 'A' && c <= 'Z') && c != '_' && c != '.' && c != '-') {
            return false;
        }
    }
    return true;
}

/* Drops "HOST:PORT/". A first component with a colon can be nothing else: tags come last. */
static int drop_host(struct str *s, struct err *e)
{
    ptrdiff_t slash = str_find(*s, '/');
    if (slash < 0) {
        return 0;
    }
    struct str host = str_slice(*s, 0, (size_t)slash);
    ptrdiff_t colon = str_rfind(host, ':');
    if (colon < 0 || str_find(host, '@') >= 0) {
        return 0;
    }
    uint64_t port = 0;
    if (colon == 0 || str_u64_in(str_slice(host, (size_t)colon + 1, host.n), 1, 65535, &port) < 0) {
        return err_say(e, -EINVAL, "'%.*s' is not HOST:PORT", STR_ARG(host));
    }
    *s = str_slice(*s, (size_t)slash + 1, s->n);
    return 0;
}

static bool looks_like_digest(struct str s)
{
    return str_starts(s, "sha256:") || str_starts(s, "sha512:");
}

int image_ref_parse(struct str s, struct image_ref *ret, struct err *e)
{
    struct image_ref ref;
    struct str whole = s;
    memset(&ref, 0, sizeof(ref));
    if (s.n == 0) {
        return err_say(e, -EINVAL, "an image's name is empty");
    }
    if (s.n > IMAGE_REF_CAP + 300) {
        return err_say(e, -EINVAL, "an image's name is too long");
    }
    int r = drop_host(&s, e);
    if (r < 0) {
        return r;
    }
    ptrdiff_t at = str_find(s, '@');
    struct str digest = at >= 0                ? str_slice(s, (size_t)at + 1, s.n)
                        : looks_like_digest(s) ? s
                                               : STR("");
    if (at >= 0 || digest.n > 0) {
        r = digest_parse(digest, &ref.digest, e);
        if (r < 0) {
            err_prefix(e, "image '%.*s'", STR_ARG(whole));
            return r;
        }
        s = at > 0 ? str_slice(s, 0, (size_t)at) : STR("");
        if (s.n == 0) {
            *ret = ref;
            return 0;
        }
    }
    ptrdiff_t colon = str_rfind(s, ':');
    struct str tag = colon < 0 ? STR("") : str_slice(s, (size_t)colon + 1, s.n);
    struct str name = colon < 0 ? s : str_slice(s, 0, (size_t)colon);
    if (!image_name_ok(name)) {
        return err_say(e, -EINVAL,
                       "'%.*s' is not an image name: lower-case letters, digits and single "
                       "separators, as in team/job:1",
                       STR_ARG(whole));
    }
    if (str_eqs(name, "sha256") || str_eqs(name, "sha512")) {
        return err_say(e, -EINVAL, "'%.*s' could be a digest; no image can have that name",
                       STR_ARG(name));
    }
    if (colon >= 0 && !image_tag_ok(tag)) {
        return err_say(e, -EINVAL, "'%.*s' is not a tag", STR_ARG(tag));
    }
    if (colon < 0 && ref.digest.algo == DIGEST_NONE) {
        tag = STR("latest");
    }
    r = str_copy(ref.repository, sizeof(ref.repository), name);
    INSIST(r == 0);
    r = str_copy(ref.tag, sizeof(ref.tag), tag);
    INSIST(r == 0);
    *ret = ref;
    return 0;
}

char *image_ref_format(const struct image_ref *ref, char dst[IMAGE_REF_CAP])
{
    char digest[DIGEST_TEXT_CAP];
    bool has = ref->digest.algo != DIGEST_NONE;
    digest_format(&ref->digest, digest);
    int n =
        snprintf(dst, IMAGE_REF_CAP, "%s%s%s%s%s", ref->repository, ref->tag[0] != '\0' ? ":" : "",
                 ref->tag, has && ref->repository[0] != '\0' ? "@" : "", digest);
    INSIST(n >= 0 && n < IMAGE_REF_CAP);
    return dst;
}
