/*
 * uv_node - starting and stopping a node's shell; the calls that answer the API are in node.h.
 */
#ifndef AGENT_NODE_UV_NODE_H
#define AGENT_NODE_UV_NODE_H

#include "agent/node/node.h"

struct node_options {
    struct loop *loop;
    const struct settings *settings; /* copied */
    int launcher_fd;                 /* taken over */
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
/* Takes over what may change in a running node. */
void node_reload(struct node *n, const struct settings *next);

#endif
