/*
 * URLs, challenges, tokens, credentials. Everything here comes from a foreign registry or from a
 * person: bounded, and refused when in doubt.
 */
#include "agent/image/origin.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/base64.h"
#include "common/insist.h"
#include "common/json.h"
#include "common/mem.h"

/* ---- URLs --------------------------------------------------------------------------------------
 */

static bool plain_text(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c <= ' ' || c >= 0x7f) {
            return false;
        }
    }
    return true;
}

static bool host_ok(struct str s, bool v6)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        bool name = hex || (c >= 'g' && c <= 'z') || (c >= 'G' && c <= 'Z') || c == '-' || c == '_';
        if (c != '.' && !(v6 ? hex || c == ':' : name)) {
            return false;
        }
    }
    return s.n > 0;
}

/* host, host:port, [v6], [v6]:port */
static int take_authority(struct str s, struct image_url *url)
{
    struct str host = s;
    struct str port = STR("");
    bool v6 = s.n > 0 && s.p[0] == '[';
    if (v6) {
        ptrdiff_t end = str_find(s, ']');
        if (end < 0) {
            return -EINVAL;
        }
        host = str_slice(s, 1, (size_t)end - 1);
        port = str_slice(s, (size_t)end + 1, s.n);
        if (port.n > 0 && port.p[0] != ':') {
            return -EINVAL;
        }
        port = str_slice(port, 1, port.n);
    } else {
        ptrdiff_t colon = str_rfind(s, ':');
        if (colon >= 0) {
            host = str_slice(s, 0, (size_t)colon);
            port = str_slice(s, (size_t)colon + 1, s.n);
        }
    }
    uint64_t number = url->https ? 443 : 80;
    if (!host_ok(host, v6) || str_copy(url->host, sizeof(url->host), host) < 0 ||
        (port.n > 0 && str_u64_in(port, 1, 65535, &number) < 0)) {
        return -EINVAL;
    }
    url->port = (uint16_t)number;
    return 0;
}

int image_url_parse(struct str s, struct image_url *ret, struct err *e)
{
    struct image_url url = { .https = str_starts(s, "https://") };
    if (!url.https && !str_starts(s, "http://")) {
        return err_say(e, -EINVAL, "'%.*s' is not an http or https URL",
                       STR_ARG(str_slice(s, 0, 80)));
    }
    struct str rest = str_slice(s, url.https ? 8 : 7, s.n);
    size_t n = 0;
    while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?') {
        n++;
    }
    struct str path = str_slice(rest, n, rest.n);
    bool slash = path.n > 0 && path.p[0] == '/';
    url.path[0] = '/';
    if (!plain_text(rest) || str_find(rest, '#') >= 0 ||
        take_authority(str_slice(rest, 0, n), &url) < 0 ||
        str_copy(url.path + (slash ? 0 : 1), sizeof(url.path) - (slash ? 0 : 1), path) < 0) {
        return err_say(e, -EINVAL, "'%.*s' is not a URL that can be asked",
                       STR_ARG(str_slice(s, 0, 80)));
    }
    *ret = url;
    return 0;
}

int image_url_follow(const struct image_url *base, struct str location, struct image_url *ret,
                     struct err *e)
{
    struct image_url url = *base;
    if (location.n == 0 || location.p[0] != '/' || str_starts(location, "//")) {
        return image_url_parse(location, ret, e);
    }
    if (!plain_text(location) || str_find(location, '#') >= 0 ||
        str_copy(url.path, sizeof(url.path), location) < 0) {
        return err_say(e, -EINVAL, "a Location that can not be followed");
    }
    *ret = url;
    return 0;
}

void image_url_escape(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '-' || c == '.' || c == '_' || c == '~';
        if (plain) {
            buf_addc(out, (char)c);
        } else {
            buf_addf(out, "%%%02X", c);
        }
    }
}

/* ---- challenges and tokens ---------------------------------------------------------------------
 */

static void skip(struct str *s, const char *what)
{
    while (s->n > 0 && strchr(what, s->p[0]) != NULL && s->p[0] != '\0') {
        *s = str_slice(*s, 1, s->n);
    }
}

static struct str take_word(struct str *s)
{
    size_t n = 0;
    while (n < s->n && s->p[n] != '\0' && strchr(" \t,=\"", s->p[n]) == NULL) {
        n++;
    }
    struct str word = str_slice(*s, 0, n);
    *s = str_slice(*s, n, s->n);
    return word;
}

/* A token or a quoted string, without its escapes, into dst. False: it does not fit or is broken.
 */
static bool take_value(struct str *s, char *dst, size_t cap)
{
    size_t out = 0;
    if (s->n == 0 || s->p[0] != '"') {
        return str_copy(dst, cap, take_word(s)) == 0;
    }
    size_t i = 1;
    for (; i < s->n && s->p[i] != '"'; i++) {
        if (s->p[i] == '\\' && i + 1 < s->n) {
            i++;
        }
        if (out + 1 >= cap || s->p[i] == '\0') {
            return false;
        }
        dst[out++] = s->p[i];
    }
    dst[out] = '\0';
    bool ended = i < s->n;
    *s = str_slice(*s, i + 1, s->n);
    return ended;
}

/* The parameters of one challenge. False: broken. */
static bool take_parameters(struct str *s, struct image_challenge *c)
{
    for (;;) {
        skip(s, " \t,");
        struct str before = *s;
        struct str key = take_word(s);
        skip(s, " \t");
        if (key.n == 0 || s->n == 0 || s->p[0] != '=') {
            *s = before; /* the next scheme, or the end */
            return true;
        }
        *s = str_slice(*s, 1, s->n);
        skip(s, " \t");
        char other[1024];
        bool realm = str_ieqs(key, "realm");
        bool service = str_ieqs(key, "service");
        bool scope = str_ieqs(key, "scope");
        char *dst = realm ? c->realm : service ? c->service : scope ? c->scope : other;
        size_t cap = realm     ? sizeof(c->realm)
                     : service ? sizeof(c->service)
                     : scope   ? sizeof(c->scope)
                               : sizeof(other);
        if (!take_value(s, dst, cap)) {
            return false;
        }
    }
}

void image_challenge_parse(struct str value, struct image_challenge *ret)
{
    memset(ret, 0, sizeof(*ret));
    while (value.n > 0) {
        struct image_challenge c = { 0 };
        skip(&value, " \t,");
        struct str scheme = take_word(&value);
        if (scheme.n == 0 || !take_parameters(&value, &c)) {
            return;
        }
        c.scheme = str_ieqs(scheme, "Bearer")  ? IMAGE_AUTH_BEARER
                   : str_ieqs(scheme, "Basic") ? IMAGE_AUTH_BASIC
                                               : IMAGE_AUTH_NONE;
        if (c.scheme != IMAGE_AUTH_NONE) {
            *ret = c;
            return;
        }
    }
}

static void add_parameter(struct buf *out, const char *name, struct str value)
{
    buf_addf(out, "%c%s=", str_find(buf_str(out), '?') >= 0 ? '&' : '?', name);
    image_url_escape(out, value);
}

int image_token_url(const struct image_challenge *c, const char *repository, const char *user,
                    struct image_url *ret_url, struct err *e)
{
    AUTO_BUF struct buf path = BUF_INIT(IMAGE_URL_PATH_MAX - 1);
    char scope[IMAGE_NAME_MAX + 32];
    struct image_url url;
    int r = image_url_parse(str_of(c->realm), &url, e);
    if (r < 0) {
        return r;
    }
    snprintf(scope, sizeof(scope), "repository:%s:pull", repository);
    buf_adds(&path, url.path);
    if (user != NULL) {
        add_parameter(&path, "account", str_of(user));
    }
    if (c->service[0] != '\0') {
        add_parameter(&path, "service", str_of(c->service));
    }
    add_parameter(&path, "scope", str_of(c->scope[0] != '\0' ? c->scope : scope));
    if (buf_error(&path) < 0) {
        return err_say(e, buf_error(&path) == -ENOMEM ? -ENOMEM : -EINVAL,
                       "the URL that gives tokens is too long");
    }
    r = str_copy(url.path, sizeof(url.path), buf_str(&path));
    INSIST(r == 0);
    *ret_url = url;
    return 0;
}

int image_token_parse(struct str text, char dst[IMAGE_SECRET_MAX], struct err *e)
{
    struct json_doc AUTO_JSON *doc = NULL;
    struct str token = STR("");
    int r = json_parse(text.p, text.n, NULL, &doc, e);
    if (r < 0) {
        return r == -ENOMEM ? r : -EINVAL;
    }
    if (!json_str(json_get(json_root(doc), "token"), &token) &&
        !json_str(json_get(json_root(doc), "access_token"), &token)) {
        return err_say(e, -EINVAL, "the answer holds no token");
    }
    if (token.n == 0 || !plain_text(token) || str_copy(dst, IMAGE_SECRET_MAX, token) < 0) {
        return err_say(e, -EINVAL, "the token can not be used");
    }
    return 0;
}

void image_basic_header(struct buf *out, const char *user, const char *password)
{
    AUTO_BUF struct buf both = BUF_INIT(2 * (size_t)IMAGE_SECRET_MAX);
    buf_addf(&both, "%s:%s", user, password);
    buf_adds(out, "Basic ");
    (void)base64_encode(out, buf_cstr(&both), both.len);
}

/* ---- Docker's credentials ----------------------------------------------------------------------
 */

/* "https://host:port/v1/" and "host:port" to "host:port". */
static struct str bare_host(struct str key)
{
    key = str_starts(key, "https://")  ? str_slice(key, 8, key.n)
          : str_starts(key, "http://") ? str_slice(key, 7, key.n)
                                       : key;
    ptrdiff_t slash = str_find(key, '/');
    return slash < 0 ? key : str_slice(key, 0, (size_t)slash);
}

static const struct json *find_entry(const struct json *auths, const char *host, uint16_t port)
{
    char with_port[IMAGE_HOST_MAX + 16];
    bool v6 = strchr(host, ':') != NULL;
    bool usual = port == 443 || port == 80;
    snprintf(with_port, sizeof(with_port), v6 ? "[%s]:%u" : "%s:%u", host, port);
    const struct json *found = NULL;
    JSON_EACH (entry, auths) {
        struct str name = bare_host(entry->key);
        if (str_ieqs(name, with_port)) {
            return entry;
        }
        if (usual && str_ieqs(name, host)) {
            found = entry;
        }
    }
    return found;
}

static int take_login(const struct json *entry, char *user, char *password, struct err *e)
{
    char AUTO_MEM *both = NULL;
    size_t n = 0;
    struct str text;
    struct str name;
    struct str secret;
    if (json_str(json_get(entry, "identitytoken"), &text) && text.n > 0) {
        return err_say(e, -ENOTSUP, "identity tokens are not supported");
    }
    if (json_str(json_get(entry, "auth"), &text) && text.n > 0) {
        int r = base64_decode(text, &both, &n);
        if (r < 0) {
            return r == -ENOMEM ? r : err_say(e, -EINVAL, "'auth' is not base 64");
        }
        struct str pair = { both, n };
        ptrdiff_t colon = str_find(pair, ':');
        if (colon < 0) {
            return err_say(e, -EINVAL, "'auth' holds no user:password");
        }
        name = str_slice(pair, 0, (size_t)colon);
        secret = str_slice(pair, (size_t)colon + 1, pair.n);
    } else if (!json_str(json_get(entry, "username"), &name) ||
               !json_str(json_get(entry, "password"), &secret)) {
        return err_say(e, -ENOTSUP, "it holds no password");
    }
    if (str_copy(user, IMAGE_SECRET_MAX, name) < 0 ||
        str_copy(password, IMAGE_SECRET_MAX, secret) < 0) {
        return err_say(e, -EINVAL, "its user or password is too long");
    }
    return 0;
}

int image_credentials_find(struct str text, const char *host, uint16_t port,
                           char ret_user[IMAGE_SECRET_MAX], char ret_password[IMAGE_SECRET_MAX],
                           struct err *e)
{
    struct json_doc AUTO_JSON *doc = NULL;
    int r = json_parse(text.p, text.n, NULL, &doc, e);
    if (r < 0) {
        return r == -ENOMEM ? r : -EINVAL;
    }
    const struct json *auths = json_get(json_root(doc), "auths");
    if (json_root(doc)->type != JSON_OBJECT || (auths != NULL && auths->type != JSON_OBJECT)) {
        return err_say(e, -EINVAL, "it has no object 'auths'");
    }
    const struct json *entry = auths == NULL ? NULL : find_entry(auths, host, port);
    if (entry == NULL) {
        return -ENOENT;
    }
    r = take_login(entry, ret_user, ret_password, e);
    if (r < 0) {
        err_prefix(e, "auths of '%s'", host);
    }
    return r;
}
