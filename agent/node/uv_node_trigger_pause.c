/*
 * Triggers that are held: a row of the shared table for a job ("report") or one of its triggers
 * ("report/schedule/nightly"), so on every node and over restarts. A row that says they go again
 * stays, with the time: what a schedule missed meanwhile is not made up for.
 */
#include <errno.h>
#include <stdio.h>

#include "agent/node/uv_node_triggers_internal.h"
#include "agent/table/uv_table.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { KEY_CAP = RUN_JOB_CAP + 16 + TRIGGER_NAME_MAX };

/* Is it held; *since_us grows to when it was last let go. */
static bool held(const struct node *n, const char *key, int64_t *since_us)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct table_row_view row;
    bool is = false;
    int64_t since = 0;

    if (!table_get(table_core(n->table), TABLE_PAUSE, STR(""), str_of(key), &row) ||
        json_parse(row.value.p, row.value.n, NULL, &doc, NULL) != 0 ||
        !json_bool(json_get(json_root(doc), "paused"), &is) ||
        !json_int(json_get(json_root(doc), "since_us"), &since)) {
        return false; /* none, or of a version that we do not know */
    }
    if (!is && since > *since_us) {
        *since_us = since;
    }
    return is;
}

static bool one_held(const struct node *n, const struct trigger_entry *e, const char *kind,
                     const char *name, int64_t *since_us)
{
    char key[KEY_CAP];

    (void)snprintf(key, sizeof key, "%s/%s/%s", e->name, kind, name);
    return held(n, key, since_us);
}

void node_trigger_pause_apply(const struct node *n, struct trigger_entry *e, int64_t *ret_since_us)
{
    struct trigger_set *s = e->set;
    int64_t unused = 0;
    *ret_since_us = 0;
    bool all = held(n, e->name, ret_since_us);

    for (size_t i = 0; i < s->schedules_len; i++) {
        bool one = one_held(n, e, "schedule", s->schedules[i].name, ret_since_us);
        s->schedules[i].held = all || one;
    }
    for (size_t i = 0; i < s->hooks_len; i++) {
        s->hooks[i].held = one_held(n, e, "hook", s->hooks[i].name, &unused) || all;
    }
    for (size_t i = 0; i < s->sensors_len; i++) {
        s->sensors[i].held = one_held(n, e, "sensor", s->sensors[i].name, &unused) || all;
    }
    for (size_t i = 0; i < s->events_len; i++) {
        s->events[i].held = one_held(n, e, "event", s->events[i].name, &unused) || all;
    }
    for (size_t i = 0; i < s->after_len; i++) {
        s->after[i].held = one_held(n, e, "after", s->after[i].jobs[0], &unused) || all;
    }
}

static void on_row(void *arg, const struct table_row_view *row, const struct table_row_view *old)
{
    struct node *n = arg;
    const struct table_row_view *any = row != NULL ? row : old;

    if (any == NULL || n->closing || n->triggers->closed) {
        return;
    }
    ptrdiff_t slash = str_find(any->key, '/');
    struct trigger_entry *e =
        node_triggers_entry(n, str_slice(any->key, 0, slash < 0 ? any->key.n : (size_t)slash));
    if (e != NULL) {
        node_triggers_replan(n, e);
    }
}

void node_trigger_pause_drop(struct node *n, const struct trigger_entry *e)
{
    struct table_walk walk = { .type = TABLE_PAUSE };
    struct table_row_view row;
    char keys[TRIGGER_PER_JOB_MAX][KEY_CAP];
    size_t len = 0;
    size_t n_name = strlen(e->name);

    while (len < ARRAY_LEN(keys) && table_next(table_core(n->table), &walk, &row)) {
        if (str_starts(row.key, e->name) && (row.key.n == n_name || row.key.p[n_name] == '/')) {
            (void)str_copy(keys[len++], KEY_CAP, row.key);
        }
    }
    for (size_t i = 0; i < len; i++) {
        (void)table_remove(n->table, TABLE_PAUSE, str_of(keys[i]), NULL, NULL, NULL);
    }
}

int node_trigger_pause_watch(struct node *n)
{
    return table_watch(n->table, TABLE_PAUSE, on_row, n);
}

/* ---- for the API ---- */

static void on_written(void *arg, int status)
{
    struct node_query *q = arg;

    if (status != 0) {
        node_query_refuse(q, status == -ENOSPC ? NODE_DISK_FULL : NODE_INTERNAL,
                          "it could not be made durable: %s", err_name(status));
        return;
    }
    (void)buf_adds(&q->text, "{}");
    node_query_text(q);
}

void node_trigger_pause(struct node *n, struct str trigger, bool paused, node_text_fn *fn,
                        void *arg)
{
    struct node_query *q = node_query_new(n, fn, arg);
    AUTO_BUF struct buf value = BUF_INIT(128);
    struct node_trigger_name name;
    char key[KEY_CAP];
    struct json_w w;
    struct err e = { 0 };

    if (node_trigger_resolve(n, trigger, true, &name, &e) != 0) {
        node_query_refuse(q, e.code == -ENOENT ? NODE_UNKNOWN_TRIGGER : NODE_AMBIGUOUS, "%s",
                          err_text(&e));
        return;
    }
    if (name.kind == NULL) {
        (void)snprintf(key, sizeof key, "%s", name.job);
    } else {
        (void)snprintf(key, sizeof key, "%s/%s/%s", name.job, name.kind, name.name);
    }
    json_w_init(&w, &value, false);
    json_w_obj(&w);
    json_kv_bool(&w, "paused", paused);
    json_kv_int(&w, "since_us", sys_wall_us());
    json_w_end(&w);
    int rc = table_write(n->table, TABLE_PAUSE, str_of(key), buf_str(&value), on_written, q, &e);
    if (rc != 0) {
        node_query_refuse(q, rc == -EDQUOT || rc == -E2BIG ? NODE_QUEUE_FULL : NODE_INTERNAL, "%s",
                          err_text(&e));
        return;
    }
    log_info("trigger '%s' %s", key, paused ? "is paused" : "goes again");
}
