/*
 * Workers: one process for each tree to remove and each layer to unpack, so that the launcher never
 * waits. A few at a time, in the order asked; two requests for one layer are joined.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/sandbox/sys_launcher.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/map.h"
#include "common/mem.h"

static const char removing[] = "rm-";

static void worker_tell(struct launcher *l, const struct worker *w, const struct worker_answer *a)
{
    struct sandbox_msg m = { .rc = a->rc };
    if (w->kind == WORKER_REMOVE_RUN) {
        m.type = SANDBOX_MSG_RUN_REMOVED;
        m.run = w->run;
        m.attempt = w->attempt;
    } else {
        m.type = w->kind == WORKER_UNPACK ? SANDBOX_MSG_UNPACKED : SANDBOX_MSG_LAYER_REMOVED;
        m.digest = w->layer;
    }
    if (w->kind == WORKER_UNPACK) {
        m.number[0] = a->bytes;
        m.number[1] = a->entries;
    }
    snprintf(m.text, sizeof(m.text), "%s", a->text);
    AUTO_FD int index = -1;
    if (w->kind == WORKER_UNPACK && a->rc == 0) {
        char name[SANDBOX_INDEX_NAME_CAP];
        sandbox_index_name(&w->layer, name);
        index = openat(l->layers, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    }
    sandbox_agent_send(l, &m, &index, index >= 0 ? 1 : 0);
}

static void worker_free(struct worker *w)
{
    sandbox_launcher_unwatch(w->l, &w->watch);
    fd_close(w->blob);
    fd_close(w->report);
    list_remove(&w->link);
    w->l->workers_len--;
    mem_free(w);
}

/* Moved out of its name first: from then on it is gone for everyone, and a removal that is cut off
 * is finished by the next start's sweep. */
static int remove_moved(int dir, const char *name, struct err *e)
{
    char moved[SANDBOX_DIR_CAP + DIGEST_TEXT_CAP];
    snprintf(moved, sizeof(moved), "%s%s", removing, name);
    if (renameat(dir, name, dir, moved) < 0) {
        return errno == ENOENT ? 0 : err_set(e, -errno, "remove '%s'", name);
    }
    return sys_remove_tree(dir, moved, e);
}

static void worker_child(struct worker *w, int report)
{
    struct worker_answer a = { .rc = 0 };
    struct err e = { 0 };
    char name[DIGEST_TEXT_CAP + SANDBOX_DIR_CAP];
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (w->kind == WORKER_UNPACK) {
        sandbox_unpack_layer(w->l, &w->layer, w->blob, &a);
    } else if (w->kind == WORKER_REMOVE_RUN) {
        sandbox_dir_name(w->run, w->attempt, name);
        a.rc = remove_moved(w->l->runs, name, &e);
    } else {
        char index[SANDBOX_INDEX_NAME_CAP];
        sandbox_index_name(&w->layer, index);
        (void)unlinkat(w->l->layers, index, 0);
        a.rc = remove_moved(w->l->layers, digest_hex(&w->layer, name), &e);
    }
    if (e.code != 0) {
        sandbox_text(a.text, e.text);
    }
    (void)sys_write_full(report, &a, sizeof(a));
    _exit(0);
}

static int worker_start(struct worker *w)
{
    int report[2];
    int rc = fd_pipe(report);
    if (rc < 0) {
        return rc;
    }
    pid_t pid = fork();
    if (pid == 0) {
        worker_child(w, report[1]);
    }
    fd_close(report[1]);
    w->report = report[0];
    w->pid = pid;
    int pidfd = pid < 0 ? -errno : sys_pidfd_open(pid);
    rc = pidfd < 0 ? pidfd
                   : sandbox_launcher_watch(w->l, &w->watch, WATCH_WORKER, pidfd, w, EPOLLIN);
    if (rc == 0) {
        w->l->workers_running++;
    }
    return rc;
}

/* May it begin? A layer in a live sandbox may not go; nor may a run that lives. */
static int worker_allowed(struct worker *w)
{
    struct launcher *l = w->l;
    if (w->kind == WORKER_REMOVE_RUN) {
        return sandbox_slot_find(l, w->run, w->attempt) != NULL ? -EBUSY : 0;
    }
    if (w->kind == WORKER_UNPACK) {
        return 0;
    }
    for (uint32_t i = 0; i < l->slots_len; i++) {
        if (sandbox_slot_uses_layer(&l->slots[i], &w->layer)) {
            return -EBUSY;
        }
    }
    sandbox_pool_forget_layer(l, &w->layer);
    for (uint32_t i = 0; i < l->slots_len; i++) {
        sandbox_slot_forget_layer(&l->slots[i], &w->layer);
    }
    return 0;
}

/* Another worker is at the same layer. */
static bool worker_must_wait(const struct worker *w)
{
    LIST_EACH (pos, &w->l->workers) {
        const struct worker *o = LIST_ITEM(pos, struct worker, link);
        if (o == w) {
            return false;
        }
        if (o->kind != WORKER_REMOVE_RUN && w->kind != WORKER_REMOVE_RUN &&
            digest_eq(&o->layer, &w->layer)) {
            return true;
        }
    }
    return false;
}

static void workers_next(struct launcher *l)
{
    LIST_EACH_SAFE (pos, &l->workers) {
        struct worker *w = LIST_ITEM(pos, struct worker, link);
        if (l->workers_running >= WORKERS_MAX) {
            return;
        }
        if (w->watch.fd >= 0 || worker_must_wait(w)) {
            continue;
        }
        struct worker_answer a = { .rc = worker_allowed(w) };
        if (a.rc == 0) {
            a.rc = worker_start(w);
        }
        if (a.rc < 0) {
            struct err e;
            err_set(&e, a.rc, a.rc == -EBUSY ? "a live sandbox uses it" : "start a worker");
            sandbox_text(a.text, e.text);
            worker_tell(l, w, &a);
            worker_free(w);
        }
    }
}

/* A run's directory with the few small files that most have goes at once, or is used again: a
 * process for it would cost more. False: it is left to a worker. */
static bool remove_small_run(struct launcher *l, const struct removal *r)
{
    enum { SMALL = 1 << 20 };
    static const char *const names[] = { "stdout", "stderr", "stderr.tail", "index",
                                         "exit",   "usage",  "sandbox" };
    struct worker done = {
        .l = l, .kind = WORKER_REMOVE_RUN, .run = r->run, .attempt = r->attempt
    };
    const struct worker_answer a = { .rc = 0 };
    char name[SANDBOX_DIR_CAP];
    struct stat st;
    if (sandbox_slot_find(l, r->run, r->attempt) != NULL) {
        return false;
    }
    sandbox_dir_name(r->run, r->attempt, name);
    AUTO_FD int dir = openat(l->runs, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    for (size_t i = 0; i < 2; i++) {
        if (dir < 0 ||
            (fstatat(dir, names[i], &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size > SMALL)) {
            return false;
        }
    }
    if (!sandbox_rundir_recycle(l, name, dir)) {
        for (size_t i = 0; i < ARRAY_LEN(names); i++) {
            (void)unlinkat(dir, names[i], 0);
        }
        if (unlinkat(l->runs, name, AT_REMOVEDIR) < 0) {
            return false; /* there is more in it, a payload's layer perhaps */
        }
    }
    worker_tell(l, &done, &a);
    return true;
}

static void worker_add(struct launcher *l, const struct worker *wanted)
{
    struct worker *w = l->workers_len < JOBS_MAX ? mem_zalloc(sizeof(*w)) : NULL;
    if (w == NULL) {
        struct worker_answer a = { .rc = -EAGAIN, .text = "too many requests wait" };
        worker_tell(l, wanted, &a);
        fd_close(wanted->blob);
        return;
    }
    *w = *wanted;
    list_push_back(&l->workers, &w->link);
    l->workers_len++;
    workers_next(l);
}

static void remove_run(struct launcher *l, const struct removal *r)
{
    if (!remove_small_run(l, r)) {
        const struct worker w = { .l = l,
                                  .kind = WORKER_REMOVE_RUN,
                                  .run = r->run,
                                  .attempt = r->attempt,
                                  .blob = -1,
                                  .report = -1,
                                  .watch = { .fd = -1 } };
        worker_add(l, &w);
    }
}

bool sandbox_worker_chore(struct launcher *l)
{
    if (l->removals_len == 0) {
        return false;
    }
    const struct removal r = l->removals[--l->removals_len];
    remove_run(l, &r);
    return true;
}

void sandbox_worker_add(struct launcher *l, const struct sandbox_msg *m, int blob)
{
    const struct removal r = { .run = m->run, .attempt = m->attempt };
    if (m->type == SANDBOX_MSG_REMOVE_RUN && l->removals_len < REMOVALS_MAX) {
        l->removals[l->removals_len++] = r;
        l->chores = true;
    } else if (m->type == SANDBOX_MSG_REMOVE_RUN) {
        remove_run(l, &r);
    } else {
        const struct worker w = { .l = l,
                                  .kind = m->type == SANDBOX_MSG_UNPACK ? WORKER_UNPACK
                                                                        : WORKER_REMOVE_LAYER,
                                  .layer = m->digest,
                                  .blob = blob,
                                  .report = -1,
                                  .watch = { .fd = -1 } };
        worker_add(l, &w);
    }
}

/* The directory's name is the digest's hex: its length tells the algorithm. */
static bool layer_of_name(struct str name, struct digest *ret)
{
    char text[DIGEST_TEXT_CAP];
    if (name.n != 64 && name.n != 128) {
        return false;
    }
    snprintf(text, sizeof(text), "%s:%.*s", name.n == 64 ? "sha256" : "sha512", STR_ARG(name));
    return digest_parse(str_of(text), ret, NULL) == 0;
}

static int keep_list(int fd, struct buf *text, struct map *keep)
{
    char *p = buf_reserve(text, SANDBOX_KEEP_MAX);
    ssize_t n = p == NULL ? -ENOMEM : sys_pread_full(fd, p, SANDBOX_KEEP_MAX, 0);
    if (n < 0) {
        return (int)n;
    }
    buf_grow(text, (size_t)n);
    struct str rest = buf_str(text);
    struct str line;
    while (str_split(&rest, '\n', &line)) {
        int rc = line.n == 0 ? 0 : map_add(keep, line, text);
        if (rc < 0 && rc != -EEXIST) {
            return rc;
        }
    }
    return 0;
}

void sandbox_worker_keep_layers(struct launcher *l, int list_fd)
{
    enum { LAYERS_KNOWN_MAX = 65536 };
    AUTO_BUF struct buf text = BUF_INIT(SANDBOX_KEEP_MAX);
    struct map keep;
    char id[DIGEST_TEXT_CAP];
    struct sandbox_msg m = { .type = SANDBOX_MSG_REMOVE_LAYER };
    map_init(&keep, LAYERS_KNOWN_MAX, sys_random_u64(), sys_random_u64());
    int rc = keep_list(list_fd, &text, &keep);
    int fd = rc == 0 ? openat(l->layers, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *entry;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        if (layer_of_name(str_of(entry->d_name), &m.digest) &&
            map_get(&keep, str_of(digest_format(&m.digest, id))) == NULL) {
            sandbox_worker_add(l, &m, -1);
        }
    }
    if (d != NULL) {
        (void)closedir(d);
    }
    map_release(&keep);
}

void sandbox_worker_on_exit(struct worker *w)
{
    struct launcher *l = w->l;
    struct worker_answer a;
    ssize_t n = sys_read_full(w->report, &a, sizeof(a));
    if (n != (ssize_t)sizeof(a)) {
        a = (struct worker_answer){ .rc = -EIO, .text = "the worker was killed" };
    }
    a.text[sizeof(a.text) - 1] = '\0';
    a.rc = a.rc > 0 || a.rc < -4095 ? -EIO : a.rc;
    (void)waitpid(w->pid, NULL, 0); /* it has ended: this does not wait */
    l->workers_running--;
    worker_tell(l, w, &a);
    worker_free(w);
    workers_next(l);
}

/* The sweep may outlive its launcher: the next one must be able to listen. */
static void let_go(struct launcher *l)
{
    for (size_t i = 0; i < l->config->listen_fds_len; i++) {
        fd_close(l->config->listen_fds[i]);
    }
}

/* What an earlier launcher's workers left half-done. In a process of its own, like them. */
void sandbox_workers_sweep(struct launcher *l)
{
    const int dirs[] = { l->layers, l->runs };
    char own[32];
    snprintf(own, sizeof(own), "%s%d-", SANDBOX_SPARE, (int)getpid());
    pid_t pid = fork();
    if (pid < 0) {
        return;
    }
    if (pid > 0) {
        (void)waitpid(pid, NULL, 0); /* it only forks: the sweep is nobody's to wait for */
        return;
    }
    if (fork() != 0) {
        _exit(0);
    }
    let_go(l);
    for (size_t i = 0; i < 2; i++) {
        int fd = openat(dirs[i], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
        struct dirent *entry;
        while (d != NULL && (entry = readdir(d)) != NULL) {
            struct str name = str_of(entry->d_name);
            if (str_starts(name, removing) ||
                (str_starts(name, SANDBOX_SPARE) && !str_starts(name, own))) {
                (void)sys_remove_tree(dirs[i], entry->d_name, NULL);
            }
        }
    }
    _exit(0);
}
