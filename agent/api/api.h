/*
 * api - the HTTP interface of a node: /v1, health, metrics, the dashboard, and the door to /v2.
 *
 * It owns the HTTP server on one listening socket, finds the route (api_routes), checks who asks
 * (Host, Origin, tokens and their scopes), translates between HTTP and node.h, and streams:
 * payloads into spool/, outputs and logs out of runs/. It keeps no state that outlives a request.
 */
#ifndef AGENT_API_API_H
#define AGENT_API_API_H

#include "agent/node/node.h"
#include "common/err.h"
#include "common/json.h"
#include "common/loop/http_server.h"
#include "common/token.h"

struct api;

struct api_options {
    struct node *node; /* outlives the api */
    int listen_fd;     /* taken over in every case */
    /* Serves /v2/…: owns the request from then on. NULL: 404. */
    void (*registry)(void *arg, struct http_req *req);
    void *registry_arg;
    /* Refuses a request under /v2 in the registry's own format; headers were added before. NULL: as
     * anywhere else. */
    void (*registry_error)(struct http_req *req, int status, const char *code, const char *message);
    /* Writes an array: the members of the cluster as gossip sees them. NULL: an empty one. */
    void (*members)(void *arg, struct json_w *w);
    /* The document of GET /v1/table: rows of this type ("" all) behind the cursor `after` ("": from
     * the first). -EINVAL: no such type, or no cursor of ours. NULL: an empty table. */
    int (*table)(void *arg, struct str type, struct str after, size_t limit, struct buf *out);
    /* Appends what else there is to measure, in Prometheus' text form. May be NULL. */
    void (*metrics)(void *arg, struct buf *out);
    /* Drains, leaves the cluster, ends the process; later, not inside the call. NULL: cannot. */
    void (*leave)(void *arg);
    void *arg; /* of all four */
    /* NULL: plain HTTP. Referenced. */
    struct tls_context *tls;
    /* Who may ask; taken over in every case. NULL: whoever reaches the socket. */
    struct token_table *tokens;
};

/* Limits and names come from the node's settings. 0, -ENOMEM, or libuv's error. */
int api_start(const struct api_options *opt, struct api **ret, struct err *e);
/* From now on; taken over. Streams that a token began which is not there any more are cut. */
void api_set_tokens(struct api *a, struct token_table *tokens);
/* Accepts nothing more, lets what is open end for grace_ms, then closes it. on_closed fires last,
 * from the loop; the api is gone then. Follows, waits and event streams end at once. */
void api_close(struct api *a, unsigned grace_ms, void (*on_closed)(void *arg), void *arg);

#endif
