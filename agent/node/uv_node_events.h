/*
 * uv_node_events - the feed of what this node sees: its runs, what set them off, the members,
 * documents, profiles, call-backs; each a CloudEvent, numbered.
 *
 * The newest are remembered (NODE_FEED_MAX, NODE_FEED_BYTES), so that a reader that lost its
 * connection goes on where it was. Nothing is made while nobody reads: remembering begins with the
 * first reader and ends NODE_FEED_WARM_MS after the last has gone.
 */
#ifndef AGENT_NODE_UV_NODE_EVENTS_H
#define AGENT_NODE_UV_NODE_EVENTS_H

#include "agent/node/node_internal.h"

enum {
    NODE_FEED_MAX = 4096,
    NODE_FEED_BYTES = 8 * 1024 * 1024,
    NODE_FEED_WARM_MS = 10 * 60 * 1000,
};

struct node_events;

struct node_events *node_events_new(struct node *n); /* NULL: no memory */
void node_events_free(struct node *n);

/* An event with data: the writer stands where the data goes, one value; then node_event_end(). NULL
 * (and no end is due): nobody wants it. subject, job: NULL or "": none. Never one inside another.
 */
struct json_w *node_event_begin(struct node *n, const char *type, const char *subject,
                                const char *job);
void node_event_end(struct node *n);

/* agent.run.<state>, and agent.trigger.fired when it is new and nobody called for it. */
void node_event_run(struct node *n, const struct run *run);
/* agent.node.<what>: joined, failed, left, draining, resumed. */
void node_event_member(struct node *n, const char *what, const char *name);
/* agent.job.<what>: applied, deleted. */
void node_event_job(struct node *n, const char *what, const char *job, uint32_t revision);
/* agent.job.profile_updated: this node has measured a run of it. */
void node_event_profile(struct node *n, const char *job, uint32_t revision);

#endif
