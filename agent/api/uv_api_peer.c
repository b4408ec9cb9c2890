/*
 * /v1/peer: what nodes ask of each other (agent/node/node_msg.h has the bodies).
 *
 *   POST /v1/peer/offer|cancel|check|probe     owner to executor
 *   POST /v1/peer/started|end                  executor to owner
 *   GET  /v1/peer/payload/{run}                executor fetches a run's payload
 *   PUT  /v1/peer/output/{run}?attempt=&file=  executor hands a file over, before the end
 *   POST /v1/peer/replicate                    owner to holders: records, as bytes
 *   PUT  /v1/peer/copy/{run}?attempt=&file=    owner to holders: a large file, before its record
 *   POST /v1/peer/copies|where|claim           what became of these? who has it? whose key is it?
 *
 * Not for clients: in no description, and answered only to who is known to be a node.
 */
#include <errno.h>
#include <string.h>

#include "agent/api/api_internal.h"
#include "agent/node/node_msg.h"
#include "common/mem.h"

enum { PEER_BODY_MAX = NODE_MSG_MAX };

static const struct {
    const char *name;
    enum node_ask ask;
} asks[] = {
    { "offer", NODE_ASK_OFFER },         { "cancel", NODE_ASK_CANCEL }, { "check", NODE_ASK_CHECK },
    { "started", NODE_ASK_STARTED },     { "end", NODE_ASK_END },       { "probe", NODE_ASK_PROBE },
    { "replicate", NODE_ASK_REPLICATE }, { "copies", NODE_ASK_COPIES }, { "where", NODE_ASK_WHERE },
    { "claim", NODE_ASK_CLAIM },
};

bool api_is_peer(const struct api_call *c)
{
    return str_starts(c->head->path, "/v1/peer/");
}

bool api_peer_name(const struct api_call *c, struct str *ret)
{
    const struct settings *s = node_settings(c->api->node);
    struct str name = http1_header(c->head, "Agent-Node");

    if (http_req_is_tls(c->req)) {
        *ret = str_of(http_req_tls_name(c->req));
        return ret->n != 0 && ret->n < NODE_NAME_CAP;
    }
    bool open =
        c->api->tokens == NULL && (s->auth.insecure || settings_addr_is_loopback(s->http.listen));

    if (!open || name.n == 0 || name.n >= NODE_NAME_CAP) {
        return false;
    }
    *ret = name;
    return true;
}

/* ---- questions ---- */

static void answered(void *arg, const struct node_error *error, struct str text)
{
    api_answer_text(arg, error, text);
}

static void question_came(void *arg, struct http_req *req, int status, struct str body)
{
    struct api_call *c = arg;
    struct str from;
    (void)req;
    if (!api_body_ok(c, status, PEER_BODY_MAX)) {
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(asks); i++) {
        if (strcmp(c->param, asks[i].name) == 0 && api_peer_name(c, &from)) {
            node_peer_asks(c->api->node, asks[i].ask, from, body, answered, c);
            return;
        }
    }
    api_fail(c, 404, "not_found", "no such question");
}

/* ---- payloads ---- */

static void payload_send(struct api_call *c, struct str from)
{
    struct ulid id;
    uint64_t bytes = 0;
    if (!api_param_run(c, &id)) {
        return;
    }
    int fd = node_peer_payload(c->api->node, from, id, &bytes);
    if (fd < 0) {
        api_fail(c, 404, "unknown_run", "no such run of yours");
        return;
    }
    c->on_stop = NULL;
    api_headers(c);
    http_res_send_file(c->req, 200, "application/octet-stream", fd, 0, bytes);
}

/* ---- outputs ---- */

struct put {
    struct api_call *call;
    struct api_spool *spool;
    struct ulid id;
    uint32_t attempt;
    bool copy; /* ahead of a record */
    char from[NODE_NAME_CAP];
    char file[32];
};

static void put_gone(struct api_call *c)
{
    struct put *p = c->state;
    api_spool_drop(p->spool);
    mem_free(p);
}

static void put_room(void *arg)
{
    struct put *p = arg;
    http_req_resume(p->call->req);
}

static void put_done(void *arg, int rc)
{
    struct put *p = arg;
    struct api_call *c = p->call;
    uint8_t hash[32];
    if (rc == 0) {
        const char *name = api_spool_take(p->spool, hash);
        rc = name[0] == '\0' ? 0
             : p->copy ? node_peer_copy_put(c->api->node, p->id, p->attempt, str_of(p->file), name)
                       : node_peer_put(c->api->node, str_of(p->from), p->id, p->attempt,
                                       str_of(p->file), name);
    }
    if (rc == -ESTALE) {
        api_fail(c, 409, "conflict", "this attempt is not yours any more");
    } else if (rc == -ENOSPC || rc == -EDQUOT) {
        api_fail(c, 507, "disk_full", "there is no room for the file");
    } else if (rc != 0) {
        api_fail(c, 500, "internal", "the file could not be stored: %s", err_name(rc));
    } else {
        api_send_text(c, 200, "application/json", STR("{}\n"));
    }
}

static void put_data(void *arg, struct http_req *req, struct str data)
{
    struct put *p = arg;
    if (!api_spool_write(p->spool, data)) {
        http_req_pause(req);
    }
}

static void put_end(void *arg, struct http_req *req, int status)
{
    struct put *p = arg;
    (void)req;
    if (api_body_ok(p->call, status, p->call->head->length)) {
        api_spool_end(p->spool);
    }
}

static void file_take(struct api_call *c, struct str from, bool copy)
{
    static const struct api_spool_events events = { .on_room = put_room, .on_done = put_done };
    struct node_error error;
    struct put *p = mem_zalloc(sizeof(*p));
    struct err e;
    uint64_t attempt = 0;
    if (p == NULL) {
        api_fail(c, 503, "queue_full", "out of memory");
        return;
    }
    p->call = c;
    c->state = p;
    c->on_gone = put_gone;
    (void)str_copy(p->from, sizeof(p->from), from);
    if (!api_param_run(c, &p->id)) {
        return;
    }
    if (api_query_u64(c->head->query, "attempt", 1, RUN_ATTEMPT_MAX, 0, &attempt, &e) != 0 ||
        attempt == 0 || http1_query(c->head->query, "file", 0, p->file, sizeof(p->file)) != 0 ||
        !c->head->has_length) {
        api_fail(c, 400, "bad_request", "attempt, file and Content-Length are needed");
        return;
    }
    p->attempt = (uint32_t)attempt;
    p->copy = copy;
    enum node_code may =
        copy ? node_peer_may_copy(c->api->node, str_of(p->file), c->head->length, &error)
             : node_peer_may_put(c->api->node, from, p->id, p->attempt, str_of(p->file),
                                 c->head->length, &error);
    if (may != NODE_OK) {
        api_fail_node(c, &error);
        return;
    }
    p->spool = api_spool_new(c->api, c->head, &events, p);
    if (p->spool == NULL) {
        api_fail(c, 503, "queue_full", "out of memory");
        return;
    }
    const struct http_body_sink sink = { put_data, put_end, p };
    http_req_read(c->req, c->head->length, &sink);
}

/* ---- the door ---- */

/* The rest of the path after "/v1/peer/WORD/", as the parameter. */
static bool rest_is(struct api_call *c, const char *word)
{
    struct str rest = str_slice(c->head->path, strlen("/v1/peer/"), c->head->path.n);
    size_t n = strlen(word);
    return str_starts(rest, word) && rest.n > n && rest.p[n] == '/' &&
           str_copy(c->param, sizeof(c->param), str_slice(rest, n + 1, rest.n)) == 0;
}

void api_peer(struct api_call *c)
{
    struct str from;
    if (!api_peer_name(c, &from)) {
        c->api->auth_refused_total++;
        api_fail(c, 403, "forbidden_peer", "this is between the nodes of a cluster");
        return;
    }
    http_req_set_user(c->req, "peer");
    if (str_eqs(c->head->method, "POST") &&
        str_copy(c->param, sizeof(c->param),
                 str_slice(c->head->path, strlen("/v1/peer/"), c->head->path.n)) == 0) {
        http_req_read_all(c->req, PEER_BODY_MAX, question_came, c);
    } else if (str_eqs(c->head->method, "GET") && rest_is(c, "payload")) {
        payload_send(c, from);
    } else if (str_eqs(c->head->method, "PUT") && rest_is(c, "output")) {
        file_take(c, from, false);
    } else if (str_eqs(c->head->method, "PUT") && rest_is(c, "copy")) {
        file_take(c, from, true);
    } else {
        api_fail(c, 404, "not_found", "no such question");
    }
}
