/*
 * The API over loopback, on a node made of paper: every operation, every kind of answer, and
 * clients that go away at the wrong moment.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/api/api.h"
#include "common/list.h"
#include "common/loop/loop.h"
#include "common/mem.h"
#include "tests/lib/peer.h"
#include "tests/unit/paper_node.h"

/* ---- the world of a test ---- */

static void registry(void *arg, struct http_req *req)
{
    struct node *n = arg;
    n->answers++;
    http_res_send(req, 200, NULL, "registry", 8);
}

static void on_closed(void *arg)
{
    struct node *n = arg;
    n->closed = true;
}

#define RUN_ID "01JDCB0000000000000000000A"

static void start(struct node *n)
{
    struct err e;
    int fd;
    memset(n, 0, sizeof(*n));
    paper = n;
    peer_init(&n->peer, &fd);
    assert_int_equal(loop_init(&n->loop, &n->peer.loop), 0);
    settings_defaults(&n->settings);
    (void)snprintf(n->settings.http.listen, sizeof(n->settings.http.listen), "127.0.0.1:7575");
    n->settings.http.max_body_bytes = 10 * 1024 * 1024;
    n->settings.http.wait_max_ms = 60000;
    list_init(&n->pending);
    list_init(&n->watches);
    n->ready = true;
    n->output_file = -1;
    n->created = true;
    (void)snprintf(n->job.name, sizeof(n->job.name), "encrypt");
    (void)snprintf(n->job.image, sizeof(n->job.image), "team/encrypt:1");
    n->job.revision = 3;
    struct ulid id;
    assert_int_equal(ulid_parse(STR(RUN_ID), &id), 0);
    run_init(&n->runs[0], id, 1000000);
    n->runs_len = 1;
    (void)snprintf(n->dir, sizeof(n->dir), "/tmp/test_api.XXXXXX");
    assert_non_null(mkdtemp(n->dir));
    n->spool_fd = open(n->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const struct api_options opt = {
        .node = n, .listen_fd = fd, .registry = registry, .registry_arg = n
    };
    assert_int_equal(api_start(&opt, &n->api, &e), 0);
    assert_int_equal(http_client_start(&n->loop, NULL, &n->http, &e), 0);
}

/* From now on there is a peer, which is this node once more. */
static void start_peer(struct node *n)
{
    start(n);
    n->peer_port = ntohs(n->peer.addr.sin_port);
}

static void on_http_closed(void *arg)
{
    struct node *n = arg;
    n->http = NULL;
}

static unsigned spool_files(struct node *n)
{
    unsigned count = 0;
    DIR *d = opendir(n->dir);
    for (struct dirent *de; (de = readdir(d)) != NULL;) {
        count += de->d_name[0] != '.' ? 1 : 0;
    }
    (void)closedir(d);
    return count;
}

static void stop(struct node *n)
{
    http_client_close(n->http, on_http_closed, n);
    api_close(n->api, 0, on_closed, n);
    assert_false(n->closed);
    while (!n->closed || n->http != NULL) {
        (void)uv_run(&n->peer.loop, UV_RUN_ONCE);
    }
    assert_true(list_empty(&n->pending));
    assert_true(list_empty(&n->watches));
    loop_close(&n->loop);
    peer_release(&n->peer);
    if (n->spool_name[0] != '\0') {
        (void)unlinkat(n->spool_fd, n->spool_name, 0);
    }
    assert_int_equal(spool_files(n), 0);
    (void)close(n->spool_fd);
    (void)close(n->output_file);
    assert_int_equal(rmdir(n->dir), 0);
}

static char *ask(struct node *n, const char *method, const char *path, const char *headers,
                 const char *body)
{
    static char request[16384];
    char length[64] = "";
    if (body != NULL) {
        (void)snprintf(length, sizeof(length), "Content-Length: %zu\r\n", strlen(body));
    }
    (void)snprintf(request, sizeof(request),
                   "%s %s HTTP/1.1\r\nHost: 127.0.0.1:7575\r\nConnection: close\r\n%s%s\r\n%s",
                   method, path, length, headers != NULL ? headers : "", body != NULL ? body : "");
    return peer_ask(&n->peer, request);
}

static char *get(struct node *n, const char *path)
{
    return ask(n, "GET", path, NULL, NULL);
}

#define STATUS(text, code) assert_memory_equal((text), "HTTP/1.1 " code " ", 13)

/* ---- tests ---- */

static void test_door(void **state)
{
    (void)state;
    struct node n;
    start(&n);
    char *got = get(&n, "/healthz");
    STATUS(got, "200");
    HAS(got, "Server: agent/");
    HAS(got, "Cache-Control: no-store\r\n");
    HAS(got, "X-Request-Id: ");
    got = ask(&n, "GET", "/healthz", "X-Request-Id: mine-1\r\n", NULL);
    HAS(got, "X-Request-Id: mine-1\r\n");
    got = ask(&n, "GET", "/healthz", "X-Request-Id: no good\r\n", NULL);
    HAS_NOT(got, "no good");
    got = get(&n, "/nowhere");
    STATUS(got, "404");
    HAS(got, "Content-Type: application/problem+json\r\n");
    HAS(got, "\"code\":\"not_found\"");
    HAS(got, "\"instance\":\"/nowhere\"");
    got = ask(&n, "PATCH", "/v1/runs", NULL, NULL);
    STATUS(got, "405");
    HAS(got, "Allow: GET, HEAD, POST, OPTIONS\r\n");
    got = ask(&n, "OPTIONS", "/v1/runs", NULL, NULL);
    STATUS(got, "204");
    HAS(got, "Allow: GET, HEAD, POST, OPTIONS\r\n");
    HAS_NOT(got, "Content-Length");
    got = ask(&n, "HEAD", "/healthz", NULL, NULL);
    STATUS(got, "200");
    HAS(got, "Content-Length: 3\r\n");
    HAS_NOT(got, "ok\n");
    STATUS(get(&n, "/v1/jobs/.."), "400");
    got = peer_ask(&n.peer, "GET /v1/status HTTP/1.1\r\nHost: evil.example\r\n"
                            "Connection: close\r\n\r\n");
    STATUS(got, "403");
    HAS(got, "forbidden_host");
    got = peer_ask(&n.peer, "GET /v2/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    STATUS(got, "403");
    got = ask(&n, "GET", "/v1/status", "Origin: http://evil.example\r\n", NULL);
    STATUS(got, "403");
    HAS(got, "forbidden_origin");
    STATUS(ask(&n, "GET", "/v1/status", "Origin: http://127.0.0.1:7575\r\n", NULL), "200");
    n.answers = 0;
    HAS(get(&n, "/v2/"), "registry");
    HAS(get(&n, "/v2"), "registry");
    STATUS(get(&n, "/v2x"), "404");
    assert_int_equal(n.answers, 2);
    stop(&n);
}

static void test_node(void **state)
{
    (void)state;
    struct node n;
    start(&n);
    STATUS(get(&n, "/readyz"), "200");
    n.ready = false;
    char *got = get(&n, "/readyz");
    STATUS(got, "503");
    HAS(got, "Retry-After: 1\r\n");
    n.ready = true;
    got = get(&n, "/metrics");
    HAS(got, "agent_runs_total 0\n");
    HAS(got, "agent_http_responses_total{class=\"5xx\"} 1\n");
    HAS(got, "text/plain; version=0.0.4; charset=utf-8");
    HAS(get(&n, "/v1/status"), "{\"cluster\":{}}");
    HAS(get(&n, "/v1/nodes"), "{\"nodes\":[{\"name\":\"paper\"");
    HAS(get(&n, "/v1/nodes/paper"), "\"state\":\"alive\"");
    got = get(&n, "/v1/nodes/other");
    STATUS(got, "404");
    HAS(got, "unknown_node");
    HAS(ask(&n, "POST", "/v1/nodes/paper/drain", NULL, ""), "\"state\":\"draining\"");
    STATUS(get(&n, "/readyz"), "503");
    got = ask(&n, "POST", "/v1/nodes/paper/drain", NULL, "{\"draining\":false}");
    HAS(got, "\"state\":\"alive\"");
    STATUS(ask(&n, "POST", "/v1/nodes/paper/drain", NULL, "{\"drain\":false}"), "422");
    STATUS(ask(&n, "POST", "/v1/nodes/paper/drain", NULL, "{"), "400");
    got = ask(&n, "POST", "/v1/nodes/paper/drain", "Content-Type: text/xml\r\n", "<x/>");
    STATUS(got, "415");
    HAS(get(&n, "/v1/images"), "{\"images\":[]}");
    HAS(ask(&n, "POST", "/v1/images/prune", NULL, NULL), "{\"images\":0}");
    HAS(ask(&n, "DELETE", "/v1/images/team/a?tag=v1", NULL, NULL), "{\"images\":1}");
    assert_string_equal(n.name, "team/a");
    assert_string_equal(n.reference, "v1");
    STATUS(ask(&n, "DELETE", "/v1/images/team/a?tags=v1", NULL, NULL), "400");
    stop(&n);
}

static void test_files(void **state)
{
    (void)state;
    struct node n;
    char etag[64];
    start(&n);
    char *got = get(&n, "/");
    STATUS(got, "200");
    HAS(got, "<!DOCTYPE html>");
    HAS(got, "Content-Security-Policy: default-src 'none'");
    (void)snprintf(etag, sizeof(etag), "If-None-Match: %.18s\r\n", strstr(got, "ETag: ") + 6);
    STATUS(ask(&n, "GET", "/", etag, NULL), "304");
    HAS(get(&n, "/ui/app.js"), "Content-Type: text/javascript");
    STATUS(get(&n, "/ui/none.js"), "404");
    HAS(get(&n, "/openapi.json"), "\"openapi\": \"3.1.0\"");
    stop(&n);
}

static void test_jobs(void **state)
{
    (void)state;
    struct node n;
    start(&n);
    char *got = ask(&n, "PUT", "/v1/jobs/encrypt", "If-Match: \"2\"\r\n", "{\"image\":\"x\"}");
    STATUS(got, "201");
    HAS(got, "Location: /v1/jobs/encrypt\r\n");
    HAS(got, "ETag: \"3\"\r\n");
    HAS(got, "\"image\":\"team/encrypt:1\"");
    HAS(got, "\"revision\":3");
    assert_string_equal(n.document, "{\"image\":\"x\"}");
    assert_int_equal(n.if_match, 2);
    n.created = false;
    STATUS(ask(&n, "PUT", "/v1/jobs/encrypt", NULL, "{}"), "200");
    STATUS(ask(&n, "PUT", "/v1/jobs/encrypt", "If-Match: *\r\n", "{}"), "400");
    STATUS(ask(&n, "PUT", "/v1/jobs/encrypt", "Content-Type: text/plain\r\n", "{}"), "415");
    n.problems.n = 2;
    n.problems.items[0] = (struct job_problem){ "memory", "too small" };
    n.problems.items[1] = (struct job_problem){ "imagee", "unknown; did you mean image?" };
    n.refuse = (struct node_error){ .code = NODE_INVALID_DOCUMENT,
                                    .detail = "2 problems",
                                    .problems = &n.problems };
    got = ask(&n, "PUT", "/v1/jobs/encrypt", NULL, "{}");
    STATUS(got, "422");
    HAS(got, "{\"field\":\"memory\",\"detail\":\"too small\"},{\"field\":\"imagee\"");
    n.refuse = (struct node_error){ .code = NODE_PRECONDITION, .detail = "revision is 3" };
    STATUS(ask(&n, "PUT", "/v1/jobs/encrypt", NULL, "{}"), "412");
    STATUS(get(&n, "/v1/jobs/encrypt?revision=2"), "200");
    assert_int_equal(n.revision, 2);
    STATUS(get(&n, "/v1/jobs/encrypt?revision=x"), "400");
    n.refuse = (struct node_error){ .code = NODE_UNKNOWN_JOB, .detail = "no job" };
    STATUS(get(&n, "/v1/jobs/other"), "404");
    n.more = true;
    got = get(&n, "/v1/jobs?limit=7&after=a");
    HAS(got, "\"next\":\"encrypt\"");
    assert_int_equal(n.filter.limit, 7);
    assert_string_equal(n.name, "a");
    n.more = false;
    HAS(get(&n, "/v1/jobs"), "\"next\":null");
    STATUS(get(&n, "/v1/jobs?limit=0"), "400");
    STATUS(ask(&n, "DELETE", "/v1/jobs/encrypt", NULL, NULL), "204");
    stop(&n);
}

static void test_runs(void **state)
{
    (void)state;
    struct node n;
    start(&n);
    n.more = true;
    char *got = get(&n, "/v1/runs?job=encrypt&state=failed,lost&limit=5&after=" RUN_ID);
    STATUS(got, "200");
    HAS(got, "\"next\":\"" RUN_ID "\"");
    assert_string_equal(n.filter_job, "encrypt");
    assert_int_equal(n.filter.states, BIT(RUN_FAILED) | BIT(RUN_LOST));
    assert_int_equal(n.filter.limit, 5);
    assert_true(ulid_eq(n.filter.after, n.runs[0].id));
    STATUS(get(&n, "/v1/runs?state=happy"), "400");
    STATUS(get(&n, "/v1/runs?after=x"), "400");
    STATUS(get(&n, "/v1/runs?status=failed"), "400");
    HAS(get(&n, "/v1/runs/" RUN_ID), "\"id\":\"" RUN_ID "\"");
    STATUS(get(&n, "/v1/runs/nonsense"), "404");
    STATUS(get(&n, "/v1/runs/01JDCB0000000000000000000B"), "404");
    HAS(get(&n, "/v1/runs/" RUN_ID "/samples"), "{\"samples\":[]}");
    HAS(get(&n, "/v1/runs/" RUN_ID "/placement"), "{\"basis\":\"local\"}");
    STATUS(ask(&n, "POST", "/v1/runs/" RUN_ID "/cancel", NULL, NULL), "200");
    STATUS(ask(&n, "POST", "/v1/runs/" RUN_ID "/retry", NULL, NULL), "202");
    n.refuse = (struct node_error){ .code = NODE_CONFLICT, .detail = "it has ended" };
    STATUS(ask(&n, "POST", "/v1/runs/" RUN_ID "/cancel", NULL, NULL), "409");
    stop(&n);
}

static void spool_read(struct node *n, char *dst, size_t cap, mode_t *ret_mode)
{
    struct stat st;
    int fd = openat(n->spool_fd, n->spool_name, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    ssize_t got = read(fd, dst, cap - 1);
    assert_true(got >= 0);
    dst[got] = '\0';
    *ret_mode = st.st_mode & 0777;
    (void)close(fd);
}

static void test_submit(void **state)
{
    (void)state;
    struct node n;
    uint8_t first[32];
    char payload[64];
    mode_t mode = 0;
    start(&n);
    char *got = ask(&n, "POST", "/v1/jobs/encrypt/runs", "Idempotency-Key: k 1\r\n", "hello");
    STATUS(got, "202");
    HAS(got, "Location: /v1/runs/" RUN_ID "\r\n");
    HAS_NOT(got, "Preference-Applied");
    assert_string_equal(n.name, "encrypt");
    assert_string_equal(n.key, "k 1");
    assert_int_equal(n.payload_bytes, 5);
    spool_read(&n, payload, sizeof(payload), &mode);
    assert_string_equal(payload, "hello");
    assert_int_equal(mode, 0444);
    (void)unlinkat(n.spool_fd, n.spool_name, 0);
    memcpy(first, n.hash, 32);
    n.replayed = true;
    HAS(ask(&n, "POST", "/v1/jobs/encrypt/runs", NULL, "hello"), "Idempotency-Replayed: true\r\n");
    assert_memory_equal(first, n.hash, 32);
    n.replayed = false;
    (void)unlinkat(n.spool_fd, n.spool_name, 0);
    STATUS(ask(&n, "POST", "/v1/jobs/encrypt/runs", NULL, "hellO"), "202");
    assert_memory_not_equal(first, n.hash, 32);
    (void)unlinkat(n.spool_fd, n.spool_name, 0);
    /* No payload, and an empty one in chunks: no file. */
    STATUS(ask(&n, "POST", "/v1/jobs/encrypt/runs", NULL, NULL), "202");
    assert_string_equal(n.spool_name, "");
    got = peer_ask(&n.peer, "POST /v1/jobs/encrypt/runs HTTP/1.1\r\nHost: localhost\r\n"
                            "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    STATUS(got, "202");
    assert_string_equal(n.spool_name, "");
    assert_int_equal(n.submits, 5);
    /* One-offs: the document as the body, or in the query with the payload as the body. */
    STATUS(ask(&n, "POST", "/v1/runs", NULL, "{\"image\":\"a\"}"), "202");
    assert_string_equal(n.name, "");
    assert_string_equal(n.document, "{\"image\":\"a\"}");
    STATUS(ask(&n, "POST", "/v1/runs?spec=%7B%22image%22%3A%22b%22%7D", NULL, "data"), "202");
    assert_string_equal(n.document, "{\"image\":\"b\"}");
    assert_int_equal(n.payload_bytes, 4);
    stop(&n);
}

static void test_submit_refused(void **state)
{
    (void)state;
    struct node n;
    char key[300];
    start(&n);
    memset(key, 'k', sizeof(key));
    memcpy(key, "Idempotency-Key: ", 17);
    (void)snprintf(key + 280, 20, "\r\n");
    STATUS(ask(&n, "POST", "/v1/jobs/encrypt/runs", key, "x"), "400");
    n.admits = NODE_QUEUE_FULL;
    char *got = ask(&n, "POST", "/v1/jobs/encrypt/runs", NULL, "x");
    STATUS(got, "503");
    HAS(got, "Retry-After: 7\r\n");
    n.admits = NODE_OK;
    got = peer_ask(&n.peer, "POST /v1/jobs/encrypt/runs HTTP/1.1\r\nHost: localhost\r\n"
                            "Expect: 100-continue\r\nContent-Length: 10485761\r\n\r\n");
    STATUS(got, "413");
    got = ask(&n, "POST", "/v1/jobs/encrypt/runs?wait=1", NULL, "x");
    STATUS(got, "400");
    HAS(got, "'wait'");
    assert_int_equal(n.submits, 0);
    /* A large body for a job that is not there is refused before it is sent. */
    n.refuse = (struct node_error){ .code = NODE_UNKNOWN_JOB, .detail = "no job" };
    got = peer_ask(&n.peer, "POST /v1/jobs/other/runs HTTP/1.1\r\nHost: localhost\r\n"
                            "Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n");
    STATUS(got, "404");
    /* The node refuses: the file is its own to remove (here nobody does). */
    n.refuse = (struct node_error){ .code = NODE_KEY_REUSED, .detail = "other body" };
    STATUS(ask(&n, "POST", "/v1/jobs/encrypt/runs", NULL, "x"), "422");
    (void)unlinkat(n.spool_fd, n.spool_name, 0);
    /* A client that goes away in the middle leaves nothing. */
    int fd = peer_dial(&n.peer);
    static char block[700000];
    peer_say(&n.peer, fd,
             "POST /v1/jobs/encrypt/runs HTTP/1.1\r\nHost: localhost\r\n"
             "Content-Length: 1000000\r\n\r\n");
    peer_say_n(&n.peer, fd, block, sizeof(block));
    peer_turn(&n.peer, 20);
    assert_int_equal(spool_files(&n), 1);
    (void)close(fd);
    peer_turn(&n.peer, 50);
    assert_int_equal(spool_files(&n), 0);
    stop(&n);
}

static void test_submit_large(void **state)
{
    (void)state;
    enum { BYTES = 5000000 };
    struct node n;
    start(&n);
    char *body = malloc(BYTES);
    for (size_t i = 0; i < BYTES; i++) {
        body[i] = (char)(i * 7 + (i >> 12));
    }
    int fd = peer_dial(&n.peer);
    peer_say(&n.peer, fd,
             "POST /v1/jobs/encrypt/runs HTTP/1.1\r\nHost: localhost\r\n"
             "Connection: close\r\nContent-Length: 5000000\r\n\r\n");
    peer_say_n(&n.peer, fd, body, BYTES);
    STATUS(peer_hear(&n.peer, fd, NULL), "202");
    (void)close(fd);
    char *back = malloc(BYTES + 1);
    int file = openat(n.spool_fd, n.spool_name, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(file, back, BYTES + 1), BYTES);
    assert_memory_equal(back, body, BYTES);
    (void)close(file);
    free(back);
    free(body);
    stop(&n);
}

static void run_end(struct node *n)
{
    n->runs[0].state = RUN_SUCCEEDED;
    n->runs[0].reason = RUN_REASON_EXIT;
    n->runs[0].exit_code = 0;
    tell(n, &n->runs[0]);
}

static void test_wait(void **state)
{
    (void)state;
    static const char request[] = "POST /v1/jobs/encrypt/runs HTTP/1.1\r\nHost: localhost\r\n"
                                  "Prefer: respond-async, wait=30\r\n\r\n";
    struct node n;
    start(&n);
    int fd = peer_dial(&n.peer);
    int gone = peer_dial(&n.peer);
    peer_say(&n.peer, fd, request);
    peer_say(&n.peer, gone, request);
    peer_turn(&n.peer, 20);
    assert_false(list_empty(&n.watches));
    const struct linger hard = { .l_onoff = 1, .l_linger = 0 };
    (void)setsockopt(gone, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    (void)close(gone);
    peer_turn(&n.peer, 20);
    assert_ptr_equal(n.watches.next->next, &n.watches); /* one is left */
    n.runs[0].state = RUN_RUNNING;
    tell(&n, &n.runs[0]);
    run_end(&n);
    char *got = peer_hear(&n.peer, fd, "}\n");
    STATUS(got, "200");
    HAS(got, "Preference-Applied: wait=30\r\n");
    HAS(got, "\"state\":\"succeeded\"");
    assert_true(list_empty(&n.watches));
    (void)close(fd);
    /* Ended already, and not in time. */
    STATUS(ask(&n, "POST", "/v1/jobs/encrypt/runs", "Prefer: wait=5\r\n", NULL), "200");
    n.runs[0].state = RUN_RUNNING;
    got = ask(&n, "POST", "/v1/jobs/encrypt/runs", "Prefer: wait=1\r\n", NULL);
    STATUS(got, "202");
    HAS(got, "\"state\":\"running\"");
    HAS(got, "Preference-Applied: wait=1\r\n");
    stop(&n);
}

static void test_output(void **state)
{
    (void)state;
    struct node n;
    start(&n);
    n.output_missing = true;
    char *got = get(&n, "/v1/runs/" RUN_ID "/output");
    STATUS(got, "200");
    HAS(got, "application/octet-stream");
    n.output_missing = false;
    n.text_len = (size_t)snprintf(n.text, sizeof(n.text), "one\ntwo\nthree\nfour\n");
    got = get(&n, "/v1/runs/" RUN_ID "/output");
    HAS(got, "Transfer-Encoding: chunked"); /* it still runs: as far as it is */
    HAS(got, "5\r\none\nt\r\n");
    char path[96];
    (void)snprintf(path, sizeof(path), "%s/out", n.dir);
    n.output_file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    (void)unlink(path);
    assert_int_equal(write(n.output_file, n.text, n.text_len), (ssize_t)n.text_len);
    n.output_ended = true;
    n.runs[0].state = RUN_SUCCEEDED;
    got = get(&n, "/v1/runs/" RUN_ID "/output");
    HAS(got, "Content-Length: 19\r\n");
    HAS(got, "Accept-Ranges: bytes\r\n");
    HAS(got, "\r\n\r\none\ntwo\nthree\nfour\n");
    got = ask(&n, "GET", "/v1/runs/" RUN_ID "/output", "Range: bytes=4-6\r\n", NULL);
    STATUS(got, "206");
    HAS(got, "Content-Range: bytes 4-6/19\r\n");
    HAS(got, "\r\n\r\ntwo");
    HAS_NOT(got, "three");
    got = ask(&n, "GET", "/v1/runs/" RUN_ID "/output", "Range: bytes=19-\r\n", NULL);
    STATUS(got, "416");
    HAS(got, "Content-Range: bytes */19\r\n");
    STATUS(get(&n, "/v1/runs/" RUN_ID "/output?attempt=2"), "404");
    STATUS(get(&n, "/v1/runs/" RUN_ID "/output?attempt=1"), "200");
    STATUS(get(&n, "/v1/runs/" RUN_ID "/output?attempt=0"), "400");
    got = ask(&n, "HEAD", "/v1/runs/" RUN_ID "/output", NULL, NULL);
    HAS(got, "Content-Length: 19\r\n");
    n.output_fails = true;
    got = get(&n, "/v1/runs/" RUN_ID "/output");
    STATUS(got, "500");
    stop(&n);
}

/* The body of a chunked answer. */
static const char *body_of(const char *answer)
{
    static char plain[16384];
    size_t n = 0;
    const char *p = strstr(answer, "\r\n\r\n");
    assert_non_null(p);
    for (p += 4;;) {
        char *end;
        unsigned long size = strtoul(p, &end, 16);
        assert_memory_equal(end, "\r\n", 2);
        memcpy(plain + n, end + 2, size);
        n += size;
        p = end + 2 + size + 2;
        if (size == 0) {
            plain[n] = '\0';
            return plain;
        }
    }
}

static void test_logs(void **state)
{
    (void)state;
    struct node n;
    start(&n);
    n.text_len = (size_t)snprintf(n.text, sizeof(n.text), "one\ntwo\nthree\nfour\n");
    n.output_ended = true;
    n.runs[0].state = RUN_FAILED;
    char *got = get(&n, "/v1/runs/" RUN_ID "/logs");
    HAS(got, "text/plain; charset=utf-8");
    assert_string_equal(body_of(got), n.text);
    static const struct {
        const char *query, *text;
    } rows[] = {
        { "?tail=2", "three\nfour\n" },
        { "?tail=0", "" },
        { "?tail=4", "one\ntwo\nthree\nfour\n" },
        { "?tail=99", "one\ntwo\nthree\nfour\n" },
        { "?since=1h", "two\nthree\nfour\n" },
        { "?since=1h&tail=3", "two\nthree\nfour\n" },
        { "?since=1h&tail=1", "four\n" },
        { "?stream=both", "one\ntwo\nthree\nfour\n" },
        { "?stream=both&tail=1", "four\n" },
        { "?stream=both&since=1970-01-01T00:00:01Z", "" },
        { "?stream=stdout&follow=1", "one\ntwo\nthree\nfour\n" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char path[160];
        (void)snprintf(path, sizeof(path), "/v1/runs/" RUN_ID "/logs%s", rows[i].query);
        got = get(&n, path);
        STATUS(got, "200");
        assert_string_equal(body_of(got), rows[i].text);
    }
    static const char *const bad[] = { "?stream=stdin", "?tail=-1", "?since=never", "?follow=x",
                                       "?lines=3" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char path[160];
        (void)snprintf(path, sizeof(path), "/v1/runs/" RUN_ID "/logs%s", bad[i]);
        STATUS(get(&n, path), "400");
    }
    /* More than a piece, without a newline at the end. */
    memset(n.text, 'x', 8000);
    memcpy(n.text + 7990, "\nlast", 5);
    n.text_len = 7995;
    assert_string_equal(body_of(get(&n, "/v1/runs/" RUN_ID "/logs?tail=1")), "last");
    stop(&n);
}

static void test_follow(void **state)
{
    (void)state;
    struct node n;
    start(&n);
    n.output_missing = true;
    n.runs[0].state = RUN_QUEUED;
    int fd = peer_dial(&n.peer);
    peer_say(&n.peer, fd,
             "GET /v1/runs/" RUN_ID "/logs?follow=1 HTTP/1.1\r\nHost: localhost\r\n"
             "Connection: close\r\n\r\n");
    HAS(peer_hear(&n.peer, fd, "\r\n\r\n"), "200 OK"); /* before there is anything */
    n.runs[0].state = RUN_RUNNING;
    tell(&n, &n.runs[0]);
    paper_writes(&n, "one\n", false);
    HAS(peer_hear(&n.peer, fd, "one"), "one\n");
    paper_writes(&n, "two\n", false);
    HAS(peer_hear(&n.peer, fd, "two"), "two\n");
    /* The attempt ends, the run goes on with another one. */
    paper_writes(&n, "", true);
    peer_turn(&n.peer, 150);
    n.runs[0].attempt = 2;
    tell(&n, &n.runs[0]);
    HAS(peer_hear(&n.peer, fd, "one"), "one\n"); /* every attempt writes the same here */
    run_end(&n);
    char *rest = peer_hear(&n.peer, fd, NULL);
    HAS(rest, "0\r\n\r\n");
    (void)close(fd);
    /* One that goes away, one that the end of the server cuts off. */
    paper_writes(&n, "", false);
    n.runs[0].state = RUN_RUNNING;
    int a = peer_dial(&n.peer);
    int b = peer_dial(&n.peer);
    peer_say(&n.peer, a,
             "GET /v1/runs/" RUN_ID "/output?follow=1 HTTP/1.1\r\nHost: localhost\r\n"
             "\r\n");
    peer_say(&n.peer, b,
             "GET /v1/runs/" RUN_ID "/output?follow=1 HTTP/1.1\r\nHost: localhost\r\n"
             "\r\n");
    HAS(peer_hear(&n.peer, a, "wo\n"), "wo\n");
    HAS(peer_hear(&n.peer, b, "wo\n"), "wo\n");
    (void)close(a);
    peer_turn(&n.peer, 30);
    stop(&n);
    char rest_of_b[256];
    ssize_t left = recv(b, rest_of_b, sizeof(rest_of_b), 0);
    assert_true(left <= 0); /* broken off: it must not look whole */
    (void)close(b);
}

#define ASK_EVENTS(query, headers) \
    "GET /v1/events" query " HTTP/1.1\r\nHost: localhost\r\n" headers "\r\n"

static void test_events(void **state)
{
    (void)state;
    struct node n;
    start(&n);
    int fd = peer_dial(&n.peer);
    int runs = peer_dial(&n.peer);
    int slow = peer_dial(&n.peer);
    peer_say(&n.peer, fd, ASK_EVENTS("", ""));
    HAS(peer_hear(&n.peer, fd, "retry:"), "text/event-stream");
    peer_say(&n.peer, runs, ASK_EVENTS("?type=agent.run.&job=j", ""));
    (void)peer_hear(&n.peer, runs, "retry:");
    peer_say(&n.peer, slow, ASK_EVENTS("", ""));
    while (paper_readers() < 3) {
        peer_turn(&n.peer, 10);
    }
    paper_says("agent.node.joined", "", STR("{\"a\":1}"));
    paper_says("agent.run.queued", "i", STR("{\"b\":1}"));
    paper_says("agent.run.failed", "j", STR("{\"c\":1}"));
    char *got = peer_hear(&n.peer, fd, "{\"c\":1}\n\n");
    HAS(got, "event: agent.node.joined\ndata: {\"a\":1}\n\n");
    HAS(got, "id: 2\nevent: agent.run.queued\ndata: {\"b\":1}\n\n");
    got = peer_hear(&n.peer, runs, "\"c\":1}\n\n");
    HAS(got, "id: 3\nevent: agent.run.failed\ndata: {\"c\":1}\n\n");
    assert_null(strstr(got, "agent.node"));
    assert_null(strstr(got, "\"b\""));
    (void)close(runs);
    /* One that comes back, one whose place is not known. */
    int back = peer_dial(&n.peer);
    peer_say(&n.peer, back, ASK_EVENTS("", "Last-Event-ID: 1\r\n"));
    got = peer_hear(&n.peer, back, "\"c\":1}\n\n");
    HAS(got, "id: 2\n");
    assert_null(strstr(got, "id: 1\n"));
    assert_null(strstr(got, "gap"));
    (void)close(back);
    back = peer_dial(&n.peer);
    peer_say(&n.peer, back, ASK_EVENTS("", "Last-Event-ID: other-7\r\n"));
    got = peer_hear(&n.peer, back, "\"c\":1}\n\n");
    HAS(got, "event: agent.feed.gap\ndata: {");
    HAS(got, "\"after\":\"other-7\"");
    HAS(got, "id: 1\n");
    (void)close(back);
    while (paper_readers() > 2) {
        peer_turn(&n.peer, 10);
    }
    /* The slow one reads nothing: it is dropped, the other one is not. */
    struct buf all = BUF_INIT(1 << 26);
    static char big[32 * 1024];
    memset(big, 'x', sizeof(big));
    for (int i = 0; i < 4000 && paper_readers() != 1; i++) {
        paper_says("agent.run.running", "j", (struct str){ big, sizeof(big) });
        (void)peer_hear_some(&n.peer, fd, &all, NULL, 1);
        buf_reset(&all);
    }
    assert_int_equal(paper_readers(), 1);
    HAS(ask(&n, "GET", "/metrics", NULL, NULL), "agent_event_readers_dropped_total 1");
    paper_says("agent.run.lost", "j", STR("{}"));
    HAS(peer_hear(&n.peer, fd, "{}\n\n"), "event: agent.run.lost");
    buf_release(&all);
    (void)close(slow);
    STATUS(ask(&n, "HEAD", "/v1/events", NULL, NULL), "200");
    STATUS(ask(&n, "GET", "/v1/events?x=y", NULL, NULL), "400");
    stop(&n);
    (void)close(fd);
}

static void test_handshake(void **state)
{
    (void)state;
    struct node n;
    start(&n);
    static const char *const paths[] = { "/v1/events", "/v1/hooks/job/hook" };
    for (size_t i = 0; i < 2; i++) {
        char *a = ask(&n, "OPTIONS", paths[i],
                      "WebHook-Request-Origin: sender.example.com\r\nWebHook-Request-Rate: 120\r\n",
                      NULL);
        STATUS(a, "200");
        HAS(a, "WebHook-Allowed-Origin: sender.example.com\r\n");
        HAS(a, "WebHook-Allowed-Rate: *\r\n");
        HAS(a, "Allow: POST, OPTIONS\r\n");
        a = ask(&n, "OPTIONS", paths[i], "WebHook-Request-Origin: sender.example.com\r\n", NULL);
        assert_null(strstr(a, "WebHook-Allowed-Rate"));
    }
    /* Elsewhere, or from nobody, it is an OPTIONS like any other. */
    assert_null(strstr(ask(&n, "OPTIONS", "/v1/jobs", "WebHook-Request-Origin: a.b\r\n", NULL),
                       "WebHook-Allowed"));
    assert_null(strstr(ask(&n, "OPTIONS", "/v1/events", NULL, NULL), "WebHook-Allowed"));
    assert_null(strstr(ask(&n, "OPTIONS", "/v1/events", "WebHook-Request-Origin: a/b\r\n", NULL),
                       "WebHook-Allowed"));
    stop(&n);
}

static void test_callbacks(void **state)
{
    (void)state;
    struct node n;
    start(&n);
    HAS(ask(&n, "GET", "/v1/callbacks?job=j&state=waiting&limit=5", NULL, NULL), "\"callbacks\"");
    assert_string_equal(n.name, "j");
    assert_string_equal(n.reference, "waiting");
    assert_int_equal(n.filter.limit, 5);
    STATUS(ask(&n, "GET", "/v1/callbacks?state=flying", NULL, NULL), "400");
    STATUS(ask(&n, "GET", "/v1/callbacks?limit=0", NULL, NULL), "400");
    STATUS(ask(&n, "GET", "/v1/callbacks?x=y", NULL, NULL), "400");
    STATUS(ask(&n, "POST", "/v1/callbacks/01.1.0/retry", NULL, ""), "202");
    assert_string_equal(n.name, "01.1.0");
    n.refuse = (struct node_error){ .code = NODE_UNKNOWN_CALLBACK, .detail = "none" };
    char *a = ask(&n, "POST", "/v1/callbacks/x/retry", NULL, "");
    STATUS(a, "404");
    HAS(a, "unknown_callback");
    stop(&n);
}

/* ---- among nodes ---- */

static void test_peer_door(void **state)
{
    (void)state;
    struct node n;
    start(&n);
    char *a = ask(&n, "POST", "/v1/peer/offer", NULL, "{}");
    STATUS(a, "403"); /* who asks? */
    HAS(a, "forbidden_peer");
    a = ask(&n, "POST", "/v1/peer/offer", "Agent-Node: other\r\n", "{\"x\":1}");
    STATUS(a, "200");
    HAS(a, "busy");
    assert_string_equal(n.name, "other");
    assert_string_equal(n.document, "{\"x\":1}");
    STATUS(ask(&n, "POST", "/v1/peer/nonsense", "Agent-Node: other\r\n", "{}"), "404");
    STATUS(ask(&n, "GET", "/v1/peer/offer", "Agent-Node: other\r\n", NULL), "404");
    /* Beyond loopback a name proves nothing. */
    (void)snprintf(n.settings.http.listen, sizeof(n.settings.http.listen), "0.0.0.0:7575");
    STATUS(ask(&n, "POST", "/v1/peer/offer", "Agent-Node: other\r\n", "{}"), "403");
    stop(&n);
}

static void test_peer_files(void **state)
{
    (void)state;
    struct node n;
    start(&n);
    static const char put[] = "/v1/peer/output/" RUN_ID "?attempt=1&file=stdout";
    STATUS(ask(&n, "PUT", "/v1/peer/output/" RUN_ID "?attempt=2&file=stdout",
               "Agent-Node: other\r\n", "x"),
           "409");
    STATUS(ask(&n, "PUT", "/v1/peer/output/" RUN_ID "?attempt=1", "Agent-Node: other\r\n", "x"),
           "400");
    STATUS(ask(&n, "PUT", put, "Agent-Node: third\r\n", "x"), "409");
    STATUS(ask(&n, "PUT", put, "Agent-Node: other\r\n", "what it wrote"), "200");
    assert_string_not_equal(n.spool_name, "");
    n.payload_bytes = 13;
    char *a = ask(&n, "GET", "/v1/peer/payload/" RUN_ID, "Agent-Node: other\r\n", NULL);
    STATUS(a, "200");
    HAS(a, "what it wrote");
    STATUS(ask(&n, "GET", "/v1/peer/payload/" RUN_ID, "Agent-Node: third\r\n", NULL), "404");
    stop(&n);
}

static void test_proxy(void **state)
{
    (void)state;
    struct node n;
    start_peer(&n);
    n.foreign = true; /* every run is the peer's, which knows it */
    char *a = get(&n, "/v1/runs/" RUN_ID);
    STATUS(a, "200");
    HAS(a, "Agent-Answered-By: other");
    HAS(a, "\"id\":\"" RUN_ID "\"");
    n.output_ended = true;
    paper_writes(&n, "one\ntwo\n", true);
    a = get(&n, "/v1/runs/" RUN_ID "/logs");
    STATUS(a, "200");
    HAS(a, "Agent-Answered-By: other");
    STATUS(ask(&n, "HEAD", "/v1/runs/" RUN_ID "/output", NULL, NULL), "200");
    STATUS(ask(&n, "POST", "/v1/runs/" RUN_ID "/cancel", NULL, "{}"), "200");
    /* One hop only. */
    a = ask(&n, "GET", "/v1/runs/" RUN_ID, "Agent-Hop: 1\r\n", NULL);
    STATUS(a, "200");
    HAS_NOT(a, "Agent-Answered-By");
    n.runs_len = 0;
    STATUS(get(&n, "/v1/runs/" RUN_ID), "404");
    /* Nobody is there. */
    n.peer_port = 1;
    a = get(&n, "/v1/runs/" RUN_ID);
    STATUS(a, "502");
    HAS(a, "node_unreachable");
    STATUS(get(&n, "/v1/nodes/third"), "404");
    stop(&n);
}

static void test_proxy_node(void **state)
{
    (void)state;
    struct node n;
    start_peer(&n);
    /* The peer says 404: its name is not "other" but "paper". */
    char *a = get(&n, "/v1/nodes/other");
    STATUS(a, "404");
    HAS(a, "Agent-Answered-By: other");
    STATUS(ask(&n, "POST", "/v1/nodes/other/drain", "Content-Type: application/json\r\n",
               "{\"draining\":true}"),
           "404");
    assert_false(n.draining);
    stop(&n);
}

static void test_together(void **state)
{
    (void)state;
    struct node n;
    start_peer(&n);
    char *a = get(&n, "/v1/runs?limit=10");
    STATUS(a, "200");
    /* Both have it, both are asked. */
    HAS(strstr(a, RUN_ID) + 1, RUN_ID);
    HAS(a, "\"partial\":[]");
    HAS(get(&n, "/v1/status"), "\"answered\":2");
    a = get(&n, "/v1/nodes");
    HAS(strstr(a, "paper") + 1, "paper");
    n.peer_port = 1; /* who does not answer is named */
    a = get(&n, "/v1/runs");
    STATUS(a, "200");
    HAS(a, "\"partial\":[\"other\"]");
    HAS(get(&n, "/v1/nodes"), "\"state\":\"unreachable\"");
    stop(&n);
}

/* A run that a peer executes: its output comes from there, as it is written. */
static void test_follow_elsewhere(void **state)
{
    (void)state;
    struct node n;
    start_peer(&n);
    n.output_missing = true;
    n.elsewhere = true;
    n.runs[0].state = RUN_RUNNING;
    int fd = peer_dial(&n.peer);
    peer_say(&n.peer, fd,
             "GET /v1/runs/" RUN_ID "/logs?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    HAS(peer_hear(&n.peer, fd, "\r\n\r\n"), "200");
    paper_writes(&n, "on\n", false);
    HAS(peer_hear(&n.peer, fd, "on\n"), "on\n");
    paper_writes(&n, "off\n", true);
    HAS(peer_hear(&n.peer, fd, "off\n"), "off\n");
    n.elsewhere = false;
    n.runs[0].state = RUN_SUCCEEDED;
    run_end(&n);
    (void)peer_hear(&n.peer, fd, "0\r\n\r\n");
    (void)close(fd);
    stop(&n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_door),
        cmocka_unit_test(test_node),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_jobs),
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_submit),
        cmocka_unit_test(test_submit_refused),
        cmocka_unit_test(test_submit_large),
        cmocka_unit_test(test_wait),
        cmocka_unit_test(test_output),
        cmocka_unit_test(test_logs),
        cmocka_unit_test(test_follow),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_handshake),
        cmocka_unit_test(test_callbacks),
        cmocka_unit_test(test_peer_door),
        cmocka_unit_test(test_peer_files),
        cmocka_unit_test(test_proxy),
        cmocka_unit_test(test_proxy_node),
        cmocka_unit_test(test_together),
        cmocka_unit_test(test_follow_elsewhere),
    };
    return cmocka_run_group_tests_name("api", tests, NULL, NULL);
}
