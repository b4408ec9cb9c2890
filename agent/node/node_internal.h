/*
 * node_internal - the pure core of a node (node.c, node_spec.c) and the state of its shell
 * (uv_node*.c).
 *
 * The core joins the queue (agent/jobs) and placement (agent/routing): the queue's PLACE is an
 * effect that the shell answers with NODE_EV_PLACE once it has the run's document at hand; the core
 * then decides, reserves the room, and tells the queue. Everything else passes through to the
 * queue, with the reservations given back on the way.
 */
#ifndef AGENT_NODE_NODE_INTERNAL_H
#define AGENT_NODE_NODE_INTERNAL_H

#include "agent/hardware/hardware.h"
#include "agent/image/image.h"
#include "agent/jobs/jobs_core.h"
#include "agent/node/node.h"
#include "agent/routing/routing.h"
#include "agent/sandbox/sandbox.h"

/* ---- the pure core ---- */

enum { NODE_FACTS_MAX = 320 };

struct node_core;

struct node_core_config {
    struct job_core_config jobs;
    const char *name; /* this node's; copied */
};

/* What this node can give to runs. */
struct node_room {
    unsigned slots;
    uint64_t memory_bytes;
    uint32_t cpu_milli;
};

enum node_event_type {
    NODE_EV_JOB,   /* job: an event of the queue, as it is */
    NODE_EV_ROOM,  /* room: what the launcher said; facts */
    NODE_EV_PLACE, /* job.id, job.attempt, request, image_warm: answers a PLACE */
};

struct node_event {
    enum node_event_type type;
    struct job_event job; /* now_ms and now_us are set in every event */
    struct node_room room;
    const struct route_fact *facts; /* ROOM: copied; the strings must outlive the core */
    size_t facts_len;
    struct route_request request;
    bool image_warm;
};

struct node_effects {
    struct job_effects jobs;
    bool capacity; /* room became free: send JOB_EV_CAPACITY next */
    /* After NODE_EV_PLACE: what was decided, with its inputs. */
    bool decided;
    struct route_candidate candidate;
    struct route_verdict verdict;
    struct route_decision decision;
};

int node_core_new(const struct node_core_config *cfg, struct node_core **ret); /* -ENOMEM */
struct node_core *node_core_free(struct node_core *c);                         /* returns NULL */
/* One step; *fx is valid until the next one. */
void node_core_step(struct node_core *c, const struct node_event *ev, struct node_effects *fx);
uint64_t node_core_deadline_ms(const struct node_core *c);
struct job_core *node_core_jobs(struct node_core *c); /* for its readers */
const struct node_room *node_core_room(const struct node_core *c);
unsigned node_core_slots_used(const struct node_core *c);
uint64_t node_core_memory_used(const struct node_core *c);
/* Could this node ever take such a run? verdict says why not. */
bool node_core_possible(struct node_core *c, const struct route_request *request,
                        struct route_verdict *verdict);

/* What a document says that only placement understands: the form of its requirements. 0, or -EINVAL
 * with a problem per requirement (those that fit) and the first in e. */
int node_document_check(const struct job *job, struct job_problems *problems, struct err *e);

/* ---- from document, run and image to a sandbox's spec (node_spec.c, pure) ---- */

/* Owns what the spec points to. */
struct node_spec {
    struct sandbox_spec spec;
    struct image_strv argv;
    struct image_strv env;
    struct digest *layers;
    char hostname[32];
};

struct node_spec_input {
    const struct run *run;
    const struct job *job;
    const struct image_config *config;
    const struct digest *layers; /* DiffIDs */
    size_t layers_len;
    const struct settings *settings;
    const struct hardware_caps *mask;
    int64_t now_us;
};

/* -EINVAL, -E2BIG (the image or the job asks for what cannot be; e says what), -ENOMEM. */
int node_spec_make(const struct node_spec_input *in, struct node_spec *ret, struct err *e);
void node_spec_release(struct node_spec *s);

/* How a sandbox's end reads as the end of an attempt. detail: ERR_TEXT_MAX bytes that *ret points
 * into. */
void node_result_of(const struct sandbox_result *r, const struct telemetry_totals *t,
                    struct job_result *ret);

#endif
