#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "agent/table/uv_table_internal.h"
#include "common/base64.h"
#include "common/ids.h"
#include "common/insist.h"
#include "common/json.h"
#include "common/mem.h"

enum {
    PAGE_MAX = 1000,
    SHOWN_BYTES = 1024,     /* of a value that is not text */
    SHOWN_TEXT = 64 * 1024, /* of one that is */
    CURSOR_MAX = 8 + TABLE_NAME_MAX + 1 + 2 * TABLE_KEY_MAX + 1,
};

/* --- the order of rows: type, owner, key --- */

static int row_cmp(const struct table_row_view *a, const struct table_row_view *b)
{
    int c = (a->type > b->type) - (a->type < b->type);

    c = c != 0 ? c : str_cmp(a->owner, b->owner);
    return c != 0 ? c : str_cmp(a->key, b->key);
}

struct page {
    struct table_row_view *v; /* the first `limit` rows behind `after`, in order */
    size_t n, limit;
    bool more;
    bool has_after;
    struct table_row_view after;
    char key[TABLE_KEY_MAX];
};

static void page_add(struct page *p, const struct table_row_view *r)
{
    size_t low = 0;
    size_t high = p->n;

    if (p->has_after && row_cmp(r, &p->after) <= 0) {
        return;
    }
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (row_cmp(&p->v[mid], r) < 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    p->more = p->more || p->n == p->limit;
    if (low == p->limit) {
        return;
    }
    size_t move = (p->n < p->limit ? p->n : p->limit - 1) - low;
    memmove(&p->v[low + 1], &p->v[low], move * sizeof *p->v);
    p->v[low] = *r;
    p->n += p->n < p->limit;
}

/* "TYPE/OWNER/KEY in hex". */
static int read_cursor(struct str text, struct page *p)
{
    struct str type;
    struct str owner;
    uint64_t number = 0;

    if (text.n == 0) {
        return 0;
    }
    if (!str_split(&text, '/', &type) || !str_split(&text, '/', &owner) ||
        str_u64_in(type, 1, TABLE_TYPES - 1, &number) != 0 || text.n % 2 != 0 ||
        text.n / 2 > sizeof p->key || str_unhex(text, p->key, text.n / 2) != 0) {
        return -EINVAL;
    }
    p->has_after = true;
    p->after = (struct table_row_view){ .type = (unsigned)number,
                                        .owner = owner,
                                        .key = { p->key, text.n / 2 } };
    return 0;
}

static void write_cursor(struct json_w *w, const struct table_row_view *r)
{
    char text[CURSOR_MAX];
    int n = snprintf(text, sizeof text, "%u/%.*s/", r->type, STR_ARG(r->owner));

    if (n > 0 && (size_t)n + 2 * r->key.n < sizeof text) {
        str_hex(text + n, r->key.p, r->key.n);
        json_kv_cstr(w, "next", text);
    }
}

/* --- JSON --- */

static void write_value(struct json_w *w, const struct table_row_view *r)
{
    const struct table_type_info *i = table_type_info(r->type);
    struct json_doc *doc = NULL;

    if (i != NULL && i->is_private) {
        return;
    }
    json_w_key(w, "value");
    if (r->value.n <= SHOWN_TEXT && r->value.n != 0 &&
        json_parse(r->value.p, r->value.n, NULL, &doc, NULL) == 0) {
        json_w_value(w, json_root(doc));
    } else if (r->value.n <= SHOWN_TEXT && str_is_utf8(r->value)) {
        json_w_str(w, r->value);
    } else {
        AUTO_BUF struct buf text = BUF_INIT((SHOWN_BYTES + 2) / 3 * 4 + 1);
        (void)base64_encode(&text, r->value.p, r->value.n < SHOWN_BYTES ? r->value.n : SHOWN_BYTES);
        json_w_obj(w);
        json_kv_str(w, "base64", buf_str(&text));
        json_w_end(w);
    }
    json_free(doc);
}

static void write_row_json(struct json_w *w, const struct table_row_view *r)
{
    const struct table_type_info *i = table_type_info(r->type);

    json_w_obj(w);
    if (i != NULL) {
        json_kv_cstr(w, "type", i->name);
    } else {
        json_kv_u64(w, "type", r->type);
    }
    json_kv_str(w, "owner", r->owner);
    json_kv_str(w, "key", r->key);
    json_kv_str(w, "writer", r->writer);
    json_kv_time(w, "written_at", r->written_ms * 1000);
    json_kv_u64(w, "version", r->version);
    json_kv_u64(w, "bytes", r->value.n);
    write_value(w, r);
    json_w_end(w);
}

static void write_sizes(const struct table_shell *s, struct json_w *w)
{
    struct table_sizes z;
    char root[17];

    table_sizes(s->core, &z);
    (void)snprintf(root, sizeof root, "%016" PRIx64, z.root);
    json_w_key(w, "counts");
    json_w_obj(w);
    for (unsigned type = 1; type < TABLE_TYPES; type++) {
        if (table_type_info(type) != NULL) {
            json_kv_u64(w, table_type_info(type)->name, table_count(s->core, type));
        }
    }
    json_w_end(w);
    json_w_key(w, "sizes");
    json_w_obj(w);
    json_kv_u64(w, "rows", z.rows);
    json_kv_u64(w, "tombstones", z.tombstones);
    json_kv_u64(w, "streams", z.streams);
    json_kv_u64(w, "peers", z.peers);
    json_kv_u64(w, "bytes", z.bytes);
    json_kv_cstr(w, "root", root);
    json_kv_bool(w, "settled", z.settled);
    json_w_end(w);
}

int table_json(const struct table_shell *s, unsigned type, struct str after, size_t limit,
               struct buf *out)
{
    struct page p = { .limit = limit < 1 ? 1 : limit > PAGE_MAX ? PAGE_MAX : limit };
    struct table_row_view r;
    struct json_w w;
    int rc = read_cursor(after, &p);

    if (rc != 0) {
        return rc;
    }
    p.v = mem_calloc(p.limit, sizeof *p.v);
    if (p.v == NULL) {
        return -ENOMEM;
    }
    for (unsigned k = 1; k < TABLE_TYPES; k++) {
        struct table_walk walk = { .type = k };
        while ((type == 0 || type == k) && table_next(s->core, &walk, &r)) {
            page_add(&p, &r);
        }
    }
    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_w_key(&w, "rows");
    json_w_arr(&w);
    for (size_t i = 0; i < p.n; i++) {
        write_row_json(&w, &p.v[i]);
    }
    json_w_end(&w);
    if (p.more) {
        write_cursor(&w, &p.v[p.n - 1]);
    }
    write_sizes(s, &w);
    json_w_end(&w);
    mem_free(p.v);
    return buf_error(out);
}

/* --- metrics --- */

static void one(struct buf *out, const char *name, const char *type, const char *help, uint64_t v)
{
    (void)buf_addf(
        out, "# HELP agent_table_%s %s\n# TYPE agent_table_%s %s\nagent_table_%s %" PRIu64 "\n",
        name, help, name, type, name, v);
}

static void refused(struct buf *out, const struct table_counters *c)
{
    const struct {
        const char *why;
        uint64_t n;
    } rows[] = {
        { "malformed", c->refused_malformed },
        { "stranger", c->refused_stranger },
        { "skew", c->refused_skew },
        { "budget", c->refused_budget },
        { "gap", c->refused_gap },
    };

    (void)buf_adds(out,
                   "# HELP agent_table_refused_total What was not taken in: malformed messages, "
                   "rows of strangers, dated too far ahead, beyond a budget, after a gap\n"
                   "# TYPE agent_table_refused_total counter\n");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        (void)buf_addf(out, "agent_table_refused_total{reason=\"%s\"} %" PRIu64 "\n", rows[i].why,
                       rows[i].n);
    }
}

void table_metrics(const struct table_shell *s, struct buf *out)
{
    struct table_counters c;
    struct table_sizes z;

    table_counters(s->core, &c);
    table_sizes(s->core, &z);
    (void)buf_adds(out, "# HELP agent_table_rows Rows of the shared table\n"
                        "# TYPE agent_table_rows gauge\n");
    for (unsigned type = 1; type < TABLE_TYPES; type++) {
        if (table_type_info(type) != NULL) {
            (void)buf_addf(out, "agent_table_rows{type=\"%s\"} %zu\n", table_type_info(type)->name,
                           table_count(s->core, type));
        }
    }
    one(out, "bytes", "gauge", "Memory of the rows", z.bytes);
    one(out, "tombstones", "gauge", "Deleted rows that are remembered", z.tombstones);
    one(out, "peers", "gauge", "Members that the table is compared with", z.peers);
    one(out, "sent_messages_total", "counter", "Messages sent", c.sent_messages);
    one(out, "sent_bytes_total", "counter", "Bytes sent", c.sent_bytes);
    one(out, "sent_bulk_bytes_total", "counter", "Bytes sent to members far behind",
        c.sent_bulk_bytes);
    one(out, "received_messages_total", "counter", "Messages received", c.received_messages);
    one(out, "received_bytes_total", "counter", "Bytes received", c.received_bytes);
    one(out, "rows_received_total", "counter", "Rows received that were news", c.rows_received);
    one(out, "rows_known_total", "counter", "Rows received that were not", c.rows_known);
    one(out, "compares_total", "counter", "Comparisons answered", c.compares);
    one(out, "compares_equal_total", "counter", "Comparisons that found no difference",
        c.compares_equal);
    one(out, "repairs_total", "counter", "Streams fetched anew", c.repairs);
    one(out, "commits_total", "counter", "Transactions written", s->commits);
    one(out, "commit_failures_total", "counter", "Transactions that failed", s->commit_failures);
    one(out, "unwritten_records", "gauge", "Records that wait for the disk", s->kept_len);
    refused(out, &c);
}
