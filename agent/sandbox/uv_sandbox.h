/*
 * uv_sandbox - the agent's side of the launcher's socket, on the loop.
 *
 * Requests are sent at once, or queued (bounded) while the socket is full. Answers come as events,
 * from the loop, never inside a call. One RUN gives exactly one of: failed (nothing was started),
 * or started and later ended. When the launcher goes away, lost comes once and nothing after it:
 * the agent process then ends, too (a new launcher starts a new one, which asks for the live runs
 * with sandbox_client_adopt()).
 */
#ifndef AGENT_SANDBOX_UV_SANDBOX_H
#define AGENT_SANDBOX_UV_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/sandbox/sandbox.h"
#include "agent/sandbox/sandbox_msg.h"
#include "common/loop/loop.h"

/* What the launcher found at its start. */
struct sandbox_hello {
    uint32_t slots;          /* runs at a time */
    uint32_t cgroup_version; /* 2, 1, or 0: none, limits are rlimits only */
    bool cgroup_memory;      /* controllers in use */
    bool cgroup_cpu;
    bool cgroup_pids;
    bool cgroup_io;
    bool cgroup_freezer;
    bool memory_peak_exact; /* the kernel's peak belongs to one run alone */
    bool landlock;
    uint64_t memory_bytes; /* for all runs together: the machine's, or our group's limit */
    uint32_t cpus_milli;
    uint64_t uid_base;
};

enum sandbox_start_kind { SANDBOX_COLD, SANDBOX_CACHED, SANDBOX_WARM };
const char *sandbox_start_kind_name(enum sandbox_start_kind k);

struct sandbox_started {
    struct ulid run;
    uint32_t attempt;
    uint32_t slot;
    int64_t pid;                  /* init's, as the host sees it */
    enum sandbox_start_kind kind; /* COLD: layers were attached for this; CACHED: they were there */
    uint64_t setup_us;
    int64_t started_wall_us;
    bool adopted; /* told because of sandbox_client_adopt() */
    bool peak_was_reset;
    uint32_t rdt_free;              /* 1 and the free monitoring groups; 0: no resctrl */
    enum sandbox_cache_class cache; /* the class that it really is in */
    struct telemetry_reading base;
    /* The callee's, who closes them with telemetry_fds_close(). All -1 when there are none. */
    struct telemetry_fds fds;
    int dns_fd; /* the callee's, too: where a run on network nat asks (uv_sandbox_dns.h); -1 */
};

struct sandbox_ended {
    struct ulid run;
    uint32_t attempt;
    bool adopted;
    uint32_t rdt_free; /* as of struct sandbox_started */
    struct sandbox_result result;
    struct sandbox_usage usage;
};

struct sandbox_client_events {
    void (*hello)(void *arg, const struct sandbox_hello *h);
    void (*started)(void *arg, struct sandbox_started *s);
    void (*ended)(void *arg, const struct sandbox_ended *s);
    /* The run was not started, and that is not the job's or the image's fault. -EAGAIN: no free
     * slot; -ESTALE: a layer is not unpacked here (UNPACK it, try again); others: see text. */
    void (*failed)(void *arg, struct ulid run, uint32_t attempt, int rc, const char *text);
    /* rc 0: the layer is there. -EBADMSG: the bytes are not diff_id's; -ENOSPC, -EFBIG, …
     * index_fd: what was kept of its content when it was unpacked, a file of at most
     * SANDBOX_INDEX_MAX bytes; the callee's. -1: nothing is. */
    void (*unpacked)(void *arg, const struct digest *diff_id, int rc, const char *text,
                     uint64_t bytes, uint64_t entries, int index_fd);
    /* rc -EBUSY: in use by a live sandbox. */
    void (*run_removed)(void *arg, struct ulid run, uint32_t attempt, int rc, const char *text);
    void (*layer_removed)(void *arg, const struct digest *diff_id, int rc, const char *text);
    /* What sandbox_client_egress() asked for is in force, or why not; in the order of asking. */
    void (*egress_set)(void *arg, struct ulid run, uint32_t attempt, int rc, const char *text);
    /* Every live and every ended run that has a directory was told. */
    void (*adopted)(void *arg);
    /* The launcher is gone. */
    void (*lost)(void *arg, const char *why);
};

struct sandbox_client;

/* fd: SANDBOX_AGENT_FD as a rule; taken over. events and arg outlive the client. -ENOMEM, -Exxx. */
int sandbox_client_start(struct loop *l, int fd, const struct sandbox_client_events *events,
                         void *arg, struct sandbox_client **ret, struct err *e);
/* on_closed fires from the loop; the client is gone then. No event comes after this call. */
void sandbox_client_close(struct sandbox_client *c, void (*on_closed)(void *arg), void *arg);

/* secrets: what sandbox_secrets_encode() made, for a spec with secrets; else empty.
 * 0: asked, an event will come. -EINVAL (the spec), -ENOBUFS (too many requests wait), -EPIPE (the
 * launcher is gone), -ENOMEM. */
int sandbox_client_run(struct sandbox_client *c, const struct sandbox_spec *spec,
                       struct str secrets, struct err *e);
/* The job's stop signal, after its grace SIGKILL; the end comes as ended, reason STOPPED. Nothing
 * happens when it is over already. */
int sandbox_client_stop(struct sandbox_client *c, struct ulid run, uint32_t attempt);
/* Single addresses (n of 1 to SANDBOX_MSG_NETS) that a live run may reach too: one egress_set. */
int sandbox_client_egress(struct sandbox_client *c, struct ulid run, uint32_t attempt,
                          const struct egress_net *nets, size_t n);
/* One signal (1 to 64) to the job's first process. */
int sandbox_client_signal(struct sandbox_client *c, struct ulid run, uint32_t attempt, int sig);
/* blob_fd: the compressed layer, opened for reading; stays the caller's. An UNPACK of a layer that
 * is there already gives 0 at once; two of the same are joined. */
int sandbox_client_unpack(struct sandbox_client *c, const struct digest *diff_id, int blob_fd);
int sandbox_client_remove_run(struct sandbox_client *c, struct ulid run, uint32_t attempt);
int sandbox_client_remove_layer(struct sandbox_client *c, const struct digest *diff_id);
/* These are the layers that images refer to: any other that no live sandbox uses is removed, each
 * with its layer_removed. -ENOBUFS: the list is longer than SANDBOX_KEEP_MAX bytes. */
int sandbox_client_keep_layers(struct sandbox_client *c, const struct digest *diff_ids, size_t n);
/* Tell me all: started for every live run, ended for every other that has a directory, then
 * adopted. */
int sandbox_client_adopt(struct sandbox_client *c);
/* The agent serves now (systemd's READY=1), with a status line. */
int sandbox_client_ready(struct sandbox_client *c, const char *status);
/* The agent's loop is alive (the launcher feeds systemd's watchdog with these); about every second.
 */
int sandbox_client_ping(struct sandbox_client *c);

#endif
