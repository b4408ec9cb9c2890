/* A node's shell: start, the one place that steps the core, timers, end. */
#include "agent/node/uv_node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "agent/node/uv_node_callbacks.h"
#include "agent/node/uv_node_events.h"
#include "agent/node/uv_node_internal.h"
#include "agent/node/uv_node_triggers.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"
#include "common/version.h"

void node_out_of_memory(const char *what)
{
    /* Everything accepted is in the store and what runs goes on: the next process takes both up. */
    log_error("no memory for %s: this process ends and starts again", what);
    abort();
}

/* ---- stepping ---- */

static void carry_out(struct node *n, const struct job_effect *fx);

static void tick_at(struct node *n)
{
    uint64_t deadline = node_core_deadline_ms(n->core);
    uint64_t now = loop_now_ms(n->loop);

    if (n->closing || deadline == UINT64_MAX) {
        loop_timer_stop(&n->tick);
        return;
    }
    loop_timer_start(&n->tick, deadline > now ? deadline - now : 0, 0);
}

void node_feed(struct node *n, struct node_event *ev)
{
    struct node_effects fx;

    /* Whatever an effect answers at once waits for settle: a step inside a step is a bug of ours.
     */
    INSIST(!n->stepping);
    if (n->closing) {
        return;
    }
    n->stepping = true;
    ev->job.now_ms = loop_now_ms(n->loop);
    ev->job.now_us = sys_wall_us();
    node_core_step(n->core, ev, &fx);
    if (fx.decided) {
        node_placement_keep(n, ev, &fx);
        telemetry_count(n->metrics, TELEMETRY_ROUTE_DECISIONS_TOTAL,
                        TELEMETRY_LABELS(route_basis_name(fx.decision.basis)), 1);
    }
    (void)str_copy(n->last_offer, sizeof(n->last_offer), str_of(fx.offer));
    n->last_recall = fx.recall;
    n->last_guest = fx.guest;
    for (size_t i = 0; i < fx.jobs.n; i++) {
        carry_out(n, &fx.jobs.v[i]);
    }
    n->stepping = false;
    if (fx.capacity) {
        n->capacity_freed = true;
        node_settle_later(n);
    }
    tick_at(n);
}

void node_feed_job(struct node *n, struct job_event *ev)
{
    struct node_event event = { .type = NODE_EV_JOB, .job = *ev };

    node_feed(n, &event);
}

static void on_written(void *arg, int status)
{
    struct node_write *w = arg;
    struct node *n = w->node;
    struct job_event ev = { .type = JOB_EV_STORED, .id = w->id, .seq = w->seq, .status = status };

    mem_free(w);
    if (status != 0) {
        log_error("a run's record could not be written: %s", err_name(status));
    }
    node_feed_job(n, &ev);
}

static void store(struct node *n, const struct job_effect *fx)
{
    struct node_write *w = NULL;

    if (fx->accept) {
        node_fx_accept(n, fx);
        return;
    }
    node_copy_stored(n, fx->run);
    if (fx->seq == 0) {
        node_asked(job_store_put_run(n->store, fx->run, fx->former, NULL, NULL));
        return;
    }
    w = mem_alloc(sizeof *w);
    if (w == NULL) {
        node_out_of_memory("a run's record");
    }
    *w = (struct node_write){ .node = n, .id = fx->run->id, .seq = fx->seq };
    node_asked(job_store_put_run(n->store, fx->run, fx->former, on_written, w));
}

static void ended(struct node *n, const struct run *run)
{
    char id[ULID_TEXT_CAP];

    node_metrics_ended(n, run);
    node_remote_ended(n, run);
    node_triggers_ended(n, run);
    node_callbacks_ended(n, run);
    ulid_format(run->id, id);
    log_debug("run %s of '%s' ended: %s (%s)", id, run->job,
              run_state_name((enum run_state)run->state),
              run_reason_name((enum run_reason)run->reason));
}

static void carry_out(struct node *n, const struct job_effect *fx)
{
    char id[ULID_TEXT_CAP];

    switch (fx->type) {
    case JOB_FX_STORE:
        store(n, fx);
        return;
    case JOB_FX_ANSWER:
        node_fx_answer(n, fx);
        return;
    case JOB_FX_PLACE:
        node_fx_place(n, fx->run);
        return;
    case JOB_FX_PREPARE:
        node_fx_prepare(n, fx->run);
        return;
    case JOB_FX_LAUNCH:
        node_fx_launch(n, fx->run);
        return;
    case JOB_FX_STOP:
        node_fx_stop(n, fx->id, fx->attempt);
        return;
    case JOB_FX_CHANGED:
        node_watchers_tell(n, fx->run);
        return;
    case JOB_FX_ENDED:
        ended(n, fx->run);
        return;
    case JOB_FX_DROP:
        ulid_format(fx->id, id);
        node_docs_drop(&n->docs, str_of(id));
        return;
    case JOB_FX_DRAINED:
        n->drained = true;
        node_settle_later(n);
        return;
    }
}

/* ---- rounds ---- */

static void lives_make(struct node *n);
static void room_tell(struct node *n);
static void load_begin(struct node *n);

void node_settle_later(struct node *n)
{
    loop_defer_post(n->loop, &n->settle);
}

static void settle(struct loop_defer *d)
{
    struct node *n = CONTAINER_OF(d, struct node, settle);
    struct job_event capacity = { .type = JOB_EV_CAPACITY };

    if (n->closing) {
        return;
    }
    if (n->said_hello && !n->loading) {
        n->loading = true;
        lives_make(n);
        room_tell(n);
        load_begin(n);
    }
    while (!list_empty(&n->pending) && !n->closing) {
        node_live_settle(LIST_ITEM(n->pending.next, struct node_live, pending));
    }
    if (n->capacity_freed && !n->closing) {
        n->capacity_freed = false;
        node_feed_job(n, &capacity);
    }
    if (n->drained && n->on_drained != NULL && node_guests_drained(n)) {
        void (*fn)(void *arg) = n->on_drained;
        n->on_drained = NULL;
        fn(n->drained_arg);
    }
}

static void on_tick(struct loop_timer *t)
{
    struct node *n = CONTAINER_OF(t, struct node, tick);
    struct job_event ev = { .type = JOB_EV_TICK };

    node_feed_job(n, &ev);
}

static void on_ping(struct loop_timer *t)
{
    struct node *n = CONTAINER_OF(t, struct node, ping);

    if (!n->closing) { /* the client is the first to go */
        (void)sandbox_client_ping(n->client);
    }
}

static void on_sample(struct loop_timer *t)
{
    node_sample_all(CONTAINER_OF(t, struct node, sample));
}

static void on_retain(struct loop_timer *t)
{
    struct node *n = CONTAINER_OF(t, struct node, retain);

    if (!n->closing) {
        node_retain(n);
    }
}

static void on_peers(struct loop_timer *t)
{
    node_peers_look(CONTAINER_OF(t, struct node, peers));
}

/* ---- taking up an earlier life ---- */

static void on_loaded_some(void *arg, int status, const struct run *runs, size_t len, bool more)
{
    struct node *n = arg;

    (void)more;
    for (size_t i = 0; status == 0 && i < len && !n->closing; i++) {
        struct job_event ev = { .type = JOB_EV_RECOVER, .id = runs[i].id, .run = &runs[i] };
        node_feed_job(n, &ev);
        node_remote_recover(n, &runs[i]);
        node_copy_recovered(n, &runs[i]);
    }
}

static void on_loaded(void *arg, int status)
{
    struct node *n = arg;

    if (n->closing) {
        return;
    }
    if (status != 0) {
        log_error("the unfinished runs could not be read: %s", err_name(status));
        n->opt.on_broken(n->opt.arg, "the store could not be read");
        return;
    }
    node_heir_return(n);
}

static void load_begin(struct node *n)
{
    int rc = node_guests_load(n);

    if (rc != 0) {
        log_error("the notes about peers' runs could not be read: %s", err_name(rc));
        n->opt.on_broken(n->opt.arg, "guests/ could not be read");
        return;
    }
    node_asked(job_store_load_unfinished(n->store, on_loaded_some, on_loaded, n));
}

static void fact(struct node *n, struct str name, struct str value)
{
    if (n->route_facts_len < NODE_FACTS_MAX) {
        n->route_facts[n->route_facts_len++] = (struct route_fact){ .name = name, .value = value };
    }
}

/* Capabilities, labels and the few facts that people select by. The texts live as long as the node.
 */
static void facts_make(struct node *n)
{
    struct str rest;
    struct str piece;

    (void)snprintf(n->labels, sizeof n->labels, "%s", n->settings.node.labels);
    (void)snprintf(n->fact_cpus, sizeof n->fact_cpus, "%u", n->facts.cpus_usable);
    (void)snprintf(n->fact_llc, sizeof n->fact_llc, "%llu",
                   (unsigned long long)(hardware_llc_bytes(&n->facts) >> 20));
    (void)snprintf(n->fact_mhz, sizeof n->fact_mhz, "%u", n->facts.base_mhz);
    (void)snprintf(n->fact_level, sizeof n->fact_level, "%u", n->facts.microarch_level);
    fact(n, STR("node.name"), str_of(n->settings.node.name));
    fact(n, STR("node.class"), str_of(n->class_id));
    fact(n, STR("node.cpus"), str_of(n->fact_cpus));
    fact(n, STR("kubernetes.io/arch"),
         n->facts.arch == HARDWARE_ARCH_ARM64 ? STR("arm64") : STR("amd64"));
    fact(n, STR("cpu-model.vendor_id"), str_of(n->facts.vendor));
    fact(n, STR(NODE_FACT_LLC), str_of(n->fact_llc));
    fact(n, STR(NODE_FACT_MHZ), str_of(n->fact_mhz));
    if (n->facts.microarch_level != 0) {
        fact(n, STR(NODE_FACT_LEVEL), str_of(n->fact_level));
    }
    for (int c = 0; c < HARDWARE_CAP_COUNT; c++) {
        const char *name = hardware_cap_name((enum hardware_cap)c);
        if (name != NULL && hardware_caps_has(&n->facts.usable, (enum hardware_cap)c)) {
            fact(n, str_of(name), STR("true"));
        }
    }
    rest = str_of(n->labels);
    while (str_split(&rest, ',', &piece)) {
        ptrdiff_t eq = str_find(piece, '=');
        if (eq > 0) {
            fact(n, str_slice(piece, 0, (size_t)eq), str_slice(piece, (size_t)eq + 1, piece.n));
        }
    }
}

/* Runs may have nine tenths of the memory that there is, unless the configuration says otherwise.
 */
static void room_tell(struct node *n)
{
    uint64_t memory =
        n->settings.node.memory != 0 ? n->settings.node.memory : n->hello.memory_bytes / 10 * 9;
    struct node_event ev = {
        .type = NODE_EV_ROOM,
        .room = { .slots = n->hello.slots,
                  .memory_bytes = memory,
                  .cpu_milli = n->hello.cpus_milli },
        .facts = n->route_facts,
        .facts_len = n->route_facts_len,
    };

    if (n->settings.sandbox.memory > memory) {
        log_warn("a job that asks for no memory gets %llu bytes, all that this node has for runs",
                 (unsigned long long)memory);
        n->settings.sandbox.memory = memory;
    }
    node_feed(n, &ev);
    node_cluster_capability(n);
}

/* Attempts in slots, attempts on their way, and as many that were alive before us. */
static void lives_make(struct node *n)
{
    size_t places = 2 * (size_t)n->hello.slots + 2 * JOB_PLACING_MAX;

    n->lives = mem_calloc(places, sizeof *n->lives);
    if (n->lives == NULL) {
        node_out_of_memory("the slots");
    }
    n->lives_len = places;
    for (size_t i = 0; i < places; i++) {
        n->lives[i].node = n;
        list_init(&n->lives[i].pending);
        list_push_back(&n->live_free, &n->lives[i].link);
    }
}

/* ---- start ---- */

static int open_dir(const char *data_dir, const char *name, bool make, int *ret_fd, struct err *e)
{
    char path[SETTINGS_PATH_MAX + 16];
    int rc;

    (void)snprintf(path, sizeof path, "%s/%s", data_dir, name);
    if (make && (rc = sys_mkdirs(AT_FDCWD, path, 0700, e)) != 0) {
        return rc;
    }
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return err_set(e, -errno, "open '%s'", path);
    }
    *ret_fd = fd;
    return 0;
}

static int open_state(struct node *n, struct err *e)
{
    const char *data_dir = n->settings.node.data_dir;
    const struct settings_store *st = &n->settings.store;
    char db[SETTINGS_PATH_MAX + 16];
    struct image_store_options images = {
        .data_dir = data_dir,
        .limit_bytes = n->settings.image.max_bytes,
        .upload_age_ms = n->settings.image.upload_timeout_ms,
    };
    const struct job_store_config runs = {
        .dir = db,
        .min_free_bytes = st->min_free_bytes,
        .retention = { .age_ms = st->retention_ms,
                       .failed_ms = st->retention_failed_ms,
                       .bytes = st->retention_bytes },
    };
    int rc;

    (void)snprintf(db, sizeof db, "%s/db", data_dir);
    if ((rc = open_dir(data_dir, "runs", false, &n->runs_fd, e)) != 0 ||
        (rc = open_dir(data_dir, "spool", false, &n->spool_fd, e)) != 0 ||
        (rc = open_dir(data_dir, "db/samples", true, &n->samples_fd, e)) != 0 ||
        (rc = open_dir(data_dir, "db/guests", true, &n->guests_fd, e)) != 0 ||
        (rc = open_dir(data_dir, "db/outputs", true, &n->outputs_fd, e)) != 0 ||
        (rc = open_dir(data_dir, "db/programs", true, &n->programs_fd, e)) != 0 ||
        (rc = open_dir(data_dir, "db/copies", true, &n->copies_fd, e)) != 0 ||
        (rc = node_programs_load(n, e)) != 0) {
        return rc;
    }
    node_spool_sweep(n->spool_fd);
    if ((rc = job_store_open(n->loop, &runs, &n->store, e)) != 0) {
        return rc;
    }
    rc = image_store_open(n->loop, &images, &n->images_store, e);
    return rc != 0 ? rc : node_upstream_start(n, e);
}

static int probe(struct node *n, struct err *e)
{
    const char *resctrl = n->settings.telemetry.resctrl_path;
    struct hardware_options opt = { .resctrl_path = resctrl,
                                    .resctrl_any_fs = strcmp(resctrl, SETTINGS_RESCTRL_PATH) != 0,
                                    .data_dir = n->settings.node.data_dir };
    int rc = hardware_mask_parse(str_of(n->settings.node.capabilities_mask), &opt.mask, e);

    if (rc != 0) {
        return err_prefix(e, "node.capabilities_mask");
    }
    if ((rc = hardware_probe(&n->facts, &opt, e)) != 0) {
        return rc;
    }
    hardware_class(&n->facts, n->class_id);
    n->id32 = node_id_of(str_of(n->settings.node.name));
    n->ids.node = n->id32;
    facts_make(n);
    return node_learn_init(n, e);
}

static int make_parts(struct node *n, struct err *e)
{
    uint64_t k0 = sys_random_u64();
    uint64_t k1 = sys_random_u64();
    const struct node_core_config core = {
        .jobs = { .max_queued = n->settings.store.max_queued,
                  .seed = sys_random_u64(),
                  .k0 = k0,
                  .k1 = k1 },
        .name = n->settings.node.name,
        .settle_ms = NODE_SETTLE_MS,
    };
    int rc;

    map_init(&n->requests, NODE_REQUESTS_MAX, k0, k1);
    map_init(&n->submits, NODE_REQUESTS_MAX, k0, k1);
    node_docs_init(&n->docs, NODE_DOCS_MAX, k0, k1);
    node_docs_init(&n->jobs, NODE_JOBS_MAX, k0, k1);
    node_peers_init(n, k0, k1);
    node_programs_init(n, k0, k1);
    n->placements = mem_calloc(NODE_PLACEMENTS_MAX, sizeof *n->placements);
    if (n->placements == NULL) {
        return err_set(e, -ENOMEM, "the placements");
    }
    n->events_feed = node_events_new(n);
    if (n->events_feed == NULL) {
        return err_set(e, -ENOMEM, "the feed of events");
    }
    if ((rc = node_triggers_new(n, k0, k1, e)) != 0) {
        return rc;
    }
    if ((rc = node_core_new(&core, &n->core)) != 0) {
        return err_set(e, rc, "the queue");
    }
    return telemetry_metrics_new(0, 0, version_number, version_revision, k0, k1, &n->metrics, e);
}

static void owner_closed(struct loop_owner *o);

static struct node *node_new(const struct node_options *opt)
{
    struct node *n = mem_zalloc(sizeof *n);

    if (n == NULL) {
        return NULL;
    }
    n->loop = opt->loop;
    n->opt = *opt;
    n->settings = *opt->settings;
    n->runs_fd = n->spool_fd = n->samples_fd = n->guests_fd = n->outputs_fd = -1;
    n->programs_fd = n->copies_fd = -1;
    n->started_ms = loop_now_ms(opt->loop);
    list_init(&n->live);
    list_init(&n->live_free);
    list_init(&n->pending);
    list_init(&n->images);
    list_init(&n->warm);
    list_init(&n->request_list);
    list_init(&n->queries);
    list_init(&n->watches);
    list_init(&n->removals);
    list_init(&n->events);
    list_init(&n->places);
    list_init(&n->image_waits);
    list_init(&n->calls);
    list_init(&n->remote_list);
    list_init(&n->guest_list);
    list_init(&n->end_waits);
    list_init(&n->copies);
    list_init(&n->senders);
    list_init(&n->heirs);
    list_init(&n->claims);
    loop_defer_init(&n->send, node_send_all);
    loop_owner_init(&n->owner, opt->loop, owner_closed);
    loop_defer_init(&n->settle, settle);
    loop_timer_init(&n->tick, &n->owner, on_tick);
    loop_timer_init(&n->ping, &n->owner, on_ping);
    loop_timer_init(&n->sample, &n->owner, on_sample);
    loop_timer_init(&n->retain, &n->owner, on_retain);
    loop_timer_init(&n->peers, &n->owner, on_peers);
    node_probes_init(n);
    loop_timer_init(&n->send_late, &n->owner, node_send_late);
    loop_timer_init(&n->claim_timer, &n->owner, node_claims_due);
    return n;
}

int node_start(const struct node_options *opt, struct node **ret, struct err *e)
{
    struct node *n = node_new(opt);
    int rc;

    if (n == NULL) {
        return err_set(e, -ENOMEM, "the node");
    }
    if ((rc = make_parts(n, e)) != 0 || (rc = probe(n, e)) != 0 || (rc = open_state(n, e)) != 0 ||
        (rc = node_cluster_start(n, e)) != 0 || (rc = node_learn_start(n)) != 0 ||
        (rc = node_peers_start(n, e)) != 0 || (rc = node_pull_start(n, e)) != 0 ||
        (rc = node_secrets_start(n, e)) != 0 ||
        (rc = node_callbacks_start(n, sys_random_u64(), sys_random_u64(), e)) != 0 ||
        (rc = node_sensors_start(n, sys_random_u64(), sys_random_u64(), e)) != 0 ||
        (rc = sandbox_client_start(n->loop, opt->launcher_fd, &node_sandbox_events, n, &n->client,
                                   e)) != 0 ||
        (rc = sandbox_dns_start(n->loop, n->client, n->settings.sandbox.nat_resolvers, &n->dns,
                                e)) != 0) {
        /* The process ends: what was opened goes with it. */
        return rc;
    }
    loop_timer_start(&n->ping, NODE_PING_MS, NODE_PING_MS);
    loop_timer_start(&n->sample, n->settings.telemetry.interval_ms,
                     n->settings.telemetry.interval_ms);
    loop_timer_start(&n->retain, NODE_RETAIN_FIRST_MS, NODE_RETAIN_MS);
    *ret = n;
    return 0;
}

/* ---- draining, reloading, closing ---- */

void node_set_draining(struct node *n, bool draining)
{
    struct job_event ev = { .type = draining ? JOB_EV_DRAIN : JOB_EV_RESUME,
                            .drain_ms = UINT64_MAX,
                            .forward = true };

    n->draining = draining;
    node_feed_job(n, &ev);
}

void node_drain(struct node *n, uint64_t grace_ms, void (*on_drained)(void *arg), void *arg)
{
    struct job_event ev = { .type = JOB_EV_DRAIN, .drain_ms = grace_ms };

    n->draining = true;
    n->on_drained = on_drained;
    n->drained_arg = arg;
    node_guests_drain(n, grace_ms);
    node_feed_job(n, &ev);
}

void node_reload(struct node *n, const struct settings *next)
{
    n->settings = *next;
    node_core_set_policy(n->core, (enum route_policy)next->routing.policy);
    node_upstream_reload(n);
    const struct job_retention keep = { .age_ms = next->store.retention_ms,
                                        .failed_ms = next->store.retention_failed_ms,
                                        .bytes = next->store.retention_bytes };
    job_store_set_retention(n->store, &keep);
    loop_timer_start(&n->sample, next->telemetry.interval_ms, next->telemetry.interval_ms);
    if (n->said_hello) {
        room_tell(n); /* node.memory */
    }
}

static void node_free(struct node *n)
{
    node_images_kept_free(n);
    while (!list_empty(&n->request_list)) {
        node_request_free(LIST_ITEM(n->request_list.next, struct node_request, link));
    }
    while (!list_empty(&n->watches)) {
        (void)node_unwatch(LIST_ITEM(n->watches.next, struct node_watch, link));
    }
    node_clean_free(n);
    node_peers_free(n);
    node_triggers_free(n);
    node_hooks_free(n);
    node_callbacks_free(n);
    node_events_free(n);
    node_sensors_free(n);
    node_secrets_free(n);
    node_programs_free(n);
    map_release(&n->requests);
    map_release(&n->submits);
    node_docs_release(&n->docs);
    node_docs_release(&n->jobs);
    for (size_t i = 0; i < NODE_PLACEMENTS_MAX; i++) {
        mem_free(n->placements[i].text);
    }
    mem_free(n->placements);
    mem_free(n->lives);
    node_core_free(n->core);
    node_learn_release(n);
    telemetry_metrics_free(n->metrics);
    n->runs_fd = fd_close(n->runs_fd);
    n->spool_fd = fd_close(n->spool_fd);
    n->samples_fd = fd_close(n->samples_fd);
    n->guests_fd = fd_close(n->guests_fd);
    n->outputs_fd = fd_close(n->outputs_fd);
    n->programs_fd = fd_close(n->programs_fd);
    n->copies_fd = fd_close(n->copies_fd);
    mem_free(n);
}

static void owner_closed(struct loop_owner *o)
{
    struct node *n = CONTAINER_OF(o, struct node, owner);
    void (*fn)(void *arg) = n->on_closed;
    void *arg = n->closed_arg;

    node_free(n);
    fn(arg);
}

/* Calls, client, store, images: each tells when the last of its answers has come. */
static void images_closed(void *arg)
{
    struct node *n = arg;

    loop_timer_close(&n->tick);
    loop_timer_close(&n->ping);
    loop_timer_close(&n->sample);
    loop_timer_close(&n->retain);
    node_triggers_close(n);
    node_sensors_close(n);
    loop_timer_close(&n->peers);
    loop_timer_close(&n->probes);
    loop_timer_close(&n->send_late);
    loop_timer_close(&n->claim_timer);
    loop_defer_cancel(&n->send);
    loop_defer_cancel(&n->settle);
    loop_owner_close(&n->owner);
}

static void puller_closed(void *arg)
{
    struct node *n = arg;

    n->puller = NULL;
    image_store_close(n->images_store, images_closed, n);
}

static void store_closed(void *arg)
{
    struct node *n = arg;

    while (!list_empty(&n->live)) {
        node_live_free(LIST_ITEM(n->live.next, struct node_live, link));
    }
    while (!list_empty(&n->images)) {
        node_image_forget(n, LIST_ITEM(n->images.next, struct node_image, link));
    }
    image_puller_close(n->puller, puller_closed, n);
}

static void client_closed(void *arg)
{
    struct node *n = arg;

    job_store_close(n->store, store_closed, n);
}

static void dns_closed(void *arg)
{
    struct node *n = arg;

    sandbox_client_close(n->client, client_closed, n);
}

static void table_closed(void *arg)
{
    struct node *n = arg;
    struct sandbox_dns *dns = n->dns;

    n->table = NULL;
    n->dns = NULL;
    sandbox_dns_close(dns, dns_closed, n);
}

static void streams_closed(void *arg)
{
    struct node *n = arg;

    n->http_streams = NULL;
    table_close(n->table, table_closed, n);
}

static void calls_closed(void *arg)
{
    struct node *n = arg;

    n->http = NULL;
    http_client_close(n->http_streams, streams_closed, n);
}

static void fetcher_closed(void *arg)
{
    struct node *n = arg;

    n->fetcher = NULL;
    http_client_close(n->http, calls_closed, n);
}

static void callbacks_closed(struct node *n)
{
    image_fetcher_close(n->fetcher, fetcher_closed, n);
}

void node_close(struct node *n, void (*on_closed)(void *arg), void *arg)
{
    REQUIRE(!n->closing);
    n->closing = true;
    n->on_closed = on_closed;
    n->closed_arg = arg;
    node_callbacks_close(n, callbacks_closed);
}
