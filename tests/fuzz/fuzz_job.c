/*
 * Job documents in every mode: no crash, no leak; what is accepted is written in a normal form that
 * reads as the same document.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "agent/jobs/jobs.h"
#include "agent/jobs/jobs_internal.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct settings set;

static void check(const struct job *j, enum job_mode mode)
{
    AUTO_BUF struct buf one = BUF_INIT(8 << 20);
    AUTO_BUF struct buf two = BUF_INIT(8 << 20);
    struct job *again = NULL;
    struct run r;
    struct err e = { 0 };

    job_to_text(j, &one);
    INSIST(buf_error(&one) == 0);
    INSIST(job_parse_stored(buf_str(&one), &again, &e) == 0);
    job_to_text(again, &two);
    INSIST(str_eq(buf_str(&one), buf_str(&two)));
    INSIST(mode != JOB_REGISTERED || str_eqs(STR("fuzz"), again->name));
    job_make_run(j, (struct ulid){ { 1 } }, 1, &r);
    job_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct job_problems problems;
    struct str text = { (const char *)data, size };
    struct err e = { 0 };

    set.sandbox.memory = set.sandbox.disk_bytes = 1 << 30;
    set.sandbox.pids = 100;
    set.sandbox.timeout_ms = 60000;
    for (unsigned mode = JOB_REGISTERED; mode <= JOB_ONE_OFF; mode++) {
        struct str name = mode == JOB_REGISTERED ? STR("fuzz") : STR("");
        struct job *j = NULL;
        if (job_parse(text, (enum job_mode)mode, name, NULL, &set, &j, &problems, &e) != 0) {
            INSIST(j == NULL && err_text(&e)[0] != '\0');
            continue;
        }
        check(j, (enum job_mode)mode);
        struct job *over = NULL;
        if (job_parse(text, JOB_OVERRIDE, STR(""), j, &set, &over, &problems, &e) == 0) {
            job_free(over);
        }
        job_free(j);
    }
    return 0;
}
