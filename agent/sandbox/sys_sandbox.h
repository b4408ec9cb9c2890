/*
 * sys_sandbox - what the shells of this folder share: the spawner and init side. One file per
 * kernel feature; launcher.h has the launcher's own.
 *
 * Who runs what: the launcher forks one spawner per slot (sys_spawner.c). For a run the spawner
 * clones the set-up process, which builds the sandbox (sys_mount.c), forks the job's first process
 * (sys_job.c) and becomes init (sys_init.c, sys_pump.c). None of them ever returns to main().
 */
#ifndef AGENT_SANDBOX_SYS_SANDBOX_H
#define AGENT_SANDBOX_SYS_SANDBOX_H

#include <linux/filter.h>
#include <signal.h>
#include <sys/types.h>

#include "agent/sandbox/sandbox_internal.h"
#include "common/sys/sys.h"

enum { IDS_PER_SLOT = 65536, SLOT_LAYERS_MAX = 160 };

/* Everything about a slot that its spawner needs; filled by the launcher before the fork. */
struct slot_box {
    uint32_t slot;
    uint32_t root_id;    /* the host's id of root inside */
    uint32_t init_id;    /* init's own: in no job's map */
    uint32_t storage_id; /* the first id of files in layers/ */
    uint32_t agent_gid;
    int sock;         /* reports to the launcher, requests from it */
    int userns;       /* ids 0 to 65535 -> root_id … */
    int idmap;        /* storage_id … -> root_id …, for mounts */
    int netns;        /* empty, loopback up, owned by userns */
    int host_netns;   /* -1: not allowed */
    int memory_dir;   /* v1 memory group, to reclaim leftover page cache; -1 */
    bool limit_nproc; /* no pids controller: RLIMIT_NPROC has to do */
    int job_oom_score;
    const struct sock_fprog *filter;
    const char *resolv_conf;
};

/* Launcher to spawner; SPAWN_BUILD with descriptors in the order of enum spawn_fd, SPAWN_CLEAN with
 * the dead sandbox's mount namespace (the last reference, whose end takes time) and, when it is to
 * be synced, the exit record's file, SPAWN_FORGET with none. */
enum spawn_kind { SPAWN_BUILD = 1, SPAWN_CLEAN = 2, SPAWN_FORGET = 3 };
enum spawn_fd {
    SPAWN_FD_SPEC, /* what the sandbox is built from: no arguments, no environment */
    SPAWN_FD_SOCK, /* the sandbox's own: its run comes over it, its reports go */
    SPAWN_FD_STDOUT,
    SPAWN_FD_STDERR,
    SPAWN_FD_TAIL,
    SPAWN_FD_INDEX,
    SPAWN_FD_EXIT,
    SPAWN_FDS,
    SPAWN_FD_CGROUP = SPAWN_FDS, /* v2 only */
    SPAWN_FD_NET,                /* has_net only: the network namespace to run in */
    SPAWN_FDS_MAX
};
struct spawn_request {
    uint32_t kind;
    uint32_t ahead;         /* BUILD: it says PREPARED before its run comes */
    uint32_t payload_layer; /* BUILD: dir/in is the topmost layer */
    uint32_t has_net;       /* BUILD: the last descriptor is SPAWN_FD_NET */
    char dir[SANDBOX_DIR_CAP];
    char hostname[64];   /* BUILD: "": the spec's */
    struct digest layer; /* SPAWN_FORGET */
};

/* Launcher to a built sandbox, with the run's spec and, when it is to be copied in, its payload. */
enum start_fd { START_FD_SPEC, START_FD_PAYLOAD, START_FDS_MAX };
struct start_request {
    uint64_t arrival_us;    /* monotonic */
    uint64_t payload_bytes; /* of START_FD_PAYLOAD */
    uint32_t has_payload;
};

/* Spawner to launcher, and over the sandbox's own socket from PREPARED on. */
enum report_kind {
    REPORT_READY = 1,   /* the spawner waits for requests */
    REPORT_CLONED = 2,  /* pid; with its pidfd */
    REPORT_STARTED = 3, /* the job's program runs; with the sandbox's mount namespace */
    REPORT_FAILED = 4,  /* the spawner could not clone: rc, text */
    REPORT_CLEANED = 5,
    REPORT_PREPARED = 6, /* waits for its run; uid, gid; with its UTS namespace, and the directory
                            for secrets if it has one */
    REPORT_ENDED = 7,    /* the record is written, and init is alone */
};
struct slot_report {
    uint32_t kind;
    int32_t rc;
    int64_t pid;
    int64_t wall_us;
    uint64_t setup_us;
    uint32_t attached; /* layers that were not attached before */
    uint32_t uid, gid; /* PREPARED: the job's, as the sandbox counts */
    char text[SANDBOX_TEXT_MAX];
};

/* One sandbox, in the spawner and below. */
struct sandbox_job {
    const struct slot_box *box;
    struct spawn_request request;
    struct start_request start;
    struct sandbox_spec spec; /* what it was built from, then the run's */
    struct sandbox_plan plan;
    int fd[SPAWN_FDS_MAX];
    /* In the set-up process: */
    int null_fd;
    int uts; /* its UTS namespace; -1 */
    int out_pipe[2];
    int err_pipe[2];
    int exec_pipe[2]; /* errors of the job process before exec; closed by exec */
    /* Files that the run fills in, opened where nothing of the image can be in the way. */
    int hostname_fd, hosts_fd, payload_in, payload_out; /* payload_out: -1, it is a layer */
    int secrets_fd; /* the directory for secrets; -1: it has none */
    int retry_fd;   /* init's: what the job may say of its next attempt */
    char run_spec[SANDBOX_SPEC_MAX];
};

/* Signals from the launcher to init: queued, with sigval. */
#define INIT_SIGNAL SIGRTMIN
enum init_order { INIT_STOP = 1, INIT_SIGNAL_JOB = 2, INIT_OOM = 3 };
#define INIT_ORDER(order, sig) (((order) << 8) | (sig))

/* sys_spawner.c: the slot's own process, executed with these descriptors by the launcher's child:
 * from SPAWNER_FD on, as here, and the box (its bytes, the filter's, resolv.conf) in a memory file.
 * Never returns. */
enum spawner_fd {
    SPAWNER_SOCK,
    SPAWNER_USERNS,
    SPAWNER_IDMAP,
    SPAWNER_NETNS,
    SPAWNER_HOST_NETNS, /* may be missing */
    SPAWNER_MEMORY,     /* may be missing */
    SPAWNER_EXE,        /* the mount that it was executed from */
    SPAWNER_BOX,
    SPAWNER_FDS
};
enum { SPAWNER_FD = 10 };
int sandbox_spawner_exec(const struct slot_box *box, int exe_tree, struct err *e);

/* sys_init.c: set-up process, then pid 1; never returns. */
void sandbox_init_main(struct sandbox_job *job) __attribute__((noreturn));

/* sys_job.c: the job's first process (of a struct sandbox_job), from clone() to exec; never
 * returns. It shares init's memory until exec, so only one of both may run: init waits at exec_pipe
 * meanwhile. */
int sandbox_job_main(void *arg);
/* What the job process reports through exec_pipe. */
struct job_error {
    int32_t rc;
    int32_t exit_code; /* 125, 126 or 127; 0: the launcher is gone, or wants no run here */
    char text[SANDBOX_TEXT_MAX];
};

/* sys_mount.c */
int sandbox_mount_apply(const struct slot_box *box, const struct sandbox_plan *plan, struct err *e);
/* The spawner's own namespace: drops what the launcher needs, makes the templates dev and sys. */
int sandbox_mount_prepare_slot(const struct slot_box *box, struct err *e);
/* layers/<hex> becomes l/<n>, id-mapped, read-only. */
int sandbox_mount_attach_layer(const struct slot_box *box, const char *hex, unsigned n,
                               struct err *e);
int sandbox_mount_detach_layer(unsigned n);

/* sys_caps.c */
int sandbox_caps_drop_bounding(struct err *e);      /* needs CAP_SETPCAP: before the ids change */
int sandbox_caps_drop_all(struct err *e);           /* ambient, inheritable, permitted, effective */
int sandbox_caps_keep_only(int cap, struct err *e); /* in this user namespace */

/* sys_seccomp.c: built once by the launcher. */
int sandbox_filter_build(struct sock_fprog *ret, struct err *e);
int sandbox_filter_load(const struct sock_fprog *filter); /* needs no_new_privs; 0 or -Exxx */

/* sys_userns.c: pooled namespaces, made in a short-lived child. */
int sandbox_userns_make(uint32_t inside, uint32_t outside, bool for_slot, int *ret_userns,
                        int *ret_netns, struct err *e);

/* Another network namespace of the slot's user namespace, with its loopback up and nothing else in
 * it: the base of sys_nat.c. */
int sandbox_userns_netns(int userns, int *ret_netns, struct err *e);

/* sys_rlimit.c: warnings only: a host may not let us raise. */
void sandbox_rlimits_apply(const struct sandbox_limits *l, bool limit_nproc);
void sandbox_rlimit_raise_nofile(void);

/* sys_pump.c: the two streams, from pipe to file. */
struct pump_stream {
    int pipe; /* -1: at its end */
    int file;
    int tail; /* log only */
    enum sandbox_stream id;
    uint64_t total, kept;
    uint64_t cap;           /* stdout */
    struct log_shape shape; /* stderr */
    uint64_t marked_us;
    bool truncated;
    int error; /* first failure to write: later bytes are dropped */
};
struct pump {
    struct pump_stream out, err;
    int index;
    uint64_t index_len;
    int null_fd;
};
void sandbox_pump_init(struct pump *p, const struct sandbox_job *job);
/* Moves what is there, at most a few MiB. 1: moved something, 0: nothing there, and pipe is -1 at
 * the end. */
int sandbox_pump_step(struct pump *p, struct pump_stream *s);

#endif
