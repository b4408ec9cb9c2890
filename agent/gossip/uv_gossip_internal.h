/* The shell's own structures; for its files. */
#ifndef AGENT_GOSSIP_UV_GOSSIP_INTERNAL_H
#define AGENT_GOSSIP_UV_GOSSIP_INTERNAL_H

#include "agent/gossip/gossip_layers.h"
#include "agent/gossip/uv_gossip.h"
#include "common/list.h"
#include "common/log.h"

enum {
    GOSSIP_DGRAM_CAP = 65536,               /* libuv's share of the buffer for each datagram */
    GOSSIP_DGRAMS = 8,                      /* taken by one system call */
    GOSSIP_JOINS_MAX = 64,                  /* places in gossip.join */
    GOSSIP_FOUND_MAX = 8,                   /* addresses of one name */
    GOSSIP_IN_BYTES_MAX = 64 * 1024 * 1024, /* of all streams that others began */
    GOSSIP_OUT_STREAMS_MAX = 256,
    GOSSIP_TOLD_MAX = 65536, /* callbacks that wait */
};

/* A callback that waits until no step is under way. */
struct gossip_told {
    struct list link;
    bool message;
    enum gossip_change change;
    uint8_t channel;
    struct gossip_view view;
    struct str bytes;
    char data[]; /* name, metadata, bytes */
};

struct gossip_join {
    struct gossip_shell *shell;
    uv_getaddrinfo_t req;
    bool busy;
    bool failed_before; /* said in the log */
    char host[SETTINGS_TEXT_MAX];
    uint16_t port;
};

struct gossip_shell {
    struct loop_owner owner;
    struct loop *loop;
    struct gossip *core;
    struct gossip_pool *pool;
    struct gossip_layers layers;
    struct settings_gossip settings;
    struct gossip_meta meta;
    char file[SETTINGS_PATH_MAX]; /* "" when nothing is kept */
    void (*on_member)(void *arg, enum gossip_change change, const struct gossip_view *m);
    void (*on_message)(void *arg, struct str from, uint8_t channel, struct str bytes);
    void *arg;
    void (*on_left)(void *arg);
    void *left_arg;
    void (*on_closed)(void *arg);
    void *closed_arg;

    uv_udp_t udp;
    uv_tcp_t listener;
    int family; /* of the sockets */
    struct loop_timer tick;
    uint64_t tick_at; /* what the timer is set to */
    struct loop_timer join_timer;
    uint64_t join_wait;
    struct gossip_join joins[GOSSIP_JOINS_MAX];
    unsigned joins_len;
    bool closing, leaving, left;

    struct loop_defer tell;
    struct list told;
    unsigned told_len;

    struct list streams;
    uint32_t next_in;
    bool accept_owed; /* there was no memory for a connection */
    unsigned in_len, out_len;
    size_t in_bytes; /* held by streams of others */

    struct loop_work save;
    struct buf save_next; /* to be written */
    struct buf save_now;  /* being written */
    bool save_wanted;

    struct buf packet; /* wrapped */
    struct log_limit drop_log, send_log;
    uint64_t peel_drops[GOSSIP_PEELS];
    uint64_t send_drops, stream_drops, told_drops;
    char datagrams[GOSSIP_DGRAM_CAP * GOSSIP_DGRAMS];
};

/* uv_gossip.c: steps the core and carries the effects out. The result of gossip_step(). */
int gossip_shell_step(struct gossip_shell *s, struct gossip_event *ev);
void gossip_shell_dropped(struct gossip_shell *s, enum gossip_peel why,
                          const struct gossip_addr *from);

/* uv_gossip_net.c */
int gossip_net_start(struct gossip_shell *s, int udp_fd, int tcp_fd, struct err *e);
void gossip_net_send(struct gossip_shell *s, const struct gossip_addr *to, struct str bytes);

/* uv_gossip_stream.c */
void gossip_stream_accept(struct gossip_shell *s);
void gossip_stream_open(struct gossip_shell *s, const struct gossip_effect *fx);
void gossip_stream_answer(struct gossip_shell *s, uint32_t id, struct str bytes);
void gossip_stream_close(struct gossip_shell *s, uint32_t id);
void gossip_stream_close_all(struct gossip_shell *s);

/* uv_gossip_join.c */
void gossip_join_start(struct gossip_shell *s);
void gossip_join_fire(struct loop_timer *t);

#endif
