/*
 * One sender per holder. What is to be told waits in its queue while a message is under way, and
 * goes as one: the busier, the larger the messages (group commit, as the store's).
 *
 *   marked ─> queue ─┬─ large files ahead (PUT /v1/peer/copy), one after the other ─> queue
 *                    └─ POST /v1/peer/replicate ─> kept │ wanted: again, whole │ refused │ later
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "agent/node/uv_node_copy.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    LATE_MS = 20,      /* that a run was placed, or runs, waits so long for company */
    AGAIN_MS = 250,    /* after a failure */
    AHEAD = 32 * 1024, /* outputs and logs up to this go inside the message */
    PUT_ANSWER_MAX = 4096,
};

struct sender {
    struct list link;
    struct node *node;
    uint32_t id;
    struct list queue; /* struct node_held */
    struct node_call *call;
    struct http_call *put;
    struct ulid putting; /* the run whose file is under way */
    unsigned put_bit;
    uint64_t not_before_ms;
    size_t batch_len;
    struct ulid batch[NODE_COPY_BATCH_MAX];
};

static struct sender *sender_of(struct node *n, uint32_t id)
{
    LIST_EACH (pos, &n->senders) {
        struct sender *s = LIST_ITEM(pos, struct sender, link);
        if (s->id == id) {
            return s;
        }
    }
    struct sender *s = mem_zalloc(sizeof(*s));
    if (s == NULL) {
        node_out_of_memory("a sender of copies");
    }
    s->node = n;
    s->id = id;
    list_init(&s->queue);
    list_push_back(&n->senders, &s->link);
    return s;
}

void node_send_mark(struct node_held *h, bool soon)
{
    struct node *n = h->copy->node;

    h->dirty = true;
    if (!h->sending && list_empty(&h->link)) {
        list_push_back(&sender_of(n, h->id)->queue, &h->link);
    }
    if (soon) {
        loop_defer_post(n->loop, &n->send);
    } else if (!loop_timer_active(&n->send_late)) {
        loop_timer_start(&n->send_late, LATE_MS, 0);
    }
}

void node_send_unmark(struct node_held *h)
{
    list_remove(&h->link);
    h->dirty = false;
    h->sending = false;
}

static struct node_held *held_of(struct sender *s, struct ulid id)
{
    struct node_copy *c = node_copy_find(s->node, id);

    return c != NULL ? node_copy_held(c, s->id) : NULL;
}

/* ---- large files, ahead of the record ---- */

/* The files that do not fit inside: a bit each, as in node_held. */
static unsigned ahead_of(const struct node_held *h)
{
    const struct node_copy *c = h->copy;
    uint64_t out = c->output_bytes + c->log_bytes;
    unsigned bits = 0;

    if (c->gone) {
        return 0;
    }
    if (!h->has && c->payload_bytes > NODE_COPY_PAYLOAD_MAX) {
        bits |= 1;
    }
    if (c->ended && out > AHEAD && out <= c->node->settings.store.replicate_output_bytes) {
        bits |= ((1u << NODE_FILES) - 1) << 1;
    }
    return bits & ~h->files;
}

static int open_ahead(struct sender *s, const struct node_copy *c, unsigned bit, uint64_t *ret)
{
    struct node *n = s->node;
    char dir[SANDBOX_DIR_CAP];
    char id[ULID_TEXT_CAP];
    struct stat st;

    if (bit != 0) {
        sandbox_dir_name(c->id, c->attempt, dir);
        int fd = node_output_file(n->runs_fd, dir, node_file_names[bit - 1], ret);
        return fd == -ENOENT ? node_output_file(n->outputs_fd, dir, node_file_names[bit - 1], ret)
                             : fd;
    }
    AUTO_FD int fd =
        openat(n->spool_fd, node_id_text(c->id, id), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) != 0) {
        return -errno;
    }
    *ret = (uint64_t)st.st_size;
    return fd_take(&fd);
}

static void on_put(void *arg, struct http_call *call, int rc, int status, const char *why)
{
    struct sender *s = arg;
    struct node *n = s->node;

    (void)call;
    s->put = NULL;
    if (n->closing) {
        return;
    }
    struct node_held *h = held_of(s, s->putting);
    bool done = rc == 0 && status == 200;
    if (!done) {
        s->not_before_ms = loop_now_ms(n->loop) + AGAIN_MS;
        log_debug("a run's file does not reach its holder: %s (status %d)",
                  why != NULL ? why : "refused", status);
    }
    if (h != NULL && h->sending) {
        h->sending = false;
        h->files |= done ? 1u << s->put_bit : 0;
        if (done) {
            node_send_mark(h, true);
        } else {
            node_copy_failed(h);
        }
    }
    loop_defer_post(n->loop, &n->send);
}

static void put(struct sender *s, struct node_held *h, unsigned bits)
{
    struct node *n = s->node;
    struct http_target to;
    char id[ULID_TEXT_CAP];
    char target[128];
    uint64_t bytes = 0;
    unsigned bit = 0;

    while ((bits & 1u << bit) == 0) {
        bit++;
    }
    AUTO_FD int fd = open_ahead(s, h->copy, bit, &bytes);
    const char *name = node_core_peer_name(n->core, s->id);
    if (fd < 0 || bytes == 0 || name == NULL || !node_target(n, str_of(name), &to)) {
        h->files |= 1u << bit; /* there is no such file: nothing to be sent */
        node_send_mark(h, true);
        return;
    }
    (void)snprintf(target, sizeof(target), "/v1/peer/copy/%s?attempt=%u&file=%s",
                   node_id_text(h->copy->id, id), h->copy->attempt,
                   bit == 0 ? "payload" : node_file_names[bit - 1]);
    const struct http_call_events events = { .on_done = on_put, .arg = s };
    s->put = http_call_new(n->http_streams, &to, "PUT", target, PUT_ANSWER_MAX, &events);
    if (s->put == NULL) {
        node_out_of_memory("a run's file");
    }
    s->putting = h->copy->id;
    s->put_bit = bit;
    h->sending = true;
    node_identify(n, s->put);
    http_call_header(s->put, "Content-Type", "application/octet-stream");
    http_call_body_file(s->put, fd_take(&fd), 0, bytes);
    http_call_send(s->put);
}

/* ---- what goes into a message ---- */

struct asking {
    struct node *node;
    struct ulid id;
};

static void on_document(void *arg, int status, const struct run *run, const struct job *spec)
{
    struct asking a = *(struct asking *)arg;
    struct node *n = a.node;
    struct node_copy *c = n->closing ? NULL : node_copy_find(n, a.id);
    char key[ULID_TEXT_CAP];

    (void)run;
    mem_free(arg);
    if (c == NULL) {
        return;
    }
    c->asking = false;
    struct job *copy = status == 0 && spec != NULL ? job_dup(spec) : NULL;
    struct node_doc *doc = copy != NULL ? node_doc_new(copy) : NULL;
    if (doc == NULL) {
        log_warn("a run's document is not at hand for its holders: %s", err_name(status));
        return;
    }
    node_docs_put(&n->docs, str_of(node_id_text(a.id, key)), doc);
    node_doc_unref(doc);
    for (unsigned i = 0; i < c->n; i++) {
        if (c->to[i].dirty) {
            node_send_mark(&c->to[i], true);
        }
    }
}

static void ask_document(struct node_copy *c)
{
    struct asking *a = mem_alloc(sizeof(*a));

    if (a == NULL) {
        node_out_of_memory("a document");
    }
    *a = (struct asking){ .node = c->node, .id = c->id };
    c->asking = true;
    node_asked(job_store_get_run(c->node->store, c->id, on_document, a));
}

/* Record, document, payload. False: the document is being read. */
static bool add_whole(struct node_held *h, struct buf *out)
{
    struct node_copy *c = h->copy;
    struct node *n = c->node;
    AUTO_BUF struct buf spec = BUF_INIT(4 * JOB_DOCUMENT_MAX);
    AUTO_BUF struct buf payload = BUF_INIT(NODE_COPY_PAYLOAD_MAX);
    char id[ULID_TEXT_CAP];

    struct node_doc *doc = node_docs_get(&n->docs, str_of(node_id_text(c->id, id)));
    if (doc == NULL) {
        if (!c->asking) {
            ask_document(c);
        }
        return false;
    }
    job_to_text(doc->job, &spec);
    node_doc_unref(doc);
    if (c->payload_bytes != 0 && c->payload_bytes <= NODE_COPY_PAYLOAD_MAX) {
        (void)sys_read_file(n->spool_fd, id, NODE_COPY_PAYLOAD_MAX, &payload, NULL);
    }
    node_copy_add(out, c->id, NODE_COPY_FULL, buf_str(&c->record), buf_str(&spec),
                  buf_str(&payload), NULL);
    return true;
}

static void add_end(struct node_held *h, struct buf *out)
{
    struct node_copy *c = h->copy;
    struct node *n = c->node;
    struct node_bytes files[NODE_FILES] = { { NULL, 0 } };
    bool sent[NODE_FILES];
    char dir[SANDBOX_DIR_CAP];
    uint64_t bytes = c->output_bytes + c->log_bytes;
    bool inside = bytes != 0 && bytes <= AHEAD && bytes <= n->settings.store.replicate_output_bytes;

    if (inside) {
        sandbox_dir_name(c->id, c->attempt, dir);
        (void)node_output_gather(n->runs_fd, dir, files, sent);
        if (files[0].p == NULL && files[1].p == NULL) {
            (void)node_output_gather(n->outputs_fd, dir, files, sent);
        }
    }
    node_copy_add(out, c->id, 0, buf_str(&c->record), STR(""), STR(""), inside ? files : NULL);
    for (size_t i = 0; i < NODE_FILES; i++) {
        mem_free(files[i].p);
    }
}

/* False: it waits for its document. */
static bool add(struct node_held *h, struct buf *out)
{
    struct node_copy *c = h->copy;

    if (c->gone) {
        node_copy_add(out, c->id, NODE_COPY_GONE, buf_str(&c->record), STR(""), STR(""), NULL);
    } else if (!h->has) {
        return add_whole(h, out);
    } else if (c->ended) {
        add_end(h, out);
    } else {
        node_copy_add(out, c->id, 0, buf_str(&c->record), STR(""), STR(""), NULL);
    }
    return true;
}

/* ---- sending ---- */

static void go(struct sender *s);

static void answered(struct sender *s, struct node_held *h, const struct node_copy_answer *a)
{
    struct node *n = s->node;

    h->sending = false;
    if (a != NULL && a->said == JOB_REPLICA_WANTED && !h->copy->gone) {
        h->has = false;
        h->files = 0;
        node_send_mark(h, true);
        return;
    }
    if (a != NULL && a->said == JOB_REPLICA_REFUSED) {
        struct run stands = a->stands;
        bool ours = run_owner(&stands) == n->id32;
        h->has = true;
        if (!ours) {
            node_heir_refused(n, &stands);
            h = held_of(s, stands.id); /* it may be forgotten now */
        }
        if (h == NULL) {
            return;
        }
    }
    if (h->copy->ended && !h->has && !h->copy->gone) {
        h->has = true; /* its end and its output follow */
        node_send_mark(h, true);
        return;
    }
    if (h->dirty) {
        h->has = true;
        node_send_mark(h, true);
        if (h->copy->run == NULL) {
            return;
        }
    }
    node_copy_acked(h);
}

static void on_replied(void *arg, const struct node_call_end *end)
{
    struct sender *s = arg;
    struct node *n = s->node;
    struct node_copy_answer *v = NULL;
    struct err e = { .code = 0 };
    size_t len = 0;
    int rc = end->rc;

    s->call = NULL;
    rc = rc == 0 ? node_copy_answer_parse(end->text, NODE_COPY_BATCH_MAX, &v, &len, &e) : rc;
    if (rc != 0) {
        s->not_before_ms = loop_now_ms(n->loop) + AGAIN_MS;
        log_debug("a holder did not take %zu records: %s", s->batch_len,
                  end->rc != 0 ? end->why : err_text(&e));
    }
    for (size_t i = 0; i < s->batch_len && !n->closing; i++) {
        struct node_held *h = held_of(s, s->batch[i]);
        const struct node_copy_answer *a = NULL;
        for (size_t k = 0; k < len && a == NULL; k++) {
            a = ulid_eq(v[k].id, s->batch[i]) ? &v[k] : NULL;
        }
        if (h == NULL || !h->sending) {
            continue;
        }
        if (rc != 0) {
            h->sending = false;
            node_copy_failed(h);
        } else {
            answered(s, h, a);
        }
    }
    s->batch_len = 0;
    mem_free(v);
    if (!n->closing) {
        go(s);
    }
}

static void go(struct sender *s)
{
    struct node *n = s->node;
    const struct node_place *p = node_place_by_id(n, s->id);
    uint64_t now = loop_now_ms(n->loop);
    AUTO_BUF struct buf body = BUF_INIT(NODE_MSG_MAX);

    if (s->call != NULL || list_empty(&s->queue) || p == NULL) {
        return;
    }
    if (now < s->not_before_ms) {
        if (!loop_timer_active(&n->send_late)) {
            loop_timer_start(&n->send_late, s->not_before_ms - now, 0);
        }
        return;
    }
    node_copy_begin(&body);
    struct list later;
    list_init(&later);
    while (!list_empty(&s->queue) && s->batch_len < NODE_COPY_BATCH_MAX &&
           body.len < NODE_COPY_BYTES_MAX) {
        struct node_held *h = LIST_ITEM(s->queue.next, struct node_held, link);
        unsigned ahead = ahead_of(h);
        list_remove(&h->link);
        if (ahead != 0 && s->put != NULL) {
            list_push_back(&later, &h->link);
        } else if (ahead != 0) {
            put(s, h, ahead);
        } else if (add(h, &body)) {
            h->dirty = false;
            h->sending = true;
            s->batch[s->batch_len++] = h->copy->id;
        }
    }
    while (!list_empty(&later)) {
        struct list *l = later.prev;
        list_remove(l);
        list_push_front(&s->queue, l);
    }
    if (s->batch_len != 0) {
        s->call = node_call_post(n, p->name, "/v1/peer/replicate", &body, NODE_COPY_ANSWER_MS,
                                 on_replied, s);
    }
}

void node_send_all(struct loop_defer *d)
{
    struct node *n = CONTAINER_OF(d, struct node, send);

    LIST_EACH (pos, &n->senders) {
        if (!n->closing) {
            go(LIST_ITEM(pos, struct sender, link));
        }
    }
}

void node_send_late(struct loop_timer *t)
{
    struct node *n = CONTAINER_OF(t, struct node, send_late);

    if (!n->closing) {
        loop_defer_post(n->loop, &n->send);
    }
}

void node_send_kick(struct node *n, uint32_t holder)
{
    sender_of(n, holder)->not_before_ms = 0;
    loop_defer_post(n->loop, &n->send);
}

void node_senders_free(struct node *n)
{
    while (!list_empty(&n->senders)) {
        struct sender *s = LIST_ITEM(n->senders.next, struct sender, link);
        s->put = http_call_cancel(s->put);
        list_remove(&s->link);
        mem_free(s);
    }
}
