/*
 * stdout and stderr, from pipe to file, moved by the kernel (splice): gibibytes cost init no
 * memory. stdout: linear up to its cap. stderr: a head, then a ring. Bytes that are not kept go to
 * /dev/null, so that a job is never stopped by its own talk.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "agent/sandbox/sys_sandbox.h"

enum { STEP_MAX = 1 << 20, STEPS_PER_CALL = 8 };

void sandbox_pump_init(struct pump *p, const struct sandbox_job *job)
{
    *p = (struct pump){
        .out = { .pipe = job->out_pipe[0],
                 .file = job->fd[SPAWN_FD_STDOUT],
                 .tail = -1,
                 .id = SANDBOX_STDOUT,
                 .cap = job->spec.limits.output_bytes },
        .err = { .pipe = job->err_pipe[0],
                 .file = job->fd[SPAWN_FD_STDERR],
                 .tail = job->fd[SPAWN_FD_TAIL],
                 .id = SANDBOX_STDERR,
                 .shape = sandbox_log_shape_of(job->spec.limits.log_bytes) },
        .index = job->fd[SPAWN_FD_INDEX],
        .null_fd = job->null_fd,
    };
}

/* Where the next bytes of the stream go: descriptor, offset, how many at most. -1: nowhere. */
static int pump_target(const struct pump_stream *s, uint64_t *ret_offset, uint64_t *ret_max)
{
    *ret_max = STEP_MAX;
    if (s->error != 0) {
        return -1;
    }
    if (s->id == SANDBOX_STDOUT) {
        *ret_offset = s->total;
        *ret_max = s->cap > s->total ? s->cap - s->total : 0;
        return *ret_max > 0 ? s->file : -1;
    }
    if (s->total < s->shape.head) {
        *ret_offset = s->total;
        *ret_max = s->shape.head - s->total;
        return s->file;
    }
    uint64_t at = (s->total - s->shape.head) % s->shape.ring;
    *ret_offset = LOG_HEADER + at;
    *ret_max = s->shape.ring - at;
    if (*ret_max > LOG_MARGIN / 2) {
        *ret_max = LOG_MARGIN / 2; /* readers allow for this much being overwritten */
    }
    return s->tail;
}

static void pump_mark(struct pump *p, struct pump_stream *s)
{
    uint64_t now = sys_mono_us();
    if ((s->marked_us != 0 && now - s->marked_us < INDEX_STEP_US) ||
        p->index_len >= INDEX_ENTRIES_MAX) {
        return;
    }
    uint8_t entry[INDEX_ENTRY];
    sandbox_index_entry_encode(s->id, sys_wall_us(), s->total, entry);
    if (sys_pwrite_full(p->index, entry, sizeof(entry), p->index_len * INDEX_ENTRY) == 0) {
        p->index_len++;
    }
    s->marked_us = now;
}

static void pump_count(struct pump_stream *s, uint64_t n, bool stored)
{
    bool in_tail = s->id == SANDBOX_STDERR && s->total >= s->shape.head;
    s->total += n;
    if (!stored) {
        s->truncated = true;
        return;
    }
    if (s->id == SANDBOX_STDOUT) {
        s->kept += n;
        return;
    }
    s->kept = s->total;
    if (s->total - (s->total < s->shape.head ? s->total : s->shape.head) > s->shape.ring) {
        s->kept = s->shape.head + s->shape.ring;
        s->truncated = true;
    }
    if (in_tail) {
        uint8_t header[LOG_HEADER];
        sandbox_log_header_encode(&s->shape, s->total, header);
        (void)sys_pwrite_full(s->tail, header, sizeof(header), 0);
    }
}

/* File systems without splice: through a small buffer. */
static ssize_t pump_copy(const struct pump_stream *s, int to, uint64_t offset, uint64_t max)
{
    char piece[65536];
    ssize_t n = sys_read(s->pipe, piece, max < sizeof(piece) ? (size_t)max : sizeof(piece));
    if (n > 0 && to >= 0) {
        int rc = sys_pwrite_full(to, piece, (size_t)n, offset);
        if (rc < 0) {
            return rc == -EAGAIN ? -EIO : rc;
        }
    }
    return n;
}

static ssize_t pump_move(struct pump *p, struct pump_stream *s, int to, uint64_t offset,
                         uint64_t max)
{
    loff_t at = (loff_t)offset;
    size_t want = max < STEP_MAX ? (size_t)max : STEP_MAX;
    ssize_t n = splice(s->pipe, NULL, to >= 0 ? to : p->null_fd, to >= 0 ? &at : NULL, want,
                       SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (n < 0 && errno == EINVAL) {
        return pump_copy(s, to, offset, want);
    }
    return n < 0 ? -errno : n;
}

int sandbox_pump_step(struct pump *p, struct pump_stream *s)
{
    int moved = 0;
    for (int i = 0; i < STEPS_PER_CALL && s->pipe >= 0; i++) {
        uint64_t offset = 0;
        uint64_t max;
        int to = pump_target(s, &offset, &max);
        ssize_t n = pump_move(p, s, to, offset, to >= 0 ? max : STEP_MAX);
        if (n == -EAGAIN || n == -EINTR) {
            break;
        }
        if (n < 0 && to >= 0) {
            s->error = (int)n; /* disk full, as a rule; the job goes on */
            s->truncated = true;
            continue;
        }
        if (n <= 0) {
            s->pipe = fd_close(s->pipe);
            break;
        }
        if (to >= 0) {
            pump_mark(p, s);
        }
        pump_count(s, (uint64_t)n, to >= 0);
        moved = 1;
    }
    return moved;
}
