/* Job documents: list, read, put, delete. */
#include <errno.h>

#include "agent/api/api_internal.h"

static void job_write(struct json_w *w, const struct job *job)
{
    json_w_obj(w);
    job_to_json(w, job);
    json_kv_u64(w, "revision", job->revision);
    json_kv_time(w, "created_at", job->created_us);
    json_kv_time(w, "updated_at", job->updated_us);
    json_w_end(w);
}

static void job_send(struct api_call *c, int status, const struct job *job)
{
    struct buf b = BUF_INIT(API_JSON_MAX);
    struct json_w w;
    json_w_init(&w, &b, false);
    job_write(&w, job);
    http_res_headerf(c->req, "ETag", "\"%lu\"", (unsigned long)job->revision);
    api_send_json(c, status, &b);
}

/* -- list -- */

static void list_came(void *arg, const struct node_error *error, const struct job *const *jobs,
                      size_t jobs_len, const char *next)
{
    struct api_call *c = arg;
    struct buf b = BUF_INIT(API_JSON_MAX);
    struct json_w w;
    if (error != NULL) {
        api_fail_node(c, error);
        return;
    }
    json_w_init(&w, &b, false);
    json_w_obj(&w);
    json_w_key(&w, "jobs");
    json_w_arr(&w);
    for (size_t i = 0; i < jobs_len; i++) {
        job_write(&w, jobs[i]);
    }
    json_w_end(&w);
    json_w_key(&w, "next");
    if (next != NULL) {
        json_w_cstr(&w, next);
    } else {
        json_w_null(&w);
    }
    json_w_end(&w);
    api_send_json(c, 200, &b);
}

void api_job_list(struct api_call *c)
{
    static const char *const names[] = { "limit", "after", NULL };
    char after[RUN_JOB_CAP] = "";
    size_t limit = 0;
    struct err e;
    if (!api_query_known(c, names)) {
        return;
    }
    int rc = http1_query(c->head->query, "after", 0, after, sizeof(after));
    if (rc != 0 && rc != -ENOENT) {
        api_fail(c, 400, "bad_request", "query parameter 'after' is not a cursor");
    } else if (api_query_limit(c->head->query, &limit, &e) != 0) {
        api_fail(c, 400, "bad_request", "%s", e.text);
    } else {
        node_job_list(c->api->node, str_of(after), limit, list_came, c);
    }
}

/* -- one -- */

static void get_came(void *arg, const struct node_error *error, const struct job *job, bool created,
                     bool changed)
{
    struct api_call *c = arg;
    (void)created;
    (void)changed;
    if (error != NULL) {
        api_fail_node(c, error);
    } else {
        job_send(c, 200, job);
    }
}

void api_job_get(struct api_call *c)
{
    static const char *const names[] = { "revision", NULL };
    uint64_t revision = 0;
    struct err e;
    if (!api_query_known(c, names)) {
        return;
    }
    if (api_query_u64(c->head->query, "revision", 1, UINT32_MAX, 0, &revision, &e) != 0) {
        api_fail(c, 400, "bad_request", "%s", e.text);
        return;
    }
    node_job_get(c->api->node, str_of(c->param), (uint32_t)revision, get_came, c);
}

static void put_came(void *arg, const struct node_error *error, const struct job *job, bool created,
                     bool changed)
{
    struct api_call *c = arg;
    (void)changed; /* the revision tells */
    if (error != NULL) {
        api_fail_node(c, error);
        return;
    }
    if (created) {
        http_res_headerf(c->req, "Location", "/v1/jobs/%s", job->name);
    }
    job_send(c, created ? 201 : 200, job);
}

static void put_body(void *arg, struct http_req *req, int status, struct str body)
{
    struct api_call *c = arg;
    uint32_t if_match = 0;
    struct str value = http1_header(c->head, "If-Match");
    (void)req;
    if (!api_body_ok(c, status, JOB_DOCUMENT_MAX)) {
        return;
    }
    if (value.p != NULL && api_if_match(value, &if_match) != 0) {
        api_fail(c, 400, "bad_request", "If-Match takes one revision, such as \"12\"");
        return;
    }
    node_job_put(c->api->node, str_of(c->param), body, if_match, put_came, c);
}

void api_job_put(struct api_call *c)
{
    api_read_json(c, put_body);
}

static void delete_came(void *arg, const struct node_error *error, const struct job *job,
                        bool created, bool changed)
{
    struct api_call *c = arg;
    (void)job;
    (void)created;
    (void)changed;
    if (error != NULL) {
        api_fail_node(c, error);
        return;
    }
    api_headers(c);
    http_res_send(c->req, 204, NULL, NULL, 0);
}

void api_job_delete(struct api_call *c)
{
    node_job_delete(c->api->node, str_of(c->param), delete_came, c);
}
