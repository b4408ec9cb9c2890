/*
 * Set-up process, then pid 1. It builds the sandbox with root's rights, gives them up, clones the
 * job's first process (sys_job.c), and from there on only pumps, reaps, keeps the deadline and
 * writes the exit record. Once the job runs it needs nobody: launcher and agent may be killed and
 * replaced. Before that it follows its launcher: the job's process reads the end of the socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/sandbox/sys_sandbox.h"
#include "common/insist.h"

enum { PIPE_BYTES = 1 << 20, OOM_GRACE_US = 50000, JOB_STACK = 128 * 1024 };

struct init {
    struct sandbox_job *job;
    struct pump pump;
    struct sandbox_result result;
    int signals;             /* signalfd */
    int mounts;              /* this mount namespace, for the launcher to hold; -1 */
    pid_t child;             /* the job's first process; 0: reaped */
    int status;              /* its wait status */
    uint64_t deadline_us;    /* 0: none */
    uint64_t kill_us;        /* when SIGKILL follows the stop signal; 0: not asked */
    enum sandbox_reason why; /* we ended it; 0: it ended by itself */
};

static void init_report(const struct init *in, const struct slot_report *r)
{
    (void)sys_send_fds(in->job->fd[SPAWN_FD_SOCK], r, sizeof(*r), &in->mounts,
                       in->mounts >= 0 ? 1 : 0);
}

static void write_record(struct init *in)
{
    uint8_t record[SANDBOX_RECORD_SIZE];
    int fd = in->job->fd[SPAWN_FD_EXIT];
    sandbox_record_encode(&in->result, record);
    (void)sys_pwrite_full(fd, record, sizeof(record), 0); /* the spawner syncs it, off the path */
}

/* Nothing was started, or the program could not be: the record says so. */
static void init_fail(struct init *in, int exit_code, const char *text)
{
    in->result.reason = SANDBOX_SETUP;
    in->result.exit_code = exit_code;
    in->result.ended_wall_us = sys_wall_us();
    in->result.ended_mono_us = sys_mono_us();
    sandbox_text(in->result.text, text);
    write_record(in);
    _exit(0);
}

/* ---- set-up ---- */

/* What the job's process fills in or reads once the run is known. All of it lies in directories
 * that we made: nothing of the image can be in the way. */
static int open_own_files(struct sandbox_job *job, struct err *e)
{
    const int flags = O_CLOEXEC | O_NOFOLLOW | O_NOCTTY;
    struct {
        const char *path;
        int flags;
        int *fd;
    } files[] = {
        { "/dev/null", O_RDWR, &job->null_fd },
        { "/etc/hostname", O_WRONLY, &job->hostname_fd },
        { "/etc/hosts", O_WRONLY, &job->hosts_fd },
        { "/run/agent/retry-after", O_RDONLY, &job->retry_fd },
        { "/run/agent/payload", O_RDONLY, &job->payload_in },
        { "/run/agent/payload", O_WRONLY, &job->payload_out },
    };
    size_t n = ARRAY_LEN(files) - (job->request.payload_layer != 0 ? 1 : 0);
    job->payload_out = job->secrets_fd = -1;
    if (job->spec.secrets) {
        job->secrets_fd = open("/run/agent/secrets", O_RDONLY | O_DIRECTORY | flags);
        if (job->secrets_fd < 0) {
            return err_set(e, -errno, "open the sandbox's directory for secrets");
        }
    }
    for (size_t i = 0; i < n; i++) {
        *files[i].fd = open(files[i].path, files[i].flags | flags);
        if (*files[i].fd < 0) {
            return err_set(e, -errno, "open '%s' in the sandbox", files[i].path);
        }
    }
    return 0;
}

/* Anyone inside may open /dev/stdout again: the pipe is the sandbox's own. */
static int open_pipe(int fds[2], struct err *e)
{
    int rc = fd_pipe(fds);
    if (rc < 0 || fchmod(fds[1], 0666) < 0) {
        return err_set(e, rc < 0 ? rc : -errno, "make a pipe");
    }
    (void)fcntl(fds[1], F_SETPIPE_SZ, PIPE_BYTES); /* smaller is slower, not wrong */
    return fd_set_nonblock(fds[0], 1);
}

static int init_build(struct init *in, struct err *e)
{
    struct sandbox_job *job = in->job;
    if (unshare(CLONE_NEWCGROUP) < 0) {
        return err_set(e, -errno, "make a cgroup namespace");
    }
    if (job->spec.limits.network == SANDBOX_NETWORK_HOST &&
        (job->box->host_netns < 0 || setns(job->box->host_netns, CLONE_NEWNET) < 0)) {
        return err_say(e, -EPERM, "this node does not allow the host's network to jobs");
    }
    if (job->spec.limits.network == SANDBOX_NETWORK_NAT &&
        (job->fd[SPAWN_FD_NET] < 0 || setns(job->fd[SPAWN_FD_NET], CLONE_NEWNET) < 0)) {
        return err_set(e, -errno, "enter the run's network namespace");
    }
    int rc = sandbox_mount_apply(job->box, &job->plan, e);
    if (rc == 0) {
        rc = open_own_files(job, e);
    }
    if (rc == 0) {
        rc = open_pipe(job->out_pipe, e);
    }
    if (rc == 0) {
        rc = open_pipe(job->err_pipe, e);
    }
    if (rc == 0 && (rc = fd_pipe(job->exec_pipe)) < 0) {
        err_set(e, rc, "make a pipe");
    }
    return rc;
}

/* What the job's process gets from us, as it has no right to it any more: the score that the kernel
 * goes by when memory runs out (the launcher lowers our own again), a session keyring. */
static void init_bequeath(const struct init *in)
{
    char score[16];
    snprintf(score, sizeof(score), "%d", in->job->box->job_oom_score);
    (void)sys_write_text(AT_FDCWD, "/proc/self/oom_score_adj", score);
    (void)syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL, 0, 0, 0);
}

/* From root to an id that no job has, with rights only inside the user namespace: the job's process
 * needs them for a moment. The filter is the job's. */
static int init_confine(struct init *in, struct err *e)
{
    const struct slot_box *box = in->job->box;
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(0, NULL) < 0 ||
        setresgid(box->init_id, box->init_id, box->init_id) < 0 ||
        setresuid(box->init_id, box->init_id, box->init_id) < 0) {
        return err_set(e, -errno, "become init's user");
    }
    int rc = sandbox_caps_keep_only(CAP_SYS_ADMIN, e);
    if (rc == 0 && setns(box->userns, CLONE_NEWUSER) < 0) {
        rc = err_set(e, -errno, "enter the user namespace");
    }
    if (rc == 0 &&
        (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)) {
        rc = err_set(e, -errno, "prctl");
    }
    if (rc == 0 && (rc = sandbox_filter_load(box->filter)) < 0) {
        err_set(e, rc, "load the seccomp filter");
    }
    return rc;
}

/* The job's process, in our memory until its exec; then we keep one capability inside: to kill. */
static int init_clone(struct init *in, struct err *e)
{
    static char stack[JOB_STACK] __attribute__((aligned(64)));
    struct sandbox_job *job = in->job;
    in->child = clone(sandbox_job_main, stack + sizeof(stack), CLONE_VM | SIGCHLD, job);
    if (in->child < 0) {
        return err_set(e, -errno, "clone the job's process");
    }
    int *const theirs[] = { &job->out_pipe[1], &job->err_pipe[1], &job->exec_pipe[1],
                            &job->hostname_fd, &job->hosts_fd,    &job->payload_in,
                            &job->payload_out, &job->uts,         &job->secrets_fd };
    for (size_t i = 0; i < ARRAY_LEN(theirs); i++) {
        if (*theirs[i] >= 0) {
            (void)close(*theirs[i]); /* the numbers are in its memory, too: they stay */
        }
    }
    return sandbox_caps_keep_only(CAP_KILL, e);
}

/* Waits for exec's verdict: nothing (it runs), or the error. Until then the memory is the job's
 * process's to use, and nothing else is done here. */
static void init_await_exec(struct init *in)
{
    struct job_error report;
    ssize_t n = sys_read_full(in->job->exec_pipe[0], &report, sizeof(report));
    fd_close(in->job->exec_pipe[0]);
    if (n == 0) {
        return;
    }
    if (n != (ssize_t)sizeof(report)) {
        init_fail(in, 125, "the set-up was cut off");
    }
    if (report.exit_code == 0) {
        _exit(0); /* there was no run, or nobody knows whether there was: no record */
    }
    report.text[sizeof(report.text) - 1] = '\0';
    init_fail(in, report.exit_code, report.text);
}

static void init_started(struct init *in)
{
    uint64_t now = sys_mono_us();
    struct slot_report r = { .kind = REPORT_STARTED };
    in->result.started_mono_us = now;
    in->result.started_wall_us = sys_wall_us();
    in->result.setup_us = now - in->job->start.arrival_us;
    r.setup_us = in->result.setup_us;
    r.wall_us = in->result.started_wall_us;
    init_report(in, &r);
    in->mounts = fd_close(in->mounts);
    if (in->job->spec.limits.timeout_ms != 0) {
        in->deadline_us = now + in->job->spec.limits.timeout_ms * 1000;
    }
}

/* ---- pid 1 ---- */

static void job_signal(const struct init *in, int sig)
{
    if (in->child > 0) {
        (void)kill(in->child, sig);
    }
}

/* Stop signal now, SIGKILL for all after the grace; a stopped job must wake to notice. */
static void init_stop(struct init *in, enum sandbox_reason why)
{
    if (in->why == 0) {
        in->why = why;
    }
    if (in->kill_us == 0) {
        in->kill_us = sys_mono_us() + in->job->spec.limits.grace_ms * 1000;
        job_signal(in, in->job->spec.stop_signal);
        job_signal(in, SIGCONT);
    }
}

static void init_kill(struct init *in, enum sandbox_reason why)
{
    if (in->why == 0) {
        in->why = why;
    }
    (void)kill(-1, SIGKILL);
}

/* The kernel is about to kill one process (and to count that: it comes first); soon after, the rest
 * goes as well. */
static void init_out_of_memory(struct init *in)
{
    uint64_t at = sys_mono_us() + OOM_GRACE_US;
    in->why = SANDBOX_OOM;
    if (in->kill_us == 0 || in->kill_us > at) {
        in->kill_us = at;
    }
}

static void init_reap(struct init *in)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == in->child) {
            in->child = 0;
            in->status = status;
        }
    }
}

static void init_take_signals(struct init *in)
{
    struct signalfd_siginfo si;
    while (read(in->signals, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
        if ((int)si.ssi_signo != INIT_SIGNAL) {
            continue;
        }
        int sig = si.ssi_int & 0xff;
        switch (si.ssi_int >> 8) {
        case INIT_STOP:
            init_stop(in, SANDBOX_STOPPED);
            break;
        case INIT_SIGNAL_JOB:
            if (sig >= 1 && sig <= 64) {
                job_signal(in, sig);
            }
            break;
        case INIT_OOM:
            init_out_of_memory(in);
            break;
        default:
            break;
        }
    }
}

/* Milliseconds until something is due; -1: nothing is. */
static int init_timers(struct init *in)
{
    uint64_t now = sys_mono_us();
    if (in->deadline_us != 0 && now >= in->deadline_us) {
        in->deadline_us = 0;
        init_stop(in, SANDBOX_TIMEOUT);
    }
    if (in->kill_us != 0 && now >= in->kill_us) {
        init_kill(in, in->why);
        in->kill_us = now + 1000000; /* once more, should a fork have slipped through */
    }
    uint64_t next = in->kill_us;
    if (in->deadline_us != 0 && (next == 0 || in->deadline_us < next)) {
        next = in->deadline_us;
    }
    if (next == 0) {
        return -1;
    }
    uint64_t ms = (next - now + 999) / 1000;
    return ms < 3600000 ? (int)ms : 3600000;
}

static void init_pump(struct init *in)
{
    struct pump_stream *out = &in->pump.out;
    (void)sandbox_pump_step(&in->pump, out);
    (void)sandbox_pump_step(&in->pump, &in->pump.err);
    if (out->total > out->cap && !in->job->spec.limits.output_truncate &&
        in->why != SANDBOX_OUTPUT) {
        init_kill(in, SANDBOX_OUTPUT);
    }
}

static void init_serve(struct init *in)
{
    while (in->child > 0) {
        struct pollfd p[3] = {
            { .fd = in->signals, .events = POLLIN },
            { .fd = in->pump.out.pipe, .events = POLLIN },
            { .fd = in->pump.err.pipe, .events = POLLIN },
        };
        (void)poll(p, 3, init_timers(in));
        init_pump(in);
        init_take_signals(in);
        init_reap(in);
    }
}

/* The job is over: the rest of the sandbox dies, and what is left in the pipes is taken without
 * waiting for anyone who might still hold them. */
static void init_drain(struct init *in)
{
    (void)kill(-1, SIGKILL);
    while (sandbox_pump_step(&in->pump, &in->pump.out) > 0) {
    }
    while (sandbox_pump_step(&in->pump, &in->pump.err) > 0) {
    }
    if (in->why == 0 && in->pump.out.total > in->pump.out.cap &&
        !in->job->spec.limits.output_truncate) {
        in->why = SANDBOX_OUTPUT;
    }
}

static void result_status(struct init *in, struct sandbox_result *r)
{
    if (WIFSIGNALED(in->status)) {
        r->signal = WTERMSIG(in->status);
        r->exit_code = 128 + r->signal;
        r->reason = SANDBOX_SIGNAL;
    } else {
        r->exit_code = WEXITSTATUS(in->status);
        r->reason = SANDBOX_EXIT;
    }
    if (in->why != 0) {
        r->reason = in->why;
        r->exit_code = in->why == SANDBOX_TIMEOUT ? 124 : r->exit_code;
    }
}

static void result_text(const struct init *in, struct sandbox_result *r)
{
    const struct sandbox_limits *l = &in->job->spec.limits;
    int error = in->pump.out.error != 0 ? in->pump.out.error : in->pump.err.error;
    struct err e = { 0 };
    if (r->reason == SANDBOX_OUTPUT) {
        snprintf(r->text, sizeof(r->text), "wrote more than %llu bytes to stdout",
                 (unsigned long long)l->output_bytes);
    } else if (r->reason == SANDBOX_TIMEOUT) {
        snprintf(r->text, sizeof(r->text), "ran longer than %llu ms",
                 (unsigned long long)l->timeout_ms);
    } else if (error != 0) {
        err_set(&e, error, "its output could not be kept");
        sandbox_text(r->text, e.text);
    }
}

/* The file that was there before the job: another of its name is not looked at. */
static void result_retry(const struct init *in, struct sandbox_result *r)
{
    char text[SANDBOX_RETRY_MAX - 1];
    ssize_t n = sys_pread_full(in->job->retry_fd, text, sizeof(text), 0);
    for (ssize_t i = 0; i < n && text[i] >= ' ' && text[i] <= '~'; i++) {
        r->retry_after[i] = text[i];
    }
}

static void init_finish(struct init *in)
{
    struct sandbox_result *r = &in->result;
    struct rusage u;
    init_drain(in);
    r->ended_wall_us = sys_wall_us();
    r->ended_mono_us = sys_mono_us();
    r->stdout_bytes = in->pump.out.total;
    r->stdout_kept = in->pump.out.kept;
    r->stderr_bytes = in->pump.err.total;
    r->stderr_kept = in->pump.err.kept;
    r->stdout_truncated = in->pump.out.truncated;
    r->stderr_truncated = in->pump.err.truncated;
    if (getrusage(RUSAGE_CHILDREN, &u) == 0) {
        r->cpu_user_us = (uint64_t)u.ru_utime.tv_sec * 1000000 + (uint64_t)u.ru_utime.tv_usec;
        r->cpu_system_us = (uint64_t)u.ru_stime.tv_sec * 1000000 + (uint64_t)u.ru_stime.tv_usec;
        r->maxrss_bytes = (uint64_t)u.ru_maxrss * 1024;
        r->switches_voluntary = (uint64_t)u.ru_nvcsw;
        r->switches_involuntary = (uint64_t)u.ru_nivcsw;
    }
    result_status(in, r);
    result_text(in, r);
    result_retry(in, r);
    write_record(in);
    /* Nobody else may have been left: then the end is told before the kernel takes us down. */
    if (kill(-1, 0) < 0 && errno == ESRCH) {
        const struct slot_report ended = { .kind = REPORT_ENDED };
        init_report(in, &ended);
    }
    _exit(0);
}

static int init_open_signals(struct init *in, struct err *e)
{
    sigset_t all;
    sigset_t wanted;
    sigfillset(&all);
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGCHLD);
    sigaddset(&wanted, INIT_SIGNAL);
    sigprocmask(SIG_SETMASK, &all, NULL);
    in->signals = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
    return in->signals < 0 ? err_set(e, -errno, "make a signal descriptor") : 0;
}

/* Up to the clone: with root's rights, then without. */
static int init_prepare(struct init *in, struct err *e)
{
    struct sandbox_job *job = in->job;
    int rc = init_open_signals(in, e);
    if (rc == 0) {
        rc = init_build(in, e);
    }
    if (rc == 0) {
        in->mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
        job->uts = job->request.ahead != 0 ? open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC) : -1;
        for (int fd = 0; fd <= 2; fd++) {
            (void)dup2(job->null_fd,
                       fd); /* whoever reads the launcher's log must not wait for us */
        }
        init_bequeath(in);
        rc = init_confine(in, e);
    }
    return rc == 0 ? init_clone(in, e) : rc;
}

void sandbox_init_main(struct sandbox_job *job)
{
    static struct init in;
    struct err e = { 0 };
    in.job = job;
    in.mounts = job->uts = -1;
    fd_close(job->box->sock); /* the spawner's */
    if (init_prepare(&in, &e) < 0) {
        init_fail(&in, 125, e.text);
    }
    init_await_exec(&in);
    init_started(&in);
    sandbox_pump_init(&in.pump, job);
    init_serve(&in);
    init_finish(&in);
    _exit(0);
}
