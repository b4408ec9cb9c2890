/*
 * jobs_internal - what the files of agent/jobs share, and what their unit tests look at.
 */
#ifndef AGENT_JOBS_JOBS_INTERNAL_H
#define AGENT_JOBS_JOBS_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "agent/jobs/jobs.h"
#include "agent/jobs/run.h"
#include "common/json.h"
#include "common/str.h"

/* A number of thousandths: an integer when it is whole. */
void job_w_milli(struct json_w *w, const char *key, uint64_t milli);

/* Copies s. -ENOMEM. */
int job_list_add(struct job_list *l, struct str s);
void job_list_release(struct job_list *l);
/* Adds or replaces; keeps the list sorted by name. -ENOMEM. */
int job_env_set(struct job_list *env, struct str name, struct str value);

/* Has one entry of "require" or "prefer" the form of one, as far as it is looked at here? */
bool job_requirement_ok(const char *text);
/* Fills *ret in. Returns -EINVAL. */
int job_problem_say(struct job_problem *ret, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Members of a document (job_parse_network.c), into *j. -EINVAL: *ret says what is wrong. -ENOMEM.
 */
int job_parse_network(const struct json *v, bool host_ok, bool nat_ok, struct job *j,
                      struct job_problem *ret);
int job_parse_egress(const struct json *v, struct job *j, struct job_problem *ret);
/* job_parse_payload.c; the same. */
int job_parse_payload(const struct json *v, struct job *j, struct job_problem *ret);
int job_parse_payload_base64(const struct json *v, struct job *j, struct job_problem *ret);
/* job_parse_secrets.c; the same. */
int job_parse_secrets(const struct json *v, struct job *j, struct job_problem *ret);
void job_w_secrets(struct json_w *w, const struct job_list *secrets);

/* "SIGTERM", "TERM", "15", "SIGRTMIN+3"; 0: not a signal. */
int job_signal_parse(struct str s);

#endif
