#include "agent/triggers/cloudevent.h"

#include <errno.h>
#include <stdio.h>

#include "common/base64.h"
#include "common/http1.h"
#include "common/insist.h"
#include "common/mem.h"

enum { DATA_MAX = 64 * 1024 * 1024 };

enum trigger_event_mode trigger_event_mode_of(struct str content_type)
{
    ptrdiff_t end = str_find(content_type, ';');
    struct str type = str_trim(str_slice(content_type, 0, end < 0 ? content_type.n : (size_t)end));

    if (str_ieqs(type, "application/cloudevents+json")) {
        return TRIGGER_EVENT_STRUCTURED;
    }
    return str_ieqs(type, "application/cloudevents-batch+json") ? TRIGGER_EVENT_BATCH
                                                                : TRIGGER_EVENT_BINARY;
}

void trigger_event_release(struct trigger_cloudevent *ev)
{
    ev->attributes = mem_free(ev->attributes);
    ev->attributes_len = 0;
    buf_release(&ev->data);
}

const char *trigger_event_get(const struct trigger_cloudevent *ev, const char *name)
{
    for (size_t i = 0; i < ev->attributes_len; i++) {
        if (strcmp(ev->attributes[i].name, name) == 0) {
            return ev->attributes[i].value;
        }
    }
    return "";
}

static bool name_ok(struct str name)
{
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))) {
            return false;
        }
    }
    return name.n != 0 && name.n <= TRIGGER_EVENT_NAME_MAX;
}

static int attribute_add(struct trigger_cloudevent *ev, struct str name, struct str value,
                         struct err *e)
{
    if (!name_ok(name)) {
        return err_say(e, -EINVAL, "'%.*s' is not an attribute's name: a-z and 0-9, at most %d",
                       STR_ARG(str_slice(name, 0, 40)), TRIGGER_EVENT_NAME_MAX);
    }
    if (value.n > TRIGGER_EVENT_VALUE_MAX || !str_is_utf8(value)) {
        return err_say(e, -EINVAL, "attribute '%.*s' is over %d bytes, or no UTF-8", STR_ARG(name),
                       TRIGGER_EVENT_VALUE_MAX);
    }
    if (ev->attributes_len == TRIGGER_EVENT_ATTRIBUTES_MAX) {
        return err_say(e, -EINVAL, "over %d attributes", TRIGGER_EVENT_ATTRIBUTES_MAX);
    }
    struct trigger_attribute *a = &ev->attributes[ev->attributes_len];
    (void)str_copy(a->name, sizeof a->name, name);
    (void)str_copy(a->value, sizeof a->value, value);
    if (trigger_event_get(ev, a->name)[0] != '\0') {
        return err_say(e, -EINVAL, "attribute '%s' is there twice", a->name);
    }
    ev->attributes_len++;
    return 0;
}

static int begin(struct trigger_cloudevent *ev)
{
    *ev = (struct trigger_cloudevent){ .data = BUF_INIT(DATA_MAX) };
    ev->attributes = mem_calloc(TRIGGER_EVENT_ATTRIBUTES_MAX, sizeof *ev->attributes);
    return ev->attributes == NULL ? -ENOMEM : 0;
}

static int check_whole(const struct trigger_cloudevent *ev, struct err *e)
{
    static const char *const needed[] = { "specversion", "id", "source", "type" };

    for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
        if (trigger_event_get(ev, needed[i])[0] == '\0') {
            return err_say(e, -EINVAL, "attribute '%s' is missing", needed[i]);
        }
    }
    if (strcmp(trigger_event_get(ev, "specversion"), "1.0") != 0) {
        return err_say(e, -EINVAL, "specversion '%s' is not 1.0",
                       trigger_event_get(ev, "specversion"));
    }
    return buf_error(&ev->data) != 0 ? err_set(e, buf_error(&ev->data), "event data") : 0;
}

static bool type_is_json(const char *type)
{
    struct str t = str_of(type);
    ptrdiff_t end = str_find(t, ';');

    t = str_trim(str_slice(t, 0, end < 0 ? t.n : (size_t)end));
    return t.n == 0 || str_ieqs(t, "application/json") || str_ends(t, "+json");
}

/* Values are percent-encoded in headers (HTTP protocol binding, 3.1.3.2). */
static int header_value(struct str value, char dst[TRIGGER_EVENT_VALUE_MAX + 1], struct str *ret)
{
    size_t n = 0;
    int rc = http1_unescape(value, dst, TRIGGER_EVENT_VALUE_MAX + 1, &n);

    *ret = (struct str){ dst, n };
    return rc;
}

int trigger_event_from_headers(const struct trigger_hook_header *headers, size_t n, struct str body,
                               struct trigger_cloudevent *ret, struct err *e)
{
    struct trigger_cloudevent ev;
    int rc = begin(&ev);

    for (size_t i = 0; rc == 0 && i < n; i++) {
        char low[TRIGGER_HOOK_HEADER_MAX + 1] = "";
        char plain[TRIGGER_EVENT_VALUE_MAX + 1];
        struct str name = headers[i].name;
        struct str value;
        for (size_t k = 0; k < name.n && k + 1 < sizeof low; k++) {
            low[k] = name.p[k] >= 'A' && name.p[k] <= 'Z' ? (char)(name.p[k] | 0x20) : name.p[k];
        }
        struct str lower = { low, name.n < sizeof low ? name.n : sizeof low - 1 };
        if (str_eqs(lower, "content-type")) {
            rc = attribute_add(&ev, STR("datacontenttype"), headers[i].value, e);
        } else if (str_starts(lower, "ce-")) {
            rc = header_value(headers[i].value, plain, &value) != 0
                     ? err_say(e, -EINVAL, "header '%s' is too long, or wrongly escaped", low)
                     : attribute_add(&ev, str_slice(lower, 3, lower.n), value, e);
        }
    }
    if (rc == 0) {
        (void)buf_addstr(&ev.data, body);
        ev.data_is_json = type_is_json(trigger_event_get(&ev, "datacontenttype"));
        rc = check_whole(&ev, e);
    }
    if (rc != 0) {
        trigger_event_release(&ev);
        return rc == -ENOMEM ? err_set(e, rc, "event") : rc;
    }
    *ret = ev;
    return 0;
}

/* A member of the JSON form: an attribute, or the data. */
static int member(struct trigger_cloudevent *ev, const struct json *m, struct err *e)
{
    struct str s;
    struct json_w w;
    int64_t i;
    bool b;
    char text[24];

    if (str_eqs(m->key, "data")) {
        if (json_str(m, &s) && !type_is_json(trigger_event_get(ev, "datacontenttype"))) {
            return buf_addstr(&ev->data, s);
        }
        json_w_init(&w, &ev->data, false);
        json_w_value(&w, m);
        ev->data_is_json = true;
        return buf_error(&ev->data);
    }
    if (str_eqs(m->key, "data_base64")) {
        char *bytes = NULL;
        size_t n = 0;
        int rc = json_str(m, &s) ? base64_decode(s, &bytes, &n) : -EINVAL;
        if (rc == 0) {
            rc = buf_add(&ev->data, bytes, n);
        }
        mem_free(bytes);
        return rc == -EINVAL ? err_say(e, rc, "data_base64 is not base64") : rc;
    }
    if (m->type == JSON_NULL || str_eqs(m->key, "datacontenttype")) {
        return 0; /* read before the rest */
    }
    if (json_int(m, &i)) {
        (void)snprintf(text, sizeof text, "%lld", (long long)i);
        s = str_of(text);
    } else if (json_bool(m, &b)) {
        s = b ? STR("true") : STR("false");
    } else if (!json_str(m, &s)) {
        return err_say(e, -EINVAL, "attribute '%.*s' must be a string, an integer or a boolean",
                       STR_ARG(str_slice(m->key, 0, 40)));
    }
    return attribute_add(ev, m->key, s, e);
}

int trigger_event_from_json(const struct json *v, struct trigger_cloudevent *ret, struct err *e)
{
    struct trigger_cloudevent ev;
    struct str type;
    int rc;

    if (v->type != JSON_OBJECT) {
        return err_say(e, -EINVAL, "an event is an object, not %s", json_type_name(v->type));
    }
    rc = begin(&ev);
    if (rc == 0 && json_str(json_get(v, "datacontenttype"), &type)) {
        rc = attribute_add(&ev, STR("datacontenttype"), type, e);
    }
    for (const struct json *m = v->child; rc == 0 && m != NULL; m = m->next) {
        rc = member(&ev, m, e);
    }
    if (rc == 0 && json_get(v, "data") != NULL && json_get(v, "data_base64") != NULL) {
        rc = err_say(e, -EINVAL, "data and data_base64 stand beside each other");
    }
    rc = rc == 0 ? check_whole(&ev, e) : rc;
    if (rc != 0) {
        trigger_event_release(&ev);
        return rc == -EINVAL ? rc : err_set(e, rc, "event");
    }
    *ret = ev;
    return 0;
}

/* `*` at the end stands for anything. */
static bool fits(const char *filter, const char *value)
{
    size_t n = strlen(filter);

    if (n == 0) {
        return true;
    }
    return filter[n - 1] == '*' ? strncmp(filter, value, n - 1) == 0 : strcmp(filter, value) == 0;
}

bool trigger_event_matches(const struct trigger_event *t, const struct trigger_cloudevent *ev)
{
    return fits(t->type, trigger_event_get(ev, "type")) &&
           fits(t->source, trigger_event_get(ev, "source")) &&
           fits(t->subject, trigger_event_get(ev, "subject"));
}

void trigger_event_to_json(const struct trigger_cloudevent *ev, struct json_w *w)
{
    json_w_obj(w);
    for (size_t i = 0; i < ev->attributes_len; i++) {
        json_kv_cstr(w, ev->attributes[i].name, ev->attributes[i].value);
    }
    json_w_end(w);
}

static void given(struct json_w *w, const char *key, const char *value)
{
    if (value != NULL && value[0] != '\0') {
        json_kv_cstr(w, key, value);
    }
}

void trigger_event_open(struct json_w *w, const struct trigger_event_head *h)
{
    json_w_obj(w);
    json_kv_cstr(w, "specversion", "1.0");
    json_kv_cstr(w, "id", h->id);
    json_kv_cstr(w, "source", h->source);
    json_kv_cstr(w, "type", h->type);
    given(w, "subject", h->subject);
    json_kv_time(w, "time", h->time_us);
    given(w, "job", h->job);
    json_kv_cstr(w, "datacontenttype", "application/json");
    json_w_key(w, "data");
}
