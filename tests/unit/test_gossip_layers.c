/* Labels, keys, check sums, compression and streams around messages. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/gossip/gossip_layers.h"
#include "agent/gossip/gossip_wire.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

static const uint8_t nonce[GOSSIP_NONCE_PREFIX] = { 1, 2, 3, 4, 5, 6, 7, 8 };

#define KEY16 "AAECAwQFBgcICQoLDA0ODw=="
#define KEY24 "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
#define KEY32 "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

static struct gossip_keys *keys_of(const char *text)
{
    struct gossip_keys *k = NULL;
    struct err e;
    if (text != NULL) {
        assert_int_equal(gossip_keys_parse(str_of(text), &k, &e), 0);
    }
    return k;
}

static void layers_of(struct gossip_layers *l, const char *label, const char *keys)
{
    gossip_layers_init(l, str_of(label), keys_of(keys), nonce);
}

static void keys(void **state)
{
    struct gossip_keys *k = NULL;
    struct err e;
    static const char *const bad[] = { "",
                                       "# none\n",
                                       "AAEC",
                                       KEY16 "\nnonsense!\n",
                                       KEY16 " " KEY16,
                                       "AAECAwQFBgcICQoLDA0O",
                                       KEY32 "AAAA" };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(gossip_keys_parse(str_of(bad[i]), &k, &e), -EINVAL);
        assert_null(k);
    }
    assert_int_equal(gossip_keys_parse(STR("# old\n\n" KEY16 "\r\n" KEY24 "\n" KEY32), &k, &e), 0);
    assert_int_equal(gossip_keys_len(k), 3);
    gossip_keys_free(k);
    AUTO_BUF struct buf many = BUF_INIT(4096);
    for (int i = 0; i < GOSSIP_KEYS_MAX + 1; i++) {
        (void)buf_adds(&many, KEY16 "\n");
    }
    k = NULL;
    assert_int_equal(gossip_keys_parse(buf_str(&many), &k, &e), -EINVAL);
    for (int after = 0; after < 1; after++) {
        mem_fail_after(after, 1);
        int rc = gossip_keys_parse(STR(KEY16), &k, &e);
        mem_fail_after(-1, 0);
        assert_int_equal(rc, -ENOMEM);
    }
}

/* A packet from a to b. */
static enum gossip_peel passes(const char *label_a, const char *keys_a, const char *label_b,
                               const char *keys_b, struct str msg)
{
    struct gossip_layers a, b;
    AUTO_BUF struct buf wire = BUF_INIT(1 << 20);
    struct str got;
    layers_of(&a, label_a, keys_a);
    layers_of(&b, label_b, keys_b);
    assert_int_equal(gossip_wrap_packet(&a, msg, &wire), 0);
    assert_int_equal(wire.len, msg.n + gossip_layers_overhead(&a));
    enum gossip_peel rc = gossip_peel_packet(&b, buf_str(&wire), &got);
    if (rc == GOSSIP_PEEL_OK) {
        assert_true(str_eq(got, msg));
    }
    gossip_layers_release(&a);
    gossip_layers_release(&b);
    return rc;
}

static void packets(void **state)
{
    struct str msg = STR("\x02hello");
    (void)state;
    assert_int_equal(passes("", NULL, "", NULL, msg), GOSSIP_PEEL_OK);
    assert_int_equal(passes("x", NULL, "x", NULL, msg), GOSSIP_PEEL_OK);
    assert_int_equal(passes("x", NULL, "", NULL, msg), GOSSIP_PEEL_LABEL);
    assert_int_equal(passes("", NULL, "x", NULL, msg), GOSSIP_PEEL_LABEL);
    assert_int_equal(passes("x", NULL, "y", NULL, msg), GOSSIP_PEEL_LABEL);
    assert_int_equal(passes("", KEY16, "", KEY16, msg), GOSSIP_PEEL_OK);
    assert_int_equal(passes("", KEY24, "", KEY24, msg), GOSSIP_PEEL_OK);
    assert_int_equal(passes("lab", KEY32, "lab", KEY32, msg), GOSSIP_PEEL_OK);
    assert_int_equal(passes("", KEY16, "", KEY24, msg), GOSSIP_PEEL_CRYPT);
    assert_int_equal(passes("", KEY16 "\n" KEY32, "", KEY24 "\n" KEY16, msg), GOSSIP_PEEL_OK);
    assert_int_equal(passes("", NULL, "", KEY16, msg), GOSSIP_PEEL_CRYPT);
}

/* Keys change without a packet lost: add, use, remove. */
static void rotation(void **state)
{
    struct str msg = STR("\x02x");
    (void)state;
    assert_int_equal(passes("", KEY16 "\n" KEY24, "", KEY16, msg), GOSSIP_PEEL_OK);
    assert_int_equal(passes("", KEY24 "\n" KEY16, "", KEY16 "\n" KEY24, msg), GOSSIP_PEEL_OK);
    assert_int_equal(passes("", KEY24, "", KEY24 "\n" KEY16, msg), GOSSIP_PEEL_OK);
    struct gossip_layers l;
    layers_of(&l, "", KEY16);
    gossip_layers_set_keys(&l, keys_of(KEY24));
    assert_int_equal(gossip_layers_overhead(&l), 29);
    gossip_layers_set_keys(&l, NULL);
    assert_int_equal(gossip_layers_overhead(&l), 0);
    gossip_layers_release(&l);
}

/* Every bit counts, and every byte. */
static void tampering(void **state)
{
    struct gossip_layers l;
    AUTO_BUF struct buf wire = BUF_INIT(4096);
    struct str got;
    (void)state;
    layers_of(&l, "lab", KEY16);
    assert_int_equal(gossip_wrap_packet(&l, STR("\x02hello"), &wire), 0);
    for (size_t i = 0; i < wire.len * 8; i++) {
        wire.data[i / 8] = (char)(wire.data[i / 8] ^ (1 << i % 8));
        assert_int_not_equal(gossip_peel_packet(&l, buf_str(&wire), &got), GOSSIP_PEEL_OK);
        wire.data[i / 8] = (char)(wire.data[i / 8] ^ (1 << i % 8));
    }
    for (size_t n = 0; n < wire.len; n++) {
        assert_int_not_equal(gossip_peel_packet(&l, (struct str){ wire.data, n }, &got),
                             GOSSIP_PEEL_OK);
    }
    assert_int_equal(gossip_peel_packet(&l, buf_str(&wire), &got), GOSSIP_PEEL_OK);
    gossip_layers_release(&l);
}

static void nonces(void **state)
{
    struct gossip_layers l;
    AUTO_BUF struct buf one = BUF_INIT(4096);
    AUTO_BUF struct buf two = BUF_INIT(4096);
    (void)state;
    layers_of(&l, "", KEY16);
    uint32_t left = gossip_layers_nonces_left(&l);
    assert_int_equal(gossip_wrap_packet(&l, STR("\x02"), &one), 0);
    assert_int_equal(gossip_wrap_packet(&l, STR("\x02"), &two), 0);
    assert_int_equal(gossip_layers_nonces_left(&l), left - 2);
    assert_memory_not_equal(one.data + 1, two.data + 1, 12);
    l.nonce_at = UINT32_MAX;
    assert_int_equal(gossip_wrap_packet(&l, STR("\x02"), &two), -EOVERFLOW);
    gossip_layers_set_nonce(&l, nonce);
    assert_int_equal(gossip_wrap_packet(&l, STR("\x02"), &two), 0);
    gossip_layers_release(&l);
}

static void check_sums(void **state)
{
    struct gossip_layers l;
    AUTO_BUF struct buf wire = BUF_INIT(4096);
    struct str got;
    struct str msg = STR("\x02inner");
    (void)state;
    layers_of(&l, "", NULL);
    (void)buf_add_u8(&wire, GOSSIP_CRC);
    (void)buf_add_be32(&wire, gossip_crc32(msg.p, msg.n));
    (void)buf_addstr(&wire, msg);
    assert_int_equal(gossip_peel_packet(&l, buf_str(&wire), &got), GOSSIP_PEEL_OK);
    assert_true(str_eq(got, msg));
    wire.data[6] ^= 1;
    assert_int_equal(gossip_peel_packet(&l, buf_str(&wire), &got), GOSSIP_PEEL_CRC);
    gossip_layers_release(&l);
}

static void compress(struct buf *out, struct str plain)
{
    AUTO_BUF struct buf codes = BUF_INIT(1 << 24);
    assert_int_equal(gossip_lzw_pack(plain, &codes), 0);
    const struct gossip_msg m = { .buf = buf_str(&codes) };
    gossip_msg_write(out, GOSSIP_COMPRESSED, &m);
}

static void compressed(void **state)
{
    struct gossip_layers l;
    AUTO_BUF struct buf once = BUF_INIT(1 << 24);
    AUTO_BUF struct buf twice = BUF_INIT(1 << 24);
    AUTO_BUF struct buf bomb = BUF_INIT(1 << 24);
    struct str got;
    (void)state;
    layers_of(&l, "", NULL);
    compress(&once, STR("\x02innerinnerinnerinner"));
    assert_int_equal(gossip_peel_packet(&l, buf_str(&once), &got), GOSSIP_PEEL_OK);
    assert_true(str_eqs(got, "\x02innerinnerinnerinner"));
    compress(&twice, buf_str(&once));
    assert_int_equal(gossip_peel_packet(&l, buf_str(&twice), &got), GOSSIP_PEEL_LZW);
    char *zeroes = mem_zalloc(1 << 20);
    compress(&bomb, (struct str){ zeroes, 1 << 20 });
    mem_free(zeroes);
    assert_int_equal(gossip_peel_packet(&l, buf_str(&bomb), &got), GOSSIP_PEEL_LZW);
    assert_true(l.unpacked.len <= GOSSIP_UNPACKED_MAX);
    compress(&twice, STR(""));
    buf_reset(&twice);
    compress(&twice, STR(""));
    assert_int_equal(gossip_peel_packet(&l, buf_str(&twice), &got), GOSSIP_PEEL_MALFORMED);
    assert_int_equal(gossip_peel_packet(&l, STR("\x09\x80"), &got), GOSSIP_PEEL_LZW);
    assert_int_equal(gossip_peel_packet(&l, STR("\x09"), &got), GOSSIP_PEEL_MALFORMED);
    assert_int_equal(gossip_peel_packet(&l, STR(""), &got), GOSSIP_PEEL_MALFORMED);
    gossip_layers_release(&l);
}

/* --- streams --- */

static void view(struct buf *b, unsigned nodes, unsigned user)
{
    struct gossip_msg m = { .nodes = nodes, .user_len = user, .join = true };
    gossip_msg_write(b, GOSSIP_PULL, &m);
    for (unsigned i = 0; i < nodes; i++) {
        m = (struct gossip_msg){ .node = STR("some-name"),
                                 .port = 1,
                                 .vsn_len = 6,
                                 .addr = { .b = { 10, 0, 0, 1 }, .n = 4 } };
        gossip_record_write(b, &m);
    }
    for (unsigned i = 0; i < user; i++) {
        (void)buf_addc(b, 'u');
    }
}

/* However it is cut, it is whole with its last byte and not before. */
static void cuts(const char *label, const char *keys_text, struct str msg, bool dialler)
{
    struct gossip_layers a, b;
    AUTO_BUF struct buf wire = BUF_INIT(1 << 24);
    struct str got;
    layers_of(&a, label, keys_text);
    layers_of(&b, label, keys_text);
    assert_int_equal(gossip_wrap_stream(&a, msg, dialler, &wire), 0);
    struct gossip_reader r = { .dialler = !dialler };
    size_t step = wire.len > 4000 ? 97 : 1;
    for (size_t n = 0; n < wire.len; n += step) {
        assert_int_equal(gossip_peel_stream(&b, &r, (struct str){ wire.data, n }, &got),
                         GOSSIP_PEEL_MORE);
    }
    assert_int_equal(gossip_peel_stream(&b, &r, buf_str(&wire), &got), GOSSIP_PEEL_OK);
    assert_int_equal(got.n, msg.n);
    assert_memory_equal(got.p, msg.p, msg.n);
    gossip_layers_release(&a);
    gossip_layers_release(&b);
}

static void streams(void **state)
{
    AUTO_BUF struct buf b = BUF_INIT(1 << 24);
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        const char *label = (i & 1) != 0 ? "lab" : "";
        const char *k = (i & 2) != 0 ? KEY32 : NULL;
        bool dialler = (i & 4) != 0;
        buf_reset(&b);
        view(&b, 1, 3);
        cuts(label, k, buf_str(&b), dialler);
        buf_reset(&b);
        view(&b, 300, 0);
        cuts(label, k, buf_str(&b), dialler);
        buf_reset(&b);
        gossip_user_header_write(&b, 5);
        (void)buf_adds(&b, "\x41zzzz");
        cuts(label, k, buf_str(&b), dialler);
        buf_reset(&b);
        const struct gossip_msg ack = { .seq = 7 };
        gossip_msg_write(&b, GOSSIP_ACK, &ack);
        cuts(label, k, buf_str(&b), dialler);
    }
}

/* A view that comes byte by byte is not read again from its beginning: without compression. */
static void plain_view_in_pieces(void **state)
{
    struct gossip_layers l;
    AUTO_BUF struct buf b = BUF_INIT(1 << 24);
    struct gossip_reader r = { .dialler = true };
    struct str got;
    (void)state;
    layers_of(&l, "", NULL);
    view(&b, 200, 10);
    for (size_t n = 1; n < b.len; n++) {
        assert_int_equal(gossip_peel_stream(&l, &r, (struct str){ b.data, n }, &got),
                         GOSSIP_PEEL_MORE);
    }
    assert_int_equal(r.left, 0);
    assert_int_equal(gossip_peel_stream(&l, &r, buf_str(&b), &got), GOSSIP_PEEL_OK);
    assert_int_equal(got.n, b.len);
    gossip_layers_release(&l);
}

static enum gossip_peel stream_is(const char *label, const char *k, struct str in)
{
    struct gossip_layers l;
    struct gossip_reader r = { .dialler = false };
    struct str got;
    layers_of(&l, label, k);
    enum gossip_peel rc = gossip_peel_stream(&l, &r, in, &got);
    gossip_layers_release(&l);
    return rc;
}

static void bad_streams(void **state)
{
    AUTO_BUF struct buf b = BUF_INIT(1 << 24);
    (void)state;
    assert_int_equal(stream_is("", NULL, STR("GET / HTTP/1.1\r\n\r\n")), GOSSIP_PEEL_MALFORMED);
    assert_int_equal(stream_is("", NULL, STR("\xf4\x03xyz\x06")), GOSSIP_PEEL_LABEL);
    assert_int_equal(stream_is("xyz", NULL, STR("\x06\x83")), GOSSIP_PEEL_LABEL);
    assert_int_equal(stream_is("", NULL, STR("\xf4\x00\x06")), GOSSIP_PEEL_LABEL);
    assert_int_equal(stream_is("", KEY16, STR("\x06\x83")), GOSSIP_PEEL_CRYPT);
    assert_int_equal(stream_is("", NULL, STR("\x0a\0\0\0\x20")), GOSSIP_PEEL_CRYPT);
    assert_int_equal(stream_is("", KEY16, STR("\x0a\xff\xff\xff\xff")), GOSSIP_PEEL_MALFORMED);
    assert_int_equal(stream_is("", KEY16,
                               STR("\x0a\0\0\0\x04"
                                   "abcd")),
                     GOSSIP_PEEL_CRYPT);
    assert_int_equal(stream_is("", NULL, STR("\x04\x80")), GOSSIP_PEEL_MALFORMED);
    /* a view of a million, a user message of four gigabytes: not waited for */
    const struct gossip_msg m = { .nodes = UINT32_MAX, .user_len = 1 };
    gossip_msg_write(&b, GOSSIP_PULL, &m);
    assert_int_equal(stream_is("", NULL, buf_str(&b)), GOSSIP_PEEL_MALFORMED);
    buf_reset(&b);
    gossip_user_header_write(&b, UINT32_MAX);
    assert_int_equal(stream_is("", NULL, buf_str(&b)), GOSSIP_PEEL_MALFORMED);
    /* a record that never ends */
    buf_reset(&b);
    view(&b, 1, 0);
    b.len -= 60;
    for (size_t i = 0; i < GOSSIP_RECORD_MAX; i++) {
        (void)buf_add_u8(&b, 0xC1);
    }
    assert_int_equal(stream_is("", NULL, buf_str(&b)), GOSSIP_PEEL_MALFORMED);
}

static void names(void **state)
{
    (void)state;
    for (int p = 0; p < GOSSIP_PEELS; p++) {
        assert_string_not_equal(gossip_peel_name((enum gossip_peel)p), "?");
    }
    assert_string_equal(gossip_peel_name(GOSSIP_PEELS), "?");
}

static void random_bytes(void **state)
{
    struct gossip_layers plain, keyed;
    struct rng r;
    struct str got;
    (void)state;
    rng_init(&r, test_seed("random_bytes"));
    layers_of(&plain, "", NULL);
    layers_of(&keyed, "lab", KEY16);
    for (int i = 0; i < 20000; i++) {
        uint8_t b[200];
        size_t n = rng_below(&r, sizeof(b));
        for (size_t k = 0; k < n; k++) {
            b[k] = (uint8_t)rng_below(&r, k == 0 ? 16 : 256);
        }
        struct str in = { (const char *)b, n };
        struct gossip_reader reader = { .dialler = false };
        (void)gossip_peel_packet(&plain, in, &got);
        assert_int_not_equal(gossip_peel_packet(&keyed, in, &got), GOSSIP_PEEL_OK);
        (void)gossip_peel_stream(&plain, &reader, in, &got);
    }
    gossip_layers_release(&plain);
    gossip_layers_release(&keyed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys),
        cmocka_unit_test(packets),
        cmocka_unit_test(rotation),
        cmocka_unit_test(tampering),
        cmocka_unit_test(nonces),
        cmocka_unit_test(check_sums),
        cmocka_unit_test(compressed),
        cmocka_unit_test(streams),
        cmocka_unit_test(plain_view_in_pieces),
        cmocka_unit_test(bad_streams),
        cmocka_unit_test(names),
        cmocka_unit_test(random_bytes),
    };
    return cmocka_run_group_tests_name("gossip_layers", tests, NULL, NULL);
}
