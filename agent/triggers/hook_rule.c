#include <errno.h>

#include "agent/triggers/hook.h"
#include "agent/triggers/triggers_internal.h"
#include "common/insist.h"

static const char *const algo_names[] = { "sha1", "sha256", "sha512" };
static const char *const encoding_names[] = { "hex", "base64" };
static const char *const kinds[] = { "none",  "github",   "gitlab", "stripe",
                                     "slack", "standard", "hmac",   "bearer" };

static int header_name(const struct json *v, const char *name,
                       char dst[TRIGGER_HOOK_HEADER_MAX + 1], struct err *e)
{
    struct str s;
    int rc = trigger_get_text(v, name, 1, TRIGGER_HOOK_HEADER_MAX, &s, e);

    for (size_t i = 0; rc == 0 && i < s.n; i++) {
        char c = s.p[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '-' || c == '_';
        if (!ok) {
            rc = err_say(e, -EINVAL, "%s '%.*s' is not the name of a header", name, STR_ARG(s));
        }
    }
    return rc == 0 ? str_copy(dst, TRIGGER_HOOK_HEADER_MAX + 1, s) : rc;
}

static int parts(const struct json *v, struct trigger_hook_rule *r, struct err *e)
{
    if (v->type != JSON_ARRAY || v->count == 0 || v->count > TRIGGER_HOOK_PARTS_MAX) {
        return err_say(e, -EINVAL, "signed must be an array of 1 to %d parts",
                       TRIGGER_HOOK_PARTS_MAX);
    }
    JSON_EACH (item, v) {
        struct trigger_hook_part *p = &r->parts[r->parts_len];
        struct str s;
        int rc = trigger_get_text(item, "signed", 1, TRIGGER_HOOK_PART_MAX, &s, e);
        if (rc != 0) {
            return rc;
        }
        p->kind = TRIGGER_PART_TEXT;
        if (str_eqs(s, "body")) {
            p->kind = TRIGGER_PART_BODY;
        } else if (str_starts(s, "header:") && s.n > 7) {
            p->kind = TRIGGER_PART_HEADER;
            s = str_slice(s, 7, s.n);
        }
        (void)str_copy(p->text, sizeof p->text, s);
        r->parts_len++;
    }
    return 0;
}

static int hmac_member(const struct json *m, struct trigger_hook_rule *r, struct err *e)
{
    size_t i = 0;
    struct str s;
    int rc;

    if (str_eqs(m->key, "header")) {
        return header_name(m, "header", r->header, e);
    }
    if (str_eqs(m->key, "algorithm")) {
        rc = trigger_get_choice(m, "algorithm", algo_names, ARRAY_LEN(algo_names), &i, e);
        r->algo = (enum hmac_algo)i;
        return rc;
    }
    if (str_eqs(m->key, "encoding")) {
        rc = trigger_get_choice(m, "encoding", encoding_names, ARRAY_LEN(encoding_names), &i, e);
        r->base64 = i == 1;
        return rc;
    }
    if (str_eqs(m->key, "prefix")) {
        rc = trigger_get_text(m, "prefix", 0, TRIGGER_HOOK_PREFIX_MAX, &s, e);
        return rc == 0 ? str_copy(r->prefix, sizeof r->prefix, s) : rc;
    }
    if (str_eqs(m->key, "signed")) {
        return parts(m, r, e);
    }
    return err_say(e, -EINVAL, "'%.*s' is not a member here", STR_ARG(str_slice(m->key, 0, 40)));
}

/* A time or an id that nobody signed proves nothing. */
static bool is_signed(const struct trigger_hook_rule *r, const char *header)
{
    for (size_t i = 0; i < r->parts_len; i++) {
        if (r->parts[i].kind == TRIGGER_PART_HEADER && str_ieqs(str_of(r->parts[i].text), header)) {
            return true;
        }
    }
    return false;
}

static int check_whole(const struct trigger_hook_rule *r, struct err *e)
{
    bool body = r->parts_len == 0;

    if (r->kind != TRIGGER_HOOK_HMAC) {
        return r->time_header[0] == '\0'
                   ? 0
                   : err_say(e, -EINVAL, "time_header is for the kind \"hmac\" only");
    }
    if (r->header[0] == '\0') {
        return err_say(e, -EINVAL, "header is missing: where the signature is");
    }
    for (size_t i = 0; i < r->parts_len; i++) {
        body = body || r->parts[i].kind == TRIGGER_PART_BODY;
    }
    if (!body) {
        return err_say(e, -EINVAL, "signed must have the part \"body\"");
    }
    if (r->time_header[0] != '\0' && !is_signed(r, r->time_header)) {
        return err_say(e, -EINVAL, "time_header must be among the parts of signed");
    }
    return 0;
}

int trigger_hook_rule_parse(const struct json *v, struct trigger_hook_rule *ret, struct err *e)
{
    struct trigger_hook_rule r = { .tolerance_s = TRIGGER_HOOK_TOLERANCE_S, .algo = HMAC_SHA256 };
    const struct json *kind = v->type == JSON_OBJECT ? json_get(v, "kind") : v;
    size_t i = 0;
    int rc;

    if (kind == NULL) {
        return err_say(e, -EINVAL, "kind is missing");
    }
    rc = trigger_get_choice(kind, "kind", kinds, ARRAY_LEN(kinds), &i, e);
    r.kind = (enum trigger_hook_kind)i;
    for (const struct json *m = v->type == JSON_OBJECT ? v->child : NULL; rc == 0 && m != NULL;
         m = m->next) {
        uint64_t ms = 0;
        if (str_eqs(m->key, "tolerance")) {
            rc = trigger_get_duration(m, "tolerance", 1000,
                                      TRIGGER_HOOK_TOLERANCE_MAX_S * UINT64_C(1000), &ms, e);
            r.tolerance_s = (uint32_t)(ms / 1000);
        } else if (str_eqs(m->key, "id_header")) {
            rc = header_name(m, "id_header", r.id_header, e);
        } else if (str_eqs(m->key, "time_header")) {
            rc = header_name(m, "time_header", r.time_header, e);
        } else if (!str_eqs(m->key, "kind")) {
            rc = r.kind == TRIGGER_HOOK_HMAC
                     ? hmac_member(m, &r, e)
                     : err_say(e, -EINVAL, "'%.*s' is for the kind \"hmac\" only",
                               STR_ARG(str_slice(m->key, 0, 40)));
        }
    }
    rc = rc == 0 ? check_whole(&r, e) : rc;
    if (rc == 0) {
        *ret = r;
    }
    return rc;
}

static void part_to_json(struct json_w *w, const struct trigger_hook_part *p)
{
    char text[TRIGGER_HOOK_PART_MAX + 8] = "header:";

    if (p->kind == TRIGGER_PART_HEADER) {
        (void)str_copy(text + 7, sizeof text - 7, str_of(p->text));
        json_w_cstr(w, text);
    } else {
        json_w_cstr(w, p->kind == TRIGGER_PART_BODY ? "body" : p->text);
    }
}

void trigger_hook_rule_to_json(struct json_w *w, const struct trigger_hook_rule *r)
{
    json_w_obj(w);
    json_kv_cstr(w, "kind", trigger_hook_kind_name(r->kind));
    if (r->tolerance_s != TRIGGER_HOOK_TOLERANCE_S) {
        json_kv_u64(w, "tolerance", r->tolerance_s);
    }
    if (r->id_header[0] != '\0') {
        json_kv_cstr(w, "id_header", r->id_header);
    }
    if (r->kind == TRIGGER_HOOK_HMAC) {
        json_kv_cstr(w, "header", r->header);
        json_kv_cstr(w, "algorithm", algo_names[r->algo]);
        json_kv_cstr(w, "encoding", encoding_names[r->base64 ? 1 : 0]);
        json_kv_cstr(w, "prefix", r->prefix);
        if (r->time_header[0] != '\0') {
            json_kv_cstr(w, "time_header", r->time_header);
        }
        if (r->parts_len != 0) {
            json_w_key(w, "signed");
            json_w_arr(w);
            for (size_t i = 0; i < r->parts_len; i++) {
                part_to_json(w, &r->parts[i]);
            }
            json_w_end(w);
        }
    }
    json_w_end(w);
}
