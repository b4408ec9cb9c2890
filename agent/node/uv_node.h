/*
 * uv_node - starting and stopping a node's shell; the calls that answer the API are in node.h.
 */
#ifndef AGENT_NODE_UV_NODE_H
#define AGENT_NODE_UV_NODE_H

#include "agent/gossip/gossip.h"
#include "agent/node/node.h"
#include "agent/table/uv_table.h"

struct tls_context; /* common/loop/tls.h */

struct node_options {
    struct loop *loop;
    const struct settings *settings; /* copied */
    int launcher_fd;                 /* taken over */
    struct tls_context *tls; /* for calls to other nodes: what to show and trust. Outlives the node;
                                NULL: plain HTTP */
    /* Ready: earlier runs are taken up, new ones are accepted. */
    void (*on_ready)(void *arg);
    /* The launcher is gone or the node cannot go on: leave the process; what runs goes on and is
     * taken up by the next one. */
    void (*on_broken)(void *arg, const char *why);
    void *arg;
};

/* Opens store and images, probes the hardware, connects to the launcher. Blocks some milliseconds.
 */
int node_start(const struct node_options *opt, struct node **ret, struct err *e);
/* Takes nothing new, gives what runs grace_ms to end, then stops it; on_drained fires when nothing
 * runs any more. Queued runs stay in the store for the next start. */
void node_drain(struct node *n, uint64_t grace_ms, void (*on_drained)(void *arg), void *arg);
/* Closes everything at once; what runs goes on. on_closed fires last, the node is gone. */
void node_close(struct node *n, void (*on_closed)(void *arg), void *arg);
/* From the gossip: a member changed; a message on the table's channel. */
void node_on_member(struct node *n, enum gossip_change change, const struct gossip_view *m);
void node_on_message(struct node *n, struct str from, struct str bytes);
/* How the table's messages leave. */
void node_set_sender(struct node *n, table_send_fn *send, void *arg);
struct table_shell *node_table(struct node *n); /* the node's; open from start to close */
/* Takes over what may change in a running node. */
void node_reload(struct node *n, const struct settings *next);

#endif
