/* What the API reads out of requests: paths, queries, Host and Origin, Prefer, Range, keys. The
 * first byte of the input says which; every answer is checked for what callers rely on. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/api/api_request.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void path(struct str s)
{
    static const char *const methods[] = { "GET", "HEAD", "PUT", "POST", "DELETE", "BREW" };
    struct api_match m;
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        enum api_found found = api_route_find(str_of(methods[i]), s, &m);
        INSIST(memchr(m.param, '\0', sizeof(m.param)) != NULL);
        INSIST(found != API_FOUND || m.route != NULL);
        INSIST(found != API_NO_METHOD || m.allow[0] != 0);
        /* No parameter climbs: neither "." nor ".." is a segment of it. */
        struct str rest = str_of(found == API_FOUND ? m.param : "");
        struct str piece;
        while (str_split(&rest, '/', &piece)) {
            INSIST(piece.n > 0 && !str_eqs(piece, ".") && !str_eqs(piece, ".."));
        }
    }
}

static void hosts(struct str s)
{
    struct api_hosts h;
    api_hosts_init(&h, "127.0.0.1:7575", "");
    bool ok = api_host_ok(&h, s);
    INSIST(!ok || s.n > 0);
    /* Nothing but loopback, however it is dressed. */
    INSIST(!ok || str_starts(s, "127.") || s.p[0] == '[' || s.p[0] == 'l' || s.p[0] == 'L');
    if (api_origin_ok(s, STR("localhost:1"))) {
        INSIST(str_ieqs(s, "http://localhost:1") || str_ieqs(s, "https://localhost:1"));
    }
}

static void queries(struct str s)
{
    static const char *const names[] = { "limit", "tail", "follow", "since", NULL };
    struct err e;
    size_t limit = 0;
    uint64_t n = 0;
    int64_t us = 0;
    bool flag = false;
    (void)api_query_check(s, names, &e);
    INSIST(api_query_limit(s, &limit, &e) != 0 || (limit >= 1 && limit <= 1000));
    INSIST(api_query_u64(s, "tail", 3, 9, 5, &n, &e) != 0 || (n >= 3 && n <= 9));
    (void)api_query_flag(s, "follow", &flag, &e);
    (void)api_query_since(s, 1000000, &us, &e);
}

static void headers(struct str s)
{
    struct http1_header h = { STR("Prefer"), s };
    struct http1_head head = { .headers = &h, .headers_len = 1 };
    uint64_t from = 0;
    uint64_t len = 0;
    uint32_t revision = 0;
    int64_t wait = api_prefer_wait(&head, 60);
    INSIST(wait >= -1 && wait <= 60);
    if (api_range_parse(s, 1000, &from, &len) == API_RANGE_PART) {
        INSIST(len >= 1 && from < 1000 && len <= 1000 - from);
    }
    INSIST(api_if_match(s, &revision) != 0 || revision > 0);
    INSIST(!api_key_ok(s) || s.n <= 255);
    INSIST(!api_request_id_ok(s) || memchr(s.p, '\n', s.n) == NULL);
    (void)api_type_is_json(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const parts[])(struct str s) = { path, hosts, queries, headers };
    if (size == 0) {
        return 0;
    }
    /* A copy of the exact length, so that one byte too far is seen. */
    char *copy = malloc(size > 1 ? size - 1 : 1);
    if (copy == NULL) {
        return 0;
    }
    memcpy(copy, data + 1, size - 1);
    parts[data[0] % ARRAY_LEN(parts)]((struct str){ copy, size - 1 });
    free(copy);
    return 0;
}
