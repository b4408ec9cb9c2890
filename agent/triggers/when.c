#include "agent/triggers/when.h"

#include <errno.h>
#include <stdlib.h>

#include "common/insist.h"
#include "common/mem.h"

enum op {
    OP_OR,
    OP_AND,
    OP_NOT,
    OP_TRUTH, /* an operand alone */
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_CONTAINS,
    OP_STARTS,
    OP_ENDS,
    /* operands */
    OP_LITERAL,
    OP_PATH,   /* a: index of the name; the steps follow as `next` */
    OP_MEMBER, /* a step: text */
    OP_INDEX,  /* a step: a */
    OP_TOKEN,  /* a step of a pointer: text, of an object a member, of an array an index */
    OP_LIST,   /* its elements follow as `next` from a */
    OP_EXISTS,
    OP_SIZE,
};

enum { NONE = 0xffff };

struct node {
    uint8_t op;
    uint16_t a, b;     /* operands; NONE */
    uint16_t next;     /* the next step or element; NONE */
    struct json value; /* OP_LITERAL; its text is in the program's copy */
    struct str text;
};

struct trigger_when {
    uint16_t root;
    uint16_t n;
    char *text; /* the copy that slices point into; quotes are taken off in place */
    struct node nodes[];
};

struct parse {
    struct trigger_when *w;
    const char *const *names;
    char *p; /* position in w->text */
    char *end;
    unsigned depth;
    int rc;
    struct err *e;
    struct node none; /* written after a failure only, never read */
};

/* ---- compiling ---- */

static uint16_t fail(struct parse *p, const char *what)
{
    if (p->rc == 0) {
        p->rc =
            err_say(p->e, -EINVAL, "condition, column %d: %s", (int)(p->p - p->w->text) + 1, what);
    }
    return NONE;
}

static uint16_t node_new(struct parse *p, enum op op, uint16_t a, uint16_t b)
{
    if (p->rc != 0) {
        return NONE;
    }
    if (p->w->n == TRIGGER_WHEN_NODES_MAX) {
        return fail(p, "too long");
    }
    struct node *n = &p->w->nodes[p->w->n];
    *n = (struct node){ .op = (uint8_t)op, .a = a, .b = b, .next = NONE };
    return p->w->n++;
}

static struct node *at(struct parse *p, uint16_t i)
{
    return i == NONE ? &p->none : &p->w->nodes[i];
}

static void skip_blanks(struct parse *p)
{
    while (p->p < p->end && (*p->p == ' ' || *p->p == '\t' || *p->p == '\n' || *p->p == '\r')) {
        p->p++;
    }
}

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
}

/* A sign: any run of these characters. */
static bool take_sign(struct parse *p, const char *sign)
{
    size_t n = strlen(sign);

    skip_blanks(p);
    if ((size_t)(p->end - p->p) < n || memcmp(p->p, sign, n) != 0) {
        return false;
    }
    p->p += n;
    return true;
}

/* A word, not the front of a longer one. */
static bool take_word(struct parse *p, const char *word)
{
    char *from = p->p;

    if (!take_sign(p, word)) {
        return false;
    }
    if (p->p < p->end && name_char(*p->p)) {
        p->p = from;
        return false;
    }
    return true;
}

/* A quoted text, unescaped in place. */
static bool take_text(struct parse *p, struct str *ret)
{
    skip_blanks(p);
    char quote = p->p < p->end ? *p->p : '\0';
    if (quote != '\'' && quote != '"') {
        return false;
    }
    char *from = ++p->p;
    char *to = from;
    while (p->p < p->end && *p->p != quote) {
        if (*p->p == '\\' && p->p + 1 < p->end) {
            p->p++;
        }
        *to++ = *p->p++;
    }
    if (p->p == p->end) {
        (void)fail(p, "a text without its closing quote");
        return false;
    }
    p->p++;
    *ret = (struct str){ from, (size_t)(to - from) };
    return true;
}

static struct str take_name(struct parse *p)
{
    char *from = p->p;

    while (p->p < p->end && name_char(*p->p)) {
        p->p++;
    }
    return (struct str){ from, (size_t)(p->p - from) };
}

static uint16_t literal(struct parse *p, struct json value)
{
    uint16_t i = node_new(p, OP_LITERAL, NONE, NONE);

    at(p, i)->value = value;
    return i;
}

static uint16_t number(struct parse *p)
{
    char text[64];
    size_t n = 0;
    char *stop;

    while (p->p < p->end && n + 1 < sizeof text &&
           (name_char(*p->p) || *p->p == '.' || *p->p == '+')) {
        text[n++] = *p->p++;
    }
    text[n] = '\0';
    double d = strtod(text, &stop);
    if (*stop != '\0' || n == 0 || !(d - d == 0)) {
        return fail(p, "not a number");
    }
    return literal(p, (struct json){ .type = JSON_REAL, .u.d = d });
}

static void step_add(struct parse *p, uint16_t *last, enum op op, struct str text, uint16_t index)
{
    uint16_t i = node_new(p, op, index, NONE);

    at(p, i)->text = text;
    at(p, *last)->next = i;
    *last = i;
}

/* name, .member, ['member'], [0] */
static uint16_t path(struct parse *p)
{
    struct str name = take_name(p);
    uint16_t which = 0;

    while (p->names[which] != NULL && !str_eqs(name, p->names[which])) {
        which++;
    }
    if (p->names[which] == NULL) {
        p->p -= name.n;
        if (p->rc == 0) {
            p->rc = err_say(p->e, -EINVAL, "condition, column %d: '%.*s' is not known here; %s is",
                            (int)(p->p - p->w->text) + 1, STR_ARG(name), p->names[0]);
        }
        return NONE;
    }
    uint16_t first = node_new(p, OP_PATH, which, NONE);
    uint16_t last = first;
    while (p->rc == 0 && p->p < p->end) {
        struct str text;
        uint64_t index;
        if (*p->p == '.') {
            p->p++;
            text = take_name(p);
            if (text.n == 0) {
                return fail(p, "a member's name is missing behind the dot");
            }
            step_add(p, &last, OP_MEMBER, text, 0);
        } else if (*p->p == '[') {
            p->p++;
            if (take_text(p, &text)) {
                step_add(p, &last, OP_MEMBER, text, 0);
            } else if (str_u64_in(take_name(p), 0, 65534, &index) == 0) {
                step_add(p, &last, OP_INDEX, (struct str){ 0 }, (uint16_t)index);
            } else {
                return fail(p, "inside [ ] stands a quoted name or an index");
            }
            if (!take_sign(p, "]")) {
                return fail(p, "] is missing");
            }
        } else {
            break;
        }
    }
    return first;
}

/* /member/0: the text of each token is unescaped in place (~1 is /, ~0 is ~). */
static uint16_t pointer(struct parse *p)
{
    uint16_t first = node_new(p, OP_PATH, 0, NONE);
    uint16_t last = first;

    while (p->rc == 0 && p->p < p->end && *p->p == '/') {
        char *from = ++p->p;
        char *to = from;
        while (p->p < p->end && strchr("/ \t\r\n()[],=!<>&|'\"", *p->p) == NULL) {
            char c = *p->p++;
            if (c == '~' && p->p < p->end && (*p->p == '0' || *p->p == '1')) {
                c = *p->p++ == '1' ? '/' : '~';
            }
            *to++ = c;
        }
        step_add(p, &last, OP_TOKEN, (struct str){ from, (size_t)(to - from) }, 0);
    }
    return first;
}

static uint16_t operand(struct parse *p)
{
    struct str text = { 0 };

    skip_blanks(p);
    if (p->p == p->end) {
        return fail(p, "something is missing at the end");
    }
    if (take_text(p, &text)) {
        return literal(p, (struct json){ .type = JSON_STRING, .u.s = text });
    }
    if ((*p->p >= '0' && *p->p <= '9') || *p->p == '-') {
        return number(p);
    }
    if (*p->p == '/') {
        return pointer(p);
    }
    if (take_word(p, "true")) {
        return literal(p, (struct json){ .type = JSON_BOOL, .u.b = true });
    }
    if (take_word(p, "false")) {
        return literal(p, (struct json){ .type = JSON_BOOL });
    }
    if (take_word(p, "null")) {
        return literal(p, (struct json){ .type = JSON_NULL });
    }
    enum op function = take_sign(p, "exists(") ? OP_EXISTS
                       : take_sign(p, "size(") ? OP_SIZE
                                               : OP_OR;
    if (function != OP_OR) {
        if (p->depth == TRIGGER_WHEN_DEPTH_MAX) {
            return fail(p, "too deep");
        }
        p->depth++;
        uint16_t inner = operand(p);
        p->depth--;
        if (p->rc == 0 && !take_sign(p, ")")) {
            return fail(p, ") is missing");
        }
        return node_new(p, function, inner, NONE);
    }
    return name_char(*p->p) ? path(p) : fail(p, "a value or a name is expected");
}

/* [a, b] */
static uint16_t list(struct parse *p)
{
    uint16_t l = node_new(p, OP_LIST, NONE, NONE);
    uint16_t last = NONE;

    if (!take_sign(p, "[")) {
        return fail(p, "`in` needs a list: ['a', 'b']");
    }
    do {
        uint16_t item = operand(p);
        /* An element that is a path uses `next` for its steps: it is wrapped. */
        uint16_t wrap = node_new(p, OP_LIST, item, NONE);
        if (last == NONE) {
            at(p, l)->a = wrap;
        } else {
            at(p, last)->next = wrap;
        }
        last = wrap;
    } while (p->rc == 0 && take_sign(p, ","));
    return p->rc == 0 && !take_sign(p, "]") ? fail(p, "] is missing") : l;
}

static uint16_t comparison(struct parse *p)
{
    static const struct {
        const char *text;
        enum op op;
        bool word;
    } ops[] = {
        { "==", OP_EQ, false },
        { "!=", OP_NE, false },
        { "<=", OP_LE, false },
        { ">=", OP_GE, false },
        { "<", OP_LT, false },
        { ">", OP_GT, false },
        { "contains", OP_CONTAINS, true },
        { "starts_with", OP_STARTS, true },
        { "ends_with", OP_ENDS, true },
    };
    uint16_t left = operand(p);

    if (p->rc == 0 && take_word(p, "in")) {
        uint16_t l = list(p);
        return node_new(p, OP_IN, left, l);
    }
    for (size_t i = 0; p->rc == 0 && i < ARRAY_LEN(ops); i++) {
        if (ops[i].word ? take_word(p, ops[i].text) : take_sign(p, ops[i].text)) {
            uint16_t right = operand(p);
            return node_new(p, ops[i].op, left, right);
        }
    }
    if (p->rc == 0 && take_sign(p, "=")) {
        return fail(p, "write == for equal");
    }
    return node_new(p, OP_TRUTH, left, NONE);
}

static uint16_t either(struct parse *p);

static uint16_t unary(struct parse *p)
{
    uint16_t i;
    bool negated;

    if (p->depth == TRIGGER_WHEN_DEPTH_MAX) {
        return fail(p, "too deep");
    }
    skip_blanks(p);
    negated = take_word(p, "not") || (p->p < p->end && *p->p == '!' &&
                                      (p->p + 1 == p->end || p->p[1] != '=') && take_sign(p, "!"));
    p->depth++;
    if (negated) {
        uint16_t inner = unary(p);
        i = node_new(p, OP_NOT, inner, NONE);
    } else if (take_sign(p, "(")) {
        i = either(p);
        if (p->rc == 0 && !take_sign(p, ")")) {
            (void)fail(p, ") is missing");
        }
    } else {
        i = comparison(p);
    }
    p->depth--;
    return i;
}

static uint16_t both(struct parse *p)
{
    uint16_t left = unary(p);

    while (p->rc == 0 && (take_word(p, "and") || take_sign(p, "&&"))) {
        uint16_t right = unary(p);
        left = node_new(p, OP_AND, left, right);
    }
    return left;
}

static uint16_t either(struct parse *p)
{
    uint16_t left = both(p);

    while (p->rc == 0 && (take_word(p, "or") || take_sign(p, "||"))) {
        uint16_t right = both(p);
        left = node_new(p, OP_OR, left, right);
    }
    return left;
}

int trigger_when_new(struct str text, const char *const *names, struct trigger_when **ret,
                     struct err *e)
{
    if (text.n == 0 || text.n > TRIGGER_WHEN_TEXT_MAX || !str_is_utf8(text)) {
        return err_say(e, -EINVAL, "a condition has 1 to %d bytes of UTF-8", TRIGGER_WHEN_TEXT_MAX);
    }
    struct trigger_when *w = mem_zalloc(sizeof *w + TRIGGER_WHEN_NODES_MAX * sizeof w->nodes[0]);
    char *copy = mem_strndup(text.p, text.n);
    if (w == NULL || copy == NULL) {
        mem_free(w);
        mem_free(copy);
        return err_say(e, -ENOMEM, "no memory for a condition");
    }
    w->text = copy;
    struct parse p = { .w = w, .names = names, .p = copy, .end = copy + text.n, .e = e };
    w->root = either(&p);
    skip_blanks(&p);
    if (p.rc == 0 && p.p != p.end) {
        (void)fail(&p, "`and`, `or` or the end is expected");
    }
    if (p.rc != 0) {
        trigger_when_free(w);
        return p.rc;
    }
    /* Only what is used is kept: conditions are many and short. */
    struct trigger_when *fit = mem_realloc(w, sizeof *w + w->n * sizeof w->nodes[0]);
    *ret = fit != NULL ? fit : w;
    return 0;
}

struct trigger_when *trigger_when_free(struct trigger_when *w)
{
    if (w != NULL) {
        mem_free(w->text);
    }
    return mem_free(w);
}

/* ---- evaluating ---- */

struct eval {
    const struct trigger_when *w;
    const struct json *const *values;
    bool missing;
};

static const struct json *member(const struct json *v, struct str key)
{
    if (v->type != JSON_OBJECT) {
        return NULL;
    }
    JSON_EACH (m, v) {
        if (str_eq(m->key, key)) {
            return m;
        }
    }
    return NULL;
}

static const struct json *element(const struct json *v, uint64_t i)
{
    return v->type == JSON_ARRAY && i < v->count ? json_at(v, (size_t)i) : NULL;
}

static const struct json *follow(const struct eval *ev, const struct node *n)
{
    const struct json *v = ev->values[n->a];

    for (uint16_t i = n->next; v != NULL && i != NONE; i = ev->w->nodes[i].next) {
        const struct node *step = &ev->w->nodes[i];
        uint64_t index;
        if (step->op == OP_INDEX) {
            v = element(v, step->a);
        } else if (step->op == OP_TOKEN && v->type == JSON_ARRAY) {
            v = str_u64(step->text, &index) == 0 ? element(v, index) : NULL;
        } else {
            v = member(v, step->text);
        }
    }
    return v;
}

static bool truth(const struct json *v)
{
    double d;

    switch (v->type) {
    case JSON_NULL:
        return false;
    case JSON_BOOL:
        return v->u.b;
    case JSON_STRING:
        return v->u.s.n != 0;
    case JSON_ARRAY:
    case JSON_OBJECT:
        return v->count != 0;
    case JSON_INT:
    case JSON_REAL:
        break;
    }
    return json_real(v, &d) && d != 0;
}

/* The operand's value; *made is where a computed one is put. NULL: it is not there. */
static const struct json *value_of(struct eval *ev, uint16_t i, struct json *made)
{
    const struct node *n = &ev->w->nodes[i];
    struct json inner_made;
    const struct json *v;

    switch ((enum op)n->op) {
    case OP_LITERAL:
        return &n->value;
    case OP_PATH:
        v = follow(ev, n);
        ev->missing = ev->missing || v == NULL;
        return v;
    case OP_EXISTS: {
        bool missing = ev->missing;
        v = value_of(ev, n->a, &inner_made);
        ev->missing = missing; /* to ask is not to miss */
        *made = (struct json){ .type = JSON_BOOL, .u.b = v != NULL };
        return made;
    }
    case OP_SIZE:
        v = value_of(ev, n->a, &inner_made);
        if (v == NULL ||
            (v->type != JSON_STRING && v->type != JSON_ARRAY && v->type != JSON_OBJECT)) {
            return NULL;
        }
        *made = (struct json){ .type = JSON_INT,
                               .u.i = (int64_t)(v->type == JSON_STRING ? v->u.s.n : v->count) };
        return made;
    case OP_OR:
    case OP_AND:
    case OP_NOT:
    case OP_TRUTH:
    case OP_EQ:
    case OP_NE:
    case OP_LT:
    case OP_LE:
    case OP_GT:
    case OP_GE:
    case OP_IN:
    case OP_CONTAINS:
    case OP_STARTS:
    case OP_ENDS:
    case OP_MEMBER:
    case OP_INDEX:
    case OP_TOKEN:
    case OP_LIST:
        break;
    }
    INSIST(false); /* the compiler puts no other here */
    return NULL;
}

static bool equal(const struct json *a, const struct json *b)
{
    double x;
    double y;

    if (json_real(a, &x) && json_real(b, &y)) {
        return x >= y && x <= y;
    }
    if (a->type != b->type) {
        return false;
    }
    switch (a->type) {
    case JSON_NULL:
        return true;
    case JSON_BOOL:
        return a->u.b == b->u.b;
    case JSON_STRING:
        return str_eq(a->u.s, b->u.s);
    case JSON_INT:
    case JSON_REAL:
    case JSON_ARRAY:
    case JSON_OBJECT:
        break;
    }
    return false;
}

/* Is there an order, and which? */
static bool order(const struct json *a, const struct json *b, int *ret)
{
    double x;
    double y;

    if (json_real(a, &x) && json_real(b, &y)) {
        *ret = x < y ? -1 : x > y;
        return true;
    }
    if (a->type == JSON_STRING && b->type == JSON_STRING) {
        *ret = str_cmp(a->u.s, b->u.s);
        return true;
    }
    return false;
}

static bool contains(const struct json *a, const struct json *b)
{
    if (a->type == JSON_STRING && b->type == JSON_STRING) {
        return b->u.s.n == 0 || memmem(a->u.s.p, a->u.s.n, b->u.s.p, b->u.s.n) != NULL;
    }
    if (a->type == JSON_OBJECT && b->type == JSON_STRING) {
        return member(a, b->u.s) != NULL;
    }
    if (a->type == JSON_ARRAY) {
        JSON_EACH (item, a) {
            if (equal(item, b)) {
                return true;
            }
        }
    }
    return false;
}

static bool affix(const struct json *a, const struct json *b, bool end)
{
    if (a->type != JSON_STRING || b->type != JSON_STRING || b->u.s.n > a->u.s.n) {
        return false;
    }
    return str_eq(str_slice(a->u.s, end ? a->u.s.n - b->u.s.n : 0, b->u.s.n), b->u.s);
}

static bool in_list(struct eval *ev, const struct json *v, uint16_t list_at)
{
    for (uint16_t i = ev->w->nodes[list_at].a; i != NONE; i = ev->w->nodes[i].next) {
        struct json made;
        const struct json *item = value_of(ev, ev->w->nodes[i].a, &made);
        if (item != NULL && equal(v, item)) {
            return true;
        }
    }
    return false;
}

static bool compare(enum op op, const struct json *a, const struct json *b)
{
    int o = 0;

    switch (op) {
    case OP_EQ:
        return equal(a, b);
    case OP_NE:
        return !equal(a, b);
    case OP_LT:
        return order(a, b, &o) && o < 0;
    case OP_LE:
        return order(a, b, &o) && o <= 0;
    case OP_GT:
        return order(a, b, &o) && o > 0;
    case OP_GE:
        return order(a, b, &o) && o >= 0;
    case OP_CONTAINS:
        return contains(a, b);
    case OP_STARTS:
        return affix(a, b, false);
    case OP_ENDS:
        return affix(a, b, true);
    case OP_OR:
    case OP_AND:
    case OP_NOT:
    case OP_TRUTH:
    case OP_IN:
    case OP_LITERAL:
    case OP_PATH:
    case OP_MEMBER:
    case OP_INDEX:
    case OP_TOKEN:
    case OP_LIST:
    case OP_EXISTS:
    case OP_SIZE:
        break;
    }
    INSIST(false);
    return false;
}

static bool holds(struct eval *ev, uint16_t i)
{
    const struct node *n = &ev->w->nodes[i];
    struct json made_a;
    struct json made_b;

    if (n->op == OP_OR) {
        return holds(ev, n->a) || holds(ev, n->b);
    }
    if (n->op == OP_AND) {
        return holds(ev, n->a) && holds(ev, n->b);
    }
    if (n->op == OP_NOT) {
        return !holds(ev, n->a);
    }
    const struct json *a = value_of(ev, n->a, &made_a);
    if (a == NULL) {
        return false;
    }
    if (n->op == OP_TRUTH) {
        return truth(a);
    }
    if (n->op == OP_IN) {
        return in_list(ev, a, n->b);
    }
    const struct json *b = value_of(ev, n->b, &made_b);
    return b != NULL && compare((enum op)n->op, a, b);
}

bool trigger_when_holds(const struct trigger_when *w, const struct json *const *values,
                        bool *missing)
{
    struct eval ev = { .w = w, .values = values };
    bool r = holds(&ev, w->root);

    if (missing != NULL) {
        *missing = ev.missing;
    }
    return r;
}
