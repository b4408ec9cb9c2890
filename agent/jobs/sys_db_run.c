#include <errno.h>

#include "agent/jobs/jobs_internal.h"
#include "agent/jobs/sys_db_internal.h"
#include "common/mem.h"

enum { RECORD_MAX = 64 * 1024 };

static const char total_kept[] = "kept_bytes";

/* What of the stored row the writes need. */
struct head {
    char job[RUN_JOB_CAP];
    uint32_t revision;
    enum run_state state;
    uint32_t epoch;
    uint32_t attempt;
    bool ended;
    int64_t bytes;
    int64_t created_us;
};

static int head_get(struct job_db *db, const struct ulid *id, struct head *ret)
{
    struct job_db_use u;
    int bad = 0;
    bool found;

    job_db_begin(db, JOB_ST_RUN_HEAD, &u);
    job_db_bind_blob(&u, id->b, sizeof id->b);
    found = job_db_row(&u);
    if (found) {
        bad = str_copy(ret->job, sizeof ret->job, job_db_text(&u, 0)) != 0 ||
              run_state_parse(job_db_text(&u, 2), &ret->state) != 0;
        ret->revision = (uint32_t)sqlite3_column_int64(u.st, 1);
        ret->epoch = (uint32_t)sqlite3_column_int64(u.st, 3);
        ret->attempt = (uint32_t)sqlite3_column_int64(u.st, 4);
        ret->ended = sqlite3_column_int64(u.st, 5) > 0;
        ret->bytes = sqlite3_column_int64(u.st, 6);
        ret->created_us = sqlite3_column_int64(u.st, 7);
    }
    int r = job_db_end(&u);
    if (r != 0) {
        return r;
    }
    return !found ? -ENOENT : bad ? err_say(&db->error, -EBADMSG, "store: a run's row") : 0;
}

static int count(struct job_db *db, enum job_db_statement which, const char *job, uint32_t revision,
                 enum run_state state, int64_t created_us)
{
    struct job_db_use u;

    job_db_begin(db, which, &u);
    job_db_bind_text(&u, str_of(job));
    job_db_bind_i64(&u, revision);
    job_db_bind_text(&u, str_of(run_state_name(state)));
    if (which == JOB_ST_COUNT_ADD) {
        job_db_bind_i64(&u, created_us);
    }
    return job_db_run(&u);
}

static int add_kept(struct job_db *db, int64_t bytes)
{
    struct job_db_use u;

    if (bytes == 0) {
        return 0;
    }
    job_db_begin(db, JOB_ST_TOTAL_ADD, &u);
    job_db_bind_text(&u, str_of(total_kept));
    job_db_bind_i64(&u, bytes);
    return job_db_run(&u);
}

static int64_t kept_bytes(const struct run *r)
{
    uint64_t sum = r->payload_bytes + r->output_bytes + r->log_bytes;

    return run_is_ended(r) ? (int64_t)(sum & INT64_MAX) : 0;
}

static int record_text(const struct run *r, struct buf *out)
{
    struct json_w w;

    json_w_init(&w, out, false);
    run_to_record(&w, r);
    return buf_error(out);
}

int job_db_read_run(struct job_db *db, struct str text, struct run *ret)
{
    AUTO_JSON struct json_doc *doc = NULL;
    int r = json_parse(text.p, text.n, NULL, &doc, &db->error);

    r = r != 0 ? r : run_from_json(json_root(doc), ret, &db->error);
    return r == 0 || r == -ENOMEM ? r : -EBADMSG;
}

/* --- idempotency keys --- */

static int known_run(struct job_db *db, const struct run *run, struct str key, bool *ret_known,
                     bool *ret_same, struct run *ret)
{
    struct job_db_use u;
    int r = 0;
    const int64_t day_us = (int64_t)JOB_STORE_KEY_HOURS * 3600 * 1000000;

    *ret_known = false;
    job_db_begin(db, JOB_ST_KEY_GET, &u);
    job_db_bind_text(&u, key);
    job_db_bind_i64(&u, run->created_us - day_us);
    if (job_db_row(&u)) {
        struct str hash = job_db_text(&u, 0);
        *ret_known = true;
        *ret_same =
            hash.n == sizeof run->request_hash && memcmp(hash.p, run->request_hash, hash.n) == 0;
        r = job_db_read_run(db, job_db_text(&u, 1), ret);
    }
    int end = job_db_end(&u);
    return end != 0 ? end : r;
}

static int key_put(struct job_db *db, const struct run *run, struct str key)
{
    struct job_db_use u;

    job_db_begin(db, JOB_ST_KEY_PUT, &u);
    job_db_bind_text(&u, key);
    job_db_bind_blob(&u, run->request_hash, sizeof run->request_hash);
    job_db_bind_blob(&u, run->id.b, sizeof run->id.b);
    job_db_bind_i64(&u, run->created_us);
    return job_db_run(&u);
}

/* --- writes --- */

static int run_add(struct job_db *db, const struct run *run, struct str spec)
{
    AUTO_BUF struct buf text = BUF_INIT(RECORD_MAX);
    struct job_db_use u;
    int r = record_text(run, &text);

    if (r != 0) {
        return r;
    }
    job_db_begin(db, JOB_ST_RUN_ADD, &u);
    job_db_bind_blob(&u, run->id.b, sizeof run->id.b);
    job_db_bind_text(&u, str_of(run->job));
    job_db_bind_i64(&u, run->revision);
    job_db_bind_text(&u, str_of(run_state_name((enum run_state)run->state)));
    job_db_bind_i64(&u, run->epoch);
    job_db_bind_i64(&u, run->attempt);
    job_db_bind_i64(&u, run->created_us);
    job_db_bind_i64(&u, run_is_ended(run) ? run->ended_us : 0);
    job_db_bind_i64(&u, kept_bytes(run));
    job_db_bind_text(&u, buf_str(&text));
    if (spec.n != 0) {
        job_db_bind_text(&u, spec);
    } else {
        job_db_bind_null(&u);
    }
    (void)job_db_row(&u);
    bool taken = (u.rc & 0xff) == SQLITE_CONSTRAINT;
    r = job_db_end(&u);
    return taken ? -EALREADY : r;
}

int job_db_accept(struct job_db *db, const struct run *run, struct str spec, struct str key,
                  bool *ret_replayed, struct run *ret_known)
{
    bool known = false;
    bool same = false;
    int r = key.n != 0 ? known_run(db, run, key, &known, &same, ret_known) : 0;

    *ret_replayed = known && same;
    if (r != 0 || known) {
        return r != 0 ? r : same ? 0 : -EEXIST;
    }
    r = run_add(db, run, spec);
    r = r != 0 ? r
               : count(db, JOB_ST_COUNT_ADD, run->job, run->revision, (enum run_state)run->state,
                       run->created_us);
    r = r != 0 ? r : add_kept(db, kept_bytes(run));
    return r != 0 || key.n == 0 ? r : key_put(db, run, key);
}

static int attempt_put(struct job_db *db, const struct run *former)
{
    AUTO_BUF struct buf text = BUF_INIT(RECORD_MAX);
    struct job_db_use u;
    int r = record_text(former, &text);

    if (r != 0) {
        return r;
    }
    job_db_begin(db, JOB_ST_ATTEMPT_PUT, &u);
    job_db_bind_blob(&u, former->id.b, sizeof former->id.b);
    job_db_bind_i64(&u, former->attempt);
    job_db_bind_text(&u, buf_str(&text));
    return job_db_run(&u);
}

static int run_put(struct job_db *db, const struct run *run)
{
    AUTO_BUF struct buf text = BUF_INIT(RECORD_MAX);
    struct job_db_use u;
    int r = record_text(run, &text);

    if (r != 0) {
        return r;
    }
    job_db_begin(db, JOB_ST_RUN_PUT, &u);
    job_db_bind_text(&u, str_of(run_state_name((enum run_state)run->state)));
    job_db_bind_i64(&u, run->epoch);
    job_db_bind_i64(&u, run->attempt);
    job_db_bind_i64(&u, run_is_ended(run) ? run->ended_us : 0);
    job_db_bind_i64(&u, kept_bytes(run));
    job_db_bind_text(&u, buf_str(&text));
    job_db_bind_blob(&u, run->id.b, sizeof run->id.b);
    return job_db_run(&u);
}

int job_db_put(struct job_db *db, const struct run *run, const struct run *former)
{
    struct head h;
    int r = head_get(db, &run->id, &h);

    if (r != 0) {
        return r;
    }
    bool older = run->epoch < h.epoch || (run->epoch == h.epoch && run->attempt < h.attempt);
    bool same = run->epoch == h.epoch && run->attempt == h.attempt;
    if (older || (same && h.ended && !run_is_ended(run))) {
        return -ESTALE;
    }
    if (h.state != run->state) {
        r = count(db, JOB_ST_COUNT_SUB, h.job, h.revision, h.state, 0);
        r = r != 0 ? r
                   : count(db, JOB_ST_COUNT_ADD, h.job, h.revision, (enum run_state)run->state,
                           h.created_us);
    }
    r = r != 0 ? r : add_kept(db, kept_bytes(run) - h.bytes);
    r = r != 0 || former == NULL ? r : attempt_put(db, former);
    return r != 0 ? r : run_put(db, run);
}

int job_db_delete_run(struct job_db *db, const struct ulid *id)
{
    static const enum job_db_statement deletes[] = { JOB_ST_ATTEMPTS_DELETE, JOB_ST_RUN_DELETE };
    struct head h;
    int r = head_get(db, id, &h);

    r = r != 0 ? r : count(db, JOB_ST_COUNT_SUB, h.job, h.revision, h.state, 0);
    r = r != 0 ? r : add_kept(db, -h.bytes);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(deletes); i++) {
        struct job_db_use u;
        job_db_begin(db, deletes[i], &u);
        job_db_bind_blob(&u, id->b, sizeof id->b);
        r = job_db_run(&u);
    }
    return r;
}

/* --- reads --- */

int job_db_get(struct job_db *db, const struct ulid *id, struct run *ret, struct job **ret_spec)
{
    struct job_db_use u;
    struct job *spec = NULL;
    int r = 0;

    job_db_begin(db, JOB_ST_RUN_GET, &u);
    job_db_bind_blob(&u, id->b, sizeof id->b);
    bool found = job_db_row(&u);
    if (found) {
        struct str text = job_db_text(&u, 1);
        r = job_db_read_run(db, job_db_text(&u, 0), ret);
        if (r == 0 && text.n != 0) {
            r = job_parse_stored(text, &spec, &db->error);
        }
    }
    int end = job_db_end(&u);
    r = end != 0 ? end : !found ? -ENOENT : r;
    r = r != 0 ? r : job_db_merged(db, id, &ret->merged);
    if (r == 0 && spec == NULL && ret->job[0] != '\0') {
        r = job_db_get_job(db, str_of(ret->job), ret->revision, &spec);
        r = r == -ENOENT ? 0 : r;
    }
    if (r != 0) {
        job_free(spec);
        return r;
    }
    if (spec != NULL) {
        spec->revision = ret->revision;
    }
    *ret_spec = spec;
    return 0;
}

/* Rows whose first column is a record; limit + 1 of them were asked for. */
static int read_rows(struct job_db_use *u, size_t limit, struct run *runs, size_t *ret_n,
                     bool *ret_more)
{
    size_t n = 0;
    bool more = false;
    int r = 0;

    while (r == 0 && !more && job_db_row(u)) {
        if (n == limit) {
            more = true;
        } else {
            r = job_db_read_run(u->db, job_db_text(u, 0), &runs[n]);
            n++;
        }
    }
    *ret_n = r == 0 ? n : 0;
    if (ret_more != NULL) {
        *ret_more = more;
    }
    return r;
}

/* One index scan per state, each in order and cut at the limit, then merged: no filter makes SQLite
 * walk rows that do not match. */
static void list_sql(const struct job_store_filter *f, uint32_t states, struct buf *sql)
{
    buf_adds(sql, "SELECT record FROM (");
    for (unsigned s = 0, first = 1; s < RUN_STATE_COUNT; s++) {
        if ((states & BIT(s)) == 0) {
            continue;
        }
        buf_addf(sql,
                 "%sSELECT * FROM (SELECT id, record FROM run WHERE %sstate = '%s' AND id < ?1"
                 " ORDER BY id DESC LIMIT ?2)",
                 first ? "" : " UNION ALL ", f->job.n != 0 ? "job = ?3 AND " : "",
                 run_state_name((enum run_state)s));
        first = 0;
    }
    buf_adds(sql, ") ORDER BY id DESC LIMIT ?2");
}

int job_db_list(struct job_db *db, const struct job_store_filter *f, struct run *runs,
                size_t *ret_n, bool *ret_more)
{
    AUTO_BUF struct buf sql = BUF_INIT(8192);
    const uint32_t all = RUN_STATES_LIVE | RUN_STATES_ENDED;
    uint8_t before[sizeof f->after.b];
    struct job_db_use u;

    memcpy(before, f->after.b, sizeof before);
    if (ulid_is_zero(f->after)) {
        memset(before, 0xff, sizeof before);
    }
    if (f->job.n == 0 && (f->states == 0 || f->states == all)) {
        buf_adds(&sql, "SELECT record FROM run WHERE id < ?1 ORDER BY id DESC LIMIT ?2");
    } else {
        list_sql(f, f->states != 0 ? f->states & all : all, &sql);
    }
    if (buf_error(&sql) != 0) {
        return -ENOMEM;
    }
    job_db_begin_text(db, buf_cstr(&sql), &u);
    job_db_bind_blob(&u, before, sizeof before);
    job_db_bind_i64(&u, (int64_t)f->limit + 1);
    if (f->job.n != 0) {
        job_db_bind_text(&u, f->job);
    }
    int r = read_rows(&u, f->limit, runs, ret_n, ret_more);
    int end = job_db_end(&u);
    job_db_end_text(&u);
    return end != 0 ? end : r;
}

int job_db_live(struct job_db *db, const struct ulid *after, size_t limit, struct run *runs,
                size_t *ret_n, bool *ret_more)
{
    struct job_db_use u;

    job_db_begin(db, JOB_ST_RUN_LIVE, &u);
    job_db_bind_blob(&u, after->b, sizeof after->b);
    job_db_bind_i64(&u, (int64_t)limit + 1);
    int r = read_rows(&u, limit, runs, ret_n, ret_more);
    int end = job_db_end(&u);
    return end != 0 ? end : r;
}

int job_db_callers_after(struct job_db *db, int64_t after_us, size_t limit, struct run *runs,
                         size_t *ret_n, bool *ret_more)
{
    struct job_db_use u;

    job_db_begin(db, JOB_ST_RUN_CALLERS, &u);
    job_db_bind_i64(&u, after_us);
    job_db_bind_i64(&u, (int64_t)limit + 1);
    int r = read_rows(&u, limit, runs, ret_n, ret_more);
    int end = job_db_end(&u);
    return end != 0 ? end : r;
}

int job_db_attempts(struct job_db *db, const struct ulid *id, size_t limit, struct run *runs,
                    size_t *ret_n)
{
    struct job_db_use u;

    job_db_begin(db, JOB_ST_ATTEMPTS, &u);
    job_db_bind_blob(&u, id->b, sizeof id->b);
    job_db_bind_i64(&u, (int64_t)limit);
    int r = read_rows(&u, limit, runs, ret_n, NULL);
    int end = job_db_end(&u);
    return end != 0 ? end : r;
}
