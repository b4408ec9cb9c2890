/* A slot's cgroups around a run: limits before it, the reading that it counts from, what goes after
 * it. */
#include "agent/sandbox/sys_launcher.h"

static bool limits_same(const struct sandbox_limits *a, const struct sandbox_limits *b)
{
    return a->memory_bytes == b->memory_bytes && a->cpus_milli == b->cpus_milli &&
           a->pids == b->pids && a->cpu_weight == b->cpu_weight;
}

static int fresh_leaf(struct slot *s, struct err *e)
{
    struct telemetry_dirs dirs;
    int rc = sandbox_cgroup_open(&s->l->cg, s->box.slot, &s->dirs, e);
    if (rc == 0) {
        sandbox_cgroup_telemetry(&s->dirs, &dirs);
        (void)telemetry_open(&dirs, &s->fds, NULL);
    }
    s->limited = false;
    s->based = false;
    return rc;
}

int sandbox_groups_limit(struct slot *s, const struct sandbox_limits *limits, struct err *e)
{
    const struct cgroups *cg = &s->l->cg;
    int rc = cg->version == 2 && s->dirs.fd[CG_V2] < 0 ? fresh_leaf(s, e) : 0;
    if (rc == 0 && cg->version != 0 && !(s->limited && limits_same(limits, &s->applied))) {
        uint64_t weight = limits->cpu_weight != 0 ? limits->cpu_weight : CGROUP_WEIGHT;
        rc = sandbox_cgroup_limit(cg, &s->dirs, limits, e);
        /* A new group has the usual one. */
        if (weight != CGROUP_WEIGHT || s->limited || cg->version == 1) {
            sandbox_cgroup_weight(cg, &s->dirs, weight);
        }
        s->applied = *limits;
        s->limited = rc == 0;
    }
    return rc;
}

void sandbox_groups_base(struct slot *s)
{
    s->based = true;
    s->file.base = (struct telemetry_reading){ 0 };
    s->file.peak_was_reset = false;
    if (s->l->cg.version != 0) {
        int rc = telemetry_peak_reset(&s->fds);
        s->file.peak_was_reset = s->l->cg.version == 2 || rc == 0;
        (void)telemetry_read(&s->fds, TELEMETRY_ALL, &s->file.base);
    }
}

void sandbox_groups_done(struct slot *s)
{
    if (s->l->cg.version == 2) {
        telemetry_fds_close(&s->fds);
        sandbox_cgroup_close(&s->dirs);
        (void)sandbox_cgroup_remove(&s->l->cg, s->box.slot);
    }
}
