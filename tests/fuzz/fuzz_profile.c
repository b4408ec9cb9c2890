/* Any bytes as rows of the table: what is taken is a sum of measurements that adds up and gives a
 * finite model, limits and JSON; it survives being written and read again. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/routing/learn.h"
#include "agent/routing/size.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool fine)
{
    if (!fine) {
        abort();
    }
}

static void read_again(struct str value)
{
    struct route_row row = { .revision = 0 };
    struct route_row again = { .revision = 0 };
    struct buf b = BUF_INIT(ROUTE_VALUE_MAX);

    if (route_row_decode(value, &row, NULL) != 0) {
        return;
    }
    route_row_encode(&row, &b);
    /* A row of version 1 is written as one of today's. */
    bool same = b.len == value.n && memcmp(b.data, value.p, b.len) == 0;
    check(buf_error(&b) == 0 && (same || value.p[0] == 1));
    check(route_row_decode(buf_str(&b), &again, NULL) == 0);
    buf_release(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct route_learn_config cfg = { .node = "me", .class_id = "c", .rows_max = 64 };
    struct route_size_ask ask = { .node_max_bytes = 1ULL << 40 };
    struct route_learn *l = NULL;
    struct str rest = { (const char *)data, n };
    struct str name = { "", 0 };
    struct route_candidate c = { .node = STR("x"), .class_id = STR("c"), .slots = 1 };

    if (route_learn_new(&cfg, &l) != 0) {
        return 0;
    }
    /* Rows: one byte of length of the key, the key, two bytes of length, the value. */
    while (rest.n > 3) {
        size_t key_n = (uint8_t)rest.p[0];
        struct str key = str_slice(rest, 1, key_n);
        rest = str_slice(rest, 1 + key_n, rest.n);
        if (rest.n < 2) {
            break;
        }
        size_t value_n = (size_t)(uint8_t)rest.p[0] | (size_t)((uint8_t)rest.p[1] & 3) << 8;
        struct str value = str_slice(rest, 2, value_n);
        rest = str_slice(rest, 2 + value_n, rest.n);
        read_again(value);
        (void)route_learn_put(l, key, value, NULL);
    }
    while (route_learn_next(l, name, &name)) {
        struct buf out = BUF_INIT(1 << 22);
        struct json_w w;
        json_w_init(&w, &out, false);
        check(route_learn_to_json(l, name, &ask, &w));
        check(buf_error(&out) == 0);
        buf_release(&out);
        route_learn_predict(l, name, 1, 0, NULL, &c, 1);
        check(c.run_us > 0 && isfinite(c.learned.spread) && c.learned.spread >= 0);
    }
    route_learn_free(l);
    return 0;
}
