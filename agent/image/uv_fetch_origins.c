/*
 * The sources of a fetch, copied: they outlive the call that named them, and are shared by the
 * fetch and its blobs.
 */
#include <errno.h>
#include <string.h>

#include "agent/image/fetch_internal.h"
#include "common/loop/tls.h"
#include "common/mem.h"

/* What goes into a request's head. */
static bool plain(const char *s)
{
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        if (c < ' ' || c == 0x7f) {
            return false;
        }
    }
    return true;
}

static int copy(const char *s, char **ret)
{
    *ret = s == NULL ? NULL : mem_strdup(s);
    return s != NULL && *ret == NULL ? -ENOMEM : 0;
}

static int copy_headers(const struct image_source *s, struct image_origin *o)
{
    if (s->headers_len > IMAGE_SOURCE_HEADERS_MAX) {
        return -EINVAL;
    }
    for (size_t i = 0; i < s->headers_len; i++) {
        if (!plain(s->headers[i].name) || !plain(s->headers[i].value)) {
            return -EINVAL;
        }
        o->headers_len = i + 1;
        if (copy(s->headers[i].name, &o->headers[i].name) < 0 ||
            copy(s->headers[i].value, &o->headers[i].value) < 0) {
            return -ENOMEM;
        }
    }
    return 0;
}

static int copy_source(const struct image_source *s, const char *repository, struct image_origin *o)
{
    repository = s->repository != NULL ? s->repository : repository;
    if (!image_name_ok(str_of(repository)) || s->target.host == NULL || s->target.port == 0 ||
        (s->user != NULL && s->password == NULL)) {
        return -EINVAL;
    }
    if (copy(s->target.host, &o->host) < 0 || copy(s->target.tls_name, &o->tls_name) < 0 ||
        copy(repository, &o->repository) < 0 || copy(s->user, &o->user) < 0 ||
        copy(s->user != NULL ? s->password : NULL, &o->password) < 0) {
        return -ENOMEM;
    }
    o->target = s->target;
    (void)tls_context_ref(o->target.tls);
    o->target.host = o->host;
    o->target.tls_name = o->tls_name;
    return copy_headers(s, o);
}

int image_origins_new(const struct image_fetch_request *req, struct image_origins **ret)
{
    struct image_origins *o = mem_zalloc(sizeof(*o));
    int r = o == NULL ? -ENOMEM : 0;
    if (o != NULL) {
        o->refs = 1;
    }
    for (size_t i = 0; r == 0 && i < req->sources_len; i++) {
        o->n = i + 1;
        r = copy_source(&req->sources[i], req->repository, &o->v[i]);
    }
    if (r < 0) {
        image_origins_unref(o);
        return r;
    }
    *ret = o;
    return 0;
}

struct image_origins *image_origins_ref(struct image_origins *o)
{
    o->refs++;
    return o;
}

/* Secrets do not stay in freed memory. */
static void free_secret(char *s)
{
    if (s != NULL) {
        mem_wipe(s, strlen(s));
        mem_free(s);
    }
}

struct image_origins *image_origins_unref(struct image_origins *o)
{
    if (o == NULL || --o->refs > 0) {
        return NULL;
    }
    for (size_t i = 0; i < o->n; i++) {
        struct image_origin *v = &o->v[i];
        for (size_t k = 0; k < v->headers_len; k++) {
            mem_free(v->headers[k].name);
            free_secret(v->headers[k].value);
        }
        v->target.tls = tls_context_unref(v->target.tls);
        mem_free(v->host);
        mem_free(v->tls_name);
        mem_free(v->repository);
        mem_free(v->user);
        free_secret(v->password);
        free_secret(v->token);
    }
    mem_free(o);
    return NULL;
}
