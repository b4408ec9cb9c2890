/*
 * run - the record of one run: one execution of a job, in one or more attempts.
 *
 * A plain value without pointers: copy it freely. Pure. Times of the wall clock are microseconds
 * since 1970 (0: not yet), sizes bytes, CPUs thousandths. Text is NUL-terminated UTF-8, "" where
 * not known.
 *
 *                  .-------------------- a retry, or no room after all ---------------------.
 *                  v                                                                        |
 *              +--------+      +--------+      +-----------+      +---------+               |
 *   accepted ->| queued |----->| placed |----->| preparing |----->| running |---------------+
 *              +--------+      +--------+      +-----------+      +---------+               |
 *                  |               |                 |                 |                    |
 *                  v               v                 v                 v                    |
 *        timed_out, cancelled,   failed, cancelled, lost    succeeded, failed, timed_out,   |
 *        failed (no_match)                                  cancelled, lost                 |
 *                                                              | all but succeeded          |
 *                                                              '--- agent retry RUN --------'
 *
 * Where it waits: queued for room (and for its retry delay); placed for the executor; preparing for
 * image and launcher; running for the program. An end waits for the store before anyone is told.
 */
#ifndef AGENT_JOBS_RUN_H
#define AGENT_JOBS_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/digest.h"
#include "common/err.h"
#include "common/ids.h"
#include "common/insist.h"
#include "common/json.h"

enum {
    RUN_JOB_CAP = 64,      /* a job's name and its NUL */
    RUN_IMAGE_CAP = 256,   /* repository:tag or repository@digest as asked for */
    RUN_NODE_CAP = 64,     /* a longer node name is cut */
    RUN_DETAIL_CAP = 256,  /* a sentence */
    RUN_COMMAND_CAP = 512, /* a JSON array; longer ones end with "…" at a whole argument */
    RUN_LABELS_CAP = 512,  /* a JSON object; a job document may not have longer ones */
    RUN_ATTEMPT_MAX = 9999,
    RUN_HOLDERS_MAX = 6, /* other nodes that have copies */
};

/* Stored and sent by name; the numbers are only for memory and for sets: BIT(RUN_QUEUED). */
enum run_state {
    RUN_QUEUED,
    RUN_PLACED,
    RUN_PREPARING,
    RUN_RUNNING,
    RUN_SUCCEEDED,
    RUN_FAILED,
    RUN_TIMED_OUT,
    RUN_CANCELLED,
    RUN_LOST,
    RUN_STATE_COUNT
};

enum {
    RUN_STATES_LIVE = BIT(RUN_QUEUED) | BIT(RUN_PLACED) | BIT(RUN_PREPARING) | BIT(RUN_RUNNING),
    RUN_STATES_ENDED = BIT(RUN_SUCCEEDED) | BIT(RUN_FAILED) | BIT(RUN_TIMED_OUT) |
                       BIT(RUN_CANCELLED) | BIT(RUN_LOST),
};

enum run_reason {
    RUN_REASON_NONE,      /* not ended */
    RUN_REASON_EXIT,      /* it exited by itself: exit_code */
    RUN_REASON_SIGNAL,    /* killed by a signal that nobody of us sent */
    RUN_REASON_OOM,       /* over its memory limit */
    RUN_REASON_TIMEOUT,   /* over its time */
    RUN_REASON_IMAGE,     /* the image is gone, broken or for another platform */
    RUN_REASON_NODE_LOST, /* nobody knows how it ended */
    RUN_REASON_NO_MATCH,  /* no node can ever take it */
    RUN_REASON_CANCELLED,
    RUN_REASON_DEADLINE, /* it waited longer than its queue_timeout */
    RUN_REASON_QUOTA,    /* over its disk limit */
    RUN_REASON_OUTPUT,   /* over the output limit */
    RUN_REASON_SANDBOX,  /* it could not be started: detail */
    RUN_REASON_SECRET,   /* one of its job's secrets is not there, or not to be opened: detail */
    RUN_REASON_COUNT
};

enum run_trigger {
    RUN_TRIGGER_API,
    RUN_TRIGGER_SCHEDULE,
    RUN_TRIGGER_HOOK,
    RUN_TRIGGER_SENSOR,
    RUN_TRIGGER_AFTER,
    RUN_TRIGGER_COUNT
};

enum run_start {
    RUN_START_NONE,
    RUN_START_COLD,
    RUN_START_CACHED,
    RUN_START_WARM,
    RUN_START_COUNT
};
enum run_network { RUN_NETWORK_NONE, RUN_NETWORK_HOST, RUN_NETWORK_NAT, RUN_NETWORK_COUNT };
enum run_cache { RUN_CACHE_DEFAULT, RUN_CACHE_SENSITIVE, RUN_CACHE_POLLUTER, RUN_CACHE_COUNT };
enum run_peak { RUN_PEAK_NONE, RUN_PEAK_KERNEL, RUN_PEAK_SAMPLED, RUN_PEAK_COUNT };

/* The limits in force for this run. */
struct run_limits {
    uint64_t memory_bytes;
    uint64_t memory_reserve_bytes; /* what room is held for; 0: memory_bytes */
    uint64_t cpus_milli;           /* 0: no limit */
    uint64_t
        cpu_weight; /* share when processors are short: 100 is one processor; 0: nobody knows */
    uint64_t pids;
    uint64_t disk_bytes;
    uint64_t timeout_ms; /* of one attempt; 0: no limit */
    uint64_t grace_ms;
    uint8_t network;         /* enum run_network */
    uint8_t cache;           /* enum run_cache: the class of service that it is to have */
    uint8_t memory_learned;  /* nobody asked for just this much: it may grow after a kill */
    uint8_t output_truncate; /* past the output limit: drop the rest instead of ending the run */
};

/* What an exit code means, by the narrowest range that it is in. */
enum run_exit_means { RUN_EXIT_FAILS = 1, RUN_EXIT_RETRIES = 2 };
enum { RUN_EXIT_RULES_MAX = 8, RUN_EXIT_RULES_TEXT = RUN_EXIT_RULES_MAX * 16 };
struct run_exit_rule {
    uint8_t first, last; /* 1 to 255 */
    uint8_t means;       /* enum run_exit_means */
};

/* How the queue treats this run; taken from the job document when it is accepted. */
struct run_policy {
    uint32_t retries_max;       /* attempts after the first, for any failure */
    uint32_t retries_asked_max; /* the same for exit code 75; never less than retries_max */
    uint32_t retry_backoff_milli;
    uint32_t retry_jitter_milli; /* share of the delay, 0 to 1000 */
    uint64_t retry_delay_ms;
    uint64_t retry_max_delay_ms;
    uint64_t queue_timeout_ms;   /* 0: waits as long as it takes */
    uint32_t concurrency;        /* runs of this job at a time; 0: no limit */
    uint32_t priority;           /* 0 to 100 */
    uint32_t retry_budget_milli; /* retries for each first attempt, see job_retry.h; 0: any */
    uint8_t exit_rules_len;
    struct run_exit_rule exit_rules[RUN_EXIT_RULES_MAX];
};

enum { RUN_KNOWS_CACHE = 1, RUN_KNOWS_BANDWIDTH = 2 };
struct run_usage {
    uint8_t measured;    /* 0: the JSON says "resources": null */
    uint8_t peak_source; /* enum run_peak */
    uint8_t knows;       /* RUN_KNOWS_… bits: what the processor told */
    uint8_t cache_class; /* enum run_cache: of service, that it ran in */
    uint32_t samples;
    uint64_t cpu_user_us, cpu_system_us, cpu_total_us, cpu_throttled_us;
    uint64_t memory_peak_bytes, memory_mean_bytes;
    uint64_t io_read_bytes, io_write_bytes, io_read_ops, io_write_ops;
    uint64_t oom_kills;
    /* Of its own network; 0 on the machine's, which nobody can tell apart. */
    uint64_t network_rx_bytes, network_tx_bytes, network_rx_packets, network_tx_packets;
    uint32_t cache_mean_kib, cache_max_kib; /* of the last level, with RUN_KNOWS_CACHE */
    uint64_t bandwidth_bytes;               /* to and from memory, with RUN_KNOWS_BANDWIDTH */
};

struct run {
    struct ulid id;
    uint32_t revision; /* of the job; 0: a one-off */
    uint32_t epoch;    /* from 1 */
    uint32_t attempt;  /* from 1 */
    uint32_t retries;  /* attempts that the policy has granted so far */
    uint8_t state;     /* enum run_state */
    uint8_t reason;    /* enum run_reason */
    uint8_t trigger;   /* enum run_trigger */
    uint8_t start;     /* enum run_start */
    uint8_t output_truncated;
    uint8_t log_truncated;
    uint8_t cancel_asked; /* somebody asked for the end; it comes */
    uint8_t holders_len;
    int16_t exit_code;  /* -1: none */
    int16_t signal;     /* 0: none */
    int64_t created_us; /* accepted */
    int64_t queued_us;  /* this attempt went into the queue */
    int64_t placed_us;  /* an executor took this attempt */
    int64_t preparing_us;
    int64_t started_us;
    int64_t ended_us;
    int64_t scheduled_us; /* the planned time of a schedule's firing */
    int64_t retry_at_us;  /* queued: not before this moment; 0: at once */
    uint64_t payload_bytes;
    uint64_t output_bytes;
    uint64_t log_bytes;
    /* Who has the run's record and payload beside its owner, the first heir first; 32 bits of each
     * node's id, as in the run's id. */
    uint32_t holders[RUN_HOLDERS_MAX];
    uint32_t owner;  /* who speaks for it; 0: the entry node, as its id says */
    uint32_t merged; /* records of other owners that did not stand; read by the store, not kept */
    struct digest image_digest;
    uint8_t request_hash[32]; /* SHA-256 of the request that made it; not shown */
    struct run_limits limits;
    struct run_policy policy;
    struct run_usage usage;
    /* Text last: the queue keeps only the used part of it in memory. */
    char job[RUN_JOB_CAP]; /* "": a one-off */
    char image[RUN_IMAGE_CAP];
    char node[RUN_NODE_CAP];       /* the executor */
    char entry_node[RUN_NODE_CAP]; /* who accepted it */
    char command[RUN_COMMAND_CAP]; /* JSON array, as the document says; "": the image's */
    char labels[RUN_LABELS_CAP];   /* JSON object; "": none */
    char detail[RUN_DETAIL_CAP];
};

/* A queued run of this image, with attempt 1, epoch 1, exit_code -1 and everything else empty. */
void run_init(struct run *r, struct ulid id, int64_t now_us);

/* May a run go from one state to the other? */
bool run_may_move(enum run_state from, enum run_state to);
/* The only place where a state changes, with the time that goes with it. The move must be legal.
 * Back to queued clears what belongs to the attempt that ended. */
void run_move(struct run *r, enum run_state to, int64_t now_us);
bool run_is_ended(const struct run *r);

/* The end state that a reason means: exit with code 0 is success. */
enum run_state run_state_of(enum run_reason reason, int exit_code);

const char *run_state_name(enum run_state s);     /* "timed_out" */
const char *run_reason_name(enum run_reason r);   /* "oom"; RUN_REASON_NONE: "none" */
const char *run_trigger_name(enum run_trigger t); /* "api" */
const char *run_start_name(enum run_start s);     /* "cold"; RUN_START_NONE: "none" */
const char *run_cache_name(enum run_cache c);
const char *run_peak_name(enum run_peak p);       /* "kernel" */
const char *run_network_name(enum run_network n); /* "nat" */
/* -EINVAL. */
int run_state_parse(struct str s, enum run_state *ret);
/* "failed,timed_out" to a set of BIT(state). "" is the empty set. -EINVAL names the bad one. */
int run_states_parse(struct str list, uint32_t *ret, struct err *e);

/* Durations; false while there is none. Never negative, though the wall clock may have been set. */
bool run_queue_us(const struct run *r, uint64_t *ret); /* queued to placed */
bool run_start_us(const struct run *r, uint64_t *ret); /* placed to started */
bool run_time_us(const struct run *r, uint64_t *ret);  /* started to ended */

/* Who speaks for the run: 32 bits of a node's id. */
uint32_t run_owner(const struct run *r);

/* The Run object of the API, without request_hash. */
void run_to_json(struct json_w *w, const struct run *r);
/* Reads one that run_to_json() or run_to_record() wrote: unknown members are passed over, so that
 * an older version reads a newer one's. Values out of range or of the wrong type: -EINVAL with the
 * member's name. Computed members are not read. */
int run_from_json(const struct json *v, struct run *ret, struct err *e);
/* As run_to_json(), with the members that only the store and other nodes need ("policy", …). */
void run_to_record(struct json_w *w, const struct run *r);

/* Sets a text member: cut at a whole character when it is too long; when it is not UTF-8 without
 * NUL, the bytes in question become '?'. */
void run_set_text(char *dst, size_t cap, struct str s);

#endif
