/*
 * daemon - `agent serve`: the launcher's side (root: configuration, listening sockets, then
 * sandbox_launcher_main) and the agent process that the launcher starts out of the same binary.
 */
#ifndef AGENT_DAEMON_H
#define AGENT_DAEMON_H

#include <stddef.h>

/* The word in argv[1] that makes this binary an agent process. Not a command for people: it only
 * works with the descriptors that the launcher hands over. */
#define DAEMON_AGENT_WORD "node-process"

/* What the agent process inherits, in the order of sandbox_launcher_config.listen_fds. The last two
 * are there when gossip.listen is set. */
enum {
    DAEMON_FD_HTTP,
    DAEMON_FD_SETTINGS,
    DAEMON_FD_SECRETS,
    DAEMON_FD_GOSSIP_UDP,
    DAEMON_FD_GOSSIP_TCP,
    DAEMON_FDS
};

struct daemon_options {
    const char *config; /* path, or NULL: the built-in defaults */
    const char *const *overrides;
    size_t overrides_len;
};

/* The process's exit status. */
int daemon_serve(const struct daemon_options *opt);
int daemon_agent(int argc, char **argv);

#endif
