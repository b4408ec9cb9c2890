/*
 * Who may do what: Host and Origin, tokens and their scopes, and the audit's lines.
 *
 *   Origin foreign ─403      tokens? ─no─> Host ours? ─403
 *                               │
 *                               └─yes─> route open? ─> Host ours? ─403
 *                                          └─> token ─401─> scope ─403─> prefix ─403, 404─>
 * operation
 *
 * A refusal says what the token lacks, never what there is: it comes before anything is looked up,
 * and a run of somebody else's job is answered as one that does not exist.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/api/api_internal.h"
#include "common/digest.h"
#include "common/log.h"
#include "common/sys/sys.h"

/* -- refusals -- */

static void refuse(struct api_call *c, int status, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void refuse(struct api_call *c, int status, const char *code, const char *fmt, ...)
{
    char detail[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    c->api->auth_refused_total++;
    if (!api_is_registry(c)) {
        api_fail(c, status, code, "%s", detail);
        return;
    }
    struct http_req *req = c->req;
    const struct api_options *opt = &c->api->opt;
    /* The registry's answers have no call behind them. */
    if (opt->registry_error != NULL) {
        opt->registry_error(req, status, status == 401 ? "UNAUTHORIZED" : "DENIED", detail);
    } else {
        api_fail(c, status, code, "%s", detail);
    }
}

/* A browser asks its user for a password when it sees Basic, and then sends it by itself: that
 * challenge is for the clients of the registry only. */
static void refuse_token(struct api_call *c, bool given, const char *why)
{
    if (api_is_registry(c)) {
        http_res_header(c->req, "WWW-Authenticate", "Basic realm=\"agent\", charset=\"UTF-8\"");
    } else {
        http_res_header(c->req, "WWW-Authenticate",
                        given ? "Bearer realm=\"agent\", error=\"invalid_token\""
                              : "Bearer realm=\"agent\"");
    }
    refuse(c, 401, "unauthorized", "%s", why);
}

/* -- host and origin -- */

/* A page that the user has open must not reach a node on the same machine through a name that was
 * bound to our address. */
static bool host_may(struct api_call *c)
{
    struct str host = http1_header(c->head, "Host");
    if (host.n > 0 && !api_host_ok(&c->api->hosts, host)) {
        api_fail(c, 403, "forbidden_host",
                 "this node does not answer to '%.*s'; use its address, or set http.advertise",
                 (int)(host.n < 200 ? host.n : 200), host.p);
        return false;
    }
    return true;
}

/* ... nor by a request across origins. */
static bool origin_may(struct api_call *c)
{
    struct str origin = http1_header(c->head, "Origin");
    if (origin.p != NULL && !api_origin_ok(origin, http1_header(c->head, "Host"))) {
        api_fail(c, 403, "forbidden_origin", "requests from other web pages are not answered");
        return false;
    }
    return true;
}

/* -- tokens -- */

/* The token of the request, or NULL: answered. */
static const struct token *token_of(struct api_call *c)
{
    char text[TOKEN_TEXT_CAP] = "";
    struct str value;
    struct str more;
    size_t i = 0;
    if (!http1_header_next(c->head, "Authorization", &i, &value)) {
        refuse_token(
            c, false,
            "a token is needed: 'Authorization: Bearer TOKEN' (the client takes AGENT_TOKEN "
            "or --token-file)");
        return NULL;
    }
    if (http1_header_next(c->head, "Authorization", &i, &more)) {
        refuse_token(c, true, "there is more than one Authorization header");
        return NULL;
    }
    int rc = token_from_header(value, api_is_registry(c), text);
    rc = rc == 0 ? token_text_check(str_of(text)) : rc;
    if (rc == 0) {
        rc = token_hash(str_of(text), c->token_hash);
    }
    mem_wipe(text, sizeof(text));
    if (rc == -ENOMEM) {
        api_fail(c, 503, "queue_full", "out of memory");
        return NULL;
    }
    if (rc != 0) {
        refuse_token(c, true,
                     rc == -EILSEQ ? "the token is mistyped: its check does not fit"
                                   : "what was sent is not a token of an agent");
        return NULL;
    }
    const struct token *t = token_table_find(c->api->tokens, c->token_hash);
    if (t == NULL) {
        refuse_token(c, true, "the token is not known here (revoked, or of another node)");
    } else if (token_expired(t, sys_wall_us())) {
        refuse_token(c, true, "the token has expired");
        t = NULL;
    }
    return t;
}

static bool scope_may(struct api_call *c, const struct token *t, unsigned needs)
{
    AUTO_BUF struct buf names = BUF_INIT(256);
    if (token_has(t, needs)) {
        return true;
    }
    token_scopes_write(&names, needs);
    refuse(c, 403, "forbidden_scope", "this needs a token with the scope %s; '%s' has it not",
           buf_cstr(&names), t->name);
    return false;
}

static bool prefix_may(struct api_call *c, const struct token *t)
{
    char job[512];
    bool may = true;
    if (t->prefix[0] == '\0') {
        return true;
    }
    if (api_is_registry(c)) {
        may = api_registry_covers(t->prefix, c->head->path, c->head->query);
    } else if (c->route == NULL) {
        may = true; /* a path that is none */
    } else if (c->route->reach == API_REACH_ALL) {
        may = false;
    } else if (c->route->reach == API_REACH_JOB || c->route->reach == API_REACH_IMAGE) {
        may = token_covers(t, str_of(c->param));
    } else if (c->route->reach == API_REACH_QUERY) {
        may = http1_query(c->head->query, "job", 0, job, sizeof(job)) == 0 &&
              token_covers(t, str_of(job));
    }
    if (!may) {
        refuse(c, 403, "forbidden_scope", "the token '%s' is for names that begin with '%s' only",
               t->name, t->prefix);
    }
    return may;
}

/* A node, by its certificate, may fetch images, and read what its own runs write here. */
static bool peer_may(const struct api_call *c)
{
    struct str name;
    bool reads = str_eqs(c->head->method, "GET") || str_eqs(c->head->method, "HEAD");
    bool own = str_eqs(http1_header(c->head, "Agent-Hop"), "guest");
    return reads && (own || api_is_registry(c)) && http_req_is_tls(c->req) &&
           api_peer_name(c, &name);
}

bool api_auth_may(struct api_call *c)
{
    struct api *a = c->api;
    bool open = c->route != NULL && c->route->scopes == 0;
    if (!origin_may(c)) {
        return false;
    }
    if (peer_may(c)) {
        http_req_set_user(c->req, "peer");
        return true;
    }
    if (a->tokens == NULL || open) {
        return host_may(c);
    }
    const struct token *t = token_of(c);
    if (t == NULL) {
        return false;
    }
    c->has_token = true;
    http_req_set_user(c->req, t->name);
    (void)str_copy(c->prefix, sizeof(c->prefix), str_of(t->prefix));
    unsigned needs = api_is_registry(c) ? api_registry_scopes(c->head->method)
                     : c->route != NULL ? c->route->scopes
                                        : 0;
    return scope_may(c, t, needs) && prefix_may(c, t);
}

static void run_seen(void *arg, const struct node_error *error, const struct run *run,
                     bool replayed)
{
    struct api_call *c = arg;
    (void)replayed;
    bool hidden =
        error == NULL && (run->job[0] == '\0' || !str_starts(str_of(run->job), c->prefix));
    if (error != NULL && error->code != NODE_UNKNOWN_RUN) {
        api_fail_node(c, error);
    } else if (error != NULL || hidden) {
        /* One answer for what is not there and what is not theirs. */
        api_fail(c, 404, "unknown_run", "no run '%.64s'", c->param);
    } else {
        api_call_go(c);
    }
}

void api_auth_go(struct api_call *c)
{
    struct ulid id;
    if (c->prefix[0] == '\0' || c->route->reach != API_REACH_RUN) {
        api_call_go(c);
    } else if (api_param_run(c, &id)) {
        node_run_get(c->api->node, id, run_seen, c);
    }
}

/* -- the audit -- */

static bool is_submit(struct str method, struct str path)
{
    return str_eqs(method, "POST") && str_ends(path, "/runs");
}

void api_audit(void *arg, const struct http_req *req, int status)
{
    struct api *a = arg;
    const struct http1_head *head = http_req_head(req);
    const char *user = http_req_user(req);
    bool reads = str_eqs(head->method, "GET") || str_eqs(head->method, "HEAD") ||
                 str_eqs(head->method, "OPTIONS");
    bool blob = str_starts(head->path, "/v2/") && !str_eqs(head->method, "DELETE") &&
                memmem(head->path.p, head->path.n, "/manifests/", 11) == NULL;
    /* What nodes say to each other about a run belongs to that run's own lines. */
    bool peer = str_starts(head->path, "/v1/peer/") && status != 403;
    bool refused = a->tokens != NULL && (status == 401 || status == 403);
    struct str path = str_slice(head->path, 0, 300);
    unsigned dropped = 0;
    if (refused) {
        if (log_limit_ok(&a->refused_limit, loop_now_ms(a->loop), &dropped)) {
            log_warn("audit: refused '%s' from %s: %.*s %.*s: %d (%u more were not logged)", user,
                     http_req_peer(req), STR_ARG(head->method), STR_ARG(path), status, dropped);
        }
        return;
    }
    /* Pieces of an image show nowhere before its manifest comes; on a node without tokens runs are
     * not worth a line each. */
    if (reads || blob || peer || (a->tokens == NULL && is_submit(head->method, head->path))) {
        return;
    }
    log_info("audit: '%s' from %s: %.*s %.*s: %d", user[0] != '\0' ? user : "anyone",
             http_req_peer(req), STR_ARG(head->method), STR_ARG(path), status);
}

void api_audit_tls(void *arg, const char *peer, int rc, const char *why)
{
    struct api *a = arg;
    unsigned dropped = 0;
    if (rc != -EACCES) {
        log_debug("TLS with %s: %s", peer, why); /* port scanners, and clients of other versions */
    } else if (log_limit_ok(&a->refused_limit, loop_now_ms(a->loop), &dropped)) {
        log_warn("audit: refused TLS from %s: %s (%u more were not logged)", peer, why, dropped);
    }
}
