/* What parses is written, parses again, and is written the same; the first byte chooses limits and
 * layout. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/insist.h"
#include "common/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO_JSON struct json_doc *doc = NULL;
    AUTO_JSON struct json_doc *again = NULL;
    AUTO_BUF struct buf first = BUF_INIT(1 << 24);
    AUTO_BUF struct buf second = BUF_INIT(1 << 24);
    struct json_limits limits = { .depth_max = 256, .nodes_max = 1 << 20 };
    struct err e = { 0 };
    struct json_w w;

    if (size == 0) {
        return 0;
    }
    if ((data[0] & 1) != 0) {
        limits = (struct json_limits){ .depth_max = 4, .nodes_max = 16 };
    }
    int r = json_parse(data + 1, size - 1, &limits, &doc, &e);
    if (r != 0) {
        INSIST(doc == NULL && (r == -EINVAL || r == -E2BIG));
        INSIST(strncmp(err_text(&e), "line ", 5) == 0);
        return 0;
    }
    json_w_init(&w, &first, (data[0] & 2) != 0);
    json_w_value(&w, json_root(doc));
    INSIST(buf_error(&first) == 0 && str_is_utf8(buf_str(&first)));
    INSIST(json_parse(first.data, first.len, &limits, &again, &e) == 0);
    json_w_init(&w, &second, (data[0] & 2) != 0);
    json_w_value(&w, json_root(again));
    INSIST(strcmp(buf_cstr(&first), buf_cstr(&second)) == 0);
    return 0;
}
