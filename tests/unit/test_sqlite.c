/* common/sys/sys_sqlite: whose file it is, which version it has, migrations as a whole or not. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/sys/sys.h"
#include "common/sys/sys_sqlite.h"

static char dir[] = "/tmp/test_sqlite.XXXXXX";

static const char *const steps[] = {
    "CREATE TABLE a(x INTEGER);",
    "CREATE TABLE b(y INTEGER); INSERT INTO b VALUES(7);",
};
static const char *const broken[] = {
    "CREATE TABLE a(x INTEGER);",
    "CREATE TABLE c(z INTEGER); INSERT INTO missing VALUES(1);",
};

static struct sys_sqlite_file file_of(const char *const *migrations, int version)
{
    return (struct sys_sqlite_file){ .name = "t.db",
                                     .application_id = 0x74657374,
                                     .migrations = migrations,
                                     .version = version,
                                     .remedy = "do without",
                                     .value_max = 4096 };
}

static int64_t value(sqlite3 *c, const char *sql)
{
    int64_t v = -1;
    assert_int_equal(sys_sqlite_i64(c, sql, &v), SQLITE_OK);
    return v;
}

static int setup(void **state)
{
    (void)state;
    memcpy(dir + sizeof(dir) - 7, "XXXXXX", 6);
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return sys_remove_tree(AT_FDCWD, dir, NULL);
}

static void steps_are_taken_once(void **state)
{
    struct err e = { 0 };
    sqlite3 *c = NULL;
    struct sys_sqlite_file f = file_of(steps, 1);
    (void)state;
    assert_int_equal(sys_sqlite_open(dir, &f, true, &c, &e), 0);
    assert_int_equal(value(c, "PRAGMA user_version"), 1);
    (void)sqlite3_close(c);
    f.version = 2;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sys_sqlite_open(dir, &f, true, &c, &e), 0);
        assert_int_equal(value(c, "PRAGMA user_version"), 2);
        assert_int_equal(value(c, "PRAGMA synchronous"), 2);
        assert_int_equal(value(c, "SELECT count(*) FROM b"), 1);
        (void)sqlite3_close(c);
    }
}

static void a_failed_step_leaves_the_file(void **state)
{
    struct err e = { 0 };
    sqlite3 *c = NULL;
    struct sys_sqlite_file f = file_of(broken, 2);
    (void)state;
    assert_int_equal(sys_sqlite_open(dir, &f, true, &c, &e), -EIO);
    assert_non_null(strstr(err_text(&e), "t.db: no such table: missing"));
    f = file_of(steps, 2);
    assert_int_equal(sys_sqlite_open(dir, &f, true, &c, &e), 0);
    assert_int_equal(value(c, "SELECT count(*) FROM sqlite_schema WHERE name = 'c'"), 0);
    assert_int_equal(value(c, "SELECT y FROM b"), 7);
    (void)sqlite3_close(c);
}

static void others_and_newer_files_are_refused(void **state)
{
    struct err e = { 0 };
    sqlite3 *c = NULL;
    struct sys_sqlite_file f = file_of(steps, 2);
    (void)state;
    assert_int_equal(sys_sqlite_open(dir, &f, true, &c, &e), 0);
    (void)sqlite3_close(c);
    f.version = 1;
    assert_int_equal(sys_sqlite_open(dir, &f, true, &c, &e), -EPROTONOSUPPORT);
    assert_non_null(strstr(err_text(&e), "has version 2 and this agent knows up to 1"));
    assert_non_null(strstr(err_text(&e), "do without"));
    f = file_of(steps, 2);
    f.application_id = 1;
    assert_int_equal(sys_sqlite_open(dir, &f, true, &c, &e), -EBADMSG);
    assert_non_null(strstr(err_text(&e), "of another program"));
    int fd = open(dir, O_RDONLY | O_DIRECTORY);
    assert_int_equal(sys_write_file_atomic(fd, "t.db", "this is text, no database", 25, 0600, &e),
                     0);
    (void)close(fd);
    f = file_of(steps, 2);
    assert_int_equal(sys_sqlite_open(dir, &f, true, &c, &e), -EBADMSG);
}

static void readers_do_not_write(void **state)
{
    struct err e = { 0 };
    sqlite3 *c = NULL;
    const struct sys_sqlite_file f = file_of(steps, 2);
    (void)state;
    assert_true(sys_sqlite_open(dir, &f, false, &c, &e) < 0); /* there is none */
    assert_int_equal(sys_sqlite_open(dir, &f, true, &c, &e), 0);
    (void)sqlite3_close(c);
    assert_int_equal(sys_sqlite_open(dir, &f, false, &c, &e), 0);
    int rc = sqlite3_exec(c, "INSERT INTO a VALUES(1)", NULL, NULL, NULL);
    assert_int_equal(sys_sqlite_error(c, "t", rc, &e), -EROFS);
    rc = sqlite3_exec(c, "ATTACH '/tmp/other.db' AS o", NULL, NULL, NULL);
    assert_true(sys_sqlite_error(c, "t", rc, &e) < 0);
    (void)sqlite3_close(c);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(steps_are_taken_once),
        T(a_failed_step_leaves_the_file),
        T(others_and_newer_files_are_refused),
        T(readers_do_not_write),
    };
    return cmocka_run_group_tests_name("sqlite", tests, NULL, NULL);
}
