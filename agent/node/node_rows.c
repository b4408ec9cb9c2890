#include "agent/node/node_rows.h"

#include <errno.h>
#include <string.h>

#include "common/insist.h"
#include "common/mem.h"

static bool u64_of(const struct json *obj, const char *key, uint64_t max, uint64_t *ret)
{
    int64_t v;

    if (!json_int(json_get(obj, key), &v) || v < 0 || (uint64_t)v > max) {
        return false;
    }
    *ret = (uint64_t)v;
    return true;
}

static int object_of(struct str text, struct json_doc **ret, struct err *e)
{
    int rc = json_parse(text.p, text.n, NULL, ret, e);

    if (rc == 0 && json_root(*ret)->type != JSON_OBJECT) {
        rc = err_say(e, -EINVAL, "the row is not an object");
    }
    return rc == -E2BIG ? -EINVAL : rc;
}

/* ---- load: short names, since it is the row that travels most ---- */

void node_load_write(struct buf *out, const struct node_load *l)
{
    struct json_w w;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_kv_u64(&w, "free", l->slots_free);
    json_kv_u64(&w, "mem", l->memory_free_bytes);
    json_kv_u64(&w, "wait", l->wait_us);
    json_kv_u64(&w, "run", l->running);
    json_kv_u64(&w, "act", l->active);
    json_kv_u64(&w, "q", l->queued);
    if (l->polluters != 0) {
        json_kv_u64(&w, "pol", l->polluters);
    }
    if (l->sensitive != 0) {
        json_kv_u64(&w, "sens", l->sensitive);
    }
    if (l->draining) {
        json_kv_bool(&w, "drain", true);
    }
    json_w_end(&w);
}

int node_load_parse(struct str text, struct node_load *ret, struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct node_load l = { .draining = false };
    uint64_t v[6] = { 0 };
    int rc = object_of(text, &doc, e);

    if (rc != 0) {
        return rc;
    }
    const struct json *root = json_root(doc);
    if (!u64_of(root, "free", SANDBOX_SLOTS_MAX, &v[0]) ||
        !u64_of(root, "mem", INT64_MAX, &l.memory_free_bytes) ||
        !u64_of(root, "wait", INT64_MAX, &l.wait_us)) {
        return err_say(e, -EINVAL, "the load has no free, mem or wait");
    }
    (void)u64_of(root, "run", UINT32_MAX, &v[1]);
    (void)u64_of(root, "act", UINT32_MAX, &v[2]);
    (void)u64_of(root, "q", UINT32_MAX, &v[3]);
    (void)u64_of(root, "pol", SANDBOX_SLOTS_MAX, &v[4]);
    (void)u64_of(root, "sens", SANDBOX_SLOTS_MAX, &v[5]);
    (void)json_bool(json_get(root, "drain"), &l.draining);
    l.slots_free = (unsigned)v[0];
    l.running = (unsigned)v[1];
    l.active = (unsigned)v[2];
    l.queued = (unsigned)v[3];
    l.polluters = (unsigned)v[4];
    l.sensitive = (unsigned)v[5];
    *ret = l;
    return 0;
}

/* ---- capability ---- */

void node_capability_write(struct buf *out, const struct node_capability *c)
{
    struct json_w w;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_kv_str(&w, "version", c->version);
    json_kv_str(&w, "class", c->class_id);
    json_kv_u64(&w, "slots", c->room.slots);
    json_kv_u64(&w, "memory_bytes", c->room.memory_bytes);
    json_kv_u64(&w, "cpu_milli", c->room.cpu_milli);
    json_w_key(&w, "facts");
    json_w_obj(&w);
    for (size_t i = 0; i < c->facts_len; i++) {
        json_w_keystr(&w, c->facts[i].name);
        json_w_str(&w, c->facts[i].value);
    }
    json_w_end(&w);
    json_w_end(&w);
}

int node_capability_parse(struct str text, struct node_capability *ret, struct err *e)
{
    struct json_doc *doc = NULL;
    uint64_t slots = 0;
    uint64_t cpus = 0;
    int rc = object_of(text, &doc, e);

    if (rc != 0) {
        json_free(doc);
        return rc;
    }
    const struct json *root = json_root(doc);
    const struct json *facts = json_get(root, "facts");
    *ret = (struct node_capability){ .doc = doc };
    if (!u64_of(root, "slots", SANDBOX_SLOTS_MAX, &slots) ||
        !u64_of(root, "memory_bytes", INT64_MAX, &ret->room.memory_bytes) ||
        !u64_of(root, "cpu_milli", UINT32_MAX, &cpus) || facts == NULL ||
        facts->type != JSON_OBJECT) {
        ret->doc = json_free(doc);
        return err_say(e, -EINVAL, "the capability row has no slots, memory, processors or facts");
    }
    ret->room.slots = (unsigned)slots;
    ret->room.cpu_milli = (uint32_t)cpus;
    (void)json_str(json_get(root, "version"), &ret->version);
    (void)json_str(json_get(root, "class"), &ret->class_id);
    JSON_EACH (f, facts) {
        struct str value;
        if (ret->facts_len < NODE_FACTS_MAX && json_str(f, &value)) {
            ret->facts[ret->facts_len++] = (struct route_fact){ f->key, value };
        }
    }
    return 0;
}

void node_capability_release(struct node_capability *c)
{
    c->doc = json_free(c->doc);
}

/* ---- images ---- */

void node_ready_write(struct buf *out, const uint64_t *images, size_t n, size_t max)
{
    for (size_t i = 0; i < n && (i + 1) * 16 <= max; i++) {
        (void)buf_addf(out, "%016llx", (unsigned long long)images[i]);
    }
}

size_t node_ready_parse(struct str text, uint64_t *images, size_t cap)
{
    size_t n = 0;

    for (size_t at = 0; at + 16 <= text.n && n < cap; at += 16) {
        if (str_hex_u64(str_slice(text, at, 16), &images[n]) == 0) {
            n++;
        }
    }
    return n;
}

void node_tag_write(struct buf *out, const struct node_tag *t)
{
    char text[DIGEST_TEXT_CAP];
    struct json_w w;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_kv_cstr(&w, "digest", digest_format(&t->digest, text));
    json_kv_int(&w, "pushed_us", t->pushed_us);
    if (t->has_programs) {
        json_w_key(&w, "programs");
        image_programs_write(&w, &t->programs, true);
    }
    json_w_end(&w);
}

int node_tag_parse(struct str text, struct node_tag *ret, struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct node_tag t = { .pushed_us = 0 };
    struct str digest;
    int rc = object_of(text, &doc, e);

    if (rc != 0) {
        return rc;
    }
    if (!json_str(json_get(json_root(doc), "digest"), &digest)) {
        return err_say(e, -EINVAL, "the image row has no digest");
    }
    rc = digest_parse(digest, &t.digest, e);
    (void)json_int(json_get(json_root(doc), "pushed_us"), &t.pushed_us);
    t.has_programs =
        image_programs_parse(json_get(json_root(doc), "programs"), &t.programs, NULL) == 0;
    if (rc == 0) {
        *ret = t;
    }
    return rc;
}

/* ---- jobs ---- */

void node_job_row_write(struct buf *out, const struct job *job)
{
    AUTO_BUF struct buf text = BUF_INIT(2 * JOB_DOCUMENT_MAX);
    struct json_w w;

    job_to_text(job, &text);
    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_kv_u64(&w, "revision", job->revision);
    json_kv_int(&w, "created_us", job->created_us);
    json_kv_int(&w, "updated_us", job->updated_us);
    json_w_key(&w, "document");
    json_w_raw(&w, buf_str(&text));
    json_w_end(&w);
    if (buf_error(&text) != 0 && out->error == 0) {
        out->error = buf_error(&text);
    }
}

int node_job_row_parse(struct str name, struct str text, struct job **ret, struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    AUTO_BUF struct buf document = BUF_INIT(2 * JOB_DOCUMENT_MAX);
    struct json_w w;
    struct job *job = NULL;
    uint64_t revision = 0;
    int rc = object_of(text, &doc, e);

    if (rc != 0) {
        return rc;
    }
    const struct json *v = json_get(json_root(doc), "document");
    if (v == NULL || !u64_of(json_root(doc), "revision", INT32_MAX, &revision) || revision == 0) {
        return err_say(e, -EINVAL, "the job's row has no document or no revision");
    }
    json_w_init(&w, &document, false);
    json_w_value(&w, v);
    rc = job_parse_stored(buf_str(&document), &job, e);
    if (rc != 0) {
        return rc == -ENOMEM ? rc : -EINVAL;
    }
    if (!str_eqs(name, job->name)) {
        job_free(job);
        return err_say(e, -EINVAL, "the job's row is for another name");
    }
    job->revision = (uint32_t)revision;
    (void)json_int(json_get(json_root(doc), "created_us"), &job->created_us);
    (void)json_int(json_get(json_root(doc), "updated_us"), &job->updated_us);
    *ret = job;
    return 0;
}
