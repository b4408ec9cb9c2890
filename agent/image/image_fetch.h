/*
 * image_fetch - brings images here from other registries: other nodes of the cluster, or upstreams.
 *
 * A fetch names a repository and a digest (or a tag) and the sources that may have it, the best
 * first. It ends when the manifest, the config and all layers for this node's platform are in the
 * store under that repository (of an index: the index too, and the one manifest that is chosen), or
 * when no source is left to ask. Only blobs that are missing are transferred; each is hashed while
 * it streams to disk and appears under its digest only when that is right. A transfer that breaks
 * off goes on by Range, at the same or at another source; one that turns out wrong starts again at
 * a source that had no part in it. Blobs of one image are spread over the sources; a blob that two
 * fetches need at a time is transferred once.
 *
 * Bounded: fetches, blobs in transfer, connections (http_client's), memory (two buffers a blob),
 * the size of an image and of a blob, redirects, attempts without progress, time without progress.
 * All calls are for the loop's thread; no callback fires inside the call that registered it.
 */
#ifndef AGENT_IMAGE_IMAGE_FETCH_H
#define AGENT_IMAGE_IMAGE_FETCH_H

#include <stddef.h>
#include <stdint.h>

#include "agent/image/image_store.h"
#include "common/err.h"
#include "common/loop/http_client.h"

struct loop;
struct image_fetcher;
struct image_fetch;

struct image_fetcher_options {
    unsigned fetches_max;     /* at a time; more: -EAGAIN. 0: 256 */
    unsigned blobs_max;       /* in transfer at a time, of all fetches; 0: 6 */
    unsigned attempts_max;    /* at one blob or manifest without a byte of progress; 0: 6 */
    uint64_t image_bytes_max; /* config and layers of one image; 0: 64 GiB */
};

/* The client and the store must outlive it. opt may be NULL; zero members mean the defaults. */
int image_fetcher_new(struct loop *l, struct image_store *store, struct http_client *client,
                      const struct image_fetcher_options *opt, struct image_fetcher **ret,
                      struct err *e);
/* Fetches that are left end with -ECANCELED; on_closed fires from the loop. */
void image_fetcher_close(struct image_fetcher *f, void (*on_closed)(void *arg), void *arg);

struct image_header {
    const char *name, *value;
};

enum { IMAGE_SOURCES_MAX = 16, IMAGE_SOURCE_HEADERS_MAX = 8 };

/* A registry to ask. Everything is copied; target.tls is referenced until the fetch has ended. */
struct image_source {
    struct http_target target;
    const char *repository;             /* its name there; NULL: the same as here */
    const struct image_header *headers; /* sent with every request to it */
    size_t headers_len;                 /* at most IMAGE_SOURCE_HEADERS_MAX */
    /* Whom to be when it asks: by Basic, or for a Bearer token. NULL: nobody. */
    const char *user, *password;
};

struct image_fetch_request {
    const char *repository; /* under which it is to be here */
    struct digest digest;   /* of a manifest or an index; DIGEST_NONE: ask for the tag */
    const char *tag;        /* NULL, or what will point to it here when all of it has come */
    const struct image_source *sources;
    size_t sources_len;   /* 1 … IMAGE_SOURCES_MAX */
    uint64_t deadline_ms; /* from now; 0: none */
};

struct image_fetched {
    struct digest digest; /* what was asked for, or what the tag pointed to */
    uint64_t bytes;       /* transferred for this fetch */
    unsigned blobs;       /* transferred; those that were here do not count */
};

/* rc 0: the image is here. Else -Exxx and `why`, a sentence: -ENOENT: no source has it; -EBADMSG:
 * what the sources have is not what the digest says; -EINVAL, -ENOTSUP: not an image for this node;
 * -EACCES: refused; -ENOSPC, -EFBIG: it does not fit; -ETIMEDOUT; -ECANCELED; or why the last
 * source could not be asked. *got counts what was transferred in either case. Valid during the
 * call. */
typedef void image_fetch_fn(void *arg, int rc, const struct image_fetched *got, const char *why);

/* 0: fn will be called, once. Else it will not: -EINVAL (a name, no source), -EAGAIN, -ENOMEM,
 * -ESHUTDOWN. ret may be NULL; *ret is valid until fn was called. */
int image_fetch_start(struct image_fetcher *f, const struct image_fetch_request *req,
                      image_fetch_fn *fn, void *arg, struct image_fetch **ret, struct err *e);
/* fn is not called any more. What was transferred of a blob is thrown away, whole blobs stay for
 * the store's grace time. NULL is fine. */
void image_fetch_cancel(struct image_fetch *fetch);

struct image_fetcher_stats {
    uint64_t started_total, failed_total;
    uint64_t blobs_total, bytes_total, resumed_total, wrong_total;
    unsigned fetches, blobs; /* now */
};
const struct image_fetcher_stats *image_fetcher_stats(const struct image_fetcher *f);

#endif
