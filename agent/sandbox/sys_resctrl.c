/*
 * Cache and memory bandwidth of runs, by resctrl: its directories are made and removed here, tasks
 * are moved, files opened. What is decided is sandbox_rdt.c's.
 *
 * Nothing of the file system is held open but the files of live runs: names are looked up from the
 * host's root each time, so that an unmount is noticed (and not in the way), and a mount that comes
 * later is found.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent/sandbox/sandbox_rdt.h"
#include "agent/sandbox/sys_launcher.h"
#include "common/log.h"
#include "common/mem.h"

enum { LOOK_AGAIN_MS = 30000, TASKS_MAX = 16, TRIES = 3, PATH_CAP = 512, MAGIC = 0x7655821 };

/* What is said once in a life of the file system. */
enum said {
    SAID_ABSENT = 1,
    SAID_MAKE = 2,
    SAID_LATER = 4,
    SAID_TASK = 8,
    SAID_CLASS = 16,
    SAID_REMOVE = 32,
    SAID_FILES = 64,
    SAID_FULL = 128
};

struct resctrl {
    char path[SETTINGS_PATH_MAX]; /* from the host's root, without the leading '/' */
    char prefix[32];
    bool on;
    uint32_t life; /* counts the mounts that were seen */
    uint64_t look_ms;
    unsigned said;
    struct hardware_rdt info;
    struct rdt_schemata root;
    bool parted;
    struct rdt_class classes[SANDBOX_CACHE_CLASSES];
    bool there[SANDBOX_CACHE_CLASSES]; /* its group is: ours to remove at the end */
    bool made[SANDBOX_CACHE_CLASSES];  /* and has its ways */
    uint64_t class_retry_ms[SANDBOX_CACHE_CLASSES];
    bool measures;
    uint32_t domain[TELEMETRY_RDT_DOMAINS];
    uint32_t domains;
    struct rdt_pool pool;
    struct rdt_group *groups; /* of the pool */
};

/* ---- paths and words ---- */

/* PATH/A/B…; a path that does not fit is cut, and then not found. */
static const char *at(const struct resctrl *r, char dst[PATH_CAP], const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static const char *at(const struct resctrl *r, char dst[PATH_CAP], const char *format, ...)
{
    va_list args;
    int n = snprintf(dst, PATH_CAP, "%s/", r->path);
    n = n < 0 || n >= PATH_CAP ? PATH_CAP - 1 : n;
    va_start(args, format);
    (void)vsnprintf(dst + n, (size_t)(PATH_CAP - n), format, args);
    va_end(args);
    return dst;
}

/* The class's directory below the root, with its '/'; "" of the default. */
static const char *class_dir(const struct resctrl *r, enum sandbox_cache_class class,
                             char dst[RDT_NAME_CAP + 1])
{
    dst[0] = '\0';
    if (class != SANDBOX_CACHE_DEFAULT) {
        sandbox_rdt_class_name(r->prefix, class, dst);
        size_t n = strlen(dst);
        dst[n] = '/';
        dst[n + 1] = '\0';
    }
    return dst;
}

static const char *group_path(const struct resctrl *r, enum sandbox_cache_class class,
                              uint32_t group, const char *file, char dst[PATH_CAP])
{
    char dir[RDT_NAME_CAP + 1];
    char name[RDT_NAME_CAP];
    sandbox_rdt_group_name(r->prefix, group, name);
    return at(r, dst, "%smon_groups/%s%s", class_dir(r, class, dir), name, file);
}

/* What the kernel says of the call that just failed. */
static enum rdt_answer answer_of(struct launcher *l, int rc, char line[SANDBOX_TEXT_MAX])
{
    struct resctrl *r = l->resctrl;
    char path[PATH_CAP];
    char text[1024];
    ssize_t n =
        sys_read_text(l->host_root, at(r, path, "info/last_cmd_status"), text, sizeof(text));
    struct str status = { text, n > 0 ? (size_t)n : 0 };
    if (str_eqs(status, "ok")) {
        status.n = 0;
    }
    sandbox_rdt_status_line(status, line, SANDBOX_TEXT_MAX);
    enum rdt_answer a = sandbox_rdt_answer(rc, status);
    /* A name that is missing in a file system that is there: somebody removed that group. */
    return a == RDT_GONE && n >= 0 ? RDT_TASK : a;
}

static bool say(struct resctrl *r, unsigned what)
{
    bool first = (r->said & what) == 0;
    r->said |= what;
    return first;
}

static void gone(struct resctrl *r, int rc)
{
    if (r->on) {
        log_warn("resctrl at '/%s' is gone (%s): cache use is not measured until it is back",
                 r->path, err_name(rc));
    }
    r->on = false;
    r->look_ms = sys_mono_ms() + LOOK_AGAIN_MS;
}

/* ---- start ---- */

static void read_info(struct launcher *l, struct resctrl *r)
{
    static const char *const names[] = {
        "L3/num_closids",     "L3/cbm_mask",        "L3/min_cbm_bits",     "L3/shareable_bits",
        "L3CODE/num_closids", "L3CODE/cbm_mask",    "L3CODE/min_cbm_bits", "L3CODE/shareable_bits",
        "L2/num_closids",     "L2CODE/num_closids", "MB/num_closids",      "MB/min_bandwidth",
        "MB/bandwidth_gran",  "L3_MON/num_rmids",   "L3_MON/mon_features",
    };
    char path[PATH_CAP];
    char text[1024];
    r->info = (struct hardware_rdt){ .mounted = true };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        ssize_t n =
            sys_read_text(l->host_root, at(r, path, "info/%s", names[i]), text, sizeof(text));
        if (n > 0) {
            hardware_parse_rdt(&r->info, names[i], (struct str){ text, (size_t)n });
        }
    }
}

static DIR *list(struct launcher *l, const char *path)
{
    int fd = openat(l->host_root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (d == NULL) {
        fd_close(fd);
    }
    return d;
}

/* The cache domains that are monitored; false: none, or too many. */
static bool find_domains(struct launcher *l, struct resctrl *r)
{
    char path[PATH_CAP];
    DIR *d = list(l, at(r, path, "mon_data"));
    struct dirent *entry;
    uint64_t id;
    uint32_t seen = 0;
    r->domains = 0;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        struct str name = str_of(entry->d_name);
        if (!str_starts(name, "mon_L3_") ||
            str_u64_in(str_slice(name, 7, name.n), 0, UINT32_MAX, &id) != 0) {
            continue;
        }
        seen++;
        if (r->domains < TELEMETRY_RDT_DOMAINS) {
            r->domain[r->domains++] = (uint32_t)id;
        }
    }
    if (d != NULL) {
        (void)closedir(d);
    }
    if (seen > r->domains) {
        log_warn("resctrl: %u cache domains, more than %d: cache use is not measured", seen,
                 TELEMETRY_RDT_DOMAINS);
    }
    return seen > 0 && seen == r->domains;
}

/* Is it there, and resctrl? Another path than the usual one is taken at its word: it may be an
 * emulation. */
static int look(struct launcher *l, struct resctrl *r)
{
    struct statfs fs;
    char path[PATH_CAP];
    AUTO_FD int fd = openat(l->host_root, r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstatfs(fd, &fs) < 0) {
        return -errno;
    }
    bool usual = strcmp(l->settings->telemetry.resctrl_path, SETTINGS_RESCTRL_PATH) == 0;
    if (usual && (unsigned long)fs.f_type != MAGIC) {
        return -ENODEV;
    }
    return faccessat(l->host_root, at(r, path, "info/last_cmd_status"), F_OK, 0) < 0 ? -errno : 0;
}

static void describe(const struct resctrl *r)
{
    char classes[128] = "no classes of service";
    if (r->parted) {
        (void)snprintf(classes, sizeof(classes), "cache ways: sensitive %llx, polluter %llx",
                       (unsigned long long)r->classes[SANDBOX_CACHE_SENSITIVE].mask,
                       (unsigned long long)r->classes[SANDBOX_CACHE_POLLUTER].mask);
    }
    log_info("resctrl at '/%s': %u monitoring groups for runs, %s", r->path, r->pool.len, classes);
}

/* Before the first time, and when it was gone. */
static int begin(struct launcher *l, struct resctrl *r)
{
    struct buf AUTO_BUF text = BUF_INIT(RDT_TEXT_MAX);
    char path[PATH_CAP];
    int rc = look(l, r);
    if (rc < 0) {
        return rc;
    }
    rc = sys_read_file(l->host_root, at(r, path, "schemata"), RDT_TEXT_MAX, &text, NULL);
    if (rc < 0 || sandbox_rdt_schemata_parse(buf_str(&text), &r->root) < 0) {
        r->root = (struct rdt_schemata){ .has = { false } }; /* a machine that only monitors */
    }
    read_info(l, r);
    r->parted = sandbox_rdt_classes(&r->info, sandbox_rdt_bandwidth(&r->root), r->classes) &&
                (r->root.has[RDT_L3] || r->root.has[RDT_L3CODE]);
    r->measures = r->info.mon && find_domains(l, r);
    uint32_t len = r->measures ? sandbox_rdt_pool_len(r->info.rmids, l->slots_len) : 0;
    r->groups = mem_free(r->groups);
    r->groups = len > 0 ? mem_calloc(len, sizeof(*r->groups)) : NULL;
    r->pool = (struct rdt_pool){ .groups = r->groups, .len = r->groups != NULL ? len : 0 };
    memset(r->made, 0, sizeof(r->made));
    memset(r->there, 0, sizeof(r->there));
    memset(r->class_retry_ms, 0, sizeof(r->class_retry_ms));
    r->said = 0;
    r->life++;
    r->on = true;
    describe(r);
    return 0;
}

bool sandbox_resctrl_start(struct launcher *l)
{
    const char *path = l->settings->telemetry.resctrl_path;
    struct resctrl *r = mem_zalloc(sizeof(*r));
    if (r == NULL || l->cg.version == 0) {
        /* Without groups nobody can say which processes are a sandbox's. */
        log_info("cache use and memory bandwidth of runs are not measured: %s",
                 r == NULL ? "out of memory" : "there are no cgroups");
        mem_free(r);
        return false;
    }
    l->resctrl = r;
    (void)str_copy(r->prefix, sizeof(r->prefix), str_of(l->cg.group));
    (void)str_copy(r->path, sizeof(r->path), str_of(path + (path[0] == '/' ? 1 : 0)));
    int rc = begin(l, r);
    if (rc < 0) {
        log_info("no resctrl at '%s' (%s): cache use and memory bandwidth of runs are not measured",
                 path, err_name(rc));
        r->said |= SAID_ABSENT;
        r->look_ms = sys_mono_ms() + LOOK_AGAIN_MS;
    }
    return rc == 0;
}

/* ---- what an earlier life left ---- */

static void remove_at(struct launcher *l, const char *path)
{
    char line[SANDBOX_TEXT_MAX];
    if (unlinkat(l->host_root, path, AT_REMOVEDIR) < 0 && errno != ENOENT) {
        int rc = -errno;
        (void)answer_of(l, rc, line);
        if (say(l->resctrl, SAID_REMOVE)) {
            log_warn("resctrl: remove '/%s': %s %s", path, err_name(rc), line);
        }
    }
}

static bool has_tasks(struct launcher *l, const char *path)
{
    char text[64];
    ssize_t n = sys_read_text(l->host_root, path, text, sizeof(text));
    return n == -EFBIG || n > 0;
}

/* Live runs' groups were found before: all else is free, or goes. A group that is empty is worth
 * keeping: a new one would need an id that may be in limbo. */
static void sweep_groups_of(struct launcher *l, enum sandbox_cache_class class, const char *dir)
{
    struct resctrl *r = l->resctrl;
    char path[PATH_CAP];
    char name[PATH_CAP];
    DIR *d = list(l, at(r, path, "%smon_groups", dir));
    struct dirent *entry;
    uint32_t group;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        if (!sandbox_rdt_name_ours(r->prefix, entry->d_name, &group)) {
            continue;
        }
        bool used = group < r->pool.len && r->pool.groups[group].state == RDT_USED &&
                    r->pool.groups[group].class == class;
        at(r, name, "%smon_groups/%s/tasks", dir, entry->d_name);
        if (used || (!has_tasks(l, name) &&
                     sandbox_rdt_found(&r->pool, group, class, false, sys_mono_ms()))) {
            continue;
        }
        remove_at(l, at(r, name, "%smon_groups/%s", dir, entry->d_name));
    }
    if (d != NULL) {
        (void)closedir(d);
    }
}

/* Classes of ours that this life does not have, with all in them. */
static void sweep_classes(struct launcher *l)
{
    struct resctrl *r = l->resctrl;
    char path[PATH_CAP];
    char known[RDT_NAME_CAP];
    char dir[RDT_NAME_CAP + 1];
    DIR *d = list(l, at(r, path, "%s", "."));
    struct dirent *entry;
    uint32_t group;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        bool ours = sandbox_rdt_name_ours(r->prefix, entry->d_name, &group);
        bool keep = false;
        for (unsigned c = SANDBOX_CACHE_SENSITIVE; ours && c < SANDBOX_CACHE_CLASSES; c++) {
            sandbox_rdt_class_name(r->prefix, (enum sandbox_cache_class)c, known);
            if (r->parted && strcmp(known, entry->d_name) == 0) {
                keep = r->there[c] = true;
                sweep_groups_of(l, (enum sandbox_cache_class)c,
                                class_dir(r, (enum sandbox_cache_class)c, dir));
            }
        }
        if (ours && !keep) {
            remove_at(l, at(r, path, "%s", entry->d_name));
        }
    }
    if (d != NULL) {
        (void)closedir(d);
    }
}

static bool make_group(struct launcher *l, const struct rdt_step *step,
                       enum sandbox_cache_class class);

void sandbox_resctrl_sweep(struct launcher *l)
{
    struct resctrl *r = l->resctrl;
    if (r == NULL || !r->on) {
        return;
    }
    sweep_groups_of(l, SANDBOX_CACHE_DEFAULT, "");
    sweep_classes(l);
    /* Half of them now, when nobody waits; the classes take of the rest. */
    for (uint32_t i = 0; r->on && i < (r->pool.len + 1) / 2; i++) {
        const struct rdt_step step = { .act = RDT_MAKE, .group = i };
        if (r->pool.groups[i].state != RDT_ABSENT) {
            continue;
        }
        if (!make_group(l, &step, SANDBOX_CACHE_DEFAULT)) {
            break;
        }
        sandbox_rdt_over(&r->pool, i, sys_mono_ms());
    }
}

/* ---- classes and groups ---- */

static bool class_failed(struct launcher *l, enum sandbox_cache_class class, int rc,
                         const char *doing)
{
    struct resctrl *r = l->resctrl;
    char line[SANDBOX_TEXT_MAX];
    if (answer_of(l, rc, line) == RDT_GONE) {
        gone(r, rc);
        return false;
    }
    if (say(r, SAID_CLASS)) {
        log_warn("resctrl: %s of class '%s': %s %s; such runs are in the default class", doing,
                 sandbox_cache_class_name(class), err_name(rc), line);
    }
    r->class_retry_ms[class] = sys_mono_ms() + RDT_CLASS_RETRY_MS;
    return false;
}

/* The class with its ways: once, or again when somebody removed it. */
static bool make_class(struct launcher *l, enum sandbox_cache_class class)
{
    struct resctrl *r = l->resctrl;
    struct buf AUTO_BUF text = BUF_INIT(RDT_TEXT_MAX);
    char name[RDT_NAME_CAP];
    char path[PATH_CAP];
    if (!r->parted || sys_mono_ms() < r->class_retry_ms[class]) {
        return false;
    }
    if (r->made[class]) {
        return true;
    }
    sandbox_rdt_class_name(r->prefix, class, name);
    if (mkdirat(l->host_root, at(r, path, "%s", name), 0755) < 0 && errno != EEXIST) {
        return class_failed(l, class, -errno, "make the group");
    }
    sandbox_rdt_schemata_write(&r->root, &r->classes[class], &text);
    int rc = buf_error(&text);
    rc = rc == 0 ? sys_write_text(l->host_root, at(r, path, "%s/schemata", name), buf_cstr(&text))
                 : rc;
    if (rc < 0) {
        (void)class_failed(l, class, rc, "set the schemata");
        if (r->on) {
            remove_at(l, at(r, path, "%s", name));
        }
        return false;
    }
    r->made[class] = r->there[class] = true;
    return true;
}

static void group_failed(struct launcher *l, int rc)
{
    struct resctrl *r = l->resctrl;
    char line[SANDBOX_TEXT_MAX];
    switch (answer_of(l, rc, line)) {
    case RDT_GONE:
        gone(r, rc);
        break;
    case RDT_LATER:
        if (say(r, SAID_LATER)) {
            log_info("resctrl: no monitoring id just now (%s): some runs are not measured",
                     line[0] != '\0' ? line : err_name(rc));
        }
        break;
    case RDT_NO_MORE:
        if (say(r, SAID_FULL)) {
            log_warn("resctrl: no monitoring id is left (%s): some runs are not measured",
                     line[0] != '\0' ? line : err_name(rc));
        }
        break;
    case RDT_TASK:
    case RDT_CLASS:
    case RDT_BROKEN:
        if (say(r, SAID_MAKE)) {
            log_warn("resctrl: make a monitoring group: %s %s", err_name(rc), line);
        }
        break;
    }
}

static bool make_group(struct launcher *l, const struct rdt_step *step,
                       enum sandbox_cache_class class)
{
    struct resctrl *r = l->resctrl;
    char path[PATH_CAP];
    bool removed = false;
    int rc = 0;
    if (step->act == RDT_REPLACE) {
        group_path(r, step->was, step->group, "", path);
        removed = unlinkat(l->host_root, path, AT_REMOVEDIR) == 0 || errno == ENOENT;
        rc = removed ? 0 : -errno;
    }
    group_path(r, class, step->group, "", path);
    if (rc == 0 && mkdirat(l->host_root, path, 0755) < 0 && errno != EEXIST) {
        rc = -errno;
    }
    if (rc < 0) {
        r->made[class] = r->made[class] && rc != -ENOENT; /* removed by somebody */
        group_failed(l, rc);
    }
    if (r->on) {
        sandbox_rdt_made(&r->pool, step->group, class, rc, removed, sys_mono_ms());
    }
    return rc == 0;
}

/* A group for a run, now USED. UINT32_MAX: none. */
static uint32_t take_group(struct launcher *l, enum sandbox_cache_class class)
{
    struct resctrl *r = l->resctrl;
    struct rdt_step step = sandbox_rdt_want(&r->pool, class, sys_mono_ms());
    if (step.act == RDT_NONE) {
        if (say(r, SAID_FULL)) {
            log_info("resctrl: all monitoring groups are in use: some runs are not measured");
        }
        return UINT32_MAX;
    }
    return step.act == RDT_USE || make_group(l, &step, class) ? step.group : UINT32_MAX;
}

/* ---- a run ---- */

/* A domain that has no number now ("Unavailable", "Error") is left out for this run. */
static void open_files(struct launcher *l, enum sandbox_cache_class class, uint32_t group,
                       struct telemetry_fds *fds)
{
    struct resctrl *r = l->resctrl;
    const char *total = r->info.mon_mbm_total ? "mbm_total_bytes" : "mbm_local_bytes";
    char path[PATH_CAP];
    char file[64];
    for (uint32_t i = 0; i < 2 * r->domains; i++) {
        bool llc = i < r->domains;
        uint32_t d = llc ? i : i - r->domains;
        enum telemetry_file f =
            (enum telemetry_file)((llc ? TELEMETRY_RDT_LLC : TELEMETRY_RDT_MBM) + (int)d);
        struct telemetry_reading seen = { 0 };
        char text[64];
        (void)snprintf(file, sizeof(file), "/mon_data/mon_L3_%02u/%s", r->domain[d],
                       llc ? "llc_occupancy" : total);
        group_path(r, class, group, file, path);
        AUTO_FD int fd = openat(l->host_root, path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text), 0);
        if (n > 0 && telemetry_parse(f, (struct str){ text, (size_t)n }, &seen) == 0) {
            fds->fd[f] = fd_take(&fd);
        }
    }
}

static void close_files(struct telemetry_fds *fds)
{
    for (size_t i = TELEMETRY_RDT_LLC; i <= TELEMETRY_RDT_MBM_LAST; i++) {
        fds->fd[i] = fd_close(fds->fd[i]);
    }
}

/* What the group's counters say before the run. */
static void base_here(struct slot *s)
{
    struct telemetry_reading now = { 0 };
    struct telemetry_fds only = s->fds;
    for (size_t i = 0; i < TELEMETRY_RDT_LLC; i++) {
        only.fd[i] = -1;
    }
    (void)telemetry_read(&only, TELEMETRY_CHEAP, &now);
    s->file.base.has |= now.has;
    s->file.base.llc_bytes = now.llc_bytes;
    s->file.base.mbm_bytes = now.mbm_bytes;
}

/* One write per task: older kernels take no list. */
static int move_tasks(struct launcher *l, const char *path, const pid_t *pids, size_t n)
{
    char text[24];
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        (void)snprintf(text, sizeof(text), "%lld\n", (long long)pids[i]);
        rc = sys_write_text(l->host_root, path, text);
    }
    return rc;
}

static void move_failed(struct launcher *l, int rc)
{
    struct resctrl *r = l->resctrl;
    char line[SANDBOX_TEXT_MAX];
    if (answer_of(l, rc, line) == RDT_GONE) {
        gone(r, rc);
    } else if (rc != -ESRCH && say(r, SAID_TASK)) { /* ESRCH: it died, which is told elsewhere */
        log_warn("resctrl: move a run's processes: %s %s", err_name(rc), line);
    }
}

/* Into the class: the tasks file of its group. */
static bool enter_class(struct slot *s, const pid_t *pids, size_t n)
{
    struct launcher *l = s->l;
    struct resctrl *r = l->resctrl;
    char path[PATH_CAP];
    char dir[RDT_NAME_CAP + 1];
    enum sandbox_cache_class class = s->file.cache;
    if (class == SANDBOX_CACHE_DEFAULT) {
        return true;
    }
    for (int i = 0; i < 2 && r->on && make_class(l, class); i++) {
        at(r, path, "%stasks", class_dir(r, class, dir));
        int rc = move_tasks(l, path, pids, n);
        if (rc == 0) {
            return true;
        }
        if (rc == -ENOENT) {
            r->made[class] = false; /* removed by somebody: made once more */
        }
        move_failed(l, rc);
    }
    return false;
}

static void enter_group(struct slot *s, const pid_t *pids, size_t n)
{
    struct launcher *l = s->l;
    struct resctrl *r = l->resctrl;
    char path[PATH_CAP];
    for (int i = 0; i < TRIES && r->on; i++) {
        uint32_t group = take_group(l, s->file.cache);
        if (group == UINT32_MAX) {
            return;
        }
        int rc = move_tasks(l, group_path(r, s->file.cache, group, "/tasks", path), pids, n);
        if (rc == 0) {
            s->file.rdt_group = group + 1;
            s->rdt_life = r->life;
            open_files(l, s->file.cache, group, &s->fds);
            base_here(s);
            return;
        }
        move_failed(l, rc);
        if (r->on) {
            sandbox_rdt_over(&r->pool, group, sys_mono_ms());
            if (rc != -ENOENT) {
                return;
            }
            r->pool.groups[group].state = RDT_ABSENT; /* removed by somebody: another one */
        }
    }
}

bool sandbox_resctrl_on(struct launcher *l)
{
    struct resctrl *r = l->resctrl;
    if (r != NULL && !r->on && sys_mono_ms() >= r->look_ms) {
        r->look_ms = sys_mono_ms() + LOOK_AGAIN_MS;
        if (begin(l, r) == 0) {
            sandbox_resctrl_sweep(l);
        }
    }
    return r != NULL && r->on;
}

void sandbox_resctrl_enter(struct slot *s)
{
    struct launcher *l = s->l;
    struct resctrl *r = l->resctrl;
    pid_t pids[TASKS_MAX];
    if (r == NULL || !r->on || !s->cloned || s->file.rdt_group != 0) {
        s->file.cache = SANDBOX_CACHE_DEFAULT;
        return;
    }
    size_t n = sandbox_cgroup_list(&l->cg, &s->dirs, s->spawner_pid, pids, TASKS_MAX);
    if (!enter_class(s, pids, n)) {
        s->file.cache = SANDBOX_CACHE_DEFAULT;
    }
    if (n > 0 && r->on && r->measures) {
        enter_group(s, pids, n);
    }
}

void sandbox_resctrl_open(struct launcher *l, const struct sandbox_state *state,
                          struct telemetry_fds *fds)
{
    if (l->resctrl != NULL && l->resctrl->on && state->rdt_group != 0) {
        open_files(l, state->cache, state->rdt_group - 1, fds);
    }
}

void sandbox_resctrl_adopt(struct slot *s)
{
    struct resctrl *r = s->l->resctrl;
    if (s->file.rdt_group == 0) {
        return;
    }
    if (r == NULL || !r->on ||
        !sandbox_rdt_found(&r->pool, s->file.rdt_group - 1, s->file.cache, true, sys_mono_ms())) {
        s->file.rdt_group = 0;
        return;
    }
    s->rdt_life = r->life;
    sandbox_resctrl_open(s->l, &s->file, &s->fds);
}

void sandbox_resctrl_over(struct slot *s)
{
    struct resctrl *r = s->l->resctrl;
    if (r != NULL && r->on && s->file.rdt_group != 0 && s->rdt_life == r->life) {
        sandbox_rdt_over(&r->pool, s->file.rdt_group - 1, sys_mono_ms());
    }
    close_files(&s->fds);
    s->file.rdt_group = 0;
    s->file.cache = SANDBOX_CACHE_DEFAULT;
}

uint32_t sandbox_resctrl_free(struct launcher *l)
{
    const struct resctrl *r = l->resctrl;
    return r == NULL || !r->on || !r->measures ? 0 : 1 + sandbox_rdt_free(&r->pool);
}

/* ---- the end ---- */

void sandbox_resctrl_end(struct launcher *l)
{
    struct resctrl *r = l->resctrl;
    char path[PATH_CAP];
    char name[RDT_NAME_CAP];
    bool lives[SANDBOX_CACHE_CLASSES] = { true };
    if (r == NULL) {
        return;
    }
    for (uint32_t i = 0; r->on && i < r->pool.len; i++) {
        const struct rdt_group *g = &r->pool.groups[i];
        if (g->state == RDT_FREE) {
            remove_at(l, group_path(r, g->class, i, "", path));
        }
        lives[g->class] = lives[g->class] || g->state == RDT_USED;
    }
    for (uint32_t i = 0; i < l->slots_len; i++) {
        lives[l->slots[i].file.cache] |= l->slots[i].run_dir >= 0;
    }
    for (unsigned c = SANDBOX_CACHE_SENSITIVE; r->on && c < SANDBOX_CACHE_CLASSES; c++) {
        if (r->there[c] && !lives[c]) {
            sandbox_rdt_class_name(r->prefix, (enum sandbox_cache_class)c, name);
            remove_at(l, at(r, path, "%s", name));
        }
    }
    mem_free(r->groups);
    l->resctrl = mem_free(r);
}
