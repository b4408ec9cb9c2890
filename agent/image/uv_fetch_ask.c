/*
 * One question to one source. A 401 with a challenge that the source's credentials (or nobody's,
 * for a Bearer token) can meet is answered once; redirects are followed, without credentials once
 * they lead elsewhere, and never from TLS to plain.
 *
 *   ASKING ──► its answer ──► done
 *     │ 401, 3xx                 ▲
 *     └► TOKEN (a call to the realm) ─► ASKING again (a new call)
 *
 * It waits in both states for the HTTP client. What ends a call from inside one of its own events
 * is deferred: a call is never cancelled while it speaks.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/fetch_internal.h"
#include "common/insist.h"
#include "common/mem.h"

enum { REDIRECTS_MAX = 5, TOKEN_ANSWER_MAX = 64 * 1024, LOCATION_MAX = IMAGE_URL_PATH_MAX };

struct image_ask {
    struct image_fetcher *fetcher;
    struct image_origins *origins;
    struct image_origin *origin;
    struct image_ask_events ev;
    struct http_call *call;
    struct loop_defer end; /* the answer's head was refused */
    struct image_url place;
    bool elsewhere; /* redirected to another host */
    char *accept;
    uint64_t from, body_max;

    int status;  /* of the answer that is coming; 0: none yet */
    int refused; /* on_head's word */
    bool taking; /* its body is the owner's */
    uint64_t wait_ms;
    unsigned redirects;
    unsigned challenges; /* met so far */
    bool asks_token;
    struct image_challenge challenge;
    char location[LOCATION_MAX];
    struct buf token;
};

static void send_question(struct image_ask *a);

static void ask_free(struct image_ask *a)
{
    struct image_fetcher *f = a->fetcher;
    loop_defer_cancel(&a->end);
    image_origins_unref(a->origins);
    buf_release(&a->token);
    mem_free(a->accept);
    mem_free(a);
    loop_drop(&f->owner);
}

static void ask_end(struct image_ask *a, int rc, const char *why)
{
    struct image_ask_events ev = a->ev;
    struct err e = { 0 };
    uint64_t wait_ms = a->wait_ms;
    if (rc < 0) {
        err_say(&e, rc, "%s", why);
    }
    ask_free(a);
    ev.on_done(ev.arg, rc, err_text(&e), wait_ms);
}

static void end_refused(struct loop_defer *d)
{
    struct image_ask *a = CONTAINER_OF(d, struct image_ask, end);
    char why[IMAGE_HOST_MAX + 64];
    a->call = http_call_cancel(a->call);
    snprintf(why, sizeof(why), "%s gave an answer that does not fit", a->place.host);
    ask_end(a, a->refused, why);
}

/* ---- tokens ------------------------------------------------------------------------------------
 */

static void token_data(void *arg, struct http_call *call, struct str data)
{
    struct image_ask *a = arg;
    (void)call;
    buf_addstr(&a->token, data);
}

static void token_done(void *arg, struct http_call *call, int rc, int status, const char *why)
{
    struct image_ask *a = arg;
    char token[IMAGE_SECRET_MAX];
    struct err e = { 0 };
    (void)call;
    a->call = NULL;
    if (rc < 0) {
        ask_end(a, rc, why);
        return;
    }
    if (status != 200) {
        bool later = status == 429 || status >= 500;
        err_say(&e, -EACCES, "the token service of %s answered %d", a->origin->host, status);
        ask_end(a, later ? -EAGAIN : -EACCES, err_text(&e));
        return;
    }
    rc = buf_error(&a->token) < 0 ? buf_error(&a->token)
                                  : image_token_parse(buf_str(&a->token), token, &e);
    char *copy = rc < 0 ? NULL : mem_strdup(token);
    if (copy == NULL) {
        ask_end(a, rc == -ENOMEM || rc == 0 ? -ENOMEM : -EACCES, err_text(&e));
        return;
    }
    mem_free(a->origin->token);
    a->origin->token = copy;
    a->origin->auth = IMAGE_AUTH_BEARER;
    send_question(a);
}

static void ask_token(struct image_ask *a)
{
    static const struct http_call_events none = { 0 };
    struct image_origin *o = a->origin;
    struct image_url url;
    struct err e = { 0 };
    struct http_call_events ev = none;
    int r = image_token_url(&a->challenge, o->repository, o->user, &url, &e);
    if (r == 0 && url.https != (o->target.tls != NULL)) {
        r = err_say(&e, -EACCES, "%s sends for a token to %s, which has %s TLS", o->host, url.host,
                    url.https ? "" : "no");
    }
    if (r < 0) {
        ask_end(a, r == -ENOMEM ? r : -EACCES, err_text(&e));
        return;
    }
    struct http_target to = { .host = url.host, .port = url.port, .tls = o->target.tls };
    ev.on_data = token_data;
    ev.on_done = token_done;
    ev.arg = a;
    buf_reset(&a->token);
    a->call = http_call_new(a->fetcher->client, &to, "GET", url.path, TOKEN_ANSWER_MAX, &ev);
    if (a->call == NULL) {
        ask_end(a, -ENOMEM, "out of memory");
        return;
    }
    if (o->user != NULL) {
        AUTO_BUF struct buf basic = BUF_INIT(4 * (size_t)IMAGE_SECRET_MAX);
        image_basic_header(&basic, o->user, o->password);
        http_call_header(a->call, "Authorization", buf_cstr(&basic));
    }
    http_call_send(a->call);
}

/* Can the challenge of this 401 be met? Each question meets at most two: a Bearer token can be out
 * of date. */
static bool meets(struct image_ask *a)
{
    struct image_origin *o = a->origin;
    if (a->elsewhere || a->challenges >= 2) {
        return false;
    }
    a->challenges++;
    if (a->challenge.scheme == IMAGE_AUTH_BASIC) {
        bool again = o->auth == IMAGE_AUTH_BASIC;
        o->auth = IMAGE_AUTH_BASIC;
        return o->user != NULL && (!again || a->challenges == 1);
    }
    return a->challenge.scheme == IMAGE_AUTH_BEARER;
}

/* ---- answers -----------------------------------------------------------------------------------
 */

static void note_head(struct image_ask *a, const struct http1_head *head)
{
    uint64_t seconds = 0;
    struct str value;
    a->status = head->status;
    a->wait_ms = 0;
    if (head->status == 401) {
        memset(&a->challenge, 0, sizeof(a->challenge));
        for (size_t i = 0; a->challenge.scheme == IMAGE_AUTH_NONE &&
                           http1_header_next(head, "WWW-Authenticate", &i, &value);) {
            image_challenge_parse(value, &a->challenge);
        }
    }
    if (head->status >= 300 && head->status < 400 &&
        str_copy(a->location, sizeof(a->location), http1_header(head, "Location")) < 0) {
        a->location[0] = '\0';
    }
    if (str_u64(http1_header(head, "Retry-After"), &seconds) == 0) {
        seconds = seconds < IMAGE_FETCH_RETRY_AFTER_MAX_S ? seconds : IMAGE_FETCH_RETRY_AFTER_MAX_S;
        a->wait_ms = seconds * 1000;
    }
}

static void question_head(void *arg, struct http_call *call, const struct http1_head *head)
{
    struct image_ask *a = arg;
    (void)call;
    note_head(a, head);
    a->taking = a->status >= 200 && a->status < 300;
    if (a->taking && a->ev.on_head != NULL) {
        a->refused = a->ev.on_head(a->ev.arg, head);
        if (a->refused < 0) {
            a->taking = false;
            loop_defer_post(a->fetcher->owner.loop, &a->end);
        }
    }
}

static void question_data(void *arg, struct http_call *call, struct str data)
{
    struct image_ask *a = arg;
    (void)call;
    if (a->taking) {
        a->ev.on_data(a->ev.arg, data);
    }
}

static int status_error(int status)
{
    switch (status) {
    case 404:
        return -ENOENT;
    case 401:
    case 403:
        return -EACCES;
    case 416:
        return -ERANGE;
    case 429:
        return -EAGAIN;
    default:
        return status >= 500 ? -EAGAIN : -EOPNOTSUPP;
    }
}

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

static void follow(struct image_ask *a)
{
    struct image_url to;
    struct err e = { 0 };
    int r = image_url_follow(&a->place, str_of(a->location), &to, &e);
    if (r == 0 && ++a->redirects > REDIRECTS_MAX) {
        r = err_say(&e, -EOPNOTSUPP, "more than %d redirects", REDIRECTS_MAX);
    }
    if (r == 0 && to.https != (a->origin->target.tls != NULL)) {
        r = err_say(&e, -EOPNOTSUPP, "%s redirects to %s, which has %s TLS", a->place.host, to.host,
                    to.https ? "" : "no");
    }
    if (r < 0) {
        ask_end(a, -EOPNOTSUPP, err_text(&e));
        return;
    }
    a->elsewhere = a->elsewhere || strcmp(to.host, a->place.host) != 0 || to.port != a->place.port;
    a->place = to;
    send_question(a);
}

static void question_done(void *arg, struct http_call *call, int rc, int status, const char *why)
{
    struct image_ask *a = arg;
    char text[IMAGE_HOST_MAX + 64];
    (void)call;
    a->call = NULL;
    if (a->refused < 0) {
        return; /* the deferred end is on its way */
    }
    if (status >= 200 && status < 300) {
        ask_end(a, rc, why);
    } else if (status == 0) {
        ask_end(a, rc < 0 ? rc : -EPROTO, why);
    } else if (status == 401 && meets(a)) {
        if (a->challenge.scheme == IMAGE_AUTH_BEARER) {
            ask_token(a);
        } else {
            send_question(a);
        }
    } else if (is_redirect(status) && a->location[0] != '\0') {
        follow(a);
    } else {
        snprintf(text, sizeof(text), "%s answered %d", a->place.host, status);
        ask_end(a, status_error(status), text);
    }
}

/* ---- asking ------------------------------------------------------------------------------------
 */

static void add_headers(struct image_ask *a)
{
    struct image_origin *o = a->origin;
    for (size_t i = 0; i < o->headers_len && !a->elsewhere; i++) {
        http_call_header(a->call, o->headers[i].name, o->headers[i].value);
    }
    if (a->accept != NULL) {
        http_call_header(a->call, "Accept", a->accept);
    }
    if (a->from > 0) {
        http_call_headerf(a->call, "Range", "bytes=%llu-", (unsigned long long)a->from);
    }
    if (a->elsewhere) {
        return;
    }
    if (o->auth == IMAGE_AUTH_BEARER && o->token != NULL) {
        http_call_headerf(a->call, "Authorization", "Bearer %s", o->token);
    } else if (o->auth == IMAGE_AUTH_BASIC && o->user != NULL) {
        AUTO_BUF struct buf basic = BUF_INIT(4 * (size_t)IMAGE_SECRET_MAX);
        image_basic_header(&basic, o->user, o->password);
        http_call_header(a->call, "Authorization", buf_cstr(&basic));
    }
}

static void send_question(struct image_ask *a)
{
    struct http_target to = a->origin->target;
    struct http_call_events ev = {
        .on_head = question_head,
        .on_data = question_data,
        .on_done = question_done,
        .arg = a,
    };
    if (a->elsewhere) {
        to = (struct http_target){ .tls = a->origin->target.tls };
    }
    to.host = a->place.host;
    to.port = a->place.port;
    a->status = 0;
    a->taking = false;
    a->call = http_call_new(a->fetcher->client, &to, "GET", a->place.path, a->body_max, &ev);
    if (a->call == NULL) {
        ask_end(a, -ENOMEM, "out of memory");
        return;
    }
    add_headers(a);
    http_call_send(a->call);
}

/* The first question waits for the loop: no event comes inside the call that asks. */
static void begin(struct loop_defer *d)
{
    struct image_ask *a = CONTAINER_OF(d, struct image_ask, end);
    loop_defer_init(&a->end, end_refused);
    send_question(a);
}

struct image_ask *image_ask_start(struct image_fetcher *f, struct image_origins *origins, size_t i,
                                  const char *target, const char *accept, uint64_t from,
                                  uint64_t body_max, const struct image_ask_events *ev)
{
    struct image_ask *a = mem_zalloc(sizeof(*a));
    REQUIRE(i < origins->n);
    if (a == NULL) {
        return NULL;
    }
    a->fetcher = f;
    a->origin = &origins->v[i];
    a->ev = *ev;
    a->from = from;
    a->body_max = body_max;
    a->place.https = a->origin->target.tls != NULL;
    a->place.port = a->origin->target.port;
    a->accept = accept == NULL ? NULL : mem_strdup(accept);
    buf_init(&a->token, TOKEN_ANSWER_MAX);
    loop_defer_init(&a->end, begin);
    if ((accept != NULL && a->accept == NULL) ||
        str_copy(a->place.host, sizeof(a->place.host), str_of(a->origin->host)) < 0 ||
        str_copy(a->place.path, sizeof(a->place.path), str_of(target)) < 0) {
        mem_free(a->accept);
        mem_free(a);
        return NULL;
    }
    a->origins = image_origins_ref(origins);
    loop_hold(&f->owner);
    loop_defer_post(f->owner.loop, &a->end);
    return a;
}

void image_ask_pause(struct image_ask *a)
{
    if (a->call != NULL) {
        http_call_pause(a->call);
    }
}

void image_ask_resume(struct image_ask *a)
{
    if (a->call != NULL) {
        http_call_resume(a->call);
    }
}

struct image_ask *image_ask_cancel(struct image_ask *a)
{
    if (a != NULL) {
        a->call = http_call_cancel(a->call);
        ask_free(a);
    }
    return NULL;
}
