/*
 * push: images out of an archive to a node's registry, only what it does not hold.
 *
 * An OCI layout names its manifests; what `docker save` wrote has none, so that an OCI manifest is
 * made here, over the layers as they lie in the archive.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/sys_archive.h"
#include "agent/cli/sys_cli.h"
#include "agent/image/image.h"
#include "common/digest.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { TARGET_MAX = 4096, PIECE = 256 * 1024, INDEX_MAX = 4096 * 1024 };

struct push {
    struct cli_ctx *ctx;
    struct cli_http *h;
    struct cli_archive *archive;
    struct cli_progress progress;
    struct image_ref ref; /* where to */
    unsigned blobs, blobs_new;
    uint64_t bytes_new;
    uint64_t done, total; /* of the blob that travels */
    struct cli_member member;
};

/* ---- requests ---- */

static int ask(struct push *p, const struct cli_request *req, struct buf *answer, int *ret_status,
               struct err *e)
{
    int rc = cli_http_request(p->h, req, e);
    if (rc == 0) {
        rc = cli_http_body(p->h, answer, e);
    }
    if (rc == 0) {
        *ret_status = cli_http_status(p->h);
    }
    return rc;
}

/* Is it there already? */
static int head_blob(struct push *p, const struct digest *d, bool *ret_there, struct err *e)
{
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    AUTO_BUF struct buf answer = BUF_INIT(64 * 1024);
    char text[DIGEST_TEXT_CAP];
    int status = 0;
    (void)buf_addf(&target, "/v2/%s/blobs/%s", p->ref.repository, digest_format(d, text));
    const struct cli_request req = { .method = "HEAD", .target = buf_cstr(&target) };
    int rc = ask(p, &req, &answer, &status, e);
    if (rc == 0 && status != 200 && status != 404) {
        return cli_problem(status, buf_str(&answer), NULL, e);
    }
    *ret_there = status == 200;
    return rc;
}

/* Opens an upload: *ret_mounted when the node had the blob in another repository, else where to
 * send it. */
static int open_upload(struct push *p, const struct digest *d, struct buf *location,
                       bool *ret_mounted, struct err *e)
{
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    AUTO_BUF struct buf answer = BUF_INIT(64 * 1024);
    char text[DIGEST_TEXT_CAP];
    int status = 0;
    (void)buf_addf(&target, "/v2/%s/blobs/uploads/?mount=%s", p->ref.repository,
                   digest_format(d, text));
    const struct cli_request req = { .method = "POST", .target = buf_cstr(&target) };
    int rc = ask(p, &req, &answer, &status, e);
    if (rc != 0) {
        return rc;
    }
    if (status != 201 && status != 202) {
        return cli_problem(status, buf_str(&answer), NULL, e);
    }
    *ret_mounted = status == 201;
    struct str where = http1_header(cli_http_head(p->h), "Location");
    /* Absolute, or relative to this node. */
    if (str_starts(where, "http://")) {
        struct str rest = str_slice(where, 7, where.n);
        ptrdiff_t slash = str_find(rest, '/');
        where = slash >= 0 ? str_slice(rest, (size_t)slash, rest.n) : STR("/");
    }
    if (status == 202 && !str_starts(where, "/")) {
        return err_say(e, -EPROTO, "the node does not say where to upload to");
    }
    (void)buf_addstr(location, where);
    (void)buf_addf(location, "%cdigest=%s", str_find(where, '?') >= 0 ? '&' : '?', text);
    return buf_error(location) == 0 ? 0 : err_say(e, -E2BIG, "the node's answer is too long");
}

static ssize_t member_source(void *arg, void *data, size_t n, struct err *e)
{
    struct push *p = arg;
    uint64_t left = p->total - p->done;
    size_t want = left < n ? (size_t)left : n;
    ssize_t got = sys_pread_full(p->member.fd, data, want, p->member.offset + p->done);
    if (got < 0) {
        return err_set(e, (int)got, "read the archive");
    }
    p->done += (uint64_t)got;
    if (cli_progress_due(&p->progress)) {
        AUTO_BUF struct buf b = BUF_INIT(512);
        (void)buf_adds(&b, "pushing ");
        cli_progress_bar(&b, p->done, p->total);
        (void)buf_addc(&b, ' ');
        cli_text_bytes(&b, (double)p->done);
        (void)buf_adds(&b, " of ");
        cli_text_bytes(&b, (double)p->total);
        (void)buf_addf(&b, ", blob %u", p->blobs);
        cli_progress_show(&p->progress, buf_cstr(&b));
    }
    return got;
}

static int upload(struct push *p, const char *member, const struct digest *d, struct err *e)
{
    AUTO_BUF struct buf location = BUF_INIT(TARGET_MAX);
    AUTO_BUF struct buf answer = BUF_INIT(64 * 1024);
    bool mounted = false;
    int status = 0;
    int rc = open_upload(p, d, &location, &mounted, e);
    if (rc != 0 || mounted) {
        return rc;
    }
    rc = cli_archive_member(p->archive, member, &p->member, e);
    if (rc != 0) {
        return rc;
    }
    p->done = 0;
    p->total = p->member.size;
    const struct cli_request req = { .method = "PUT",
                                     .target = buf_cstr(&location),
                                     .type = "application/octet-stream",
                                     .source = member_source,
                                     .source_arg = p,
                                     .has_length = true,
                                     .length = p->member.size };
    rc = ask(p, &req, &answer, &status, e);
    p->member.fd = fd_close(p->member.fd);
    if (rc == 0 && status != 201) {
        rc = cli_problem(status, buf_str(&answer), NULL, e);
    }
    if (rc == 0) {
        p->blobs_new++;
        p->bytes_new += p->total;
    }
    return rc;
}

static int push_blob(struct push *p, const char *member, const struct digest *d, struct err *e)
{
    bool there = false;
    char text[DIGEST_TEXT_CAP];
    p->blobs++;
    int rc = head_blob(p, d, &there, e);
    if (rc == 0 && !there) {
        rc = upload(p, member, d, e);
    }
    return rc == 0 ? 0 : err_prefix(e, "blob %s", digest_format(d, text));
}

static int put_manifest(struct push *p, struct str document, const char *type,
                        const char *reference, struct err *e)
{
    AUTO_BUF struct buf target = BUF_INIT(TARGET_MAX);
    AUTO_BUF struct buf answer = BUF_INIT(64 * 1024);
    int status = 0;
    (void)buf_addf(&target, "/v2/%s/manifests/%s", p->ref.repository, reference);
    const struct cli_request req = {
        .method = "PUT", .target = buf_cstr(&target), .type = type, .body = document
    };
    int rc = ask(p, &req, &answer, &status, e);
    if (rc == 0 && status != 201) {
        rc = cli_problem(status, buf_str(&answer), NULL, e);
    }
    return rc == 0 ? 0 : err_prefix(e, "manifest %s", reference);
}

/* The tag, or the digest when the name has none. */
static const char *reference_of(const struct push *p, const struct digest *d,
                                char text[DIGEST_TEXT_CAP])
{
    return p->ref.tag[0] != '\0' ? p->ref.tag : digest_format(d, text);
}

static void say_pushed(struct push *p, const struct digest *d)
{
    char text[DIGEST_TEXT_CAP];
    struct buf *out = &p->ctx->out;
    cli_progress_clear(&p->progress);
    if (p->ctx->view.format == CLI_FORMAT_QUIET) {
        (void)buf_addf(out, "%s\n", digest_format(d, text));
    } else {
        char name[IMAGE_REF_CAP];
        (void)buf_addf(out, "%s %s, %u of %u blobs were new, ", image_ref_format(&p->ref, name),
                       digest_format(d, text), p->blobs_new, p->blobs);
        cli_text_bytes(out, (double)p->bytes_new);
        (void)buf_adds(out, " sent\n");
    }
    p->blobs = p->blobs_new = 0;
    p->bytes_new = 0;
}

/* ---- OCI layouts ---- */

static int push_document(struct push *p, const struct image_descriptor *d, unsigned depth,
                         const char *reference, struct err *e);

static int push_children(struct push *p, const struct image_manifest *m, unsigned depth,
                         struct err *e)
{
    char path[IMAGE_BLOB_PATH_CAP];
    char text[DIGEST_TEXT_CAP];
    int rc = 0;
    if (!m->index) {
        rc = push_blob(p, image_layout_blob(&m->config.digest, path), &m->config.digest, e);
    }
    for (size_t i = 0; i < m->entries_len && rc == 0; i++) {
        const struct image_descriptor *d = &m->entries[i];
        if (m->index) {
            rc = push_document(p, d, depth + 1, digest_format(&d->digest, text), e);
        } else if (!image_layer_is_foreign(d) ||
                   cli_archive_has(p->archive, image_layout_blob(&d->digest, path))) {
            rc = push_blob(p, image_layout_blob(&d->digest, path), &d->digest, e);
        }
    }
    return rc;
}

/* A manifest or index of the layout with all that it names. */
static int push_document(struct push *p, const struct image_descriptor *d, unsigned depth,
                         const char *reference, struct err *e)
{
    AUTO_BUF struct buf document = BUF_INIT(IMAGE_MANIFEST_MAX);
    char path[IMAGE_BLOB_PATH_CAP];
    if (depth > IMAGE_INDEX_DEPTH_MAX) {
        return err_say(e, -E2BIG, "indexes are nested too deeply");
    }
    int rc = cli_archive_read(p->archive, image_layout_blob(&d->digest, path), IMAGE_MANIFEST_MAX,
                              &document, e);
    if (rc != 0) {
        return rc;
    }
    struct image_manifest m;
    rc = image_manifest_parse(buf_str(&document), str_of(d->media_type), &m, e);
    if (rc != 0) {
        return rc;
    }
    rc = push_children(p, &m, depth, e);
    if (rc == 0) {
        rc = put_manifest(p, buf_str(&document), m.media_type, reference, e);
    }
    image_manifest_release(&m);
    return rc;
}

/* An index some of whose platforms did not come along (docker save does this): true. */
static bool is_partial(struct push *p, const struct image_manifest *index)
{
    char path[IMAGE_BLOB_PATH_CAP];
    for (size_t i = 0; i < index->entries_len; i++) {
        if (!cli_archive_has(p->archive, image_layout_blob(&index->entries[i].digest, path))) {
            return true;
        }
    }
    return false;
}

/* Goes from a partial index to the one manifest for this platform. */
static int narrow(struct push *p, struct image_descriptor *d, struct err *e)
{
    AUTO_BUF struct buf document = BUF_INIT(IMAGE_MANIFEST_MAX);
    char path[IMAGE_BLOB_PATH_CAP];
    struct image_manifest m;
    int rc = cli_archive_read(p->archive, image_layout_blob(&d->digest, path), IMAGE_MANIFEST_MAX,
                              &document, e);
    if (rc == 0) {
        rc = image_manifest_parse(buf_str(&document), str_of(d->media_type), &m, e);
    }
    if (rc != 0) {
        return rc;
    }
    if (m.index && is_partial(p, &m)) {
        struct image_platform host;
        size_t i = 0;
        image_platform_host(&host);
        rc = image_index_select(&m, &host, &i, e);
        if (rc == 0) {
            *d = m.entries[i];
            d->ref_name = NULL;
        }
    }
    image_manifest_release(&m);
    return rc;
}

static int push_entry(struct push *p, const struct image_descriptor *entry, struct err *e)
{
    struct image_descriptor d = *entry;
    char text[DIGEST_TEXT_CAP];
    int rc = narrow(p, &d, e);
    if (rc == 0) {
        rc = push_document(p, &d, 0, reference_of(p, &d.digest, text), e);
    }
    if (rc == 0) {
        say_pushed(p, &d.digest);
    }
    return rc;
}

/* Does a name in the archive say a repository, or only a tag? */
static bool is_full_name(const char *name)
{
    return name != NULL && cli_is_image(str_of(name));
}

/* Which names there are, for the message. */
static int which(const struct image_manifest *index, struct err *e)
{
    AUTO_BUF struct buf names = BUF_INIT(400);
    for (size_t i = 0; index->entries != NULL && i < index->entries_len; i++) {
        const char *name = index->entries[i].ref_name;
        if (name != NULL) {
            (void)buf_adds(&names, names.len > 0 ? ", " : ": ");
            cli_text_safe(&names, str_of(name));
        }
    }
    return err_say(e, -EINVAL,
                   "the archive has %zu images%s; say REPOSITORY:TAG of one of them, or --all",
                   index->entries_len, buf_cstr(&names));
}

/* The entry that is meant by REPOSITORY:TAG among several: by its whole name, or by its tag. */
static const struct image_descriptor *choose(const struct push *p,
                                             const struct image_manifest *index)
{
    if (index->entries_len == 1) {
        return &index->entries[0];
    }
    for (size_t i = 0; i < index->entries_len; i++) {
        const char *name = index->entries[i].ref_name;
        struct image_ref ref;
        if (name != NULL &&
            (strcmp(name, p->ref.tag) == 0 || (image_ref_parse(str_of(name), &ref, NULL) == 0 &&
                                               strcmp(ref.repository, p->ref.repository) == 0 &&
                                               strcmp(ref.tag, p->ref.tag) == 0))) {
            return &index->entries[i];
        }
    }
    return NULL;
}

static int push_index(struct push *p, const struct image_manifest *index, const char *name,
                      struct err *e)
{
    if (name != NULL) {
        const struct image_descriptor *d = choose(p, index);
        return d != NULL ? push_entry(p, d, e) : which(index, e);
    }
    if (index->entries_len > 1 && !cli_args_has(&p->ctx->args, "all")) {
        return which(index, e);
    }
    int rc = 0;
    for (size_t i = 0; i < index->entries_len && rc == 0; i++) {
        const struct image_descriptor *d = &index->entries[i];
        if (!is_full_name(d->ref_name)) {
            return err_say(e, -EINVAL, "the archive does not name its image; say REPOSITORY:TAG");
        }
        rc = image_ref_parse(cli_image_strip(str_of(d->ref_name)), &p->ref, e);
        if (rc == 0) {
            rc = push_entry(p, d, e);
        }
    }
    return rc;
}

static int push_layout(struct push *p, const char *name, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(INDEX_MAX);
    struct image_manifest index;
    int rc = cli_archive_read(p->archive, "oci-layout", 4096, &text, e);
    if (rc == 0) {
        rc = image_layout_check(buf_str(&text), e);
    }
    buf_reset(&text);
    if (rc == 0) {
        rc = cli_archive_read(p->archive, "index.json", INDEX_MAX, &text, e);
    }
    if (rc == 0) {
        rc = image_manifest_parse(buf_str(&text), (struct str){ NULL, 0 }, &index, e);
    }
    if (rc != 0) {
        return rc;
    }
    if (!index.index || index.entries == NULL || index.entries_len == 0) {
        rc = err_say(e, -EINVAL, "index.json names no image");
    } else {
        rc = push_index(p, &index, name, e);
    }
    image_manifest_release(&index);
    return rc;
}

/* ---- docker save ---- */

/* Digest, size and kind of a member, by reading it. */
static int measure(struct push *p, const char *member, bool is_layer, struct image_descriptor *ret,
                   struct err *e)
{
    AUTO_DIGEST_CTX struct digest_ctx *hash = NULL;
    AUTO_MEM unsigned char *piece = mem_alloc(PIECE);
    struct cli_member m = { .fd = -1 };
    if (piece == NULL || digest_ctx_new(DIGEST_SHA256, &hash) != 0) {
        return err_set(e, -ENOMEM, "read the archive");
    }
    int rc = cli_archive_member(p->archive, member, &m, e);
    if (rc != 0) {
        return rc;
    }
    memset(ret, 0, sizeof(*ret));
    ret->size = m.size;
    const char *kind = "";
    uint64_t at = 0;
    while (at < m.size && rc == 0) {
        size_t want = m.size - at < PIECE ? (size_t)(m.size - at) : PIECE;
        ssize_t n = sys_pread_full(m.fd, piece, want, m.offset + at);
        if (n != (ssize_t)want) {
            rc = err_say(e, -EIO, "'%s' could not be read", member);
            break;
        }
        if (at == 0 && want > 4) {
            kind = memcmp(piece, "\x1f\x8b", 2) == 0           ? "+gzip"
                   : memcmp(piece, "\x28\xb5\x2f\xfd", 4) == 0 ? "+zstd"
                                                               : "";
        }
        digest_ctx_update(hash, piece, want);
        at += want;
    }
    fd_close(m.fd);
    digest_ctx_final(hash, &ret->digest);
    AUTO_BUF struct buf type = BUF_INIT(IMAGE_MEDIA_TYPE_MAX);
    (void)buf_adds(&type, is_layer ? IMAGE_TYPE_OCI_LAYER : IMAGE_TYPE_OCI_CONFIG);
    (void)buf_adds(&type, is_layer ? kind : "");
    INSIST(str_copy(ret->media_type, sizeof(ret->media_type), buf_str(&type)) == 0);
    return rc;
}

static int push_saved_one(struct push *p, const struct image_saved *image, struct err *e)
{
    struct image_descriptor config;
    AUTO_BUF struct buf manifest = BUF_INIT(IMAGE_MANIFEST_MAX);
    AUTO_MEM struct image_descriptor *layers = mem_calloc(image->layers.n + 1, sizeof(*layers));
    if (layers == NULL) {
        return err_set(e, -ENOMEM, "push");
    }
    int rc = measure(p, image->config, false, &config, e);
    for (size_t i = 0; i < image->layers.n && rc == 0; i++) {
        rc = measure(p, image->layers.v[i], true, &layers[i], e);
        if (rc == 0) {
            rc = push_blob(p, image->layers.v[i], &layers[i].digest, e);
        }
    }
    if (rc == 0) {
        rc = push_blob(p, image->config, &config.digest, e);
    }
    struct digest d;
    if (rc == 0) {
        rc = image_manifest_write(&config, layers, image->layers.n, &manifest);
    }
    if (rc == 0) {
        rc = digest_of(DIGEST_SHA256, manifest.data, manifest.len, &d);
    }
    if (rc != 0) {
        return e->code != 0 ? rc : err_set(e, rc, "make the manifest");
    }
    char text[DIGEST_TEXT_CAP];
    rc = put_manifest(p, buf_str(&manifest), IMAGE_TYPE_OCI_MANIFEST, reference_of(p, &d, text), e);
    if (rc == 0) {
        say_pushed(p, &d);
    }
    return rc;
}

static int push_saved_list(struct push *p, const struct image_saved_list *list, const char *name,
                           struct err *e)
{
    bool all = cli_args_has(&p->ctx->args, "all");
    if (list->n == 0) {
        return err_say(e, -EINVAL, "manifest.json names no image");
    }
    if (name != NULL && list->n == 1) {
        return push_saved_one(p, &list->v[0], e);
    }
    bool found = false;
    int rc = 0;
    for (size_t i = 0; i < list->n && rc == 0; i++) {
        for (size_t t = 0; t < list->v[i].tags.n && rc == 0; t++) {
            struct image_ref ref;
            rc = image_ref_parse(cli_image_strip(str_of(list->v[i].tags.v[t])), &ref, e);
            bool meant = name == NULL ? all || list->n == 1
                                      : strcmp(ref.repository, p->ref.repository) == 0 &&
                                            strcmp(ref.tag, p->ref.tag) == 0;
            if (rc == 0 && meant) {
                found = true;
                p->ref = ref;
                rc = push_saved_one(p, &list->v[i], e);
            }
        }
    }
    if (rc == 0 && !found) {
        return list->n > 1
                   ? err_say(e, -EINVAL,
                             "the archive has %zu images; say REPOSITORY:TAG of one of "
                             "them, or --all",
                             list->n)
                   : err_say(e, -EINVAL, "the archive does not name its image; say REPOSITORY:TAG");
    }
    return rc;
}

static int push_saved(struct push *p, const char *name, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(INDEX_MAX);
    struct image_saved_list list;
    int rc = cli_archive_read(p->archive, "manifest.json", INDEX_MAX, &text, e);
    if (rc == 0) {
        rc = image_saved_parse(buf_str(&text), &list, e);
    }
    if (rc != 0) {
        return rc;
    }
    rc = push_saved_list(p, &list, name, e);
    image_saved_release(&list);
    return rc;
}

/* ---- the command ---- */

static int push(struct push *p, const char *file, const char *name, struct err *e)
{
    bool shown = false;
    int rc = cli_wants_progress(p->ctx, &shown, e);
    if (rc == 0 && name != NULL) {
        rc = image_ref_parse(str_of(name), &p->ref, e);
    }
    if (rc == 0) {
        rc = cli_archive_open(file, &p->archive, e);
    }
    if (rc == 0) {
        rc = cli_http_new(p->ctx, &p->h, e);
    }
    if (rc != 0) {
        return rc;
    }
    cli_progress_init(&p->progress, shown);
    if (cli_archive_has(p->archive, "oci-layout") && cli_archive_has(p->archive, "index.json")) {
        rc = push_layout(p, name, e);
    } else if (cli_archive_has(p->archive, "manifest.json")) {
        rc = push_saved(p, name, e);
    } else {
        rc = err_say(e, -EINVAL,
                     "'%s' is no image: neither an OCI layout (oci-layout, index.json) nor from "
                     "docker save (manifest.json)",
                     file);
    }
    cli_progress_clear(&p->progress);
    return rc;
}

int cli_cmd_push(struct cli_ctx *ctx)
{
    struct err e = { .code = 0 };
    const struct cli_args *a = &ctx->args;
    struct push p = { .ctx = ctx, .member = { .fd = -1 } };
    int rc = push(&p, a->pos[0], a->pos_len > 1 ? a->pos[1] : NULL, &e);
    p.h = cli_http_free(p.h);
    p.archive = cli_archive_free(p.archive);
    int code = cli_print(ctx, CLI_EXIT_OK);
    return rc == 0 ? code : cli_fail(CLI_EXIT_FAILED, "%s", e.text);
}
