#include <errno.h>
#include <math.h>

#include "agent/triggers/triggers_internal.h"
#include "common/ids.h"

static int wrong_type(const char *name, const char *wanted, const struct json *v, struct err *e)
{
    return err_say(e, -EINVAL, "%s must be %s, not %s", name, wanted, json_type_name(v->type));
}

int trigger_get_text(const struct json *v, const char *name, size_t min, size_t max,
                     struct str *ret, struct err *e)
{
    struct str s;

    if (!json_str(v, &s)) {
        return wrong_type(name, "a string", v, e);
    }
    if (s.n < min || s.n > max) {
        return err_say(e, -EINVAL, "%s must have %zu to %zu bytes", name, min, max);
    }
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f) {
            return err_say(e, -EINVAL, "%s may not hold control characters", name);
        }
    }
    *ret = s;
    return 0;
}

int trigger_get_duration(const struct json *v, const char *name, uint64_t min_ms, uint64_t max_ms,
                         uint64_t *ret_ms, struct err *e)
{
    struct str s;
    double d;
    uint64_t ms = 0;
    char low[32];
    char high[32];

    if (json_real(v, &d)) {
        ms = d >= 0 && d < 1e12 ? (uint64_t)llround(d * 1e3) : UINT64_MAX;
    } else if (!json_str(v, &s)) {
        return wrong_type(name, "a duration (seconds, or a text such as \"90s\")", v, e);
    } else if (str_duration_ms(s, &ms) != 0) {
        return err_say(e, -EINVAL, "%s '%.*s' is not a duration: write seconds, or \"1h30m\"", name,
                       STR_ARG(str_slice(s, 0, 60)));
    }
    if (ms < min_ms || ms > max_ms) {
        return err_say(e, -EINVAL, "%s must be %s to %s", name,
                       str_fmt_duration(low, sizeof low, min_ms * 1000),
                       str_fmt_duration(high, sizeof high, max_ms * 1000));
    }
    *ret_ms = ms;
    return 0;
}

int trigger_get_count(const struct json *v, const char *name, uint64_t min, uint64_t max,
                      uint64_t *ret, struct err *e)
{
    int64_t i;

    if (!json_int(v, &i)) {
        return wrong_type(name, "an integer", v, e);
    }
    if (i < 0 || (uint64_t)i < min || (uint64_t)i > max) {
        return err_say(e, -EINVAL, "%s must be %llu to %llu", name, (unsigned long long)min,
                       (unsigned long long)max);
    }
    *ret = (uint64_t)i;
    return 0;
}

int trigger_get_bool(const struct json *v, const char *name, bool *ret, struct err *e)
{
    return json_bool(v, ret) ? 0 : wrong_type(name, "true or false", v, e);
}

int trigger_get_choice(const struct json *v, const char *name, const char *const *names, size_t n,
                       size_t *ret, struct err *e)
{
    AUTO_BUF struct buf all = BUF_INIT(256);
    struct str s = { 0 };
    bool text = json_str(v, &s);

    for (size_t i = 0; i < n; i++) {
        if (text && str_eqs(s, names[i])) {
            *ret = i;
            return 0;
        }
        buf_adds(&all, i != 0 ? ", " : "");
        buf_adds(&all, names[i]);
    }
    if (!text) {
        return err_say(e, -EINVAL, "%s must be one of %s, not %s", name, buf_cstr(&all),
                       json_type_name(v->type));
    }
    return err_say(e, -EINVAL, "%s must be one of %s, not '%.*s'", name, buf_cstr(&all),
                   STR_ARG(str_slice(s, 0, 60)));
}

int trigger_get_time(const struct json *v, const char *name, int64_t *ret_us, struct err *e)
{
    struct str s;

    if (!json_str(v, &s)) {
        return wrong_type(name, "a time such as \"2026-11-26T12:00:00Z\"", v, e);
    }
    if (time_parse(s, ret_us) != 0) {
        return err_say(e, -EINVAL, "%s '%.*s' is not a time: write it as 2026-11-26T12:00:00Z",
                       name, STR_ARG(str_slice(s, 0, 60)));
    }
    return 0;
}

bool trigger_name_ok(struct str name)
{
    if (name.n == 0 || name.n > 63) {
        return false;
    }
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!word && (i == 0 || (c != '.' && c != '_' && c != '-'))) {
            return false;
        }
    }
    return true;
}
