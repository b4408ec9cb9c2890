/*
 * routing - which node should run this run, and why.
 *
 * Pure. The caller describes the request and every node that gossip calls alive; the decision comes
 * with a verdict for each candidate, so that `agent explain` shows what was really decided. Hard
 * filters come first (draining, the user's requirements, architecture, instructions that the image
 * needs, sizes that can never fit), then the user's preferences, then room, then the policy:
 *
 *   learned         the least (wait + cold start + r) * (r / least r)^0.3, where r is the learned
 *                   time (learn.h fills run_us): the power keeps a fast node free for those that
 *                   need it most. Within 2 % of the best the local node runs it.
 *   least-loaded    the smallest share of its slots in use or waited for
 *   power-of-two    the less loaded of two drawn ones (Mitzenmacher 2001)
 *   random          one drawn
 *
 * A requirement (and a preference) is a string of a job document:
 *   NAME             the fact is there ("cpu-cpuid.AESNI")
 *   NAME=VALUE       a label or fact has exactly this value
 *   NAME!=VALUE      it has not (an absent fact satisfies this)
 *   NAME>=NUMBER     its value is a number and not smaller
 *   NAME in (A, B)   it has one of these values (parentheses may be left out)
 */
#ifndef AGENT_ROUTING_ROUTING_H
#define AGENT_ROUTING_ROUTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/routing/profile.h"
#include "common/err.h"
#include "common/json.h"
#include "common/rng.h"
#include "common/str.h"

enum { ROUTE_REQUIRE_MAX = 16, ROUTE_REQUIRE_TEXT_MAX = 128 };

struct route_fact {
    struct str name;
    struct str value; /* "true" for a capability */
};

/* What learn.h says of one candidate, for the record; run_us is what decides. */
struct route_learned {
    uint64_t mean_us;  /* expected time, without the draw; 0: nothing was asked */
    double spread;     /* standard deviation of ln(mean_us): how sure that is */
    double noise;      /* standard deviation of ln(one run's time) */
    double runs;       /* runs of the job that count, decayed */
    double class_runs; /* of them on this class */
    double health;     /* ln(how much slower than its class the node is) */
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
    unsigned queued;     /* runs that wait there */
    bool refused;        /* it has refused this run, or did not answer: not chosen again */
    bool probed;         /* wait_us and slots_free are its own word of just now */
    struct str arch;     /* "x86_64", "arm64"; empty: not known, never filtered */
    uint8_t isa;         /* x86-64 level that programs can use, 1 to 4; 0: not known */
    struct str class_id; /* node class; empty: nothing can be learned of it */
    struct route_features features;
    struct route_learned learned;
    unsigned polluters; /* runs there that take much cache and bandwidth */
    unsigned sensitive; /* runs there that suffer without cache */
    uint64_t wait_us;   /* expected until a slot is free */
    uint64_t cold_us;   /* expected for pull and unpack when not warm */
    uint64_t run_us;    /* expected service time, perhaps a draw of it; 0: not known */
    uint64_t age_us;    /* how old this description is */
    const struct route_fact *facts;
    size_t facts_len;
};

enum { ROUTE_PROBE_ROUNDS = 3 };

enum route_policy { ROUTE_LEARNED, ROUTE_LEAST_LOADED, ROUTE_POWER_OF_TWO, ROUTE_RANDOM };

struct route_request {
    enum route_policy policy;
    struct rng *rng; /* breaks ties and draws; NULL: ties go by name, draws by a fixed seed */
    bool may_queue;  /* a busy node may be chosen: the run waits there */
    /* This run has waited so long already. It goes on waiting for a busy node only while that node
     * promises more than the wait has cost; UINT64_MAX: it takes what there is. */
    uint64_t waited_us;
    bool probed_only;            /* only probed candidates and the local one may be chosen */
    uint64_t memory_bytes;       /* that room is held for */
    uint64_t memory_limit_bytes; /* that the run may use at most; 0: the same */
    uint32_t cpu_milli;          /* 0: no quota asked */
    const struct str *require;
    size_t require_len;
    const struct str *prefer; /* as require; a node that holds more of them goes first */
    size_t prefer_len;
    struct str arch; /* of the image; empty: any */
    uint8_t isa;     /* x86-64 level that the image's programs need; 0: any */
    uint8_t absent; /* enum route_feature_bit: instructions that the image does not have anywhere */
    bool cache_sensitive; /* the job suffers beside a polluter */
    bool pollutes;        /* the job is one */
};

enum route_verdict_kind {
    ROUTE_FIT,             /* could take it now */
    ROUTE_BUSY,            /* could take it later */
    ROUTE_DRAINING,        /* takes nothing new */
    ROUTE_REQUIREMENT,     /* a requirement does not hold */
    ROUTE_TOO_MUCH_MEMORY, /* more than the whole node has */
    ROUTE_TOO_MANY_CPUS,
    ROUTE_OTHER_ARCH, /* the image is for another architecture */
    ROUTE_ISA,        /* the image needs instructions that the node has not */
    ROUTE_REFUSED,    /* it said no, or nothing */
};

struct route_verdict {
    enum route_verdict_kind kind;
    size_t require_index; /* with ROUTE_REQUIREMENT */
    /* With ROUTE_FIT and ROUTE_BUSY: */
    uint64_t score_us;      /* what the policy compares; the smaller the better */
    uint64_t mean_score_us; /* the same from what is expected, without the draw */
    unsigned preferred;     /* preferences that hold */
    uint64_t tie;           /* drawn, if there is a generator */
};

enum route_basis {
    ROUTE_BASIS_NONE,    /* nobody was chosen */
    ROUTE_BASIS_LOCAL,   /* the local node was as good as any */
    ROUTE_BASIS_WAIT,    /* least expected wait and cold start: the time was not known */
    ROUTE_BASIS_REQUIRE, /* only one node passed the requirements */
    ROUTE_BASIS_PREFER,  /* a preference decided */
    ROUTE_BASIS_LEARNED, /* the best by what is known */
    ROUTE_BASIS_EXPLORE, /* the best by a draw of what is not known well */
    ROUTE_BASIS_LEAST_LOADED,
    ROUTE_BASIS_POWER_OF_TWO,
    ROUTE_BASIS_RANDOM,
    ROUTE_BASIS_HOLD, /* nobody yet: a busy node is so much better that waiting for it pays */
};

struct route_decision {
    ptrdiff_t chosen; /* index of a candidate with ROUTE_FIT (may_queue: or ROUTE_BUSY), or -1 */
    ptrdiff_t hold;   /* with ROUTE_BASIS_HOLD: the node that is worth waiting for; else -1 */
    bool possible;    /* some candidate could ever take it: waiting makes sense */
    enum route_basis basis;
};

/* 0, or -EINVAL with a sentence: checks the form of one requirement, as a job document is applied.
 */
int route_require_check(struct str require, struct err *e);
/* Does it hold for these facts? A malformed one never holds. */
bool route_require_holds(struct str require, const struct route_fact *facts, size_t facts_len);

/* Fills verdicts[candidates_len] and *ret. Ties go to the local node, then by draw, then to the
 * smaller name. */
void route_decide(const struct route_request *req, const struct route_candidate *candidates,
                  size_t candidates_len, struct route_verdict *verdicts,
                  struct route_decision *ret);

/* The candidates to probe: the best `max` by the same order that are not probed yet, those with
 * room (may_queue: and busy ones), into ret (max indexes); how many. The local one needs no probe
 * and is left out.
 *
 * Probing goes: decide; if the chosen one is neither probed nor local, probe the shortlist, put
 * what was answered into the candidates, and decide again; at most ROUTE_PROBE_ROUNDS times. The
 * second round matters: when the best nodes turn out busy, the choice is between their queue and
 * nodes that nobody has asked yet. */
size_t route_shortlist(const struct route_request *req, const struct route_candidate *candidates,
                       size_t candidates_len, const struct route_verdict *verdicts, size_t max,
                       size_t *ret);

/* How long a new run would wait for one of `slots` slots: running holds the rest that is expected
 * of each running run, queued what is expected of each waiting one, in order. At most 256 slots are
 * looked at. */
uint64_t route_wait(unsigned slots, const uint64_t *running_us, size_t running_len,
                    const uint64_t *queued_us, size_t queued_len);
/* What is left of a run that was expected to take expected_us and has taken elapsed_us. */
uint64_t route_rest(uint64_t expected_us, uint64_t elapsed_us);

int route_policy_parse(struct str s, enum route_policy *ret); /* "least-loaded"; -EINVAL */
const char *route_policy_name(enum route_policy policy);
const char *route_verdict_name(enum route_verdict_kind kind);
const char *route_basis_name(enum route_basis basis);
/* The whole decision as one JSON object, for GET /v1/runs/{id}/placement. */
void route_to_json(struct json_w *w, const struct route_request *req,
                   const struct route_candidate *candidates, size_t candidates_len,
                   const struct route_verdict *verdicts, const struct route_decision *decision);

#endif
