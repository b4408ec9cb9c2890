/*
 * A payload on its way into spool/: two buffers, one filled by the loop while the pool writes and
 * hashes the other. At most 2 * 512 KiB bytes per upload are in memory.
 *
 *   write ──full──> (pool: open?, write, hash) ──> on_room
 *   end   ────────> (pool: rest, fdatasync, close) ──> on_done ──> take ─┐
 *   drop  ──────────────────────────────────> (pool: unlink unless taken) ──> freed
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/api/api_internal.h"
#include "common/digest.h"
#include "common/mem.h"
#include "common/sys/sys.h"

/* A piece is written when it is this long; one read of the socket may come on top. */
enum { SPOOL_PIECE = 256 * 1024, SPOOL_FIRST = 4096 };

struct piece {
    char *data;
    size_t len;
    size_t cap;
};

struct api_spool {
    struct api *api;
    struct loop_owner owner;
    struct loop_work work;
    const struct api_spool_events *events;
    void *arg;
    int dirfd;
    char name[64];
    struct piece fill; /* the loop's */
    uint64_t bytes;
    bool ended;   /* no more bytes come */
    bool over;    /* on_done was called */
    bool taken;   /* the file is somebody else's */
    bool waits;   /* a write answered false */
    bool starved; /* no memory for a buffer */
    bool dropped;
    /* The pool's while work is busy. */
    struct piece flush;
    struct digest_ctx *hash;
    struct digest digest;
    bool last; /* flush is the end of it */
    int fd;
    int rc;
};

/* -- on a pool thread -- */

static int spool_open(struct api_spool *s)
{
    int fd =
        sys_open_beneath(s->dirfd, s->name, O_WRONLY | O_CREAT | O_EXCL, 0400, SYS_NO_SYMLINKS);
    if (fd < 0) {
        return fd;
    }
    s->fd = fd;
    /* The job reads it as another user; the directory lets only the agent in. */
    return fchmod(fd, 0444) == 0 ? 0 : -errno;
}

static int spool_flush(struct api_spool *s)
{
    int rc = 0;
    if (s->flush.len > 0) {
        digest_ctx_update(s->hash, s->flush.data, s->flush.len);
        rc = s->fd < 0 ? spool_open(s) : 0;
        rc = rc == 0 ? sys_write_full(s->fd, s->flush.data, s->flush.len) : rc;
    }
    if (rc == 0 && s->last) {
        digest_ctx_final(s->hash, &s->digest);
        if (s->fd >= 0) {
            rc = fdatasync(s->fd) == 0 ? 0 : -errno;
        }
    }
    return rc;
}

static void work_flush(struct loop_work *w)
{
    struct api_spool *s = CONTAINER_OF(w, struct api_spool, work);
    s->rc = spool_flush(s);
}

static void work_remove(struct loop_work *w)
{
    struct api_spool *s = CONTAINER_OF(w, struct api_spool, work);
    (void)unlinkat(s->dirfd, s->name, 0);
    s->fd = fd_close(s->fd); /* the last link: this is what takes time */
}

/* -- on the loop -- */

static void spool_gone(struct loop_owner *o)
{
    struct api_spool *s = CONTAINER_OF(o, struct api_spool, owner);
    struct api *a = s->api;
    (void)fd_close(s->fd);
    mem_free(s->fill.data);
    mem_free(s->flush.data);
    (void)digest_ctx_free(s->hash);
    mem_free(s);
    loop_drop(&a->owner);
}

static void removed(struct loop_work *w, int status)
{
    struct api_spool *s = CONTAINER_OF(w, struct api_spool, work);
    (void)status; /* nobody cancels it */
    loop_owner_close(&s->owner);
}

static void spool_remove(struct api_spool *s)
{
    if (s->fd < 0 || s->taken) {
        loop_owner_close(&s->owner);
        return;
    }
    int rc = loop_work_start(&s->work, &s->owner, work_remove, removed);
    INSIST(rc == 0);
}

static void flushed(struct loop_work *w, int status);

static void spool_start(struct api_spool *s)
{
    struct piece p = s->flush;
    s->flush = s->fill;
    s->fill = p;
    s->fill.len = 0;
    s->last = s->ended;
    int rc = loop_work_start(&s->work, &s->owner, work_flush, flushed);
    INSIST(rc == 0);
}

static void flushed(struct loop_work *w, int status)
{
    struct api_spool *s = CONTAINER_OF(w, struct api_spool, work);
    int rc = status != 0 ? status : s->rc;
    rc = rc == 0 && s->starved ? -ENOMEM : rc;
    if (s->dropped) {
        spool_remove(s);
    } else if (rc != 0 || s->last) {
        s->over = true;
        s->events->on_done(s->arg, rc);
    } else {
        if (s->ended || s->fill.len >= SPOOL_PIECE) {
            spool_start(s);
        }
        if (s->waits && !s->ended) {
            s->waits = false;
            s->events->on_room(s->arg);
        }
    }
}

void api_request_hash(struct digest_ctx *hash, const struct http1_head *head)
{
    digest_ctx_update(hash, head->method.p, head->method.n);
    digest_ctx_update(hash, "\n", 1);
    digest_ctx_update(hash, head->target.p, head->target.n);
    digest_ctx_update(hash, "\n", 1);
}

struct api_spool *api_spool_new(struct api *a, const struct http1_head *head,
                                const struct api_spool_events *events, void *arg)
{
    struct api_spool *s = mem_zalloc(sizeof(*s));
    if (s == NULL || digest_ctx_new(DIGEST_SHA256, &s->hash) != 0) {
        mem_free(s);
        return NULL;
    }
    s->api = a;
    s->events = events;
    s->arg = arg;
    s->fd = -1;
    s->dirfd = node_spool_dirfd(a->node);
    (void)snprintf(s->name, sizeof(s->name), "upload-%s-%llu", a->spool_salt,
                   (unsigned long long)a->spool_next++);
    api_request_hash(s->hash, head);
    loop_hold(&a->owner);
    loop_owner_init(&s->owner, a->loop, spool_gone);
    return s;
}

static bool piece_add(struct piece *p, struct str data)
{
    size_t need = p->len + data.n;
    size_t cap = p->cap > 0 ? p->cap : SPOOL_FIRST;
    while (cap < need) {
        cap *= 2;
    }
    if (cap != p->cap) {
        char *grown = mem_realloc(p->data, cap);
        if (grown == NULL) {
            return false;
        }
        p->data = grown;
        p->cap = cap;
    }
    memcpy(p->data + p->len, data.p, data.n);
    p->len = need;
    return true;
}

bool api_spool_write(struct api_spool *s, struct str data)
{
    if (s->over || s->starved) {
        return false;
    }
    s->bytes += data.n;
    s->starved = !piece_add(&s->fill, data);
    if (!s->starved && s->fill.len < SPOOL_PIECE) {
        return true;
    }
    if (!s->work.busy) {
        spool_start(s);
        return !s->starved;
    }
    s->waits = true;
    return false;
}

void api_spool_end(struct api_spool *s)
{
    s->ended = true;
    if (!s->work.busy && !s->over) {
        spool_start(s);
    }
}

uint64_t api_spool_bytes(const struct api_spool *s)
{
    return s->bytes;
}

const char *api_spool_take(struct api_spool *s, uint8_t ret_hash[32])
{
    REQUIRE(s->over && s->ended);
    memcpy(ret_hash, s->digest.b, 32);
    if (s->fd < 0) {
        return "";
    }
    s->taken = true;
    return s->name;
}

void api_spool_drop(struct api_spool *s)
{
    if (s == NULL) {
        return;
    }
    s->dropped = true;
    if (!s->work.busy) {
        spool_remove(s);
    }
}
