/*
 * A slot's spawner: forked once by the launcher, it sits in the slot's v1 cgroups and in a mount
 * namespace that holds the slot's templates and id-mapped layers. For each run it clones a set-up
 * process into new namespaces, as the launcher's child (CLONE_PARENT), so that no cgroup.procs is
 * written on the path of a run. Nothing of a run is left in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/sandbox/sys_sandbox.h"
#include "common/insist.h"
#include "common/mem.h"

struct spawner {
    const struct slot_box *box;
    struct {
        struct digest id; /* DIGEST_NONE: free */
        uint64_t used;    /* for the eviction of the longest unused */
    } layer[SLOT_LAYERS_MAX];
    uint64_t clock;
    struct buf resolv_nat; /* resolv.conf of runs on network nat */
    char spec[SANDBOX_SPEC_MAX];
};

static void spawner_report(const struct spawner *s, uint32_t kind, const struct err *e)
{
    struct slot_report r = { .kind = kind };
    if (e != NULL) {
        r.rc = e->code;
        sandbox_text(r.text, e->text);
    }
    (void)sys_send_fds(s->box->sock, &r, sizeof(r), NULL, 0);
}

/* The place of the layer in l/: attached before or now. */
static int spawner_layer(struct spawner *s, const struct digest *id, unsigned *ret,
                         uint32_t *attached, struct err *e)
{
    char hex[DIGEST_TEXT_CAP];
    size_t oldest = 0;
    for (size_t i = 0; i < SLOT_LAYERS_MAX; i++) {
        if (digest_eq(&s->layer[i].id, id)) {
            s->layer[i].used = ++s->clock;
            *ret = (unsigned)i;
            return 0;
        }
        if (s->layer[i].used < s->layer[oldest].used) {
            oldest = i;
        }
    }
    if (s->layer[oldest].id.algo != DIGEST_NONE) {
        (void)sandbox_mount_detach_layer((unsigned)oldest);
        s->layer[oldest].id = (struct digest){ .algo = DIGEST_NONE };
    }
    int rc = sandbox_mount_attach_layer(s->box, digest_hex(id, hex), (unsigned)oldest, e);
    if (rc == 0) {
        s->layer[oldest].id = *id;
        s->layer[oldest].used = ++s->clock;
        *ret = (unsigned)oldest;
        (*attached)++;
    }
    return rc;
}

static void spawner_forget(struct spawner *s, const struct digest *id)
{
    for (size_t i = 0; i < SLOT_LAYERS_MAX; i++) {
        if (s->layer[i].id.algo != DIGEST_NONE && digest_eq(&s->layer[i].id, id)) {
            (void)sandbox_mount_detach_layer((unsigned)i);
            s->layer[i].id = (struct digest){ .algo = DIGEST_NONE };
            s->layer[i].used = 0;
        }
    }
}

static int spawner_plan(struct spawner *s, struct sandbox_job *job, uint32_t *attached,
                        struct err *e)
{
    unsigned layers[SANDBOX_LAYERS_MAX];
    char payload[SANDBOX_DIR_CAP + 16];
    for (size_t i = 0; i < job->spec.layers_len; i++) {
        int rc = spawner_layer(s, &job->spec.layers[i], &layers[i], attached, e);
        if (rc < 0) {
            return rc;
        }
    }
    snprintf(payload, sizeof(payload), "runs/%s/in", job->request.dir);
    const struct plan_facts facts = {
        .layers = layers,
        .resolv_conf = job->spec.limits.network == SANDBOX_NETWORK_NAT ? buf_cstr(&s->resolv_nat)
                                                                       : s->box->resolv_conf,
        .payload_dir = job->request.payload_layer != 0 ? payload : NULL,
    };
    return sandbox_plan_make(&job->spec, &facts, &job->plan, e);
}

static int spawner_decode(struct spawner *s, struct sandbox_job *job, struct err *e)
{
    struct stat st;
    if (fstat(job->fd[SPAWN_FD_SPEC], &st) < 0 || st.st_size > SANDBOX_SPEC_MAX) {
        return err_say(e, -EINVAL, "the sandbox's spec is too long");
    }
    ssize_t n = sys_pread_full(job->fd[SPAWN_FD_SPEC], s->spec, (size_t)st.st_size, 0);
    if (n < 0) {
        return err_set(e, (int)n, "read the sandbox's spec");
    }
    int rc = sandbox_spec_decode(s->spec, (size_t)n, &job->spec, e);
    if (rc == 0 && job->request.hostname[0] != '\0') {
        job->spec.hostname = job->request.hostname;
    }
    return rc;
}

/* As a sibling: the launcher waits for it. */
static pid_t spawner_clone(struct sandbox_job *job, int *ret_pidfd)
{
    struct clone_args a = {
        .flags = (uint64_t)(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS |
                            CLONE_PARENT | CLONE_PIDFD),
        .pidfd = (uint64_t)(uintptr_t)ret_pidfd,
    };
    if (job->fd[SPAWN_FD_CGROUP] >= 0) {
        a.flags |= CLONE_INTO_CGROUP;
        a.cgroup = (unsigned)job->fd[SPAWN_FD_CGROUP];
    }
    long pid = syscall(SYS_clone3, &a, sizeof(a));
    return pid < 0 ? (pid_t)-errno : (pid_t)pid;
}

static void spawner_build(struct spawner *s, struct sandbox_job *job)
{
    struct err e = { 0 };
    struct slot_report r = { .kind = REPORT_CLONED };
    AUTO_FD int pidfd = -1;
    int rc = spawner_decode(s, job, &e);
    if (rc == 0) {
        rc = spawner_plan(s, job, &r.attached, &e);
    }
    if (rc == 0) {
        pid_t pid = spawner_clone(job, &pidfd);
        if (pid == 0) {
            sandbox_init_main(job);
        }
        r.pid = pid;
        rc = pid < 0 ? err_set(&e, (int)pid, "clone the sandbox's first process") : 0;
    }
    if (rc < 0) {
        spawner_report(s, REPORT_FAILED, &e);
    } else {
        (void)sys_send_fds(s->box->sock, &r, sizeof(r), &pidfd, 1);
    }
    sandbox_spec_release(&job->spec);
}

/* What would have kept the last run's end waiting: its mounts go, its record goes to the disk where
 * nobody else keeps it, and what it left in the page cache of a v1 group, where it would count
 * against the next run. Emptying a group waits for every processor, which takes milliseconds: a
 * little is left there. */
static void spawner_clean(struct spawner *s, struct sandbox_job *job)
{
    enum { LITTLE = 2 * 1024 * 1024 };
    char text[32];
    uint64_t used = UINT64_MAX;
    job->fd[0] = fd_close(job->fd[0]);
    if (job->fd[1] >= 0) {
        (void)fdatasync(job->fd[1]);
    }
    ssize_t n = s->box->memory_dir < 0 ? -1
                                       : sys_read_text(s->box->memory_dir, "memory.usage_in_bytes",
                                                       text, sizeof(text));
    if (n > 0) {
        (void)str_u64((struct str){ text, (size_t)n }, &used);
    }
    if (s->box->memory_dir >= 0 && used > LITTLE) {
        (void)sys_write_text(s->box->memory_dir, "memory.force_empty", "0");
    }
    spawner_report(s, REPORT_CLEANED, NULL);
}

static void spawner_serve(struct spawner *s, struct sandbox_job *job)
{
    for (;;) {
        size_t fds = 0;
        for (size_t i = 0; i < SPAWN_FDS_MAX; i++) {
            job->fd[i] = -1;
        }
        ssize_t n = sys_recv_fds(s->box->sock, &job->request, sizeof(job->request), job->fd,
                                 SPAWN_FDS_MAX, &fds);
        if (n != (ssize_t)sizeof(job->request)) {
            _exit(0); /* the launcher is gone */
        }
        job->request.dir[SANDBOX_DIR_CAP - 1] = '\0';
        job->request.hostname[sizeof(job->request.hostname) - 1] = '\0';
        if (job->request.has_net != 0 && fds == SPAWN_FDS + 1) {
            job->fd[SPAWN_FD_NET] = fd_take(&job->fd[SPAWN_FD_CGROUP]); /* no v2 group before it */
        }
        if (job->request.kind == SPAWN_BUILD) {
            spawner_build(s, job);
        } else if (job->request.kind == SPAWN_FORGET) {
            spawner_forget(s, &job->request.layer);
        } else {
            spawner_clean(s, job);
        }
        for (size_t i = 0; i < SPAWN_FDS_MAX; i++) {
            job->fd[i] = fd_close(job->fd[i]);
        }
    }
}

/* ---- starting ---- */

/* What the memory file begins with; the filter's code and resolv.conf's text follow. */
struct box_file {
    struct slot_box box;
    uint32_t has; /* bit n: descriptor SPAWNER_FD + n is there */
    uint32_t filter_len;
    uint32_t resolv_len;
};

static int box_write(const struct slot_box *box, const int fds[SPAWNER_FDS], struct err *e)
{
    struct box_file f = { .box = *box,
                          .filter_len = box->filter->len,
                          .resolv_len = (uint32_t)strlen(box->resolv_conf) };
    for (size_t i = 0; i < SPAWNER_FDS; i++) {
        f.has |= fds[i] >= 0 || i == SPAWNER_BOX ? BIT(i) : 0;
    }
    AUTO_FD int fd = memfd_create("box", MFD_CLOEXEC);
    int rc = fd < 0 ? -errno : sys_write_full(fd, &f, sizeof(f));
    if (rc == 0) {
        rc = sys_write_full(fd, box->filter->filter, box->filter->len * sizeof(struct sock_filter));
    }
    if (rc == 0) {
        rc = sys_write_full(fd, box->resolv_conf, f.resolv_len);
    }
    return rc < 0 ? err_set(e, rc, "write the spawner's box") : fd_take(&fd);
}

int sandbox_spawner_exec(const struct slot_box *box, int exe_tree, struct err *e)
{
    int fds[SPAWNER_FDS] = {
        [SPAWNER_SOCK] = box->sock,
        [SPAWNER_USERNS] = box->userns,
        [SPAWNER_IDMAP] = box->idmap,
        [SPAWNER_NETNS] = box->netns,
        [SPAWNER_HOST_NETNS] = box->host_netns,
        [SPAWNER_MEMORY] = box->memory_dir,
        [SPAWNER_EXE] = exe_tree,
    };
    char name[] = "init";
    char empty[] = "";
    char *argv[] = { name, NULL };
    char *env[] = { NULL };
    fds[SPAWNER_BOX] = box_write(box, fds, e);
    if (fds[SPAWNER_BOX] < 0) {
        return fds[SPAWNER_BOX];
    }
    int high[SPAWNER_FDS];
    for (size_t i = 0; i < SPAWNER_FDS; i++) {
        high[i] = fds[i] < 0 ? -1 : fd_dup(fds[i], 600);
    }
    for (size_t i = 0; i < SPAWNER_FDS; i++) {
        if (high[i] >= 0 && dup2(high[i], SPAWNER_FD + (int)i) < 0) {
            return err_set(e, -errno, "pass descriptors to the spawner");
        }
    }
    (void)syscall(SYS_close_range, 3, SPAWNER_FD - 1, 0);
    (void)syscall(SYS_close_range, SPAWNER_FD + SPAWNER_FDS, ~0u, 0);
    (void)syscall(SYS_execveat, SPAWNER_FD + SPAWNER_EXE, empty, argv, env, AT_EMPTY_PATH);
    return err_set(e, -errno, "start the spawner");
}

/* The box again, from the memory file; descriptors are close-on-exec from here on. */
static int box_read(struct slot_box *ret)
{
    static struct sock_fprog filter;
    struct box_file f;
    uint64_t at = sizeof(f);
    int fd = SPAWNER_FD + SPAWNER_BOX;
    if (sys_pread_full(fd, &f, sizeof(f), 0) != (ssize_t)sizeof(f)) {
        return -EBADF;
    }
    size_t filter_size = f.filter_len * sizeof(struct sock_filter);
    filter.filter = mem_alloc(filter_size);
    char *resolv = mem_zalloc(f.resolv_len + 1);
    if (filter.filter == NULL || resolv == NULL ||
        sys_pread_full(fd, filter.filter, filter_size, at) != (ssize_t)filter_size ||
        sys_pread_full(fd, resolv, f.resolv_len, at + filter_size) != (ssize_t)f.resolv_len) {
        return -EIO;
    }
    filter.len = (unsigned short)f.filter_len;
    *ret = f.box;
    ret->filter = &filter;
    ret->resolv_conf = resolv;
    int *const places[] = { &ret->sock,  &ret->userns,     &ret->idmap,
                            &ret->netns, &ret->host_netns, &ret->memory_dir };
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        *places[i] = (f.has & BIT(i)) != 0 ? SPAWNER_FD + (int)i : -1;
    }
    fd_close(fd);
    (void)syscall(SYS_close_range, 3, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */);
    return 0;
}

/* From here on nobody executes the program through /proc/self/exe: not a job's process before its
 * exec, nor the "#!/proc/self/exe" of an image (CVE-2019-5736). */
static int forbid_exe(void)
{
    struct mount_attr a = { .attr_set = MOUNT_ATTR_NOEXEC | MOUNT_ATTR_RDONLY };
    int fd = SPAWNER_FD + SPAWNER_EXE;
    int rc = mount_setattr(fd, "", AT_EMPTY_PATH, &a, sizeof(a)) < 0 ? -errno : 0;
    fd_close(fd);
    return rc;
}

static void spawner_main(const struct slot_box *box)
{
    struct err e = { 0 };
    struct spawner *s = mem_zalloc(sizeof(*s));
    struct sandbox_job *job = mem_zalloc(sizeof(*job));
    sigset_t all;
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (s == NULL || job == NULL) {
        _exit(1);
    }
    /* Inherited by init: an order that comes before it listens waits, instead of being dropped. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    s->box = box;
    job->box = box;
    buf_init(&s->resolv_nat, 16384);
    sandbox_resolv_nat(str_of(box->resolv_conf), &s->resolv_nat);
    (void)syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL, 0, 0, 0);
    /* init must outlive the memory limit, to say what happened. Refused without CAP_SYS_RESOURCE:
     * then the launcher writes the record. */
    (void)sys_write_text(AT_FDCWD, "/proc/self/oom_score_adj", "-1000");
    int rc = forbid_exe();
    if (rc < 0) {
        err_set(&e, rc, "forbid execution of the agent's program");
    } else {
        rc = sandbox_mount_prepare_slot(box, &e);
    }
    spawner_report(s, REPORT_READY, rc < 0 ? &e : NULL);
    if (rc < 0) {
        _exit(1);
    }
    spawner_serve(s, job);
    _exit(0);
}

void sandbox_main_hook(int argc, char **argv)
{
    static struct slot_box box;
    struct stat st;
    if (argc != 1 || argv == NULL || strcmp(argv[0], "init") != 0 || environ[0] != NULL ||
        fstat(SPAWNER_FD + SPAWNER_BOX, &st) < 0 || st.st_nlink != 0) {
        return;
    }
    if (box_read(&box) < 0) {
        _exit(1);
    }
    spawner_main(&box);
}
