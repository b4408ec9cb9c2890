/*
 * images.db. One connection, one lock; a statement is prepared once.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/store_internal.h"
#include "common/insist.h"
#include "common/sys/sys_sqlite.h"

enum { SCHEMA_VERSION = 1, VALUE_MAX = 16 * 1024 * 1024 /* the largest: an answer's list */ };

/* Version n is what the first n of these make. Never change one that was released: add the next. */
static const char *const migrations[SCHEMA_VERSION] = {
    "CREATE TABLE blobs(digest TEXT PRIMARY KEY, size INTEGER NOT NULL, added INTEGER NOT NULL)"
    " WITHOUT ROWID;"
    "CREATE TABLE repos(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"
    /* A blob is visible in the repositories that it was pushed to or mounted in. */
    "CREATE TABLE links(repo INTEGER NOT NULL, digest TEXT NOT NULL, added INTEGER NOT NULL,"
    " PRIMARY KEY(repo, digest)) WITHOUT ROWID;"
    "CREATE INDEX links_digest ON links(digest);"
    "CREATE TABLE manifests(digest TEXT PRIMARY KEY, media_type TEXT NOT NULL,"
    " size INTEGER NOT NULL, total INTEGER NOT NULL, layers INTEGER NOT NULL,"
    " created INTEGER NOT NULL, subject TEXT, artifact_type TEXT NOT NULL, annotations TEXT)"
    " WITHOUT ROWID;"
    "CREATE INDEX manifests_subject ON manifests(subject) WHERE subject IS NOT NULL;"
    /* Which repositories have a manifest. */
    "CREATE TABLE holds(repo INTEGER NOT NULL, digest TEXT NOT NULL, pushed INTEGER NOT NULL,"
    " used INTEGER NOT NULL, PRIMARY KEY(repo, digest)) WITHOUT ROWID;"
    "CREATE INDEX holds_digest ON holds(digest);"
    "CREATE TABLE tags(repo INTEGER NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL,"
    " pushed INTEGER NOT NULL, PRIMARY KEY(repo, tag)) WITHOUT ROWID;"
    "CREATE INDEX tags_digest ON tags(digest);"
    "CREATE TABLE refs(manifest TEXT NOT NULL, digest TEXT NOT NULL, kind INTEGER NOT NULL,"
    " PRIMARY KEY(manifest, digest, kind)) WITHOUT ROWID;"
    "CREATE INDEX refs_digest ON refs(digest, kind);",
};

static int db_error(struct image_db *db, struct err *e, const char *what)
{
    int rc = db->handle != NULL ? sqlite3_errcode(db->handle) : SQLITE_NOMEM;
    int code = rc == SQLITE_FULL ? -ENOSPC : rc == SQLITE_NOMEM ? -ENOMEM : -EIO;
    return err_say(e, code, "%s: %s", what,
                   db->handle != NULL ? sqlite3_errmsg(db->handle) : "out of memory");
}

static int execute(struct image_db *db, const char *sql, struct err *e)
{
    return sqlite3_exec(db->handle, sql, NULL, NULL, NULL) == SQLITE_OK
               ? 0
               : db_error(db, e, "image database");
}

int image_db_open(struct image_db *db, const char *dir, struct err *e)
{
    static const struct sys_sqlite_file file = {
        .name = "images.db",
        .migrations = migrations,
        .version = SCHEMA_VERSION,
        .remedy = "restore a backup",
        .pragmas = "PRAGMA journal_size_limit=4194304; PRAGMA cache_size=-1024;",
        .value_max = VALUE_MAX,
    };
    return sys_sqlite_open(dir, &file, true, &db->handle, e);
}

void image_db_close(struct image_db *db)
{
    for (size_t i = 0; i < db->cached_len; i++) {
        sqlite3_finalize(db->cached[i].statement);
    }
    db->cached_len = 0;
    if (db->handle != NULL) {
        sqlite3_close(db->handle);
        db->handle = NULL;
    }
}

sqlite3_stmt *image_db_query(struct image_db *db, const char *sql)
{
    for (size_t i = 0; i < db->cached_len; i++) {
        if (db->cached[i].sql == sql) {
            return db->cached[i].statement;
        }
    }
    INSIST(db->cached_len < IMAGE_DB_STATEMENTS_MAX);
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &q, NULL) != SQLITE_OK) {
        return NULL;
    }
    db->cached[db->cached_len].sql = sql;
    db->cached[db->cached_len].statement = q;
    db->cached_len++;
    return q;
}

void image_db_reset(sqlite3_stmt **q)
{
    if (*q != NULL) {
        sqlite3_reset(*q);
        sqlite3_clear_bindings(*q);
    }
}

void image_db_text(sqlite3_stmt *q, int i, const char *text)
{
    if (text == NULL) {
        sqlite3_bind_null(q, i);
    } else {
        sqlite3_bind_text(q, i, text, -1, SQLITE_TRANSIENT);
    }
}

void image_db_int(sqlite3_stmt *q, int i, int64_t v)
{
    sqlite3_bind_int64(q, i, v);
}

int image_db_step(struct image_db *db, sqlite3_stmt *q, struct err *e)
{
    int rc = q == NULL ? SQLITE_ERROR : sqlite3_step(q);
    if (rc == SQLITE_ROW) {
        return 1;
    }
    return rc == SQLITE_DONE ? 0 : db_error(db, e, "image database");
}

int image_db_run(struct image_db *db, sqlite3_stmt *q, struct err *e)
{
    int r = image_db_step(db, q, e);
    image_db_reset(&q);
    return r < 0 ? r : 0;
}

const char *image_db_column_text(sqlite3_stmt *q, int i)
{
    const char *text = (const char *)sqlite3_column_text(q, i);
    return text != NULL ? text : "";
}

int image_db_begin(struct image_db *db, struct err *e)
{
    return execute(db, "BEGIN IMMEDIATE", e);
}

int image_db_end(struct image_db *db, int r, struct err *e)
{
    if (r == 0) {
        r = execute(db, "COMMIT", e);
    }
    if (r < 0 && sqlite3_get_autocommit(db->handle) == 0) {
        (void)execute(db, "ROLLBACK", NULL);
    }
    return r;
}

int64_t image_db_repo(struct image_db *db, const char *name, bool create, struct err *e)
{
    sqlite3_stmt AUTO_QUERY *q = image_db_query(db, "SELECT id FROM repos WHERE name = ?1");
    image_db_text(q, 1, name);
    int r = image_db_step(db, q, e);
    if (r != 0) {
        return r < 0 ? r : sqlite3_column_int64(q, 0);
    }
    if (!create) {
        return err_say(e, -ENOENT, "no repository '%s' here", name);
    }
    sqlite3_stmt *insert = image_db_query(db, "INSERT INTO repos(name) VALUES(?1)");
    image_db_text(insert, 1, name);
    r = image_db_run(db, insert, e);
    return r < 0 ? r : sqlite3_last_insert_rowid(db->handle);
}
