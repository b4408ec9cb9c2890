#include "agent/node/node_msg.h"

#include <errno.h>
#include <string.h>

#include "agent/jobs/job_retry.h"
#include "common/base64.h"
#include "common/insist.h"
#include "common/json.h"
#include "common/mem.h"

enum { SAMPLES_NODES_MAX = 500000 };

const char *const node_file_names[NODE_FILES] = { "stdout", "stderr", "stderr.tail", "index",
                                                  "exit" };

static const char *const says_names[] = {
    [NODE_SAYS_TAKEN] = "taken",       [NODE_SAYS_BUSY] = "busy",
    [NODE_SAYS_DRAINING] = "draining", [NODE_SAYS_IMPOSSIBLE] = "impossible",
    [NODE_SAYS_KEPT] = "kept",         [NODE_SAYS_STALE] = "stale",
    [NODE_SAYS_UNKNOWN] = "unknown",
};
_Static_assert(ARRAY_LEN(says_names) == NODE_SAYS_COUNT, "every answer has its word");

const char *node_says_name(enum node_says s)
{
    REQUIRE((size_t)s < ARRAY_LEN(says_names));
    return says_names[s];
}

/* ---- small reads ---- */

static bool u64_of(const struct json *obj, const char *key, uint64_t max, uint64_t *ret)
{
    int64_t v;

    if (!json_int(json_get(obj, key), &v) || v < 0 || (uint64_t)v > max) {
        return false;
    }
    *ret = (uint64_t)v;
    return true;
}

static bool flag_of(const struct json *obj, const char *key)
{
    bool v = false;

    return json_bool(json_get(obj, key), &v) && v;
}

static int open_object(struct str text, struct json_doc **ret, struct err *e)
{
    if (text.n > NODE_MSG_MAX) {
        return err_say(e, -EINVAL, "a message of %zu bytes", text.n);
    }
    int rc = json_parse(text.p, text.n, NULL, ret, e);
    if (rc == 0 && json_root(*ret)->type != JSON_OBJECT) {
        rc = err_say(e, -EINVAL, "the message is not an object");
    }
    return rc == -E2BIG ? -EINVAL : rc;
}

static int run_of(const struct json *root, struct run *ret, struct err *e)
{
    const struct json *v = json_get(root, "run");

    if (v == NULL) {
        return err_say(e, -EINVAL, "the message has no run");
    }
    int rc = run_from_json(v, ret, e);
    if (rc == 0 && (ulid_is_zero(ret->id) || ret->attempt < 1 || ret->epoch < 1 ||
                    ret->attempt > RUN_ATTEMPT_MAX)) {
        rc = err_say(e, -EINVAL, "the run's epoch or attempt is out of range");
    }
    return rc;
}

/* Text of base 64 to bytes; an absent member is none. */
static int bytes_of(const struct json *obj, const char *key, size_t max, struct node_bytes *ret,
                    struct err *e)
{
    const struct json *v = json_get(obj, key);
    struct str s;

    if (v == NULL) {
        return 0;
    }
    if (!json_str(v, &s) || s.n / 4 * 3 > max + 3) {
        return err_say(e, -EINVAL, "'%s' is no text, or too long", key);
    }
    int rc = base64_decode(s, &ret->p, &ret->n);
    return rc == 0 ? 0 : err_set(e, rc, "'%s'", key);
}

static void bytes_write(struct json_w *w, const char *key, const void *p, size_t n)
{
    struct buf *out = w->out;

    json_w_key(w, key);
    json_w_raw(w, STR("\""));
    (void)base64_encode(out, p, n);
    (void)buf_addc(out, '"');
}

/* ---- answers ---- */

void node_answer_write(struct buf *out, const struct node_answer *a)
{
    struct json_w w;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_kv_cstr(&w, "answer", node_says_name(a->says));
    if (a->says <= NODE_SAYS_DRAINING) {
        json_kv_u64(&w, "slots_free", a->slots_free);
        json_kv_u64(&w, "memory_free_bytes", a->memory_free_bytes);
        json_kv_u64(&w, "wait_us", a->wait_us);
    }
    json_w_end(&w);
}

int node_answer_parse(struct str text, struct node_answer *ret, struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct node_answer a = { .says = NODE_SAYS_COUNT };
    struct str word;
    uint64_t slots = 0;
    int rc = open_object(text, &doc, e);

    if (rc != 0) {
        return rc;
    }
    const struct json *root = json_root(doc);
    if (json_str(json_get(root, "answer"), &word)) {
        for (size_t i = 0; i < ARRAY_LEN(says_names); i++) {
            a.says = str_eqs(word, says_names[i]) ? (enum node_says)i : a.says;
        }
    }
    if (a.says == NODE_SAYS_COUNT) {
        return err_say(e, -EINVAL, "the answer is no word that is known here");
    }
    (void)u64_of(root, "slots_free", UINT32_MAX, &slots);
    (void)u64_of(root, "memory_free_bytes", INT64_MAX, &a.memory_free_bytes);
    (void)u64_of(root, "wait_us", INT64_MAX, &a.wait_us);
    a.slots_free = (unsigned)slots;
    *ret = a;
    return 0;
}

/* ---- offer ---- */

void node_offer_write(struct buf *out, const struct run *run, const struct job *job,
                      struct str payload)
{
    AUTO_BUF struct buf text = BUF_INIT(JOB_DOCUMENT_MAX * 2);
    struct json_w w;

    job_to_text(job, &text);
    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_w_key(&w, "run");
    run_to_record(&w, run);
    json_kv_str(&w, "document", buf_str(&text));
    json_kv_u64(&w, "revision", job->revision);
    if (payload.p != NULL) {
        bytes_write(&w, "payload", payload.p, payload.n);
    }
    json_w_end(&w);
    if (buf_error(&text) != 0 && out->error == 0) {
        out->error = buf_error(&text);
    }
}

int node_offer_parse(struct str text, struct node_offer *ret, struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct node_offer o = { .job = NULL };
    struct node_bytes payload = { NULL, 0 };
    struct str document;
    uint64_t revision = 0;
    int rc = open_object(text, &doc, e);

    if (rc != 0 || (rc = run_of(json_root(doc), &o.run, e)) != 0) {
        return rc;
    }
    if (o.run.state != RUN_QUEUED) {
        return err_say(e, -EINVAL, "the offered run is not queued");
    }
    if (o.run.image_digest.algo == DIGEST_NONE) {
        return err_say(e, -EINVAL, "the offered run has no image");
    }
    if (!json_str(json_get(json_root(doc), "document"), &document)) {
        return err_say(e, -EINVAL, "the offer has no document");
    }
    rc = job_parse_stored(document, &o.job, e);
    if (rc == 0) {
        (void)u64_of(json_root(doc), "revision", UINT32_MAX, &revision);
        o.job->revision = (uint32_t)revision;
        rc = bytes_of(json_root(doc), "payload", NODE_MSG_PAYLOAD_MAX, &payload, e);
    }
    if (rc == 0 && payload.p != NULL && payload.n != o.run.payload_bytes) {
        rc = err_say(e, -EINVAL, "the payload has %zu bytes, not %llu", payload.n,
                     (unsigned long long)o.run.payload_bytes);
    }
    o.has_payload = payload.p != NULL;
    o.payload = payload.p;
    o.payload_len = payload.n;
    if (rc != 0) {
        node_offer_release(&o);
        return rc == -ENOMEM ? rc : -EINVAL;
    }
    *ret = o;
    return 0;
}

void node_offer_release(struct node_offer *o)
{
    o->job = job_free(o->job);
    o->payload = mem_free(o->payload);
}

/* ---- started, end ---- */

void node_report_write(struct buf *out, const struct node_report *r)
{
    struct json_w w;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_w_key(&w, "run");
    run_to_record(&w, &r->run);
    json_kv_bool(&w, "innocent", r->innocent);
    if (r->samples.p != NULL) {
        json_kv_str(&w, "samples", (struct str){ r->samples.p, r->samples.n });
    }
    for (size_t i = 0; i < NODE_FILES; i++) {
        if (r->files[i].p != NULL) {
            bytes_write(&w, node_file_names[i], r->files[i].p, r->files[i].n);
        }
    }
    json_w_end(&w);
}

static int samples_of(const struct json *root, struct node_bytes *ret, struct err *e)
{
    const struct json *v = json_get(root, "samples");
    AUTO_JSON struct json_doc *doc = NULL;
    struct str s;

    if (v == NULL) {
        return 0;
    }
    if (!json_str(v, &s) || s.n > NODE_MSG_SAMPLES_MAX) {
        return err_say(e, -EINVAL, "the samples are no text, or too long");
    }
    /* It is handed to clients as it is. */
    int rc = json_parse(s.p, s.n, &(struct json_limits){ .nodes_max = SAMPLES_NODES_MAX }, &doc, e);
    if (rc != 0) {
        return rc;
    }
    ret->p = mem_strndup(s.p, s.n);
    ret->n = s.n;
    return ret->p == NULL ? err_set(e, -ENOMEM, "samples") : 0;
}

int node_report_parse(struct str text, struct node_report *ret, struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    struct node_report r = { .innocent = false };
    int rc = open_object(text, &doc, e);

    if (rc != 0 || (rc = run_of(json_root(doc), &r.run, e)) != 0) {
        return rc;
    }
    if (r.run.state != RUN_RUNNING && !run_is_ended(&r.run)) {
        return err_say(e, -EINVAL, "the reported run neither runs nor has it ended");
    }
    const struct json *root = json_root(doc);
    r.innocent = flag_of(root, "innocent");
    rc = samples_of(root, &r.samples, e);
    for (size_t i = 0; rc == 0 && i < NODE_FILES; i++) {
        rc = bytes_of(root, node_file_names[i], NODE_MSG_FILES_MAX, &r.files[i], e);
    }
    if (rc != 0) {
        node_report_release(&r);
        return rc == -ENOMEM ? rc : -EINVAL;
    }
    *ret = r;
    return 0;
}

void node_report_release(struct node_report *r)
{
    r->samples.p = mem_free(r->samples.p);
    for (size_t i = 0; i < NODE_FILES; i++) {
        r->files[i].p = mem_free(r->files[i].p);
    }
}

void node_report_result(const struct node_report *r, struct job_result *ret)
{
    const struct run *run = &r->run;

    *ret = (struct job_result){
        .reason = (enum run_reason)run->reason,
        .exit_code = run->exit_code,
        .signal = run->signal,
        .output_truncated = run->output_truncated != 0,
        .log_truncated = run->log_truncated != 0,
        .innocent = r->innocent,
        .output_bytes = run->output_bytes,
        .log_bytes = run->log_bytes,
        .started_us = run->started_us,
        .ended_us = run->ended_us,
        .usage = run->usage,
        .detail = run->detail,
    };
    if (run->retry_at_us > run->ended_us) {
        uint64_t ms = (uint64_t)(run->retry_at_us - run->ended_us) / 1000;
        ret->retry_after_ms = ms < JOB_RETRY_AFTER_MAX_MS ? ms : JOB_RETRY_AFTER_MAX_MS;
    }
}

/* ---- about ---- */

void node_about_write(struct buf *out, const struct node_about *v, size_t n)
{
    char id[ULID_TEXT_CAP];
    struct json_w w;

    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_w_key(&w, "runs");
    json_w_arr(&w);
    for (size_t i = 0; i < n; i++) {
        ulid_format(v[i].id, id);
        json_w_obj(&w);
        json_kv_cstr(&w, "id", id);
        json_kv_u64(&w, "epoch", v[i].epoch);
        json_kv_u64(&w, "attempt", v[i].attempt);
        json_kv_bool(&w, "known", v[i].known);
        json_w_end(&w);
    }
    json_w_end(&w);
    json_w_end(&w);
}

int node_about_parse(struct str text, struct node_about *v, size_t max, size_t *ret_n,
                     struct err *e)
{
    AUTO_JSON struct json_doc *doc = NULL;
    size_t n = 0;
    int rc = open_object(text, &doc, e);

    if (rc != 0) {
        return rc;
    }
    const struct json *runs = json_get(json_root(doc), "runs");
    if (runs == NULL || runs->type != JSON_ARRAY) {
        return err_say(e, -EINVAL, "the message has no runs");
    }
    if (runs->count > max) {
        return err_say(e, -E2BIG, "%zu runs in one message", runs->count);
    }
    JSON_EACH (item, runs) {
        struct node_about a = { .known = flag_of(item, "known") };
        struct str id;
        uint64_t epoch;
        uint64_t attempt;
        if (!json_str(json_get(item, "id"), &id) || ulid_parse(id, &a.id) != 0 ||
            !u64_of(item, "epoch", UINT32_MAX, &epoch) ||
            !u64_of(item, "attempt", RUN_ATTEMPT_MAX, &attempt)) {
            return err_say(e, -EINVAL, "runs[%zu] is not a run's attempt", n);
        }
        a.epoch = (uint32_t)epoch;
        a.attempt = (uint32_t)attempt;
        v[n++] = a;
    }
    *ret_n = n;
    return 0;
}
