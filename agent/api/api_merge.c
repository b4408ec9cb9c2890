#include "agent/api/api_merge.h"

#include <string.h>

#include "common/mem.h"

enum { FAILURES_MAX = 10, JOBS_MAX = 1000, WARNINGS_MAX = 64 };

/* ---- small things ---- */

static struct str text_of(const struct json *obj, const char *key)
{
    struct str s = { NULL, 0 };

    (void)json_str(json_get(obj, key), &s);
    return s;
}

static const struct json *first_of(const struct json *obj, const char *key)
{
    const struct json *v = json_get(obj, key);

    return v != NULL && v->type == JSON_ARRAY ? v->child : NULL;
}

static void partial_write(struct json_w *w, const struct api_part *parts, size_t n)
{
    json_w_key(w, "partial");
    json_w_arr(w);
    for (size_t i = 0; i < n; i++) {
        /* Who is known to be gone is missed by nobody. */
        if (parts[i].root == NULL && strcmp(parts[i].state, "unreachable") == 0) {
            json_w_cstr(w, parts[i].node);
        }
    }
    json_w_end(w);
}

/* The member of that array, over all parts, whose text is the greatest and below `below`. */
static const struct json *greatest(const struct json **heads, size_t n, size_t *ret_at)
{
    const struct json *best = NULL;

    for (size_t i = 0; i < n; i++) {
        if (heads[i] != NULL &&
            (best == NULL || str_cmp(text_of(heads[i], "id"), text_of(best, "id")) > 0)) {
            best = heads[i];
            *ret_at = i;
        }
    }
    return best;
}

/* Writes the newest of all parts' arrays `key`; the last one's id is left in *ret_last. */
static bool newest_write(struct json_w *w, const char *key, const struct api_part *parts, size_t n,
                         size_t limit, struct str *ret_last)
{
    const struct json **heads = mem_calloc(n + 1, sizeof(const struct json *));
    const struct json *v = NULL;
    size_t at = 0;

    *ret_last = (struct str){ NULL, 0 };
    json_w_key(w, key);
    json_w_arr(w);
    for (size_t i = 0; heads != NULL && i < n; i++) {
        heads[i] = first_of(parts[i].root, key);
    }
    for (size_t i = 0; heads != NULL && i < limit && (v = greatest(heads, n, &at)) != NULL; i++) {
        json_w_value(w, v);
        *ret_last = text_of(v, "id");
        heads[at] = v->next;
    }
    bool more = heads == NULL || greatest(heads, n, &at) != NULL;
    json_w_end(w);
    mem_free(heads);
    return more;
}

/* ---- runs ---- */

void api_merge_runs(struct buf *out, const struct api_part *parts, size_t n, size_t limit)
{
    struct json_w w;
    struct str last;
    bool more = false;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    more = newest_write(&w, "runs", parts, n, limit, &last);
    for (size_t i = 0; i < n; i++) {
        more = more || text_of(parts[i].root, "next").p != NULL;
    }
    json_w_key(&w, "next");
    if (more && last.p != NULL) {
        json_w_str(&w, last);
    } else {
        json_w_null(&w);
    }
    partial_write(&w, parts, n);
    json_w_end(&w);
}

/* ---- call-backs ---- */

void api_merge_callbacks(struct buf *out, const struct api_part *parts, size_t n, size_t limit)
{
    struct json_w w;
    struct str last;
    bool more = false;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    more = newest_write(&w, "callbacks", parts, n, limit, &last);
    for (size_t i = 0; i < n; i++) {
        bool theirs = false;
        (void)json_bool(json_get(parts[i].root, "more"), &theirs);
        more = more || theirs;
    }
    json_kv_bool(&w, "more", more);
    partial_write(&w, parts, n);
    json_w_end(&w);
}

/* ---- nodes ---- */

static void missing_write(struct json_w *w, const struct api_part *p)
{
    json_w_obj(w);
    json_kv_cstr(w, "name", p->node);
    json_kv_cstr(w, "id", "");
    json_kv_cstr(w, "address", p->address);
    json_kv_cstr(w, "state", p->state);
    json_kv_cstr(w, "version", "");
    json_w_end(w);
}

static void nodes_write(struct json_w *w, const struct api_part *parts, size_t n)
{
    json_w_key(w, "nodes");
    json_w_arr(w);
    for (size_t i = 0; i < n; i++) {
        const struct json *v = first_of(parts[i].root, "nodes");
        if (v == NULL) {
            missing_write(w, &parts[i]);
        }
        for (; v != NULL; v = v->next) {
            json_w_value(w, v);
        }
    }
    json_w_end(w);
}

void api_merge_nodes(struct buf *out, const struct api_part *parts, size_t n)
{
    struct json_w w;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    nodes_write(&w, parts, n);
    partial_write(&w, parts, n);
    json_w_end(&w);
}

/* ---- status ---- */

/* An object whose numbers are those of all rows added up; of other members the first that is not
 * null, of times the last. */
static void sums_write(struct json_w *w, const struct json *const *rows, size_t n)
{
    json_w_obj(w);
    for (const struct json *m = n != 0 ? rows[0]->child : NULL; m != NULL; m = m->next) {
        char key[64];
        if (str_copy(key, sizeof(key), m->key) != 0) {
            continue;
        }
        bool number = m->type == JSON_INT && strcmp(key, "revision") != 0;
        const struct json *value = m;
        int64_t sum = 0;
        for (size_t i = 0; i < n; i++) {
            const struct json *v = json_get(rows[i], key);
            int64_t one = 0;
            if (v == NULL || v->type == JSON_NULL) {
                continue;
            }
            sum += json_int(v, &one) && one > 0 && one < INT64_MAX / 4096 ? one : 0;
            bool later = v->type == JSON_STRING && value->type == JSON_STRING &&
                         str_ends(m->key, "last_run") && str_cmp(v->u.s, value->u.s) > 0;
            bool newer = v->type == JSON_INT && value->type == JSON_INT && v->u.i > value->u.i;
            value = value->type == JSON_NULL || later || newer ? v : value;
        }
        json_w_key(w, key);
        if (number) {
            json_w_int(w, sum);
        } else {
            json_w_value(w, value);
        }
    }
    json_w_end(w);
}

static void object_write(struct json_w *w, const char *key, const struct api_part *parts, size_t n)
{
    const struct json **rows = mem_calloc(n + 1, sizeof(const struct json *));
    size_t len = 0;

    for (size_t i = 0; rows != NULL && i < n; i++) {
        const struct json *v = json_get(parts[i].root, key);
        if (v != NULL && v->type == JSON_OBJECT) {
            rows[len++] = v;
        }
    }
    json_w_key(w, key);
    sums_write(w, rows, len);
    mem_free(rows);
}

/* Is a job of that name in an earlier part? */
static bool seen_before(const struct api_part *parts, size_t n, struct str name)
{
    for (size_t i = 0; i < n; i++) {
        for (const struct json *v = first_of(parts[i].root, "jobs"); v != NULL; v = v->next) {
            if (str_eq(text_of(v, "name"), name)) {
                return true;
            }
        }
    }
    return false;
}

static void jobs_write(struct json_w *w, const struct api_part *parts, size_t n)
{
    const struct json **rows = mem_calloc(n + 1, sizeof(const struct json *));
    size_t written = 0;

    json_w_key(w, "jobs");
    json_w_arr(w);
    for (size_t i = 0; rows != NULL && i < n; i++) {
        for (const struct json *v = first_of(parts[i].root, "jobs"); v != NULL; v = v->next) {
            struct str name = text_of(v, "name");
            if (written == JOBS_MAX || seen_before(parts, i, name)) {
                continue;
            }
            size_t len = 0;
            rows[len++] = v;
            for (size_t k = i + 1; k < n; k++) {
                const struct json *o = first_of(parts[k].root, "jobs");
                while (o != NULL && !str_eq(text_of(o, "name"), name)) {
                    o = o->next;
                }
                if (o != NULL) {
                    rows[len++] = o;
                }
            }
            sums_write(w, rows, len);
            written++;
        }
    }
    json_w_end(w);
    mem_free(rows);
}

static void warnings_write(struct json_w *w, const struct api_part *parts, size_t n)
{
    size_t written = 0;

    json_w_key(w, "warnings");
    json_w_arr(w);
    for (size_t i = 0; i < n; i++) {
        for (const struct json *v = first_of(parts[i].root, "warnings"); v != NULL; v = v->next) {
            AUTO_BUF struct buf line = BUF_INIT(4096);
            struct str text;
            if (written == WARNINGS_MAX || !json_str(v, &text)) {
                continue;
            }
            if (n > 1) {
                (void)buf_addf(&line, "%s: ", parts[i].node);
            }
            (void)buf_addstr(&line, text);
            json_w_str(w, buf_str(&line));
            written++;
        }
    }
    json_w_end(w);
}

static void cluster_write(struct json_w *w, const struct api_part *parts, size_t n)
{
    const struct json *own = json_get(parts[0].root, "cluster");
    size_t alive = 0;

    for (size_t i = 0; i < n; i++) {
        alive += parts[i].root != NULL ? 1 : 0;
    }
    json_w_key(w, "cluster");
    json_w_obj(w);
    json_kv_u64(w, "nodes", n);
    json_kv_u64(w, "answered", alive);
    for (const struct json *m = own != NULL ? own->child : NULL; m != NULL; m = m->next) {
        if (!str_eqs(m->key, "nodes") && !str_eqs(m->key, "answered")) {
            json_w_keystr(w, m->key);
            json_w_value(w, m);
        }
    }
    json_w_end(w);
}

void api_merge_status(struct buf *out, const struct api_part *parts, size_t n)
{
    struct json_w w;
    struct str last;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    cluster_write(&w, parts, n);
    nodes_write(&w, parts, n);
    object_write(&w, "runs", parts, n);
    jobs_write(&w, parts, n);
    (void)newest_write(&w, "failures", parts, n, FAILURES_MAX, &last);
    object_write(&w, "store", parts, n);
    object_write(&w, "images", parts, n);
    warnings_write(&w, parts, n);
    partial_write(&w, parts, n);
    json_w_end(&w);
}
