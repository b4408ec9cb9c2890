#include "agent/jobs/job_retry.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/insist.h"

/* ---- the budget ---- */

static void window(struct job_budget *b, uint64_t now_ms)
{
    uint64_t age = now_ms - b->since_ms;

    if (age < JOB_BUDGET_WINDOW_MS) {
        return;
    }
    bool next = age < 2 * (uint64_t)JOB_BUDGET_WINDOW_MS;
    b->first[1] = next ? b->first[0] : 0;
    b->again[1] = next ? b->again[0] : 0;
    b->first[0] = b->again[0] = 0;
    b->since_ms = next ? b->since_ms + JOB_BUDGET_WINDOW_MS : now_ms;
}

void job_budget_first(struct job_budget *b, uint64_t now_ms)
{
    window(b, now_ms);
    b->first[0]++;
}

/* The part of the window before that still lies within a minute of now. */
static uint64_t sliding(const uint32_t v[2], uint64_t left_ms)
{
    return v[0] + v[1] * left_ms / JOB_BUDGET_WINDOW_MS;
}

bool job_budget_take(struct job_budget *b, uint32_t budget_milli, uint64_t now_ms)
{
    window(b, now_ms);
    uint64_t left = JOB_BUDGET_WINDOW_MS - (now_ms - b->since_ms);
    uint64_t may = sliding(b->first, left) * budget_milli / 1000 + JOB_BUDGET_FLOOR;

    if (budget_milli != 0 && sliding(b->again, left) >= may) {
        return false;
    }
    b->again[0]++;
    return true;
}

/* ---- exit codes ---- */

enum run_exit_means job_exit_means(const struct run_policy *p, int exit_code)
{
    unsigned best = 256;
    unsigned means = 0;

    for (size_t i = 0; i < p->exit_rules_len; i++) {
        const struct run_exit_rule *r = &p->exit_rules[i];
        unsigned span = (unsigned)(r->last - r->first);
        if (exit_code >= r->first && exit_code <= r->last && span < best) {
            best = span;
            means = r->means;
        }
    }
    return (enum run_exit_means)means;
}

/* "75", "1-9" or "*". */
static bool range_read(struct str s, struct run_exit_rule *r)
{
    uint64_t first = 1;
    uint64_t last = 255;
    ptrdiff_t dash = str_find(s, '-');

    if (!str_eqs(s, "*")) {
        struct str low = dash < 0 ? s : str_slice(s, 0, (size_t)dash);
        struct str high = dash < 0 ? s : str_slice(s, (size_t)dash + 1, s.n);
        if (str_u64_in(low, 1, 255, &first) != 0 || str_u64_in(high, first, 255, &last) != 0) {
            return false;
        }
    }
    r->first = (uint8_t)first;
    r->last = (uint8_t)last;
    return true;
}

static bool means_read(struct str s, struct run_exit_rule *r)
{
    r->means = str_eqs(s, "fail") ? RUN_EXIT_FAILS : str_eqs(s, "retry") ? RUN_EXIT_RETRIES : 0;
    return r->means != 0;
}

static const char *means_name(const struct run_exit_rule *r)
{
    return r->means == RUN_EXIT_FAILS ? "fail" : "retry";
}

static void range_format(const struct run_exit_rule *r, char dst[12])
{
    if (r->first == 1 && r->last == 255) {
        (void)snprintf(dst, 12, "*");
    } else if (r->first == r->last) {
        (void)snprintf(dst, 12, "%u", r->first);
    } else {
        (void)snprintf(dst, 12, "%u-%u", r->first, r->last);
    }
}

int job_exit_rules_parse(const struct json *v, struct run_policy *p, char field[64],
                         char detail[160])
{
    (void)snprintf(field, 64, "exit_codes");
    p->exit_rules_len = 0;
    if (v->type != JSON_OBJECT || v->count > RUN_EXIT_RULES_MAX) {
        (void)snprintf(detail, 160,
                       "must be an object such as {\"1\": \"fail\", \"70-79\": \"retry\"}, with at "
                       "most %d members",
                       RUN_EXIT_RULES_MAX);
        return -EINVAL;
    }
    JSON_EACH (item, v) {
        struct run_exit_rule r;
        struct str means = { 0 };
        if (!range_read(item->key, &r)) {
            (void)snprintf(detail, 160,
                           "'%.*s' is not an exit code: 1 to 255, a range such as \"70-79\", or "
                           "\"*\"",
                           STR_ARG(str_slice(item->key, 0, 20)));
            return -EINVAL;
        }
        if (!json_str(item, &means) || !means_read(means, &r)) {
            (void)snprintf(field, 64, "exit_codes.%.*s", STR_ARG(str_slice(item->key, 0, 20)));
            (void)snprintf(detail, 160, "must be \"fail\" or \"retry\"");
            return -EINVAL;
        }
        p->exit_rules[p->exit_rules_len++] = r;
    }
    return 0;
}

void job_exit_rules_to_json(const struct run_policy *p, struct json_w *w)
{
    json_w_obj(w);
    for (size_t i = 0; i < p->exit_rules_len; i++) {
        char range[12];
        range_format(&p->exit_rules[i], range);
        json_kv_cstr(w, range, means_name(&p->exit_rules[i]));
    }
    json_w_end(w);
}

void job_exit_rules_format(const struct run_policy *p, char dst[RUN_EXIT_RULES_TEXT])
{
    size_t n = 0;

    dst[0] = '\0';
    for (size_t i = 0; i < p->exit_rules_len; i++) {
        char range[12];
        range_format(&p->exit_rules[i], range);
        n += (size_t)snprintf(dst + n, RUN_EXIT_RULES_TEXT - n, "%s%s=%s", i != 0 ? "," : "", range,
                              means_name(&p->exit_rules[i]));
    }
}

int job_exit_rules_read(struct str text, struct run_policy *p)
{
    struct str one;

    p->exit_rules_len = 0;
    while (text.n != 0 && str_split(&text, ',', &one)) {
        struct run_exit_rule r;
        ptrdiff_t eq = str_find(one, '=');
        if (eq < 0 || p->exit_rules_len == RUN_EXIT_RULES_MAX ||
            !range_read(str_slice(one, 0, (size_t)eq), &r) ||
            !means_read(str_slice(one, (size_t)eq + 1, one.n), &r)) {
            return -EINVAL;
        }
        p->exit_rules[p->exit_rules_len++] = r;
    }
    return 0;
}

/* ---- when ---- */

/* Documents may ask for 7 days at most; the rest keeps the sums below far from overflow. */
#define DELAY_MAX_MS (UINT64_C(30) * 24 * 3600 * 1000)

static uint64_t delay_most(const struct run_policy *p)
{
    uint64_t most =
        p->retry_max_delay_ms > p->retry_delay_ms ? p->retry_max_delay_ms : p->retry_delay_ms;
    return most < DELAY_MAX_MS ? most : DELAY_MAX_MS;
}

uint64_t job_retry_longest_ms(const struct run_policy *p)
{
    uint64_t most = delay_most(p);

    return most > JOB_RETRY_AFTER_MAX_MS ? most : JOB_RETRY_AFTER_MAX_MS;
}

uint64_t job_retry_backoff_ms(const struct run_policy *p, uint32_t retries, struct rng *rng)
{
    uint64_t most = delay_most(p);
    uint64_t delay = p->retry_delay_ms < most ? p->retry_delay_ms : most;

    for (uint32_t i = 1; i < retries && delay != 0 && delay < most; i++) {
        if (p->retry_backoff_milli <= 1000) {
            break;
        }
        uint64_t next = delay * p->retry_backoff_milli / 1000;
        delay = next > delay ? next : delay + 1;
    }
    if (delay > most) {
        delay = most;
    }
    uint64_t span = delay * p->retry_jitter_milli / 1000;
    delay = delay - span + rng_below(rng, 2 * span + 1);
    return delay < most ? delay : most;
}

/* "Sun, 06 Nov 1994 08:49:37 GMT": the one form that is to be written (RFC 9110, 5.6.7). */
static bool http_date(struct str s, int64_t *ret_us)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    char iso[32];
    uint64_t month = 0;

    if (s.n != 29 || memcmp(s.p + 3, ", ", 2) != 0 || memcmp(s.p + 25, " GMT", 4) != 0) {
        return false;
    }
    for (uint64_t i = 0; i < 12; i++) {
        month = memcmp(s.p + 8, months + 3 * i, 3) == 0 ? i + 1 : month;
    }
    (void)snprintf(iso, sizeof iso, "%.4s-%02u-%.2sT%.8sZ", s.p + 12, (unsigned)month, s.p + 5,
                   s.p + 17);
    return month != 0 && time_parse(str_of(iso), ret_us) == 0;
}

uint64_t job_retry_after_ms(struct str text, int64_t now_us)
{
    struct str s = str_trim(text);
    uint64_t seconds = 0;
    int64_t at_us = 0;

    if (str_u64(s, &seconds) == 0) {
        return seconds < JOB_RETRY_AFTER_MAX_MS / 1000 ? seconds * 1000 : JOB_RETRY_AFTER_MAX_MS;
    }
    if (!http_date(s, &at_us) || at_us <= now_us) {
        return 0;
    }
    uint64_t ms = (uint64_t)(at_us - now_us) / 1000;
    return ms < JOB_RETRY_AFTER_MAX_MS ? ms : JOB_RETRY_AFTER_MAX_MS;
}
