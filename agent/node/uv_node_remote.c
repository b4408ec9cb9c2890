/*
 * Runs of ours that peers have: offers, what comes back, what becomes of them when a peer goes.
 *
 *   offered ─ taken ─────────> held ─ started, ended ─> its end is durable: the peer may forget it
 *      │                         ├─ the peer is gone, or does not know it: lost
 *      ├─ refused ─> the next    └─ cancelled: told until it ends
 *      └─ no answer ─> lost; whoever took it after all is told so when it reports
 */
#include <errno.h>
#include <stdio.h>

#include "agent/node/uv_node_internal.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { CANCEL_MS = 3000, CHECK_ANSWER_MS = 3000 };

static struct str id_key(const struct ulid *id)
{
    return (struct str){ (const char *)id->b, sizeof(id->b) };
}

static struct node_remote *remote_find(const struct node *n, struct ulid id)
{
    return map_get(&n->remotes, id_key(&id));
}

static struct node_remote *remote_new(struct node *n, const struct run *run, const char *peer)
{
    struct node_remote *r = mem_zalloc(sizeof(*r));

    if (r == NULL) {
        node_out_of_memory("a run on a peer");
    }
    *r = (struct node_remote){
        .node = n,
        .id = run->id,
        .epoch = run->epoch,
        .attempt = run->attempt,
        .heard_ms = loop_now_ms(n->loop),
        .memory_bytes = node_reserve_of(&run->limits),
    };
    (void)str_copy(r->peer, sizeof(r->peer), str_of(peer));
    list_push_back(&n->remote_list, &r->link);
    if (map_add(&n->remotes, id_key(&r->id), r) != 0) {
        node_out_of_memory("a run on a peer");
    }
    return r;
}

static void remote_free(struct node_remote *r)
{
    r->offer = node_call_cancel(r->offer);
    (void)map_remove(&r->node->remotes, id_key(&r->id));
    list_remove(&r->link);
    mem_free(r);
}

void node_remote_free_all(struct node *n)
{
    while (!list_empty(&n->remote_list)) {
        remote_free(LIST_ITEM(n->remote_list.next, struct node_remote, link));
    }
}

struct node_remote *node_remote_match(struct node *n, struct str peer, struct ulid id,
                                      uint32_t epoch, uint32_t attempt)
{
    struct node_remote *r = remote_find(n, id);

    return r != NULL && r->epoch == epoch && r->attempt == attempt && str_eqs(peer, r->peer) ? r
                                                                                             : NULL;
}

/* ---- cancelling ---- */

static void remote_lost(struct node_remote *r, bool innocent, const char *why);

struct recall {
    struct node *node;
    struct node_about about;
    char peer[RUN_NODE_CAP];
};

static void on_cancelled(void *arg, const struct node_call_end *end)
{
    struct recall c = *(struct recall *)arg;
    struct node_answer a;

    mem_free(arg);
    if (end->rc != 0 || node_answer_parse(end->text, &a, NULL) != 0 ||
        a.says != NODE_SAYS_UNKNOWN) {
        return; /* its end comes, or it is told again */
    }
    struct node_remote *r =
        node_remote_match(c.node, str_of(c.peer), c.about.id, c.about.epoch, c.about.attempt);
    if (r != NULL && r->state == REMOTE_HELD && !r->ending) {
        remote_lost(r, true, "the node that had it does not know it any more");
    }
}

static void recall(struct node *n, const char *peer, struct ulid id, uint32_t epoch,
                   uint32_t attempt)
{
    AUTO_BUF struct buf body = BUF_INIT(4096);
    struct recall *c = mem_zalloc(sizeof(*c));

    if (c == NULL) {
        node_out_of_memory("a recall");
    }
    c->node = n;
    c->about = (struct node_about){ .id = id, .epoch = epoch, .attempt = attempt };
    (void)str_copy(c->peer, sizeof(c->peer), str_of(peer));
    node_about_write(&body, &c->about, 1);
    (void)node_call_post(n, peer, "/v1/peer/cancel", &body, CANCEL_MS, on_cancelled, c);
}

bool node_remote_stop(struct node *n, struct ulid id, uint32_t attempt)
{
    struct node_remote *r = remote_find(n, id);

    if (r == NULL || r->attempt != attempt) {
        return false;
    }
    r->stop = true;
    if (r->state == REMOTE_HELD && !r->ending) {
        recall(n, r->peer, r->id, r->epoch, r->attempt);
    }
    return true;
}

/* ---- ends ---- */

/* Takes r. */
static void remote_over(struct node_remote *r, const struct job_result *result)
{
    struct node *n = r->node;
    char peer[RUN_NODE_CAP];
    struct job_event ev = { .type = JOB_EV_ENDED,
                            .id = r->id,
                            .attempt = r->attempt,
                            .node = peer,
                            .elsewhere = true,
                            .result = result };

    memcpy(peer, r->peer, sizeof(peer));
    remote_free(r);
    node_feed_job(n, &ev);
}

static void remote_lost(struct node_remote *r, bool innocent, const char *why)
{
    char detail[ERR_TEXT_MAX];
    char id[ULID_TEXT_CAP];
    const struct job_result lost = {
        .reason = RUN_REASON_NODE_LOST,
        .exit_code = -1,
        .innocent = innocent && !r->started,
        .detail = detail,
    };

    (void)snprintf(detail, sizeof(detail), "%s: %s", r->peer, why);
    log_warn("run %s, attempt %u: %s", node_id_text(r->id, id), r->attempt, detail);
    remote_over(r, &lost);
}

/* ---- offers ---- */

static void remote_taken(struct node_remote *r)
{
    struct node *n = r->node;
    struct node_live *l = r->live;
    struct node_event ev = { .type = NODE_EV_OFFERED,
                             .job = { .id = r->id, .attempt = r->attempt },
                             .peer = { .name = r->peer },
                             .request = { .memory_bytes = r->memory_bytes },
                             .offered = NODE_OFFER_ACCEPTED };

    r->offer = node_call_cancel(r->offer);
    r->live = NULL;
    r->state = REMOTE_HELD;
    r->heard_ms = loop_now_ms(n->loop);
    node_live_free(l);
    node_feed(n, &ev);
    if (n->last_recall) {
        recall(n, r->peer, r->id, r->epoch, r->attempt);
        remote_free(r);
    }
}

static void refused(struct node_remote *r, const struct node_answer *a)
{
    struct node *n = r->node;
    struct node_live *l = r->live;
    struct node_event ev = { .type = NODE_EV_OFFERED,
                             .job = { .id = r->id, .attempt = r->attempt },
                             .peer = { .name = r->peer },
                             .request = { .memory_bytes = r->memory_bytes },
                             .offered = a != NULL ? NODE_OFFER_REFUSED : NODE_OFFER_UNREACHED };

    if (a != NULL) {
        ev.peer.slots_free = a->slots_free;
        ev.peer.memory_free_bytes = a->memory_free_bytes;
        ev.peer.wait_us = a->wait_us;
    }
    node_feed(n, &ev);
    remote_free(r);
    l->stage = LIVE_PLACING;
    l->tries++;
    node_live_answer(l, l->tries < NODE_TRIES_MAX ? LIVE_ASK_PLACE : LIVE_NO_ROOM);
}

/* The peer may have taken it: this attempt is over in any case, and the next one is another. */
static void unanswered(struct node_remote *r, const char *why)
{
    struct node *n = r->node;
    struct ulid id = r->id;
    char peer[RUN_NODE_CAP];
    struct node_event slow = { .type = NODE_EV_OFFERED,
                               .job = { .id = r->id, .attempt = r->attempt },
                               .peer = { .name = peer },
                               .offered = NODE_OFFER_UNREACHED };

    (void)str_copy(peer, sizeof(peer), str_of(r->peer));
    recall(n, peer, r->id, r->epoch, r->attempt);
    remote_taken(r);
    node_feed(n, &slow); /* others are asked first, for a while */
    r = remote_find(n, id);
    if (r != NULL) {
        remote_lost(r, true, why);
    }
}

static void on_offer(void *arg, const struct node_call_end *end)
{
    struct node_remote *r = arg;
    struct node_answer a;
    struct err e = { .code = 0 };

    r->offer = NULL;
    if (end->rc != 0 && end->never) {
        refused(r, NULL);
    } else if (end->rc != 0) {
        unanswered(r, end->why);
    } else if (node_answer_parse(end->text, &a, &e) != 0) {
        unanswered(r, err_text(&e));
    } else if (a.says == NODE_SAYS_TAKEN) {
        remote_taken(r);
    } else {
        refused(r, &a);
    }
}

void node_remote_offer(struct node_live *l, const char *peer)
{
    struct node *n = l->node;
    AUTO_BUF struct buf body = BUF_INIT(NODE_MSG_MAX);
    AUTO_BUF struct buf payload = BUF_INIT(NODE_MSG_PAYLOAD_MAX);
    char id[ULID_TEXT_CAP];
    struct str inside = { NULL, 0 };
    struct node_remote *old = remote_find(n, l->id);

    if (old != NULL) {
        INSIST(old->live == NULL); /* of an attempt that is over */
        remote_free(old);
    }
    if (l->run.payload_bytes != 0 && l->run.payload_bytes <= NODE_MSG_PAYLOAD_MAX &&
        sys_read_file(n->spool_fd, node_id_text(l->id, id), NODE_MSG_PAYLOAD_MAX, &payload, NULL) ==
            0) {
        inside = buf_str(&payload);
    }
    node_offer_write(&body, &l->run, l->doc->job, inside);
    struct node_remote *r = remote_new(n, &l->run, peer);
    r->live = l;
    r->state = REMOTE_OFFERED;
    l->stage = LIVE_OFFERING;
    r->offer = node_call_post(n, peer, "/v1/peer/offer", &body, NODE_OFFER_MS, on_offer, r);
}

/* ---- what executors report ---- */

/* Word of an attempt from a peer: the one that is just offered to it was taken. */
static struct node_remote *heard_of(struct node *n, struct str from, const struct run *run)
{
    struct node_remote *r = node_remote_match(n, from, run->id, run->epoch, run->attempt);

    if (r != NULL && r->state == REMOTE_OFFERED) {
        remote_taken(r);
        r = node_remote_match(n, from, run->id, run->epoch, run->attempt);
    }
    if (r != NULL) {
        r->heard_ms = loop_now_ms(n->loop);
    }
    return r;
}

void node_remote_said_started(struct node *n, struct node_query *q, struct str from,
                              struct str body)
{
    struct node_report report;
    struct err e = { .code = 0 };

    if (node_report_parse(body, &report, &e) != 0) {
        node_query_refuse(q, NODE_BAD_JSON, "%s", err_text(&e));
        return;
    }
    struct node_remote *r = heard_of(n, from, &report.run);
    struct job_event ev = { .type = JOB_EV_STARTED,
                            .id = report.run.id,
                            .attempt = report.run.attempt,
                            .node = r != NULL ? r->peer : "",
                            .elsewhere = true,
                            .start = (enum run_start)report.run.start,
                            .started_us = report.run.started_us };
    if (r != NULL && !r->ending) {
        r->started = true;
        node_feed_job(n, &ev);
    }
    node_query_say(q, r != NULL ? NODE_SAYS_KEPT : NODE_SAYS_STALE);
    node_report_release(&report);
}

/* What came with an end goes to disk on a pool thread; then the queue hears of it. */
struct end_write {
    struct loop_work work;
    struct node *node;
    struct node_query *query;
    struct node_report report;
    char peer[RUN_NODE_CAP];
    char dir[SANDBOX_DIR_CAP];
    char samples[NODE_SAMPLES_NAME_CAP];
    int rc;
};

static void end_work(struct loop_work *w)
{
    struct end_write *x = CONTAINER_OF(w, struct end_write, work);

    x->rc = node_output_write(x->node->outputs_fd, x->dir, x->report.files);
    if (x->report.samples.p != NULL) {
        node_samples_write(x->node->samples_fd, x->samples, x->report.samples.p,
                           x->report.samples.n);
    }
}

static void on_barrier(void *arg, int status)
{
    struct node_query *q = arg;

    if (status == 0 || status == -ESTALE || status == -ENOENT) {
        node_query_say(q, NODE_SAYS_KEPT);
    } else {
        node_query_refuse(q, NODE_STARTING, "the end could not be stored: %s", err_name(status));
    }
}

/* The executor hears that its end is taken when it is durable. */
static void answer_when_durable(struct node *n, struct node_query *q, struct ulid id)
{
    struct run now;

    if (!job_core_run(node_core_jobs(n->core), id, &now)) {
        node_query_say(q, NODE_SAYS_KEPT); /* it has ended before, durably */
    } else if (run_is_ended(&now)) {
        q->id = id;
        list_remove(&q->link);
        list_push_back(&n->end_waits, &q->link);
    } else {
        /* Queued again: that was written before this. */
        node_asked(job_store_put_run(n->store, &now, NULL, on_barrier, q));
    }
}

void node_remote_ended(struct node *n, const struct run *run)
{
    LIST_EACH_SAFE (pos, &n->end_waits) {
        struct node_query *q = LIST_ITEM(pos, struct node_query, link);
        if (ulid_eq(q->id, run->id)) {
            list_remove(&q->link);
            list_push_back(&n->queries, &q->link);
            node_query_say(q, NODE_SAYS_KEPT);
        }
    }
}

static void end_done(struct loop_work *w, int status)
{
    struct end_write *x = CONTAINER_OF(w, struct end_write, work);
    struct node *n = x->node;
    const struct run *run = &x->report.run;
    struct node_remote *r =
        node_remote_match(n, str_of(x->peer), run->id, run->epoch, run->attempt);
    struct job_result result;

    if (r != NULL) {
        r->ending = false;
    }
    if (n->closing) {
        node_query_refuse(x->query, NODE_STARTING, "this node is stopping");
    } else if (status != 0 || x->rc != 0) {
        node_query_refuse(x->query, x->rc == -ENOSPC ? NODE_DISK_FULL : NODE_INTERNAL,
                          "the run's files could not be stored: %s", err_name(x->rc));
    } else if (r == NULL) {
        node_query_say(x->query, NODE_SAYS_STALE);
    } else {
        struct ulid id = run->id;
        node_report_result(&x->report, &result);
        remote_over(r, &result);
        answer_when_durable(n, x->query, id);
    }
    node_report_release(&x->report);
    mem_free(x);
}

void node_remote_said_ended(struct node *n, struct node_query *q, struct str from, struct str body)
{
    struct end_write *x = mem_zalloc(sizeof(*x));
    struct err e = { .code = 0 };

    if (x == NULL) {
        node_out_of_memory("an end");
    }
    if (node_report_parse(body, &x->report, &e) != 0) {
        node_query_refuse(q, NODE_BAD_JSON, "%s", err_text(&e));
        mem_free(x);
        return;
    }
    const struct run *run = &x->report.run;
    struct node_remote *r = run_is_ended(run) ? heard_of(n, from, run) : NULL;
    if (r == NULL || r->ending) {
        if (r != NULL) {
            node_query_refuse(q, NODE_STARTING, "this end is being stored");
        } else {
            node_query_say(q, NODE_SAYS_STALE);
        }
        node_report_release(&x->report);
        mem_free(x);
        return;
    }
    r->ending = true;
    x->node = n;
    x->query = q;
    memcpy(x->peer, r->peer, sizeof(x->peer));
    sandbox_dir_name(run->id, run->attempt, x->dir);
    node_samples_name(run->id, run->attempt, x->samples);
    INSIST(loop_work_start(&x->work, &n->owner, end_work, end_done) == 0);
}

/* ---- after a restart, and when peers go ---- */

void node_remote_recover(struct node *n, const struct run *run)
{
    struct job_event ev = { .type = JOB_EV_HELD, .id = run->id, .attempt = run->attempt };
    bool there = run->state == RUN_PREPARING || run->state == RUN_RUNNING;

    if (!there || run->node[0] == '\0' || node_is_self(n, str_of(run->node))) {
        return;
    }
    struct node_remote *r = remote_new(n, run, run->node);
    r->state = REMOTE_HELD;
    r->started = run->state == RUN_RUNNING;
    r->stop = run->cancel_asked != 0;
    r->heard_ms = 0;
    node_feed_job(n, &ev);
}

void node_remote_adopt(struct node *n, const struct run *run)
{
    struct node_remote *r = remote_find(n, run->id);

    if (r != NULL) {
        return;
    }
    r = remote_new(n, run, run->node);
    r->state = REMOTE_HELD;
    r->started = run->state == RUN_RUNNING;
    r->stop = run->cancel_asked != 0;
    r->heard_ms = 0;
    if (node_is_self(n, str_of(run->node))) {
        node_guest_adopt(n, run->id, run->attempt, run->epoch, n->settings.node.name);
    }
    n->check_ms = 0;
}

void node_remote_drop(struct node *n, struct ulid id)
{
    struct node_remote *r = remote_find(n, id);

    if (r == NULL) {
        return;
    }
    struct node_live *l = r->live;
    remote_free(r);
    if (l != NULL) {
        node_live_free(l);
    }
}

void node_remote_peer_gone(struct node *n, const char *peer)
{
    LIST_EACH_SAFE (pos, &n->remote_list) {
        struct node_remote *r = LIST_ITEM(pos, struct node_remote, link);
        if (r->state == REMOTE_HELD && !r->ending && strcmp(r->peer, peer) == 0) {
            remote_lost(r, true, "the node is gone");
        }
    }
}

struct check {
    struct node *node;
    char peer[RUN_NODE_CAP];
};

static void on_checked(void *arg, const struct node_call_end *end)
{
    struct check c = *(struct check *)arg;
    struct node *n = c.node;
    struct node_about *v = mem_calloc(NODE_MSG_CHECK_MAX, sizeof(*v));
    size_t len = 0;

    mem_free(arg);
    if (v == NULL || end->rc != 0 ||
        node_about_parse(end->text, v, NODE_MSG_CHECK_MAX, &len, NULL) != 0) {
        len = 0; /* it is asked again */
    }
    for (size_t i = 0; i < len; i++) {
        struct node_remote *r =
            node_remote_match(n, str_of(c.peer), v[i].id, v[i].epoch, v[i].attempt);
        if (r == NULL || r->state != REMOTE_HELD || r->ending) {
            continue;
        }
        r->heard_ms = loop_now_ms(n->loop);
        if (!v[i].known) {
            remote_lost(r, true, "the node does not know it any more");
        }
    }
    mem_free(v);
}

/* Asks one peer about those of its runs that it has not spoken of for a while. */
static void check(struct node *n, const char *peer)
{
    AUTO_BUF struct buf body = BUF_INIT(NODE_MSG_MAX);
    struct node_about *v = mem_calloc(NODE_MSG_CHECK_MAX, sizeof(*v));
    struct check *c = mem_zalloc(sizeof(*c));
    uint64_t now = loop_now_ms(n->loop);
    size_t len = 0;

    if (v == NULL || c == NULL) {
        node_out_of_memory("a look at a peer");
    }
    LIST_EACH (pos, &n->remote_list) {
        struct node_remote *r = LIST_ITEM(pos, struct node_remote, link);
        if (len < NODE_MSG_CHECK_MAX && r->state == REMOTE_HELD && !r->ending &&
            strcmp(r->peer, peer) == 0 && now - r->heard_ms >= NODE_CHECK_MS) {
            v[len++] = (struct node_about){ r->id, r->epoch, r->attempt, false };
            r->heard_ms = now; /* one question at a time */
        }
    }
    if (len == 0) {
        mem_free(c);
    } else {
        c->node = n;
        (void)str_copy(c->peer, sizeof(c->peer), str_of(peer));
        node_about_write(&body, v, len);
        (void)node_call_post(n, peer, "/v1/peer/check", &body, CHECK_ANSWER_MS, on_checked, c);
    }
    mem_free(v);
}

void node_remote_look(struct node *n)
{
    uint64_t now = loop_now_ms(n->loop);

    LIST_EACH_SAFE (pos, &n->remote_list) {
        struct node_remote *r = LIST_ITEM(pos, struct node_remote, link);
        const struct node_place *p = node_place_find(n, str_of(r->peer));
        if (r->state != REMOTE_HELD || r->ending) {
            continue;
        }
        if (node_is_self(n, str_of(r->peer))) {
            if (node_guest_find(n, r->id) == NULL) {
                remote_lost(r, true, "this node does not know it any more");
            }
            continue;
        }
        if (p != NULL && p->alive) {
            r->missing_ms = 0;
            if (r->stop) {
                recall(n, r->peer, r->id, r->epoch, r->attempt);
            }
        } else if (r->missing_ms == 0) {
            r->missing_ms = now;
        } else if (now - r->missing_ms >= NODE_MISSING_MS) {
            remote_lost(r, true, "the node is not in the cluster");
        }
    }
    LIST_EACH (pos, &n->places) {
        const struct node_place *p = LIST_ITEM(pos, struct node_place, link);
        if (p->alive) {
            check(n, p->name);
        }
    }
}
