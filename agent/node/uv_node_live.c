/* Attempts on their way: document, image, launch, samples, end. */
#include <errno.h>
#include <stdio.h>

#include "agent/node/uv_node_internal.h"
#include "agent/node/uv_node_triggers.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { PROGRAMS_PLACE_MS = 30 * 1000 }; /* a run waits so long for what its image needs */

/* ---- the pool ---- */

struct node_live *node_live_find(struct node *n, struct ulid id, uint32_t attempt)
{
    LIST_EACH (pos, &n->live) {
        struct node_live *l = LIST_ITEM(pos, struct node_live, link);
        if (l->attempt == attempt && ulid_eq(l->id, id)) {
            return l;
        }
    }
    return NULL;
}

struct node_live *node_live_add(struct node *n, const struct run *run)
{
    if (list_empty(&n->live_free)) {
        return NULL;
    }
    struct node_live *l = LIST_ITEM(n->live_free.next, struct node_live, link);
    list_remove(&l->link);
    *l = (struct node_live){
        .node = n,
        .id = run->id,
        .attempt = run->attempt,
        .stage = LIVE_PLACING,
        .run = *run,
        .generation = ++n->next_generation,
    };
    list_init(&l->pending);
    telemetry_fds_init(&l->fds);
    telemetry_series_init(&l->series, 0);
    list_push_back(&n->live, &l->link);
    return l;
}

static void image_release(struct node_live *l)
{
    if (l->image != NULL) {
        INSIST(l->image->refs > 0);
        l->image->refs--;
        l->image = NULL;
    }
}

void node_live_free(struct node_live *l)
{
    struct node *n = l->node;

    list_remove(&l->pending);
    list_remove(&l->link);
    if (n->dns != NULL) {
        sandbox_dns_end(n->dns, l->id, l->attempt);
    }
    l->doc = node_doc_unref(l->doc);
    image_release(l);
    telemetry_fds_close(&l->fds);
    telemetry_series_release(&l->series);
    l->stage = LIVE_FREE;
    l->generation = 0;
    list_push_back(&n->live_free, &l->link);
}

void node_live_drop(struct node *n, struct ulid id)
{
    LIST_EACH_SAFE (pos, &n->live) {
        struct node_live *l = LIST_ITEM(pos, struct node_live, link);
        struct node_event ev = { .type = NODE_EV_GUEST_OVER,
                                 .job = { .id = l->id, .attempt = l->attempt } };
        if (ulid_eq(l->id, id) && l->guest == NULL && l->stage < LIVE_LAUNCHING) {
            node_live_free(l);
            node_feed(n, &ev); /* its room */
            return;
        }
    }
}

void node_live_answer(struct node_live *l, enum live_answer answer)
{
    INSIST(l->answer == LIVE_NOTHING && answer != LIVE_NOTHING);
    l->answer = answer;
    list_push_back(&l->node->pending, &l->pending);
    node_settle_later(l->node);
}

void node_live_fail(struct node_live *l, enum live_answer answer, enum run_reason reason,
                    const char *detail)
{
    (void)snprintf(l->detail, sizeof l->detail, "%s", detail);
    l->result = (struct job_result){ .reason = reason, .exit_code = -1, .detail = l->detail };
    node_live_answer(l, answer);
}

/* Who asked for something keeps a ticket: the place may be another attempt's by the time of the
 * answer. */
struct ticket {
    struct node_live *live;
    uint64_t generation;
};

static struct ticket *ticket_new(struct node_live *l)
{
    struct ticket *t = mem_alloc(sizeof *t);

    if (t == NULL) {
        node_out_of_memory("a question about a run");
    }
    *t = (struct ticket){ .live = l, .generation = l->generation };
    l->asking = true;
    return t;
}

static struct node_live *ticket_use(struct ticket *t)
{
    struct node_live *l = t->live->generation == t->generation ? t->live : NULL;

    mem_free(t);
    if (l != NULL) {
        l->asking = false;
    }
    return l;
}

/* ---- placing ---- */

static void on_document(void *arg, int status, const struct run *run, const struct job *spec)
{
    struct node_live *l = ticket_use(arg);

    (void)run;
    if (l == NULL || l->node->closing) {
        return;
    }
    if (status == 0 && spec != NULL) {
        struct job *copy = job_dup(spec);
        l->doc = copy != NULL ? node_doc_new(copy) : NULL;
        if (l->doc == NULL) {
            node_out_of_memory("a job document");
        }
        node_live_answer(l, LIVE_ASK_PLACE);
    } else if (status == 0 || status == -ENOENT) {
        node_live_fail(l, LIVE_REFUSED, RUN_REASON_SANDBOX,
                       "the job's document is not in the store any more");
    } else {
        log_warn("the document of a run could not be read: %s", err_name(status));
        node_live_answer(l, LIVE_NO_ROOM);
    }
}

void node_fx_place(struct node *n, const struct run *run)
{
    struct node_live *l = node_live_add(n, run);
    char key[ULID_TEXT_CAP];

    /* The queue asks for no more than JOB_PLACING_MAX at a time and the pool has that many to
     * spare. */
    INSIST(l != NULL);
    ulid_format(run->id, key);
    l->doc = node_docs_get(&n->docs, str_of(key));
    if (l->doc != NULL) {
        node_live_answer(l, LIVE_ASK_PLACE);
        return;
    }
    node_asked(job_store_get_run(n->store, run->id, on_document, ticket_new(l)));
}

struct node_image *node_image_find(struct node *n, const struct digest *d)
{
    LIST_EACH (pos, &n->images) {
        struct node_image *img = LIST_ITEM(pos, struct node_image, link);
        if (digest_eq(&img->resolved->digest, d)) {
            list_remove(&img->link);
            list_push_back(&n->images, &img->link);
            return img;
        }
    }
    return NULL;
}

static void ask_place(struct node_live *l)
{
    struct node *n = l->node;
    struct str texts[NODE_TEXTS_MAX];
    struct node_event ev = { .type = NODE_EV_PLACE };
    const struct node_image *img = node_image_find(n, &l->run.image_digest);
    struct run now;

    if ((l->tries != 0 || l->programs_until_ms != 0 || l->probe_rounds != 0) &&
        job_core_run(node_core_jobs(n->core), l->id, &now) && now.cancel_asked) {
        node_live_answer(l, LIVE_NO_ROOM); /* it ends then */
        return;
    }
    if (node_programs_pending(n, &l->run.image_digest, PROGRAMS_PLACE_MS, &l->programs_until_ms)) {
        l->waits_for_programs = true;
        return;
    }
    node_request_of(&l->run, l->doc->job, texts, &ev.request);
    node_programs_request(n, &l->run, l->doc->job, &ev.request);
    ev.image = node_image_hash(&l->run.image_digest);
    ev.image_warm = img != NULL && img->state == NODE_IMAGE_READY;
    ev.job.id = l->id;
    ev.job.attempt = l->attempt;
    if (node_probes_ask(l, &ev)) {
        return;
    }
    uint64_t generation = l->generation;
    node_feed(n, &ev);
    if (n->last_offer[0] != '\0') {
        node_remote_offer(l, n->last_offer);
        return;
    }
    /* No PREPARE followed: no room, refused, or cancelled meanwhile. */
    if (l->generation == generation && l->stage == LIVE_PLACING) {
        node_live_free(l);
    }
}

/* ---- preparing ---- */

void node_image_forget(struct node *n, struct node_image *img)
{
    list_remove(&img->link);
    n->images_len--;
    if (img->pinned) {
        image_store_unpin(n->images_store, &img->resolved->digest);
    }
    for (size_t i = 0; i < img->resolved->layers_len; i++) {
        fd_close(img->index[i]);
    }
    mem_free(img->index);
    image_resolved_free(img->resolved);
    mem_free(img->layers);
    mem_free(img->done);
    mem_free(img);
}

static void images_trim(struct node *n)
{
    LIST_EACH_SAFE (pos, &n->images) {
        struct node_image *img = LIST_ITEM(pos, struct node_image, link);
        if (n->images_len < NODE_IMAGES_MAX) {
            return;
        }
        if (img->refs == 0 && img->state != NODE_IMAGE_UNPACKING &&
            img->state != NODE_IMAGE_READING) {
            node_image_forget(n, img);
        }
    }
}

struct node_image *node_image_add(struct node *n, struct image_resolved *resolved)
{
    struct node_image *img = mem_zalloc(sizeof *img);
    size_t layers = resolved->layers_len == 0 ? 1 : resolved->layers_len;
    struct digest *diff_ids = mem_calloc(layers, sizeof *diff_ids);
    bool *done = mem_calloc(layers, sizeof *done);
    int *index = mem_calloc(layers, sizeof *index);

    if (img == NULL || diff_ids == NULL || done == NULL || index == NULL) {
        node_out_of_memory("an image");
    }
    for (size_t i = 0; i < resolved->layers_len; i++) {
        diff_ids[i] = resolved->layers[i].diff_id;
        index[i] = -1;
    }
    images_trim(n);
    *img = (struct node_image){
        .resolved = resolved, .layers = diff_ids, .done = done, .index = index
    };
    list_push_back(&n->images, &img->link);
    n->images_len++;
    return img;
}

/* Placement knew what the image needs, unless it came to be known only now. */
static void prepared(struct node_live *l)
{
    struct err e = { .code = 0 };

    if (l->doc == NULL || node_programs_fit(l->node, &l->run, l->doc->job, &e)) {
        node_live_answer(l, LIVE_PREPARED);
    } else {
        node_live_fail(l, LIVE_PREPARE_FAILED, RUN_REASON_IMAGE, err_text(&e));
    }
}

static void image_tell(struct node *n, struct node_image *img, int rc, const char *why)
{
    LIST_EACH_SAFE (pos, &n->live) {
        struct node_live *l = LIST_ITEM(pos, struct node_live, link);
        if (l->image != img || !l->waits_for_image) {
            continue;
        }
        l->waits_for_image = false;
        if (rc == 0) {
            prepared(l);
        } else {
            /* A full disk is this node's trouble, anything else the image's. */
            node_live_fail(l, LIVE_PREPARE_FAILED,
                           rc == -ENOSPC || rc == -EDQUOT ? RUN_REASON_QUOTA : RUN_REASON_IMAGE,
                           why);
        }
    }
}

void node_image_ready(struct node *n, struct node_image *img)
{
    img->state = NODE_IMAGE_READY;
    image_tell(n, img, 0, "");
}

static bool image_all_done(const struct node_image *img)
{
    for (size_t i = 0; i < img->resolved->layers_len; i++) {
        if (!img->done[i]) {
            return false;
        }
    }
    return true;
}

/* Asks for every layer; the launcher joins what is asked for twice, and knows what is there. */
void node_image_unpack(struct node *n, struct node_image *img)
{
    char text[DIGEST_TEXT_CAP];
    char why[ERR_TEXT_MAX];

    img->state = NODE_IMAGE_UNPACKING;
    for (size_t i = 0; i < img->resolved->layers_len; i++) {
        const struct image_resolved_layer *layer = &img->resolved->layers[i];
        img->done[i] = false;
        AUTO_FD int fd = image_store_blob_open(n->images_store, &layer->digest, NULL);
        int rc = fd < 0 ? fd : sandbox_client_unpack(n->client, &layer->diff_id, fd);
        if (rc != 0) {
            img->state = NODE_IMAGE_COLD;
            (void)snprintf(why, sizeof why, "layer %s of the image: %s",
                           digest_format(&layer->digest, text), err_name(rc));
            image_tell(n, img, rc, why);
            return;
        }
    }
}

static void image_use(struct node_live *l, struct node_image *img)
{
    struct node *n = l->node;

    if (!img->pinned && image_store_pin(n->images_store, &img->resolved->digest) != 0) {
        node_out_of_memory("an image");
    }
    img->pinned = true;
    image_release(l);
    l->image = img;
    img->refs++;
    if (img->state == NODE_IMAGE_READY) {
        prepared(l);
        return;
    }
    if (img->resolved->layers_len == 0) {
        node_live_fail(l, LIVE_PREPARE_FAILED, RUN_REASON_IMAGE, "the image has no layers");
        return;
    }
    l->waits_for_image = true;
    if (img->state == NODE_IMAGE_COLD) {
        node_image_unpack(n, img);
    }
}

static void resolve(struct node_live *l);

static void on_fetched(void *arg, int rc, const struct image_fetched *got, const char *why)
{
    struct node_live *l = ticket_use(arg);

    (void)got;
    if (l == NULL || l->node->closing) {
        return;
    }
    if (rc != 0) {
        node_live_fail(l, LIVE_PREPARE_FAILED, rc == -ENOSPC ? RUN_REASON_QUOTA : RUN_REASON_IMAGE,
                       why);
        return;
    }
    l->pulled = true;
    resolve(l);
}

/* The image is not here, or not all of it. */
static void fetch(struct node_live *l, const struct err *missing)
{
    struct ticket *t = ticket_new(l);
    struct err e = { .code = 0 };
    const char *first = l->guest != NULL ? l->guest->owner : "";
    int rc = node_pull_image(l->node, &l->run, first, on_fetched, t, &e);

    if (rc == 0) {
        return;
    }
    (void)ticket_use(t);
    if (rc == -EAGAIN) {
        node_live_answer(l, LIVE_NO_ROOM);
    } else {
        node_live_fail(l, LIVE_PREPARE_FAILED, RUN_REASON_IMAGE,
                       rc == -ENOENT ? err_text(missing) : err_text(&e));
    }
}

static void on_resolved(void *arg, int status, struct image_resolved *image, const struct err *e)
{
    struct node_live *l = ticket_use(arg);

    if (l == NULL || l->node->closing) {
        image_resolved_free(image);
        return;
    }
    if (status == -ENOENT && !l->pulled) {
        fetch(l, e);
        return;
    }
    if (status != 0) {
        node_live_fail(l, LIVE_PREPARE_FAILED, RUN_REASON_IMAGE, err_text(e));
        return;
    }
    struct node_image *img = node_image_find(l->node, &image->digest);
    if (img != NULL) {
        image_resolved_free(image);
    } else {
        img = node_image_add(l->node, image);
    }
    image_use(l, img);
}

static void resolve(struct node_live *l)
{
    struct image_ref ref;
    struct ticket *t = ticket_new(l);

    /* The name says where it can be had again, should it have gone; the digest says what. */
    if (image_ref_parse(str_of(l->run.image), &ref, NULL) != 0) {
        ref = (struct image_ref){ .tag = "" };
    }
    ref.digest = l->run.image_digest;
    ref.tag[0] = '\0';
    if (node_image_resolve(l->node, &ref, on_resolved, t) != 0) {
        (void)ticket_use(t);
        node_live_answer(l, LIVE_NO_ROOM);
    }
}

void node_fx_prepare(struct node *n, const struct run *run)
{
    struct node_live *l = node_live_find(n, run->id, run->attempt);

    INSIST(l != NULL);
    l->stage = LIVE_PREPARING;
    l->run = *run;
    struct node_image *img = node_image_find(n, &run->image_digest);
    if (img != NULL) {
        image_use(l, img);
        return;
    }
    resolve(l);
}

static void on_unpacked(void *arg, const struct digest *diff_id, int rc, const char *text,
                        uint64_t bytes, uint64_t entries, int index_fd)
{
    struct node *n = arg;
    AUTO_FD int index = index_fd;

    (void)bytes;
    (void)entries;
    LIST_EACH_SAFE (pos, &n->images) {
        struct node_image *img = LIST_ITEM(pos, struct node_image, link);
        bool here = false;
        for (size_t i = 0; i < img->resolved->layers_len; i++) {
            if (digest_eq(&img->layers[i], diff_id)) {
                img->done[i] = rc == 0;
                here = true;
                if (index >= 0 && img->state == NODE_IMAGE_UNPACKING) {
                    fd_close(img->index[i]);
                    img->index[i] = fd_dup(index, 3);
                }
            }
        }
        if (!here || img->state != NODE_IMAGE_UNPACKING) {
            continue;
        }
        if (rc != 0) {
            img->state = NODE_IMAGE_COLD;
            image_tell(n, img, rc, text);
            node_programs_unpack_failed(n, &img->resolved->digest);
        } else if (image_all_done(img)) {
            img->state = NODE_IMAGE_READING;
            node_programs_read(n, img);
        }
    }
}

/* ---- launching ---- */

enum { SECRET_TRIES = 20 }; /* 250 ms apart */

/* On a peer's run: the table's row may still be on its way here, when somebody just set it. */
static void no_secret(struct node_live *l, int rc, const struct err *e)
{
    if (rc == -ENOENT && l->guest != NULL && l->guest->tries < SECRET_TRIES) {
        node_live_answer(l, LIVE_NO_ROOM);
    } else {
        node_live_fail(l, LIVE_ENDED, RUN_REASON_SECRET, err_text(e));
    }
}

void node_fx_launch(struct node *n, const struct run *run)
{
    struct node_live *l = node_live_find(n, run->id, run->attempt);
    struct node_spec spec;
    struct err e = { 0 };

    INSIST(l != NULL && l->image != NULL && l->doc != NULL);
    l->stage = LIVE_LAUNCHING;
    l->run = *run;
    const struct node_spec_input in = {
        .run = run,
        .job = l->doc->job,
        .config = &l->image->resolved->config,
        .layers = l->image->layers,
        .layers_len = l->image->resolved->layers_len,
        .settings = &n->settings,
        .mask = &n->facts.masked,
        .now_us = sys_wall_us(),
    };
    AUTO_BUF struct buf secrets = BUF_INIT(2 * SANDBOX_SECRETS_FILE_MAX);
    int rc = node_secrets_of(n, l->doc->job, &secrets, &e);
    if (rc != 0) {
        no_secret(l, rc, &e);
        return;
    }
    rc = node_spec_make(&in, &spec, &e);
    if (rc == 0) {
        rc = sandbox_client_run(n->client, &spec.spec, buf_str(&secrets), &e);
        node_spec_release(&spec);
    }
    if (secrets.data != NULL) {
        mem_wipe(secrets.data, secrets.cap);
    }
    if (rc == -ENOBUFS) {
        node_live_answer(l, LIVE_NO_ROOM);
    } else if (rc != 0) {
        node_live_fail(l, LIVE_ENDED, RUN_REASON_SANDBOX, err_text(&e));
    }
}

void node_fx_stop(struct node *n, struct ulid id, uint32_t attempt)
{
    struct node_live *l = node_live_find(n, id, attempt);

    if (node_remote_stop(n, id, attempt)) {
        return;
    }
    /* Not asked for yet: the answer to PLACE or PREPARE still comes, and the queue then ends it. */
    if (l == NULL || l->stage >= LIVE_LAUNCHING) {
        (void)sandbox_client_stop(n->client, id, attempt);
    }
}

static struct node_guest *guest_of(struct node *n, struct ulid id, uint32_t attempt)
{
    struct node_guest *g = node_guest_find(n, id);

    return g != NULL && g->run.attempt == attempt ? g : NULL;
}

/* Monitoring groups that runs could have; nothing where there is no resctrl. */
static void show_groups(struct node *n, uint32_t free_and_1)
{
    telemetry_gauge_clear(n->metrics, TELEMETRY_RDT_RMIDS_FREE);
    if (free_and_1 > 0) {
        telemetry_gauge(n->metrics, TELEMETRY_RDT_RMIDS_FREE, TELEMETRY_NO_LABELS, free_and_1 - 1);
    }
}

static void on_started(void *arg, struct sandbox_started *s)
{
    static const enum run_start kinds[] = {
        [SANDBOX_COLD] = RUN_START_COLD,
        [SANDBOX_CACHED] = RUN_START_CACHED,
        [SANDBOX_WARM] = RUN_START_WARM,
    };
    struct node *n = arg;
    struct node_live *l = node_live_find(n, s->run, s->attempt);
    struct node_guest *g = guest_of(n, s->run, s->attempt);
    struct run run;

    if (l == NULL && g != NULL) {
        l = node_live_add(n, &g->run);
        if (l != NULL) {
            l->guest = g;
        }
    } else if (l == NULL && job_core_run(node_core_jobs(n->core), s->run, &run) &&
               run.attempt == s->attempt) {
        l = node_live_add(n, &run); /* taken up after a restart */
    }
    if (l == NULL) {
        telemetry_fds_close(&s->fds);
    } else {
        l->stage = LIVE_RUNNING;
        telemetry_fds_close(&l->fds);
        l->fds = s->fds;
        l->started_ms = loop_now_ms(n->loop);
        l->cache = (uint8_t)s->cache;
        telemetry_meter_init(&l->meter, &s->base, s->started_wall_us, s->peak_was_reset);
    }
    node_dns_started(n, l, s->dns_fd);
    show_groups(n, s->rdt_free);
    if (g != NULL) {
        node_guest_started(g, s, kinds[s->kind]);
        return;
    }
    struct job_event ev = { .type = JOB_EV_STARTED,
                            .id = s->run,
                            .attempt = s->attempt,
                            .start = kinds[s->kind],
                            .started_us = s->started_wall_us };
    node_feed_job(n, &ev);
}

static void on_ended(void *arg, const struct sandbox_ended *s)
{
    struct node *n = arg;
    struct node_live *l = node_live_find(n, s->run, s->attempt);
    struct run known;
    struct telemetry_meter fresh;
    struct telemetry_totals totals;
    struct job_result result;
    struct sandbox_result r = s->result;
    struct node_guest *g = guest_of(n, s->run, s->attempt);
    if (g == NULL && !job_core_run(node_core_jobs(n->core), s->run, &known)) {
        /* Ended in an earlier life, or nobody's, or given up to another owner. */
        struct node_event over = { .type = NODE_EV_GUEST_OVER,
                                   .job = { .id = s->run, .attempt = s->attempt } };
        if (l != NULL) {
            node_live_free(l);
        }
        node_feed(n, &over);
        node_orphan_check(n, s->run, s->attempt);
        return;
    }
    uint64_t elapsed =
        r.ended_mono_us > r.started_mono_us ? r.ended_mono_us - r.started_mono_us : 0;

    telemetry_meter_init(&fresh, &s->usage.base, r.started_wall_us, s->usage.peak_was_reset);
    telemetry_meter_end(l != NULL && l->stage == LIVE_RUNNING ? &l->meter : &fresh,
                        s->usage.end.has != 0 ? &s->usage.end : NULL, elapsed, &totals);
    node_result_of(&r, &totals, &result);
    result.usage.cache_class = l != NULL ? l->cache : RUN_CACHE_DEFAULT;
    show_groups(n, s->rdt_free);
    if (g != NULL) {
        node_learn_ended(n, &g->run, &result, &totals);
    } else if (job_core_run(node_core_jobs(n->core), s->run, &known)) {
        node_learn_ended(n, &known, &result, &totals);
    }
    if (l != NULL) {
        INSIST(l->answer == LIVE_NOTHING);
        if (g != NULL) {
            node_samples_text(l, &g->report.samples);
        } else {
            node_samples_keep(l);
        }
        node_live_free(l);
    }
    if (g != NULL) {
        node_guest_ended(g, &result);
        return;
    }
    struct job_event ev = {
        .type = JOB_EV_ENDED, .id = s->run, .attempt = s->attempt, .result = &result
    };
    node_feed_job(n, &ev);
}

static void on_failed(void *arg, struct ulid run, uint32_t attempt, int rc, const char *text)
{
    struct node *n = arg;
    struct node_live *l = node_live_find(n, run, attempt);

    if (l == NULL) {
        return;
    }
    if (rc == -ESTALE && l->image != NULL) {
        /* Its layers went away under us: have them again. */
        l->image->state = NODE_IMAGE_COLD;
        node_live_answer(l, LIVE_NO_ROOM);
    } else if (rc == -EAGAIN) {
        node_live_answer(l, LIVE_NO_ROOM);
    } else {
        node_live_fail(l, LIVE_ENDED, RUN_REASON_SANDBOX, text);
    }
}

/* ---- telling the core ---- */

void node_live_settle(struct node_live *l)
{
    static const enum job_event_type types[] = {
        [LIVE_NO_ROOM] = JOB_EV_NO_ROOM,   [LIVE_REFUSED] = JOB_EV_REFUSED,
        [LIVE_PREPARED] = JOB_EV_PREPARED, [LIVE_PREPARE_FAILED] = JOB_EV_PREPARE_FAILED,
        [LIVE_ENDED] = JOB_EV_ENDED,
    };
    struct node *n = l->node;
    enum live_answer answer = l->answer;
    struct job_event ev = { .id = l->id, .attempt = l->attempt };
    char detail[ERR_TEXT_MAX];
    struct job_result result = l->result;

    l->answer = LIVE_NOTHING;
    list_remove(&l->pending);
    if (l->guest != NULL) {
        node_guest_settled(l, answer);
        return;
    }
    if (answer == LIVE_ASK_PLACE) {
        ask_place(l);
        return;
    }
    memcpy(detail, l->detail, sizeof detail);
    result.detail = detail;
    ev.type = types[answer];
    ev.result = &result;
    if (answer != LIVE_PREPARED) {
        node_live_free(l);
        node_feed_job(n, &ev);
        return;
    }
    uint64_t generation = l->generation;
    node_feed_job(n, &ev);
    /* No LAUNCH followed: it was cancelled meanwhile. */
    if (l->generation == generation && l->stage == LIVE_PREPARING) {
        node_live_free(l);
    }
}

/* ---- samples ---- */

size_t node_running(const struct node *n)
{
    size_t running = 0;

    LIST_EACH (pos, &n->live) {
        running += LIST_ITEM(pos, struct node_live, link)->stage == LIVE_RUNNING ? 1 : 0;
    }
    return running;
}

void node_sample_all(struct node *n)
{
    LIST_EACH (pos, &n->live) {
        struct node_live *l = LIST_ITEM(pos, struct node_live, link);
        struct telemetry_reading now;
        struct telemetry_sample sample;
        if (l->stage != LIVE_RUNNING || telemetry_read(&l->fds, TELEMETRY_CHEAP, &now) != 0) {
            continue;
        }
        int64_t since = sys_wall_us() - l->meter.start_wall_us;
        telemetry_meter_add(&l->meter, &now, since > 0 ? (uint64_t)since : 0, &sample);
        (void)telemetry_series_add(&l->series, &sample);
    }
}

/* ---- the launcher's other news ---- */

static void on_hello(void *arg, const struct sandbox_hello *h)
{
    struct node *n = arg;

    n->hello = *h;
    n->said_hello = true;
    node_settle_later(n);
}

static void on_run_removed(void *arg, struct ulid run, uint32_t attempt, int rc, const char *text)
{
    node_on_run_removed(arg, run, attempt, rc, text);
}

static void on_layer_removed(void *arg, const struct digest *diff_id, int rc, const char *text)
{
    char d[DIGEST_TEXT_CAP];

    (void)arg;
    if (rc != 0 && rc != -EBUSY && rc != -ENOENT) {
        log_warn("layer %s was not removed: %s", digest_format(diff_id, d), text);
    }
}

static void on_adopted(void *arg)
{
    struct node *n = arg;
    struct job_event ev = { .type = JOB_EV_RECOVERED };

    node_feed_job(n, &ev);
    if (!n->ready) {
        n->ready = true;
        node_guests_adopted(n);
        node_triggers_load(n);
        node_cluster_ready(n);
        node_images_keep_all(n);
        n->opt.on_ready(n->opt.arg);
        (void)sandbox_client_ready(n->client, "accepting runs");
    }
}

static void on_lost(void *arg, const char *why)
{
    struct node *n = arg;

    n->opt.on_broken(n->opt.arg, why);
}

const struct sandbox_client_events node_sandbox_events = {
    .hello = on_hello,
    .started = on_started,
    .egress_set = node_dns_egress_set,
    .ended = on_ended,
    .failed = on_failed,
    .unpacked = on_unpacked,
    .run_removed = on_run_removed,
    .layer_removed = on_layer_removed,
    .adopted = on_adopted,
    .lost = on_lost,
};
