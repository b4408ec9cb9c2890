/* Images of registered jobs are kept: pulled when they are not here and have an upstream, and
 * pinned as long as the job names them, whatever else the store has to give up. */
#include <errno.h>
#include <string.h>

#include "agent/node/uv_node_internal.h"
#include "common/log.h"
#include "common/mem.h"

enum { WARM_MAX = 10000, WARM_PAGE = 256 };

struct node_warm {
    struct list link;
    struct node *node;
    char *job;
    char *image;
    bool asking;          /* an answer is on its way, and holds it */
    bool again;           /* the image changed meanwhile */
    bool gone;            /* the job was deleted meanwhile */
    struct digest digest; /* pinned; DIGEST_NONE: nothing (yet) */
};

static void warm_unpin(struct node_warm *w)
{
    if (w->digest.algo != DIGEST_NONE) {
        image_store_unpin(w->node->images_store, &w->digest);
        w->digest = (struct digest){ 0 };
    }
}

static void warm_free(struct node_warm *w)
{
    list_remove(&w->link);
    w->node->warm_len--;
    mem_free(w->job);
    mem_free(w->image);
    mem_free(w);
}

static void warm_pin(struct node_warm *w, const struct digest *d)
{
    if (!digest_eq(&w->digest, d) && image_store_pin(w->node->images_store, d) == 0) {
        warm_unpin(w);
        w->digest = *d;
    }
}

static void warm_ask(struct node_warm *w);

static void on_warm(void *arg, int status, struct image_resolved *image, const struct err *e)
{
    struct node_warm *w = arg;

    w->asking = false;
    if (w->gone || w->node->closing) {
        warm_free(w);
    } else if (w->again) {
        warm_ask(w);
    } else if (status == 0) {
        warm_pin(w, &image->digest);
    } else if (status != -ENOENT) {
        log_info("job '%s': image '%s': %s", w->job, w->image, err_text(e));
    }
    image_resolved_free(image);
}

/* Without an answer nothing is pinned: the first run will say what is wrong. */
static void warm_ask(struct node_warm *w)
{
    struct image_ref ref;

    w->again = w->asking;
    if (!w->asking && image_ref_parse(str_of(w->image), &ref, NULL) == 0) {
        w->asking = node_image_resolve(w->node, &ref, on_warm, w) == 0;
    }
}

static struct node_warm *warm_find(struct node *n, const char *job)
{
    LIST_EACH (pos, &n->warm) {
        struct node_warm *w = LIST_ITEM(pos, struct node_warm, link);
        if (!w->gone && strcmp(w->job, job) == 0) {
            return w;
        }
    }
    return NULL;
}

static struct node_warm *warm_add(struct node *n, const char *job)
{
    struct node_warm *w = n->warm_len < WARM_MAX ? mem_zalloc(sizeof *w) : NULL;

    if (w == NULL || (w->job = mem_strdup(job)) == NULL) {
        mem_free(w);
        return NULL;
    }
    w->node = n;
    list_push_back(&n->warm, &w->link);
    n->warm_len++;
    return w;
}

void node_image_keep(struct node *n, const struct job *job)
{
    struct node_warm *w = warm_find(n, job->name);
    char *image = mem_strdup(job->image);

    if (w == NULL && image != NULL) {
        w = warm_add(n, job->name);
    }
    if (w == NULL || image == NULL) {
        mem_free(image); /* no memory, or very many jobs: then its image is as any other */
        return;
    }
    mem_free(w->image);
    w->image = image;
    warm_ask(w);
}

void node_image_let_go(struct node *n, const char *job)
{
    struct node_warm *w = warm_find(n, job);

    if (w != NULL) {
        warm_unpin(w);
        w->gone = true;
        if (!w->asking) {
            warm_free(w);
        }
    }
}

/* ---- at the start: all of them, page by page ---- */

static void on_jobs(void *arg, int status, const struct job *const *jobs, size_t n, bool more)
{
    struct node *node = arg;

    if (status != 0 || node->closing) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        node_image_keep(node, jobs[i]);
    }
    if (more && n > 0 && node->warm_len < WARM_MAX) {
        (void)job_store_list_jobs(node->store, str_of(jobs[n - 1]->name), WARM_PAGE, on_jobs, node);
    }
}

void node_images_keep_all(struct node *n)
{
    (void)job_store_list_jobs(n->store, STR(""), WARM_PAGE, on_jobs, n);
}

/* When nothing is asked for any more. */
void node_images_kept_free(struct node *n)
{
    while (!list_empty(&n->warm)) {
        warm_free(LIST_ITEM(n->warm.next, struct node_warm, link));
    }
}
