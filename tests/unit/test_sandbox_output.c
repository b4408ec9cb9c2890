/* Reading a run's outputs: whole, past a gap, by time, while it is written. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/sandbox/sandbox_internal.h"
#include "common/insist.h"
#include "common/sys/sys.h"

static const struct ulid run = { { 1, 2, 3 } };

/* A run's directory, as launcher and init make it. */
struct fixture {
    char path[64];
    int runs;
    int dir;
    struct sandbox_output *out;
};

static void put(const struct fixture *f, const char *name, const void *p, size_t n, uint64_t at)
{
    AUTO_FD int fd = openat(f->dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(sys_pwrite_full(fd, p, n, at), 0);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    char name[SANDBOX_DIR_CAP];
    static const char *const files[] = { "stdout", "stderr", "stderr.tail", "index", "exit" };
    assert_non_null(f);
    snprintf(f->path, sizeof(f->path), "/tmp/agent-output-XXXXXX");
    assert_non_null(mkdtemp(f->path));
    f->runs = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    sandbox_dir_name(run, 1, name);
    assert_int_equal(mkdirat(f->runs, name, 0700), 0);
    f->dir = openat(f->runs, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        put(f, files[i], "", 0, 0);
    }
    assert_int_equal(sandbox_output_open(f->runs, run, 1, &f->out, NULL), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    sandbox_output_free(f->out);
    fd_close(f->dir);
    fd_close(f->runs);
    assert_int_equal(sys_remove_tree(AT_FDCWD, f->path, NULL), 0);
    free(f);
    return 0;
}

static void put_end(const struct fixture *f, uint64_t out, uint64_t err)
{
    uint8_t record[SANDBOX_RECORD_SIZE];
    const struct sandbox_result r = { .reason = SANDBOX_EXIT,
                                      .stdout_bytes = out,
                                      .stdout_kept = out,
                                      .stderr_bytes = err,
                                      .stderr_kept = err };
    sandbox_record_encode(&r, record);
    put(f, "exit", record, sizeof(record), 0);
}

static void put_index(const struct fixture *f, uint64_t entry, enum sandbox_stream s, int64_t wall,
                      uint64_t offset)
{
    uint8_t bytes[INDEX_ENTRY];
    sandbox_index_entry_encode(s, wall, offset, bytes);
    put(f, "index", bytes, sizeof(bytes), entry * INDEX_ENTRY);
}

/* Everything from *pos on, in pieces of n bytes. */
static size_t read_all(const struct fixture *f, enum sandbox_stream s, uint64_t *pos, char *dst,
                       size_t cap, size_t n)
{
    size_t len = 0;
    for (;;) {
        size_t got = 0;
        assert_true(cap - len >= n);
        assert_int_equal(sandbox_output_read(f->out, s, pos, dst + len, n, &got, NULL), 0);
        if (got == 0) {
            return len;
        }
        len += got;
    }
}

static void no_such_run(void **state)
{
    struct fixture *f = *state;
    struct sandbox_output *o = NULL;
    struct err e = { 0 };
    assert_int_equal(sandbox_output_open(f->runs, run, 2, &o, &e), -ENOENT);
    assert_null(o);
    assert_null(sandbox_output_free(NULL));
}

static void follows(void **state)
{
    struct fixture *f = *state;
    struct sandbox_output_stat st;
    struct sandbox_result r;
    char text[1024];
    uint64_t pos = 0;
    assert_int_equal(read_all(f, SANDBOX_STDOUT, &pos, text, sizeof(text), 128), 0);
    put(f, "stdout", "one\n", 4, 0);
    assert_int_equal(read_all(f, SANDBOX_STDOUT, &pos, text, sizeof(text), 128), 4);
    put(f, "stdout", "two\n", 4, 4);
    assert_int_equal(read_all(f, SANDBOX_STDOUT, &pos, text, sizeof(text), 128), 4);
    assert_memory_equal(text, "two\n", 4);
    assert_int_equal(sandbox_output_stat(f->out, SANDBOX_STDOUT, &st, NULL), 0);
    assert_false(st.ended);
    assert_int_equal(sandbox_output_result(f->out, &r, NULL), -ENOENT);
    put_end(f, 8, 0);
    assert_int_equal(sandbox_output_stat(f->out, SANDBOX_STDOUT, &st, NULL), 0);
    assert_true(st.ended && st.total == 8 && st.readable == 8);
    assert_int_equal(sandbox_output_result(f->out, &r, NULL), 0);
    assert_int_equal(r.stdout_bytes, 8);
}

/* 2,048 bytes kept of 100,000: a head, one mark, the tail; whatever the size of the pieces. */
static void log_with_a_gap(void **state)
{
    struct fixture *f = *state;
    const uint64_t total = 100000;
    struct log_shape s = sandbox_log_shape_of(2048);
    uint8_t header[LOG_HEADER];
    static char want[4096];
    static char got[4096];
    char mark[LOG_MARK_MAX];
    size_t len = 0;
    for (uint64_t i = 0; i < total; i++) {
        uint8_t byte = (uint8_t)(i * 7 % 251);
        if (i < s.head) {
            put(f, "stderr", &byte, 1, i);
            want[len++] = (char)byte;
        } else if (i >= total - s.ring) {
            put(f, "stderr.tail", &byte, 1, LOG_HEADER + (i - s.head) % s.ring);
        }
    }
    sandbox_log_header_encode(&s, total, header);
    put(f, "stderr.tail", header, sizeof(header), 0);
    put_end(f, 0, total);
    size_t n = sandbox_log_mark(total - 2048, mark);
    memcpy(want + len, mark, n);
    len += n;
    for (uint64_t i = total - s.ring; i < total; i++) {
        want[len++] = (char)(uint8_t)(i * 7 % 251);
    }
    static const size_t pieces[] = { 128, 129, 1000, 2000 };
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        uint64_t pos = 0;
        assert_int_equal(read_all(f, SANDBOX_STDERR, &pos, got, sizeof(got), pieces[i]), len);
        assert_memory_equal(got, want, len);
        assert_int_equal(pos, total);
    }
    struct sandbox_output_stat st;
    assert_int_equal(sandbox_output_stat(f->out, SANDBOX_STDERR, &st, NULL), 0);
    assert_int_equal(st.total, total);
    assert_int_equal(st.readable, len);
}

static void both_by_time(void **state)
{
    struct fixture *f = *state;
    struct sandbox_merge m = { .entry = 0 };
    char text[512];
    size_t n;
    enum sandbox_stream s;
    int64_t wall;
    put(f, "stdout", "out1 out2 ", 10, 0);
    put(f, "stderr", "err1 err2 ", 10, 0);
    put_index(f, 0, SANDBOX_STDOUT, 100, 0);
    put_index(f, 1, SANDBOX_STDERR, 200, 0);
    put_index(f, 2, SANDBOX_STDOUT, 300, 5);
    put_index(f, 3, SANDBOX_STDERR, 400, 5);
    static const struct {
        const char *text;
        enum sandbox_stream s;
        int64_t wall;
    } want[] = { { "out1 ", SANDBOX_STDOUT, 100 },
                 { "err1 ", SANDBOX_STDERR, 200 },
                 { "out2 ", SANDBOX_STDOUT, 300 },
                 { "err2 ", SANDBOX_STDERR, 400 } };
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        assert_int_equal(sandbox_output_merge(f->out, &m, text, sizeof(text), &n, &s, &wall, NULL),
                         0);
        assert_int_equal(n, 5);
        assert_memory_equal(text, want[i].text, 5);
        assert_int_equal(s, want[i].s);
        assert_true(wall == want[i].wall);
    }
    assert_int_equal(sandbox_output_merge(f->out, &m, text, sizeof(text), &n, &s, &wall, NULL), 0);
    assert_int_equal(n, 0);
    /* The last mark grows while the run goes on. */
    put(f, "stderr", "more", 4, 10);
    assert_int_equal(sandbox_output_merge(f->out, &m, text, sizeof(text), &n, &s, &wall, NULL), 0);
    assert_int_equal(n, 4);
    put(f, "stdout", "late", 4, 10);
    put_index(f, 4, SANDBOX_STDOUT, 500, 10);
    assert_int_equal(sandbox_output_merge(f->out, &m, text, sizeof(text), &n, &s, &wall, NULL), 0);
    assert_int_equal(n, 4);
    assert_memory_equal(text, "late", 4);
    assert_true(wall == 500);
    uint64_t pos = 0;
    assert_int_equal(sandbox_output_seek(f->out, SANDBOX_STDOUT, 300, &pos, NULL), 0);
    assert_int_equal(pos, 5);
    assert_int_equal(sandbox_output_seek(f->out, SANDBOX_STDERR, 9999, &pos, NULL), 0);
    assert_int_equal(pos, 14);
}

static void torn_files(void **state)
{
    struct fixture *f = *state;
    struct sandbox_result r;
    struct sandbox_usage u;
    put(f, "exit", "half a record", 13, 0);
    assert_int_equal(sandbox_output_result(f->out, &r, NULL), -EBADMSG);
    assert_int_equal(sandbox_output_usage(f->out, &u, NULL), -ENOENT);
    put(f, "usage", "half", 4, 0);
    assert_int_equal(sandbox_output_usage(f->out, &u, NULL), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(no_such_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(follows, set_up, tear_down),
        cmocka_unit_test_setup_teardown(log_with_a_gap, set_up, tear_down),
        cmocka_unit_test_setup_teardown(both_by_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(torn_files, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("sandbox_output", tests, NULL, NULL);
}
