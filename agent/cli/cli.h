/*
 * cli - the client commands of `agent`, and the one table that help, completion and the manual
 * pages are made from.
 *
 * The commands speak HTTP to a node like any other client; only `doctor`, `config`, `completion`,
 * `version` and `help` do their work here. `agent serve` is described in the same table, but run by
 * main.c.
 *
 * Exit codes: 0 done, 1 the request failed, 2 wrong usage. `submit --wait` gives the run's own
 * code: 0-255 as the program ended, 124 timed out, 125 the agent's side failed, 126 not executable,
 * 127 not found, 128+n ended by signal n.
 */
#ifndef AGENT_CLI_CLI_H
#define AGENT_CLI_CLI_H

#include <stddef.h>

#include "common/err.h"

enum {
    CLI_EXIT_OK = 0,
    CLI_EXIT_FAILED = 1,
    CLI_EXIT_USAGE = 2,
    CLI_EXIT_TIMEOUT = 124,
    CLI_EXIT_AGENT = 125,
};

/* What `agent serve` was asked for. The pointers are argv's. */
struct cli_serve {
    const char *config;     /* path of agent.conf, or NULL */
    const char **overrides; /* "--section.key=value"; heap: free with mem_free() */
    size_t overrides_len;
};

/* Is this the command line of a daemon ("agent serve …" that is not a call for help)? */
int cli_is_serve(int argc, char **argv);
/* Reads it. 0, or the exit code to leave with after the trouble has been printed to stderr. */
int cli_serve_parse(int argc, char **argv, struct cli_serve *ret);

/* Runs any other command; returns the exit code. Uses stdin, stdout, stderr and the environment
 * (AGENT_ADDR, NO_COLOR, TERM, COLUMNS, TMPDIR). */
int cli_main(int argc, char **argv);

#endif
