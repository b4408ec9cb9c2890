/*
 * Upload sessions. Bytes from the client gather in `fill`; a pool job writes and hashes `drain`;
 * the two change places when the job is done. While `fill` is full the request is paused, so a
 * client that is faster than the disk waits in its own socket.
 *
 *   POST ─► IDLE ─► RECEIVING (PATCH, PUT, POST?digest=) ─► IDLE      after a PATCH
 *                       │                                └► FINISHING ─► REMOVING   after PUT or
 * POST └ an error, DELETE, age ────────────────────────► REMOVING ─► gone
 *
 * It waits in IDLE (for the client, up to upload_age_ms), RECEIVING (for the client or the disk),
 * FINISHING and REMOVING (for the disk). One pool job at a time belongs to a session.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/registry_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    FILL_MAX = 256 * 1024,               /* from here on the client is paused */
    FILL_CAP = FILL_MAX + (1024 * 1024), /* one read may come on top */
    REHASH_BYTES = 256 * 1024,
    EXPIRY_EVERY_MS = 10000,
};

enum upload_state { UPLOAD_IDLE, UPLOAD_RECEIVING, UPLOAD_FINISHING, UPLOAD_REMOVING };

static const struct {
    const char *name;
    unsigned next;
} upload_states[] = {
    [UPLOAD_IDLE] = { "idle", BIT(UPLOAD_RECEIVING) | BIT(UPLOAD_REMOVING) },
    [UPLOAD_RECEIVING] = { "receiving",
                           BIT(UPLOAD_IDLE) | BIT(UPLOAD_FINISHING) | BIT(UPLOAD_REMOVING) },
    [UPLOAD_FINISHING] = { "finishing", BIT(UPLOAD_REMOVING) },
    [UPLOAD_REMOVING] = { "removing", 0 },
};

struct image_upload {
    struct list link;
    struct loop_work work;
    struct image_registry *registry;
    enum upload_state state;
    char id[IMAGE_SESSION_LEN + 1];
    char repo[IMAGE_NAME_MAX + 1];
    int fd;
    struct digest_ctx *hash;
    enum digest_algo algo; /* of hash */
    uint64_t offset;       /* bytes written and hashed */
    uint64_t last_ms;      /* when something was heard of it */

    /* the request that feeds it */
    struct http_req *req; /* NULL: none, or it went away */
    bool finish;          /* it ends the upload (PUT, or POST with a digest) */
    bool one_shot;        /* POST with a digest: nobody else knows the session */
    bool paused;
    bool body_over;
    uint64_t need;    /* bytes to find room for before the next write */
    uint64_t promise; /* where the offset has to be at the end of the body; UINT64_MAX: anywhere */
    struct digest want;
    struct buf fill, drain;
    bool renamed; /* the file is a blob now */

    int job_status; /* the pool job's, until it is done */
    struct err job_error;
    int status; /* why it ends, 0 while all is well */
    struct err error;
};

static void upload_move(struct image_upload *u, enum upload_state to)
{
    INSIST(upload_states[u->state].next & BIT(to));
    u->state = to;
}

/* ---- answers
 * -------------------------------------------------------------------------------------- */

static void session_headers(struct http_req *req, const struct image_upload *u)
{
    image_reg_headers(req);
    http_res_headerf(req, "Location", "/v2/%s/blobs/uploads/%s", u->repo, u->id);
    /* Nothing yet is "0-0" as well: "0--1" breaks Docker. */
    http_res_headerf(req, "Range", "0-%llu",
                     (unsigned long long)(u->offset > 0 ? u->offset - 1 : 0));
    http_res_header(req, "Docker-Upload-UUID", u->id);
}

/* Answers the request that feeds the session, and lets go of it. */
static struct http_req *take_req(struct image_upload *u)
{
    struct http_req *req = TAKE(u->req);
    if (req != NULL) {
        http_req_set_arg(req, NULL, NULL);
    }
    return req;
}

static void answer_error(struct image_upload *u)
{
    struct http_req *req = take_req(u);
    const char *text = err_text(&u->error);
    if (req == NULL) {
        return;
    }
    switch (u->status) {
    case -EBADMSG:
        image_registry_error(req, 400, "DIGEST_INVALID", text);
        break;
    case -EMSGSIZE:
        image_registry_error(req, 400, "SIZE_INVALID", text);
        break;
    case -ECANCELED:
        image_registry_error(req, 404, "BLOB_UPLOAD_UNKNOWN", text);
        break;
    default:
        image_reg_answer_failure(req, u->status, text);
        break;
    }
}

/* ---- the end of a session
 * ------------------------------------------------------------------------- */

static void note(struct image_registry *r, uint64_t bytes)
{
    image_store_note_uploads(r->store, r->uploads_len, bytes);
}

static void close_when_empty(struct image_registry *r)
{
    if (r->closing && r->uploads_len == 0 && r->opening == 0) {
        loop_owner_close(&r->owner);
    }
}

static void upload_free(struct image_upload *u)
{
    struct image_registry *r = u->registry;
    list_remove(&u->link);
    r->uploads_len--;
    fd_close(u->fd);
    digest_ctx_free(u->hash);
    buf_release(&u->fill);
    buf_release(&u->drain);
    mem_free(u);
    note(r, 0);
    close_when_empty(r);
}

static void remove_work(struct loop_work *w)
{
    struct image_upload *u = CONTAINER_OF(w, struct image_upload, work);
    if (!u->renamed) {
        image_upload_remove(u->registry->store, u->id);
    }
    /* The last reference frees the file's blocks: that takes time, and takes it here. */
    u->fd = fd_close(u->fd);
}

static void remove_done(struct loop_work *w, int status)
{
    (void)status;
    upload_free(CONTAINER_OF(w, struct image_upload, work));
}

static void remove_start(struct image_upload *u)
{
    if (loop_work_start(&u->work, &u->registry->owner, remove_work, remove_done) < 0) {
        remove_work(&u->work); /* no memory for a job: then at once */
        upload_free(u);
    }
}

/* The session is over: nobody finds it any more. A job that runs goes on; its end removes the file.
 */
static void upload_end(struct image_upload *u)
{
    if (u->state == UPLOAD_REMOVING) {
        return;
    }
    upload_move(u, UPLOAD_REMOVING);
    map_remove(&u->registry->sessions, str_of(u->id));
    if (u->req != NULL) {
        answer_error(u);
    }
    if (!u->work.busy) {
        remove_start(u);
    }
}

static void upload_fail(struct image_upload *u, int status, const char *text)
{
    u->status = err_say(&u->error, status, "%s", text);
    upload_end(u);
}

/* ---- finishing
 * -------------------------------------------------------------------------------------- */

/* The client's digest is of another algorithm than the one that ran along. */
static int rehash(struct image_upload *u, struct digest *ret)
{
    struct digest_ctx AUTO_DIGEST_CTX *ctx = NULL;
    char AUTO_MEM *bytes = mem_alloc(REHASH_BYTES);
    if (bytes == NULL || digest_ctx_new(u->want.algo, &ctx) < 0) {
        return err_set(&u->job_error, -ENOMEM, "hash an upload");
    }
    for (uint64_t at = 0; at < u->offset;) {
        ssize_t n = sys_pread_full(u->fd, bytes, REHASH_BYTES, at);
        if (n <= 0) {
            return err_set(&u->job_error, n < 0 ? (int)n : -EIO, "read an upload back");
        }
        digest_ctx_update(ctx, bytes, (size_t)n);
        at += (uint64_t)n;
    }
    digest_ctx_final(ctx, ret);
    return 0;
}

/* What the job came to counts unless something was wrong before. */
static void take_job_status(struct image_upload *u, int status)
{
    if (status < 0) {
        u->job_status = err_set(&u->job_error, status, "upload");
    }
    if (u->status == 0 && u->job_status < 0) {
        u->status = u->job_status;
        u->error = u->job_error;
    }
}

static void finish_work(struct loop_work *w)
{
    struct image_upload *u = CONTAINER_OF(w, struct image_upload, work);
    struct digest got;
    if (u->want.algo == u->algo) {
        digest_ctx_final(u->hash, &got);
    } else {
        u->job_status = rehash(u, &got);
    }
    if (u->job_status == 0 && !digest_eq(&got, &u->want)) {
        char text[DIGEST_TEXT_CAP];
        u->job_status =
            err_say(&u->job_error, -EBADMSG, "the content is %s", digest_format(&got, text));
    }
    if (u->job_status == 0) {
        u->job_status = image_upload_commit(u->registry->store, u->id, u->fd, &u->want, u->offset,
                                            u->repo, &u->job_error);
        u->renamed = u->job_status == 0;
    }
}

static void finish_done(struct loop_work *w, int status)
{
    struct image_upload *u = CONTAINER_OF(w, struct image_upload, work);
    take_job_status(u, status);
    if (u->status == 0) {
        struct http_req *req = take_req(u);
        note(u->registry, u->offset);
        if (req != NULL) {
            image_reg_created_blob(req, u->repo, &u->want);
        }
    }
    upload_end(u);
}

/* ---- receiving
 * ---------------------------------------------------------------------------------------- */

static void write_work(struct loop_work *w)
{
    struct image_upload *u = CONTAINER_OF(w, struct image_upload, work);
    if (u->need > 0) {
        u->job_status = image_store_room(u->registry->store, u->need, &u->job_error);
        u->need = 0;
    }
    if (u->job_status == 0 && u->drain.len > 0) {
        u->job_status = sys_pwrite_full(u->fd, u->drain.data, u->drain.len, u->offset);
        if (u->job_status < 0) {
            err_set(&u->job_error, u->job_status, "write an upload");
        }
    }
    if (u->job_status == 0) {
        digest_ctx_update(u->hash, buf_cstr(&u->drain), u->drain.len);
    }
}

static void pump(struct image_upload *u);

static void write_done(struct loop_work *w, int status)
{
    struct image_upload *u = CONTAINER_OF(w, struct image_upload, work);
    if (status == 0 && u->job_status == 0) {
        u->offset += u->drain.len;
    }
    take_job_status(u, status);
    buf_reset(&u->drain);
    u->last_ms = loop_now_ms(u->registry->owner.loop);
    if (u->state == UPLOAD_REMOVING) {
        remove_start(u); /* it ended while this ran */
        return;
    }
    if (u->status < 0) {
        upload_end(u);
        return;
    }
    pump(u);
}

/* All that came is on disk. */
static void received(struct image_upload *u)
{
    if (u->req == NULL) { /* the client broke off; what it sent stays, and Range will tell */
        if (u->one_shot) {
            upload_fail(u, -ECANCELED, "the client went away");
        } else {
            upload_move(u, UPLOAD_IDLE);
            buf_release(&u->fill);
            buf_release(&u->drain);
        }
        return;
    }
    if (u->promise != UINT64_MAX && u->promise != u->offset) {
        upload_fail(u, -EMSGSIZE, "the body is not as long as its Content-Range says");
        return;
    }
    if (!u->finish) {
        struct http_req *req = take_req(u);
        upload_move(u, UPLOAD_IDLE);
        buf_release(&u->fill);
        buf_release(&u->drain);
        session_headers(req, u);
        http_res_send(req, 202, NULL, NULL, 0);
        return;
    }
    upload_move(u, UPLOAD_FINISHING);
    if (loop_work_start(&u->work, &u->registry->owner, finish_work, finish_done) < 0) {
        upload_fail(u, -ENOMEM, "out of memory");
    }
}

static void pump(struct image_upload *u)
{
    if (u->work.busy) {
        return;
    }
    if (u->fill.len > 0 || u->need > 0) {
        struct buf empty = u->drain;
        u->drain = u->fill;
        u->fill = empty;
        if (loop_work_start(&u->work, &u->registry->owner, write_work, write_done) < 0) {
            upload_fail(u, -ENOMEM, "out of memory");
            return;
        }
        if (u->paused && u->req != NULL) {
            u->paused = false;
            http_req_resume(u->req);
        }
    } else if (u->body_over || u->req == NULL) {
        received(u);
    }
}

static void body_data(void *arg, struct http_req *req, struct str data)
{
    struct image_upload *u = arg;
    int r = buf_addstr(&u->fill, data);
    if (r < 0) {
        upload_fail(u, -ENOMEM, "out of memory");
        return;
    }
    if (u->fill.len >= FILL_MAX && u->work.busy) {
        u->paused = true;
        http_req_pause(req);
    }
    /* Small pieces gather while nothing is urgent; the job is not worth less than this. */
    if (u->fill.len >= FILL_MAX / 2) {
        pump(u);
    }
}

static void body_end(void *arg, struct http_req *req, int status)
{
    struct image_upload *u = arg;
    (void)req;
    if (status < 0) {
        upload_fail(u, status == -EFBIG ? -EFBIG : -EIO, "the blob is larger than allowed");
        return;
    }
    u->body_over = true;
    pump(u);
}

static void feeder_gone(void *arg, bool aborted)
{
    struct image_upload *u = arg;
    (void)aborted;
    u->req = NULL;
    if (u->state == UPLOAD_RECEIVING) {
        pump(u);
    }
}

/* The session takes the request's body. */
static void receive(struct image_upload *u, struct http_req *req, bool finish, uint64_t promise)
{
    const struct http1_head *head = http_req_head(req);
    upload_move(u, UPLOAD_RECEIVING);
    u->req = req;
    u->finish = finish;
    u->promise = promise;
    u->paused = false;
    u->body_over = false;
    /* A PUT without a body needs no room; a body of unknown length some. */
    u->need = head->has_length ? head->length : head->chunked ? 1 : 0;
    u->last_ms = loop_now_ms(u->registry->owner.loop);
    buf_init(&u->fill, FILL_CAP);
    buf_init(&u->drain, FILL_CAP);
    http_req_set_arg(req, u, feeder_gone);
    const struct http_body_sink sink = { .on_data = body_data, .on_end = body_end, .arg = u };
    http_req_read(req, u->registry->store->opt.blob_bytes_max - u->offset, &sink);
}

/* ---- opening
 * ------------------------------------------------------------------------------------------ */

static void open_run(struct image_reg_op *op)
{
    struct image_store *s = op->registry->store;
    if (op->mount) {
        op->status = image_blob_mount(s, op->from, op->route.ref.repository, &op->want, &op->error);
        if (op->status != -ENOENT) {
            return;
        }
        op->mount = false; /* not to be had: the client pushes it */
        op->error = (struct err){ 0 };
        op->want = (struct digest){ 0 };
    }
    op->status = image_store_room(s, op->length, &op->error);
    if (op->status == 0) {
        op->status = image_upload_create(s, op->upload, &op->fd, &op->error);
    }
}

static struct image_upload *upload_new(struct image_reg_op *op)
{
    struct image_registry *r = op->registry;
    struct image_upload *u = mem_zalloc(sizeof(*u));
    if (u == NULL || digest_ctx_new(op->algo, &u->hash) < 0) {
        mem_free(u);
        return NULL;
    }
    u->registry = r;
    u->algo = op->algo;
    u->last_ms = loop_now_ms(r->owner.loop);
    memcpy(u->id, op->upload, sizeof(u->id));
    memcpy(u->repo, op->route.ref.repository, sizeof(u->repo));
    if (map_add(&r->sessions, str_of(u->id), u) < 0) {
        digest_ctx_free(u->hash);
        mem_free(u);
        return NULL;
    }
    u->fd = fd_take(&op->fd);
    list_push_back(&r->uploads, &u->link);
    r->uploads_len++;
    note(r, 0);
    return u;
}

static void open_answer(struct image_reg_op *op)
{
    struct image_registry *r = op->registry;
    struct http_req *req = op->req;
    r->opening--;
    struct image_upload *u = op->fd >= 0 ? upload_new(op) : NULL;
    if (u == NULL && op->fd >= 0) {
        image_upload_remove(r->store, op->upload);
        op->status = err_set(&op->error, -ENOMEM, "open an upload");
    }
    if (req == NULL || r->closing) {
        if (u != NULL) {
            upload_fail(u, -ECANCELED, "the client went away");
        }
    }
    if (req != NULL && op->status < 0) {
        image_reg_answer_error(req, &op->route, op->status, op->no_repo, err_text(&op->error));
    } else if (req != NULL && op->mount) {
        image_reg_created_blob(req, op->route.ref.repository, &op->want);
    } else if (req != NULL && r->closing) {
        image_registry_error(req, 503, "UNKNOWN", "the registry is closing");
    } else if (req != NULL && u != NULL && op->want.algo != DIGEST_NONE) {
        op->req = NULL; /* the session's from here on */
        u->want = op->want;
        u->one_shot = true;
        receive(u, req, true, UINT64_MAX);
    } else if (req != NULL && u != NULL) {
        session_headers(req, u);
        http_res_send(req, 202, NULL, NULL, 0);
    }
    close_when_empty(r);
}

/* A digest parameter. False: malformed, and answered. */
static bool take_digest(struct http_req *req, const char *name, struct digest *ret)
{
    char text[DIGEST_TEXT_CAP];
    struct err e = { 0 };
    int r = http1_query(http_req_head(req)->query, name, 0, text, sizeof(text));
    *ret = (struct digest){ 0 };
    if (r == -ENOENT) {
        return true;
    }
    if (r < 0 || digest_parse(str_of(text), ret, &e) < 0) {
        image_registry_error(req, 400, "DIGEST_INVALID", "a malformed or unknown digest");
        return false;
    }
    return true;
}

/* What the query of a POST asks for. False: malformed, and answered. */
static bool take_wishes(struct image_reg_op *op)
{
    struct http_req *req = op->req;
    char algo[16];
    if (!take_digest(req, "mount", &op->want)) {
        return false;
    }
    op->mount = op->want.algo != DIGEST_NONE;
    if (!op->mount && !take_digest(req, "digest", &op->want)) {
        return false;
    }
    if (!image_reg_query(req, "digest-algorithm", algo, sizeof(algo)) ||
        !image_reg_query(req, "from", op->from, sizeof(op->from))) {
        return false;
    }
    op->algo = op->want.algo != DIGEST_NONE ? op->want.algo : DIGEST_SHA256;
    if (algo[0] != '\0') {
        op->algo = strcmp(algo, "sha512") == 0   ? DIGEST_SHA512
                   : strcmp(algo, "sha256") == 0 ? DIGEST_SHA256
                                                 : DIGEST_NONE;
    }
    if (op->algo == DIGEST_NONE) {
        image_registry_error(req, 400, "UNSUPPORTED", "digest-algorithm is sha256 or sha512");
        return false;
    }
    /* A name that breaks the rules holds no blob: then it is an ordinary upload. */
    if (op->from[0] != '\0' && !image_name_ok(str_of(op->from))) {
        op->mount = false;
        op->want = (struct digest){ 0 };
    }
    return true;
}

void image_reg_post_upload(struct image_registry *r, struct http_req *req,
                           const struct image_route *route)
{
    if (r->uploads_len + r->opening >= r->store->opt.uploads_max) {
        http_res_header(req, "Retry-After", "5");
        image_registry_error(req, 429, "TOOMANYREQUESTS", "too many uploads at a time");
        return;
    }
    struct image_reg_op *op = image_reg_op_new(r, req, route);
    if (op == NULL) {
        return;
    }
    if (!take_wishes(op)) {
        image_reg_op_free(op);
        return;
    }
    const struct http1_head *head = http_req_head(req);
    op->length = head->has_length ? head->length : 0;
    op->run = open_run;
    op->answer = open_answer;
    r->opening++;
    if (!image_reg_op_start(op)) {
        r->opening--;
    }
}

/* ---- requests to a session
 * ------------------------------------------------------------------------------ */

static void out_of_order(struct http_req *req, const struct image_upload *u)
{
    session_headers(req, u);
    http_res_send(req, 416, NULL, NULL, 0);
}

/* Where the body has to begin and end. False: answered. */
static bool take_range(struct http_req *req, const struct image_upload *u, uint64_t *ret_promise)
{
    const struct http1_head *head = http_req_head(req);
    struct str range = http1_header(head, "Content-Range");
    uint64_t from = 0;
    uint64_t to = 0;
    *ret_promise = UINT64_MAX;
    if (range.p == NULL) {
        return true;
    }
    if (image_chunk_range_parse(range, &from, &to) < 0) {
        image_registry_error(req, 400, "BLOB_UPLOAD_INVALID", "a malformed Content-Range");
        return false;
    }
    if (from != u->offset) {
        out_of_order(req, u);
        return false;
    }
    if (head->has_length && head->length != to - from + 1) {
        image_registry_error(req, 400, "SIZE_INVALID",
                             "Content-Range and Content-Length do not agree");
        return false;
    }
    *ret_promise = to + 1;
    return true;
}

static void put_session(struct image_upload *u, struct http_req *req)
{
    uint64_t promise = UINT64_MAX;
    struct digest want;
    if (!take_digest(req, "digest", &want)) {
        return;
    }
    if (want.algo == DIGEST_NONE) {
        image_registry_error(req, 400, "DIGEST_INVALID", "the digest is missing");
        return;
    }
    if (take_range(req, u, &promise)) {
        u->want = want;
        receive(u, req, true, promise);
    }
}

static void patch_session(struct image_upload *u, struct http_req *req)
{
    uint64_t promise = UINT64_MAX;
    if (take_range(req, u, &promise)) {
        receive(u, req, false, promise);
    }
}

void image_reg_session(struct image_registry *r, struct http_req *req,
                       const struct image_route *route)
{
    struct str method = http_req_head(req)->method;
    struct image_upload *u = map_get(&r->sessions, str_of(route->session));
    if (u == NULL || strcmp(u->repo, route->ref.repository) != 0) {
        image_registry_error(req, 404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
    } else if (str_eqs(method, "GET")) {
        session_headers(req, u);
        http_res_send(req, 204, NULL, NULL, 0);
    } else if (u->state != UPLOAD_IDLE) {
        http_res_header(req, "Retry-After", "1");
        image_registry_error(req, 409, "BLOB_UPLOAD_INVALID",
                             "another request is sending to this upload");
    } else if (str_eqs(method, "PATCH")) {
        patch_session(u, req);
    } else if (str_eqs(method, "PUT")) {
        put_session(u, req);
    } else if (str_eqs(method, "DELETE")) {
        upload_end(u);
        image_reg_headers(req);
        http_res_send(req, 204, NULL, NULL, 0);
    } else {
        http_res_header(req, "Allow", "GET, PATCH, PUT, DELETE");
        image_registry_error(req, 405, "UNSUPPORTED", "this method is not supported here");
    }
}

/* ---- age, beginning, end
 * ------------------------------------------------------------------------------------ */

static void expire(struct loop_timer *t)
{
    struct image_registry *r = CONTAINER_OF(t, struct image_registry, expiry);
    uint64_t now = loop_now_ms(r->owner.loop);
    LIST_EACH_SAFE (l, &r->uploads) {
        struct image_upload *u = LIST_ITEM(l, struct image_upload, link);
        if (u->state == UPLOAD_IDLE && now - u->last_ms >= r->store->opt.upload_age_ms) {
            upload_end(u);
        }
    }
}

void image_reg_uploads_init(struct image_registry *r)
{
    uint64_t key[2];
    sys_random(key, sizeof(key));
    map_init(&r->sessions, r->store->opt.uploads_max, key[0], key[1]);
    list_init(&r->uploads);
    loop_timer_init(&r->expiry, &r->owner, expire);
    loop_timer_start(&r->expiry, EXPIRY_EVERY_MS, EXPIRY_EVERY_MS);
}

void image_reg_uploads_close(struct image_registry *r)
{
    loop_timer_close(&r->expiry);
    LIST_EACH_SAFE (l, &r->uploads) {
        struct image_upload *u = LIST_ITEM(l, struct image_upload, link);
        if (u->state != UPLOAD_FINISHING) {
            upload_fail(u, -ECANCELED, "the registry is closing");
        }
    }
    close_when_empty(r);
}
