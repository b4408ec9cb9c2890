/*
 * Reading, over yajl's callbacks. yajl's traps and what closes them here (all have a test):
 *
 *  - its tree API recurses: only the callbacks are used, and they count the depth;
 *  - it never looks whether an allocation worked: our allocator leaves by longjmp() instead of
 * returning NULL, and then frees the blocks that yajl held;
 *  - text split over calls costs quadratic time: there is one call;
 *  - it lets overlong UTF-8, lone surrogates and \u0000 through (and drops a character after a lone
 *    one): the text is checked before yajl sees it;
 *  - duplicate keys and numbers that do not fit are the callbacks' business.
 */
#include "common/json.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

#include "common/insist.h"
#include "common/list.h"
#include "common/mem.h"

enum {
    JSON_DEPTH_DEFAULT = 32,
    JSON_DEPTH_MAX = 256,
    JSON_NODES_DEFAULT = 65536,
    JSON_NUMBER_MAX = 128, /* characters */
    JSON_KEYS_LINEAR = 16, /* more members: duplicates are looked for by sorting at the end */
    JSON_CHUNK_MIN = 1024,
    JSON_CHUNK_MAX = 256 * 1024,
};

/* --- the arena --- */

struct json_chunk {
    struct json_chunk *next;
    size_t used;
    size_t cap;
    alignas(max_align_t) char data[];
};

struct json_doc {
    struct json_chunk *chunks; /* the newest first */
    struct json *root;
};

static void *doc_alloc(struct json_doc *doc, size_t n, size_t align)
{
    struct json_chunk *c = doc->chunks;
    size_t at = c != NULL ? (c->used + align - 1) / align * align : 0;
    if (c == NULL || at > c->cap || n > c->cap - at) {
        size_t cap = c != NULL && c->cap < JSON_CHUNK_MAX ? c->cap * 2 : JSON_CHUNK_MIN;
        if (c != NULL && c->cap >= JSON_CHUNK_MAX) {
            cap = JSON_CHUNK_MAX;
        }
        if (cap < n) {
            cap = n;
        }
        if (cap > SIZE_MAX - sizeof *c) {
            return NULL;
        }
        c = mem_alloc(sizeof *c + cap);
        if (c == NULL) {
            return NULL;
        }
        c->next = doc->chunks;
        c->cap = cap;
        doc->chunks = c;
        at = 0;
    }
    c->used = at + n;
    return c->data + at;
}

struct json_doc *json_free(struct json_doc *doc)
{
    if (doc != NULL) {
        for (struct json_chunk *c = doc->chunks; c != NULL;) {
            struct json_chunk *next = c->next;
            mem_free(c);
            c = next;
        }
        mem_free(doc);
    }
    return NULL;
}

const struct json *json_root(const struct json_doc *doc)
{
    return doc->root;
}

/* --- one parse --- */

struct json_level {
    struct json *node;
    struct json *last; /* its newest member */
};

struct json_parser {
    struct json_doc *doc;
    const char *text;
    size_t n;
    size_t depth;
    size_t depth_max;
    size_t nodes_left;
    struct str key; /* of the member that comes next */
    yajl_handle yajl;
    size_t token_end; /* of the last token that made a callback */
    int error;        /* what a callback refused */
    char why[160];
    /* Blocks that yajl holds, and the way out when there are no more. */
    struct list blocks;
    jmp_buf no_memory;
    struct json_level levels[]; /* depth_max */
};

struct yajl_block {
    struct list link;
    alignas(max_align_t) char data[];
};

static void *yajl_block_new(void *ctx, size_t n)
{
    struct json_parser *p = ctx;
    struct yajl_block *b = n <= SIZE_MAX - sizeof *b ? mem_alloc(sizeof *b + n) : NULL;
    if (b == NULL) {
        longjmp(p->no_memory, 1);
    }
    list_push_back(&p->blocks, &b->link);
    return b->data;
}

static void yajl_block_free(void *ctx, void *data)
{
    (void)ctx;
    if (data != NULL) {
        struct yajl_block *b = CONTAINER_OF(data, struct yajl_block, data);
        list_remove(&b->link);
        mem_free(b);
    }
}

static void *yajl_block_resize(void *ctx, void *data, size_t n)
{
    struct json_parser *p = ctx;
    if (data == NULL) {
        return yajl_block_new(ctx, n);
    }
    struct yajl_block *b = CONTAINER_OF(data, struct yajl_block, data);
    list_remove(&b->link);
    struct yajl_block *bigger = n <= SIZE_MAX - sizeof *b ? mem_realloc(b, sizeof *b + n) : NULL;
    if (bigger == NULL) {
        list_push_back(&p->blocks, &b->link);
        longjmp(p->no_memory, 1);
    }
    list_push_back(&p->blocks, &bigger->link);
    return bigger->data;
}

__attribute__((format(printf, 3, 4))) static int json_refuse(struct json_parser *p, int code,
                                                             const char *fmt, ...)
{
    va_list ap;
    p->error = code;
    va_start(ap, fmt);
    (void)vsnprintf(p->why, sizeof p->why, fmt, ap);
    va_end(ap);
    return 0; /* yajl: cancel */
}

static int json_no_memory(struct json_parser *p)
{
    return json_refuse(p, -ENOMEM, "out of memory");
}

static bool doc_str(struct json_parser *p, const unsigned char *s, size_t n, struct str *ret)
{
    char *copy = doc_alloc(p->doc, n + 1, 1);
    if (copy == NULL) {
        return false;
    }
    if (n != 0) {
        memcpy(copy, s, n);
    }
    copy[n] = '\0';
    *ret = (struct str){ copy, n };
    return true;
}

/* A new node as the next member of the innermost open array or object; NULL after json_refuse(). */
static struct json *json_add(struct json_parser *p, enum json_type type)
{
    if (p->nodes_left == 0) {
        json_refuse(p, -E2BIG, "too many values");
        return NULL;
    }
    struct json *node = doc_alloc(p->doc, sizeof *node, alignof(struct json));
    if (node == NULL) {
        json_no_memory(p);
        return NULL;
    }
    p->nodes_left--;
    p->token_end = yajl_get_bytes_consumed(p->yajl);
    *node = (struct json){ .type = type, .key = p->key };
    p->key = (struct str){ NULL, 0 };
    if (p->depth == 0) {
        p->doc->root = node;
        return node;
    }
    struct json_level *level = &p->levels[p->depth - 1];
    if (level->last != NULL) {
        level->last->next = node;
    } else {
        level->node->child = node;
    }
    level->last = node;
    level->node->count++;
    return node;
}

static int on_null(void *ctx)
{
    return json_add(ctx, JSON_NULL) != NULL;
}

static int on_bool(void *ctx, int value)
{
    struct json *node = json_add(ctx, JSON_BOOL);
    if (node != NULL) {
        node->u.b = value != 0;
    }
    return node != NULL;
}

static int on_number(void *ctx, const char *text, size_t n)
{
    struct json_parser *p = ctx;
    struct str s = { text, n };
    char copy[JSON_NUMBER_MAX + 1];

    if (str_copy(copy, sizeof copy, s) != 0) {
        return json_refuse(p, -EINVAL, "a number of more than %d characters", JSON_NUMBER_MAX);
    }
    if (strpbrk(copy, ".eE") == NULL) {
        int64_t i;
        if (str_i64(s, &i) != 0) {
            return json_refuse(p, -EINVAL, "number %.40s does not fit 64 bits", copy);
        }
        struct json *node = json_add(p, JSON_INT);
        if (node != NULL) {
            node->u.i = i;
        }
        return node != NULL;
    }
    double d = strtod(copy, NULL); /* the process never leaves the "C" locale */
    if (!isfinite(d)) {
        return json_refuse(p, -EINVAL, "number %.40s is too large", copy);
    }
    struct json *node = json_add(p, JSON_REAL);
    if (node != NULL) {
        node->u.d = d;
    }
    return node != NULL;
}

static int on_string(void *ctx, const unsigned char *s, size_t n)
{
    struct json_parser *p = ctx;
    struct json *node = json_add(p, JSON_STRING);
    if (node != NULL && !doc_str(p, s, n, &node->u.s)) {
        return json_no_memory(p);
    }
    return node != NULL;
}

static int json_duplicate(struct json_parser *p, struct str key)
{
    struct str shown = str_slice(key, 0, 40);
    return json_refuse(p, -EINVAL, "key \"%.*s\" appears twice", STR_ARG(shown));
}

static int on_key(void *ctx, const unsigned char *s, size_t n)
{
    struct json_parser *p = ctx;
    const struct json *object = p->levels[p->depth - 1].node;

    if (!doc_str(p, s, n, &p->key)) {
        return json_no_memory(p);
    }
    if (object->count < JSON_KEYS_LINEAR) {
        JSON_EACH (member, object) {
            if (str_eq(member->key, p->key)) {
                return json_duplicate(p, p->key);
            }
        }
    }
    p->token_end = yajl_get_bytes_consumed(p->yajl);
    return 1;
}

static int json_open(struct json_parser *p, enum json_type type)
{
    if (p->depth == p->depth_max) {
        return json_refuse(p, -E2BIG, "nested deeper than %zu", p->depth_max);
    }
    struct json *node = json_add(p, type);
    if (node != NULL) {
        p->levels[p->depth++] = (struct json_level){ .node = node };
    }
    return node != NULL;
}

static int on_open_object(void *ctx)
{
    return json_open(ctx, JSON_OBJECT);
}

static int on_open_array(void *ctx)
{
    return json_open(ctx, JSON_ARRAY);
}

static int json_close(struct json_parser *p)
{
    p->depth--;
    p->token_end = yajl_get_bytes_consumed(p->yajl);
    return 1;
}

static int key_order(const void *a, const void *b)
{
    const struct str *const *x = a;
    const struct str *const *y = b;
    return str_cmp(**x, **y);
}

/* A hash table would need a secret; sorting is never quadratic. */
static int on_close_object(void *ctx)
{
    struct json_parser *p = ctx;
    const struct json *object = p->levels[p->depth - 1].node;

    if (object->count > JSON_KEYS_LINEAR) {
        AUTO_MEM const struct str **keys = mem_calloc(object->count, sizeof *keys);
        size_t n = 0;
        if (keys == NULL) {
            return json_no_memory(p);
        }
        JSON_EACH (member, object) {
            keys[n++] = &member->key;
        }
        qsort(keys, n, sizeof *keys, key_order);
        for (size_t i = 1; i < n; i++) {
            if (str_eq(*keys[i - 1], *keys[i])) {
                return json_duplicate(p, *keys[i]);
            }
        }
    }
    return json_close(p);
}

static int on_close_array(void *ctx)
{
    return json_close(ctx);
}

static int json_fail(const struct json_parser *p, size_t at, int code, const char *why,
                     struct err *e)
{
    size_t line = 1;
    size_t column = 1;
    for (size_t i = 0; i < at && i < p->n; i++) {
        column++;
        if (p->text[i] == '\n') {
            line++;
            column = 1;
        }
    }
    return err_say(e, code, "line %zu, column %zu: %s", line, column, why);
}

/* The 16 bits of "\uXXXX" at s. */
static bool escape_unit(struct str s, uint64_t *ret)
{
    return str_starts(s, "\\u") && s.n >= 6 && str_hex_u64(str_slice(s, 2, 4), ret) == 0;
}

/* What yajl does not check of a text. Everything else about escapes is left to it. */
static int json_check_text(const struct json_parser *p, struct err *e)
{
    struct str all = { p->text, p->n };
    size_t span = str_utf8_span(all);
    if (span != p->n) {
        const char *why = p->text[span] == '\0' ? "a NUL byte" : "malformed UTF-8";
        return json_fail(p, span, -EINVAL, why, e);
    }
    for (size_t i = 0; i < p->n;) {
        struct str rest = str_slice(all, i, SIZE_MAX);
        ptrdiff_t at = str_find(rest, '\\');
        if (at < 0) {
            return 0;
        }
        i += (size_t)at;
        rest = str_slice(rest, (size_t)at, SIZE_MAX);
        uint64_t unit;
        uint64_t low;
        if (!escape_unit(rest, &unit)) {
            i += 2;
        } else if (unit == 0) {
            return json_fail(p, i, -EINVAL, "\\u0000 in a string", e);
        } else if (unit < 0xd800 || unit > 0xdfff) {
            i += 6;
        } else if (unit <= 0xdbff && escape_unit(str_slice(rest, 6, SIZE_MAX), &low) &&
                   low >= 0xdc00 && low <= 0xdfff) {
            i += 12;
        } else {
            return json_fail(p, i, -EINVAL, "half of a surrogate pair", e);
        }
    }
    return 0;
}

/* Where the token begins that yajl did not like. */
static size_t json_error_at(const struct json_parser *p)
{
    size_t end = yajl_get_bytes_consumed(p->yajl);
    size_t at = p->token_end;
    if (end > p->n) {
        end = p->n;
    }
    while (at + 1 < end && strchr(" \t\r\n,:", p->text[at]) != NULL) {
        at++;
    }
    return at;
}

static int json_yajl_error(struct json_parser *p, struct err *e)
{
    unsigned char *text = yajl_get_error(p->yajl, 0, (const unsigned char *)p->text, p->n);
    char why[160];
    (void)snprintf(why, sizeof why, "%s", (const char *)text);
    yajl_free_error(p->yajl, text);
    why[strcspn(why, "\n")] = '\0';

    bool early = strstr(why, "EOF") != NULL;
    /* "lexical error: invalid char", "parse error: …" */
    return json_fail(p, early ? p->n : json_error_at(p), -EINVAL,
                     early ? "the text ends too early" : why, e);
}

static int json_run(struct json_parser *p, struct err *e)
{
    static const yajl_callbacks callbacks = {
        .yajl_null = on_null,
        .yajl_boolean = on_bool,
        .yajl_number = on_number,
        .yajl_string = on_string,
        .yajl_start_map = on_open_object,
        .yajl_map_key = on_key,
        .yajl_end_map = on_close_object,
        .yajl_start_array = on_open_array,
        .yajl_end_array = on_close_array,
    };
    yajl_alloc_funcs memory = { yajl_block_new, yajl_block_resize, yajl_block_free, p };

    if (setjmp(p->no_memory) != 0) {
        return err_set(e, -ENOMEM, "parse JSON");
    }
    p->yajl = yajl_alloc(&callbacks, &memory, p);
    yajl_config(p->yajl, yajl_allow_comments, 0);
    yajl_config(p->yajl, yajl_dont_validate_strings, 0);
    yajl_status status = yajl_parse(p->yajl, (const unsigned char *)p->text, p->n);
    if (status == yajl_status_ok) {
        status = yajl_complete_parse(p->yajl);
    }
    if (status == yajl_status_ok) {
        return 0;
    }
    if (p->error == -ENOMEM) {
        return err_set(e, -ENOMEM, "parse JSON");
    }
    if (p->error != 0) {
        return json_fail(p, json_error_at(p), p->error, p->why, e);
    }
    return json_yajl_error(p, e);
}

int json_parse(const void *text, size_t n, const struct json_limits *limits,
               struct json_doc **ret_doc, struct err *e)
{
    size_t depth_max =
        limits != NULL && limits->depth_max != 0 ? limits->depth_max : JSON_DEPTH_DEFAULT;
    size_t nodes_max =
        limits != NULL && limits->nodes_max != 0 ? limits->nodes_max : JSON_NODES_DEFAULT;
    REQUIRE(depth_max <= JSON_DEPTH_MAX);

    struct json_doc *doc = mem_zalloc(sizeof *doc);
    struct json_parser *p = mem_zalloc(sizeof *p + depth_max * sizeof p->levels[0]);
    int r = -ENOMEM;
    if (doc == NULL || p == NULL) {
        (void)err_set(e, -ENOMEM, "parse JSON");
        goto out;
    }
    p->doc = doc;
    p->text = n != 0 ? text : "";
    p->n = n;
    p->depth_max = depth_max;
    p->nodes_left = nodes_max;
    list_init(&p->blocks);
    r = json_check_text(p, e);
    if (r == 0) {
        r = json_run(p, e);
        LIST_EACH_SAFE (l, &p->blocks) {
            mem_free(LIST_ITEM(l, struct yajl_block, link));
        }
    }
    if (r == 0) {
        INSIST(doc->root != NULL && p->depth == 0);
        *ret_doc = TAKE(doc);
    }
out:
    mem_free(p);
    json_free(doc);
    return r;
}

/* --- looking things up --- */

const struct json *json_get(const struct json *obj, const char *key)
{
    if (obj == NULL || obj->type != JSON_OBJECT) {
        return NULL;
    }
    struct str wanted = str_of(key);
    JSON_EACH (member, obj) {
        if (str_eq(member->key, wanted)) {
            return member;
        }
    }
    return NULL;
}

const struct json *json_at(const struct json *array, size_t i)
{
    if (array == NULL || array->type != JSON_ARRAY || i >= array->count) {
        return NULL;
    }
    const struct json *member = array->child;
    while (i-- > 0) {
        member = member->next;
    }
    return member;
}

bool json_str(const struct json *v, struct str *ret)
{
    if (v == NULL || v->type != JSON_STRING) {
        return false;
    }
    *ret = v->u.s;
    return true;
}

bool json_int(const struct json *v, int64_t *ret)
{
    if (v == NULL || v->type != JSON_INT) {
        return false;
    }
    *ret = v->u.i;
    return true;
}

bool json_bool(const struct json *v, bool *ret)
{
    if (v == NULL || v->type != JSON_BOOL) {
        return false;
    }
    *ret = v->u.b;
    return true;
}

bool json_real(const struct json *v, double *ret)
{
    if (v == NULL || (v->type != JSON_REAL && v->type != JSON_INT)) {
        return false;
    }
    *ret = v->type == JSON_REAL ? v->u.d : (double)v->u.i;
    return true;
}

const char *json_type_name(enum json_type t)
{
    static const char *const names[] = {
        [JSON_NULL] = "null",        [JSON_BOOL] = "true or false", [JSON_INT] = "an integer",
        [JSON_REAL] = "a number",    [JSON_STRING] = "a string",    [JSON_ARRAY] = "an array",
        [JSON_OBJECT] = "an object",
    };
    return names[t];
}
