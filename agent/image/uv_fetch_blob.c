/*
 * A blob on its way here. What comes gathers in `fill`; a pool job writes and hashes `drain`; the
 * two change places when it is done, and while `fill` is full the source is paused.
 *
 *   WAITING ─► OPENING ─► ASKING ─► FINISHING ─► ENDED
 *                          │  ▲        │ another digest: from the beginning, elsewhere
 *                          ▼  └────────┘
 *                        RESTING (a source broke off: later, or the next one)
 *
 * It waits in WAITING (for a place among blobs_max), OPENING and FINISHING (for the disk), ASKING
 * (for the source and the disk) and RESTING (for time). The blob goes when it has ended, its job is
 * done and nobody waits for it.
 *
 * Which source is to blame when the digest is wrong? When only one gave bytes, that one. Otherwise
 * the blob is alone with one source at a time from then on.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/image/fetch_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    FILL_MAX = 256 * 1024,
    FILL_CAP = FILL_MAX + (1024 * 1024),
    PROGRESS_BYTES = 4096,
    KEY_CAP = DIGEST_TEXT_CAP + 24,
};

enum blob_state {
    BLOB_WAITING,
    BLOB_OPENING,
    BLOB_ASKING,
    BLOB_RESTING,
    BLOB_FINISHING,
    BLOB_ENDED,
};

static const unsigned blob_next[] = {
    [BLOB_WAITING] = BIT(BLOB_OPENING) | BIT(BLOB_ENDED),
    [BLOB_OPENING] = BIT(BLOB_ASKING) | BIT(BLOB_RESTING) | BIT(BLOB_ENDED),
    [BLOB_ASKING] = BIT(BLOB_ASKING) | BIT(BLOB_RESTING) | BIT(BLOB_FINISHING) | BIT(BLOB_ENDED),
    [BLOB_RESTING] = BIT(BLOB_ASKING) | BIT(BLOB_ENDED),
    [BLOB_FINISHING] = BIT(BLOB_RESTING) | BIT(BLOB_ENDED),
    [BLOB_ENDED] = 0,
};

struct image_fetch_blob {
    struct image_fetcher *fetcher;
    struct list wants;
    struct list place; /* in fetcher->waiting */
    struct loop_timer rest;
    struct loop_work work;
    struct loop_owner owner; /* of the two */
    enum blob_state state;
    bool placed;       /* counts in fetcher->active */
    char key[KEY_CAP]; /* in fetcher->blobs: a document may be wrong about a size */
    char text[DIGEST_TEXT_CAP];
    struct digest digest;
    uint64_t size;
    char repository[IMAGE_NAME_MAX + 1];
    struct image_origins *origins;
    size_t current;

    struct image_ask *ask;
    bool over; /* the ask has ended with these: */
    int over_rc;
    uint64_t over_wait_ms;
    bool paused;
    uint64_t skip;     /* bytes of the answer that we have already */
    uint64_t asked_at; /* offset when the ask began */

    char upload[IMAGE_UPLOAD_NAME_CAP];
    int fd;
    struct digest_ctx *hash;
    uint64_t offset; /* written and hashed */
    struct buf fill, drain;
    bool restart; /* the file is to begin again */
    bool named;   /* the upload is the blob now */
    int job_rc;
    struct err job_error;

    uint32_t excluded; /* sources that do not have it, or not the right one */
    uint32_t given;    /* sources of the bytes so far */
    bool solo;
    unsigned attempts; /* without progress */
    bool wrong;        /* some source gave other bytes */
    uint64_t bytes;    /* that came */
    int rc;
    struct err error; /* the last that a source said */
};

static void blob_pump(struct image_fetch_blob *b);

static void blob_move(struct image_fetch_blob *b, enum blob_state to)
{
    INSIST(blob_next[b->state] & BIT(to));
    b->state = to;
}

/* ---- the end -----------------------------------------------------------------------------------
 */

static void blob_closed(struct loop_owner *o)
{
    struct image_fetch_blob *b = CONTAINER_OF(o, struct image_fetch_blob, owner);
    struct image_fetcher *f = b->fetcher;
    image_origins_unref(b->origins);
    mem_free(b);
    loop_drop(&f->owner);
}

static void discard_work(struct loop_work *w)
{
    struct image_fetch_blob *b = CONTAINER_OF(w, struct image_fetch_blob, work);
    if (b->upload[0] != '\0' && !b->named) {
        image_upload_remove(b->fetcher->store, b->upload);
    }
    b->fd = fd_close(b->fd);
}

static void blob_release(struct image_fetch_blob *b)
{
    digest_ctx_free(b->hash);
    b->hash = NULL;
    buf_release(&b->fill);
    buf_release(&b->drain);
    loop_timer_close(&b->rest);
    loop_owner_close(&b->owner);
}

static void discard_done(struct loop_work *w, int status)
{
    struct image_fetch_blob *b = CONTAINER_OF(w, struct image_fetch_blob, work);
    (void)status;
    if (b->fd >= 0) {
        discard_work(w); /* cancelled before it began */
    }
    blob_release(b);
}

/* Nobody finds it any more; its file goes in the pool. */
static void blob_discard(struct image_fetch_blob *b)
{
    if (b->work.busy) {
        return; /* work_done comes here again */
    }
    if (b->fd < 0) {
        blob_release(b);
    } else if (loop_work_start(&b->work, &b->owner, discard_work, discard_done) < 0) {
        discard_work(&b->work);
        blob_release(b);
    }
}

static void blob_end(struct image_fetch_blob *b, int rc)
{
    struct image_fetcher *f = b->fetcher;
    if (b->state == BLOB_ENDED) {
        return;
    }
    blob_move(b, BLOB_ENDED);
    b->rc = rc;
    b->ask = image_ask_cancel(b->ask);
    loop_timer_stop(&b->rest);
    list_remove(&b->place);
    map_remove(&f->blobs, str_of(b->key));
    if (b->placed) {
        b->placed = false;
        f->active--;
        f->stats.blobs = f->active;
    }
    f->stats.blobs_total += rc == 0;
    while (!list_empty(&b->wants)) {
        struct image_fetch_want *w = LIST_ITEM(b->wants.next, struct image_fetch_want, link);
        list_remove(&w->link);
        w->blob = NULL;
        w->done(w, rc, rc == 0 ? b->bytes : 0, rc == 0 ? "" : err_text(&b->error));
    }
    blob_discard(b);
    loop_defer_post(f->owner.loop, &f->kick);
}

/* ---- choosing a source -------------------------------------------------------------------------
 */

static bool is_excluded(const struct image_fetch_blob *b, size_t i)
{
    return (b->excluded & (1U << i)) != 0;
}

static bool next_source(struct image_fetch_blob *b)
{
    for (size_t k = 1; k <= b->origins->n; k++) {
        size_t i = (b->current + k) % b->origins->n;
        if (!is_excluded(b, i)) {
            if (b->solo && i != b->current && b->offset > 0) {
                b->restart = true;
            }
            b->current = i;
            return true;
        }
    }
    return false;
}

/* Every source gets its turn before there is any waiting; then longer and longer. */
static void rest(struct image_fetch_blob *b, uint64_t wait_ms)
{
    unsigned round = b->attempts / (unsigned)b->origins->n;
    uint64_t ms = round == 0 ? 0 : IMAGE_FETCH_BACKOFF_MS;
    for (unsigned i = 1; i < round && ms < IMAGE_FETCH_BACKOFF_MAX_MS; i++) {
        ms *= 2;
    }
    if (round > 0 && ms < wait_ms) {
        ms = wait_ms;
    }
    blob_move(b, BLOB_RESTING);
    loop_timer_start(&b->rest, ms, 0);
}

static bool may_go_on(struct image_fetch_blob *b)
{
    return b->attempts < b->fetcher->opt.attempts_max + b->origins->n - 1 && next_source(b);
}

/* Did the source say that it will never do? */
static bool is_final(int rc)
{
    return rc == -ENOENT || rc == -EACCES || rc == -EOPNOTSUPP || rc == -EFBIG || rc == -ERANGE ||
           rc == -EBADMSG;
}

/* An attempt that brings next to nothing brings nothing, or a source could feed us for ever. */
static bool made_progress(const struct image_fetch_blob *b)
{
    uint64_t came = b->offset - b->asked_at;
    return came >= PROGRESS_BYTES || came >= (b->size - b->asked_at + 3) / 4;
}

/* The source that was asked is done with, and the blob is not whole. */
static void source_failed(struct image_fetch_blob *b, int rc, uint64_t wait_ms)
{
    if (rc == -ENOMEM || rc == -ENOSPC || rc == -EDQUOT) {
        blob_end(b, rc);
        return;
    }
    if (is_final(rc)) {
        b->excluded |= 1U << b->current;
    } else if (made_progress(b)) {
        b->attempts = 0;
    } else {
        b->attempts++;
    }
    if (!may_go_on(b)) {
        blob_end(b, b->wrong ? -EBADMSG : rc);
        return;
    }
    rest(b, wait_ms);
}

/* ---- pool jobs ---------------------------------------------------------------------------------
 */

static void start_job(struct image_fetch_blob *b, loop_work_fn *run, loop_work_done_fn *done)
{
    b->job_rc = 0;
    b->job_error = (struct err){ 0 };
    if (loop_work_start(&b->work, &b->owner, run, done) < 0) {
        err_say(&b->error, -ENOMEM, "out of memory");
        blob_end(b, -ENOMEM);
    }
}

/* A job is done: true when the blob had ended meanwhile, or ends because the job failed. */
static bool job_ended(struct image_fetch_blob *b, int status)
{
    if (b->state == BLOB_ENDED) {
        blob_discard(b);
        return true;
    }
    if (status < 0 || b->job_rc < 0) {
        b->error = b->job_error;
        blob_end(b, status < 0 ? status : b->job_rc);
        return true;
    }
    return false;
}

static void write_work(struct loop_work *w)
{
    struct image_fetch_blob *b = CONTAINER_OF(w, struct image_fetch_blob, work);
    b->job_rc = sys_pwrite_full(b->fd, b->drain.data, b->drain.len, b->offset);
    if (b->job_rc < 0) {
        err_set(&b->job_error, b->job_rc, "write a blob");
        return;
    }
    digest_ctx_update(b->hash, b->drain.data, b->drain.len);
}

static void write_done(struct loop_work *w, int status)
{
    struct image_fetch_blob *b = CONTAINER_OF(w, struct image_fetch_blob, work);
    if (job_ended(b, status)) {
        return;
    }
    b->offset += b->drain.len;
    buf_reset(&b->drain);
    blob_pump(b);
}

static void finish_work(struct loop_work *w)
{
    struct image_fetch_blob *b = CONTAINER_OF(w, struct image_fetch_blob, work);
    struct digest got;
    char text[DIGEST_TEXT_CAP];
    digest_ctx_final(b->hash, &got);
    if (!digest_eq(&got, &b->digest)) {
        b->wrong = true;
        err_say(&b->error, -EBADMSG, "what came as %s is %s", b->text, digest_format(&got, text));
        return;
    }
    b->job_rc = image_upload_commit(b->fetcher->store, b->upload, b->fd, &b->digest, b->size,
                                    b->repository, &b->job_error);
    b->named = b->job_rc == 0;
}

static void finish_done(struct loop_work *w, int status)
{
    struct image_fetch_blob *b = CONTAINER_OF(w, struct image_fetch_blob, work);
    if (job_ended(b, status)) {
        return;
    }
    if (b->named) {
        blob_end(b, 0);
        return;
    }
    b->fetcher->stats.wrong_total++;
    b->restart = true;
    if ((b->given & (b->given - 1)) == 0) {
        b->excluded |= b->given; /* one source gave all of it */
    }
    b->solo = true;
    b->attempts++;
    if (!may_go_on(b)) {
        blob_end(b, -EBADMSG);
        return;
    }
    rest(b, 0);
}

/* ---- asking ------------------------------------------------------------------------------------
 */

/* 206 must begin where we are; 200 is the whole, of which we pass over what we have. */
static int answer_head(void *arg, const struct http1_head *head)
{
    struct image_fetch_blob *b = arg;
    uint64_t from = 0;
    uint64_t total = 0;
    struct str range = http1_header(head, "Content-Range");
    b->skip = 0;
    if (head->status == 206) {
        ptrdiff_t dash = str_find(range, '-');
        ptrdiff_t slash = str_find(range, '/');
        if (!str_starts(range, "bytes ") || dash < 6 || slash < dash ||
            str_u64(str_slice(range, 6, (size_t)dash - 6), &from) < 0 || from != b->asked_at ||
            (str_u64(str_slice(range, (size_t)slash + 1, range.n), &total) == 0 &&
             total != b->size)) {
            return -EOPNOTSUPP;
        }
        b->fetcher->stats.resumed_total++;
    } else if (head->status == 200) {
        b->skip = b->asked_at;
    } else {
        return -EOPNOTSUPP;
    }
    uint64_t want = b->size - (head->status == 206 ? b->asked_at : 0);
    return head->has_length && head->length != want ? -EFBIG : 0;
}

static void answer_data(void *arg, struct str data)
{
    struct image_fetch_blob *b = arg;
    size_t over = data.n < b->skip ? data.n : (size_t)b->skip;
    b->skip -= over;
    data = str_slice(data, over, data.n);
    b->bytes += data.n;
    b->fetcher->stats.bytes_total += data.n;
    b->given |= data.n > 0 ? 1U << b->current : 0;
    (void)buf_addstr(&b->fill, data); /* a failure stays, and shows at the end */
    if (b->fill.len >= FILL_MAX && b->work.busy) {
        b->paused = true;
        image_ask_pause(b->ask);
    }
    if (b->fill.len >= FILL_MAX / 2 && !b->work.busy && buf_error(&b->fill) == 0) {
        blob_pump(b);
    }
}

static void answer_done(void *arg, int rc, const char *why, uint64_t wait_ms)
{
    struct image_fetch_blob *b = arg;
    b->ask = NULL;
    b->over = true;
    b->over_rc = rc;
    b->over_wait_ms = wait_ms;
    if (rc < 0) {
        err_say(&b->error, rc, "%s", why);
    }
    blob_pump(b);
}

static void ask_source(struct image_fetch_blob *b)
{
    char target[IMAGE_NAME_MAX + DIGEST_TEXT_CAP + 32];
    const struct image_ask_events ev = {
        .on_head = answer_head, .on_data = answer_data, .on_done = answer_done, .arg = b
    };
    snprintf(target, sizeof(target), "/v2/%s/blobs/%s", b->origins->v[b->current].repository,
             b->text);
    if (b->restart) {
        b->restart = false;
        b->offset = 0;
        b->given = 0;
        digest_ctx_reset(b->hash);
    }
    b->over = false;
    b->over_rc = 0;
    b->paused = false;
    b->asked_at = b->offset;
    /* A source may ignore the range and send all of it. */
    b->ask =
        image_ask_start(b->fetcher, b->origins, b->current, target, NULL, b->offset, b->size, &ev);
    blob_move(b, BLOB_ASKING);
    if (b->ask == NULL) {
        err_say(&b->error, -ENOMEM, "out of memory");
        blob_end(b, -ENOMEM);
    }
}

static void rested(struct loop_timer *t)
{
    struct image_fetch_blob *b = CONTAINER_OF(t, struct image_fetch_blob, rest);
    if (b->state == BLOB_RESTING) {
        ask_source(b);
    }
}

/* Bytes to the disk; then what the ask came to. */
static void blob_pump(struct image_fetch_blob *b)
{
    if (b->work.busy || b->state != BLOB_ASKING) {
        return;
    }
    if (b->fill.len > 0) {
        struct buf empty = b->drain;
        b->drain = b->fill;
        b->fill = empty;
        start_job(b, write_work, write_done);
        if (b->paused && b->ask != NULL) {
            b->paused = false;
            image_ask_resume(b->ask);
        }
        return;
    }
    if (!b->over) {
        return;
    }
    int rc = buf_error(&b->fill) < 0 ? -ENOMEM : b->over_rc;
    bool whole = b->offset == b->size && rc != -EFBIG && rc != -ENOMEM;
    if (rc < 0 && !whole) {
        source_failed(b, rc, b->over_wait_ms);
    } else if (b->offset < b->size) {
        err_say(&b->error, -EPROTO, "%s sent %llu bytes of %llu", b->origins->v[b->current].host,
                (unsigned long long)b->offset, (unsigned long long)b->size);
        source_failed(b, -EPROTO, 0);
    } else if (b->offset > b->size) {
        err_say(&b->error, -EBADMSG, "%s sent more than %llu bytes", b->origins->v[b->current].host,
                (unsigned long long)b->size);
        b->wrong = true;
        b->restart = true;
        source_failed(b, -EBADMSG, 0);
    } else {
        blob_move(b, BLOB_FINISHING);
        start_job(b, finish_work, finish_done);
    }
}

/* ---- beginning ---------------------------------------------------------------------------------
 */

static void open_work(struct loop_work *w)
{
    struct image_fetch_blob *b = CONTAINER_OF(w, struct image_fetch_blob, work);
    struct image_store *s = b->fetcher->store;
    b->job_rc = image_store_room(s, b->size, &b->job_error);
    if (b->job_rc == 0) {
        b->job_rc = image_upload_create(s, b->upload, &b->fd, &b->job_error);
    }
}

static void open_done(struct loop_work *w, int status)
{
    struct image_fetch_blob *b = CONTAINER_OF(w, struct image_fetch_blob, work);
    if (!job_ended(b, status)) {
        ask_source(b);
    }
}

void image_fetch_blob_kick(struct loop_defer *d)
{
    struct image_fetcher *f = CONTAINER_OF(d, struct image_fetcher, kick);
    while (f->active < f->opt.blobs_max && !list_empty(&f->waiting)) {
        struct image_fetch_blob *b = LIST_ITEM(f->waiting.next, struct image_fetch_blob, place);
        list_remove(&b->place);
        b->placed = true;
        f->active++;
        f->stats.blobs = f->active;
        blob_move(b, BLOB_OPENING);
        start_job(b, open_work, open_done);
    }
}

static void blob_key(const struct image_descriptor *d, char dst[KEY_CAP])
{
    char text[DIGEST_TEXT_CAP];
    snprintf(dst, KEY_CAP, "%s/%llu", digest_format(&d->digest, text), (unsigned long long)d->size);
}

static struct image_fetch_blob *blob_new(struct image_fetcher *f, const struct image_descriptor *d,
                                         const char *repository, struct image_origins *origins,
                                         size_t first)
{
    struct image_fetch_blob *b = mem_zalloc(sizeof(*b));
    if (b == NULL || digest_ctx_new(d->digest.algo, &b->hash) < 0) {
        mem_free(b);
        return NULL;
    }
    b->fetcher = f;
    b->digest = d->digest;
    b->size = d->size;
    b->fd = -1;
    digest_format(&d->digest, b->text);
    str_copy(b->repository, sizeof(b->repository), str_of(repository));
    blob_key(d, b->key);
    if (map_add(&f->blobs, str_of(b->key), b) < 0) {
        digest_ctx_free(b->hash);
        mem_free(b);
        return NULL;
    }
    list_init(&b->wants);
    list_init(&b->place);
    buf_init(&b->fill, FILL_CAP);
    buf_init(&b->drain, FILL_CAP);
    b->origins = image_origins_ref(origins);
    b->current = first % origins->n;
    loop_hold(&f->owner);
    loop_owner_init(&b->owner, f->owner.loop, blob_closed);
    loop_timer_init(&b->rest, &b->owner, rested);
    list_push_back(&f->waiting, &b->place);
    return b;
}

int image_fetch_blob_want(struct image_fetcher *f, struct image_fetch_want *w,
                          const struct image_descriptor *d, const char *repository,
                          struct image_origins *origins, size_t first)
{
    char key[KEY_CAP];
    blob_key(d, key);
    struct image_fetch_blob *b = map_get(&f->blobs, str_of(key));
    w->joined = b != NULL && b->origins != origins;
    if (b == NULL) {
        b = blob_new(f, d, repository, origins, first);
    }
    if (b == NULL) {
        return -ENOMEM;
    }
    list_push_back(&b->wants, &w->link);
    w->blob = b;
    loop_defer_post(f->owner.loop, &f->kick);
    return 0;
}

void image_fetch_blob_leave(struct image_fetch_want *w)
{
    struct image_fetch_blob *b = TAKE(w->blob);
    if (b == NULL) {
        return;
    }
    list_remove(&w->link);
    if (list_empty(&b->wants)) {
        err_say(&b->error, -ECANCELED, "it was cancelled");
        blob_end(b, -ECANCELED);
    }
}
