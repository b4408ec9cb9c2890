/* Copies of other nodes' runs, the records that did not stand, and claims of keys. */
#include <errno.h>

#include "agent/jobs/jobs_internal.h"
#include "agent/jobs/replica.h"
#include "agent/jobs/sys_db_internal.h"
#include "common/mem.h"

enum { RECORD_MAX = 64 * 1024 };

static const char total_copies[] = "copy_bytes";

static int record_of(const struct run *r, struct buf *out)
{
    struct json_w w;

    json_w_init(&w, out, false);
    run_to_record(&w, r);
    return buf_error(out);
}

static int64_t bytes_of(const struct run *r)
{
    return (int64_t)((r->payload_bytes + r->output_bytes + r->log_bytes) & INT64_MAX);
}

/* ---- what is here ---- */

/* The record of a statement's first column. */
static int read_one(struct job_db *db, enum job_db_statement which, const struct ulid *id,
                    struct run *ret)
{
    struct job_db_use u;
    int r = 0;

    job_db_begin(db, which, &u);
    job_db_bind_blob(&u, id->b, sizeof id->b);
    bool found = job_db_row(&u);
    if (found) {
        r = job_db_read_run(db, job_db_text(&u, 0), ret);
    }
    int end = job_db_end(&u);
    return end != 0 ? end : !found ? -ENOENT : r;
}

static int add_bytes(struct job_db *db, int64_t bytes)
{
    struct job_db_use u;

    if (bytes == 0) {
        return 0;
    }
    job_db_begin(db, JOB_ST_TOTAL_ADD, &u);
    job_db_bind_text(&u, str_of(total_copies));
    job_db_bind_i64(&u, bytes);
    return job_db_run(&u);
}

static int copy_delete(struct job_db *db, const struct run *have)
{
    struct job_db_use u;

    job_db_begin(db, JOB_ST_COPY_DELETE, &u);
    job_db_bind_blob(&u, have->id.b, sizeof have->id.b);
    int r = job_db_run(&u);
    return r != 0 ? r : add_bytes(db, -bytes_of(have));
}

/* The other record of a run, once per owner and epoch. */
static int merged_put(struct job_db *db, const struct run *other)
{
    AUTO_BUF struct buf text = BUF_INIT(RECORD_MAX);
    struct job_db_use u;
    int r = record_of(other, &text);

    if (r != 0) {
        return r;
    }
    job_db_begin(db, JOB_ST_MERGED_PUT, &u);
    job_db_bind_blob(&u, other->id.b, sizeof other->id.b);
    job_db_bind_i64(&u, other->epoch);
    job_db_bind_i64(&u, run_owner(other));
    job_db_bind_text(&u, buf_str(&text));
    return job_db_run(&u);
}

static int copy_add(struct job_db *db, const struct job_replica *v, struct str spec,
                    struct str payload)
{
    struct job_db_use u;

    job_db_begin(db, JOB_ST_COPY_ADD, &u);
    job_db_bind_blob(&u, v->run.id.b, sizeof v->run.id.b);
    job_db_bind_i64(&u, run_owner(&v->run));
    job_db_bind_i64(&u, run_is_ended(&v->run) ? v->run.ended_us : 0);
    job_db_bind_i64(&u, bytes_of(&v->run));
    job_db_bind_text(&u, v->record);
    job_db_bind_text(&u, spec);
    if (payload.n != 0) {
        job_db_bind_blob(&u, payload.p, payload.n);
    } else {
        job_db_bind_null(&u);
    }
    int r = job_db_run(&u);
    return r != 0 ? r : add_bytes(db, bytes_of(&v->run));
}

static int copy_put(struct job_db *db, const struct run *have, const struct job_replica *v)
{
    struct job_db_use u;

    job_db_begin(db, JOB_ST_COPY_PUT, &u);
    job_db_bind_i64(&u, run_owner(&v->run));
    job_db_bind_i64(&u, run_is_ended(&v->run) ? v->run.ended_us : 0);
    job_db_bind_i64(&u, bytes_of(&v->run));
    job_db_bind_text(&u, v->record);
    job_db_bind_blob(&u, v->run.id.b, sizeof v->run.id.b);
    int r = job_db_run(&u);
    return r != 0 ? r : add_bytes(db, bytes_of(&v->run) - bytes_of(have));
}

/* ---- taking copies in ---- */

/* Our own record does not stand: it becomes a copy of the newcomer's. */
static int demote(struct job_db *db, const struct run *own, const struct job_replica *v)
{
    AUTO_BUF struct buf spec = BUF_INIT(4 * JOB_DOCUMENT_MAX);
    struct job *job = NULL;
    struct run same;
    int r = job_db_get(db, &own->id, &same, &job);

    if (r == 0 && job != NULL) {
        job_to_text(job, &spec);
        r = buf_error(&spec);
    }
    job_free(job);
    r = r != 0 ? r : job_db_delete_run(db, &own->id);
    return r != 0 ? r : copy_add(db, v, v->full ? v->spec : buf_str(&spec), v->payload);
}

static int judge(struct job_db *db, struct job_replica *v, const struct run *have, bool own)
{
    const struct run *stands = have;
    int r = 0;

    switch (job_replica_judge(have, &v->run)) {
    case JOB_REPLICA_SAME:
        v->said = JOB_REPLICA_KEPT;
        break;
    case JOB_REPLICA_STALE:
        v->said = JOB_REPLICA_REFUSED;
        break;
    case JOB_REPLICA_TAKE:
        v->said = own ? JOB_REPLICA_DEMOTED : JOB_REPLICA_KEPT;
        stands = &v->run;
        v->former = !own && run_owner(have) != run_owner(&v->run) ? run_owner(have) : 0;
        r = own ? demote(db, have, v) : copy_put(db, have, v);
        break;
    }
    const struct run *other = stands == have ? &v->run : have;
    v->doubled = job_replica_doubled(stands, other);
    r = r != 0 || !v->doubled ? r : merged_put(db, other);
    if (v->said == JOB_REPLICA_REFUSED) {
        v->stands = *have;
    }
    return r;
}

int job_db_replicate(struct job_db *db, struct job_replica *v)
{
    struct run have;
    int r = read_one(db, JOB_ST_COPY_GET, &v->run.id, &have);

    v->doubled = false;
    v->former = 0;
    if (v->skip) {
        v->said = JOB_REPLICA_KEPT;
        return r == -ENOENT ? 0 : r;
    }
    if (v->gone) {
        v->said = JOB_REPLICA_KEPT;
        return r == -ENOENT ? 0 : r != 0 ? r : copy_delete(db, &have);
    }
    if (r == 0) {
        return judge(db, v, &have, false);
    }
    r = r == -ENOENT ? read_one(db, JOB_ST_RUN_GET, &v->run.id, &have) : r;
    if (r == 0) {
        return judge(db, v, &have, true);
    }
    if (r != -ENOENT) {
        return r;
    }
    v->said = v->full ? JOB_REPLICA_KEPT : JOB_REPLICA_WANTED;
    return v->full ? copy_add(db, v, v->spec, v->payload) : 0;
}

/* ---- reading and taking over ---- */

int job_db_copy(struct job_db *db, const struct ulid *id, struct run *ret, struct job **ret_spec,
                struct buf *ret_payload)
{
    struct job_db_use u;
    struct job *spec = NULL;
    int r = 0;

    job_db_begin(db, JOB_ST_COPY_GET, &u);
    job_db_bind_blob(&u, id->b, sizeof id->b);
    bool found = job_db_row(&u);
    if (found) {
        struct str text = job_db_text(&u, 1);
        r = job_db_read_run(db, job_db_text(&u, 0), ret);
        r = r == 0 && text.n != 0 ? job_parse_stored(text, &spec, &db->error) : r;
        r = r == 0 ? buf_addstr(ret_payload, job_db_text(&u, 2)) : r;
    }
    int end = job_db_end(&u);
    r = end != 0 ? end : !found ? -ENOENT : r;
    if (r == 0 && spec != NULL) {
        spec->revision = ret->revision;
    }
    if (r != 0) {
        spec = job_free(spec);
    }
    *ret_spec = spec;
    return r;
}

int job_db_copies(struct job_db *db, uint32_t owner, const struct ulid *after, size_t limit,
                  struct run *runs, size_t *ret_n, bool *ret_more)
{
    struct job_db_use u;
    size_t n = 0;
    bool more = false;
    int r = 0;

    job_db_begin(db, owner != 0 ? JOB_ST_COPIES : JOB_ST_COPIES_ALL, &u);
    if (owner != 0) {
        job_db_bind_i64(&u, owner);
    }
    job_db_bind_blob(&u, after->b, sizeof after->b);
    job_db_bind_i64(&u, (int64_t)limit + 1);
    while (r == 0 && !more && job_db_row(&u)) {
        more = n == limit;
        if (!more) {
            r = job_db_read_run(db, job_db_text(&u, 0), &runs[n]);
            n += r == 0 ? 1 : 0;
        }
    }
    int end = job_db_end(&u);
    *ret_n = n;
    *ret_more = more;
    return end != 0 ? end : r;
}

int job_db_adopt(struct job_db *db, const struct run *run)
{
    AUTO_BUF struct buf spec = BUF_INIT(4 * JOB_DOCUMENT_MAX);
    struct job_db_use u;
    struct run have = { .epoch = 0 };
    int r = 0;

    job_db_begin(db, JOB_ST_COPY_GET, &u);
    job_db_bind_blob(&u, run->id.b, sizeof run->id.b);
    bool found = job_db_row(&u);
    if (found) {
        r = job_db_read_run(db, job_db_text(&u, 0), &have);
        r = r == 0 ? buf_addstr(&spec, job_db_text(&u, 1)) : r;
    }
    int end = job_db_end(&u);
    r = end != 0 ? end : !found ? -ENOENT : r;
    if (r == 0 && have.epoch >= run->epoch) {
        return -ESTALE; /* somebody else spoke meanwhile */
    }
    bool replayed = false;
    r = r != 0 ? r : copy_delete(db, &have);
    return r != 0 ? r : job_db_accept(db, run, buf_str(&spec), STR(""), &replayed, &have);
}

int job_db_merged(struct job_db *db, const struct ulid *id, uint32_t *ret)
{
    struct job_db_use u;

    job_db_begin(db, JOB_ST_MERGED_COUNT, &u);
    job_db_bind_blob(&u, id->b, sizeof id->b);
    if (job_db_row(&u)) {
        *ret = (uint32_t)sqlite3_column_int64(u.st, 0);
    }
    return job_db_end(&u);
}

/* ---- claims ---- */

int job_db_claim(struct job_db *db, struct str key, struct job_claim *c)
{
    const int64_t day_us = (int64_t)JOB_STORE_KEY_HOURS * 3600 * 1000000;
    struct job_db_use u;
    bool known;

    job_db_begin(db, JOB_ST_CLAIM_GET, &u);
    job_db_bind_text(&u, key);
    job_db_bind_i64(&u, c->at_us - day_us);
    known = job_db_row(&u);
    if (known) {
        struct str hash = job_db_text(&u, 0);
        struct str run = job_db_text(&u, 1);
        known = run.n == sizeof c->known.b && hash.n == sizeof c->known_hash;
        if (known) {
            memcpy(c->known.b, run.p, run.n);
            memcpy(c->known_hash, hash.p, hash.n);
            c->known_us = sqlite3_column_int64(u.st, 2);
        }
    }
    int r = job_db_end(&u);
    c->granted = !known || ulid_eq(c->known, c->run) || ulid_eq(c->known, c->instead_of) ||
                 c->how == JOB_CLAIM_SET;
    if (r != 0 || c->how == JOB_CLAIM_LOOK || !c->granted) {
        c->granted = c->granted && c->how != JOB_CLAIM_LOOK;
        c->is_known = known;
        return r;
    }
    c->is_known = known;
    job_db_begin(db, c->how == JOB_CLAIM_DROP ? JOB_ST_CLAIM_DROP : JOB_ST_CLAIM_PUT, &u);
    job_db_bind_text(&u, key);
    if (c->how == JOB_CLAIM_DROP) {
        job_db_bind_blob(&u, c->run.b, sizeof c->run.b);
    } else {
        job_db_bind_blob(&u, c->hash, sizeof c->hash);
        job_db_bind_blob(&u, c->run.b, sizeof c->run.b);
        job_db_bind_i64(&u, c->at_us);
    }
    return job_db_run(&u);
}

/* ---- retention ---- */

static int find_old(struct job_db *db, int64_t cutoff_us, int64_t over, struct job_store_gone *gone,
                    size_t limit, size_t *ret_n)
{
    struct job_db_use u;
    size_t n = 0;

    job_db_begin(db, JOB_ST_COPY_OLD, &u);
    job_db_bind_i64(&u, (int64_t)limit);
    while (n < limit && job_db_row(&u)) {
        struct str id = job_db_text(&u, 0);
        if (id.n != sizeof gone[n].id.b ||
            (sqlite3_column_int64(u.st, 1) > cutoff_us && over <= 0)) {
            break;
        }
        memcpy(gone[n].id.b, id.p, id.n);
        over -= sqlite3_column_int64(u.st, 2);
        n++;
    }
    *ret_n = n;
    return job_db_end(&u);
}

int job_db_retain_copies(struct job_db *db, int64_t now_us, int64_t cutoff_us, uint64_t bytes,
                         struct job_store_gone *gone, size_t limit, size_t *ret_n)
{
    int64_t kept = 0;
    size_t n = 0;
    struct job_db_use u;
    int r = job_db_total(db, total_copies, &kept);
    int64_t over = bytes != 0 && kept > 0 && bytes < (uint64_t)kept ? kept - (int64_t)bytes : 0;

    r = r != 0 ? r : find_old(db, cutoff_us, over, gone, limit, &n);
    for (size_t i = 0; r == 0 && i < n; i++) {
        struct run have;
        r = read_one(db, JOB_ST_COPY_GET, &gone[i].id, &have);
        gone[i].attempts = r == 0 ? have.attempt : 0;
        r = r == 0 ? copy_delete(db, &have) : r;
        job_db_begin(db, JOB_ST_MERGED_DELETE, &u);
        job_db_bind_blob(&u, gone[i].id.b, sizeof gone[i].id.b);
        r = r == 0 ? job_db_run(&u) : r;
    }
    if (r == 0) {
        job_db_begin(db, JOB_ST_CLAIM_OLD, &u);
        job_db_bind_i64(&u, now_us - (int64_t)JOB_STORE_KEY_HOURS * 3600 * 1000000);
        r = job_db_run(&u);
    }
    *ret_n = n;
    return r;
}
