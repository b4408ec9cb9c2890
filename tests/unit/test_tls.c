/* TLS as a filter: both ends in memory, what is sent carried over by the test in any pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/lib/certs.h"
#include "tests/lib/seed.h"

enum { PLAIN_CAP = 256 * 1024, WIRE_MAX = 16 * 1024 * 1024 };

/* Two ends and what is on its way between them. */
struct pipe2 {
    struct tls_session *client, *server;
    struct buf to_server, to_client;
    struct buf server_got, client_got;
    int client_rc, server_rc;
    char client_why[512], server_why[512];
    struct rng rng;
    size_t piece_max;
};

static struct certs_pair ca, node_a, node_b;

static int setup(void **state)
{
    (void)state;
    certs_ca(&ca, "test-ca");
    certs_issue(&node_a, &ca, "node-a", "127.0.0.1", 30);
    certs_issue(&node_b, &ca, "node-b", NULL, 30);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    certs_release(&ca);
    certs_release(&node_a);
    certs_release(&node_b);
    return 0;
}

static void pipe_open(struct pipe2 *p, struct tls_context *client, struct tls_context *server,
                      const char *name)
{
    struct err e = { .code = 0 };
    memset(p, 0, sizeof(*p));
    buf_init(&p->to_server, WIRE_MAX);
    buf_init(&p->to_client, WIRE_MAX);
    buf_init(&p->server_got, WIRE_MAX);
    buf_init(&p->client_got, WIRE_MAX);
    p->piece_max = 100000;
    rng_init(&p->rng, 1);
    assert_int_equal(tls_session_server(server, &p->server, &e), 0);
    assert_int_equal(tls_session_client(client, name, 7575, &p->client, &p->to_server, &e), 0);
}

static void pipe_close(struct pipe2 *p)
{
    p->client = tls_session_free(p->client);
    p->server = tls_session_free(p->server);
    buf_release(&p->to_server);
    buf_release(&p->to_client);
    buf_release(&p->server_got);
    buf_release(&p->client_got);
}

static void feed(struct pipe2 *p, bool to_server)
{
    static char plain[PLAIN_CAP];
    struct buf *wire = to_server ? &p->to_server : &p->to_client;
    int *rc = to_server ? &p->server_rc : &p->client_rc;
    size_t n = 1 + (size_t)rng_below(&p->rng, p->piece_max);
    size_t got = 0;
    struct err e = { .code = 0 };
    n = n < wire->len ? n : wire->len;
    char *piece = mem_dup(wire->data, n);
    buf_consume(wire, n);
    int r = tls_session_feed(to_server ? p->server : p->client, piece, n, plain, sizeof(plain),
                             &got, to_server ? &p->to_client : &p->to_server, &e);
    mem_free(piece);
    (void)buf_add(to_server ? &p->server_got : &p->client_got, plain, got);
    if (r != 0 && *rc == 0) {
        *rc = r;
        (void)snprintf(to_server ? p->server_why : p->client_why, 512, "%s", err_text(&e));
    }
}

/* Until nothing is on its way any more. */
static void settle(struct pipe2 *p)
{
    while (p->to_server.len > 0 || p->to_client.len > 0) {
        if (p->to_server.len > 0) {
            feed(p, true);
        }
        if (p->to_client.len > 0) {
            feed(p, false);
        }
    }
}

static void test_both_ways(void **state)
{
    (void)state;
    struct tls_context *client = certs_context(false, NULL, &ca, STR(""));
    struct tls_context *server = certs_context(true, &node_a, NULL, STR(""));
    uint64_t seed = test_seed("tls");
    for (int round = 0; round < 20; round++) {
        struct pipe2 p;
        struct buf want = BUF_INIT(WIRE_MAX);
        pipe_open(&p, client, server, "node-a");
        rng_init(&p.rng, seed + (uint64_t)round);
        p.piece_max = round % 2 == 0 ? 7 + (size_t)round * 50 : 60000;
        settle(&p);
        assert_true(tls_session_ready(p.client) && tls_session_ready(p.server));
        for (int i = 0; i < 20; i++) {
            char block[20000];
            size_t n = (size_t)rng_below(&p.rng, sizeof(block)) + 1;
            memset(block, 'a' + i, n);
            (void)buf_add(&want, block, n);
            assert_int_equal(tls_session_write(p.client, block, n, &p.to_server, NULL), 0);
            assert_int_equal(tls_session_write(p.server, block, n, &p.to_client, NULL), 0);
            if (i % 3 == 0) {
                settle(&p);
            }
        }
        assert_int_equal(tls_session_write(p.client, "", 0, &p.to_server, NULL), 0);
        settle(&p);
        assert_int_equal(p.server_got.len, want.len);
        assert_memory_equal(p.server_got.data, want.data, want.len);
        assert_int_equal(p.client_got.len, want.len);
        assert_memory_equal(p.client_got.data, want.data, want.len);
        assert_false(tls_session_closed(p.client));
        tls_session_end(p.server, &p.to_client);
        settle(&p);
        assert_true(tls_session_closed(p.client));
        assert_int_equal(p.client_rc, 0);
        buf_release(&want);
        pipe_close(&p);
    }
    assert_int_equal(tls_context_stats(server)->handshakes_total, 20);
    /* Every connection but the first began with the ticket of one before. */
    assert_int_equal(tls_context_stats(client)->resumed_total, 19);
    assert_true(tls_context_not_after(server) > 0);
    assert_int_equal(tls_context_not_after(client), 0);
    (void)tls_context_unref(client);
    (void)tls_context_unref(server);
}

static int handshake(struct pipe2 *p, struct tls_context *client, struct tls_context *server,
                     const char *name)
{
    pipe_open(p, client, server, name);
    settle(p);
    return p->client_rc;
}

static void test_names(void **state)
{
    (void)state;
    struct tls_context *client = certs_context(false, NULL, &ca, STR(""));
    struct tls_context *server = certs_context(true, &node_a, NULL, STR(""));
    static const struct {
        const char *name;
        int rc;
    } cases[] = {
        { "node-a", 0 },       { "NODE-A", 0 },          { "127.0.0.1", 0 },
        { "node-b", -EACCES }, { "127.0.0.2", -EACCES }, { "node-a.example", -EACCES },
        { "::1", -EACCES },    { "node", -EACCES },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct pipe2 p;
        if (handshake(&p, client, server, cases[i].name) != cases[i].rc) {
            fail_msg("'%s': %d, %s", cases[i].name, p.client_rc, p.client_why);
        }
        assert_true(cases[i].rc == 0 || strstr(p.client_why, "certificate") != NULL);
        assert_int_equal(tls_session_ready(p.client), cases[i].rc == 0);
        assert_string_equal(tls_session_peer(p.client), cases[i].rc == 0 ? "node-a" : "");
        assert_string_equal(tls_session_peer(p.server), ""); /* it was not asked */
        pipe_close(&p);
    }
    struct tls_session *s = NULL;
    struct buf out = BUF_INIT(100000);
    struct err e = { .code = 0 };
    assert_int_equal(tls_session_client(client, "", 1, &s, &out, &e), -EINVAL);
    buf_release(&out);
    (void)tls_context_unref(client);
    (void)tls_context_unref(server);
}

static void test_client_certificates(void **state)
{
    (void)state;
    struct certs_pair other_ca, stranger, late;
    struct pipe2 p;
    certs_ca(&other_ca, "other-ca");
    certs_issue(&stranger, &other_ca, "node-b", NULL, 30);
    certs_issue(&late, &ca, "node-b", NULL, 0);
    struct tls_context *server = certs_context(true, &node_a, &ca, STR(""));
    struct tls_context *bare = certs_context(false, NULL, &ca, STR(""));
    struct tls_context *good = certs_context(false, &node_b, &ca, STR(""));
    struct tls_context *bad = certs_context(false, &stranger, &ca, STR(""));
    struct tls_context *over = certs_context(false, &late, &ca, STR(""));
    struct tls_context *untrusting = certs_context(false, &node_b, &other_ca, STR(""));
    /* Asked for, not required. */
    assert_int_equal(handshake(&p, bare, server, "node-a"), 0);
    assert_string_equal(tls_session_peer(p.server), "");
    pipe_close(&p);
    for (int i = 0; i < 2; i++) { /* the second time with a ticket */
        assert_int_equal(handshake(&p, good, server, "node-a"), 0);
        assert_string_equal(tls_session_peer(p.server), "node-b");
        pipe_close(&p);
    }
    assert_int_equal(tls_context_stats(good)->resumed_total, 1);
    (void)handshake(&p, bad, server, "node-a");
    assert_int_equal(p.server_rc, -EACCES);
    assert_int_equal(p.client_rc, -EACCES); /* it hears that it was refused */
    assert_string_equal(tls_session_peer(p.server), "");
    pipe_close(&p);
    (void)handshake(&p, over, server, "node-a");
    assert_int_equal(p.server_rc, -EACCES);
    assert_non_null(strstr(p.server_why, "expired"));
    pipe_close(&p);
    assert_int_equal(handshake(&p, untrusting, server, "node-a"), -EACCES);
    pipe_close(&p);
    (void)tls_context_unref(server);
    (void)tls_context_unref(bare);
    (void)tls_context_unref(good);
    (void)tls_context_unref(bad);
    (void)tls_context_unref(over);
    (void)tls_context_unref(untrusting);
    certs_release(&other_ca);
    certs_release(&stranger);
    certs_release(&late);
}

static void crl_of(const struct certs_pair *revoked, struct buf *ret)
{
    struct sys_cert_info info;
    struct sys_cert_revoked one = { .at_s = 1000000000 };
    struct err e = { .code = 0 };
    buf_init(ret, SYS_CERT_PEM_MAX);
    if (revoked != NULL) {
        assert_int_equal(sys_cert_read(buf_str(&revoked->cert), 0, &info, &e), 0);
        memcpy(one.serial, info.serial, sizeof(one.serial));
    }
    assert_int_equal(
        sys_cert_crl(buf_str(&ca.cert), buf_str(&ca.key), &one, revoked != NULL ? 1 : 0, ret, &e),
        0);
}

static void test_revocation(void **state)
{
    (void)state;
    struct buf none, b_revoked;
    struct pipe2 p, kept;
    crl_of(NULL, &none);
    crl_of(&node_b, &b_revoked);
    struct tls_context *server = certs_context(true, &node_a, &ca, buf_str(&none));
    struct tls_context *client = certs_context(false, &node_b, &ca, buf_str(&none));
    assert_int_equal(handshake(&kept, client, server, "node-a"), 0);
    assert_string_equal(tls_session_peer(kept.server), "node-b");
    const struct tls_config next = certs_config(true, &node_a, &ca, buf_str(&b_revoked));
    assert_int_equal(tls_context_reload(server, &next, NULL), 0);
    /* A connection that was open lives on, without the name. */
    assert_string_equal(tls_session_peer(kept.server), "");
    assert_int_equal(tls_session_write(kept.client, "x", 1, &kept.to_server, NULL), 0);
    settle(&kept);
    assert_int_equal(kept.server_got.len, 1);
    pipe_close(&kept);
    /* New ones are refused, also with a ticket from before. */
    (void)handshake(&p, client, server, "node-a");
    assert_int_equal(p.server_rc, -EACCES);
    assert_non_null(strstr(p.server_why, "revoked"));
    pipe_close(&p);
    /* The other direction. */
    struct buf a_revoked;
    crl_of(&node_a, &a_revoked);
    const struct tls_config wary = certs_config(false, &node_b, &ca, buf_str(&a_revoked));
    assert_int_equal(tls_context_reload(client, &wary, NULL), 0);
    assert_int_equal(handshake(&p, client, server, "node-a"), -EACCES);
    pipe_close(&p);
    buf_release(&none);
    buf_release(&b_revoked);
    buf_release(&a_revoked);
    (void)tls_context_unref(server);
    (void)tls_context_unref(client);
}

static void test_rotation(void **state)
{
    (void)state;
    struct certs_pair new_ca, new_a;
    struct pipe2 p;
    certs_ca(&new_ca, "next-ca");
    certs_issue(&new_a, &new_ca, "node-a", NULL, 30);
    struct tls_context *server = certs_context(true, &node_a, NULL, STR(""));
    struct tls_context *client = certs_context(false, NULL, &ca, STR(""));
    const struct tls_config broken = certs_config(true, &new_a, NULL, STR("nonsense"));
    struct tls_config mixed = certs_config(true, &new_a, NULL, STR(""));
    struct err e = { .code = 0 };
    assert_int_equal(tls_context_reload(server, &broken, &e), -EINVAL);
    assert_non_null(strstr(e.text, "revocation list"));
    mixed.key = buf_str(&node_b.key);
    assert_int_equal(tls_context_reload(server, &mixed, &e), -EINVAL);
    assert_non_null(strstr(e.text, "not the certificate's"));
    assert_int_equal(handshake(&p, client, server, "node-a"), 0); /* as it was */
    pipe_close(&p);
    /* Both authorities are trusted for a while. */
    struct certs_pair both = { .cert = BUF_INIT(1 << 20), .key = BUF_INIT(1) };
    (void)buf_addstr(&both.cert, buf_str(&new_ca.cert));
    (void)buf_addstr(&both.cert, buf_str(&ca.cert));
    const struct tls_config trusts = certs_config(false, NULL, &both, STR(""));
    assert_int_equal(tls_context_reload(client, &trusts, &e), 0);
    assert_int_equal(handshake(&p, client, server, "node-a"), 0);
    pipe_close(&p);
    const struct tls_config next = certs_config(true, &new_a, NULL, STR(""));
    assert_int_equal(tls_context_reload(server, &next, &e), 0);
    assert_int_equal(handshake(&p, client, server, "node-a"), 0);
    pipe_close(&p);
    certs_release(&both);
    certs_release(&new_ca);
    certs_release(&new_a);
    (void)tls_context_unref(server);
    (void)tls_context_unref(client);
}

static void test_bad_contexts(void **state)
{
    (void)state;
    struct tls_context *c = NULL;
    struct err e = { .code = 0 };
    struct tls_config none = { .server = true };
    assert_int_equal(tls_context_new(&none, &c, &e), -EINVAL);
    assert_non_null(strstr(e.text, "needs a certificate"));
    struct tls_config swapped = certs_config(true, &node_a, NULL, STR(""));
    swapped.cert = buf_str(&node_a.key);
    assert_int_equal(tls_context_new(&swapped, &c, &e), -EINVAL);
    struct tls_config no_key = certs_config(true, &node_a, NULL, STR(""));
    no_key.key = STR("");
    assert_int_equal(tls_context_new(&no_key, &c, &e), -EINVAL);
    struct tls_config bad_ca = certs_config(false, NULL, NULL, STR(""));
    bad_ca.ca = STR("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert_int_equal(tls_context_new(&bad_ca, &c, &e), -EINVAL);
    assert_null(c);
}

/* Whoever trusts nobody connects to nobody. */
static void test_no_trust(void **state)
{
    (void)state;
    struct pipe2 p;
    struct tls_context *client = certs_context(false, NULL, NULL, STR(""));
    struct tls_context *server = certs_context(true, &node_a, NULL, STR(""));
    assert_int_equal(handshake(&p, client, server, "node-a"), -EACCES);
    pipe_close(&p);
    (void)tls_context_unref(client);
    (void)tls_context_unref(server);
}

/* Bytes that are flipped, cut or none at all: an error, and never plain bytes that were not
 * sent. */
static void test_garbage(void **state)
{
    (void)state;
    struct tls_context *client = certs_context(false, &node_b, &ca, STR(""));
    struct tls_context *server = certs_context(true, &node_a, &ca, STR(""));
    struct rng rng;
    rng_init(&rng, test_seed("tls_garbage"));
    for (int round = 0; round < 200; round++) {
        struct pipe2 p;
        pipe_open(&p, client, server, "node-a");
        bool early = round % 2 == 0;
        if (!early) {
            settle(&p);
            (void)tls_session_write(p.client, "secret", 6, &p.to_server, NULL);
        }
        p.to_server.data[rng_below(&rng, p.to_server.len)] ^= (char)(1U << rng_below(&rng, 8));
        settle(&p);
        assert_int_equal(p.server_got.len, 0); /* an error, or it waits for a longer record */
        pipe_close(&p);
    }
    struct tls_session *s = NULL;
    char plain[40000];
    char noise[20000];
    struct buf out = BUF_INIT(100000);
    size_t got = 0;
    struct err e = { .code = 0 };
    for (size_t i = 0; i < sizeof(noise); i++) {
        noise[i] = (char)rng_below(&rng, 256);
    }
    assert_int_equal(tls_session_server(server, &s, &e), 0);
    assert_int_equal(
        tls_session_feed(s, noise, sizeof(noise), plain, sizeof(plain), &got, &out, &e), -EPROTO);
    assert_int_equal(tls_session_feed(s, noise, 10, plain, sizeof(plain), &got, &out, &e), -EPROTO);
    assert_int_equal(got, 0);
    (void)tls_session_free(s);
    buf_release(&out);
    (void)tls_context_unref(client);
    (void)tls_context_unref(server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_client_certificates),
        cmocka_unit_test(test_revocation),
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_bad_contexts),
        cmocka_unit_test(test_no_trust),
        cmocka_unit_test(test_garbage),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
