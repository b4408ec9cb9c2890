/* "secrets" of a job document: ["name", …], or {"name": "file", …}. Kept as "name=file", sorted by
 * name. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/jobs/jobs_internal.h"

static int bad(struct job_problem *ret, size_t i, const char *detail)
{
    if (i == SIZE_MAX) {
        (void)snprintf(ret->field, sizeof ret->field, "secrets");
    } else {
        (void)snprintf(ret->field, sizeof ret->field, "secrets[%zu]", i);
    }
    (void)snprintf(ret->detail, sizeof ret->detail, "%s", detail);
    return -EINVAL;
}

struct str job_secret_file(const char *entry, struct str *ret_name)
{
    const char *eq = strchrnul(entry, '=');

    *ret_name = (struct str){ entry, (size_t)(eq - entry) };
    return str_of(*eq != '\0' ? eq + 1 : eq);
}

static bool file_taken(const struct job_list *l, struct str file)
{
    for (size_t i = 0; i < l->n; i++) {
        struct str name;
        if (str_eq(job_secret_file(l->v[i], &name), file)) {
            return true;
        }
    }
    return false;
}

int job_parse_secrets(const struct json *v, struct job *j, struct job_problem *ret)
{
    bool map = v->type == JSON_OBJECT;
    size_t i = 0;

    job_list_release(&j->secrets);
    if (!map && v->type != JSON_ARRAY) {
        return bad(ret, SIZE_MAX, "must be a list of names, or an object of names and file names");
    }
    if (v->count > JOB_SECRETS_MAX) {
        return bad(ret, SIZE_MAX, "has more than 16 secrets");
    }
    JSON_EACH (item, v) {
        struct str file;
        if (!json_str(item, &file)) {
            return bad(ret, i, "must be a string");
        }
        struct str name = map ? item->key : file;
        if (!job_name_ok(name) || !job_name_ok(file)) {
            return bad(ret, i,
                       "a secret's name and its file's are letters, digits, '.', '_', '-', "
                       "and begin with a letter or digit");
        }
        if (file_taken(&j->secrets, file)) {
            return bad(ret, i, "its file's name is there twice");
        }
        if (job_env_set(&j->secrets, name, file) != 0) {
            return -ENOMEM;
        }
        i++;
    }
    return 0;
}

void job_w_secrets(struct json_w *w, const struct job_list *secrets)
{
    bool same = true;
    struct str name;

    for (size_t i = 0; i < secrets->n; i++) {
        same = str_eq(job_secret_file(secrets->v[i], &name), name) && same;
    }
    json_w_key(w, "secrets");
    if (same) {
        json_w_arr(w);
    } else {
        json_w_obj(w);
    }
    for (size_t i = 0; i < secrets->n; i++) {
        struct str file = job_secret_file(secrets->v[i], &name);
        if (!same) {
            json_w_keystr(w, name);
        }
        json_w_str(w, file);
    }
    json_w_end(w);
}
