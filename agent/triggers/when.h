/*
 * when - conditions on what arrives: `payload.ref == 'refs/heads/main'`, `value > 80 and not
 * (topic contains 'test')`, `/sensor/0/celsius >= 21.5`.
 *
 *   condition  or-ed, and-ed, not-ed comparisons: or ||, and &&, not !, ( )
 *   compare    == != < <= > >=  in [a, b]  contains  starts_with  ends_with; or one operand alone
 *   operand    123  -1.5e3  'text'  "text"  true  false  null
 *              name, name.member, name['member'], name[0]   with the names that the caller gives
 *              /member/0     a JSON pointer (RFC 6901) into `payload`
 *              exists(operand), size(operand)
 *
 * A comparison with something that is not there is false, whatever the operator. Numbers compare
 * with numbers, texts with texts (byte order); things of different kinds are unequal and in no
 * order. Alone, an operand holds when it is there and is not false, null, 0 or empty. Inside quotes
 * a backslash makes the next character plain.
 *
 * Pure, bounded: a condition is compiled once into a flat program; evaluating it allocates nothing.
 */
#ifndef AGENT_TRIGGERS_WHEN_H
#define AGENT_TRIGGERS_WHEN_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "common/json.h"
#include "common/str.h"

enum {
    TRIGGER_WHEN_TEXT_MAX = 1024, /* bytes of a condition */
    TRIGGER_WHEN_NODES_MAX = 256,
    TRIGGER_WHEN_DEPTH_MAX = 16, /* of parentheses and `not` */
    TRIGGER_WHEN_NAMES_MAX = 16,
};

struct trigger_when;

/* names: what may stand at the front of a path, NULL-terminated; the first is what a JSON pointer
 * goes into. -EINVAL (e: what and at which column), -ENOMEM. text may go away. */
int trigger_when_new(struct str text, const char *const *names, struct trigger_when **ret,
                     struct err *e);
struct trigger_when *trigger_when_free(struct trigger_when *w); /* NULL is fine; returns NULL */

/* values: one per name of trigger_when_new(), in its order; NULL: not there. missing (may be NULL)
 * is set when an operand was not there. */
bool trigger_when_holds(const struct trigger_when *w, const struct json *const *values,
                        bool *missing);

#endif
