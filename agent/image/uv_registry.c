/*
 * Routes, answers, and every request that is one question to the store.
 *
 * A request that waits for the pool is known to its operation only; when the client goes away the
 * operation runs to its end and answers nobody.
 */
#include "agent/image/uv_registry.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/registry_internal.h"
#include "common/insist.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { NAMES_DEFAULT = 1000, NAMES_MAX = 10000, REFERRERS_MAX = 1000, LIST_BYTES_MAX = 8 << 20 };

/* ---- answers ------------------------------------------------------------------------------------
 */

void image_reg_headers(struct http_req *req)
{
    http_res_header(req, "Docker-Distribution-API-Version", "registry/2.0");
}

void image_registry_error(struct http_req *req, int status, const char *code, const char *message)
{
    AUTO_BUF struct buf body = BUF_INIT(4096);
    struct json_w w;
    json_w_init(&w, &body, false);
    json_w_obj(&w);
    json_w_key(&w, "errors");
    json_w_arr(&w);
    json_w_obj(&w);
    json_kv_cstr(&w, "code", code);
    json_kv_cstr(&w, "message", message);
    json_w_end(&w);
    json_w_end(&w);
    json_w_end(&w);
    image_reg_headers(req);
    http_res_send(req, status, "application/json", body.data, body.len);
}

static const char *unknown_code(enum image_route_kind kind, bool no_repo)
{
    if (kind == IMAGE_ROUTE_SESSION) {
        return "BLOB_UPLOAD_UNKNOWN";
    }
    if (kind == IMAGE_ROUTE_BLOB) {
        return "BLOB_UNKNOWN";
    }
    return kind == IMAGE_ROUTE_MANIFEST && !no_repo ? "MANIFEST_UNKNOWN" : "NAME_UNKNOWN";
}

void image_reg_answer_failure(struct http_req *req, int error, const char *text)
{
    switch (error) {
    case -E2BIG:
    case -EFBIG:
        image_registry_error(req, 413, "SIZE_INVALID", text);
        break;
    case -ENOSPC:
    case -EDQUOT:
        image_registry_error(req, 507, "DENIED", text);
        break;
    default:
        image_registry_error(req, 500, "UNKNOWN", text);
        break;
    }
}

void image_reg_answer_error(struct http_req *req, const struct image_route *route, int error,
                            bool no_repo, const char *text)
{
    switch (error) {
    case -ENOENT:
        image_registry_error(req, 404, unknown_code(route->kind, no_repo), text);
        break;
    case -ENXIO:
        image_registry_error(req, 404, "MANIFEST_BLOB_UNKNOWN", text);
        break;
    case -EINVAL:
    case -ENOTSUP:
        image_registry_error(req, 400, "MANIFEST_INVALID", text);
        break;
    case -EREMOTEIO: /* an upstream's fault */
        image_registry_error(req, 502, "UNKNOWN", text);
        break;
    default:
        image_reg_answer_failure(req, error, text);
        break;
    }
}

static void answer_list(struct http_req *req, const char *type, const struct buf *body)
{
    if (buf_error(body) < 0) {
        image_registry_error(req, 500, "UNKNOWN", "the list is too long");
        return;
    }
    image_reg_headers(req);
    http_res_send(req, 200, type, body->data, body->len);
}

bool image_reg_query(struct http_req *req, const char *name, char *dst, size_t cap)
{
    int r = http1_query(http_req_head(req)->query, name, 0, dst, cap);
    if (r == -ENOENT) {
        dst[0] = '\0';
        return true;
    }
    if (r < 0) {
        image_registry_error(req, 400, "UNSUPPORTED", "a malformed query");
    }
    return r == 0;
}

/* ---- operations
 * ----------------------------------------------------------------------------------- */

static void client_gone(void *arg, bool aborted)
{
    struct image_reg_op *op = arg;
    (void)aborted;
    op->req = NULL;
}

struct image_reg_op *image_reg_op_new(struct image_registry *r, struct http_req *req,
                                      const struct image_route *route)
{
    struct image_reg_op *op = mem_zalloc(sizeof(*op));
    if (op == NULL) {
        image_registry_error(req, 500, "UNKNOWN", "out of memory");
        return NULL;
    }
    op->registry = r;
    op->req = req;
    op->route = *route;
    op->head = str_eqs(http_req_head(req)->method, "HEAD");
    op->fd = -1;
    list_init(&op->link);
    buf_init(&op->body, LIST_BYTES_MAX);
    http_req_set_arg(req, op, client_gone);
    return op;
}

void image_reg_op_free(struct image_reg_op *op)
{
    if (op->req != NULL) {
        http_req_set_arg(op->req, NULL, NULL);
    }
    fd_close(op->fd);
    buf_release(&op->body);
    mem_free(op);
}

static void op_work(struct loop_work *w)
{
    struct image_reg_op *op = CONTAINER_OF(w, struct image_reg_op, work);
    op->run(op);
}

static void op_done(struct loop_work *w, int status);
static void manifest_run(struct image_reg_op *op);

/* Also without a client: an upload's file has to go somewhere. */
static void op_answer(struct image_reg_op *op)
{
    op->answer(op);
    image_reg_op_free(op);
}

/* ---- what is not here but elsewhere ---- */

static void pull_came(void *arg, int rc, const struct image_fetched *got, const char *why)
{
    struct image_reg_op *op = arg;
    struct image_registry *r = op->registry;
    (void)got;
    op->pull = NULL;
    list_remove(&op->link);
    op->error = (struct err){ 0 };
    op->status = 0;
    if (rc == 0) {
        rc = loop_work_start(&op->work, &r->owner, op_work, op_done);
        why = "out of memory";
    }
    if (rc < 0) {
        op->status = err_say(&op->error, rc == -ENOENT ? rc : -EREMOTEIO, "%s", why);
        op_answer(op);
    }
    loop_drop(&r->owner);
}

/* The manifest is not here: true when it is being pulled. */
static bool pull_instead(struct image_reg_op *op)
{
    struct image_registry *r = op->registry;
    if (op->status != -ENOENT || op->route.kind != IMAGE_ROUTE_MANIFEST || op->pulled ||
        op->run != manifest_run || op->req == NULL || r->closing ||
        !image_puller_knows(r->puller, op->route.ref.repository)) {
        return false;
    }
    op->pulled = true;
    if (image_pull_start(r->puller, &op->route.ref, pull_came, op, &op->pull, NULL) < 0) {
        return false;
    }
    loop_hold(&r->owner);
    list_push_back(&r->pulling, &op->link);
    return true;
}

static void op_done(struct loop_work *w, int status)
{
    struct image_reg_op *op = CONTAINER_OF(w, struct image_reg_op, work);
    if (status < 0) {
        op->status = err_set(&op->error, status, "registry");
    }
    if (!pull_instead(op)) {
        op_answer(op);
    }
}

void image_registry_proxy(struct image_registry *r, struct image_puller *puller)
{
    r->puller = puller;
}

static void pulls_end(struct image_registry *r)
{
    while (!list_empty(&r->pulling)) {
        struct image_reg_op *op = LIST_ITEM(r->pulling.next, struct image_reg_op, link);
        image_pull_cancel(TAKE(op->pull));
        list_remove(&op->link);
        op->status = err_say(&op->error, -ECANCELED, "the registry is closing");
        op_answer(op);
        loop_drop(&r->owner);
    }
}

bool image_reg_op_start(struct image_reg_op *op)
{
    struct image_registry *r = op->registry;
    if (r->closing || loop_work_start(&op->work, &r->owner, op_work, op_done) < 0) {
        image_registry_error(op->req, 503, "UNKNOWN", "the registry is closing");
        image_reg_op_free(op);
        return false;
    }
    return true;
}

static void start(struct image_registry *r, struct http_req *req, const struct image_route *route,
                  void (*run)(struct image_reg_op *), void (*answer)(struct image_reg_op *))
{
    struct image_reg_op *op = image_reg_op_new(r, req, route);
    if (op != NULL) {
        op->run = run;
        op->answer = answer;
        image_reg_op_start(op);
    }
}

/* True when there is nobody to answer, or only an error. */
static bool answered(struct image_reg_op *op)
{
    if (op->req != NULL && op->status < 0) {
        image_reg_answer_error(op->req, &op->route, op->status, op->no_repo, err_text(&op->error));
    }
    return op->req == NULL || op->status < 0;
}

/* ---- blobs
 * ------------------------------------------------------------------------------------------ */

static int open_blob(struct image_reg_op *op, const struct digest *d)
{
    int fd = image_store_blob_open(op->registry->store, d, &op->size);
    if (fd < 0) {
        return err_say(&op->error, fd, "its blob is not here");
    }
    op->fd = fd;
    return 0;
}

static void blob_run(struct image_reg_op *op)
{
    uint64_t size = 0;
    op->status = image_blob_stat(op->registry->store, op->route.ref.repository,
                                 &op->route.ref.digest, &size, &op->error);
    if (op->status == 0) {
        op->status = open_blob(op, &op->route.ref.digest);
    }
}

static void blob_headers(struct http_req *req, const struct digest *d)
{
    char text[DIGEST_TEXT_CAP];
    digest_format(d, text);
    image_reg_headers(req);
    http_res_header(req, "Docker-Content-Digest", text);
    http_res_headerf(req, "ETag", "\"%s\"", text);
}

static void blob_answer(struct image_reg_op *op)
{
    static const char type[] = "application/octet-stream";
    struct http_req *req = op->req;
    uint64_t from = 0;
    uint64_t len = op->size;
    int status = 200;
    if (answered(op)) {
        return;
    }
    struct str range = http1_header(http_req_head(req), "Range");
    int r =
        range.p != NULL && !op->head ? image_range_parse(range, op->size, &from, &len) : -ENOENT;
    blob_headers(req, &op->route.ref.digest);
    http_res_header(req, "Accept-Ranges", "bytes");
    http_res_header(req, "Cache-Control", "max-age=31536000, immutable");
    if (r == -ERANGE) {
        http_res_headerf(req, "Content-Range", "bytes */%llu", (unsigned long long)op->size);
        http_res_send(req, 416, NULL, NULL, 0);
        return;
    }
    if (r == 0) {
        status = 206;
        http_res_headerf(req, "Content-Range", "bytes %llu-%llu/%llu", (unsigned long long)from,
                         (unsigned long long)(from + len - 1), (unsigned long long)op->size);
    }
    if (op->head) {
        http_res_send_length(req, 200, type, op->size);
        return;
    }
    image_store_note_download(op->registry->store, len);
    http_res_send_file(req, status, type, fd_take(&op->fd), from, len);
}

static void blob_delete_run(struct image_reg_op *op)
{
    op->status = image_blob_delete(op->registry->store, op->route.ref.repository,
                                   &op->route.ref.digest, &op->error);
}

static void accepted_answer(struct image_reg_op *op)
{
    if (!answered(op)) {
        image_reg_headers(op->req);
        http_res_send(op->req, 202, NULL, NULL, 0);
    }
}

void image_reg_created_blob(struct http_req *req, const char *repo, const struct digest *d)
{
    char text[DIGEST_TEXT_CAP];
    digest_format(d, text);
    image_reg_headers(req);
    http_res_headerf(req, "Location", "/v2/%s/blobs/%s", repo, text);
    http_res_header(req, "Docker-Content-Digest", text);
    http_res_send(req, 201, NULL, NULL, 0);
}

/* ---- manifests
 * ---------------------------------------------------------------------------------------- */

static void manifest_run(struct image_reg_op *op)
{
    op->status = image_manifest_find(op->registry->store, &op->route.ref, &op->info, &op->no_repo,
                                     &op->error);
    if (op->status == 0) {
        op->status = open_blob(op, &op->info.digest);
    }
}

static void manifest_answer(struct image_reg_op *op)
{
    if (answered(op)) {
        return;
    }
    blob_headers(op->req, &op->info.digest);
    if (op->head) {
        http_res_send_length(op->req, 200, op->info.media_type, op->size);
        return;
    }
    image_store_note_download(op->registry->store, op->size);
    http_res_send_file(op->req, 200, op->info.media_type, fd_take(&op->fd), 0, op->size);
}

static void manifest_delete_run(struct image_reg_op *op)
{
    op->status =
        image_manifest_delete(op->registry->store, &op->route.ref, &op->no_repo, &op->error);
}

/* The digest is the client's when it names one (in its algorithm), otherwise SHA-256. */
static int check_digest(struct image_reg_op *op)
{
    struct str text = buf_str(&op->body);
    const struct digest *want = &op->route.ref.digest;
    enum digest_algo algo = want->algo != DIGEST_NONE ? want->algo : DIGEST_SHA256;
    int r = digest_of(algo, text.p, text.n, &op->info.digest);
    if (r == 0 && want->algo != DIGEST_NONE && !digest_eq(want, &op->info.digest)) {
        r = err_say(&op->error, -EBADMSG, "the manifest has another digest");
    }
    return r;
}

static int put_manifest(struct image_reg_op *op, const struct image_manifest *m)
{
    const char *tags[IMAGE_TAGS_PER_PUT];
    for (size_t i = 0; i < op->tags_len; i++) {
        tags[i] = op->tags[i];
    }
    return image_manifest_put(op->registry->store, op->route.ref.repository, &op->info.digest,
                              buf_str(&op->body), m, tags, op->tags_len, &op->error);
}

static void manifest_put_run(struct image_reg_op *op)
{
    struct image_manifest m;
    op->status = image_store_room(op->registry->store, op->body.len, &op->error);
    if (op->status == 0) {
        op->status = check_digest(op);
    }
    if (op->status < 0) {
        return;
    }
    op->status = image_manifest_parse(buf_str(&op->body), str_of(op->type), &m, &op->error);
    if (op->status == 0) {
        op->has_subject = m.has_subject;
        op->subject = m.subject;
        op->status = put_manifest(op, &m);
        image_manifest_release(&m);
    } else if (op->status == -E2BIG) {
        op->status = -EINVAL; /* of acceptable size, but nested too deeply or of too many parts */
    }
}

static void manifest_put_answer(struct image_reg_op *op)
{
    char text[DIGEST_TEXT_CAP];
    if (op->req != NULL && op->status == -EBADMSG) {
        image_registry_error(op->req, 400, "DIGEST_INVALID", err_text(&op->error));
        return;
    }
    if (answered(op)) {
        return;
    }
    struct http_req *req = op->req;
    image_reg_headers(req);
    if (op->has_subject) {
        http_res_header(req, "OCI-Subject", digest_format(&op->subject, text));
    }
    digest_format(&op->info.digest, text);
    http_res_headerf(req, "Location", "/v2/%s/manifests/%s", op->route.ref.repository, text);
    http_res_header(req, "Docker-Content-Digest", text);
    if (op->route.ref.tag[0] == '\0' && op->tags_len > 0) {
        AUTO_BUF struct buf list = BUF_INIT(IMAGE_TAGS_PER_PUT * (IMAGE_TAG_MAX + 2));
        for (size_t i = 0; i < op->tags_len; i++) {
            buf_addf(&list, "%s%s", i > 0 ? ", " : "", op->tags[i]);
        }
        http_res_header(req, "OCI-Tag", buf_cstr(&list));
    }
    http_res_send(req, 201, NULL, NULL, 0);
}

static void manifest_body(void *arg, struct http_req *req, int status, struct str body)
{
    struct image_reg_op *op = arg;
    if (status == 0) {
        status = buf_addstr(&op->body, body);
    }
    if (status < 0) {
        char text[64];
        snprintf(text, sizeof(text), "at most %d bytes", IMAGE_MANIFEST_MAX);
        image_registry_error(req, status == -EFBIG ? 413 : 500,
                             status == -EFBIG ? "SIZE_INVALID" : "UNKNOWN",
                             status == -EFBIG ? text : "out of memory");
        image_reg_op_free(op);
        return;
    }
    image_reg_op_start(op);
}

/* The tag of the path, or ?tag=a&tag=b beside a digest. False: answered. */
static bool take_tags(struct image_reg_op *op)
{
    struct str query = http_req_head(op->req)->query;
    if (op->route.ref.tag[0] != '\0') {
        memcpy(op->tags[0], op->route.ref.tag, sizeof(op->tags[0]));
        op->tags_len = 1;
        return true;
    }
    for (;;) {
        char tag[IMAGE_TAG_MAX + 1];
        int r = http1_query(query, "tag", op->tags_len, tag, sizeof(tag));
        if (r == -ENOENT) {
            return true;
        }
        if (r < 0 || !image_tag_ok(str_of(tag))) {
            image_registry_error(op->req, 400, "MANIFEST_INVALID", "a malformed tag");
            return false;
        }
        if (op->tags_len == IMAGE_TAGS_PER_PUT) {
            image_registry_error(op->req, 414, "MANIFEST_INVALID", "too many tags");
            return false;
        }
        memcpy(op->tags[op->tags_len++], tag, sizeof(tag));
    }
}

/* A client that vanishes while its manifest still comes: nothing runs yet, so nothing frees it
 * later. */
static void putter_gone(void *arg, bool aborted)
{
    struct image_reg_op *op = arg;
    (void)aborted;
    op->req = NULL;
    if (!op->work.busy) {
        image_reg_op_free(op);
    }
}

static void put_manifest_request(struct image_registry *r, struct http_req *req,
                                 const struct image_route *route)
{
    struct image_reg_op *op = image_reg_op_new(r, req, route);
    if (op == NULL) {
        return;
    }
    http_req_set_arg(req, op, putter_gone);
    struct str type = http1_header(http_req_head(req), "Content-Type");
    if (str_copy(op->type, sizeof(op->type), type) < 0) {
        image_registry_error(req, 400, "MANIFEST_INVALID", "the Content-Type is too long");
        image_reg_op_free(op);
        return;
    }
    if (!take_tags(op)) {
        image_reg_op_free(op);
        return;
    }
    op->run = manifest_put_run;
    op->answer = manifest_put_answer;
    http_req_read_all(req, IMAGE_MANIFEST_MAX, manifest_body, op);
}

/* ---- lists
 * ---------------------------------------------------------------------------------------------- */

static void names_run(struct image_reg_op *op)
{
    bool tags = op->route.kind == IMAGE_ROUTE_TAGS;
    struct json_w w;
    json_w_init(&w, &op->body, false);
    json_w_obj(&w);
    if (tags) {
        json_kv_cstr(&w, "name", op->route.ref.repository);
    }
    json_w_key(&w, tags ? "tags" : "repositories");
    json_w_arr(&w);
    op->status = image_store_names(op->registry->store, tags ? op->route.ref.repository : NULL,
                                   op->last, op->n, &w, op->next, &op->error);
    op->no_repo = true;
    json_w_end(&w);
    json_w_end(&w);
}

static void names_answer(struct image_reg_op *op)
{
    if (answered(op)) {
        return;
    }
    /* n=0 asks for nothing, and there is nothing next to it. */
    if (op->next[0] != '\0' && op->n > 0) {
        bool tags = op->route.kind == IMAGE_ROUTE_TAGS;
        http_res_headerf(op->req, "Link", "</v2/%s%s?n=%llu&last=%s>; rel=\"next\"",
                         op->route.ref.repository, tags ? "/tags/list" : "_catalog",
                         (unsigned long long)op->n, op->next);
    }
    answer_list(op->req, "application/json", &op->body);
}

static void list_names(struct image_registry *r, struct http_req *req,
                       const struct image_route *route)
{
    char n[24];
    struct image_reg_op *op = image_reg_op_new(r, req, route);
    if (op == NULL) {
        return;
    }
    op->n = NAMES_DEFAULT;
    if (!image_reg_query(req, "n", n, sizeof(n)) ||
        !image_reg_query(req, "last", op->last, sizeof(op->last))) {
        image_reg_op_free(op);
        return;
    }
    if (n[0] != '\0' && str_u64(str_of(n), &op->n) < 0) {
        image_registry_error(req, 400, "UNSUPPORTED", "n is not a number");
        image_reg_op_free(op);
        return;
    }
    op->n = op->n < NAMES_MAX ? op->n : NAMES_MAX;
    op->run = names_run;
    op->answer = names_answer;
    image_reg_op_start(op);
}

static void referrers_run(struct image_reg_op *op)
{
    struct json_w w;
    json_w_init(&w, &op->body, false);
    json_w_obj(&w);
    json_kv_int(&w, "schemaVersion", 2);
    json_kv_cstr(&w, "mediaType", IMAGE_TYPE_OCI_INDEX);
    json_w_key(&w, "manifests");
    json_w_arr(&w);
    op->status =
        image_store_referrers(op->registry->store, op->route.ref.repository, &op->route.ref.digest,
                              op->type, op->last, REFERRERS_MAX, &w, op->next, &op->error);
    json_w_end(&w);
    json_w_end(&w);
}

static void referrers_answer(struct image_reg_op *op)
{
    char text[DIGEST_TEXT_CAP];
    if (answered(op)) {
        return;
    }
    if (op->type[0] != '\0') {
        http_res_header(op->req, "OCI-Filters-Applied", "artifactType");
    }
    /* A filter is left out of the link when it would need escapes: the client filters again anyway.
     */
    bool plain = strpbrk(op->type, "&%+#<> \"\\") == NULL;
    if (op->next[0] != '\0') {
        http_res_headerf(op->req, "Link", "</v2/%s/referrers/%s?last=%s%s%s>; rel=\"next\"",
                         op->route.ref.repository, digest_format(&op->route.ref.digest, text),
                         op->next, plain && op->type[0] != '\0' ? "&artifactType=" : "",
                         plain ? op->type : "");
    }
    answer_list(op->req, IMAGE_TYPE_OCI_INDEX, &op->body);
}

static void list_referrers(struct image_registry *r, struct http_req *req,
                           const struct image_route *route)
{
    struct image_reg_op *op = image_reg_op_new(r, req, route);
    if (op == NULL) {
        return;
    }
    if (!image_reg_query(req, "artifactType", op->type, sizeof(op->type)) ||
        !image_reg_query(req, "last", op->last, sizeof(op->last))) {
        image_reg_op_free(op);
        return;
    }
    op->run = referrers_run;
    op->answer = referrers_answer;
    image_reg_op_start(op);
}

/* ---- routes
 * ---------------------------------------------------------------------------------------------- */

static void method_not_allowed(struct http_req *req, const char *allow)
{
    http_res_header(req, "Allow", allow);
    image_registry_error(req, 405, "UNSUPPORTED", "this method is not supported here");
}

static void route_error(struct http_req *req, int error, const struct err *e)
{
    bool put = str_eqs(http_req_head(req)->method, "PUT");
    switch (error) {
    case -EINVAL:
        image_registry_error(req, 400, "NAME_INVALID", err_text(e));
        break;
    case -ENOMSG: /* a tag that can not be there is not there */
        image_registry_error(req, put ? 400 : 404, put ? "MANIFEST_INVALID" : "MANIFEST_UNKNOWN",
                             err_text(e));
        break;
    case -EBADMSG:
        image_registry_error(req, 400, "DIGEST_INVALID", err_text(e));
        break;
    case -ESRCH:
        image_registry_error(req, 404, "BLOB_UPLOAD_UNKNOWN", err_text(e));
        break;
    default:
        image_registry_error(req, 404, "NAME_UNKNOWN", err_text(e));
        break;
    }
}

static void base(struct http_req *req)
{
    image_reg_headers(req);
    http_res_send(req, 200, "application/json", "{}", 2);
}

static void blob_request(struct image_registry *r, struct http_req *req,
                         const struct image_route *route, bool get, bool delete)
{
    if (get) {
        start(r, req, route, blob_run, blob_answer);
    } else if (delete) {
        start(r, req, route, blob_delete_run, accepted_answer);
    } else {
        method_not_allowed(req, "GET, HEAD, DELETE");
    }
}

static void manifest_request(struct image_registry *r, struct http_req *req,
                             const struct image_route *route, bool get, bool delete)
{
    if (get) {
        start(r, req, route, manifest_run, manifest_answer);
    } else if (delete) {
        start(r, req, route, manifest_delete_run, accepted_answer);
    } else if (str_eqs(http_req_head(req)->method, "PUT")) {
        put_manifest_request(r, req, route);
    } else {
        method_not_allowed(req, "GET, HEAD, PUT, DELETE");
    }
}

void image_registry_handle(struct image_registry *r, struct http_req *req)
{
    struct image_route route;
    struct err e = { 0 };
    const struct http1_head *head = http_req_head(req);
    int error = image_route_parse(head->path, &route, &e);
    if (error < 0) {
        route_error(req, error, &e);
        return;
    }
    bool get = str_eqs(head->method, "GET") || str_eqs(head->method, "HEAD");
    bool delete = str_eqs(head->method, "DELETE");
    switch (route.kind) {
    case IMAGE_ROUTE_BLOB:
        blob_request(r, req, &route, get, delete);
        break;
    case IMAGE_ROUTE_MANIFEST:
        manifest_request(r, req, &route, get, delete);
        break;
    case IMAGE_ROUTE_UPLOADS:
        if (str_eqs(head->method, "POST")) {
            image_reg_post_upload(r, req, &route);
        } else {
            method_not_allowed(req, "POST");
        }
        break;
    case IMAGE_ROUTE_SESSION:
        image_reg_session(r, req, &route);
        break;
    case IMAGE_ROUTE_BASE:
    case IMAGE_ROUTE_CATALOG:
    case IMAGE_ROUTE_TAGS:
    case IMAGE_ROUTE_REFERRERS:
    default:
        if (!get) {
            method_not_allowed(req, "GET, HEAD");
        } else if (route.kind == IMAGE_ROUTE_BASE) {
            base(req);
        } else if (route.kind == IMAGE_ROUTE_REFERRERS) {
            list_referrers(r, req, &route);
        } else {
            list_names(r, req, &route);
        }
        break;
    }
}

/* ---- beginning and end
 * -------------------------------------------------------------------------------------- */

static void registry_closed(struct loop_owner *o)
{
    struct image_registry *r = CONTAINER_OF(o, struct image_registry, owner);
    void (*on_closed)(void *arg) = r->on_closed;
    void *arg = r->on_closed_arg;
    map_release(&r->sessions);
    mem_free(r);
    if (on_closed != NULL) {
        on_closed(arg);
    }
}

int image_registry_new(struct loop *l, struct image_store *store, struct image_registry **ret,
                       struct err *e)
{
    struct image_registry *r = mem_zalloc(sizeof(*r));
    if (r == NULL) {
        return err_set(e, -ENOMEM, "start the registry");
    }
    r->store = store;
    list_init(&r->pulling);
    loop_owner_init(&r->owner, l, registry_closed);
    image_reg_uploads_init(r);
    *ret = r;
    return 0;
}

void image_registry_close(struct image_registry *r, void (*on_closed)(void *arg), void *arg)
{
    REQUIRE(!r->closing);
    r->closing = true;
    r->on_closed = on_closed;
    r->on_closed_arg = arg;
    pulls_end(r);
    image_reg_uploads_close(r);
}
