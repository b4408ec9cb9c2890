/*
 * uv_registry - the registry that every node serves: OCI distribution-spec 1.1 under /v2, on the
 * HTTP server and the image store.
 *
 * Uploads stream to disk while they are hashed in the thread pool; what waits in memory is bounded
 * per upload. Nothing appears under its digest before the digest was verified.
 */
#ifndef AGENT_IMAGE_UV_REGISTRY_H
#define AGENT_IMAGE_UV_REGISTRY_H

#include "agent/image/image_store.h"
#include "common/err.h"
#include "common/loop/http_server.h"

struct loop;
struct image_registry;
struct image_puller;

/* Keeps its upload sessions; the store must outlive it. -ENOMEM. */
int image_registry_new(struct loop *l, struct image_store *store, struct image_registry **ret,
                       struct err *e);
/* From now on a manifest that is asked for and not here is pulled first, when it has an upstream;
 * then it is served. NULL: no more. The puller must outlive the registry. */
void image_registry_proxy(struct image_registry *r, struct image_puller *puller);
/* Answers a request whose path is /v2 or begins with /v2/. Who may ask was decided before. Takes
 * the request over: it is answered in every case. */
void image_registry_handle(struct image_registry *r, struct http_req *req);
/* An answer in the registry's error format, for callers that refuse a /v2 request themselves (401:
 * "UNAUTHORIZED", 429: "TOOMANYREQUESTS"); add headers before. */
void image_registry_error(struct http_req *req, int status, const char *code, const char *message);
/* Open sessions are dropped, running work is waited for; on_closed fires from the loop. Close the
 * HTTP server first. */
void image_registry_close(struct image_registry *r, void (*on_closed)(void *arg), void *arg);

#endif
