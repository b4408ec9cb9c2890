/* Addresses, images and runs as people write them. */
#include <errno.h>

#include "agent/cli/cli_internal.h"

enum { DEFAULT_PORT = 7575 };

static int bad_addr(const char *text, const char *why, struct err *e)
{
    return err_say(e, -EINVAL, "'%s' is no address: %s (such as 127.0.0.1:7575)", text, why);
}

int cli_addr_parse(const char *text, char *host, size_t host_cap, uint16_t *ret_port,
                   enum cli_scheme *ret_scheme, struct err *e)
{
    struct str s = str_trim(str_of(text));
    enum cli_scheme scheme = CLI_SCHEME_NONE;
    if (str_starts(s, "https://")) {
        s = str_slice(s, 8, s.n);
        scheme = CLI_SCHEME_HTTPS;
    } else if (str_starts(s, "http://")) {
        s = str_slice(s, 7, s.n);
        scheme = CLI_SCHEME_HTTP;
    }
    if (str_ends(s, "/")) {
        s.n--;
    }
    struct str name = s;
    struct str port = { NULL, 0 };
    if (str_starts(s, "[")) {
        ptrdiff_t end = str_find(s, ']');
        if (end < 0) {
            return bad_addr(text, "']' is missing", e);
        }
        name = str_slice(s, 1, (size_t)end - 1);
        struct str tail = str_slice(s, (size_t)end + 1, s.n);
        if (tail.n > 0 && tail.p[0] != ':') {
            return bad_addr(text, "a port belongs behind ']'", e);
        }
        port = str_slice(tail, 1, tail.n);
    } else if (str_find(s, ':') != str_rfind(s, ':')) {
        name = s; /* a bare IPv6 address */
    } else if (str_find(s, ':') >= 0) {
        size_t colon = (size_t)str_find(s, ':');
        name = str_slice(s, 0, colon);
        port = str_slice(s, colon + 1, s.n);
        if (port.n == 0) {
            return bad_addr(text, "the port is missing", e);
        }
    }
    uint64_t number = DEFAULT_PORT;
    if (port.n > 0 && str_u64_in(port, 1, 65535, &number) != 0) {
        return bad_addr(text, "a port is 1 to 65535", e);
    }
    if (name.n == 0) {
        name = STR("127.0.0.1");
    }
    for (size_t i = 0; i < name.n; i++) {
        unsigned char c = (unsigned char)name.p[i];
        if (c <= ' ' || c >= 0x7f || c == '/' || c == '@' || c == '?' || c == '#') {
            return bad_addr(text, "host:port is wanted", e);
        }
    }
    if (str_copy(host, host_cap, name) != 0) {
        return bad_addr(text, "the host is too long", e);
    }
    *ret_port = (uint16_t)number;
    *ret_scheme = scheme;
    return 0;
}

void cli_addr_format(const char *host, uint16_t port, char *dst, size_t cap)
{
    struct buf b = BUF_INIT(cap - 1);
    bool v6 = str_find(str_of(host), ':') >= 0;
    (void)buf_addf(&b, v6 ? "[%s]:%u" : "%s:%u", host, (unsigned)port);
    if (str_copy(dst, cap, buf_str(&b)) != 0) {
        dst[0] = '\0';
    }
    buf_release(&b);
}

bool cli_is_image(struct str name)
{
    return str_find(name, '/') >= 0 || str_find(name, ':') >= 0 || str_find(name, '@') >= 0;
}

struct str cli_image_strip(struct str image)
{
    ptrdiff_t slash = str_find(image, '/');
    if (str_starts(image, "docker.io/library/")) {
        return str_slice(image, sizeof("docker.io/library/") - 1, image.n);
    }
    if (slash <= 0) {
        return image;
    }
    struct str first = str_slice(image, 0, (size_t)slash);
    if (str_find(first, ':') >= 0 || str_find(first, '.') >= 0 || str_eqs(first, "localhost")) {
        return str_slice(image, (size_t)slash + 1, image.n);
    }
    return image;
}

bool cli_run_matches(struct str id, struct str abbreviated)
{
    if (abbreviated.n < 4 || abbreviated.n > id.n) {
        return false;
    }
    char wanted[64];
    if (str_copy(wanted, sizeof(wanted), abbreviated) != 0) {
        return false;
    }
    return str_ieqs(str_slice(id, 0, abbreviated.n), wanted) ||
           str_ieqs(str_slice(id, id.n - abbreviated.n, abbreviated.n), wanted);
}

void cli_escape_url(struct buf *out, struct str s, bool slash)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '-' || c == '.' || c == '_' || c == '~' || (slash && c == '/');
        (void)(plain ? buf_addc(out, (char)c) : buf_addf(out, "%%%02X", c));
    }
}
