/* Call-backs: documents and URLs. What is accepted has a host, a port and a target that a request
 * line can carry, and put together again reads as the same. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "agent/triggers/callback.h"
#include "common/insist.h"
#include "common/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(struct str text)
{
    char whole[TRIGGER_URL_MAX + 512];
    struct trigger_url u;
    struct trigger_url two;
    struct err e = { 0 };

    if (trigger_callback_url(text, &u, &e) != 0) {
        INSIST(err_text(&e)[0] != '\0');
        return;
    }
    bool six = strchr(u.host, ':') != NULL;
    INSIST(u.host[0] != '\0' && u.port != 0);
    for (size_t i = 0; i < u.target.n; i++) {
        INSIST(u.target.p[i] > 0x20 && u.target.p[i] < 0x7f && u.target.p[i] != '#');
    }
    INSIST(u.target.n == 0 || u.target.p[0] == '/' || u.target.p[0] == '?');
    int n = snprintf(whole, sizeof whole, "%s://%s%s%s:%u%.*s", u.tls ? "https" : "http",
                     six ? "[" : "", u.host, six ? "]" : "", u.port, STR_ARG(u.target));
    if ((size_t)n > TRIGGER_URL_MAX) {
        return; /* the port was left out before */
    }
    INSIST(trigger_callback_url((struct str){ whole, (size_t)n }, &two, &e) == 0);
    INSIST(two.tls == u.tls && two.port == u.port && strcmp(two.host, u.host) == 0 &&
           str_eq(two.target, u.target));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct trigger_callbacks *list = mem_alloc(sizeof *list);
    struct str in = { (const char *)data, size };
    struct err e = { 0 };
    char field[64] = "";

    INSIST(list != NULL);
    check(in);
    if (json_parse(in.p, in.n, NULL, &doc, &e) == 0) {
        if (trigger_callbacks_parse(json_root(doc), list, field, &e) == 0) {
            INSIST(list->n <= TRIGGER_CALLBACKS_MAX);
            for (size_t i = 0; i < list->n; i++) {
                INSIST(list->items[i].on != 0 && list->items[i].url[0] != '\0');
                check(str_of(list->items[i].url));
            }
        } else {
            INSIST(str_starts(str_of(field), "callbacks") && err_text(&e)[0] != '\0');
        }
    }
    mem_free(list);
    return 0;
}
