#include <errno.h>

#include "agent/jobs/jobs_internal.h"
#include "agent/jobs/sys_db_internal.h"
#include "common/mem.h"
#include "common/sys/sys_clock.h"

/* How long a deleted job's last revision is remembered, so that an old ETag does not fit a new job.
 */
#define TOMBSTONE_US ((int64_t)30 * 24 * 3600 * 1000000)

struct job_head {
    bool known; /* there is a row, though perhaps a deleted one's */
    bool deleted;
    int64_t revision;
    int64_t created_us;
    int64_t updated_us;
};

static int head_get(struct job_db *db, struct str name, struct job_head *ret)
{
    struct job_db_use u;

    *ret = (struct job_head){ 0 };
    job_db_begin(db, JOB_ST_JOB_HEAD, &u);
    job_db_bind_text(&u, name);
    if (job_db_row(&u)) {
        ret->known = true;
        ret->revision = sqlite3_column_int64(u.st, 0);
        ret->created_us = sqlite3_column_int64(u.st, 1);
        ret->updated_us = sqlite3_column_int64(u.st, 2);
        ret->deleted = sqlite3_column_int64(u.st, 3) != 0;
    }
    return job_db_end(&u);
}

/* Columns: revision, created, updated, document. */
static int read_job(struct job_db_use *u, struct job **ret)
{
    struct job *j = NULL;
    int r = job_parse_stored(job_db_text(u, 3), &j, &u->db->error);

    if (r != 0) {
        return r == -ENOMEM ? r : -EBADMSG;
    }
    j->revision = (uint32_t)sqlite3_column_int64(u->st, 0);
    j->created_us = sqlite3_column_int64(u->st, 1);
    j->updated_us = sqlite3_column_int64(u->st, 2);
    *ret = j;
    return 0;
}

int job_db_get_job(struct job_db *db, struct str name, uint32_t revision, struct job **ret)
{
    struct job_db_use u;
    struct job *j = NULL;
    int r = -ENOENT;

    job_db_begin(db, revision == 0 ? JOB_ST_JOB_GET : JOB_ST_REVISION_GET, &u);
    job_db_bind_text(&u, name);
    if (revision != 0) {
        job_db_bind_i64(&u, revision);
    }
    if (job_db_row(&u)) {
        r = read_job(&u, &j);
    }
    int end = job_db_end(&u);
    if (end != 0 || r != 0) {
        job_free(j);
        return end != 0 ? end : r;
    }
    *ret = j;
    return 0;
}

static int job_put(struct job_db *db, struct str name, const struct job_head *h)
{
    struct job_db_use u;

    job_db_begin(db, JOB_ST_JOB_PUT, &u);
    job_db_bind_text(&u, name);
    job_db_bind_i64(&u, h->revision);
    job_db_bind_i64(&u, h->created_us);
    job_db_bind_i64(&u, h->updated_us);
    return job_db_run(&u);
}

static int revision_put(struct job_db *db, struct str name, const struct job_head *h,
                        struct str document)
{
    struct job_db_use u;

    job_db_begin(db, JOB_ST_REVISION_PUT, &u);
    job_db_bind_text(&u, name);
    job_db_bind_i64(&u, h->revision);
    job_db_bind_i64(&u, h->updated_us);
    job_db_bind_text(&u, document);
    return job_db_run(&u);
}

/* Is this the document of the newest revision? */
static int same_document(struct job_db *db, struct str name, struct str document, bool *ret)
{
    struct job_db_use u;

    *ret = false;
    job_db_begin(db, JOB_ST_JOB_GET, &u);
    job_db_bind_text(&u, name);
    if (job_db_row(&u)) {
        *ret = str_eq(job_db_text(&u, 3), document);
    }
    return job_db_end(&u);
}

int job_db_put_job(struct job_db *db, const char *name, struct str document, uint32_t if_match,
                   int64_t now_us, bool *ret_created, bool *ret_changed, struct job **ret)
{
    struct str key = str_of(name);
    struct job_head h;
    bool same = false;
    int r = head_get(db, key, &h);

    r = r != 0 ? r : same_document(db, key, document, &same);
    if (r != 0) {
        return r;
    }
    bool exists = h.known && !h.deleted;
    if (if_match != 0 && (!exists || h.revision != if_match)) {
        return -EAGAIN;
    }
    *ret_created = !exists;
    *ret_changed = !same;
    if (!same) {
        if (h.revision >= INT32_MAX) {
            return -ERANGE;
        }
        h.created_us = exists ? h.created_us : now_us;
        h.updated_us = now_us;
        h.revision++;
        r = job_put(db, key, &h);
        r = r != 0 ? r : revision_put(db, key, &h, document);
    }
    return r != 0 ? r : job_db_get_job(db, key, 0, ret);
}

int job_db_take_job(struct job_db *db, struct str key, const struct job_db_version *v,
                    struct str document, bool *ret_created, bool *ret_changed, struct job **ret)
{
    struct job_head h;
    bool same = false;
    int r = head_get(db, key, &h);

    r = r != 0 ? r : same_document(db, key, document, &same);
    if (r != 0) {
        return r;
    }
    bool exists = h.known && !h.deleted;
    *ret_created = !exists;
    *ret_changed = !same || !exists || h.revision != v->revision;
    if (*ret_changed) {
        h.revision = v->revision;
        h.created_us = v->created_us;
        h.updated_us = v->updated_us;
        r = job_put(db, key, &h);
        r = r != 0 ? r : revision_put(db, key, &h, document);
    }
    return r != 0 ? r : job_db_get_job(db, key, 0, ret);
}

int job_db_list_jobs(struct job_db *db, struct str after, size_t limit, struct job **jobs,
                     size_t *ret_n, bool *ret_more)
{
    struct job_db_use u;
    size_t n = 0;
    int r = 0;

    *ret_more = false;
    job_db_begin(db, JOB_ST_JOB_LIST, &u);
    job_db_bind_text(&u, after);
    job_db_bind_i64(&u, (int64_t)limit + 1);
    while (r == 0 && !*ret_more && job_db_row(&u)) {
        if (n == limit) {
            *ret_more = true;
        } else {
            r = read_job(&u, &jobs[n]);
            n += r == 0;
        }
    }
    int end = job_db_end(&u);
    *ret_n = n; /* the caller frees them in any case */
    return end != 0 ? end : r;
}

int job_db_delete_job(struct job_db *db, struct str name, uint32_t if_match)
{
    struct job_db_use u;
    struct job_head h;
    int r = head_get(db, name, &h);

    if (r != 0 || !h.known || h.deleted) {
        return r != 0 ? r : -ENOENT;
    }
    if (if_match != 0 && h.revision != if_match) {
        return -EAGAIN;
    }
    job_db_begin(db, JOB_ST_JOB_DELETE, &u);
    job_db_bind_i64(&u, sys_wall_us());
    job_db_bind_text(&u, name);
    return job_db_run(&u);
}

/* --- retention --- */

int job_db_total(struct job_db *db, const char *name, int64_t *ret)
{
    struct job_db_use u;

    *ret = 0;
    job_db_begin(db, JOB_ST_TOTAL_GET, &u);
    job_db_bind_text(&u, str_of(name));
    if (job_db_row(&u)) {
        *ret = sqlite3_column_int64(u.st, 0);
    }
    return job_db_end(&u);
}

/* The oldest ended runs, as far as they are too old or too much. What failed stays until
 * failed_us, unless there is too much. */
static int find_old(struct job_db *db, int64_t cutoff_us, int64_t failed_us, int64_t over,
                    struct job_store_gone *gone, size_t limit, size_t *ret_n)
{
    struct job_db_use u;
    size_t n = 0;

    job_db_begin(db, JOB_ST_RUN_OLD, &u);
    job_db_bind_i64(&u, over > 0 ? INT64_MAX : failed_us);
    job_db_bind_i64(&u, (int64_t)limit);
    while (n < limit && job_db_row(&u)) {
        struct str id = job_db_text(&u, 0);
        bool failed = sqlite3_column_int64(u.st, 4) != 0;
        bool young = sqlite3_column_int64(u.st, 1) > (failed ? failed_us : cutoff_us);
        if (failed && young && over <= 0) {
            continue;
        }
        if (id.n != sizeof gone[n].id.b || (young && over <= 0)) {
            break;
        }
        memcpy(gone[n].id.b, id.p, id.n);
        gone[n].attempts = (uint32_t)sqlite3_column_int64(u.st, 3);
        over -= sqlite3_column_int64(u.st, 2);
        n++;
    }
    *ret_n = n;
    return job_db_end(&u);
}

static int delete_old_rest(struct job_db *db, int64_t now_us)
{
    struct job_db_use u;

    job_db_begin(db, JOB_ST_KEY_OLD, &u);
    job_db_bind_i64(&u, now_us - (int64_t)JOB_STORE_KEY_HOURS * 3600 * 1000000);
    int r = job_db_run(&u);
    if (r == 0) {
        job_db_begin(db, JOB_ST_COUNT_EMPTY, &u);
        r = job_db_run(&u);
    }
    if (r == 0) {
        job_db_begin(db, JOB_ST_REVISION_OLD, &u);
        r = job_db_run(&u);
    }
    if (r == 0) {
        job_db_begin(db, JOB_ST_JOB_OLD, &u);
        job_db_bind_i64(&u, now_us - TOMBSTONE_US);
        r = job_db_run(&u);
    }
    /* Some free pages go back to the file system each time. */
    return r != 0 ? r : job_db_exec(db, "PRAGMA incremental_vacuum(256)");
}

static int64_t before(int64_t now_us, uint64_t age_ms)
{
    return age_ms != 0 && age_ms < (uint64_t)now_us / 1000 ? now_us - (int64_t)(age_ms * 1000) : 0;
}

int job_db_retain(struct job_db *db, int64_t now_us, const struct job_retention *keep,
                  struct job_store_gone *gone, size_t limit, size_t *ret_n, bool *ret_more)
{
    int64_t kept = 0;
    size_t n = 0;
    int64_t cutoff = before(now_us, keep->age_ms);
    int64_t failed = keep->failed_ms > keep->age_ms ? before(now_us, keep->failed_ms) : cutoff;

    int r = job_db_total(db, "kept_bytes", &kept);
    int64_t over =
        keep->bytes != 0 && keep->bytes < (uint64_t)kept ? kept - (int64_t)keep->bytes : 0;
    r = r != 0 ? r : find_old(db, cutoff, failed, over, gone, limit, &n);
    for (size_t i = 0; r == 0 && i < n; i++) {
        r = job_db_delete_run(db, &gone[i].id);
    }
    size_t copies = 0;
    r = r != 0
            ? r
            : job_db_retain_copies(db, now_us, cutoff, keep->bytes, gone + n, limit - n, &copies);
    r = r != 0 ? r : delete_old_rest(db, now_us);
    if (r == 0) {
        *ret_n = n + copies;
        *ret_more = n + copies == limit;
    }
    return r;
}

/* --- statistics --- */

/* Rows of (state, count). */
static void read_states(struct job_db_use *u, uint64_t by_state[RUN_STATE_COUNT])
{
    while (job_db_row(u)) {
        enum run_state s;
        if (run_state_parse(job_db_text(u, 0), &s) == 0) {
            by_state[s] = (uint64_t)sqlite3_column_int64(u->st, 1);
        }
    }
}

static int stats_jobs(struct job_db *db, size_t jobs_max, struct job_store_job_stats *jobs,
                      size_t *ret_n)
{
    struct job_db_use u;
    size_t n = 0;

    job_db_begin(db, JOB_ST_STATS_JOBS, &u);
    job_db_bind_i64(&u, (int64_t)jobs_max);
    while (n < jobs_max && job_db_row(&u)) {
        memset(&jobs[n], 0, sizeof jobs[n]);
        run_set_text(jobs[n].job, sizeof jobs[n].job, job_db_text(&u, 0));
        jobs[n].last_us = sqlite3_column_int64(u.st, 1);
        n++;
    }
    int r = job_db_end(&u);
    for (size_t i = 0; r == 0 && i < n; i++) {
        job_db_begin(db, JOB_ST_STATS_JOB, &u);
        job_db_bind_text(&u, str_of(jobs[i].job));
        read_states(&u, jobs[i].by_state);
        r = job_db_end(&u);
    }
    *ret_n = n;
    return r;
}

int job_db_stats(struct job_db *db, size_t jobs_max, struct job_store_stats *stats,
                 struct job_store_job_stats *jobs, size_t *ret_n)
{
    struct job_db_use u;
    int64_t kept = 0;

    memset(stats, 0, sizeof *stats);
    job_db_begin(db, JOB_ST_STATS_ALL, &u);
    read_states(&u, stats->by_state);
    int r = job_db_end(&u);
    for (size_t i = 0; i < RUN_STATE_COUNT; i++) {
        stats->runs += stats->by_state[i];
    }
    r = r != 0 ? r : job_db_total(db, "kept_bytes", &kept);
    stats->kept_bytes = kept > 0 ? (uint64_t)kept : 0;
    if (r == 0) {
        job_db_begin(db, JOB_ST_JOBS_COUNT, &u);
        if (job_db_row(&u)) {
            stats->jobs = (uint64_t)sqlite3_column_int64(u.st, 0);
        }
        r = job_db_end(&u);
    }
    stats->file_bytes = job_db_file_bytes(db);
    return r != 0 ? r : stats_jobs(db, jobs_max, jobs, ret_n);
}
