/*
 * uv_table - the shared table on the loop: a timer that follows the core's deadline, a database
 * (table.db) for what is cluster-owned, and the way out to the members.
 *
 * It never sees sockets: whoever runs the gossip gives a `send` and feeds members and messages in.
 * All calls are for the loop's thread; callbacks come later, from the loop, never inside the call.
 */
#ifndef AGENT_TABLE_UV_TABLE_H
#define AGENT_TABLE_UV_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/table/table.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/loop/loop.h"
#include "common/str.h"

struct table_shell;

/* bytes are valid during the call. reliable: over a connection; else at most TABLE_DIRECT_MAX
 * bytes, one datagram. What cannot be sent is dropped: it comes again. */
typedef void table_send_fn(void *arg, struct str peer, struct str bytes, bool reliable);

struct table_options {
    struct loop *loop;
    const char *dir; /* holds table.db; "" or NULL: nothing is kept */
    struct str name; /* this node's */
    uint32_t node_id;
    table_send_fn *send; /* NULL: nobody to send to (yet: table_set_send) */
    void *send_arg;
    uint64_t tombstone_ms; /* 0: table.h's default; so are the others */
    uint64_t bytes_per_s;
    uint64_t seed; /* 0: from the kernel */
};

/* Opens the database and reads it at once (the loop does not run yet). -EPROTONOSUPPORT: made by a
 * newer version; -EBADMSG: not ours, or damaged; -Exxx. */
int table_start(const struct table_options *opt, struct table_shell **ret, struct err *e);
/* Writes what waits, closes, then calls on_closed from the loop and is gone. Waiting writes are
 * answered first. */
void table_close(struct table_shell *s, void (*on_closed)(void *arg), void *arg);
void table_set_send(struct table_shell *s, table_send_fn *send, void *arg);

/* For readers: table_get(), table_next(), … Never step it. */
const struct table *table_core(const struct table_shell *s);

/* A write of this node's own row; memory only (per-origin rows also go to disk, soon). Errors as
 * table_put_node(); -ECANCELED: closing. */
int table_write_node(struct table_shell *s, unsigned type, struct str key, struct str value,
                     struct err *e);
/* Cluster-owned. 0: readers see it now, and done(status) comes when it is durable (0) or could not
 * be made so yet (-EIO, -ENOSPC; it is tried again). Errors as table_put(): done does not come.
 * done may be NULL. */
typedef void table_done_fn(void *arg, int status);
int table_write(struct table_shell *s, unsigned type, struct str key, struct str value,
                table_done_fn *done, void *arg, struct err *e);
int table_remove(struct table_shell *s, unsigned type, struct str key, table_done_fn *done,
                 void *arg, struct err *e);
/* The caller behind arg is gone: no done() with it any more. */
void table_forget(struct table_shell *s, void *arg);

/* row: as it is now, NULL when it went; old: as it was, NULL when it is new. Called after the step
 * that changed it: for own writes too. A write from inside is carried out when all watches were
 * called; it answers 0, and what is wrong with it is told to its done() only. */
typedef void table_watch_fn(void *arg, const struct table_row_view *row,
                            const struct table_row_view *old);
/* Every change of rows of this type (0: of all) until table_unwatch(). -ENOBUFS: 32 watches are the
 * most. */
int table_watch(struct table_shell *s, unsigned type, table_watch_fn *fn, void *arg);
void table_unwatch(struct table_shell *s, table_watch_fn *fn, void *arg);

/* From the gossip. */
void table_on_member(struct table_shell *s, struct str name, enum table_member state, bool speaks);
void table_on_message(struct table_shell *s, struct str from, struct str bytes);

/* GET /v1/table: {"rows": […], "next": …, "counts": {…}, "sizes": {…}}: rows by type, owner and
 * key. type 0: all; after: "" or the "next" of the page before; limit: 1 to 1,000. A value that is
 * JSON is shown as it is, other text as a string, other bytes as {"base64": …} of the first 1,024;
 * those of private types never. -EINVAL: `after` is not one of ours. -ENOMEM. */
int table_json(const struct table_shell *s, unsigned type, struct str after, size_t limit,
               struct buf *out);
/* Prometheus text: agent_table_…. */
void table_metrics(const struct table_shell *s, struct buf *out);

#endif
