#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "agent/jobs/sys_db_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys_sqlite.h"

enum {
    DB_APPLICATION_ID = 0x61676e74, /* "agnt" */
    DB_TEXT_MAX = 4 * 1024 * 1024,  /* of one value; the largest of ours is a document */
};

/* Version n is what the first n of these make. Never change one that was released: add the next.
 * Counts per (job, revision, state) and the sum of kept bytes are written along, so that asking for
 * them costs nothing; a job's row outlives its deletion, so that its revisions only grow. */
static const char *const migrations[JOB_STORE_VERSION] = {
    "CREATE TABLE run("
    " id BLOB NOT NULL PRIMARY KEY,"
    " job TEXT NOT NULL, revision INTEGER NOT NULL, state TEXT NOT NULL,"
    " epoch INTEGER NOT NULL, attempt INTEGER NOT NULL,"
    " created INTEGER NOT NULL, ended INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    " record TEXT NOT NULL, spec TEXT);"
    "CREATE INDEX run_by_state ON run(state, id);"
    "CREATE INDEX run_by_job ON run(job, state, id);"
    "CREATE INDEX run_live ON run(id) WHERE ended = 0;"
    "CREATE INDEX run_ended ON run(ended) WHERE ended > 0;"
    "CREATE TABLE run_count("
    " job TEXT NOT NULL, revision INTEGER NOT NULL, state TEXT NOT NULL,"
    " n INTEGER NOT NULL, last INTEGER NOT NULL,"
    " PRIMARY KEY(job, revision, state)) WITHOUT ROWID;"
    "CREATE TABLE total(name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE job("
    " name TEXT NOT NULL PRIMARY KEY, revision INTEGER NOT NULL, created INTEGER NOT NULL,"
    " updated INTEGER NOT NULL, deleted INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE job_revision("
    " name TEXT NOT NULL, revision INTEGER NOT NULL, created INTEGER NOT NULL,"
    " document TEXT NOT NULL, PRIMARY KEY(name, revision));"
    "CREATE TABLE request_key("
    " key TEXT NOT NULL PRIMARY KEY, hash BLOB NOT NULL, run BLOB NOT NULL,"
    " created INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX request_key_age ON request_key(created);",
    /* 2: what became of a run's earlier attempts. */
    "CREATE TABLE run_attempt("
    " id BLOB NOT NULL, attempt INTEGER NOT NULL, record TEXT NOT NULL,"
    " PRIMARY KEY(id, attempt));",
    /* 3: copies of other nodes' runs, records that did not stand, claims. */
    "CREATE TABLE copy("
    " id BLOB NOT NULL PRIMARY KEY, owner INTEGER NOT NULL, ended INTEGER NOT NULL,"
    " bytes INTEGER NOT NULL, record TEXT NOT NULL, spec TEXT NOT NULL, payload BLOB);"
    "CREATE INDEX copy_live ON copy(owner, id) WHERE ended = 0;"
    "CREATE INDEX copy_ended ON copy(ended) WHERE ended > 0;"
    "CREATE TABLE run_merged("
    " id BLOB NOT NULL, epoch INTEGER NOT NULL, owner INTEGER NOT NULL, record TEXT NOT NULL,"
    " PRIMARY KEY(id, epoch, owner));"
    "CREATE TABLE claim("
    " key TEXT NOT NULL PRIMARY KEY, hash BLOB NOT NULL, run BLOB NOT NULL,"
    " created INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX claim_age ON claim(created);",
};

static const char *const statements[JOB_ST_COUNT_] = {
    [JOB_ST_RUN_ADD] = "INSERT INTO run(id, job, revision, state, epoch, attempt, created, ended,"
                       " bytes, record, spec) VALUES(?,?,?,?,?,?,?,?,?,?,?)",
    [JOB_ST_RUN_HEAD] = "SELECT job, revision, state, epoch, attempt, ended, bytes, created"
                        " FROM run WHERE id = ?",
    [JOB_ST_RUN_PUT] = "UPDATE run SET state = ?, epoch = ?, attempt = ?, ended = ?, bytes = ?,"
                       " record = ? WHERE id = ?",
    [JOB_ST_RUN_GET] = "SELECT record, spec FROM run WHERE id = ?",
    [JOB_ST_RUN_LIVE] = "SELECT record FROM run WHERE ended = 0 AND id > ? ORDER BY id LIMIT ?",
    [JOB_ST_RUN_CALLERS] =
        "SELECT record FROM run r WHERE ended > 0 AND ended > ? AND"
        " (spec LIKE '%\"callbacks\":%' OR EXISTS (SELECT 1 FROM job_revision d WHERE"
        " d.name = r.job AND d.revision = r.revision AND d.document LIKE '%\"callbacks\":%'))"
        " ORDER BY ended LIMIT ?",
    [JOB_ST_RUN_DELETE] = "DELETE FROM run WHERE id = ?",
    [JOB_ST_RUN_OLD] = "SELECT id, ended, bytes, attempt, state IN ('failed','timed_out','lost')"
                       " FROM run WHERE ended > 0"
                       " AND (state NOT IN ('failed','timed_out','lost') OR ended <= ?)"
                       " ORDER BY ended LIMIT ?",
    [JOB_ST_ATTEMPT_PUT] = "INSERT OR REPLACE INTO run_attempt(id, attempt, record) VALUES(?,?,?)",
    [JOB_ST_ATTEMPTS] = "SELECT record FROM run_attempt WHERE id = ? ORDER BY attempt LIMIT ?",
    [JOB_ST_ATTEMPTS_DELETE] = "DELETE FROM run_attempt WHERE id = ?",
    [JOB_ST_COUNT_ADD] =
        "INSERT INTO run_count(job, revision, state, n, last) VALUES(?,?,?,1,?) ON CONFLICT DO"
        " UPDATE SET n = n + 1, last = max(last, excluded.last)",
    [JOB_ST_COUNT_SUB] =
        "UPDATE run_count SET n = n - 1 WHERE job = ? AND revision = ? AND state = ?",
    [JOB_ST_TOTAL_GET] = "SELECT value FROM total WHERE name = ?",
    [JOB_ST_TOTAL_ADD] = "INSERT INTO total(name, value) VALUES(?,?) ON CONFLICT DO"
                         " UPDATE SET value = value + excluded.value",
    [JOB_ST_KEY_GET] = "SELECT k.hash, r.record FROM request_key k JOIN run r ON r.id = k.run"
                       " WHERE k.key = ? AND k.created > ?",
    [JOB_ST_KEY_PUT] =
        "INSERT OR REPLACE INTO request_key(key, hash, run, created) VALUES(?,?,?,?)",
    [JOB_ST_KEY_OLD] = "DELETE FROM request_key WHERE key IN (SELECT key FROM request_key"
                       " WHERE created <= ? LIMIT 1000)",
    [JOB_ST_JOB_HEAD] = "SELECT revision, created, updated, deleted FROM job WHERE name = ?",
    [JOB_ST_JOB_PUT] = "INSERT OR REPLACE INTO job(name, revision, created, updated, deleted)"
                       " VALUES(?,?,?,?,0)",
    [JOB_ST_JOB_DELETE] = "UPDATE job SET deleted = ? WHERE name = ?",
    [JOB_ST_JOB_GET] = "SELECT j.revision, j.created, j.updated, d.document FROM job j JOIN"
                       " job_revision d ON d.name = j.name AND d.revision = j.revision"
                       " WHERE j.name = ? AND j.deleted = 0",
    [JOB_ST_JOB_LIST] = "SELECT j.revision, j.created, j.updated, d.document FROM job j JOIN"
                        " job_revision d ON d.name = j.name AND d.revision = j.revision"
                        " WHERE j.name > ? AND j.deleted = 0 ORDER BY j.name LIMIT ?",
    [JOB_ST_REVISION_PUT] =
        "INSERT OR REPLACE INTO job_revision(name, revision, created, document) VALUES(?,?,?,?)",
    [JOB_ST_REVISION_GET] =
        "SELECT d.revision, j.created, d.created, d.document FROM job_revision d"
        " JOIN job j ON j.name = d.name WHERE d.name = ? AND d.revision = ?",
    [JOB_ST_REVISION_OLD] =
        "DELETE FROM job_revision WHERE rowid IN (SELECT d.rowid FROM job_revision d JOIN job j ON"
        " j.name = d.name WHERE (j.revision <> d.revision OR j.deleted > 0) AND NOT EXISTS"
        " (SELECT 1 FROM run_count c WHERE c.job = d.name AND c.revision = d.revision AND c.n > 0)"
        " LIMIT 1000)",
    [JOB_ST_JOB_OLD] = "DELETE FROM job WHERE deleted > 0 AND deleted < ? AND NOT EXISTS"
                       " (SELECT 1 FROM job_revision d WHERE d.name = job.name)",
    [JOB_ST_STATS_ALL] = "SELECT state, sum(n) FROM run_count GROUP BY state",
    [JOB_ST_STATS_JOBS] = "SELECT job, max(last) AS newest FROM run_count GROUP BY job"
                          " HAVING sum(n) > 0 ORDER BY newest DESC, job LIMIT ?",
    [JOB_ST_STATS_JOB] = "SELECT state, sum(n) FROM run_count WHERE job = ? GROUP BY state",
    [JOB_ST_JOBS_COUNT] = "SELECT count(*) FROM job WHERE deleted = 0",
    [JOB_ST_COUNT_EMPTY] = "DELETE FROM run_count WHERE n = 0",
    [JOB_ST_COPY_ADD] = "INSERT INTO copy(id, owner, ended, bytes, record, spec, payload)"
                        " VALUES(?,?,?,?,?,?,?)",
    [JOB_ST_COPY_PUT] = "UPDATE copy SET owner = ?, ended = ?, bytes = ?, record = ? WHERE id = ?",
    [JOB_ST_COPY_GET] = "SELECT record, spec, payload FROM copy WHERE id = ?",
    [JOB_ST_COPY_DELETE] = "DELETE FROM copy WHERE id = ?",
    [JOB_ST_COPY_OLD] = "SELECT id, ended, bytes FROM copy WHERE ended > 0 ORDER BY ended LIMIT ?",
    [JOB_ST_COPIES] =
        "SELECT record FROM copy WHERE ended = 0 AND owner = ? AND id > ? ORDER BY id LIMIT ?",
    [JOB_ST_COPIES_ALL] = "SELECT record FROM copy WHERE ended = 0 AND id > ? ORDER BY id LIMIT ?",
    [JOB_ST_MERGED_PUT] =
        "INSERT OR IGNORE INTO run_merged(id, epoch, owner, record) VALUES(?,?,?,?)",
    [JOB_ST_MERGED_COUNT] = "SELECT count(*) FROM run_merged WHERE id = ?",
    [JOB_ST_MERGED_DELETE] = "DELETE FROM run_merged WHERE id = ?",
    [JOB_ST_CLAIM_GET] = "SELECT hash, run, created FROM claim WHERE key = ? AND created > ?",
    [JOB_ST_CLAIM_PUT] = "INSERT OR REPLACE INTO claim(key, hash, run, created) VALUES(?,?,?,?)",
    [JOB_ST_CLAIM_DROP] = "DELETE FROM claim WHERE key = ? AND run = ?",
    [JOB_ST_CLAIM_OLD] = "DELETE FROM claim WHERE key IN (SELECT key FROM claim"
                         " WHERE created <= ? LIMIT 1000)",
};

int job_db_error(struct job_db *db, int rc)
{
    return sys_sqlite_error(db->c, "store", rc, &db->error);
}

int job_db_exec(struct job_db *db, const char *sql)
{
    return job_db_error(db, sqlite3_exec(db->c, sql, NULL, NULL, NULL));
}

bool job_db_in_transaction(const struct job_db *db)
{
    return sqlite3_get_autocommit(db->c) == 0;
}

/* --- statements --- */

void job_db_begin(struct job_db *db, enum job_db_statement which, struct job_db_use *u)
{
    *u = (struct job_db_use){ .db = db, .rc = SQLITE_OK };
    if (db->st[which] == NULL) {
        u->rc = sqlite3_prepare_v3(db->c, statements[which], -1, SQLITE_PREPARE_PERSISTENT,
                                   &db->st[which], NULL);
    }
    u->st = db->st[which];
}

void job_db_begin_text(struct job_db *db, const char *sql, struct job_db_use *u)
{
    *u = (struct job_db_use){ .db = db, .rc = SQLITE_OK };
    u->rc = sqlite3_prepare_v3(db->c, sql, -1, 0, &u->st, NULL);
}

static void bound(struct job_db_use *u, int rc)
{
    if (u->rc == SQLITE_OK) {
        u->rc = rc;
    }
}

void job_db_bind_i64(struct job_db_use *u, int64_t v)
{
    bound(u, sqlite3_bind_int64(u->st, ++u->bound, v));
}

void job_db_bind_text(struct job_db_use *u, struct str s)
{
    bound(u, sqlite3_bind_text64(u->st, ++u->bound, s.n != 0 ? s.p : "", s.n, SQLITE_STATIC,
                                 SQLITE_UTF8));
}

void job_db_bind_blob(struct job_db_use *u, const void *p, size_t n)
{
    bound(u, sqlite3_bind_blob64(u->st, ++u->bound, p, n, SQLITE_STATIC));
}

void job_db_bind_null(struct job_db_use *u)
{
    bound(u, sqlite3_bind_null(u->st, ++u->bound));
}

bool job_db_row(struct job_db_use *u)
{
    if (u->rc == SQLITE_OK || u->rc == SQLITE_ROW) {
        u->rc = sqlite3_step(u->st);
    }
    return u->rc == SQLITE_ROW;
}

int job_db_end(struct job_db_use *u)
{
    int r = job_db_error(u->db, u->rc);

    if (u->st != NULL) {
        (void)sqlite3_reset(u->st);
        (void)sqlite3_clear_bindings(u->st);
    }
    return r;
}

void job_db_end_text(struct job_db_use *u)
{
    (void)sqlite3_finalize(u->st);
    u->st = NULL;
}

int job_db_run(struct job_db_use *u)
{
    (void)job_db_row(u);
    return job_db_end(u);
}

struct str job_db_text(const struct job_db_use *u, int column)
{
    const void *p = sqlite3_column_blob(u->st, column);
    int n = sqlite3_column_bytes(u->st, column);

    return (struct str){ p, p != NULL && n > 0 ? (size_t)n : 0 };
}

/* --- opening --- */

int job_db_open(const char *dir, bool writer, uint64_t max_pages, struct job_db **ret,
                struct err *e)
{
    static const struct sys_sqlite_file file = {
        .name = "agent.db",
        .application_id = DB_APPLICATION_ID,
        .migrations = migrations,
        .version = JOB_STORE_VERSION,
        .remedy = "restore a backup",
        .pragmas = "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_size_limit=16777216;"
                   "PRAGMA cache_size=-2048;",
        .value_max = DB_TEXT_MAX,
    };
    struct job_db *db = mem_zalloc(sizeof *db);

    if (db == NULL) {
        return err_set(e, -ENOMEM, "open the store");
    }
    int r = sys_sqlite_open(dir, &file, writer, &db->c, e);
    if (r == 0 && max_pages != 0) {
        char sql[64];
        (void)snprintf(sql, sizeof sql, "PRAGMA max_page_count=%llu",
                       (unsigned long long)max_pages);
        r = job_db_exec(db, sql);
        if (r != 0) {
            (void)err_say(e, r, "%s", err_text(&db->error));
        }
    }
    if (r != 0) {
        job_db_close(db);
        return r;
    }
    *ret = db;
    return 0;
}

struct job_db *job_db_close(struct job_db *db)
{
    if (db != NULL) {
        for (size_t i = 0; i < ARRAY_LEN(db->st); i++) {
            (void)sqlite3_finalize(db->st[i]);
        }
        (void)sqlite3_close(db->c);
        mem_free(db);
    }
    return NULL;
}

uint64_t job_db_file_bytes(struct job_db *db)
{
    int64_t pages = 0;
    int64_t size = 0;

    if (sys_sqlite_i64(db->c, "PRAGMA page_count", &pages) != 0 ||
        sys_sqlite_i64(db->c, "PRAGMA page_size", &size) != 0) {
        return 0;
    }
    struct stat st;
    const char *wal = sqlite3_filename_wal(sqlite3_db_filename(db->c, "main"));
    uint64_t log = wal != NULL && stat(wal, &st) == 0 ? (uint64_t)st.st_size : 0;
    return (uint64_t)pages * (uint64_t)size + log;
}
