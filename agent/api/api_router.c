/* The routes of /v1 and around it: the one list. openapi.json describes exactly these. */
#include "agent/api/api_request.h"
#include "common/insist.h"

const struct api_route api_routes[] = {
    { "GET", "/", API_DASHBOARD, 0, API_REACH_ANY, "The dashboard" },
    { "GET", "/ui/{file}", API_DASHBOARD, 0, API_REACH_ANY, "A file of the dashboard" },
    { "GET", "/healthz", API_HEALTH, 0, API_REACH_ANY, "Is the process alive?" },
    { "GET", "/readyz", API_READY, 0, API_REACH_ANY, "Can runs be taken?" },
    { "GET", "/metrics", API_METRICS, TOKEN_READ, API_REACH_ALL, "Prometheus metrics" },
    { "GET", "/openapi.json", API_OPENAPI, 0, API_REACH_ANY, "This description" },
    { "GET", "/v1/status", API_STATUS, TOKEN_READ, API_REACH_ALL, "The cluster at a glance" },
    { "GET", "/v1/events", API_EVENTS, TOKEN_READ, API_REACH_ALL,
      "What this node sees, as server-sent events" },
    { "GET", "/v1/jobs", API_JOB_LIST, TOKEN_READ, API_REACH_ALL, "List jobs" },
    { "GET", "/v1/jobs/{job}", API_JOB_GET, TOKEN_READ, API_REACH_JOB, "Read a job" },
    { "PUT", "/v1/jobs/{job}", API_JOB_PUT, TOKEN_APPLY, API_REACH_JOB, "Create or change a job" },
    { "DELETE", "/v1/jobs/{job}", API_JOB_DELETE, TOKEN_APPLY, API_REACH_JOB, "Delete a job" },
    { "POST", "/v1/jobs/{job}/runs", API_JOB_SUBMIT, TOKEN_SUBMIT, API_REACH_JOB,
      "Trigger a run of a job" },
    { "GET", "/v1/runs", API_RUN_LIST, TOKEN_READ, API_REACH_QUERY, "List runs, the newest first" },
    { "POST", "/v1/runs", API_RUN_SUBMIT, TOKEN_SUBMIT, API_REACH_ALL, "Run an image once" },
    { "GET", "/v1/runs/{id}", API_RUN_GET, TOKEN_READ, API_REACH_RUN, "Read a run's record" },
    { "GET", "/v1/runs/{id}/output", API_RUN_OUTPUT, TOKEN_READ, API_REACH_RUN,
      "A run's standard output" },
    { "GET", "/v1/runs/{id}/logs", API_RUN_LOGS, TOKEN_READ, API_REACH_RUN, "A run's log" },
    { "GET", "/v1/runs/{id}/samples", API_RUN_SAMPLES, TOKEN_READ, API_REACH_RUN,
      "A run's resources over time" },
    { "GET", "/v1/runs/{id}/placement", API_RUN_PLACEMENT, TOKEN_READ, API_REACH_RUN,
      "Why a run went where it went" },
    { "POST", "/v1/runs/{id}/cancel", API_RUN_CANCEL, TOKEN_SUBMIT, API_REACH_RUN, "Cancel a run" },
    { "POST", "/v1/runs/{id}/retry", API_RUN_RETRY, TOKEN_SUBMIT, API_REACH_RUN,
      "Run a failed run again" },
    { "GET", "/v1/jobs/{job}/placement", API_JOB_PLACEMENT, TOKEN_READ, API_REACH_JOB,
      "Where a run of the job would go now, and why" },
    { "GET", "/v1/profiles", API_PROFILE_LIST, TOKEN_READ, API_REACH_ALL,
      "What is known of all jobs" },
    { "GET", "/v1/profiles/{job...}", API_PROFILE_GET, TOKEN_READ, API_REACH_JOB,
      "What runs of a job need, by node class" },
    { "GET", "/v1/nodes", API_NODE_LIST, TOKEN_READ, API_REACH_ANY, "List nodes" },
    { "GET", "/v1/nodes/{node}", API_NODE_GET, TOKEN_READ, API_REACH_ANY, "Read a node's facts" },
    { "POST", "/v1/nodes/{node}/drain", API_NODE_DRAIN, TOKEN_ADMIN, API_REACH_ALL,
      "Stop (or resume) taking runs" },
    { "POST", "/v1/nodes/{node}/leave", API_NODE_LEAVE, TOKEN_ADMIN, API_REACH_ALL,
      "Leave the cluster and end" },
    { "GET", "/v1/members", API_MEMBER_LIST, TOKEN_READ, API_REACH_ANY,
      "The members as gossip sees them" },
    { "GET", "/v1/table", API_TABLE_LIST, TOKEN_READ, API_REACH_ALL,
      "The shared table as this node knows it" },
    { "POST", "/v1/hooks/{hook...}", API_HOOK, 0, API_REACH_ANY,
      "A web hook: its signature is its right" },
    { "POST", "/v1/events", API_EVENT_POST, TOKEN_SUBMIT, API_REACH_ALL,
      "Events (CloudEvents 1.0: binary, structured, batch)" },
    { "GET", "/v1/triggers", API_TRIGGER_LIST, TOKEN_READ, API_REACH_ALL,
      "What sets jobs off, and when next" },
    { "POST", "/v1/triggers/sign/{hook...}", API_HOOK_SIGN, TOKEN_ADMIN, API_REACH_ALL,
      "The headers that a hook's sender would send with this body" },
    { "POST", "/v1/triggers/test/{trigger...}", API_TRIGGER_TEST, TOKEN_SUBMIT, API_REACH_ALL,
      "Would this input set the trigger off?" },
    { "POST", "/v1/triggers/fire/{trigger...}", API_TRIGGER_FIRE, TOKEN_SUBMIT, API_REACH_ALL,
      "Set a trigger off now" },
    { "POST", "/v1/triggers/pause/{trigger...}", API_TRIGGER_PAUSE, TOKEN_APPLY, API_REACH_ALL,
      "Hold a job's triggers, or one, on every node" },
    { "POST", "/v1/triggers/resume/{trigger...}", API_TRIGGER_RESUME, TOKEN_APPLY, API_REACH_ALL,
      "Let held triggers go again" },
    { "GET", "/v1/callbacks", API_CALLBACK_LIST, TOKEN_READ, API_REACH_ALL,
      "Call-backs: what was delivered, and what waits" },
    { "POST", "/v1/callbacks/{callback}/retry", API_CALLBACK_RETRY, TOKEN_SUBMIT, API_REACH_ALL,
      "Send a call-back again" },
    { "GET", "/v1/secrets", API_SECRET_LIST, TOKEN_ADMIN, API_REACH_ALL,
      "List secrets, never their values" },
    { "PUT", "/v1/secrets/{secret}", API_SECRET_PUT, TOKEN_ADMIN, API_REACH_ALL, "Set a secret" },
    { "DELETE", "/v1/secrets/{secret}", API_SECRET_DELETE, TOKEN_ADMIN, API_REACH_ALL,
      "Delete a secret" },
    { "GET", "/v1/images", API_IMAGE_LIST, TOKEN_READ, API_REACH_ALL, "List images" },
    { "POST", "/v1/images/prune", API_IMAGE_PRUNE, TOKEN_ADMIN, API_REACH_ALL,
      "Remove what no tag and no job needs" },
    { "GET", "/v1/tokens", API_TOKEN_LIST, TOKEN_ADMIN, API_REACH_ALL, "List tokens" },
    { "POST", "/v1/tokens", API_TOKEN_CREATE, TOKEN_ADMIN, API_REACH_ALL,
      "Make a token that every node knows" },
    { "DELETE", "/v1/tokens/{name}", API_TOKEN_REVOKE, TOKEN_ADMIN, API_REACH_ALL,
      "Revoke a token" },
    { "DELETE", "/v1/images/{name...}", API_IMAGE_DELETE, TOKEN_PUSH, API_REACH_IMAGE,
      "Delete an image's tag, or all of them" },
};
const size_t api_routes_len = ARRAY_LEN(api_routes);

/* The next segment of a path that begins with '/'. */
static bool segment_next(struct str *rest, struct str *ret)
{
    if (rest->n == 0) {
        return false;
    }
    struct str s = str_slice(*rest, 1, rest->n - 1);
    ptrdiff_t slash = str_find(s, '/');
    *ret = slash < 0 ? s : str_slice(s, 0, (size_t)slash);
    *rest = str_slice(s, ret->n, s.n - ret->n);
    return true;
}

/* Does the path fit the pattern? *ret_param is the encoded text of its parameter. */
static bool pattern_fits(const char *pattern, struct str path, struct str *ret_param)
{
    struct str want = str_of(pattern);
    struct str have = path;
    struct str w;
    struct str h;
    *ret_param = (struct str){ NULL, 0 };
    while (segment_next(&want, &w)) {
        if (str_ends(w, "...}")) {
            *ret_param = have.n > 0 ? str_slice(have, 1, have.n - 1) : have;
            return ret_param->n > 0;
        }
        if (!segment_next(&have, &h)) {
            return false;
        }
        if (str_starts(w, "{")) {
            *ret_param = h;
            if (h.n == 0) {
                return false;
            }
        } else if (!str_eq(w, h)) {
            return false;
        }
    }
    return have.n == 0;
}

static void allow_add(struct api_match *m, const char *method)
{
    size_t n = strlen(m->allow);
    struct str left = { method, strlen(method) };
    if (n > 0 && n + 2 < sizeof(m->allow)) {
        memcpy(m->allow + n, ", ", 3);
        n += 2;
    }
    (void)str_copy(m->allow + n, sizeof(m->allow) - n, left);
}

/* Decodes the parameter. An encoded slash would let one segment pretend to be two. */
static bool param_decode(const struct api_route *r, struct str raw, struct api_match *m)
{
    size_t n = 0;
    bool rest = strstr(r->pattern, "...}") != NULL;
    if (http1_unescape(raw, m->param, sizeof(m->param), &n) != 0) {
        return false;
    }
    struct str pieces = { m->param, n };
    struct str piece;
    while (str_split(&pieces, '/', &piece)) {
        if (piece.n == 0 || str_eqs(piece, ".") || str_eqs(piece, "..")) {
            return false;
        }
    }
    return rest || memchr(m->param, '/', n) == NULL;
}

enum api_found api_route_find(struct str method, struct str path, struct api_match *ret)
{
    const char *wanted = str_eqs(method, "HEAD") ? "GET" : NULL;
    enum api_found found = API_NO_PATH;
    struct str param;
    memset(ret, 0, sizeof(*ret));
    if (path.n == 0 || path.p[0] != '/') {
        return API_BAD_PATH;
    }
    for (size_t i = 0; i < api_routes_len; i++) {
        const struct api_route *r = &api_routes[i];
        if (!pattern_fits(r->pattern, path, &param)) {
            continue;
        }
        if (wanted != NULL ? strcmp(r->method, wanted) == 0 : str_eqs(method, r->method)) {
            ret->route = r;
            return param.n == 0 || param_decode(r, param, ret) ? API_FOUND : API_BAD_PATH;
        }
        found = API_NO_METHOD;
        allow_add(ret, r->method);
        if (strcmp(r->method, "GET") == 0) {
            allow_add(ret, "HEAD");
        }
    }
    if (found == API_NO_METHOD) {
        allow_add(ret, "OPTIONS");
    }
    return found;
}
