/*
 * Probes: what the table says of a peer's load is up to seconds old, so before a run goes to a
 * peer, the best few (routing.probes) are asked how busy they are now.
 *
 *   decision falls on a peer that was not asked within 500 ms ─> the shortlist is asked ─> answers,
 * or 5 ms ─> decided again; at most ROUTE_PROBE_ROUNDS times
 *
 * An answer that comes later than the decision still counts for the next ones.
 */
#include "agent/node/uv_node_internal.h"
#include "common/mem.h"

struct probe {
    struct node *node;
    struct node_live *live; /* who waits for it, if that is still generation */
    uint64_t generation;
    unsigned round;
    char peer[RUN_NODE_CAP];
};

static void go_on(struct node_live *l)
{
    l->probes_until_ms = 0;
    l->probes_out = 0;
    node_live_answer(l, LIVE_ASK_PLACE);
}

static void on_late(struct loop_timer *t)
{
    struct node *n = CONTAINER_OF(t, struct node, probes);
    uint64_t now = loop_now_ms(n->loop);
    uint64_t next = UINT64_MAX;

    LIST_EACH (pos, &n->live) {
        struct node_live *l = LIST_ITEM(pos, struct node_live, link);
        if (l->probes_until_ms == 0 || n->closing) {
            continue;
        }
        if (now >= l->probes_until_ms) {
            go_on(l);
        } else if (l->probes_until_ms < next) {
            next = l->probes_until_ms;
        }
    }
    if (next != UINT64_MAX) {
        loop_timer_start(t, next - now, 0);
    }
}

void node_probes_init(struct node *n)
{
    loop_timer_init(&n->probes, &n->owner, on_late);
}

static void on_probed(void *arg, const struct node_call_end *end)
{
    struct probe *p = arg;
    struct node *n = p->node;
    struct node_live *l = p->live;
    struct node_answer a;

    if (!n->closing && end->rc == 0 && node_answer_parse(end->text, &a, NULL) == 0) {
        struct node_event ev = { .type = NODE_EV_PROBED,
                                 .peer = { .name = p->peer,
                                           .slots_free = a.slots_free,
                                           .memory_free_bytes = a.memory_free_bytes,
                                           .wait_us = a.wait_us } };
        node_feed(n, &ev);
    }
    if (!n->closing && l->generation == p->generation && l->probe_rounds == p->round &&
        l->probes_until_ms != 0 && --l->probes_out == 0) {
        go_on(l);
    }
    mem_free(p);
}

static void ask(struct node_live *l, const char *peer)
{
    static const char nothing[] = "{}";
    struct node *n = l->node;
    AUTO_BUF struct buf body = BUF_INIT(sizeof(nothing));
    struct probe *p = mem_zalloc(sizeof(*p));

    (void)buf_adds(&body, nothing);
    if (p == NULL || buf_error(&body) != 0) {
        mem_free(p);
        return; /* then it is decided by what the table says */
    }
    *p = (struct probe){
        .node = n, .live = l, .generation = l->generation, .round = l->probe_rounds
    };
    (void)str_copy(p->peer, sizeof(p->peer), str_of(peer));
    l->probes_out++;
    (void)node_call_post(n, peer, "/v1/peer/probe", &body, NODE_PROBE_ANSWER_MS, on_probed, p);
}

bool node_probes_ask(struct node_live *l, const struct node_event *place)
{
    struct node *n = l->node;
    const char *peers[NODE_PROBES_MAX];
    size_t max = (size_t)n->settings.routing.probes;

    if (l->probe_rounds >= ROUTE_PROBE_ROUNDS) {
        return false;
    }
    size_t len = node_core_to_probe(n->core, &l->run, place, max, peers);
    if (len == 0) {
        return false;
    }
    l->probe_rounds++;
    l->probes_out = 0;
    for (size_t i = 0; i < len; i++) {
        ask(l, peers[i]);
    }
    if (l->probes_out == 0) {
        return false;
    }
    l->probes_until_ms = loop_now_ms(n->loop) + NODE_PROBE_WAIT_MS;
    if (!loop_timer_active(&n->probes)) {
        loop_timer_start(&n->probes, NODE_PROBE_WAIT_MS, 0);
    }
    return true;
}
