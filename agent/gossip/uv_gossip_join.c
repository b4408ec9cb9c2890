/* The places of gossip.join: looked up and asked again and again, until a live member is there. */
#include <errno.h>

#include "agent/gossip/sys_gossip.h"
#include "agent/gossip/uv_gossip_internal.h"

enum {
    PORT_DEFAULT = 7946,
    WAIT_FIRST_MS = 500,
    WAIT_MAX_MS = 10000,
    WAIT_JOINED_MS = 30000, /* once there are others: for places where none of them is */
};

/* Is a live member other than ourselves there? */
static bool satisfied(const struct gossip_shell *s, const struct gossip_addr *a)
{
    struct gossip_view v;
    uint32_t at = 0;

    while (gossip_next(s->core, &at, &v)) {
        if ((v.state == GOSSIP_ALIVE || v.state == GOSSIP_SUSPECT) &&
            gossip_addr_same(&v.addr, a)) {
            return true; /* ourselves too: nothing to do */
        }
    }
    return false;
}

static void found(struct gossip_shell *s, const struct gossip_addr *a)
{
    struct gossip_event ev = { .type = GOSSIP_EV_JOIN, .from = *a };
    if (!s->leaving && !satisfied(s, a)) {
        (void)gossip_shell_step(s, &ev);
    }
}

static void looked_up(uv_getaddrinfo_t *req, int status, struct addrinfo *res)
{
    struct gossip_join *j = req->data;
    struct gossip_shell *s = j->shell;
    unsigned n = 0;

    j->busy = false;
    if (status != 0 && !s->closing && !j->failed_before) {
        log_warn("gossip: no address for '%s' (gossip.join): %s; trying on", j->host,
                 uv_strerror(status));
    }
    j->failed_before = status != 0;
    for (const struct addrinfo *ai = res; ai != NULL && n < GOSSIP_FOUND_MAX && !s->closing;
         ai = ai->ai_next) {
        struct gossip_addr a;
        if (gossip_sock_from(ai->ai_addr, &a)) {
            a.port = j->port;
            found(s, &a);
            n++;
        }
    }
    uv_freeaddrinfo(res);
    loop_drop(&s->owner);
}

static void look_up(struct gossip_join *j)
{
    const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM };

    if (j->busy) {
        return;
    }
    j->req.data = j;
    if (uv_getaddrinfo(j->shell->loop->uv, &j->req, looked_up, j->host, NULL, &hints) == 0) {
        j->busy = true;
        loop_hold(&j->shell->owner);
    }
}

static void try_place(struct gossip_join *j)
{
    char text[SETTINGS_TEXT_MAX + 16];
    struct gossip_addr a;
    bool v6 = strchr(j->host, ':') != NULL;

    (void)snprintf(text, sizeof(text), v6 ? "[%s]:%u" : "%s:%u", j->host, j->port);
    if (gossip_addr_parse(str_of(text), &a) == 0) {
        found(j->shell, &a);
    } else {
        look_up(j);
    }
}

void gossip_join_fire(struct loop_timer *t)
{
    struct gossip_shell *s = CONTAINER_OF(t, struct gossip_shell, join_timer);
    bool alone = gossip_count(s->core, GOSSIP_ALIVE) + gossip_count(s->core, GOSSIP_SUSPECT) <= 1;

    if (s->leaving || s->closing) {
        return;
    }
    for (unsigned i = 0; i < s->joins_len; i++) {
        try_place(&s->joins[i]);
    }
    if (!alone) {
        s->join_wait = WAIT_JOINED_MS;
    } else if (s->join_wait >= WAIT_MAX_MS) {
        s->join_wait = WAIT_MAX_MS;
    } else {
        s->join_wait *= 2;
    }
    loop_timer_start(t, s->join_wait, 0);
}

void gossip_join_start(struct gossip_shell *s)
{
    struct str rest = str_of(s->settings.join);
    struct str piece;

    while (s->joins_len < GOSSIP_JOINS_MAX && str_split(&rest, ',', &piece)) {
        struct gossip_join *j = &s->joins[s->joins_len];
        char text[SETTINGS_TEXT_MAX];
        piece = str_trim(piece);
        if (piece.n == 0 || str_copy(text, sizeof(text), piece) != 0) {
            continue;
        }
        if (settings_addr_split(text, j->host, sizeof(j->host), &j->port) != 0) {
            (void)str_copy(j->host, sizeof(j->host), piece);
            j->port = PORT_DEFAULT;
        }
        j->shell = s;
        s->joins_len++;
    }
    s->join_wait = WAIT_FIRST_MS / 2;
    if (s->joins_len > 0) {
        loop_timer_start(&s->join_timer, 0, 0);
    }
}
