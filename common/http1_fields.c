/* Looking things up in a parsed head, and percent-encoding. */
#include <errno.h>

#include "common/http1.h"
#include "common/insist.h"

bool http1_header_next(const struct http1_head *head, const char *name, size_t *i, struct str *ret)
{
    size_t n = strlen(name);
    while (*i < head->headers_len) {
        const struct http1_header *field = &head->headers[(*i)++];
        if (field->name.n == n && str_ieqs(field->name, name)) {
            *ret = field->value;
            return true;
        }
    }
    return false;
}

struct str http1_header(const struct http1_head *head, const char *name)
{
    struct str value = { NULL, 0 };
    size_t i = 0;
    (void)http1_header_next(head, name, &i, &value);
    return value;
}

bool http1_has_token(const struct http1_head *head, const char *name, const char *token)
{
    struct str value;
    struct str piece;
    for (size_t i = 0; http1_header_next(head, name, &i, &value);) {
        while (str_split(&value, ',', &piece)) {
            if (str_ieqs(str_trim(piece), token)) {
                return true;
            }
        }
    }
    return false;
}

static int unescape(struct str src, bool plus, char *dst, size_t cap, size_t *ret_len)
{
    size_t n = 0;

    REQUIRE(cap > 0);
    dst[0] = '\0';
    for (size_t i = 0; i < src.n; i++) {
        unsigned char c = (unsigned char)src.p[i];
        if (c == '%') {
            uint8_t byte;
            if (str_unhex(str_slice(src, i + 1, 2), &byte, 1) != 0) {
                dst[0] = '\0';
                return -EINVAL;
            }
            c = byte;
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        if (c < 0x20 || c == 0x7f) {
            dst[0] = '\0';
            return -EINVAL;
        }
        if (n + 1 >= cap) {
            dst[0] = '\0';
            return -ENAMETOOLONG;
        }
        dst[n++] = (char)c;
    }
    dst[n] = '\0';
    *ret_len = n;
    return 0;
}

int http1_unescape(struct str src, char *dst, size_t cap, size_t *ret_len)
{
    return unescape(src, false, dst, cap, ret_len);
}

int http1_query(struct str query, const char *name, size_t nth, char *dst, size_t cap)
{
    struct str pair;
    struct str wanted = str_of(name);
    char key[64];
    size_t n;

    REQUIRE(wanted.n < sizeof key);
    dst[0] = '\0';
    while (str_split(&query, '&', &pair)) {
        ptrdiff_t equals = str_find(pair, '=');
        struct str raw = str_slice(pair, 0, equals < 0 ? SIZE_MAX : (size_t)equals);
        /* A name that does not decode or fit is not the one that is wanted. */
        if (unescape(raw, true, key, sizeof key, &n) != 0 ||
            !str_eq((struct str){ key, n }, wanted)) {
            continue;
        }
        if (nth-- == 0) {
            struct str value =
                str_slice(pair, equals < 0 ? SIZE_MAX : (size_t)equals + 1, SIZE_MAX);
            return unescape(value, true, dst, cap, &n);
        }
    }
    return -ENOENT;
}

const char *http1_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        { 100, "Continue" },
        { 101, "Switching Protocols" },
        { 200, "OK" },
        { 201, "Created" },
        { 202, "Accepted" },
        { 204, "No Content" },
        { 206, "Partial Content" },
        { 301, "Moved Permanently" },
        { 302, "Found" },
        { 303, "See Other" },
        { 304, "Not Modified" },
        { 307, "Temporary Redirect" },
        { 308, "Permanent Redirect" },
        { 400, "Bad Request" },
        { 401, "Unauthorized" },
        { 403, "Forbidden" },
        { 404, "Not Found" },
        { 405, "Method Not Allowed" },
        { 406, "Not Acceptable" },
        { 408, "Request Timeout" },
        { 409, "Conflict" },
        { 410, "Gone" },
        { 411, "Length Required" },
        { 412, "Precondition Failed" },
        { 413, "Content Too Large" },
        { 414, "URI Too Long" },
        { 415, "Unsupported Media Type" },
        { 416, "Range Not Satisfiable" },
        { 417, "Expectation Failed" },
        { 421, "Misdirected Request" },
        { 422, "Unprocessable Content" },
        { 425, "Too Early" },
        { 426, "Upgrade Required" },
        { 428, "Precondition Required" },
        { 429, "Too Many Requests" },
        { 431, "Request Header Fields Too Large" },
        { 500, "Internal Server Error" },
        { 501, "Not Implemented" },
        { 502, "Bad Gateway" },
        { 503, "Service Unavailable" },
        { 504, "Gateway Timeout" },
        { 505, "HTTP Version Not Supported" },
        { 507, "Insufficient Storage" },
    };
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++) {
        if (reasons[i].status == status) {
            return reasons[i].reason;
        }
    }
    return "Unknown";
}
