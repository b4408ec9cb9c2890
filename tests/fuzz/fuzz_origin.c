/*
 * What foreign registries say: challenges, tokens, redirects; and credentials and upstreams, which
 * people write. What is accepted is in bounds and survives a round trip.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/origin.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_url(const struct image_url *url)
{
    struct image_url again;
    AUTO_BUF struct buf text = BUF_INIT(2 * IMAGE_URL_PATH_MAX);
    bool v6 = strchr(url->host, 0x3a) != NULL;
    INSIST(url->host[0] != '\0' && url->port != 0 && url->path[0] == '/');
    INSIST(strpbrk(url->path, " \r\n#") == NULL && strpbrk(url->host, "/@ \r\n") == NULL);
    buf_addf(&text, "%s://%s%s%s:%u%s", url->https ? "https" : "http", v6 ? "[" : "", url->host,
             v6 ? "]" : "", url->port, url->path);
    INSIST(image_url_parse(buf_str(&text), &again, NULL) == 0);
    INSIST(strcmp(again.host, url->host) == 0 && again.port == url->port);
    INSIST(strcmp(again.path, url->path) == 0 && again.https == url->https);
}

static void check_upstreams(struct str s)
{
    struct image_upstreams u;
    char name[IMAGE_NAME_MAX + 1];
    if (image_upstreams_parse(s, &u, NULL) < 0) {
        return;
    }
    INSIST(u.n <= IMAGE_UPSTREAMS_MAX);
    const struct image_upstream *one = image_upstreams_find(&u, "hub/lib/x");
    for (size_t i = 0; one != NULL && i < one->mirrors_len; i++) {
        check_url(&one->mirrors[i]);
        if (image_upstream_name(one, i, "hub/lib/x", name) == 0) {
            INSIST(image_name_ok(str_of(name)));
        }
    }
    image_upstreams_release(&u);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char secret[2][IMAGE_SECRET_MAX];
    static const struct image_url base = { .host = "h", .port = 1, .path = "/" };
    struct str s = { (const char *)data, size };
    struct image_url url;
    struct image_challenge c;
    if (image_url_parse(s, &url, NULL) == 0) {
        check_url(&url);
    }
    if (image_url_follow(&base, s, &url, NULL) == 0) {
        check_url(&url);
    }
    image_challenge_parse(s, &c);
    if (c.scheme == IMAGE_AUTH_BEARER && image_token_url(&c, "a/b", "u", &url, NULL) == 0) {
        check_url(&url);
    }
    if (image_token_parse(s, secret[0], NULL) == 0) {
        INSIST(secret[0][0] != '\0' && strpbrk(secret[0], " \r\n") == NULL);
    }
    (void)image_credentials_find(s, "reg", 5000, secret[0], secret[1], NULL);
    check_upstreams(s);
    return 0;
}
