/*
 * The paths and ranges of the distribution protocol. A path is taken apart from its end: what
 * stands before the last known word is the repository's name, which may contain those words itself.
 */
#include <errno.h>
#include <string.h>

#include "agent/image/image.h"
#include "common/http1.h"
#include "common/insist.h"

enum { ROUTE_MAX = 1024 };

static bool ieq(char a, char lower)
{
    return a == lower || (a >= 'A' && a <= 'Z' && a + 32 == lower);
}

/* An escaped slash, backslash or dot has no honest use in these paths. */
static bool has_tricks(struct str path)
{
    for (size_t i = 0; i + 2 < path.n; i++) {
        if (path.p[i] != '%') {
            continue;
        }
        char a = path.p[i + 1];
        char b = path.p[i + 2];
        if ((a == '2' && (ieq(b, 'f') || ieq(b, 'e'))) || (a == '5' && ieq(b, 'c'))) {
            return true;
        }
    }
    return false;
}

/* Takes the piece behind the last slash off *s. */
static struct str take_last(struct str *s)
{
    ptrdiff_t slash = str_rfind(*s, '/');
    struct str last = slash < 0 ? *s : str_slice(*s, (size_t)slash + 1, s->n);
    *s = slash < 0 ? STR("") : str_slice(*s, 0, (size_t)slash);
    return last;
}

static int take_name(struct image_route *route, struct str name, struct err *e)
{
    if (!image_name_ok(name)) {
        return err_say(e, -EINVAL, "'%.*s' is not a repository name", STR_ARG(name));
    }
    int r = str_copy(route->ref.repository, sizeof(route->ref.repository), name);
    INSIST(r == 0);
    return 0;
}

static int take_digest(struct image_route *route, struct str text, struct err *e)
{
    return digest_parse(text, &route->ref.digest, e) < 0 ? -EBADMSG : 0;
}

static int take_reference(struct image_route *route, struct str text, struct err *e)
{
    if (str_find(text, ':') >= 0) {
        return take_digest(route, text, e);
    }
    if (!image_tag_ok(text)) {
        return err_say(e, -ENOMSG, "'%.*s' is not a tag", STR_ARG(text));
    }
    int r = str_copy(route->ref.tag, sizeof(route->ref.tag), text);
    INSIST(r == 0);
    return 0;
}

static int take_session(struct image_route *route, struct str id, struct err *e)
{
    uint8_t bytes[IMAGE_SESSION_LEN / 2];
    if (id.n != IMAGE_SESSION_LEN || str_unhex(id, bytes, sizeof(bytes)) < 0) {
        return err_say(e, -ESRCH, "no such upload");
    }
    str_hex(route->session, bytes, sizeof(bytes));
    return 0;
}

static int no_route(struct err *e)
{
    return err_say(e, -ENOENT, "no such resource");
}

/* s: what follows "/v2/". */
static int parse_named(struct str s, struct image_route *route, struct err *e)
{
    struct str last = take_last(&s);
    struct str word = take_last(&s);
    if (str_eqs(word, "uploads") && str_ends(s, "/blobs")) {
        route->kind = last.n == 0 ? IMAGE_ROUTE_UPLOADS : IMAGE_ROUTE_SESSION;
        int r = take_name(route, str_slice(s, 0, s.n - strlen("/blobs")), e);
        return r < 0 || last.n == 0 ? r : take_session(route, last, e);
    }
    int r = no_route(e);
    if (str_eqs(word, "blobs") && str_eqs(last, "uploads")) {
        route->kind = IMAGE_ROUTE_UPLOADS;
        return take_name(route, s, e);
    }
    if (str_eqs(word, "blobs")) {
        route->kind = IMAGE_ROUTE_BLOB;
        r = take_name(route, s, e);
        return r < 0 ? r : take_digest(route, last, e);
    }
    if (str_eqs(word, "manifests")) {
        route->kind = IMAGE_ROUTE_MANIFEST;
        r = take_name(route, s, e);
        return r < 0 ? r : take_reference(route, last, e);
    }
    if (str_eqs(word, "referrers")) {
        route->kind = IMAGE_ROUTE_REFERRERS;
        r = take_name(route, s, e);
        return r < 0 ? r : take_digest(route, last, e);
    }
    if (str_eqs(word, "tags") && str_eqs(last, "list")) {
        route->kind = IMAGE_ROUTE_TAGS;
        return take_name(route, s, e);
    }
    return r;
}

int image_route_parse(struct str path, struct image_route *ret, struct err *e)
{
    char decoded[ROUTE_MAX];
    size_t n = 0;
    struct image_route route;
    memset(&route, 0, sizeof(route));
    if (has_tricks(path) || http1_unescape(path, decoded, sizeof(decoded), &n) < 0) {
        return err_say(e, -EINVAL, "a malformed path");
    }
    struct str s = { decoded, n };
    int r = 0;
    if (str_eqs(s, "/v2") || str_eqs(s, "/v2/")) {
        route.kind = IMAGE_ROUTE_BASE;
    } else if (str_eqs(s, "/v2/_catalog")) {
        route.kind = IMAGE_ROUTE_CATALOG;
    } else if (str_starts(s, "/v2/")) {
        r = parse_named(str_slice(s, 4, s.n), &route, e);
    } else {
        r = no_route(e);
    }
    if (r == 0) {
        *ret = route;
    }
    return r;
}

/* ---- ranges ------------------------------------------------------------------------------------
 */

/* "a-b", where either may be missing. False: something else. */
static bool parse_pair(struct str s, bool *has_from, uint64_t *from, bool *has_to, uint64_t *to)
{
    ptrdiff_t dash = str_find(s, '-');
    if (dash < 0) {
        return false;
    }
    struct str a = str_slice(s, 0, (size_t)dash);
    struct str b = str_slice(s, (size_t)dash + 1, s.n);
    *has_from = a.n > 0;
    *has_to = b.n > 0;
    return (a.n > 0 || b.n > 0) && (a.n == 0 || str_u64(a, from) == 0) &&
           (b.n == 0 || str_u64(b, to) == 0);
}

int image_range_parse(struct str header, uint64_t size, uint64_t *ret_from, uint64_t *ret_len)
{
    bool has_from = false;
    bool has_to = false;
    uint64_t from = 0;
    uint64_t to = 0;
    if (!str_starts(header, "bytes=") || str_find(header, ',') >= 0 ||
        !parse_pair(str_trim(str_slice(header, 6, header.n)), &has_from, &from, &has_to, &to)) {
        return -ENOENT; /* another unit, several ranges, or no range at all: the whole is right */
    }
    if (!has_from) { /* the last `to` bytes */
        if (to == 0 || size == 0) {
            return -ERANGE;
        }
        *ret_len = to < size ? to : size;
        *ret_from = size - *ret_len;
        return 0;
    }
    if (from >= size || (has_to && to < from)) {
        return -ERANGE;
    }
    uint64_t last = has_to && to < size - 1 ? to : size - 1;
    *ret_from = from;
    *ret_len = last - from + 1;
    return 0;
}

int image_chunk_range_parse(struct str header, uint64_t *ret_from, uint64_t *ret_to)
{
    bool has_from = false;
    bool has_to = false;
    uint64_t from = 0;
    uint64_t to = 0;
    if (str_starts(header, "bytes ") || str_starts(header, "bytes=")) {
        header = str_slice(header, 6, header.n);
    }
    ptrdiff_t slash = str_find(header, '/');
    if (slash >= 0) {
        header = str_slice(header, 0, (size_t)slash);
    }
    if (!parse_pair(str_trim(header), &has_from, &from, &has_to, &to) || !has_from || !has_to ||
        to < from || to == UINT64_MAX) {
        return -EINVAL;
    }
    *ret_from = from;
    *ret_to = to;
    return 0;
}
