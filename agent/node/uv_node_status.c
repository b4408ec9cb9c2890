/* What the node says of itself: Node, Status, metrics. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/node/uv_node_callbacks.h"
#include "agent/node/uv_node_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"
#include "common/version.h"

enum { STATUS_JOBS_MAX = 200, STATUS_FAILURES_MAX = 10 };

/* ---- Node ---- */

static void labels_write(struct json_w *w, const char *labels)
{
    struct str rest = str_of(labels);
    struct str piece;

    json_w_obj(w);
    while (str_split(&rest, ',', &piece)) {
        ptrdiff_t eq = str_find(piece, '=');
        if (eq > 0) {
            json_w_keystr(w, str_slice(piece, 0, (size_t)eq));
            json_w_str(w, str_slice(piece, (size_t)eq + 1, piece.n));
        }
    }
    json_w_end(w);
}

static void load_write(struct json_w *w)
{
    double load[3] = { 0 };

    json_w_key(w, "load");
    json_w_arr(w);
    if (getloadavg(load, 3) == 3) {
        for (size_t i = 0; i < 3; i++) {
            json_w_real(w, load[i], 2);
        }
    }
    json_w_end(w);
}

static const char *state_of(const struct node *n)
{
    return n->draining ? "draining" : n->ready ? "alive" : "starting";
}

static void brief_write(struct node *n, struct json_w *w)
{
    const struct node_room *room = node_core_room(n->core);
    struct job_counts counts;
    char id[17];

    job_core_counts(node_core_jobs(n->core), &counts);
    (void)snprintf(id, sizeof id, "%08x", n->id32);
    json_kv_cstr(w, "name", n->settings.node.name);
    json_kv_cstr(w, "id", id);
    json_kv_cstr(w, "address",
                 n->settings.http.advertise[0] != '\0' ? n->settings.http.advertise
                                                       : n->settings.http.listen);
    json_kv_cstr(w, "state", state_of(n));
    json_kv_cstr(w, "version", version_number);
    json_kv_cstr(w, "class", n->class_id);
    json_kv_u64(w, "cpus", n->facts.cpus_usable);
    json_kv_u64(w, "memory_bytes", room->memory_bytes);
    json_kv_u64(w, "memory_reserved_bytes", node_core_memory_used(n->core));
    json_kv_u64(w, "slots", room->slots);
    json_kv_u64(w, "running", node_running(n));
    json_kv_u64(w, "active", node_core_slots_used(n->core));
    json_kv_u64(w, "queued", counts.queued);
    load_write(w);
    json_kv_u64(w, "age_seconds", 0);
    json_kv_u64(w, "uptime_seconds", (loop_now_ms(n->loop) - n->started_ms) / 1000);
    json_w_key(w, "capabilities");
    json_w_arr(w);
    for (int c = 0; c < HARDWARE_CAP_COUNT; c++) {
        const char *name = hardware_cap_name((enum hardware_cap)c);
        if (name != NULL && hardware_caps_has(&n->facts.usable, (enum hardware_cap)c)) {
            json_w_cstr(w, name);
        }
    }
    json_w_end(w);
    json_w_key(w, "labels");
    labels_write(w, n->settings.node.labels);
}

void node_self_json(struct node *n, struct json_w *w)
{
    json_w_obj(w);
    brief_write(n, w);
    json_kv_cstr(w, "kernel", n->facts.kernel);
    json_w_key(w, "cgroup");
    json_w_obj(w);
    json_kv_u64(w, "version", n->hello.cgroup_version);
    json_kv_bool(w, "memory", n->hello.cgroup_memory);
    json_kv_bool(w, "cpu", n->hello.cgroup_cpu);
    json_kv_bool(w, "pids", n->hello.cgroup_pids);
    json_kv_bool(w, "io", n->hello.cgroup_io);
    json_w_end(w);
    json_w_key(w, "hardware");
    hardware_to_json(&n->facts, w);
    json_w_end(w);
}

/* ---- Status ---- */

static void warnings_write(struct node *n, struct json_w *w)
{
    json_w_key(w, "warnings");
    json_w_arr(w);
    if (n->hello.cgroup_version == 0) {
        json_w_cstr(w, "no cgroup controller is usable: limits are rlimits only");
    } else if (!n->hello.cgroup_memory) {
        json_w_cstr(w, "the memory controller is not usable: memory limits are rlimits only");
    }
    if (n->settings.auth.insecure) {
        json_w_cstr(w, "auth.insecure = yes: anybody who reaches this port can run programs here");
    }
    if (job_store_is_full(n->store)) {
        json_w_cstr(w, "the disk is full: new runs are refused");
    }
    json_w_end(w);
}

static void finish(struct node_query *q)
{
    struct node *n = q->node;
    struct json_w *w = &q->json;
    struct image_store_stats images;

    image_store_stats(n->images_store, &images);
    json_w_key(w, "images");
    json_w_obj(w);
    json_kv_u64(w, "count", images.images);
    json_kv_u64(w, "bytes", images.bytes);
    json_kv_u64(w, "limit_bytes", images.limit_bytes);
    json_w_end(w);
    warnings_write(n, w);
    json_w_end(w);
    if (!q->forgotten) {
        struct node_error e = { .code = NODE_INTERNAL, .detail = "the status is too large" };
        bool bad = buf_error(&q->text) != 0;
        q->fn.text(q->arg, bad ? &e : NULL, buf_str(&q->text));
    }
    list_remove(&q->link);
    buf_release(&q->text);
    mem_free(q->stats);
    mem_free(q);
}

static void on_failures(void *arg, int status, const struct run *runs, size_t n, bool more)
{
    struct node_query *q = arg;
    struct json_w *w = &q->json;

    (void)more;
    json_w_key(w, "failures");
    json_w_arr(w);
    for (size_t i = 0; status == 0 && i < n; i++) {
        run_to_json(w, &runs[i]);
    }
    json_w_end(w);
    finish(q);
}

static void counts_write(struct json_w *w, const uint64_t by_state[RUN_STATE_COUNT])
{
    for (int s = 0; s < RUN_STATE_COUNT; s++) {
        json_kv_u64(w, run_state_name((enum run_state)s), by_state[s]);
    }
}

/* A row per registered job, with its counts if it has run; then what ran without being registered
 * now: one-offs and deleted jobs. */
static void job_write(struct json_w *w, const char *name, const struct job *job,
                      const struct job_store_job_stats *stats)
{
    static const struct job_store_job_stats none;

    json_w_obj(w);
    json_kv_cstr(w, "name", name);
    json_w_key(w, "revision");
    if (job != NULL) {
        json_w_u64(w, job->revision);
        json_kv_cstr(w, "image", job->image);
    } else {
        json_w_null(w);
        json_w_key(w, "image");
        json_w_null(w);
    }
    counts_write(w, (stats != NULL ? stats : &none)->by_state);
    json_kv_time(w, "last_run", stats != NULL ? stats->last_us : 0);
    json_w_end(w);
}

static void on_jobs(void *arg, int status, const struct job *const *jobs, size_t n, bool more)
{
    struct node_query *q = arg;
    struct json_w *w = &q->json;
    struct job_store_filter filter = {
        .states = BIT(RUN_FAILED) | BIT(RUN_TIMED_OUT) | BIT(RUN_LOST),
        .limit = STATUS_FAILURES_MAX,
    };

    (void)more;
    json_w_key(w, "jobs");
    json_w_arr(w);
    for (size_t i = 0; status == 0 && i < n; i++) {
        struct job_store_job_stats *stats = NULL;
        for (size_t k = 0; k < q->stats_n && stats == NULL; k++) {
            stats = strcmp(q->stats[k].job, jobs[i]->name) == 0 ? &q->stats[k] : NULL;
        }
        job_write(w, jobs[i]->name, jobs[i], stats);
        if (stats != NULL) {
            *stats = q->stats[--q->stats_n];
        }
    }
    for (size_t k = 0; k < q->stats_n; k++) {
        job_write(w, q->stats[k].job, NULL, &q->stats[k]);
    }
    json_w_end(w);
    node_asked(job_store_list_runs(q->node->store, &filter, on_failures, q));
}

static void on_stats(void *arg, int status, const struct job_store_stats *stats,
                     const struct job_store_job_stats *jobs, size_t jobs_n)
{
    struct node_query *q = arg;
    struct json_w *w = &q->json;
    static const struct job_store_stats none;

    if (status != 0) {
        stats = &none;
        jobs_n = 0;
    }
    q->stats = jobs_n > 0 ? mem_dup(jobs, jobs_n * sizeof(*jobs)) : NULL;
    q->stats_n = q->stats != NULL ? jobs_n : 0;
    json_w_key(w, "runs");
    json_w_obj(w);
    counts_write(w, stats->by_state);
    json_w_end(w);
    json_w_key(w, "store");
    json_w_obj(w);
    json_kv_u64(w, "bytes", stats->file_bytes);
    json_kv_u64(w, "kept_bytes", stats->kept_bytes);
    json_kv_u64(w, "runs", stats->runs);
    json_kv_u64(w, "jobs", stats->jobs);
    json_w_end(w);
    node_asked(job_store_list_jobs(q->node->store, STR(""), STATUS_JOBS_MAX, on_jobs, q));
}

void node_status(struct node *n, node_text_fn *fn, void *arg)
{
    struct node_query *q = mem_zalloc(sizeof *q);

    if (q == NULL) {
        node_out_of_memory("a status");
    }
    q->node = n;
    q->arg = arg;
    q->fn.text = fn;
    buf_init(&q->text, 8 * 1024 * 1024);
    list_push_back(&n->queries, &q->link);
    json_w_init(&q->json, &q->text, false);
    json_w_obj(&q->json);
    json_w_key(&q->json, "cluster");
    json_w_obj(&q->json);
    json_kv_u64(&q->json, "nodes", 1);
    json_kv_cstr(&q->json, "version", version_number);
    json_kv_cstr(&q->json, "revision", version_revision);
    json_kv_bool(&q->json, "insecure", n->settings.auth.insecure);
    json_w_end(&q->json);
    json_w_key(&q->json, "nodes");
    json_w_arr(&q->json);
    json_w_obj(&q->json);
    brief_write(n, &q->json);
    json_w_end(&q->json);
    json_w_end(&q->json);
    node_asked(job_store_stats(n->store, STATUS_JOBS_MAX, on_stats, q));
}

/* ---- metrics ---- */

void node_metrics_ended(struct node *n, const struct run *run)
{
    const char *job = run->job[0] != '\0' ? run->job : "(one-off)";
    uint64_t us;

    telemetry_count(n->metrics, TELEMETRY_RUNS_TOTAL,
                    TELEMETRY_LABELS(job, run_state_name((enum run_state)run->state),
                                     run_reason_name((enum run_reason)run->reason)),
                    1);
    if (run_time_us(run, &us)) {
        telemetry_observe_us(n->metrics, TELEMETRY_RUN_DURATION, TELEMETRY_LABELS(job), us);
    }
    if (run_queue_us(run, &us)) {
        telemetry_observe_us(n->metrics, TELEMETRY_RUN_QUEUE, TELEMETRY_LABELS(job), us);
    }
    if (run->start != RUN_START_NONE && run_start_us(run, &us)) {
        telemetry_observe_us(n->metrics, TELEMETRY_RUN_START,
                             TELEMETRY_LABELS(run_start_name((enum run_start)run->start)), us);
    }
    if (run->usage.measured) {
        telemetry_count(n->metrics, TELEMETRY_RUN_CPU_SECONDS_TOTAL, TELEMETRY_LABELS(job),
                        run->usage.cpu_total_us);
    }
}

static void live_write(struct node *n, struct buf *out)
{
    struct telemetry_live *live = mem_calloc(n->lives_len + 1, sizeof *live);
    size_t count = 0;

    if (live == NULL) {
        return;
    }
    LIST_EACH (pos, &n->live) {
        const struct node_live *l = LIST_ITEM(pos, struct node_live, link);
        if (l->stage == LIVE_RUNNING) {
            live[count++] = (struct telemetry_live){
                .job = str_of(l->run.job[0] != '\0' ? l->run.job : "(one-off)"),
                .now = l->meter.last,
                .mem_peak_bytes = l->meter.mem_peak,
                .mem_limit_bytes = l->run.limits.memory_bytes,
                .start_wall_us = l->meter.start_wall_us,
            };
        }
    }
    (void)telemetry_prom_live(out, live, count, 200);
    mem_free(live);
}

static void gauge(struct buf *out, const char *name, const char *help, uint64_t v)
{
    telemetry_prom_family(out, name, TELEMETRY_GAUGE, help);
    telemetry_prom_u64(out, name, NULL, 0, v);
}

static void counter(struct buf *out, const char *name, const char *help, uint64_t v)
{
    telemetry_prom_family(out, name, TELEMETRY_COUNTER, help);
    telemetry_prom_u64(out, name, NULL, 0, v);
}

void node_metrics(struct node *n, struct buf *out)
{
    struct job_job_counts per_job;
    struct job_counts counts;
    struct job_store_counters store;
    struct image_store_stats images;
    const void *pos = NULL;

    telemetry_gauge_clear(n->metrics, TELEMETRY_QUEUE_DEPTH);
    telemetry_gauge_clear(n->metrics, TELEMETRY_RUNS_RUNNING);
    while (job_core_each(node_core_jobs(n->core), &pos, &per_job)) {
        const char *job = per_job.job[0] != '\0' ? per_job.job : "(one-off)";
        telemetry_gauge(n->metrics, TELEMETRY_QUEUE_DEPTH, TELEMETRY_LABELS(job), per_job.queued);
        telemetry_gauge(n->metrics, TELEMETRY_RUNS_RUNNING, TELEMETRY_LABELS(job), per_job.active);
    }
    job_core_counts(node_core_jobs(n->core), &counts);
    int64_t waits = counts.oldest_us == 0 ? 0 : sys_wall_us() - counts.oldest_us;
    telemetry_gauge(n->metrics, TELEMETRY_QUEUE_OLDEST, TELEMETRY_NO_LABELS,
                    waits > 0 ? (uint64_t)waits : 0);
    telemetry_gauge(n->metrics, TELEMETRY_MEMBERS, TELEMETRY_LABELS("alive"), 1);
    telemetry_metrics_write(n->metrics, out);
    live_write(n, out);
    gauge(out, "machine_cpu_cores", "Logical processors of this machine.", n->facts.cpus_online);
    gauge(out, "machine_memory_bytes", "Memory of this machine.", n->facts.memory_bytes);
    gauge(out, "agent_slots", "Runs that this node takes at a time.",
          node_core_room(n->core)->slots);
    gauge(out, "agent_slots_used", "Slots in use.", node_core_slots_used(n->core));
    gauge(out, "agent_memory_reserved_bytes", "Memory promised to live runs.",
          node_core_memory_used(n->core));
    job_store_counters(n->store, &store);
    counter(out, "agent_store_commits_total", "Transactions of the store.", store.commits);
    counter(out, "agent_store_requests_total", "Writes that these transactions held.",
            store.requests);
    counter(out, "agent_store_lazy_failed_total", "Writes nobody waited for that failed.",
            store.lazy_failed);
    node_callbacks_metrics(n, out);
    node_sensors_metrics(n, out);
    image_store_stats(n->images_store, &images);
    gauge(out, "agent_images", "Tags in the image store.", images.images);
    gauge(out, "agent_image_bytes", "Bytes of all blobs.", images.bytes);
    counter(out, "agent_image_upload_bytes_total", "Bytes taken by the registry.",
            images.uploads_bytes_total);
    counter(out, "agent_image_download_bytes_total", "Bytes given by the registry.",
            images.downloads_bytes_total);
}
