/*
 * routing - which node should run this run, and why.
 *
 * Pure. The caller describes the request and every node that gossip calls alive; the decision comes
 * with a verdict for each candidate, so that `agent explain` shows what was really decided. Hard
 * filters come first (draining, requirements, sizes that can never fit), then room, then the score:
 * the least expected wait, warm images before cold ones, the local node within 2 % (specs: "within
 * 2 % of local, run locally"). The learned cost joins the score through route_candidate.run_us.
 *
 * A requirement is a string of a job document:
 *   NAME          the fact is there ("cpu-cpuid.AESNI")
 *   NAME=VALUE    a label or fact has exactly this value
 *   NAME!=VALUE   it has not (an absent fact satisfies this)
 *   NAME>=NUMBER  its value is a number and not smaller
 */
#ifndef AGENT_ROUTING_ROUTING_H
#define AGENT_ROUTING_ROUTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/json.h"
#include "common/str.h"

enum { ROUTE_REQUIRE_MAX = 16, ROUTE_REQUIRE_TEXT_MAX = 128 };

struct route_fact {
    struct str name;
    struct str value; /* "true" for a capability */
};

struct route_candidate {
    struct str node;
    bool local;
    bool draining;
    bool image_warm;       /* every layer is unpacked there */
    uint64_t memory_bytes; /* what the node can give to runs in all */
    uint64_t memory_free_bytes;
    uint32_t cpu_milli; /* 1000 = one processor */
    unsigned slots;
    unsigned slots_free;
    uint64_t wait_us; /* expected until a slot is free */
    uint64_t cold_us; /* expected for pull and unpack when not warm */
    uint64_t run_us;  /* expected service time; 0: not known */
    uint64_t age_us;  /* how old this description is */
    const struct route_fact *facts;
    size_t facts_len;
};

struct route_request {
    uint64_t memory_bytes;
    uint32_t cpu_milli; /* 0: no quota asked */
    const struct str *require;
    size_t require_len;
};

enum route_verdict_kind {
    ROUTE_FIT,             /* could take it now */
    ROUTE_BUSY,            /* could take it later */
    ROUTE_DRAINING,        /* takes nothing new */
    ROUTE_REQUIREMENT,     /* a requirement does not hold */
    ROUTE_TOO_MUCH_MEMORY, /* more than the whole node has */
    ROUTE_TOO_MANY_CPUS,
};

struct route_verdict {
    enum route_verdict_kind kind;
    size_t require_index; /* with ROUTE_REQUIREMENT */
    uint64_t score_us;    /* with ROUTE_FIT and ROUTE_BUSY */
};

enum route_basis {
    ROUTE_BASIS_NONE,    /* nobody was chosen */
    ROUTE_BASIS_LOCAL,   /* the local node was as good as any */
    ROUTE_BASIS_WAIT,    /* least expected wait and cold start */
    ROUTE_BASIS_REQUIRE, /* only one node passed the requirements */
};

struct route_decision {
    ptrdiff_t chosen; /* index of a candidate with ROUTE_FIT, or -1 */
    bool possible;    /* some candidate could ever take it: waiting makes sense */
    enum route_basis basis;
};

/* 0, or -EINVAL with a sentence: checks the form of one requirement, as a job document is applied.
 */
int route_require_check(struct str require, struct err *e);
/* Does it hold for these facts? A malformed one never holds. */
bool route_require_holds(struct str require, const struct route_fact *facts, size_t facts_len);

/* Fills verdicts[candidates_len] and *ret. Ties go to the local node, then to the smaller name. */
void route_decide(const struct route_request *req, const struct route_candidate *candidates,
                  size_t candidates_len, struct route_verdict *verdicts,
                  struct route_decision *ret);

const char *route_verdict_name(enum route_verdict_kind kind);
const char *route_basis_name(enum route_basis basis);
/* The whole decision as one JSON object, for GET /v1/runs/{id}/placement. */
void route_to_json(struct json_w *w, const struct route_request *req,
                   const struct route_candidate *candidates, size_t candidates_len,
                   const struct route_verdict *verdicts, const struct route_decision *decision);

#endif
