#include "common/sys/sys_sqlite.h"

#include <errno.h>
#include <stdio.h>

#include "common/insist.h"

enum { WAIT_MS = 5000 }; /* for another connection's lock */

int sys_sqlite_error(sqlite3 *c, const char *name, int rc, struct err *e)
{
    int sys = c != NULL ? sqlite3_system_errno(c) : 0;
    const char *text = c != NULL ? sqlite3_errmsg(c) : sqlite3_errstr(rc);

    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_FULL:
        return err_say(e, -ENOSPC, "%s: %s", name, text);
    case SQLITE_NOMEM:
        return err_say(e, -ENOMEM, "%s: %s", name, text);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return err_say(e, -EBADMSG, "%s: %s", name, text);
    case SQLITE_READONLY:
        return err_say(e, -EROFS, "%s: %s", name, text);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return err_say(e, -EBUSY, "%s: %s", name, text);
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:
        if (sys != 0) {
            bool full = sys == ENOSPC || sys == EDQUOT || sys == EFBIG;
            return err_say(e, full ? -ENOSPC : -EIO, "%s: %s: %s", name, text, err_name(-sys));
        }
        break;
    default:
        break;
    }
    return err_say(e, -EIO, "%s: %s", name, text);
}

int sys_sqlite_i64(sqlite3 *c, const char *sql, int64_t *ret)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(c, sql, -1, &st, NULL);

    if (rc == SQLITE_OK) {
        rc = sqlite3_step(st);
    }
    if (rc == SQLITE_ROW) {
        *ret = sqlite3_column_int64(st, 0);
    }
    (void)sqlite3_finalize(st);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int exec(sqlite3 *c, const char *sql)
{
    return sqlite3_exec(c, sql, NULL, NULL, NULL);
}

/* What a hostile or damaged file may not make us do, and what we never need. */
static int harden(sqlite3 *c, const struct sys_sqlite_file *f)
{
    static const struct {
        int option;
        int on;
    } options[] = {
        { SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0 },
        { SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0 },
        { SQLITE_DBCONFIG_DEFENSIVE, 1 },
        { SQLITE_DBCONFIG_ENABLE_TRIGGER, 0 },
        { SQLITE_DBCONFIG_ENABLE_VIEW, 0 },
        { SQLITE_DBCONFIG_DQS_DML, 0 },
        { SQLITE_DBCONFIG_DQS_DDL, 0 },
    };
    int rc = SQLITE_OK;

    for (size_t i = 0; rc == SQLITE_OK && i < ARRAY_LEN(options); i++) {
        rc = sqlite3_db_config(c, options[i].option, options[i].on, NULL);
    }
    (void)sqlite3_limit(c, SQLITE_LIMIT_LENGTH, f->value_max);
    (void)sqlite3_limit(c, SQLITE_LIMIT_ATTACHED, 0);
    (void)sqlite3_busy_timeout(c, WAIT_MS);
    return rc != SQLITE_OK
               ? rc
               : exec(c,
                      "PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY;");
}

/* Does the file belong to us, and to this version or an earlier one? *ret_version. */
static int recognize(sqlite3 *c, const struct sys_sqlite_file *f, int64_t *ret_version,
                     struct err *e)
{
    int64_t application = 0;
    int64_t tables = 0;
    int rc = sys_sqlite_i64(c, "PRAGMA user_version", ret_version);

    rc = rc != SQLITE_OK ? rc : sys_sqlite_i64(c, "PRAGMA application_id", &application);
    rc = rc != SQLITE_OK ? rc : sys_sqlite_i64(c, "SELECT count(*) FROM sqlite_schema", &tables);
    if (rc != SQLITE_OK) {
        return sys_sqlite_error(c, f->name, rc, e);
    }
    if (application != f->application_id && (application != 0 || tables != 0)) {
        return err_say(e, -EBADMSG, "%s is a database of another program", f->name);
    }
    if (*ret_version > f->version) {
        return err_say(e, -EPROTONOSUPPORT,
                       "%s has version %lld and this agent knows up to %d: it was written by a "
                       "newer agent; run that one, or %s",
                       f->name, (long long)*ret_version, f->version, f->remedy);
    }
    return 0;
}

static int migrate(sqlite3 *c, const struct sys_sqlite_file *f, struct err *e)
{
    int64_t version = 0;
    int r = recognize(c, f, &version, e);

    for (; r == 0 && version < f->version; version++) {
        char sql[96];
        (void)snprintf(sql, sizeof sql,
                       "PRAGMA user_version=%lld; PRAGMA application_id=%d; COMMIT",
                       (long long)version + 1, f->application_id);
        int rc = exec(c, "BEGIN IMMEDIATE");
        rc = rc != SQLITE_OK ? rc : exec(c, f->migrations[version]);
        rc = rc != SQLITE_OK ? rc : exec(c, sql);
        r = sys_sqlite_error(c, f->name, rc, e);
        if (r != 0 && sqlite3_get_autocommit(c) == 0) {
            (void)exec(c, "ROLLBACK");
        }
    }
    return r;
}

static int set_up(sqlite3 *c, const struct sys_sqlite_file *f, bool writer, struct err *e)
{
    int rc = harden(c, f);

    if (rc == SQLITE_OK && f->pragmas != NULL) {
        rc = exec(c, f->pragmas); /* first: auto_vacuum counts only before the first table */
    }
    if (rc == SQLITE_OK) {
        rc = exec(c, writer ? "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                              "PRAGMA wal_autocheckpoint=1000;"
                            : "PRAGMA query_only=ON;");
    }
    int r = sys_sqlite_error(c, f->name, rc, e);
    return r == 0 && writer ? migrate(c, f, e) : r;
}

int sys_sqlite_open(const char *dir, const struct sys_sqlite_file *f, bool writer, sqlite3 **ret,
                    struct err *e)
{
    char path[4096];
    struct sys_sqlite_file named = *f; /* messages tell where it is */
    sqlite3 *c = NULL;
    int n = snprintf(path, sizeof path, "%s/%s", dir, f->name);

    if (n < 0 || (size_t)n >= sizeof path) {
        return err_set(e, -ENAMETOOLONG, "open %s in '%.80s…'", f->name, dir);
    }
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
                SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_PRIVATECACHE | (writer ? SQLITE_OPEN_CREATE : 0);
    named.name = path;
    int rc = sqlite3_open_v2(path, &c, flags, NULL);
    int r = sys_sqlite_error(c, path, rc, e);
    r = r != 0 ? r : set_up(c, &named, writer, e);
    if (r != 0) {
        (void)sqlite3_close(c);
        return r;
    }
    *ret = c;
    return 0;
}

/* ---- statements ---- */

void sys_sqlite_close(struct sys_sqlite *db)
{
    for (size_t i = 0; i < db->len; i++) {
        (void)sqlite3_finalize(db->st[i]);
        db->st[i] = NULL;
    }
    (void)sqlite3_close(db->c);
    db->c = NULL;
}

int sys_sqlite_failed(struct sys_sqlite *db, int rc)
{
    return sys_sqlite_error(db->c, db->name, rc, &db->error);
}

int sys_sqlite_exec(struct sys_sqlite *db, const char *sql)
{
    return sys_sqlite_failed(db, exec(db->c, sql));
}

struct sys_sqlite_use sys_sqlite_use(struct sys_sqlite *db, size_t which)
{
    struct sys_sqlite_use u = { .db = db, .rc = SQLITE_OK };

    INSIST(which < db->len);
    if (db->st[which] == NULL) {
        u.rc = sqlite3_prepare_v3(db->c, db->sql[which], -1, SQLITE_PREPARE_PERSISTENT,
                                  &db->st[which], NULL);
    }
    u.st = db->st[which];
    return u;
}

static void bound(struct sys_sqlite_use *u, int rc)
{
    u->rc = u->rc == SQLITE_OK ? rc : u->rc;
}

void sys_sqlite_bind_i64(struct sys_sqlite_use *u, int64_t v)
{
    bound(u, sqlite3_bind_int64(u->st, ++u->bound, v));
}

void sys_sqlite_bind_text(struct sys_sqlite_use *u, struct str s)
{
    bound(u, sqlite3_bind_text64(u->st, ++u->bound, s.n != 0 ? s.p : "", s.n, SQLITE_STATIC,
                                 SQLITE_UTF8));
}

void sys_sqlite_bind_blob(struct sys_sqlite_use *u, struct str s)
{
    bound(u, sqlite3_bind_blob64(u->st, ++u->bound, s.n != 0 ? s.p : "", s.n, SQLITE_STATIC));
}

bool sys_sqlite_row(struct sys_sqlite_use *u)
{
    if (u->rc == SQLITE_OK || u->rc == SQLITE_ROW) {
        u->rc = sqlite3_step(u->st);
    }
    return u->rc == SQLITE_ROW;
}

int sys_sqlite_end(struct sys_sqlite_use *u)
{
    int rc = sys_sqlite_failed(u->db, u->rc);

    if (u->st != NULL) {
        (void)sqlite3_reset(u->st);
        (void)sqlite3_clear_bindings(u->st);
    }
    return rc;
}

int sys_sqlite_run(struct sys_sqlite_use *u)
{
    (void)sys_sqlite_row(u);
    return sys_sqlite_end(u);
}

struct str sys_sqlite_column(const struct sys_sqlite_use *u, int i)
{
    const void *p = sqlite3_column_blob(u->st, i);
    int n = sqlite3_column_bytes(u->st, i);

    return (struct str){ p, p != NULL && n > 0 ? (size_t)n : 0 };
}
