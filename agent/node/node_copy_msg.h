/*
 * node_copy_msg - records of runs on their way to the nodes that keep copies: the body of
 * POST /v1/peer/replicate, and its answer.
 *
 * Pure. Version 1; all numbers little-endian:
 *
 *   "AGR1"  then entries:  flags u8 | run id 16 | record: u32 n, n bytes of JSON (run_to_record)
 *           FULL:  document: u32 n, n bytes | payload: u32 n, n bytes (small ones; else n = 0)
 *           FILES: of the last attempt, in the order of node_file_names: u32 n, n bytes each;
 *                  n = 0xffffffff: there is none
 *   answer  JSON: {"v": 1, "others": [{"id", "said", "run"}]}; what is not named is kept, durably
 *
 * What is parsed comes from another machine: lengths, ids and records are checked.
 */
#ifndef AGENT_NODE_COPY_MSG_H
#define AGENT_NODE_COPY_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/jobs/replica.h"
#include "agent/node/node_msg.h"

enum {
    NODE_COPY_BATCH_MAX = 256,             /* entries of one message */
    NODE_COPY_BYTES_MAX = 2 * 1024 * 1024, /* no entry is added beyond this */
    NODE_COPY_PAYLOAD_MAX = 32 * 1024,     /* inside a message; larger ones are sent before it */
    NODE_COPY_FILES_MAX = 64 * 1024,       /* all files of one entry */
};

/* The flags, and the words of the answer (enum job_replica_said). */
enum { NODE_COPY_FULL = 1, NODE_COPY_GONE = 2, NODE_COPY_FILES = 4 };

void node_copy_begin(struct buf *out);
/* files NULL: none go along. spec and payload count when full. */
void node_copy_add(struct buf *out, struct ulid id, unsigned flags, struct str record,
                   struct str spec, struct str payload, const struct node_bytes *files);

struct node_copy_files {
    bool has;
    struct str v[NODE_FILES]; /* p NULL: none */
};
/* n records, and what came with each. Texts point into the message. */
struct node_copies {
    size_t n;
    struct job_replica *v;
    struct node_copy_files *files;
};
/* At most max entries. -EINVAL, -E2BIG, -ENOMEM. */
int node_copy_parse(struct str body, size_t max, struct node_copies *ret, struct err *e);
void node_copies_release(struct node_copies *c);

/* One entry's answer that is not "kept". */
struct node_copy_answer {
    struct ulid id;
    enum job_replica_said said; /* WANTED or REFUSED */
    struct run stands;          /* REFUSED */
};
void node_copy_answer_write(struct buf *out, const struct job_replica *v, size_t n);
/* *ret is the caller's (mem_free), NULL when there are none; at most max. -EINVAL, -ENOMEM. */
int node_copy_answer_parse(struct str text, size_t max, struct node_copy_answer **ret,
                           size_t *ret_n, struct err *e);

#endif
