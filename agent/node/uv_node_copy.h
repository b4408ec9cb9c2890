/*
 * uv_node_copy - replicated runs: what the files about copies share, and what the others see.
 *
 *   uv_node_copy.c    copies of this node's runs: who has which, what they are still to be told
 *   uv_node_send.c    one sender per holder: batches, large files ahead of them
 *   uv_node_holder.c  copies that this node keeps: taking them in, reading them
 *   uv_node_heir.c    taking over the runs of a dead owner; giving up what somebody else took
 *   uv_node_claim.c   keys that are claimed for the whole cluster
 */
#ifndef AGENT_NODE_COPY_H
#define AGENT_NODE_COPY_H

#include "agent/jobs/replica.h"
#include "agent/node/node_copy_msg.h"
#include "agent/node/uv_node_internal.h"

enum {
    NODE_COPY_OWED_MAX =
        65536, /* ended runs whose holders have not all heard so; more are dropped */
    NODE_COPY_ANSWER_MS = 3000,
    NODE_MEMBERS_MAX = NODE_PEERS_MAX + 1,
};

/* A copy at one holder. */
struct node_held {
    struct list link; /* the sender's queue while it waits there */
    struct node_copy *copy;
    uint32_t id;    /* the holder */
    unsigned files; /* bits of what was sent ahead: 1 the payload, 2 << i the file number i */
    bool has;       /* it has document and payload */
    bool dirty;     /* the newest record is to be sent */
    bool sending;
};

/* One of this node's runs, as far as others have to know it: from its acceptance until every holder
 * that is there knows its end. */
struct node_copy {
    struct list link; /* node.copies */
    struct node *node;
    struct ulid id; /* the map's key */
    struct buf record;
    uint64_t payload_bytes, output_bytes, log_bytes;
    uint32_t attempt;
    bool ended;
    bool gone;       /* not accepted after all */
    bool asking;     /* the store is asked for its document */
    struct run *run; /* being accepted: until holders and store have it */
    bool stored;
    int status;
    uint64_t seq;
    bool moved; /* other holders than its record in the store says */
    unsigned n;
    struct node_held to[RUN_HOLDERS_MAX];
};

/* -- uv_node_copy.c -- */
struct node_copy *node_copy_find(const struct node *n, struct ulid id);
struct node_held *node_copy_held(struct node_copy *c, uint32_t holder);
struct node_copy *node_copy_new(struct node *n, const struct run *run, bool has);
/* The holder has answered: it has everything that it was sent. */
void node_copy_acked(struct node_held *h);
/* It could not be reached, or refuses for now. */
void node_copy_failed(struct node_held *h);
void node_copy_free(struct node_copy *c);
/* Is that member there, and an agent? */
const struct node_place *node_place_by_id(const struct node *n, uint32_t id);

/* -- uv_node_send.c -- */
void node_send_mark(struct node_held *h, bool soon); /* its record is to be sent */
void node_send_kick(struct node *n, uint32_t holder);
void node_send_unmark(struct node_held *h);

/* -- uv_node_heir.c -- */
/* Somebody else's record stands: *stands is it. */
void node_heir_refused(struct node *n, const struct run *stands);
void node_heir_fenced(struct node *n, const struct run *stands);
/* The owner does not know these: whoever has copies goes on with them. */
void node_heir_take_id(struct node *n, struct ulid id);

#endif
