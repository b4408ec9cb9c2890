#include "agent/node/node_copy_msg.h"

#include <errno.h>
#include <string.h>

#include "common/cur.h"
#include "common/json.h"
#include "common/mem.h"

static const char magic[4] = { 'A', 'G', 'R', '1' };
#define ABSENT UINT32_MAX

_Static_assert(NODE_COPY_FULL == 1 && NODE_COPY_GONE == 2 && NODE_COPY_FILES == 4, "wire");

/* ---- the message ---- */

static void add_bytes(struct buf *out, struct str s)
{
    (void)buf_add_le32(out, (uint32_t)s.n);
    (void)buf_addstr(out, s);
}

void node_copy_begin(struct buf *out)
{
    (void)buf_add(out, magic, sizeof(magic));
}

void node_copy_add(struct buf *out, struct ulid id, unsigned flags, struct str record,
                   struct str spec, struct str payload, const struct node_bytes *files)
{
    flags = files != NULL ? flags | NODE_COPY_FILES : flags;
    (void)buf_add_u8(out, (uint8_t)flags);
    (void)buf_add(out, id.b, sizeof(id.b));
    add_bytes(out, record);
    if ((flags & NODE_COPY_FULL) != 0) {
        add_bytes(out, spec);
        add_bytes(out, payload);
    }
    for (size_t i = 0; files != NULL && i < NODE_FILES; i++) {
        if (files[i].p == NULL) {
            (void)buf_add_le32(out, ABSENT);
        } else {
            add_bytes(out, (struct str){ files[i].p, files[i].n });
        }
    }
}

static struct str take_bytes(struct cur *c, size_t max)
{
    uint32_t n = cur_le32(c);

    if (n > max) {
        c->failed = true;
        n = 0;
    }
    return cur_bytes(c, n);
}

static void take_files(struct cur *c, struct node_copy_files *x)
{
    for (size_t i = 0; i < NODE_FILES && cur_ok(c); i++) {
        struct cur before = *c;
        if (cur_le32(c) != ABSENT) {
            *c = before;
            x->v[i] = take_bytes(c, NODE_COPY_FILES_MAX);
        }
    }
}

/* One entry; its record is not looked at. */
static void take_entry(struct cur *c, struct job_replica *v, struct node_copy_files *files)
{
    unsigned flags = cur_u8(c);

    cur_copy(c, v->run.id.b, sizeof(v->run.id.b));
    v->record = take_bytes(c, NODE_MSG_MAX);
    v->full = (flags & NODE_COPY_FULL) != 0;
    v->gone = (flags & NODE_COPY_GONE) != 0;
    files->has = (flags & NODE_COPY_FILES) != 0;
    if (v->full) {
        v->spec = take_bytes(c, 4 * JOB_DOCUMENT_MAX);
        v->payload = take_bytes(c, NODE_COPY_PAYLOAD_MAX);
    }
    if (files->has) {
        take_files(c, files);
    }
}

static int record_parse(struct job_replica *v, const struct ulid *id, struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    int rc = json_parse(v->record.p, v->record.n, NULL, &doc, e);

    rc = rc == 0 ? run_from_json(json_root(doc), &v->run, e) : rc;
    if (rc == 0 && !ulid_eq(v->run.id, *id)) {
        rc = err_say(e, -EINVAL, "a record of another run");
    }
    return rc == -E2BIG ? -EINVAL : rc;
}

static int count_entries(struct cur c, size_t max, size_t *ret, struct err *e)
{
    size_t n = 0;

    while (cur_ok(&c) && cur_left(&c) != 0) {
        struct job_replica v = { .full = false };
        struct node_copy_files files = { .has = false };
        take_entry(&c, &v, &files);
        n++;
    }
    if (!cur_ok(&c)) {
        return err_say(e, -EINVAL, "record %zu is cut short, or too long", n);
    }
    *ret = n;
    return n > max ? err_say(e, -E2BIG, "more than %zu records in one message", max) : 0;
}

int node_copy_parse(struct str body, size_t max, struct node_copies *ret, struct err *e)
{
    struct node_copies x = { .n = 0 };
    struct cur c;
    size_t n = 0;

    cur_init(&c, body.p, body.n);
    struct str head = cur_bytes(&c, sizeof(magic));
    if (!cur_ok(&c) || memcmp(head.p, magic, sizeof(magic)) != 0) {
        return err_say(e, -EINVAL, "not a message of records, or of another version");
    }
    int rc = count_entries(c, max, &n, e);
    if (rc == 0 && n != 0) {
        x.v = mem_calloc(n, sizeof(*x.v));
        x.files = mem_calloc(n, sizeof(*x.files));
        rc = x.v == NULL || x.files == NULL ? err_set(e, -ENOMEM, "records") : 0;
    }
    for (; rc == 0 && x.n < n; x.n++) {
        take_entry(&c, &x.v[x.n], &x.files[x.n]);
        struct ulid id = x.v[x.n].run.id;
        rc = record_parse(&x.v[x.n], &id, e);
    }
    if (rc != 0) {
        node_copies_release(&x);
        return rc;
    }
    *ret = x;
    return 0;
}

void node_copies_release(struct node_copies *c)
{
    c->v = mem_free(c->v);
    c->files = mem_free(c->files);
    c->n = 0;
}

/* ---- the answer ---- */

void node_copy_answer_write(struct buf *out, const struct job_replica *v, size_t n)
{
    char id[ULID_TEXT_CAP];
    struct json_w w;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_kv_u64(&w, "v", 1);
    json_w_key(&w, "others");
    json_w_arr(&w);
    for (size_t i = 0; i < n; i++) {
        const struct job_replica *r = &v[i];
        if (r->said == JOB_REPLICA_KEPT || r->said == JOB_REPLICA_DEMOTED) {
            continue;
        }
        ulid_format(r->run.id, id);
        json_w_obj(&w);
        json_kv_cstr(&w, "id", id);
        json_kv_cstr(&w, "said", r->said == JOB_REPLICA_WANTED ? "wanted" : "refused");
        if (r->said == JOB_REPLICA_REFUSED) {
            json_w_key(&w, "run");
            run_to_record(&w, &r->stands);
        }
        json_w_end(&w);
    }
    json_w_end(&w);
    json_w_end(&w);
}

static int answer_one(const struct json *item, struct node_copy_answer *ret, struct err *e)
{
    struct str id;
    struct str said;

    memset(ret, 0, sizeof(*ret));
    if (!json_str(json_get(item, "id"), &id) || ulid_parse(id, &ret->id) != 0 ||
        !json_str(json_get(item, "said"), &said)) {
        return err_say(e, -EINVAL, "an answer names no run");
    }
    ret->said = str_eqs(said, "wanted") ? JOB_REPLICA_WANTED : JOB_REPLICA_REFUSED;
    if (ret->said == JOB_REPLICA_WANTED) {
        return 0;
    }
    int rc = run_from_json(json_get(item, "run"), &ret->stands, e);
    return rc == 0 && !ulid_eq(ret->stands.id, ret->id)
               ? err_say(e, -EINVAL, "an answer with the record of another run")
               : rc;
}

int node_copy_answer_parse(struct str text, size_t max, struct node_copy_answer **ret,
                           size_t *ret_n, struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct node_copy_answer *v = NULL;
    size_t n = 0;
    int64_t version = 0;
    int rc = json_parse(text.p, text.n, NULL, &doc, e);

    if (rc != 0) {
        return rc;
    }
    const struct json *others = json_get(json_root(doc), "others");
    if (!json_int(json_get(json_root(doc), "v"), &version) || version != 1 || others == NULL ||
        others->type != JSON_ARRAY || others->count > max) {
        return err_say(e, -EINVAL, "not an answer about records, or of another version");
    }
    if (others->count != 0 && (v = mem_calloc(others->count, sizeof(*v))) == NULL) {
        return err_set(e, -ENOMEM, "an answer about records");
    }
    JSON_EACH (item, others) {
        rc = rc == 0 && v != NULL ? answer_one(item, &v[n], e) : rc;
        n++;
    }
    if (rc != 0) {
        mem_free(v);
        return rc;
    }
    *ret = v;
    *ret_n = n;
    return 0;
}
