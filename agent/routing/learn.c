#include "agent/routing/learn.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "agent/routing/learn_internal.h"
#include "common/insist.h"
#include "common/mem.h"

enum { ROWS_DEFAULT = 65536 };

static const double health_rate = 0.02;
static const double health_dead = 0.05;
static const double health_runs = 8; /* a job with fewer says nothing of a node */
static const double clip_runs = 3;   /* as many runs of a class before its residuals are clipped */
static const double clip_sigmas = 4;

int route_learn_new(const struct route_learn_config *cfg, struct route_learn **ret)
{
    struct route_learn *l = mem_zalloc(sizeof *l);

    if (l == NULL) {
        return -ENOMEM;
    }
    REQUIRE(strchr(cfg->node, '/') == NULL && cfg->node[0] != '\0');
    (void)str_copy(l->node, sizeof l->node, str_slice(str_of(cfg->node), 0, sizeof l->node - 1));
    (void)str_copy(l->class_id, sizeof l->class_id, str_of(cfg->class_id));
    l->features = cfg->features;
    l->rows_max = cfg->rows_max != 0 ? cfg->rows_max : ROWS_DEFAULT;
    map_init(&l->rows, l->rows_max, cfg->k0, cfg->k1);
    map_init(&l->by_name, l->rows_max, cfg->k0, cfg->k1);
    map_init(&l->health, ROUTE_HEALTH_MAX, cfg->k0, cfg->k1);
    route_prior_cold(&l->prior);
    l->prior_made = 1;
    *ret = l;
    return 0;
}

struct route_learn *route_learn_free(struct route_learn *l)
{
    void *v;

    if (l == NULL) {
        return NULL;
    }
    for (size_t i = 0; (v = map_next(&l->rows, &i)) != NULL;) {
        mem_free(v);
    }
    for (size_t i = 0; (v = map_next(&l->health, &i)) != NULL;) {
        mem_free(v);
    }
    for (size_t i = 0; i < l->jobs_len; i++) {
        for (size_t k = 0; k < l->jobs[i]->len; k++) {
            mem_free(l->jobs[i]->profiles[k]->rows);
            mem_free(l->jobs[i]->profiles[k]);
        }
        mem_free(l->jobs[i]->profiles);
        mem_free(l->jobs[i]);
    }
    mem_free(l->jobs);
    map_release(&l->rows);
    map_release(&l->by_name);
    map_release(&l->health);
    return mem_free(l);
}

/* ---- the tree: jobs, revisions, rows ---- */

/* Room for one more pointer, and a hole at `at`. */
static int array_insert(void *array_ptr, size_t *len, size_t *cap, size_t at, void *value)
{
    void **v;

    memcpy(&v, array_ptr, sizeof v);
    if (*len == *cap) {
        size_t more = *cap == 0 ? 4 : *cap * 2;
        void **grown = mem_realloc(v, more * sizeof *v);
        if (grown == NULL) {
            return -ENOMEM;
        }
        v = grown;
        *cap = more;
        memcpy(array_ptr, &v, sizeof v);
    }
    memmove(&v[at + 1], &v[at], (*len - at) * sizeof *v);
    v[at] = value;
    ++*len;
    return 0;
}

static size_t job_place(const struct route_learn *l, struct str name)
{
    size_t low = 0;
    size_t high = l->jobs_len;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (str_cmp(str_of(l->jobs[mid]->name), name) < 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static struct route_known *job_make(struct route_learn *l, struct str name)
{
    struct route_known *j = map_get(&l->by_name, name);

    if (j != NULL) {
        return j;
    }
    j = mem_zalloc(sizeof *j);
    if (j == NULL || str_copy(j->name, sizeof j->name, name) != 0 ||
        map_add(&l->by_name, str_of(j->name), j) != 0) {
        return mem_free(j);
    }
    if (array_insert(&l->jobs, &l->jobs_len, &l->jobs_cap, job_place(l, name), j) != 0) {
        (void)map_remove(&l->by_name, name);
        return mem_free(j);
    }
    return j;
}

static struct route_profile *profile_make(struct route_known *j, uint32_t revision)
{
    size_t at = 0;

    while (at < j->len && j->profiles[at]->revision < revision) {
        at++;
    }
    if (at < j->len && j->profiles[at]->revision == revision) {
        return j->profiles[at];
    }
    struct route_profile *p = mem_zalloc(sizeof *p);
    if (p == NULL) {
        return NULL;
    }
    p->job = j;
    p->revision = revision;
    if (array_insert(&j->profiles, &j->len, &j->cap, at, p) != 0) {
        return mem_free(p);
    }
    return p;
}

static void profile_drop(struct route_learn *l, struct route_profile *p)
{
    struct route_known *j = p->job;
    size_t at = 0;

    while (j->profiles[at] != p) {
        at++;
    }
    memmove(&j->profiles[at], &j->profiles[at + 1], (j->len - at - 1) * sizeof(void *));
    j->len--;
    mem_free(p->rows);
    mem_free(p);
    if (j->len == 0) {
        at = job_place(l, str_of(j->name));
        memmove(&l->jobs[at], &l->jobs[at + 1], (l->jobs_len - at - 1) * sizeof(void *));
        l->jobs_len--;
        (void)map_remove(&l->by_name, str_of(j->name));
        mem_free(j->profiles);
        mem_free(j);
    }
}

static int row_order(const struct route_row *a, const struct route_row *b)
{
    int c = strcmp(a->class_id, b->class_id);

    return c != 0 ? c : strcmp(a->origin, b->origin);
}

/* A new, empty row under its key. */
static int entry_make(struct route_learn *l, const struct route_row *keyed,
                      struct route_entry **ret)
{
    struct route_entry *e = mem_zalloc(sizeof *e);
    struct route_known *j = NULL;
    struct route_profile *p = NULL;
    int rc = -ENOMEM;

    if (l->rows.len >= l->rows_max) {
        mem_free(e);
        return -ENOBUFS;
    }
    if (e == NULL) {
        return rc;
    }
    e->row = *keyed;
    e->key_len = route_row_key(keyed, e->key);
    j = job_make(l, str_of(keyed->job));
    if (j != NULL) {
        p = profile_make(j, keyed->revision);
    }
    if (p != NULL) {
        size_t at = 0;
        while (at < p->len && row_order(&p->rows[at]->row, keyed) < 0) {
            at++;
        }
        e->profile = p;
        rc = map_add(&l->rows, (struct str){ e->key, e->key_len }, e);
        if (rc == 0) {
            rc = array_insert(&p->rows, &p->len, &p->cap, at, e);
            if (rc != 0) {
                (void)map_remove(&l->rows, (struct str){ e->key, e->key_len });
            }
        }
    }
    if (rc != 0) {
        if (p != NULL && p->len == 0) {
            profile_drop(l, p);
        } else if (j != NULL && j->len == 0) {
            size_t at = job_place(l, str_of(j->name));
            memmove(&l->jobs[at], &l->jobs[at + 1], (l->jobs_len - at - 1) * sizeof(void *));
            l->jobs_len--;
            (void)map_remove(&l->by_name, str_of(j->name));
            mem_free(j->profiles);
            mem_free(j);
        }
        mem_free(e);
        return rc;
    }
    *ret = e;
    return 0;
}

static void changed(struct route_learn *l, struct route_profile *p)
{
    struct route_known *j = p->job;

    p->said_fresh = false;
    /* Later revisions may inherit from this one. */
    for (size_t i = 0; i < j->len; i++) {
        if (j->profiles[i]->revision >= p->revision) {
            j->profiles[i]->fresh = false;
        }
    }
    if (l->changes < ROUTE_PRIOR_EVERY) {
        l->changes++;
    }
}

int route_learn_put(struct route_learn *l, struct str key, struct str value, struct err *e)
{
    struct route_row row = { .revision = 0 };
    struct route_entry *entry;

    if (route_row_key_parse(key, &row) != 0) {
        return err_say(e, -EINVAL, "'%.*s' is no key of a profile row",
                       (int)(key.n < 64 ? key.n : 64), key.n != 0 ? key.p : "");
    }
    int rc = route_row_decode(value, &row, e);
    if (rc != 0) {
        return rc;
    }
    entry = map_get(&l->rows, key);
    if (entry == NULL) {
        rc = entry_make(l, &row, &entry);
        if (rc != 0) {
            return err_set(e, rc, "a profile row");
        }
    } else if (strcmp(row.origin, l->node) == 0 && row.runs <= entry->row.runs) {
        return 0; /* what we said ourselves, come back */
    }
    entry->row = row;
    changed(l, entry->profile);
    return 0;
}

void route_learn_remove(struct route_learn *l, struct str key)
{
    struct route_entry *e = map_remove(&l->rows, key);

    if (e == NULL) {
        return;
    }
    struct route_profile *p = e->profile;
    size_t at = 0;
    while (p->rows[at] != e) {
        at++;
    }
    memmove(&p->rows[at], &p->rows[at + 1], (p->len - at - 1) * sizeof(void *));
    p->len--;
    mem_free(e);
    changed(l, p);
    if (p->len == 0) {
        profile_drop(l, p);
    }
}

size_t route_learn_rows(const struct route_learn *l)
{
    return l->rows.len;
}

struct route_profile *route_learn_find(const struct route_learn *l, struct str job,
                                       uint32_t revision)
{
    const struct route_known *j = map_get(&l->by_name, job);

    for (size_t i = 0; j != NULL && i < j->len; i++) {
        if (j->profiles[i]->revision == revision) {
            return j->profiles[i];
        }
    }
    return NULL;
}

struct route_profile *route_learn_parent(const struct route_learn *l, struct str job,
                                         uint32_t revision)
{
    const struct route_known *j = map_get(&l->by_name, job);

    for (size_t i = j != NULL ? j->len : 0; i-- > 0;) {
        if (j->profiles[i]->revision >= revision) {
            continue;
        }
        for (size_t k = 0; k < j->profiles[i]->len; k++) {
            if (j->profiles[i]->rows[k]->row.n > 0) {
                return j->profiles[i];
            }
        }
    }
    return NULL;
}

bool route_learn_revision(const struct route_learn *l, struct str job, uint32_t *ret)
{
    const struct route_known *j = map_get(&l->by_name, job);

    if (j == NULL || j->len == 0) {
        return false;
    }
    *ret = j->profiles[j->len - 1]->revision;
    return true;
}

bool route_learn_next(const struct route_learn *l, struct str after, struct str *ret)
{
    size_t at = job_place(l, after);

    if (at < l->jobs_len && str_eqs(after, l->jobs[at]->name)) {
        at++;
    }
    if (at >= l->jobs_len) {
        return false;
    }
    *ret = str_of(l->jobs[at]->name);
    return true;
}

/* ---- what this node measured ---- */

static void health_learn(struct route_learn *l, double residual)
{
    double r = residual < -1 ? -1 : residual > 1 ? 1 : residual;

    l->health_self = (1 - health_rate) * l->health_self + health_rate * r;
}

/* The key fields of this node's row of a job; -EINVAL: no such name. */
static int own_keyed(const struct route_learn *l, struct str job, uint32_t revision,
                     struct route_row *ret)
{
    *ret = (struct route_row){ .revision = revision, .features = l->features };
    memcpy(ret->class_id, l->class_id, sizeof ret->class_id);
    memcpy(ret->origin, l->node, sizeof ret->origin);
    return job.n == 0 || str_copy(ret->job, sizeof ret->job, job) != 0 ? -EINVAL : 0;
}

const struct route_row *route_learn_own(const struct route_learn *l, struct str job,
                                        uint32_t revision)
{
    struct route_row keyed;
    char key[ROUTE_KEY_MAX];

    if (own_keyed(l, job, revision, &keyed) != 0) {
        return NULL;
    }
    size_t n = route_row_key(&keyed, key);
    const struct route_entry *e = map_get(&l->rows, (struct str){ key, n });
    return e != NULL ? &e->row : NULL;
}

int route_learn_observe(struct route_learn *l, struct str job, uint32_t revision,
                        const struct route_observation *o, const struct route_row **ret)
{
    struct route_row keyed;
    char key[ROUTE_KEY_MAX];
    double expected = 0;
    double slack = 0;

    if (own_keyed(l, job, revision, &keyed) != 0) {
        return -EINVAL;
    }
    size_t key_len = route_row_key(&keyed, key);
    struct route_entry *e = map_get(&l->rows, (struct str){ key, key_len });
    if (e == NULL) {
        int rc = entry_make(l, &keyed, &e);
        if (rc != 0) {
            return rc;
        }
    }
    const struct route_posterior *p = route_learn_model(l, job, revision);
    double health = fabs(l->health_self) < health_dead ? 0 : l->health_self;
    if (p != NULL && route_observed_time(o)) {
        struct route_weights mean;
        route_posterior_weights(p, NULL, &mean);
        expected = route_posterior_at(p, &mean, l->class_id, &l->features);
        if (route_posterior_runs(p, l->class_id) >= clip_runs) {
            slack = clip_sigmas * sqrt(p->noise_var);
        }
        if (p->n >= health_runs) {
            health_learn(l, route_observed_y(o->elapsed_us) - expected);
        }
    }
    route_row_add(&e->row, o, route_profile_tick(e->profile) + 1, expected, slack, health);
    e->row.features = l->features;
    changed(l, e->profile);
    *ret = &e->row;
    return 0;
}

void route_learn_health_put(struct route_learn *l, struct str node, double health)
{
    double h = isfinite(health) && fabs(health) <= 5 ? health : 0;

    if (str_eqs(node, l->node)) {
        return; /* we know our own */
    }
    struct route_health *e = map_get(&l->health, node);
    if (e == NULL) {
        e = mem_zalloc(sizeof *e);
        if (e == NULL || str_copy(e->node, sizeof e->node, node) != 0 ||
            map_add(&l->health, str_of(e->node), e) != 0) {
            mem_free(e); /* unknown health is none */
            return;
        }
    }
    e->h = h;
}

double route_learn_health(const struct route_learn *l, struct str node)
{
    double h = l->health_self;

    if (!str_eqs(node, l->node)) {
        const struct route_health *e = map_get(&l->health, node);
        h = e != NULL ? e->h : 0;
    }
    return fabs(h) < health_dead ? 0 : h;
}

double route_learn_health_self(const struct route_learn *l)
{
    return l->health_self;
}
