/*
 * The job's first process: from init's clone to exec. The root is the sandbox's and the user
 * namespace is entered already, so that all that looks into the image (passwd, the working
 * directory, the program) happens without a right on the host, and under the job's filter. It
 * becomes the job's user, and only then waits for the run: what comes behind that is little.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/sandbox/sys_sandbox.h"
#include "common/mem.h"

static const char default_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* A regular file of the image, bounded; never a FIFO that blocks, a device or a link out. What is
 * not there is empty. */
static int read_image_file(const char *path, struct buf *out, struct err *e)
{
    struct stat st;
    AUTO_FD int fd = sys_open_beneath(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0,
                                      SYS_IN_ROOT | SYS_NO_XDEV);
    if (fd == -ENOENT || fd == -ENOTDIR) {
        return 0;
    }
    if (fd < 0) {
        return err_set(e, fd, "open the image's '/%s'", path);
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        return err_say(e, -EINVAL, "the image's '/%s' is not a regular file", path);
    }
    if (st.st_size > SANDBOX_PASSWD_MAX) {
        return err_say(e, -EFBIG, "the image's '/%s' is over 1 MiB", path);
    }
    char *p = buf_reserve(out, (size_t)st.st_size + 1);
    ssize_t n = p != NULL ? sys_read_full(fd, p, (size_t)st.st_size) : -ENOMEM;
    if (n < 0) {
        return err_set(e, (int)n, "read the image's '/%s'", path);
    }
    buf_grow(out, (size_t)n);
    return 0;
}

static int find_user(const struct sandbox_spec *s, struct sandbox_user *ret, struct err *e)
{
    struct buf AUTO_BUF passwd = BUF_INIT(SANDBOX_PASSWD_MAX + 16);
    struct buf AUTO_BUF group = BUF_INIT(SANDBOX_PASSWD_MAX + 16);
    int rc = read_image_file("etc/passwd", &passwd, e);
    if (rc == 0) {
        rc = read_image_file("etc/group", &group, e);
    }
    return rc == 0 ? sandbox_user_find(s->user, buf_str(&passwd), buf_str(&group), ret, e) : rc;
}

static int become_user(const struct sandbox_user *u, struct err *e)
{
    gid_t groups[SANDBOX_GROUPS_MAX];
    for (size_t i = 0; i < u->groups_len; i++) {
        groups[i] = u->groups[i];
    }
    if (setgroups(u->groups_len, groups) < 0 || setresgid(u->gid, u->gid, u->gid) < 0 ||
        setresuid(u->uid, u->uid, u->uid) < 0) {
        return err_set(e, -errno, "become user %u:%u", u->uid, u->gid);
    }
    return 0;
}

/* Makes what is missing of the working directory (root, 0755, as Docker), through the rules of the
 * sandbox's root: links stay inside, no magic links (CVE-2024-21626). */
static int make_workdir(const char *path, struct err *e)
{
    char part[4096];
    size_t n = strlen(path);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0') {
            continue;
        }
        memcpy(part, path, i);
        part[i] = '\0';
        AUTO_FD int fd = sys_open_beneath(AT_FDCWD, part, O_PATH | O_DIRECTORY, 0, SYS_IN_ROOT);
        if (fd == -ENOENT && mkdir(part, 0755) < 0 && errno != EEXIST) {
            return err_set(e, -errno, "make the working directory '%s'", part);
        }
        if (fd < 0 && fd != -ENOENT) {
            return err_set(e, fd, "open the working directory '%s'", part);
        }
    }
    return 0;
}

static int enter_workdir(const char *path, struct err *e)
{
    char cwd[4096];
    AUTO_FD int fd = sys_open_beneath(AT_FDCWD, path, O_PATH | O_DIRECTORY, 0, SYS_IN_ROOT);
    if (fd < 0 || fchdir(fd) < 0) {
        return err_set(e, fd < 0 ? fd : -errno, "enter the working directory '%s'", path);
    }
    if (getcwd(cwd, sizeof(cwd)) == NULL || cwd[0] != '/') {
        return err_say(e, -EINVAL, "the working directory '%s' is outside the sandbox", path);
    }
    return 0;
}

static bool env_has(char **env, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; env[i] != NULL; i++) {
        if (strncmp(env[i], name, n) == 0 && env[i][n] == '=') {
            return true;
        }
    }
    return false;
}

/* The job's environment: what was given, then defaults where unset. Lives until exec. */
static char **make_env(const struct sandbox_spec *s, const struct sandbox_user *u)
{
    static char home[300];
    static char hostname[96];
    static char path[128];
    char **env = mem_calloc(s->env_len + 4, sizeof(*env));
    if (env == NULL) {
        return NULL;
    }
    memcpy(env, s->env, s->env_len * sizeof(*env));
    size_t n = s->env_len;
    snprintf(home, sizeof(home), "HOME=%s", u->home);
    snprintf(hostname, sizeof(hostname), "HOSTNAME=%s", s->hostname);
    snprintf(path, sizeof(path), "PATH=%s", default_path);
    char *const defaults[] = { path, hostname, home };
    static const char *const names[] = { "PATH", "HOSTNAME", "HOME" };
    for (size_t i = 0; i < 3; i++) {
        if (!env_has(env, names[i])) {
            env[n++] = defaults[i];
        }
    }
    return env;
}

/* execve(), as a shell looks programs up. The error that says most: EACCES beats ENOENT. */
static int exec_program(const struct sandbox_spec *s, char **env)
{
    union {
        const char *const *in;
        char *const *out;
    } argv = { .in = s->argv };
    const char *name = s->argv[0];
    if (strchr(name, '/') != NULL) {
        execve(name, argv.out, env);
        return -errno;
    }
    const char *list = default_path;
    for (size_t i = 0; env[i] != NULL; i++) {
        if (strncmp(env[i], "PATH=", 5) == 0) {
            list = env[i] + 5;
        }
    }
    int rc = -ENOENT;
    struct str rest = str_of(list);
    struct str dir;
    while (str_split(&rest, ':', &dir)) {
        char path[4096];
        int n = snprintf(path, sizeof(path), "%.*s/%s", STR_ARG(dir.n == 0 ? STR(".") : dir), name);
        if (n < 0 || (size_t)n >= sizeof(path)) {
            continue;
        }
        execve(path, argv.out, env);
        if (errno != ENOENT && errno != ENOTDIR) {
            rc = -errno;
            if (rc != -EACCES) {
                break;
            }
        }
    }
    return rc;
}

/* The descriptors that stay open up to exec, by number. */
enum job_fd {
    JOB_FD_EXEC = 3,
    JOB_FD_SOCK,
    JOB_FD_HOSTNAME,
    JOB_FD_HOSTS,
    JOB_FD_PAYLOAD_IN,
    JOB_FD_PAYLOAD_OUT, /* may be missing */
    JOB_FD_UTS,         /* may be missing */
    JOB_FD_SECRETS,     /* may be missing */
    JOB_FDS
};

static void job_fail(int exit_code, const struct err *e)
{
    struct job_error report = { .rc = e->code, .exit_code = exit_code };
    sandbox_text(report.text, e->text);
    (void)!write(JOB_FD_EXEC, &report, sizeof(report));
    _exit(exit_code);
}

/* Everything to its number, through numbers that are nobody's; the rest is closed. */
static int job_descriptors(struct sandbox_job *job, struct err *e)
{
    enum { HIGH = 100 };
    const int from[JOB_FDS] = { job->null_fd,      job->out_pipe[1],       job->err_pipe[1],
                                job->exec_pipe[1], job->fd[SPAWN_FD_SOCK], job->hostname_fd,
                                job->hosts_fd,     job->payload_in,        job->payload_out,
                                job->uts,          job->secrets_fd };
    int high[JOB_FDS];
    for (size_t i = 0; i < JOB_FDS; i++) {
        high[i] = from[i] < 0 ? -1 : fd_dup(from[i], HIGH);
    }
    for (int i = 0; i < JOB_FDS; i++) {
        if (high[i] >= 0 && dup3(high[i], i, i < JOB_FD_EXEC ? 0 : O_CLOEXEC) < 0) {
            return err_set(e, -errno, "set up stdin, stdout and stderr");
        }
        if (high[i] < 0) {
            (void)close(i);
        }
    }
    return syscall(SYS_close_range, JOB_FDS, ~0u, 0) < 0 ? err_set(e, -errno, "close descriptors")
                                                         : 0;
}

/* In the user namespace; nothing of the host is open but what the job may have. */
static int job_confine(struct sandbox_job *job, struct sandbox_user *u, struct err *e)
{
    const char *workdir = job->spec.workdir[0] != '\0' ? job->spec.workdir : "/";
    int rc = find_user(&job->spec, u, e);
    if (rc == 0) {
        rc = make_workdir(workdir, e);
    }
    if (rc == 0 && prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0) {
        rc = err_set(e, -errno, "prctl");
    }
    if (rc == 0) {
        rc = sandbox_caps_drop_bounding(e);
    }
    if (rc == 0) {
        rc = become_user(u, e);
    }
    if (rc == 0) {
        rc = sandbox_caps_drop_all(e);
    }
    return rc == 0 ? enter_workdir(workdir, e) : rc;
}

/* Waits for the run, in a sandbox that is ready. The launcher's end ends it. */
static void job_await_run(struct sandbox_job *job, const struct sandbox_user *u,
                          int fds[START_FDS_MAX], struct err *e)
{
    size_t n = 0;
    struct slot_report r = { .kind = REPORT_PREPARED, .uid = u->uid, .gid = u->gid };
    const int told[] = { JOB_FD_UTS, JOB_FD_SECRETS };
    fds[START_FD_SPEC] = fds[START_FD_PAYLOAD] = -1;
    if (job->request.ahead != 0) {
        (void)sys_send_fds(JOB_FD_SOCK, &r, sizeof(r), told, job->spec.secrets ? 2 : 1);
        (void)close(JOB_FD_UTS);
        (void)close(JOB_FD_SECRETS);
    }
    ssize_t got =
        sys_recv_fds(JOB_FD_SOCK, &job->start, sizeof(job->start), fds, START_FDS_MAX, &n);
    if (got != (ssize_t)sizeof(job->start) || fds[START_FD_SPEC] < 0) {
        err_set(e, -ECANCELED, "wait for the run");
        job_fail(0, e);
    }
}

/* What the sandbox was built for stands; the rest is the run's. */
static int job_take_spec(struct sandbox_job *job, int fd, struct err *e)
{
    struct sandbox_spec run;
    ssize_t n = sys_pread_full(fd, job->run_spec, sizeof(job->run_spec), 0);
    int rc = n < 0 ? err_set(e, (int)n, "read the sandbox's spec")
                   : sandbox_spec_decode(job->run_spec, (size_t)n, &run, e);
    if (rc == 0 && strcmp(run.hostname, job->spec.hostname) != 0) {
        char hosts[SANDBOX_HOSTS_CAP];
        size_t len = sandbox_plan_hosts(run.hostname, hosts);
        char name[72];
        int name_len = snprintf(name, sizeof(name), "%.63s\n", run.hostname);
        if (ftruncate(JOB_FD_HOSTNAME, 0) < 0 || ftruncate(JOB_FD_HOSTS, 0) < 0) {
            rc = -errno;
        }
        rc = rc == 0 ? sys_pwrite_full(JOB_FD_HOSTNAME, name, (size_t)name_len, 0) : rc;
        rc = rc == 0 ? sys_pwrite_full(JOB_FD_HOSTS, hosts, len, 0) : rc;
        if (rc < 0) {
            sandbox_spec_release(&run);
            return err_set(e, rc, "write the host's name");
        }
    }
    if (rc == 0) {
        sandbox_spec_release(&job->spec);
        job->spec = run;
    }
    return rc;
}

/* The payload: into its file, unless that is a layer; and on stdin. */
static int job_take_payload(struct sandbox_job *job, int fd, struct err *e)
{
    uint64_t left = fd >= 0 ? job->start.payload_bytes : 0;
    while (left > 0) {
        ssize_t n = sendfile(JOB_FD_PAYLOAD_OUT, fd, NULL, (size_t)left);
        if (n <= 0) {
            return err_set(e, n < 0 ? -errno : -EIO, "copy the payload");
        }
        left -= (uint64_t)n;
    }
    if (job->start.has_payload != 0 && dup3(JOB_FD_PAYLOAD_IN, 0, 0) < 0) {
        return err_set(e, -errno, "open the payload");
    }
    return 0;
}

static void job_start(struct sandbox_job *job, const struct sandbox_user *u)
{
    struct err e = { 0 };
    int fds[START_FDS_MAX];
    sigset_t none;
    job_await_run(job, u, fds, &e);
    int rc = job_take_spec(job, fds[START_FD_SPEC], &e);
    if (rc == 0) {
        rc = job_take_payload(job, fds[START_FD_PAYLOAD], &e);
    }
    char **env = rc == 0 ? make_env(&job->spec, u) : NULL;
    if (rc == 0 && env == NULL) {
        rc = err_set(&e, -ENOMEM, "make the environment");
    }
    if (rc < 0 || env == NULL) {
        job_fail(125, &e);
        return;
    }
    if (job->spec.secrets) {
        job->spec.limits.core_bytes = 1; /* no core file, and no program of the host's reads one */
    }
    sandbox_rlimits_apply(&job->spec.limits, job->box->limit_nproc);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    rc = exec_program(&job->spec, env);
    err_set(&e, rc, "run '%.100s'", job->spec.argv[0]);
    job_fail(rc == -ENOENT || rc == -ENOTDIR ? 127 : 126, &e);
}

int sandbox_job_main(void *arg)
{
    static struct sandbox_user u;
    struct sandbox_job *job = arg;
    struct err e = { 0 };
    setsid();
    umask(0022);
    int rc = job_descriptors(job, &e);
    if (rc == 0 && (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0 || setgroups(0, NULL) < 0)) {
        rc = err_set(&e, -errno, "become root inside");
    }
    if (rc == 0) {
        rc = job_confine(job, &u, &e);
    }
    if (rc < 0) {
        job_fail(125, &e);
    }
    job_start(job, &u);
    _exit(125);
}
