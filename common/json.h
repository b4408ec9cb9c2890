/*
 * json - JSON both ways, over yajl.
 *
 * Reading: one bounded buffer, in one call, into a tree that one arena holds. Refused: depth over
 * the limit, more nodes than the limit, duplicate keys, comments, NUL inside strings, invalid
 * UTF-8, trailing text, numbers that do not fit an int64 or a finite double. Errors name line and
 * column. Writing: into a struct buf, with the buf's sticky error.
 */
#ifndef COMMON_JSON_H
#define COMMON_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

enum json_type { JSON_NULL, JSON_BOOL, JSON_INT, JSON_REAL, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
    enum json_type type;
    struct str key; /* inside an object: the member's name */
    union {
        bool b;
        int64_t i;
        double d;
        struct str s; /* unescaped, NUL-terminated */
    } u;
    size_t count;       /* members of an array or object */
    struct json *child; /* the first member */
    struct json *next;  /* the next sibling */
};

struct json_limits {
    unsigned depth_max; /* 0: 32 */
    size_t nodes_max;   /* 0: 65,536 */
};

struct json_doc; /* owns the tree */

/* 0 and *ret_doc; -EINVAL (malformed; e says "line 3, column 7: …"), -E2BIG (a limit), -ENOMEM.
 * limits may be NULL. The text is copied as needed: it may go away. */
int json_parse(const void *text, size_t n, const struct json_limits *limits,
               struct json_doc **ret_doc, struct err *e);
struct json_doc *json_free(struct json_doc *doc); /* returns NULL */
const struct json *json_root(const struct json_doc *doc);

static inline void json_cleanup(struct json_doc **doc)
{
    *doc = json_free(*doc);
}
#define AUTO_JSON __attribute__((cleanup(json_cleanup)))

/* The member `key` of an object, or NULL (also when obj is NULL or no object). */
const struct json *json_get(const struct json *obj, const char *key);
const struct json *json_at(const struct json *array, size_t i);
/* Typed reads; false when v is NULL or of another type. */
bool json_str(const struct json *v, struct str *ret);
bool json_int(const struct json *v, int64_t *ret);
bool json_bool(const struct json *v, bool *ret);
bool json_real(const struct json *v, double *ret); /* takes integers too */
const char *json_type_name(enum json_type t);      /* "a string", "an object", … */

#define JSON_EACH(pos, parent) \
    for (const struct json *pos = (parent)->child; pos != NULL; pos = pos->next)

/* Writer. Every call appends to the buf; misuse (value without key, unbalanced end) is an
 * INSIST. */
struct json_w {
    struct buf *out;
    bool pretty; /* two spaces and newlines */
    uint8_t depth;
    uint8_t state[32];
};

void json_w_init(struct json_w *w, struct buf *out, bool pretty);
void json_w_obj(struct json_w *w);
void json_w_arr(struct json_w *w);
void json_w_end(struct json_w *w); /* closes the innermost object or array */
void json_w_key(struct json_w *w, const char *key);
void json_w_keystr(struct json_w *w, struct str key);
void json_w_str(struct json_w *w, struct str s); /* invalid UTF-8 becomes U+FFFD */
void json_w_cstr(struct json_w *w, const char *s);
void json_w_int(struct json_w *w, int64_t v);
void json_w_u64(struct json_w *w, uint64_t v);
void json_w_real(struct json_w *w, double v, int decimals); /* non-finite: null */
void json_w_bool(struct json_w *w, bool v);
void json_w_null(struct json_w *w);
void json_w_time(struct json_w *w, int64_t unix_us);       /* RFC 3339, null when 0 */
void json_w_value(struct json_w *w, const struct json *v); /* a parsed tree */
void json_w_raw(struct json_w *w, struct str text);        /* text that is JSON already */
/* Member of an object in one call. */
void json_kv_cstr(struct json_w *w, const char *key, const char *s);
void json_kv_str(struct json_w *w, const char *key, struct str s);
void json_kv_int(struct json_w *w, const char *key, int64_t v);
void json_kv_u64(struct json_w *w, const char *key, uint64_t v);
void json_kv_bool(struct json_w *w, const char *key, bool v);
void json_kv_real(struct json_w *w, const char *key, double v, int decimals);
void json_kv_time(struct json_w *w, const char *key, int64_t unix_us);

#endif
