/* The cluster's tokens over HTTP, on a node made of paper: made, listed, revoked, held against
 * requests; and the documents by themselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/api/api.h"
#include "agent/api/api_token.h"
#include "common/ids.h"
#include "common/mem.h"
#include "tests/lib/peer.h"
#include "tests/unit/paper_node.h"

static char admin[TOKEN_TEXT_CAP];
static char reader[TOKEN_TEXT_CAP];

static void on_closed(void *arg)
{
    struct node *n = arg;
    n->closed = true;
}

/* The line of a token whose secret is 32 times this byte; its text in dst. */
static void line_of(struct buf *out, const char *name, unsigned scopes, uint8_t byte,
                    char dst[TOKEN_TEXT_CAP])
{
    uint8_t secret[TOKEN_SECRET_BYTES];
    struct token t = { .scopes = scopes };
    memset(secret, byte, sizeof(secret));
    (void)snprintf(t.name, sizeof(t.name), "%s", name);
    (void)token_format(secret, dst);
    assert_int_equal(token_hash(str_of(dst), t.hash), 0);
    token_line_write(out, &t);
}

static void start(struct node *n, bool with_file)
{
    AUTO_BUF struct buf file = BUF_INIT(10000);
    struct token_table *tokens = NULL;
    struct err e;
    int fd;
    memset(n, 0, sizeof(*n));
    memset(paper_tokens, 0, sizeof(paper_tokens));
    paper_token_refusal = 0;
    paper = n;
    peer_init(&n->peer, &fd);
    assert_int_equal(loop_init(&n->loop, &n->peer.loop), 0);
    settings_defaults(&n->settings);
    list_init(&n->pending);
    list_init(&n->watches);
    n->ready = true;
    n->output_file = -1;
    line_of(&file, "root", TOKEN_ADMIN, 1, admin);
    line_of(&file, "reader", TOKEN_READ, 2, reader);
    if (with_file) {
        assert_int_equal(token_table_parse("file", buf_str(&file), &tokens, &e), 0);
    }
    const struct api_options opt = { .node = n, .listen_fd = fd, .tokens = tokens };
    assert_int_equal(api_start(&opt, &n->api, &e), 0);
}

static void stop(struct node *n)
{
    api_close(n->api, 0, on_closed, n);
    while (!n->closed) {
        peer_turn(&n->peer, 0);
    }
    loop_close(&n->loop);
    peer_release(&n->peer);
}

/* The whole answer. */
static char *ask(struct node *n, const char *token, const char *method, const char *path,
                 const char *body)
{
    char text[4096];
    (void)snprintf(text, sizeof(text),
                   "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
                   "Authorization: Bearer %s\r\nContent-Type: application/json\r\n"
                   "Content-Length: %zu\r\n\r\n%s",
                   method, path, token, strlen(body), body);
    return peer_ask(&n->peer, text);
}

static void test_create_use_revoke(void **state)
{
    (void)state;
    struct node n;
    char token[TOKEN_TEXT_CAP];
    start(&n, true);
    char *got = ask(&n, admin, "POST", "/v1/tokens",
                    "{\"name\":\"ci\",\"scopes\":[\"read\",\"push\"],\"expires\":\"90d\"}");
    HAS(got, "HTTP/1.1 201 Created\r\n");
    HAS(got, "Location: /v1/tokens/ci\r\n");
    HAS(got, "\"scopes\":[\"read\",\"push\"]");
    HAS(got, "\"created_by\":\"root\"");
    HAS(got, "\"source\":\"cluster\"");
    const char *at = strstr(got, "\"token\":\"");
    assert_non_null(at);
    (void)snprintf(token, sizeof(token), "%s", at + 9);
    assert_int_equal(token_text_check(str_of(token)), 0);
    /* What is kept is its hash, not the token. */
    assert_null(strstr(paper_tokens[0].line, "agt_"));
    HAS(paper_tokens[0].line, "ci read,push expires=");
    HAS(paper_tokens[0].line, " by=root sha256:");
    HAS(ask(&n, token, "GET", "/v1/jobs", ""), "HTTP/1.1 200 ");
    HAS(ask(&n, token, "POST", "/v1/tokens", "{}"), "HTTP/1.1 403 ");
    got = ask(&n, admin, "GET", "/v1/tokens", "");
    HAS(got, "\"name\":\"root\"");
    HAS(got, "\"source\":\"file\"");
    HAS(got, "\"name\":\"ci\"");
    HAS_NOT(got, "agt_");
    HAS_NOT(got, "sha256");
    HAS(ask(&n, reader, "GET", "/v1/tokens", ""), "HTTP/1.1 403 ");
    HAS(ask(&n, admin, "DELETE", "/v1/tokens/ci", ""), "HTTP/1.1 204 ");
    HAS(ask(&n, token, "GET", "/v1/jobs", ""), "HTTP/1.1 401 ");
    HAS(ask(&n, admin, "DELETE", "/v1/tokens/ci", ""), "HTTP/1.1 404 ");
    stop(&n);
}

static void test_made_by_the_client(void **state)
{
    (void)state;
    struct node n;
    AUTO_BUF struct buf line = BUF_INIT(1000);
    char token[TOKEN_TEXT_CAP];
    char body[300];
    start(&n, true);
    line_of(&line, "x", TOKEN_READ, 9, token);
    const char *hex = strstr(buf_cstr(&line), "sha256:");
    (void)snprintf(body, sizeof(body), "{\"name\":\"x\",\"scopes\":\"read\",\"sha256\":\"%.64s\"}",
                   hex + 7);
    char *got = ask(&n, admin, "POST", "/v1/tokens", body);
    HAS(got, "HTTP/1.1 201 ");
    HAS_NOT(got, "agt_");
    HAS(ask(&n, token, "GET", "/v1/jobs", ""), "HTTP/1.1 200 ");
    /* The same one under another name, and another one under the same name. */
    body[9] = 'y';
    HAS(ask(&n, admin, "POST", "/v1/tokens", body), "HTTP/1.1 409 ");
    HAS(ask(&n, admin, "POST", "/v1/tokens", "{\"name\":\"root\",\"scopes\":\"read\"}"),
        "token_exists");
    stop(&n);
}

static void test_refusals(void **state)
{
    (void)state;
    struct node n;
    start(&n, true);
    HAS(ask(&n, admin, "POST", "/v1/tokens", "{\"name\":\"a\"}"), "HTTP/1.1 422 ");
    HAS(ask(&n, admin, "POST", "/v1/tokens", "nonsense"), "HTTP/1.1 422 ");
    HAS(ask(&n, admin, "DELETE", "/v1/tokens/root", ""), "file_token");
    paper_token_refusal = -ENOBUFS;
    HAS(ask(&n, admin, "POST", "/v1/tokens", "{\"name\":\"a\",\"scopes\":\"read\"}"),
        "HTTP/1.1 507 ");
    HAS(ask(&n, "agt_", "POST", "/v1/tokens", "{}"), "HTTP/1.1 401 ");
    stop(&n);
    /* An open node makes no keys. */
    start(&n, false);
    HAS(ask(&n, admin, "POST", "/v1/tokens", "{\"name\":\"a\",\"scopes\":\"admin\"}"), "no_tokens");
    HAS(ask(&n, admin, "GET", "/v1/tokens", ""), "no_tokens");
    HAS(ask(&n, admin, "DELETE", "/v1/tokens/a", ""), "no_tokens");
    assert_string_equal(paper_tokens[0].name, "");
    stop(&n);
}

/* Rows that come from elsewhere: good ones count, others are passed over. */
static void test_rows_of_others(void **state)
{
    (void)state;
    struct node n;
    AUTO_BUF struct buf line = BUF_INIT(1000);
    AUTO_BUF struct buf clash = BUF_INIT(1000);
    AUTO_BUF struct buf old = BUF_INIT(1000);
    char token[TOKEN_TEXT_CAP];
    char other[TOKEN_TEXT_CAP];
    char expired[TOKEN_TEXT_CAP];
    start(&n, true);
    line_of(&line, "far", TOKEN_READ, 7, token);
    line_of(&clash, "root", TOKEN_ADMIN, 8, other);
    line_of(&old, "old", TOKEN_READ, 6, expired);
    paper_token_set("far", buf_cstr(&line));
    HAS(ask(&n, token, "GET", "/v1/jobs", ""), "HTTP/1.1 200 ");
    paper_token_set("root", buf_cstr(&clash)); /* the file's name goes first */
    HAS(ask(&n, other, "GET", "/v1/jobs", ""), "HTTP/1.1 401 ");
    HAS(ask(&n, admin, "GET", "/v1/jobs", ""), "HTTP/1.1 200 ");
    paper_token_set("bad", "what is this");
    paper_token_set("two", "far read sha256:00");
    paper_token_set("other-name", buf_cstr(&line));
    char text[600];
    (void)snprintf(text, sizeof(text), "old read expires=2020-01-01T00:00:00Z %s",
                   strstr(buf_cstr(&old), "sha256:"));
    paper_token_set("old", text);
    HAS(ask(&n, expired, "GET", "/v1/jobs", ""), "expired");
    HAS(ask(&n, token, "GET", "/v1/jobs", ""), "HTTP/1.1 200 ");
    paper_token_set("far", NULL);
    HAS(ask(&n, token, "GET", "/v1/jobs", ""), "HTTP/1.1 401 ");
    /* A new file: what the cluster has stays. */
    paper_token_set("far", buf_cstr(&line));
    struct token_table *none = token_table_new();
    api_set_tokens(n.api, none);
    HAS(ask(&n, token, "GET", "/v1/jobs", ""), "HTTP/1.1 200 ");
    HAS(ask(&n, admin, "GET", "/v1/jobs", ""), "HTTP/1.1 401 ");
    HAS(ask(&n, other, "GET", "/v1/jobs", ""), "HTTP/1.1 200 "); /* the row's name is free now */
    stop(&n);
}

/* The client hangs up before the write is durable. */
static void test_gone_client(void **state)
{
    (void)state;
    struct node n;
    char text[1000];
    const char *body = "{\"name\":\"gone\",\"scopes\":\"read\"}";
    start(&n, true);
    int fd = peer_dial(&n.peer);
    (void)snprintf(text, sizeof(text),
                   "POST /v1/tokens HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n"
                   "Content-Length: %zu\r\nContent-Type: application/json\r\n\r\n%s",
                   admin, strlen(body), body);
    peer_say(&n.peer, fd, text);
    for (int i = 0; i < 1000 && paper_tokens[0].name[0] == '\0'; i++) {
        (void)uv_run(&n.peer.loop, UV_RUN_NOWAIT);
    }
    assert_string_equal(paper_tokens[0].name, "gone");
    (void)close(fd);
    stop(&n);
}

/* A few of the operations that only an admin, or a hook's sender, may ask for. */
static void test_secrets_and_triggers(void **state)
{
    (void)state;
    struct node n;
    start(&n, true);
    HAS(ask(&n, admin, "GET", "/v1/secrets", ""), "\"secrets\"");
    HAS(ask(&n, reader, "PUT", "/v1/secrets/s", "value"), "HTTP/1.1 403 ");
    HAS_NOT(ask(&n, admin, "PUT", "/v1/secrets/s", "value"), "HTTP/1.1 403 ");
    assert_string_equal(n.name, "s");
    assert_string_equal(n.document, "value");
    HAS(ask(&n, reader, "GET", "/v1/triggers", ""), "\"triggers\"");
    HAS(ask(&n, reader, "DELETE", "/v1/secrets/s", ""), "HTTP/1.1 403 ");
    stop(&n);
}

static void test_documents(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *why; /* NULL: good */
    } cases[] = {
        { "{\"name\":\"a\",\"scopes\":[\"read\"]}", NULL },
        { "{\"name\":\"a\",\"scopes\":\"read,admin\"}", NULL },
        { "{\"name\":\"a\",\"scopes\":[\"submit\"],\"prefix\":\"team-\",\"expires\":\"1h\"}",
          NULL },
        { "{\"name\":\"a\",\"scopes\":[\"read\"],\"expires\":\"2030-01-01T00:00:00Z\"}", NULL },
        { "{\"name\":\"a\",\"scopes\":[\"read\"],\"prefix\":\"\"}", NULL },
        { "[]", "object" },
        { "{", "" },
        { "{\"name\":\"a\"}", "wanted" },
        { "{\"scopes\":[\"read\"]}", "wanted" },
        { "{\"name\":\"a\",\"scopes\":[]}", "scope" },
        { "{\"name\":\"a\",\"scopes\":[\"root\"]}", "no scope" },
        { "{\"name\":\"a\",\"scopes\":[\"read,admin\"]}", "words" },
        { "{\"name\":\"a\",\"scopes\":[1]}", "words" },
        { "{\"name\":\"a\",\"scopes\":7}", "list" },
        { "{\"name\":\"-a\",\"scopes\":[\"read\"]}", "name" },
        { "{\"name\":7,\"scopes\":[\"read\"]}", "text" },
        { "{\"name\":\"a\",\"scopes\":[\"admin\"],\"prefix\":\"x\"}", "no prefix" },
        { "{\"name\":\"a\",\"scopes\":[\"read\"],\"prefix\":\"x y\"}", "prefix" },
        { "{\"name\":\"a\",\"scopes\":[\"read\"],\"expires\":\"2000-01-01T00:00:00Z\"}",
          "expires" },
        { "{\"name\":\"a\",\"scopes\":[\"read\"],\"expires\":\"soon\"}", "expires" },
        { "{\"name\":\"a\",\"scopes\":[\"read\"],\"sha256\":\"00\"}", "sha256" },
        { "{\"name\":\"a\",\"scopes\":[\"read\"],\"colour\":\"red\"}", "known" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct token t;
        bool hashed = true;
        struct err e = { .code = 0 };
        int rc = api_token_parse(str_of(cases[i].text), INT64_C(1800000000000000), &t, &hashed, &e);
        if ((rc == 0) != (cases[i].why == NULL) ||
            (rc != 0 && strstr(e.text, cases[i].why) == NULL)) {
            fail_msg("%s: %d, %s", cases[i].text, rc, e.text);
        }
        assert_true(rc != 0 || (!hashed && t.created_us == INT64_C(1800000000000000)));
    }
}

/* A secret that was put in the wrong place is not shown to the logs. */
static void test_no_secret_in_sentences(void **state)
{
    (void)state;
    char token[TOKEN_TEXT_CAP];
    char text[300];
    AUTO_BUF struct buf line = BUF_INIT(1000);
    struct token t;
    bool hashed = false;
    line_of(&line, "x", TOKEN_READ, 3, token);
    static const char *const shapes[] = { "{\"name\":\"%s\",\"scopes\":[\"read\"]}",
                                          "{\"name\":\"a\",\"scopes\":[\"%s\"]}",
                                          "{\"name\":\"a\",\"scopes\":\"read\",\"prefix\":\"%s!\"}",
                                          "{\"%s\":\"a\"}" };
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        struct err e = { .code = 0 };
        const char *mark = strstr(shapes[i], "%s");
        (void)snprintf(text, sizeof(text), "%.*s%s%s", (int)(mark - shapes[i]), shapes[i], token,
                       mark + 2);
        assert_int_equal(api_token_parse(str_of(text), 1, &t, &hashed, &e), -EINVAL);
        assert_null(strstr(e.text, token + 8));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_use_revoke), cmocka_unit_test(test_made_by_the_client),
        cmocka_unit_test(test_refusals),          cmocka_unit_test(test_rows_of_others),
        cmocka_unit_test(test_gone_client),       cmocka_unit_test(test_secrets_and_triggers),
        cmocka_unit_test(test_documents),         cmocka_unit_test(test_no_secret_in_sentences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
