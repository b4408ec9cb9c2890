/*
 * uv_node_callbacks - call-backs out: a run that ends here makes a delivery per receiver of its
 * document; each is durable, tried by the schedule of agent/triggers/callback.h, listed, and can be
 * sent again.
 *
 *   WAITING ──2xx──> DELIVERED          FAILED: its tries are used up, or its address is closed
 *      │ └──410──> GONE                 OFF: its receiver has answered 410 to this job before
 *      └──no more tries──> FAILED       any end: POST /v1/callbacks/{id}/retry leads back to
 * WAITING
 *
 * Deliveries are in callbacks.db before they are sent. A run's end is in the store before that:
 * when the process dies between the two, the next one finds such ends by the mark that callbacks.db
 * keeps. So each is sent at least once; a delivery's id is made of run, attempt and place in the
 * document: the same whoever makes it, and however often it is sent.
 */
#ifndef AGENT_NODE_UV_NODE_CALLBACKS_H
#define AGENT_NODE_UV_NODE_CALLBACKS_H

#include "agent/node/node_internal.h"
#include "common/err.h"

enum {
    NODE_CALLBACKS_MAX = 10000, /* deliveries kept, those that are over among them */
    NODE_CALLBACKS_FLYING = 32, /* sent at a time */
    NODE_CALLBACKS_TO_ONE = 4,  /* of those, to one host and port */
    NODE_CALLBACK_BODY_MAX = 64 * 1024,
    NODE_CALLBACK_ANSWER_MAX = 64 * 1024, /* bytes read of an answer */
};

struct node_callbacks;

/* -E… of the database, or callbacks.ca_file. After the table and the store are open. */
int node_callbacks_start(struct node *n, uint64_t k0, uint64_t k1, struct err *e);
/* Nothing is sent any more; done(n) when the last connection has gone. Before the owner's close. */
void node_callbacks_close(struct node *n, void (*done)(struct node *n));
void node_callbacks_free(struct node *n);

/* Are the document's call-backs sound, and addressed to where this node sends? 0, -EINVAL with a
 * problem and the sentence in e, -ENOMEM. */
int node_callbacks_check(struct node *n, const struct job *job, struct job_problems *problems,
                         struct err *e);
/* Adds one to a document. url and secret ("": unsigned) are from outside. Errors as above. */
int node_callbacks_add(struct node *n, struct job *job, const char *url, const char *secret,
                       struct job_problems *problems, struct err *e);
/* A run has ended, durably. */
void node_callbacks_ended(struct node *n, const struct run *run);
/* A job was applied here: receivers that had answered 410 are told again. */
void node_callbacks_applied(struct node *n, const char *job);
void node_callbacks_metrics(struct node *n, struct buf *out);

#endif
