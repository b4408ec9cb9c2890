/* Messages to a shared table: whole ones, and bodies of single parts (digests, deltas, …). Whatever
 * comes, its own rows stay as they are, streams stay in order, hashes and sums are those of what is
 * there, and what it answers is well-formed. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "agent/table/table_internal.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const int64_t WALL_MS = 1790000000000;

static void check_answers(const struct table_effects *fx)
{
    for (size_t i = 0; i < fx->n; i++) {
        if (fx->v[i].type == TABLE_FX_SEND) {
            INSIST(table_message_check(fx->v[i].bytes));
            INSIST(fx->v[i].reliable || fx->v[i].bytes.n <= TABLE_DIRECT_MAX);
        }
    }
}

static void check_streams(const struct table *t)
{
    struct table_stream *s;
    uint64_t root[TABLE_PLANES] = { 0, 0 };
    size_t rows = 0;

    for (size_t i = 0; (s = map_next(&t->streams, &i)) != NULL;) {
        uint64_t before = 0;
        uint64_t content = 0;
        size_t n = 0;
        LIST_EACH (k, &s->rows) {
            const struct table_row *r = LIST_ITEM(k, struct table_row, link);
            INSIST(r->stream == s && r->version > before);
            INSIST(table_row_find(t, r->type, table_row_owner(r), table_row_key(r)) == r);
            before = r->version;
            content += table_row_hash(r);
            n++;
        }
        INSIST(n == s->rows_len && content == s->content);
        INSIST(s->tell <= s->version);
        root[s->kind & TABLE_KIND_VOLATILE] ^= s->hashed;
        rows += n;
    }
    size_t indexed = 0;
    for (size_t type = 0; type < TABLE_TYPES; type++) {
        indexed += t->types[type].n;
    }
    INSIST(indexed == rows && t->index_len == rows);
    INSIST(root[0] == t->planes[0].root && root[1] == t->planes[1].root);
}

static void step(struct table *t, struct table_event ev)
{
    struct table_effects fx;

    ev.wall_ms = WALL_MS + (int64_t)ev.now_ms;
    table_step(t, &ev, &fx);
    check_answers(&fx);
}

static struct table *make(void)
{
    const struct table_config cfg = {
        .name = STR("me"), .epoch = 7, .entropy = 3, .seed = 1, .memory_max = 1024 * 1024
    };
    struct table *t = NULL;
    struct table_effects fx;

    INSIST(table_new(&cfg, &t, NULL) == 0);
    step(t, (struct table_event){ .type = TABLE_EV_MEMBER, .peer = STR("x"), .speaks = true });
    step(t, (struct table_event){ .type = TABLE_EV_MEMBER, .peer = STR("y"), .speaks = true });
    INSIST(table_put(t, 1, WALL_MS, TABLE_TOKEN, STR("mine"), STR("1"), &fx, NULL) == 0);
    INSIST(table_put_node(t, 1, WALL_MS, TABLE_CAPABILITY, STR(""), STR("cpu"), &fx, NULL) == 0);
    INSIST(table_put_node(t, 1, WALL_MS, TABLE_PROFILE, STR("j"), STR("5"), &fx, NULL) == 0);
    return t;
}

/* The first byte: 0 a whole message, else the part whose body follows. */
static void feed(struct table *t, uint64_t now, struct str bytes)
{
    AUTO_BUF struct buf message = BUF_INIT(TABLE_MESSAGE_MAX);
    unsigned part = (unsigned char)bytes.p[0] % 6;
    const struct buf body = { .data = NULL };
    struct buf b = body;

    bytes = str_slice(bytes, 1, bytes.n - 1);
    if (part == 0) {
        (void)buf_addstr(&message, bytes);
    } else {
        buf_init(&b, TABLE_MESSAGE_MAX);
        (void)buf_addstr(&b, bytes);
        table_message_begin(&message);
        table_part_add(&message, (enum table_part)part, &b);
        buf_release(&b);
    }
    step(t, (struct table_event){ .type = TABLE_EV_MESSAGE,
                                  .now_ms = now,
                                  .peer = now % 2 != 0 ? STR("x") : STR("y"),
                                  .bytes = buf_str(&message) });
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct table *t = make();
    struct table_row_view r;
    uint64_t now = 1000;

    /* Messages with their lengths before them. */
    while (size > 2) {
        size_t n = data[0] | (size_t)data[1] << 8;
        n = n > size - 2 ? size - 2 : n;
        if (n != 0) {
            feed(t, now, (struct str){ (const char *)data + 2, n });
            check_streams(t);
        }
        data += 2 + n;
        size -= 2 + n;
        now += 333;
    }
    step(t, (struct table_event){ .type = TABLE_EV_TICK, .now_ms = now + 10000 });
    INSIST(table_get(t, TABLE_CAPABILITY, STR("me"), STR(""), &r) && str_eqs(r.value, "cpu"));
    INSIST(table_get(t, TABLE_PROFILE, STR("me"), STR("j"), &r));
    struct table_sizes sizes;
    table_sizes(t, &sizes);
    INSIST(sizes.bytes < 4 * 1024 * 1024);
    table_free(t);
    return 0;
}
