/*
 * Streams: one message there, one back, within a time.
 *
 *   ours    connecting --> sending --> reading --> done        (or sending --> draining --> done)
 *   theirs  reading --> (core) --> sending --> done
 *
 * Each frees itself when its handles are closed. The core hears of every stream that it opened,
 * once.
 */
#include <errno.h>

#include "agent/gossip/sys_gossip.h"
#include "agent/gossip/uv_gossip_internal.h"
#include "common/mem.h"

struct stream {
    struct loop_owner owner;
    struct list link;
    struct gossip_shell *shell;
    struct loop_timer deadline;
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    uv_shutdown_t shutdown;
    bool ours;
    bool reply;     /* ours: an answer is wanted */
    bool connected; /* ours: evidence that somebody listens */
    bool told;      /* the core knows how it ended */
    int early;      /* ours: could not even be begun; libuv's error */
    uint32_t id;
    struct gossip_addr peer;
    struct gossip_reader reader;
    struct buf in, out;
    char chunk[16384];
};

static void stream_closed(struct loop_owner *o)
{
    struct stream *st = CONTAINER_OF(o, struct stream, owner);
    struct gossip_shell *s = st->shell;

    list_remove(&st->link);
    if (st->ours) {
        s->out_len--;
    } else {
        s->in_len--;
        s->in_bytes -= st->in.len;
    }
    buf_release(&st->in);
    buf_release(&st->out);
    mem_free(st);
    loop_drop(&s->owner);
}

static void stream_end(struct stream *st)
{
    loop_timer_close(&st->deadline);
    loop_handle_close(&st->owner, (uv_handle_t *)&st->tcp);
    loop_owner_close(&st->owner);
}

/* The core hears it once, and not of what it has no interest in. */
static void tell_failed(struct stream *st, enum gossip_failure why)
{
    struct gossip_event ev = {
        .type = GOSSIP_EV_FAILED, .stream = st->id, .failure = why, .from = st->peer
    };
    bool tell = st->ours && !st->told;

    st->told = true;
    stream_end(st);
    if (tell && !st->shell->closing) {
        (void)gossip_shell_step(st->shell, &ev);
    }
}

static enum gossip_failure failure_of(const struct stream *st, int rc)
{
    if (st->connected) {
        return GOSSIP_FAIL_SILENT;
    }
    switch (rc) {
    case UV_ECONNREFUSED:
        return GOSSIP_FAIL_REFUSED;
    case UV_ETIMEDOUT:
    case UV_EHOSTUNREACH:
    case UV_EHOSTDOWN:
        return GOSSIP_FAIL_UNREACHABLE;
    default:
        return GOSSIP_FAIL_LOCAL; /* no route, no descriptors: says nothing about the other */
    }
}

static void stream_late(struct loop_timer *t)
{
    struct stream *st = CONTAINER_OF(t, struct stream, deadline);
    if (!st->ours) {
        st->shell->stream_drops++;
    }
    tell_failed(st, failure_of(st, st->early != 0 ? st->early : UV_ETIMEDOUT));
}

static struct stream *stream_new(struct gossip_shell *s, bool ours)
{
    struct stream *st = mem_zalloc(sizeof(*st));

    if (st == NULL) {
        return NULL;
    }
    loop_owner_init(&st->owner, s->loop, stream_closed);
    loop_hold(&s->owner);
    st->shell = s;
    st->ours = ours;
    st->reader.dialler = ours;
    buf_init(&st->in, GOSSIP_STREAM_MAX + 1024);
    buf_init(&st->out, GOSSIP_STREAM_MAX + 1024);
    loop_timer_init(&st->deadline, &st->owner, stream_late);
    (void)uv_tcp_init(s->loop->uv, &st->tcp);
    loop_hold(&st->owner);
    st->tcp.data = st;
    list_push_back(&s->streams, &st->link);
    if (ours) {
        s->out_len++;
    } else {
        s->in_len++;
        st->id = s->next_in++;
    }
    return st;
}

/* --- reading --- */

static void chunk_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct stream *st = h->data;
    (void)suggested;
    buf->base = st->chunk;
    buf->len = sizeof(st->chunk);
}

static void message_whole(struct stream *st, struct str msg)
{
    struct gossip_event ev = { .type = st->ours ? GOSSIP_EV_REPLY : GOSSIP_EV_STREAM,
                               .stream = st->id,
                               .from = st->peer,
                               .bytes = msg };

    (void)uv_read_stop((uv_stream_t *)&st->tcp);
    st->told = true;
    if (st->ours) {
        stream_end(st);
    }
    (void)gossip_shell_step(st->shell, &ev);
}

static void stream_bad(struct stream *st, enum gossip_peel why)
{
    gossip_shell_dropped(st->shell, why, &st->peer);
    tell_failed(st, GOSSIP_FAIL_SILENT);
}

static void chunk_read(uv_stream_t *tcp, ssize_t n, const uv_buf_t *buf)
{
    struct stream *st = tcp->data;
    struct gossip_shell *s = st->shell;
    struct str msg;

    if (n == 0 || s->closing) {
        return;
    }
    if (n < 0) {
        if (!st->ours && st->in.len > 0) {
            gossip_shell_dropped(s, GOSSIP_PEEL_MALFORMED, &st->peer);
        }
        tell_failed(st, GOSSIP_FAIL_SILENT);
        return;
    }
    if (st->ours && !st->reply) {
        return; /* nobody asked */
    }
    if (buf_add(&st->in, buf->base, (size_t)n) != 0) {
        stream_bad(st, GOSSIP_PEEL_MEMORY);
        return;
    }
    s->in_bytes += st->ours ? 0 : (size_t)n;
    if (s->in_bytes > GOSSIP_IN_BYTES_MAX) {
        stream_bad(st, GOSSIP_PEEL_MEMORY);
        return;
    }
    enum gossip_peel rc = gossip_peel_stream(&s->layers, &st->reader, buf_str(&st->in), &msg);
    if (rc == GOSSIP_PEEL_OK) {
        message_whole(st, msg);
    } else if (rc != GOSSIP_PEEL_MORE) {
        stream_bad(st, rc);
    }
}

static void read_on(struct stream *st)
{
    int rc = uv_read_start((uv_stream_t *)&st->tcp, chunk_alloc, chunk_read);
    if (rc != 0) {
        tell_failed(st, failure_of(st, rc));
    }
}

/* --- writing --- */

static void shut(uv_shutdown_t *req, int status)
{
    (void)req;
    (void)status;
}

static void written(uv_write_t *req, int status)
{
    struct stream *st = req->data;

    if (uv_is_closing((uv_handle_t *)&st->tcp)) {
        return;
    }
    if (status != 0) {
        tell_failed(st, failure_of(st, status));
        return;
    }
    if (!st->ours) {
        stream_end(st);
        return;
    }
    if (!st->reply) {
        /* Closed when the other side has read it and closes. */
        (void)uv_shutdown(&st->shutdown, (uv_stream_t *)&st->tcp, shut);
    }
    read_on(st);
}

static void write_out(struct stream *st)
{
    uv_buf_t b = { .base = st->out.data, .len = st->out.len };
    st->write.data = st;
    int rc = uv_write(&st->write, (uv_stream_t *)&st->tcp, &b, 1, written);
    if (rc != 0) {
        tell_failed(st, failure_of(st, rc));
    }
}

/* --- theirs --- */

void gossip_stream_accept(struct gossip_shell *s)
{
    struct stream *st = stream_new(s, false);
    struct sockaddr_storage sa;
    int n = sizeof(sa);

    s->accept_owed = st == NULL; /* libuv waits until this one is taken: the next tick tries */
    if (st == NULL) {
        return;
    }
    if (uv_accept((uv_stream_t *)&s->listener, (uv_stream_t *)&st->tcp) != 0 ||
        s->in_len > GOSSIP_STREAMS_MAX || s->leaving ||
        uv_tcp_getpeername(&st->tcp, (struct sockaddr *)&sa, &n) != 0 ||
        !gossip_sock_from((struct sockaddr *)&sa, &st->peer)) {
        s->stream_drops++;
        stream_end(st);
        return;
    }
    struct gossip_params p;
    gossip_params_for((enum gossip_profile)s->settings.profile, &p);
    loop_timer_start(&st->deadline, p.stream_timeout_ms, 0);
    read_on(st);
}

static struct stream *find_theirs(struct gossip_shell *s, uint32_t id)
{
    LIST_EACH (l, &s->streams) {
        struct stream *st = LIST_ITEM(l, struct stream, link);
        if (!st->ours && st->id == id && !st->owner.closing) {
            return st;
        }
    }
    return NULL;
}

void gossip_stream_answer(struct gossip_shell *s, uint32_t id, struct str bytes)
{
    struct stream *st = find_theirs(s, id);

    if (st == NULL) {
        return;
    }
    if (gossip_wrap_stream(&s->layers, bytes, false, &st->out) != 0) {
        s->stream_drops++;
        stream_end(st);
        return;
    }
    write_out(st);
}

void gossip_stream_close(struct gossip_shell *s, uint32_t id)
{
    struct stream *st = find_theirs(s, id);
    if (st != NULL) {
        stream_end(st);
    }
}

/* --- ours --- */

static void connected(uv_connect_t *req, int status)
{
    struct stream *st = req->data;

    if (uv_is_closing((uv_handle_t *)&st->tcp)) {
        return;
    }
    if (status != 0) {
        tell_failed(st, failure_of(st, status));
        return;
    }
    st->connected = true;
    write_out(st);
}

/* What cannot even be begun is told from the loop, not from inside the step that asked. */
static void fail_soon(struct stream *st, int rc)
{
    st->early = rc;
    loop_timer_start(&st->deadline, 0, 0);
}

void gossip_stream_open(struct gossip_shell *s, const struct gossip_effect *fx)
{
    struct stream *st = s->out_len < GOSSIP_OUT_STREAMS_MAX ? stream_new(s, true) : NULL;
    struct sockaddr_storage sa;
    uint64_t now = loop_now_ms(s->loop);

    if (st == NULL) {
        s->stream_drops++; /* the core's exchange ends by being forgotten */
        return;
    }
    st->id = fx->stream;
    st->peer = fx->to;
    st->reply = fx->reply;
    st->connect.data = st;
    if (gossip_sock_to(&fx->to, s->family, &sa) != 0 ||
        gossip_wrap_stream(&s->layers, fx->bytes, true, &st->out) != 0) {
        fail_soon(st, UV_EINVAL);
        return;
    }
    loop_timer_start(&st->deadline, fx->deadline_ms > now ? fx->deadline_ms - now : 1, 0);
    int rc = uv_tcp_connect(&st->connect, &st->tcp, (const struct sockaddr *)&sa, connected);
    if (rc != 0) {
        fail_soon(st, rc);
    }
}

void gossip_stream_close_all(struct gossip_shell *s)
{
    LIST_EACH_SAFE (l, &s->streams) {
        stream_end(LIST_ITEM(l, struct stream, link));
    }
}
