/* Secrets: sealed under the cluster's key before they go anywhere, kept and replicated by the table
 * only so. The key is a file that every node of a cluster has (secrets.key_file); a lone node makes
 * its own. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/node/uv_node_internal.h"
#include "agent/table/uv_table.h"
#include "common/base64.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/seal.h"
#include "common/sys/sys.h"

enum { KEY_TEXT_MAX = 128 };

static int key_parse(struct str text, const char *path, uint8_t key[SEAL_KEY_BYTES], struct err *e)
{
    size_t n = 0;

    if (base64_read(str_trim(text), key, SEAL_KEY_BYTES, &n) != 0 || n != SEAL_KEY_BYTES) {
        return err_say(e, -EBADMSG, "'%s' is not a key: 32 bytes in base64 (agent keygen)", path);
    }
    return 0;
}

static int key_make(const char *path, uint8_t key[SEAL_KEY_BYTES], struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(KEY_TEXT_MAX);

    sys_random(key, SEAL_KEY_BYTES);
    (void)base64_encode(&text, key, SEAL_KEY_BYTES);
    if (buf_addc(&text, '\n') != 0) {
        return err_set(e, -ENOMEM, "make '%s'", path);
    }
    int rc = sys_write_file_atomic(AT_FDCWD, path, text.data, text.len, 0600, e);
    mem_wipe(text.data, text.cap);
    return rc;
}

int node_secrets_start(struct node *n, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(KEY_TEXT_MAX);
    char own[SETTINGS_PATH_MAX + 24];
    const char *path = n->settings.secrets.key_file;
    struct err why = { 0 };

    (void)snprintf(own, sizeof own, "%s/db/secrets.key", n->settings.node.data_dir);
    if (path[0] == '\0') {
        path = own;
    }
    int rc = sys_read_file(AT_FDCWD, path, KEY_TEXT_MAX, &text, &why);
    if (rc == -ENOENT && path == own) {
        return key_make(path, n->secrets_key, e);
    }
    if (rc != 0) {
        return err_say(e, rc, "secrets.key_file: %s", err_text(&why));
    }
    rc = key_parse(buf_str(&text), path, n->secrets_key, e);
    mem_wipe(text.data, text.cap);
    return rc;
}

void node_secrets_free(struct node *n)
{
    mem_wipe(n->secrets_key, sizeof n->secrets_key);
}

int node_secret_get(struct node *n, struct str name, struct buf *out, struct err *e)
{
    struct table_row_view row;

    if (!table_get(table_core(n->table), TABLE_SECRET, STR(""), name, &row)) {
        return err_say(e, -ENOENT, "there is no secret '%.*s' (agent secret set)", STR_ARG(name));
    }
    int rc = seal_open(n->secrets_key, name, row.value, out);
    if (rc == -EBADMSG) {
        return err_say(e, rc, "secret '%.*s' was sealed with another key (secrets.key_file)",
                       STR_ARG(name));
    }
    return rc != 0 ? err_set(e, rc, "secret '%.*s'", STR_ARG(name)) : 0;
}

/* Never less than what is in them. */
static size_t sealed_size(struct node *n, const struct job *job)
{
    size_t sum = 1;

    for (size_t i = 0; i < job->secrets.n; i++) {
        struct table_row_view row;
        struct str name;
        (void)job_secret_file(job->secrets.v[i], &name);
        if (table_get(table_core(n->table), TABLE_SECRET, STR(""), name, &row)) {
            sum += row.value.n;
        }
    }
    return sum;
}

int node_secrets_of(struct node *n, const struct job *job, struct buf *out, struct err *e)
{
    AUTO_BUF struct buf plain = BUF_INIT(JOB_SECRETS_MAX * (NODE_SECRET_MAX + SEAL_OVERHEAD));
    struct sandbox_secret v[JOB_SECRETS_MAX];
    size_t from[JOB_SECRETS_MAX + 1] = { 0 };
    int rc = 0;

    if (job->secrets.n == 0) {
        return 0;
    }
    /* As large as it will be from the start: what grows leaves copies behind that nobody wipes. */
    size_t room = sealed_size(n, job);
    if (buf_reserve(&plain, room) == NULL ||
        buf_reserve(out, SANDBOX_SECRETS_HEAD + room) == NULL) {
        return err_set(e, -ENOMEM, "the run's secrets");
    }
    for (size_t i = 0; rc == 0 && i < job->secrets.n && i < JOB_SECRETS_MAX; i++) {
        struct str name;
        v[i].file = job_secret_file(job->secrets.v[i], &name);
        rc = node_secret_get(n, name, &plain, e);
        from[i + 1] = plain.len;
    }
    for (size_t i = 0; i < job->secrets.n && i < JOB_SECRETS_MAX; i++) {
        v[i].bytes = (struct str){ plain.data + from[i], from[i + 1] - from[i] };
    }
    rc = rc == 0 ? sandbox_secrets_encode(v, job->secrets.n, out, e) : rc;
    mem_wipe(plain.data, plain.cap);
    if (rc != 0 && out->data != NULL) {
        mem_wipe(out->data, out->cap);
    }
    return rc;
}

/* ---- for the API ---- */

struct secret_write {
    struct node_query *query;
    bool removed;
};

static void on_secret(void *arg, int status)
{
    struct secret_write *x = arg;
    struct node_query *q = x->query;

    mem_free(x);
    if (status != 0) {
        node_query_refuse(q, status == -ENOSPC ? NODE_DISK_FULL : NODE_INTERNAL,
                          "it could not be made durable: %s", err_name(status));
        return;
    }
    (void)buf_adds(&q->text, "{}");
    node_query_text(q);
}

void node_secret_put(struct node *n, struct str name, struct str value, node_text_fn *fn, void *arg)
{
    struct node_query *q = node_query_new(n, fn, arg);
    struct secret_write *x = mem_zalloc(sizeof *x);
    AUTO_BUF struct buf sealed = BUF_INIT(NODE_SECRET_MAX + SEAL_OVERHEAD);
    uint8_t nonce[SEAL_NONCE_BYTES];
    struct err e = { 0 };

    if (x == NULL) {
        node_out_of_memory("a secret");
    }
    x->query = q;
    sys_random(nonce, sizeof nonce);
    int rc = seal_close(n->secrets_key, nonce, name, value, &sealed);
    if (rc == 0) {
        rc = table_write(n->table, TABLE_SECRET, name, buf_str(&sealed), on_secret, x, &e);
    }
    if (rc != 0) {
        mem_free(x);
        node_query_refuse(q, rc == -EDQUOT || rc == -E2BIG ? NODE_QUEUE_FULL : NODE_INTERNAL, "%s",
                          e.code != 0 ? err_text(&e) : err_name(rc));
        return;
    }
    log_info("secret '%.*s' is set", STR_ARG(name));
}

void node_secret_delete(struct node *n, struct str name, node_text_fn *fn, void *arg)
{
    struct node_query *q = node_query_new(n, fn, arg);
    struct secret_write *x = mem_zalloc(sizeof *x);
    struct err e = { 0 };

    if (x == NULL) {
        node_out_of_memory("a secret");
    }
    x->query = q;
    int rc = table_remove(n->table, TABLE_SECRET, name, on_secret, x, &e);
    if (rc != 0) {
        mem_free(x);
        node_query_refuse(q, rc == -ENOENT ? NODE_UNKNOWN_SECRET : NODE_INTERNAL,
                          "there is no secret '%.*s'", STR_ARG(name));
        return;
    }
    log_info("secret '%.*s' is deleted", STR_ARG(name));
}

void node_secret_list(struct node *n, node_text_fn *fn, void *arg)
{
    struct node_query *q = node_query_new(n, fn, arg);
    struct table_walk walk = { .type = TABLE_SECRET };
    struct table_row_view row;
    struct json_w w;

    json_w_init(&w, &q->text, false);
    json_w_obj(&w);
    json_w_key(&w, "secrets");
    json_w_arr(&w);
    while (table_next(table_core(n->table), &walk, &row)) {
        json_w_obj(&w);
        json_kv_str(&w, "name", row.key);
        json_kv_time(&w, "updated_at", row.written_ms * 1000);
        json_kv_str(&w, "by", row.writer);
        json_w_end(&w);
    }
    json_w_end(&w);
    json_w_end(&w);
    node_query_text(q);
}
