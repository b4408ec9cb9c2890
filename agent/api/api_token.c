/* Documents about tokens. */
#include "agent/api/api_token.h"

#include <errno.h>

#include "common/ids.h"

/* "read" or ["read", "submit"], as one comma list. */
static int take_scopes(const struct json *v, unsigned *ret, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(256);
    struct str s;
    if (json_str(v, &s)) {
        return token_scopes_parse(s, ret, e);
    }
    if (v->type != JSON_ARRAY) {
        return err_say(e, -EINVAL, "scopes: a list such as [\"read\", \"submit\"] is wanted");
    }
    JSON_EACH (item, v) {
        if (!json_str(item, &s) || str_find(s, ',') >= 0) {
            return err_say(e, -EINVAL, "scopes: a list of words is wanted");
        }
        (void)buf_adds(&text, text.len > 0 ? "," : "");
        (void)buf_addstr(&text, s);
    }
    return buf_error(&text) != 0 ? err_say(e, -EINVAL, "scopes: the list is too long")
                                 : token_scopes_parse(buf_str(&text), ret, e);
}

static int take_expires(struct str s, int64_t now_us, int64_t *ret_us, struct err *e)
{
    uint64_t ms;
    if (time_parse(s, ret_us) == 0 && *ret_us > now_us) {
        return 0;
    }
    if (str_duration_ms(s, &ms) == 0 && ms > 0 && ms <= UINT64_C(36600) * 24 * 3600 * 1000) {
        /* Whole seconds are enough. */
        *ret_us = (now_us / 1000000 + (int64_t)((ms + 999) / 1000)) * 1000000;
        return 0;
    }
    return err_say(e, -EINVAL,
                   "expires: a duration such as 30d, or a time to come such as "
                   "2027-01-31T00:00:00Z, is wanted");
}

static int take_text(const struct json *v, struct token *t, bool *hashed, int64_t now_us,
                     struct err *e)
{
    struct str s;
    if (!json_str(v, &s)) {
        return err_say(e, -EINVAL, "%.*s: text is wanted", STR_ARG(str_slice(v->key, 0, 32)));
    }
    if (str_eqs(v->key, "name")) {
        return token_name_ok(s) ? str_copy(t->name, sizeof(t->name), s)
                                : err_say(e, -EINVAL,
                                          "name: 1 to 64 letters, digits, '.', '_', '@', '-', "
                                          "beginning with a letter or digit, are wanted");
    }
    if (str_eqs(v->key, "prefix")) {
        return s.n == 0 || token_prefix_ok(s)
                   ? str_copy(t->prefix, sizeof(t->prefix), s)
                   : err_say(e, -EINVAL,
                             "prefix: 1 to 128 letters, digits, '.', '_', '/', '-' are wanted");
    }
    if (str_eqs(v->key, "expires")) {
        return take_expires(s, now_us, &t->expires_us, e);
    }
    *hashed = true;
    return s.n == (size_t)2 * TOKEN_HASH_BYTES && str_unhex(s, t->hash, TOKEN_HASH_BYTES) == 0
               ? 0
               : err_say(e, -EINVAL, "sha256: 64 hex digits are wanted");
}

int api_token_parse(struct str text, int64_t now_us, struct token *ret, bool *ret_hashed,
                    struct err *e)
{
    static const char *const texts[] = { "name", "prefix", "expires", "sha256" };
    const struct json_limits limits = { .depth_max = 4, .nodes_max = 64 };
    AUTO_JSON struct json_doc *doc = NULL;
    struct token t = { .scopes = 0 };
    bool hashed = false;
    int rc = json_parse(text.p, text.n, &limits, &doc, e);
    if (rc == 0 && json_root(doc)->type != JSON_OBJECT) {
        rc = err_say(e, -EINVAL, "a JSON object is wanted");
    }
    if (rc != 0) {
        return rc;
    }
    JSON_EACH (v, json_root(doc)) {
        bool known = str_eqs(v->key, "scopes");
        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]) && !known; i++) {
            known = str_eqs(v->key, texts[i]);
        }
        if (!known) {
            return err_say(e, -EINVAL, "name, scopes, prefix, expires and sha256 are known here");
        }
        rc = str_eqs(v->key, "scopes") ? take_scopes(v, &t.scopes, e)
                                       : take_text(v, &t, &hashed, now_us, e);
        if (rc != 0) {
            return rc;
        }
    }
    if (t.name[0] == '\0' || t.scopes == 0) {
        return err_say(e, -EINVAL, "name and scopes are wanted");
    }
    if (t.prefix[0] != '\0' && (t.scopes & TOKEN_ADMIN) != 0) {
        return err_say(e, -EINVAL, "prefix: admin reaches everything, it takes no prefix");
    }
    t.created_us = now_us;
    *ret = t;
    *ret_hashed = hashed;
    return 0;
}

static void time_or_null(struct json_w *w, const char *key, int64_t us)
{
    if (us != 0) {
        json_kv_time(w, key, us);
    } else {
        json_w_key(w, key);
        json_w_null(w);
    }
}

void api_token_write(struct json_w *w, const struct token *t, const char *source)
{
    AUTO_BUF struct buf names = BUF_INIT(256);
    struct str piece;
    token_scopes_write(&names, t->scopes);
    struct str rest = buf_str(&names);
    json_kv_cstr(w, "name", t->name);
    json_w_key(w, "scopes");
    json_w_arr(w);
    while (str_split(&rest, ',', &piece)) {
        json_w_str(w, piece);
    }
    json_w_end(w);
    json_kv_cstr(w, "prefix", t->prefix);
    time_or_null(w, "created_at", t->created_us);
    time_or_null(w, "expires_at", t->expires_us);
    json_kv_cstr(w, "created_by", t->by);
    json_kv_cstr(w, "source", source);
}
