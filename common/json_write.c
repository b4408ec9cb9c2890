/* Writing: straight into the buf, whose sticky error makes checks along the way unnecessary. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/ids.h"
#include "common/insist.h"
#include "common/json.h"

/* state[depth - 1] of the innermost open object or array. */
enum {
    W_OBJECT = 1,  /* else an array */
    W_MEMBERS = 2, /* there is one already: a comma goes first */
    W_KEYED = 4,   /* a key was written: its value comes next */
    W_DONE = 8,    /* state[0] at depth 0: the document's one value is written */
};

void json_w_init(struct json_w *w, struct buf *out, bool pretty)
{
    *w = (struct json_w){ .out = out, .pretty = pretty };
}

static void w_newline(struct json_w *w, size_t depth)
{
    if (w->pretty) {
        buf_addc(w->out, '\n');
        for (size_t i = 0; i < depth; i++) {
            buf_add(w->out, "  ", 2);
        }
    }
}

/* What goes between the members, or before a key. */
static void w_separate(struct json_w *w, uint8_t *state)
{
    if ((*state & W_MEMBERS) != 0) {
        buf_addc(w->out, ',');
    }
    *state |= W_MEMBERS;
    w_newline(w, w->depth);
}

/* Before each value. */
static void w_value(struct json_w *w)
{
    if (w->depth == 0) {
        INSIST((w->state[0] & W_DONE) == 0);
        w->state[0] = W_DONE;
        return;
    }
    uint8_t *state = &w->state[w->depth - 1];
    if ((*state & W_OBJECT) != 0) {
        INSIST((*state & W_KEYED) != 0);
        *state &= (uint8_t)~W_KEYED;
    } else {
        w_separate(w, state);
    }
}

static void w_open(struct json_w *w, char c, uint8_t kind)
{
    w_value(w);
    INSIST(w->depth < sizeof w->state);
    w->state[w->depth++] = kind;
    buf_addc(w->out, c);
}

void json_w_obj(struct json_w *w)
{
    w_open(w, '{', W_OBJECT);
}

void json_w_arr(struct json_w *w)
{
    w_open(w, '[', 0);
}

void json_w_end(struct json_w *w)
{
    INSIST(w->depth > 0);
    uint8_t state = w->state[--w->depth];
    INSIST((state & W_KEYED) == 0);
    if ((state & W_MEMBERS) != 0) {
        w_newline(w, w->depth);
    }
    buf_addc(w->out, (state & W_OBJECT) != 0 ? '}' : ']');
    if (w->depth == 0) {
        w->state[0] = W_DONE;
    }
}

/* Goes out as it is? */
static bool plain(unsigned char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

static void w_escape(struct buf *out, unsigned char c)
{
    static const char from[] = "\"\\\n\r\t\b\f";
    static const char to[] = "\"\\nrtbf";
    const char *at = strchr(from, c);
    if (c != '\0' && at != NULL) {
        char pair[2] = { '\\', to[at - from] };
        buf_add(out, pair, sizeof pair);
    } else {
        buf_addf(out, "\\u%04x", c);
    }
}

static void w_string(struct buf *out, struct str s)
{
    buf_addc(out, '"');
    while (s.n != 0) {
        size_t run = 0;
        while (run < s.n && plain((unsigned char)s.p[run])) {
            run++;
        }
        buf_add(out, s.p, run);
        s = str_slice(s, run, SIZE_MAX);
        if (s.n == 0) {
            break;
        }
        size_t take = 1;
        if ((unsigned char)s.p[0] < 0x80) {
            w_escape(out, (unsigned char)s.p[0]);
        } else {
            take = 0;
            size_t span = str_utf8_span(str_slice(s, 0, 4));
            while (take < span && (unsigned char)s.p[take] >= 0x80) {
                take++;
            }
            if (take == 0) {
                buf_adds(out, "\xef\xbf\xbd"); /* U+FFFD */
                take = 1;
            } else {
                buf_add(out, s.p, take);
            }
        }
        s = str_slice(s, take, SIZE_MAX);
    }
    buf_addc(out, '"');
}

void json_w_keystr(struct json_w *w, struct str key)
{
    INSIST(w->depth > 0);
    uint8_t *state = &w->state[w->depth - 1];
    INSIST((*state & (W_OBJECT | W_KEYED)) == W_OBJECT);
    w_separate(w, state);
    *state |= W_KEYED;
    w_string(w->out, key);
    buf_adds(w->out, w->pretty ? ": " : ":");
}

void json_w_key(struct json_w *w, const char *key)
{
    json_w_keystr(w, str_of(key));
}

void json_w_str(struct json_w *w, struct str s)
{
    w_value(w);
    w_string(w->out, s);
}

void json_w_cstr(struct json_w *w, const char *s)
{
    json_w_str(w, str_of(s));
}

void json_w_int(struct json_w *w, int64_t v)
{
    w_value(w);
    buf_addf(w->out, "%lld", (long long)v);
}

void json_w_u64(struct json_w *w, uint64_t v)
{
    w_value(w);
    buf_addf(w->out, "%llu", (unsigned long long)v);
}

static void w_real(struct buf *out, double v, int decimals)
{
    if (!isfinite(v)) {
        buf_adds(out, "null");
    } else if (decimals >= 0 && fabs(v) < 1e15) {
        buf_addf(out, "%.*f", decimals, v);
    } else {
        /* The shortest text that reads back as the same number: 0.2, not 0.20000000000000001. */
        char text[40] = "";
        for (int digits = 15; digits <= 17; digits++) {
            (void)snprintf(text, sizeof text, "%.*g", digits, v);
            double back = strtod(text, NULL); /* the process never leaves the "C" locale */
            if (!(back < v) && !(back > v)) {
                break;
            }
        }
        /* It stays a real number when it is read again. */
        buf_addf(out, "%s%s", text, strpbrk(text, ".e") == NULL ? ".0" : "");
    }
}

void json_w_real(struct json_w *w, double v, int decimals)
{
    w_value(w);
    w_real(w->out, v, decimals);
}

void json_w_bool(struct json_w *w, bool v)
{
    w_value(w);
    buf_adds(w->out, v ? "true" : "false");
}

void json_w_null(struct json_w *w)
{
    w_value(w);
    buf_adds(w->out, "null");
}

void json_w_time(struct json_w *w, int64_t unix_us)
{
    char text[TIME_TEXT_CAP];
    if (unix_us == 0) {
        json_w_null(w);
    } else {
        json_w_cstr(w, time_format(unix_us, text));
    }
}

static void w_tree(struct json_w *w, const struct json *v, size_t depth)
{
    switch (v->type) {
    case JSON_NULL:
        buf_adds(w->out, "null");
        return;
    case JSON_BOOL:
        buf_adds(w->out, v->u.b ? "true" : "false");
        return;
    case JSON_INT:
        buf_addf(w->out, "%lld", (long long)v->u.i);
        return;
    case JSON_REAL:
        w_real(w->out, v->u.d, -1);
        return;
    case JSON_STRING:
        w_string(w->out, v->u.s);
        return;
    case JSON_ARRAY:
    case JSON_OBJECT:
        break;
    }
    bool object = v->type == JSON_OBJECT;
    buf_addc(w->out, object ? '{' : '[');
    JSON_EACH (member, v) {
        if (member != v->child) {
            buf_addc(w->out, ',');
        }
        w_newline(w, depth + 1);
        if (object) {
            w_string(w->out, member->key);
            buf_adds(w->out, w->pretty ? ": " : ":");
        }
        w_tree(w, member, depth + 1); /* no deeper than json_parse() let it be */
    }
    if (v->child != NULL) {
        w_newline(w, depth);
    }
    buf_addc(w->out, object ? '}' : ']');
}

/* Does not go through state[]: how deep a tree from outside is must not be able to fail an INSIST.
 */
void json_w_value(struct json_w *w, const struct json *v)
{
    w_value(w);
    w_tree(w, v, w->depth);
}

void json_w_raw(struct json_w *w, struct str text)
{
    w_value(w);
    buf_addstr(w->out, text);
}

void json_kv_cstr(struct json_w *w, const char *key, const char *s)
{
    json_w_key(w, key);
    json_w_cstr(w, s);
}

void json_kv_str(struct json_w *w, const char *key, struct str s)
{
    json_w_key(w, key);
    json_w_str(w, s);
}

void json_kv_int(struct json_w *w, const char *key, int64_t v)
{
    json_w_key(w, key);
    json_w_int(w, v);
}

void json_kv_u64(struct json_w *w, const char *key, uint64_t v)
{
    json_w_key(w, key);
    json_w_u64(w, v);
}

void json_kv_bool(struct json_w *w, const char *key, bool v)
{
    json_w_key(w, key);
    json_w_bool(w, v);
}

void json_kv_real(struct json_w *w, const char *key, double v, int decimals)
{
    json_w_key(w, key);
    json_w_real(w, v, decimals);
}

void json_kv_time(struct json_w *w, const char *key, int64_t unix_us)
{
    json_w_key(w, key);
    json_w_time(w, unix_us);
}
