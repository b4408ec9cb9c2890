/*
 * sys_node_callbacks - callbacks.db: the deliveries of call-backs, synchronously. For one thread at
 * a time.
 *
 * Everything returns 0 or -Exxx: -ENOSPC, -ENOMEM, -EBADMSG (damaged, or not ours), -EROFS, -EBUSY,
 * -EIO; node_callback_db_error() has the sentence.
 */
#ifndef AGENT_NODE_SYS_NODE_CALLBACKS_H
#define AGENT_NODE_SYS_NODE_CALLBACKS_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

enum { NODE_CALLBACK_DB_VERSION = 1 };

struct node_callback_db;

/* A row. Texts are the caller's when it is put, the database's when it is read. */
struct node_callback_row {
    struct str id;
    struct str job;
    struct str url;
    struct str secret;
    struct str type;
    struct str detail;
    struct str body; /* put: empty leaves what is there; read: not filled in */
    uint32_t revision;
    unsigned state;
    unsigned tries;
    int status;
    int64_t created_us;
    int64_t due_us;
    int64_t done_us;
};

enum node_callback_op { NODE_CALLBACK_PUT, NODE_CALLBACK_DROP };
struct node_callback_change {
    enum node_callback_op op;
    struct node_callback_row row; /* DROP: its id */
};

/* dir/callbacks.db, made when it is not there. -EPROTONOSUPPORT: written by a newer version. */
int node_callback_db_open(const char *dir, struct node_callback_db **ret, struct err *e);
/* NULL is fine; returns NULL. */
struct node_callback_db *node_callback_db_close(struct node_callback_db *db);

/* All rows, the oldest first. each() returns 0 or what ends it. */
typedef int node_callback_each_fn(void *arg, const struct node_callback_row *row);
int node_callback_db_load(struct node_callback_db *db, node_callback_each_fn *each, void *arg);
/* Ends of runs before this moment (wall clock, in µs) all have their rows; 0: never written. */
int node_callback_db_seen(struct node_callback_db *db, int64_t *ret_us);
/* All of them, and the moment (0: as it was), in one transaction, durable when it returns 0;
 * nothing otherwise. */
int node_callback_db_apply(struct node_callback_db *db, const struct node_callback_change *changes,
                           size_t n, int64_t seen_us);
/* Appends a row's body. -ENOENT. */
int node_callback_db_body(struct node_callback_db *db, struct str id, struct buf *out);
const char *node_callback_db_error(const struct node_callback_db *db);

#endif
