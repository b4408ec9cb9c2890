/*
 * Runs of peers here.
 *
 *   offered ─ room? ─ note on disk ─> "taken" ─ payload ─ image ─ launcher ─> running ─> ended
 *                └─ no: "busy"                                                           │
 *                         the owner has it all, durably ─> note, files, directory go <───┘
 *
 * A guest outlives this process: its note says whose it is, its directory how far it came. It is
 * never offered on, and is in no list of runs but its owner's.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "agent/node/uv_node_internal.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    AGAIN_MS = 250,      /* until the next try of what waits */
    AGAIN_MAX_MS = 5000, /* of what waits for the owner */
    SLOT_TRIES = 40,
    FETCH_TRIES = 5,
    NOTE_MAX = NODE_MSG_MAX,
};

static struct str id_key(const struct ulid *id)
{
    return (struct str){ (const char *)id->b, sizeof(id->b) };
}

struct node_guest *node_guest_find(struct node *n, struct ulid id)
{
    return map_get(&n->guests, id_key(&id));
}

static struct node_guest *guest_match(struct node *n, struct str from, const struct node_about *a)
{
    struct node_guest *g = node_guest_find(n, a->id);

    return g != NULL && g->stage != GUEST_OVER && str_eqs(from, g->owner) &&
                   g->run.epoch == a->epoch && g->run.attempt == a->attempt
               ? g
               : NULL;
}

bool node_guest_has(struct node *n, struct ulid id, uint32_t attempt)
{
    const struct node_guest *g = node_guest_find(n, id);

    return g != NULL && g->stage != GUEST_OVER && !g->unwanted && g->run.attempt == attempt;
}

/* The note as a restart wants it; false: no memory. */
static bool note_text(const struct node_guest *g, struct buf *out)
{
    AUTO_BUF struct buf offer = BUF_INIT(NOTE_MAX);
    struct run run = g->run;

    if (run.state != RUN_QUEUED) { /* a note is the offer as it was */
        run.state = RUN_QUEUED;
        run.reason = RUN_REASON_NONE;
    }
    node_offer_write(&offer, &run, g->doc->job, (struct str){ NULL, 0 });
    (void)buf_addf(out, "%s\n", g->owner);
    (void)buf_addstr(out, buf_str(&offer));
    return buf_error(out) == 0;
}

bool node_guest_adopt(struct node *n, struct ulid id, uint32_t attempt, uint32_t epoch,
                      const char *owner)
{
    struct node_guest *g = node_guest_find(n, id);
    AUTO_BUF struct buf note = BUF_INIT(2 * NOTE_MAX);
    char name[SANDBOX_DIR_CAP];
    char text[ULID_TEXT_CAP];

    if (!node_guest_has(n, id, attempt) || g->run.epoch >= epoch) {
        return false;
    }
    log_info("run %s here is '%s's now (epoch %u)", node_id_text(id, text), owner, epoch);
    g->run.epoch = epoch;
    g->told = false;
    g->tries = 0;
    (void)str_copy(g->owner, sizeof(g->owner), str_of(owner));
    sandbox_dir_name(id, attempt, name);
    if (g->stage != GUEST_NOTING && note_text(g, &note)) {
        (void)node_file_write(n->guests_fd, name, note.data, note.len);
    }
    g->call = node_call_cancel(g->call);
    g->put = http_call_cancel(g->put);
    if (g->stage == GUEST_RUNNING || g->stage == GUEST_ENDED) {
        g->due_ms = 1; /* it hears of it with the next look */
    }
    return true;
}

static bool has_ended(const struct node_guest *g)
{
    return g->stage == GUEST_ENDED || g->stage == GUEST_OVER;
}

static void due_in(struct node_guest *g, uint64_t ms)
{
    g->due_ms = loop_now_ms(g->node->loop) + ms;
}

/* Takes the offer's document. */
static struct node_guest *guest_new(struct node *n, struct node_offer *o, struct str owner)
{
    struct node_guest *g = mem_zalloc(sizeof(*g));
    struct node_doc *doc = g != NULL ? node_doc_new(TAKE(o->job)) : NULL;

    if (doc == NULL) {
        node_out_of_memory("a peer's run");
    }
    g->node = n;
    g->run = o->run;
    g->doc = doc;
    g->payload = TAKE(o->payload);
    g->payload_len = o->payload_len;
    (void)str_copy(g->owner, sizeof(g->owner), owner);
    buf_init(&g->note, NOTE_MAX);
    list_push_back(&n->guest_list, &g->link);
    if (map_add(&n->guests, id_key(&g->run.id), g) != 0) {
        node_out_of_memory("a peer's run");
    }
    n->guests_live++;
    return g;
}

static void guest_free(struct node_guest *g)
{
    struct node *n = g->node;

    INSIST(!g->work.busy);
    g->call = node_call_cancel(g->call);
    g->fetch = node_fetch_cancel(g->fetch);
    g->put = http_call_cancel(g->put);
    (void)map_remove(&n->guests, id_key(&g->run.id));
    list_remove(&g->link);
    node_doc_unref(g->doc);
    node_report_release(&g->report);
    buf_release(&g->note);
    mem_free(g->payload);
    mem_free(g);
}

static void room_back(struct node_guest *g)
{
    struct node_event ev = { .type = NODE_EV_GUEST_OVER,
                             .job = { .id = g->run.id, .attempt = g->run.attempt } };

    node_feed(g->node, &ev);
}

/* Nobody needs to hear of it any more. The note goes before the directory: what has none begins
 * anew. */
void node_guest_over(struct node_guest *g)
{
    struct node *n = g->node;
    char name[SANDBOX_DIR_CAP];
    char id[ULID_TEXT_CAP];

    if (!has_ended(g)) {
        n->guests_live--;
        room_back(g);
    }
    g->stage = GUEST_OVER;
    g->due_ms = 0;
    if (g->work.busy) {
        return; /* its end comes back here */
    }
    sandbox_dir_name(g->run.id, g->run.attempt, name);
    node_spool_remove(n->guests_fd, name);
    if (!node_is_self(n, str_of(g->owner))) { /* else payload and directory are the run's */
        node_spool_remove(n->spool_fd, node_id_text(g->run.id, id));
        node_removal_add(n, g->run.id, g->run.attempt);
    }
    guest_free(g);
}

/* ---- ends ---- */

static void move_to_end(struct run *r, const struct job_result *res, enum run_reason why,
                        int64_t now_us)
{
    static const enum run_state way[] = { RUN_PLACED, RUN_PREPARING, RUN_RUNNING };
    enum run_state end = run_state_of(why, res->exit_code);

    for (size_t i = 0; i < ARRAY_LEN(way) && !run_may_move((enum run_state)r->state, end); i++) {
        if (run_may_move((enum run_state)r->state, way[i])) {
            run_move(r, way[i], res->started_us != 0 ? res->started_us : now_us);
        }
    }
    run_move(r, end, res->ended_us != 0 ? res->ended_us : now_us);
}

void node_guest_ended(struct node_guest *g, const struct job_result *res)
{
    struct run *r = &g->run;
    enum run_reason why = res->reason;

    if (has_ended(g)) {
        return;
    }
    if (why == RUN_REASON_CANCELLED && !g->stop) {
        why = RUN_REASON_NODE_LOST; /* this node stopped it: a drain */
        g->report.innocent = true;
    }
    g->report.innocent = g->report.innocent || (why == RUN_REASON_NODE_LOST && res->innocent);
    move_to_end(r, res, why, sys_wall_us());
    if (res->started_us != 0) {
        r->started_us = res->started_us;
    }
    r->reason = (uint8_t)why;
    r->exit_code = (int16_t)(res->exit_code >= 0 && res->exit_code <= 255 ? res->exit_code : -1);
    r->signal = (int16_t)(res->signal > 0 && res->signal <= 64 ? res->signal : 0);
    r->output_bytes = res->output_bytes;
    r->log_bytes = res->log_bytes;
    r->output_truncated = res->output_truncated;
    r->log_truncated = res->log_truncated;
    /* For the owner, who alone decides whether there is a next attempt. */
    r->retry_at_us =
        res->retry_after_ms != 0 ? r->ended_us + (int64_t)res->retry_after_ms * 1000 : 0;
    r->usage = res->usage;
    run_set_text(r->detail, sizeof(r->detail), str_of(res->detail));
    g->node->guests_live--;
    g->stage = GUEST_ENDED;
    g->tries = 0;
    g->ended_ms = loop_now_ms(g->node->loop);
    room_back(g);
    node_watchers_tell(g->node, r);
    if (g->unwanted) {
        node_guest_over(g);
    } else {
        node_report_go(g);
    }
}

static void end_as(struct node_guest *g, enum run_reason why, bool innocent, const char *detail)
{
    const struct job_result res = {
        .reason = why, .exit_code = -1, .innocent = innocent, .detail = detail
    };

    node_guest_ended(g, &res);
}

/* ---- towards its start ---- */

static void prepare(struct node_guest *g)
{
    struct node *n = g->node;
    int64_t now_us = sys_wall_us();

    if (g->stop) {
        end_as(g, RUN_REASON_CANCELLED, false, "");
        return;
    }
    if (g->run.state == RUN_QUEUED) {
        run_move(&g->run, RUN_PLACED, now_us);
        run_move(&g->run, RUN_PREPARING, now_us);
    }
    struct node_live *l = node_live_add(n, &g->run);
    if (l == NULL) {
        g->stage = GUEST_WAITING;
        due_in(g, AGAIN_MS);
        return;
    }
    g->stage = GUEST_PREPARING;
    l->guest = g;
    l->doc = node_doc_ref(g->doc);
    node_fx_prepare(n, &g->run);
}

static void on_payload(void *arg, int rc, const char *why)
{
    struct node_guest *g = arg;
    struct node *n = g->node;
    char id[ULID_TEXT_CAP];
    char temporary[ULID_TEXT_CAP + 8];

    g->fetch = NULL;
    (void)node_id_text(g->run.id, id);
    (void)snprintf(temporary, sizeof(temporary), "fetch-%s", id);
    if (rc == 0 && renameat(n->spool_fd, temporary, n->spool_fd, id) != 0) {
        rc = -errno;
    }
    if (rc == 0) {
        g->tries = 0;
        prepare(g);
        return;
    }
    node_spool_remove(n->spool_fd, temporary);
    log_warn("the payload of run %s did not come from '%s': %s", id, g->owner, why);
    if (++g->tries >= FETCH_TRIES) {
        end_as(g, RUN_REASON_NODE_LOST, true, "the payload could not be had from its node");
        return;
    }
    g->stage = GUEST_WAITING;
    due_in(g, (uint64_t)AGAIN_MS << g->tries);
}

/* The payload, if it is not here; then the image. */
static void go_on(struct node_guest *g)
{
    struct node *n = g->node;
    char id[ULID_TEXT_CAP];
    char target[64];
    char temporary[ULID_TEXT_CAP + 8];

    (void)node_id_text(g->run.id, id);
    if (g->run.payload_bytes == 0 || faccessat(n->spool_fd, id, F_OK, 0) == 0) {
        prepare(g);
        return;
    }
    (void)snprintf(temporary, sizeof(temporary), "fetch-%s", id);
    (void)snprintf(target, sizeof(target), "/v1/peer/payload/%s", id);
    g->stage = GUEST_FETCHING;
    g->fetch = node_fetch_start(n, g->owner, target, n->spool_fd, temporary, g->run.payload_bytes,
                                on_payload, g);
    if (g->fetch == NULL) {
        node_out_of_memory("a payload");
    }
}

/* ---- offers ---- */

static void note_work(struct loop_work *w)
{
    struct node_guest *g = CONTAINER_OF(w, struct node_guest, work);
    struct node *n = g->node;
    char id[ULID_TEXT_CAP];
    char name[SANDBOX_DIR_CAP];

    sandbox_dir_name(g->run.id, g->run.attempt, name);
    g->work_rc = node_file_write(n->guests_fd, name, g->note.data, g->note.len);
    if (g->work_rc == 0 && g->payload != NULL && g->payload_len != 0) {
        g->work_rc =
            node_file_write(n->spool_fd, node_id_text(g->run.id, id), g->payload, g->payload_len);
    }
}

static void note_done(struct loop_work *w, int status)
{
    struct node_guest *g = CONTAINER_OF(w, struct node_guest, work);
    struct node_query *q = TAKE(g->asks);
    int rc = status != 0 ? status : g->work_rc;

    g->payload = mem_free(g->payload);
    buf_release(&g->note);
    if (g->node->closing || rc != 0 || g->unwanted || g->stage == GUEST_OVER) {
        if (rc != 0) {
            log_warn("a peer's run is not taken: %s", err_name(rc));
        }
        node_query_say(q, NODE_SAYS_BUSY);
        if (g->node->closing) {
            return; /* the note goes with the next start: nobody was told that it is taken */
        }
        node_guest_over(g);
        return;
    }
    node_query_say(q, NODE_SAYS_TAKEN);
    go_on(g);
}

static void guest_take(struct node *n, struct node_query *q, struct node_offer *o, struct str from)
{
    AUTO_BUF struct buf offer = BUF_INIT(NOTE_MAX);
    struct node_guest *g = guest_new(n, o, from);

    node_offer_write(&g->note, &g->run, g->doc->job, (struct str){ NULL, 0 });
    (void)buf_addf(&offer, "%s\n", g->owner);
    (void)buf_addstr(&offer, buf_str(&g->note));
    buf_release(&g->note);
    g->note = offer;
    offer = BUF_INIT(NOTE_MAX);
    run_set_text(g->run.node, sizeof(g->run.node), str_of(n->settings.node.name));
    g->stage = GUEST_NOTING;
    g->asks = q;
    if (buf_error(&g->note) != 0) {
        node_out_of_memory("a peer's run");
    }
    INSIST(loop_work_start(&g->work, &n->owner, note_work, note_done) == 0);
}

/* What this node does not do for anybody. */
static bool allowed(const struct node *n, const struct run *r)
{
    return r->limits.network != RUN_NETWORK_HOST || n->settings.sandbox.allow_host_network;
}

static bool newer(const struct run *a, const struct run *b)
{
    return a->epoch != b->epoch ? a->epoch > b->epoch : a->attempt > b->attempt;
}

/* There is a guest with this id already. */
static void offered_again(struct node_guest *g, struct node_query *q, const struct run *run,
                          struct str from)
{
    bool same = g->run.epoch == run->epoch && g->run.attempt == run->attempt &&
                str_eqs(from, g->owner) && g->stage != GUEST_OVER;

    if (same) {
        node_query_say(q, NODE_SAYS_TAKEN);
    } else if (newer(run, &g->run)) {
        node_guest_let_go(g);
        node_query_say(q, NODE_SAYS_BUSY); /* until the old one is gone */
    } else {
        node_query_say(q, NODE_SAYS_STALE);
    }
}

void node_guest_offered(struct node *n, struct node_query *q, struct str from, struct str body)
{
    static const enum node_says words[] = {
        [NODE_GUEST_NONE] = NODE_SAYS_BUSY,
        [NODE_GUEST_TAKEN] = NODE_SAYS_TAKEN,
        [NODE_GUEST_BUSY] = NODE_SAYS_BUSY,
        [NODE_GUEST_DRAINING] = NODE_SAYS_DRAINING,
        [NODE_GUEST_IMPOSSIBLE] = NODE_SAYS_IMPOSSIBLE,
    };
    struct node_offer o;
    struct str texts[NODE_TEXTS_MAX];
    struct err e = { .code = 0 };

    if (node_offer_parse(body, &o, &e) != 0) {
        node_query_refuse(q, NODE_BAD_JSON, "%s", err_text(&e));
        return;
    }
    struct node_guest *g = node_guest_find(n, o.run.id);
    if (g != NULL) {
        offered_again(g, q, &o.run, from);
    } else if (!allowed(n, &o.run)) {
        node_query_say(q, NODE_SAYS_IMPOSSIBLE);
    } else if (n->guests.len == NODE_GUESTS_MAX || job_store_is_full(n->store)) {
        node_query_say(q, NODE_SAYS_BUSY);
    } else {
        struct node_event ev = { .type = NODE_EV_GUEST,
                                 .job = { .id = o.run.id, .attempt = o.run.attempt } };
        node_request_of(&o.run, o.job, texts, &ev.request);
        node_programs_request(n, &o.run, o.job, &ev.request);
        node_feed(n, &ev);
        if (n->last_guest == NODE_GUEST_TAKEN) {
            guest_take(n, q, &o, from);
        } else {
            node_query_say(q, words[n->last_guest]);
        }
    }
    node_offer_release(&o);
}

/* ---- what the owner wants else ---- */

static void act_on_stop(struct node_guest *g)
{
    struct node *n = g->node;

    switch (g->stage) {
    case GUEST_NOTING:
    case GUEST_OVER:
    case GUEST_ENDED:
        return;
    case GUEST_FETCHING:
    case GUEST_WAITING:
        g->fetch = node_fetch_cancel(g->fetch);
        end_as(g, RUN_REASON_CANCELLED, false, "");
        return;
    case GUEST_BACK:
    case GUEST_PREPARING:
    case GUEST_RUNNING:
        /* Not launched yet: seen when the image is ready. */
        (void)sandbox_client_stop(n->client, g->run.id, g->run.attempt);
        return;
    }
}

void node_guest_let_go(struct node_guest *g)
{
    g->unwanted = true;
    g->stop = true;
    if (g->stage == GUEST_ENDED) {
        node_guest_over(g);
    } else {
        act_on_stop(g);
    }
}

void node_guest_cancelled(struct node *n, struct node_query *q, struct str from, struct str body)
{
    struct node_about about;
    struct err e = { .code = 0 };
    size_t len = 0;

    if (node_about_parse(body, &about, 1, &len, &e) != 0 || len != 1) {
        node_query_refuse(q, NODE_BAD_JSON, "%s", err_text(&e));
        return;
    }
    struct node_guest *g = guest_match(n, from, &about);
    if (g != NULL && !g->stop) {
        g->stop = true;
        act_on_stop(g);
    }
    node_query_say(q, g != NULL ? NODE_SAYS_KEPT : NODE_SAYS_UNKNOWN);
}

void node_guest_checked(struct node *n, struct node_query *q, struct str from, struct str body)
{
    struct node_about *v = mem_calloc(NODE_MSG_CHECK_MAX, sizeof(*v));
    struct err e = { .code = 0 };
    size_t len = 0;

    if (v == NULL) {
        node_out_of_memory("a peer's question");
    }
    if (node_about_parse(body, v, NODE_MSG_CHECK_MAX, &len, &e) != 0) {
        node_query_refuse(q, NODE_BAD_JSON, "%s", err_text(&e));
    } else {
        for (size_t i = 0; i < len; i++) {
            char owner[RUN_NODE_CAP];
            const struct node_guest *g = node_guest_find(n, v[i].id);
            v[i].known = guest_match(n, from, &v[i]) != NULL ||
                         (str_copy(owner, sizeof(owner), from) == 0 &&
                          node_guest_adopt(n, v[i].id, v[i].attempt, v[i].epoch, owner));
            if (!v[i].known && g != NULL && g->run.epoch > v[i].epoch) {
                v[i].epoch = g->run.epoch; /* somebody newer speaks for it */
            }
        }
        node_about_write(&q->text, v, len);
        node_query_text(q);
    }
    mem_free(v);
}

/* ---- what images and launcher say ---- */

void node_guest_settled(struct node_live *l, enum live_answer answer)
{
    struct node_guest *g = l->guest;
    struct node *n = l->node;
    struct job_result result = l->result;
    char detail[ERR_TEXT_MAX];

    memcpy(detail, l->detail, sizeof(detail));
    result.detail = detail;
    if (answer == LIVE_PREPARED && !g->stop) {
        node_fx_launch(n, &g->run);
        return;
    }
    node_live_free(l);
    if (answer == LIVE_PREPARED) {
        end_as(g, RUN_REASON_CANCELLED, false, "");
    } else if (answer != LIVE_NO_ROOM) {
        node_guest_ended(g, &result);
    } else if (++g->tries < SLOT_TRIES) {
        g->stage = GUEST_WAITING;
        due_in(g, AGAIN_MS);
    } else {
        end_as(g, RUN_REASON_NODE_LOST, true, "there was no slot for it after all");
    }
}

void node_guest_started(struct node_guest *g, const struct sandbox_started *s, enum run_start kind)
{
    struct run *r = &g->run;
    int64_t at = s->started_wall_us != 0 ? s->started_wall_us : sys_wall_us();

    if (has_ended(g)) {
        (void)sandbox_client_stop(g->node->client, r->id, r->attempt);
        return;
    }
    g->stage = GUEST_RUNNING;
    g->tries = 0;
    if (r->state == RUN_QUEUED) {
        run_move(r, RUN_PLACED, at);
    }
    if (r->state == RUN_PLACED) {
        run_move(r, RUN_PREPARING, at);
    }
    if (r->state == RUN_PREPARING) {
        run_move(r, RUN_RUNNING, at);
    }
    r->start = (uint8_t)kind;
    node_watchers_tell(g->node, r);
    if (g->stop) {
        (void)sandbox_client_stop(g->node->client, r->id, r->attempt);
    }
    node_report_started(g);
}

/* ---- an earlier life ---- */

static void load_one(void *arg, const char *name, struct str text)
{
    struct node *n = arg;
    struct str owner;
    struct node_offer o;
    struct str texts[NODE_TEXTS_MAX];
    struct err e = { .code = 0 };

    if (!str_split(&text, '\n', &owner) || owner.n == 0 || owner.n >= RUN_NODE_CAP ||
        node_offer_parse(text, &o, &e) != 0) {
        /* Cut short by a crash: nobody was told that it is taken. */
        node_spool_remove(n->guests_fd, name);
        return;
    }
    if (node_guest_find(n, o.run.id) == NULL && n->guests.len < NODE_GUESTS_MAX) {
        struct node_event ev = { .type = NODE_EV_GUEST_BACK,
                                 .job = { .id = o.run.id, .attempt = o.run.attempt } };
        node_request_of(&o.run, o.job, texts, &ev.request);
        node_feed(n, &ev);
        struct node_guest *g = guest_new(n, &o, owner);
        run_set_text(g->run.node, sizeof(g->run.node), str_of(n->settings.node.name));
        g->stage = GUEST_BACK;
    }
    node_offer_release(&o);
}

int node_guests_load(struct node *n)
{
    return node_notes_each(n->guests_fd, load_one, n);
}

void node_guests_adopted(struct node *n)
{
    LIST_EACH_SAFE (pos, &n->guest_list) {
        struct node_guest *g = LIST_ITEM(pos, struct node_guest, link);
        if (g->stage == GUEST_BACK) {
            go_on(g); /* nothing of it ran */
        }
    }
}

/* ---- time ---- */

void node_guests_look(struct node *n)
{
    uint64_t now = loop_now_ms(n->loop);

    LIST_EACH_SAFE (pos, &n->guest_list) {
        struct node_guest *g = LIST_ITEM(pos, struct node_guest, link);
        if (g->due_ms == 0 || g->due_ms > now) {
            continue;
        }
        g->due_ms = 0;
        if (g->stage == GUEST_WAITING) {
            go_on(g);
        } else if (g->stage == GUEST_RUNNING) {
            node_report_started(g);
        } else if (g->stage == GUEST_ENDED) {
            node_report_go(g);
        }
    }
    if (n->guests_stop_ms != 0 && now >= n->guests_stop_ms) {
        n->guests_stop_ms = UINT64_MAX;
        LIST_EACH_SAFE (pos, &n->guest_list) {
            act_on_stop(LIST_ITEM(pos, struct node_guest, link));
        }
    }
    if (n->drained) {
        node_settle_later(n);
    }
}

void node_guests_kick(struct node *n, const char *owner)
{
    LIST_EACH (pos, &n->guest_list) {
        struct node_guest *g = LIST_ITEM(pos, struct node_guest, link);
        if (g->due_ms != 0 && strcmp(g->owner, owner) == 0) {
            g->due_ms = 1;
        }
    }
}

void node_guests_drain(struct node *n, uint64_t grace_ms)
{
    uint64_t now = loop_now_ms(n->loop);

    n->guests_stop_ms = grace_ms > UINT64_MAX / 2 ? UINT64_MAX : now + grace_ms + 1;
}

bool node_guests_drained(struct node *n)
{
    uint64_t now = loop_now_ms(n->loop);

    if (n->guests_live != 0) {
        return false;
    }
    if (n->guests.len == 0) {
        return true;
    }
    /* What was not taken by its owner in time is kept for the next start. */
    if (n->guests_wait_ms == 0) {
        n->guests_wait_ms = now + AGAIN_MAX_MS;
    }
    return now >= n->guests_wait_ms;
}

void node_guests_free(struct node *n)
{
    while (!list_empty(&n->guest_list)) {
        guest_free(LIST_ITEM(n->guest_list.next, struct node_guest, link));
    }
}
