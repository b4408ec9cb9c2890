/*
 * Taking runs up again. A run's directory says everything: `sandbox` who it is, `exit` how it
 * ended. A live one is watched by pidfd for its death (it is no child of ours: waitid would say
 * ECHILD) and then read from its record, like any other.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "agent/sandbox/sys_launcher.h"
#include "agent/sandbox/sys_nat.h"
#include "common/log.h"

/* The record as init wrote it, or what can be said without one; the kernel's OOM counter has the
 * last word on a SIGKILL that nobody here sent. */
static bool complete(struct sandbox_result *r, int rc, const struct sandbox_usage *usage,
                     const struct sandbox_state *state)
{
    uint64_t base = usage->base.oom_kills;
    bool oom = (usage->end.has & TELEMETRY_HAS_OOM) != 0 && usage->end.oom_kills > base;
    bool changed = false;
    if (rc < 0) {
        *r = (struct sandbox_result){ .reason = SANDBOX_LOST,
                                      .exit_code = 137,
                                      .signal = 9,
                                      .started_wall_us = state->started_wall_us,
                                      .ended_wall_us = sys_wall_us(),
                                      .setup_us = state->setup_us };
        snprintf(r->text, sizeof(r->text), "the sandbox's init ended without a record");
        changed = true;
    }
    bool killed = r->reason == SANDBOX_LOST || (r->reason == SANDBOX_SIGNAL && r->signal == 9) ||
                  r->reason == SANDBOX_OOM || (r->reason == SANDBOX_EXIT && r->exit_code == 137);
    if (oom && killed && r->reason != SANDBOX_OOM) {
        r->reason = SANDBOX_OOM;
        changed = true;
    }
    if (r->reason == SANDBOX_OOM && (changed || r->text[0] == '\0')) {
        r->exit_code = 137;
        r->signal = 9;
        snprintf(r->text, sizeof(r->text), "used more memory than its limit");
        changed = true;
    }
    return changed;
}

static void tell_ended(struct launcher *l, struct ulid run, uint32_t attempt,
                       const struct sandbox_result *r, const struct sandbox_usage *usage,
                       bool adopted)
{
    struct sandbox_msg m = { .type = SANDBOX_MSG_ENDED,
                             .run = run,
                             .attempt = attempt,
                             .value = adopted ? 1 : 0,
                             .base = usage->base,
                             .end = usage->end };
    m.number[SANDBOX_N_PEAK_RESET] = usage->peak_was_reset ? 1 : 0;
    m.number[SANDBOX_N_RDT] = sandbox_resctrl_free(l);
    sandbox_record_encode(r, m.record);
    sandbox_agent_send(l, &m, NULL, 0);
}

void sandbox_adopt_end(struct launcher *l, int run_dir, struct ulid run, uint32_t attempt,
                       const struct sandbox_usage *usage, bool adopted)
{
    struct sandbox_result r;
    struct sandbox_state state = { .pid = 0 };
    struct sandbox_usage kept = *usage;
    (void)sandbox_rundir_state_read(run_dir, &state);
    int rc = sandbox_rundir_record_read(run_dir, &r);
    /* What was written at the end stands; an end that nobody read is read now. */
    if (sandbox_rundir_usage_read(run_dir, &kept) < 0) {
        kept = *usage;
        (void)sandbox_rundir_usage_write(run_dir, &kept);
    }
    if (complete(&r, rc, &kept, &state)) {
        (void)sandbox_rundir_record_write(run_dir, &r);
    }
    tell_ended(l, run, attempt, &r, &kept, adopted);
}

/* ---- at start ---- */

/* Of a run that may live: takes its slot. False: it does not live. */
static bool adopt_live(struct launcher *l, int dir, const struct sandbox_state *state,
                       struct ulid run, uint32_t attempt)
{
    if (state->pid == 0 || strcmp(state->boot_id, l->boot_id) != 0 || state->slot >= l->slots_len ||
        l->slots[state->slot].state != SLOT_EMPTY) {
        return false;
    }
    int pidfd = sys_pidfd_open_started((pid_t)state->pid, state->start_ticks);
    if (pidfd < 0) {
        return false;
    }
    struct slot *s = &l->slots[state->slot];
    struct telemetry_dirs dirs;
    s->run_dir = fd_dup(dir, 3);
    s->run = run;
    s->attempt = attempt;
    s->file = *state;
    sandbox_cgroup_open_existing(&l->cg, state->slot, &s->dirs);
    sandbox_cgroup_telemetry(&s->dirs, &dirs);
    (void)telemetry_open(&dirs, &s->fds, NULL);
    sandbox_resctrl_adopt(s);
    if (state->nat) {
        sandbox_nat_adopt(s);
    }
    s->state = SLOT_ADOPTED;
    if (sandbox_launcher_watch(l, &s->init, WATCH_SLOT_INIT, pidfd, s, EPOLLIN) < 0) {
        log_error("slot %u: cannot watch its sandbox", s->box.slot);
    }
    return true;
}

/* An ended run whose totals nobody read: its groups still have them. */
static void adopt_totals(struct launcher *l, int dir, const struct sandbox_state *state)
{
    struct sandbox_usage usage = { .base = state->base, .peak_was_reset = state->peak_was_reset };
    struct cgroup_dirs groups;
    struct telemetry_dirs dirs;
    struct telemetry_fds fds;
    if (strcmp(state->boot_id, l->boot_id) != 0 || state->slot >= SANDBOX_SLOTS_MAX) {
        return;
    }
    telemetry_fds_init(&fds);
    sandbox_cgroup_open_existing(&l->cg, state->slot, &groups);
    sandbox_cgroup_telemetry(&groups, &dirs);
    bool any = telemetry_open(&dirs, &fds, NULL) == 0;
    sandbox_resctrl_open(l, state, &fds);
    if (any && telemetry_read(&fds, TELEMETRY_ALL, &usage.end) == 0) {
        (void)sandbox_rundir_usage_write(dir, &usage);
    }
    telemetry_fds_close(&fds);
    sandbox_cgroup_close(&groups);
}

static void adopt_one(struct launcher *l, const char *name)
{
    struct ulid run;
    uint32_t attempt;
    struct sandbox_state state;
    struct sandbox_usage usage;
    AUTO_FD int dir = openat(l->runs, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (dir < 0 || sandbox_dir_parse(str_of(name), &run, &attempt) < 0 ||
        sandbox_rundir_state_read(dir, &state) < 0) {
        return;
    }
    if (adopt_live(l, dir, &state, run, attempt)) {
        log_info("run '%s' lives on in slot %u", name, state.slot);
    } else if (sandbox_rundir_usage_read(dir, &usage) < 0) {
        adopt_totals(l, dir, &state);
    }
}

/* Sandboxes that no directory tells of (a launcher that died between clone and its note), and what
 * is left in the groups of the dead. */
static void sweep_groups(struct launcher *l)
{
    for (uint32_t i = 0; i < l->slots_len; i++) {
        struct slot *s = &l->slots[i];
        struct cgroup_dirs groups;
        if (s->state == SLOT_ADOPTED) {
            continue;
        }
        sandbox_cgroup_open_existing(&l->cg, i, &groups);
        unsigned n = sandbox_cgroup_kill(&l->cg, &groups, 0);
        if (n > 0) {
            log_warn("slot %u: ended %u processes that an earlier launcher left", i, n);
        }
        sandbox_cgroup_close(&groups);
    }
    sandbox_cgroup_sweep(&l->cg, l->slots_len);
}

void sandbox_adopt_at_start(struct launcher *l)
{
    int fd = openat(l->runs, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *entry;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        adopt_one(l, entry->d_name);
    }
    if (d != NULL) {
        (void)closedir(d);
    }
    sweep_groups(l);
}

/* ---- for the agent ---- */

static void tell_one(struct launcher *l, const char *name)
{
    struct ulid run;
    uint32_t attempt;
    struct sandbox_usage usage = { .peak_was_reset = false };
    AUTO_FD int dir = openat(l->runs, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (dir < 0 || sandbox_dir_parse(str_of(name), &run, &attempt) < 0) {
        return;
    }
    struct slot *s = sandbox_slot_find(l, run, attempt);
    if (s == NULL) {
        sandbox_adopt_end(l, dir, run, attempt, &usage, true);
    } else if (s->state != SLOT_SETUP) {
        sandbox_slot_tell_started(s, true);
    }
}

void sandbox_adopt_continue(struct launcher *l)
{
    struct dirent *entry;
    while (l->adopt_stream != NULL && sandbox_agent_send_room(l)) {
        entry = readdir(l->adopt_stream);
        if (entry != NULL) {
            tell_one(l, entry->d_name);
            continue;
        }
        struct sandbox_msg m = { .type = SANDBOX_MSG_ADOPTED };
        (void)closedir(l->adopt_stream);
        l->adopt_stream = NULL;
        sandbox_agent_send(l, &m, NULL, 0);
    }
}
