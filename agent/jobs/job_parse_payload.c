/* "payload" and "payload_base64" of a one-off's document. */
#include <errno.h>

#include "agent/jobs/jobs_internal.h"
#include "common/base64.h"
#include "common/mem.h"

int job_parse_payload(const struct json *v, struct job *j, struct job_problem *ret)
{
    struct str s;

    if (!json_str(v, &s)) {
        return job_problem_say(ret, "payload", "must be a string, not %s (bytes: payload_base64)",
                               json_type_name(v->type));
    }
    if (j->has_payload) {
        return job_problem_say(ret, "payload", "payload_base64 is there already");
    }
    if (s.n > JOB_PAYLOAD_MAX) {
        return job_problem_say(ret, "payload",
                               "has %zu bytes; %d are the most here: send it as the body", s.n,
                               JOB_PAYLOAD_MAX);
    }
    j->payload = mem_strndup(s.p, s.n);
    if (j->payload == NULL) {
        return -ENOMEM;
    }
    j->payload_len = s.n;
    j->has_payload = true;
    return 0;
}

int job_parse_payload_base64(const struct json *v, struct job *j, struct job_problem *ret)
{
    struct str s;
    char *bytes = NULL;
    size_t n = 0;

    if (j->has_payload) {
        return job_problem_say(ret, "payload_base64", "payload is there already");
    }
    if (!json_str(v, &s)) {
        return job_problem_say(ret, "payload_base64", "must be a string, not %s",
                               json_type_name(v->type));
    }
    if (s.n / 4 * 3 > JOB_PAYLOAD_MAX) {
        return job_problem_say(ret, "payload_base64", "is over %d bytes: send it as the body",
                               JOB_PAYLOAD_MAX);
    }
    int r = base64_decode(s, &bytes, &n);
    if (r == -ENOMEM) {
        return r;
    }
    if (r != 0) {
        return job_problem_say(ret, "payload_base64", "is not base 64 (RFC 4648, with padding)");
    }
    j->payload = bytes;
    j->payload_len = n;
    j->has_payload = true;
    return 0;
}
