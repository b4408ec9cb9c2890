/*
 * What an executor tells a run's owner: that it runs, and how it ended.
 *
 *   ended ─ gather small files (pool) ─ PUT each large one ─ POST end ─┬ kept, stale: let it go
 *             ^                            ^                           └ anything else: again,
 * later
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/node/uv_node_internal.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { AGAIN_MS = 250, AGAIN_MAX_MS = 5000, STARTED_MS = 5000 };

/* Later; ever more seldom. An owner that left for good is given up when its runs would be
 * forgotten, too. */
static void again(struct node_guest *g, const char *why)
{
    struct node *n = g->node;
    uint64_t now = loop_now_ms(n->loop);
    uint64_t wait = (uint64_t)AGAIN_MS << (g->tries < 5 ? g->tries : 5);
    uint64_t keep = n->settings.store.retention_ms;
    const struct node_place *p = node_place_find(n, str_of(g->owner));
    char id[ULID_TEXT_CAP];

    if (g->tries++ == 2) {
        log_warn("the end of run %s is not taken by '%s' yet: %s", node_id_text(g->run.id, id),
                 g->owner, why);
    }
    if (g->stage == GUEST_ENDED && (p == NULL || !p->alive) && keep != 0 &&
        now - g->ended_ms > keep) {
        log_warn("run %s is forgotten: '%s' did not come back", node_id_text(g->run.id, id),
                 g->owner);
        node_guest_over(g);
        return;
    }
    g->due_ms = now + (wait < AGAIN_MAX_MS ? wait : AGAIN_MAX_MS);
}

/* ---- started ---- */

static void on_told(void *arg, const struct node_call_end *end)
{
    struct node_guest *g = arg;
    struct node_answer a = { .says = NODE_SAYS_KEPT };

    g->call = NULL;
    if (end->rc != 0 || node_answer_parse(end->text, &a, NULL) != 0) {
        if (g->stage == GUEST_RUNNING) {
            again(g, end->why);
        }
        return;
    }
    g->told = true;
    if (a.says != NODE_SAYS_KEPT) {
        node_guest_let_go(g); /* somebody else has it, or it is over */
    }
}

void node_report_started(struct node_guest *g)
{
    AUTO_BUF struct buf body = BUF_INIT(NODE_MSG_MAX);
    struct node_report r = { .run = g->run };

    if (g->told || g->call != NULL || g->unwanted) {
        return;
    }
    node_report_write(&body, &r);
    g->call = node_call_post(g->node, g->owner, "/v1/peer/started", &body, STARTED_MS, on_told, g);
}

/* ---- files ---- */

static void gather_work(struct loop_work *w)
{
    struct node_guest *g = CONTAINER_OF(w, struct node_guest, work);
    char dir[SANDBOX_DIR_CAP];

    sandbox_dir_name(g->run.id, g->run.attempt, dir);
    g->work_rc = node_output_gather(g->node->runs_fd, dir, g->report.files, g->sent);
}

static void gather_done(struct loop_work *w, int status)
{
    struct node_guest *g = CONTAINER_OF(w, struct node_guest, work);

    if (g->node->closing) {
        return;
    }
    if (g->stage == GUEST_OVER) {
        node_guest_over(g);
        return;
    }
    if (status != 0 || g->work_rc != 0) {
        again(g, err_name(g->work_rc));
        return;
    }
    g->gathered = true;
    node_report_go(g);
}

static void on_put(void *arg, struct http_call *call, int rc, int status, const char *why)
{
    struct node_guest *g = arg;

    (void)call;
    g->put = NULL;
    if (g->node->closing) {
        return;
    }
    if (rc == 0 && (status == 200 || status == 409)) {
        g->sent[g->putting] = true; /* 409: the owner does not want it; the end says why */
        node_report_go(g);
    } else {
        again(g, rc != 0 && why != NULL ? why : "it was refused");
    }
}

static void put_file(struct node_guest *g, size_t i)
{
    struct node *n = g->node;
    struct http_target to;
    char dir[SANDBOX_DIR_CAP];
    char id[ULID_TEXT_CAP];
    char target[128];
    uint64_t bytes = 0;

    sandbox_dir_name(g->run.id, g->run.attempt, dir);
    AUTO_FD int fd = node_output_file(n->runs_fd, dir, node_file_names[i], &bytes);
    if (fd < 0 || !node_target(n, str_of(g->owner), &to)) {
        again(g, fd < 0 ? "its files cannot be read" : "no address is known");
        return;
    }
    (void)snprintf(target, sizeof(target), "/v1/peer/output/%s?attempt=%u&file=%s",
                   node_id_text(g->run.id, id), g->run.attempt, node_file_names[i]);
    const struct http_call_events events = { .on_done = on_put, .arg = g };
    g->put = http_call_new(n->http_streams, &to, "PUT", target, 64 * 1024, &events);
    if (g->put == NULL) {
        node_out_of_memory("a run's file");
    }
    g->putting = i;
    node_identify(n, g->put);
    http_call_header(g->put, "Content-Type", "application/octet-stream");
    http_call_body_file(g->put, fd_take(&fd), 0, bytes);
    http_call_send(g->put);
}

/* ---- the end ---- */

static void on_end(void *arg, const struct node_call_end *end)
{
    struct node_guest *g = arg;
    struct node_answer a;

    g->call = NULL;
    if (end->rc != 0 || node_answer_parse(end->text, &a, NULL) != 0) {
        again(g, end->why);
        return;
    }
    node_guest_over(g);
}

void node_report_go(struct node_guest *g)
{
    AUTO_BUF struct buf body = BUF_INIT(NODE_MSG_MAX);

    if (g->put != NULL || g->work.busy) {
        return;
    }
    g->call = node_call_cancel(g->call); /* that it runs is no news any more */
    if (!g->gathered && node_is_self(g->node, str_of(g->owner))) {
        g->gathered = true; /* its files are where they belong */
        memset(g->sent, true, sizeof(g->sent));
    }
    if (!g->gathered) {
        INSIST(loop_work_start(&g->work, &g->node->owner, gather_work, gather_done) == 0);
        return;
    }
    for (size_t i = 0; i < NODE_FILES; i++) {
        if (!g->sent[i]) {
            put_file(g, i);
            return;
        }
    }
    g->report.run = g->run;
    node_report_write(&body, &g->report);
    g->call = node_call_post(g->node, g->owner, "/v1/peer/end", &body, NODE_REPORT_MS, on_end, g);
}
