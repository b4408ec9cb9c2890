/* Call-backs out: listed over the whole cluster, sent again by the node that has the delivery. */
#include <errno.h>

#include "agent/api/api_internal.h"

static void list_came(void *arg, const struct node_error *error, struct str text)
{
    struct api_call *c = arg;
    struct err e = { 0 };
    size_t limit = 0;

    if (error != NULL || api_query_limit(c->head->query, &limit, &e) != 0) {
        api_answer_text(c, error, text);
    } else {
        api_callbacks_send(c, text, limit);
    }
}

void api_callback_list(struct api_call *c)
{
    static const char *const names[] = { "job", "state", "limit", NULL };
    char job[RUN_JOB_CAP] = "";
    char state[16] = "";
    size_t limit = 0;
    struct err e = { 0 };

    if (!api_query_known(c, names)) {
        return;
    }
    int rc = http1_query(c->head->query, "job", 0, job, sizeof job);
    if (rc != 0 && rc != -ENOENT) {
        api_fail(c, 400, "bad_request", "query parameter 'job' is not a job's name");
        return;
    }
    rc = http1_query(c->head->query, "state", 0, state, sizeof state);
    if (rc != -ENOENT && (rc != 0 || !node_callback_state_ok(str_of(state)))) {
        api_fail(c, 400, "bad_request",
                 "query parameter 'state' is waiting, delivered, gone, failed or off");
        return;
    }
    if (api_query_limit(c->head->query, &limit, &e) != 0) {
        api_fail(c, 400, "bad_request", "%s", err_text(&e));
        return;
    }
    node_callback_list(c->api->node, str_of(job), str_of(state), limit, list_came, c);
}

void api_callback_retry(struct api_call *c)
{
    char owner[NODE_NAME_CAP];
    struct ulid run;

    /* A delivery's id begins with its run's, which says who has it, unless the run was taken over.
     */
    if (!api_is_hop(c) && !node_callback_is_here(c->api->node, str_of(c->param)) &&
        ulid_parse(str_slice(str_of(c->param), 0, ULID_TEXT_LEN), &run) == 0 &&
        node_run_owner(c->api->node, run, owner)) {
        api_proxy(c, owner);
        return;
    }
    node_callback_retry(c->api->node, str_of(c->param), api_answer_accepted, c);
}
