/* Token texts, Authorization headers and tokens files: what is read, written and read again is the
 * same; what is refused names its line and never shows a token. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/insist.h"
#include "common/token.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void header(struct str text)
{
    char token[TOKEN_TEXT_CAP];
    for (int basic = 0; basic < 2; basic++) {
        if (token_from_header(text, basic != 0, token) == 0) {
            size_t n = strlen(token);
            INSIST(n > 0 && n < TOKEN_TEXT_CAP);
            uint8_t hash[TOKEN_HASH_BYTES];
            INSIST(token_text_check((struct str){ token, n }) <= 0);
            INSIST(token_hash((struct str){ token, n }, hash) == 0);
        }
    }
}

static void file(struct str text)
{
    AUTO_TOKEN_TABLE struct token_table *table = NULL;
    AUTO_TOKEN_TABLE struct token_table *again = NULL;
    AUTO_BUF struct buf out = BUF_INIT(4 * 1024 * 1024);
    struct err e = { .code = 0 };
    if (token_table_parse("f", text, &table, &e) != 0) {
        INSIST(strncmp(err_text(&e), "f:", 2) == 0);
        INSIST(strstr(err_text(&e), "agt_") == NULL || strstr(err_text(&e), "agt_...") != NULL);
        return;
    }
    for (size_t i = 0; i < token_table_len(table); i++) {
        const struct token *t = token_table_at(table, i);
        INSIST(token_table_find(table, t->hash) == t);
        token_line_write(&out, t);
    }
    INSIST(token_table_parse("g", buf_str(&out), &again, &e) == 0);
    INSIST(token_table_len(again) == token_table_len(table));
    for (size_t i = 0; i < token_table_len(table); i++) {
        INSIST(memcmp(token_table_at(again, i), token_table_at(table, i), sizeof(struct token)) ==
               0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = { (const char *)data, size };
    (void)token_text_check(text);
    header(text);
    file(text);
    return 0;
}
