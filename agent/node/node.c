#include "agent/node/node.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/node/node_core_internal.h"
#include "agent/routing/size.h"
#include "common/insist.h"
#include "common/mem.h"

/* A run that found no room here is tried again within this. */
enum { WANTED_MS = 2 * JOB_NO_ROOM_MS };

/* Room that an attempt holds from PLACED (or its acceptance as a guest) to its end. */
struct reservation {
    struct ulid id; /* the map's key */
    uint32_t attempt;
    uint64_t memory_bytes;
    enum run_cache cache;
};

static const struct {
    const char *name;
    int status;
} codes[] = {
    [NODE_OK] = { "ok", 200 },
    [NODE_BAD_JSON] = { "bad_json", 400 },
    [NODE_INVALID_DOCUMENT] = { "invalid_document", 422 },
    [NODE_UNKNOWN_JOB] = { "unknown_job", 404 },
    [NODE_UNKNOWN_RUN] = { "unknown_run", 404 },
    [NODE_UNKNOWN_IMAGE] = { "unknown_image", 422 },
    [NODE_PRECONDITION] = { "precondition_failed", 412 },
    [NODE_KEY_REUSED] = { "idempotency_key_reused", 422 },
    [NODE_KEY_IN_FLIGHT] = { "idempotency_in_flight", 409 },
    [NODE_QUEUE_FULL] = { "queue_full", 503 },
    [NODE_NO_MATCH] = { "no_match", 422 },
    [NODE_DISK_FULL] = { "disk_full", 507 },
    [NODE_DRAINING] = { "draining", 503 },
    [NODE_CONFLICT] = { "conflict", 409 },
    [NODE_STARTING] = { "starting", 503 },
    [NODE_FORBIDDEN] = { "forbidden", 403 },
    [NODE_UNAUTHORIZED] = { "unauthorized", 401 },
    [NODE_REPLAYED] = { "replayed", 409 },
    [NODE_IGNORED] = { "ignored", 200 },
    [NODE_UNKNOWN_SECRET] = { "unknown_secret", 404 },
    [NODE_TOO_FEW] = { "too_few_replicas", 503 },
    [NODE_UNKNOWN_TRIGGER] = { "unknown_trigger", 404 },
    [NODE_AMBIGUOUS] = { "ambiguous", 409 },
    [NODE_UNKNOWN_CALLBACK] = { "unknown_callback", 404 },
    [NODE_INTERNAL] = { "internal", 500 },
};

const char *node_code_name(enum node_code code)
{
    REQUIRE((size_t)code < ARRAY_LEN(codes));
    return codes[code].name;
}

int node_code_status(enum node_code code)
{
    REQUIRE((size_t)code < ARRAY_LEN(codes));
    return codes[code].status;
}

int node_core_new(const struct node_core_config *cfg, struct node_core **ret)
{
    struct node_core *c = mem_zalloc(sizeof *c);

    if (c == NULL) {
        return -ENOMEM;
    }
    int rc = node_core_peers_init(c);
    if (rc == 0) {
        rc = job_core_new(&cfg->jobs, &c->jobs);
    }
    if (rc != 0) {
        node_core_peers_release(c);
        mem_free(c);
        return rc;
    }
    run_set_text(c->name, sizeof c->name, str_of(cfg->name));
    rng_init(&c->rng, cfg->jobs.seed ^ 0x726f757465);
    c->settle_ms = cfg->settle_ms;
    map_init(&c->held, SANDBOX_SLOTS_MAX, cfg->jobs.k0, cfg->jobs.k1);
    *ret = c;
    return 0;
}

struct node_core *node_core_free(struct node_core *c)
{
    if (c == NULL) {
        return NULL;
    }
    struct reservation *r;
    for (size_t i = 0; (r = map_next(&c->held, &i)) != NULL;) {
        mem_free(r);
    }
    map_release(&c->held);
    node_core_peers_release(c);
    job_core_free(c->jobs);
    return mem_free(c);
}

static struct str id_key(const struct ulid *id)
{
    return (struct str){ (const char *)id->b, sizeof id->b };
}

/* Takes room; also more than there is, for a run that is alive already. */
static int hold(struct node_core *c, struct ulid id, uint32_t attempt, uint64_t memory_bytes,
                enum run_cache cache)
{
    struct reservation *r = mem_zalloc(sizeof *r);

    if (r == NULL) {
        return -ENOMEM;
    }
    *r = (struct reservation){
        .id = id, .attempt = attempt, .memory_bytes = memory_bytes, .cache = cache
    };
    int rc = map_add(&c->held, id_key(&r->id), r);
    if (rc != 0) {
        mem_free(r);
        return rc;
    }
    c->slots_used++;
    c->memory_used += memory_bytes;
    c->cache_used[cache]++;
    return 0;
}

static enum run_cache cache_of(const struct route_request *req)
{
    return req->cache_sensitive ? RUN_CACHE_SENSITIVE
           : req->pollutes      ? RUN_CACHE_POLLUTER
                                : RUN_CACHE_DEFAULT;
}

static bool give_back(struct node_core *c, struct ulid id, uint32_t attempt)
{
    struct reservation *r = map_get(&c->held, id_key(&id));

    if (r == NULL || r->attempt != attempt) {
        return false;
    }
    (void)map_remove(&c->held, id_key(&id));
    INSIST(c->slots_used > 0 && c->memory_used >= r->memory_bytes);
    c->slots_used--;
    c->memory_used -= r->memory_bytes;
    c->cache_used[r->cache]--;
    mem_free(r);
    return true;
}

/* An attempt's answers that mean: it holds no room here (any more). */
static bool frees_room(enum job_event_type type)
{
    return type == JOB_EV_ENDED || type == JOB_EV_PREPARE_FAILED || type == JOB_EV_NO_ROOM ||
           type == JOB_EV_REFUSED;
}

/* A run on a peer is over: the room there is free again, as far as we know. */
static void elsewhere_over(struct node_core *c, const struct job_event *ev, struct node_effects *fx)
{
    struct node_core_peer *p = node_core_peer_find(c, str_of(ev->node));
    struct run run;

    if (p != NULL && job_core_run(c->jobs, ev->id, &run) && run.attempt == ev->attempt) {
        node_core_peer_give(p, node_reserve_of(&run.limits));
        p->blocked_ms = 0; /* whatever it refused, there is a slot now */
        fx->capacity = true;
    }
}

/* The mean of how long runs take, the last ones weighing most. */
static void learn_duration(struct node_core *c, const struct job_result *r, int64_t now_us)
{
    int64_t ended_us = r->ended_us != 0 ? r->ended_us : now_us;

    if (r->started_us == 0 || ended_us < r->started_us) {
        return;
    }
    uint64_t us = (uint64_t)(ended_us - r->started_us);
    c->run_us = c->run_us == 0 ? us : c->run_us - c->run_us / 8 + us / 8;
}

/* Killed for memory, and nobody asked for just that limit: again at once with more, if the node has
 * more to give. */
static uint64_t grow_after(const struct node_core *c, const struct job_event *ev)
{
    struct run run;

    if (ev->type != JOB_EV_ENDED || ev->result->reason != RUN_REASON_OOM ||
        !job_core_run(c->jobs, ev->id, &run) || !run.limits.memory_learned) {
        return 0;
    }
    return route_size_grow(run.limits.memory_bytes, c->room.memory_bytes);
}

static void job_event(struct node_core *c, const struct job_event *ev, struct node_effects *fx)
{
    struct job_event grown = *ev;
    struct job_result result;
    uint64_t grow = grow_after(c, ev);

    if (frees_room(ev->type) && ev->elsewhere) {
        elsewhere_over(c, ev, fx);
    } else if (frees_room(ev->type) && give_back(c, ev->id, ev->attempt)) {
        fx->capacity = true;
    }
    if (ev->type == JOB_EV_ENDED && !ev->elsewhere) {
        learn_duration(c, ev->result, ev->now_us);
    }
    if (ev->type == JOB_EV_STARTED && !ev->elsewhere &&
        map_get(&c->held, id_key(&ev->id)) == NULL) {
        struct run run;
        /* It was alive before we were. Without memory for the note it is simply not counted. */
        bool known = job_core_run(c->jobs, ev->id, &run);
        (void)hold(c, ev->id, ev->attempt, known ? node_reserve_of(&run.limits) : 0,
                   known && run.limits.cache < RUN_CACHE_COUNT ? (enum run_cache)run.limits.cache
                                                               : RUN_CACHE_DEFAULT);
    }
    if (grow != 0) {
        result = *ev->result;
        result.grow_bytes = grow;
        grown.result = &result;
    }
    job_step(c->jobs, &grown, &fx->jobs);
}

struct route_candidate node_core_self(const struct node_core *c)
{
    unsigned free_slots = c->room.slots > c->slots_used ? c->room.slots - c->slots_used : 0;
    uint64_t free_memory =
        c->room.memory_bytes > c->memory_used ? c->room.memory_bytes - c->memory_used : 0;

    return (struct route_candidate){
        .node = str_of(c->name),
        .local = true,
        .draining = job_core_draining(c->jobs),
        .memory_bytes = c->room.memory_bytes,
        .memory_free_bytes = free_memory,
        .cpu_milli = c->room.cpu_milli,
        .slots = c->room.slots,
        .slots_free = free_slots,
        .polluters = c->cache_used[RUN_CACHE_POLLUTER],
        .sensitive = c->cache_used[RUN_CACHE_SENSITIVE],
        .arch = c->class_self.arch,
        .isa = c->class_self.isa,
        .cold_us = NODE_COLD_US,
        .facts = c->facts,
        .facts_len = c->facts_len,
    };
}

/* run: whose placement it is; NULL: none in particular. */
static void decide(struct node_core *c, const struct run *run, const struct route_request *request,
                   uint64_t image, bool image_warm, struct route_decision *ret, size_t *ret_len)
{
    struct route_request req = *request;
    struct node_peer load;

    node_core_load(c, &load);
    if (run != NULL && run->queued_us != 0 && c->now_us > run->queued_us) {
        req.waited_us = (uint64_t)(c->now_us - run->queued_us);
    }
    c->candidates[0] = node_core_self(c);
    c->candidates[0].image_warm = image_warm;
    if (c->candidates[0].slots_free == 0) {
        c->candidates[0].wait_us = load.wait_us;
    }
    *ret_len = node_core_candidates(c, image);
    node_core_learned(c, run, &req, *ret_len);
    route_decide(&req, c->candidates, *ret_len, c->verdicts, ret);
}

void node_core_what_if(struct node_core *c, const struct run *run, struct route_request *request,
                       uint64_t image, bool image_warm, struct node_effects *ret)
{
    struct rng before = c->rng;

    decide(c, run, request, image, image_warm, &ret->decision, &ret->candidates_len);
    c->rng = before; /* the question changes no decision to come */
    request->policy = c->policy;
    ret->decided = true;
    ret->candidates = c->candidates;
    ret->verdicts = c->verdicts;
}

size_t node_core_to_probe(struct node_core *c, const struct run *run,
                          const struct node_event *place, size_t max, const char **ret)
{
    struct route_request req = place->request;
    struct rng before = c->rng;
    struct route_decision d;
    size_t at[NODE_PROBES_MAX];
    size_t len;

    decide(c, run, &req, place->image, place->image_warm, &d, &len);
    c->rng = before; /* the same draws decide */
    if (c->policy != ROUTE_LEARNED || d.chosen <= 0 || c->candidates[d.chosen].probed) {
        return 0;
    }
    req.policy = c->policy;
    max = max < NODE_PROBES_MAX ? max : NODE_PROBES_MAX;
    size_t n = route_shortlist(&req, c->candidates, len, c->verdicts, max, at);
    for (size_t i = 0; i < n; i++) {
        ret[i] = c->peers[at[i] - 1]->name;
    }
    return n;
}

bool node_core_possible(struct node_core *c, const struct route_request *request,
                        struct route_verdict *verdict)
{
    struct route_decision decision;
    size_t n;

    decide(c, NULL, request, 0, true, &decision, &n);
    *verdict = c->verdicts[0];
    if (verdict->kind == ROUTE_DRAINING) {
        return true; /* it is not asked what it has */
    }
    return decision.possible;
}

static const char *why_not(const struct route_verdict *v, const struct route_request *req,
                           struct err *e)
{
    struct str r;

    switch (v->kind) {
    case ROUTE_REQUIREMENT:
        r = req->require[v->require_index];
        (void)err_say(e, -ENOENT, "no node meets '%.*s'", STR_ARG(r));
        break;
    case ROUTE_TOO_MUCH_MEMORY:
        (void)err_say(e, -ENOENT, "no node has %llu bytes of memory for runs",
                      (unsigned long long)(req->memory_limit_bytes > req->memory_bytes
                                               ? req->memory_limit_bytes
                                               : req->memory_bytes));
        break;
    case ROUTE_TOO_MANY_CPUS:
        (void)err_say(e, -ENOENT, "no node has %u.%03u processors", req->cpu_milli / 1000,
                      req->cpu_milli % 1000);
        break;
    case ROUTE_OTHER_ARCH:
        (void)err_say(e, -ENOENT, "no node has the image's architecture, '%.*s'",
                      STR_ARG(req->arch));
        break;
    case ROUTE_ISA:
        (void)err_say(e, -ENOENT, "no node has the instructions that the image needs (x86-64-v%u)",
                      req->isa);
        break;
    case ROUTE_FIT:
    case ROUTE_BUSY:
    case ROUTE_DRAINING:
    case ROUTE_REFUSED:
        (void)err_say(e, -ENOENT, "no node takes it");
        break;
    }
    return err_text(e);
}

void node_core_why_not(const struct route_verdict *v, const struct route_request *req, char *dst)
{
    struct err e = { .code = 0 };

    (void)snprintf(dst, ERR_TEXT_MAX, "%s", why_not(v, req, &e));
}

/* May a node that is draining take it later? */
static bool somebody_drains(const struct node_core *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (c->verdicts[i].kind == ROUTE_DRAINING) {
            return true;
        }
    }
    return false;
}

/* A run that was cancelled meanwhile does not use its room: it has ended or is queued again. */
static bool still_placed(const struct node_core *c, const struct job_event *ev)
{
    struct run run;

    return job_core_run(c->jobs, ev->id, &run) && run.attempt == ev->attempt &&
           (run.state == RUN_PLACED || run.state == RUN_PREPARING);
}

static void place(struct node_core *c, const struct node_event *ev, struct node_effects *fx)
{
    struct job_event answer = ev->job;
    struct job_result refusal = { .reason = RUN_REASON_NO_MATCH, .exit_code = -1 };
    struct err why = { 0 };
    struct run run;
    bool known = job_core_run(c->jobs, ev->job.id, &run);

    decide(c, known ? &run : NULL, &ev->request, ev->image, ev->image_warm, &fx->decision,
           &fx->candidates_len);
    fx->decided = true;
    fx->candidates = c->candidates;
    fx->verdicts = c->verdicts;
    if (fx->decision.chosen > 0) {
        struct node_core_peer *p = c->peers[fx->decision.chosen - 1];
        node_core_peer_take(p, ev->request.memory_bytes);
        fx->offer = p->name;
        return;
    }
    answer.type = JOB_EV_NO_ROOM;
    if (fx->verdicts[0].kind == ROUTE_BUSY) {
        c->wanted_ms = c->now_ms + WANTED_MS;
    }
    if (fx->decision.chosen == 0 &&
        hold(c, answer.id, answer.attempt, ev->request.memory_bytes, cache_of(&ev->request)) == 0) {
        answer.type = JOB_EV_PLACED;
        answer.node = c->name;
    } else if (!fx->decision.possible && c->now_ms >= c->settled_ms &&
               !somebody_drains(c, fx->candidates_len)) {
        answer.type = JOB_EV_REFUSED;
        refusal.detail = why_not(&fx->verdicts[0], &ev->request, &why);
        answer.result = &refusal;
    }
    job_step(c->jobs, &answer, &fx->jobs);
    if (answer.type == JOB_EV_PLACED && !still_placed(c, &answer)) {
        fx->capacity = give_back(c, answer.id, answer.attempt);
    }
}

static void offered(struct node_core *c, const struct node_event *ev, struct node_effects *fx)
{
    struct node_core_peer *p = node_core_peer_find(c, str_of(ev->peer.name));
    struct job_event answer = ev->job;

    if (ev->offered == NODE_OFFER_ACCEPTED) {
        answer.type = JOB_EV_PLACED;
        answer.node = ev->peer.name;
        answer.elsewhere = true;
        job_step(c->jobs, &answer, &fx->jobs);
        fx->recall = !still_placed(c, &answer);
        if (fx->recall && p != NULL) {
            node_core_peer_give(p, ev->request.memory_bytes);
        }
        return;
    }
    if (p == NULL) {
        return;
    }
    /* What it had free just now may be free again before its next word, which only comes when that
     * is something else: so the figures stay, and it is left alone for a while. */
    node_core_peer_give(p, ev->request.memory_bytes);
    if (ev->offered == NODE_OFFER_REFUSED) {
        uint64_t wait_ms = ev->peer.wait_us / 1000;
        wait_ms = wait_ms < NODE_REFUSED_MIN_MS ? NODE_REFUSED_MIN_MS : wait_ms;
        p->blocked_ms = c->now_ms + (wait_ms < NODE_REFUSED_MS ? wait_ms : NODE_REFUSED_MS);
        p->p.wait_us = ev->peer.wait_us;
    } else {
        p->blocked_ms = c->now_ms + NODE_UNREACHED_MS;
    }
}

/* Does a run of this node's wait for room here? One that only another node can take does not count:
 * nodes whose runs wait for each other would wait for ever. */
static bool is_wanted(const struct node_core *c)
{
    return c->now_ms < c->wanted_ms && job_core_wants_room(c->jobs);
}

/* Room for a peer's run? Who waits for it here goes first. */
static void guest(struct node_core *c, const struct node_event *ev, struct node_effects *fx)
{
    const struct reservation *r = map_get(&c->held, id_key(&ev->job.id));
    const struct route_candidate self = node_core_self(c);
    struct route_verdict verdict;
    struct route_decision decision;

    if (r != NULL) {
        fx->guest = r->attempt == ev->job.attempt ? NODE_GUEST_TAKEN : NODE_GUEST_BUSY;
        return;
    }
    if (ev->type == NODE_EV_GUEST_BACK) {
        fx->guest = NODE_GUEST_TAKEN;
        (void)hold(c, ev->job.id, ev->job.attempt, ev->request.memory_bytes,
                   cache_of(&ev->request));
        return;
    }
    route_decide(&ev->request, &self, 1, &verdict, &decision);
    if (verdict.kind == ROUTE_DRAINING) {
        fx->guest = NODE_GUEST_DRAINING;
    } else if (!decision.possible) {
        fx->guest = NODE_GUEST_IMPOSSIBLE;
    } else if (decision.chosen != 0 || is_wanted(c) ||
               hold(c, ev->job.id, ev->job.attempt, ev->request.memory_bytes,
                    cache_of(&ev->request)) != 0) {
        fx->guest = NODE_GUEST_BUSY;
    } else {
        fx->guest = NODE_GUEST_TAKEN;
    }
}

static void room(struct node_core *c, const struct node_event *ev)
{
    c->room = ev->room;
    c->settled_ms = c->settled_ms != 0 ? c->settled_ms : c->now_ms + c->settle_ms;
    c->facts_len = ev->facts_len < NODE_FACTS_MAX ? ev->facts_len : NODE_FACTS_MAX;
    if (c->facts_len != 0) {
        memcpy(c->facts, ev->facts, c->facts_len * sizeof c->facts[0]);
    }
    node_class_of(c->facts, c->facts_len, &c->class_self);
}

void node_core_step(struct node_core *c, const struct node_event *ev, struct node_effects *fx)
{
    fx->jobs.n = 0;
    fx->capacity = false;
    fx->decided = false;
    fx->candidates_len = 0;
    fx->offer = NULL;
    fx->recall = false;
    fx->guest = NODE_GUEST_NONE;
    if (ev->job.now_ms > c->now_ms) {
        c->now_ms = ev->job.now_ms;
    }
    c->now_us = ev->job.now_us;
    switch (ev->type) {
    case NODE_EV_JOB:
        job_event(c, &ev->job, fx);
        return;
    case NODE_EV_PLACE:
        place(c, ev, fx);
        return;
    case NODE_EV_ROOM:
        room(c, ev);
        fx->capacity = true;
        return;
    case NODE_EV_PEER:
        fx->capacity = node_core_peer_set(c, &ev->peer);
        return;
    case NODE_EV_PROBED:
        node_core_peer_probed(c, &ev->peer);
        return;
    case NODE_EV_OFFERED:
        offered(c, ev, fx);
        return;
    case NODE_EV_GUEST:
    case NODE_EV_GUEST_BACK:
        guest(c, ev, fx);
        return;
    case NODE_EV_GUEST_OVER:
        fx->capacity = give_back(c, ev->job.id, ev->job.attempt);
        return;
    }
    INSIST(false); /* the types above are all there are */
}

uint64_t node_core_deadline_ms(const struct node_core *c)
{
    return job_deadline_ms(c->jobs);
}

struct job_core *node_core_jobs(struct node_core *c)
{
    return c->jobs;
}

const struct node_room *node_core_room(const struct node_core *c)
{
    return &c->room;
}

unsigned node_core_slots_used(const struct node_core *c)
{
    return c->slots_used;
}

uint64_t node_core_memory_used(const struct node_core *c)
{
    return c->memory_used;
}

void node_core_load(const struct node_core *c, struct node_peer *ret)
{
    const struct route_candidate self = node_core_self(c);
    struct job_counts counts;

    job_core_counts(c->jobs, &counts);
    *ret = (struct node_peer){
        .name = c->name,
        .state = self.draining ? NODE_PEER_DRAINING : NODE_PEER_ALIVE,
        .has = NODE_PEER_HAS_LOAD | NODE_PEER_HAS_FACTS,
        .room = c->room,
        .slots_free = is_wanted(c) ? 0 : self.slots_free,
        .memory_free_bytes = self.memory_free_bytes,
        .polluters = self.polluters,
        .sensitive = self.sensitive,
        .facts = c->facts,
        .facts_len = c->facts_len,
    };
    if (ret->slots_free == 0 && c->room.slots != 0) {
        ret->wait_us = c->run_us * (counts.queued + 1) / c->room.slots;
    }
}

bool node_core_settled(const struct node_core *c, uint64_t now_ms)
{
    return c->settled_ms != 0 && now_ms >= c->settled_ms;
}
