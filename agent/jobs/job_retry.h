/*
 * job_retry - is an attempt that failed tried again, and when? Pure.
 *
 * What counts, in this order: the reason (a cancelled run never is), the document's rules for exit
 * codes, exit code 75, the number of retries, the budget. When: exponential back-off with jitter,
 * or what the job itself asked for (retry-after), up to JOB_RETRY_AFTER_MAX_MS.
 *
 * The budget keeps a job that fails everywhere from filling the cluster with retries: in a window
 * of a minute no more of them than `budget` for each first attempt, and JOB_BUDGET_FLOOR in any
 * case. A node counts the runs that it owns. Since it is a ratio, a cluster whose nodes keep it
 * keeps it too, but for the floor, which each node has.
 */
#ifndef AGENT_JOBS_JOB_RETRY_H
#define AGENT_JOBS_JOB_RETRY_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/jobs/run.h"
#include "common/json.h"
#include "common/rng.h"
#include "common/str.h"

enum {
    JOB_RETRY_AFTER_MAX_MS = 24 * 3600 * 1000,
    JOB_BUDGET_WINDOW_MS = 60 * 1000,
    JOB_BUDGET_FLOOR = 10, /* retries in a window that are always there */
};

/* Attempts of one job in this window and the one before. Zero it to begin. */
struct job_budget {
    uint64_t since_ms;
    uint32_t first[2], again[2]; /* now, before */
};
void job_budget_first(struct job_budget *b, uint64_t now_ms);
/* May there be one more retry? Counted when there may. */
bool job_budget_take(struct job_budget *b, uint32_t budget_milli, uint64_t now_ms);

/* What the rules say of an exit code (1 to 255); 0: nothing. */
enum run_exit_means job_exit_means(const struct run_policy *p, int exit_code);
/* {"75": "retry", "1-9": "fail", "*": "fail"} into the policy. -EINVAL: what, where. */
int job_exit_rules_parse(const struct json *v, struct run_policy *p, char field[64],
                         char detail[160]);
void job_exit_rules_to_json(const struct run_policy *p, struct json_w *w);
/* The same as text for records, "75=retry,1-9=fail,*=fail", and back. -EINVAL. */
void job_exit_rules_format(const struct run_policy *p, char dst[RUN_EXIT_RULES_TEXT]);
int job_exit_rules_read(struct str text, struct run_policy *p);

/* The delay before the retries-th retry. */
uint64_t job_retry_backoff_ms(const struct run_policy *p, uint32_t retries, struct rng *rng);

/* The longest that any retry is waited for. */
uint64_t job_retry_longest_ms(const struct run_policy *p);

/* What a job wrote as Retry-After (RFC 9110, 10.2.3): seconds, or an HTTP date; from now_us on, in
 * ms, at most JOB_RETRY_AFTER_MAX_MS. 0: neither, or a time that is past. */
uint64_t job_retry_after_ms(struct str text, int64_t now_us);

#endif
