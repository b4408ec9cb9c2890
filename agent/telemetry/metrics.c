/*
 * metrics - the process's own metrics: a table of families, and their series, both bounded.
 */
#include <errno.h>
#include <string.h>

#include "agent/telemetry/telemetry.h"
#include "common/insist.h"
#include "common/list.h"
#include "common/map.h"
#include "common/mem.h"

enum { METRICS_MAGIC = 0x6d657472, JOBS_DEFAULT = 200, CELLS_DEFAULT = 8192 };

static const struct family {
    const char *name;
    enum telemetry_prom_type type;
    bool us; /* values are microseconds, written as seconds */
    const char *labels[TELEMETRY_LABELS_MAX];
    const char *help;
} families[TELEMETRY_METRIC_COUNT] = {
    [TELEMETRY_RUNS_TOTAL] = { "agent_runs_total",
                               TELEMETRY_COUNTER,
                               false,
                               { "job", "state", "reason" },
                               "Runs that ended." },
    [TELEMETRY_RUN_DURATION] = { "agent_run_duration_seconds",
                                 TELEMETRY_HISTOGRAM,
                                 true,
                                 { "job" },
                                 "Time from exec to exit of runs that ended." },
    [TELEMETRY_RUN_QUEUE] = { "agent_run_queue_seconds",
                              TELEMETRY_HISTOGRAM,
                              true,
                              { "job" },
                              "Time from acceptance to placement." },
    [TELEMETRY_RUN_START] = { "agent_run_start_seconds",
                              TELEMETRY_HISTOGRAM,
                              true,
                              { "kind" },
                              "Time to set a sandbox up, from the order to exec." },
    [TELEMETRY_RUN_PULL] = { "agent_run_pull_seconds",
                             TELEMETRY_HISTOGRAM,
                             true,
                             { NULL },
                             "Time to fetch and unpack what was missing of an image." },
    [TELEMETRY_RUN_CPU_SECONDS_TOTAL] = { "agent_run_cpu_seconds_total",
                                          TELEMETRY_COUNTER,
                                          true,
                                          { "job" },
                                          "CPU time of runs that ended." },
    [TELEMETRY_QUEUE_DEPTH] = { "agent_queue_depth",
                                TELEMETRY_GAUGE,
                                false,
                                { "job" },
                                "Runs that wait here for a place." },
    [TELEMETRY_QUEUE_OLDEST] = { "agent_queue_oldest_seconds",
                                 TELEMETRY_GAUGE,
                                 true,
                                 { NULL },
                                 "Age of the run that has waited longest." },
    [TELEMETRY_RUNS_RUNNING] = { "agent_runs_running",
                                 TELEMETRY_GAUGE,
                                 false,
                                 { "job" },
                                 "Runs in a sandbox on this node." },
    [TELEMETRY_FORWARDS_TOTAL] = { "agent_forwards_total",
                                   TELEMETRY_COUNTER,
                                   false,
                                   { "reason" },
                                   "Runs sent to another node." },
    [TELEMETRY_RUNS_TAKEN_OVER_TOTAL] = { "agent_runs_taken_over_total",
                                          TELEMETRY_COUNTER,
                                          false,
                                          { NULL },
                                          "Runs of nodes that went down, continued by this one." },
    [TELEMETRY_RUNS_MERGED_TOTAL] = { "agent_runs_merged_total",
                                      TELEMETRY_COUNTER,
                                      false,
                                      { NULL },
                                      "Ends of runs that another owner's record overruled." },
    [TELEMETRY_ROUTE_DECISIONS_TOTAL] = { "agent_route_decisions_total",
                                          TELEMETRY_COUNTER,
                                          false,
                                          { "basis" },
                                          "Placement decisions made here." },
    [TELEMETRY_PROFILE_SAMPLES] = { "agent_profile_samples",
                                    TELEMETRY_GAUGE,
                                    false,
                                    { "job" },
                                    "Measured runs behind a job's profile." },
    [TELEMETRY_RIGHT_SIZE_BYTES] = { "agent_right_size_bytes",
                                     TELEMETRY_GAUGE,
                                     false,
                                     { "job", "kind" },
                                     "Memory limit asked for, and learned." },
    [TELEMETRY_WEBHOOK_DELIVERIES_TOTAL] = { "agent_webhook_deliveries_total",
                                             TELEMETRY_COUNTER,
                                             false,
                                             { "code" },
                                             "Web hooks received, by answer." },
    [TELEMETRY_SCHEDULE_MISSED_TOTAL] = { "agent_schedule_missed_total",
                                          TELEMETRY_COUNTER,
                                          false,
                                          { "job" },
                                          "Scheduled times at which no run started." },
    [TELEMETRY_MEMBERS] = { "agent_members",
                            TELEMETRY_GAUGE,
                            false,
                            { "state" },
                            "Members as gossip sees them." },
    [TELEMETRY_RDT_RMIDS_FREE] = { "agent_rdt_rmids_free",
                                   TELEMETRY_GAUGE,
                                   false,
                                   { NULL },
                                   "Cache monitoring groups that are not in use." },
    [TELEMETRY_HTTP_REQUESTS_TOTAL] = { "agent_http_requests_total",
                                        TELEMETRY_COUNTER,
                                        false,
                                        { "route", "code" },
                                        "HTTP requests answered." },
    [TELEMETRY_HTTP_DURATION] = { "agent_http_request_duration_seconds",
                                  TELEMETRY_HISTOGRAM,
                                  true,
                                  { "route" },
                                  "Time from a request's head to its answer's end." },
    [TELEMETRY_DROPPED_TOTAL] = { "agent_dropped_total",
                                  TELEMETRY_COUNTER,
                                  false,
                                  { "what" },
                                  "Things dropped because a bound was reached." },
};

/* Upper ends, and as they stand in the "le" label; +Inf is the count. */
static const struct {
    uint64_t us;
    const char *le;
} buckets[TELEMETRY_BUCKETS] = {
    { 500, "0.0005" },    { 1000, "0.001" },      { 2500, "0.0025" },     { 5000, "0.005" },
    { 10000, "0.01" },    { 25000, "0.025" },     { 50000, "0.05" },      { 100000, "0.1" },
    { 250000, "0.25" },   { 500000, "0.5" },      { 1000000, "1" },       { 2500000, "2.5" },
    { 5000000, "5" },     { 10000000, "10" },     { 30000000, "30" },     { 60000000, "60" },
    { 300000000, "300" }, { 1800000000, "1800" }, { 7200000000, "7200" }, { 43200000000, "43200" },
};

struct histogram {
    uint64_t in[TELEMETRY_BUCKETS];
    uint64_t sum_us;
};

struct cell {
    struct list link; /* in its family */
    uint64_t value;   /* a histogram's count */
    struct histogram *h;
    struct str key; /* the family's number and the label values, each with a NUL */
    char text[];
};

struct job_label {
    size_t len;
    char name[];
};

struct telemetry_metrics {
    uint32_t magic;
    uint32_t jobs_max;
    uint64_t dropped;
    const char *version;
    const char *revision;
    struct map cells; /* struct cell by key */
    struct map jobs;  /* struct job_label by name */
    struct list families[TELEMETRY_METRIC_COUNT];
};

/* A cell's key while it is looked up. */
struct cell_key {
    char text[1 + TELEMETRY_LABELS_MAX * (TELEMETRY_LABEL_LEN_MAX + 1)];
    size_t n;
};

static size_t value_len(const char *v)
{
    return v != NULL ? strnlen(v, TELEMETRY_LABEL_LEN_MAX) : 0;
}

/* The name as it will stand in the label. With add (the same object as m) a new name is registered
 * while there is room. */
static const char *job_name(const struct telemetry_metrics *m, struct telemetry_metrics *add,
                            const char *job)
{
    size_t n = value_len(job);
    struct job_label *j = NULL;

    if (map_get(&m->jobs, (struct str){ job, n }) != NULL) {
        return job;
    }
    if (add == NULL || m->jobs.len >= m->jobs_max) {
        return "other";
    }
    j = mem_alloc(sizeof(*j) + n + 1);
    if (j == NULL) {
        return "other";
    }
    j->len = n;
    memcpy(j->name, job, n);
    j->name[n] = '\0';
    if (map_add(&add->jobs, (struct str){ j->name, n }, j) != 0) {
        (void)mem_free(j);
        return "other";
    }
    return job;
}

static void key_make(const struct telemetry_metrics *m, struct telemetry_metrics *add,
                     enum telemetry_metric id, const struct telemetry_labels *labels,
                     struct cell_key *k)
{
    const struct family *f = &families[id];

    k->text[0] = (char)id;
    k->n = 1;
    for (size_t i = 0; i < TELEMETRY_LABELS_MAX && f->labels[i] != NULL; i++) {
        const char *v = labels->v[i] != NULL ? labels->v[i] : "";
        if (strcmp(f->labels[i], "job") == 0 && v[0] != '\0') {
            v = job_name(m, add, v);
        }
        size_t n = value_len(v);
        memcpy(k->text + k->n, v, n);
        k->text[k->n + n] = '\0';
        k->n += n + 1;
    }
}

static struct cell *cell_free(struct cell *c)
{
    list_remove(&c->link);
    (void)mem_free(c->h);
    return mem_free(c);
}

static struct cell *cell_get(struct telemetry_metrics *m, enum telemetry_metric id,
                             enum telemetry_prom_type type, const struct telemetry_labels *labels)
{
    struct cell_key k;
    struct cell *c = NULL;

    REQUIRE(m != NULL && m->magic == METRICS_MAGIC);
    REQUIRE((unsigned)id < TELEMETRY_METRIC_COUNT && families[id].type == type);
    key_make(m, m, id, labels, &k);
    c = map_get(&m->cells, (struct str){ k.text, k.n });
    if (c != NULL) {
        return c;
    }
    c = mem_zalloc(sizeof(*c) + k.n);
    if (c == NULL) {
        m->dropped++;
        return NULL;
    }
    list_init(&c->link);
    memcpy(c->text, k.text, k.n);
    c->key = (struct str){ c->text, k.n };
    if (type == TELEMETRY_HISTOGRAM) {
        c->h = mem_zalloc(sizeof(*c->h));
    }
    if ((type == TELEMETRY_HISTOGRAM && c->h == NULL) || map_add(&m->cells, c->key, c) != 0) {
        m->dropped++;
        return cell_free(c);
    }
    list_push_back(&m->families[id], &c->link);
    return c;
}

int telemetry_metrics_new(uint32_t jobs_max, uint32_t cells_max, const char *version,
                          const char *revision, uint64_t k0, uint64_t k1,
                          struct telemetry_metrics **ret, struct err *e)
{
    struct telemetry_metrics *m = mem_zalloc(sizeof(*m));

    if (m == NULL) {
        return err_set(e, -ENOMEM, "make room for metrics");
    }
    m->jobs_max = jobs_max != 0 ? jobs_max : JOBS_DEFAULT;
    m->version = version;
    m->revision = revision;
    map_init(&m->cells, cells_max != 0 ? cells_max : CELLS_DEFAULT, k0, k1);
    map_init(&m->jobs, m->jobs_max, k0, k1);
    for (size_t i = 0; i < TELEMETRY_METRIC_COUNT; i++) {
        list_init(&m->families[i]);
    }
    m->magic = METRICS_MAGIC;
    *ret = m;
    return 0;
}

struct telemetry_metrics *telemetry_metrics_free(struct telemetry_metrics *m)
{
    void *v = NULL;

    if (m == NULL) {
        return NULL;
    }
    REQUIRE(m->magic == METRICS_MAGIC);
    m->magic = 0;
    for (size_t i = 0; i < TELEMETRY_METRIC_COUNT; i++) {
        LIST_EACH_SAFE (pos, &m->families[i]) {
            (void)cell_free(LIST_ITEM(pos, struct cell, link));
        }
    }
    for (size_t i = 0; (v = map_next(&m->jobs, &i)) != NULL;) {
        (void)mem_free(v);
    }
    map_release(&m->cells);
    map_release(&m->jobs);
    return mem_free(m);
}

void telemetry_count(struct telemetry_metrics *m, enum telemetry_metric id,
                     const struct telemetry_labels *labels, uint64_t n)
{
    struct cell *c = cell_get(m, id, TELEMETRY_COUNTER, labels);

    if (c != NULL) {
        c->value += n;
    }
}

void telemetry_gauge(struct telemetry_metrics *m, enum telemetry_metric id,
                     const struct telemetry_labels *labels, uint64_t v)
{
    struct cell *c = cell_get(m, id, TELEMETRY_GAUGE, labels);

    if (c != NULL) {
        c->value = v;
    }
}

void telemetry_observe_us(struct telemetry_metrics *m, enum telemetry_metric id,
                          const struct telemetry_labels *labels, uint64_t us)
{
    struct cell *c = cell_get(m, id, TELEMETRY_HISTOGRAM, labels);

    if (c == NULL) {
        return;
    }
    for (size_t b = 0; b < TELEMETRY_BUCKETS; b++) {
        if (us <= buckets[b].us) {
            c->h->in[b]++;
            break;
        }
    }
    c->h->sum_us += us;
    c->value++;
}

uint64_t telemetry_value(const struct telemetry_metrics *m, enum telemetry_metric id,
                         const struct telemetry_labels *labels)
{
    struct cell_key k;
    const struct cell *c = NULL;

    REQUIRE(m != NULL && m->magic == METRICS_MAGIC && (unsigned)id < TELEMETRY_METRIC_COUNT);
    key_make(m, NULL, id, labels, &k);
    c = map_get(&m->cells, (struct str){ k.text, k.n });
    return c != NULL ? c->value : 0;
}

static void cell_drop(struct telemetry_metrics *m, struct cell *c)
{
    (void)map_remove(&m->cells, c->key);
    (void)cell_free(c);
}

void telemetry_gauge_clear(struct telemetry_metrics *m, enum telemetry_metric id)
{
    REQUIRE(m != NULL && m->magic == METRICS_MAGIC);
    REQUIRE((unsigned)id < TELEMETRY_METRIC_COUNT && families[id].type == TELEMETRY_GAUGE);
    LIST_EACH_SAFE (pos, &m->families[id]) {
        cell_drop(m, LIST_ITEM(pos, struct cell, link));
    }
}

void telemetry_forget_job(struct telemetry_metrics *m, const char *job)
{
    struct str name = { job, value_len(job) };

    REQUIRE(m != NULL && m->magic == METRICS_MAGIC);
    if (map_get(&m->jobs, name) == NULL) {
        return; /* its figures are in "other" */
    }
    for (size_t i = 0; i < TELEMETRY_METRIC_COUNT; i++) {
        const char *first = families[i].labels[0];
        if (first == NULL || strcmp(first, "job") != 0) {
            continue;
        }
        LIST_EACH_SAFE (pos, &m->families[i]) {
            struct cell *c = LIST_ITEM(pos, struct cell, link);
            if (str_eq(str_of(c->text + 1), name)) {
                cell_drop(m, c);
            }
        }
    }
    (void)mem_free(map_remove(&m->jobs, name));
}

/* ---- text ----------------------------------------------------------------------------------- */

static void write_histogram(struct buf *out, const char *name, const struct cell *c,
                            struct telemetry_label *labels, size_t n)
{
    char whole[64];
    uint64_t sum = 0;

    INSIST(str_copy(whole, sizeof(whole) - 7, str_of(name)) == 0);
    size_t len = strlen(whole);
    memcpy(whole + len, "_bucket", 8);
    labels[n].name = "le";
    for (size_t b = 0; b <= TELEMETRY_BUCKETS; b++) {
        sum = b < TELEMETRY_BUCKETS ? sum + c->h->in[b] : c->value;
        labels[n].value = b < TELEMETRY_BUCKETS ? str_of(buckets[b].le) : STR("+Inf");
        telemetry_prom_u64(out, whole, labels, n + 1, sum);
    }
    memcpy(whole + len, "_sum", 5);
    telemetry_prom_seconds(out, whole, labels, n, c->h->sum_us);
    memcpy(whole + len, "_count", 7);
    telemetry_prom_u64(out, whole, labels, n, c->value);
}

static void write_cell(struct buf *out, const struct family *f, const struct cell *c)
{
    struct telemetry_label labels[TELEMETRY_LABELS_MAX + 1];
    const char *v = c->text + 1;
    size_t n = 0;

    for (; n < TELEMETRY_LABELS_MAX && f->labels[n] != NULL; n++) {
        labels[n].name = f->labels[n];
        labels[n].value = str_of(v);
        v += labels[n].value.n + 1;
    }
    if (f->type == TELEMETRY_HISTOGRAM) {
        write_histogram(out, f->name, c, labels, n);
    } else if (f->us) {
        telemetry_prom_seconds(out, f->name, labels, n, c->value);
    } else {
        telemetry_prom_u64(out, f->name, labels, n, c->value);
    }
}

void telemetry_metrics_write(const struct telemetry_metrics *m, struct buf *out)
{
    REQUIRE(m != NULL && m->magic == METRICS_MAGIC);
    const struct telemetry_label build[] = { { "version", str_of(m->version) },
                                             { "revision", str_of(m->revision) } };

    telemetry_prom_family(out, "agent_build_info", TELEMETRY_GAUGE, "Version of this agent.");
    telemetry_prom_u64(out, "agent_build_info", build, ARRAY_LEN(build), 1);
    for (size_t i = 0; i < TELEMETRY_METRIC_COUNT; i++) {
        if (list_empty(&m->families[i])) {
            continue;
        }
        telemetry_prom_family(out, families[i].name, families[i].type, families[i].help);
        LIST_EACH (pos, &m->families[i]) {
            write_cell(out, &families[i], LIST_ITEM(pos, struct cell, link));
        }
    }
    telemetry_prom_family(out, "agent_metrics_dropped_total", TELEMETRY_COUNTER,
                          "Observations without a series: too many series, or no memory.");
    telemetry_prom_u64(out, "agent_metrics_dropped_total", NULL, 0, m->dropped);
}
