/* CloudEvents: the first byte says how they come. What is accepted has what the specification asks
 * for, and written as a structured event reads as the same. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "agent/triggers/cloudevent.h"
#include "common/base64.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEADERS_MAX = 40 };

/* "Name: value" lines, then the body. */
static int from_headers(struct str in, struct trigger_cloudevent *ev, struct err *e)
{
    struct trigger_hook_header headers[HEADERS_MAX];
    struct str line;
    size_t n = 0;

    while (n < HEADERS_MAX && str_split(&in, '\n', &line) && line.n != 0) {
        ptrdiff_t colon = str_find(line, ':');
        if (colon > 0) {
            headers[n++] = (struct trigger_hook_header){
                str_slice(line, 0, (size_t)colon),
                str_trim(str_slice(line, (size_t)colon + 1, line.n)),
            };
        }
    }
    return trigger_event_from_headers(headers, n, in, ev, e);
}

/* As a structured event; its data in base64, which any event may have. */
static void again(const struct trigger_cloudevent *ev)
{
    AUTO_BUF struct buf text = BUF_INIT(1 << 24);
    AUTO_BUF struct buf base64 = BUF_INIT(1 << 24);
    AUTO_JSON struct json_doc *doc = NULL;
    struct trigger_cloudevent two = { 0 };
    struct err e = { 0 };
    struct json_w w;

    json_w_init(&w, &text, false);
    json_w_obj(&w);
    for (size_t i = 0; i < ev->attributes_len; i++) {
        json_kv_cstr(&w, ev->attributes[i].name, ev->attributes[i].value);
    }
    if (ev->data.len != 0) {
        INSIST(base64_encode(&base64, ev->data.data, ev->data.len) == 0);
        json_kv_str(&w, "data_base64", buf_str(&base64));
    }
    json_w_end(&w);
    INSIST(json_parse(text.data, text.len, NULL, &doc, &e) == 0);
    INSIST(trigger_event_from_json(json_root(doc), &two, &e) == 0);
    INSIST(two.attributes_len == ev->attributes_len && two.data.len == ev->data.len);
    for (size_t i = 0; i < ev->attributes_len; i++) {
        INSIST(strcmp(trigger_event_get(&two, ev->attributes[i].name), ev->attributes[i].value) ==
               0);
    }
    INSIST(ev->data.len == 0 || memcmp(ev->data.data, two.data.data, ev->data.len) == 0);
    trigger_event_release(&two);
}

static void check(const struct trigger_cloudevent *ev)
{
    static const struct trigger_event any = { .type = "*" };

    INSIST(strcmp(trigger_event_get(ev, "specversion"), "1.0") == 0);
    INSIST(trigger_event_get(ev, "id")[0] != '\0' && trigger_event_get(ev, "source")[0] != '\0' &&
           trigger_event_get(ev, "type")[0] != '\0');
    INSIST(ev->attributes_len <= TRIGGER_EVENT_ATTRIBUTES_MAX);
    INSIST(trigger_event_matches(&any, ev));
    again(ev);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct trigger_cloudevent ev = { 0 };
    struct err e = { 0 };
    struct str in = { (const char *)data + 1, size != 0 ? size - 1 : 0 };
    int rc = -1;

    if (size == 0) {
        return 0;
    }
    if (data[0] == 'b') {
        rc = from_headers(in, &ev, &e);
    } else if (json_parse(in.p, in.n, NULL, &doc, &e) == 0) {
        rc = trigger_event_from_json(json_root(doc), &ev, &e);
    } else {
        return 0;
    }
    if (rc != 0) {
        INSIST(err_text(&e)[0] != '\0' && ev.attributes == NULL);
        return 0;
    }
    check(&ev);
    trigger_event_release(&ev);
    return 0;
}
