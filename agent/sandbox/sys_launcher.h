/*
 * launcher - the launcher process's own structures: one epoll loop over the agent's socket, the
 * slots' sockets, pidfds and timers. Nothing in it waits: mounts happen in spawners, trees are
 * removed and layers unpacked in workers.
 */
#ifndef AGENT_SANDBOX_SYS_LAUNCHER_H
#define AGENT_SANDBOX_SYS_LAUNCHER_H

#include "agent/sandbox/sys_sandbox.h"
#include "common/list.h"

enum {
    RESOLV_MAX = 8192,
    QUEUE_MAX = 4096,
    WORKERS_MAX = 4,
    JOBS_MAX = 1024,
    SPARES_MAX = 16,
    REMOVALS_MAX = 64
};

/* What can wait, waits until no run has been ordered for so long, or nothing else is left. */
enum { QUIET_US = 1000 };

/* What an epoll event is about. */
enum watch_kind {
    WATCH_NONE,
    WATCH_SIGNALS,
    WATCH_AGENT_SOCK,
    WATCH_AGENT_PID,
    WATCH_SLOT_SOCK,
    WATCH_SLOT_SPAWNER,
    WATCH_SLOT_INIT,
    WATCH_SLOT_BOX,
    WATCH_SLOT_OOM,
    WATCH_WORKER,
};
struct watch {
    enum watch_kind kind;
    int fd; /* -1: not watched; owned */
    void *owner;
};

/* ---- cgroups (sys_cgroup.c) ---- */

enum cgroup_kind { CG_MEMORY, CG_CPU, CG_CPUACCT, CG_PIDS, CG_BLKIO, CG_FREEZER, CG_V2, CG_COUNT };

struct cgroups {
    int version;           /* 2, 1 or 0 */
    int parent[CG_COUNT];  /* directories that hold the slots' groups; -1 */
    bool can[CG_COUNT];    /* controllers that limit or count (v2: of the unified group) */
    uint64_t memory_limit; /* of our group and those above; UINT64_MAX: none */
    char group[32];        /* the parents' name */
};
struct cgroup_dirs {
    int fd[CG_COUNT]; /* one slot's groups; -1 */
};

int sandbox_cgroup_find(struct cgroups *c, const struct settings *s, struct err *e);
/* Makes (or finds) the slot's groups. v2: a fresh leaf, empty. */
int sandbox_cgroup_open(const struct cgroups *c, uint32_t slot, struct cgroup_dirs *ret,
                        struct err *e);
/* Only what is there. */
void sandbox_cgroup_open_existing(const struct cgroups *c, uint32_t slot, struct cgroup_dirs *ret);
void sandbox_cgroup_close(struct cgroup_dirs *d);
/* The caller moves into the v1 groups (a spawner, once). */
int sandbox_cgroup_join(const struct cgroup_dirs *d, struct err *e);
int sandbox_cgroup_limit(const struct cgroups *c, const struct cgroup_dirs *d,
                         const struct sandbox_limits *l, struct err *e);
enum { CGROUP_WEIGHT = 100 }; /* the usual share of the processors */
/* 1 to 10000. A preference: where it can not be set, nobody has another. */
void sandbox_cgroup_weight(const struct cgroups *c, const struct cgroup_dirs *d, uint64_t weight);
/* v2: removes the leaf. -EBUSY: something lives in it. */
int sandbox_cgroup_remove(const struct cgroups *c, uint32_t slot);
/* Kills every process in the slot's groups but `spare`; returns how many it saw. */
unsigned sandbox_cgroup_kill(const struct cgroups *c, const struct cgroup_dirs *d, pid_t spare);
/* Removes every group of slots that is empty (at start and end). */
void sandbox_cgroup_sweep(const struct cgroups *c, uint32_t slots);
/* Removes the slots' parents where no slot is left (at the end). */
void sandbox_cgroup_end(const struct cgroups *c);
void sandbox_cgroup_telemetry(const struct cgroup_dirs *d, struct telemetry_dirs *ret);
/* v1: an eventfd that fires when the memory limit is hit; -1. */
int sandbox_cgroup_oom_event(const struct cgroup_dirs *d);

/* Pids in the slot's groups but `spare`, into ret; how many, at most max. 0 without groups. */
size_t sandbox_cgroup_list(const struct cgroups *c, const struct cgroup_dirs *d, pid_t spare,
                           pid_t *ret, size_t max);

/* ---- slots (sys_slot.c) ---- */

/*
 * EMPTY -> MAKING -> FREE -> SETUP -> RUNNING -> ENDED -> DIRTY -> CLEANING -> FREE
 *   ^                 | |__________(spawner died)___________________|
 *   |____ ENDING <____| |-> PREPARING -> READY -> SETUP      (a sandbox built ahead)
 *       (idle for long)         |__________|-> DROPPING -> FREE
 * EMPTY -> ADOPTED -> EMPTY   (a sandbox of an earlier launcher)
 * It waits in MAKING, CLEANING, ENDING (for the spawner), PREPARING, SETUP (for the set-up
 * process), READY (for a run), RUNNING, ENDED, DROPPING (for init's death), ADOPTED. From PREPARING
 * a run may be taken, too: SETUP then waits for both.
 */
enum slot_state {
    SLOT_EMPTY,
    SLOT_MAKING,
    SLOT_FREE,
    SLOT_PREPARING,
    SLOT_READY,
    SLOT_DROPPING,
    SLOT_SETUP,
    SLOT_RUNNING,
    SLOT_ENDED, /* its end was told; init is going */
    SLOT_DIRTY, /* init is gone: to be cleaned when there is time */
    SLOT_CLEANING,
    SLOT_ENDING,
    SLOT_ADOPTED
};

/* What STARTED says of a start: enum sandbox_start_kind, of the agent's side. */
enum slot_kind { SLOT_KIND_COLD, SLOT_KIND_CACHED, SLOT_KIND_WARM };

struct launcher;
struct nat;
struct slot_nat;
struct resctrl;

/* A run's directory before it has a name (sys_rundir.c). */
struct spare {
    unsigned long number;
    int dir;
    int fds[SPAWN_FDS_MAX];
};

/* A kind of run: what its sandboxes are built from (sys_pool.c). */
struct box_key {
    struct sandbox_spec spec; /* points into blob; no arguments or environment but one word */
    struct buf blob;
    int fd; /* the same, for spawners; -1: the place is free */
    struct pool_use use;
    uint64_t bad_until_ms; /* a sandbox of this kind could not be built */
};
enum { BOX_KEYS_MAX = 32 };

struct slot {
    struct launcher *l;
    enum slot_state state;
    struct slot_box box;
    struct watch sock, spawner, init, oom;
    pid_t spawner_pid;
    uint64_t free_since_ms; /* FREE: the monotonic clock */
    struct cgroup_dirs dirs;
    struct telemetry_fds fds;
    struct sandbox_limits applied; /* v1: what the groups are set to */
    bool limited;
    bool based; /* file.base was read since the last run */
    /* The sandbox, in PREPARING, READY, DROPPING and from SETUP to ENDED: */
    struct watch job;    /* the sandbox's own socket */
    struct spare home;   /* PREPARING, READY, DROPPING: the directory that a run will have */
    struct box_key *key; /* NULL: of no kind that is known */
    int uts;             /* READY: its UTS namespace; -1 */
    struct start_request start;
    int pend_spec, pend_payload, pend_secrets; /* a run that waits for PREPARED; -1 */
    int secrets;                               /* READY: its directory for secrets; -1 */
    uint32_t job_uid, job_gid;                 /* READY: its job's, as the sandbox counts */
    char pend_hostname[64];
    bool cloned;          /* init exists */
    struct slot_nat *nat; /* sys_nat.c; NULL: no interface yet */
    /* The run, in SETUP, RUNNING and ADOPTED: */
    struct ulid run;
    uint32_t attempt;
    struct sandbox_state file; /* as in the run's directory */
    int run_dir;
    int mounts; /* the sandbox's mount namespace; -1 */
    bool stop_asked;
    bool held;         /* its run's words are sent when both its processes can be put into groups */
    uint32_t rdt_life; /* with file.rdt_group: of which life of the file system that is */
};

/* A RUN as it came from the agent, decoded and checked. */
struct run_order {
    const struct sandbox_spec *spec;
    int spec_fd;
    int payload;  /* -1: none */
    int *secrets; /* *secrets -1: none; taken when they are kept */
    uint64_t payload_bytes;
    uint64_t arrival_us;
};

int sandbox_slot_make(struct slot *s, struct err *e);
/* Does its payload become a layer, instead of a copy? NULL: no run, so no. */
bool sandbox_slot_layered(const struct run_order *o);
/* Builds a sandbox in a slot that has none, for the run of `order`, or ahead (NULL). */
int sandbox_slot_build(struct slot *s, struct box_key *key, const struct run_order *order,
                       struct err *e);
/* A FREE slot, or one that sandbox_pool_choose() gave. */
int sandbox_slot_start(struct slot *s, const struct run_order *order, struct err *e);
bool sandbox_slot_soon_free(const struct launcher *l); /* will one be without a run's end? */
/* Cleans one DIRTY slot; false: there is none. */
bool sandbox_slot_chore(struct launcher *l);
void sandbox_slot_clean(struct slot *s); /* DIRTY -> CLEANING */
/* Ends the spawners of slots that nobody has used for a minute. */
void sandbox_slot_trim(struct launcher *l);
/* PREPARING or READY: the sandbox goes. */
void sandbox_slot_drop(struct slot *s);
void sandbox_slot_on_sock(struct slot *s);
void sandbox_slot_on_spawner(struct slot *s);
void sandbox_slot_on_init(struct slot *s);
void sandbox_slot_on_box(struct slot *s);
void sandbox_slot_on_oom(struct slot *s);
struct slot *sandbox_slot_find(struct launcher *l, struct ulid run, uint32_t attempt);
int sandbox_slot_order(struct slot *s, int order, int sig);
void sandbox_slot_tell_started(struct slot *s, bool adopted);
bool sandbox_slot_uses_layer(const struct slot *s, const struct digest *id);
void sandbox_slot_forget_layer(struct slot *s, const struct digest *id);

/* ---- groups of a slot (sys_slot_groups.c) ---- */

/* The groups with these limits. v2: a fresh leaf, when there is none. */
int sandbox_groups_limit(struct slot *s, const struct sandbox_limits *limits, struct err *e);
/* The reading that the next run counts from. */
void sandbox_groups_base(struct slot *s);
void sandbox_groups_done(struct slot *s);

/* ---- secrets of runs (sys_secrets.c) ---- */

/* The memory file that came with a run: sealed in size, its list whole. -EINVAL. */
int sandbox_secrets_check(int fd, struct sandbox_secret_at v[SANDBOX_SECRETS_MAX], size_t *ret_n,
                          struct err *e);
/* Its files into dir (an empty tmpfs), owned by uid and gid (the host's ids), mode 0400; then the
 * file system is read-only. */
int sandbox_secrets_put(int dir, int fd, uint32_t uid, uint32_t gid, struct err *e);
/* Overwrites the memory file and closes it: -1. -1 is fine. */
int sandbox_secrets_drop(int fd);

/* ---- cache and memory bandwidth (sys_resctrl.c) ----
 *
 * A run that could not get a group or its class still runs: it is not measured, or is in the
 * default class. Each kind of trouble is said once. */

/* Looks at telemetry.resctrl_path; false: nothing is measured. */
bool sandbox_resctrl_start(struct launcher *l);
/* After adoption: what an earlier life left, and no live run uses, is taken over or removed. */
void sandbox_resctrl_sweep(struct launcher *l);
/* Are runs put into groups? Looks again now and then when it was not there. */
bool sandbox_resctrl_on(struct launcher *l);
/* A sandbox's processes wait for their run: they go into its class (file.cache, which becomes
 * default when that cannot be) and a monitoring group; file.base counts from here. */
void sandbox_resctrl_enter(struct slot *s);
void sandbox_resctrl_adopt(struct slot *s); /* by file.rdt_group */
/* An ended run's files, as far as its group is still there. */
void sandbox_resctrl_open(struct launcher *l, const struct sandbox_state *state,
                          struct telemetry_fds *fds);
void sandbox_resctrl_over(struct slot *s);         /* the run's totals were read */
uint32_t sandbox_resctrl_free(struct launcher *l); /* for SANDBOX_N_RDT */
void sandbox_resctrl_end(struct launcher *l);      /* removes groups that no live run is in */

/* ---- sandboxes built ahead (sys_pool.c) ---- */

/* The run's kind: known, or made known. NULL: no memory. */
struct box_key *sandbox_pool_key(struct launcher *l, const struct sandbox_spec *spec);
/* The best slot for a run of this kind. `fresh`: it must not be one built ahead. NULL: none now. */
struct slot *sandbox_pool_choose(struct launcher *l, const struct box_key *key, bool fresh);
/* Builds one sandbox ahead in a free slot, of the kind that lacks most; false: none is wanted, or
 * no slot is free. `busy`: only when that kind has none. */
bool sandbox_pool_refill(struct launcher *l, bool busy);
/* Drops what is not wanted any more, and all when memory is short. */
void sandbox_pool_trim(struct launcher *l);
/* Kinds with this layer are no longer known, and their sandboxes go. */
void sandbox_pool_forget_layer(struct launcher *l, const struct digest *id);
void sandbox_pool_release(struct launcher *l);

/* ---- runs on disk (sys_rundir.c) ---- */

/* Names of spare directories begin so; then the launcher's pid. */
#define SANDBOX_SPARE ".spare-"
/* Makes one spare directory ahead; false: there are enough, or it failed. */
bool sandbox_rundir_refill(struct launcher *l);
int sandbox_rundir_spare_take(struct launcher *l, struct spare *ret, struct err *e);
void sandbox_rundir_spare_close(struct spare *s);
void sandbox_rundir_spare_drop(struct launcher *l, struct spare *s); /* removes it, too */
/* An ended run's directory (open as `dir`) becomes a spare one, its files emptied, instead of being
 * removed and made anew: files cost more than anything else around a short run. Where that is not
 * safe (somebody reads them) it is removed. False: nothing was done (there are enough; it has more
 * than the usual files). */
bool sandbox_rundir_recycle(struct launcher *l, const char *name, int dir);
/* The spare directory becomes the run's. -EEXIST: that has one. */
int sandbox_rundir_name(struct launcher *l, const struct spare *s, struct ulid run,
                        uint32_t attempt, struct err *e);
void sandbox_rundir_drop_spares(struct launcher *l);
/* spool/<run>, checked: the descriptor, or -Exxx. */
int sandbox_rundir_payload_open(struct launcher *l, struct ulid run, uint64_t *ret_bytes,
                                struct err *e);
/* The payload becomes the one file of a layer of its own, dir/in, the topmost: readable inside as
 * /run/agent/payload, without a mount that would tell a host path. */
int sandbox_rundir_payload_link(struct launcher *l, int dir, struct ulid run, int payload,
                                struct err *e);
void sandbox_rundir_undo(struct launcher *l, struct ulid run, uint32_t attempt);
int sandbox_rundir_state_write(int dir, const struct sandbox_state *s);
int sandbox_rundir_state_read(int dir, struct sandbox_state *ret);
int sandbox_rundir_record_read(int dir, struct sandbox_result *ret);
int sandbox_rundir_record_write(int dir, const struct sandbox_result *r);
int sandbox_rundir_usage_write(int dir, const struct sandbox_usage *u);
int sandbox_rundir_usage_read(int dir, struct sandbox_usage *ret);

/* ---- taking runs up again (sys_adopt.c) ---- */

/* At start: live sandboxes become ADOPTED slots; groups of dead ones are emptied. */
void sandbox_adopt_at_start(struct launcher *l);
/* ADOPT: goes on with telling as long as the agent's socket takes messages. */
void sandbox_adopt_continue(struct launcher *l);
/* Reads, completes and tells the end of a run whose init is gone. */
void sandbox_adopt_end(struct launcher *l, int run_dir, struct ulid run, uint32_t attempt,
                       const struct sandbox_usage *usage, bool adopted);

/* ---- workers (sys_worker.c): what takes long, in processes of their own ---- */

enum worker_kind { WORKER_UNPACK, WORKER_REMOVE_RUN, WORKER_REMOVE_LAYER };
struct worker {
    struct list link;
    struct launcher *l;
    enum worker_kind kind;
    struct digest layer;
    struct ulid run;
    uint32_t attempt;
    int blob;           /* UNPACK */
    struct watch watch; /* pidfd; fd -1: waits for its turn */
    pid_t pid;
    int report; /* read end of its answer */
};
/* A run whose directory goes when there is time. */
struct removal {
    struct ulid run;
    uint32_t attempt;
};
struct worker_answer {
    int32_t rc;
    char text[SANDBOX_TEXT_MAX];
    uint64_t bytes, entries;
};
void sandbox_worker_add(struct launcher *l, const struct sandbox_msg *m, int blob);
/* Removes one of the runs that wait for that; false: none waits. */
bool sandbox_worker_chore(struct launcher *l);
/* Removes, as the agent's requests would, every layer whose digest is not in list_fd's text. */
void sandbox_worker_keep_layers(struct launcher *l, int list_fd);
void sandbox_worker_on_exit(struct worker *w);
void sandbox_workers_sweep(struct launcher *l); /* left-overs of an earlier launcher */
/* What is kept of a layer's content, beside it in layers/. */
enum { SANDBOX_INDEX_NAME_CAP = DIGEST_TEXT_CAP + 8 };
void sandbox_index_name(const struct digest *layer, char dst[SANDBOX_INDEX_NAME_CAP]);
/* sys_unpack.c: the whole of an unpack, in the worker process. */
void sandbox_unpack_layer(struct launcher *l, const struct digest *diff_id, int blob,
                          struct worker_answer *ret);

/* ---- the agent process (sys_agent.c) ---- */

int sandbox_agent_user_find(struct launcher *l, const char *user, struct err *e);
int sandbox_agent_start(struct launcher *l, struct err *e);
void sandbox_agent_on_exit(struct launcher *l);
void sandbox_agent_on_sock(struct launcher *l, uint32_t events);
/* Queues behind what waits already; fds (duplicated when they must wait) stay the caller's. */
void sandbox_agent_send(struct launcher *l, const struct sandbox_msg *m, const int *fds,
                        size_t fds_len);
bool sandbox_agent_send_room(const struct launcher *l);
void sandbox_agent_hang_up(struct launcher *l, const char *why);
/* A slot is free: starts a run that waits for one. */
void sandbox_agent_slot_free(struct launcher *l);

/* ---- the whole ---- */

struct queued_msg {
    struct list link;
    uint8_t bytes[SANDBOX_MSG_SIZE];
    int fds[SYS_FDS_MAX];
    size_t fds_len;
};

/* A RUN that came while its slot was still being cleaned: never more than there are slots. */
struct waiting_run {
    struct list link;
    struct ulid run;
    uint32_t attempt;
    int spec_fd;
    int secrets_fd; /* -1 */
    uint64_t arrival_us;
    bool stop_asked;
};

struct launcher {
    const struct sandbox_launcher_config *config;
    const struct settings *settings;
    int epoll;
    struct watch signals;
    struct watch agent_sock, agent_pid;
    pid_t agent;
    uint32_t agent_uid, agent_gid;
    bool agent_ready;
    bool news; /* refresh() had something before the agent process was ready */
    uint64_t agent_started_ms, agent_restart_ms, agent_backoff_ms;
    struct list queue; /* struct queued_msg */
    size_t queue_len;
    bool stopping;
    int exe, exe_tree, host_mnt, host_root, host_net, host_uts;
    int layers, runs, spool; /* directories */
    int storage_userns;
    char boot_id[37];
    struct cgroups cg;
    struct sock_fprog filter;
    char resolv_conf[RESOLV_MAX];
    struct spare spares[SPARES_MAX];
    size_t spares_len;
    unsigned long spare_number;
    struct nat *nat;         /* sys_nat.c; NULL: not needed so far */
    struct resctrl *resctrl; /* sys_resctrl.c; NULL: no memory for it */
    struct slot *slots;
    uint32_t slots_len;
    struct box_key keys[BOX_KEYS_MAX];
    bool pressed;        /* memory is short: nothing is built ahead */
    bool cannot_spare;   /* the host does not let us lower a score for the OOM killer */
    struct list waiting; /* struct waiting_run, the oldest first */
    uint32_t waiting_len;
    struct list workers; /* struct worker, the oldest first */
    size_t workers_len, workers_running;
    struct removal removals[REMOVALS_MAX];
    size_t removals_len;
    uint64_t ordered_us; /* when the last run was ordered: the monotonic clock */
    bool chores;         /* there may be something to do that can wait */
    int adopt_dir;       /* -1: no ADOPT is being answered */
    void *adopt_stream;  /* DIR of it */
};

int sandbox_launcher_watch(struct launcher *l, struct watch *w, enum watch_kind kind, int fd,
                           void *owner, uint32_t events);
void sandbox_launcher_unwatch(struct launcher *l, struct watch *w); /* closes */
/* Asks the configuration's refresh(), and tells the agent process of anything new. */
void sandbox_launcher_refresh(struct launcher *l, bool asked);

#endif
