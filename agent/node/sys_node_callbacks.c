#include "agent/node/sys_node_callbacks.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>

#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys_sqlite.h"

enum {
    APPLICATION_ID = 0x61676362, /* "agcb" */
    VALUE_MAX = 1024 * 1024,     /* of one value; the largest of ours is a body */
};

/* Version n is what the first n of these make. Never change one that was released: add the next. */
static const char *const migrations[NODE_CALLBACK_DB_VERSION] = {
    "CREATE TABLE delivery("
    " id TEXT NOT NULL PRIMARY KEY, job TEXT NOT NULL, revision INTEGER NOT NULL,"
    " url TEXT NOT NULL, secret TEXT NOT NULL, type TEXT NOT NULL, state INTEGER NOT NULL,"
    " tries INTEGER NOT NULL, status INTEGER NOT NULL, detail TEXT NOT NULL,"
    " created INTEGER NOT NULL, due INTEGER NOT NULL, done INTEGER NOT NULL, body TEXT NOT NULL);"
    "CREATE TABLE mark(name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;",
};

enum statement { ST_PUT, ST_DROP, ST_LOAD, ST_BODY, ST_SEEN_GET, ST_SEEN_PUT, ST_COUNT_ };

static const char *const statements[ST_COUNT_] = {
    [ST_PUT] = "INSERT INTO delivery(id, job, revision, url, secret, type, state, tries, status,"
               " detail, created, due, done, body) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
               " ON CONFLICT DO UPDATE SET state = excluded.state, tries = excluded.tries,"
               " status = excluded.status, detail = excluded.detail, due = excluded.due,"
               " done = excluded.done",
    [ST_DROP] = "DELETE FROM delivery WHERE id = ?",
    [ST_LOAD] = ("SELECT id, job, revision, url, secret, type, state, tries, status, detail,"
                 " created, due, done FROM delivery ORDER BY created, id"),
    [ST_BODY] = "SELECT body FROM delivery WHERE id = ?",
    [ST_SEEN_GET] = "SELECT value FROM mark WHERE name = 'seen'",
    [ST_SEEN_PUT] = "INSERT OR REPLACE INTO mark(name, value) VALUES('seen', ?)",
};

struct node_callback_db {
    struct sys_sqlite db;
    sqlite3_stmt *st[ST_COUNT_];
};

/* --- opening --- */

int node_callback_db_open(const char *dir, struct node_callback_db **ret, struct err *e)
{
    static const struct sys_sqlite_file file = {
        .name = "callbacks.db",
        .application_id = APPLICATION_ID,
        .migrations = migrations,
        .version = NODE_CALLBACK_DB_VERSION,
        .remedy = "remove the file (deliveries that wait go with it)",
        .pragmas = "PRAGMA journal_size_limit=16777216; PRAGMA cache_size=-1024;",
        .value_max = VALUE_MAX,
    };
    struct node_callback_db *db = mem_zalloc(sizeof *db);

    if (db == NULL) {
        return err_set(e, -ENOMEM, "open the call-backs");
    }
    db->db = (struct sys_sqlite){
        .name = "callbacks.db", .sql = statements, .st = db->st, .len = ST_COUNT_
    };
    int rc = sys_sqlite_open(dir, &file, true, &db->db.c, e);
    if (rc != 0) {
        node_callback_db_close(db);
        return rc;
    }
    *ret = db;
    return 0;
}

struct node_callback_db *node_callback_db_close(struct node_callback_db *db)
{
    if (db != NULL) {
        sys_sqlite_close(&db->db);
        mem_free(db);
    }
    return NULL;
}

const char *node_callback_db_error(const struct node_callback_db *db)
{
    return err_text(&db->db.error);
}

/* --- reading --- */

int node_callback_db_load(struct node_callback_db *db, node_callback_each_fn *each, void *arg)
{
    struct sys_sqlite_use u = sys_sqlite_use(&db->db, ST_LOAD);
    int rc = 0;

    while (rc == 0 && sys_sqlite_row(&u)) {
        const struct node_callback_row r = {
            .id = sys_sqlite_column(&u, 0),
            .job = sys_sqlite_column(&u, 1),
            .revision = (uint32_t)sqlite3_column_int64(u.st, 2),
            .url = sys_sqlite_column(&u, 3),
            .secret = sys_sqlite_column(&u, 4),
            .type = sys_sqlite_column(&u, 5),
            .state = (unsigned)sqlite3_column_int(u.st, 6),
            .tries = (unsigned)sqlite3_column_int(u.st, 7),
            .status = sqlite3_column_int(u.st, 8),
            .detail = sys_sqlite_column(&u, 9),
            .created_us = sqlite3_column_int64(u.st, 10),
            .due_us = sqlite3_column_int64(u.st, 11),
            .done_us = sqlite3_column_int64(u.st, 12),
        };
        rc = each(arg, &r);
    }
    int ended = sys_sqlite_end(&u);
    return rc != 0 ? rc : ended;
}

int node_callback_db_seen(struct node_callback_db *db, int64_t *ret_us)
{
    struct sys_sqlite_use u = sys_sqlite_use(&db->db, ST_SEEN_GET);

    *ret_us = sys_sqlite_row(&u) ? sqlite3_column_int64(u.st, 0) : 0;
    return sys_sqlite_end(&u);
}

int node_callback_db_body(struct node_callback_db *db, struct str id, struct buf *out)
{
    struct sys_sqlite_use u = sys_sqlite_use(&db->db, ST_BODY);

    sys_sqlite_bind_text(&u, id);
    int rc = sys_sqlite_row(&u) ? buf_addstr(out, sys_sqlite_column(&u, 0)) : -ENOENT;
    int ended = sys_sqlite_end(&u);
    return ended != 0 ? ended : rc;
}

/* --- writing --- */

static int put(struct node_callback_db *db, const struct node_callback_row *r)
{
    struct sys_sqlite_use u = sys_sqlite_use(&db->db, ST_PUT);

    sys_sqlite_bind_text(&u, r->id);
    sys_sqlite_bind_text(&u, r->job);
    sys_sqlite_bind_i64(&u, r->revision);
    sys_sqlite_bind_text(&u, r->url);
    sys_sqlite_bind_text(&u, r->secret);
    sys_sqlite_bind_text(&u, r->type);
    sys_sqlite_bind_i64(&u, r->state);
    sys_sqlite_bind_i64(&u, r->tries);
    sys_sqlite_bind_i64(&u, r->status);
    sys_sqlite_bind_text(&u, r->detail);
    sys_sqlite_bind_i64(&u, r->created_us);
    sys_sqlite_bind_i64(&u, r->due_us);
    sys_sqlite_bind_i64(&u, r->done_us);
    sys_sqlite_bind_text(&u, r->body);
    return sys_sqlite_run(&u);
}

static int drop(struct node_callback_db *db, struct str id)
{
    struct sys_sqlite_use u = sys_sqlite_use(&db->db, ST_DROP);

    sys_sqlite_bind_text(&u, id);
    return sys_sqlite_run(&u);
}

static int seen(struct node_callback_db *db, int64_t at_us)
{
    struct sys_sqlite_use u = sys_sqlite_use(&db->db, ST_SEEN_PUT);

    sys_sqlite_bind_i64(&u, at_us);
    return sys_sqlite_run(&u);
}

int node_callback_db_apply(struct node_callback_db *db, const struct node_callback_change *changes,
                           size_t n, int64_t seen_us)
{
    int rc = sys_sqlite_exec(&db->db, "BEGIN IMMEDIATE");

    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = changes[i].op == NODE_CALLBACK_PUT ? put(db, &changes[i].row)
                                                : drop(db, changes[i].row.id);
    }
    rc = rc == 0 && seen_us != 0 ? seen(db, seen_us) : rc;
    rc = rc == 0 ? sys_sqlite_exec(&db->db, "COMMIT") : rc;
    if (rc != 0 && sqlite3_get_autocommit(db->db.c) == 0) {
        (void)sqlite3_exec(db->db.c, "ROLLBACK", NULL, NULL, NULL);
    }
    return rc;
}
