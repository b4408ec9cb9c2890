/* A slot's life: made, given a sandbox, cleaned, used again; or taken over from an earlier
 * launcher.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
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
#include "agent/sandbox/sys_nat.h"
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

bool sandbox_slot_soon_free(const struct launcher *l)
{
    for (uint32_t i = 0; i < l->slots_len; i++) {
        enum slot_state state = l->slots[i].state;
        if (state == SLOT_CLEANING || state == SLOT_ENDING || state == SLOT_ENDED ||
            state == SLOT_DIRTY || state == SLOT_DROPPING || state == SLOT_MAKING) {
            return true;
        }
    }
    return false;
}

void sandbox_slot_trim(struct launcher *l)
{
    enum { IDLE_MS = 60000 };
    uint64_t now = sys_mono_ms();
    sandbox_pool_trim(l);
    for (uint32_t i = 0; i < l->slots_len; i++) {
        struct slot *s = &l->slots[i];
        if (s->state == SLOT_FREE && now - s->free_since_ms > IDLE_MS) {
            sandbox_launcher_unwatch(l, &s->sock); /* it reads the end of the stream, and leaves */
            sandbox_nat_slot_drop(s);
            s->state = SLOT_ENDING;
        }
    }
}

static void slot_set_free(struct slot *s)
{
    s->state = SLOT_FREE;
    s->free_since_ms = sys_mono_ms();
    if (s->l->cg.version != 2) {
        sandbox_groups_base(s); /* now, when nobody waits for it */
    }
    sandbox_agent_slot_free(s->l);
    s->l->chores = true;
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

/* ---- a sandbox ---- */

static void slot_state_file(struct slot *s, const struct sandbox_spec *spec)
{
    s->file.slot = s->box.slot;
    s->file.pid = 0;
    s->file.start_ticks = 0;
    s->file.started_wall_us = 0;
    s->file.setup_us = 0;
    s->file.nat = spec->limits.network == SANDBOX_NETWORK_NAT;
    s->file.rdt_group = 0;
    s->file.cache = SANDBOX_CACHE_DEFAULT;
    memcpy(s->file.boot_id, s->l->boot_id, sizeof(s->file.boot_id));
    s->file.layers_len = (uint32_t)spec->layers_len;
    memcpy(s->file.layers, spec->layers, spec->layers_len * sizeof(*spec->layers));
}

/* Large payloads are not copied: they become a layer, which only a sandbox built for it has. */
bool sandbox_slot_layered(const struct run_order *o)
{
    enum { COPY_MAX = 256 * 1024 };
    return o != NULL && o->payload >= 0 &&
           (o->payload_bytes > COPY_MAX || o->payload_bytes > o->spec->limits.disk_bytes / 2);
}

/* The sandbox's directory, with its note; for a run, under the run's name. */
static int build_directory(struct slot *s, const struct run_order *o, struct err *e)
{
    struct launcher *l = s->l;
    int rc = sandbox_rundir_spare_take(l, &s->home, e);
    if (rc < 0) {
        return rc;
    }
    if (o != NULL &&
        (rc = sandbox_rundir_name(l, &s->home, o->spec->run, o->spec->attempt, e)) < 0) {
        sandbox_rundir_spare_drop(l, &s->home);
        return rc;
    }
    if (sandbox_slot_layered(o)) {
        rc = sandbox_rundir_payload_link(l, s->home.dir, o->spec->run, o->payload, e);
    }
    if (rc == 0 && (rc = sandbox_rundir_state_write(s->home.dir, &s->file)) < 0) {
        err_set(e, rc, "write the run's state");
    }
    return rc;
}

static int build_send(struct slot *s, const struct run_order *o, struct err *e)
{
    int sock[2];
    struct spawn_request r = { .kind = SPAWN_BUILD,
                               .ahead = o == NULL || o->spec->secrets || s->held ? 1 : 0,
                               .payload_layer = sandbox_slot_layered(o) ? 1 : 0 };
    int rc = sys_seqpacket_pair(sock);
    if (rc < 0) {
        return err_set(e, rc, "make a socket pair");
    }
    if (o != NULL) {
        sandbox_dir_name(o->spec->run, o->spec->attempt, r.dir);
        (void)str_copy(r.hostname, sizeof(r.hostname), str_of(o->spec->hostname));
    }
    int fds[SPAWN_FDS_MAX];
    memcpy(fds, s->home.fds, sizeof(fds));
    fds[SPAWN_FD_SPEC] = s->key->fd;
    fds[SPAWN_FD_SOCK] = sock[1];
    fds[SPAWN_FD_CGROUP] = s->l->cg.version == 2 ? s->dirs.fd[CG_V2] : -1;
    size_t n = fds[SPAWN_FD_CGROUP] >= 0 ? SPAWN_FD_CGROUP + 1 : SPAWN_FDS;
    if (s->file.nat) {
        r.has_net = 1;
        fds[n++] = sandbox_nat_netns(s);
    }
    (void)fd_set_nonblock(sock[0], 1);
    rc = sys_send_fds(s->sock.fd, &r, sizeof(r), fds, n);
    fd_close(sock[1]);
    if (rc < 0) {
        fd_close(sock[0]);
        return err_set(e, rc, "ask slot %u's spawner", s->box.slot);
    }
    /* Not read before CLONED, which may be late: the spawner can be slower than what it cloned. */
    s->job = (struct watch){ .kind = WATCH_SLOT_BOX, .fd = sock[0], .owner = s };
    return 0;
}

static void home_close(struct slot *s)
{
    sandbox_rundir_spare_close(&s->home);
}

int sandbox_slot_build(struct slot *s, struct box_key *key, const struct run_order *o,
                       struct err *e)
{
    bool named = false;
    const struct sandbox_spec *spec = o != NULL ? o->spec : &key->spec;
    s->key = key;
    s->held = o != NULL && sandbox_resctrl_on(s->l);
    slot_state_file(s, spec);
    int rc = sandbox_nat_place(s, spec->limits.network, e);
    rc = rc == 0 ? sandbox_groups_limit(s, &spec->limits, e) : rc;
    if (rc == 0) {
        if (!s->based) {
            sandbox_groups_base(s);
        }
        rc = build_directory(s, o, e);
        named = rc == 0 && o != NULL;
    }
    rc = rc == 0 ? build_send(s, o, e) : rc;
    for (size_t i = 0; i < SPAWN_FDS_MAX; i++) {
        s->home.fds[i] = fd_close(s->home.fds[i]);
    }
    if (rc < 0) {
        sandbox_launcher_unwatch(s->l, &s->job);
        sandbox_groups_done(s);
        s->key = NULL;
        if (named) {
            home_close(s);
            sandbox_rundir_undo(s->l, o->spec->run, o->spec->attempt);
        } else if (s->home.dir >= 0) {
            sandbox_rundir_spare_drop(s->l, &s->home);
        }
        return rc;
    }
    s->state = SLOT_PREPARING;
    return 0;
}

/* What PREPARING, READY and DROPPING end with: the directory was never a run's. */
static void slot_unbox(struct slot *s)
{
    sandbox_launcher_unwatch(s->l, &s->job);
    sandbox_launcher_unwatch(s->l, &s->init);
    s->uts = fd_close(s->uts);
    s->secrets = fd_close(s->secrets);
    sandbox_rundir_spare_drop(s->l, &s->home);
    sandbox_groups_done(s);
    s->key = NULL;
    s->cloned = false;
    s->based = false;
    s->held = false;
    s->file.layers_len = 0;
}

void sandbox_slot_drop(struct slot *s)
{
    REQUIRE(s->state == SLOT_PREPARING || s->state == SLOT_READY);
    s->state = SLOT_DROPPING;
    sandbox_launcher_unwatch(s->l, &s->job); /* it reads the end of the stream, and leaves */
    if (s->init.fd >= 0) {
        (void)syscall(SYS_pidfd_send_signal, s->init.fd, SIGKILL, NULL, 0);
    }
}

/* ---- a run ---- */

static void pend_close(struct slot *s)
{
    s->pend_spec = fd_close(s->pend_spec);
    s->pend_payload = fd_close(s->pend_payload);
    s->pend_secrets = sandbox_secrets_drop(s->pend_secrets);
}

static void slot_forget_run(struct slot *s)
{
    sandbox_nat_run_over(s);
    sandbox_resctrl_over(s);
    sandbox_launcher_unwatch(s->l, &s->job);
    pend_close(s);
    s->uts = fd_close(s->uts);
    s->secrets = fd_close(s->secrets);
    s->run_dir = fd_close(s->run_dir);
    s->run = (struct ulid){ { 0 } };
    s->attempt = 0;
    s->stop_asked = false;
    s->held = false;
    s->file.layers_len = 0;
    if (s->key != NULL) {
        sandbox_pool_end(&s->key->use);
        s->key = NULL;
    }
}

static void slot_forget_init(struct slot *s)
{
    sandbox_launcher_unwatch(s->l, &s->init);
    s->cloned = false;
    s->based = false;
}

/* The sandbox's UTS namespace is entered for a moment: nobody inside has the right to name it. */
static int name_host(struct slot *s, const char *hostname)
{
    if (s->uts < 0 || s->key == NULL || strcmp(hostname, s->key->spec.hostname) == 0) {
        s->uts = fd_close(s->uts);
        return 0;
    }
    int rc =
        setns(s->uts, CLONE_NEWUTS) < 0 || sethostname(hostname, strlen(hostname)) < 0 ? -errno : 0;
    if (setns(s->l->host_uts, CLONE_NEWUTS) < 0) {
        rc = -errno;
    }
    s->uts = fd_close(s->uts);
    return rc;
}

static int slot_send_start(struct slot *s, const char *hostname, int spec_fd, int payload,
                           int *secrets)
{
    const int fds[] = { spec_fd, payload };
    struct err e = { 0 };
    int rc = name_host(s, hostname);
    sandbox_resctrl_enter(s); /* init and the job's process are there, and wait */
    if (rc == 0 && *secrets >= 0) {
        rc = sandbox_secrets_put(s->secrets, *secrets, s->box.root_id + s->job_uid,
                                 s->box.root_id + s->job_gid, &e);
        if (rc < 0) {
            log_error("slot %u: %s", s->box.slot, e.text);
        }
        s->secrets = fd_close(s->secrets);
    }
    rc = rc < 0 ? rc
                : sys_send_fds(s->job.fd, &s->start, sizeof(s->start), fds, payload >= 0 ? 2 : 1);
    if (rc == 0) {
        *secrets = sandbox_secrets_drop(*secrets);
    }
    return rc;
}

/* The run's words go to its sandbox: now, or when it is ready and can be named. */
static int slot_give(struct slot *s, const struct run_order *o, enum slot_state from)
{
    int payload = sandbox_slot_layered(o) ? -1 : o->payload;
    s->start = (struct start_request){ .arrival_us = o->arrival_us,
                                       .has_payload = o->payload >= 0 ? 1 : 0,
                                       .payload_bytes = payload >= 0 ? o->payload_bytes : 0 };
    if (from == SLOT_READY || (from != SLOT_PREPARING && !o->spec->secrets && !s->held)) {
        return slot_send_start(s, o->spec->hostname, o->spec_fd, payload, o->secrets);
    }
    s->pend_spec = fd_dup(o->spec_fd, 3);
    s->pend_payload = payload >= 0 ? fd_dup(payload, 3) : -1;
    s->pend_secrets = fd_take(o->secrets);
    (void)str_copy(s->pend_hostname, sizeof(s->pend_hostname), str_of(o->spec->hostname));
    return s->pend_spec < 0 ? s->pend_spec : 0;
}

/* A sandbox built ahead becomes this run's. */
static int slot_claim(struct slot *s, const struct run_order *o, struct err *e)
{
    bool fresh_base = !s->based;
    int rc = sandbox_groups_limit(s, &o->spec->limits, e);
    if (rc == 0 && fresh_base) {
        sandbox_groups_base(s);
        (void)sandbox_rundir_state_write(s->home.dir, &s->file);
    }
    return rc == 0 ? sandbox_rundir_name(s->l, &s->home, o->spec->run, o->spec->attempt, e) : rc;
}

int sandbox_slot_start(struct slot *s, const struct run_order *o, struct err *e)
{
    const enum slot_state from = s->state;
    bool ahead = from == SLOT_READY || from == SLOT_PREPARING;
    int rc = sandbox_nat_run(s, o->spec, e);
    if (rc < 0) {
        if (ahead) {
            sandbox_slot_drop(s); /* what it was built in may be gone */
        }
        return rc;
    }
    rc = ahead ? slot_claim(s, o, e) : sandbox_slot_build(s, sandbox_pool_key(s->l, o->spec), o, e);
    if (rc < 0) {
        sandbox_nat_run_over(s);
        return rc;
    }
    sandbox_nat_base(s);
    s->file.cache = o->spec->limits.cache;
    s->file.kind = from == SLOT_READY ? SLOT_KIND_WARM : SLOT_KIND_CACHED;
    rc = slot_give(s, o, from);
    if (rc < 0) { /* it died this very moment: another slot */
        sandbox_nat_run_over(s);
        sandbox_resctrl_over(s);
        pend_close(s);
        home_close(s);
        sandbox_rundir_undo(s->l, o->spec->run, o->spec->attempt);
        s->state = SLOT_PREPARING;
        sandbox_slot_drop(s);
        return err_set(e, -EAGAIN, "start the run in slot %u", s->box.slot);
    }
    s->run_dir = fd_take(&s->home.dir);
    home_close(s);
    s->run = o->spec->run;
    s->attempt = o->spec->attempt;
    s->state = SLOT_SETUP;
    if (s->key != NULL) {
        sandbox_pool_begin(&s->key->use, sys_mono_ms());
    }
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
    m.number[SANDBOX_N_RDT] = sandbox_resctrl_free(s->l);
    m.number[SANDBOX_N_CACHE] = s->file.cache;
    m.base = s->file.base;
    for (size_t i = 0; i < TELEMETRY_FILE_COUNT && n < SYS_FDS_MAX; i++) {
        /* Those two are writable, to reset the peak; samples do not read them. */
        bool ours = i == TELEMETRY_V1_MEMORY_MAX_USAGE || i == TELEMETRY_V2_MEMORY_PEAK;
        if (s->fds.fd[i] >= 0 && !ours) {
            m.number[SANDBOX_N_FILES] |= UINT64_C(1) << i;
            fds[n++] = s->fds.fd[i];
        }
    }
    if (sandbox_nat_dns(s) >= 0 && n < SYS_FDS_MAX) {
        m.number[SANDBOX_N_DNS] = 1;
        fds[n++] = sandbox_nat_dns(s);
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
    slot_forget_run(s);
    slot_forget_init(s);
    sandbox_groups_done(s);
    sandbox_rundir_undo(s->l, run, attempt);
    sandbox_agent_send(s->l, &m, NULL, 0);
}

/* The directory of the sandbox, be it a run's already or not. */
static int slot_dir(const struct slot *s)
{
    return s->run_dir >= 0 ? s->run_dir : s->home.dir;
}

static void slot_cloned(struct slot *s, const struct slot_report *r, int pidfd)
{
    s->cloned = true;
    s->file.pid = r->pid;
    if (s->file.kind != SLOT_KIND_WARM) {
        s->file.kind = r->attached > 0 ? SLOT_KIND_COLD : SLOT_KIND_CACHED;
    }
    (void)sys_proc_start_time((pid_t)r->pid, &s->file.start_ticks);
    if (s->state != SLOT_DROPPING) {
        (void)sandbox_rundir_state_write(slot_dir(s), &s->file);
    }
    if (sandbox_launcher_watch(s->l, &s->init, WATCH_SLOT_INIT, pidfd, s, EPOLLIN) < 0) {
        log_error("slot %u: cannot watch its sandbox", s->box.slot);
    }
    if (s->job.fd >= 0 &&
        sandbox_launcher_watch(s->l, &s->job, WATCH_SLOT_BOX, s->job.fd, s, EPOLLIN) < 0) {
        log_error("slot %u: cannot watch its sandbox", s->box.slot);
    }
    if (s->state == SLOT_DROPPING) {
        (void)syscall(SYS_pidfd_send_signal, s->init.fd, SIGKILL, NULL, 0);
    } else if (s->stop_asked) {
        (void)sandbox_slot_order(s, INIT_STOP, 0);
    }
}

static bool waits_for_clone(const struct slot *s)
{
    return !s->cloned &&
           (s->state == SLOT_SETUP || s->state == SLOT_PREPARING || s->state == SLOT_DROPPING);
}

/* The spawner could not clone. */
static void slot_build_failed(struct slot *s, const struct slot_report *r)
{
    if (s->state == SLOT_SETUP) {
        slot_tell_failed(s, r->rc, r->text);
    } else {
        log_warn("slot %u: build a sandbox ahead: %s", s->box.slot, r->text);
        if (s->key != NULL) {
            s->key->bad_until_ms = sys_mono_ms() + POOL_BAD_MS;
        }
        slot_unbox(s);
    }
    slot_set_free(s);
}

static bool slot_take_report(struct slot *s)
{
    struct slot_report r;
    int pidfd = -1;
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
    } else if (r.kind == REPORT_CLONED && waits_for_clone(s) && fds == 1) {
        slot_cloned(s, &r, fd_take(&pidfd));
    } else if (r.kind == REPORT_FAILED && waits_for_clone(s)) {
        slot_build_failed(s, &r);
    } else if (r.kind == REPORT_CLEANED && s->state == SLOT_CLEANING) {
        slot_set_free(s);
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
    bool alive = s->cloned; /* init follows its own socket, or its run */
    if (s->state == SLOT_SETUP && !alive) {
        slot_tell_failed(s, -EIO, "the slot's spawner ended");
        s->state = SLOT_EMPTY;
    } else if (s->state == SLOT_PREPARING || s->state == SLOT_READY) {
        sandbox_slot_drop(s);
    }
    if (s->state == SLOT_DROPPING && !alive) {
        slot_unbox(s);
        s->state = SLOT_EMPTY;
    } else if (s->state != SLOT_RUNNING && s->state != SLOT_SETUP && s->state != SLOT_ENDED &&
               s->state != SLOT_DROPPING) {
        s->mounts = fd_close(s->mounts); /* DIRTY */
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

/* ---- the sandbox's own reports ---- */

/* It was built under the score of its job; init alone shall outlive the memory limit, to say what
 * happened. Hosts that forbid it (no CAP_SYS_RESOURCE) are asked once: the launcher then writes the
 * record. */
static void slot_spare_init(struct slot *s)
{
    char path[48];
    if (s->l->cannot_spare) {
        return;
    }
    snprintf(path, sizeof(path), "/proc/%lld/oom_score_adj", (long long)s->file.pid);
    int rc = sys_write_text(AT_FDCWD, path, "-1000");
    s->l->cannot_spare = rc == -EACCES || rc == -EPERM;
}

static void slot_started(struct slot *s, const struct slot_report *r)
{
    s->file.started_wall_us = r->wall_us;
    s->file.setup_us = r->setup_us;
    s->state = SLOT_RUNNING;
    sandbox_slot_tell_started(s, false);
    (void)sandbox_rundir_state_write(s->run_dir, &s->file);
    slot_spare_init(s);
}

/* A secret that cannot be handed over ends the sandbox: it would wait for its run for ever. */
static void slot_start_pending(struct slot *s)
{
    int rc = slot_send_start(s, s->pend_hostname, s->pend_spec, s->pend_payload, &s->pend_secrets);
    if (rc < 0 && s->init.fd >= 0) {
        (void)syscall(SYS_pidfd_send_signal, s->init.fd, SIGKILL, NULL, 0);
    }
    pend_close(s); /* when it failed: init's end tells */
}

/* fds: the UTS namespace, the directory for secrets or -1; taken. */
static void slot_prepared(struct slot *s, const struct slot_report *r, int fds[2])
{
    s->uts = fd_take(&fds[0]);
    s->secrets = fd_take(&fds[1]);
    s->job_uid = r->uid < IDS_PER_SLOT ? r->uid : IDS_PER_SLOT - 1;
    s->job_gid = r->gid < IDS_PER_SLOT ? r->gid : IDS_PER_SLOT - 1;
    if (s->state == SLOT_PREPARING) {
        s->state = SLOT_READY;
        sandbox_groups_base(s); /* building it is not the run's to pay for */
        (void)sandbox_rundir_state_write(s->home.dir, &s->file);
    } else if (s->pend_spec >= 0) {
        slot_start_pending(s);
    }
}

/* Totals, record, answer; the run is over for the agent. */
static void slot_tell_end(struct slot *s)
{
    struct sandbox_usage usage = { .base = s->file.base, .peak_was_reset = s->file.peak_was_reset };
    if (telemetry_read(&s->fds, TELEMETRY_ALL, &usage.end) < 0) {
        usage.end = (struct telemetry_reading){ 0 };
    }
    sandbox_adopt_end(s->l, s->run_dir, s->run, s->attempt, &usage, false);
    if (s->l->agent_sock.fd < 0) { /* nobody else keeps it until there is an agent again */
        AUTO_FD int record = openat(s->run_dir, "exit", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        (void)fdatasync(record);
    }
    slot_forget_run(s);
}

static bool box_take_report(struct slot *s)
{
    struct slot_report r;
    int fd[2] = { -1, -1 }; /* STARTED: the mount namespace */
    size_t fds = 0;
    ssize_t n = sys_recv_fds(s->job.fd, &r, sizeof(r), fd, 2, &fds);
    if (n != (ssize_t)sizeof(r)) {
        if (n != -EAGAIN) { /* init's end tells the rest */
            (void)epoll_ctl(s->l->epoll, EPOLL_CTL_DEL, s->job.fd, NULL);
        }
        fd_close(fd[0]);
        fd_close(fd[1]);
        return false;
    }
    if (r.kind == REPORT_PREPARED && (s->state == SLOT_PREPARING || s->state == SLOT_SETUP) &&
        fds >= 1 && s->uts < 0) {
        slot_prepared(s, &r, fd);
    } else if (r.kind == REPORT_STARTED && s->state == SLOT_SETUP && s->cloned) {
        fd_close(s->mounts);
        s->mounts = fd_take(&fd[0]);
        slot_started(s, &r);
    } else if (r.kind == REPORT_ENDED && s->state == SLOT_RUNNING) {
        s->state = SLOT_ENDED;
        slot_tell_end(s);
    }
    fd_close(fd[0]);
    fd_close(fd[1]);
    return true;
}

void sandbox_slot_on_box(struct slot *s)
{
    sandbox_slot_on_sock(s); /* CLONED comes before what its sandbox says */
    while (s->cloned && s->job.fd >= 0 && box_take_report(s)) {
    }
}

/* ---- its end ---- */

/* What may take its time is the spawner's to do. The namespace's last reference travels. */
void sandbox_slot_clean(struct slot *s)
{
    REQUIRE(s->state == SLOT_DIRTY);
    const struct spawn_request r = { .kind = SPAWN_CLEAN };
    s->state = SLOT_CLEANING;
    if (sys_send_fds(s->sock.fd, &r, sizeof(r), &s->mounts, s->mounts < 0 ? 0 : 1) < 0) {
        (void)kill(s->spawner_pid, SIGKILL);
    }
    s->mounts = fd_close(s->mounts);
}

bool sandbox_slot_chore(struct launcher *l)
{
    for (uint32_t i = 0; i < l->slots_len; i++) {
        if (l->slots[i].state == SLOT_DIRTY) {
            sandbox_slot_clean(&l->slots[i]);
            return true;
        }
    }
    return false;
}

/* A sandbox built ahead is gone: we dropped it, or it could not be built. */
static void slot_box_gone(struct slot *s)
{
    struct sandbox_result r;
    if (s->state != SLOT_DROPPING && s->key != NULL) {
        bool said = sandbox_rundir_record_read(s->home.dir, &r) == 0;
        log_debug("slot %u: build a sandbox ahead: %s", s->box.slot,
                  said ? r.text : "its init ended");
        s->key->bad_until_ms = sys_mono_ms() + POOL_BAD_MS;
    }
    slot_unbox(s);
    if (s->spawner_pid == 0) {
        s->state = SLOT_EMPTY;
        sandbox_agent_slot_free(s->l);
    } else {
        slot_set_free(s);
    }
}

/* init is gone, and with it everything in the sandbox. */
void sandbox_slot_on_init(struct slot *s)
{
    struct launcher *l = s->l;
    siginfo_t si;
    bool adopted = s->state == SLOT_ADOPTED;
    if (!adopted) {
        sandbox_slot_on_box(s); /* STARTED may still wait there: it comes before the end */
    }
    (void)waitid(P_PIDFD, (id_t)s->init.fd, &si, WEXITED | WNOHANG); /* ECHILD when adopted */
    if (s->state == SLOT_PREPARING || s->state == SLOT_READY || s->state == SLOT_DROPPING) {
        slot_box_gone(s);
        return;
    }
    if (s->state != SLOT_ENDED) {
        slot_tell_end(s);
    }
    slot_forget_init(s);
    sandbox_groups_done(s);
    if (adopted) {
        telemetry_fds_close(&s->fds);
        sandbox_cgroup_close(&s->dirs);
    }
    if (adopted || s->spawner_pid == 0) {
        s->mounts = fd_close(s->mounts);
        s->state = SLOT_EMPTY;
        sandbox_agent_slot_free(l);
    } else {
        s->state = SLOT_DIRTY;
        l->chores = true;
        sandbox_agent_slot_free(l);
    }
}
