/*
 * jobs - job documents: what to run, with which limits, how often to try.
 *
 * Pure. A document is JSON from outside: every field is checked, every problem is reported by
 * field, an unknown field is one. What comes out is normalised: defaults filled in, sizes in bytes,
 * times in milliseconds, CPUs in thousandths; written as JSON and read again it is the same.
 *
 * Beside this header: run.h (the record of a run), jobs_core.h (the queue), uv_store.h (the durable
 * store).
 */
#ifndef AGENT_JOBS_JOBS_H
#define AGENT_JOBS_JOBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/jobs/run.h"
#include "common/err.h"
#include "common/json.h"
#include "common/settings.h"
#include "common/str.h"

enum {
    JOB_NAME_MAX = RUN_JOB_CAP - 1,
    JOB_IMAGE_MAX = RUN_IMAGE_CAP - 1,
    JOB_DOCUMENT_MAX = 256 * 1024, /* bytes of text */
    JOB_ARGS_MAX = 1024,           /* of entrypoint, of command */
    JOB_ARG_BYTES_MAX = 65536,     /* one argument, one NAME=value */
    JOB_ENV_MAX = 512,
    JOB_REQUIRE_MAX = 16,
    JOB_REQUIRE_TEXT_MAX = 128,
    JOB_LABELS_MAX = 16,
    JOB_LABEL_TEXT_MAX = 63,      /* a label's name, a label's value */
    JOB_PAYLOAD_MAX = 128 * 1024, /* inside a one-off's document */
    JOB_TRIGGERS_MAX = 64 * 1024, /* bytes of "triggers", of "callbacks", as compact JSON */
    JOB_PROBLEMS_MAX = 32,
    JOB_SECRETS_MAX = 16,
};

/* Strings that the job owns; each NUL-terminated. */
struct job_list {
    char **v;
    size_t n;
};

struct job {
    /* Set by the store; 0 and "" before. */
    uint32_t revision;
    int64_t created_us;
    int64_t updated_us;

    char name[RUN_JOB_CAP]; /* "" in a one-off */
    char image[RUN_IMAGE_CAP];
    bool has_entrypoint; /* false: the image's */
    bool has_command;    /* false: the image's (unless has_entrypoint: none) */
    struct job_list entrypoint;
    struct job_list command;
    struct job_list env; /* "NAME=value", sorted by name */
    struct job_list
        require; /* as agent/routing/routing.h describes; the form only is checked here */
    struct job_list prefer;  /* the same, but wishes: a node that meets more of them goes first */
    bool has_egress;         /* false: whatever the node does not close */
    struct job_list egress;  /* with network nat: what may be reached (common/egress.h) */
    struct job_list secrets; /* "name=file": files in AGENT_SECRETS_DIR, sorted by name */
    char *workdir;           /* absolute; NULL: the image's */
    char *user;              /* NULL: the image's */
    int stop_signal;         /* 0: the image's, else SIGTERM */
    char labels[RUN_LABELS_CAP]; /* JSON object, sorted by name; "": none */
    struct run_limits limits;
    struct run_policy policy;
    bool retries_given; /* the document has "retries.max" */
    /* Compact JSON, NULL: none. What is in them is for agent/triggers; here only their form is
     * checked: an object, an array. */
    char *triggers; /* registered jobs only */
    char *callbacks;

    /* One-offs only, never written back. */
    bool has_payload;
    char *payload;
    size_t payload_len;
};

enum job_mode {
    JOB_REGISTERED, /* PUT /v1/jobs/{job} */
    JOB_ONE_OFF,    /* POST /v1/runs: no name; payload or payload_base64 allowed */
    JOB_OVERRIDE, /* a submit's own wishes on top of a registered job: image, name, concurrency and
                     priority may not be changed */
};

struct job_problem {
    char field[64]; /* "retries.max", "env.PATH", "command[3]"; "" for the document itself */
    char detail[160];
};
struct job_problems {
    size_t n;    /* in items */
    size_t more; /* found beyond the room for them */
    struct job_problem items[JOB_PROBLEMS_MAX];
};

/* Reads a document. name: what the path says ("" in a one-off); a name in the document must equal
 * it. base: the job that a JOB_OVERRIDE goes on top of, else NULL. settings give defaults and upper
 * bounds (sandbox.*, node.memory, auth.*).
 *
 * 0 and *ret_job. -EBADMSG: not JSON (e has line and column). -EINVAL: problems lists what is
 * wrong, by field, and e has the first. -E2BIG: over JOB_DOCUMENT_MAX or JSON limits. -ENOMEM. */
int job_parse(struct str text, enum job_mode mode, struct str name, const struct job *base,
              const struct settings *settings, struct job **ret_job, struct job_problems *problems,
              struct err *e);
/* A document that job_to_text() wrote, here or on another node: without this node's bounds, which
 * may be others now. Errors as above, without problems. */
int job_parse_stored(struct str text, struct job **ret_job, struct err *e);
struct job *job_free(struct job *j);      /* NULL is fine; returns NULL */
struct job *job_dup(const struct job *j); /* without payload; NULL: no memory */

/* The normalised document's members into an object that the caller has opened and ends: "name"
 * (unless a one-off), "image", …; without revision and times. job_parse() reads it again, as the
 * same mode. */
void job_to_json(struct json_w *w, const struct job *j);
/* The same as one compact object; equal text means equal jobs. The buf's sticky error tells of no
 * memory. */
void job_to_text(const struct job *j, struct buf *out);

/* A name for a job: letters, digits, '.', '_', '-', first a letter or digit, 1 to JOB_NAME_MAX. */
bool job_name_ok(struct str name);

/* The two halves of an entry of secrets; both are names as a job's (job_name_ok). */
struct str job_secret_file(const char *entry, struct str *ret_name);

/* A run of this job, as run_init() and with image, command, labels, limits and policy filled in.
 * The caller adds trigger, digest, payload size, entry node. */
void job_make_run(const struct job *j, struct ulid id, int64_t now_us, struct run *ret);

#endif
