/*
 * What the programs of images need of a processor.
 *
 *   an image is pushed, or a run of it comes ─> its layers are unpacked (by the launcher's confined
 *   children, which leave an index of each) ─> the indexes are read on a pool thread ─> facts, in
 *   memory, in db/programs and in the image's rows of the table ─> filters and prior of placement
 *
 * A run of an image that is being looked at waits for that, not for ever; what is then still not
 * known filters nothing, and the node that runs it looks again before it starts it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/node/node_rows.h"
#include "agent/node/uv_node_internal.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { FACTS_MAX = 8 * 1024 };

struct node_programs {
    struct list link;
    struct digest digest; /* the map's key */
    bool own;             /* looked at here: in db/programs */
    struct image_programs facts;
};

static struct str digest_key(const struct digest *d)
{
    return (struct str){ (const char *)d, sizeof(*d) };
}

/* Digests as keys: all bytes count, also those that an algorithm does not use. */
static struct digest clean(const struct digest *d)
{
    struct digest c;

    memset(&c, 0, sizeof(c));
    c.algo = d->algo;
    memcpy(c.b, d->b, digest_len(d->algo));
    return c;
}

void node_programs_init(struct node *n, uint64_t k0, uint64_t k1)
{
    list_init(&n->programs);
    list_init(&n->program_waits);
    map_init(&n->program_digests, NODE_PROGRAMS_MAX + 1, k0, k1);
}

static void forget(struct node *n, struct node_programs *p)
{
    char hex[DIGEST_TEXT_CAP];

    (void)map_remove(&n->program_digests, digest_key(&p->digest));
    list_remove(&p->link);
    if (p->own && !n->closing) {
        node_spool_remove(n->programs_fd, digest_hex(&p->digest, hex));
    }
    mem_free(p);
}

static void put(struct node *n, const struct digest *d, const struct image_programs *facts,
                bool own)
{
    struct digest key = clean(d);
    struct node_programs *p = map_get(&n->program_digests, digest_key(&key));

    if (p == NULL) {
        if (n->program_digests.len >= NODE_PROGRAMS_MAX) {
            forget(n, LIST_ITEM(n->programs.next, struct node_programs, link));
        }
        p = mem_zalloc(sizeof(*p));
        if (p == NULL) {
            return; /* it is not known, then */
        }
        p->digest = key;
        list_push_back(&n->programs, &p->link);
        if (map_add(&n->program_digests, digest_key(&p->digest), p) != 0) {
            list_remove(&p->link);
            mem_free(p);
            return;
        }
    }
    p->own = p->own || own;
    p->facts = *facts;
}

/* ---- what is remembered ---- */

static void note_came(void *arg, const char *name, struct str text)
{
    struct node *n = arg;
    AUTO_JSON struct json_doc *doc = NULL;
    struct image_programs facts;
    struct digest d;
    char full[DIGEST_TEXT_CAP + 8];

    (void)snprintf(full, sizeof(full), "%s:%s", strlen(name) == 64 ? "sha256" : "sha512", name);
    if (digest_parse(str_of(full), &d, NULL) != 0 ||
        json_parse(text.p, text.n, NULL, &doc, NULL) != 0 ||
        image_programs_parse(json_root(doc), &facts, NULL) != 0 ||
        n->program_digests.len >= NODE_PROGRAMS_MAX) {
        node_spool_remove(n->programs_fd, name);
        return;
    }
    put(n, &d, &facts, true);
}

int node_programs_load(struct node *n, struct err *e)
{
    int rc = node_notes_each(n->programs_fd, note_came, n);

    return rc != 0 ? err_set(e, rc, "read db/programs") : 0;
}

void node_programs_free(struct node *n)
{
    while (!list_empty(&n->programs)) {
        forget(n, LIST_ITEM(n->programs.next, struct node_programs, link));
    }
    map_release(&n->program_digests);
}

/* ---- asking ---- */

/* Its facts as a live member's row has them. pending: such a row says nothing of them yet. */
static bool table_has(const struct node *n, const struct digest *d, struct image_programs *ret,
                      bool *ret_pending)
{
    struct table_walk walk = { .type = TABLE_IMAGE };
    struct table_row_view row;
    struct node_tag *t = mem_alloc(sizeof(*t));
    bool found = false;

    *ret_pending = false;
    while (t != NULL && !found && table_next(table_core(n->table), &walk, &row)) {
        if (row.key.n == 0 || node_is_self(n, row.owner) ||
            node_tag_parse(row.value, t, NULL) != 0 || !digest_eq(&t->digest, d)) {
            continue;
        }
        if (t->has_programs) {
            *ret = t->programs;
            found = true;
        } else {
            *ret_pending = true;
        }
    }
    mem_free(t);
    return found;
}

static const struct image_programs *known(const struct node *n, const struct digest *d)
{
    struct digest key = clean(d);
    struct node_programs *p = map_get(&n->program_digests, digest_key(&key));

    return p != NULL ? &p->facts : NULL;
}

const struct image_programs *node_programs_get(struct node *n, const struct digest *d)
{
    const struct image_programs *p = known(n, d);
    struct image_programs theirs;
    bool pending;

    if (p == NULL && d->algo != DIGEST_NONE && table_has(n, d, &theirs, &pending)) {
        put(n, d, &theirs, false);
        p = known(n, d);
    }
    return p;
}

static bool is_here(struct node *n, const struct digest *d)
{
    AUTO_FD int fd = image_store_blob_open(n->images_store, d, NULL);

    return fd >= 0;
}

bool node_programs_pending(struct node *n, const struct digest *d, uint64_t most_ms,
                           uint64_t *until_ms)
{
    uint64_t now = loop_now_ms(n->loop);
    struct image_programs theirs;
    bool pending;

    if (node_programs_get(n, d) != NULL || n->closing) {
        return false;
    }
    if (is_here(n, d)) {
        node_programs_want(n, d);
    } else {
        most_ms = most_ms < NODE_PROGRAMS_PEER_MS ? most_ms : NODE_PROGRAMS_PEER_MS;
        if (table_has(n, d, &theirs, &pending) || !pending) {
            return false;
        }
    }
    if (*until_ms == 0) {
        *until_ms = now + most_ms;
    }
    return now < *until_ms;
}

/* ---- looking at an image that no run has asked for (yet) ---- */

static void scan_over(struct node *n)
{
    n->scan_busy = false;
    node_programs_look(n);
}

/* It can not be told: nobody waits for it any more. Not written down: the next start tries again.
 */
static void scan_failed(struct node *n, const struct digest *d)
{
    const struct image_programs nothing = { .features = IMAGE_FEATURES_ALL };

    if (known(n, d) == NULL && is_here(n, d)) {
        put(n, d, &nothing, false);
    }
    scan_over(n);
}

/* Nobody runs it: it goes as any other that is not used. */
static void looked_at(struct node *n, struct node_image *img)
{
    if (img != NULL && img->refs == 0 && !img->pinned && img->state != NODE_IMAGE_UNPACKING) {
        node_image_forget(n, img);
    }
}

void node_programs_unpack_failed(struct node *n, const struct digest *d)
{
    struct node_image *img = node_image_find(n, d);

    if (n->scan_busy && digest_eq(&n->scanning, d)) {
        scan_failed(n, d);
    }
    looked_at(n, img);
}

static void on_scan_resolved(void *arg, int status, struct image_resolved *image,
                             const struct err *e)
{
    struct node *n = arg;
    struct digest d = n->scanning;

    (void)e;
    if (n->closing || status != 0) {
        image_resolved_free(image);
        if (!n->closing) {
            scan_failed(n, &d);
        }
        return;
    }
    struct node_image *img = node_image_find(n, &image->digest);
    if (img != NULL) {
        image_resolved_free(image);
    } else {
        img = node_image_add(n, image);
    }
    if (img->state == NODE_IMAGE_COLD && img->resolved->layers_len != 0) {
        node_image_unpack(n, img);
    }
    if (img->state == NODE_IMAGE_COLD) {
        scan_failed(n, &d); /* no layers, a blob is missing, or the launcher is busy */
        looked_at(n, img);
    } else if (img->state == NODE_IMAGE_READY) {
        node_programs_read(n, img); /* it was unpacked by an agent that did not look */
    }
}

void node_programs_want(struct node *n, const struct digest *d)
{
    struct image_ref ref = { .repository = "", .tag = "", .digest = *d };
    struct node_image *img = node_image_find(n, d);

    if (n->scan_busy && known(n, &n->scanning) != NULL) {
        n->scan_busy = false; /* it was found out in another way */
    }
    if (n->closing || !n->ready || known(n, d) != NULL || n->scan_busy ||
        (img != NULL && img->state != NODE_IMAGE_COLD && img->state != NODE_IMAGE_READY)) {
        return; /* one at a time: it is asked again */
    }
    n->scanning = *d;
    n->scan_busy = image_store_resolve(n->images_store, &ref, on_scan_resolved, n) == 0;
}

/* ---- reading the indexes ---- */

struct reading {
    struct loop_work work;
    struct node *node;
    struct digest digest;
    bool is_index; /* a list of images for several architectures: no filter by the one read here */
    int *fds;
    size_t n;
    struct image_config config; /* what decides which program is started; a copy */
    uint64_t k0, k1;
    int rc;
    struct image_programs facts;
};

static void reading_free(struct reading *r)
{
    for (size_t i = 0; i < r->n; i++) {
        fd_close(r->fds[i]);
    }
    image_strv_release(&r->config.entrypoint);
    image_strv_release(&r->config.cmd);
    image_strv_release(&r->config.env);
    mem_free(r->config.workdir);
    mem_free(r->fds);
    mem_free(r);
}

static int index_read(int fd, struct buf *to)
{
    enum { PIECE = 64 * 1024 };

    for (uint64_t at = 0; fd >= 0;) {
        char *p = buf_reserve(to, PIECE);
        ssize_t got = p != NULL ? sys_pread_full(fd, p, PIECE, at) : -ENOBUFS;
        if (got <= 0) {
            return (int)got;
        }
        buf_grow(to, (size_t)got);
        at += (uint64_t)got;
    }
    return 0;
}

static void read_work(struct loop_work *w)
{
    struct reading *r = CONTAINER_OF(w, struct reading, work);
    struct buf *texts = mem_calloc(r->n, sizeof(*texts));
    struct str *views = mem_calloc(r->n, sizeof(*views));
    AUTO_BUF struct buf note = BUF_INIT(FACTS_MAX);
    char hex[DIGEST_TEXT_CAP];
    struct json_w json;

    r->rc = texts != NULL && views != NULL ? 0 : -ENOMEM;
    for (size_t i = 0; r->rc == 0 && i < r->n; i++) {
        buf_init(&texts[i], IMAGE_INDEX_MAX + 64 * 1024);
        if (index_read(r->fds[i], &texts[i]) == 0) {
            views[i] = buf_str(&texts[i]);
        }
    }
    if (r->rc == 0) {
        r->rc = image_programs_find(views, r->n, &r->config, r->k0, r->k1, &r->facts);
    }
    for (size_t i = 0; texts != NULL && i < r->n; i++) {
        buf_release(&texts[i]);
    }
    mem_free(texts);
    mem_free(views);
    if (r->rc != 0) {
        return;
    }
    if (r->is_index) {
        r->facts.arch[0] = '\0';
    }
    json_w_init(&json, &note, false);
    image_programs_write(&json, &r->facts, false);
    if (buf_error(&note) == 0) {
        (void)node_file_write(r->node->programs_fd, digest_hex(&r->digest, hex), note.data,
                              note.len); /* lost, it is found out again */
    }
}

static void read_done(struct loop_work *w, int status)
{
    struct reading *r = CONTAINER_OF(w, struct reading, work);
    struct node *n = r->node;

    if (!n->closing) {
        struct node_image *img = node_image_find(n, &r->digest);
        if (status == 0 && r->rc == 0) {
            put(n, &r->digest, &r->facts, true);
            n->images_again_ms = 0; /* its rows say it */
        } else {
            scan_failed(n, &r->digest);
        }
        if (img != NULL && img->state == NODE_IMAGE_READING) {
            node_image_ready(n, img);
        }
        looked_at(n, img);
        if (digest_eq(&n->scanning, &r->digest)) {
            n->scan_busy = false;
        }
        node_programs_look(n);
    }
    reading_free(r);
}

/* The parts of the configuration that say what is started. */
static int config_copy(const struct image_config *from, struct image_config *to)
{
    static const struct image_strv none = { NULL, 0 };
    struct image_strv *argv = from->entrypoint.n != 0 ? &to->entrypoint : &to->cmd;

    to->workdir = mem_strdup(from->workdir);
    if (to->workdir == NULL || image_env(from, &none, &to->env, NULL) != 0) {
        return -ENOMEM;
    }
    return from->entrypoint.n + from->cmd.n == 0 ? 0 : image_argv(from, NULL, NULL, argv, NULL);
}

void node_programs_read(struct node *n, struct node_image *img)
{
    const struct image_resolved *image = img->resolved;
    const struct image_programs *p = known(n, &image->digest);

    if (p != NULL && p->known) {
        for (size_t i = 0; i < image->layers_len; i++) {
            img->index[i] = fd_close(img->index[i]);
        }
        if (img->state == NODE_IMAGE_READING) {
            node_image_ready(n, img);
        }
        looked_at(n, img);
        return;
    }
    struct reading *r = mem_zalloc(sizeof(*r));
    int *fds = mem_calloc(image->layers_len + 1, sizeof(*fds));
    if (r == NULL || fds == NULL) {
        node_out_of_memory("an image's programs");
    }
    r->fds = fds;
    r->node = n;
    r->digest = image->digest;
    r->is_index = !digest_eq(&image->digest, &image->manifest_digest);
    r->k0 = sys_random_u64();
    r->k1 = sys_random_u64();
    r->n = image->layers_len;
    for (size_t i = 0; i < r->n; i++) {
        r->fds[i] = img->index[i];
        img->index[i] = -1;
    }
    int rc = config_copy(&image->config, &r->config);
    if (rc == 0 && loop_work_start(&r->work, &n->owner, read_work, read_done) == 0) {
        return;
    }
    struct digest d = r->digest;
    reading_free(r);
    scan_failed(n, &d);
    if (img->state == NODE_IMAGE_READING) {
        node_image_ready(n, img);
    }
    looked_at(n, img);
}

/* ---- who waits ---- */

void node_programs_look(struct node *n)
{
    struct list now;

    LIST_EACH (pos, &n->live) {
        struct node_live *l = LIST_ITEM(pos, struct node_live, link);
        if (l->waits_for_programs && l->answer == LIVE_NOTHING) {
            l->waits_for_programs = false;
            node_live_answer(l, LIVE_ASK_PLACE);
        }
    }
    list_init(&now);
    while (!list_empty(&n->program_waits)) {
        struct list *l = n->program_waits.next;
        list_remove(l);
        list_push_back(&now, l);
    }
    while (!list_empty(&now)) {
        struct node_request *r = LIST_ITEM(now.next, struct node_request, programs_wait);
        list_remove(&r->programs_wait);
        node_submit_placeable(r);
    }
}

/* ---- what a run asks of a node ---- */

/* What the job starts in place of the image's own program; empty: nothing. */
static struct str program_of(const struct image_programs *p, const struct job *job)
{
    if (job->has_entrypoint && job->entrypoint.n != 0) {
        return str_of(job->entrypoint.v[0]);
    }
    if (job->has_command && job->command.n != 0 && (!p->entrypoint || job->has_entrypoint)) {
        return str_of(job->command.v[0]);
    }
    return STR("");
}

static uint8_t absent_of(const struct image_programs *p)
{
    static const struct {
        unsigned image;
        unsigned route;
    } same[] = {
        { IMAGE_FEATURE_AES | IMAGE_FEATURE_CLMUL, ROUTE_HAS_AES },
        { IMAGE_FEATURE_SHA, ROUTE_HAS_SHA },
        { IMAGE_FEATURE_AVX2, ROUTE_HAS_AVX2 },
        { IMAGE_FEATURE_AVX512, ROUTE_HAS_AVX512 },
    };
    unsigned absent = 0;

    for (size_t i = 0; i < ARRAY_LEN(same); i++) {
        absent |= (p->features & same[i].image) == 0 ? same[i].route : 0;
    }
    return (uint8_t)absent;
}

void node_programs_request(struct node *n, const struct run *run, const struct job *job,
                           struct route_request *req)
{
    const struct image_programs *p = node_programs_get(n, &run->image_digest);

    if (p == NULL || !p->known) {
        return;
    }
    req->isa = image_programs_isa(p, program_of(p, job));
    req->absent = absent_of(p);
    if (strcmp(p->arch, "386") == 0) {
        req->arch = STR("amd64");
    } else if (strcmp(p->arch, "arm") != 0) {
        req->arch = str_of(p->arch);
    }
}

bool node_programs_fit(struct node *n, const struct run *run, const struct job *job, struct err *e)
{
    const struct image_programs *p = node_programs_get(n, &run->image_digest);
    unsigned level = n->facts.microarch_level;
    uint8_t isa = p != NULL ? image_programs_isa(p, program_of(p, job)) : 0;

    if (isa != 0 && level != 0 && isa > level) {
        (void)err_say(e, -ENOTSUP, "the image needs x86-64-v%u, node '%s' has x86-64-v%u", isa,
                      n->settings.node.name, level);
        return false;
    }
    return true;
}

/* ---- showing ---- */

void node_programs_list(struct node *n, struct str list, struct buf *out)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct json_w w;

    if (json_parse(list.p, list.n, NULL, &doc, NULL) != 0 || json_root(doc)->type != JSON_OBJECT) {
        (void)buf_addstr(out, list);
        return;
    }
    json_w_init(&w, out, false);
    json_w_obj(&w);
    JSON_EACH (member, json_root(doc)) {
        json_w_keystr(&w, member->key);
        if (!str_eqs(member->key, "images") || member->type != JSON_ARRAY) {
            json_w_value(&w, member);
            continue;
        }
        json_w_arr(&w);
        JSON_EACH (image, member) {
            const struct image_programs *p = NULL;
            struct digest d;
            struct str text;
            json_w_obj(&w);
            JSON_EACH (field, image) {
                json_w_keystr(&w, field->key);
                json_w_value(&w, field);
                if (str_eqs(field->key, "digest") && json_str(field, &text) &&
                    digest_parse(text, &d, NULL) == 0) {
                    p = known(n, &d);
                }
            }
            if (p != NULL) {
                json_w_key(&w, "programs");
                image_programs_write(&w, p, false);
            }
            json_w_end(&w);
        }
        json_w_end(&w);
    }
    json_w_end(&w);
}
