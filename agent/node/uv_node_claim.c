/*
 * Keys that are claimed for the whole cluster: idempotency keys, event ids, webhook deliveries,
 * firings of schedules.
 *
 *   ask the key's first arbiter, look at the second ─┬─ nobody had it: ours; the second is told
 *                                                    └─ somebody's run ─ its record ─> replayed
 *                                                          └─ nowhere (its node died before it was
 *                                                             durable): after a while it is ours
 *
 * Arbiters are the first `store.replicas` live members in rendezvous order of the key. A member
 * that joined since is asked first and knows nothing: that is what the look at the second is for.
 * Each side of a split has its own.
 */
#include <errno.h>
#include <string.h>

#include "agent/node/uv_node_copy.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    ANSWER_MS = 2000,
    WAIT_MS = 100,       /* for a run that is just being accepted elsewhere */
    WAITS_MAX = 30,      /* then the client is told so */
    STRANDED_MS = 10000, /* a claim this old without a run is given to the next who asks */
};

struct claiming {
    struct list link;
    struct node *node;
    char key[JOB_STORE_KEY_MAX + 1];
    struct job_claim claim;
    node_claim_fn *fn;
    void *arg;
    uint32_t arbiters[2];
    size_t n, pending;
    struct job_claim said[2];
    bool heard[2];
    unsigned waits, rounds;
    uint64_t due_ms;
};

/* ---- messages ---- */

static const char *const hows[] = { [JOB_CLAIM_ASK] = "ask",
                                    [JOB_CLAIM_SET] = "set",
                                    [JOB_CLAIM_LOOK] = "look",
                                    [JOB_CLAIM_DROP] = "drop" };

static void kv_id(struct json_w *w, const char *key, struct ulid id)
{
    char text[ULID_TEXT_CAP];

    json_kv_cstr(w, key, node_id_text(id, text));
}

static void claim_write(struct buf *out, const char *key, const struct job_claim *c, bool answer)
{
    char hash[2 * sizeof(c->hash) + 1];
    struct json_w w;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_kv_u64(&w, "v", 1);
    json_kv_cstr(&w, "how", hows[c->how]);
    json_kv_cstr(&w, "key", key);
    kv_id(&w, "run", answer ? c->known : c->run);
    kv_id(&w, "instead_of", c->instead_of);
    str_hex(hash, answer ? c->known_hash : c->hash, sizeof(c->hash));
    json_kv_cstr(&w, "hash", hash);
    json_kv_int(&w, "at_us", answer ? c->known_us : c->at_us);
    json_kv_bool(&w, "granted", c->granted);
    json_kv_bool(&w, "known", c->is_known);
    json_w_end(&w);
}

static int claim_parse(struct str text, char key[JOB_STORE_KEY_MAX + 1], struct job_claim *ret,
                       struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct job_claim c = { .how = JOB_CLAIM_LOOK };
    struct str how;
    struct str run;
    struct str other;
    struct str hash;
    struct str name;
    int64_t version = 0;
    bool found = false;
    int rc = json_parse(text.p, text.n, NULL, &doc, e);

    if (rc != 0) {
        return rc;
    }
    const struct json *o = json_root(doc);
    if (!json_int(json_get(o, "v"), &version) || version != 1 ||
        !json_str(json_get(o, "how"), &how) || !json_str(json_get(o, "key"), &name) ||
        name.n == 0 || str_copy(key, JOB_STORE_KEY_MAX + 1, name) != 0 ||
        !json_str(json_get(o, "run"), &run) || ulid_parse(run, &c.run) != 0 ||
        !json_str(json_get(o, "instead_of"), &other) || ulid_parse(other, &c.instead_of) != 0 ||
        !json_str(json_get(o, "hash"), &hash) || str_unhex(hash, c.hash, sizeof(c.hash)) != 0 ||
        !json_int(json_get(o, "at_us"), &c.at_us) ||
        !json_bool(json_get(o, "granted"), &c.granted) ||
        !json_bool(json_get(o, "known"), &c.is_known)) {
        return err_say(e, -EINVAL, "not a claim, or of another version");
    }
    for (size_t i = 0; i < ARRAY_LEN(hows); i++) {
        if (str_eqs(how, hows[i])) {
            c.how = (enum job_claim_how)i;
            found = true;
        }
    }
    *ret = c;
    return found ? 0 : err_say(e, -EINVAL, "a claim of a kind that is not known here");
}

static void on_asked(void *arg, int status, const struct job_claim *claim)
{
    struct node_query *q = arg;

    if (status != 0) {
        node_query_refuse(q, NODE_STARTING, "the claim could not be stored: %s", err_name(status));
        return;
    }
    claim_write(&q->text, "-", claim, true);
    node_query_text(q);
}

void node_claim_asked(struct node *n, struct node_query *q, struct str body)
{
    char key[JOB_STORE_KEY_MAX + 1];
    struct job_claim c;
    struct err e = { .code = 0 };

    if (claim_parse(body, key, &c, &e) != 0) {
        node_query_refuse(q, NODE_BAD_JSON, "%s", err_text(&e));
        return;
    }
    node_asked(job_store_claim(n->store, str_of(key), &c, on_asked, q));
}

/* ---- telling without waiting ---- */

static void told(void *arg, const struct node_call_end *end)
{
    (void)arg;
    (void)end;
}

static void told_self(void *arg, int status, const struct job_claim *claim)
{
    (void)arg;
    (void)status;
    (void)claim;
}

static void tell(struct node *n, uint32_t arbiter, const char *key, const struct job_claim *c)
{
    AUTO_BUF struct buf body = BUF_INIT(4096);
    const char *name = node_core_peer_name(n->core, arbiter);

    if (arbiter == n->id32) {
        node_asked(job_store_claim(n->store, str_of(key), c, told_self, n));
    } else if (name != NULL) {
        claim_write(&body, key, c, false);
        (void)node_call_post(n, name, "/v1/peer/claim", &body, ANSWER_MS, told, n);
    }
}

void node_claim_drop(struct node *n, struct str key, struct ulid run)
{
    uint32_t live[NODE_MEMBERS_MAX];
    uint32_t arbiters[2];
    const struct job_claim c = { .how = JOB_CLAIM_DROP, .run = run, .at_us = sys_wall_us() };
    char name[JOB_STORE_KEY_MAX + 1];
    size_t len = node_live_ids(n, live, NODE_MEMBERS_MAX);

    len = job_replica_arbiters(key, live, len, arbiters, ARRAY_LEN(arbiters));
    if (str_copy(name, sizeof(name), key) == 0) {
        for (size_t i = 0; i < len; i++) {
            tell(n, arbiters[i], name, &c);
        }
    }
}

/* ---- asking ---- */

static void ask(struct claiming *x);

static void claim_end(struct claiming *x, enum node_code code, const struct run *run)
{
    list_remove(&x->link);
    if (!x->node->closing) {
        x->fn(x->arg, code, run);
    }
    mem_free(x);
}

static void on_located(void *arg, const char *name, const struct run *run)
{
    struct claiming *x = arg;
    struct node *n = x->node;
    int64_t age_us = sys_wall_us() - x->said[0].at_us;

    (void)name;
    if (run != NULL) {
        claim_end(x, NODE_OK, run);
    } else if (age_us > (int64_t)STRANDED_MS * 1000 && x->rounds < 3) {
        x->claim.instead_of = x->said[0].run;
        ask(x);
    } else if (x->waits++ < WAITS_MAX) {
        x->due_ms = loop_now_ms(n->loop) + WAIT_MS;
        loop_timer_start(&n->claim_timer, WAIT_MS, 0);
    } else {
        claim_end(x, NODE_KEY_IN_FLIGHT, NULL);
    }
}

/* It is the run of said[0]. */
static void somebodys(struct claiming *x)
{
    if (memcmp(x->said[0].hash, x->claim.hash, sizeof(x->claim.hash)) != 0) {
        claim_end(x, NODE_KEY_REUSED, NULL);
    } else {
        node_locate(x->node, x->said[0].run, true, on_located, x);
    }
}

static void decide(struct claiming *x)
{
    struct node *n = x->node;
    struct job_claim other;

    if (!x->heard[0] && ++x->rounds < 3) {
        ask(x); /* whoever is alive now decides */
        return;
    }
    if (!x->heard[0]) {
        claim_end(x, NODE_STARTING, NULL);
        return;
    }
    if (!x->said[0].granted) {
        somebodys(x);
        return;
    }
    bool older = x->n > 1 && x->heard[1] && x->said[1].is_known &&
                 !ulid_eq(x->said[1].run, x->claim.run) &&
                 !ulid_eq(x->said[1].run, x->claim.instead_of);
    if (older) {
        /* Claimed before the first arbiter came. */
        x->said[0] = other = x->said[1];
        other.how = JOB_CLAIM_SET;
        tell(n, x->arbiters[0], x->key, &other);
        somebodys(x);
        return;
    }
    if (x->n > 1) {
        other = x->claim;
        other.how = JOB_CLAIM_SET;
        tell(n, x->arbiters[1], x->key, &other);
    }
    claim_end(x, NODE_OK, NULL);
}

struct one {
    struct claiming *all;
    size_t at;
};

static void heard(struct one *one, bool good, const struct job_claim *c)
{
    struct claiming *x = one->all;

    x->heard[one->at] = good;
    if (good) {
        x->said[one->at] = *c;
    }
    mem_free(one);
    if (--x->pending == 0 && !x->node->closing) {
        decide(x);
    }
}

static void on_self(void *arg, int status, const struct job_claim *claim)
{
    struct job_claim c = { .how = JOB_CLAIM_LOOK };

    if (status == 0) { /* as an answer over the network */
        c = *claim;
        c.run = claim->known;
        memcpy(c.hash, claim->known_hash, sizeof(c.hash));
        c.at_us = claim->known_us;
    }
    heard(arg, status == 0, &c);
}

static void on_peer(void *arg, const struct node_call_end *end)
{
    char key[JOB_STORE_KEY_MAX + 1];
    struct job_claim c = { .how = JOB_CLAIM_LOOK };

    heard(arg, end->rc == 0 && claim_parse(end->text, key, &c, NULL) == 0, &c);
}

static void ask_one(struct claiming *x, size_t at)
{
    struct node *n = x->node;
    AUTO_BUF struct buf body = BUF_INIT(4096);
    const char *name = node_core_peer_name(n->core, x->arbiters[at]);
    struct job_claim c = x->claim;
    struct one *one = mem_alloc(sizeof(*one));

    if (one == NULL) {
        node_out_of_memory("a claim");
    }
    *one = (struct one){ .all = x, .at = at };
    c.how = at == 0 ? JOB_CLAIM_ASK : JOB_CLAIM_LOOK;
    if (x->arbiters[at] == n->id32) {
        node_asked(job_store_claim(n->store, str_of(x->key), &c, on_self, one));
    } else {
        claim_write(&body, x->key, &c, false);
        (void)node_call_post(n, name != NULL ? name : "", "/v1/peer/claim", &body, ANSWER_MS,
                             on_peer, one);
    }
}

static void ask(struct claiming *x)
{
    uint32_t live[NODE_MEMBERS_MAX];
    size_t len = node_live_ids(x->node, live, NODE_MEMBERS_MAX);
    size_t want = x->node->settings.store.replicas > 1 ? 2 : 1;

    x->n = job_replica_arbiters(str_of(x->key), live, len, x->arbiters, want);
    if (x->n == 0) {
        claim_end(x, NODE_OK, NULL); /* draining, and alone */
        return;
    }
    x->heard[0] = x->heard[1] = false;
    x->pending = x->n;
    for (size_t i = 0; i < x->n; i++) {
        ask_one(x, i);
    }
}

bool node_claim(struct node *n, struct str key, struct ulid run, const uint8_t hash[32],
                node_claim_fn *fn, void *arg)
{
    uint32_t live[2];

    if (node_live_ids(n, live, ARRAY_LEN(live)) < 2 && list_empty(&n->places)) {
        return false;
    }
    struct claiming *x = mem_zalloc(sizeof(*x));
    if (x == NULL) {
        node_out_of_memory("a claim");
    }
    x->node = n;
    x->fn = fn;
    x->arg = arg;
    x->claim = (struct job_claim){ .how = JOB_CLAIM_ASK, .run = run, .at_us = sys_wall_us() };
    memcpy(x->claim.hash, hash, sizeof(x->claim.hash));
    REQUIRE(str_copy(x->key, sizeof(x->key), key) == 0);
    list_push_back(&n->claims, &x->link);
    ask(x);
    return true;
}

void node_claims_due(struct loop_timer *t)
{
    struct node *n = CONTAINER_OF(t, struct node, claim_timer);
    uint64_t now = loop_now_ms(n->loop);
    bool more = false;

    LIST_EACH_SAFE (pos, &n->claims) {
        struct claiming *x = LIST_ITEM(pos, struct claiming, link);
        if (x->due_ms == 0 || n->closing) {
            continue;
        }
        if (x->due_ms <= now) {
            x->due_ms = 0;
            somebodys(x);
        } else {
            more = true;
        }
    }
    if (more) {
        loop_timer_start(&n->claim_timer, WAIT_MS, 0);
    }
}

void node_claims_free(struct node *n)
{
    while (!list_empty(&n->claims)) {
        struct claiming *x = LIST_ITEM(n->claims.next, struct claiming, link);
        list_remove(&x->link);
        mem_free(x);
    }
}
