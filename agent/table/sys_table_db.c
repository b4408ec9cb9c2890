#include "agent/table/sys_table_db.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>

#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys_sqlite.h"

enum {
    APPLICATION_ID = 0x61677462, /* "agtb" */
    VALUE_MAX = 1024 * 1024,     /* of one value; the largest of ours is a document */
};

/* Version n is what the first n of these make. Never change one that was released: add the next. */
static const char *const migrations[TABLE_DB_VERSION] = {
    "CREATE TABLE stream("
    " id INTEGER NOT NULL PRIMARY KEY, version INTEGER NOT NULL, kind INTEGER NOT NULL,"
    " own INTEGER NOT NULL, writer TEXT NOT NULL);"
    "CREATE TABLE row("
    " type INTEGER NOT NULL, owner TEXT NOT NULL, key BLOB NOT NULL,"
    " stream INTEGER NOT NULL, version INTEGER NOT NULL, clock INTEGER NOT NULL,"
    " deleted INTEGER NOT NULL, value BLOB NOT NULL, PRIMARY KEY(type, owner, key));"
    "CREATE TABLE life(name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;",
};

enum statement {
    ST_STREAM_PUT,
    ST_STREAM_DROP,
    ST_ROW_PUT,
    ST_ROW_DROP,
    ST_LIFE_PUT,
    ST_LIFE_GET,
    ST_STREAMS,
    ST_ROWS,
    ST_COUNT_
};

static const char *const statements[ST_COUNT_] = {
    [ST_STREAM_PUT] = "INSERT OR REPLACE INTO stream(id, version, kind, own, writer)"
                      " VALUES(?,?,?,?,?)",
    [ST_STREAM_DROP] = "DELETE FROM stream WHERE id = ?",
    [ST_ROW_PUT] = "INSERT OR REPLACE INTO row(type, owner, key, stream, version, clock, deleted,"
                   " value) VALUES(?,?,?,?,?,?,?,?)",
    [ST_ROW_DROP] = "DELETE FROM row WHERE type = ? AND owner = ? AND key = ?",
    [ST_LIFE_PUT] = "INSERT OR REPLACE INTO life(name, value) VALUES(?,?)",
    [ST_LIFE_GET] = "SELECT value FROM life WHERE name = ?",
    [ST_STREAMS] = "SELECT id, version, kind, own, writer FROM stream ORDER BY id",
    [ST_ROWS] = "SELECT type, owner, key, stream, version, clock, deleted, value FROM row"
                " ORDER BY version, stream",
};

struct table_db {
    struct sys_sqlite db;
    sqlite3_stmt *st[ST_COUNT_];
};

static uint64_t column_u64(const struct sys_sqlite_use *u, int i)
{
    return (uint64_t)sqlite3_column_int64(u->st, i);
}

/* --- opening --- */

int table_db_open(const char *dir, struct table_db **ret, struct err *e)
{
    static const struct sys_sqlite_file file = {
        .name = "table.db",
        .application_id = APPLICATION_ID,
        .migrations = migrations,
        .version = TABLE_DB_VERSION,
        .remedy = "remove the file (the other members have what was in it)",
        .pragmas = "PRAGMA journal_size_limit=16777216; PRAGMA cache_size=-1024;",
        .value_max = VALUE_MAX,
    };
    struct table_db *db = mem_zalloc(sizeof *db);

    if (db == NULL) {
        return err_set(e, -ENOMEM, "open the shared table");
    }
    db->db = (struct sys_sqlite){
        .name = "table.db", .sql = statements, .st = db->st, .len = ST_COUNT_
    };
    int rc = sys_sqlite_open(dir, &file, true, &db->db.c, e);
    if (rc != 0) {
        table_db_close(db);
        return rc;
    }
    *ret = db;
    return 0;
}

struct table_db *table_db_close(struct table_db *db)
{
    if (db != NULL) {
        sys_sqlite_close(&db->db);
        mem_free(db);
    }
    return NULL;
}

const char *table_db_error(const struct table_db *db)
{
    return err_text(&db->db.error);
}

/* --- reading --- */

static int load_streams(struct table_db *db, table_db_each_fn *each, void *arg)
{
    struct sys_sqlite_use u = sys_sqlite_use(&db->db, ST_STREAMS);
    int rc = 0;

    while (rc == 0 && sys_sqlite_row(&u)) {
        const struct table_record r = { .op = TABLE_STREAM_PUT,
                                        .stream = column_u64(&u, 0),
                                        .version = column_u64(&u, 1),
                                        .kind = (unsigned)column_u64(&u, 2),
                                        .own = column_u64(&u, 3) != 0,
                                        .writer = sys_sqlite_column(&u, 4) };
        rc = each(arg, &r);
    }
    int ended = sys_sqlite_end(&u);
    return rc != 0 ? rc : ended;
}

int table_db_load(struct table_db *db, table_db_each_fn *each, void *arg)
{
    int rc = load_streams(db, each, arg);
    if (rc != 0) {
        return rc;
    }
    struct sys_sqlite_use u = sys_sqlite_use(&db->db, ST_ROWS);
    while (rc == 0 && sys_sqlite_row(&u)) {
        const struct table_record r = { .op = TABLE_ROW_PUT,
                                        .type = (unsigned)column_u64(&u, 0),
                                        .owner = sys_sqlite_column(&u, 1),
                                        .key = sys_sqlite_column(&u, 2),
                                        .stream = column_u64(&u, 3),
                                        .version = column_u64(&u, 4),
                                        .clock = column_u64(&u, 5),
                                        .deleted = column_u64(&u, 6) != 0,
                                        .value = sys_sqlite_column(&u, 7) };
        rc = each(arg, &r);
    }
    int ended = sys_sqlite_end(&u);
    return rc != 0 ? rc : ended;
}

static int get_life(struct table_db *db, const char *name, int64_t *ret)
{
    struct sys_sqlite_use u = sys_sqlite_use(&db->db, ST_LIFE_GET);

    sys_sqlite_bind_text(&u, str_of(name));
    if (sys_sqlite_row(&u)) {
        *ret = sqlite3_column_int64(u.st, 0);
    }
    return sys_sqlite_end(&u);
}

int table_db_life(struct table_db *db, struct table_db_life *ret)
{
    int64_t alone = 0;
    int rc = get_life(db, "alive_ms", &ret->alive_ms);

    rc = rc != 0 ? rc : get_life(db, "alone", &alone);
    ret->alone = alone != 0;
    return rc;
}

/* --- writing --- */

static int put_stream(struct table_db *db, const struct table_record *r)
{
    struct sys_sqlite_use u = sys_sqlite_use(&db->db, ST_STREAM_PUT);

    sys_sqlite_bind_i64(&u, (int64_t)r->stream);
    sys_sqlite_bind_i64(&u, (int64_t)r->version);
    sys_sqlite_bind_i64(&u, (int64_t)r->kind);
    sys_sqlite_bind_i64(&u, (int64_t)r->own);
    sys_sqlite_bind_text(&u, r->writer);
    return sys_sqlite_run(&u);
}

static int put_row(struct table_db *db, const struct table_record *r)
{
    struct sys_sqlite_use u = sys_sqlite_use(&db->db, ST_ROW_PUT);

    sys_sqlite_bind_i64(&u, r->type);
    sys_sqlite_bind_text(&u, r->owner);
    sys_sqlite_bind_blob(&u, r->key);
    sys_sqlite_bind_i64(&u, (int64_t)r->stream);
    sys_sqlite_bind_i64(&u, (int64_t)r->version);
    sys_sqlite_bind_i64(&u, (int64_t)r->clock);
    sys_sqlite_bind_i64(&u, r->deleted);
    sys_sqlite_bind_blob(&u, r->value);
    return sys_sqlite_run(&u);
}

static int apply_one(struct table_db *db, const struct table_record *r)
{
    struct sys_sqlite_use u;

    switch (r->op) {
    case TABLE_STREAM_PUT:
        return put_stream(db, r);
    case TABLE_ROW_PUT:
        return put_row(db, r);
    case TABLE_STREAM_DROP:
        u = sys_sqlite_use(&db->db, ST_STREAM_DROP);
        sys_sqlite_bind_i64(&u, (int64_t)r->stream);
        return sys_sqlite_run(&u);
    case TABLE_ROW_DROP:
    default:
        u = sys_sqlite_use(&db->db, ST_ROW_DROP);
        sys_sqlite_bind_i64(&u, r->type);
        sys_sqlite_bind_text(&u, r->owner);
        sys_sqlite_bind_blob(&u, r->key);
        return sys_sqlite_run(&u);
    }
}

static int put_life(struct table_db *db, const char *name, int64_t value)
{
    struct sys_sqlite_use u = sys_sqlite_use(&db->db, ST_LIFE_PUT);

    sys_sqlite_bind_text(&u, str_of(name));
    sys_sqlite_bind_i64(&u, value);
    return sys_sqlite_run(&u);
}

int table_db_apply(struct table_db *db, const struct table_record *const *records, size_t n,
                   const struct table_db_life *life)
{
    int rc = sys_sqlite_exec(&db->db, "BEGIN IMMEDIATE");

    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = apply_one(db, records[i]);
    }
    if (rc == 0 && life != NULL) {
        rc = put_life(db, "alive_ms", life->alive_ms);
        rc = rc != 0 ? rc : put_life(db, "alone", life->alone);
    }
    rc = rc != 0 ? rc : sys_sqlite_exec(&db->db, "COMMIT");
    if (rc != 0 && sqlite3_get_autocommit(db->db.c) == 0) {
        (void)sqlite3_exec(db->db.c, "ROLLBACK", NULL, NULL, NULL);
    }
    return rc;
}
