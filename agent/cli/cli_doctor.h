/*
 * cli_doctor - the rows of `agent doctor`: what is looked at, what was found, what is lost without
 * it and how to get it. Pure.
 */
#ifndef AGENT_CLI_CLI_DOCTOR_H
#define AGENT_CLI_CLI_DOCTOR_H

#include "agent/cli/cli_internal.h"

enum cli_check {
    CLI_CHECK_ROOT,
    CLI_CHECK_SETTINGS,
    CLI_CHECK_KERNEL,
    CLI_CHECK_USERNS,
    CLI_CHECK_NAMESPACES,
    CLI_CHECK_IDMAP,
    CLI_CHECK_OVERLAY,
    CLI_CHECK_TMPFS,
    CLI_CHECK_SECCOMP,
    CLI_CHECK_PIDFD,
    CLI_CHECK_OPENAT2,
    CLI_CHECK_VETH,
    CLI_CHECK_NFT,
    CLI_CHECK_FORWARD,
    CLI_CHECK_CGROUP,
    CLI_CHECK_CGROUP_MEMORY,
    CLI_CHECK_CGROUP_CPU,
    CLI_CHECK_CGROUP_PIDS,
    CLI_CHECK_CGROUP_IO,
    CLI_CHECK_CPU,
    CLI_CHECK_RESCTRL,
    CLI_CHECK_CLOCK,
    CLI_CHECK_DISK,
    CLI_CHECK_SYNC,
    CLI_CHECK_MEMORY,
    CLI_CHECK_FILES,
    CLI_CHECK_USER,
    CLI_CHECK_IDS,
    CLI_CHECK_DATA_DIR,
    CLI_CHECK_PORT,
    CLI_CHECK_TLS,
    CLI_CHECKS, /* how many */
};

enum cli_verdict { CLI_SKIPPED, CLI_OK, CLI_WARN, CLI_BAD };

struct cli_finding {
    enum cli_verdict verdict;
    char found[256];
};

struct cli_doctor {
    struct cli_finding rows[CLI_CHECKS];
};

/* Notes what was found for a row; the text is cut. */
void cli_doctor_note(struct cli_doctor *d, enum cli_check check, enum cli_verdict verdict,
                     const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* As a table (with what is lost and how to get it under each row that is not ok) or JSON. */
void cli_doctor_view(const struct cli_doctor *d, struct cli_view *v);
/* CLI_EXIT_OK, or CLI_EXIT_FAILED when a row is bad. */
int cli_doctor_exit(const struct cli_doctor *d);

/* ---- judgements of texts of the kernel ---- */

/* "6.1.0-25-amd64": at least 6.1? False also when it cannot be read. */
bool cli_doctor_kernel_ok(struct str release);
/* The name of a file system by statfs()'s number; NULL for one without a name here. */
const char *cli_doctor_fs_name(unsigned long magic);
/* Does a range of /etc/subuid meet [base, base + len)? ret_owner (cap 64) gets whose. */
bool cli_doctor_subid_meets(struct str text, uint64_t base, uint64_t len, char *ret_owner);

#endif
