#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/digest.h"
#include "common/insist.h"
#include "common/mem.h"

static const char abc[] = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
static const char abc512[] =
    "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
    "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

static void one_shot(void **state)
{
    struct digest d;
    char text[DIGEST_TEXT_CAP];
    (void)state;
    assert_int_equal(digest_of(DIGEST_SHA256, "abc", 3, &d), 0);
    assert_string_equal(digest_format(&d, text), abc);
    assert_string_equal(digest_hex(&d, text), abc + 7);
    assert_int_equal(digest_of(DIGEST_SHA512, "abc", 3, &d), 0);
    assert_string_equal(digest_format(&d, text), abc512);
    assert_int_equal(digest_of(DIGEST_SHA256, NULL, 0, &d), 0);
    assert_string_equal(digest_format(&d, text),
                        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void streaming_and_reuse(void **state)
{
    (void)state;
    for (int algo = DIGEST_SHA256; algo <= DIGEST_SHA512; algo++) {
        AUTO_DIGEST_CTX struct digest_ctx *c = NULL;
        struct digest d;
        char text[DIGEST_TEXT_CAP];
        const char *want = algo == DIGEST_SHA256 ? abc : abc512;
        assert_int_equal(digest_ctx_new((enum digest_algo)algo, &c), 0);
        for (int round = 0; round < 3; round++) {
            digest_ctx_update(c, "junk", 4);
            digest_ctx_reset(c);
            digest_ctx_update(c, "a", 1);
            digest_ctx_update(c, NULL, 0);
            digest_ctx_update(c, "bc", 2);
            digest_ctx_final(c, &d); /* resets, too */
            assert_string_equal(digest_format(&d, text), want);
        }
    }
    assert_null(digest_ctx_free(NULL));
}

static void text_forms(void **state)
{
    struct digest d = { .algo = DIGEST_NONE };
    struct digest other;
    struct err e;
    char text[DIGEST_TEXT_CAP];
    (void)state;
    assert_string_equal(digest_format(&d, text), "");
    assert_int_equal(digest_parse(str_of(abc), &d, &e), 0);
    assert_string_equal(digest_format(&d, text), abc);
    assert_int_equal(digest_parse(str_of(abc512), &other, &e), 0);
    assert_string_equal(digest_format(&other, text), abc512);
    assert_false(digest_eq(&d, &other));
    assert_true(digest_cmp(&d, &other) < 0 && digest_cmp(&other, &d) > 0);
    other = d;
    assert_true(digest_eq(&d, &other));
    other.b[31] ^= 1;
    assert_false(digest_eq(&d, &other));

    char bad[200];
    (void)snprintf(bad, sizeof bad, "%s", abc);
    bad[10] = 'B'; /* upper case */
    assert_int_equal(digest_parse(str_of(bad), &d, &e), -EINVAL);
    bad[10] = 'g';
    assert_int_equal(digest_parse(str_of(bad), &d, &e), -EINVAL);
    assert_int_equal(digest_parse(str_slice(str_of(abc), 0, sizeof abc - 2), &d, &e), -EINVAL);
    (void)snprintf(bad, sizeof bad, "%s0", abc);
    assert_int_equal(digest_parse(str_of(bad), &d, &e), -EINVAL);
    (void)snprintf(bad, sizeof bad, "sha512:%s", abc + 7);
    assert_int_equal(digest_parse(str_of(bad), &d, &e), -EINVAL);
    static const char *const malformed[] = {
        "",          ":",           "sha256",       "sha256:",      ":00",
        "SHA256:00", "sha-256:00x", "../sha256:00", "sha256/..:00", "-sha256:00",
        "sha256-:00"
    };
    for (size_t i = 0; i < ARRAY_LEN(malformed); i++) {
        int r = digest_parse(str_of(malformed[i]), &d, &e);
        assert_true(r == -EINVAL || (r == -ENOTSUP && i == 6)); /* sha-256 is a well-formed name */
        assert_true(err_text(&e)[0] != '\0');
    }
    assert_int_equal(digest_parse(STR("blake3:00"), &d, &e), -ENOTSUP);
    assert_int_equal(digest_parse(STR("sha256+b64u.x_1:00"), &d, NULL), -ENOTSUP);
    assert_true(digest_eq(&d, &d));
}

static void keyed(void **state)
{
    /* RFC 4231, test case 2. */
    uint8_t mac[HMAC_SHA256_BYTES];
    char text[65];
    (void)state;
    assert_int_equal(hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, mac), 0);
    str_hex(text, mac, sizeof mac);
    assert_string_equal(text, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    assert_int_equal(hmac_sha256("", 0, NULL, 0, mac), 0);
    str_hex(text, mac, sizeof mac);
    assert_string_equal(text, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void secrets(void **state)
{
    char a[4] = "abc";
    (void)state;
    assert_true(mem_equal_ct("abc", a, 3));
    assert_false(mem_equal_ct("abd", a, 3));
    assert_true(mem_equal_ct("x", "y", 0));
    mem_wipe(a, 3);
    assert_memory_equal(a, "\0\0\0", 4);
    mem_wipe(NULL, 0);
}

static void no_memory(void **state)
{
    struct digest_ctx *c = NULL;
    (void)state;
    mem_fail_after(0, 0);
    assert_int_equal(digest_ctx_new(DIGEST_SHA256, &c), -ENOMEM);
    mem_fail_after(-1, 0);
    assert_null(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_shot),   cmocka_unit_test(streaming_and_reuse),
        cmocka_unit_test(text_forms), cmocka_unit_test(keyed),
        cmocka_unit_test(secrets),    cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests_name("digest", tests, NULL, NULL);
}
