/* The agent process: who it is, starting and restarting it, and its socket. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/sandbox/sys_launcher.h"
#include "agent/sandbox/sys_nat.h"
#include "common/log.h"
#include "common/mem.h"

enum { BACKOFF_FIRST_MS = 200, BACKOFF_MAX_MS = 10000, LIVED_LONG_MS = 60000 };

/* ---- who it is ---- */

/* "uid" or "uid:gid": for hosts without the user. */
static bool user_numeric(struct launcher *l, struct str s)
{
    uint64_t uid;
    uint64_t gid;
    ptrdiff_t colon = str_find(s, ':');
    struct str first = colon < 0 ? s : str_slice(s, 0, (size_t)colon);
    struct str second = colon < 0 ? s : str_slice(s, (size_t)colon + 1, s.n);
    if (str_u64_in(first, 0, UINT32_MAX - 1, &uid) < 0 ||
        str_u64_in(second, 0, UINT32_MAX - 1, &gid) < 0) {
        return false;
    }
    l->agent_uid = (uint32_t)uid;
    l->agent_gid = (uint32_t)gid;
    return true;
}

/* The host's own files are read like an image's: no name service, which a static program cannot
 * load. */
static int user_named(struct launcher *l, const char *user, struct err *e)
{
    struct buf AUTO_BUF passwd = BUF_INIT(SANDBOX_PASSWD_MAX);
    struct sandbox_user u;
    int rc = sys_read_file(AT_FDCWD, "/etc/passwd", SANDBOX_PASSWD_MAX, &passwd, e);
    if (rc < 0) {
        return rc;
    }
    if (sandbox_user_find(user, buf_str(&passwd), STR(""), &u, NULL) < 0) {
        return err_say(e, -ENOENT,
                       "there is no user '%s' in /etc/passwd (node.user): create it with 'useradd "
                       "--system --no-create-home --shell /usr/sbin/nologin %s', or set node.user "
                       "to an existing one or to 'uid:gid'",
                       user, user);
    }
    l->agent_uid = u.uid;
    l->agent_gid = u.gid;
    return 0;
}

int sandbox_agent_user_find(struct launcher *l, const char *user, struct err *e)
{
    int rc = user_numeric(l, str_of(user)) ? 0 : user_named(l, user, e);
    if (rc < 0) {
        return rc;
    }
    if (l->agent_uid == 0) {
        return err_say(e, -EINVAL, "node.user '%s' is root: the agent process must not be", user);
    }
    return 0;
}

/* ---- starting ---- */

static int agent_drop_rights(const struct launcher *l, struct err *e)
{
    gid_t gid = l->agent_gid;
    sandbox_rlimit_raise_nofile();
    for (int cap = 0; cap <= 63 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++) {
    }
    if (setgroups(1, &gid) < 0 || setresgid(gid, gid, gid) < 0 ||
        setresuid(l->agent_uid, l->agent_uid, l->agent_uid) < 0) {
        return err_set(e, -errno, "become user %u", l->agent_uid);
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        return err_set(e, -errno, "give rights up");
    }
    return 0;
}

/* Descriptors 3 (its socket), 4 … (listening): everything else is close-on-exec. */
static int agent_descriptors(const struct launcher *l, int sock, struct err *e)
{
    int high[SANDBOX_LISTEN_MAX + 2];
    size_t n = l->config->listen_fds_len;
    for (size_t i = 0; i <= n; i++) {
        high[i] = fd_dup(i == 0 ? sock : l->config->listen_fds[i - 1], 600);
        if (high[i] < 0) {
            return err_set(e, high[i], "pass a descriptor");
        }
    }
    int exe = fd_dup(l->exe, 600);
    for (size_t i = 0; i <= n; i++) {
        if (dup2(high[i], SANDBOX_AGENT_FD + (int)i) < 0) {
            return err_set(e, -errno, "pass a descriptor");
        }
    }
    if (exe < 0 || syscall(SYS_close_range, SANDBOX_LISTEN_FD + n, 599u, 0) < 0) {
        return err_set(e, -errno, "close descriptors");
    }
    (void)syscall(SYS_close_range, 600u, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */);
    return exe;
}

static void agent_child(struct launcher *l, int sock, pid_t parent)
{
    struct err e = { 0 };
    sigset_t none;
    int exe = -1;
    int rc =
        setns(l->host_mnt, CLONE_NEWNS) < 0 ? err_set(&e, -errno, "enter the host's mounts") : 0;
    /* Entering a mount namespace leaves a chroot: back to the root that we were started with. */
    if (rc == 0 && (fchdir(l->host_root) < 0 || chroot(".") < 0)) {
        rc = err_set(&e, -errno, "enter the host's root");
    }
    if (rc == 0) {
        rc = exe = agent_descriptors(l, sock, &e);
    }
    if (rc >= 0) {
        rc = agent_drop_rights(l, &e);
    }
    for (int sig = 1; sig <= 64; sig++) {
        (void)signal(sig, SIG_DFL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (rc == 0) {
        /* After the ids have changed, which clears it. An orphan also reads the end of its socket.
         */
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        if (getppid() != parent) {
            _exit(1);
        }
        static char empty[] = "";
        (void)syscall(SYS_execveat, exe, empty, l->config->agent_argv, environ, AT_EMPTY_PATH);
        err_set(&e, -errno, "start the agent process");
    }
    log_error("%s", e.text);
    _exit(1);
}

int sandbox_agent_start(struct launcher *l, struct err *e)
{
    int sock[2];
    pid_t parent = getpid();
    int rc = sys_seqpacket_pair(sock);
    if (rc < 0) {
        return err_set(e, rc, "make a socket pair");
    }
    pid_t pid = fork();
    if (pid == 0) {
        agent_child(l, sock[1], parent);
    }
    fd_close(sock[1]);
    int pidfd = pid > 0 ? sys_pidfd_open(pid) : -errno;
    (void)fd_set_nonblock(sock[0], 1);
    l->agent = pid;
    l->agent_ready = false;
    l->agent_started_ms = sys_mono_ms();
    l->agent_restart_ms = 0;
    rc = pidfd < 0 ? pidfd
                   : sandbox_launcher_watch(l, &l->agent_pid, WATCH_AGENT_PID, pidfd, l, EPOLLIN);
    if (rc == 0) {
        rc = sandbox_launcher_watch(l, &l->agent_sock, WATCH_AGENT_SOCK, sock[0], l, EPOLLIN);
    }
    if (rc < 0) {
        return err_set(e, rc, "start the agent process");
    }
    struct sandbox_msg m = { .type = SANDBOX_MSG_HELLO };
    m.number[SANDBOX_H_SLOTS] = l->slots_len;
    m.number[SANDBOX_H_CGROUP_VERSION] = (uint64_t)l->cg.version;
    m.number[SANDBOX_H_FLAGS] = (l->cg.can[CG_MEMORY] ? SANDBOX_HELLO_MEMORY : 0u) |
                                (l->cg.can[CG_CPU] ? SANDBOX_HELLO_CPU : 0u) |
                                (l->cg.can[CG_PIDS] ? SANDBOX_HELLO_PIDS : 0u) |
                                (l->cg.can[CG_BLKIO] ? SANDBOX_HELLO_IO : 0u) |
                                (l->cg.can[CG_FREEZER] ? SANDBOX_HELLO_FREEZER : 0u) |
                                (l->cg.can[CG_MEMORY] ? SANDBOX_HELLO_PEAK : 0u);
    long pages = sysconf(_SC_PHYS_PAGES);
    uint64_t memory = pages > 0 ? (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
    m.number[SANDBOX_H_MEMORY] = memory < l->cg.memory_limit ? memory : l->cg.memory_limit;
    m.number[SANDBOX_H_CPUS_MILLI] = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN) * 1000;
    m.number[SANDBOX_H_UID_BASE] = l->settings->sandbox.uid_base;
    sandbox_agent_send(l, &m, NULL, 0);
    return 0;
}

/* ---- its socket ---- */

static void queue_drop(struct launcher *l, struct queued_msg *q)
{
    list_remove(&q->link);
    for (size_t i = 0; i < q->fds_len; i++) {
        fd_close(q->fds[i]);
    }
    mem_free(q);
    l->queue_len--;
}

static void waiting_drop(struct launcher *l, struct waiting_run *w)
{
    list_remove(&w->link);
    l->waiting_len--;
    fd_close(w->spec_fd);
    sandbox_secrets_drop(w->secrets_fd);
    mem_free(w);
}

void sandbox_agent_hang_up(struct launcher *l, const char *why)
{
    if (why != NULL) {
        log_error("the agent process's connection ends: %s", why);
    }
    sandbox_launcher_unwatch(l, &l->agent_sock);
    while (!list_empty(&l->waiting)) {
        waiting_drop(l, LIST_ITEM(l->waiting.next, struct waiting_run, link));
    }
    while (!list_empty(&l->queue)) {
        queue_drop(l, LIST_ITEM(l->queue.next, struct queued_msg, link));
    }
    if (l->adopt_stream != NULL) {
        (void)closedir(l->adopt_stream);
        l->adopt_stream = NULL;
    }
    if (why != NULL && l->agent > 0) {
        (void)kill(l->agent, SIGKILL);
    }
}

void sandbox_agent_on_exit(struct launcher *l)
{
    int status = 0;
    uint64_t now = sys_mono_ms();
    (void)waitpid(l->agent, &status, WNOHANG);
    sandbox_launcher_unwatch(l, &l->agent_pid);
    sandbox_agent_hang_up(l, NULL);
    l->agent = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == SANDBOX_AGENT_DONE) {
        l->stopping = true;
    }
    if (l->stopping) {
        return;
    }
    bool lived = now - l->agent_started_ms >= LIVED_LONG_MS;
    l->agent_backoff_ms =
        lived || l->agent_backoff_ms == 0 ? BACKOFF_FIRST_MS : l->agent_backoff_ms * 2;
    if (l->agent_backoff_ms > BACKOFF_MAX_MS) {
        l->agent_backoff_ms = BACKOFF_MAX_MS;
    }
    l->agent_restart_ms = now + l->agent_backoff_ms;
    (void)sys_sd_notify("WATCHDOG=1"); /* nobody else says it until the next one is up */
    log_error("the agent process ended (%s %d); again in %llu ms",
              WIFSIGNALED(status) ? "signal" : "exit",
              WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
              (unsigned long long)l->agent_backoff_ms);
}

bool sandbox_agent_send_room(const struct launcher *l)
{
    return l->agent_sock.fd >= 0 && l->queue_len < 64;
}

static void agent_want(struct launcher *l, uint32_t events)
{
    struct epoll_event ev = { .events = events, .data = { .ptr = &l->agent_sock } };
    (void)epoll_ctl(l->epoll, EPOLL_CTL_MOD, l->agent_sock.fd, &ev);
}

static void agent_queue(struct launcher *l, const uint8_t *bytes, const int *fds, size_t fds_len)
{
    struct queued_msg *q = l->queue_len < QUEUE_MAX ? mem_zalloc(sizeof(*q)) : NULL;
    if (q == NULL) {
        sandbox_agent_hang_up(l, "it does not read its messages");
        return;
    }
    memcpy(q->bytes, bytes, SANDBOX_MSG_SIZE);
    for (size_t i = 0; i < fds_len; i++) {
        q->fds[i] = fd_dup(fds[i], 3);
    }
    q->fds_len = fds_len;
    list_push_back(&l->queue, &q->link);
    l->queue_len++;
    agent_want(l, EPOLLIN | EPOLLOUT);
}

void sandbox_agent_send(struct launcher *l, const struct sandbox_msg *m, const int *fds,
                        size_t fds_len)
{
    uint8_t bytes[SANDBOX_MSG_SIZE];
    if (l->agent_sock.fd < 0) {
        return; /* the next agent asks with ADOPT */
    }
    sandbox_msg_encode(m, bytes);
    int rc = list_empty(&l->queue)
                 ? sys_send_fds(l->agent_sock.fd, bytes, sizeof(bytes), fds, fds_len)
                 : -EAGAIN;
    if (rc == -EAGAIN) {
        agent_queue(l, bytes, fds, fds_len);
    } else if (rc < 0) {
        sandbox_agent_hang_up(l, rc == -EPIPE ? NULL : "its socket fails");
    }
}

static void agent_flush(struct launcher *l)
{
    while (!list_empty(&l->queue)) {
        struct queued_msg *q = LIST_ITEM(l->queue.next, struct queued_msg, link);
        int rc = sys_send_fds(l->agent_sock.fd, q->bytes, sizeof(q->bytes), q->fds, q->fds_len);
        if (rc == -EAGAIN) {
            return;
        }
        queue_drop(l, q);
    }
    agent_want(l, EPOLLIN);
    sandbox_adopt_continue(l);
}

/* ---- its requests ---- */

static int run_start(struct launcher *l, struct waiting_run *m, const struct sandbox_spec *spec,
                     struct slot **ret, struct err *e)
{
    struct run_order o = {
        .spec = spec,
        .spec_fd = m->spec_fd,
        .payload = -1,
        .secrets = &m->secrets_fd,
        .arrival_us = m->arrival_us,
    };
    AUTO_FD int payload = -1;
    if (spec->payload) {
        o.payload = payload = sandbox_rundir_payload_open(l, spec->run, &o.payload_bytes, e);
        if (payload < 0) {
            return payload;
        }
    }
    const struct box_key *key = sandbox_pool_key(l, spec);
    struct slot *s = key == NULL ? NULL : sandbox_pool_choose(l, key, sandbox_slot_layered(&o));
    if (s == NULL) {
        return err_say(e, key == NULL ? -ENOMEM : -EAGAIN, "no slot is free");
    }
    *ret = s;
    return sandbox_slot_start(s, &o, e);
}

static int run_request(struct launcher *l, struct waiting_run *m, struct err *e)
{
    static char blob[SANDBOX_SPEC_MAX];
    const int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
    int spec_fd = m->spec_fd;
    struct sandbox_spec spec;
    int have = fcntl(spec_fd, F_GET_SEALS);
    if (have < 0 || (have & seals) != seals) {
        return err_say(e, -EINVAL, "the sandbox's spec is not sealed");
    }
    ssize_t n = sys_pread_full(spec_fd, blob, sizeof(blob), 0);
    int rc = n < 0 ? (int)n : sandbox_spec_decode(blob, (size_t)n, &spec, e);
    if (rc < 0) {
        return rc;
    }
    if (!ulid_eq(spec.run, m->run) || spec.attempt != m->attempt) {
        rc = err_say(e, -EINVAL, "the sandbox's spec is another run's");
    } else if (spec.limits.network == SANDBOX_NETWORK_HOST && l->host_net < 0) {
        rc = err_say(e, -EPERM, "network = host needs sandbox.allow_host_network = yes");
    } else if (l->stopping) {
        rc = err_say(e, -ESHUTDOWN, "the node is stopping");
    } else if (spec.secrets != (m->secrets_fd >= 0)) {
        rc = err_say(e, -EINVAL, "the sandbox's spec and its secrets do not belong together");
    } else if (spec.secrets) {
        struct sandbox_secret_at files[SANDBOX_SECRETS_MAX];
        size_t files_len;
        rc = sandbox_secrets_check(m->secrets_fd, files, &files_len, e);
    }
    for (size_t i = 0; rc == 0 && i < spec.layers_len; i++) {
        char hex[DIGEST_TEXT_CAP];
        if (faccessat(l->layers, digest_hex(&spec.layers[i], hex), F_OK, 0) < 0) {
            rc = err_say(e, -ESTALE, "layer %zu is not unpacked here", i + 1);
        }
    }
    struct slot *s = NULL;
    if (rc == 0) {
        rc = run_start(l, m, &spec, &s, e);
    }
    if (rc == 0) {
        s->stop_asked = m->stop_asked;
    }
    sandbox_spec_release(&spec);
    return rc;
}

static void run_refused(struct launcher *l, const struct waiting_run *m, int rc, const char *text)
{
    struct sandbox_msg answer = {
        .type = SANDBOX_MSG_FAILED, .run = m->run, .attempt = m->attempt, .rc = rc
    };
    sandbox_text(answer.text, text);
    sandbox_agent_send(l, &answer, NULL, 0);
}

static bool run_wait(struct launcher *l, struct waiting_run *m)
{
    struct waiting_run *w =
        l->waiting_len < l->slots_len && sandbox_slot_soon_free(l) ? mem_zalloc(sizeof(*w)) : NULL;
    if (w == NULL) {
        return false;
    }
    *w = *m;
    w->spec_fd = fd_dup(m->spec_fd, 3);
    if (w->spec_fd < 0) {
        mem_free(w);
        return false;
    }
    m->secrets_fd = -1; /* its own now */
    list_push_back(&l->waiting, &w->link);
    l->waiting_len++;
    return true;
}

void sandbox_agent_slot_free(struct launcher *l)
{
    while (!list_empty(&l->waiting)) {
        struct err e = { 0 };
        struct waiting_run *w = LIST_ITEM(l->waiting.next, struct waiting_run, link);
        int rc = run_request(l, w, &e);
        if (rc == -EAGAIN && sandbox_slot_soon_free(l)) {
            return;
        }
        if (rc < 0) {
            run_refused(l, w, rc, e.text);
        }
        waiting_drop(l, w);
    }
}

static void on_run(struct launcher *l, const struct sandbox_msg *m, int fds[2])
{
    struct waiting_run w = {
        .run = m->run,
        .attempt = m->attempt,
        .spec_fd = fds[0],
        .secrets_fd = fd_take(&fds[1]),
        .arrival_us = sys_mono_us(),
    };
    struct err e = { 0 };
    l->ordered_us = w.arrival_us;
    l->chores = true;
    int rc = run_request(l, &w, &e);
    if (rc < 0 && !(rc == -EAGAIN && run_wait(l, &w))) {
        run_refused(l, &w, rc, e.text);
    }
    sandbox_secrets_drop(w.secrets_fd);
}

static void stop_waiting(struct launcher *l, const struct sandbox_msg *m)
{
    LIST_EACH (pos, &l->waiting) {
        struct waiting_run *w = LIST_ITEM(pos, struct waiting_run, link);
        if (m->type == SANDBOX_MSG_STOP && w->attempt == m->attempt && ulid_eq(w->run, m->run)) {
            w->stop_asked = true;
        }
    }
}

static void on_order(struct launcher *l, const struct sandbox_msg *m)
{
    struct slot *s = sandbox_slot_find(l, m->run, m->attempt);
    if (s == NULL) {
        stop_waiting(l, m); /* or it is over already */
        return;
    }
    if (m->type == SANDBOX_MSG_SIGNAL) {
        if (m->value >= 1 && m->value <= 64) {
            (void)sandbox_slot_order(s, INIT_SIGNAL_JOB, (int)m->value);
        }
    } else if (sandbox_slot_order(s, INIT_STOP, 0) < 0) {
        s->stop_asked = true; /* its init is not there yet */
    }
}

/* The answer to one of the run's own questions: addresses of a name of its list. */
static void on_egress(struct launcher *l, const struct sandbox_msg *m)
{
    struct slot *s = sandbox_slot_find(l, m->run, m->attempt);
    struct sandbox_msg answer = { .type = SANDBOX_MSG_EGRESS_SET,
                                  .run = m->run,
                                  .attempt = m->attempt };
    struct egress_net nets[SANDBOX_MSG_NETS];
    size_t n = 0;
    struct err e = { 0 };
    answer.rc = sandbox_msg_nets_get(m, nets, &n);
    if (answer.rc == 0) {
        answer.rc = s == NULL ? err_say(&e, -ENOENT, "the run is over")
                              : sandbox_nat_egress(s, nets, n, &e);
    }
    sandbox_text(answer.text, e.text);
    sandbox_agent_send(l, &answer, NULL, 0);
}

static void on_adopt(struct launcher *l)
{
    if (l->adopt_stream != NULL) {
        (void)closedir(l->adopt_stream);
        l->adopt_stream = NULL;
    }
    int fd = openat(l->runs, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    l->adopt_stream = fd >= 0 ? fdopendir(fd) : NULL;
    sandbox_adopt_continue(l);
}

/* The status is the agent's text: one line of it, or it could say more to systemd than a status. */
static void tell_ready(const char *status)
{
    char text[SANDBOX_TEXT_MAX + 32];
    snprintf(text, sizeof(text), "READY=1\nSTATUS=%.*s", (int)strcspn(status, "\r\n"), status);
    (void)sys_sd_notify(text);
}

static void agent_request(struct launcher *l, const struct sandbox_msg *m, int fd[2])
{
    switch ((enum sandbox_msg_type)m->type) {
    case SANDBOX_MSG_READY:
        if (!l->agent_ready) {
            l->agent_ready = true;
            l->agent_backoff_ms = 0;
            tell_ready(m->text);
        }
        break;
    case SANDBOX_MSG_PING:
        (void)sys_sd_notify("WATCHDOG=1");
        sandbox_slot_trim(l);
        sandbox_launcher_refresh(l, false);
        break;
    case SANDBOX_MSG_RUN:
        on_run(l, m, fd);
        break;
    case SANDBOX_MSG_STOP:
    case SANDBOX_MSG_SIGNAL:
        on_order(l, m);
        break;
    case SANDBOX_MSG_EGRESS:
        on_egress(l, m);
        break;
    case SANDBOX_MSG_UNPACK:
        sandbox_worker_add(l, m, fd_take(&fd[0]));
        break;
    case SANDBOX_MSG_REMOVE_RUN:
    case SANDBOX_MSG_REMOVE_LAYER:
        sandbox_worker_add(l, m, -1);
        break;
    case SANDBOX_MSG_ADOPT:
        on_adopt(l);
        break;
    case SANDBOX_MSG_KEEP_LAYERS:
        sandbox_worker_keep_layers(l, fd[0]);
        break;
    case SANDBOX_MSG_HELLO:
    case SANDBOX_MSG_STARTED:
    case SANDBOX_MSG_ENDED:
    case SANDBOX_MSG_FAILED:
    case SANDBOX_MSG_UNPACKED:
    case SANDBOX_MSG_RUN_REMOVED:
    case SANDBOX_MSG_LAYER_REMOVED:
    case SANDBOX_MSG_ADOPTED:
    case SANDBOX_MSG_EGRESS_SET:
    default:
        break; /* sandbox_msg_decode() refused them */
    }
}

void sandbox_agent_on_sock(struct launcher *l, uint32_t events)
{
    if ((events & EPOLLOUT) != 0) {
        agent_flush(l);
    }
    for (int i = 0; i < 64 && l->agent_sock.fd >= 0; i++) {
        uint8_t bytes[SANDBOX_MSG_SIZE + 1];
        struct sandbox_msg m;
        int fd[2] = { -1, -1 };
        size_t fds = 0;
        ssize_t n = sys_recv_fds(l->agent_sock.fd, bytes, sizeof(bytes), fd, 2, &fds);
        if (n == -EAGAIN) {
            return;
        }
        if (n == 0 || n == -ECONNRESET) { /* reset: it ended without reading what we sent */
            sandbox_agent_hang_up(l, NULL);
        } else if (n < 0 || sandbox_msg_decode(bytes, (size_t)n, fds, SANDBOX_FROM_AGENT, &m) < 0) {
            sandbox_agent_hang_up(l, "it sent a message that is none");
        } else {
            agent_request(l, &m, fd);
        }
        fd_close(fd[0]);
        fd_close(fd[1]);
    }
}
