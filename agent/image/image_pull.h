/*
 * image_pull - images from upstream registries (registry.upstreams), through image_fetch.
 *
 * Which repository is to be had where, with which credentials (a file in the format of Docker's
 * config.json) and which authorities for TLS: all of it is configuration. An image comes by tag or
 * by digest, from the mirrors in turn; it is here under the name that was asked for. Pulls of one
 * name at a time are one pull. For the loop's thread.
 */
#ifndef AGENT_IMAGE_IMAGE_PULL_H
#define AGENT_IMAGE_IMAGE_PULL_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/image/image_fetch.h"

struct image_puller;
struct image_pull;

struct image_puller_options {
    const char *upstreams;        /* as origin.h reads it; "" or NULL: none */
    const char *credentials_file; /* "" or NULL: nobody's */
    const char *ca_file;          /* PEM, for https; "" or NULL: the system's, where there is one */
    const char *user_agent;
    uint64_t deadline_ms; /* of one pull; 0: none */
};

/* Reads the files (blocks briefly). -EINVAL with a sentence that names what is wrong, -ENOMEM,
 * -Exxx of reading. The store must outlive it. */
int image_puller_new(struct loop *l, struct image_store *store,
                     const struct image_puller_options *opt, struct image_puller **ret,
                     struct err *e);
/* Reads it all again; on failure everything stays as it was. Pulls under way are not touched. */
int image_puller_reload(struct image_puller *p, const struct image_puller_options *opt,
                        struct err *e);
/* Pulls that are left end with -ECANCELED; on_closed fires from the loop. */
void image_puller_close(struct image_puller *p, void (*on_closed)(void *arg), void *arg);

/* Is there an upstream for this repository? NULL is fine: no. */
bool image_puller_knows(const struct image_puller *p, const char *repository);
/* Pulls the reference (a digest wins over its tag; the tag then points to it). 0: fn comes once,
 * from the loop; -ENOENT: no upstream for it; -EINVAL, -EAGAIN, -ENOMEM, -ESHUTDOWN. */
int image_pull_start(struct image_puller *p, const struct image_ref *ref, image_fetch_fn *fn,
                     void *arg, struct image_pull **ret, struct err *e);
/* fn is not called any more. The pull ends when nobody waits for it. NULL is fine. */
void image_pull_cancel(struct image_pull *pull);
const struct image_fetcher_stats *image_puller_stats(const struct image_puller *p);

#endif
