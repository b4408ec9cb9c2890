#include <errno.h>

#include "agent/routing/routing.h"

enum require_op { REQUIRE_PRESENT, REQUIRE_EQUAL, REQUIRE_UNEQUAL, REQUIRE_AT_LEAST, REQUIRE_IN };

struct require {
    struct str name;
    struct str value;
    enum require_op op;
};

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_' || c == '/';
}

/* "(a, b)" or "a, b": without the parentheses, at least one value and no empty one. */
static int list_parse(struct str s, struct str *ret)
{
    struct str list = str_trim(s);
    struct str piece;

    if (list.n >= 2 && list.p[0] == '(' && list.p[list.n - 1] == ')') {
        list = str_trim(str_slice(list, 1, list.n - 2));
    }
    if (list.n == 0 || list.p[list.n - 1] == ',') {
        return -EINVAL;
    }
    for (struct str rest = list; str_split(&rest, ',', &piece);) {
        if (str_trim(piece).n == 0) {
            return -EINVAL;
        }
    }
    *ret = list;
    return 0;
}

/* Which operator a requirement's rest begins with; its length. 0: none. */
static size_t operator_of(struct str rest, enum require_op *ret)
{
    static const struct {
        const char *text;
        enum require_op op;
    } operators[] = {
        { "!=", REQUIRE_UNEQUAL }, { ">=", REQUIRE_AT_LEAST }, { "=", REQUIRE_EQUAL },
        { " in ", REQUIRE_IN },    { " in(", REQUIRE_IN },
    };

    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        if (str_starts(rest, operators[i].text)) {
            *ret = operators[i].op;
            return *ret == REQUIRE_IN ? 3 : str_of(operators[i].text).n;
        }
    }
    return 0;
}

static int require_parse(struct str s, struct require *ret, struct err *e)
{
    size_t i = 0;
    uint64_t number;

    if (s.n == 0 || s.n > ROUTE_REQUIRE_TEXT_MAX) {
        return err_say(e, -EINVAL, "a requirement has 1 to %d characters", ROUTE_REQUIRE_TEXT_MAX);
    }
    while (i < s.n && name_char(s.p[i])) {
        i++;
    }
    if (i == 0) {
        return err_say(e, -EINVAL, "requirement '%.*s' does not begin with a name", STR_ARG(s));
    }
    struct require r = { .name = str_slice(s, 0, i), .op = REQUIRE_PRESENT };
    struct str rest = str_slice(s, i, s.n - i);
    if (rest.n != 0) {
        size_t op_len = operator_of(rest, &r.op);
        if (op_len == 0) {
            return err_say(e, -EINVAL,
                           "requirement '%.*s': expected =, !=, >= or in after the name",
                           STR_ARG(s));
        }
        r.value = str_slice(rest, op_len, rest.n - op_len);
        if (r.value.n == 0) {
            return err_say(e, -EINVAL, "requirement '%.*s' has no value", STR_ARG(s));
        }
        if (r.op == REQUIRE_AT_LEAST && str_u64(r.value, &number) != 0) {
            return err_say(e, -EINVAL, "requirement '%.*s': >= needs a whole number", STR_ARG(s));
        }
        if (r.op == REQUIRE_IN && list_parse(r.value, &r.value) != 0) {
            return err_say(e, -EINVAL, "requirement '%.*s': in needs values: NAME in (a, b)",
                           STR_ARG(s));
        }
    }
    *ret = r;
    return 0;
}

static bool in_list(struct str list, struct str value)
{
    struct str piece;

    while (str_split(&list, ',', &piece)) {
        if (str_eq(str_trim(piece), value)) {
            return true;
        }
    }
    return false;
}

int route_require_check(struct str require, struct err *e)
{
    struct require r;

    return require_parse(require, &r, e);
}

bool route_require_holds(struct str require, const struct route_fact *facts, size_t facts_len)
{
    struct require r;
    const struct route_fact *fact = NULL;
    uint64_t want;
    uint64_t have;

    if (require_parse(require, &r, NULL) != 0) {
        return false;
    }
    for (size_t i = 0; i < facts_len && fact == NULL; i++) {
        if (str_eq(facts[i].name, r.name)) {
            fact = &facts[i];
        }
    }
    switch (r.op) {
    case REQUIRE_PRESENT:
        return fact != NULL && !str_eqs(fact->value, "false");
    case REQUIRE_EQUAL:
        return fact != NULL && str_eq(fact->value, r.value);
    case REQUIRE_UNEQUAL:
        return fact == NULL || !str_eq(fact->value, r.value);
    case REQUIRE_AT_LEAST:
        return fact != NULL && str_u64(r.value, &want) == 0 && str_u64(fact->value, &have) == 0 &&
               have >= want;
    case REQUIRE_IN:
        return fact != NULL && in_list(r.value, fact->value);
    }
    return false;
}
