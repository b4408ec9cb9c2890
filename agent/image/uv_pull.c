/*
 * Configuration to sources, and one fetch for all who wait for the same name.
 */
#include "agent/image/image_pull.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "agent/image/origin.h"
#include "common/digest.h"
#include "common/insist.h"
#include "common/list.h"
#include "common/loop/loop.h"
#include "common/loop/tls.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { CREDENTIALS_MAX = 1 << 20, AUTHORITIES_MAX = 4 << 20, PULLS_MAX = 256, WAITERS_MAX = 65536 };

static const char system_ca[] = "/etc/ssl/certs/ca-certificates.crt";

struct login {
    char *user, *password;
};

/* What the configuration came to. */
struct setup {
    struct image_upstreams upstreams;
    struct login logins[IMAGE_UPSTREAMS_MAX][IMAGE_MIRRORS_MAX];
    struct tls_context *tls; /* NULL: no upstream needs it */
    uint64_t deadline_ms;
};

struct image_puller {
    struct loop *loop;
    struct http_client *client;
    struct image_fetcher *fetcher;
    struct setup setup;
    struct list jobs; /* struct pull_job */
    unsigned waiters;
    bool closing;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

/* One fetch. */
struct pull_job {
    struct list link;
    struct image_puller *puller;
    struct image_fetch *fetch;
    struct image_ref ref;
    struct list waiters; /* struct image_pull */
};

struct image_pull {
    struct list link;
    struct pull_job *job;
    image_fetch_fn *fn;
    void *arg;
};

/* ---- configuration -----------------------------------------------------------------------------
 */

static char *free_secret(char *s)
{
    if (s != NULL) {
        mem_wipe(s, strlen(s));
    }
    return mem_free(s);
}

static void setup_release(struct setup *s)
{
    for (size_t i = 0; i < s->upstreams.n; i++) {
        for (size_t k = 0; k < IMAGE_MIRRORS_MAX; k++) {
            s->logins[i][k].user = free_secret(s->logins[i][k].user);
            s->logins[i][k].password = free_secret(s->logins[i][k].password);
        }
    }
    image_upstreams_release(&s->upstreams);
    s->tls = tls_context_unref(s->tls);
}

static int take_login(struct str text, const struct image_url *url, struct login *login,
                      struct err *e)
{
    char *user = mem_alloc(IMAGE_SECRET_MAX);
    char *password = mem_alloc(IMAGE_SECRET_MAX);
    int r = user == NULL || password == NULL ? -ENOMEM : 0;
    if (r == 0) {
        r = image_credentials_find(text, url->host, url->port, user, password, e);
    }
    if (r == 0) {
        login->user = mem_strdup(user);
        login->password = mem_strdup(password);
        r = login->user == NULL || login->password == NULL ? -ENOMEM : 0;
        mem_wipe(password, strlen(password));
    }
    mem_free(user);
    mem_free(password);
    return r == -ENOENT ? 0 : r;
}

static int take_logins(struct setup *s, const char *file, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(CREDENTIALS_MAX);
    int r = sys_read_file(AT_FDCWD, file, CREDENTIALS_MAX, &text, e);
    for (size_t i = 0; r == 0 && i < s->upstreams.n; i++) {
        for (size_t k = 0; r == 0 && k < s->upstreams.v[i].mirrors_len; k++) {
            r = take_login(buf_str(&text), &s->upstreams.v[i].mirrors[k], &s->logins[i][k], e);
        }
    }
    if (text.data != NULL) {
        mem_wipe(text.data, text.len);
    }
    return r < 0 ? (err_prefix(e, "registry.credentials_file '%s'", file), r) : 0;
}

static bool wants_tls(const struct setup *s)
{
    for (size_t i = 0; i < s->upstreams.n; i++) {
        for (size_t k = 0; k < s->upstreams.v[i].mirrors_len; k++) {
            if (s->upstreams.v[i].mirrors[k].https) {
                return true;
            }
        }
    }
    return false;
}

static int take_authorities(struct setup *s, const char *file, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(AUTHORITIES_MAX);
    int r = sys_read_file(AT_FDCWD, file, AUTHORITIES_MAX, &text, e);
    const struct tls_config config = { .ca = buf_str(&text) };
    if (r == 0) {
        r = tls_context_new(&config, &s->tls, e);
    }
    return r < 0 ? (err_prefix(e, "registry.ca_file '%s'", file), r) : 0;
}

static bool given(const char *s)
{
    return s != NULL && s[0] != '\0';
}

static int setup_read(struct setup *s, const struct image_puller_options *opt, struct err *e)
{
    memset(s, 0, sizeof(*s));
    s->deadline_ms = opt->deadline_ms;
    int r = image_upstreams_parse(str_of(opt->upstreams), &s->upstreams, e);
    if (r < 0) {
        return err_prefix(e, "registry.upstreams"), r;
    }
    if (given(opt->credentials_file)) {
        r = take_logins(s, opt->credentials_file, e);
    }
    if (r == 0 && wants_tls(s)) {
        r = take_authorities(s, given(opt->ca_file) ? opt->ca_file : system_ca, e);
    }
    if (r < 0) {
        setup_release(s);
    }
    return r;
}

/* ---- pulls -------------------------------------------------------------------------------------
 */

bool image_puller_knows(const struct image_puller *p, const char *repository)
{
    return p != NULL && repository[0] != '\0' &&
           image_upstreams_find(&p->setup.upstreams, repository) != NULL;
}

static void job_free(struct pull_job *job)
{
    list_remove(&job->link);
    mem_free(job);
}

static void fetched(void *arg, int rc, const struct image_fetched *got, const char *why)
{
    struct pull_job *job = arg;
    struct image_puller *p = job->puller;
    job->fetch = NULL;
    /* Whoever asks from here on begins anew. */
    list_remove(&job->link);
    while (!list_empty(&job->waiters)) {
        struct image_pull *w = LIST_ITEM(job->waiters.next, struct image_pull, link);
        image_fetch_fn *fn = w->fn;
        void *fn_arg = w->arg;
        list_remove(&w->link);
        p->waiters--;
        mem_free(w);
        fn(fn_arg, rc, got, why);
    }
    job_free(job);
}

static bool same_ref(const struct image_ref *a, const struct image_ref *b)
{
    return strcmp(a->repository, b->repository) == 0 && strcmp(a->tag, b->tag) == 0 &&
           digest_eq(&a->digest, &b->digest);
}

static struct pull_job *find_job(struct image_puller *p, const struct image_ref *ref)
{
    LIST_EACH (pos, &p->jobs) {
        struct pull_job *job = LIST_ITEM(pos, struct pull_job, link);
        if (same_ref(&job->ref, ref)) {
            return job;
        }
    }
    return NULL;
}

static int begin_fetch(struct image_puller *p, struct pull_job *job, struct err *e)
{
    const struct image_upstream *u = image_upstreams_find(&p->setup.upstreams, job->ref.repository);
    struct image_source sources[IMAGE_MIRRORS_MAX];
    char names[IMAGE_MIRRORS_MAX][IMAGE_NAME_MAX + 1];
    INSIST(u != NULL);
    const struct login *logins = p->setup.logins[u - p->setup.upstreams.v];
    memset(sources, 0, sizeof(sources));
    for (size_t i = 0; i < u->mirrors_len; i++) {
        const struct image_url *url = &u->mirrors[i];
        int r = image_upstream_name(u, i, job->ref.repository, names[i]);
        if (r < 0) {
            return err_say(e, -EINVAL, "'%s' has no name at its upstream", job->ref.repository);
        }
        sources[i] = (struct image_source){
            .target = { .host = url->host,
                        .port = url->port,
                        .tls = url->https ? p->setup.tls : NULL },
            .repository = names[i],
            .user = logins[i].user,
            .password = logins[i].password,
        };
    }
    const struct image_fetch_request req = {
        .repository = job->ref.repository,
        .digest = job->ref.digest,
        .tag = job->ref.tag[0] != '\0' ? job->ref.tag : NULL,
        .sources = sources,
        .sources_len = u->mirrors_len,
        .deadline_ms = p->setup.deadline_ms,
    };
    return image_fetch_start(p->fetcher, &req, fetched, job, &job->fetch, e);
}

static int new_job(struct image_puller *p, const struct image_ref *ref, struct pull_job **ret,
                   struct err *e)
{
    struct pull_job *job = mem_zalloc(sizeof(*job));
    if (job == NULL) {
        return err_set(e, -ENOMEM, "pull an image");
    }
    job->puller = p;
    job->ref = *ref;
    list_init(&job->waiters);
    list_push_back(&p->jobs, &job->link);
    int r = begin_fetch(p, job, e);
    if (r < 0) {
        job_free(job);
        return r;
    }
    *ret = job;
    return 0;
}

int image_pull_start(struct image_puller *p, const struct image_ref *ref, image_fetch_fn *fn,
                     void *arg, struct image_pull **ret, struct err *e)
{
    if (!image_puller_knows(p, ref->repository)) {
        return err_say(e, -ENOENT, "no upstream is configured for '%s'", ref->repository);
    }
    if (p->closing) {
        return err_say(e, -ESHUTDOWN, "pulling is closing");
    }
    if (p->waiters >= WAITERS_MAX) {
        return err_say(e, -EAGAIN, "too many wait for images");
    }
    struct image_pull *w = mem_zalloc(sizeof(*w));
    if (w == NULL) {
        return err_set(e, -ENOMEM, "pull an image");
    }
    struct pull_job *job = find_job(p, ref);
    if (job == NULL) {
        int r = new_job(p, ref, &job, e);
        if (r < 0) {
            mem_free(w);
            return r;
        }
    }
    INSIST(job != NULL);
    w->job = job;
    w->fn = fn;
    w->arg = arg;
    list_push_back(&job->waiters, &w->link);
    p->waiters++;
    if (ret != NULL) {
        *ret = w;
    }
    return 0;
}

void image_pull_cancel(struct image_pull *pull)
{
    if (pull == NULL) {
        return;
    }
    struct pull_job *job = pull->job;
    list_remove(&pull->link);
    job->puller->waiters--;
    mem_free(pull);
    /* fetch NULL: its end is being told right now. */
    if (list_empty(&job->waiters) && job->fetch != NULL) {
        image_fetch_cancel(job->fetch);
        job_free(job);
    }
}

const struct image_fetcher_stats *image_puller_stats(const struct image_puller *p)
{
    return image_fetcher_stats(p->fetcher);
}

/* ---- beginning and end -------------------------------------------------------------------------
 */

int image_puller_new(struct loop *l, struct image_store *store,
                     const struct image_puller_options *opt, struct image_puller **ret,
                     struct err *e)
{
    const struct http_client_options client = { .user_agent = opt->user_agent };
    const struct image_fetcher_options fetcher = { .fetches_max = PULLS_MAX };
    struct image_puller *p = mem_zalloc(sizeof(*p));
    if (p == NULL) {
        return err_set(e, -ENOMEM, "start pulling");
    }
    p->loop = l;
    list_init(&p->jobs);
    int r = setup_read(&p->setup, opt, e);
    if (r == 0) {
        r = http_client_start(l, &client, &p->client, e);
    }
    if (r == 0) {
        r = image_fetcher_new(l, store, p->client, &fetcher, &p->fetcher, e);
    }
    if (r < 0) {
        if (p->client != NULL) {
            http_client_close(p->client, NULL, NULL);
        }
        setup_release(&p->setup);
        mem_free(p);
        return r;
    }
    *ret = p;
    return 0;
}

int image_puller_reload(struct image_puller *p, const struct image_puller_options *opt,
                        struct err *e)
{
    struct setup next;
    int r = setup_read(&next, opt, e);
    if (r == 0) {
        setup_release(&p->setup);
        p->setup = next;
    }
    return r;
}

static void client_closed(void *arg)
{
    struct image_puller *p = arg;
    void (*on_closed)(void *arg) = p->on_closed;
    void *on_closed_arg = p->on_closed_arg;
    setup_release(&p->setup);
    mem_free(p);
    if (on_closed != NULL) {
        on_closed(on_closed_arg);
    }
}

static void fetcher_closed(void *arg)
{
    struct image_puller *p = arg;
    http_client_close(p->client, client_closed, p);
}

void image_puller_close(struct image_puller *p, void (*on_closed)(void *arg), void *arg)
{
    REQUIRE(!p->closing);
    p->closing = true;
    p->on_closed = on_closed;
    p->on_closed_arg = arg;
    image_fetcher_close(p->fetcher, fetcher_closed, p);
}
