/* What network nat needs, tried in network namespaces of our own. */
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/cli/sys_doctor.h"
#include "common/insist.h"
#include "common/sys/sys.h"

/* Messages for one send(); small, and all ours: they fit. */
struct messages {
    _Alignas(4) char p[1024];
    size_t n;
    size_t begin;
};

static void add(struct messages *m, const void *p, size_t n)
{
    INSIST(m->n + n + 4 <= sizeof(m->p));
    if (n != 0) {
        memcpy(m->p + m->n, p, n);
    }
    m->n = (m->n + n + 3) & ~(size_t)3;
}

static void begin(struct messages *m, unsigned type, unsigned flags, const void *family, size_t n)
{
    const struct nlmsghdr h = { .nlmsg_type = (uint16_t)type,
                                .nlmsg_flags = (uint16_t)(flags | NLM_F_REQUEST) };
    m->begin = m->n;
    add(m, &h, sizeof(h));
    add(m, family, n);
}

static void end(struct messages *m)
{
    uint32_t n = (uint32_t)(m->n - m->begin);
    memcpy(m->p + m->begin, &n, sizeof(n));
}

static size_t attr(struct messages *m, unsigned type, const void *p, size_t n)
{
    const struct nlattr a = { .nla_len = (uint16_t)(sizeof(a) + n), .nla_type = (uint16_t)type };
    size_t at = m->n;
    add(m, &a, sizeof(a));
    add(m, p, n);
    return at;
}

static void nested(struct messages *m, size_t at)
{
    uint16_t n = (uint16_t)(m->n - at);
    memcpy(m->p + at, &n, sizeof(n));
}

/* Sends, and looks at what comes back: 0 or an errno value. */
static int ask(int protocol, const struct messages *m)
{
    _Alignas(8) char answer[4096];
    AUTO_FD int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (fd < 0 || send(fd, m->p, m->n, 0) < 0) {
        return errno;
    }
    int code = EPROTO; /* an acknowledgement was asked for */
    for (ssize_t n = 0; (n = recv(fd, answer, sizeof(answer), MSG_DONTWAIT)) > 0;) {
        struct nlmsghdr h;
        struct nlmsgerr e;
        memcpy(&h, answer, sizeof(h));
        if (n >= (ssize_t)(sizeof(h) + sizeof(e)) && h.nlmsg_type == NLMSG_ERROR) {
            memcpy(&e, answer + NLMSG_HDRLEN, sizeof(e));
            if (e.error != 0) {
                return -e.error;
            }
            code = 0;
        }
    }
    return code;
}

static int try_veth(void)
{
    struct messages m = { .n = 0 };
    const struct ifinfomsg i = { .ifi_family = AF_UNSPEC };
    begin(&m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &i, sizeof(i));
    size_t info = attr(&m, IFLA_LINKINFO, NULL, 0);
    attr(&m, IFLA_INFO_KIND, "veth", 5);
    nested(&m, info);
    end(&m);
    return ask(NETLINK_ROUTE, &m);
}

/* A table with a chain that translates addresses, and one rule that masquerades. */
static int try_nft(void)
{
    struct messages m = { .n = 0 };
    const struct nfgenmsg batch = { .res_id = (uint16_t)(NFNL_SUBSYS_NFTABLES << 8) };
    const struct nfgenmsg inet = { .nfgen_family = NFPROTO_INET };
    static const char hook[4] = { 0, 0, 0, NF_INET_POST_ROUTING };
    static const char priority[4] = { 0, 0, 0, 100 };
    const unsigned type = NFNL_SUBSYS_NFTABLES << 8;
    begin(&m, NFNL_MSG_BATCH_BEGIN, 0, &batch, sizeof(batch));
    end(&m);
    begin(&m, type | NFT_MSG_NEWTABLE, NLM_F_CREATE, &inet, sizeof(inet));
    attr(&m, NFTA_TABLE_NAME, "t", 2);
    end(&m);
    begin(&m, type | NFT_MSG_NEWCHAIN, NLM_F_CREATE, &inet, sizeof(inet));
    attr(&m, NFTA_CHAIN_TABLE, "t", 2);
    attr(&m, NFTA_CHAIN_NAME, "c", 2);
    size_t at = attr(&m, NFTA_CHAIN_HOOK | NLA_F_NESTED, NULL, 0);
    attr(&m, NFTA_HOOK_HOOKNUM, hook, sizeof(hook));
    attr(&m, NFTA_HOOK_PRIORITY, priority, sizeof(priority));
    nested(&m, at);
    attr(&m, NFTA_CHAIN_TYPE, "nat", 4);
    end(&m);
    begin(&m, type | NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK, &inet, sizeof(inet));
    attr(&m, NFTA_RULE_TABLE, "t", 2);
    attr(&m, NFTA_RULE_CHAIN, "c", 2);
    at = attr(&m, NFTA_RULE_EXPRESSIONS | NLA_F_NESTED, NULL, 0);
    size_t one = attr(&m, NFTA_LIST_ELEM | NLA_F_NESTED, NULL, 0);
    attr(&m, NFTA_EXPR_NAME, "masq", 5);
    nested(&m, one);
    nested(&m, at);
    end(&m);
    begin(&m, NFNL_MSG_BATCH_END, 0, &batch, sizeof(batch));
    end(&m);
    return ask(NETLINK_NETFILTER, &m);
}

/* In a network namespace that goes with the child. 0 or an errno value. */
static int in_namespace(int (*fn)(void))
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit((unshare(CLONE_NEWNET) == 0 ? fn() : errno) & 0xff);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return pid < 0 ? errno : WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
}

static void one(struct cli_doctor *d, enum cli_check check, int (*fn)(void), const char *text)
{
    int code = in_namespace(fn);
    const char *why = strerrordesc_np(code);
    if (code == 0) {
        cli_doctor_note(d, check, CLI_OK, "%s", text);
    } else {
        cli_doctor_note(d, check, CLI_WARN, "%s", why != NULL ? why : "it died");
    }
}

static bool on(const char *path)
{
    char text[8];
    return sys_read_text(AT_FDCWD, path, text, sizeof(text)) > 0 && text[0] != '0';
}

void cli_doctor_network(struct cli_doctor *d, const struct settings *s)
{
    static const enum cli_check all[] = { CLI_CHECK_VETH, CLI_CHECK_NFT, CLI_CHECK_FORWARD };
    if (!s->sandbox.allow_nat || geteuid() != 0) {
        for (size_t i = 0; i < ARRAY_LEN(all); i++) {
            cli_doctor_note(d, all[i], CLI_SKIPPED, "%s",
                            s->sandbox.allow_nat ? "needs root to try" : "sandbox.allow_nat = no");
        }
        return;
    }
    one(d, CLI_CHECK_VETH, try_veth, "made a pair of interfaces");
    one(d, CLI_CHECK_NFT, try_nft, "made a table that translates addresses");
    bool four = on("/proc/sys/net/ipv4/ip_forward");
    bool six = on("/proc/sys/net/ipv6/conf/all/forwarding");
    if (four && six) {
        cli_doctor_note(d, CLI_CHECK_FORWARD, CLI_OK, "IPv4 and IPv6");
    } else if (four || s->sandbox.nat_forwarding) {
        cli_doctor_note(d, CLI_CHECK_FORWARD, CLI_OK, "%s",
                        s->sandbox.nat_forwarding ? "switched on when a run needs it"
                                                  : "IPv4 only: runs have no IPv6");
    } else {
        cli_doctor_note(d, CLI_CHECK_FORWARD, CLI_WARN, "off");
    }
}
