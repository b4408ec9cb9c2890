/*
 * uv_gossip - membership on a loop: the sockets, timers and files around a gossip core.
 *
 * Everything is called on the loop's thread; no callback fires inside a call of this header. Names
 * and bytes given to callbacks are valid during the call.
 */
#ifndef AGENT_GOSSIP_UV_GOSSIP_H
#define AGENT_GOSSIP_UV_GOSSIP_H

#include "agent/gossip/gossip.h"
#include "common/json.h"
#include "common/loop/loop.h"
#include "common/settings.h"

struct gossip_shell;

/* The first byte after the sender's name in our user messages says whose it is. */
enum { GOSSIP_CHANNEL_TABLE = 0x01 };

struct gossip_options {
    struct loop *loop;
    const char *name;                       /* this node's; copied */
    const struct settings_gossip *settings; /* copied */
    struct str keys; /* what settings->key_file says, "" without one: whoever may read it did */
    const char *data_dir;    /* "members" is kept there; copied. NULL: nothing is kept */
    int udp_fd, tcp_fd;      /* bound to the same address; tcp listens. Taken over in every case */
    struct gossip_meta meta; /* boot is filled in when 0 */
    /* A member's state, address or metadata changed (ourselves: never told). May be NULL. */
    void (*on_member)(void *arg, enum gossip_change change, const struct gossip_view *m);
    /* A message for `channel`, from a live member of ours; at most once each. May be NULL. */
    void (*on_message)(void *arg, struct str from, uint8_t channel, struct str bytes);
    void *arg;
};

/* 0, or -Exxx (keys that are none, …). Joining begins by itself and is tried for ever. */
int gossip_shell_start(const struct gossip_options *opt, struct gossip_shell **ret, struct err *e);
/* Closes everything at once, without a word to others. on_closed fires last, from the loop. */
void gossip_shell_close(struct gossip_shell *s, void (*on_closed)(void *arg), void *arg);
/* Tells others that this node leaves; on_left fires when enough of them were told, at the latest
 * after some seconds. Nothing is joined any more. */
void gossip_shell_leave(struct gossip_shell *s, void (*on_left)(void *arg), void *arg);

/* To the application of that member. Small ones go by UDP (may be lost) unless reliable; larger
 * ones and reliable ones by a stream of their own (may be lost when the member dies; arrive at most
 * once, in no particular order). -ENOENT: no live member of ours has that name. -EMSGSIZE: over
 * GOSSIP_USER_MAX. -EAGAIN: too much waits. -ENOMEM. */
int gossip_shell_send(struct gossip_shell *s, struct str name, uint8_t channel, const void *p,
                      size_t n, bool reliable);
/* boot stays what it was. */
void gossip_shell_set_meta(struct gossip_shell *s, const struct gossip_meta *m);
/* What the key file says now; nothing changes when it is not right. */
int gossip_shell_set_keys(struct gossip_shell *s, struct str text, struct err *e);

/* The core, for gossip_next(), gossip_find() and the like: look, never step. */
const struct gossip *gossip_shell_core(const struct gossip_shell *s);
/* An array of all members by name: name, addr, state, incarnation, rtt_us, meta, … */
void gossip_shell_json(const struct gossip_shell *s, struct json_w *w);
/* agent_gossip_* in Prometheus' text form. */
void gossip_shell_metrics(const struct gossip_shell *s, struct buf *out);

#endif
