#include "agent/jobs/replica.h"

#include <string.h>

#include "common/insist.h"
#include "common/rendezvous.h"

static bool has(const uint32_t *ids, size_t n, uint32_t id)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] == id) {
            return true;
        }
    }
    return false;
}

size_t job_replica_arbiters(struct str key, const uint32_t *live, size_t n, uint32_t *ret,
                            size_t want)
{
    return rendezvous_pick(rendezvous_key(key), live, n, ret, want);
}

size_t job_replica_holders(struct ulid id, uint32_t owner, const uint32_t *live, size_t n,
                           uint32_t *ret, size_t want)
{
    uint32_t picked[RUN_HOLDERS_MAX + 1];
    size_t most = want < RUN_HOLDERS_MAX ? want : RUN_HOLDERS_MAX;
    /* One more: the owner may be among them. */
    size_t have = job_replica_arbiters((struct str){ (const char *)id.b, sizeof id.b }, live, n,
                                       picked, most + 1);
    size_t len = 0;

    for (size_t i = 0; i < have && len < most; i++) {
        if (picked[i] != owner) {
            ret[len++] = picked[i];
        }
    }
    return len;
}

uint32_t job_replica_heir(const struct run *r, const uint32_t *live, size_t n)
{
    for (size_t i = 0; i < r->holders_len; i++) {
        if (has(live, n, r->holders[i])) {
            return r->holders[i];
        }
    }
    return 0;
}

bool job_replica_enough(size_t alive, uint64_t replicas_min)
{
    return alive + 1 >= replicas_min;
}

static int order(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b ? 1 : 0;
}

/* What of a record can differ between owners beyond epoch, end and attempt. Whatever is the same
 * here is the same record for everybody who asks. */
static int cmp_rest(const struct run *a, const struct run *b)
{
    int c = order(a->state, b->state);

    c = c != 0 ? c : order((uint64_t)a->started_us, (uint64_t)b->started_us);
    c = c != 0 ? c : order((uint64_t)a->placed_us, (uint64_t)b->placed_us);
    c = c != 0 ? c : order(run_owner(a), run_owner(b));
    c = c != 0 ? c : order(a->reason, b->reason);
    c = c != 0 ? c : order((uint64_t)a->exit_code + 1, (uint64_t)b->exit_code + 1);
    c = c != 0 ? c : order((uint64_t)a->queued_us, (uint64_t)b->queued_us);
    c = c != 0 ? c : order(a->cancel_asked, b->cancel_asked);
    c = c != 0 ? c : order(a->retries, b->retries);
    c = c != 0 ? c : order(a->output_bytes, b->output_bytes);
    c = c != 0 ? c : strcmp(a->node, b->node);
    c = c != 0 ? c : order(a->holders_len, b->holders_len);
    return c != 0 ? c : memcmp(a->holders, b->holders, sizeof a->holders);
}

int job_replica_cmp(const struct run *a, const struct run *b)
{
    bool ended_a = run_is_ended(a);
    bool ended_b = run_is_ended(b);
    int c = order(a->epoch, b->epoch);

    REQUIRE(ulid_eq(a->id, b->id));
    c = c != 0 ? c : order(ended_a, ended_b);
    if (c == 0 && ended_a) {
        c = order((uint64_t)b->ended_us, (uint64_t)a->ended_us); /* the earlier one */
    }
    c = c != 0 ? c : order(a->attempt, b->attempt);
    return c != 0 ? c : cmp_rest(a, b);
}

enum job_replica_verdict job_replica_judge(const struct run *have, const struct run *come)
{
    if (have->epoch == come->epoch && run_owner(have) == run_owner(come)) {
        if (run_is_ended(have)) {
            return run_is_ended(come) ? JOB_REPLICA_SAME : JOB_REPLICA_STALE;
        }
        return run_is_ended(come) || come->attempt >= have->attempt ? JOB_REPLICA_TAKE
                                                                    : JOB_REPLICA_STALE;
    }
    int c = job_replica_cmp(have, come);
    return c < 0 ? JOB_REPLICA_TAKE : c == 0 ? JOB_REPLICA_SAME : JOB_REPLICA_STALE;
}

bool job_replica_doubled(const struct run *stands, const struct run *other)
{
    return run_is_ended(other) &&
           (stands->epoch != other->epoch || run_owner(stands) != run_owner(other));
}

void job_replica_take_over(struct run *r, uint32_t heir, const uint32_t *holders, size_t n)
{
    REQUIRE(n <= RUN_HOLDERS_MAX && !run_is_ended(r));
    r->epoch++;
    r->owner = heir;
    memset(r->holders, 0, sizeof r->holders);
    r->holders_len = (uint8_t)n;
    if (n != 0) {
        memcpy(r->holders, holders, n * sizeof holders[0]);
    }
}

bool job_replica_add_holder(struct run *r, uint32_t holder, const uint32_t *live, size_t n)
{
    if (has(r->holders, r->holders_len, holder)) {
        return false;
    }
    for (size_t i = 0; i < r->holders_len; i++) {
        if (!has(live, n, r->holders[i])) {
            r->holders[i] = holder;
            return true;
        }
    }
    if (r->holders_len == RUN_HOLDERS_MAX) {
        return false;
    }
    r->holders[r->holders_len++] = holder;
    return true;
}
