/* Tokens: their text, the header that carries them, scopes, and the file of hashes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/insist.h"
#include "common/mem.h"
#include "common/token.h"

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde"

static void test_text(void **state)
{
    (void)state;
    uint8_t secret[TOKEN_SECRET_BYTES] = { 0 };
    char text[TOKEN_TEXT_CAP];
    token_format(secret, text);
    assert_int_equal(strlen(text), TOKEN_TEXT_LEN);
    assert_memory_equal(text, "agt_aaaaaaaaaaaaaaaa", 20);
    assert_int_equal(token_text_check(str_of(text)), 0);
    memset(secret, 0xff, sizeof(secret));
    token_format(secret, text);
    /* 256 bits of ones and four zero bits behind them. */
    assert_memory_equal(text, "agt_777777777777777777777777777777777777777777777777777q", 56);
    assert_int_equal(token_text_check(str_of(text)), 0);
    for (size_t i = 0; i < sizeof(secret); i++) {
        secret[i] = (uint8_t)(i * 37 + 1);
    }
    token_format(secret, text);
    for (size_t i = 4; i < TOKEN_TEXT_LEN; i++) {
        char was = text[i];
        text[i] = was == 'a' ? 'b' : 'a';
        assert_int_equal(token_text_check(str_of(text)), -EILSEQ);
        text[i] = '1';
        assert_int_equal(token_text_check(str_of(text)), -EILSEQ);
        text[i] = was;
    }
    char swapped = text[10];
    text[10] = text[11];
    text[11] = swapped;
    assert_int_equal(token_text_check(str_of(text)), -EILSEQ);
    assert_int_equal(token_text_check(STR("")), -EINVAL);
    assert_int_equal(token_text_check(STR("agt_")), -EINVAL);
    assert_int_equal(token_text_check(STR("ghp_0123456789")), -EINVAL);
    assert_int_equal(token_text_check((struct str){ text, TOKEN_TEXT_LEN - 1 }), -EINVAL);
}

static void test_header(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        bool basic;
        const char *token; /* NULL: refused */
    } rows[] = {
        { "Bearer abc", false, "abc" },
        { "bearer   abc ", false, "abc" },
        { "BEARER abc", true, "abc" },
        { "Bearer", false, NULL },
        { "Bearer ", false, NULL },
        { "Bearerabc", false, NULL },
        { "abc", false, NULL },
        { "Token abc", true, NULL },
        { "Basic eDphYmM=", true, "abc" }, /* x:abc */
        { "basic OmFiYw==", true, "abc" }, /* :abc */
        { "Basic eDphOmI=", true, "a:b" }, /* x:a:b */
        { "Basic eDphYmM=", false, NULL }, /* not here */
        { "Basic eDo=", true, NULL },      /* x: */
        { "Basic eGFiYw==", true, NULL },  /* xabc: no colon */
        { "Basic eDphYmM", true, NULL },   /* cut */
        { "Basic eDphYmN=", true, NULL },  /* bits behind the end */
        { "Basic eDph*mM=", true, NULL },
        { "Basic =", true, NULL },
        { "Basic ====", true, NULL },
        { "Basic eDphAGI=", true, NULL }, /* a NUL */
        { "Basic ", true, NULL },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char token[TOKEN_TEXT_CAP] = "untouched";
        int rc = token_from_header(str_of(rows[i].value), rows[i].basic, token);
        if (rows[i].token == NULL) {
            assert_int_equal(rc, -EINVAL);
        } else {
            assert_int_equal(rc, 0);
            assert_string_equal(token, rows[i].token);
        }
    }
    char big[1024] = "Basic ";
    char token[TOKEN_TEXT_CAP];
    memset(big + 6, 'A', sizeof(big) - 7 - 1);
    big[sizeof(big) - 2] = '\0';
    assert_int_equal(token_from_header(str_of(big), true, token), -EINVAL);
    memcpy(big, "Bearer ", 7);
    assert_int_equal(token_from_header(str_of(big), true, token), -EINVAL);
}

static void test_scopes(void **state)
{
    (void)state;
    unsigned set = 0;
    struct err e = { 0 };
    AUTO_BUF struct buf out = BUF_INIT(256);
    assert_int_equal(token_scopes_parse(STR("submit,read"), &set, &e), 0);
    assert_int_equal(set, TOKEN_READ | TOKEN_SUBMIT);
    token_scopes_write(&out, set);
    assert_string_equal(buf_cstr(&out), "read,submit");
    assert_int_equal(token_scopes_parse(STR("read,write"), &set, &e), -EINVAL);
    assert_non_null(strstr(e.text, "'write'"));
    assert_int_equal(token_scopes_parse(STR(""), &set, &e), -EINVAL);
    assert_int_equal(token_scopes_parse(STR("read,,push"), &set, &e), -EINVAL);
    assert_int_equal(token_scopes_parse(STR("agt_secret"), &set, &e), -EINVAL);
    assert_null(strstr(e.text, "secret"));
    /* Only admin implies anything. */
    for (unsigned has = 1; has <= TOKEN_ADMIN; has <<= 1) {
        for (unsigned needs = 1; needs <= TOKEN_ADMIN; needs <<= 1) {
            const struct token t = { .scopes = has };
            assert_int_equal(token_has(&t, needs), has == needs || has == TOKEN_ADMIN);
            assert_true(token_has(&t, 0));
        }
    }
    const struct token t = { .prefix = "team-" };
    assert_true(token_covers(&t, STR("team-a")));
    assert_false(token_covers(&t, STR("team")));
    assert_false(token_covers(&t, STR("other")));
    assert_true(token_covers(&(struct token){ .prefix = "" }, STR("")));
}

static void test_file(void **state)
{
    (void)state;
    static const char text[] = "# people\n\n"
                               "ci  read,submit\tprefix=team/ sha256:" HEX "1\r\n"
                               "ops admin expires=2027-01-31T00:00:00Z sha256:" HEX "2\n"
                               "  last push sha256:" HEX "3";
    AUTO_TOKEN_TABLE struct token_table *table = NULL;
    struct err e = { 0 };
    AUTO_BUF struct buf out = BUF_INIT(4096);
    assert_int_equal(token_table_parse("f", str_of(text), &table, &e), 0);
    assert_int_equal(token_table_len(table), 3);
    const struct token *ci = token_table_at(table, 0);
    assert_string_equal(ci->name, "ci");
    assert_string_equal(ci->prefix, "team/");
    assert_int_equal(ci->scopes, TOKEN_READ | TOKEN_SUBMIT);
    assert_false(token_expired(ci, INT64_MAX));
    const struct token *ops = token_table_at(table, 1);
    assert_int_equal(ops->expires_us, INT64_C(1801353600000000));
    assert_false(token_expired(ops, ops->expires_us - 1));
    assert_true(token_expired(ops, ops->expires_us));
    for (size_t i = 0; i < 3; i++) {
        assert_ptr_equal(token_table_find(table, token_table_at(table, i)->hash),
                         token_table_at(table, i));
    }
    uint8_t other[TOKEN_HASH_BYTES];
    memcpy(other, ci->hash, sizeof(other));
    other[31] ^= 1;
    assert_null(token_table_find(table, other));
    token_line_write(&out, ops);
    assert_string_equal(buf_cstr(&out),
                        "ops admin expires=2027-01-31T00:00:00.000000Z sha256:" HEX "2\n");
}

static void bad(const char *text, const char *said)
{
    AUTO_TOKEN_TABLE struct token_table *table = NULL;
    struct err e = { 0 };
    assert_true(token_table_parse("f", str_of(text), &table, &e) < 0);
    assert_null(table);
    if (strstr(e.text, said) == NULL) {
        fail_msg("'%s' does not say '%s'", e.text, said);
    }
}

static void test_bad_files(void **state)
{
    (void)state;
    bad("ci", "f:1: ");
    bad("#\n\nci read", "f:3: there is no sha256");
    bad("ci read sha256:" HEX, "64 hex");
    bad("ci read sha256:" HEX "g", "64 hex");
    bad("ci read sha256:" HEX "1 sha256:" HEX "1", "twice");
    bad("ci read prefix=a prefix=b sha256:" HEX "1", "twice");
    bad("ci read prefix= sha256:" HEX "1", "a prefix has");
    bad("ci read prefix=a* sha256:" HEX "1", "a prefix has");
    bad("ci read expires=tomorrow sha256:" HEX "1", "expires= takes");
    bad("ci write sha256:" HEX "1", "'write' is no scope");
    bad("ci sha256:" HEX "1", "is no scope");
    bad("-ci read sha256:" HEX "1", "a token's name");
    bad("c:i read sha256:" HEX "1", "a token's name");
    bad("agt_abc read sha256:" HEX "1", "a token's name");
    bad("ci admin prefix=a sha256:" HEX "1", "takes no prefix");
    bad("a read sha256:" HEX "1\na push sha256:" HEX "2", "f:2: the name 'a' is there twice");
    bad("a read sha256:" HEX "1\nb push sha256:" HEX "1", "f:2: 'b' is the same token as 'a'");
}

static void test_caps(void **state)
{
    (void)state;
    AUTO_BUF struct buf text = BUF_INIT(2 * 1024 * 1024);
    AUTO_TOKEN_TABLE struct token_table *table = NULL;
    struct err e = { 0 };
    for (unsigned i = 0; i < TOKEN_ENTRIES_MAX; i++) {
        (void)buf_addf(&text, "t%u read sha256:%064x\n", i, i);
    }
    assert_int_equal(token_table_parse("f", buf_str(&text), &table, &e), 0);
    assert_int_equal(token_table_len(table), TOKEN_ENTRIES_MAX);
    table = token_table_free(table);
    (void)buf_addf(&text, "more read sha256:%064x\n", TOKEN_ENTRIES_MAX);
    assert_int_equal(token_table_parse("f", buf_str(&text), &table, &e), -E2BIG);
    assert_non_null(strstr(e.text, "f:4097: more than 4096"));
    while (text.len <= TOKEN_FILE_MAX) {
        (void)buf_adds(&text, "################################################\n");
    }
    assert_int_equal(token_table_parse("f", buf_str(&text), &table, &e), -E2BIG);
    assert_int_equal(token_table_parse("f", STR(""), &table, &e), 0);
    assert_int_equal(token_table_len(table), 0);
}

static void test_faults(void **state)
{
    (void)state;
    for (long n = 0;; n++) {
        AUTO_TOKEN_TABLE struct token_table *table = NULL;
        struct err e = { 0 };
        mem_fail_after(n, 0);
        int rc = token_table_parse("f", STR("a read sha256:" HEX "1"), &table, &e);
        mem_fail_after(-1, 0);
        if (rc == 0) {
            assert_true(n > 0);
            break;
        }
        assert_int_equal(rc, -ENOMEM);
        assert_null(table);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),      cmocka_unit_test(test_header),
        cmocka_unit_test(test_scopes),    cmocka_unit_test(test_file),
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_caps),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests_name("token", tests, NULL, NULL);
}
