/* The images of this node, for the API. */
#include <errno.h>
#include <stdio.h>

#include "agent/node/uv_node_internal.h"
#include "common/mem.h"

enum { LIST_MORE = 64 * 1024 * 1024 }; /* beside the list: what is known of programs */

static struct node_query *query_new(struct node *n, node_text_fn *fn, void *arg)
{
    struct node_query *q = mem_zalloc(sizeof(*q));

    if (q == NULL) {
        node_out_of_memory("a query");
    }
    q->node = n;
    q->arg = arg;
    q->fn.text = fn;
    buf_init(&q->text, 64 * 1024);
    list_push_back(&n->queries, &q->link);
    return q;
}

static void answer(struct node_query *q, int status, const struct err *e, struct str text)
{
    struct node_error error = { .code = status == -ENOENT ? NODE_UNKNOWN_IMAGE : NODE_INTERNAL };

    (void)snprintf(error.detail, sizeof(error.detail), "%s",
                   e != NULL ? err_text(e) : err_name(status));
    if (!q->forgotten) {
        q->fn.text(q->arg, status != 0 ? &error : NULL, text);
    }
    list_remove(&q->link);
    buf_release(&q->text);
    mem_free(q);
}

static void on_list(void *arg, int status, struct str text, const struct err *e)
{
    struct node_query *q = arg;

    if (status == 0 && !q->node->closing) {
        AUTO_BUF struct buf full = BUF_INIT(2 * text.n + LIST_MORE);
        node_programs_list(q->node, text, &full);
        if (buf_error(&full) == 0) {
            answer(q, status, e, buf_str(&full));
            return;
        }
    }
    answer(q, status, e, text);
}

void node_image_list(struct node *n, node_text_fn *fn, void *arg)
{
    struct node_query *q = query_new(n, fn, arg);
    int rc = image_store_list(n->images_store, on_list, q);

    if (rc != 0) {
        node_out_of_memory("a list of images");
    }
}

static void on_pruned(void *arg, int status, const struct image_pruned *pruned, const struct err *e)
{
    struct node_query *q = arg;
    struct json_w w;

    if (status == 0) {
        json_w_init(&w, &q->text, false);
        json_w_obj(&w);
        json_kv_u64(&w, "images", pruned->images);
        json_kv_u64(&w, "blobs", pruned->blobs);
        json_kv_u64(&w, "bytes", pruned->bytes);
        json_w_end(&w);
        node_layers_sweep(q->node);
    }
    answer(q, status, e, buf_str(&q->text));
}

/* An image that nothing is running and nobody waits for gives its pin back, so that it can go. */
static void unpin_idle(struct node *n)
{
    LIST_EACH_SAFE (pos, &n->images) {
        struct node_image *img = LIST_ITEM(pos, struct node_image, link);
        if (img->refs == 0) { /* one that is only looked at, too */
            node_image_forget(n, img);
        }
    }
}

void node_image_delete(struct node *n, struct str repository, struct str reference,
                       node_text_fn *fn, void *arg)
{
    struct node_query *q = query_new(n, fn, arg);
    struct image_ref ref = { .tag = "" };
    struct err e = { .code = 0 };
    int rc = str_copy(ref.repository, sizeof(ref.repository), repository);

    if (rc == 0 && reference.n != 0) {
        rc = str_find(reference, ':') >= 0 ? digest_parse(reference, &ref.digest, &e)
                                           : str_copy(ref.tag, sizeof(ref.tag), reference);
    }
    if (rc != 0) {
        /* No image can have this name: what the store would say, from the loop. */
        ref = (struct image_ref){ .repository = "-" };
    }
    unpin_idle(n);
    if (image_store_delete(n->images_store, &ref, on_pruned, q) != 0) {
        node_out_of_memory("a deletion");
    }
}

void node_image_prune(struct node *n, node_text_fn *fn, void *arg)
{
    struct node_query *q = query_new(n, fn, arg);

    unpin_idle(n);
    if (image_store_prune(n->images_store, on_pruned, q) != 0) {
        node_out_of_memory("a clean-up");
    }
}
