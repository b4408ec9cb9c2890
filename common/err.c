#include "common/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/insist.h"

__attribute__((format(printf, 3, 0))) static void err_fill(struct err *e, int code, const char *fmt,
                                                           va_list ap)
{
    e->code = code;
    if (vsnprintf(e->text, sizeof e->text, fmt, ap) < 0) {
        e->text[0] = '\0';
    }
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    REQUIRE(code < 0);
    if (e != NULL) {
        va_list ap;

        va_start(ap, fmt);
        err_fill(e, code, fmt, ap);
        va_end(ap);
        /* Not strerror(): it shares a buffer between threads. */
        const char *text = strerrordesc_np(-code);
        if (text != NULL) {
            size_t n = strlen(e->text);
            (void)snprintf(e->text + n, sizeof e->text - n, ": %s", text);
        }
    }
    return code;
}

int err_say(struct err *e, int code, const char *fmt, ...)
{
    REQUIRE(code < 0);
    if (e != NULL) {
        va_list ap;

        va_start(ap, fmt);
        err_fill(e, code, fmt, ap);
        va_end(ap);
    }
    return code;
}

int err_prefix(struct err *e, const char *fmt, ...)
{
    if (e == NULL) {
        return 0;
    }
    char old[ERR_TEXT_MAX];
    memcpy(old, e->text, sizeof old);

    va_list ap;
    va_start(ap, fmt);
    err_fill(e, e->code, fmt, ap);
    va_end(ap);
    size_t n = strlen(e->text);
    (void)snprintf(e->text + n, sizeof e->text - n, ": %s", old);
    return e->code;
}

const char *err_text(const struct err *e)
{
    return e == NULL || e->code == 0 ? "" : e->text;
}

const char *err_name(int code)
{
    const char *name = strerrorname_np(code < 0 ? -code : code);
    return name != NULL ? name : "E?";
}
