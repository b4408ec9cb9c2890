/*
 * origin - what it takes to speak to a foreign registry, as values: URLs, challenges, tokens,
 * Docker's credentials file, the list of upstreams. Pure; everything is bounded. For uv_fetch*.c,
 * uv_pull.c and tests.
 */
#ifndef AGENT_IMAGE_ORIGIN_H
#define AGENT_IMAGE_ORIGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/image/image.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

enum {
    IMAGE_HOST_MAX = 253,
    IMAGE_URL_PATH_MAX = 4096,
    IMAGE_SECRET_MAX = 8192, /* a user name, a password, a token */
};

struct image_url {
    bool https;
    char host[IMAGE_HOST_MAX + 1]; /* IPv6 without its brackets */
    uint16_t port;                 /* 443 or 80 when none is given */
    char path[IMAGE_URL_PATH_MAX]; /* with the query; begins with "/" */
};

/* http://… or https://…, without user and fragment. -EINVAL. */
int image_url_parse(struct str s, struct image_url *ret, struct err *e);
/* A Location, absolute or beginning with "/", seen from `base`. ret may be base. -EINVAL. */
int image_url_follow(const struct image_url *base, struct str location, struct image_url *ret,
                     struct err *e);
/* Appends s with all but unreserved characters as %XX. */
void image_url_escape(struct buf *out, struct str s);

enum image_auth { IMAGE_AUTH_NONE, IMAGE_AUTH_BASIC, IMAGE_AUTH_BEARER };

struct image_challenge {
    enum image_auth scheme;
    char realm[1024]; /* BEARER: the URL that gives tokens */
    char service[256];
    char scope[512];
};

/* A WWW-Authenticate header's value: the first challenge that we know; NONE when there is none. */
void image_challenge_parse(struct str value, struct image_challenge *ret);
/* "/path?service=…&scope=…[&account=…]" to ask the challenge's realm for leave to pull; scope is
 * repository:NAME:pull unless the challenge has one. *ret_url: whom to ask. -EINVAL: its realm is
 * no URL. */
int image_token_url(const struct image_challenge *c, const char *repository, const char *user,
                    struct image_url *ret_url, struct err *e);
/* The token of such an answer ({"token"} or {"access_token"}). -EINVAL. */
int image_token_parse(struct str text, char dst[IMAGE_SECRET_MAX], struct err *e);
/* Appends "Basic …". */
void image_basic_header(struct buf *out, const char *user, const char *password);

/* ---- Docker's config.json: {"auths": {"host:port": {"auth": base64 of user:password}}} ---- */

/* For host and port (named with or without port, scheme and path, as docker login writes them).
 * 0; -ENOENT: none for it; -EINVAL. "identitytoken" and helpers that need programs are not for us:
 * -ENOTSUP. */
int image_credentials_find(struct str text, const char *host, uint16_t port,
                           char ret_user[IMAGE_SECRET_MAX], char ret_password[IMAGE_SECRET_MAX],
                           struct err *e);

/* ---- registry.upstreams: "hub=https://registry.example, *=http://mirror:5000/cache|https://…"
 * ----
 *
 * A repository that begins with "hub/" is the rest of its name there; "*" is every repository. A
 * URL's path goes before the name. Several URLs (mirrors) are asked in turn. The first entry that
 * fits counts. */

enum { IMAGE_UPSTREAMS_MAX = 32, IMAGE_MIRRORS_MAX = 4 };

struct image_upstream {
    char prefix[IMAGE_NAME_MAX + 1]; /* "" for "*" */
    struct image_url mirrors[IMAGE_MIRRORS_MAX];
    size_t mirrors_len;
};
struct image_upstreams {
    struct image_upstream *v;
    size_t n;
};
/* -EINVAL, -E2BIG, -ENOMEM. */
int image_upstreams_parse(struct str text, struct image_upstreams *ret, struct err *e);
void image_upstreams_release(struct image_upstreams *u);
/* The upstream of a repository, or NULL; dst: its name at mirror i. */
const struct image_upstream *image_upstreams_find(const struct image_upstreams *u,
                                                  const char *repository);
/* -ENAMETOOLONG or -EINVAL: no repository's name there. */
int image_upstream_name(const struct image_upstream *u, size_t mirror, const char *repository,
                        char dst[IMAGE_NAME_MAX + 1]);

#endif
