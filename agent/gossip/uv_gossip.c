/* The shell's beginning and end, its clock, and what the core wants done. */
#include "agent/gossip/uv_gossip.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "agent/gossip/sys_gossip.h"
#include "agent/gossip/uv_gossip_internal.h"
#include "common/digest.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum {
    SAVE_MAX = 1024 * 1024,
    NONCES_LOW = 1 << 20,
    LOG_PERIOD_MS = 10000,
};

/* --- callbacks, outside of steps --- */

static void told_free(struct gossip_shell *s, struct gossip_told *t)
{
    list_remove(&t->link);
    s->told_len--;
    mem_free(t);
}

static void tell_all(struct loop_defer *d)
{
    struct gossip_shell *s = CONTAINER_OF(d, struct gossip_shell, tell);

    while (!list_empty(&s->told) && !s->closing) {
        struct gossip_told *t = LIST_ITEM(s->told.next, struct gossip_told, link);
        if (t->message && s->on_message != NULL) {
            s->on_message(s->arg, t->view.name, t->channel, t->bytes);
        } else if (!t->message && s->on_member != NULL) {
            s->on_member(s->arg, t->change, &t->view);
        }
        told_free(s, t);
    }
    if (s->left && s->on_left != NULL && !s->closing) {
        void (*on_left)(void *arg) = s->on_left;
        s->on_left = NULL;
        on_left(s->left_arg);
    }
}

static void tell(struct gossip_shell *s, const struct gossip_effect *fx)
{
    bool message = fx->type == GOSSIP_FX_MESSAGE;
    const struct gossip_view *v = &fx->member;
    struct gossip_told *t = NULL;

    if (s->told_len < GOSSIP_TOLD_MAX) {
        t = mem_alloc(sizeof(*t) + v->name.n + v->meta.n + fx->bytes.n + 1);
    }
    if (t == NULL) {
        s->told_drops++;
        return;
    }
    *t = (struct gossip_told){
        .message = message, .change = fx->change, .channel = fx->channel, .view = *v
    };
    char *at = t->data;
    memcpy(at, v->name.p, v->name.n);
    t->view.name.p = at;
    at += v->name.n;
    if (v->meta.n != 0) {
        memcpy(at, v->meta.p, v->meta.n);
        t->view.meta.p = at;
        at += v->meta.n;
    }
    if (message && fx->bytes.n != 0) {
        memcpy(at, fx->bytes.p, fx->bytes.n);
    }
    t->bytes = (struct str){ at, message ? fx->bytes.n : 0 };
    list_push_back(&s->told, &t->link);
    s->told_len++;
    loop_defer_post(s->loop, &s->tell);
}

static void log_member(const struct gossip_effect *fx)
{
    char addr[GOSSIP_ADDR_TEXT_CAP];
    const struct gossip_view *v = &fx->member;
    bool loud =
        fx->change == GOSSIP_JOINED || fx->change == GOSSIP_DIED || fx->change == GOSSIP_WENT;

    log_write(loud ? LOG_INFO : LOG_DEBUG, "member '%.*s' (%s) %s", STR_ARG(v->name),
              gossip_addr_format(&v->addr, addr), gossip_change_name(fx->change));
}

static void log_note(const struct gossip_effect *fx)
{
    char addr[GOSSIP_ADDR_TEXT_CAP];
    struct str name = fx->member.name;

    (void)gossip_addr_format(&fx->to, addr);
    switch (fx->note) {
    case GOSSIP_NOTE_CONFLICT:
        log_warn("gossip: two nodes use the name '%.*s'; the other is at %s", STR_ARG(name), addr);
        break;
    case GOSSIP_NOTE_MERGE_REFUSED:
        log_warn("gossip: another's list was refused: protocol versions (gossip.vsn) differ");
        break;
    case GOSSIP_NOTE_FULL:
        log_warn("gossip: the list of members is full: others are ignored");
        break;
    case GOSSIP_NOTE_REFUTED:
        log_warn("gossip: '%.*s' suspected this node; refuted", STR_ARG(name));
        break;
    case GOSSIP_NOTE_UDP_DEAF:
        log_warn("gossip: member '%.*s' answers by TCP, not by UDP: is UDP let through?",
                 STR_ARG(name));
        break;
    case GOSSIP_NOTE_INCARNATION:
        log_warn("gossip: an impossible incarnation of '%.*s' was ignored", STR_ARG(name));
        break;
    case GOSSIP_NOTE_PROTOCOL:
        log_warn("gossip: %s answered with an error", addr);
        break;
    }
}

/* --- what is kept for the next start --- */

static void save_start(struct gossip_shell *s);

static void save_work(struct loop_work *w)
{
    struct gossip_shell *s = CONTAINER_OF(w, struct gossip_shell, save);
    struct err e = { .code = 0 };

    if (sys_write_file_atomic(AT_FDCWD, s->file, buf_cstr(&s->save_now), s->save_now.len, 0600,
                              &e) != 0) {
        log_warn("gossip: members are not kept: %s", err_text(&e));
    }
}

static void save_done(struct loop_work *w, int status)
{
    struct gossip_shell *s = CONTAINER_OF(w, struct gossip_shell, save);
    (void)status;
    if (!s->closing) {
        save_start(s);
    }
}

static void save_start(struct gossip_shell *s)
{
    if (!s->save_wanted || s->save.busy) {
        return;
    }
    s->save_wanted = false;
    struct buf t = s->save_now;
    s->save_now = s->save_next;
    s->save_next = t;
    if (loop_work_start(&s->save, &s->owner, save_work, save_done) != 0) {
        s->save_wanted = false;
    }
}

static void remember(struct gossip_shell *s, struct str text)
{
    if (s->file[0] == '\0') {
        return;
    }
    buf_reset(&s->save_next);
    (void)buf_addstr(&s->save_next, text);
    s->save_wanted = buf_error(&s->save_next) == 0;
    save_start(s);
}

static void recall(struct gossip_shell *s)
{
    struct buf text = BUF_INIT(SAVE_MAX);
    struct gossip_event ev = { .type = GOSSIP_EV_REMEMBER };

    if (s->file[0] != '\0' && sys_read_file(AT_FDCWD, s->file, SAVE_MAX, &text, NULL) == 0) {
        ev.bytes = buf_str(&text);
        (void)gossip_shell_step(s, &ev);
    }
    buf_release(&text);
}

/* --- steps --- */

static void carry_out(struct gossip_shell *s, const struct gossip_effect *fx)
{
    switch (fx->type) {
    case GOSSIP_FX_PACKET:
        gossip_net_send(s, &fx->to, fx->bytes);
        break;
    case GOSSIP_FX_OPEN:
        gossip_stream_open(s, fx);
        break;
    case GOSSIP_FX_ANSWER:
        gossip_stream_answer(s, fx->stream, fx->bytes);
        break;
    case GOSSIP_FX_CLOSE:
        gossip_stream_close(s, fx->stream);
        break;
    case GOSSIP_FX_MEMBER:
        log_member(fx);
        tell(s, fx);
        break;
    case GOSSIP_FX_MESSAGE:
        tell(s, fx);
        break;
    case GOSSIP_FX_REMEMBER:
        remember(s, fx->bytes);
        break;
    case GOSSIP_FX_LEFT:
        s->left = true;
        loop_defer_post(s->loop, &s->tell);
        break;
    case GOSSIP_FX_NOTE:
        log_note(fx);
        break;
    }
}

int gossip_shell_step(struct gossip_shell *s, struct gossip_event *ev)
{
    struct gossip_effects fx;

    ev->now_ms = loop_now_ms(s->loop);
    ev->now_s = sys_wall_us() / 1000000;
    if (gossip_layers_nonces_left(&s->layers) < NONCES_LOW) {
        uint8_t nonce[GOSSIP_NONCE_PREFIX];
        sys_random(nonce, sizeof(nonce));
        gossip_layers_set_nonce(&s->layers, nonce);
    }
    int rc = gossip_step(s->core, ev, &fx);
    for (size_t i = 0; i < fx.len; i++) {
        carry_out(s, &fx.v[i]);
    }
    uint64_t at = gossip_deadline_ms(s->core);
    if (at != s->tick_at && !s->closing) {
        s->tick_at = at;
        if (at == UINT64_MAX) {
            loop_timer_stop(&s->tick);
        } else {
            loop_timer_start(&s->tick, at > ev->now_ms ? at - ev->now_ms : 0, 0);
        }
    }
    return rc;
}

static void on_tick(struct loop_timer *t)
{
    struct gossip_shell *s = CONTAINER_OF(t, struct gossip_shell, tick);
    struct gossip_event ev = { .type = GOSSIP_EV_TICK };

    s->tick_at = 0;
    (void)gossip_shell_step(s, &ev);
    if (s->accept_owed) {
        gossip_stream_accept(s);
    }
}

void gossip_shell_dropped(struct gossip_shell *s, enum gossip_peel why,
                          const struct gossip_addr *from)
{
    char addr[GOSSIP_ADDR_TEXT_CAP];
    unsigned more = 0;

    s->peel_drops[why]++;
    if (log_limit_ok(&s->drop_log, loop_now_ms(s->loop), &more)) {
        log_warn("gossip: bytes from %s were dropped: %s (and %u more)",
                 gossip_addr_format(from, addr), gossip_peel_name(why), more);
    }
}

/* --- the start --- */

static int keys_take(const char *path, struct str text, struct gossip_keys **ret, struct err *e)
{
    int rc = 0;

    *ret = NULL;
    if (text.n != 0 && (rc = gossip_keys_parse(text, ret, e)) != 0) {
        (void)err_prefix(e, "'%s' (gossip.key_file)", path);
    }
    return rc;
}

static void vsn_of(const char *text, uint8_t vsn[6])
{
    struct str rest = str_of(text);
    struct str piece;
    uint64_t v;

    for (unsigned i = 0; i < 6 && str_split(&rest, ',', &piece); i++) {
        vsn[i] = str_u64_in(piece, 0, UINT8_MAX, &v) == 0 ? (uint8_t)v : 0;
    }
}

static bool is_any(const struct gossip_addr *a)
{
    static const uint8_t zero[16];
    return memcmp(a->ip, zero, a->len) == 0;
}

/* What others reach us by: as told; or where we are bound; or, bound to all, the address that we
 * have towards the first place to join, or towards the world. */
static int advertised(const struct gossip_shell *s, const struct gossip_addr *bound,
                      struct gossip_addr *ret, struct err *e)
{
    struct str rest = str_of(s->settings.join);
    struct str first;
    struct gossip_addr to = { .ip = { 192, 0, 2, 1 }, .len = 4, .port = 9 };

    if (s->settings.advertise[0] != '\0') {
        if (gossip_addr_parse(str_of(s->settings.advertise), ret) != 0) {
            return err_say(e, -EINVAL, "gossip.advertise: '%s' is not an address and port",
                           s->settings.advertise);
        }
        ret->port = ret->port != 0 ? ret->port : bound->port;
        return 0;
    }
    *ret = *bound;
    if (!is_any(bound)) {
        return 0;
    }
    if (str_split(&rest, ',', &first)) {
        struct gossip_addr seed;
        to = gossip_addr_parse(first, &seed) == 0 ? seed : to;
    }
    if (gossip_sock_source(&to, ret) != 0) {
        *ret = (struct gossip_addr){ .ip = { 127, 0, 0, 1 }, .len = 4 };
        log_warn("gossip: no address of this machine that others could reach: set "
                 "gossip.advertise");
    }
    ret->port = bound->port;
    return 0;
}

static void shell_free(struct gossip_shell *s)
{
    while (!list_empty(&s->told)) {
        told_free(s, LIST_ITEM(s->told.next, struct gossip_told, link));
    }
    gossip_free(s->core);
    gossip_pool_free(s->pool);
    gossip_layers_release(&s->layers);
    buf_release(&s->packet);
    buf_release(&s->save_next);
    buf_release(&s->save_now);
    mem_free(s);
}

static int core_start(struct gossip_shell *s, const struct gossip_options *opt,
                      const struct gossip_addr *bound, struct err *e)
{
    uint8_t meta[GOSSIP_META_OWN_MAX];
    struct gossip_config c = { .name = opt->name,
                               .boot = s->meta.boot,
                               .seed = sys_random_u64(),
                               .now_ms = loop_now_ms(s->loop),
                               .now_s = sys_wall_us() / 1000000,
                               .overhead = gossip_layers_overhead(&s->layers) };

    s->pool = gossip_pool_new(sys_random_u64(), sys_random_u64());
    if (s->pool == NULL) {
        return err_set(e, -ENOMEM, "start gossip");
    }
    int rc = advertised(s, bound, &c.addr, e);
    if (rc != 0) {
        return rc;
    }
    c.pool = s->pool;
    gossip_meta_write(&s->meta, meta, &c.meta.n);
    c.meta.p = (const char *)meta;
    vsn_of(s->settings.vsn, c.vsn);
    gossip_params_for((enum gossip_profile)s->settings.profile, &c.params);
    return gossip_new(&c, &s->core, e);
}

/* What owns no handle yet. */
static int shell_new(const struct gossip_options *opt, struct gossip_shell **ret, struct err *e)
{
    struct gossip_shell *s = mem_zalloc(sizeof(*s));
    struct gossip_keys *keys = NULL;
    struct gossip_addr bound;
    uint8_t nonce[GOSSIP_NONCE_PREFIX];

    if (s == NULL) {
        return err_set(e, -ENOMEM, "start gossip");
    }
    list_init(&s->told);
    list_init(&s->streams);
    s->loop = opt->loop;
    s->settings = *opt->settings;
    s->on_member = opt->on_member;
    s->on_message = opt->on_message;
    s->arg = opt->arg;
    s->meta = opt->meta;
    if (s->meta.boot == 0) {
        s->meta.boot = (uint64_t)(sys_wall_us() / 1000) << 20 | (sys_random_u64() & 0xFFFFF);
    }
    buf_init(&s->packet, GOSSIP_DGRAM_CAP);
    buf_init(&s->save_next, SAVE_MAX);
    buf_init(&s->save_now, SAVE_MAX);
    s->drop_log = s->send_log = (struct log_limit){ .period_ms = LOG_PERIOD_MS, .burst = 3 };
    int rc = keys_take(s->settings.key_file, opt->keys, &keys, e);
    sys_random(nonce, sizeof(nonce));
    gossip_layers_init(&s->layers, str_of(s->settings.label), keys, nonce);
    if (rc == 0 && opt->data_dir != NULL) {
        int n = snprintf(s->file, sizeof(s->file), "%s/members", opt->data_dir);
        rc = n >= (int)sizeof(s->file) ? err_say(e, -ENAMETOOLONG, "gossip: the path is too long")
                                       : 0;
    }
    if (rc == 0 && (rc = gossip_sock_bound(opt->udp_fd, &bound, &s->family)) != 0) {
        (void)err_set(e, rc, "gossip's socket");
    }
    if (rc == 0) {
        rc = core_start(s, opt, &bound, e);
    }
    if (rc != 0) {
        shell_free(s);
        return rc;
    }
    *ret = s;
    return 0;
}

static void shell_closed(struct loop_owner *o)
{
    struct gossip_shell *s = CONTAINER_OF(o, struct gossip_shell, owner);
    void (*on_closed)(void *arg) = s->on_closed;
    void *arg = s->closed_arg;

    shell_free(s);
    if (on_closed != NULL) {
        on_closed(arg);
    }
}

int gossip_shell_start(const struct gossip_options *opt, struct gossip_shell **ret, struct err *e)
{
    struct gossip_shell *s = NULL;
    char addr[GOSSIP_ADDR_TEXT_CAP];
    struct gossip_view self;
    int rc = shell_new(opt, &s, e);

    if (rc != 0 || s == NULL) {
        (void)close(opt->udp_fd);
        (void)close(opt->tcp_fd);
        return rc;
    }
    loop_owner_init(&s->owner, s->loop, shell_closed);
    loop_timer_init(&s->tick, &s->owner, on_tick);
    loop_timer_init(&s->join_timer, &s->owner, gossip_join_fire);
    loop_defer_init(&s->tell, tell_all);
    rc = gossip_net_start(s, opt->udp_fd, opt->tcp_fd, e);
    if (rc != 0) {
        s->closing = true;
        loop_timer_close(&s->tick);
        loop_timer_close(&s->join_timer);
        loop_owner_close(&s->owner);
        return rc;
    }
    recall(s);
    gossip_join_start(s);
    struct gossip_event ev = { .type = GOSSIP_EV_TICK };
    (void)gossip_shell_step(s, &ev);
    if (gossip_find(s->core, str_of(opt->name), &self)) {
        log_info("gossip on %s, %s", gossip_addr_format(&self.addr, addr),
                 s->layers.keys != NULL ? "encrypted" : "not encrypted");
    }
    *ret = s;
    return 0;
}

void gossip_shell_close(struct gossip_shell *s, void (*on_closed)(void *arg), void *arg)
{
    if (s->closing) {
        return;
    }
    s->closing = true;
    s->on_closed = on_closed;
    s->closed_arg = arg;
    loop_defer_cancel(&s->tell);
    loop_timer_close(&s->tick);
    loop_timer_close(&s->join_timer);
    for (unsigned i = 0; i < s->joins_len; i++) {
        if (s->joins[i].busy) {
            (void)uv_cancel((uv_req_t *)&s->joins[i].req);
        }
    }
    gossip_stream_close_all(s);
    loop_handle_close(&s->owner, (uv_handle_t *)&s->udp);
    loop_handle_close(&s->owner, (uv_handle_t *)&s->listener);
    loop_owner_close(&s->owner);
}

/* --- what others may ask --- */

void gossip_shell_leave(struct gossip_shell *s, void (*on_left)(void *arg), void *arg)
{
    struct gossip_event ev = { .type = GOSSIP_EV_LEAVE };

    s->leaving = true;
    s->on_left = on_left;
    s->left_arg = arg;
    (void)gossip_shell_step(s, &ev);
    if (s->left) {
        loop_defer_post(s->loop, &s->tell);
    }
}

int gossip_shell_send(struct gossip_shell *s, struct str name, uint8_t channel, const void *p,
                      size_t n, bool reliable)
{
    struct gossip_event ev = { .type = GOSSIP_EV_SEND,
                               .name = name,
                               .channel = channel,
                               .bytes = { p, n },
                               .reliable = reliable };

    if ((reliable || n > GOSSIP_USER_PACKET_MAX) && s->out_len >= GOSSIP_OUT_STREAMS_MAX - 64) {
        return -EAGAIN;
    }
    return gossip_shell_step(s, &ev);
}

void gossip_shell_set_meta(struct gossip_shell *s, const struct gossip_meta *m)
{
    uint8_t meta[GOSSIP_META_OWN_MAX];
    struct gossip_event ev = { .type = GOSSIP_EV_META };
    uint64_t boot = s->meta.boot;

    s->meta = *m;
    s->meta.boot = boot;
    gossip_meta_write(&s->meta, meta, &ev.bytes.n);
    ev.bytes.p = (const char *)meta;
    (void)gossip_shell_step(s, &ev);
}

int gossip_shell_set_keys(struct gossip_shell *s, struct str text, struct err *e)
{
    struct gossip_keys *keys = NULL;
    int rc = keys_take(s->settings.key_file, text, &keys, e);

    if (rc == 0) {
        gossip_layers_set_keys(&s->layers, keys);
        gossip_set_overhead(s->core, gossip_layers_overhead(&s->layers));
    }
    return rc;
}

const struct gossip *gossip_shell_core(const struct gossip_shell *s)
{
    return s->core;
}
