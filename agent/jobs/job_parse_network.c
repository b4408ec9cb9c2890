/* "network" and "egress" of a job document. */
#include <errno.h>
#include <stdio.h>

#include "agent/jobs/jobs_internal.h"
#include "common/egress.h"

int job_parse_network(const struct json *v, bool host_ok, bool nat_ok, struct job *j,
                      struct job_problem *ret)
{
    char shown[40];
    struct str s;

    if (!json_str(v, &s)) {
        return job_problem_say(ret, "network", "must be \"none\", \"nat\" or \"host\", not %s",
                               json_type_name(v->type));
    }
    for (unsigned i = 0; i < RUN_NETWORK_COUNT; i++) {
        if (!str_eqs(s, run_network_name((enum run_network)i))) {
            continue;
        }
        if (i == RUN_NETWORK_HOST && !host_ok) {
            return job_problem_say(ret, "network",
                                   "\"host\" is switched off here (sandbox.allow_host_network)");
        }
        if (i == RUN_NETWORK_NAT && !nat_ok) {
            return job_problem_say(ret, "network",
                                   "\"nat\" is switched off here (sandbox.allow_nat)");
        }
        j->limits.network = (uint8_t)i;
        return 0;
    }
    run_set_text(shown, sizeof shown, s);
    return job_problem_say(ret, "network", "'%s' is not \"none\", \"nat\" or \"host\"", shown);
}

int job_parse_egress(const struct json *v, struct job *j, struct job_problem *ret)
{
    size_t at = 0;

    job_list_release(&j->egress);
    j->has_egress = true;
    if (v->type != JSON_ARRAY) {
        return job_problem_say(ret, "egress",
                               "must be a list of rules such as \"example.org:443\", not %s",
                               json_type_name(v->type));
    }
    if (v->count > EGRESS_RULES_MAX) {
        return job_problem_say(ret, "egress", "has %zu rules, at most %d are allowed",
                               (size_t)v->count, EGRESS_RULES_MAX);
    }
    JSON_EACH (one, v) {
        char field[32];
        struct egress_rule rule;
        struct err why = { .code = 0 };
        struct str s;

        (void)snprintf(field, sizeof field, "egress[%zu]", at++);
        if (!json_str(one, &s)) {
            return job_problem_say(ret, field,
                                   "must be a string such as \"10.0.0.0/8:5432\", not %s",
                                   json_type_name(one->type));
        }
        if (egress_parse(s, &rule, &why) != 0) {
            return job_problem_say(ret, field, "%s", err_text(&why));
        }
        if (job_list_add(&j->egress, s) != 0) {
            return -ENOMEM;
        }
    }
    return 0;
}
