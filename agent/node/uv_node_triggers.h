/*
 * uv_node_triggers - what sets runs off on this node besides a direct call: the triggers of all job
 * documents, planned, matched and fired. For the other uv_node files.
 *
 * The plan (agent/triggers/plan.h) says when a schedule fires; a firing is submitted like any other
 * run, with the firing's name as its idempotency key. What has ended sets off what comes after.
 */
#ifndef AGENT_NODE_UV_NODE_TRIGGERS_H
#define AGENT_NODE_UV_NODE_TRIGGERS_H

#include "agent/jobs/jobs.h"
#include "agent/node/node.h"
#include "agent/triggers/triggers.h"
#include "common/err.h"

struct node_triggers;

/* 0 or -ENOMEM. */
int node_triggers_new(struct node *n, uint64_t k0, uint64_t k1, struct err *e);
/* Reads the triggers of all registered jobs out of the store; firing begins when that is done. */
void node_triggers_load(struct node *n);
void node_triggers_close(struct node *n); /* nothing fires any more; before the owner's close */
void node_triggers_free(struct node *n);

/* Are the document's triggers sound, its zones known, its chain of jobs without a
 * circle? 0, -EINVAL with a problem for each (as far as they fit) and the first in e, -ENOMEM. */
int node_triggers_check(struct node *n, const struct job *job, struct job_problems *problems,
                        struct err *e);
/* A job's newest revision is in force; it is gone. */
void node_triggers_job(struct node *n, const struct job *job);
void node_triggers_drop(struct node *n, struct str name);
/* A run has ended, durably. */
void node_triggers_ended(struct node *n, const struct run *run);

/* The compiled triggers of a job, until the next call of this header; NULL: it has none. */
const struct trigger_set *node_triggers_find(const struct node *n, struct str job);

/* Sensors and events that something concerns, held ones left out. A callback changes no trigger. */
typedef void node_sensor_fn(void *arg, struct str job, const struct trigger_sensor_def *def);
typedef void node_event_fn(void *arg, struct str job, const struct trigger_event *event);
void node_triggers_topic(const struct node *n, struct str topic, node_sensor_fn *fn, void *arg);
void node_triggers_reading(const struct node *n, const char *name, node_sensor_fn *fn, void *arg);
void node_triggers_type(const struct node *n, const char *type, node_event_fn *fn, void *arg);
/* The readings that any sensor looks at; the topic filters that any has, with the highest qos asked
 * for. Each once. */
void node_triggers_readings(const struct node *n, void (*fn)(void *arg, const char *name),
                            void *arg);
void node_triggers_filters(const struct node *n,
                           void (*fn)(void *arg, const char *filter, unsigned qos), void *arg);

#endif
