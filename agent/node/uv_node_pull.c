/*
 * Images that are not here: which digest a tag is in the cluster, and fetching by digest from the
 * members that have it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/image_fetch.h"
#include "agent/node/node_rows.h"
#include "agent/node/uv_node_internal.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"

enum { PULL_DEADLINE_MS = 15 * 60 * 1000 };

int node_pull_start(struct node *n, struct err *e)
{
    return image_fetcher_new(n->loop, n->images_store, n->http_streams, NULL, &n->fetcher, e);
}

/* Does this member's row say that it has the digest? */
static bool has_it(const struct node *n, struct str owner, const struct digest *d)
{
    struct table_walk walk = { .type = TABLE_IMAGE, .owner = owner };
    struct table_row_view row;
    uint64_t ready[256];
    struct node_tag t;

    while (table_next(table_core(n->table), &walk, &row)) {
        if (row.key.n != 0) {
            if (node_tag_parse(row.value, &t, NULL) == 0 && digest_eq(&t.digest, d)) {
                return true;
            }
            continue;
        }
        size_t len = node_ready_parse(row.value, ready, ARRAY_LEN(ready));
        for (size_t i = 0; i < len; i++) {
            if (ready[i] == node_image_hash(d)) {
                return true;
            }
        }
    }
    return false;
}

bool node_cluster_has(const struct node *n, const struct digest *d)
{
    LIST_EACH (pos, &n->places) {
        const struct node_place *p = LIST_ITEM(pos, struct node_place, link);
        if (p->alive && !p->hidden && has_it(n, str_of(p->name), d)) {
            return true;
        }
    }
    return false;
}

struct sources {
    struct image_source v[IMAGE_SOURCES_MAX];
    size_t n;
};

static void source_add(const struct node *n, struct sources *s, const struct node_place *p)
{
    struct http_target to;

    if (s->n < IMAGE_SOURCES_MAX && p->alive && !p->hidden &&
        node_target(n, str_of(p->name), &to)) {
        s->v[s->n++] = (struct image_source){ .target = to,
                                              .headers = n->identity,
                                              .headers_len = n->identity_len };
    }
}

/* Who offered the run first, then whoever says that it has the image. */
static void sources_find(const struct node *n, const char *first, const struct digest *d,
                         struct sources *s)
{
    const struct node_place *owner = node_place_find(n, str_of(first));

    if (owner != NULL && has_it(n, str_of(first), d)) {
        source_add(n, s, owner);
    }
    LIST_EACH (pos, &n->places) {
        const struct node_place *p = LIST_ITEM(pos, struct node_place, link);
        if (strcmp(p->name, first) != 0 && has_it(n, str_of(p->name), d)) {
            source_add(n, s, p);
        }
    }
    if (owner != NULL && s->n == 0) {
        source_add(n, s, owner);
    }
}

int node_pull_image(struct node *n, const struct run *run, const char *first, image_fetch_fn *fn,
                    void *arg, struct err *e)
{
    struct sources s = { .n = 0 };
    struct image_ref ref;
    int rc = image_ref_parse(str_of(run->image), &ref, e);

    if (rc != 0) {
        return rc;
    }
    sources_find(n, first, &run->image_digest, &s);
    if (s.n == 0) {
        return err_say(e, -ENOENT, "no node that is reachable has the image '%s'", run->image);
    }
    const struct image_fetch_request req = {
        .repository = ref.repository,
        .digest = run->image_digest,
        .sources = s.v,
        .sources_len = s.n,
        .deadline_ms = PULL_DEADLINE_MS,
    };
    return image_fetch_start(n->fetcher, &req, fn, arg, NULL, e);
}

/* ---- tags ---- */

/* What this node itself has told the cluster of a tag. */
static bool own_tag(const struct node *n, const struct image_ref *ref, struct digest *ret)
{
    struct table_row_view row;
    struct node_tag t;
    char key[2 * TABLE_KEY_MAX];

    (void)snprintf(key, sizeof(key), "%s:%s", ref->repository, ref->tag);
    if (!table_get(table_core(n->table), TABLE_IMAGE, str_of(n->settings.node.name), str_of(key),
                   &row) ||
        node_tag_parse(row.value, &t, NULL) != 0) {
        return false;
    }
    *ret = t.digest;
    return true;
}

bool node_pull_newer(const struct node *n, const struct image_ref *ref, const struct digest *here,
                     struct digest *ret)
{
    struct digest newest;
    struct digest told;

    if (ref->digest.algo != DIGEST_NONE) {
        *ret = ref->digest;
        return here == NULL && node_cluster_has(n, &ref->digest);
    }
    if (!node_cluster_tag(n, ref->repository, ref->tag, &newest) ||
        (here == NULL && !node_cluster_has(n, &newest))) {
        return false; /* of what was deleted here just now, this node's own row may still speak */
    }
    if (here != NULL &&
        (digest_eq(&newest, here) || !own_tag(n, ref, &told) || !digest_eq(&told, here))) {
        return false; /* the same, or pushed here just now: nobody has a newer one */
    }
    *ret = newest;
    return true;
}
