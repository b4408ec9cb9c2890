/*
 * node_internal - the pure core of a node (node.c, node_peers.c, node_spec.c).
 *
 * The core joins the queue (agent/jobs) and placement (agent/routing): the queue's PLACE is an
 * effect that the shell answers with NODE_EV_PLACE once it has the run's document at hand; the core
 * then decides over this node and its peers.
 *
 *   itself    it reserves the room and tells the queue
 *   a peer    effect `offer`; the shell asks that peer and answers with NODE_EV_OFFERED: accepted
 *             tells the queue, anything else changes what is known of the peer, and the shell asks
 *             again with NODE_EV_PLACE (NODE_TRIES_MAX times, then NO_ROOM)
 *   nobody    NO_ROOM: the run waits here. A peer that has room again wakes the queue (`capacity`)
 *
 * From the other side NODE_EV_GUEST asks for room for a peer's run. A guest is not in the queue:
 * its room is held until NODE_EV_GUEST_OVER. It is never offered on.
 *
 * Everything else passes through to the queue, with the reservations given back on the way.
 */
#ifndef AGENT_NODE_NODE_INTERNAL_H
#define AGENT_NODE_NODE_INTERNAL_H

#include "agent/hardware/hardware.h"
#include "agent/image/image.h"
#include "agent/jobs/jobs_core.h"
#include "agent/node/node.h"
#include "agent/routing/learn.h"
#include "agent/routing/routing.h"
#include "agent/sandbox/sandbox.h"

/* ---- the pure core ---- */

enum {
    NODE_FACTS_MAX = 320,
    NODE_PEERS_MAX = 4096,
    NODE_PROBES_MAX = 64, /* routing.probes at most */
    NODE_PEER_IMAGES_MAX = 4096,
    NODE_TRIES_MAX = 6, /* offers of one run before it waits */
    NODE_REFUSED_MIN_MS =
        100,                /* a peer that refused is not asked again for the wait that it named, */
    NODE_REFUSED_MS = 1000, /* within these, or until newer word of it comes */
    NODE_UNREACHED_MS = 3000,  /* the same when it could not be reached */
    NODE_PROBE_FRESH_MS = 500, /* a peer's own word of its load counts as of now for so long */
    NODE_FORWARD_US = 2000,    /* what sending a run elsewhere costs */
    NODE_COLD_US = 400 * 1000, /* what an image costs that is not there; a guess until learned */
};

struct node_core;

struct node_core_config {
    struct job_core_config jobs;
    const char *name;   /* this node's; copied */
    uint64_t settle_ms; /* after the first ROOM: peers are not all known yet, so no run is refused
                           for good */
};

/* What this node can give to runs. */
struct node_room {
    unsigned slots;
    uint64_t memory_bytes;
    uint32_t cpu_milli;
};

enum node_peer_state { NODE_PEER_ALIVE, NODE_PEER_DRAINING, NODE_PEER_GONE };

/* What is known of another node; which part of it is given, `has` says. Copied. */
enum { NODE_PEER_HAS_LOAD = 1, NODE_PEER_HAS_FACTS = 2, NODE_PEER_HAS_IMAGES = 4 };

struct node_peer {
    const char *name; /* never this node's */
    uint32_t id32;
    enum node_peer_state state; /* GONE: forgotten */
    unsigned has;
    struct node_room room; /* FACTS */
    const struct route_fact *facts;
    size_t facts_len;
    unsigned slots_free; /* LOAD */
    uint64_t memory_free_bytes;
    unsigned polluters, sensitive; /* LOAD: runs there, by their class of cache */
    uint64_t wait_us;              /* expected by it until a slot is free */
    uint64_t age_ms;
    const uint64_t *images; /* IMAGES: node_image_hash() of what it holds, in any order */
    size_t images_len;
};

/* Eight bytes of an image's digest: enough to say that it is there. */
uint64_t node_image_hash(const struct digest *d);

enum node_offer_end {
    NODE_OFFER_ACCEPTED,
    NODE_OFFER_REFUSED,  /* wait_us of `peer`: what it expects */
    NODE_OFFER_UNREACHED /* for sure it has not taken it */
};

enum node_event_type {
    NODE_EV_JOB,        /* job: an event of the queue, as it is; for a run elsewhere with node and
                           elsewhere set */
    NODE_EV_ROOM,       /* room: what the launcher said; facts */
    NODE_EV_PLACE,      /* job.id, job.attempt, request, image, image_warm: answers a PLACE */
    NODE_EV_PEER,       /* peer */
    NODE_EV_PROBED,     /* peer.name and its load: its own word, of just now */
    NODE_EV_OFFERED,    /* job.id, job.attempt, request, peer.name, offered: answers an offer */
    NODE_EV_GUEST,      /* job.id, job.attempt, request: is there room? */
    NODE_EV_GUEST_BACK, /* the same for one that is here since an earlier life: it gets it */
    NODE_EV_GUEST_OVER, /* job.id, job.attempt */
};

struct node_event {
    enum node_event_type type;
    struct job_event job; /* now_ms and now_us are set in every event */
    struct node_room room;
    const struct route_fact *facts; /* ROOM: copied; the strings must outlive the core */
    size_t facts_len;
    struct route_request request;
    uint64_t image;  /* its hash */
    bool image_warm; /* here */
    struct node_peer peer;
    enum node_offer_end offered;
};

enum node_guest_answer {
    NODE_GUEST_NONE,
    NODE_GUEST_TAKEN,
    NODE_GUEST_BUSY,
    NODE_GUEST_DRAINING,
    NODE_GUEST_IMPOSSIBLE
};

struct node_effects {
    struct job_effects jobs;
    bool capacity; /* room became free: send JOB_EV_CAPACITY next */
    /* After NODE_EV_PLACE: what was decided, with its inputs. The first candidate is this node. */
    bool decided;
    const struct route_candidate *candidates;
    const struct route_verdict *verdicts;
    size_t candidates_len;
    struct route_decision decision;
    const char *offer; /* ask this peer, or NULL */
    bool recall;       /* after OFFERED: it was accepted in vain, tell the peer to let it go */
    enum node_guest_answer guest;
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
/* What this node tells others of itself: free room, and the expected wait for a slot. */
void node_core_load(const struct node_core *c, struct node_peer *ret);
/* The name of the peer with this id, or NULL; of one that has gone, too, as long as it is known. */
const char *node_core_peer_name(const struct node_core *c, uint32_t id32);
/* False: not known. facts and images stay the core's. */
bool node_core_peer(const struct node_core *c, struct str name, struct node_peer *ret);
size_t node_core_peers_len(const struct node_core *c);
/* Walks the peers in order of their names: *pos starts at 0. */
bool node_core_peer_next(const struct node_core *c, size_t *pos, struct node_peer *ret);
/* Are all peers known that there are, as far as time tells? */
bool node_core_settled(const struct node_core *c, uint64_t now_ms);
/* Could this node or a known peer ever take such a run? verdict says why this one cannot. */
bool node_core_possible(struct node_core *c, const struct route_request *request,
                        struct route_verdict *verdict);

/* Whom to ask for their present load before NODE_EV_PLACE decides: the decision as it would be now
 * falls on a peer that has not been asked lately. Names into ret (at most max, good until the next
 * step); 0: nobody. */
size_t node_core_to_probe(struct node_core *c, const struct run *run,
                          const struct node_event *place, size_t max, const char **ret);
/* Why nobody can, by this node's verdict: one sentence into dst[ERR_TEXT_MAX]. */
void node_core_why_not(const struct route_verdict *v, const struct route_request *req, char *dst);

/* -- learning (node_learn.c) -- */

/* Facts beside the capabilities that placement reads; all of them text. */
#define NODE_FACT_LLC "cpu-cache.llc-mib"
#define NODE_FACT_MHZ "cpu-model.base-mhz"
#define NODE_FACT_LEVEL "cpu-model.x86-64-level"

/* What of a node's facts decides how fast its runs are. Texts are the facts' own. */
struct node_class {
    struct str class_id; /* empty: it did not say */
    struct str arch;
    struct route_features features;
    uint8_t isa; /* x86-64 level; 0: not known */
};
void node_class_of(const struct route_fact *facts, size_t n, struct node_class *ret);
/* What a run's measurements are kept under: its job, or the image of a one-off. The run's text. */
struct str node_profile_name(const struct run *run);
/* An attempt's end as routing wants it. */
void node_observation_of(const struct job_result *r, const struct telemetry_totals *t,
                         const struct run_limits *limits, struct route_observation *ret);
/* The learner stays the caller's and outlives the core; NULL: placement knows no times. */
void node_core_set_learn(struct node_core *c, struct route_learn *learn);
void node_core_set_policy(struct node_core *c, enum route_policy policy);
/* What would be decided now for a run like this: as NODE_EV_PLACE, without doing it. The arrays are
 * the core's, until the next step. */
void node_core_what_if(struct node_core *c, const struct run *run, struct route_request *request,
                       uint64_t image, bool image_warm, struct node_effects *ret);

/* The memory that room is held for. */
uint64_t node_reserve_of(const struct run_limits *l);

enum { NODE_TEXTS_MAX = 2 * JOB_REQUIRE_MAX };
/* What placement needs to know of a run. texts holds the texts that *ret points to. */
void node_request_of(const struct run *run, const struct job *job, struct str texts[NODE_TEXTS_MAX],
                     struct route_request *ret);

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
    struct egress_net *egress;
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
