/*
 * The node in its cluster: members come from gossip, what they say of themselves from the shared
 * table, and this node's own rows go there.
 *
 *   gossip ─ member ─> place (how it is reached), table, core
 *   table ─ capability, load, image ─> core          job ─> store of documents
 *   this node ─ capability (start), load (a second), images (when they change), jobs (applied)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/node/node_rows.h"
#include "agent/node/uv_node_events.h"
#include "agent/node/uv_node_internal.h"
#include "agent/node/uv_node_triggers.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"
#include "common/version.h"

enum {
    ROW_MAX = 1024 * 1024,
    CAPABILITY_MAX = 16 * 1024,
    READY_MAX = 4 * 1024,
    TAG_MAX = 4 * 1024,
    IMAGES_AGAIN_MS = 30 * 1000,
    PUBLISH_JOBS = 256, /* at a time */
    AGE_MAX_MS = 600 * 1000,
};

/* ---- what others say ---- */

static uint64_t age_of(const struct table_row_view *row)
{
    int64_t age = sys_wall_us() / 1000 - row->written_ms;

    return age < 0 ? 0 : age > AGE_MAX_MS ? AGE_MAX_MS : (uint64_t)age;
}

/* A peer to tell the core about; false: it is no live agent. */
static bool peer_of(const struct node *n, struct str owner, struct node_event *ev)
{
    const struct node_place *p = node_place_find(n, owner);

    if (p == NULL || !p->alive || p->hidden) {
        return false;
    }
    *ev = (struct node_event){ .type = NODE_EV_PEER,
                               .peer = { .name = p->name,
                                         .id32 = node_id_of(owner),
                                         .state =
                                             p->draining ? NODE_PEER_DRAINING : NODE_PEER_ALIVE } };
    return true;
}

static void load_came(struct node *n, const struct table_row_view *row)
{
    struct node_place *p = map_get(&n->place_names, row->owner);
    struct node_event ev;
    struct node_load l;

    if (p == NULL || node_load_parse(row->value, &l, NULL) != 0) {
        return;
    }
    if (p->draining != l.draining) {
        node_event_member(n, l.draining ? "draining" : "resumed", p->name);
    }
    p->draining = l.draining;
    if (peer_of(n, row->owner, &ev)) {
        ev.peer.has = NODE_PEER_HAS_LOAD;
        ev.peer.slots_free = l.slots_free;
        ev.peer.memory_free_bytes = l.memory_free_bytes;
        ev.peer.wait_us = l.wait_us;
        ev.peer.polluters = l.polluters;
        ev.peer.sensitive = l.sensitive;
        ev.peer.age_ms = age_of(row);
        node_feed(n, &ev);
    }
}

static void capability_came(struct node *n, const struct table_row_view *row)
{
    struct node_capability *c = mem_zalloc(sizeof(*c));
    struct node_event ev;

    if (c == NULL) {
        return; /* it comes again with the next member event */
    }
    if (peer_of(n, row->owner, &ev) && node_capability_parse(row->value, c, NULL) == 0) {
        ev.peer.has = NODE_PEER_HAS_FACTS;
        ev.peer.room = c->room;
        ev.peer.facts = c->facts;
        ev.peer.facts_len = c->facts_len;
        node_feed(n, &ev);
    }
    node_capability_release(c);
    mem_free(c);
}

static void images_came(struct node *n, const struct table_row_view *row)
{
    uint64_t images[READY_MAX / 16];
    struct node_event ev;

    if (row->key.n == 0 && peer_of(n, row->owner, &ev)) {
        ev.peer.has = NODE_PEER_HAS_IMAGES;
        ev.peer.images = images;
        ev.peer.images_len = node_ready_parse(row->value, images, ARRAY_LEN(images));
        node_feed(n, &ev);
    }
}

static void row_came(void *arg, const struct table_row_view *row, const struct table_row_view *old)
{
    struct node *n = arg;

    (void)old;
    if (row == NULL || n->closing || node_is_self(n, row->owner)) {
        return;
    }
    switch (row->type) {
    case TABLE_CAPABILITY:
        capability_came(n, row);
        return;
    case TABLE_LOAD:
        load_came(n, row);
        return;
    case TABLE_IMAGE:
        images_came(n, row);
        return;
    default:
        return;
    }
}

/* A member that came (again): what the table has of it. */
static void replay(struct node *n, struct str name)
{
    static const unsigned types[] = { TABLE_CAPABILITY, TABLE_LOAD, TABLE_IMAGE };
    struct table_row_view row;

    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (table_get(table_core(n->table), types[i], name, STR(""), &row)) {
            row_came(n, &row, NULL);
        }
    }
}

/* ---- members ---- */

static bool alive(enum gossip_state s)
{
    return s == GOSSIP_ALIVE || s == GOSSIP_SUSPECT;
}

static void place_read(struct node_place *p, const struct gossip_view *m)
{
    struct gossip_meta meta;
    const uint8_t *ip = m->addr.ip;
    uint8_t len = m->addr.len;

    *p = (struct node_place){ .state = gossip_state_name(m->state), .alive = alive(m->state) };
    (void)str_copy(p->name, sizeof(p->name), m->name);
    p->hidden = !m->ours || !gossip_meta_read(m->meta, &meta) || meta.http_port == 0;
    if (p->hidden) {
        return;
    }
    if (meta.http_ip_len != 0) {
        ip = meta.http_ip;
        len = meta.http_ip_len;
    }
    (void)inet_ntop(len == 4 ? AF_INET : AF_INET6, ip, p->host, sizeof(p->host));
    p->port = meta.http_port;
    p->tls = (meta.features & GOSSIP_FEATURE_TLS) != 0;
    p->draining = (meta.features & GOSSIP_FEATURE_DRAINING) != 0;
}

void node_on_member(struct node *n, enum gossip_change change, const struct gossip_view *m)
{
    struct node_place p;
    enum table_member state = change == GOSSIP_REAPED ? TABLE_MEMBER_REAPED
                              : alive(m->state)       ? TABLE_MEMBER_UP
                                                      : TABLE_MEMBER_DOWN;

    if (n->closing || m->self || m->name.n == 0 || m->name.n >= RUN_NODE_CAP) {
        return;
    }
    table_on_member(n->table, m->name, state, m->ours);
    if (change == GOSSIP_REAPED) {
        node_place_gone(n, m->name);
        return;
    }
    place_read(&p, m);
    const struct node_place *known = node_place_find(n, m->name);
    bool came = p.alive && (known == NULL || !known->alive);
    p.draining = p.draining || (known != NULL && known->alive && known->draining);
    node_place_set(n, &p);
    if (came) {
        replay(n, m->name);
    }
}

void node_on_message(struct node *n, struct str from, struct str bytes)
{
    if (!n->closing) {
        table_on_message(n->table, from, bytes);
    }
}

void node_set_sender(struct node *n, table_send_fn *send, void *arg)
{
    table_set_send(n->table, send, arg);
}

struct table_shell *node_table(struct node *n)
{
    return n->table;
}

/* ---- this node's rows ---- */

static void write_own(struct node *n, unsigned type, struct str key, struct str value)
{
    struct err e = { .code = 0 };
    unsigned dropped = 0;

    if (table_write_node(n->table, type, key, value, &e) != 0 &&
        log_limit_ok(&n->row_limit, loop_now_ms(n->loop), &dropped)) {
        log_warn("the cluster is not told: %s", err_text(&e));
    }
}

void node_cluster_capability(struct node *n)
{
    AUTO_BUF struct buf out = BUF_INIT(CAPABILITY_MAX);
    struct node_capability *c = mem_zalloc(sizeof(*c));

    if (c == NULL) {
        node_out_of_memory("the capability row");
    }
    c->room = *node_core_room(n->core);
    c->version = str_of(version_number);
    c->class_id = str_of(n->class_id);
    c->facts_len = n->route_facts_len;
    memcpy(c->facts, n->route_facts, n->route_facts_len * sizeof(c->facts[0]));
    node_capability_write(&out, c);
    mem_free(c);
    if (buf_error(&out) == 0) {
        write_own(n, TABLE_CAPABILITY, STR(""), buf_str(&out));
    }
}

static void publish_load(struct node *n)
{
    AUTO_BUF struct buf out = BUF_INIT(512);
    struct job_counts counts;
    struct node_peer self;

    node_core_load(n->core, &self);
    job_core_counts(node_core_jobs(n->core), &counts);
    const struct node_load l = {
        .slots_free = self.slots_free,
        .memory_free_bytes = self.memory_free_bytes,
        .wait_us = self.wait_us,
        .polluters = self.polluters,
        .sensitive = self.sensitive,
        .running = (unsigned)node_running(n),
        .active = node_core_slots_used(n->core),
        .queued = (unsigned)counts.queued,
        .draining = self.state == NODE_PEER_DRAINING,
    };
    node_load_write(&out, &l);
    write_own(n, TABLE_LOAD, STR(""), buf_str(&out));
}

/* Which images could start at once. */
static void publish_ready(struct node *n)
{
    AUTO_BUF struct buf out = BUF_INIT(READY_MAX);
    uint64_t images[READY_MAX / 16];
    size_t len = 0;

    LIST_EACH (pos, &n->images) {
        const struct node_image *img = LIST_ITEM(pos, struct node_image, link);
        if (img->state == NODE_IMAGE_READY && len < ARRAY_LEN(images)) {
            images[len++] = node_image_hash(&img->resolved->digest);
        }
    }
    node_ready_write(&out, images, len, READY_MAX);
    write_own(n, TABLE_IMAGE, STR(""), buf_str(&out));
}

/* Own rows of tags that are not here any more. */
static void tags_forget(struct node *n, const struct json *images)
{
    struct table_walk walk = { .type = TABLE_IMAGE, .owner = str_of(n->settings.node.name) };
    struct table_row_view row;
    char gone[64][TABLE_KEY_MAX + 1];
    size_t len = 0;

    while (len < ARRAY_LEN(gone) && table_next(table_core(n->table), &walk, &row)) {
        bool here = row.key.n == 0;
        for (const struct json *i = images->child; i != NULL && !here; i = i->next) {
            struct str repository;
            struct str tag;
            char key[TABLE_KEY_MAX + 1];
            here = json_str(json_get(i, "repository"), &repository) &&
                   json_str(json_get(i, "tag"), &tag) &&
                   snprintf(key, sizeof(key), "%.*s:%.*s", STR_ARG(repository), STR_ARG(tag)) > 0 &&
                   str_eqs(row.key, key);
        }
        if (!here && str_copy(gone[len], sizeof(gone[len]), row.key) == 0) {
            len++;
        }
    }
    for (size_t i = 0; i < len; i++) {
        (void)table_remove(n->table, TABLE_IMAGE, str_of(gone[i]), NULL, NULL, NULL);
    }
}

static void on_images(void *arg, int status, struct str text, const struct err *e)
{
    struct node *n = arg;
    AUTO_JSON struct json_doc *doc = NULL;

    (void)e;
    n->listing = false;
    if (n->closing || status != 0 || json_parse(text.p, text.n, NULL, &doc, NULL) != 0) {
        return;
    }
    const struct json *images = json_get(json_root(doc), "images");
    if (images == NULL || images->type != JSON_ARRAY) {
        return;
    }
    tags_forget(n, images);
    JSON_EACH (i, images) {
        AUTO_BUF struct buf out = BUF_INIT(TAG_MAX);
        struct str repository;
        struct str tag;
        struct str digest;
        struct str at;
        struct node_tag t = { .pushed_us = 0 };
        char key[TABLE_KEY_MAX + 1];
        if (!json_str(json_get(i, "repository"), &repository) ||
            !json_str(json_get(i, "tag"), &tag) || tag.n == 0 ||
            !json_str(json_get(i, "digest"), &digest) ||
            digest_parse(digest, &t.digest, NULL) != 0 ||
            repository.n + tag.n + 1 > TABLE_KEY_MAX) {
            continue;
        }
        if (json_str(json_get(i, "pushed_at"), &at)) {
            (void)time_parse(at, &t.pushed_us);
        }
        (void)snprintf(key, sizeof(key), "%.*s:%.*s", STR_ARG(repository), STR_ARG(tag));
        const struct image_programs *programs = node_programs_get(n, &t.digest);
        t.has_programs = programs != NULL;
        if (programs != NULL) {
            t.programs = *programs;
        } else {
            node_programs_want(n, &t.digest);
            n->images_again_ms = 0; /* until all are looked at */
        }
        node_tag_write(&out, &t);
        write_own(n, TABLE_IMAGE, str_of(key), buf_str(&out));
    }
}

static void publish_images(struct node *n)
{
    struct image_store_stats st;
    uint64_t now = loop_now_ms(n->loop);

    image_store_stats(n->images_store, &st);
    uint64_t stamp = st.images * 31 + st.blobs * 7 + st.bytes + st.uploads_bytes_total;
    if (n->listing || (stamp == n->images_stamp && now < n->images_again_ms)) {
        return;
    }
    n->images_stamp = stamp;
    n->images_again_ms = now + IMAGES_AGAIN_MS;
    n->listing = image_store_list(n->images_store, on_images, n) == 0;
}

void node_cluster_look(struct node *n)
{
    node_programs_look(n);
    publish_load(n);
    publish_ready(n);
    publish_images(n);
}

/* The newest of what members say that this tag is. */
bool node_cluster_tag(const struct node *n, const char *repository, const char *tag,
                      struct digest *ret)
{
    struct table_walk walk = { .type = TABLE_IMAGE };
    struct table_row_view row;
    char key[2 * TABLE_KEY_MAX];
    struct node_tag best = { .pushed_us = -1 };
    struct node_tag t;

    (void)snprintf(key, sizeof(key), "%s:%s", repository, tag);
    while (table_next(table_core(n->table), &walk, &row)) {
        if (str_eqs(row.key, key) && node_tag_parse(row.value, &t, NULL) == 0 &&
            (t.pushed_us > best.pushed_us ||
             (t.pushed_us == best.pushed_us && memcmp(t.digest.b, best.digest.b, 32) > 0))) {
            best = t;
        }
    }
    *ret = best.digest;
    return best.pushed_us >= 0;
}

/* ---- who could look after something ---- */

size_t node_live_ids(const struct node *n, uint32_t *ids, size_t cap)
{
    size_t len = 0;

    REQUIRE(cap > 0);
    if (!n->draining) {
        ids[len++] = n->id32;
    }
    LIST_EACH (pos, &n->places) {
        const struct node_place *p = LIST_ITEM(pos, struct node_place, link);
        if (len < cap && p->alive && !p->hidden && !p->draining) {
            ids[len++] = node_id_of(str_of(p->name));
        }
    }
    return len;
}

/* ---- job documents ---- */

static void on_job_written(void *arg, int status)
{
    (void)arg;
    if (status != 0) {
        log_warn("a job's row is not durable yet: %s", err_name(status));
    }
}

void node_cluster_job_put(struct node *n, const struct job *job)
{
    AUTO_BUF struct buf out = BUF_INIT(ROW_MAX);
    struct err e = { .code = 0 };

    node_job_row_write(&out, job);
    if (buf_error(&out) != 0 || table_write(n->table, TABLE_JOB, str_of(job->name), buf_str(&out),
                                            on_job_written, n, &e) != 0) {
        log_error("the cluster does not hear of job '%s': %s", job->name, err_text(&e));
    }
}

void node_cluster_job_deleted(struct node *n, const char *name)
{
    (void)table_remove(n->table, TABLE_JOB, str_of(name), on_job_written, n, NULL);
}

static void on_taken(void *arg, int status, const struct job *job, bool created, bool changed)
{
    struct node *n = arg;

    (void)created;
    if (status != 0) {
        log_error("a job of another node could not be stored: %s", err_name(status));
        return;
    }
    if (!changed || n->closing) {
        return;
    }
    struct job_event ev = { .type = JOB_EV_JOB,
                            .job = job->name,
                            .concurrency = job->policy.concurrency };
    node_docs_drop(&n->jobs, str_of(job->name));
    node_feed_job(n, &ev);
    node_triggers_job(n, job);
    node_event_job(n, "applied", job->name, job->revision);
    log_info("job '%s' is at revision %u", job->name, job->revision);
}

struct forgetting {
    struct node *node;
    char name[RUN_JOB_CAP];
};

static void on_forgotten(void *arg, int status)
{
    struct forgetting *f = arg;

    if (status == 0 && !f->node->closing) {
        node_docs_drop(&f->node->jobs, str_of(f->name));
        node_triggers_drop(f->node, str_of(f->name));
        telemetry_forget_job(f->node->metrics, f->name);
        node_event_job(f->node, "deleted", f->name, 0);
        log_info("job '%s' is deleted", f->name);
    }
    mem_free(f);
}

static void job_take(struct node *n, const struct table_row_view *row)
{
    struct job *job = NULL;
    struct err e = { .code = 0 };

    if (node_job_row_parse(row->key, row->value, &job, &e) != 0) {
        log_warn("a job's row from '%.*s' makes no sense: %s", STR_ARG(row->writer), err_text(&e));
        return;
    }
    node_asked(job_store_take_job(n->store, job, on_taken, n));
    job_free(job);
}

static void job_came(void *arg, const struct table_row_view *row, const struct table_row_view *old)
{
    struct node *n = arg;
    const struct table_row_view *which = row != NULL ? row : old;

    if (n->closing || which == NULL || (row != NULL && node_is_self(n, row->writer)) ||
        !job_name_ok(which->key)) {
        return;
    }
    if (row != NULL) {
        job_take(n, row);
        return;
    }
    struct forgetting *f = mem_zalloc(sizeof(*f));
    if (f == NULL) {
        node_out_of_memory("a deletion");
    }
    f->node = n;
    (void)str_copy(f->name, sizeof(f->name), old->key);
    node_asked(job_store_delete_job(n->store, old->key, 0, on_forgotten, f));
}

/* At the start: jobs that the table does not know (from before there was one) go there. */
static void on_own_jobs(void *arg, int status, const struct job *const *jobs, size_t len, bool more)
{
    struct node *n = arg;

    for (size_t i = 0; status == 0 && !n->closing && i < len; i++) {
        if (!table_get(table_core(n->table), TABLE_JOB, STR(""), str_of(jobs[i]->name), NULL)) {
            node_cluster_job_put(n, jobs[i]);
        }
    }
    if (status == 0 && more && len != 0 && !n->closing) {
        node_asked(job_store_list_jobs(n->store, str_of(jobs[len - 1]->name), PUBLISH_JOBS,
                                       on_own_jobs, n));
    }
}

void node_cluster_ready(struct node *n)
{
    struct table_walk walk = { .type = TABLE_JOB };
    struct table_row_view row;

    node_asked(job_store_list_jobs(n->store, STR(""), PUBLISH_JOBS, on_own_jobs, n));
    while (table_next(table_core(n->table), &walk, &row)) {
        job_take(n, &row); /* what came while the store was away */
    }
}

/* ---- start ---- */

int node_cluster_start(struct node *n, struct err *e)
{
    static const unsigned types[] = { TABLE_CAPABILITY, TABLE_LOAD, TABLE_IMAGE };
    char dir[SETTINGS_PATH_MAX + 16];
    struct table_options opt = {
        .loop = n->loop, .dir = dir, .name = str_of(n->settings.node.name), .node_id = n->id32
    };

    (void)snprintf(dir, sizeof(dir), "%s/db", n->settings.node.data_dir);
    int rc = table_start(&opt, &n->table, e);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(types); i++) {
        rc = table_watch(n->table, types[i], row_came, n);
    }
    rc = rc == 0 ? table_watch(n->table, TABLE_JOB, job_came, n) : rc;
    return rc == 0 ? node_tokens_start(n) : rc;
}
