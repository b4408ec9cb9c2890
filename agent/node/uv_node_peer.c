/* How peers are reached, and what they ask of us. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/node/uv_node_copy.h"
#include "agent/node/uv_node_events.h"
#include "agent/node/uv_node_internal.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    LOOK_MS = 250,
    STREAMS_PER_HOST = 256,
    ANSWER_MAX = 256 * 1024,
    FETCH_PIECE = 256 * 1024,
};

/* ---- places ---- */

const struct node_place *node_place_find(const struct node *n, struct str name)
{
    return map_get(&n->place_names, name);
}

static void core_told(struct node *n, const struct node_place *p, enum node_peer_state state)
{
    struct node_event ev = {
        .type = NODE_EV_PEER,
        .peer = { .name = p->name, .id32 = node_id_of(str_of(p->name)), .state = state }
    };

    node_feed(n, &ev);
}

/* What the feed says of a member that is seen in another way than before (NULL: for the first
 * time). */
static void feed_member(struct node *n, const struct node_place *was, const struct node_place *is)
{
    bool here = was != NULL && was->alive;

    if (is->alive && !here) {
        node_event_member(n, "joined", is->name);
    } else if (!is->alive && here) {
        node_event_member(n, strcmp(is->state, "left") == 0 ? "left" : "failed", is->name);
    }
}

void node_place_set(struct node *n, const struct node_place *p)
{
    struct node_place *mine = map_get(&n->place_names, str_of(p->name));
    bool came = p->alive && (mine == NULL || !mine->alive);

    feed_member(n, mine, p);

    if (mine == NULL) {
        mine = mem_zalloc(sizeof(*mine));
        if (mine == NULL) {
            node_out_of_memory("a member");
        }
        (void)str_copy(mine->name, sizeof(mine->name), str_of(p->name));
        list_push_back(&n->places, &mine->link);
        if (map_add(&n->place_names, str_of(mine->name), mine) != 0) {
            node_out_of_memory("a member");
        }
    }
    struct list link = mine->link;
    bool went = mine->alive && !p->alive;
    uint64_t gone_ms = mine->alive || mine->gone_ms == 0 ? loop_now_ms(n->loop) : mine->gone_ms;
    uint64_t asked_ms = mine->asked_ms;
    uint32_t id = node_id_of(str_of(p->name));
    *mine = *p;
    mine->link = link;
    mine->gone_ms = p->alive ? 0 : gone_ms;
    mine->asked_ms = came ? loop_now_ms(n->loop) : asked_ms;
    if (came) {
        node_guests_kick(n, mine->name);
    }
    if (!p->alive) {
        core_told(n, p, NODE_PEER_GONE);
        node_remote_peer_gone(n, p->name);
        if (went && !p->hidden) {
            node_copy_member(n, id, false);
            if (p->state == NULL || strcmp(p->state, "left") != 0) {
                node_heir_gone(n, id);
            }
        }
    } else if (!p->hidden) {
        core_told(n, p, p->draining ? NODE_PEER_DRAINING : NODE_PEER_ALIVE);
        if (came) {
            node_copy_member(n, id, true);
            node_holder_check(n, p->name);
        }
    }
}

void node_place_gone(struct node *n, struct str name)
{
    struct node_place *p = map_remove(&n->place_names, name);

    if (p == NULL) {
        return;
    }
    core_told(n, p, NODE_PEER_GONE);
    node_remote_peer_gone(n, p->name);
    list_remove(&p->link);
    mem_free(p);
}

uint32_t node_id_of(struct str name)
{
    struct digest d = { .algo = DIGEST_NONE };

    INSIST(digest_of(DIGEST_SHA256, name.p, name.n, &d) == 0);
    return (uint32_t)d.b[0] << 24 | (uint32_t)d.b[1] << 16 | (uint32_t)d.b[2] << 8 | d.b[3];
}

bool node_target(const struct node *n, struct str name, struct http_target *ret)
{
    const struct node_place *p = node_place_find(n, name);

    if (p == NULL || p->port == 0) {
        return false;
    }
    /* Its certificate must be for its name. */
    *ret = (struct http_target){
        .host = p->host, .port = p->port, .tls = n->opt.tls, .tls_name = p->name
    };
    return true;
}

void node_identify(const struct node *n, struct http_call *call)
{
    http_call_header(call, "Agent-Node", n->settings.node.name);
}

/* ---- questions to peers ---- */

struct node_call {
    struct list link;
    struct node *node;
    struct http_call *http; /* NULL: it failed before it began */
    struct loop_defer defer;
    struct buf answer;
    struct buf body;   /* to ourselves */
    enum node_ask ask; /* the same */
    node_call_fn *fn;
    void *arg;
};

static void call_free(struct node_call *c)
{
    loop_defer_cancel(&c->defer);
    list_remove(&c->link);
    buf_release(&c->answer);
    buf_release(&c->body);
    mem_free(c);
}

static void call_data(void *arg, struct http_call *call, struct str data)
{
    struct node_call *c = arg;

    (void)call;
    (void)buf_addstr(&c->answer, data);
}

/* Failures that say: no byte of it was read there. */
static bool never_came(int rc)
{
    return rc == -ECONNREFUSED || rc == -EHOSTUNREACH || rc == -ENETUNREACH || rc == -EAGAIN ||
           rc == -EACCES || rc == -ENOTCONN;
}

static void call_done(void *arg, struct http_call *call, int rc, int status, const char *why)
{
    struct node_call *c = arg;
    char refusal[256];
    struct node_call_end end = { .rc = rc, .status = status, .text = buf_str(&c->answer) };

    (void)call;
    c->http = NULL;
    end.why = why != NULL ? why : "";
    if (rc == 0 && status != 200) {
        end.rc = -EREMOTEIO;
        end.never = true; /* every refusal is one before anything was taken */
        (void)snprintf(refusal, sizeof(refusal), "it answered %d: %.200s", status,
                       buf_cstr(&c->answer));
        end.why = refusal;
    } else if (rc != 0) {
        end.never = never_came(rc);
    }
    if (!c->node->closing) {
        c->fn(c->arg, &end);
    }
    call_free(c);
}

static void call_unreachable(struct loop_defer *d)
{
    struct node_call *c = CONTAINER_OF(d, struct node_call, defer);
    struct node_call_end end = { .rc = -ENOTCONN, .never = true, .why = "no address is known" };

    if (!c->node->closing) {
        c->fn(c->arg, &end);
    }
    call_free(c);
}

/* A run that was taken over by the node that executes it: its reports need no network. */
static void self_answered(void *arg, const struct node_error *error, struct str text)
{
    struct node_call *c = arg;
    struct node_call_end end = { .status = 200, .text = text, .why = "" };

    if (error != NULL) {
        end = (struct node_call_end){ .rc = -EREMOTEIO,
                                      .status = node_code_status(error->code),
                                      .never = true,
                                      .why = error->detail };
    }
    if (!c->node->closing) {
        c->fn(c->arg, &end);
    }
    call_free(c);
}

static void ask(struct node *n, struct node_query *q, enum node_ask what, struct str from,
                struct str body);

static void call_self(struct loop_defer *d)
{
    struct node_call *c = CONTAINER_OF(d, struct node_call, defer);
    struct node *n = c->node;

    if (n->closing) {
        call_free(c);
        return;
    }
    ask(n, node_query_new(n, self_answered, c), c->ask, str_of(n->settings.node.name),
        buf_str(&c->body));
}

/* The questions that a node may have for itself. */
static bool is_for_self(struct node_call *c, const char *target, const struct buf *body)
{
    static const struct {
        const char *target;
        enum node_ask ask;
    } asks[] = { { "/v1/peer/started", NODE_ASK_STARTED },
                 { "/v1/peer/end", NODE_ASK_END },
                 { "/v1/peer/cancel", NODE_ASK_CANCEL } };

    for (size_t i = 0; i < ARRAY_LEN(asks); i++) {
        if (strcmp(target, asks[i].target) == 0) {
            c->ask = asks[i].ask;
            buf_init(&c->body, NODE_MSG_MAX);
            return buf_addstr(&c->body, buf_str(body)) == 0;
        }
    }
    return false;
}

struct node_call *node_call_post(struct node *n, const char *peer, const char *target,
                                 const struct buf *body, uint64_t deadline_ms, node_call_fn *fn,
                                 void *arg)
{
    static const struct http_call_events none = { .on_done = call_done };
    struct http_call_events events = none;
    struct node_call *c = mem_zalloc(sizeof(*c));
    struct http_target to;

    if (c == NULL || buf_error(body) != 0) {
        node_out_of_memory("a message to a peer");
    }
    *c = (struct node_call){ .node = n, .fn = fn, .arg = arg };
    buf_init(&c->answer, ANSWER_MAX);
    loop_defer_init(&c->defer, call_unreachable);
    list_push_back(&n->calls, &c->link);
    if (node_is_self(n, str_of(peer)) && is_for_self(c, target, body)) {
        loop_defer_init(&c->defer, call_self);
        loop_defer_post(n->loop, &c->defer);
        return c;
    }
    if (!node_target(n, str_of(peer), &to)) {
        loop_defer_post(n->loop, &c->defer);
        return c;
    }
    events.on_data = call_data;
    events.arg = c;
    c->http = http_call_new(n->http, &to, "POST", target, ANSWER_MAX, &events);
    if (c->http == NULL) {
        node_out_of_memory("a message to a peer");
    }
    node_identify(n, c->http);
    http_call_header(c->http, "Content-Type", "application/json");
    http_call_body(c->http, body->data, body->len);
    http_call_deadline(c->http, deadline_ms);
    http_call_send(c->http);
    return c;
}

struct node_call *node_call_cancel(struct node_call *c)
{
    if (c != NULL) {
        node_forget(c->node, c); /* what it asked of this node itself */
        c->http = http_call_cancel(c->http);
        call_free(c);
    }
    return NULL;
}

/* ---- a body into a file ---- */

struct node_fetch {
    struct node *node;
    struct http_call *http;
    struct loop_work work;
    struct loop_defer defer;
    int fd;
    int rc;
    bool done; /* all bytes came, or it failed */
    bool last; /* the work under way is the last */
    bool paused;
    bool cancelled; /* freed when the work is done */
    uint64_t left;
    struct buf fill, flush;
    char why[256];
    node_fetch_fn *fn;
    void *arg;
};

static void fetch_free(struct node_fetch *f)
{
    loop_defer_cancel(&f->defer);
    buf_release(&f->fill);
    buf_release(&f->flush);
    fd_close(f->fd);
    mem_free(f);
}

static void fetch_work(struct loop_work *w)
{
    struct node_fetch *f = CONTAINER_OF(w, struct node_fetch, work);

    f->rc = sys_write_full(f->fd, f->flush.data, f->flush.len);
    if (f->rc == 0 && f->last && fdatasync(f->fd) != 0) {
        f->rc = -errno;
    }
}

static void fetch_flushed(struct loop_work *w, int status);

static void fetch_flush(struct node_fetch *f)
{
    struct buf spare = f->flush;

    f->flush = f->fill;
    f->fill = spare;
    buf_reset(&f->fill);
    f->last = f->done;
    INSIST(loop_work_start(&f->work, &f->node->owner, fetch_work, fetch_flushed) == 0);
}

static void fetch_over(struct node_fetch *f, int rc)
{
    node_fetch_fn *fn = f->fn;
    void *arg = f->arg;
    char why[256];

    (void)str_copy(why, sizeof(why), str_of(f->why));
    f->http = http_call_cancel(f->http);
    fetch_free(f);
    fn(arg, rc, why);
}

static void fetch_flushed(struct loop_work *w, int status)
{
    struct node_fetch *f = CONTAINER_OF(w, struct node_fetch, work);

    if (f->cancelled || f->node->closing) {
        f->http = http_call_cancel(f->http);
        fetch_free(f);
        return;
    }
    if (status != 0 || f->rc != 0) {
        (void)snprintf(f->why, sizeof(f->why), "writing the payload: %s", err_name(f->rc));
        fetch_over(f, f->rc != 0 ? f->rc : status);
    } else if (f->last) {
        fetch_over(f, 0);
    } else if (f->done || f->fill.len >= FETCH_PIECE) {
        fetch_flush(f);
    } else if (f->http != NULL && f->paused) {
        f->paused = false;
        http_call_resume(f->http);
    }
}

static void fetch_data(void *arg, struct http_call *call, struct str data)
{
    struct node_fetch *f = arg;

    if (data.n > f->left || buf_addstr(&f->fill, data) != 0) {
        f->left = UINT64_MAX; /* not what was promised */
        return;
    }
    f->left -= data.n;
    if (f->fill.len < FETCH_PIECE) {
        return;
    }
    if (f->work.busy) {
        f->paused = true;
        http_call_pause(call);
    } else {
        fetch_flush(f);
    }
}

static void fetch_done(void *arg, struct http_call *call, int rc, int status, const char *why)
{
    struct node_fetch *f = arg;

    (void)call;
    f->http = NULL;
    if (f->node->closing) {
        f->cancelled = true;
    } else if (rc == 0 && status == 200 && f->left == 0) {
        f->done = true;
        if (!f->work.busy) {
            fetch_flush(f);
        }
        return;
    }
    (void)snprintf(f->why, sizeof(f->why), "%s (status %d)", why != NULL ? why : "not whole",
                   status);
    if (f->work.busy) {
        f->rc = rc != 0 ? rc : -EPROTO; /* seen when the work is done */
        f->done = f->last = true;
    } else if (f->cancelled) {
        fetch_free(f);
    } else {
        fetch_over(f, rc != 0 ? rc : -EPROTO);
    }
}

static void fetch_failed(struct loop_defer *d)
{
    struct node_fetch *f = CONTAINER_OF(d, struct node_fetch, defer);

    fetch_over(f, f->rc);
}

struct node_fetch *node_fetch_start(struct node *n, const char *peer, const char *target, int dirfd,
                                    const char *name, uint64_t bytes, node_fetch_fn *fn, void *arg)
{
    struct node_fetch *f = mem_zalloc(sizeof(*f));
    struct http_target to;

    if (f == NULL) {
        return NULL;
    }
    *f = (struct node_fetch){ .node = n, .left = bytes, .fn = fn, .arg = arg };
    buf_init(&f->fill, 64 * 1024 * 1024);
    buf_init(&f->flush, 64 * 1024 * 1024);
    loop_defer_init(&f->defer, fetch_failed);
    f->fd = node_file_new(dirfd, name);
    f->rc = f->fd < 0 ? f->fd : node_target(n, str_of(peer), &to) ? 0 : -ENOTCONN;
    if (f->rc != 0) {
        (void)snprintf(f->why, sizeof(f->why), "%s", err_name(f->rc));
        loop_defer_post(n->loop, &f->defer);
        return f;
    }
    const struct http_call_events events = { .on_data = fetch_data,
                                             .on_done = fetch_done,
                                             .arg = f };
    f->http = http_call_new(n->http_streams, &to, "GET", target, bytes, &events);
    if (f->http == NULL) {
        node_out_of_memory("a payload");
    }
    node_identify(n, f->http);
    http_call_send(f->http);
    return f;
}

struct node_fetch *node_fetch_cancel(struct node_fetch *f)
{
    if (f == NULL) {
        return NULL;
    }
    f->http = http_call_cancel(f->http);
    if (f->work.busy) {
        f->cancelled = true;
    } else {
        fetch_free(f);
    }
    return NULL;
}

/* ---- questions of peers ---- */

static void query_later(struct loop_defer *d)
{
    struct node_query *q = CONTAINER_OF(d, struct node_query, later);
    bool bad = q->error.code != NODE_OK;

    if (!q->forgotten) {
        q->fn.text(q->arg, bad ? &q->error : NULL, buf_str(&q->text));
    }
    list_remove(&q->link);
    buf_release(&q->text);
    mem_free(q);
}

struct node_query *node_query_new(struct node *n, node_text_fn *fn, void *arg)
{
    struct node_query *q = mem_zalloc(sizeof(*q));

    if (q == NULL) {
        node_out_of_memory("a question of a peer");
    }
    q->node = n;
    q->arg = arg;
    q->fn.text = fn;
    buf_init(&q->text, NODE_MSG_MAX);
    loop_defer_init(&q->later, query_later);
    list_push_back(&n->queries, &q->link);
    return q;
}

void node_query_text(struct node_query *q)
{
    loop_defer_post(q->node->loop, &q->later);
}

void node_query_say(struct node_query *q, enum node_says says)
{
    struct node_peer self;
    struct node_answer a = { .says = says };

    node_core_load(q->node->core, &self);
    a.slots_free = self.slots_free;
    a.memory_free_bytes = self.memory_free_bytes;
    a.wait_us = self.wait_us;
    node_answer_write(&q->text, &a);
    node_query_text(q);
}

void node_query_refuse(struct node_query *q, enum node_code code, const char *fmt, ...)
{
    va_list ap;

    q->error.code = code;
    q->error.retry_after_s = code == NODE_STARTING ? 1 : 0;
    va_start(ap, fmt);
    (void)vsnprintf(q->error.detail, sizeof(q->error.detail), fmt, ap);
    va_end(ap);
    node_query_text(q);
}

static void probed(struct node *n, struct node_query *q)
{
    struct node_peer self;

    node_core_load(n->core, &self);
    node_query_say(q, self.state == NODE_PEER_DRAINING ? NODE_SAYS_DRAINING
                      : self.slots_free == 0           ? NODE_SAYS_BUSY
                                                       : NODE_SAYS_TAKEN);
}

void node_peer_asks(struct node *n, enum node_ask ask_what, struct str from, struct str body,
                    node_text_fn *fn, void *arg)
{
    struct node_query *q = node_query_new(n, fn, arg);

    /* Nodes that start all at once need each other's word about copies before they are ready. */
    if ((!n->ready && ask_what < NODE_ASK_REPLICATE) || n->closing) {
        node_query_refuse(q, NODE_STARTING, "this node is starting");
        return;
    }
    if (node_is_self(n, from)) {
        node_query_refuse(q, NODE_CONFLICT, "two nodes have the name '%.*s'", STR_ARG(from));
        return;
    }
    ask(n, q, ask_what, from, body);
}

static void ask(struct node *n, struct node_query *q, enum node_ask what, struct str from,
                struct str body)
{
    switch (what) {
    case NODE_ASK_OFFER:
        node_guest_offered(n, q, from, body);
        return;
    case NODE_ASK_CANCEL:
        node_guest_cancelled(n, q, from, body);
        return;
    case NODE_ASK_CHECK:
        node_guest_checked(n, q, from, body);
        return;
    case NODE_ASK_STARTED:
        node_remote_said_started(n, q, from, body);
        return;
    case NODE_ASK_END:
        node_remote_said_ended(n, q, from, body);
        return;
    case NODE_ASK_PROBE:
        probed(n, q);
        return;
    case NODE_ASK_REPLICATE:
        node_holder_asked(n, q, from, body);
        return;
    case NODE_ASK_COPIES:
        node_holder_checked(n, q, from, body);
        return;
    case NODE_ASK_WHERE:
        node_holder_where(n, q, body);
        return;
    case NODE_ASK_CLAIM:
        node_claim_asked(n, q, body);
        return;
    }
    INSIST(false);
}

/* ---- start and end ---- */

void node_peers_init(struct node *n, uint64_t k0, uint64_t k1)
{
    map_init(&n->place_names, NODE_PEERS_MAX, k0, k1);
    map_init(&n->remotes, NODE_REMOTES_MAX, k0, k1);
    map_init(&n->guests, NODE_GUESTS_MAX, k0, k1);
    map_init(&n->copy_ids, NODE_COPIES_MAX, k0, k1);
}

int node_peers_start(struct node *n, struct err *e)
{
    const struct http_client_options streams = { .per_host_max = STREAMS_PER_HOST };
    int rc = http_client_start(n->loop, NULL, &n->http, e);

    if (rc == 0) {
        rc = http_client_start(n->loop, &streams, &n->http_streams, e);
    }
    if (rc == 0) {
        n->identity[0] = (struct image_header){ "Agent-Node", n->settings.node.name };
        n->identity_len = 1;
        loop_timer_start(&n->peers, LOOK_MS, LOOK_MS);
    }
    return rc;
}

void node_peers_look(struct node *n)
{
    uint64_t now = loop_now_ms(n->loop);

    if (n->returned_ms != 0 && n->returned_ms != UINT64_MAX && !n->closing) {
        node_heir_return(n);
    }
    if (!n->ready || n->closing) {
        return;
    }
    node_heir_look(n);
    node_copy_look(n);
    node_guests_look(n);
    node_cluster_look(n);
    node_images_again(n);
    if (now >= n->check_ms) {
        n->check_ms = now + NODE_CHECK_MS;
        node_remote_look(n);
    }
}

void node_peers_free(struct node *n)
{
    while (!list_empty(&n->calls)) {
        (void)node_call_cancel(LIST_ITEM(n->calls.next, struct node_call, link));
    }
    node_copies_free(n);
    node_senders_free(n);
    node_heirs_free(n);
    node_claims_free(n);
    node_remote_free_all(n);
    node_guests_free(n);
    while (!list_empty(&n->places)) {
        struct node_place *p = LIST_ITEM(n->places.next, struct node_place, link);
        list_remove(&p->link);
        mem_free(p);
    }
    map_release(&n->place_names);
    map_release(&n->remotes);
    map_release(&n->guests);
}

/* ---- what the API needs to know ---- */

bool node_member_next(const struct node *n, size_t *pos, struct node_member *ret)
{
    const struct node_place *p = map_next(&n->place_names, pos);

    if (p == NULL) {
        return false;
    }
    bool v6 = strchr(p->host, ':') != NULL;
    *ret = (struct node_member){ .name = p->name,
                                 .state = p->state != NULL ? p->state : "alive",
                                 .alive = p->alive,
                                 .hidden = p->hidden };
    (void)snprintf(ret->address, sizeof(ret->address), v6 ? "[%s]:%u" : "%s:%u", p->host, p->port);
    return true;
}

struct http_client *node_http(struct node *n)
{
    return n->http_streams;
}

int node_output_open(const struct node *n, struct ulid id, uint32_t attempt,
                     struct sandbox_output **ret, struct err *e)
{
    int rc = sandbox_output_open(n->runs_fd, id, attempt, ret, e);

    return rc == -ENOENT ? sandbox_output_open(n->outputs_fd, id, attempt, ret, e) : rc;
}

bool node_run_is_elsewhere(struct node *n, struct ulid id, uint32_t attempt,
                           char dst[NODE_NAME_CAP])
{
    const struct node_remote *r =
        map_get(&n->remotes, (struct str){ (const char *)id.b, sizeof(id.b) });

    if (r == NULL || r->state != REMOTE_HELD || (attempt != 0 && r->attempt != attempt)) {
        return false;
    }
    (void)str_copy(dst, NODE_NAME_CAP, str_of(r->peer));
    return true;
}

bool node_run_owner(struct node *n, struct ulid id, char dst[NODE_NAME_CAP])
{
    const struct node_place *p = node_place_by_id(n, ulid_node(id));

    if (p == NULL || ulid_node(id) == n->id32) {
        return false;
    }
    (void)str_copy(dst, NODE_NAME_CAP, str_of(p->name));
    return true;
}

/* ---- payloads out, outputs in ---- */

/* The remote that a peer has of ours, whichever attempt is the present one. */
static struct node_remote *held_by(struct node *n, struct str from, struct ulid id)
{
    struct node_remote *r = map_get(&n->remotes, (struct str){ (const char *)id.b, sizeof(id.b) });

    return r != NULL && str_eqs(from, r->peer) ? r : NULL;
}

int node_peer_payload(struct node *n, struct str from, struct ulid id, uint64_t *ret_bytes)
{
    char name[ULID_TEXT_CAP];
    struct stat st;

    if (held_by(n, from, id) == NULL) {
        return -ENOENT;
    }
    AUTO_FD int fd = openat(n->spool_fd, node_id_text(id, name), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) != 0) {
        return -errno;
    }
    *ret_bytes = (uint64_t)st.st_size;
    return fd_take(&fd);
}

static bool is_file(struct str file)
{
    for (size_t i = 0; i < NODE_FILES; i++) {
        if (str_eqs(file, node_file_names[i])) {
            return true;
        }
    }
    return false;
}

enum node_code node_peer_may_copy(struct node *n, struct str file, uint64_t bytes,
                                  struct node_error *ret)
{
    const struct settings *s = &n->settings;
    bool payload = str_eqs(file, "payload");
    struct node_error e = { .code = NODE_OK };

    if ((!payload && !is_file(file)) ||
        bytes > (payload ? s->http.max_body_bytes
                         : s->sandbox.output_bytes + s->sandbox.log_bytes + 64 * 1024 * 1024)) {
        e.code = NODE_CONFLICT;
        (void)snprintf(e.detail, sizeof(e.detail), "not such a file here");
    } else if (job_store_is_full(n->store)) {
        e.code = NODE_DISK_FULL;
        (void)snprintf(e.detail, sizeof(e.detail), "the disk of this node is full");
    }
    *ret = e;
    return e.code;
}

enum node_code node_peer_may_put(struct node *n, struct str from, struct ulid id, uint32_t attempt,
                                 struct str file, uint64_t bytes, struct node_error *ret)
{
    const struct node_remote *r = held_by(n, from, id);
    const struct settings_sandbox *s = &n->settings.sandbox;
    uint64_t most = s->output_bytes + s->log_bytes + 64 * 1024 * 1024;
    struct node_error e = { .code = NODE_OK };

    if (!n->ready) {
        e.code = NODE_STARTING;
        (void)snprintf(e.detail, sizeof(e.detail), "this node is starting");
    } else if (r == NULL || r->attempt != attempt) {
        e.code = NODE_CONFLICT;
        (void)snprintf(e.detail, sizeof(e.detail), "this attempt is not yours (any more)");
    } else if (!is_file(file) || bytes > most) {
        e.code = NODE_CONFLICT;
        (void)snprintf(e.detail, sizeof(e.detail), "not such a file here: '%.64s'",
                       file.n != 0 ? file.p : "");
    } else if (job_store_is_full(n->store)) {
        e.code = NODE_DISK_FULL;
        (void)snprintf(e.detail, sizeof(e.detail), "the disk of this node is full");
    }
    *ret = e;
    return e.code;
}

int node_peer_put(struct node *n, struct str from, struct ulid id, uint32_t attempt,
                  struct str file, const char *spool_name)
{
    const struct node_remote *r = held_by(n, from, id);
    char dir[SANDBOX_DIR_CAP];
    char name[32];
    int rc = -ESTALE;

    if (r != NULL && r->attempt == attempt && is_file(file) &&
        str_copy(name, sizeof(name), file) == 0) {
        sandbox_dir_name(id, attempt, dir);
        rc = node_output_move(n->outputs_fd, dir, name, n->spool_fd, spool_name);
    }
    if (rc != 0) {
        node_spool_remove(n->spool_fd, spool_name);
    }
    return rc;
}
