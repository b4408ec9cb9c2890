/* The document of a new token, and the line that it becomes: whatever is taken is written as a line
 * that reads back the same, and no sentence shows a token. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/api/api_token.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same_again(const struct token *t)
{
    AUTO_BUF struct buf line = BUF_INIT(4096);
    struct token again;
    struct err e = { .code = 0 };
    token_line_write(&line, t);
    if (buf_error(&line) != 0) {
        abort();
    }
    if (token_line_parse(str_trim(buf_str(&line)), &again, &e) != 0 ||
        strcmp(again.name, t->name) != 0 || strcmp(again.prefix, t->prefix) != 0 ||
        strcmp(again.by, t->by) != 0 || again.scopes != t->scopes ||
        again.expires_us != t->expires_us || again.created_us != t->created_us ||
        memcmp(again.hash, t->hash, sizeof(t->hash)) != 0) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = { (const char *)data, size };
    struct token t;
    bool hashed = false;
    struct err e = { .code = 0 };
    if (api_token_parse(text, INT64_C(1800000000000000), &t, &hashed, &e) == 0) {
        same_again(&t);
    } else if (e.text[0] == '\0') {
        abort();
    }
    if (token_line_parse(text, &t, &e) == 0) {
        same_again(&t);
    }
    return 0;
}
