/* Conditions: whatever compiles is evaluated, twice the same, on a document and on nothing. */
#include <stddef.h>
#include <stdint.h>

#include "agent/triggers/when.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = { "payload", "value", NULL };
    static const char text[] = "{\"a\":[1,2.5,\"x\"],\"b\":{\"c\":null,\"d\":true},\"e\":\"text\"}";
    struct trigger_when *w;
    struct json_doc *doc = NULL;
    struct err e = { 0 };

    if (trigger_when_new((struct str){ (const char *)data, size }, names, &w, &e) != 0) {
        INSIST(err_text(&e)[0] != '\0');
        return 0;
    }
    INSIST(json_parse(text, sizeof text - 1, NULL, &doc, &e) == 0);
    const struct json *there[] = { json_root(doc), json_get(json_root(doc), "a") };
    const struct json *nothing[] = { NULL, NULL };
    bool missing = false;
    bool first = trigger_when_holds(w, there, &missing);
    INSIST(trigger_when_holds(w, there, NULL) == first);
    (void)trigger_when_holds(w, nothing, &missing);
    json_free(doc);
    trigger_when_free(w);
    return 0;
}
