/* The UDP socket and the listening one. */
#include <errno.h>
#include <unistd.h>

#include "agent/gossip/sys_gossip.h"
#include "agent/gossip/uv_gossip_internal.h"

enum { LISTEN_BACKLOG = 512 };

static void datagram_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct gossip_shell *s = h->data;
    (void)suggested;
    buf->base = s->datagrams;
    buf->len = sizeof(s->datagrams);
}

static void datagram(uv_udp_t *udp, ssize_t n, const uv_buf_t *buf, const struct sockaddr *from,
                     unsigned flags)
{
    struct gossip_shell *s = udp->data;
    struct gossip_event ev = { .type = GOSSIP_EV_PACKET };

    if (n <= 0 || from == NULL || s->closing || !gossip_sock_from(from, &ev.from)) {
        return;
    }
    if ((flags & UV_UDP_PARTIAL) != 0) {
        gossip_shell_dropped(s, GOSSIP_PEEL_MALFORMED, &ev.from);
        return;
    }
    enum gossip_peel rc =
        gossip_peel_packet(&s->layers, (struct str){ buf->base, (size_t)n }, &ev.bytes);
    if (rc != GOSSIP_PEEL_OK) {
        gossip_shell_dropped(s, rc, &ev.from);
        return;
    }
    (void)gossip_shell_step(s, &ev);
}

void gossip_net_send(struct gossip_shell *s, const struct gossip_addr *to, struct str bytes)
{
    struct sockaddr_storage sa;

    buf_reset(&s->packet);
    if (gossip_sock_to(to, s->family, &sa) != 0 ||
        gossip_wrap_packet(&s->layers, bytes, &s->packet) != 0) {
        s->send_drops++;
        return;
    }
    uv_buf_t b = { .base = s->packet.data, .len = s->packet.len };
    /* What does not go now is lost, as on any network. */
    if (uv_udp_try_send(&s->udp, &b, 1, (const struct sockaddr *)&sa) < 0) {
        s->send_drops++;
    }
}

static void connection(uv_stream_t *listener, int status)
{
    struct gossip_shell *s = listener->data;
    if (status == 0 && !s->closing) {
        gossip_stream_accept(s);
    }
}

int gossip_net_start(struct gossip_shell *s, int udp_fd, int tcp_fd, struct err *e)
{
    int rc = uv_udp_init_ex(s->loop->uv, &s->udp, AF_UNSPEC | UV_UDP_RECVMMSG);

    if (rc != 0) {
        (void)close(udp_fd);
        (void)close(tcp_fd);
        return err_set(e, rc, "gossip's socket");
    }
    loop_hold(&s->owner);
    s->udp.data = s;
    rc = uv_tcp_init(s->loop->uv, &s->listener);
    if (rc != 0) {
        (void)close(udp_fd);
        (void)close(tcp_fd);
        loop_handle_close(&s->owner, (uv_handle_t *)&s->udp);
        return err_set(e, rc, "gossip's socket");
    }
    loop_hold(&s->owner);
    s->listener.data = s;
    int udp_rc = uv_udp_open(&s->udp, udp_fd);
    int tcp_rc = uv_tcp_open(&s->listener, tcp_fd);
    if (udp_rc != 0) {
        (void)close(udp_fd);
    }
    if (tcp_rc != 0) {
        (void)close(tcp_fd);
    }
    rc = udp_rc != 0 ? udp_rc : tcp_rc;
    if (rc == 0) {
        rc = uv_udp_recv_start(&s->udp, datagram_alloc, datagram);
    }
    if (rc == 0) {
        rc = uv_listen((uv_stream_t *)&s->listener, LISTEN_BACKLOG, connection);
    }
    if (rc != 0) {
        loop_handle_close(&s->owner, (uv_handle_t *)&s->udp);
        loop_handle_close(&s->owner, (uv_handle_t *)&s->listener);
        return err_set(e, rc, "gossip's socket");
    }
    return 0;
}
