/*
 * fetch_internal - what the files of image_fetch.h share.
 *
 *   uv_fetch.c          a fetch: its documents, what it still needs, its end
 *   uv_fetch_blob.c     a blob on its way from sources to the store; shared by fetches
 *   uv_fetch_ask.c      one question to one source, with its tokens and redirects
 *   uv_fetch_origins.c  sources, copied
 *   sys_fetch.c         what a fetch asks of the store, on pool threads
 */
#ifndef AGENT_IMAGE_FETCH_INTERNAL_H
#define AGENT_IMAGE_FETCH_INTERNAL_H

#include "agent/image/image_fetch.h"
#include "agent/image/origin.h"
#include "agent/image/store_internal.h"
#include "common/list.h"
#include "common/loop/loop.h"
#include "common/map.h"

enum {
    IMAGE_FETCH_BLOBS_MAX = IMAGE_LAYERS_MAX + 1, /* of one image: layers and the config */
    IMAGE_FETCH_BACKOFF_MS = 100,                 /* doubled at every attempt without progress */
    IMAGE_FETCH_BACKOFF_MAX_MS = 5000,
    IMAGE_FETCH_RETRY_AFTER_MAX_S = 30,
};

/* ---- sources: copied, counted, shared by a fetch and its blobs ---- */

struct image_origin {
    struct http_target target; /* its strings are the origin's own */
    char *host, *tls_name, *repository, *user, *password;
    struct {
        char *name, *value;
    } headers[IMAGE_SOURCE_HEADERS_MAX];
    size_t headers_len;
    enum image_auth auth; /* what it asked for last */
    char *token;
};

struct image_origins {
    unsigned refs;
    size_t n;
    struct image_origin v[IMAGE_SOURCES_MAX];
};

int image_origins_new(const struct image_fetch_request *req, struct image_origins **ret);
struct image_origins *image_origins_ref(struct image_origins *o);
struct image_origins *image_origins_unref(struct image_origins *o); /* returns NULL */

/* ---- the fetcher ---- */

struct image_fetcher {
    struct loop_owner owner;
    struct image_store *store;
    struct http_client *client;
    struct image_fetcher_options opt;
    struct image_fetcher_stats stats;
    struct list fetches;    /* struct image_fetch */
    struct map blobs;       /* digest and size → struct image_fetch_blob */
    struct list waiting;    /* blobs that wait for a place */
    struct loop_defer kick; /* gives places */
    unsigned active;        /* blobs that have one */
    bool closing;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

/* ---- uv_fetch_ask.c ---- */

struct image_ask;

struct image_ask_events {
    /* A 2xx answer's head: 0 to take its body, or -Exxx to be done with it. May be NULL. */
    int (*on_head)(void *arg, const struct http1_head *head);
    void (*on_data)(void *arg, struct str data);
    /* rc: 0, on_head's refusal, what became of the connection, or by the answer's status: -ENOENT
     * (404), -EACCES (401, 403), -ERANGE (416), -EAGAIN (429 and 5xx: later perhaps), -EOPNOTSUPP.
     * wait_ms: how long the source asks to be left alone; 0: it did not say. The ask is gone. */
    void (*on_done)(void *arg, int rc, const char *why, uint64_t wait_ms);
    void *arg;
};

/* GET target of origin i. from: where to begin (Range), 0: the whole. accept may be NULL. NULL: no
 * memory. Events come from the loop. */
struct image_ask *image_ask_start(struct image_fetcher *f, struct image_origins *origins, size_t i,
                                  const char *target, const char *accept, uint64_t from,
                                  uint64_t body_max, const struct image_ask_events *ev);
void image_ask_pause(struct image_ask *a);
void image_ask_resume(struct image_ask *a);
/* No event comes any more. NULL is fine; returns NULL. */
struct image_ask *image_ask_cancel(struct image_ask *a);

/* ---- uv_fetch_blob.c ---- */

struct image_fetch_blob;

/* Somebody who waits for a blob; lives in a fetch. */
struct image_fetch_want {
    struct list link;
    struct image_fetch_blob *blob; /* NULL: not waiting (any more) */
    bool joined;                   /* the transfer was somebody else's: with his sources */
    void (*done)(struct image_fetch_want *w, int rc, uint64_t bytes, const char *why);
};

/* Joins the transfer of the blob, or begins it: with the source `first`, in `repository`. done
 * comes from the loop. 0 or -ENOMEM. */
int image_fetch_blob_want(struct image_fetcher *f, struct image_fetch_want *w,
                          const struct image_descriptor *d, const char *repository,
                          struct image_origins *origins, size_t first);
/* Wants it no more; the last one ends the transfer. */
void image_fetch_blob_leave(struct image_fetch_want *w);

/* ---- sys_fetch.c: on pool threads ---- */

/* A document that is to be stored. */
struct image_fetch_doc {
    struct digest digest;
    char media_type[IMAGE_MEDIA_TYPE_MAX + 1];
    struct buf text;
    struct image_manifest m;
    bool parsed;
};

/* The document from the store, if it is here: 0, -ENOENT. */
int image_fetch_load(struct image_store *s, struct image_fetch_doc *doc, struct err *e);
/* Links what is here already into the repository; here[i] says of each. */
int image_fetch_look(struct image_store *s, const char *repository, const struct image_manifest *m,
                     bool *here, struct err *e);
/* Stores the documents, the innermost (last) first; the first gets the tag (NULL: none). */
int image_fetch_put(struct image_store *s, const char *repository, struct image_fetch_doc *docs,
                    size_t docs_len, const char *tag, struct err *e);

/* uv_fetch_blob.c: gives places to blobs that wait. */
void image_fetch_blob_kick(struct loop_defer *d);

#endif
