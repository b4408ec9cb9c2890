/* A run's outputs, as the agent reads them: while init writes, and after. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/sandbox/sandbox_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { OUTPUT_FILES = 3 };

struct sandbox_output {
    int dir;
    int out;
    int err;
    int tail;
    int index;
};

static int open_file(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int sandbox_output_open(int runs_dirfd, struct ulid run, uint32_t attempt,
                        struct sandbox_output **ret, struct err *e)
{
    char name[SANDBOX_DIR_CAP];
    sandbox_dir_name(run, attempt, name);
    AUTO_FD int dir = openat(runs_dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0) {
        return err_set(e, -errno, "open the run's directory '%s'", name);
    }
    struct sandbox_output *o = mem_zalloc(sizeof(*o));
    if (o == NULL) {
        return err_set(e, -ENOMEM, "open the run's directory '%s'", name);
    }
    o->out = open_file(dir, "stdout");
    o->err = open_file(dir, "stderr");
    o->tail = open_file(dir, "stderr.tail");
    o->index = open_file(dir, "index");
    o->dir = fd_take(&dir);
    *ret = o;
    return 0;
}

struct sandbox_output *sandbox_output_free(struct sandbox_output *o)
{
    if (o != NULL) {
        fd_close(o->out);
        fd_close(o->err);
        fd_close(o->tail);
        fd_close(o->index);
        fd_close(o->dir);
        mem_free(o);
    }
    return NULL;
}

int sandbox_output_fd(const struct sandbox_output *o)
{
    return o->out < 0 ? -1 : o->out;
}

static int read_small(const struct sandbox_output *o, const char *name, void *dst, size_t cap,
                      size_t *ret_n, struct err *e)
{
    AUTO_FD int fd = open_file(o->dir, name);
    ssize_t n = fd < 0 ? fd : sys_pread_full(fd, dst, cap, 0);
    if (n < 0) {
        return err_set(e, (int)n, "read the run's file '%s'", name);
    }
    *ret_n = (size_t)n;
    /* A record begins with its magic number; zeros are what is left of another run's. */
    return n == 0 || *(const uint8_t *)dst == 0
               ? err_set(e, -ENOENT, "the run's file '%s' is empty", name)
               : 0;
}

int sandbox_output_result(struct sandbox_output *o, struct sandbox_result *ret, struct err *e)
{
    uint8_t bytes[SANDBOX_RECORD_SIZE];
    size_t n;
    int rc = read_small(o, "exit", bytes, sizeof(bytes), &n, e);
    if (rc == 0 && (rc = sandbox_record_decode(bytes, n, ret)) < 0) {
        err_set(e, rc, "the run's exit record");
    }
    return rc;
}

int sandbox_output_usage(struct sandbox_output *o, struct sandbox_usage *ret, struct err *e)
{
    uint8_t bytes[USAGE_SIZE];
    size_t n;
    int rc = read_small(o, "usage", bytes, sizeof(bytes), &n, e);
    if (rc == 0 && (rc = sandbox_usage_decode(bytes, n, ret)) < 0) {
        err_set(e, rc, "the run's totals");
    }
    return rc;
}

static uint64_t file_size(int fd)
{
    struct stat st;
    return fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0 ? (uint64_t)st.st_size : 0;
}

/* The log's shape and how long it is so far. Before the tail has a header, all is in the head. */
struct log_state {
    struct log_shape shape;
    uint64_t total;
    bool live;
};

static struct log_state log_state(struct sandbox_output *o, enum sandbox_stream s)
{
    struct sandbox_result r;
    struct log_state st = { .live = sandbox_output_result(o, &r, NULL) < 0 };
    uint8_t header[LOG_HEADER];
    if (s == SANDBOX_STDOUT) {
        st.total = file_size(o->out);
        st.shape = (struct log_shape){ .head = UINT64_MAX, .ring = 1 };
        return st;
    }
    if (o->tail < 0 || sys_pread_full(o->tail, header, sizeof(header), 0) != LOG_HEADER ||
        sandbox_log_header_decode(header, &st.shape, &st.total) < 0) {
        st.total = file_size(o->err);
        st.shape = (struct log_shape){ .head = UINT64_MAX, .ring = 1 };
    }
    return st;
}

int sandbox_output_stat(struct sandbox_output *o, enum sandbox_stream s,
                        struct sandbox_output_stat *ret, struct err *e)
{
    struct sandbox_result r = { .reason = SANDBOX_LOST };
    char mark[LOG_MARK_MAX];
    if (o->out < 0 || o->err < 0) {
        return err_set(e, o->out < 0 ? o->out : o->err, "open the run's output");
    }
    *ret = (struct sandbox_output_stat){ .ended = sandbox_output_result(o, &r, NULL) == 0 };
    struct log_state st = log_state(o, s);
    ret->total = st.total;
    ret->readable = st.total;
    if (ret->ended && s == SANDBOX_STDOUT) {
        ret->total = r.stdout_bytes;
    }
    if (s == SANDBOX_STDERR) {
        struct log_piece p = sandbox_log_locate(&st.shape, st.total, st.shape.head, !ret->ended);
        if (p.where == LOG_GAP) {
            ret->readable = st.total - p.n + sandbox_log_mark(p.n, mark);
        }
    }
    return 0;
}

/* Reads of the log's ring may race with init's writes: what was overwritten meanwhile is found by
 * looking at the header again, and read anew. */
static int read_log(struct sandbox_output *o, uint64_t *pos, void *dst, size_t n, size_t *ret_n,
                    struct err *e)
{
    for (int tries = 0; tries < 8; tries++) {
        struct log_state st = log_state(o, SANDBOX_STDERR);
        struct log_piece p = sandbox_log_locate(&st.shape, st.total, *pos, st.live);
        if (p.where == LOG_END) {
            *ret_n = 0;
            return 0;
        }
        if (p.where == LOG_GAP) {
            *ret_n = sandbox_log_mark(p.n, dst);
            *pos += p.n;
            return 0;
        }
        size_t want = p.n < n ? (size_t)p.n : n;
        ssize_t got = p.where == LOG_HEAD
                          ? sys_pread_full(o->err, dst, want, p.offset)
                          : sys_pread_full(o->tail, dst, want, LOG_HEADER + p.offset);
        if (got < 0) {
            return err_set(e, (int)got, "read the run's log");
        }
        struct log_state after = log_state(o, SANDBOX_STDERR);
        if (p.where == LOG_RING && after.total - st.shape.head > after.shape.ring &&
            *pos < after.total - after.shape.ring + (after.live ? LOG_MARGIN / 2 : 0)) {
            continue;
        }
        *pos += (uint64_t)got;
        *ret_n = (size_t)got;
        return 0;
    }
    *ret_n = 0; /* the writer is faster than we are: the caller comes again */
    return 0;
}

int sandbox_output_read(struct sandbox_output *o, enum sandbox_stream s, uint64_t *pos, void *dst,
                        size_t n, size_t *ret_n, struct err *e)
{
    REQUIRE(n >= SANDBOX_READ_MIN);
    if (o->out < 0 || o->err < 0) {
        return err_set(e, o->out < 0 ? o->out : o->err, "open the run's output");
    }
    if (s == SANDBOX_STDERR) {
        return read_log(o, pos, dst, n, ret_n, e);
    }
    ssize_t got = sys_pread_full(o->out, dst, n, *pos);
    if (got < 0) {
        return err_set(e, (int)got, "read the run's output");
    }
    *pos += (uint64_t)got;
    *ret_n = (size_t)got;
    return 0;
}

/* ---- both by time ---- */

static bool index_read(const struct sandbox_output *o, uint64_t entry, enum sandbox_stream *ret_s,
                       int64_t *ret_wall_us, uint64_t *ret_offset)
{
    uint8_t bytes[INDEX_ENTRY];
    if (o->index < 0 || sys_pread_full(o->index, bytes, sizeof(bytes), entry * INDEX_ENTRY) !=
                            (ssize_t)sizeof(bytes)) {
        return false;
    }
    sandbox_index_entry_decode(bytes, ret_s, ret_wall_us, ret_offset);
    return true;
}

/* Where the bytes that the entry's mark begins end: at the stream's next mark, or UINT64_MAX. */
static uint64_t index_end(const struct sandbox_output *o, uint64_t entry, enum sandbox_stream s)
{
    enum sandbox_stream other;
    int64_t wall;
    uint64_t offset;
    for (uint64_t i = entry + 1; index_read(o, i, &other, &wall, &offset); i++) {
        if (other == s) {
            return offset;
        }
    }
    return UINT64_MAX;
}

int sandbox_output_merge(struct sandbox_output *o, struct sandbox_merge *m, void *dst, size_t n,
                         size_t *ret_n, enum sandbox_stream *ret_stream, int64_t *ret_wall_us,
                         struct err *e)
{
    enum sandbox_stream s;
    int64_t wall;
    uint64_t offset;
    *ret_n = 0;
    for (; index_read(o, m->entry, &s, &wall, &offset); m->entry++) {
        uint64_t end = index_end(o, m->entry, s);
        if (m->pos[s] >= end) {
            continue; /* this mark's bytes were given */
        }
        uint64_t left = end - m->pos[s];
        size_t want = left < n ? (size_t)left : n;
        size_t ask = want < SANDBOX_READ_MIN ? SANDBOX_READ_MIN : want;
        uint64_t pos = m->pos[s];
        int rc = sandbox_output_read(o, s, &pos, dst, ask, ret_n, e);
        if (rc < 0) {
            return rc;
        }
        if (pos == m->pos[s] + *ret_n && *ret_n > want) {
            pos = m->pos[s] + want; /* plain bytes: only this mark's */
            *ret_n = want;
        }
        bool last = end == UINT64_MAX;
        if (*ret_n > 0) {
            m->pos[s] = pos;
            *ret_stream = s;
            *ret_wall_us = wall;
            return 0;
        }
        enum sandbox_stream next_s;
        int64_t next_wall;
        uint64_t next_offset;
        if (last && !index_read(o, m->entry + 1, &next_s, &next_wall, &next_offset)) {
            return 0; /* nothing more for now; the mark may grow */
        }
    }
    return 0;
}

int sandbox_output_seek(struct sandbox_output *o, enum sandbox_stream s, int64_t wall_us,
                        uint64_t *ret_pos, struct err *e)
{
    uint64_t n = file_size(o->index) / INDEX_ENTRY;
    enum sandbox_stream got;
    int64_t wall;
    uint64_t offset;
    if (o->index < 0) {
        return err_set(e, o->index, "open the run's index");
    }
    for (uint64_t i = 0; i < n && index_read(o, i, &got, &wall, &offset); i++) {
        if (got == s && wall >= wall_us) {
            *ret_pos = offset;
            return 0;
        }
    }
    struct log_state st = log_state(o, s);
    *ret_pos = st.total;
    return 0;
}
