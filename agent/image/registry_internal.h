/*
 * registry_internal - what the registry's files share: uv_registry.c (routes, answers, everything
 * that is one question to the store) and uv_registry_upload.c (sessions).
 */
#ifndef AGENT_IMAGE_REGISTRY_INTERNAL_H
#define AGENT_IMAGE_REGISTRY_INTERNAL_H

#include "agent/image/image_pull.h"
#include "agent/image/store_internal.h"
#include "agent/image/uv_registry.h"
#include "common/loop/loop.h"

enum { IMAGE_TAGS_PER_PUT = 32 };

struct image_registry {
    struct loop_owner owner;
    struct loop_timer expiry;
    struct image_store *store;
    struct map sessions; /* id → struct image_upload */
    struct list uploads; /* struct image_upload, all of them */
    unsigned uploads_len;
    unsigned opening;            /* sessions on their way into the map */
    struct image_puller *puller; /* NULL: nothing is pulled for those who ask */
    struct list pulling;         /* operations that wait for it */
    bool closing;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

/* One question to the store: run() on a pool thread, answer() on the loop when the client is still
 * there.
 */
struct image_reg_op {
    struct loop_work work;
    struct image_registry *registry;
    struct http_req *req; /* NULL: the client went away */
    struct image_route route;
    bool head;
    void (*run)(struct image_reg_op *op);
    void (*answer)(struct image_reg_op *op);
    int status;
    struct err error;
    bool no_repo;
    struct list link; /* in registry->pulling */
    struct image_pull *pull;
    bool pulled; /* once is enough */

    char last[IMAGE_NAME_MAX + 1]; /* paging: after this one */
    char type[IMAGE_MEDIA_TYPE_MAX + 1];
    char from[IMAGE_NAME_MAX + 1]; /* mount */
    uint64_t n;
    uint64_t length; /* POST of an upload: what is coming */
    enum digest_algo algo;
    struct digest want; /* POST ?digest= */
    bool mount;
    char tags[IMAGE_TAGS_PER_PUT][IMAGE_TAG_MAX + 1];
    size_t tags_len;

    struct buf body; /* a manifest that comes, a list that goes */
    struct image_manifest_info info;
    struct digest subject;
    bool has_subject;
    char next[IMAGE_NAME_MAX + 1]; /* paging: there is more after this one */
    char upload[IMAGE_UPLOAD_NAME_CAP];
    int fd;
    uint64_t size;
};

/* Takes the request; NULL: it was answered (no memory). */
struct image_reg_op *image_reg_op_new(struct image_registry *r, struct http_req *req,
                                      const struct image_route *route);
/* Runs it; answers, and frees it, in every case. False: at once, without running it. */
bool image_reg_op_start(struct image_reg_op *op);
void image_reg_op_free(struct image_reg_op *op);
/* The error that the store gave, as a status and code; no_repo and kind decide between the
 * unknowns. */
void image_reg_answer_error(struct http_req *req, const struct image_route *route, int error,
                            bool no_repo, const char *text);
/* What is nobody's mistake in particular: too large (413), no room (507), or our own fault (500).
 */
void image_reg_answer_failure(struct http_req *req, int error, const char *text);
void image_reg_headers(struct http_req *req);
/* The decoded query parameter; "" when it is not there. False: malformed, and the request was
 * answered. */
bool image_reg_query(struct http_req *req, const char *name, char *dst, size_t cap);
void image_reg_created_blob(struct http_req *req, const char *repo, const struct digest *d);

/* ---- uv_registry_upload.c ---------------------------------------------------- */

void image_reg_post_upload(struct image_registry *r, struct http_req *req,
                           const struct image_route *route);
void image_reg_session(struct image_registry *r, struct http_req *req,
                       const struct image_route *route);
void image_reg_uploads_init(struct image_registry *r);
/* Ends every session; the owner is closed when the last one is gone. */
void image_reg_uploads_close(struct image_registry *r);

#endif
