/*
 * Records are "LENGTH KEY=VALUE\n", LENGTH counting itself. One reader that trusts LENGTH and one
 * that looks for the newline must see the same, so both have to agree here.
 */
#include "agent/image/tar_pax.h"

#include <errno.h>
#include <string.h>

#include "common/base64.h"
#include "common/insist.h"

static int bad(struct err *e, const char *what)
{
    return err_say(e, -EBADMSG, "pax header: %s", what);
}

/* Takes one record off the front of *rest. */
static int take_record(struct str *rest, struct str *ret_key, struct str *ret_value, struct err *e)
{
    ptrdiff_t space = str_find(str_slice(*rest, 0, 8), ' ');
    if (space <= 0) {
        return bad(e, "a record without a length");
    }
    uint64_t len = 0;
    if (str_u64(str_slice(*rest, 0, (size_t)space), &len) < 0 || len > rest->n ||
        len < (uint64_t)space + 4) {
        return bad(e, "a record's length is wrong");
    }
    struct str record = str_slice(*rest, (size_t)space + 1, (size_t)len - (size_t)space - 1);
    if (record.p[record.n - 1] != '\n') {
        return bad(e, "a record does not end where its length says");
    }
    record.n--;
    ptrdiff_t equals = str_find(record, '=');
    if (equals <= 0) {
        return bad(e, "a record without a key");
    }
    *ret_key = str_slice(record, 0, (size_t)equals);
    *ret_value = str_slice(record, (size_t)equals + 1, record.n);
    if (str_find(*ret_key, '\0') >= 0) {
        return bad(e, "NUL in a key");
    }
    *rest = str_slice(*rest, (size_t)len, rest->n);
    return 0;
}

/* "[-]seconds[.fraction]" */
static int parse_time(struct str s, int64_t *ret_s, uint32_t *ret_ns)
{
    bool negative = s.n > 0 && s.p[0] == '-';
    if (negative) {
        s = str_slice(s, 1, s.n);
    }
    ptrdiff_t dot = str_find(s, '.');
    struct str whole = dot < 0 ? s : str_slice(s, 0, (size_t)dot);
    struct str fraction = dot < 0 ? STR("") : str_slice(s, (size_t)dot + 1, s.n);
    uint64_t seconds = 0;
    if (str_u64_in(whole, 0, INT64_MAX / 2, &seconds) < 0) {
        return -EINVAL;
    }
    uint32_t ns = 0;
    for (size_t i = 0; i < fraction.n; i++) {
        if (fraction.p[i] < '0' || fraction.p[i] > '9') {
            return -EINVAL;
        }
    }
    for (size_t i = 0; i < 9; i++) {
        ns = ns * 10 + (i < fraction.n ? (uint32_t)(fraction.p[i] - '0') : 0);
    }
    *ret_s = negative ? -(int64_t)seconds : (int64_t)seconds;
    if (negative && ns > 0) {
        *ret_s -= 1;
        ns = 1000000000U - ns;
    }
    *ret_ns = ns;
    return 0;
}

static int unhex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* LIBARCHIVE.xattr.* has its name in URL escapes and its value in base 64 without padding. Both
 * shrink: they are decoded where they stand. */
static int decode_url(char *p, size_t n, struct str *ret)
{
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '%' && n - i > 2 && unhex_digit(p[i + 1]) >= 0 && unhex_digit(p[i + 2]) >= 0) {
            p[out++] = (char)(unhex_digit(p[i + 1]) * 16 + unhex_digit(p[i + 2]));
            i += 2;
        } else {
            p[out++] = p[i];
        }
    }
    *ret = (struct str){ p, out };
    return str_find(*ret, '\0') < 0 ? 0 : -EINVAL;
}

/* In place: the bytes are fewer than their text. */
static int decode_base64(char *p, size_t n, struct str *ret)
{
    ret->p = p;
    return base64_read((struct str){ p, n }, p, n, &ret->n);
}

static int add_xattr(struct image_pax *pax, struct str name, struct str value, bool replace,
                     struct err *e)
{
    if (name.n == 0 || name.n > IMAGE_TAR_XATTR_NAME_MAX) {
        return bad(e, "an extended attribute's name is empty or too long");
    }
    if (value.n > IMAGE_TAR_XATTR_SIZE_MAX) {
        return err_say(e, -E2BIG, "extended attribute '%.*s' has %zu bytes; at most %d are allowed",
                       STR_ARG(name), value.n, IMAGE_TAR_XATTR_SIZE_MAX);
    }
    for (size_t i = 0; i < pax->xattrs_len; i++) {
        if (str_eq(pax->xattrs[i].name, name)) {
            if (replace) {
                pax->xattrs[i].value = value;
            }
            return 0;
        }
    }
    if (pax->xattrs_len == IMAGE_TAR_XATTRS_MAX) {
        return err_say(e, -E2BIG, "more than %d extended attributes", IMAGE_TAR_XATTRS_MAX);
    }
    pax->xattrs[pax->xattrs_len++] = (struct image_tar_xattr){ name, value };
    return 0;
}

static const char schily_xattr[] = "SCHILY.xattr.";
static const char libarchive_xattr[] = "LIBARCHIVE.xattr.";

static int take_xattr(struct image_pax *pax, struct str key, struct str value, char *base,
                      const char *origin, struct err *e)
{
    if (str_starts(key, schily_xattr)) {
        return add_xattr(pax, str_slice(key, sizeof(schily_xattr) - 1, key.n), value, true, e);
    }
    key = str_slice(key, sizeof(libarchive_xattr) - 1, key.n);
    /* base and origin are the same bytes, once writable. */
    struct str name = STR("");
    struct str bytes = STR("");
    if (decode_url(base + (key.p - origin), key.n, &name) < 0 ||
        (value.n > 0 && decode_base64(base + (value.p - origin), value.n, &bytes) < 0)) {
        return bad(e, "a malformed extended attribute");
    }
    return add_xattr(pax, name, bytes, false, e);
}

static int take_text(struct str value, bool *has, struct str *ret, struct err *e)
{
    if (*has) {
        return bad(e, "the same name is given twice");
    }
    if (value.n > IMAGE_TAR_PATH_MAX) {
        return err_say(e, -E2BIG, "a name of %zu bytes; at most %d are allowed", value.n,
                       IMAGE_TAR_PATH_MAX);
    }
    /* An empty value takes back what a header said; ours are not taken from global ones. */
    *has = value.n > 0;
    *ret = value;
    return 0;
}

static int take_number(struct str value, uint64_t max, bool *has, uint64_t *ret, struct err *e)
{
    if (value.n == 0) {
        return 0;
    }
    if (*has || str_u64_in(value, 0, max, ret) < 0) {
        return bad(e, "a number is malformed, out of range, or given twice");
    }
    *has = true;
    return 0;
}

static bool changes_entries(struct str key)
{
    return str_eqs(key, "path") || str_eqs(key, "linkpath") || str_eqs(key, "size") ||
           str_eqs(key, "uid") || str_eqs(key, "gid") || str_eqs(key, "mtime") ||
           str_starts(key, schily_xattr) || str_starts(key, libarchive_xattr);
}

static bool is_sparse(struct str key)
{
    return str_starts(key, "GNU.sparse.") || str_eqs(key, "SCHILY.realsize");
}

static int take_field(struct image_pax *pax, struct str key, struct str value, struct err *e)
{
    if (str_eqs(key, "path")) {
        return take_text(value, &pax->has_path, &pax->path, e);
    }
    if (str_eqs(key, "linkpath")) {
        return take_text(value, &pax->has_link, &pax->link, e);
    }
    if (str_eqs(key, "size")) {
        return take_number(value, INT64_MAX, &pax->has_size, &pax->size, e);
    }
    if (str_eqs(key, "uid")) {
        return take_number(value, UINT32_MAX, &pax->has_uid, &pax->uid, e);
    }
    if (str_eqs(key, "gid")) {
        return take_number(value, UINT32_MAX, &pax->has_gid, &pax->gid, e);
    }
    if (str_eqs(key, "mtime") && value.n > 0) {
        if (pax->has_mtime || parse_time(value, &pax->mtime_s, &pax->mtime_ns) < 0) {
            return bad(e, "a malformed or repeated mtime");
        }
        pax->has_mtime = true;
    }
    return 0;
}

int image_pax_parse(char *p, size_t n, struct image_pax *ret, struct err *e)
{
    struct str rest = { p, n };
    const char *origin = p;
    memset(ret, 0, sizeof(*ret));
    while (rest.n > 0) {
        struct str key;
        struct str value;
        int r = take_record(&rest, &key, &value, e);
        if (r < 0) {
            return r;
        }
        if (is_sparse(key)) {
            return err_say(e, -ENOTSUP, "sparse files are not supported");
        }
        if (str_starts(key, schily_xattr) || str_starts(key, libarchive_xattr)) {
            r = take_xattr(ret, key, value, p, origin, e);
        } else if (str_find(value, '\0') >= 0) {
            r = bad(e, "NUL in a value");
        } else {
            r = take_field(ret, key, value, e);
        }
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

int image_pax_check_global(char *p, size_t n, struct err *e)
{
    struct str rest = { p, n };
    while (rest.n > 0) {
        struct str key;
        struct str value;
        int r = take_record(&rest, &key, &value, e);
        if (r < 0) {
            return r;
        }
        if (changes_entries(key) || is_sparse(key)) {
            return err_say(e, -ENOTSUP, "a global pax header that sets '%.*s' is not supported",
                           STR_ARG(key));
        }
    }
    return 0;
}

static int base256(const uint8_t *p, size_t n, int64_t *ret)
{
    bool negative = (p[0] & 0x40) != 0;
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = negative ? (uint8_t)~p[i] : p[i];
        if (i == 0) {
            byte &= 0x7f;
        }
        if (v > (UINT64_MAX >> 9)) {
            return -EINVAL;
        }
        v = (v << 8) | byte;
    }
    if (v > INT64_MAX) {
        return -EINVAL;
    }
    *ret = negative ? -(int64_t)v - 1 : (int64_t)v;
    return 0;
}

int image_tar_number(const uint8_t *p, size_t n, int64_t *ret)
{
    REQUIRE(n > 0);
    if (p[0] & 0x80) {
        return base256(p, n, ret);
    }
    size_t i = 0;
    int64_t v = 0;
    while (i < n && p[i] == ' ') {
        i++;
    }
    for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) {
        v = v * 8 + (p[i] - '0'); /* 12 digits at most: 36 bits */
    }
    for (; i < n; i++) {
        if (p[i] != ' ' && p[i] != '\0') {
            return -EINVAL;
        }
    }
    *ret = v;
    return 0;
}
