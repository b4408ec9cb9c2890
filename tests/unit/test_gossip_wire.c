/* Messages, compounds, LZW and CRC, against bytes that memberlist itself produced. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/gossip/gossip_wire.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/msgpack.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

static const struct gossip_ip ip = { .b = { 127, 0, 0, 11 }, .n = 4 };

static struct str hex(const char *text, uint8_t *dst)
{
    size_t n = 0;
    while (*text != '\0') {
        if (*text == ' ') {
            text++;
            continue;
        }
        assert_int_equal(str_unhex((struct str){ text, 2 }, dst + n, 1), 0);
        text += 2;
        n++;
    }
    return (struct str){ (const char *)dst, n };
}

static void same(struct buf *b, const char *text)
{
    uint8_t want[512];
    struct str s = hex(text, want);
    assert_int_equal(buf_error(b), 0);
    assert_int_equal(b->len, s.n);
    assert_memory_equal(b->data, s.p, s.n);
    buf_reset(b);
}

#define NODE "a4 4e6f6465 a2 6e31"
#define SEQ "a5 5365714e6f"
#define SOURCE_ADDR "aa 536f7572636541646472 a4 7f00000b"
#define SOURCE_NODE "aa 536f757263654e6f6465 a2 6e32"
#define SOURCE_PORT "aa 536f75726365506f7274"
#define INCARNATION "ab 496e6361726e6174696f6e"

static void probes(void **state)
{
    AUTO_BUF struct buf b = BUF_INIT(4096);
    struct gossip_msg m = { .seq = 1, .node = STR("n1") };
    (void)state;
    gossip_msg_write(&b, GOSSIP_PING, &m);
    assert_int_equal(b.len, 15 + 2);
    same(&b, "00 82 " NODE SEQ "01");
    m = (struct gossip_msg){
        .seq = 70000, .node = STR("n1"), .src = ip, .src_port = 7946, .src_node = STR("n2")
    };
    gossip_msg_write(&b, GOSSIP_PING, &m);
    same(&b, "00 85 " NODE SEQ "ce00011170" SOURCE_ADDR SOURCE_NODE SOURCE_PORT "cd1f0a");
    m = (struct gossip_msg){ .seq = 300,
                             .target = ip,
                             .port = 7946,
                             .node = STR("n1"),
                             .nack = true,
                             .src = ip,
                             .src_port = 200,
                             .src_node = STR("n2") };
    gossip_msg_write(&b, GOSSIP_INDIRECT, &m);
    same(&b, "01 88 a44e61636b c3" NODE "a4506f7274 cd1f0a" SEQ
             "cd012c" SOURCE_ADDR SOURCE_NODE SOURCE_PORT "ccc8 a6546172676574 a47f00000b");
    m = (struct gossip_msg){ .seq = 128 };
    gossip_msg_write(&b, GOSSIP_ACK, &m);
    same(&b, "02 82 a75061796c6f6164 c0" SEQ "cc80");
    m = (struct gossip_msg){ .seq = 5 };
    gossip_msg_write(&b, GOSSIP_NACK, &m);
    same(&b, "0b 81" SEQ "05");
    m = (struct gossip_msg){ .error = STR("boom") };
    gossip_msg_write(&b, GOSSIP_ERROR, &m);
    same(&b, "0d 81 a54572726f72 a4626f6f6d");
}

static void states(void **state)
{
    AUTO_BUF struct buf b = BUF_INIT(4096);
    struct gossip_msg m = { .incarnation = 1, .node = STR("n1"), .from = STR("n2") };
    static const uint8_t vsn[6] = { 1, 5, 2, 0, 0, 0 };
    (void)state;
    gossip_msg_write(&b, GOSSIP_MSG_SUSPECT, &m);
    same(&b, "03 83 a446726f6d a26e32" INCARNATION "01" NODE);
    m.from = m.node;
    gossip_msg_write(&b, GOSSIP_MSG_DEAD, &m);
    same(&b, "05 83 a446726f6d a26e31" INCARNATION "01" NODE);
    m = (struct gossip_msg){
        .incarnation = 1, .node = STR("n1"), .addr = ip, .port = 7946, .vsn_len = 6
    };
    memcpy(m.vsn, vsn, 6);
    gossip_msg_write(&b, GOSSIP_MSG_ALIVE, &m);
    assert_int_equal(b.len, 56 + 2);
    same(&b, "04 86 a441646472 a47f00000b" INCARNATION "01 a44d657461 c0" NODE
             "a4506f7274 cd1f0a a356736e a6010502000000");
    m = (struct gossip_msg){ .nodes = 3, .join = true };
    gossip_msg_write(&b, GOSSIP_PULL, &m);
    same(&b, "06 83 a44a6f696e c3 a54e6f646573 03 ac5573657253746174654c656e 00");
    m = (struct gossip_msg){ .node = STR("n1"),
                             .addr = ip,
                             .port = 7946,
                             .meta = STR("m"),
                             .incarnation = 9,
                             .vsn = { 1, 5, 2, 2, 5, 4 },
                             .vsn_len = 6 };
    gossip_record_write(&b, &m);
    same(&b, "87 a441646472 a47f00000b" INCARNATION "09 a44d657461 a16d a44e616d65 a26e31"
             "a4506f7274 cd1f0a a55374617465 00 a356736e a6010502020504");
    gossip_user_header_write(&b, 1);
    same(&b, "08 81 aa557365724d73674c656e 01");
}

static bool reads(const char *text, enum gossip_type type, struct gossip_msg *m)
{
    static uint8_t bytes[512];
    struct cur c;
    struct str s = hex(text, bytes);
    cur_init(&c, s.p, s.n);
    return gossip_msg_read(&c, type, m);
}

static void dialects(void **state)
{
    struct gossip_msg m;
    (void)state;
    /* counts as newer and older peers write them */
    assert_true(reads("83 a44a6f696e c2 a54e6f646573 ccc8 ac5573657253746174654c656e ce00011170",
                      GOSSIP_PULL, &m));
    assert_int_equal(m.nodes, 200);
    assert_int_equal(m.user_len, 70000);
    assert_true(reads("83 a44a6f696e c2 a54e6f646573 d100c8 ac5573657253746174654c656e d200011170",
                      GOSSIP_PULL, &m));
    assert_int_equal(m.nodes, 200);
    assert_int_equal(m.user_len, 70000);
    /* str8, bin8, bin16, wide maps, any order, unknown keys with deep values, nil, arrays */
    assert_true(reads("de0003 d905 5365714e6f 07 c404 4e6f6465 c40002 c0 c0", GOSSIP_PING, &m) ==
                false);
    assert_true(reads("de0002 d905 5365714e6f 07 c404 4e6f6465 c4026e31", GOSSIP_PING, &m));
    assert_int_equal(m.seq, 7);
    assert_true(str_eqs(m.node, "n1"));
    assert_true(reads("83 a178 82a161 93010203 a162 81a163c3 " NODE SEQ "d307ffffffffffffff",
                      GOSSIP_PING, &m) == false);
    assert_true(reads("83 a178 82a161 93010203 a162 81a163c3 " NODE SEQ "d30000000007ffffff",
                      GOSSIP_PING, &m));
    assert_int_equal(m.seq, 0x7ffffff);
    assert_true(reads("81 a356736e 96010502000000", GOSSIP_MSG_ALIVE, &m));
    assert_int_equal(m.vsn_len, 6);
    assert_int_equal(m.vsn[1], 5);
    assert_true(reads("80", GOSSIP_ACK, &m));
    assert_int_equal(m.seq, 0);
    /* lower-case keys are unknown ones; what follows is left alone */
    assert_true(reads("81 a5 7365714e6f 09 ff", GOSSIP_ACK, &m));
    assert_int_equal(m.seq, 0);
}

static void malformed(void **state)
{
    struct gossip_msg m;
    static const char *const bad[] = {
        "",
        "82",
        "82 " NODE,
        "82 " NODE SEQ,
        "82 " NODE SEQ "d0ff",
        "82 " NODE SEQ "ca00000000",
        "82 " NODE SEQ "cf0000000100000000",
        "91 01",
        "df ffffffff",
        "82 a4 4e6f6465 dbffffffff 6e",
        "81 05 05",
        "81 a0",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(reads(bad[i], GOSSIP_PING, &m));
    }
    assert_false(reads("81 a441646472 a3 010203", GOSSIP_MSG_ALIVE, &m));
    assert_false(reads("81 a4506f7274 ce00010000", GOSSIP_MSG_ALIVE, &m));
    assert_false(reads("80", GOSSIP_COMPOUND, &m));
    assert_false(reads("80", GOSSIP_USER, &m));
    assert_false(reads("80", (enum gossip_type)200, &m));
    /* seventeen maps in each other */
    assert_false(reads("81 a178 81a1 78 81a178 81a178 81a178 81a178 81a178 81a178 81a178 81a178"
                       "81a178 81a178 81a178 81a178 81a178 81a178 81a178 81a178 81a178 00",
                       GOSSIP_PING, &m));
}

static void compounds(void **state)
{
    uint8_t bytes[64];
    struct gossip_parts p;
    struct cur c;
    struct str s = hex("02 0003 0002 616263 6465", bytes);
    struct str part;
    (void)state;
    cur_init(&c, s.p, s.n);
    assert_true(gossip_parts_init(&p, &c));
    assert_true(gossip_parts_next(&p, &part));
    assert_true(str_eqs(part, "abc"));
    assert_true(gossip_parts_next(&p, &part));
    assert_true(str_eqs(part, "de"));
    assert_false(gossip_parts_next(&p, &part));
    assert_int_equal(p.left, 0);
    /* cut short: the complete ones count */
    cur_init(&c, s.p, s.n - 1);
    assert_true(gossip_parts_init(&p, &c));
    assert_true(gossip_parts_next(&p, &part));
    assert_false(gossip_parts_next(&p, &part));
    assert_int_equal(p.left, 1);
    cur_init(&c, s.p, 4);
    assert_false(gossip_parts_init(&p, &c));
}

static void unpacks(const char *packed, const char *plain, size_t n)
{
    AUTO_BUF struct buf b = BUF_INIT(1 << 20);
    uint8_t bytes[256];
    struct str in = hex(packed, bytes);
    assert_int_equal(gossip_lzw_unpack(in, 1 << 16, &b), 0);
    assert_int_equal(b.len, n);
    assert_int_equal(memcmp(buf_cstr(&b), plain, n), 0);
    buf_reset(&b);
    assert_int_equal(gossip_lzw_pack((struct str){ plain, n }, &b), 0);
    same(&b, packed);
}

static void lzw_vectors(void **state)
{
    char many[50];
    AUTO_BUF struct buf b = BUF_INIT(4096);
    struct gossip_msg m = { .algo = 0 };
    (void)state;
    memset(many, 'a', sizeof(many));
    unpacks("000302", "", 0);
    unpacks("00c30404", "a", 1);
    unpacks("00c3880908", "ab", 2);
    unpacks("00c3080c08", "aaa", 3);
    unpacks("00a93c1152e48914274fa80824687061c183090302", "TOBEORNOTTOBEORTOBEORNOT", 24);
    unpacks("00c3081c48b0a0c1830813160c08", many, sizeof(many));
    assert_int_equal(gossip_lzw_pack((struct str){ many, sizeof(many) }, &b), 0);
    AUTO_BUF struct buf whole = BUF_INIT(4096);
    m.buf = buf_str(&b);
    gossip_msg_write(&whole, GOSSIP_COMPRESSED, &m);
    same(&whole, "09 82 a4416c676f 00 a3427566 ae 00c3081c48b0a0c1830813160c08");
}

static void lzw_round_trips(void **state)
{
    struct rng r;
    (void)state;
    rng_init(&r, test_seed("lzw_round_trips"));
    for (int round = 0; round < 60; round++) {
        AUTO_BUF struct buf packed = BUF_INIT(1 << 22);
        AUTO_BUF struct buf back = BUF_INIT(1 << 22);
        size_t n = rng_below(&r, round < 40 ? 300 : 200000);
        unsigned letters = 1 + (unsigned)rng_below(&r, 256);
        AUTO_MEM char *plain = mem_alloc(n + 1);
        for (size_t i = 0; i < n; i++) {
            plain[i] = (char)rng_below(&r, letters);
        }
        assert_int_equal(gossip_lzw_pack((struct str){ plain, n }, &packed), 0);
        assert_int_equal(gossip_lzw_unpack(buf_str(&packed), n, &back), 0);
        assert_int_equal(back.len, n);
        assert_int_equal(memcmp(buf_cstr(&back), plain, n), 0);
        buf_reset(&back);
        if (n > 0) {
            assert_int_equal(gossip_lzw_unpack(buf_str(&packed), n - 1, &back), -EFBIG);
        }
        /* every cut is noticed */
        buf_reset(&back);
        struct str cut = { buf_cstr(&packed), rng_below(&r, packed.len) };
        assert_int_equal(gossip_lzw_unpack(cut, n, &back), -EBADMSG);
    }
}

/* A bomb stops at its cap, having used no more memory than that. */
static void lzw_bomb(void **state)
{
    AUTO_BUF struct buf plain = BUF_INIT(16 << 20);
    AUTO_BUF struct buf packed = BUF_INIT(1 << 22);
    AUTO_BUF struct buf back = BUF_INIT(1 << 17);
    (void)state;
    memset(buf_reserve(&plain, 8 << 20), 0, 8 << 20);
    buf_grow(&plain, 8 << 20);
    assert_int_equal(gossip_lzw_pack(buf_str(&plain), &packed), 0);
    assert_true(packed.len < 64 << 10);
    assert_int_equal(gossip_lzw_unpack(buf_str(&packed), 65536, &back), -EFBIG);
    assert_true(back.len <= 65536);
}

static void no_memory(void **state)
{
    AUTO_BUF struct buf b = BUF_INIT(4096);
    (void)state;
    for (int after = 0; after < 2; after++) {
        mem_fail_after(after, 1);
        int pack = gossip_lzw_pack(STR("abcabc"), &b);
        mem_fail_after(-1, 0);
        assert_int_equal(pack, -ENOMEM);
        buf_release(&b);
        uint8_t bytes[16];
        mem_fail_after(after, 1);
        int unpack = gossip_lzw_unpack(hex("00c3880908", bytes), 100, &b);
        mem_fail_after(-1, 0);
        assert_int_equal(unpack, -ENOMEM);
        buf_release(&b);
    }
}

static void crc(void **state)
{
    (void)state;
    assert_int_equal(gossip_crc32("123456789", 9), 0xCBF43926);
    assert_int_equal(gossip_crc32("", 0), 0);
}

static void msgpack_numbers(void **state)
{
    static const uint64_t values[] = { 0,          1,           0x7F,       0x80,
                                       0xFF,       0x100,       0xFFFF,     0x10000,
                                       0xFFFFFFFF, 0x100000000, 1ULL << 40, INT64_MAX };
    AUTO_BUF struct buf b = BUF_INIT(65536 * 2);
    struct cur c;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        buf_reset(&b);
        msgpack_put_uint(&b, values[i]);
        cur_init(&c, b.data, b.len);
        assert_true(msgpack_uint(&c, UINT64_MAX - 1) == values[i]);
        assert_true(cur_done(&c));
        cur_init(&c, b.data, b.len);
        msgpack_skip(&c);
        assert_true(cur_done(&c));
        if (values[i] > 0) {
            cur_init(&c, b.data, b.len);
            assert_true(msgpack_uint(&c, values[i] - 1) == 0);
            assert_false(cur_ok(&c));
        }
    }
    static const size_t lens[] = { 0, 1, 31, 32, 255, 256, 65535, 65536 };
    char *text = mem_zalloc(65536);
    for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
        buf_reset(&b);
        msgpack_put_bytes(&b, (struct str){ text, lens[i] });
        cur_init(&c, b.data, b.len);
        assert_int_equal(msgpack_bytes(&c).n, lens[i]);
        assert_true(cur_done(&c));
    }
    mem_free(text);
    /* every kind of value can be skipped */
    uint8_t bytes[256];
    struct str all =
        hex("dc0012 00 ff c0 c2 ca00000000 cb0000000000000000 d0ff d3ffffffffffffffff"
            "d4 01 02 d8 01 00112233445566778899aabbccddeeff c7 02 01 aabb c80001 01 aa"
            "c900000001 01 aa d901 61 da0001 61 dd00000001 c3 df00000001 01 02 90",
            bytes);
    cur_init(&c, all.p, all.n);
    msgpack_skip(&c);
    assert_true(cur_done(&c));
    uint8_t never[] = { 0xC1 };
    cur_init(&c, never, 1);
    msgpack_skip(&c);
    assert_false(cur_ok(&c));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probes),          cmocka_unit_test(states),
        cmocka_unit_test(dialects),        cmocka_unit_test(malformed),
        cmocka_unit_test(compounds),       cmocka_unit_test(lzw_vectors),
        cmocka_unit_test(lzw_round_trips), cmocka_unit_test(lzw_bomb),
        cmocka_unit_test(no_memory),       cmocka_unit_test(crc),
        cmocka_unit_test(msgpack_numbers),
    };
    return cmocka_run_group_tests_name("gossip_wire", tests, NULL, NULL);
}
