/* `agent serve`, before and around the launcher: what needs root and happens once. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "agent/daemon.h"
#include "agent/gossip/sys_gossip.h"
#include "agent/image/origin.h"
#include "agent/image/programs.h"
#include "agent/image/unpack.h"
#include "agent/sandbox/sandbox.h"
#include "agent/secrets.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"
#include "common/sys/sys_settings.h"
#include "common/sys/sys_token.h"

enum { BACKLOG = 4096 };

/* ---- the unpacker that the launcher's confined children run ---- */

static void limits_of(const struct sandbox_unpack_limits *in, struct image_limits *out)
{
    image_limits_default(out);
    out->bytes_max = in->bytes;
    out->entries_max = in->entries;
}

static int decompress(int in_fd, int out_fd, enum digest_algo algo,
                      const struct sandbox_unpack_limits *limits, struct digest *ret_diff_id,
                      struct err *e)
{
    struct image_limits l;
    struct image_stream_counts counts;

    limits_of(limits, &l);
    return image_decompress_stream(in_fd, out_fd, algo, &l, ret_diff_id, &counts, e);
}

static int unpack(int in_fd, int root_fd, const struct sandbox_unpack_limits *limits,
                  struct buf *opaque, struct buf *index, uint64_t *ret_bytes, uint64_t *ret_entries,
                  struct err *e)
{
    struct image_limits l;
    struct image_unpack_report report;

    limits_of(limits, &l);
    int rc = image_unpack_stream(in_fd, root_fd, &l, opaque, index, &report, e);
    if (rc == 0) {
        *ret_bytes = report.bytes;
        *ret_entries = report.entries;
    }
    return rc;
}

_Static_assert((int)SANDBOX_INDEX_MAX == (int)IMAGE_INDEX_MAX, "one index");

static const struct sandbox_unpack_ops unpack_ops = { .decompress = decompress, .unpack = unpack };

/* ---- sockets ---- */

/* After a kill -9 the last launcher's children are still dying, with its socket in their hands. */
static int bind_patiently(int fd, const struct addrinfo *to)
{
    const struct timespec pause = { .tv_nsec = 50 * 1000 * 1000 };
    int rc = bind(fd, to->ai_addr, to->ai_addrlen);

    for (int i = 0; rc != 0 && errno == EADDRINUSE && i < 20; i++) {
        (void)nanosleep(&pause, NULL);
        rc = bind(fd, to->ai_addr, to->ai_addrlen);
    }
    return rc;
}

static int listen_on(const char *addr, int *ret_fd, struct err *e)
{
    char host[256];
    char port_text[8];
    uint16_t port;
    struct addrinfo hints = { .ai_family = AF_UNSPEC,
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    struct addrinfo *found = NULL;
    int one = 1;
    int rc = settings_addr_split(addr, host, sizeof(host), &port);

    if (rc != 0) {
        return err_say(e, rc, "http.listen: '%s' is not host:port", addr);
    }
    (void)snprintf(port_text, sizeof(port_text), "%u", port);
    int gai = getaddrinfo(host[0] != '\0' ? host : NULL, port_text, &hints, &found);
    if (gai != 0) {
        return err_say(e, -EADDRNOTAVAIL, "http.listen: '%s': %s", addr, gai_strerror(gai));
    }
    AUTO_FD int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
        bind_patiently(fd, found) != 0 || listen(fd, BACKLOG) != 0) {
        rc = err_set(e, -errno, "listen on '%s' (http.listen)", addr);
    }
    freeaddrinfo(found);
    if (rc == 0) {
        *ret_fd = fd_take(&fd);
    }
    return rc;
}

/* The settings as this process read them, for agent processes: they may not be able to read the
 * file. */
static int settings_hand(const struct settings *s, struct err *e)
{
    int fd = memfd_create("agent-settings", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0 || sys_write_full(fd, s, sizeof(*s)) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0) {
        int rc = -errno;
        fd_close(fd);
        return err_set(e, rc, "hand the settings over");
    }
    return fd;
}

/* Certificates and keys: root reads them, and a mistake in them is told to the one who starts the
 * node. */
static int secrets_hand(const struct settings *s, struct sandbox_launcher_config *config,
                        struct err *e)
{
    struct daemon_vault *vault = NULL;
    int rc = daemon_vault_open(s, &vault, &config->listen_fds[DAEMON_FD_SECRETS], e);

    if (rc == 0) {
        config->refresh = daemon_vault_refresh;
        config->refresh_arg = vault; /* as long as the process lives */
        rc = daemon_secrets_check(daemon_vault_secrets(vault), s, e);
    }
    return rc;
}

/* ---- the agent process's command line ---- */

static char **agent_argv(const struct daemon_options *opt)
{
    char **argv = mem_calloc(opt->overrides_len + 4, sizeof(*argv));
    char *config = opt->config != NULL ? realpath(opt->config, NULL) : NULL;
    size_t n = 0;

    if (argv == NULL) {
        return NULL;
    }
    argv[n++] = mem_strdup("agent");
    argv[n++] = mem_strdup(DAEMON_AGENT_WORD);
    argv[n++] = mem_strdup(config != NULL ? config : "");
    for (size_t i = 0; i < opt->overrides_len; i++) {
        argv[n++] = mem_strdup(opt->overrides[i]);
    }
    free(config);
    for (size_t i = 0; i < n; i++) {
        if (argv[i] == NULL) {
            return NULL;
        }
    }
    return argv;
}

static int start(const struct daemon_options *opt, struct settings *s,
                 struct sandbox_launcher_config *config, struct err *e)
{
    int rc = sys_settings_load(opt->config, opt->overrides, opt->overrides_len, s, e);

    AUTO_TOKEN_TABLE struct token_table *tokens = NULL;

    if (rc != 0) {
        return rc;
    }
    /* A mistake in it is told to the one who starts the node; the agent process reads it itself. */
    if ((rc = sys_token_load(s->auth.tokens_file, "root", &tokens, e)) != 0) {
        return rc;
    }
    struct image_upstreams upstreams;
    if ((rc = image_upstreams_parse(str_of(s->registry.upstreams), &upstreams, e)) != 0) {
        (void)err_prefix(e, "registry.upstreams");
        return rc;
    }
    image_upstreams_release(&upstreams);
    sys_log_init((enum log_level)s->log.level, (enum log_format)s->log.format, "launcher");
    if (geteuid() != 0) {
        return err_say(e, -EPERM,
                       "agent serve needs root: it builds sandboxes. The part that meets the "
                       "network runs as node.user ('%s')",
                       s->node.user);
    }
    int *fds = config->listen_fds;
    if ((rc = secrets_hand(s, config, e)) != 0 ||
        (rc = listen_on(s->http.listen, &fds[DAEMON_FD_HTTP], e)) != 0) {
        return rc;
    }
    fds[DAEMON_FD_SETTINGS] = settings_hand(s, e);
    if (fds[DAEMON_FD_SETTINGS] < 0) {
        return fds[DAEMON_FD_SETTINGS];
    }
    config->listen_fds_len = DAEMON_FD_GOSSIP_UDP;
    if (s->gossip.listen[0] != '\0') {
        rc = gossip_sock_listen(s->gossip.listen, &fds[DAEMON_FD_GOSSIP_UDP],
                                &fds[DAEMON_FD_GOSSIP_TCP], e);
        if (rc != 0) {
            return rc;
        }
        config->listen_fds_len = DAEMON_FDS;
    }
    config->agent_argv = agent_argv(opt);
    return config->agent_argv == NULL ? err_set(e, -ENOMEM, "the agent's arguments") : 0;
}

int daemon_serve(const struct daemon_options *opt)
{
    static struct settings settings;
    struct sandbox_launcher_config config = { .settings = &settings, .unpack = &unpack_ops };
    struct err e = { .code = 0 };

    if (start(opt, &settings, &config, &e) != 0) {
        (void)fprintf(stderr, "agent serve: %s\n", err_text(&e));
        return e.code == -EINVAL ? 2 : 1;
    }
    return sandbox_launcher_main(&config);
}
