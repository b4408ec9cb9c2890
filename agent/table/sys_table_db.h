/*
 * sys_table_db - table.db: the cluster-owned part of the shared table, synchronously. For one
 * thread at a time.
 *
 * Everything returns 0 or -Exxx: -ENOSPC, -ENOMEM, -EBADMSG (damaged, or not ours), -EROFS, -EBUSY,
 * -EIO; db_error() has the sentence.
 */
#ifndef AGENT_TABLE_SYS_TABLE_DB_H
#define AGENT_TABLE_SYS_TABLE_DB_H

#include <stddef.h>
#include <stdint.h>

#include "agent/table/table.h"
#include "common/err.h"

enum { TABLE_DB_VERSION = 1 };

struct table_db;

/* What the database says of the node's last life. */
struct table_db_life {
    int64_t alive_ms; /* Unix time when it last knew the cluster; 0: never */
    bool alone;       /* it had no other member then */
};

/* dir/table.db, made when it is not there. -EPROTONOSUPPORT: written by a newer version. */
int table_db_open(const char *dir, struct table_db **ret, struct err *e);
struct table_db *table_db_close(struct table_db *db); /* NULL is fine; returns NULL */

/* All streams, then all rows in the order of their versions. each() returns 0 or what ends it. */
typedef int table_db_each_fn(void *arg, const struct table_record *record);
int table_db_load(struct table_db *db, table_db_each_fn *each, void *arg);
int table_db_life(struct table_db *db, struct table_db_life *ret);

/* All of them in one transaction, durable when it returns 0; nothing otherwise. life may be NULL.
 */
int table_db_apply(struct table_db *db, const struct table_record *const *records, size_t n,
                   const struct table_db_life *life);
const char *table_db_error(const struct table_db *db);

#endif
