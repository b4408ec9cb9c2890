/*
 * The launcher: starts, one epoll loop, ends. It holds the listening sockets but reads nothing from
 * the network; it lives in a mount namespace with next to nothing in it, which is what new
 * sandboxes are copied from.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/sandbox/sys_launcher.h"
#include "agent/sandbox/sys_nat.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"

int sandbox_launcher_watch(struct launcher *l, struct watch *w, enum watch_kind kind, int fd,
                           void *owner, uint32_t events)
{
    struct epoll_event ev = { .events = events, .data = { .ptr = w } };
    *w = (struct watch){ .kind = kind, .fd = fd, .owner = owner };
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &ev) < 0) {
        int rc = -errno;
        w->fd = fd_close(fd);
        return rc;
    }
    return 0;
}

void sandbox_launcher_unwatch(struct launcher *l, struct watch *w)
{
    if (w->fd >= 0) {
        (void)epoll_ctl(l->epoll, EPOLL_CTL_DEL, w->fd, NULL);
        w->fd = fd_close(w->fd);
    }
}

/* ---- start ---- */

/* data_dir and what is in it, with the owners that keep the agent from forging outputs. */
static int make_directories(struct launcher *l, struct err *e)
{
    static const struct {
        const char *name;
        mode_t mode;
        bool agents;
    } dirs[] = {
        { "spool", 0700, true }, { "blobs", 0700, true },   { "db", 0700, true },
        { "runs", 0711, false }, { "layers", 0700, false }, { "slots", 0700, false },
    };
    const char *path = l->settings->node.data_dir;
    int rc = sys_mkdirs(AT_FDCWD, path, 0711, e);
    AUTO_FD int data = rc == 0 ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (rc < 0 || data < 0 || fchmod(data, 0711) < 0) {
        return rc < 0 ? rc : err_set(e, -errno, "open '%s' (node.data_dir)", path);
    }
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        uid_t uid = dirs[i].agents ? l->agent_uid : 0;
        gid_t gid = dirs[i].agents ? l->agent_gid : 0;
        if (mkdirat(data, dirs[i].name, dirs[i].mode) < 0 && errno != EEXIST) {
            return err_set(e, -errno, "make '%s/%s'", path, dirs[i].name);
        }
        AUTO_FD int fd =
            openat(data, dirs[i].name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fchown(fd, uid, gid) < 0 || fchmod(fd, dirs[i].mode) < 0) {
            return err_set(e, -errno, "open '%s/%s'", path, dirs[i].name);
        }
        if (strcmp(dirs[i].name, "spool") == 0) {
            l->spool = fd_take(&fd);
        } else if (strcmp(dirs[i].name, "runs") == 0) {
            /* The agent lists and opens runs, by its group, which what is made there inherits. */
            if (fchown(fd, 0, l->agent_gid) < 0 || fchmod(fd, 02750) < 0) {
                return err_set(e, -errno, "open '%s/runs'", path);
            }
            l->runs = fd_take(&fd);
        } else if (strcmp(dirs[i].name, "layers") == 0) {
            l->layers = fd_take(&fd);
        }
    }
    return 0;
}

/* A mount namespace of our own, with nothing shared and its true root as ours: under chroot "/" is
 * no mount, and neither its propagation can be changed nor can it be left by pivot_root. Entering
 * the namespace that we are in moves us to its root. *ret_data is the data directory in it. */
static int own_mounts(struct launcher *l, int *ret_data, struct err *e)
{
    const char *data_dir = l->settings->node.data_dir;
    AUTO_FD int data = -1;
    AUTO_FD int own = -1;
    if (unshare(CLONE_NEWNS) < 0 || (data = open(data_dir, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0 ||
        (own = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC)) < 0 ||
        setns(own, CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        return err_set(e, -errno, "make the launcher's mount namespace");
    }
    *ret_data = fd_take(&data);
    return 0;
}

/* An almost empty root: every mount in it is copied for each sandbox. */
static int enter_empty_root(struct launcher *l, struct err *e)
{
    static const char *const kept[] = { "layers", "runs" };
    AUTO_FD int data = -1;
    char path[64];
    char to[128];
    int rc = own_mounts(l, &data, e);
    if (rc < 0) {
        return rc;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d/slots", data);
    if (mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,nr_inodes=64,mode=755") < 0) {
        return err_set(e, -errno, "mount the launcher's root");
    }
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        char from[64];
        snprintf(from, sizeof(from), "/proc/self/fd/%d/%s", data, kept[i]);
        snprintf(to, sizeof(to), "%s/%s", path, kept[i]);
        if (mkdir(to, 0755) < 0 || mount(from, to, NULL, MS_BIND, NULL) < 0 ||
            mount(NULL, to, NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV, NULL) < 0) {
            return err_set(e, -errno, "bind '%s'", from);
        }
    }
    snprintf(to, sizeof(to), "%s/proc", path);
    if (mkdir(to, 0755) < 0 || mount("/proc", to, NULL, MS_BIND, NULL) < 0) {
        return err_set(e, -errno, "bind /proc");
    }
    /* The file that spawners are executed from: never twice from one mount (sys_slot.c). */
    snprintf(to, sizeof(to), "%s/exe", path);
    AUTO_FD int file = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
    if (file < 0 || move_mount(l->exe_tree, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH) < 0) {
        return err_set(e, -errno, "attach the launcher's own program");
    }
    l->exe_tree = fd_close(l->exe_tree);
    snprintf(to, sizeof(to), "%s/slot", path);
    if (mkdir(to, 0755) < 0 || chdir(path) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
        umount2(".", MNT_DETACH) < 0 || chdir("/") < 0) {
        return err_set(e, -errno, "enter the launcher's root");
    }
    return 0;
}

static void read_resolv_conf(struct launcher *l)
{
    struct buf AUTO_BUF text = BUF_INIT(65536);
    struct buf AUTO_BUF kept = BUF_INIT(RESOLV_MAX - 1);
    if (sys_read_file(AT_FDCWD, "/etc/resolv.conf", 65535, &text, NULL) == 0) {
        sandbox_resolv_filter(buf_str(&text), &kept);
    }
    (void)str_copy(l->resolv_conf, sizeof(l->resolv_conf), buf_str(&kept));
}

static int host_descriptors(struct launcher *l, struct err *e)
{
    l->exe = open("/proc/self/exe", O_PATH | O_CLOEXEC);
    l->host_mnt = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    l->host_uts = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);
    l->host_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    l->host_net = l->settings->sandbox.allow_host_network
                      ? open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)
                      : -1;
    l->exe_tree = open_tree(AT_FDCWD, "/proc/self/exe", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (l->exe_tree < 0) {
        return err_set(e, -errno, "clone the mount of /proc/self/exe");
    }
    int rc = l->exe < 0 || l->host_mnt < 0 || l->host_root < 0 || l->host_uts < 0
                 ? err_set(e, -errno, "open /proc/self")
                 : 0;
    if (rc == 0 && (rc = sys_boot_id(l->boot_id)) < 0) {
        err_set(e, rc, "read the boot id");
    }
    return rc;
}

static uint32_t slots_wanted(const struct settings *s)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t n = s->node.slots != 0 ? s->node.slots : (uint64_t)(cpus > 0 ? cpus : 1) * 4;
    if (s->node.slots == 0 && n < 8) {
        n = 8;
    }
    return n < SANDBOX_SLOTS_MAX ? (uint32_t)n : SANDBOX_SLOTS_MAX;
}

/* A slot in use holds about forty descriptors: never so many slots that the launcher has none left
 * for a new agent process. */
static uint32_t slots_that_fit(uint32_t wanted)
{
    enum { OF_A_SLOT = 48 + 2 * TELEMETRY_RDT_DOMAINS, OWN = 512 };
    struct rlimit limit;
    uint64_t n = getrlimit(RLIMIT_NOFILE, &limit) < 0 ? UINT64_MAX : (uint64_t)limit.rlim_cur;
    n = n > OWN + OF_A_SLOT ? (n - OWN) / OF_A_SLOT : 1;
    if (n >= wanted) {
        return wanted;
    }
    log_warn("%u slots do not fit into %llu open files: %llu", wanted,
             (unsigned long long)limit.rlim_cur, (unsigned long long)n);
    return (uint32_t)n;
}

static int make_slots(struct launcher *l, struct err *e)
{
    uint64_t base = l->settings->sandbox.uid_base;
    l->slots_len = slots_that_fit(slots_wanted(l->settings));
    if (base < 65536 || base + ((uint64_t)l->slots_len + 1) * IDS_PER_SLOT > UINT32_MAX) {
        return err_say(e, -EINVAL, "sandbox.uid_base %llu leaves no room for %u slots of %d ids",
                       (unsigned long long)base, l->slots_len, IDS_PER_SLOT);
    }
    l->slots = mem_calloc(l->slots_len, sizeof(*l->slots));
    if (l->slots == NULL) {
        return err_set(e, -ENOMEM, "make %u slots", l->slots_len);
    }
    for (uint32_t i = 0; i < l->slots_len; i++) {
        struct slot *s = &l->slots[i];
        s->l = l;
        s->run_dir = s->mounts = s->sock.fd = s->spawner.fd = s->init.fd = s->oom.fd = -1;
        s->job.fd = s->uts = s->pend_spec = s->pend_payload = s->home.dir = -1;
        s->pend_secrets = s->secrets = -1;
        for (size_t k = 0; k < SPAWN_FDS_MAX; k++) {
            s->home.fds[k] = -1;
        }
        telemetry_fds_init(&s->fds);
        for (size_t k = 0; k < CG_COUNT; k++) {
            s->dirs.fd[k] = -1;
        }
        s->box = (struct slot_box){
            .slot = i,
            .root_id = (uint32_t)(base + (uint64_t)(i + 1) * IDS_PER_SLOT),
            .storage_id = (uint32_t)base,
            .init_id = (uint32_t)base + IDS_PER_SLOT - 1,
            .agent_gid = l->agent_gid,
            .sock = -1,
            .userns = -1,
            .idmap = -1,
            .netns = -1,
            .host_netns = l->host_net,
            .memory_dir = -1,
            .limit_nproc = !l->cg.can[CG_PIDS],
            .job_oom_score = 500,
            .filter = &l->filter,
            .resolv_conf = l->resolv_conf,
        };
    }
    return 0;
}

static int start_loop(struct launcher *l, struct err *e)
{
    static const int wanted[] = { SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGCHLD };
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        sigaddset(&set, wanted[i]);
    }
    sigprocmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGIO, SIG_IGN); /* somebody opens a file while we ask who else has it open */
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (l->epoll < 0 || fd < 0) {
        return err_set(e, -errno, "start the launcher's loop");
    }
    int rc = sandbox_launcher_watch(l, &l->signals, WATCH_SIGNALS, fd, l, EPOLLIN);
    return rc < 0 ? err_set(e, rc, "watch signals") : 0;
}

static void log_cgroups(const struct launcher *l)
{
    static const struct {
        enum cgroup_kind kind;
        const char *without;
    } wanted[] = {
        { CG_MEMORY, "memory is not limited" },
        { CG_CPU, "CPU time is not limited" },
        { CG_PIDS, "processes are limited by RLIMIT_NPROC" },
        { CG_BLKIO, "block I/O is not counted" },
    };
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        if (!l->cg.can[wanted[i].kind]) {
            log_warn("a cgroup controller is missing: %s", wanted[i].without);
        }
    }
}

static int launcher_start(struct launcher *l, struct err *e)
{
    if (geteuid() != 0) {
        return err_say(e, -EPERM,
                       "'agent serve' must be started as root: it builds sandboxes (its "
                       "network side then runs as '%s')",
                       l->settings->node.user);
    }
    umask(0022);
    sandbox_rlimit_raise_nofile();
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    read_resolv_conf(l);
    int told = sys_sd_notify_open();
    if (told < 0) {
        log_warn("$NOTIFY_SOCKET: %s", err_name(told));
    }
    int rc = sandbox_agent_user_find(l, l->settings->node.user, e);
    rc = rc == 0 ? host_descriptors(l, e) : rc;
    rc = rc == 0 ? make_directories(l, e) : rc;
    rc = rc == 0 ? sandbox_cgroup_find(&l->cg, l->settings, e) : rc;
    rc = rc == 0 ? sandbox_filter_build(&l->filter, e) : rc;
    rc = rc == 0 ? start_loop(l, e) : rc;
    rc = rc == 0 ? enter_empty_root(l, e) : rc;
    rc = rc == 0 ? make_slots(l, e) : rc;
    if (rc == 0) {
        (void)sandbox_resctrl_start(l);
        uint32_t storage = (uint32_t)l->settings->sandbox.uid_base;
        rc = sandbox_userns_make(0, storage, false, &l->storage_userns, NULL, e);
    }
    if (rc < 0) {
        return rc;
    }
    log_cgroups(l);
    sandbox_adopt_at_start(l);
    sandbox_resctrl_sweep(l);
    sandbox_nat_start(l);
    sandbox_workers_sweep(l);
    return sandbox_agent_start(l, e);
}

/* ---- the loop ---- */

void sandbox_launcher_refresh(struct launcher *l, bool asked)
{
    const struct sandbox_launcher_config *c = l->config;
    l->news = (c->refresh != NULL && c->refresh(c->refresh_arg, l->host_root, asked)) || l->news;
    if (l->news && l->agent_ready) { /* earlier the signal would end it */
        l->news = false;
        (void)kill(l->agent, SIGUSR1);
    }
}

static void on_signals(struct launcher *l)
{
    struct signalfd_siginfo si;
    while (read(l->signals.fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
        if (si.ssi_signo == SIGHUP) {
            if (l->agent > 0) {
                (void)sys_sd_notify("RELOADING=1");
                sandbox_launcher_refresh(l, true);
                (void)kill(l->agent, SIGHUP);
                (void)sys_sd_notify("READY=1");
            }
        } else if (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT || si.ssi_signo == SIGQUIT) {
            if (!l->stopping) {
                (void)sys_sd_notify("STOPPING=1");
            }
            l->stopping = true;
            l->agent_restart_ms = 0;
            if (l->agent > 0) {
                (void)kill(l->agent, si.ssi_signo == SIGQUIT ? SIGQUIT : SIGTERM);
            }
        }
    }
}

static void on_event(struct launcher *l, struct watch *w, uint32_t events)
{
    switch (w->kind) {
    case WATCH_SIGNALS:
        on_signals(l);
        break;
    case WATCH_AGENT_SOCK:
        sandbox_agent_on_sock(l, events);
        break;
    case WATCH_AGENT_PID:
        sandbox_agent_on_exit(l);
        break;
    case WATCH_SLOT_SOCK:
        sandbox_slot_on_sock(w->owner);
        break;
    case WATCH_SLOT_SPAWNER:
        sandbox_slot_on_spawner(w->owner);
        break;
    case WATCH_SLOT_INIT:
        sandbox_slot_on_init(w->owner);
        break;
    case WATCH_SLOT_BOX:
        sandbox_slot_on_box(w->owner);
        break;
    case WATCH_SLOT_OOM:
        sandbox_slot_on_oom(w->owner);
        break;
    case WATCH_WORKER:
        sandbox_worker_on_exit(w->owner);
        break;
    case WATCH_NONE:
    default:
        break;
    }
}

/* One step of what can wait. While runs are being ordered, only what they are short of. False:
 * there is nothing left to do. */
static bool do_chore(struct launcher *l, bool busy)
{
    if (busy) {
        return sandbox_pool_refill(l, true);
    }
    return sandbox_slot_chore(l) || sandbox_worker_chore(l) || sandbox_pool_refill(l, false) ||
           sandbox_rundir_refill(l);
}

/* Returns how long the loop may sleep for them, at most `ms` (-1: no limit). */
static int do_chores(struct launcher *l, int ms)
{
    uint64_t passed = sys_mono_us() - l->ordered_us;
    bool busy = passed < QUIET_US;
    if (!l->chores) {
        return ms;
    }
    if (do_chore(l, busy)) {
        return 0;
    }
    l->chores = busy;
    int left = busy ? (int)((QUIET_US - passed + 999) / 1000) : -1;
    return left >= 0 && (ms < 0 || left < ms) ? left : ms;
}

static int next_timeout(struct launcher *l)
{
    if (l->agent_restart_ms == 0) {
        return -1;
    }
    uint64_t now = sys_mono_ms();
    return now >= l->agent_restart_ms ? 0 : (int)(l->agent_restart_ms - now);
}

static void launcher_serve(struct launcher *l)
{
    while (!l->stopping || l->agent > 0) {
        struct epoll_event events[32];
        int timeout = do_chores(l, next_timeout(l));
        int n = epoll_wait(l->epoll, events, ARRAY_LEN(events), timeout);
        for (int i = 0; i < n; i++) {
            struct watch *w = events[i].data.ptr;
            if (w->fd >= 0) { /* else an earlier event of this round closed it */
                on_event(l, w, events[i].events);
            }
        }
        if (!l->stopping && l->agent == 0 && next_timeout(l) == 0) {
            struct err e = { 0 };
            if (sandbox_agent_start(l, &e) < 0) {
                log_error("%s", e.text);
                l->agent_restart_ms = sys_mono_ms() + 1000;
            }
        }
    }
}

/* Spawners follow the end of their sockets; then the groups that nothing lives in can go. What
 * still runs keeps its own. */
static void launcher_end(struct launcher *l)
{
    enum { SPAWNER_END_MS = 2000 };
    sandbox_pool_release(l);
    for (uint32_t i = 0; i < l->slots_len; i++) {
        struct slot *s = &l->slots[i];
        sandbox_launcher_unwatch(l, &s->sock);
        if (s->state == SLOT_DROPPING) {
            sandbox_rundir_spare_drop(l, &s->home);
        }
    }
    uint64_t until = sys_mono_ms() + SPAWNER_END_MS;
    for (uint32_t i = 0; i < l->slots_len; i++) {
        struct slot *s = &l->slots[i];
        struct pollfd p[] = { { .fd = s->spawner.fd, .events = POLLIN },
                              { .fd = s->state == SLOT_DROPPING ? s->init.fd : -1,
                                .events = POLLIN } };
        for (size_t k = 0; k < ARRAY_LEN(p); k++) {
            uint64_t now = sys_mono_ms();
            if (p[k].fd >= 0) {
                (void)poll(&p[k], 1, now < until ? (int)(until - now) : 0);
            }
        }
        sandbox_cgroup_close(&l->slots[i].dirs);
    }
    sandbox_nat_end(l);
    sandbox_resctrl_end(l);
    sandbox_rundir_drop_spares(l);
    sandbox_cgroup_sweep(&l->cg, l->slots_len);
    sandbox_cgroup_end(&l->cg);
}

int sandbox_launcher_main(const struct sandbox_launcher_config *config)
{
    static struct launcher l;
    struct err e = { 0 };
    REQUIRE(config->listen_fds_len <= SANDBOX_LISTEN_MAX);
    l.config = config;
    l.settings = config->settings;
    l.exe = l.exe_tree = l.host_mnt = l.host_root = l.host_net = l.host_uts = l.layers = l.runs =
        l.spool = l.storage_userns = -1;
    l.agent_sock.fd = l.agent_pid.fd = l.signals.fd = -1;
    for (size_t i = 0; i < BOX_KEYS_MAX; i++) {
        l.keys[i].fd = -1;
    }
    list_init(&l.queue);
    list_init(&l.waiting);
    list_init(&l.workers);
    if (launcher_start(&l, &e) < 0) {
        log_error("%s", e.text);
        return 1;
    }
    launcher_serve(&l);
    launcher_end(&l);
    return 0;
}
