/*
 * Copies of this node's runs.
 *
 *   accepted ─┬─ store ──────────────────────┬─> both have it: the client is answered
 *             └─ holders, all at once ───────┘
 *                  └─ one is not there ─> the next in the run's order ─> none left: fewer copies,
 *                                         or, below store.replicas_min, refused and forgotten
 *   changed ──> holders, soon ── ended ──> holders, at once ──> all know it: forgotten here
 *   a holder is gone ──> another one gets record, document, payload
 */
#include <errno.h>
#include <string.h>

#include "agent/node/uv_node_copy.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { RECORD_MAX = 64 * 1024, FILL_MAX = 1024 };

static struct str id_key(const struct ulid *id)
{
    return (struct str){ (const char *)id->b, sizeof(id->b) };
}

struct node_copy *node_copy_find(const struct node *n, struct ulid id)
{
    return map_get(&n->copy_ids, id_key(&id));
}

struct node_held *node_copy_held(struct node_copy *c, uint32_t holder)
{
    for (unsigned i = 0; i < c->n; i++) {
        if (c->to[i].id == holder) {
            return &c->to[i];
        }
    }
    return NULL;
}

const struct node_place *node_place_by_id(const struct node *n, uint32_t id)
{
    const char *name = node_core_peer_name(n->core, id);
    const struct node_place *p = name != NULL ? node_place_find(n, str_of(name)) : NULL;

    return p != NULL && p->alive && !p->hidden ? p : NULL;
}

/* ---- the list ---- */

static void add_holder(struct node_copy *c, uint32_t holder, bool has)
{
    struct node_held *h = &c->to[c->n++];

    *h = (struct node_held){ .copy = c, .id = holder, .has = has };
    list_init(&h->link);
}

/* Who shall have it, as the record says. */
static void sync_holders(struct node_copy *c, const struct run *run, bool has)
{
    for (size_t i = 0; i < run->holders_len; i++) {
        if (node_copy_held(c, run->holders[i]) != NULL) {
            continue;
        }
        if (c->n < RUN_HOLDERS_MAX) {
            add_holder(c, run->holders[i], has);
            continue;
        }
        /* The record puts it in the place of one that is not there. */
        for (unsigned k = 0; k < c->n; k++) {
            if (node_place_by_id(c->node, c->to[k].id) == NULL) {
                node_send_unmark(&c->to[k]);
                c->to[k] = (struct node_held){ .copy = c, .id = run->holders[i], .has = has };
                list_init(&c->to[k].link);
                break;
            }
        }
    }
}

struct node_copy *node_copy_new(struct node *n, const struct run *run, bool has)
{
    struct node_copy *c = mem_zalloc(sizeof(*c));

    if (c == NULL) {
        node_out_of_memory("a run's copies");
    }
    c->node = n;
    c->id = run->id;
    buf_init(&c->record, RECORD_MAX);
    sync_holders(c, run, has);
    list_push_back(&n->copies, &c->link);
    if (map_add(&n->copy_ids, id_key(&c->id), c) != 0) {
        node_out_of_memory("a run's copies");
    }
    return c;
}

void node_copy_free(struct node_copy *c)
{
    struct node *n = c->node;

    for (unsigned i = 0; i < c->n; i++) {
        node_send_unmark(&c->to[i]);
    }
    if (c->ended) {
        n->copies_owed--;
    }
    (void)map_remove(&n->copy_ids, id_key(&c->id));
    list_remove(&c->link);
    buf_release(&c->record);
    mem_free(c->run);
    mem_free(c);
}

static void render(struct node_copy *c, const struct run *run)
{
    struct json_w w;

    buf_reset(&c->record);
    json_w_init(&w, &c->record, false);
    run_to_record(&w, run);
    if (buf_error(&c->record) != 0) {
        node_out_of_memory("a run's record");
    }
    c->payload_bytes = run->payload_bytes;
    c->output_bytes = run->output_bytes;
    c->log_bytes = run->log_bytes;
    c->attempt = run->attempt;
}

static void mark_all(struct node_copy *c, bool soon)
{
    for (unsigned i = 0; i < c->n; i++) {
        node_send_mark(&c->to[i], soon);
    }
}

static bool all_told(const struct node_copy *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        if (c->to[i].dirty || c->to[i].sending) {
            return false;
        }
    }
    return true;
}

/* ---- accepting ---- */

/* The first in the run's order that is not asked yet. 0: nobody. */
static uint32_t next_holder(struct node_copy *c)
{
    struct node *n = c->node;
    uint32_t live[NODE_MEMBERS_MAX];
    uint32_t order[RUN_HOLDERS_MAX];
    size_t len = node_live_ids(n, live, NODE_MEMBERS_MAX);
    size_t have = job_replica_holders(c->id, n->id32, live, len, order, RUN_HOLDERS_MAX);

    for (size_t i = 0; i < have; i++) {
        if (node_copy_held(c, order[i]) == NULL) {
            return order[i];
        }
    }
    return 0;
}

static void write_holders(const struct node_copy *c, struct run *run)
{
    memset(run->holders, 0, sizeof(run->holders));
    run->holders_len = (uint8_t)c->n;
    for (unsigned i = 0; i < c->n; i++) {
        run->holders[i] = c->to[i].id;
    }
}

static void forgotten(void *arg, int status)
{
    (void)arg;
    if (status != 0) {
        log_error("a run that was not accepted is still in the store: %s", err_name(status));
    }
}

/* Nobody was told that it is accepted. */
static void give_up(struct node_copy *c, int status)
{
    struct node *n = c->node;
    struct job_event ev = { .type = JOB_EV_STORED, .id = c->id, .seq = c->seq, .status = status };

    if (c->status == 0) {
        node_asked(job_store_forget(n->store, c->id, forgotten, n));
    }
    c->run = mem_free(c->run);
    c->gone = c->ended = true;
    n->copies_owed++;
    mark_all(c, true);
    if (c->n == 0) {
        node_copy_free(c);
    }
    node_feed_job(n, &ev);
}

/* Store and holders: has everybody answered? */
static void accept_settle(struct node_copy *c)
{
    struct node *n = c->node;
    size_t have = 0;

    for (unsigned i = 0; i < c->n; i++) {
        if (!c->to[i].has && (c->status == 0 || !c->stored)) {
            return;
        }
        have += c->to[i].has ? 1 : 0;
    }
    if (!c->stored) {
        return;
    }
    if (c->status != 0) {
        give_up(c, c->status);
        return;
    }
    if (!job_replica_enough(have, n->settings.store.replicas_min)) {
        give_up(c, -EHOSTUNREACH);
        return;
    }
    struct job_event ev = { .type = JOB_EV_STORED, .id = c->id, .seq = c->seq };
    struct job_event holders = { .type = JOB_EV_HOLDERS, .id = c->id };
    struct run run = *c->run;
    bool moved = c->moved;
    write_holders(c, &run);
    c->run = mem_free(c->run);
    c->moved = false;
    holders.run = &run;
    node_feed_job(n, &ev);
    if (moved) {
        node_feed_job(n, &holders);
    }
}

void node_copy_accept(struct node *n, const struct run *run, uint64_t seq)
{
    struct node_copy *c = node_copy_new(n, run, false);

    c->run = mem_dup(run, sizeof(*run));
    if (c->run == NULL) {
        node_out_of_memory("a run's copies");
    }
    c->seq = seq;
    render(c, run);
    mark_all(c, true);
}

void node_copy_accepted(struct node *n, struct ulid id, int status)
{
    struct node_copy *c = node_copy_find(n, id);

    INSIST(c != NULL && c->run != NULL);
    c->stored = true;
    c->status = status;
    accept_settle(c);
}

void node_copy_acked(struct node_held *h)
{
    struct node_copy *c = h->copy;

    h->has = true;
    if (c->run != NULL) {
        accept_settle(c);
    } else if (all_told(c)) {
        if (c->ended) {
            node_copy_free(c);
        } else {
            buf_release(&c->record);
        }
    }
}

void node_copy_failed(struct node_held *h)
{
    struct node_copy *c = h->copy;

    if (c->run == NULL) {
        node_send_mark(h, false); /* it is told when it is back */
        return;
    }
    node_send_unmark(h);
    uint32_t next = next_holder(c);
    if (next != 0) {
        *h = (struct node_held){ .copy = c, .id = next };
        list_init(&h->link);
    } else {
        unsigned at = (unsigned)(h - c->to);
        for (unsigned i = at; i + 1 < c->n; i++) {
            bool dirty = c->to[i + 1].dirty;
            node_send_unmark(&c->to[i + 1]);
            c->to[i] = c->to[i + 1];
            list_init(&c->to[i].link);
            if (dirty) {
                node_send_mark(&c->to[i], true);
            }
        }
        c->n--;
    }
    c->moved = true;
    write_holders(c, c->run);
    render(c, c->run);
    if (next != 0) {
        node_send_mark(h, true);
    } else {
        accept_settle(c);
    }
}

void node_copy_choose(const struct node *n, struct run *run)
{
    uint32_t live[NODE_MEMBERS_MAX];
    size_t len = node_live_ids(n, live, NODE_MEMBERS_MAX);

    run->holders_len = (uint8_t)job_replica_holders(run->id, n->id32, live, len, run->holders,
                                                    (size_t)n->settings.store.replicas - 1);
}

bool node_copy_enough(const struct node *n)
{
    size_t alive = 0;

    if (n->settings.store.replicas_min <= 1) {
        return true;
    }
    LIST_EACH (pos, &n->places) {
        const struct node_place *p = LIST_ITEM(pos, struct node_place, link);
        alive += p->alive && !p->hidden && !p->draining ? 1 : 0;
    }
    return job_replica_enough(alive, n->settings.store.replicas_min);
}

/* ---- changes ---- */

void node_copy_stored(struct node *n, const struct run *run)
{
    struct node_copy *c = node_copy_find(n, run->id);
    bool ended = run_is_ended(run);

    if (c == NULL && (run->holders_len != 0 || !ended)) {
        c = node_copy_new(n, run, true);
    }
    if (c == NULL || c->run != NULL) {
        return;
    }
    sync_holders(c, run, false);
    if (ended != c->ended) {
        n->copies_owed += ended ? 1 : (size_t)-1;
        c->ended = ended;
    }
    for (unsigned i = 0; i < c->n; i++) {
        c->to[i].files &= 1; /* of another attempt */
    }
    if (c->n != 0) {
        render(c, run);
        mark_all(c, ended);
    } else if (ended) {
        node_copy_free(c);
    }
}

void node_copy_recovered(struct node *n, const struct run *run)
{
    struct node_copy *c = node_copy_find(n, run->id) == NULL ? node_copy_new(n, run, true) : NULL;

    if (c != NULL && c->n != 0) {
        render(c, run);
        mark_all(c, true); /* they know whether it is still ours */
    }
}

void node_copy_own(struct node *n, const struct run *run)
{
    struct node_copy *c = node_copy_find(n, run->id);

    c = c != NULL ? c : node_copy_new(n, run, false);
    sync_holders(c, run, false);
    if (c->n != 0) {
        render(c, run);
        mark_all(c, true);
    }
}

void node_copy_tell(struct node *n, const struct run *run, uint32_t holder)
{
    struct node_copy *c = node_copy_find(n, run->id);

    if (c == NULL) {
        struct run only = *run;
        only.holders_len = 0;
        c = node_copy_new(n, &only, true);
        c->ended = true; /* it goes as soon as it is told */
        n->copies_owed++;
    }
    if (c->ended && !c->gone) {
        render(c, run);
    }
    struct node_held *h = node_copy_held(c, holder);
    if (h == NULL && c->n < RUN_HOLDERS_MAX) {
        add_holder(c, holder, true);
        h = &c->to[c->n - 1];
    }
    if (h != NULL && c->run == NULL && (c->record.len != 0 || !c->ended)) {
        struct run now;
        if (!c->ended && job_core_run(node_core_jobs(n->core), c->id, &now)) {
            render(c, &now);
        }
        if (c->record.len != 0) {
            node_send_mark(h, true);
        }
    }
}

/* ---- members ---- */

/* Are there fewer live holders than there should be, and is somebody left? */
static bool is_short(struct node_copy *c, size_t want)
{
    size_t have = 0;

    for (unsigned i = 0; i < c->n; i++) {
        have += node_place_by_id(c->node, c->to[i].id) != NULL ? 1 : 0;
    }
    return have < want && next_holder(c) != 0;
}

static void fill_up(struct node_copy *c)
{
    struct node *n = c->node;
    uint32_t live[NODE_MEMBERS_MAX];
    struct run run;
    struct job_event ev = { .type = JOB_EV_HOLDERS, .id = c->id, .run = &run };
    uint32_t next = next_holder(c);

    if (next == 0 || !job_core_run(node_core_jobs(n->core), c->id, &run) || run_is_ended(&run)) {
        return;
    }
    size_t len = node_live_ids(n, live, NODE_MEMBERS_MAX);
    if (job_replica_add_holder(&run, next, live, len)) {
        node_feed_job(n, &ev);
    }
}

void node_copy_look(struct node *n)
{
    size_t want = (size_t)n->settings.store.replicas - 1;

    struct ulid ids[FILL_MAX];
    size_t len = 0;

    LIST_EACH_SAFE (pos, &n->copies) {
        struct node_copy *c = LIST_ITEM(pos, struct node_copy, link);
        if (c->ended && n->copies_owed > NODE_COPY_OWED_MAX) {
            telemetry_count(n->metrics, TELEMETRY_DROPPED_TOTAL, TELEMETRY_LABELS("copies"), 1);
            node_copy_free(c);
        } else if (c->run == NULL && !c->ended && len < FILL_MAX && is_short(c, want)) {
            ids[len++] = c->id;
        }
    }
    for (size_t i = 0; i < len; i++) {
        struct node_copy *c = node_copy_find(n, ids[i]);
        if (c != NULL) {
            fill_up(c);
        }
    }
}

/* A new run's holder is gone: another one is asked. */
static void replace_gone(struct node *n, uint32_t id)
{
    for (struct list *pos = n->copies.next; pos != &n->copies;) {
        struct node_copy *c = LIST_ITEM(pos, struct node_copy, link);
        struct node_held *h = node_copy_held(c, id);
        pos = pos->next;
        if (h != NULL && c->run != NULL && !h->has) {
            node_copy_failed(h);
            pos = n->copies.next; /* whatever followed may be gone */
        }
    }
}

void node_copy_member(struct node *n, uint32_t id, bool came)
{
    if (!came) {
        replace_gone(n, id);
        return;
    }
    LIST_EACH (pos, &n->copies) {
        struct node_copy *c = LIST_ITEM(pos, struct node_copy, link);
        struct node_held *h = node_copy_held(c, id);
        struct run now;
        bool entry = ulid_node(c->id) == id; /* it has to hear that it is not the owner any more */
        if (h == NULL && !entry) {
            continue;
        }
        if (c->record.len == 0 && job_core_run(node_core_jobs(n->core), c->id, &now)) {
            render(c, &now);
        }
        if (h == NULL && c->n < RUN_HOLDERS_MAX) {
            add_holder(c, id, true);
            h = &c->to[c->n - 1];
        }
        if (h != NULL && c->record.len != 0) {
            node_send_mark(h, true);
        }
    }
    node_send_kick(n, id);
}

bool node_copy_is_settled(const struct node *n)
{
    LIST_EACH (pos, &n->copies) {
        const struct node_copy *c = LIST_ITEM(pos, struct node_copy, link);
        for (unsigned i = 0; i < c->n; i++) {
            if (c->to[i].dirty || c->to[i].sending) {
                return false;
            }
        }
    }
    return true;
}

void node_copies_free(struct node *n)
{
    while (!list_empty(&n->copies)) {
        node_copy_free(LIST_ITEM(n->copies.next, struct node_copy, link));
    }
    map_release(&n->copy_ids);
}
