/*
 * Fetching from other registries: good ones, and ones that break off, lie, refuse, send too little
 * or too much, want a token or send elsewhere. All on one loop: the fetcher, its client and several
 * servers.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/image/fetch_internal.h"
#include "common/insist.h"
#include "common/loop/http_server.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { SERVERS = 3, THINGS = 24, BIG = 3 << 20 };

enum mode {
    GOOD,
    ABSENT,
    WRONG,      /* other bytes of the right length */
    BREAKS,     /* half of what was asked for, then nothing */
    BREAKS_ONE, /* the same, once */
    NO_RANGE,   /* breaks once, and sends all of it again */
    BAD_RANGE,  /* breaks once, and goes on somewhere else */
    BUSY,       /* 503, twice */
    SHORT,
    LONG, /* without end */
    BEARER,
    BASIC,
    ELSEWHERE, /* blobs are at the next server */
    LOOP,
    DEAF, /* never answers */
};

struct server {
    struct fixture *f;
    struct http_server *http;
    uint16_t port;
    enum mode mode;
    unsigned asked, ranged, blobs, tokens, leaks;
    unsigned broken;
};

struct thing {
    char path[400];
    const char *type;
    struct buf body;
};

struct fixture {
    char dir[64];
    uv_loop_t uv;
    struct loop loop;
    struct image_store *store;
    struct http_client *client;
    struct image_fetcher *fetcher;
    struct server servers[SERVERS];
    struct thing things[THINGS];
    size_t things_len;
    struct err e;
    unsigned done;
    int rc;
    char why[512];
    struct image_fetched got;
    bool closed[2 + SERVERS];
};

/* ---- servers -----------------------------------------------------------------------------------
 */

static const struct thing *thing_at(const struct fixture *f, struct str path)
{
    for (size_t i = 0; i < f->things_len; i++) {
        if (str_eqs(path, f->things[i].path)) {
            return &f->things[i];
        }
    }
    return NULL;
}

static void whole(struct http_req *req, int status, const struct thing *t, uint64_t from,
                  uint64_t n, bool wrong)
{
    char *copy = malloc(n); /* faults are the fetcher's */
    assert_non_null(copy);
    memcpy(copy, t->body.data + from, n);
    if (wrong) {
        copy[n / 2] ^= 1;
    }
    http_res_send(req, status, t->type, copy, n);
    free(copy);
}

static void part(struct http_req *req, int status, const struct thing *t, uint64_t from, uint64_t n)
{
    http_res_begin(req, status, t->type, NULL, NULL);
    (void)http_res_write(req, t->body.data + from, n);
    http_res_abort(req);
}

static bool refused(struct server *s, struct http_req *req)
{
    struct str given = http1_header(http_req_head(req), "Authorization");
    if (s->mode == BASIC && !str_eqs(given, "Basic am9lOnNlY3JldA==")) {
        http_res_header(req, "WWW-Authenticate", "Basic realm=\"x\"");
        http_res_send(req, 401, NULL, NULL, 0);
        return true;
    }
    if (s->mode == BEARER && !str_eqs(given, "Bearer a.token")) {
        http_res_headerf(req, "WWW-Authenticate",
                         "Bearer realm=\"http://127.0.0.1:%u/token\",service=\"it\",scope=\"r:p\"",
                         s->port);
        http_res_send(req, 401, NULL, NULL, 0);
        return true;
    }
    return false;
}

static void token(struct server *s, struct http_req *req)
{
    const struct http1_head *head = http_req_head(req);
    s->tokens++;
    bool ok = str_eqs(http1_header(head, "Authorization"), "Basic am9lOnNlY3JldA==") &&
              str_eqs(head->query, "account=joe&service=it&scope=r%3Ap");
    http_res_send(req, ok ? 200 : 403, "application/json", "{\"token\":\"a.token\"}", 19);
}

static void blob(struct server *s, struct http_req *req, const struct thing *t)
{
    struct str range = http1_header(http_req_head(req), "Range");
    uint64_t from = 0;
    uint64_t n = t->body.len;
    int status = 200;
    s->blobs++;
    bool breaks =
        s->mode == BREAKS ||
        (s->broken == 0 && (s->mode == BREAKS_ONE || s->mode == NO_RANGE || s->mode == BAD_RANGE));
    if (range.p != NULL) {
        s->ranged++;
    }
    if (range.p != NULL && s->mode != NO_RANGE) {
        assert_int_equal(image_range_parse(range, t->body.len, &from, &n), 0);
        status = 206;
        http_res_headerf(req, "Content-Range", "bytes %llu-%llu/%zu",
                         (unsigned long long)from + (s->mode == BAD_RANGE),
                         (unsigned long long)(from + n - 1), t->body.len);
    }
    if (breaks) {
        s->broken++;
        part(req, status, t, from, (n + 1) / 2);
    } else if (s->mode == SHORT) {
        whole(req, status, t, from, n - 1, false);
    } else if (s->mode == LONG) {
        http_res_begin(req, status, t->type, NULL, NULL);
        for (int i = 0; i < 4; i++) {
            (void)http_res_write(req, t->body.data, t->body.len);
        }
        http_res_end(req);
    } else {
        whole(req, status, t, from, n, s->mode == WRONG);
    }
}

static void on_request(void *arg, struct http_req *req)
{
    struct server *s = arg;
    const struct http1_head *head = http_req_head(req);
    const struct thing *t = thing_at(s->f, head->path);
    s->asked++;
    s->leaks += s->mode != BASIC && s->mode != BEARER && !str_eqs(head->path, "/token") &&
                http1_header(head, "Authorization").p != NULL;
    if (str_eqs(head->path, "/token")) {
        token(s, req);
    } else if (s->mode == DEAF) {
        return;
    } else if (refused(s, req)) {
        return;
    } else if (t == NULL || s->mode == ABSENT) {
        http_res_send(req, 404, NULL, NULL, 0);
    } else if (s->mode == BUSY && s->asked <= 2) {
        http_res_send(req, 503, NULL, NULL, 0);
    } else if (strstr(t->path, "/manifests/") != NULL) {
        whole(req, 200, t, 0, t->body.len, s->mode == WRONG);
    } else if (s->mode == LOOP) {
        http_res_header(req, "Location", t->path);
        http_res_send(req, 307, NULL, NULL, 0);
    } else if (s->mode == ELSEWHERE) {
        http_res_headerf(req, "Location", "http://127.0.0.1:%u%s", s[1].port, t->path);
        http_res_send(req, 307, NULL, NULL, 0);
    } else {
        blob(s, req, t);
    }
}

static void start_server(struct fixture *f, struct server *s)
{
    struct sockaddr_in addr = { .sin_family = AF_INET };
    socklen_t len = sizeof(addr);
    static const struct http_server_options opt = { 0 };
    const struct http_server_handler handler = { .on_request = on_request, .arg = s };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    s->f = f;
    s->port = ntohs(addr.sin_port);
    assert_int_equal(http_server_start(&f->uv, fd, &opt, &handler, &s->http, &f->e), 0);
}

/* ---- fixture -----------------------------------------------------------------------------------
 */

static int setup(void **state)
{
    static struct fixture f;
    const struct image_fetcher_options opt = { .attempts_max = 4 };
    memset(&f, 0, sizeof(f));
    signal(SIGPIPE, SIG_IGN);
    snprintf(f.dir, sizeof(f.dir), "/tmp/agent-fetch-XXXXXX");
    assert_non_null(mkdtemp(f.dir));
    const struct image_store_options store = { .data_dir = f.dir };
    assert_int_equal(uv_loop_init(&f.uv), 0);
    assert_int_equal(loop_init(&f.loop, &f.uv), 0);
    assert_int_equal(image_store_open(&f.loop, &store, &f.store, &f.e), 0);
    assert_int_equal(http_client_start(&f.loop, NULL, &f.client, &f.e), 0);
    assert_int_equal(image_fetcher_new(&f.loop, f.store, f.client, &opt, &f.fetcher, &f.e), 0);
    for (size_t i = 0; i < SERVERS; i++) {
        start_server(&f, &f.servers[i]);
    }
    *state = &f;
    return 0;
}

static void note_closed(void *arg)
{
    *(bool *)arg = true;
}

static void turn_until(struct fixture *f, const bool *flag)
{
    while (!*flag) {
        uv_run(&f->uv, UV_RUN_ONCE);
    }
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    bool closed = false;
    if (f->fetcher != NULL) {
        image_fetcher_close(f->fetcher, note_closed, &closed);
        turn_until(f, &closed);
    }
    http_client_close(f->client, note_closed, &f->closed[0]);
    for (size_t i = 0; i < SERVERS; i++) {
        http_server_close(f->servers[i].http, 0, note_closed, &f->closed[2 + i]);
    }
    image_store_close(f->store, note_closed, &f->closed[1]);
    uv_run(&f->uv, UV_RUN_DEFAULT);
    loop_close(&f->loop);
    uv_run(&f->uv, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->uv), 0);
    for (size_t i = 0; i < f->things_len; i++) {
        buf_release(&f->things[i].body);
    }
    assert_int_equal(sys_remove_tree(AT_FDCWD, f->dir, NULL), 0);
    return 0;
}

/* ---- what there is to fetch --------------------------------------------------------------------
 */

static struct image_descriptor offer(struct fixture *f, const char *repo, const char *kind,
                                     const char *type, const char *ref, const void *p, size_t n)
{
    struct thing *t = &f->things[f->things_len++];
    struct image_descriptor d = { .size = n };
    char text[DIGEST_TEXT_CAP];
    assert_true(f->things_len <= THINGS);
    assert_int_equal(digest_of(DIGEST_SHA256, p, n, &d.digest), 0);
    str_copy(d.media_type, sizeof(d.media_type), str_of(type));
    snprintf(t->path, sizeof(t->path), "/v2/%s/%s/%s", repo, kind,
             ref != NULL ? ref : digest_format(&d.digest, text));
    t->type = type;
    buf_init(&t->body, BIG + 4096);
    assert_int_equal(buf_add(&t->body, p, n), 0);
    return d;
}

/* An image of two layers, the second one big. */
static struct digest offer_image(struct fixture *f, const char *repo, const char *tag,
                                 const char *what)
{
    static char big[BIG];
    AUTO_BUF struct buf text = BUF_INIT(8192);
    struct image_descriptor layers[2];
    char a[DIGEST_TEXT_CAP];
    char b[DIGEST_TEXT_CAP];
    for (size_t i = 0; i < sizeof(big); i++) {
        big[i] = (char)((i * 7 + i / 511) ^ (size_t)what[0]);
    }
    layers[0] = offer(f, repo, "blobs", IMAGE_TYPE_OCI_LAYER, NULL, what, strlen(what));
    layers[1] = offer(f, repo, "blobs", IMAGE_TYPE_OCI_LAYER, NULL, big, sizeof(big));
    buf_addf(&text,
             "{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{\"type\":\"layers\","
             "\"diff_ids\":[\"%s\",\"%s\"]}}",
             digest_format(&layers[0].digest, a), digest_format(&layers[1].digest, b));
    struct image_descriptor config =
        offer(f, repo, "blobs", IMAGE_TYPE_OCI_CONFIG, NULL, text.data, text.len);
    buf_reset(&text);
    assert_int_equal(image_manifest_write(&config, layers, 2, &text), 0);
    if (tag != NULL) {
        offer(f, repo, "manifests", IMAGE_TYPE_OCI_MANIFEST, tag, text.data, text.len);
    }
    return offer(f, repo, "manifests", IMAGE_TYPE_OCI_MANIFEST, NULL, text.data, text.len).digest;
}

static void on_fetched(void *arg, int rc, const struct image_fetched *got, const char *why)
{
    struct fixture *f = arg;
    f->done++;
    f->rc = rc;
    f->got = *got;
    snprintf(f->why, sizeof(f->why), "%s", why);
}

static int start(struct fixture *f, const char *repo, const struct digest *d, const char *tag,
                 size_t sources, struct image_fetch **ret)
{
    struct image_source s[SERVERS];
    memset(s, 0, sizeof(s));
    for (size_t i = 0; i < sources; i++) {
        s[i].target = (struct http_target){ .host = "127.0.0.1", .port = f->servers[i].port };
        s[i].user = "joe";
        s[i].password = "secret";
    }
    const struct image_fetch_request req = {
        .repository = repo,
        .digest = d != NULL ? *d : (struct digest){ 0 },
        .tag = tag,
        .sources = s,
        .sources_len = sources,
    };
    return image_fetch_start(f->fetcher, &req, on_fetched, f, ret, &f->e);
}

static int fetch(struct fixture *f, const char *repo, const struct digest *d, const char *tag,
                 size_t sources)
{
    unsigned before = f->done;
    assert_int_equal(start(f, repo, d, tag, sources, NULL), 0);
    assert_int_equal(f->done, before); /* not inside the call */
    while (f->done == before) {
        uv_run(&f->uv, UV_RUN_ONCE);
    }
    assert_int_equal(f->done, before + 1);
    return f->rc;
}

static bool is_here(struct fixture *f, const char *repo, const struct digest *d, const char *tag)
{
    struct image_resolved *image = NULL;
    struct image_ref ref = { .digest = d != NULL ? *d : (struct digest){ 0 } };
    str_copy(ref.repository, sizeof(ref.repository), str_of(repo));
    str_copy(ref.tag, sizeof(ref.tag), str_of(tag));
    int r = image_store_resolve_now(f->store, &ref, &image, NULL);
    bool all = r == 0 && image->layers_len == 2 && image->size > BIG;
    for (size_t i = 0; all && i < image->layers_len; i++) {
        AUTO_BUF struct buf text = BUF_INIT(BIG + 1);
        all = image_blob_load(f->store, &image->layers[i].digest, BIG, &text, NULL) == 0;
    }
    image_resolved_free(image);
    return all;
}

static unsigned uploads_left(struct fixture *f)
{
    char path[128];
    unsigned n = 0;
    snprintf(path, sizeof(path), "%s/blobs/uploads", f->dir);
    /* What is thrown away goes in the pool. */
    for (int i = 0; i < 200; i++) {
        uv_fs_t req;
        int found = uv_fs_scandir(&f->uv, &req, path, 0, NULL);
        uv_fs_req_cleanup(&req);
        n = (unsigned)found;
        if (n == 0) {
            break;
        }
        uv_run(&f->uv, UV_RUN_NOWAIT);
        usleep(1000);
    }
    return n;
}

/* ---- tests -------------------------------------------------------------------------------------
 */

static void by_digest_and_tag(void **state)
{
    struct fixture *f = *state;
    struct digest d = offer_image(f, "a/b", "v1", "layer one");
    assert_int_equal(fetch(f, "a/b", &d, NULL, 1), 0);
    assert_true(is_here(f, "", &d, NULL));
    assert_int_equal(f->got.blobs, 3);
    assert_true(f->got.bytes > BIG);
    unsigned asked = f->servers[0].asked;
    /* All is here: nobody is asked. */
    assert_int_equal(fetch(f, "a/b", &d, "kept", 1), 0);
    assert_int_equal(f->servers[0].asked, asked);
    assert_true(is_here(f, "a/b", NULL, "kept"));
    assert_int_equal(f->got.blobs, 0);
    /* By tag, into another repository: only the manifest travels. */
    assert_int_equal(fetch(f, "a/b", NULL, "v1", 1), 0);
    assert_int_equal(f->servers[0].asked, asked + 1);
    assert_true(digest_eq(&f->got.digest, &d));
    assert_true(is_here(f, "a/b", NULL, "v1"));
    assert_int_equal(fetch(f, "a/b", NULL, "v2", 1), -ENOENT);
    assert_int_equal(uploads_left(f), 0);
}

static void an_index(void **state)
{
    struct fixture *f = *state;
    char a[DIGEST_TEXT_CAP];
    char text[2048];
    struct digest d = offer_image(f, "i", NULL, "for amd64");
    const struct thing *m = &f->things[f->things_len - 1];
    static const char form[] =
        "{\"schemaVersion\":2,\"mediaType\":\"" IMAGE_TYPE_OCI_INDEX "\",\"manifests\":["
        "{\"mediaType\":\"" IMAGE_TYPE_OCI_MANIFEST "\",\"digest\":\"%s\",\"size\":%zu,"
        "\"platform\":{\"os\":\"linux\",\"architecture\":\"%s\"}}]}";
    snprintf(text, sizeof(text), form, digest_format(&d, a), m->body.len, "amd64");
    struct digest i =
        offer(f, "i", "manifests", IMAGE_TYPE_OCI_INDEX, NULL, text, strlen(text)).digest;
    assert_int_equal(fetch(f, "i", &i, "x", 1), 0);
    assert_true(is_here(f, "i", NULL, "x"));
    assert_true(digest_eq(&f->got.digest, &i));
    snprintf(text, sizeof(text), form, digest_format(&d, a), m->body.len, "arm64");
    i = offer(f, "i", "manifests", IMAGE_TYPE_OCI_INDEX, NULL, text, strlen(text)).digest;
    assert_int_equal(fetch(f, "i", &i, NULL, 1), -ENOTSUP);
    assert_non_null(strstr(f->why, "arm64"));
}

static void several_sources(void **state)
{
    struct fixture *f = *state;
    struct digest d = offer_image(f, "s", NULL, "spread");
    assert_int_equal(fetch(f, "s", &d, NULL, 3), 0);
    assert_true(is_here(f, "", &d, NULL));
    for (size_t i = 0; i < SERVERS; i++) {
        assert_int_equal(f->servers[i].blobs, 1);
    }
    /* Two that do not have it, one that is busy at first. */
    struct digest e = offer_image(f, "s", NULL, "other");
    f->servers[0].mode = ABSENT;
    f->servers[1].mode = ABSENT;
    f->servers[2].mode = BUSY;
    f->servers[2].asked = 0;
    assert_int_equal(fetch(f, "s", &e, NULL, 3), 0);
    assert_true(is_here(f, "", &e, NULL));
}

static void breaks_and_goes_on(void **state)
{
    struct fixture *f = *state;
    struct digest d = offer_image(f, "r", NULL, "resumed");
    f->servers[0].mode = BREAKS;
    assert_int_equal(fetch(f, "r", &d, NULL, 1), 0);
    assert_true(is_here(f, "", &d, NULL));
    assert_true(f->servers[0].ranged > 5);
    assert_true(image_fetcher_stats(f->fetcher)->resumed_total > 5);
    /* Each byte came about once. */
    assert_true(f->got.bytes < BIG + BIG / 4);

    d = offer_image(f, "r", NULL, "again, whole");
    f->servers[0].mode = NO_RANGE;
    f->servers[0].broken = 0;
    assert_int_equal(fetch(f, "r", &d, NULL, 1), 0);
    assert_true(is_here(f, "", &d, NULL));

    /* One goes on at the wrong place: the other one does it. */
    d = offer_image(f, "r", NULL, "elsewhere");
    f->servers[0].mode = BAD_RANGE;
    f->servers[0].broken = 0;
    assert_int_equal(fetch(f, "r", &d, NULL, 2), 0);
    assert_true(is_here(f, "", &d, NULL));
    assert_int_equal(uploads_left(f), 0);
}

static void wrong_bytes(void **state)
{
    struct fixture *f = *state;
    struct digest d = offer_image(f, "w", NULL, "wanted");
    f->servers[0].mode = WRONG;
    assert_int_equal(fetch(f, "w", &d, NULL, 1), -EBADMSG);
    assert_false(is_here(f, "", &d, NULL));
    assert_int_equal(fetch(f, "w", &d, NULL, 2), 0);
    assert_true(is_here(f, "", &d, NULL));
    assert_true(image_fetcher_stats(f->fetcher)->wrong_total >= 2);
    /* A liar goes on where an honest one broke off: the blob is begun again with one of them. */
    d = offer_image(f, "w", NULL, "mixed");
    f->servers[0].mode = BREAKS_ONE;
    f->servers[0].broken = 0;
    assert_int_equal(fetch(f, "w", &d, NULL, 1), 0);
    d = offer_image(f, "w", NULL, "Mixed");
    f->servers[0].broken = 0;
    f->servers[1].mode = WRONG;
    f->servers[2].mode = ABSENT;
    assert_int_equal(fetch(f, "w", &d, NULL, 3), 0);
    assert_true(is_here(f, "", &d, NULL));
    assert_int_equal(uploads_left(f), 0);
}

static void too_little_too_much(void **state)
{
    struct fixture *f = *state;
    struct digest d = offer_image(f, "l", NULL, "length");
    f->servers[0].mode = SHORT;
    assert_int_equal(fetch(f, "l", &d, NULL, 1), -EFBIG);
    f->servers[0].mode = LONG;
    assert_int_equal(fetch(f, "l", &d, NULL, 1), -EFBIG);
    assert_true(f->got.bytes < 2 * BIG);
    f->servers[0].mode = LOOP;
    assert_int_equal(fetch(f, "l", &d, NULL, 1), -EOPNOTSUPP);
    f->servers[0].mode = ABSENT;
    assert_int_equal(fetch(f, "l", &d, NULL, 1), -ENOENT);
    assert_int_equal(uploads_left(f), 0);
}

static void credentials(void **state)
{
    struct fixture *f = *state;
    struct digest d = offer_image(f, "c", NULL, "basic");
    f->servers[0].mode = BASIC;
    assert_int_equal(fetch(f, "c", &d, NULL, 1), 0);
    assert_true(is_here(f, "", &d, NULL));
    d = offer_image(f, "c", NULL, "Token");
    f->servers[0].mode = BEARER;
    assert_int_equal(fetch(f, "c", &d, NULL, 1), 0);
    assert_true(is_here(f, "", &d, NULL));
    assert_int_equal(f->servers[0].tokens, 1); /* kept for the blobs */
    /* Sent elsewhere, it goes there without anything. */
    d = offer_image(f, "c", NULL, "redirected");
    f->servers[0].mode = ELSEWHERE;
    assert_int_equal(fetch(f, "c", &d, NULL, 1), 0);
    assert_true(is_here(f, "", &d, NULL));
    assert_int_equal(f->servers[1].leaks, 0);
    assert_true(f->servers[1].blobs > 0);
}

static void two_at_a_time(void **state)
{
    struct fixture *f = *state;
    struct digest d = offer_image(f, "t", NULL, "shared");
    assert_int_equal(start(f, "t", &d, NULL, 1, NULL), 0);
    assert_int_equal(start(f, "t", &d, NULL, 2, NULL), 0);
    while (f->done < 2) {
        uv_run(&f->uv, UV_RUN_ONCE);
        assert_int_equal(f->rc, 0);
    }
    assert_int_equal(f->servers[0].blobs + f->servers[1].blobs, 3);
    assert_true(is_here(f, "", &d, NULL));
}

static void cancelled(void **state)
{
    struct fixture *f = *state;
    struct digest d = offer_image(f, "x", NULL, "never");
    struct image_fetch *t = NULL;
    /* At every moment that the loop can stand at. */
    for (int turns = 0; turns < 40; turns++) {
        assert_int_equal(start(f, "x", &d, NULL, 1, &t), 0);
        unsigned before = f->done;
        for (int i = 0; i < turns && f->done == before; i++) {
            uv_run(&f->uv, UV_RUN_NOWAIT);
        }
        if (f->done == before) {
            image_fetch_cancel(t);
        }
    }
    f->servers[0].mode = DEAF;
    struct digest e = offer_image(f, "x", NULL, "deaf");
    unsigned before = f->done;
    assert_int_equal(start(f, "x", &e, NULL, 1, NULL), 0);
    for (int i = 0; i < 20; i++) {
        uv_run(&f->uv, UV_RUN_NOWAIT);
    }
    bool closed = false;
    image_fetcher_close(f->fetcher, note_closed, &closed);
    assert_int_equal(f->done, before + 1);
    assert_int_equal(f->rc, -ECANCELED);
    turn_until(f, &closed);
    f->fetcher = NULL;
    assert_int_equal(uploads_left(f), 0);
}

static void bad_requests(void **state)
{
    struct fixture *f = *state;
    struct digest d = offer_image(f, "b", NULL, "bad");
    assert_int_equal(start(f, "UPPER", &d, NULL, 1, NULL), -EINVAL);
    assert_int_equal(start(f, "../x", &d, NULL, 1, NULL), -EINVAL);
    assert_int_equal(start(f, "b", &d, "-x", 1, NULL), -EINVAL);
    assert_int_equal(start(f, "b", NULL, NULL, 1, NULL), -EINVAL);
    assert_int_equal(start(f, "b", &d, NULL, 0, NULL), -EINVAL);
    const struct image_header split = { "X", "a\r\nHost: evil" };
    const struct image_source s = { .target = { .host = "127.0.0.1", .port = 1 },
                                    .headers = &split,
                                    .headers_len = 1 };
    const struct image_fetch_request req = {
        .repository = "b", .digest = d, .sources = &s, .sources_len = 1
    };
    assert_int_equal(image_fetch_start(f->fetcher, &req, on_fetched, f, NULL, &f->e), -EINVAL);
    /* Nobody is there. */
    f->servers[0].port = 1;
    assert_int_equal(fetch(f, "b", &d, NULL, 1), -ECONNREFUSED);
}

/* Each allocation fails once: no leak, no hang, and either it worked or it says why. */
static void out_of_memory(void **state)
{
    struct fixture *f = *state;
    struct digest d = offer_image(f, "m", NULL, "memory");
    for (long n = 0; n < 120; n++) {
        unsigned before = f->done;
        mem_fail_after(n, 0);
        int r = start(f, "m", &d, NULL, 1, NULL);
        for (int i = 0; r == 0 && f->done == before; i++) {
            uv_run(&f->uv, UV_RUN_ONCE);
        }
        mem_fail_after(-1, 0);
        if (r == 0 && f->rc == 0) {
            assert_true(is_here(f, "", &d, NULL));
            const struct image_ref ref = { .repository = "m" };
            struct image_pruned pruned;
            assert_int_equal(image_store_delete_now(f->store, &ref, &pruned, &f->e), 0);
        }
    }
    assert_int_equal(fetch(f, "m", &d, NULL, 1), 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(by_digest_and_tag),   T(an_index),     T(several_sources), T(breaks_and_goes_on),
        T(wrong_bytes),         T(credentials),  T(two_at_a_time),   T(cancelled),
        T(too_little_too_much), T(bad_requests), T(out_of_memory),
    };
    return cmocka_run_group_tests_name("image_fetch", tests, NULL, NULL);
}
