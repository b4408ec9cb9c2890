/*
 * api_merge - one answer out of many nodes' answers. Pure.
 *
 * Each part is what one node said of itself, parsed; a node that said nothing has root NULL and is
 * named in the answer's "partial". Members that are not understood are passed over.
 */
#ifndef AGENT_API_MERGE_H
#define AGENT_API_MERGE_H

#include <stddef.h>

#include "common/buf.h"
#include "common/json.h"
#include "common/str.h"

struct api_part {
    const char *node;
    const char *state;   /* of a node that said nothing: "unreachable", "dead", … */
    const char *address; /* of it, or "" */
    const struct json *root;
};

/* GET /v1/runs: the newest `limit` runs of all lists, each of which is sorted so. "next" is the
 * cursor when there are more. */
void api_merge_runs(struct buf *out, const struct api_part *parts, size_t n, size_t limit);
/* GET /v1/callbacks: likewise; "more" instead of a cursor. */
void api_merge_callbacks(struct buf *out, const struct api_part *parts, size_t n, size_t limit);
/* GET /v1/nodes: the arrays one after the other, by name. */
void api_merge_nodes(struct buf *out, const struct api_part *parts, size_t n);
/* GET /v1/status: nodes, jobs with their counts added up, the last failures, warnings. The first
 * part is this node's. */
void api_merge_status(struct buf *out, const struct api_part *parts, size_t n);

#endif
