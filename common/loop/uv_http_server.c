/* Listening, deadlines, pools and the end of an HTTP server. See http_server_internal.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/loop/http_server_internal.h"
#include "common/mem.h"

static uint64_t wait_ms(const struct http_server *s, enum http_wait w)
{
    switch (w) {
    case HTTP_WAIT_HEAD:
        return s->opt.header_timeout_ms;
    case HTTP_WAIT_IDLE:
        return s->opt.idle_timeout_ms;
    case HTTP_WAIT_BODY:
        return s->opt.body_timeout_ms;
    case HTTP_WAIT_WRITE:
        return s->opt.write_timeout_ms;
    case HTTP_WAIT_HALF:
        return HTTP_HALF_CLOSED_MS;
    case HTTP_WAIT_LINGER:
        return HTTP_LINGER_MS;
    case HTTP_WAIT_NONE:
    case HTTP_WAITS:
        break;
    }
    return 0;
}

static void timer_fired(uv_timer_t *t);

static void timer_arm(struct http_server *s)
{
    uint64_t due = UINT64_MAX;
    for (int w = HTTP_WAIT_NONE + 1; w < HTTP_WAITS; w++) {
        if (!list_empty(&s->waits[w])) {
            const struct http_conn *c = LIST_ITEM(s->waits[w].next, struct http_conn, wait_link);
            due = c->deadline_ms < due ? c->deadline_ms : due;
        }
    }
    if (due == UINT64_MAX) {
        uv_timer_stop(&s->timer);
        return;
    }
    uint64_t now = uv_now(s->loop);
    uv_timer_start(&s->timer, timer_fired, due > now ? due - now : 1, 0);
}

static void timer_fired(uv_timer_t *t)
{
    struct http_server *s = t->data;
    uint64_t now = uv_now(s->loop);
    for (int w = HTTP_WAIT_NONE + 1; w < HTTP_WAITS; w++) {
        while (!list_empty(&s->waits[w])) {
            struct http_conn *c = LIST_ITEM(s->waits[w].next, struct http_conn, wait_link);
            if (c->deadline_ms > now) {
                break;
            }
            /* To the end of its queue or out of it: the walk always gets on. */
            http_conn_timeout(c);
        }
    }
    timer_arm(s);
}

void http_conn_wait(struct http_conn *c, enum http_wait w)
{
    struct http_server *s = c->server;
    list_remove(&c->wait_link);
    list_push_back(&s->waits[w], &c->wait_link);
    c->wait = (uint8_t)w;
    if (w == HTTP_WAIT_NONE) {
        return;
    }
    c->deadline_ms = uv_now(s->loop) + wait_ms(s, w);
    /* Only the first of a queue can be the earliest; a timer that fires too early arms itself. */
    if (s->waits[w].next == &c->wait_link && (!uv_is_active((uv_handle_t *)&s->timer) ||
                                              uv_timer_get_due_in(&s->timer) > wait_ms(s, w))) {
        uv_timer_start(&s->timer, timer_fired, wait_ms(s, w), 0);
    }
}

const char *http_server_date(struct http_server *s)
{
    static const char days[7][4] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
    static const char months[12][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
    uint64_t now = uv_now(s->loop);
    if (s->date[0] != '\0' && now - s->date_at_ms < 250) {
        return s->date;
    }
    uv_timeval64_t tv = { 0 };
    struct tm tm = { 0 };
    (void)uv_gettimeofday(&tv);
    time_t t = (time_t)tv.tv_sec;
    (void)gmtime_r(&t, &tm);
    (void)snprintf(s->date, sizeof(s->date), "%s, %02u %s %04u %02u:%02u:%02u GMT",
                   days[tm.tm_wday % 7], (unsigned)tm.tm_mday % 100, months[tm.tm_mon % 12],
                   (unsigned)(tm.tm_year + 1900) % 10000, (unsigned)tm.tm_hour % 100,
                   (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100);
    s->date_at_ms = now;
    return s->date;
}

/* -- accepting -- */

static void conn_refuse(struct http_conn *c)
{
    struct http_server *s = c->server;
    s->stats.connections_refused++;
    if (s->refused >= HTTP_REFUSED_MAX) {
        http_conn_break(c);
        return;
    }
    c->refused = true;
    s->refused++;
    http_res_problem(c, 503, "too many connections");
}

static int accept_one(struct http_server *s)
{
    struct http_conn *c = mem_zalloc(sizeof(*c));
    bool spare = c == NULL;
    if (spare) {
        if (s->spare_used) {
            /* libuv holds the descriptor until somebody takes it: the next closed one does. */
            s->accept_stalled = true;
            return -ENOMEM;
        }
        c = s->spare;
        memset(c, 0, sizeof(*c));
        s->spare_used = true;
    }
    c->server = s;
    list_init(&c->wait_link);
    list_init(&c->kick_link);
    int rc = s->is_pipe ? uv_pipe_init(s->loop, &c->uv.pipe, 0) : uv_tcp_init(s->loop, &c->uv.tcp);
    INSIST(rc == 0); /* no descriptor is made here: neither can fail */
    c->uv.handle.data = c;
    s->stats.connections++;
    s->stats.connections_total++;
    http_conn_wait(c, HTTP_WAIT_IDLE);
    rc = uv_accept(&s->uv.stream, &c->uv.stream);
    if (rc != 0 || spare || s->closing) {
        http_conn_break(c);
    } else if (s->stats.connections - s->refused > s->opt.connections_max) {
        conn_refuse(c);
    } else {
        http_conn_start(c);
    }
    return 0;
}

static void connection_came(uv_stream_t *stream, int status)
{
    struct http_server *s = stream->data;
    if (status == 0 && !s->closing) {
        (void)accept_one(s);
    }
}

void http_server_conn_closed(struct http_conn *c)
{
    struct http_server *s = c->server;
    list_remove(&c->wait_link);
    list_remove(&c->kick_link);
    s->stats.connections--;
    if (c->refused) {
        s->refused--;
    }
    if (c == s->spare) {
        s->spare_used = false;
    } else {
        mem_free(c);
    }
    if (s->accept_stalled && !s->closing) {
        s->accept_stalled = false;
        (void)accept_one(s);
    }
    http_server_maybe_gone(s);
}

static void kicked_run(uv_idle_t *idle)
{
    struct http_server *s = idle->data;
    /* What is kicked meanwhile has its turn in the next round. */
    struct list now;
    list_init(&now);
    while (!list_empty(&s->kicked)) {
        struct list *item = s->kicked.next;
        list_remove(item);
        list_push_back(&now, item);
    }
    while (!list_empty(&now)) {
        struct http_conn *c = LIST_ITEM(now.next, struct http_conn, kick_link);
        list_remove(&c->kick_link);
        http_conn_pump(c);
    }
    if (list_empty(&s->kicked)) {
        uv_idle_stop(&s->idle);
    }
}

/* -- start and end -- */

static void server_free(struct http_server *s)
{
    LIST_EACH_SAFE (it, &s->req_pool) {
        (void)http_req_discard(LIST_ITEM(it, struct http_req, pool_link));
    }
    for (unsigned i = 0; i < s->parser_pool_len; i++) {
        (void)http1_free(s->parser_pool[i]);
    }
    buf_release(&s->out);
    buf_release(&s->cipher);
    mem_free(s->plain);
    (void)tls_context_unref(s->opt.tls);
    mem_free(s->spare);
    mem_free(s);
}

static void server_handle_closed(uv_handle_t *h)
{
    struct http_server *s = h->data;
    if (--s->handles > 0) {
        return;
    }
    void (*on_closed)(void *arg) = s->on_closed;
    void *arg = s->closed_arg;
    server_free(s);
    if (on_closed != NULL) {
        on_closed(arg);
    }
}

void http_server_maybe_gone(struct http_server *s)
{
    if (!s->closing || s->stats.connections > 0 || s->files > 0 ||
        uv_is_closing((uv_handle_t *)&s->timer)) {
        return;
    }
    uv_close((uv_handle_t *)&s->timer, server_handle_closed);
    uv_close((uv_handle_t *)&s->grace, server_handle_closed);
    uv_close((uv_handle_t *)&s->idle, server_handle_closed);
}

static void options_fill(struct http_server *s, const struct http_server_options *opt)
{
    s->opt = *opt;
    s->opt.server_name = NULL;
    s->opt.connections_max = opt->connections_max != 0 ? opt->connections_max : 12000;
    s->opt.header_timeout_ms = opt->header_timeout_ms != 0 ? opt->header_timeout_ms : 10000;
    s->opt.idle_timeout_ms = opt->idle_timeout_ms != 0 ? opt->idle_timeout_ms : 75000;
    s->opt.body_timeout_ms = opt->body_timeout_ms != 0 ? opt->body_timeout_ms : 30000;
    s->opt.write_timeout_ms = opt->write_timeout_ms != 0 ? opt->write_timeout_ms : 30000;
    s->opt.discard_max = opt->discard_max != 0 ? opt->discard_max : UINT64_C(256) * 1024;
    if (opt->server_name != NULL) {
        (void)str_copy(s->name, sizeof(s->name), str_of(opt->server_name));
    }
}

static int server_listen(struct http_server *s, int fd)
{
    int rc;
    s->is_pipe = uv_guess_handle(fd) == UV_NAMED_PIPE;
    if (s->is_pipe) {
        rc = uv_pipe_init(s->loop, &s->uv.pipe, 0);
        INSIST(rc == 0);
        rc = uv_pipe_open(&s->uv.pipe, fd);
    } else {
        rc = uv_tcp_init(s->loop, &s->uv.tcp);
        INSIST(rc == 0);
        rc = uv_tcp_open(&s->uv.tcp, fd);
    }
    s->uv.handle.data = s;
    if (rc != 0) {
        uv_fs_t req;
        (void)uv_fs_close(s->loop, &req, fd, NULL);
        uv_fs_req_cleanup(&req);
        return rc;
    }
    return uv_listen(&s->uv.stream, 4096, connection_came);
}

int http_server_start(uv_loop_t *loop, int fd, const struct http_server_options *opt,
                      const struct http_server_handler *handler, struct http_server **ret,
                      struct err *e)
{
    struct http_server *s = mem_zalloc(sizeof(*s));
    struct http_conn *spare = mem_zalloc(sizeof(*spare));
    char *plain = opt->tls != NULL ? mem_alloc(HTTP_READ_BUF + TLS_RECORD_MAX) : NULL;
    if (s == NULL || spare == NULL || (opt->tls != NULL && plain == NULL)) {
        uv_fs_t req;
        (void)uv_fs_close(loop, &req, fd, NULL);
        uv_fs_req_cleanup(&req);
        mem_free(s);
        mem_free(spare);
        mem_free(plain);
        return err_set(e, -ENOMEM, "start HTTP server");
    }
    s->loop = loop;
    s->spare = spare;
    s->plain = plain;
    s->handler = *handler;
    options_fill(s, opt);
    (void)tls_context_ref(s->opt.tls);
    buf_init(&s->out, HTTP_RES_HEADERS_MAX + 2048);
    buf_init(&s->cipher, (size_t)4 * HTTP_TLS_SLICE);
    list_init(&s->kicked);
    list_init(&s->req_pool);
    for (int w = 0; w < HTTP_WAITS; w++) {
        list_init(&s->waits[w]);
    }
    if (uv_random(NULL, NULL, &s->id_seed, sizeof(s->id_seed), 0, NULL) != 0) {
        s->id_seed = uv_hrtime(); /* ids stay unique in this process all the same */
    }
    (void)uv_timer_init(loop, &s->timer);
    (void)uv_timer_init(loop, &s->grace);
    (void)uv_idle_init(loop, &s->idle);
    s->timer.data = s;
    s->grace.data = s;
    s->idle.data = s;
    s->handles = 4;
    int rc = server_listen(s, fd);
    if (rc != 0) {
        http_server_close(s, 0, NULL, NULL);
        return err_say(e, rc, "start HTTP server: %s", uv_strerror(rc));
    }
    *ret = s;
    return 0;
}

static void grace_over(uv_timer_t *t)
{
    struct http_server *s = t->data;
    for (int w = 0; w < HTTP_WAITS; w++) {
        LIST_EACH_SAFE (it, &s->waits[w]) {
            http_conn_break(LIST_ITEM(it, struct http_conn, wait_link));
        }
    }
}

void http_server_close(struct http_server *s, unsigned grace_ms, void (*on_closed)(void *arg),
                       void *arg)
{
    REQUIRE(!s->closing);
    s->closing = true;
    s->on_closed = on_closed;
    s->closed_arg = arg;
    uv_close(&s->uv.handle, server_handle_closed);
    for (int w = 0; w < HTTP_WAITS; w++) {
        LIST_EACH_SAFE (it, &s->waits[w]) {
            struct http_conn *c = LIST_ITEM(it, struct http_conn, wait_link);
            if (grace_ms == 0 || (c->req == NULL && !c->linger)) {
                http_conn_break(c);
            }
        }
    }
    if (grace_ms > 0) {
        uv_timer_start(&s->grace, grace_over, grace_ms, 0);
    }
    http_server_maybe_gone(s);
}

const struct http_server_stats *http_server_stats(const struct http_server *s)
{
    return &s->stats;
}

void http_conn_kick(struct http_conn *c)
{
    struct http_server *s = c->server;
    if (c->in_pump || c->closing || !list_empty(&c->kick_link)) {
        return;
    }
    if (list_empty(&s->kicked)) {
        uv_idle_start(&s->idle, kicked_run);
    }
    list_push_back(&s->kicked, &c->kick_link);
}
