/* The pure half of the API: routes against openapi.json, hosts, headers, queries, problems. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/api/api_request.h"
#include "agent/ui/ui.h"
#include "common/insist.h"
#include "common/json.h"

static enum api_found find(const char *method, const char *path, struct api_match *m)
{
    return api_route_find(str_of(method), str_of(path), m);
}

static void test_routes(void **state)
{
    (void)state;
    static const struct {
        const char *method, *path;
        int op;
        const char *param;
    } good[] = {
        { "GET", "/", API_DASHBOARD, "" },
        { "HEAD", "/healthz", API_HEALTH, "" },
        { "GET", "/v1/jobs", API_JOB_LIST, "" },
        { "GET", "/v1/jobs/encrypt", API_JOB_GET, "encrypt" },
        { "PUT", "/v1/jobs/a%2Db", API_JOB_PUT, "a-b" },
        { "POST", "/v1/jobs/encrypt/runs", API_JOB_SUBMIT, "encrypt" },
        { "POST", "/v1/runs", API_RUN_SUBMIT, "" },
        { "GET", "/v1/runs/01/logs", API_RUN_LOGS, "01" },
        { "POST", "/v1/runs/01/cancel", API_RUN_CANCEL, "01" },
        { "DELETE", "/v1/images/team/a/b", API_IMAGE_DELETE, "team/a/b" },
        { "DELETE", "/v1/images/team%2Fa", API_IMAGE_DELETE, "team/a" },
        { "POST", "/v1/images/prune", API_IMAGE_PRUNE, "" },
        { "GET", "/ui/app.js", API_DASHBOARD, "app.js" },
    };
    struct api_match m;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(find(good[i].method, good[i].path, &m), API_FOUND);
        assert_int_equal(m.route->op, good[i].op);
        assert_string_equal(m.param, good[i].param);
    }
    static const char *const absent[] = { "/v1",      "/v1/",      "/v1/jobs/", "/v1/runs//logs",
                                          "/V1/jobs", "//v1/jobs", "/healthz/", "/v1/images/",
                                          "/ui/" };
    for (size_t i = 0; i < ARRAY_LEN(absent); i++) {
        assert_int_equal(find("GET", absent[i], &m), API_NO_PATH);
    }
    static const char *const bad[] = { "/v1/jobs/a%2fb",
                                       "/v1/jobs/..",
                                       "/v1/jobs/%2e%2e",
                                       "/v1/jobs/%zz",
                                       "/v1/jobs/a%",
                                       "/v1/jobs/a%00b",
                                       "v1/jobs",
                                       "",
                                       "*" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(find("GET", bad[i], &m), API_BAD_PATH);
    }
    assert_int_equal(find("DELETE", "/v1/images/a/../b", &m), API_BAD_PATH);
    assert_int_equal(find("DELETE", "/v1/images/a//b", &m), API_BAD_PATH);
    char long_path[1024];
    memset(long_path, 'x', sizeof(long_path));
    memcpy(long_path, "/v1/jobs/", 9);
    long_path[sizeof(long_path) - 1] = '\0';
    assert_int_equal(find("GET", long_path, &m), API_BAD_PATH);
}

static void test_allow(void **state)
{
    (void)state;
    struct api_match m;
    assert_int_equal(find("PATCH", "/v1/jobs/x", &m), API_NO_METHOD);
    assert_string_equal(m.allow, "GET, HEAD, PUT, DELETE, OPTIONS");
    assert_int_equal(find("OPTIONS", "/v1/runs", &m), API_NO_METHOD);
    assert_string_equal(m.allow, "GET, HEAD, POST, OPTIONS");
    assert_int_equal(find("get", "/v1/runs", &m), API_NO_METHOD);
    assert_int_equal(find("HEAD", "/v1/runs/x/cancel", &m), API_NO_METHOD);
    assert_string_equal(m.allow, "POST, OPTIONS");
}

/* -- openapi.json and the table say the same -- */

static const struct ui_file *openapi(void)
{
    for (size_t i = 0; i < ui_files_len; i++) {
        if (strcmp(ui_files[i].name, "openapi.json") == 0) {
            return &ui_files[i];
        }
    }
    return NULL;
}

/* OpenAPI knows no parameter over several segments: "{name...}" is "{name}" there. */
static bool path_is(struct str documented, const char *pattern)
{
    char plain[256];
    size_t n = 0;
    for (const char *p = pattern; *p != '\0'; p++) {
        if (strncmp(p, "...}", 4) == 0) {
            p += 3;
        }
        plain[n++] = *p;
    }
    return str_eq(documented, (struct str){ plain, n });
}

static void refs_resolve(const struct json *root, const struct json *v)
{
    struct str ref;
    if (v->type != JSON_OBJECT && v->type != JSON_ARRAY) {
        return;
    }
    if (json_str(json_get(v, "$ref"), &ref)) {
        const struct json *at = root;
        struct str piece;
        assert_true(str_split(&ref, '/', &piece) && str_eqs(piece, "#"));
        while (str_split(&ref, '/', &piece)) {
            char key[64];
            assert_int_equal(str_copy(key, sizeof(key), piece), 0);
            at = json_get(at, key);
            assert_non_null(at);
        }
    }
    JSON_EACH (child, v) {
        refs_resolve(root, child);
    }
}

/* The scope that the table asks for is the one that is described, with the answer 401. */
static void security_is(const struct json *op, const struct api_route *r)
{
    AUTO_BUF struct buf want = BUF_INIT(128);
    const struct json *security = json_get(op, "security");
    const struct json *unauthorized = json_get(json_get(op, "responses"), "401");
    assert_non_null(security);
    if (r->scopes == 0) {
        assert_int_equal(security->count, 0);
        assert_true((unauthorized != NULL) == (r->op == API_HOOK)); /* by its signature */
        return;
    }
    assert_int_equal(security->count, 1);
    assert_non_null(unauthorized);
    token_scopes_write(&want, r->scopes);
    size_t n = 0;
    JSON_EACH (scheme, security) {
        const struct json *bearer = json_get(scheme, "bearer");
        assert_non_null(bearer);
        JSON_EACH (scope, bearer) {
            struct str name;
            assert_true(json_str(scope, &name) && str_eqs(name, buf_cstr(&want)));
            n++;
        }
    }
    assert_int_equal(n, 1);
}

/* Nothing under /v1 is open but web hooks, which are signed; and what changes something (or shows
 * who may) needs more than read. */
static void test_scopes(void **state)
{
    (void)state;
    for (size_t i = 0; i < api_routes_len; i++) {
        const struct api_route *r = &api_routes[i];
        bool v1 = strncmp(r->pattern, "/v1/", 4) == 0 || r->op == API_METRICS;
        if (r->op == API_HOOK || r->op == API_SECRET_LIST) {
            assert_int_equal(r->scopes, r->op == API_HOOK ? 0 : TOKEN_ADMIN);
            continue;
        }
        assert_int_equal(v1, r->scopes != 0);
        assert_int_equal(v1 && (strcmp(r->method, "GET") != 0 || r->op == API_TOKEN_LIST),
                         r->scopes != 0 && (r->scopes & TOKEN_READ) == 0);
    }
    assert_int_equal(api_registry_scopes(STR("GET")), TOKEN_READ | TOKEN_PUSH);
    assert_int_equal(api_registry_scopes(STR("HEAD")), TOKEN_READ | TOKEN_PUSH);
    static const char *const writes[] = { "PUT", "POST", "PATCH", "DELETE", "get", "OPTIONS" };
    for (size_t i = 0; i < ARRAY_LEN(writes); i++) {
        assert_int_equal(api_registry_scopes(str_of(writes[i])), TOKEN_PUSH);
    }
    static const struct {
        const char *prefix, *path, *query;
        bool covered;
    } rows[] = {
        { "", "/v2/_catalog", "", true },
        { "team/", "/v2/", "", true },
        { "team/", "/v2", "", true },
        { "team/", "/v2/team/a/manifests/1", "", true },
        { "team/", "/v2/other/a/manifests/1", "", false },
        { "team/", "/v2/team", "", false },
        { "team/", "/v2/_catalog", "", false },
        { "_", "/v2/_catalog", "", false },
        { "team/", "/v2/%74eam/a/manifests/1", "", false },
        { "team/", "/v2/team/a/blobs/uploads/", "mount=sha256:0&from=team/b", true },
        { "team/", "/v2/team/a/blobs/uploads/", "mount=sha256:0&from=other/b", false },
        { "team/", "/v2/team/a/blobs/uploads/", "mount=sha256:0&from=%6fther/b", false },
        { "team/", "/v2/team/a/blobs/uploads/", "from=%zz", false },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_int_equal(
            api_registry_covers(rows[i].prefix, str_of(rows[i].path), str_of(rows[i].query)),
            rows[i].covered);
    }
}

static void test_openapi(void **state)
{
    (void)state;
    struct err e = { 0 };
    struct json_doc *doc = NULL;
    struct str summary;
    const struct ui_file *f = openapi();
    assert_non_null(f);
    assert_string_equal(f->type, "application/json");
    assert_int_equal(json_parse(f->data, f->len, NULL, &doc, &e), 0);
    const struct json *root = json_root(doc);
    const struct json *paths = json_get(root, "paths");
    assert_non_null(paths);
    size_t documented = 0;
    JSON_EACH (path, paths) {
        JSON_EACH (op, path) {
            bool found = false;
            const struct api_route *route = NULL;
            documented++;
            for (size_t i = 0; i < api_routes_len && !found; i++) {
                const struct api_route *r = &api_routes[i];
                route = r;
                found = path_is(path->key, r->pattern) && str_ieqs(op->key, r->method);
                if (found) {
                    assert_true(json_str(json_get(op, "summary"), &summary));
                    assert_true(str_eqs(summary, r->summary));
                }
            }
            if (!found) {
                fail_msg("no route for %.*s %.*s", STR_ARG(op->key), STR_ARG(path->key));
            }
            assert_non_null(json_get(op, "operationId"));
            security_is(op, route);
            assert_true(json_get(op, "responses")->count > 0);
            /* A parameter in the path must be described. */
            if (str_find(path->key, '{') >= 0) {
                assert_non_null(json_get(op, "parameters"));
            }
        }
    }
    assert_int_equal(documented, api_routes_len);
    refs_resolve(root, root);
    (void)json_free(doc);
}

/* -- who asks -- */

static bool host_ok(const struct api_hosts *h, const char *host)
{
    return api_host_ok(h, str_of(host));
}

static void test_hosts(void **state)
{
    (void)state;
    struct api_hosts h;
    api_hosts_init(&h, "127.0.0.1:7575", "");
    static const char *const good[] = { "127.0.0.1",      "127.0.0.1:7575", "127.9.9.9:1",
                                        "localhost",      "LocalHost:7575", "[::1]:7575",
                                        "localhost.:7575" };
    static const char *const bad[] = { "evil.example",
                                       "evil.example:7575",
                                       "10.0.0.1",
                                       "localhost.evil",
                                       "127.0.0.1.evil.io",
                                       "2130706433",
                                       "127.1",
                                       "0x7f.0.0.1",
                                       "[::2]",
                                       "[::ffff:10.0.0.1]",
                                       "127.0.0.1:99999",
                                       "127.0.0.1:x",
                                       "user@127.0.0.1",
                                       "[::1",
                                       "[]",
                                       ":7575",
                                       "",
                                       "127.0.0.1:1:2",
                                       "127.0.0.1, evil.test",
                                       "0.0.0.0" };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_true(host_ok(&h, good[i]));
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(host_ok(&h, bad[i]));
    }
    api_hosts_init(&h, "0.0.0.0:7575", "Node1.Example.org:7575");
    assert_true(host_ok(&h, "node1.example.org:7575"));
    assert_true(host_ok(&h, "10.1.2.3:7575"));
    assert_true(host_ok(&h, "[fe80::1]:7575"));
    assert_false(host_ok(&h, "other.example.org:7575"));
    api_hosts_init(&h, "node2:7575", "");
    assert_true(host_ok(&h, "node2:7575"));
    api_hosts_init(&h, "[::1]:7575", "10.0.0.7:80");
    assert_true(host_ok(&h, "10.0.0.7:80"));
    assert_false(host_ok(&h, "10.0.0.8:80"));
}

static void test_origins(void **state)
{
    (void)state;
    struct str host = STR("127.0.0.1:7575");
    assert_true(api_origin_ok(STR("http://127.0.0.1:7575"), host));
    assert_true(api_origin_ok(STR("https://127.0.0.1:7575"), host));
    assert_true(api_origin_ok(STR("http://LOCALHOST:7575"), STR("localhost:7575")));
    static const char *const bad[] = { "null",
                                       "",
                                       "http://127.0.0.1",
                                       "http://127.0.0.1:7576",
                                       "http://evil.example",
                                       "http://127.0.0.1:7575.evil.example",
                                       "file://127.0.0.1:7575",
                                       "127.0.0.1:7575" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(api_origin_ok(str_of(bad[i]), host));
    }
}

/* -- headers -- */

static int64_t prefer(const char *a, const char *b)
{
    struct http1_header headers[2] = { { STR("Prefer"), str_of(a) }, { STR("prefer"), str_of(b) } };
    struct http1_head head = { .headers = headers, .headers_len = b != NULL ? 2 : 1 };
    return api_prefer_wait(&head, 300);
}

static void test_prefer(void **state)
{
    (void)state;
    assert_int_equal(prefer("wait=10", NULL), 10);
    assert_int_equal(prefer("respond-async, wait=10", NULL), 10);
    assert_int_equal(prefer("Wait = 7", NULL), 7);
    assert_int_equal(prefer("respond-async", "wait=3"), 3);
    assert_int_equal(prefer("wait=5, wait=9", NULL), 5);
    assert_int_equal(prefer("wait=0", NULL), 0);
    assert_int_equal(prefer("wait=99999", NULL), 300);
    assert_int_equal(prefer("wait=99999999999999999999999", NULL), 300);
    assert_int_equal(prefer("wait=-1", NULL), -1);
    assert_int_equal(prefer("wait=ten", NULL), -1);
    assert_int_equal(prefer("waiting=4", NULL), -1);
    assert_int_equal(prefer("wait", NULL), -1);
    assert_int_equal(prefer("", NULL), -1);
}

static void test_values(void **state)
{
    (void)state;
    char key[260];
    uint32_t revision = 0;
    memset(key, 'k', sizeof(key));
    assert_true(api_key_ok((struct str){ key, 255 }));
    assert_false(api_key_ok((struct str){ key, 256 }));
    assert_false(api_key_ok(STR("")));
    assert_false(api_key_ok(STR("a\tb")));
    assert_false(api_key_ok(STR("caf\xc3\xa9")));
    assert_true(api_request_id_ok(STR("req-1.2:3/4")));
    assert_false(api_request_id_ok(STR("a b")));
    assert_false(api_request_id_ok(STR("a\"b")));
    assert_false(api_request_id_ok((struct str){ key, 129 }));
    assert_int_equal(api_if_match(STR("\"12\""), &revision), 0);
    assert_int_equal(revision, 12);
    assert_int_equal(api_if_match(STR("7"), &revision), 0);
    assert_int_equal(api_if_match(STR("*"), &revision), -EINVAL);
    assert_int_equal(api_if_match(STR("\"0\""), &revision), -EINVAL);
    assert_int_equal(api_if_match(STR("W/\"1\""), &revision), -EINVAL);
    assert_int_equal(revision, 7);
    assert_true(api_type_is_json(STR("application/json")));
    assert_true(api_type_is_json(STR("Application/JSON; charset=utf-8")));
    assert_true(api_type_is_json(STR("application/merge-patch+json")));
    assert_true(api_type_is_json(STR("")));
    assert_false(api_type_is_json(STR("text/plain")));
    assert_false(api_type_is_json(STR("application/jsonx")));
}

static void test_ranges(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t total;
        int kind;
        uint64_t from, len;
    } rows[] = {
        { "bytes=0-9", 100, API_RANGE_PART, 0, 10 },
        { "bytes=90-", 100, API_RANGE_PART, 90, 10 },
        { "bytes=90-1000", 100, API_RANGE_PART, 90, 10 },
        { "bytes=-10", 100, API_RANGE_PART, 90, 10 },
        { "bytes=-1000", 100, API_RANGE_PART, 0, 100 },
        { "bytes= 5 - 5 ", 100, API_RANGE_PART, 5, 1 },
        { "bytes=0-18446744073709551615", 100, API_RANGE_PART, 0, 100 },
        { "bytes=100-", 100, API_RANGE_BAD, 0, 0 },
        { "bytes=-0", 100, API_RANGE_BAD, 0, 0 },
        { "bytes=0-", 0, API_RANGE_BAD, 0, 0 },
        { "bytes=5-4", 100, API_RANGE_WHOLE, 0, 0 },
        { "bytes=0-1,5-6", 100, API_RANGE_WHOLE, 0, 0 },
        { "bytes=-", 100, API_RANGE_WHOLE, 0, 0 },
        { "bytes=", 100, API_RANGE_WHOLE, 0, 0 },
        { "bytes=a-b", 100, API_RANGE_WHOLE, 0, 0 },
        { "lines=0-1", 100, API_RANGE_WHOLE, 0, 0 },
        { "bytes=0-18446744073709551616", 100, API_RANGE_WHOLE, 0, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t from = 0;
        uint64_t len = 0;
        assert_int_equal(api_range_parse(str_of(rows[i].text), rows[i].total, &from, &len),
                         rows[i].kind);
        assert_int_equal(from, rows[i].from);
        assert_int_equal(len, rows[i].len);
    }
}

/* -- queries -- */

static void test_queries(void **state)
{
    (void)state;
    static const char *const names[] = { "limit", "after", NULL };
    struct err e = { 0 };
    size_t limit = 0;
    bool flag = false;
    int64_t since = -1;
    uint64_t n = 0;
    assert_int_equal(api_query_check(STR("limit=3&after=x&"), names, &e), 0);
    assert_int_equal(api_query_check(STR(""), names, &e), 0);
    assert_int_equal(api_query_check(STR("limits=3"), names, &e), -EINVAL);
    assert_non_null(strstr(e.text, "'limits'"));
    assert_int_equal(api_query_limit(STR(""), &limit, &e), 0);
    assert_int_equal(limit, 100);
    assert_int_equal(api_query_limit(STR("limit=1000"), &limit, &e), 0);
    assert_int_equal(limit, 1000);
    assert_int_equal(api_query_limit(STR("limit=0"), &limit, &e), -EINVAL);
    assert_int_equal(api_query_limit(STR("limit=1001"), &limit, &e), -EINVAL);
    assert_int_equal(api_query_limit(STR("limit=%zz"), &limit, &e), -EINVAL);
    assert_int_equal(api_query_flag(STR("follow=1"), "follow", &flag, &e), 0);
    assert_true(flag);
    assert_int_equal(api_query_flag(STR("x=1"), "follow", &flag, &e), 0);
    assert_false(flag);
    assert_int_equal(api_query_flag(STR("follow"), "follow", &flag, &e), 0);
    assert_true(flag);
    assert_int_equal(api_query_flag(STR("follow=maybe"), "follow", &flag, &e), -EINVAL);
    assert_int_equal(api_query_u64(STR("tail=5"), "tail", 0, 9, 7, &n, &e), 0);
    assert_int_equal(n, 5);
    assert_int_equal(api_query_u64(STR(""), "tail", 0, 9, 7, &n, &e), 0);
    assert_int_equal(n, 7);
    assert_int_equal(api_query_since(STR("since=10m"), 1000000000, &since, &e), 0);
    assert_int_equal(since, 1000000000 - INT64_C(600000000));
    assert_int_equal(api_query_since(STR("since=1970-01-01T00:00:02Z"), 0, &since, &e), 0);
    assert_int_equal(since, 2000000);
    assert_int_equal(api_query_since(STR(""), 5, &since, &e), 0);
    assert_int_equal(since, 0);
    assert_int_equal(api_query_since(STR("since=yesterday"), 5, &since, &e), -EINVAL);
}

static void test_problem(void **state)
{
    (void)state;
    static const struct api_field fields[] = { { "memory", "must be \"big\"" } };
    struct buf b = BUF_INIT(4096);
    struct json_doc *doc = NULL;
    struct str text;
    int64_t status = 0;
    api_problem_write(&b, 422, "invalid_document", "1 problem", "/v1/jobs/x", "id-1", fields, 1);
    assert_int_equal(buf_error(&b), 0);
    assert_int_equal(json_parse(b.data, b.len, NULL, &doc, NULL), 0);
    const struct json *root = json_root(doc);
    assert_true(json_int(json_get(root, "status"), &status) && status == 422);
    assert_true(json_str(json_get(root, "code"), &text) && str_eqs(text, "invalid_document"));
    assert_true(json_str(json_get(root, "type"), &text) && str_eqs(text, "about:blank"));
    assert_true(json_str(json_get(root, "instance"), &text) && str_eqs(text, "/v1/jobs/x"));
    assert_true(json_str(json_get(root, "request_id"), &text) && str_eqs(text, "id-1"));
    const struct json *first = json_at(json_get(root, "errors"), 0);
    assert_true(json_str(json_get(first, "detail"), &text) && str_eqs(text, "must be \"big\""));
    (void)json_free(doc);
    buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes),  cmocka_unit_test(test_allow),
        cmocka_unit_test(test_openapi), cmocka_unit_test(test_scopes),
        cmocka_unit_test(test_hosts),   cmocka_unit_test(test_origins),
        cmocka_unit_test(test_prefer),  cmocka_unit_test(test_values),
        cmocka_unit_test(test_ranges),  cmocka_unit_test(test_queries),
        cmocka_unit_test(test_problem),
    };
    return cmocka_run_group_tests_name("api_router", tests, NULL, NULL);
}
