/* Resource limits. Raising a hard limit may be refused even to root: never an error. */
#include <errno.h>
#include <sys/resource.h>

#include "agent/sandbox/sys_sandbox.h"

/* The wanted value, or what the hard limit allows. */
static void rlimit_set(__rlimit_resource_t which, uint64_t want)
{
    struct rlimit now;
    struct rlimit next = { .rlim_cur = (rlim_t)want, .rlim_max = (rlim_t)want };
    if (getrlimit(which, &now) < 0 || setrlimit(which, &next) == 0) {
        return;
    }
    if (next.rlim_max > now.rlim_max) {
        next.rlim_cur = now.rlim_max;
        next.rlim_max = now.rlim_max;
        (void)setrlimit(which, &next);
    }
}

void sandbox_rlimits_apply(const struct sandbox_limits *l, bool limit_nproc)
{
    rlimit_set(RLIMIT_NOFILE, l->nofile);
    rlimit_set(RLIMIT_CORE, l->core_bytes);
    rlimit_set(RLIMIT_MSGQUEUE, 819200);
    rlimit_set(RLIMIT_MEMLOCK, 8u << 20);
    rlimit_set(RLIMIT_SIGPENDING, 16384);
    if (limit_nproc) {
        /* Counted per id, and ids are the slot's own. */
        rlimit_set(RLIMIT_NPROC, l->pids);
    }
}

void sandbox_rlimit_raise_nofile(void)
{
    struct rlimit now;
    if (getrlimit(RLIMIT_NOFILE, &now) == 0) {
        rlimit_set(RLIMIT_NOFILE, now.rlim_max > 1048576 ? now.rlim_max : 1048576);
        if (getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur < now.rlim_max) {
            now.rlim_cur = now.rlim_max;
            (void)setrlimit(RLIMIT_NOFILE, &now);
        }
    }
}
