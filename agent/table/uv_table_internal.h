/*
 * uv_table_internal - the shell of the shared table: what its files share.
 *
 * PERSIST effects are copied into a batch; a pool thread writes one batch at a time as one
 * transaction, and what came meanwhile is the next one. A batch that fails is tried again every
 * second, in its place: the order on disk is the order of the effects.
 */
#ifndef AGENT_TABLE_UV_TABLE_INTERNAL_H
#define AGENT_TABLE_UV_TABLE_INTERNAL_H

#include "agent/table/sys_table_db.h"
#include "agent/table/uv_table.h"
#include "common/list.h"
#include "common/log.h"

enum {
    TABLE_WATCHES_MAX = 32,
    TABLE_BATCH_MAX = 4096,    /* records of one transaction */
    TABLE_RETRY_MS = 1000,     /* after a transaction that failed */
    TABLE_LIFE_MS = 60 * 1000, /* how exactly the database knows when this node was alive */
};

/* A copy of a record, in one piece of memory. */
struct table_kept {
    struct list link;
    struct table_record r;
    uint64_t seq;
    char bytes[];
};

struct table_waiter { /* somebody who wrote */
    struct list link;
    uint64_t seq;
    int status;
    table_done_fn *done;
    void *arg;
};

enum table_later_op { TABLE_LATER_NODE, TABLE_LATER_PUT, TABLE_LATER_REMOVE };

struct table_later { /* a write from inside a watch */
    struct list link;
    enum table_later_op op;
    unsigned type;
    table_done_fn *done;
    void *arg;
    size_t key_n, value_n;
    char bytes[]; /* key, value */
};

struct table_watcher {
    unsigned type;
    table_watch_fn *fn;
    void *arg;
};

struct table_shell {
    struct loop *loop;
    struct loop_owner owner;
    struct loop_timer tick, retry, life;
    struct loop_work work;
    struct loop_defer answer; /* waiters whose time has come */
    struct table *core;
    struct table_db *db; /* NULL: nothing is kept */
    table_send_fn *send;
    void *send_arg;
    struct table_watcher watches[TABLE_WATCHES_MAX];
    size_t watches_len;
    bool telling; /* effects are being carried out: writes wait in `later` */
    bool catching_up;
    struct list later;
    bool closing, had_peer;
    bool was_alone; /* at the start: never in a cluster, or the only member of it */

    struct list kept; /* not durable yet */
    size_t kept_len;
    uint64_t persist_seq, durable_seq;
    struct list waiters, answers;

    /* the pool thread's while work is busy */
    const struct table_record *batch[TABLE_BATCH_MAX];
    size_t batch_len;
    uint64_t batch_seq;
    struct table_db_life batch_life;
    bool batch_has_life;
    int batch_status;

    bool life_due;
    struct log_limit fail_limit;
    uint64_t commits, commit_failures, records_lost;
    void (*on_closed)(void *arg);
    void *closed_arg;
};

#endif
