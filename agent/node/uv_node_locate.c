/*
 * Who has a run? Here, or a copy of it; else all members are asked at once.
 */
#include <errno.h>

#include "agent/node/uv_node_copy.h"
#include "common/log.h"
#include "common/mem.h"

enum { ASKED_MAX = 64, WHERE_MS = 2000 };

struct locating {
    struct node *node;
    struct ulid id;
    bool far; /* others may be asked */
    node_locate_fn *fn;
    void *arg;
    size_t pending;
    bool found, owned;
    uint32_t epoch;
    char name[RUN_NODE_CAP];
    struct run run;
};

struct asked {
    struct locating *all;
    char name[RUN_NODE_CAP];
};

static void say(struct locating *x, const char *name, const struct run *run)
{
    if (!x->node->closing) {
        x->fn(x->arg, name, run);
    }
    mem_free(x);
}

static void on_where(void *arg, const struct node_call_end *end)
{
    struct asked a = *(struct asked *)arg;
    struct locating *x = a.all;
    AUTO_JSON struct json_doc *doc = NULL;
    struct run run;
    struct str have;

    mem_free(arg);
    if (end->rc == 0 && json_parse(end->text.p, end->text.n, NULL, &doc, NULL) == 0 &&
        json_str(json_get(json_root(doc), "have"), &have) && !str_eqs(have, "none") &&
        run_from_json(json_get(json_root(doc), "run"), &run, NULL) == 0) {
        bool owned = str_eqs(have, "run");
        /* The highest epoch; of one epoch its owner. */
        if (!x->found || run.epoch > x->epoch || (run.epoch == x->epoch && owned && !x->owned)) {
            x->found = true;
            x->owned = owned;
            x->epoch = run.epoch;
            x->run = run;
            (void)str_copy(x->name, sizeof(x->name), str_of(a.name));
        }
    }
    if (--x->pending == 0) {
        say(x, x->found ? x->name : NULL, x->found ? &x->run : NULL);
    }
}

static void ask_all(struct locating *x)
{
    struct node *n = x->node;
    const struct node_about about = { .id = x->id };
    AUTO_BUF struct buf body = BUF_INIT(4096);

    node_about_write(&body, &about, 1);
    x->pending = 1;
    LIST_EACH (pos, &n->places) {
        const struct node_place *p = LIST_ITEM(pos, struct node_place, link);
        if (!p->alive || p->hidden || x->pending > ASKED_MAX) {
            continue;
        }
        struct asked *a = mem_zalloc(sizeof(*a));
        if (a == NULL) {
            node_out_of_memory("a question about a run");
        }
        a->all = x;
        (void)str_copy(a->name, sizeof(a->name), str_of(p->name));
        x->pending++;
        (void)node_call_post(n, p->name, "/v1/peer/where", &body, WHERE_MS, on_where, a);
    }
    if (--x->pending == 0) {
        say(x, NULL, NULL);
    }
}

static void on_copy(void *arg, int status, const struct run *run, const struct job *spec,
                    struct str payload)
{
    struct locating *x = arg;
    struct node *n = x->node;

    (void)spec;
    (void)payload;
    if (status == 0) {
        const struct node_place *p = node_place_by_id(n, run_owner(run));
        say(x, p != NULL ? p->name : "", run);
    } else if (status == -ENOENT && x->far && !n->closing) {
        ask_all(x);
    } else {
        say(x, NULL, NULL);
    }
}

static void on_run(void *arg, int status, const struct run *run, const struct job *spec)
{
    struct locating *x = arg;

    (void)spec;
    if (status == -ENOENT && !x->node->closing) {
        node_asked(job_store_get_copy(x->node->store, x->id, on_copy, x));
    } else {
        say(x, status == 0 ? "" : NULL, status == 0 ? run : NULL);
    }
}

void node_locate(struct node *n, struct ulid id, bool far, node_locate_fn *fn, void *arg)
{
    struct locating *x = mem_zalloc(sizeof(*x));

    if (x == NULL) {
        node_out_of_memory("a question about a run");
    }
    *x = (struct locating){ .node = n, .id = id, .far = far, .fn = fn, .arg = arg };
    node_asked(job_store_get_run(n->store, id, on_run, x));
}

/* ---- for the API ---- */

static void located(void *arg, const char *name, const struct run *run)
{
    struct node_query *q = arg;

    (void)run;
    (void)buf_adds(&q->text, name != NULL ? name : "");
    node_query_text(q);
}

bool node_run_is_mine(struct node *n, struct ulid id)
{
    struct run run;

    return job_core_run(node_core_jobs(n->core), id, &run);
}

void node_run_locate(struct node *n, struct ulid id, bool far, node_text_fn *fn, void *arg)
{
    node_locate(n, id, far, located, node_query_new(n, fn, arg));
}
