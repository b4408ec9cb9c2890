/* Runs: list, read, cancel, retry, samples, placement, and the stream of their events. */
#include <errno.h>

#include "agent/api/api_internal.h"

/* -- list -- */

static void list_came(void *arg, const struct node_error *error, const struct run *runs,
                      size_t runs_len, bool more)
{
    struct api_call *c = arg;
    struct buf b = BUF_INIT(API_JSON_MAX);
    struct json_w w;
    char cursor[ULID_TEXT_CAP];
    if (error != NULL) {
        api_fail_node(c, error);
        return;
    }
    json_w_init(&w, &b, false);
    json_w_obj(&w);
    json_w_key(&w, "runs");
    json_w_arr(&w);
    for (size_t i = 0; i < runs_len; i++) {
        run_to_json(&w, &runs[i]);
    }
    json_w_end(&w);
    json_w_key(&w, "next");
    if (more && runs_len > 0) {
        ulid_format(runs[runs_len - 1].id, cursor);
        json_w_cstr(&w, cursor);
    } else {
        json_w_null(&w);
    }
    json_w_end(&w);
    size_t limit = 0;
    struct err e;
    (void)api_query_limit(c->head->query, &limit, &e); /* it was right before */
    api_runs_send(c, &b, limit);
}

/* An optional parameter as text; false: answered. */
static bool query_text(struct api_call *c, const char *name, char *dst, size_t cap)
{
    int rc = http1_query(c->head->query, name, 0, dst, cap);
    if (rc == -ENOENT) {
        dst[0] = '\0';
        return true;
    }
    if (rc != 0) {
        api_fail(c, 400, "bad_request", "query parameter '%s' is not valid", name);
    }
    return rc == 0;
}

void api_run_list(struct api_call *c)
{
    static const char *const names[] = { "job", "state", "limit", "after", NULL };
    struct node_run_filter filter = { 0 };
    char job[RUN_JOB_CAP];
    char states[256];
    char after[64];
    struct err e;
    if (!api_query_known(c, names) || !query_text(c, "job", job, sizeof(job)) ||
        !query_text(c, "state", states, sizeof(states)) ||
        !query_text(c, "after", after, sizeof(after))) {
        return;
    }
    if (run_states_parse(str_of(states), &filter.states, &e) != 0 ||
        api_query_limit(c->head->query, &filter.limit, &e) != 0) {
        api_fail(c, 400, "bad_request", "%s", e.text);
        return;
    }
    if (after[0] != '\0' && ulid_parse(str_of(after), &filter.after) != 0) {
        api_fail(c, 400, "bad_request", "query parameter 'after' is not a cursor");
        return;
    }
    filter.job = str_of(job);
    node_run_list(c->api->node, &filter, list_came, c);
}

/* -- one -- */

void api_run_get(struct api_call *c)
{
    struct ulid id;
    if (api_param_run(c, &id)) {
        node_run_get(c->api->node, id, api_answer_run, c);
    }
}

void api_run_samples(struct api_call *c)
{
    struct ulid id;
    char peer[NODE_NAME_CAP];
    if (!api_param_run(c, &id)) {
        return;
    }
    if (node_run_is_elsewhere(c->api->node, id, 0, peer)) {
        api_proxy(c, peer); /* where they are taken, as long as it runs */
    } else {
        node_run_samples(c->api->node, id, api_answer_text, c);
    }
}

void api_run_placement(struct api_call *c)
{
    struct ulid id;
    if (api_param_run(c, &id)) {
        node_run_placement(c->api->node, id, api_answer_text, c);
    }
}

void api_run_cancel(struct api_call *c)
{
    struct ulid id;
    if (api_param_run(c, &id)) {
        node_run_cancel(c->api->node, id, api_answer_run, c);
    }
}

static void retry_came(void *arg, const struct node_error *error, const struct run *run,
                       bool replayed)
{
    struct api_call *c = arg;
    (void)replayed;
    if (error != NULL) {
        api_fail_node(c, error);
    } else {
        api_send_run(c, 202, run);
    }
}

void api_run_retry(struct api_call *c)
{
    struct ulid id;
    if (api_param_run(c, &id)) {
        node_run_retry(c->api->node, id, retry_came, c);
    }
}
