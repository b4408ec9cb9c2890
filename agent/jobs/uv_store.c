#include "agent/jobs/uv_store.h"

#include <errno.h>
#include <fcntl.h>

#include "agent/jobs/jobs_internal.h"
#include "agent/jobs/sys_db_internal.h"
#include "agent/jobs/uv_store_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys_clock.h"
#include "common/sys/sys_fd.h"
#include "common/sys/sys_file.h"

/*
 * A lane is a thread with its connection, the requests that wait for it and those that it has done.
 * The loop's side of a request is q->done(), the thread's side q->work().
 */

/* --- on the threads --- */

static void free_request(struct store_request *q)
{
    job_free(q->job);
    for (size_t i = 0; i < q->jobs_n; i++) {
        job_free(q->jobs[i]);
    }
    mem_free(q->jobs);
    mem_free(q->runs);
    mem_free(q->gone);
    mem_free(q->job_stats);
    buf_release(&q->text);
    mem_free(q);
}

/* A second run of work() starts from nothing. */
static void forget_results(struct store_request *q)
{
    q->job = job_free(q->job);
    for (size_t i = 0; i < q->jobs_n; i++) {
        q->jobs[i] = job_free(q->jobs[i]);
    }
    q->jobs_n = 0;
    q->n = 0;
}

/* One request inside the open transaction: all of it or nothing. */
static int work_in_savepoint(struct job_db *db, struct store_request *q)
{
    int r = job_db_exec(db, "SAVEPOINT request");

    if (r != 0) {
        return r;
    }
    forget_results(q);
    r = q->work(db, q);
    if (r != 0 && job_db_in_transaction(db)) {
        int undo = job_db_exec(db, "ROLLBACK TO request");
        return undo != 0 ? undo : job_db_exec(db, "RELEASE request") != 0 ? -EIO : r;
    }
    return r != 0 ? r : job_db_exec(db, "RELEASE request");
}

static bool refused_by_floor(const struct store_lane *l, const struct store_request *q)
{
    return q->takes_work && atomic_load(&l->store->is_full);
}

/* All of them in one transaction. 0, or what made the transaction as a whole fail. */
static int work_together(struct store_lane *l, struct list *batch)
{
    struct job_db *db = l->db;
    int r = job_db_exec(db, "BEGIN IMMEDIATE");

    if (r != 0) {
        return r;
    }
    LIST_EACH (i, batch) {
        struct store_request *q = LIST_ITEM(i, struct store_request, link);
        q->status = refused_by_floor(l, q) ? -ENOSPC : work_in_savepoint(db, q);
        if (!job_db_in_transaction(db)) {
            return q->status != 0 ? q->status : -EIO; /* SQLite rolled everything back */
        }
    }
    uint64_t before = sys_mono_us();
    r = job_db_exec(db, "COMMIT");
    uint64_t took = sys_mono_us() - before;
    if (r != 0 && job_db_in_transaction(db)) {
        (void)job_db_exec(db, "ROLLBACK");
    }
    uv_mutex_lock(&l->mutex);
    l->counters.commits++;
    l->counters.commit_us += took;
    if (took > l->counters.commit_max_us) {
        l->counters.commit_max_us = took;
    }
    uv_mutex_unlock(&l->mutex);
    return r;
}

/* A transaction that failed as a whole says little about its requests: each gets one of its own. */
static void work_apart(struct store_lane *l, struct list *batch)
{
    LIST_EACH_SAFE (i, batch) {
        struct store_request *q = LIST_ITEM(i, struct store_request, link);
        struct list alone;
        struct list *after = i->next;
        list_init(&alone);
        list_remove(i);
        list_push_back(&alone, i);
        int r = work_together(l, &alone);
        if (r != 0) {
            q->status = r;
        }
        list_remove(i);
        list_insert_before(after, i);
    }
}

static void look_at_space(struct store_lane *l)
{
    struct job_store *s = l->store;
    uint64_t now = sys_mono_ms();
    struct sys_space space;

    if (now < l->space_ms || s->cfg.min_free_bytes == 0) {
        return;
    }
    l->space_ms = now + STORE_SPACE_MS;
    if (sys_space(s->dirfd, &space) == 0) {
        atomic_store(&s->is_full, space.free_bytes < s->cfg.min_free_bytes);
    }
}

static void write_batch(struct store_lane *l, struct list *batch)
{
    look_at_space(l);
    if (work_together(l, batch) != 0) {
        work_apart(l, batch);
    }
}

static void read_batch(struct store_lane *l, struct list *batch)
{
    LIST_EACH (i, batch) {
        struct store_request *q = LIST_ITEM(i, struct store_request, link);
        q->status = q->work(l->db, q);
    }
}

/* Waits for work; false: closing, and nothing is left. The mutex is held. */
static bool await_work(struct store_lane *l)
{
    for (;;) {
        uint64_t now = sys_mono_ms();
        if (l->urgent || l->closing || (l->lazy_ms != 0 && now >= l->lazy_ms)) {
            return !list_empty(&l->in);
        }
        if (l->lazy_ms != 0) {
            (void)uv_cond_timedwait(&l->cond, &l->mutex, (l->lazy_ms - now) * 1000000);
        } else {
            uv_cond_wait(&l->cond, &l->mutex);
        }
    }
}

static void take_batch(struct store_lane *l, struct list *batch)
{
    size_t n = 0;

    while (n < STORE_BATCH_MAX && !list_empty(&l->in)) {
        struct list *i = l->in.next;
        list_remove(i);
        list_push_back(batch, i);
        n++;
    }
    if (list_empty(&l->in)) {
        l->urgent = false;
        l->lazy_ms = 0;
    } else {
        l->urgent = true;
    }
}

static void lane_main(void *arg)
{
    struct store_lane *l = arg;

    uv_mutex_lock(&l->mutex);
    while (await_work(l)) {
        struct list batch;
        list_init(&batch);
        take_batch(l, &batch);
        bool cancel = l->closing && !l->writes;
        uv_mutex_unlock(&l->mutex);
        if (cancel) {
            LIST_EACH (i, &batch) {
                LIST_ITEM(i, struct store_request, link)->status = -ECANCELED;
            }
        } else if (l->writes) {
            write_batch(l, &batch);
        } else {
            read_batch(l, &batch);
        }
        uv_mutex_lock(&l->mutex);
        LIST_EACH_SAFE (i, &batch) {
            list_remove(i);
            list_push_back(&l->out, i);
        }
        (void)uv_async_send(&l->async);
    }
    l->ended = true;
    (void)uv_async_send(&l->async);
    uv_mutex_unlock(&l->mutex);
}

/* --- on the loop: requests --- */

struct store_request *job_store_request_new(store_work_fn *work, store_done_fn *done, void *arg)
{
    struct store_request *q = mem_zalloc(sizeof *q);

    if (q != NULL) {
        list_init(&q->link);
        buf_init(&q->text, 4 * JOB_DOCUMENT_MAX);
        q->work = work;
        q->done = done;
        q->arg = arg;
    }
    return q;
}

/* A request that never reached its thread is answered from the loop, in the order of failure. */
static void fail_soon(struct job_store *s, struct store_request *q, int status)
{
    q->status = status;
    list_push_back(&s->failed, &q->link);
    loop_defer_post(s->owner.loop, &s->fail_defer);
}

void job_store_send(struct job_store *s, struct store_lane *l, struct store_request *q, bool lazy)
{
    int err = 0;

    if (s->closing) {
        err = -ECANCELED;
    } else if (buf_error(&q->text) != 0) {
        err = buf_error(&q->text);
    } else if (s->pending >= s->max_pending) {
        err = -ENOBUFS;
    }
    s->pending++;
    if (err != 0) {
        fail_soon(s, q, err);
        return;
    }
    uv_mutex_lock(&l->mutex);
    list_push_back(&l->in, &q->link);
    bool wake = !l->urgent;
    if (!lazy) {
        l->urgent = true;
    } else if (l->lazy_ms == 0) {
        l->lazy_ms = sys_mono_ms() + STORE_LAZY_MS;
    } else {
        wake = false;
    }
    if (wake) {
        uv_cond_signal(&l->cond);
    }
    uv_mutex_unlock(&l->mutex);
}

static void answer(struct job_store *s, struct store_request *q)
{
    s->pending--;
    if (q->status == 0) {
        s->counters.requests++;
    }
    q->done(s, q);
    free_request(q);
}

static void failed_run(struct loop_defer *d)
{
    struct job_store *s = CONTAINER_OF(d, struct job_store, fail_defer);
    struct list now;

    list_init(&now);
    while (!list_empty(&s->failed)) {
        struct list *i = s->failed.next;
        list_remove(i);
        list_push_back(&now, i);
    }
    while (!list_empty(&now)) {
        struct list *i = now.next;
        list_remove(i);
        answer(s, LIST_ITEM(i, struct store_request, link));
    }
}

static void lane_closed(struct store_lane *l)
{
    uv_thread_join(&l->thread);
    l->joined = true;
    loop_handle_close(&l->store->owner, (uv_handle_t *)&l->async);
}

static void lane_wakes(uv_async_t *a)
{
    struct store_lane *l = CONTAINER_OF(a, struct store_lane, async);
    struct list out;

    list_init(&out);
    uv_mutex_lock(&l->mutex);
    while (!list_empty(&l->out)) {
        struct list *i = l->out.next;
        list_remove(i);
        list_push_back(&out, i);
    }
    bool ended = l->ended;
    l->store->lane_counters[l->writes] = l->counters;
    uv_mutex_unlock(&l->mutex);
    while (!list_empty(&out)) {
        struct list *i = out.next;
        list_remove(i);
        answer(l->store, LIST_ITEM(i, struct store_request, link));
    }
    if (ended && !l->joined) {
        lane_closed(l);
    }
}

/* --- opening and closing --- */

static void store_closed(struct loop_owner *o)
{
    struct job_store *s = CONTAINER_OF(o, struct job_store, owner);
    void (*on_closed)(void *) = s->on_closed;
    void *arg = s->closed_arg;

    while (!list_empty(&s->failed)) {
        failed_run(&s->fail_defer);
    }
    loop_defer_cancel(&s->fail_defer);
    for (size_t i = 0; i < ARRAY_LEN(s->lanes); i++) {
        job_db_close(s->lanes[i].db);
        uv_cond_destroy(&s->lanes[i].cond);
        uv_mutex_destroy(&s->lanes[i].mutex);
    }
    (void)fd_close(s->dirfd);
    mem_free(s);
    if (on_closed != NULL) {
        on_closed(arg);
    }
}

static int lane_init(struct job_store *s, struct store_lane *l, bool writes, struct err *e)
{
    l->store = s;
    l->writes = writes;
    list_init(&l->in);
    list_init(&l->out);
    int r = job_db_open(s->cfg.dir, writes, writes ? s->cfg.max_pages : 0, &l->db, e);
    if (r != 0) {
        return r;
    }
    r = uv_mutex_init(&l->mutex);
    if (r != 0) {
        l->db = job_db_close(l->db);
        return err_set(e, r, "open the store");
    }
    r = uv_cond_init(&l->cond);
    if (r != 0) {
        uv_mutex_destroy(&l->mutex);
        l->db = job_db_close(l->db);
        return err_set(e, r, "open the store");
    }
    return 0;
}

static void lane_release(struct store_lane *l)
{
    if (l->db != NULL) {
        uv_cond_destroy(&l->cond);
        uv_mutex_destroy(&l->mutex);
        l->db = job_db_close(l->db);
    }
}

static void lane_stop(struct store_lane *l)
{
    uv_mutex_lock(&l->mutex);
    l->closing = true;
    uv_cond_signal(&l->cond);
    uv_mutex_unlock(&l->mutex);
}

/* The handle and the thread; from here on only the loop can undo it. */
static int lane_start(struct store_lane *l, struct err *e)
{
    struct loop_owner *o = &l->store->owner;
    int r = uv_async_init(o->loop->uv, &l->async, lane_wakes);

    if (r != 0) {
        l->joined = true;
        return err_set(e, r, "start the store");
    }
    loop_hold(o);
    r = uv_thread_create(&l->thread, lane_main, l);
    if (r != 0) {
        l->joined = true;
        loop_handle_close(o, (uv_handle_t *)&l->async);
        return err_set(e, r, "start the store's thread");
    }
    return 0;
}

int job_store_open(struct loop *loop, const struct job_store_config *cfg, struct job_store **ret,
                   struct err *e)
{
    struct job_store *s = mem_zalloc(sizeof *s);

    if (s == NULL) {
        return err_set(e, -ENOMEM, "open the store");
    }
    s->cfg = *cfg;
    s->max_pending = cfg->max_pending != 0 ? cfg->max_pending : 65536;
    list_init(&s->failed);
    loop_defer_init(&s->fail_defer, failed_run);
    s->dirfd = sys_open_dir(AT_FDCWD, cfg->dir, false);
    int r = s->dirfd < 0 ? err_set(e, s->dirfd, "open '%s'", cfg->dir) : 0;
    r = r != 0 ? r : lane_init(s, &s->lanes[STORE_WRITER], true, e);
    r = r != 0 ? r : lane_init(s, &s->lanes[STORE_READER], false, e);
    if (r != 0) {
        lane_release(&s->lanes[STORE_WRITER]);
        lane_release(&s->lanes[STORE_READER]);
        s->dirfd = s->dirfd >= 0 ? fd_close(s->dirfd) : -1;
        mem_free(s);
        return r;
    }
    s->cfg.dir = NULL; /* the caller's */
    look_at_space(&s->lanes[STORE_WRITER]);
    loop_owner_init(&s->owner, loop, store_closed);
    r = lane_start(&s->lanes[STORE_WRITER], e);
    s->lanes[STORE_READER].joined = r != 0; /* not started */
    r = r != 0 ? r : lane_start(&s->lanes[STORE_READER], e);
    if (r != 0) {
        job_store_close(s, NULL, NULL);
        return r;
    }
    *ret = s;
    return 0;
}

void job_store_close(struct job_store *s, void (*on_closed)(void *arg), void *arg)
{
    REQUIRE(!s->closing);
    s->closing = true;
    s->on_closed = on_closed;
    s->closed_arg = arg;
    loop_owner_close(&s->owner);
    for (size_t i = 0; i < ARRAY_LEN(s->lanes); i++) {
        if (!s->lanes[i].joined) {
            lane_stop(&s->lanes[i]);
        }
    }
}

/* --- looking in --- */

void job_store_set_retention(struct job_store *s, const struct job_retention *keep)
{
    s->cfg.retention = *keep;
}

void job_store_counters(const struct job_store *s, struct job_store_counters *ret)
{
    *ret = s->lane_counters[true];
    ret->requests = s->counters.requests;
    ret->lazy_failed = s->counters.lazy_failed;
    ret->pending = s->pending;
}

bool job_store_is_full(struct job_store *s)
{
    struct sys_space space;

    /* The writer looks when it has work, and whoever asks here may be about to refuse all work. */
    if (atomic_load(&s->is_full) && sys_space(s->dirfd, &space) == 0) {
        atomic_store(&s->is_full, space.free_bytes < s->cfg.min_free_bytes);
    }
    return atomic_load(&s->is_full);
}
