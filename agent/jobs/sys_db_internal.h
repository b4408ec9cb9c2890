/*
 * sys_db_internal - the store's database, one connection at a time, synchronously. For the store's
 * own threads: a connection belongs to one thread.
 *
 *   sys_db.c       opening, hardening, schema, transactions, statements
 *   sys_db_run.c   runs and idempotency keys
 *   sys_db_job.c   job documents, statistics, retention
 *   sys_db_replica.c  copies of other nodes' runs, claims of keys
 *
 * Everything returns 0 or -Exxx: -ENOSPC, -ENOMEM, -EBADMSG (damaged), -EROFS, -EBUSY, -EIO.
 */
#ifndef AGENT_JOBS_SYS_DB_INTERNAL_H
#define AGENT_JOBS_SYS_DB_INTERNAL_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/jobs/jobs.h"
#include "agent/jobs/run.h"
#include "agent/jobs/uv_store.h"
#include "common/err.h"
#include "common/str.h"

enum job_db_statement {
    JOB_ST_RUN_ADD,
    JOB_ST_RUN_HEAD,
    JOB_ST_RUN_PUT,
    JOB_ST_RUN_GET,
    JOB_ST_RUN_LIVE,
    JOB_ST_RUN_CALLERS,
    JOB_ST_RUN_DELETE,
    JOB_ST_RUN_OLD,
    JOB_ST_ATTEMPT_PUT,
    JOB_ST_ATTEMPTS,
    JOB_ST_ATTEMPTS_DELETE,
    JOB_ST_COUNT_ADD,
    JOB_ST_COUNT_SUB,
    JOB_ST_TOTAL_GET,
    JOB_ST_TOTAL_ADD,
    JOB_ST_KEY_GET,
    JOB_ST_KEY_PUT,
    JOB_ST_KEY_OLD,
    JOB_ST_JOB_HEAD,
    JOB_ST_JOB_PUT,
    JOB_ST_JOB_DELETE,
    JOB_ST_JOB_GET,
    JOB_ST_JOB_LIST,
    JOB_ST_JOB_OLD,
    JOB_ST_REVISION_PUT,
    JOB_ST_REVISION_GET,
    JOB_ST_REVISION_OLD,
    JOB_ST_STATS_ALL,
    JOB_ST_STATS_JOBS,
    JOB_ST_STATS_JOB,
    JOB_ST_JOBS_COUNT,
    JOB_ST_COUNT_EMPTY,
    JOB_ST_COPY_ADD,
    JOB_ST_COPY_PUT,
    JOB_ST_COPY_GET,
    JOB_ST_COPY_DELETE,
    JOB_ST_COPY_OLD,
    JOB_ST_COPIES,
    JOB_ST_COPIES_ALL,
    JOB_ST_MERGED_PUT,
    JOB_ST_MERGED_COUNT,
    JOB_ST_MERGED_DELETE,
    JOB_ST_CLAIM_GET,
    JOB_ST_CLAIM_PUT,
    JOB_ST_CLAIM_DROP,
    JOB_ST_CLAIM_OLD,
    JOB_ST_COUNT_
};

struct job_db {
    sqlite3 *c;
    sqlite3_stmt *st[JOB_ST_COUNT_];
    struct err error; /* the last failure's sentence */
};

/* --- sys_db.c --- */

/* writer: creates, migrates. The others are query-only. max_pages: 0: no bound. */
int job_db_open(const char *dir, bool writer, uint64_t max_pages, struct job_db **ret,
                struct err *e);
struct job_db *job_db_close(struct job_db *db); /* NULL is fine; returns NULL */
int job_db_exec(struct job_db *db, const char *sql);
/* -EIO and the like in terms of errno; 0 for SQLITE_OK, ROW and DONE. */
int job_db_error(struct job_db *db, int rc);
/* Is a transaction open? SQLite ends one by itself after some failures. */
bool job_db_in_transaction(const struct job_db *db);
uint64_t job_db_file_bytes(struct job_db *db);

/* One use of a statement: bind in order, then run or read rows, then end. The first failure sticks.
 */
struct job_db_use {
    struct job_db *db;
    sqlite3_stmt *st;
    int bound;
    int rc; /* SQLite's */
};
void job_db_begin(struct job_db *db, enum job_db_statement which, struct job_db_use *u);
/* For a statement that is made for this use only; job_db_end() frees it. */
void job_db_begin_text(struct job_db *db, const char *sql, struct job_db_use *u);
void job_db_bind_i64(struct job_db_use *u, int64_t v);
/* Bytes that stay where they are until the end of this use. */
void job_db_bind_text(struct job_db_use *u, struct str s);
void job_db_bind_blob(struct job_db_use *u, const void *p, size_t n);
void job_db_bind_null(struct job_db_use *u);
bool job_db_row(struct job_db_use *u); /* false: no more, or failed */
int job_db_end(struct job_db_use *u);  /* 0 or what failed */
void job_db_end_text(struct job_db_use *u);
int job_db_run(struct job_db_use *u); /* to the end, without rows: row and end in one */
struct str job_db_text(const struct job_db_use *u, int column); /* valid until the next row */

/* --- sys_db_run.c --- */

int job_db_accept(struct job_db *db, const struct run *run, struct str spec, struct str key,
                  bool *ret_replayed, struct run *ret_known);
int job_db_put(struct job_db *db, const struct run *run, const struct run *former);
/* *ret_spec is the caller's, NULL when there is none. */
int job_db_get(struct job_db *db, const struct ulid *id, struct run *ret, struct job **ret_spec);
/* runs has room for filter->limit. */
int job_db_list(struct job_db *db, const struct job_store_filter *f, struct run *runs,
                size_t *ret_n, bool *ret_more);
int job_db_live(struct job_db *db, const struct ulid *after, size_t limit, struct run *runs,
                size_t *ret_n, bool *ret_more);
int job_db_callers_after(struct job_db *db, int64_t after_us, size_t limit, struct run *runs,
                         size_t *ret_n, bool *ret_more);
int job_db_attempts(struct job_db *db, const struct ulid *id, size_t limit, struct run *runs,
                    size_t *ret_n);
int job_db_delete_run(struct job_db *db, const struct ulid *id);
/* Parses a record. -EBADMSG. */
int job_db_read_run(struct job_db *db, struct str text, struct run *ret);

/* --- sys_db_replica.c --- */

/* Fills in what came of it. */
int job_db_replicate(struct job_db *db, struct job_replica *v);
int job_db_copy(struct job_db *db, const struct ulid *id, struct run *ret, struct job **ret_spec,
                struct buf *ret_payload);
int job_db_copies(struct job_db *db, uint32_t owner, const struct ulid *after, size_t limit,
                  struct run *runs, size_t *ret_n, bool *ret_more);
int job_db_adopt(struct job_db *db, const struct run *run);
/* How many records of this run did not stand. */
int job_db_merged(struct job_db *db, const struct ulid *id, uint32_t *ret);
int job_db_claim(struct job_db *db, struct str key, struct job_claim *c);
int job_db_retain_copies(struct job_db *db, int64_t now_us, int64_t cutoff_us, uint64_t bytes,
                         struct job_store_gone *gone, size_t limit, size_t *ret_n);

/* --- sys_db_job.c --- */

int job_db_total(struct job_db *db, const char *name, int64_t *ret);

int job_db_put_job(struct job_db *db, const char *name, struct str document, uint32_t if_match,
                   int64_t now_us, bool *ret_created, bool *ret_changed, struct job **ret);
/* A revision as another node numbered it: it is the newest here from then on. */
struct job_db_version {
    uint32_t revision;
    int64_t created_us, updated_us;
};
int job_db_take_job(struct job_db *db, struct str key, const struct job_db_version *v,
                    struct str document, bool *ret_created, bool *ret_changed, struct job **ret);
int job_db_get_job(struct job_db *db, struct str name, uint32_t revision, struct job **ret);
int job_db_list_jobs(struct job_db *db, struct str after, size_t limit, struct job **jobs,
                     size_t *ret_n, bool *ret_more);
int job_db_delete_job(struct job_db *db, struct str name, uint32_t if_match);
int job_db_retain(struct job_db *db, int64_t now_us, const struct job_retention *keep,
                  struct job_store_gone *gone, size_t limit, size_t *ret_n, bool *ret_more);
int job_db_stats(struct job_db *db, size_t jobs_max, struct job_store_stats *stats,
                 struct job_store_job_stats *jobs, size_t *ret_n);

#endif
