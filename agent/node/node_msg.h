/*
 * node_msg - what nodes say to each other about runs: the bodies of /v1/peer, as JSON.
 *
 * Pure. What is parsed comes from another machine: every member is checked, what is too long is
 * refused. The record of a run is the store's (run_to_record), a document is the stored form.
 *
 *   offer    owner to executor: run, document, payload when it is small; answered by an answer
 *   started  executor to owner: run as it is
 *   end      executor to owner: run as it ended, its samples, its files when they are small
 *   about    owner to executor: which attempt (cancel, check)
 *
 * (epoch, attempt) and the sender's name fence: who is answered NODE_SAYS_STALE or _UNKNOWN lets
 * the attempt go.
 */
#ifndef AGENT_NODE_MSG_H
#define AGENT_NODE_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/jobs/jobs.h"
#include "agent/jobs/jobs_core.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/ids.h"

enum {
    NODE_MSG_MAX = 4 * 1024 * 1024,     /* bytes of a body */
    NODE_MSG_PAYLOAD_MAX = 32 * 1024,   /* bytes of a payload inside an offer */
    NODE_MSG_FILES_MAX = 64 * 1024,     /* bytes of all files inside an end */
    NODE_MSG_SAMPLES_MAX = 1024 * 1024, /* bytes of an end's samples */
    NODE_MSG_CHECK_MAX = 256,           /* attempts in one check */
};

/* ---- answers ---- */

enum node_says {
    NODE_SAYS_TAKEN,      /* to an offer: it is ours now */
    NODE_SAYS_BUSY,       /* to an offer: no room; what there is, is said */
    NODE_SAYS_DRAINING,   /* to an offer: nothing new */
    NODE_SAYS_IMPOSSIBLE, /* to an offer: never here */
    NODE_SAYS_KEPT,       /* to started, end, cancel: taken down (an end: durably) */
    NODE_SAYS_STALE,      /* the attempt is over, or somebody else's */
    NODE_SAYS_UNKNOWN,    /* no such run here */
    NODE_SAYS_COUNT
};
const char *node_says_name(enum node_says s); /* "taken" */

struct node_answer {
    enum node_says says;
    unsigned slots_free; /* TAKEN, BUSY: after it */
    uint64_t memory_free_bytes;
    uint64_t wait_us;
};
void node_answer_write(struct buf *out, const struct node_answer *a);
/* -EINVAL. */
int node_answer_parse(struct str text, struct node_answer *ret, struct err *e);

/* ---- offer ---- */

struct node_offer {
    struct run run; /* queued; epoch and attempt are set */
    struct job *job;
    bool has_payload; /* else: none, or to be fetched from the owner (run.payload_bytes) */
    char *payload;
    size_t payload_len;
};
/* payload.p NULL: not inside. */
void node_offer_write(struct buf *out, const struct run *run, const struct job *job,
                      struct str payload);
/* -EINVAL, -ENOMEM. */
int node_offer_parse(struct str text, struct node_offer *ret, struct err *e);
void node_offer_release(struct node_offer *o);

/* ---- started, end ---- */

/* What an attempt leaves beside its record, by the names in its directory. */
enum { NODE_FILES = 5 };
extern const char *const node_file_names[NODE_FILES]; /* "stdout", …, "exit" */

struct node_bytes {
    char *p; /* NULL: not there */
    size_t n;
};

struct node_report {
    struct run run;
    bool innocent;             /* as job_result.innocent */
    struct node_bytes samples; /* JSON */
    struct node_bytes files[NODE_FILES];
};
/* For `started` as well: without samples and files. */
void node_report_write(struct buf *out, const struct node_report *r);
/* -EINVAL, -ENOMEM. The run is running (started) or ended. */
int node_report_parse(struct str text, struct node_report *ret, struct err *e);
void node_report_release(struct node_report *r);
/* The end of an attempt as the queue wants it. detail points into *r. */
void node_report_result(const struct node_report *r, struct job_result *ret);

/* ---- about ---- */

struct node_about {
    struct ulid id;
    uint32_t epoch;
    uint32_t attempt;
    bool known; /* in the answer to a check */
};
void node_about_write(struct buf *out, const struct node_about *v, size_t n);
/* At most max of them; more: -E2BIG. -EINVAL. */
int node_about_parse(struct str text, struct node_about *v, size_t max, size_t *ret_n,
                     struct err *e);

#endif
