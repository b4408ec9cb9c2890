/*
 * The store: what is found, what is refused, what is kept and what goes.
 */
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

#include "agent/image/store_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

struct fixture {
    char dir[64];
    uv_loop_t uv;
    struct loop loop;
    struct image_store_options opt;
    struct image_store *store;
    struct err e;
};

static void open_store(struct fixture *f)
{
    assert_int_equal(uv_loop_init(&f->uv), 0);
    assert_int_equal(loop_init(&f->loop, &f->uv), 0);
    assert_int_equal(image_store_open(&f->loop, &f->opt, &f->store, &f->e), 0);
}

static void note_closed(void *arg)
{
    *(bool *)arg = true;
}

static void close_store(struct fixture *f)
{
    bool closed = false;
    image_store_close(f->store, note_closed, &closed);
    assert_false(closed);
    uv_run(&f->uv, UV_RUN_DEFAULT);
    assert_true(closed);
    loop_close(&f->loop);
    uv_run(&f->uv, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->uv), 0);
}

static int setup(void **state)
{
    static struct fixture f;
    memset(&f, 0, sizeof(f));
    snprintf(f.dir, sizeof(f.dir), "/tmp/agent-store-XXXXXX");
    assert_non_null(mkdtemp(f.dir));
    f.opt.data_dir = f.dir;
    open_store(&f);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    close_store(f);
    assert_int_equal(sys_remove_tree(AT_FDCWD, f->dir, NULL), 0);
    return 0;
}

/* ---- making images
 * -------------------------------------------------------------------------------- */

static struct digest sha(const char *text)
{
    struct digest d;
    assert_int_equal(digest_of(DIGEST_SHA256, text, strlen(text), &d), 0);
    return d;
}

static struct digest push(struct fixture *f, const char *repo, const char *text)
{
    char name[IMAGE_UPLOAD_NAME_CAP];
    struct digest d = sha(text);
    int AUTO_FD fd = -1;
    assert_int_equal(image_upload_create(f->store, name, &fd, &f->e), 0);
    assert_int_equal(sys_write_full(fd, text, strlen(text)), 0);
    assert_int_equal(image_upload_commit(f->store, name, fd, &d, strlen(text), repo, &f->e), 0);
    return d;
}

static int put_text(struct fixture *f, const char *repo, const char *tag, const char *text,
                    const char *type, struct digest *ret)
{
    struct image_manifest m;
    *ret = sha(text);
    int r = image_manifest_parse(str_of(text), str_of(type), &m, &f->e);
    if (r == 0) {
        r = image_manifest_put(f->store, repo, ret, str_of(text), &m, &tag, tag != NULL ? 1 : 0,
                               &f->e);
        image_manifest_release(&m);
    }
    return r;
}

static void descriptor(struct buf *out, const char *type, const char *text)
{
    char d[DIGEST_TEXT_CAP];
    struct digest digest = sha(text);
    buf_addf(out, "{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu", type,
             digest_format(&digest, d), strlen(text));
}

struct image {
    const char *layer;        /* its content, and (hashed) its DiffID */
    const char *architecture; /* amd64 when NULL: what the tests' store runs */
    unsigned diff_ids;        /* in the config; 1 when 0 */
    const char *layer_type;
};

static struct digest put_image(struct fixture *f, const char *repo, const char *tag,
                               const struct image *image)
{
    AUTO_BUF struct buf config = BUF_INIT(8192);
    AUTO_BUF struct buf text = BUF_INIT(4096);
    char d[DIGEST_TEXT_CAP];
    struct digest digest = push(f, repo, image->layer);
    unsigned n = image->diff_ids > 0 ? image->diff_ids : 1;
    buf_addf(&config,
             "{\"os\":\"linux\",\"architecture\":\"%s\",\"config\":{\"Cmd\":[\"%s\"]},"
             "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[",
             image->architecture != NULL ? image->architecture : "amd64", image->layer);
    for (unsigned i = 0; i < n; i++) {
        buf_addf(&config, "%s\"%s\"", i > 0 ? "," : "", digest_format(&digest, d));
    }
    buf_adds(&config, "]}}");
    push(f, repo, buf_cstr(&config));
    buf_adds(&text, "{\"schemaVersion\":2,\"config\":");
    descriptor(&text, IMAGE_TYPE_OCI_CONFIG, buf_cstr(&config));
    buf_adds(&text, "},\"layers\":[");
    descriptor(&text, image->layer_type != NULL ? image->layer_type : IMAGE_TYPE_OCI_LAYER,
               image->layer);
    buf_adds(&text, "}]}");
    assert_int_equal(put_text(f, repo, tag, buf_cstr(&text), IMAGE_TYPE_OCI_MANIFEST, &digest), 0);
    return digest;
}

static int resolve(struct fixture *f, const char *name)
{
    struct image_ref ref;
    struct image_resolved *image = NULL;
    assert_int_equal(image_ref_parse(str_of(name), &ref, &f->e), 0);
    int r = image_store_resolve_now(f->store, &ref, &image, &f->e);
    image_resolved_free(image);
    return r;
}

static bool blob_here(struct fixture *f, const char *text)
{
    struct digest d = sha(text);
    int AUTO_FD fd = image_store_blob_open(f->store, &d, NULL);
    return fd >= 0;
}

/* Two hours go by: the grace time is one. */
static void past_grace(struct fixture *f)
{
    static const char sql[] = "UPDATE blobs SET added = added - 7200000000;"
                              "UPDATE links SET added = added - 7200000000;"
                              "UPDATE holds SET pushed = pushed - 7200000000,"
                              " used = used - 7200000000;";
    assert_int_equal(sqlite3_exec(f->store->db.handle, sql, NULL, NULL, NULL), SQLITE_OK);
    f->store->started_ms = sys_mono_ms() - 7200000;
}

static struct image_pruned collect(struct fixture *f, bool untagged)
{
    struct image_pruned pruned;
    assert_int_equal(image_store_collect(f->store, untagged, &pruned, &f->e), 0);
    return pruned;
}

/* ---- tests
 * ------------------------------------------------------------------------------------------ */

struct answer {
    int status;
    struct image_resolved *image;
    unsigned calls;
};

static void on_resolved(void *arg, int status, struct image_resolved *image, const struct err *e)
{
    struct answer *a = arg;
    assert_true(status == 0 || e->text[0] != '\0');
    a->status = status;
    a->image = image;
    a->calls++;
}

static void resolves_on_the_loop(void **state)
{
    struct fixture *f = *state;
    struct image_ref ref;
    struct answer a = { .status = 1 };
    struct digest d = put_image(f, "team/job", "1", &(struct image){ .layer = "one" });
    assert_int_equal(image_ref_parse(STR("127.0.0.1:7575/team/job:1"), &ref, NULL), 0);
    assert_int_equal(image_store_resolve(f->store, &ref, on_resolved, &a), 0);
    assert_int_equal(a.calls, 0);
    while (a.calls == 0) {
        uv_run(&f->uv, UV_RUN_ONCE);
    }
    assert_int_equal(a.status, 0);
    assert_true(digest_eq(&a.image->digest, &d));
    assert_true(digest_eq(&a.image->manifest_digest, &d));
    assert_int_equal(a.image->layers_len, 1);
    assert_int_equal(a.image->layers[0].size, 3);
    assert_string_equal(a.image->config.cmd.v[0], "one");
    image_resolved_free(a.image);
    ref.tag[0] = '2';
    assert_int_equal(image_store_resolve(f->store, &ref, on_resolved, &a), 0);
    while (a.calls == 1) {
        uv_run(&f->uv, UV_RUN_ONCE);
    }
    assert_int_equal(a.status, -ENOENT);
    assert_null(a.image);
}

static void refuses_what_cannot_run(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(resolve(f, "nobody"), -ENOENT);
    put_image(f, "x", "arm", &(struct image){ .layer = "a", .architecture = "s390x" });
    assert_int_equal(resolve(f, "x:arm"), -ENOTSUP);
    assert_non_null(strstr(f->e.text, "s390x"));
    put_image(f, "x", "two", &(struct image){ .layer = "b", .diff_ids = 2 });
    assert_int_equal(resolve(f, "x:two"), -EINVAL);
    put_image(f, "x", "odd", &(struct image){ .layer = "c", .layer_type = "text/plain" });
    assert_int_equal(resolve(f, "x:odd"), -ENOTSUP);
    /* An artifact; a foreign layer that nobody pushed. */
    struct digest d;
    AUTO_BUF struct buf text = BUF_INIT(4096);
    push(f, "x", "{}");
    buf_adds(&text, "{\"schemaVersion\":2,\"config\":");
    descriptor(&text, "application/vnd.oci.empty.v1+json", "{}");
    buf_adds(&text, "},\"layers\":[]}");
    assert_int_equal(put_text(f, "x", "artifact", buf_cstr(&text), IMAGE_TYPE_OCI_MANIFEST, &d), 0);
    assert_int_equal(resolve(f, "x:artifact"), -ENOTSUP);
    /* A blob that changed on disk under its name. */
    put_image(f, "x", "bad", &(struct image){ .layer = "d" });
    struct image_ref ref;
    struct image_manifest_info info;
    bool no_repo = false;
    assert_int_equal(image_ref_parse(STR("x:bad"), &ref, NULL), 0);
    assert_int_equal(image_manifest_find(f->store, &ref, &info, &no_repo, &f->e), 0);
    char hex[DIGEST_TEXT_CAP];
    char path[256];
    digest_hex(&info.digest, hex);
    snprintf(path, sizeof(path), "%s/blobs/sha256/%.2s/%s", f->dir, hex, hex);
    int AUTO_FD fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "X", 1, 5), 1);
    assert_int_equal(resolve(f, "x:bad"), -EBADMSG);
}

static void indexes(void **state)
{
    struct fixture *f = *state;
    char one[DIGEST_TEXT_CAP];
    char text[1024];
    struct image_resolved *image = NULL;
    struct digest d;
    struct digest inner = put_image(f, "i", NULL, &(struct image){ .layer = "amd" });
    struct image_ref ref = { .repository = "i", .digest = inner };
    struct image_manifest_info info;
    bool no_repo = false;
    assert_int_equal(image_manifest_find(f->store, &ref, &info, &no_repo, &f->e), 0);
    uint64_t size = info.size;
    digest_format(&inner, one);
    const char *type = IMAGE_TYPE_OCI_MANIFEST;
    for (int depth = 0; depth < 5; depth++) {
        snprintf(text, sizeof(text),
                 "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"%s\",\"digest\":\"%s\","
                 "\"size\":%llu,\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}}]}",
                 type, one, (unsigned long long)size);
        assert_int_equal(put_text(f, "i", "multi", text, IMAGE_TYPE_OCI_INDEX, &d), 0);
        ref = (struct image_ref){ .repository = "i", .tag = "multi" };
        int r = image_store_resolve_now(f->store, &ref, &image, &f->e);
        if (depth < IMAGE_INDEX_DEPTH_MAX) {
            assert_int_equal(r, 0);
            assert_true(digest_eq(&image->digest, &d)); /* what was asked for is what is pinned */
            assert_true(digest_eq(&image->manifest_digest, &inner));
            image_resolved_free(image);
        } else {
            assert_int_equal(r, -EINVAL);
        }
        digest_format(&d, one);
        size = strlen(text);
        type = IMAGE_TYPE_OCI_INDEX;
    }
}

/* What a reference led to is known until anything in the store changes. */
static void known_until_a_change(void **state)
{
    struct fixture *f = *state;
    struct digest first = put_image(f, "k", "a", &(struct image){ .layer = "one" });
    struct image_ref ref = { .repository = "k", .tag = "a" };
    struct image_ref other = { .repository = "k", .tag = "b" };
    struct digest d;
    assert_int_equal(image_store_known(f->store, &ref, &d), -EAGAIN);
    /* The first may count a use, which is a change; the second then changes nothing. */
    assert_int_equal(resolve(f, "k:a"), 0);
    assert_int_equal(resolve(f, "k:a"), 0);
    assert_int_equal(image_store_known(f->store, &ref, &d), 0);
    assert_true(digest_eq(&d, &first));
    assert_int_equal(image_store_known(f->store, &other, &d), -EAGAIN);
    struct digest second = put_image(f, "k", "a", &(struct image){ .layer = "two" });
    assert_int_equal(image_store_known(f->store, &ref, &d), -EAGAIN);
    assert_int_equal(resolve(f, "k:a"), 0);
    assert_int_equal(resolve(f, "k:a"), 0);
    assert_int_equal(image_store_known(f->store, &ref, &d), 0);
    assert_true(digest_eq(&d, &second) && !digest_eq(&d, &first));
    assert_int_equal(resolve(f, "k:b"), -ENOENT);
    assert_int_equal(image_store_known(f->store, &other, &d), -EAGAIN);
}

static void collects_by_reference_and_age(void **state)
{
    struct fixture *f = *state;
    push(f, "r", "loose");
    put_image(f, "r", "1", &(struct image){ .layer = "kept" });
    collect(f, true);
    assert_true(blob_here(f, "loose")); /* within the grace time */
    past_grace(f);
    uint64_t size = 0;
    struct digest d = sha("loose");
    assert_int_equal(image_blob_stat(f->store, "r", &d, &size, &f->e), 0);
    collect(f, true);
    assert_true(blob_here(f, "loose")); /* somebody was just told that it is here */
    past_grace(f);
    struct image_pruned pruned = collect(f, true);
    assert_int_equal(pruned.blobs, 1);
    assert_int_equal(pruned.bytes, 5);
    assert_false(blob_here(f, "loose"));
    assert_int_equal(image_blob_stat(f->store, "r", &d, &size, &f->e), -ENOENT);
    assert_true(blob_here(f, "kept"));
    assert_int_equal(resolve(f, "r:1"), 0);
    /* A tag that moves leaves its old manifest without one. */
    put_image(f, "r", "1", &(struct image){ .layer = "newer" });
    past_grace(f);
    collect(f, false);
    assert_true(blob_here(f, "kept")); /* by itself the store only removes what nothing refers to */
    assert_int_equal(collect(f, true).images, 1);
    assert_false(blob_here(f, "kept"));
    assert_int_equal(resolve(f, "r:1"), 0);
}

static void deleting_frees_and_shares(void **state)
{
    struct fixture *f = *state;
    struct image_ref ref;
    struct image_pruned pruned;
    put_image(f, "a", "1", &(struct image){ .layer = "only" });
    put_image(f, "a", "2", &(struct image){ .layer = "both" });
    put_image(f, "b", "1", &(struct image){ .layer = "both" });
    assert_int_equal(image_ref_parse(STR("a:1"), &ref, NULL), 0);
    assert_int_equal(image_store_delete_now(f->store, &ref, &pruned, &f->e), 0);
    assert_int_equal(pruned.images, 1);
    assert_int_equal(pruned.blobs, 3); /* manifest, config, layer; at once */
    assert_false(blob_here(f, "only"));
    assert_int_equal(image_store_delete_now(f->store, &ref, &pruned, &f->e), -ENOENT);
    ref = (struct image_ref){ .repository = "a" };
    assert_int_equal(image_store_delete_now(f->store, &ref, &pruned, &f->e), 0);
    assert_int_equal(resolve(f, "a:2"), -ENOENT);
    assert_int_equal(resolve(f, "b:1"), 0);
    assert_true(blob_here(f, "both"));
    struct image_store_stats stats;
    image_store_stats(f->store, &stats);
    assert_int_equal(stats.images, 1);
    assert_int_equal(stats.blobs, 3);
}

static void pins_hold(void **state)
{
    struct fixture *f = *state;
    struct image_ref ref;
    struct image_pruned pruned;
    char text[DIGEST_TEXT_CAP];
    struct digest d = put_image(f, "p", "1", &(struct image){ .layer = "pinned" });
    assert_int_equal(image_store_pin(f->store, &d), 0);
    assert_int_equal(image_store_pin(f->store, &d), 0);
    assert_int_equal(image_ref_parse(STR("p:1"), &ref, NULL), 0);
    assert_int_equal(image_store_delete_now(f->store, &ref, &pruned, &f->e), 0);
    assert_int_equal(resolve(f, "p:1"), -ENOENT);
    assert_int_equal(resolve(f, digest_format(&d, text)), 0);
    image_store_unpin(f->store, &d);
    past_grace(f);
    collect(f, true);
    assert_true(blob_here(f, "pinned"));
    image_store_unpin(f->store, &d);
    collect(f, true);
    assert_false(blob_here(f, "pinned"));
    assert_int_equal(resolve(f, text), -ENOENT);
}

static void limit_removes_the_least_used(void **state)
{
    struct fixture *f = *state;
    char big[3][2001];
    struct image_store_stats stats;
    for (int i = 0; i < 3; i++) {
        memset(big[i], 'a' + i, 2000);
        big[i][2000] = '\0';
        char tag[2] = { (char)('1' + i), '\0' };
        put_image(f, "l", tag, &(struct image){ .layer = big[i] });
        sys_sleep_ms(2);
    }
    past_grace(f);
    image_store_stats(f->store, &stats);
    f->store->stats.limit_bytes = stats.bytes - 1000;
    assert_int_equal(collect(f, false).images, 1);
    assert_int_equal(resolve(f, "l:1"), -ENOENT);
    assert_int_equal(resolve(f, "l:2"), 0);
    assert_int_equal(resolve(f, "l:3"), 0);
    assert_int_equal(image_store_room(f->store, 1 << 20, &f->e), -ENOSPC);
}

static void survives_a_restart(void **state)
{
    struct fixture *f = *state;
    char path[256];
    put_image(f, "s", "1", &(struct image){ .layer = "durable" });
    snprintf(path, sizeof(path), "%s/blobs/uploads/left", f->dir);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    close(fd);
    /* A crash between a file and its row. */
    struct digest d = sha("orphan");
    char hex[DIGEST_TEXT_CAP];
    digest_hex(&d, hex);
    char name[256];
    snprintf(name, sizeof(name), "sha256/%.2s", hex);
    assert_int_equal(sys_mkdirs(f->store->blobs, name, 0700, NULL), 0);
    snprintf(name, sizeof(name), "sha256/%.2s/%s", hex, hex);
    fd = openat(f->store->blobs, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    struct timespec old[2] = { { .tv_sec = 1000 }, { .tv_sec = 1000 } };
    assert_int_equal(futimens(fd, old), 0);
    close(fd);
    assert_true(blob_here(f, "orphan"));
    close_store(f);
    open_store(f);
    image_store_sweep(f->store);
    assert_false(blob_here(f, "orphan"));
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(resolve(f, "s:1"), 0);
    struct image_store_stats stats;
    image_store_stats(f->store, &stats);
    assert_int_equal(stats.blobs, 3);
    AUTO_BUF struct buf list = BUF_INIT(65536);
    assert_int_equal(image_store_list_json(f->store, &list, &f->e), 0);
    assert_non_null(strstr(buf_cstr(&list), "\"repository\":\"s\",\"tag\":\"1\""));
    struct digest *diff_ids = NULL;
    size_t n = 0;
    assert_int_equal(image_store_list_diff_ids(f->store, &diff_ids, &n, &f->e), 0);
    assert_int_equal(n, 1);
    mem_free(diff_ids);
}

static void newer_database_is_refused(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(
        sqlite3_exec(f->store->db.handle, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
    close_store(f);
    assert_int_equal(uv_loop_init(&f->uv), 0);
    assert_int_equal(loop_init(&f->loop, &f->uv), 0);
    assert_int_equal(image_store_open(&f->loop, &f->opt, &f->store, &f->e), -EPROTONOSUPPORT);
    assert_non_null(strstr(f->e.text, "newer agent"));
    loop_close(&f->loop);
    uv_run(&f->uv, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->uv), 0);
    assert_int_equal(sys_remove_tree(AT_FDCWD, f->dir, NULL), 0);
    assert_int_equal(mkdir(f->dir, 0700), 0);
    open_store(f);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(resolves_on_the_loop),
        T(refuses_what_cannot_run),
        T(indexes),
        T(known_until_a_change),
        T(collects_by_reference_and_age),
        T(deleting_frees_and_shares),
        T(pins_hold),
        T(limit_removes_the_least_used),
        T(survives_a_restart),
        T(newer_database_is_refused),
    };
    return cmocka_run_group_tests_name("image_store", tests, NULL, NULL);
}
