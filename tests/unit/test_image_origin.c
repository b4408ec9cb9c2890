/*
 * What foreign registries and people say: URLs, challenges, tokens, credentials, upstreams.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agent/image/origin.h"
#include "common/insist.h"
#include "common/mem.h"

static void urls(void **state)
{
    static const struct {
        const char *text, *host, *path;
        bool https;
        uint16_t port;
    } good[] = {
        { "https://reg.example", "reg.example", "/", true, 443 },
        { "http://127.0.0.1:5000/a/b?c=d", "127.0.0.1", "/a/b?c=d", false, 5000 },
        { "http://[::1]:80/x", "::1", "/x", false, 80 },
        { "https://h?x=1", "h", "/?x=1", true, 443 },
    };
    static const char *const bad[] = {
        "",           "ftp://x",       "//x/y",          "http://",         "http://:80/",
        "http://u@h", "http://h:0/",   "http://h:65536", "http://h:80x/",   "http://[::1/",
        "http://h/ ", "http://h/#x",   "http://h/\x80",  "http://[::1]x/y", "http://h\\x/",
        "http://h\n", "http://%41.x/",
    };
    struct image_url url;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(image_url_parse(str_of(good[i].text), &url, NULL), 0);
        assert_string_equal(url.host, good[i].host);
        assert_string_equal(url.path, good[i].path);
        assert_int_equal(url.https, good[i].https);
        assert_int_equal(url.port, good[i].port);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(image_url_parse(str_of(bad[i]), &url, NULL), -EINVAL);
    }
    assert_int_equal(image_url_parse(STR("http://h:1/a"), &url, NULL), 0);
    assert_int_equal(image_url_follow(&url, STR("/b?c"), &url, NULL), 0);
    assert_string_equal(url.path, "/b?c");
    assert_int_equal(url.port, 1);
    assert_int_equal(image_url_follow(&url, STR("https://o/z"), &url, NULL), 0);
    assert_string_equal(url.host, "o");
    assert_int_equal(image_url_follow(&url, STR("//evil/z"), &url, NULL), -EINVAL);
    assert_int_equal(image_url_follow(&url, STR("relative"), &url, NULL), -EINVAL);
    assert_int_equal(image_url_follow(&url, STR(""), &url, NULL), -EINVAL);
}

static void challenges(void **state)
{
    struct image_challenge c;
    (void)state;
    image_challenge_parse(STR("Bearer realm=\"https://auth/token\",service=\"reg\", "
                              "scope=\"repository:a/b:pull,push\",error=\"x\""),
                          &c);
    assert_int_equal(c.scheme, IMAGE_AUTH_BEARER);
    assert_string_equal(c.realm, "https://auth/token");
    assert_string_equal(c.service, "reg");
    assert_string_equal(c.scope, "repository:a/b:pull,push");
    image_challenge_parse(STR("basic Realm = \"quo\\\"ted\""), &c);
    assert_int_equal(c.scheme, IMAGE_AUTH_BASIC);
    assert_string_equal(c.realm, "quo\"ted");
    image_challenge_parse(STR("Negotiate, Digest realm=\"x\", nonce=a, Basic realm=y"), &c);
    assert_int_equal(c.scheme, IMAGE_AUTH_BASIC);
    assert_string_equal(c.realm, "y");
    static const char *const none[] = { "", "Digest x=y", "Bearer realm=\"open", ", ,", "=", "\"" };
    for (size_t i = 0; i < ARRAY_LEN(none); i++) {
        image_challenge_parse(str_of(none[i]), &c);
        assert_int_equal(c.scheme, IMAGE_AUTH_NONE);
    }
    char longer[4096];
    memset(longer, 'x', sizeof(longer));
    memcpy(longer, "Bearer realm=\"", 14);
    longer[sizeof(longer) - 1] = '"';
    image_challenge_parse((struct str){ longer, sizeof(longer) }, &c);
    assert_int_equal(c.scheme, IMAGE_AUTH_NONE);
}

static void tokens(void **state)
{
    struct image_challenge c = { .scheme = IMAGE_AUTH_BEARER };
    struct image_url url;
    char token[IMAGE_SECRET_MAX];
    (void)state;
    snprintf(c.realm, sizeof(c.realm), "https://auth/t?x=1");
    snprintf(c.service, sizeof(c.service), "a b");
    assert_int_equal(image_token_url(&c, "lib/x", "jo&e", &url, NULL), 0);
    assert_string_equal(url.path,
                        "/t?x=1&account=jo%26e&service=a%20b&scope=repository%3Alib%2Fx%3Apull");
    c.service[0] = '\0';
    snprintf(c.scope, sizeof(c.scope), "s");
    snprintf(c.realm, sizeof(c.realm), "https://auth");
    assert_int_equal(image_token_url(&c, "lib/x", NULL, &url, NULL), 0);
    assert_string_equal(url.path, "/?scope=s");
    c.realm[0] = 'x';
    assert_int_equal(image_token_url(&c, "lib/x", NULL, &url, NULL), -EINVAL);
    assert_int_equal(image_token_parse(STR("{\"access_token\":\"t.1\",\"x\":1}"), token, NULL), 0);
    assert_string_equal(token, "t.1");
    static const char *const bad[] = { "",
                                       "{}",
                                       "[]",
                                       "{\"token\":1}",
                                       "{\"token\":\"\"}",
                                       "{\"token\":\"a\\nb\"}",
                                       "{\"token\":\"a b\"}" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(image_token_parse(str_of(bad[i]), token, NULL), -EINVAL);
    }
    AUTO_BUF struct buf out = BUF_INIT(100);
    image_basic_header(&out, "Aladdin", "open sesame");
    assert_string_equal(buf_cstr(&out), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
}

static void credentials(void **state)
{
    static const char text[] =
        "{\"auths\":{\"reg:5000\":{\"auth\":\"am9lOnNlOmNyZXQ=\"},"
        "\"https://hub.example/v1/\":{\"username\":\"u\",\"password\":\"p\"},"
        "\"helper\":{},\"id\":{\"identitytoken\":\"x\"},\"bad\":{\"auth\":\"!\"},"
        "\"none\":{\"auth\":\"am9l\"}},\"credsStore\":\"x\"}";
    char user[IMAGE_SECRET_MAX];
    char password[IMAGE_SECRET_MAX];
    struct err e = { 0 };
    (void)state;
#define FIND(host, port) image_credentials_find(str_of(text), host, port, user, password, &e)
    assert_int_equal(FIND("reg", 5000), 0);
    assert_string_equal(user, "joe");
    assert_string_equal(password, "se:cret");
    assert_int_equal(FIND("hub.example", 443), 0);
    assert_string_equal(password, "p");
    assert_int_equal(FIND("reg", 443), -ENOENT);
    assert_int_equal(FIND("hub.example", 5000), -ENOENT);
    assert_int_equal(FIND("helper", 443), -ENOTSUP);
    assert_int_equal(FIND("id", 443), -ENOTSUP);
    assert_int_equal(FIND("bad", 443), -EINVAL);
    assert_int_equal(FIND("none", 443), -EINVAL);
    assert_int_equal(image_credentials_find(STR("{}"), "x", 1, user, password, &e), -ENOENT);
    assert_int_equal(image_credentials_find(STR("[]"), "x", 1, user, password, &e), -EINVAL);
    assert_int_equal(image_credentials_find(STR("{\"auths\":1}"), "x", 1, user, password, &e),
                     -EINVAL);
}

static void upstreams(void **state)
{
    struct image_upstreams u;
    char name[IMAGE_NAME_MAX + 1];
    (void)state;
    assert_int_equal(image_upstreams_parse(STR("hub=https://a|http://m:5000/cache/ , "
                                               "lab/x = http://b/,*=http://c"),
                                           &u, NULL),
                     0);
    assert_int_equal(u.n, 3);
    const struct image_upstream *one = image_upstreams_find(&u, "hub/lib/redis");
    assert_ptr_equal(one, &u.v[0]);
    assert_int_equal(image_upstream_name(one, 0, "hub/lib/redis", name), 0);
    assert_string_equal(name, "lib/redis");
    assert_int_equal(image_upstream_name(one, 1, "hub/lib/redis", name), 0);
    assert_string_equal(name, "cache/lib/redis");
    assert_ptr_equal(image_upstreams_find(&u, "lab/x/y"), &u.v[1]);
    assert_ptr_equal(image_upstreams_find(&u, "lab/xy"), &u.v[2]);
    assert_int_equal(image_upstream_name(&u.v[2], 0, "lab/xy", name), 0);
    assert_string_equal(name, "lab/xy");
    image_upstreams_release(&u);
    assert_int_equal(image_upstreams_parse(STR(""), &u, NULL), 0);
    assert_null(image_upstreams_find(&u, "a"));
    static const char *const bad[] = {
        "x",   "x=",          "=http://a",          "X=http://a",
        "a=b", "a=http://b?", "a=http://b|ftp://c", "a=http://1|http://2|http://3|http://4|http://5"
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_true(image_upstreams_parse(str_of(bad[i]), &u, NULL) < 0);
    }
    for (long n = 0; n < 3; n++) {
        mem_fail_after(n, 0);
        int r = image_upstreams_parse(STR("a=http://b,c=http://d"), &u, NULL);
        mem_fail_after(-1, 0);
        assert_true(r == 0 || r == -ENOMEM);
        if (r == 0) {
            image_upstreams_release(&u);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(urls),        cmocka_unit_test(challenges), cmocka_unit_test(tokens),
        cmocka_unit_test(credentials), cmocka_unit_test(upstreams),
    };
    return cmocka_run_group_tests_name("image_origin", tests, NULL, NULL);
}
