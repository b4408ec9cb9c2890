/* The cluster's tokens: rows of the table, one line of common/token.h each. */
#include "agent/node/uv_node_internal.h"
#include "common/log.h"

static void row_came(void *arg, const struct table_row_view *row, const struct table_row_view *old)
{
    struct node *n = arg;
    const char *what = row == NULL ? "is revoked" : old == NULL ? "is known here" : "has changed";
    struct str key = str_slice(row != NULL ? row->key : old->key, 0, 64);

    /* Who asked for it stands in the log of the node that was asked. */
    log_info("audit: the token '%.*s' of the cluster %s", STR_ARG(key), what);
    if (n->on_tokens != NULL) {
        n->on_tokens(n->tokens_arg);
    }
}

void node_token_each(const struct node *n, node_token_fn *fn, void *arg)
{
    struct table_walk walk = { .type = TABLE_TOKEN };
    struct table_row_view row;

    while (table_next(table_core(n->table), &walk, &row)) {
        fn(arg, row.key, row.value);
    }
}

int node_token_put(struct node *n, struct str name, struct str line, node_written_fn *fn, void *arg,
                   struct err *e)
{
    return table_write(n->table, TABLE_TOKEN, name, line, fn, arg, e);
}

int node_token_delete(struct node *n, struct str name, node_written_fn *fn, void *arg,
                      struct err *e)
{
    return table_remove(n->table, TABLE_TOKEN, name, fn, arg, e);
}

void node_token_watch(struct node *n, void (*changed)(void *arg), void *arg)
{
    n->on_tokens = changed;
    n->tokens_arg = arg;
}

int node_tokens_start(struct node *n)
{
    return table_watch(n->table, TABLE_TOKEN, row_came, n);
}
