/* A slot's life: made, used, cleaned, used again; or taken over from an earlier launcher. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/sandbox/sys_launcher.h"
#include "common/insist.h"
#include "common/log.h"

/* ---- making ---- */

/* In the launcher's child: into the slot's groups, then a fresh start from a mount of its own. */
static void spawner_child(struct slot *s, int sock)
{
    struct err e = { 0 };
    sigset_t none;
    for (int sig = 1; sig <= 64; sig++) {
        (void)signal(sig, SIG_DFL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    s->box.sock = sock;
    s->box.memory_dir = s->dirs.fd[CG_MEMORY];
    AUTO_FD int exe = open_tree(AT_FDCWD, "exe", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    int rc = exe < 0 ? err_set(&e, -errno, "clone the mount of the program") : 0;
    if (rc == 0) {
        rc = sandbox_cgroup_join(&s->dirs, &e);
    }
    if (rc == 0) {
        (void)sandbox_spawner_exec(&s->box, exe, &e);
    }
    log_error("slot %u: %s", s->box.slot, e.text);
    _exit(1);
}

static int slot_namespaces(struct slot *s, struct err *e)
{
    struct slot_box *b = &s->box;
    int rc = 0;
    if (b->userns < 0) {
        rc = sandbox_userns_make(0, b->root_id, true, &b->userns, &b->netns, e);
    }
    if (rc == 0 && b->idmap < 0) {
        rc = sandbox_userns_make(b->storage_id, b->root_id, false, &b->idmap, NULL, e);
    }
    return rc;
}

static void slot_close_spawner(struct slot *s)
{
    sandbox_launcher_unwatch(s->l, &s->sock);
    sandbox_launcher_unwatch(s->l, &s->spawner);
    sandbox_launcher_unwatch(s->l, &s->oom);
    s->spawner_pid = 0;
}

int sandbox_slot_make(struct slot *s, struct err *e)
{
    struct launcher *l = s->l;
    int sock[2] = { -1, -1 };
    int rc = slot_namespaces(s, e);
    if (rc == 0 && l->cg.version == 1) {
        rc = sandbox_cgroup_open(&l->cg, s->box.slot, &s->dirs, e);
    }
    if (rc == 0 && (rc = sys_seqpacket_pair(sock)) < 0) {
        err_set(e, rc, "make a socket pair");
    }
    if (rc < 0) {
        return rc;
    }
    pid_t pid = fork();
    if (pid == 0) {
        spawner_child(s, sock[1]);
    }
    fd_close(sock[1]);
    int pidfd = pid > 0 ? sys_pidfd_open(pid) : -1;
    if (pidfd < 0) {
        fd_close(sock[0]);
        return err_set(e, pid < 0 ? -errno : pidfd, "start slot %u's spawner", s->box.slot);
    }
    (void)fd_set_nonblock(sock[0], 1);
    s->spawner_pid = pid;
    s->state = SLOT_MAKING;
    s->limited = false;
    rc = sandbox_launcher_watch(l, &s->sock, WATCH_SLOT_SOCK, sock[0], s, EPOLLIN);
    if (rc == 0) {
        rc = sandbox_launcher_watch(l, &s->spawner, WATCH_SLOT_SPAWNER, pidfd, s, EPOLLIN);
    }
    if (rc == 0 && l->cg.version == 1) {
        struct telemetry_dirs dirs;
        sandbox_cgroup_telemetry(&s->dirs, &dirs);
        (void)telemetry_open(&dirs, &s->fds, NULL);
        int event = sandbox_cgroup_oom_event(&s->dirs);
        if (event >= 0) {
            (void)sandbox_launcher_watch(l, &s->oom, WATCH_SLOT_OOM, event, s, EPOLLIN);
        }
    }
    return rc < 0 ? err_set(e, rc, "watch slot %u's spawner", s->box.slot) : 0;
}

struct slot *sandbox_slot_free_one(struct launcher *l)
{
    struct slot *empty = NULL;
    struct slot *soon = NULL;
    for (uint32_t i = 0; i < l->slots_len; i++) {
        struct slot *s = &l->slots[i];
        if (s->state == SLOT_FREE) {
            return s;
        }
        if (s->state == SLOT_EMPTY && empty == NULL) {
            empty = s;
        }
        if ((s->state == SLOT_MAKING || s->state == SLOT_CLEANING) && soon == NULL) {
            soon = s;
        }
    }
    if (empty == NULL) {
        return soon; /* the request waits in the spawner's socket for a moment */
    }
    struct err e = { 0 };
    if (sandbox_slot_make(empty, &e) < 0) {
        log_error("slot %u: %s", empty->box.slot, e.text);
        return NULL;
    }
    return empty;
}

bool sandbox_slot_soon_free(const struct launcher *l)
{
    for (uint32_t i = 0; i < l->slots_len; i++) {
        enum slot_state state = l->slots[i].state;
        if (state == SLOT_CLEANING || state == SLOT_ENDING) {
            return true;
        }
    }
    return false;
}

void sandbox_slot_trim(struct launcher *l)
{
    enum { IDLE_MS = 60000 };
    uint64_t now = sys_mono_ms();
    for (uint32_t i = 0; i < l->slots_len; i++) {
        struct slot *s = &l->slots[i];
        if (s->state == SLOT_FREE && now - s->free_since_ms > IDLE_MS) {
            sandbox_launcher_unwatch(l, &s->sock); /* it reads the end of the stream, and leaves */
            s->state = SLOT_ENDING;
        }
    }
}

static void slot_set_free(struct slot *s)
{
    s->state = SLOT_FREE;
    s->free_since_ms = sys_mono_ms();
    sandbox_agent_slot_free(s->l);
}

struct slot *sandbox_slot_find(struct launcher *l, struct ulid run, uint32_t attempt)
{
    for (uint32_t i = 0; i < l->slots_len; i++) {
        struct slot *s = &l->slots[i];
        if ((s->state == SLOT_SETUP || s->state == SLOT_RUNNING || s->state == SLOT_ADOPTED) &&
            s->attempt == attempt && ulid_eq(s->run, run)) {
            return s;
        }
    }
    return NULL;
}

bool sandbox_slot_uses_layer(const struct slot *s, const struct digest *id)
{
    if (s->state != SLOT_SETUP && s->state != SLOT_RUNNING && s->state != SLOT_ADOPTED) {
        return false;
    }
    for (uint32_t i = 0; i < s->file.layers_len; i++) {
        if (digest_eq(&s->file.layers[i], id)) {
            return true;
        }
    }
    return false;
}

void sandbox_slot_forget_layer(struct slot *s, const struct digest *id)
{
    struct spawn_request r = { .kind = SPAWN_FORGET, .layer = *id };
    if (s->sock.fd >= 0) {
        (void)sys_send_fds(s->sock.fd, &r, sizeof(r), NULL, 0);
    }
}

/* ---- a run ---- */

static bool limits_same(const struct sandbox_limits *a, const struct sandbox_limits *b)
{
    return a->memory_bytes == b->memory_bytes && a->cpus_milli == b->cpus_milli &&
           a->pids == b->pids;
}

/* The groups with this run's limits, and the reading before it. */
static int slot_groups(struct slot *s, const struct sandbox_limits *limits, struct err *e)
{
    struct launcher *l = s->l;
    int rc = 0;
    if (l->cg.version == 2) {
        struct telemetry_dirs dirs;
        rc = sandbox_cgroup_open(&l->cg, s->box.slot, &s->dirs, e);
        if (rc == 0) {
            sandbox_cgroup_telemetry(&s->dirs, &dirs);
            (void)telemetry_open(&dirs, &s->fds, NULL);
        }
        s->limited = false;
    }
    if (rc == 0 && l->cg.version != 0 && !(s->limited && limits_same(limits, &s->applied))) {
        rc = sandbox_cgroup_limit(&l->cg, &s->dirs, limits, e);
        s->applied = *limits;
        s->limited = rc == 0;
    }
    if (rc == 0 && l->cg.version != 0) {
        s->file.peak_was_reset = l->cg.version == 2 || telemetry_peak_reset(&s->fds) == 0;
        if (telemetry_read(&s->fds, TELEMETRY_ALL, &s->file.base) < 0) {
            s->file.base = (struct telemetry_reading){ 0 };
        }
    }
    return rc;
}

static void slot_groups_done(struct slot *s)
{
    if (s->l->cg.version == 2) {
        telemetry_fds_close(&s->fds);
        sandbox_cgroup_close(&s->dirs);
        (void)sandbox_cgroup_remove(&s->l->cg, s->box.slot);
    }
}

static void slot_forget_run(struct slot *s)
{
    sandbox_launcher_unwatch(s->l, &s->init);
    s->run_dir = fd_close(s->run_dir);
    s->run = (struct ulid){ { 0 } };
    s->attempt = 0;
    s->cloned = false;
    s->stop_asked = false;
    s->file.layers_len = 0;
}

static void slot_state_file(struct slot *s, const struct sandbox_spec *spec)
{
    s->file.slot = s->box.slot;
    s->file.pid = 0;
    s->file.start_ticks = 0;
    s->file.started_wall_us = 0;
    s->file.setup_us = 0;
    memcpy(s->file.boot_id, s->l->boot_id, sizeof(s->file.boot_id));
    s->file.layers_len = (uint32_t)spec->layers_len;
    memcpy(s->file.layers, spec->layers, spec->layers_len * sizeof(*spec->layers));
}

static int slot_send_run(struct slot *s, const struct sandbox_spec *spec, int spec_fd,
                         int fds[SPAWN_FDS_MAX], struct err *e)
{
    struct spawn_request r = { .kind = SPAWN_RUN,
                               .has_payload = spec->payload ? 1 : 0,
                               .arrival_us = s->arrival_us };
    sandbox_dir_name(spec->run, spec->attempt, r.dir);
    fds[SPAWN_FD_SPEC] = spec_fd;
    fds[SPAWN_FD_CGROUP] = s->l->cg.version == 2 ? s->dirs.fd[CG_V2] : -1;
    size_t n = fds[SPAWN_FD_CGROUP] >= 0 ? SPAWN_FDS_MAX : SPAWN_FDS;
    int rc = sys_send_fds(s->sock.fd, &r, sizeof(r), fds, n);
    return rc < 0 ? err_set(e, rc, "ask slot %u's spawner", s->box.slot) : 0;
}

int sandbox_slot_start(struct slot *s, const struct sandbox_spec *spec, int spec_fd,
                       uint64_t arrival_us, struct err *e)
{
    struct launcher *l = s->l;
    int fds[SPAWN_FDS_MAX] = { -1, -1, -1, -1, -1, -1, -1 };
    int rc = sandbox_rundir_make(l, spec, &s->run_dir, fds, e);
    if (rc < 0) {
        return rc;
    }
    s->arrival_us = arrival_us;
    slot_state_file(s, spec);
    rc = slot_groups(s, &spec->limits, e);
    if (rc == 0 && (rc = sandbox_rundir_state_write(s->run_dir, &s->file)) < 0) {
        err_set(e, rc, "write the run's state");
    }
    if (rc == 0) {
        rc = slot_send_run(s, spec, spec_fd, fds, e);
    }
    for (size_t i = SPAWN_FD_STDOUT; i <= SPAWN_FD_EXIT; i++) {
        fd_close(fds[i]);
    }
    if (rc < 0) {
        slot_groups_done(s);
        slot_forget_run(s);
        sandbox_rundir_undo(l, spec->run, spec->attempt);
        return rc;
    }
    s->run = spec->run;
    s->attempt = spec->attempt;
    s->state = SLOT_SETUP;
    return 0;
}

int sandbox_slot_order(struct slot *s, int order, int sig)
{
    siginfo_t si = { 0 };
    si.si_signo = INIT_SIGNAL;
    si.si_code = SI_QUEUE;
    si.si_pid = getpid();
    si.si_value.sival_int = INIT_ORDER(order, sig);
    if (s->init.fd < 0) {
        return -ESRCH;
    }
    return syscall(SYS_pidfd_send_signal, s->init.fd, INIT_SIGNAL, &si, 0) < 0 ? -errno : 0;
}

void sandbox_slot_tell_started(struct slot *s, bool adopted)
{
    struct sandbox_msg m = { .type = SANDBOX_MSG_STARTED, .run = s->run, .attempt = s->attempt };
    int fds[SYS_FDS_MAX];
    size_t n = 0;
    m.number[SANDBOX_N_SLOT] = s->box.slot;
    m.number[SANDBOX_N_PID] = (uint64_t)s->file.pid;
    m.number[SANDBOX_N_KIND] = s->file.kind;
    m.number[SANDBOX_N_SETUP_US] = s->file.setup_us;
    m.number[SANDBOX_N_WALL_US] = (uint64_t)s->file.started_wall_us;
    m.number[SANDBOX_N_ADOPTED] = adopted ? 1 : 0;
    m.number[SANDBOX_N_PEAK_RESET] = s->file.peak_was_reset ? 1 : 0;
    m.base = s->file.base;
    for (size_t i = 0; i < TELEMETRY_FILE_COUNT && n < SYS_FDS_MAX; i++) {
        /* Those two are writable, to reset the peak; samples do not read them. */
        bool ours = i == TELEMETRY_V1_MEMORY_MAX_USAGE || i == TELEMETRY_V2_MEMORY_PEAK;
        if (s->fds.fd[i] >= 0 && !ours) {
            m.number[SANDBOX_N_FILES] |= UINT64_C(1) << i;
            fds[n++] = s->fds.fd[i];
        }
    }
    sandbox_agent_send(s->l, &m, fds, n);
}

static void slot_tell_failed(struct slot *s, int rc, const char *text)
{
    struct sandbox_msg m = {
        .type = SANDBOX_MSG_FAILED, .run = s->run, .attempt = s->attempt, .rc = rc < 0 ? rc : -EIO
    };
    sandbox_text(m.text, text);
    struct ulid run = s->run;
    uint32_t attempt = s->attempt;
    slot_groups_done(s);
    slot_forget_run(s);
    sandbox_rundir_undo(s->l, run, attempt);
    sandbox_agent_send(s->l, &m, NULL, 0);
}

static void slot_cloned(struct slot *s, const struct slot_report *r, int pidfd)
{
    s->cloned = true;
    s->file.pid = r->pid;
    s->file.kind = r->attached > 0 ? 0 /* cold */ : 1 /* cached */;
    (void)sys_proc_start_time((pid_t)r->pid, &s->file.start_ticks);
    (void)sandbox_rundir_state_write(s->run_dir, &s->file);
    if (sandbox_launcher_watch(s->l, &s->init, WATCH_SLOT_INIT, pidfd, s, EPOLLIN) < 0) {
        log_error("slot %u: cannot watch its sandbox", s->box.slot);
    }
    if (s->stop_asked) {
        (void)sandbox_slot_order(s, INIT_STOP, 0);
    }
}

static void slot_started(struct slot *s, const struct slot_report *r)
{
    s->file.started_wall_us = r->wall_us;
    s->file.setup_us = r->setup_us;
    s->state = SLOT_RUNNING;
    sandbox_slot_tell_started(s, false);
    (void)sandbox_rundir_state_write(s->run_dir, &s->file);
}

static bool slot_take_report(struct slot *s)
{
    struct slot_report r;
    int pidfd = -1; /* REPORT_STARTED: a mount namespace */
    size_t fds = 0;
    ssize_t n = sys_recv_fds(s->sock.fd, &r, sizeof(r), &pidfd, 1, &fds);
    if (n != (ssize_t)sizeof(r)) {
        if (n != -EAGAIN) { /* the spawner's own end tells the rest */
            (void)epoll_ctl(s->l->epoll, EPOLL_CTL_DEL, s->sock.fd, NULL);
        }
        fd_close(pidfd);
        return false;
    }
    r.text[sizeof(r.text) - 1] = '\0';
    if (r.kind == REPORT_READY && r.rc < 0) {
        log_error("slot %u: %s", s->box.slot, r.text);
    } else if (r.kind == REPORT_READY && s->state == SLOT_MAKING) {
        slot_set_free(s);
    } else if (r.kind == REPORT_CLONED && s->state == SLOT_SETUP && !s->cloned && fds == 1) {
        slot_cloned(s, &r, fd_take(&pidfd));
    } else if (r.kind == REPORT_STARTED && s->state == SLOT_SETUP && s->cloned) {
        fd_close(s->mounts);
        s->mounts = fd_take(&pidfd);
        slot_started(s, &r);
    } else if (r.kind == REPORT_FAILED && s->state == SLOT_SETUP) {
        slot_tell_failed(s, r.rc, r.text);
        slot_set_free(s);
    } else if (r.kind == REPORT_CLEANED && s->state == SLOT_CLEANING) {
        slot_set_free(s);
        sandbox_rundir_refill(s->l, SPARES_MAX);
    }
    fd_close(pidfd);
    return true;
}

void sandbox_slot_on_sock(struct slot *s)
{
    while (s->sock.fd >= 0 && slot_take_report(s)) {
    }
}

void sandbox_slot_on_spawner(struct slot *s)
{
    siginfo_t si;
    (void)waitid(P_PIDFD, (id_t)s->spawner.fd, &si, WEXITED | WNOHANG);
    if (s->state != SLOT_ENDING) {
        log_warn("slot %u: its spawner ended", s->box.slot);
    }
    slot_close_spawner(s);
    if (s->state == SLOT_SETUP && !s->cloned) {
        slot_tell_failed(s, -EIO, "the slot's spawner ended");
        s->state = SLOT_EMPTY;
    } else if (s->state != SLOT_RUNNING && s->state != SLOT_SETUP) {
        s->state = SLOT_EMPTY;
    }
    sandbox_agent_slot_free(s->l);
}

/* The limit was hit: in v1 the kernel takes one process, but the run is over as a whole. */
void sandbox_slot_on_oom(struct slot *s)
{
    uint64_t count;
    (void)!read(s->oom.fd, &count, sizeof(count));
    if (s->state == SLOT_RUNNING || s->state == SLOT_SETUP) {
        (void)sandbox_slot_order(s, INIT_OOM, 0);
    }
}

/* What may take its time is the spawner's to do. The namespace's last reference travels. */
static void slot_clean(struct slot *s, int record)
{
    const struct spawn_request r = { .kind = SPAWN_CLEAN };
    const int fds[] = { record, s->mounts };
    size_t n = record < 0 ? 0 : s->mounts < 0 ? 1 : 2;
    s->state = SLOT_CLEANING;
    if (sys_send_fds(s->sock.fd, &r, sizeof(r), fds, n) < 0) {
        (void)kill(s->spawner_pid, SIGKILL);
    }
    s->mounts = fd_close(s->mounts);
}

/* init is gone, and with it everything in the sandbox: totals, record, answer; then clean up. */
void sandbox_slot_on_init(struct slot *s)
{
    struct launcher *l = s->l;
    struct sandbox_usage usage = { .base = s->file.base, .peak_was_reset = s->file.peak_was_reset };
    siginfo_t si;
    bool adopted = s->state == SLOT_ADOPTED;
    sandbox_slot_on_sock(s); /* STARTED may still wait there: it comes before the end */
    (void)waitid(P_PIDFD, (id_t)s->init.fd, &si, WEXITED | WNOHANG); /* ECHILD when adopted */
    if (telemetry_read(&s->fds, TELEMETRY_ALL, &usage.end) < 0) {
        usage.end = (struct telemetry_reading){ 0 };
    }
    sandbox_adopt_end(l, s->run_dir, s->run, s->attempt, &usage, false);
    AUTO_FD int record = openat(s->run_dir, "exit", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    slot_groups_done(s);
    slot_forget_run(s);
    if (adopted) {
        telemetry_fds_close(&s->fds);
        sandbox_cgroup_close(&s->dirs);
        s->state = SLOT_EMPTY;
        sandbox_agent_slot_free(l);
    } else if (s->spawner_pid == 0) {
        s->mounts = fd_close(s->mounts);
        s->state = SLOT_EMPTY;
        sandbox_agent_slot_free(l);
    } else {
        slot_clean(s, record);
    }
}
