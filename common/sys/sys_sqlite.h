/*
 * sys_sqlite - a SQLite file of ours: opened, hardened, brought to this program's version.
 *
 * A file may come from a disk that was damaged or from somebody else: its schema is not trusted,
 * it has no extensions, triggers or views, it can attach nothing. WAL and synchronous = FULL: what
 * is committed outlives a power cut. Blocking calls, for threads that may wait.
 */
#ifndef COMMON_SYS_SYS_SQLITE_H
#define COMMON_SYS_SYS_SQLITE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/str.h"

struct sys_sqlite_file {
    const char *name;   /* in its directory; messages begin with it */
    int application_id; /* "PRAGMA application_id"; 0: the file says none */
    /* Version n is what the first n of these make: SQL, each run in a transaction of its own. */
    const char *const *migrations;
    int version;
    const char *remedy;  /* of a file that a newer program wrote: "restore a backup" */
    const char *pragmas; /* besides the ones of every file; NULL */
    int value_max;       /* bytes of one value or row, at most */
};

/* What rc (a result code of SQLite's) is in terms of errno: 0 for OK, ROW and DONE; -ENOSPC (also
 * over quota), -ENOMEM, -EBADMSG (damaged, or no database), -EROFS, -EBUSY, -EIO. Sets e, whose
 * text begins with name. c may be NULL. */
int sys_sqlite_error(sqlite3 *c, const char *name, int rc, struct err *e);

/* Opens dir/name. writer: makes it when it is missing and runs what migrations it lacks; others are
 * query-only. *ret is the caller's, for one thread at a time: sqlite3_close(). As above, and
 * -ENAMETOOLONG, -EBADMSG (another program's file), -EPROTONOSUPPORT (a newer version: untouched).
 * A migration that fails leaves the file as it was. */
int sys_sqlite_open(const char *dir, const struct sys_sqlite_file *f, bool writer, sqlite3 **ret,
                    struct err *e);

/* ---- statements, each prepared when it is first used; one thread at a time ---- */

struct sys_sqlite {
    sqlite3 *c;
    const char *name;       /* messages begin with it */
    const char *const *sql; /* len of them */
    sqlite3_stmt **st;      /* len places, NULL at first */
    size_t len;
    struct err error; /* the last failure's sentence */
};
/* Ends the statements and the connection. */
void sys_sqlite_close(struct sys_sqlite *db);
/* As sys_sqlite_error(), into db->error. */
int sys_sqlite_failed(struct sys_sqlite *db, int rc);
int sys_sqlite_exec(struct sys_sqlite *db, const char *sql);

/* One use of a statement: bind in order, then run it or read its rows and end it. The first failure
 * sticks, and is what the end returns. What is bound stays the caller's until then. */
struct sys_sqlite_use {
    struct sys_sqlite *db;
    sqlite3_stmt *st;
    int bound;
    int rc;
};
struct sys_sqlite_use sys_sqlite_use(struct sys_sqlite *db, size_t which);
void sys_sqlite_bind_i64(struct sys_sqlite_use *u, int64_t v);
void sys_sqlite_bind_text(struct sys_sqlite_use *u, struct str s);
void sys_sqlite_bind_blob(struct sys_sqlite_use *u, struct str s);
bool sys_sqlite_row(struct sys_sqlite_use *u); /* is there another? */
int sys_sqlite_end(struct sys_sqlite_use *u);
int sys_sqlite_run(struct sys_sqlite_use *u); /* one step and the end */
/* Valid until the next row or the end. */
struct str sys_sqlite_column(const struct sys_sqlite_use *u, int i);

/* The first column of the first row; *ret stays without one. SQLite's result code. */
int sys_sqlite_i64(sqlite3 *c, const char *sql, int64_t *ret);

#endif
