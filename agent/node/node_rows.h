/*
 * node_rows - what a node says of itself in the shared table, as JSON.
 *
 *   capability  key ""          what it is: room, class, version, facts; once per start
 *   load        key ""          how busy it is; at most once a second
 *   image       key "repo:tag"  the digest behind a tag that it holds, since when, and what the
 *                               image's programs need
 *               key ""          which images are unpacked there
 *   job         key NAME        a document with its revision (cluster-owned)
 *
 * Pure. What is parsed comes from another machine: what is missing or out of range is an error,
 * members that are not known are passed over.
 */
#ifndef AGENT_NODE_ROWS_H
#define AGENT_NODE_ROWS_H

#include "agent/image/programs.h"
#include "agent/node/node_internal.h"
#include "common/buf.h"
#include "common/json.h"

/* -- load -- */

struct node_load {
    unsigned slots_free;
    uint64_t memory_free_bytes;
    uint64_t wait_us;
    unsigned running, active, queued;
    unsigned polluters, sensitive; /* runs there, by their class of cache */
    bool draining;
};
void node_load_write(struct buf *out, const struct node_load *l);
int node_load_parse(struct str text, struct node_load *ret, struct err *e); /* -EINVAL */

/* -- capability -- */

struct node_capability {
    struct node_room room;
    struct str version;
    struct str class_id;
    struct route_fact facts[NODE_FACTS_MAX];
    size_t facts_len;
    struct json_doc *doc; /* what the texts point into, when it was parsed */
};
void node_capability_write(struct buf *out, const struct node_capability *c);
/* -EINVAL, -ENOMEM. */
int node_capability_parse(struct str text, struct node_capability *ret, struct err *e);
void node_capability_release(struct node_capability *c);

/* -- image -- */

/* Hashes (node_image_hash) as text; as many as fit into max bytes. */
void node_ready_write(struct buf *out, const uint64_t *images, size_t n, size_t max);
/* At most cap of them; what makes no sense is passed over. The number. */
size_t node_ready_parse(struct str text, uint64_t *images, size_t cap);

struct node_tag {
    struct digest digest;
    int64_t pushed_us;
    bool has_programs; /* false: they are still being looked at, or it is an older agent */
    struct image_programs programs;
};
void node_tag_write(struct buf *out, const struct node_tag *t);
int node_tag_parse(struct str text, struct node_tag *ret, struct err *e); /* -EINVAL */

/* -- job -- */

void node_job_row_write(struct buf *out, const struct job *job);
/* *ret is the caller's. -EINVAL, -ENOMEM. */
int node_job_row_parse(struct str name, struct str text, struct job **ret, struct err *e);

#endif
