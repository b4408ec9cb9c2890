/* The agent process: one loop that joins node, registry and API, and what signals do to them. */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/api/api.h"
#include "agent/daemon.h"
#include "agent/gossip/uv_gossip.h"
#include "agent/image/uv_registry.h"
#include "agent/node/uv_node.h"
#include "agent/sandbox/sandbox.h"
#include "agent/secrets.h"
#include "common/digest.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/loop/loop.h"
#include "common/sys/sys.h"
#include "common/sys/sys_settings.h"
#include "common/sys/sys_token.h"
#include "common/version.h"

enum {
    HTTP_FD = SANDBOX_LISTEN_FD + DAEMON_FD_HTTP,
    SETTINGS_FD = SANDBOX_LISTEN_FD + DAEMON_FD_SETTINGS,
    SECRETS_FD = SANDBOX_LISTEN_FD + DAEMON_FD_SECRETS,
    GOSSIP_UDP_FD = SANDBOX_LISTEN_FD + DAEMON_FD_GOSSIP_UDP,
    GOSSIP_TCP_FD = SANDBOX_LISTEN_FD + DAEMON_FD_GOSSIP_TCP,
    CERT_SOON_S = 30 * 86400,
    CLOSE_GRACE_MS = 1000, /* for open requests once nothing runs any more */
};

struct daemon {
    uv_loop_t uv;
    struct loop loop;
    struct loop_owner owner;
    uv_signal_t term, intr, quit, hup, usr1;
    struct settings settings;
    struct buf gossip_keys;         /* until gossip has them */
    struct tls_context *tls_server; /* NULL: plain HTTP */
    struct tls_context *tls_client; /* for calls to other nodes; NULL as well then */
    const char *config;
    const char *const *overrides;
    size_t overrides_len;
    struct node *node;
    struct image_registry *registry;
    struct api *api;
    struct gossip_shell *gossip; /* NULL when gossip.listen is not set */
    bool draining, closing, leaving;
    int status;
};

/* ---- the end ---- */

static void signals_closed(struct loop_owner *o)
{
    (void)o; /* the loop runs empty and uv_run() returns */
}

static void node_closed(void *arg)
{
    struct daemon *d = arg;

    loop_handle_close(&d->owner, (uv_handle_t *)&d->term);
    loop_handle_close(&d->owner, (uv_handle_t *)&d->intr);
    loop_handle_close(&d->owner, (uv_handle_t *)&d->quit);
    loop_handle_close(&d->owner, (uv_handle_t *)&d->hup);
    loop_handle_close(&d->owner, (uv_handle_t *)&d->usr1);
    loop_owner_close(&d->owner);
}

static void gossip_closed(void *arg)
{
    struct daemon *d = arg;

    node_close(d->node, node_closed, d);
}

static void registry_closed(void *arg)
{
    struct daemon *d = arg;

    if (d->gossip == NULL) {
        gossip_closed(d);
        return;
    }
    struct gossip_shell *gossip = d->gossip;
    d->gossip = NULL;
    gossip_shell_close(gossip, gossip_closed, d);
}

static void api_closed(void *arg)
{
    struct daemon *d = arg;

    image_registry_close(d->registry, registry_closed, d);
}

static void close_all(struct daemon *d, int status, unsigned grace_ms)
{
    if (!d->closing) {
        d->closing = true;
        d->status = d->leaving && status == 0 ? SANDBOX_AGENT_DONE : status;
        api_close(d->api, grace_ms, api_closed, d);
    }
}

static void on_left(void *arg)
{
    close_all(arg, 0, CLOSE_GRACE_MS);
}

static void on_drained(void *arg)
{
    struct daemon *d = arg;

    log_info("nothing runs any more");
    if (d->gossip != NULL && !d->closing) {
        gossip_shell_leave(d->gossip, on_left, d);
    } else {
        close_all(d, 0, CLOSE_GRACE_MS);
    }
}

static void on_term(uv_signal_t *h, int signum)
{
    struct daemon *d = h->data;

    if (d->draining) {
        close_all(d, 0, 0);
        return;
    }
    d->draining = true;
    log_info("%s: no new runs; those that run get %llu ms",
             signum == SIGTERM ? "SIGTERM" : "SIGINT",
             (unsigned long long)d->settings.sandbox.grace_ms);
    node_drain(d->node, d->settings.sandbox.grace_ms, on_drained, d);
}

/* POST /v1/nodes/{node}/leave */
static void leave(void *arg)
{
    struct daemon *d = arg;

    if (!d->draining) {
        d->draining = true;
        d->leaving = true;
        log_info("leaving the cluster: no new runs; those that run get %llu ms",
                 (unsigned long long)d->settings.sandbox.grace_ms);
        node_drain(d->node, d->settings.sandbox.grace_ms, on_drained, d);
    }
}

static void on_quit(uv_signal_t *h, int signum)
{
    struct daemon *d = h->data;

    (void)signum;
    log_info("SIGQUIT: leaving; what runs goes on and is taken up by the next start");
    close_all(d, 0, 0);
}

/* What can be reloaded is taken from the files again, all or nothing; names of what cannot go to
 * `kept`. */
static int reload(struct daemon *d, size_t *ret_taken, struct buf *kept,
                  struct token_table **ret_tokens, struct err *e)
{
    AUTO_TOKEN_TABLE struct token_table *tokens = NULL;
    struct settings next;
    int rc = sys_settings_load(d->config, d->overrides, d->overrides_len, &next, e);

    if (rc == 0) {
        rc = sys_token_load(next.auth.tokens_file, next.node.user, &tokens, e);
    }
    if (rc == 0) {
        rc = settings_reload(&d->settings, &next, ret_taken, kept, e);
    }
    if (rc == 0) {
        log_set_level((enum log_level)d->settings.log.level);
        *ret_tokens = tokens;
        tokens = NULL;
    }
    return rc;
}

/* ---- certificates and keys ---- */

/* Makes the contexts, or gives those that are there what the files say now. */
static int tls_take(struct daemon *d, const struct daemon_secrets *s, struct err *e)
{
    const struct tls_config server = daemon_secrets_tls(s, true);
    const struct tls_config client = daemon_secrets_tls(s, false);
    int rc = daemon_secrets_check(s, &d->settings, e);

    if (s->items[DAEMON_TLS_CERT].len == 0 || rc != 0) {
        return rc;
    }
    rc = d->tls_server == NULL ? tls_context_new(&server, &d->tls_server, e)
                               : tls_context_reload(d->tls_server, &server, e);
    if (rc == 0) {
        rc = d->tls_client == NULL ? tls_context_new(&client, &d->tls_client, e)
                                   : tls_context_reload(d->tls_client, &client, e);
    }
    return rc;
}

static int secrets_take(struct daemon *d, struct err *e)
{
    struct daemon_secrets s;

    daemon_secrets_init(&s);
    int rc = daemon_secrets_take(SECRETS_FD, &s, e);
    rc = rc == 0 ? tls_take(d, &s, e) : rc;
    int64_t left = d->tls_server == NULL
                       ? INT64_MAX
                       : tls_context_not_after(d->tls_server) - sys_wall_us() / 1000000;
    if (rc == 0 && left < (int64_t)CERT_SOON_S) {
        log_warn("the certificate ends in %lld days", (long long)(left / 86400));
    }
    if (rc == 0 && d->gossip != NULL) {
        rc = gossip_shell_set_keys(d->gossip, buf_str(&s.items[DAEMON_GOSSIP_KEYS]), e);
    } else if (rc == 0) {
        d->gossip_keys = s.items[DAEMON_GOSSIP_KEYS];
        buf_init(&s.items[DAEMON_GOSSIP_KEYS], 0);
    }
    daemon_secrets_release(&s);
    return rc;
}

static void on_usr1(uv_signal_t *h, int signum)
{
    struct daemon *d = h->data;
    struct err e = { .code = 0 };

    (void)signum;
    if (secrets_take(d, &e) != 0) {
        log_error("certificates and keys stay as they were: %s", err_text(&e));
    } else {
        log_info("audit: certificates and keys were read again");
    }
}

static void proxy(struct daemon *d)
{
    image_registry_proxy(d->registry,
                         d->settings.registry.proxy ? node_image_puller(d->node) : NULL);
}

static void on_hup(uv_signal_t *h, int signum)
{
    struct daemon *d = h->data;
    AUTO_BUF struct buf kept = BUF_INIT(64 * 1024);
    AUTO_TOKEN_TABLE struct token_table *tokens = NULL;
    struct err e = { .code = 0 };
    size_t taken = 0;

    (void)signum;
    if (reload(d, &taken, &kept, &tokens, &e) != 0) {
        log_error("SIGHUP: configuration and tokens stay as they were: %s", err_text(&e));
        return;
    }
    size_t known = tokens != NULL ? token_table_len(tokens) : 0;
    api_set_tokens(d->api, tokens);
    tokens = NULL;
    node_reload(d->node, &d->settings);
    proxy(d);
    log_info("SIGHUP: %zu settings changed, %zu tokens known", taken, known);
    if (kept.len != 0) {
        log_warn("SIGHUP: these need a restart: %s", buf_cstr(&kept));
    }
}

/* ---- the start ---- */

static void on_ready(void *arg)
{
    struct daemon *d = arg;

    log_info("agent %s (%s) serves on %s as '%s'", version_number, version_revision,
             d->settings.http.listen, d->settings.node.name);
}

static void on_broken(void *arg, const char *why)
{
    struct daemon *d = arg;

    log_error("leaving: %s", why);
    close_all(d, 1, 0);
}

static void signal_on(struct daemon *d, uv_signal_t *h, int signum, uv_signal_cb fn)
{
    INSIST(uv_signal_init(&d->uv, h) == 0);
    loop_hold(&d->owner);
    h->data = d;
    INSIST(uv_signal_start(h, fn, signum) == 0);
}

static void to_registry(void *arg, struct http_req *req)
{
    struct daemon *d = arg;

    image_registry_handle(d->registry, req);
}

/* The members, for GET /v1/members. */
static void members_json(void *arg, struct json_w *w)
{
    const struct daemon *d = arg;

    if (d->gossip != NULL) {
        gossip_shell_json(d->gossip, w);
    } else {
        json_w_arr(w);
        json_w_end(w);
    }
}

/* The rows of the shared table, for GET /v1/table. */
static int table_rows(void *arg, struct str type, struct str after, size_t limit, struct buf *out)
{
    const struct daemon *d = arg;
    unsigned number = table_type_of(type);

    if (type.n != 0 && number == 0) {
        return -EINVAL;
    }
    return table_json(node_table(d->node), number, after, limit, out);
}

static void tls_metrics(const struct daemon *d, struct buf *out)
{
    if (d->tls_server == NULL) {
        return;
    }
    const struct tls_stats *in = tls_context_stats(d->tls_server);
    const struct tls_stats *to = tls_context_stats(d->tls_client);
    (void)buf_addf(out,
                   "# HELP agent_tls_certificate_not_after_seconds When the node's certificate "
                   "ends, in seconds since 1970.\n"
                   "# TYPE agent_tls_certificate_not_after_seconds gauge\n"
                   "agent_tls_certificate_not_after_seconds %lld\n",
                   (long long)tls_context_not_after(d->tls_server));
    (void)buf_addf(out,
                   "# HELP agent_tls_handshakes_total TLS handshakes, by side and how they went.\n"
                   "# TYPE agent_tls_handshakes_total counter\n"
                   "agent_tls_handshakes_total{side=\"server\",result=\"full\"} %llu\n"
                   "agent_tls_handshakes_total{side=\"server\",result=\"resumed\"} %llu\n"
                   "agent_tls_handshakes_total{side=\"server\",result=\"failed\"} %llu\n"
                   "agent_tls_handshakes_total{side=\"client\",result=\"full\"} %llu\n"
                   "agent_tls_handshakes_total{side=\"client\",result=\"resumed\"} %llu\n"
                   "agent_tls_handshakes_total{side=\"client\",result=\"failed\"} %llu\n",
                   (unsigned long long)(in->handshakes_total - in->resumed_total),
                   (unsigned long long)in->resumed_total, (unsigned long long)in->failed_total,
                   (unsigned long long)(to->handshakes_total - to->resumed_total),
                   (unsigned long long)to->resumed_total, (unsigned long long)to->failed_total);
}

static void more_metrics(void *arg, struct buf *out)
{
    const struct daemon *d = arg;

    if (d->gossip != NULL) {
        gossip_shell_metrics(d->gossip, out);
    }
    table_metrics(node_table(d->node), out);
    tls_metrics(d, out);
}

/* Where others find our API: the gossip address with this port, unless http.advertise names
 * another host. */
static void http_place(const struct settings *s, struct gossip_meta *m)
{
    const char *at = s->http.advertise[0] != '\0' ? s->http.advertise : s->http.listen;
    char host[SETTINGS_TEXT_MAX];
    struct gossip_addr a;

    if (settings_addr_split(at, host, sizeof(host), &m->http_port) == 0 &&
        s->http.advertise[0] != '\0' && gossip_addr_parse(str_of(at), &a) == 0) {
        m->http_ip_len = a.len;
        memcpy(m->http_ip, a.ip, a.len);
    }
    m->features |= s->http.tls_cert[0] != '\0' ? GOSSIP_FEATURE_TLS : 0;
}

static void on_member(void *arg, enum gossip_change change, const struct gossip_view *m)
{
    const struct daemon *d = arg;

    node_on_member(d->node, change, m);
}

static void on_message(void *arg, struct str from, uint8_t channel, struct str bytes)
{
    const struct daemon *d = arg;

    if (channel == GOSSIP_CHANNEL_TABLE) {
        node_on_message(d->node, from, bytes);
    }
}

static void to_member(void *arg, struct str peer, struct str bytes, bool reliable)
{
    const struct daemon *d = arg;

    if (d->gossip != NULL) {
        (void)gossip_shell_send(d->gossip, peer, GOSSIP_CHANNEL_TABLE, bytes.p, bytes.n, reliable);
    }
}

static int gossip_start(struct daemon *d, struct err *e)
{
    char dir[SETTINGS_PATH_MAX + 8];
    struct gossip_options opt = { .loop = &d->loop,
                                  .name = d->settings.node.name,
                                  .settings = &d->settings.gossip,
                                  .keys = buf_str(&d->gossip_keys),
                                  .data_dir = dir,
                                  .udp_fd = GOSSIP_UDP_FD,
                                  .tcp_fd = GOSSIP_TCP_FD,
                                  .on_member = on_member,
                                  .on_message = on_message,
                                  .arg = d };

    if (d->settings.gossip.listen[0] == '\0') {
        return 0;
    }
    (void)snprintf(dir, sizeof(dir), "%s/db", d->settings.node.data_dir);
    http_place(&d->settings, &opt.meta);
    node_set_sender(d->node, to_member, d);
    int rc = gossip_shell_start(&opt, &d->gossip, e);
    if (d->gossip_keys.data != NULL) {
        mem_wipe(d->gossip_keys.data, d->gossip_keys.cap);
    }
    buf_release(&d->gossip_keys);
    return rc;
}

static int start(struct daemon *d, struct err *e)
{
    const struct node_options node = { .loop = &d->loop,
                                       .settings = &d->settings,
                                       .launcher_fd = SANDBOX_AGENT_FD,
                                       .tls = d->tls_client,
                                       .on_ready = on_ready,
                                       .on_broken = on_broken,
                                       .arg = d };
    struct token_table *tokens = NULL;
    int rc = node_start(&node, &d->node, e);

    if (rc != 0) {
        return rc;
    }
    rc = image_registry_new(&d->loop, node_images(d->node), &d->registry, e);
    if (rc != 0) {
        return rc;
    }
    proxy(d);
    rc = gossip_start(d, e);
    if (rc != 0) {
        return rc;
    }
    rc = sys_token_load(d->settings.auth.tokens_file, d->settings.node.user, &tokens, e);
    if (rc != 0) {
        return rc;
    }
    const struct api_options api = { .node = d->node,
                                     .listen_fd = HTTP_FD,
                                     .tls = d->tls_server,
                                     .registry = to_registry,
                                     .registry_arg = d,
                                     .registry_error = image_registry_error,
                                     .members = members_json,
                                     .table = table_rows,
                                     .metrics = more_metrics,
                                     .leave = leave,
                                     .arg = d,
                                     .tokens = tokens };
    return api_start(&api, &d->api, e);
}

static int settings_take(struct settings *ret, struct err *e)
{
    AUTO_FD int fd = SETTINGS_FD;
    struct stat st;

    if (fstat(fd, &st) != 0 || st.st_size != sizeof(*ret) ||
        sys_pread_full(fd, ret, sizeof(*ret), 0) != (ssize_t)sizeof(*ret)) {
        return err_say(e, -EINVAL, "'%s' is started by 'agent serve' only", DAEMON_AGENT_WORD);
    }
    return 0;
}

int daemon_agent(int argc, char **argv)
{
    static struct daemon d;
    struct err e = { .code = 0 };

    sys_log_init(LOG_INFO, LOG_TEXT, "agent");
    if (settings_take(&d.settings, &e) != 0) {
        log_error("%s", err_text(&e));
        return 2;
    }
    sys_log_init((enum log_level)d.settings.log.level, (enum log_format)d.settings.log.format,
                 "agent");
    if (sandbox_agent_confine(&e) != 0) {
        log_error("%s", err_text(&e));
        return 1;
    }
    d.config = argc > 2 && argv[2][0] != '\0' ? argv[2] : NULL;
    d.overrides = (const char *const *)(argv + 3);
    d.overrides_len = argc > 3 ? (size_t)(argc - 3) : 0;
    /* The launcher's copy is from its own start: an agent process that took another's place would
     * go back behind the last SIGHUP. */
    AUTO_TOKEN_TABLE struct token_table *tokens = NULL; /* start() reads them for itself */
    size_t taken = 0;
    if (d.config != NULL && reload(&d, &taken, NULL, &tokens, &e) != 0) {
        log_warn("the configuration of the launcher's start holds: %s", err_text(&e));
    }
    /* One disk wants few threads, and each costs stack. */
    (void)setenv("UV_THREADPOOL_SIZE", "4", 0);
    INSIST(uv_loop_init(&d.uv) == 0 && loop_init(&d.loop, &d.uv) == 0);
    loop_owner_init(&d.owner, &d.loop, signals_closed);
    (void)signal(SIGPIPE, SIG_IGN);
    if (secrets_take(&d, &e) != 0 || start(&d, &e) != 0) {
        log_error("%s", err_text(&e));
        return 1;
    }
    signal_on(&d, &d.term, SIGTERM, on_term);
    signal_on(&d, &d.intr, SIGINT, on_term);
    signal_on(&d, &d.quit, SIGQUIT, on_quit);
    signal_on(&d, &d.hup, SIGHUP, on_hup);
    signal_on(&d, &d.usr1, SIGUSR1, on_usr1);
    (void)uv_run(&d.uv, UV_RUN_DEFAULT);
    loop_close(&d.loop);
    (void)uv_run(&d.uv, UV_RUN_DEFAULT);
    (void)uv_loop_close(&d.uv);
    (void)tls_context_unref(d.tls_server);
    (void)tls_context_unref(d.tls_client);
    return d.status;
}
