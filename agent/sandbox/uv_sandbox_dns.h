/*
 * uv_sandbox_dns - answers what runs on network nat ask of DNS, on the loop.
 *
 * A run's resolver asks a socket inside the run's own network namespace; here each question is sent
 * on to the node's resolvers (the node's own loopback ones too) and the answer back. Where a name
 * of the run's egress list is asked for, the addresses in the answer are opened to the run first,
 * and only then does it learn them: names are resolved on the agent's side, whenever the run asks.
 *
 * Bounds: one question waits at most SANDBOX_DNS_WAIT_MS for all resolvers together, then the
 * answer is an error (SERVFAIL); SANDBOX_DNS_RUN_MAX questions of a run and SANDBOX_DNS_MAX of all
 * runs are under way at a time, more are dropped. UDP only, with answers of up to DNS_MESSAGE_MAX
 * bytes.
 */
#ifndef AGENT_SANDBOX_UV_SANDBOX_DNS_H
#define AGENT_SANDBOX_UV_SANDBOX_DNS_H

#include "agent/sandbox/uv_sandbox.h"
#include "common/egress.h"
#include "common/loop/loop.h"

enum { SANDBOX_DNS_WAIT_MS = 5000, SANDBOX_DNS_RUN_MAX = 32, SANDBOX_DNS_MAX = 512 };

struct sandbox_dns;

/* resolvers: literal addresses, a comma list; "": those of /etc/resolv.conf, looked at again when
 * it changed. client and resolvers outlive it. -ENOMEM. */
int sandbox_dns_start(struct loop *l, struct sandbox_client *client, const char *resolvers,
                      struct sandbox_dns **ret, struct err *e);
/* on_closed fires from the loop; it is gone then. */
void sandbox_dns_close(struct sandbox_dns *d, void (*on_closed)(void *arg), void *arg);

/* Serves a run until sandbox_dns_end(): fd is taken over. Of the rules only those of kind
 * EGRESS_NAME count; they are copied. -ENOMEM, -Exxx: the run's questions stay without answer. */
int sandbox_dns_serve(struct sandbox_dns *d, struct ulid run, uint32_t attempt, int fd,
                      const struct egress_rule *rules, size_t n);
void sandbox_dns_end(struct sandbox_dns *d, struct ulid run, uint32_t attempt);
/* The client's egress_set. */
void sandbox_dns_egress_set(struct sandbox_dns *d, struct ulid run, uint32_t attempt, int rc);

#endif
