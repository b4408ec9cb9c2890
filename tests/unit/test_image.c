/*
 * Names, requests, documents: what is accepted, and every way to be refused.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/image/image.h"
#include "common/insist.h"
#include "common/mem.h"

#define HEX "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define D "sha256:" HEX
#define DESC(type) "{\"mediaType\":\"" type "\",\"digest\":\"" D "\",\"size\":3}"
#define CONFIG DESC(IMAGE_TYPE_OCI_CONFIG)
#define LAYER DESC(IMAGE_TYPE_OCI_LAYER)

static void names(void **state)
{
    static const char *const good[] = { "a",    "a/b", "a.b",   "a_b",
                                        "a__b", "a-b", "a---b", "library/busy-box.x_1",
                                        "0/1" };
    static const char *const bad[] = { "",     "A",      "a/",  "/a",  "a//b",
                                       "a..b", "a___b",  "-a",  "a-",  "a._b",
                                       ".a",   "a/../b", "a b", "a:b", "\xc3\xa9" };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_true(image_name_ok(str_of(good[i])));
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(image_name_ok(str_of(bad[i])));
    }
    char name[IMAGE_NAME_MAX + 2];
    memset(name, 'a', sizeof(name));
    assert_true(image_name_ok((struct str){ name, IMAGE_NAME_MAX }));
    assert_false(image_name_ok((struct str){ name, IMAGE_NAME_MAX + 1 }));
    assert_true(image_tag_ok(str_of("v1.0_A-b")));
    assert_true(image_tag_ok((struct str){ name, 128 }));
    assert_false(image_tag_ok((struct str){ name, 129 }));
    assert_false(image_tag_ok(str_of(".x")));
    assert_false(image_tag_ok(str_of("-x")));
    assert_false(image_tag_ok(str_of("a/b")));
}

static void references(void **state)
{
    static const struct {
        const char *text, *canonical; /* NULL: refused */
    } table[] = {
        { "busybox", "busybox:latest" },
        { "team/job:1", "team/job:1" },
        { "127.0.0.1:7575/team/job:1", "team/job:1" },
        { "[::1]:7575/team/job:1", "team/job:1" },
        { "node-1:7575/job", "job:latest" },
        { "team/job@" D, "team/job@" D },
        { "team/job:1@" D, "team/job:1@" D },
        { "@" D, D },
        { D, D },
        { "localhost/job", "localhost/job:latest" },
        { "", NULL },
        { "sha256", NULL },
        { "sha512:", NULL },
        { "sha256:12", NULL },
        { "Team/job", NULL },
        { "team/job:", NULL },
        { "team/job:-x", NULL },
        { "team/job@", NULL },
        { "team/job@sha256:12", NULL },
        { "team/job@md5:12", NULL },
        { "host:99999/job", NULL },
        { "host:x/job", NULL },
        { ":80/job", NULL },
        { "../etc/passwd", NULL },
        { "a/../b", NULL },
        { "team/job:1:2", NULL },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct image_ref ref;
        struct err e = { 0 };
        char text[IMAGE_REF_CAP];
        int r = image_ref_parse(str_of(table[i].text), &ref, &e);
        assert_int_equal(image_ref_parse(str_of(table[i].text), &ref, NULL), r);
        if (table[i].canonical == NULL) {
            assert_true(r < 0);
            assert_true(e.text[0] != '\0');
        } else {
            assert_int_equal(r, 0);
            assert_string_equal(image_ref_format(&ref, text), table[i].canonical);
        }
    }
}

static void routes(void **state)
{
    static const struct {
        const char *path;
        int want; /* a kind, or an error */
        const char *name;
    } table[] = {
        { "/v2", IMAGE_ROUTE_BASE, "" },
        { "/v2/", IMAGE_ROUTE_BASE, "" },
        { "/v2/_catalog", IMAGE_ROUTE_CATALOG, "" },
        { "/v2/a/b/blobs/" D, IMAGE_ROUTE_BLOB, "a/b" },
        { "/v2/a/blobs/sha256%3A" HEX, IMAGE_ROUTE_BLOB, "a" },
        { "/v2/a/blobs/uploads/", IMAGE_ROUTE_UPLOADS, "a" },
        { "/v2/a/blobs/uploads", IMAGE_ROUTE_UPLOADS, "a" },
        { "/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef", IMAGE_ROUTE_SESSION, "a" },
        { "/v2/a/blobs/uploads/x/manifests/1", IMAGE_ROUTE_MANIFEST, "a/blobs/uploads/x" },
        { "/v2/a/manifests/latest", IMAGE_ROUTE_MANIFEST, "a" },
        { "/v2/tags/list/tags/list", IMAGE_ROUTE_TAGS, "tags/list" },
        { "/v2/a/referrers/" D, IMAGE_ROUTE_REFERRERS, "a" },
        { "/v2/a/blobs/uploads/../../x", -ENOENT, NULL },
        { "/v2/a/blobs/uploads/zz", -ESRCH, NULL },
        { "/v2/a/blobs/sha256:12", -EBADMSG, NULL },
        { "/v2/a/manifests/sha256:" HEX "0", -EBADMSG, NULL },
        { "/v2/a/manifests/.bad", -ENOMSG, NULL },
        { "/v2/a/manifests/", -ENOMSG, NULL },
        { "/v2/A/manifests/1", -EINVAL, NULL },
        { "/v2//manifests/1", -EINVAL, NULL },
        { "/v2/manifests/1", -EINVAL, NULL },
        { "/v2/../v2/a/manifests/1", -EINVAL, NULL },
        { "/v2/..%2f..%2fetc/manifests/1", -EINVAL, NULL },
        { "/v2/%2e%2E/a/manifests/1", -EINVAL, NULL },
        { "/v2/a%5cb/manifests/1", -EINVAL, NULL },
        { "/v2/a%00/manifests/1", -EINVAL, NULL },
        { "/v2/a/b/c", -ENOENT, NULL },
        { "/v2/_catalog/x", -ENOENT, NULL },
        { "/v1/", -ENOENT, NULL },
        { "", -ENOENT, NULL },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct image_route route;
        int r = image_route_parse(str_of(table[i].path), &route, NULL);
        if (table[i].name == NULL) {
            assert_int_equal(r, table[i].want);
        } else {
            assert_int_equal(r, 0);
            assert_int_equal(route.kind, table[i].want);
            assert_string_equal(route.ref.repository, table[i].name);
        }
    }
}

static void ranges(void **state)
{
    static const struct {
        const char *text;
        uint64_t size;
        int want;
        uint64_t from, len;
    } table[] = {
        { "bytes=500-1499", 2048, 0, 500, 1000 },
        { "bytes=500-", 2048, 0, 500, 1548 },
        { "bytes=-500", 2048, 0, 1548, 500 },
        { "bytes=2000-5000", 2048, 0, 2000, 48 },
        { "bytes=-5000", 2048, 0, 0, 2048 },
        { "bytes=500-0", 2048, -ERANGE, 0, 0 },
        { "bytes=5000-10000", 2048, -ERANGE, 0, 0 },
        { "bytes=2048-", 2048, -ERANGE, 0, 0 },
        { "bytes=-0", 2048, -ERANGE, 0, 0 },
        { "bytes=0-", 0, -ERANGE, 0, 0 },
        { "bytes=0-1,3-4", 2048, -ENOENT, 0, 0 },
        { "lines=0-1", 2048, -ENOENT, 0, 0 },
        { "bytes=-", 2048, -ENOENT, 0, 0 },
        { "bytes=a-b", 2048, -ENOENT, 0, 0 },
        { "bytes=0-99999999999999999999", 2048, -ENOENT, 0, 0 },
    };
    (void)state;
    uint64_t from = 0;
    uint64_t len = 0;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        assert_int_equal(image_range_parse(str_of(table[i].text), table[i].size, &from, &len),
                         table[i].want);
        if (table[i].want == 0) {
            assert_int_equal(from, table[i].from);
            assert_int_equal(len, table[i].len);
        }
    }
    assert_int_equal(image_chunk_range_parse(str_of("0-1023"), &from, &len), 0);
    assert_int_equal(image_chunk_range_parse(str_of("bytes 5-9/20"), &from, &len), 0);
    assert_int_equal(from, 5);
    assert_int_equal(len, 9);
    static const char *const bad[] = {
        "", "5", "5-", "-5", "9-5", "a-b", "0-18446744073709551615"
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(image_chunk_range_parse(str_of(bad[i]), &from, &len), -EINVAL);
    }
}

static int parse(const char *text, const char *type, struct image_manifest *m)
{
    struct err e = { 0 };
    int r = image_manifest_parse(str_of(text), str_of(type), m, &e);
    assert_true(r == 0 || e.text[0] != '\0');
    return r;
}

static void manifests(void **state)
{
    struct image_manifest m;
    (void)state;
    assert_int_equal(
        parse("{\"schemaVersion\":2,\"mediaType\":\"" IMAGE_TYPE_OCI_MANIFEST
              "\",\"config\":" CONFIG ",\"layers\":[" LAYER "," LAYER
              "],\"annotations\":{\"a\":\"b\"},\"unknown\":{\"x\":[1]},\"subject\":" DESC("x") "}",
              IMAGE_TYPE_OCI_MANIFEST "; charset=utf-8", &m),
        0);
    assert_int_equal(m.entries_len, 2);
    assert_false(m.index);
    assert_true(m.has_subject);
    assert_string_equal(m.annotations, "{\"a\":\"b\"}");
    assert_string_equal(m.artifact_type, IMAGE_TYPE_OCI_CONFIG);
    image_manifest_release(&m);
    assert_int_equal(parse("{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":null}",
                           IMAGE_TYPE_OCI_MANIFEST, &m),
                     0);
    assert_int_equal(m.entries_len, 0);
    image_manifest_release(&m);
    assert_int_equal(parse("{\"schemaVersion\":2,\"manifests\":[]}", "", &m), 0);
    assert_true(m.index);
    image_manifest_release(&m);
    static const struct {
        const char *text, *type;
    } bad[] = {
        { "", "" },
        { "[]", "" },
        { "{}", "" },
        { "{\"schemaVersion\":1,\"fsLayers\":[]}", "" },
        { "{\"schemaVersion\":1,\"config\":" CONFIG ",\"layers\":[]}", "" },
        { "{\"schemaVersion\":\"2\",\"config\":" CONFIG ",\"layers\":[]}", "" },
        /* CVE-2021-41190: two things at once, or called by another name */
        { "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[],\"manifests\":[]}", "" },
        { "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[],\"manifests\":[]}",
          IMAGE_TYPE_OCI_MANIFEST },
        { "{\"schemaVersion\":2,\"layers\":[],\"manifests\":[]}", IMAGE_TYPE_OCI_INDEX },
        { "{\"schemaVersion\":2,\"mediaType\":\"" IMAGE_TYPE_OCI_INDEX "\",\"manifests\":[]}",
          IMAGE_TYPE_OCI_MANIFEST },
        { "{\"schemaVersion\":2,\"mediaType\":7,\"manifests\":[]}", IMAGE_TYPE_OCI_INDEX },
        { "{\"schemaVersion\":2,\"config\":" CONFIG "}", "text/plain" },
        { "{\"schemaVersion\":2,\"layers\":[]}", IMAGE_TYPE_OCI_MANIFEST },
        { "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":{}}", IMAGE_TYPE_OCI_MANIFEST },
        { "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[1]}", IMAGE_TYPE_OCI_MANIFEST },
        { "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[{\"digest\":\"" D "\"}]}",
          IMAGE_TYPE_OCI_MANIFEST },
        { "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[{\"digest\":\"" D
          "\",\"size\":-1}]}",
          IMAGE_TYPE_OCI_MANIFEST },
        { "{\"schemaVersion\":2,\"config\":" CONFIG
          ",\"layers\":[{\"digest\":\"../../x\",\"size\":1}]}",
          IMAGE_TYPE_OCI_MANIFEST },
        { "{\"schemaVersion\":2,\"config\":" CONFIG ",\"annotations\":{\"a\":1}}",
          IMAGE_TYPE_OCI_MANIFEST },
        { "{\"schemaVersion\":2,\"config\":" CONFIG ",\"config\":" CONFIG "}",
          IMAGE_TYPE_OCI_MANIFEST },
        { "{\"schemaVersion\":2,\"config\":" CONFIG "} trailing", IMAGE_TYPE_OCI_MANIFEST },
        { "{\"schemaVersion\":2,\"config\":" CONFIG ",\"x\":[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}",
          IMAGE_TYPE_OCI_MANIFEST },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_true(parse(bad[i].text, bad[i].type, &m) < 0);
    }
}

#define ENTRY(os, arch, variant) \
    "{\"digest\":\"" D "\",\"size\":1,\"platform\":{\"os\":\"" os "\",\"architecture\":\"" arch \
    "\"" variant "}}"
#define V(n) ",\"variant\":\"" n "\""

static int choose(const char *entries, const char *variant)
{
    struct image_manifest m;
    struct image_platform host = { "linux", "amd64", "" };
    char text[4096];
    size_t i = 99;
    snprintf(text, sizeof(text), "{\"schemaVersion\":2,\"manifests\":[%s]}", entries);
    snprintf(host.variant, sizeof(host.variant), "%s", variant);
    assert_int_equal(parse(text, IMAGE_TYPE_OCI_INDEX, &m), 0);
    int r = image_index_select(&m, &host, &i, NULL);
    image_manifest_release(&m);
    return r < 0 ? r : (int)i;
}

static void platforms(void **state)
{
    (void)state;
    assert_int_equal(choose(ENTRY("linux", "arm64", "") "," ENTRY("linux", "amd64", ""), "v1"), 1);
    assert_int_equal(choose(ENTRY("linux", "amd64", "") "," ENTRY(
                                "linux", "amd64", V("v2")) "," ENTRY("linux", "amd64", V("v3")),
                            "v3"),
                     2);
    assert_int_equal(choose(ENTRY("linux", "amd64", "") "," ENTRY(
                                "linux", "amd64", V("v2")) "," ENTRY("linux", "amd64", V("v4")),
                            "v3"),
                     1);
    assert_int_equal(choose(ENTRY("linux", "amd64", V("v3")) "," ENTRY("linux", "amd64", ""), "v1"),
                     1);
    assert_int_equal(choose(ENTRY("linux", "amd64", "") "," ENTRY("linux", "amd64", ""), "v1"), 0);
    assert_int_equal(choose(ENTRY("unknown", "unknown", "") "," ENTRY("linux", "amd64", ""), "v1"),
                     1);
    assert_int_equal(choose("{\"digest\":\"" D "\",\"size\":1}", "v1"), 0);
    assert_int_equal(choose("{\"digest\":\"" D "\",\"size\":1,\"artifactType\":\"x\"}", "v1"),
                     -ENOENT);
    assert_int_equal(
        choose(ENTRY("windows", "amd64", "") "," ENTRY("linux", "amd64", V("v4")), "v3"), -ENOENT);
    assert_int_equal(choose("", "v1"), -ENOENT);
}

static void join(const struct image_strv *s, char *dst, size_t cap)
{
    size_t at = 0;
    dst[0] = '\0';
    for (size_t i = 0; i < s->n; i++) {
        at += (size_t)snprintf(dst + at, cap - at, "%s|", s->v[i]);
    }
    assert_null(s->v[s->n]);
}

static void commands(void **state)
{
    struct image_config c;
    struct image_strv out;
    char text[256];
    char *user[] = { (char[]){ "u" }, NULL };
    char *job[] = { (char[]){ "A=9" }, (char[]){ "C=3" }, NULL };
    const struct image_strv one = { user, 1 };
    const struct image_strv none = { user + 1, 0 };
    const struct image_strv more = { job, 2 };
    (void)state;
    assert_int_equal(
        image_config_parse(
            STR("{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{\"Entrypoint\":[\"e\"],\"Cmd\":[\"c\"],\"Env\":[\"A=1\",\"B=2\",\"bad\",\"=x\"],\"Labels\":{\"x\":\"y\"},\"Volumes\":null},"
                "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D
                "\"]},\"created\":\"2024-01-02T03:04:05Z\"}"),
            &c, NULL),
        0);
    assert_int_equal(c.created_us, 1704164645000000);
    assert_string_equal(c.workdir, "/");
    assert_string_equal(c.stop_signal, "SIGTERM");
    static const struct {
        bool entrypoint, cmd;
        const char *want;
    } table[] = { { false, false, "e|c|" },
                  { false, true, "e|u|" },
                  { true, false, "u|" },
                  { true, true, "u|u|" } };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        assert_int_equal(image_argv(&c, table[i].entrypoint ? &one : NULL,
                                    table[i].cmd ? &one : NULL, &out, NULL),
                         0);
        join(&out, text, sizeof(text));
        assert_string_equal(text, table[i].want);
        image_strv_release(&out);
    }
    assert_int_equal(image_argv(&c, NULL, &none, &out, NULL), 0); /* an empty command drops Cmd */
    assert_int_equal(out.n, 1);
    image_strv_release(&out);
    assert_int_equal(image_argv(&c, &none, NULL, &out, NULL), -EINVAL);
    assert_int_equal(image_env(&c, &more, &out, NULL), 0);
    join(&out, text, sizeof(text));
    assert_string_equal(text, "A=9|B=2|C=3|");
    image_strv_release(&out);
    struct image_platform host;
    image_platform_host(&host);
    snprintf(c.platform.architecture, sizeof(c.platform.architecture), "s390x");
    assert_int_equal(image_config_check(&c, &host, NULL), -ENOTSUP);
    image_config_release(&c);
}

static void configs_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "null",
        "[]",
        "{}",
        "{\"rootfs\":{\"type\":\"files\",\"diff_ids\":[]}}",
        "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":{}}}",
        "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"x\"]}}",
        "{\"rootfs\":{\"type\":\"layers\"},\"config\":[]}",
        "{\"rootfs\":{\"type\":\"layers\"},\"config\":{\"Cmd\":\"x\"}}",
        "{\"rootfs\":{\"type\":\"layers\"},\"config\":{\"Cmd\":[1]}}",
        "{\"rootfs\":{\"type\":\"layers\"},\"config\":{\"User\":0}}",
        "{\"rootfs\":{\"type\":\"layers\"},\"config\":{\"Cmd\":[\"a\\u0000b\"]}}",
        "{\"rootfs\":{\"type\":\"layers\"},\"os\":\"0123456789012345678901234567890123456789\"}",
    };
    struct image_config c;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err e = { 0 };
        assert_true(image_config_parse(str_of(bad[i]), &c, &e) < 0);
        assert_true(e.text[0] != '\0');
    }
    AUTO_BUF struct buf many = BUF_INIT(1 << 20);
    buf_adds(&many, "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D "\"");
    for (int i = 0; i < IMAGE_LAYERS_MAX; i++) {
        buf_adds(&many, ",\"" D "\"");
    }
    buf_adds(&many, "]}}");
    assert_int_equal(image_config_parse(buf_str(&many), &c, NULL), -E2BIG);
}

static void signals(void **state)
{
    static const struct {
        const char *text;
        int want;
    } table[] = { { "SIGTERM", 15 },    { "term", 15 },    { "SIGUSR1", 10 }, { "9", 9 },
                  { "SIGRTMIN+3", 37 }, { "RTMAX-1", 63 }, { "RTMAX", 64 } };
    static const char *const bad[] = { "",       "0",        "65", "SIG",
                                       "SIGFOO", "RTMIN+31", "-9", "SIGTERMSIGTERMSIGTERM" };
    int n = 0;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        assert_int_equal(image_signal_parse(str_of(table[i].text), &n), 0);
        assert_int_equal(n, table[i].want);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(image_signal_parse(str_of(bad[i]), &n), -EINVAL);
    }
}

static void archives(void **state)
{
    char name[IMAGE_PATH_MAX];
    struct image_saved_list l;
    (void)state;
    assert_int_equal(image_archive_name(STR("./blobs//sha256/./x"), name), 0);
    assert_string_equal(name, "blobs/sha256/x");
    assert_int_equal(image_archive_name(STR("../x"), name), -EINVAL);
    assert_int_equal(image_archive_link("b/layer.tar", STR("../a/layer.tar"), name), 0);
    assert_string_equal(name, "a/layer.tar");
    assert_int_equal(image_archive_link("b/layer.tar", STR("../../x"), name), -EINVAL);
    assert_int_equal(image_archive_link("b/layer.tar", STR("/etc/passwd"), name), 0);
    assert_string_equal(name, "etc/passwd"); /* of the archive */
    assert_int_equal(
        image_saved_parse(
            STR("[{\"Config\":\"./c.json\",\"RepoTags\":[\"a:1\"],\"Layers\":[\"l/layer.tar\"]},{\"Config\":\"d\",\"RepoTags\":null,\"Layers\":[]}]"),
            &l, NULL),
        0);
    assert_int_equal(l.n, 2);
    assert_string_equal(l.v[0].config, "c.json");
    assert_string_equal(l.v[0].tags.v[0], "a:1");
    assert_int_equal(l.v[1].tags.n, 0);
    image_saved_release(&l);
    static const char *const bad[] = { "{}",
                                       "[]",
                                       "[1]",
                                       "[{}]",
                                       "[{\"Config\":\"../c\",\"Layers\":[]}]",
                                       "[{\"Config\":\"c\",\"Layers\":[\"/..\"]}]",
                                       "[{\"Config\":\"c\",\"Layers\":[],\"RepoTags\":[1]}]" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_true(image_saved_parse(str_of(bad[i]), &l, NULL) < 0);
    }
    assert_int_equal(image_layout_check(STR("{\"imageLayoutVersion\":\"1.0.0\"}"), NULL), 0);
    assert_int_equal(image_layout_check(STR("{\"imageLayoutVersion\":\"2.0.0\"}"), NULL), -ENOTSUP);
    assert_true(image_layout_check(STR("x"), NULL) < 0);
    struct image_descriptor d = { .media_type = IMAGE_TYPE_OCI_CONFIG, .size = 7 };
    struct image_manifest m;
    assert_int_equal(digest_parse(STR(D), &d.digest, NULL), 0);
    AUTO_BUF struct buf out = BUF_INIT(4096);
    assert_int_equal(image_manifest_write(&d, &d, 1, &out), 0);
    assert_int_equal(image_manifest_parse(buf_str(&out), STR(IMAGE_TYPE_OCI_MANIFEST), &m, NULL),
                     0);
    assert_int_equal(m.config.size, 7);
    image_manifest_release(&m);
}

/* Every allocation fails once: an error each time, and no leak (ASan looks). */
static void out_of_memory(void **state)
{
    static const char manifest[] = "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[" LAYER
                                   "],\"annotations\":{\"a\":\"b\"}}";
    static const char config[] =
        "{\"config\":{\"Cmd\":[\"a\",\"b\"],\"Env\":[\"A=1\"]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D
        "\"]}}";
    (void)state;
    for (int what = 0; what < 2; what++) {
        int r = -ENOMEM;
        long n = 0;
        for (; r != 0; n++) {
            struct image_manifest m;
            struct image_config c;
            assert_true(n < 1000);
            mem_fail_after(n, 0);
            r = what == 0
                    ? image_manifest_parse(str_of(manifest), STR(IMAGE_TYPE_OCI_MANIFEST), &m, NULL)
                    : image_config_parse(str_of(config), &c, NULL);
            mem_fail_after(-1, 0);
            if (r == 0 && what == 0) {
                image_manifest_release(&m);
            } else if (r == 0) {
                image_config_release(&c);
            } else {
                assert_int_equal(r, -ENOMEM);
            }
        }
        assert_true(n > 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),    cmocka_unit_test(references),      cmocka_unit_test(routes),
        cmocka_unit_test(ranges),   cmocka_unit_test(manifests),       cmocka_unit_test(platforms),
        cmocka_unit_test(commands), cmocka_unit_test(configs_refused), cmocka_unit_test(signals),
        cmocka_unit_test(archives), cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
