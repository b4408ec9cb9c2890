/*
 * The cluster's tokens: made, listed and revoked here, known everywhere.
 *
 *   auth.tokens_file ──┐
 *                      ├─> a->tokens, which every request is held against
 *   rows of the table ─┘      (a name of the file goes before the same one of a row)
 *
 * Only nodes that ask for tokens (auth.tokens_file is set) take part: an open node must not make
 * keys to the closed ones.
 */
#include <errno.h>
#include <string.h>

#include "agent/api/api_internal.h"
#include "agent/api/api_token.h"
#include "common/digest.h"
#include "common/mem.h"
#include "common/sys/sys.h"

/* -- what requests are held against -- */

struct gather {
    struct token_table *table;
    unsigned bad, clashing;
    int rc;
};

static void gather_row(void *arg, struct str name, struct str line)
{
    struct gather *g = arg;
    struct token t;
    if (g->rc != 0) {
        return;
    }
    if (token_line_parse(str_trim(line), &t, NULL) != 0 || !str_eqs(name, t.name)) {
        g->bad++; /* of a newer version, or of a member that went wrong */
        return;
    }
    int rc = token_table_add(g->table, &t, NULL);
    g->clashing += rc == -EEXIST || rc == -E2BIG ? 1 : 0;
    g->rc = rc == -ENOMEM ? rc : 0;
}

/* The file's and the cluster's together. */
static int tokens_gather(struct api *a, struct token_table **ret)
{
    struct gather g = { .table = token_table_new() };
    if (g.table == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < token_table_len(a->file_tokens) && g.rc == 0; i++) {
        g.rc = token_table_add(g.table, token_table_at(a->file_tokens, i), NULL);
    }
    if (g.rc == 0) {
        node_token_each(a->node, gather_row, &g);
    }
    if (g.rc != 0) {
        g.table = token_table_free(g.table);
        return g.rc;
    }
    if (g.bad + g.clashing > 0) {
        log_warn("tokens: %u of the cluster's are not readable here, %u have the name or the hash "
                 "of another",
                 g.bad, g.clashing);
    }
    *ret = g.table;
    return 0;
}

/* Streams end with their token. */
static void cut_orphans(struct api *a)
{
    LIST_EACH_SAFE (it, &a->calls) {
        struct api_call *c = LIST_ITEM(it, struct api_call, link);
        if (c->has_token && a->tokens != NULL && http_res_started(c->req) &&
            token_table_find(a->tokens, c->token_hash) == NULL) {
            http_res_abort(c->req);
        }
    }
}

static void tokens_renew(struct api *a)
{
    struct token_table *next = NULL;
    if (a->file_tokens != NULL && tokens_gather(a, &next) != 0) {
        log_error("tokens stay as they were: out of memory");
        return;
    }
    a->tokens = token_table_free(a->tokens);
    a->tokens = next;
    cut_orphans(a);
}

static void rows_changed(void *arg)
{
    struct api *a = arg;
    if (!a->closing) {
        tokens_renew(a);
    }
}

void api_set_tokens(struct api *a, struct token_table *tokens)
{
    a->file_tokens = token_table_free(a->file_tokens);
    a->file_tokens = tokens;
    tokens_renew(a);
}

int api_tokens_start(struct api *a, struct token_table *tokens, struct err *e)
{
    a->file_tokens = tokens;
    if (tokens != NULL && tokens_gather(a, &a->tokens) != 0) {
        return err_set(e, -ENOMEM, "gather the tokens");
    }
    node_token_watch(a->node, rows_changed, a);
    return 0;
}

void api_tokens_stop(struct api *a)
{
    node_token_watch(a->node, NULL, NULL);
}

/* -- list -- */

static bool takes_part(struct api_call *c)
{
    if (c->api->file_tokens == NULL) {
        api_fail(c, 409, "no_tokens",
                 "this node asks nobody for a token: set auth.tokens_file (one admin token of "
                 "'agent token new' in it is enough) and start it again");
        return false;
    }
    return true;
}

void api_token_list(struct api_call *c)
{
    static const char *const names[] = { NULL };
    const struct token_table *all = c->api->tokens;
    struct buf b = BUF_INIT(API_JSON_MAX);
    struct json_w w;
    if (!api_query_known(c, names) || !takes_part(c)) {
        return;
    }
    json_w_init(&w, &b, false);
    json_w_obj(&w);
    json_w_key(&w, "tokens");
    json_w_arr(&w);
    for (size_t i = 0; i < token_table_len(all); i++) {
        const struct token *t = token_table_at(all, i);
        bool file = token_table_named(c->api->file_tokens, str_of(t->name)) != NULL;
        json_w_obj(&w);
        api_token_write(&w, t, file ? "file" : "cluster");
        json_w_end(&w);
    }
    json_w_end(&w);
    json_w_end(&w);
    api_send_json(c, 200, &b);
}

/* -- create -- */

struct made {
    struct token token;
    char text[TOKEN_TEXT_CAP]; /* "": the client has it */
};

static void made_gone(struct api_call *c)
{
    if (c->state != NULL) {
        mem_wipe(c->state, sizeof(struct made));
        c->state = mem_free(c->state);
    }
}

static bool write_ok(struct api_call *c, int status)
{
    if (status == -ENOSPC || status == -EDQUOT) {
        api_fail(c, 507, "disk_full", "the token could not be kept: the disk is full");
    } else if (status != 0) {
        api_fail(c, 500, "internal", "the token could not be kept: %s", err_name(status));
    }
    return status == 0;
}

static void create_written(void *arg, int status)
{
    struct api_call *c = arg;
    const struct made *m = c->state;
    AUTO_BUF struct buf scopes = BUF_INIT(256);
    struct buf b = BUF_INIT(8192);
    struct json_w w;
    if (!write_ok(c, status)) {
        return;
    }
    token_scopes_write(&scopes, m->token.scopes);
    log_info("audit: '%s' from %s: made the token '%s' (%s%s%s)", http_req_user(c->req),
             http_req_peer(c->req), m->token.name, buf_cstr(&scopes),
             m->token.prefix[0] != '\0' ? ", prefix " : "", m->token.prefix);
    json_w_init(&w, &b, false);
    json_w_obj(&w);
    api_token_write(&w, &m->token, "cluster");
    if (m->text[0] != '\0') {
        json_kv_cstr(&w, "token", m->text);
    }
    json_w_end(&w);
    http_res_headerf(c->req, "Location", "/v1/tokens/%s", m->token.name);
    api_send_json(c, 201, &b);
}

/* 32 random bytes; the node keeps their hash. */
static int make_secret(struct made *m)
{
    uint8_t secret[TOKEN_SECRET_BYTES];
    sys_random(secret, sizeof(secret));
    (void)token_format(secret, m->text);
    mem_wipe(secret, sizeof(secret));
    return m->text[0] != '\0' ? token_hash(str_of(m->text), m->token.hash) : -ENOMEM;
}

static void create_body(void *arg, struct http_req *req, int status, struct str body)
{
    struct api_call *c = arg;
    struct err e = { .code = 0 };
    bool hashed = false;
    (void)req;
    if (!api_body_ok(c, status, API_TOKEN_DOCUMENT_MAX)) {
        return;
    }
    struct made *m = mem_zalloc(sizeof(*m));
    c->state = m;
    c->on_gone = made_gone;
    int rc = m != NULL ? api_token_parse(body, sys_wall_us(), &m->token, &hashed, &e) : -ENOMEM;
    if (rc == -EINVAL) {
        api_fail(c, 422, "invalid_token", "%s", e.text);
        return;
    }
    if (rc == 0 && !hashed) {
        rc = make_secret(m);
    }
    if (rc != 0) {
        api_fail(c, 503, "queue_full", "out of memory");
        return;
    }
    if (token_table_named(c->api->tokens, str_of(m->token.name)) != NULL ||
        token_table_find(c->api->tokens, m->token.hash) != NULL) {
        api_fail(c, 409, "token_exists",
                 "there is a token '%s' already, or the same one under "
                 "another name",
                 m->token.name);
        return;
    }
    AUTO_BUF struct buf line = BUF_INIT(2048);
    (void)str_copy(m->token.by, sizeof(m->token.by), str_of(http_req_user(c->req)));
    token_line_write(&line, &m->token);
    rc = buf_error(&line) != 0 ? buf_error(&line)
                               : node_token_put(c->api->node, str_of(m->token.name),
                                                str_trim(buf_str(&line)), create_written, c, &e);
    if (rc != 0) {
        api_fail(c, rc == -ENOBUFS || rc == -ENOSPC ? 507 : 503, "table_full",
                 "the cluster's table takes no more tokens: %s", e.text);
    }
}

void api_token_create(struct api_call *c)
{
    if (!takes_part(c)) {
        return;
    }
    if (token_table_len(c->api->tokens) >= TOKEN_ENTRIES_MAX) {
        api_fail(c, 409, "too_many_tokens", "there are %d tokens: revoke some first",
                 TOKEN_ENTRIES_MAX);
        return;
    }
    api_read_json(c, create_body);
}

/* -- revoke -- */

static void revoke_written(void *arg, int status)
{
    struct api_call *c = arg;
    if (write_ok(c, status)) {
        api_headers(c);
        http_res_send(c->req, 204, NULL, NULL, 0);
    }
}

void api_token_revoke(struct api_call *c)
{
    struct str name = str_of(c->param);
    struct err e = { .code = 0 };
    if (!takes_part(c)) {
        return;
    }
    if (token_table_named(c->api->file_tokens, name) != NULL) {
        api_fail(c, 409, "file_token",
                 "'%.64s' stands in auth.tokens_file of this node: take its line away there",
                 c->param);
    } else if (token_table_named(c->api->tokens, name) == NULL) {
        api_fail(c, 404, "unknown_token", "no token '%.64s'", c->param);
    } else if (node_token_delete(c->api->node, name, revoke_written, c, &e) != 0) {
        api_fail(c, 503, "table_full", "%s", e.text);
    }
}
