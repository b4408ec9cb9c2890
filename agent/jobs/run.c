#include "agent/jobs/run.h"

#include <errno.h>

_Static_assert(RUN_STATE_COUNT <= 32, "sets of states are 32 bits");

/* The drawing is in run.h. */
static const struct {
    const char *name;
    uint32_t next;
} run_states[RUN_STATE_COUNT] = {
    [RUN_QUEUED] = { "queued",
                     BIT(RUN_PLACED) | BIT(RUN_FAILED) | BIT(RUN_TIMED_OUT) | BIT(RUN_CANCELLED) },
    [RUN_PLACED] = { "placed", BIT(RUN_QUEUED) | BIT(RUN_PREPARING) | BIT(RUN_FAILED) |
                                   BIT(RUN_CANCELLED) | BIT(RUN_LOST) },
    [RUN_PREPARING] = { "preparing", BIT(RUN_QUEUED) | BIT(RUN_RUNNING) | BIT(RUN_FAILED) |
                                         BIT(RUN_CANCELLED) | BIT(RUN_LOST) },
    [RUN_RUNNING] = { "running", BIT(RUN_QUEUED) | RUN_STATES_ENDED },
    [RUN_SUCCEEDED] = { "succeeded", 0 },
    [RUN_FAILED] = { "failed", BIT(RUN_QUEUED) },
    [RUN_TIMED_OUT] = { "timed_out", BIT(RUN_QUEUED) },
    [RUN_CANCELLED] = { "cancelled", BIT(RUN_QUEUED) },
    [RUN_LOST] = { "lost", BIT(RUN_QUEUED) },
};

static const char *const run_reasons[RUN_REASON_COUNT] = {
    [RUN_REASON_NONE] = "none",           [RUN_REASON_EXIT] = "exit",
    [RUN_REASON_SIGNAL] = "signal",       [RUN_REASON_OOM] = "oom",
    [RUN_REASON_TIMEOUT] = "timeout",     [RUN_REASON_IMAGE] = "image",
    [RUN_REASON_NODE_LOST] = "node_lost", [RUN_REASON_NO_MATCH] = "no_match",
    [RUN_REASON_CANCELLED] = "cancelled", [RUN_REASON_DEADLINE] = "deadline",
    [RUN_REASON_QUOTA] = "quota",         [RUN_REASON_OUTPUT] = "output",
    [RUN_REASON_SANDBOX] = "sandbox",     [RUN_REASON_SECRET] = "secret",
};

static const char *const run_triggers[RUN_TRIGGER_COUNT] = {
    [RUN_TRIGGER_API] = "api",     [RUN_TRIGGER_SCHEDULE] = "schedule",
    [RUN_TRIGGER_HOOK] = "hook",   [RUN_TRIGGER_SENSOR] = "sensor",
    [RUN_TRIGGER_AFTER] = "after",
};

static const char *const run_starts[RUN_START_COUNT] = {
    [RUN_START_NONE] = "none",
    [RUN_START_COLD] = "cold",
    [RUN_START_CACHED] = "cached",
    [RUN_START_WARM] = "warm",
};

static const char *const run_peaks[RUN_PEAK_COUNT] = {
    [RUN_PEAK_NONE] = "none",
    [RUN_PEAK_KERNEL] = "kernel",
    [RUN_PEAK_SAMPLED] = "sampled",
};

void run_init(struct run *r, struct ulid id, int64_t now_us)
{
    memset(r, 0, sizeof *r);
    r->id = id;
    r->epoch = 1;
    r->attempt = 1;
    r->state = RUN_QUEUED;
    r->exit_code = -1;
    r->created_us = now_us;
    r->queued_us = now_us;
}

bool run_may_move(enum run_state from, enum run_state to)
{
    REQUIRE(from < RUN_STATE_COUNT && to < RUN_STATE_COUNT);
    return (run_states[from].next & BIT(to)) != 0;
}

uint32_t run_owner(const struct run *r)
{
    return r->owner != 0 ? r->owner : ulid_node(r->id);
}

/* What belongs to one attempt only. */
static void run_forget_attempt(struct run *r)
{
    r->placed_us = 0;
    r->preparing_us = 0;
    r->started_us = 0;
    r->ended_us = 0;
    r->reason = RUN_REASON_NONE;
    r->start = RUN_START_NONE;
    r->exit_code = -1;
    r->signal = 0;
    r->output_bytes = 0;
    r->log_bytes = 0;
    r->output_truncated = 0;
    r->log_truncated = 0;
    r->node[0] = '\0';
    r->detail[0] = '\0';
    memset(&r->usage, 0, sizeof r->usage);
}

void run_move(struct run *r, enum run_state to, int64_t now_us)
{
    INSIST(run_may_move((enum run_state)r->state, to));
    r->state = (uint8_t)to;
    if (to == RUN_QUEUED) {
        run_forget_attempt(r);
        r->queued_us = now_us;
    } else if (to == RUN_PLACED) {
        r->placed_us = now_us;
        r->retry_at_us = 0;
    } else if (to == RUN_PREPARING) {
        r->preparing_us = now_us;
    } else if (to == RUN_RUNNING) {
        r->started_us = now_us;
    } else {
        r->ended_us = now_us;
        r->retry_at_us = 0;
    }
}

bool run_is_ended(const struct run *r)
{
    return (BIT(r->state) & RUN_STATES_ENDED) != 0;
}

enum run_state run_state_of(enum run_reason reason, int exit_code)
{
    switch (reason) {
    case RUN_REASON_EXIT:
        return exit_code == 0 ? RUN_SUCCEEDED : RUN_FAILED;
    case RUN_REASON_TIMEOUT:
    case RUN_REASON_DEADLINE:
        return RUN_TIMED_OUT;
    case RUN_REASON_NODE_LOST:
        return RUN_LOST;
    case RUN_REASON_CANCELLED:
        return RUN_CANCELLED;
    case RUN_REASON_SIGNAL:
    case RUN_REASON_OOM:
    case RUN_REASON_IMAGE:
    case RUN_REASON_NO_MATCH:
    case RUN_REASON_QUOTA:
    case RUN_REASON_OUTPUT:
    case RUN_REASON_SANDBOX:
    case RUN_REASON_SECRET:
        return RUN_FAILED;
    case RUN_REASON_NONE:
    case RUN_REASON_COUNT:
        break;
    }
    INSIST(false); /* not a reason of an end */
    return RUN_FAILED;
}

const char *run_state_name(enum run_state s)
{
    REQUIRE(s < RUN_STATE_COUNT);
    return run_states[s].name;
}

const char *run_reason_name(enum run_reason r)
{
    REQUIRE(r < RUN_REASON_COUNT);
    return run_reasons[r];
}

const char *run_trigger_name(enum run_trigger t)
{
    REQUIRE(t < RUN_TRIGGER_COUNT);
    return run_triggers[t];
}

const char *run_start_name(enum run_start s)
{
    REQUIRE(s < RUN_START_COUNT);
    return run_starts[s];
}

const char *run_network_name(enum run_network n)
{
    static const char *const names[] = {
        [RUN_NETWORK_NONE] = "none",
        [RUN_NETWORK_HOST] = "host",
        [RUN_NETWORK_NAT] = "nat",
    };

    return (unsigned)n < RUN_NETWORK_COUNT ? names[n] : "none";
}

const char *run_cache_name(enum run_cache c)
{
    static const char *const names[] = { "default", "sensitive", "polluter" };

    REQUIRE(c < RUN_CACHE_COUNT);
    return names[c];
}

const char *run_peak_name(enum run_peak p)
{
    REQUIRE(p < RUN_PEAK_COUNT);
    return run_peaks[p];
}

int run_state_parse(struct str s, enum run_state *ret)
{
    for (unsigned i = 0; i < RUN_STATE_COUNT; i++) {
        if (str_eqs(s, run_states[i].name)) {
            *ret = (enum run_state)i;
            return 0;
        }
    }
    return -EINVAL;
}

int run_states_parse(struct str list, uint32_t *ret, struct err *e)
{
    struct str piece;
    uint32_t set = 0;

    while (str_split(&list, ',', &piece)) {
        enum run_state s;
        if (run_state_parse(piece, &s) != 0) {
            return err_say(e, -EINVAL,
                           "'%.*s' is not a state: queued, placed, preparing, running, succeeded, "
                           "failed, timed_out, cancelled or lost",
                           (int)(piece.n < 64 ? piece.n : 64), piece.n != 0 ? piece.p : "");
        }
        set |= BIT(s);
    }
    *ret = set;
    return 0;
}

static bool run_between(int64_t from, int64_t to, uint64_t *ret)
{
    if (from == 0 || to == 0) {
        return false;
    }
    *ret = to > from ? (uint64_t)(to - from) : 0;
    return true;
}

bool run_queue_us(const struct run *r, uint64_t *ret)
{
    return run_between(r->queued_us, r->placed_us, ret);
}

bool run_start_us(const struct run *r, uint64_t *ret)
{
    return run_between(r->placed_us, r->started_us, ret);
}

bool run_time_us(const struct run *r, uint64_t *ret)
{
    return run_between(r->started_us, r->ended_us, ret);
}

void run_set_text(char *dst, size_t cap, struct str s)
{
    size_t n = s.n < cap ? s.n : cap - 1;

    if (n < s.n) {
        /* Not inside a character: back to before its first byte. */
        while (n > 0 && ((unsigned char)s.p[n] & 0xc0U) == 0x80U) {
            n--;
        }
    }
    if (n != 0) {
        memcpy(dst, s.p, n);
    }
    dst[n] = '\0';
    if (str_is_utf8((struct str){ dst, n })) {
        return;
    }
    /* It must be readable again after it was written as JSON. */
    for (size_t i = 0; i < n; i++) {
        if (dst[i] == '\0' || ((unsigned char)dst[i] & 0x80U) != 0) {
            dst[i] = '?';
        }
    }
}
