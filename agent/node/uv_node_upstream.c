/* Images from upstream registries: looked up here first, then pulled, then looked up again. */
#include <errno.h>

#include "agent/node/uv_node_internal.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/version.h"

static struct image_puller_options options(const struct node *n)
{
    const struct settings_registry *s = &n->settings.registry;

    return (struct image_puller_options){
        .upstreams = s->upstreams,
        .credentials_file = s->credentials_file,
        .ca_file = s->ca_file,
        .user_agent = "agent",
        .deadline_ms = s->pull_timeout_ms,
    };
}

int node_upstream_start(struct node *n, struct err *e)
{
    const struct image_puller_options opt = options(n);

    return image_puller_new(n->loop, n->images_store, &opt, &n->puller, e);
}

void node_upstream_reload(struct node *n)
{
    const struct image_puller_options opt = options(n);
    struct err e = { 0 };

    if (image_puller_reload(n->puller, &opt, &e) != 0) {
        log_error("upstream registries stay as they were: %s", err_text(&e));
    }
}

struct image_puller *node_image_puller(struct node *n)
{
    return n->puller;
}

/* ---- resolving ---- */

struct resolving {
    struct node *node;
    struct image_ref ref;
    image_resolve_fn *fn;
    void *arg;
};

static void resolving_end(struct resolving *x, int status, struct image_resolved *image,
                          const struct err *e)
{
    x->fn(x->arg, status, image, e);
    mem_free(x);
}

static void resolve_failed(struct resolving *x, int status, const char *why)
{
    struct err e = { 0 };

    (void)err_say(&e, status, "%s", why);
    resolving_end(x, status, NULL, &e);
}

static void on_pulled_resolved(void *arg, int status, struct image_resolved *image,
                               const struct err *e)
{
    resolving_end(arg, status, image, e);
}

static void on_pulled(void *arg, int rc, const struct image_fetched *got, const char *why)
{
    struct resolving *x = arg;
    char ref[IMAGE_REF_CAP];

    if (rc == 0) {
        log_info("pulled %s: %u blobs, %llu bytes", image_ref_format(&x->ref, ref), got->blobs,
                 (unsigned long long)got->bytes);
        rc = image_store_resolve(x->node->images_store, &x->ref, on_pulled_resolved, x);
        why = "out of memory";
    } else {
        log_warn("can not pull %s: %s", image_ref_format(&x->ref, ref), why);
    }
    if (rc != 0) {
        resolve_failed(x, rc, why);
    }
}

static void on_looked(void *arg, int status, struct image_resolved *image, const struct err *e)
{
    struct resolving *x = arg;
    struct node *n = x->node;
    struct err why = { 0 };

    struct digest theirs;

    /* Another member's copy is nearer: whoever runs it fetches it from there. */
    if (status != -ENOENT || n->closing || !image_puller_knows(n->puller, x->ref.repository) ||
        node_pull_newer(n, &x->ref, NULL, &theirs)) {
        resolving_end(x, status, image, e);
        return;
    }
    int rc = image_pull_start(n->puller, &x->ref, on_pulled, x, NULL, &why);
    if (rc != 0) {
        resolve_failed(x, rc, err_text(&why));
    }
}

int node_image_resolve(struct node *n, const struct image_ref *ref, image_resolve_fn *fn, void *arg)
{
    struct resolving *x = mem_zalloc(sizeof *x);

    if (x == NULL) {
        return -ENOMEM;
    }
    *x = (struct resolving){ .node = n, .ref = *ref, .fn = fn, .arg = arg };
    int rc = image_store_resolve(n->images_store, ref, on_looked, x);
    if (rc != 0) {
        mem_free(x);
    }
    return rc;
}
