/* What requests say in headers and queries. */
#include "agent/api/api_request.h"

#include <errno.h>

/* -- who asks -- */

/* Splits "host", "host:port", "[v6]:port". False: no valid authority. */
static bool authority_split(struct str s, struct str *ret_host, struct str *ret_port)
{
    *ret_port = (struct str){ NULL, 0 };
    if (s.n > 0 && s.p[0] == '[') {
        ptrdiff_t end = str_find(s, ']');
        if (end < 0) {
            return false;
        }
        *ret_host = str_slice(s, 1, (size_t)end - 1);
        struct str rest = str_slice(s, (size_t)end + 1, s.n);
        if (rest.n > 0 && rest.p[0] != ':') {
            return false;
        }
        *ret_port = str_slice(rest, 1, rest.n);
        return ret_host->n > 0;
    }
    ptrdiff_t colon = str_find(s, ':');
    *ret_host = colon < 0 ? s : str_slice(s, 0, (size_t)colon);
    if (colon >= 0) {
        *ret_port = str_slice(s, (size_t)colon + 1, s.n);
    }
    /* A name may end with the root's dot. */
    if (ret_host->n > 1 && ret_host->p[ret_host->n - 1] == '.') {
        ret_host->n--;
    }
    return ret_host->n > 0 && str_find(*ret_port, ':') < 0;
}

/* Four decimal numbers, in the only spelling that browsers send. */
static bool is_ipv4(struct str host, uint64_t ret[4])
{
    struct str piece;
    size_t n = 0;
    while (str_split(&host, '.', &piece)) {
        if (n == 4 || piece.n == 0 || piece.n > 3 || str_u64_in(piece, 0, 255, &ret[n]) != 0) {
            return false;
        }
        n++;
    }
    return n == 4;
}

/* Good enough to tell an address from a name: names hold no colon. */
static bool is_ipv6(struct str host)
{
    for (size_t i = 0; i < host.n; i++) {
        char c = host.p[i];
        bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        if (!hex && c != ':' && c != '.') {
            return false;
        }
    }
    return str_find(host, ':') >= 0;
}

static void host_take(char dst[256], const char *addr)
{
    struct str host;
    struct str port;
    dst[0] = '\0';
    if (authority_split(str_of(addr), &host, &port)) {
        (void)str_copy(dst, 256, host);
    }
}

void api_hosts_init(struct api_hosts *h, const char *listen, const char *advertise)
{
    uint64_t four[4];
    host_take(h->listen, listen);
    host_take(h->advertise, advertise);
    struct str host = str_of(h->listen);
    bool loopback = str_ieqs(host, "localhost") || str_eqs(host, "::1") ||
                    (is_ipv4(host, four) && four[0] == 127);
    h->any_ip = !loopback;
}

bool api_host_ok(const struct api_hosts *h, struct str text)
{
    uint64_t four[4];
    struct str host;
    struct str port;
    uint64_t number;
    if (!authority_split(text, &host, &port) ||
        (port.n > 0 && str_u64_in(port, 0, 65535, &number) != 0)) {
        return false;
    }
    if (is_ipv4(host, four)) {
        return four[0] == 127 || h->any_ip || str_eqs(host, h->advertise);
    }
    if (is_ipv6(host)) {
        return str_eqs(host, "::1") || h->any_ip || str_ieqs(host, h->advertise);
    }
    return str_ieqs(host, "localhost") || (h->listen[0] != '\0' && str_ieqs(host, h->listen)) ||
           (h->advertise[0] != '\0' && str_ieqs(host, h->advertise));
}

static bool host_eq(struct str a, struct str b)
{
    if (a.n != b.n) {
        return false;
    }
    for (size_t i = 0; i < a.n; i++) {
        char x = a.p[i] >= 'A' && a.p[i] <= 'Z' ? (char)(a.p[i] + 32) : a.p[i];
        char y = b.p[i] >= 'A' && b.p[i] <= 'Z' ? (char)(b.p[i] + 32) : b.p[i];
        if (x != y) {
            return false;
        }
    }
    return true;
}

bool api_origin_ok(struct str origin, struct str host)
{
    if (str_starts(origin, "http://")) {
        return host_eq(str_slice(origin, 7, origin.n), host);
    }
    if (str_starts(origin, "https://")) {
        return host_eq(str_slice(origin, 8, origin.n), host);
    }
    return false;
}

/* -- the registry -- */

unsigned api_registry_scopes(struct str method)
{
    bool reads = str_eqs(method, "GET") || str_eqs(method, "HEAD");
    return reads ? TOKEN_READ | TOKEN_PUSH : TOKEN_PUSH;
}

bool api_registry_covers(const char *prefix, struct str path, struct str query)
{
    char from[512];
    if (prefix[0] == '\0' || str_eqs(path, "/v2") || str_eqs(path, "/v2/")) {
        return true;
    }
    /* The name stands first, and as it is sent: an escaped one is no match. */
    if (str_eqs(path, "/v2/_catalog") || !str_starts(path, "/v2/") ||
        !str_starts(str_slice(path, 4, path.n), prefix)) {
        return false;
    }
    int rc = http1_query(query, "from", 0, from, sizeof(from));
    return rc == -ENOENT || (rc == 0 && str_starts(str_of(from), prefix));
}

/* -- headers -- */

int64_t api_prefer_wait(const struct http1_head *head, uint64_t max_s)
{
    int64_t wait = -1;
    struct str value;
    size_t i = 0;
    while (http1_header_next(head, "Prefer", &i, &value)) {
        struct str piece;
        while (str_split(&value, ',', &piece)) {
            struct str token = str_trim(piece);
            ptrdiff_t eq = str_find(token, '=');
            uint64_t n;
            if (eq < 0 || !str_ieqs(str_trim(str_slice(token, 0, (size_t)eq)), "wait")) {
                continue;
            }
            struct str number = str_trim(str_slice(token, (size_t)eq + 1, token.n));
            int rc = str_u64(number, &n);
            if (rc == 0 || rc == -ERANGE) {
                n = rc != 0 || n > max_s ? max_s : n;
                return (int64_t)n; /* of a repeated preference the first counts (RFC 7240) */
            }
        }
    }
    return wait;
}

bool api_key_ok(struct str key)
{
    for (size_t i = 0; i < key.n; i++) {
        if (key.p[i] < 0x20 || key.p[i] > 0x7e) {
            return false;
        }
    }
    return key.n >= 1 && key.n <= 255;
}

bool api_request_id_ok(struct str id)
{
    for (size_t i = 0; i < id.n; i++) {
        char c = id.p[i];
        bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!word && (c == '\0' || strchr("._:=+/@-", c) == NULL)) {
            return false;
        }
    }
    return id.n >= 1 && id.n <= 128;
}

int api_if_match(struct str value, uint32_t *ret_revision)
{
    uint64_t n;
    struct str s = str_trim(value);
    if (s.n >= 2 && s.p[0] == '"' && s.p[s.n - 1] == '"') {
        s = str_slice(s, 1, s.n - 2);
    }
    if (str_u64_in(s, 1, UINT32_MAX, &n) != 0) {
        return -EINVAL;
    }
    *ret_revision = (uint32_t)n;
    return 0;
}

bool api_type_is_json(struct str type)
{
    ptrdiff_t semi = str_find(type, ';');
    struct str s = str_trim(semi < 0 ? type : str_slice(type, 0, (size_t)semi));
    char low[128];
    if (s.n == 0) {
        return true;
    }
    if (str_copy(low, sizeof(low), s) != 0) {
        return false;
    }
    for (char *p = low; *p != '\0'; p++) {
        *p = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
    }
    return strcmp(low, "application/json") == 0 || str_ends(str_of(low), "+json");
}

enum api_range api_range_parse(struct str value, uint64_t total, uint64_t *ret_from,
                               uint64_t *ret_len)
{
    uint64_t first;
    uint64_t last = UINT64_MAX;
    if (!str_starts(value, "bytes=")) {
        return API_RANGE_WHOLE;
    }
    struct str s = str_trim(str_slice(value, 6, value.n));
    ptrdiff_t dash = str_find(s, '-');
    if (dash < 0 || str_find(s, ',') >= 0) {
        return API_RANGE_WHOLE;
    }
    struct str a = str_trim(str_slice(s, 0, (size_t)dash));
    struct str b = str_trim(str_slice(s, (size_t)dash + 1, s.n));
    if (b.n > 0 && str_u64(b, &last) != 0) {
        return API_RANGE_WHOLE;
    }
    if (a.n == 0) {
        if (b.n == 0) {
            return API_RANGE_WHOLE;
        }
        if (last == 0 || total == 0) {
            return API_RANGE_BAD;
        }
        first = last < total ? total - last : 0;
        last = total - 1;
    } else if (str_u64(a, &first) != 0 || (b.n > 0 && last < first)) {
        return API_RANGE_WHOLE;
    }
    if (first >= total) {
        return API_RANGE_BAD;
    }
    last = last < total - 1 ? last : total - 1;
    *ret_from = first;
    *ret_len = last - first + 1;
    return API_RANGE_PART;
}

/* -- queries -- */

enum { API_VALUE_CAP = 1024 };

int api_query_check(struct str query, const char *const *names, struct err *e)
{
    struct str piece;
    while (str_split(&query, '&', &piece)) {
        ptrdiff_t eq = str_find(piece, '=');
        struct str name = eq < 0 ? piece : str_slice(piece, 0, (size_t)eq);
        bool known = piece.n == 0;
        for (size_t i = 0; names[i] != NULL && !known; i++) {
            known = str_eqs(name, names[i]);
        }
        if (!known) {
            return err_say(e, -EINVAL, "unknown query parameter '%.*s'",
                           (int)(name.n < 64 ? name.n : 64), name.p);
        }
    }
    return 0;
}

/* 0 with the text, -ENOENT, or -EINVAL with the sentence. */
static int query_text(struct str query, const char *name, char dst[API_VALUE_CAP], struct err *e)
{
    int rc = http1_query(query, name, 0, dst, API_VALUE_CAP);
    if (rc != 0 && rc != -ENOENT) {
        return err_say(e, -EINVAL, "query parameter '%s' is not valid", name);
    }
    return rc;
}

int api_query_u64(struct str query, const char *name, uint64_t min, uint64_t max, uint64_t absent,
                  uint64_t *ret, struct err *e)
{
    char text[API_VALUE_CAP];
    int rc = query_text(query, name, text, e);
    if (rc == -ENOENT) {
        *ret = absent;
        return 0;
    }
    if (rc == 0 && str_u64_in(str_of(text), min, max, ret) != 0) {
        return err_say(e, -EINVAL, "query parameter '%s' must be a number from %llu to %llu", name,
                       (unsigned long long)min, (unsigned long long)max);
    }
    return rc;
}

int api_query_limit(struct str query, size_t *ret, struct err *e)
{
    uint64_t n = 0;
    int rc = api_query_u64(query, "limit", 1, 1000, 100, &n, e);
    if (rc == 0) {
        *ret = (size_t)n;
    }
    return rc;
}

int api_query_flag(struct str query, const char *name, bool *ret, struct err *e)
{
    char text[API_VALUE_CAP];
    int rc = query_text(query, name, text, e);
    if (rc == -ENOENT) {
        *ret = false;
        return 0;
    }
    if (rc == 0 && text[0] == '\0') {
        *ret = true;
        return 0;
    }
    if (rc == 0 && str_bool(str_of(text), ret) != 0) {
        return err_say(e, -EINVAL, "query parameter '%s' must be yes or no", name);
    }
    return rc;
}

int api_query_since(struct str query, int64_t now_us, int64_t *ret_us, struct err *e)
{
    char text[API_VALUE_CAP];
    uint64_t ms;
    int rc = query_text(query, "since", text, e);
    if (rc == -ENOENT) {
        *ret_us = 0;
        return 0;
    }
    if (rc != 0) {
        return rc;
    }
    if (time_parse(str_of(text), ret_us) == 0) {
        return 0;
    }
    if (str_duration_ms(str_of(text), &ms) == 0 && ms < INT64_MAX / 1000) {
        *ret_us = now_us - (int64_t)ms * 1000;
        return 0;
    }
    return err_say(e, -EINVAL,
                   "query parameter 'since' must be a time (2026-01-31T12:00:00Z) or a duration "
                   "before now (10m)");
}
