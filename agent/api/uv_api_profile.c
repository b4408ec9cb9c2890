/* What runs taught: profiles, and where a run would go now. */
#include "agent/api/api_internal.h"

void api_profile_list(struct api_call *c)
{
    struct buf b = BUF_INIT(API_JSON_MAX);
    struct json_w w;

    json_w_init(&w, &b, false);
    node_profiles_json(c->api->node, &w);
    api_send_json(c, 200, &b);
}

void api_profile_get(struct api_call *c)
{
    struct buf b = BUF_INIT(API_JSON_MAX);
    struct json_w w;

    json_w_init(&w, &b, false);
    if (!node_profile_json(c->api->node, str_of(c->param), &w)) {
        buf_release(&b);
        api_fail(c, 404, "unknown_profile", "no run of '%s' has ended yet", c->param);
        return;
    }
    api_send_json(c, 200, &b);
}

void api_job_placement(struct api_call *c)
{
    node_job_placement(c->api->node, str_of(c->param), api_answer_text, c);
}
