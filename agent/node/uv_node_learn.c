/* What runs teach this node, and what it says of it. */
#include <errno.h>
#include <stdio.h>

#include "agent/node/uv_node_events.h"
#include "agent/node/uv_node_internal.h"
#include "agent/routing/size.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { PROFILE_DECIMALS = 4 };

static const char health_key[] = "health";

_Static_assert((int)ROUTE_LEARNED == (int)SETTINGS_POLICY_LEARNED &&
                   (int)ROUTE_LEAST_LOADED == (int)SETTINGS_POLICY_LEAST_LOADED &&
                   (int)ROUTE_POWER_OF_TWO == (int)SETTINGS_POLICY_POWER_OF_TWO &&
                   (int)ROUTE_RANDOM == (int)SETTINGS_POLICY_RANDOM,
               "the same policies in the same order");
_Static_assert((int)ROUTE_CACHE_SENSITIVE == (int)RUN_CACHE_SENSITIVE &&
                   (int)ROUTE_CACHE_POLLUTER == (int)RUN_CACHE_POLLUTER,
               "the same classes in the same order");

int node_learn_init(struct node *n, struct err *e)
{
    struct node_class own;
    char name[RUN_NODE_CAP];

    node_class_of(n->route_facts, n->route_facts_len, &own);
    run_set_text(name, sizeof name, str_of(n->settings.node.name));
    const struct route_learn_config cfg = {
        .node = name,
        .class_id = n->class_id,
        .features = own.features,
        .k0 = sys_random_u64(),
        .k1 = sys_random_u64(),
    };
    int rc = route_learn_new(&cfg, &n->learn);
    if (rc != 0) {
        return err_set(e, rc, "what runs teach");
    }
    node_core_set_learn(n->core, n->learn);
    node_core_set_policy(n->core, (enum route_policy)n->settings.routing.policy);
    return 0;
}

void node_learn_release(struct node *n)
{
    n->learn = route_learn_free(n->learn);
}

/* ---- rows ---- */

static void odd_row(struct node *n, struct str origin, const char *why)
{
    if (!n->learn_said) {
        n->learn_said = true;
        log_warn("a profile row of '%.*s' is passed over (said once): %s", STR_ARG(origin), why);
    }
}

static void row_take(struct node *n, const struct table_row_view *row)
{
    struct route_row keyed = { .revision = 0 };
    struct err e = { .code = 0 };
    int64_t milli;

    if (str_eqs(row->key, health_key)) {
        if (str_i64(row->value, &milli) == 0 && milli >= -5000 && milli <= 5000) {
            route_learn_health_put(n->learn, row->owner, (double)milli / 1000);
        }
        return;
    }
    if (route_row_key_parse(row->key, &keyed) != 0 || !str_eqs(row->owner, keyed.origin)) {
        odd_row(n, row->owner, "it speaks for another node");
    } else if (route_learn_put(n->learn, row->key, row->value, &e) != 0) {
        odd_row(n, row->owner, err_text(&e));
    }
}

static void row_came(void *arg, const struct table_row_view *row, const struct table_row_view *old)
{
    struct node *n = arg;

    if (n->closing) {
        return;
    }
    if (row != NULL) {
        row_take(n, row);
    } else if (old != NULL && str_eqs(old->key, health_key)) {
        route_learn_health_put(n->learn, old->owner, 0);
    } else if (old != NULL) {
        route_learn_remove(n->learn, old->key);
    }
}

int node_learn_start(struct node *n)
{
    struct table_walk walk = { .type = TABLE_PROFILE };
    struct table_row_view row;

    /* Our own rows of an earlier life are among them. */
    while (table_next(table_core(n->table), &walk, &row)) {
        row_take(n, &row);
    }
    return table_watch(n->table, TABLE_PROFILE, row_came, n);
}

static void write_row(struct node *n, struct str key, struct str value)
{
    struct err e = { .code = 0 };

    if (table_write_node(n->table, TABLE_PROFILE, key, value, &e) != 0) {
        telemetry_count(n->metrics, TELEMETRY_DROPPED_TOTAL, TELEMETRY_LABELS("profile"), 1);
    }
}

static void publish(struct node *n, const struct route_row *row)
{
    AUTO_BUF struct buf value = BUF_INIT(ROUTE_VALUE_MAX);
    char key[ROUTE_KEY_MAX];
    char health[16];
    size_t len = route_row_key(row, key);

    route_row_encode(row, &value);
    if (buf_error(&value) != 0) {
        return; /* no memory: the next run says it again */
    }
    write_row(n, (struct str){ key, len }, buf_str(&value));
    int milli = (int)(route_learn_health_self(n->learn) * 1000);
    if (milli != n->health_told) {
        n->health_told = milli;
        (void)snprintf(health, sizeof health, "%d", milli);
        write_row(n, str_of(health_key), str_of(health));
    }
}

void node_learn_ended(struct node *n, const struct run *run, const struct job_result *result,
                      const struct telemetry_totals *totals)
{
    struct route_observation o;
    const struct route_row *row;
    char name[ROUTE_JOB_CAP];
    struct str profile = node_profile_name(run);

    node_observation_of(result, totals, &run->limits, &o);
    int rc = str_copy(name, sizeof name, profile);
    if (rc == 0) {
        rc = route_learn_observe(n->learn, str_of(name), run->revision, &o, &row);
    }
    if (rc == 0) {
        node_event_profile(n, name, run->revision);
        publish(n, row);
    } else {
        telemetry_count(n->metrics, TELEMETRY_DROPPED_TOTAL, TELEMETRY_LABELS("profile"), 1);
    }
}

/* ---- sizes ---- */

/* A document that asks for just the default has not asked. */
static bool asked_memory(const struct node *n, uint64_t bytes)
{
    return bytes != n->settings.sandbox.memory;
}

static struct route_size_ask ask_of(const struct node *n, uint64_t asked)
{
    return (struct route_size_ask){ .fixed_bytes = asked_memory(n, asked) ? asked : 0,
                                    .first_bytes = n->settings.sandbox.memory,
                                    .node_max_bytes = node_core_room(n->core)->memory_bytes };
}

/* Who asks for so many processors has said which share it wants. */
static uint64_t weight_asked(uint64_t cpus_milli)
{
    uint64_t weight = cpus_milli / 10;

    return cpus_milli == 0                 ? 0
           : weight < ROUTE_CPU_WEIGHT_MIN ? ROUTE_CPU_WEIGHT_MIN
           : weight > ROUTE_CPU_WEIGHT_MAX ? ROUTE_CPU_WEIGHT_MAX
                                           : weight;
}

/* The class of cache that its measurements speak for. */
static uint8_t cache_of(const struct route_totals *known)
{
    struct route_cache_use use;

    route_cache_decide(known, &use);
    return (uint8_t)use.class;
}

void node_learn_size(struct node *n, struct run *run)
{
    struct route_size_ask ask = ask_of(n, run->limits.memory_bytes);
    struct route_totals *known;
    struct route_size size;

    uint64_t cpus = run->limits.cpus_milli;

    run->limits.cpu_weight = weight_asked(cpus != n->settings.sandbox.cpus_milli ? cpus : 0);
    run->limits.cache = RUN_CACHE_DEFAULT;
    if (n->settings.routing.policy != SETTINGS_POLICY_LEARNED) {
        return;
    }
    known = mem_zalloc(sizeof *known);
    if (known == NULL) {
        return; /* the default will do */
    }
    bool any = route_learn_totals(n->learn, node_profile_name(run), run->revision, known);
    if (any) {
        run->limits.cache = cache_of(known);
    }
    /* Other jobs' needs say little of this one's: never less than the default for a first run. */
    route_size_decide(any ? known : NULL, 0, &ask, &size);
    if (run->limits.cpu_weight == 0) {
        run->limits.cpu_weight = size.cpu_weight;
    }
    if (ask.fixed_bytes != 0) {
        run->limits.memory_reserve_bytes =
            size.reserve_bytes < size.limit_bytes ? size.reserve_bytes : 0;
        mem_free(known);
        return;
    }
    run->limits.memory_bytes = size.limit_bytes;
    run->limits.memory_learned = 1;
    telemetry_gauge(n->metrics, TELEMETRY_RIGHT_SIZE_BYTES,
                    TELEMETRY_LABELS(run->job[0] != '\0' ? run->job : "(one-off)", "learned"),
                    size.limit_bytes);
    mem_free(known);
}

/* ---- showing ---- */

void node_profiles_json(struct node *n, struct json_w *w)
{
    struct str name = { "", 0 };
    struct route_totals *t = mem_zalloc(sizeof *t);
    uint32_t revision;

    json_w_obj(w);
    json_w_key(w, "profiles");
    json_w_arr(w);
    for (size_t i = 0;
         t != NULL && i < NODE_PROFILES_SHOWN && route_learn_next(n->learn, name, &name); i++) {
        if (!route_learn_revision(n->learn, name, &revision) ||
            !route_learn_totals(n->learn, name, revision, t)) {
            continue;
        }
        struct route_size_ask ask = ask_of(n, n->settings.sandbox.memory);
        struct route_size size;
        route_size_decide(t, 0, &ask, &size);
        json_w_obj(w);
        json_kv_str(w, "job", name);
        json_kv_u64(w, "revision", revision);
        json_kv_u64(w, "runs", t->runs);
        json_kv_real(w, "cpu_seconds", t->weight > 0 ? t->cpu_s / t->weight : 0, PROFILE_DECIMALS);
        json_kv_u64(w, "memory_p99_bytes", size.p99_bytes);
        json_kv_u64(w, "memory_limit_bytes", size.limit_bytes);
        json_kv_u64(w, "oom_kills", t->oom);
        json_w_end(w);
    }
    mem_free(t);
    json_w_end(w);
    json_kv_real(w, "health", route_learn_health_self(n->learn), 3);
    json_w_end(w);
}

bool node_profile_json(struct node *n, struct str job, struct json_w *w)
{
    struct node_doc *doc = node_docs_get(&n->jobs, job);
    uint64_t asked = doc != NULL ? doc->job->limits.memory_bytes : n->settings.sandbox.memory;
    struct route_size_ask ask = ask_of(n, asked);

    node_doc_unref(doc);
    return route_learn_to_json(n->learn, job, &ask, w);
}

/* Which image the run would have, as far as that is known without asking anybody. */
static void image_find(struct node *n, struct run *run)
{
    struct image_ref ref;

    if (image_ref_parse(str_of(run->image), &ref, NULL) != 0) {
        return;
    }
    if (ref.digest.algo != DIGEST_NONE) {
        run->image_digest = ref.digest;
    } else if (image_store_known(n->images_store, &ref, &run->image_digest) != 0) {
        (void)node_cluster_tag(n, ref.repository, ref.tag, &run->image_digest);
    }
}

/* What would be decided now: for a run of the job's newest document. */
static void what_if(struct node_query *q, const struct job *job)
{
    struct node *n = q->node;
    struct str texts[NODE_TEXTS_MAX];
    struct node_effects fx = { .decided = false };
    struct route_request request;
    struct ulid id = { { 0 } };
    struct run *run = mem_zalloc(sizeof *run);

    if (run == NULL) {
        node_out_of_memory("an explanation");
    }
    job_make_run(job, id, sys_wall_us(), run);
    node_learn_size(n, run);
    node_request_of(run, job, texts, &request);
    image_find(n, run);
    node_programs_request(n, run, job, &request);
    /* As if every node had the image: the question is for the times. */
    node_core_what_if(n->core, run, &request, 0, true, &fx);
    json_w_init(&q->json, &q->text, false);
    route_to_json(&q->json, &request, fx.candidates, fx.candidates_len, fx.verdicts, &fx.decision);
    mem_free(run);
}

static void on_job(void *arg, const struct node_error *error, const struct job *job, bool created,
                   bool changed)
{
    struct node_query *q = arg;

    (void)created;
    (void)changed;
    if (!q->forgotten) {
        if (error == NULL) {
            what_if(q, job);
        }
        q->fn.text(q->arg, error, buf_str(&q->text));
    }
    list_remove(&q->link);
    buf_release(&q->text);
    mem_free(q);
}

void node_job_placement(struct node *n, struct str name, node_text_fn *fn, void *arg)
{
    struct node_query *q = node_query_new(n, fn, arg);

    node_job_get(n, name, 0, on_job, q);
}
