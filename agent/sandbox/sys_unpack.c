/*
 * Unpacking one layer, in a worker. Two children do what touches the blob's bytes: one decompresses
 * and hashes, one reads the tar; neither can reach the other's input, a network, a process or a
 * file but its own. The worker only compares, marks, syncs and renames.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "agent/sandbox/sys_launcher.h"
#include "common/insist.h"

enum { OPAQUE_MAX = 8 << 20, UNPACK_SECONDS = 1800, UNPACK_MEMORY = 1 << 30, NOBODY = 65534 };

struct unpack {
    struct launcher *l;
    struct digest diff_id;
    struct sandbox_unpack_limits limits;
    char tmp[DIGEST_TEXT_CAP + 8];
    int blob;
    int pipe[2];
    int result; /* memfd: what the children answer, at fixed places */
    int opaque; /* memfd */
    int index;  /* memfd */
};

struct child_answer {
    int32_t done;
    int32_t rc;
    char text[SANDBOX_TEXT_MAX];
    struct digest digest;
    uint64_t bytes, entries, opaque_len, index_len;
};

static void answer(const struct unpack *u, int place, struct child_answer *a, const struct err *e)
{
    a->done = 1;
    a->rc = e->code;
    sandbox_text(a->text, e->text);
    (void)sys_pwrite_full(u->result, a, sizeof(*a), (uint64_t)place * sizeof(*a));
    _exit(0);
}

static void child_limits(const struct unpack *u)
{
    const struct {
        __rlimit_resource_t which;
        rlim_t value;
    } limits[] = {
        { RLIMIT_AS, UNPACK_MEMORY },
        { RLIMIT_CORE, 0 },
        { RLIMIT_NOFILE, 256 },
        { RLIMIT_CPU, UNPACK_SECONDS },
        { RLIMIT_FSIZE, u->limits.bytes + (1 << 20) },
    };
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        const struct rlimit r = { limits[i].value, limits[i].value };
        (void)setrlimit(limits[i].which, &r);
    }
}

/* Enters `root` as its root directory, the storage ids' user namespace, and keeps only caps. */
static int child_confine(const struct unpack *u, const char *root, uint32_t id, uint64_t caps,
                         struct err *e)
{
    struct mount_attr attr = { .attr_set =
                                   MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC };
    AUTO_FD int tree = open_tree(AT_FDCWD, root, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree < 0 || mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0 ||
        move_mount(tree, "", AT_FDCWD, "slot", MOVE_MOUNT_F_EMPTY_PATH) < 0 || chdir("slot") < 0 ||
        chroot(".") < 0) {
        return err_set(e, -errno, "enter the directory to unpack into");
    }
    if (setns(u->l->storage_userns, CLONE_NEWUSER) < 0 || setgroups(0, NULL) < 0 ||
        setresgid(id, id, id) < 0 || setresuid(id, id, id) < 0) {
        return err_set(e, -errno, "enter the storage ids' user namespace");
    }
    for (int cap = 0; id == 0 && cap <= 63; cap++) {
        if ((caps & (UINT64_C(1) << cap)) == 0) {
            (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
        }
    }
    struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct d[2] = { { (uint32_t)caps, (uint32_t)caps, 0 }, { 0 } };
    if (syscall(SYS_capset, &h, d) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        return err_set(e, -errno, "give rights up");
    }
    return 0;
}

/* Descriptors in[] become 3, 4, …; all else is closed. */
static void child_descriptors(int *fds[], size_t n)
{
    int high[8];
    for (size_t i = 0; i < n; i++) {
        high[i] = fd_dup(*fds[i], 600);
    }
    for (size_t i = 0; i < n; i++) {
        (void)dup2(high[i], 3 + (int)i);
        *fds[i] = 3 + (int)i;
    }
    (void)syscall(SYS_close_range, 3 + n, ~0u, 0);
}

static void child_decompress(struct unpack *u)
{
    struct err e = { 0 };
    struct child_answer a = { .done = 0 };
    int rc = child_confine(u, "slot", NOBODY, 0, &e);
    int *fds[] = { &u->blob, &u->pipe[1], &u->result };
    child_descriptors(fds, ARRAY_LEN(fds));
    child_limits(u);
    if (rc == 0 && (rc = sandbox_filter_load(&u->l->filter)) < 0) {
        err_set(&e, rc, "load the seccomp filter");
    }
    if (rc == 0) {
        rc = u->l->config->unpack->decompress(u->blob, u->pipe[1], u->diff_id.algo, &u->limits,
                                              &a.digest, &e);
        e.code = rc;
    }
    answer(u, 0, &a, &e);
}

static void child_tar(struct unpack *u)
{
    const uint64_t caps = (UINT64_C(1) << CAP_CHOWN) | (UINT64_C(1) << CAP_DAC_OVERRIDE) |
                          (UINT64_C(1) << CAP_FOWNER) | (UINT64_C(1) << CAP_FSETID) |
                          (UINT64_C(1) << CAP_SETFCAP);
    struct err e = { 0 };
    struct child_answer a = { .done = 0 };
    char path[sizeof(u->tmp) + 8];
    struct buf opaque = BUF_INIT(OPAQUE_MAX);
    struct buf index = BUF_INIT(SANDBOX_INDEX_MAX);
    snprintf(path, sizeof(path), "layers/%s", u->tmp);
    umask(0);
    int rc = child_confine(u, path, 0, caps, &e);
    int root = rc == 0 ? open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int *fds[] = { &u->pipe[0], &root, &u->result, &u->opaque, &u->index };
    child_descriptors(fds, ARRAY_LEN(fds));
    child_limits(u);
    if (rc == 0 && (rc = sandbox_filter_load(&u->l->filter)) < 0) {
        err_set(&e, rc, "load the seccomp filter");
    }
    if (rc == 0) {
        rc = u->l->config->unpack->unpack(u->pipe[0], root, &u->limits, &opaque, &index, &a.bytes,
                                          &a.entries, &e);
        e.code = rc;
    }
    if (rc == 0 && (rc = sys_write_full(u->opaque, opaque.data, opaque.len)) < 0) {
        err_set(&e, rc, "report opaque directories");
    }
    if (rc == 0 && sys_write_full(u->index, index.data, index.len) == 0) {
        a.index_len = index.len; /* without it the layer is as good */
    }
    a.opaque_len = opaque.len;
    answer(u, 1, &a, &e);
}

static pid_t child_start(struct unpack *u, void (*body)(struct unpack *))
{
    const struct clone_args args = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
                 CLONE_NEWCGROUP,
        .exit_signal = SIGCHLD,
    };
    long pid = syscall(SYS_clone3, &args, sizeof(args));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        body(u);
        _exit(1);
    }
    return pid < 0 ? (pid_t)-errno : (pid_t)pid;
}

static int run_children(struct unpack *u, struct child_answer a[2], struct err *e)
{
    pid_t first = child_start(u, child_decompress);
    pid_t second = first > 0 ? child_start(u, child_tar) : first;
    u->pipe[0] = fd_close(u->pipe[0]);
    u->pipe[1] = fd_close(u->pipe[1]);
    if (second < 0 && first > 0) {
        (void)kill(first, SIGKILL);
    }
    for (int i = 0; i < 2; i++) {
        pid_t pid = i == 0 ? first : second;
        while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    if (second < 0) {
        return err_set(e, (int)second, "start the unpacking processes");
    }
    for (int i = 0; i < 2; i++) {
        ssize_t n = sys_pread_full(u->result, &a[i], sizeof(a[i]), (uint64_t)i * sizeof(a[i]));
        if (n != (ssize_t)sizeof(a[i]) || a[i].done != 1) {
            a[i] = (struct child_answer){ .rc = -EIO };
            snprintf(a[i].text, sizeof(a[i].text), "the %s process was killed (memory, time?)",
                     i == 0 ? "decompressing" : "unpacking");
        }
        a[i].text[sizeof(a[i].text) - 1] = '\0';
    }
    return 0;
}

/* Whose error says more? Each sees the other's end as a broken pipe or a cut-off stream. */
static int judge(const struct unpack *u, const struct child_answer a[2], struct err *e)
{
    if (a[0].rc < 0 && a[0].rc != -EPIPE) {
        return err_say(e, a[0].rc, "%s", a[0].text);
    }
    if (a[1].rc < 0) {
        return err_say(e, a[1].rc, "%s", a[1].text);
    }
    if (a[0].rc < 0) {
        return err_say(e, a[0].rc, "%s", a[0].text);
    }
    if (!digest_eq(&a[0].digest, &u->diff_id)) {
        return err_say(e, -EBADMSG,
                       "the layer's content is not what its image's config says (diff_id)");
    }
    return 0;
}

static int mark_opaque(const struct unpack *u, int root, uint64_t len, struct err *e)
{
    static char paths[OPAQUE_MAX + 1];
    if (len > OPAQUE_MAX || sys_pread_full(u->opaque, paths, (size_t)len, 0) != (ssize_t)len) {
        return err_say(e, -EBADMSG, "the list of opaque directories is broken");
    }
    paths[len] = '\0';
    for (size_t at = 0; at < len; at += strlen(paths + at) + 1) {
        AUTO_FD int fd = sys_open_beneath(root, paths + at, O_RDONLY | O_DIRECTORY, 0,
                                          SYS_IN_ROOT | SYS_NO_XDEV);
        if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP) {
            continue; /* the layer took it away again */
        }
        if (fd < 0 || fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0) < 0) {
            return err_set(e, fd < 0 ? fd : -errno, "mark an opaque directory");
        }
    }
    return 0;
}

/* Beside the layer, for every UNPACKED to come. The layer counts without it. */
static void keep_index(const struct unpack *u, uint64_t len)
{
    char name[SANDBOX_INDEX_NAME_CAP];
    char temporary[sizeof(u->tmp) + 8];
    AUTO_BUF struct buf text = BUF_INIT(SANDBOX_INDEX_MAX);
    char *p = len != 0 && len <= SANDBOX_INDEX_MAX ? buf_reserve(&text, (size_t)len) : NULL;
    sandbox_index_name(&u->diff_id, name);
    (void)unlinkat(u->l->layers, name, 0);
    if (p == NULL || sys_pread_full(u->index, p, (size_t)len, 0) != (ssize_t)len) {
        return;
    }
    snprintf(temporary, sizeof(temporary), "%s.index", u->tmp);
    (void)unlinkat(u->l->layers, temporary, 0);
    AUTO_FD int fd =
        openat(u->l->layers, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0 || sys_write_full(fd, p, (size_t)len) < 0 || fsync(fd) < 0 ||
        renameat(u->l->layers, temporary, u->l->layers, name) < 0) {
        (void)unlinkat(u->l->layers, temporary, 0);
    }
}

static int finish(const struct unpack *u, const struct child_answer a[2], struct err *e)
{
    char hex[DIGEST_TEXT_CAP];
    AUTO_FD int root = sys_open_dir(u->l->layers, u->tmp, false);
    int rc = root < 0 ? err_set(e, root, "open the unpacked layer") : 0;
    if (rc == 0) {
        rc = mark_opaque(u, root, a[1].opaque_len, e);
    }
    if (rc == 0 && syncfs(root) < 0) {
        rc = err_set(e, -errno, "sync the unpacked layer");
    }
    if (rc == 0) {
        keep_index(u, a[1].index_len);
    }
    if (rc == 0 && renameat(u->l->layers, u->tmp, u->l->layers, digest_hex(&u->diff_id, hex)) < 0) {
        rc = err_set(e, -errno, "name the unpacked layer");
    }
    if (rc == 0 && (rc = sys_fsync_dir(u->l->layers)) < 0) {
        err_set(e, rc, "sync the layers' directory");
    }
    return rc;
}

static int prepare(struct unpack *u, struct err *e)
{
    const struct settings_image *s = &u->l->settings->image;
    uint32_t id = (uint32_t)u->l->settings->sandbox.uid_base;
    char hex[DIGEST_TEXT_CAP];
    u->limits =
        (struct sandbox_unpack_limits){ .bytes = s->layer_bytes, .entries = s->layer_entries };
    snprintf(u->tmp, sizeof(u->tmp), "tmp-%s", digest_hex(&u->diff_id, hex));
    u->result = memfd_create("result", MFD_CLOEXEC);
    u->opaque = memfd_create("opaque", MFD_CLOEXEC);
    u->index = memfd_create("index", MFD_CLOEXEC);
    if (u->result < 0 || u->opaque < 0 || u->index < 0 || pipe2(u->pipe, O_CLOEXEC) < 0) {
        return err_set(e, -errno, "prepare to unpack");
    }
    (void)fcntl(u->pipe[0], F_SETPIPE_SZ, 1 << 20);
    int rc = sys_remove_tree(u->l->layers, u->tmp, e);
    if (rc == 0 && (mkdirat(u->l->layers, u->tmp, 0755) < 0 ||
                    fchownat(u->l->layers, u->tmp, id, id, AT_SYMLINK_NOFOLLOW) < 0)) {
        rc = err_set(e, -errno, "make '%s'", u->tmp);
    }
    return rc;
}

void sandbox_index_name(const struct digest *layer, char dst[SANDBOX_INDEX_NAME_CAP])
{
    char hex[DIGEST_TEXT_CAP];

    (void)snprintf(dst, SANDBOX_INDEX_NAME_CAP, "%s.index", digest_hex(layer, hex));
}

void sandbox_unpack_layer(struct launcher *l, const struct digest *diff_id, int blob,
                          struct worker_answer *ret)
{
    struct unpack u = { .l = l, .diff_id = *diff_id, .blob = blob };
    struct child_answer a[2];
    struct err e = { 0 };
    char hex[DIGEST_TEXT_CAP];
    if (faccessat(l->layers, digest_hex(diff_id, hex), F_OK, 0) == 0) {
        return; /* it is there: rc 0 */
    }
    const struct itimerval most = { .it_value = { .tv_sec = UNPACK_SECONDS } };
    (void)setitimer(ITIMER_REAL, &most, NULL); /* ends this worker, and with it the children */
    int rc = prepare(&u, &e);
    if (rc == 0) {
        rc = run_children(&u, a, &e);
    }
    if (rc == 0) {
        rc = judge(&u, a, &e);
    }
    if (rc == 0) {
        rc = finish(&u, a, &e);
    }
    if (rc == 0) {
        ret->bytes = a[1].bytes;
        ret->entries = a[1].entries;
    } else {
        (void)sys_remove_tree(l->layers, u.tmp, NULL);
        ret->rc = rc;
        sandbox_text(ret->text, e.text);
    }
}
