/*
 * A fetch: from a name to an image that is here.
 *
 *   LOADING ─► ASKING ⇄ RESTING          a document: from the store, else from the sources
 *      │  ▲       │
 *      │  │       ▼
 *      ├──┼── CHECKING                   its digest, its kind
 *      │  └──────┤ an index: on with the entry for this node
 *      ▼         ▼
 *    LOOKING ─► TRANSFERRING ─► STORING ─► ENDED
 *
 * It waits in LOADING, CHECKING, LOOKING and STORING (for the pool), ASKING (for a source), RESTING
 * (for time) and TRANSFERRING (for its blobs).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/fetch_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { DOCS_MAX = IMAGE_INDEX_DEPTH_MAX + 1 };

static const char accept_all[] = IMAGE_TYPE_OCI_MANIFEST
    ", " IMAGE_TYPE_OCI_INDEX ", " IMAGE_TYPE_DOCKER_MANIFEST ", " IMAGE_TYPE_DOCKER_LIST;

enum fetch_state {
    FETCH_LOADING,
    FETCH_ASKING,
    FETCH_RESTING,
    FETCH_CHECKING,
    FETCH_LOOKING,
    FETCH_TRANSFERRING,
    FETCH_STORING,
    FETCH_ENDED,
};

static const unsigned fetch_next[] = {
    [FETCH_LOADING] = BIT(FETCH_ASKING) | BIT(FETCH_CHECKING) | BIT(FETCH_ENDED),
    [FETCH_ASKING] = BIT(FETCH_RESTING) | BIT(FETCH_CHECKING) | BIT(FETCH_ENDED),
    [FETCH_RESTING] = BIT(FETCH_ASKING) | BIT(FETCH_ENDED),
    [FETCH_CHECKING] =
        BIT(FETCH_LOADING) | BIT(FETCH_RESTING) | BIT(FETCH_LOOKING) | BIT(FETCH_ENDED),
    [FETCH_LOOKING] = BIT(FETCH_TRANSFERRING) | BIT(FETCH_ENDED),
    [FETCH_TRANSFERRING] = BIT(FETCH_STORING) | BIT(FETCH_ENDED),
    [FETCH_STORING] = BIT(FETCH_ENDED),
    [FETCH_ENDED] = 0,
};

struct fetch_blob_want {
    struct image_fetch_want want;
    struct image_fetch *fetch;
    size_t i; /* of the manifest's entries; entries_len: the config */
    bool again;
};

struct image_fetch {
    struct list link;
    struct image_fetcher *fetcher;
    struct loop_owner owner; /* of the three that follow */
    struct loop_work work;
    struct loop_timer deadline, rest;
    enum fetch_state state;
    image_fetch_fn *fn; /* NULL: it was called, or is not to be */
    void *arg;

    char repository[IMAGE_NAME_MAX + 1];
    char tag[IMAGE_TAG_MAX + 1]; /* "": none */
    struct image_origins *origins;

    struct image_fetch_doc docs[DOCS_MAX];
    size_t docs_len;    /* the last one is being got */
    bool loaded;        /* from the store */
    struct digest said; /* the source's Docker-Content-Digest */
    char type[IMAGE_MEDIA_TYPE_MAX + 1];

    struct image_ask *ask;
    size_t current;
    uint32_t excluded;
    unsigned attempts;

    bool *here;
    struct fetch_blob_want *wants;
    size_t wants_len, pending;

    int job_rc;
    struct err error;
    struct image_fetched got;
};

static void fetch_move(struct image_fetch *t, enum fetch_state to)
{
    INSIST(fetch_next[t->state] & BIT(to));
    t->state = to;
}

static struct image_fetch_doc *doc_of(struct image_fetch *t)
{
    return &t->docs[t->docs_len - 1];
}

/* ---- the end -----------------------------------------------------------------------------------
 */

static void fetch_closed(struct loop_owner *o)
{
    struct image_fetch *t = CONTAINER_OF(o, struct image_fetch, owner);
    struct image_fetcher *f = t->fetcher;
    for (size_t i = 0; i < t->docs_len; i++) {
        buf_release(&t->docs[i].text);
        if (t->docs[i].parsed) {
            image_manifest_release(&t->docs[i].m);
        }
    }
    image_origins_unref(t->origins);
    mem_free(t->here);
    mem_free(t->wants);
    mem_free(t);
    loop_drop(&f->owner);
}

static void fetch_end(struct image_fetch *t, int rc)
{
    struct image_fetcher *f = t->fetcher;
    image_fetch_fn *fn = TAKE(t->fn);
    fetch_move(t, FETCH_ENDED);
    t->ask = image_ask_cancel(t->ask);
    for (size_t i = 0; i < t->wants_len; i++) {
        image_fetch_blob_leave(&t->wants[i].want);
    }
    list_remove(&t->link);
    f->stats.fetches--;
    f->stats.failed_total += rc < 0;
    loop_timer_close(&t->deadline);
    loop_timer_close(&t->rest);
    loop_owner_close(&t->owner); /* a job that runs holds it */
    if (fn != NULL) {
        fn(t->arg, rc, &t->got, rc == 0 ? "" : err_text(&t->error));
    }
}

static void fetch_fail(struct image_fetch *t, int rc, const char *why)
{
    err_say(&t->error, rc, "%s", why);
    fetch_end(t, rc);
}

static void start_job(struct image_fetch *t, loop_work_fn *run, loop_work_done_fn *done)
{
    t->job_rc = 0;
    if (loop_work_start(&t->work, &t->owner, run, done) < 0) {
        fetch_fail(t, -ENOMEM, "out of memory");
    }
}

/* A job's done has nothing more to do. */
static bool job_ended(struct image_fetch *t, int status)
{
    if (t->state != FETCH_ENDED && status < 0) {
        fetch_fail(t, status, "it was cancelled");
    }
    return t->state == FETCH_ENDED;
}

/* ---- blobs -------------------------------------------------------------------------------------
 */

static void store_work(struct loop_work *w)
{
    struct image_fetch *t = CONTAINER_OF(w, struct image_fetch, work);
    t->job_rc = image_fetch_put(t->fetcher->store, t->repository, t->docs, t->docs_len,
                                t->tag[0] != '\0' ? t->tag : NULL, &t->error);
}

static void store_done(struct loop_work *w, int status)
{
    struct image_fetch *t = CONTAINER_OF(w, struct image_fetch, work);
    if (!job_ended(t, status)) {
        t->got.digest = t->docs[0].digest;
        fetch_end(t, t->job_rc);
    }
}

static void transferred(struct image_fetch *t)
{
    if (t->pending == 0) {
        fetch_move(t, FETCH_STORING);
        start_job(t, store_work, store_done);
    }
}

static int want_blob(struct image_fetch *t, struct fetch_blob_want *w);

static void want_done(struct image_fetch_want *want, int rc, uint64_t bytes, const char *why)
{
    struct fetch_blob_want *w = CONTAINER_OF(want, struct fetch_blob_want, want);
    struct image_fetch *t = w->fetch;
    if (t->state != FETCH_TRANSFERRING) {
        return;
    }
    /* Somebody else's sources did not do: ours may. */
    if (rc < 0 && want->joined && !w->again) {
        w->again = true;
        rc = want_blob(t, w);
        why = "out of memory";
        if (rc == 0) {
            return;
        }
    }
    if (rc < 0) {
        fetch_fail(t, rc, why);
        return;
    }
    t->got.blobs++;
    t->got.bytes += want->joined ? 0 : bytes;
    t->pending--;
    transferred(t);
}

static int want_blob(struct image_fetch *t, struct fetch_blob_want *w)
{
    const struct image_manifest *m = &doc_of(t)->m;
    const struct image_descriptor *d = w->i < m->entries_len ? &m->entries[w->i] : &m->config;
    return image_fetch_blob_want(t->fetcher, &w->want, d, t->repository, t->origins,
                                 t->current + w->i);
}

static void look_work(struct loop_work *w)
{
    struct image_fetch *t = CONTAINER_OF(w, struct image_fetch, work);
    t->job_rc =
        image_fetch_look(t->fetcher->store, t->repository, &doc_of(t)->m, t->here, &t->error);
}

static void look_done(struct loop_work *w, int status)
{
    struct image_fetch *t = CONTAINER_OF(w, struct image_fetch, work);
    if (job_ended(t, status)) {
        return;
    }
    if (t->job_rc < 0) {
        fetch_end(t, t->job_rc);
        return;
    }
    fetch_move(t, FETCH_TRANSFERRING);
    size_t n = doc_of(t)->m.entries_len + 1;
    for (size_t i = 0; i < n; i++) {
        if (t->here[i]) {
            continue;
        }
        struct fetch_blob_want *want = &t->wants[t->wants_len++];
        *want = (struct fetch_blob_want){ .want = { .done = want_done }, .fetch = t, .i = i };
        t->pending++;
        if (want_blob(t, want) < 0) {
            fetch_fail(t, -ENOMEM, "out of memory");
            return;
        }
    }
    transferred(t);
}

static int check_sizes(const struct image_fetch *t, struct err *e)
{
    const struct image_manifest *m = &t->docs[t->docs_len - 1].m;
    uint64_t blob_max = t->fetcher->store->opt.blob_bytes_max;
    uint64_t left = t->fetcher->opt.image_bytes_max;
    if (m->entries_len > IMAGE_LAYERS_MAX) {
        return err_say(e, -ENOTSUP, "the image has %zu layers; at most %d are supported",
                       m->entries_len, IMAGE_LAYERS_MAX);
    }
    for (size_t i = 0; i <= m->entries_len; i++) {
        const struct image_descriptor *d = i < m->entries_len ? &m->entries[i] : &m->config;
        uint64_t max = i < m->entries_len ? blob_max : IMAGE_CONFIG_MAX;
        if (d->size > max || d->size > left) {
            return err_say(e, -EFBIG, "the image is larger than allowed");
        }
        left -= d->size;
    }
    return 0;
}

static void look(struct image_fetch *t)
{
    size_t n = doc_of(t)->m.entries_len + 1;
    int r = check_sizes(t, &t->error);
    if (r < 0) {
        fetch_end(t, r);
        return;
    }
    t->here = mem_calloc(n, sizeof(*t->here));
    t->wants = mem_calloc(n, sizeof(*t->wants));
    if (t->here == NULL || t->wants == NULL) {
        fetch_fail(t, -ENOMEM, "out of memory");
        return;
    }
    fetch_move(t, FETCH_LOOKING);
    start_job(t, look_work, look_done);
}

/* ---- documents ---------------------------------------------------------------------------------
 */

static void load(struct image_fetch *t);
static void ask_document(struct image_fetch *t);
static void source_failed(struct image_fetch *t, int rc, uint64_t wait_ms);

/* The document as it came: is it what was asked for, and what is it? */
static int check_document(struct image_fetch *t, struct err *e)
{
    struct image_fetch_doc *doc = doc_of(t);
    struct str text = buf_str(&doc->text);
    const struct digest *want = doc->digest.algo != DIGEST_NONE ? &doc->digest : &t->said;
    struct digest got;
    int r = digest_of(want->algo != DIGEST_NONE ? want->algo : DIGEST_SHA256, text.p, text.n, &got);
    if (r == 0 && want->algo != DIGEST_NONE && !digest_eq(want, &got)) {
        char a[DIGEST_TEXT_CAP];
        char b[DIGEST_TEXT_CAP];
        return err_say(e, -EBADMSG, "what came as %s is %s", digest_format(want, a),
                       digest_format(&got, b));
    }
    if (r == 0) {
        r = image_manifest_parse(text, str_of(t->type), &doc->m, e);
    }
    if (r == 0) {
        doc->digest = got;
        doc->parsed = true;
        memcpy(doc->media_type, doc->m.media_type, sizeof(doc->media_type));
    }
    return r;
}

static void check_work(struct loop_work *w)
{
    struct image_fetch *t = CONTAINER_OF(w, struct image_fetch, work);
    t->job_rc = check_document(t, &t->error);
}

/* On with the entry for this node. */
static void choose(struct image_fetch *t)
{
    const struct image_manifest *m = &doc_of(t)->m;
    size_t i = 0;
    int r = image_index_select(m, &t->fetcher->store->opt.platform, &i, &t->error);
    if (r < 0) {
        fetch_end(t, r == -ENOENT ? -ENOTSUP : r);
        return;
    }
    if (t->docs_len == DOCS_MAX) {
        fetch_fail(t, -ENOTSUP, "indexes within indexes, too deep");
        return;
    }
    const struct image_descriptor *d = &m->entries[i];
    struct image_fetch_doc *doc = &t->docs[t->docs_len++];
    doc->digest = d->digest;
    buf_init(&doc->text, IMAGE_MANIFEST_MAX);
    memcpy(t->type, d->media_type, sizeof(t->type));
    t->excluded = 0;
    t->attempts = 0;
    load(t);
}

static void check_done(struct loop_work *w, int status)
{
    struct image_fetch *t = CONTAINER_OF(w, struct image_fetch, work);
    if (job_ended(t, status)) {
        return;
    }
    if (t->job_rc == -EBADMSG && !t->loaded) {
        t->fetcher->stats.wrong_total++;
        source_failed(t, -EBADMSG, 0);
    } else if (t->job_rc < 0) {
        fetch_end(t, t->job_rc);
    } else if (doc_of(t)->m.index) {
        choose(t);
    } else {
        look(t);
    }
}

static void check(struct image_fetch *t)
{
    fetch_move(t, FETCH_CHECKING);
    start_job(t, check_work, check_done);
}

static void load_work(struct loop_work *w)
{
    struct image_fetch *t = CONTAINER_OF(w, struct image_fetch, work);
    t->job_rc = image_fetch_load(t->fetcher->store, doc_of(t), &t->error);
}

static void load_done(struct loop_work *w, int status)
{
    struct image_fetch *t = CONTAINER_OF(w, struct image_fetch, work);
    if (job_ended(t, status)) {
        return;
    }
    t->loaded = t->job_rc == 0;
    if (t->loaded) {
        check(t);
    } else if (t->job_rc == -ENOENT) {
        ask_document(t);
    } else {
        fetch_end(t, t->job_rc);
    }
}

static void load(struct image_fetch *t)
{
    fetch_move(t, FETCH_LOADING);
    start_job(t, load_work, load_done);
}

/* ---- asking ------------------------------------------------------------------------------------
 */

static int answer_head(void *arg, const struct http1_head *head)
{
    struct image_fetch *t = arg;
    struct str type = http1_header(head, "Content-Type");
    ptrdiff_t semicolon = str_find(type, ';');
    type = str_trim(semicolon < 0 ? type : str_slice(type, 0, (size_t)semicolon));
    t->said = (struct digest){ 0 };
    if (head->status != 200 || str_copy(t->type, sizeof(t->type), type) < 0) {
        return -EOPNOTSUPP;
    }
    if (head->has_length && head->length > IMAGE_MANIFEST_MAX) {
        return -EFBIG;
    }
    (void)digest_parse(http1_header(head, "Docker-Content-Digest"), &t->said, NULL);
    return 0;
}

static void answer_data(void *arg, struct str data)
{
    struct image_fetch *t = arg;
    t->got.bytes += data.n;
    t->fetcher->stats.bytes_total += data.n;
    (void)buf_addstr(&doc_of(t)->text, data);
}

static void answer_done(void *arg, int rc, const char *why, uint64_t wait_ms)
{
    struct image_fetch *t = arg;
    t->ask = NULL;
    if (rc == 0 && buf_error(&doc_of(t)->text) < 0) {
        rc = buf_error(&doc_of(t)->text) == -ENOMEM ? -ENOMEM : -EFBIG;
        why = "the manifest does not fit";
    }
    if (rc < 0) {
        err_say(&t->error, rc, "%s", why);
        source_failed(t, rc, wait_ms);
        return;
    }
    t->loaded = false;
    check(t);
}

static void ask_document(struct image_fetch *t)
{
    char target[2 * IMAGE_NAME_MAX + DIGEST_TEXT_CAP];
    char digest[DIGEST_TEXT_CAP];
    struct image_fetch_doc *doc = doc_of(t);
    const struct image_ask_events ev = {
        .on_head = answer_head, .on_data = answer_data, .on_done = answer_done, .arg = t
    };
    bool by_tag = doc->digest.algo == DIGEST_NONE;
    snprintf(target, sizeof(target), "/v2/%s/manifests/%s", t->origins->v[t->current].repository,
             by_tag ? t->tag : digest_format(&doc->digest, digest));
    buf_reset(&doc->text);
    fetch_move(t, FETCH_ASKING);
    t->ask = image_ask_start(t->fetcher, t->origins, t->current, target, accept_all, 0,
                             IMAGE_MANIFEST_MAX, &ev);
    if (t->ask == NULL) {
        fetch_fail(t, -ENOMEM, "out of memory");
    }
}

static bool next_source(struct image_fetch *t)
{
    for (size_t k = 1; k <= t->origins->n; k++) {
        size_t i = (t->current + k) % t->origins->n;
        if ((t->excluded & (1U << i)) == 0) {
            t->current = i;
            return true;
        }
    }
    return false;
}

static void source_failed(struct image_fetch *t, int rc, uint64_t wait_ms)
{
    size_t n = t->origins->n;
    bool final = rc == -ENOENT || rc == -EACCES || rc == -EOPNOTSUPP || rc == -EFBIG ||
                 rc == -EBADMSG || rc == -ERANGE;
    t->attempts += !final;
    t->excluded |= final ? 1U << t->current : 0;
    if (rc == -ENOMEM || t->attempts >= t->fetcher->opt.attempts_max + n - 1 || !next_source(t)) {
        fetch_end(t, rc);
        return;
    }
    uint64_t round = t->attempts / n;
    uint64_t ms = round == 0 ? 0 : (uint64_t)IMAGE_FETCH_BACKOFF_MS << (round < 6 ? round - 1 : 5);
    fetch_move(t, FETCH_RESTING);
    loop_timer_start(&t->rest, round > 0 && ms < wait_ms ? wait_ms : ms, 0);
}

static void rested(struct loop_timer *timer)
{
    struct image_fetch *t = CONTAINER_OF(timer, struct image_fetch, rest);
    if (t->state == FETCH_RESTING) {
        ask_document(t);
    }
}

static void too_late(struct loop_timer *timer)
{
    struct image_fetch *t = CONTAINER_OF(timer, struct image_fetch, deadline);
    if (t->state != FETCH_ENDED) {
        fetch_fail(t, -ETIMEDOUT, "the image did not come in time");
    }
}

/* ---- beginning ---------------------------------------------------------------------------------
 */

static int check_request(const struct image_fetch_request *req, struct err *e)
{
    if (!image_name_ok(str_of(req->repository)) ||
        (req->tag != NULL && !image_tag_ok(str_of(req->tag)))) {
        return err_say(e, -EINVAL, "the image's name breaks the rules");
    }
    if (req->digest.algo == DIGEST_NONE && req->tag == NULL) {
        return err_say(e, -EINVAL, "neither a tag nor a digest to fetch");
    }
    if (req->sources_len == 0 || req->sources_len > IMAGE_SOURCES_MAX) {
        return err_say(e, -EINVAL, "%zu sources; 1 to %d are possible", req->sources_len,
                       IMAGE_SOURCES_MAX);
    }
    return 0;
}

static struct image_fetch *fetch_new(struct image_fetcher *f, const struct image_fetch_request *req,
                                     struct image_origins *origins)
{
    struct image_fetch *t = mem_zalloc(sizeof(*t));
    if (t == NULL) {
        return NULL;
    }
    t->fetcher = f;
    t->origins = origins;
    str_copy(t->repository, sizeof(t->repository), str_of(req->repository));
    str_copy(t->tag, sizeof(t->tag), str_of(req->tag));
    t->docs_len = 1;
    t->docs[0].digest = req->digest;
    buf_init(&t->docs[0].text, IMAGE_MANIFEST_MAX);
    loop_hold(&f->owner);
    loop_owner_init(&t->owner, f->owner.loop, fetch_closed);
    loop_timer_init(&t->deadline, &t->owner, too_late);
    loop_timer_init(&t->rest, &t->owner, rested);
    list_push_back(&f->fetches, &t->link);
    f->stats.fetches++;
    f->stats.started_total++;
    if (req->deadline_ms > 0) {
        loop_timer_start(&t->deadline, req->deadline_ms, 0);
    }
    return t;
}

int image_fetch_start(struct image_fetcher *f, const struct image_fetch_request *req,
                      image_fetch_fn *fn, void *arg, struct image_fetch **ret, struct err *e)
{
    struct image_origins *origins = NULL;
    int r = check_request(req, e);
    if (r < 0) {
        return r;
    }
    if (f->closing) {
        return err_say(e, -ESHUTDOWN, "fetching is closing");
    }
    if (f->stats.fetches >= f->opt.fetches_max) {
        return err_say(e, -EAGAIN, "more than %u images are being fetched", f->opt.fetches_max);
    }
    r = image_origins_new(req, &origins);
    struct image_fetch *t = r < 0 ? NULL : fetch_new(f, req, origins);
    if (t == NULL) {
        image_origins_unref(origins);
        return r == -EINVAL ? err_say(e, r, "a source can not be asked")
                            : err_set(e, -ENOMEM, "fetch an image");
    }
    if (req->digest.algo == DIGEST_NONE) {
        ask_document(t);
    } else {
        start_job(t, load_work, load_done);
    }
    if (t->state == FETCH_ENDED) {
        return err_set(e, -ENOMEM, "fetch an image");
    }
    t->fn = fn;
    t->arg = arg;
    if (ret != NULL) {
        *ret = t;
    }
    return 0;
}

void image_fetch_cancel(struct image_fetch *fetch)
{
    if (fetch != NULL) {
        fetch->fn = NULL;
        fetch_fail(fetch, -ECANCELED, "it was cancelled");
    }
}

/* ---- the fetcher -------------------------------------------------------------------------------
 */

static void fetcher_closed(struct loop_owner *o)
{
    struct image_fetcher *f = CONTAINER_OF(o, struct image_fetcher, owner);
    void (*on_closed)(void *arg) = f->on_closed;
    void *arg = f->on_closed_arg;
    loop_defer_cancel(&f->kick);
    map_release(&f->blobs);
    mem_free(f);
    if (on_closed != NULL) {
        on_closed(arg);
    }
}

int image_fetcher_new(struct loop *l, struct image_store *store, struct http_client *client,
                      const struct image_fetcher_options *opt, struct image_fetcher **ret,
                      struct err *e)
{
    static const struct image_fetcher_options none = { 0 };
    uint64_t key[2];
    struct image_fetcher *f = mem_zalloc(sizeof(*f));
    if (f == NULL) {
        return err_set(e, -ENOMEM, "start fetching");
    }
    opt = opt != NULL ? opt : &none;
    f->store = store;
    f->client = client;
    f->opt.fetches_max = opt->fetches_max > 0 ? opt->fetches_max : 256;
    f->opt.blobs_max = opt->blobs_max > 0 ? opt->blobs_max : 6;
    f->opt.attempts_max = opt->attempts_max > 0 ? opt->attempts_max : 6;
    f->opt.image_bytes_max = opt->image_bytes_max > 0 ? opt->image_bytes_max : 64ULL << 30;
    sys_random(key, sizeof(key));
    map_init(&f->blobs, (size_t)f->opt.fetches_max * IMAGE_FETCH_BLOBS_MAX, key[0], key[1]);
    list_init(&f->fetches);
    list_init(&f->waiting);
    loop_defer_init(&f->kick, image_fetch_blob_kick);
    loop_owner_init(&f->owner, l, fetcher_closed);
    *ret = f;
    return 0;
}

void image_fetcher_close(struct image_fetcher *f, void (*on_closed)(void *arg), void *arg)
{
    REQUIRE(!f->closing);
    f->closing = true;
    f->on_closed = on_closed;
    f->on_closed_arg = arg;
    while (!list_empty(&f->fetches)) {
        fetch_fail(LIST_ITEM(f->fetches.next, struct image_fetch, link), -ECANCELED,
                   "fetching is closing");
    }
    loop_owner_close(&f->owner);
}

const struct image_fetcher_stats *image_fetcher_stats(const struct image_fetcher *f)
{
    return &f->stats;
}
