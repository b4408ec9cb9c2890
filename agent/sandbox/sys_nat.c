#include "agent/sandbox/sys_nat.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/inet_diag.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/sandbox/sandbox_netlink.h"
#include "agent/sandbox/sys_launcher.h"
#include "agent/sandbox/sys_netlink.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"

struct nat {
    struct nat_plan plan;
    struct nft_common common;
    bool table;     /* our table is there */
    bool forward6;  /* IPv6 is forwarded */
    int route, nft; /* netlink, in our own network namespace */
    int own;        /* that namespace */
    int sysfs;      /* an instance of it that shows our namespace's interfaces; -1 */
    struct buf out; /* what is sent next */
    uint32_t seq;
};

enum { NET_FILES = TELEMETRY_NET_TX_PACKETS - TELEMETRY_NET_RX_BYTES + 1 };

struct slot_nat {
    int netns;     /* -1: of an adopted run, unknown */
    int route;     /* netlink in it */
    int diag;      /* sock_diag in it */
    int in_use[2]; /* its /proc/net/sockstat and sockstat6 */
    bool rules;    /* the slot's chains are there */
    bool live;     /* a run is in it */
    uint16_t zone;
    uint32_t added; /* destinations, since the run began */
    int dns;        /* where its resolver asks */
    int files[NET_FILES];
};

/* ---- messages ---- */

static void start(struct nat *n, struct nl *m)
{
    buf_reset(&n->out);
    sandbox_nl_init(m, &n->out, n->seq);
}

static int call(struct nat *n, struct nl *m, int fd, struct err *e)
{
    n->seq = m->seq;
    return sandbox_netlink_call(fd, &n->out, e);
}

static void link_head(struct nl *m, uint16_t type, uint16_t flags, int index, unsigned up)
{
    const struct ifinfomsg i = {
        .ifi_family = AF_UNSPEC, .ifi_index = index, .ifi_flags = up, .ifi_change = up
    };
    sandbox_nl_begin(m, type, (uint16_t)(flags | NLM_F_ACK), &i, sizeof(i));
}

static int link_drop(struct nat *n, const char *name)
{
    struct nl m;
    start(n, &m);
    link_head(&m, RTM_DELLINK, 0, 0, 0);
    sandbox_nl_text(&m, IFLA_IFNAME, name);
    sandbox_nl_end(&m);
    return call(n, &m, n->route, NULL);
}

/* The host's end, and inside netns its peer, "eth0". */
static int link_make(struct nat *n, const char *name, int netns, struct err *e)
{
    const struct ifinfomsg peer = { .ifi_family = AF_UNSPEC };
    struct nl m;
    start(n, &m);
    link_head(&m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, 0);
    sandbox_nl_text(&m, IFLA_IFNAME, name);
    sandbox_nl_nest(&m, IFLA_LINKINFO);
    sandbox_nl_text(&m, IFLA_INFO_KIND, "veth");
    sandbox_nl_nest(&m, IFLA_INFO_DATA);
    sandbox_nl_nest(&m, VETH_INFO_PEER);
    buf_add(m.out, &peer, sizeof(peer));
    sandbox_nl_text(&m, IFLA_IFNAME, "eth0");
    sandbox_nl_u32(&m, IFLA_NET_NS_FD, (uint32_t)netns);
    sandbox_nl_unnest(&m);
    sandbox_nl_unnest(&m);
    sandbox_nl_unnest(&m);
    sandbox_nl_end(&m);
    int rc = call(n, &m, n->route, e);
    return rc < 0 ? err_prefix(e, "make the interface '%s' (veth)", name) : 0;
}

static void add_addr(struct nl *m, unsigned index, const uint8_t *addr, size_t len, uint8_t prefix)
{
    const struct ifaddrmsg a = { .ifa_family = len == 4 ? AF_INET : AF_INET6,
                                 .ifa_prefixlen = prefix,
                                 .ifa_index = index };
    sandbox_nl_begin(m, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK, &a, sizeof(a));
    sandbox_nl_put(m, IFA_LOCAL, addr, len);
    sandbox_nl_put(m, IFA_ADDRESS, addr, len);
    if (len == 16) {
        sandbox_nl_u32(m, IFA_FLAGS, IFA_F_NODAD); /* nobody else is there */
    }
    sandbox_nl_end(m);
}

static void add_default(struct nl *m, unsigned index, const uint8_t *via, size_t len)
{
    const struct rtmsg r = { .rtm_family = len == 4 ? AF_INET : AF_INET6,
                             .rtm_table = RT_TABLE_MAIN,
                             .rtm_protocol = RTPROT_STATIC,
                             .rtm_scope = RT_SCOPE_UNIVERSE,
                             .rtm_type = RTN_UNICAST };
    sandbox_nl_begin(m, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK, &r, sizeof(r));
    sandbox_nl_put(m, RTA_GATEWAY, via, len);
    sandbox_nl_u32(m, RTA_OIF, index);
    sandbox_nl_end(m);
}

static void add_up(struct nl *m, unsigned index)
{
    link_head(m, RTM_NEWLINK, 0, (int)index, IFF_UP);
    sandbox_nl_end(m);
}

static void take_index(void *arg, const struct nlmsghdr *h)
{
    if (h->nlmsg_type == RTM_NEWLINK && h->nlmsg_len >= NLMSG_LENGTH(sizeof(struct ifinfomsg))) {
        struct ifinfomsg i;
        size_t len = 0;
        size_t at = NLMSG_LENGTH(sizeof(i));
        memcpy(&i, (const char *)h + NLMSG_HDRLEN, sizeof(i));
        const char *name =
            sandbox_netlink_attr((const char *)h + at, h->nlmsg_len - at, IFLA_IFNAME, &len);
        if (name != NULL && len == 5 && memcmp(name, "eth0", 5) == 0) {
            *(unsigned *)arg = (unsigned)i.ifi_index;
        }
    }
}

/* Addresses, the way out, and up: in the slot's namespace. */
static int inside_setup(struct nat *n, const struct slot_nat *sn, const struct nat_addrs *a,
                        struct err *e)
{
    const struct ifinfomsg any = { .ifi_family = AF_UNSPEC };
    unsigned index = 0;
    struct nl m;
    start(n, &m);
    sandbox_nl_begin(&m, RTM_GETLINK, NLM_F_DUMP, &any, sizeof(any));
    sandbox_nl_end(&m);
    n->seq = m.seq;
    int rc = sandbox_netlink_dump(sn->route, &n->out, take_index, &index);
    if (rc < 0 || index == 0) {
        return err_set(e, rc < 0 ? rc : -ENODEV, "find the sandbox's interface");
    }
    start(n, &m);
    add_addr(&m, index, a->slot4, 4, 31);
    if (n->plan.has6 && n->forward6) {
        add_addr(&m, index, a->slot6, 16, 126);
    }
    add_up(&m, index);
    add_default(&m, index, a->host4, 4);
    if (n->plan.has6 && n->forward6) {
        add_default(&m, index, a->host6, 16);
    }
    rc = call(n, &m, sn->route, e);
    return rc < 0 ? err_prefix(e, "set up the sandbox's interface") : 0;
}

static int outside_setup(struct nat *n, const struct nat_addrs *a, struct err *e)
{
    char path[80];
    struct nl m;
    unsigned index = if_nametoindex(a->link);
    if (index == 0) {
        return err_set(e, -errno, "find the interface '%s'", a->link);
    }
    /* Ours alone: it routes, believes no router, and need not wait to be sure of its addresses. */
    snprintf(path, sizeof(path), "/proc/sys/net/ipv4/conf/%s/forwarding", a->link);
    (void)sys_write_text(AT_FDCWD, path, "1");
    snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/accept_ra", a->link);
    (void)sys_write_text(AT_FDCWD, path, "0");
    snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/accept_dad", a->link);
    (void)sys_write_text(AT_FDCWD, path, "0");
    start(n, &m);
    add_addr(&m, index, a->host4, 4, 31);
    if (n->plan.has6 && n->forward6) {
        add_addr(&m, index, a->host6, 16, 126);
    }
    add_up(&m, index);
    int rc = call(n, &m, n->route, e);
    return rc < 0 ? err_prefix(e, "set up the interface '%s'", a->link) : 0;
}

/* ---- the machine ---- */

static bool sysctl_on(const char *path)
{
    char text[8];
    return sys_read_text(AT_FDCWD, path, text, sizeof(text)) > 0 && text[0] != '0';
}

/* Switching IPv6 forwarding on makes the kernel forget the routes that it has from router
 * advertisements: never where there are any. */
static void has_ra_route(void *arg, const struct nlmsghdr *h)
{
    struct rtmsg r;
    if (h->nlmsg_type == RTM_NEWROUTE && h->nlmsg_len >= NLMSG_LENGTH(sizeof(r))) {
        memcpy(&r, (const char *)h + NLMSG_HDRLEN, sizeof(r));
        *(bool *)arg = *(bool *)arg || r.rtm_protocol == RTPROT_RA;
    }
}

static bool routes_by_ra(struct nat *n)
{
    const struct rtmsg r = { .rtm_family = AF_INET6 };
    bool found = false;
    struct nl m;
    start(n, &m);
    sandbox_nl_begin(&m, RTM_GETROUTE, NLM_F_DUMP, &r, sizeof(r));
    sandbox_nl_end(&m);
    n->seq = m.seq;
    return sandbox_netlink_dump(n->route, &n->out, has_ra_route, &found) < 0 || found;
}

static const char ip4_forward[] = "/proc/sys/net/ipv4/ip_forward";
static const char ip6_forward[] = "/proc/sys/net/ipv6/conf/all/forwarding";

/* What the table must know before anything is switched on: the machine then still routes nothing
 * but our slots. *ret_on: something is to be switched on. */
static int nat_forwarding(const struct settings *s, struct nat *n, bool *ret_on, struct err *e)
{
    struct nft_common *c = &n->common;
    bool on = sysctl_on(ip4_forward);
    *ret_on = false;
    if (!on && !s->sandbox.nat_forwarding) {
        return err_say(e, -EPERM,
                       "this machine does not forward packets, which network \"nat\" needs: set "
                       "net.ipv4.ip_forward = 1 (sysctl), or sandbox.nat_forwarding = yes");
    }
    if (!on) {
        c->forward4_ours = *ret_on = true;
    }
    if (s->sandbox.nat_forwarding && n->plan.has6 && !sysctl_on(ip6_forward) && !c->forward6_ours) {
        c->forward6_ours = !routes_by_ra(n);
        *ret_on = *ret_on || c->forward6_ours;
    }
    return 0;
}

static int nat_forward_on(struct nat *n, struct err *e)
{
    int rc = n->common.forward4_ours ? sys_write_text(AT_FDCWD, ip4_forward, "1") : 0;
    if (rc < 0) {
        return err_set(e, rc, "switch net.ipv4.ip_forward on (sandbox.nat_forwarding)");
    }
    if (n->common.forward6_ours && sys_write_text(AT_FDCWD, ip6_forward, "1") < 0) {
        log_warn("cannot switch net.ipv6.conf.all.forwarding on: runs have IPv4 only");
    }
    log_info("forwarding is on, for runs with a network only (sandbox.nat_forwarding)");
    return 0;
}

/* As it was before us. */
static void nat_forward_off(struct nat *n)
{
    if (n->common.forward4_ours) {
        (void)sys_write_text(AT_FDCWD, ip4_forward, "0");
    }
    if (n->common.forward6_ours) {
        (void)sys_write_text(AT_FDCWD, ip6_forward, "0");
    }
    n->common.forward4_ours = n->common.forward6_ours = false;
}

static void add_port(struct nft_common *c, const char *addr)
{
    char host[SETTINGS_TEXT_MAX];
    uint16_t port;
    if (c->ports_len < ARRAY_LEN(c->ports) && addr[0] != '\0' &&
        settings_addr_split(addr, host, sizeof(host), &port) == 0 && port != 0) {
        c->ports[c->ports_len++] = port;
    }
}

static void nat_common(const struct settings *s, struct nft_common *c)
{
    struct str rest = str_of(s->sandbox.nat_closed);
    struct str piece;
    struct err e = { 0 };
    c->closed_len = sandbox_nft_closed(c->closed, NFT_CLOSED_MAX);
    while (c->closed_len < NFT_CLOSED_MAX && str_split(&rest, ',', &piece)) {
        c->closed_len += egress_net_parse(piece, &c->closed[c->closed_len], &e) == 0;
    }
    rest = str_of(s->sandbox.nat_open);
    while (c->open_len < NFT_OPEN_MAX && str_split(&rest, ',', &piece)) {
        struct egress_rule r;
        if (egress_parse(piece, &r, &e) == 0 && egress_net_ok(&r.net)) {
            c->open[c->open_len++] = r.net;
        }
    }
    add_port(c, s->http.listen);
    add_port(c, s->gossip.listen);
}

static int nat_fill(struct launcher *l, struct nat *n, struct err *e)
{
    char machine[64] = "";
    const struct settings_sandbox *b = &l->settings->sandbox;
    const char *data_dir = l->settings->node.data_dir;
    (void)sys_read_text(l->host_root, "etc/machine-id", machine, sizeof(machine));
    int rc =
        sandbox_nat_plan((uint32_t)sandbox_checksum(data_dir, strlen(data_dir)), str_of(machine),
                         b->nat_pool4, b->nat_pool6, l->slots_len, &n->plan, e);
    if (rc < 0) {
        return rc;
    }
    n->own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    n->route = sandbox_netlink_open(NETLINK_ROUTE);
    n->nft = sandbox_netlink_open(NETLINK_NETFILTER);
    if (n->own < 0 || n->route < 0 || n->nft < 0) {
        return err_set(e, n->nft < 0 ? n->nft : -EIO, "open netlink");
    }
    AUTO_FD int fs = fsopen("sysfs", FSOPEN_CLOEXEC);
    if (fs >= 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) {
        n->sysfs = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
    }
    nat_common(l->settings, &n->common);
    return 0;
}

/* What every call of this file needs, made when it is first asked for; NULL: no nat on this
 * machine. */
static struct nat *nat_get(struct launcher *l, struct err *e)
{
    struct nat *n = l->nat;
    if (n != NULL) {
        return n;
    }
    n = mem_zalloc(sizeof(*n));
    if (n == NULL) {
        err_set(e, -ENOMEM, "network");
        return NULL;
    }
    n->route = n->nft = n->own = n->sysfs = -1;
    buf_init(&n->out, NL_BATCH_MAX);
    if (nat_fill(l, n, e) < 0) {
        fd_close(n->own);
        fd_close(n->route);
        fd_close(n->nft);
        mem_free(n);
        return NULL;
    }
    l->nat = n;
    return n;
}

/* The table, and forwarding. */
static int nat_up(const struct settings *s, struct nat *n, struct err *e)
{
    struct nl m;
    bool switch_on = false;
    int rc = nat_forwarding(s, n, &switch_on, e);
    if (rc < 0) {
        return rc;
    }
    if (n->table && !switch_on) {
        return 0;
    }
    start(n, &m);
    sandbox_nft_table(&m, &n->plan, &n->common);
    rc = call(n, &m, n->nft, e);
    if (rc < 0) {
        return err_prefix(e, "make the table '%s' (nf_tables)", n->plan.table);
    }
    n->table = true;
    rc = switch_on ? nat_forward_on(n, e) : 0;
    n->forward6 = n->plan.has6 && sysctl_on(ip6_forward);
    return rc;
}

/* ---- a slot ---- */

/* The counters as the sandbox sees them: what it receives, the host's end has sent. */
static void slot_files(struct nat *n, struct slot_nat *sn, const char *link)
{
    static const char *const names[NET_FILES] = { "tx_bytes", "rx_bytes", "tx_packets",
                                                  "rx_packets" };
    char path[96];
    for (size_t i = 0; i < NET_FILES; i++) {
        snprintf(path, sizeof(path), "class/net/%s/statistics/%s", link, names[i]);
        sn->files[i] = n->sysfs >= 0 ? openat(n->sysfs, path, O_RDONLY | O_CLOEXEC) : -1;
    }
}

static void slot_nat_free(struct slot *s)
{
    struct slot_nat *sn = s->nat;
    fd_close(sn->netns);
    fd_close(sn->route);
    fd_close(sn->diag);
    fd_close(sn->dns);
    fd_close(sn->in_use[0]);
    fd_close(sn->in_use[1]);
    for (size_t i = 0; i < NET_FILES; i++) {
        fd_close(sn->files[i]);
    }
    s->nat = mem_free(sn);
}

static struct slot_nat *slot_nat_new(void)
{
    struct slot_nat *sn = mem_zalloc(sizeof(*sn));
    if (sn != NULL) {
        sn->netns = sn->route = sn->diag = sn->dns = sn->in_use[0] = sn->in_use[1] = -1;
        for (size_t i = 0; i < NET_FILES; i++) {
            sn->files[i] = -1;
        }
        (void)!getrandom(&sn->zone, sizeof(sn->zone), 0);
    }
    return sn;
}

/* What a run's resolver asks: nothing of the node's own network is in the way, nor is its resolver
 * within reach. The agent answers. The address may still be held by an agent that is going. */
static int dns_open(void)
{
    const int on = 1;
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(53) };
    AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (inet_pton(AF_INET, SANDBOX_DNS_ADDR, &a.sin_addr) != 1 || fd < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0) {
        return -1;
    }
    return fd_take(&fd);
}

/* Sockets that belong to the slot's namespace. */
static int slot_sockets(struct nat *n, struct slot_nat *sn)
{
    int rc = setns(sn->netns, CLONE_NEWNET) < 0 ? -errno : 0;
    if (rc == 0) {
        sn->route = sandbox_netlink_open(NETLINK_ROUTE);
        sn->diag = sandbox_netlink_open(NETLINK_SOCK_DIAG);
        sn->dns = dns_open();
        sn->in_use[0] = open("/proc/self/net/sockstat", O_RDONLY | O_CLOEXEC);
        sn->in_use[1] = open("/proc/self/net/sockstat6", O_RDONLY | O_CLOEXEC);
        rc = sn->route < 0 ? sn->route : 0;
        int back = setns(n->own, CLONE_NEWNET);
        INSIST(back == 0); /* in the wrong namespace nothing that follows would be right */
    }
    return rc;
}

static int slot_make(struct nat *n, struct slot *s, struct err *e)
{
    struct nat_addrs a;
    struct slot_nat *sn = slot_nat_new();
    sandbox_nat_addrs(&n->plan, s->box.slot, &a);
    s->nat = sn;
    if (sn == NULL) {
        return err_set(e, -ENOMEM, "network");
    }
    int rc = sandbox_userns_netns(s->box.userns, &sn->netns, e);
    if (rc == 0 && (rc = slot_sockets(n, sn)) < 0) {
        err_set(e, rc, "enter the sandbox's network namespace");
    }
    if (rc == 0) {
        (void)link_drop(n, a.link); /* of a namespace that is still going */
        rc = link_make(n, a.link, sn->netns, e);
    }
    rc = rc == 0 ? outside_setup(n, &a, e) : rc;
    rc = rc == 0 ? inside_setup(n, sn, &a, e) : rc;
    if (rc < 0) {
        (void)link_drop(n, a.link);
        slot_nat_free(s);
        return rc;
    }
    slot_files(n, sn, a.link);
    return 0;
}

/* ---- what the last run left ---- */

struct left {
    struct nat *n;
    struct slot_nat *sn;
    unsigned count;
    struct buf kill; /* one request after the other */
    struct nl m;
};

/* Listeners are ours: no job's outlives its process. */
static void take_socket(void *arg, const struct nlmsghdr *h)
{
    struct left *left = arg;
    struct inet_diag_msg d;
    enum { LISTEN = 10 };
    if (h->nlmsg_len < NLMSG_LENGTH(sizeof(d))) {
        return;
    }
    memcpy(&d, (const char *)h + NLMSG_HDRLEN, sizeof(d));
    if (d.idiag_state == LISTEN) {
        return;
    }
    const struct inet_diag_req_v2 r = { .sdiag_family = d.idiag_family,
                                        .sdiag_protocol = IPPROTO_TCP,
                                        .idiag_states = UINT32_MAX,
                                        .id = d.id };
    left->count++;
    sandbox_nl_begin(&left->m, SOCK_DESTROY, NLM_F_ACK, &r, sizeof(r));
    sandbox_nl_end(&left->m);
}

/* TCP sockets that outlived their process are ended, before another run is there: they would go on
 * sending. 0: none is left. */
static int kill_sockets(struct nat *n, struct slot_nat *sn)
{
    static const uint8_t families[] = { AF_INET, AF_INET6 };
    struct left left = { .n = n, .sn = sn, .kill = BUF_INIT(NL_BATCH_MAX) };
    int rc = sn->diag < 0 ? -EBADF : 0;
    sandbox_nl_init(&left.m, &left.kill, 0);
    for (size_t i = 0; i < ARRAY_LEN(families) && rc == 0; i++) {
        const struct inet_diag_req_v2 r = { .sdiag_family = families[i],
                                            .sdiag_protocol = IPPROTO_TCP,
                                            .idiag_states = UINT32_MAX };
        struct nl m;
        start(n, &m);
        sandbox_nl_begin(&m, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &r, sizeof(r));
        sandbox_nl_end(&m);
        rc = sandbox_netlink_dump(sn->diag, &n->out, take_socket, &left);
    }
    if (rc == 0 && left.count > 0) {
        rc = sandbox_netlink_call(sn->diag, &left.kill, NULL);
        rc = rc == -ENOENT ? 0 : rc; /* it ended by itself meanwhile */
    }
    buf_release(&left.kill);
    return rc;
}

/* "TCP: inuse 0 …", "TCP6: inuse 0": a look that costs nothing, where asking for the sockets walks
 * the whole machine's. True also when nobody can tell. */
static bool sockets_left(const struct slot_nat *sn)
{
    for (size_t i = 0; i < ARRAY_LEN(sn->in_use); i++) {
        char text[512];
        ssize_t n =
            sn->in_use[i] < 0 ? -EBADF : sys_pread_full(sn->in_use[i], text, sizeof(text), 0);
        if (n < 0 && i == 1) {
            continue; /* no IPv6 here */
        }
        struct str rest = { text, n > 0 ? (size_t)n : 0 };
        struct str line;
        bool clean = false;
        while (str_split(&rest, '\n', &line)) {
            clean = clean || str_starts(line, "TCP: inuse 0 ") || str_eqs(line, "TCP6: inuse 0");
        }
        if (!clean) {
            return true;
        }
    }
    return false;
}

/* NULL: it cannot be had. */
static struct nat *slot_place(struct slot *s, struct err *e)
{
    struct launcher *l = s->l;
    if (!l->settings->sandbox.allow_nat) {
        err_say(e, -EPERM, "this node gives jobs no network (sandbox.allow_nat)");
        return NULL;
    }
    struct nat *n = nat_get(l, e);
    if (n == NULL || nat_up(l->settings, n, e) < 0 || (s->nat == NULL && slot_make(n, s, e) < 0)) {
        return NULL;
    }
    return n;
}

int sandbox_nat_place(struct slot *s, enum sandbox_network network, struct err *e)
{
    return network == SANDBOX_NETWORK_NAT && slot_place(s, e) == NULL ? e->code : 0;
}

int sandbox_nat_run(struct slot *s, const struct sandbox_spec *spec, struct err *e)
{
    if (spec->limits.network != SANDBOX_NETWORK_NAT) {
        return 0;
    }
    struct nat *n = slot_place(s, e);
    if (n == NULL) {
        return e->code;
    }
    struct slot_nat *sn = s->nat;
    struct nl m;
    int rc = sockets_left(sn) ? kill_sockets(n, sn) : 0;
    if (rc < 0) {
        sandbox_nat_slot_drop(s);
        return err_set(e, -EAGAIN, "end the sockets of the slot's last run");
    }
    sn->zone = sn->zone == UINT16_MAX || sn->zone == 0 ? 1 : (uint16_t)(sn->zone + 1);
    for (int tries = 0; tries < 2; tries++) {
        start(n, &m);
        sandbox_nft_slot(&m, &n->plan, s->box.slot, !sn->rules, sn->zone, &spec->egress);
        rc = call(n, &m, n->nft, e);
        if (rc != -ENOENT) {
            break;
        }
        n->table = sn->rules = false; /* somebody took the table away: again from its start */
        rc = nat_up(s->l->settings, n, e);
        if (rc < 0) {
            break;
        }
    }
    if (rc < 0) {
        sandbox_nat_slot_drop(s);
        return err_prefix(e, "set the run's network rules");
    }
    sn->rules = true;
    sn->live = true;
    sn->added = 0;
    return 0;
}

int sandbox_nat_netns(const struct slot *s)
{
    return s->nat != NULL ? s->nat->netns : -1;
}

bool sandbox_nat_ready(const struct slot *s)
{
    return s->nat != NULL;
}

static void attach_files(struct slot *s)
{
    for (size_t i = 0; i < NET_FILES; i++) {
        int *fd = &s->fds.fd[TELEMETRY_NET_RX_BYTES + i];
        fd_close(*fd);
        *fd = s->nat->files[i] >= 0 ? fd_dup(s->nat->files[i], 3) : -1;
    }
}

void sandbox_nat_base(struct slot *s)
{
    struct telemetry_fds net;
    struct telemetry_reading now;
    if (s->nat == NULL || !s->nat->live) {
        return;
    }
    attach_files(s);
    telemetry_fds_init(&net);
    memcpy(&net.fd[TELEMETRY_NET_RX_BYTES], s->nat->files, sizeof(s->nat->files));
    if (telemetry_read(&net, TELEMETRY_ALL, &now) == 0) {
        struct telemetry_reading *base = &s->file.base;
        base->has |= now.has;
        base->net_rx_bytes = now.net_rx_bytes;
        base->net_tx_bytes = now.net_tx_bytes;
        base->net_rx_packets = now.net_rx_packets;
        base->net_tx_packets = now.net_tx_packets;
    }
}

int sandbox_nat_egress(struct slot *s, const struct egress_net *nets, size_t nets_len,
                       struct err *e)
{
    struct nl m;
    struct nat *n = s->l->nat;
    if (s->nat == NULL || !s->nat->live || n == NULL) {
        return err_say(e, -ENOENT, "the run has no network");
    }
    if (s->nat->added + nets_len > SANDBOX_EGRESS_MAX) {
        return err_say(e, -ENOBUFS, "the run's names have more than %d addresses",
                       SANDBOX_EGRESS_MAX);
    }
    start(n, &m);
    sandbox_nft_egress(&m, &n->plan, s->box.slot, nets, nets_len);
    int rc = call(n, &m, n->nft, e);
    s->nat->added += rc == 0 ? (uint32_t)nets_len : 0;
    return rc;
}

int sandbox_nat_dns(const struct slot *s)
{
    return s->nat != NULL && s->nat->live ? s->nat->dns : -1;
}

/* ---- the end of a run ---- */

void sandbox_nat_run_over(struct slot *s)
{
    if (s->nat == NULL || !s->nat->live) {
        return;
    }
    char question[64];
    s->nat->live = false;
    while (s->nat->dns >= 0 && recv(s->nat->dns, question, sizeof(question), MSG_DONTWAIT) >= 0) {
    }
    for (size_t i = 0; i < NET_FILES; i++) {
        int *fd = &s->fds.fd[TELEMETRY_NET_RX_BYTES + i];
        *fd = fd_close(*fd);
    }
    if (s->nat->netns < 0) {
        sandbox_nat_slot_drop(s); /* the next run gets another namespace */
    }
}

void sandbox_nat_slot_drop(struct slot *s)
{
    struct nat *n = s->l->nat;
    if (s->nat == NULL || n == NULL) {
        return;
    }
    struct nat_addrs a;
    struct nl m;
    sandbox_nat_addrs(&n->plan, s->box.slot, &a);
    (void)link_drop(n, a.link);
    if (s->nat->rules) {
        start(n, &m);
        sandbox_nft_slot_drop(&m, &n->plan, s->box.slot);
        (void)call(n, &m, n->nft, NULL);
    }
    slot_nat_free(s);
}

/* ---- start and end of the launcher ---- */

void sandbox_nat_adopt(struct slot *s)
{
    struct err e = { 0 };
    struct nat_addrs a;
    char path[64];
    struct nat *n = nat_get(s->l, &e);
    struct slot_nat *sn = n != NULL ? slot_nat_new() : NULL;
    if (n == NULL || sn == NULL) {
        log_warn("slot %u: its network: %s", s->box.slot, e.text);
        return;
    }
    s->nat = sn;
    sandbox_nat_addrs(&n->plan, s->box.slot, &a);
    sn->live = sn->rules = true;
    snprintf(path, sizeof(path), "/proc/%lld/ns/net", (long long)s->file.pid);
    sn->netns = open(path, O_RDONLY | O_CLOEXEC);
    if (sn->netns >= 0) {
        (void)slot_sockets(n, sn);
    }
    slot_files(n, sn, a.link);
    attach_files(s);
}

static bool any_live(const struct launcher *l)
{
    for (uint32_t i = 0; i < l->slots_len; i++) {
        if (l->slots[i].nat != NULL && l->slots[i].nat->live) {
            return true;
        }
    }
    return false;
}

struct sweep {
    const char *prefix;
    uint32_t slots[SANDBOX_SLOTS_MAX / 32];
    bool any;
};

static void take_ours(void *arg, const struct nlmsghdr *h)
{
    struct sweep *w = arg;
    size_t at = NLMSG_LENGTH(sizeof(struct ifinfomsg));
    size_t len = 0;
    uint64_t slot;
    if (h->nlmsg_type != RTM_NEWLINK || h->nlmsg_len < at) {
        return;
    }
    const char *name =
        sandbox_netlink_attr((const char *)h + at, h->nlmsg_len - at, IFLA_IFNAME, &len);
    struct str s = { name, name != NULL && len > 0 ? len - 1 : 0 };
    if (s.n != 0 && str_starts(s, w->prefix) &&
        str_u64_in(str_slice(s, strlen(w->prefix), s.n), 0, SANDBOX_SLOTS_MAX - 1, &slot) == 0) {
        w->slots[slot / 32] |= BIT(slot % 32);
        w->any = true;
    }
}

/* Interfaces of ours that no live run has. */
static void sweep_links(struct launcher *l, struct nat *n)
{
    const struct ifinfomsg any = { .ifi_family = AF_UNSPEC };
    struct sweep w = { .prefix = n->plan.prefix };
    struct nl m;
    start(n, &m);
    sandbox_nl_begin(&m, RTM_GETLINK, NLM_F_DUMP, &any, sizeof(any));
    sandbox_nl_end(&m);
    n->seq = m.seq;
    (void)sandbox_netlink_dump(n->route, &n->out, take_ours, &w);
    for (uint32_t i = 0; i < SANDBOX_SLOTS_MAX && w.any; i++) {
        struct nat_addrs a;
        bool live = i < l->slots_len && l->slots[i].nat != NULL;
        if ((w.slots[i / 32] & BIT(i % 32)) != 0 && !live) {
            sandbox_nat_addrs(&n->plan, i, &a);
            (void)link_drop(n, a.link);
        }
    }
}

static void drop_table(struct nat *n)
{
    struct nl m;
    start(n, &m);
    sandbox_nft_drop(&m, &n->plan);
    (void)call(n, &m, n->nft, NULL);
    n->table = false;
}

static bool find_mark(struct nat *n, enum nft_mark mark)
{
    struct nl m;
    start(n, &m);
    sandbox_nft_find(&m, &n->plan, mark);
    return call(n, &m, n->nft, NULL) == 0;
}

void sandbox_nat_start(struct launcher *l)
{
    struct err e = { 0 };
    struct nat *n = nat_get(l, &e);
    if (n == NULL) {
        log_debug("no network for runs: %s", e.text);
        return;
    }
    sweep_links(l, n);
    n->common.forward4_ours = find_mark(n, NFT_MARK_FORWARD4);
    n->common.forward6_ours = find_mark(n, NFT_MARK_FORWARD6);
    if (!any_live(l)) {
        nat_forward_off(n);
        drop_table(n);
    } else if (nat_up(l->settings, n, &e) < 0) {
        log_warn("the network of live runs: %s", e.text);
    }
}

void sandbox_nat_end(struct launcher *l)
{
    struct nat *n = l->nat;
    if (n == NULL) {
        return;
    }
    for (uint32_t i = 0; i < l->slots_len; i++) {
        if (l->slots[i].nat != NULL && !l->slots[i].nat->live) {
            sandbox_nat_slot_drop(&l->slots[i]);
        }
    }
    if (!any_live(l) && n->table) {
        nat_forward_off(n);
        drop_table(n);
    }
}
