/*
 * Control groups, v1 (one hierarchy a controller) and v2 (one for all).
 *
 * v1: a slot's groups are made once, under "agent-<hash>" beneath our own group, and its spawner
 * lives in them: no cgroup.procs is written on the path of a run. v2: a leaf for each run, entered
 * by CLONE_INTO_CGROUP, so that memory.peak is the run's own; the leaves are under "agent-<hash>"
 * at the top of what we may write. Not beneath our own service: a service whose group has populated
 * children with controllers can not be started again (no internal processes), and sandboxes outlive
 * us. The hash is the data directory's, so that two agents on one machine keep apart.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/sandbox/sys_launcher.h"
#include "common/insist.h"

static const char *const names[CG_COUNT] = {
    [CG_MEMORY] = "memory", [CG_CPU] = "cpu",     [CG_CPUACCT] = "cpuacct",
    [CG_PIDS] = "pids",     [CG_BLKIO] = "blkio", [CG_FREEZER] = "freezer",
    [CG_V2] = "",
};

static bool has_word(struct str list, char sep, const char *word)
{
    struct str piece;
    while (str_split(&list, sep, &piece)) {
        if (str_eqs(str_trim(piece), word)) {
            return true;
        }
    }
    return false;
}

/* Where a hierarchy is mounted: of mountinfo's line, the mount point (NUL-terminated in dst). */
static bool find_mount(struct str mountinfo, enum cgroup_kind kind, char *dst, size_t cap)
{
    struct str line;
    while (str_split(&mountinfo, '\n', &line)) {
        struct str rest = line;
        struct str f[5];
        struct str type = STR("");
        struct str options = STR("");
        struct str piece;
        size_t n = 0;
        while (n < 5 && str_split(&rest, ' ', &f[n])) {
            n++;
        }
        while (str_split(&rest, ' ', &piece) && !str_eqs(piece, "-")) {
        }
        if (n < 5 || !str_split(&rest, ' ', &type) || !str_split(&rest, ' ', &piece)) {
            continue;
        }
        (void)str_split(&rest, ' ', &options);
        bool match = kind == CG_V2 ? str_eqs(type, "cgroup2")
                                   : str_eqs(type, "cgroup") && has_word(options, ',', names[kind]);
        /* The mount must show the hierarchy from its (namespace's) root, or own paths mean nothing.
         */
        if (match && str_eqs(f[3], "/") && str_copy(dst, cap, f[4]) == 0) {
            return true;
        }
    }
    return false;
}

/* Our own group in a hierarchy, as /proc/self/cgroup names it. */
static bool find_own(struct str self, enum cgroup_kind kind, struct str *ret)
{
    struct str line;
    while (str_split(&self, '\n', &line)) {
        ptrdiff_t a = str_find(line, ':');
        if (a < 0) {
            continue;
        }
        struct str rest = str_slice(line, (size_t)a + 1, line.n);
        ptrdiff_t b = str_find(rest, ':');
        if (b < 0) {
            continue;
        }
        struct str controllers = str_slice(rest, 0, (size_t)b);
        if (kind == CG_V2 ? controllers.n == 0 : has_word(controllers, ',', names[kind])) {
            *ret = str_slice(rest, (size_t)b + 1, rest.n);
            return true;
        }
    }
    return false;
}

static int make_and_open(int at, const char *name, int *ret)
{
    if (mkdirat(at, name, 0755) < 0 && errno != EEXIST) {
        return -errno;
    }
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return -errno;
    }
    *ret = fd;
    return 0;
}

static uint64_t read_number(int dir, const char *name, uint64_t otherwise)
{
    char text[64];
    uint64_t v;
    if (sys_read_text(dir, name, text, sizeof(text)) < 0 || str_u64(str_of(text), &v) < 0) {
        return otherwise;
    }
    return v;
}

static int open_v1(struct cgroups *c, enum cgroup_kind kind, struct str mountinfo, struct str self,
                   const char *group)
{
    char mount[512];
    char path[1024];
    struct str own;
    if (!find_mount(mountinfo, kind, mount, sizeof(mount)) || !find_own(self, kind, &own)) {
        return -ENOENT;
    }
    snprintf(path, sizeof(path), "%s%.*s", mount, STR_ARG(own));
    AUTO_FD int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        return -errno;
    }
    if (kind == CG_MEMORY) {
        (void)sys_write_text(dir, "memory.use_hierarchy", "1");
        c->memory_limit = read_number(dir, "memory.limit_in_bytes", UINT64_MAX);
    }
    int rc = make_and_open(dir, group, &c->parent[kind]);
    if (rc == 0) {
        c->can[kind] = true;
        if (kind == CG_MEMORY) {
            (void)sys_write_text(c->parent[kind], "memory.use_hierarchy", "1");
        }
    }
    return rc;
}

/* Controllers on for the children of dir; processes in it (other than the real root's) are in the
 * way: then we move ourselves into a leaf and try again. */
static int enable_controllers(int dir)
{
    static const char *const wanted[] = { "+memory", "+cpu", "+pids", "+io" };
    int rc = 0;
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        int one = sys_write_text(dir, "cgroup.subtree_control", wanted[i]);
        if (one == -EBUSY) {
            AUTO_FD int leaf = -1;
            if (make_and_open(dir, "agent-launcher", &leaf) == 0 &&
                sys_write_text(leaf, "cgroup.procs", "0") == 0) {
                one = sys_write_text(dir, "cgroup.subtree_control", wanted[i]);
            }
        }
        rc = one < 0 && i < 3 ? one : rc;
    }
    return rc;
}

static int open_v2_at(struct cgroups *c, const char *path, const char *group)
{
    char text[256];
    AUTO_FD int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        return -errno;
    }
    AUTO_FD int parent = -1;
    (void)enable_controllers(dir);
    int rc = make_and_open(dir, group, &parent);
    if (rc == 0) {
        rc = enable_controllers(parent);
    }
    if (sys_read_text(parent, "cgroup.subtree_control", text, sizeof(text)) < 0) {
        return rc < 0 ? rc : -EIO;
    }
    struct str on = str_of(text);
    c->can[CG_MEMORY] = has_word(on, ' ', "memory");
    c->can[CG_CPU] = c->can[CG_CPUACCT] = has_word(on, ' ', "cpu");
    c->can[CG_PIDS] = has_word(on, ' ', "pids");
    c->can[CG_BLKIO] = has_word(on, ' ', "io");
    c->can[CG_FREEZER] = true;
    if (!c->can[CG_MEMORY] && !c->can[CG_PIDS]) {
        (void)unlinkat(dir, group, AT_REMOVEDIR);
        return -ENOENT;
    }
    c->memory_limit = read_number(dir, "memory.max", UINT64_MAX);
    c->can[CG_V2] = true;
    c->parent[CG_V2] = fd_take(&parent);
    return 0;
}

static int open_v2(struct cgroups *c, const struct settings *s, struct str mountinfo,
                   struct str self, const char *group)
{
    char mount[512];
    char path[1024];
    struct str own;
    if (s->telemetry.cgroup_path[0] != '\0') {
        return open_v2_at(c, s->telemetry.cgroup_path, group);
    }
    if (!find_mount(mountinfo, CG_V2, mount, sizeof(mount))) {
        return -ENOENT;
    }
    int rc = open_v2_at(c, mount, group);
    if (rc < 0 && find_own(self, CG_V2, &own)) {
        snprintf(path, sizeof(path), "%s%.*s", mount, STR_ARG(own));
        rc = open_v2_at(c, path, group);
    }
    return rc;
}

int sandbox_cgroup_find(struct cgroups *c, const struct settings *s, struct err *e)
{
    struct buf AUTO_BUF mountinfo = BUF_INIT(1 << 20);
    struct buf AUTO_BUF self = BUF_INIT(1 << 16);
    char group[32];
    *c = (struct cgroups){ .memory_limit = UINT64_MAX };
    for (size_t i = 0; i < CG_COUNT; i++) {
        c->parent[i] = -1;
    }
    uint64_t hash = sandbox_checksum(s->node.data_dir, strlen(s->node.data_dir));
    snprintf(group, sizeof(group), "agent-%08" PRIx32, (uint32_t)hash);
    (void)str_copy(c->group, sizeof(c->group), str_of(group));
    int rc = sys_read_file(AT_FDCWD, "/proc/self/mountinfo", 1 << 20, &mountinfo, e);
    if (rc == 0) {
        rc = sys_read_file(AT_FDCWD, "/proc/self/cgroup", 1 << 16, &self, e);
    }
    if (rc < 0) {
        return rc;
    }
    for (enum cgroup_kind k = CG_MEMORY; k < CG_V2; k++) {
        if (open_v1(c, k, buf_str(&mountinfo), buf_str(&self), group) == 0) {
            c->version = 1;
        }
    }
    if (c->version == 0 && open_v2(c, s, buf_str(&mountinfo), buf_str(&self), group) == 0) {
        c->version = 2;
    }
    return 0;
}

static void slot_name(uint32_t slot, char dst[24])
{
    snprintf(dst, 24, "slot-%" PRIu32, slot);
}

void sandbox_cgroup_close(struct cgroup_dirs *d)
{
    for (size_t i = 0; i < CG_COUNT; i++) {
        d->fd[i] = fd_close(d->fd[i]);
    }
}

void sandbox_cgroup_open_existing(const struct cgroups *c, uint32_t slot, struct cgroup_dirs *ret)
{
    char name[24];
    slot_name(slot, name);
    for (size_t i = 0; i < CG_COUNT; i++) {
        ret->fd[i] = c->parent[i] < 0 ? -1
                                      : openat(c->parent[i], name,
                                               O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    }
}

int sandbox_cgroup_open(const struct cgroups *c, uint32_t slot, struct cgroup_dirs *ret,
                        struct err *e)
{
    char name[24];
    slot_name(slot, name);
    for (size_t i = 0; i < CG_COUNT; i++) {
        ret->fd[i] = -1;
    }
    if (c->version == 2) {
        (void)sandbox_cgroup_remove(c, slot);
    }
    for (size_t i = 0; i < CG_COUNT; i++) {
        int rc = c->parent[i] < 0 ? 0 : make_and_open(c->parent[i], name, &ret->fd[i]);
        if (rc < 0) {
            sandbox_cgroup_close(ret);
            return err_set(e, rc, "make cgroup '%s' (%s)", name, i == CG_V2 ? "v2" : names[i]);
        }
    }
    return 0;
}

int sandbox_cgroup_join(const struct cgroup_dirs *d, struct err *e)
{
    for (size_t i = 0; i < CG_V2; i++) {
        int rc = d->fd[i] < 0 ? 0 : sys_write_text(d->fd[i], "cgroup.procs", "0");
        if (rc < 0) {
            return err_set(e, rc, "enter the %s cgroup", names[i]);
        }
    }
    return 0;
}

static int write_u64(int dir, const char *name, uint64_t v)
{
    char text[32];
    snprintf(text, sizeof(text), "%" PRIu64, v);
    return sys_write_text(dir, name, text);
}

enum { CPU_PERIOD_US = 100000, CPU_QUOTA_MIN_US = 1000 };

static uint64_t cpu_quota(uint64_t milli)
{
    uint64_t us = milli * CPU_PERIOD_US / 1000;
    return us < CPU_QUOTA_MIN_US ? CPU_QUOTA_MIN_US : us;
}

static int limit_v1(const struct cgroup_dirs *d, const struct sandbox_limits *l, struct err *e)
{
    int rc = 0;
    if (d->fd[CG_MEMORY] >= 0) {
        /* memory.memsw, where there is one, may never be below memory.limit. */
        (void)sys_write_text(d->fd[CG_MEMORY], "memory.memsw.limit_in_bytes", "-1");
        rc = write_u64(d->fd[CG_MEMORY], "memory.limit_in_bytes", l->memory_bytes);
        (void)write_u64(d->fd[CG_MEMORY], "memory.memsw.limit_in_bytes", l->memory_bytes);
    }
    if (rc < 0) {
        return err_set(e, rc, "limit memory to %" PRIu64 " bytes", l->memory_bytes);
    }
    if (d->fd[CG_CPU] >= 0) {
        rc = l->cpus_milli == 0
                 ? sys_write_text(d->fd[CG_CPU], "cpu.cfs_quota_us", "-1")
                 : write_u64(d->fd[CG_CPU], "cpu.cfs_quota_us", cpu_quota(l->cpus_milli));
    }
    if (rc < 0) {
        return err_set(e, rc, "limit CPU to %" PRIu64 " thousandths", l->cpus_milli);
    }
    if (d->fd[CG_PIDS] >= 0) {
        rc = write_u64(d->fd[CG_PIDS], "pids.max", l->pids + 2); /* init and spawner */
    }
    return rc < 0 ? err_set(e, rc, "limit processes to %" PRIu64, l->pids) : 0;
}

static int limit_v2(const struct cgroups *c, int dir, const struct sandbox_limits *l, struct err *e)
{
    char text[64];
    int rc = 0;
    if (c->can[CG_MEMORY]) {
        rc = write_u64(dir, "memory.max", l->memory_bytes);
        (void)sys_write_text(dir, "memory.swap.max", "0");
        (void)sys_write_text(dir, "memory.oom.group", "1");
    }
    if (rc < 0) {
        return err_set(e, rc, "limit memory to %" PRIu64 " bytes", l->memory_bytes);
    }
    if (c->can[CG_CPU] && l->cpus_milli != 0) {
        snprintf(text, sizeof(text), "%" PRIu64 " %d", cpu_quota(l->cpus_milli), CPU_PERIOD_US);
        rc = sys_write_text(dir, "cpu.max", text);
    }
    if (rc < 0) {
        return err_set(e, rc, "limit CPU to %" PRIu64 " thousandths", l->cpus_milli);
    }
    if (c->can[CG_PIDS]) {
        rc = write_u64(dir, "pids.max", l->pids + 1); /* init */
    }
    return rc < 0 ? err_set(e, rc, "limit processes to %" PRIu64, l->pids) : 0;
}

void sandbox_cgroup_weight(const struct cgroups *c, const struct cgroup_dirs *d, uint64_t weight)
{
    enum { SHARES = 1024 }; /* v1's word for a weight of 100 */

    if (c->version == 2 && c->can[CG_CPU]) {
        (void)write_u64(d->fd[CG_V2], "cpu.weight", weight);
    } else if (c->version == 1 && d->fd[CG_CPU] >= 0) {
        (void)write_u64(d->fd[CG_CPU], "cpu.shares", weight * SHARES / CGROUP_WEIGHT);
    }
}

int sandbox_cgroup_limit(const struct cgroups *c, const struct cgroup_dirs *d,
                         const struct sandbox_limits *l, struct err *e)
{
    return c->version == 2 ? limit_v2(c, d->fd[CG_V2], l, e) : limit_v1(d, l, e);
}

int sandbox_cgroup_remove(const struct cgroups *c, uint32_t slot)
{
    char name[24];
    int rc = 0;
    slot_name(slot, name);
    for (size_t i = 0; i < CG_COUNT; i++) {
        if (c->parent[i] >= 0 && unlinkat(c->parent[i], name, AT_REMOVEDIR) < 0 &&
            errno != ENOENT) {
            rc = -errno;
        }
    }
    return rc;
}

size_t sandbox_cgroup_list(const struct cgroups *c, const struct cgroup_dirs *d, pid_t spare,
                           pid_t *ret, size_t max)
{
    struct buf AUTO_BUF text = BUF_INIT(1 << 16);
    int dir = c->version == 2 ? d->fd[CG_V2] : -1;
    size_t n = 0;
    for (size_t i = 0; i < CG_V2 && dir < 0; i++) {
        dir = d->fd[i];
    }
    if (dir < 0 || sys_read_file(dir, "cgroup.procs", 1 << 16, &text, NULL) < 0) {
        return 0;
    }
    struct str rest = buf_str(&text);
    struct str line;
    while (n < max && str_split(&rest, '\n', &line)) {
        uint64_t pid;
        if (str_u64_in(line, 1, INT32_MAX, &pid) == 0 && (pid_t)pid != spare) {
            ret[n++] = (pid_t)pid;
        }
    }
    return n;
}

/* Every pid that cgroup.procs lists (0 stands for one of another pid namespace). */
static unsigned kill_listed(int dir, pid_t spare)
{
    struct buf AUTO_BUF text = BUF_INIT(1 << 20);
    unsigned seen = 0;
    if (sys_read_file(dir, "cgroup.procs", 1 << 20, &text, NULL) < 0) {
        return 0;
    }
    struct str rest = buf_str(&text);
    struct str line;
    while (str_split(&rest, '\n', &line)) {
        uint64_t pid;
        if (str_u64_in(line, 1, INT32_MAX, &pid) == 0 && (pid_t)pid != spare &&
            (pid_t)pid != getpid()) {
            (void)kill((pid_t)pid, SIGKILL);
            seen++;
        }
    }
    return seen;
}

unsigned sandbox_cgroup_kill(const struct cgroups *c, const struct cgroup_dirs *d, pid_t spare)
{
    unsigned seen = 0;
    if (c->version == 2 && d->fd[CG_V2] >= 0) {
        seen = kill_listed(d->fd[CG_V2], spare);
        (void)sys_write_text(d->fd[CG_V2], "cgroup.kill", "1");
        return seen;
    }
    for (size_t i = 0; i < CG_V2 && seen == 0; i++) {
        seen = d->fd[i] >= 0 ? kill_listed(d->fd[i], spare) : 0;
    }
    return seen;
}

void sandbox_cgroup_sweep(const struct cgroups *c, uint32_t slots)
{
    for (uint32_t i = 0; i < slots; i++) {
        (void)sandbox_cgroup_remove(c, i);
    }
}

void sandbox_cgroup_end(const struct cgroups *c)
{
    for (size_t i = 0; i < CG_COUNT; i++) {
        AUTO_FD int above =
            c->parent[i] < 0 ? -1 : openat(c->parent[i], "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (above >= 0) {
            (void)unlinkat(above, c->group, AT_REMOVEDIR);
        }
    }
}

void sandbox_cgroup_telemetry(const struct cgroup_dirs *d, struct telemetry_dirs *ret)
{
    *ret = (struct telemetry_dirs){
        .v2 = d->fd[CG_V2],
        .cpu = d->fd[CG_CPU],
        .cpuacct = d->fd[CG_CPUACCT],
        .memory = d->fd[CG_MEMORY],
        .blkio = d->fd[CG_BLKIO],
        .pids = d->fd[CG_PIDS],
    };
}

int sandbox_cgroup_oom_event(const struct cgroup_dirs *d)
{
    char text[64];
    if (d->fd[CG_MEMORY] < 0) {
        return -1;
    }
    AUTO_FD int control = openat(d->fd[CG_MEMORY], "memory.oom_control", O_RDONLY | O_CLOEXEC);
    AUTO_FD int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    snprintf(text, sizeof(text), "%d %d", event, control);
    if (control < 0 || event < 0 ||
        sys_write_text(d->fd[CG_MEMORY], "cgroup.event_control", text) < 0) {
        return -1;
    }
    return fd_take(&event);
}
